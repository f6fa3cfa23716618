/* SPDX-License-Identifier: Apache-2.0 */
/*
 * ramblock.h - the registry of RAM blocks and the page-size rules.
 *
 * Purpose: a VM's memory is a list of named blocks, each of one page size. Both sides must hold the same
 * blocks: same idstr, length and page size. Pages of all blocks are numbered in one sequence, so that
 * the rest of the engine handles a plain page index. ("Identical page sizes": seed "Postcopy with
 * hugepages", rule b.)
 *
 * Ownership: the registry copies what it is given. It is immutable once filled.
 * Threads: none inside; immutable data may be read by all.
 * Units: lengths and page sizes in bytes, pages as indexes.
 * Errors: 0 or -errno with text naming the block and both values.
 */
#ifndef HF_CORE_RAMBLOCK_H
#define HF_CORE_RAMBLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"

#define HF_RAMBLOCK_IDSTR_MAX  255 /* bytes without the terminator, as in QEMU */
#define HF_RAMBLOCKS_MAX       256 /* blocks in one VM */
#define HF_PAGE_SIZE_MIN_BYTES 4096ull
#define HF_PAGE_SIZE_MAX_BYTES (1ull << 34)	/* 16 GiB, the largest huge page Linux knows */
#define HF_PAGES_MAX	       (UINT32_MAX - 1) /* a page index fits 32 bits; the last value means none */
#define HF_PAGE_NONE	       UINT32_MAX

struct hf_ramblock {
	char idstr[HF_RAMBLOCK_IDSTR_MAX + 1];
	uint64_t length_bytes;
	uint64_t page_size_bytes;
	uint32_t first_page; /* set by the registry */
	uint32_t pages;	     /* set by the registry */
};

struct hf_ramblocks {
	struct hf_ramblock *blocks;
	uint32_t count;
	uint32_t pages_total;
	uint64_t length_total_bytes;
	uint64_t page_size_max_bytes;
};

void hf_ramblocks_init(struct hf_ramblocks *registry);
void hf_ramblocks_destroy(struct hf_ramblocks *registry);

/*
 * Checks and appends one block: idstr not empty, printable, unique; page size a power of two in range;
 * length not 0 and a multiple of the page size; totals do not overflow.
 */
int hf_ramblocks_add(struct hf_ramblocks *registry, const char *idstr, uint64_t length_bytes,
		     uint64_t page_size_bytes, struct hf_err *err);

int hf_ramblocks_copy(struct hf_ramblocks *to, const struct hf_ramblocks *from, struct hf_err *err);

/*
 * Same blocks on both sides? Order does not matter. On success local_of_remote[i] is the local index of
 * remote block i (array of remote->count entries). The error names every block that differs and both
 * values, as far as a line holds them, worded for both operators ("block 'ram0': page size is 2 MiB on the
 * source and 1 GiB on the destination").
 */
int hf_ramblocks_match(const struct hf_ramblocks *source, const struct hf_ramblocks *destination,
		       uint32_t *destination_of_source, struct hf_err *err);

/* Block of a page index; the page index must be below pages_total. */
uint32_t hf_ramblocks_block_of_page(const struct hf_ramblocks *registry, uint32_t page);

/* "2 MiB", "1 GiB", "4 KiB", else plain bytes. Returns buffer. */
#define HF_SIZE_TEXT_BYTES 32
const char *hf_size_text(uint64_t bytes, char buffer[static HF_SIZE_TEXT_BYTES]);

#endif
