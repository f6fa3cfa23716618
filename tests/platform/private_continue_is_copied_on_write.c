/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a private mapping may be registered for minor faults, but CONTINUE shows it the file's own page, and
 * the first write makes a second huge page of it; of a shared mapping there is one page all along.
 *
 * Kernel: 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: hugemem/incoming_memory.c (private memory takes placement copy).
 */
#include <inttypes.h>
#include <sys/mman.h>

#include "tests/platform/platform.h"
#include "tests/unit/hugemem/host_pages.h"

/* How many pages a write takes from the pool, of a page that CONTINUE has shown. */
static uint64_t pages_of_a_write(uint64_t page_bytes, int flags)
{
	struct ram ram = ram_new(page_bytes, 1);
	struct toucher toucher;

	ram.vmm = ram_map(ram.file, page_bytes, flags | MAP_NORESERVE);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);
	page_mark(ram.alias, page_bytes, 5);
	toucher_start(&toucher, ram.vmm, false);
	struct uffd_msg message = uffd_next(uffd, "a page that the file holds");
	expect_fault(&message, &ram, 0, MINOR_KIND);
	expect_answer("CONTINUE", page_continue(uffd, &ram, 0), 0);
	expect(toucher_end(&toucher) == 5, "CONTINUE shows something else than the file holds");

	uint64_t before = host_pages_free(page_bytes);
	ram.vmm[0] = 6;
	uint64_t taken = before - host_pages_free(page_bytes);
	expect(ram.vmm[page_bytes - 1] == 5, "a write changes another byte");
	expect(ram.alias[0] == (flags & MAP_PRIVATE ? 5 : 6), "the alias holds %d after the VMM's write",
	       ram.alias[0]);
	must(munmap(ram.vmm, page_bytes) == 0);
	ram_punch(&ram, 0);
	return taken;
}

static void show(uint64_t page_bytes)
{
	uint64_t pages = pages_of_a_write(page_bytes, MAP_PRIVATE);

	expect(pages == 1, "a write to a private page that CONTINUE has shown takes %" PRIu64 " pages",
	       pages);
	/* The opposite. */
	pages = pages_of_a_write(page_bytes, MAP_SHARED);
	expect(pages == 0, "a write to a shared page that CONTINUE has shown takes %" PRIu64 " pages", pages);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "CONTINUE in private memory is copied on write",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = BOTH_FAULTS});
}
