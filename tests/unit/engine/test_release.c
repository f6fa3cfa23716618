/* SPDX-License-Identifier: Apache-2.0 */
/* What the destination says of placed pages, and what the source gives back for it. */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <string.h>

#define BOTH (HF_WIRE_FEATURE_RECOVER | HF_WIRE_FEATURE_RELEASE)
#define RAM  1u /* the source's number */
#define ROM  0u

/* ---- the source -------------------------------------------------------------------------------- */

static void source_at(struct rig *rig, enum rig_source_at at)
{
	rig->link.features = BOTH;
	rig->source_config.release = true;
	rig_source_at(rig, at);
	memset(rig->ram, 0x11, RIG_RAM_PAGES * RIG_RAM_PAGE);
	memset(rig->rom, 0x22, RIG_ROM_PAGES * RIG_ROM_PAGE);
}

static void hear_placed(struct rig *rig, uint32_t count, const struct hf_wire_page_range *ranges)
{
	struct hf_wire_placed placed = {.count = count};
	uint8_t buffer[HF_WIRE_PLACED_MAX_BYTES];
	memcpy(placed.ranges, ranges, count * sizeof(*ranges));
	ssize_t bytes = hf_wire_encode_placed(&placed, buffer, sizeof(buffer));
	assert_true(bytes > 0);
	rig_hear_bytes(rig, HF_WIRE_PLACED, buffer, (size_t)bytes);
}

#define hear(rig, ...)                                                                                       \
	hear_placed(rig,                                                                                     \
		    sizeof((const struct hf_wire_page_range[]){__VA_ARGS__}) /                               \
			sizeof(struct hf_wire_page_range),                                                   \
		    (const struct hf_wire_page_range[]){__VA_ARGS__})

static void give_back(struct rig *rig)
{
	while (hf_source_release_work(rig->source))
		;
}

static int serve(struct rig *rig, uint32_t block, uint32_t page, struct hf_serve_reply *reply)
{
	struct hf_serve_request request = {.epoch = rig->link.epoch,
					   .block = block,
					   .offset_bytes =
					       (uint64_t)page * (block == RAM ? RIG_RAM_PAGE : RIG_ROM_PAGE),
					   .length_bytes = 4096};
	struct hf_err err = HF_ERR_INIT;
	int result = hf_source_events.serve(rig->source, &request, reply, &err);
	assert_int_equal(err.class, result ? HF_ERR_PEER : HF_ERR_NONE);
	return result;
}

static void assert_paused(struct rig *rig, const char *words)
{
	struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
	assert_int_equal(snapshot.status, HF_STATUS_POSTCOPY_PAUSED);
	assert_int_equal(snapshot.owner, HF_VM_OWNER_DESTINATION);
	assert_non_null(strstr(snapshot.err.text, words));
	give_back(rig);
	assert_false(rig_called(rig, "release ram 0+2"));
}

static void placed_pages_are_given_back_in_runs_by_the_port(void **state)
{
	struct rig *rig = *state;
	source_at(rig, SOURCE_RESUMED);
	hear(rig, {RAM, 1, 3}, {ROM, 0, 1}, {RAM, 7, 1});
	rig_expect(rig, "kick release");
	assert_int_equal(rig_source_snapshot(rig).released_pages, 0);
	give_back(rig);
	rig_expect(rig, "release rom 0+1", "release ram 1+3", "release ram 7+1");
	struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
	assert_int_equal(snapshot.released_pages, 5);
	assert_int_equal(snapshot.released_bytes, 4 * RIG_RAM_PAGE + RIG_ROM_PAGE);
	/* Said again, as after a recovery, it moves nothing. */
	hear(rig, {RAM, 0, 5}, {RAM, 1, 3});
	rig_forget(rig);
	give_back(rig);
	rig_expect(rig, "release ram 0+1", "release ram 4+1");
}

static void a_released_page_is_never_served_again_and_never_as_zeros(void **state)
{
	struct rig *rig = *state;
	struct hf_serve_reply reply;
	source_at(rig, SOURCE_RESUMED);
	hear(rig, {RAM, 2, 1});
	uint32_t addressed = rig->addressed;
	assert_int_equal(serve(rig, RAM, 2, &reply), -EPROTO);
	give_back(rig);
	assert_int_equal(serve(rig, RAM, 2, &reply), -EPROTO);
	assert_int_equal(rig->addressed, addressed);
	assert_int_equal(serve(rig, RAM, 1, &reply), 0);
	assert_int_equal(serve(rig, RAM, 3, &reply), 0);
}

static void a_hole_is_not_given_back_and_stays_zeros_on_the_first_link(void **state)
{
	struct rig *rig = *state;
	struct hf_serve_reply reply;
	rig->ram_present = 0xf5; /* 1 and 3 do not exist */
	source_at(rig, SOURCE_RESUMED);
	hear(rig, {RAM, 0, 4});
	rig_forget(rig);
	give_back(rig);
	rig_expect(rig, "release ram 0+1", "release ram 2+1");
	assert_int_equal(serve(rig, RAM, 1, &reply), 0);
	assert_true(reply.zero);
}

static void on_a_later_link_nobody_may_ask_for_what_is_not_here(void **state)
{
	struct rig *rig = *state;
	struct hf_serve_reply reply;
	rig->ram_present = 0xfd; /* of 1 nobody knows whether it was given back by a process before */
	source_at(rig, SOURCE_RESUMED);
	rig_link_down(rig);
	rig_link_again(rig, 2);
	rig_hear(rig, HF_WIRE_RESUMED);
	assert_int_equal(serve(rig, RAM, 1, &reply), -EPROTO);
	assert_int_equal(serve(rig, RAM, 0, &reply), 0);
}

static void placed_before_resumed_is_a_violation(void **state)
{
	struct rig *rig = *state;
	source_at(rig, SOURCE_GIVEN_UP);
	hear(rig, {RAM, 0, 2});
	assert_paused(rig, "PLACED");
}

static void placed_before_resumed_is_a_violation_on_every_link(void **state)
{
	struct rig *rig = *state;
	source_at(rig, SOURCE_RESUMED);
	rig_link_down(rig);
	rig_link_again(rig, 2);
	hear(rig, {RAM, 0, 2});
	assert_paused(rig, "PLACED");
}

static void placed_that_was_not_agreed_on_is_a_violation(void **state)
{
	struct rig *rig = *state;
	rig->link.features = HF_WIRE_FEATURE_RECOVER;
	rig->source_config.release = true;
	rig_source_at(rig, SOURCE_RESUMED);
	hear(rig, {RAM, 0, 2});
	assert_paused(rig, "PLACED");
}

static void placed_that_was_not_asked_for_is_a_violation(void **state)
{
	struct rig *rig = *state;
	rig->link.features = BOTH;
	rig_source_at(rig, SOURCE_RESUMED);
	hear(rig, {RAM, 0, 2});
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
}

static void pages_that_do_not_exist_are_a_violation_and_cost_nothing(void **state)
{
	static const struct hf_wire_page_range wrong[] = {{RAM, 0, RIG_RAM_PAGES + 1},
							  {RAM, RIG_RAM_PAGES, 1},
							  {RAM, 1, RIG_RAM_PAGES},
							  {2, 0, 1},
							  {ROM, 3, 2},
							  {255, 0, 1},
							  {RAM, HF_PAGES_MAX - 1, 1},
							  {RAM, 0, HF_PAGES_MAX}};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct rig *rig = rig_create();
		const struct hf_wire_page_range ranges[] = {{RAM, 0, 2}, wrong[i]};
		source_at(rig, SOURCE_RESUMED);
		hear_placed(rig, 2, ranges);
		assert_paused(rig, "do not exist");
		assert_int_equal(rig_source_snapshot(rig).released_pages, 0);
		rig_destroy(rig);
	}
	(void)state;
}

static void a_page_that_cannot_be_given_back_is_told_and_costs_no_other(void **state)
{
	struct rig *rig = *state;
	source_at(rig, SOURCE_RESUMED);
	rig->give_back_result = -EIO;
	hear(rig, {RAM, 0, 2});
	give_back(rig);
	rig->give_back_result = 0;
	hear(rig, {RAM, 4, 2});
	give_back(rig);
	struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
	assert_int_equal(snapshot.released_pages, 2);
	assert_string_equal(snapshot.release_err.text, "not given back");
	assert_int_equal(snapshot.status, HF_STATUS_POSTCOPY_ACTIVE);
}

/* ---- a VM of which pages are gone is never taken back ------------------------------------------ */

static void start_again(struct rig *rig, bool released)
{
	rig->link.features = BOTH;
	rig->source_config.release = true;
	rig->source_config.released = released;
	rig->source_config.restarted = true;
	rig->source_config.record = HF_RECORD_GIVEN_UP;
	rig_source(rig);
	rig_link_again(rig, 2);
	rig_forget(rig);
}

static void a_restarted_source_that_has_given_pages_back_takes_no_vm_back(void **state)
{
	struct rig *rig = *state;
	start_again(rig, true);
	rig_hear(rig, HF_WIRE_REFUSED);
	assert_false(rig_called(rig, "resume"));
	assert_paused(rig, "REFUSED");
}

static void a_restarted_source_that_has_every_page_takes_the_vm_back(void **state)
{
	struct rig *rig = *state;
	start_again(rig, false);
	rig_hear(rig, HF_WIRE_REFUSED);
	rig_vm_done(rig, HF_VM_RESUME, 0);
	assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_SOURCE);
}

static void a_restarted_source_goes_on_giving_back(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0xfc; /* 0 and 1 were given back before */
	start_again(rig, true);
	rig_hear(rig, HF_WIRE_RESUMED);
	hear(rig, {RAM, 0, 4});
	rig_forget(rig);
	give_back(rig);
	rig_expect(rig, "release ram 2+2");
}

/* ---- the destination --------------------------------------------------------------------------- */

static struct hf_wire_placed said(const struct rig *rig)
{
	struct hf_wire_placed placed;
	assert_int_equal(hf_wire_decode_placed(rig->sent[HF_WIRE_PLACED].payload,
					       rig->sent[HF_WIRE_PLACED].bytes, &placed, NULL),
			 0);
	return placed;
}

static void assert_said(const struct rig *rig, uint32_t index, uint32_t block, uint32_t first, uint32_t pages)
{
	struct hf_wire_placed placed = said(rig);
	assert_true(index < placed.count);
	assert_int_equal(placed.ranges[index].block, block);
	assert_int_equal(placed.ranges[index].first_page, first);
	assert_int_equal(placed.ranges[index].pages, pages);
}

static void destination_at(struct rig *rig, enum rig_at at)
{
	rig->link.features = BOTH;
	rig->destination_config.background_held = true;
	rig_destination_at(rig, at);
}

static void fetch_page(struct rig *rig, uint64_t page)
{
	rig_fault(rig, RIG_RAM, page);
	rig_land_all(rig);
}

static void nothing_is_said_before_resumed_and_all_of_it_after(void **state)
{
	struct rig *rig = *state;
	destination_at(rig, AT_RUN);
	fetch_page(rig, 5);
	fetch_page(rig, 6);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 0);
	rig_forget(rig);
	rig_reach(rig, AT_RUN, AT_RUNNING);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 1);
	assert_int_equal(said(rig).count, 1);
	assert_said(rig, 0, RAM, 5, 2);
}

static void without_the_feature_nothing_is_said(void **state)
{
	struct rig *rig = *state;
	rig->link.features = HF_WIRE_FEATURE_RECOVER;
	rig_destination_at(rig, AT_COMPLETE);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 0);
}

static void pages_are_said_in_batches_and_a_batch_does_not_grow_old(void **state)
{
	struct rig *rig = *state;
	destination_at(rig, AT_RUNNING);
	fetch_page(rig, 0); /* the first batch is due: nothing was ever said */
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 1);
	fetch_page(rig, 1);
	fetch_page(rig, 3);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 1);
	rig->now_ns += 50000000;
	fetch_page(rig, 4);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 2);
	assert_int_equal(said(rig).count, 2);
	assert_said(rig, 0, RAM, 1, 1);
	assert_said(rig, 1, RAM, 3, 2);
}

static void a_full_batch_leaves_at_once(void **state)
{
	struct rig *rig = *state;
	rig->ram_pages = 1024;
	rig->rom_present = 0;
	destination_at(rig, AT_RUNNING);
	fetch_page(rig, 0);
	for (uint64_t page = 100; page < 100 + 63; page++)
		fetch_page(rig, page);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 1);
	fetch_page(rig, 163);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 2);
	assert_said(rig, 0, RAM, 100, 64);
}

static void a_page_is_said_when_it_is_placed_and_not_when_its_bytes_are_here(void **state)
{
	struct rig *rig = *state;
	destination_at(rig, AT_RUNNING);
	rig->place_result = -EAGAIN;
	fetch_page(rig, 2);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 0);
	rig->place_result = 0;
	rig_work_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 1);
	assert_said(rig, 0, RAM, 2, 1);
}

static void a_hole_is_not_said(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0xfe;
	destination_at(rig, AT_RUNNING);
	rig_fault(rig, RIG_RAM, 0);
	rig_work_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 0);
}

static void after_a_recovery_everything_received_is_said_again(void **state)
{
	struct rig *rig = *state;
	destination_at(rig, AT_RUNNING);
	fetch_page(rig, 0);
	fetch_page(rig, 4);
	rig_link_down(rig);
	rig_link_again(rig, 2);
	rig_hear(rig, HF_WIRE_ADVISE);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 1);
	rig_hear(rig, HF_WIRE_RUN);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 2);
	assert_int_equal(said(rig).count, 2);
	assert_said(rig, 0, RAM, 0, 1);
	assert_said(rig, 1, RAM, 4, 1);
}

static void a_restarted_destination_says_what_its_kept_map_has(void **state)
{
	static uint8_t received[2], present[2];
	struct rig *rig = *state;
	memset(present, 0xff, sizeof(present));
	received[0] = 0x0e;
	rig->destination_config.kept_received = received;
	rig->destination_config.kept_present = present;
	rig->destination_config.restarted = true;
	rig->destination_config.vmm_lives = true;
	rig->destination_config.background_held = true;
	rig->destination_config.record = HF_RECORD_RUNNING;
	rig_destination(rig);
	hf_destination_restart(rig->destination);
	hf_destination_memory_ready(rig->destination, 0, NULL);
	rig->link.features = BOTH;
	rig_link_again(rig, 2);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_hear(rig, HF_WIRE_RUN);
	rig_vm_done(rig, HF_VM_RUN, 0);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 1);
	assert_said(rig, 0, RAM, 1, 3);
}

/* A link that is lost between the taking of pages and the sending: the rig's transport checks the epoch. */
static void lose_the_link(struct rig *rig, const char *call)
{
	if (strcmp(call, "send PLACED") == 0 && rig->seen++ == 0)
		rig_link_down(rig);
}

static void what_was_lost_with_its_link_is_said_on_the_next(void **state)
{
	struct rig *rig = *state;
	destination_at(rig, AT_RUNNING);
	rig->inside = lose_the_link;
	fetch_page(rig, 3);
	rig->inside = NULL;
	assert_int_equal(rig->seen, 1);
	rig_link_again(rig, 2);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_hear(rig, HF_WIRE_RUN);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, 2);
	assert_said(rig, 0, RAM, 3, 1);
}

static void many_ranges_take_several_messages(void **state)
{
	struct rig *rig = *state;
	rig->ram_pages = 1024;
	destination_at(rig, AT_RUNNING);
	for (uint64_t page = 0; page < 600; page += 2)
		fetch_page(rig, page);
	uint32_t before = rig->sent[HF_WIRE_PLACED].times;
	rig_link_down(rig);
	rig_link_again(rig, 2);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_hear(rig, HF_WIRE_RUN);
	assert_int_equal(rig->sent[HF_WIRE_PLACED].times, before + 3);
	assert_int_equal(said(rig).count, 300 - 2 * HF_WIRE_PLACED_RANGES_MAX);
	assert_said(rig, 300 - 2 * HF_WIRE_PLACED_RANGES_MAX - 1, RAM, 598, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(placed_pages_are_given_back_in_runs_by_the_port),
	    RIG_TEST(a_released_page_is_never_served_again_and_never_as_zeros),
	    RIG_TEST(a_hole_is_not_given_back_and_stays_zeros_on_the_first_link),
	    RIG_TEST(on_a_later_link_nobody_may_ask_for_what_is_not_here),
	    RIG_TEST(placed_before_resumed_is_a_violation),
	    RIG_TEST(placed_before_resumed_is_a_violation_on_every_link),
	    RIG_TEST(placed_that_was_not_agreed_on_is_a_violation),
	    RIG_TEST(placed_that_was_not_asked_for_is_a_violation),
	    RIG_TEST(pages_that_do_not_exist_are_a_violation_and_cost_nothing),
	    RIG_TEST(a_page_that_cannot_be_given_back_is_told_and_costs_no_other),
	    RIG_TEST(a_restarted_source_that_has_given_pages_back_takes_no_vm_back),
	    RIG_TEST(a_restarted_source_that_has_every_page_takes_the_vm_back),
	    RIG_TEST(a_restarted_source_goes_on_giving_back),
	    RIG_TEST(nothing_is_said_before_resumed_and_all_of_it_after),
	    RIG_TEST(without_the_feature_nothing_is_said),
	    RIG_TEST(pages_are_said_in_batches_and_a_batch_does_not_grow_old),
	    RIG_TEST(a_full_batch_leaves_at_once),
	    RIG_TEST(a_page_is_said_when_it_is_placed_and_not_when_its_bytes_are_here),
	    RIG_TEST(a_hole_is_not_said),
	    RIG_TEST(after_a_recovery_everything_received_is_said_again),
	    RIG_TEST(a_restarted_destination_says_what_its_kept_map_has),
	    RIG_TEST(what_was_lost_with_its_link_is_said_on_the_next),
	    RIG_TEST(many_ranges_take_several_messages),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
