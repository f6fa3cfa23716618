/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: CONTINUE may come before any fault; of a page that is mapped already it is EEXIST, changes
 * nothing and wakes nobody.
 *
 * Kernel: 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: hugemem/placer.c, which therefore wakes after EEXIST.
 */
#include <errno.h>
#include <sys/ioctl.h>

#include "tests/platform/platform.h"

/* Makes page 0 visible under the feet of a thread that goes on waiting for it. */
static void show_without_waking(int uffd, const struct ram *ram)
{
	struct uffdio_continue request = {.range = {.start = (uintptr_t)ram->vmm, .len = ram->page_bytes},
					  .mode = UFFDIO_CONTINUE_MODE_DONTWAKE};

	must(ioctl(uffd, UFFDIO_CONTINUE, &request) == 0);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);
	struct toucher toucher;

	toucher_start(&toucher, ram.vmm, false);
	uffd_next(uffd, "the fault");
	ram.alias[0] = 5;
	show_without_waking(uffd, &ram);
	expect_error("CONTINUE of a page that is mapped", page_continue(uffd, &ram, 0), EEXIST);
	expect(toucher_sleeps(&toucher), "CONTINUE wakes although it says EEXIST");
	must(page_wake(uffd, &ram, 0) == 0);
	expect(toucher_end(&toucher) == 5, "a thread reads something else than what was placed");

	ram.vmm[0] = 6;
	expect_error("CONTINUE of a page the guest has written", page_continue(uffd, &ram, 0), EEXIST);
	expect(ram.vmm[0] == 6, "CONTINUE undoes a write of the guest");

	/* Before any fault. */
	struct ram other = ram_new(page_bytes, 1);
	uffd_add(uffd, other.vmm, page_bytes, BOTH);
	other.alias[0] = 7;
	expect_answer("CONTINUE before any fault", page_continue(uffd, &other, 0), 0);
	expect(page_is_mapped(0, other.vmm) && other.vmm[0] == 7, "CONTINUE does not map the page");
	expect(uffd_is_silent(uffd), "a page that CONTINUE has mapped faults");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "CONTINUE of a mapped page is EEXIST and wakes nobody",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2,
				    .features = BOTH_FAULTS});
}
