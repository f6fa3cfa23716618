/* SPDX-License-Identifier: Apache-2.0 */
/*
 * moving.h - a migration without VM and without huge pages, for benchmarks of what is in between: both
 * engines in one process, joined by a real link.
 *
 * Purpose: it stands where pages are fetched: the VM "runs", the background is held, and faults come from the
 * caller. Every page exists. All pages share a little memory on each side (their content is of no interest),
 * so the VM may be far larger than the host.
 *
 * Ownership: hf_moving_start() / hf_moving_stop(). Threads: calls from one thread but for hf_moving_fault();
 * the link has its own. Units: in the names. Errors: 0 or -errno with a line.
 */
#ifndef HF_PERF_MOVING_H
#define HF_PERF_MOVING_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/memory.h"
#include "core/transport.h"

struct hf_destination;
struct hf_moving;

struct hf_moving_fault;

/* Memory of a VM that somebody looks at: the destination's real port, and who may fault. */
struct hf_moving_memory {
	struct hf_memory port;
	const uint32_t *vcpu_thread_ids;
	uint32_t vcpus;
	/* Starts and stops the port's threads, which call the engine. */
	int (*start)(void *self, struct hf_destination *engine, struct hf_err *err);
	void (*stop)(void *self);
	void *self;
};

struct hf_moving_config {
	const char *uri; /* to listen on */
	uint64_t page_bytes;
	uint32_t pages;
	uint32_t channels;				/* of each class */
	uint32_t chunk_bytes, background_share_percent; /* the destination engine's; 0 = default */
	/* A fault has ended. In the link's threads, several at once; may fault again. NULL is fine. */
	void (*placed)(void *opaque, struct hf_moving_fault *fault);
	void *opaque;
	const struct hf_moving_memory *memory; /* NULL: nobody's; faults come from hf_moving_fault() alone */
	void (*before_source)(
	    void *opaque); /* NULL is fine: called around the start of the source's threads */
	void (*behind_source)(void *opaque);
};

int hf_moving_start(struct hf_moving **out, const struct hf_moving_config *config, struct hf_err *err);
void hf_moving_stop(struct hf_moving *moving);

struct hf_destination *hf_moving_destination(struct hf_moving *moving);

void hf_moving_hold_background(struct hf_moving *moving, bool hold);

/* What the link has been asked for so far, and what has come. */
struct hf_moving_counts {
	uint64_t posted_chunks[HF_FETCH_CLASSES], posted_bytes[HF_FETCH_CLASSES];
	uint64_t ended_chunks[HF_FETCH_CLASSES];
	uint32_t placed_pages, placed_faults;
};
struct hf_moving_counts hf_moving_counts(struct hf_moving *moving);

/* One thread's wait. */
struct hf_moving_fault {
	uint32_t page;
	bool placed;
	uint64_t faulted_ns, placed_ns;
	struct hf_moving_counts at_fault,
	    at_landed; /* at the end of the last urgent chunk before it was placed */
};
/* From any thread. The fault stays the moving's until it is placed. */
void hf_moving_fault(struct hf_moving *moving, struct hf_moving_fault *fault, uint32_t page);
/* -EIO: the migration has failed. */
int hf_moving_wait_placed(struct hf_moving *moving, const struct hf_moving_fault *fault);
/* Until so many faults have ended. */
int hf_moving_wait_placed_faults(struct hf_moving *moving, uint32_t faults);
/* Until so many chunks of the background have been posted, or no more are to come. */
int hf_moving_wait_background_posted(struct hf_moving *moving, uint64_t chunks);
/* Until nothing is on its way. The background must be held. */
int hf_moving_wait_idle(struct hf_moving *moving);

#endif
