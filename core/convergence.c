/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * After each round, with R the bytes that remain to be moved:
 *
 *     expected downtime = R / rate + fixed
 *
 * R counts hot pages that rounds leave out: they are moved within the pause. The rate is the lower of the
 * last one measured and the smoothed one, so that a link which has just become slow does not pass for fast,
 * nor one good round for a fast link. The first that holds decides:
 *
 *   1. R = 0: switch over. The pause is `fixed`, and neither a round nor postcopy can make it shorter.
 *   2. expected downtime <= limit: switch over.
 *   3. the deadline has passed, or this was the last round allowed: otherwise-but-not-on.
 *   4. it does not converge: otherwise.
 *   5. another round.
 *
 * It does not converge if for N rounds in a row the dirty set has not shrunk by X percent of what it was, or
 * if another round would move nothing since only hot pages remain. What it was, L, is the initial amount at
 * first; a round that leaves R <= (1 - X) L sets L to R and N counts from there. A dirty set that creeps down
 * slower than X percent in N rounds, or that goes up and down, does not converge.
 *
 * Why it ends, unless the operator has said to go on: each time N starts over, L has become (1 - X) L or
 * less, and below one page there is nothing left. So with T the initial bytes and s the smallest page (or
 * what the limit lets move in the pause, if that is more) there are at most
 *
 *     N x (1 + log(T / s) / log(1 / (1 - X)))      e.g. 3 x 132 for 1 TiB down to 1 MiB, X = 10
 *
 * rounds, each no longer than T / rate; one that converges well takes few: with dirty rate d and link rate b
 * below it, R shrinks by d / b each round.
 */
#include "core/convergence.h"

#include <assert.h>

#define NS_PER_S     1000000000ull
#define SMOOTH_PARTS 2u /* a new measurement counts one part in so many */

void hf_convergence_configure(struct hf_convergence *convergence, const struct hf_convergence_config *config)
{
	assert(config->shrink_percent < 100);
	convergence->config = *config;
	if (!config->shrink_percent)
		convergence->config.shrink_percent = HF_CONVERGENCE_SHRINK_PERCENT;
	if (!config->shrink_rounds)
		convergence->config.shrink_rounds = HF_CONVERGENCE_SHRINK_ROUNDS;
}

void hf_convergence_init(struct hf_convergence *convergence, const struct hf_convergence_config *config,
			 uint64_t initial_bytes)
{
	*convergence = (struct hf_convergence){.low_bytes = initial_bytes};
	hf_convergence_configure(convergence, config);
}

/* ---- measuring ---- */

/* a x b / divisor, UINT64_MAX if that is more. */
static uint64_t multiply_divide(uint64_t a, uint64_t b, uint64_t divisor)
{
	unsigned __int128 result = (unsigned __int128)a * b / divisor;

	return result > UINT64_MAX ? UINT64_MAX : (uint64_t)result;
}

static uint64_t per_second(uint64_t amount, uint64_t duration_ns)
{
	return multiply_divide(amount, NS_PER_S, duration_ns ? duration_ns : 1);
}

static uint64_t smooth(uint64_t before, uint64_t measured, bool first)
{
	if (first)
		return measured;
	return measured > before ? before + (measured - before) / SMOOTH_PARTS
				 : before - (before - measured) / SMOOTH_PARTS;
}

uint64_t hf_convergence_downtime_ns(uint64_t bytes, uint64_t rate_bytes_per_s, uint64_t fixed_ns)
{
	uint64_t moving_ns = 0, total_ns;

	if (bytes && !rate_bytes_per_s)
		return UINT64_MAX;
	if (bytes)
		moving_ns = multiply_divide(bytes, NS_PER_S, rate_bytes_per_s);
	return __builtin_add_overflow(moving_ns, fixed_ns, &total_ns) ? UINT64_MAX : total_ns;
}

/* A round that moved nothing, and of which no rate is told, says nothing. */
static void measure_link(struct hf_convergence *convergence, const struct hf_convergence_round *round)
{
	uint64_t measured = round->rate_bytes_per_s;

	if (!measured && round->moved_bytes)
		measured = per_second(round->moved_bytes, round->duration_ns);
	if (!measured)
		return;
	convergence->rate_bytes_per_s =
	    smooth(convergence->rate_bytes_per_s, measured, convergence->rate_bytes_per_s == 0);
	convergence->safe_rate_bytes_per_s =
	    measured < convergence->rate_bytes_per_s ? measured : convergence->rate_bytes_per_s;
}

static void measure(struct hf_convergence *convergence, const struct hf_convergence_round *round)
{
	bool first = convergence->rounds == 0;

	convergence->dirty_pages_per_s = smooth(convergence->dirty_pages_per_s,
						per_second(round->dirtied_pages, round->duration_ns), first);
	convergence->dirty_bytes_per_s = smooth(convergence->dirty_bytes_per_s,
						per_second(round->dirtied_bytes, round->duration_ns), first);
	measure_link(convergence, round);
	convergence->expected_downtime_ns = hf_convergence_downtime_ns(
	    round->remaining_bytes, convergence->safe_rate_bytes_per_s, convergence->config.fixed_ns);
	convergence->rounds++;
}

/* ---- deciding ---- */

static void watch_shrinking(struct hf_convergence *convergence, uint64_t remaining_bytes)
{
	unsigned __int128 enough =
	    (unsigned __int128)convergence->low_bytes * (100 - convergence->config.shrink_percent);

	convergence->rounds_low++;
	if ((unsigned __int128)remaining_bytes * 100 > enough)
		return;
	convergence->low_bytes = remaining_bytes;
	convergence->rounds_low = 0;
}

static enum hf_convergence_reason find_reason(const struct hf_convergence *convergence,
					      const struct hf_convergence_round *round)
{
	const struct hf_convergence_config *config = &convergence->config;

	if (round->remaining_bytes == 0)
		return HF_REASON_NOTHING_LEFT;
	if (convergence->expected_downtime_ns <= config->downtime_limit_ns)
		return HF_REASON_WITHIN_LIMIT;
	if (config->deadline_ns && round->elapsed_ns >= config->deadline_ns)
		return HF_REASON_DEADLINE;
	if (config->rounds_max && convergence->rounds >= config->rounds_max)
		return HF_REASON_ROUNDS;
	if (round->next_bytes == 0)
		return HF_REASON_ALL_HOT;
	return convergence->rounds_low >= config->shrink_rounds ? HF_REASON_STALLED : HF_REASON_SHRINKS;
}

static enum hf_convergence_next otherwise(enum hf_convergence_else wish, bool may_go_on)
{
	if (wish == HF_ELSE_POSTCOPY)
		return HF_NEXT_POSTCOPY;
	return wish == HF_ELSE_GO_ON && may_go_on ? HF_NEXT_ROUND : HF_NEXT_FAIL;
}

static enum hf_convergence_next follow(enum hf_convergence_reason reason, enum hf_convergence_else wish)
{
	switch (reason) {
	case HF_REASON_WITHIN_LIMIT:
	case HF_REASON_NOTHING_LEFT:
		return HF_NEXT_SWITCH_OVER;
	case HF_REASON_STALLED:
	case HF_REASON_ALL_HOT:
		return otherwise(wish, true);
	case HF_REASON_DEADLINE:
	case HF_REASON_ROUNDS:
		return otherwise(wish, false);
	case HF_REASON_SHRINKS:
		break;
	}
	return HF_NEXT_ROUND;
}

enum hf_convergence_next hf_convergence_round_done(struct hf_convergence *convergence,
						   const struct hf_convergence_round *round)
{
	measure(convergence, round);
	watch_shrinking(convergence, round->remaining_bytes);
	convergence->reason = find_reason(convergence, round);
	return follow(convergence->reason, convergence->config.otherwise);
}

const char *hf_convergence_reason_text(enum hf_convergence_reason reason)
{
	switch (reason) {
	case HF_REASON_SHRINKS:
		return "the dirty set shrinks";
	case HF_REASON_WITHIN_LIMIT:
		return "the expected downtime is within the limit";
	case HF_REASON_NOTHING_LEFT:
		return "nothing is left to be moved";
	case HF_REASON_STALLED:
		return "the dirty set no longer shrinks: the guest writes about as fast as the link carries, "
		       "or faster";
	case HF_REASON_ALL_HOT:
		return "all pages that are left are written in every round";
	case HF_REASON_DEADLINE:
		return "the deadline of pre-copy has passed";
	case HF_REASON_ROUNDS:
		return "the last round that was allowed has ended";
	}
	return "unknown";
}
