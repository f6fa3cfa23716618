/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a poisoned page stays poisoned when its registration ends and when the userfaultfd is closed, in
 * shared and in private memory, whatever the file holds. It goes when the process discards it: MADV_DONTNEED
 * shows what the file holds of it, a punched hole zeros. pagemap does not show it, and poisoning it again is
 * EEXIST.
 *
 * Kernel: 6.6 (POISON).
 *
 * Relied on by: hugemem/placer.c (a page is taken out of the file before it is poisoned, and the registration
 * ends as ever), hugemem/incoming_takeover.c.
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hugemem/userfault.h"
#include "tests/platform/platform.h"

static void end_registration(int uffd, const struct ram *ram)
{
	must(hf_userfault_unregister(uffd, (uintptr_t)ram->vmm, ram->length_bytes) == 0);
	must(close(uffd) == 0);
}

static void show_shared(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 3);
	int uffd = uffd_of(&ram, BOTH_FAULTS | UFFD_FEATURE_POISON, BOTH);

	page_mark(ram_alias(&ram, 0), page_bytes, 7);
	page_mark(ram_alias(&ram, 1), page_bytes, 7);
	for (unsigned page = 0; page < 3; page++)
		expect_answer("POISON", page_poison(uffd, &ram, page), 0);
	expect_error("POISON of a poisoned page", page_poison(uffd, &ram, 2), EEXIST);
	expect(!page_is_mapped(0, ram.vmm), "pagemap shows a poisoned page");
	end_registration(uffd, &ram);
	for (unsigned page = 0; page < 3; page++)
		expect(touch_signal(ram_vmm(&ram, page), false) == SIGBUS,
		       "page %u is not poisoned any more when its registration has ended", page);
	must(madvise(ram_vmm(&ram, 0), page_bytes, MADV_DONTNEED) == 0);
	expect(touch_signal(ram_vmm(&ram, 0), false) == 0 && page_is_marked(ram_vmm(&ram, 0), page_bytes, 7),
	       "a discarded page is poisoned still, or does not show what the file holds");
	ram_punch(&ram, 1);
	expect(touch_signal(ram_vmm(&ram, 1), false) == 0 && page_is_marked(ram_vmm(&ram, 1), page_bytes, 0),
	       "a punched page is poisoned still, or does not read as zeros");
}

static void show_private(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	must(munmap(ram.vmm, ram.length_bytes) == 0);
	ram.vmm = ram_map(ram.file, ram.length_bytes, MAP_PRIVATE | MAP_NORESERVE);
	int uffd = uffd_of(&ram, MISSING_FAULT | UFFD_FEATURE_POISON, MISSING);

	expect_answer("POISON of private memory", page_poison(uffd, &ram, 0), 0);
	end_registration(uffd, &ram);
	expect(touch_signal(ram.vmm, true) == SIGBUS, "private memory is not poisoned any more");
}

static void show(uint64_t page_bytes)
{
	show_shared(page_bytes);
	show_private(page_bytes);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a poisoned page stays so until it is discarded",
						    .show = show,
						    .pages = 3,
						    .giant_pages = 3,
						    .features = BOTH_FAULTS | UFFD_FEATURE_POISON});
}
