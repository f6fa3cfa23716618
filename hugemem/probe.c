/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: every fact is found by asking the kernel for the thing itself. A version number or
 * a constant in a header says what might be, not what this process gets (containers, seccomp, sysctls,
 * distribution back-ports).
 */
#include "hugemem/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hugemem/kernel_compat.h"
#include "hugemem/uffd_open.h"

static bool out_of_descriptors(int result)
{
	return result == -EMFILE || result == -ENFILE || result == -ENOMEM;
}

// KVM would fail on such a descriptor, but that it can be had explains what is missing: rights, not the
// kernel.
static int probe_user_mode_only(struct hf_probe *probe)
{
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd < 0)
		return -errno;
	struct uffdio_api api = {.api = UFFD_API};
	int result = ioctl(fd, UFFDIO_API, &api) ? -errno : 0;
	close(fd);
	if (!result) {
		probe->userfaultfd = true;
		probe->features = api.features;
	}
	return result;
}

static int probe_userfaultfd(struct hf_probe *probe, struct hf_err *err)
{
	struct hf_err why = HF_ERR_INIT;
	int result = hf_uffd_kernel_features(&probe->features, &why);
	if (!result) {
		probe->userfaultfd = probe->kernel_faults = true;
	} else {
		probe->userfaultfd_errno = -result;
		if (!out_of_descriptors(result))
			result = probe_user_mode_only(probe);
	}
	if (out_of_descriptors(result))
		return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot probe userfaultfd: %s",
				  strerror(-result));

	probe->missing_hugetlbfs = probe->features & UFFD_FEATURE_MISSING_HUGETLBFS;
	probe->minor_hugetlbfs = probe->features & UFFD_FEATURE_MINOR_HUGETLBFS;
	probe->thread_id = probe->features & UFFD_FEATURE_THREAD_ID;
	probe->exact_address = probe->features & UFFD_FEATURE_EXACT_ADDRESS;
	probe->poison = probe->features & UFFD_FEATURE_POISON;
	probe->wp_async = probe->features & UFFD_FEATURE_WP_ASYNC;
	return 0;
}

static int probe_pagemap_scan(struct hf_probe *probe, struct hf_err *err)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	if (fd < 0 && out_of_descriptors(-errno))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot probe /proc/self/pagemap: %s",
				  strerror(errno));
	if (fd < 0)
		return 0;
	// One page of our own stack: a scan that matches nothing still has to walk it.
	uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	struct page_region region;
	struct pm_scan_arg arg = {.size = sizeof(arg),
				  .start = (uint64_t)(uintptr_t)&region & ~(page_bytes - 1),
				  .vec = (uint64_t)(uintptr_t)&region,
				  .vec_len = 1,
				  .category_mask = PAGE_IS_PRESENT,
				  .return_mask = PAGE_IS_PRESENT};
	arg.end = arg.start + page_bytes;
	probe->pagemap_scan = ioctl(fd, PAGEMAP_SCAN, &arg) >= 0;
	close(fd);
	return 0;
}

bool hf_probe_ipc_lock(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
	if (syscall(SYS_capget, &header, data))
		return false;
	return data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective & CAP_TO_MASK(CAP_IPC_LOCK);
}

int hf_probe(struct hf_probe *out, struct hf_err *err)
{
	struct hf_probe probe = {0};
	int result = probe_userfaultfd(&probe, err);
	if (!result)
		result = probe_pagemap_scan(&probe, err);
	if (result)
		return result;

	struct rlimit limit;
	if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0)
		probe.memlock_limit_bytes = limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur;
	probe.ipc_lock = hf_probe_ipc_lock();
	*out = probe;
	return 0;
}
