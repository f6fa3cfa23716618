/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu_state.h - everything that makes up a vCPU, taken from KVM and put back.
 *
 * Purpose: one struct with all of a vCPU's state, its description for core/devstate.h, and the two calls
 * that fill it from a vCPU and write it to one.
 * Ownership: plain structs; the MSR list belongs to the machine.
 * Threads: the vCPU must be outside KVM_RUN.
 * Units: kHz, clock ticks.
 * Errors: 0 or -errno with text naming the part that KVM refused.
 */
#ifndef HF_KVM_VMM_VCPU_STATE_H
#define HF_KVM_VMM_VCPU_STATE_H

#include <linux/kvm.h>
#include <stdint.h>

#include "core/devstate.h"
#include "core/err.h"

#define VMM_MSRS_MAX	    2048u
#define VMM_XSAVE_MAX_BYTES 16384u

struct vmm_vcpu_state {
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;
	struct kvm_xcrs xcrs;
	struct kvm_debugregs debugregs;
	struct kvm_vcpu_events events;
	struct kvm_mp_state mp_state;
	uint32_t tsc_khz;
	uint32_t xsave_bytes;
	uint64_t tsc; /* as of the last stop; written when the vCPU runs again */
	uint32_t msr_count;
	uint8_t xsave[VMM_XSAVE_MAX_BYTES];
	struct kvm_msr_entry msrs[VMM_MSRS_MAX];
};

extern const struct hf_devstate_desc vmm_vcpu_state_desc;
extern const struct hf_devstate_desc vmm_regs_desc; /* of struct kvm_regs */

/* Which MSRs are carried: those of KVM's own list that it lets be read and set back. */
struct vmm_msr_list {
	uint32_t carried_count, skipped_count;
	uint32_t carried[VMM_MSRS_MAX];
	uint32_t skipped[VMM_MSRS_MAX];
};

/* Tries every MSR of KVM's list on a fresh vCPU. */
int vmm_msr_list_make(struct vmm_msr_list *list, int kvm_fd, int vcpu_fd, struct hf_err *err);

/* tsc is left alone: it moves while the vCPU stands, so it is read once, at the stop. */
int vmm_vcpu_state_get(struct vmm_vcpu_state *state, int vcpu_fd, const struct vmm_msr_list *msrs,
		       uint32_t xsave_bytes, struct hf_err *err);
int vmm_vcpu_state_set(const struct vmm_vcpu_state *state, int vcpu_fd, uint32_t xsave_bytes,
		       struct hf_err *err);

int vmm_vcpu_tsc_get(int vcpu_fd, uint64_t *tsc);
int vmm_vcpu_tsc_set(int vcpu_fd, uint64_t tsc);

#endif
