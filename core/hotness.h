/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hotness.h - which pages a guest writes all the time, and are best moved last.
 *
 * Purpose: remembers for each page in which of the last eight rounds of pre-copy it was dirtied. A round
 * leaves out pages that were dirtied in each of the last rounds: moving them again would be in vain. They
 * wait for the switchover or postcopy, and count in what remains (convergence.h).
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
/* Was it dirtied in each of the last `rounds` (1 to 8) rounds? */
bool hf_hotness_is_hot(const struct hf_hotness *hotness, uint32_t page, uint32_t rounds);

/*
 * What the next round moves: `round` becomes `remaining` without its pages that are hot. Returns how many
 * were left out; they stay in `remaining`, which is the caller's, until they are moved. O(pages that remain).
 */
uint32_t hf_hotness_plan(const struct hf_hotness *hotness, const struct hf_pagemap *remaining,
			 uint32_t rounds, struct hf_pagemap *round);
#endif
