/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: PAGEMAP_SCAN with PM_SCAN_CHECK_WPASYNC fails with EPERM where writes are not tracked, be it with or
 * without PM_SCAN_WP_MATCHING: never registered, registered for other faults, unregistered, mapped anew.
 * Without the check such a scan says that nothing was protected.
 *
 * Kernel: 6.7 (WP_ASYNC, PAGEMAP_SCAN).
 *
 * Relied on by: hugemem/dirty_tracking.c (tracking that has ended is an error, never "nothing written").
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "tests/platform/platform.h"

static int scan(const struct ram *ram, uint64_t flags)
{
	struct page_region region;
	struct pm_scan_arg scan = {.size = sizeof(scan),
				   .flags = flags,
				   .start = (uintptr_t)ram->vmm,
				   .end = (uintptr_t)ram->vmm + ram->length_bytes,
				   .vec = (uintptr_t)&region,
				   .vec_len = 1,
				   .category_mask = PAGE_IS_WRITTEN,
				   .return_mask = PAGE_IS_WRITTEN};
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	must(pagemap >= 0);
	int result = ioctl(pagemap, PAGEMAP_SCAN, &scan) < 0 ? -errno : 0;
	close(pagemap);
	return result;
}

static void expect_refused(const struct ram *ram, const char *what)
{
	expect_error(what, scan(ram, PM_SCAN_CHECK_WPASYNC), EPERM);
	expect_error(what, scan(ram, PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING), EPERM);
}

static void unregister(int uffd, const struct ram *ram)
{
	struct uffdio_range range = {.start = (uintptr_t)ram->vmm, .len = ram->length_bytes};

	must(ioctl(uffd, UFFDIO_UNREGISTER, &range) == 0);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);

	ram_vmm(&ram, 0)[0] = 1;
	expect_refused(&ram, "a scan of memory that was never registered");
	int uffd = uffd_of(&ram, TRACKING | MISSING_FAULT, MISSING);
	expect_refused(&ram, "a scan of memory that is registered for missing faults");
	unregister(uffd, &ram);
	uffd_add(uffd, ram.vmm, ram.length_bytes, UFFDIO_REGISTER_MODE_WP);
	expect_answer("a scan of memory that is tracked",
		      scan(&ram, PM_SCAN_CHECK_WPASYNC | PM_SCAN_WP_MATCHING), 0);
	expect_answer("a scan without the check", scan(&ram, 0), 0);
	unregister(uffd, &ram);
	expect_refused(&ram, "a scan of memory that is no longer registered");
	uffd_add(uffd, ram.vmm, ram.length_bytes, UFFDIO_REGISTER_MODE_WP);
	must(mmap(ram.vmm, ram.length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
		  ram.file, 0) == ram.vmm);
	expect_refused(&ram, "a scan of memory that was mapped anew");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "a scan of memory that is not tracked is refused",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = TRACKING | MISSING_FAULT});
}
