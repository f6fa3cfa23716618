/* SPDX-License-Identifier: Apache-2.0 */
/*
 * query_migrate.h - what query-migrate says, in QEMU's words.
 *
 * Purpose: QEMU's MigrationInfo made from a snapshot. A member that QEMU has and nobody here knows is left
 * out; what QEMU has no name for stands in one member `hugeferry`, which is the --json report's object.
 * Ownership: functions return a new reference; a report is stolen.
 * Threads: any; the snapshots of the engines may be taken by any thread.
 * Units: QEMU's: bytes; total-time, setup-time, downtime, postcopy-blocktime and postcopy-vcpu-blocktime in
 * milliseconds; postcopy-latency, postcopy-vcpu-latency and postcopy-non-vcpu-latency in nanoseconds;
 * element N of postcopy-latency-dist counts waits of [2^N, 2^(N+1)) microseconds, the first also shorter
 * and the last also longer ones.
 * Errors: NULL when out of memory.
 */
#ifndef HF_DEPLOY_QUERY_MIGRATE_H
#define HF_DEPLOY_QUERY_MIGRATE_H

#include <jansson.h>

#include "core/destination.h"
#include "core/source.h"
#include "deploy/report.h"

#define HF_QUERY_LATENCY_BUCKETS 24u /* as many as QEMU has */

/* {} while there is no link yet. report may be NULL. */
json_t *hf_query_migrate_source(const struct hf_source_snapshot *snapshot, const struct hf_ramblocks *blocks,
				json_t *report);
json_t *hf_query_migrate_destination(const struct hf_destination_snapshot *snapshot,
				     const struct hf_blocktime_vcpu *vcpus, uint32_t vcpu_count,
				     const struct hf_ramblocks *blocks, json_t *report);

/* The same from an engine as it is now. */
json_t *hf_query_source(struct hf_source *engine, const struct hf_report_context *context);
json_t *hf_query_destination(struct hf_destination *engine, const struct hf_report_context *context);

#endif
