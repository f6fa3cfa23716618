/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * What the kernel's answers mean on hugetlb:
 *
 *   COPY      0        the page was allocated, filled and made visible; waiters were woken
 *             EEXIST   one of: visible already; the page cache holds it; no huge page could be had.
 *             ENOMEM,  (ENOSPC: the mount's limit or the cgroup's) no huge page could be had
 *             ENOSPC
 *   CONTINUE  0        the page of the page cache was made visible; waiters were woken
 *             EEXIST   visible already; waiters were NOT woken
 *             EFAULT   the page cache does not hold it
 *
 * So after a COPY that did not work, the VMM's pagemap decides: a page that is there only needs its waiters
 * woken; one that is not has not been placed, its fault is kept and the caller comes again (-EAGAIN). Calling
 * the page placed would lose its content; waking its waiters would make them fault for ever.
 *
 * A page that was placed may fault again, because the VMM itself has let go of it:
 *
 *   MADV_DONTNEED of a shared mapping    the page cache keeps the page:  CONTINUE shows it again
 *   hole punched, MADV_REMOVE            the page is gone:               COPY of zeros, as a fresh file reads
 *   MADV_DONTNEED of a private mapping   the page is gone:               COPY of zeros
 *   none: an old message, already served the page is there:              WAKE
 *
 * A preallocated page may be punched in the same way before it is placed. What it held or was about to hold
 * is what the VMM has thrown away, so it becomes zeros as well.
 *
 * Poisoning. POISON puts a marker where the VMM has no page, whatever the file holds; it stays when the
 * registration ends, and goes when the VMM discards the page or punches it out of the file. So the page is
 * taken out of the file first: what has landed of it would be seen after a discard, which now reads zeros as
 * every discarded page does. COPY and CONTINUE take a marker for a page that is missing and replace it: a
 * page that is poisoned must never be placed. A thread that faults while the marker is put there may go to
 * sleep after the wake, and is seen as one more fault: POISON says EEXIST then, and it is woken.
 *
 * Between CONTINUE's EFAULT and the COPY of zeros another mapping may fill the file's page; a few rounds
 * settle that.
 */
#include "hugemem/placer.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>

#include "hugemem/hugepool.h"
#include "hugemem/residency.h"
#include "hugemem/userfault.h"

#define CONTINUE_ROUNDS_MAX 4

static uint64_t page_address(const struct hf_placer *placer, uint32_t block, uint64_t page)
{
	return placer->regions[block].vmm_address + page * placer->blocks->blocks[block].page_size_bytes;
}

static int impossible(const struct hf_placer *placer, uint32_t block, uint64_t page, const char *call,
		      int result, struct hf_err *err)
{
	const char *why = "has the VMM exited, or unmapped or remapped its guest memory?";

	if (result == -EIO || result == -EHWPOISON)
		why = "is the memory faulty (see the kernel's log)?";
	return hf_err_set(err, HF_ERR_LOCAL, -result, "block '%s' page %" PRIu64 ": %s failed: %s; %s",
			  placer->blocks->blocks[block].idstr, page, call, strerror(-result), why);
}

/* The text for -EAGAIN: the pool is empty, or what else it can be. */
static int not_now(const struct hf_placer *placer, uint32_t block, uint64_t page, struct hf_err *err)
{
	const struct hf_ramblock *ramblock = &placer->blocks->blocks[block];
	struct hf_err pool = HF_ERR_INIT;
	char size[HF_SIZE_TEXT_BYTES];

	if (!err)
		return -EAGAIN;
	if (hf_hugepages_require(ramblock->page_size_bytes, 1, &pool))
		return hf_err_set(err, HF_ERR_LOCAL, EAGAIN,
				  "block '%s' page %" PRIu64
				  ": no huge page to place it on, will try again: %s",
				  ramblock->idstr, page, pool.text);
	return hf_err_set(
	    err, HF_ERR_LOCAL, EAGAIN,
	    "block '%s' page %" PRIu64
	    ": no %s huge page to place it on although the host has some free, will try again: look "
	    "for a size limit of the hugetlbfs mount, a hugetlb cgroup limit, a NUMA binding, "
	    "or another process that has touched the RAM file",
	    ramblock->idstr, page, hf_size_text(ramblock->page_size_bytes, size));
}

static int wake(const struct hf_placer *placer, uint32_t block, uint64_t page, struct hf_err *err)
{
	int result = hf_userfault_wake(placer->userfault_fd, page_address(placer, block, page),
				       placer->blocks->blocks[block].page_size_bytes);

	return result ? impossible(placer, block, page, "UFFDIO_WAKE", result, err) : 0;
}

/* Wakes and returns 0 if the VMM has the page, -EAGAIN (without text) if not. */
static int wake_if_mapped(const struct hf_placer *placer, uint32_t block, uint64_t page, struct hf_err *err)
{
	int mapped = hf_vmm_page_mapped(placer->pagemap_fd, page_address(placer, block, page));

	if (mapped < 0)
		return impossible(placer, block, page, "reading the VMM's pagemap", mapped, err);
	return mapped ? wake(placer, block, page, err) : -EAGAIN;
}

/* As hf_placer_copy(), but -EAGAIN comes without text. */
static int copy_or_wake(const struct hf_placer *placer, uint32_t block, uint64_t page, const void *content,
			struct hf_err *err)
{
	int result = hf_userfault_copy(placer->userfault_fd, page_address(placer, block, page), content,
				       placer->blocks->blocks[block].page_size_bytes);

	switch (result) {
	case 0:
		return 0;
	case -EEXIST:
	case -ENOMEM:
	case -ENOSPC:
		return wake_if_mapped(placer, block, page, err);
	default:
		return impossible(placer, block, page, "UFFDIO_COPY", result, err);
	}
}

int hf_placer_copy(const struct hf_placer *placer, uint32_t block, uint64_t page, const void *content,
		   struct hf_err *err)
{
	int result = copy_or_wake(placer, block, page, content, err);

	return result == -EAGAIN ? not_now(placer, block, page, err) : result;
}

int hf_placer_continue(const struct hf_placer *placer, uint32_t block, uint64_t page, struct hf_err *err)
{
	for (int round = 0; round < CONTINUE_ROUNDS_MAX; round++) {
		int result = hf_userfault_continue(placer->userfault_fd, page_address(placer, block, page),
						   placer->blocks->blocks[block].page_size_bytes);
		if (result == 0)
			return 0;
		if (result == -EEXIST)
			return wake(placer, block, page, err);
		if (result != -EFAULT)
			return impossible(placer, block, page, "UFFDIO_CONTINUE", result, err);
		result = copy_or_wake(placer, block, page, placer->zeros, err);
		if (result != -EAGAIN)
			return result;
	}
	return not_now(placer, block, page, err);
}

/* Before it is poisoned: the VMM may discard a poisoned page, and would see what the file holds of it. */
static int punch(const struct hf_placer *placer, uint32_t block, uint64_t page, struct hf_err *err)
{
	const struct hf_attached_region *region = &placer->regions[block];
	uint64_t page_size_bytes = placer->blocks->blocks[block].page_size_bytes;

	if (region->fd < 0 ||
	    fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      (off_t)(region->fd_offset_bytes + page * page_size_bytes), (off_t)page_size_bytes) == 0)
		return 0;
	return impossible(placer, block, page, "taking it out of the RAM file", -errno, err);
}

int hf_placer_poison(const struct hf_placer *placer, uint32_t block, uint64_t page, struct hf_err *err)
{
	int mapped = hf_vmm_page_mapped(placer->pagemap_fd, page_address(placer, block, page));

	if (mapped < 0)
		return impossible(placer, block, page, "reading the VMM's pagemap", mapped, err);
	if (mapped)
		return -EEXIST;
	int result = punch(placer, block, page, err);
	if (result)
		return result;
	result = hf_userfault_poison(placer->userfault_fd, page_address(placer, block, page),
				     placer->blocks->blocks[block].page_size_bytes);
	/* It is not mapped, so it is poisoned: who came between is woken, and gets the error. */
	if (result == -EEXIST)
		return wake(placer, block, page, err);
	return result ? impossible(placer, block, page, "UFFDIO_POISON", result, err) : 0;
}

int hf_placer_again(const struct hf_placer *placer, uint32_t block, uint64_t page, struct hf_err *err)
{
	if (placer->minor && placer->regions[block].fd >= 0)
		return hf_placer_continue(placer, block, page, err);

	int result = wake_if_mapped(placer, block, page, err);
	return result == -EAGAIN ? hf_placer_copy(placer, block, page, placer->zeros, err) : result;
}
