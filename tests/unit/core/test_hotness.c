/* SPDX-License-Identifier: Apache-2.0 */
/* Which pages are left for last. */
#include "tests/unit/core/cmocka_setup.h"

#include <stdbool.h>
#include <string.h>

#include "core/hotness.h"
#include "core/ramblock.h"
#include "tests/unit/core/random.h"

#define PAGES 77u

static struct hf_hotness hotness;
static struct hf_pagemap dirtied, remaining, planned;

static int set_up(void **state)
{
	(void)state;
	return hf_hotness_create(&hotness, PAGES) || hf_pagemap_create(&dirtied, PAGES) ||
	       hf_pagemap_create(&remaining, PAGES) || hf_pagemap_create(&planned, PAGES);
}

static int tear_down(void **state)
{
	(void)state;
	hf_hotness_destroy(&hotness);
	hf_pagemap_destroy(&dirtied);
	hf_pagemap_destroy(&remaining);
	hf_pagemap_destroy(&planned);
	return 0;
}

/* The dirty bits of a round, drawn anew: page p with p in PAGES chances. */
static void draw(struct random *random)
{
	for (uint32_t page = 0; page < PAGES; page++) {
		if (random_below(random, PAGES) < page)
			hf_pagemap_set(&dirtied, page);
		else
			hf_pagemap_clear(&dirtied, page);
	}
}

static void the_last_eight_rounds_are_remembered_exactly(void **state)
{
	enum { ROUNDS = 40 };
	bool told[ROUNDS][PAGES];
	struct random random = {1};

	(void)state;
	for (uint32_t round = 0; round < ROUNDS; round++) {
		draw(&random);
		hf_hotness_round(&hotness, &dirtied);
		for (uint32_t page = 0; page < PAGES; page++) {
			uint32_t in_a_row = 0;
			bool broken = false;
			told[round][page] = hf_pagemap_test(&dirtied, page);
			for (uint32_t back = 0; back < HF_HOTNESS_ROUNDS && back <= round; back++) {
				broken |= !told[round - back][page];
				in_a_row += !broken;
			}
			for (uint32_t rounds = 1; rounds <= HF_HOTNESS_ROUNDS; rounds++)
				assert_int_equal(hf_hotness_is_hot(&hotness, page, rounds),
						 in_a_row >= rounds);
		}
	}
}

static void a_page_dirtied_in_each_of_the_last_rounds_is_left_out_and_stays_to_be_moved(void **state)
{
	(void)state;
	hf_pagemap_set(&dirtied, 5);
	hf_pagemap_set(&dirtied, 70);
	hf_pagemap_set(&remaining, 3);
	hf_pagemap_set(&remaining, 5); /* 70 is hot, and was moved */
	for (uint32_t round = 1; round <= 3; round++) {
		hf_hotness_round(&hotness, &dirtied);
		assert_int_equal(hf_hotness_plan(&hotness, &remaining, 3, &planned), round == 3);
		assert_int_equal(hf_pagemap_test(&planned, 5), round < 3);
		assert_true(hf_pagemap_test(&planned, 3));
		assert_int_equal(hf_pagemap_count(&planned), round < 3 ? 2 : 1);
		assert_int_equal(hf_pagemap_count(&remaining), 2);
	}
}

static void a_page_that_cools_down_is_moved_again(void **state)
{
	(void)state;
	hf_pagemap_set(&dirtied, 9);
	hf_pagemap_set(&remaining, 9);
	for (uint32_t round = 0; round < 20; round++)
		hf_hotness_round(&hotness, &dirtied);
	assert_int_equal(hf_hotness_plan(&hotness, &remaining, 8, &planned), 1);
	hf_pagemap_clear(&dirtied, 9);
	hf_hotness_round(&hotness, &dirtied);
	assert_int_equal(hf_hotness_plan(&hotness, &remaining, 1, &planned), 0);
	assert_true(hf_pagemap_test(&planned, 9));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(the_last_eight_rounds_are_remembered_exactly, set_up, tear_down),
	    cmocka_unit_test_setup_teardown(
		a_page_dirtied_in_each_of_the_last_rounds_is_left_out_and_stays_to_be_moved, set_up,
		tear_down),
	    cmocka_unit_test_setup_teardown(a_page_that_cools_down_is_moved_again, set_up, tear_down),
	};
	return cmocka_run_group_tests_name("core/hotness", tests, NULL, NULL);
}
