/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pagemap.h - bitmaps over page indexes.
 *
 * Purpose: received pages, present pages. The bits may live in memory the caller provides (a small
 * mapped file survives a killed agent), so the layout is fixed: one bit a page, least significant bit
 * first in each byte.
 *
 * Ownership: hf_pagemap_create() owns its bits; hf_pagemap_wrap() borrows the caller's.
 * Threads: set and test are atomic on the byte; everything that looks at many pages wants the caller's lock.
 * Units: pages.
 * Errors: 0 or -errno.
 */
#ifndef HF_CORE_PAGEMAP_H
#define HF_CORE_PAGEMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hf_pagemap {
	uint8_t *bits;
	uint32_t pages;
	bool owned;
};

static inline size_t hf_pagemap_bytes(uint32_t pages)
{
	return ((size_t)pages + 7) / 8;
}

int hf_pagemap_create(struct hf_pagemap *map, uint32_t pages);		     /* all clear */
void hf_pagemap_wrap(struct hf_pagemap *map, uint8_t *bits, uint32_t pages); /* bits as they are */
void hf_pagemap_destroy(struct hf_pagemap *map);

bool hf_pagemap_test(const struct hf_pagemap *map, uint32_t page);
bool hf_pagemap_set(struct hf_pagemap *map, uint32_t page);   /* returns the value before */
bool hf_pagemap_clear(struct hf_pagemap *map, uint32_t page); /* returns the value before */
uint32_t hf_pagemap_count(const struct hf_pagemap *map);

/* First page >= from whose bit is clear (or set), HF_PAGE_NONE if there is none. Skips whole words. */
uint32_t hf_pagemap_next_clear(const struct hf_pagemap *map, uint32_t from);
uint32_t hf_pagemap_next_set(const struct hf_pagemap *map, uint32_t from);

/*
 * Copies `count` bits that start at bit 0 of `bits` to pages first_page.. of the map. Fails with -ERANGE
 * when they do not fit, -EINVAL when `bytes` is not the exact length for `count` bits or when padding
 * bits are set.
 */
int hf_pagemap_import(struct hf_pagemap *map, uint32_t first_page, uint32_t count, const uint8_t *bits,
		      size_t bytes);
/* The other way: fills hf_pagemap_bytes(count) bytes, padding zero. The pages must be in the map. */
void hf_pagemap_export(const struct hf_pagemap *map, uint32_t first_page, uint32_t count, uint8_t *bits);

/* Whole words at once; both maps have the same number of pages. */
void hf_pagemap_copy(struct hf_pagemap *to, const struct hf_pagemap *from);
void hf_pagemap_complement(struct hf_pagemap *to, const struct hf_pagemap *from);
void hf_pagemap_add(struct hf_pagemap *to, const struct hf_pagemap *pages);
void hf_pagemap_remove(struct hf_pagemap *from, const struct hf_pagemap *pages);
void hf_pagemap_empty(struct hf_pagemap *map);

#endif
