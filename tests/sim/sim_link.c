/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake link. Control messages keep their order; each class of page channels answers in order, with random
 * delays; a chunk's bytes are written in two halves, so that half a page is in memory at times. On a
 * one-sided link they are what the source's memory holds at those moments, zeros too, and its engine is not
 * asked. Cutting the link ends every fetch once, in random order, then tells both sides.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/destination_internal.h"
#include "core/wire.h"
#include "tests/sim/sim.h"

/* As many threads may have decided on a fetch before they heard. */
#define FETCHES_IN_VAIN_MAX 100u
#define STALE_PERCENT	    30u
#define LATE_DOWN_NS	    400000u
#define TURN_NS		    200u
#define ONE_SIDED_SALT	    0x6f6e6573696465ull

struct sim_message {
	bool to_source;
	uint64_t epoch, number;
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

static bool is_live(const struct sim *sim, uint64_t epoch)
{
	return sim->link_up && !sim->link_cut && epoch == sim->epoch;
}

static enum hf_status status_of(const struct sim_process *process)
{
	struct hf_source_snapshot source;
	struct hf_destination_snapshot destination;
	if (process->is_source)
		hf_source_snapshot(process->source, &source);
	else
		hf_destination_snapshot(process->destination, &destination);
	return process->is_source ? source.status : destination.status;
}

/* What the hand-over consists of: whoever says it may crash around it. */
static bool hurts(uint32_t type)
{
	return type == HF_WIRE_LOADED || type == HF_WIRE_RUN || type == HF_WIRE_RESUMED ||
	       type == HF_WIRE_COMPLETE || type == HF_WIRE_REFUSED;
}

/* An engine that has heard of another link, or of none, does nothing with it. */
static void deliver_stale(struct sim *sim, const struct sim_message *message)
{
	if (!sim_chance(sim, STALE_PERCENT))
		return;
	uint64_t events = sim->events_run;
	struct sim_process *process = sim->side[message->to_source];
	enum hf_status before = status_of(process);
	sim->covered[SIM_STALE_MESSAGE]++;
	events_of(message->to_source)
	    ->message(engine_of(sim, message->to_source), message->epoch, message->type, message->payload,
		      message->length_bytes);
	SIM_CHECK(sim, events == sim->events_run && before == status_of(process),
		  "%s of an older link changes something", hf_wire_type_name(message->type));
}

static void note_message(struct sim *sim, const struct sim_message *message)
{
	sim->covered[SIM_HEARD_AFTER_CUT] += sim->link_cut;
	sim_log(sim, "%s hears %s", message->to_source ? "source" : "destination",
		hf_wire_type_name(message->type));
	if (message->type == HF_WIRE_RUN)
		sim->run_epoch = message->epoch;
	else if (message->type == HF_WIRE_RESUMED)
		sim->answer_epoch = message->epoch;
	if (message->type == HF_WIRE_FAIL && !message->to_source &&
	    sim->destination->status == HF_STATUS_POSTCOPY_RECOVER)
		sim->covered[SIM_DOUBT_ENDED]++;
}

/*
 * A link has one control thread a side, so a message is heard when the one before it has been dealt with. The
 * runs without rounds are laxer.
 */
static bool is_its_turn(const struct sim *sim, const struct sim_message *message)
{
	return sim->plan.rounds.precopy == SIM_POSTCOPY_ALONE ||
	       (sim->hears_epoch[message->to_source] != message->epoch &&
		sim->messages_taken[message->to_source] + 1 == message->number);
}

static void hear(struct sim *sim, const struct sim_message *message)
{
	uint64_t *hears_epoch = &sim->hears_epoch[message->to_source], before = *hears_epoch;
	note_message(sim, message);
	sim_rounds_hears(sim, message->to_source, message->type, message->payload, message->length_bytes);
	*hears_epoch = message->epoch;
	events_of(message->to_source)
	    ->message(engine_of(sim, message->to_source), message->epoch, message->type, message->payload,
		      message->length_bytes);
	*hears_epoch = before;
}

static void deliver_message(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	struct sim_message *message = data;
	const struct sim_end *end = &sim->ends[message->to_source];
	bool alive = engine_of(sim, message->to_source) != NULL;
	if (!is_its_turn(sim, message)) {
		sim_at(sim, TURN_NS, deliver_message, 0, message);
		return;
	}
	if (alive && !end->up && message->epoch == sim->epoch && end->epoch != sim->epoch && !sim->link_cut) {
		sim_at(sim, 1000, deliver_message, 0, message); /* the link is not up yet on this side */
		return;
	}
	sim->messages_taken[message->to_source] = message->number;
	if (alive && end->up && end->epoch == message->epoch && !end->deaf)
		hear(sim, message);
	else if (alive && (!end->up || end->epoch != message->epoch))
		deliver_stale(sim, message);
	free(message);
}

static void check_send(struct sim *sim, uint32_t type, uint64_t epoch)
{
	const enum hf_record *record = sim->on_record;
	SIM_CHECK(sim, type != HF_WIRE_RUN || record[true] != HF_RECORD_NONE,
		  "RUN is said before GIVEN_UP is on record");
	SIM_CHECK(sim, type != HF_WIRE_LOADED || record[false] != HF_RECORD_NONE,
		  "LOADED is said before it is on record");
	SIM_CHECK(sim, type != HF_WIRE_RESUMED || sim->may_have_run,
		  "RESUMED is said of a VM that never ran");
	SIM_CHECK(sim, type != HF_WIRE_REFUSED || !(sim->vmm_lives || sim->may_have_run),
		  "REFUSED is said of a VM that may run");
	SIM_CHECK(sim, type != HF_WIRE_COMPLETE || sim->released, "COMPLETE is said before the release");
	if (type != HF_WIRE_COMPLETE)
		return;
	sim->covered[SIM_COMPLETE_SAID_AGAIN] += sim->complete_epoch != 0 && sim->complete_epoch != epoch;
	sim->complete_epoch = epoch;
}

static int send_message(struct sim_process *process, bool to_source, uint64_t epoch, uint32_t type,
			const void *payload, size_t length_bytes)
{
	struct sim *sim = process->sim;
	/* The thread may be held up before the message leaves. */
	if (sim->plan.rounds.precopy != SIM_POSTCOPY_ALONE)
		sim_others(sim);
	if (process->dead || !is_live(sim, epoch))
		return -ENOTCONN;
	check_send(sim, type, epoch);
	sim_rounds_said(process, type, payload, length_bytes);
	struct sim_message *message = malloc(sizeof(*message) + length_bytes);
	SIM_CHECK(sim, message, "no memory");
	message->to_source = to_source;
	message->epoch = epoch;
	message->number = ++sim->messages_sent[to_source];
	message->type = type;
	message->length_bytes = length_bytes;
	if (length_bytes)
		memcpy(message->payload, payload, length_bytes);
	sim_log(sim, "%s says %s on link %llu", to_source ? "destination" : "source", hf_wire_type_name(type),
		(unsigned long long)epoch);

	uint64_t at_ns = sim->now_ns + sim_random(sim, sim->plan.delay_max_ns);
	if (at_ns < sim->control_free_ns[to_source])
		at_ns = sim->control_free_ns[to_source];
	sim->control_free_ns[to_source] = at_ns;
	sim_at(sim, at_ns - sim->now_ns, deliver_message, 0, message);
	if (hurts(type))
		sim_process_may_crash(process);
	if (type == HF_WIRE_ADVISE && epoch > 1)
		sim_others_long(sim);
	else
		sim_others(sim);
	sim->covered[SIM_HELD_UP_OVER_LINKS] += !process->dead && epoch != sim->epoch;
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
	uint32_t round = f->round;
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
		sim->pages[f->page].fetched |= sim->rounds.open;
		sim->fetches_busy[f->fetch.class]--;
	}
	sim->refused[HF_FETCH_URGENT] = sim->refused[HF_FETCH_BACKGROUND] = false;
	if (!sim->destination)
		return;
	struct sim_process *process = sim->side[false];
	process->dones_running++;
	hf_destination_events.fetch_done(sim->destination, &done);
	process->dones_running--;
	sim->fetch_failed |= status == HF_FETCH_FAILED;
	sim_storm_done(sim, &done, round);
}

/* A draw of its own: all else of a seed stays as it is. */
void sim_link_draw(struct sim *sim)
{
	uint64_t random = sim->random;
	sim->random = sim->seed ^ ONE_SIDED_SALT;
	sim->plan.one_sided = sim_chance(sim, 25) ? (uint32_t)sim_random(sim, UINT32_MAX) : 0;
	sim->random = random;
}

bool sim_link_one_sided(const struct sim *sim, uint64_t epoch)
{
	return sim->plan.one_sided >> epoch % 32 & 1;
}

static void read_one_sided(struct sim *sim, struct sim_fetch *f)
{
	const struct sim_page *page = &sim->pages[f->page];
	sim->covered[SIM_ONE_SIDED]++;
	sim->covered[SIM_ONE_SIDED_ROUND] += f->round > 0 && sim->rounds.open;
	f->reply = (struct hf_serve_reply){.bytes = sim->source_memory + page->base +
						    f->fetch.offset_bytes % page->size_bytes};
}

/* False when the bytes will not come: the fetch ends with the link. */
static bool serve(struct sim *sim, const struct hf_fetch *fetch, struct hf_serve_reply *reply)
{
	if (sim->link_cut || !sim->source)
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

/* number: of the fetch; the place may have another since the link was cut. */
static struct sim_fetch *carried(struct sim *sim, uint64_t index, const void *number)
{
	struct sim_fetch *f = &sim->fetches[index];
	return f->busy && f->number == (uintptr_t)number ? f : NULL;
}

static void second_half(struct sim *sim, uint64_t index, void *data)
{
	struct sim_fetch *f = carried(sim, index, data);
	if (!f || sim->link_cut || !sim->source)
		return;
	size_t half = f->fetch.length_bytes / 2;
	if (!f->reply.zero)
		memcpy((uint8_t *)f->fetch.landing + half, (const uint8_t *)f->reply.bytes + half, half);
	finish_fetch(sim, index, HF_FETCH_OK, f->reply.zero);
}

static void first_half(struct sim *sim, uint64_t index, void *data)
{
	struct sim_fetch *f = carried(sim, index, data);
	if (f && f->page != HF_PAGE_NONE && sim_link_one_sided(sim, f->fetch.epoch) && sim->source &&
	    !sim->link_cut)
		read_one_sided(sim, f);
	else if (!f || !serve(sim, &f->fetch, &f->reply))
		return;
	if (!f->reply.zero)
		memcpy(f->fetch.landing, f->reply.bytes, f->fetch.length_bytes / 2);
	sim_at(sim, sim_random(sim, 50), second_half, index, data);
}

static void check_fetch(struct sim *sim, const struct hf_fetch *fetch, uint32_t page)
{
	SIM_CHECK(sim, !sim->pages[page].was_visible || sim->pages[page].orphan,
		  "page %u is fetched although the guest has it", page);
	SIM_CHECK(sim, !sim->pages[page].hole || !sim->memory_final, "hole %u is fetched", page);
	sim_rounds_fetch(sim, fetch, page);
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
	sim->fetches[index] = (struct sim_fetch){
	    .busy = true,
	    .number = ++sim->fetch_number,
	    .fetch = *fetch,
	    .page = page,
	    .round = sim->rounds.at_destination,
	};
	uint64_t at_ns = sim->now_ns + 100 + sim_random(sim, sim->plan.delay_max_ns);
	if (at_ns < sim->channel_free_ns[fetch->class] && sim->plan.channels[fetch->class] == 1)
		at_ns = sim->channel_free_ns[fetch->class];
	sim->channel_free_ns[fetch->class] = at_ns;
	sim_at(sim, at_ns - sim->now_ns, first_half, index, (void *)(uintptr_t)sim->fetch_number);
	sim_others(sim);
}

static uint32_t page_of_fetch(const struct sim *sim, const struct hf_fetch *fetch)
{
	const struct hf_ramblock *block = &sim->source_blocks.blocks[fetch->block];
	return sim_page_of(sim, sim->destination_of_source[fetch->block],
			   fetch->offset_bytes / block->page_size_bytes);
}

static int fetch_in_vain(struct sim *sim, const struct hf_fetch *fetch)
{
	SIM_CHECK(sim, ++sim->fetches_in_vain < FETCHES_IN_VAIN_MAX,
		  "no end of fetches on a link that is gone");
	sim->fetch_failed |= fetch->epoch == sim->epoch;
	if (fetch->class == HF_FETCH_BACKGROUND && fetch->block != HF_WIRE_PROBE_BLOCK)
		sim->cursor_page = page_of_fetch(sim, fetch) + 1; /* it was begun all the same */
	return -ENOTCONN;
}

static int destination_fetch(void *self, const struct hf_fetch *fetch)
{
	struct sim_process *process = self;
	struct sim *sim = process->sim;
	if (process->dead)
		return -ENOTCONN;
	SIM_CHECK(sim, !sim->fetch_failed || sim->plan.nested_percent > 0,
		  "a fetch after one that has failed with the link");
	if (!is_live(sim, fetch->epoch))
		return fetch_in_vain(sim, fetch);
	SIM_CHECK(sim, fetch->epoch == 1 || sim->run_epoch == fetch->epoch,
		  "a page is asked for before RUN is heard on the link");
	SIM_CHECK(sim, sim->fetches_busy[fetch->class] < sim->plan.capacity[fetch->class],
		  "more fetches of a class than the link holds");
	if (fetch->block == HF_WIRE_PROBE_BLOCK) {
		if (sim->probes_busy == sim->plan.capacity[fetch->class])
			return -EAGAIN;
		sim->probes_busy++;
		carry_fetch(sim, fetch, HF_PAGE_NONE);
		return 0;
	}
	uint32_t page = page_of_fetch(sim, fetch);
	check_fetch(sim, fetch, page);
	sim_rules_posting(sim, fetch, page);
	if (sim_storm_refuses(sim, fetch->class))
		return -EAGAIN;
	sim_rules_posted(sim, fetch, page);
	sim->pages[page].fetches++;
	sim->fetches_busy[fetch->class]++;
	sim_log(sim, "fetch page %u +%llu %s", page,
		(unsigned long long)(fetch->offset_bytes - sim->pages[page].offset_bytes),
		fetch->class == HF_FETCH_URGENT ? "urgent" : "background");
	carry_fetch(sim, fetch, page);
	return 0;
}

static const struct hf_transport_ops source_ops = {.send = source_send};
static const struct hf_transport_ops destination_ops = {.fetch = destination_fetch, .send = destination_send};

struct hf_transport sim_transport_port(struct sim_process *process)
{
	return (struct hf_transport){.ops = process->is_source ? &source_ops : &destination_ops,
				     .self = process};
}

/* ---- up and down ---- */

static uint64_t features_of(struct sim *sim)
{
	return (sim->plan.measure ? HF_WIRE_FEATURE_LINK : 0) |
	       (sim->plan.recover ? HF_WIRE_FEATURE_RECOVER : 0) |
	       (sim_names_pages(sim) ? HF_WIRE_FEATURE_FIRST : 0) |
	       (sim_rounds_offered(sim) ? HF_WIRE_FEATURE_PRECOPY : 0);
}

static void link_up_side(struct sim *sim, uint64_t is_source, void *data)
{
	struct hf_link_info info = {
	    .epoch = (uintptr_t)data,
	    .version = 1,
	    .features = features_of(sim),
	    .name = "sim",
	    .one_sided = sim_link_one_sided(sim, (uintptr_t)data),
	};
	for (int class = 0; class < HF_FETCH_CLASSES; class ++) {
		info.channels[class] = sim->plan.channels[class];
		info.capacity_chunks[class] = sim->plan.capacity[class];
	}
	if (!is_live(sim, info.epoch) || !engine_of(sim, is_source))
		return;
	sim->ends[is_source] = (struct sim_end){.up = true, .epoch = info.epoch};
	events_of(is_source)->link_up(engine_of(sim, is_source), &info);
}

static void draw_next_cut(struct sim *sim)
{
	if (sim->epoch == 1 && sim->plan.cut_link)
		sim_at(sim, sim->plan.cut_ns, sim_link_cut, 0, (void *)(uintptr_t)sim->epoch);
	if (sim->epoch == 1 || sim->cuts_left == 0)
		return;
	sim->cuts_left--;
	uint64_t most_ns = sim_chance(sim, 60) ? 6 * sim->plan.delay_max_ns : 1000000;
	sim_at(sim, sim_random(sim, most_ns), sim_link_cut, 0, (void *)(uintptr_t)sim->epoch);
}

bool sim_link_may_come_up(const struct sim *sim)
{
	return sim->link_up && sim->link_cut && !sim->ends[true].up && !sim->ends[false].up;
}

void sim_link_start(struct sim *sim)
{
	void *epoch = (void *)(uintptr_t)++sim->epoch;
	sim->link_up = true;
	sim->link_cut = sim->closing = sim->fetch_failed = false;
	sim->fetches_in_vain = 0;
	sim->refused[HF_FETCH_URGENT] = sim->refused[HF_FETCH_BACKGROUND] = false;
	if (sim->destination)
		sim_rules_link_up(sim);
	sim->covered[SIM_LINK_AGAIN] += sim->epoch > 1;
	sim->covered[SIM_ONE_SIDED_CHANGED] +=
	    sim->epoch > 1 && sim_link_one_sided(sim, sim->epoch) != sim_link_one_sided(sim, sim->epoch - 1);
	sim->covered[SIM_LINK_AGAIN_TWICE] += sim->epoch > 2;
	sim->covered[SIM_WITHOUT_RECOVER] += !sim->plan.recover;
	sim_log(sim, "link %llu", (unsigned long long)sim->epoch);
	draw_next_cut(sim);
	/* The destination first: it cannot have a message before it knows of the link. */
	link_up_side(sim, false, epoch);
	if (sim->epoch == 1)
		link_up_side(sim, true, epoch);
	else
		sim_at(sim, sim_random(sim, sim->plan.delay_max_ns), link_up_side, true, epoch);
}

static void stale_link_down(struct sim *sim, uint64_t is_source, void *data)
{
	uint64_t epoch = (uintptr_t)data;
	struct sim_process *process = sim->side[is_source];
	if (process->dead || (sim->ends[is_source].up && sim->ends[is_source].epoch == epoch))
		return;
	enum hf_status before = status_of(process);
	sim->covered[SIM_STALE_LINK_DOWN] += sim->ends[is_source].up;
	events_of(is_source)->link_down(engine_of(sim, is_source), epoch, NULL);
	SIM_CHECK(sim, before == status_of(process), "the end of an older link changes something");
}

static void fail_fetches(struct sim *sim)
{
	for (uint32_t i = 0; i < SIM_FETCHES_MAX; i++)
		if (sim->fetches[i].busy)
			finish_fetch(sim, i, HF_FETCH_FAILED, false);
}

static void link_down_side(struct sim *sim, uint64_t is_source, void *data)
{
	struct sim_process *process = data;
	struct sim_end *end = &sim->ends[is_source];
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LINK, ECONNRESET, "the link was cut");
	if (process->dead)
		return;
	end->deaf = true;
	/* It comes after the last end of a fetch. */
	if (!is_source)
		fail_fetches(sim);
	if (!is_source && process->dones_running > 0) {
		sim_at(sim, 1000, link_down_side, is_source, process);
		return;
	}
	if (process->dead)
		return;
	events_of(is_source)->link_down(engine_of(sim, is_source), end->epoch, &why);
	if (process->dead)
		return;
	end->up = false;
	sim->notified = true;
	if (sim_chance(sim, STALE_PERCENT))
		sim_at(sim, sim_random(sim, 300000), stale_link_down, is_source,
		       (void *)(uintptr_t)end->epoch);
}

static void go_deaf(struct sim *sim, uint64_t is_source, void *data)
{
	if (sim->ends[is_source].epoch == (uintptr_t)data)
		sim->ends[is_source].deaf = true;
}

/* A side hears what was on its way for a while, and then of the end. */
static void cut_side(struct sim *sim, bool is_source, bool late)
{
	struct sim_end *end = &sim->ends[is_source];
	if (!end->up)
		return;
	uint64_t down_ns = sim_random(sim, late ? LATE_DOWN_NS : 5000);
	if (sim_chance(sim, 50))
		sim_at(sim, sim_random(sim, down_ns + 1), go_deaf, is_source, (void *)(uintptr_t)end->epoch);
	else
		end->deaf = true;
	sim_at(sim, down_ns, link_down_side, is_source, sim->side[is_source]);
}

static void note_cut(struct sim *sim)
{
	sim->covered[SIM_CUT_AMID_FETCHES] += sim->fetches_busy[0] + sim->fetches_busy[1] > 0;
	sim->covered[SIM_LINK_CUT_IN_ROUND] += sim_rounds_under_way(sim);
	if (sim->epoch == 1)
		return;
	sim->covered[SIM_CUT_BEFORE_RUN] += sim->run_epoch != sim->epoch;
	sim->covered[SIM_CUT_BEFORE_ANSWER] +=
	    sim->run_epoch == sim->epoch && sim->answer_epoch != sim->epoch;
}

/* data: the epoch that is meant; NULL: whichever. */
void sim_link_cut(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	if (sim->link_cut || !sim->link_up || (data && (uintptr_t)data != sim->epoch))
		return;
	sim_log(sim, "link cut");
	sim->link_cut = true;
	note_cut(sim);
	bool late = sim_chance(sim, sim->plan.late_cut_percent), late_source = sim_chance(sim, 50);
	sim->covered[SIM_ONE_SIDE_LATE] += late;
	cut_side(sim, true, late && late_source);
	cut_side(sim, false, late && !late_source);
	sim->notified = true;
}

/* What was on its way to the process goes nowhere; the other side will hear. */
void sim_link_crashed(struct sim *sim, bool is_source)
{
	sim_link_cut(sim, 0, NULL);
	sim->ends[is_source] = (struct sim_end){.epoch = sim->epoch};
	if (!is_source)
		fail_fetches(sim);
	sim->notified = true;
}
