/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: in a range registered for both, a touch is a MISSING fault before the file holds the page and a MINOR
 * fault after.
 *
 * Kernel: 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: core/destination_pages.c (the received bit decides, never the kind of fault).
 */
#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);
	struct toucher first, second;

	toucher_start(&first, ram.vmm, false);
	struct uffd_msg message = uffd_next(uffd, "a page that the file does not hold");
	expect_fault(&message, &ram, 0, MISSING_KIND);
	ram_alias(&ram, 1)[0] = 7;
	toucher_start(&second, ram_vmm(&ram, 1), false);
	message = uffd_next(uffd, "a page that the file holds");
	expect_fault(&message, &ram, 1, MINOR_KIND);
	must(page_continue(uffd, &ram, 1) == 0);
	expect(toucher_end(&second) == 7, "CONTINUE shows something else than the file holds");
	expect(toucher_sleeps(&first), "placing one page lets go who waits for another");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "a fault is MISSING before the file holds the page, MINOR after",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = BOTH_FAULTS});
}
