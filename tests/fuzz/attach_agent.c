/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: the attach library against an agent that says anything. The whole library runs, its thread and its
 * socket too, for memory that has no pages behind it: nothing is touched.
 *
 * Each line gets one answer, in order, which is one JSON object and has as many descriptors as it says; the
 * library ends with nothing left behind. Only what the agent was told counts: armed means that it got a
 * userfaultfd.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/memfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hugemem/attach.h"
#include "hugemem/attach_internal.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/peer.h"

enum { REGION_BYTES = 4 << 20, PAGE_BYTES = 2 << 20, ANSWERS_MAX_BYTES = 1 << 20 };

static char socket_path[FUZZ_DIRECTORY_BYTES + 8];
static int memory_fd = -1;
static void *memory;

static void remove_directory(void)
{
	*strrchr(socket_path, '/') = '\0';
	rmdir(socket_path);
}

/* Address space only: without reservation and never touched it takes no huge page. */
static void make_memory(void)
{
	char directory[FUZZ_DIRECTORY_BYTES];
	if (memory)
		return;
	fuzz_make_directory(directory);
	snprintf(socket_path, sizeof(socket_path), "%s/attach", directory);
	atexit(remove_directory);
	memory_fd = memfd_create("fuzz", MFD_CLOEXEC | MFD_HUGETLB | MFD_HUGE_2MB);
	if (memory_fd < 0) { // a kernel without huge pages: there is a region, but it cannot be registered
		memory = socket_path;
		return;
	}
	fuzz_check(ftruncate(memory_fd, REGION_BYTES) == 0);
	memory = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory_fd, 0);
	fuzz_check(memory != MAP_FAILED);
}

static struct hf_attach *start_library(void)
{
	struct hf_attach_options options = {.socket_path = socket_path, .vm_name = "fuzz"};
	struct hf_attach *attach;
	struct hf_err err = HF_ERR_INIT;
	fuzz_check(hf_attach_create(&attach, &options, &err) == 0);
	// As hf_attach_add() would, which reads a long list of mappings first.
	fuzz_check(hf_ramblocks_add(&attach->blocks, "ram0", REGION_BYTES, PAGE_BYTES, &err) == 0);
	int fd = memory_fd >= 0 ? fcntl(memory_fd, F_DUPFD_CLOEXEC, 0) : -1;
	attach->memory[0] = (struct hf_attach_memory){.address = (uint64_t)(uintptr_t)memory, .fd = fd};
	fuzz_check(hf_attach_start(attach, &err) == 0);
	return attach;
}

static int connect_agent(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
	fuzz_check(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	return fd;
}

/* All answers until the library hangs up. */
static size_t read_answers(int fd, char *answers, struct hf_attach_fds *fds)
{
	size_t bytes = 0;
	for (;;) {
		struct pollfd entry = {.fd = fd, .events = POLLIN};
		if (poll(&entry, 1, -1) < 0 && errno == EINTR) // the fuzzer's own clock
			continue;
		ssize_t got = hf_attach_wire_receive(fd, answers + bytes, ANSWERS_MAX_BYTES - bytes, fds);
		if (got == 0 || got == -ECONNRESET)
			return bytes;
		fuzz_check(got > 0);
		bytes += (size_t)got;
	}
}

/* Returns how many descriptors it says it has; armed_told: it hands out a userfaultfd. */
static uint32_t check_answer(const char *line, size_t bytes, bool *armed_told)
{
	json_t *answer = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, NULL);
	const json_t *error = json_object_get(answer, "error");
	const json_t *value = json_object_get(answer, "return");
	fuzz_check(json_is_object(answer) && !error != !value);
	uint32_t fds = (uint32_t)json_integer_value(json_object_get(answer, "fds"));
	if (error) {
		fuzz_check(json_is_string(json_object_get(error, "class")) && fds == 0);
		fuzz_check(json_string_length(json_object_get(error, "desc")) > 0);
	}
	*armed_told |= json_object_get(value, "resumed") != NULL;
	json_decref(answer);
	return fds;
}

static void check_answers(const char *answers, size_t bytes, size_t lines_said, uint32_t fds_got,
			  bool *armed_told)
{
	size_t lines = 0;
	uint32_t fds = 0;
	for (const char *at = answers, *end; (end = memchr(at, '\n', bytes - (size_t)(at - answers)));
	     at = end + 1) {
		fds += check_answer(at, (size_t)(end - at), armed_told);
		lines++;
	}
	fuzz_check(bytes == 0 || answers[bytes - 1] == '\n');
	fuzz_check(lines <= lines_said && fds == fds_got);
}

static size_t count_lines(const uint8_t *data, size_t bytes)
{
	size_t lines = 0;
	for (size_t i = 0; i < bytes; i++)
		lines += data[i] == '\n';
	return lines;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static char answers[ANSWERS_MAX_BYTES];
	struct hf_attach_fds fds = {.count = 0};
	bool armed_told = false;
	if (bytes == 0 || bytes > 8192 || count_lines(data, bytes) > 100)
		return 0;
	make_memory();
	int first_fd = fuzz_next_fd();
	fuzz_peers_begin(NULL);
	fuzz_peers.shortness = data[0];
	struct hf_attach *attach = start_library();
	int agent = connect_agent();
	fuzz_peer_write(agent, data + 1, bytes - 1);
	shutdown(agent, SHUT_WR);
	size_t answer_bytes = read_answers(agent, answers, &fds);
	check_answers(answers, answer_bytes, count_lines(data + 1, bytes - 1), fds.count, &armed_told);
	fuzz_check(!hf_attach_armed(attach) || armed_told);
	hf_attach_fds_close(&fds);
	close(agent);
	hf_attach_destroy(attach);
	fuzz_peers_end();
	fuzz_check(fuzz_next_fd() == first_fd);
	return 0;
}
