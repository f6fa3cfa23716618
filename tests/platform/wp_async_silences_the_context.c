/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: WP_ASYNC holds for every range of its userfaultfd: writes to protected pages raise no message there.
 * Without it each does, and the writer waits.
 *
 * Kernel: 5.19 (WP_HUGETLBFS_SHMEM), 6.7 (WP_ASYNC).
 *
 * Relied on by: hugemem/attach_session.c (tracking and a live snapshot need two descriptors).
 */
#include <errno.h>
#include <sys/ioctl.h>

#include "tests/platform/platform.h"

static struct ram protected_ram(int uffd, uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);

	ram.vmm[0] = 5;
	uffd_add(uffd, ram.vmm, page_bytes, UFFDIO_REGISTER_MODE_WP);
	must(uffd_protect(uffd, ram.vmm, page_bytes) == 0);
	return ram;
}

static void show(uint64_t page_bytes)
{
	int async = uffd_new(TRACKING), sync = uffd_new(TRACKING & ~UFFD_FEATURE_WP_ASYNC);
	struct ram first = protected_ram(async, page_bytes), second = protected_ram(async, page_bytes);
	struct toucher toucher;

	first.vmm[0] = 6;
	second.vmm[0] = 6;
	expect(uffd_is_silent(async), "a write raises a message in spite of WP_ASYNC");
	expect(written_pages(0, &first, false) == 1 && written_pages(0, &second, false) == 1,
	       "a write does not show in PAGEMAP_SCAN");
	ram_punch(&first, 0);
	ram_punch(&second, 0);

	/* The opposite. */
	struct ram other = protected_ram(sync, page_bytes);
	toucher_start(&toucher, other.vmm, true);
	struct uffd_msg message = uffd_next(sync, "a write, without WP_ASYNC");
	expect_fault(&message, &other, 0, UFFD_PAGEFAULT_FLAG_WP);
	expect(toucher_sleeps(&toucher), "without WP_ASYNC a writer does not wait");
	struct uffdio_writeprotect allow = {.range = {.start = (uintptr_t)other.vmm, .len = page_bytes}};
	must(ioctl(sync, UFFDIO_WRITEPROTECT, &allow) == 0);
	toucher_end(&toucher);
	expect(other.vmm[0] == 77, "a write that was allowed is lost");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "WP_ASYNC silences its whole context",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = TRACKING});
}
