/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: the source's engine. The input is a series of events: a destination that says and asks anything at
 * any time, a link that fails, a VMM that says no, an operator; also in the middle of the engine's calls of
 * its ports.
 *
 * A bit of the input's shape says that the session goes on over later links; then records and the fence end
 * when the input says so, and may fail.
 *
 * The rules: the VM is stopped only after READY and saved only when it stands still; once it is given up it
 * never runs here again, unless it was refused and that is on record, and RUN is said once on a link; a
 * migration that fails before leaves the VM running; pages that do not exist are not touched; what is served
 * is what lies there, from DEVICE_END on, or in a round what the round names; what was written since it was
 * named is named again, and the VM is not stopped in a round.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/zero.h"
#include "tests/fuzz/source_world.h"

enum {
	EVENTS_MAX = 400,
	PAYLOAD_MAX = 600,
	RANGES = 8,
};

/* ---- messages ---------------------------------------------------------------------------------- */

static void note_message(struct world *world, uint32_t type, const uint8_t *payload, size_t bytes)
{
	struct hf_source_snapshot now = world_snapshot(world);
	struct hf_wire_ready ready;
	struct hf_wire_link link;
	struct hf_wire_round_done done;
	struct hf_err why;
	if (hf_status_is_final(now.status))
		return;
	if (type == HF_WIRE_ROUND_DONE && hf_wire_decode_round_done(payload, bytes, &done, NULL) == 0 &&
	    done.round == world->told && !world->final) {
		world->done = done.round;
		world->round = 0;
	}
	if (type == HF_WIRE_LINK && hf_wire_decode_link(payload, bytes, &link, NULL) == 0)
		world->link_heard = true;
	else if (type == HF_WIRE_READY && (!world->measures || world->link_heard) &&
		 hf_wire_decode_ready(payload, bytes, &ready, NULL) == 0)
		world->ready_heard = true;
	else if (type == HF_WIRE_LOADED && world->sent[HF_WIRE_DEVICE_END])
		world->loaded_heard = true;
	else if (type == HF_WIRE_RESUMED && world->loaded_heard)
		world->resumed_heard = true;
	else if (type == HF_WIRE_COMPLETE && world->resumed_heard)
		world->complete_heard = true;
	else if (type == HF_WIRE_FAIL && hf_wire_decode_fail(payload, bytes, &why, NULL) == 0)
		world->fail_heard = true;
	else if (type == HF_WIRE_REFUSED && world->recovers &&
		 hf_wire_decode_refused(payload, bytes, &why, NULL) == 0)
		world->refused_heard = true;
}

static void hear(struct world *world, uint32_t type, const uint8_t *payload, size_t bytes)
{
	if (!world->epoch)
		return;
	note_message(world, type, payload, bytes);
	hf_source_events.message(world->source, world->epoch, type, payload, bytes);
}

static ssize_t make_message(uint32_t type, uint8_t detail, uint8_t *payload)
{
	struct hf_wire_ready ready = {.placement = detail & 1, .chunk_bytes = CHUNK_BYTES << detail % 4};
	struct hf_wire_link link = {.round_trip_ns = 1000u * detail,
				    .rate_bytes_per_s = (uint64_t)detail << 22};
	struct hf_err why;
	switch (type) {
	case HF_WIRE_LINK:
		return hf_wire_encode_link(&link, payload, PAYLOAD_MAX);
	case HF_WIRE_READY:
		return hf_wire_encode_ready(&ready, payload, PAYLOAD_MAX);
	case HF_WIRE_FAIL:
		hf_err_set(&why, HF_ERR_LOCAL, ENOMEM, "no huge pages");
		return hf_wire_encode_fail(&why, payload, PAYLOAD_MAX);
	case HF_WIRE_REFUSED:
		hf_err_set(&why, HF_ERR_LOCAL, EIO, "it will not run");
		return hf_wire_encode_refused(&why, payload, PAYLOAD_MAX);
	default:
		return 0;
	}
}

/* ---- events ------------------------------------------------------------------------------------ */

static void on_time(struct world *world)
{
	world->now_ns += (uint64_t)fuzz_u8(world->input) << 16;
}

static void on_message(struct world *world)
{
	uint32_t type = 1 + fuzz_below(world->input, HF_WIRE_LINK);
	uint8_t payload[PAYLOAD_MAX];
	ssize_t bytes = make_message(type, fuzz_u8(world->input), payload);
	if (bytes >= 0)
		hear(world, type, payload, (size_t)bytes);
}

static void on_round_done(struct world *world)
{
	uint8_t detail = fuzz_u8(world->input), payload[PAYLOAD_MAX];
	struct hf_wire_round_done done = {.round = world->told + (detail == 0xff),
					  .moved_bytes = (uint64_t)detail << 10,
					  .duration_ns = (uint64_t)detail << 12};
	ssize_t bytes = hf_wire_encode_round_done(&done, payload, sizeof(payload));
	if (bytes > 0)
		hear(world, HF_WIRE_ROUND_DONE, payload, (size_t)bytes);
}

/* The guest writes a page, or lets go of it. */
static void on_write(struct world *world)
{
	uint8_t choice = fuzz_u8(world->input);
	uint32_t page = choice % PAGES, block = page >= RAM_PAGES;
	if (!world->vm_runs || world->stopped)
		return;
	size_t size = block ? CHUNK_BYTES : RAM_PAGE_BYTES;
	uint8_t *at = world_address(world, block, (block ? page - RAM_PAGES : page) * size);
	world->present[page] = choice < 0xc0;
	if (world->present[page])
		at[choice] ^= choice | 1;
	else
		memset(at, 0, size);
	world->written |= 1u << page;
}

static void on_round_operator(struct world *world)
{
	uint8_t choice = fuzz_u8(world->input);
	if (choice < 0x60)
		fuzz_check(hf_source_start_postcopy(world->source, NULL) == (world->only ? -EPERM : 0));
	else if (choice < 0xb0)
		hf_source_limit_rounds(world->source, choice & 1 ? 0 : (uint64_t)choice << 20);
	else
		hf_source_limit_downtime(world->source, choice & 1 ? 1 : (uint64_t)choice << 16);
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
	hf_source_events.message(world->source, epoch, HF_WIRE_LOADED, NULL, 0);
	hf_source_events.link_down(world->source, epoch, NULL);
}

static uint64_t features_of(const struct world *world)
{
	return HF_WIRE_FEATURE_FIRST | (world->measures ? HF_WIRE_FEATURE_LINK : 0) |
	       (world->spoken ? HF_WIRE_FEATURE_PRECOPY : 0);
}

/* Each link has its own count of what is said on it. */
static void on_later_link(struct world *world)
{
	static const uint32_t each[] = {HF_WIRE_ADVISE, HF_WIRE_RUN, HF_WIRE_FAIL, HF_WIRE_FINISH};
	struct hf_link_info info = {.epoch = world->epoch_last + 1,
				    .version = 1,
				    .features = HF_WIRE_FEATURE_RECOVER | features_of(world),
				    .channels = {1, 1},
				    .capacity_chunks = {4, 4},
				    .name = "fuzz"};
	for (size_t i = 0; i < sizeof(each) / sizeof(each[0]); i++)
		world->sent[each[i]] = 0;
	world->fail_heard = world->resumed_heard = false;
	world->epoch = world->epoch_last = info.epoch;
	hf_source_events.link_up(world->source, &info);
}

static void on_link_up(struct world *world)
{
	if (world->epoch || world->depth)
		return;
	if (world->recovers) {
		on_later_link(world);
		return;
	}
	struct hf_link_info info = {.epoch = 1 + (world_snapshot(world).status != HF_STATUS_NONE),
				    .version = 1,
				    .features = features_of(world),
				    .channels = {1, 1},
				    .capacity_chunks = {4, 4},
				    .name = "fuzz"};
	world->epoch = info.epoch;
	hf_source_events.link_up(world->source, &info);
	// Only the first link is taken; another one stays without an answer.
	if (info.epoch > 1)
		world->epoch = 0;
}

static void on_link_down(struct world *world)
{
	struct hf_err why;
	if (!world->epoch || world->depth)
		return;
	uint64_t epoch = world->epoch;
	world->epoch = 0;
	hf_err_set(&why, HF_ERR_LINK, ECONNRESET, "the cable is cut");
	hf_source_events.link_down(world->source, epoch, fuzz_below(world->input, 2) ? &why : NULL);
}

static void on_request(struct world *world)
{
	struct hf_serve_request request = {.epoch = world->epoch};
	struct hf_serve_reply reply = {0};
	struct hf_err err = HF_ERR_INIT;
	request.block = fuzz_below(world->input, BLOCKS + 2);
	bool probe = request.block == BLOCKS + 1;
	if (probe)
		request.block = HF_WIRE_PROBE_BLOCK;
	request.offset_bytes = (uint64_t)fuzz_u8(world->input) << 11;
	request.length_bytes = (uint32_t)fuzz_u8(world->input) << 11;
	if (!world->epoch)
		return;
	if (hf_source_events.serve(world->source, &request, &reply, &err)) {
		fuzz_check(err.class == HF_ERR_PEER || err.class == HF_ERR_LOCAL);
		return;
	}
	if (probe) { // bytes without a meaning, while the link is measured
		fuzz_check(world->measures && !world->ready_heard && request.length_bytes > 0);
		fuzz_check(!hf_is_zero(reply.bytes, request.length_bytes));
		return;
	}
	const struct hf_ramblock *block = &world->blocks.blocks[request.block];
	// After a failure the answers mean nothing, but go on until FAIL has left.
	uint32_t bit = 1u << world_page(request.block, request.offset_bytes);
	bool in_round = !world->saved;
	fuzz_check(in_round ? world->round & bit : !world->complete_heard || world->recovers);
	fuzz_check(world_snapshot(world).status != HF_STATUS_COMPLETED);
	fuzz_check(in_round || !world->vm_runs || hf_status_is_final(world_snapshot(world).status));
	fuzz_check(request.block < BLOCKS && request.length_bytes > 0);
	fuzz_check(request.offset_bytes % block->page_size_bytes + request.length_bytes <=
		   block->page_size_bytes);
	fuzz_check(request.offset_bytes + request.length_bytes <= block->length_bytes);
	fuzz_check(reply.zero == !reply.bytes);
	static const uint8_t zeros[RAM_PAGE_BYTES];
	bool present = world->present[world_page(request.block, request.offset_bytes)];
	if (in_round && world->known_holes & bit)
		present = false; // it was one when it was named
	fuzz_check(memcmp(reply.zero ? zeros : reply.bytes,
			  present ? world_address(world, request.block, request.offset_bytes) : zeros,
			  request.length_bytes) == 0);
}

static void note_vm_done(struct world *world, int result)
{
	if (world->vm_op == HF_VM_STOP && result == -EPERM)
		world->stopped_by_others = true;
	if (world->vm_op == HF_VM_STOP && (result == 0 || result == -EPERM))
		world->vm_runs = false;
	if (world->vm_op == HF_VM_STOP && result == 0)
		world->stopped = true;
	if (world->vm_op == HF_VM_SAVE && result == 0)
		world->saved = true;
	if (world->vm_op == HF_VM_FENCE && result == -EPERM)
		world->vm_runs = true; // somebody else has run it
	if (world->vm_op == HF_VM_RESUME && result == 0)
		world->vm_runs = true;
	if (world->vm_op == HF_VM_RESUME && result)
		world->resume_failed = true;
}

/* Some lie in a block, some do not; of the time, so that they cost no input. */
static void make_ranges(const struct world *world, struct hf_vm_range ranges[static RANGES])
{
	static const char *const names[] = {"ram", "rom", "disk"};
	for (uint32_t i = 0; i < RANGES; i++) {
		uint64_t random = (world->now_ns + i) * 0x9e3779b97f4a7c15;
		snprintf(ranges[i].idstr, sizeof(ranges[i].idstr), "%s", names[random >> 60 & 3 ? 0 : i % 3]);
		ranges[i].offset_bytes = i == 5 ? random : (random >> 32 & 0x7f) << 9;
		ranges[i].length_bytes = i == 7 ? random : random >> 40 & 0x3fff;
	}
}

static void on_vm_done(struct world *world)
{
	if (!world->vm_busy)
		return;
	int result = world_answer(world, 1) ? (fuzz_below(world->input, 2) ? -EPERM : -EIO) : 0;
	if (world->vm_op != HF_VM_STOP && world->vm_op != HF_VM_FENCE && result)
		result = -EIO;
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LOCAL, EIO, "the VMM says no");
	struct hf_vm_result end = {.op = world->vm_op, .result = result, .err = result ? &why : NULL};
	struct hf_vm_range ranges[RANGES];
	uint8_t *data = NULL;
	if (world->vm_op == HF_VM_STOP && result == 0) {
		make_ranges(world, ranges);
		end.first = ranges;
		end.first_count = RANGES;
	}
	if (world->vm_op == HF_VM_SAVE && result == 0) {
		data = malloc(STATE_BYTES);
		fuzz_check(data);
		memcpy(data, world->state, STATE_BYTES);
		end.data = data;
		end.length_bytes = STATE_BYTES;
	}
	note_vm_done(world, result);
	world->vm_busy = false;
	hf_source_vm_done(world->source, &end);
	free(data); // it ends with the call
}

static void on_operator(struct world *world)
{
	struct hf_err why;
	uint8_t choice = fuzz_u8(world->input);
	if (choice < 0x40) {
		hf_source_hold_background(world->source, choice & 1);
	} else if (choice < 0xa0) {
		if (hf_source_cancel(world->source, NULL) == 0)
			fuzz_check(!world->sent[HF_WIRE_RUN]);
	} else {
		hf_err_set(&why, HF_ERR_LOCAL, ESRCH, "a thread is gone");
		hf_source_fail(world->source, &why);
	}
}

static void on_recorded(struct world *world)
{
	struct hf_err why;
	if (!world->recording)
		return;
	bool fails = world_answer(world, 1);
	hf_err_set(&why, HF_ERR_LOCAL, ENOSPC, "the disk is full");
	world->recording = false;
	// After a failure either may be there; for the rules, what allows less.
	if (!fails || world->record == HF_RECORD_GIVEN_UP)
		world->on_record = world->record;
	hf_source_recorded(world->source, world->record, fails ? -ENOSPC : 0, fails ? &why : NULL);
}

static void on_refused(struct world *world)
{
	uint8_t payload[PAYLOAD_MAX];
	ssize_t bytes = make_message(HF_WIRE_REFUSED, 0, payload);
	if (bytes > 0)
		hear(world, HF_WIRE_REFUSED, payload, (size_t)bytes);
}

static void on_pause(struct world *world)
{
	uint8_t choice = fuzz_u8(world->input);
	if (choice >= 0x80)
		hf_source_recover_setup(world->source, choice & 1);
	else if (hf_source_pause(world->source, NULL) == 0)
		fuzz_check(world_snapshot(world).owner == HF_VM_OWNER_DESTINATION);
}

/* Who calls the engine with it. What a thread does is over before it does the next thing. */
enum thread { CONTROL, VM_WORKER, MAIN, CHANNELS, RECORDER, GUEST };

static const struct {
	void (*happens)(struct world *world);
	enum thread thread;
} events[] = {
    {on_time, MAIN},
    {on_message, CONTROL},
    {on_link_up, CONTROL},
    {on_vm_done, VM_WORKER},
    {on_request, CHANNELS},
    {on_operator, MAIN},
    {on_link_down, CONTROL},
    {on_wrong_message, CONTROL},
    {on_stale, CONTROL},
    {on_message, CONTROL},
    {on_request, CHANNELS},
    {on_vm_done, VM_WORKER},
    // Of a session that goes on:
    {on_recorded, RECORDER},
    {on_refused, CONTROL},
    {on_pause, MAIN},
    {on_recorded, RECORDER},
};
#define EVENTS_OF_ONE_LINK 12

static const struct {
	void (*happens)(struct world *world);
	enum thread thread;
} round_events[] = {
    {on_round_done, CONTROL}, {on_write, GUEST}, {on_round_operator, MAIN},
    {on_round_done, CONTROL}, {on_write, GUEST},
};
#define ROUND_EVENTS (sizeof(round_events) / sizeof(round_events[0]))

static void event(struct world *world)
{
	uint32_t plain = world->recovers ? sizeof(events) / sizeof(events[0]) : EVENTS_OF_ONE_LINK;
	uint32_t choice = fuzz_below(world->input, plain + (world->rounds ? ROUND_EVENTS : 0));
	enum thread thread = choice < plain ? events[choice].thread : round_events[choice - plain].thread;
	unsigned bit = 1u << thread;
	if (thread != CHANNELS && world->running & bit)
		return;
	unsigned before = world->running;
	world->running |= bit;
	(choice < plain ? events[choice].happens : round_events[choice - plain].happens)(world);
	world->running = before;
}

/* ---- a run ------------------------------------------------------------------------------------- */

static void end_what_has_begun(struct world *world)
{
	for (int i = 0; i < 8 && (world->vm_busy || world->recording); i++) {
		on_vm_done(world);
		on_recorded(world);
	}
}

/* The VMM ends what it was asked for, and the link goes. */
static void settle(struct world *world)
{
	world->kind = true;
	end_what_has_begun(world);
	fuzz_check(!world->vm_busy && !world->recording);
	on_link_down(world);
	end_what_has_begun(world);
}

static void check_settled(struct world *world)
{
	struct hf_source_snapshot now = world_snapshot(world);
	bool given_up = now.owner == HF_VM_OWNER_DESTINATION;
	fuzz_check(given_up == world->loaded_heard || now.status == HF_STATUS_FAILED ||
		   now.status == HF_STATUS_CANCELLED);
	fuzz_check(!given_up || !world->vm_runs);
	if (now.status == HF_STATUS_FAILED || now.status == HF_STATUS_CANCELLED) {
		fuzz_check(!given_up && now.err.text[0]);
		fuzz_check(now.owner == HF_VM_OWNER_SOURCE || now.owner == HF_VM_OWNER_STUCK);
		fuzz_check((now.owner == HF_VM_OWNER_STUCK) == world->resume_failed);
		fuzz_check(world->vm_runs || world->stopped_by_others || world->resume_failed);
	}
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
	world_destroy(&world);
	return 0;
}
