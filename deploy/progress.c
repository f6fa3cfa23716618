/* SPDX-License-Identifier: Apache-2.0 */
#include "deploy/progress.h"

#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

void hf_progress_init(struct hf_progress *progress)
{
	*progress = (struct hf_progress){.terminal = isatty(STDERR_FILENO) == 1};
}

int hf_progress_period_ms(const struct hf_progress *progress)
{
	return progress->terminal ? HF_PROGRESS_PERIOD_MS : -1;
}

void hf_progress_memory(struct hf_progress *progress, uint64_t allocated_bytes, uint64_t total_bytes)
{
	if (!progress->terminal)
		return;
	fprintf(stderr, "\rallocating       %3u%%  %" PRIu64 " of %" PRIu64 " MiB\033[K",
		total_bytes ? (unsigned)(100 * (allocated_bytes >> 20) / (total_bytes >> 20)) : 0,
		allocated_bytes >> 20, total_bytes >> 20);
	fflush(stderr);
	progress->shown = true;
}

void hf_progress_update(struct hf_progress *progress, const struct hf_destination_snapshot *snapshot)
{
	if (!progress->terminal)
		return;
	uint32_t total = snapshot->pages_total ? snapshot->pages_total : 1;
	double mib = (double)snapshot->transferred_bytes / (double)(1u << 20);
	fprintf(stderr, "\r%-16s %3u%%  %u of %u pages, %.0f MiB, %" PRIu64 " faults\033[K",
		hf_status_name(snapshot->status), (unsigned)(100ull * snapshot->pages_received / total),
		snapshot->pages_received, snapshot->pages_total, mib,
		snapshot->blocktime.faults_vcpu + snapshot->blocktime.faults_other);
	fflush(stderr);
	progress->shown = true;
}

void hf_progress_end(struct hf_progress *progress)
{
	if (progress->shown)
		fputc('\n', stderr);
	progress->shown = false;
}
