/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a page that is punched out of the file does not show as written, though its content has changed to
 * zeros; a write after that does.
 *
 * Kernel: 6.7 (WP_ASYNC, PAGEMAP_SCAN).
 *
 * Relied on by: hugemem/outgoing_memory.c (presence is read once the VM stands still, not tracked),
 * hugemem/dirty_tracking.c (pages that were there and are not now are reported).
 */
#include <inttypes.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, TRACKING, UFFDIO_REGISTER_MODE_WP);

	ram_vmm(&ram, 0)[0] = ram_vmm(&ram, 1)[0] = 5;
	must(uffd_protect(uffd, ram.vmm, ram.length_bytes) == 0);
	expect(written_pages(0, &ram, true) == 0, "pages show as written that are not");
	ram_punch(&ram, 0);
	/* The opposite. */
	ram_vmm(&ram, 1)[0] = 6;
	uint64_t written = written_pages(0, &ram, true);
	expect(written == 2, "after a punch and a write beside it pages %" PRIx64 " show as written",
	       written);
	expect(ram_pages_held(&ram) == 1, "the scan has made a page");
	ram_vmm(&ram, 0)[0] = 7;
	expect(written_pages(0, &ram, true) == 1, "a write to a punched page does not show");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a punched hole never shows as written",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = TRACKING});
}
