/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a private mapping registered for missing faults shows the pages of the file behind it without a
 * fault.
 *
 * Kernel: 4.11 (MISSING_HUGETLBFS).
 *
 * Relied on by: hugemem/incoming_prepare.c (the file behind private memory must be empty).
 */
#include <sys/mman.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	ram.vmm = ram_map(ram.file, ram.length_bytes, MAP_PRIVATE | MAP_NORESERVE);
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	struct toucher toucher;

	ram.alias[0] = 7;
	toucher_start(&toucher, ram.vmm, false);
	expect(toucher_end(&toucher) == 7 && uffd_is_silent(uffd),
	       "a private mapping hides the pages of its file");
	/* The opposite. */
	toucher_start(&toucher, ram_vmm(&ram, 1), false);
	struct uffd_msg message = uffd_next(uffd, "a hole of the file behind a private mapping");
	expect_fault(&message, &ram, 1, MISSING_KIND);
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "a private mapping shows its file's pages without a fault",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = MISSING_FAULT});
}
