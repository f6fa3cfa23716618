/* SPDX-License-Identifier: Apache-2.0 */
/* What a hostile or broken source may send. */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Before LOADED a violation fails the migration and says so; after it, it pauses. No VM is touched. */
static void expect_violation(struct rig *rig, enum rig_at at, uint32_t vm_requests)
{
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.err.class, HF_ERR_PEER);
	assert_non_null(strstr(snapshot.err.text, "VM 'there'"));
	assert_int_equal(rig->vm_requests, vm_requests);
	if (at >= AT_LOADED) {
		assert_int_equal(snapshot.status, HF_STATUS_POSTCOPY_PAUSED);
		rig_expect_nothing(rig);
		return;
	}
	assert_int_equal(snapshot.status, HF_STATUS_FAILED);
	rig_expect(rig, "send FAIL");
	assert_int_equal(rig_sent_fail(rig).class, HF_ERR_PEER);
	assert_string_equal(rig_sent_fail(rig).text, snapshot.err.text);
}

/* ---- types x states ---------------------------------------------------------------------------- */

#define T(type) (1u << HF_WIRE_##type)

static const uint32_t expected_types[AT_COUNT] = {
    [AT_SETUP] = T(WISH) | T(ADVISE) | T(FAIL),
    [AT_ADVISE] = T(FAIL),
    [AT_ACTIVE] = T(PRESENCE) | T(FAIL),
    [AT_PRESENCE] = T(PRESENCE) | T(FAIL),
    [AT_DEVICE_DATA] = T(DEVICE) | T(DEVICE_END) | T(FAIL),
    [AT_LISTEN] = T(FAIL),
    [AT_LOADED] = T(RUN) | T(FAIL),
    [AT_RUN] = T(FAIL),
    [AT_RUNNING] = T(FAIL),
    [AT_COMPLETE] = T(FINISH),
};

static void every_message_in_every_state_where_it_is_not_expected_is_a_violation(void **state)
{
	(void)state;
	for (enum rig_at at = AT_SETUP; at < AT_COMPLETE; at++)
		for (uint32_t type = 0; type <= RIG_TYPES; type++) {
			if (expected_types[at] & 1u << type)
				continue;
			print_message("%s in state %s\n", hf_wire_type_name(type), rig_at_name(at));
			struct rig *rig = rig_create();
			rig->destination_config.background_held = true;
			rig_destination_at(rig, at);
			uint32_t vm_requests = rig->vm_requests;
			rig_hear(rig, type);
			assert_non_null(strstr(rig_snapshot(rig).err.text, hf_wire_type_name(type)));
			expect_violation(rig, at, vm_requests);
			rig_destroy(rig);
		}
}

static void a_violation_when_all_pages_are_here_completes_the_migration(void **state)
{
	(void)state;
	for (enum rig_at at = AT_COMPLETE; at < AT_COUNT; at++)
		for (uint32_t type = 0; type <= RIG_TYPES; type++) {
			if (expected_types[at] & 1u << type)
				continue;
			struct rig *rig = rig_create();
			rig_destination_at(rig, at);
			uint32_t vm_requests = rig->vm_requests;
			rig_hear(rig, type);
			rig_expect_nothing(rig);
			assert_int_equal(rig->vm_requests, vm_requests);
			assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
			rig_link_down(rig);
			assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
			assert_int_equal(rig_snapshot(rig).err.class, HF_ERR_NONE);
			rig_destroy(rig);
		}
}

/* It may have been on its way when COMPLETE was said. */
static void a_wish_that_comes_after_complete_is_no_violation(void **state)
{
	static const uint8_t hold[8] = {0, 0, 0, 0, 0, 0, 0, 1};
	struct rig *rig = *state;
	rig_destination_at(rig, AT_COMPLETE);
	rig_hear_bytes(rig, HF_WIRE_WISH, hold, sizeof(hold));
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_ACTIVE);
	rig_hear(rig, HF_WIRE_FINISH);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
	rig_expect_nothing(rig);
}

static void after_an_end_no_message_has_an_effect(void **state)
{
	(void)state;
	for (enum rig_at at = AT_SETUP; at < AT_LOADED; at++) {
		struct rig *rig = rig_create();
		rig_destination_at(rig, at);
		rig_hear(rig, HF_WIRE_FAIL);
		uint32_t vm_requests = rig->vm_requests;
		for (uint32_t type = 0; type <= RIG_TYPES; type++)
			rig_hear(rig, type);
		rig_expect_nothing(rig);
		assert_int_equal(rig->vm_requests, vm_requests);
		assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
		rig_destroy(rig);
	}
}

static void messages_of_another_epoch_are_dropped(void **state)
{
	struct rig *rig = *state;
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LINK, ECONNRESET, "an older link");
	rig_destination_at(rig, AT_LOADED);
	hf_destination_events.message(rig->destination, RIG_EPOCH + 1, HF_WIRE_RUN, NULL, 0);
	hf_destination_events.message(rig->destination, RIG_EPOCH + 1, HF_WIRE_ADVISE, NULL, 0);
	hf_destination_events.link_down(rig->destination, RIG_EPOCH + 1, &why);
	rig_expect_nothing(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_DEVICE);
	rig_link_down(rig);
	rig_hear(rig, HF_WIRE_RUN); /* of the link that is gone */
	rig_expect_nothing(rig);
}

/*
 * ---- malformed payloads ----
 * DEVICE is plain bytes and RUN has none: the lengths they cannot have are refused with the frame's header.
 */

struct malformed {
	enum rig_at at;
	uint32_t type;
	size_t bytes;
	uint8_t payload[24];
};

static const struct malformed malformed[] = {
    {AT_SETUP, HF_WIRE_WISH, 0, {0}},
    {AT_SETUP, HF_WIRE_WISH, 7, {0}},
    {AT_SETUP, HF_WIRE_WISH, 9, {0}},
    {AT_SETUP, HF_WIRE_WISH, 8, {0, 0, 0, 3, 0, 0, 0, 0}},
    {AT_SETUP, HF_WIRE_WISH, 8, {0, 0, 0, 0, 0, 0, 0, 2}},
    {AT_ACTIVE, HF_WIRE_WISH, 8, {0, 0, 0, 1, 0, 0, 0, 0}}, /* too late for a placement */
    {AT_SETUP, HF_WIRE_ADVISE, 0, {0}},
    {AT_SETUP, HF_WIRE_ADVISE, 8, {0}},
    {AT_SETUP, HF_WIRE_ADVISE, 8, {0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}},
    {AT_SETUP, HF_WIRE_ADVISE, 8, {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1}},
    {AT_ACTIVE, HF_WIRE_PRESENCE, 0, {0}},
    {AT_ACTIVE, HF_WIRE_PRESENCE, 12, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4}},	   /* no bits */
    {AT_ACTIVE, HF_WIRE_PRESENCE, 14, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 1, 1}}, /* too many bits */
    {AT_ACTIVE, HF_WIRE_PRESENCE, 13, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0x10}}, /* padding */
    {AT_ACTIVE, HF_WIRE_PRESENCE, 12, {0}},					   /* no pages */
    {AT_ACTIVE, HF_WIRE_PRESENCE, 13, {0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 8, 1}},
    {AT_DEVICE_DATA, HF_WIRE_DEVICE_END, 0, {0}},
    {AT_DEVICE_DATA, HF_WIRE_DEVICE_END, 7, {0}},
    {AT_DEVICE_DATA, HF_WIRE_DEVICE_END, 9, {0, 0, 0, 0, 0, 0, 0, RIG_STATE_BYTES, 0}},
    {AT_DEVICE_DATA, HF_WIRE_DEVICE_END, 8, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
    {AT_ACTIVE, HF_WIRE_FAIL, 0, {0}},
    {AT_ACTIVE, HF_WIRE_FAIL, 12, {0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0}},	     /* no class */
    {AT_ACTIVE, HF_WIRE_FAIL, 12, {0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 9}},	     /* text is missing */
    {AT_LOADED, HF_WIRE_FAIL, 12, {0, 0, 0, 3, 0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff}}, /* keeps the VM? */
};

static void malformed_payloads_are_violations(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(malformed) / sizeof(malformed[0]); i++) {
		const struct malformed *m = &malformed[i];
		print_message("%zu: %s of %zu bytes\n", i, hf_wire_type_name(m->type), m->bytes);
		struct rig *rig = rig_create();
		rig_destination_at(rig, m->at);
		uint32_t vm_requests = rig->vm_requests;
		rig_hear_bytes(rig, m->type, m->bytes ? m->payload : NULL, m->bytes);
		expect_violation(rig, m->at, vm_requests);
		rig_destroy(rig);
	}
}

static void every_truncation_of_advise_is_a_violation(void **state)
{
	(void)state;
	struct rig_message message = {.bytes = 1};
	for (size_t bytes = 0; bytes < message.bytes; bytes++) {
		struct rig *rig = rig_create();
		rig_destination_at(rig, AT_SETUP);
		rig_message(rig, HF_WIRE_ADVISE, &message);
		uint8_t *exact = malloc(bytes + 1);
		memcpy(exact, message.payload, bytes);
		rig_hear_bytes(rig, HF_WIRE_ADVISE, exact, bytes);
		free(exact);
		expect_violation(rig, AT_SETUP, 0);
		rig_destroy(rig);
	}
}

/* ---- presence ---------------------------------------------------------------------------------- */

struct piece {
	uint32_t block, first_page, pages;
};

/* The last piece is the wrong one. Block 0 has 4 pages, block 1 has 8. */
static void check_presence_refused(const struct piece *pieces, size_t count)
{
	struct rig *rig = rig_create();
	rig_destination_at(rig, AT_ACTIVE);
	for (size_t i = 0; i < count; i++) {
		struct rig_message message;
		rig_expect_nothing(rig);
		rig_presence_message(pieces[i].block, pieces[i].first_page, pieces[i].pages, 0, &message);
		rig_hear_bytes(rig, message.type, message.payload, message.bytes);
	}
	expect_violation(rig, AT_ACTIVE, 0);
	rig_destroy(rig);
}

#define REFUSED(...)                                                                                         \
	check_presence_refused((const struct piece[]){__VA_ARGS__},                                          \
			       sizeof((const struct piece[]){__VA_ARGS__}) / sizeof(struct piece))

static void presence_out_of_order_overlapping_or_too_long_is_a_violation(void **state)
{
	(void)state;
	REFUSED({1, 0, 8});			  /* the second block first */
	REFUSED({0, 1, 3});			  /* the first page is missing */
	REFUSED({0, 0, 2}, {0, 3, 1});		  /* a gap */
	REFUSED({0, 0, 2}, {0, 1, 3});		  /* an overlap */
	REFUSED({0, 0, 2}, {0, 0, 2});		  /* the same again */
	REFUSED({0, 0, 2}, {1, 0, 8});		  /* the next block too early */
	REFUSED({0, 0, 4}, {0, 0, 4});		  /* a block again */
	REFUSED({0, 0, 5});			  /* a page too many */
	REFUSED({0, 0, 2}, {0, 2, 3});		  /* a page too many at the end */
	REFUSED({0, 0, 4}, {1, 0, 9});		  /* past the last block */
	REFUSED({0, 0, 4}, {2, 0, 1});		  /* no such block */
	REFUSED({0, 0, 12});			  /* pages of the whole VM in one block */
	REFUSED({0, 4, 1});			  /* just past the end */
	REFUSED({0, 0, 4}, {1, 0, 8}, {1, 0, 8}); /* more after the map is whole */
	REFUSED({0, 0, 4}, {1, 0, 8}, {2, 0, 1});
}

static void presence_in_pieces_is_understood(void **state)
{
	struct rig *rig = *state;
	static const struct piece pieces[] = {{0, 0, 1}, {0, 1, 3}, {1, 0, 3}, {1, 3, 4}, {1, 7, 1}};
	static const uint64_t bits[] = {1, 0x2, 0x0, 0x8, 1}; /* rom 0 and 2, ram 6 and 7 */
	rig_destination_at(rig, AT_ACTIVE);
	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		struct rig_message message;
		rig_presence_message(pieces[i].block, pieces[i].first_page, pieces[i].pages, bits[i],
				     &message);
		rig_hear_bytes(rig, message.type, message.payload, message.bytes);
	}
	rig_hear(rig, HF_WIRE_DEVICE);
	rig_reach(rig, AT_DEVICE_DATA, AT_RUNNING);
	rig_land_all(rig);
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.pages_fetched, 4);
	assert_true(rig_called(rig, "place ram 6"));
	assert_true(rig_called(rig, "place ram 7"));
	assert_true(rig_called(rig, "place rom 0"));
	assert_true(rig_called(rig, "place rom 2"));
}

/* ---- device state ------------------------------------------------------------------------------ */

static void device_state_above_the_limit_is_a_violation(void **state)
{
	struct rig *rig = *state;
	uint8_t *piece = calloc(1, HF_WIRE_FRAME_MAX_BYTES);
	rig_destination_at(rig, AT_DEVICE_DATA); /* some bytes have come */
	uint32_t fit = HF_WIRE_DEVICE_STATE_MAX_BYTES / HF_WIRE_FRAME_MAX_BYTES - 1;
	for (uint32_t i = 0; i < fit; i++)
		rig_hear_bytes(rig, HF_WIRE_DEVICE, piece, HF_WIRE_FRAME_MAX_BYTES);
	rig_hear_bytes(rig, HF_WIRE_DEVICE, piece, HF_WIRE_FRAME_MAX_BYTES - RIG_STATE_BYTES);
	rig_expect_nothing(rig); /* full to the last byte */
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_ACTIVE);
	rig_hear_bytes(rig, HF_WIRE_DEVICE, piece, 1);
	free(piece);
	expect_violation(rig, AT_DEVICE_DATA, 0);
}

static void device_end_with_another_total_is_a_violation(void **state)
{
	(void)state;
	static const uint64_t totals[] = {1, RIG_STATE_BYTES - 1, RIG_STATE_BYTES + 1,
					  HF_WIRE_DEVICE_STATE_MAX_BYTES};
	for (size_t i = 0; i < sizeof(totals) / sizeof(totals[0]); i++) {
		struct hf_wire_device_end end = {.total_bytes = totals[i]};
		uint8_t buffer[8];
		assert_int_equal(hf_wire_encode_device_end(&end, buffer, sizeof(buffer)), sizeof(buffer));
		struct rig *rig = rig_create();
		rig_destination_at(rig, AT_DEVICE_DATA);
		rig_hear_bytes(rig, HF_WIRE_DEVICE_END, buffer, sizeof(buffer));
		expect_violation(rig, AT_DEVICE_DATA, 0);
		rig_destroy(rig);
	}
}

static void device_state_before_the_map_is_whole_is_a_violation(void **state)
{
	(void)state;
	for (uint32_t type = HF_WIRE_DEVICE; type <= HF_WIRE_DEVICE_END; type++) {
		struct rig *rig = rig_create();
		rig_destination_at(rig, AT_PRESENCE);
		rig_hear(rig, type);
		expect_violation(rig, AT_PRESENCE, 0);
		rig_destroy(rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(every_message_in_every_state_where_it_is_not_expected_is_a_violation),
	    RIG_TEST(a_violation_when_all_pages_are_here_completes_the_migration),
	    RIG_TEST(a_wish_that_comes_after_complete_is_no_violation),
	    RIG_TEST(after_an_end_no_message_has_an_effect),
	    RIG_TEST(messages_of_another_epoch_are_dropped),
	    RIG_TEST(malformed_payloads_are_violations),
	    RIG_TEST(every_truncation_of_advise_is_a_violation),
	    RIG_TEST(presence_out_of_order_overlapping_or_too_long_is_a_violation),
	    RIG_TEST(presence_in_pieces_is_understood),
	    RIG_TEST(device_state_above_the_limit_is_a_violation),
	    RIG_TEST(device_end_with_another_total_is_a_violation),
	    RIG_TEST(device_state_before_the_map_is_whole_is_a_violation),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
