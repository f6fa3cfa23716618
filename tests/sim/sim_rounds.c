/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounds of pre-copy: the guest of the source, which writes and lets go of memory until it is stopped, the
 * tracking of its writes, what the operator asks for meanwhile, and what must hold.
 *
 * The rules of real tracking that matter are kept. A harvest is destructive and takes its time: a page is
 * looked at, reported and protected at one moment, other pages at others, and the guest goes on between them.
 * It may report more than was written. Whether a page that it reports exists is looked at later than that,
 * and in doubt it does. Reading a hole allocates it. Saving a device writes memory.
 *
 * What the engines say is followed from outside, message by message: sets, rounds, and which page is in them.
 * A page that a harvest has found must be named before the end; one that the destination counts as received
 * when the presence map is whole must hold what the source holds, and a hole must hold zeros.
 */
#include <errno.h>
#include <string.h>

#include "core/convergence.h"
#include "core/destination_internal.h"
#include "core/wire.h"
#include "tests/sim/sim.h"

#define ROUNDS_PERCENT	      40u
#define ROUNDS_SALT	      0x726f756e6473ull
#define CRASH_PERCENT	      20u
#define COMMAND_RETRY_NS      1000u
#define SEVERAL		      3u
#define ZERO_RUN_BYTES	      4096u
#define FAR_LIMIT_BYTES_PER_S 4000000000ull

/* ---- the plan ---------------------------------------------------------------------------------- */

static uint64_t draw_downtime_limit(struct sim *sim)
{
	if (sim_chance(sim, 30))
		return 1; /* nothing but an empty set fits */
	return sim_chance(sim, 25) ? 0 : 1 + sim_random(sim, 60 * sim->plan.delay_max_ns);
}

static uint64_t draw_limit(struct sim *sim)
{
	return 50000000 + sim_random(sim, FAR_LIMIT_BYTES_PER_S);
}

static void draw_rounds(struct sim *sim)
{
	struct sim_plan *plan = &sim->plan;
	if (!sim_chance(sim, ROUNDS_PERCENT))
		return;
	plan->rounds = (struct sim_rounds_plan){
	    .precopy = sim_chance(sim, 70) ? SIM_PRECOPY_HYBRID : SIM_PRECOPY_ONLY,
	    .unknown = sim_chance(sim, 2),
	    .downtime_limit_ns = draw_downtime_limit(sim),
	    .max_bandwidth = sim_chance(sim, 15) ? draw_limit(sim) : 0,
	    .guest_writes = sim_chance(sim, 10) ? 0 : (uint32_t)sim_random(sim, 300),
	    .write_every_ns = 1 + (plan->delay_max_ns << sim_random(sim, 8)) / 16,
	    .hot_pages = 1 + (uint32_t)sim_random(sim, 6),
	    .hot_percent = sim_chance(sim, 50) ? 80 : 10,
	    .punch_percent = sim_chance(sim, 50) ? 20 : 0,
	    .spurious_percent = sim_chance(sim, 30) ? 3 : 0,
	    .doubtful_percent = sim_chance(sim, 30) ? 40 : 0,
	    .postcopy_commands = sim_chance(sim, 40) ? 1 + (uint32_t)sim_random(sim, 2) : 0,
	    .limit_commands = sim_chance(sim, 30) ? 1 + (uint32_t)sim_random(sim, 3) : 0,
	    .commands_last_ns = plan->delay_max_ns << sim_random(sim, 9),
	    .failing_harvest = sim_chance(sim, 4) ? 1 + (uint32_t)sim_random(sim, 8) : 0,
	    .touched_early = sim_chance(sim, 20),
	};
	if (sim_chance(sim, 95)) {
		plan->placement = HF_PLACEMENT_CONTINUE;
		plan->wished = HF_PLACEMENT_CONTINUE;
	}
	/* What is over early teaches nothing about rounds. */
	if (sim_chance(sim, 50))
		plan->fail_prepare = plan->mismatch = false;
}

void sim_rounds_draw(struct sim *sim)
{
	uint64_t random = sim->random;
	sim->random = sim->seed ^ ROUNDS_SALT;
	draw_rounds(sim);
	sim->random = random;
}

bool sim_rounds_cannot_be(const struct sim *sim)
{
	const struct sim_plan *plan = &sim->plan;
	return plan->rounds.precopy != SIM_POSTCOPY_ALONE &&
	       (plan->rounds.unknown || plan->placement == HF_PLACEMENT_COPY);
}

bool sim_rounds_offered(struct sim *sim)
{
	if (sim->plan.rounds.precopy == SIM_POSTCOPY_ALONE || sim->plan.rounds.unknown)
		return false;
	bool offered = sim->epoch == 1 || (sim->seed + sim->epoch) % 2 == 0;
	sim->covered[SIM_ROUNDS_OFFERED_LATER] += sim->epoch > 1 && offered && sim->rounds.final;
	return offered;
}

bool sim_rounds_under_way(const struct sim *sim)
{
	return sim->rounds.told > sim->rounds.heard && !sim->rounds.final;
}

/* ---- the guest --------------------------------------------------------------------------------- */

static void write_page(struct sim *sim, uint32_t page)
{
	struct sim_page *p = &sim->pages[page];
	uint8_t *bytes = sim->source_memory + p->base;
	uint64_t word = sim_random(sim, UINT64_MAX) | 1;
	uint64_t at = sim_random(sim, p->size_bytes / 8) * 8;
	if (sim_chance(sim, 20))
		memset(bytes + at / ZERO_RUN_BYTES * ZERO_RUN_BYTES, 0, ZERO_RUN_BYTES);
	else
		memcpy(bytes + at, &word, sizeof(word));
	sim->covered[SIM_WRITTEN_IN_FLIGHT] += p->fetches > 0 && sim->rounds.open;
	p->written = true;
	p->hole = p->known_hole = false;
}

static void punch_page(struct sim *sim, uint32_t page)
{
	struct sim_page *p = &sim->pages[page];
	memset(sim->source_memory + p->base, 0, p->size_bytes);
	p->written = p->hole = true;
}

static void guest_writes(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	const struct sim_rounds_plan *plan = &sim->plan.rounds;
	if (!sim->source_runs || sim->memory_final || sim->rounds.writes_left == 0)
		return;
	sim->rounds.writes_left--;
	bool hot = sim_chance(sim, plan->hot_percent) && plan->hot_pages < sim->page_count;
	uint32_t page = (uint32_t)sim_random(sim, hot ? plan->hot_pages : sim->page_count);
	/* Under an adapter that has the memory nothing is let go of, or the migration ends (hugemem/). */
	if (sim_chance(sim, plan->punch_percent) && !sim_link_one_sided(sim, 1))
		punch_page(sim, page);
	else
		write_page(sim, page);
	sim_at(sim, sim_random(sim, 2 * plan->write_every_ns), guest_writes, 0, NULL);
}

void sim_rounds_saving(struct sim *sim)
{
	if (sim->plan.rounds.precopy == SIM_POSTCOPY_ALONE || sim->rounds.final || !sim_chance(sim, 50))
		return;
	sim->covered[SIM_SAVE_WROTE] += sim->rounds.told > 0;
	write_page(sim, (uint32_t)sim_random(sim, sim->page_count));
}

/* ---- the source's port ------------------------------------------------------------------------- */

static bool find_written(struct sim *sim, struct sim_page *p)
{
	bool found = p->written || (!p->hole && sim_chance(sim, sim->plan.rounds.spurious_percent));
	p->written = false;
	p->owed |= found;
	return found;
}

static void begin_tracking(struct sim *sim)
{
	for (uint32_t page = 0; page < sim->page_count; page++)
		sim->pages[page].written = !sim->pages[page].hole;
	sim->rounds.writes_left = sim->plan.rounds.guest_writes;
	sim_at(sim, 0, guest_writes, 0, NULL);
}

static int fail_harvest(struct sim *sim, struct hf_err *err)
{
	sim->rounds.harvesting = false;
	sim->covered[sim->memory_final ? SIM_LAST_HARVEST_FAILED : SIM_HARVEST_FAILED]++;
	return hf_err_set(err, HF_ERR_LOCAL, EIO, "the tracking has been lost");
}

int sim_rounds_harvest(struct sim_process *process, uint32_t block, uint8_t *dirtied, uint8_t *holes,
		       struct hf_err *err)
{
	struct sim *sim = process->sim;
	struct sim_page *pages = &sim->pages[sim_page_of(sim, sim->destination_of_source[block], 0)];
	uint32_t count = sim->source_blocks.blocks[block].pages;
	if (process->dead)
		return 0;
	SIM_CHECK(sim, !sim->rounds.harvesting, "two threads harvest at once");
	SIM_CHECK(sim, sim->rounds.heard == sim->rounds.told, "a harvest while a round is under way");
	sim->rounds.harvesting = true;
	if (sim->rounds.harvests++ == 0)
		begin_tracking(sim);
	if (sim_chance(sim, CRASH_PERCENT))
		sim_process_may_crash(process);
	uint32_t pause_at = (uint32_t)sim_random(sim, count);
	for (uint32_t i = 0; i < count; i++) {
		if (i == pause_at)
			sim_others(sim);
		if (find_written(sim, &pages[i]))
			dirtied[i / 8] |= (uint8_t)(1u << i % 8);
	}
	if (sim->rounds.harvests == sim->plan.rounds.failing_harvest)
		return fail_harvest(sim, err);
	sim_others(sim);
	for (uint32_t i = 0; i < count; i++) {
		if (!(dirtied[i / 8] >> i % 8 & 1))
			continue;
		bool doubtful = sim_chance(sim, sim->plan.rounds.doubtful_percent);
		pages[i].known_hole = pages[i].hole && !doubtful;
		if (pages[i].known_hole)
			holes[i / 8] |= (uint8_t)(1u << i % 8);
	}
	sim->rounds.harvesting = false;
	return 0;
}

/* One that has come to be since the harvest, or that the port was in doubt about: it is allocated. */
void sim_rounds_read_hole(struct sim *sim, uint32_t page)
{
	struct sim_page *p = &sim->pages[page];
	SIM_CHECK(sim, sim->rounds.told > 0 && !sim->memory_final && !p->known_hole,
		  "hole %u of the source is touched", page);
	sim->covered[SIM_HOLE_IN_DOUBT]++;
	p->hole = false;
}

/* ---- the operator ------------------------------------------------------------------------------ */

static enum sim_covered postcopy_asked(struct sim *sim)
{
	struct hf_source_snapshot source;
	hf_source_snapshot(sim->source, &source);
	if (sim->rounds.harvests == 0 && source.status <= HF_STATUS_ACTIVE && !source.stopping)
		return SIM_POSTCOPY_ASKED_FIRST;
	if (source.stopping || hf_status_is_final(source.status))
		return SIM_POSTCOPY_ASKED_LATE;
	return sim_rounds_under_way(sim) ? SIM_POSTCOPY_ASKED_IN_ROUND : SIM_POSTCOPY_ASKED_IN_HARVEST;
}

static void ask_for_postcopy(struct sim *sim)
{
	struct hf_err err = HF_ERR_INIT;
	bool only = sim->plan.rounds.precopy == SIM_PRECOPY_ONLY && !sim->side[true]->restarted;
	sim->covered[only ? SIM_POSTCOPY_REFUSED : postcopy_asked(sim)]++;
	sim_log(sim, "the operator asks for postcopy");
	int result = hf_source_start_postcopy(sim->source, &err);
	SIM_CHECK(sim, result == (only ? -EPERM : 0), "postcopy on command: %d %s", result, err.text);
}

static void change_limits(struct sim *sim)
{
	bool none = sim_chance(sim, 30);
	sim_log(sim, "the operator changes limits");
	if (sim_chance(sim, 60)) {
		sim->rounds.limited = true;
		hf_source_limit_rounds(sim->source, none ? 0 : draw_limit(sim));
	} else {
		sim->plan.rounds.downtime_limit_ns = 1 + sim_random(sim, 60 * sim->plan.delay_max_ns);
		hf_source_limit_downtime(sim->source, sim->plan.rounds.downtime_limit_ns);
	}
}

/* One thread does all that the operator asks for. */
static void command(struct sim *sim, uint64_t postcopy, void *data)
{
	(void)data;
	if (!sim->source)
		return;
	if (sim->rounds.commanding) {
		sim_at(sim, COMMAND_RETRY_NS, command, postcopy, NULL);
		return;
	}
	sim->rounds.commanding = true;
	if (postcopy)
		ask_for_postcopy(sim);
	else
		change_limits(sim);
	sim->rounds.commanding = false;
}

void sim_rounds_start(struct sim *sim)
{
	const struct sim_rounds_plan *plan = &sim->plan.rounds;
	sim->rounds.limited = plan->max_bandwidth > 0;
	sim->covered[SIM_ROUNDS_UNKNOWN] += plan->unknown;
	for (uint32_t i = 0; i < plan->postcopy_commands; i++)
		sim_at(sim, sim_random(sim, plan->commands_last_ns), command, true, NULL);
	for (uint32_t i = 0; i < plan->limit_commands; i++)
		sim_at(sim, sim_random(sim, plan->commands_last_ns), command, false, NULL);
}

/* ---- what the source says ---------------------------------------------------------------------- */

static struct hf_wire_round_end decode_end(struct sim *sim, const void *payload, size_t bytes)
{
	struct hf_wire_round_end end;
	struct hf_err err;
	SIM_CHECK(sim, hf_wire_decode_round_end(payload, bytes, &end, &err) == 0, "%s", err.text);
	return end;
}

static void say_piece(struct sim *sim, const void *payload, size_t bytes)
{
	struct hf_wire_presence piece;
	struct hf_err err;
	SIM_CHECK(sim, hf_wire_decode_round(payload, bytes, &piece, &err) == 0, "%s", err.text);
	SIM_CHECK(sim, sim->rounds.told == sim->rounds.heard, "ROUND is said in a round");
	uint32_t first = sim_page_of(sim, sim->destination_of_source[piece.block], piece.first_page);
	for (uint32_t i = 0; i < piece.pages; i++)
		sim->pages[first + i].named |= piece.bits[i / 8] >> i % 8 & 1;
}

static void say_final(struct sim *sim, const struct hf_wire_round_end *end)
{
	struct sim_rounds *rounds = &sim->rounds;
	SIM_CHECK(sim, !rounds->final && rounds->told == rounds->heard, "the final set is said in a round");
	SIM_CHECK(sim, sim->memory_final, "the final set is said while the source VM runs");
	rounds->final = true;
	rounds->whole = (end->flags & HF_WIRE_ROUND_WHOLE) != 0;
	SIM_CHECK(sim, rounds->whole || sim->plan.rounds.precopy != SIM_PRECOPY_ONLY,
		  "postcopy, and it was asked to do without");
	for (uint32_t page = 0; page < sim->page_count; page++)
		SIM_CHECK(sim, sim->pages[page].named || !(sim->pages[page].owed || sim->pages[page].written),
			  "page %u was written and is not in the final set", page);
}

/* The set is whole. */
static void say_set(struct sim *sim, const struct hf_wire_round_end *end)
{
	bool empty = true, left_out = false;
	if (end->flags & HF_WIRE_ROUND_FINAL && sim->rounds.told > 0)
		say_final(sim, end);
	sim->rounds.final |= (end->flags & HF_WIRE_ROUND_FINAL) != 0;
	for (uint32_t page = 0; page < sim->page_count; page++) {
		struct sim_page *p = &sim->pages[page];
		sim->covered[SIM_NAMED_AGAIN] += p->named && p->fetched;
		sim->covered[SIM_HOLE_NAMED] += p->named && p->known_hole;
		p->in_round = p->named;
		p->owed &= !p->named;
		left_out |= p->owed;
		empty &= !p->named;
		p->named = false;
	}
	sim->rounds.told = end->round;
	if (sim->rounds.final)
		return;
	sim->covered[SIM_HOT_LEFT_OUT] += left_out;
	sim->covered[SIM_ROUND_EMPTY] += empty;
	sim->covered[SIM_ROUND_LIMITED] += end->limit_bytes_per_s > 0;
	sim->covered[SIM_ROUNDS_SEVERAL] += end->round >= SEVERAL;
}

static void say_end(struct sim *sim, const void *payload, size_t bytes)
{
	struct hf_wire_round_end end = decode_end(sim, payload, bytes);
	if (end.round == sim->rounds.told + 1)
		say_set(sim, &end);
	else
		SIM_CHECK(sim, end.round == sim->rounds.told && !sim->rounds.final,
			  "ROUND_END %u is said after %u", end.round, sim->rounds.told);
}

static void say_done(struct sim *sim)
{
	const struct hf_destination *d = sim->destination;
	SIM_CHECK(sim, sim->fetches_busy[0] + sim->fetches_busy[1] == 0,
		  "ROUND_DONE is said, and fetches are on their way");
	for (uint32_t page = 0; d && !sim->rounds.cut && page < sim->page_count; page++)
		SIM_CHECK(sim,
			  !sim->pages[page].in_round || hf_pagemap_test(&d->precopy.landed, page) ||
			      d->pages[page].state == PAGE_URGENT_WAIT,
			  "ROUND_DONE is said without page %u", page);
	sim->rounds.open = false;
}

static void say_loaded(struct sim *sim)
{
	const struct hf_destination *d = sim->destination;
	sim->rounds.loaded = true;
	SIM_CHECK(sim, !sim->rounds.whole || !d || d->pages_received == sim->page_count,
		  "LOADED is said with %u pages of %u, and all were to be moved before",
		  d ? d->pages_received : 0, sim->page_count);
}

void sim_rounds_said(struct sim_process *process, uint32_t type, const void *payload, size_t bytes)
{
	struct sim *sim = process->sim;
	if (sim->plan.rounds.precopy == SIM_POSTCOPY_ALONE)
		return;
	if (type == HF_WIRE_ROUND)
		say_piece(sim, payload, bytes);
	else if (type == HF_WIRE_ROUND_END)
		say_end(sim, payload, bytes);
	else if (type == HF_WIRE_ROUND_DONE)
		say_done(sim);
	else if (type == HF_WIRE_LOADED)
		say_loaded(sim);
	if ((type == HF_WIRE_ROUND_END || type == HF_WIRE_ROUND_DONE) && sim_chance(sim, CRASH_PERCENT))
		sim_process_may_crash(process);
}

/* Why the rounds are over. */
void sim_rounds_stopping(struct sim *sim)
{
	static const enum sim_covered covered[] = {
	    [HF_REASON_WITHIN_LIMIT] = SIM_ROUNDS_FIT,
	    [HF_REASON_NOTHING_LEFT] = SIM_ROUNDS_NOTHING_LEFT,
	    [HF_REASON_STALLED] = SIM_ROUNDS_STALLED,
	    [HF_REASON_ALL_HOT] = SIM_ROUNDS_ALL_HOT,
	};
	struct hf_source_snapshot source;
	struct hf_lock_thread caller;
	bool owes = false;
	if (sim->plan.rounds.precopy == SIM_POSTCOPY_ALONE)
		return;
	hf_lock_other_thread_begin(&caller);
	hf_source_snapshot(sim->side[true]->source, &source);
	hf_lock_other_thread_end(&caller);
	SIM_CHECK(sim, sim->rounds.told == sim->rounds.heard, "the source VM is stopped amid a round");
	for (uint32_t page = 0; page < sim->page_count; page++)
		owes |= sim->pages[page].owed;
	SIM_CHECK(sim,
		  sim->plan.rounds.precopy != SIM_PRECOPY_ONLY || !owes ||
		      sim->plan.rounds.downtime_limit_ns != 1,
		  "the source VM is stopped, and nothing fits into so short a pause");
	for (size_t reason = 0; reason < sizeof(covered) / sizeof(covered[0]); reason++)
		if (covered[reason] &&
		    strcmp(source.precopy.ended_because,
			   hf_convergence_reason_text((enum hf_convergence_reason)reason)) == 0)
			sim->covered[covered[reason]]++;
}

/* ---- what the destination hears and does ------------------------------------------------------- */

static void hear_set(struct sim *sim, const struct hf_wire_round_end *end)
{
	sim->rounds.at_destination = end->round;
	sim->rounds.open = !(end->flags & HF_WIRE_ROUND_FINAL);
	sim->rounds.cut = false;
	for (uint32_t page = 0; page < sim->page_count; page++) {
		sim->pages[page].begun = false;
		memcpy(sim->pages[page].wait_posted_bytes, sim->posted_bytes, sizeof(sim->posted_bytes));
	}
	if (!sim->rounds.open)
		return;
	sim->cursor_page = 0;
	sim->faulted = false;
	if (sim->plan.rounds.touched_early)
		for (uint32_t i = sim->plan.vcpus; i < sim->thread_count; i++)
			sim_at(sim, sim_random(sim, 4 * sim->plan.delay_max_ns), sim_thread_access, i, NULL);
}

static void hear_end(struct sim *sim, const struct hf_wire_round_end *end)
{
	struct sim_rounds *rounds = &sim->rounds;
	bool cut = (end->flags & HF_WIRE_ROUND_CUT) != 0;
	if (end->round == rounds->at_destination + 1) {
		hear_set(sim, end);
	} else {
		rounds->cut |= cut && rounds->open;
		sim->covered[cut ? rounds->open ? SIM_ROUND_CUT : SIM_ROUND_CUT_TOO_LATE
				 : SIM_ROUND_CHANGED]++;
	}
	rounds->limit_bytes_per_s = end->limit_bytes_per_s;
	rounds->limit_since_ns = sim->now_ns;
	rounds->limit_posted_bytes = 0;
}

/* The presence map is whole, and nothing is served yet. */
static void check_settled(struct sim *sim, uint32_t page)
{
	const struct hf_destination *d = sim->destination;
	struct sim_page *p = &sim->pages[page];
	bool received = hf_pagemap_test(&d->received, page);
	const uint8_t *landing = sim->alias + p->base, *holds = sim->source_memory + p->base;
	if (!received && !p->hole) {
		sim->covered[SIM_FOUND_STALE] += p->fetched && d->pages[page].state == PAGE_MISSING;
		return;
	}
	SIM_CHECK(sim, memcmp(landing, p->hole ? sim->zeros : holds, p->size_bytes) == 0, "page %u %s", page,
		  p->hole ? "does not exist, and something is left of what was fetched of it"
			  : "counts as received, and was written since");
	sim->covered[SIM_HOLE_AFTER_LANDING] += p->hole && p->fetched;
	sim->covered[SIM_CAME_BEFORE] += received;
	p->came = p->continuable = received;
}

void sim_rounds_hears(struct sim *sim, bool to_source, uint32_t type, const void *payload, size_t bytes)
{
	struct hf_wire_round_done done;
	struct hf_wire_round_end end;
	if (type == HF_WIRE_ROUND_END) {
		end = decode_end(sim, payload, bytes);
		hear_end(sim, &end);
	} else if (type == HF_WIRE_ROUND_DONE &&
		   hf_wire_decode_round_done(payload, bytes, &done, NULL) == 0) {
		sim->rounds.heard = done.round;
	} else if (type == HF_WIRE_DEVICE_END) {
		const struct hf_destination *d = sim->destination;
		sim->rounds.device_ended |= d->status == HF_STATUS_ACTIVE;
		bool rounds = sim->rounds.device_ended && d->precopy.spoken;
		for (uint32_t page = 0; rounds && page < sim->page_count; page++)
			check_settled(sim, page);
	} else if (type == HF_WIRE_FAIL && to_source && sim->plan.placement == HF_PLACEMENT_COPY) {
		sim->covered[SIM_ROUNDS_REFUSED] += sim->plan.rounds.precopy != SIM_POSTCOPY_ALONE;
	}
}

static void check_limit(struct sim *sim, const struct hf_fetch *fetch)
{
	struct sim_rounds *rounds = &sim->rounds;
	uint64_t chunk = fetch->length_bytes, limit = rounds->limit_bytes_per_s;
	uint64_t allowed =
	    (uint64_t)((unsigned __int128)limit *
		       (sim->now_ns - rounds->limit_since_ns + HF_LIMITER_BURST_NS) / 1000000000) +
	    chunk;
	/* Threads may have decided on as many fetches before they heard. */
	if (sim->plan.nested_percent > 0)
		allowed += sim->plan.capacity[HF_FETCH_BACKGROUND] * chunk;
	SIM_CHECK(sim, limit == 0 || rounds->limit_posted_bytes + chunk <= allowed,
		  "more bytes are asked for in a round than its limit allows");
	rounds->limit_posted_bytes += chunk;
}

void sim_rounds_fetch(struct sim *sim, const struct hf_fetch *fetch, uint32_t page)
{
	const struct sim_page *p = &sim->pages[page];
	if (sim->plan.rounds.precopy == SIM_POSTCOPY_ALONE)
		return;
	if (sim->rounds.device_ended) {
		SIM_CHECK(sim, !p->came, "page %u came in a round and is fetched again", page);
		SIM_CHECK(sim, !sim->rounds.whole || !sim->rounds.loaded,
			  "page %u is fetched after LOADED, and all were to be moved before", page);
		sim->covered[SIM_WHOLE_WAITED] += sim->rounds.whole;
		sim->covered[SIM_POSTCOPY_AFTER_ROUNDS] += !sim->rounds.whole && sim->rounds.told > 1;
		return;
	}
	SIM_CHECK(sim, sim->rounds.open, "page %u is fetched before DEVICE_END, and in no round", page);
	SIM_CHECK(sim, p->in_round, "page %u is fetched in a round that it is not of", page);
	SIM_CHECK(sim, !hf_pagemap_test(&sim->destination->precopy.landed, page),
		  "page %u has landed in this round and is fetched again", page);
	SIM_CHECK(sim, !sim->rounds.cut || sim->plan.nested_percent > 0,
		  "page %u is fetched in a round that was cut", page);
	check_limit(sim, fetch);
}

/* ---- what happened ----------------------------------------------------------------------------- */

void sim_rounds_crashed(struct sim *sim, const struct sim_process *process)
{
	if (!process->is_source)
		sim->covered[SIM_DESTINATION_CRASHED_IN_ROUND] += sim->rounds.open;
	else if (sim->rounds.harvesting)
		sim->covered[SIM_SOURCE_CRASHED_IN_HARVEST]++;
	else
		sim->covered[SIM_SOURCE_CRASHED_IN_ROUND] += sim_rounds_under_way(sim);
	sim->covered[SIM_CRASHED_AFTER_ROUNDS] += sim->rounds.told > 1 && sim->rounds.device_ended;
}

void sim_rounds_completed(struct sim *sim, const struct hf_destination_snapshot *destination)
{
	bool fits_no_more = sim->rounds.final && !sim->rounds.whole && sim->covered[SIM_ROUNDS_FIT] > 0;
	sim->covered[SIM_COMPLETED_WHOLE] += sim->rounds.whole;
	sim->covered[SIM_ROUNDS_FIT_NO_MORE] += fits_no_more;
	/* A destination that knows no rounds will do if postcopy was asked for before the first. */
	if (sim->plan.rounds.precopy == SIM_POSTCOPY_ALONE || sim->plan.rounds.unknown ||
	    sim->side[false]->restarted)
		return;
	SIM_CHECK(sim, sim->rounds.final && destination->precopy_rounds + 1 == sim->rounds.told,
		  "completed after %u rounds, and %u were told", destination->precopy_rounds,
		  sim->rounds.told);
}
