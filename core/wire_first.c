/* SPDX-License-Identifier: Apache-2.0 */
/* FIRST, the pages that loading will touch; theory in wire.c. */
#include "core/wire.h"

#include <inttypes.h>

#include "core/wire_cursor.h"

static int check_count(uint32_t count, struct hf_err *err)
{
	if (count < 1 || count > HF_WIRE_FIRST_PAGES_MAX)
		return hf_wire_broken(err, "FIRST", "pages is %" PRIu32 ", not 1 to %u", count,
				      HF_WIRE_FIRST_PAGES_MAX);
	return 0;
}

static int check_page(const struct hf_wire_page *page, struct hf_err *err)
{
	if (page->block >= HF_RAMBLOCKS_MAX)
		return hf_wire_broken(err, "FIRST", "block is %" PRIu32 ", the limit is %d blocks",
				      page->block, HF_RAMBLOCKS_MAX);
	if (page->page >= HF_PAGES_MAX)
		return hf_wire_broken(err, "FIRST", "page %" PRIu32 " is none of a block's %" PRIu32 " pages",
				      page->page, HF_PAGES_MAX);
	return 0;
}

static int check_first(const struct hf_wire_first *first, struct hf_err *err)
{
	int result = check_count(first->count, err);
	for (uint32_t i = 0; result == 0 && i < first->count; i++)
		result = check_page(&first->pages[i], err);
	return result;
}

ssize_t hf_wire_encode_first(const struct hf_wire_first *first, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_first(first, NULL) < 0)
		return -EINVAL;
	put_u32(&writer, first->count);
	for (uint32_t i = 0; i < first->count; i++) {
		put_u32(&writer, first->pages[i].block);
		put_u32(&writer, first->pages[i].page);
	}
	return writer_end(&writer);
}

int hf_wire_decode_first(const uint8_t *payload, size_t bytes, struct hf_wire_first *first,
			 struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	struct hf_wire_first in = {.count = get_u32(&reader)};

	for (uint32_t i = 0; i < in.count && i < HF_WIRE_FIRST_PAGES_MAX; i++) {
		in.pages[i].block = get_u32(&reader);
		in.pages[i].page = get_u32(&reader);
	}
	int result = hf_wire_check_end(&reader, "FIRST", bytes, err);
	if (result == 0)
		result = check_first(&in, err);
	if (result < 0)
		return result;
	*first = in;
	return 0;
}
