/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fetching pages
 *
 * A transfer is a page whose chunks are being fetched; a slot is one chunk the transport holds. Transfers
 * with chunks still to be posted stand in one list a class, urgent or background; the rest only wait for
 * their bytes. next_fetch() takes the next chunk in this order:
 *
 *   1. if the background's share is due: as 4;
 *   2. a page somebody waits for whose transfer is under way, 3. one that waits for a transfer;
 *   4. if the scheduler allows the background now: the page it is in the middle of, 5. the next one that
 *      the source has named (destination_first.c), 6. the next one the scan finds.
 *
 * A slot's index and generation are the fetch's id, so a done that is stale, repeated or made up is noticed
 * and dropped. A chunk that fails marks its transfer: no more of it is posted, and when the last chunk on its
 * way has come back the page is missing again (or waits again, if somebody waits). After a failure nothing is
 * posted until the next link, since the link is going down. A fetch the transport has no room for (-EAGAIN)
 * has not failed: it is taken back and posted again after the next done.
 */
#include "core/destination_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define IDLE_REFUSALS_MAX 16u

/* ---- transfers --------------------------------------------------------------------------------- */

static void list_push(struct hf_destination *d, struct transfer_list *list, uint16_t transfer)
{
	hf_lock_assert_held(&d->lock);
	d->transfers[transfer].next = HF_TRANSFER_NONE;
	if (list->head == HF_TRANSFER_NONE)
		list->head = transfer;
	else
		d->transfers[list->tail].next = transfer;
	list->tail = transfer;
}

static void list_push_front(struct hf_destination *d, struct transfer_list *list, uint16_t transfer)
{
	d->transfers[transfer].next = list->head;
	if (list->head == HF_TRANSFER_NONE)
		list->tail = transfer;
	list->head = transfer;
}

static void list_remove(struct hf_destination *d, struct transfer_list *list, uint16_t transfer)
{
	hf_lock_assert_held(&d->lock);
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

static const struct hf_ramblock *block_of(const struct hf_destination *d, uint32_t page)
{
	return &d->blocks.blocks[hf_ramblocks_block_of_page(&d->blocks, page)];
}

static uint32_t chunk_of_block(const struct hf_destination *d, const struct hf_ramblock *block)
{
	return block->page_size_bytes < d->chunk_bytes ? (uint32_t)block->page_size_bytes : d->chunk_bytes;
}

/* Is something left for the background to start? */
static bool background_wants_transfers(const struct hf_destination *d)
{
	return hf_destination_background_runs(d) && hf_pagemap_next_set(&d->todo_fetch, 0) != HF_PAGE_NONE;
}

/*
 * Is a transfer free that this class may have? The background leaves some for pages that somebody waits for;
 * those leave it what it needs for its share and has not. But one page that somebody waits for may always be
 * on its way: landed ones may keep their landings for long, for want of a huge page.
 */
static bool transfer_to_have(const struct hf_destination *d, enum hf_fetch_class class)
{
	hf_lock_assert_held(&d->lock);
	if (d->transfers_free == HF_TRANSFER_NONE)
		return false;
	if (class == HF_FETCH_BACKGROUND)
		return d->transfers_background < d->background_transfers_max;
	uint32_t used = d->transfers_of[HF_FETCH_URGENT] + d->transfers_of[HF_FETCH_BACKGROUND];
	return d->transfers_count - used + d->transfers_background > d->background_transfers_kept ||
	       d->urgent_fetching == 0 || !background_wants_transfers(d);
}

static bool take_transfer(struct hf_destination *d, uint32_t page, enum hf_fetch_class class)
{
	hf_lock_assert_held(&d->lock);
	if (!transfer_to_have(d, class))
		return false;
	uint16_t index = d->transfers_free;
	bool background = class == HF_FETCH_BACKGROUND;

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
	d->transfers_of[class]++;
	d->urgent_fetching += !background;
	d->pages[page].state = PAGE_FETCHING;
	d->pages[page].transfer = index;
	list_push(d, &d->active[class], index);
	return true;
}

void hf_destination_free_transfer(struct hf_destination *d, uint16_t index)
{
	hf_lock_assert_held(&d->lock);
	struct transfer *transfer = &d->transfers[index];
	d->transfers_background -= transfer->background_slot;
	d->transfers_of[transfer->class]--;
	if (d->pages[transfer->page].state == PAGE_FETCHING)
		d->urgent_fetching -= transfer->class == HF_FETCH_URGENT;
	d->pages[transfer->page].transfer = HF_TRANSFER_NONE;
	transfer->next = d->transfers_free;
	d->transfers_free = index;
}

void hf_destination_promote(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	uint16_t index = d->pages[page].transfer;
	struct transfer *transfer = &d->transfers[index];
	hf_destination_begin_await(d, page);
	if (transfer->class == HF_FETCH_URGENT)
		return;
	transfer->class = HF_FETCH_URGENT;
	d->transfers_of[HF_FETCH_BACKGROUND]--;
	d->transfers_of[HF_FETCH_URGENT]++;
	d->urgent_fetching++;
	if (transfer->chunks_posted < transfer->chunks && !transfer->failed) {
		list_remove(d, &d->active[HF_FETCH_BACKGROUND], index);
		list_push(d, &d->active[HF_FETCH_URGENT], index);
	}
}

/* ---- posting ----------------------------------------------------------------------------------- */

static bool start_urgent(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	uint32_t page = d->urgent_wait.head;
	if (page == HF_PAGE_NONE || !take_transfer(d, page, HF_FETCH_URGENT))
		return false;
	hf_page_queue_pop(d, &d->urgent_wait);
	return true;
}

static bool start_named(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	if (!take_transfer(d, page, HF_FETCH_BACKGROUND))
		return false;
	d->transfers[d->pages[page].transfer].named = true;
	hf_destination_claim(d, page);
	d->first.asked_for++;
	return true;
}

static bool start_background(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	uint32_t named = hf_destination_first_next(d);
	if (named != HF_PAGE_NONE)
		return start_named(d, named);
	uint32_t page = hf_pagemap_next_set(&d->todo_fetch, d->schedule.cursor_page);
	if (page == HF_PAGE_NONE)
		page = hf_pagemap_next_set(&d->todo_fetch, 0);
	if (page == HF_PAGE_NONE || !take_transfer(d, page, HF_FETCH_BACKGROUND))
		return false;
	hf_destination_claim(d, page);
	d->schedule.cursor_page = page + 1;
	return true;
}

static bool class_is_full(const struct hf_destination *d, enum hf_fetch_class class)
{
	return d->refused[class] || d->outstanding[class] >= d->link.capacity_chunks[class];
}

static uint16_t choose_urgent(struct hf_destination *d)
{
	if (class_is_full(d, HF_FETCH_URGENT))
		return HF_TRANSFER_NONE;
	if (d->active[HF_FETCH_URGENT].head == HF_TRANSFER_NONE)
		start_urgent(d);
	return d->active[HF_FETCH_URGENT].head;
}

/* Whoever waits waits for a landing, and nothing urgent is on the link: the background may free one. */
static bool urgent_lacks_a_landing(const struct hf_destination *d)
{
	return d->urgent_wait.head != HF_PAGE_NONE && d->transfers_of[HF_FETCH_URGENT] == 0;
}

/* The operator's limit comes before the background's share. */
static bool over_limit(struct hf_destination *d)
{
	const struct hf_limiter *limiter = hf_destination_limiter(d);
	uint64_t now_ns = hf_clock_now_ns(&d->clock);
	return limiter && hf_limiter_when_ns(limiter, d->chunk_bytes, now_ns) > now_ns;
}

/* Somebody may be served, or a round of pre-copy runs. */
static bool may_fetch(const struct hf_destination *d)
{
	return d->epoch != 0 && d->fetching && !d->fetch_broken && d->transfers &&
	       (hf_destination_serving(d) ||
		(d->precopy.state == ROUND_RUNS && d->status == HF_STATUS_ACTIVE));
}

bool hf_destination_background_limited(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	const struct hf_limiter *limiter = hf_destination_limiter(d);
	return limiter && limiter->limit_bytes_per_s != 0 && may_fetch(d) &&
	       (d->active[HF_FETCH_BACKGROUND].head != HF_TRANSFER_NONE || background_wants_transfers(d));
}

static uint16_t choose_background(struct hf_destination *d)
{
	bool named = hf_destination_first_is_next(d);
	if (class_is_full(d, HF_FETCH_BACKGROUND) || !(named || hf_destination_background_runs(d)) ||
	    !hf_schedule_background_room(&d->schedule) || (!named && over_limit(d)))
		return HF_TRANSFER_NONE;
	/* In a round nobody can be served, so it waits for nobody. */
	if (hf_schedule_background_held(&d->schedule) && !hf_destination_in_round(d) && !named)
		return urgent_lacks_a_landing(d) ? d->active[HF_FETCH_BACKGROUND].head : HF_TRANSFER_NONE;
	if (d->active[HF_FETCH_BACKGROUND].head == HF_TRANSFER_NONE)
		start_background(d);
	return d->active[HF_FETCH_BACKGROUND].head;
}

/* The transfer whose next chunk is to be posted now, or none. Urgent first, unless the share is due. */
static uint16_t choose_transfer(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	uint16_t index = HF_TRANSFER_NONE;
	if (hf_destination_in_round(d))
		return choose_background(d);
	if (hf_schedule_background_due(&d->schedule))
		index = choose_background(d);
	if (index == HF_TRANSFER_NONE)
		index = choose_urgent(d);
	return index != HF_TRANSFER_NONE ? index : choose_background(d);
}

static uint32_t take_slot(struct hf_destination *d, uint16_t transfer, enum hf_fetch_class class,
			  uint64_t offset, uint32_t length)
{
	hf_lock_assert_held(&d->lock);
	uint32_t index = d->slots_free;
	assert(index != HF_FETCH_SLOT_NONE); /* there are as many as the link's capacity */
	struct fetch_slot *slot = &d->slots[index];
	d->slots_free = slot->next_free;
	slot->generation++;
	slot->busy = true;
	slot->transfer = transfer;
	slot->offset_bytes = offset;
	uint64_t now_ns = hf_clock_now_ns(&d->clock);
	hf_schedule_posted(&d->schedule, class, length, now_ns, &slot->chunk);
	struct hf_limiter *limiter = hf_destination_limiter(d);
	bool loads = d->transfers[transfer].named && !d->resumed;
	if (class == HF_FETCH_BACKGROUND && limiter && !loads)
		hf_limiter_take(limiter, length, now_ns);
	d->outstanding[class]++;
	return index;
}

static void free_slot(struct hf_destination *d, struct fetch_slot *slot)
{
	d->outstanding[slot->chunk.class]--;
	slot->busy = false;
	slot->next_free = d->slots_free;
	d->slots_free = (uint32_t)(slot - d->slots);
}

/* A fetch decided under the lock, and what its landing follows from. */
struct decided_fetch {
	struct hf_fetch fetch;
	uint32_t page;
	uint16_t transfer;
	uint64_t offset_in_page;
};

/* Locked. Decides the next fetch to post; false if there is none. */
static bool next_fetch(struct hf_destination *d, struct decided_fetch *decided)
{
	hf_lock_assert_held(&d->lock);
	if (!may_fetch(d))
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

	decided->page = transfer->page;
	decided->transfer = index;
	decided->offset_in_page = offset_in_page;
	decided->fetch = (struct hf_fetch){
	    .id = (uint64_t)d->slots[slot].generation << 32 | slot,
	    .epoch = d->epoch,
	    .block = d->source_of_block[block_index],
	    .offset_bytes = (transfer->page - block->first_page) * block->page_size_bytes + offset_in_page,
	    .length_bytes = chunk,
	    .class = transfer->class,
	};
	if (++transfer->chunks_posted == transfer->chunks)
		list_remove(d, &d->active[transfer->class], index);
	return true;
}

/* Without the lock: a page that has a transfer keeps it until its last fetch has ended. */
static uint8_t *landing_of(struct hf_destination *d, uint32_t page, uint16_t transfer)
{
	struct page_place place = hf_place_of_page(d, page);
	return hf_memory_landing(&d->memory, place.block, place.page, transfer);
}

/* ---- done -------------------------------------------------------------------------------------- */

/* Locked. A transfer that failed and has nothing on its way any more: its page is missing again. */
static void give_up_transfer(struct hf_destination *d, uint16_t index)
{
	hf_lock_assert_held(&d->lock);
	uint32_t page = d->transfers[index].page;
	struct page_entry *entry = &d->pages[page];
	bool awaited = entry->awaited || entry->refault; /* the latter in a round of pre-copy */

	entry->refault = false;
	hf_destination_free_transfer(d, index);
	entry->landed = true;
	hf_destination_end_await(d, page);
	if (awaited) {
		hf_destination_queue_urgent(d, page);
		return;
	}
	entry->state = PAGE_MISSING;
	hf_pagemap_set(&d->todo_fetch, page);
}

void hf_destination_abandon_background(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	struct transfer_list *list = &d->active[HF_FETCH_BACKGROUND];
	while (list->head != HF_TRANSFER_NONE) {
		uint16_t index = list->head;
		struct transfer *transfer = &d->transfers[index];
		list_remove(d, list, index);
		transfer->failed = true;
		if (transfer->chunks_done == transfer->chunks_posted)
			give_up_transfer(d, index);
	}
}

/* Locked. Looks up the slot of a done; NULL for one that is not outstanding (a transport's mistake). */
static struct fetch_slot *slot_of_done(struct hf_destination *d, const struct hf_fetch_done *done)
{
	hf_lock_assert_held(&d->lock);
	uint32_t index = (uint32_t)done->id;
	if (done->epoch != d->epoch || index >= d->slots_count)
		return NULL;
	struct fetch_slot *slot = &d->slots[index];
	return slot->busy && slot->generation == done->id >> 32 ? slot : NULL;
}

/* A zero chunk's landing must hold zeros before the chunk counts as landed. */
static void clear_landing(struct hf_destination *d, const struct hf_fetch_done *done)
{
	hf_lock(&d->lock);
	struct fetch_slot *slot = slot_of_done(d, done);
	if (!slot) {
		hf_unlock(&d->lock);
		return;
	}
	uint16_t index = slot->transfer;
	uint32_t page = d->transfers[index].page;
	uint32_t length = slot->chunk.length_bytes;
	uint64_t offset = slot->offset_bytes;
	bool landed = d->pages[page].landed;
	hf_unlock(&d->lock);

	hf_memory_clear(&d->memory, landing_of(d, page, index) + offset, length, landed);
}

/* Locked. Accounts one done. Returns the transfer if all its chunks have landed, else none. */
static uint16_t account_done(struct hf_destination *d, struct fetch_slot *slot,
			     const struct hf_fetch_done *done)
{
	hf_lock_assert_held(&d->lock);
	uint16_t index = slot->transfer;
	struct transfer *transfer = &d->transfers[index];
	bool landed = done->status == HF_FETCH_OK;
	enum hf_schedule_end end = !landed	? HF_SCHEDULE_LOST
				   : done->zero ? HF_SCHEDULE_LANDED_ZERO
						: HF_SCHEDULE_LANDED;

	hf_schedule_done(&d->schedule, &slot->chunk, end, hf_clock_now_ns(&d->clock));
	free_slot(d, slot);
	d->refused[HF_FETCH_URGENT] = d->refused[HF_FETCH_BACKGROUND] = false;

	if (done->status == HF_FETCH_FAILED)
		d->fetch_broken = true;
	transfer->chunks_done++;
	if (landed && done->zero)
		transfer->chunks_zero++;
	else if (landed)
		d->transferred_bytes += slot->chunk.length_bytes;
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

/*
 * Locked. The transport did not take a fetch: its chunk is to be posted again. If it was the last one posted
 * of its page that is as if it never had been, else the page starts anew.
 */
static void take_back(struct hf_destination *d, struct fetch_slot *slot)
{
	uint16_t index = slot->transfer;
	struct transfer *transfer = &d->transfers[index];
	uint64_t last = (uint64_t)(transfer->chunks_posted - 1) * slot->chunk.length_bytes;
	/* Of a round that was cut nothing is posted again. */
	if (transfer->failed || slot->offset_bytes != last || d->precopy.state == ROUND_CUT) {
		account_done(d, slot, &(struct hf_fetch_done){.status = HF_FETCH_CANCELLED});
		return;
	}
	hf_schedule_refused(&d->schedule, &slot->chunk);
	free_slot(d, slot);
	if (transfer->chunks_posted-- == transfer->chunks)
		list_push_front(d, &d->active[transfer->class], index);
}

/* Locked. The transport answered a fetch with an error, so no done will come: it ends here. */
static void fetch_refused(struct hf_destination *d, const struct hf_fetch *fetch, int result)
{
	struct hf_fetch_done done = {.id = fetch->id, .epoch = fetch->epoch, .status = HF_FETCH_FAILED};
	struct fetch_slot *slot = slot_of_done(d, &done);
	if (!slot)
		return;
	if (result != -EAGAIN) {
		account_done(d, slot, &done); /* the link is going down */
		return;
	}
	take_back(d, slot);
	d->refused[fetch->class] = true;
}

/*
 * Locked. What came back is to be posted again, and may have to wait for its limit. The worker may have found
 * nothing to post meanwhile.
 */
static unsigned come_again(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	return hf_destination_background_limited(d) ? ACTION_KICK_BACKGROUND : 0;
}

/* Locked. Nothing is on its way: no done will come that could pump again. */
static bool link_is_idle(const struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	return d->outstanding[HF_FETCH_URGENT] + d->outstanding[HF_FETCH_BACKGROUND] == 0;
}

/*
 * Posts until there is nothing to post. A class that the transport has no room for is left alone until the
 * next done, of either class; if none is on its way, it is tried again at once. The other class goes on.
 */
void hf_destination_pump(struct hf_destination *d)
{
	uint32_t refused_when_idle = 0;
	while (refused_when_idle < IDLE_REFUSALS_MAX) {
		struct decided_fetch next;

		hf_lock(&d->lock);
		bool more = next_fetch(d, &next);
		hf_unlock(&d->lock);
		if (!more)
			return;

		next.fetch.landing = landing_of(d, next.page, next.transfer) + next.offset_in_page;
		int result = hf_transport_fetch(&d->transport, &next.fetch);
		if (result == 0)
			continue;

		hf_lock(&d->lock);
		fetch_refused(d, &next.fetch, result);
		if (link_is_idle(d)) {
			d->refused[HF_FETCH_URGENT] = d->refused[HF_FETCH_BACKGROUND] = false;
			refused_when_idle++;
		}
		hf_destination_unlock_act(d, hf_destination_round_check(d) | come_again(d));
	}
	struct hf_err err;
	hf_err_set(&err, HF_ERR_LOCAL, EAGAIN, "VM '%s': the link takes no fetch although none is on its way",
		   d->vm_name);
	hf_destination_fail(d, &err);
}

void hf_destination_event_fetch_done(void *engine, const struct hf_fetch_done *done)
{
	hf_lock_assert_entry(__func__);
	struct hf_destination *d = engine;
	if (hf_link_probe_owns(done->id)) {
		hf_destination_probe_done(d, done);
		return;
	}
	if (done->status == HF_FETCH_OK && done->zero)
		clear_landing(d, done);

	hf_lock(&d->lock);
	struct fetch_slot *slot = slot_of_done(d, done);
	if (!slot) {
		hf_unlock(&d->lock);
		return;
	}
	uint16_t index = account_done(d, slot, done);
	uint32_t page = HF_PAGE_NONE;
	unsigned actions = done->status == HF_FETCH_OK ? 0 : come_again(d);
	if (hf_destination_in_round(d)) {
		if (index != HF_TRANSFER_NONE)
			hf_destination_round_landed(d, index);
		index = HF_TRANSFER_NONE;
	} else if (index != HF_TRANSFER_NONE) {
		page = d->transfers[index].page;
		d->pages[page].state = PAGE_PLACING;
		d->urgent_fetching -= d->transfers[index].class == HF_FETCH_URGENT;
		hf_destination_end_await(
		    d, page); /* off the link: the background may go on while the page is placed */
	}
	hf_destination_unlock_act(d, actions | ACTION_PUMP | hf_destination_round_check(d));

	if (index != HF_TRANSFER_NONE)
		hf_destination_place_transfer(d, page, index);
}

uint32_t hf_destination_take_partial(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	uint16_t index = d->active[HF_FETCH_URGENT].head;
	if (index == HF_TRANSFER_NONE)
		index = d->active[HF_FETCH_BACKGROUND].head;
	if (index == HF_TRANSFER_NONE)
		return HF_PAGE_NONE;
	uint32_t page = d->transfers[index].page;
	list_remove(d, &d->active[d->transfers[index].class], index);
	hf_destination_free_transfer(d, index);
	return page;
}

/* ---- link and creation ------------------------------------------------------------------------- */

static void free_slots(struct hf_destination *d)
{
	free(d->slots);
	d->slots = NULL;
	d->slots_count = 0;
	d->slots_free = HF_FETCH_SLOT_NONE;
}

void hf_destination_fetch_link_down(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	/* Only fetches that the transport refused and whose caller has not come back to say so. */
	struct hf_fetch_done done = {.epoch = d->epoch, .status = HF_FETCH_FAILED};
	for (uint32_t i = 0; i < d->slots_count; i++)
		if (d->slots[i].busy)
			account_done(d, &d->slots[i], &done);
}

int hf_destination_fetch_link_up(struct hf_destination *d, const struct hf_link_info *info)
{
	hf_lock_assert_held(&d->lock);
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
	d->refused[HF_FETCH_URGENT] = d->refused[HF_FETCH_BACKGROUND] = false;
	d->fetch_broken = false;
	hf_schedule_link_up(&d->schedule, info, hf_clock_now_ns(&d->clock));
	return 0;
}

static uint32_t transfers_count(const struct hf_destination *d)
{
	return d->memory.slots > 0 && d->memory.slots < HF_TRANSFERS_MAX ? d->memory.slots : HF_TRANSFERS_MAX;
}

int hf_destination_fetch_prepare(struct hf_destination *d)
{
	uint32_t count = transfers_count(d);
	d->transfers = calloc(count, sizeof(*d->transfers));
	if (!d->transfers)
		return -ENOMEM;
	d->transfers_free = HF_TRANSFER_NONE;
	for (uint16_t i = (uint16_t)count; i-- > 0;) {
		d->transfers[i].next = d->transfers_free;
		d->transfers_free = i;
	}
	/* Each class keeps at least one from the other: urgent pages a quarter, the background its share. */
	d->transfers_count = count;
	d->background_transfers_max = count > 1 ? count - (count + 3) / 4 : 1;
	d->background_transfers_kept = count > 1 ? (count * d->schedule.share_percent + 99) / 100 : 0;
	return 0;
}

void hf_destination_fetch_tables(const struct hf_destination *d, struct hf_tables *tables)
{
	hf_tables_add(tables, d->transfers, transfers_count(d) * sizeof(*d->transfers));
	hf_tables_add(tables, d->slots, d->slots_count * sizeof(*d->slots));
}

void hf_destination_fetch_destroy(struct hf_destination *d)
{
	free_slots(d);
	free(d->transfers);
}
