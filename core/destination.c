/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The destination decides. The source says what there is (ADVISE), stops its VM when it is told that
 * everything here is ready (READY), describes which pages exist (PRESENCE), sends the device state whole
 * (DEVICE, DEVICE_END), and from then on only answers fetches. Everything that could go wrong with blocks,
 * memory and huge pages goes wrong before READY, while the source VM runs.
 *
 *     source                                   destination
 *       WISH, ADVISE  ------------------------>  blocks compared; memory port prepares   setup   advise
 *               <------------------------------  READY                                   active
 *       VM stops, device state saved
 *       PRESENCE.. DEVICE.. DEVICE_END  ------>  faults are served, device state loads   device  listen
 *               <------------------------------  LOADED, on record
 *       gives the VM up, on record
 *       RUN  --------------------------------->  RUNNING on record, VM runs     postcopy-active  running
 *               <------------------------------  RESUMED
 *               <~~~~~~ fetches, all along from DEVICE_END ~~~~~~>
 *               <------------------------------  COMPLETE (every page placed, ranges unregistered)
 *       FINISH  ------------------------------>                                          completed  end
 *
 * Who may run the VM is decided by the tables of handover.c. Until LOADED a failure ends the migration here
 * and the source goes on. After LOADED the source may have given the VM up even if RUN has not been heard, so
 * nothing is abandoned any more: a lost link pauses. A paused destination VM runs on the pages it has;
 * threads that need others wait. Nothing reads as zeros, since the ranges stay registered.
 *
 * A new link goes on where the last one was lost: the source says ADVISE, and then RUN or FAIL. RUN is
 * answered with what became of the VM, and from it on pages are asked for again. Nothing else is repeated:
 * which pages are here is known here alone.
 *
 * COMPLETE may be said only when RESUMED has left, so that the source hears them in order, and after
 * release(), so that the source is let go only when nothing can need it. A link lost after COMPLETE costs
 * no page; where there can be another, it is said again there, since the source may not have heard.
 *
 * The way of a page is in destination_pages.c; what comes before the source VM stops, in
 * destination_precopy.c.
 */
#include "core/destination.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/destination_internal.h"
#include "core/wire.h"

#define DEVICE_STATE_ROOM_FIRST_BYTES (1u << 20)

/* Locked. For moves whose precondition the caller has checked; the table has the last word. */
static void move(struct hf_destination *d, enum hf_status status, enum hf_incoming incoming)
{
	hf_lock_assert_held(&d->lock);
	if (status != d->status)
		hf_status_move(&d->status, status);
	if (incoming != d->incoming)
		hf_incoming_move(&d->incoming, incoming);
}

/* Locked. Nothing is needed from the source any more. A link that was lost on the way is no failure then. */
static void complete(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	move(d, HF_STATUS_COMPLETED, HF_INCOMING_END);
	d->err = HF_ERR_INIT;
}

/* ---- sending ----------------------------------------------------------------------------------- */

void hf_destination_send(struct hf_destination *d, uint32_t type, const void *payload, size_t bytes)
{
	hf_lock(&d->lock);
	uint64_t epoch = d->epoch;
	hf_unlock(&d->lock);
	if (epoch != 0)
		hf_transport_send(&d->transport, epoch, type, payload, bytes);
}

static void send_ready(struct hf_destination *d)
{
	struct hf_wire_ready ready = {.placement = d->memory.placement, .chunk_bytes = d->chunk_bytes};
	uint8_t buffer[64];
	ssize_t bytes = hf_wire_encode_ready(&ready, buffer, sizeof(buffer));
	if (bytes > 0)
		hf_destination_send(d, HF_WIRE_READY, buffer, (size_t)bytes);
}

static void send_fail(struct hf_destination *d)
{
	uint8_t buffer[HF_ERR_TEXT_BYTES + 64];
	hf_lock(&d->lock);
	struct hf_err why = d->err;
	hf_unlock(&d->lock);
	ssize_t bytes = hf_wire_encode_fail(&why, buffer, sizeof(buffer));
	if (bytes > 0)
		hf_destination_send(d, HF_WIRE_FAIL, buffer, (size_t)bytes);
}

static void send_refused(struct hf_destination *d)
{
	uint8_t buffer[HF_ERR_TEXT_BYTES + 64];
	hf_lock(&d->lock);
	struct hf_err why = d->refusal;
	bool asked = d->run_heard; /* else RUN will ask, if it is needed */
	hf_unlock(&d->lock);
	ssize_t bytes = hf_wire_encode_refused(&why, buffer, sizeof(buffer));
	if (asked && bytes > 0)
		hf_destination_send(d, HF_WIRE_REFUSED, buffer, (size_t)bytes);
}

/* ---- failing ----------------------------------------------------------------------------------- */

bool hf_destination_committed(const struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	return d->handover != HF_DESTINATION_LOADING && d->handover != HF_DESTINATION_RECORDING_LOADED &&
	       d->handover != HF_DESTINATION_ABORTED;
}

/* Locked. The migration has failed and the VM is the source's. */
static unsigned end_failed(struct hf_destination *d, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	d->err = *why;
	move(d, why->class == HF_ERR_CANCELLED ? HF_STATUS_CANCELLED : HF_STATUS_FAILED, HF_INCOMING_END);
	d->end_ns = hf_clock_now_ns(&d->clock);
	return ACTION_NOTIFY;
}

static unsigned pause_locked(struct hf_destination *d, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	if (d->status != HF_STATUS_POSTCOPY_PAUSED)
		d->err = *why;
	move(d, HF_STATUS_POSTCOPY_PAUSED, d->incoming);
	return ACTION_NOTIFY;
}

/* Locked. What a step of the hand-over makes this engine do. */
static unsigned actions_of(struct hf_destination *d, const struct hf_handover_destination_step *step,
			   const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	unsigned act = 0;
	if (step->actions & HF_ACT_RECORD) {
		d->recording = step->record;
		d->record_ns = hf_clock_now_ns(&d->clock);
		act |= ACTION_RECORD;
	}
	act |= step->actions & HF_ACT_RUN ? ACTION_RUN : 0;
	act |= step->actions & HF_ACT_KILL ? ACTION_KILL : 0;
	act |= step->actions & HF_ACT_SAY_LOADED ? ACTION_SEND_LOADED : 0;
	act |= step->actions & HF_ACT_SAY_RESUMED ? ACTION_SEND_RESUMED : 0;
	act |= step->actions & HF_ACT_SAY_REFUSED ? ACTION_SEND_REFUSED : 0;
	act |= step->actions & HF_ACT_SAY_FAIL ? ACTION_SEND_FAIL : 0;
	if (step->actions & HF_ACT_FAIL)
		act |= end_failed(d, why);
	if (step->actions & HF_ACT_ALARM)
		act |= pause_locked(d, why);
	return act;
}

/* Locked. why: of a failure; *actions untouched for an event not expected. */
static int take_step(struct hf_destination *d, enum hf_handover_destination_event event,
		     const struct hf_err *why, unsigned *actions)
{
	hf_lock_assert_held(&d->lock);
	struct hf_handover_destination_step step;
	int result = hf_handover_destination_step(d->handover, event, &step);
	if (result < 0)
		return result;
	d->handover = step.next;
	*actions = actions_of(d, &step, why);
	return 0;
}

/* Locked. The source may not have heard COMPLETE, and can be told over another link. */
static bool source_waits(const struct hf_destination *d)
{
	return d->complete_said && d->recoverable;
}

unsigned hf_destination_fail_locked(struct hf_destination *d, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	unsigned actions = 0;
	if (hf_status_is_final(d->status))
		return 0;
	/* Every page is here: what goes wrong now can only cost the source's figures. */
	if (d->complete_said && !source_waits(d)) {
		complete(d);
		return ACTION_NOTIFY;
	}
	if (take_step(d, HF_DESTINATION_BROKEN, why, &actions) < 0 || actions == 0)
		actions = pause_locked(d, why);
	return actions;
}

void hf_destination_fail(struct hf_destination *d, const struct hf_err *why)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	hf_destination_unlock_act(d, hf_destination_fail_locked(d, why));
}

static unsigned violation(struct hf_destination *d, const struct hf_err *why)
{
	struct hf_err err = *why;
	err.class = HF_ERR_PEER;
	hf_err_prefix(&err, "VM '%s'", d->vm_name);
	return hf_destination_fail_locked(d, &err);
}

static unsigned unexpected(struct hf_destination *d, uint32_t type)
{
	struct hf_err err;
	hf_err_set(&err, HF_ERR_PEER, EPROTO,
		   "VM '%s': the source sent %s, which is not expected in state %s/%s; check that both hosts "
		   "run the same release",
		   d->vm_name, hf_wire_type_name(type), hf_status_name(d->status),
		   hf_incoming_name(d->incoming));
	return hf_destination_fail_locked(d, &err);
}

unsigned hf_destination_violation(struct hf_destination *d, const struct hf_err *why)
{
	return violation(d, why);
}

unsigned hf_destination_unexpected(struct hf_destination *d, uint32_t type)
{
	return unexpected(d, type);
}

int hf_destination_cancel(struct hf_destination *d, struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	struct hf_err why;
	int result = 0;
	hf_err_set(&why, HF_ERR_CANCELLED, ECANCELED, "VM '%s': cancelled on the destination", d->vm_name);

	hf_lock(&d->lock);
	unsigned actions = 0;
	if (hf_status_is_final(d->status))
		result = hf_err_set(err, HF_ERR_LOCAL, EPERM, "VM '%s': the migration has ended already (%s)",
				    d->vm_name, hf_status_name(d->status));
	else if (hf_destination_committed(d))
		result = hf_err_set(err, HF_ERR_LOCAL, EPERM,
				    "VM '%s': too late to cancel: the source has been told that this side is "
				    "ready and may have given the VM up",
				    d->vm_name);
	else
		actions = hf_destination_fail_locked(d, &why);
	hf_destination_unlock_act(d, actions);
	return result;
}

int hf_destination_pause(struct hf_destination *d, struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	struct hf_err why;
	int result = 0;
	unsigned actions = 0;
	hf_err_set(&why, HF_ERR_LINK, ECANCELED, "VM '%s': paused by the operator of the destination",
		   d->vm_name);

	hf_lock(&d->lock);
	if (hf_destination_committed(d) && !hf_status_is_final(d->status))
		actions = hf_destination_fail_locked(d, &why);
	else
		result = hf_err_set(err, HF_ERR_LOCAL, EPERM,
				    "VM '%s': only a migration in postcopy can be paused; this one is '%s'",
				    d->vm_name, hf_status_name(d->status));
	hf_destination_unlock_act(d, actions);
	return result;
}

void hf_destination_recover_setup(struct hf_destination *d, bool looking)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	if (d->status == HF_STATUS_POSTCOPY_PAUSED && looking)
		move(d, HF_STATUS_POSTCOPY_RECOVER_SETUP, d->incoming);
	else if (d->status == HF_STATUS_POSTCOPY_RECOVER_SETUP && !looking)
		move(d, HF_STATUS_POSTCOPY_PAUSED, d->incoming);
	hf_destination_unlock_act(d, ACTION_NOTIFY);
}

void hf_destination_let_go(struct hf_destination *d)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	if (d->complete_said)
		complete(d);
	hf_destination_unlock_act(d, ACTION_NOTIFY);
}

/* ---- end --------------------------------------------------------------------------------------- */

unsigned hf_destination_check_end(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	unsigned actions = 0;
	if (d->precopy.load_waits && d->pages_received == d->blocks.pages_total) {
		d->precopy.load_waits = false;
		take_step(d, HF_DESTINATION_VM_LOADED, NULL, &actions);
		return actions | ACTION_NOTIFY;
	}
	if (!d->resumed || d->releasing || d->pages_received != d->blocks.pages_total)
		return 0;
	d->releasing = true;
	return ACTION_RELEASE;
}

static void release(struct hf_destination *d)
{
	struct hf_err err = HF_ERR_INIT;
	int result = hf_memory_release(&d->memory, &err);

	hf_lock(&d->lock);
	unsigned actions;
	if (result < 0) {
		d->releasing = false; /* faults are still raised, and must be served */
		actions = hf_destination_fail_locked(d, &err);
	} else {
		d->complete_said = true;
		d->end_ns = hf_clock_now_ns(&d->clock);
		move(d, d->status, HF_INCOMING_END);
		/* Over a link that has come up meanwhile it follows RESUMED. */
		actions = ACTION_NOTIFY | (d->resumed_said ? ACTION_SEND_COMPLETE : 0);
		/* With the link gone there is no FINISH to wait for. */
		if (d->epoch == 0 && !d->recoverable)
			complete(d);
	}
	hf_destination_unlock_act(d, actions);
}

/* ---- acting ------------------------------------------------------------------------------------ */

static void request_vm(struct hf_destination *d, enum hf_vm_op op, const void *data, size_t bytes)
{
	int result = hf_vm_request(&d->vm, op, data, bytes);
	if (result == 0)
		return;
	struct hf_err err;
	hf_err_set(&err, HF_ERR_LOCAL, -result, "could not ask the VMM to %s", hf_vm_op_name(op));
	struct hf_vm_result end = {.op = op, .result = result, .err = &err};
	hf_destination_vm_done(d, &end);
}

static void request_record(struct hf_destination *d)
{
	hf_lock(&d->lock);
	enum hf_record record = d->recording;
	hf_unlock(&d->lock);
	if (!d->recorder.ops) {
		hf_destination_recorded(d, record, 0, NULL);
		return;
	}
	int result = hf_recorder_request(&d->recorder, record);
	if (result == 0)
		return;
	struct hf_err err;
	hf_err_set(&err, HF_ERR_LOCAL, -result, "it could not be asked for");
	hf_destination_recorded(d, record, result, &err);
}

/* A restarted engine: what it has of pages is settled, the port registers nothing anew. */
static void take_over(struct hf_destination *d)
{
	struct hf_err err;
	hf_lock(&d->lock);
	int result = hf_destination_fetch_prepare(d);
	hf_unlock(&d->lock);
	if (result == 0)
		result = hf_memory_prepare(&d->memory);
	if (result == 0)
		return;
	hf_err_set(&err, HF_ERR_LOCAL, -result, "it could not start to be taken over");
	hf_destination_memory_ready(d, result, &err);
}

/* Takes the placement the source's operator wishes. The wish is settled: ADVISE has been heard. */
static int choose_placement(struct hf_destination *d, struct hf_err *err)
{
	struct hf_memory port = d->memory;
	enum hf_placement wish =
	    d->placement_wish == HF_WIRE_WISH_COPY ? HF_PLACEMENT_COPY : HF_PLACEMENT_CONTINUE;
	if (d->placement_wish == HF_WIRE_WISH_ANY || wish == port.placement)
		return 0;
	int result = hf_memory_choose(&d->memory, wish, &port, err);
	if (result < 0) {
		hf_err_prefix(err, "VM '%s'", d->vm_name);
		return result;
	}
	hf_lock(&d->lock);
	d->memory = port;
	hf_unlock(&d->lock);
	return 0;
}

static void prepare(struct hf_destination *d)
{
	struct hf_err err = HF_ERR_INIT;
	int result = choose_placement(d, &err);
	if (result == 0)
		result = hf_destination_precopy_prepare(d, &err);
	if (result == 0) {
		hf_lock(&d->lock);
		result = hf_destination_fetch_prepare(d);
		hf_unlock(&d->lock);
		if (result == 0)
			result = hf_memory_prepare(&d->memory);
		if (result < 0)
			hf_err_set(&err, HF_ERR_LOCAL, -result,
				   "VM '%s': could not start to prepare its memory", d->vm_name);
	}
	if (result < 0)
		hf_destination_fail(d, &err);
}

/* The VM runs. Over a link on which RUN has not been heard nothing is said: RUN will ask. */
static void said_resumed(struct hf_destination *d)
{
	hf_lock(&d->lock);
	uint64_t epoch = d->epoch;
	bool asked = d->run_heard;
	hf_unlock(&d->lock);
	if (asked)
		hf_destination_send(d, HF_WIRE_RESUMED, NULL, 0);
	hf_lock(&d->lock);
	d->resumed = true;
	if (asked && d->epoch == epoch)
		d->resumed_said = true;
	unsigned actions = ACTION_PUMP | ACTION_KICK_BACKGROUND | hf_destination_check_end(d);
	if (d->complete_said && d->resumed_said) /* over an earlier link, or while there was none */
		actions |= ACTION_SEND_COMPLETE;
	hf_destination_unlock_act(d, actions);
}

void hf_destination_unlock_act(struct hf_destination *d, unsigned actions)
{
	hf_unlock(&d->lock);

	if (actions & ACTION_PROBE)
		hf_destination_probe_start(d);
	if (actions & ACTION_SEND_LINK)
		hf_destination_send_link(d);
	if (actions & ACTION_PREPARE)
		prepare(d);
	if (actions & ACTION_SEND_READY)
		send_ready(d);
	if (actions & ACTION_CLEAR_HOLES)
		hf_destination_clear_holes(d);
	if (actions & ACTION_LOAD)
		request_vm(d, HF_VM_LOAD, d->device_state, d->device_state_bytes);
	if (actions & ACTION_TAKE_OVER)
		take_over(d);
	if (actions & ACTION_RECORD)
		request_record(d);
	if (actions & ACTION_SEND_LOADED)
		hf_destination_send(d, HF_WIRE_LOADED, NULL, 0);
	if (actions & ACTION_RUN)
		request_vm(d, HF_VM_RUN, NULL, 0);
	if (actions & ACTION_KILL)
		request_vm(d, HF_VM_KILL, NULL, 0);
	if (actions & ACTION_SEND_REFUSED)
		send_refused(d);
	if (actions & ACTION_KICK_URGENT)
		hf_memory_kick(&d->memory, HF_WORK_URGENT);
	if (actions & ACTION_KICK_BACKGROUND)
		hf_memory_kick(&d->memory, HF_WORK_BACKGROUND);
	if (actions & ACTION_SEND_RESUMED)
		said_resumed(d);
	if (actions & ACTION_PUMP)
		hf_destination_pump(d);
	if (actions & ACTION_SEND_ROUND_DONE)
		hf_destination_send_round_done(d);
	if (actions & ACTION_RELEASE)
		release(d);
	if (actions & ACTION_SEND_COMPLETE)
		hf_destination_send(d, HF_WIRE_COMPLETE, NULL, 0);
	if (actions & ACTION_SEND_FAIL)
		send_fail(d);
	if (actions & ACTION_NOTIFY)
		hf_call_notify(d->notify, d->opaque);
}

/* ---- link -------------------------------------------------------------------------------------- */

/* Locked. Is this the link on which a paused migration goes on? */
static bool goes_on(const struct hf_destination *d, const struct hf_link_info *info)
{
	hf_lock_assert_held(&d->lock);
	return (d->status == HF_STATUS_POSTCOPY_PAUSED || d->status == HF_STATUS_POSTCOPY_RECOVER_SETUP) &&
	       d->epoch == 0 && info->epoch > d->epoch_last && (info->features & HF_WIRE_FEATURE_RECOVER);
}

static void take_link(struct hf_destination *d, const struct hf_link_info *info)
{
	hf_lock_assert_held(&d->lock);
	d->epoch = d->epoch_last = info->epoch;
	d->links_used++;
	d->link = *info;
	d->recoverable = (info->features & HF_WIRE_FEATURE_RECOVER) != 0;
	d->advised = d->run_heard = d->resumed_said = d->fetching = false;
	if (d->link_up_ns == 0)
		d->link_up_ns = hf_clock_now_ns(&d->clock);
}

static void event_link_up(void *engine, const struct hf_link_info *info)
{
	hf_lock_assert_entry(__func__);
	struct hf_destination *d = engine;
	unsigned actions = ACTION_NOTIFY;
	struct hf_err err;

	hf_lock(&d->lock);
	bool again = goes_on(d, info);
	if (d->status != HF_STATUS_NONE && !again) {
		hf_err_set(&err, HF_ERR_LOCAL, EISCONN, "VM '%s': a second link came up", d->vm_name);
		actions = hf_destination_fail_locked(d, &err);
	} else {
		int result = hf_destination_fetch_link_up(d, info);
		take_link(d, info);
		move(d, again ? HF_STATUS_POSTCOPY_RECOVER : HF_STATUS_SETUP, d->incoming);
		if (result < 0) {
			hf_err_set(&err, HF_ERR_LOCAL, ENOMEM, "VM '%s': no memory for the link's fetches",
				   d->vm_name);
			actions = hf_destination_fail_locked(d, &err);
		}
	}
	hf_destination_unlock_act(d, actions);
}

static void event_link_down(void *engine, uint64_t epoch, const struct hf_err *why)
{
	hf_lock_assert_entry(__func__);
	struct hf_destination *d = engine;
	struct hf_err err = why ? *why : HF_ERR_INIT;
	if (err.class == HF_ERR_NONE)
		hf_err_set(&err, HF_ERR_LINK, ECONNRESET, "VM '%s': the source closed the link", d->vm_name);

	hf_lock(&d->lock);
	if (epoch == 0 || epoch != d->epoch) {
		hf_unlock(&d->lock);
		return;
	}
	hf_destination_fetch_link_down(d);
	d->epoch = 0;
	hf_destination_unlock_act(d, ACTION_NOTIFY | hf_destination_fail_locked(d, &err));
}

/* ---- messages ---------------------------------------------------------------------------------- */

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
		return violation(d, &err);
	bool before_advise = d->status == HF_STATUS_SETUP && d->incoming == HF_INCOMING_NONE;
	if (wish.placement != HF_WIRE_WISH_ANY && !before_advise)
		return unexpected(d, HF_WIRE_WISH);
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
		return unexpected(d, HF_WIRE_ADVISE);

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
	move(d, d->status, HF_INCOMING_ADVISE);
	return hf_destination_probe_begin(d) | ACTION_NOTIFY;
}

/* Locked. A restarted engine has the memory of the one before it, or has not. */
static unsigned taken_over(struct hf_destination *d, int result, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	d->taking_over = false;
	if (result == 0)
		return d->restart_actions | ACTION_KICK_URGENT | ACTION_PUMP | ACTION_NOTIFY;
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
		move(d, HF_STATUS_ACTIVE, d->incoming);
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
		return unexpected(d, HF_WIRE_PRESENCE);

	struct hf_wire_presence presence;
	struct hf_err err = HF_ERR_INIT;
	if (hf_wire_decode_presence(payload, bytes, &presence, &err) < 0)
		return violation(d, &err);

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
		return unexpected(d, HF_WIRE_DEVICE);

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
		return unexpected(d, HF_WIRE_DEVICE_END);

	struct hf_wire_device_end end;
	struct hf_err err = HF_ERR_INIT;
	if (hf_wire_decode_device_end(payload, bytes, &end, &err) < 0)
		return violation(d, &err);
	if (end.total_bytes != d->device_state_bytes || d->device_state_bytes == 0) {
		hf_err_set(&err, HF_ERR_PEER, EPROTO,
			   "VM '%s': device state is not whole: %llu bytes came, the source says %llu",
			   d->vm_name, (unsigned long long)d->device_state_bytes,
			   (unsigned long long)end.total_bytes);
		return hf_destination_fail_locked(d, &err);
	}
	d->fetching = true;
	d->device_end_ns = hf_clock_now_ns(&d->clock);
	move(d, HF_STATUS_DEVICE, HF_INCOMING_LISTEN);
	return ACTION_LOAD | ACTION_NOTIFY | ACTION_PUMP | ACTION_KICK_URGENT |
	       (d->precopy.whole ? ACTION_KICK_BACKGROUND : 0);
}

static unsigned on_run(struct hf_destination *d)
{
	unsigned actions = 0;
	if (!d->advised || d->run_heard || take_step(d, HF_DESTINATION_HEARD_RUN, &d->refusal, &actions) < 0)
		return unexpected(d, HF_WIRE_RUN);
	d->run_heard = d->fetching = true;
	if (d->run_ns == 0)
		d->run_ns = hf_clock_now_ns(&d->clock);
	/* A pause since LOADED changes nothing: the VM is this side's now, and nowhere else can it run. */
	bool paused = d->status == HF_STATUS_POSTCOPY_PAUSED;
	bool listens = d->incoming == HF_INCOMING_LISTEN;
	if (d->status == HF_STATUS_POSTCOPY_RECOVER && d->handover != HF_DESTINATION_LOST)
		d->err = HF_ERR_INIT;
	move(d, paused ? d->status : HF_STATUS_POSTCOPY_ACTIVE, listens ? HF_INCOMING_RUNNING : d->incoming);
	if (hf_destination_background_limited(d))
		actions |= ACTION_KICK_BACKGROUND; /* it comes again and again */
	return actions | ACTION_PUMP | ACTION_NOTIFY;
}

static unsigned on_finish(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	if (!d->complete_said)
		return unexpected(d, HF_WIRE_FINISH);
	struct hf_wire_finish finish;
	struct hf_err err = HF_ERR_INIT;
	if (hf_wire_decode_finish(payload, bytes, &finish, &err) == 0)
		d->downtime_ns = finish.downtime_ns;
	complete(d);
	return ACTION_NOTIFY;
}

static unsigned on_fail(struct hf_destination *d, const uint8_t *payload, size_t bytes)
{
	struct hf_err why, err = HF_ERR_INIT;
	if (hf_wire_decode_fail(payload, bytes, &why, &err) < 0)
		return violation(d, &err);
	hf_err_prefix(&why, "the source says");
	bool handed_back = d->handover == HF_DESTINATION_REFUSED;
	if (handed_back)
		why = d->refusal;
	if (handed_back || d->status == HF_STATUS_POSTCOPY_PAUSED || d->status == HF_STATUS_POSTCOPY_RECOVER)
		hf_err_prefix(&why, "VM '%s' stays with the source", d->vm_name);
	/* The source saying so before RUN means that it keeps the VM, even if LOADED has been said. */
	unsigned actions = 0;
	if (take_step(d, HF_DESTINATION_HEARD_FAIL, &why, &actions) == 0)
		return actions;
	return hf_destination_fail_locked(d, &why) & ~(unsigned)ACTION_SEND_FAIL;
}

static void event_message(void *engine, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
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
		actions = unexpected(d, type);
		break;
	}
	hf_destination_unlock_act(d, actions);
}

const struct hf_transport_events hf_destination_events = {
    .link_up = event_link_up,
    .link_down = event_link_down,
    .message = event_message,
    .fetch_done = hf_destination_event_fetch_done,
};

/* ---- VM ---------------------------------------------------------------------------------------- */

static unsigned load_done(struct hf_destination *d, int result, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	unsigned actions = 0;
	if (result < 0)
		return hf_destination_fail_locked(d, why);
	if (d->status == HF_STATUS_DEVICE)
		d->load_time_ns = hf_clock_now_ns(&d->clock) - d->device_end_ns;
	if (hf_destination_load_must_wait(d))
		return ACTION_NOTIFY;
	take_step(d, HF_DESTINATION_VM_LOADED, NULL, &actions);
	return actions | ACTION_NOTIFY;
}

/* Locked. Only what surely has not run may be handed back. */
static unsigned run_done(struct hf_destination *d, int result, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	unsigned actions = 0;
	if (result == 0) {
		take_step(d, HF_DESTINATION_VM_RAN, NULL, &actions);
	} else if (!d->recoverable) {
		/* A source that does not know REFUSED: the operator may still get the VM to run. */
		actions = pause_locked(d, why);
	} else if (result == -EOWNERDEAD) {
		take_step(d, HF_DESTINATION_VM_UNKNOWN, why, &actions);
	} else {
		d->refusal = *why;
		take_step(d, HF_DESTINATION_VM_REFUSED, why, &actions);
	}
	return actions | ACTION_NOTIFY;
}

static unsigned kill_done(struct hf_destination *d, int result, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	unsigned actions = 0;
	take_step(d, result == 0 ? HF_DESTINATION_VM_KILLED : HF_DESTINATION_KILL_FAILED, why, &actions);
	return actions | ACTION_NOTIFY;
}

void hf_destination_vm_done(struct hf_destination *d, const struct hf_vm_result *result)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	unsigned actions = 0;
	struct hf_err err = HF_ERR_INIT;
	if (result->result < 0)
		hf_err_set(&err, HF_ERR_LOCAL, -result->result, "VM '%s': %s failed on the destination: %s",
			   d->vm_name, hf_vm_op_name(result->op),
			   result->err ? result->err->text : "no reason given");
	if (result->op == HF_VM_LOAD)
		actions = load_done(d, result->result, &err);
	else if (result->op == HF_VM_RUN)
		actions = run_done(d, result->result, &err);
	else if (result->op == HF_VM_KILL)
		actions = kill_done(d, result->result, &err);
	hf_destination_unlock_act(d, actions);
}

void hf_destination_vm_ended(struct hf_destination *d, const struct hf_err *why)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	unsigned actions = 0;
	if (d->handover == HF_DESTINATION_LOADED)
		d->refusal = *why;
	if (!hf_status_is_final(d->status) && !d->complete_said)
		take_step(d, HF_DESTINATION_VM_ENDED, why, &actions);
	hf_destination_unlock_act(d, actions | ACTION_NOTIFY);
}

static unsigned recorded_locked(struct hf_destination *d, enum hf_record record, int result,
				const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	struct hf_err err = HF_ERR_INIT;
	unsigned actions = 0;
	if (record != d->recording || record == HF_RECORD_NONE)
		return 0;
	d->recording = HF_RECORD_NONE;
	if (record != HF_RECORD_REFUSED)
		d->record_time_ns += hf_clock_now_ns(&d->clock) - d->record_ns;
	if (result < 0) {
		hf_err_set(&err, HF_ERR_LOCAL, -result, "VM '%s': the record '%s' cannot be written: %s",
			   d->vm_name, hf_record_name(record), why ? why->text : "no reason given");
		if (record == HF_RECORD_RUNNING && !d->recoverable)
			return pause_locked(d, &err);
		if (record == HF_RECORD_RUNNING)
			d->refusal = err;
	}
	take_step(d, result < 0 ? HF_DESTINATION_RECORD_FAILED : HF_DESTINATION_RECORDED, &err, &actions);
	return actions | ACTION_NOTIFY;
}

void hf_destination_recorded(struct hf_destination *d, enum hf_record record, int result,
			     const struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	hf_destination_unlock_act(d, recorded_locked(d, record, result, err));
}

/* ---- a process that was started again ---------------------------------------------------------- */

/* Locked, or before anybody else knows the engine. */
static void begin_again(struct hf_destination *d, enum hf_record record, bool vmm_lives)
{
	struct hf_handover_destination_step step = hf_handover_destination_restart(record, vmm_lives);
	struct hf_err why;
	d->handover = step.next;
	d->recoverable = true;
	d->status = HF_STATUS_POSTCOPY_PAUSED;
	d->incoming = record == HF_RECORD_LOADED ? HF_INCOMING_LISTEN : HF_INCOMING_RUNNING;
	hf_err_set(&why, HF_ERR_LOCAL, vmm_lives ? EINTR : ESRCH, "VM '%s': %s", d->vm_name,
		   vmm_lives ? "the program that was receiving it was started again"
			     : "its VMM has ended while no program was receiving it");
	d->err = d->refusal = why;
	hf_destination_pages_restart(d);
	d->restart_actions = actions_of(d, &step, &why);
}

void hf_destination_restart(struct hf_destination *d)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	unsigned actions = ACTION_NOTIFY;
	bool starting = d->handover == HF_DESTINATION_STARTING_AGAIN;
	bool has_memory = d->handover == HF_DESTINATION_LOADED || starting;
	if (starting && d->pages_received == d->blocks.pages_total) {
		/* Every page is here: what may be registered still is let go before the VM is told to run. */
		d->releasing = true;
		actions |= ACTION_RELEASE | d->restart_actions;
	} else if (has_memory) {
		d->taking_over = true;
		actions |= ACTION_TAKE_OVER;
	} else {
		actions |= d->restart_actions;
	}
	hf_destination_unlock_act(d, actions);
}

/* ---- operator ---------------------------------------------------------------------------------- */

void hf_destination_hold_background(struct hf_destination *d, bool hold)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	d->background_held = hold;
	hf_destination_unlock_act(d, hold ? 0 : ACTION_PUMP | ACTION_KICK_BACKGROUND);
}

void hf_destination_limit_background(struct hf_destination *d, uint64_t limit_bytes_per_s)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	hf_limiter_set(&d->limiter, limit_bytes_per_s, hf_clock_now_ns(&d->clock));
	hf_destination_unlock_act(d, ACTION_PUMP | ACTION_KICK_BACKGROUND);
}

/* ---- creation ---------------------------------------------------------------------------------- */

static int check_config(const struct hf_destination_config *config, struct hf_err *err)
{
	uint32_t chunk = config->chunk_bytes;
	if (chunk &&
	    (chunk < HF_WIRE_CHUNK_MIN_BYTES || chunk > HF_WIRE_CHUNK_MAX_BYTES || (chunk & (chunk - 1))))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "chunk size %u is not a power of two from 4 KiB to 64 MiB", chunk);
	if (config->background_share_percent > HF_SCHEDULE_SHARE_MAX_PERCENT)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "background share %u%% is above %u%%",
				  config->background_share_percent, HF_SCHEDULE_SHARE_MAX_PERCENT);
	if (config->blocks->count == 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "VM '%s' has no RAM block", config->vm_name);
	return 0;
}

int hf_destination_create(struct hf_destination **out, const struct hf_destination_config *config,
			  struct hf_err *err)
{
	int result = check_config(config, err);
	if (result < 0)
		return result;
	struct hf_destination *d = calloc(1, sizeof(*d));
	if (!d)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the destination engine");

	d->clock = config->clock;
	d->memory = config->memory;
	d->transport = config->transport;
	d->vm = config->vm;
	d->recorder = config->recorder;
	d->notify = config->notify;
	d->opaque = config->opaque;
	d->chunk_bytes = config->chunk_bytes ? config->chunk_bytes : HF_CHUNK_DEFAULT_BYTES;
	d->background_held = config->background_held;
	d->max_page_stall_ns = config->max_page_stall_ns;
	hf_limiter_init(&d->limiter, config->max_postcopy_bandwidth, hf_clock_now_ns(&d->clock));
	snprintf(d->vm_name, sizeof(d->vm_name), "%s", config->vm_name);
	hf_lock_init(&d->lock, "hf_destination.lock", HF_RANK_ENGINE);
	hf_ramblocks_init(&d->blocks);

	result = hf_ramblocks_copy(&d->blocks, config->blocks, err);
	if (result == 0)
		result = hf_destination_pages_create(d, config, err);
	if (result < 0) {
		hf_destination_destroy(d);
		return result;
	}
	if (config->restarted) {
		hf_lock(&d->lock);
		begin_again(d, config->record, config->vmm_lives);
		hf_unlock(&d->lock);
	}
	*out = d;
	return 0;
}

void hf_destination_tables(struct hf_destination *d, struct hf_tables *tables)
{
	hf_lock_assert_entry(__func__);
	*tables = (struct hf_tables){0};
	hf_lock(&d->lock);
	hf_tables_add(tables, d, sizeof(*d));
	hf_tables_add(tables, d->blocks.blocks, d->blocks.count * sizeof(*d->blocks.blocks));
	hf_tables_add(tables, d->block_of_source, d->blocks.count * sizeof(*d->block_of_source));
	hf_tables_add(tables, d->source_of_block, d->blocks.count * sizeof(*d->source_of_block));
	hf_destination_pages_tables(d, tables);
	hf_destination_fetch_tables(d, tables);
	hf_unlock(&d->lock);
}

void hf_destination_destroy(struct hf_destination *d)
{
	hf_lock_assert_may_stop(__func__);
	if (!d)
		return;
	hf_destination_pages_destroy(d);
	hf_link_probe_destroy(d->probe);
	hf_ramblocks_destroy(&d->blocks);
	free(d->block_of_source);
	free(d->source_of_block);
	free(d->device_state);
	hf_lock_destroy(&d->lock);
	free(d);
}
