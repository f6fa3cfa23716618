/* SPDX-License-Identifier: Apache-2.0 */
/*
 * report.h - the result of a migration, for programs (JSON) and for people.
 *
 * Purpose: one JSON object a side, written atomically; the demo adds what it verified and prints it.
 * Ownership: functions that return json_t return a new reference.
 * Threads: one.
 * Units: in the member names (_ns, _bytes, _us).
 * Errors: 0 or -errno with text.
 */
#ifndef HF_DEPLOY_REPORT_H
#define HF_DEPLOY_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "core/destination.h"
#include "core/source.h"

/* What the engines do not know. */
struct hf_report_context {
	const char *transport;
	const char *placement_reason; /* destination; may be NULL */
	const struct hf_ramblocks *blocks;
	uint64_t registration_time_ns; /* with the network adapter; 0: not done */
};

/* engine may be NULL when it was never made (the error says why); vcpus counts those of the engine. */
json_t *hf_report_destination(struct hf_destination *engine, const struct hf_destination_snapshot *snapshot,
			      const struct hf_report_context *context);
json_t *hf_report_source(const struct hf_source_snapshot *snapshot, const struct hf_report_context *context);
/* For a side that failed before it had an engine. */
json_t *hf_report_failure(const struct hf_err *err);

/* Before the work starts: could a report be written there? A NULL path can. */
int hf_report_check_path(const char *path, struct hf_err *err);
/* Writes to a temporary file beside `path`, then renames it: readers see all or nothing. */
int hf_report_write(const json_t *report, const char *path, struct hf_err *err);

/* The destination's object, well laid out. */
void hf_report_print(FILE *out, const json_t *report);

const char *hf_vm_owner_name(enum hf_vm_owner owner);

/* "1.23 ms", "45 us". Returns buffer. */
#define HF_TIME_TEXT_BYTES 32
const char *hf_time_text(uint64_t time_ns, char buffer[static HF_TIME_TEXT_BYTES]);

#endif
