/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounds of pre-copy on the destination: what is named lands and is not seen, what is named again is fetched
 * again, and at the end a page is received exactly if it landed whole and was not written since.
 */
#include "tests/unit/engine/rig_rounds.h"

#include <errno.h>
#include <string.h>

static struct hf_wire_round_done round_done(const struct rig *rig)
{
	struct hf_wire_round_done done;
	assert_int_equal(hf_wire_decode_round_done(rig->sent[HF_WIRE_ROUND_DONE].payload,
						   rig->sent[HF_WIRE_ROUND_DONE].bytes, &done, NULL),
			 0);
	return done;
}

static void a_round_lands_and_nothing_of_it_is_placed(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_hear_piece(rig, RIG_SOURCE_ROM, 1, 3, 0x1);
	rig_hear_piece(rig, RIG_SOURCE_RAM, 2, 2, 0x1);
	rig_expect_nothing(rig);
	rig_hear_round_end(rig, 1, 0, 0);
	rig_expect(rig, "fetch background ram 2.0", "fetch background ram 2.1");
	rig->now_ns += 4000;
	rig_landed(rig, "ram 2.0");
	rig_landed(rig, "ram 2.1");
	rig_expect(rig, "fetch background ram 2.2", "fetch background ram 2.3", "fetch background rom 1.0");
	rig_landed(rig, "ram 2.2");
	rig_landed(rig, "ram 2.3");
	rig_expect_nothing(rig);
	rig_landed(rig, "rom 1.0");
	rig_expect(rig, "send ROUND_DONE");
	struct hf_wire_round_done done = round_done(rig);
	assert_int_equal(done.round, 1);
	assert_int_equal(done.moved_bytes, RIG_RAM_PAGE + RIG_ROM_PAGE);
	assert_int_equal(done.duration_ns, 4000);
	assert_int_equal(done.rate_bytes_per_s, 5120000000);
	assert_int_equal(rig_snapshot(rig).pages_received, 0);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_ACTIVE);
}

static void an_empty_round_is_done_at_once(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_hear_round_end(rig, 1, 0, 0);
	rig_expect(rig, "send ROUND_DONE");
	assert_int_equal(round_done(rig).moved_bytes, 0);
	assert_int_equal(round_done(rig).rate_bytes_per_s, 0);
}

static void what_landed_is_received_at_the_end_and_what_is_stale_is_fetched_again(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, RIG_ALL_PAGES & ~(1u << 5)); /* ram 5 never comes before */
	rig_round_whole(rig, 2, 1u << 1 | 1u << RIG_ROM_SHIFT);
	rig_round_final(rig, 3, 1u << 1 | 1u << 2, 0);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	assert_int_equal(rig_snapshot(rig).pages_received, RIG_RAM_PAGES + RIG_ROM_PAGES - 3);
	rig_fault(rig, RIG_RAM, 0);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_MORE);
	rig_expect(rig, "kick urgent", "place_again ram 0");
	rig_fault(rig, RIG_RAM, 1);
	assert_true(rig_called(rig, "fetch urgent ram 1.0"));
	rig_reach(rig, AT_LISTEN, AT_RUNNING);
	uint64_t before = rig->posted_bytes[HF_FETCH_BACKGROUND];
	rig_land_all(rig);
	rig_work_all(rig);
	rig_land_all(rig);
	/* Of the other two some was posted before. */
	assert_true(rig->posted_bytes[HF_FETCH_BACKGROUND] - before <= 2u * RIG_RAM_PAGE);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.pages_received, snapshot.pages_total);
	assert_int_equal(snapshot.precopy_rounds, 2);
	assert_int_equal(snapshot.precopy_bytes, 8u * RIG_RAM_PAGE + 5u * RIG_ROM_PAGE);
}

static void everything_moved_before_completes_at_once(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, RIG_ALL_PAGES);
	rig_round_final(rig, 2, 0, 0);
	rig_reach(rig, AT_ACTIVE, AT_RUNNING);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
	assert_int_equal(rig->fetches_count, 0);
}

static void no_round_at_all_is_postcopy(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_round_final(rig, 1, 0, 0);
	rig_reach(rig, AT_ACTIVE, AT_RUNNING);
	assert_int_equal(rig_snapshot(rig).pages_received, 0);
	rig_reach(rig, AT_RUNNING, AT_COMPLETED);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

/* Bytes that landed on a page that is a hole in the end must not be seen. */
static void a_hole_where_something_landed_is_cleared_before_anything_is_served(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0xff & ~(1u << 3);
	rig_rounds_begin(rig);
	rig_round_begins(rig, 1, RIG_ALL_PAGES);
	memset(rig->ram + 3 * RIG_RAM_PAGE, 0x77, RIG_RAM_PAGE);
	rig_land_all(rig);
	rig_round_final(rig, 2, 0, 0);
	rig_forget(rig);
	rig_hear(rig, HF_WIRE_PRESENCE);
	struct rig_message message;
	rig_presence_message(RIG_SOURCE_RAM, 0, RIG_RAM_PAGES, rig->ram_present, &message);
	rig_hear_bytes(rig, HF_WIRE_PRESENCE, message.payload, message.bytes);
	rig_expect(rig, "clear 16384 dirty");
	for (uint32_t i = 0; i < RIG_RAM_PAGE; i++)
		assert_int_equal(rig->ram[3 * RIG_RAM_PAGE + i], 0);
	rig_hear(rig, HF_WIRE_DEVICE);
	rig_hear(rig, HF_WIRE_DEVICE_END);
	rig_forget(rig);
	rig_fault(rig, RIG_RAM, 3);
	rig_work_all(rig);
	rig_expect(rig, "kick urgent", "place_zero ram 3");
	rig_reach(rig, AT_LISTEN, AT_COMPLETED);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

/* A chunk of zeros on a page where something landed is cleared there. */
static void zeros_of_a_later_round_clear_what_landed_earlier(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, 1u << 0);
	rig_round_begins(rig, 2, 1u << 0);
	rig_forget(rig);
	rig_landed_zero(rig, "ram 0.0");
	assert_true(rig_called(rig, "clear 4096 dirty"));
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 2);
}

/* What the source has punched out between rounds costs nothing while the VM stands still. */
static void a_page_that_became_zeros_in_a_round_is_not_cleared_again(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0xfe;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, 1u << 0);
	rig_round_begins(rig, 2, 1u << 0);
	rig_landed_zero(rig, "ram 0.0");
	rig_landed_zero(rig, "ram 0.1");
	rig_landed_zero(rig, "ram 0.2");
	rig_landed_zero(rig, "ram 0.3");
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 2);
	rig_round_final(rig, 3, 0, 0);
	rig_forget(rig);
	rig_hear(rig, HF_WIRE_PRESENCE);
	struct rig_message message;
	rig_presence_message(RIG_SOURCE_RAM, 0, RIG_RAM_PAGES, rig->ram_present, &message);
	rig_hear_bytes(rig, HF_WIRE_PRESENCE, message.payload, message.bytes);
	assert_false(rig_called(rig, "clear 16384 dirty"));
	rig_hear(rig, HF_WIRE_DEVICE);
	rig_hear(rig, HF_WIRE_DEVICE_END);
	rig_reach(rig, AT_LISTEN, AT_COMPLETED);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void a_cut_round_posts_nothing_more_and_half_a_page_is_missing(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_round_begins(rig, 1, 0xff);
	rig_landed(rig, "ram 0.0");
	rig_landed(rig, "ram 0.1");
	rig_landed(rig, "ram 0.2");
	rig_landed(rig, "ram 0.3"); /* page 0 is whole, of 1 two chunks are on their way */
	rig_forget(rig);
	rig_hear_round_end(rig, 1, HF_WIRE_ROUND_CUT, 0);
	rig_expect_nothing(rig);
	uint32_t left = rig->fetches_count;
	assert_true(left > 0);
	for (; left > 1; left--)
		rig_land_oldest(rig);
	rig_expect_nothing(rig);
	rig_land_oldest(rig);
	rig_expect(rig, "send ROUND_DONE");
	rig_hear_round_end(rig, 1, HF_WIRE_ROUND_CUT, 0); /* said twice, or too late: nothing */
	rig_expect_nothing(rig);
	rig_round_final(rig, 2, 0, 0);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	assert_int_equal(rig_snapshot(rig).pages_received, 1);
	rig_reach(rig, AT_LISTEN, AT_COMPLETED);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void a_round_keeps_to_its_limit_and_the_limit_changes(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_hear_set(rig, 0xff);
	rig_hear_round_end(rig, 1, 0, 1000000); /* a chunk in 4 ms */
	assert_true(rig_called(rig, "kick background"));
	for (uint32_t ms = 0; ms < 40; ms++) {
		rig->now_ns += 1000000;
		hf_destination_work(rig->destination, HF_WORK_BACKGROUND);
		rig_land_all(rig);
	}
	assert_in_range(rig->posted_bytes[HF_FETCH_BACKGROUND], 32000, 44000 + RIG_CHUNK);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_SOON);
	rig_hear_round_end(rig, 1, 0, 0);
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 1);
	assert_int_equal(round_done(rig).moved_bytes, 8u * RIG_RAM_PAGE);
	rig_hear_round_end(rig, 1, 0, 5000); /* has crossed ROUND_DONE */
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_ACTIVE);
}

static void cut_inside(struct rig *rig, const char *call)
{
	if (strcmp(call, "fetch background ram 0.3") == 0 && rig->seen++ == 0)
		rig_hear_round_end(rig, 1, HF_WIRE_ROUND_CUT, 0);
}

/* Else the page would keep its transfer, and the round never end. */
static void what_the_link_had_no_room_for_when_the_round_was_cut_is_not_posted_again(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig->inside = cut_inside;
	rig->fetch_taken = 3;
	rig->fetch_failures = 1;
	rig->fetch_result = -EAGAIN;
	rig_round_begins(rig, 1, 0x3);
	rig_land_all(rig);
	assert_int_equal(rig->seen, 1);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 1);
	assert_int_equal(round_done(rig).moved_bytes, 3u * RIG_CHUNK);
	rig_round_final(rig, 2, 0, 0);
	rig_reach(rig, AT_ACTIVE, AT_COMPLETED);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

/* The worker finds nothing to post, and then there is something again. */
static void work_inside(struct rig *rig, const char *call)
{
	if (strcmp(call, "fetch background rom 1.0") != 0 || rig->seen++ != 0)
		return;
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_IDLE);
	rig_forget(rig);
}

static void what_comes_back_in_a_round_with_a_limit_is_waited_for(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig->inside = work_inside;
	rig->fetch_taken = 1;
	rig->fetch_failures = 1;
	rig->fetch_result = -EAGAIN;
	rig_hear_set(rig, 0x3u << RIG_ROM_SHIFT);
	rig_hear_round_end(rig, 1, 0, 1000000);
	rig->now_ns += 20000000; /* room for two chunks */
	hf_destination_work(rig->destination, HF_WORK_BACKGROUND);
	assert_int_equal(rig->seen, 1);
	rig_expect(rig, "kick background");
	rig_landed(rig, "rom 0.0");
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_SOON);
	rig->now_ns += 20000000;
	hf_destination_work(rig->destination, HF_WORK_BACKGROUND);
	rig_forget(rig);
	rig_fetch_ends(rig, "rom 1.0", HF_FETCH_CANCELLED, false);
	assert_true(rig_called(rig, "kick background"));
	rig->now_ns += 20000000;
	hf_destination_work(rig->destination, HF_WORK_BACKGROUND);
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 1);
}

static void the_limit_of_postcopy_is_not_that_of_rounds(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.max_postcopy_bandwidth = 1;
	rig->destination_config.background_held = true;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, RIG_ALL_PAGES);
}

/* A VMM that touches memory before it loads waits, and its page comes when it may be seen. */
static void a_fault_in_a_round_is_served_after_it(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_round_begins(rig, 1, 0x3);
	rig_fault(rig, RIG_RAM, 0); /* on its way */
	rig_fault(rig, RIG_RAM, 1); /* to come */
	rig_fault(rig, RIG_RAM, 7); /* not named */
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 1);
	assert_int_equal(rig->posted_bytes[HF_FETCH_URGENT], 0);
	assert_int_equal(round_done(rig).moved_bytes, RIG_RAM_PAGE);
	rig_round_begins(rig, 2, 0x3); /* again, and they take no part */
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 2);
	rig_round_final(rig, 3, 0, 0);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	assert_int_equal(rig->fetches[0].class, HF_FETCH_URGENT);
	rig_land_all(rig);
	assert_int_equal(rig->posted_bytes[HF_FETCH_URGENT], 3u * RIG_RAM_PAGE);
	assert_int_equal(rig_snapshot(rig).pages_received, 3);
	rig_reach(rig, AT_LISTEN, AT_COMPLETED);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void a_fault_on_a_page_of_a_round_that_is_cut_is_not_forgotten(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_round_begins(rig, 1, 0x1);
	rig_fault(rig, RIG_RAM, 0);
	rig_hear_round_end(rig, 1, HF_WIRE_ROUND_CUT, 0);
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 1);
	rig_round_final(rig, 2, 0, 0);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	assert_int_equal(rig->fetches[0].class, HF_FETCH_URGENT);
	rig_land_all(rig);
	assert_int_equal(rig_snapshot(rig).pages_received, 1);
}

/* Without postcopy LOADED waits for every page, holes too. */
static void loaded_waits_for_every_page_if_it_is_asked_to(void **state)
{
	struct rig *rig = *state;
	rig->rom_present = 0x7;
	rig->destination_config.max_postcopy_bandwidth = 1;
	rig->destination_config.background_held = true;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, 0x7ff);
	rig_round_final(rig, 2, 0x3, HF_WIRE_ROUND_WHOLE);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	assert_true(rig->fetches_count > 0);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_LOADED].times, 0);
	rig_work_all(rig);
	rig_recorded(rig, HF_RECORD_LOADED, 0);
	assert_int_equal(rig->sent[HF_WIRE_LOADED].times, 1);
	rig_reach(rig, AT_LOADED, AT_RUNNING);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
	rig_reach(rig, AT_COMPLETE, AT_COMPLETED);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void loaded_with_every_page_there_waits_for_nothing(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, RIG_ALL_PAGES);
	rig_round_final(rig, 2, 0, HF_WIRE_ROUND_WHOLE);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	assert_int_equal(rig->sent[HF_WIRE_LOADED].times, 1);
}

static void a_link_lost_while_loaded_waits_fails(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, RIG_ALL_PAGES);
	rig_round_final(rig, 2, 0x3, HF_WIRE_ROUND_WHOLE);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	rig_link_down(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
	rig_work_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_LOADED].times, 0);
}

static void a_link_lost_in_a_round_fails_and_nothing_is_placed(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_round_begins(rig, 1, RIG_ALL_PAGES);
	rig_land_oldest(rig);
	rig_forget(rig);
	rig_link_down(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
	rig_work_all(rig);
	rig_expect_nothing(rig);
}

static void cancelling_in_a_round_posts_nothing_more(void **state)
{
	struct rig *rig = *state;
	rig_rounds_begin(rig);
	rig_round_begins(rig, 1, RIG_ALL_PAGES);
	rig_forget(rig);
	assert_int_equal(hf_destination_cancel(rig->destination, NULL), 0);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_CANCELLED);
	uint64_t before = rig->posted_bytes[HF_FETCH_BACKGROUND];
	rig_land_all(rig);
	assert_int_equal(rig->posted_bytes[HF_FETCH_BACKGROUND], before);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 0);
}

static void a_side_that_copies_refuses(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.memory.placement = HF_PLACEMENT_COPY;
	rig->destination_config.memory.slots = RIG_SLOTS_MAX;
	rig->link.features |= HF_WIRE_FEATURE_PRECOPY;
	rig_destination(rig);
	rig_reach(rig, AT_NONE, AT_SETUP);
	rig_hear(rig, HF_WIRE_ADVISE);
	assert_false(rig_called(rig, "prepare"));
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
	assert_non_null(strstr(rig_sent_fail(rig).text, "shared memory"));
}

/* The tables that faults need name every map the engine has made. */
static void the_maps_are_among_the_tables(void **state)
{
	struct rig *rig = *state;
	struct hf_tables before, after;
	rig_rounds_begin(rig);
	hf_destination_tables(rig->destination, &after);
	struct rig *other = rig_create();
	rig_destination_at(other, AT_ACTIVE);
	hf_destination_tables(other->destination, &before);
	assert_int_equal(after.count, before.count + 2);
	rig_destroy(other);
}

/* ---- beside what else a session may have ---- */

static void pages_of_rounds_are_said_to_be_placed_once_the_vm_runs(void **state)
{
	struct rig *rig = *state;
	struct hf_wire_placed placed;
	rig->link.features |= HF_WIRE_FEATURE_RECOVER | HF_WIRE_FEATURE_RELEASE;
	rig->destination_config.background_held = true;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, 0xff);
	rig_round_final(rig, 2, 1u << 1, 0);
	rig_reach(rig, AT_ACTIVE, AT_RUN);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 0);
	rig_reach(rig, AT_RUN, AT_RUNNING);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 1);
	assert_int_equal(hf_wire_decode_placed(rig->sent[HF_WIRE_PLACED].payload,
					       rig->sent[HF_WIRE_PLACED].bytes, &placed, NULL),
			 0);
	assert_int_equal(placed.count, 2);
	assert_int_equal(placed.ranges[0].block, RIG_SOURCE_RAM);
	assert_int_equal(placed.ranges[0].first_page, 0);
	assert_int_equal(placed.ranges[0].pages, 1);
	assert_int_equal(placed.ranges[1].first_page, 2);
	assert_int_equal(placed.ranges[1].pages, 6);
}

static void what_is_stale_when_the_source_is_gone_is_poisoned_and_what_landed_is_not(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	rig->destination_config.background_held = true;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, RIG_ALL_PAGES & ~(1u << 5));
	rig_round_final(rig, 2, 1u << 1, 0);
	rig_reach(rig, AT_ACTIVE, AT_RUNNING);
	rig_link_down(rig);
	rig_forget(rig);
	assert_int_equal(hf_destination_poison_missing(rig->destination, NULL), 0);
	rig_work_all(rig);
	rig_expect(rig, "kick urgent", "kick background", "poison ram 1", "poison ram 5", "release");
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.status, HF_STATUS_COMPLETED);
	assert_int_equal(snapshot.pages_poisoned, 2);
	assert_int_equal(snapshot.pages_received, snapshot.pages_total - 2);
}

/* Whether or not it has the feature: there are no rounds on it. */
static void a_later_link_fetches_what_rounds_left(void **state)
{
	(void)state;
	for (int offered = 0; offered <= 1; offered++) {
		struct rig *rig = rig_create();
		rig->link.features |= HF_WIRE_FEATURE_RECOVER;
		rig_rounds_begin(rig);
		rig_round_whole(rig, 1, RIG_ALL_PAGES);
		rig_round_final(rig, 2, 1u << 4, 0);
		rig_reach(rig, AT_ACTIVE, AT_RUNNING);
		rig_link_down(rig);
		if (!offered)
			rig->link.features &= ~HF_WIRE_FEATURE_PRECOPY;
		rig_link_again(rig, 2);
		rig_hear(rig, HF_WIRE_ADVISE);
		uint64_t before = rig->posted_bytes[HF_FETCH_BACKGROUND];
		rig_hear(rig, HF_WIRE_RUN);
		rig_land_all(rig);
		assert_int_equal(rig->posted_bytes[HF_FETCH_BACKGROUND] - before, RIG_RAM_PAGE);
		assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 1);
		assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
		rig_destroy(rig);
	}
}

static void rounds_over_a_later_link_are_a_violation(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, RIG_ALL_PAGES);
	rig_round_final(rig, 2, 1u << 4, 0);
	rig_reach(rig, AT_ACTIVE, AT_RUNNING);
	rig_link_down(rig);
	rig_link_again(rig, 2);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_hear_piece(rig, RIG_SOURCE_RAM, 0, RIG_RAM_PAGES, 0xff);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_non_null(strstr(rig_snapshot(rig).err.text, "ROUND, which is not expected"));
	assert_int_equal(rig_snapshot(rig).pages_received, RIG_RAM_PAGES + RIG_ROM_PAGES - 1);
}

static void a_vmm_that_ends_while_loaded_waits_fails_and_loaded_is_not_said(void **state)
{
	struct rig *rig = *state;
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LOCAL, ESRCH, "the VMM has ended");
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, RIG_ALL_PAGES);
	rig_round_final(rig, 2, 0x3, HF_WIRE_ROUND_WHOLE);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	hf_destination_vm_ended(rig->destination, &why);
	rig_land_all(rig);
	rig_work_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_LOADED].times, 0);
	assert_int_equal(rig->sent[HF_WIRE_FAIL].times, 1);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(a_round_lands_and_nothing_of_it_is_placed),
	    RIG_TEST(an_empty_round_is_done_at_once),
	    RIG_TEST(what_landed_is_received_at_the_end_and_what_is_stale_is_fetched_again),
	    RIG_TEST(everything_moved_before_completes_at_once),
	    RIG_TEST(no_round_at_all_is_postcopy),
	    RIG_TEST(a_hole_where_something_landed_is_cleared_before_anything_is_served),
	    RIG_TEST(zeros_of_a_later_round_clear_what_landed_earlier),
	    RIG_TEST(a_page_that_became_zeros_in_a_round_is_not_cleared_again),
	    RIG_TEST(a_cut_round_posts_nothing_more_and_half_a_page_is_missing),
	    RIG_TEST(a_round_keeps_to_its_limit_and_the_limit_changes),
	    RIG_TEST(what_the_link_had_no_room_for_when_the_round_was_cut_is_not_posted_again),
	    RIG_TEST(what_comes_back_in_a_round_with_a_limit_is_waited_for),
	    RIG_TEST(the_limit_of_postcopy_is_not_that_of_rounds),
	    RIG_TEST(a_fault_in_a_round_is_served_after_it),
	    RIG_TEST(a_fault_on_a_page_of_a_round_that_is_cut_is_not_forgotten),
	    RIG_TEST(loaded_waits_for_every_page_if_it_is_asked_to),
	    RIG_TEST(loaded_with_every_page_there_waits_for_nothing),
	    RIG_TEST(a_link_lost_while_loaded_waits_fails),
	    RIG_TEST(a_link_lost_in_a_round_fails_and_nothing_is_placed),
	    RIG_TEST(cancelling_in_a_round_posts_nothing_more),
	    RIG_TEST(a_side_that_copies_refuses),
	    RIG_TEST(the_maps_are_among_the_tables),
	    RIG_TEST(pages_of_rounds_are_said_to_be_placed_once_the_vm_runs),
	    RIG_TEST(what_is_stale_when_the_source_is_gone_is_poisoned_and_what_landed_is_not),
	    cmocka_unit_test(a_later_link_fetches_what_rounds_left),
	    RIG_TEST(rounds_over_a_later_link_are_a_violation),
	    RIG_TEST(a_vmm_that_ends_while_loaded_waits_fails_and_loaded_is_not_said),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
