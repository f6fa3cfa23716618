/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * The disk: every word of its page n is n + 1 (tests/e2e/qemu_disk.py). It is read with O_DIRECT, one request
 * of several pages after the other, into buffers all over a piece of memory; each buffer gets another part of
 * the disk each time, so that what was there before is never what should be there now.
 *
 * Memory that is taken and given back is what a balloon, or free page reporting, has taken from the guest and
 * may have given back: it is filled, looked at and let go.
 */
#include "qemu_guest.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define DISK	      "/dev/vda"
#define REQUEST_PAGES 16u
#define REPORTED_S    3 /* Linux reports what has been free for two seconds */

/* ---- the disk ---- */

static uint64_t wrong_words(const uint64_t *words, uint64_t disk_page)
{
	uint64_t wrong = 0;
	for (size_t i = 0; i < REQUEST_PAGES * WORDS; i++)
		wrong += words[i] != disk_page + i / WORDS + 1;
	return wrong;
}

void *guest_read_disk(void *opaque)
{
	struct worker *worker = opaque;
	int fd = open(DISK, O_RDONLY | O_DIRECT | O_CLOEXEC);
	off_t bytes = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	uint64_t requests = bytes < 0 ? 0 : (uint64_t)bytes / PAGE_BYTES / REQUEST_PAGES;
	if (requests == 0)
		exit(1);
	uint64_t buffers = GUEST_DISK_PAGES / REQUEST_PAGES;
	/* requests: no multiple of buffers, so a buffer never gets the same twice running */
	for (uint64_t n = 0;; n++) {
		uint64_t *buffer = worker->memory + n % buffers * REQUEST_PAGES * WORDS;
		uint64_t disk_page = n % requests * REQUEST_PAGES;
		ssize_t got = pread(fd, buffer, REQUEST_PAGES * PAGE_BYTES, (off_t)(disk_page * PAGE_BYTES));
		uint64_t wrong =
		    got == (ssize_t)(REQUEST_PAGES * PAGE_BYTES) ? wrong_words(buffer, disk_page) : 1;
		if (wrong)
			atomic_fetch_add(&worker->wrong, wrong);
		atomic_fetch_add(&worker->visits, 1);
	}
	return NULL;
}

/* ---- memory that comes and goes ---- */

static uint64_t fill_and_check(uint64_t *memory, uint64_t first)
{
	uint64_t wrong = 0;
	for (size_t i = 0; i < GUEST_CHURN_PAGES * WORDS; i++)
		memory[i] = first + i;
	for (size_t i = 0; i < GUEST_CHURN_PAGES * WORDS; i++)
		wrong += memory[i] != first + i;
	return wrong;
}

void *guest_churn(void *opaque)
{
	struct worker *worker = opaque;
	size_t bytes = (size_t)GUEST_CHURN_PAGES * PAGE_BYTES;
	madvise(worker->memory, bytes, MADV_HUGEPAGE);
	for (uint64_t n = 1;; n++) {
		uint64_t wrong = fill_and_check(worker->memory, n);
		madvise(worker->memory, bytes, MADV_DONTNEED);
		if (wrong)
			atomic_fetch_add(&worker->wrong, wrong);
		nanosleep(&(struct timespec){.tv_sec = REPORTED_S}, NULL);
		atomic_fetch_add(&worker->visits, 1);
	}
	return NULL;
}
