/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/cmocka_setup.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/stats.h"
#include "tests/unit/core/random.h"

#define VALUES_MAX 2000

static int ascending(const void *a, const void *b)
{
	uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
	return left < right ? -1 : left > right;
}

/* The smallest value such that at least `fraction` of all values are not above it. */
static uint64_t true_percentile(const uint64_t *sorted, size_t count, double fraction)
{
	for (size_t i = 0; i < count; i++)
		if ((double)(i + 1) >= fraction * (double)count)
			return sorted[i];
	return sorted[count - 1];
}

static void check_percentiles(const struct hf_latency *latency, const uint64_t *sorted, size_t count,
			      uint64_t seed)
{
	static const double fractions[] = {-1, 0, 0.001, 0.1, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1, 2};
	for (size_t i = 0; i < sizeof(fractions) / sizeof(fractions[0]); i++) {
		uint64_t truth = true_percentile(sorted, count, fractions[i]);
		uint64_t got = hf_latency_percentile_ns(latency, fractions[i]);
		/* Below a microsecond the parts are 62.5 ns wide; above, 1/16 of the value at most. */
		uint64_t slack = truth < 1000 ? 62 : truth / 16;
		if (got < truth || got - truth > slack || got > sorted[count - 1])
			fail_msg("seed %" PRIu64 ", fraction %f: got %" PRIu64 ", true value %" PRIu64, seed,
				 fractions[i], got, truth);
	}
}

/* Buckets by their definition: below 1 us, [1, 2) us, [2, 4) us, ... */
static void check_buckets(const struct hf_latency *latency, const uint64_t *sorted, size_t count)
{
	uint64_t total = 0;
	for (uint32_t bucket = 0; bucket < HF_LATENCY_BUCKETS; bucket++) {
		uint64_t from = bucket == 0 ? 0 : 1000ull << (bucket - 1);
		uint64_t to = bucket + 1 == HF_LATENCY_BUCKETS ? UINT64_MAX : 1000ull << bucket;
		uint64_t expected = 0;
		for (size_t i = 0; i < count; i++)
			expected += sorted[i] >= from && (sorted[i] < to || to == UINT64_MAX);
		assert_int_equal(hf_latency_bucket_count(latency, bucket), expected);
		assert_int_equal(hf_latency_bucket_bound_ns(bucket), to);
		total += expected;
	}
	assert_int_equal(total, count);
}

static void percentiles_are_within_a_sixteenth_of_a_sorted_array(void **state)
{
	(void)state;
	static uint64_t values[VALUES_MAX];
	for (uint64_t seed = 1; seed <= 300; seed++) {
		struct random random = {seed};
		struct hf_latency latency = {0};
		size_t count = 1 + random_below(&random, VALUES_MAX);
		unsigned bits = 1 + (unsigned)random_below(&random, 44); /* 2^44 ns: nearly five hours */
		uint64_t sum = 0;

		for (size_t i = 0; i < count; i++) {
			values[i] = random_next(&random) >> (64 - bits) >> random_below(&random, bits);
			sum += values[i];
			hf_latency_add(&latency, values[i]);
		}
		qsort(values, count, sizeof(values[0]), ascending);
		assert_int_equal(latency.count, count);
		assert_int_equal(latency.sum_ns, sum);
		assert_int_equal(latency.max_ns, values[count - 1]);
		check_percentiles(&latency, values, count, seed);
		check_buckets(&latency, values, count);
	}
}

static void bounds_fall_into_the_bucket_above(void **state)
{
	(void)state;
	for (uint32_t bucket = 0; bucket + 1 < HF_LATENCY_BUCKETS; bucket++) {
		struct hf_latency latency = {0};
		uint64_t bound = hf_latency_bucket_bound_ns(bucket);
		hf_latency_add(&latency, bound - 1);
		hf_latency_add(&latency, bound);
		assert_int_equal(hf_latency_bucket_count(&latency, bucket), 1);
		assert_int_equal(hf_latency_bucket_count(&latency, bucket + 1), 1);
	}
}

static void the_last_bucket_holds_whatever_is_above(void **state)
{
	(void)state;
	struct hf_latency latency = {0};
	hf_latency_add(&latency, 5);
	hf_latency_add(&latency, UINT64_MAX);
	assert_int_equal(hf_latency_bucket_count(&latency, HF_LATENCY_BUCKETS - 1), 1);
	assert_int_equal(hf_latency_percentile_ns(&latency, 1), UINT64_MAX);
	assert_int_equal(hf_latency_bucket_count(&latency, HF_LATENCY_BUCKETS), 0);
	assert_true(hf_latency_bucket_bound_ns(HF_LATENCY_BUCKETS - 1) == UINT64_MAX);
}

static void nothing_counted_gives_zeros(void **state)
{
	(void)state;
	struct hf_latency latency = {0};
	assert_int_equal(hf_latency_percentile_ns(&latency, 0.5), 0);
	assert_int_equal(hf_latency_bucket_count(&latency, 0), 0);
}

static void a_full_counter_stays_full(void **state)
{
	(void)state;
	struct hf_latency latency = {0};
	latency.parts[0] = UINT32_MAX;
	latency.count = UINT32_MAX;
	hf_latency_add(&latency, 1);
	assert_int_equal(latency.parts[0], UINT32_MAX);
	assert_int_equal(latency.count, (uint64_t)UINT32_MAX + 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(percentiles_are_within_a_sixteenth_of_a_sorted_array),
	    cmocka_unit_test(bounds_fall_into_the_bucket_above),
	    cmocka_unit_test(the_last_bucket_holds_whatever_is_above),
	    cmocka_unit_test(nothing_counted_gives_zeros),
	    cmocka_unit_test(a_full_counter_stays_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
