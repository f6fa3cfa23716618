/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.h - a virtual machine: memory, vCPUs, run, stop, save, load.
 *
 * Purpose: the smallest machine that runs the guest of kvm/guest.h: no devices but one port per vCPU that
 * counts its reads and, for a paced guest, delays them; no interrupts. It can be stopped at any instruction,
 * saved and loaded exactly. Ownership: memory is the caller's and outlives the machine. Nothing here touches
 * it but the vCPUs. Threads: one per vCPU, named "vcpu N". run, stop, save, load: one caller at a time.
 * `failed` is called in a vCPU's thread, without locks, at most once. Units: bytes, milliseconds in _ms.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_KVM_VMM_MACHINE_H
#define HF_KVM_VMM_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"
#include "kvm/vmm/accel.h"
#include "kvm/vmm/vcpu_state.h"

/*
 * Takes a vCPU out of the guest. The program installs an empty handler for it before create; user mode puts
 * its own in that place.
 */
int vmm_machine_kick_signal(void);

struct vmm_machine;

struct vmm_machine_config {
	enum vmm_accel accel;
	void *memory;
	uint64_t memory_bytes;
	uint64_t page_size_bytes;
	uint32_t vcpus;
	uint32_t pace_steps_per_s; /* of a guest that reads the port in each step; 0: none. Device state */
	void (*failed)(void *opaque, const struct hf_err *err);
	void *opaque;
};

/* vCPUs exist and stand still; their state is that after reset. */
int vmm_machine_create(struct vmm_machine **out, const struct vmm_machine_config *config, struct hf_err *err);
/* Every vCPU must be stopped. */
void vmm_machine_destroy(struct vmm_machine *machine);

/* Sets the vCPUs up for the entry of the guest program. */
int vmm_machine_enter_guest(struct vmm_machine *machine, struct hf_err *err);

int vmm_machine_run(struct vmm_machine *machine, struct hf_err *err);
/*
 * Returns when every vCPU is out of the guest with nothing half done. -ETIMEDOUT: one would not come out (it
 * waits for a page); the others run on.
 */
int vmm_machine_stop(struct vmm_machine *machine, uint32_t timeout_ms, struct hf_err *err);

/* For the end: as stop, but the order stands; nothing runs any more. False: a vCPU is still in the guest. */
bool vmm_machine_halt(struct vmm_machine *machine, uint32_t timeout_ms);

/* Stopped only. *data is freed with free(). */
int vmm_machine_save(struct vmm_machine *machine, void **data, size_t *length_bytes, struct hf_err *err);
/*
 * Stopped only. A blob that is no good changes nothing; where KVM refuses a value, vCPUs may be half
 * loaded: do not run them, load again.
 */
int vmm_machine_load(struct vmm_machine *machine, const void *data, size_t length_bytes, struct hf_err *err);

uint32_t vmm_machine_vcpus(const struct vmm_machine *machine);
pid_t vmm_machine_vcpu_thread_id(const struct vmm_machine *machine, uint32_t vcpu);
/* Of KVM; empty with others. */
const struct vmm_msr_list *vmm_machine_msrs(const struct vmm_machine *machine);

#endif
