/* SPDX-License-Identifier: Apache-2.0 */
/* What the scheduler promises about who goes first; each claim of the theory in schedule.c has its test. */
#include "tests/unit/core/cmocka_setup.h"

#include "core/schedule.h"
#include "tests/unit/core/random.h"

#define CHUNK (256u << 10)

static struct hf_schedule schedule_of(uint32_t share_percent)
{
	struct hf_schedule schedule;
	struct hf_link_info info = {.epoch = 1, .channels = {1, 1}, .capacity_chunks = {64, 64}};
	hf_schedule_init(&schedule, CHUNK, share_percent);
	hf_schedule_link_up(&schedule, &info, 0);
	return schedule;
}

/* May a background chunk be posted now? */
static bool allowed(const struct hf_schedule *schedule)
{
	return !hf_schedule_background_held(schedule) && hf_schedule_background_room(schedule);
}

static struct hf_schedule_chunk post(struct hf_schedule *schedule, enum hf_fetch_class class,
				     uint32_t length_bytes)
{
	struct hf_schedule_chunk chunk;
	hf_schedule_posted(schedule, class, length_bytes, 0, &chunk);
	return chunk;
}

/* Ends at once and says nothing about the link. */
static void post_and_end(struct hf_schedule *schedule, enum hf_fetch_class class, uint32_t length_bytes)
{
	struct hf_schedule_chunk chunk = post(schedule, class, length_bytes);
	hf_schedule_done(schedule, &chunk, HF_SCHEDULE_LOST, 0);
}

/* ---- hold -------------------------------------------------------------------------------------- */

static void background_is_held_while_an_urgent_page_is_outstanding(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	assert_true(allowed(&schedule));
	hf_schedule_urgent_begin(&schedule);
	assert_false(allowed(&schedule));
	hf_schedule_urgent_begin(&schedule);
	hf_schedule_urgent_end(&schedule);
	assert_false(allowed(&schedule));
	hf_schedule_urgent_end(&schedule);
	assert_true(allowed(&schedule));
}

static void posting_urgent_chunks_alone_does_not_hold_the_background(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	post(&schedule, HF_FETCH_URGENT, CHUNK);
	assert_true(allowed(&schedule));
	assert_false(hf_schedule_background_due(&schedule));
}

/* ---- share ------------------------------------------------------------------------------------- */

static void share_is_owed_for_urgent_bytes_to_the_byte(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	hf_schedule_urgent_begin(&schedule);
	/* 5 % of all bytes is one for every 19 urgent ones. */
	for (int i = 0; i < 18; i++)
		post_and_end(&schedule, HF_FETCH_URGENT, CHUNK);
	post_and_end(&schedule, HF_FETCH_URGENT, CHUNK - 1);
	assert_false(allowed(&schedule));
	post_and_end(&schedule, HF_FETCH_URGENT, 1);
	assert_true(allowed(&schedule));
	assert_true(hf_schedule_background_due(&schedule));
	post_and_end(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	assert_false(allowed(&schedule));
	assert_int_equal(schedule.owed_parts, 0);
}

static void never_more_than_two_chunks_are_owed(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(50);
	hf_schedule_urgent_begin(&schedule);
	for (int i = 0; i < 1000; i++)
		post_and_end(&schedule, HF_FETCH_URGENT, CHUNK);
	for (int i = 0; i < 2; i++) {
		assert_true(allowed(&schedule));
		post_and_end(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	}
	assert_false(allowed(&schedule));
}

static void what_the_background_had_while_nobody_waited_is_not_owed_again(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(50);
	hf_schedule_urgent_begin(&schedule);
	post_and_end(&schedule, HF_FETCH_URGENT, CHUNK);
	hf_schedule_urgent_end(&schedule);
	for (int i = 0; i < 10; i++)
		post_and_end(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	hf_schedule_urgent_begin(&schedule);
	assert_false(allowed(&schedule));
	/* Nor is it in debt for having had more. */
	post_and_end(&schedule, HF_FETCH_URGENT, CHUNK);
	assert_true(allowed(&schedule));
}

static void a_refused_chunk_was_never_posted(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(20);
	hf_schedule_urgent_begin(&schedule);
	for (int i = 0; i < 5; i++)
		post_and_end(&schedule, HF_FETCH_URGENT, CHUNK);
	const struct hf_schedule before = schedule;
	for (int class = 0; class < HF_FETCH_CLASSES; class ++) {
		struct hf_schedule_chunk chunk = post(&schedule, (enum hf_fetch_class) class, CHUNK);
		hf_schedule_refused(&schedule, &chunk);
		assert_int_equal(schedule.owed_parts, before.owed_parts);
		assert_int_equal(schedule.outstanding_bytes[class], 0);
	}
	/* Of what it had for nothing nothing comes back. */
	post_and_end(&schedule, HF_FETCH_BACKGROUND, 2 * CHUNK);
	struct hf_schedule_chunk chunk = post(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	hf_schedule_refused(&schedule, &chunk);
	assert_int_equal(schedule.owed_parts, 0);
}

/*
 * Both promises at once, over every stretch of a random history: f = urgent x s - background x (100 - s) says
 * how far the background is behind its share. Over no stretch may it fall behind by more than a chunk, and
 * over none in which somebody waits all along may it get ahead by more than one.
 */
struct history {
	struct hf_schedule schedule;
	int64_t behind, behind_min; /* since the start */
	int64_t behind_max;	    /* since somebody waits all along */
	int64_t chunk_parts;
};

static void step_history(struct history *h, enum hf_fetch_class class, uint32_t bytes)
{
	uint32_t share = h->schedule.share_percent;
	post_and_end(&h->schedule, class, bytes);
	h->behind += class == HF_FETCH_URGENT ? (int64_t)bytes * share : -(int64_t)bytes * (100 - share);
	if (h->behind < h->behind_min)
		h->behind_min = h->behind;
}

static void random_step(struct history *h, struct random *seed)
{
	uint64_t draw = random_below(seed, 100);
	if (draw < 5 && h->schedule.urgent_pages < 3)
		hf_schedule_urgent_begin(&h->schedule);
	else if (draw < 10 && h->schedule.urgent_pages > 0)
		hf_schedule_urgent_end(&h->schedule);
	else if (draw < 80 && h->schedule.urgent_pages > 0)
		step_history(h, HF_FETCH_URGENT, 4096u << random_below(seed, 7));
	else if (allowed(&h->schedule))
		step_history(h, HF_FETCH_BACKGROUND, 4096u << random_below(seed, 7));
	/* What a pump does: whatever is due goes before the next urgent chunk. */
	while (hf_schedule_background_due(&h->schedule))
		step_history(h, HF_FETCH_BACKGROUND, CHUNK);
	if (h->behind > h->behind_max || h->schedule.urgent_pages == 0)
		h->behind_max = h->behind;
	assert_true(h->behind_max - h->behind <= h->chunk_parts);
	if (h->schedule.urgent_pages > 0)
		assert_true(h->behind - h->behind_min < h->chunk_parts);
}

static void over_every_stretch_the_background_has_its_share_within_one_chunk(void **state)
{
	(void)state;
	struct random seed = {.state = 4711};
	for (uint32_t share = 1; share <= HF_SCHEDULE_SHARE_MAX_PERCENT; share++) {
		struct history history = {.schedule = schedule_of(share)};
		history.chunk_parts = (int64_t)CHUNK * (100 - share);
		for (int i = 0; i < 5000; i++)
			random_step(&history, &seed);
	}
}

/* ---- room -------------------------------------------------------------------------------------- */

static void outstanding_background_bytes_are_bounded_by_the_window(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	assert_int_equal(schedule.window_bytes, 2 * CHUNK);
	struct hf_schedule_chunk first = post(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	assert_true(allowed(&schedule));
	post(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	assert_false(allowed(&schedule));
	hf_schedule_done(&schedule, &first, HF_SCHEDULE_LOST, 0);
	assert_true(allowed(&schedule));
}

static void the_share_of_urgent_bytes_on_their_way_finds_room_beside_a_full_window(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(20);
	post(&schedule, HF_FETCH_BACKGROUND, 2 * CHUNK);
	hf_schedule_urgent_begin(&schedule);
	struct hf_schedule_chunk urgent[16];
	uint32_t background = 0;
	for (int i = 0; i < 16; i++) {
		urgent[i] = post(&schedule, HF_FETCH_URGENT, CHUNK);
		for (; hf_schedule_background_due(&schedule); background++) {
			assert_true(hf_schedule_background_room(&schedule));
			post(&schedule, HF_FETCH_BACKGROUND, CHUNK);
		}
	}
	assert_int_equal(background, 4);
	/* A background that does not land gets no more room once the urgent ones have. */
	for (int i = 0; i < 16; i++)
		hf_schedule_done(&schedule, &urgent[i], HF_SCHEDULE_LOST, 0);
	for (int i = 0; i < 16; i++)
		post_and_end(&schedule, HF_FETCH_URGENT, CHUNK);
	assert_true(hf_schedule_background_due(&schedule));
	assert_false(allowed(&schedule));
}

static void a_window_smaller_than_a_chunk_still_lets_one_chunk_out(void **state)
{
	(void)state;
	struct hf_schedule schedule;
	struct hf_link_info info = {.epoch = 1, .channels = {0, 0}, .capacity_chunks = {1, 1}};
	hf_schedule_init(&schedule, CHUNK, 5);
	hf_schedule_link_up(&schedule, &info, 0);
	assert_true(allowed(&schedule));
	post(&schedule, HF_FETCH_BACKGROUND, CHUNK);
	assert_false(allowed(&schedule));
}

/* ---- scan -------------------------------------------------------------------------------------- */

static void scan_restarts_after_the_last_fault(void **state)
{
	(void)state;
	struct hf_schedule schedule = schedule_of(5);
	assert_int_equal(schedule.cursor_page, 0);
	hf_schedule_faulted(&schedule, 700);
	assert_int_equal(schedule.cursor_page, 701);
	hf_schedule_faulted(&schedule, 12);
	hf_schedule_urgent_begin(&schedule);
	hf_schedule_urgent_end(&schedule);
	assert_int_equal(schedule.cursor_page, 13);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(background_is_held_while_an_urgent_page_is_outstanding),
	    cmocka_unit_test(posting_urgent_chunks_alone_does_not_hold_the_background),
	    cmocka_unit_test(share_is_owed_for_urgent_bytes_to_the_byte),
	    cmocka_unit_test(never_more_than_two_chunks_are_owed),
	    cmocka_unit_test(what_the_background_had_while_nobody_waited_is_not_owed_again),
	    cmocka_unit_test(a_refused_chunk_was_never_posted),
	    cmocka_unit_test(over_every_stretch_the_background_has_its_share_within_one_chunk),
	    cmocka_unit_test(outstanding_background_bytes_are_bounded_by_the_window),
	    cmocka_unit_test(the_share_of_urgent_bytes_on_their_way_finds_room_beside_a_full_window),
	    cmocka_unit_test(a_window_smaller_than_a_chunk_still_lets_one_chunk_out),
	    cmocka_unit_test(scan_restarts_after_the_last_fault),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
