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
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "deploy/monotonic.h"
#include "hugemem/hugepool.h"
#include "hugemem/kernel_compat.h"
#include "perf/benchmark_shim.h"
#include "perf/placing.h"
#include "perf/samples.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

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
	struct hf_placing memory;
	uint8_t *staging;
	uint32_t page; /* the next to be used */
	struct hf_samples us, raw_us;
	struct hf_err err;
};

static int start(struct place *p)
{
	const struct size *size = p->size;
	void *staging = NULL;
	int result = hf_placing_open(&p->memory, size->page_bytes, size->pages, size->pages, &p->err);
	if (!result)
		result = hf_hugepages_map(size->page_bytes, size->pages, &staging, &p->err);
	if (result)
		return result;
	p->staging = staging;
	memset(staging, 0x5a, p->memory.bytes);
	return 0;
}

static void stop(struct place *p)
{
	if (p->staging)
		munmap(p->staging, p->memory.bytes);
	hf_placing_close(&p->memory);
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

static int take_away(struct place *p)
{
	return hf_placing_take_away(&p->memory, p->page);
}

static int leave_in_file(struct place *p)
{
	return hf_placing_leave_in_file(&p->memory, p->page);
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
	return hf_placing_copy(&p->memory, p->page, p->staging + offset_of(p));
}

static int raw_copy(struct place *p)
{
	memcpy(p->memory.alias + offset_of(p), p->staging + offset_of(p), p->size->page_bytes);
	return 0;
}

static int show(struct place *p)
{
	return hf_placing_continue(&p->memory, p->page);
}

static int raw_map(struct place *p)
{
	touch(p->memory.plain + offset_of(p));
	return 0;
}

static int allocate_and_show(struct place *p)
{
	if (madvise(p->memory.alias + offset_of(p), p->size->page_bytes, MADV_POPULATE_WRITE))
		return -errno;
	raw_copy(p);
	return show(p);
}

static int first_touch(struct place *p)
{
	touch(p->memory.alias + offset_of(p));
	return 0;
}

static int raw_allocate(struct place *p)
{
	first_touch(p);
	return raw_copy(p);
}

static int raw_zero(struct place *p)
{
	memset(p->memory.alias + offset_of(p), 0, p->size->page_bytes);
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
	for (size_t i = 0; i < (small ? 1 : SIZES); i++) {
		if (!hf_hugepage_size_is_offered(sizes[i].page_bytes))
			continue;
		for (size_t j = 0; j < WAYS; j++, next++) {
			snprintf(next->name, sizeof(next->name), "%s/%s", ways[j].name, sizes[i].name);
			next->way = &ways[j];
			next->size = &sizes[i];
			hf_benchmark_add(next->name, run_case, next);
		}
	}
	return hf_benchmark_main(argc, argv);
}
