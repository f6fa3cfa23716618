/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_check.h - a session that moves nothing: it measures the link and ends.
 *
 * Purpose: the two small engines of `hugeferry check --to`. The source's half asks (CHECK) and serves the
 * probe block; the destination's half measures (link_probe.h) and answers (LINK). A destination that waits
 * for a migration can be asked any number of times; nothing of its VM is touched.
 *
 * Ownership: ports outlive the engine; destroy it only after the transport has stopped calling it.
 * Threads: any; a lock of its own, held over no port call.
 * Units: in the names.
 * Errors: shown in the snapshot.
 */
#ifndef HF_CORE_LINK_CHECK_H
#define HF_CORE_LINK_CHECK_H

#include <stdbool.h>
#include <stdint.h>

#include "core/clock.h"
#include "core/err.h"
#include "core/link_probe.h"
#include "core/transport.h"

struct hf_link_check;

struct hf_link_check_config {
	const char *name; /* of this side, for messages */
	struct hf_clock clock;
	struct hf_transport transport;
	uint32_t chunk_bytes;	      /* destination: of the migration to come; 0 = default */
	uint64_t max_page_stall_ns;   /* destination: its operator's limit, told to the source; 0 = none */
	void (*notify)(void *opaque); /* the check has ended; called without the lock, must only signal */
	void *opaque;
};

int hf_link_check_create(struct hf_link_check **out, const struct hf_link_check_config *config,
			 struct hf_err *err);
void hf_link_check_destroy(struct hf_link_check *check);

extern const struct hf_transport_events hf_link_check_source_events;
extern const struct hf_transport_events hf_link_check_destination_events;

struct hf_link_check_snapshot {
	bool ended;
	struct hf_err err; /* HF_ERR_NONE: it ended well */
	struct hf_link_figures figures;
	uint64_t max_page_stall_ns; /* the destination's */
};

void hf_link_check_snapshot(struct hf_link_check *check, struct hf_link_check_snapshot *out);

#endif
