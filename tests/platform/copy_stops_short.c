/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: COPY of several pages that meets one it cannot fill has done the pages before it: it fails
 * with EAGAIN and says how many bytes are done. The next call names the reason.
 *
 * Kernel: 4.11 (MISSING_HUGETLBFS).
 *
 * Relied on by: hugemem/userfault.c, which goes on where the kernel has stopped.
 */
#include <errno.h>
#include <inttypes.h>
#include <sys/ioctl.h>

#include "tests/platform/platform.h"

static int copy_once(int uffd, uint8_t *to, const uint8_t *from, uint64_t length_bytes, int64_t *done_bytes)
{
	struct uffdio_copy request = {.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = length_bytes};
	int result = ioctl(uffd, UFFDIO_COPY, &request) ? -errno : 0;

	*done_bytes = request.copy;
	return result;
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, MISSING_FAULT, MISSING);
	uint8_t *content = content_new(page_bytes, 2, 9);
	int64_t done_bytes;

	ram_alias(&ram, 1)[0] = 5;
	expect_error("COPY whose second page is there",
		     copy_once(uffd, ram.vmm, content, 2 * page_bytes, &done_bytes), EAGAIN);
	expect(done_bytes == (int64_t)page_bytes, "a short COPY reports %" PRId64 " bytes", done_bytes);
	expect(page_is_marked(ram.vmm, page_bytes, 9), "a short COPY has not filled the first page");
	expect_error("COPY of the rest", copy_once(uffd, ram_vmm(&ram, 1), content, page_bytes, &done_bytes),
		     EEXIST);
	expect(done_bytes == -EEXIST, "COPY reports %" PRId64 " and fails with EEXIST", done_bytes);

	/* The opposite. */
	ram_punch(&ram, 0);
	ram_punch(&ram, 1);
	expect_answer("COPY of two absent pages",
		      copy_once(uffd, ram.vmm, content, 2 * page_bytes, &done_bytes), 0);
	expect(done_bytes == (int64_t)(2 * page_bytes), "a whole COPY reports %" PRId64 " bytes", done_bytes);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "COPY may be short, and says by how much",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = MISSING_FAULT});
}
