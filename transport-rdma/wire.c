/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bytes that only this transport has: PROTOCOL.md, "RDMA". A hello travels as private data of a
 * connection request, which has 56 bytes at most, so it is packed; what comes is unpacked into the hello that
 * every transport has and goes through its checks.
 */
#include "transport-rdma/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

static const char hello_magic[4] = {'H', 'F', 'R', 'D'};

static uint8_t *put(uint8_t *at, uint64_t value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
	return at + bytes;
}

static uint64_t get(const uint8_t **at, size_t bytes)
{
	uint64_t value = 0;
	for (size_t i = 0; i < bytes; i++)
		value = value << 8 | (*at)[i];
	*at += bytes;
	return value;
}

/* ---- hello ------------------------------------------------------------------------------------ */

ssize_t rdma_encode_hello(const struct hf_wire_hello *hello, uint8_t *buffer, size_t bytes)
{
	uint8_t whole[HF_WIRE_HELLO_BYTES];
	ssize_t checked = hf_wire_encode_hello(hello, whole, sizeof(whole));
	if (checked < 0)
		return checked;
	if (bytes < RDMA_HELLO_BYTES || hello->version_max > UINT16_MAX)
		return -EINVAL;
	uint8_t *at = buffer;
	memcpy(at, hello_magic, sizeof(hello_magic));
	at = put(at + sizeof(hello_magic), hello->version_min, 2);
	at = put(at, hello->version_max, 2);
	at = put(at, hello->features, 8);
	memcpy(at, hello->session, sizeof(hello->session));
	at = put(at + sizeof(hello->session), hello->epoch, 8);
	at = put(at, hello->channel, 1);
	at = put(at, hello->index, 1);
	at = put(at, hello->channels_wanted[HF_FETCH_URGENT], 1);
	at = put(at, hello->channels_wanted[HF_FETCH_BACKGROUND], 1);
	return at - buffer;
}

int rdma_decode_hello(const uint8_t *buffer, size_t bytes, struct hf_wire_hello *hello, struct hf_err *err)
{
	uint8_t whole[HF_WIRE_HELLO_BYTES] = {0};
	if (bytes < RDMA_HELLO_BYTES || memcmp(buffer, hello_magic, sizeof(hello_magic)) != 0)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "this is a Hugeferry destination; the greeting is not Hugeferry's");
	const uint8_t *in = buffer + sizeof(hello_magic);
	uint8_t *out = whole;
	memcpy(out, HF_WIRE_MAGIC, sizeof(HF_WIRE_MAGIC) - 1);
	out += sizeof(HF_WIRE_MAGIC) - 1;
	out = put(out, get(&in, 2), 4);
	out = put(out, get(&in, 2), 4);
	size_t same_bytes = 8 + HF_WIRE_SESSION_BYTES + 8; /* features, session, epoch */
	memcpy(out, in, same_bytes);
	in += same_bytes;
	out += same_bytes;
	for (int i = 0; i < 4; i++)
		out = put(out, get(&in, 1), 4);
	return hf_wire_decode_hello(whole, sizeof(whole), hello, err);
}

/* ---- messages of the control channel ---------------------------------------------------------- */

void rdma_encode_header(const struct rdma_message_header *header,
			uint8_t buffer[static RDMA_MESSAGE_HEADER_BYTES])
{
	uint8_t *at = put(buffer, header->kind, 2);
	at = put(at, header->credits, 2);
	put(at, header->length_bytes, 4);
}

int rdma_decode_header(const uint8_t *buffer, size_t bytes, struct rdma_message_header *header,
		       struct hf_err *err)
{
	if (bytes < RDMA_MESSAGE_HEADER_BYTES)
		return hf_err_set(err, HF_ERR_PEER, EPROTO, "a message of %zu bytes is too short", bytes);
	const uint8_t *at = buffer;
	uint64_t kind = get(&at, 2), credits = get(&at, 2), length_bytes = get(&at, 4);
	if (kind > RDMA_MESSAGE_KEYS || credits > RDMA_CREDITS ||
	    length_bytes != bytes - RDMA_MESSAGE_HEADER_BYTES)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "a message of %zu bytes says kind %" PRIu64 ", %" PRIu64
				  " credits, %" PRIu64 " bytes; one of the two programs is broken",
				  bytes, kind, credits, length_bytes);
	*header = (struct rdma_message_header){(enum rdma_message_kind)kind, (uint32_t)credits,
					       (uint32_t)length_bytes};
	return 0;
}

size_t rdma_encode_keys(const struct rdma_keys *keys, uint8_t *buffer)
{
	uint8_t *at = put(buffer, keys->count, 4);
	at = put(at, keys->last, 4);
	for (uint32_t i = 0; i < keys->count; i++) {
		at = put(at, keys->key[i].block, 4);
		at = put(at, keys->key[i].rkey, 4);
		at = put(at, keys->key[i].address, 8);
		at = put(at, keys->key[i].offset_bytes, 8);
		at = put(at, keys->key[i].length_bytes, 8);
	}
	return (size_t)(at - buffer);
}

int rdma_decode_keys(const uint8_t *buffer, size_t bytes, struct rdma_keys *keys, struct hf_err *err)
{
	const uint8_t *at = buffer;
	uint64_t count = bytes < RDMA_KEYS_HEADER_BYTES ? UINT64_MAX : get(&at, 4);
	uint64_t last = count == UINT64_MAX ? 2 : get(&at, 4);
	if (count > RDMA_KEYS_PER_MESSAGE || last > 1 ||
	    bytes != RDMA_KEYS_HEADER_BYTES + count * RDMA_KEY_BYTES)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "the source's keys cannot be read; one of the two programs is broken");
	keys->count = (uint32_t)count;
	keys->last = last;
	for (uint32_t i = 0; i < count; i++) {
		struct rdma_key *key = &keys->key[i];
		key->block = (uint32_t)get(&at, 4);
		key->rkey = (uint32_t)get(&at, 4);
		key->address = get(&at, 8);
		key->offset_bytes = get(&at, 8);
		key->length_bytes = get(&at, 8);
		if (!key->length_bytes || key->offset_bytes > UINT64_MAX - key->length_bytes ||
		    key->address > UINT64_MAX - key->length_bytes)
			return hf_err_set(err, HF_ERR_PEER, EPROTO,
					  "the source's key for block %" PRIu32
					  " is of no memory; one of the two programs is broken",
					  key->block);
	}
	return 0;
}
