/* SPDX-License-Identifier: Apache-2.0 */
/* What the source answers to requests as they come off the wire. Block 0 is rom, block 1 ram. */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <string.h>

#define ROM 0u
#define RAM 1u

/* A reply no engine would write: shows that a refusal leaves it alone. */
static const struct hf_serve_reply untouched = {.bytes = &untouched, .zero = true};

static int serve(struct rig *rig, uint32_t block, uint64_t offset, uint32_t length,
		 struct hf_serve_reply *reply)
{
	struct hf_serve_request request = {
	    .epoch = RIG_EPOCH,
	    .block = block,
	    .offset_bytes = offset,
	    .length_bytes = length,
	    .class = HF_FETCH_URGENT,
	};
	struct hf_err err = HF_ERR_INIT;
	*reply = untouched;
	int result = hf_source_events.serve(rig->source, &request, reply, &err);
	assert_int_equal(err.class, result ? HF_ERR_PEER : HF_ERR_NONE);
	return result;
}

static void assert_refused(struct rig *rig, uint32_t block, uint64_t offset, uint32_t length)
{
	struct hf_serve_reply reply;
	uint32_t addressed = rig->addressed;
	if (serve(rig, block, offset, length, &reply) != -EPROTO)
		fail_msg("block %u, offset %llu, %u bytes: served", block, (unsigned long long)offset,
			 length);
	assert_ptr_equal(reply.bytes, untouched.bytes);
	assert_true(reply.zero);
	assert_int_equal(rig->addressed, addressed);
}

static void assert_bytes(struct rig *rig, uint32_t block, uint64_t offset, uint32_t length,
			 const uint8_t *bytes)
{
	struct hf_serve_reply reply;
	assert_int_equal(serve(rig, block, offset, length, &reply), 0);
	assert_false(reply.zero);
	assert_ptr_equal(reply.bytes, bytes);
}

static void assert_zero(struct rig *rig, uint32_t block, uint64_t offset, uint32_t length)
{
	struct hf_serve_reply reply;
	assert_int_equal(serve(rig, block, offset, length, &reply), 0);
	assert_true(reply.zero);
	assert_null(reply.bytes);
}

static void fill(struct rig *rig)
{
	memset(rig->ram, 0x11, RIG_RAM_PAGES * RIG_RAM_PAGE);
	memset(rig->rom, 0x22, RIG_ROM_PAGES * RIG_ROM_PAGE);
}

static void chunks_inside_a_page_are_served_in_place(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_DEVICE);
	fill(rig);
	assert_bytes(rig, RAM, 0, RIG_RAM_PAGE, rig->ram);
	assert_bytes(rig, RAM, 3 * RIG_RAM_PAGE + 4096, 4096, rig->ram + 3 * RIG_RAM_PAGE + 4096);
	assert_bytes(rig, RAM, RIG_RAM_PAGES * RIG_RAM_PAGE - 1, 1,
		     rig->ram + RIG_RAM_PAGES * RIG_RAM_PAGE - 1);
	assert_bytes(rig, ROM, 2 * RIG_ROM_PAGE, RIG_ROM_PAGE, rig->rom + 2 * RIG_ROM_PAGE);
	struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
	assert_int_equal(snapshot.sent_chunks, 4);
	assert_int_equal(snapshot.sent_bytes, RIG_RAM_PAGE + 4096 + 1 + RIG_ROM_PAGE);
	assert_int_equal(snapshot.zero_chunks, 0);
}

static void ranges_outside_one_page_are_refused(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_DEVICE);
	fill(rig);
	const uint64_t ram_bytes = RIG_RAM_PAGES * RIG_RAM_PAGE;
	assert_refused(rig, RIG_BLOCKS, 0, 4096);
	assert_refused(rig, UINT32_MAX, 0, 4096);
	assert_refused(rig, RAM, 0, 0);
	assert_refused(rig, RAM, ram_bytes, 0);
	assert_refused(rig, RAM, 0, RIG_RAM_PAGE + 1);
	assert_refused(rig, RAM, 1, RIG_RAM_PAGE);
	assert_refused(rig, RAM, RIG_RAM_PAGE - 1, 2);
	assert_refused(rig, ROM, 4095, 2);
	assert_refused(rig, ROM, 0, 8192);
	assert_refused(rig, RAM, 0, UINT32_MAX);
	/* The block's end. */
	assert_refused(rig, RAM, ram_bytes, 1);
	assert_refused(rig, RAM, ram_bytes, 4096);
	assert_refused(rig, RAM, ram_bytes - 1, 2);
	assert_refused(rig, RAM, ram_bytes - 4096, 4097);
	/* A range of the one block that lies within the length of the other. */
	assert_refused(rig, ROM, RIG_ROM_PAGES * RIG_ROM_PAGE, 4096);
	/* Sums that overflow. */
	assert_refused(rig, RAM, UINT64_MAX, 1);
	assert_refused(rig, RAM, UINT64_MAX - 4095, 4096);
	assert_refused(rig, RAM, UINT64_MAX - 100, 4096);
	assert_refused(rig, RAM, UINT64_MAX - UINT32_MAX, UINT32_MAX);
	assert_refused(rig, RAM, 1ull << 63, 4096);
	assert_refused(rig, RAM, 1ull << 32, 4096);
	assert_int_equal(rig_source_snapshot(rig).sent_chunks, 0);
	/* The engine goes on: closing the link is the transport's. */
	assert_bytes(rig, RAM, 0, 4096, rig->ram);
}

static void chunks_above_the_maximum_are_refused_in_any_page(void **state)
{
	struct rig *rig = *state;
	rig->rom_present = 0; /* a hole: there is no memory of that size here */
	assert_int_equal(hf_ramblocks_add(&rig->source_blocks, "giant", 1ull << 30, 1ull << 30, NULL), 0);
	rig_source_at(rig, SOURCE_DEVICE);
	assert_zero(rig, 0, 0, HF_WIRE_CHUNK_MAX_BYTES);
	assert_refused(rig, 0, 0, HF_WIRE_CHUNK_MAX_BYTES + 1);
	assert_refused(rig, 0, 0, 1u << 30);
}

static void requests_are_refused_while_not_serving(void **state)
{
	(void)state;
	for (enum rig_source_at at = SOURCE_NONE; at < SOURCE_COUNT; at++) {
		struct rig *rig = rig_create();
		rig_source_at(rig, at);
		fill(rig);
		if (at >= SOURCE_DEVICE && at <= SOURCE_RESUMED)
			assert_bytes(rig, RAM, 0, 4096, rig->ram);
		else
			assert_refused(rig, RAM, 0, 4096);
		rig_destroy(rig);
	}
}

/* A refusal before would tear the link down with FAIL still in it. */
static void a_failed_migration_serves_until_its_link_is_down(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_DEVICE);
	fill(rig);
	assert_int_equal(hf_source_cancel(rig->source, NULL), 0);
	assert_bytes(rig, RAM, 0, 4096, rig->ram);
	rig_link_down(rig);
	assert_refused(rig, RAM, 0, 4096);
}

static void a_paused_migration_goes_on_serving(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_RESUMED);
	fill(rig);
	rig_hear(rig, HF_WIRE_ADVISE);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_bytes(rig, RAM, 0, 4096, rig->ram);
}

static void serve_inside_the_first_message(struct rig *rig, const char *call)
{
	struct hf_serve_reply reply;
	if (strcmp(call, "presence rom") == 0 && serve(rig, RAM, 0, 4096, &reply) == 0)
		rig->seen |= 1;
	if (strcmp(call, "send DEVICE_END") == 0 && serve(rig, RAM, 0, 4096, &reply) == 0)
		rig->seen |= 2;
}

static void serving_begins_between_reading_presence_and_device_end(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_SAVING);
	rig->inside = serve_inside_the_first_message;
	rig_vm_done(rig, HF_VM_SAVE, 0);
	assert_int_equal(rig->seen, 2);
}

static void holes_are_zeros_and_are_never_touched(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0xff & ~(1u << 2);
	rig_source_at(rig, SOURCE_DEVICE);
	fill(rig); /* what is there must not matter */
	for (uint32_t chunk = 0; chunk < RIG_RAM_PAGE / 4096; chunk++)
		assert_zero(rig, RAM, 2 * RIG_RAM_PAGE + chunk * 4096, 4096);
	assert_int_equal(rig->addressed, 0);
	assert_int_equal(rig_source_snapshot(rig).zero_chunks, 4);
	assert_bytes(rig, RAM, 1 * RIG_RAM_PAGE, 4096, rig->ram + 1 * RIG_RAM_PAGE);
	assert_bytes(rig, RAM, 3 * RIG_RAM_PAGE, 4096, rig->ram + 3 * RIG_RAM_PAGE);
}

/* All chunks of up to 80 bytes at all alignments, with the one byte that is not zero at each place. */
static void one_byte_that_is_not_zero_is_found_wherever_it_is(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_DEVICE);
	for (uint32_t offset = 0; offset < 16; offset++)
		for (uint32_t length = 1; length <= 80; length++) {
			assert_zero(rig, RAM, offset, length);
			for (uint32_t at = 0; at < length; at++) {
				rig->ram[offset + at] = 1;
				assert_bytes(rig, RAM, offset, length, rig->ram + offset);
				rig->ram[offset + at] = 0;
			}
		}
	static const uint32_t places[] = {0, 1, 15, 16, 17, 2047, 2048, 4080, 4094, 4095};
	assert_zero(rig, RAM, 4096, 4096);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		rig->ram[4096 + places[i]] = 0x80;
		assert_bytes(rig, RAM, 4096, 4096, rig->ram + 4096);
		rig->ram[4096 + places[i]] = 0;
	}
}

static void bytes_beside_a_zero_chunk_do_not_count(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_DEVICE);
	fill(rig);
	for (uint32_t length = 1; length <= 40; length++) {
		memset(rig->ram + 100, 0, length);
		assert_zero(rig, RAM, 100, length);
	}
}

static void bytes_that_cannot_be_read_end_the_link_with_the_reason(void **state)
{
	struct rig *rig = *state;
	struct hf_serve_request request = {.epoch = RIG_EPOCH, .block = RAM, .length_bytes = 4096};
	struct hf_serve_reply reply = untouched;
	struct hf_err err = HF_ERR_INIT;
	rig_source_at(rig, SOURCE_GIVEN_UP);
	rig->chunk_result = -EIO;
	assert_int_equal(hf_source_events.serve(rig->source, &request, &reply, &err), -EIO);
	assert_int_equal(err.class, HF_ERR_LOCAL);
	assert_non_null(strstr(err.text, "page lost"));
	assert_ptr_equal(reply.bytes, untouched.bytes);
	assert_int_equal(rig_source_snapshot(rig).sent_chunks, 0);
	hf_source_events.link_down(rig->source, RIG_EPOCH, &err);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_non_null(strstr(rig_source_snapshot(rig).err.text, "page lost"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(chunks_inside_a_page_are_served_in_place),
	    RIG_TEST(ranges_outside_one_page_are_refused),
	    RIG_TEST(chunks_above_the_maximum_are_refused_in_any_page),
	    RIG_TEST(requests_are_refused_while_not_serving),
	    RIG_TEST(a_failed_migration_serves_until_its_link_is_down),
	    RIG_TEST(a_paused_migration_goes_on_serving),
	    RIG_TEST(serving_begins_between_reading_presence_and_device_end),
	    RIG_TEST(holes_are_zeros_and_are_never_touched),
	    RIG_TEST(one_byte_that_is_not_zero_is_found_wherever_it_is),
	    RIG_TEST(bytes_beside_a_zero_chunk_do_not_count),
	    RIG_TEST(bytes_that_cannot_be_read_end_the_link_with_the_reason),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
