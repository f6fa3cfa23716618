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
 * Words on the kernel's command line that it does not know are arguments. "disk", "slice", "random" and
 * "churn" start what qemu_guest_devices.c does; "halt" has the kernel stop all vCPUs for ever when each
 * thread has gone over its slice some times: nothing writes to memory any more, and two copies of it can be
 * compared.
 */
#include "qemu_guest.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/sysinfo.h>
#include <time.h>
#include <unistd.h>

#define THREADS_MAX    16
#define STRIDE	       7919u /* prime, larger than a huge page has pages: each step is another huge page */
#define MEMORY_PERCENT 60u
#define HEARTBEAT_NS   100000000
#define PASSES_TO_HALT 10u

static struct worker workers[THREADS_MAX + 4];
static int worker_count;

static uint64_t word_of(uint64_t page, uint64_t pass, size_t word)
{
	uint64_t x = page * 0x9e3779b97f4a7c15u ^ pass * 0xbf58476d1ce4e5b9u ^ word * 0x94d049bb133111ebu;
	x ^= x >> 29;
	return x * 0xd6e8feb86659fd93u;
}

void guest_visit(struct worker *worker, uint64_t *words, uint64_t page, uint64_t pass)
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
			guest_visit(worker, worker->memory + page * WORDS, page, pass);
			page = (page + STRIDE) %
			       worker->pages; // pages: no multiple of STRIDE, so each comes once
		}
	}
	return NULL;
}

static bool start_vcpus(void)
{
	struct sysinfo info;
	int threads = get_nprocs() < THREADS_MAX ? get_nprocs() : THREADS_MAX;
	if (sysinfo(&info))
		return false;
	uint64_t pages =
	    info.totalram / 100 * MEMORY_PERCENT * info.mem_unit / PAGE_BYTES / (uint64_t)threads;
	pages -= pages % STRIDE == 0;
	for (int i = 0; i < threads; i++) {
		pthread_t thread;
		struct worker *worker = &workers[worker_count++];
		void *memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (memory == MAP_FAILED)
			return false;
		worker->memory = memory;
		worker->pages = pages;
		worker->cpu = i;
		if (pthread_create(&thread, NULL, work, worker))
			return false;
	}
	return true;
}

static void start_device(const char *word)
{
	static const struct {
		const char *word;
		void (*start)(struct worker *worker);
	} devices[] = {{"disk", guest_read_disk},
		       {"slice", guest_use_disk},
		       {"random", guest_draw_random},
		       {"churn", guest_churn}};
	for (size_t i = 0; i < sizeof(devices) / sizeof(devices[0]); i++)
		if (strcmp(word, devices[i].word) == 0)
			devices[i].start(&workers[worker_count++]);
}

static unsigned long long passes(const struct worker *worker)
{
	return atomic_load(&worker->visits) / worker->pages;
}

static void halt_in_time(void)
{
	for (int i = 0; i < worker_count; i++)
		if (passes(&workers[i]) < PASSES_TO_HALT)
			return;
	reboot(RB_HALT_SYSTEM);
}

static void beat(unsigned long long number)
{
	unsigned long long wrong = 0;
	char line[256];
	int used = snprintf(line, sizeof(line), "beat %llu passes", number);
	for (int i = 0; i < worker_count; i++) {
		wrong += atomic_load(&workers[i].wrong);
		used += snprintf(line + used, sizeof(line) - (size_t)used, " %llu", passes(&workers[i]));
	}
	snprintf(line + used, sizeof(line) - (size_t)used, " wrong %llu end", wrong);
	puts(line);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	bool halts = false;
	guest_load_modules();
	if (!start_vcpus())
		return 1;
	for (int i = 1; i < argc && worker_count < THREADS_MAX + 4; i++) {
		halts |= strcmp(argv[i], "halt") == 0;
		start_device(argv[i]);
	}
	for (unsigned long long n = 0;; n++) {
		beat(n);
		if (halts)
			halt_in_time();
		nanosleep(&(struct timespec){.tv_nsec = HEARTBEAT_NS}, NULL);
	}
}
