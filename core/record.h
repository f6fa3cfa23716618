/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record.h - port: what a side writes durably about who may run the VM.
 *
 * Purpose: the engines ask for one record at a time; the adapter writes it in a thread of its own and reports
 * the end with hf_source_recorded() or hf_destination_recorded(). What a record means stands in
 * core/handover.h.
 * A port without operations stands for "nothing outlives this process": benchmarks, tests of other things.
 * Ownership: none passes.
 * Threads: request() never blocks and never calls the engine (rule a).
 * Units: none.
 * Errors: request() returns 0 or -errno; after a failure no end is reported. Success is reported only when
 * the record is on storage that outlives this host's next crash; after a reported failure the record before
 * or the new one is there, and nobody knows which.
 */
#ifndef HF_CORE_RECORD_H
#define HF_CORE_RECORD_H

#include "core/handover.h"

struct hf_recorder_ops {
	int (*request)(void *self, enum hf_record record);
};

struct hf_recorder {
	const struct hf_recorder_ops *ops;
	void *self;
};

#endif
