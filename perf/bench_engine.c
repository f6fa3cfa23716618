/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engines themselves cost, a page: whole migrations of which nothing else is real (engines.h), from
 * 1 GiB to 1 TiB of guest memory and from 1 to 1000 vCPUs.
 *
 *  - time: nanoseconds, and how often memory is asked for between the hand-over and the last page; and what
 * memory they have taken, by the guest's.
 *  - instructions: those of both engines and of what they call (the C library), counted by callgrind, in a
 * process of its own that is told which migration to run by `--migrate NUMBER`. The count repeats exactly.
 *
 * In a build with -Ddeveloper the rules of threads are checked in every call, which counts (lock_checks).
 */
#include <errno.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "deploy/monotonic.h"
#include "perf/benchmark_shim.h"
#include "perf/engines.h"

#define GIB	   (1ull << 30)
#define PAGE_BYTES (2ull << 20)
#define FAULTED	   25u /* percent of pages */
#define EXIT_USAGE 2

static const struct {
	uint32_t gib, vcpus;
} sizes[] = {
    {1, 16}, {16, 16}, {256, 16}, {1024, 16}, {64, 1}, {64, 16}, {64, 128}, {64, 1000},
};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

/* ---- how often memory is asked for: the linker puts these in between ---------------------------- */

static _Atomic uint64_t allocations;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void *__real_realloc(void *memory, size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void *__wrap_realloc(void *memory, size_t bytes);

void *__wrap_malloc(size_t bytes)
{
	atomic_fetch_add(&allocations, 1);
	return __real_malloc(bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	atomic_fetch_add(&allocations, 1);
	return __real_calloc(count, bytes);
}

void *__wrap_realloc(void *memory, size_t bytes)
{
	atomic_fetch_add(&allocations, 1);
	return __real_realloc(memory, bytes);
}

static uint64_t count_allocations(void)
{
	return atomic_load(&allocations);
}

/* ---- one migration ------------------------------------------------------------------------------ */

static int migrate(size_t number, struct hf_engines_figures *figures, struct hf_err *err)
{
	const struct hf_engines_shape shape = {.guest_bytes = sizes[number].gib * GIB,
					       .page_bytes = PAGE_BYTES,
					       .vcpus = sizes[number].vcpus,
					       .faulted_percent = FAULTED,
					       .allocations = count_allocations};
	return hf_engines_migrate(&shape, figures, err);
}

static void report(struct hf_benchmark *benchmark, const struct hf_engines_figures *figures)
{
	double pages = (double)figures->pages;
#ifdef HF_LOCK_CHECKS
	hf_benchmark_counter(benchmark, "lock_checks", 1);
#else
	hf_benchmark_counter(benchmark, "lock_checks", 0);
#endif
	hf_benchmark_counter(benchmark, "pages", pages);
	hf_benchmark_counter(benchmark, "chunks_per_page", (double)figures->chunks / pages);
	hf_benchmark_counter(benchmark, "faults_per_page", (double)figures->faults / pages);
	hf_benchmark_counter(benchmark, "vcpus_waiting_max", figures->waiting_max);
	hf_benchmark_counter(benchmark, "memory_by_guest",
			     (double)figures->memory_bytes / (pages * (double)PAGE_BYTES));
	hf_benchmark_counter(benchmark, "allocations_while_running", (double)figures->running_allocations);
}

static void time_pages(struct hf_benchmark *benchmark, const void *argument)
{
	const size_t *number = argument;
	struct hf_engines_figures figures = {0};
	struct hf_err err = HF_ERR_INIT;
	uint64_t total_ns = 0, pages = 0;
	while (hf_benchmark_next(benchmark)) {
		uint64_t start_ns = hf_monotonic_ns(NULL);
		if (migrate(*number, &figures, &err)) {
			hf_benchmark_fail(benchmark, err.text);
			return;
		}
		uint64_t took_ns = hf_monotonic_ns(NULL) - start_ns;
		total_ns += took_ns;
		pages += figures.pages;
		hf_benchmark_took_ns(benchmark, took_ns);
	}
	report(benchmark, &figures);
	hf_benchmark_counter(benchmark, "ns_per_page", (double)total_ns / (double)pages);
}

/* ---- under callgrind ----------------------------------------------------------------------------- */

static int spawn_callgrind(const char *counts, size_t number)
{
	char self[256], out_file[300], which[16];
	ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (length < 0)
		return -errno;
	self[length] = '\0';
	snprintf(out_file, sizeof(out_file), "--callgrind-out-file=%s", counts);
	snprintf(which, sizeof(which), "%zu", number);
	char *const words[] = {"valgrind",
			       "--tool=callgrind",
			       "--quiet",
			       out_file,
			       "--collect-atstart=no",
			       "--toggle-collect=enter_*",
			       "--toggle-collect=port_*",
			       self,
			       "--migrate",
			       which,
			       NULL};
	pid_t pid = 0;
	int status = posix_spawnp(&pid, words[0], NULL, NULL, words, environ);
	if (status)
		return -status;
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static uint64_t read_total(const char *counts)
{
	char line[256];
	uint64_t total = 0;
	FILE *file = fopen(counts, "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "totals: %" SCNu64, &total) == 1)
			break;
	if (file)
		fclose(file);
	return total;
}

static int count_instructions(size_t number, uint64_t *instructions)
{
	char counts[] = "/tmp/hf-bench-engine-XXXXXX";
	int file = mkstemp(counts);
	if (file < 0)
		return -errno;
	close(file);
	int result = spawn_callgrind(counts, number);
	if (result == 0)
		*instructions = read_total(counts);
	unlink(counts);
	return result;
}

static void instructions(struct hf_benchmark *benchmark, const void *argument)
{
	const size_t *number = argument;
	struct hf_engines_figures figures = {0};
	struct hf_err err = HF_ERR_INIT;
	uint64_t count = 0;
	if (migrate(*number, &figures, &err)) {
		hf_benchmark_fail(benchmark, err.text);
		return;
	}
	while (hf_benchmark_next(benchmark)) {
		uint64_t start_ns = hf_monotonic_ns(NULL);
		int result = count_instructions(*number, &count);
		if (result || count == 0) {
			hf_benchmark_fail(benchmark, result == -ENOENT
							 ? "valgrind is not there (Debian: valgrind)"
							 : "valgrind has counted nothing; see above");
			return;
		}
		hf_benchmark_took_ns(benchmark, hf_monotonic_ns(NULL) - start_ns);
	}
	report(benchmark, &figures);
	hf_benchmark_counter(benchmark, "instructions_per_page", (double)count / (double)figures.pages);
}

static int migrate_once(const char *which)
{
	struct hf_engines_figures figures;
	struct hf_err err = HF_ERR_INIT;
	char *end;
	unsigned long number = strtoul(which, &end, 10);
	if (*end || end == which || number >= SIZES)
		return EXIT_USAGE;
	if (migrate(number, &figures, &err) == 0)
		return 0;
	fprintf(stderr, "bench-engine: %s\n", err.text);
	return 1;
}

int main(int argc, char **argv)
{
	static size_t numbers[SIZES];
	static char names[2][SIZES][64];
	if (argc == 3 && strcmp(argv[1], "--migrate") == 0)
		return migrate_once(argv[2]);
	for (size_t i = 0; i < SIZES; i++) {
		numbers[i] = i;
		snprintf(names[0][i], sizeof(names[0][i]), "time/%uGiB/%uvcpus", sizes[i].gib,
			 sizes[i].vcpus);
		snprintf(names[1][i], sizeof(names[1][i]), "instructions/%uGiB/%uvcpus", sizes[i].gib,
			 sizes[i].vcpus);
		hf_benchmark_add(names[0][i], time_pages, &numbers[i]);
		hf_benchmark_add(names[1][i], instructions, &numbers[i]);
	}
	return hf_benchmark_main(argc, argv);
}
