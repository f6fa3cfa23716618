/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A page table entry of a range that is registered for asynchronous write protection is in one of these
 * states:
 *
 *   entry              PAGEMAP_SCAN says          comes from
 *   empty              nothing                    never touched; or let go of while it was not protected
 *   present            WRITTEN, PRESENT           touched or written since the last protection
 *   present, protected PRESENT                    protected; or touched again where a mark was
 *   mark               SWAPPED                    let go of while it was protected
 *
 * A fresh registration protects nothing, so everything present shows as written: the first harvest needs no
 * protection before it. Each harvest walks the block's entries twice:
 *
 *   A  written entries: reported, and protected again
 *   B  all entries: empty ones get a mark (UFFDIO_WRITEPROTECT), as do holes in the first harvest
 *
 * so that from then on every entry is protected in one way or the other. One that B finds empty in a later
 * harvest was written, or touched, and then let go of (MADV_DONTNEED, a hole punched), which leaves nothing
 * else behind: it is reported. Without the marks a page could be absent at two harvests, be written in
 * between, and never show. In the first harvest an empty entry is a hole, unless the file holds the page: the
 * file is looked at after the marks are set.
 *
 * Pages that are present in B and were not at the last harvest, or the other way round, are reported too.
 * One that was protected and let go of leaves a mark, and may have been punched out; one that comes back
 * from a mark by a read does not show as written, though the file may hold anything by then.
 *
 * What races with B: an entry that B finds empty may be filled before its mark is set, and is then protected
 * with a write in it that never shows. It was reported, or is in the file when that is looked at.
 *
 * Reading and protecting need not be one step. Let S be what the first walk finds, at t1, and each page of S
 * be protected at t2 > t1. The caller reads a page's content after the harvest, so after t2. A write to a
 * page of S before t2 is in that content; a write after t2 shows again; a page outside S is not protected
 * here, so a write after t1 shows next time. For pages of 2 MiB the kernel does both under one lock in one
 * call (PM_SCAN_WP_MATCHING). For others it compares their size with 2 MiB, takes them for parts of a page
 * and neither reports nor protects them, in most releases; so these are asked for first and then protected by
 * UFFDIO_WRITEPROTECT, run by run.
 *
 * Cost of a harvest of 1000 pages of 2 MiB (tests/unit/hugemem/test_dirty_tracking.c, a_harvest_costs; a
 * shared 2-core virtual machine, Linux 6.18): 170 us if nothing was written, 560 us (once 4.5 ms) for the
 * first, 300 us if all were written, 280 us if every second one was. The first write to a page after a
 * harvest costs the guest one fault: 0.6 to 20 us from run to run.
 */
#include "hugemem/dirty_tracking.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "hugemem/kernel_compat.h"
#include "hugemem/probe.h"
#include "hugemem/residency.h"
#include "hugemem/userfault.h"

#define REGIONS_AT_ONCE	   256u
#define SCAN_PROTECTS_SIZE (2ull << 20)
#define TRACKING_FEATURES                                                                                    \
	(UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC)
#define TRACKING_KERNEL "6.7"

struct tracked_block {
	const struct hf_attached_region *region;
	uint32_t pages;
	bool harvested;	  /* at least once */
	uint8_t *present; /* at the last harvest */
	uint8_t *now;	  /* the one under way: what is present */
	uint8_t *found;	  /* and what it reports */
};

struct hf_dirty_tracking {
	/* Set by start. */
	struct hf_attach_client *client;
	int userfault, pagemap;
	uint32_t count;
	/* The caller's thread. */
	struct tracked_block *blocks;
};

/* ---- the kernel ---- */

static int too_old(const char *lacks, struct hf_err *err)
{
	struct utsname host;

	if (uname(&host))
		strcpy(host.release, "unknown");
	return hf_err_set(err, HF_ERR_LOCAL, EOPNOTSUPP,
			  "pre-copy tracks writes with Linux " TRACKING_KERNEL
			  " or newer; this host's kernel (%s) lacks %s: migrate this VM by postcopy alone",
			  host.release, lacks);
}

static int check_kernel(struct hf_err *err)
{
	struct hf_probe probe;
	int result = hf_probe(&probe, err);

	if (result)
		return result;
	if (!probe.pagemap_scan)
		return too_old("PAGEMAP_SCAN", err);
	/* An agent that may have no userfaultfd itself lets the VMM find out. */
	if (probe.userfaultfd && TRACKING_FEATURES & ~probe.features)
		return too_old("asynchronous write protection (userfaultfd's wp-async)", err);
	return 0;
}

/* ---- start ---- */

static int take_region(struct tracked_block *tracked, const struct hf_ramblock *block,
		       const struct hf_attached_region *region, struct hf_err *err)
{
	char here[HF_SIZE_TEXT_BYTES], there[HF_SIZE_TEXT_BYTES];

	if (region->length_bytes != block->length_bytes || region->page_size_bytes != block->page_size_bytes)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "block '%s': the VMM lends %" PRIu64 " bytes in pages of %s, the VM has %" PRIu64
		    " in pages of %s; see that the attach socket is that VM's",
		    block->idstr, region->length_bytes, hf_size_text(region->page_size_bytes, there),
		    block->length_bytes, hf_size_text(block->page_size_bytes, here));
	if (region->fd < 0)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EOPNOTSUPP,
		    "block '%s' is private memory, which cannot be read from outside while the VM "
		    "runs; pre-copy needs shared memory (share=on)",
		    block->idstr);
	*tracked = (struct tracked_block){.region = region, .pages = block->pages};
	size_t bytes = ((size_t)block->pages + 7) / 8;
	tracked->present = calloc(1, bytes);
	tracked->now = calloc(1, bytes);
	tracked->found = calloc(1, bytes);
	if (!tracked->present || !tracked->now || !tracked->found)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	return 0;
}

static const struct hf_attached_region *find_region(const struct hf_attach_client *client, const char *idstr)
{
	uint32_t count;
	const struct hf_attached_region *regions = hf_attach_client_regions(client, &count);

	for (uint32_t i = 0; i < count; i++)
		if (!strcmp(regions[i].idstr, idstr))
			return &regions[i];
	return NULL;
}

static int take_regions(struct hf_dirty_tracking *tracking, const struct hf_ramblocks *blocks,
			struct hf_err *err)
{
	int result = 0;

	tracking->blocks = calloc(blocks->count + 1, sizeof(*tracking->blocks));
	if (!tracking->blocks)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	tracking->count = blocks->count;
	for (uint32_t i = 0; i < blocks->count && result == 0; i++) {
		const struct hf_ramblock *block = &blocks->blocks[i];
		const struct hf_attached_region *region = find_region(tracking->client, block->idstr);
		if (!region)
			return hf_err_set(
			    err, HF_ERR_LOCAL, ENOENT,
			    "block '%s': VM '%s' lends no region of that name at its attach socket; "
			    "its writes cannot be tracked",
			    block->idstr, hf_attach_client_vm_name(tracking->client));
		result = take_region(&tracking->blocks[i], block, region, err);
	}
	return result;
}

static int ask_userfault(struct hf_dirty_tracking *tracking, struct hf_err *err)
{
	int result = hf_attach_client_userfault(tracking->client, HF_USERFAULT_WP_ASYNC, TRACKING_FEATURES,
						&tracking->userfault, err);

	if (result == -EOPNOTSUPP)
		hf_err_prefix(err, "pre-copy needs Linux " TRACKING_KERNEL " or newer on the source");
	return result;
}

/* What an earlier agent has protected would not show as written: only a new registration begins with all
 * pages. */
static int begin_afresh(struct hf_dirty_tracking *tracking, struct hf_err *err)
{
	int result = ask_userfault(tracking, err);

	if (result || !hf_attach_client_resumed(tracking->client))
		return result;
	close(tracking->userfault);
	tracking->userfault = -1;
	result = hf_attach_client_release(tracking->client, err);
	return result ? result : ask_userfault(tracking, err);
}

static void release_memory(struct hf_dirty_tracking *tracking)
{
	for (uint32_t i = 0; i < tracking->count; i++) {
		free(tracking->blocks[i].present);
		free(tracking->blocks[i].now);
		free(tracking->blocks[i].found);
	}
	free(tracking->blocks);
	if (tracking->userfault >= 0)
		close(tracking->userfault);
	if (tracking->pagemap >= 0)
		close(tracking->pagemap);
	free(tracking);
}

int hf_dirty_tracking_start(struct hf_dirty_tracking **out, struct hf_attach_client *client,
			    const struct hf_ramblocks *blocks, struct hf_err *err)
{
	int result = check_kernel(err);
	if (result)
		return result;
	struct hf_dirty_tracking *tracking = calloc(1, sizeof(*tracking));
	if (!tracking)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	tracking->client = client;
	tracking->userfault = tracking->pagemap = -1;
	result = take_regions(tracking, blocks, err);
	if (result == 0)
		result = hf_vmm_pagemap_open(hf_attach_client_pid(client), &tracking->pagemap, err);
	if (result == 0)
		result = begin_afresh(tracking, err);
	if (result) {
		release_memory(tracking);
		return result;
	}
	*out = tracking;
	return 0;
}

int hf_dirty_tracking_stop(struct hf_dirty_tracking *tracking, struct hf_err *err)
{
	if (!tracking)
		return 0;
	int result = hf_attach_client_release(tracking->client, err);
	release_memory(tracking);
	return result;
}

void hf_dirty_tracking_abandon(struct hf_dirty_tracking *tracking)
{
	if (tracking)
		release_memory(tracking);
}

/* ---- harvest ---- */

static size_t bitmap_bytes_of(const struct tracked_block *block)
{
	return ((size_t)block->pages + 7) / 8;
}

static uint64_t page_of(const struct tracked_block *block, uint64_t address)
{
	return (address - block->region->vmm_address) / block->region->page_size_bytes;
}

static void set_bits(const struct tracked_block *block, uint8_t *bits, uint64_t start, uint64_t end)
{
	for (uint64_t page = page_of(block, start); page < page_of(block, end); page++)
		bits[page / 8] |= (uint8_t)(1u << page % 8);
}

static bool scan_protects(const struct tracked_block *block)
{
	return block->region->page_size_bytes == SCAN_PROTECTS_SIZE;
}

static int take_written(const struct hf_dirty_tracking *tracking, const struct tracked_block *block,
			const struct page_region *run)
{
	set_bits(block, block->found, run->start, run->end);
	if (scan_protects(block))
		return 0;
	return hf_userfault_protect(tracking->userfault, run->start, run->end - run->start);
}

typedef int take_run(const struct hf_dirty_tracking *tracking, const struct tracked_block *block,
		     const struct page_region *run);

/* One call of the kernel: as many runs as fit. *start becomes where the next one goes on. */
static int walk_some(const struct hf_dirty_tracking *tracking, const struct tracked_block *block,
		     struct pm_scan_arg *scan, take_run *take)
{
	struct page_region runs[REGIONS_AT_ONCE];

	scan->vec = (uintptr_t)runs;
	scan->vec_len = REGIONS_AT_ONCE;
	int count = ioctl(tracking->pagemap, PAGEMAP_SCAN, scan);
	if (count < 0)
		return -errno;
	if (scan->walk_end <= scan->start)
		return -EIO;
	scan->start = scan->walk_end;
	for (int i = 0; i < count; i++) {
		int result = take(tracking, block, &runs[i]);
		if (result)
			return result;
	}
	return 0;
}

/* Every run of entries that has all categories of `wanted`; `told` of its categories are told. */
static int walk(const struct hf_dirty_tracking *tracking, const struct tracked_block *block, uint64_t flags,
		uint64_t wanted, uint64_t told, take_run *take)
{
	struct pm_scan_arg scan = {.size = sizeof(scan),
				   .flags = PM_SCAN_CHECK_WPASYNC | flags,
				   .start = block->region->vmm_address,
				   .end = block->region->vmm_address + block->region->length_bytes,
				   .category_mask = wanted,
				   .return_mask = told};
	int result = 0;

	while (scan.start < scan.end && result == 0)
		result = walk_some(tracking, block, &scan, take);
	return result;
}

/* The page tables of a process that has exited are empty, and that is no error to the kernel. */
static int check_alive(const struct hf_dirty_tracking *tracking, const struct tracked_block *block)
{
	int mapped = hf_vmm_page_mapped(tracking->pagemap, block->region->vmm_address);

	return mapped < 0 ? mapped : 0;
}

static int take_entry(const struct hf_dirty_tracking *tracking, const struct tracked_block *block,
		      const struct page_region *run)
{
	if (run->categories & PAGE_IS_PRESENT)
		set_bits(block, block->now, run->start, run->end);
	if (run->categories & (PAGE_IS_PRESENT | PAGE_IS_SWAPPED))
		return 0;
	if (block->harvested)
		set_bits(block, block->found, run->start, run->end);
	return hf_userfault_protect(tracking->userfault, run->start, run->end - run->start);
}

/* Reports pages that have come or gone since the last harvest. */
static void compare_present(struct tracked_block *block, uint32_t *gone)
{
	*gone = 0;
	for (size_t i = 0; i < bitmap_bytes_of(block); i++) {
		block->found[i] |= block->present[i] ^ block->now[i];
		*gone += (uint32_t)__builtin_popcount(block->found[i] & (uint8_t)~block->now[i]);
	}
	uint8_t *before = block->present;
	block->present = block->now;
	block->now = before;
}

/* Pages that the file holds and the VMM has not mapped show in no page table. */
static int find_in_file(const struct tracked_block *block, struct hf_err *err)
{
	struct hf_file_pages cached = {0};
	uint64_t first = block->region->fd_offset_bytes / block->region->page_size_bytes;
	int result = hf_file_pages_scan(block->region->fd, block->region->page_size_bytes, &cached, err);

	if (result)
		return result;
	for (uint64_t page = 0; page < block->pages; page++)
		if (hf_file_page_present(&cached, first + page))
			block->found[page / 8] |= (uint8_t)(1u << page % 8);
	hf_file_pages_free(&cached);
	return 0;
}

static int cannot_look(const struct hf_dirty_tracking *tracking, int result, struct hf_err *err)
{
	const char *vm = hf_attach_client_vm_name(tracking->client);

	if (result == -EPERM || result == -ENOENT)
		return hf_err_set(
		    err, HF_ERR_LOCAL, -result,
		    "the memory of VM '%s' is no longer tracked: the VMM has remapped it or another "
		    "agent has ended the tracking; start the migration again",
		    vm);
	if (result == -ESRCH)
		return hf_err_set(err, HF_ERR_LOCAL, ESRCH, "the VMM of VM '%s' has exited", vm);
	return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot read which pages VM '%s' has written: %s", vm,
			  strerror(-result));
}

static int look(const struct hf_dirty_tracking *tracking, struct tracked_block *block, uint32_t *gone,
		struct hf_err *err)
{
	memset(block->now, 0, bitmap_bytes_of(block));
	int result = walk(tracking, block, scan_protects(block) ? PM_SCAN_WP_MATCHING : 0, PAGE_IS_WRITTEN,
			  PAGE_IS_WRITTEN, take_written);
	if (result == 0)
		result = walk(tracking, block, 0, 0, PAGE_IS_PRESENT | PAGE_IS_SWAPPED, take_entry);
	if (result == 0)
		result = check_alive(tracking, block);
	if (result)
		return cannot_look(tracking, result, err);
	compare_present(block, gone);
	result = block->harvested ? 0 : find_in_file(block, err);
	if (result == 0)
		block->harvested = true;
	return result;
}

int hf_dirty_tracking_harvest(struct hf_dirty_tracking *tracking, uint32_t block, uint8_t *bitmap,
			      size_t bitmap_bytes, struct hf_dirty_harvest *harvest, struct hf_err *err)
{
	struct tracked_block *tracked = &tracking->blocks[block];
	struct hf_dirty_harvest done = {0};
	size_t bytes = bitmap_bytes_of(tracked);

	if (bitmap_bytes != bytes)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "block '%s': a bitmap has %zu bytes, not %zu",
				  tracked->region->idstr, bytes, bitmap_bytes);
	memset(tracked->found, 0, bytes);
	int result = look(tracking, tracked, &done.gone, err);
	if (result)
		hf_err_prefix(err, "block '%s'", tracked->region->idstr);
	/* Also after a failure: what was protected again will not show a second time. */
	for (size_t i = 0; i < bytes; i++) {
		bitmap[i] |= tracked->found[i];
		done.pages += (uint32_t)__builtin_popcount(tracked->found[i]);
	}
	if (result == 0)
		*harvest = done;
	return result;
}
