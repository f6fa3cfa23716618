/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_lock.h - keeps an agent's tables in memory.
 *
 * Purpose: a host that migrates a VM to it may be short of memory. A fault must then not wait for the agent's
 * own tables to come back from swap. What limits locking is RLIMIT_MEMLOCK, unless the process has
 * CAP_IPC_LOCK; where it is too low the agent refuses before anything stops.
 *
 * Ownership: what is locked stays locked until it is freed (unmapped) or the process ends.
 * Threads: any.
 * Units: bytes.
 * Errors: 0 or -errno with text that names the bytes needed, the limit, and how to raise it.
 */
#ifndef HF_HUGEMEM_MEMORY_LOCK_H
#define HF_HUGEMEM_MEMORY_LOCK_H

#include "core/err.h"
#include "core/table.h"

/* What an operator can do about a limit that is too low. */
#define HF_MEMORY_LOCK_ADVICE                                                                                \
	"raise it (`ulimit -l`, or LimitMEMLOCK= in its systemd unit) or give the program CAP_IPC_LOCK"

/* On failure nothing of it stays locked. */
int hf_memory_lock(const struct hf_tables *tables, struct hf_err *err);

#endif
