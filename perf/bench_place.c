/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What it costs to make a page visible whose bytes are here, by either placement, and what the kernel can do
 * at best. Real huge pages; this process is the VMM and the agent. Nobody waits for the pages.
 *
 *  - copy/SIZE: UFFDIO_COPY out of a staging slot: allocates and copies. Limit: memcpy to a page that is
 * there.
 *  - continue/SIZE: UFFDIO_CONTINUE of a page that was allocated before (off the path, as in a migration).
 * Limit: a touch of such a page through a mapping without userfaultfd: the kernel maps it by itself.
 *  - allocate_and_continue/SIZE: the page is allocated first, on the path, landed in, and continued. Limit:
 * first touch (allocates and zeroes) and memcpy.
 *  - first_touch/SIZE: allocating and zeroing alone. Limit: memset of a page that is there.
 *
 *   bench-place [--small] [option of Google Benchmark...]       --small: no pages of 1 GiB
 *
 * Wants root and some huge pages; takes them from the host and gives them back.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "deploy/monotonic.h"
#include "hugemem/hugepool.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/uffd_open.h"
#include "hugemem/userfault.h"
#include "perf/benchmark_shim.h"
#include "perf/samples.h"

#define MIB	       (1ull << 20)
#define GIB	       (1ull << 30)
#define FEATURES       (UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS)
#define MFD_SIZE_SHIFT 26 /* MFD_HUGE_SHIFT of linux/memfd.h */

struct size {
	const char *name;
	uint64_t page_bytes;
	uint32_t pages; /* of the guest's file, and staged: more than caches hold, where that is possible */
};

static const struct size sizes[] = {{"2M", 2 * MIB, 24}, {"1G", GIB, 1}};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

struct place {
	struct hf_benchmark *benchmark;
	const struct size *size;
	uint64_t bytes, added_pages;
	int fd, uffd; /* of the guest's memory */
	uint8_t *guest, *alias, *staging, *plain;
	uint32_t page; /* the next to be used */
	struct hf_samples us, raw_us;
	struct hf_err err;
};

/* ---- memory ------------------------------------------------------------------------------------ */

static int map(struct place *p, uint8_t **out)
{
	uint8_t *mapped = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, p->fd, 0);
	if (mapped == MAP_FAILED)
		return hf_err_set(&p->err, HF_ERR_LOCAL, errno, "no huge pages can be mapped: %s",
				  strerror(errno));
	*out = mapped;
	return 0;
}

static int open_guest(struct place *p)
{
	unsigned shift = (unsigned)__builtin_ctzll(p->size->page_bytes);
	p->fd = memfd_create("hf-place", MFD_CLOEXEC | MFD_HUGETLB | shift << MFD_SIZE_SHIFT);
	if (p->fd < 0 || ftruncate(p->fd, (off_t)p->bytes))
		return hf_err_set(&p->err, HF_ERR_LOCAL, errno, "no file of huge pages: %s", strerror(errno));
	int result = map(p, &p->guest);
	if (!result)
		result = map(p, &p->alias);
	if (!result)
		result = map(p, &p->plain);
	if (!result)
		result = hf_uffd_open(&p->uffd, FEATURES, &p->err);
	if (result)
		return result;
	result = hf_userfault_register(p->uffd, (uintptr_t)p->guest, p->bytes,
				       UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
	return result ? hf_err_set(&p->err, HF_ERR_LOCAL, -result, "userfaultfd does not take the memory")
		      : 0;
}

static int start(struct place *p)
{
	void *staging = NULL;
	p->fd = p->uffd = -1;
	p->bytes = p->size->page_bytes * p->size->pages;
	int result =
	    hf_hugepages_reserve(p->size->page_bytes, 2ull * p->size->pages, &p->added_pages, &p->err);
	if (!result)
		result = open_guest(p);
	if (!result)
		result = hf_hugepages_map(p->size->page_bytes, p->size->pages, &staging, &p->err);
	if (result)
		return result;
	p->staging = staging;
	memset(staging, 0x5a, p->bytes);
	return 0;
}

static void stop(struct place *p)
{
	uint8_t *mapped[] = {p->guest, p->alias, p->plain, p->staging};
	for (size_t i = 0; i < sizeof(mapped) / sizeof(mapped[0]); i++)
		if (mapped[i])
			munmap(mapped[i], p->bytes);
	if (p->uffd >= 0)
		close(p->uffd);
	if (p->fd >= 0)
		close(p->fd);
	hf_hugepages_give_back(p->size->page_bytes, p->added_pages, &p->err);
	hf_samples_free(&p->us);
	hf_samples_free(&p->raw_us);
}

/* ---- steps ------------------------------------------------------------------------------------- */

static uint64_t offset_of(const struct place *p)
{
	return p->page * p->size->page_bytes;
}

static void next_page(struct place *p)
{
	p->page = (p->page + 1) % p->size->pages;
}

/* Neither the file nor anybody's mapping has the page. */
static int take_away(struct place *p)
{
	if (fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset_of(p),
		      (off_t)p->size->page_bytes))
		return -errno;
	return 0;
}

/* The file has it, through the alias; the guest's mapping and the plain one do not. */
static int leave_in_file(struct place *p)
{
	uint64_t at = offset_of(p);
	if (madvise(p->alias + at, p->size->page_bytes, MADV_POPULATE_WRITE) ||
	    madvise(p->guest + at, p->size->page_bytes, MADV_DONTNEED) ||
	    madvise(p->plain + at, p->size->page_bytes, MADV_DONTNEED))
		return -errno;
	return 0;
}

static void touch(uint8_t *address)
{
	*(volatile uint8_t *)address = 1;
}

/* ---- what is measured -------------------------------------------------------------------------- */

/* One page each way; what has to be before it is done in `before`, and is not counted. */
struct way {
	const char *name;
	int (*before)(struct place *p);
	int (*act)(struct place *p);
	int (*before_raw)(struct place *p);
	int (*raw)(struct place *p);
};

static int copy(struct place *p)
{
	uint64_t at = offset_of(p);
	return hf_userfault_copy(p->uffd, (uintptr_t)p->guest + at, p->staging + at, p->size->page_bytes);
}

static int raw_copy(struct place *p)
{
	memcpy(p->alias + offset_of(p), p->staging + offset_of(p), p->size->page_bytes);
	return 0;
}

static int show(struct place *p)
{
	return hf_userfault_continue(p->uffd, (uintptr_t)p->guest + offset_of(p), p->size->page_bytes);
}

static int raw_map(struct place *p)
{
	touch(p->plain + offset_of(p));
	return 0;
}

static int allocate_and_show(struct place *p)
{
	if (madvise(p->alias + offset_of(p), p->size->page_bytes, MADV_POPULATE_WRITE))
		return -errno;
	raw_copy(p);
	return show(p);
}

static int first_touch(struct place *p)
{
	touch(p->alias + offset_of(p));
	return 0;
}

static int raw_allocate(struct place *p)
{
	first_touch(p);
	return raw_copy(p);
}

static int raw_zero(struct place *p)
{
	memset(p->alias + offset_of(p), 0, p->size->page_bytes);
	return 0;
}

static const struct way ways[] = {
    {"copy", take_away, copy, leave_in_file, raw_copy},
    {"continue", leave_in_file, show, leave_in_file, raw_map},
    {"allocate_and_continue", take_away, allocate_and_show, take_away, raw_allocate},
    {"first_touch", take_away, first_touch, leave_in_file, raw_zero},
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))

struct place_case {
	char name[64];
	const struct way *way;
	const struct size *size;
};

static int timed(struct place *p, int (*before)(struct place *), int (*act)(struct place *),
		 uint64_t *took_ns)
{
	int result = before(p);
	if (result)
		return result;
	uint64_t began_ns = hf_monotonic_ns(NULL);
	result = act(p);
	*took_ns = hf_monotonic_ns(NULL) - began_ns;
	return result;
}

static int pair(struct place *p, const struct way *way, uint64_t *took_ns, uint64_t *raw_ns)
{
	int result = timed(p, way->before, way->act, took_ns);
	next_page(p);
	if (!result)
		result = timed(p, way->before_raw, way->raw, raw_ns);
	next_page(p);
	if (result)
		hf_err_set(&p->err, HF_ERR_LOCAL, -result, "a page could not be placed: %s",
			   strerror(-result));
	return result;
}

/* Each page has been used once: a host that is a VM itself backs its memory only then. */
static int warm_up(struct place *p, const struct way *way)
{
	uint64_t took_ns, raw_ns;
	int result = 0;
	for (uint32_t i = 0; i < p->size->pages && !result; i++)
		result = pair(p, way, &took_ns, &raw_ns);
	return result;
}

static int measure(struct place *p, const struct way *way)
{
	uint64_t took_ns, raw_ns;
	int result = pair(p, way, &took_ns, &raw_ns);
	if (result)
		return result;
	hf_samples_add(&p->us, (double)took_ns / 1e3);
	hf_samples_add(&p->raw_us, (double)raw_ns / 1e3);
	hf_benchmark_took_ns(p->benchmark, took_ns);
	return 0;
}

static void report(struct place *p)
{
	struct hf_benchmark *b = p->benchmark;
	hf_benchmark_counter(b, "p50_us", hf_samples_rank(&p->us, 500));
	hf_benchmark_counter(b, "p99_us", hf_samples_rank(&p->us, 990));
	hf_benchmark_counter(b, "raw_p50_us", hf_samples_rank(&p->raw_us, 500));
	hf_benchmark_counter(b, "raw_p99_us", hf_samples_rank(&p->raw_us, 990));
	hf_benchmark_counter(b, "page_bytes", (double)p->size->page_bytes);
	hf_benchmark_counter(b, "pairs", (double)p->us.count);
}

static void run_case(struct hf_benchmark *benchmark, const void *argument)
{
	const struct place_case *of = argument;
	struct place p = {.benchmark = benchmark, .size = of->size};
	int result = start(&p);
	if (!result)
		result = warm_up(&p, of->way);
	while (!result && hf_benchmark_next(benchmark))
		result = measure(&p, of->way);
	if (result)
		hf_benchmark_fail(benchmark, p.err.text);
	else
		report(&p);
	stop(&p);
}

int main(int argc, char **argv)
{
	struct place_case cases[WAYS * SIZES], *next = cases;
	bool small = argc > 1 && strcmp(argv[1], "--small") == 0;
	if (small) {
		argv[1] = argv[0];
		argc--;
		argv++;
	}
	for (size_t i = 0; i < (small ? 1 : SIZES); i++)
		for (size_t j = 0; j < WAYS; j++, next++) {
			snprintf(next->name, sizeof(next->name), "%s/%s", ways[j].name, sizes[i].name);
			next->way = &ways[j];
			next->size = &sizes[i];
			hf_benchmark_add(next->name, run_case, next);
		}
	return hf_benchmark_main(argc, argv);
}
