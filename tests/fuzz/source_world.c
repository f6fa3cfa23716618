/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/source_world.h"

#include <errno.h>
#include <string.h>

#include "core/lock.h"
#include "core/zero.h"

int world_answer(struct world *world, int failure)
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

struct hf_source_snapshot world_snapshot(struct world *world)
{
	struct hf_source_snapshot snapshot;
	struct hf_lock_thread caller; // ports ask too, which they may not do themselves
	hf_lock_other_thread_begin(&caller);
	hf_source_snapshot(world->source, &snapshot);
	hf_lock_other_thread_end(&caller);
	return snapshot;
}

/* ---- ports ------------------------------------------------------------------------------------- */

uint8_t *world_address(struct world *world, uint32_t block, uint64_t offset_bytes)
{
	return world->memory + (block ? RAM_PAGES * RAM_PAGE_BYTES : 0) + offset_bytes;
}

uint32_t world_page(uint32_t block, uint64_t offset_bytes)
{
	return (uint32_t)(block ? RAM_PAGES + offset_bytes / CHUNK_BYTES : offset_bytes / RAM_PAGE_BYTES);
}

static int memory_chunk(void *self, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
			const void **bytes, struct hf_err *err)
{
	struct world *world = self;
	fuzz_check(block < BLOCKS && offset_bytes + length_bytes <= world->blocks.blocks[block].length_bytes);
	uint32_t page = world_page(block, offset_bytes);
	bool in_round = world->rounds && !world->stopped;
	fuzz_check(world->present[page] || (in_round && !(world->known_holes >> page & 1)));
	world->present[page] = true; // reading allocates
	if (world_answer(world, 1))
		return hf_err_set(err, HF_ERR_LOCAL, EIO, "the page cannot be read");
	const uint8_t *at = world_address(world, block, offset_bytes);
	*bytes = hf_is_zero(at, length_bytes) ? NULL : at;
	return 0;
}

static int memory_presence(void *self, uint32_t block, uint8_t *bitmap, size_t bytes, struct hf_err *err)
{
	struct world *world = self;
	uint32_t first = block ? RAM_PAGES : 0, pages = block ? ROM_PAGES : RAM_PAGES;
	fuzz_check(block < BLOCKS && bytes == 1 && bitmap[0] == 0);
	fuzz_check(world->saved && !world->vm_runs);
	for (uint32_t i = 0; i < pages; i++)
		bitmap[0] |= (uint8_t)(world->present[first + i] << i);
	others_run(world);
	return world_answer(world, 1) ? hf_err_set(err, HF_ERR_LOCAL, EIO, "no map") : 0;
}

static int memory_harvest(void *self, uint32_t block, uint8_t *dirtied, uint8_t *holes, size_t bytes,
			  struct hf_err *err)
{
	struct world *world = self;
	uint32_t first = block ? RAM_PAGES : 0, pages = block ? ROM_PAGES : RAM_PAGES;
	fuzz_check(block < BLOCKS && bytes == 1 && !dirtied[0] && !holes[0]);
	fuzz_check(!world->harvesting && world->told == world->done && world->ready_heard);
	world->harvesting = true;
	others_run(world);
	for (uint32_t page = first; page < first + pages; page++) {
		uint32_t bit = 1u << page;
		if (!(world->written & bit))
			continue;
		dirtied[0] |= (uint8_t)(1u << (page - first));
		holes[0] |= (uint8_t)(!world->present[page] << (page - first));
		world->known_holes =
		    world->present[page] ? world->known_holes & ~bit : world->known_holes | bit;
		world->written &= ~bit;
		world->found |= bit;
	}
	others_run(world);
	world->harvesting = false;
	return world_answer(world, 1) ? hf_err_set(err, HF_ERR_LOCAL, EIO, "no harvest") : 0;
}

static void check_set_piece(struct world *world, const void *payload, size_t bytes)
{
	struct hf_wire_presence piece;
	fuzz_check(world->spoken && !world->final && world->told == world->done);
	fuzz_check(hf_wire_decode_round(payload, bytes, &piece, NULL) == 0 && piece.block < BLOCKS);
	uint32_t first = (piece.block ? RAM_PAGES : 0) + piece.first_page;
	fuzz_check(piece.pages <= world->blocks.blocks[piece.block].pages - piece.first_page);
	fuzz_check(world->named < 1u << first); // in order
	world->named |= (uint32_t)piece.bits[0] << first;
}

static void check_set_end(struct world *world, const void *payload, size_t bytes)
{
	struct hf_wire_round_end end;
	fuzz_check(hf_wire_decode_round_end(payload, bytes, &end, NULL) == 0);
	if (end.round == world->told && !world->final)
		return; // more about a round
	fuzz_check(world->spoken && !world->final && end.round == world->told + 1);
	world->final = end.flags & HF_WIRE_ROUND_FINAL;
	fuzz_check(world->final == world->saved && !(end.flags & HF_WIRE_ROUND_CUT));
	fuzz_check(!world->final || !world->only || end.flags & HF_WIRE_ROUND_WHOLE);
	if (world->final && world->told)
		fuzz_check(!((world->found | world->written) & ~world->named));
	world->round = world->named;
	world->found &= ~world->named;
	world->named = 0;
	world->told = end.round;
	world->done += world->final;
}

/* The map goes through all blocks in order and says what is there. */
static void check_presence(struct world *world, const void *payload, size_t bytes)
{
	struct hf_wire_presence presence;
	uint32_t first = world->presence_block ? RAM_PAGES : 0;
	fuzz_check(world->saved && !world->sent[HF_WIRE_DEVICE] && world->final == world->spoken);
	fuzz_check(hf_wire_decode_presence(payload, bytes, &presence, NULL) == 0);
	fuzz_check(presence.block == world->presence_block && presence.first_page == world->presence_page);
	for (uint32_t i = 0; i < presence.pages; i++)
		fuzz_check((presence.bits[i / 8] >> i % 8 & 1) ==
			   world->present[first + presence.first_page + i]);
	world->presence_page += presence.pages;
	if (world->presence_page == world->blocks.blocks[world->presence_block].pages) {
		world->presence_block++;
		world->presence_page = 0;
	}
}

static void check_state_message(struct world *world, uint32_t type, const void *payload, size_t bytes)
{
	struct hf_wire_device_end end;
	fuzz_check(world->presence_block == BLOCKS && !world->vm_runs);
	if (type == HF_WIRE_DEVICE) {
		fuzz_check(bytes <= STATE_BYTES - world->device_bytes);
		fuzz_check(memcmp(payload, world->state + world->device_bytes, bytes) == 0);
		world->device_bytes += bytes;
		return;
	}
	fuzz_check(hf_wire_decode_device_end(payload, bytes, &end, NULL) == 0);
	fuzz_check(end.total_bytes == STATE_BYTES && world->device_bytes == STATE_BYTES);
	fuzz_check(world->sent[type] == 1);
}

/* Pages of the VM, each once, between the map and the device state. */
static void check_first(const struct world *world, const void *payload, size_t bytes)
{
	struct hf_wire_first first;
	uint32_t named = 0;
	fuzz_check(hf_wire_decode_first(payload, bytes, &first, NULL) == 0);
	fuzz_check(world->presence_block == BLOCKS && world->sent[HF_WIRE_FIRST] == 1 &&
		   !world->device_bytes);
	for (uint32_t i = 0; i < first.count; i++) {
		fuzz_check(first.pages[i].block < BLOCKS);
		const struct hf_ramblock *block = &world->blocks.blocks[first.pages[i].block];
		fuzz_check(first.pages[i].page < block->pages);
		uint32_t bit = 1u << (block->first_page + first.pages[i].page);
		fuzz_check(!(named & bit));
		named |= bit;
	}
}

static void check_message(struct world *world, uint32_t type, const void *payload, size_t bytes)
{
	struct hf_wire_wish wish;
	struct hf_err why;
	switch (type) {
	case HF_WIRE_WISH:
		fuzz_check(hf_wire_decode_wish(payload, bytes, &wish, NULL) == 0);
		fuzz_check(wish.placement == HF_WIRE_WISH_ANY || !world->sent[HF_WIRE_ADVISE]);
		break;
	case HF_WIRE_ADVISE:
		fuzz_check(world->sent[type] == 1);
		break;
	case HF_WIRE_ROUND:
		check_set_piece(world, payload, bytes);
		break;
	case HF_WIRE_ROUND_END:
		check_set_end(world, payload, bytes);
		break;
	case HF_WIRE_PRESENCE:
		check_presence(world, payload, bytes);
		break;
	case HF_WIRE_FIRST:
		check_first(world, payload, bytes);
		break;
	case HF_WIRE_DEVICE:
	case HF_WIRE_DEVICE_END:
		check_state_message(world, type, payload, bytes);
		break;
	case HF_WIRE_RUN:
		fuzz_check(!world->recovers || world->on_record == HF_RECORD_GIVEN_UP);
		fuzz_check(world->loaded_heard && world->sent[HF_WIRE_DEVICE_END] == 1 &&
			   world->sent[type] == 1);
		fuzz_check(!world->vm_runs && !world->vm_busy && !world->sent[HF_WIRE_FAIL]);
		break;
	case HF_WIRE_FINISH:
		fuzz_check(world->complete_heard && world->sent[HF_WIRE_RUN] == 1 && world->sent[type] == 1);
		break;
	case HF_WIRE_FAIL:
		fuzz_check(!world->sent[HF_WIRE_RUN] || world->refused_heard);
		// FAIL that comes while a record is written changes nothing.
		fuzz_check((!world->fail_heard || world->recovers) && world->sent[type] == 1);
		fuzz_check(world->on_record != HF_RECORD_GIVEN_UP);
		fuzz_check(hf_wire_decode_fail(payload, bytes, &why, NULL) == 0);
		break;
	default:
		fuzz_check(!"a message that only the destination sends");
	}
}

static int transport_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	struct world *world = self;
	fuzz_check(type >= HF_WIRE_ADVISE && type <= HF_WIRE_FIRST);
	if (epoch != world->epoch)
		return -ENOTCONN;
	world->sent[type]++;
	check_message(world, type, payload, bytes);
	others_run(world);
	return 0;
}

static int vm_request(void *self, enum hf_vm_op op, const void *data, size_t bytes)
{
	struct world *world = self;
	fuzz_check(!data && !bytes && !world->vm_busy);
	// What has been given up is the destination's, whatever happens afterwards.
	fuzz_check(world_snapshot(world).owner != HF_VM_OWNER_DESTINATION);
	fuzz_check(world->on_record != HF_RECORD_GIVEN_UP);
	fuzz_check(world->ready_heard && (!world->sent[HF_WIRE_RUN] || world->refused_heard));
	fuzz_check(op == HF_VM_STOP || op == HF_VM_RESUME || (op == HF_VM_SAVE && world->stopped) ||
		   (op == HF_VM_FENCE && world->loaded_heard));
	fuzz_check(op != HF_VM_STOP || world->told == world->done);
	if (world_answer(world, -EBUSY)) {
		world->resume_failed |= op == HF_VM_RESUME;
		return -EBUSY;
	}
	world->vm_busy = true;
	world->vm_op = op;
	others_run(world);
	return 0;
}

static int record_request(void *self, enum hf_record record)
{
	struct world *world = self;
	fuzz_check(!world->recording && !world->vm_busy && !world->vm_runs);
	fuzz_check(record == HF_RECORD_GIVEN_UP ? world->loaded_heard : record == HF_RECORD_TAKEN_BACK);
	if (world_answer(world, -EIO))
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

/* ---- a world ------------------------------------------------------------------------------------- */

void world_create(struct world *world, struct fuzz_input *input, void (*inside)(struct world *world))
{
	static const struct hf_source_memory_ops memory_ops = {
	    .chunk = memory_chunk, .presence = memory_presence, .harvest = memory_harvest};
	static const struct hf_transport_ops transport_ops = {.send = transport_send};
	static const struct hf_vm_ops vm_ops = {.request = vm_request};
	static const struct hf_recorder_ops recorder_ops = {.request = record_request};
	*world = (struct world){.input = input, .inside = inside};
	for (uint32_t i = 0; i < MEMORY_BYTES; i += CHUNK_BYTES)
		world->memory[i] = (uint8_t)(i / CHUNK_BYTES % 3); // every third chunk is zeros
	memset(world->state, 0xd5, sizeof(world->state));
	uint8_t shape = fuzz_u8(world->input), present = fuzz_u8(world->input);
	world->now_ns = 1000000000;
	world->measures = shape & 8;
	world->recovers = shape & 0x10;
	world->rounds = shape & 0x20;
	world->only = world->rounds && shape & 0x40;
	world->spoken = world->rounds && !(shape & 0x80);
	world->vm_runs = true;
	for (uint32_t page = 0; page < PAGES; page++)
		world->present[page] = present >> page & 1;
	world->written = present & ((1u << PAGES) - 1);
	hf_ramblocks_init(&world->blocks);
	hf_ramblocks_add(&world->blocks, "ram", RAM_PAGES * RAM_PAGE_BYTES, RAM_PAGE_BYTES, NULL);
	hf_ramblocks_add(&world->blocks, "rom", ROM_PAGES * CHUNK_BYTES, CHUNK_BYTES, NULL);
	struct hf_source_config config = {
	    .vm_name = "here",
	    .blocks = &world->blocks,
	    .clock = {.now_ns = clock_now, .self = world},
	    .memory = {.ops = &memory_ops, .self = world},
	    .transport = {.ops = &transport_ops, .self = world},
	    .vm = {.ops = &vm_ops, .self = world},
	    .wish_placement = shape & 1,
	    .placement = shape & 2 ? HF_PLACEMENT_CONTINUE : HF_PLACEMENT_COPY,
	    .hold_background = shape & 4,
	    .precopy = world->rounds,
	    .precopy_only = world->only,
	    .downtime_limit_ns = shape & 4 ? 1 : 0,
	};
	if (world->recovers)
		config.recorder = (struct hf_recorder){.ops = &recorder_ops, .self = world};
	fuzz_check(hf_source_create(&world->source, &config, NULL) == 0);
}

void world_destroy(struct world *world)
{
	hf_source_destroy(world->source);
	hf_ramblocks_destroy(&world->blocks);
}
