/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a fault that was reported as MISSING is resolved by CONTINUE once the alias has filled the page.
 *
 * Kernel: 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: hugemem/placer.c (placement continue never asks which kind a fault was).
 */
#include <errno.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);
	struct toucher toucher;

	toucher_start(&toucher, ram.vmm + page_bytes - 1, false);
	struct uffd_msg message = uffd_next(uffd, "a missing page");
	expect_fault(&message, &ram, 0, MISSING_KIND);
	/* The opposite: not before. */
	expect_error("CONTINUE before the alias has filled the page", page_continue(uffd, &ram, 0), EFAULT);
	expect(toucher_sleeps(&toucher), "CONTINUE lets a thread go although it fails");
	page_mark(ram.alias, page_bytes, 7);
	expect(toucher_sleeps(&toucher), "a thread goes on while the alias is being filled");
	expect_answer("CONTINUE after a MISSING fault", page_continue(uffd, &ram, 0), 0);
	expect(toucher_end(&toucher) == 7, "a thread reads something else than the alias holds");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a MISSING fault is resolved by CONTINUE",
						    .show = show,
						    .pages = 1,
						    .giant_pages = 1,
						    .features = BOTH_FAULTS});
}
