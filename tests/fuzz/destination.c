/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: the destination's engine. The input is a series of events: a source that says anything at any time,
 * a link that fails, a VMM that says no, memory that cannot be had, threads that fault, an operator; also in
 * the middle of the engine's calls of its ports. destination_world.c holds the rules.
 *
 * A bit of the input's shape says that the session goes on over later links; then records end when the input
 * says so, and may fail, and the VMM may end. Another bit lets the source name rounds of pre-copy.
 *
 * At the end everything that can go on goes on: then no thread may be waiting for a page, and a VM that runs
 * must have all its pages.
 */
#include <errno.h>
#include <string.h>

#include "tests/fuzz/destination_world.h"

#define EVENTS_MAX  400
#define PAYLOAD_MAX 1024

/* ---- messages ---------------------------------------------------------------------------------- */

/* What the source's ADVISE means for the world, when the engine takes it. */
static void note_advise(struct world *world, const uint8_t *payload, size_t bytes)
{
	char name[HF_WIRE_VM_NAME_MAX + 1];
	struct hf_ramblocks source;
	uint32_t block_of_source[BLOCKS];
	hf_ramblocks_init(&source);
	if (hf_wire_decode_advise(payload, bytes, name, &source, NULL) == 0 && source.count == BLOCKS &&
	    hf_ramblocks_match(&source, &world->blocks, block_of_source, NULL) == 0) {
		world->advised = true;
		for (uint32_t i = 0; i < BLOCKS; i++)
			world->source_of_block[block_of_source[i]] = i;
	}
	hf_ramblocks_destroy(&source);
}

static uint32_t presence_pages(const struct world *world)
{
	return world->source_of_block[0] == world->presence_block ? RAM_PAGES : ROM_PAGES;
}

/* The map counts when it goes on where it has to. */
static void note_presence(struct world *world, const uint8_t *payload, size_t bytes)
{
	struct hf_wire_presence presence;
	uint32_t first = world->source_of_block[0] == world->presence_block ? 0 : RAM_PAGES;
	if (hf_wire_decode_presence(payload, bytes, &presence, NULL) ||
	    presence.block != world->presence_block || presence.first_page != world->presence_page ||
	    presence.pages > presence_pages(world) - world->presence_page)
		return;
	for (uint32_t i = 0; i < presence.pages; i++)
		world->pages[first + presence.first_page + i].present = presence.bits[i / 8] >> i % 8 & 1;
	world->presence_page += presence.pages;
	if (world->presence_page < presence_pages(world))
		return;
	world->presence_page = 0;
	world->presence_whole = ++world->presence_block == BLOCKS;
}

static void note_device_end(struct world *world, const uint8_t *payload, size_t bytes)
{
	struct hf_wire_device_end end;
	if (hf_wire_decode_device_end(payload, bytes, &end, NULL) == 0 &&
	    end.total_bytes == world->state_bytes)
		world->device_ended = true;
}

/* What is wrong with it ends the migration, so that nothing of it matters any more. */
static void note_round(struct world *world, const uint8_t *payload, size_t bytes)
{
	struct hf_wire_presence piece;
	if (hf_wire_decode_round(payload, bytes, &piece, NULL) || piece.block >= BLOCKS || world->round_open)
		return;
	uint32_t block = world->source_of_block[0] == piece.block ? 0 : 1;
	uint32_t pages = block ? ROM_PAGES : RAM_PAGES;
	if (piece.first_page >= pages || piece.pages > pages - piece.first_page)
		return;
	world->named |= (uint8_t)(piece.bits[0] << ((block ? RAM_PAGES : 0) + piece.first_page));
}

static void note_round_end(struct world *world, const uint8_t *payload, size_t bytes)
{
	struct hf_wire_round_end end;
	if (hf_wire_decode_round_end(payload, bytes, &end, NULL) || world->round_open || world->final ||
	    end.round != world->round + 1 || end.flags & HF_WIRE_ROUND_CUT)
		return;
	for (uint32_t page = 0; page < PAGES; page++)
		world->pages[page].version += world->named >> page & 1;
	world->round = end.round;
	world->in_round = world->named;
	world->named = 0;
	world->final = end.flags & HF_WIRE_ROUND_FINAL;
	world->whole = end.flags & HF_WIRE_ROUND_WHOLE;
	world->round_open = !world->final;
}

/* After RUN it is a lie, and takes nothing back. */
static void note_fail(struct world *world)
{
	world->answers_fail = true;
	world->fail_heard |= !world->recovers || !world->run_heard_once;
}

/* Before the engine hears it: what it may do from now on. */
static void note_message(struct world *world, uint32_t type, const uint8_t *payload, size_t bytes)
{
	struct hf_destination_snapshot now = world_snapshot(world);
	bool active = now.status == HF_STATUS_ACTIVE;
	struct hf_err why;
	if (hf_status_is_final(now.status))
		return;
	if (type == HF_WIRE_ADVISE && now.status == HF_STATUS_SETUP && !world->advised)
		note_advise(world, payload, bytes);
	else if (type == HF_WIRE_PRESENCE && active && !world->presence_whole &&
		 (!world->rounds || world->final))
		note_presence(world, payload, bytes);
	else if (type == HF_WIRE_DEVICE && active && world->presence_whole) {
		memcpy(world->state + world->state_bytes, payload, bytes);
		world->state_bytes += bytes;
	} else if (type == HF_WIRE_DEVICE_END && active && world->presence_whole)
		note_device_end(world, payload, bytes);
	else if (type == HF_WIRE_ROUND && active && world->rounds)
		note_round(world, payload, bytes);
	else if (type == HF_WIRE_ROUND_END && active && world->rounds)
		note_round_end(world, payload, bytes);
	else if (type == HF_WIRE_RUN && world->sent[HF_WIRE_LOADED])
		world->run_heard = world->run_heard_once = true;
	else if (type == HF_WIRE_FAIL && hf_wire_decode_fail(payload, bytes, &why, NULL) == 0)
		note_fail(world);
}

static void hear(struct world *world, uint32_t type, const uint8_t *payload, size_t bytes)
{
	if (!world->epoch || (type == HF_WIRE_DEVICE && bytes > STATE_MAX_BYTES - world->state_bytes))
		return;
	note_message(world, type, payload, bytes);
	hf_destination_events.message(world->destination, world->epoch, type, payload, bytes);
}

static ssize_t make_advise(const struct world *world, bool same_order, uint8_t *payload)
{
	struct hf_ramblocks source;
	hf_ramblocks_init(&source);
	for (uint32_t i = 0; i < BLOCKS; i++) {
		const struct hf_ramblock *block = &world->blocks.blocks[same_order ? i : BLOCKS - 1 - i];
		hf_ramblocks_add(&source, block->idstr, block->length_bytes, block->page_size_bytes, NULL);
	}
	ssize_t bytes = hf_wire_encode_advise("here", &source, payload, PAYLOAD_MAX);
	hf_ramblocks_destroy(&source);
	return bytes;
}

static ssize_t make_presence(const struct world *world, uint8_t bits, uint8_t *payload)
{
	uint32_t pages = presence_pages(world) - world->presence_page;
	uint8_t map = bits & (uint8_t)((1u << pages) - 1);
	struct hf_wire_presence presence = {.block = world->presence_block,
					    .first_page = world->presence_page,
					    .pages = pages,
					    .bits = &map,
					    .bits_bytes = 1};
	return hf_wire_encode_presence(&presence, payload, PAYLOAD_MAX);
}

/* A message of this type as it should be; `detail` is what it may say. */
static ssize_t make_message(const struct world *world, uint32_t type, uint8_t detail, uint8_t *payload)
{
	struct hf_wire_device_end end = {.total_bytes = world->state_bytes};
	struct hf_wire_finish finish = {.downtime_ns = detail};
	struct hf_wire_wish wish = {.placement = detail % 3, .hold_background = detail >> 7};
	struct hf_err why;
	switch (type) {
	case HF_WIRE_ADVISE:
		return make_advise(world, detail & 1, payload);
	case HF_WIRE_PRESENCE:
		return make_presence(world, detail, payload);
	case HF_WIRE_DEVICE:
		memset(payload, detail, 1 + detail % 16);
		return 1 + detail % 16;
	case HF_WIRE_DEVICE_END:
		return hf_wire_encode_device_end(&end, payload, PAYLOAD_MAX);
	case HF_WIRE_FINISH:
		return hf_wire_encode_finish(&finish, payload, PAYLOAD_MAX);
	case HF_WIRE_WISH:
		return hf_wire_encode_wish(&wish, payload, PAYLOAD_MAX);
	case HF_WIRE_FAIL:
		hf_err_set(&why, HF_ERR_LOCAL, EIO, "the disk is on fire");
		return hf_wire_encode_fail(&why, payload, PAYLOAD_MAX);
	default:
		return 0;
	}
}

/* A set of one block's pages, or the end of one. */
static ssize_t make_round(const struct world *world, uint32_t type, uint8_t detail, uint8_t *payload)
{
	uint32_t block = detail >> 7;
	uint8_t map = detail & (world->source_of_block[0] == block ? 0xf : 7);
	struct hf_wire_presence piece = {.block = block,
					 .pages = world->source_of_block[0] == block ? RAM_PAGES : ROM_PAGES,
					 .bits = &map,
					 .bits_bytes = 1};
	struct hf_wire_round_end end = {.round = world->round + !world->round_open};
	if (type == HF_WIRE_ROUND)
		return hf_wire_encode_round(&piece, payload, PAYLOAD_MAX);
	if (world->round_open)
		end.flags = detail & 1 ? HF_WIRE_ROUND_CUT : 0;
	else if (detail & 2)
		end.flags = HF_WIRE_ROUND_FINAL | (detail & 4 ? HF_WIRE_ROUND_WHOLE : 0);
	end.limit_bytes_per_s = detail & 8 ? (uint64_t)detail << 12 : 0;
	return hf_wire_encode_round_end(&end, payload, PAYLOAD_MAX);
}

/* ---- events ------------------------------------------------------------------------------------ */

static void on_message(struct world *world)
{
	uint32_t type = 1 + fuzz_below(world->input, HF_WIRE_WISH);
	uint8_t payload[PAYLOAD_MAX];
	ssize_t bytes = make_message(world, type, fuzz_u8(world->input), payload);
	if (bytes >= 0)
		hear(world, type, payload, (size_t)bytes);
}

static void on_round(struct world *world)
{
	uint8_t payload[PAYLOAD_MAX], choice = fuzz_u8(world->input);
	uint32_t type = choice & 1 ? HF_WIRE_ROUND_END : HF_WIRE_ROUND;
	ssize_t bytes = make_round(world, type, fuzz_u8(world->input), payload);
	if (bytes >= 0)
		hear(world, type, payload, (size_t)bytes);
}

static void on_wrong_message(struct world *world)
{
	uint32_t type = fuzz_u8(world->input);
	size_t bytes;
	const uint8_t *payload = fuzz_piece(world->input, &bytes);
	hear(world, type, payload, bytes);
}

static void on_stale(struct world *world)
{
	uint64_t epoch = world->epoch + 1 + fuzz_below(world->input, 3);
	struct hf_fetch_done done = {.id = fuzz_u16(world->input), .epoch = epoch};
	uint8_t payload[PAYLOAD_MAX];
	ssize_t bytes = make_message(world, HF_WIRE_FAIL, 0, payload);
	hf_destination_events.fetch_done(world->destination, &done);
	hf_destination_events.message(world->destination, epoch, HF_WIRE_FAIL, payload, (size_t)bytes);
	hf_destination_events.link_down(world->destination, epoch, NULL);
}

static void on_link_up(struct world *world)
{
	if (world->epoch || world->depth)
		return;
	static const uint32_t each[] = {HF_WIRE_RESUMED, HF_WIRE_COMPLETE, HF_WIRE_FAIL};
	struct hf_link_info info = {.epoch = 1 + (world_snapshot(world).status != HF_STATUS_NONE),
				    .version = 1,
				    .features =
					HF_WIRE_FEATURE_FIRST | (world->rounds ? HF_WIRE_FEATURE_PRECOPY : 0),
				    .channels = {1, 1},
				    .capacity_chunks = {CAPACITY, CAPACITY},
				    .name = "fuzz"};
	if (world->recovers) {
		info.epoch = ++world->epoch_last;
		info.features |= HF_WIRE_FEATURE_RECOVER;
		world->run_heard = false;
		for (size_t i = 0; i < sizeof(each) / sizeof(each[0]); i++)
			world->sent[each[i]] = 0;
	}
	world->epoch = info.epoch;
	world->link_failing = false;
	hf_destination_events.link_up(world->destination, &info);
}

/* From here on the transport takes no fetch; whatever is outstanding ends before link_down. */
static void on_link_down(struct world *world)
{
	struct hf_err why;
	if (!world->epoch || world->depth)
		return;
	world->link_failing = true;
	while (world->fetch_count)
		world_end_fetch(world, 0, HF_FETCH_FAILED);
	uint64_t epoch = world->epoch;
	world->epoch = 0;
	hf_err_set(&why, HF_ERR_LINK, ECONNRESET, "the cable is cut");
	hf_destination_events.link_down(world->destination, epoch, fuzz_below(world->input, 2) ? &why : NULL);
}

static void on_memory_ready(struct world *world)
{
	struct hf_err why;
	if (!world->prepare_asked || world->prepared || world->memory_failed)
		return;
	world->memory_failed = fuzz_below(world->input, 8) == 7;
	world->prepared = !world->memory_failed;
	hf_err_set(&why, HF_ERR_LOCAL, ENOMEM, "no huge pages");
	hf_destination_memory_ready(world->destination, world->memory_failed ? -ENOMEM : 0,
				    world->memory_failed ? &why : NULL);
}

static void on_fault(struct world *world)
{
	uint32_t page = fuzz_below(world->input, PAGES);
	world_fault(world, page, fuzz_below(world->input, THREADS));
}

static void on_work(struct world *world)
{
	enum hf_work_class class = fuzz_below(world->input, HF_WORK_CLASSES);
	if (world->prepared)
		hf_destination_work(world->destination, class);
}

static void on_fetch_done(struct world *world)
{
	uint8_t choice = fuzz_u8(world->input);
	if (!world->fetch_count)
		return;
	enum hf_fetch_status status = choice >= 0xf0 ? HF_FETCH_FAILED : HF_FETCH_OK;
	if (status != HF_FETCH_OK)
		world->link_failing = true;
	world_end_fetch(world, choice % world->fetch_count, status);
}

static void on_vm_done(struct world *world)
{
	struct hf_err why;
	if (!world->vm_busy)
		return;
	int result = fuzz_below(world->input, 8) == 7 ? -EIO : 0;
	if (result && world->recovers && world->vm_op == HF_VM_RUN && fuzz_below(world->input, 2))
		result = -EOWNERDEAD;
	hf_err_set(&why, HF_ERR_LOCAL, EIO, "the VMM says no");
	struct hf_vm_result end = {.op = world->vm_op, .result = result, .err = result ? &why : NULL};
	world->vm_busy = false;
	if (result == 0 && world->vm_op == HF_VM_LOAD)
		world->load_done = true;
	if (world->vm_op == HF_VM_RUN && (result == 0 || result == -EOWNERDEAD))
		world->run_done = true;
	world->vmm_gone |= result == -EOWNERDEAD || (result == 0 && world->vm_op == HF_VM_KILL);
	hf_destination_vm_done(world->destination, &end);
}

static void on_operator(struct world *world)
{
	struct hf_err why;
	uint8_t choice = fuzz_u8(world->input);
	if (choice < 0x80) {
		hf_destination_hold_background(world->destination, choice & 1);
	} else if (choice < 0xc0) {
		bool too_late = world->sent[HF_WIRE_LOADED] && !world->fail_heard;
		if (hf_destination_cancel(world->destination, NULL) == 0)
			fuzz_check(!too_late);
	} else {
		hf_err_set(&why, HF_ERR_LOCAL, ESRCH, "the VMM is gone");
		hf_destination_fail(world->destination, &why);
	}
}

static void on_time(struct world *world)
{
	world->now_ns += (uint64_t)fuzz_u8(world->input) << 16;
}

static void on_recorded(struct world *world)
{
	struct hf_err why;
	if (!world->recording)
		return;
	bool fails = !world->kind && fuzz_below(world->input, 8) == 7;
	hf_err_set(&why, HF_ERR_LOCAL, ENOSPC, "the disk is full");
	world->recording = false;
	if (!fails)
		world->on_record = world->record;
	hf_destination_recorded(world->destination, world->record, fails ? -ENOSPC : 0, fails ? &why : NULL);
}

static void on_vmm_ended(struct world *world)
{
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LOCAL, ESRCH, "the VMM has ended");
	if (fuzz_below(world->input, 8) == 7)
		world->vmm_gone = true;
	if (world->vmm_gone)
		hf_destination_vm_ended(world->destination, &why);
}

static void on_pause(struct world *world)
{
	uint8_t choice = fuzz_u8(world->input);
	if (choice >= 0xf0)
		hf_destination_let_go(world->destination);
	else if (choice >= 0x80)
		hf_destination_recover_setup(world->destination, choice & 1);
	else if (hf_destination_pause(world->destination, NULL) == 0)
		fuzz_check(world->on_record != HF_RECORD_NONE);
}

/* Who calls the engine with it. What a thread does is over before it does the next thing. */
enum thread { CONTROL, READER, WORKER, VM_WORKER, MAIN, CHANNELS, RECORDER };

static const struct {
	void (*happens)(struct world *world);
	enum thread thread;
} events[] = {
    {on_time, MAIN},
    {on_message, CONTROL},
    {on_link_up, CONTROL},
    {on_memory_ready, WORKER},
    {on_fault, READER},
    {on_work, WORKER},
    {on_fetch_done, CHANNELS},
    {on_vm_done, VM_WORKER},
    {on_operator, MAIN},
    {on_link_down, CONTROL},
    {on_wrong_message, CONTROL},
    {on_stale, CONTROL},
    {on_message, CONTROL},
    {on_fault, READER},
    {on_work, WORKER},
    {on_fetch_done, CHANNELS},
    // Of a session that goes on:
    {on_recorded, RECORDER},
    {on_recorded, RECORDER},
    {on_vmm_ended, MAIN},
    {on_pause, MAIN},
};
#define EVENTS_OF_ONE_LINK 16
#define ROUND_EVENTS	   3 /* on_round, of the control thread */

static void event(struct world *world)
{
	uint32_t count = world->recovers ? sizeof(events) / sizeof(events[0]) : EVENTS_OF_ONE_LINK;
	uint32_t choice = fuzz_below(world->input, count + (world->rounds ? ROUND_EVENTS : 0));
	enum thread thread = choice < count ? events[choice].thread : CONTROL;
	unsigned bit = 1u << thread;
	if (thread != CHANNELS && world->running & bit)
		return;
	unsigned before = world->running;
	world->running |= bit;
	(choice < count ? events[choice].happens : on_round)(world);
	world->running = before;
}

/* ---- the end of a run -------------------------------------------------------------------------- */

/* What waits for a limit waits for time to pass. */
static bool work_moves(struct world *world, enum hf_work_class class)
{
	enum hf_work_next next = hf_destination_work(world->destination, class);
	return next != HF_WORK_IDLE && next != HF_WORK_SOON;
}

/* Nobody says anything new; what has begun goes on until nothing moves. */
static void settle(struct world *world)
{
	world->kind = true;
	hf_destination_hold_background(world->destination, false);
	on_memory_ready(world);
	for (int i = 0; i < 4; i++) {
		on_vm_done(world);
		on_recorded(world);
	}
	for (uint32_t round = 0; round < 2000; round++) {
		bool moved = world->fetch_count > 0;
		if (moved)
			world_end_fetch(world, 0, HF_FETCH_OK);
		for (int class = 0; class < HF_WORK_CLASSES; class ++)
			moved |= world->prepared && work_moves(world, (enum hf_work_class) class);
		if (!moved)
			return;
	}
	fuzz_check(!"the work never ends");
}

static void check_settled(struct world *world)
{
	struct hf_destination_snapshot now = world_snapshot(world);
	bool refused = world->recovers && world->vmm_gone && !world->run_done;
	fuzz_check(now.status != HF_STATUS_FAILED || !world->run_asked || refused || world->answers_fail);
	fuzz_check(!hf_status_is_final(now.status) || now.status == HF_STATUS_COMPLETED || now.err.text[0]);
	fuzz_check(now.status != HF_STATUS_COMPLETED || world->released);
	bool serves = now.status == HF_STATUS_DEVICE || now.status == HF_STATUS_POSTCOPY_ACTIVE;
	if (!serves || !world->epoch || world->link_failing || world->vmm_gone ||
	    now.handover == HF_DESTINATION_LOST || now.handover == HF_DESTINATION_KILLING)
		return;
	for (uint32_t page = 0; page < PAGES; page++) {
		fuzz_check(!world->pages[page].waited_for);
		fuzz_check(!world->run_done || world_has(world, page));
	}
	fuzz_check(!world->run_done || world->sent[HF_WIRE_COMPLETE]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static struct world world;
	struct fuzz_input input = {.at = data, .left = bytes};
	world_create(&world, &input, event);
	for (uint32_t i = 0; i < EVENTS_MAX && input.left; i++)
		event(&world);
	settle(&world);
	check_settled(&world);
	on_link_down(&world);
	world_destroy(&world);
	return 0;
}
