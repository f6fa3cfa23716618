/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a page that the alias has half filled is hidden from the VMM's mapping by a registration for minor
 * faults; one for missing faults alone shows it without a message.
 *
 * Kernel: 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: hugemem/incoming_memory.c (shared memory is registered for both in either placement).
 */
#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram hidden = ram_new(page_bytes, 1), shown = ram_new(page_bytes, 1);
	int uffd = uffd_of(&hidden, BOTH_FAULTS, BOTH);
	struct toucher toucher;

	hidden.alias[0] = 7;
	toucher_start(&toucher, hidden.vmm + page_bytes - 1, false);
	struct uffd_msg message = uffd_next(uffd, "a page that is half filled");
	expect_fault(&message, &hidden, 0, MINOR_KIND);
	hidden.alias[page_bytes - 1] = 7;
	must(page_continue(uffd, &hidden, 0) == 0);
	expect(toucher_end(&toucher) == 7, "a page becomes visible before it is whole");

	uffd = uffd_of(&shown, BOTH_FAULTS, MISSING);
	shown.alias[0] = 7;
	expect(shown.vmm[0] == 7 && shown.vmm[page_bytes - 1] == 0 && uffd_is_silent(uffd),
	       "a registration for missing faults alone hides a page that is half filled");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "only a registration for minor faults hides a half-filled page",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2,
				    .features = BOTH_FAULTS});
}
