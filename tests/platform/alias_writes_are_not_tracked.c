/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: write tracking sees writes through the mapping that is registered, from another process too; writes
 * through another mapping of the file do not show.
 *
 * Kernel: 6.7 (WP_ASYNC, PAGEMAP_SCAN).
 *
 * Relied on by: hugemem/outgoing_memory.c (pure postcopy: no page is taken for unchanged),
 * hugemem/dirty_tracking.h (what is not found).
 */
#include <inttypes.h>
#include <unistd.h>

#include "tests/platform/platform.h"

/* Registers its copy of the mapping, writes page 1 when told. */
static void vmm_process(const struct ram *ram, int from_parent, int to_parent)
{
	int uffd = uffd_of(ram, TRACKING, UFFDIO_REGISTER_MODE_WP);

	for (unsigned page = 0; page < ram->pages; page++)
		ram_vmm(ram, page)[0] = 1;
	must(uffd_protect(uffd, ram->vmm, ram->length_bytes) == 0);
	say(to_parent, 1);
	hear(from_parent);
	ram_vmm(ram, 1)[0] = 2;
	say(to_parent, 2);
	hear(from_parent);
	_exit(0);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int to_vmm[2], from_vmm[2];

	must(pipe(to_vmm) == 0 && pipe(from_vmm) == 0);
	pid_t vmm = platform_fork();
	if (vmm == 0)
		vmm_process(&ram, to_vmm[0], from_vmm[1]);
	hear(from_vmm[0]);
	expect(written_pages(vmm, &ram, true) == 0, "pages of another process show as written that are not");
	ram_alias(&ram, 0)[0] = 9;
	say(to_vmm[1], 1);
	hear(from_vmm[0]);
	uint64_t written = written_pages(vmm, &ram, true);
	expect(written == 2, "after writes by alias and VMM pages %" PRIx64 " show as written, it was 2",
	       written);
	expect(written_pages(vmm, &ram, true) == 0, "a scan that protects again does not");
	say(to_vmm[1], 1);
	must(platform_wait(vmm) == 0);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "writes through another mapping are not tracked",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = TRACKING});
}
