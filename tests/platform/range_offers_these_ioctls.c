/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a range of huge pages offers WAKE and COPY, CONTINUE if registered for minor faults,
 * WRITEPROTECT if for writes, POISON; never ZEROPAGE and MOVE. ZEROPAGE then is EINVAL.
 *
 * Kernel: 4.11 (COPY), 5.13 (CONTINUE), 5.19 (WRITEPROTECT), 6.6 (POISON).
 *
 * Relied on by: hugemem/userfault.c (what a registration must offer), hugemem/placer.c (zeros come by
 * COPY).
 */
#include <errno.h>
#include <inttypes.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "tests/platform/platform.h"

#define FEATURES   (BOTH_FAULTS | UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
#define BIT(ioctl) (UINT64_C(1) << (ioctl))
#define KNOWN                                                                                                \
	BIT(_UFFDIO_WAKE) | BIT(_UFFDIO_COPY) | BIT(_UFFDIO_CONTINUE) | BIT(_UFFDIO_WRITEPROTECT) |          \
	    BIT(_UFFDIO_ZEROPAGE)
#define MOVE BIT(0x05)

static uint64_t offered(int uffd, void *address, uint64_t length_bytes, uint64_t modes)
{
	struct uffdio_register request = {.range = {.start = (uintptr_t)address, .len = length_bytes},
					  .mode = modes};

	must(ioctl(uffd, UFFDIO_REGISTER, &request) == 0);
	return request.ioctls & (KNOWN | MOVE);
}

static int zeropage(int uffd, void *address, uint64_t length_bytes)
{
	struct uffdio_zeropage request = {.range = {.start = (uintptr_t)address, .len = length_bytes}};

	return ioctl(uffd, UFFDIO_ZEROPAGE, &request) ? -errno : 0;
}

static void expect_ioctls(const char *modes, uint64_t found, uint64_t expected)
{
	expect(found == expected, "a range registered for %s offers ioctls %" PRIx64 ", it was %" PRIx64,
	       modes, found, expected);
}

static void show(uint64_t page_bytes)
{
	const uint64_t basic = BIT(_UFFDIO_WAKE) | BIT(_UFFDIO_COPY);
	struct ram ram = ram_new(page_bytes, 1);
	int uffd = uffd_new(FEATURES);

	expect_ioctls("missing faults", offered(uffd, ram.vmm, page_bytes, MISSING), basic);
	expect_ioctls("missing and minor faults", offered(uffd, ram.vmm, page_bytes, BOTH),
		      basic | BIT(_UFFDIO_CONTINUE));
	expect_ioctls("all three", offered(uffd, ram.vmm, page_bytes, BOTH | UFFDIO_REGISTER_MODE_WP),
		      basic | BIT(_UFFDIO_CONTINUE) | BIT(_UFFDIO_WRITEPROTECT));
	expect_error("ZEROPAGE of a huge page", zeropage(uffd, ram.vmm, page_bytes), EINVAL);

	/* The opposite: small pages. */
	uint8_t *small = ram_map(-1, SIZE_2M, MAP_PRIVATE | MAP_ANONYMOUS);
	uint64_t of_small = offered(uffd, small, SIZE_2M, MISSING);
	expect(of_small & BIT(_UFFDIO_ZEROPAGE), "a range of small pages offers no ZEROPAGE");
	expect_answer("ZEROPAGE of small pages", zeropage(uffd, small, SIZE_2M), 0);
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "huge pages offer COPY and CONTINUE, no ZEROPAGE, no MOVE",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = FEATURES});
}
