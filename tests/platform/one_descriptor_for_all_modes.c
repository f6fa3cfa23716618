/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: one userfaultfd takes missing and minor faults and tracks writes of the same range: pages are placed
 * by COPY and CONTINUE, and writes to them, also to pages placed after the protection, show in PAGEMAP_SCAN.
 *
 * Kernel: 6.7 (WP_ASYNC, PAGEMAP_SCAN).
 *
 * Relied on by: hugemem/attach_session.c (one descriptor a range), hugemem/kernel_compat.h.
 */
#include <inttypes.h>

#include "tests/platform/platform.h"

#define FEATURES (BOTH_FAULTS | TRACKING)

static void expect_written(const struct ram *ram, uint64_t expected, const char *when)
{
	uint64_t written = written_pages(0, ram, false);

	expect(written == expected, "%s, pages %" PRIx64 " are written, it was %" PRIx64, when, written,
	       expected);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, FEATURES, BOTH | UFFDIO_REGISTER_MODE_WP);
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct toucher toucher;

	expect_answer("COPY in all modes", page_copy(uffd, &ram, 0, content), 0);
	expect_answer("WRITEPROTECT in all modes", uffd_protect(uffd, ram.vmm, ram.length_bytes), 0);
	expect_written(&ram, 0, "after the protection");
	ram_vmm(&ram, 0)[0] = 1;
	expect_written(&ram, 1, "after a write to a page that was placed before");

	toucher_start(&toucher, ram_vmm(&ram, 1), true);
	struct uffd_msg message = uffd_next(uffd, "a missing page that was protected");
	expect_fault(&message, &ram, 1, MISSING_KIND);
	ram_alias(&ram, 1)[0] = 5;
	expect_answer("CONTINUE of a missing page that was protected", page_continue(uffd, &ram, 1), 0);
	expect(toucher_end(&toucher) == 5, "CONTINUE shows something else than the file holds");
	expect_written(&ram, 3, "after a write to a page that was missing");
	expect(uffd_is_silent(uffd), "a write that is tracked raises a message");
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "one descriptor takes missing and minor faults and tracks writes",
	    .show = show,
	    .pages = 2,
	    .giant_pages = 2,
	    .features = FEATURES});
}
