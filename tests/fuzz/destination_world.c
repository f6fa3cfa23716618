/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/destination_world.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/lock.h"

#define FIRST_THREAD 501u

/* A port's answer: `failure` when the input says so, now and then. */
static int answer(struct world *world, int failure)
{
	return !world->kind && fuzz_below(world->input, 8) == 7 ? failure : 0;
}

/* Other threads run here. */
static void others_run(struct world *world)
{
	if (world->kind || world->depth >= 3 || fuzz_below(world->input, 4) != 3)
		return;
	struct hf_lock_thread caller;
	hf_lock_other_thread_begin(&caller);
	world->depth++;
	world->inside(world);
	world->depth--;
	hf_lock_other_thread_end(&caller);
}

uint32_t world_page(uint32_t block, uint64_t page)
{
	fuzz_check(block < BLOCKS && page < (block == 0 ? RAM_PAGES : ROM_PAGES));
	return (block == 0 ? 0 : RAM_PAGES) + (uint32_t)page;
}

static uint32_t chunks_of(uint32_t page)
{
	return page < RAM_PAGES ? RAM_CHUNKS : 1;
}

static uint8_t all_chunks(uint32_t page)
{
	return (uint8_t)((1u << chunks_of(page)) - 1);
}

struct hf_destination_snapshot world_snapshot(struct world *world)
{
	struct hf_destination_snapshot snapshot;
	hf_destination_snapshot(world->destination, &snapshot);
	return snapshot;
}

static bool is_copy(const struct world *world)
{
	return world->memory.placement == HF_PLACEMENT_COPY;
}

/* ---- bytes ------------------------------------------------------------------------------------- */

static uint8_t source_byte(const struct world *world, uint32_t page, uint32_t chunk)
{
	const struct world_page *at = &world->pages[page];
	bool zero = (at->zero_mask >> chunk & 1) ^ (at->version & 1);
	return zero ? 0 : (uint8_t)(1 + (page * 8 + chunk + at->version * 61) % 255);
}

static bool holds(const uint8_t *bytes, uint8_t value, size_t count)
{
	return bytes[0] == value && memcmp(bytes, bytes + 1, count - 1) == 0;
}

static uint8_t *landing_of(struct world *world, uint32_t page, uint32_t slot)
{
	fuzz_check(!is_copy(world) || slot < SLOTS);
	return is_copy(world) ? world->staging[slot] : world->alias[page];
}

static bool is_whole(const struct world *world, uint32_t page, const uint8_t *landing)
{
	bool whole = true;
	for (uint32_t chunk = 0; chunk < chunks_of(page); chunk++)
		whole &= holds(landing + (size_t)chunk * CHUNK_BYTES, source_byte(world, page, chunk),
			       CHUNK_BYTES);
	return whole;
}

bool world_has(struct world *world, uint32_t page)
{
	const struct world_page *at = &world->pages[page];
	return at->visible || (world->final && world->presence_whole && at->present &&
			       is_whole(world, page, world->alias[page]));
}

/* ---- the link ---------------------------------------------------------------------------------- */

static uint32_t fetch_page(const struct world *world, const struct hf_fetch *fetch)
{
	for (uint32_t block = 0; block < BLOCKS; block++)
		if (world->source_of_block[block] == fetch->block)
			return world_page(block,
					  fetch->offset_bytes / world->blocks.blocks[block].page_size_bytes);
	fuzz_check(!"the fetch is for a block of the source");
	return 0;
}

static void check_fetch(struct world *world, const struct hf_fetch *fetch, uint32_t page)
{
	size_t page_bytes = chunks_of(page) * CHUNK_BYTES;
	size_t in_page = fetch->offset_bytes % page_bytes;
	bool in_round = world->round_open && world->in_round >> page & 1;
	fuzz_check((world->device_ended || in_round) && !world->sent[HF_WIRE_COMPLETE]);
	fuzz_check(fetch->length_bytes == CHUNK_BYTES && in_page % CHUNK_BYTES == 0);
	fuzz_check(world->pages[page].present || in_round);
	fuzz_check(!world->pages[page].visible && !world->pages[page].placing);
	if (!is_copy(world))
		fuzz_check((uint8_t *)fetch->landing == world->alias[page] + in_page);
	for (uint32_t i = 0; i < world->fetch_count; i++) {
		const struct hf_fetch *other = &world->fetches[i];
		fuzz_check(other->id != fetch->id && other->landing != fetch->landing);
		fuzz_check(other->block != fetch->block || other->offset_bytes != fetch->offset_bytes);
	}
}

static uint32_t outstanding(const struct world *world, enum hf_fetch_class class)
{
	uint32_t count = 0;
	for (uint32_t i = 0; i < world->fetch_count; i++)
		count += world->fetches[i].class == class;
	return count;
}

static int transport_fetch(void *self, const struct hf_fetch *fetch)
{
	struct world *world = self;
	if (fetch->epoch != world->epoch || world->link_failing)
		return -ENOTCONN;
	check_fetch(world, fetch, fetch_page(world, fetch));
	if (outstanding(world, fetch->class) >= CAPACITY)
		return -EAGAIN;
	if (answer(world, -ENOTCONN)) {
		world->link_failing = true;
		return -ENOTCONN;
	}
	world->fetches[world->fetch_count++] = *fetch;
	others_run(world);
	return 0;
}

static void check_round_done(struct world *world, const void *payload, size_t bytes)
{
	struct hf_wire_round_done done;
	fuzz_check(world->round_open && world->fetch_count == 0);
	fuzz_check(hf_wire_decode_round_done(payload, bytes, &done, NULL) == 0 && done.round == world->round);
	world->round_open = false;
}

static void check_message(struct world *world, uint32_t type, const void *payload, size_t bytes)
{
	struct hf_err why;
	switch (type) {
	case HF_WIRE_READY:
		fuzz_check(world->prepared && world->sent[type] == 1);
		fuzz_check(!world->rounds || !is_copy(world)); // pages could not land unseen
		break;
	case HF_WIRE_ROUND_DONE:
		check_round_done(world, payload, bytes);
		break;
	case HF_WIRE_LOADED:
		for (uint32_t page = 0; world->whole && page < PAGES; page++)
			fuzz_check(world_has(world, page));
		fuzz_check(world->load_done && world->sent[type] == 1);
		fuzz_check(!world->recovers || world->on_record == HF_RECORD_LOADED);
		break;
	case HF_WIRE_RESUMED:
		fuzz_check(world->run_done && world->run_heard && world->sent[type] == 1);
		break;
	case HF_WIRE_COMPLETE:
		fuzz_check(world->released && world->sent[HF_WIRE_RESUMED] == 1 && world->sent[type] == 1);
		fuzz_check(world->fetch_count == 0);
		break;
	case HF_WIRE_FAIL:
		// Once LOADED is out the source may have given the VM up; only its own FAIL takes that back.
		fuzz_check(world->answers_fail || (!world->sent[HF_WIRE_LOADED] && !world->fail_heard));
		fuzz_check(world->sent[type] == 1);
		fuzz_check(hf_wire_decode_fail(payload, bytes, &why, NULL) == 0);
		break;
	case HF_WIRE_REFUSED:
		fuzz_check(world->recovers && world->vmm_gone && !world->run_done);
		fuzz_check(hf_wire_decode_refused(payload, bytes, &why, NULL) == 0);
		break;
	default:
		fuzz_check(!"a message that only the source sends");
	}
}

static int transport_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	struct world *world = self;
	fuzz_check(type >= HF_WIRE_ADVISE && type <= HF_WIRE_ROUND_DONE);
	if (epoch != world->epoch)
		return -ENOTCONN;
	world->sent[type]++;
	check_message(world, type, payload, bytes);
	others_run(world);
	return world->link_failing ? -ENOTCONN : 0;
}

void world_end_fetch(struct world *world, uint32_t index, enum hf_fetch_status status)
{
	struct hf_fetch fetch = world->fetches[index];
	uint32_t page = fetch_page(world, &fetch);
	uint32_t chunk = (uint32_t)(fetch.offset_bytes / CHUNK_BYTES % chunks_of(page));
	uint8_t byte = source_byte(world, page, chunk);
	struct hf_fetch_done done = {.id = fetch.id, .epoch = fetch.epoch, .status = status};
	fuzz_check(!world->pages[page].visible);
	if (status != HF_FETCH_OK)
		memset(fetch.landing, 0xee, CHUNK_BYTES / 2);
	else if (byte || fuzz_below(world->input, 2)) // zeros may come as bytes too
		memset(fetch.landing, byte, CHUNK_BYTES);
	else
		done.zero = true;
	world->fetch_count--;
	memmove(&world->fetches[index], &world->fetches[index + 1],
		(world->fetch_count - index) * sizeof(world->fetches[0]));
	hf_destination_events.fetch_done(world->destination, &done);
}

/* ---- memory ------------------------------------------------------------------------------------ */

static int memory_choose(void *self, enum hf_placement placement, struct hf_memory *port, struct hf_err *err)
{
	struct world *world = self;
	if (answer(world, -EINVAL))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "not that placement");
	port->placement = placement;
	port->slots = placement == HF_PLACEMENT_COPY ? SLOTS : 0;
	world->memory = *port;
	return 0;
}

static int memory_prepare(void *self)
{
	struct world *world = self;
	fuzz_check(world->advised && !world->prepare_asked);
	if (answer(world, -ENOMEM))
		return -ENOMEM;
	world->prepare_asked = true;
	others_run(world);
	return 0;
}

static void *memory_landing(void *self, uint32_t block, uint64_t page, uint32_t slot)
{
	return landing_of(self, world_page(block, page), slot);
}

/* The end of placing: 0 makes the page visible and wakes. */
static int place_result(struct world *world, uint32_t page, struct hf_err *err)
{
	struct world_page *place = &world->pages[page];
	int result = answer(world, -EAGAIN);
	if (result)
		result = fuzz_below(world->input, 4) ? -EAGAIN : -EIO;
	if (result == 0) {
		place->visible = true;
		place->waited_for = false;
	}
	others_run(world);
	place->placing = false;
	return result ? hf_err_set(err, HF_ERR_LOCAL, -result, "no place") : 0;
}

static void check_place(struct world *world, uint32_t page)
{
	struct world_page *place = &world->pages[page];
	fuzz_check(world->device_ended && !world->released);
	fuzz_check(!place->visible && !place->placing);
	for (uint32_t i = 0; i < world->fetch_count; i++)
		fuzz_check(fetch_page(world, &world->fetches[i]) != page);
	place->placing = true;
}

static int memory_place(void *self, uint32_t block, uint64_t page_in_block, uint32_t slot, struct hf_err *err)
{
	struct world *world = self;
	uint32_t page = world_page(block, page_in_block);
	check_place(world, page);
	others_run(world);
	fuzz_check(is_whole(world, page, landing_of(world, page, slot)));
	return place_result(world, page, err);
}

static int memory_place_zero(void *self, uint32_t block, uint64_t page_in_block, struct hf_err *err)
{
	struct world *world = self;
	uint32_t page = world_page(block, page_in_block);
	check_place(world, page);
	fuzz_check(!world->pages[page].present);
	fuzz_check(is_copy(world) || holds(world->alias[page], 0, chunks_of(page) * CHUNK_BYTES));
	return place_result(world, page, err);
}

static int memory_place_again(void *self, uint32_t block, uint64_t page_in_block, struct hf_err *err)
{
	struct world *world = self;
	struct world_page *place = &world->pages[world_page(block, page_in_block)];
	fuzz_check(place->visible ||
		   (world->device_ended && world_has(world, world_page(block, page_in_block))));
	fuzz_check(!place->placing && !world->released);
	place->placing = true;
	return place_result(world, world_page(block, page_in_block), err);
}

static void memory_clear(void *self, void *landing, size_t bytes, bool dirty)
{
	struct world *world = self;
	if (is_copy(world) || dirty)
		memset(landing, 0, bytes);
	others_run(world);
}

static void memory_kick(void *self, enum hf_work_class class)
{
	fuzz_check(class < HF_WORK_CLASSES);
	others_run(self);
}

static int memory_release(void *self, struct hf_err *err)
{
	struct world *world = self;
	fuzz_check(!world->released && world->run_done);
	for (uint32_t page = 0; page < PAGES; page++)
		fuzz_check(world_has(world, page));
	if (answer(world, -EIO))
		return hf_err_set(err, HF_ERR_LOCAL, EIO, "not released");
	world->released = true;
	for (uint32_t page = 0; page < PAGES; page++)
		world->pages[page].waited_for = false;
	others_run(world);
	return 0;
}

void world_fault(struct world *world, uint32_t page, uint32_t thread)
{
	if (!world->prepared || world->released)
		return;
	world->pages[page].waited_for = true;
	uint32_t block = page < RAM_PAGES ? 0 : 1;
	hf_destination_fault(world->destination, block, page - (block ? RAM_PAGES : 0), FIRST_THREAD + thread,
			     world->now_ns);
}

/* ---- VM and clock ------------------------------------------------------------------------------ */

static int vm_request(void *self, enum hf_vm_op op, const void *data, size_t bytes)
{
	struct world *world = self;
	fuzz_check(!world->vm_busy && (op == HF_VM_LOAD || op == HF_VM_RUN || op == HF_VM_KILL));
	if (op == HF_VM_KILL) {
		// Only what surely did not run.
		fuzz_check(world->run_heard_once && !world->run_done);
	} else if (op == HF_VM_LOAD) {
		fuzz_check(world->device_ended && !world->load_asked);
		fuzz_check(bytes == world->state_bytes && memcmp(data, world->state, bytes) == 0);
		world->load_asked = true;
	} else {
		// The one rule above all: run only what the source has given up, once.
		fuzz_check(world->sent[HF_WIRE_LOADED] && world->run_heard_once && !world->run_asked);
		fuzz_check(!world->recovers || world->on_record == HF_RECORD_RUNNING);
		fuzz_check(!world->fail_heard);
		world->run_asked = true;
	}
	if (answer(world, -EBUSY))
		return -EBUSY;
	world->vm_busy = true;
	world->vm_op = op;
	others_run(world);
	return 0;
}

static int record_request(void *self, enum hf_record record)
{
	struct world *world = self;
	fuzz_check(!world->recording);
	fuzz_check(record != HF_RECORD_LOADED || world->load_done);
	fuzz_check(record != HF_RECORD_RUNNING || world->run_heard_once);
	fuzz_check(record != HF_RECORD_REFUSED || (world->vmm_gone && !world->run_done));
	if (answer(world, -EIO))
		return -EIO;
	world->recording = true;
	world->record = record;
	others_run(world);
	return 0;
}

static uint64_t clock_now(void *self)
{
	return ((struct world *)self)->now_ns;
}

/* ---- the world --------------------------------------------------------------------------------- */

static const struct hf_transport_ops transport_ops = {.fetch = transport_fetch, .send = transport_send};
static const struct hf_vm_ops vm_ops = {.request = vm_request};
static const struct hf_recorder_ops recorder_ops = {.request = record_request};
static const struct hf_memory_ops memory_ops = {
    .choose = memory_choose,
    .prepare = memory_prepare,
    .landing = memory_landing,
    .place = memory_place,
    .place_zero = memory_place_zero,
    .place_again = memory_place_again,
    .clear = memory_clear,
    .kick = memory_kick,
    .release = memory_release,
};

void world_create(struct world *world, struct fuzz_input *input, void (*inside)(struct world *world))
{
	static const uint32_t threads[] = {FIRST_THREAD, FIRST_THREAD + 1};
	uint8_t shape = fuzz_u8(input);
	bool copy = shape & 1;
	bool recovers = shape & 4;
	memset(world, 0, sizeof(*world));
	world->input = input;
	world->recovers = recovers;
	world->rounds = shape & 8;
	world->inside = inside;
	world->now_ns = 1000000000;
	world->memory = (struct hf_memory){.ops = &memory_ops,
					   .self = world,
					   .placement = copy ? HF_PLACEMENT_COPY : HF_PLACEMENT_CONTINUE,
					   .slots = copy ? SLOTS : 0};
	for (uint32_t page = 0; page < PAGES; page++)
		world->pages[page].zero_mask = fuzz_u8(input) & all_chunks(page);
	hf_ramblocks_init(&world->blocks);
	hf_ramblocks_add(&world->blocks, "ram", RAM_PAGES * RAM_PAGE_BYTES, RAM_PAGE_BYTES, NULL);
	hf_ramblocks_add(&world->blocks, "rom", ROM_PAGES * CHUNK_BYTES, CHUNK_BYTES, NULL);
	struct hf_destination_config config = {
	    .vm_name = "there",
	    .blocks = &world->blocks,
	    .vcpu_thread_ids = threads,
	    .vcpus = 2,
	    .clock = {.now_ns = clock_now, .self = world},
	    .memory = world->memory,
	    .transport = {.ops = &transport_ops, .self = world},
	    .vm = {.ops = &vm_ops, .self = world},
	    .chunk_bytes = CHUNK_BYTES,
	    .background_held = shape & 2,
	};
	if (recovers)
		config.recorder = (struct hf_recorder){.ops = &recorder_ops, .self = world};
	fuzz_check(hf_destination_create(&world->destination, &config, NULL) == 0);
}

void world_destroy(struct world *world)
{
	hf_destination_destroy(world->destination);
	hf_ramblocks_destroy(&world->blocks);
}
