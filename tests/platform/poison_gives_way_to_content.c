/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: COPY and CONTINUE take a poisoned page for a missing one: they place over the poison, and the page is
 * there. WAKE changes nothing about it.
 *
 * Kernel: 6.6 (POISON).
 *
 * Relied on by: hugemem/placer.c, core/destination_poison.c (a page that may be poisoned is never placed
 * again, also by the next process).
 */
#include <signal.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 3);
	int uffd = uffd_of(&ram, BOTH_FAULTS | UFFD_FEATURE_POISON, BOTH);
	uint8_t *content = content_new(page_bytes, 1, 9);

	page_mark(ram_alias(&ram, 0), page_bytes, 7);
	for (unsigned page = 0; page < 3; page++)
		must(page_poison(uffd, &ram, page) == 0);
	expect_answer("CONTINUE of a poisoned page", page_continue(uffd, &ram, 0), 0);
	expect(touch_signal(ram_vmm(&ram, 0), false) == 0 && page_is_marked(ram_vmm(&ram, 0), page_bytes, 7),
	       "CONTINUE does not show a poisoned page");
	expect_answer("COPY onto a poisoned page", page_copy(uffd, &ram, 1, content), 0);
	expect(touch_signal(ram_vmm(&ram, 1), false) == 0 && page_is_marked(ram_vmm(&ram, 1), page_bytes, 9),
	       "COPY does not show a poisoned page");
	expect_answer("WAKE of a poisoned page", page_wake(uffd, &ram, 2), 0);
	expect(touch_signal(ram_vmm(&ram, 2), false) == SIGBUS, "WAKE ends the poison");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "COPY and CONTINUE place over poison",
						    .show = show,
						    .pages = 3,
						    .giant_pages = 3,
						    .features = BOTH_FAULTS | UFFD_FEATURE_POISON});
}
