/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A page goes PRESENT -> released and pending -> given back. PLACED moves it out of the presence map into
 * both maps here, under the engine's lock; a thread of the memory port fetches runs of pending pages and
 * gives them back one run at a time (hf_source_release_work() in source.c). The page path looks at `present`
 * first and at `released` for what is not: `released` is set before `present` is cleared, so a page that was
 * released is never taken for a hole.
 *
 *     page thread                      control thread
 *                                      released = 1
 *                                      present = 0
 *     present? no. released? yes: a violation, the link ends
 *
 * A page thread that has seen `present` just before serves a page that its peer has said it needs no more: a
 * destination that keeps the rules has no fetch of it on its way. The other kind gets the page, or zeros, or
 * the link ends; this host is not harmed by it.
 *
 * What a PLACED costs is bounded by the pages it moves, and by a look at the words of the map for each range:
 * saying the same again moves nothing.
 *
 * Not before RESUMED. Until then the destination may hand the VM back, and every page has to be here.
 */
#include "core/source_release.h"

#include <errno.h>

#include "core/wire.h"

#define RUN_BYTES_MAX (64ull << 20) /* given back at once; one page at least */

int hf_source_release_create(struct hf_source_release *release, uint32_t pages)
{
	int result = hf_pagemap_create(&release->released, pages);
	if (result == 0)
		result = hf_pagemap_create(&release->pending, pages);
	release->wanted = result == 0;
	return result;
}

void hf_source_release_destroy(struct hf_source_release *release)
{
	hf_pagemap_destroy(&release->released);
	hf_pagemap_destroy(&release->pending);
}

static int check_range(const struct hf_ramblocks *blocks, const struct hf_wire_page_range *range,
		       struct hf_err *err)
{
	uint32_t pages = range->block < blocks->count ? blocks->blocks[range->block].pages : 0;
	if (range->pages <= pages && range->first_page <= pages - range->pages)
		return 0;
	return hf_err_set(
	    err, HF_ERR_PEER, EPROTO,
	    "the destination says that it has placed pages that do not exist: block %u, page %u, "
	    "%u pages",
	    range->block, range->first_page, range->pages);
}

static void take_range(struct hf_source_release *release, uint32_t first, uint32_t end,
		       struct hf_pagemap *present)
{
	for (uint32_t page = hf_pagemap_next_set(present, first); page < end;
	     page = hf_pagemap_next_set(present, page + 1)) {
		hf_pagemap_set(&release->released, page);
		hf_pagemap_set(&release->pending, page);
		hf_pagemap_clear(present, page);
	}
}

int hf_source_release_placed(struct hf_source_release *release, const struct hf_ramblocks *blocks,
			     struct hf_pagemap *present, const uint8_t *payload, size_t bytes,
			     struct hf_err *err)
{
	struct hf_wire_placed placed;
	int result = hf_wire_decode_placed(payload, bytes, &placed, err);
	if (result < 0)
		return result;
	for (uint32_t i = 0; i < placed.count && result == 0; i++)
		result = check_range(blocks, &placed.ranges[i], err);
	for (uint32_t i = 0; i < placed.count && result == 0; i++) {
		uint32_t first =
		    blocks->blocks[placed.ranges[i].block].first_page + placed.ranges[i].first_page;
		take_range(release, first, first + placed.ranges[i].pages, present);
	}
	return result;
}

bool hf_source_release_next(struct hf_source_release *release, const struct hf_ramblocks *blocks,
			    struct hf_release_run *run)
{
	uint32_t first = hf_pagemap_next_set(&release->pending, release->cursor);
	if (first == HF_PAGE_NONE)
		first = hf_pagemap_next_set(&release->pending, 0);
	if (first == HF_PAGE_NONE)
		return false;
	uint32_t index = hf_ramblocks_block_of_page(blocks, first), pages = 0;
	const struct hf_ramblock *block = &blocks->blocks[index];
	uint32_t left = block->first_page + block->pages - first;
	while (pages < left && (pages == 0 || (pages + 1) * block->page_size_bytes <= RUN_BYTES_MAX) &&
	       hf_pagemap_clear(&release->pending, first + pages))
		pages++;
	release->cursor = first + pages;
	*run = (struct hf_release_run){index, first - block->first_page, pages};
	return true;
}

void hf_source_release_done(struct hf_source_release *release, const struct hf_ramblocks *blocks,
			    const struct hf_release_run *run, int result, const struct hf_err *err)
{
	if (result < 0) {
		if (release->err.class == HF_ERR_NONE)
			release->err = *err;
		return;
	}
	release->pages += run->pages;
	release->bytes += run->pages * blocks->blocks[run->block].page_size_bytes;
}

bool hf_source_release_has(const struct hf_source_release *release, uint32_t page)
{
	return release->wanted && hf_pagemap_test(&release->released, page);
}
