/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: mincore() says "absent" for a page that only another mapping has touched, once its own mapping has
 * page tables for it; in a mapping that is alone in its page tables and untouched it tells what the file
 * holds.
 *
 * Kernel: 2.6 (no release is known in which it does not).
 *
 * Relied on by: hugemem/residency.c.
 */
#include <inttypes.h>
#include <sys/mman.h>

#include "hugemem/residency.h"
#include "tests/platform/platform.h"

static bool mincore_says_present(uint8_t *page)
{
	unsigned char in_memory = 0;

	must(mincore(page, 1, &in_memory) == 0);
	return in_memory & 1;
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 3);
	struct hf_file_pages pages = {0};

	ram_vmm(&ram, 0)[0] = ram_vmm(&ram, 1)[0] = 1;
	expect(mincore_says_present(ram_vmm(&ram, 0)), "mincore() misses a page of its own mapping");
	/* Now this mapping has page tables. */
	ram_alias(&ram, 1)[0] = 1;
	expect(
	    !mincore_says_present(ram_alias(&ram, 0)),
	    "mincore() tells of pages that only others have touched: a mapping of its own is no more needed");
	/* The opposite: a mapping alone. */
	must(hf_file_pages_scan(ram.file, page_bytes, &pages, NULL) == 0);
	expect(pages.present == 2 && hf_file_page_present(&pages, 0) && hf_file_page_present(&pages, 1),
	       "mincore() on a mapping alone finds %" PRIu64 " of 2 pages", pages.present);
	hf_file_pages_free(&pages);
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "mincore() misses pages that only other mappings have touched",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2});
}
