/* SPDX-License-Identifier: Apache-2.0 */
/* max-postcopy-bandwidth: the background keeps to it, and pages that a thread waits for know nothing of it.
 */
#include "tests/unit/engine/rig.h"

#define LIMIT_BYTES_PER_S 1000000u /* a chunk in 4 ms */
#define TICK_NS		  1000000u

/* Time passes; the port's background worker comes when it was told to, and whatever was asked for lands. */
static void let_time_pass(struct rig *rig, uint64_t ticks)
{
	for (; ticks > 0; ticks--) {
		rig->now_ns += TICK_NS;
		while (hf_destination_work(rig->destination, HF_WORK_BACKGROUND) == HF_WORK_MORE)
			continue;
		rig_land_all(rig);
	}
}

static uint64_t background_bytes(const struct rig *rig)
{
	return rig->posted_bytes[HF_FETCH_BACKGROUND];
}

static void the_background_keeps_to_the_limit_and_still_gets_there(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.max_postcopy_bandwidth = LIMIT_BYTES_PER_S;
	rig_destination_at(rig, AT_RUNNING);
	rig_land_all(rig);
	uint64_t before = background_bytes(rig);
	let_time_pass(rig, 40);
	uint64_t got = background_bytes(rig) - before;
	assert_in_range(got, 36000, 44000 + RIG_CHUNK);
	let_time_pass(rig, 200);
	assert_int_equal(rig_snapshot(rig).pages_received, rig_snapshot(rig).pages_total);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
}

static void a_page_that_a_thread_waits_for_knows_no_limit(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.max_postcopy_bandwidth = 1;
	rig_destination_at(rig, AT_RUNNING);
	rig_forget(rig);
	for (uint64_t page = 0; page < RIG_RAM_PAGES; page++) {
		rig_fault(rig, RIG_RAM, page);
		rig_land_all(rig);
	}
	assert_true(rig_snapshot(rig).pages_received >= RIG_RAM_PAGES);
}

static void a_limit_changes_while_pages_are_fetched(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.max_postcopy_bandwidth = 1;
	rig_destination_at(rig, AT_RUNNING);
	rig_land_all(rig);
	let_time_pass(rig, 50);
	assert_true(rig_snapshot(rig).pages_received < rig_snapshot(rig).pages_total);
	rig_forget(rig);
	hf_destination_limit_background(rig->destination, 0);
	assert_true(rig_called(rig, "kick background"));
	rig_land_all(rig);
	assert_int_equal(rig_snapshot(rig).pages_received, rig_snapshot(rig).pages_total);
}

static void the_worker_is_told_to_come_again_only_while_a_limit_keeps_something_back(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_RUNNING);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_IDLE);
	hf_destination_limit_background(rig->destination, 1);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_SOON);
	rig_link_down(rig);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_IDLE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(the_background_keeps_to_the_limit_and_still_gets_there),
	    RIG_TEST(a_page_that_a_thread_waits_for_knows_no_limit),
	    RIG_TEST(a_limit_changes_while_pages_are_fetched),
	    RIG_TEST(the_worker_is_told_to_come_again_only_while_a_limit_keeps_something_back),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
