/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The registry is an array in the order the blocks were added. Each block gets the next free range of page
 * indexes, so the ranges are ascending and without gaps: a page's block is found by bisection. A block is
 * checked whole before the array is touched. Both sides number their pages by their own order; match() gives
 * the translation.
 */
#include "core/ramblock.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"

/* Leaves room in a line for what is put before and after the list. */
#define DIFFERENCES_BYTES 320u

void hf_ramblocks_init(struct hf_ramblocks *registry)
{
	*registry = (struct hf_ramblocks){0};
}

void hf_ramblocks_destroy(struct hf_ramblocks *registry)
{
	if (!registry)
		return;
	free(registry->blocks);
	hf_ramblocks_init(registry);
}

static const struct hf_ramblock *find(const struct hf_ramblocks *registry, const char *idstr)
{
	for (uint32_t i = 0; i < registry->count; i++)
		if (strcmp(registry->blocks[i].idstr, idstr) == 0)
			return &registry->blocks[i];
	return NULL;
}

static int check_idstr(const struct hf_ramblocks *registry, const char *idstr, struct hf_err *err)
{
	size_t length = strnlen(idstr, HF_RAMBLOCK_IDSTR_MAX + 1);
	if (length == 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "RAM block %" PRIu32 " has an empty name; give it one", registry->count);
	if (length > HF_RAMBLOCK_IDSTR_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, ENAMETOOLONG,
				  "RAM block %" PRIu32 " has a name longer than %d bytes; shorten it",
				  registry->count, HF_RAMBLOCK_IDSTR_MAX);
	if (!hf_text_is_printable((const uint8_t *)idstr, length))
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "RAM block %" PRIu32
		    " has a name with control characters or bytes that are not UTF-8; rename it",
		    registry->count);
	if (find(registry, idstr))
		return hf_err_set(err, HF_ERR_LOCAL, EEXIST,
				  "block '%s': the VM has two RAM blocks of this name; rename one", idstr);
	return 0;
}

static int check_sizes(const char *idstr, uint64_t length_bytes, uint64_t page_size_bytes, struct hf_err *err)
{
	char length_text[HF_SIZE_TEXT_BYTES], page_text[HF_SIZE_TEXT_BYTES];
	hf_size_text(length_bytes, length_text);
	hf_size_text(page_size_bytes, page_text);

	if (page_size_bytes < HF_PAGE_SIZE_MIN_BYTES || page_size_bytes > HF_PAGE_SIZE_MAX_BYTES ||
	    (page_size_bytes & (page_size_bytes - 1)) != 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "block '%s': a page size of %s is not a power of two from 4 KiB to 16 GiB",
				  idstr, page_text);
	if (length_bytes == 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "block '%s': the length is 0", idstr);
	if (length_bytes % page_size_bytes != 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "block '%s': the length of %s is no multiple of the page size of %s", idstr,
				  length_text, page_text);
	return 0;
}

static int check_totals(const struct hf_ramblocks *registry, const char *idstr, uint64_t length_bytes,
			uint64_t page_size_bytes, struct hf_err *err)
{
	if (registry->count >= HF_RAMBLOCKS_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, E2BIG,
				  "block '%s': the VM has more than %d RAM blocks, which is the limit", idstr,
				  HF_RAMBLOCKS_MAX);
	if (length_bytes / page_size_bytes > HF_PAGES_MAX - registry->pages_total)
		return hf_err_set(err, HF_ERR_LOCAL, EOVERFLOW,
				  "block '%s': the VM's memory has more than %" PRIu32
				  " pages; use larger pages",
				  idstr, HF_PAGES_MAX);
	if (length_bytes > UINT64_MAX - registry->length_total_bytes)
		return hf_err_set(err, HF_ERR_LOCAL, EOVERFLOW,
				  "block '%s': the lengths of all RAM blocks exceed 64 bits", idstr);
	return 0;
}

static void append(struct hf_ramblocks *registry, const char *idstr, uint64_t length_bytes,
		   uint64_t page_size_bytes)
{
	struct hf_ramblock *block = &registry->blocks[registry->count];
	*block = (struct hf_ramblock){
	    .length_bytes = length_bytes,
	    .page_size_bytes = page_size_bytes,
	    .first_page = registry->pages_total,
	    .pages = (uint32_t)(length_bytes / page_size_bytes),
	};
	memcpy(block->idstr, idstr, strlen(idstr));

	registry->count++;
	registry->pages_total += block->pages;
	registry->length_total_bytes += length_bytes;
	if (registry->page_size_max_bytes < page_size_bytes)
		registry->page_size_max_bytes = page_size_bytes;
}

int hf_ramblocks_add(struct hf_ramblocks *registry, const char *idstr, uint64_t length_bytes,
		     uint64_t page_size_bytes, struct hf_err *err)
{
	int result = check_idstr(registry, idstr, err);
	if (result == 0)
		result = check_sizes(idstr, length_bytes, page_size_bytes, err);
	if (result == 0)
		result = check_totals(registry, idstr, length_bytes, page_size_bytes, err);
	if (result < 0)
		return result;

	struct hf_ramblock *blocks =
	    realloc(registry->blocks, ((size_t)registry->count + 1) * sizeof(*blocks));
	if (!blocks)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
				  "block '%s': this process is out of memory for its list of RAM blocks",
				  idstr);
	registry->blocks = blocks;
	append(registry, idstr, length_bytes, page_size_bytes);
	return 0;
}

int hf_ramblocks_copy(struct hf_ramblocks *to, const struct hf_ramblocks *from, struct hf_err *err)
{
	struct hf_ramblocks copy = *from;
	copy.blocks = NULL;
	if (from->count > 0) {
		copy.blocks = malloc(from->count * sizeof(*copy.blocks));
		if (!copy.blocks)
			return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
					  "this process is out of memory for its list of RAM blocks");
		memcpy(copy.blocks, from->blocks, from->count * sizeof(*copy.blocks));
	}
	*to = copy;
	return 0;
}

/* What differs between two VMs, as far as one line holds it: an operator who mends all at once tries once. */
struct differences {
	char text[HF_ERR_TEXT_BYTES];
	size_t used;
	uint32_t count, left_out;
};

static void add_difference(struct differences *found, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void add_difference(struct differences *found, const char *format, ...)
{
	char line[HF_ERR_TEXT_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);

	if (found->count++ > 0 && found->used + strlen(line) > DIFFERENCES_BYTES) {
		found->left_out++;
		return;
	}
	found->used += (size_t)snprintf(found->text + found->used, sizeof(found->text) - found->used, "%s%s",
					found->used ? "; " : "", line);
}

static void compare(const struct hf_ramblock *source, const struct hf_ramblock *destination,
		    struct differences *found)
{
	char source_text[HF_SIZE_TEXT_BYTES], destination_text[HF_SIZE_TEXT_BYTES];

	if (source->page_size_bytes != destination->page_size_bytes)
		add_difference(found, "block '%s': page size is %s on the source and %s on the destination",
			       source->idstr, hf_size_text(source->page_size_bytes, source_text),
			       hf_size_text(destination->page_size_bytes, destination_text));
	if (source->length_bytes != destination->length_bytes)
		add_difference(found, "block '%s': length is %s on the source and %s on the destination",
			       source->idstr, hf_size_text(source->length_bytes, source_text),
			       hf_size_text(destination->length_bytes, destination_text));
}

static int refuse(const struct differences *found, struct hf_err *err)
{
	char more[32] = "";

	if (found->left_out)
		snprintf(more, sizeof(more), "; and %" PRIu32 " more", found->left_out);
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
			  "%s%s; start the destination VM with the source's memory backends", found->text,
			  more);
}

int hf_ramblocks_match(const struct hf_ramblocks *source, const struct hf_ramblocks *destination,
		       uint32_t *destination_of_source, struct hf_err *err)
{
	struct differences found = {0};
	uint32_t indexes[HF_RAMBLOCKS_MAX];

	for (uint32_t i = 0; i < source->count; i++) {
		const struct hf_ramblock *there = find(destination, source->blocks[i].idstr);
		if (there) {
			compare(&source->blocks[i], there, &found);
			indexes[i] = (uint32_t)(there - destination->blocks);
		} else {
			add_difference(&found, "block '%s': exists on the source and not on the destination",
				       source->blocks[i].idstr);
		}
	}
	for (uint32_t i = 0; i < destination->count; i++)
		if (!find(source, destination->blocks[i].idstr))
			add_difference(&found, "block '%s': exists on the destination and not on the source",
				       destination->blocks[i].idstr);
	if (found.count > 0)
		return refuse(&found, err);
	if (source->count > 0)
		memcpy(destination_of_source, indexes, source->count * sizeof(indexes[0]));
	return 0;
}

uint32_t hf_ramblocks_block_of_page(const struct hf_ramblocks *registry, uint32_t page)
{
	assert(page < registry->pages_total);

	uint32_t low = 0, high = registry->count;
	while (high - low > 1) {
		uint32_t middle = low + (high - low) / 2;
		if (registry->blocks[middle].first_page <= page)
			low = middle;
		else
			high = middle;
	}
	return low;
}

const char *hf_size_text(uint64_t bytes, char buffer[static HF_SIZE_TEXT_BYTES])
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
	size_t unit = 0;
	uint64_t value = bytes;

	while (value != 0 && value % 1024 == 0 && unit + 1 < sizeof(units) / sizeof(units[0])) {
		value /= 1024;
		unit++;
	}
	snprintf(buffer, HF_SIZE_TEXT_BYTES, "%" PRIu64 " %s", value, units[unit]);
	return buffer;
}
