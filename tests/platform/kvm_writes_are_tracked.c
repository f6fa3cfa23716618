/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: what a guest writes shows in PAGEMAP_SCAN of its VMM, read by another process, and what it reads does
 * not; after the scan has protected the pages again, the next write shows again.
 *
 * Kernel: 6.7 (WP_ASYNC, PAGEMAP_SCAN).
 *
 * Relied on by: hugemem/dirty_tracking.c, hugemem/probe.c (pagemap_scan).
 */
#include <inttypes.h>
#include <unistd.h>

#include "tests/platform/platform_kvm.h"

/* Reads page 0 and writes page 1 each time it is told; ends after that many times. */
static void vmm_process(const struct ram *ram, unsigned times, int from_parent, int to_parent)
{
	struct vm vm = vm_new(ram);
	int uffd = uffd_of(ram, TRACKING, UFFDIO_REGISTER_MODE_WP);
	uint32_t word;

	ram_vmm(ram, 0)[0] = ram_vmm(ram, 1)[0] = 1;
	must(uffd_protect(uffd, ram->vmm, ram->length_bytes) == 0);
	say(to_parent, 0);
	for (unsigned i = 0; i < times; i++) {
		hear(from_parent);
		must(vm_read(&vm, ram, 0, 0, &word) == 0 && word == 1);
		must(vm_write(&vm, ram, 1, 4, i) == 0);
		expect(uffd_is_silent(uffd), "a guest's write raises a message in spite of WP_ASYNC");
		say(to_parent, 0);
	}
	hear(from_parent);
	_exit(0);
}

static void show(uint64_t page_bytes)
{
	const unsigned times = 3;
	struct ram ram = ram_new(page_bytes, 2);
	int to_vmm[2], from_vmm[2];

	close(open_kvm()); /* said here if there is none: the VMM is another process */
	must(pipe2(to_vmm, 0) == 0 && pipe2(from_vmm, 0) == 0);
	pid_t vmm = platform_fork();
	if (vmm == 0)
		vmm_process(&ram, times, to_vmm[0], from_vmm[1]);
	close(from_vmm[1]);
	hear(from_vmm[0]);
	expect(written_pages(vmm, &ram, true) == 0, "pages show as written before the guest has run");
	for (unsigned i = 0; i < times; i++) {
		say(to_vmm[1], 0);
		hear(from_vmm[0]);
		uint64_t written = written_pages(vmm, &ram, true);
		expect(written == 2, "after the guest has written page 1, pages %" PRIx64 " show as written",
		       written);
		expect(written_pages(vmm, &ram, false) == 0, "a scan that protects again does not");
	}
	say(to_vmm[1], 0);
	must(platform_wait(vmm) == 0);
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "a guest's writes show in its VMM's PAGEMAP_SCAN",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2,
				    .features = TRACKING});
}
