/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm.h - port: the virtual machine, driven from outside.
 *
 * Purpose: the engines ask for one operation at a time; the adapter (QMP) does it in its own thread and
 * reports the end with hf_source_vm_done() or hf_destination_vm_done().
 *
 * Ownership: data passed to request() stays valid until the operation's end is reported.
 * Threads: request() never blocks and never calls the engine (rule a).
 * Units: bytes, nanoseconds in _ns.
 * Errors: request() returns 0 or -errno; after a failure no end is reported.
 */
#ifndef HF_CORE_VM_H
#define HF_CORE_VM_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/ramblock.h"

enum hf_vm_op {
	HF_VM_STOP = 0, /* source: stop the vCPUs, drain; -EPERM: it did not run, and was left as it is */
	HF_VM_SAVE,	/* source: the device state, whole */
	HF_VM_RESUME,	/* source: thaw if fenced, run again; the migration failed before the hand-over */
	HF_VM_LOAD,	/* destination: load device state; may touch memory, which must be served meanwhile */
	HF_VM_RUN,	/* destination: run. Done again it changes nothing. See below for its errors */
	/*
	 * source, after SAVE: freeze the VMM, so that nobody else revives the VM. -EPERM: somebody has run it
	 * since STOP, the state that was saved is worth nothing. After a failure it is not frozen.
	 */
	HF_VM_FENCE,
	HF_VM_KILL, /* destination: end the VMM, so that the VM surely does not run here */
	HF_VM_OPS,
};

/*
 * HF_VM_RUN failed with -EOWNERDEAD: the VMM has ended or gives no answer, or let the VM run and it stands
 * still again: nobody can say that it has not run. (-ECANCELED, when the adapter is being closed, says as
 * little.) With any other error the VMM lives and says that it has not run it.
 */

/* Part of a RAM block. */
struct hf_vm_range {
	char idstr[HF_RAMBLOCK_IDSTR_MAX + 1];
	uint64_t offset_bytes, length_bytes;
};

/* The end of an operation. */
struct hf_vm_result {
	enum hf_vm_op op;
	int result;		  /* 0 or -errno */
	const struct hf_err *err; /* says why when result < 0, else NULL */
	const void *data; /* HF_VM_SAVE: the device state; belongs to the adapter, ends with the call */
	size_t length_bytes;
	uint64_t ran_ns; /* HF_VM_STOP: for so long of it the VM surely ran on */
	/*
	 * HF_VM_STOP: what loading the device state will touch, as far as the VMM tells, the most urgent one
	 * first; a hint, unchecked. Belongs to the adapter, ends with the call.
	 */
	const struct hf_vm_range *first;
	uint32_t first_count;
};

struct hf_vm_ops {
	int (*request)(void *self, enum hf_vm_op op, const void *data, size_t length_bytes);
};

struct hf_vm {
	const struct hf_vm_ops *ops;
	void *self;
};

const char *hf_vm_op_name(enum hf_vm_op op);

#endif
