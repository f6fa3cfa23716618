/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The other side of a rig: what a well-behaved peer, VMM and memory port would do, one event at a time.
 */
#include "tests/unit/engine/rig.h"

#include <string.h>

/* ---- messages ---------------------------------------------------------------------------------- */

static uint32_t pages_of_source_block(const struct rig *rig, uint32_t source_block)
{
	return source_block == RIG_BLOCKS - 1 - RIG_RAM ? rig->ram_pages : RIG_ROM_PAGES;
}

void rig_presence_message(uint32_t source_block, uint32_t first_page, uint32_t pages, uint64_t bits,
			  struct rig_message *out)
{
	uint8_t map[512];
	memset(map, 0xff, sizeof(map));
	for (uint32_t i = 0; i < 8; i++)
		map[i] = (uint8_t)(bits >> (8 * i));
	size_t bytes = (pages + 7) / 8;
	assert_true(bytes <= sizeof(map));
	if (pages % 8 != 0)
		map[bytes - 1] &= (uint8_t)((1u << pages % 8) - 1);
	struct hf_wire_presence presence = {
	    .block = source_block,
	    .first_page = first_page,
	    .pages = pages,
	    .bits = map,
	    .bits_bytes = bytes,
	};
	out->type = HF_WIRE_PRESENCE;
	ssize_t length = hf_wire_encode_presence(&presence, out->payload, sizeof(out->payload));
	assert_true(length > 0);
	out->bytes = (size_t)length;
}

static ssize_t encode(const struct rig *rig, uint32_t type, uint8_t *buffer, size_t room)
{
	struct hf_wire_ready ready = {.placement = HF_PLACEMENT_COPY, .chunk_bytes = RIG_CHUNK};
	struct hf_wire_device_end end = {.total_bytes = RIG_STATE_BYTES};
	struct hf_wire_finish finish = {.downtime_ns = 77, .total_time_ns = 88, .sent_bytes = 99};
	struct hf_wire_wish wish = {.placement = HF_WIRE_WISH_COPY, .hold_background = 1};
	struct hf_wire_link link = {.round_trip_ns = 200000, .rate_bytes_per_s = 1250000000};
	struct hf_wire_placed placed = {.count = 1, .ranges = {{.block = 1, .first_page = 0, .pages = 2}}};
	struct hf_wire_first first = {.count = 1};
	struct hf_wire_round_end round_end = {.round = 1};
	struct hf_wire_round_done round_done = {.round = 1, .moved_bytes = 1 << 20, .duration_ns = 1000000};
	struct hf_err why;

	switch (type) {
	case HF_WIRE_PLACED:
		return hf_wire_encode_placed(&placed, buffer, room);
	case HF_WIRE_FIRST:
		return hf_wire_encode_first(&first, buffer, room);
	case HF_WIRE_ROUND_END:
		return hf_wire_encode_round_end(&round_end, buffer, room);
	case HF_WIRE_ROUND_DONE:
		return hf_wire_encode_round_done(&round_done, buffer, room);
	case HF_WIRE_ADVISE:
		return hf_wire_encode_advise("here", &rig->source_blocks, buffer, room);
	case HF_WIRE_READY:
		return hf_wire_encode_ready(&ready, buffer, room);
	case HF_WIRE_DEVICE:
		memcpy(buffer, RIG_DEVICE_STATE, RIG_STATE_BYTES);
		return (ssize_t)RIG_STATE_BYTES;
	case HF_WIRE_DEVICE_END:
		return hf_wire_encode_device_end(&end, buffer, room);
	case HF_WIRE_FINISH:
		return hf_wire_encode_finish(&finish, buffer, room);
	case HF_WIRE_WISH:
		return hf_wire_encode_wish(&wish, buffer, room);
	case HF_WIRE_LINK:
		return hf_wire_encode_link(&link, buffer, room);
	case HF_WIRE_FAIL:
	case HF_WIRE_REFUSED:
		hf_err_set(&why, HF_ERR_LOCAL, 5, "my disk is on fire");
		return hf_wire_encode_fail(&why, buffer, room);
	default:
		return 0;
	}
}

void rig_message(const struct rig *rig, uint32_t type, struct rig_message *out)
{
	if (type == HF_WIRE_PRESENCE || type == HF_WIRE_ROUND) {
		rig_presence_message(0, 0, pages_of_source_block(rig, 0), rig->rom_present, out);
		out->type = type;
		return;
	}
	ssize_t bytes = encode(rig, type, out->payload, sizeof(out->payload));
	assert_true(bytes >= 0);
	out->type = type;
	out->bytes = (size_t)bytes;
}

void rig_recorded(struct rig *rig, enum hf_record record, int result)
{
	struct hf_err err;
	hf_err_set(&err, HF_ERR_LOCAL, -result, "the disk says no");
	if (rig->destination)
		hf_destination_recorded(rig->destination, record, result, result ? &err : NULL);
	else
		hf_source_recorded(rig->source, record, result, result ? &err : NULL);
}

static void vm_ends(struct rig *rig, const struct hf_vm_result *end)
{
	if (rig->destination)
		hf_destination_vm_done(rig->destination, end);
	else
		hf_source_vm_done(rig->source, end);
}

/* What is done at once. */
static void settle(struct rig *rig)
{
	while (rig->fence_asked || rig->record_asked != HF_RECORD_NONE) {
		enum hf_record record = rig->record_asked;
		bool fence = rig->fence_asked;
		rig->fence_asked = false;
		rig->record_asked = HF_RECORD_NONE;
		if (fence)
			vm_ends(rig, &(struct hf_vm_result){.op = HF_VM_FENCE});
		if (record != HF_RECORD_NONE)
			rig_recorded(rig, record, 0);
	}
}

void rig_link_again(struct rig *rig, uint64_t epoch)
{
	rig->link.epoch = epoch;
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	if (rig->destination)
		hf_destination_events.link_up(rig->destination, &rig->link);
	else
		hf_source_events.link_up(rig->source, &rig->link);
	settle(rig);
}

void rig_hear_bytes(struct rig *rig, uint32_t type, const void *payload, size_t bytes)
{
	if (rig->destination)
		hf_destination_events.message(rig->destination, rig->link.epoch, type, payload, bytes);
	else
		hf_source_events.message(rig->source, rig->link.epoch, type, payload, bytes);
	settle(rig);
}

void rig_hear(struct rig *rig, uint32_t type)
{
	struct rig_message message;
	rig_message(rig, type, &message);
	rig_hear_bytes(rig, type, message.payload, message.bytes);
}

void rig_vm_done(struct rig *rig, enum hf_vm_op op, int result)
{
	struct hf_err err;
	hf_err_set(&err, HF_ERR_LOCAL, -result, "the VMM says no");
	struct hf_vm_result end = {.op = op, .result = result, .err = result ? &err : NULL};
	if (op == HF_VM_STOP) {
		end.ran_ns = rig->ran_ns;
		end.first = rig->first;
		end.first_count = rig->first_count;
	}
	if (op == HF_VM_SAVE && result == 0) {
		end.data = RIG_DEVICE_STATE;
		end.length_bytes = RIG_STATE_BYTES;
	}
	vm_ends(rig, &end);
	settle(rig);
}

void rig_link_down(struct rig *rig)
{
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LINK, 104, "the cable is cut");
	while (rig->destination && rig->fetches_count > 0) {
		struct hf_fetch_done done = {
		    .id = rig->fetches[0].id, .epoch = rig->link.epoch, .status = HF_FETCH_FAILED};
		rig->fetches_count--;
		memmove(&rig->fetches[0], &rig->fetches[1], rig->fetches_count * sizeof(rig->fetches[0]));
		hf_destination_events.fetch_done(rig->destination, &done);
	}
	if (rig->destination)
		hf_destination_events.link_down(rig->destination, rig->link.epoch, &why);
	else
		hf_source_events.link_down(rig->source, rig->link.epoch, &why);
}

/* ---- destination ------------------------------------------------------------------------------- */

void rig_fault(struct rig *rig, uint32_t block, uint64_t page)
{
	hf_destination_fault(rig->destination, block, page, RIG_THREAD, rig->now_ns);
}

void rig_work_all(struct rig *rig)
{
	for (bool busy = true; busy;) {
		busy = hf_destination_work(rig->destination, HF_WORK_URGENT) == HF_WORK_MORE;
		busy |= hf_destination_work(rig->destination, HF_WORK_BACKGROUND) == HF_WORK_MORE;
	}
}

static void hear_last_presence(struct rig *rig)
{
	struct rig_message message;
	rig_presence_message(1, 0, pages_of_source_block(rig, 1), rig->ram_present, &message);
	rig_hear_bytes(rig, HF_WIRE_PRESENCE, message.payload, message.bytes);
	rig_hear(rig, HF_WIRE_DEVICE);
}

static void fetch_everything(struct rig *rig)
{
	hf_destination_hold_background(rig->destination, false);
	rig_land_all(rig);
	rig_work_all(rig);
	rig_land_all(rig);
}

static void step(struct rig *rig, enum rig_at at)
{
	rig->now_ns += 1000000;
	switch (at) {
	case AT_SETUP:
		hf_destination_events.link_up(rig->destination, &rig->link);
		break;
	case AT_ADVISE:
		rig_hear(rig, HF_WIRE_ADVISE);
		break;
	case AT_ACTIVE:
		hf_destination_memory_ready(rig->destination, 0, NULL);
		break;
	case AT_PRESENCE:
		rig_hear(rig, HF_WIRE_PRESENCE);
		break;
	case AT_DEVICE_DATA:
		hear_last_presence(rig);
		break;
	case AT_LISTEN:
		rig_hear(rig, HF_WIRE_DEVICE_END);
		break;
	case AT_LOADED:
		rig_vm_done(rig, HF_VM_LOAD, 0);
		break;
	case AT_RUN:
		rig_hear(rig, HF_WIRE_RUN);
		break;
	case AT_RUNNING:
		rig_vm_done(rig, HF_VM_RUN, 0);
		break;
	case AT_COMPLETE:
		fetch_everything(rig);
		break;
	case AT_COMPLETED:
		rig_hear(rig, HF_WIRE_FINISH);
		break;
	case AT_NONE:
	case AT_COUNT:
		break;
	}
}

void rig_reach(struct rig *rig, enum rig_at from, enum rig_at to)
{
	for (enum rig_at at = from + 1; at <= to; at++)
		step(rig, at);
	rig_forget(rig);
}

void rig_destination_at(struct rig *rig, enum rig_at at)
{
	rig_destination(rig);
	rig_reach(rig, AT_NONE, at);
}

const char *rig_at_name(enum rig_at at)
{
	static const char *const names[AT_COUNT] = {"none",	"setup",   "advise",   "active",
						    "presence", "device",  "listen",   "loaded",
						    "run",	"running", "complete", "completed"};
	return names[at];
}

struct hf_destination_snapshot rig_snapshot(struct rig *rig)
{
	struct hf_destination_snapshot snapshot;
	hf_destination_snapshot(rig->destination, &snapshot);
	return snapshot;
}

void rig_expect_violation(struct rig *rig, const char *words)
{
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.status, HF_STATUS_FAILED);
	assert_int_equal(snapshot.err.class, HF_ERR_PEER);
	if (!strstr(snapshot.err.text, words))
		fail_msg("'%s' does not say '%s'", snapshot.err.text, words);
}

/* ---- source ------------------------------------------------------------------------------------ */

static void source_step(struct rig *rig, enum rig_source_at at)
{
	rig->now_ns += 1000000;
	switch (at) {
	case SOURCE_SETUP:
		hf_source_events.link_up(rig->source, &rig->link);
		break;
	case SOURCE_STOPPING:
		rig_hear(rig, HF_WIRE_READY);
		break;
	case SOURCE_SAVING:
		rig_vm_done(rig, HF_VM_STOP, 0);
		break;
	case SOURCE_DEVICE:
		rig_vm_done(rig, HF_VM_SAVE, 0);
		break;
	case SOURCE_GIVEN_UP:
		rig_hear(rig, HF_WIRE_LOADED);
		break;
	case SOURCE_RESUMED:
		rig_hear(rig, HF_WIRE_RESUMED);
		break;
	case SOURCE_COMPLETED:
		rig_hear(rig, HF_WIRE_COMPLETE);
		break;
	case SOURCE_NONE:
	case SOURCE_COUNT:
		break;
	}
}

void rig_source_reach(struct rig *rig, enum rig_source_at from, enum rig_source_at to)
{
	for (enum rig_source_at at = from + 1; at <= to; at++)
		source_step(rig, at);
	rig_forget(rig);
}

void rig_source_at(struct rig *rig, enum rig_source_at at)
{
	rig_source(rig);
	rig_source_reach(rig, SOURCE_NONE, at);
}

const char *rig_source_at_name(enum rig_source_at at)
{
	static const char *const names[SOURCE_COUNT] = {"none",	  "setup",    "stopping", "saving",
							"device", "given up", "resumed",  "completed"};
	return names[at];
}

struct hf_source_snapshot rig_source_snapshot(struct rig *rig)
{
	struct hf_source_snapshot snapshot;
	hf_source_snapshot(rig->source, &snapshot);
	return snapshot;
}
