/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/wire_messages.h"

#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/wire.h"

/* For the messages that are one struct. */
#define STRUCT_MESSAGE(kind)                                                                                 \
	static int decode_##kind(const uint8_t *bytes, size_t count, struct hf_err *err)                     \
	{                                                                                                    \
		struct hf_wire_##kind out, before;                                                           \
		memset(&out, 0xa5, sizeof(out));                                                             \
		memset(&before, 0xa5, sizeof(before));                                                       \
		int result = hf_wire_decode_##kind(bytes, count, &out, err);                                 \
		if (result < 0)                                                                              \
			assert_memory_equal(&out, &before, sizeof(out));                                     \
		return result;                                                                               \
	}                                                                                                    \
	static ssize_t recode_##kind(const uint8_t *bytes, size_t count, uint8_t *out, size_t out_bytes)     \
	{                                                                                                    \
		struct hf_wire_##kind decoded;                                                               \
		int result = hf_wire_decode_##kind(bytes, count, &decoded, NULL);                            \
		return result < 0 ? result : hf_wire_encode_##kind(&decoded, out, out_bytes);                \
	}

#define SAMPLE(name, kind, ...)                                                                              \
	static ssize_t encode_##name(uint8_t *buffer, size_t bytes)                                          \
	{                                                                                                    \
		const struct hf_wire_##kind sample = {__VA_ARGS__};                                          \
		return hf_wire_encode_##kind(&sample, buffer, bytes);                                        \
	}

STRUCT_MESSAGE(hello)
STRUCT_MESSAGE(frame_header)
STRUCT_MESSAGE(ready)
STRUCT_MESSAGE(wish)
STRUCT_MESSAGE(link)
STRUCT_MESSAGE(presence)
#define hf_wire_round hf_wire_presence /* laid out as PRESENCE, in a struct of that name */
STRUCT_MESSAGE(round)
#undef hf_wire_round
STRUCT_MESSAGE(round_end)
STRUCT_MESSAGE(round_done)
STRUCT_MESSAGE(device_end)
STRUCT_MESSAGE(finish)
STRUCT_MESSAGE(placed)
STRUCT_MESSAGE(first)
STRUCT_MESSAGE(request)
STRUCT_MESSAGE(reply)

SAMPLE(hello_control, hello, .version_min = 1, .version_max = 1,
       .session = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, .epoch = 1,
       .channel = HF_WIRE_CHANNEL_CONTROL, .channels_wanted = {2, 4})
SAMPLE(hello_background, hello, .version_min = 1, .version_max = 0x01020304, .features = 0x8000000000000001,
       .session = {255, 254, 253, 252, 251, 250, 249, 248, 247, 246, 245, 244, 243, 242, 241, 240},
       .epoch = 0x0123456789abcdef, .channel = HF_WIRE_CHANNEL_BACKGROUND, .index = 3)
SAMPLE(frame_header, frame_header, .type = HF_WIRE_PRESENCE, .length_bytes = 268)
SAMPLE(frame_device, frame_header, .type = HF_WIRE_DEVICE, .length_bytes = 1 << 20)
SAMPLE(frame_loaded, frame_header, .type = HF_WIRE_LOADED)
SAMPLE(frame_run, frame_header, .type = HF_WIRE_RUN)
SAMPLE(frame_resumed, frame_header, .type = HF_WIRE_RESUMED)
SAMPLE(frame_complete, frame_header, .type = HF_WIRE_COMPLETE)
SAMPLE(ready, ready, .placement = HF_PLACEMENT_CONTINUE, .chunk_bytes = 256 << 10)
SAMPLE(wish, wish, .placement = HF_WIRE_WISH_CONTINUE, .hold_background = 1)
SAMPLE(frame_check, frame_header, .type = HF_WIRE_CHECK)
SAMPLE(link, link, .round_trip_ns = 200000, .rate_bytes_per_s = 1250000000, .max_page_stall_ns = 500000000)
SAMPLE(presence, presence, .block = 1, .first_page = 65538, .pages = 11,
       .bits = (const uint8_t[]){0x81, 0x05}, .bits_bytes = 2)
SAMPLE(round_end, round_end, .round = 3, .flags = HF_WIRE_ROUND_CUT, .limit_bytes_per_s = 125000000)
SAMPLE(round_end_final, round_end, .round = 4, .flags = HF_WIRE_ROUND_FINAL | HF_WIRE_ROUND_WHOLE)
SAMPLE(round_done, round_done, .round = 3, .moved_bytes = (4ull << 30) + (2ull << 20),
       .duration_ns = 4000000000, .rate_bytes_per_s = 1073741824)
SAMPLE(device_end, device_end, .total_bytes = 300000)
SAMPLE(finish, finish, .downtime_ns = 20000000, .total_time_ns = 10000000000,
       .sent_bytes = (4ull << 30) + (2ull << 20))
SAMPLE(placed, placed, .count = 2, .ranges = {{1, 65538, 64}, {0, 7, 1}})
SAMPLE(first, first, .count = 2, .pages = {{1, 65538}, {0, 7}})
SAMPLE(request_probe, request, .id = 15, .offset_bytes = 4096, .block = HF_WIRE_PROBE_BLOCK,
       .length_bytes = 4096)
SAMPLE(request, request, .id = 0x0102030405060708, .offset_bytes = (4ull << 30) + (256 << 10), .block = 1,
       .length_bytes = 256 << 10)
SAMPLE(reply, reply, .id = 0x0102030405060708, .offset_bytes = (4ull << 30) + (256 << 10), .block = 1,
       .length_bytes = 256 << 10)
SAMPLE(reply_zero, reply, .id = 9, .offset_bytes = 4096, .length_bytes = 4096, .zero = true)

/* ---- hello reply: its text follows the fixed header ---- */

static ssize_t encode_hello_reply_accepted(uint8_t *buffer, size_t bytes)
{
	const struct hf_wire_hello_reply sample = {.version = 1, .channels = {2, 4}};
	return hf_wire_encode_hello_reply(&sample, NULL, buffer, bytes);
}

static ssize_t encode_hello_reply_refused(uint8_t *buffer, size_t bytes)
{
	const struct hf_wire_hello_reply sample = {.status = HF_WIRE_HELLO_BUSY};
	return hf_wire_encode_hello_reply(&sample, "bus\u00ff", buffer, bytes);
}

static int decode_hello_reply(const uint8_t *bytes, size_t count, struct hf_err *err)
{
	struct hf_wire_hello_reply out, before;
	memset(&out, 0xa5, sizeof(out));
	memset(&before, 0xa5, sizeof(before));
	int result = hf_wire_decode_hello_reply(bytes, count, &out, err);
	if (result < 0)
		assert_memory_equal(&out, &before, sizeof(out));
	return result;
}

static ssize_t recode_hello_reply(const uint8_t *bytes, size_t count, uint8_t *out, size_t out_bytes)
{
	struct hf_wire_hello_reply reply;
	char text[HF_WIRE_TEXT_MAX_BYTES + 1] = "";

	int result = hf_wire_decode_hello_reply(bytes, count, &reply, NULL);
	if (result < 0)
		return result;
	if (count < HF_WIRE_HELLO_REPLY_BYTES + reply.text_bytes)
		return -EPROTO; // the caller reads the text as a second step
	memcpy(text, bytes + HF_WIRE_HELLO_REPLY_BYTES, reply.text_bytes);
	return hf_wire_encode_hello_reply(&reply, text, out, out_bytes);
}

/* ---- advise ---- */

static ssize_t encode_advise(uint8_t *buffer, size_t bytes)
{
	struct hf_ramblocks blocks;
	hf_ramblocks_init(&blocks);
	hf_ramblocks_add(&blocks, "ram0", 4ull << 30, 1ull << 30, NULL);
	hf_ramblocks_add(&blocks, "/vga/\u00e4", 6ull << 20, 2ull << 20, NULL);
	ssize_t result = hf_wire_encode_advise("db1", &blocks, buffer, bytes);
	hf_ramblocks_destroy(&blocks);
	return result;
}

static int decode_advise(const uint8_t *bytes, size_t count, struct hf_err *err)
{
	char name[HF_WIRE_VM_NAME_MAX + 1] = "before";
	struct hf_ramblocks blocks;
	hf_ramblocks_init(&blocks);
	int result = hf_wire_decode_advise(bytes, count, name, &blocks, err);
	if (result < 0) {
		assert_string_equal(name, "before");
		assert_null(blocks.blocks);
		assert_int_equal(blocks.count, 0);
	}
	hf_ramblocks_destroy(&blocks);
	return result;
}

static ssize_t recode_advise(const uint8_t *bytes, size_t count, uint8_t *out, size_t out_bytes)
{
	char name[HF_WIRE_VM_NAME_MAX + 1];
	struct hf_ramblocks blocks;
	hf_ramblocks_init(&blocks);
	ssize_t result = hf_wire_decode_advise(bytes, count, name, &blocks, NULL);
	if (result == 0)
		result = hf_wire_encode_advise(name, &blocks, out, out_bytes);
	hf_ramblocks_destroy(&blocks);
	return result;
}

/* ---- round: another message of presence's layout ---- */

static ssize_t encode_round(uint8_t *buffer, size_t bytes)
{
	const struct hf_wire_presence sample = {.block = 2,
						.first_page = 257,
						.pages = 9,
						.bits = (const uint8_t[]){0x11, 0x01},
						.bits_bytes = 2};
	return hf_wire_encode_round(&sample, buffer, bytes);
}

/* ---- fail, refused ---- */

static ssize_t encode_fail(uint8_t *buffer, size_t bytes)
{
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LOCAL, ENOMEM, "no pages");
	return hf_wire_encode_fail(&why, buffer, bytes);
}

static ssize_t encode_refused(uint8_t *buffer, size_t bytes)
{
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LOCAL, EIO, "not here");
	return hf_wire_encode_refused(&why, buffer, bytes);
}

#define REASON_MESSAGE(kind)                                                                                 \
	static int decode_##kind(const uint8_t *bytes, size_t count, struct hf_err *err)                     \
	{                                                                                                    \
		struct hf_err why, before;                                                                   \
		memset(&why, 0xa5, sizeof(why));                                                             \
		memset(&before, 0xa5, sizeof(before));                                                       \
		int result = hf_wire_decode_##kind(bytes, count, &why, err);                                 \
		if (result < 0)                                                                              \
			assert_memory_equal(&why, &before, sizeof(why));                                     \
		return result;                                                                               \
	}                                                                                                    \
	static ssize_t recode_##kind(const uint8_t *bytes, size_t count, uint8_t *out, size_t out_bytes)     \
	{                                                                                                    \
		struct hf_err why;                                                                           \
		int result = hf_wire_decode_##kind(bytes, count, &why, NULL);                                \
		return result < 0 ? result : hf_wire_encode_##kind(&why, out, out_bytes);                    \
	}

REASON_MESSAGE(fail)
REASON_MESSAGE(refused)

// clang-format off
const struct wire_message wire_messages[] = {
    {"hello_control", false, encode_hello_control, decode_hello, recode_hello},
    {"hello_background", false, encode_hello_background, decode_hello, recode_hello},
    {"hello_reply_accepted", false, encode_hello_reply_accepted, decode_hello_reply, recode_hello_reply},
    {"hello_reply_refused", false, encode_hello_reply_refused, decode_hello_reply, recode_hello_reply},
    {"frame_header", false, encode_frame_header, decode_frame_header, recode_frame_header},
    {"frame_device", false, encode_frame_device, decode_frame_header, recode_frame_header},
    {"frame_loaded", false, encode_frame_loaded, decode_frame_header, recode_frame_header},
    {"frame_run", false, encode_frame_run, decode_frame_header, recode_frame_header},
    {"frame_resumed", false, encode_frame_resumed, decode_frame_header, recode_frame_header},
    {"frame_complete", false, encode_frame_complete, decode_frame_header, recode_frame_header},
    {"frame_check", false, encode_frame_check, decode_frame_header, recode_frame_header},
    {"advise", true, encode_advise, decode_advise, recode_advise},
    {"ready", true, encode_ready, decode_ready, recode_ready},
    {"wish", true, encode_wish, decode_wish, recode_wish},
    {"link", true, encode_link, decode_link, recode_link},
    {"presence", true, encode_presence, decode_presence, recode_presence},
    {"round", true, encode_round, decode_round, recode_round},
    {"round_end", true, encode_round_end, decode_round_end, recode_round_end},
    {"round_end_final", true, encode_round_end_final, decode_round_end, recode_round_end},
    {"round_done", true, encode_round_done, decode_round_done, recode_round_done},
    {"device_end", true, encode_device_end, decode_device_end, recode_device_end},
    {"finish", true, encode_finish, decode_finish, recode_finish},
    {"fail", true, encode_fail, decode_fail, recode_fail},
    {"refused", true, encode_refused, decode_refused, recode_refused},
    {"placed", true, encode_placed, decode_placed, recode_placed},
    {"first", true, encode_first, decode_first, recode_first},
    {"request", false, encode_request, decode_request, recode_request},
    {"request_probe", false, encode_request_probe, decode_request, recode_request},
    {"reply", false, encode_reply, decode_reply, recode_reply},
    {"reply_zero", false, encode_reply_zero, decode_reply, recode_reply},
};
// clang-format on
const size_t wire_messages_count = sizeof(wire_messages) / sizeof(wire_messages[0]);

/* One line's bytes, up to '#'. Returns how many are in `bytes` now. */
static size_t golden_line(char *line, uint8_t *bytes, size_t count)
{
	line[strcspn(line, "#\n")] = '\0';
	for (char *word = strtok(line, " \t"); word; word = strtok(NULL, " \t")) {
		char *end;
		unsigned long value = strtoul(word, &end, 16);
		if (*end || end != word + 2 || count == GOLDEN_MAX_BYTES)
			fail_msg("'%s' is no byte, or the file is too long", word);
		bytes[count++] = (uint8_t)value;
	}
	return count;
}

size_t golden_read(const char *name, uint8_t bytes[static GOLDEN_MAX_BYTES])
{
	char path[512], line[256];
	size_t count = 0;

	snprintf(path, sizeof(path), "%s/wire/%s.hex", GOLDEN_DIR, name);
	FILE *file = fopen(path, "r");
	if (!file)
		fail_msg("%s: %s", path, strerror(errno));
	// cppcheck-suppress nullPointerRedundantCheck ; fail_msg() does not return
	while (fgets(line, sizeof(line), file))
		count = golden_line(line, bytes, count);
	fclose(file);
	assert_true(count > 0);
	return count;
}

int decode_exact(const struct wire_message *message, const uint8_t *bytes, size_t count, struct hf_err *err)
{
	uint8_t *copy = malloc(count ? count : 1);
	memcpy(copy, bytes, count);
	int result = message->decode(copy, count, err);
	free(copy);
	return result;
}

const struct wire_message *message_of(const char *golden)
{
	for (size_t i = 0; i < wire_messages_count; i++)
		if (strcmp(wire_messages[i].golden, golden) == 0)
			return &wire_messages[i];
	fail_msg("no message '%s'", golden);
	return NULL;
}
