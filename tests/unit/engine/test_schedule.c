/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The scheduler alone, and against a model of a link: one pipe of a given bandwidth with a given delay each
 * way, on a virtual clock.
 */
#include "tests/unit/core/cmocka_setup.h"

#include <stdio.h>

#include "core/schedule.h"

#define CHUNK (256u << 10)
#define MS    1000000ull
#define US    1000ull
#define MB    1000000ull

static struct hf_link_info link_of(uint32_t channels, uint32_t capacity_chunks)
{
	return (struct hf_link_info){
	    .epoch = 1,
	    .channels = {channels, channels},
	    .capacity_chunks = {capacity_chunks, capacity_chunks},
	};
}

static struct hf_schedule schedule_of(uint32_t share_percent)
{
	struct hf_schedule schedule;
	struct hf_link_info info = link_of(1, 64);
	hf_schedule_init(&schedule, CHUNK, share_percent);
	hf_schedule_link_up(&schedule, &info, 0);
	return schedule;
}

/* ---- hold and share ---------------------------------------------------------------------------- */

static void background_is_held_while_an_urgent_page_is_outstanding(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	assert_true(hf_schedule_background_allowed(&schedule, CHUNK));
	hf_schedule_urgent_begin(&schedule, 3);
	assert_false(hf_schedule_background_allowed(&schedule, CHUNK));
	hf_schedule_urgent_begin(&schedule, 9);
	hf_schedule_urgent_end(&schedule);
	assert_false(hf_schedule_background_allowed(&schedule, CHUNK));
	hf_schedule_urgent_end(&schedule);
	assert_true(hf_schedule_background_allowed(&schedule, CHUNK));
}

static void posting_urgent_chunks_alone_does_not_hold_the_background(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	hf_schedule_posted(&schedule, HF_FETCH_URGENT, CHUNK);
	assert_true(hf_schedule_background_allowed(&schedule, CHUNK));
}

static void share_is_earned_by_urgent_bytes_to_the_byte(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	hf_schedule_urgent_begin(&schedule, 0);
	/* 5 % of all bytes is one for every 19 urgent ones. */
	for (int i = 0; i < 18; i++)
		hf_schedule_posted(&schedule, HF_FETCH_URGENT, CHUNK);
	hf_schedule_posted(&schedule, HF_FETCH_URGENT, CHUNK - 19);
	assert_false(hf_schedule_background_allowed(&schedule, CHUNK));
	hf_schedule_posted(&schedule, HF_FETCH_URGENT, 19);
	assert_true(hf_schedule_background_allowed(&schedule, CHUNK));
	hf_schedule_posted(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	assert_false(hf_schedule_background_allowed(&schedule, CHUNK));
}

static void saved_share_is_capped_at_two_chunks(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(50);
	hf_schedule_urgent_begin(&schedule, 0);
	for (int i = 0; i < 1000; i++)
		hf_schedule_posted(&schedule, HF_FETCH_URGENT, CHUNK);
	for (int i = 0; i < 2; i++) {
		assert_true(hf_schedule_background_allowed(&schedule, CHUNK));
		hf_schedule_posted(&schedule, HF_FETCH_BACKGROUND, CHUNK);
		/* It lands at once: the window is no reason to refuse. */
		hf_schedule_done(&schedule, HF_FETCH_BACKGROUND, CHUNK, false, 0, 0);
	}
	assert_false(hf_schedule_background_allowed(&schedule, CHUNK));
}

static void background_outside_a_hold_spends_no_share(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(50);
	hf_schedule_posted(&schedule, HF_FETCH_URGENT, CHUNK);
	hf_schedule_posted(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	hf_schedule_urgent_begin(&schedule, 0);
	assert_true(hf_schedule_background_allowed(&schedule, CHUNK));
}

static void under_endless_faults_the_background_gets_its_share_within_one_chunk(void **state)
{
	(void)state;
	for (uint32_t share = 1; share <= HF_SCHEDULE_SHARE_MAX_PERCENT; share++) {
		struct hf_schedule schedule = schedule_of(share);
		uint64_t urgent = 0, background = 0;
		hf_schedule_urgent_begin(&schedule, 0);
		for (int i = 0; i < 5000; i++) {
			hf_schedule_posted(&schedule, HF_FETCH_URGENT, CHUNK);
			hf_schedule_done(&schedule, HF_FETCH_URGENT, CHUNK, true, 0, 0);
			urgent += CHUNK;
			while (hf_schedule_background_allowed(&schedule, CHUNK)) {
				hf_schedule_posted(&schedule, HF_FETCH_BACKGROUND, CHUNK);
				hf_schedule_done(&schedule, HF_FETCH_BACKGROUND, CHUNK, false, 0, 0);
				background += CHUNK;
			}
			uint64_t due = urgent * share / (100 - share);
			if (background > due || background + CHUNK < due)
				fail_msg("share %u %%: %llu background bytes for %llu urgent ones", share,
					 (unsigned long long)background, (unsigned long long)urgent);
		}
	}
}

/* ---- scan -------------------------------------------------------------------------------------- */

static void scan_restarts_after_the_last_fault(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	assert_int_equal(schedule.cursor_page, 0);
	hf_schedule_urgent_begin(&schedule, 700);
	assert_int_equal(schedule.cursor_page, 701);
	hf_schedule_urgent_begin(&schedule, 12);
	hf_schedule_urgent_end(&schedule);
	hf_schedule_urgent_end(&schedule);
	assert_int_equal(schedule.cursor_page, 13);
}

/* ---- window ------------------------------------------------------------------------------------ */

#define FLIGHTS_MAX 8192u

struct link_model {
	struct hf_schedule schedule;
	uint64_t bytes_per_s, delay_ns; /* delay: each way */
	uint64_t now_ns, free_ns;
	struct {
		uint64_t posted_ns, lands_ns;
	} flights[FLIGHTS_MAX];
	uint64_t posted, landed; /* chunks */
	uint64_t outstanding_max_bytes;
	double growth_max; /* of the window, from one measurement to the next */
};

static void model_init(struct link_model *model, uint64_t bytes_per_s, uint64_t round_trip_ns,
		       uint32_t channels, uint32_t capacity_chunks)
{
	struct hf_link_info info = link_of(channels, capacity_chunks);
	*model = (struct link_model){.bytes_per_s = bytes_per_s, .delay_ns = round_trip_ns / 2};
	hf_schedule_init(&model->schedule, CHUNK, 5);
	hf_schedule_link_up(&model->schedule, &info, 0);
}

static void post_all_allowed(struct link_model *model)
{
	while (hf_schedule_background_allowed(&model->schedule, CHUNK)) {
		uint64_t at_source_ns = model->now_ns + model->delay_ns;
		uint64_t starts_ns = at_source_ns > model->free_ns ? at_source_ns : model->free_ns;
		model->free_ns = starts_ns + (uint64_t)CHUNK * 1000000000 / model->bytes_per_s;
		assert_true(model->posted - model->landed < FLIGHTS_MAX);
		uint64_t at = model->posted++ % FLIGHTS_MAX;
		model->flights[at].posted_ns = model->now_ns;
		model->flights[at].lands_ns = model->free_ns + model->delay_ns;
		hf_schedule_posted(&model->schedule, HF_FETCH_BACKGROUND, CHUNK);
	}
	uint64_t outstanding = model->schedule.outstanding_bytes[HF_FETCH_BACKGROUND];
	if (outstanding > model->outstanding_max_bytes)
		model->outstanding_max_bytes = outstanding;
}

static void land_one(struct link_model *model)
{
	uint64_t at = model->landed++ % FLIGHTS_MAX;
	uint64_t window = model->schedule.window_bytes;
	model->now_ns = model->flights[at].lands_ns;
	hf_schedule_done(&model->schedule, HF_FETCH_BACKGROUND, CHUNK, true, model->flights[at].posted_ns,
			 model->now_ns);
	double growth = (double)model->schedule.window_bytes / (double)window;
	if (growth > model->growth_max)
		model->growth_max = growth;
}

/* Runs on for so long and returns the bytes that landed. */
static uint64_t model_run(struct link_model *model, uint64_t for_ns)
{
	uint64_t until_ns = model->now_ns + for_ns, landed = model->landed;
	while (model->now_ns < until_ns) {
		post_all_allowed(model);
		land_one(model);
	}
	return (model->landed - landed) * CHUNK;
}

static uint64_t chunk_ns(const struct link_model *model)
{
	return (uint64_t)CHUNK * 1000000000 / model->bytes_per_s;
}

/* Bandwidth x the round trip of one chunk that finds the link empty. */
static uint64_t product_bytes(const struct link_model *model)
{
	uint64_t round_trip_us = (2 * model->delay_ns + chunk_ns(model)) / US;
	return model->bytes_per_s / 1000000 * round_trip_us;
}

static void check_link_is_filled(uint64_t bytes_per_s, uint64_t round_trip_ns, uint32_t channels)
{
	static struct link_model model;
	model_init(&model, bytes_per_s, round_trip_ns, channels, 8192);
	uint64_t minimum = model.schedule.window_min_bytes;
	assert_int_equal(model.schedule.window_bytes, minimum);
	assert_int_equal(minimum, 2ull * channels * CHUNK);

	model_run(&model, 3000 * MS);
	uint64_t landed = model_run(&model, 2000 * MS);
	uint64_t most = 23 * product_bytes(&model) / 10 + minimum + CHUNK;
	if (landed * 100 < 2 * bytes_per_s * 95 || model.outstanding_max_bytes > most)
		fail_msg("%llu MB/s, %llu us: %llu MB/s, %llu bytes outstanding where %llu are the most",
			 (unsigned long long)(bytes_per_s / MB), (unsigned long long)(round_trip_ns / US),
			 (unsigned long long)(landed / MB / 2),
			 (unsigned long long)model.outstanding_max_bytes, (unsigned long long)most);
}

static void a_link_with_room_is_filled_and_the_queue_stays_bounded(void **state)
{
	(void)state;
	static const uint64_t rates[] = {12 * MB, 125 * MB, 1250 * MB, 5000 * MB, 12500 * MB};
	static const uint64_t round_trips[] = {10 * US, 100 * US, 1 * MS, 10 * MS, 35 * MS, 100 * MS};
	for (size_t i = 0; i < sizeof(rates) / sizeof(rates[0]); i++)
		for (size_t j = 0; j < sizeof(round_trips) / sizeof(round_trips[0]); j++)
			for (uint32_t channels = 1; channels <= 4; channels += 3)
				check_link_is_filled(rates[i], round_trips[j], channels);
}

static void the_window_starts_at_the_minimum_and_doubles(void **state)
{
	(void)state;
	static struct link_model model;
	/* Round trips much shorter than the rate's interval, so that each interval shows one window's rate.
	 */
	model_init(&model, 12500 * MB, 1 * MS, 1, 4096);
	assert_int_equal(model.schedule.window_bytes, 2 * CHUNK);
	model_run(&model, 10 * MS);
	assert_true(model.schedule.window_bytes <= 5 * CHUNK);
	model_run(&model, 80 * MS);
	assert_true(model.schedule.window_bytes > 64 * CHUNK);
	/* An interval counts whole chunks and begins with the window before, hence not exactly two. */
	assert_true(model.growth_max > 1.8 && model.growth_max < 2.2);
}

static void the_window_stays_small_on_a_fast_local_link(void **state)
{
	(void)state;
	static struct link_model model;
	model_init(&model, 10000 * MB, 20 * US, 1, 4096);
	model_run(&model, 500 * MS);
	assert_true(model.schedule.window_bytes >= 2 * CHUNK);
	assert_true(model.outstanding_max_bytes <= 4 * CHUNK);
}

static void the_window_never_exceeds_what_the_transport_holds(void **state)
{
	(void)state;
	static struct link_model model;
	model_init(&model, 12500 * MB, 100 * MS, 1, 32);
	model_run(&model, 2000 * MS);
	assert_int_equal(model.outstanding_max_bytes, 32 * CHUNK);
}

static void a_window_smaller_than_a_chunk_still_lets_one_chunk_out(void **state)
{
	(void)state;
	struct hf_schedule schedule;
	struct hf_link_info info = link_of(0, 1);
	hf_schedule_init(&schedule, CHUNK, 5);
	hf_schedule_link_up(&schedule, &info, 0);
	assert_true(hf_schedule_background_allowed(&schedule, CHUNK));
	hf_schedule_posted(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	assert_false(hf_schedule_background_allowed(&schedule, CHUNK));
}

static void failed_chunks_say_nothing_about_the_link(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	hf_schedule_posted(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	hf_schedule_done(&schedule, HF_FETCH_BACKGROUND, CHUNK, false, 0, 50 * MS);
	assert_int_equal(schedule.rate_bytes_per_s, 0);
	assert_int_equal(schedule.round_trip_min_ns, 0);
	assert_int_equal(schedule.outstanding_bytes[HF_FETCH_BACKGROUND], 0);
}

static void one_slow_interval_moves_the_rate_a_sixteenth_of_the_way(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	hf_schedule_posted(&schedule, HF_FETCH_BACKGROUND, 16000000);
	hf_schedule_done(&schedule, HF_FETCH_BACKGROUND, 16000000, true, 0, 10 * MS);
	assert_int_equal(schedule.rate_bytes_per_s, 1600 * MB);
	/* A hold of a second with one chunk in it. */
	hf_schedule_posted(&schedule, HF_FETCH_BACKGROUND, 1000000);
	hf_schedule_done(&schedule, HF_FETCH_BACKGROUND, 1000000, true, 1000 * MS, 1010 * MS);
	assert_int_equal(schedule.rate_bytes_per_s, 1600 * MB - (1600 * MB - 1 * MB) / 16);
}

static void link_up_forgets_what_was_measured(void **state)
{
	(void)state;
	static struct link_model model;
	model_init(&model, 1250 * MB, 10 * MS, 1, 4096);
	model_run(&model, 500 * MS);
	assert_true(model.schedule.window_bytes > 20 * CHUNK);
	hf_schedule_urgent_begin(&model.schedule, 41);

	struct hf_link_info info = link_of(3, 4096);
	hf_schedule_link_up(&model.schedule, &info, model.now_ns);
	assert_int_equal(model.schedule.window_bytes, 6 * CHUNK);
	assert_int_equal(model.schedule.rate_bytes_per_s, 0);
	assert_int_equal(model.schedule.round_trip_min_ns, 0);
	assert_int_equal(model.schedule.outstanding_bytes[HF_FETCH_URGENT], 0);
	assert_int_equal(model.schedule.outstanding_bytes[HF_FETCH_BACKGROUND], 0);
	/* Who waits does not change with the link. */
	assert_false(hf_schedule_background_allowed(&model.schedule, CHUNK));
	assert_int_equal(model.schedule.cursor_page, 42);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(background_is_held_while_an_urgent_page_is_outstanding),
	    cmocka_unit_test(posting_urgent_chunks_alone_does_not_hold_the_background),
	    cmocka_unit_test(share_is_earned_by_urgent_bytes_to_the_byte),
	    cmocka_unit_test(saved_share_is_capped_at_two_chunks),
	    cmocka_unit_test(background_outside_a_hold_spends_no_share),
	    cmocka_unit_test(under_endless_faults_the_background_gets_its_share_within_one_chunk),
	    cmocka_unit_test(scan_restarts_after_the_last_fault),
	    cmocka_unit_test(a_link_with_room_is_filled_and_the_queue_stays_bounded),
	    cmocka_unit_test(the_window_starts_at_the_minimum_and_doubles),
	    cmocka_unit_test(the_window_stays_small_on_a_fast_local_link),
	    cmocka_unit_test(the_window_never_exceeds_what_the_transport_holds),
	    cmocka_unit_test(a_window_smaller_than_a_chunk_still_lets_one_chunk_out),
	    cmocka_unit_test(failed_chunks_say_nothing_about_the_link),
	    cmocka_unit_test(one_slow_interval_moves_the_rate_a_sixteenth_of_the_way),
	    cmocka_unit_test(link_up_forgets_what_was_measured),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
