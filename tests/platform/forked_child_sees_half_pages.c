/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a forked child's copy of the mapping is not registered: it sees half-filled pages, and its touch of a
 * missing page makes one of zeros in the file, onto which nothing can be copied any more. MADV_DONTFORK
 * leaves the child nothing to touch.
 *
 * Kernel: 4.11; 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: hugemem/attach.c, hugemem/incoming_prepare.c (MADV_DONTFORK).
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/platform/platform.h"

#define SAW_HALF  1
#define SAW_ZEROS 2

/* What a child sees of page 0, half filled, and of page 1, missing. */
static int fork_and_look(const struct ram *ram)
{
	pid_t child = platform_fork();
	if (child == 0) {
		const volatile uint8_t *page = ram->vmm;
		int seen = page[0] == 7 && page[ram->page_bytes - 1] == 0 ? SAW_HALF : 0;
		seen |= page[ram->page_bytes] == 0 ? SAW_ZEROS : 0;
		_exit(seen);
	}
	return platform_wait(child);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, BOTH_FAULTS, BOTH);
	uint8_t *content = content_new(page_bytes, 1, 9);

	ram.alias[0] = 7;
	/* The opposite first, while page 1 is missing. */
	must(madvise(ram.vmm, ram.length_bytes, MADV_DONTFORK) == 0);
	expect(fork_and_look(&ram) == 128 + SIGSEGV, "MADV_DONTFORK leaves a child its copy of the mapping");
	expect(ram_pages_held(&ram) == 1, "a child without the mapping has made a page");

	must(madvise(ram.vmm, ram.length_bytes, MADV_DOFORK) == 0);
	int seen = fork_and_look(&ram);
	expect(seen & SAW_HALF, "a forked child does not see a half-filled page");
	expect(seen & SAW_ZEROS, "a forked child does not see zeros where a page is missing");
	expect(ram_pages_held(&ram) == 2, "a forked child's touch makes no page");
	expect_error("COPY onto a page that a child has touched", page_copy(uffd, &ram, 1, content), EEXIST);
	expect(uffd_is_silent(uffd), "a forked child raises a fault");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "a forked child sees half pages and zeros, and makes pages",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2,
				    .features = BOTH_FAULTS});
}
