/* SPDX-License-Identifier: Apache-2.0 */
#include "perf/placing.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hugemem/hugepool.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/uffd_open.h"
#include "hugemem/userfault.h"

#define FEATURES       (UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS)
#define MFD_SIZE_SHIFT 26 /* MFD_HUGE_SHIFT of linux/memfd.h */

static int map(struct hf_placing *placing, uint8_t **out, struct hf_err *err)
{
	uint8_t *mapped = mmap(NULL, placing->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, placing->fd - 1, 0);
	if (mapped == MAP_FAILED)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "no huge pages can be mapped: %s",
				  strerror(errno));
	*out = mapped;
	return 0;
}

static int open_file(struct hf_placing *placing, struct hf_err *err)
{
	unsigned shift = (unsigned)__builtin_ctzll(placing->page_bytes);
	placing->fd = 1 + memfd_create("hf-placing", MFD_CLOEXEC | MFD_HUGETLB | shift << MFD_SIZE_SHIFT);
	if (!placing->fd || ftruncate(placing->fd - 1, (off_t)placing->bytes))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "no file of huge pages: %s", strerror(errno));
	int result = map(placing, &placing->guest, err);
	if (!result)
		result = map(placing, &placing->alias, err);
	return result ? result : map(placing, &placing->plain, err);
}

static int guard(struct hf_placing *placing, struct hf_err *err)
{
	int uffd, result = hf_uffd_open(&uffd, FEATURES, err);
	if (result)
		return result;
	placing->uffd = uffd + 1;
	result = hf_userfault_register(uffd, (uintptr_t)placing->guest, placing->bytes,
				       UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
	return result ? hf_err_set(err, HF_ERR_LOCAL, -result, "userfaultfd does not take the memory") : 0;
}

int hf_placing_open(struct hf_placing *placing, uint64_t page_bytes, uint32_t pages, uint32_t more_pages,
		    struct hf_err *err)
{
	*placing = (struct hf_placing){.page_bytes = page_bytes, .bytes = page_bytes * pages};
	int result =
	    hf_hugepages_reserve(page_bytes, (uint64_t)pages + more_pages, &placing->added_pages, err);
	if (!result)
		result = open_file(placing, err);
	if (!result)
		result = guard(placing, err);
	if (result)
		hf_placing_close(placing);
	return result;
}

void hf_placing_close(struct hf_placing *placing)
{
	uint8_t *mapped[] = {placing->guest, placing->alias, placing->plain};
	for (size_t i = 0; i < sizeof(mapped) / sizeof(mapped[0]); i++)
		if (mapped[i])
			munmap(mapped[i], placing->bytes);
	if (placing->uffd)
		close(placing->uffd - 1);
	if (placing->fd)
		close(placing->fd - 1);
	if (placing->added_pages)
		hf_hugepages_give_back(placing->page_bytes, placing->added_pages, NULL);
	*placing = (struct hf_placing){0};
}

int hf_placing_take_away(struct hf_placing *placing, uint32_t page)
{
	return fallocate(placing->fd - 1, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			 (off_t)(page * placing->page_bytes), (off_t)placing->page_bytes)
		   ? -errno
		   : 0;
}

int hf_placing_leave_in_file(struct hf_placing *placing, uint32_t page)
{
	uint64_t at = page * placing->page_bytes, bytes = placing->page_bytes;
	if (madvise(placing->alias + at, bytes, MADV_POPULATE_WRITE) ||
	    madvise(placing->guest + at, bytes, MADV_DONTNEED) ||
	    madvise(placing->plain + at, bytes, MADV_DONTNEED))
		return -errno;
	return 0;
}

int hf_placing_copy(struct hf_placing *placing, uint32_t page, const void *content)
{
	return hf_userfault_copy(placing->uffd - 1, (uintptr_t)placing->guest + page * placing->page_bytes,
				 content, placing->page_bytes);
}

int hf_placing_continue(struct hf_placing *placing, uint32_t page)
{
	return hf_userfault_continue(
	    placing->uffd - 1, (uintptr_t)placing->guest + page * placing->page_bytes, placing->page_bytes);
}
