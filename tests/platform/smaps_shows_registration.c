/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: VmFlags in smaps has "um" or "ui" for a mapping that is registered for missing or minor faults, and
 * neither for one that is not, or is for writes alone.
 *
 * Kernel: 4.3 (um), 5.13 (ui).
 *
 * Relied on by: hugemem/residency.c, by which a source refuses memory that is still being received.
 */
#include <unistd.h>

#include "hugemem/residency.h"
#include "hugemem/userfault.h"
#include "tests/platform/platform.h"

static bool waits_for_pages(const uint8_t *address)
{
	struct hf_vmm_mappings mappings = {0};
	bool waits = false, found = false;

	must(hf_vmm_mappings_load(getpid(), &mappings, NULL) == 0);
	for (size_t i = 0; i < mappings.count; i++)
		if (mappings.list[i].start == (uintptr_t)address) {
			found = true;
			waits = mappings.list[i].waits_for_pages;
		}
	must(found);
	hf_vmm_mappings_free(&mappings);
	return waits;
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_new(BOTH_FAULTS | UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
	const uint64_t modes[] = {MISSING, MINOR, BOTH, BOTH | UFFDIO_REGISTER_MODE_WP};

	for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		expect(!waits_for_pages(ram.vmm), "smaps shows a mapping as registered that is not");
		uffd_add(uffd, ram.vmm, page_bytes, modes[i]);
		expect(waits_for_pages(ram.vmm), "smaps does not show a registration (modes %x)",
		       (unsigned)modes[i]);
		expect(!waits_for_pages(ram.alias), "smaps shows another mapping as registered");
		must(hf_userfault_unregister(uffd, (uintptr_t)ram.vmm, page_bytes) == 0);
	}
	uffd_add(uffd, ram.vmm, page_bytes, UFFDIO_REGISTER_MODE_WP);
	expect(!waits_for_pages(ram.vmm), "smaps shows write tracking as waiting for pages");
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "smaps shows which mappings are registered for missing or minor faults",
	    .show = show,
	    .pages = 1,
	    .giant_pages = 1,
	    .features = BOTH_FAULTS | UFFD_FEATURE_WP_HUGETLBFS_SHMEM});
}
