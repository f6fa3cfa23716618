/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One bit a page, in bytes, so that the layout is the same on every machine and in a file. set, clear and
 * test are single atomic operations on the byte: set is a release and test an acquire, so whoever sees a bit
 * sees what was done before it was set. Scans look at eight bytes at once only to skip them; which bit it is
 * is found in the byte, hence byte order never matters. The padding behind the last page may hold anything (a
 * wrapped map is a file) and is never looked at.
 */
#include "core/pagemap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/ramblock.h"

int hf_pagemap_create(struct hf_pagemap *map, uint32_t pages)
{
	size_t bytes = hf_pagemap_bytes(pages);
	uint8_t *bits = calloc(bytes ? bytes : 1, 1);
	if (!bits)
		return -ENOMEM;
	*map = (struct hf_pagemap){.bits = bits, .pages = pages, .owned = true};
	return 0;
}

void hf_pagemap_wrap(struct hf_pagemap *map, uint8_t *bits, uint32_t pages)
{
	*map = (struct hf_pagemap){.bits = bits, .pages = pages, .owned = false};
}

void hf_pagemap_destroy(struct hf_pagemap *map)
{
	if (!map)
		return;
	if (map->owned)
		free(map->bits);
	*map = (struct hf_pagemap){0};
}

static uint8_t bit_of(uint32_t page)
{
	return (uint8_t)(1u << (page & 7));
}

bool hf_pagemap_test(const struct hf_pagemap *map, uint32_t page)
{
	assert(page < map->pages);
	// Pairs with the release in set().
	return __atomic_load_n(&map->bits[page / 8], __ATOMIC_ACQUIRE) & bit_of(page);
}

bool hf_pagemap_set(struct hf_pagemap *map, uint32_t page)
{
	assert(page < map->pages);
	return __atomic_fetch_or(&map->bits[page / 8], bit_of(page), __ATOMIC_ACQ_REL) & bit_of(page);
}

bool hf_pagemap_clear(struct hf_pagemap *map, uint32_t page)
{
	assert(page < map->pages);
	return __atomic_fetch_and(&map->bits[page / 8], (uint8_t)~bit_of(page), __ATOMIC_ACQ_REL) &
	       bit_of(page);
}

/* The byte's bits that are pages; the padding reads as clear. */
static uint8_t page_bits(const struct hf_pagemap *map, size_t byte)
{
	uint32_t padding_from = map->pages & 7;
	uint8_t mask = byte == map->pages / 8 ? (uint8_t)((1u << padding_from) - 1) : 0xff;
	return map->bits[byte] & mask;
}

static uint64_t word_at(const struct hf_pagemap *map, size_t byte)
{
	uint64_t word;
	memcpy(&word, map->bits + byte, sizeof(word));
	return word;
}

uint32_t hf_pagemap_count(const struct hf_pagemap *map)
{
	size_t whole_bytes = map->pages / 8, byte = 0;
	uint32_t count = 0;

	for (; byte + sizeof(uint64_t) <= whole_bytes; byte += sizeof(uint64_t))
		count += (uint32_t)__builtin_popcountll(word_at(map, byte));
	for (; byte < hf_pagemap_bytes(map->pages); byte++)
		count += (uint32_t)__builtin_popcount(page_bits(map, byte));
	return count;
}

/* First page >= from whose bit differs from those of `skip`: 0x00 finds set bits, 0xff clear ones. */
static uint32_t next_differing(const struct hf_pagemap *map, uint32_t from, uint8_t skip)
{
	if (from >= map->pages)
		return HF_PAGE_NONE;

	const uint64_t skip_word = skip ? UINT64_MAX : 0;
	const size_t bytes = hf_pagemap_bytes(map->pages);
	uint8_t wanted = (uint8_t)(0xffu << (from & 7)); // bits before `from` do not count

	for (size_t byte = from / 8; byte < bytes; byte++) {
		uint8_t found = (uint8_t)(map->bits[byte] ^ skip) & wanted;
		if (found) {
			uint64_t page = (uint64_t)byte * 8 + (uint32_t)__builtin_ctz(found);
			return page < map->pages ? (uint32_t)page : HF_PAGE_NONE;
		}
		wanted = 0xff;
		while (byte + 1 + sizeof(uint64_t) <= bytes && word_at(map, byte + 1) == skip_word)
			byte += sizeof(uint64_t);
	}
	return HF_PAGE_NONE;
}

uint32_t hf_pagemap_next_clear(const struct hf_pagemap *map, uint32_t from)
{
	return next_differing(map, from, 0xff);
}

uint32_t hf_pagemap_next_set(const struct hf_pagemap *map, uint32_t from)
{
	return next_differing(map, from, 0x00);
}

/* Writes the low `count` (1..8) bits of value to the pages from `page` on. */
static void put_bits(struct hf_pagemap *map, uint32_t page, uint32_t count, uint8_t value)
{
	uint32_t shift = page & 7;
	uint32_t mask = ((1u << count) - 1) << shift;
	uint32_t shifted = (uint32_t)value << shift;
	uint8_t *byte = &map->bits[page / 8];

	byte[0] = (uint8_t)((byte[0] & ~mask) | (shifted & mask));
	if (mask >> 8)
		byte[1] = (uint8_t)((byte[1] & ~(mask >> 8)) | ((shifted & mask) >> 8));
}

int hf_pagemap_import(struct hf_pagemap *map, uint32_t first_page, uint32_t count, const uint8_t *bits,
		      size_t bytes)
{
	if (first_page > map->pages || count > map->pages - first_page)
		return -ERANGE;
	if (bytes != hf_pagemap_bytes(count))
		return -EINVAL;
	if (count % 8 != 0 && bits[bytes - 1] >> (count % 8) != 0)
		return -EINVAL;

	/* Maps of a TiB are taken over while the VM stands still: whole bytes at once where they fall on
	 * bytes. */
	size_t done_bytes = first_page % 8 == 0 ? count / 8 : 0;
	memcpy(map->bits + first_page / 8, bits, done_bytes);
	for (size_t i = done_bytes; i < bytes; i++) {
		uint32_t left = count - (uint32_t)i * 8;
		put_bits(map, first_page + (uint32_t)i * 8, left < 8 ? left : 8, bits[i]);
	}
	return 0;
}

void hf_pagemap_export(const struct hf_pagemap *map, uint32_t first_page, uint32_t count, uint8_t *bits)
{
	assert(first_page <= map->pages && count <= map->pages - first_page);
	const uint8_t *from = map->bits + first_page / 8;
	const size_t bytes = hf_pagemap_bytes(count),
		     readable = hf_pagemap_bytes(map->pages) - first_page / 8;
	const uint32_t shift = first_page & 7;

	if (shift == 0)
		memcpy(bits, from, bytes);
	for (size_t i = 0; shift != 0 && i < bytes; i++) {
		uint32_t next = i + 1 < readable ? from[i + 1] : 0;
		bits[i] = (uint8_t)((from[i] | next << 8) >> shift);
	}
	if (count % 8 != 0)
		bits[bytes - 1] &= (uint8_t)((1u << count % 8) - 1);
}

void hf_pagemap_copy(struct hf_pagemap *to, const struct hf_pagemap *from)
{
	assert(to->pages == from->pages);
	memcpy(to->bits, from->bits, hf_pagemap_bytes(from->pages));
}

void hf_pagemap_complement(struct hf_pagemap *to, const struct hf_pagemap *from)
{
	assert(to->pages == from->pages);
	const size_t bytes = hf_pagemap_bytes(from->pages);
	size_t byte = 0;

	for (; byte + sizeof(uint64_t) <= bytes; byte += sizeof(uint64_t)) {
		uint64_t word = ~word_at(from, byte);
		memcpy(to->bits + byte, &word, sizeof(word));
	}
	for (; byte < bytes; byte++)
		to->bits[byte] = (uint8_t)~from->bits[byte];
}

void hf_pagemap_add(struct hf_pagemap *to, const struct hf_pagemap *pages)
{
	assert(to->pages == pages->pages);
	const size_t bytes = hf_pagemap_bytes(to->pages);
	for (size_t byte = 0; byte < bytes; byte++)
		to->bits[byte] |= pages->bits[byte];
}

void hf_pagemap_remove(struct hf_pagemap *from, const struct hf_pagemap *pages)
{
	assert(from->pages == pages->pages);
	const size_t bytes = hf_pagemap_bytes(from->pages);
	for (size_t byte = 0; byte < bytes; byte++)
		from->bits[byte] &= (uint8_t)~pages->bits[byte];
}

void hf_pagemap_empty(struct hf_pagemap *map)
{
	memset(map->bits, 0, hf_pagemap_bytes(map->pages));
}
