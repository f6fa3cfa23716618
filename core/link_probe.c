/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A thread that faults on an idle link waits for one round trip and for the bytes of its page at the rate of
 * the urgent channels, over which its chunks are striped. Both are measured the way a page is fetched:
 *
 * First, ROUND_TRIPS chunks of the least size, one at a time, fewer where that takes long; the shortest
 * counts, since what makes others longer is not the link.
 *
 * Then, chunks of the migration's own size: DEPTH_FIRST at once, one more for each that has come, up to what
 * the urgent channels hold and DEPTH_MAX_BYTES, so that a slow link is not filled for seconds; and once there
 * is a stretch, up to DEPTH_FACTOR times what its rate puts into a round trip: all that is on its way in the
 * end has to be waited for.
 *
 * That ends as soon as the link is seen to be steady: stretches of at least STRETCH_CHUNKS, STRETCH_TIME_NS
 * and STRETCH_ROUND_TRIPS are compared, and when STRETCHES in a row have rates within an eighth of each other
 * that of all of them is the link's. While a congestion window, or the number of fetches, still grows, a
 * stretch of three round trips carries a multiple of the one before, so a beginning does not pass for a
 * steady link; the very first stretch is never taken. A link that is not steady, or so slow that stretches
 * are long, is measured for RATE_TIME_NS, or RATE_ROUND_TRIPS where those take longer, less when RATE_BYTES
 * have come in each part that counts. The first half does not count.
 *
 * The bytes have no meaning and land in memory of the probe's own, one landing for each fetch that is on its
 * way.
 *
 * A slot's index and generation make the id of its fetch, so a done that is stale, repeated or made up is
 * noticed.
 *
 * As in the engines: lock, decide, mark, unlock, post, and for a fetch the transport did not take, lock,
 * undo.
 */
#include "core/link_probe.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/lock.h"
#include "core/ports_internal.h"
#include "core/wire.h"

#define ROUND_TRIPS	    16u
#define ROUND_TRIPS_LEAST   4u
#define ROUND_TRIPS_TIME_NS 5000000ull
#define STRETCH_TIME_NS	    2000000ull
#define STRETCH_ROUND_TRIPS 3u
#define STRETCH_CHUNKS	    16u
#define STRETCHES	    3u
#define RATE_TIME_NS	    200000000ull
#define RATE_ROUND_TRIPS    12u
#define RATE_BYTES	    (64ull << 20)
#define DEPTH_MAX_BYTES	    (16u << 20)
#define DEPTH_FACTOR	    16u
#define DEPTH_FIRST	    2u
#define INDEX_BITS	    12u /* of an id; the rest is the generation */
#define INDEX_MASK	    ((1u << INDEX_BITS) - 1)
#define NS_PER_S	    1000000000ull

_Static_assert(DEPTH_MAX_BYTES / HF_WIRE_CHUNK_MIN_BYTES <= INDEX_MASK + 1, "each slot has an index");

enum phase { PHASE_ROUND_TRIP = 0, PHASE_RATE, PHASE_DRAIN, PHASE_END };

struct probe_slot {
	uint64_t posted_ns;
	uint32_t generation, length_bytes;
	bool busy;
};

/* A part of the second phase. */
struct stretch {
	uint64_t time_ns, bytes;
};

struct hf_link_probe {
	/* Set at creation. */
	struct hf_clock clock;
	struct hf_transport transport;
	uint64_t epoch;
	uint32_t chunk_bytes, slots_count;
	uint8_t *landings; /* slots_count of them, chunk_bytes each */

	struct hf_lock lock;
	/* Under the lock. */
	enum phase phase;
	struct probe_slot *slots;
	uint32_t depth, depth_max; /* fetches at once in the second phase */
	uint32_t outstanding, round_trips;
	uint64_t offset_bytes; /* in the probe block, of the next fetch */
	uint64_t begin_ns, phase_ns, phase_most_ns, count_from_ns, counted_bytes;
	struct stretch stretches[STRETCHES]; /* the last ones, in a ring */
	uint32_t stretches_count;	     /* all there were */
	uint64_t stretch_from_ns, stretch_bytes;
	uint32_t stretch_chunks;
	uint64_t depth_enough_bytes; /* 0: not known yet */
	bool failed;
	struct hf_err err;
	struct hf_link_figures figures;
};

/* ---- figures ----------------------------------------------------------------------------------- */

uint64_t hf_link_page_stall_ns(const struct hf_link_figures *figures, uint64_t page_size_bytes)
{
	if (figures->rate_bytes_per_s == 0)
		return 0;
	/* Pages are at most 2^34 bytes: times 10^9 fits into 64 bits. */
	return figures->round_trip_ns + page_size_bytes * NS_PER_S / figures->rate_bytes_per_s;
}

const char *hf_link_text(const struct hf_link_figures *figures, char buffer[static HF_LINK_TEXT_BYTES])
{
	double rate = (double)figures->rate_bytes_per_s;
	bool giga = figures->rate_bytes_per_s >= 1000000000;
	snprintf(buffer, HF_LINK_TEXT_BYTES, "%.2f %s, round trip %.3f ms", rate / (giga ? 1e9 : 1e6),
		 giga ? "GB/s" : "MB/s", (double)figures->round_trip_ns / 1e6);
	return buffer;
}

int hf_link_stall_check(const struct hf_link_figures *figures, const struct hf_ramblocks *blocks,
			uint64_t max_page_stall_ns, struct hf_err *err)
{
	for (uint32_t i = 0; max_page_stall_ns && i < blocks->count; i++) {
		const struct hf_ramblock *block = &blocks->blocks[i];
		uint64_t stall_ns = hf_link_page_stall_ns(figures, block->page_size_bytes);
		char size[HF_SIZE_TEXT_BYTES], link[HF_LINK_TEXT_BYTES];
		if (stall_ns > max_page_stall_ns)
			return hf_err_set(
			    err, HF_ERR_LOCAL, ETIME,
			    "block '%s': a thread that needs one of its pages of %s would wait %.1f ms over "
			    "this link (%s), the limit is %.1f ms; use a faster link or more channels, or "
			    "raise "
			    "--max-page-stall",
			    block->idstr, hf_size_text(block->page_size_bytes, size), (double)stall_ns / 1e6,
			    hf_link_text(figures, link), (double)max_page_stall_ns / 1e6);
	}
	return 0;
}

/* ---- source ------------------------------------------------------------------------------------ */

uint8_t *hf_link_probe_block_create(void)
{
	uint8_t *bytes = malloc(HF_LINK_PROBE_BYTES);
	if (bytes)
		memset(bytes, 0xa5, HF_LINK_PROBE_BYTES);
	return bytes;
}

int hf_link_probe_serve(const uint8_t *bytes, const struct hf_serve_request *request,
			struct hf_serve_reply *reply, struct hf_err *err)
{
	if (request->length_bytes == 0 || request->length_bytes > HF_LINK_PROBE_BYTES ||
	    request->offset_bytes > HF_LINK_PROBE_BYTES - request->length_bytes)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "the destination asked for bytes outside the probe block: offset %" PRIu64
				  ", %" PRIu32 " bytes",
				  request->offset_bytes, request->length_bytes);
	*reply = (struct hf_serve_reply){.bytes = bytes + request->offset_bytes};
	return 0;
}

/* ---- posting ----------------------------------------------------------------------------------- */

/* Locked. How many may be on their way now. */
static uint32_t depth_now(const struct hf_link_probe *p)
{
	if (p->failed || p->phase >= PHASE_DRAIN)
		return 0;
	return p->phase == PHASE_ROUND_TRIP ? 1 : p->depth;
}

/* Locked. False when there is nothing to post. */
static bool next_fetch(struct hf_link_probe *p, struct hf_fetch *fetch)
{
	hf_lock_assert_held(&p->lock);
	if (p->outstanding >= depth_now(p))
		return false;
	uint32_t index = 0;
	while (p->slots[index].busy)
		index++;
	uint32_t length = p->phase == PHASE_ROUND_TRIP ? HF_WIRE_CHUNK_MIN_BYTES : p->chunk_bytes;
	if (p->offset_bytes > HF_LINK_PROBE_BYTES - length)
		p->offset_bytes = 0;
	uint32_t generation = p->slots[index].generation + 1;
	*fetch = (struct hf_fetch){
	    .id = generation << INDEX_BITS | index,
	    .epoch = p->epoch,
	    .block = HF_WIRE_PROBE_BLOCK,
	    .length_bytes = length,
	    .offset_bytes = p->offset_bytes,
	    .class = HF_FETCH_URGENT,
	    .landing = p->landings + (size_t)index * p->chunk_bytes,
	};
	p->slots[index] = (struct probe_slot){.posted_ns = hf_clock_now_ns(&p->clock),
					      .generation = generation,
					      .length_bytes = length,
					      .busy = true};
	p->offset_bytes += length;
	p->outstanding++;
	return true;
}

/* Locked. */
static void fail(struct hf_link_probe *p, enum hf_err_class class, int errnum, const char *text)
{
	hf_lock_assert_held(&p->lock);
	if (!p->failed)
		hf_err_set(&p->err, class, errnum, "the link could not be measured: %s", text);
	p->failed = true;
}

/* Locked. The transport did not take it, so no done comes. */
static void take_back(struct hf_link_probe *p, const struct hf_fetch *fetch, int result)
{
	hf_lock_assert_held(&p->lock);
	p->slots[fetch->id & INDEX_MASK].busy = false;
	p->outstanding--;
	if (result != -EAGAIN)
		fail(p, HF_ERR_LINK, -result, "it takes no fetch");
	else if (p->outstanding == 0)
		fail(p, HF_ERR_LOCAL, EAGAIN, "it takes no fetch although none is on its way");
	else
		p->depth = p->depth_max = p->outstanding; /* it holds no more at once */
}

/* Locked. Told once. */
static enum hf_link_probe_end end_of(struct hf_link_probe *p, struct hf_err *err)
{
	hf_lock_assert_held(&p->lock);
	if (p->outstanding > 0 || p->phase == PHASE_END || (!p->failed && p->phase != PHASE_DRAIN))
		return HF_LINK_PROBE_RUNS;
	p->phase = PHASE_END;
	free(p->landings); /* none is on its way: all of this is the migration's again */
	p->landings = NULL;
	if (!p->failed)
		return HF_LINK_PROBE_FINISHED;
	if (err)
		*err = p->err;
	return HF_LINK_PROBE_FAILED;
}

static enum hf_link_probe_end pump(struct hf_link_probe *p, struct hf_err *err)
{
	struct hf_fetch fetch;
	hf_lock(&p->lock);
	while (next_fetch(p, &fetch)) {
		hf_unlock(&p->lock);
		int result = hf_transport_fetch(&p->transport, &fetch);
		hf_lock(&p->lock);
		if (result < 0)
			take_back(p, &fetch, result);
	}
	enum hf_link_probe_end end = end_of(p, err);
	hf_unlock(&p->lock);
	return end;
}

/* ---- measuring --------------------------------------------------------------------------------- */

/* Locked. */
static void begin_rate(struct hf_link_probe *p, uint64_t now_ns)
{
	hf_lock_assert_held(&p->lock);
	p->phase = PHASE_RATE;
	p->phase_ns = p->stretch_from_ns = now_ns;
	p->phase_most_ns = RATE_ROUND_TRIPS * p->figures.round_trip_ns;
	if (p->phase_most_ns < RATE_TIME_NS)
		p->phase_most_ns = RATE_TIME_NS;
	p->count_from_ns = 0;
}

/* Bytes a second; no less than 1. Less than 2^40 bytes: times 10^6 fits. */
static uint64_t rate_of(uint64_t bytes, uint64_t time_ns)
{
	return bytes * 1000000 / (time_ns / 1000 + 1) + 1;
}

/* Locked. */
static void end_rate(struct hf_link_probe *p, uint64_t bytes, uint64_t time_ns)
{
	hf_lock_assert_held(&p->lock);
	p->figures.rate_bytes_per_s = rate_of(bytes, time_ns);
	p->phase = PHASE_DRAIN;
}

/* Locked. All of the ring, which does not hold the first one any more. */
static bool is_steady(const struct hf_link_probe *p, struct stretch *all)
{
	uint64_t least = UINT64_MAX, most = 0;
	*all = (struct stretch){0};
	if (p->stretches_count <= STRETCHES)
		return false;
	for (uint32_t i = 0; i < STRETCHES; i++) {
		uint64_t rate = rate_of(p->stretches[i].bytes, p->stretches[i].time_ns);
		least = rate < least ? rate : least;
		most = rate > most ? rate : most;
		all->bytes += p->stretches[i].bytes;
		all->time_ns += p->stretches[i].time_ns;
	}
	return most - least <= most / 8;
}

/* Locked. A chunk of the second phase has come: does a stretch end with it, and the phase with the stretch?
 */
static bool count_stretch(struct hf_link_probe *p, uint32_t length_bytes, uint64_t now_ns)
{
	hf_lock_assert_held(&p->lock);
	uint64_t time_ns = now_ns - p->stretch_from_ns;
	p->stretch_bytes += length_bytes;
	if (++p->stretch_chunks < STRETCH_CHUNKS || time_ns < STRETCH_TIME_NS ||
	    time_ns < STRETCH_ROUND_TRIPS * p->figures.round_trip_ns)
		return false;
	p->stretches[p->stretches_count++ % STRETCHES] = (struct stretch){time_ns, p->stretch_bytes};
	p->depth_enough_bytes = DEPTH_FACTOR * p->stretch_bytes * p->figures.round_trip_ns / time_ns;
	p->stretch_from_ns = now_ns;
	p->stretch_bytes = p->stretch_chunks = 0;
	struct stretch all;
	if (!is_steady(p, &all))
		return false;
	end_rate(p, all.bytes, all.time_ns);
	return true;
}

/* Locked. A chunk of the second phase has come. */
static void count_rate(struct hf_link_probe *p, uint32_t length_bytes, uint64_t now_ns)
{
	hf_lock_assert_held(&p->lock);
	uint64_t phase_ns = now_ns - p->phase_ns;
	bool enough_depth =
	    p->depth_enough_bytes && (uint64_t)p->depth * p->chunk_bytes >= p->depth_enough_bytes;
	if (p->depth < p->depth_max && !enough_depth)
		p->depth++;
	if (count_stretch(p, length_bytes, now_ns))
		return;
	p->counted_bytes += length_bytes;
	if (p->count_from_ns == 0) {
		if (phase_ns >= p->phase_most_ns / 2 || p->counted_bytes >= RATE_BYTES) {
			p->count_from_ns = now_ns;
			p->counted_bytes = 0;
		}
		return;
	}
	uint64_t counted_ns = now_ns - p->count_from_ns;
	/* A whole half: bytes that waited for a thread without a processor must not pass for a fast link. */
	bool enough = counted_ns >= p->phase_most_ns / 2 || p->counted_bytes >= RATE_BYTES;
	if (enough && counted_ns > 0)
		end_rate(p, p->counted_bytes, counted_ns);
}

/* Locked. */
static void count_round_trip(struct hf_link_probe *p, uint64_t round_trip_ns, uint64_t now_ns)
{
	hf_lock_assert_held(&p->lock);
	if (round_trip_ns == 0)
		round_trip_ns = 1;
	if (p->figures.round_trip_ns == 0 || round_trip_ns < p->figures.round_trip_ns)
		p->figures.round_trip_ns = round_trip_ns;
	p->round_trips++;
	bool long_enough = p->round_trips >= ROUND_TRIPS_LEAST && now_ns - p->begin_ns >= ROUND_TRIPS_TIME_NS;
	if (p->round_trips == ROUND_TRIPS || long_enough)
		begin_rate(p, now_ns);
}

enum hf_link_probe_end hf_link_probe_start(struct hf_link_probe *p, struct hf_err *err)
{
	hf_lock(&p->lock);
	p->begin_ns = hf_clock_now_ns(&p->clock);
	hf_unlock(&p->lock);
	return pump(p, err);
}

/* Locked. NULL for a done that belongs to no fetch on its way. */
static struct probe_slot *slot_of_done(struct hf_link_probe *p, const struct hf_fetch_done *done)
{
	hf_lock_assert_held(&p->lock);
	uint32_t id = (uint32_t)done->id, index = id & INDEX_MASK;
	if (!hf_link_probe_owns(done->id) || done->epoch != p->epoch || index >= p->slots_count)
		return NULL;
	struct probe_slot *slot = &p->slots[index];
	bool same = (slot->generation << INDEX_BITS | index) == id;
	return slot->busy && same ? slot : NULL;
}

enum hf_link_probe_end hf_link_probe_done(struct hf_link_probe *p, const struct hf_fetch_done *done,
					  struct hf_err *err)
{
	hf_lock(&p->lock);
	uint64_t now_ns = hf_clock_now_ns(&p->clock); // here: times that are compared do not go back
	struct probe_slot *slot = slot_of_done(p, done);
	if (!slot) {
		hf_unlock(&p->lock);
		return HF_LINK_PROBE_RUNS;
	}
	slot->busy = false;
	p->outstanding--;
	if (done->status != HF_FETCH_OK)
		fail(p, HF_ERR_LINK, ECONNRESET, "it was lost");
	else if (done->zero)
		fail(p, HF_ERR_PEER, EPROTO, "the source answered a probe with zeros");
	else if (p->phase == PHASE_ROUND_TRIP)
		count_round_trip(p, now_ns - slot->posted_ns, now_ns);
	else if (p->phase == PHASE_RATE)
		count_rate(p, slot->length_bytes, now_ns);
	hf_unlock(&p->lock);
	return pump(p, err);
}

struct hf_link_figures hf_link_probe_figures(struct hf_link_probe *p)
{
	hf_lock(&p->lock);
	struct hf_link_figures figures = p->figures;
	hf_unlock(&p->lock);
	return figures;
}

/* ---- creation ---------------------------------------------------------------------------------- */

int hf_link_probe_create(struct hf_link_probe **out, const struct hf_clock *clock,
			 const struct hf_transport *transport, const struct hf_link_info *link,
			 uint32_t chunk_bytes)
{
	struct hf_link_probe *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	p->clock = *clock;
	p->transport = *transport;
	p->epoch = link->epoch;
	p->chunk_bytes = chunk_bytes < HF_LINK_PROBE_BYTES ? chunk_bytes : HF_LINK_PROBE_BYTES;
	p->depth_max = DEPTH_MAX_BYTES / p->chunk_bytes;
	if (p->depth_max > link->capacity_chunks[HF_FETCH_URGENT])
		p->depth_max = link->capacity_chunks[HF_FETCH_URGENT];
	p->depth = p->depth_max < DEPTH_FIRST ? p->depth_max : DEPTH_FIRST;
	p->slots_count = p->depth_max;
	hf_lock_init(&p->lock, "hf_link_probe.lock", HF_RANK_LINK_PROBE);
	p->landings = malloc((size_t)p->slots_count * p->chunk_bytes);
	p->slots = calloc(p->slots_count, sizeof(*p->slots));
	if (!p->landings || !p->slots) {
		hf_link_probe_destroy(p);
		return -ENOMEM;
	}
	*out = p;
	return 0;
}

void hf_link_probe_destroy(struct hf_link_probe *p)
{
	if (!p)
		return;
	hf_lock_destroy(&p->lock);
	free(p->landings);
	free(p->slots);
	free(p);
}
