/* SPDX-License-Identifier: Apache-2.0 */
/*
 * platform_kvm.h - the smallest guest there is, for facts about KVM.
 *
 * Purpose: a vCPU that reads or writes one word of guest memory when told, and nothing else: what it touches
 * is known exactly. Ownership, threads, errors: as in platform.h; a vCPU is run by one thread at a time.
 * Units: pages of the ram.
 */
#ifndef HF_TESTS_PLATFORM_KVM_H
#define HF_TESTS_PLATFORM_KVM_H

#include <linux/kvm.h>

#include "tests/platform/platform.h"

struct vm {
	int vcpu;
	struct kvm_run *run;
};

/*
 * An access to memory that the host cannot give fails with EFAULT where the CPU runs the guest; where KVM
 * emulates its instructions, it is taken for one to a device that the VMM has.
 */
static inline bool vm_access_failed(int result)
{
	return result < 0 || result == KVM_EXIT_MMIO;
}

/* Ends the program as skipped where there is no KVM. */
int open_kvm(void);
/* The VMM's mapping of ram is guest memory. */
struct vm vm_new(const struct ram *ram);
/*
 * KVM_RUN until the word at a byte of a page is read into *word. 0; -errno of KVM_RUN; or the KVM_EXIT_* with
 * which it has ended before the access was done.
 */
int vm_read(struct vm *vm, const struct ram *ram, unsigned page, uint64_t offset_bytes, uint32_t *word);
/* The same, writing it. */
int vm_write(struct vm *vm, const struct ram *ram, unsigned page, uint64_t offset_bytes, uint32_t word);

#endif
