/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fault_reader.h - the thread that reads a userfaultfd. Internal to hugemem/.
 *
 * Purpose: turns page fault messages into (block, page, thread, time of arrival) and hands them on at once.
 * Ownership: the configuration is copied; what it points to and the descriptor outlive the reader.
 * Threads: one, "hf-faults"; `fault` and `failed` are called in it and must only queue (rule g). destroy()
 * joins it and must not be called from it. Units: nanoseconds of the given clock. Errors: 0 or -errno with
 * text.
 */
#ifndef HF_HUGEMEM_FAULT_READER_H
#define HF_HUGEMEM_FAULT_READER_H

#include <stdint.h>

#include "core/clock.h"
#include "core/err.h"
#include "core/ramblock.h"
#include "hugemem/attach_client.h"

struct hf_fault_reader;

struct hf_fault_reader_config {
	int userfault_fd; /* non-blocking */
	const struct hf_ramblocks *blocks;
	const struct hf_attached_region *regions; /* one a block */
	struct hf_clock clock;
	void (*fault)(void *engine, uint32_t block, uint64_t page, uint32_t thread_id, uint64_t arrived_ns);
	/*
	 * Faults are lost, and the threads that wait for them: the descriptor cannot be read any more, or a
	 * message names an address of no region. Told once; what can still be read is read on.
	 */
	void (*failed)(void *engine, const struct hf_err *err);
	void *engine;
};

int hf_fault_reader_start(struct hf_fault_reader **out, const struct hf_fault_reader_config *config,
			  struct hf_err *err);
/* Stops and joins. Faults that were not read stay queued in the kernel, their threads wait. */
void hf_fault_reader_destroy(struct hf_fault_reader *reader);

#endif
