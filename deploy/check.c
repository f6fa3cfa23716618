/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `hugeferry check`. Theory of operation: a list of small checks, each of which finds one fact out by trying
 * (hf_probe, the kernel's counters, opening a device) and adds findings. A finding is ok, warn
 * (something is slower or may be missing later) or FAIL (a migration cannot work); the last two say what to
 * do. The host is only looked at, never changed. With --to the link to a waiting destination is measured too
 * (check_link.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "core/ramblock.h"
#include "deploy/check.h"
#include "deploy/options.h"
#include "deploy/program.h"
#include "deploy/report.h"
#include "deploy/transports.h"
#include "hugemem/hugepool.h"
#include "hugemem/memory_lock.h"
#include "hugemem/probe.h"

#define COMMAND	       "check"
#define PAGE_SIZES_MAX 16

static void check_kernel(struct hf_check *check)
{
	struct utsname name;
	if (!uname(&name))
		hf_check_found(check, HF_FINDING_OK, "kernel", NULL, "%s %s %s", name.sysname, name.release,
			       name.machine);
}

static void check_nodes(struct hf_check *check, const char *name, const struct hf_hugepage_counts *counts)
{
	for (uint32_t i = 0; i < counts->nodes; i++)
		hf_check_found(check, HF_FINDING_OK, name, NULL,
			       "NUMA node %d: %" PRIu64 " of %" PRIu64 " pages free", counts->node_id[i],
			       counts->node_free[i], counts->node_total[i]);
}

static void check_mount(struct hf_check *check, uint64_t page_size_bytes, const char *size, const char *name)
{
	struct hf_err err = HF_ERR_INIT;
	char path[256], advice[160];
	snprintf(advice, sizeof(advice),
		 "mount -t hugetlbfs -o pagesize=%" PRIu64
		 "K none DIRECTORY (only if VMs are to use this size)",
		 page_size_bytes >> 10);
	if (hf_hugetlbfs_mount_point(page_size_bytes, path, sizeof(path), &err))
		hf_check_found(check, HF_FINDING_WARN, name, advice, "no hugetlbfs mount for pages of %s",
			       size);
	else
		hf_check_found(check, HF_FINDING_OK, name, NULL, "hugetlbfs at %s", path);
}

/* True when the pool of this size has pages nobody has taken. */
static bool check_pool(struct hf_check *check, uint64_t page_size_bytes)
{
	struct hf_hugepage_counts counts;
	struct hf_err err = HF_ERR_INIT;
	char size[HF_SIZE_TEXT_BYTES], name[HF_SIZE_TEXT_BYTES + 8], advice[192];
	hf_size_text(page_size_bytes, size);
	snprintf(name, sizeof(name), "%s pages", size);
	if (hf_hugepage_counts(page_size_bytes, &counts, &err)) {
		hf_check_found(check, HF_FINDING_FAIL, name, "mount sysfs on /sys and run this as root", "%s",
			       err.text);
		return false;
	}
	uint64_t available = hf_hugepages_available(&counts);
	snprintf(advice, sizeof(advice),
		 "echo N > /sys/kernel/mm/hugepages/hugepages-%" PRIu64
		 "kB/nr_hugepages (only if VMs are to use this size)",
		 page_size_bytes >> 10);
	hf_check_found(check, available ? HF_FINDING_OK : HF_FINDING_WARN, name, advice,
		       "%" PRIu64 " of %" PRIu64 " pages can be had", available, counts.total);
	check_nodes(check, name, &counts);
	check_mount(check, page_size_bytes, size, name);
	return available > 0;
}

static void check_hugepages(struct hf_check *check)
{
	uint64_t sizes[PAGE_SIZES_MAX];
	int count = hf_hugepage_sizes(sizes, PAGE_SIZES_MAX);
	bool any = false;
	if (count <= 0) {
		hf_check_found(check, HF_FINDING_FAIL, "huge pages", "boot a kernel with CONFIG_HUGETLBFS",
			       "the kernel offers no huge pages");
		return;
	}
	for (int i = 0; i < count; i++)
		any |= check_pool(check, sizes[i]);
	if (!any)
		hf_check_found(
		    check, HF_FINDING_FAIL, "huge pages",
		    "reserve pages of the size the VMs use (see above) for each VM to come, and a few more",
		    "not one huge page of any size can be had");
}

static void check_feature(struct hf_check *check, bool present, enum hf_finding when_missing,
			  const char *feature, const char *use, const char *advice)
{
	hf_check_found(check, present ? HF_FINDING_OK : when_missing, "userfaultfd", advice, "%s %s: %s",
		       feature, present ? "is offered" : "is missing", use);
}

static void check_userfaultfd(struct hf_check *check, const struct hf_probe *probe)
{
	if (!probe->userfaultfd) {
		hf_check_found(check, HF_FINDING_FAIL, "userfaultfd",
			       "run as root, or with CAP_SYS_PTRACE, or with access to /dev/userfaultfd",
			       "cannot be had: %s", strerror(probe->userfaultfd_errno));
		return;
	}
	hf_check_found(check, probe->kernel_faults ? HF_FINDING_OK : HF_FINDING_FAIL, "userfaultfd",
		       "run as root, or with CAP_SYS_PTRACE, or with access to /dev/userfaultfd",
		       probe->kernel_faults
			   ? "delivers faults of the kernel, so KVM's too"
			   : "only delivers faults of user mode; KVM would fail on a missing page");
	check_feature(check, probe->missing_hugetlbfs, HF_FINDING_FAIL, "MISSING_HUGETLBFS",
		      "faults on missing huge pages", "use Linux 4.11 or later");
	check_feature(check, probe->minor_hugetlbfs, HF_FINDING_WARN, "MINOR_HUGETLBFS",
		      "placement `continue`, without a copy", "use Linux 5.13 or later; `copy` works here");
	check_feature(check, probe->thread_id, HF_FINDING_FAIL, "THREAD_ID",
		      "which vCPU waits, for the blocktime", "use Linux 4.14 or later");
}

static void check_kvm(struct hf_check *check)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		hf_check_found(check, HF_FINDING_WARN, "KVM",
			       "load kvm_intel or kvm_amd and give this user access to /dev/kvm",
			       "/dev/kvm: %s; VMs cannot use the processor's virtualisation",
			       strerror(errno));
		return;
	}
	int version = ioctl(fd, KVM_GET_API_VERSION, 0);
	close(fd);
	hf_check_found(check, version == KVM_API_VERSION ? HF_FINDING_OK : HF_FINDING_WARN, "KVM",
		       "use a kernel whose KVM speaks the stable interface", "/dev/kvm speaks version %d",
		       version);
}

static void check_memlock(struct hf_check *check, const struct hf_probe *probe)
{
	if (probe->ipc_lock)
		hf_check_found(check, HF_FINDING_OK, "memory lock", NULL, "not limited (CAP_IPC_LOCK)");
	else if (probe->memlock_limit_bytes == UINT64_MAX)
		hf_check_found(check, HF_FINDING_OK, "memory lock", NULL, "not limited");
	else
		hf_check_found(check, HF_FINDING_WARN, "memory lock", HF_MEMORY_LOCK_ADVICE,
			       "limited to %" PRIu64
			       " KiB; `receive` keeps its tables in memory, about %u KiB and "
			       "%u bytes for each huge page of the VM, and refuses the VM if it may not",
			       probe->memlock_limit_bytes >> 10, 256u, 9u);
}

static int write_json(struct hf_check *check, const char *path)
{
	struct hf_err err = HF_ERR_INIT;
	if (!path)
		return 0;
	json_t *report = json_object();
	json_object_set_new(report, "ok", json_boolean(!check->failed));
	json_object_set(report, "checks", check->findings);
	int result = hf_report_write(report, path, &err);
	if (result)
		hf_complain(COMMAND, "%s", err.text);
	json_decref(report);
	return result;
}

static enum hf_exit run_checks(const struct hf_options *options)
{
	struct hf_check check = {.findings = json_array()};
	struct hf_probe probe;
	struct hf_err err = HF_ERR_INIT;

	check_kernel(&check);
	check_hugepages(&check);
	if (hf_probe(&probe, &err)) {
		hf_check_found(&check, HF_FINDING_FAIL, "userfaultfd", "see the text", "%s", err.text);
	} else {
		check_userfaultfd(&check, &probe);
		check_memlock(&check, &probe);
	}
	check_kvm(&check);
	if (options->to)
		hf_check_link(&check, options);

	int result = write_json(&check, options->json);
	json_decref(check.findings);
	return check.failed || result ? HF_EXIT_FAILED : HF_EXIT_OK;
}

int hf_main_check(int argc, char **argv)
{
	struct hf_options options;
	struct hf_err err = HF_ERR_INIT;
	int result = hf_options_parse(HF_COMMAND_CHECK, argc, argv, &options, &err);
	const struct hf_scheme *scheme = NULL;
	if (!result && options.to)
		result = hf_scheme_of(options.to, &scheme, &err);
	if (!result && (result = hf_report_check_path(options.json, &err))) {
		hf_complain(COMMAND, "%s", err.text);
		return HF_EXIT_FAILED;
	}
	if (result < 0)
		hf_complain(COMMAND, "%s", err.text);
	if (result)
		return result < 0 ? HF_EXIT_USAGE : HF_EXIT_OK;
	return run_checks(&options);
}
