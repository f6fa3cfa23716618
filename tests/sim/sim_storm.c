/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What goes wrong around the engines without their having failed: a transport that tells an end twice, late,
 * or of a fetch there never was, or has no room; a pool that runs dry for a while; messages about faults that
 * nobody waits for, at any time; a peer that sends garbage.
 */
#include <string.h>

#include "core/destination_internal.h"
#include "core/wire.h"
#include "tests/sim/sim.h"

#define STORM_LASTS_NS 3000000u

/* ---- ends of fetches that are none ---- */

static void tell_done(struct sim *sim, const struct hf_fetch_done *done, enum sim_covered covered)
{
	if (!sim->destination)
		return;
	sim->covered[covered]++;
	hf_destination_events.fetch_done(sim->destination, done);
}

/* data: the epoch, and the round that the fetch was posted in. */
static void late_done(struct sim *sim, uint64_t id, void *data)
{
	struct hf_fetch_done done = {.id = id, .epoch = (uint32_t)(uintptr_t)data};
	uint32_t round = (uint32_t)((uintptr_t)data >> 32);
	bool same_link = sim->ends[false].up && sim->ends[false].epoch == done.epoch;
	enum sim_covered covered = same_link ? SIM_DONE_REPEATED : SIM_DONE_AFTER_LINK_DOWN;
	if (!sim->destination)
		return;
	sim->covered[SIM_DONE_OF_OLDER_ROUND] +=
	    same_link && sim->rounds.open && round < sim->rounds.at_destination;
	done.zero = sim_chance(sim, 50);
	done.status = sim_chance(sim, 50) ? HF_FETCH_OK : HF_FETCH_FAILED;
	tell_done(sim, &done, covered);
	if (!sim->destination)
		return;
	done.id = sim_chance(sim, 50) ? id + (1ull << 32) : sim_random(sim, UINT64_MAX);
	const struct fetch_slot *slots = sim->destination->slots;
	uint32_t slot = (uint32_t)done.id;
	if (slot < sim->destination->slots_count && slots[slot].generation == done.id >> 32)
		done.epoch += 1000; /* it has hit one that is on its way: on another link it is none either */
	tell_done(sim, &done, SIM_DONE_MADE_UP);
}

/* The engine has heard of this end. */
void sim_storm_done(struct sim *sim, const struct hf_fetch_done *done, uint32_t round)
{
	if (sim_chance(sim, sim->plan.repeat_percent))
		sim_at(sim, sim_random(sim, 50000), late_done, done->id,
		       (void *)(uintptr_t)((uint64_t)round << 32 | done->epoch));
}

/* ---- a link without room, a pool without pages ---- */

bool sim_storm_refuses(struct sim *sim, enum hf_fetch_class class)
{
	if (sim->fetches_busy[class] == 0 || !sim_chance(sim, sim->plan.refuse_percent))
		return false;
	sim_log(sim, "the link has no room");
	sim->refused[class] = true;
	sim->covered[class == HF_FETCH_URGENT ? SIM_REFUSED_URGENT : SIM_REFUSED_BACKGROUND]++;
	return true;
}

bool sim_storm_pool_is_dry(const struct sim *sim)
{
	return sim->now_ns >= sim->plan.dry_from_ns && sim->now_ns < sim->plan.dry_from_ns + sim->plan.dry_ns;
}

/* ---- messages ---- */

static void stray_fault(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	const struct hf_destination *d = sim->destination;
	uint32_t page = (uint32_t)sim_random(sim, sim->page_count);
	if (!d || (d->taking_over && !sim->side[false]->has_memory))
		return;
	sim->covered[SIM_FAULT_BEFORE_MAP] += !d->presence_complete;
	sim->covered[SIM_FAULT_AFTER_RELEASE] += sim->released;
	sim_rules_fault(sim, page, 5000 + (uint32_t)sim_random(sim, 3), sim->now_ns);
}

/* Messages whose meaning is in their type alone: to make one up is to lie, not to send garbage. */
static bool is_a_word(uint32_t type)
{
	return type == HF_WIRE_LOADED || type == HF_WIRE_RUN || type == HF_WIRE_RESUMED ||
	       type == HF_WIRE_COMPLETE;
}

static void hostile_message(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	if (!sim->link_up || sim->link_cut || !sim->source || !sim->destination)
		return;
	uint8_t payload[64];
	uint32_t type = (uint32_t)sim_random(sim, 20);
	size_t length = sim_random(sim, sizeof(payload));
	for (size_t i = 0; i < sizeof(payload); i++)
		payload[i] = (uint8_t)sim_random(sim, 256);
	if (is_a_word(type))
		return;
	sim->hostile = true;
	sim_log(sim, "garbage of type %u", type);
	if (sim_chance(sim, 50)) {
		sim->covered[SIM_HOSTILE_TO_SOURCE]++;
		hf_source_events.message(sim->source, sim->epoch, type, payload, length);
		return;
	}
	bool after = sim->destination->handover >= HF_DESTINATION_LOADED;
	sim->covered[after ? SIM_HOSTILE_AFTER_HAND_OVER : SIM_HOSTILE_BEFORE_HAND_OVER]++;
	hf_destination_events.message(sim->destination, sim->epoch, type, payload, length);
}

void sim_storm_start(struct sim *sim)
{
	for (uint32_t i = 0; i < sim->plan.stray_faults; i++)
		sim_at(sim, sim_random(sim, STORM_LASTS_NS), stray_fault, 0, NULL);
	for (uint32_t i = 0; i < sim->plan.hostile_messages; i++)
		sim_at(sim, sim_random(sim, STORM_LASTS_NS), hostile_message, 0, NULL);
}
