/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake link. Control messages keep their order; each class of page channels answers in order, with random
 * delays; a chunk's bytes are written in two halves, so that half a page is in memory at times. Cutting the
 * link ends every fetch once, in random order, then tells both sides.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/wire.h"
#include "tests/sim/sim.h"

/* As many threads may have decided on a fetch before they heard. */
#define FETCHES_IN_VAIN_MAX 100u

struct sim_message {
	bool to_source;
	uint64_t epoch;
	uint32_t type;
	size_t length_bytes;
	uint8_t payload[];
};

static const struct hf_transport_events *events_of(bool source)
{
	return source ? &hf_source_events : &hf_destination_events;
}

static void *engine_of(struct sim *sim, bool source)
{
	return source ? (void *)sim->source : (void *)sim->destination;
}

static void deliver_message(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	struct sim_message *message = data;
	if (!sim->link_cut)
		events_of(message->to_source)
		    ->message(engine_of(sim, message->to_source), message->epoch, message->type,
			      message->payload, message->length_bytes);
	free(message);
}

static int send_message(struct sim *sim, bool to_source, uint64_t epoch, uint32_t type, const void *payload,
			size_t length_bytes)
{
	if (!sim->link_up || sim->link_cut)
		return -ENOTCONN;
	struct sim_message *message = malloc(sizeof(*message) + length_bytes);
	SIM_CHECK(sim, message, "no memory");
	message->to_source = to_source;
	message->epoch = epoch;
	message->type = type;
	message->length_bytes = length_bytes;
	if (length_bytes)
		memcpy(message->payload, payload, length_bytes);

	uint64_t at_ns = sim->now_ns + sim_random(sim, sim->plan.delay_max_ns);
	if (at_ns < sim->control_free_ns[to_source])
		at_ns = sim->control_free_ns[to_source];
	sim->control_free_ns[to_source] = at_ns;
	sim_at(sim, at_ns - sim->now_ns, deliver_message, 0, message);
	sim_others(sim);
	return 0;
}

static int source_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t length_bytes)
{
	return send_message(self, false, epoch, type, payload, length_bytes);
}

static int destination_send(void *self, uint64_t epoch, uint32_t type, const void *payload,
			    size_t length_bytes)
{
	return send_message(self, true, epoch, type, payload, length_bytes);
}

/* ---- fetches ---- */

static void finish_fetch(struct sim *sim, uint64_t index, enum hf_fetch_status status, bool zero)
{
	struct sim_fetch *f = &sim->fetches[index];
	struct hf_fetch_done done = {
	    .id = f->fetch.id,
	    .epoch = f->fetch.epoch,
	    .status = status,
	    .zero = zero,
	};
	f->busy = false;
	if (f->page == HF_PAGE_NONE) {
		sim->probes_busy--;
		sim->covered[SIM_CUT_WHILE_MEASURED] += status == HF_FETCH_FAILED;
	} else {
		sim->pages[f->page].fetches--;
		sim->fetches_busy[f->fetch.class]--;
	}
	sim->refused[HF_FETCH_URGENT] = sim->refused[HF_FETCH_BACKGROUND] = false;
	hf_destination_events.fetch_done(sim->destination, &done);
	sim->fetch_failed |= status == HF_FETCH_FAILED;
	sim_storm_done(sim, &done);
}

/* False when the bytes will not come: the fetch ends with the link. */
static bool serve(struct sim *sim, const struct hf_fetch *fetch, struct hf_serve_reply *reply)
{
	if (sim->link_cut)
		return false;
	struct hf_serve_request request = {
	    .epoch = fetch->epoch,
	    .block = fetch->block,
	    .offset_bytes = fetch->offset_bytes,
	    .length_bytes = fetch->length_bytes,
	    .class = fetch->class,
	};
	struct hf_err err;
	int result = hf_source_events.serve(sim->source, &request, reply, &err);
	if (result == 0)
		return true;
	/* A source whose migration has failed refuses what is still on its way; the link goes down with it.
	 */
	struct hf_source_snapshot snapshot;
	hf_source_snapshot(sim->source, &snapshot);
	SIM_CHECK(sim, hf_status_is_final(snapshot.status), "the source refuses a fetch: %s", err.text);
	sim_link_cut(sim, 0, NULL);
	return false;
}

static void second_half(struct sim *sim, uint64_t index, void *data)
{
	(void)data;
	struct sim_fetch *f = &sim->fetches[index];
	if (!f->busy)
		return; /* the link was cut */
	struct hf_serve_reply reply;
	if (!serve(sim, &f->fetch, &reply))
		return;
	size_t half = f->fetch.length_bytes / 2;
	if (!reply.zero)
		memcpy((uint8_t *)f->fetch.landing + half, (const uint8_t *)reply.bytes + half, half);
	finish_fetch(sim, index, HF_FETCH_OK, reply.zero);
}

static void first_half(struct sim *sim, uint64_t index, void *data)
{
	struct sim_fetch *f = &sim->fetches[index];
	(void)data;
	if (!f->busy)
		return;
	struct hf_serve_reply reply;
	if (!serve(sim, &f->fetch, &reply))
		return;
	if (!reply.zero)
		memcpy(f->fetch.landing, reply.bytes, f->fetch.length_bytes / 2);
	sim_at(sim, sim_random(sim, 50), second_half, index, NULL);
}

static void check_fetch(struct sim *sim, const struct hf_fetch *fetch, uint32_t page)
{
	SIM_CHECK(sim, !sim->pages[page].was_visible, "page %u is fetched although the guest has it", page);
	SIM_CHECK(sim, !sim->pages[page].hole, "hole %u is fetched", page);
	for (uint32_t i = 0; i < SIM_FETCHES_MAX; i++) {
		const struct sim_fetch *other = &sim->fetches[i];
		SIM_CHECK(sim,
			  !other->busy || other->fetch.block != fetch->block ||
			      other->fetch.offset_bytes != fetch->offset_bytes,
			  "a chunk of page %u is fetched twice at once", page);
		SIM_CHECK(sim, !other->busy || other->fetch.landing != fetch->landing,
			  "two chunks share a landing (page %u)", page);
	}
}

static void carry_fetch(struct sim *sim, const struct hf_fetch *fetch, uint32_t page)
{
	uint32_t index = 0;
	while (sim->fetches[index].busy)
		index++;
	sim->fetches[index] = (struct sim_fetch){.busy = true, .fetch = *fetch, .page = page};
	uint64_t at_ns = sim->now_ns + 100 + sim_random(sim, sim->plan.delay_max_ns);
	if (at_ns < sim->channel_free_ns[fetch->class] && sim->plan.channels[fetch->class] == 1)
		at_ns = sim->channel_free_ns[fetch->class];
	sim->channel_free_ns[fetch->class] = at_ns;
	sim_at(sim, at_ns - sim->now_ns, first_half, index, NULL);
	sim_others(sim);
}

static int destination_fetch(void *self, const struct hf_fetch *fetch)
{
	struct sim *sim = self;
	SIM_CHECK(sim, !sim->fetch_failed || sim->plan.nested_percent > 0,
		  "a fetch after one that has failed with the link");
	if (!sim->link_up || sim->link_cut) {
		SIM_CHECK(sim, ++sim->fetches_in_vain < FETCHES_IN_VAIN_MAX,
			  "no end of fetches on a link that is gone");
		sim->fetch_failed = true;
		return -ENOTCONN;
	}
	SIM_CHECK(sim, sim->fetches_busy[fetch->class] < sim->plan.capacity[fetch->class],
		  "more fetches of a class than the link holds");
	if (fetch->block == HF_WIRE_PROBE_BLOCK) {
		if (sim->probes_busy == sim->plan.capacity[fetch->class])
			return -EAGAIN;
		sim->probes_busy++;
		carry_fetch(sim, fetch, HF_PAGE_NONE);
		return 0;
	}
	const struct hf_ramblock *block = &sim->source_blocks.blocks[fetch->block];
	uint32_t page = sim_page_of(sim, sim->destination_of_source[fetch->block],
				    fetch->offset_bytes / block->page_size_bytes);
	check_fetch(sim, fetch, page);
	sim_rules_posting(sim, fetch, page);
	if (sim_storm_refuses(sim, fetch->class))
		return -EAGAIN;
	sim_rules_posted(sim, fetch);
	sim->pages[page].fetches++;
	sim->fetches_busy[fetch->class]++;
	sim_log(sim, "fetch page %u +%llu %s", page,
		(unsigned long long)(fetch->offset_bytes % block->page_size_bytes),
		fetch->class == HF_FETCH_URGENT ? "urgent" : "background");
	carry_fetch(sim, fetch, page);
	return 0;
}

static const struct hf_transport_ops source_ops = {.send = source_send};
static const struct hf_transport_ops destination_ops = {.fetch = destination_fetch, .send = destination_send};

struct hf_transport sim_transport_port(struct sim *sim, bool is_source)
{
	return (struct hf_transport){.ops = is_source ? &source_ops : &destination_ops, .self = sim};
}

/* ---- up and down ---- */

static void link_up_side(struct sim *sim, uint64_t is_source, void *data)
{
	(void)data;
	struct hf_link_info info = {.epoch = 1,
				    .version = 1,
				    .features = sim->plan.measure ? HF_WIRE_FEATURE_LINK : 0,
				    .name = "sim"};
	for (int class = 0; class < HF_FETCH_CLASSES; class ++) {
		info.channels[class] = sim->plan.channels[class];
		info.capacity_chunks[class] = sim->plan.capacity[class];
	}
	if (!sim->link_cut)
		events_of(is_source)->link_up(engine_of(sim, is_source), &info);
}

void sim_link_start(struct sim *sim)
{
	sim->link_up = true;
	/* The destination first: it cannot have a message before it knows of the link. */
	link_up_side(sim, false, NULL);
	link_up_side(sim, true, NULL);
}

static void link_down_side(struct sim *sim, uint64_t is_source, void *data)
{
	(void)data;
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LINK, ECONNRESET, "the link was cut");
	if (!is_source) {
		for (uint32_t i = 0; i < SIM_FETCHES_MAX; i++)
			if (sim->fetches[i].busy)
				finish_fetch(sim, i, HF_FETCH_FAILED, false);
	}
	sim->link_ends++;
	events_of(is_source)->link_down(engine_of(sim, is_source), 1, &why);
}

void sim_link_cut(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	if (sim->link_cut || !sim->link_up)
		return;
	sim_log(sim, "link cut");
	sim->link_cut = true;
	sim->covered[SIM_CUT_AMID_FETCHES] += sim->fetches_busy[0] + sim->fetches_busy[1] > 0;
	sim_at(sim, sim_random(sim, 5000), link_down_side, true, NULL);
	sim_at(sim, sim_random(sim, 5000), link_down_side, false, NULL);
}
