/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guardian.h - a process that runs the source's VM again when the agent that stopped it is killed.
 *
 * Purpose: between STOP and the durable record GIVEN_UP the VM stands still, perhaps in a frozen VMM, and
 * belongs to the source. An agent killed there (-9) would leave it so; the guardian, a child process,
 * outlives it for a moment, thaws the VMM, runs the VM and puts the VMM's settings back. Theory in
 * guardian.c.
 *
 *     start()            before any thread, and before anything is opened that must end with the agent
 *     arm()              right before HF_VM_STOP is asked for
 *     disarm()           once the VM was resumed; after GIVEN_UP the record keeps it from running the VM
 *     end()
 *
 * Ownership: start/end; end reaps the process. What the config points to must be valid at the time of
 * start(): the guardian has a copy of the program's memory as it was then.
 * Threads: start() and end() by the main thread; arm() and disarm() by any, one at a time, without blocking.
 * Units: milliseconds in _ms.
 * Errors: 0 or -errno with text. The guardian itself says in one line on the agent's stderr what it did.
 */
#ifndef HF_DEPLOY_GUARDIAN_H
#define HF_DEPLOY_GUARDIAN_H

#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"
#include "core/handover.h"

struct hf_guardian;

struct hf_guardian_config {
	/*
	 * Reads what is on durable storage. 0 and *record, HF_RECORD_NONE if there is no file; *settings: the
	 * VMM's before the migration, from malloc(), or NULL; -errno with text: it cannot be read, and then
	 * the VM is not run. Called in the guardian, once the agent's process has ended while armed: all
	 * descriptors but stderr are closed, paths and the working directory are as they were.
	 */
	int (*record)(void *opaque, enum hf_record *record, char **settings, struct hf_err *err);
	void *opaque;
	uint32_t retry_limit_ms; /* how long to try to run the VM; 0: a minute */
};

int hf_guardian_start(struct hf_guardian **out, const struct hf_guardian_config *config, struct hf_err *err);
/*
 * vmm: the pid that the QMP socket has (hf_qmp_vm_pid()); target: as of hf_qmp_vm_create(). -ECHILD: the
 * guardian is gone; do not stop the VM then. Armed again it takes the new values.
 */
int hf_guardian_arm(struct hf_guardian *guardian, pid_t vmm, const char *target, struct hf_err *err);
void hf_guardian_disarm(struct hf_guardian *guardian);
pid_t hf_guardian_pid(const struct hf_guardian *guardian);
/* Ends the guardian, armed or not, and reaps it. NULL is allowed. */
void hf_guardian_end(struct hf_guardian *guardian);

#endif
