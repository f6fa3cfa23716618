/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the VMM and the recorder report, and how an engine goes on in a process that was started again. Each
 * is an event of the hand-over's table.
 */
#include "core/destination_internal.h"

#include <errno.h>

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
	hf_destination_take_step(d, HF_DESTINATION_VM_LOADED, NULL, &actions);
	return actions | ACTION_NOTIFY;
}

/* Locked. Only what surely has not run may be handed back. */
static unsigned run_done(struct hf_destination *d, int result, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	unsigned actions = 0;
	if (result == 0) {
		hf_destination_take_step(d, HF_DESTINATION_VM_RAN, &d->refusal,
					 &actions); /* the VMM may have ended */
	} else if (!d->recoverable) {
		/* A source that does not know REFUSED: the operator may still get the VM to run. */
		actions = hf_destination_pause_locked(d, why);
	} else if (result == -EOWNERDEAD) {
		hf_destination_take_step(d, HF_DESTINATION_VM_UNKNOWN, why, &actions);
	} else {
		d->refusal = *why;
		hf_destination_take_step(d, HF_DESTINATION_VM_REFUSED, why, &actions);
	}
	return actions | ACTION_NOTIFY;
}

static unsigned kill_done(struct hf_destination *d, int result, const struct hf_err *why)
{
	hf_lock_assert_held(&d->lock);
	unsigned actions = 0;
	hf_destination_take_step(d, result == 0 ? HF_DESTINATION_VM_KILLED : HF_DESTINATION_KILL_FAILED, why,
				 &actions);
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
	d->vmm_ended = true;
	if (d->handover <= HF_DESTINATION_RUNNING)
		d->refusal = *why;
	if (hf_destination_committed(d) && !d->recoverable && !d->complete_said)
		actions = hf_destination_pause_locked(d, why); /* a source that does not know REFUSED */
	else if (!hf_status_is_final(d->status) && !d->complete_said)
		hf_destination_take_step(d, HF_DESTINATION_VM_ENDED, why, &actions);
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
			return hf_destination_pause_locked(d, &err);
		if (record == HF_RECORD_RUNNING)
			d->refusal = err;
	}
	hf_destination_take_step(d, result < 0 ? HF_DESTINATION_RECORD_FAILED : HF_DESTINATION_RECORDED, &err,
				 &actions);
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
void hf_destination_begin_again(struct hf_destination *d, enum hf_record record, bool vmm_lives)
{
	struct hf_handover_destination_step step = hf_handover_destination_restart(record, vmm_lives);
	struct hf_err why;
	d->handover = step.next;
	d->recoverable = true;
	d->status = HF_STATUS_POSTCOPY_PAUSED;
	d->has_state = true;
	d->incoming = record == HF_RECORD_LOADED ? HF_INCOMING_LISTEN : HF_INCOMING_RUNNING;
	hf_err_set(&why, HF_ERR_LOCAL, vmm_lives ? EINTR : ESRCH, "VM '%s': %s", d->vm_name,
		   vmm_lives ? "the program that was receiving it was started again"
			     : "its VMM has ended while no program was receiving it");
	d->err = d->refusal = why;
	hf_destination_pages_restart(d);
	d->restart_actions = hf_destination_actions_of(d, &step, &why);
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
		actions |= ACTION_RELEASE;
	} else if (has_memory) {
		d->taking_over = true;
		actions |= ACTION_TAKE_OVER;
	} else {
		actions |= d->restart_actions;
	}
	hf_destination_unlock_act(d, actions);
}
