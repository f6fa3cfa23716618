/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must hold, looked at from outside after each step and at each fetch. The promises of core/schedule.c
 * are recomputed here from the fetches the link has seen, not from the scheduler's own figures.
 *
 * Where other threads run inside port calls the order of fetches on the link is not the order they were
 * decided in; the promises about that order are looked at in the runs without (plan.nested_percent 0).
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/destination_internal.h"
#include "tests/sim/sim.h"

static bool in_order(const struct sim *sim)
{
	return sim->plan.nested_percent == 0;
}

static int64_t chunk_parts(const struct sim *sim)
{
	return (int64_t)sim->plan.chunk_bytes * (100 - sim->plan.share_percent);
}

/* ---- who waits, and what the background posts meanwhile ---- */

/* FIRST has named the page that is being fetched. */
static bool is_named(const struct sim *sim, uint32_t page)
{
	const struct hf_destination *d = sim->destination;
	return d->pages[page].state == PAGE_FETCHING && d->transfers[d->pages[page].transfer].named;
}

void sim_rules_fault(struct sim *sim, uint32_t page, uint32_t thread_id, uint64_t arrived_ns)
{
	const struct hf_destination *d = sim->destination;
	struct sim_page *p = &sim->pages[page];
	if (!d->pages[page].awaited)
		memcpy(p->wait_posted_bytes, sim->posted_bytes, sizeof(p->wait_posted_bytes));
	sim->covered[SIM_FAULT_IN_ROUND] += sim->rounds.open;
	if (!d->releasing) {
		sim->cursor_page = page + 1;
		sim->faulted = true;
	}
	if (d->pages[page].state == PAGE_FETCHING && p->fetches > 0 &&
	    d->transfers[d->pages[page].transfer].class == HF_FETCH_BACKGROUND &&
	    d->transfers[d->pages[page].transfer].chunks_posted <
		d->transfers[d->pages[page].transfer].chunks)
		sim->covered[SIM_PROMOTED_AMID]++;
	sim->covered[SIM_NAMED_FAULTED] += is_named(sim, page);
	hf_destination_fault(sim->destination, p->block, p->offset_bytes / p->size_bytes, thread_id,
			     arrived_ns);
}

void sim_rules_link_up(struct sim *sim)
{
	sim->behind_parts = sim->behind_min_parts = 0;
	for (uint32_t page = 0; page < sim->page_count; page++) {
		memcpy(sim->pages[page].wait_posted_bytes, sim->posted_bytes, sizeof(sim->posted_bytes));
		sim->pages[page].begun &= sim->destination->pages[page].state == PAGE_FETCHING;
	}
}

/* Memory with one landing: whoever waits for it needs the background to finish first. */
static bool one_landing(const struct sim *sim)
{
	return sim->plan.placement == HF_PLACEMENT_COPY && sim->plan.slots == 1;
}

/* Nobody who waits sees more background than its share and two chunks. */
static void check_delay(struct sim *sim)
{
	const struct hf_destination *d = sim->destination;
	int64_t most = 2 * chunk_parts(sim);
	for (uint32_t page = 0; page < sim->page_count; page++) {
		if (!d->pages[page].awaited)
			continue;
		const uint64_t *before = sim->pages[page].wait_posted_bytes;
		int64_t urgent = (int64_t)(sim->posted_bytes[HF_FETCH_URGENT] - before[HF_FETCH_URGENT]);
		int64_t background =
		    (int64_t)(sim->posted_bytes[HF_FETCH_BACKGROUND] - before[HF_FETCH_BACKGROUND]);
		SIM_CHECK(sim,
			  background * (100 - (int64_t)sim->plan.share_percent) <=
			      urgent * sim->plan.share_percent + most,
			  "page %u is waited for, and the background posts %" PRId64 " bytes beside %" PRId64
			  " urgent ones",
			  page, background, urgent);
	}
}

static void check_window(struct sim *sim)
{
	const struct hf_schedule *schedule = &sim->destination->schedule;
	uint64_t background = schedule->outstanding_bytes[HF_FETCH_BACKGROUND];
	uint64_t beside = schedule->outstanding_bytes[HF_FETCH_URGENT] * sim->plan.share_percent /
			  (100 - sim->plan.share_percent);
	SIM_CHECK(
	    sim, background <= schedule->window_bytes + beside || sim->fetches_busy[HF_FETCH_BACKGROUND] == 0,
	    "%" PRIu64 " background bytes are outstanding, the window is %" PRIu64 " and %" PRIu64,
	    background, schedule->window_bytes, beside);
}

/* The next page is the first missing one behind the last fault, or behind the last one begun. */
static void check_scan(struct sim *sim, uint32_t page)
{
	const struct hf_destination *d = sim->destination;
	uint32_t from = sim->cursor_page;
	for (uint32_t i = 0; i < sim->page_count; i++) {
		uint32_t passed = (from + i) % sim->page_count;
		if (passed == page)
			break;
		SIM_CHECK(sim, !hf_pagemap_test(&d->todo_fetch, passed),
			  "the background begins page %u and passes page %u, coming from %u", page, passed,
			  from);
	}
	sim->covered[SIM_SCAN_WRAPPED] += page < from && from < sim->page_count;
	sim->covered[SIM_SCAN_RESTARTED] += sim->faulted;
	sim->cursor_page = page + 1;
	sim->faulted = false;
}

static void catch_up(struct sim *sim, const struct hf_fetch *fetch)
{
	sim->behind_parts -= (int64_t)fetch->length_bytes * (100 - sim->plan.share_percent);
	if (sim->behind_parts < sim->behind_min_parts)
		sim->behind_min_parts = sim->behind_parts;
}

/* Until the VM runs nobody holds what the next to wait will wait for. */
static void named_posted(struct sim *sim, const struct hf_fetch *fetch)
{
	catch_up(sim, fetch);
	sim->covered[SIM_NAMED_AMID_WAIT] += sim->destination->schedule.urgent_pages > 0;
	if (in_order(sim))
		check_window(sim);
}

static void background_posted(struct sim *sim, const struct hf_fetch *fetch)
{
	const struct hf_destination *d = sim->destination;
	sim->posted_bytes[HF_FETCH_BACKGROUND] += fetch->length_bytes;
	catch_up(sim, fetch);
	sim->covered[SIM_SHARE_HAD_IN_HOLD] += d->schedule.urgent_pages > 0;
	if (!in_order(sim))
		return;
	if (!one_landing(sim) && !hf_destination_in_round(d))
		check_delay(sim);
	check_window(sim);
}

void sim_rules_posting(struct sim *sim, const struct hf_fetch *fetch, uint32_t page)
{
	if (!in_order(sim) || fetch->class != HF_FETCH_BACKGROUND || sim->pages[page].begun)
		return;
	sim->pages[page].begun = true;
	if (is_named(sim, page)) {
		sim->covered[SIM_NAMED_ASKED]++;
		sim->covered[SIM_NAMED_AFTER_RESUMED] += sim->destination->resumed;
		return;
	}
	check_scan(sim, page);
}

/* ---- placing ---- */

void sim_rules_made_visible(struct sim *sim, uint32_t page)
{
	if (sim->pages[page].was_visible)
		return;
	bool received = hf_pagemap_test(&sim->destination->received, page);
	bool by_continue = sim->plan.placement == HF_PLACEMENT_CONTINUE;
	SIM_CHECK(sim, received == by_continue, "page %u is placed by %s %s its received bit is set", page,
		  by_continue ? "continue" : "copy", by_continue ? "before" : "after");
	sim->covered[by_continue ? SIM_PLACED_BY_CONTINUE : SIM_PLACED_BY_COPY]++;
}

/* ---- between steps: nobody is inside the engine ---- */

static bool posting(const struct hf_destination *d)
{
	bool due =
	    hf_destination_serving(d) || (d->precopy.state == ROUND_RUNS && d->status == HF_STATUS_ACTIVE);
	return due && d->epoch != 0 && d->fetching && !d->fetch_broken && d->transfers;
}

static bool class_full(const struct sim *sim, enum hf_fetch_class class)
{
	bool refused = in_order(sim) ? sim->refused[class] : sim->destination->refused[class];
	return refused || sim->fetches_busy[class] >= sim->plan.capacity[class];
}

static bool background_has_pages(const struct hf_destination *d)
{
	return hf_pagemap_next_set(&d->todo_fetch, 0) != HF_PAGE_NONE;
}

/* Has it a chunk it could post, were it allowed to? */
static bool background_ready(const struct sim *sim)
{
	const struct hf_destination *d = sim->destination;
	if (!hf_destination_background_runs(d) || class_full(sim, HF_FETCH_BACKGROUND))
		return false;
	return d->active[HF_FETCH_BACKGROUND].head != HF_TRANSFER_NONE ||
	       (background_has_pages(d) && d->transfers_free != HF_TRANSFER_NONE &&
		d->transfers_background < d->background_transfers_max);
}

void sim_rules_posted(struct sim *sim, const struct hf_fetch *fetch, uint32_t page)
{
	struct hf_destination *d = sim->destination;
	if (fetch->class == HF_FETCH_BACKGROUND && !d->resumed && is_named(sim, page)) {
		named_posted(sim, fetch);
		return;
	}
	if (fetch->class == HF_FETCH_BACKGROUND) {
		background_posted(sim, fetch);
		return;
	}
	sim->posted_bytes[HF_FETCH_URGENT] += fetch->length_bytes;
	sim->behind_parts += (int64_t)fetch->length_bytes * sim->plan.share_percent;
	hf_lock(&d->lock);
	if (!background_ready(sim) || !hf_schedule_background_room(&d->schedule))
		sim->behind_min_parts = sim->behind_parts; /* it could not have gone first */
	hf_unlock(&d->lock);
}

static void check_urgent_goes(struct sim *sim)
{
	const struct hf_destination *d = sim->destination;
	if (class_full(sim, HF_FETCH_URGENT)) {
		sim->covered[SIM_ALL_URGENT_ROOM_USED] += d->active[HF_FETCH_URGENT].head != HF_TRANSFER_NONE;
		return;
	}
	SIM_CHECK(sim, d->active[HF_FETCH_URGENT].head == HF_TRANSFER_NONE,
		  "an urgent channel has room, and chunks of page %u are not posted",
		  d->transfers[d->active[HF_FETCH_URGENT].head].page);
	if (d->urgent_wait.head == HF_PAGE_NONE || d->transfers_free == HF_TRANSFER_NONE)
		return;
	uint32_t fetching = 0, free = d->transfers_count - d->transfers_of[0] - d->transfers_of[1];
	for (uint32_t page = 0; page < sim->page_count; page++)
		fetching += d->pages[page].state == PAGE_FETCHING &&
			    d->transfers[d->pages[page].transfer].class == HF_FETCH_URGENT;
	bool wanted = hf_destination_background_runs(d) && background_has_pages(d);
	uint32_t kept = d->background_transfers_kept;
	uint32_t lacking = kept > d->transfers_background ? kept - d->transfers_background : 0;
	SIM_CHECK(sim, wanted && free <= lacking && fetching > 0,
		  "page %u is waited for, and a landing for it is free", d->urgent_wait.head);
}

static void check_background_goes(struct sim *sim)
{
	const struct hf_destination *d = sim->destination;
	bool ready = background_ready(sim), room = hf_schedule_background_room(&d->schedule);
	/* In a round nobody can be served, so it waits for nobody; but it may have a limit. */
	if (d->schedule.urgent_pages == 0 || hf_destination_in_round(d)) {
		bool limited = hf_destination_in_round(d) && sim->rounds.limited;
		SIM_CHECK(sim, !ready || !room || limited, "nobody waits, and the background stands still");
		return;
	}
	sim->covered[SIM_HELD_DUE_WITHOUT_ROOM] += ready && !room && hf_schedule_background_due(&d->schedule);
	if (!in_order(sim))
		return;
	/* Over any stretch in which it could post it has its share, less one chunk. */
	if (ready && room) {
		sim->covered[SIM_SHARE_HELD_TO]++;
		SIM_CHECK(sim, sim->behind_parts - sim->behind_min_parts < chunk_parts(sim),
			  "the background is %" PRId64 " bytes behind its share",
			  (sim->behind_parts - sim->behind_min_parts) /
			      (100 - (int64_t)sim->plan.share_percent));
	} else {
		sim->behind_min_parts = sim->behind_parts;
	}
}

static void check_counts(struct sim *sim)
{
	const struct hf_destination *d = sim->destination;
	for (int class = 0; class < HF_FETCH_CLASSES; class ++) {
		SIM_CHECK(sim, d->outstanding[class] == sim->fetches_busy[class] || d->epoch == 0,
			  "%u fetches of class %d are on their way, the engine thinks %u",
			  sim->fetches_busy[class], class, d->outstanding[class]);
		SIM_CHECK(sim, !d->refused[class] || d->outstanding[0] + d->outstanding[1] > 0,
			  "the link refused a fetch, and nothing will come that could try it again");
	}
}

/* ---- every page, now and then ---- */

static void check_page_state(struct sim *sim, uint32_t page)
{
	const struct hf_destination *d = sim->destination;
	const struct page_entry *entry = &d->pages[page];
	const struct sim_page *p = &sim->pages[page];
	bool received = hf_pagemap_test(&d->received, page);
	bool todo = hf_pagemap_test(&d->todo_fetch, page) || hf_pagemap_test(&d->todo_zero, page);

	/* What is left of a round may stand there until the next set. */
	bool must = entry->state == PAGE_MISSING && d->presence_complete;
	bool may = must || (entry->state == PAGE_MISSING && d->precopy.spoken);
	SIM_CHECK(sim, todo ? may : !must, "page %u in state %u is %s the background's hands", page,
		  entry->state, todo ? "in" : "out of");
	bool visible = p->was_visible && !p->orphan;
	SIM_CHECK(sim, !visible || received, "page %u is visible without its received bit", page);
	switch ((enum page_state)entry->state) {
	case PAGE_MISSING:
	case PAGE_URGENT_WAIT:
		SIM_CHECK(sim, p->fetches == 0 && entry->transfer == HF_TRANSFER_NONE,
			  "page %u has fetches and no transfer", page);
		SIM_CHECK(sim, !received && !visible, "page %u is received and not known to be", page);
		break;
	case PAGE_FETCHING:
		SIM_CHECK(sim, d->transfers && d->transfers[entry->transfer].page == page,
			  "page %u has another's transfer", page);
		SIM_CHECK(sim, !received && !visible, "page %u is received and fetched", page);
		break;
	case PAGE_RECEIVED:
		SIM_CHECK(sim, received && !entry->awaited, "page %u counts as received, and is not", page);
		SIM_CHECK(sim, p->was_visible || p->continuable || !sim->rounds.device_ended,
			  "page %u counts as received and is not visible", page);
		break;
	case PAGE_PLACING:
	case PAGE_LOCAL_WAIT:
	case PAGE_LOCAL_PLACING:
		SIM_CHECK(sim, p->fetches == 0 && !entry->awaited,
			  "page %u has all its bytes and is waited for on the link", page);
		break;
	}
}

/* A thread whose fault was heard waits for a page that is on its way to it, ahead of the background. */
static void check_thread(struct sim *sim, uint32_t thread)
{
	const struct sim_thread *t = &sim->threads[thread];
	if (t->state != SIM_BLOCKED || !t->message_sent || sim->destination->releasing || !sim->vmm_lives)
		return;
	const struct hf_destination *d = sim->destination;
	const struct page_entry *entry = &d->pages[t->page];
	bool on_the_link = entry->state == PAGE_FETCHING || entry->state == PAGE_URGENT_WAIT;
	if (hf_destination_in_round(d) && entry->state == PAGE_FETCHING && entry->refault)
		return; /* it comes again after the rounds */
	SIM_CHECK(sim, entry->state != PAGE_MISSING && (!on_the_link || entry->awaited),
		  "thread %u waits for page %u, and it comes as if nobody did", thread, t->page);
	SIM_CHECK(sim,
		  entry->state != PAGE_FETCHING ||
		      (d->transfers && d->transfers[entry->transfer].class == HF_FETCH_URGENT),
		  "thread %u waits for page %u, and the rest of it is the background's", thread, t->page);
}

static void sweep(struct sim *sim)
{
	const struct hf_destination *d = sim->destination;
	for (uint32_t i = 0; i < sim->thread_count; i++)
		check_thread(sim, i);
	uint32_t awaited = 0, with_transfer = 0;
	uint64_t outstanding[HF_FETCH_CLASSES] = {0};
	for (uint32_t page = 0; page < sim->page_count; page++) {
		check_page_state(sim, page);
		awaited += d->pages[page].awaited;
		with_transfer += d->pages[page].transfer != HF_TRANSFER_NONE;
	}
	for (uint32_t i = 0; i < d->slots_count; i++)
		if (d->slots[i].busy)
			outstanding[d->slots[i].chunk.class] += d->slots[i].chunk.length_bytes;
	SIM_CHECK(sim, awaited == d->schedule.urgent_pages, "%u pages are waited for, the engine thinks %u",
		  awaited, d->schedule.urgent_pages);
	SIM_CHECK(sim, with_transfer == d->transfers_of[0] + d->transfers_of[1],
		  "%u pages have a transfer, the engine thinks %u and %u", with_transfer, d->transfers_of[0],
		  d->transfers_of[1]);
	SIM_CHECK(sim, memcmp(outstanding, d->schedule.outstanding_bytes, sizeof(outstanding)) == 0,
		  "the scheduler has lost count of what is outstanding");
}

void sim_rules_step(struct sim *sim)
{
	struct hf_destination *d = sim->destination;
	if (!d)
		return;
	hf_lock(&d->lock);
	check_counts(sim);
	if (posting(d)) {
		if (!hf_destination_in_round(d))
			check_urgent_goes(sim);
		check_background_goes(sim);
	}
	if (sim->events_run % SIM_SWEEP_STEPS == 0)
		sweep(sim);
	hf_unlock(&d->lock);
}

/* ---- what happened ---- */

static const char *const covered_names[SIM_COVERED_COUNT] = {
    [SIM_COMPLETED] = "completed",
    [SIM_PAUSED] = "paused",
    [SIM_FAILED_EARLY] = "failed before the hand-over",
    [SIM_CUT_AMID_FETCHES] = "link cut amid fetches",
    [SIM_PLACED_BY_COPY] = "placed by copy",
    [SIM_PLACED_BY_CONTINUE] = "placed by continue",
    [SIM_ONE_LANDING] = "one landing for all",
    [SIM_PAGE_SIZES_MIXED] = "blocks of several page sizes",
    [SIM_PAGE_OF_MANY_CHUNKS] = "pages of 64 chunks and more",
    [SIM_ALL_URGENT_ROOM_USED] = "an urgent page fills every urgent channel",
    [SIM_PROMOTED_AMID] = "a fault in the middle of a background page",
    [SIM_SHARE_HAD_IN_HOLD] = "the background had its share while somebody waited",
    [SIM_HELD_DUE_WITHOUT_ROOM] = "the background's share was due and found no room",
    [SIM_SHARE_HELD_TO] = "the share was held to, to the chunk",
    [SIM_SCAN_RESTARTED] = "the scan restarted behind a fault",
    [SIM_SCAN_WRAPPED] = "the scan wrapped around",
    [SIM_SHORT_WINDOW] = "room for two background chunks or one",
    [SIM_REFUSED_URGENT] = "the link had no room for an urgent chunk",
    [SIM_REFUSED_BACKGROUND] = "the link had no room for a background chunk",
    [SIM_POOL_DRY] = "the pool ran dry",
    [SIM_KEPT_PAGE_PLACED] = "a page kept for want of a huge page was placed",
    [SIM_DISCARDED] = "the VMM discarded pages",
    [SIM_PLACED_AGAIN] = "a fault on a received page",
    [SIM_DISCARDED_AFTER_DRY] = "a discarded page waited for a huge page",
    [SIM_DONE_REPEATED] = "a done told twice",
    [SIM_DONE_AFTER_LINK_DOWN] = "a done after the link went down",
    [SIM_DONE_MADE_UP] = "a done of a fetch there never was",
    [SIM_FAULT_REPEATED] = "a fault told twice",
    [SIM_FAULT_AMID_PLACING] = "a fault on a page that is being placed, discarded already",
    [SIM_FAULT_BEFORE_MAP] = "a fault before the presence map was whole",
    [SIM_NAMED_ASKED] = "a page that loading will touch was asked for before",
    [SIM_NAMED_AMID_WAIT] = "and while another one was waited for",
    [SIM_NAMED_FAULTED] = "a fault on one that was under way",
    [SIM_NAMED_AFTER_RESUMED] = "and one was left when the VM ran",
    [SIM_FAULT_AFTER_RELEASE] = "a fault after the release",
    [SIM_HOSTILE_BEFORE_HAND_OVER] = "garbage before LOADED",
    [SIM_HOSTILE_AFTER_HAND_OVER] = "garbage after LOADED",
    [SIM_HOSTILE_TO_SOURCE] = "garbage to the source",
    [SIM_LINK_MEASURED] = "the link was measured",
    [SIM_CUT_WHILE_MEASURED] = "link cut while it was measured",
    [SIM_WITHOUT_RECOVER] = "a peer that cannot go on over another link",
    [SIM_LINK_AGAIN] = "a later link came up",
    [SIM_LINK_AGAIN_TWICE] = "and one after that",
    [SIM_HELD_UP_OVER_LINKS] = "a thread was held up until another link was up",
    [SIM_CUT_BEFORE_RUN] = "a later link cut before RUN was heard",
    [SIM_CUT_BEFORE_ANSWER] = "a later link cut between RUN and RESUMED",
    [SIM_HEARD_AFTER_CUT] = "a message heard after the link was cut",
    [SIM_ONE_SIDE_LATE] = "a cut that one side notices late",
    [SIM_STALE_MESSAGE] = "a message of an older link",
    [SIM_STALE_LINK_DOWN] = "the end of an older link told again on a later one",
    [SIM_DOUBT_ENDED] = "a destination in doubt heard FAIL",
    [SIM_COMPLETED_AFTER_LINKS] = "completed over a later link",
    [SIM_COMPLETE_SAID_AGAIN] = "COMPLETE said again over a later link",
    [SIM_LET_GO] = "the destination let go",
    [SIM_PAUSED_BY_COMMAND] = "paused by command",
    [SIM_RECOVER_SETUP] = "somebody looked for a link",
    [SIM_SOURCE_CRASHED] = "the source crashed before it gave the VM up",
    [SIM_SOURCE_CRASHED_RECORDING] = "the source crashed while a record was written",
    [SIM_SOURCE_CRASHED_GIVEN_UP] = "the source crashed after it gave the VM up",
    [SIM_GUARDIAN_RESUMED] = "the guardian ran the source VM",
    [SIM_DESTINATION_CRASHED_LOADED] = "the destination crashed with LOADED on record",
    [SIM_DESTINATION_CRASHED_RUNNING] = "the destination crashed with RUNNING on record",
    [SIM_DESTINATION_CRASHED_RECORDING] = "the destination crashed while a record was written",
    [SIM_CRASHED_IN_A_CALL] = "a process crashed inside a call of a port",
    [SIM_CRASHED_AMID_FETCHES] = "the destination crashed amid fetches",
    [SIM_CRASHED_BEFORE_BIT] = "it crashed between COPY and the received bit",
    [SIM_CRASHED_BEFORE_CONTINUE] = "it crashed between the received bit and CONTINUE",
    [SIM_CRASHED_AFTER_RELEASE] = "it crashed after the release",
    [SIM_FAULT_RAISED_AGAIN] = "a fault raised again for the next process",
    [SIM_COMPLETED_AFTER_CRASH] = "completed after a crash",
    [SIM_GIVEN_UP_FAILED] = "GIVEN_UP could not be written",
    [SIM_TAKEN_BACK_FAILED] = "TAKEN_BACK could not be written",
    [SIM_LOADED_FAILED] = "LOADED could not be written",
    [SIM_RUNNING_FAILED] = "RUNNING could not be written",
    [SIM_REFUSED_FAILED] = "REFUSED could not be written",
    [SIM_REVIVED] = "another client had run the source VM",
    [SIM_HANDED_BACK] = "the VM was handed back",
    [SIM_VMM_DIED_LOADED] = "the destination's VMM ended with LOADED on record",
    [SIM_LOST] = "the VM was lost",
    [SIM_ROUNDS_SEVERAL] = "three rounds and more",
    [SIM_ROUND_EMPTY] = "a round of no page",
    [SIM_NAMED_AGAIN] = "a page written again after a round had fetched it",
    [SIM_WRITTEN_IN_FLIGHT] = "a page written while a round fetched it",
    [SIM_HOLE_NAMED] = "a hole in a set",
    [SIM_HOLE_IN_DOUBT] = "a hole read in a round, since nobody could know",
    [SIM_HOLE_AFTER_LANDING] = "a hole at the end, of which something had come",
    [SIM_HOT_LEFT_OUT] = "pages left out of a round",
    [SIM_SAVE_WROTE] = "a device wrote memory when it was saved",
    [SIM_FOUND_STALE] = "a page that had come was stale in the end",
    [SIM_CAME_BEFORE] = "a page that had come was received in the end",
    [SIM_ROUNDS_NOTHING_LEFT] = "rounds ended with nothing left",
    [SIM_ROUNDS_FIT] = "rounds ended when the rest fitted into the pause",
    [SIM_ROUNDS_FIT_NO_MORE] = "and then it no longer did",
    [SIM_ROUNDS_STALLED] = "rounds ended since the dirty set shrank no more",
    [SIM_ROUNDS_ALL_HOT] = "rounds ended with hot pages alone",
    [SIM_WHOLE_WAITED] = "pages moved within the pause",
    [SIM_COMPLETED_WHOLE] = "completed without postcopy",
    [SIM_POSTCOPY_AFTER_ROUNDS] = "pages moved by postcopy after rounds",
    [SIM_POSTCOPY_ASKED_FIRST] = "postcopy asked for before the rounds",
    [SIM_POSTCOPY_ASKED_IN_HARVEST] = "postcopy asked for during a harvest",
    [SIM_POSTCOPY_ASKED_IN_ROUND] = "postcopy asked for in a round",
    [SIM_POSTCOPY_ASKED_LATE] = "postcopy asked for after the rounds",
    [SIM_POSTCOPY_REFUSED] = "postcopy asked for where there is none",
    [SIM_ROUND_CUT] = "a round cut by command",
    [SIM_ROUND_CUT_TOO_LATE] = "a command to cut that crossed ROUND_DONE",
    [SIM_ROUND_CHANGED] = "a limit changed in a round",
    [SIM_ROUND_LIMITED] = "a round with a limit",
    [SIM_DONE_OF_OLDER_ROUND] = "a done of an older round told again",
    [SIM_FAULT_IN_ROUND] = "a fault in a round",
    [SIM_LINK_CUT_IN_ROUND] = "link cut in a round",
    [SIM_CANCELLED_IN_ROUND] = "cancelled in a round",
    [SIM_SOURCE_CRASHED_IN_ROUND] = "the source crashed in a round",
    [SIM_SOURCE_CRASHED_IN_HARVEST] = "the source crashed in a harvest",
    [SIM_DESTINATION_CRASHED_IN_ROUND] = "the destination crashed in a round",
    [SIM_CRASHED_AFTER_ROUNDS] = "a process crashed after rounds",
    [SIM_HARVEST_FAILED] = "a harvest failed",
    [SIM_LAST_HARVEST_FAILED] = "the last harvest failed",
    [SIM_ROUNDS_REFUSED] = "a destination that copies refused rounds",
    [SIM_ROUNDS_UNKNOWN] = "a destination that knows no rounds",
    [SIM_ROUNDS_OFFERED_LATER] = "a later link offered rounds again",
    [SIM_ONE_SIDED] = "memory was read that the source was not asked for",
    [SIM_ONE_SIDED_ROUND] = "and in a round",
    [SIM_ONE_SIDED_CHANGED] = "a later link read in the other way",
};

void sim_rules_print(const struct sim *totals)
{
	for (int i = 0; i < SIM_COVERED_COUNT; i++)
		printf("%8" PRIu64 " seeds: %s\n", totals->covered[i], covered_names[i]);
}

bool sim_rules_all_covered(const struct sim *totals)
{
	bool all = true;
	for (int i = 0; i < SIM_COVERED_COUNT; i++) {
		if (totals->covered[i] == 0)
			fprintf(stderr, "never happened: %s\n", covered_names[i]);
		all &= totals->covered[i] > 0;
	}
	return all;
}
