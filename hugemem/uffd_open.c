/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * Two ways lead to a userfaultfd whose faults include those that the kernel itself takes on guest memory
 * (KVM's above all): the system call, which wants CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1, and
 * /dev/userfaultfd, which wants permission on the file. The third way, UFFD_USER_MODE_ONLY, is open to
 * everyone and useless here: KVM_RUN would fail on the first missing page. So it is never taken.
 *
 * The handshake fixes a context's features for good and answers EINVAL when one is not offered, without
 * saying which. So what the kernel offers is asked of a context that is thrown away, and the missing ones are
 * named from that.
 */
#include "hugemem/uffd_open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hugemem/kernel_compat.h"

static const struct {
	const char *name;
	uint64_t bit;
} feature_table[] = {
    {"pagefault-flag-wp", UFFD_FEATURE_PAGEFAULT_FLAG_WP},
    {"event-fork", UFFD_FEATURE_EVENT_FORK},
    {"event-remap", UFFD_FEATURE_EVENT_REMAP},
    {"event-remove", UFFD_FEATURE_EVENT_REMOVE},
    {"event-unmap", UFFD_FEATURE_EVENT_UNMAP},
    {"missing-hugetlbfs", UFFD_FEATURE_MISSING_HUGETLBFS},
    {"missing-shmem", UFFD_FEATURE_MISSING_SHMEM},
    {"sigbus", UFFD_FEATURE_SIGBUS},
    {"thread-id", UFFD_FEATURE_THREAD_ID},
    {"minor-hugetlbfs", UFFD_FEATURE_MINOR_HUGETLBFS},
    {"minor-shmem", UFFD_FEATURE_MINOR_SHMEM},
    {"exact-address", UFFD_FEATURE_EXACT_ADDRESS},
    {"wp-hugetlbfs-shmem", UFFD_FEATURE_WP_HUGETLBFS_SHMEM},
    {"wp-unpopulated", UFFD_FEATURE_WP_UNPOPULATED},
    {"poison", UFFD_FEATURE_POISON},
    {"wp-async", UFFD_FEATURE_WP_ASYNC},
    {"move", UFFD_FEATURE_MOVE},
};
#define FEATURES (sizeof(feature_table) / sizeof(feature_table[0]))

const char *hf_uffd_feature_name(uint64_t bit)
{
	for (size_t i = 0; i < FEATURES; i++)
		if (feature_table[i].bit == bit)
			return feature_table[i].name;
	return NULL;
}

uint64_t hf_uffd_feature_bit(const char *name)
{
	for (size_t i = 0; i < FEATURES; i++)
		if (!strcmp(feature_table[i].name, name))
			return feature_table[i].bit;
	return 0;
}

const char *hf_uffd_feature_names(uint64_t features, char *buffer, size_t bytes)
{
	size_t used = 0;
	buffer[0] = '\0';
	for (unsigned shift = 0; shift < 64 && used < bytes; shift++) {
		uint64_t bit = features & (1ull << shift);
		if (!bit)
			continue;
		const char *name = hf_uffd_feature_name(bit);
		char number[24];
		snprintf(number, sizeof(number), "bit %u", shift);
		int n = snprintf(buffer + used, bytes - used, "%s%s", used ? ", " : "", name ? name : number);
		used += (size_t)n;
	}
	return buffer;
}

int hf_uffd_raw(int *fd, struct hf_err *err)
{
	int opened = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (opened >= 0) {
		*fd = opened;
		return 0;
	}
	int syscall_errno = errno;
	if (syscall_errno == ENOSYS)
		return hf_err_set(err, HF_ERR_LOCAL, ENOSYS,
				  "this kernel has no userfaultfd (CONFIG_USERFAULTFD)");

	int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (device >= 0) {
		opened = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
		int ioctl_errno = errno;
		close(device);
		if (opened >= 0) {
			*fd = opened;
			return 0;
		}
		return hf_err_set(err, HF_ERR_LOCAL, ioctl_errno, "/dev/userfaultfd gives no descriptor: %s",
				  strerror(ioctl_errno));
	}
	return hf_err_set(
	    err, HF_ERR_LOCAL, syscall_errno,
	    "userfaultfd with kernel faults (KVM needs them) is refused: %s; and /dev/userfaultfd: "
	    "%s; give this process CAP_SYS_PTRACE or read and write permission on /dev/userfaultfd",
	    strerror(syscall_errno), strerror(errno));
}

static int handshake(int fd, struct uffdio_api *api)
{
	return ioctl(fd, UFFDIO_API, api) ? -errno : 0;
}

int hf_uffd_kernel_features(uint64_t *features, struct hf_err *err)
{
	int fd;
	int result = hf_uffd_raw(&fd, err);
	if (result)
		return result;
	struct uffdio_api api = {.api = UFFD_API};
	result = handshake(fd, &api);
	close(fd);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result,
				  "this kernel does not speak the userfaultfd API: %s", strerror(-result));
	*features = api.features;
	return 0;
}

int hf_uffd_open(int *fd, uint64_t features, struct hf_err *err)
{
	uint64_t offered;
	int result = hf_uffd_kernel_features(&offered, err);
	if (result)
		return result;
	if (features & ~offered) {
		char names[256];
		return hf_err_set(err, HF_ERR_LOCAL, EOPNOTSUPP,
				  "this kernel's userfaultfd lacks: %s; a newer kernel is needed",
				  hf_uffd_feature_names(features & ~offered, names, sizeof(names)));
	}
	int opened;
	result = hf_uffd_raw(&opened, err);
	if (result)
		return result;
	struct uffdio_api api = {.api = UFFD_API, .features = features};
	result = handshake(opened, &api);
	if (result) {
		close(opened);
		return hf_err_set(err, HF_ERR_LOCAL, -result, "userfaultfd handshake failed: %s",
				  strerror(-result));
	}
	*fd = opened;
	return 0;
}
