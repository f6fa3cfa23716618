/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a huge page is zeros when a mapping first touches it, whatever it held for others before.
 *
 * Kernel: 2.6.
 *
 * Relied on by: hugemem/incoming_memory.c (a landing in the alias that nothing was written to needs no
 * clearing).
 */
#include <string.h>
#include <sys/mman.h>

#include "tests/platform/platform.h"

/* All of the pool, so that the same pages come again. */
static uint64_t count_dirty_pages(struct taken taken, uint64_t page_bytes)
{
	uint64_t dirty = 0;

	for (uint64_t at = 0; at < taken.length_bytes; at += page_bytes) {
		const uint8_t *page = (const uint8_t *)taken.address + at;
		/* Equal to itself moved by one byte: all bytes are the first one. */
		dirty += page[0] != 0 || memcmp(page, page + 1, page_bytes - 1) != 0;
	}
	return dirty;
}

static void show(uint64_t page_bytes)
{
	struct taken taken = pool_take_all(page_bytes);

	memset(taken.address, 0xff, taken.length_bytes);
	/* The opposite. */
	must(count_dirty_pages(taken, page_bytes) == taken.length_bytes / page_bytes);
	pool_release(taken);
	taken = pool_take_all(page_bytes);
	must(madvise(taken.address, taken.length_bytes, MADV_POPULATE_WRITE) == 0);
	expect(count_dirty_pages(taken, page_bytes) == 0, "a fresh page shows what it held before");
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "a page is zeros when first touched", .show = show, .pages = 2, .giant_pages = 1});
}
