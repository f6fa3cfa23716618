/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm_identity.h - is this the same VMM as then?
 *
 * Purpose: an agent that is started again has notes about a VMM. A process id alone may have come to mean
 * another process since; with the time it was started and the boot it lives in it cannot.
 *
 * Ownership: plain values. Threads: none inside. Units: clock ticks since boot.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_HUGEMEM_VMM_IDENTITY_H
#define HF_HUGEMEM_VMM_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"
#include "hugemem/process_stat.h"

struct hf_vmm_identity {
	uint64_t started_ticks;
	pid_t pid;
	char boot_id[HF_BOOT_ID_BYTES];
};

/* Of a process that is alive. -ESRCH: there is none. */
int hf_vmm_identity_of(pid_t pid, struct hf_vmm_identity *identity, struct hf_err *err);
bool hf_vmm_identity_equal(const struct hf_vmm_identity *one, const struct hf_vmm_identity *other);

#endif
