/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu.h - one vCPU and its thread.
 *
 * Purpose: lets the guest run while it may, and stands still when told.
 * Ownership: create/destroy by the machine; the control block is shared by all vCPUs of a machine.
 * Threads: one of its own. Fields are grouped by owner.
 * Units: none.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_KVM_VMM_VCPU_H
#define HF_KVM_VMM_VCPU_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"
#include "core/lock.h"
#include "kvm/vmm/accel.h"

/* The order all vCPUs of a machine follow. */
struct vmm_run_control {
	struct hf_lock lock;
	struct hf_cond changed;
	uint64_t memory_bytes; /* set at creation */
	/* Under the lock. */
	bool run, end;
	bool has_failed;
	/* Called once, without the lock. */
	void (*failed)(void *opaque, const struct hf_err *err);
	void *opaque;
};

struct vmm_vcpu {
	/* Set at creation. */
	uint32_t index;
	const struct vmm_accel_ops *ops;
	uint8_t *kicked; /* stored to under the control's lock, read without */
	struct vmm_run_control *control;
	pthread_t thread;
	bool started;
	/* The accelerator's: KVM, */
	int fd;
	struct kvm_run *run;
	size_t run_bytes;
	/* and user mode. */
	struct vmm_user_vcpu *user;
	/* Under the control's lock. */
	bool stopped; /* out of the guest, nothing half done */
	pid_t thread_id;
	/* The vCPU thread's own while it runs, the machine's while it is stopped. */
	uint64_t tsc;
	uint64_t port_reads;
	uint64_t pace_steps_per_s; /* how many reads of the port are answered a second, at most; 0: all */
	uint64_t port_due_ns;	   /* then: when the next one is */
	bool met_error;		   /* a memory error was delivered */
	uint64_t error_step;	   /* then: at which of the guest's steps */
};

int vmm_vcpu_start(struct vmm_vcpu *vcpu, struct hf_err *err);
/* Makes the vCPU leave the guest, now or as soon as it enters. Under the control's lock. */
void vmm_vcpu_kick(struct vmm_vcpu *vcpu);
/* Lets it enter the guest again. Under the control's lock. */
void vmm_vcpu_unkick(struct vmm_vcpu *vcpu);
/* The value that the guest has from its port, when it is due. In the vCPU's thread. */
uint32_t vmm_vcpu_read_port(struct vmm_vcpu *vcpu);
/* Joins the thread, which has been told to end. */
void vmm_vcpu_destroy(struct vmm_vcpu *vcpu);

#endif
