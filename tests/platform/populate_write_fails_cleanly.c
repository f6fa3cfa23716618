/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: MADV_POPULATE_WRITE where pages run out is EFAULT, with the pages before it made; touching instead is
 * SIGBUS.
 *
 * Kernel: 5.14 (MADV_POPULATE_WRITE).
 *
 * Relied on by: hugemem/incoming_prepare.c, hugemem/hugepool_map.c.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#include "tests/platform/platform.h"

static int populate(const struct ram *ram)
{
	return madvise(ram->vmm, ram->length_bytes, MADV_POPULATE_WRITE) ? -errno : 0;
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);

	ram.vmm[0] = 5;
	struct taken taken = pool_take_all(page_bytes);
	int result = populate(&ram);
	if (result == -EINVAL)
		platform_lacks("MADV_POPULATE_WRITE (Linux 5.14)");
	expect_error("MADV_POPULATE_WRITE with an empty pool", result, EFAULT);
	expect(touch_signal(ram_vmm(&ram, 1), true) == SIGBUS, "a touch with an empty pool is no SIGBUS");
	/* The opposite. */
	pool_release(taken);
	expect_answer("MADV_POPULATE_WRITE with a page in the pool", populate(&ram), 0);
	expect(ram_pages_held(&ram) == 2 && ram.vmm[0] == 5, "MADV_POPULATE_WRITE does not make the pages");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "MADV_POPULATE_WRITE fails with EFAULT where pages run out",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2});
}
