/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rounds of pre-copy on the source: what each harvest finds is named once, only what is named is served, and
 * the VM stops when the rounds have done what they can, or the operator says so.
 */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <string.h>

#define SOURCE_ROM 0u
#define SOURCE_RAM 1u

/* READY from a side that can take rounds. */
static void hear_ready(struct rig *rig, enum hf_placement placement)
{
	struct hf_wire_ready ready = {.placement = placement, .chunk_bytes = RIG_CHUNK};
	uint8_t payload[64];
	ssize_t bytes = hf_wire_encode_ready(&ready, payload, sizeof(payload));
	rig_hear_bytes(rig, HF_WIRE_READY, payload, (size_t)bytes);
}

static void create(struct rig *rig)
{
	rig->link.features |= HF_WIRE_FEATURE_PRECOPY;
	rig->source_config.precopy = true;
	rig->ram_dirtied = 0xff;
	rig->rom_dirtied = 0x3;
	rig_source_at(rig, SOURCE_SETUP);
}

static void begin(struct rig *rig)
{
	create(rig);
	hear_ready(rig, HF_PLACEMENT_CONTINUE);
}

static void hear_done(struct rig *rig, uint32_t round, uint64_t moved_bytes, uint64_t duration_ns)
{
	struct hf_wire_round_done done = {
	    .round = round, .moved_bytes = moved_bytes, .duration_ns = duration_ns};
	uint8_t payload[64];
	ssize_t bytes = hf_wire_encode_round_done(&done, payload, sizeof(payload));
	rig->now_ns += duration_ns;
	rig_hear_bytes(rig, HF_WIRE_ROUND_DONE, payload, (size_t)bytes);
}

static struct hf_wire_round_end said_end(const struct rig *rig)
{
	struct hf_wire_round_end end;
	assert_int_equal(hf_wire_decode_round_end(rig->sent[HF_WIRE_ROUND_END].payload,
						  rig->sent[HF_WIRE_ROUND_END].bytes, &end, NULL),
			 0);
	return end;
}

/* Of the last ROUND. */
static struct hf_wire_presence said_piece(const struct rig *rig)
{
	struct hf_wire_presence piece;
	assert_int_equal(hf_wire_decode_round(rig->sent[HF_WIRE_ROUND].payload,
					      rig->sent[HF_WIRE_ROUND].bytes, &piece, NULL),
			 0);
	return piece;
}

static int serve(struct rig *rig, uint32_t block, uint64_t page, bool *zero)
{
	struct hf_serve_request request = {
	    .epoch = RIG_EPOCH,
	    .block = block,
	    .offset_bytes = page * (block == SOURCE_RAM ? RIG_RAM_PAGE : RIG_ROM_PAGE),
	    .length_bytes = RIG_CHUNK,
	};
	struct hf_serve_reply reply;
	struct hf_err err;
	int result = hf_source_events.serve(rig->source, &request, &reply, &err);
	*zero = result == 0 && reply.zero;
	return result;
}

static void the_first_round_is_all_that_exists_and_the_vm_runs_on(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	rig_expect(rig, "harvest rom", "harvest ram", "send ROUND", "send ROUND", "send ROUND_END");
	assert_int_equal(said_end(rig).round, 1);
	assert_int_equal(said_end(rig).flags, 0);
	assert_int_equal(said_end(rig).limit_bytes_per_s, 0);
	assert_int_equal(said_piece(rig).block, SOURCE_RAM);
	assert_int_equal(said_piece(rig).pages, 8);
	assert_int_equal(said_piece(rig).bits[0], 0xff);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_ACTIVE);
	assert_false(rig_source_snapshot(rig).stopping);
	assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_SOURCE);
}

static void a_round_names_what_was_written_in_the_one_before(void **state)
{
	struct rig *rig = *state;
	rig->source_config.downtime_limit_ns = 1;
	begin(rig);
	rig->ram_dirtied = 0x18;
	rig_forget(rig);
	hear_done(rig, 1, 8 * RIG_RAM_PAGE, 1000000);
	rig_expect(rig, "harvest rom", "harvest ram", "send ROUND", "send ROUND_END");
	assert_int_equal(said_end(rig).round, 2);
	assert_int_equal(said_piece(rig).first_page, 3);
	assert_int_equal(said_piece(rig).bits[0], 0x3);
	struct hf_source_precopy_figures figures = rig_source_snapshot(rig).precopy;
	assert_int_equal(figures.rounds, 1);
	assert_int_equal(figures.remaining_bytes, 2 * RIG_RAM_PAGE);
	assert_int_equal(figures.dirty_pages_per_s, 2000);
	assert_int_equal(figures.rate_bytes_per_s, 131072000);
	assert_int_equal(figures.expected_downtime_ns, 250000);
	assert_null(figures.ended_because);
}

static void only_pages_of_the_round_are_served_and_holes_are_not_touched(void **state)
{
	struct rig *rig = *state;
	bool zero;
	rig->source_config.downtime_limit_ns = 1;
	create(rig);
	assert_int_equal(serve(rig, SOURCE_RAM, 0, &zero), -EPROTO);
	rig->ram_dirtied = 0x3;
	rig->ram_holes = 0x2;
	rig->rom_dirtied = 0;
	memset(rig->ram, 1, 2 * RIG_RAM_PAGE);
	hear_ready(rig, HF_PLACEMENT_CONTINUE);
	assert_int_equal(serve(rig, SOURCE_RAM, 0, &zero), 0);
	assert_false(zero);
	assert_int_equal(rig->addressed, 1);
	assert_int_equal(serve(rig, SOURCE_RAM, 1, &zero), 0);
	assert_true(zero);
	assert_int_equal(rig->addressed, 1);
	assert_int_equal(serve(rig, SOURCE_RAM, 2, &zero), -EPROTO);
	assert_int_equal(serve(rig, SOURCE_ROM, 0, &zero), -EPROTO);
	rig->ram_dirtied = 0x2; /* and now it exists */
	hear_done(rig, 1, 2 * RIG_RAM_PAGE, 1000000);
	assert_int_equal(serve(rig, SOURCE_RAM, 0, &zero), -EPROTO);
	assert_int_equal(serve(rig, SOURCE_RAM, 1, &zero), 0);
	assert_false(zero);
	rig_link_down(rig);
	assert_int_equal(serve(rig, SOURCE_RAM, 1, &zero), -EPROTO);
}

/* The set after the VM has stopped: written since, and left out of the rounds. */
static void when_it_fits_the_pause_the_vm_stops_and_the_rest_is_moved_in_it(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	rig->ram_dirtied = 0x1;
	rig_forget(rig);
	hear_done(rig, 1, 1 << 20, 1000000);
	rig_expect(rig, "harvest rom", "harvest ram", "stop");
	assert_true(rig_source_snapshot(rig).stopping);
	assert_string_equal(rig_source_snapshot(rig).precopy.ended_because,
			    "the expected downtime is within the limit");
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig->ram_dirtied = 0x80;
	rig_forget(rig);
	rig_vm_done(rig, HF_VM_SAVE, 0);
	rig_expect(rig, "harvest rom", "harvest ram", "presence rom", "presence ram", "send ROUND",
		   "send ROUND_END", "send PRESENCE", "send PRESENCE", "send DEVICE", "send DEVICE_END");
	assert_int_equal(said_end(rig).round, 2);
	assert_int_equal(said_end(rig).flags, HF_WIRE_ROUND_FINAL | HF_WIRE_ROUND_WHOLE);
	assert_int_equal(said_piece(rig).bits[0], 0x81);
	rig_source_reach(rig, SOURCE_DEVICE, SOURCE_COMPLETED);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void what_was_written_until_it_stood_still_may_need_postcopy_after_all(void **state)
{
	struct rig *rig = *state;
	rig->source_config.downtime_limit_ns = 20000; /* a page takes about 15600 */
	begin(rig);
	rig->ram_dirtied = 0x1;
	hear_done(rig, 1, 1 << 20, 1000000);
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig->ram_dirtied = 0xff;
	rig_vm_done(rig, HF_VM_SAVE, 0);
	assert_int_equal(said_end(rig).flags, HF_WIRE_ROUND_FINAL);
}

static void a_pause_that_was_long_before_pages_move_leaves_them_to_postcopy(void **state)
{
	static const uint64_t stop_ns[] = {984000, 984500}; /* a page takes about 15600 */
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct rig *rig = rig_create();
		rig->source_config.downtime_limit_ns = 1000000;
		begin(rig);
		rig->ram_dirtied = 0x1;
		rig->rom_dirtied = 0;
		hear_done(rig, 1, 1 << 20, 1000000);
		rig->now_ns += stop_ns[i];
		rig_vm_done(rig, HF_VM_STOP, 0);
		rig_vm_done(rig, HF_VM_SAVE, 0);
		assert_int_equal(said_end(rig).flags,
				 HF_WIRE_ROUND_FINAL | (i == 0 ? HF_WIRE_ROUND_WHOLE : 0u));
		rig_destroy(rig);
	}
}

/* At a rate between the last two rounds' it would fit. */
static void a_link_that_became_slow_does_not_move_the_rest_in_the_pause(void **state)
{
	struct rig *rig = *state;
	rig->source_config.downtime_limit_ns = 100000;
	begin(rig);
	rig->ram_dirtied = 0xff;
	hear_done(rig, 1, 8 * RIG_RAM_PAGE, 125000);
	rig->ram_dirtied = 0x1;
	hear_done(rig, 2, 8 * RIG_RAM_PAGE, 640000);
	assert_true(rig_source_snapshot(rig).stopping);
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig->ram_dirtied = 0x3;
	rig_vm_done(rig, HF_VM_SAVE, 0);
	assert_int_equal(said_end(rig).flags, HF_WIRE_ROUND_FINAL);
}

static void a_harvest_takes_a_while(struct rig *rig, const char *call)
{
	if (strcmp(call, "harvest ram") == 0)
		rig->now_ns += 1000;
}

/* RTT 200000: the set and the first fetch, bytes and LOADED, RUN and RESUMED. */
static void the_expected_pause_counts_messages_and_the_harvest(void **state)
{
	struct rig *rig = *state;
	rig->source_config.downtime_limit_ns = 1;
	rig->link.features |= HF_WIRE_FEATURE_LINK;
	rig->inside = a_harvest_takes_a_while;
	create(rig);
	rig_hear(rig, HF_WIRE_LINK);
	hear_ready(rig, HF_PLACEMENT_CONTINUE);
	rig->ram_dirtied = 0x18;
	rig->rom_dirtied = 0;
	hear_done(rig, 1, 8 * RIG_RAM_PAGE, 1000000);
	assert_int_equal(rig_source_snapshot(rig).precopy.expected_downtime_ns, 250000 + 600000 + 1000);
}

static void rounds_that_do_not_converge_end_in_postcopy(void **state)
{
	struct rig *rig = *state;
	rig->source_config.downtime_limit_ns = 1;
	begin(rig);
	uint32_t round = 1;
	while (!rig_source_snapshot(rig).stopping) {
		assert_true(round < 10);
		rig->ram_dirtied = 0xff;
		rig->rom_dirtied = 0x3;
		hear_done(rig, round++, 1 << 20, 1000000);
	}
	assert_int_equal(round - 1, 3);
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig_vm_done(rig, HF_VM_SAVE, 0);
	assert_int_equal(said_end(rig).flags, HF_WIRE_ROUND_FINAL);
	/* Nothing was written since; all of them were not moved since they were. */
	assert_int_equal(said_piece(rig).bits[0], 0xff);
}

static void without_postcopy_rounds_go_on_until_they_fit(void **state)
{
	struct rig *rig = *state;
	struct hf_err err;
	rig->source_config.downtime_limit_ns = 1;
	rig->source_config.precopy_only = true;
	begin(rig);
	assert_int_equal(hf_source_start_postcopy(rig->source, &err), -EPERM);
	for (uint32_t round = 1; round <= 40; round++) {
		rig->ram_dirtied = 0xff;
		rig->rom_dirtied = 0x3;
		hear_done(rig, round, 1 << 20, 1000000);
		assert_false(rig_source_snapshot(rig).stopping);
		assert_int_equal(said_end(rig).round, round + 1);
	}
	hf_source_limit_downtime(rig->source, 1000000000);
	rig->ram_dirtied = 0xff;
	hear_done(rig, 41, 1 << 20, 1000000);
	assert_true(rig_source_snapshot(rig).stopping);
	rig_vm_done(rig, HF_VM_STOP, 0);
	hf_source_limit_downtime(rig->source, 1);
	rig_vm_done(rig, HF_VM_SAVE, 0);
	assert_int_equal(said_end(rig).flags, HF_WIRE_ROUND_FINAL | HF_WIRE_ROUND_WHOLE);
}

/* Hot pages are left out of rounds and are stale at the end. */
static void pages_written_in_every_round_are_left_for_last(void **state)
{
	struct rig *rig = *state;
	rig->source_config.downtime_limit_ns = 1;
	begin(rig);
	for (uint32_t round = 1; round <= 3; round++) {
		rig->ram_dirtied = round == 3 ? 0x81 : 0xff >> round;
		hear_done(rig, round, 1 << 20, 1000000);
	}
	assert_false(rig_source_snapshot(rig).stopping);
	assert_int_equal(said_end(rig).round, 4);
	assert_int_equal(said_piece(rig).first_page, 7);
	assert_int_equal(said_piece(rig).bits[0], 0x1); /* page 0 is hot, 7 is not */
	assert_int_equal(hf_source_start_postcopy(rig->source, NULL), 0);
	hear_done(rig, 4, RIG_RAM_PAGE, 1000000);
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig_vm_done(rig, HF_VM_SAVE, 0);
	assert_int_equal(said_piece(rig).first_page, 0);
	assert_int_equal(said_piece(rig).bits[0], 0x1);
}

/* ---- the operator ------------------------------------------------------------------------------ */

static void postcopy_on_command_cuts_the_round(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	rig_forget(rig);
	assert_int_equal(hf_source_start_postcopy(rig->source, NULL), 0);
	rig_expect(rig, "send ROUND_END");
	assert_int_equal(said_end(rig).round, 1);
	assert_int_equal(said_end(rig).flags, HF_WIRE_ROUND_CUT);
	assert_int_equal(hf_source_start_postcopy(rig->source, NULL), 0);
	rig_expect_nothing(rig);
	hear_done(rig, 1, RIG_RAM_PAGE, 1000000);
	rig_expect(rig, "stop");
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig->ram_dirtied = 0x2;
	rig_vm_done(rig, HF_VM_SAVE, 0);
	assert_int_equal(said_end(rig).flags, HF_WIRE_ROUND_FINAL);
	assert_int_equal(said_piece(rig).first_page, 1);
	struct hf_source_precopy_figures figures = rig_source_snapshot(rig).precopy;
	assert_string_equal(figures.ended_because, "postcopy was asked for");
	/* What was written, and what the round had not moved when it was cut. */
	assert_int_equal(figures.remaining_bytes, 8 * RIG_RAM_PAGE + 2 * RIG_ROM_PAGE);
}

static void postcopy_asked_for_before_ready_means_no_round(void **state)
{
	struct rig *rig = *state;
	create(rig);
	assert_int_equal(hf_source_start_postcopy(rig->source, NULL), 0);
	rig_expect_nothing(rig);
	hear_ready(rig, HF_PLACEMENT_CONTINUE);
	rig_expect(rig, "stop");
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig_forget(rig);
	rig_vm_done(rig, HF_VM_SAVE, 0);
	rig_expect(rig, "presence rom", "presence ram", "send ROUND_END", "send PRESENCE", "send PRESENCE",
		   "send DEVICE", "send DEVICE_END");
	assert_int_equal(said_end(rig).round, 1);
	assert_int_equal(said_end(rig).flags, HF_WIRE_ROUND_FINAL);
}

static void postcopy_asked_for_at_any_later_time_changes_nothing(void **state)
{
	(void)state;
	for (enum rig_source_at at = SOURCE_DEVICE; at < SOURCE_COUNT; at++) {
		struct rig *rig = rig_create();
		create(rig);
		rig_source_reach(rig, SOURCE_SETUP, SOURCE_SETUP);
		assert_int_equal(hf_source_start_postcopy(rig->source, NULL), 0);
		hear_ready(rig, HF_PLACEMENT_CONTINUE);
		rig_source_reach(rig, SOURCE_STOPPING, at);
		assert_int_equal(hf_source_start_postcopy(rig->source, NULL), 0);
		hf_source_limit_rounds(rig->source, 5);
		rig_expect_nothing(rig);
		rig_destroy(rig);
	}
}

static void ask_inside(struct rig *rig, const char *call)
{
	if (strcmp(call, rig->sought) == 0 && rig->seen++ == 0)
		assert_int_equal(hf_source_start_postcopy(rig->source, NULL), 0);
}

/* Whatever the harvesting thread is at when it is asked for. */
static void postcopy_asked_for_while_a_round_is_being_told_is_not_lost(void **state)
{
	(void)state;
	static const char *const calls[] = {"harvest ram", "send ROUND", "send ROUND_END"};
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		struct rig *rig = rig_create();
		create(rig);
		rig->inside = ask_inside;
		rig->sought = calls[i];
		hear_ready(rig, HF_PLACEMENT_CONTINUE);
		assert_int_equal(rig->seen > 0, 1);
		assert_int_equal(rig->sent[HF_WIRE_ROUND_END].times, 2);
		assert_int_equal(said_end(rig).flags, HF_WIRE_ROUND_CUT);
		hear_done(rig, 1, 0, 1000);
		assert_true(rig_source_snapshot(rig).stopping);
		rig_destroy(rig);
	}
}

static void done_inside(struct rig *rig, const char *call)
{
	if (strcmp(call, "send ROUND_END") != 0 || rig->seen++ != 0)
		return;
	hear_done(rig, 1, 0, 1000);
	assert_false(rig_called(rig, "stop"));
	assert_false(rig_called(rig, "harvest ram"));
}

/* Else the operator's word about a round could come after the final set. */
static void a_round_done_while_it_is_changed_waits_for_that(void **state)
{
	(void)state;
	for (int cut = 0; cut <= 1; cut++) {
		struct rig *rig = rig_create();
		rig->source_config.downtime_limit_ns = 1;
		begin(rig);
		rig->ram_dirtied = 1;
		rig_forget(rig);
		rig->inside = done_inside;
		if (cut)
			assert_int_equal(hf_source_start_postcopy(rig->source, NULL), 0);
		else
			hf_source_limit_rounds(rig->source, 5000);
		assert_int_equal(rig_called(rig, "stop"), cut);
		assert_int_equal(rig_called(rig, "harvest ram"), !cut);
		assert_int_equal(said_end(rig).round, cut ? 1 : 2);
		rig_destroy(rig);
	}
}

static void the_limit_is_told_with_each_round_and_when_it_changes(void **state)
{
	struct rig *rig = *state;
	rig->source_config.max_bandwidth = 4000;
	rig->source_config.downtime_limit_ns = 1;
	begin(rig);
	assert_int_equal(said_end(rig).limit_bytes_per_s, 4000);
	hf_source_limit_rounds(rig->source, 5000);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_END].times, 2);
	assert_int_equal(said_end(rig).round, 1);
	assert_int_equal(said_end(rig).limit_bytes_per_s, 5000);
	hf_source_limit_rounds(rig->source, 5000);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_END].times, 2);
	rig->ram_dirtied = 1;
	hear_done(rig, 1, 1 << 20, 1000000);
	assert_int_equal(said_end(rig).round, 2);
	assert_int_equal(said_end(rig).limit_bytes_per_s, 5000);
}

/* ---- failures ---------------------------------------------------------------------------------- */

static void is_left_running(struct rig *rig, enum hf_status status)
{
	struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
	assert_int_equal(snapshot.status, status);
	assert_int_equal(snapshot.owner, HF_VM_OWNER_SOURCE);
	assert_int_equal(rig->vm_requests, 0);
}

static void cancelling_in_a_round_leaves_the_vm_running(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	rig_forget(rig);
	assert_int_equal(hf_source_cancel(rig->source, NULL), 0);
	rig_expect(rig, "send FAIL");
	is_left_running(rig, HF_STATUS_CANCELLED);
	hear_done(rig, 1, 1 << 20, 1000000);
	rig_expect_nothing(rig);
}

static void cancel_inside(struct rig *rig, const char *call)
{
	if (strcmp(call, "harvest ram") == 0 && rig->seen++ == 0)
		assert_int_equal(hf_source_cancel(rig->source, NULL), 0);
}

static void cancelling_in_a_harvest_names_no_round(void **state)
{
	struct rig *rig = *state;
	create(rig);
	rig->inside = cancel_inside;
	hear_ready(rig, HF_PLACEMENT_CONTINUE);
	assert_int_equal(rig->sent[HF_WIRE_ROUND].times, 0);
	is_left_running(rig, HF_STATUS_CANCELLED);
}

static void a_link_lost_in_a_round_leaves_the_vm_running(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	begin(rig);
	rig_link_down(rig);
	is_left_running(rig, HF_STATUS_FAILED);
	assert_false(rig_source_snapshot(rig).destination_in_doubt);
}

static void a_harvest_that_fails_leaves_the_vm_running(void **state)
{
	struct rig *rig = *state;
	create(rig);
	rig->harvest_result = -EIO;
	hear_ready(rig, HF_PLACEMENT_CONTINUE);
	is_left_running(rig, HF_STATUS_FAILED);
	assert_non_null(strstr(rig_sent_fail(rig).text, "no harvest"));
}

static void the_last_harvest_failing_resumes_the_vm(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	hear_done(rig, 1, 1 << 20, 1000000);
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig->harvest_result = -EIO;
	rig_vm_done(rig, HF_VM_SAVE, 0);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_FAILED);
	assert_int_equal(rig->sent[HF_WIRE_DEVICE_END].times, 0);
	assert_int_equal(rig->resuming, 1);
	rig_vm_done(rig, HF_VM_RESUME, 0);
	assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_SOURCE);
}

static void a_destination_that_cannot_take_rounds_is_refused(void **state)
{
	(void)state;
	for (int copies = 0; copies <= 1; copies++) {
		struct rig *rig = rig_create();
		create(rig);
		if (!copies) {
			rig_destroy(rig);
			rig = rig_create();
			rig->source_config.precopy = true;
			rig_source_at(rig, SOURCE_SETUP);
		}
		hear_ready(rig, copies ? HF_PLACEMENT_COPY : HF_PLACEMENT_CONTINUE);
		is_left_running(rig, HF_STATUS_FAILED);
		assert_non_null(strstr(rig_source_snapshot(rig).err.text, "leave --precopy out"));
		rig_destroy(rig);
	}
}

static void round_done_at_the_wrong_time_is_a_violation(void **state)
{
	(void)state;
	static const uint32_t numbers[] = {0, 2, 1};
	for (size_t i = 0; i < 3; i++) {
		struct rig *rig = rig_create();
		if (numbers[i]) {
			begin(rig);
			if (i == 2) {
				hear_done(rig, 1, 1 << 20, 1000000); /* the VM is being stopped */
				assert_true(rig_source_snapshot(rig).stopping);
			}
			hear_done(rig, numbers[i], 1, 1);
		} else {
			create(rig);
			rig_hear(rig, HF_WIRE_ROUND_DONE);
		}
		assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_FAILED);
		assert_int_equal(rig_source_snapshot(rig).err.class, HF_ERR_PEER);
		rig_destroy(rig);
	}
}

static void loaded_in_a_round_is_a_violation(void **state)
{
	struct rig *rig = *state;
	begin(rig);
	rig_hear(rig, HF_WIRE_LOADED);
	is_left_running(rig, HF_STATUS_FAILED);
	assert_int_equal(rig_source_snapshot(rig).err.class, HF_ERR_PEER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(the_first_round_is_all_that_exists_and_the_vm_runs_on),
	    RIG_TEST(a_round_names_what_was_written_in_the_one_before),
	    RIG_TEST(only_pages_of_the_round_are_served_and_holes_are_not_touched),
	    RIG_TEST(when_it_fits_the_pause_the_vm_stops_and_the_rest_is_moved_in_it),
	    RIG_TEST(what_was_written_until_it_stood_still_may_need_postcopy_after_all),
	    RIG_TEST(a_pause_that_was_long_before_pages_move_leaves_them_to_postcopy),
	    RIG_TEST(a_link_that_became_slow_does_not_move_the_rest_in_the_pause),
	    RIG_TEST(the_expected_pause_counts_messages_and_the_harvest),
	    RIG_TEST(rounds_that_do_not_converge_end_in_postcopy),
	    RIG_TEST(without_postcopy_rounds_go_on_until_they_fit),
	    RIG_TEST(pages_written_in_every_round_are_left_for_last),
	    RIG_TEST(postcopy_on_command_cuts_the_round),
	    RIG_TEST(postcopy_asked_for_before_ready_means_no_round),
	    cmocka_unit_test(postcopy_asked_for_at_any_later_time_changes_nothing),
	    cmocka_unit_test(postcopy_asked_for_while_a_round_is_being_told_is_not_lost),
	    cmocka_unit_test(a_round_done_while_it_is_changed_waits_for_that),
	    RIG_TEST(the_limit_is_told_with_each_round_and_when_it_changes),
	    RIG_TEST(cancelling_in_a_round_leaves_the_vm_running),
	    RIG_TEST(cancelling_in_a_harvest_names_no_round),
	    RIG_TEST(a_link_lost_in_a_round_leaves_the_vm_running),
	    RIG_TEST(a_harvest_that_fails_leaves_the_vm_running),
	    RIG_TEST(the_last_harvest_failing_resumes_the_vm),
	    cmocka_unit_test(a_destination_that_cannot_take_rounds_is_refused),
	    cmocka_unit_test(round_done_at_the_wrong_time_is_a_violation),
	    RIG_TEST(loaded_in_a_round_is_a_violation),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
