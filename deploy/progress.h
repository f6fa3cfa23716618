/* SPDX-License-Identifier: Apache-2.0 */
/*
 * progress.h - one line that shows how far a migration is, or its memory.
 *
 * Purpose: rewrites a line on a terminal; prints nothing into a pipe or a file.
 * Ownership: plain struct.
 * Threads: one.
 * Units: pages, bytes, nanoseconds.
 * Errors: none.
 */
#ifndef HF_DEPLOY_PROGRESS_H
#define HF_DEPLOY_PROGRESS_H

#include <stdbool.h>

#include "core/destination.h"

#define HF_PROGRESS_PERIOD_MS 200

struct hf_progress {
	bool terminal;
	bool shown;
};

void hf_progress_init(struct hf_progress *progress);
/* How long to wait before the next update; -1: no updates wanted. */
int hf_progress_period_ms(const struct hf_progress *progress);
/* Before there is a source. */
void hf_progress_memory(struct hf_progress *progress, uint64_t allocated_bytes, uint64_t total_bytes);
void hf_progress_update(struct hf_progress *progress, const struct hf_destination_snapshot *snapshot);
/* Leaves the last line as it is and goes to the next. */
void hf_progress_end(struct hf_progress *progress);

#endif
