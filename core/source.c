/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source decides two things only: when its VM stops, after rounds of pre-copy if the operator wants them
 * (source_precopy.c), and that it is given up. All else is the destination's (see destination.c for the order
 * of messages). Pages are served from serve(), which takes no
 * lock: the blocks are fixed at creation, and the presence map is complete before `serving` is set and does
 * not change after it. A hole is answered as zeros and never touched, since touching would allocate it.
 *
 * Who owns the VM is decided by the tables of handover.c; each event is one step there, taken under the lock:
 *
 *     SOURCE ---- LOADED heard, VMM frozen, GIVEN_UP on record, then RUN sent ----> DESTINATION
 *        |                                                                              |
 *        |  any failure before: FAIL to the peer, then HF_VM_RESUME                     |  REFUSED heard
 *        v  if the VM was stopped                                                       |
 *     RESUMING <------------------------------------------------------------------------+
 *        |
 *        +--> SOURCE (runs again), or STUCK (the VMM would not; the operator must look)
 *
 * A failure that comes before the record is being written resumes the VM, and LOADED is then ignored; one
 * that comes later pauses. There is no way back from DESTINATION but REFUSED, even if RUN could not be sent:
 * a VM that stands still can be helped, a VM that runs twice can not.
 *
 * A failure may come while the VMM is busy with STOP, SAVE or FENCE. The VM is then resumed when that
 * operation ends, so that the VMM never has two at once.
 *
 * A lost link is no end: on the next one (a higher epoch) ADVISE goes ahead and then RUN, or FAIL if the VM
 * stayed here. What was said on an older link need not have been heard, so nothing of it is remembered but
 * RESUMED.
 */
#include "core/source_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/ports_internal.h"
#include "core/wire.h"

/* Locked, with the caller having checked that the table has the transition. */
static void move(struct hf_source *s, enum hf_status status)
{
	hf_lock_assert_held(&s->lock);
	if (status != s->status)
		hf_status_move(&s->status, status);
}

/* ---- failing ----------------------------------------------------------------------------------- */

/* Locked. The migration has failed and the VM is this side's. */
static unsigned end_failed(struct hf_source *s, const struct hf_err *why)
{
	hf_lock_assert_held(&s->lock);
	s->err = *why;
	move(s, why->class == HF_ERR_CANCELLED ? HF_STATUS_CANCELLED : HF_STATUS_FAILED);
	s->end_ns = hf_clock_now_ns(&s->clock);
	s->in_doubt = s->device_whole && s->recoverable && s->epoch == 0;
	/* Serving goes on until the link is down: a refusal now would tear it down before FAIL has left. */
	if (s->vm_stopping)
		s->owner = HF_VM_OWNER_RESUMING;
	return ACTION_NOTIFY;
}

static unsigned pause_locked(struct hf_source *s, const struct hf_err *why)
{
	hf_lock_assert_held(&s->lock);
	if (s->status != HF_STATUS_POSTCOPY_PAUSED)
		s->err = *why;
	move(s, HF_STATUS_POSTCOPY_PAUSED);
	return ACTION_NOTIFY;
}

/* Locked. One step of the hand-over. why: of a failure; *actions untouched for an event not expected. */
static int take_step(struct hf_source *s, enum hf_handover_source_event event, const struct hf_err *why,
		     unsigned *actions)
{
	hf_lock_assert_held(&s->lock);
	struct hf_handover_source_step step;
	int result = hf_handover_source_step(s->handover, event, &step);
	if (result < 0)
		return result;
	s->handover = step.next;
	uint64_t now_ns = hf_clock_now_ns(&s->clock);
	unsigned act = 0;
	if (step.actions & HF_ACT_FENCE) {
		s->vm_busy = true;
		s->fence_ns = now_ns;
		act |= ACTION_FENCE;
	}
	if (step.actions & HF_ACT_RECORD) {
		s->recording = step.record;
		s->record_ns = now_ns;
		act |= ACTION_RECORD;
	}
	if (step.actions & HF_ACT_FAIL)
		act |= end_failed(s, why);
	if (step.actions & HF_ACT_SAY_FAIL)
		act |= ACTION_SEND_FAIL;
	if ((step.actions & HF_ACT_RESUME) && s->vm_stopping && !s->vm_busy)
		act |= ACTION_RESUME;
	if (step.actions & HF_ACT_SAY_RUN)
		act |= ACTION_SEND_RUN;
	if (step.actions & HF_ACT_ALARM) {
		/* It is not known what is on record, so the VM is treated as given up: it does not run here.
		 */
		s->owner = HF_VM_OWNER_DESTINATION;
		act |= pause_locked(s, why);
	}
	*actions = act;
	return 0;
}

/* Locked. */
static unsigned fail_locked(struct hf_source *s, const struct hf_err *why)
{
	hf_lock_assert_held(&s->lock);
	unsigned actions = 0;
	if (hf_status_is_final(s->status) || take_step(s, HF_SOURCE_BROKEN, why, &actions) < 0)
		return 0;
	if (s->owner == HF_VM_OWNER_DESTINATION)
		return actions | pause_locked(s, why);
	/* The end of the write decides whose the VM is. */
	if (s->handover == HF_SOURCE_RECORDING && s->broken.class == HF_ERR_NONE)
		s->broken = *why;
	return actions;
}

/* Locked. From here on nothing but the destination decides about the VM. */
static bool decided(const struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	return s->handover == HF_SOURCE_RECORDING || s->owner == HF_VM_OWNER_DESTINATION;
}

static unsigned unexpected(struct hf_source *s, uint32_t type)
{
	struct hf_err err;
	hf_err_set(&err, HF_ERR_PEER, EPROTO,
		   "VM '%s': the destination sent %s, which is not expected in state %s; check that both "
		   "hosts run the same release",
		   s->vm_name, hf_wire_type_name(type), hf_status_name(s->status));
	return fail_locked(s, &err);
}

/* Locked. A message that cannot be decoded; why's text does not name the VM. */
static unsigned violation(struct hf_source *s, struct hf_err *why)
{
	hf_err_prefix(why, "VM '%s'", s->vm_name);
	return fail_locked(s, why);
}

static void unlock_act(struct hf_source *s, unsigned actions);

unsigned hf_source_fail_locked(struct hf_source *s, const struct hf_err *why)
{
	return fail_locked(s, why);
}

unsigned hf_source_unexpected(struct hf_source *s, uint32_t type)
{
	return unexpected(s, type);
}

unsigned hf_source_violation(struct hf_source *s, struct hf_err *why)
{
	return violation(s, why);
}

void hf_source_unlock_act(struct hf_source *s, unsigned actions)
{
	unlock_act(s, actions);
}

void hf_source_fail(struct hf_source *s, const struct hf_err *why)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	/* After the hand-over nothing on this host is a reason to stop: the pages are served from here. */
	unlock_act(s, decided(s) ? 0 : fail_locked(s, why));
}

int hf_source_cancel(struct hf_source *s, struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	struct hf_err why;
	int result = 0;
	unsigned actions = 0;
	hf_err_set(&why, HF_ERR_CANCELLED, ECANCELED, "VM '%s': cancelled on the source", s->vm_name);

	hf_lock(&s->lock);
	if (hf_status_is_final(s->status))
		result = hf_err_set(err, HF_ERR_LOCAL, EPERM, "VM '%s': the migration has ended already (%s)",
				    s->vm_name, hf_status_name(s->status));
	else if (decided(s))
		result = hf_err_set(
		    err, HF_ERR_LOCAL, EPERM,
		    "VM '%s': too late to cancel: the VM has been given to the destination, and its "
		    "memory is still here",
		    s->vm_name);
	else
		actions = fail_locked(s, &why);
	unlock_act(s, actions);
	return result;
}

int hf_source_pause(struct hf_source *s, struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	struct hf_err why;
	int result = 0;
	unsigned actions = 0;
	hf_err_set(&why, HF_ERR_LINK, ECANCELED, "VM '%s': paused by the operator of the source", s->vm_name);

	hf_lock(&s->lock);
	if (s->owner == HF_VM_OWNER_DESTINATION && !hf_status_is_final(s->status))
		actions = fail_locked(s, &why);
	else
		result = hf_err_set(err, HF_ERR_LOCAL, EPERM,
				    "VM '%s': only a migration in postcopy can be paused; this one is '%s'",
				    s->vm_name, hf_status_name(s->status));
	unlock_act(s, actions);
	return result;
}

void hf_source_recover_setup(struct hf_source *s, bool looking)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	if (s->status == HF_STATUS_POSTCOPY_PAUSED && looking)
		move(s, HF_STATUS_POSTCOPY_RECOVER_SETUP);
	else if (s->status == HF_STATUS_POSTCOPY_RECOVER_SETUP && !looking)
		move(s, HF_STATUS_POSTCOPY_PAUSED);
	unlock_act(s, ACTION_NOTIFY);
}

/* ---- sending ----------------------------------------------------------------------------------- */

/* A failure to send means that the link goes down, which is told as link_down. */
static void send_message(struct hf_source *s, uint32_t type, const void *payload, size_t bytes)
{
	hf_lock(&s->lock);
	uint64_t epoch = s->epoch;
	hf_unlock(&s->lock);
	if (epoch != 0)
		hf_transport_send(&s->transport, epoch, type, payload, bytes);
}

void hf_source_send(struct hf_source *s, uint32_t type, const void *payload, size_t bytes)
{
	send_message(s, type, payload, bytes);
}

static void send_wish(struct hf_source *s, uint32_t placement, bool hold)
{
	struct hf_wire_wish wish = {.placement = placement, .hold_background = hold};
	uint8_t buffer[64];
	ssize_t bytes = hf_wire_encode_wish(&wish, buffer, sizeof(buffer));
	if (bytes > 0)
		send_message(s, HF_WIRE_WISH, buffer, (size_t)bytes);
}

/* placement: what is wished; the first link only. */
static void send_advise(struct hf_source *s, uint32_t placement)
{
	hf_lock(&s->lock);
	bool hold = s->hold_background;
	hf_unlock(&s->lock);
	if (hold || placement != HF_WIRE_WISH_ANY)
		send_wish(s, placement, hold);

	size_t room = 1024 + (size_t)s->blocks.count * (HF_RAMBLOCK_IDSTR_MAX + 64);
	uint8_t *buffer = malloc(room);
	ssize_t bytes = buffer ? hf_wire_encode_advise(s->vm_name, &s->blocks, buffer, room) : -ENOMEM;
	if (bytes > 0) {
		send_message(s, HF_WIRE_ADVISE, buffer, (size_t)bytes);
	} else {
		struct hf_err err;
		hf_err_set(&err, HF_ERR_LOCAL, (int)-bytes, "VM '%s': its list of RAM blocks cannot be sent",
			   s->vm_name);
		hf_source_fail(s, &err);
	}
	free(buffer);
}

static void send_finish(struct hf_source *s)
{
	struct hf_source_snapshot snapshot;
	uint8_t buffer[64];
	hf_source_snapshot(s, &snapshot);
	struct hf_wire_finish finish = {
	    .downtime_ns = snapshot.downtime_ns,
	    .total_time_ns = snapshot.total_time_ns,
	    .sent_bytes = snapshot.sent_bytes,
	};
	ssize_t bytes = hf_wire_encode_finish(&finish, buffer, sizeof(buffer));
	if (bytes > 0)
		send_message(s, HF_WIRE_FINISH, buffer, (size_t)bytes);
}

static void send_fail(struct hf_source *s)
{
	uint8_t buffer[HF_ERR_TEXT_BYTES + 64];
	hf_lock(&s->lock);
	struct hf_err why = s->err;
	hf_unlock(&s->lock);
	ssize_t bytes = hf_wire_encode_fail(&why, buffer, sizeof(buffer));
	if (bytes > 0)
		send_message(s, HF_WIRE_FAIL, buffer, (size_t)bytes);
}

/* ---- acting ------------------------------------------------------------------------------------ */

static void request_vm(struct hf_source *s, enum hf_vm_op op)
{
	int result = hf_vm_request(&s->vm, op, NULL, 0);
	if (result == 0)
		return;
	struct hf_err err;
	hf_err_set(&err, HF_ERR_LOCAL, -result, "VM '%s': could not ask the VMM to %s", s->vm_name,
		   hf_vm_op_name(op));
	struct hf_vm_result end = {.op = op, .result = result, .err = &err};
	hf_source_vm_done(s, &end);
}

static void request_record(struct hf_source *s)
{
	hf_lock(&s->lock);
	enum hf_record record = s->recording;
	hf_unlock(&s->lock);
	if (!s->recorder.ops) {
		hf_source_recorded(s, record, 0, NULL);
		return;
	}
	int result = hf_recorder_request(&s->recorder, record);
	if (result == 0)
		return;
	struct hf_err err;
	hf_err_set(&err, HF_ERR_LOCAL, -result, "VM '%s': the record '%s' could not be asked for", s->vm_name,
		   hf_record_name(record));
	hf_source_recorded(s, record, result, &err);
}

static void unlock_act(struct hf_source *s, unsigned actions)
{
	hf_unlock(&s->lock);

	if (actions & ACTION_SEND_ADVISE)
		send_advise(s, s->placement_wish);
	if (actions & ACTION_PRESENT)
		send_advise(s, HF_WIRE_WISH_ANY);
	if (actions & ACTION_SEND_FAIL)
		send_fail(s);
	if (actions & ACTION_HARVEST)
		hf_source_harvest(s);
	if (actions & ACTION_SEND_ROUND)
		hf_source_send_round(s);
	if (actions & ACTION_CHANGE_ROUND)
		hf_source_change_round(s);
	if (actions & ACTION_STOP)
		request_vm(s, HF_VM_STOP);
	if (actions & ACTION_SAVE)
		request_vm(s, HF_VM_SAVE);
	if (actions & ACTION_FENCE)
		request_vm(s, HF_VM_FENCE);
	if (actions & ACTION_RECORD)
		request_record(s);
	if (actions & ACTION_RESUME)
		request_vm(s, HF_VM_RESUME);
	if (actions & ACTION_SEND_RUN)
		send_message(s, HF_WIRE_RUN, NULL, 0);
	if (actions & ACTION_SEND_FINISH)
		send_finish(s);
	if (actions & ACTION_NOTIFY)
		hf_call_notify(s->notify, s->opaque);
}

/* ---- link -------------------------------------------------------------------------------------- */

/* Locked. The session goes on over a new link: says where this side is. */
static unsigned link_up_again(struct hf_source *s, const struct hf_link_info *info)
{
	hf_lock_assert_held(&s->lock);
	unsigned actions = 0;
	if (s->epoch != 0 || info->epoch <= s->epoch_last || !(info->features & HF_WIRE_FEATURE_RECOVER) ||
	    take_step(s, HF_SOURCE_LINK, NULL, &actions) < 0)
		return 0;
	s->epoch = s->epoch_last = info->epoch;
	s->links_used++;
	s->recoverable = true;
	s->resumed = false;
	s->in_doubt = false;
	if (s->link_up_ns == 0)
		s->link_up_ns = hf_clock_now_ns(&s->clock);
	if (s->owner == HF_VM_OWNER_DESTINATION && !hf_status_is_final(s->status)) {
		move(s, HF_STATUS_POSTCOPY_RECOVER);
		atomic_store(&s->serving, true);
	}
	return ACTION_PRESENT | ACTION_NOTIFY | actions;
}

static void event_link_up(void *engine, const struct hf_link_info *info)
{
	hf_lock_assert_entry(__func__);
	struct hf_source *s = engine;
	unsigned actions = 0;

	hf_lock(&s->lock);
	if (s->status == HF_STATUS_NONE) {
		s->epoch = s->epoch_last = info->epoch;
		s->links_used++;
		s->recoverable = (info->features & HF_WIRE_FEATURE_RECOVER) != 0;
		s->link_up_ns = hf_clock_now_ns(&s->clock);
		s->precopy.spoken = (info->features & HF_WIRE_FEATURE_PRECOPY) != 0;
		atomic_store(&s->probing, (info->features & HF_WIRE_FEATURE_LINK) != 0);
		move(s, HF_STATUS_SETUP);
		actions = ACTION_SEND_ADVISE | ACTION_NOTIFY;
	} else {
		actions = link_up_again(s, info);
	}
	unlock_act(s, actions);
}

static void event_link_down(void *engine, uint64_t epoch, const struct hf_err *why)
{
	hf_lock_assert_entry(__func__);
	struct hf_source *s = engine;
	struct hf_err err = why ? *why : HF_ERR_INIT;
	if (err.class == HF_ERR_NONE)
		hf_err_set(&err, HF_ERR_LINK, ECONNRESET, "VM '%s': the destination closed the link",
			   s->vm_name);

	hf_lock(&s->lock);
	unsigned actions = 0;
	if (epoch != 0 && epoch == s->epoch) {
		s->epoch = 0;
		actions = fail_locked(s, &err);
		if (hf_status_is_final(s->status))
			atomic_store(&s->serving, false);
		atomic_store(&s->precopy.serving, false);
	}
	unlock_act(s, actions);
}

/* ---- hand-over --------------------------------------------------------------------------------- */

/* Both operators may limit what a page costs; this side's limit is checked here. */
static unsigned on_link(struct hf_source *s, const uint8_t *payload, size_t bytes)
{
	struct hf_wire_link link;
	struct hf_err err = HF_ERR_INIT;
	if (s->status != HF_STATUS_SETUP || !atomic_load(&s->probing) || s->link_figures.round_trip_ns != 0)
		return unexpected(s, HF_WIRE_LINK);
	if (hf_wire_decode_link(payload, bytes, &link, &err) < 0)
		return violation(s, &err);
	s->link_figures = (struct hf_link_figures){link.round_trip_ns, link.rate_bytes_per_s};
	if (hf_link_stall_check(&s->link_figures, &s->blocks, s->max_page_stall_ns, &err) < 0)
		return violation(s, &err);
	return ACTION_NOTIFY;
}

unsigned hf_source_begin_stop(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	s->vm_stopping = true;
	s->vm_busy = true;
	s->stop_ns = hf_clock_now_ns(&s->clock);
	return ACTION_STOP | ACTION_NOTIFY;
}

static unsigned on_ready(struct hf_source *s, const uint8_t *payload, size_t bytes)
{
	hf_lock_assert_held(&s->lock);
	bool link_due = atomic_load(&s->probing) && s->link_figures.round_trip_ns == 0;
	if (s->status != HF_STATUS_SETUP || link_due)
		return unexpected(s, HF_WIRE_READY);
	struct hf_err err = HF_ERR_INIT;
	if (!atomic_load(&s->probing) && s->max_page_stall_ns != 0) {
		hf_err_set(
		    &err, HF_ERR_PEER, EOPNOTSUPP,
		    "the destination's release does not measure the link, so --max-page-stall cannot be "
		    "kept; install the same release on both hosts, or leave the limit out");
		return violation(s, &err);
	}
	if (hf_wire_decode_ready(payload, bytes, &s->ready, &err) < 0)
		return violation(s, &err);
	atomic_store(&s->probing, false);
	move(s, HF_STATUS_ACTIVE);
	return hf_source_precopy_begin(s);
}

static unsigned on_loaded(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	unsigned actions = 0;
	if (s->status != HF_STATUS_DEVICE || !s->device_whole ||
	    take_step(s, HF_SOURCE_HEARD_LOADED, NULL, &actions) < 0)
		return unexpected(s, HF_WIRE_LOADED);
	return actions | ACTION_NOTIFY;
}

/* Locked. RUN is on its way, or as good as: nothing takes that back but REFUSED. */
static unsigned given_up(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	s->owner = HF_VM_OWNER_DESTINATION;
	s->run_ns = hf_clock_now_ns(&s->clock);
	move(s, HF_STATUS_POSTCOPY_ACTIVE);
	return s->broken.class == HF_ERR_NONE ? ACTION_NOTIFY : pause_locked(s, &s->broken);
}

static unsigned on_resumed(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	unsigned actions = 0;
	bool first = s->handover == HF_SOURCE_GIVEN_UP;
	if (s->resumed || take_step(s, HF_SOURCE_HEARD_RESUMED, NULL, &actions) < 0)
		return unexpected(s, HF_WIRE_RESUMED);
	s->resumed = true;
	if (s->status == HF_STATUS_POSTCOPY_RECOVER) {
		move(s, HF_STATUS_POSTCOPY_ACTIVE);
		s->err = HF_ERR_INIT;
	} else if (first) {
		s->downtime_ns = hf_clock_now_ns(&s->clock) - s->stop_ns;
	}
	return actions | ACTION_NOTIFY;
}

static unsigned on_refused(struct hf_source *s, const uint8_t *payload, size_t bytes)
{
	hf_lock_assert_held(&s->lock);
	struct hf_err why, err = HF_ERR_INIT;
	unsigned actions = 0;
	if (!s->recoverable)
		return unexpected(s, HF_WIRE_REFUSED);
	if (hf_wire_decode_refused(payload, bytes, &why, &err) < 0)
		return violation(s, &err);
	hf_err_prefix(&why, "the destination could not run the VM and has handed it back");
	if (take_step(s, HF_SOURCE_HEARD_REFUSED, &why, &actions) < 0)
		return unexpected(s, HF_WIRE_REFUSED);
	s->refusal = why;
	return actions | ACTION_NOTIFY;
}

static unsigned recorded_locked(struct hf_source *s, enum hf_record record, int result,
				const struct hf_err *why)
{
	hf_lock_assert_held(&s->lock);
	struct hf_err err = s->refusal;
	unsigned actions = 0;
	bool failed = result < 0;
	if (record != s->recording || record == HF_RECORD_NONE)
		return 0;
	s->recording = HF_RECORD_NONE;
	if (failed)
		hf_err_set(&err, HF_ERR_LOCAL, -result, "VM '%s': the record '%s' cannot be written: %s",
			   s->vm_name, hf_record_name(record), why ? why->text : "no reason given");
	if (record == HF_RECORD_GIVEN_UP)
		s->record_time_ns = hf_clock_now_ns(&s->clock) - s->record_ns;
	if (record == HF_RECORD_TAKEN_BACK && !failed)
		s->owner = HF_VM_OWNER_SOURCE;
	if (record == HF_RECORD_GIVEN_UP && failed)
		s->refusal = err; /* why the VM stays here, once that is on record */
	if (take_step(s, failed ? HF_SOURCE_RECORD_FAILED : HF_SOURCE_RECORDED, &err, &actions) < 0)
		return 0;
	if (record == HF_RECORD_GIVEN_UP && !failed)
		actions |= given_up(s);
	return actions | ACTION_NOTIFY;
}

void hf_source_recorded(struct hf_source *s, enum hf_record record, int result, const struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	unlock_act(s, recorded_locked(s, record, result, err));
}

static unsigned on_complete(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	if (s->handover != HF_SOURCE_GONE || !s->resumed)
		return unexpected(s, HF_WIRE_COMPLETE);
	atomic_store(&s->serving, false);
	s->end_ns = hf_clock_now_ns(&s->clock);
	s->err = HF_ERR_INIT; /* of a pause: with every page there, nothing was lost */
	move(s, HF_STATUS_COMPLETED);
	return ACTION_SEND_FINISH | ACTION_NOTIFY;
}

static unsigned on_fail(struct hf_source *s, const uint8_t *payload, size_t bytes)
{
	struct hf_err why, err = HF_ERR_INIT;
	if (hf_wire_decode_fail(payload, bytes, &why, &err) < 0)
		return violation(s, &err);
	hf_err_prefix(&why, "the destination says");
	return fail_locked(s, &why) & ~(unsigned)ACTION_SEND_FAIL;
}

static void event_message(void *engine, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	hf_lock_assert_entry(__func__);
	struct hf_source *s = engine;
	unsigned actions;

	hf_lock(&s->lock);
	if (epoch == 0 || epoch != s->epoch || hf_status_is_final(s->status)) {
		hf_unlock(&s->lock);
		return;
	}
	switch (type) {
	case HF_WIRE_LINK:
		actions = on_link(s, payload, bytes);
		break;
	case HF_WIRE_READY:
		actions = on_ready(s, payload, bytes);
		break;
	case HF_WIRE_ROUND_DONE:
		actions = hf_source_on_round_done(s, payload, bytes);
		break;
	case HF_WIRE_LOADED:
		actions = on_loaded(s);
		break;
	case HF_WIRE_RESUMED:
		actions = on_resumed(s);
		break;
	case HF_WIRE_COMPLETE:
		actions = on_complete(s);
		break;
	case HF_WIRE_FAIL:
		actions = on_fail(s, payload, bytes);
		break;
	case HF_WIRE_REFUSED:
		actions = on_refused(s, payload, bytes);
		break;
	default:
		actions = unexpected(s, type);
		break;
	}
	unlock_act(s, actions);
}

/* ---- VM ---------------------------------------------------------------------------------------- */

/* Without the lock; the VM stands still and `serving` is not set, so nobody reads the map. */
static int read_presence(struct hf_source *s, struct hf_err *err)
{
	int result = 0;
	for (uint32_t i = 0; i < s->blocks.count && result == 0; i++) {
		const struct hf_ramblock *block = &s->blocks.blocks[i];
		size_t bytes = hf_pagemap_bytes(block->pages);
		uint8_t *bits = calloc(1, bytes);
		if (!bits)
			return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the presence map");
		result = hf_source_memory_presence(&s->memory, i, bits, bytes, err);
		if (result == 0)
			result = hf_pagemap_import(&s->present, block->first_page, block->pages, bits, bytes);
		free(bits);
	}
	return result;
}

/* The bits of one block, in frames of a bounded number of pages. */
static int send_presence_of(struct hf_source *s, uint32_t index, uint8_t *buffer, uint8_t *bits)
{
	const struct hf_ramblock *block = &s->blocks.blocks[index];
	for (uint32_t first = 0; first < block->pages;) {
		uint32_t pages = block->pages - first;
		if (pages > HF_WIRE_PRESENCE_PAGES_MAX)
			pages = HF_WIRE_PRESENCE_PAGES_MAX;

		hf_pagemap_export(&s->present, block->first_page + first, pages, bits);
		struct hf_wire_presence presence = {
		    .block = index,
		    .first_page = first,
		    .pages = pages,
		    .bits = bits,
		    .bits_bytes = hf_pagemap_bytes(pages),
		};
		ssize_t bytes = hf_wire_encode_presence(&presence, buffer, HF_WIRE_FRAME_MAX_BYTES);
		if (bytes < 0)
			return (int)bytes;
		send_message(s, HF_WIRE_PRESENCE, buffer, (size_t)bytes);
		first += pages;
	}
	return 0;
}

static int send_presence(struct hf_source *s)
{
	uint8_t *buffer = malloc(HF_WIRE_FRAME_MAX_BYTES);
	uint8_t *bits = malloc(hf_pagemap_bytes(HF_WIRE_PRESENCE_PAGES_MAX));
	int result = buffer && bits ? 0 : -ENOMEM;
	for (uint32_t i = 0; i < s->blocks.count && result == 0; i++)
		result = send_presence_of(s, i, buffer, bits);
	free(bits);
	free(buffer);
	return result;
}

static int send_device(struct hf_source *s, const uint8_t *state, size_t total)
{
	for (size_t sent = 0; sent < total;) {
		size_t piece =
		    total - sent < HF_WIRE_FRAME_MAX_BYTES ? total - sent : HF_WIRE_FRAME_MAX_BYTES;
		send_message(s, HF_WIRE_DEVICE, state + sent, piece);
		sent += piece;
	}
	struct hf_wire_device_end end = {.total_bytes = total};
	uint8_t buffer[64];
	ssize_t bytes = hf_wire_encode_device_end(&end, buffer, sizeof(buffer));
	if (bytes < 0)
		return (int)bytes;
	hf_lock(&s->lock);
	s->device_whole = true;
	hf_unlock(&s->lock);
	send_message(s, HF_WIRE_DEVICE_END, buffer, (size_t)bytes);
	return 0;
}

/*
 * The VM stands still and its device state is whole. The map is read only now: saving a device may have
 * written memory. Pages may be asked for as soon as DEVICE_END is out, so serving begins before it is sent.
 */
static void switch_over(struct hf_source *s, const struct hf_vm_result *saved)
{
	struct hf_err err = HF_ERR_INIT;
	int result = hf_source_precopy_finish(s, &err);
	if (result == 0)
		result = read_presence(s, &err);

	hf_lock(&s->lock);
	bool go_on = s->status == HF_STATUS_ACTIVE;
	if (go_on && result == 0) {
		move(s, HF_STATUS_DEVICE);
		s->pages_present = hf_pagemap_count(&s->present);
		s->device_state_bytes = saved->length_bytes;
		s->save_time_ns = hf_clock_now_ns(&s->clock) - s->saving_ns;
		atomic_store(&s->serving, true);
	}
	unlock_act(s, ACTION_NOTIFY);
	if (!go_on)
		return;

	if (result == 0)
		result = hf_source_send_final(s);
	if (result == 0)
		result = send_presence(s);
	if (result == 0)
		result = send_device(s, saved->data, saved->length_bytes);
	if (result < 0) {
		if (err.class == HF_ERR_NONE)
			hf_err_set(&err, HF_ERR_LOCAL, -result, "the device state could not be sent");
		hf_err_prefix(&err, "VM '%s'", s->vm_name);
		hf_source_fail(s, &err);
	}
}

/* Locked. An operation ended after the migration had failed, or the resume itself has ended. */
static unsigned vm_done_failed(struct hf_source *s, const struct hf_vm_result *result)
{
	hf_lock_assert_held(&s->lock);
	if (s->owner != HF_VM_OWNER_RESUMING)
		return 0;
	if (result->op != HF_VM_RESUME && s->vm_stopping)
		return ACTION_RESUME;
	bool left_alone = !s->vm_stopping;
	s->owner = left_alone || result->result == 0 ? HF_VM_OWNER_SOURCE : HF_VM_OWNER_STUCK;
	if (s->owner == HF_VM_OWNER_STUCK) {
		hf_err_prefix(&s->err, "the VM could NOT be resumed (%s) after",
			      result->err ? result->err->text : "no reason given");
	}
	return ACTION_NOTIFY;
}

static unsigned vm_done_well(struct hf_source *s, const struct hf_vm_result *result)
{
	hf_lock_assert_held(&s->lock);
	uint64_t now_ns = hf_clock_now_ns(&s->clock);
	if (result->op == HF_VM_STOP) {
		s->stop_time_ns = now_ns - s->stop_ns;
		s->saving_ns = now_ns;
		s->vm_busy = true;
		return ACTION_SAVE;
	}
	return 0;
}

/* Locked. A VMM that was frozen is thawed when the VM stays here after all. */
static unsigned fence_done(struct hf_source *s, const struct hf_vm_result *result)
{
	hf_lock_assert_held(&s->lock);
	struct hf_err err;
	unsigned actions = 0;
	s->fence_time_ns = hf_clock_now_ns(&s->clock) - s->fence_ns;
	if (result->result < 0)
		hf_err_set(&err, HF_ERR_LOCAL, -result->result, "VM '%s': %s failed on the source: %s",
			   s->vm_name, hf_vm_op_name(result->op),
			   result->err ? result->err->text : "no reason given");
	take_step(s, result->result < 0 ? HF_SOURCE_FENCE_FAILED : HF_SOURCE_FENCED, &err, &actions);
	return actions;
}

void hf_source_vm_done(struct hf_source *s, const struct hf_vm_result *result)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	unsigned actions;
	bool saved = false;
	s->vm_busy = false;
	/* A VM that somebody else had stopped is not this side's to run again. */
	if (result->op == HF_VM_STOP && result->result == -EPERM)
		s->vm_stopping = false;
	if (result->op == HF_VM_FENCE) {
		actions = fence_done(s, result);
	} else if (hf_status_is_final(s->status)) {
		actions = vm_done_failed(s, result);
	} else if (result->result < 0) {
		struct hf_err err;
		hf_err_set(&err, HF_ERR_LOCAL, -result->result, "VM '%s': %s failed on the source: %s",
			   s->vm_name, hf_vm_op_name(result->op),
			   result->err ? result->err->text : "no reason given");
		actions = fail_locked(s, &err);
	} else {
		saved = result->op == HF_VM_SAVE;
		actions = vm_done_well(s, result);
	}
	unlock_act(s, actions);
	if (saved)
		switch_over(s, result);
}

/* ---- serving ----------------------------------------------------------------------------------- */

/* The block of a request whose range lies inside one of its pages, else NULL. */
static const struct hf_ramblock *checked_block(const struct hf_source *s,
					       const struct hf_serve_request *request)
{
	if (request->block >= s->blocks.count || request->length_bytes == 0 ||
	    request->length_bytes > HF_WIRE_CHUNK_MAX_BYTES)
		return NULL;
	const struct hf_ramblock *block = &s->blocks.blocks[request->block];
	if (request->offset_bytes >= block->length_bytes)
		return NULL;
	uint64_t in_page = request->offset_bytes & (block->page_size_bytes - 1);
	return request->length_bytes <= block->page_size_bytes - in_page ? block : NULL;
}

static int event_serve(void *engine, const struct hf_serve_request *request, struct hf_serve_reply *reply,
		       struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	struct hf_source *s = engine;
	if (request->block == HF_WIRE_PROBE_BLOCK && atomic_load(&s->probing))
		return hf_link_probe_serve(s->probe_block, request, reply, err);
	bool stopped = atomic_load(&s->serving);
	if (!stopped && !atomic_load(&s->precopy.serving))
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "VM '%s': the destination asked for a page, which is not expected now",
				  s->vm_name);
	const struct hf_ramblock *block = checked_block(s, request);
	if (!block)
		return hf_err_set(
		    err, HF_ERR_PEER, EPROTO,
		    "VM '%s': the destination asked for bytes that are no part of one page: block %u, "
		    "offset %llu, %u bytes",
		    s->vm_name, request->block, (unsigned long long)request->offset_bytes,
		    request->length_bytes);

	uint32_t page = block->first_page + (uint32_t)(request->offset_bytes / block->page_size_bytes);
	int exists = stopped ? hf_pagemap_test(&s->present, page) : hf_source_precopy_page(s, page);
	if (exists < 0)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "VM '%s': the destination asked for block %u, offset %llu, which is not in "
				  "the round",
				  s->vm_name, request->block, (unsigned long long)request->offset_bytes);
	const void *bytes = NULL;
	if (exists) {
		int result = hf_source_memory_chunk(&s->memory, request->block, request->offset_bytes,
						    request->length_bytes, &bytes, err);
		if (result < 0) {
			hf_err_prefix(err, "VM '%s'", s->vm_name);
			return result;
		}
	}
	*reply = (struct hf_serve_reply){.bytes = bytes, .zero = bytes == NULL};
	if (bytes) {
		atomic_fetch_add(&s->sent_bytes, request->length_bytes);
		atomic_fetch_add(&s->sent_chunks, 1);
	} else {
		atomic_fetch_add(&s->zero_chunks, 1);
	}
	return 0;
}

const struct hf_transport_events hf_source_events = {
    .link_up = event_link_up,
    .link_down = event_link_down,
    .message = event_message,
    .serve = event_serve,
};

/* ---- operator ---------------------------------------------------------------------------------- */

void hf_source_hold_background(struct hf_source *s, bool hold)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	s->hold_background = hold;
	hf_unlock(&s->lock);
	send_wish(s, HF_WIRE_WISH_ANY, hold);
}

static uint64_t since(uint64_t start_ns, uint64_t end_ns)
{
	return start_ns && end_ns > start_ns ? end_ns - start_ns : 0;
}

void hf_source_snapshot(struct hf_source *s, struct hf_source_snapshot *out)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	uint64_t now_ns = s->end_ns ? s->end_ns : hf_clock_now_ns(&s->clock);
	*out = (struct hf_source_snapshot){
	    .status = s->status,
	    .owner = s->owner,
	    .handover = s->handover,
	    .destination_in_doubt = s->in_doubt,
	    .recoverable = s->recoverable,
	    .links_used = s->links_used,
	    .err = s->err,
	    .placement = s->ready.placement,
	    .chunk_bytes = s->ready.chunk_bytes,
	    .pages_total = s->blocks.pages_total,
	    .pages_present = s->pages_present,
	    .sent_bytes = atomic_load(&s->sent_bytes),
	    .sent_chunks = atomic_load(&s->sent_chunks),
	    .zero_chunks = atomic_load(&s->zero_chunks),
	    .link = s->link_figures,
	    .stopping = s->stop_ns != 0,
	    .device_state_bytes = s->device_state_bytes,
	    .stop_time_ns = s->stop_time_ns,
	    .save_time_ns = s->save_time_ns,
	    .fence_time_ns = s->fence_time_ns,
	    .record_time_ns = s->record_time_ns,
	    .downtime_ns = s->downtime_ns,
	    .postcopy_time_ns = since(s->run_ns, now_ns),
	    .total_time_ns = since(s->link_up_ns, now_ns),
	};
	hf_source_precopy_figures(s, &out->precopy);
	hf_unlock(&s->lock);
}

/* ---- creation ---------------------------------------------------------------------------------- */

/* A process before this one has got as far as its record says. */
static int go_on(struct hf_source *s, enum hf_record record, struct hf_err *err)
{
	struct hf_handover_source_step step = hf_handover_source_restart(record);
	s->handover = step.next;
	s->recoverable = true;
	if (step.next != HF_SOURCE_GIVEN_UP) {
		hf_err_set(&s->err, HF_ERR_LOCAL, EINTR,
			   "VM '%s': the program that was moving it ended before the VM was given up",
			   s->vm_name);
		s->status = HF_STATUS_FAILED;
		s->in_doubt = true;
		return 0;
	}
	hf_err_set(&s->err, HF_ERR_LOCAL, EINTR, "VM '%s': the program that was moving it was started again",
		   s->vm_name);
	s->status = HF_STATUS_POSTCOPY_PAUSED;
	s->owner = HF_VM_OWNER_DESTINATION;
	s->vm_stopping = true; /* the VM that may have to be run again is one that was stopped */
	int result = read_presence(s, err);
	s->pages_present = hf_pagemap_count(&s->present);
	return result;
}

int hf_source_create(struct hf_source **out, const struct hf_source_config *config, struct hf_err *err)
{
	if (config->blocks->count == 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "VM '%s' has no RAM block", config->vm_name);
	struct hf_source *s = calloc(1, sizeof(*s));
	if (!s)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the source engine");

	s->clock = config->clock;
	s->memory = config->memory;
	s->transport = config->transport;
	s->vm = config->vm;
	s->recorder = config->recorder;
	if (config->wish_placement)
		s->placement_wish =
		    config->placement == HF_PLACEMENT_COPY ? HF_WIRE_WISH_COPY : HF_WIRE_WISH_CONTINUE;
	s->hold_background = config->hold_background;
	s->max_page_stall_ns = config->max_page_stall_ns;
	s->notify = config->notify;
	s->opaque = config->opaque;
	snprintf(s->vm_name, sizeof(s->vm_name), "%s", config->vm_name);
	hf_lock_init(&s->lock, "hf_source.lock", HF_RANK_ENGINE);
	hf_ramblocks_init(&s->blocks);

	int result = hf_ramblocks_copy(&s->blocks, config->blocks, err);
	if (result == 0 && hf_pagemap_create(&s->present, s->blocks.pages_total) < 0)
		result = hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the presence map");
	if (result == 0 && !(s->probe_block = hf_link_probe_block_create()))
		result = hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the probe block");
	if (result == 0)
		result = hf_source_precopy_create(s, config, err);
	if (result == 0 && config->restarted)
		result = go_on(s, config->record, err);
	if (result < 0) {
		hf_source_destroy(s);
		return result;
	}
	*out = s;
	return 0;
}

void hf_source_destroy(struct hf_source *s)
{
	hf_lock_assert_may_stop(__func__);
	if (!s)
		return;
	free(s->probe_block);
	hf_source_precopy_destroy(s);
	hf_pagemap_destroy(&s->present);
	hf_ramblocks_destroy(&s->blocks);
	hf_lock_destroy(&s->lock);
	free(s);
}
