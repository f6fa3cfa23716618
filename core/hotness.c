/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A byte of history a page is a shift register: each round shifts in whether the page was dirtied. Two
 * questions are asked of it: how often (its number of bits), which gives the order, and was it each of the
 * last K times (its K lowest bits), which leaves it out. A page that was left out and then is not dirtied for
 * one round is no longer hot and moves in the next: nothing is left out for good unless it is dirtied in
 * every round for good.
 *
 * The walk goes over the round once for each of the nine possible counts; words of the bitmap without a page
 * are skipped, so what it costs is nine looks at each page of the round, no memory and no sorting.
 */
#include "core/hotness.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "core/ramblock.h"

int hf_hotness_create(struct hf_hotness *hotness, uint32_t pages)
{
	uint8_t *history = calloc(pages ? pages : 1, 1);

	if (!history)
		return -ENOMEM;
	*hotness = (struct hf_hotness){.history = history, .pages = pages};
	return 0;
}

void hf_hotness_destroy(struct hf_hotness *hotness)
{
	free(hotness->history);
	*hotness = (struct hf_hotness){0};
}

void hf_hotness_round(struct hf_hotness *hotness, const struct hf_pagemap *dirtied)
{
	assert(dirtied->pages == hotness->pages);
	for (uint32_t page = 0; page < hotness->pages; page++)
		hotness->history[page] =
		    (uint8_t)(hotness->history[page] << 1 | (dirtied->bits[page / 8] >> page % 8 & 1));
}

uint32_t hf_hotness_count(const struct hf_hotness *hotness, uint32_t page)
{
	return (uint32_t)__builtin_popcount(hotness->history[page]);
}

bool hf_hotness_is_hot(const struct hf_hotness *hotness, uint32_t page, uint32_t rounds)
{
	assert(rounds > 0 && rounds <= HF_HOTNESS_ROUNDS);
	uint8_t last = (uint8_t)((1u << rounds) - 1);

	return (hotness->history[page] & last) == last;
}

uint32_t hf_hotness_plan(const struct hf_hotness *hotness, const struct hf_pagemap *remaining,
			 uint32_t rounds, struct hf_pagemap *round)
{
	uint32_t left_out = 0;

	hf_pagemap_copy(round, remaining);
	for (uint32_t page = 0; (page = hf_pagemap_next_set(remaining, page)) != HF_PAGE_NONE; page++) {
		if (!hf_hotness_is_hot(hotness, page, rounds))
			continue;
		hf_pagemap_clear(round, page);
		left_out++;
	}
	return left_out;
}

uint32_t hf_hotness_next(const struct hf_hotness *hotness, const struct hf_pagemap *round,
			 struct hf_hotness_walk *walk)
{
	while (walk->count <= HF_HOTNESS_ROUNDS) {
		uint32_t page = hf_pagemap_next_set(round, walk->from);
		if (page == HF_PAGE_NONE) {
			walk->count++;
			walk->from = 0;
			continue;
		}
		walk->from = page + 1;
		if (hf_hotness_count(hotness, page) == walk->count)
			return page;
	}
	return HF_PAGE_NONE;
}
