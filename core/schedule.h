/* SPDX-License-Identifier: Apache-2.0 */
/*
 * schedule.h - when the background may fetch, how much, and from where.
 *
 * Purpose: urgent pages come first. The background is held back while an urgent page is on its way, except
 * for a stated least share of the bytes; its outstanding bytes are bounded by measured rate x round
 * trip; its scan restarts after the page that faulted last (seed: "the dirty page scanning restarts from
 * the requested location"). The theory stands in schedule.c.
 *
 * Ownership: plain struct, no pointers, no destructor.
 * Threads: none inside; the caller holds its lock. Every call is constant time.
 * Units: in the names.
 * Errors: none; calls out of order are programming errors (assert).
 */
#ifndef HF_CORE_SCHEDULE_H
#define HF_CORE_SCHEDULE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/transport.h"

#define HF_SCHEDULE_SHARE_DEFAULT_PERCENT 5u
/* Above it an urgent chunk earns more than one background chunk. */
#define HF_SCHEDULE_SHARE_MAX_PERCENT 50u

struct hf_schedule {
	/* Set at creation or link_up. */
	uint32_t chunk_bytes;
	uint32_t share_percent;
	uint64_t window_min_bytes, window_max_bytes;

	/* Running. */
	uint64_t outstanding_bytes[HF_FETCH_CLASSES];
	uint32_t urgent_pages;	     /* pages a thread waits for whose bytes have not all landed */
	uint64_t share_credit_bytes; /* what the background may still post while urgent pages wait */
	uint64_t share_remainder;    /* of the division that feeds the credit */
	uint64_t window_bytes;	     /* bound on outstanding background bytes */
	uint64_t round_trip_min_ns;  /* of one chunk; 0 = not measured */
	uint64_t rate_bytes_per_s;   /* 0 = not measured */
	uint64_t interval_start_ns;  /* of the rate measurement under way */
	uint64_t interval_bytes;
	uint32_t cursor_page; /* where the background scan goes on */
};

void hf_schedule_init(struct hf_schedule *schedule, uint32_t chunk_bytes, uint32_t share_percent);
/* A new connection: forgets what was measured on the old one; nothing is outstanding. */
void hf_schedule_link_up(struct hf_schedule *schedule, const struct hf_link_info *info, uint64_t now_ns);

/* A thread waits for this page / all bytes of a page somebody waited for have landed (or were given up). */
void hf_schedule_urgent_begin(struct hf_schedule *schedule, uint32_t page);
void hf_schedule_urgent_end(struct hf_schedule *schedule);

/* May a background chunk of this length be posted now? */
bool hf_schedule_background_allowed(const struct hf_schedule *schedule, uint32_t length_bytes);
/* Its saved share is full: the next chunk posted is the background's, if it is allowed and has one. */
bool hf_schedule_background_due(const struct hf_schedule *schedule);

void hf_schedule_posted(struct hf_schedule *schedule, enum hf_fetch_class class, uint32_t length_bytes);
/* landed: false for a fetch that failed; it says nothing about the link's speed. */
void hf_schedule_done(struct hf_schedule *schedule, enum hf_fetch_class class, uint32_t length_bytes,
		      bool landed, uint64_t posted_ns, uint64_t now_ns);

#endif
