/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measuring the link: on a link whose round trip and rate are known the figures must be those; before
 * anything stops; and whoever answers nonsense is found out.
 */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/link_check.h"
#include "core/link_probe.h"

#define MS 1000000ull

/* ---- a link with known figures ----------------------------------------------------------------- */

#define TOY_FETCHES_MAX 64u
#define TOY_BEGIN_NS	(5000 * MS)

struct toy_link {
	uint64_t now_ns, round_trip_ns, rate_bytes_per_s, free_ns;
	/* NULL: always that rate; else what it is at this time after the beginning. */
	uint64_t (*rate_at)(const struct toy_link *toy, uint64_t after_ns);
	struct hf_link_info info;
	struct hf_fetch fetches[TOY_FETCHES_MAX]; /* oldest first */
	uint64_t arrives_ns[TOY_FETCHES_MAX];
	uint32_t fetches_count, most_at_once;
	uint64_t fetched_bytes;
	int refuse_with; /* fetches above `capacity` */
	uint32_t capacity;
};

static uint64_t toy_now(void *self)
{
	return ((struct toy_link *)self)->now_ns;
}

static int toy_fetch(void *self, const struct hf_fetch *fetch)
{
	struct toy_link *toy = self;
	assert_int_equal(fetch->block, HF_WIRE_PROBE_BLOCK);
	assert_int_equal(fetch->class, HF_FETCH_URGENT);
	assert_true(fetch->offset_bytes + fetch->length_bytes <= HF_LINK_PROBE_BYTES);
	assert_true(hf_link_probe_owns(fetch->id));
	if (toy->fetches_count >= toy->capacity)
		return toy->refuse_with;
	for (uint32_t i = 0; i < toy->fetches_count; i++)
		assert_ptr_not_equal(toy->fetches[i].landing, fetch->landing);
	memset(fetch->landing, 1, fetch->length_bytes); /* the memory is there */

	uint64_t start_ns = toy->now_ns + toy->round_trip_ns;
	if (start_ns < toy->free_ns)
		start_ns = toy->free_ns;
	uint64_t rate = toy->rate_at ? toy->rate_at(toy, start_ns - TOY_BEGIN_NS) : toy->rate_bytes_per_s;
	toy->free_ns = start_ns + fetch->length_bytes * 1000000000ull / rate;
	toy->arrives_ns[toy->fetches_count] = toy->free_ns;
	toy->fetches[toy->fetches_count++] = *fetch;
	if (toy->fetches_count > toy->most_at_once)
		toy->most_at_once = toy->fetches_count;
	return 0;
}

static struct hf_fetch_done toy_next(struct toy_link *toy, enum hf_fetch_status status, bool zero)
{
	assert_true(toy->fetches_count > 0);
	struct hf_fetch_done done = {
	    .id = toy->fetches[0].id, .epoch = toy->info.epoch, .status = status, .zero = zero};
	toy->now_ns = toy->arrives_ns[0];
	toy->fetched_bytes += toy->fetches[0].length_bytes;
	toy->fetches_count--;
	memmove(&toy->fetches[0], &toy->fetches[1], toy->fetches_count * sizeof(toy->fetches[0]));
	memmove(&toy->arrives_ns[0], &toy->arrives_ns[1], toy->fetches_count * sizeof(toy->arrives_ns[0]));
	return done;
}

static const struct hf_transport_ops toy_ops = {.fetch = toy_fetch};

static struct hf_link_probe *toy_probe(struct toy_link *toy, uint32_t chunk_bytes)
{
	struct hf_clock clock = {.now_ns = toy_now, .self = toy};
	struct hf_transport transport = {.ops = &toy_ops, .self = toy};
	struct hf_link_probe *probe = NULL;
	toy->now_ns = TOY_BEGIN_NS;
	toy->info.epoch = 3;
	if (!toy->capacity)
		toy->capacity = TOY_FETCHES_MAX;
	toy->info.capacity_chunks[HF_FETCH_URGENT] = TOY_FETCHES_MAX;
	assert_int_equal(hf_link_probe_create(&probe, &clock, &transport, &toy->info, chunk_bytes), 0);
	return probe;
}

static enum hf_link_probe_end toy_run(struct toy_link *toy, struct hf_link_probe *probe, struct hf_err *err)
{
	enum hf_link_probe_end end = hf_link_probe_start(probe, err);
	while (end == HF_LINK_PROBE_RUNS) {
		struct hf_fetch_done done = toy_next(toy, HF_FETCH_OK, false);
		end = hf_link_probe_done(probe, &done, err);
	}
	assert_int_equal(toy->fetches_count, 0);
	return end;
}

static void the_figures_are_those_of_the_link(void **state)
{
	(void)state;
	static const struct {
		uint64_t round_trip_ns, rate_bytes_per_s;
	} links[] = {{20000, 12500000000},
		     {200000, 1250000000},
		     {1 * MS, 125000000},
		     {50 * MS, 1250000},
		     {100 * MS, 125000000}};
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
		struct toy_link toy = {.round_trip_ns = links[i].round_trip_ns,
				       .rate_bytes_per_s = links[i].rate_bytes_per_s};
		struct hf_link_probe *probe = toy_probe(&toy, 256 << 10);
		assert_int_equal(toy_run(&toy, probe, NULL), HF_LINK_PROBE_FINISHED);
		struct hf_link_figures figures = hf_link_probe_figures(probe);
		/* A chunk of 4 KiB is part of the round trip. */
		uint64_t round_trip_ns = toy.round_trip_ns + 4096 * 1000000000ull / toy.rate_bytes_per_s;
		assert_in_range(figures.round_trip_ns, round_trip_ns - 1, round_trip_ns + 1);
		/* What is in flight bounds the rate on long links, as it would bound a page's. */
		uint64_t window_rate = (16ull << 20) * 1000000000ull / (toy.round_trip_ns + 1);
		uint64_t rate = toy.rate_bytes_per_s < window_rate ? toy.rate_bytes_per_s : window_rate;
		assert_in_range(figures.rate_bytes_per_s, rate - rate / 8, rate + rate / 20);
		hf_link_probe_destroy(probe);
	}
}

static void a_steady_link_is_soon_known(void **state)
{
	(void)state;
	static const struct {
		uint64_t round_trip_ns, rate_bytes_per_s, limit_ns;
	} links[] = {{20000, 12500000000, 12 * MS},
		     {200000, 1250000000, 25 * MS},
		     {200000, 625000000, 40 * MS},
		     {100 * MS, 125000000, 2000 * MS}};
	for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++) {
		struct toy_link toy = {.round_trip_ns = links[i].round_trip_ns,
				       .rate_bytes_per_s = links[i].rate_bytes_per_s};
		struct hf_link_probe *probe = toy_probe(&toy, 256 << 10);
		assert_int_equal(toy_run(&toy, probe, NULL), HF_LINK_PROBE_FINISHED);
		assert_in_range(toy.now_ns - TOY_BEGIN_NS, 1, links[i].limit_ns);
		hf_link_probe_destroy(probe);
	}
}

/* As a congestion window does: twice as much each round trip. */
static uint64_t growing(const struct toy_link *toy, uint64_t after_ns)
{
	uint64_t rate = toy->rate_bytes_per_s / 256;
	for (uint64_t trip = 0; trip < after_ns / toy->round_trip_ns && rate < toy->rate_bytes_per_s; trip++)
		rate *= 2;
	return rate < toy->rate_bytes_per_s ? rate : toy->rate_bytes_per_s;
}

/* In the mean two thirds of it. */
static uint64_t swaying(const struct toy_link *toy, uint64_t after_ns)
{
	return after_ns / (15 * MS) % 2 ? toy->rate_bytes_per_s : toy->rate_bytes_per_s / 3;
}

static uint64_t figure_of(struct toy_link *toy, uint32_t chunk_bytes)
{
	struct hf_link_probe *probe = toy_probe(toy, chunk_bytes);
	assert_int_equal(toy_run(toy, probe, NULL), HF_LINK_PROBE_FINISHED);
	uint64_t rate = hf_link_probe_figures(probe).rate_bytes_per_s;
	hf_link_probe_destroy(probe);
	return rate;
}

static void a_link_that_gets_faster_is_measured_when_it_does_not_any_more(void **state)
{
	(void)state;
	static const uint64_t round_trips_ns[] = {200000, 1 * MS, 2 * MS};
	for (size_t i = 0; i < 3; i++) {
		struct toy_link toy = {
		    .round_trip_ns = round_trips_ns[i], .rate_bytes_per_s = 1250000000, .rate_at = growing};
		assert_in_range(figure_of(&toy, 64 << 10), 1150000000, 1300000000);
	}
}

static void a_link_that_is_never_steady_is_measured_to_the_end(void **state)
{
	(void)state;
	struct toy_link toy = {.round_trip_ns = 200000, .rate_bytes_per_s = 600000000, .rate_at = swaying};
	assert_in_range(figure_of(&toy, 256 << 10), 320000000, 480000000);
	assert_in_range(toy.now_ns - TOY_BEGIN_NS, 180 * MS, 260 * MS);
}

static void a_page_takes_the_round_trip_and_its_bytes(void **state)
{
	(void)state;
	struct hf_link_figures figures = {.round_trip_ns = 200000, .rate_bytes_per_s = 1 << 30};
	assert_int_equal(hf_link_page_stall_ns(&figures, 1 << 30), 1000200000);
	assert_int_equal(hf_link_page_stall_ns(&figures, 1ull << 34), 16000200000);
	figures.rate_bytes_per_s = 0;
	assert_int_equal(hf_link_page_stall_ns(&figures, 1 << 30), 0);
}

static void a_link_that_holds_less_than_it_says_is_measured_with_what_it_holds(void **state)
{
	(void)state;
	struct toy_link toy = {
	    .round_trip_ns = 20000, .rate_bytes_per_s = 1250000000, .capacity = 3, .refuse_with = -EAGAIN};
	struct hf_link_probe *probe = toy_probe(&toy, 256 << 10);
	assert_int_equal(toy_run(&toy, probe, NULL), HF_LINK_PROBE_FINISHED);
	assert_int_equal(toy.most_at_once, 3);
	hf_link_probe_destroy(probe);
}

static void a_link_that_takes_nothing_fails_the_probe_once(void **state)
{
	(void)state;
	static const int refusals[] = {-EAGAIN, -ENOTCONN};
	for (size_t i = 0; i < 2; i++) {
		struct toy_link toy = {.round_trip_ns = 1, .rate_bytes_per_s = 1 << 30};
		struct hf_link_probe *probe = toy_probe(&toy, 4096);
		struct hf_err err = HF_ERR_INIT;
		toy.capacity = 0;
		toy.refuse_with = refusals[i];
		assert_int_equal(hf_link_probe_start(probe, &err), HF_LINK_PROBE_FAILED);
		assert_int_equal(err.errnum, -refusals[i]);
		hf_link_probe_destroy(probe);
	}
}

static void zeros_or_a_lost_chunk_fail_the_probe_after_the_last_one(void **state)
{
	(void)state;
	for (int zero = 0; zero < 2; zero++) {
		struct toy_link toy = {.round_trip_ns = 20000, .rate_bytes_per_s = 1250000000};
		struct hf_link_probe *probe = toy_probe(&toy, 256 << 10);
		struct hf_err err = HF_ERR_INIT;
		assert_int_equal(hf_link_probe_start(probe, &err), HF_LINK_PROBE_RUNS);
		while (toy.fetches_count < 2) {
			struct hf_fetch_done done = toy_next(&toy, HF_FETCH_OK, false);
			assert_int_equal(hf_link_probe_done(probe, &done, &err), HF_LINK_PROBE_RUNS);
		}
		struct hf_fetch_done bad = toy_next(&toy, zero ? HF_FETCH_OK : HF_FETCH_FAILED, zero);
		while (toy.fetches_count > 0) {
			assert_int_equal(hf_link_probe_done(probe, &bad, &err), HF_LINK_PROBE_RUNS);
			bad = toy_next(&toy, HF_FETCH_OK, false);
		}
		assert_int_equal(hf_link_probe_done(probe, &bad, &err), HF_LINK_PROBE_FAILED);
		assert_int_equal(err.class, zero ? HF_ERR_PEER : HF_ERR_LINK);
		assert_int_equal(hf_link_probe_done(probe, &bad, &err), HF_LINK_PROBE_RUNS);
		hf_link_probe_destroy(probe);
	}
}

static void dones_that_are_stale_or_made_up_are_dropped(void **state)
{
	(void)state;
	struct toy_link toy = {.round_trip_ns = 20000, .rate_bytes_per_s = 1250000000};
	struct hf_link_probe *probe = toy_probe(&toy, 256 << 10);
	assert_int_equal(hf_link_probe_start(probe, NULL), HF_LINK_PROBE_RUNS);
	uint64_t id = toy.fetches[0].id;
	struct hf_fetch_done old = {.id = id, .epoch = 2, .status = HF_FETCH_OK, .zero = true};
	struct hf_fetch_done idle = {.id = id + 1, .epoch = 3, .status = HF_FETCH_OK, .zero = true};
	struct hf_fetch_done none = {.id = UINT32_MAX, .epoch = 3, .status = HF_FETCH_OK, .zero = true};
	assert_int_equal(hf_link_probe_done(probe, &old, NULL), HF_LINK_PROBE_RUNS);
	assert_int_equal(hf_link_probe_done(probe, &idle, NULL), HF_LINK_PROBE_RUNS);
	assert_int_equal(hf_link_probe_done(probe, &none, NULL), HF_LINK_PROBE_RUNS);
	struct hf_fetch_done earlier = {.id = id - 4096, .epoch = 3, .status = HF_FETCH_OK, .zero = true};
	assert_int_equal(hf_link_probe_done(probe, &earlier, NULL), HF_LINK_PROBE_RUNS);
	assert_int_equal(toy.fetches_count, 1);
	struct hf_fetch_done first = toy_next(&toy, HF_FETCH_OK, false);
	enum hf_link_probe_end end = hf_link_probe_done(probe, &first, NULL);
	while (end == HF_LINK_PROBE_RUNS) {
		struct hf_fetch_done done = toy_next(&toy, HF_FETCH_OK, false);
		end = hf_link_probe_done(probe, &done, NULL);
	}
	assert_int_equal(end, HF_LINK_PROBE_FINISHED);
	hf_link_probe_destroy(probe);
}

/* ---- in a migration ---------------------------------------------------------------------------- */

static void measure(struct rig *rig)
{
	while (rig->fetches_count > 0) {
		rig->now_ns += 10 * MS;
		rig_land_oldest(rig);
	}
}

static void the_link_is_measured_before_the_memory_is_prepared(void **state)
{
	struct rig *rig = *state;
	rig->link.features = HF_WIRE_FEATURE_LINK;
	rig_destination_at(rig, AT_SETUP);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_expect(rig, "fetch urgent probe");
	measure(rig);
	assert_true(rig_called(rig, "send LINK"));
	assert_true(rig_called(rig, "prepare"));
	assert_string_equal(rig->calls[rig->calls_made - 1], "prepare");
	assert_string_equal(rig->calls[rig->calls_made - 2], "send LINK");
	struct hf_wire_link link;
	assert_int_equal(
	    hf_wire_decode_link(rig->sent[HF_WIRE_LINK].payload, rig->sent[HF_WIRE_LINK].bytes, &link, NULL),
	    0);
	assert_int_equal(link.round_trip_ns, 10 * MS);
	assert_int_equal(rig_snapshot(rig).link.rate_bytes_per_s, link.rate_bytes_per_s);
	rig_reach(rig, AT_ADVISE, AT_COMPLETED);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void a_page_that_would_take_too_long_is_refused_before_anything_stops(void **state)
{
	struct rig *rig = *state;
	rig->link.features = HF_WIRE_FEATURE_LINK;
	rig->destination_config.max_page_stall_ns = 11 * MS; /* 4 KiB in each 10 ms */
	rig_destination_at(rig, AT_SETUP);
	rig_hear(rig, HF_WIRE_ADVISE);
	measure(rig);
	assert_false(rig_called(rig, "prepare"));
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
	struct hf_err why = rig_sent_fail(rig);
	assert_non_null(strstr(why.text, "block 'ram'"));
	assert_non_null(strstr(why.text, "16 KiB"));
	assert_non_null(strstr(why.text, "limit is 11.0 ms"));
	assert_int_equal(rig->vm_requests, 0);
}

static void a_limit_that_cannot_be_checked_is_refused(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.max_page_stall_ns = 1000 * MS;
	rig_destination_at(rig, AT_SETUP);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_expect(rig, "send FAIL");
	assert_non_null(strstr(rig_snapshot(rig).err.text, "--max-page-stall"));
}

static void a_link_lost_while_it_is_measured_fails_the_migration(void **state)
{
	struct rig *rig = *state;
	rig->link.features = HF_WIRE_FEATURE_LINK;
	rig_destination_at(rig, AT_SETUP);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_link_down(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
	assert_false(rig_called(rig, "prepare"));
}

static void a_cancel_while_the_link_is_measured_prepares_nothing(void **state)
{
	struct rig *rig = *state;
	rig->link.features = HF_WIRE_FEATURE_LINK;
	rig_destination_at(rig, AT_SETUP);
	rig_hear(rig, HF_WIRE_ADVISE);
	assert_int_equal(hf_destination_cancel(rig->destination, NULL), 0);
	measure(rig);
	assert_false(rig_called(rig, "prepare"));
	assert_false(rig_called(rig, "send LINK"));
}

/* ---- source ------------------------------------------------------------------------------------ */

static int serve_probe(struct rig *rig, uint64_t offset_bytes, uint32_t length_bytes)
{
	struct hf_serve_request request = {.epoch = RIG_EPOCH,
					   .block = HF_WIRE_PROBE_BLOCK,
					   .offset_bytes = offset_bytes,
					   .length_bytes = length_bytes};
	struct hf_serve_reply reply = {0};
	struct hf_err err = HF_ERR_INIT;
	int result = hf_source_events.serve(rig->source, &request, &reply, &err);
	if (result) {
		assert_int_equal(err.class, HF_ERR_PEER);
		return result;
	}
	assert_false(reply.zero);
	const uint8_t *bytes = reply.bytes;
	uint32_t sum = 0;
	for (uint32_t i = 0; i < length_bytes; i++)
		sum |= bytes[i]; /* all of them can be read */
	assert_true(sum != 0);
	return 0;
}

static void the_probe_block_is_served_from_link_up_to_ready(void **state)
{
	struct rig *rig = *state;
	rig->link.features = HF_WIRE_FEATURE_LINK;
	rig_source_at(rig, SOURCE_SETUP);
	assert_int_equal(serve_probe(rig, 0, 4096), 0);
	assert_int_equal(serve_probe(rig, 0, HF_LINK_PROBE_BYTES), 0);
	assert_int_equal(serve_probe(rig, HF_LINK_PROBE_BYTES - 4096, 4096), 0);
	assert_int_equal(serve_probe(rig, HF_LINK_PROBE_BYTES, 4096), -EPROTO);
	assert_int_equal(serve_probe(rig, 4096, 0), -EPROTO);
	assert_int_equal(serve_probe(rig, 4096, HF_LINK_PROBE_BYTES), -EPROTO);
	assert_int_equal(serve_probe(rig, UINT64_MAX - 4095, 4096), -EPROTO);
	rig_hear(rig, HF_WIRE_LINK);
	rig_source_reach(rig, SOURCE_SETUP, SOURCE_STOPPING);
	assert_int_equal(serve_probe(rig, 0, 4096), -EPROTO);
	rig_source_reach(rig, SOURCE_STOPPING, SOURCE_DEVICE);
	assert_int_equal(serve_probe(rig, 0, 4096), -EPROTO);
}

static void without_the_feature_no_probe_is_served_and_no_link_heard(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_SETUP);
	assert_int_equal(serve_probe(rig, 0, 4096), -EPROTO);
	rig_hear(rig, HF_WIRE_LINK);
	rig_expect(rig, "send FAIL");
}

static void link_is_said_once_and_before_ready(void **state)
{
	struct rig *rig = *state;
	rig->link.features = HF_WIRE_FEATURE_LINK;
	rig_source_at(rig, SOURCE_SETUP);
	rig_hear(rig, HF_WIRE_LINK);
	assert_int_equal(rig_source_snapshot(rig).link.rate_bytes_per_s, 1250000000);
	rig_hear(rig, HF_WIRE_LINK);
	rig_expect(rig, "send FAIL");

	struct rig *other = rig_create();
	other->link.features = HF_WIRE_FEATURE_LINK;
	rig_source_at(other, SOURCE_SETUP);
	rig_hear(other, HF_WIRE_READY);
	rig_expect(other, "send FAIL");
	rig_destroy(other);
}

static void the_sources_operator_may_refuse_a_slow_link_too(void **state)
{
	struct rig *rig = *state;
	rig->link.features = HF_WIRE_FEATURE_LINK;
	rig->source_config.max_page_stall_ns = 210000; /* of it 200000 are the round trip */
	rig_source_at(rig, SOURCE_SETUP);
	rig_hear(rig, HF_WIRE_LINK);
	rig_expect(rig, "send FAIL");
	assert_non_null(strstr(rig_source_snapshot(rig).err.text, "block 'ram'"));
	assert_int_equal(rig->vm_requests, 0);

	struct rig *older = rig_create();
	older->source_config.max_page_stall_ns = 1000 * MS;
	rig_source_at(older, SOURCE_SETUP);
	rig_hear(older, HF_WIRE_READY);
	rig_expect(older, "send FAIL");
	assert_non_null(strstr(rig_source_snapshot(older).err.text, "--max-page-stall"));
	rig_destroy(older);
}

/* ---- a session that only measures -------------------------------------------------------------- */

struct check_rig {
	struct toy_link toy;
	struct hf_link_check *check;
	uint32_t sent[RIG_TYPES], notified;
	uint8_t payload[RIG_PAYLOAD_BYTES]; /* of the last message */
	size_t payload_bytes;
};

static int check_fetch(void *self, const struct hf_fetch *fetch)
{
	return toy_fetch(&((struct check_rig *)self)->toy, fetch);
}

static int check_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	struct check_rig *rig = self;
	assert_int_equal(epoch, 3);
	rig->sent[type]++;
	rig->payload_bytes = bytes;
	if (bytes)
		memcpy(rig->payload, payload, bytes);
	return 0;
}

static void check_notify(void *opaque)
{
	((struct check_rig *)opaque)->notified++;
}

static const struct hf_transport_ops check_ops = {.fetch = check_fetch, .send = check_send};

static void check_create(struct check_rig *rig, const struct hf_transport_events *events, uint64_t features)
{
	*rig = (struct check_rig){
	    .toy = {.round_trip_ns = 200000, .rate_bytes_per_s = 1250000000, .now_ns = 1, .capacity = 64}};
	rig->toy.info = (struct hf_link_info){.epoch = 3, .capacity_chunks = {64, 64}, .features = features};
	struct hf_link_check_config config = {
	    .name = "there",
	    .clock = {.now_ns = toy_now, .self = &rig->toy},
	    .transport = {.ops = &check_ops, .self = rig},
	    .max_page_stall_ns = 7,
	    .notify = check_notify,
	    .opaque = rig,
	};
	assert_int_equal(hf_link_check_create(&rig->check, &config, NULL), 0);
	events->link_up(rig->check, &rig->toy.info);
}

static struct hf_link_check_snapshot check_snapshot(struct check_rig *rig)
{
	struct hf_link_check_snapshot snapshot;
	hf_link_check_snapshot(rig->check, &snapshot);
	return snapshot;
}

#define BOTH (HF_WIRE_FEATURE_LINK | HF_WIRE_FEATURE_CHECK)

static void a_check_measures_and_tells_both_sides(void **state)
{
	(void)state;
	const struct hf_transport_events *there = &hf_link_check_destination_events;
	const struct hf_transport_events *here = &hf_link_check_source_events;
	struct check_rig destination, source;
	check_create(&source, here, BOTH);
	assert_int_equal(source.sent[HF_WIRE_CHECK], 1);

	check_create(&destination, there, BOTH);
	there->message(destination.check, 3, HF_WIRE_CHECK, NULL, 0);
	while (destination.toy.fetches_count > 0) {
		struct hf_serve_request request = {.block = destination.toy.fetches[0].block,
						   .offset_bytes = destination.toy.fetches[0].offset_bytes,
						   .length_bytes = destination.toy.fetches[0].length_bytes};
		struct hf_serve_reply reply;
		assert_int_equal(here->serve(source.check, &request, &reply, NULL), 0);
		struct hf_fetch_done done = toy_next(&destination.toy, HF_FETCH_OK, false);
		there->fetch_done(destination.check, &done);
	}
	assert_int_equal(destination.sent[HF_WIRE_LINK], 1);
	assert_true(check_snapshot(&destination).ended);
	assert_int_equal(destination.notified, 1);

	here->message(source.check, 3, HF_WIRE_LINK, destination.payload, destination.payload_bytes);
	struct hf_link_check_snapshot snapshot = check_snapshot(&source);
	assert_true(snapshot.ended);
	assert_int_equal(snapshot.err.class, HF_ERR_NONE);
	assert_int_equal(snapshot.max_page_stall_ns, 7);
	assert_int_equal(snapshot.figures.rate_bytes_per_s,
			 check_snapshot(&destination).figures.rate_bytes_per_s);
	/* The end of the link is no failure any more. */
	here->link_down(source.check, 3, NULL);
	there->link_down(destination.check, 3, NULL);
	assert_int_equal(check_snapshot(&source).err.class, HF_ERR_NONE);
	assert_int_equal(check_snapshot(&destination).err.class, HF_ERR_NONE);
	assert_int_equal(source.notified, 1);
	hf_link_check_destroy(source.check);
	hf_link_check_destroy(destination.check);
}

static void a_destination_of_another_release_is_told_apart(void **state)
{
	(void)state;
	struct check_rig source;
	check_create(&source, &hf_link_check_source_events, HF_WIRE_FEATURE_LINK);
	assert_int_equal(source.sent[HF_WIRE_CHECK], 0);
	assert_non_null(strstr(check_snapshot(&source).err.text, "same release"));
	hf_link_check_destroy(source.check);
}

static void a_check_has_no_other_messages(void **state)
{
	(void)state;
	for (uint32_t type = 0; type <= RIG_TYPES; type++) {
		struct check_rig side;
		if (type != HF_WIRE_CHECK && type != HF_WIRE_FAIL) {
			check_create(&side, &hf_link_check_destination_events, BOTH);
			hf_link_check_destination_events.message(side.check, 3, type, NULL, 0);
			assert_int_equal(side.sent[HF_WIRE_FAIL], 1);
			assert_int_equal(check_snapshot(&side).err.class, HF_ERR_PEER);
			hf_link_check_destroy(side.check);
		}
		check_create(&side, &hf_link_check_source_events, BOTH);
		hf_link_check_source_events.message(side.check, 3, type, NULL, 0);
		assert_int_equal(check_snapshot(&side).err.class, HF_ERR_PEER);
		hf_link_check_destroy(side.check);
	}
}

static void a_second_check_a_lost_link_and_a_page_request_end_it(void **state)
{
	(void)state;
	struct check_rig side;
	check_create(&side, &hf_link_check_destination_events, BOTH);
	hf_link_check_destination_events.message(side.check, 3, HF_WIRE_CHECK, NULL, 0);
	hf_link_check_destination_events.message(side.check, 3, HF_WIRE_CHECK, NULL, 0);
	assert_int_equal(side.sent[HF_WIRE_FAIL], 1);
	hf_link_check_destroy(side.check);

	check_create(&side, &hf_link_check_source_events, BOTH);
	struct hf_serve_request request = {.block = 0, .length_bytes = 4096};
	struct hf_serve_reply reply;
	assert_int_equal(hf_link_check_source_events.serve(side.check, &request, &reply, NULL), -EPROTO);
	hf_link_check_source_events.link_down(side.check, 3, NULL);
	assert_int_equal(check_snapshot(&side).err.class, HF_ERR_LINK);
	hf_link_check_destroy(side.check);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_figures_are_those_of_the_link),
	    cmocka_unit_test(a_steady_link_is_soon_known),
	    cmocka_unit_test(a_link_that_gets_faster_is_measured_when_it_does_not_any_more),
	    cmocka_unit_test(a_link_that_is_never_steady_is_measured_to_the_end),
	    cmocka_unit_test(a_page_takes_the_round_trip_and_its_bytes),
	    cmocka_unit_test(a_link_that_holds_less_than_it_says_is_measured_with_what_it_holds),
	    cmocka_unit_test(a_link_that_takes_nothing_fails_the_probe_once),
	    cmocka_unit_test(zeros_or_a_lost_chunk_fail_the_probe_after_the_last_one),
	    cmocka_unit_test(dones_that_are_stale_or_made_up_are_dropped),
	    RIG_TEST(the_link_is_measured_before_the_memory_is_prepared),
	    RIG_TEST(a_page_that_would_take_too_long_is_refused_before_anything_stops),
	    RIG_TEST(a_limit_that_cannot_be_checked_is_refused),
	    RIG_TEST(a_link_lost_while_it_is_measured_fails_the_migration),
	    RIG_TEST(a_cancel_while_the_link_is_measured_prepares_nothing),
	    RIG_TEST(the_probe_block_is_served_from_link_up_to_ready),
	    RIG_TEST(without_the_feature_no_probe_is_served_and_no_link_heard),
	    RIG_TEST(link_is_said_once_and_before_ready),
	    RIG_TEST(the_sources_operator_may_refuse_a_slow_link_too),
	    cmocka_unit_test(a_check_measures_and_tells_both_sides),
	    cmocka_unit_test(a_destination_of_another_release_is_told_apart),
	    cmocka_unit_test(a_check_has_no_other_messages),
	    cmocka_unit_test(a_second_check_a_lost_link_and_a_page_request_end_it),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
