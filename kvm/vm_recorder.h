/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm_recorder.h - writes a VM's record behind the port of core/record.h.
 *
 * Purpose: the engine never waits for a disk; a thread of its own ("hf-record") does, and reports. It also
 * copies each record afterwards (hf_vm_record_copy()), which nobody waits for.
 *
 * Ownership: create/destroy. The record is the caller's and outlives the recorder; from start() to the end of
 * stop() only the recorder touches it.
 * Threads: the port and hf_vm_recorder_times() any; the others one at a time. done() is called in hf-record.
 * Units: nanoseconds.
 * Errors: 0 or -errno with text. request(): -EBUSY while a record is written that has not been reported,
 * -ESHUTDOWN before start() and from stop() on.
 */
#ifndef HF_KVM_VM_RECORDER_H
#define HF_KVM_VM_RECORDER_H

#include <stdint.h>

#include "core/record.h"
#include "kvm/vm_record.h"

struct hf_vm_recorder;

/* Of each record, from the request until it was on storage, the last time; 0: was not asked for. */
struct hf_vm_recorder_times {
	uint64_t last_ns[HF_RECORDS];
};

/* err: NULL if result is 0. */
typedef void hf_vm_recorder_done(void *engine, enum hf_record record, int result, const struct hf_err *err);

int hf_vm_recorder_create(struct hf_vm_recorder **out, struct hf_vm_record *record, struct hf_err *err);
/* Starts the thread. `done` may be called from now on, and may make the next request. */
int hf_vm_recorder_start(struct hf_vm_recorder *recorder, hf_vm_recorder_done *done, void *engine,
			 struct hf_err *err);
struct hf_recorder hf_vm_recorder_port(struct hf_vm_recorder *recorder);
/*
 * Waits until the epoch is on storage; for the program, not for an engine. -EBUSY: another one is written.
 * -ECANCELED: stopped meanwhile. A request that comes during the write waits for its end.
 */
int hf_vm_recorder_write_epoch(struct hf_vm_recorder *recorder, uint64_t epoch, struct hf_err *err);
/* The same for hf_vm_record_write_released(); waits for an epoch that is being written. */
int hf_vm_recorder_write_released(struct hf_vm_recorder *recorder, struct hf_err *err);
struct hf_vm_recorder_times hf_vm_recorder_times(struct hf_vm_recorder *recorder);
/* Reports the end of what is being written, and -ECANCELED for what has not begun; joins the thread. */
void hf_vm_recorder_stop(struct hf_vm_recorder *recorder);
void hf_vm_recorder_destroy(struct hf_vm_recorder *recorder);

#endif
