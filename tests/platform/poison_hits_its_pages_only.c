/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: POISON makes every access to its pages fail, SIGBUS for a thread, EHWPOISON or EFAULT for the
 * kernel's own; other pages stay as they are, and a page that is there is not poisoned (EEXIST).
 *
 * Kernel: 6.6 (POISON).
 *
 * Relied on by: hugemem/userfault.h.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 3);
	int uffd = uffd_of(&ram, BOTH_FAULTS | UFFD_FEATURE_POISON, BOTH);
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct toucher toucher;
	int ends[2];

	must(pipe(ends) == 0);
	must(page_copy(uffd, &ram, 1, content) == 0);
	expect_error("POISON of a page that is there", page_poison(uffd, &ram, 1), EEXIST);
	expect_answer("POISON of a missing page", page_poison(uffd, &ram, 0), 0);

	expect(touch_signal(ram.vmm, false) == SIGBUS, "touching a poisoned page gives no SIGBUS");
	expect(touch_signal(ram.vmm + page_bytes - 1, true) == SIGBUS,
	       "the last byte of a poisoned page is not poisoned");
	expect_error("populating a poisoned page",
		     madvise(ram.vmm, page_bytes, MADV_POPULATE_READ) ? -errno : 0, EHWPOISON);
	expect_error("writing a poisoned page to a pipe", write(ends[1], ram.vmm, 1) < 0 ? -errno : 0,
		     EFAULT);
	expect(uffd_is_silent(uffd), "a poisoned page raises a fault");

	/* The opposite: its neighbours. */
	expect(touch_signal(ram_vmm(&ram, 1), true) == 0, "POISON hits a page that was there");
	toucher_start(&toucher, ram_vmm(&ram, 2), false);
	struct uffd_msg message = uffd_next(uffd, "a missing page beside a poisoned one");
	expect_fault(&message, &ram, 2, MISSING_KIND);
	must(page_copy(uffd, &ram, 2, content) == 0);
	expect(toucher_end(&toucher) == 9, "POISON hits a page that was missing");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "POISON hits its pages and no others",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = BOTH_FAULTS | UFFD_FEATURE_POISON});
}
