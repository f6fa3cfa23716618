/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that loading will touch
 *
 * A VMM that loads device state reads memory, the rings of virtio devices above all: each read is a fault on
 * a page that is not here, one after the other, and each costs a round trip and a page's time on the link
 * while the VM stands still on both sides. The source can tell before (FIRST). So from DEVICE_END on, when
 * pages may be asked for, those are on their way while the VMM still reads the state.
 *
 *     without      DEVICE_END   load..wait......load..wait......load   LOADED
 *     with         DEVICE_END   load....load..load                     LOADED
 *                               pages..........
 *
 * They are the background's, which has nothing else to do before RESUMED: taken before what the scan finds,
 * as many bytes at once as its window, and behind every page that somebody waits for, which is urgent. What
 * is different until RESUMED: the background is not held for those that wait already, nor by the operator
 * (`hold`, a limit), since the next to wait waits for these. So a fault on another page finds a window in
 * front of it and no more. A fault on one of them is a fault on a page in flight, or on any missing page.
 *
 * Nothing depends on the list: a page of it that is a hole, here already, or under way is passed over, and
 * what is left of it at RESUMED is the background's like all others.
 */
#include "core/destination_internal.h"

#include <errno.h>

/* The numbers are the source's. */
static int take_pages(struct hf_destination *d, const struct hf_wire_first *first, struct hf_err *err)
{
	hf_lock_assert_held(&d->lock);
	for (uint32_t i = 0; i < first->count; i++) {
		const struct hf_wire_page *named = &first->pages[i];
		if (named->block >= d->blocks.count ||
		    named->page >= d->blocks.blocks[d->block_of_source[named->block]].pages)
			return hf_err_set(err, HF_ERR_PEER, EPROTO,
					  "FIRST names block %u page %u, which does not exist", named->block,
					  named->page);
	}
	for (uint32_t i = 0; i < first->count; i++) {
		const struct hf_wire_page *named = &first->pages[i];
		d->first.pages[i] =
		    d->blocks.blocks[d->block_of_source[named->block]].first_page + named->page;
	}
	d->first.count = first->count;
	return 0;
}

unsigned hf_destination_on_first(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	hf_lock_assert_held(&d->lock);
	if (d->status != HF_STATUS_ACTIVE || !d->presence_complete || d->device_state_bytes != 0 ||
	    d->first.heard || !(d->link.features & HF_WIRE_FEATURE_FIRST))
		return hf_destination_unexpected(d, HF_WIRE_FIRST);

	struct hf_wire_first first;
	struct hf_err err = HF_ERR_INIT;
	if (hf_wire_decode_first(payload, bytes, &first, &err) < 0 || take_pages(d, &first, &err) < 0)
		return hf_destination_violation(d, &err);
	d->first.heard = true;
	return 0;
}

uint32_t hf_destination_first_next(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	struct first_pages *first = &d->first;
	while (first->next < first->count && !hf_pagemap_test(&d->todo_fetch, first->pages[first->next]))
		first->next++;
	return first->next < first->count ? first->pages[first->next] : HF_PAGE_NONE;
}

bool hf_destination_first_is_next(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	uint16_t active = d->active[HF_FETCH_BACKGROUND].head;
	if (d->first.count == 0 || d->resumed || !hf_destination_serving(d))
		return false;
	return active != HF_TRANSFER_NONE ? d->transfers[active].named
					  : hf_destination_first_next(d) != HF_PAGE_NONE;
}
