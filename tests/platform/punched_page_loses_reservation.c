/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a page that is punched loses its reservation: somebody else may take it, and COPY then finds no page.
 * A page of the same mapping that was never touched keeps its own.
 *
 * Kernel: 4.3 (holes in hugetlbfs).
 *
 * Relied on by: hugemem/placer.c (a page that cannot be placed is kept, reported and tried again).
 */
#include <inttypes.h>

#include "tests/platform/platform.h"
#include "tests/unit/hugemem/host_pages.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	uint8_t *content = content_new(page_bytes, 1, 9);

	/* As a VMM maps it: with a reservation. */
	ram.vmm = ram_map(ram.file, ram.length_bytes, MAP_SHARED);
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	must(page_copy(uffd, &ram, 0, content) == 0);
	uint64_t before = host_pages_available(page_bytes);
	ram_punch(&ram, 0);
	uint64_t gained = host_pages_available(page_bytes) - before;
	expect(gained == 1, "punching a page makes %" PRId64 " available to others", gained);

	struct taken taken = pool_take_all(page_bytes);
	expect(page_copy(uffd, &ram, 0, content) < 0, "a punched page has kept its reservation");
	expect(!page_is_mapped(0, ram.vmm), "COPY maps a page although it fails");
	/* The opposite. */
	expect_answer("COPY of a page that was never touched", page_copy(uffd, &ram, 1, content), 0);
	pool_release(taken);
	expect_answer("COPY of a punched page, with a page in the pool", page_copy(uffd, &ram, 0, content),
		      0);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a punched page loses its reservation",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = MISSING_FAULT});
}
