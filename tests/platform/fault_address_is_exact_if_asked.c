/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a fault names the address that was touched if EXACT_ADDRESS was asked for, else the beginning of the
 * huge page.
 *
 * Kernel: 5.18 (EXACT_ADDRESS).
 *
 * Relied on by: hugemem/fault_reader.c, which finds the same page in both.
 */
#include <inttypes.h>

#include "tests/platform/platform.h"

static void show_of(uint64_t page_bytes, uint64_t features, uint64_t touched_offset, uint64_t named_offset)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, features, MISSING);
	struct toucher toucher;

	toucher_start(&toucher, ram_vmm(&ram, 1) + touched_offset, false);
	struct uffd_msg message = uffd_next(uffd, "a missing page");
	uint64_t offset = message.arg.pagefault.address - (uintptr_t)ram_vmm(&ram, 1);
	expect(offset == named_offset,
	       "a touch of byte %" PRIu64 " of a page is named %" PRId64 ", it was %" PRIu64, touched_offset,
	       (int64_t)offset, named_offset);
}

static void show(uint64_t page_bytes)
{
	show_of(page_bytes, MISSING_FAULT | UFFD_FEATURE_EXACT_ADDRESS, 12345, 12345);
	show_of(page_bytes, MISSING_FAULT, 12345, 0);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a fault names the exact address only if asked",
						    .show = show,
						    .pages = 1,
						    .giant_pages = 1,
						    .features = MISSING_FAULT | UFFD_FEATURE_EXACT_ADDRESS});
}
