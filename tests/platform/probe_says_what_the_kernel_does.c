/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: what hugemem/probe.h reports is what the kernel does: each thing that it says can be had is used,
 * each thing that it says cannot is refused; with all rights, and with none.
 *
 * Kernel: any; probes up to 6.7 (WP_ASYNC, PAGEMAP_SCAN).
 *
 * Relied on by: hugemem/probe.c, hugemem/incoming_memory.c, deploy/check.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hugemem/probe.h"
#include "hugemem/uffd_open.h"
#include "tests/platform/platform.h"

#define NOBODY	     65534
#define TOUCHED_BYTE 12345

/* ---- one trial a field; true: the kernel does it ---- */

/* -1 if a userfaultfd with these features cannot be had. */
static int open_with(uint64_t features)
{
	int uffd = -1;

	return hf_uffd_open(&uffd, features, NULL) ? -1 : uffd;
}

struct fault {
	struct uffd_msg message;
	struct ram ram;
	struct toucher toucher;
};

/* A thread touches page 0; false if there is no userfaultfd of these features. */
static bool touch_missing(uint64_t page_bytes, uint64_t features, struct fault *fault)
{
	int uffd = open_with(features);

	if (uffd < 0)
		return false;
	fault->ram = ram_new(page_bytes, 1);
	uffd_add(uffd, fault->ram.vmm, page_bytes, MISSING);
	toucher_start(&fault->toucher, fault->ram.vmm + TOUCHED_BYTE, false);
	fault->message = uffd_next(uffd, "a missing page");
	close(uffd);
	toucher_end(&fault->toucher);
	return true;
}

static bool does_missing(uint64_t page_bytes)
{
	struct fault fault;

	return touch_missing(page_bytes, MISSING_FAULT, &fault);
}

static bool does_thread_id(uint64_t page_bytes)
{
	struct fault fault;
	return touch_missing(page_bytes, MISSING_FAULT | UFFD_FEATURE_THREAD_ID, &fault) &&
	       (int)fault.message.arg.pagefault.feat.ptid == atomic_load(&fault.toucher.thread_id);
}

static bool does_exact_address(uint64_t page_bytes)
{
	struct fault fault;

	return touch_missing(page_bytes, MISSING_FAULT | UFFD_FEATURE_EXACT_ADDRESS, &fault) &&
	       fault.message.arg.pagefault.address == (uintptr_t)fault.ram.vmm + TOUCHED_BYTE;
}

static bool does_minor(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = open_with(BOTH_FAULTS);

	if (uffd < 0)
		return false;
	uffd_add(uffd, ram.vmm, page_bytes, BOTH);
	ram.alias[0] = 5;
	return page_continue(uffd, &ram, 0) == 0 && ram.vmm[0] == 5;
}

static bool does_poison(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = open_with(MISSING_FAULT | UFFD_FEATURE_POISON);

	if (uffd < 0)
		return false;
	uffd_add(uffd, ram.vmm, page_bytes, MISSING);
	return page_poison(uffd, &ram, 0) == 0 && touch_signal(ram.vmm, false) != 0;
}

static bool does_wp_async(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = open_with(TRACKING);

	if (uffd < 0)
		return false;
	uffd_add(uffd, ram.vmm, page_bytes, UFFDIO_REGISTER_MODE_WP);
	must(uffd_protect(uffd, ram.vmm, page_bytes) == 0);
	ram.vmm[0] = 1;
	return uffd_is_silent(uffd);
}

static bool does_pagemap_scan(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	struct page_region region = {0};
	struct pm_scan_arg scan = {.size = sizeof(scan),
				   .start = (uintptr_t)ram.vmm,
				   .end = (uintptr_t)ram.vmm + ram.length_bytes,
				   .vec = (uintptr_t)&region,
				   .vec_len = 1,
				   .category_mask = PAGE_IS_PRESENT,
				   .return_mask = PAGE_IS_PRESENT};
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	ram_vmm(&ram, 1)[0] = 1;
	return pagemap >= 0 && ioctl(pagemap, PAGEMAP_SCAN, &scan) == 1 &&
	       region.start == (uintptr_t)ram_vmm(&ram, 1);
}

static bool does_userfaultfd(uint64_t page_bytes)
{
	(void)page_bytes;
	return syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY) >= 0;
}

static void *write_to_pipe(void *page)
{
	int ends[2];

	must(pipe(ends) == 0);
	return write(ends[1], page, 1) == 1 ? page : NULL;
}

static bool does_kernel_faults(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = open_with(MISSING_FAULT);
	uint8_t *content = content_new(page_bytes, 1, 9);
	pthread_t thread;
	void *written = NULL;

	if (uffd < 0)
		return false;
	uffd_add(uffd, ram.vmm, page_bytes, MISSING);
	must(pthread_create(&thread, NULL, write_to_pipe, ram.vmm) == 0);
	uffd_next(uffd, "the kernel's own access");
	must(page_copy(uffd, &ram, 0, content) == 0);
	must(pthread_join(thread, &written) == 0);
	return written;
}

static bool does_ipc_lock(uint64_t page_bytes)
{
	struct rlimit none = {.rlim_cur = 0, .rlim_max = 0};
	uint8_t *page = ram_map(-1, 4096, MAP_PRIVATE | MAP_ANONYMOUS);

	(void)page_bytes;
	must(setrlimit(RLIMIT_MEMLOCK, &none) == 0);
	return mlock(page, 4096) == 0;
}

static const struct {
	const char *name;
	size_t field; /* a bool of struct hf_probe */
	bool (*does)(uint64_t page_bytes);
	bool with_rights_only;
} trials[] = {
    {"userfaultfd", offsetof(struct hf_probe, userfaultfd), does_userfaultfd, false},
    {"kernel_faults", offsetof(struct hf_probe, kernel_faults), does_kernel_faults, false},
    {"ipc_lock", offsetof(struct hf_probe, ipc_lock), does_ipc_lock, false},
    {"pagemap_scan", offsetof(struct hf_probe, pagemap_scan), does_pagemap_scan, false},
    /* Tried by a userfaultfd with kernel faults, which not everyone gets. */
    {"missing_hugetlbfs", offsetof(struct hf_probe, missing_hugetlbfs), does_missing, true},
    {"minor_hugetlbfs", offsetof(struct hf_probe, minor_hugetlbfs), does_minor, true},
    {"thread_id", offsetof(struct hf_probe, thread_id), does_thread_id, true},
    {"exact_address", offsetof(struct hf_probe, exact_address), does_exact_address, true},
    {"poison", offsetof(struct hf_probe, poison), does_poison, true},
    {"wp_async", offsetof(struct hf_probe, wp_async), does_wp_async, true},
};

/* Each trial in a process of its own: some change what the process may do. */
static void try_all(uint64_t page_bytes, const char *who, bool has_rights)
{
	struct hf_probe probe;

	must(hf_probe(&probe, NULL) == 0);
	for (size_t i = 0; i < sizeof(trials) / sizeof(trials[0]); i++) {
		if (trials[i].with_rights_only && !has_rights)
			continue;
		bool says = *(const bool *)((const char *)&probe + trials[i].field);
		pid_t child = platform_fork();
		if (child == 0)
			_exit(trials[i].does(page_bytes) ? 2 : 3);
		int does = platform_wait(child);
		must(does == 2 || does == 3);
		expect(says == (does == 2), "to %s the probe says %s of %s, the kernel %s", who,
		       says ? "yes" : "no", trials[i].name, does == 2 ? "does it" : "does not");
	}
}

static void expect_memlock_limit(void)
{
	struct rlimit limit = {.rlim_cur = 4096, .rlim_max = 4096};
	struct hf_probe probe;

	must(setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && hf_probe(&probe, NULL) == 0);
	expect(probe.memlock_limit_bytes == 4096, "the probe does not say the limit that was set");
	uint8_t *pages = ram_map(-1, 8192, MAP_PRIVATE | MAP_ANONYMOUS);
	expect(mlock(pages, 4096) == 0, "memory within the limit cannot be locked");
	expect_error("mlock() of the page after the limit", mlock(pages + 4096, 4096) ? -errno : 0, ENOMEM);
}

static void show(uint64_t page_bytes)
{
	try_all(page_bytes, "root", true);
	must(setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
	/* A process that has changed its user may not look at itself in /proc until it says so. */
	must(prctl(PR_SET_DUMPABLE, 1) == 0);
	try_all(page_bytes, "nobody", false);
	expect_memlock_limit();
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "the probe says what the kernel does", .show = show, .pages = 2, .giant_pages = 2});
}
