/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/pagemap.h"
#include "core/ramblock.h"
#include "tests/unit/core/random.h"

/* A model: one byte a page. */
static uint32_t model_next(const uint8_t *model, uint32_t pages, uint32_t from, uint8_t value)
{
	for (uint32_t page = from; page < pages; page++)
		if (model[page] == value)
			return page;
	return HF_PAGE_NONE;
}

static void compare(const struct hf_pagemap *map, const uint8_t *model)
{
	uint32_t count = 0;
	for (uint32_t page = 0; page < map->pages; page++) {
		assert_int_equal(hf_pagemap_test(map, page), model[page]);
		count += model[page];
	}
	assert_int_equal(hf_pagemap_count(map), count);
	for (uint32_t from = 0; from <= map->pages + 9; from++) {
		assert_int_equal(hf_pagemap_next_set(map, from), model_next(model, map->pages, from, 1));
		assert_int_equal(hf_pagemap_next_clear(map, from), model_next(model, map->pages, from, 0));
	}
}

static void set_clear_and_scans_agree_with_a_model_for_every_size(void **state)
{
	(void)state;
	struct random random = {7};
	for (uint32_t pages = 0; pages <= 200; pages++) {
		struct hf_pagemap map;
		uint8_t model[200] = {0};
		assert_int_equal(hf_pagemap_create(&map, pages), 0);
		compare(&map, model);
		for (uint32_t i = 0; i < pages; i++) {
			uint32_t page = (uint32_t)random_below(&random, pages);
			uint8_t value = random_below(&random, 4) != 0;
			bool before = value ? hf_pagemap_set(&map, page) : hf_pagemap_clear(&map, page);
			assert_int_equal(before, model[page]);
			model[page] = value;
		}
		compare(&map, model);
		hf_pagemap_destroy(&map);
	}
}

static void long_runs_are_skipped_without_losing_a_page(void **state)
{
	(void)state;
	const uint32_t pages = 3001;
	struct hf_pagemap map;
	assert_int_equal(hf_pagemap_create(&map, pages), 0);
	for (uint32_t only = 0; only < pages; only += 37) {
		hf_pagemap_set(&map, only);
		assert_int_equal(hf_pagemap_next_set(&map, 0), only);
		assert_int_equal(hf_pagemap_next_set(&map, only + 1), HF_PAGE_NONE);
		hf_pagemap_clear(&map, only);
	}
	for (uint32_t page = 0; page < pages; page++)
		hf_pagemap_set(&map, page);
	for (uint32_t only = 0; only < pages; only += 37) {
		hf_pagemap_clear(&map, only);
		assert_int_equal(hf_pagemap_next_clear(&map, 0), only);
		assert_int_equal(hf_pagemap_next_clear(&map, only + 1), HF_PAGE_NONE);
		hf_pagemap_set(&map, only);
	}
	assert_int_equal(hf_pagemap_count(&map), pages);
	hf_pagemap_destroy(&map);
}

static void the_first_page_is_the_lowest_bit_of_the_first_byte(void **state)
{
	(void)state;
	uint8_t bits[2] = {0};
	struct hf_pagemap map;
	hf_pagemap_wrap(&map, bits, 12);
	hf_pagemap_set(&map, 0);
	hf_pagemap_set(&map, 7);
	hf_pagemap_set(&map, 9);
	assert_int_equal(bits[0], 0x81);
	assert_int_equal(bits[1], 0x02);
	hf_pagemap_destroy(&map);
	assert_int_equal(bits[0], 0x81); /* borrowed bits outlive the map */
}

static void padding_in_borrowed_bits_is_never_taken_for_pages(void **state)
{
	(void)state;
	for (uint32_t pages = 1; pages <= 150; pages++) {
		size_t bytes = hf_pagemap_bytes(pages);
		uint8_t *bits = malloc(bytes);
		struct hf_pagemap map;

		memset(bits, 0, bytes);
		if (pages % 8)
			bits[bytes - 1] = (uint8_t)(0xff << pages % 8);
		hf_pagemap_wrap(&map, bits, pages);
		assert_int_equal(hf_pagemap_count(&map), 0);
		assert_int_equal(hf_pagemap_next_set(&map, 0), HF_PAGE_NONE);

		memset(bits, 0xff, bytes);
		if (pages % 8)
			bits[bytes - 1] = (uint8_t) ~(0xff << pages % 8);
		assert_int_equal(hf_pagemap_count(&map), pages);
		assert_int_equal(hf_pagemap_next_clear(&map, 0), HF_PAGE_NONE);
		free(bits);
	}
}

static void import_copies_exactly_its_pages(void **state)
{
	(void)state;
	struct random random = {11};
	for (int round = 0; round < 4000; round++) {
		uint8_t model[160], bits[20];
		struct hf_pagemap map;
		uint32_t pages = 1 + (uint32_t)random_below(&random, 160);
		uint32_t first = (uint32_t)random_below(&random, pages + 1);
		uint32_t count = (uint32_t)random_below(&random, pages - first + 1);

		assert_int_equal(hf_pagemap_create(&map, pages), 0);
		for (uint32_t page = 0; page < pages; page++) {
			model[page] = (uint8_t)random_below(&random, 2);
			if (model[page])
				hf_pagemap_set(&map, page);
		}
		memset(bits, 0, sizeof(bits));
		for (uint32_t i = 0; i < count; i++) {
			model[first + i] = (uint8_t)random_below(&random, 2);
			bits[i / 8] |= (uint8_t)(model[first + i] << i % 8);
		}
		assert_int_equal(hf_pagemap_import(&map, first, count, bits, (count + 7) / 8), 0);
		compare(&map, model);

		uint8_t back[20];
		memset(back, 0xaa, sizeof(back));
		hf_pagemap_export(&map, first, count, back);
		assert_memory_equal(back, bits, (count + 7) / 8);
		if (count < 8 * 19)
			assert_int_equal(back[(count + 7) / 8], 0xaa);
		hf_pagemap_destroy(&map);
	}
}

static void a_copy_and_a_complement_are_right_for_every_size(void **state)
{
	(void)state;
	struct random random = {12};
	for (uint32_t pages = 1; pages <= 160; pages++) {
		struct hf_pagemap map, copy, complement;
		assert_int_equal(hf_pagemap_create(&map, pages), 0);
		assert_int_equal(hf_pagemap_create(&copy, pages), 0);
		assert_int_equal(hf_pagemap_create(&complement, pages), 0);
		hf_pagemap_set(&copy, pages - 1); /* what was there before does not count */
		hf_pagemap_set(&complement, 0);
		for (uint32_t page = 0; page < pages; page++)
			if (random_below(&random, 2))
				hf_pagemap_set(&map, page);
		hf_pagemap_copy(&copy, &map);
		hf_pagemap_complement(&complement, &map);
		for (uint32_t page = 0; page < pages; page++) {
			assert_int_equal(hf_pagemap_test(&copy, page), hf_pagemap_test(&map, page));
			assert_int_equal(hf_pagemap_test(&complement, page), !hf_pagemap_test(&map, page));
		}
		assert_int_equal(hf_pagemap_count(&complement), pages - hf_pagemap_count(&map));
		hf_pagemap_destroy(&map);
		hf_pagemap_destroy(&copy);
		hf_pagemap_destroy(&complement);
	}
}

static void import_refuses_what_does_not_fit(void **state)
{
	(void)state;
	struct hf_pagemap map;
	uint8_t bits[4] = {0xff, 0xff, 0xff, 0xff};
	assert_int_equal(hf_pagemap_create(&map, 20), 0);

	assert_int_equal(hf_pagemap_import(&map, 0, 21, bits, 3), -ERANGE);
	assert_int_equal(hf_pagemap_import(&map, 13, 8, bits, 1), -ERANGE);
	assert_int_equal(hf_pagemap_import(&map, 21, 0, bits, 0), -ERANGE);
	assert_int_equal(hf_pagemap_import(&map, UINT32_MAX, 8, bits, 1), -ERANGE);
	assert_int_equal(hf_pagemap_import(&map, 8, UINT32_MAX, bits, 1), -ERANGE);
	assert_int_equal(hf_pagemap_import(&map, 0, 16, bits, 1), -EINVAL);
	assert_int_equal(hf_pagemap_import(&map, 0, 16, bits, 3), -EINVAL);
	assert_int_equal(hf_pagemap_import(&map, 0, 12, bits, 2), -EINVAL); /* padding is set */
	assert_int_equal(hf_pagemap_count(&map), 0);
	assert_int_equal(hf_pagemap_import(&map, 12, 8, bits, 1), 0);
	assert_int_equal(hf_pagemap_count(&map), 8);
	hf_pagemap_destroy(&map);
}

#define SHARED_PAGES 4096u

static void *set_every_fourth(void *opaque)
{
	void **arguments = opaque;
	for (uint32_t page = (uint32_t)(uintptr_t)arguments[1]; page < SHARED_PAGES; page += 4)
		hf_pagemap_set(arguments[0], page);
	return NULL;
}

static void threads_that_set_bits_of_one_byte_lose_none(void **state)
{
	(void)state;
	struct hf_pagemap map;
	pthread_t threads[4];
	void *arguments[4][2];

	assert_int_equal(hf_pagemap_create(&map, SHARED_PAGES), 0);
	for (uintptr_t i = 0; i < 4; i++) {
		arguments[i][0] = &map;
		arguments[i][1] = (void *)i;
		assert_int_equal(pthread_create(&threads[i], NULL, set_every_fourth, arguments[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(hf_pagemap_count(&map), SHARED_PAGES);
	hf_pagemap_destroy(&map);
}

static void destroying_nothing_is_harmless(void **state)
{
	(void)state;
	struct hf_pagemap map = {0};
	hf_pagemap_destroy(&map);
	hf_pagemap_destroy(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(set_clear_and_scans_agree_with_a_model_for_every_size),
	    cmocka_unit_test(long_runs_are_skipped_without_losing_a_page),
	    cmocka_unit_test(the_first_page_is_the_lowest_bit_of_the_first_byte),
	    cmocka_unit_test(padding_in_borrowed_bits_is_never_taken_for_pages),
	    cmocka_unit_test(import_copies_exactly_its_pages),
	    cmocka_unit_test(import_refuses_what_does_not_fit),
	    cmocka_unit_test(a_copy_and_a_complement_are_right_for_every_size),
	    cmocka_unit_test(threads_that_set_bits_of_one_byte_lose_none),
	    cmocka_unit_test(destroying_nothing_is_harmless),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
