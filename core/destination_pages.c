/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The way of a page
 *
 *                      fault                    transfer free
 *     MISSING ----------------> URGENT_WAIT ----------------> FETCHING
 *        |  background scan                                      |  all chunks landed
 *        +---------------------------------------------------->  |
 *        |                                                       v
 *        |  page does not exist on the source                 PLACING ----> RECEIVED
 *        +--------> LOCAL_WAIT --> LOCAL_PLACING ----------------------------^   |
 *                       ^                                                        |
 *                       +---------------- fault on a received page --------------+
 *
 * A page is in one state, so it has one transfer at most, and it is fetched at most once at a time: a
 * fault on a page in FETCHING promotes its transfer (the chunks not yet posted become urgent).
 *
 * Local work needs no bytes from the source: zero pages, pages that landed but could not be placed for want
 * of a huge page, and faults on pages already received. Urgent local work is queued and done by the memory
 * port's urgent worker; the zero pages nobody waits for are found by scanning todo_zero in its background
 * worker.
 *
 * Order (DESIGN, Memory). `continue`: bytes whole, received bit set, then CONTINUE: a killed agent that
 * finds the bit continues the page again; without the bit it would fetch into a page that the guest may have
 * written meanwhile. `copy`: COPY succeeded, then the bit: the bit without the page would be a page of zeros.
 *
 * Rule (b): an entry point locks, decides, marks, unlocks, acts, locks, commits. While a page is PLACING or
 * LOCAL_PLACING, and while a fetch slot is busy, only the thread (or transport) that got it so may move it.
 *
 * A thread that faults while its page is being placed:
 *
 *     faulting thread            fault reader                placing thread
 *     queued in the kernel
 *                                reads the message
 *                                                            CONTINUE: maps, wakes all queued
 *     runs on
 *                                fault(): page is PLACING
 *                                -> refault
 *                                                            commit: refault -> local work
 *                                                            (CONTINUE again: EEXIST, wake)
 *
 * The second placement is not needed in this order, but no order exists in which it does harm, and in none
 * may a thread be left waiting.
 */
#include "core/destination_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- pages ------------------------------------------------------------------------------------- */

/* Marks that somebody waits for the page's bytes; the background is held until they have landed. */
void hf_destination_begin_await(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	if (d->pages[page].awaited)
		return;
	d->pages[page].awaited = true;
	hf_schedule_urgent_begin(&d->schedule);
}

void hf_destination_end_await(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	if (!d->pages[page].awaited)
		return;
	d->pages[page].awaited = false;
	hf_schedule_urgent_end(&d->schedule);
}

static void queue_local(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	d->pages[page].state = PAGE_LOCAL_WAIT;
	hf_page_queue_push(d, &d->local_wait, page);
}

void hf_destination_queue_urgent(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	d->pages[page].state = PAGE_URGENT_WAIT;
	hf_destination_begin_await(d, page);
	hf_page_queue_push(d, &d->urgent_wait, page);
}

/* Takes a page that the background has not come to out of the background's hands. */
void hf_destination_claim(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	hf_pagemap_clear(&d->todo_fetch, page);
	hf_pagemap_clear(&d->todo_zero, page);
}

/* Locked. The VMM has ended, or is about to: there is no memory to place pages in. */
static bool vmm_is_gone(const struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	return d->vmm_ended || d->handover == HF_DESTINATION_KILLING ||
	       d->handover == HF_DESTINATION_RECORDING_REFUSED || d->handover == HF_DESTINATION_REFUSED ||
	       d->handover == HF_DESTINATION_LOST;
}

bool hf_destination_serving(const struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	if (vmm_is_gone(d) || d->taking_over || d->takeover_failed)
		return false;
	return d->incoming == HF_INCOMING_LISTEN || d->incoming == HF_INCOMING_RUNNING;
}

bool hf_destination_background_runs(const struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	return (d->resumed && (!d->background_held || d->poisoning)) || d->precopy.state == ROUND_RUNS ||
	       hf_destination_loads_whole(d);
}

/* ---- faults ------------------------------------------------------------------------------------ */

static void wait_ended(void *opaque, uint64_t wait_ns)
{
	hf_latency_add(opaque, wait_ns);
}

/* Locked. What a fault means depends on where its page is. */
static unsigned fault_locked(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	switch ((enum page_state)d->pages[page].state) {
	case PAGE_MISSING:
		hf_destination_claim(d, page);
		if (d->presence_complete && !hf_pagemap_test(&d->present, page)) {
			queue_local(d, page);
			return ACTION_KICK_URGENT;
		}
		hf_destination_queue_urgent(d, page);
		return ACTION_PUMP;
	case PAGE_FETCHING:
		if (hf_destination_in_round(d)) {
			d->pages[page].refault = true; /* it waits for what comes after the rounds */
			return 0;
		}
		hf_destination_promote(d, page);
		return ACTION_PUMP;
	case PAGE_PLACING:
	case PAGE_LOCAL_PLACING:
		d->pages[page].refault = true;
		return 0;
	case PAGE_RECEIVED:
		queue_local(d, page);
		return ACTION_KICK_URGENT;
	case PAGE_URGENT_WAIT:
	case PAGE_LOCAL_WAIT:
		return 0; /* one more waiter for a page already asked for */
	}
	return 0;
}

void hf_destination_fault(struct hf_destination *d, uint32_t block, uint64_t page_in_block,
			  uint32_t thread_id, uint64_t arrived_ns)
{
	hf_lock_assert_entry(__func__);
	if (block >= d->blocks.count || page_in_block >= d->blocks.blocks[block].pages)
		return; /* the memory port checks addresses; there is no page to serve */
	uint32_t page = d->blocks.blocks[block].first_page + (uint32_t)page_in_block;

	hf_lock(&d->lock);
	unsigned actions = 0;
	if (!d->releasing) { /* release() wakes whoever still waits */
		hf_blocktime_fault(d->blocktime, thread_id, page, arrived_ns);
		hf_schedule_faulted(&d->schedule, page);
		d->todo_zero_cursor = page + 1;
		actions = fault_locked(d, page) | hf_destination_round_check(d);
	}
	hf_destination_unlock_act(d, actions);
}

/* ---- landing and placing ----------------------------------------------------------------------- */

unsigned hf_destination_settle_page(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	struct page_entry *entry = &d->pages[page];

	hf_blocktime_placed(d->blocktime, page, hf_clock_now_ns(&d->clock), wait_ended, &d->fault_latency);
	hf_destination_end_await(d, page);
	entry->state = PAGE_RECEIVED;
	if (entry->refault) {
		entry->refault = false;
		queue_local(d, page);
		return ACTION_KICK_URGENT | ACTION_PUMP;
	}
	return ACTION_PUMP | hf_destination_check_end(d);
}

/* Locked. The page is visible: closes its waits and counts it. */
static unsigned commit_page(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	struct page_entry *entry = &d->pages[page];
	unsigned actions = 0;
	if (!entry->counted) {
		entry->counted = true;
		d->pages_received++;
		d->placed_last_ns = hf_clock_now_ns(&d->clock);
		actions = hf_destination_placed(d, page);
	}
	return actions | hf_destination_settle_page(d, page);
}

/* Locked. The bytes have landed but the page cannot be placed now: local work tries again. */
static void keep_landed(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	d->pages_stalled++;
	hf_destination_end_await(d, page);
	queue_local(d, page);
}

/* Without the lock. Places a page all of whose chunks have landed; it is PLACING or LOCAL_PLACING. */
static int place_landed(struct hf_destination *d, uint32_t page, uint16_t index, struct hf_err *err)
{
	struct page_place place = hf_place_of_page(d, page);
	if (d->memory.placement == HF_PLACEMENT_CONTINUE)
		hf_pagemap_set(&d->received, page);
	return hf_memory_place(&d->memory, place.block, place.page, index, err);
}

/* Locked. */
static unsigned commit_landed(struct hf_destination *d, uint32_t page, uint16_t index)
{
	hf_lock_assert_held(&d->lock);
	struct transfer *transfer = &d->transfers[index];
	hf_pagemap_set(&d->received, page);
	if (transfer->chunks_zero == transfer->chunks)
		d->pages_zero++;
	else
		d->pages_fetched++;
	hf_destination_free_transfer(d, index);
	return commit_page(d, page);
}

static unsigned place_failed(struct hf_destination *d, uint32_t page, int result, const struct hf_err *err)
{
	hf_lock_assert_held(&d->lock);
	keep_landed(d, page);
	if (d->releasing)
		return ACTION_KICK_URGENT;
	if (result != -EAGAIN && !hf_destination_committed(d))
		return hf_destination_fail_locked(d, err);
	/* After the hand-over one page must not cost the others: report it, go on, try it again. */
	if (d->err.class == HF_ERR_NONE)
		d->err = *err;
	return ACTION_KICK_URGENT | ACTION_PUMP | ACTION_NOTIFY;
}

void hf_destination_place_transfer(struct hf_destination *d, uint32_t page, uint16_t index)
{
	struct hf_err err = HF_ERR_INIT;
	int result = place_landed(d, page, index, &err);

	hf_lock(&d->lock);
	unsigned actions = result == 0 ? commit_landed(d, page, index) : place_failed(d, page, result, &err);
	hf_destination_unlock_act(d, actions);
}

/* ---- local work -------------------------------------------------------------------------------- */

/* Locked. The next hole that nobody waits for. */
static uint32_t take_hole(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	if (!hf_destination_background_runs(d))
		return HF_PAGE_NONE;
	uint32_t page = hf_pagemap_next_set(&d->todo_zero, d->todo_zero_cursor);
	if (page == HF_PAGE_NONE)
		page = hf_pagemap_next_set(&d->todo_zero, 0);
	if (page != HF_PAGE_NONE) {
		hf_destination_claim(d, page);
		d->todo_zero_cursor = page + 1;
	}
	return page;
}

/* Locked. The next page of local work of this class, PAGE_LOCAL_PLACING; none. */
static uint32_t take_local(struct hf_destination *d, enum hf_work_class class)
{
	hf_lock_assert_held(&d->lock);
	if (!hf_destination_serving(d) || d->releasing)
		return HF_PAGE_NONE;
	uint32_t page = class == HF_WORK_URGENT ? hf_page_queue_pop(d, &d->local_wait) : take_hole(d);
	if (page == HF_PAGE_NONE && class == HF_WORK_BACKGROUND)
		page = hf_destination_poison_take(d);
	if (page != HF_PAGE_NONE)
		d->pages[page].state = PAGE_LOCAL_PLACING;
	return page;
}

enum hf_work_next hf_destination_work(struct hf_destination *d, enum hf_work_class class)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	uint32_t page = take_local(d, class);
	if (page == HF_PAGE_NONE) {
		bool limited = class == HF_WORK_BACKGROUND && hf_destination_background_limited(d);
		hf_unlock(&d->lock);
		if (limited)
			hf_destination_pump(d);
		return limited ? HF_WORK_SOON : HF_WORK_IDLE;
	}
	uint16_t index = d->pages[page].transfer;
	bool visible = d->pages[page].counted;
	bool lost = d->pages[page].poisoned;
	hf_unlock(&d->lock);

	struct page_place place = hf_place_of_page(d, page);
	struct hf_err err = HF_ERR_INIT;
	int result;
	if (index != HF_TRANSFER_NONE) {
		result = place_landed(d, page, index, &err);
	} else if (lost) {
		result = hf_memory_poison(&d->memory, place.block, place.page, &err);
	} else if (visible) {
		result = hf_memory_place_again(&d->memory, place.block, place.page, &err);
	} else {
		if (d->memory.placement == HF_PLACEMENT_CONTINUE)
			hf_pagemap_set(&d->received, page);
		result = hf_memory_place_zero(&d->memory, place.block, place.page, &err);
	}

	hf_lock(&d->lock);
	unsigned actions;
	if (lost && (result == 0 || result == -EEXIST)) {
		actions = hf_destination_poison_commit(d, page, result);
		result = 0;
	} else if (result != 0) {
		actions = place_failed(d, page, result, &err);
		/* The urgent worker has it in its queue already; woken at once it would not wait before it
		 * tries. */
		if (class == HF_WORK_URGENT)
			actions &= ~(unsigned)ACTION_KICK_URGENT;
	} else if (index != HF_TRANSFER_NONE) {
		actions = commit_landed(d, page, index);
	} else {
		hf_pagemap_set(&d->received, page);
		d->pages_zero += !visible;
		actions = commit_page(d, page);
	}
	hf_destination_unlock_act(d, actions);
	return result == 0 ? HF_WORK_MORE : HF_WORK_LATER;
}

/* ---- creation ---------------------------------------------------------------------------------- */

void hf_destination_pages_presence(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	/* The VM stands still and the lock is held, so nothing here is done page by page. */
	hf_pagemap_copy(&d->todo_fetch, &d->present);
	hf_pagemap_complement(&d->todo_zero, &d->present);

	/*
	 * All others are PAGE_MISSING: faults that came before the map was known wait in the urgent queue,
	 * and nothing is served before. Holes need no fetch.
	 */
	struct page_queue waiting = d->urgent_wait;
	d->urgent_wait = (struct page_queue){HF_PAGE_NONE, HF_PAGE_NONE};
	uint32_t page = waiting.head;
	while (page != HF_PAGE_NONE) {
		uint32_t next = d->pages[page].next;
		hf_destination_claim(d, page);
		if (hf_pagemap_test(&d->present, page)) {
			hf_page_queue_push(d, &d->urgent_wait, page);
		} else {
			hf_destination_end_await(d, page);
			queue_local(d, page);
		}
		page = next;
	}
}

/*
 * What an engine before this one had received is here, visible or not: a fault on it is placed again. The
 * rest is missing, and its landings under `continue` may be dirty.
 */
void hf_destination_pages_restart(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	for (uint32_t page = 0; page < d->blocks.pages_total; page++) {
		struct page_entry *entry = &d->pages[page];
		bool present = hf_pagemap_test(&d->present, page);
		if (!hf_pagemap_test(&d->received, page)) {
			entry->landed = true;
			hf_pagemap_set(present ? &d->todo_fetch : &d->todo_zero, page);
			continue;
		}
		entry->state = PAGE_RECEIVED;
		entry->counted = true;
		d->pages_received++;
		d->pages_fetched += present;
		d->pages_zero += !present;
	}
	d->presence_complete = true;
}

static int create_map(struct hf_pagemap *map, uint8_t *kept, uint32_t pages)
{
	if (!kept)
		return hf_pagemap_create(map, pages);
	hf_pagemap_wrap(map, kept, pages);
	return 0;
}

static int create_maps(struct hf_destination *d, const struct hf_destination_config *config, uint32_t pages)
{
	int result = create_map(&d->received, config->kept_received, pages);
	if (result == 0)
		result = create_map(&d->present, config->kept_present, pages);
	if (result == 0)
		result = hf_pagemap_create(&d->todo_fetch, pages);
	if (result == 0)
		result = hf_pagemap_create(&d->todo_zero, pages);
	return result;
}

int hf_destination_pages_create(struct hf_destination *d, const struct hf_destination_config *config,
				struct hf_err *err)
{
	uint32_t pages = d->blocks.pages_total;
	uint32_t share = config->background_share_percent;

	d->urgent_wait = d->local_wait = (struct page_queue){HF_PAGE_NONE, HF_PAGE_NONE};
	d->active[0] = d->active[1] = (struct transfer_list){HF_TRANSFER_NONE, HF_TRANSFER_NONE};
	d->slots_free = HF_FETCH_SLOT_NONE;
	hf_schedule_init(&d->schedule, d->chunk_bytes, share ? share : HF_SCHEDULE_SHARE_DEFAULT_PERCENT);

	d->pages = calloc(pages, sizeof(*d->pages));
	int result = d->pages ? create_maps(d, config, pages) : -ENOMEM;
	if (result == 0)
		result = hf_blocktime_create(&d->blocktime, config->vcpu_thread_ids, config->vcpus);
	if (result == -EINVAL)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "VM '%s': two of its %u vCPUs share a thread, so their faults cannot be told apart; "
		    "run it with a thread for each vCPU",
		    d->vm_name, config->vcpus);
	if (result < 0)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "VM '%s': no memory for the map of %u pages",
				  d->vm_name, pages);
	for (uint32_t page = 0; page < pages; page++)
		d->pages[page].transfer = HF_TRANSFER_NONE;
	return 0;
}

static void add_map(const struct hf_pagemap *map, struct hf_tables *tables)
{
	hf_tables_add(tables, map->bits, hf_pagemap_bytes(map->pages));
}

void hf_destination_pages_tables(const struct hf_destination *d, struct hf_tables *tables)
{
	hf_tables_add(tables, d->pages, d->blocks.pages_total * sizeof(*d->pages));
	add_map(&d->received, tables);
	add_map(&d->present, tables);
	add_map(&d->todo_fetch, tables);
	add_map(&d->todo_zero, tables);
	if (d->unsaid.bits)
		add_map(&d->unsaid, tables);
	hf_destination_precopy_tables(d, tables);
	hf_blocktime_tables(d->blocktime, tables);
}

void hf_destination_pages_destroy(struct hf_destination *d)
{
	hf_blocktime_destroy(d->blocktime);
	hf_destination_fetch_destroy(d);
	hf_destination_precopy_destroy(d);
	hf_pagemap_destroy(&d->received);
	hf_pagemap_destroy(&d->present);
	hf_pagemap_destroy(&d->todo_fetch);
	hf_pagemap_destroy(&d->todo_zero);
	hf_pagemap_destroy(&d->unsaid);
	free(d->pages);
}
