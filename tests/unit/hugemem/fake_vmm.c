/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/hugemem/fake_vmm.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

static bool read_line(int socket)
{
	char byte;
	ssize_t n;
	do {
		n = recv(socket, &byte, 1, 0);
	} while (n == 1 && byte != '\n');
	return n == 1;
}

static bool say(int socket, const struct fake_answer *answer)
{
	char control[CMSG_SPACE(FAKE_FDS_MAX * sizeof(int))] = {0};
	size_t length = answer->length ? answer->length : strlen(answer->bytes);
	struct iovec vector = {(void *)answer->bytes, length};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
	if (answer->fd_count) {
		message.msg_control = control;
		message.msg_controllen = CMSG_SPACE(answer->fd_count * sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(answer->fd_count * sizeof(int));
		memcpy(CMSG_DATA(header), answer->fds, answer->fd_count * sizeof(int));
	}
	ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
	if (sent <= 0)
		return false;
	for (size_t done = (size_t)sent; done < length; done += (size_t)sent) {
		sent = send(socket, answer->bytes + done, length - done, MSG_NOSIGNAL);
		if (sent <= 0)
			return false;
	}
	return true;
}

static void *serve(void *opaque)
{
	struct fake_vmm *vmm = opaque;
	int socket = accept(vmm->listener, NULL, NULL);
	if (socket < 0)
		return NULL;
	for (unsigned i = 0; i < vmm->answer_count && read_line(socket); i++) {
		if (vmm->answers[i].bytes ? !say(socket, &vmm->answers[i]) : !read_line(socket))
			break;
	}
	close(socket);
	return NULL;
}

void fake_vmm_start(struct fake_vmm *vmm)
{
	strcpy(vmm->directory, "/tmp/hf-fake-vmm-XXXXXX");
	assert_non_null(mkdtemp(vmm->directory));
	snprintf(vmm->path, sizeof(vmm->path), "%s/attach", vmm->directory);
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path, vmm->path);
	vmm->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(vmm->listener >= 0);
	assert_int_equal(bind(vmm->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(vmm->listener, 4), 0);
	assert_int_equal(pthread_create(&vmm->thread, NULL, serve, vmm), 0);
}

void fake_vmm_stop(struct fake_vmm *vmm)
{
	shutdown(vmm->listener, SHUT_RDWR); // ends a pending accept()
	pthread_join(vmm->thread, NULL);
	close(vmm->listener);
	unlink(vmm->path);
	rmdir(vmm->directory);
}

unsigned open_descriptors(void)
{
	DIR *directory = opendir("/proc/self/fd");
	unsigned count = 0;
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}
