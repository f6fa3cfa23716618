/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A harvest finds pages that the VMM has not mapped (`gone`): the file holds them or it does not. One that it
 * does not hold must not be read, since reading would allocate it, and is reported as a hole. Holes are
 * looked for only where some are gone, and in doubt a page is none: a huge page allocated in vain costs
 * memory, a page taken for a hole its content. So a hole is a page that neither the file's page cache nor the
 * VMM has, in a look at the file that has found all that the file system counts.
 *
 * Memory that is lent to a network adapter is in the file with every page, so the file tells no holes there.
 * The port below knows which pages existed before and which the VMM has mapped since; what the first harvest
 * found in the file alone is none of them. From then on the tracking misses no touch, and knows of pages that
 * the VMM has let go of as well, which the port below cannot see: presence() adds them. A page that was given
 * back to the host is a failure, at each harvest as at the end: the adapter reads another one.
 */
#include "hugemem/precopy_memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hugemem/attach_client.h"
#include "hugemem/dirty_tracking.h"
#include "hugemem/residency.h"

struct lent_block {
	bool harvested;
	uint8_t *touched; /* pages that any harvest has found */
};

struct hf_precopy_memory {
	/* Set at creation. */
	struct hf_source_memory below;
	struct hf_attach_client *client;
	struct hf_dirty_tracking *tracking;
	const struct hf_attached_region **regions; /* by block */
	uint32_t count;
	/* The calls of one thread at a time; NULL: the memory is not lent. */
	struct lent_block *lent; /* by block */
	int pagemap_fd;
};

/* ---- the port's operations ---- */

static int op_chunk(void *self, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
		    const void **bytes, struct hf_err *err)
{
	const struct hf_source_memory *below = &((struct hf_precopy_memory *)self)->below;

	return below->ops->chunk(below->self, block, offset_bytes, length_bytes, bytes, err);
}

static int op_presence(void *self, uint32_t block, uint8_t *bitmap, size_t bitmap_bytes, struct hf_err *err)
{
	const struct hf_precopy_memory *memory = self;
	int result = memory->below.ops->presence(memory->below.self, block, bitmap, bitmap_bytes, err);

	for (size_t i = 0; memory->lent && result == 0 && i < bitmap_bytes; i++)
		bitmap[i] |= memory->lent[block].touched[i];
	return result;
}

static bool is_mapped(const struct hf_precopy_memory *memory, const struct hf_attached_region *region,
		      uint64_t page)
{
	return hf_vmm_page_mapped(memory->pagemap_fd, region->vmm_address + page * region->page_size_bytes) !=
	       0;
}

static void mark_holes(const struct hf_precopy_memory *memory, const struct hf_attached_region *region,
		       const struct hf_file_pages *file, const uint8_t *dirtied, uint8_t *holes)
{
	uint64_t first = region->fd_offset_bytes / region->page_size_bytes;
	uint64_t pages = region->length_bytes / region->page_size_bytes;

	for (uint64_t page = 0; page < pages; page++) {
		if (!(dirtied[page / 8] >> page % 8 & 1) || hf_file_page_present(file, first + page) ||
		    is_mapped(memory, region, page))
			continue;
		holes[page / 8] |= (uint8_t)(1u << page % 8);
	}
}

static int find_holes(const struct hf_precopy_memory *memory, uint32_t block, const uint8_t *dirtied,
		      uint8_t *holes, struct hf_err *err)
{
	const struct hf_attached_region *region = memory->regions[block];
	struct hf_file_pages file = {0};
	int result = hf_file_pages_scan(region->fd, region->page_size_bytes, &file, err);

	if (result)
		return result;
	if (file.present >= file.accounted)
		mark_holes(memory, region, &file, dirtied, holes);
	hf_file_pages_free(&file);
	return 0;
}

static int harvest_lent(const struct hf_precopy_memory *memory, uint32_t block, uint8_t *dirtied,
			size_t bitmap_bytes, struct hf_err *err)
{
	struct lent_block *lent = &memory->lent[block];
	uint8_t *present = calloc(1, bitmap_bytes);

	if (!present)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	int result = memory->below.ops->presence(memory->below.self, block, present, bitmap_bytes, err);
	for (size_t i = 0; result == 0 && i < bitmap_bytes; i++) {
		if (!lent->harvested)
			dirtied[i] &= present[i];
		lent->touched[i] |= dirtied[i];
	}
	lent->harvested |= result == 0;
	free(present);
	return result;
}

static int op_harvest(void *self, uint32_t block, uint8_t *dirtied, uint8_t *holes, size_t bitmap_bytes,
		      struct hf_err *err)
{
	const struct hf_precopy_memory *memory = self;
	struct hf_dirty_harvest harvest;
	int result = hf_dirty_tracking_harvest(memory->tracking, block, dirtied, bitmap_bytes, &harvest, err);

	if (result == 0 && memory->lent)
		return harvest_lent(memory, block, dirtied, bitmap_bytes, err);
	if (result || harvest.gone == 0)
		return result;
	return find_holes(memory, block, dirtied, holes, err);
}

/* Pages go when the VM is surely elsewhere: no harvest follows that would have to see the holes. */
static int op_release(void *self, uint32_t block, uint64_t first_page, uint32_t pages, struct hf_err *err)
{
	const struct hf_source_memory *below = &((struct hf_precopy_memory *)self)->below;

	return below->ops->release(below->self, block, first_page, pages, err);
}

static void op_kick_release(void *self)
{
	const struct hf_source_memory *below = &((struct hf_precopy_memory *)self)->below;

	below->ops->kick_release(below->self);
}

static const struct hf_source_memory_ops precopy_ops = {
    .chunk = op_chunk,
    .presence = op_presence,
    .release = op_release,
    .kick_release = op_kick_release,
    .harvest = op_harvest,
};

struct hf_source_memory hf_precopy_memory_port(struct hf_precopy_memory *memory)
{
	return (struct hf_source_memory){.ops = &precopy_ops, .self = memory};
}

/* ---- creation ---- */

static int find_regions(struct hf_precopy_memory *memory, const struct hf_ramblocks *blocks,
			struct hf_err *err)
{
	uint32_t count;
	const struct hf_attached_region *regions = hf_attach_client_regions(memory->client, &count);

	memory->regions = calloc(blocks->count + 1, sizeof(const struct hf_attached_region *));
	if (!memory->regions)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	memory->count = blocks->count;
	for (uint32_t block = 0; block < blocks->count; block++) {
		for (uint32_t i = 0; i < count; i++)
			if (!strcmp(regions[i].idstr, blocks->blocks[block].idstr))
				memory->regions[block] = &regions[i];
		if (!memory->regions[block])
			return hf_err_set(err, HF_ERR_LOCAL, ENOENT,
					  "block '%s' is no region of its attach socket",
					  blocks->blocks[block].idstr);
	}
	return 0;
}

static int check_vmm(const struct hf_precopy_memory *memory, pid_t vmm_pid, struct hf_err *err)
{
	pid_t pid = hf_attach_client_pid(memory->client);

	if (pid == vmm_pid)
		return 0;
	return hf_err_set(
	    err, HF_ERR_LOCAL, EINVAL,
	    "process %d answers there, but the VM is process %d; name the attach socket of that "
	    "VM",
	    (int)pid, (int)vmm_pid);
}

int hf_precopy_memory_create(struct hf_precopy_memory **out, const char *attach_path, pid_t vmm_pid,
			     const struct hf_ramblocks *blocks, const struct hf_block_file *files,
			     struct hf_source_memory below, struct hf_err *err)
{
	struct hf_precopy_memory *memory = calloc(1, sizeof(*memory));
	if (!memory)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	memory->below = below;
	memory->pagemap_fd = -1;
	int result = hf_attach_client_connect(&memory->client, attach_path, err);
	if (result == 0)
		result = check_vmm(memory, vmm_pid, err);
	if (result == 0)
		result = hf_attach_client_name_regions(memory->client, files, blocks->count, err);
	if (result == 0)
		result = hf_vmm_pagemap_open(vmm_pid, &memory->pagemap_fd, err);
	if (result == 0)
		result = hf_dirty_tracking_start(&memory->tracking, memory->client, blocks, err);
	if (result == 0)
		result = find_regions(memory, blocks, err);
	if (result) {
		hf_precopy_memory_destroy(memory, memory->tracking != NULL);
		return result;
	}
	*out = memory;
	return 0;
}

int hf_precopy_memory_lent(struct hf_precopy_memory *memory, struct hf_err *err)
{
	if (memory->lent)
		return 0;
	memory->lent = calloc(memory->count + 1, sizeof(*memory->lent));
	bool whole = memory->lent != NULL;
	for (uint32_t block = 0; whole && block < memory->count; block++) {
		const struct hf_attached_region *region = memory->regions[block];
		memory->lent[block].touched =
		    calloc(1, (region->length_bytes / region->page_size_bytes + 7) / 8);
		whole = memory->lent[block].touched != NULL;
	}
	return whole ? 0 : hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
}

void hf_precopy_memory_destroy(struct hf_precopy_memory *memory, bool answers)
{
	if (!memory)
		return;
	if (answers)
		hf_dirty_tracking_stop(memory->tracking, NULL);
	else
		hf_dirty_tracking_abandon(memory->tracking);
	if (memory->client)
		hf_attach_client_destroy(memory->client);
	if (memory->pagemap_fd >= 0)
		close(memory->pagemap_fd);
	for (uint32_t block = 0; memory->lent && block < memory->count; block++)
		free(memory->lent[block].touched);
	free(memory->lent);
	free(memory->regions);
	free(memory);
}
