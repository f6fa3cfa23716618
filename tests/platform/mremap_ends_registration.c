/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: mremap() moves a mapping out of its registration: at the new place missing pages read as zeros.
 *
 * Kernel: 4.11 (EVENT_REMAP, without which this is so).
 *
 * Relied on by: hugemem/placer.c and hugemem/incoming_memory.c (their errors ask whether the VMM has
 * remapped).
 */
#include <errno.h>
#include <sys/mman.h>

#include "tests/platform/platform.h"

static uint8_t *free_address(uint64_t length_bytes, uint64_t page_bytes)
{
	uint8_t *reserved = mmap(NULL, length_bytes + page_bytes, PROT_NONE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	must(reserved != MAP_FAILED);
	return reserved + (-(uintptr_t)reserved & (page_bytes - 1));
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct toucher toucher;

	/* The opposite. */
	toucher_start(&toucher, ram.vmm, false);
	uffd_next(uffd, "a missing page before mremap()");
	must(page_copy(uffd, &ram, 0, content) == 0);
	expect(toucher_end(&toucher) == 9, "COPY shows something else than its content");

	uint8_t *moved = mremap(ram.vmm, ram.length_bytes, ram.length_bytes, MREMAP_MAYMOVE | MREMAP_FIXED,
				free_address(ram.length_bytes, page_bytes));
	must(moved != MAP_FAILED);
	toucher_start(&toucher, moved + page_bytes, false);
	expect(toucher_end(&toucher) == 0 && uffd_is_silent(uffd), "a missing page faults at its new place");
	expect(moved[0] == 9, "a page that was placed did not move along");
	expect_error("COPY to where the mapping was", page_copy(uffd, &ram, 1, content), ENOENT);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "mremap() ends the registration",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = BOTH_FAULTS});
}
