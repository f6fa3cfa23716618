/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The window against a model of a link: one pipe of a given bandwidth with a given delay each way, on a
 * virtual clock.
 */
#include "tests/unit/core/cmocka_setup.h"

#include "core/schedule.h"

#define CHUNK	    (256u << 10)
#define MS	    1000000ull
#define US	    1000ull
#define MB	    1000000ull
#define NS_PER_S    1000000000ull
#define FLIGHTS_MAX 16384u

struct link_model {
	struct hf_schedule schedule;
	uint64_t bytes_per_s, delay_ns; /* delay: each way */
	uint64_t now_ns, free_ns;
	struct {
		struct hf_schedule_chunk chunk;
		uint64_t lands_ns;
	} flights[FLIGHTS_MAX];
	uint64_t posted, landed; /* chunks */
	uint64_t outstanding_max_bytes;
};

static struct hf_link_info link_of(uint32_t channels, uint32_t capacity_chunks)
{
	return (struct hf_link_info){
	    .epoch = 1,
	    .channels = {channels, channels},
	    .capacity_chunks = {capacity_chunks, capacity_chunks},
	};
}

static struct link_model *model_of(uint64_t bytes_per_s, uint64_t round_trip_ns, uint32_t channels,
				   uint32_t capacity_chunks)
{
	static struct link_model model;
	struct hf_link_info info = link_of(channels, capacity_chunks);
	model = (struct link_model){.bytes_per_s = bytes_per_s, .delay_ns = round_trip_ns / 2};
	hf_schedule_init(&model.schedule, CHUNK, 5);
	hf_schedule_link_up(&model.schedule, &info, 0);
	return &model;
}

static void post_one(struct link_model *model, enum hf_fetch_class class)
{
	uint64_t at_source_ns = model->now_ns + model->delay_ns;
	uint64_t starts_ns = at_source_ns > model->free_ns ? at_source_ns : model->free_ns;
	model->free_ns = starts_ns + CHUNK * NS_PER_S / model->bytes_per_s;
	assert_true(model->posted - model->landed < FLIGHTS_MAX);
	uint64_t at = model->posted++ % FLIGHTS_MAX;
	model->flights[at].lands_ns = model->free_ns + model->delay_ns;
	hf_schedule_posted(&model->schedule, class, CHUNK, model->now_ns, &model->flights[at].chunk);
}

/* May a background chunk be posted now? */
static bool allowed(const struct hf_schedule *schedule)
{
	return !hf_schedule_background_held(schedule) && hf_schedule_background_room(schedule);
}

static void post_all_allowed(struct link_model *model)
{
	while (allowed(&model->schedule))
		post_one(model, HF_FETCH_BACKGROUND);
	uint64_t outstanding = model->schedule.outstanding_bytes[HF_FETCH_BACKGROUND];
	if (outstanding > model->outstanding_max_bytes)
		model->outstanding_max_bytes = outstanding;
}

static void land_one(struct link_model *model, uint64_t late_ns)
{
	uint64_t at = model->landed++ % FLIGHTS_MAX;
	uint64_t lands_ns = model->flights[at].lands_ns + late_ns;
	if (lands_ns > model->now_ns)
		model->now_ns = lands_ns;
	hf_schedule_done(&model->schedule, &model->flights[at].chunk, HF_SCHEDULE_LANDED, model->now_ns);
}

/* Runs on for so long and returns the bytes that landed. */
static uint64_t model_run(struct link_model *model, uint64_t for_ns)
{
	uint64_t until_ns = model->now_ns + for_ns, landed = model->landed;
	while (model->now_ns < until_ns) {
		post_all_allowed(model);
		land_one(model, 0);
	}
	return (model->landed - landed) * CHUNK;
}

/* The round trip of one chunk that finds the link empty. */
static uint64_t chunk_round_trip_ns(const struct link_model *model)
{
	return 2 * model->delay_ns + CHUNK * NS_PER_S / model->bytes_per_s;
}

static uint64_t product_bytes(const struct link_model *model)
{
	return model->bytes_per_s / 1000000 * (chunk_round_trip_ns(model) / US);
}

/* Round trips from the least window to the link's, doubling. */
static uint64_t doublings(const struct link_model *model)
{
	uint64_t count = 0;
	for (uint64_t window = model->schedule.window_min_bytes; window < product_bytes(model); window *= 2)
		count++;
	return count;
}

static void check_link_is_filled(uint64_t bytes_per_s, uint64_t round_trip_ns, uint32_t channels)
{
	struct link_model *model = model_of(bytes_per_s, round_trip_ns, channels, FLIGHTS_MAX / 2);
	uint64_t minimum = model->schedule.window_min_bytes;
	assert_int_equal(model->schedule.window_bytes, minimum);
	assert_int_equal(minimum, 2ull * channels * CHUNK);

	/* Each round trip doubles the window; two more to see it and to have it land. */
	model_run(model, (doublings(model) + 2) * chunk_round_trip_ns(model));
	uint64_t run_ns = 20 * chunk_round_trip_ns(model);
	uint64_t landed = model_run(model, run_ns);
	uint64_t full = bytes_per_s / 1000000 * (run_ns / US);
	uint64_t most = 21 * product_bytes(model) / 10 + minimum + CHUNK;
	if (landed * 100 < full * 95 || model->outstanding_max_bytes > most)
		fail_msg("%llu MB/s, %llu us: %llu of %llu bytes, %llu bytes outstanding where %llu are the "
			 "most",
			 (unsigned long long)(bytes_per_s / MB), (unsigned long long)(round_trip_ns / US),
			 (unsigned long long)landed, (unsigned long long)full,
			 (unsigned long long)model->outstanding_max_bytes, (unsigned long long)most);
}

static void a_link_is_filled_within_a_few_round_trips_and_the_queue_stays_bounded(void **state)
{
	(void)state;
	static const uint64_t rates[] = {12 * MB, 125 * MB, 1250 * MB, 5000 * MB, 12500 * MB};
	static const uint64_t round_trips[] = {10 * US, 100 * US, 1 * MS,  2 * MS,
					       5 * MS,	10 * MS,  50 * MS, 100 * MS};
	for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
		for (size_t j = 0; j < sizeof(round_trips) / sizeof(round_trips[0]); j++)
			for (uint32_t channels = 1; channels <= 4; channels += 3)
				check_link_is_filled(rates[i], round_trips[j], channels);
}

static void ten_gigabits_over_fifty_milliseconds_take_ten_round_trips(void **state)
{
	(void)state;
	struct link_model *model = model_of(1250 * MB, 50 * MS, 1, FLIGHTS_MAX / 2);
	model_run(model, 10 * chunk_round_trip_ns(model));
	assert_true(model->schedule.window_bytes > product_bytes(model));
}

static void the_window_stays_small_on_a_fast_local_link(void **state)
{
	(void)state;
	struct link_model *model = model_of(10000 * MB, 20 * US, 1, 4096);
	model_run(model, 500 * MS);
	assert_true(model->schedule.window_bytes >= 2 * CHUNK);
	assert_true(model->outstanding_max_bytes <= 4 * CHUNK);
}

static void the_window_never_exceeds_what_the_transport_holds(void **state)
{
	(void)state;
	struct link_model *model = model_of(12500 * MB, 100 * MS, 1, 32);
	model_run(model, 2000 * MS);
	assert_int_equal(model->outstanding_max_bytes, 32 * CHUNK);
}

static void a_reader_that_catches_up_after_a_pause_is_no_fast_link(void **state)
{
	(void)state;
	struct link_model *model = model_of(1250 * MB, 1 * MS, 1, 4096);
	model_run(model, 200 * MS);
	uint64_t rate = model->schedule.rate_bytes_per_s;
	for (int i = 0; i < 50; i++) {
		/* All that is on its way arrives while nobody reads, then is read at once. */
		post_all_allowed(model);
		uint64_t late_ns = 20 * MS;
		for (uint64_t count = model->posted - model->landed; count > 0; count--, late_ns = 0) {
			land_one(model, late_ns);
			post_all_allowed(model);
		}
		model_run(model, 5 * MS);
	}
	assert_true(model->schedule.rate_bytes_per_s <= rate + rate / 20);
}

static void a_slower_link_is_noticed_a_sixteenth_each_interval(void **state)
{
	(void)state;
	struct link_model *model = model_of(1250 * MB, 1 * MS, 1, 4096);
	model_run(model, 200 * MS);
	assert_in_range(model->schedule.rate_bytes_per_s, 1240 * MB, 1260 * MB);
	model->bytes_per_s = 125 * MB;
	model_run(model, 30 * MS);
	assert_in_range(model->schedule.rate_bytes_per_s, 1000 * MB, 1250 * MB);
	model_run(model, 1500 * MS);
	assert_in_range(model->schedule.rate_bytes_per_s, 124 * MB, 140 * MB);
}

static void holds_and_zeros_do_not_pass_for_a_slow_link(void **state)
{
	(void)state;
	struct link_model *model = model_of(1250 * MB, 1 * MS, 1, 4096);
	model_run(model, 200 * MS);
	while (model->landed < model->posted)
		land_one(model, 0);
	const uint64_t rate = model->schedule.rate_bytes_per_s;
	const uint64_t window = model->schedule.window_bytes;

	/* One chunk now and then while somebody waits, each finding the link empty. */
	hf_schedule_urgent_begin(&model->schedule);
	for (int i = 0; i < 100; i++) {
		post_one(model, i % 2 ? HF_FETCH_URGENT : HF_FETCH_BACKGROUND);
		land_one(model, 9 * MS);
	}
	hf_schedule_urgent_end(&model->schedule);
	assert_int_equal(model->schedule.rate_bytes_per_s, rate);

	/* Headers only: quick, and no rate at all. */
	for (int i = 0; i < 100; i++) {
		struct hf_schedule_chunk chunk;
		hf_schedule_posted(&model->schedule, HF_FETCH_BACKGROUND, CHUNK, model->now_ns, &chunk);
		model->now_ns += US;
		hf_schedule_done(&model->schedule, &chunk, HF_SCHEDULE_LANDED_ZERO, model->now_ns);
		post_one(model, HF_FETCH_BACKGROUND);
		land_one(model, 9 * MS);
	}
	assert_int_equal(model->schedule.rate_bytes_per_s, rate);
	assert_int_equal(model->schedule.window_bytes, window);
}

static void lost_chunks_say_nothing_about_the_link(void **state)
{
	(void)state;
	struct link_model *model = model_of(1250 * MB, 1 * MS, 1, 4096);
	struct hf_schedule_chunk chunk;
	hf_schedule_posted(&model->schedule, HF_FETCH_BACKGROUND, CHUNK, 0, &chunk);
	hf_schedule_done(&model->schedule, &chunk, HF_SCHEDULE_LOST, 50 * MS);
	assert_int_equal(model->schedule.rate_bytes_per_s, 0);
	assert_int_equal(model->schedule.round_trip_min_ns, 0);
	assert_int_equal(model->schedule.outstanding_bytes[HF_FETCH_BACKGROUND], 0);
}

static void a_clock_read_in_another_order_does_no_harm(void **state)
{
	(void)state;
	struct link_model *model = model_of(1250 * MB, 1 * MS, 1, 4096);
	struct hf_schedule_chunk chunk;
	hf_schedule_posted(&model->schedule, HF_FETCH_BACKGROUND, CHUNK, 20 * MS, &chunk);
	hf_schedule_done(&model->schedule, &chunk, HF_SCHEDULE_LANDED, 19 * MS);
	assert_int_equal(model->schedule.round_trip_min_ns, 1);
	assert_true(model->schedule.window_bytes >= model->schedule.window_min_bytes);
	assert_true(model->schedule.window_bytes <= model->schedule.window_max_bytes);
}

static void link_up_forgets_what_was_measured_but_not_who_waits(void **state)
{
	(void)state;
	struct link_model *model = model_of(1250 * MB, 10 * MS, 1, 4096);
	model_run(model, 500 * MS);
	assert_true(model->schedule.window_bytes > 20 * CHUNK);
	hf_schedule_faulted(&model->schedule, 41);
	hf_schedule_urgent_begin(&model->schedule);

	struct hf_link_info info = link_of(3, 4096);
	hf_schedule_link_up(&model->schedule, &info, model->now_ns);
	assert_int_equal(model->schedule.window_bytes, 6 * CHUNK);
	assert_int_equal(model->schedule.rate_bytes_per_s, 0);
	assert_int_equal(model->schedule.round_trip_min_ns, 0);
	assert_int_equal(model->schedule.outstanding_bytes[HF_FETCH_URGENT], 0);
	assert_int_equal(model->schedule.outstanding_bytes[HF_FETCH_BACKGROUND], 0);
	assert_false(allowed(&model->schedule));
	assert_int_equal(model->schedule.cursor_page, 42);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_link_is_filled_within_a_few_round_trips_and_the_queue_stays_bounded),
	    cmocka_unit_test(ten_gigabits_over_fifty_milliseconds_take_ten_round_trips),
	    cmocka_unit_test(the_window_stays_small_on_a_fast_local_link),
	    cmocka_unit_test(the_window_never_exceeds_what_the_transport_holds),
	    cmocka_unit_test(a_reader_that_catches_up_after_a_pause_is_no_fast_link),
	    cmocka_unit_test(a_slower_link_is_noticed_a_sixteenth_each_interval),
	    cmocka_unit_test(holds_and_zeros_do_not_pass_for_a_slow_link),
	    cmocka_unit_test(lost_chunks_say_nothing_about_the_link),
	    cmocka_unit_test(a_clock_read_in_another_order_does_no_harm),
	    cmocka_unit_test(link_up_forgets_what_was_measured_but_not_who_waits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
