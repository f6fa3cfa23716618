/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs do around the engines: they close a link that is of no use any more, the source's
 * connects again while there is somebody to talk to, and the destination's lets go when the source will never
 * hear that every page has come.
 */
#include "core/wire.h"
#include "tests/sim/sim.h"

#define CLOSE_DELAY_NS	 50000u
#define CONNECT_DELAY_NS 100000u
#define LET_GO_DELAY_NS	 500000u

static bool is_paused(enum hf_status status)
{
	return status == HF_STATUS_POSTCOPY_PAUSED || status == HF_STATUS_POSTCOPY_RECOVER_SETUP;
}

/* ---- closing ---- */

static bool source_is_done(const struct hf_source_snapshot *source)
{
	return is_paused(source->status) ||
	       (hf_status_is_final(source->status) && source->status != HF_STATUS_COMPLETED &&
		!source->destination_in_doubt);
}

static bool destination_is_done(const struct hf_destination_snapshot *destination)
{
	return is_paused(destination->status) || destination->status == HF_STATUS_FAILED ||
	       destination->status == HF_STATUS_CANCELLED;
}

static void close_useless(struct sim *sim)
{
	struct hf_source_snapshot source = {0};
	struct hf_destination_snapshot destination = {0};
	if (sim->source)
		hf_source_snapshot(sim->source, &source);
	if (sim->destination)
		hf_destination_snapshot(sim->destination, &destination);
	bool useless = (sim->ends[true].up && source_is_done(&source)) ||
		       (sim->ends[false].up && destination_is_done(&destination));
	if (!useless || sim->closing)
		return;
	sim->closing = true;
	sim_at(sim, sim_random(sim, CLOSE_DELAY_NS), sim_link_cut, 0, (void *)(uintptr_t)sim->epoch);
}

/* ---- connecting again ---- */

enum wish { WISH_NONE, WISH_LATER, WISH_NOW };

/* Is there, or will there be, a source that has something to say? */
static enum wish source_connects(struct sim *sim)
{
	struct hf_source_snapshot source;
	if (!sim->source)
		return sim->gone[true] ? WISH_NONE : WISH_LATER;
	hf_source_snapshot(sim->source, &source);
	if (!source.recoverable)
		return WISH_NONE;
	return is_paused(source.status) || source.destination_in_doubt ? WISH_NOW : WISH_NONE;
}

static enum wish destination_listens(struct sim *sim)
{
	struct hf_destination_snapshot destination;
	if (!sim->destination)
		return sim->gone[false] ? WISH_NONE : WISH_LATER;
	hf_destination_snapshot(sim->destination, &destination);
	if (!destination.recoverable || destination.takeover_failed)
		return WISH_NONE;
	return is_paused(destination.status) ? WISH_NOW : WISH_NONE;
}

static void connect_again(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	sim->connecting = false;
	sim->notified = true;
	if (!sim_link_may_come_up(sim) || source_connects(sim) != WISH_NOW ||
	    destination_listens(sim) != WISH_NOW)
		return;
	sim_link_start(sim);
	if (sim_chance(sim, sim->plan.command_percent))
		sim_program_command(sim);
}

static void look_for_a_link(struct sim *sim)
{
	enum wish here = source_connects(sim), there = destination_listens(sim);
	if (here == WISH_NONE || there == WISH_NONE || sim->connecting || !sim->plan.recover)
		return;
	sim->connecting = true;
	if (here == WISH_NOW && sim_chance(sim, sim->plan.command_percent)) {
		sim->covered[SIM_RECOVER_SETUP]++;
		hf_source_recover_setup(sim->source, true);
		if (sim_chance(sim, 30))
			hf_source_recover_setup(sim->source, false);
	}
	if (there == WISH_NOW && sim_chance(sim, sim->plan.command_percent))
		hf_destination_recover_setup(sim->destination, sim_chance(sim, 70));
	sim_at(sim, sim_random(sim, CONNECT_DELAY_NS), connect_again, 0, NULL);
}

/* ---- letting go ---- */

static void let_go(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	if (!sim->destination)
		return;
	hf_destination_let_go(sim->destination);
	sim->covered[SIM_LET_GO]++;
}

static void let_go_in_the_end(struct sim *sim)
{
	struct hf_destination_snapshot destination;
	if (!sim->destination || source_connects(sim) != WISH_NONE)
		return;
	hf_destination_snapshot(sim->destination, &destination);
	if (destination.pages_complete && is_paused(destination.status))
		sim_at(sim, sim_random(sim, LET_GO_DELAY_NS), let_go, 0, NULL);
}

/* ---- an operator ---- */

static void pause_now(struct sim *sim, uint64_t is_source, void *data)
{
	(void)data;
	struct hf_err err = HF_ERR_INIT;
	if (!(is_source ? (void *)sim->source : (void *)sim->destination))
		return;
	int result =
	    is_source ? hf_source_pause(sim->source, &err) : hf_destination_pause(sim->destination, &err);
	sim_log(sim, "pause: %d %s", result, err.text);
	SIM_CHECK(sim, result == 0 || err.text[0], "a pause is refused without a reason");
	sim->covered[SIM_PAUSED_BY_COMMAND] += result == 0;
	sim->notified = true;
}

void sim_program_command(struct sim *sim)
{
	sim_at(sim, sim_random(sim, 8 * sim->plan.delay_max_ns), pause_now, sim_chance(sim, 50), NULL);
}

/* Neither engine may find that the other breaks the protocol, unless somebody does. */
static void check_blame(struct sim *sim)
{
	struct hf_source_snapshot source = {0};
	struct hf_destination_snapshot destination = {0};
	if (sim->source)
		hf_source_snapshot(sim->source, &source);
	if (sim->destination)
		hf_destination_snapshot(sim->destination, &destination);
	bool excused = sim->hostile || sim->plan.mismatch || sim_rounds_cannot_be(sim);
	SIM_CHECK(sim, source.err.class != HF_ERR_PEER || excused, "the source accuses the destination: %s",
		  source.err.text);
	SIM_CHECK(sim, destination.err.class != HF_ERR_PEER || excused,
		  "the destination accuses the source: %s", destination.err.text);
}

void sim_program_operate(struct sim *sim)
{
	if (!sim->notified)
		return;
	sim->notified = false;
	check_blame(sim);
	close_useless(sim);
	if (sim_link_may_come_up(sim)) {
		look_for_a_link(sim);
		let_go_in_the_end(sim);
	}
}
