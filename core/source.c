/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source decides two things only: when its VM stops, after rounds of pre-copy if the operator wants them
 * (source_precopy.c), and that it is given up. All else is the destination's (see destination.c for the order
 * of messages). Pages are served from serve(), which takes no lock: the blocks are fixed at creation, and the
 * presence map is complete before `serving` is set and loses only pages that are released (source_release.c).
 * A hole is answered as zeros and never touched, since touching would allocate it. On a later link there are
 * no holes to ask for: what is not here by then may be a page that a program before this one has given back.
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
 * RESUMED. FAIL to a destination that may have LOADED is said until it is answered (with FAIL).
 */
#include "core/source_internal.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/lock.h"
#include "core/pagemap.h"
#include "core/ports_internal.h"
#include "core/source_release.h"
#include "core/wire.h"

/* Locked, with the caller having checked that the table has the transition. */
void hf_source_move(struct hf_source *s, enum hf_status status)
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
	hf_source_move(s, why->class == HF_ERR_CANCELLED ? HF_STATUS_CANCELLED : HF_STATUS_FAILED);
	s->end_ns = hf_clock_now_ns(&s->clock);
	s->in_doubt = s->device_whole && s->recoverable;
	/* Serving goes on until the link is down: a refusal now would tear it down before FAIL has left. */
	if (s->vm_stopping)
		s->owner = HF_VM_OWNER_RESUMING;
	return ACTION_NOTIFY;
}

unsigned hf_source_pause_locked(struct hf_source *s, const struct hf_err *why)
{
	hf_lock_assert_held(&s->lock);
	if (s->status != HF_STATUS_POSTCOPY_PAUSED)
		s->err = *why;
	hf_source_move(s, HF_STATUS_POSTCOPY_PAUSED);
	return ACTION_NOTIFY;
}

/* Locked. One step of the hand-over. why: of a failure; *actions untouched for an event not expected. */
int hf_source_take_step(struct hf_source *s, enum hf_handover_source_event event, const struct hf_err *why,
			unsigned *actions)
{
	hf_lock_assert_held(&s->lock);
	struct hf_handover_source_step step;
	int result = hf_handover_source_step(s->handover, event, &step);
	if (result < 0)
		return result;
	s->handover = step.next;
	if (!why)
		why = &s->err;
	uint64_t now_ns = hf_clock_now_ns(&s->clock);
	static const struct hf_err no_failure;
	unsigned act = 0;
	if (!why)
		why = &no_failure;
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
	/*
	 * It is not known what is on record, so the VM is treated as given up. Paused, so that somebody looks
	 * for a link, on which it is tried again.
	 */
	if (step.actions & HF_ACT_ALARM) {
		s->owner = HF_VM_OWNER_DESTINATION;
		act |= hf_source_pause_locked(s, why);
		s->err = *why;
	}
	*actions = act;
	return 0;
}

/* Locked. */
unsigned hf_source_fail_locked(struct hf_source *s, const struct hf_err *why)
{
	hf_lock_assert_held(&s->lock);
	unsigned actions = 0;
	if (hf_status_is_final(s->status) || hf_source_take_step(s, HF_SOURCE_BROKEN, why, &actions) < 0)
		return 0;
	if (s->owner == HF_VM_OWNER_DESTINATION)
		return actions | hf_source_pause_locked(s, why);
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

unsigned hf_source_unexpected(struct hf_source *s, uint32_t type)
{
	struct hf_err err;
	hf_err_set(&err, HF_ERR_PEER, EPROTO,
		   "VM '%s': the destination sent %s, which is not expected in state %s; check that both "
		   "hosts run the same release",
		   s->vm_name, hf_wire_type_name(type), hf_status_name(s->status));
	return hf_source_fail_locked(s, &err);
}

/* Locked. A message that cannot be decoded; why's text does not name the VM. */
unsigned hf_source_violation(struct hf_source *s, struct hf_err *why)
{
	hf_err_prefix(why, "VM '%s'", s->vm_name);
	return hf_source_fail_locked(s, why);
}

void hf_source_fail(struct hf_source *s, const struct hf_err *why)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	/* After the hand-over nothing on this host is a reason to stop: the pages are served from here. */
	hf_source_unlock_act(s, decided(s) ? 0 : hf_source_fail_locked(s, why));
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
		actions = hf_source_fail_locked(s, &why);
	hf_source_unlock_act(s, actions);
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
		actions = hf_source_fail_locked(s, &why);
	else
		result = hf_err_set(err, HF_ERR_LOCAL, EPERM,
				    "VM '%s': only a migration in postcopy can be paused; this one is '%s'",
				    s->vm_name, hf_status_name(s->status));
	hf_source_unlock_act(s, actions);
	return result;
}

void hf_source_recover_setup(struct hf_source *s, bool looking)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	if (s->status == HF_STATUS_POSTCOPY_PAUSED && looking)
		hf_source_move(s, HF_STATUS_POSTCOPY_RECOVER_SETUP);
	else if (s->status == HF_STATUS_POSTCOPY_RECOVER_SETUP && !looking)
		hf_source_move(s, HF_STATUS_POSTCOPY_PAUSED);
	hf_source_unlock_act(s, ACTION_NOTIFY);
}

/* ---- sending ----------------------------------------------------------------------------------- */

/* A failure to send means that the link goes down, which is told as link_down. */
void hf_source_send_message(struct hf_source *s, uint64_t epoch, uint32_t type, const void *payload,
			    size_t bytes)
{
	if (epoch != 0)
		hf_transport_send(&s->transport, epoch, type, payload, bytes);
}

static void send_wish(struct hf_source *s, uint64_t epoch, uint32_t placement, bool hold)
{
	struct hf_wire_wish wish = {.placement = placement, .hold_background = hold};
	uint8_t buffer[64];
	ssize_t bytes = hf_wire_encode_wish(&wish, buffer, sizeof(buffer));
	if (bytes > 0)
		hf_source_send_message(s, epoch, HF_WIRE_WISH, buffer, (size_t)bytes);
}

/* placement: what is wished; the first link only. */
static void send_advise(struct hf_source *s, uint64_t epoch, uint32_t placement)
{
	hf_lock(&s->lock);
	bool hold = s->hold_background;
	bool say = s->hold_known;
	hf_unlock(&s->lock);
	if (say || placement != HF_WIRE_WISH_ANY)
		send_wish(s, epoch, placement, hold);

	size_t room = 1024 + (size_t)s->blocks.count * (HF_RAMBLOCK_IDSTR_MAX + 64);
	uint8_t *buffer = malloc(room);
	ssize_t bytes = buffer ? hf_wire_encode_advise(s->vm_name, &s->blocks, buffer, room) : -ENOMEM;
	if (bytes > 0) {
		hf_source_send_message(s, epoch, HF_WIRE_ADVISE, buffer, (size_t)bytes);
	} else {
		struct hf_err err;
		hf_err_set(&err, HF_ERR_LOCAL, (int)-bytes, "VM '%s': its list of RAM blocks cannot be sent",
			   s->vm_name);
		hf_source_fail(s, &err);
	}
	free(buffer);
}

static void send_finish(struct hf_source *s, uint64_t epoch)
{
	struct hf_source_snapshot snapshot;
	uint8_t buffer[64];
	hf_source_snapshot(s, &snapshot);
	struct hf_wire_finish finish = {
	    .downtime_ns = snapshot.downtime_ns,
	    .total_time_ns = snapshot.total_time_ns,
	    .sent_bytes = snapshot.unseen ? 0 : snapshot.sent_bytes,
	};
	ssize_t bytes = hf_wire_encode_finish(&finish, buffer, sizeof(buffer));
	if (bytes > 0)
		hf_source_send_message(s, epoch, HF_WIRE_FINISH, buffer, (size_t)bytes);
}

static void send_fail(struct hf_source *s, uint64_t epoch)
{
	uint8_t buffer[HF_ERR_TEXT_BYTES + 64];
	hf_lock(&s->lock);
	struct hf_err why = s->err;
	hf_unlock(&s->lock);
	ssize_t bytes = hf_wire_encode_fail(&why, buffer, sizeof(buffer));
	if (bytes > 0)
		hf_source_send_message(s, epoch, HF_WIRE_FAIL, buffer, (size_t)bytes);
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

void hf_source_unlock_act(struct hf_source *s, unsigned actions)
{
	/* What is decided for a link is not said on the next one. */
	uint64_t epoch = s->epoch;
	hf_unlock(&s->lock);

	if (actions & ACTION_SEND_ADVISE)
		send_advise(s, epoch, s->placement_wish);
	if (actions & ACTION_PRESENT)
		send_advise(s, epoch, HF_WIRE_WISH_ANY);
	if (actions & ACTION_SEND_FAIL)
		send_fail(s, epoch);
	if (actions & ACTION_HARVEST)
		hf_source_harvest(s);
	if (actions & ACTION_SEND_ROUND)
		hf_source_send_round(s, epoch);
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
		hf_source_send_message(s, epoch, HF_WIRE_RUN, NULL, 0);
	if (actions & ACTION_SEND_FINISH)
		send_finish(s, epoch);
	if (actions & ACTION_KICK_RELEASE)
		hf_source_memory_kick_release(&s->memory);
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
	    hf_source_take_step(s, HF_SOURCE_LINK, NULL, &actions) < 0)
		return 0;
	s->epoch = s->epoch_last = info->epoch;
	s->recoverable = true;
	s->resumed = false;
	s->broken = HF_ERR_INIT; /* of the link before, while the record is written */
	s->hears_placed = (info->features & HF_WIRE_FEATURE_RELEASE) != 0;
	if (s->link_up_ns == 0)
		s->link_up_ns = hf_clock_now_ns(&s->clock);
	if (s->owner == HF_VM_OWNER_DESTINATION && !hf_status_is_final(s->status)) {
		hf_source_move(s, HF_STATUS_POSTCOPY_RECOVER);
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
	s->links_used++;
	s->unseen |= info->one_sided;
	if (s->status == HF_STATUS_NONE) {
		s->epoch = s->epoch_last = info->epoch;
		s->recoverable = (info->features & HF_WIRE_FEATURE_RECOVER) != 0;
		s->hears_placed = (info->features & HF_WIRE_FEATURE_RELEASE) != 0;
		s->link_up_ns = hf_clock_now_ns(&s->clock);
		s->precopy.spoken = (info->features & HF_WIRE_FEATURE_PRECOPY) != 0;
		s->says_first = (info->features & HF_WIRE_FEATURE_FIRST) != 0;
		atomic_store(&s->probing, (info->features & HF_WIRE_FEATURE_LINK) != 0);
		hf_source_move(s, HF_STATUS_SETUP);
		actions = ACTION_SEND_ADVISE | ACTION_NOTIFY;
	} else {
		actions = link_up_again(s, info);
	}
	hf_source_unlock_act(s, actions);
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
		actions = hf_source_fail_locked(s, &err);
		if (hf_status_is_final(s->status))
			atomic_store(&s->serving, false);
		atomic_store(&s->precopy.serving, false);
	}
	hf_source_unlock_act(s, actions);
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

/* Of a page that is not here. On the first link it is a hole, unless it was released. */
static int check_hole(const struct hf_source *s, const struct hf_serve_request *request, uint32_t page,
		      struct hf_err *err)
{
	bool released = hf_source_release_has(&s->release, page);
	if (!released && request->epoch <= 1)
		return 0;
	return hf_err_set(err, HF_ERR_PEER, EPROTO,
			  "VM '%s': the destination asked for a page that %s: block %u, offset %llu",
			  s->vm_name, released ? "it had placed, and that was given back" : "is not here",
			  request->block, (unsigned long long)request->offset_bytes);
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
	} else if (check_hole(s, request, page, err) < 0) {
		return -EPROTO;
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
    .message = hf_source_event_message,
    .serve = event_serve,
};

/* ---- operator ---------------------------------------------------------------------------------- */

void hf_source_hold_background(struct hf_source *s, bool hold)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	s->hold_background = hold;
	s->hold_known = true;
	uint64_t epoch = s->epoch;
	hf_unlock(&s->lock);
	send_wish(s, epoch, HF_WIRE_WISH_ANY, hold);
}

uint64_t hf_source_since(uint64_t start_ns, uint64_t end_ns)
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
	    .pages_first = s->says_first ? s->first.count : 0,
	    .sent_bytes = atomic_load(&s->sent_bytes),
	    .sent_chunks = atomic_load(&s->sent_chunks),
	    .zero_chunks = atomic_load(&s->zero_chunks),
	    .unseen = s->unseen,
	    .released_pages = s->release.pages,
	    .released_bytes = s->release.bytes,
	    .release_err = s->release.err,
	    .link = s->link_figures,
	    .stopping = s->stop_ns != 0,
	    .device_state_bytes = s->device_state_bytes,
	    .stop_time_ns = s->stop_time_ns,
	    .save_time_ns = s->save_time_ns,
	    .fence_time_ns = s->fence_time_ns,
	    .record_time_ns = s->record_time_ns,
	    .downtime_ns = s->downtime_ns,
	    .postcopy_time_ns = hf_source_since(s->run_ns, now_ns),
	    .total_time_ns = hf_source_since(s->link_up_ns, now_ns),
	};
	hf_source_precopy_figures(s, &out->precopy);
	hf_unlock(&s->lock);
}

/* ---- creation ---------------------------------------------------------------------------------- */

/* A process before this one has got as far as its record says. */
static int begin_again(struct hf_source *s, enum hf_record record, struct hf_err *err)
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
	s->device_whole = true;
	s->vm_stopping = true; /* the VM that may have to be run again is one that was stopped */
	int result = hf_source_read_presence(s, err);
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
	s->hold_known = config->hold_background || config->restarted;
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
	if (result == 0 && config->release &&
	    hf_source_release_create(&s->release, s->blocks.pages_total) < 0)
		result = hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the map of released pages");
	s->released = config->released;
	if (result == 0)
		result = hf_source_precopy_create(s, config, err);
	if (result == 0 && config->restarted)
		result = begin_again(s, config->record, err);
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
	hf_source_release_destroy(&s->release);
	hf_ramblocks_destroy(&s->blocks);
	hf_lock_destroy(&s->lock);
	free(s);
}
