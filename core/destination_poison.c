/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A source that is gone for good. Theory of operation: the VM is this side's, so it is not given up for some
 * pages; and nothing may read as zeros that is none. When the operator says so, never by itself, the engine
 * takes no link any more and settles every page that is not here:
 *
 *   its bytes are whole and wait for a huge page    placed, as ever (local work)
 *   it never existed on the source                  zeros, as ever (background work), also with
 * --no-background somebody waits for it, part of it has landed,   poisoned: every access is a memory error,
 * and who waits or nothing has                                  gets it now
 *
 * The background worker takes one page after the other, in that state PAGE_LOCAL_PLACING, so that the rules
 * of every page hold: one thread has it, a fault meanwhile is served again. A poisoned page is RECEIVED
 * without a received bit. A fault on it is an old message, or a thread that came between the look at the page
 * and the wake: it is poisoned again, which wakes.
 *
 * The received bits are what a new process finds. One that is killed on the way leaves the rest, and what was
 * poisoned, without a bit; its successor must go on poisoning (the port keeps a note before the first page),
 * and is told -EEXIST for a page that was placed just before the death, without its bit: that one is not
 * lost.
 *
 * The source is never told COMPLETE: what it has of the lost pages may be all there is.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/destination_internal.h"

/* ---- may it be? ---- */

/* Locked. Why not, or NULL. */
static const char *refusal(const struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	if (hf_status_is_final(d->status))
		return "the migration has ended already";
	if (d->handover != HF_DESTINATION_RUNNING)
		return "the VM is not surely this side's, or does not run: the source may still have it";
	if (d->taking_over || d->takeover_failed)
		return "its memory has not been taken over";
	if (d->epoch != 0 ||
	    (d->status != HF_STATUS_POSTCOPY_PAUSED && d->status != HF_STATUS_POSTCOPY_RECOVER_SETUP))
		return "the source is connected; pause the migration first";
	if (d->pages_received == d->blocks.pages_total)
		return "none is missing";
	return NULL;
}

/* Locked. */
static int begin(struct hf_destination *d, struct hf_err *err)
{
	hf_lock_assert_held(&d->lock);
	const char *why = refusal(d);
	if (why)
		return hf_err_set(err, HF_ERR_LOCAL, EPERM, "VM '%s': no page is poisoned: %s", d->vm_name,
				  why);
	if (!d->poisoned_of_block)
		d->poisoned_of_block = calloc(d->blocks.count, sizeof(*d->poisoned_of_block));
	if (!d->poisoned_of_block)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "VM '%s': out of memory", d->vm_name);
	d->poisoning = true;
	return 0;
}

int hf_destination_poison_missing(struct hf_destination *d, struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	struct hf_err why = HF_ERR_INIT;
	int possible = d->memory.ops ? hf_memory_may_poison(&d->memory, &why) : -ENODEV;
	unsigned actions = 0;

	hf_lock(&d->lock);
	int result = refusal(d) || possible == 0 ? begin(d, err) : possible;
	if (result == 0) /* said again, it also tries a release again that has failed */
		actions =
		    ACTION_KICK_BACKGROUND | ACTION_KICK_URGENT | ACTION_NOTIFY | hf_destination_check_end(d);
	else if (result == possible && err)
		*err = why;
	hf_destination_unlock_act(d, actions);
	return result;
}

/* ---- one page ---- */

/* Locked. One that somebody waits for, that part of has landed, or that nothing has. */
static uint32_t next_missing(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	uint32_t page = hf_page_queue_pop(d, &d->urgent_wait);
	if (page == HF_PAGE_NONE)
		page = hf_destination_take_partial(d);
	if (page == HF_PAGE_NONE)
		page = hf_pagemap_next_set(&d->todo_fetch, 0);
	return page;
}

uint32_t hf_destination_poison_take(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	uint32_t page = d->poisoning ? next_missing(d) : HF_PAGE_NONE;
	if (page == HF_PAGE_NONE)
		return page;
	hf_destination_claim(d, page);
	d->pages[page].poisoned = true;
	return page;
}

/* Locked. It was placed by a process before this one, which died before it could set the bit. */
static void count_found(struct hf_destination *d, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	d->pages[page].poisoned = false;
	hf_pagemap_set(&d->received, page);
	d->pages_received++;
	d->pages_fetched++;
	d->placed_last_ns = hf_clock_now_ns(&d->clock);
}

unsigned hf_destination_poison_commit(struct hf_destination *d, uint32_t page, int result)
{
	hf_lock_assert_held(&d->lock);
	struct page_entry *entry = &d->pages[page];
	if (!entry->counted && result == -EEXIST) {
		count_found(d, page);
	} else if (!entry->counted) {
		d->pages_poisoned++;
		d->poisoned_of_block[hf_place_of_page(d, page).block]++;
	}
	entry->counted = true;
	return ACTION_NOTIFY | hf_destination_settle_page(d, page);
}

/* ---- the end ---- */

void hf_destination_poison_tell(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	char blocks[256] = "";
	size_t used = 0;
	for (uint32_t i = 0; i < d->blocks.count && used < sizeof(blocks); i++)
		if (d->poisoned_of_block[i] > 0)
			used += (size_t)snprintf(blocks + used, sizeof(blocks) - used, "%s%u of block '%s'",
						 used ? ", " : "", d->poisoned_of_block[i],
						 d->blocks.blocks[i].idstr);
	hf_err_set(&d->err, HF_ERR_LOCAL, EHWPOISON,
		   "VM '%s': %u of %u pages are lost for good and poisoned, the guest gets a memory error "
		   "there: %s",
		   d->vm_name, d->pages_poisoned, d->blocks.pages_total, blocks);
}

bool hf_destination_page_poisoned(struct hf_destination *d, uint32_t block, uint64_t page)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	const struct page_entry *entry = &d->pages[d->blocks.blocks[block].first_page + page];
	bool poisoned = entry->poisoned && entry->counted;
	hf_unlock(&d->lock);
	return poisoned;
}
