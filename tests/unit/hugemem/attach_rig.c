/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/hugemem/attach_rig.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hugemem/kernel_compat.h"

#define DIRECTORIES_MAX 64

static char directories[DIRECTORIES_MAX][sizeof(((struct attach_rig *)0)->directory)];
static unsigned directory_count;

// A test that fails does not come to its rig_stop().
static void remove_directories(void)
{
	for (unsigned i = 0; i < directory_count; i++) {
		char path[64];
		snprintf(path, sizeof(path), "%s/attach", directories[i]);
		unlink(path);
		rmdir(directories[i]);
	}
}

static void make_directory(struct attach_rig *rig)
{
	assert_non_null(mkdtemp(rig->directory));
	snprintf(rig->path, sizeof(rig->path), "%s/attach", rig->directory);
	assert_true(directory_count < DIRECTORIES_MAX);
	if (!directory_count)
		atexit(remove_directories);
	strcpy(directories[directory_count++], rig->directory);
}

void rig_memory(struct attach_rig *rig, uint64_t pages, bool private_memory)
{
	*rig = (struct attach_rig){.directory = "/tmp/hf-attach-XXXXXX", .pages = pages, .fd = -1};
	make_directory(rig);
	rig->fd = ram_file_anonymous(HUGE_BYTES, pages);
	rig->vmm = ram_map(rig->fd, pages * HUGE_BYTES, private_memory);
	if (!private_memory) {
		rig->alias = ram_map(rig->fd, pages * HUGE_BYTES, false);
		return;
	}
	close(rig->fd);
	rig->fd = -1;
}

struct hf_attach_region rig_region(const struct attach_rig *rig)
{
	return (struct hf_attach_region){.idstr = "ram0",
					 .address = rig->vmm,
					 .length_bytes = rig->pages * HUGE_BYTES,
					 .page_size_bytes = HUGE_BYTES,
					 .fd = rig->fd};
}

void rig_library(struct attach_rig *rig)
{
	const struct hf_attach_options options = {.socket_path = rig->path, .vm_name = "vm under test"};
	const struct hf_attach_region region = rig_region(rig);
	if (hf_attach_create(&rig->attach, &options, &rig->err) ||
	    hf_attach_add(rig->attach, &region, &rig->err) || hf_attach_start(rig->attach, &rig->err))
		fail_msg("%s", rig->err.text);
}

void rig_start(struct attach_rig *rig, uint64_t pages)
{
	rig_memory(rig, pages, false);
	rig_library(rig);
}

void rig_stop(struct attach_rig *rig)
{
	hf_attach_destroy(rig->attach);
	munmap(rig->vmm, rig->pages * HUGE_BYTES);
	if (rig->alias)
		munmap(rig->alias, rig->pages * HUGE_BYTES);
	if (rig->fd >= 0)
		close(rig->fd);
	assert_int_equal(rmdir(rig->directory), 0); // the socket is gone
}

struct hf_attach_client *rig_client(const struct attach_rig *rig)
{
	struct hf_attach_client *client;
	struct hf_err err = HF_ERR_INIT;
	if (hf_attach_client_connect(&client, rig->path, &err))
		fail_msg("%s", err.text);
	return client;
}

int rig_userfault(struct hf_attach_client *client, unsigned modes)
{
	int fd;
	struct hf_err err = HF_ERR_INIT;
	if (hf_attach_client_userfault(client, modes, UFFD_FEATURE_THREAD_ID, &fd, &err))
		fail_msg("%s", err.text);
	return fd;
}

uint64_t next_fault(const struct attach_rig *rig, int userfault)
{
	struct pollfd polled = {.fd = userfault, .events = POLLIN};
	assert_int_equal(poll(&polled, 1, WAIT_LIMIT_MS), 1);
	struct uffd_msg message;
	assert_int_equal(read(userfault, &message, sizeof(message)), sizeof(message));
	assert_int_equal(message.event, UFFD_EVENT_PAGEFAULT);
	return (message.arg.pagefault.address - (uintptr_t)rig->vmm) / HUGE_BYTES;
}

int raw_connect(const struct attach_rig *rig)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path, rig->path);
	int socket_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(socket_fd, (struct sockaddr *)&address, sizeof(address)), 0);
	struct timeval limit = {.tv_sec = WAIT_LIMIT_MS / 1000};
	setsockopt(socket_fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	return socket_fd;
}

void raw_say(int socket, const char *text)
{
	assert_int_equal(send(socket, text, strlen(text), MSG_NOSIGNAL), strlen(text));
}

// One byte a call: what follows the line must stay in the socket.
static ssize_t receive_byte(int socket, char *byte, int *fd)
{
	char control[CMSG_SPACE(256 * sizeof(int))];
	struct iovec vector = {byte, 1};
	struct msghdr message = {
	    .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
	struct cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (!header)
		return n;
	size_t fds = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
	for (size_t i = 0; i < fds; i++) {
		int received;
		memcpy(&received, CMSG_DATA(header) + i * sizeof(int), sizeof(received));
		if (fd && *fd < 0)
			*fd = received;
		else
			close(received);
	}
	return n;
}

json_t *raw_answer(int socket, int *fd)
{
	static char line[1 << 20];
	size_t used = 0;
	ssize_t n;
	if (fd)
		*fd = -1;
	while ((n = receive_byte(socket, line + used, fd)) == 1 && line[used] != '\n')
		assert_true(++used < sizeof(line));
	if (n < 0 && errno == EAGAIN)
		fail_msg("no answer and no end within %d ms", WAIT_LIMIT_MS);
	if (n <= 0)
		return NULL;
	json_t *answer = json_loadb(line, used, 0, NULL);
	assert_true(json_is_object(answer));
	return answer;
}

json_t *raw_request(int socket, const char *text)
{
	raw_say(socket, text);
	return raw_answer(socket, NULL);
}

void raw_expect_error(int socket, const char *text, const char *class, const char *why)
{
	json_t *answer = raw_request(socket, text);
	assert_non_null(answer);
	json_t *error = json_object_get(answer, "error");
	const char *got_class = json_string_value(json_object_get(error, "class"));
	const char *got_why = json_string_value(json_object_get(error, "desc"));
	if (!got_class || !got_why || strcmp(got_class, class) || !strstr(got_why, why))
		fail_msg("wanted %s '%s', got %s '%s' for %.200s", class, why, got_class, got_why, text);
	json_decref(answer);
}

void raw_expect_closed(int socket)
{
	assert_null(raw_answer(socket, NULL));
	close(socket);
}
