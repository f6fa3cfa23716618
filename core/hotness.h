/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hotness.h - which pages a guest writes all the time, and are best moved last.
 *
 * Purpose: remembers for each page in which of the last eight rounds of pre-copy it was dirtied. A round
 * moves pages that are seldom dirtied first, so that the others have most time to be dirtied before they are
 * moved, not after; and leaves out pages that were dirtied in each of the last rounds: moving them again
 * would be in vain. They wait for the switchover or postcopy, and count in what remains (convergence.h).
 *
 * Ownership: create and destroy. One byte a page; nothing is allocated afterwards.
 * Threads: none inside; the caller holds its lock.
 * Units: pages, numbered as the caller's bitmaps are.
 * Errors: 0 or -errno.
 */
#ifndef HF_CORE_HOTNESS_H
#define HF_CORE_HOTNESS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/pagemap.h"

#define HF_HOTNESS_ROUNDS      8u /* that are remembered */
#define HF_HOTNESS_HOT_DEFAULT 3u

struct hf_hotness {
	uint8_t *history; /* a bit a round, the last one lowest */
	uint32_t pages;
};

int hf_hotness_create(struct hf_hotness *hotness, uint32_t pages); /* none was ever dirtied */
void hf_hotness_destroy(struct hf_hotness *hotness);

/*
 * A round has ended, and these pages were dirtied during it. The first harvest, of all pages that exist, is
 * not told: it is of no round. O(pages).
 */
void hf_hotness_round(struct hf_hotness *hotness, const struct hf_pagemap *dirtied);
/* In how many of the last eight rounds was it dirtied? */
uint32_t hf_hotness_count(const struct hf_hotness *hotness, uint32_t page);
/* Was it dirtied in each of the last `rounds` (1 to 8) rounds? */
bool hf_hotness_is_hot(const struct hf_hotness *hotness, uint32_t page, uint32_t rounds);

/*
 * What the next round moves: `round` becomes `remaining` without its pages that are hot. Returns how many
 * were left out; they stay in `remaining`, which is the caller's, until they are moved. O(pages that remain).
 */
uint32_t hf_hotness_plan(const struct hf_hotness *hotness, const struct hf_pagemap *remaining,
			 uint32_t rounds, struct hf_pagemap *round);
/* Their order: the next page of the round, those dirtied seldom first, then by number; HF_PAGE_NONE: no more.
 */
struct hf_hotness_walk {
	uint32_t count, from; /* zero-initialised: at the beginning */
};
uint32_t hf_hotness_next(const struct hf_hotness *hotness, const struct hf_pagemap *round,
			 struct hf_hotness_walk *walk);

#endif
