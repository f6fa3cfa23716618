/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounds of pre-copy
 *
 *     READY, ROUND_DONE heard         the thread that heard it
 *     harvest (the memory port)       all blocks, without the lock: what was written since the last one
 *     decide (convergence.h)          another round, or the VM stops
 *     ROUND.., ROUND_END              the set of the round leaves; its pages may be asked for
 *
 * A page is in one of three places: `round` (the destination fetches it, or has), `remaining` (left out of
 * the round since it is hot, or written again), or neither: it was moved and not written since. The round's
 * pages leave `round` with its ROUND_DONE. A harvest protects the pages that it finds, and a page is read
 * only when it is asked for, so after the harvest that named it: what is written meanwhile is found by the
 * next one.
 *
 * The last harvest comes when the VM stands still and its devices are saved. Its set with `remaining` is what
 * is stale at the destination; the destination knows itself what it never had. So a migration that is cut off
 * in the middle of a round lacks nothing.
 *
 * Ending the rounds early (start_postcopy) asks the destination to cut the one under way; then the VM stops
 * when ROUND_DONE comes, as after any round. A set is never told by two threads: the operator's thread only
 * repeats ROUND_END, and only once it has left for the first time. ROUND_DONE that is heard while it does so
 * waits for it: what is about a round must not come after the next set, or the final one.
 *
 * What the pause takes beside the moving of pages is known in part beforehand: the way of its messages, by
 * the link's round trip, and a harvest, by the last one. Once the VM stands still what stopping and saving it
 * took is known too, and what remains may be more than was expected. Without postcopy it is moved within the
 * pause whatever it is; with postcopy only if the pause stays within the limit, as far as can be told.
 *
 * The memory is tracked by the port; nothing here ends that. A VMM whose agent is gone runs on unhindered.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/ports_internal.h"
#include "core/source_internal.h"

#define PAUSE_ROUND_TRIPS 3u /* set and fetch, bytes and LOADED, RUN and RESUMED */

/* ---- creation ---------------------------------------------------------------------------------- */

static int create_maps(struct source_precopy *p, const struct hf_ramblocks *blocks)
{
	size_t bytes = hf_pagemap_bytes(blocks->pages_total);
	p->block_dirtied = calloc(1, bytes);
	p->block_holes = calloc(1, bytes);
	int result = p->block_dirtied && p->block_holes ? 0 : -ENOMEM;
	if (result == 0)
		result = hf_pagemap_create(&p->dirtied, blocks->pages_total);
	if (result == 0)
		result = hf_pagemap_create(&p->round, blocks->pages_total);
	if (result == 0)
		result = hf_pagemap_create(&p->holes, blocks->pages_total);
	if (result == 0)
		result = hf_pagemap_create(&p->remaining, blocks->pages_total);
	if (result == 0)
		result = hf_hotness_create(&p->hotness, blocks->pages_total);
	return result;
}

int hf_source_precopy_create(struct hf_source *s, const struct hf_source_config *config, struct hf_err *err)
{
	struct source_precopy *p = &s->precopy;
	if (!config->precopy || config->restarted)
		return 0;
	if (!s->memory.ops->harvest)
		return hf_err_set(err, HF_ERR_LOCAL, EOPNOTSUPP,
				  "VM '%s': nothing tracks what it writes, so it cannot be pre-copied",
				  s->vm_name);
	p->wanted = true;
	p->only = config->precopy_only;
	p->limit_bytes_per_s = config->max_bandwidth;
	p->convergence_config = (struct hf_convergence_config){
	    .downtime_limit_ns = config->downtime_limit_ns ? config->downtime_limit_ns : HF_DOWNTIME_LIMIT_NS,
	    .otherwise = config->precopy_only ? HF_ELSE_GO_ON : HF_ELSE_POSTCOPY,
	};
	if (create_maps(p, &s->blocks) < 0)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the maps of pre-copy");
	return 0;
}

void hf_source_precopy_destroy(struct hf_source *s)
{
	struct source_precopy *p = &s->precopy;
	free(p->block_dirtied);
	free(p->block_holes);
	hf_pagemap_destroy(&p->dirtied);
	hf_pagemap_destroy(&p->round);
	hf_pagemap_destroy(&p->holes);
	hf_pagemap_destroy(&p->remaining);
	hf_hotness_destroy(&p->hotness);
}

/* ---- begin and end ----------------------------------------------------------------------------- */

/* Locked. No further round: the VM stops. */
static unsigned end_rounds(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	s->precopy.stage = PRECOPY_OVER;
	return hf_source_begin_stop(s);
}

unsigned hf_source_precopy_begin(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	struct source_precopy *p = &s->precopy;
	struct hf_err err;
	if (!p->wanted || p->start_postcopy)
		return end_rounds(s);
	if (!p->spoken) {
		hf_err_set(
		    &err, HF_ERR_PEER, EOPNOTSUPP,
		    "the destination's release knows no pre-copy; leave --precopy out, or install the same "
		    "release on both hosts");
		return hf_source_violation(s, &err);
	}
	if (s->ready.placement != HF_PLACEMENT_CONTINUE) {
		hf_err_set(
		    &err, HF_ERR_PEER, EOPNOTSUPP,
		    "the destination places pages by copy, which pre-copy cannot use; leave --precopy out");
		return hf_source_violation(s, &err);
	}
	p->stage = PRECOPY_HARVESTS;
	p->began_ns = hf_clock_now_ns(&s->clock);
	return ACTION_HARVEST | ACTION_NOTIFY;
}

int hf_source_start_postcopy(struct hf_source *s, struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	struct source_precopy *p = &s->precopy;
	unsigned actions = 0;
	int result = 0;
	if (p->only)
		result = hf_err_set(
		    err, HF_ERR_LOCAL, EPERM,
		    "VM '%s': this migration was asked to do without postcopy (--precopy-only)", s->vm_name);
	else
		p->start_postcopy = true;
	if (result == 0 && p->stage == PRECOPY_ROUND && p->told && !hf_status_is_final(s->status))
		actions = ACTION_CHANGE_ROUND;
	hf_source_unlock_act(s, actions);
	return result;
}

void hf_source_limit_rounds(struct hf_source *s, uint64_t limit_bytes_per_s)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	struct source_precopy *p = &s->precopy;
	p->limit_bytes_per_s = limit_bytes_per_s;
	bool now = p->stage == PRECOPY_ROUND && p->told && !hf_status_is_final(s->status);
	hf_source_unlock_act(s, now ? ACTION_CHANGE_ROUND : 0);
}

void hf_source_limit_downtime(struct hf_source *s, uint64_t limit_ns)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	struct source_precopy *p = &s->precopy;
	p->convergence_config.downtime_limit_ns = limit_ns;
	if (p->harvested)
		hf_convergence_configure(&p->convergence, &p->convergence_config);
	hf_unlock(&s->lock);
}

/* ---- harvests ---------------------------------------------------------------------------------- */

/* Without the lock, and while no page of a round is served. `dirtied` becomes what this harvest found. */
static int harvest_block(struct hf_source *s, uint32_t index, struct hf_err *err)
{
	struct source_precopy *p = &s->precopy;
	const struct hf_ramblock *block = &s->blocks.blocks[index];
	size_t bytes = hf_pagemap_bytes(block->pages);
	memset(p->block_dirtied, 0, bytes);
	memset(p->block_holes, 0, bytes);
	int result =
	    hf_source_memory_harvest(&s->memory, index, p->block_dirtied, p->block_holes, bytes, err);
	if (result == 0)
		result =
		    hf_pagemap_import(&p->dirtied, block->first_page, block->pages, p->block_dirtied, bytes);
	if (result < 0)
		return result;
	struct hf_pagemap dirtied, holes;
	hf_pagemap_wrap(&dirtied, p->block_dirtied, block->pages);
	hf_pagemap_wrap(&holes, p->block_holes, block->pages);
	for (uint32_t page = hf_pagemap_next_set(&dirtied, 0); page != HF_PAGE_NONE;
	     page = hf_pagemap_next_set(&dirtied, page + 1)) {
		if (hf_pagemap_test(&holes, page))
			hf_pagemap_set(&p->holes, block->first_page + page);
		else
			hf_pagemap_clear(&p->holes, block->first_page + page);
	}
	return 0;
}

static int harvest(struct hf_source *s, struct hf_err *err)
{
	int result = 0;
	for (uint32_t i = 0; i < s->blocks.count && result == 0; i++)
		result = harvest_block(s, i, err);
	return result;
}

/* What is set, in bytes and pages. */
static uint64_t measure(const struct hf_source *s, const struct hf_pagemap *map, uint64_t *pages)
{
	uint64_t bytes = 0;
	*pages = 0;
	for (uint32_t page = hf_pagemap_next_set(map, 0); page != HF_PAGE_NONE;
	     page = hf_pagemap_next_set(map, page + 1)) {
		bytes += s->blocks.blocks[hf_ramblocks_block_of_page(&s->blocks, page)].page_size_bytes;
		++*pages;
	}
	return bytes;
}

/* Locked. The round's pages have been planned and leave `remaining`. */
static unsigned begin_round(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	struct source_precopy *p = &s->precopy;
	uint64_t pages;
	hf_pagemap_remove(&p->remaining, &p->round);
	p->round_bytes = measure(s, &p->round, &pages);
	p->number++;
	p->told = p->cut_told = false;
	return ACTION_SEND_ROUND | ACTION_NOTIFY;
}

/* Locked. The first harvest: all pages that exist. */
static unsigned begin_first_round(struct hf_source *s)
{
	struct source_precopy *p = &s->precopy;
	uint64_t pages;
	hf_pagemap_copy(&p->round, &p->dirtied);
	p->remaining_bytes = measure(s, &p->round, &pages);
	hf_convergence_init(&p->convergence, &p->convergence_config, p->remaining_bytes);
	p->harvested = true;
	return begin_round(s);
}

/* Locked. */
static unsigned fail_rounds(struct hf_source *s)
{
	struct hf_err err;
	hf_err_set(&err, HF_ERR_LOCAL, ETIMEDOUT, "VM '%s': pre-copy has been given up: %s", s->vm_name,
		   hf_convergence_reason_text(s->precopy.convergence.reason));
	return hf_source_fail_locked(s, &err);
}

/*
 * Locked. What a pause takes beside the moving of pages: so much, and messages that wait for each other. No
 * round trip that a peer may tell is too long.
 */
static uint64_t fixed_part_ns(const struct hf_source *s, uint64_t so_far_ns)
{
	uint64_t messages_ns, sum_ns;
	if (__builtin_mul_overflow(s->link_figures.round_trip_ns, PAUSE_ROUND_TRIPS, &messages_ns) ||
	    __builtin_add_overflow(messages_ns, so_far_ns, &sum_ns))
		return UINT64_MAX;
	return sum_ns;
}

/* Locked. A round has ended and the harvest after it is here. */
static unsigned decide(struct hf_source *s)
{
	struct source_precopy *p = &s->precopy;
	uint64_t pages;
	struct hf_convergence_round round = {
	    .moved_bytes = p->done.moved_bytes,
	    .duration_ns = p->done.duration_ns,
	    .elapsed_ns = hf_clock_now_ns(&s->clock) - p->began_ns,
	    .rate_bytes_per_s = p->done.rate_bytes_per_s,
	};
	round.dirtied_bytes = measure(s, &p->dirtied, &round.dirtied_pages);
	hf_hotness_round(&p->hotness, &p->dirtied);
	hf_pagemap_add(&p->remaining, &p->dirtied);
	round.remaining_bytes = p->remaining_bytes = measure(s, &p->remaining, &pages);
	hf_hotness_plan(&p->hotness, &p->remaining, HF_HOTNESS_HOT_DEFAULT, &p->round);
	round.next_bytes = measure(s, &p->round, &pages);

	p->convergence_config.fixed_ns = fixed_part_ns(s, p->harvest_ns);
	hf_convergence_configure(&p->convergence, &p->convergence_config);
	enum hf_convergence_next next = hf_convergence_round_done(&p->convergence, &round);
	p->within_limit = next == HF_NEXT_SWITCH_OVER;
	if (p->start_postcopy || next == HF_NEXT_SWITCH_OVER || next == HF_NEXT_POSTCOPY)
		return end_rounds(s);
	if (next == HF_NEXT_FAIL)
		return fail_rounds(s);
	/* Told to go on with hot pages alone: moving them in vain is no worse than doing nothing. */
	if (round.next_bytes == 0)
		hf_pagemap_copy(&p->round, &p->remaining);
	return begin_round(s);
}

void hf_source_harvest(struct hf_source *s)
{
	struct hf_err err = HF_ERR_INIT;
	uint64_t began_ns = hf_clock_now_ns(&s->clock);
	int result = harvest(s, &err);

	hf_lock(&s->lock);
	s->precopy.harvest_ns = hf_clock_now_ns(&s->clock) - began_ns;
	unsigned actions = 0;
	if (s->status != HF_STATUS_ACTIVE || s->precopy.stage != PRECOPY_HARVESTS) {
		actions = 0; /* it has ended meanwhile */
	} else if (result < 0) {
		hf_err_prefix(&err, "VM '%s'", s->vm_name);
		actions = hf_source_fail_locked(s, &err);
	} else {
		actions = s->precopy.harvested ? decide(s) : begin_first_round(s);
	}
	hf_source_unlock_act(s, actions);
}

/* ---- telling ----------------------------------------------------------------------------------- */

/* The pages of one block that are in the set; pieces without any are left out. */
static int send_set_of(struct hf_source *s, uint64_t epoch, uint32_t index, const struct hf_pagemap *set,
		       uint8_t *buffer, uint8_t *bits)
{
	const struct hf_ramblock *block = &s->blocks.blocks[index];
	for (uint32_t first = 0; first < block->pages;) {
		uint32_t at = hf_pagemap_next_set(set, block->first_page + first);
		if (at == HF_PAGE_NONE || at - block->first_page >= block->pages)
			break;
		first = at - block->first_page;
		uint32_t pages = block->pages - first;
		if (pages > HF_WIRE_PRESENCE_PAGES_MAX)
			pages = HF_WIRE_PRESENCE_PAGES_MAX;
		hf_pagemap_export(set, at, pages, bits);
		struct hf_wire_presence piece = {
		    .block = index,
		    .first_page = first,
		    .pages = pages,
		    .bits = bits,
		    .bits_bytes = hf_pagemap_bytes(pages),
		};
		ssize_t bytes = hf_wire_encode_round(&piece, buffer, HF_WIRE_FRAME_MAX_BYTES);
		if (bytes < 0)
			return (int)bytes;
		hf_source_send_message(s, epoch, HF_WIRE_ROUND, buffer, (size_t)bytes);
		first += pages;
	}
	return 0;
}

static int send_set(struct hf_source *s, uint64_t epoch, const struct hf_pagemap *set)
{
	uint8_t *buffer = malloc(HF_WIRE_FRAME_MAX_BYTES);
	uint8_t *bits = malloc(hf_pagemap_bytes(HF_WIRE_PRESENCE_PAGES_MAX));
	int result = buffer && bits ? 0 : -ENOMEM;
	for (uint32_t i = 0; i < s->blocks.count && result == 0; i++)
		result = send_set_of(s, epoch, i, set, buffer, bits);
	free(bits);
	free(buffer);
	return result;
}

static void send_round_end(struct hf_source *s, uint64_t epoch, const struct hf_wire_round_end *end)
{
	uint8_t buffer[64];
	ssize_t bytes = hf_wire_encode_round_end(end, buffer, sizeof(buffer));
	if (bytes > 0)
		hf_source_send_message(s, epoch, HF_WIRE_ROUND_END, buffer, (size_t)bytes);
}

/* Locked. What is to be said of the round now. */
static struct hf_wire_round_end round_end(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	struct source_precopy *p = &s->precopy;
	p->limit_told_bytes_per_s = p->limit_bytes_per_s;
	return (struct hf_wire_round_end){.round = p->number, .limit_bytes_per_s = p->limit_bytes_per_s};
}

/* Locked. Has the operator asked for something since the round was told? */
static bool has_changed(const struct source_precopy *p)
{
	return p->limit_bytes_per_s != p->limit_told_bytes_per_s || (p->start_postcopy && !p->cut_told);
}

void hf_source_send_round(struct hf_source *s, uint64_t epoch)
{
	struct source_precopy *p = &s->precopy;
	int result = send_set(s, epoch, &p->round);
	struct hf_err err;

	hf_lock(&s->lock);
	if (result < 0) {
		hf_err_set(&err, HF_ERR_LOCAL, -result, "VM '%s': the set of a round could not be sent",
			   s->vm_name);
		hf_source_unlock_act(s, hf_source_fail_locked(s, &err));
		return;
	}
	struct hf_wire_round_end end = round_end(s);
	p->stage = PRECOPY_ROUND;
	atomic_store(&p->serving, s->epoch != 0);
	hf_unlock(&s->lock);

	send_round_end(s, epoch, &end);

	hf_lock(&s->lock);
	/* If this is not the thread that hears ROUND_DONE, another round may be being told by now. */
	bool is_last = p->number == end.round;
	p->told |= is_last;
	hf_source_unlock_act(s, is_last && has_changed(p) ? ACTION_CHANGE_ROUND : 0);
}

/* Locked. ROUND_DONE was heard, and nothing about that round is on its way any more. */
static unsigned go_on(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	return s->precopy.start_postcopy ? end_rounds(s) : ACTION_HARVEST | ACTION_NOTIFY;
}

void hf_source_change_round(struct hf_source *s)
{
	struct source_precopy *p = &s->precopy;
	hf_lock(&s->lock);
	bool due = p->stage == PRECOPY_ROUND && p->told && has_changed(p);
	struct hf_wire_round_end end = {0};
	uint64_t epoch = s->epoch;
	if (due) {
		end = round_end(s);
		end.flags = p->start_postcopy ? HF_WIRE_ROUND_CUT : 0;
		p->cut_told = p->start_postcopy;
		p->changing++;
	}
	hf_unlock(&s->lock);
	if (!due)
		return;
	send_round_end(s, epoch, &end);

	hf_lock(&s->lock);
	unsigned actions = 0;
	if (--p->changing == 0 && p->done_waits) {
		p->done_waits = false;
		actions = s->status == HF_STATUS_ACTIVE ? go_on(s) : 0;
	}
	hf_source_unlock_act(s, actions);
}

unsigned hf_source_on_round_done(struct hf_source *s, const uint8_t *payload, size_t bytes)
{
	hf_lock_assert_held(&s->lock);
	struct source_precopy *p = &s->precopy;
	struct hf_wire_round_done done;
	struct hf_err err = HF_ERR_INIT;
	if (s->status != HF_STATUS_ACTIVE || p->stage != PRECOPY_ROUND)
		return hf_source_unexpected(s, HF_WIRE_ROUND_DONE);
	if (hf_wire_decode_round_done(payload, bytes, &done, &err) < 0)
		return hf_source_violation(s, &err);
	if (done.round != p->number) {
		hf_err_set(&err, HF_ERR_PEER, EPROTO,
			   "the destination says that round %u is done while round %u is under way",
			   done.round, p->number);
		return hf_source_violation(s, &err);
	}
	atomic_store(&p->serving, false);
	p->done = done;
	p->rounds_done++;
	p->moved_bytes += done.moved_bytes;
	p->stage = PRECOPY_HARVESTS;
	p->done_waits = p->changing > 0;
	return p->done_waits ? 0 : go_on(s);
}

/* ---- the final set ----------------------------------------------------------------------------- */

int hf_source_precopy_finish(struct hf_source *s, struct hf_err *err)
{
	struct source_precopy *p = &s->precopy;
	hf_lock(&s->lock);
	bool harvested = p->harvested;
	hf_unlock(&s->lock);
	if (!harvested)
		return 0;
	int result = harvest(s, err);
	if (result < 0)
		return result;
	uint64_t pages;
	hf_lock(&s->lock);
	hf_pagemap_add(&p->remaining, &p->dirtied);
	p->remaining_bytes = measure(s, &p->remaining, &pages);
	if (p->cut_told && p->round_bytes > p->done.moved_bytes)
		p->remaining_bytes += p->round_bytes - p->done.moved_bytes;
	hf_unlock(&s->lock);
	return 0;
}

/* Locked. Is what remains moved within the pause? */
static bool moves_in_pause(const struct hf_source *s)
{
	const struct source_precopy *p = &s->precopy;
	if (p->only)
		return true;
	uint64_t fixed_ns = fixed_part_ns(s, hf_clock_now_ns(&s->clock) - s->stop_ns);
	return p->within_limit && !p->start_postcopy &&
	       hf_convergence_downtime_ns(p->remaining_bytes, p->convergence.safe_rate_bytes_per_s,
					  fixed_ns) <= p->convergence_config.downtime_limit_ns;
}

int hf_source_send_final(struct hf_source *s, uint64_t epoch)
{
	struct source_precopy *p = &s->precopy;
	hf_lock(&s->lock);
	bool spoken = p->spoken;
	struct hf_wire_round_end end = {
	    .round = p->number + 1,
	    .flags = HF_WIRE_ROUND_FINAL | (moves_in_pause(s) ? HF_WIRE_ROUND_WHOLE : 0u),
	};
	bool harvested = p->harvested;
	hf_unlock(&s->lock);
	if (!spoken)
		return 0;
	int result = harvested ? send_set(s, epoch, &p->remaining) : 0;
	if (result == 0)
		send_round_end(s, epoch, &end);
	return result;
}

/* ---- serving and figures ----------------------------------------------------------------------- */

int hf_source_precopy_page(const struct hf_source *s, uint32_t page)
{
	if (!hf_pagemap_test(&s->precopy.round, page))
		return -EPROTO;
	return !hf_pagemap_test(&s->precopy.holes, page);
}

void hf_source_precopy_figures(const struct hf_source *s, struct hf_source_precopy_figures *out)
{
	hf_lock_assert_held(&s->lock);
	const struct source_precopy *p = &s->precopy;
	*out = (struct hf_source_precopy_figures){
	    .wanted = p->wanted,
	    .rounds = p->rounds_done,
	    .moved_bytes = p->moved_bytes,
	    .remaining_bytes = p->remaining_bytes,
	    .dirty_pages_per_s = p->convergence.dirty_pages_per_s,
	    .dirty_bytes_per_s = p->convergence.dirty_bytes_per_s,
	    .rate_bytes_per_s = p->convergence.rate_bytes_per_s,
	    .expected_downtime_ns = p->convergence.rounds ? p->convergence.expected_downtime_ns : UINT64_MAX,
	    .downtime_limit_ns = p->convergence_config.downtime_limit_ns,
	    .limit_bytes_per_s = p->limit_bytes_per_s,
	};
	if (!p->wanted || p->stage != PRECOPY_OVER)
		return;
	out->ended_because =
	    p->start_postcopy ? "postcopy was asked for" : hf_convergence_reason_text(p->convergence.reason);
}
