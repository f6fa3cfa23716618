/* SPDX-License-Identifier: Apache-2.0 */
/*
 * blocktime.h - how long vCPUs stood still on missing pages.
 *
 * Purpose: per vCPU the total time its thread waited for pages; overlapped, the total time during which
 * every vCPU waited at once. Several threads may wait for one page. A thread has one fault at a time but
 * may fault again before the placement that woke it has been reported here: its new fault ends the old
 * wait. A second fault of a thread on the page it already waits for continues the same wait. Threads that
 * are no vCPU are counted apart. (Seed: "Blocktime is a postcopy live migration metric"; QEMU's
 * accounting keys by vCPU, this one by page and keeps every waiter.)
 *
 * Reports may come late: between reading a fault message and reporting it here, other events are reported.
 * The clock is the latest time given so far.
 *   - A wait starts at the time given with its fault, but not before the end of the thread's previous wait.
 *     (A thread that is no vCPU is forgotten when a placement ends its wait; it has no previous wait then.)
 *   - A wait that a placement ends, ends at the clock. One that the thread's fault on another page ends, ends
 *     at the time given with that fault, but not before its own start; there the next wait starts.
 *   - All vCPUs wait at once from the latest start among their waits (of a row of waits that faults ended,
 * the first's) to the clock at the placement that frees one of them. So overlapped_ns is at most the
 *     blocktime_ns of any vCPU, and with one vCPU it is the same.
 *
 * Ownership: create/destroy; no allocation after create.
 * Threads: none inside; the caller holds its lock. Cost of an event does not grow with the number of vCPUs or
 * pages.
 * Units: nanoseconds of the caller's monotonic clock.
 * Errors: 0 or -errno.
 */
#ifndef HF_CORE_BLOCKTIME_H
#define HF_CORE_BLOCKTIME_H

#include <stdbool.h>
#include <stdint.h>

#include "core/table.h"

struct hf_blocktime;

/* Threads that are no vCPU and wait at once; more are counted as faults but not timed. */
#define HF_BLOCKTIME_OTHERS_MAX 256u

/* thread_ids[i] is the kernel thread id of vCPU i; no two may be equal (-EINVAL). vcpus may be 0. */
int hf_blocktime_create(struct hf_blocktime **blocktime, const uint32_t *thread_ids, uint32_t vcpus);
void hf_blocktime_destroy(struct hf_blocktime *blocktime);
/* Adds what an event reads and writes. */
void hf_blocktime_tables(const struct hf_blocktime *blocktime, struct hf_tables *tables);

/* Thread faulted on a page; arrived_ns: when the message was read. True if the thread is a vCPU. */
bool hf_blocktime_fault(struct hf_blocktime *blocktime, uint32_t thread_id, uint32_t page,
			uint64_t arrived_ns);

/*
 * The page became visible: every wait for it ends. Calls wait_ended (may be NULL) for each with the length of
 * the wait.
 */
typedef void hf_blocktime_wait_ended(void *opaque, uint64_t wait_ns);
void hf_blocktime_placed(struct hf_blocktime *blocktime, uint32_t page, uint64_t now_ns,
			 hf_blocktime_wait_ended *wait_ended, void *opaque);

struct hf_blocktime_vcpu {
	uint32_t vcpu;
	uint64_t blocktime_ns;
	uint64_t faults;
	bool blocked; /* waits now; blocktime_ns includes that wait up to now_ns of the query */
};

struct hf_blocktime_totals {
	uint64_t overlapped_ns;
	uint64_t faults_vcpu;
	uint64_t faults_other;
	uint64_t other_blocktime_ns;
	uint32_t vcpus;
};

/* Totals including waits that are still open, as of now_ns. Changes nothing. */
void hf_blocktime_totals(const struct hf_blocktime *blocktime, uint64_t now_ns,
			 struct hf_blocktime_totals *totals);
int hf_blocktime_vcpu(const struct hf_blocktime *blocktime, uint32_t vcpu, uint64_t now_ns,
		      struct hf_blocktime_vcpu *out);

#endif
