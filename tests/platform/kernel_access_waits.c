/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: the kernel's own accesses through a registered mapping wait for a page as a thread does, and get it
 * whole: write() from it, process_vm_readv() of it by another process, O_DIRECT, vmsplice().
 *
 * Kernel: 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: hugemem/uffd_open.c (never user mode only), PROTOCOL.md (a VMM may do I/O from guest memory).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "tests/platform/platform.h"

#define BYTES 4096

struct access {
	const char *name;
	/* Takes BYTES at the end of the page; returns the last of them, or -errno. */
	int (*run)(const uint8_t *end);
	const uint8_t *end;
	int result;
};

static int through_a_pipe(const uint8_t *end)
{
	uint8_t bytes[BYTES];
	int ends[2];

	must(pipe(ends) == 0);
	if (write(ends[1], end - BYTES, BYTES) != BYTES)
		return -errno;
	must(read(ends[0], bytes, BYTES) == BYTES);
	return bytes[BYTES - 1];
}

static int by_vmsplice(const uint8_t *end)
{
	struct iovec part = {.iov_base = (void *)(end - BYTES), .iov_len = BYTES};
	uint8_t bytes[BYTES];
	int ends[2];

	must(pipe(ends) == 0);
	if (vmsplice(ends[1], &part, 1, 0) != BYTES)
		return -errno;
	must(read(ends[0], bytes, BYTES) == BYTES);
	return bytes[BYTES - 1];
}

static int by_another_process(const uint8_t *end)
{
	pid_t child = platform_fork();
	if (child == 0) {
		uint8_t byte = 0;
		struct iovec here = {.iov_base = &byte, .iov_len = 1};
		struct iovec there = {.iov_base = (void *)(end - 1), .iov_len = 1};
		_exit(process_vm_readv(getppid(), &here, 1, &there, 1, 0) == 1 ? byte : 255);
	}
	return platform_wait(child);
}

static int direct_file(void)
{
	int file = open("/var/tmp", O_TMPFILE | O_RDWR | O_DIRECT | O_CLOEXEC, 0600);

	if (file < 0)
		platform_lacks("a file system with O_DIRECT in /var/tmp: %s", strerror(errno));
	return file;
}

static int by_direct_io(const uint8_t *end)
{
	uint8_t *bytes = ram_map(-1, BYTES, MAP_PRIVATE | MAP_ANONYMOUS);
	int file = direct_file();

	if (pwrite(file, end - BYTES, BYTES, 0) != BYTES)
		return -errno;
	must(pread(file, bytes, BYTES, 0) == BYTES);
	close(file);
	return bytes[BYTES - 1];
}

static void *run(void *opaque)
{
	struct access *access = opaque;

	access->result = access->run(access->end);
	return NULL;
}

static void show_of(const char *name, int (*how)(const uint8_t *end), const struct ram *ram, unsigned page,
		    int uffd)
{
	struct access access = {.name = name, .run = how, .end = ram_vmm(ram, page) + ram->page_bytes};
	pthread_t thread;

	/* Half filled: the access must not get the other half as it is now. */
	ram_alias(ram, page)[0] = 7;
	must(pthread_create(&thread, NULL, run, &access) == 0);
	struct uffd_msg message = uffd_next(uffd, name);
	expect_fault(&message, ram, page, MINOR_KIND);
	page_mark(ram_alias(ram, page), ram->page_bytes, 7);
	must(page_continue(uffd, ram, page) == 0);
	must(pthread_join(thread, NULL) == 0);
	expect(access.result == 7, "%s does not get the page that was placed, but %d", name, access.result);
	ram_punch(ram, page);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 4);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);

	show_of("write()", through_a_pipe, &ram, 0, uffd);
	show_of("process_vm_readv()", by_another_process, &ram, 1, uffd);
	show_of("vmsplice()", by_vmsplice, &ram, 2, uffd);
	show_of("O_DIRECT", by_direct_io, &ram, 3, uffd);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "the kernel's own accesses wait for a page too",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = BOTH_FAULTS});
}
