/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The headers of the page channels: a request and its reply share one layout; theory in wire.c.
 */
#include "core/wire.h"

#include <inttypes.h>

#include "core/wire_cursor.h"

#define REQUEST_MARKER	0x48465251u /* "HFRQ" */
#define REPLY_MARKER	0x48465250u /* "HFRP" */
#define REPLY_FLAG_ZERO 1u
#define CHUNK_ALIGNMENT 4096u

static int check_chunk(const char *message, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
		       struct hf_err *err)
{
	if (block >= HF_RAMBLOCKS_MAX && block != HF_WIRE_PROBE_BLOCK)
		return hf_wire_broken(err, message, "block is %" PRIu32 ", the limit is %d blocks", block,
				      HF_RAMBLOCKS_MAX);
	if (length_bytes < HF_WIRE_CHUNK_MIN_BYTES || length_bytes > HF_WIRE_CHUNK_MAX_BYTES ||
	    length_bytes % CHUNK_ALIGNMENT != 0)
		return hf_wire_broken(
		    err, message, "length_bytes is %" PRIu32 ", no multiple of %u from %u to %u",
		    length_bytes, CHUNK_ALIGNMENT, HF_WIRE_CHUNK_MIN_BYTES, HF_WIRE_CHUNK_MAX_BYTES);
	if (offset_bytes % CHUNK_ALIGNMENT != 0)
		return hf_wire_broken(err, message, "offset_bytes %#" PRIx64 " is no multiple of %u",
				      offset_bytes, CHUNK_ALIGNMENT);
	if (offset_bytes > UINT64_MAX - length_bytes)
		return hf_wire_broken(err, message,
				      "offset_bytes %#" PRIx64 " and length_bytes %" PRIu32 " exceed 64 bits",
				      offset_bytes, length_bytes);
	return 0;
}

/* Request and reply share one layout. */
struct chunk_header {
	uint32_t marker, block;
	uint64_t id, offset_bytes;
	uint32_t length_bytes, flags;
};

static ssize_t encode_chunk_header(const struct chunk_header *header, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	put_u32(&writer, header->marker);
	put_u32(&writer, header->block);
	put_u64(&writer, header->id);
	put_u64(&writer, header->offset_bytes);
	put_u32(&writer, header->length_bytes);
	put_u32(&writer, header->flags);
	return writer_end(&writer);
}

static int decode_chunk_header(const uint8_t *buffer, size_t bytes, const char *message, uint32_t marker,
			       struct chunk_header *header, struct hf_err *err)
{
	struct reader reader = {.at = buffer, .left = bytes};

	header->marker = get_u32(&reader);
	header->block = get_u32(&reader);
	header->id = get_u64(&reader);
	header->offset_bytes = get_u64(&reader);
	header->length_bytes = get_u32(&reader);
	header->flags = get_u32(&reader);
	if (reader.cut_short)
		return hf_wire_cut_short(err, message, bytes);
	if (header->marker != marker)
		return hf_wire_broken(err, message, "marker is %#" PRIx32 ", not %#" PRIx32, header->marker,
				      marker);
	return check_chunk(message, header->block, header->offset_bytes, header->length_bytes, err);
}

ssize_t hf_wire_encode_request(const struct hf_wire_request *request, uint8_t *buffer, size_t bytes)
{
	struct chunk_header header = {.marker = REQUEST_MARKER,
				      .block = request->block,
				      .id = request->id,
				      .offset_bytes = request->offset_bytes,
				      .length_bytes = request->length_bytes};

	if (check_chunk("REQUEST", request->block, request->offset_bytes, request->length_bytes, NULL) < 0)
		return -EINVAL;
	return encode_chunk_header(&header, buffer, bytes);
}

int hf_wire_decode_request(const uint8_t *buffer, size_t bytes, struct hf_wire_request *request,
			   struct hf_err *err)
{
	struct chunk_header header;
	int result = decode_chunk_header(buffer, bytes, "REQUEST", REQUEST_MARKER, &header, err);
	if (result < 0)
		return result;
	*request = (struct hf_wire_request){.id = header.id,
					    .offset_bytes = header.offset_bytes,
					    .block = header.block,
					    .length_bytes = header.length_bytes};
	return 0;
}

ssize_t hf_wire_encode_reply(const struct hf_wire_reply *reply, uint8_t *buffer, size_t bytes)
{
	struct chunk_header header = {.marker = REPLY_MARKER,
				      .block = reply->block,
				      .id = reply->id,
				      .offset_bytes = reply->offset_bytes,
				      .length_bytes = reply->length_bytes,
				      .flags = reply->zero ? REPLY_FLAG_ZERO : 0};

	if (check_chunk("REPLY", reply->block, reply->offset_bytes, reply->length_bytes, NULL) < 0)
		return -EINVAL;
	return encode_chunk_header(&header, buffer, bytes);
}

int hf_wire_decode_reply(const uint8_t *buffer, size_t bytes, struct hf_wire_reply *reply, struct hf_err *err)
{
	struct chunk_header header;
	int result = decode_chunk_header(buffer, bytes, "REPLY", REPLY_MARKER, &header, err);
	if (result < 0)
		return result;
	// An unknown flag may change what follows the header, so it cannot be skipped.
	if (header.flags & ~REPLY_FLAG_ZERO)
		return hf_wire_broken(err, "REPLY", "flags %#" PRIx32 " are unknown", header.flags);
	*reply = (struct hf_wire_reply){.id = header.id,
					.offset_bytes = header.offset_bytes,
					.block = header.block,
					.length_bytes = header.length_bytes,
					.zero = header.flags & REPLY_FLAG_ZERO};
	return 0;
}
