/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: CONTINUE of a page that the file does not hold is EFAULT, and leaves it missing.
 *
 * Kernel: 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: hugemem/placer.c, to tell a page that the VMM has thrown away.
 */
#include <errno.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);

	expect_error("CONTINUE of a page that the file does not hold", page_continue(uffd, &ram, 0), EFAULT);
	expect(ram_pages_held(&ram) == 0, "CONTINUE allocates a page");
	/* The opposite. */
	ram.alias[0] = 1;
	expect_answer("CONTINUE of a page that the file holds", page_continue(uffd, &ram, 0), 0);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "CONTINUE of an absent page is EFAULT",
						    .show = show,
						    .pages = 1,
						    .giant_pages = 1,
						    .features = BOTH_FAULTS});
}
