/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: addresses and lengths that are no whole huge pages are EINVAL, and nothing happens.
 *
 * Kernel: 4.11; CONTINUE 5.13, WRITEPROTECT 5.19, POISON 6.6.
 *
 * Relied on by: hugemem/userfault.h, core/transport.h (a chunk never crosses a page, a page is placed
 * whole).
 */
#include <errno.h>
#include <stdio.h>

#include "hugemem/userfault.h"
#include "tests/platform/platform.h"

#define SMALL_BYTES 4096
#define FEATURES    (BOTH_FAULTS | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)

static int do_register(int uffd, uint64_t address, uint64_t length_bytes)
{
	return hf_userfault_register(uffd, address, length_bytes, BOTH | UFFDIO_REGISTER_MODE_WP);
}

static int do_protect(int uffd, uint64_t address, uint64_t length_bytes)
{
	return uffd_protect(uffd, (const void *)(uintptr_t)address, length_bytes);
}

static uint8_t *content;

static int do_copy(int uffd, uint64_t address, uint64_t length_bytes)
{
	return hf_userfault_copy(uffd, address, content, length_bytes);
}

static const struct {
	const char *name;
	int (*call)(int uffd, uint64_t address, uint64_t length_bytes);
} calls[] = {
    /* In an order in which each one succeeds on whole pages. */
    {"REGISTER", do_register},	  {"CONTINUE", hf_userfault_continue},	   {"COPY", do_copy},
    {"WRITEPROTECT", do_protect}, {"UNREGISTER", hf_userfault_unregister},
};

static void show_of(int uffd, unsigned i, const struct ram *ram, uint8_t *page)
{
	uint64_t address = (uintptr_t)page;
	char what[64];

	snprintf(what, sizeof(what), "%s beside a page boundary", calls[i].name);
	expect_error(what, calls[i].call(uffd, address + SMALL_BYTES, ram->page_bytes), EINVAL);
	snprintf(what, sizeof(what), "%s of a part of a page", calls[i].name);
	expect_error(what, calls[i].call(uffd, address, SMALL_BYTES), EINVAL);
	expect_error(what, calls[i].call(uffd, address, ram->page_bytes + SMALL_BYTES), EINVAL);
	snprintf(what, sizeof(what), "%s of a whole page", calls[i].name);
	expect_answer(what, calls[i].call(uffd, address, ram->page_bytes), 0);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2), shown = ram_new(page_bytes, 2),
		   other = ram_new(page_bytes, 2);
	int uffd = uffd_new(FEATURES);

	content = content_new(page_bytes, 2, 9);
	show_of(uffd, 0, &other, other.vmm);
	uffd_add(uffd, ram.vmm, ram.length_bytes, BOTH | UFFDIO_REGISTER_MODE_WP);
	uffd_add(uffd, shown.vmm, shown.length_bytes, BOTH);
	shown.alias[0] = 1;
	show_of(uffd, 1, &shown, shown.vmm);
	for (unsigned i = 2; i < sizeof(calls) / sizeof(calls[0]); i++)
		show_of(uffd, i, &ram, ram.vmm);
	expect(ram_pages_held(&ram) == 1, "a call that says EINVAL has made a page");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "ranges that are no whole huge pages are EINVAL",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = FEATURES});
}
