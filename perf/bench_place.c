/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long it takes to give a page of 2 MiB or 1 GiB its place, each way beside what the memory alone takes.
 *
 *   copy                   UFFDIO_COPY of a page that is in memory: the kernel allocates, copies, maps.
 * Limit: the same bytes copied to a page that is there. continue_allocates     the bytes land on a page of
 * the alias that is not there yet, then UFFDIO_CONTINUE: allocation is part of the way. Limit: the same bytes
 * copied to a page that is not there, without userfaultfd. continue_preallocated  the same onto a page that
 * was allocated before: what `receive` does. Limit: as for copy. first_touch            one byte of a page
 * that is not there: the kernel clears it. No limit of its own.
 *
 * In each iteration the limit and the way take turns in who is first, and a ratio is made of these two. Pages
 * of 2 MiB are taken one after the other from 64 MiB, so that caches hold them no better than a guest's.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "deploy/monotonic.h"
#include "hugemem/hugepool.h"
#include "hugemem/placer.h"
#include "hugemem/uffd_open.h"
#include "hugemem/userfault.h"
#include "perf/benchmark_shim.h"
#include "perf/samples.h"

#define MIB	     (1ull << 20)
#define GIB	     (1ull << 30)
#define WINDOW_BYTES (64 * MIB)
#define AREAS	     4u /* placed, fresh, target, content */

/* Pages of a file without a name, mapped shared. */
struct area {
	int fd;
	uint8_t *address;
};

struct place {
	uint64_t page_bytes;
	uint32_t pages, page; /* the one that is used now */
	uint64_t reserved_pages;
	struct area placed; /* its mapping here is the alias */
	struct area fresh;  /* the limit's: pages that are not there */
	uint8_t *target, *content;
	uint8_t *vmm; /* another mapping of `placed`, registered */
	int userfault_fd, pagemap_fd;
	struct hf_ramblocks blocks;
	struct hf_attached_region region;
	struct hf_placer placer;
	struct hf_err err;
	struct hf_samples continue_us;
};

typedef int step_fn(struct place *place);

struct way {
	const char *name;
	step_fn *prepare_limit, *limit; /* NULL: there is none */
	step_fn *prepare, *run;
};

/* ---- memory ------------------------------------------------------------------------------------ */

static int fail(struct place *place, const char *what)
{
	return hf_err_set(&place->err, HF_ERR_LOCAL, errno, "%s: %s", what, strerror(errno));
}

static void *map_file(const struct place *place, int fd)
{
	return mmap(NULL, place->pages * place->page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

static int make_area(struct place *place, struct area *area)
{
	unsigned size = (unsigned)__builtin_ctzll(place->page_bytes) << MAP_HUGE_SHIFT;
	area->fd = memfd_create("hf-bench-place", MFD_CLOEXEC | MFD_HUGETLB | size);
	if (area->fd < 0 || ftruncate(area->fd, (off_t)(place->pages * place->page_bytes)))
		return fail(place, "no file of huge pages");
	area->address = map_file(place, area->fd);
	if (area->address == MAP_FAILED) {
		area->address = NULL;
		return fail(place, "the file of huge pages cannot be mapped");
	}
	return 0;
}

static int make_filled(struct place *place, uint8_t **address)
{
	void *mapped = NULL;
	int result = hf_hugepages_map(place->page_bytes, place->pages, &mapped, &place->err);
	if (result)
		return result;
	*address = mapped;
	memset(mapped, 0x5a, place->pages * place->page_bytes);
	return 0;
}

static int guard(struct place *place)
{
	const uint64_t features = UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS;
	uint64_t length_bytes = place->pages * place->page_bytes;
	void *vmm = map_file(place, place->placed.fd);
	if (vmm == MAP_FAILED)
		return fail(place, "the file of huge pages cannot be mapped");
	place->vmm = vmm;
	place->pagemap_fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (place->pagemap_fd < 0)
		return fail(place, "/proc/self/pagemap");
	int result = hf_uffd_open(&place->userfault_fd, features, &place->err);
	if (result == 0) {
		result = hf_userfault_register(place->userfault_fd, (uintptr_t)vmm, length_bytes,
					       UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
		if (result)
			hf_err_set(&place->err, HF_ERR_LOCAL, -result, "UFFDIO_REGISTER: %s",
				   strerror(-result));
	}
	if (result == 0)
		result =
		    hf_ramblocks_add(&place->blocks, "ram", length_bytes, place->page_bytes, &place->err);
	place->region = (struct hf_attached_region){.vmm_address = (uintptr_t)vmm,
						    .length_bytes = length_bytes,
						    .page_size_bytes = place->page_bytes,
						    .fd = place->placed.fd};
	place->placer = (struct hf_placer){.userfault_fd = place->userfault_fd,
					   .pagemap_fd = place->pagemap_fd,
					   .blocks = &place->blocks,
					   .regions = &place->region,
					   .zeros = place->content,
					   .minor = true};
	return result;
}

/* Where this host is a guest itself, its host may take long to give it a page for the first time. */
static void warm(const struct place *place)
{
	memset(place->placed.address, 1, place->pages * place->page_bytes);
	memset(place->fresh.address, 1, place->pages * place->page_bytes);
}

static int begin(struct place *place)
{
	uint64_t pages = (uint64_t)AREAS * place->pages;
	int result = hf_hugepages_reserve(place->page_bytes, pages, &place->reserved_pages, &place->err);
	if (result == 0)
		result = make_area(place, &place->placed);
	if (result == 0)
		result = make_area(place, &place->fresh);
	if (result == 0)
		result = make_filled(place, &place->target);
	if (result == 0)
		result = make_filled(place, &place->content);
	if (result == 0)
		warm(place);
	return result ? result : guard(place);
}

static void unmap(const struct place *place, uint8_t *address)
{
	if (address)
		munmap(address, place->pages * place->page_bytes);
}

static void end(struct place *place)
{
	const int fds[] = {place->userfault_fd, place->pagemap_fd, place->placed.fd, place->fresh.fd};
	unmap(place, place->vmm);
	unmap(place, place->placed.address);
	unmap(place, place->fresh.address);
	unmap(place, place->target);
	unmap(place, place->content);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	hf_ramblocks_destroy(&place->blocks);
	hf_samples_free(&place->continue_us);
	hf_hugepages_give_back(place->page_bytes, place->reserved_pages, NULL);
}

/* ---- steps ------------------------------------------------------------------------------------- */

static uint64_t offset(const struct place *place)
{
	return place->page * place->page_bytes;
}

static int punch(struct place *place, const struct area *area)
{
	if (fallocate(area->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset(place),
		      (off_t)place->page_bytes))
		return fail(place, "a page cannot be taken out of the file");
	return 0;
}

static int empty_placed(struct place *place)
{
	return punch(place, &place->placed);
}

static int empty_fresh(struct place *place)
{
	return punch(place, &place->fresh);
}

static int empty_and_allocate(struct place *place)
{
	int result = punch(place, &place->placed);
	if (result == 0)
		place->placed.address[offset(place)] = 0;
	return result;
}

static int copy_bytes(struct place *place, uint8_t *to)
{
	memcpy(to + offset(place), place->content + offset(place), place->page_bytes);
	return 0;
}

static int copy_to_target(struct place *place)
{
	return copy_bytes(place, place->target);
}

static int copy_to_fresh(struct place *place)
{
	return copy_bytes(place, place->fresh.address);
}

static int touch_fresh(struct place *place)
{
	place->fresh.address[offset(place)] = 1;
	return 0;
}

static int place_by_copy(struct place *place)
{
	return hf_placer_copy(&place->placer, 0, place->page, place->content + offset(place), &place->err);
}

static int land_and_continue(struct place *place)
{
	copy_bytes(place, place->placed.address);
	uint64_t landed_ns = hf_monotonic_ns(NULL);
	int result = hf_placer_continue(&place->placer, 0, place->page, &place->err);
	hf_samples_add(&place->continue_us, (double)(hf_monotonic_ns(NULL) - landed_ns) / 1000);
	return result;
}

static const struct way ways[] = {
    {"copy", NULL, copy_to_target, empty_placed, place_by_copy},
    {"continue_allocates", empty_fresh, copy_to_fresh, empty_placed, land_and_continue},
    {"continue_preallocated", NULL, copy_to_target, empty_and_allocate, land_and_continue},
    {"first_touch", NULL, NULL, empty_fresh, touch_fresh},
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

/* ---- measuring --------------------------------------------------------------------------------- */

static int timed(struct place *place, step_fn *prepare, step_fn *run, uint64_t *took_ns)
{
	int result = prepare ? prepare(place) : 0;
	uint64_t start_ns = hf_monotonic_ns(NULL);
	if (result == 0)
		result = run(place);
	*took_ns = hf_monotonic_ns(NULL) - start_ns;
	return result;
}

struct measured {
	struct hf_samples us, limit_us, ratio;
};

static int measure(struct hf_benchmark *benchmark, struct place *place, const struct way *way,
		   bool limit_first, struct measured *measured)
{
	uint64_t took_ns = 0, limit_ns = 0;
	int result = 0;
	if (way->limit && limit_first)
		result = timed(place, way->prepare_limit, way->limit, &limit_ns);
	if (result == 0)
		result = timed(place, way->prepare, way->run, &took_ns);
	if (result == 0 && way->limit && !limit_first)
		result = timed(place, way->prepare_limit, way->limit, &limit_ns);
	if (result)
		return result;
	hf_samples_add(&measured->us, (double)took_ns / 1000);
	if (way->limit) {
		hf_samples_add(&measured->limit_us, (double)limit_ns / 1000);
		hf_samples_add(&measured->ratio, (double)took_ns / (double)limit_ns);
	}
	hf_benchmark_took_ns(benchmark, took_ns);
	return 0;
}

static void report(struct hf_benchmark *benchmark, struct place *place, struct measured *measured)
{
	hf_benchmark_counter(benchmark, "p50_us", hf_samples_rank(&measured->us, 500));
	hf_benchmark_counter(benchmark, "p99_us", hf_samples_rank(&measured->us, 990));
	if (measured->ratio.count) {
		hf_benchmark_counter(benchmark, "raw_p50_us", hf_samples_rank(&measured->limit_us, 500));
		hf_benchmark_counter(benchmark, "ratio_p50", hf_samples_rank(&measured->ratio, 500));
		hf_benchmark_counter(benchmark, "ratio_p10", hf_samples_rank(&measured->ratio, 100));
		hf_benchmark_counter(benchmark, "ratio_p90", hf_samples_rank(&measured->ratio, 900));
	}
	if (place->continue_us.count) { // of it: the call alone
		hf_benchmark_counter(benchmark, "continue_p50_us", hf_samples_rank(&place->continue_us, 500));
		hf_benchmark_counter(benchmark, "continue_p99_us", hf_samples_rank(&place->continue_us, 990));
	}
}

struct case_of {
	const struct way *way;
	uint64_t page_bytes;
};

static void run_case(struct hf_benchmark *benchmark, const void *argument)
{
	const struct case_of *of = argument;
	struct place place = {
	    .page_bytes = of->page_bytes,
	    .pages = (uint32_t)(of->page_bytes < WINDOW_BYTES ? WINDOW_BYTES / of->page_bytes : 1),
	    .placed.fd = -1,
	    .fresh.fd = -1,
	    .userfault_fd = -1,
	    .pagemap_fd = -1};
	struct measured measured = {0};
	hf_ramblocks_init(&place.blocks);
	int result = begin(&place);
	for (uint32_t turn = 0; result == 0 && hf_benchmark_next(benchmark); turn++) {
		place.page = turn % place.pages;
		result = measure(benchmark, &place, of->way, turn / place.pages % 2, &measured);
	}
	if (result)
		hf_benchmark_fail(benchmark, place.err.text);
	else
		report(benchmark, &place, &measured);
	end(&place);
	hf_samples_free(&measured.us);
	hf_samples_free(&measured.limit_us);
	hf_samples_free(&measured.ratio);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} sizes[] = {{"2MiB", 2 * MIB}, {"1GiB", GIB}};
	static struct case_of cases[WAYS][2];
	static char names[WAYS][2][48];
	for (size_t size = 0; size < 2; size++)
		for (size_t way = 0; way < WAYS; way++) {
			cases[way][size] = (struct case_of){&ways[way], sizes[size].bytes};
			snprintf(names[way][size], sizeof(names[way][size]), "place/%s/%s", sizes[size].name,
				 ways[way].name);
			hf_benchmark_add(names[way][size], run_case, &cases[way][size]);
		}
	return hf_benchmark_main(argc, argv);
}
