/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a QEMU of the end-to-end tests runs: the whole of its user space, as /init of an initramfs.
 *
 * Theory of operation. One thread a vCPU, pinned to it, owns a slice of most of the guest's memory. It goes
 * over its pages again and again, in an order that wanders through the whole slice, checks every word of a
 * page against what it wrote there the last time and writes what comes next. The main thread prints a
 * heartbeat with a number that rises by one, how often each thread has gone over its slice, and the words
 * that were wrong. The serial port moves with the VM: what both QEMUs have written, one behind the other, is
 * one text without a gap.
 *
 * Devices that are there get a thread each: a disk is a slice like memory, read and written past all caches,
 * and random numbers must not repeat themselves. A device that does not go on after a move, or that reads
 * from pages that have not come, is seen like a vCPU that does.
 *
 * With the word "halt" on the kernel's command line it stands still for ever when each thread has gone over
 * its slice some times; then nothing writes to its memory any more, and two copies of it can be compared. The
 * words "disk" (instead of the slice of one) and "churn" start what qemu_guest_devices.c does.
 */
#include "qemu_guest.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX    16
#define STRIDE	       7919u /* prime, larger than a huge page has pages: each step is another huge page */
#define MEMORY_PERCENT 60u
#define HEARTBEAT_NS   100000000
#define DISK_PAGES     256u
#define RANDOM_READS   64u /* are a pass */
#define PASSES_TO_HALT 10u
#define MODULES	       "/modules"

static struct worker workers[THREADS_MAX + 3];
static int worker_count;

static uint64_t word_of(uint64_t page, uint64_t pass, size_t word)
{
	uint64_t x = page * 0x9e3779b97f4a7c15u ^ pass * 0xbf58476d1ce4e5b9u ^ word * 0x94d049bb133111ebu;
	x ^= x >> 29;
	return x * 0xd6e8feb86659fd93u;
}

static void visit(struct worker *worker, uint64_t *words, uint64_t page, uint64_t pass)
{
	uint64_t wrong = 0;
	for (size_t i = 0; i < WORDS; i++) {
		wrong += pass > 0 && words[i] != word_of(page, pass, i);
		words[i] = word_of(page, pass + 1, i);
	}
	if (wrong)
		atomic_fetch_add(&worker->wrong, wrong);
	atomic_fetch_add(&worker->visits, 1);
}

static void *work(void *opaque)
{
	struct worker *worker = opaque;
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	CPU_SET(worker->cpu, &cpus);
	sched_setaffinity(0, sizeof(cpus), &cpus);
	uint64_t page = 0;
	for (uint64_t pass = 0;; pass++) {
		for (uint64_t i = 0; i < worker->pages; i++) {
			visit(worker, worker->memory + page * WORDS, page, pass);
			page = (page + STRIDE) %
			       worker->pages; // pages: no multiple of STRIDE, so each comes once
		}
	}
	return NULL;
}

static void *use_disk(void *opaque)
{
	struct worker *worker = opaque;
	for (uint64_t pass = 0;; pass++) {
		for (uint64_t page = 0; page < worker->pages; page++) {
			off_t at = (off_t)(page * PAGE_BYTES);
			bool done = pread(worker->fd, worker->memory, PAGE_BYTES, at) == PAGE_BYTES;
			visit(worker, worker->memory, page, pass);
			done = pwrite(worker->fd, worker->memory, PAGE_BYTES, at) == PAGE_BYTES && done;
			if (!done)
				atomic_fetch_add(&worker->wrong, 1);
		}
	}
	return NULL;
}

static void *use_random(void *opaque)
{
	struct worker *worker = opaque;
	uint64_t last = 0, next;
	for (;;) {
		if (read(worker->fd, &next, sizeof(next)) != sizeof(next) || next == last)
			atomic_fetch_add(&worker->wrong, 1);
		last = next;
		atomic_fetch_add(&worker->visits, 1);
	}
	return NULL;
}

static bool add_worker(void *(*work_of)(void *), uint64_t pages, uint64_t mapped_pages, int cpu, int fd)
{
	struct worker *worker = &workers[worker_count++];
	void *memory =
	    mmap(NULL, mapped_pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	worker->work = work_of;
	worker->memory = memory;
	worker->pages = pages;
	worker->cpu = cpu;
	worker->fd = fd;
	return memory != MAP_FAILED;
}

/* The file of random numbers is there also where nothing gives any. */
static bool add_device(void *(*work_of)(void *), uint64_t pages, const char *path, int flags)
{
	static _Alignas(PAGE_BYTES) char page[PAGE_BYTES];
	int fd = open(path, flags);
	return fd < 0 || read(fd, page, sizeof(page)) <= 0 || add_worker(work_of, pages, 1, 0, fd);
}

static bool add_vcpus(void)
{
	struct sysinfo info;
	int threads = get_nprocs() < THREADS_MAX ? get_nprocs() : THREADS_MAX;
	if (sysinfo(&info))
		return false;
	uint64_t pages =
	    info.totalram / 100 * MEMORY_PERCENT * info.mem_unit / PAGE_BYTES / (uint64_t)threads;
	pages -= pages % STRIDE == 0;
	for (int i = 0; i < threads; i++) {
		if (!add_worker(work, pages, pages, i, -1))
			return false;
	}
	return true;
}

/* In the order of their names. */
static bool load_modules(void)
{
	struct dirent **names;
	int count = scandir(MODULES, &names, NULL, alphasort);
	for (int i = 0; i < count; i++) {
		char path[sizeof(MODULES) + sizeof(names[i]->d_name) + 1];
		snprintf(path, sizeof(path), MODULES "/%s", names[i]->d_name);
		int fd = open(path, O_RDONLY);
		if (names[i]->d_name[0] != '.' && syscall(SYS_finit_module, fd, "", 0))
			return false;
		close(fd);
	}
	return true;
}

/* The kernel stops all vCPUs for ever: from then on nothing writes to memory any more. */
static void halt(void)
{
	for (int i = 0; i < worker_count; i++) {
		if (atomic_load(&workers[i].visits) / workers[i].pages < PASSES_TO_HALT)
			return;
	}
	reboot(RB_HALT_SYSTEM);
}

static bool has_word(char **words, const char *wanted)
{
	while (*words && strcmp(*words, wanted) != 0)
		words++;
	return *words != NULL;
}

int main(int argc, char **argv)
{
	(void)argc;
	bool halts = has_word(argv, "halt"), reads = has_word(argv, "disk");
	if (!load_modules() || mount("dev", "/dev", "devtmpfs", 0, NULL) || !add_vcpus() ||
	    (!reads && !add_device(use_disk, DISK_PAGES, "/dev/vda", O_RDWR | O_DIRECT)) ||
	    (reads && !add_worker(guest_read_disk, GUEST_DISK_PASS, GUEST_DISK_PAGES, 0, -1)) ||
	    (has_word(argv, "churn") && !add_worker(guest_churn, 1, GUEST_CHURN_PAGES, 0, -1)) ||
	    !add_device(use_random, RANDOM_READS, "/dev/hwrng", O_RDONLY))
		return 1;
	for (int i = 0; i < worker_count; i++) {
		pthread_t thread;
		if (pthread_create(&thread, NULL, workers[i].work, &workers[i]))
			return 1;
	}
	for (uint64_t n = 0;; n++) {
		unsigned long long wrong = 0;
		char line[256];
		int used = snprintf(line, sizeof(line), "beat %llu passes", (unsigned long long)n);
		for (int i = 0; i < worker_count; i++) {
			wrong += atomic_load(&workers[i].wrong);
			used += snprintf(
			    line + used, sizeof(line) - (size_t)used, " %llu",
			    (unsigned long long)(atomic_load(&workers[i].visits) / workers[i].pages));
		}
		snprintf(line + used, sizeof(line) - (size_t)used, " wrong %llu end", wrong);
		puts(line);
		fflush(stdout);
		if (halts)
			halt();
		nanosleep(&(struct timespec){.tv_nsec = HEARTBEAT_NS}, NULL);
	}
}
