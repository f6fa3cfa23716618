/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the destination says, message by message, and what the recorder reports. Who owns the VM is decided by
 * the table of handover.c.
 */
#include "core/source_internal.h"

#include <errno.h>

#include "core/wire.h"

/* Both operators may limit what a page costs; this side's limit is checked here. */
static unsigned on_link(struct hf_source *s, const uint8_t *payload, size_t bytes)
{
	struct hf_wire_link link;
	struct hf_err err = HF_ERR_INIT;
	if (s->status != HF_STATUS_SETUP || !atomic_load(&s->probing) || s->link_figures.round_trip_ns != 0)
		return hf_source_unexpected(s, HF_WIRE_LINK);
	if (hf_wire_decode_link(payload, bytes, &link, &err) < 0)
		return hf_source_violation(s, &err);
	s->link_figures = (struct hf_link_figures){link.round_trip_ns, link.rate_bytes_per_s};
	if (hf_link_stall_check(&s->link_figures, &s->blocks, s->max_page_stall_ns, &err) < 0)
		return hf_source_violation(s, &err);
	return ACTION_NOTIFY;
}

static unsigned on_ready(struct hf_source *s, const uint8_t *payload, size_t bytes)
{
	hf_lock_assert_held(&s->lock);
	bool link_due = atomic_load(&s->probing) && s->link_figures.round_trip_ns == 0;
	if (s->status != HF_STATUS_SETUP || link_due)
		return hf_source_unexpected(s, HF_WIRE_READY);
	struct hf_err err = HF_ERR_INIT;
	if (!atomic_load(&s->probing) && s->max_page_stall_ns != 0) {
		hf_err_set(
		    &err, HF_ERR_PEER, EOPNOTSUPP,
		    "the destination's release does not measure the link, so --max-page-stall cannot be "
		    "kept; install the same release on both hosts, or leave the limit out");
		return hf_source_violation(s, &err);
	}
	if (hf_wire_decode_ready(payload, bytes, &s->ready, &err) < 0)
		return hf_source_violation(s, &err);
	atomic_store(&s->probing, false);
	hf_source_move(s, HF_STATUS_ACTIVE);
	return hf_source_precopy_begin(s);
}

static unsigned on_loaded(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	unsigned actions = 0;
	if (s->status != HF_STATUS_DEVICE || !s->device_whole ||
	    hf_source_take_step(s, HF_SOURCE_HEARD_LOADED, NULL, &actions) < 0)
		return hf_source_unexpected(s, HF_WIRE_LOADED);
	return actions | ACTION_NOTIFY;
}

/* Locked. RUN is on its way, or as good as: nothing takes that back but REFUSED. */
static unsigned given_up(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	s->owner = HF_VM_OWNER_DESTINATION;
	s->run_ns = hf_clock_now_ns(&s->clock);
	hf_source_move(s, HF_STATUS_POSTCOPY_ACTIVE);
	return s->broken.class == HF_ERR_NONE ? ACTION_NOTIFY : hf_source_pause_locked(s, &s->broken);
}

static unsigned on_resumed(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	unsigned actions = 0;
	bool first = s->handover == HF_SOURCE_GIVEN_UP;
	if (s->resumed || hf_source_take_step(s, HF_SOURCE_HEARD_RESUMED, NULL, &actions) < 0)
		return hf_source_unexpected(s, HF_WIRE_RESUMED);
	s->resumed = true;
	if (s->status == HF_STATUS_POSTCOPY_RECOVER) {
		hf_source_move(s, HF_STATUS_POSTCOPY_ACTIVE);
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
	/* It has run there since pages were given back, whatever the destination says now. */
	if (!s->recoverable || s->released)
		return hf_source_unexpected(s, HF_WIRE_REFUSED);
	if (hf_wire_decode_refused(payload, bytes, &why, &err) < 0)
		return hf_source_violation(s, &err);
	hf_err_prefix(&why, "the destination could not run the VM and has handed it back");
	if (hf_source_take_step(s, HF_SOURCE_HEARD_REFUSED, &why, &actions) < 0)
		return hf_source_unexpected(s, HF_WIRE_REFUSED);
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
	if (hf_source_take_step(s, failed ? HF_SOURCE_RECORD_FAILED : HF_SOURCE_RECORDED, &err, &actions) < 0)
		return 0;
	if (record == HF_RECORD_GIVEN_UP && !failed)
		actions |= given_up(s);
	return actions | ACTION_NOTIFY;
}

void hf_source_recorded(struct hf_source *s, enum hf_record record, int result, const struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	hf_source_unlock_act(s, recorded_locked(s, record, result, err));
}

static unsigned on_placed(struct hf_source *s, const uint8_t *payload, size_t bytes)
{
	hf_lock_assert_held(&s->lock);
	struct hf_err err = HF_ERR_INIT;
	if (!s->release.wanted || !s->hears_placed || !s->resumed)
		return hf_source_unexpected(s, HF_WIRE_PLACED);
	if (hf_source_release_placed(&s->release, &s->blocks, &s->present, payload, bytes, &err) < 0)
		return hf_source_violation(s, &err);
	s->released = true;
	return ACTION_KICK_RELEASE;
}

bool hf_source_release_work(struct hf_source *s)
{
	hf_lock_assert_entry(__func__);
	struct hf_release_run run;
	struct hf_err err = HF_ERR_INIT;
	hf_lock(&s->lock);
	bool found = hf_source_release_next(&s->release, &s->blocks, &run);
	hf_unlock(&s->lock);
	if (!found)
		return false;
	int result = hf_source_memory_release(&s->memory, run.block, run.first_page, run.pages, &err);
	hf_lock(&s->lock);
	hf_source_release_done(&s->release, &s->blocks, &run, result, &err);
	hf_source_unlock_act(s, result < 0 ? ACTION_NOTIFY : 0);
	return true;
}

static unsigned on_complete(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	if (s->handover != HF_SOURCE_GONE || !s->resumed)
		return hf_source_unexpected(s, HF_WIRE_COMPLETE);
	atomic_store(&s->serving, false);
	s->end_ns = hf_clock_now_ns(&s->clock);
	s->err = HF_ERR_INIT; /* of a pause: with every page there, nothing was lost */
	hf_source_move(s, HF_STATUS_COMPLETED);
	return ACTION_SEND_FINISH | ACTION_NOTIFY;
}

static unsigned on_fail(struct hf_source *s, const uint8_t *payload, size_t bytes)
{
	struct hf_err why, err = HF_ERR_INIT;
	if (hf_wire_decode_fail(payload, bytes, &why, &err) < 0)
		return hf_source_violation(s, &err);
	hf_err_prefix(&why, "the destination says");
	unsigned actions = hf_source_fail_locked(s, &why) & ~(unsigned)ACTION_SEND_FAIL;
	/* It has failed by itself, or this is its answer to FAIL, which may get lost as anything may. */
	if (s->in_doubt)
		actions |= ACTION_NOTIFY;
	s->in_doubt = false;
	return actions;
}

void hf_source_event_message(void *engine, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	hf_lock_assert_entry(__func__);
	struct hf_source *s = engine;
	unsigned actions;

	hf_lock(&s->lock);
	bool awaited = !hf_status_is_final(s->status) || (s->in_doubt && type == HF_WIRE_FAIL);
	if (epoch == 0 || epoch != s->epoch || !awaited) {
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
	case HF_WIRE_PLACED:
		actions = on_placed(s, payload, bytes);
		break;
	default:
		actions = hf_source_unexpected(s, type);
		break;
	}
	hf_source_unlock_act(s, actions);
}
