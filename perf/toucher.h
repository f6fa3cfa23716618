/* SPDX-License-Identifier: Apache-2.0 */
/*
 * toucher.h - a guest that touches memory when it is told to, and times each touch itself.
 *
 * Purpose: what a vCPU feels of a missing page. A VM on /dev/kvm whose vCPUs wait for an address, read one
 * byte there, and say how long that took by the guest's own clock (rdtsc before and behind the load):
 * entering and leaving the guest is not in it.
 *
 * Ownership: memory is the caller's and outlives the toucher. Threads: one a vCPU; the calls belong to one
 * thread. A vCPU that waits for its page is waited for: the caller sees to it that it comes, also before
 * hf_toucher_destroy(). Units: nanoseconds in _ns. Errors: 0 or -errno with a line.
 */
#ifndef HF_PERF_TOUCHER_H
#define HF_PERF_TOUCHER_H

#include <stdint.h>

#include "core/err.h"

#define HF_TOUCHER_VCPUS_MAX 64u
#define HF_TOUCHER_BYTES_MAX (1ull << 30)

struct hf_toucher;

int hf_toucher_create(struct hf_toucher **out, void *memory, uint64_t bytes, uint32_t vcpus,
		      struct hf_err *err);
/* The kernel's number of the thread, as userfaultfd tells it. */
uint32_t hf_toucher_thread_id(const struct hf_toucher *toucher, uint32_t vcpu);
/* Begins a touch; the vCPU's last one has been waited for. */
void hf_toucher_touch(struct hf_toucher *toucher, uint32_t vcpu, uint64_t offset_bytes);
/* Until the vCPU has read its byte: how long it stood. -EIO: KVM has failed. */
int hf_toucher_wait(struct hf_toucher *toucher, uint32_t vcpu, uint64_t *stood_ns);
void hf_toucher_destroy(struct hf_toucher *toucher);

#endif
