/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm_process.h - a VMM as a process: frozen, thawed, killed.
 *
 * Purpose: what cannot be asked of a VMM over QMP, because others may ask it too or it does not answer. A
 * fenced VMM runs no instruction until it is thawed, so that nobody's `cont` can revive its VM.
 *
 * Ownership: open/close; a zeroed struct may be closed. Closing changes nothing about the process.
 * Threads: any; calls on one process from several threads act one after the other, in any order.
 * Units: milliseconds in _ms; ticks as in field 22 of /proc/PID/stat.
 * Errors: 0 or -errno with text; -ESRCH: the process has ended; -ETIMEDOUT: it is not where it should be in
 * time. A process that is stuck in the kernel makes these calls late, never endless.
 */
#ifndef HF_KVM_VMM_PROCESS_H
#define HF_KVM_VMM_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"

#define HF_VMM_FENCE_LIMIT_MS 10000u
#define HF_VMM_KILL_LIMIT_MS  30000u /* the kernel gives its memory back meanwhile */

struct hf_vmm_process {
	pid_t pid;
	int fd;		      /* pidfd, stored + 1 */
	uint64_t start_ticks; /* with the pid it names a process for ever */
};

/* pid: of SO_PEERCRED, while the connection lives. */
int hf_vmm_open(struct hf_vmm_process *vmm, pid_t pid, struct hf_err *err);
/* The process that another hf_vmm_open() has seen; -ESRCH if its pid is another's now. */
int hf_vmm_open_same(struct hf_vmm_process *vmm, pid_t pid, uint64_t start_ticks, struct hf_err *err);
void hf_vmm_close(struct hf_vmm_process *vmm);

bool hf_vmm_has_ended(const struct hf_vmm_process *vmm);
/* SIGSTOP, and waits until every thread stands still. After a failure it may be frozen in part: thaw it. */
int hf_vmm_fence(const struct hf_vmm_process *vmm, uint32_t limit_ms, struct hf_err *err);
/* Every thread stands still, whoever has stopped it. */
bool hf_vmm_is_fenced(const struct hf_vmm_process *vmm);
/* SIGCONT; also takes back a stop that is under way. */
int hf_vmm_thaw(const struct hf_vmm_process *vmm, struct hf_err *err);
/* SIGKILL, and waits until it has ended. A process that has ended already is success. */
int hf_vmm_kill(const struct hf_vmm_process *vmm, uint32_t limit_ms, struct hf_err *err);

#endif
