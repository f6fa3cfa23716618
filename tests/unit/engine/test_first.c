/* SPDX-License-Identifier: Apache-2.0 */
/* Pages that loading will touch: what the source says of them, and when the destination asks for them. */
#include "tests/unit/engine/rig_rounds.h"

#include <string.h>

#define RAM(number)                                                                                          \
	{                                                                                                    \
		.block = RIG_SOURCE_RAM, .page = (number)                                                    \
	}
#define ROM(number)                                                                                          \
	{                                                                                                    \
		.block = RIG_SOURCE_ROM, .page = (number)                                                    \
	}

/* ---- destination ------------------------------------------------------------------------------- */

static void hear_last_presence(struct rig *rig)
{
	struct rig_message message;
	rig_presence_message(RIG_SOURCE_RAM, 0, rig->ram_pages, rig->ram_present, &message);
	rig_hear_bytes(rig, HF_WIRE_PRESENCE, message.payload, message.bytes);
}

static void hear_first(struct rig *rig, const struct hf_wire_first *first)
{
	uint8_t payload[HF_WIRE_FIRST_MAX_BYTES];
	ssize_t bytes = hf_wire_encode_first(first, payload, sizeof(payload));
	assert_true(bytes > 0);
	rig_hear_bytes(rig, HF_WIRE_FIRST, payload, (size_t)bytes);
}

/* The source has named these, and the map is whole; nothing may be asked for yet. */
#define named(rig, ...) named_pages(rig, &(const struct hf_wire_first){__VA_ARGS__})
static void named_pages(struct rig *rig, const struct hf_wire_first *first)
{
	rig->link.features |= HF_WIRE_FEATURE_FIRST;
	rig_destination_at(rig, AT_PRESENCE);
	hear_last_presence(rig);
	hear_first(rig, first);
	rig_hear(rig, HF_WIRE_DEVICE);
	rig_expect_nothing(rig);
}

static void named_pages_are_asked_for_at_device_end_before_anybody_waits(void **state)
{
	struct rig *rig = *state;
	named(rig, .count = 2, .pages = {RAM(5), ROM(2)});
	rig_hear(rig, HF_WIRE_DEVICE_END);
	rig_expect(rig, "load", "kick urgent", "fetch background ram 5.0", "fetch background ram 5.1");
	rig_landed(rig, "ram 5.0");
	rig_expect(rig, "fetch background ram 5.2");
	rig_landed(rig, "ram 5.1");
	rig_expect(rig, "fetch background ram 5.3");
	rig_landed(rig, "ram 5.2");
	rig_expect(rig, "fetch background rom 2.0");
	rig_landed(rig, "ram 5.3");
	rig_landed(rig, "rom 2.0");
	rig_expect(rig, "place ram 5", "place rom 2"); /* and the background waits for RESUMED */
	assert_int_equal(rig_snapshot(rig).pages_first, 2);
	assert_int_equal(rig_snapshot(rig).pages_asked_first, 2);
	assert_int_equal(rig_snapshot(rig).pages_received, 2);
}

static void a_fault_goes_before_named_pages_and_does_not_hold_them(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_FIRST;
	rig_destination_at(rig, AT_PRESENCE);
	rig_fault(rig, RIG_ROM, 1);
	hear_last_presence(rig);
	hear_first(rig, &(const struct hf_wire_first){.count = 1, .pages = {RAM(5)}});
	rig_hear(rig, HF_WIRE_DEVICE);
	rig_hear(rig, HF_WIRE_DEVICE_END);
	rig_expect(rig, "load", "kick urgent", "fetch urgent rom 1.0", "fetch background ram 5.0",
		   "fetch background ram 5.1");
	rig_fault(rig, RIG_ROM, 3); /* finds the window in front of it, and no more */
	rig_expect(rig, "fetch urgent rom 3.0");
	rig_landed(rig, "ram 5.0");
	rig_expect(rig, "fetch background ram 5.2");
}

static void a_fault_on_a_named_page_makes_its_rest_urgent(void **state)
{
	struct rig *rig = *state;
	named(rig, .count = 2, .pages = {RAM(5), RAM(6)});
	rig_hear(rig, HF_WIRE_DEVICE_END);
	rig_forget(rig);
	rig_fault(rig, RIG_RAM, 5);
	rig_expect(rig, "fetch urgent ram 5.2", "fetch urgent ram 5.3");
	rig_fault(rig, RIG_RAM, 6); /* nobody had asked for it: as any fault */
	rig_expect(rig, "fetch urgent ram 6.0", "fetch urgent ram 6.1", "fetch urgent ram 6.2",
		   "fetch urgent ram 6.3");
	rig_land_all(rig);
	rig_expect(rig, "place ram 5", "place ram 6");
	assert_int_equal(rig_snapshot(rig).pages_asked_first, 1);
}

static void holes_and_pages_named_twice_are_passed_over(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0xffu & ~(1u << 2);
	named(rig, .count = 4, .pages = {RAM(2), ROM(0), ROM(0), ROM(3)});
	rig_hear(rig, HF_WIRE_DEVICE_END);
	rig_expect(rig, "load", "kick urgent", "fetch background rom 0.0", "fetch background rom 3.0");
	rig_land_all(rig);
	rig_expect(rig, "place rom 0", "place rom 3");
}

static void pages_of_the_rounds_are_not_asked_for_again(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_FIRST;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, RIG_ALL_PAGES);
	rig_round_final(rig, 2, 1u << 5, 0); /* ram 5 was written since */
	rig_hear(rig, HF_WIRE_PRESENCE);
	hear_last_presence(rig);
	hear_first(rig, &(const struct hf_wire_first){.count = 3, .pages = {RAM(1), ROM(2), RAM(5)}});
	rig_hear(rig, HF_WIRE_DEVICE);
	rig_forget(rig);
	rig_hear(rig, HF_WIRE_DEVICE_END);
	rig_expect(rig, "load", "kick urgent", "fetch background ram 5.0", "fetch background ram 5.1");
	rig_land_all(rig);
	rig_expect(rig, "fetch background ram 5.2", "fetch background ram 5.3", "place ram 5");
	assert_int_equal(rig_snapshot(rig).pages_asked_first, 1);
}

static void neither_hold_nor_limit_keep_them_back(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.background_held = true;
	rig->destination_config.max_postcopy_bandwidth = 1;
	named(rig, .count = 2, .pages = {ROM(1), ROM(2)});
	rig_hear(rig, HF_WIRE_DEVICE_END);
	rig_expect(rig, "load", "kick urgent", "fetch background rom 1.0", "fetch background rom 2.0");
}

static void what_is_left_at_resumed_is_the_background_s_and_goes_before_the_scan(void **state)
{
	struct rig *rig = *state;
	named(rig, .count = 3, .pages = {RAM(5), RAM(6), RAM(7)});
	rig_reach(rig, AT_DEVICE_DATA, AT_RUNNING);
	rig_landed(rig, "ram 5.0");
	rig_landed(rig, "ram 5.1");
	rig_landed(rig, "ram 5.2");
	rig_landed(rig, "ram 5.3");
	assert_true(rig_called(rig, "fetch background ram 6.0"));
	assert_false(rig_called(rig, "fetch background ram 0.0"));
	rig_land_all(rig);
	rig_work_all(rig);
	assert_int_equal(rig_snapshot(rig).pages_received, RIG_RAM_PAGES + RIG_ROM_PAGES);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_ACTIVE);
}

static void after_resumed_the_limit_is_theirs_too(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.max_postcopy_bandwidth = 1000000; /* a chunk in 4 ms */
	named(rig, .count = 6, .pages = {RAM(2), RAM(3), RAM(4), RAM(5), RAM(6), RAM(7)});
	rig_reach(rig, AT_DEVICE_DATA, AT_RUNNING);
	uint64_t before = rig->posted_bytes[HF_FETCH_BACKGROUND];
	rig_land_all(rig);
	for (int ms = 0; ms < 12; ms++) {
		rig->now_ns += 1000000;
		while (hf_destination_work(rig->destination, HF_WORK_BACKGROUND) == HF_WORK_MORE)
			continue;
		rig_land_all(rig);
	}
	assert_in_range(rig->posted_bytes[HF_FETCH_BACKGROUND] - before, 1, 12000 + 2 * RIG_CHUNK);
}

static void after_resumed_named_pages_are_held_for_those_that_wait(void **state)
{
	struct rig *rig = *state;
	named(rig, .count = 2, .pages = {RAM(5), RAM(6)});
	rig_reach(rig, AT_DEVICE_DATA, AT_RUNNING);
	rig_fault(rig, RIG_ROM, 3);
	rig_forget(rig);
	rig_landed(rig, "ram 5.0");
	rig_expect_nothing(rig);
	rig_landed(rig, "rom 3.0");
	assert_true(rig_called(rig, "fetch background ram 5.2"));
}

static void a_lost_link_leaves_them_missing(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	named(rig, .count = 1, .pages = {RAM(5)});
	rig_reach(rig, AT_DEVICE_DATA, AT_RUNNING);
	rig_link_down(rig);
	rig_link_again(rig, RIG_EPOCH + 1);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_hear(rig, HF_WIRE_RUN);
	rig_land_all(rig);
	rig_work_all(rig);
	assert_int_equal(rig_snapshot(rig).pages_received, RIG_RAM_PAGES + RIG_ROM_PAGES);
}

/* ---- what a source may not say ----------------------------------------------------------------- */

static void without_the_feature(struct rig *rig)
{
	rig->link.features &= ~HF_WIRE_FEATURE_FIRST;
	rig_destination_at(rig, AT_PRESENCE);
	hear_last_presence(rig);
	rig_hear(rig, HF_WIRE_FIRST);
}

static void before_the_map_is_whole(struct rig *rig)
{
	rig_destination_at(rig, AT_PRESENCE);
	rig_hear(rig, HF_WIRE_FIRST);
}

static void behind_device(struct rig *rig)
{
	rig_destination_at(rig, AT_DEVICE_DATA);
	rig_hear(rig, HF_WIRE_FIRST);
}

static void twice(struct rig *rig)
{
	rig_destination_at(rig, AT_PRESENCE);
	hear_last_presence(rig);
	rig_hear(rig, HF_WIRE_FIRST);
	rig_hear(rig, HF_WIRE_FIRST);
}

static void names(struct rig *rig, uint32_t block, uint32_t page)
{
	rig_destination_at(rig, AT_PRESENCE);
	hear_last_presence(rig);
	hear_first(rig, &(const struct hf_wire_first){.count = 2, .pages = {ROM(0), {block, page}}});
}

static void an_unknown_block(struct rig *rig)
{
	names(rig, RIG_BLOCKS, 0);
}

static void a_page_behind_its_block(struct rig *rig)
{
	names(rig, RIG_SOURCE_ROM, RIG_ROM_PAGES);
}

static void a_page_far_behind_its_block(struct rig *rig)
{
	names(rig, RIG_SOURCE_RAM, 0xfffffffd);
}

static void garbage(struct rig *rig)
{
	static const uint8_t bytes[12] = {0, 0, 0, 2};
	rig_destination_at(rig, AT_PRESENCE);
	hear_last_presence(rig);
	rig_hear_bytes(rig, HF_WIRE_FIRST, bytes, sizeof(bytes));
}

static void what_a_source_may_not_say_ends_the_migration(void **state)
{
	(void)state;
	static const struct {
		void (*say)(struct rig *rig);
		const char *words;
	} violations[] = {
	    {without_the_feature, "FIRST, which is not expected"},
	    {before_the_map_is_whole, "FIRST, which is not expected"},
	    {behind_device, "FIRST, which is not expected"},
	    {twice, "FIRST, which is not expected"},
	    {an_unknown_block, "FIRST names block 2 page 0"},
	    {a_page_behind_its_block, "FIRST names block 0 page 4"},
	    {a_page_far_behind_its_block, "FIRST names block 1 page 4294967293"},
	    {garbage, "FIRST"},
	};
	for (size_t i = 0; i < sizeof(violations) / sizeof(violations[0]); i++) {
		struct rig *rig = rig_create();
		rig->link.features |= HF_WIRE_FEATURE_FIRST;
		violations[i].say(rig);
		rig_expect_violation(rig, violations[i].words);
		assert_int_equal(rig->fetches_count, 0);
		rig_destroy(rig);
	}
}

/* ---- source ------------------------------------------------------------------------------------ */

static struct hf_wire_first sent_first(const struct rig *rig)
{
	struct hf_wire_first first;
	assert_int_equal(hf_wire_decode_first(rig->sent[HF_WIRE_FIRST].payload,
					      rig->sent[HF_WIRE_FIRST].bytes, &first, NULL),
			 0);
	return first;
}

static const struct hf_vm_range ranges[] = {
    {"rom", 3 * RIG_ROM_PAGE + 8, 16},
    {"ram", 2 * RIG_RAM_PAGE + 100, RIG_RAM_PAGE}, /* of two pages */
    {"rom", 3 * RIG_ROM_PAGE, 1},		   /* again */
    {"disk", 0, 1},
    {"ram", RIG_RAM_PAGES *RIG_RAM_PAGE, 1},
    {"ram", 0, RIG_RAM_PAGES *RIG_RAM_PAGE + 1},
    {"ram", UINT64_MAX, 2},
    {"ram", 8, UINT64_MAX},
    {"ram", 0, 0},
};

static void the_source_names_the_pages_that_its_vmm_tells_of(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_FIRST;
	rig->first = ranges;
	rig->first_count = sizeof(ranges) / sizeof(ranges[0]);
	rig_source_at(rig, SOURCE_SAVING);
	rig_vm_done(rig, HF_VM_SAVE, 0);
	rig_expect(rig, "presence rom", "presence ram", "send PRESENCE", "send PRESENCE", "send FIRST",
		   "send DEVICE", "send DEVICE_END");
	struct hf_wire_first first = sent_first(rig);
	assert_int_equal(first.count, 3);
	assert_int_equal(first.pages[0].block, RIG_SOURCE_ROM);
	assert_int_equal(first.pages[0].page, 3);
	assert_int_equal(first.pages[1].block, RIG_SOURCE_RAM);
	assert_int_equal(first.pages[1].page, 2);
	assert_int_equal(first.pages[2].page, 3);
	assert_int_equal(rig_source_snapshot(rig).pages_first, 3);
}

static void a_destination_that_does_not_speak_it_is_told_nothing(void **state)
{
	struct rig *rig = *state;
	rig->first = ranges;
	rig->first_count = 2;
	rig_source_at(rig, SOURCE_DEVICE);
	assert_int_equal(rig->sent[HF_WIRE_FIRST].times, 0);
	assert_int_equal(rig_source_snapshot(rig).pages_first, 0);
}

static void where_the_vmm_tells_nothing_nothing_is_said(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_FIRST;
	rig_source_at(rig, SOURCE_DEVICE);
	assert_int_equal(rig->sent[HF_WIRE_FIRST].times, 0);
}

static void no_more_are_named_than_a_message_holds(void **state)
{
	struct rig *rig = *state;
	const struct hf_vm_range all = {"ram", 0, 300 * (uint64_t)RIG_RAM_PAGE};
	rig->ram_pages = 300;
	rig->link.features |= HF_WIRE_FEATURE_FIRST;
	rig->first = &all;
	rig->first_count = 1;
	rig_source_at(rig, SOURCE_DEVICE);
	assert_int_equal(sent_first(rig).count, 256);
}

static int setup(void **state)
{
	*state = rig_create();
	return 0;
}

static int teardown(void **state)
{
	rig_destroy(*state);
	return 0;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(named_pages_are_asked_for_at_device_end_before_anybody_waits),
	    TEST(a_fault_goes_before_named_pages_and_does_not_hold_them),
	    TEST(a_fault_on_a_named_page_makes_its_rest_urgent),
	    TEST(holes_and_pages_named_twice_are_passed_over),
	    TEST(pages_of_the_rounds_are_not_asked_for_again),
	    TEST(neither_hold_nor_limit_keep_them_back),
	    TEST(what_is_left_at_resumed_is_the_background_s_and_goes_before_the_scan),
	    TEST(after_resumed_the_limit_is_theirs_too),
	    TEST(after_resumed_named_pages_are_held_for_those_that_wait),
	    TEST(a_lost_link_leaves_them_missing),
	    TEST(what_a_source_may_not_say_ends_the_migration),
	    TEST(the_source_names_the_pages_that_its_vmm_tells_of),
	    TEST(a_destination_that_does_not_speak_it_is_told_nothing),
	    TEST(where_the_vmm_tells_nothing_nothing_is_said),
	    TEST(no_more_are_named_than_a_message_holds),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
