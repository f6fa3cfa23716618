/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: WAKE alone resolves nothing on a page that the VMM has discarded: the thread faults again, as
 * MISSING, each time, and goes on only when a page is there.
 *
 * Kernel: 4.11 (MISSING_HUGETLBFS).
 *
 * Relied on by: hugemem/placer.c (a fault on a received page is placed again, never only woken).
 */

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);
	uint8_t *content = content_new(page_bytes, 1, 9), *zeros = content_new(page_bytes, 1, 0);
	struct toucher toucher;

	must(page_copy(uffd, &ram, 0, content) == 0);
	ram_punch(&ram, 0);
	toucher_start(&toucher, ram.vmm, false);
	for (int round = 0; round < 3; round++) {
		struct uffd_msg message = uffd_next(uffd, "a discarded page, woken");
		expect_fault(&message, &ram, 0, MISSING_KIND);
		expect_answer("WAKE of a discarded page", page_wake(uffd, &ram, 0), 0);
	}
	uffd_next(uffd, "a discarded page, woken for the last time");
	/* The opposite. */
	must(page_copy(uffd, &ram, 0, zeros) == 0);
	expect(toucher_end(&toucher) == 0, "a discarded page shows what it held before");
	expect(uffd_is_silent(uffd), "a page that was placed again faults");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "WAKE alone on a discarded page faults again as MISSING",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = BOTH_FAULTS});
}
