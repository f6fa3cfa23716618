/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a userfaultfd with kernel faults takes CAP_SYS_PTRACE, or vm.unprivileged_userfaultfd=1, or
 * permission on /dev/userfaultfd; one for user-mode faults only takes nothing.
 *
 * Kernel: 5.2 (the sysctl), 5.11 (UFFD_USER_MODE_ONLY), 6.1 (/dev/userfaultfd).
 *
 * Relied on by: hugemem/uffd_open.c, hugemem/probe.c, README.md.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/platform/platform.h"

#define NOBODY 65534

static int call(int flags)
{
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | flags);

	if (uffd < 0)
		return -errno;
	close(uffd);
	return 0;
}

static int by_device(int device)
{
	int uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

	return uffd < 0 ? -errno : uffd;
}

static bool everyone_may(void)
{
	int allowed = 0;
	FILE *file = fopen("/proc/sys/vm/unprivileged_userfaultfd", "re");

	if (!file)
		platform_lacks("vm.unprivileged_userfaultfd (Linux 5.2)");
	must(fscanf(file, "%d", &allowed) == 1);
	fclose(file);
	return allowed;
}

/* The kernel's own access to a missing page waits: it is no EFAULT. */
static void expect_kernel_faults(int uffd)
{
	struct uffdio_api api = {.api = UFFD_API};
	uint8_t *page = ram_map(-1, 4096, MAP_PRIVATE | MAP_ANONYMOUS);
	int ends[2];

	must(ioctl(uffd, UFFDIO_API, &api) == 0 && pipe(ends) == 0);
	uffd_add(uffd, page, 4096, MISSING);
	pid_t child = platform_fork();
	if (child == 0) {
		uffd_next(uffd, "the kernel's access, through /dev/userfaultfd");
		struct uffdio_zeropage zero = {.range = {.start = (uintptr_t)page, .len = 4096}};
		_exit(ioctl(uffd, UFFDIO_ZEROPAGE, &zero) ? 1 : 0);
	}
	expect(write(ends[1], page, 1) == 1, "a userfaultfd of /dev/userfaultfd has no kernel faults");
	must(platform_wait(child) == 0);
}

static void show(uint64_t page_bytes)
{
	(void)page_bytes;
	bool everyone = everyone_may();
	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

	if (device < 0)
		platform_lacks("/dev/userfaultfd (Linux 6.1)");
	/* The opposite. */
	expect_answer("userfaultfd(), with CAP_SYS_PTRACE", call(0), 0);
	must(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
	expect_answer("userfaultfd(), without rights", call(0), everyone ? 0 : -EPERM);
	expect_answer("userfaultfd() in user mode only, without rights", call(UFFD_USER_MODE_ONLY), 0);
	int uffd = by_device(device);
	expect(uffd >= 0, "who has /dev/userfaultfd open gets no userfaultfd: %d", uffd);
	expect_kernel_faults(uffd);
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "kernel faults take CAP_SYS_PTRACE or /dev/userfaultfd", .show = show});
}
