/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: every decoder of core/wire.h. The first byte chooses the message, the rest is its bytes.
 *
 * What decodes must encode to the same bytes again, apart from what PROTOCOL.md lets a receiver ignore or
 * replace, and the encoder must not write past a buffer that is too small.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "core/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/core/wire_messages.h"

struct kind {
	const char *golden;
	size_t reserved_from, reserved_to; /* sent as 0 whatever came */
	size_t length_at, text_from;	   /* of a message text and its length; 0: none */
};

static const struct kind kinds[] = {
    {"hello_control", 64, 72},
    {"hello_reply_accepted", 36, 40, 32, HF_WIRE_HELLO_REPLY_BYTES},
    {"frame_header", 0, 0},
    {"advise", 0, 0},
    {"ready", 0, 0},
    {"wish", 0, 0},
    {"presence", 0, 0},
    {"device_end", 0, 0},
    {"finish", 0, 0},
    {"fail", 0, 0, 8, 12},
    {"request", 28, 32},
    {"reply", 0, 0},
    {"link", 0, 0},
    {"round", 0, 0},
    {"round_end", 0, 0},
    {"round_done", 4, 8},
    {"first", 0, 0},
};

static void check_same(const struct kind *kind, const uint8_t *in, const uint8_t *out, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		fuzz_check(in[i] == out[i] || (i >= kind->reserved_from && i < kind->reserved_to));
}

/* Decodes, encodes into `room` bytes. */
static ssize_t recode_into(const struct wire_message *message, const uint8_t *in, size_t bytes, size_t room,
			   uint8_t **out)
{
	*out = malloc(room ? room : 1);
	fuzz_check(*out);
	return message->recode(in, bytes, *out, room);
}

static void check_text(const uint8_t *out, size_t from, size_t bytes)
{
	fuzz_check(bytes - from <= HF_WIRE_TEXT_MAX_BYTES);
	fuzz_check(hf_text_is_printable(out + from, bytes - from));
}

/* Text that is not printable is replaced. */
static bool text_is_kept(const struct kind *kind, const uint8_t *in)
{
	size_t bytes = (size_t)in[kind->length_at + 2] << 8 | in[kind->length_at + 3];
	return hf_text_is_printable(in + kind->text_from, bytes);
}

static void check_encoding(const struct wire_message *message, const struct kind *kind, const uint8_t *in,
			   size_t bytes)
{
	uint8_t *out, *again;
	ssize_t encoded = recode_into(message, in, bytes, bytes, &out);
	if (encoded == -EPROTO) { // a hello's reply whose text has not come
		free(out);
		return;
	}
	fuzz_check(encoded > 0);
	size_t length = (size_t)encoded;
	bool replaced = kind->text_from && !text_is_kept(kind, in);
	if (!replaced) {
		fuzz_check(message->payload ? length == bytes : length <= bytes);
		check_same(kind, in, out, length);
	}
	if (kind->text_from)
		check_text(out, kind->text_from, length);

	// What this side says, this side understands, and it says the same again.
	ssize_t same = recode_into(message, out, length, length, &again);
	fuzz_check(same == encoded && memcmp(out, again, length) == 0);
	free(again);
	fuzz_check(recode_into(message, in, bytes, length - 1, &again) == -ENOSPC);
	free(again);
	free(out);
}

/* What PROTOCOL.md promises of a decoded message, for those whose encoder shares the decoder's checks. */
static void check_meaning(const uint8_t *data, size_t bytes)
{
	struct hf_wire_presence presence;
	struct hf_wire_ready ready;
	struct hf_wire_request request;
	if (hf_wire_decode_presence(data, bytes, &presence, NULL) == 0) {
		fuzz_check(presence.bits + presence.bits_bytes == data + bytes && presence.pages > 0);
		for (size_t bit = presence.pages; bit < presence.bits_bytes * 8; bit++)
			fuzz_check(!(presence.bits[bit / 8] >> bit % 8 & 1));
	}
	if (hf_wire_decode_ready(data, bytes, &ready, NULL) == 0)
		fuzz_check(ready.placement <= 1 && ready.chunk_bytes >= 4096 &&
			   ready.chunk_bytes <= 1u << 26 && !(ready.chunk_bytes & (ready.chunk_bytes - 1)));
	if (hf_wire_decode_request(data, bytes, &request, NULL) == 0)
		fuzz_check((request.block < 256 || request.block == HF_WIRE_PROBE_BLOCK) &&
			   request.offset_bytes % 4096 == 0 && request.length_bytes % 4096 == 0 &&
			   request.length_bytes > 0 && request.length_bytes <= 1u << 26 &&
			   request.offset_bytes + request.length_bytes > request.offset_bytes);
}

static void check_negotiation(const uint8_t *data, size_t bytes)
{
	struct hf_wire_hello hello;
	uint32_t version = 0;
	uint64_t features = 0;
	if (hf_wire_decode_hello(data, bytes, &hello, NULL) ||
	    hf_wire_negotiate(&hello, &version, &features, NULL))
		return;
	fuzz_check(version >= hello.version_min && version <= hello.version_max);
	fuzz_check(version >= HF_WIRE_VERSION_MIN && version <= HF_WIRE_VERSION_MAX);
	fuzz_check((features & ~(hello.features & HF_WIRE_FEATURES)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes == 0)
		return 0;
	const struct kind *kind = &kinds[data[0] % (sizeof(kinds) / sizeof(kinds[0]))];
	const struct wire_message *message = message_of(kind->golden);
	struct hf_err err = HF_ERR_INIT;
	int result = decode_exact(message, data + 1, bytes - 1, &err);
	fuzz_check(result == 0 || (result == -EPROTO && err.class == HF_ERR_PEER && err.text[0]));
	if (result == 0)
		check_encoding(message, kind, data + 1, bytes - 1);
	check_negotiation(data + 1, bytes - 1);
	check_meaning(data + 1, bytes - 1);
	return 0;
}
