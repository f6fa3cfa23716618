/* SPDX-License-Identifier: Apache-2.0 */
/* Each rule of the decision, and all small cases against an oracle that knows only the history. */
#include "tests/unit/core/cmocka_setup.h"

#include <inttypes.h>
#include <string.h>

#include "core/convergence.h"

#define MS  1000000ull
#define S   1000000000ull
#define GIB (1ull << 30)

static struct hf_convergence_config usual(enum hf_convergence_else otherwise)
{
	return (struct hf_convergence_config){
	    .downtime_limit_ns = 300 * MS, .fixed_ns = 20 * MS, .otherwise = otherwise};
}

/* A round of one second at 1 GiB/s after which so much remains. */
static struct hf_convergence_round round_of(uint64_t remaining_bytes)
{
	return (struct hf_convergence_round){.moved_bytes = GIB,
					     .duration_ns = S,
					     .dirtied_pages = remaining_bytes / (2 << 20),
					     .dirtied_bytes = remaining_bytes,
					     .remaining_bytes = remaining_bytes,
					     .next_bytes = remaining_bytes};
}

static void expect(struct hf_convergence *convergence, const struct hf_convergence_round *round,
		   enum hf_convergence_next next, enum hf_convergence_reason reason)
{
	assert_int_equal(hf_convergence_round_done(convergence, round), next);
	assert_int_equal(convergence->reason, reason);
}

/* ---- expected downtime and rates ---- */

static void expected_downtime_is_what_remains_over_the_rate_and_the_fixed_cost(void **state)
{
	(void)state;
	assert_int_equal(hf_convergence_downtime_ns(0, 0, 7), 7);
	assert_int_equal(hf_convergence_downtime_ns(GIB, GIB, 7), S + 7);
	assert_int_equal(hf_convergence_downtime_ns(GIB, 4 * GIB, 0), S / 4);
	assert_true(hf_convergence_downtime_ns(1, 0, 7) == UINT64_MAX);
	assert_true(hf_convergence_downtime_ns(UINT64_MAX, 1, 7) == UINT64_MAX);
	assert_true(hf_convergence_downtime_ns(GIB, GIB, UINT64_MAX) == UINT64_MAX);
	assert_int_equal(hf_convergence_downtime_ns(UINT64_MAX, UINT64_MAX, UINT64_MAX - S), UINT64_MAX);
}

static void it_switches_over_exactly_at_the_limit(void **state)
{
	struct hf_convergence_config config = usual(HF_ELSE_POSTCOPY);
	struct hf_convergence convergence;
	struct hf_convergence_round round = round_of(0);

	(void)state;
	round.rate_bytes_per_s = 1000000000;
	round.remaining_bytes = round.next_bytes = 280000000;
	hf_convergence_init(&convergence, &config, 100 * GIB);
	expect(&convergence, &round, HF_NEXT_SWITCH_OVER, HF_REASON_WITHIN_LIMIT);
	assert_int_equal(convergence.expected_downtime_ns, 300 * MS);
	round.remaining_bytes++;
	hf_convergence_init(&convergence, &config, 100 * GIB);
	expect(&convergence, &round, HF_NEXT_ROUND, HF_REASON_SHRINKS);
	assert_int_equal(convergence.expected_downtime_ns, 300 * MS + 1);
}

static void rates_are_smoothed_and_a_link_that_became_slow_counts_at_once(void **state)
{
	struct hf_convergence_config config = usual(HF_ELSE_GO_ON);
	struct hf_convergence convergence;
	struct hf_convergence_round round = round_of(8 * GIB);

	(void)state;
	hf_convergence_init(&convergence, &config, 100 * GIB);
	round.rate_bytes_per_s = 4 * GIB;
	hf_convergence_round_done(&convergence, &round);
	assert_int_equal(convergence.rate_bytes_per_s, 4 * GIB);
	assert_int_equal(convergence.dirty_pages_per_s, 4096);
	assert_int_equal(convergence.dirty_bytes_per_s, 8 * GIB);
	round.rate_bytes_per_s = 2 * GIB; /* slower: believed */
	round.dirtied_pages = 0;
	hf_convergence_round_done(&convergence, &round);
	assert_int_equal(convergence.rate_bytes_per_s, 3 * GIB);
	assert_int_equal(convergence.expected_downtime_ns, 4 * S + 20 * MS);
	assert_int_equal(convergence.dirty_pages_per_s, 2048);
	round.rate_bytes_per_s = 5 * GIB; /* faster: eased into */
	hf_convergence_round_done(&convergence, &round);
	assert_int_equal(convergence.rate_bytes_per_s, 4 * GIB);
	assert_int_equal(convergence.expected_downtime_ns, 2 * S + 20 * MS);
}

static void without_a_measured_rate_the_rounds_own_counts_and_an_empty_round_says_nothing(void **state)
{
	struct hf_convergence_config config = usual(HF_ELSE_GO_ON);
	struct hf_convergence convergence;
	struct hf_convergence_round round = round_of(GIB);

	(void)state;
	hf_convergence_init(&convergence, &config, 100 * GIB);
	round.moved_bytes = 0;
	hf_convergence_round_done(&convergence, &round);
	assert_true(convergence.expected_downtime_ns == UINT64_MAX);
	round.moved_bytes = 2 * GIB;
	hf_convergence_round_done(&convergence, &round);
	assert_int_equal(convergence.rate_bytes_per_s, 2 * GIB);
	round.moved_bytes = 0;
	hf_convergence_round_done(&convergence, &round);
	assert_int_equal(convergence.rate_bytes_per_s, 2 * GIB);
	assert_int_equal(convergence.expected_downtime_ns, S / 2 + 20 * MS);
}

/* ---- the other rules ---- */

static void with_nothing_left_it_switches_over_whatever_that_costs(void **state)
{
	struct hf_convergence_config config = usual(HF_ELSE_FAIL);
	struct hf_convergence convergence;
	struct hf_convergence_round round = round_of(0);

	(void)state;
	config.fixed_ns = S; /* above the limit */
	config.rounds_max = 1;
	hf_convergence_init(&convergence, &config, GIB);
	expect(&convergence, &round, HF_NEXT_SWITCH_OVER, HF_REASON_NOTHING_LEFT);
	assert_int_equal(convergence.expected_downtime_ns, S);
}

static void what_comes_instead_is_what_the_operator_has_said(void **state)
{
	static const struct {
		enum hf_convergence_else wish;
		enum hf_convergence_next stalled, limited;
	} rows[] = {
	    {HF_ELSE_POSTCOPY, HF_NEXT_POSTCOPY, HF_NEXT_POSTCOPY},
	    {HF_ELSE_GO_ON, HF_NEXT_ROUND, HF_NEXT_FAIL},
	    {HF_ELSE_FAIL, HF_NEXT_FAIL, HF_NEXT_FAIL},
	};
	struct hf_convergence convergence;
	struct hf_convergence_round round = round_of(GIB);

	(void)state;
	for (unsigned i = 0; i < 3; i++) {
		struct hf_convergence_config config = usual(rows[i].wish);
		hf_convergence_init(&convergence, &config, GIB);
		for (unsigned n = 1; n < HF_CONVERGENCE_SHRINK_ROUNDS; n++)
			expect(&convergence, &round, HF_NEXT_ROUND, HF_REASON_SHRINKS);
		expect(&convergence, &round, rows[i].stalled, HF_REASON_STALLED);

		config.rounds_max = 2;
		hf_convergence_init(&convergence, &config, 4 * GIB);
		expect(&convergence, &round, HF_NEXT_ROUND, HF_REASON_SHRINKS);
		expect(&convergence, &round, rows[i].limited, HF_REASON_ROUNDS);

		config.deadline_ns = 60 * S;
		hf_convergence_init(&convergence, &config, 4 * GIB);
		round.elapsed_ns = 60 * S - 1;
		expect(&convergence, &round, HF_NEXT_ROUND, HF_REASON_SHRINKS);
		round.elapsed_ns++;
		expect(&convergence, &round, rows[i].limited, HF_REASON_DEADLINE);
		round.elapsed_ns = 0;

		config = usual(rows[i].wish);
		hf_convergence_init(&convergence, &config, 4 * GIB);
		round.next_bytes = 0;
		expect(&convergence, &round, rows[i].stalled, HF_REASON_ALL_HOT);
		round.next_bytes = GIB;
	}
}

static void another_limit_counts_from_the_next_round(void **state)
{
	struct hf_convergence_config config = usual(HF_ELSE_GO_ON);
	struct hf_convergence convergence;
	struct hf_convergence_round round = round_of(GIB);

	(void)state;
	hf_convergence_init(&convergence, &config, GIB);
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(hf_convergence_round_done(&convergence, &round), HF_NEXT_ROUND);
	config.downtime_limit_ns = 2 * S;
	hf_convergence_configure(&convergence, &config);
	expect(&convergence, &round, HF_NEXT_SWITCH_OVER, HF_REASON_WITHIN_LIMIT);
}

static void no_value_overflows(void **state)
{
	static const uint64_t values[] = {0, 1, S, UINT64_MAX - 1, UINT64_MAX};
	struct hf_convergence convergence;

	(void)state;
	for (unsigned i = 0; i < 5 * 5 * 5 * 5; i++) {
		struct hf_convergence_config config = {.fixed_ns = values[i % 5]};
		struct hf_convergence_round round = {.moved_bytes = values[i % 5],
						     .duration_ns = values[i / 5 % 5],
						     .dirtied_pages = values[i / 25 % 5],
						     .dirtied_bytes = values[i / 25 % 5],
						     .remaining_bytes = values[i / 25 % 5],
						     .next_bytes = 1,
						     .rate_bytes_per_s = values[i / 125]};
		hf_convergence_init(&convergence, &config, values[i / 5 % 5]);
		for (unsigned n = 0; n < 4; n++)
			hf_convergence_round_done(&convergence, &round);
		assert_true(convergence.expected_downtime_ns >= config.fixed_ns);
	}
}

static void every_reason_has_a_text_of_its_own(void **state)
{
	(void)state;
	for (int i = 0; i <= HF_REASON_ROUNDS; i++)
		for (int j = 0; j < i; j++)
			assert_string_not_equal(hf_convergence_reason_text((enum hf_convergence_reason)i),
						hf_convergence_reason_text((enum hf_convergence_reason)j));
}

/* ---- all small cases ---- */

#define LENGTH 6u /* of a history */

/*
 * Has it stalled after these rounds? From the whole history, remaining[0] being the initial amount: for some
 * start, which is the beginning or a round that was enough below the start before it, N rounds were not.
 */
static int oracle_stalled(const uint64_t *remaining, uint32_t rounds, uint32_t percent, uint32_t limit)
{
	uint32_t start = 0;

	for (uint32_t i = 1; i <= rounds; i++)
		if ((double)remaining[i] * 100.0 <= (double)remaining[start] * (double)(100 - percent))
			start = i;
	return rounds - start >= limit;
}

static enum hf_convergence_next oracle(const struct hf_convergence_config *config, const uint64_t *remaining,
				       uint32_t rounds)
{
	/* 1 unit takes 100 ms. */
	if (remaining[rounds] == 0 ||
	    remaining[rounds] * 100 * MS + config->fixed_ns <= config->downtime_limit_ns)
		return HF_NEXT_SWITCH_OVER;
	int limited = config->rounds_max && rounds >= config->rounds_max;
	if (!limited && !oracle_stalled(remaining, rounds, config->shrink_percent, config->shrink_rounds))
		return HF_NEXT_ROUND;
	if (config->otherwise == HF_ELSE_POSTCOPY)
		return HF_NEXT_POSTCOPY;
	return config->otherwise == HF_ELSE_GO_ON && !limited ? HF_NEXT_ROUND : HF_NEXT_FAIL;
}

static void play(const struct hf_convergence_config *config, const uint64_t *remaining)
{
	struct hf_convergence convergence;

	hf_convergence_init(&convergence, config, remaining[0]);
	for (uint32_t i = 1; i < LENGTH; i++) {
		const struct hf_convergence_round round = {.moved_bytes = remaining[i - 1],
							   .duration_ns = S,
							   .dirtied_bytes = remaining[i],
							   .remaining_bytes = remaining[i],
							   .next_bytes = remaining[i],
							   .rate_bytes_per_s = 10};
		enum hf_convergence_next next = hf_convergence_round_done(&convergence, &round);
		if (next != oracle(config, remaining, i))
			fail_msg("after %u rounds %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64
				 " %" PRIu64 " it says %d, the oracle %d",
				 i, remaining[0], remaining[1], remaining[2], remaining[3], remaining[4],
				 remaining[5], (int)next, (int)oracle(config, remaining, i));
		if (next != HF_NEXT_ROUND)
			return;
	}
}

static void all_histories_of_five_rounds_are_decided_as_the_oracle_does(void **state)
{
	static const uint64_t amounts[] = {0, 1, 4, 9, 10, 20};
	uint64_t remaining[LENGTH];

	(void)state;
	for (unsigned c = 0; c < 3 * 2 * 2 * 2 * 2; c++) {
		const struct hf_convergence_config config = {.downtime_limit_ns = c / 3 % 2 ? 0 : 300 * MS,
							     .fixed_ns = 200 * MS,
							     .rounds_max = c / 6 % 2 ? 3 : 0,
							     .shrink_percent = c / 12 % 2 ? 10 : 50,
							     .shrink_rounds = c / 24 % 2 ? 1 : 2,
							     .otherwise = (enum hf_convergence_else)(c % 3)};
		for (unsigned h = 0; h < 6 * 6 * 6 * 6 * 6 * 6; h++) {
			unsigned rest = h;
			for (unsigned i = 0; i < LENGTH; i++, rest /= 6)
				remaining[i] = amounts[rest % 6];
			play(&config, remaining);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(expected_downtime_is_what_remains_over_the_rate_and_the_fixed_cost),
	    cmocka_unit_test(it_switches_over_exactly_at_the_limit),
	    cmocka_unit_test(rates_are_smoothed_and_a_link_that_became_slow_counts_at_once),
	    cmocka_unit_test(without_a_measured_rate_the_rounds_own_counts_and_an_empty_round_says_nothing),
	    cmocka_unit_test(with_nothing_left_it_switches_over_whatever_that_costs),
	    cmocka_unit_test(what_comes_instead_is_what_the_operator_has_said),
	    cmocka_unit_test(another_limit_counts_from_the_next_round),
	    cmocka_unit_test(no_value_overflows),
	    cmocka_unit_test(every_reason_has_a_text_of_its_own),
	    cmocka_unit_test(all_histories_of_five_rounds_are_decided_as_the_oracle_does),
	};
	return cmocka_run_group_tests_name("core/convergence", tests, NULL, NULL);
}
