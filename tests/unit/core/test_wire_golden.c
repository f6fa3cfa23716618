/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes on the wire are those of the golden files, in both directions. */
#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"
#include "core/wire.h"
#include "tests/unit/core/wire_messages.h"

static void every_sample_encodes_to_its_golden_file(void **state)
{
	(void)state;
	for (size_t i = 0; i < wire_messages_count; i++) {
		uint8_t golden[GOLDEN_MAX_BYTES], encoded[GOLDEN_MAX_BYTES];
		size_t count = golden_read(wire_messages[i].golden, golden);
		print_message("%s\n", wire_messages[i].golden);
		assert_int_equal(wire_messages[i].encode(encoded, sizeof(encoded)), count);
		assert_memory_equal(encoded, golden, count);
	}
}

static void every_golden_file_survives_decoding_and_encoding(void **state)
{
	(void)state;
	for (size_t i = 0; i < wire_messages_count; i++) {
		uint8_t golden[GOLDEN_MAX_BYTES], again[GOLDEN_MAX_BYTES];
		size_t count = golden_read(wire_messages[i].golden, golden);
		print_message("%s\n", wire_messages[i].golden);
		assert_int_equal(wire_messages[i].recode(golden, count, again, sizeof(again)), count);
		assert_memory_equal(again, golden, count);
	}
}

static void encoders_never_write_past_a_buffer_that_is_too_small(void **state)
{
	(void)state;
	for (size_t i = 0; i < wire_messages_count; i++) {
		uint8_t golden[GOLDEN_MAX_BYTES];
		size_t count = golden_read(wire_messages[i].golden, golden);
		for (size_t room = 0; room < count; room++) {
			uint8_t *buffer = malloc(room ? room : 1);
			assert_int_equal(wire_messages[i].encode(buffer, room), -ENOSPC);
			free(buffer);
		}
	}
}

static void fixed_sizes_are_those_of_the_constants(void **state)
{
	(void)state;
	static const struct {
		const char *golden;
		size_t bytes;
	} sizes[] = {
	    {"hello_control", HF_WIRE_HELLO_BYTES},
	    {"hello_reply_accepted", HF_WIRE_HELLO_REPLY_BYTES},
	    {"frame_header", HF_WIRE_FRAME_HEADER_BYTES},
	    {"request", HF_WIRE_REQUEST_BYTES},
	    {"reply", HF_WIRE_REPLY_BYTES},
	};
	uint8_t golden[GOLDEN_MAX_BYTES];
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
		assert_int_equal(golden_read(sizes[i].golden, golden), sizes[i].bytes);
}

static void hello_decodes_to_its_fields(void **state)
{
	(void)state;
	uint8_t golden[GOLDEN_MAX_BYTES];
	struct hf_wire_hello hello;
	size_t count = golden_read("hello_background", golden);
	assert_int_equal(hf_wire_decode_hello(golden, count, &hello, NULL), 0);
	assert_int_equal(hello.version_min, 1);
	assert_int_equal(hello.version_max, 0x01020304);
	assert_true(hello.features == 0x8000000000000001);
	assert_true(hello.epoch == 0x0123456789abcdef);
	for (int i = 0; i < HF_WIRE_SESSION_BYTES; i++)
		assert_int_equal(hello.session[i], 255 - i);
	assert_int_equal(hello.channel, HF_WIRE_CHANNEL_BACKGROUND);
	assert_int_equal(hello.index, 3);

	count = golden_read("hello_control", golden);
	assert_int_equal(hf_wire_decode_hello(golden, count, &hello, NULL), 0);
	assert_int_equal(hello.channels_wanted[HF_FETCH_URGENT], 2);
	assert_int_equal(hello.channels_wanted[HF_FETCH_BACKGROUND], 4);
}

static void hello_reply_decodes_to_its_fields(void **state)
{
	(void)state;
	uint8_t golden[GOLDEN_MAX_BYTES];
	struct hf_wire_hello_reply reply;
	size_t count = golden_read("hello_reply_accepted", golden);
	assert_int_equal(hf_wire_decode_hello_reply(golden, count, &reply, NULL), 0);
	assert_int_equal(reply.status, HF_WIRE_HELLO_ACCEPTED);
	assert_int_equal(reply.version, 1);
	assert_int_equal(reply.channels[HF_FETCH_URGENT], 2);
	assert_int_equal(reply.channels[HF_FETCH_BACKGROUND], 4);
	count = golden_read("hello_reply_refused", golden);
	assert_int_equal(hf_wire_decode_hello_reply(golden, count, &reply, NULL), 0);
	assert_int_equal(reply.status, HF_WIRE_HELLO_BUSY);
	assert_int_equal(reply.text_bytes, count - HF_WIRE_HELLO_REPLY_BYTES);
}

static void advise_decodes_to_a_name_and_a_registry(void **state)
{
	(void)state;
	uint8_t golden[GOLDEN_MAX_BYTES];
	char name[HF_WIRE_VM_NAME_MAX + 1];
	struct hf_ramblocks blocks;
	hf_ramblocks_init(&blocks);
	size_t count = golden_read("advise", golden);
	assert_int_equal(hf_wire_decode_advise(golden, count, name, &blocks, NULL), 0);
	assert_string_equal(name, "db1");
	assert_int_equal(blocks.count, 2);
	assert_string_equal(blocks.blocks[0].idstr, "ram0");
	assert_int_equal(blocks.blocks[0].length_bytes, 4ull << 30);
	assert_int_equal(blocks.blocks[0].page_size_bytes, 1ull << 30);
	assert_string_equal(blocks.blocks[1].idstr, "/vga/\u00e4");
	assert_int_equal(blocks.blocks[1].first_page, 4);
	assert_int_equal(blocks.pages_total, 7);
	hf_ramblocks_destroy(&blocks);
}

static void control_payloads_decode_to_their_fields(void **state)
{
	(void)state;
	uint8_t golden[GOLDEN_MAX_BYTES];
	struct hf_wire_ready ready;
	size_t count = golden_read("ready", golden);
	assert_int_equal(hf_wire_decode_ready(golden, count, &ready, NULL), 0);
	assert_int_equal(ready.placement, HF_PLACEMENT_CONTINUE);
	assert_int_equal(ready.chunk_bytes, 256 << 10);

	struct hf_wire_wish wish;
	count = golden_read("wish", golden);
	assert_int_equal(hf_wire_decode_wish(golden, count, &wish, NULL), 0);
	assert_int_equal(wish.placement, HF_WIRE_WISH_CONTINUE);
	assert_int_equal(wish.hold_background, 1);

	struct hf_wire_link link;
	count = golden_read("link", golden);
	assert_int_equal(hf_wire_decode_link(golden, count, &link, NULL), 0);
	assert_int_equal(link.round_trip_ns, 200000);
	assert_int_equal(link.rate_bytes_per_s, 1250000000);
	assert_int_equal(link.max_page_stall_ns, 500000000);

	struct hf_wire_presence presence;
	count = golden_read("presence", golden);
	assert_int_equal(hf_wire_decode_presence(golden, count, &presence, NULL), 0);
	assert_int_equal(presence.block, 1);
	assert_int_equal(presence.first_page, 65538);
	assert_int_equal(presence.pages, 11);
	assert_ptr_equal(presence.bits, golden + 12);
	assert_int_equal(presence.bits_bytes, 2);

	count = golden_read("round", golden);
	assert_int_equal(hf_wire_decode_round(golden, count, &presence, NULL), 0);
	assert_int_equal(presence.block, 2);
	assert_int_equal(presence.first_page, 257);
	assert_int_equal(presence.pages, 9);
	assert_ptr_equal(presence.bits, golden + 12);

	struct hf_wire_round_end round_end;
	count = golden_read("round_end", golden);
	assert_int_equal(hf_wire_decode_round_end(golden, count, &round_end, NULL), 0);
	assert_int_equal(round_end.round, 3);
	assert_int_equal(round_end.flags, HF_WIRE_ROUND_CUT);
	assert_int_equal(round_end.limit_bytes_per_s, 125000000);
	count = golden_read("round_end_final", golden);
	assert_int_equal(hf_wire_decode_round_end(golden, count, &round_end, NULL), 0);
	assert_int_equal(round_end.flags, HF_WIRE_ROUND_FINAL | HF_WIRE_ROUND_WHOLE);

	struct hf_wire_round_done round_done;
	count = golden_read("round_done", golden);
	assert_int_equal(hf_wire_decode_round_done(golden, count, &round_done, NULL), 0);
	assert_int_equal(round_done.round, 3);
	assert_int_equal(round_done.moved_bytes, (4ull << 30) + (2ull << 20));
	assert_int_equal(round_done.duration_ns, 4000000000);
	assert_int_equal(round_done.rate_bytes_per_s, 1073741824);

	struct hf_wire_device_end end;
	count = golden_read("device_end", golden);
	assert_int_equal(hf_wire_decode_device_end(golden, count, &end, NULL), 0);
	assert_int_equal(end.total_bytes, 300000);

	struct hf_wire_finish finish;
	count = golden_read("finish", golden);
	assert_int_equal(hf_wire_decode_finish(golden, count, &finish, NULL), 0);
	assert_int_equal(finish.downtime_ns, 20000000);
	assert_int_equal(finish.total_time_ns, 10000000000);
	assert_int_equal(finish.sent_bytes, (4ull << 30) + (2ull << 20));

	struct hf_wire_placed placed;
	count = golden_read("placed", golden);
	assert_int_equal(hf_wire_decode_placed(golden, count, &placed, NULL), 0);
	assert_int_equal(placed.count, 2);
	assert_int_equal(placed.ranges[0].block, 1);
	assert_int_equal(placed.ranges[0].first_page, 65538);
	assert_int_equal(placed.ranges[0].pages, 64);
	assert_int_equal(placed.ranges[1].first_page, 7);

	struct hf_wire_first first;
	count = golden_read("first", golden);
	assert_int_equal(hf_wire_decode_first(golden, count, &first, NULL), 0);
	assert_int_equal(first.count, 2);
	assert_int_equal(first.pages[0].block, 1);
	assert_int_equal(first.pages[0].page, 65538);
	assert_int_equal(first.pages[1].block, 0);
	assert_int_equal(first.pages[1].page, 7);

	struct hf_err why;
	count = golden_read("fail", golden);
	assert_int_equal(hf_wire_decode_fail(golden, count, &why, NULL), 0);
	assert_int_equal(why.class, HF_ERR_LOCAL);
	assert_int_equal(why.errnum, ENOMEM);
	assert_string_equal(why.text, "no pages");
	count = golden_read("refused", golden);
	assert_int_equal(hf_wire_decode_refused(golden, count, &why, NULL), 0);
	assert_int_equal(why.class, HF_ERR_LOCAL);
	assert_int_equal(why.errnum, EIO);
	assert_string_equal(why.text, "not here");
}

static void page_headers_decode_to_their_fields(void **state)
{
	(void)state;
	uint8_t golden[GOLDEN_MAX_BYTES];
	struct hf_wire_request request;
	struct hf_wire_reply reply;
	size_t count = golden_read("request", golden);
	assert_int_equal(hf_wire_decode_request(golden, count, &request, NULL), 0);
	assert_true(request.id == 0x0102030405060708);
	assert_true(request.offset_bytes == (4ull << 30) + (256 << 10));
	assert_int_equal(request.block, 1);
	assert_int_equal(request.length_bytes, 256 << 10);

	count = golden_read("reply", golden);
	assert_int_equal(hf_wire_decode_reply(golden, count, &reply, NULL), 0);
	assert_true(reply.id == 0x0102030405060708);
	assert_true(reply.offset_bytes == (4ull << 30) + (256 << 10));
	assert_int_equal(reply.block, 1);
	assert_int_equal(reply.length_bytes, 256 << 10);
	assert_false(reply.zero);
	count = golden_read("reply_zero", golden);
	assert_int_equal(hf_wire_decode_reply(golden, count, &reply, NULL), 0);
	assert_true(reply.zero);
}

static void every_type_has_the_name_of_the_protocol(void **state)
{
	(void)state;
	static const char *const names[] = {
	    "unknown",	"ADVISE", "READY", "PRESENCE", "DEVICE", "DEVICE_END", "LOADED",  "RUN",   "RESUMED",
	    "COMPLETE", "FINISH", "FAIL",  "WISH",     "CHECK",	 "LINK",       "REFUSED", "PLACED"};
	for (uint32_t type = 0; type < sizeof(names) / sizeof(names[0]); type++)
		assert_string_equal(hf_wire_type_name(type), names[type]);
	assert_string_equal(hf_wire_type_name(HF_WIRE_ROUND), "ROUND");
	assert_string_equal(hf_wire_type_name(HF_WIRE_ROUND_END), "ROUND_END");
	assert_string_equal(hf_wire_type_name(HF_WIRE_ROUND_DONE), "ROUND_DONE");
	assert_string_equal(hf_wire_type_name(HF_WIRE_FIRST), "FIRST");
	assert_string_equal(hf_wire_type_name(HF_WIRE_FIRST + 1), "unknown");
	assert_string_equal(hf_wire_type_name(UINT32_MAX), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_sample_encodes_to_its_golden_file),
	    cmocka_unit_test(every_golden_file_survives_decoding_and_encoding),
	    cmocka_unit_test(encoders_never_write_past_a_buffer_that_is_too_small),
	    cmocka_unit_test(fixed_sizes_are_those_of_the_constants),
	    cmocka_unit_test(hello_decodes_to_its_fields),
	    cmocka_unit_test(hello_reply_decodes_to_its_fields),
	    cmocka_unit_test(advise_decodes_to_a_name_and_a_registry),
	    cmocka_unit_test(control_payloads_decode_to_their_fields),
	    cmocka_unit_test(page_headers_decode_to_their_fields),
	    cmocka_unit_test(every_type_has_the_name_of_the_protocol),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
