/* SPDX-License-Identifier: Apache-2.0 */
/*
 * probe.h - what this kernel and this process can do.
 *
 * Purpose: the facts `hugeferry check` prints and the hand-off relies on, found out by trying.
 * Ownership: plain struct.
 * Threads: any; opens and closes descriptors of its own.
 * Units: bytes.
 * Errors: hf_probe() itself only fails for want of descriptors; what is missing is in the fields.
 */
#ifndef HF_HUGEMEM_PROBE_H
#define HF_HUGEMEM_PROBE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"

struct hf_probe {
	bool userfaultfd;      /* can be had at all */
	bool kernel_faults;    /* not USER_MODE_ONLY: KVM's own faults are delivered */
	int userfaultfd_errno; /* why not */
	uint64_t features;     /* UFFD_FEATURE_* the kernel offers */
	bool missing_hugetlbfs, minor_hugetlbfs, thread_id, exact_address, poison, wp_async;
	bool pagemap_scan;
	uint64_t memlock_limit_bytes; /* UINT64_MAX: unlimited */
	bool ipc_lock;		      /* CAP_IPC_LOCK: the limit does not bind */
};

int hf_probe(struct hf_probe *out, struct hf_err *err);
/* Has this thread CAP_IPC_LOCK? */
bool hf_probe_ipc_lock(void);

#endif
