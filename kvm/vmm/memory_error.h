/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_error.h - a guest that meets a page whose bytes are lost.
 *
 * Purpose: an access to a poisoned page becomes a memory error of the guest, as hardware has it, and not the
 * end of the VMM. Theory: memory_error.c. Ownership: none. Threads: the vCPU's own, outside KVM_RUN; the
 * handler is installed before the first of them. Units: guest-physical addresses. Errors: 0 or -errno with
 * text.
 */
#ifndef HF_KVM_VMM_MEMORY_ERROR_H
#define HF_KVM_VMM_MEMORY_ERROR_H

#include <stdbool.h>

#include "kvm/vmm/vcpu.h"

/* SIGBUS that KVM sends to a vCPU's thread is noted; any other still ends the program. */
int vmm_memory_error_catch(void);
/* Has KVM sent one to this thread since the last time? */
bool vmm_memory_error_taken(void);
/* Has KVM_RUN returned with an access to guest memory, which KVM could not do? */
bool vmm_memory_error_is_exit(const struct vmm_vcpu *vcpu);
/* Ends the access of such an exit. */
int vmm_memory_error_end_access(struct vmm_vcpu *vcpu, struct hf_err *err);
/* Sets registers so that the guest goes on where it handles memory errors; refused where it cannot. */
int vmm_memory_error_redirect(struct vmm_vcpu *vcpu, struct kvm_regs *regs, struct hf_err *err);
/* The same with KVM's: the guest goes on where it handles memory errors. */
int vmm_memory_error_deliver(struct vmm_vcpu *vcpu, struct hf_err *err);

#endif
