/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the source says, message by message. Order and meaning are PROTOCOL.md's; what a message does to the
 * life of the migration is decided in destination.c and handover.c.
 */
#include "core/destination_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/wire.h"

#define DEVICE_STATE_ROOM_FIRST_BYTES (1u << 20)

/* The second ADVISE of a session must be the first again. Frees the new maps. */
static int compare_blocks(const struct hf_destination *d, uint32_t *block_of_source,
			  uint32_t *source_of_block, struct hf_err *err)
{
	bool same =
	    memcmp(block_of_source, d->block_of_source, d->blocks.count * sizeof(*block_of_source)) == 0;
	free(block_of_source);
	free(source_of_block);
	return same ? 0
		    : hf_err_set(err, HF_ERR_PEER, EPROTO,
				 "the source names its blocks in another order than before");
}

static int take_source_blocks(struct hf_destination *d, const struct hf_ramblocks *source, struct hf_err *err)
{
	hf_lock_assert_held(&d->lock);
	uint32_t *block_of_source = calloc(source->count, sizeof(*block_of_source));
	uint32_t *source_of_block = calloc(d->blocks.count, sizeof(*source_of_block));
	int result;
	if (!block_of_source || !source_of_block)
		result = hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the list of blocks");
	else
		result = hf_ramblocks_match(source, &d->blocks, block_of_source, err);
	if (result < 0) {
		free(block_of_source);
		free(source_of_block);
		return result;
	}
	for (uint32_t i = 0; i < source->count; i++)
		source_of_block[block_of_source[i]] = i;
	if (d->block_of_source)
		return compare_blocks(d, block_of_source, source_of_block, err);
	d->block_of_source = block_of_source;
	d->source_of_block = source_of_block;
	return 0;
}

static unsigned on_wish(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	struct hf_wire_wish wish;
	struct hf_err err = HF_ERR_INIT;
	if (hf_wire_decode_wish(payload, bytes, &wish, &err) < 0)
		return hf_destination_violation(d, &err);
	bool before_advise = d->status == HF_STATUS_SETUP && d->incoming == HF_INCOMING_NONE;
	if (wish.placement != HF_WIRE_WISH_ANY && !before_advise)
		return hf_destination_unexpected(d, HF_WIRE_WISH);
	if (before_advise) {
		d->placement_wish = wish.placement;
		d->background_held |= wish.hold_background; /* the operator here may hold it as well */
		return 0;
	}
	d->background_held = wish.hold_background;
	return wish.hold_background ? 0 : ACTION_PUMP | ACTION_KICK_BACKGROUND;
}

static unsigned on_advise(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	bool again = d->status == HF_STATUS_POSTCOPY_RECOVER && !d->advised;
	if (!again && (d->status != HF_STATUS_SETUP || d->incoming != HF_INCOMING_NONE))
		return hf_destination_unexpected(d, HF_WIRE_ADVISE);

	struct hf_ramblocks source;
	struct hf_err err = HF_ERR_INIT;
	hf_ramblocks_init(&source);
	int result = hf_wire_decode_advise(payload, bytes, d->source_vm_name, &source, &err);
	if (result == 0)
		result = take_source_blocks(d, &source, &err);
	hf_ramblocks_destroy(&source);
	if (result < 0) {
		hf_err_prefix(&err, "VM '%s'", d->vm_name);
		return hf_destination_fail_locked(d, &err);
	}
	d->advised = true;
	if (again)
		return 0;
	d->advise_ns = hf_clock_now_ns(&d->clock);
	hf_destination_move(d, d->status, HF_INCOMING_ADVISE);
	return hf_destination_probe_begin(d) | ACTION_NOTIFY;
}

static unsigned on_run(struct hf_destination *d)
{
	unsigned actions = 0;
	/* The VM is run when there is somebody to serve its faults. */
	if (d->advised && d->taking_over && !d->run_waits) {
		d->run_waits = true;
		return 0;
	}
	if (d->takeover_failed)
		return hf_destination_pause_locked(d, &d->err);
	if (!d->advised || d->run_heard ||
	    hf_destination_take_step(d, HF_DESTINATION_HEARD_RUN, &d->refusal, &actions) < 0)
		return hf_destination_unexpected(d, HF_WIRE_RUN);
	d->run_heard = d->fetching = true;
	if (d->run_ns == 0)
		d->run_ns = hf_clock_now_ns(&d->clock);
	/* A pause since LOADED changes nothing: the VM is this side's now, and nowhere else can it run. */
	bool paused = d->status == HF_STATUS_POSTCOPY_PAUSED;
	bool listens = d->incoming == HF_INCOMING_LISTEN;
	if (d->status == HF_STATUS_POSTCOPY_RECOVER && d->handover != HF_DESTINATION_LOST)
		d->err = HF_ERR_INIT;
	hf_destination_move(d, paused ? d->status : HF_STATUS_POSTCOPY_ACTIVE,
			    listens ? HF_INCOMING_RUNNING : d->incoming);
	if (hf_destination_background_limited(d))
		actions |= ACTION_KICK_BACKGROUND; /* it comes again and again */
	return actions | ACTION_PUMP | ACTION_NOTIFY;
}

/* Locked. A restarted engine has the memory of the one before it, or has not. */
static unsigned taken_over(struct hf_destination *d, int result, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	d->taking_over = false;
	if (result == 0) {
		unsigned run = d->run_waits && d->epoch != 0 ? on_run(d) : 0;
		return run | d->restart_actions | ACTION_KICK_URGENT | ACTION_PUMP | ACTION_NOTIFY;
	}
	d->takeover_failed = true;
	hf_err_set(&d->err, HF_ERR_LOCAL, -result, "VM '%s': its memory could not be taken over: %s",
		   d->vm_name, why ? why->text : "no reason given");
	return ACTION_NOTIFY;
}

void hf_destination_memory_ready(struct hf_destination *d, int result, const struct hf_err *why)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	unsigned actions = 0;
	if (d->taking_over)
		actions = taken_over(d, result, why);
	else if (d->status == HF_STATUS_SETUP && result == 0) {
		hf_destination_move(d, HF_STATUS_ACTIVE, d->incoming);
		d->setup_time_ns = hf_clock_now_ns(&d->clock) - d->advise_ns;
		actions = ACTION_SEND_READY | ACTION_NOTIFY;
	} else if (d->status == HF_STATUS_SETUP) {
		struct hf_err err;
		hf_err_set(&err, HF_ERR_LOCAL, -result,
			   "VM '%s': destination memory could not be made ready: %s", d->vm_name,
			   why ? why->text : "no reason given");
		actions = hf_destination_fail_locked(d, &err);
	}
	hf_destination_unlock_act(d, actions);
}

/* Moves the place where the next PRESENCE must go on; true when all blocks are described. */
static bool presence_advance(struct hf_destination *d, uint32_t pages)
{
	hf_lock_assert_held(&d->lock);
	d->presence_page += pages;
	if (d->presence_page < d->blocks.blocks[d->block_of_source[d->presence_block]].pages)
		return false;
	d->presence_page = 0;
	return ++d->presence_block == d->blocks.count;
}

static unsigned on_presence(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	if (d->status != HF_STATUS_ACTIVE || d->presence_complete || (d->precopy.spoken && !d->precopy.final))
		return hf_destination_unexpected(d, HF_WIRE_PRESENCE);

	struct hf_wire_presence presence;
	struct hf_err err = HF_ERR_INIT;
	if (hf_wire_decode_presence(payload, bytes, &presence, &err) < 0)
		return hf_destination_violation(d, &err);

	const struct hf_ramblock *block = &d->blocks.blocks[d->block_of_source[d->presence_block]];
	if (presence.block != d->presence_block || presence.first_page != d->presence_page ||
	    presence.pages == 0 || presence.pages > block->pages - d->presence_page ||
	    hf_pagemap_import(&d->present, block->first_page + presence.first_page, presence.pages,
			      presence.bits, presence.bits_bytes) < 0) {
		hf_err_set(
		    &err, HF_ERR_PEER, EPROTO,
		    "VM '%s': the source's presence map is out of order: block %u page %u, %u pages, where "
		    "block %u page %u was due",
		    d->vm_name, presence.block, presence.first_page, presence.pages, d->presence_block,
		    d->presence_page);
		return hf_destination_fail_locked(d, &err);
	}
	if (presence_advance(d, presence.pages)) {
		d->presence_complete = true;
		hf_destination_pages_presence(d);
		return hf_destination_precopy_settle(d);
	}
	return 0;
}

static int device_room(struct hf_destination *d, uint64_t bytes)
{
	hf_lock_assert_held(&d->lock);
	if (bytes <= d->device_state_room_bytes)
		return 0;
	uint64_t room =
	    d->device_state_room_bytes ? d->device_state_room_bytes : DEVICE_STATE_ROOM_FIRST_BYTES;
	while (room < bytes)
		room *= 2;
	uint8_t *state = realloc(d->device_state, room);
	if (!state)
		return -ENOMEM;
	d->device_state = state;
	d->device_state_room_bytes = room;
	return 0;
}

static unsigned on_device(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	if (d->status != HF_STATUS_ACTIVE || !d->presence_complete)
		return hf_destination_unexpected(d, HF_WIRE_DEVICE);

	struct hf_err err;
	if (bytes > HF_WIRE_DEVICE_STATE_MAX_BYTES - d->device_state_bytes) {
		hf_err_set(&err, HF_ERR_PEER, EMSGSIZE, "VM '%s': device state is larger than %u MiB",
			   d->vm_name, HF_WIRE_DEVICE_STATE_MAX_BYTES >> 20);
		return hf_destination_fail_locked(d, &err);
	}
	if (device_room(d, d->device_state_bytes + bytes) < 0) {
		hf_err_set(&err, HF_ERR_LOCAL, ENOMEM, "VM '%s': no memory for its device state", d->vm_name);
		return hf_destination_fail_locked(d, &err);
	}
	memcpy(d->device_state + d->device_state_bytes, payload, bytes);
	d->device_state_bytes += bytes;
	return 0;
}

static unsigned on_device_end(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	if (d->status != HF_STATUS_ACTIVE || !d->presence_complete)
		return hf_destination_unexpected(d, HF_WIRE_DEVICE_END);

	struct hf_wire_device_end end;
	struct hf_err err = HF_ERR_INIT;
	if (hf_wire_decode_device_end(payload, bytes, &end, &err) < 0)
		return hf_destination_violation(d, &err);
	if (end.total_bytes != d->device_state_bytes || d->device_state_bytes == 0) {
		hf_err_set(&err, HF_ERR_PEER, EPROTO,
			   "VM '%s': device state is not whole: %llu bytes came, the source says %llu",
			   d->vm_name, (unsigned long long)d->device_state_bytes,
			   (unsigned long long)end.total_bytes);
		return hf_destination_fail_locked(d, &err);
	}
	d->fetching = true;
	d->has_state = true;
	d->device_end_ns = hf_clock_now_ns(&d->clock);
	hf_destination_move(d, HF_STATUS_DEVICE, HF_INCOMING_LISTEN);
	return ACTION_LOAD | ACTION_NOTIFY | ACTION_PUMP | ACTION_KICK_URGENT |
	       (d->precopy.whole ? ACTION_KICK_BACKGROUND : 0);
}

static unsigned on_finish(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	if (!d->complete_said)
		return hf_destination_unexpected(d, HF_WIRE_FINISH);
	struct hf_wire_finish finish;
	struct hf_err err = HF_ERR_INIT;
	if (hf_wire_decode_finish(payload, bytes, &finish, &err) == 0)
		d->downtime_ns = finish.downtime_ns;
	hf_destination_complete(d);
	return ACTION_NOTIFY;
}

static unsigned on_fail(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	struct hf_err why, err = HF_ERR_INIT;
	if (hf_wire_decode_fail(payload, bytes, &why, &err) < 0)
		return hf_destination_violation(d, &err);
	hf_err_prefix(&why, "the source says");
	bool handed_back = d->handover == HF_DESTINATION_REFUSED;
	if (handed_back)
		why = d->refusal;
	if (handed_back || d->status == HF_STATUS_POSTCOPY_PAUSED || d->status == HF_STATUS_POSTCOPY_RECOVER)
		hf_err_prefix(&why, "VM '%s' stays with the source", d->vm_name);
	/* The source saying so before RUN means that it keeps the VM, even if LOADED has been said. */
	unsigned actions = 0;
	/* The source tells a destination that may have LOADED until it has an answer. */
	bool answer = d->recoverable && d->incoming >= HF_INCOMING_LISTEN;
	if (hf_destination_take_step(d, HF_DESTINATION_HEARD_FAIL, &why, &actions) == 0)
		return actions | (answer ? ACTION_SEND_FAIL : 0);
	return hf_destination_fail_locked(d, &why) & ~(unsigned)ACTION_SEND_FAIL;
}

void hf_destination_event_message(void *engine, uint64_t epoch, uint32_t type, const void *payload,
				  size_t bytes)
{
	hf_lock_assert_entry(__func__);
	struct hf_destination *d = engine;
	unsigned actions;

	hf_lock(&d->lock);
	if (epoch == 0 || epoch != d->epoch || hf_status_is_final(d->status)) {
		hf_unlock(&d->lock);
		return;
	}
	switch (type) {
	case HF_WIRE_WISH:
		actions = on_wish(d, payload, bytes);
		break;
	case HF_WIRE_ADVISE:
		actions = on_advise(d, payload, bytes);
		break;
	case HF_WIRE_PRESENCE:
		actions = on_presence(d, payload, bytes);
		break;
	case HF_WIRE_ROUND:
		actions = hf_destination_on_round(d, payload, bytes);
		break;
	case HF_WIRE_ROUND_END:
		actions = hf_destination_on_round_end(d, payload, bytes);
		break;
	case HF_WIRE_FIRST:
		actions = hf_destination_on_first(d, payload, bytes);
		break;
	case HF_WIRE_DEVICE:
		actions = on_device(d, payload, bytes);
		break;
	case HF_WIRE_DEVICE_END:
		actions = on_device_end(d, payload, bytes);
		break;
	case HF_WIRE_RUN:
		actions = on_run(d);
		break;
	case HF_WIRE_FINISH:
		actions = on_finish(d, payload, bytes);
		break;
	case HF_WIRE_FAIL:
		actions = on_fail(d, payload, bytes);
		break;
	default:
		actions = hf_destination_unexpected(d, type);
		break;
	}
	hf_destination_unlock_act(d, actions);
}
