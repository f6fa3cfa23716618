/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a page that the VMM comes to have while its writes are tracked shows as written, also where it has
 * only read it, and whoever filled it. If the hole itself was write-protected, a read of it does not show,
 * and a write does.
 *
 * Kernel: 6.7 (WP_ASYNC, PAGEMAP_SCAN), 6.4 (WP_UNPOPULATED).
 *
 * Relied on by: hugemem/dirty_tracking.c (holes are protected, and pages that come to
 * exist are looked for besides).
 */
#include <inttypes.h>

#include "tests/platform/platform.h"

static void expect_written(const struct ram *ram, uint64_t expected, const char *when)
{
	uint64_t written = written_pages(0, ram, true);

	expect(written == expected, "%s, pages %" PRIx64 " show as written, it was %" PRIx64, when, written,
	       expected);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, TRACKING, UFFDIO_REGISTER_MODE_WP);

	expect_written(&ram, 0, "before any page is there");
	must(*(volatile uint8_t *)ram_vmm(&ram, 0) == 0);
	expect_written(&ram, 1, "after a hole was read");
	ram_alias(&ram, 1)[0] = 5;
	expect_written(&ram, 0, "after another mapping has filled a hole");
	must(*(volatile uint8_t *)ram_vmm(&ram, 1) == 5);
	expect_written(&ram, 2, "after the VMM has read what another mapping has filled");
	/* The opposite. */
	ram_punch(&ram, 0);
	expect_answer("WRITEPROTECT of a hole", uffd_protect(uffd, ram.vmm, page_bytes), 0);
	must(*(volatile uint8_t *)ram_vmm(&ram, 0) == 0);
	expect_written(&ram, 0, "after a protected hole was read");
	ram_vmm(&ram, 0)[0] = 1;
	expect_written(&ram, 1, "after a protected hole was read and then written");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a page that comes to exist shows as written",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = TRACKING});
}
