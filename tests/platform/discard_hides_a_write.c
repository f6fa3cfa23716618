/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a write no longer shows once the VMM has let go of the page, and leaves nothing behind. Touched again
 * the page shows as written. A page, or a hole, that was protected leaves a mark (PAGE_IS_SWAPPED) when it is
 * let go of, and is protected still: touched again it shows only if it was written, even if a hole was
 * punched and it has become zeros.
 *
 * Kernel: 6.7 (WP_ASYNC, PAGEMAP_SCAN).
 *
 * Relied on by: hugemem/dirty_tracking.c (an entry without a mark was written; a page that is punched out and
 * read is the one change of content that is not found).
 */
#include <fcntl.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <unistd.h>

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

static bool is_marked(const struct ram *ram, unsigned page)
{
	struct page_region region;
	struct pm_scan_arg scan = {.size = sizeof(scan),
				   .start = (uintptr_t)ram_vmm(ram, page),
				   .end = (uintptr_t)ram_vmm(ram, page) + ram->page_bytes,
				   .vec = (uintptr_t)&region,
				   .vec_len = 1,
				   .category_mask = PAGE_IS_SWAPPED,
				   .return_mask = PAGE_IS_SWAPPED};
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	must(pagemap >= 0);
	int count = ioctl(pagemap, PAGEMAP_SCAN, &scan);
	close(pagemap);
	must(count >= 0);
	return count == 1;
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);

	int uffd = uffd_of(&ram, TRACKING, UFFDIO_REGISTER_MODE_WP);
	ram_vmm(&ram, 0)[0] = ram_vmm(&ram, 1)[0] = 5;
	expect_written(&ram, 3, "after two writes");
	ram_vmm(&ram, 0)[0] = 6;
	discard(&ram, 0);
	expect_written(&ram, 0, "after a page was written and let go of");
	expect(!is_marked(&ram, 0), "a page that was written leaves a mark when it is let go of");
	must(*(volatile uint8_t *)ram_vmm(&ram, 0) == 6);
	expect_written(&ram, 1, "after that page was read again");

	discard(&ram, 1);
	expect(is_marked(&ram, 1), "a page that was protected leaves no mark when it is let go of");
	must(*(volatile uint8_t *)ram_vmm(&ram, 1) == 5);
	expect_written(&ram, 0, "after a protected page was let go of and read again");
	ram_punch(&ram, 1);
	must(*(volatile uint8_t *)ram_vmm(&ram, 1) == 0);
	expect_written(&ram, 0, "after a protected page was punched out and read again");
	ram_vmm(&ram, 1)[0] = 7;
	expect_written(&ram, 2, "after that page was written");

	ram_punch(&ram, 0);
	expect_answer("WRITEPROTECT of all", uffd_protect(uffd, ram.vmm, ram.length_bytes), 0);
	expect(is_marked(&ram, 0), "a hole that was protected has no mark");
	ram_vmm(&ram, 0)[0] = 8;
	discard(&ram, 0);
	expect(!is_marked(&ram, 0), "the mark of a hole survives a write to it");
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
