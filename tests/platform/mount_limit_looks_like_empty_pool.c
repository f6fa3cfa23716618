/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: where a hugetlbfs mount's size is used up, COPY answers as for an empty pool although the host has
 * free pages, and a touch is SIGBUS.
 *
 * Kernel: 5.2 (fsmount, by which this is shown; the limit is as old as hugetlbfs).
 *
 * Relied on by: hugemem/placer.c (its error names the mount's limit where the pool has pages).
 */
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "tests/platform/platform.h"
#include "tests/unit/hugemem/host_pages.h"

/* A file on a mount that is nowhere to be seen, of at most `pages` pages. */
static int limited_file(uint64_t page_bytes, unsigned pages, uint64_t length_bytes)
{
	char bytes[32];
	int filesystem = fsopen("hugetlbfs", FSOPEN_CLOEXEC);

	if (filesystem < 0)
		platform_lacks("fsopen (Linux 5.2)");
	snprintf(bytes, sizeof(bytes), "%" PRIu64, page_bytes);
	must(fsconfig(filesystem, FSCONFIG_SET_STRING, "pagesize", bytes, 0) == 0);
	snprintf(bytes, sizeof(bytes), "%" PRIu64, pages * page_bytes);
	must(fsconfig(filesystem, FSCONFIG_SET_STRING, "size", bytes, 0) == 0);
	must(fsconfig(filesystem, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0);
	int mount = fsmount(filesystem, FSMOUNT_CLOEXEC, 0);
	must(mount >= 0);
	int file = openat(mount, "ram", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	must(file >= 0 && ftruncate(file, (off_t)length_bytes) == 0);
	return file;
}

static void show(uint64_t page_bytes)
{
	struct ram ram = {.page_bytes = page_bytes, .length_bytes = 2 * page_bytes, .pages = 2};
	uint8_t *content = content_new(page_bytes, 1, 9);

	ram.file = limited_file(page_bytes, 1, ram.length_bytes);
	ram.vmm = ram_map(ram.file, ram.length_bytes, MAP_SHARED | MAP_NORESERVE);
	ram.alias = ram_map(ram.file, ram.length_bytes, MAP_SHARED | MAP_NORESERVE);
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	/* The opposite. */
	expect_answer("COPY within the mount's limit", page_copy(uffd, &ram, 0, content), 0);
	expect(host_pages_available(page_bytes) > 0, "a mount's limit takes pages of the host");
	expect_no_page("COPY beyond the mount's limit", page_copy(uffd, &ram, 1, content), page_bytes);
	expect(!page_is_mapped(0, ram_vmm(&ram, 1)), "COPY maps a page although it fails");
	expect(touch_signal(ram_alias(&ram, 1), true) == SIGBUS,
	       "a touch beyond the mount's limit is no SIGBUS");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a mount's limit looks like an empty pool",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = MISSING_FAULT});
}
