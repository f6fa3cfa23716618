/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounds of pre-copy on the destination: what is named lands and is not seen, what is named again is fetched
 * again, and at the end a page is received exactly if it landed whole and was not written since.
 *
 * Set bits: ram pages 0 to 7 in the low byte, rom pages 0 to 3 in the next four bits.
 */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <string.h>

#define ROM_SHIFT  RIG_RAM_PAGES
#define ALL_PAGES  0xfffu
#define SOURCE_ROM 0u
#define SOURCE_RAM 1u

static void begin(struct rig *rig)
{
	rig->link.features |= HF_WIRE_FEATURE_PRECOPY;
	rig_destination_at(rig, AT_ACTIVE);
}

static void hear_piece(struct rig *rig, uint32_t block, uint32_t first, uint32_t pages, uint64_t bits)
{
	struct rig_message message;
	rig_presence_message(block, first, pages, bits, &message);
	rig_hear_bytes(rig, HF_WIRE_ROUND, message.payload, message.bytes);
}

static void hear_end(struct rig *rig, uint32_t round, uint32_t flags, uint64_t limit_bytes_per_s)
{
	struct hf_wire_round_end end = {
	    .round = round, .flags = flags, .limit_bytes_per_s = limit_bytes_per_s};
	uint8_t payload[64];
	ssize_t bytes = hf_wire_encode_round_end(&end, payload, sizeof(payload));
	assert_true(bytes > 0);
	rig_hear_bytes(rig, HF_WIRE_ROUND_END, payload, (size_t)bytes);
}

static void hear_set(struct rig *rig, uint32_t set)
{
	if (set >> ROM_SHIFT)
		hear_piece(rig, SOURCE_ROM, 0, RIG_ROM_PAGES, set >> ROM_SHIFT);
	if (set & 0xff)
		hear_piece(rig, SOURCE_RAM, 0, RIG_RAM_PAGES, set & 0xff);
}

static void round_begins(struct rig *rig, uint32_t round, uint32_t set)
{
	hear_set(rig, set);
	hear_end(rig, round, 0, 0);
}

static void round_whole(struct rig *rig, uint32_t round, uint32_t set)
{
	round_begins(rig, round, set);
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, round);
}

static struct hf_wire_round_done round_done(const struct rig *rig)
{
	struct hf_wire_round_done done;
	assert_int_equal(hf_wire_decode_round_done(rig->sent[HF_WIRE_ROUND_DONE].payload,
						   rig->sent[HF_WIRE_ROUND_DONE].bytes, &done, NULL),
			 0);
	return done;
}

/* The VM has stopped: the final set, and on as without rounds. */
static void final(struct rig *rig, uint32_t round, uint32_t stale, uint32_t flags)
{
	hear_set(rig, stale);
	hear_end(rig, round, HF_WIRE_ROUND_FINAL | flags, 0);
}

static void a_round_lands_and_nothing_of_it_is_placed(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	hear_piece(rig, SOURCE_ROM, 1, 3, 0x1);
	hear_piece(rig, SOURCE_RAM, 2, 2, 0x1);
	rig_expect_nothing(rig);
	hear_end(rig, 1, 0, 0);
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
	begin(rig);
	hear_end(rig, 1, 0, 0);
	rig_expect(rig, "send ROUND_DONE");
	assert_int_equal(round_done(rig).moved_bytes, 0);
	assert_int_equal(round_done(rig).rate_bytes_per_s, 0);
}

static void what_landed_is_received_at_the_end_and_what_is_stale_is_fetched_again(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	round_whole(rig, 1, ALL_PAGES & ~(1u << 5)); /* ram 5 never comes before */
	round_whole(rig, 2, 1u << 1 | 1u << ROM_SHIFT);
	final(rig, 3, 1u << 1 | 1u << 2, 0);
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
	begin(rig);
	round_whole(rig, 1, ALL_PAGES);
	final(rig, 2, 0, 0);
	rig_reach(rig, AT_ACTIVE, AT_RUNNING);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
	assert_int_equal(rig->fetches_count, 0);
}

static void no_round_at_all_is_postcopy(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	final(rig, 1, 0, 0);
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
	begin(rig);
	round_begins(rig, 1, ALL_PAGES);
	memset(rig->ram + 3 * RIG_RAM_PAGE, 0x77, RIG_RAM_PAGE);
	rig_land_all(rig);
	final(rig, 2, 0, 0);
	rig_forget(rig);
	rig_hear(rig, HF_WIRE_PRESENCE);
	struct rig_message message;
	rig_presence_message(SOURCE_RAM, 0, RIG_RAM_PAGES, rig->ram_present, &message);
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
	begin(rig);
	round_whole(rig, 1, 1u << 0);
	round_begins(rig, 2, 1u << 0);
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
	begin(rig);
	round_whole(rig, 1, 1u << 0);
	round_begins(rig, 2, 1u << 0);
	rig_landed_zero(rig, "ram 0.0");
	rig_landed_zero(rig, "ram 0.1");
	rig_landed_zero(rig, "ram 0.2");
	rig_landed_zero(rig, "ram 0.3");
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 2);
	final(rig, 3, 0, 0);
	rig_forget(rig);
	rig_hear(rig, HF_WIRE_PRESENCE);
	struct rig_message message;
	rig_presence_message(SOURCE_RAM, 0, RIG_RAM_PAGES, rig->ram_present, &message);
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
	begin(rig);
	round_begins(rig, 1, 0xff);
	rig_landed(rig, "ram 0.0");
	rig_landed(rig, "ram 0.1");
	rig_landed(rig, "ram 0.2");
	rig_landed(rig, "ram 0.3"); /* page 0 is whole, of 1 two chunks are on their way */
	rig_forget(rig);
	hear_end(rig, 1, HF_WIRE_ROUND_CUT, 0);
	rig_expect_nothing(rig);
	uint32_t left = rig->fetches_count;
	assert_true(left > 0);
	for (; left > 1; left--)
		rig_land_oldest(rig);
	rig_expect_nothing(rig);
	rig_land_oldest(rig);
	rig_expect(rig, "send ROUND_DONE");
	hear_end(rig, 1, HF_WIRE_ROUND_CUT, 0); /* said twice, or too late: nothing */
	rig_expect_nothing(rig);
	final(rig, 2, 0, 0);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	assert_int_equal(rig_snapshot(rig).pages_received, 1);
	rig_reach(rig, AT_LISTEN, AT_COMPLETED);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void a_round_keeps_to_its_limit_and_the_limit_changes(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	hear_set(rig, 0xff);
	hear_end(rig, 1, 0, 1000000); /* a chunk in 4 ms */
	assert_true(rig_called(rig, "kick background"));
	for (uint32_t ms = 0; ms < 40; ms++) {
		rig->now_ns += 1000000;
		hf_destination_work(rig->destination, HF_WORK_BACKGROUND);
		rig_land_all(rig);
	}
	assert_in_range(rig->posted_bytes[HF_FETCH_BACKGROUND], 32000, 44000 + RIG_CHUNK);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_SOON);
	hear_end(rig, 1, 0, 0);
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 1);
	assert_int_equal(round_done(rig).moved_bytes, 8u * RIG_RAM_PAGE);
	hear_end(rig, 1, 0, 5000); /* has crossed ROUND_DONE */
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_ACTIVE);
}

static void cut_inside(struct rig *rig, const char *call)
{
	if (strcmp(call, "fetch background ram 0.3") == 0 && rig->seen++ == 0)
		hear_end(rig, 1, HF_WIRE_ROUND_CUT, 0);
}

/* Else the page would keep its transfer, and the round never end. */
static void what_the_link_had_no_room_for_when_the_round_was_cut_is_not_posted_again(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	rig->inside = cut_inside;
	rig->fetch_taken = 3;
	rig->fetch_failures = 1;
	rig->fetch_result = -EAGAIN;
	round_begins(rig, 1, 0x3);
	rig_land_all(rig);
	assert_int_equal(rig->seen, 1);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 1);
	assert_int_equal(round_done(rig).moved_bytes, 3u * RIG_CHUNK);
	final(rig, 2, 0, 0);
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
	begin(rig);
	rig->inside = work_inside;
	rig->fetch_taken = 1;
	rig->fetch_failures = 1;
	rig->fetch_result = -EAGAIN;
	hear_set(rig, 0x3u << ROM_SHIFT);
	hear_end(rig, 1, 0, 1000000);
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
	begin(rig);
	round_whole(rig, 1, ALL_PAGES);
}

/* A VMM that touches memory before it loads waits, and its page comes when it may be seen. */
static void a_fault_in_a_round_is_served_after_it(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	round_begins(rig, 1, 0x3);
	rig_fault(rig, RIG_RAM, 0); /* on its way */
	rig_fault(rig, RIG_RAM, 1); /* to come */
	rig_fault(rig, RIG_RAM, 7); /* not named */
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 1);
	assert_int_equal(rig->posted_bytes[HF_FETCH_URGENT], 0);
	assert_int_equal(round_done(rig).moved_bytes, RIG_RAM_PAGE);
	round_begins(rig, 2, 0x3); /* again, and they take no part */
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 2);
	final(rig, 3, 0, 0);
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
	begin(rig);
	round_begins(rig, 1, 0x1);
	rig_fault(rig, RIG_RAM, 0);
	hear_end(rig, 1, HF_WIRE_ROUND_CUT, 0);
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, 1);
	final(rig, 2, 0, 0);
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
	begin(rig);
	round_whole(rig, 1, 0x7ff);
	final(rig, 2, 0x3, HF_WIRE_ROUND_WHOLE);
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
	begin(rig);
	round_whole(rig, 1, ALL_PAGES);
	final(rig, 2, 0, HF_WIRE_ROUND_WHOLE);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	assert_int_equal(rig->sent[HF_WIRE_LOADED].times, 1);
}

static void a_link_lost_while_loaded_waits_fails(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	begin(rig);
	round_whole(rig, 1, ALL_PAGES);
	final(rig, 2, 0x3, HF_WIRE_ROUND_WHOLE);
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
	begin(rig);
	round_begins(rig, 1, ALL_PAGES);
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
	begin(rig);
	round_begins(rig, 1, ALL_PAGES);
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

/* ---- violations -------------------------------------------------------------------------------- */

static void is_violation(struct rig *rig, const char *words)
{
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.status, HF_STATUS_FAILED);
	assert_int_equal(snapshot.err.class, HF_ERR_PEER);
	if (!strstr(snapshot.err.text, words))
		fail_msg("'%s' does not say '%s'", snapshot.err.text, words);
}

static void without_the_feature(struct rig *rig)
{
	rig->link.features &= ~HF_WIRE_FEATURE_PRECOPY;
	rig_destination_at(rig, AT_ACTIVE);
	hear_piece(rig, SOURCE_ROM, 0, 4, 1);
}

static void end_without_the_feature(struct rig *rig)
{
	rig->link.features &= ~HF_WIRE_FEATURE_PRECOPY;
	rig_destination_at(rig, AT_ACTIVE);
	hear_end(rig, 1, 0, 0);
}

static void before_ready(struct rig *rig)
{
	rig_destination_at(rig, AT_ADVISE);
	hear_piece(rig, SOURCE_ROM, 0, 4, 1);
}

static void presence_without_the_final_set(struct rig *rig)
{
	begin(rig);
	round_whole(rig, 1, 1);
	rig_hear(rig, HF_WIRE_PRESENCE);
}

static void set_in_a_round(struct rig *rig)
{
	begin(rig);
	round_begins(rig, 1, 1);
	hear_piece(rig, SOURCE_ROM, 0, 4, 1);
}

static void round_in_a_round(struct rig *rig)
{
	begin(rig);
	round_begins(rig, 1, 1);
	hear_end(rig, 2, 0, 0);
}

static void final_in_a_round(struct rig *rig)
{
	begin(rig);
	round_begins(rig, 1, 1);
	hear_end(rig, 1, HF_WIRE_ROUND_FINAL, 0);
}

static void number_left_out(struct rig *rig)
{
	begin(rig);
	hear_end(rig, 2, 0, 0);
}

static void cut_before_it_began(struct rig *rig)
{
	begin(rig);
	hear_end(rig, 1, HF_WIRE_ROUND_CUT, 0);
}

static void set_after_the_final_one(struct rig *rig)
{
	begin(rig);
	final(rig, 1, 0, 0);
	hear_piece(rig, SOURCE_ROM, 0, 4, 1);
}

static void end_after_the_final_one(struct rig *rig)
{
	begin(rig);
	final(rig, 1, 0, 0);
	hear_end(rig, 2, 0, 0);
}

static void piece_backwards(struct rig *rig)
{
	begin(rig);
	hear_piece(rig, SOURCE_RAM, 2, 2, 1);
	hear_piece(rig, SOURCE_RAM, 3, 2, 1);
}

static void block_backwards(struct rig *rig)
{
	begin(rig);
	hear_piece(rig, SOURCE_RAM, 2, 2, 1);
	hear_piece(rig, SOURCE_ROM, 0, 2, 1);
}

static void block_unknown(struct rig *rig)
{
	begin(rig);
	hear_piece(rig, 2, 0, 2, 1);
}

static void behind_the_block(struct rig *rig)
{
	begin(rig);
	hear_piece(rig, SOURCE_RAM, 6, 3, 1);
}

static void far_behind_the_block(struct rig *rig)
{
	begin(rig);
	hear_piece(rig, SOURCE_ROM, 0xfffffff0, 3, 1);
}

static void what_a_source_may_not_say_ends_the_migration(void **state)
{
	(void)state;
	static const struct {
		void (*say)(struct rig *rig);
		const char *words;
	} violations[] = {
	    {without_the_feature, "ROUND, which is not expected"},
	    {end_without_the_feature, "ROUND_END, which is not expected"},
	    {before_ready, "ROUND, which is not expected"},
	    {presence_without_the_final_set, "PRESENCE, which is not expected"},
	    {set_in_a_round, "ROUND, which is not expected"},
	    {round_in_a_round, "ended the set of round 2 while 1 was under way"},
	    {final_in_a_round, "ended the set of round 1 while 1 was under way"},
	    {number_left_out, "ended the set of round 2 while 0 was the last"},
	    {cut_before_it_began, "ended the set of round 1"},
	    {set_after_the_final_one, "ROUND, which is not expected"},
	    {end_after_the_final_one, "ROUND_END, which is not expected"},
	    {piece_backwards, "out of order"},
	    {block_backwards, "out of order"},
	    {block_unknown, "out of order"},
	    {behind_the_block, "out of order"},
	    {far_behind_the_block, "out of order"},
	};
	for (size_t i = 0; i < sizeof(violations) / sizeof(violations[0]); i++) {
		struct rig *rig = rig_create();
		rig->link.features |= HF_WIRE_FEATURE_PRECOPY;
		violations[i].say(rig);
		is_violation(rig, violations[i].words);
		rig_destroy(rig);
	}
}

/* The tables that faults need name every map the engine has made. */
static void the_maps_are_among_the_tables(void **state)
{
	struct rig *rig = *state;
	struct hf_tables before, after;
	begin(rig);
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
	begin(rig);
	round_whole(rig, 1, 0xff);
	final(rig, 2, 1u << 1, 0);
	rig_reach(rig, AT_ACTIVE, AT_RUN);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 0);
	rig_reach(rig, AT_RUN, AT_RUNNING);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 1);
	assert_int_equal(hf_wire_decode_placed(rig->sent[HF_WIRE_PLACED].payload,
					       rig->sent[HF_WIRE_PLACED].bytes, &placed, NULL),
			 0);
	assert_int_equal(placed.count, 2);
	assert_int_equal(placed.ranges[0].block, SOURCE_RAM);
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
	begin(rig);
	round_whole(rig, 1, ALL_PAGES & ~(1u << 5));
	final(rig, 2, 1u << 1, 0);
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
		begin(rig);
		round_whole(rig, 1, ALL_PAGES);
		final(rig, 2, 1u << 4, 0);
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
	begin(rig);
	round_whole(rig, 1, ALL_PAGES);
	final(rig, 2, 1u << 4, 0);
	rig_reach(rig, AT_ACTIVE, AT_RUNNING);
	rig_link_down(rig);
	rig_link_again(rig, 2);
	rig_hear(rig, HF_WIRE_ADVISE);
	hear_piece(rig, SOURCE_RAM, 0, RIG_RAM_PAGES, 0xff);
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
	begin(rig);
	round_whole(rig, 1, ALL_PAGES);
	final(rig, 2, 0x3, HF_WIRE_ROUND_WHOLE);
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
	    cmocka_unit_test(what_a_source_may_not_say_ends_the_migration),
	    RIG_TEST(the_maps_are_among_the_tables),
	    RIG_TEST(pages_of_rounds_are_said_to_be_placed_once_the_vm_runs),
	    RIG_TEST(what_is_stale_when_the_source_is_gone_is_poisoned_and_what_landed_is_not),
	    cmocka_unit_test(a_later_link_fetches_what_rounds_left),
	    RIG_TEST(rounds_over_a_later_link_are_a_violation),
	    RIG_TEST(a_vmm_that_ends_while_loaded_waits_fails_and_loaded_is_not_said),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
