/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: nr_hugepages may be lowered below what is reserved: the pages stay and count as surplus, and go when
 * they are let go of. Raising it again turns them back.
 *
 * Kernel: 2.6.24.
 *
 * Relied on by: hugemem/hugepool.c (the persistent pool is total less surplus).
 */
#include <inttypes.h>
#include <stdio.h>

#include "tests/platform/platform.h"

static void set_pool(uint64_t page_bytes, uint64_t pages)
{
	char path[128];

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/nr_hugepages",
		 page_bytes / 1024);
	FILE *file = fopen(path, "we");
	must(file && fprintf(file, "%" PRIu64, pages) > 0 && fclose(file) == 0);
}

static void show(uint64_t page_bytes)
{
	uint64_t total = pool_counter(page_bytes, "nr_hugepages");
	uint64_t surplus = pool_counter(page_bytes, "surplus_hugepages");
	struct taken taken = pool_take_all(page_bytes);

	/* Put back before anything is judged: the pool is the host's. */
	set_pool(page_bytes, total - surplus - 1);
	uint64_t lowered_total = pool_counter(page_bytes, "nr_hugepages");
	uint64_t lowered_surplus = pool_counter(page_bytes, "surplus_hugepages");
	set_pool(page_bytes, total - surplus);
	uint64_t raised_total = pool_counter(page_bytes, "nr_hugepages");
	uint64_t raised_surplus = pool_counter(page_bytes, "surplus_hugepages");
	pool_release(taken);
	set_pool(page_bytes, total - surplus - 1);
	uint64_t free_total = pool_counter(page_bytes, "nr_hugepages");
	set_pool(page_bytes, total - surplus);

	expect(lowered_total == total,
	       "lowering the pool takes a reserved page: %" PRIu64 " of %" PRIu64 " are left", lowered_total,
	       total);
	expect(lowered_surplus == surplus + 1, "a page below which the pool was lowered is no surplus");
	expect(raised_total == total && raised_surplus == surplus,
	       "raising the pool does not take surplus pages in");
	/* The opposite. */
	expect(free_total == total - 1, "lowering the pool does not take a page that nobody has");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "lowering the pool below reservations makes surplus pages",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2});
}
