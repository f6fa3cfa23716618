/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a process's pagemap shows the pages it has mapped itself, also to another process, not those that
 * only the file holds, and not those it has discarded.
 *
 * Kernel: 2.6.25.
 *
 * Relied on by: hugemem/placer.c (EEXIST and the pagemap), hugemem/residency.c.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "tests/platform/platform.h"

static bool another_process_sees(const uint8_t *page)
{
	pid_t child = platform_fork();
	if (child == 0)
		_exit(page_is_mapped(getppid(), page) ? 2 : 3);
	int seen = platform_wait(child);
	must(seen == 2 || seen == 3);
	return seen == 2;
}

static void expect_mapped(const uint8_t *page, bool mapped, const char *which)
{
	expect(page_is_mapped(0, page) == mapped, "the pagemap shows %s as %s", which,
	       mapped ? "absent" : "present");
	expect(another_process_sees(page) == mapped, "another process's look at the pagemap shows %s as %s",
	       which, mapped ? "absent" : "present");
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);

	expect_mapped(ram.vmm, false, "a page that nobody has");
	ram.alias[page_bytes - 1] = 1;
	expect_mapped(ram.vmm, false, "a page that only the file holds");
	must(page_continue(uffd, &ram, 0) == 0);
	expect_mapped(ram.vmm, true, "a page that was placed");
	must(madvise(ram.vmm, page_bytes, MADV_DONTNEED) == 0);
	expect_mapped(ram.vmm, false, "a page that was discarded");
	must(page_continue(uffd, &ram, 0) == 0);
	ram_punch(&ram, 0);
	expect_mapped(ram.vmm, false, "a page that was punched");
	expect_mapped(ram_vmm(&ram, 1), false, "its neighbour");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a pagemap shows a process's own pages only",
						    .show = show,
						    .pages = 1,
						    .giant_pages = 1,
						    .features = BOTH_FAULTS});
}
