/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a pidfd becomes readable when the whole process has gone, not when its first thread has: until the
 * last thread ends the memory can still be written. Its descriptors are closed by then, and its huge pages
 * given back.
 *
 * Kernel: 5.3 (pidfd_open).
 *
 * Relied on by: deploy/children.c, deploy/waiter.c (when the VMM has gone).
 */
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/platform/platform.h"

struct rest {
	int from_parent, to_parent;
	uint8_t *shared;
};

/* Lives on after the first thread, and writes. */
static void *outlive(void *opaque)
{
	const struct rest *rest = opaque;

	hear(rest->from_parent);
	rest->shared[0] = 5;
	say(rest->to_parent, 1);
	hear(rest->from_parent);
	_exit(0);
}

static void process(struct rest *rest, uint64_t page_bytes)
{
	pthread_t thread;

	/* Memory that only this process has. */
	uint8_t *own = ram_map(ram_file(page_bytes, 1), page_bytes, MAP_SHARED);
	own[0] = 1;
	must(pthread_create(&thread, NULL, outlive, rest) == 0);
	pthread_exit(NULL);
}

/* Until the first thread has ended; the process is a zombie from then on, with a thread that lives. */
static void await_zombie(pid_t pid)
{
	char path[64], state = 'R';

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	while (state != 'Z') {
		FILE *file = fopen(path, "re");
		must(file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
		fclose(file);
		sched_yield();
	}
}

static void show(uint64_t page_bytes)
{
	int to_child[2], from_child[2];
	uint64_t free_before = pool_counter(page_bytes, "free_hugepages");

	must(pipe(to_child) == 0 && pipe(from_child) == 0);
	struct rest rest = {.from_parent = to_child[0], .to_parent = from_child[1]};
	rest.shared = ram_map(-1, 4096, MAP_SHARED | MAP_ANONYMOUS);
	pid_t child = platform_fork();
	if (child == 0) {
		close(from_child[0]);
		close(to_child[1]);
		process(&rest, page_bytes);
	}
	close(from_child[1]);
	close(to_child[0]);
	int pidfd = (int)syscall(SYS_pidfd_open, child, 0);
	if (pidfd < 0)
		platform_lacks("pidfd_open (Linux 5.3)");
	say(to_child[1], 1);
	hear(from_child[0]);
	expect(rest.shared[0] == 5, "a thread that outlives the first cannot write");
	await_zombie(child);
	expect(!is_readable(pidfd), "a pidfd is readable while a thread of the process lives");
	say(to_child[1], 1);
	struct pollfd polled = {.fd = pidfd, .events = POLLIN};
	must(poll(&polled, 1, -1) == 1);
	expect(is_readable(from_child[0]), "a process's descriptors are open although its pidfd is readable");
	expect(pool_counter(page_bytes, "free_hugepages") == free_before,
	       "a process's huge pages are not given back although its pidfd is readable");
	must(platform_wait(child) == 0);
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "a pidfd waits for the whole process", .show = show, .pages = 1, .giant_pages = 1});
}
