/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/channel_load.h"
#include "core/outbox.h"
#include "core/wire.h"

static struct hf_outbox_frame *frame_of(size_t length_bytes)
{
	struct hf_outbox_frame *frame = NULL;
	uint8_t *payload = malloc(length_bytes);
	memset(payload, 0x5a, length_bytes);
	assert_int_equal(hf_outbox_frame_create(&frame, HF_WIRE_DEVICE, payload, length_bytes), 0);
	free(payload);
	return frame;
}

static void frames_come_out_whole_and_in_order(void **state)
{
	(void)state;
	struct hf_outbox outbox = {.most_bytes = HF_OUTBOX_MOST_BYTES};
	for (size_t length = 1; length < 4; length++)
		assert_int_equal(hf_outbox_append(&outbox, frame_of(length)), 0);
	for (size_t length = 1; length < 4; length++) {
		struct hf_wire_frame_header header;
		struct hf_outbox_frame *frame = hf_outbox_take_first(&outbox);
		assert_int_equal(frame->length_bytes, HF_WIRE_FRAME_HEADER_BYTES + length);
		assert_int_equal(
		    hf_wire_decode_frame_header(frame->bytes, HF_WIRE_FRAME_HEADER_BYTES, &header, NULL), 0);
		assert_int_equal(header.length_bytes, length);
		assert_memory_equal(frame->bytes + HF_WIRE_FRAME_HEADER_BYTES, "ZZZ", length);
		free(frame);
	}
	assert_null(hf_outbox_take_first(&outbox));
	assert_int_equal(outbox.bytes, 0);
}

static void no_more_is_kept_than_was_said(void **state)
{
	(void)state;
	struct hf_outbox outbox = {.most_bytes = (size_t)2 * HF_WIRE_FRAME_HEADER_BYTES + 10};
	struct hf_outbox_frame *last = frame_of(4), *frame = NULL;
	assert_int_equal(hf_outbox_append(&outbox, frame_of(7)), 0);
	assert_int_equal(hf_outbox_append(&outbox, last), -ENOBUFS);
	free(last);
	assert_int_equal(hf_outbox_append(&outbox, frame_of(3)), 0);
	hf_outbox_empty(&outbox);
	assert_null(outbox.last);
	assert_int_equal(hf_outbox_append(&outbox, frame_of(10)), 0);
	hf_outbox_empty(&outbox);
	assert_int_equal(
	    hf_outbox_frame_create(&frame, HF_WIRE_DEVICE, "", (size_t)HF_WIRE_FRAME_MAX_BYTES + 1),
	    -EMSGSIZE);
}

static void the_channel_of_the_class_with_the_fewest_bytes_to_come_is_picked(void **state)
{
	(void)state;
	struct channel {
		int other;
		struct hf_channel_load load;
	} channels[] = {{.load = {.class = HF_FETCH_URGENT}},
			{.load = {.class = HF_FETCH_BACKGROUND, .outstanding = 1, .outstanding_bytes = 9}},
			{.load = {.class = HF_FETCH_BACKGROUND, .outstanding = 3, .outstanding_bytes = 5}},
			{.load = {.class = HF_FETCH_BACKGROUND, .outstanding = 4, .outstanding_bytes = 1}}};
	const struct hf_channel_load *first = &channels[0].load;
	assert_int_equal(hf_channel_pick(first, sizeof(channels[0]), 4, HF_FETCH_URGENT, 4), 0);
	assert_int_equal(hf_channel_pick(first, sizeof(channels[0]), 4, HF_FETCH_BACKGROUND, 4), 2);
	assert_int_equal(hf_channel_pick(first, sizeof(channels[0]), 4, HF_FETCH_BACKGROUND, 5), 3);
	assert_int_equal(hf_channel_pick(first, sizeof(channels[0]), 4, HF_FETCH_BACKGROUND, 3), 1);
	assert_int_equal(hf_channel_pick(first, sizeof(channels[0]), 4, HF_FETCH_BACKGROUND, 1),
			 HF_CHANNEL_NONE);
	assert_int_equal(hf_channel_pick(first, sizeof(channels[0]), 1, HF_FETCH_BACKGROUND, 4),
			 HF_CHANNEL_NONE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(frames_come_out_whole_and_in_order),
	    cmocka_unit_test(no_more_is_kept_than_was_said),
	    cmocka_unit_test(the_channel_of_the_class_with_the_fewest_bytes_to_come_is_picked),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
