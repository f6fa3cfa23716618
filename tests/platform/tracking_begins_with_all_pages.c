/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a registration for write tracking protects nothing by itself: every page that is there shows as
 * written. The end of a registration lifts all protection, so with the next one every page shows as written
 * again.
 *
 * Kernel: 6.7 (WP_ASYNC, PAGEMAP_SCAN).
 *
 * Relied on by: hugemem/dirty_tracking.c (the first harvest needs no protection before it; what an earlier
 * agent has protected does not hide pages from the next).
 */
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

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);

	ram_vmm(&ram, 1)[0] = 1;
	int uffd = uffd_of(&ram, TRACKING, UFFDIO_REGISTER_MODE_WP);
	expect_written(&ram, 2, "after the registration");
	expect_written(&ram, 0, "after a scan that protects");
	struct uffdio_range range = {.start = (uintptr_t)ram.vmm, .len = ram.length_bytes};
	must(ioctl(uffd, UFFDIO_UNREGISTER, &range) == 0);
	uffd_add(uffd, ram.vmm, ram.length_bytes, UFFDIO_REGISTER_MODE_WP);
	expect_written(&ram, 2, "registered again");
	expect_written(&ram, 0, "after another scan that protects");
	close(uffd);
	uffd_of(&ram, TRACKING, UFFDIO_REGISTER_MODE_WP);
	expect_written(&ram, 2, "with another userfaultfd, the first having been closed");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a registration begins with all pages written",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = TRACKING});
}
