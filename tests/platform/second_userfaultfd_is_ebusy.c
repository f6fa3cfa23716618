/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a range belongs to one userfaultfd: another is refused with EBUSY, and takes it only after it
 * was unregistered. In between nothing is protected: who waited goes on, and missing pages read as
 * zeros.
 *
 * Kernel: 4.11 (MISSING_HUGETLBFS).
 *
 * Relied on by: hugemem/attach.c, which hands out the same registration again and never replaces one;
 * hugemem/incoming_memory.c, which unregisters only when every page is placed.
 */
#include <errno.h>

#include "hugemem/userfault.h"
#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int first = uffd_of(&ram, MISSING_FAULT, MISSING), second = uffd_new(MISSING_FAULT);
	struct toucher toucher;

	expect_error("a second userfaultfd on a range",
		     hf_userfault_register(second, (uintptr_t)ram.vmm, ram.length_bytes, MISSING), EBUSY);
	/* The same one may say it again. */
	uffd_add(first, ram.vmm, ram.length_bytes, MISSING);

	toucher_start(&toucher, ram.vmm, false);
	uffd_next(first, "a missing page");
	must(hf_userfault_unregister(first, (uintptr_t)ram.vmm, ram.length_bytes) == 0);
	expect(toucher_end(&toucher) == 0, "a thread let go by UNREGISTER does not read zeros");

	uffd_add(second, ram.vmm, ram.length_bytes, MISSING);
	expect(touch_signal(ram.vmm, false) == 0 && uffd_is_silent(second),
	       "what was read as zeros in between faults again");
	/* The opposite: the other page is the second one's now. */
	toucher_start(&toucher, ram_vmm(&ram, 1), false);
	uffd_next(second, "a missing page, to the second userfaultfd");
	expect(uffd_is_silent(first), "a range that was unregistered still raises faults");
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "a range has one userfaultfd; handing it over shows missing pages as zeros",
	    .show = show,
	    .pages = 2,
	    .giant_pages = 2,
	    .features = MISSING_FAULT});
}
