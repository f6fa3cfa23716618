/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: the last close of a userfaultfd ends its registrations: who waited goes on, and missing pages read as
 * zeros. While one copy of the descriptor is open anywhere they stay missing, and it can place them.
 *
 * Kernel: 4.11 (MISSING_HUGETLBFS).
 *
 * Relied on by: hugemem/attach.c (the VMM keeps its own copy), ARCHITECTURE.md (nothing reads as zeros).
 */
#include <fcntl.h>
#include <unistd.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING), copy = fcntl(uffd, F_DUPFD_CLOEXEC, 0);
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct toucher first, second;

	must(copy >= 0);
	toucher_start(&first, ram.vmm, false);
	uffd_next(uffd, "the first page");
	close(uffd);
	/* The opposite. */
	expect(toucher_sleeps(&first), "a thread goes on when one of two copies is closed");
	expect_answer("COPY through the copy that is left", page_copy(copy, &ram, 0, content), 0);
	expect(toucher_end(&first) == 9,
	       "a page placed through a copy of the descriptor is not the one read");

	toucher_start(&second, ram_vmm(&ram, 1), false);
	uffd_next(copy, "the second page");
	close(copy);
	expect(toucher_end(&second) == 0, "who waits when the last copy closes does not read zeros");
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "after the last close missing pages read as zeros, and not before",
	    .show = show,
	    .pages = 2,
	    .giant_pages = 2,
	    .features = MISSING_FAULT});
}
