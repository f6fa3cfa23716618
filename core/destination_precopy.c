/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that come while the source VM runs
 *
 * The source names a set of pages (ROUND.., ROUND_END), they are fetched as the background fetches, into the
 * alias, and nothing is placed: nothing of the VM here runs or is loaded, so nobody may see them. When none
 * is on its way any more the round has ended (ROUND_DONE) and the source says what has been written
 * meanwhile.
 *
 *     set heard              landed loses its pages, todo_fetch gets them
 *     page landed whole      landed gets it; it is PAGE_MISSING as before
 *     final set heard        landed loses its pages: they were written since they landed
 *     presence map whole     what is in landed and exists is received; what exists and is not, is missing
 *
 * A set takes pages out of `landed` before the first of them is fetched again, and the final one comes after
 * the source VM has stopped and its devices are saved; so a page in `landed` at the end holds what the source
 * holds. Received pages are not mapped: the first fault on one is a minor one, and is served as any fault on
 * a received page is (place_again). That is also what a restarted agent does.
 *
 * A page that landed and does not exist at the end must read as zeros though its landing holds others: it is
 * cleared before anything can be asked for or served, since from LOADED on a restarted agent takes the
 * landing of a hole for zeros. The VM stands still meanwhile. So a page that was punched out between rounds
 * is named by the next one and comes as zeros, which are cleared then and there, and only what was punched
 * out since the last harvest before the stop, or was left out of all sets since, is left for the end.
 *
 * A source that cuts a round (ROUND_END, CUT) wants the VM to move now: nothing more is posted, pages of
 * which only a part was fetched are missing again.
 *
 * Faults that come this early (a VMM that touches memory before it loads) wait, as they do without rounds,
 * until the presence map is known. Their pages take part in no round.
 *
 * With WHOLE the rest is moved while the VM stands still on both sides: the background runs between
 * DEVICE_END and LOADED, without a limit, and LOADED waits for the last page.
 */
#include <errno.h>

#include "core/destination_internal.h"
#include "core/wire.h"

#define NS_PER_S 1000000000ull

int hf_destination_precopy_prepare(struct hf_destination *d, struct hf_err *err)
{
	hf_lock(&d->lock);
	struct precopy *precopy = &d->precopy;
	int result = 0;
	precopy->spoken = (d->link.features & HF_WIRE_FEATURE_PRECOPY) != 0;
	if (precopy->spoken && d->memory.placement != HF_PLACEMENT_CONTINUE)
		result = hf_err_set(
		    err, HF_ERR_LOCAL, EOPNOTSUPP,
		    "VM '%s': pre-copy needs shared memory placed by `continue`, and this side places "
		    "by `copy` (private memory, an older kernel, or --placement copy); send it "
		    "without --precopy",
		    d->vm_name);
	if (precopy->spoken && result == 0 &&
	    (hf_pagemap_create(&precopy->landed, d->blocks.pages_total) < 0 ||
	     hf_pagemap_create(&precopy->set, d->blocks.pages_total) < 0))
		result = hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "VM '%s': no memory for the maps of pre-copy",
				    d->vm_name);
	hf_limiter_init(&precopy->limiter, 0, hf_clock_now_ns(&d->clock));
	hf_unlock(&d->lock);
	return result;
}

void hf_destination_precopy_destroy(struct hf_destination *d)
{
	hf_pagemap_destroy(&d->precopy.landed);
	hf_pagemap_destroy(&d->precopy.set);
}

void hf_destination_precopy_tables(const struct hf_destination *d, struct hf_tables *tables)
{
	const struct precopy *precopy = &d->precopy;
	if (!precopy->landed.bits || !precopy->set.bits)
		return;
	hf_tables_add(tables, precopy->landed.bits, hf_pagemap_bytes(precopy->landed.pages));
	hf_tables_add(tables, precopy->set.bits, hf_pagemap_bytes(precopy->set.pages));
}

/* ---- what the rest of the engine asks ---------------------------------------------------------- */

bool hf_destination_loads_whole(const struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	return d->precopy.whole && d->incoming == HF_INCOMING_LISTEN && !d->resumed;
}

struct hf_limiter *hf_destination_limiter(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	if (hf_destination_loads_whole(d))
		return NULL;
	return hf_destination_in_round(d) ? &d->precopy.limiter : &d->limiter;
}

bool hf_destination_load_must_wait(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	d->precopy.load_waits = hf_destination_loads_whole(d) && d->pages_received != d->blocks.pages_total;
	return d->precopy.load_waits;
}

/* ---- sets -------------------------------------------------------------------------------------- */

/* Locked. May a set be named now? */
static bool set_is_due(const struct hf_destination *d)
{
	return d->status == HF_STATUS_ACTIVE && d->precopy.spoken && !d->precopy.final &&
	       d->precopy.state == ROUND_NONE;
}

static unsigned out_of_order(struct hf_destination *d, const struct hf_wire_presence *piece)
{
	struct hf_err err;
	hf_err_set(
	    &err, HF_ERR_PEER, EPROTO,
	    "the source's set of pages is out of order or no part of a block: block %u page %u, %u pages, "
	    "after block %u page %u",
	    piece->block, piece->first_page, piece->pages, d->precopy.set_block, d->precopy.set_page);
	return hf_destination_violation(d, &err);
}

unsigned hf_destination_on_round(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	hf_lock_assert_held(&d->lock);
	struct precopy *precopy = &d->precopy;
	if (!set_is_due(d))
		return hf_destination_unexpected(d, HF_WIRE_ROUND);

	struct hf_wire_presence piece;
	struct hf_err err = HF_ERR_INIT;
	if (hf_wire_decode_round(payload, bytes, &piece, &err) < 0)
		return hf_destination_violation(d, &err);
	if (piece.block >= d->blocks.count || piece.block < precopy->set_block ||
	    (piece.block == precopy->set_block && piece.first_page < precopy->set_page))
		return out_of_order(d, &piece);
	const struct hf_ramblock *block = &d->blocks.blocks[d->block_of_source[piece.block]];
	if (piece.first_page >= block->pages || piece.pages > block->pages - piece.first_page ||
	    hf_pagemap_import(&precopy->set, block->first_page + piece.first_page, piece.pages, piece.bits,
			      piece.bits_bytes) < 0)
		return out_of_order(d, &piece);
	precopy->set_block = piece.block;
	precopy->set_page = piece.first_page + piece.pages;
	return 0;
}

/* Locked. Pages that somebody waits for are in nobody else's hands. */
static void leave_out(const struct hf_destination *d, const struct page_queue *waiting,
		      struct hf_pagemap *map)
{
	for (uint32_t page = waiting->head; page != HF_PAGE_NONE; page = d->pages[page].next)
		hf_pagemap_clear(map, page);
}

/* Locked. The set is whole: what it names and has landed is stale. */
static void take_set(struct hf_destination *d)
{
	struct precopy *precopy = &d->precopy;
	hf_pagemap_remove(&precopy->landed, &precopy->set);
	hf_pagemap_copy(&d->todo_fetch,
			&precopy->set); /* what was left of a round that was cut is not asked for */
	hf_pagemap_empty(&precopy->set);
	precopy->set_block = precopy->set_page = 0;
	leave_out(d, &d->urgent_wait, &d->todo_fetch);
}

static unsigned begin_round(struct hf_destination *d, const struct hf_wire_round_end *end)
{
	struct precopy *precopy = &d->precopy;
	take_set(d);
	precopy->state = ROUND_RUNS;
	precopy->began_ns = hf_clock_now_ns(&d->clock);
	precopy->moved_before_bytes = d->transferred_bytes;
	hf_limiter_set(&precopy->limiter, end->limit_bytes_per_s, precopy->began_ns);
	d->schedule.cursor_page = 0;
	d->fetching = true;
	return hf_destination_round_check(d) | ACTION_PUMP |
	       (end->limit_bytes_per_s ? ACTION_KICK_BACKGROUND : 0); /* it comes again and again */
}

/* Locked. More about the round under way. What is about one that has ended has crossed ROUND_DONE. */
static unsigned change_round(struct hf_destination *d, const struct hf_wire_round_end *end)
{
	struct precopy *precopy = &d->precopy;
	if (precopy->state == ROUND_NONE)
		return 0;
	hf_limiter_set(&precopy->limiter, end->limit_bytes_per_s, hf_clock_now_ns(&d->clock));
	if ((end->flags & HF_WIRE_ROUND_CUT) && precopy->state == ROUND_RUNS) {
		precopy->state = ROUND_CUT;
		hf_destination_abandon_background(d);
	}
	return hf_destination_round_check(d) | ACTION_PUMP |
	       (end->limit_bytes_per_s ? ACTION_KICK_BACKGROUND : 0);
}

unsigned hf_destination_on_round_end(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	hf_lock_assert_held(&d->lock);
	struct precopy *precopy = &d->precopy;
	struct hf_wire_round_end end;
	struct hf_err err = HF_ERR_INIT;
	if (d->status != HF_STATUS_ACTIVE || !precopy->spoken || precopy->final)
		return hf_destination_unexpected(d, HF_WIRE_ROUND_END);
	if (hf_wire_decode_round_end(payload, bytes, &end, &err) < 0)
		return hf_destination_violation(d, &err);
	if (end.round == precopy->round && !(end.flags & HF_WIRE_ROUND_FINAL))
		return change_round(d, &end);
	if (!set_is_due(d) || end.round != precopy->round + 1 || (end.flags & HF_WIRE_ROUND_CUT)) {
		hf_err_set(
		    &err, HF_ERR_PEER, EPROTO,
		    "the source ended the set of round %u while %u was %s; check that both hosts run the "
		    "same release",
		    end.round, precopy->round, set_is_due(d) ? "the last one" : "under way");
		return hf_destination_violation(d, &err);
	}
	precopy->round = end.round;
	if (!(end.flags & HF_WIRE_ROUND_FINAL))
		return begin_round(d, &end);
	precopy->final = true;
	precopy->whole = (end.flags & HF_WIRE_ROUND_WHOLE) != 0;
	take_set(d);
	return ACTION_NOTIFY;
}

/* ---- rounds ------------------------------------------------------------------------------------ */

void hf_destination_round_landed(struct hf_destination *d, uint16_t index)
{
	hf_lock_assert_held(&d->lock);
	const struct transfer *transfer = &d->transfers[index];
	uint32_t page = transfer->page;
	struct page_entry *entry = &d->pages[page];
	entry->landed = transfer->chunks_zero != transfer->chunks; /* zeros have been cleared, each of them */
	hf_destination_free_transfer(d, index);
	entry->state = PAGE_MISSING;
	hf_pagemap_set(&d->precopy.landed, page);
	if (entry->refault) {
		entry->refault = false;
		hf_destination_queue_urgent(d, page);
	}
}

unsigned hf_destination_round_check(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	struct precopy *precopy = &d->precopy;
	if (precopy->state == ROUND_NONE || d->status != HF_STATUS_ACTIVE ||
	    d->transfers_of[HF_FETCH_BACKGROUND] + d->transfers_of[HF_FETCH_URGENT] != 0)
		return 0;
	if (precopy->state == ROUND_RUNS && hf_pagemap_next_set(&d->todo_fetch, 0) != HF_PAGE_NONE)
		return 0;
	precopy->state = ROUND_NONE;
	d->fetching = false;
	precopy->duration_ns = hf_clock_now_ns(&d->clock) - precopy->began_ns;
	precopy->moved_bytes = d->transferred_bytes - precopy->moved_before_bytes;
	precopy->moved_total_bytes += precopy->moved_bytes;
	precopy->rate_bytes_per_s = 0;
	if (precopy->duration_ns)
		precopy->rate_bytes_per_s =
		    (uint64_t)((unsigned __int128)precopy->moved_bytes * NS_PER_S / precopy->duration_ns);
	precopy->rounds_done++;
	return ACTION_SEND_ROUND_DONE | ACTION_NOTIFY;
}

void hf_destination_send_round_done(struct hf_destination *d, uint64_t epoch)
{
	hf_lock(&d->lock);
	struct hf_wire_round_done done = {
	    .round = d->precopy.round,
	    .moved_bytes = d->precopy.moved_bytes,
	    .duration_ns = d->precopy.duration_ns,
	    .rate_bytes_per_s = d->precopy.rate_bytes_per_s,
	};
	hf_unlock(&d->lock);
	uint8_t buffer[64];
	ssize_t bytes = hf_wire_encode_round_done(&done, buffer, sizeof(buffer));
	if (bytes > 0)
		hf_destination_send(d, epoch, HF_WIRE_ROUND_DONE, buffer, (size_t)bytes);
}

/* ---- the end of the rounds --------------------------------------------------------------------- */

unsigned hf_destination_precopy_settle(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	struct hf_pagemap *landed = &d->precopy.landed;
	if (!landed->bits)
		return 0;
	/* The VM stands still and the lock is held: of each page only its entry is looked at. */
	hf_pagemap_remove(landed, &d->todo_zero);
	/* One that somebody waits for comes again; nobody knows how it came to be touched. */
	leave_out(d, &d->urgent_wait, landed);
	leave_out(d, &d->local_wait, landed);
	hf_pagemap_remove(&d->todo_fetch, landed);
	hf_pagemap_add(&d->received, landed);
	for (uint32_t page = hf_pagemap_next_set(landed, 0); page != HF_PAGE_NONE;
	     page = hf_pagemap_next_set(landed, page + 1)) {
		d->pages[page].state = PAGE_RECEIVED;
		d->pages[page].counted = true;
		d->pages_received++;
		d->pages_fetched++;
	}
	return ACTION_CLEAR_HOLES;
}

/* Locked. The next page from here on that landed and does not exist. */
static uint32_t next_dirty_hole(const struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	do {
		page = hf_pagemap_next_clear(&d->present, page);
	} while (page != HF_PAGE_NONE && !d->pages[page].landed && ++page);
	return page;
}

void hf_destination_clear_holes(struct hf_destination *d)
{
	hf_lock(&d->lock);
	uint32_t page = next_dirty_hole(d, 0);
	while (page != HF_PAGE_NONE) {
		d->pages[page].landed = false;
		hf_unlock(&d->lock);
		struct page_place place = hf_place_of_page(d, page);
		void *landing = hf_memory_landing(&d->memory, place.block, place.page, HF_TRANSFER_NONE);
		hf_memory_clear(&d->memory, landing, d->blocks.blocks[place.block].page_size_bytes, true);
		hf_lock(&d->lock);
		page = next_dirty_hole(d, page + 1);
	}
	hf_unlock(&d->lock);
}
