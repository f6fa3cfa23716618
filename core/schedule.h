/* SPDX-License-Identifier: Apache-2.0 */
/*
 * schedule.h - when the background may fetch, how much, and from where.
 *
 * Purpose: urgent pages come first. The background is held back while an urgent page is on its way, except
 * for a stated least share of the bytes; its outstanding bytes are bounded by measured rate x round
 * trip; its scan restarts after the page that faulted last (seed: "the dirty page scanning restarts from
 * the requested location"). What exactly is promised, and why it holds, stands in schedule.c.
 *
 * Ownership: plain structs, no pointers, no destructor.
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
	uint32_t urgent_pages; /* pages a thread waits for whose bytes have not all landed */
	uint64_t owed_parts;   /* bytes owed to the background x (100 - share_percent) */
	uint32_t cursor_page;  /* where the background scan goes on */

	/* Measuring the link. */
	uint64_t window_bytes; /* bound on outstanding background bytes while nobody waits */
	uint64_t round_trip_min_ns, rate_bytes_per_s; /* 0 = not measured */
	uint64_t landed_bytes, landed_ns;	      /* so far; when the last of them landed */
	uint64_t landed_posted_ns;		      /* when that one had been posted */
	uint64_t interval_start_ns, interval_rate_bytes_per_s;
	bool interval_limited; /* something other than the link kept the rate down in this interval */
};

/* One chunk between its post and its end; the caller keeps it meanwhile. */
struct hf_schedule_chunk {
	uint64_t posted_ns;
	uint64_t paid_parts;   /* what it took off owed_parts */
	uint64_t earned_parts; /* what it added to them */
	/* As they were when it was posted. */
	uint64_t landed_bytes, landed_ns, landed_posted_ns;
	uint32_t length_bytes;
	enum hf_fetch_class class;
};

enum hf_schedule_end {
	HF_SCHEDULE_LANDED,
	HF_SCHEDULE_LANDED_ZERO, /* as a header only: says nothing about the link's rate */
	HF_SCHEDULE_LOST,
};

void hf_schedule_init(struct hf_schedule *schedule, uint32_t chunk_bytes, uint32_t share_percent);
/* A new connection: forgets what was measured on the old one; nothing is outstanding. */
void hf_schedule_link_up(struct hf_schedule *schedule, const struct hf_link_info *info, uint64_t now_ns);

/* A thread faulted on this page: the scan goes on behind it. */
void hf_schedule_faulted(struct hf_schedule *schedule, uint32_t page);
/* A thread waits for a page / all bytes of a page somebody waited for have landed (or were given up). */
void hf_schedule_urgent_begin(struct hf_schedule *schedule);
void hf_schedule_urgent_end(struct hf_schedule *schedule);

/* Its share is due: the next chunk posted is the background's, if it has one and there is room. */
bool hf_schedule_background_due(const struct hf_schedule *schedule);
/* Has the background no more on its way than it may, so that one more chunk may join? */
bool hf_schedule_background_room(const struct hf_schedule *schedule);
/* Somebody waits and its share is not due: the background may post nothing. */
bool hf_schedule_background_held(const struct hf_schedule *schedule);

void hf_schedule_posted(struct hf_schedule *schedule, enum hf_fetch_class class, uint32_t length_bytes,
			uint64_t now_ns, struct hf_schedule_chunk *chunk);
/* The transport did not take it: as if it had not been posted. */
void hf_schedule_refused(struct hf_schedule *schedule, const struct hf_schedule_chunk *chunk);
void hf_schedule_done(struct hf_schedule *schedule, const struct hf_schedule_chunk *chunk,
		      enum hf_schedule_end end, uint64_t now_ns);

#endif
