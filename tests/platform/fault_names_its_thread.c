/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: with THREAD_ID a fault carries the id of the thread that waits, and each of several that wait for one
 * page raises its own; without, it carries 0.
 *
 * Kernel: 4.14 (THREAD_ID).
 *
 * Relied on by: hugemem/fault_reader.c, core/blocktime.c (which vCPU stands still).
 */
#include <unistd.h>

#include "tests/platform/platform.h"

static void expect_thread(const struct uffd_msg *message, int thread_id)
{
	int named = (int)message->arg.pagefault.feat.ptid;

	expect(named == thread_id, "the fault of thread %d names thread %d", thread_id, named);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1), anonymous = ram_new(page_bytes, 1);
	int uffd = uffd_of(&ram, MISSING_FAULT | UFFD_FEATURE_THREAD_ID, MISSING);
	struct toucher first, second, third;

	toucher_start(&first, ram.vmm, false);
	struct uffd_msg message = uffd_next(uffd, "the first thread");
	expect_thread(&message, atomic_load(&first.thread_id));
	toucher_start(&second, ram.vmm, false);
	message = uffd_next(uffd, "a second thread that waits for the same page");
	expect_thread(&message, atomic_load(&second.thread_id));

	uffd = uffd_of(&anonymous, MISSING_FAULT, MISSING);
	toucher_start(&third, anonymous.vmm, false);
	message = uffd_next(uffd, "a thread, without THREAD_ID");
	expect_thread(&message, 0);
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "a fault names the thread that waits, each its own",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = MISSING_FAULT | UFFD_FEATURE_THREAD_ID});
}
