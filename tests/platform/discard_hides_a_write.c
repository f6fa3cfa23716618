/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a write no longer shows once the VMM has let go of the page; that it is not there shows. Touched
 * again it shows as written. A page that was protected and is let go of stays protected: touched again it
 * shows only if it was written, even if a hole was punched and it has become zeros.
 *
 * Kernel: 6.7 (WP_ASYNC, PAGEMAP_SCAN).
 *
 * Relied on by: hugemem/dirty_tracking.c (pages that were there and are not now are reported; a page that is
 * punched out and read is the one change of content that is not found).
 */
#include <inttypes.h>

#include "tests/platform/platform.h"

static void expect_written(const struct ram *ram, uint64_t expected, const char *when)
{
	uint64_t written = written_pages(0, ram, true);

	expect(written == expected, "%s, pages %" PRIx64 " show as written, it was %" PRIx64, when, written,
	       expected);
}

static void discard(const struct ram *ram, unsigned page)
{
	must(madvise(ram_vmm(ram, page), ram->page_bytes, MADV_DONTNEED) == 0);
	expect(!page_is_mapped(0, ram_vmm(ram, page)), "a page that was let go of shows as present");
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);

	uffd_of(&ram, TRACKING, UFFDIO_REGISTER_MODE_WP);
	ram_vmm(&ram, 0)[0] = ram_vmm(&ram, 1)[0] = 5;
	expect_written(&ram, 3, "after two writes");
	ram_vmm(&ram, 0)[0] = 6;
	discard(&ram, 0);
	expect_written(&ram, 0, "after a page was written and let go of");
	must(*(volatile uint8_t *)ram_vmm(&ram, 0) == 6);
	expect_written(&ram, 1, "after that page was read again");

	discard(&ram, 1);
	must(*(volatile uint8_t *)ram_vmm(&ram, 1) == 5);
	expect_written(&ram, 0, "after a protected page was let go of and read again");
	ram_punch(&ram, 1);
	must(*(volatile uint8_t *)ram_vmm(&ram, 1) == 0);
	expect_written(&ram, 0, "after a protected page was punched out and read again");
	ram_vmm(&ram, 1)[0] = 7;
	expect_written(&ram, 2, "after that page was written");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "a write does not show once the page was let go of",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2,
				    .features = TRACKING});
}
