/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/hugemem/host_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugemem/hugepool.h"

#define RESERVATIONS_MAX 4

static struct reservation {
	uint64_t page_size_bytes, added;
	pid_t janitor;
	int alive_fd; /* the janitor sees its end when this process has gone */
} reservations[RESERVATIONS_MAX];
static int reservation_count;

/* A process that gives the pages back when this one ends in whatever way. */
static int start_janitor(struct reservation *reservation)
{
	int ends[2];
	char byte;

	if (pipe2(ends, O_CLOEXEC))
		return -1;
	reservation->alive_fd = ends[1];
	reservation->janitor = fork();
	if (reservation->janitor != 0) {
		close(ends[0]);
		return reservation->janitor < 0 ? -1 : 0;
	}
	setsid();
	for (int i = 0; i <= reservation_count; i++)
		close(reservations[i].alive_fd);
	while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
		;
	_exit(hf_hugepages_give_back(reservation->page_size_bytes, reservation->added, NULL) != 0);
}

static void write_vm_setting(const char *path, const char *value)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	if (write(fd, value, strlen(value)) < 0)
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
	close(fd);
}

/* Gives the kernel the best chance of finding memory in large pieces. */
static void compact_memory(void)
{
	sync();
	write_vm_setting("/proc/sys/vm/drop_caches", "3");
	write_vm_setting("/proc/sys/vm/compact_memory", "1");
}

static int reserve(uint64_t page_size_bytes, uint64_t pages, uint64_t *added, struct hf_err *err)
{
	int result = hf_hugepages_reserve(page_size_bytes, pages, added, err);
	if (result == 0)
		return 0;
	compact_memory();
	return hf_hugepages_reserve(page_size_bytes, pages, added, err);
}

int host_pages_reserve(uint64_t page_size_bytes, uint64_t pages)
{
	struct hf_err err = HF_ERR_INIT;

	if (reservation_count == RESERVATIONS_MAX)
		return -1;
	struct reservation *reservation = &reservations[reservation_count];
	reservation->page_size_bytes = page_size_bytes;
	/* On top of what is free now: that may belong to somebody who has not touched it yet. */
	struct hf_hugepage_counts counts = {0};
	if (hf_hugepage_counts(page_size_bytes, &counts, &err) ||
	    reserve(page_size_bytes, hf_hugepages_available(&counts) + pages, &reservation->added, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return -1;
	}
	if (start_janitor(reservation)) {
		hf_hugepages_give_back(page_size_bytes, reservation->added, NULL);
		return -1;
	}
	reservation_count++;
	return 0;
}

void host_pages_give_back_last(void)
{
	reservation_count--;
	close(reservations[reservation_count].alive_fd);
	waitpid(reservations[reservation_count].janitor, NULL, 0);
}

void host_pages_give_back(void)
{
	while (reservation_count > 0)
		host_pages_give_back_last();
}

static struct hf_hugepage_counts counts_now(uint64_t page_size_bytes)
{
	struct hf_hugepage_counts counts;
	struct hf_err err = HF_ERR_INIT;

	if (hf_hugepage_counts(page_size_bytes, &counts, &err)) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	return counts;
}

uint64_t host_pages_free(uint64_t page_size_bytes)
{
	return counts_now(page_size_bytes).free;
}

uint64_t host_pages_available(uint64_t page_size_bytes)
{
	struct hf_hugepage_counts counts = counts_now(page_size_bytes);

	return hf_hugepages_available(&counts);
}
