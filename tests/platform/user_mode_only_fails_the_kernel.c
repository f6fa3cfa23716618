/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a userfaultfd for user-mode faults only delivers a thread's faults; the kernel's own accesses to a
 * missing page fail with EFAULT, without a message.
 *
 * Kernel: 5.11 (UFFD_USER_MODE_ONLY).
 *
 * Relied on by: hugemem/uffd_open.c (never takes one), hugemem/probe.c (kernel_faults).
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/platform/platform.h"

static int user_mode_uffd(void)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API, .features = MISSING_FAULT};

	if (uffd < 0)
		platform_lacks("UFFD_USER_MODE_ONLY (Linux 5.11)");
	must(ioctl(uffd, UFFDIO_API, &api) == 0);
	return uffd;
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = user_mode_uffd(), ends[2];
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct toucher toucher;

	must(pipe(ends) == 0);
	uffd_add(uffd, ram.vmm, page_bytes, MISSING);
	expect_error("write() from a missing page", write(ends[1], ram.vmm, 1) < 0 ? -errno : 0, EFAULT);
	expect(uffd_is_silent(uffd), "the kernel's own access raises a message");
	/* The opposite. */
	toucher_start(&toucher, ram.vmm, false);
	uffd_next(uffd, "a thread's access");
	must(page_copy(uffd, &ram, 0, content) == 0);
	must(toucher_end(&toucher) == 9);
	expect(write(ends[1], ram.vmm, 1) == 1 && hear(ends[0]) == 9,
	       "write() from a page that is there fails");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "with user-mode faults only, the kernel's own accesses fail",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = MISSING_FAULT});
}
