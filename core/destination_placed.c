/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the source hears of placed pages (PLACED), so that it may give them back. Theory of operation: on a
 * link with the feature each page is noted when it is placed for the first time, and said in batches: as many
 * pages as a batch holds, or whatever there is when the last batch is old. There is no clock here, so a batch
 * that is not full leaves with the next page; what is left at the end COMPLETE says.
 *
 * Saying it is a promise never to ask for the page again, kept by the received bit, which is set before. So a
 * message that was lost with its link costs nothing but time: behind RESUMED on each link all that is
 * received is said again. A message is made for the link it was made on and no other: on the next one RUN has
 * to be heard first.
 *
 *     placing thread                 link
 *     takes pages (lock), epoch 1
 *                                    down, up with epoch 2; received pages are noted again
 *     send(epoch 1): dropped
 */
#include "core/destination_internal.h"
#include "core/wire.h"

#define BATCH_PAGES    64u
#define BATCH_BYTES    (128ull << 20)
#define BATCH_NS       50000000u
#define TAKE_PAGES_MAX 4096u /* in one section under the lock */

static bool tells(const struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	return (d->link.features & HF_WIRE_FEATURE_RELEASE) && d->epoch != 0 && d->resumed_said &&
	       !d->complete_said;
}

int hf_destination_placed_link_up(struct hf_destination *d, const struct hf_link_info *info)
{
	hf_lock_assert_held(&d->lock);
	if (!(info->features & HF_WIRE_FEATURE_RELEASE) || d->unsaid.bits)
		return 0;
	return hf_pagemap_create(&d->unsaid, d->blocks.pages_total);
}

unsigned hf_destination_placed_begin(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	if (!tells(d))
		return 0;
	hf_pagemap_copy(&d->unsaid, &d->received);
	d->unsaid_pages = hf_pagemap_count(&d->unsaid);
	d->unsaid_cursor = 0;
	return d->unsaid_pages > 0 ? ACTION_SAY_PLACED : 0;
}

static bool batch_is_due(const struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	return d->unsaid_pages >= BATCH_PAGES ||
	       d->unsaid_pages * d->blocks.page_size_max_bytes >= BATCH_BYTES ||
	       hf_clock_now_ns(&d->clock) - d->placed_said_ns >= BATCH_NS;
}

unsigned hf_destination_placed(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	/* Of a hole the source has nothing to give back. */
	if (!tells(d) || !hf_pagemap_test(&d->present, page))
		return 0;
	d->unsaid_pages += !hf_pagemap_set(&d->unsaid, page);
	return batch_is_due(d) ? ACTION_SAY_PLACED : 0;
}

/* Locked. The next run of pages that have not been said, at most `most`; there is one. */
static uint32_t take_run(struct hf_destination *d, uint32_t most, struct hf_wire_page_range *range)
{
	hf_lock_assert_held(&d->lock);
	uint32_t first = hf_pagemap_next_set(&d->unsaid, d->unsaid_cursor);
	if (first == HF_PAGE_NONE)
		first = hf_pagemap_next_set(&d->unsaid, 0);
	struct page_place place = hf_place_of_page(d, first);
	const struct hf_ramblock *block = &d->blocks.blocks[place.block];
	uint32_t left = block->first_page + block->pages - first, pages = 0;
	while (pages < most && pages < left && hf_pagemap_clear(&d->unsaid, first + pages))
		pages++;
	d->unsaid_cursor = first + pages;
	d->unsaid_pages -= pages;
	*range = (struct hf_wire_page_range){d->source_of_block[place.block], (uint32_t)place.page, pages};
	return pages;
}

/* Locked. Returns the link the message is for; 0: there is nothing to say. */
static uint64_t take(struct hf_destination *d, struct hf_wire_placed *placed)
{
	hf_lock_assert_held(&d->lock);
	uint32_t pages = 0;
	placed->count = 0;
	if (!tells(d))
		return 0;
	while (d->unsaid_pages > 0 && pages < TAKE_PAGES_MAX && placed->count < HF_WIRE_PLACED_RANGES_MAX)
		pages += take_run(d, TAKE_PAGES_MAX - pages, &placed->ranges[placed->count++]);
	d->placed_said_ns = hf_clock_now_ns(&d->clock);
	return placed->count > 0 ? d->epoch : 0;
}

void hf_destination_say_placed(struct hf_destination *d)
{
	struct hf_wire_placed placed;
	uint8_t buffer[HF_WIRE_PLACED_MAX_BYTES];
	for (;;) {
		hf_lock(&d->lock);
		uint64_t epoch = take(d, &placed);
		hf_unlock(&d->lock);
		if (epoch == 0)
			return;
		ssize_t bytes = hf_wire_encode_placed(&placed, buffer, sizeof(buffer));
		if (bytes > 0)
			hf_transport_send(&d->transport, epoch, HF_WIRE_PLACED, buffer, (size_t)bytes);
	}
}
