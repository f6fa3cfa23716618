/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pre-copy of simulated guests: each page has a chance to be written in a millisecond, a round takes as long
 * as its pages need on the link, hot pages are left for last. It must end, and well.
 */
#include "tests/unit/core/cmocka_setup.h"

#include <inttypes.h>

#include "core/convergence.h"
#include "core/hotness.h"
#include "core/ramblock.h"
#include "tests/unit/core/random.h"

#define PAGES	   1024u
#define PAGE_BYTES (2ull << 20)
#define MS	   1000000ull
#define S	   1000000000ull
#define ENDLESS	   1000u /* rounds */

/* What the guest does: `hot` pages each written once in hot_ms, one of the others in each cold_us. */
struct workload {
	uint32_t hot;
	uint64_t hot_ms, cold_us;
};

struct world {
	struct workload workload;
	uint64_t rate_bytes_per_s, now_ns, cold_due_ns;
	uint32_t leave_out; /* rounds in which a page was dirtied to be left out; 0: none is */
	struct hf_convergence convergence;
	struct hf_hotness hotness;
	struct hf_pagemap dirtied, remaining, round;
	struct random random;
	uint64_t moved_pages;
};

static void open_world(struct world *world, const struct workload *workload, uint64_t rate_bytes_per_s,
		       const struct hf_convergence_config *config)
{
	*world = (struct world){.workload = *workload, .rate_bytes_per_s = rate_bytes_per_s, .random = {42}};
	assert_int_equal(hf_hotness_create(&world->hotness, PAGES), 0);
	assert_int_equal(hf_pagemap_create(&world->dirtied, PAGES), 0);
	assert_int_equal(hf_pagemap_create(&world->remaining, PAGES), 0);
	assert_int_equal(hf_pagemap_create(&world->round, PAGES), 0);
	for (uint32_t page = 0; page < PAGES; page++) {
		hf_pagemap_set(&world->remaining, page);
		hf_pagemap_set(&world->round, page);
	}
	hf_convergence_init(&world->convergence, config, PAGES * PAGE_BYTES);
}

static void close_world(struct world *world)
{
	hf_hotness_destroy(&world->hotness);
	hf_pagemap_destroy(&world->dirtied);
	hf_pagemap_destroy(&world->remaining);
	hf_pagemap_destroy(&world->round);
}

/* The guest runs while one page is moved. */
static void run_guest(struct world *world, uint64_t until_ns)
{
	for (uint32_t page = 0; page < world->workload.hot; page++) {
		uint64_t every_ns = world->workload.hot_ms * MS,
			 shift_ns = page * every_ns / world->workload.hot;
		if ((until_ns + shift_ns) / every_ns > (world->now_ns + shift_ns) / every_ns)
			hf_pagemap_set(&world->dirtied, page);
	}
	for (; world->workload.cold_us && world->cold_due_ns < until_ns;
	     world->cold_due_ns += world->workload.cold_us * 1000)
		hf_pagemap_set(&world->dirtied,
			       world->workload.hot +
				   (uint32_t)random_below(&world->random, PAGES - world->workload.hot));
	world->now_ns = until_ns;
}

/* Moves the pages of the round; a page that is dirtied while the round lasts is dirty after it. */
static uint32_t move_round(struct world *world)
{
	uint64_t page_ns = PAGE_BYTES * S / world->rate_bytes_per_s;
	uint32_t moved = 0;

	for (uint32_t page = 0; (page = hf_pagemap_next_set(&world->round, page)) != HF_PAGE_NONE;
	     page++, moved++) {
		run_guest(world, world->now_ns + page_ns);
		hf_pagemap_clear(&world->remaining, page);
	}
	if (!moved)
		run_guest(world, world->now_ns + MS);
	return moved;
}

static enum hf_convergence_next do_round(struct world *world)
{
	uint64_t start_ns = world->now_ns;
	uint32_t moved = move_round(world), left_out = 0;

	for (uint32_t page = 0; (page = hf_pagemap_next_set(&world->dirtied, page)) != HF_PAGE_NONE; page++)
		hf_pagemap_set(&world->remaining, page);
	hf_hotness_round(&world->hotness, &world->dirtied);
	hf_pagemap_copy(&world->round, &world->remaining);
	if (world->leave_out)
		left_out =
		    hf_hotness_plan(&world->hotness, &world->remaining, world->leave_out, &world->round);
	uint32_t dirtied = hf_pagemap_count(&world->dirtied), remaining = hf_pagemap_count(&world->remaining);
	for (uint32_t page = 0; page < PAGES; page++)
		hf_pagemap_clear(&world->dirtied, page);
	world->moved_pages += moved;
	const struct hf_convergence_round round = {.moved_bytes = moved * PAGE_BYTES,
						   .duration_ns = world->now_ns - start_ns,
						   .elapsed_ns = world->now_ns,
						   .dirtied_pages = dirtied,
						   .dirtied_bytes = dirtied * PAGE_BYTES,
						   .remaining_bytes = remaining * PAGE_BYTES,
						   .next_bytes = (remaining - left_out) * PAGE_BYTES,
						   .rate_bytes_per_s = world->rate_bytes_per_s};
	return hf_convergence_round_done(&world->convergence, &round);
}

static enum hf_convergence_next run(struct world *world)
{
	enum hf_convergence_next next = HF_NEXT_ROUND;

	while (next == HF_NEXT_ROUND && world->convergence.rounds < ENDLESS)
		next = do_round(world);
	return next;
}

static struct hf_convergence_config config_of(enum hf_convergence_else otherwise)
{
	return (struct hf_convergence_config){
	    .downtime_limit_ns = 50 * MS, .fixed_ns = 10 * MS, .otherwise = otherwise};
}

#define LINK 2147483648ull /* a page takes about 1 ms */

static void a_guest_that_writes_below_the_links_rate_switches_over_in_few_rounds(void **state)
{
	/* One page in 2 ms on a link that moves two in that time, and slower ones. */
	static const uint64_t every_us[] = {0, 100000, 10000, 4000, 2000};

	(void)state;
	for (int otherwise = HF_ELSE_POSTCOPY; otherwise <= HF_ELSE_FAIL; otherwise++) {
		for (unsigned i = 0; i < 5; i++) {
			const struct workload workload = {.cold_us = every_us[i]};
			const struct hf_convergence_config config =
			    config_of((enum hf_convergence_else)otherwise);
			struct world world;
			open_world(&world, &workload, LINK, &config);
			assert_int_equal(run(&world), HF_NEXT_SWITCH_OVER);
			assert_true(world.convergence.rounds <= 7);
			assert_true(world.convergence.expected_downtime_ns <= 50 * MS);
			close_world(&world);
		}
	}
}

static void a_guest_that_writes_above_the_links_rate_ends_as_the_operator_has_said(void **state)
{
	static const enum hf_convergence_next ends[] = {HF_NEXT_POSTCOPY, HF_NEXT_ROUND, HF_NEXT_FAIL};
	static const uint64_t every_us[] = {900, 500, 100, 10};

	(void)state;
	for (int otherwise = HF_ELSE_POSTCOPY; otherwise <= HF_ELSE_FAIL; otherwise++) {
		for (unsigned i = 0; i < 4; i++) {
			const struct workload workload = {.cold_us = every_us[i]};
			const struct hf_convergence_config config =
			    config_of((enum hf_convergence_else)otherwise);
			struct world world;
			open_world(&world, &workload, LINK, &config);
			assert_int_equal(run(&world), ends[otherwise]);
			if (otherwise != HF_ELSE_GO_ON)
				assert_true(world.convergence.rounds <= 20);
			assert_int_equal(world.convergence.reason, HF_REASON_STALLED);
			close_world(&world);
		}
	}
}

static void every_guest_ends_within_the_rounds_that_are_promised(void **state)
{
	struct random random = {5};
	uint32_t ends[4] = {0};

	(void)state;
	for (unsigned i = 0; i < 300; i++) {
		const struct workload workload = {.hot = (uint32_t)random_below(&random, 200),
						  .hot_ms = 1 + random_below(&random, 500),
						  .cold_us = 1 + random_below(&random, 5000)};
		const struct hf_convergence_config config = config_of(HF_ELSE_POSTCOPY);
		struct world world;
		open_world(&world, &workload, LINK, &config);
		world.leave_out = (uint32_t)random_below(&random, 5);
		enum hf_convergence_next next = run(&world);
		/* 3 x (1 + ln(1024 pages) / ln(1 / 0.9)) = 200 */
		assert_true(world.convergence.rounds <= 200);
		ends[next]++;
		close_world(&world);
	}
	assert_int_equal(ends[HF_NEXT_ROUND] + ends[HF_NEXT_FAIL], 0);
	assert_true(ends[HF_NEXT_SWITCH_OVER] > 20 && ends[HF_NEXT_POSTCOPY] > 20); /* both were tried */
}

/* Few pages written all the time: moving them in each round is in vain. */
static void leaving_hot_pages_for_last_moves_less_and_ends_the_same(void **state)
{
	const struct workload workload = {.hot = 30, .hot_ms = 5, .cold_us = 6000};
	const struct hf_convergence_config config = config_of(HF_ELSE_POSTCOPY);
	struct world with, without;

	(void)state;
	open_world(&without, &workload, LINK, &config);
	open_world(&with, &workload, LINK, &config);
	with.leave_out = 2;
	assert_int_equal(run(&without), HF_NEXT_SWITCH_OVER);
	assert_int_equal(run(&with), HF_NEXT_SWITCH_OVER);
	assert_true(with.moved_pages < without.moved_pages);
	/* What was left out is counted. */
	assert_true(hf_pagemap_count(&with.remaining) >= workload.hot);
	assert_int_equal(
	    with.convergence.expected_downtime_ns,
	    hf_convergence_downtime_ns(hf_pagemap_count(&with.remaining) * PAGE_BYTES, LINK, 10 * MS));
	close_world(&with);
	close_world(&without);
}

/* A round of all of them takes so long that the others never become few enough. */
static void leaving_hot_pages_for_last_converges_where_moving_them_does_not(void **state)
{
	const struct workload workload = {.hot = 30, .hot_ms = 5, .cold_us = 3000};
	const struct hf_convergence_config config = config_of(HF_ELSE_POSTCOPY);
	struct world with, without;

	(void)state;
	open_world(&without, &workload, LINK, &config);
	open_world(&with, &workload, LINK, &config);
	with.leave_out = 2;
	assert_int_equal(run(&without), HF_NEXT_POSTCOPY);
	assert_int_equal(run(&with), HF_NEXT_SWITCH_OVER);
	assert_true(with.moved_pages < without.moved_pages);
	close_world(&with);
	close_world(&without);
}

static void hot_pages_that_do_not_fit_into_the_pause_go_by_postcopy_not_round_and_round(void **state)
{
	const struct workload workload = {.hot = 100, .hot_ms = 5};
	const struct hf_convergence_config config = config_of(HF_ELSE_POSTCOPY);
	struct world world;

	(void)state;
	open_world(&world, &workload, LINK, &config);
	world.leave_out = 2;
	assert_int_equal(run(&world), HF_NEXT_POSTCOPY);
	assert_int_equal(world.convergence.reason, HF_REASON_ALL_HOT);
	assert_int_equal(world.moved_pages, PAGES + workload.hot); /* all once, the hot ones twice */
	assert_int_equal(hf_pagemap_count(&world.remaining), workload.hot);
	close_world(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_guest_that_writes_below_the_links_rate_switches_over_in_few_rounds),
	    cmocka_unit_test(a_guest_that_writes_above_the_links_rate_ends_as_the_operator_has_said),
	    cmocka_unit_test(every_guest_ends_within_the_rounds_that_are_promised),
	    cmocka_unit_test(leaving_hot_pages_for_last_moves_less_and_ends_the_same),
	    cmocka_unit_test(leaving_hot_pages_for_last_converges_where_moving_them_does_not),
	    cmocka_unit_test(hot_pages_that_do_not_fit_into_the_pause_go_by_postcopy_not_round_and_round),
	};
	return cmocka_run_group_tests_name("core/convergence workloads", tests, NULL, NULL);
}
