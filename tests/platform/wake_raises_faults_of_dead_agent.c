/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a fault that was read by an agent that has died is raised again by WAKE of its range. It may come
 * again without (a waiting thread that is disturbed faults anew), so a fault may be read twice.
 *
 * Kernel: 4.11 (MISSING_HUGETLBFS).
 *
 * Relied on by: hugemem/attach.c, which wakes when it hands a registration to the next agent;
 * core/destination_pages.c (a fault on a page in flight or received).
 */
#include <unistd.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct toucher toucher;

	pid_t agent = platform_fork();
	if (agent == 0) {
		uffd_next(uffd, "the fault, to the first agent");
		_exit(0);
	}
	toucher_start(&toucher, ram.vmm, false);
	must(platform_wait(agent) == 0);
	while (!toucher_sleeps(&toucher) || !uffd_is_silent(uffd))
		if (!uffd_is_silent(uffd))
			uffd_next(uffd, "a fault that came again by itself");
	expect_answer("WAKE of a missing page", page_wake(uffd, &ram, 0), 0);
	struct uffd_msg message = uffd_next(uffd, "a fault that a dead agent had read, after WAKE");
	expect_fault(&message, &ram, 0, MISSING_KIND);
	must(page_copy(uffd, &ram, 0, content) == 0);
	expect(toucher_end(&toucher) == 9, "a thread reads something else than what was placed");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "WAKE raises again the faults that a dead agent has read",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = MISSING_FAULT});
}
