/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: COPY onto a page that the file holds is EEXIST and does not map it, whoever filled it.
 *
 * Kernel: 4.11 (MISSING_HUGETLBFS).
 *
 * Relied on by: hugemem/incoming_memory.c (a migration has one placement: nothing is copied once the
 * alias has pages), hugemem/placer.c (EEXIST proves nothing).
 */
#include <errno.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	uint8_t *content = content_new(page_bytes, 1, 9);

	page_mark(ram.alias, page_bytes, 5);
	expect_error("COPY onto a page of the page cache", page_copy(uffd, &ram, 0, content), EEXIST);
	expect(page_is_marked(ram.alias, page_bytes, 5), "COPY that says EEXIST changes the page");
	expect(!page_is_mapped(0, ram.vmm), "COPY that says EEXIST maps the page");
	/* The opposite. */
	expect_answer("COPY onto a hole", page_copy(uffd, &ram, 1, content), 0);
	expect(page_is_marked(ram_vmm(&ram, 1), page_bytes, 9), "COPY does not fill the page");
	expect_error("COPY onto a mapped page", page_copy(uffd, &ram, 1, content), EEXIST);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "COPY onto a page of the page cache is EEXIST",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = MISSING_FAULT});
}
