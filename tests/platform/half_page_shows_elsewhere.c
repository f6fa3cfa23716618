/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a registration protects one mapping. Another mapping of the same file, here or in another process,
 * and read() of the file show a half-filled page at once.
 *
 * Kernel: 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: PROTOCOL.md (whoever else maps guest memory on the destination is not protected).
 */
#include <sys/mman.h>
#include <unistd.h>

#include "tests/platform/platform.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);
	struct toucher toucher;
	uint8_t byte = 0;

	ram.alias[0] = 7;
	/* The opposite: the registered mapping. */
	toucher_start(&toucher, ram.vmm, false);
	uffd_next(uffd, "the half page, through the mapping that is registered");

	const volatile uint8_t *other = ram_map(ram.file, page_bytes, MAP_SHARED | MAP_NORESERVE);
	expect(other[0] == 7 && other[page_bytes - 1] == 0, "another mapping does not show the half page");
	expect(pread(ram.file, &byte, 1, 0) == 1 && byte == 7, "read() does not show the half page");
	pid_t child = platform_fork();
	if (child == 0) {
		other = ram_map(ram.file, page_bytes, MAP_SHARED | MAP_NORESERVE);
		_exit(other[0] == 7 ? 0 : 1);
	}
	expect(platform_wait(child) == 0, "another process's mapping does not show the half page");
	expect(uffd_is_silent(uffd), "an access that is not through the registered mapping raises a fault");
	expect(toucher_sleeps(&toucher), "who waits in the registered mapping goes on");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "other mappings and read() show a half-filled page",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = BOTH_FAULTS});
}
