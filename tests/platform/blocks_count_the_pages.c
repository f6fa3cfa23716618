/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: st_blocks of a hugetlbfs file counts the pages it holds, exactly, however they came and went.
 *
 * Kernel: 2.6.
 *
 * Relied on by: hugemem/residency.c (a presence map that has fewer pages is refused),
 * hugemem/incoming_prepare.c.
 */
#include <inttypes.h>
#include <unistd.h>

#include "tests/platform/platform.h"

static void expect_held(const struct ram *ram, uint64_t pages, const char *when)
{
	uint64_t held = ram_pages_held(ram);

	expect(held == pages, "%s st_blocks counts %" PRIu64 " pages, not %" PRIu64, when, held, pages);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 4);
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	uint8_t *content = content_new(page_bytes, 1, 9);

	expect_held(&ram, 0, "of a new file");
	ram_alias(&ram, 3)[0] = 1;
	expect_held(&ram, 1, "after a touch");
	must(page_copy(uffd, &ram, 0, content) == 0);
	expect_held(&ram, 2, "after COPY");
	ram_punch(&ram, 3);
	expect_held(&ram, 1, "after a punch");
	ram_punch(&ram, 2);
	expect_held(&ram, 1, "after a punch of a hole");
	must(ftruncate(ram.file, 0) == 0);
	expect_held(&ram, 0, "after truncation");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "st_blocks counts the pages of a file",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = MISSING_FAULT});
}
