/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel.h - what executes the guest: KVM, or the vCPU's thread itself in user mode.
 *
 * Purpose: the calls by which the machine and its vCPUs use either. Ownership: `accel` is what open() made
 * and close() frees. Threads: run() is called in the vCPU's thread, all others while the vCPU stands. Units:
 * bytes. Errors: 0 or -errno with text.
 */
#ifndef HF_KVM_VMM_ACCEL_H
#define HF_KVM_VMM_ACCEL_H

#include "core/devstate.h"
#include "core/err.h"

enum vmm_accel { VMM_ACCEL_KVM, VMM_ACCEL_USER };

struct vmm_machine_config;
struct vmm_msr_list;
struct vmm_vcpu;

struct vmm_accel_ops {
	const struct hf_devstate_desc *state_desc; /* of one vCPU */
	int (*open)(void **accel, const struct vmm_machine_config *config, struct hf_err *err);
	void (*close)(void *accel);
	/* Fills in the accelerator's part and vcpu->kicked. */
	int (*vcpu_create)(void *accel, struct vmm_vcpu *vcpu, struct hf_err *err);
	void (*vcpu_destroy)(struct vmm_vcpu *vcpu);
	/* At the guest program's entry point. */
	int (*vcpu_enter_guest)(struct vmm_vcpu *vcpu, struct hf_err *err);
	/* Until kicked: 0. Nothing of an instruction is left to do then. */
	int (*vcpu_run)(struct vmm_vcpu *vcpu, struct hf_err *err);
	int (*vcpu_get)(void *accel, const struct vmm_vcpu *vcpu, void *state, struct hf_err *err);
	int (*vcpu_set)(void *accel, struct vmm_vcpu *vcpu, const void *state, struct hf_err *err);
	const struct vmm_msr_list *(*msrs)(const void *accel);
};

extern const struct vmm_accel_ops vmm_accel_kvm;
extern const struct vmm_accel_ops vmm_accel_user;

/* --accel's word for it. */
const char *vmm_accel_name(enum vmm_accel accel);
const struct vmm_accel_ops *vmm_accel_ops(enum vmm_accel accel);

#endif
