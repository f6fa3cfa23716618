/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Two classes of chunks share one link. An urgent chunk belongs to a page that a thread waits for; it must
 * find as little as possible in front of it. What is in front of it is what the background has outstanding.
 * With C the chunk size and s the share in percent (s/(100-s) of what is urgent: one in 19 at 5 %):
 *
 *  1. Hold. While any page is waited for, the background posts a chunk only when it is owed one. Each urgent
 *     byte posted adds s/(100-s) byte to what it is owed, each background byte takes one off, down to
 *     nothing, whether somebody waits or not: what it had while nobody waited is not owed again. It is
 *     never owed more than 2 C. So between the moment a thread begins to wait and the moment the last byte
 *     has landed the background posts at most
 *
 *         2 chunks + s/(100-s) of the urgent bytes posted in that time
 *
 *     and one chunk instead of two if it had not been kept from what it was owed before. Pages that loading
 *     will touch (destination_first.c) are not held until the VM runs: then its threads are not those that
 *     wait, and who waits is next to wait for these.
 *
 *  2. Share. A chunk that is owed goes before the next urgent chunk. So over any stretch of time in which
 *     the background has a page to fetch, a landing for it, and room (3), at every moment
 *
 *         background bytes posted >= s/100 of all bytes posted - C
 *
 *     With one urgent chunk earning at most one background chunk (s <= 50) nothing is cut off at 2 C unless
 *     the background was kept from posting; then what goes beyond is lost to it, since all that at once
 *     would stand in front of somebody.
 *
 *  3. Room. A background chunk is posted only while with it no more than
 *
 *         window + s/(100-s) of the urgent bytes outstanding
 *
 *     is outstanding of the background (or it is the only one). The second term is what it was owed
 *     for those urgent chunks: without it the window would cut the share down on a link whose round trip is
 *     long. On a link that delivers a background chunk no later than urgent ones posted a window
 *     behind it, there is always room for what is owed.
 *
 *  4. Window: 2 x rate x shortest round trip of a chunk, at least two chunks for each background channel, so
 *     that the link stays busy, at most what the transport holds. Every chunk that lands is a
 *     measurement (the delivery rate of BBR): the bytes that landed since it was posted, over the time they
 *     took to land or to be posted, whichever is longer, so that a reader which catches up after a pause does
 *     not pass for a fast link. With room on the link a window of W bytes shows the rate W / round trip, so
 *     each round trip doubles the window until the link is full: log2(rate x round trip / least window)
 *     round trips from the start. A higher rate counts at once; towards a lower one the rate eases by a
 *     sixteenth each interval (10 ms or a round trip), and not if in that interval somebody waited or chunks
 *     came as headers only: then it was not the link that was slow.
 *
 * The scan position is one page index: a fault on page p moves it to p + 1.
 */
#include "core/schedule.h"

#include <assert.h>

#define RATE_INTERVAL_NS	  10000000ull
#define RATE_EASE		  16u
#define WINDOW_MIN_CHUNKS_CHANNEL 2u
#define WINDOW_GAIN		  2u
#define OWED_MAX_CHUNKS		  2ull
#define NS_PER_S		  1000000000ull

void hf_schedule_init(struct hf_schedule *schedule, uint32_t chunk_bytes, uint32_t share_percent)
{
	assert(share_percent > 0 && share_percent <= HF_SCHEDULE_SHARE_MAX_PERCENT);
	*schedule = (struct hf_schedule){
	    .chunk_bytes = chunk_bytes,
	    .share_percent = share_percent,
	};
}

void hf_schedule_link_up(struct hf_schedule *schedule, const struct hf_link_info *info, uint64_t now_ns)
{
	uint64_t chunk = schedule->chunk_bytes;
	uint64_t window_max = chunk * info->capacity_chunks[HF_FETCH_BACKGROUND];
	uint64_t window_min = chunk * WINDOW_MIN_CHUNKS_CHANNEL * info->channels[HF_FETCH_BACKGROUND];
	if (window_min > window_max)
		window_min = window_max;
	*schedule = (struct hf_schedule){
	    .chunk_bytes = schedule->chunk_bytes,
	    .share_percent = schedule->share_percent,
	    .window_min_bytes = window_min,
	    .window_max_bytes = window_max,
	    .window_bytes = window_min,
	    .interval_start_ns = now_ns,
	    /* Who waits, and where the scan stands, does not change with the link. */
	    .urgent_pages = schedule->urgent_pages,
	    .cursor_page = schedule->cursor_page,
	};
}

void hf_schedule_faulted(struct hf_schedule *schedule, uint32_t page)
{
	schedule->cursor_page = page + 1;
}

void hf_schedule_urgent_begin(struct hf_schedule *schedule)
{
	schedule->urgent_pages++;
	schedule->interval_limited = true;
}

void hf_schedule_urgent_end(struct hf_schedule *schedule)
{
	assert(schedule->urgent_pages > 0);
	schedule->urgent_pages--;
}

/* ---- hold, share and room ---------------------------------------------------------------------- */

/* One background byte in parts; an urgent byte earns share_percent of them. */
static uint64_t parts_per_byte(const struct hf_schedule *schedule)
{
	return 100 - schedule->share_percent;
}

bool hf_schedule_background_due(const struct hf_schedule *schedule)
{
	return schedule->urgent_pages > 0 &&
	       schedule->owed_parts >= schedule->chunk_bytes * parts_per_byte(schedule);
}

bool hf_schedule_background_held(const struct hf_schedule *schedule)
{
	return schedule->urgent_pages > 0 && !hf_schedule_background_due(schedule);
}

bool hf_schedule_background_room(const struct hf_schedule *schedule)
{
	uint64_t outstanding = schedule->outstanding_bytes[HF_FETCH_BACKGROUND];
	uint64_t urgent_share =
	    schedule->outstanding_bytes[HF_FETCH_URGENT] * schedule->share_percent / parts_per_byte(schedule);
	return outstanding == 0 ||
	       outstanding + schedule->chunk_bytes <= schedule->window_bytes + urgent_share;
}

/* Adds to what is owed; returns how much that was. */
static uint64_t owe(struct hf_schedule *schedule, uint64_t parts)
{
	uint64_t most = OWED_MAX_CHUNKS * schedule->chunk_bytes * parts_per_byte(schedule);
	uint64_t room = most > schedule->owed_parts ? most - schedule->owed_parts : 0;
	if (parts > room)
		parts = room;
	schedule->owed_parts += parts;
	return parts;
}

/* Takes off what is owed; returns how much that was. */
static uint64_t pay(struct hf_schedule *schedule, uint64_t parts)
{
	if (parts > schedule->owed_parts)
		parts = schedule->owed_parts;
	schedule->owed_parts -= parts;
	return parts;
}

void hf_schedule_posted(struct hf_schedule *schedule, enum hf_fetch_class class, uint32_t length_bytes,
			uint64_t now_ns, struct hf_schedule_chunk *chunk)
{
	uint64_t *outstanding = schedule->outstanding_bytes;
	if (outstanding[HF_FETCH_URGENT] + outstanding[HF_FETCH_BACKGROUND] == 0) {
		/* The link was idle: that time is not the link's. */
		schedule->landed_ns = now_ns;
		schedule->landed_posted_ns = now_ns;
	}
	*chunk = (struct hf_schedule_chunk){
	    .posted_ns = now_ns,
	    .landed_bytes = schedule->landed_bytes,
	    .landed_ns = schedule->landed_ns,
	    .landed_posted_ns = schedule->landed_posted_ns,
	    .length_bytes = length_bytes,
	    .class = class,
	};
	outstanding[class] += length_bytes;
	if (class == HF_FETCH_URGENT)
		chunk->earned_parts = owe(schedule, (uint64_t)length_bytes * schedule->share_percent);
	else
		chunk->paid_parts = pay(schedule, length_bytes * parts_per_byte(schedule));
}

void hf_schedule_refused(struct hf_schedule *schedule, const struct hf_schedule_chunk *chunk)
{
	assert(schedule->outstanding_bytes[chunk->class] >= chunk->length_bytes);
	schedule->outstanding_bytes[chunk->class] -= chunk->length_bytes;
	if (chunk->class == HF_FETCH_URGENT)
		pay(schedule, chunk->earned_parts);
	else
		owe(schedule, chunk->paid_parts);
}

/* ---- window ------------------------------------------------------------------------------------ */

static uint64_t multiply_divide(uint64_t a, uint64_t b, uint64_t divisor)
{
	return (uint64_t)((unsigned __int128)a * b / divisor);
}

static void set_window(struct hf_schedule *schedule)
{
	uint64_t window =
	    WINDOW_GAIN * multiply_divide(schedule->rate_bytes_per_s, schedule->round_trip_min_ns, NS_PER_S);
	if (window < schedule->window_min_bytes)
		window = schedule->window_min_bytes;
	if (window > schedule->window_max_bytes)
		window = schedule->window_max_bytes;
	schedule->window_bytes = window;
}

/* The time from one event to a later one; 0 if the caller's clocks were read in another order. */
static uint64_t since_ns(uint64_t earlier_ns, uint64_t later_ns)
{
	return later_ns > earlier_ns ? later_ns - earlier_ns : 0;
}

static void sample_rate(struct hf_schedule *schedule, const struct hf_schedule_chunk *chunk, uint64_t now_ns)
{
	uint64_t landing_ns = since_ns(chunk->landed_ns, now_ns);
	uint64_t posting_ns = since_ns(chunk->landed_posted_ns, chunk->posted_ns);
	uint64_t taken_ns = landing_ns > posting_ns ? landing_ns : posting_ns;
	if (taken_ns < schedule->round_trip_min_ns)
		return;
	uint64_t rate = multiply_divide(schedule->landed_bytes - chunk->landed_bytes, NS_PER_S, taken_ns);
	if (rate > schedule->interval_rate_bytes_per_s)
		schedule->interval_rate_bytes_per_s = rate;
	if (rate > schedule->rate_bytes_per_s)
		schedule->rate_bytes_per_s = rate;
}

static void end_interval(struct hf_schedule *schedule, uint64_t now_ns)
{
	uint64_t interval_ns = since_ns(schedule->interval_start_ns, now_ns);
	if (interval_ns < RATE_INTERVAL_NS || interval_ns < schedule->round_trip_min_ns)
		return;
	if (!schedule->interval_limited)
		schedule->rate_bytes_per_s -=
		    (schedule->rate_bytes_per_s - schedule->interval_rate_bytes_per_s) / RATE_EASE;
	schedule->interval_start_ns = now_ns;
	schedule->interval_rate_bytes_per_s = 0;
	schedule->interval_limited = schedule->urgent_pages > 0;
}

static void measure(struct hf_schedule *schedule, const struct hf_schedule_chunk *chunk, uint64_t now_ns)
{
	uint64_t round_trip_ns = since_ns(chunk->posted_ns, now_ns);
	if (round_trip_ns == 0)
		round_trip_ns = 1;
	if (schedule->round_trip_min_ns == 0 || round_trip_ns < schedule->round_trip_min_ns)
		schedule->round_trip_min_ns = round_trip_ns;

	schedule->landed_bytes += chunk->length_bytes;
	sample_rate(schedule, chunk, now_ns);
	schedule->landed_ns = now_ns;
	if (chunk->posted_ns > schedule->landed_posted_ns)
		schedule->landed_posted_ns = chunk->posted_ns;
	end_interval(schedule, now_ns);
	set_window(schedule);
}

void hf_schedule_done(struct hf_schedule *schedule, const struct hf_schedule_chunk *chunk,
		      enum hf_schedule_end end, uint64_t now_ns)
{
	assert(schedule->outstanding_bytes[chunk->class] >= chunk->length_bytes);
	schedule->outstanding_bytes[chunk->class] -= chunk->length_bytes;
	if (end == HF_SCHEDULE_LANDED)
		measure(schedule, chunk, now_ns);
	else if (end == HF_SCHEDULE_LANDED_ZERO)
		schedule->interval_limited = true;
}
