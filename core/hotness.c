/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A byte of history a page is a shift register: each round shifts in whether the page was dirtied. A page
 * whose K lowest bits are set was dirtied in each of the last K rounds, and is left out. One that was left
 * out and then is not dirtied for one round is no longer hot and moves in the next: nothing is left out for
 * good unless it is dirtied in every round for good.
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
