/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Two classes of chunks share one link. An urgent chunk belongs to a page that a thread waits for; it must
 * find as little as possible in front of it. What is in front of it is what the background has outstanding,
 * so the background is bound twice:
 *
 *  - Hold. While an urgent page has bytes to come, the background posts nothing. Its chunks already posted
 *    are all that can delay the urgent page. Under endless faults that would starve it, and a migration that
 *    never ends is no good either: each urgent byte posted earns the background share/(100-share) bytes of
 *    credit, and credit may be spent during a hold. Credit is capped at two chunks, so that it cannot be
 *    saved up and then be spent in one burst in front of a fault. Many urgent chunks posted at once earn
 *    more than that: when the credit is full, the background goes before the next of them.
 *
 *  - Window. Outstanding background bytes stay below twice (measured rate x shortest round trip seen), at
 * least two chunks for each background channel, so that the link stays busy, at most what the transport
 *    holds. Starting from the least window, a link with room shows a higher rate at the same round trip,
 *    which doubles the window (the idea of BBR's start-up); a full link shows no more rate, and the window
 *    stays. The rate is measured over intervals of at least ten milliseconds and eases towards lower
 *    values slowly, since an interval with a hold in it shows less than the link can do.
 *
 * The scan position is one page index: a fault on page p moves it to p + 1.
 */
#include "core/schedule.h"

#include <assert.h>

#define RATE_INTERVAL_NS	  10000000ull
#define WINDOW_MIN_CHUNKS_CHANNEL 2u
#define CREDIT_MAX_CHUNKS	  2u
#define NS_PER_S		  1000000000ull

void hf_schedule_init(struct hf_schedule *schedule, uint32_t chunk_bytes, uint32_t share_percent)
{
	assert(share_percent <= HF_SCHEDULE_SHARE_MAX_PERCENT);
	*schedule = (struct hf_schedule){
	    .chunk_bytes = chunk_bytes,
	    .share_percent = share_percent,
	};
}

void hf_schedule_link_up(struct hf_schedule *schedule, const struct hf_link_info *info, uint64_t now_ns)
{
	uint64_t chunk = schedule->chunk_bytes;
	schedule->window_max_bytes = chunk * info->capacity_chunks[HF_FETCH_BACKGROUND];
	schedule->window_min_bytes = chunk * WINDOW_MIN_CHUNKS_CHANNEL * info->channels[HF_FETCH_BACKGROUND];
	if (schedule->window_min_bytes > schedule->window_max_bytes)
		schedule->window_min_bytes = schedule->window_max_bytes;
	schedule->window_bytes = schedule->window_min_bytes;
	schedule->outstanding_bytes[HF_FETCH_URGENT] = 0;
	schedule->outstanding_bytes[HF_FETCH_BACKGROUND] = 0;
	schedule->round_trip_min_ns = 0;
	schedule->rate_bytes_per_s = 0;
	schedule->interval_start_ns = now_ns;
	schedule->interval_bytes = 0;
}

void hf_schedule_urgent_begin(struct hf_schedule *schedule, uint32_t page)
{
	schedule->urgent_pages++;
	schedule->cursor_page = page + 1;
}

void hf_schedule_urgent_end(struct hf_schedule *schedule)
{
	assert(schedule->urgent_pages > 0);
	schedule->urgent_pages--;
}

bool hf_schedule_background_allowed(const struct hf_schedule *schedule, uint32_t length_bytes)
{
	uint64_t outstanding = schedule->outstanding_bytes[HF_FETCH_BACKGROUND];
	if (outstanding > 0 && outstanding + length_bytes > schedule->window_bytes)
		return false;
	return schedule->urgent_pages == 0 || schedule->share_credit_bytes >= length_bytes;
}

static uint64_t credit_max_bytes(const struct hf_schedule *schedule)
{
	return (uint64_t)CREDIT_MAX_CHUNKS * schedule->chunk_bytes;
}

bool hf_schedule_background_due(const struct hf_schedule *schedule)
{
	return schedule->urgent_pages > 0 && schedule->share_credit_bytes >= credit_max_bytes(schedule);
}

static void earn_credit(struct hf_schedule *schedule, uint32_t urgent_bytes)
{
	uint64_t divisor = 100 - schedule->share_percent;
	uint64_t earned = (uint64_t)urgent_bytes * schedule->share_percent + schedule->share_remainder;
	schedule->share_remainder = earned % divisor;
	schedule->share_credit_bytes += earned / divisor;
	if (schedule->share_credit_bytes > credit_max_bytes(schedule))
		schedule->share_credit_bytes = credit_max_bytes(schedule);
}

void hf_schedule_posted(struct hf_schedule *schedule, enum hf_fetch_class class, uint32_t length_bytes)
{
	schedule->outstanding_bytes[class] += length_bytes;
	if (class == HF_FETCH_URGENT)
		earn_credit(schedule, length_bytes);
	else if (schedule->urgent_pages > 0 && schedule->share_credit_bytes >= length_bytes)
		schedule->share_credit_bytes -= length_bytes;
}

static void set_window(struct hf_schedule *schedule)
{
	/* Rate is at most some 100 GB/s and the round trip below 100 s: the product fits after the split. */
	uint64_t round_trip_us = schedule->round_trip_min_ns / 1000 + 1;
	uint64_t window = 2 * (schedule->rate_bytes_per_s / 1000000 + 1) * round_trip_us;
	if (window < schedule->window_min_bytes)
		window = schedule->window_min_bytes;
	if (window > schedule->window_max_bytes)
		window = schedule->window_max_bytes;
	schedule->window_bytes = window;
}

static void measure(struct hf_schedule *schedule, uint32_t length_bytes, uint64_t posted_ns, uint64_t now_ns)
{
	uint64_t round_trip_ns = now_ns > posted_ns ? now_ns - posted_ns : 1;
	if (schedule->round_trip_min_ns == 0 || round_trip_ns < schedule->round_trip_min_ns)
		schedule->round_trip_min_ns = round_trip_ns;

	schedule->interval_bytes += length_bytes;
	uint64_t interval_ns = now_ns - schedule->interval_start_ns;
	if (now_ns < schedule->interval_start_ns || interval_ns < RATE_INTERVAL_NS)
		return;

	/* Bytes below 2^44 in an interval: times 1000 does not overflow. */
	uint64_t rate = schedule->interval_bytes * 1000 / (interval_ns / 1000000);
	if (rate >= schedule->rate_bytes_per_s)
		schedule->rate_bytes_per_s = rate;
	else
		schedule->rate_bytes_per_s -= (schedule->rate_bytes_per_s - rate) / 16;
	schedule->interval_start_ns = now_ns;
	schedule->interval_bytes = 0;
	set_window(schedule);
}

void hf_schedule_done(struct hf_schedule *schedule, enum hf_fetch_class class, uint32_t length_bytes,
		      bool landed, uint64_t posted_ns, uint64_t now_ns)
{
	assert(schedule->outstanding_bytes[class] >= length_bytes);
	schedule->outstanding_bytes[class] -= length_bytes;
	if (landed && class == HF_FETCH_BACKGROUND)
		measure(schedule, length_bytes, posted_ns, now_ns);
}
