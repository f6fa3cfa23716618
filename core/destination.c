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
 * destination_precopy.c. What becomes of pages whose source is gone for good is in destination_poison.c.
 */
#include "core/destination.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/destination_internal.h"
#include "core/wire.h"

/* Locked. For moves whose precondition the caller has checked; the table has the last word. */
void hf_destination_move(struct hf_destination *d, enum hf_status status, enum hf_incoming incoming)
{
	hf_lock_assert_held(&d->lock);
	if (status != d->status)
		hf_status_move(&d->status, status);
	if (incoming != d->incoming)
		hf_incoming_move(&d->incoming, incoming);
}

/* Locked. Nothing is needed from the source any more. A link that was lost on the way is no failure then. */
void hf_destination_complete(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	hf_destination_move(d, HF_STATUS_COMPLETED, HF_INCOMING_END);
	d->err = HF_ERR_INIT;
}

/* ---- sending ----------------------------------------------------------------------------------- */

void hf_destination_send(struct hf_destination *d, uint64_t epoch, uint32_t type, const void *payload,
			 size_t bytes)
{
	if (epoch != 0)
		hf_transport_send(&d->transport, epoch, type, payload, bytes);
}

static void send_ready(struct hf_destination *d, uint64_t epoch)
{
	struct hf_wire_ready ready = {.placement = d->memory.placement, .chunk_bytes = d->chunk_bytes};
	uint8_t buffer[64];
	ssize_t bytes = hf_wire_encode_ready(&ready, buffer, sizeof(buffer));
	if (bytes > 0)
		hf_destination_send(d, epoch, HF_WIRE_READY, buffer, (size_t)bytes);
}

static void send_fail(struct hf_destination *d, uint64_t epoch)
{
	uint8_t buffer[HF_ERR_TEXT_BYTES + 64];
	hf_lock(&d->lock);
	struct hf_err why = d->err;
	hf_unlock(&d->lock);
	ssize_t bytes = hf_wire_encode_fail(&why, buffer, sizeof(buffer));
	if (bytes > 0)
		hf_destination_send(d, epoch, HF_WIRE_FAIL, buffer, (size_t)bytes);
}

static void send_refused(struct hf_destination *d, uint64_t epoch)
{
	uint8_t buffer[HF_ERR_TEXT_BYTES + 64];
	hf_lock(&d->lock);
	struct hf_err why = d->refusal;
	bool asked = d->run_heard; /* else RUN will ask, if it is needed */
	hf_unlock(&d->lock);
	ssize_t bytes = hf_wire_encode_refused(&why, buffer, sizeof(buffer));
	if (asked && bytes > 0)
		hf_destination_send(d, epoch, HF_WIRE_REFUSED, buffer, (size_t)bytes);
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
	hf_destination_move(d, why->class == HF_ERR_CANCELLED ? HF_STATUS_CANCELLED : HF_STATUS_FAILED,
			    HF_INCOMING_END);
	d->end_ns = hf_clock_now_ns(&d->clock);
	return ACTION_NOTIFY;
}

unsigned hf_destination_pause_locked(struct hf_destination *d, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	if (d->status != HF_STATUS_POSTCOPY_PAUSED)
		d->err = *why;
	hf_destination_move(d, HF_STATUS_POSTCOPY_PAUSED, d->incoming);
	return ACTION_NOTIFY;
}

/* Locked. What a step of the hand-over makes this engine do. */
unsigned hf_destination_actions_of(struct hf_destination *d, const struct hf_handover_destination_step *step,
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
		act |= hf_destination_pause_locked(d, why);
	return act;
}

/* Locked. why: of a failure; *actions untouched for an event not expected. */
int hf_destination_take_step(struct hf_destination *d, enum hf_handover_destination_event event,
			     const struct hf_err *why, unsigned *actions)
{
	hf_lock_assert_held(&d->lock);
	struct hf_handover_destination_step step;
	int result = hf_handover_destination_step(d->handover, event, &step);
	if (result < 0)
		return result;
	d->handover = step.next;
	*actions = hf_destination_actions_of(d, &step, why);
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
		hf_destination_complete(d);
		return ACTION_NOTIFY;
	}
	if (hf_destination_take_step(d, HF_DESTINATION_BROKEN, why, &actions) < 0 || actions == 0)
		actions = hf_destination_pause_locked(d, why);
	return actions;
}

void hf_destination_fail(struct hf_destination *d, const struct hf_err *why)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	hf_destination_unlock_act(d, hf_destination_fail_locked(d, why));
}

unsigned hf_destination_violation(struct hf_destination *d, const struct hf_err *why)
{
	struct hf_err err = *why;
	err.class = HF_ERR_PEER;
	hf_err_prefix(&err, "VM '%s'", d->vm_name);
	return hf_destination_fail_locked(d, &err);
}

unsigned hf_destination_unexpected(struct hf_destination *d, uint32_t type)
{
	struct hf_err err;
	hf_err_set(&err, HF_ERR_PEER, EPROTO,
		   "VM '%s': the source sent %s, which is not expected in state %s/%s; check that both hosts "
		   "run the same release",
		   d->vm_name, hf_wire_type_name(type), hf_status_name(d->status),
		   hf_incoming_name(d->incoming));
	return hf_destination_fail_locked(d, &err);
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
		hf_destination_move(d, HF_STATUS_POSTCOPY_RECOVER_SETUP, d->incoming);
	else if (d->status == HF_STATUS_POSTCOPY_RECOVER_SETUP && !looking)
		hf_destination_move(d, HF_STATUS_POSTCOPY_PAUSED, d->incoming);
	hf_destination_unlock_act(d, ACTION_NOTIFY);
}

void hf_destination_let_go(struct hf_destination *d)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	if (d->complete_said)
		hf_destination_complete(d);
	hf_destination_unlock_act(d, ACTION_NOTIFY);
}

/* ---- end --------------------------------------------------------------------------------------- */

unsigned hf_destination_check_end(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	unsigned actions = 0;
	if (d->precopy.load_waits && d->pages_received == d->blocks.pages_total) {
		d->precopy.load_waits = false;
		hf_destination_take_step(d, HF_DESTINATION_VM_LOADED, NULL, &actions);
		return actions | ACTION_NOTIFY;
	}
	if (!d->resumed || d->releasing || d->pages_received + d->pages_poisoned != d->blocks.pages_total ||
	    d->handover == HF_DESTINATION_LOST)
		return 0;
	d->releasing = true;
	return ACTION_RELEASE;
}

/* Locked. Nothing here needs the source any more, and it may be told. */
static unsigned released_locked(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	d->complete_said = true;
	d->end_ns = hf_clock_now_ns(&d->clock);
	hf_destination_move(d, d->status, HF_INCOMING_END);
	/* With the link gone there is no FINISH to wait for. */
	if (d->epoch == 0 && !d->recoverable)
		hf_destination_complete(d);
	/* Over a link that has come up meanwhile it follows RESUMED. */
	return ACTION_NOTIFY | (d->resumed_said ? ACTION_SEND_COMPLETE : 0);
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
	} else if (d->pages_poisoned > 0) {
		hf_destination_complete(d);
		d->end_ns = hf_clock_now_ns(&d->clock);
		hf_destination_poison_tell(d);
		actions = ACTION_NOTIFY;
	} else {
		d->released = true;
		/* A VM that is still to be told to run, or has ended, is not complete. */
		actions = d->handover == HF_DESTINATION_RUNNING ? released_locked(d) : ACTION_NOTIFY;
	}
	if (d->handover == HF_DESTINATION_STARTING_AGAIN)
		actions |= d->restart_actions;
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

/* The VM runs. Said once on a link, and only in answer to RUN; epoch: of the link that was up. */
static void said_resumed(struct hf_destination *d, uint64_t epoch)
{
	hf_lock(&d->lock);
	bool say = d->run_heard && !d->resumed_begun && epoch == d->epoch;
	d->resumed_begun |= say;
	hf_unlock(&d->lock);
	if (say)
		hf_destination_send(d, epoch, HF_WIRE_RESUMED, NULL, 0);
	hf_lock(&d->lock);
	d->resumed = true;
	d->resumed_said |= say && epoch == d->epoch;
	unsigned actions = ACTION_PUMP | ACTION_KICK_BACKGROUND | hf_destination_check_end(d);
	if (d->released && !d->complete_said)
		actions |= released_locked(d);
	else if (d->complete_said && d->resumed_said) /* over an earlier link, or while there was none */
		actions |= ACTION_SEND_COMPLETE;
	if (say && d->epoch == epoch)
		actions |= hf_destination_placed_begin(d);
	hf_destination_unlock_act(d, actions);
}

void hf_destination_unlock_act(struct hf_destination *d, unsigned actions)
{
	/* What is decided for a link is not said on the next one. */
	uint64_t epoch = d->epoch;
	hf_unlock(&d->lock);

	if (actions & ACTION_PROBE)
		hf_destination_probe_start(d);
	if (actions & ACTION_SEND_LINK)
		hf_destination_send_link(d, epoch);
	if (actions & ACTION_PREPARE)
		prepare(d);
	if (actions & ACTION_SEND_READY)
		send_ready(d, epoch);
	if (actions & ACTION_CLEAR_HOLES)
		hf_destination_clear_holes(d);
	if (actions & ACTION_LOAD)
		request_vm(d, HF_VM_LOAD, d->device_state, d->device_state_bytes);
	if (actions & ACTION_TAKE_OVER)
		take_over(d);
	if (actions & ACTION_RECORD)
		request_record(d);
	if (actions & ACTION_SEND_LOADED)
		hf_destination_send(d, epoch, HF_WIRE_LOADED, NULL, 0);
	if (actions & ACTION_RUN)
		request_vm(d, HF_VM_RUN, NULL, 0);
	if (actions & ACTION_KILL)
		request_vm(d, HF_VM_KILL, NULL, 0);
	if (actions & ACTION_SEND_REFUSED)
		send_refused(d, epoch);
	if (actions & ACTION_KICK_URGENT)
		hf_memory_kick(&d->memory, HF_WORK_URGENT);
	if (actions & ACTION_KICK_BACKGROUND)
		hf_memory_kick(&d->memory, HF_WORK_BACKGROUND);
	if (actions & ACTION_SEND_RESUMED)
		said_resumed(d, epoch);
	if (actions & ACTION_PUMP)
		hf_destination_pump(d);
	if (actions & ACTION_SEND_ROUND_DONE)
		hf_destination_send_round_done(d, epoch);
	if (actions & ACTION_SAY_PLACED)
		hf_destination_say_placed(d);
	if (actions & ACTION_RELEASE)
		release(d);
	if (actions & ACTION_SEND_COMPLETE)
		hf_destination_send(d, epoch, HF_WIRE_COMPLETE, NULL, 0);
	if (actions & ACTION_SEND_FAIL)
		send_fail(d, epoch);
	if (actions & ACTION_NOTIFY)
		hf_call_notify(d->notify, d->opaque);
}

/* ---- link -------------------------------------------------------------------------------------- */

/* Locked. Is this the link on which a paused migration goes on? */
static bool goes_on(const struct hf_destination *d, const struct hf_link_info *info)
{
	hf_lock_assert_held(&d->lock);
	return hf_status_is_paused(d->status) && !d->poisoning && d->epoch == 0 &&
	       info->epoch > d->epoch_last && (info->features & HF_WIRE_FEATURE_RECOVER);
}

static void take_link(struct hf_destination *d, const struct hf_link_info *info)
{
	hf_lock_assert_held(&d->lock);
	d->epoch = d->epoch_last = info->epoch;
	d->link = *info;
	d->recoverable = (info->features & HF_WIRE_FEATURE_RECOVER) != 0;
	d->advised = d->run_heard = d->run_waits = d->resumed_begun = d->resumed_said = d->fetching = false;
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
	d->links_used++;
	bool again = goes_on(d, info);
	if (d->status != HF_STATUS_NONE && !again) {
		hf_err_set(&err, HF_ERR_LOCAL, EISCONN, "VM '%s': %s", d->vm_name,
			   d->poisoning ? "a link came up although its missing pages are being poisoned"
					: "a second link came up");
		actions = hf_destination_fail_locked(d, &err);
	} else {
		int result = hf_destination_fetch_link_up(d, info);
		if (result == 0)
			result = hf_destination_placed_link_up(d, info);
		take_link(d, info);
		hf_destination_move(d, again ? HF_STATUS_POSTCOPY_RECOVER : HF_STATUS_SETUP, d->incoming);
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

const struct hf_transport_events hf_destination_events = {
    .link_up = event_link_up,
    .link_down = event_link_down,
    .message = hf_destination_event_message,
    .fetch_done = hf_destination_event_fetch_done,
};

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
		hf_destination_begin_again(d, config->record, config->vmm_lives);
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
	free(d->poisoned_of_block);
	free(d->device_state);
	hf_lock_destroy(&d->lock);
	free(d);
}
