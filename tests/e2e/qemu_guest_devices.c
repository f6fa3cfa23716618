/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * The disk: every word of its page n is n + 1 (tests/e2e/qemu_disk.py). It is read with O_DIRECT, one request
 * of several pages after the other, into buffers all over a piece of memory; each buffer gets another part of
 * the disk each time, so that what was there before is never what should be there now.
 *
 * The disk as a slice: it is read and written past all caches, as memory is by a vCPU. Random numbers must
 * not repeat themselves. A device that does not go on after a move, or that reads from pages that have not
 * come, is seen like a vCPU that does.
 *
 * Memory that is taken and given back is what a balloon, or free page reporting, has taken from the guest and
 * may have given back: it is filled, looked at and let go.
 */
#include "qemu_guest.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MODULES	       "/modules"
#define DISK	       "/dev/vda"
#define RANDOM	       "/dev/hwrng"
#define SLICE_PAGES    256u
#define REQUEST_PAGES  16u
#define BUFFER_PAGES   (8u << 20 >> 12)
#define CHURN_BYTES    (16u << 20)
#define HUGE_BYTES     (2u << 20)
#define REPORTED_S     3 /* Linux reports what has been free for two seconds */
#define READS_PER_PASS 64u

static _Noreturn void give_up(const char *what)
{
	perror(what);
	exit(1);
}

static void load_module(const char *name)
{
	char path[300];
	snprintf(path, sizeof(path), MODULES "/%s", name);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || syscall(SYS_finit_module, fd, "", 0))
		give_up(path);
	close(fd);
}

void guest_load_modules(void)
{
	struct dirent **entries = NULL;
	int count = scandir(MODULES, &entries, NULL, alphasort);
	for (int i = 0; i < count; i++) {
		if (entries[i]->d_name[0] != '.')
			load_module(entries[i]->d_name);
		free(entries[i]);
	}
	free(entries);
	if (count > 0 && mount("devtmpfs", "/dev", "devtmpfs", 0, NULL))
		give_up("/dev");
}

static void *map_pages(uint64_t pages)
{
	void *memory =
	    mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		give_up("memory");
	return memory;
}

static void start(struct worker *worker, void *(*work)(void *))
{
	pthread_t thread;
	if (pthread_create(&thread, NULL, work, worker))
		give_up("a thread");
}

/* ---- the disk ---- */

static uint64_t wrong_words(const uint64_t *words, uint64_t disk_page)
{
	uint64_t wrong = 0;
	for (size_t i = 0; i < REQUEST_PAGES * WORDS; i++)
		wrong += words[i] != disk_page + i / WORDS + 1;
	return wrong;
}

static void *read_disk(void *opaque)
{
	struct worker *worker = opaque;
	int fd = open(DISK, O_RDONLY | O_DIRECT | O_CLOEXEC);
	off_t bytes = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	uint64_t requests = bytes < 0 ? 0 : (uint64_t)bytes / PAGE_BYTES / REQUEST_PAGES;
	if (requests == 0)
		give_up(DISK);
	uint64_t buffers = BUFFER_PAGES / REQUEST_PAGES;
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

void guest_read_disk(struct worker *worker)
{
	worker->memory = map_pages(BUFFER_PAGES);
	worker->pages = READS_PER_PASS;
	start(worker, read_disk);
}

/* ---- the disk as a slice ---- */

static void *use_disk(void *opaque)
{
	struct worker *worker = opaque;
	int fd = open(DISK, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd < 0)
		give_up(DISK);
	for (uint64_t pass = 0;; pass++) {
		for (uint64_t page = 0; page < worker->pages; page++) {
			off_t at = (off_t)(page * PAGE_BYTES);
			bool done = pread(fd, worker->memory, PAGE_BYTES, at) == PAGE_BYTES;
			guest_visit(worker, worker->memory, page, pass);
			done = pwrite(fd, worker->memory, PAGE_BYTES, at) == PAGE_BYTES && done;
			if (!done)
				atomic_fetch_add(&worker->wrong, 1);
		}
	}
	return NULL;
}

void guest_use_disk(struct worker *worker)
{
	worker->memory = map_pages(1);
	worker->pages = SLICE_PAGES;
	start(worker, use_disk);
}

/* ---- random numbers ---- */

static void *draw_random(void *opaque)
{
	struct worker *worker = opaque;
	uint64_t last = 0, next;
	int fd = open(RANDOM, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		give_up(RANDOM);
	for (;;) {
		if (read(fd, &next, sizeof(next)) != sizeof(next) || next == last)
			atomic_fetch_add(&worker->wrong, 1);
		last = next;
		atomic_fetch_add(&worker->visits, 1);
	}
	return NULL;
}

void guest_draw_random(struct worker *worker)
{
	worker->pages = READS_PER_PASS;
	start(worker, draw_random);
}

/* ---- memory that comes and goes ---- */

static uint64_t fill_and_check(uint64_t *memory, uint64_t first)
{
	uint64_t wrong = 0;
	for (size_t i = 0; i < CHURN_BYTES / sizeof(*memory); i++)
		memory[i] = first + i;
	for (size_t i = 0; i < CHURN_BYTES / sizeof(*memory); i++)
		wrong += memory[i] != first + i;
	return wrong;
}

static void *churn(void *opaque)
{
	struct worker *worker = opaque;
	for (uint64_t n = 1;; n++) {
		size_t bytes = CHURN_BYTES + HUGE_BYTES;
		uint8_t *memory = map_pages(bytes / PAGE_BYTES);
		uint8_t *aligned = memory + (HUGE_BYTES - (uintptr_t)memory % HUGE_BYTES);
		madvise(aligned, CHURN_BYTES, MADV_HUGEPAGE);
		uint64_t wrong = fill_and_check((uint64_t *)aligned, n);
		munmap(memory, bytes);
		if (wrong)
			atomic_fetch_add(&worker->wrong, wrong);
		nanosleep(&(struct timespec){.tv_sec = REPORTED_S}, NULL);
		atomic_fetch_add(&worker->visits, 1);
	}
	return NULL;
}

void guest_churn(struct worker *worker)
{
	worker->pages = 1;
	start(worker, churn);
}
