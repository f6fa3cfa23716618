/* SPDX-License-Identifier: Apache-2.0 */
/* The limiter in simulated time. */
#include "tests/unit/core/cmocka_setup.h"

#include <inttypes.h>

#include "core/limiter.h"
#include "tests/unit/core/random.h"

#define S   1000000000ull
#define MIB (1ull << 20)

/* Sends as fast as it may; returns the bytes that have gone when `until_ns` is reached. */
static uint64_t send_until(struct hf_limiter *limiter, uint64_t *now_ns, uint64_t until_ns,
			   uint64_t chunk_bytes)
{
	uint64_t gone_bytes = 0;

	for (;;) {
		uint64_t when_ns = hf_limiter_when_ns(limiter, chunk_bytes, *now_ns);
		if (when_ns >= until_ns) {
			*now_ns = until_ns;
			return gone_bytes;
		}
		*now_ns = when_ns;
		hf_limiter_take(limiter, chunk_bytes, *now_ns);
		gone_bytes += chunk_bytes;
	}
}

static void assert_within_percent(uint64_t value, uint64_t expected)
{
	if (value > expected + expected / 100 || value < expected - expected / 100)
		fail_msg("%" PRIu64 " is not within 1 %% of %" PRIu64, value, expected);
}

static void the_long_run_average_is_the_limit(void **state)
{
	static const uint64_t limits[] = {32 << 10, 1000003, 100 * MIB, 1250000000, 12500000000};
	static const uint64_t chunks[] = {1, 1000, 64 << 10, MIB, 2 * MIB};
	struct hf_limiter limiter;

	(void)state;
	for (unsigned l = 0; l < 5; l++) {
		for (unsigned c = 0; c < 5; c++) {
			uint64_t now_ns = 12345;
			/* Long enough for many chunks, short enough to be counted. */
			uint64_t seconds = chunks[c] < 1000 ? 1 : 1 + 300 * chunks[c] / limits[l];
			if (chunks[c] * 4000000 < limits[l])
				continue;
			hf_limiter_init(&limiter, limits[l], now_ns);
			assert_within_percent(send_until(&limiter, &now_ns, now_ns + seconds * S, chunks[c]),
					      limits[l] * seconds);
		}
	}
}

static void it_is_the_limit_with_requests_of_any_size(void **state)
{
	struct hf_limiter limiter;
	struct random random = {7};
	uint64_t now_ns = 0, gone_bytes = 0;

	(void)state;
	hf_limiter_init(&limiter, 10 * MIB, 0);
	while (now_ns < 1000 * S) {
		uint64_t length_bytes = 1 + random_below(&random, MIB);
		now_ns = hf_limiter_when_ns(&limiter, length_bytes, now_ns);
		hf_limiter_take(&limiter, length_bytes, now_ns);
		gone_bytes += length_bytes;
	}
	assert_within_percent(gone_bytes, 1000 * 10 * MIB);
}

static void who_asks_at_that_time_may_go_and_not_a_nanosecond_before(void **state)
{
	struct hf_limiter limiter;
	struct random random = {11};

	(void)state;
	for (unsigned i = 0; i < 20000; i++) {
		uint64_t now_ns = random_below(&random, S);
		hf_limiter_init(&limiter, 1 + random_below(&random, 1u << (1 + i % 31)), now_ns);
		hf_limiter_take(&limiter, random_below(&random, 3 * MIB), now_ns);
		uint64_t length_bytes = 1 + random_below(&random, 3 * MIB);
		uint64_t when_ns = hf_limiter_when_ns(&limiter, length_bytes, now_ns);
		assert_true(when_ns > now_ns);
		assert_int_equal(hf_limiter_when_ns(&limiter, length_bytes, when_ns), when_ns);
		assert_int_equal(hf_limiter_when_ns(&limiter, length_bytes, when_ns - 1), when_ns);
	}
}

static void without_a_limit_everything_goes_at_once(void **state)
{
	struct hf_limiter limiter;

	(void)state;
	hf_limiter_init(&limiter, 0, 5);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(hf_limiter_when_ns(&limiter, UINT64_MAX, 5), 5);
		hf_limiter_take(&limiter, UINT64_MAX, 5);
	}
	hf_limiter_set(&limiter, 1000, 6); /* what went before counts for nothing */
	assert_int_equal(hf_limiter_when_ns(&limiter, 1, 6), 6 + S / 1000);
}

static void a_stall_gives_no_more_than_the_burst(void **state)
{
	const uint64_t limit = 100 * MIB, burst = limit / 100;
	struct hf_limiter limiter;

	(void)state;
	for (uint64_t pause_ns = 1; pause_ns < 1ull << 58; pause_ns *= 16) {
		uint64_t now_ns = pause_ns, at_once_bytes = 0;
		hf_limiter_init(&limiter, limit, 0);
		while (hf_limiter_when_ns(&limiter, 1000, now_ns) == now_ns) {
			hf_limiter_take(&limiter, 1000, now_ns);
			at_once_bytes += 1000;
		}
		assert_true(at_once_bytes <= burst);
		if (pause_ns > HF_LIMITER_BURST_NS)
			assert_true(at_once_bytes > burst - 1000);
	}
}

static void a_request_larger_than_the_bucket_goes_and_is_paid_for(void **state)
{
	struct hf_limiter limiter;

	(void)state;
	hf_limiter_init(&limiter, 1000, 0); /* a bucket of 10 bytes */
	uint64_t when_ns = hf_limiter_when_ns(&limiter, 5000, 0);
	assert_int_equal(when_ns, HF_LIMITER_BURST_NS);
	hf_limiter_take(&limiter, 5000, when_ns);
	assert_int_equal(hf_limiter_when_ns(&limiter, 10, when_ns), 5 * S + HF_LIMITER_BURST_NS);
}

static void another_limit_counts_at_once(void **state)
{
	struct hf_limiter limiter;
	uint64_t now_ns = 0;

	(void)state;
	hf_limiter_init(&limiter, 10 * MIB, 0);
	assert_within_percent(send_until(&limiter, &now_ns, 100 * S, 64 << 10), 1000 * MIB);
	hf_limiter_set(&limiter, 1000 * MIB, now_ns);
	assert_within_percent(send_until(&limiter, &now_ns, 101 * S, 64 << 10), 1000 * MIB);
	hf_limiter_set(&limiter, 10 * MIB, now_ns);
	assert_within_percent(send_until(&limiter, &now_ns, 201 * S, 64 << 10), 1000 * MIB);
	hf_limiter_set(&limiter, 0, now_ns);
	assert_int_equal(hf_limiter_when_ns(&limiter, 1000 * MIB, now_ns), now_ns);
}

static void what_was_saved_up_under_a_high_limit_is_no_burst_under_a_low_one(void **state)
{
	struct hf_limiter limiter;

	(void)state;
	hf_limiter_init(&limiter, 1000 * MIB, 0);
	hf_limiter_set(&limiter, 1000, S);
	assert_int_equal(hf_limiter_when_ns(&limiter, 10, S), S);
	hf_limiter_take(&limiter, 10, S);
	assert_int_equal(hf_limiter_when_ns(&limiter, 10, S), S + HF_LIMITER_BURST_NS);
}

static void bytes_that_do_not_ask_count_and_put_off_the_others_for_a_bounded_time(void **state)
{
	struct hf_limiter limiter;

	(void)state;
	hf_limiter_init(&limiter, 1000 * MIB, 0);
	hf_limiter_take(&limiter, 100 * MIB, 0);
	assert_int_equal(hf_limiter_when_ns(&limiter, 100, 0) / 1000000, 100);
	for (unsigned i = 0; i < 1000; i++)
		hf_limiter_take(&limiter, 100 * MIB, 0);
	uint64_t when_ns = hf_limiter_when_ns(&limiter, 1000 * MIB, 0);
	assert_int_equal(when_ns, HF_LIMITER_DEBT_NS + HF_LIMITER_BURST_NS);
	hf_limiter_set(&limiter, 1, 0);
	assert_int_equal(hf_limiter_when_ns(&limiter, 1, 0), HF_LIMITER_DEBT_NS + HF_LIMITER_BURST_NS);
}

static void nothing_overflows_at_the_extremes(void **state)
{
	static const uint64_t values[] = {0, 1, S, UINT64_MAX / 2, UINT64_MAX - 1, UINT64_MAX};
	struct hf_limiter limiter;

	(void)state;
	for (unsigned i = 0; i < 6 * 6 * 6 * 6; i++) {
		uint64_t limit = values[i % 6], length_bytes = values[i / 6 % 6];
		uint64_t first_ns = values[i / 36 % 6], second_ns = values[i / 216];
		hf_limiter_init(&limiter, limit, first_ns);
		for (unsigned j = 0; j < 3; j++)
			hf_limiter_take(&limiter, length_bytes, second_ns);
		uint64_t when_ns = hf_limiter_when_ns(&limiter, length_bytes, second_ns);
		assert_true(when_ns >= second_ns);
		if (limit == 0)
			assert_int_equal(when_ns, second_ns);
		hf_limiter_set(&limiter, length_bytes, second_ns);
		assert_true(hf_limiter_when_ns(&limiter, limit, first_ns) >= first_ns);
	}
	hf_limiter_init(&limiter, 1, 0);
	hf_limiter_take(&limiter, UINT64_MAX, 0);
	assert_true(hf_limiter_when_ns(&limiter, 1, 0) == HF_LIMITER_NEVER_NS);
}

static void a_clock_that_is_read_out_of_order_gives_nothing_twice(void **state)
{
	struct hf_limiter limiter;
	struct random random = {3};
	uint64_t latest_ns = 0, gone_bytes = 0;

	(void)state;
	hf_limiter_init(&limiter, 1000000, 0);
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t now_ns = latest_ns + random_below(&random, 200000);
		now_ns = now_ns > 100000 ? now_ns - 100000 : 0;
		if (now_ns > latest_ns)
			latest_ns = now_ns;
		if (hf_limiter_when_ns(&limiter, 100, now_ns) > latest_ns)
			continue;
		hf_limiter_take(&limiter, 100, now_ns);
		gone_bytes += 100;
	}
	assert_true(gone_bytes <= latest_ns / 1000 + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_long_run_average_is_the_limit),
	    cmocka_unit_test(it_is_the_limit_with_requests_of_any_size),
	    cmocka_unit_test(who_asks_at_that_time_may_go_and_not_a_nanosecond_before),
	    cmocka_unit_test(without_a_limit_everything_goes_at_once),
	    cmocka_unit_test(a_stall_gives_no_more_than_the_burst),
	    cmocka_unit_test(a_request_larger_than_the_bucket_goes_and_is_paid_for),
	    cmocka_unit_test(another_limit_counts_at_once),
	    cmocka_unit_test(what_was_saved_up_under_a_high_limit_is_no_burst_under_a_low_one),
	    cmocka_unit_test(bytes_that_do_not_ask_count_and_put_off_the_others_for_a_bounded_time),
	    cmocka_unit_test(nothing_overflows_at_the_extremes),
	    cmocka_unit_test(a_clock_that_is_read_out_of_order_gives_nothing_twice),
	};
	return cmocka_run_group_tests_name("core/limiter", tests, NULL, NULL);
}
