/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: where no huge page can be had, COPY onto an absent page is EEXIST, as if the page were there;
 * only the pagemap tells the two apart. Shared and private mappings alike. On older kernels (6.1 and 6.12
 * do so), and where the page tables do not yet reach down to the page's entry (that of a page of 1 GiB is in
 * a higher table), it is ENOMEM.
 *
 * Kernel: 4.11 (MISSING_HUGETLBFS).
 *
 * Relied on by: hugemem/placer.c, hugemem/residency.c.
 */
#include <sys/mman.h>

#include "tests/platform/platform.h"

static void show_of(struct ram ram, const uint8_t *content)
{
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	struct taken taken = pool_take_all(ram.page_bytes);

	expect_no_page("COPY with an empty pool", page_copy(uffd, &ram, 0, content), ram.page_bytes);
	expect(!page_is_mapped(0, ram.vmm), "the pagemap shows a page that was not placed");
	expect(ram_pages_held(&ram) == 0, "COPY that fails leaves a page in the file");
	/* The opposite. */
	pool_release(taken);
	expect_answer("COPY with a page in the pool", page_copy(uffd, &ram, 0, content), 0);
	expect(page_is_mapped(0, ram.vmm), "the pagemap does not show a page that was placed");
	expect(page_is_marked(ram.vmm, ram.page_bytes, 9), "COPY does not fill the page");
	must(munmap(ram.vmm, ram.length_bytes) == 0);
	ram_punch(&ram, 0);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1), private_ram = ram_new(page_bytes, 1);
	uint8_t *content = content_new(page_bytes, 1, 9);

	show_of(ram, content);
	private_ram.vmm = ram_map(private_ram.file, page_bytes, MAP_PRIVATE | MAP_NORESERVE);
	show_of(private_ram, content);
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "COPY where no huge page can be had is EEXIST or ENOMEM, and the pagemap tells",
	    .show = show,
	    .pages = 1,
	    .giant_pages = 1,
	    .features = MISSING_FAULT});
}
