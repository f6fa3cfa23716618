/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/cmocka_setup.h"

#include "deploy/reconnect.h"

#define MS 1000000ull
#define S  1000000000ull

static void attempts_come_at_once_then_less_and_less_often_up_to_the_deadline(void **state)
{
	(void)state;
	struct hf_reconnect reconnect = {0};
	uint64_t now_ns = 5 * S, pause_ns = 100 * MS;
	assert_false(hf_reconnect_due(&reconnect, now_ns));
	hf_reconnect_begin(&reconnect, now_ns, 60);
	uint64_t end_ns = now_ns + 60 * S;
	unsigned attempts = 0;
	while (!hf_reconnect_over(&reconnect, now_ns)) {
		assert_true(hf_reconnect_due(&reconnect, now_ns));
		hf_reconnect_failed(&reconnect, now_ns);
		assert_false(hf_reconnect_due(&reconnect, now_ns));
		attempts++;
		uint64_t wake_ns = hf_reconnect_wake_ns(&reconnect);
		assert_int_equal(wake_ns, now_ns + pause_ns < end_ns ? now_ns + pause_ns : end_ns);
		now_ns = wake_ns;
		pause_ns = pause_ns * 2 > 5 * S ? 5 * S : pause_ns * 2;
	}
	assert_false(hf_reconnect_due(&reconnect, now_ns));
	assert_in_range(attempts, 15, 20);
}

static void the_deadline_counts_from_the_loss_of_a_link_that_worked(void **state)
{
	(void)state;
	struct hf_reconnect reconnect = {0};
	hf_reconnect_begin(&reconnect, S, 10);
	hf_reconnect_begin(&reconnect, 9 * S, 10);
	assert_true(hf_reconnect_over(&reconnect, 11 * S));
	hf_reconnect_end(&reconnect);
	hf_reconnect_begin(&reconnect, 11 * S, 10);
	assert_false(hf_reconnect_over(&reconnect, 12 * S));
	assert_true(hf_reconnect_due(&reconnect, 12 * S));
}

static void nothing_is_tried_while_it_is_held(void **state)
{
	(void)state;
	struct hf_reconnect reconnect = {.held = true};
	hf_reconnect_begin(&reconnect, S, 10);
	assert_false(hf_reconnect_due(&reconnect, 2 * S));
	assert_int_equal(hf_reconnect_wake_ns(&reconnect), 11 * S);
}

static void a_peer_that_does_not_agree_in_time_is_silent(void **state)
{
	(void)state;
	struct hf_reconnect reconnect = {0};
	hf_reconnect_begin(&reconnect, S, 300);
	assert_false(hf_reconnect_silent(&reconnect, true, 2 * S));
	assert_int_equal(hf_reconnect_wake_ns(&reconnect), 32 * S);
	assert_false(hf_reconnect_silent(&reconnect, true, 31 * S));
	assert_true(hf_reconnect_silent(&reconnect, true, 32 * S));
	assert_false(hf_reconnect_silent(&reconnect, false, 33 * S));
	assert_false(hf_reconnect_silent(&reconnect, true, 34 * S));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(attempts_come_at_once_then_less_and_less_often_up_to_the_deadline),
	    cmocka_unit_test(the_deadline_counts_from_the_loss_of_a_link_that_worked),
	    cmocka_unit_test(nothing_is_tried_while_it_is_held),
	    cmocka_unit_test(a_peer_that_does_not_agree_in_time_is_silent),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
