/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: COPY whose content is not in memory takes a second huge page for the time of the copy. Where none is
 * to be had that is ENOMEM: a second page of 1 GiB comes from the pool or not at all, one of 2 MiB also from
 * memory outside it.
 *
 * Kernel: 4.11 (MISSING_HUGETLBFS).
 *
 * Relied on by: hugemem/incoming_prepare.c (the page of zeros and the staging slots are populated
 * beforehand), hugemem/placer.c (ENOMEM).
 */
#include <errno.h>
#include <sys/mman.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	uint8_t *resident = content_new(page_bytes, 1, 9);
	uint8_t *absent = ram_map(-1, page_bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);

	/* The page itself is reserved; nothing is left beside it. */
	ram.vmm = ram_map(ram.file, page_bytes, MAP_SHARED);
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	struct taken taken = pool_take_all(page_bytes);
	expect_answer("COPY of content that is not in memory", page_copy(uffd, &ram, 0, absent),
		      page_bytes == SIZE_1G ? -ENOMEM : 0);
	if (page_bytes == SIZE_2M)
		ram_punch(&ram, 0);
	pool_release(taken);
	ram.vmm = ram_map(ram.file, page_bytes, MAP_SHARED);
	uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	taken = pool_take_all(page_bytes);
	/* The opposite. */
	expect_answer("COPY of content that is in memory", page_copy(uffd, &ram, 0, resident), 0);
	expect(page_is_marked(ram.vmm, page_bytes, 9), "COPY shows something else than its content");
	pool_release(taken);
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "COPY of content that is not in memory takes a second page",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2,
				    .features = MISSING_FAULT});
}
