/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a userfaultfd acts on the memory of the process that opened it, whoever holds it: addresses are that
 * process's, and its faults arrive at any holder.
 *
 * Kernel: 4.11 (MISSING_HUGETLBFS).
 *
 * Relied on by: hugemem/attach.h (the hand-off), hugemem/placer.c (addresses are the VMM's).
 */
#include <unistd.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_of(&ram, BOTH_FAULTS | UFFD_FEATURE_THREAD_ID, BOTH);
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct toucher toucher;
	int ends[2];

	must(pipe(ends) == 0);
	/* The holder has a mapping of its own at the same address, which must stay as it is. */
	pid_t holder = platform_fork();
	if (holder == 0) {
		struct uffd_msg message = uffd_next(uffd, "the maker's fault, to a holder");
		expect_fault(&message, &ram, 0, MISSING_KIND);
		must(page_copy(uffd, &ram, 0, content) == 0);
		say(ends[1], page_is_mapped(0, ram.vmm) ? 1 : 2);
		_exit(0);
	}
	toucher_start(&toucher, ram.vmm, false);
	expect(toucher_end(&toucher) == 9, "the maker reads something else than what a holder has placed");
	expect(hear(ends[0]) == 2, "a holder's COPY maps the page in its own memory");
	expect(page_is_mapped(0, ram.vmm), "a holder's COPY does not map the page in the maker's memory");
	must(platform_wait(holder) == 0);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a userfaultfd acts on the memory of its maker",
						    .show = show,
						    .pages = 1,
						    .giant_pages = 1,
						    .features = BOTH_FAULTS | UFFD_FEATURE_THREAD_ID});
}
