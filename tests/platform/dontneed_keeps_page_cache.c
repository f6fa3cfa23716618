/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: MADV_DONTNEED of a shared mapping keeps the page in the file: the next touch is a MINOR fault, and
 * CONTINUE shows what was there. Of a private mapping the page is gone: the next touch is a MISSING fault.
 *
 * Kernel: 5.13 (MINOR_HUGETLBFS), 5.18 (MADV_DONTNEED on hugetlb).
 *
 * Relied on by: hugemem/placer.c (the ways in which a page that was placed faults again).
 */
#include <errno.h>
#include <sys/mman.h>

#include "tests/platform/platform.h"

static void discard(uint8_t *page, uint64_t page_bytes)
{
	if (madvise(page, page_bytes, MADV_DONTNEED) && errno == EINVAL)
		platform_lacks("MADV_DONTNEED on huge pages (Linux 5.18)");
	expect(!page_is_mapped(0, page), "MADV_DONTNEED leaves the page mapped");
}

static void show_shared(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);
	struct toucher toucher;

	ram.alias[0] = 5;
	must(page_continue(uffd, &ram, 0) == 0);
	ram.vmm[0] = 6;
	discard(ram.vmm, page_bytes);
	toucher_start(&toucher, ram.vmm, false);
	struct uffd_msg message = uffd_next(uffd, "a page after MADV_DONTNEED");
	expect_fault(&message, &ram, 0, MINOR_KIND);
	expect_answer("CONTINUE after MADV_DONTNEED", page_continue(uffd, &ram, 0), 0);
	expect(toucher_end(&toucher) == 6, "MADV_DONTNEED of a shared mapping loses what was written");
}

static void show_private(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	ram.vmm = ram_map(ram.file, page_bytes, MAP_PRIVATE | MAP_NORESERVE);
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct toucher toucher;

	must(page_copy(uffd, &ram, 0, content) == 0);
	discard(ram.vmm, page_bytes);
	toucher_start(&toucher, ram.vmm, false);
	struct uffd_msg message = uffd_next(uffd, "a private page after MADV_DONTNEED");
	expect_fault(&message, &ram, 0, MISSING_KIND);
	expect_answer("COPY after MADV_DONTNEED of a private mapping", page_copy(uffd, &ram, 0, content), 0);
	expect(toucher_end(&toucher) == 9, "COPY shows something else than its content");
}

static void show(uint64_t page_bytes)
{
	show_shared(page_bytes);
	show_private(page_bytes);
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "MADV_DONTNEED keeps a shared page in the file and drops a private one",
	    .show = show,
	    .pages = 2,
	    .giant_pages = 2,
	    .features = BOTH_FAULTS});
}
