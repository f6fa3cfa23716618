/* SPDX-License-Identifier: Apache-2.0 */
/* What a hostile or broken peer may send, message by message and field by field. */
#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "core/wire.h"
#include "tests/unit/core/random.h"
#include "tests/unit/core/wire_messages.h"

/* The bytes do not decode, the peer is blamed, and the text has these words. */
static void refused(const struct wire_message *message, const uint8_t *bytes, size_t count, const char *words)
{
	struct hf_err err = HF_ERR_INIT;
	int result = decode_exact(message, bytes, count, &err);
	if (result != -EPROTO)
		fail_msg("%s of %zu bytes: got %d; wanted a refusal because of '%s'", message->golden, count,
			 result, words);
	assert_int_equal(err.class, HF_ERR_PEER);
	assert_int_equal(err.errnum, EPROTO);
	if (!strstr(err.text, words))
		fail_msg("%s: '%s' is not in '%s'", message->golden, words, err.text);
	assert_true(hf_text_is_printable((const uint8_t *)err.text, strlen(err.text)));
}

static void every_truncation_of_every_message_is_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < wire_messages_count; i++) {
		uint8_t golden[GOLDEN_MAX_BYTES];
		size_t count = golden_read(wire_messages[i].golden, golden);
		if (strcmp(wire_messages[i].golden, "hello_reply_refused") == 0)
			count = HF_WIRE_HELLO_REPLY_BYTES; // its text is read apart
		for (size_t cut = 0; cut < count; cut++)
			refused(&wire_messages[i], golden, cut, "");
	}
}

static void bytes_behind_a_payload_are_refused(void **state)
{
	(void)state;
	for (size_t i = 0; i < wire_messages_count; i++) {
		uint8_t golden[GOLDEN_MAX_BYTES + 9] = {0};
		if (!wire_messages[i].payload)
			continue;
		size_t count = golden_read(wire_messages[i].golden, golden);
		for (size_t extra = 1; extra <= 9; extra++)
			refused(&wire_messages[i], golden, count + extra, "");
	}
}

static void bytes_behind_a_fixed_header_are_left_alone(void **state)
{
	(void)state;
	for (size_t i = 0; i < wire_messages_count; i++) {
		uint8_t golden[GOLDEN_MAX_BYTES + 1] = {0};
		if (wire_messages[i].payload)
			continue;
		size_t count = golden_read(wire_messages[i].golden, golden);
		golden[count] = 0xff;
		assert_int_equal(decode_exact(&wire_messages[i], golden, count + 1, NULL), 0);
	}
}

/* One field of a golden message overwritten. */
struct broken_field {
	const char *golden;
	size_t offset, bytes;
	uint64_t value;
	const char *words;
};

static const struct broken_field broken_fields[] = {
    {"hello_control", 0, 1, 'h', "not Hugeferry"},
    {"hello_control", 7, 1, 'y', "not Hugeferry"},
    {"hello_control", 8, 4, 0, "version_min 0"},
    {"hello_control", 8, 4, 2, "version_min 2 and version_max 1"},
    {"hello_control", 12, 4, 0, "version_max 0"},
    {"hello_control", 40, 8, 0, "epoch is 0"},
    {"hello_control", 48, 4, 3, "channel is 3"},
    {"hello_control", 48, 4, 0xffffffff, "channel is 4294967295"},
    {"hello_control", 48, 4, 1, "channels_wanted[0] is 2 on a page channel"},
    {"hello_control", 52, 4, 1, "index is 1 on the control channel"},
    {"hello_control", 56, 4, 0, "channels_wanted[0] is 0"},
    {"hello_control", 56, 4, 65, "channels_wanted[0] is 65"},
    {"hello_control", 60, 4, 0, "channels_wanted[1] is 0"},
    {"hello_control", 60, 4, 0xffffffff, "channels_wanted[1] is 4294967295"},
    {"hello_background", 52, 4, 64, "index is 64"},
    {"hello_background", 52, 4, 0xffffffff, "index is 4294967295"},
    {"hello_background", 56, 4, 1, "channels_wanted[0] is 1 on a page channel"},
    {"hello_background", 60, 4, 1, "channels_wanted[1] is 1 on a page channel"},
    {"hello_background", 48, 4, 0, "index is 3 on the control channel"},

    {"hello_reply_accepted", 0, 8, 0, "not Hugeferry"},
    {"hello_reply_accepted", 12, 4, 0, "version 0"},
    {"hello_reply_accepted", 12, 4, 2, "version 2"},
    {"hello_reply_accepted", 16, 8, 64, "features 0x40"},
    {"hello_reply_accepted", 16, 8, 1ull << 63, "features 0x8000000000000000"},
    {"hello_reply_accepted", 24, 4, 65, "channels[0] is 65"},
    {"hello_reply_accepted", 28, 4, 0xffffffff, "channels[1] is 4294967295"},
    {"hello_reply_accepted", 32, 4, 501, "text_bytes is 501"},
    {"hello_reply_refused", 32, 4, 0xffffffff, "text_bytes is 4294967295"},

    {"frame_header", 0, 4, 0, "type 0 is unknown"},
    {"frame_header", 0, 4, 21, "type 21 is unknown"},
    {"frame_header", 0, 4, 0xffffffff, "type 4294967295 is unknown"},

    {"advise", 0, 4, 256, "vm_name_bytes is 256"},
    {"advise", 0, 4, 0xffffffff, "vm_name_bytes is 4294967295"},
    {"advise", 0, 4, 255, "vm_name is cut short"},
    {"advise", 4, 4, 0, "block_count is 0"},
    {"advise", 4, 4, 1, "bytes follow"},
    {"advise", 4, 4, 3, "cut short"},
    {"advise", 4, 4, 257, "block_count is 257"},
    {"advise", 4, 4, 0xffffffff, "block_count is 4294967295"},
    {"advise", 8, 1, '\n', "vm_name has control characters"},
    {"advise", 9, 1, 0, "vm_name has control characters"},
    {"advise", 10, 1, 0xe4, "vm_name has control characters or is not UTF-8"},
    {"advise", 11, 8, 0, "'ram0': the length is 0"},
    {"advise", 11, 8, (4ull << 30) + 1, "'ram0': the length of 4294967297 bytes is no multiple"},
    {"advise", 11, 8, UINT64_MAX, "'ram0': the length of"},
    {"advise", 19, 8, 0, "'ram0': a page size of 0 bytes"},
    {"advise", 19, 8, 3, "'ram0': a page size of 3 bytes"},
    {"advise", 19, 8, 1ull << 63, "'ram0': a page size of 8388608 TiB"},
    {"advise", 27, 4, 0, "block 0 has an empty name"},
    {"advise", 27, 4, 256, "block 0: idstr_bytes is 256"},
    {"advise", 27, 4, 0xffffffff, "block 0: idstr_bytes is 4294967295"},
    {"advise", 27, 4, 100, "block 0 is cut short"},
    {"advise", 31, 1, 0x1b, "block 0: idstr has control characters"},
    {"advise", 32, 1, 0, "block 0: idstr has control characters"},
    {"advise", 34, 1, 0xff, "block 0: idstr has control characters or is not UTF-8"},
    {"advise", 60, 1, 0x28, "block 1: idstr has control characters or is not UTF-8"},

    {"link", 0, 8, 0, "round_trip_ns or rate_bytes_per_s is 0"},
    {"link", 8, 8, 0, "round_trip_ns or rate_bytes_per_s is 0"},
    {"wish", 0, 4, 3, "placement 3"},
    {"wish", 4, 4, 2, "hold_background is 2"},
    {"ready", 0, 4, 2, "placement 2"},
    {"ready", 0, 4, 0xffffffff, "placement 4294967295"},
    {"ready", 4, 4, 0, "chunk_bytes is 0"},
    {"ready", 4, 4, 2048, "chunk_bytes is 2048"},
    {"ready", 4, 4, 3 << 12, "chunk_bytes is 12288"},
    {"ready", 4, 4, 128 << 20, "chunk_bytes is 134217728"},
    {"ready", 4, 4, 0xffffffff, "chunk_bytes is 4294967295"},

    {"presence", 0, 4, 256, "block is 256"},
    {"presence", 0, 4, 0xffffffff, "block is 4294967295"},
    {"presence", 4, 4, 0xffffffff, "first_page 4294967295"},
    {"presence", 4, 4, 0xfffffffe - 10, "first_page 4294967284 and pages 11"},
    {"presence", 8, 4, 0, "pages is 0"},
    {"presence", 8, 4, 8, "2 bytes of bits for 8 pages"},
    {"presence", 8, 4, 17, "2 bytes of bits for 17 pages"},
    {"presence", 8, 4, 10, "bits are set beyond the last of 10 pages"},
    {"presence", 8, 4, (4 << 20) + 1, "pages is 4194305"},
    {"presence", 8, 4, 0xffffffff, "pages is 4294967295"},
    {"presence", 13, 1, 0x85, "bits are set beyond the last of 11 pages"},

    {"round", 0, 4, 256, "ROUND, which is laid out as PRESENCE: "},
    {"round", 8, 4, 0, "pages is 0"},
    {"round", 13, 1, 0x03, "bits are set beyond the last of 9 pages"},
    {"round_end", 0, 4, 0, "round is 0"},
    {"round_end", 4, 4, 8, "flags 0x8"},
    {"round_end", 4, 4, 3, "final set is no round"},
    {"round_end", 4, 4, 4, "WHOLE without FINAL"},
    {"round_end", 4, 4, 0xffffffff, "flags 0xffffffff"},
    {"round_done", 0, 4, 0, "round is 0"},

    {"device_end", 0, 8, 0, "total_bytes is 0"},
    {"device_end", 0, 8, (256ull << 20) + 1, "total_bytes is 268435457"},
    {"device_end", 0, 8, UINT64_MAX, "total_bytes is 18446744073709551615"},

    {"fail", 0, 4, 0, "class 0"},
    {"fail", 0, 4, 5, "class 5"},
    {"fail", 0, 4, 0xffffffff, "class 4294967295"},
    {"fail", 4, 4, 0, "errnum is 0"},
    {"fail", 4, 4, 4096, "errnum is 4096"},
    {"fail", 4, 4, 0xffffffff, "errnum is 4294967295"},
    {"fail", 8, 4, 7, "1 bytes follow"},
    {"fail", 8, 4, 9, "cut short"},
    {"fail", 8, 4, 501, "text_bytes is 501"},
    {"fail", 8, 4, 0xffffffff, "text_bytes is 4294967295"},

    {"refused", 0, 4, 0, "REFUSED: class 0"},
    {"refused", 0, 4, 5, "REFUSED: class 5"},
    {"refused", 4, 4, 0, "REFUSED: errnum is 0"},
    {"refused", 4, 4, 4096, "REFUSED: errnum is 4096"},
    {"refused", 8, 4, 7, "1 bytes follow"},
    {"refused", 8, 4, 9, "cut short"},
    {"refused", 8, 4, 501, "REFUSED: text_bytes is 501"},
    {"refused", 8, 4, 0xffffffff, "text_bytes is 4294967295"},

    {"placed", 0, 4, 0, "ranges is 0"},
    {"placed", 0, 4, 1, "12 bytes follow"},
    {"placed", 0, 4, 3, "cut short"},
    {"placed", 0, 4, 129, "cut short"},
    {"placed", 0, 4, 0xffffffff, "cut short"},
    {"placed", 4, 4, 256, "block is 256"},
    {"placed", 4, 4, 0xffffffff, "block is 4294967295"},
    {"placed", 8, 4, 0xffffffff, "first_page 4294967295 and pages 64"},
    {"placed", 8, 4, 0xfffffffe - 63, "first_page 4294967231 and pages 64"},
    {"placed", 12, 4, 0, "pages 0"},
    {"placed", 12, 4, 0xffffffff, "pages 4294967295"},
    {"placed", 24, 4, 0, "pages 0"},
    {"first", 0, 4, 0, "16 bytes follow"},
    {"first", 0, 4, 1, "8 bytes follow"},
    {"first", 0, 4, 3, "cut short"},
    {"first", 0, 4, 257, "cut short"},
    {"first", 0, 4, 0xffffffff, "cut short"},
    {"first", 4, 4, 256, "block is 256"},
    {"first", 12, 4, 0xffffffff, "block is 4294967295"},
    {"first", 8, 4, 0xfffffffe, "page 4294967294"},

    {"request", 0, 4, 0x48465250, "marker is 0x48465250"}, /* a reply's */
    {"request", 0, 4, 0, "marker is 0"},
    {"request", 4, 4, 256, "block is 256"},
    {"request", 16, 8, (4ull << 30) + 1, "offset_bytes 0x100000001"},
    {"request", 16, 8, UINT64_MAX - 4095, "exceed 64 bits"},
    {"request", 24, 4, 0, "length_bytes is 0"},
    {"request", 24, 4, 4095, "length_bytes is 4095"},
    {"request", 24, 4, 4097, "length_bytes is 4097"},
    {"request", 24, 4, (64 << 20) + 4096, "length_bytes is 67112960"},
    {"request", 24, 4, 0xfffff000, "length_bytes is 4294963200"},

    {"reply", 0, 4, 0x48465251, "marker is 0x48465251"}, /* a request's */
    {"reply", 4, 4, 0xfffffffe, "block is 4294967294"},
    {"reply", 16, 8, 512, "offset_bytes 0x200"},
    {"reply", 16, 8, UINT64_MAX - (256 << 10) + 1, "exceed 64 bits"},
    {"reply", 24, 4, 0xffffffff, "length_bytes is 4294967295"},
    {"reply", 28, 4, 2, "flags 0x2"},
    {"reply", 28, 4, 0x80000001, "flags 0x80000001"},
};

static void put_field(uint8_t *at, size_t bytes, uint64_t value)
{
	for (size_t i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

static void every_field_with_an_impossible_value_is_refused_by_name(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(broken_fields) / sizeof(broken_fields[0]); i++) {
		const struct broken_field *field = &broken_fields[i];
		uint8_t bytes[GOLDEN_MAX_BYTES];
		size_t count = golden_read(field->golden, bytes);
		assert_true(field->offset + field->bytes <= count);
		put_field(bytes + field->offset, field->bytes, field->value);
		refused(message_of(field->golden), bytes, count, field->words);
	}
}

static void reserved_fields_are_ignored(void **state)
{
	(void)state;
	static const struct broken_field reserved[] = {
	    {"hello_control", 64, 8, UINT64_MAX, ""},
	    {"hello_reply_accepted", 36, 4, UINT32_MAX, ""},
	    {"request", 28, 4, UINT32_MAX, ""},
	};
	for (size_t i = 0; i < sizeof(reserved) / sizeof(reserved[0]); i++) {
		uint8_t golden[GOLDEN_MAX_BYTES], bytes[GOLDEN_MAX_BYTES], again[GOLDEN_MAX_BYTES];
		const struct wire_message *message = message_of(reserved[i].golden);
		size_t count = golden_read(reserved[i].golden, golden);
		memcpy(bytes, golden, count);
		put_field(bytes + reserved[i].offset, reserved[i].bytes, reserved[i].value);
		assert_int_equal(message->recode(bytes, count, again, sizeof(again)), count);
		assert_memory_equal(again, golden, count);
	}
}

static void a_refusal_is_read_whatever_its_other_fields_are(void **state)
{
	(void)state;
	uint8_t bytes[GOLDEN_MAX_BYTES];
	size_t count = golden_read("hello_reply_refused", bytes);
	put_field(bytes + 8, 4, 4711); /* a status of a later version */
	memset(bytes + 12, 0xff, 20);
	struct hf_wire_hello_reply reply;
	assert_int_equal(hf_wire_decode_hello_reply(bytes, count, &reply, NULL), 0);
	assert_int_equal(reply.status, 4711);
	assert_int_equal(reply.text_bytes, 5);
}

/* Least and greatest payload of each type. */
static const struct {
	uint32_t type, min, max;
} frame_limits[] = {
    {HF_WIRE_ADVISE, 29, 8 + 255 + 256 * (20 + 255)},
    {HF_WIRE_READY, 8, 8},
    {HF_WIRE_PRESENCE, 13, 12 + (512 << 10)},
    {HF_WIRE_DEVICE, 1, 1 << 20},
    {HF_WIRE_DEVICE_END, 8, 8},
    {HF_WIRE_LOADED, 0, 0},
    {HF_WIRE_RUN, 0, 0},
    {HF_WIRE_RESUMED, 0, 0},
    {HF_WIRE_COMPLETE, 0, 0},
    {HF_WIRE_FINISH, 24, 24},
    {HF_WIRE_FAIL, 12, 512},
    {HF_WIRE_WISH, 8, 8},
    {HF_WIRE_CHECK, 0, 0},
    {HF_WIRE_LINK, 24, 24},
    {HF_WIRE_REFUSED, 12, 512},
    {HF_WIRE_PLACED, 16, 4 + 128 * 12},
    {HF_WIRE_ROUND, 13, 12 + (512 << 10)},
    {HF_WIRE_ROUND_END, 16, 16},
    {HF_WIRE_ROUND_DONE, 32, 32},
    {HF_WIRE_FIRST, 12, 4 + 256 * 8},
};

static bool frame_accepted(uint32_t type, uint32_t length)
{
	uint8_t bytes[HF_WIRE_FRAME_HEADER_BYTES], encoded[HF_WIRE_FRAME_HEADER_BYTES];
	struct hf_wire_frame_header header = {.type = type, .length_bytes = length};
	put_field(bytes, 4, type);
	put_field(bytes + 4, 4, length);
	ssize_t result = hf_wire_encode_frame_header(&header, encoded, sizeof(encoded));
	bool accepted = decode_exact(message_of("frame_header"), bytes, sizeof(bytes), NULL) == 0;
	assert_int_equal(result, accepted ? HF_WIRE_FRAME_HEADER_BYTES : -EINVAL);
	return accepted;
}

static void every_frame_type_has_its_own_least_and_greatest_length(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(frame_limits) / sizeof(frame_limits[0]); i++) {
		const uint32_t type = frame_limits[i].type, min = frame_limits[i].min,
			       max = frame_limits[i].max;
		print_message("%s\n", hf_wire_type_name(type));
		assert_true(max <= HF_WIRE_FRAME_MAX_BYTES);
		assert_true(frame_accepted(type, min));
		assert_true(frame_accepted(type, max));
		assert_false(min > 0 && frame_accepted(type, min - 1));
		assert_false(frame_accepted(type, max + 1));
		assert_false(frame_accepted(type, HF_WIRE_FRAME_MAX_BYTES + 1));
		assert_false(frame_accepted(type, UINT32_MAX));
	}
}

static void the_largest_advise_fits_its_frame(void **state)
{
	(void)state;
	struct hf_ramblocks blocks, again;
	char idstr[HF_RAMBLOCK_IDSTR_MAX + 1], name[HF_WIRE_VM_NAME_MAX + 1], name_again[sizeof(name)];

	memset(name, 'v', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	hf_ramblocks_init(&blocks);
	hf_ramblocks_init(&again);
	for (int i = 0; i < HF_RAMBLOCKS_MAX; i++) {
		snprintf(idstr, sizeof(idstr), "%0255d", i);
		assert_int_equal(hf_ramblocks_add(&blocks, idstr, 4096, 4096, NULL), 0);
	}
	uint8_t *buffer = malloc(HF_WIRE_FRAME_MAX_BYTES);
	ssize_t bytes = hf_wire_encode_advise(name, &blocks, buffer, HF_WIRE_FRAME_MAX_BYTES);
	assert_true(bytes > 0);
	assert_true(frame_accepted(HF_WIRE_ADVISE, (uint32_t)bytes));
	assert_false(frame_accepted(HF_WIRE_ADVISE, (uint32_t)bytes + 1));
	assert_int_equal(hf_wire_decode_advise(buffer, (size_t)bytes, name_again, &again, NULL), 0);
	assert_string_equal(name_again, name);
	assert_int_equal(again.count, HF_RAMBLOCKS_MAX);
	assert_string_equal(again.blocks[255].idstr, idstr);
	free(buffer);
	hf_ramblocks_destroy(&blocks);
	hf_ramblocks_destroy(&again);
}

static void two_blocks_of_one_name_are_refused(void **state)
{
	(void)state;
	static const uint8_t twice[] = {0, 0, 0, 0, 0, 0, 0,  2, /* no name, two blocks */
					0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 1, 'a',
					0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 1, 'a'};
	refused(message_of("advise"), twice, sizeof(twice), "block 'a': the VM has two");
}

static void the_text_of_a_fail_is_made_printable(void **state)
{
	(void)state;
	static const uint8_t hostile[8] = {0x1b, '[', '2', 'J', 0, 0xff, 0xc3, 0xa4};
	struct hf_err why;
	uint8_t bytes[GOLDEN_MAX_BYTES];
	size_t count = golden_read("fail", bytes);
	memcpy(bytes + 12, hostile, sizeof(hostile));
	assert_int_equal(hf_wire_decode_fail(bytes, count, &why, NULL), 0);
	assert_string_equal(why.text, "?[2J??\u00e4");
}

static void a_fail_is_sent_even_if_its_cause_was_filled_badly(void **state)
{
	(void)state;
	uint8_t bytes[HF_ERR_TEXT_BYTES + 64];
	struct hf_err why = HF_ERR_INIT, heard;

	memset(why.text, 'x', sizeof(why.text)); /* not even terminated */
	why.text[0] = '\n';
	ssize_t count = hf_wire_encode_fail(&why, bytes, sizeof(bytes));
	assert_int_equal(count, 12 + HF_WIRE_TEXT_MAX_BYTES);
	assert_int_equal(hf_wire_decode_fail(bytes, (size_t)count, &heard, NULL), 0);
	assert_int_equal(heard.class, HF_ERR_LOCAL);
	assert_int_equal(heard.errnum, EIO);
	assert_int_equal(strlen(heard.text), HF_WIRE_TEXT_MAX_BYTES);
	assert_int_equal(heard.text[0], '?');
}

static void a_long_reason_of_a_refusal_is_cut(void **state)
{
	(void)state;
	uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES + HF_WIRE_TEXT_MAX_BYTES];
	char text[2000];
	struct hf_wire_hello_reply reply = {.status = HF_WIRE_HELLO_REFUSED};
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(hf_wire_encode_hello_reply(&reply, text, bytes, sizeof(bytes)), sizeof(bytes));
	assert_int_equal(hf_wire_decode_hello_reply(bytes, sizeof(bytes), &reply, NULL), 0);
	assert_int_equal(reply.text_bytes, HF_WIRE_TEXT_MAX_BYTES);
}

static void encoders_refuse_what_decoders_would_refuse(void **state)
{
	(void)state;
	uint8_t bytes[GOLDEN_MAX_BYTES];
	struct hf_ramblocks none;
	hf_ramblocks_init(&none);
	char name[HF_WIRE_VM_NAME_MAX + 2];
	memset(name, 'v', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';

	assert_int_equal(hf_wire_encode_hello(&(struct hf_wire_hello){0}, bytes, sizeof(bytes)), -EINVAL);
	assert_int_equal(
	    hf_wire_encode_hello_reply(&(struct hf_wire_hello_reply){0}, NULL, bytes, sizeof(bytes)),
	    -EINVAL);
	assert_int_equal(hf_wire_encode_advise("vm", &none, bytes, sizeof(bytes)), -EINVAL);
	assert_int_equal(hf_wire_encode_ready(&(struct hf_wire_ready){0}, bytes, sizeof(bytes)), -EINVAL);
	assert_int_equal(hf_wire_encode_presence(&(struct hf_wire_presence){0}, bytes, sizeof(bytes)),
			 -EINVAL);
	assert_int_equal(hf_wire_encode_device_end(&(struct hf_wire_device_end){.total_bytes = UINT64_MAX},
						   bytes, sizeof(bytes)),
			 -EINVAL);
	assert_int_equal(
	    hf_wire_encode_request(&(struct hf_wire_request){.length_bytes = 100}, bytes, sizeof(bytes)),
	    -EINVAL);
	assert_int_equal(hf_wire_encode_reply(&(struct hf_wire_reply){.block = 256, .length_bytes = 4096},
					      bytes, sizeof(bytes)),
			 -EINVAL);

	hf_ramblocks_add(&none, "ram0", 4096, 4096, NULL);
	assert_int_equal(hf_wire_encode_advise(name, &none, bytes, sizeof(bytes)), -EINVAL);
	assert_int_equal(hf_wire_encode_advise("v\nm", &none, bytes, sizeof(bytes)), -EINVAL);
	assert_true(hf_wire_encode_advise("", &none, bytes, sizeof(bytes)) > 0);
	hf_ramblocks_destroy(&none);
}

static void the_highest_common_version_is_chosen(void **state)
{
	(void)state;
	uint32_t version = 77;
	uint64_t features = 77;
	struct hf_wire_hello peer = {.version_min = 1, .version_max = 9, .features = ~HF_WIRE_FEATURE_CHECK};
	assert_int_equal(hf_wire_negotiate(&peer, &version, &features, NULL), 0);
	assert_int_equal(version, HF_WIRE_VERSION_MAX);
	assert_true(features == (HF_WIRE_FEATURES & ~HF_WIRE_FEATURE_CHECK));
}

static void a_check_cannot_be_continued(void **state)
{
	(void)state;
	uint32_t version;
	uint64_t features = 77;
	struct hf_wire_hello peer = {.version_min = 1, .version_max = 1, .features = UINT64_MAX};
	assert_int_equal(hf_wire_negotiate(&peer, &version, &features, NULL), 0);
	assert_int_equal(features, HF_WIRE_FEATURE_LINK | HF_WIRE_FEATURE_CHECK);
	peer.features = HF_WIRE_FEATURE_CHECK | HF_WIRE_FEATURE_RECOVER; // a check without LINK is none
	assert_int_equal(hf_wire_negotiate(&peer, &version, &features, NULL), 0);
	assert_int_equal(features, HF_WIRE_FEATURE_RECOVER);
}

static void a_check_is_not_taken_without_what_it_measures_by(void **state)
{
	(void)state;
	uint32_t version;
	uint64_t features = 77;
	struct hf_wire_hello peer = {.version_min = 1, .version_max = 1, .features = HF_WIRE_FEATURE_CHECK};
	assert_int_equal(hf_wire_negotiate(&peer, &version, &features, NULL), 0);
	assert_int_equal(features, 0);
	peer.features = HF_WIRE_FEATURE_LINK;
	assert_int_equal(hf_wire_negotiate(&peer, &version, &features, NULL), 0);
	assert_int_equal(features, HF_WIRE_FEATURE_LINK);
}

static void without_a_common_version_both_ranges_are_named(void **state)
{
	(void)state;
	uint32_t version = 77;
	uint64_t features = 77;
	struct hf_err err = HF_ERR_INIT;
	struct hf_wire_hello peer = {.version_min = 5, .version_max = 9};
	assert_int_equal(hf_wire_negotiate(&peer, &version, &features, &err), -EPROTONOSUPPORT);
	assert_non_null(strstr(err.text, "the peer speaks 5 to 9, this side 1 to 1"));
	assert_int_equal(err.class, HF_ERR_PEER);
	assert_int_equal(version, 77);
	assert_int_equal(features, 77);
}

/* Random bytes, and goldens with some bytes changed. What decodes must encode again and decode again. */
static void survive(const struct wire_message *message, const uint8_t *bytes, size_t count, uint64_t seed)
{
	static uint8_t first[1 << 16], second[1 << 16];

	decode_exact(message, bytes, count, NULL);
	uint8_t *copy = malloc(count ? count : 1);
	memcpy(copy, bytes, count);
	ssize_t once = message->recode(copy, count, first, sizeof(first));
	free(copy);
	if (once == -EPROTO)
		return;
	ssize_t twice = once < 0 ? once : message->recode(first, (size_t)once, second, sizeof(second));
	if (once < 0 || twice != once || memcmp(first, second, (size_t)once) != 0)
		fail_msg("seed %" PRIu64 ": %s is not stable (%zd, %zd)", seed, message->golden, once, twice);
}

static void random_garbage_never_harms(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 3000; seed++) {
		struct random random = {seed};
		uint8_t bytes[200];
		size_t count = random_below(&random, sizeof(bytes) + 1);
		for (size_t i = 0; i < count; i++)
			bytes[i] = (uint8_t)random_next(&random);
		for (size_t i = 0; i < wire_messages_count; i++)
			survive(&wire_messages[i], bytes, count, seed);
	}
}

static void damaged_messages_never_harm(void **state)
{
	(void)state;
	static const uint8_t values[] = {0, 1, 2, 7, 0x10, 0x7f, 0x80, 0xfe, 0xff};
	for (size_t i = 0; i < wire_messages_count; i++) {
		uint8_t golden[GOLDEN_MAX_BYTES], bytes[GOLDEN_MAX_BYTES];
		size_t count = golden_read(wire_messages[i].golden, golden);
		for (uint64_t seed = 1; seed <= 5000; seed++) {
			struct random random = {seed};
			memcpy(bytes, golden, count);
			for (uint64_t damage = 1 + random_below(&random, 4); damage > 0; damage--)
				bytes[random_below(&random, count)] =
				    random_below(&random, 2) ? values[random_below(&random, sizeof(values))]
							     : (uint8_t)random_next(&random);
			survive(&wire_messages[i], bytes, count, seed);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_truncation_of_every_message_is_refused),
	    cmocka_unit_test(bytes_behind_a_payload_are_refused),
	    cmocka_unit_test(bytes_behind_a_fixed_header_are_left_alone),
	    cmocka_unit_test(every_field_with_an_impossible_value_is_refused_by_name),
	    cmocka_unit_test(reserved_fields_are_ignored),
	    cmocka_unit_test(a_refusal_is_read_whatever_its_other_fields_are),
	    cmocka_unit_test(every_frame_type_has_its_own_least_and_greatest_length),
	    cmocka_unit_test(the_largest_advise_fits_its_frame),
	    cmocka_unit_test(two_blocks_of_one_name_are_refused),
	    cmocka_unit_test(the_text_of_a_fail_is_made_printable),
	    cmocka_unit_test(a_fail_is_sent_even_if_its_cause_was_filled_badly),
	    cmocka_unit_test(a_long_reason_of_a_refusal_is_cut),
	    cmocka_unit_test(encoders_refuse_what_decoders_would_refuse),
	    cmocka_unit_test(the_highest_common_version_is_chosen),
	    cmocka_unit_test(a_check_cannot_be_continued),
	    cmocka_unit_test(a_check_is_not_taken_without_what_it_measures_by),
	    cmocka_unit_test(without_a_common_version_both_ranges_are_named),
	    cmocka_unit_test(random_garbage_never_harms),
	    cmocka_unit_test(damaged_messages_never_harm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
