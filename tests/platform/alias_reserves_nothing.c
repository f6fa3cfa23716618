/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a shared mapping reserves all pages of its file or fails with ENOMEM; a second mapping of the same
 * file reserves nothing more. The reservation is the file's and stays when the mappings go.
 *
 * Kernel: 2.6.
 *
 * Relied on by: hugemem/hugepool_map.c (mapping is the promise), hugemem/incoming_prepare.c (the alias).
 */
#include <errno.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/platform/platform.h"
#include "tests/unit/hugemem/host_pages.h"

static void show(uint64_t page_bytes)
{
	uint64_t before = host_pages_available(page_bytes);
	int file = ram_file(page_bytes, 2), too_large = ram_file(page_bytes, (unsigned)before + 1);

	uint8_t *vmm = ram_map(file, 2 * page_bytes, MAP_SHARED);
	uint64_t left = host_pages_available(page_bytes);
	expect(left == before - 2, "mapping 2 pages reserves %" PRIu64, before - left);
	uint8_t *alias = ram_map(file, 2 * page_bytes, MAP_SHARED);
	expect(host_pages_available(page_bytes) == left, "a second mapping of a file reserves pages too");
	alias[0] = vmm[page_bytes] = 1;
	expect(host_pages_available(page_bytes) == left, "touching reserved pages takes others");
	/* The opposite. */
	expect(mmap(NULL, (before + 1) * page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, too_large, 0) ==
		       MAP_FAILED &&
		   errno == ENOMEM,
	       "more pages can be mapped than there are");

	must(munmap(vmm, 2 * page_bytes) == 0 && munmap(alias, 2 * page_bytes) == 0);
	expect(host_pages_available(page_bytes) == left, "the file's pages go with its mappings");
	close(file);
	expect(host_pages_available(page_bytes) == before, "the file's pages do not go with the file");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "a mapping reserves its file's pages, a second one no more",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2});
}
