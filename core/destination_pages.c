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

/* ---- queues ------------------------------------------------------------------------------------ */

static void queue_push(struct hf_destination *d, struct page_queue *queue, uint32_t page)
{
	d->pages[page].next = HF_PAGE_NONE;
	if (queue->head == HF_PAGE_NONE)
		queue->head = page;
	else
		d->pages[queue->tail].next = page;
	queue->tail = page;
}

static uint32_t queue_pop(struct hf_destination *d, struct page_queue *queue)
{
	uint32_t page = queue->head;
	if (page != HF_PAGE_NONE)
		queue->head = d->pages[page].next;
	return page;
}

static void list_push(struct hf_destination *d, struct transfer_list *list, uint16_t transfer)
{
	d->transfers[transfer].next = HF_TRANSFER_NONE;
	if (list->head == HF_TRANSFER_NONE)
		list->head = transfer;
	else
		d->transfers[list->tail].next = transfer;
	list->tail = transfer;
}

static void list_remove(struct hf_destination *d, struct transfer_list *list, uint16_t transfer)
{
	uint16_t previous = HF_TRANSFER_NONE;
	uint16_t at = list->head;
	while (at != transfer) {
		assert(at != HF_TRANSFER_NONE);
		previous = at;
		at = d->transfers[at].next;
	}
	if (previous == HF_TRANSFER_NONE)
		list->head = d->transfers[transfer].next;
	else
		d->transfers[previous].next = d->transfers[transfer].next;
	if (list->tail == transfer)
		list->tail = previous;
}

/* ---- pages ------------------------------------------------------------------------------------- */

static const struct hf_ramblock *block_of(const struct hf_destination *d, uint32_t page)
{
	return &d->blocks.blocks[hf_ramblocks_block_of_page(&d->blocks, page)];
}

static uint32_t chunk_of_block(const struct hf_destination *d, const struct hf_ramblock *block)
{
	return block->page_size_bytes < d->chunk_bytes ? (uint32_t)block->page_size_bytes : d->chunk_bytes;
}

/* Marks that somebody waits for the page's bytes; the background is held until they have landed. */
static void begin_await(struct hf_destination *d, uint32_t page)
{
	if (d->pages[page].awaited)
		return;
	d->pages[page].awaited = true;
	hf_schedule_urgent_begin(&d->schedule, page);
}

static void end_await(struct hf_destination *d, uint32_t page)
{
	if (!d->pages[page].awaited)
		return;
	d->pages[page].awaited = false;
	hf_schedule_urgent_end(&d->schedule);
}

static void queue_local(struct hf_destination *d, uint32_t page)
{
	d->pages[page].state = PAGE_LOCAL_WAIT;
	queue_push(d, &d->local_wait, page);
}

static void queue_urgent(struct hf_destination *d, uint32_t page)
{
	d->pages[page].state = PAGE_URGENT_WAIT;
	begin_await(d, page);
	queue_push(d, &d->urgent_wait, page);
}

/* Takes a page that the background has not come to out of the background's hands. */
static void claim(struct hf_destination *d, uint32_t page)
{
	hf_pagemap_clear(&d->todo_fetch, page);
	hf_pagemap_clear(&d->todo_zero, page);
}

bool hf_destination_serving(const struct hf_destination *d)
{
	return d->incoming == HF_INCOMING_LISTEN || d->incoming == HF_INCOMING_RUNNING;
}

static bool background_runs(const struct hf_destination *d)
{
	return d->resumed && !d->background_held;
}

/* ---- faults ------------------------------------------------------------------------------------ */

static void wait_ended(void *opaque, uint64_t wait_ns)
{
	hf_latency_add(opaque, wait_ns);
}

static void promote(struct hf_destination *d, uint32_t page)
{
	uint16_t index = d->pages[page].transfer;
	struct transfer *transfer = &d->transfers[index];
	begin_await(d, page);
	if (transfer->class == HF_FETCH_URGENT)
		return;
	transfer->class = HF_FETCH_URGENT;
	if (transfer->chunks_posted < transfer->chunks && !transfer->failed) {
		list_remove(d, &d->active[HF_FETCH_BACKGROUND], index);
		list_push(d, &d->active[HF_FETCH_URGENT], index);
	}
}

/* Locked. What a fault means depends on where its page is. */
static unsigned fault_locked(struct hf_destination *d, uint32_t page)
{
	switch ((enum page_state)d->pages[page].state) {
	case PAGE_MISSING:
		claim(d, page);
		if (d->presence_complete && !hf_pagemap_test(&d->present, page)) {
			queue_local(d, page);
			return ACTION_KICK_URGENT;
		}
		queue_urgent(d, page);
		return ACTION_PUMP;
	case PAGE_FETCHING:
		promote(d, page);
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
	if (block >= d->blocks.count || page_in_block >= d->blocks.blocks[block].pages)
		return; /* the memory port checks addresses; there is no page to serve */
	uint32_t page = d->blocks.blocks[block].first_page + (uint32_t)page_in_block;

	hf_destination_lock(d);
	unsigned actions = 0;
	if (!d->releasing) { /* release() wakes whoever still waits */
		hf_blocktime_fault(d->blocktime, thread_id, page, arrived_ns);
		actions = fault_locked(d, page);
	}
	hf_destination_unlock_act(d, actions);
}

/* ---- posting ----------------------------------------------------------------------------------- */

static bool take_transfer(struct hf_destination *d, uint32_t page, enum hf_fetch_class class)
{
	uint16_t index = d->transfers_free;
	if (index == HF_TRANSFER_NONE)
		return false;
	bool background = class == HF_FETCH_BACKGROUND;
	if (background && d->transfers_background >= d->background_transfers_max)
		return false;

	const struct hf_ramblock *block = block_of(d, page);
	struct transfer *transfer = &d->transfers[index];
	d->transfers_free = transfer->next;
	*transfer = (struct transfer){
	    .page = page,
	    .chunks = (uint32_t)(block->page_size_bytes / chunk_of_block(d, block)),
	    .class = class,
	    .background_slot = background,
	};
	d->transfers_background += background;
	d->pages[page].state = PAGE_FETCHING;
	d->pages[page].transfer = index;
	list_push(d, &d->active[class], index);
	return true;
}

static void free_transfer(struct hf_destination *d, uint16_t index)
{
	struct transfer *transfer = &d->transfers[index];
	d->transfers_background -= transfer->background_slot;
	d->pages[transfer->page].transfer = HF_TRANSFER_NONE;
	transfer->next = d->transfers_free;
	d->transfers_free = index;
}

static bool start_urgent(struct hf_destination *d)
{
	uint32_t page = d->urgent_wait.head;
	if (page == HF_PAGE_NONE || d->transfers_free == HF_TRANSFER_NONE)
		return false;
	queue_pop(d, &d->urgent_wait);
	return take_transfer(d, page, HF_FETCH_URGENT);
}

static bool start_background(struct hf_destination *d)
{
	uint32_t page = hf_pagemap_next_set(&d->todo_fetch, d->schedule.cursor_page);
	if (page == HF_PAGE_NONE)
		page = hf_pagemap_next_set(&d->todo_fetch, 0);
	if (page == HF_PAGE_NONE || !take_transfer(d, page, HF_FETCH_BACKGROUND))
		return false;
	claim(d, page);
	d->schedule.cursor_page = page + 1;
	return true;
}

/* The transfer whose next chunk is to be posted now, or none. Urgent first. */
static uint16_t choose_transfer(struct hf_destination *d)
{
	if (d->outstanding[HF_FETCH_URGENT] < d->link.capacity_chunks[HF_FETCH_URGENT]) {
		if (d->active[HF_FETCH_URGENT].head == HF_TRANSFER_NONE)
			start_urgent(d);
		if (d->active[HF_FETCH_URGENT].head != HF_TRANSFER_NONE)
			return d->active[HF_FETCH_URGENT].head;
	}

	if (d->outstanding[HF_FETCH_BACKGROUND] >= d->link.capacity_chunks[HF_FETCH_BACKGROUND] ||
	    !background_runs(d) || !hf_schedule_background_allowed(&d->schedule, d->chunk_bytes))
		return HF_TRANSFER_NONE;
	if (d->active[HF_FETCH_BACKGROUND].head == HF_TRANSFER_NONE)
		start_background(d);
	return d->active[HF_FETCH_BACKGROUND].head;
}

static uint32_t take_slot(struct hf_destination *d, uint16_t transfer, enum hf_fetch_class class,
			  uint64_t offset, uint32_t length)
{
	uint32_t index = d->slots_free;
	assert(index != HF_FETCH_SLOT_NONE); /* there are as many as the link's capacity */
	struct fetch_slot *slot = &d->slots[index];
	d->slots_free = slot->next_free;
	slot->generation++;
	slot->busy = true;
	slot->transfer = transfer;
	slot->class = class;
	slot->length_bytes = length;
	slot->offset_bytes = offset;
	slot->posted_ns = hf_clock_now_ns(&d->clock);
	return index;
}

/* Locked. Fills the next fetch to post; false if there is none. */
static bool next_fetch(struct hf_destination *d, struct hf_fetch *fetch, uint32_t *landing_slot)
{
	if (!hf_destination_serving(d) || d->epoch == 0 || d->fetch_broken)
		return false;
	uint16_t index = choose_transfer(d);
	if (index == HF_TRANSFER_NONE)
		return false;

	struct transfer *transfer = &d->transfers[index];
	uint32_t block_index = hf_ramblocks_block_of_page(&d->blocks, transfer->page);
	const struct hf_ramblock *block = &d->blocks.blocks[block_index];
	uint32_t chunk = chunk_of_block(d, block);
	uint64_t offset_in_page = (uint64_t)transfer->chunks_posted * chunk;
	uint32_t slot = take_slot(d, index, transfer->class, offset_in_page, chunk);

	*fetch = (struct hf_fetch){
	    .id = (uint64_t)d->slots[slot].generation << 32 | slot,
	    .epoch = d->epoch,
	    .block = d->source_of_block[block_index],
	    .offset_bytes = (transfer->page - block->first_page) * block->page_size_bytes + offset_in_page,
	    .length_bytes = chunk,
	    .class = transfer->class,
	};
	*landing_slot = index;
	if (++transfer->chunks_posted == transfer->chunks)
		list_remove(d, &d->active[transfer->class], index);
	d->outstanding[fetch->class]++;
	hf_schedule_posted(&d->schedule, fetch->class, chunk);
	return true;
}

static void *landing_of(struct hf_destination *d, const struct hf_fetch *fetch, uint32_t landing_slot)
{
	uint32_t block_index = d->block_of_source[fetch->block];
	uint64_t page_size = d->blocks.blocks[block_index].page_size_bytes;
	uint8_t *page = d->memory.ops->landing(d->memory.self, block_index, fetch->offset_bytes / page_size,
					       landing_slot);
	return page + fetch->offset_bytes % page_size;
}

/* ---- landing and placing ----------------------------------------------------------------------- */

/* Locked. The page is visible: closes its waits and counts it. */
static unsigned commit_page(struct hf_destination *d, uint32_t page)
{
	struct page_entry *entry = &d->pages[page];
	uint64_t now_ns = hf_clock_now_ns(&d->clock);

	hf_blocktime_placed(d->blocktime, page, now_ns, wait_ended, &d->fault_latency);
	end_await(d, page);
	entry->state = PAGE_RECEIVED;
	if (!entry->counted) {
		entry->counted = true;
		d->pages_received++;
		d->placed_last_ns = now_ns;
	}
	if (entry->refault) {
		entry->refault = false;
		queue_local(d, page);
		return ACTION_KICK_URGENT | ACTION_PUMP;
	}
	return ACTION_PUMP | hf_destination_check_end(d);
}

/* Locked. The bytes have landed but the page cannot be placed now: it stays landed, local work tries again.
 */
static void keep_landed(struct hf_destination *d, uint32_t page)
{
	d->pages_stalled++;
	end_await(d, page);
	queue_local(d, page);
}

/* Places a page all of whose chunks have landed. Called without the lock; the page is PLACING or
 * LOCAL_PLACING. */
static int place_landed(struct hf_destination *d, uint32_t page, uint16_t index, struct hf_err *err)
{
	uint32_t block = hf_ramblocks_block_of_page(&d->blocks, page);
	if (d->memory.placement == HF_PLACEMENT_CONTINUE)
		hf_pagemap_set(&d->received, page);
	return d->memory.ops->place(d->memory.self, block, page - d->blocks.blocks[block].first_page, index,
				    err);
}

/* Locked. */
static unsigned commit_landed(struct hf_destination *d, uint32_t page, uint16_t index)
{
	struct transfer *transfer = &d->transfers[index];
	hf_pagemap_set(&d->received, page);
	if (transfer->chunks_zero == transfer->chunks)
		d->pages_zero++;
	else
		d->pages_fetched++;
	free_transfer(d, index);
	return commit_page(d, page);
}

static unsigned place_failed(struct hf_destination *d, uint32_t page, int result, const struct hf_err *err)
{
	keep_landed(d, page);
	if (result == -EAGAIN || d->releasing)
		return ACTION_KICK_URGENT | ACTION_PUMP;
	return hf_destination_fail_locked(d, err);
}

static void place_transfer(struct hf_destination *d, uint32_t page, uint16_t index)
{
	struct hf_err err = HF_ERR_INIT;
	int result = place_landed(d, page, index, &err);

	hf_destination_lock(d);
	unsigned actions = result == 0 ? commit_landed(d, page, index) : place_failed(d, page, result, &err);
	hf_destination_unlock_act(d, actions);
}

/* Locked. A transfer that failed and has nothing on its way any more: its page is missing again. */
static void give_up_transfer(struct hf_destination *d, uint16_t index)
{
	uint32_t page = d->transfers[index].page;
	struct page_entry *entry = &d->pages[page];
	bool awaited = entry->awaited;

	free_transfer(d, index);
	entry->landed = true;
	end_await(d, page);
	if (awaited) {
		queue_urgent(d, page);
		return;
	}
	entry->state = PAGE_MISSING;
	hf_pagemap_set(&d->todo_fetch, page);
}

/* Locked. Looks up the slot of a done; NULL for one that is not outstanding (a transport's mistake). */
static struct fetch_slot *slot_of_done(struct hf_destination *d, const struct hf_fetch_done *done)
{
	uint32_t index = (uint32_t)done->id;
	if (done->epoch != d->epoch || index >= d->slots_count)
		return NULL;
	struct fetch_slot *slot = &d->slots[index];
	return slot->busy && slot->generation == done->id >> 32 ? slot : NULL;
}

/* A zero chunk's landing must hold zeros before the chunk counts as landed. */
static void clear_landing(struct hf_destination *d, const struct hf_fetch_done *done)
{
	hf_destination_lock(d);
	struct fetch_slot *slot = slot_of_done(d, done);
	if (!slot) {
		pthread_mutex_unlock(&d->lock);
		return;
	}
	uint16_t index = slot->transfer;
	uint32_t page = d->transfers[index].page;
	uint32_t block = hf_ramblocks_block_of_page(&d->blocks, page);
	uint32_t length = slot->length_bytes;
	uint64_t offset = slot->offset_bytes;
	bool landed = d->pages[page].landed;
	pthread_mutex_unlock(&d->lock);

	uint8_t *landing =
	    d->memory.ops->landing(d->memory.self, block, page - d->blocks.blocks[block].first_page, index);
	d->memory.ops->clear(d->memory.self, landing + offset, length, landed);
}

/* Locked. Accounts one done. Returns the transfer if all its chunks have landed, else none. */
static uint16_t account_done(struct hf_destination *d, struct fetch_slot *slot,
			     const struct hf_fetch_done *done)
{
	uint16_t index = slot->transfer;
	struct transfer *transfer = &d->transfers[index];
	bool landed = done->status == HF_FETCH_OK;

	hf_schedule_done(&d->schedule, slot->class, slot->length_bytes, landed, slot->posted_ns,
			 hf_clock_now_ns(&d->clock));
	d->outstanding[slot->class]--;
	slot->busy = false;
	slot->next_free = d->slots_free;
	d->slots_free = (uint32_t)(slot - d->slots);

	if (done->status == HF_FETCH_FAILED)
		d->fetch_broken = true;
	transfer->chunks_done++;
	if (landed && done->zero)
		transfer->chunks_zero++;
	else if (landed)
		d->transferred_bytes += slot->length_bytes;
	else if (!transfer->failed) {
		/* Posts no more of this page; it starts anew once what is on its way has come back. */
		transfer->failed = true;
		if (transfer->chunks_posted < transfer->chunks)
			list_remove(d, &d->active[transfer->class], index);
	}

	if (transfer->failed && transfer->chunks_done == transfer->chunks_posted)
		give_up_transfer(d, index);
	else if (transfer->chunks_done == transfer->chunks)
		return index;
	return HF_TRANSFER_NONE;
}

void hf_destination_pump(struct hf_destination *d)
{
	for (;;) {
		struct hf_fetch fetch;
		uint32_t landing_slot;

		hf_destination_lock(d);
		bool more = next_fetch(d, &fetch, &landing_slot);
		pthread_mutex_unlock(&d->lock);
		if (!more)
			return;

		fetch.landing = landing_of(d, &fetch, landing_slot);
		int result = d->transport.ops->fetch(d->transport.self, &fetch);
		if (result == 0)
			continue;

		/*
		 * Not posted, so no done will come from the transport: it ends here. -EAGAIN: the next done
		 * pumps again. Anything else: the link is going down.
		 */
		struct hf_fetch_done done = {
		    .id = fetch.id,
		    .epoch = fetch.epoch,
		    .status = result == -EAGAIN ? HF_FETCH_CANCELLED : HF_FETCH_FAILED,
		};
		hf_destination_lock(d);
		struct fetch_slot *slot = slot_of_done(d, &done);
		if (slot)
			account_done(d, slot, &done);
		hf_destination_unlock_act(d, 0);
		return;
	}
}

void hf_destination_event_fetch_done(void *engine, const struct hf_fetch_done *done)
{
	struct hf_destination *d = engine;
	if (done->status == HF_FETCH_OK && done->zero)
		clear_landing(d, done);

	hf_destination_lock(d);
	struct fetch_slot *slot = slot_of_done(d, done);
	if (!slot) {
		pthread_mutex_unlock(&d->lock);
		return;
	}
	uint16_t index = account_done(d, slot, done);
	uint32_t page = HF_PAGE_NONE;
	if (index != HF_TRANSFER_NONE) {
		page = d->transfers[index].page;
		d->pages[page].state = PAGE_PLACING;
		end_await(d, page); /* off the link: the background may go on while the page is placed */
	}
	hf_destination_unlock_act(d, ACTION_PUMP);

	if (index != HF_TRANSFER_NONE)
		place_transfer(d, page, index);
}

/* ---- local work -------------------------------------------------------------------------------- */

/* Locked. The next page of local work of this class, PAGE_LOCAL_PLACING; none. */
static uint32_t take_local(struct hf_destination *d, enum hf_work_class class)
{
	if (!hf_destination_serving(d) || d->releasing)
		return HF_PAGE_NONE;
	uint32_t page;
	if (class == HF_WORK_URGENT) {
		page = queue_pop(d, &d->local_wait);
	} else {
		if (!background_runs(d))
			return HF_PAGE_NONE;
		page = hf_pagemap_next_set(&d->todo_zero, d->todo_zero_cursor);
		if (page == HF_PAGE_NONE)
			page = hf_pagemap_next_set(&d->todo_zero, 0);
	}
	if (page == HF_PAGE_NONE)
		return page;
	if (class == HF_WORK_BACKGROUND) {
		claim(d, page);
		d->todo_zero_cursor = page + 1;
	}
	d->pages[page].state = PAGE_LOCAL_PLACING;
	return page;
}

enum hf_work_next hf_destination_work(struct hf_destination *d, enum hf_work_class class)
{
	hf_destination_lock(d);
	uint32_t page = take_local(d, class);
	if (page == HF_PAGE_NONE) {
		pthread_mutex_unlock(&d->lock);
		return HF_WORK_IDLE;
	}
	uint16_t index = d->pages[page].transfer;
	bool visible = d->pages[page].counted;
	pthread_mutex_unlock(&d->lock);

	uint32_t block = hf_ramblocks_block_of_page(&d->blocks, page);
	uint64_t page_in_block = page - d->blocks.blocks[block].first_page;
	struct hf_err err = HF_ERR_INIT;
	int result;
	if (index != HF_TRANSFER_NONE) {
		result = place_landed(d, page, index, &err);
	} else if (visible) {
		result = d->memory.ops->place_again(d->memory.self, block, page_in_block, &err);
	} else {
		if (d->memory.placement == HF_PLACEMENT_CONTINUE)
			hf_pagemap_set(&d->received, page);
		result = d->memory.ops->place_zero(d->memory.self, block, page_in_block, &err);
	}

	hf_destination_lock(d);
	unsigned actions;
	if (result != 0) {
		actions = place_failed(d, page, result, &err) & ~(unsigned)ACTION_KICK_URGENT;
		if (class == HF_WORK_BACKGROUND)
			actions |= ACTION_KICK_URGENT; /* it is in the urgent worker's queue now */
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
	for (uint32_t page = 0; page < d->blocks.pages_total; page++) {
		if (d->pages[page].state != PAGE_MISSING)
			continue;
		if (hf_pagemap_test(&d->present, page))
			hf_pagemap_set(&d->todo_fetch, page);
		else
			hf_pagemap_set(&d->todo_zero, page);
	}

	/* Faults that came before the map was known wait in the urgent queue; holes need no fetch. */
	struct page_queue waiting = d->urgent_wait;
	d->urgent_wait = (struct page_queue){HF_PAGE_NONE, HF_PAGE_NONE};
	uint32_t page = waiting.head;
	while (page != HF_PAGE_NONE) {
		uint32_t next = d->pages[page].next;
		if (hf_pagemap_test(&d->present, page)) {
			queue_push(d, &d->urgent_wait, page);
		} else {
			end_await(d, page);
			queue_local(d, page);
		}
		page = next;
	}
}

static void free_slots(struct hf_destination *d)
{
	free(d->slots);
	d->slots = NULL;
	d->slots_count = 0;
	d->slots_free = HF_FETCH_SLOT_NONE;
}

void hf_destination_pages_link_down(struct hf_destination *d)
{
	/* Only fetches that the transport refused and whose caller has not come back to say so. */
	struct hf_fetch_done done = {.epoch = d->epoch, .status = HF_FETCH_FAILED};
	for (uint32_t i = 0; i < d->slots_count; i++)
		if (d->slots[i].busy)
			account_done(d, &d->slots[i], &done);
}

int hf_destination_pages_link_up(struct hf_destination *d, const struct hf_link_info *info)
{
	uint32_t count = info->capacity_chunks[HF_FETCH_URGENT] + info->capacity_chunks[HF_FETCH_BACKGROUND];
	struct fetch_slot *slots = calloc(count, sizeof(*slots));
	if (!slots)
		return -ENOMEM;
	free_slots(d);
	d->slots = slots;
	d->slots_count = count;
	for (uint32_t i = count; i-- > 0;) {
		slots[i].next_free = d->slots_free;
		d->slots_free = i;
	}
	d->outstanding[HF_FETCH_URGENT] = 0;
	d->outstanding[HF_FETCH_BACKGROUND] = 0;
	d->fetch_broken = false;
	hf_schedule_link_up(&d->schedule, info, hf_clock_now_ns(&d->clock));
	return 0;
}

static int create_maps(struct hf_destination *d, uint32_t pages)
{
	int result = hf_pagemap_create(&d->received, pages);
	if (result == 0)
		result = hf_pagemap_create(&d->present, pages);
	if (result == 0)
		result = hf_pagemap_create(&d->todo_fetch, pages);
	if (result == 0)
		result = hf_pagemap_create(&d->todo_zero, pages);
	return result;
}

int hf_destination_pages_prepare(struct hf_destination *d)
{
	uint32_t count = HF_TRANSFERS_MAX;
	if (d->memory.slots > 0 && d->memory.slots < count)
		count = d->memory.slots;
	d->transfers = calloc(count, sizeof(*d->transfers));
	if (!d->transfers)
		return -ENOMEM;
	d->transfers_count = (uint16_t)count;
	d->transfers_free = HF_TRANSFER_NONE;
	for (uint16_t i = d->transfers_count; i-- > 0;) {
		d->transfers[i].next = d->transfers_free;
		d->transfers_free = i;
	}
	/* A quarter, at least one, is kept for pages that somebody waits for. */
	d->background_transfers_max = count > 1 ? count - (count + 3) / 4 : 1;
	return 0;
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
	int result = d->pages ? create_maps(d, pages) : -ENOMEM;
	if (result == 0)
		result = hf_blocktime_create(&d->blocktime, config->vcpu_thread_ids, config->vcpus);
	if (result < 0)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "VM '%s': no memory for the map of %u pages",
				  d->vm_name, pages);
	for (uint32_t page = 0; page < pages; page++)
		d->pages[page].transfer = HF_TRANSFER_NONE;
	return 0;
}

void hf_destination_pages_destroy(struct hf_destination *d)
{
	hf_blocktime_destroy(d->blocktime);
	free_slots(d);
	free(d->transfers);
	hf_pagemap_destroy(&d->received);
	hf_pagemap_destroy(&d->present);
	hf_pagemap_destroy(&d->todo_fetch);
	hf_pagemap_destroy(&d->todo_zero);
	free(d->pages);
}
