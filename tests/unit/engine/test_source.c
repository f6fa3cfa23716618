/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- the way it should go ---------------------------------------------------------------------- */

static void operations_and_messages_come_in_this_order(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0x05;
	rig_source(rig);
	hf_source_events.link_up(rig->source, &rig->link);
	rig_expect(rig, "send ADVISE");
	rig_hear(rig, HF_WIRE_READY);
	rig_expect(rig, "stop");
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig_expect(rig, "save");
	rig_vm_done(rig, HF_VM_SAVE, 0);
	/* Presence is read after SAVE: saving a device may write memory. */
	rig_expect(rig, "presence rom", "presence ram", "send PRESENCE", "send PRESENCE", "send DEVICE",
		   "send DEVICE_END");
	rig_hear(rig, HF_WIRE_LOADED);
	rig_expect(rig, "send RUN");
	rig->now_ns += 5;
	rig_hear(rig, HF_WIRE_RESUMED);
	rig_expect_nothing(rig);
	rig->now_ns += 7;
	rig_hear(rig, HF_WIRE_COMPLETE);
	rig_expect(rig, "send FINISH");

	struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
	assert_int_equal(snapshot.status, HF_STATUS_COMPLETED);
	assert_int_equal(snapshot.owner, HF_VM_OWNER_DESTINATION);
	assert_int_equal(snapshot.pages_present, 2 + RIG_ROM_PAGES);
	assert_int_equal(snapshot.downtime_ns, 5);
	assert_int_equal(snapshot.total_time_ns, 12);
	assert_int_equal(snapshot.device_state_bytes, RIG_STATE_BYTES);
	assert_memory_equal(rig->sent[HF_WIRE_DEVICE].payload, RIG_DEVICE_STATE, RIG_STATE_BYTES);

	struct hf_wire_finish finish;
	assert_int_equal(hf_wire_decode_finish(rig->sent[HF_WIRE_FINISH].payload,
					       rig->sent[HF_WIRE_FINISH].bytes, &finish, NULL),
			 0);
	assert_int_equal(finish.downtime_ns, 5);
	assert_int_equal(finish.total_time_ns, 12);
	struct hf_wire_presence presence;
	assert_int_equal(hf_wire_decode_presence(rig->sent[HF_WIRE_PRESENCE].payload,
						 rig->sent[HF_WIRE_PRESENCE].bytes, &presence, NULL),
			 0);
	assert_int_equal(presence.block, 1);
	assert_int_equal(presence.pages, RIG_RAM_PAGES);
	assert_int_equal(presence.bits[0], 0x05);
}

static void a_hand_over_within_one_tick_of_the_clock_completes(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_SETUP);
	rig_hear(rig, HF_WIRE_READY);
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig_vm_done(rig, HF_VM_SAVE, 0);
	rig_hear(rig, HF_WIRE_LOADED);
	rig_hear(rig, HF_WIRE_RESUMED);
	rig_forget(rig);
	rig_hear(rig, HF_WIRE_COMPLETE);
	rig_expect(rig, "send FINISH");
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_COMPLETED);
}

/* An adapter that says too much does not make the downtime less than nothing. */
static void the_downtime_begins_when_the_vm_may_stand_still(void **state)
{
	static const uint64_t ran_ns[] = {0, 30, 1000};
	static const uint64_t still_ns[] = {100, 70, 0};
	(void)state;
	for (size_t i = 0; i < sizeof(ran_ns) / sizeof(ran_ns[0]); i++) {
		struct rig *rig = rig_create();
		rig_source_at(rig, SOURCE_STOPPING);
		rig->ran_ns = ran_ns[i];
		rig->now_ns += 100;
		rig_vm_done(rig, HF_VM_STOP, 0);
		rig_vm_done(rig, HF_VM_SAVE, 0);
		rig_hear(rig, HF_WIRE_LOADED);
		rig->now_ns += 5;
		rig_hear(rig, HF_WIRE_RESUMED);
		assert_int_equal(rig_source_snapshot(rig).stop_time_ns, still_ns[i]);
		assert_int_equal(rig_source_snapshot(rig).downtime_ns, still_ns[i] + 5);
		rig_destroy(rig);
	}
}

static struct hf_wire_wish sent_wish(const struct rig *rig)
{
	struct hf_wire_wish wish;
	assert_int_equal(
	    hf_wire_decode_wish(rig->sent[HF_WIRE_WISH].payload, rig->sent[HF_WIRE_WISH].bytes, &wish, NULL),
	    0);
	return wish;
}

static void the_operators_wishes_go_ahead_of_advise(void **state)
{
	struct rig *rig = *state;
	rig->source_config.wish_placement = true;
	rig->source_config.placement = HF_PLACEMENT_COPY;
	rig->source_config.hold_background = true;
	rig_source(rig);
	hf_source_hold_background(rig->source, true);
	rig_expect_nothing(rig); /* there is no link yet */
	hf_source_events.link_up(rig->source, &rig->link);
	rig_expect(rig, "send WISH", "send ADVISE");
	assert_int_equal(sent_wish(rig).placement, HF_WIRE_WISH_COPY);
	assert_int_equal(sent_wish(rig).hold_background, 1);
	rig_source_reach(rig, SOURCE_SETUP, SOURCE_RESUMED);
	hf_source_hold_background(rig->source, false);
	rig_expect(rig, "send WISH");
	assert_int_equal(sent_wish(rig).placement, HF_WIRE_WISH_ANY);
	assert_int_equal(sent_wish(rig).hold_background, 0);
}

static void a_large_device_state_travels_in_bounded_frames(void **state)
{
	struct rig *rig = *state;
	size_t bytes = 2 * HF_WIRE_FRAME_MAX_BYTES + 5;
	uint8_t *device = calloc(1, bytes);
	struct hf_vm_result saved = {.op = HF_VM_SAVE, .data = device, .length_bytes = bytes};
	rig_source_at(rig, SOURCE_SAVING);
	hf_source_vm_done(rig->source, &saved);
	free(device);
	assert_int_equal(rig->sent[HF_WIRE_DEVICE].times, 3);
	assert_int_equal(rig->sent[HF_WIRE_DEVICE].bytes, 5);
	struct hf_wire_device_end end;
	assert_int_equal(hf_wire_decode_device_end(rig->sent[HF_WIRE_DEVICE_END].payload,
						   rig->sent[HF_WIRE_DEVICE_END].bytes, &end, NULL),
			 0);
	assert_int_equal(end.total_bytes, bytes);
}

static void presence_of_a_large_block_travels_in_bounded_frames(void **state)
{
	struct rig *rig = *state;
	uint64_t pages = HF_WIRE_PRESENCE_PAGES_MAX + 5;
	assert_int_equal(hf_ramblocks_add(&rig->source_blocks, "wide", pages * 4096, 4096, NULL), 0);
	rig_source_at(rig, SOURCE_DEVICE);
	assert_int_equal(rig->sent[HF_WIRE_PRESENCE].times, 2);
	struct hf_wire_presence presence;
	assert_int_equal(hf_wire_decode_presence(rig->sent[HF_WIRE_PRESENCE].payload,
						 rig->sent[HF_WIRE_PRESENCE].bytes, &presence, NULL),
			 0);
	assert_int_equal(presence.first_page, HF_WIRE_PRESENCE_PAGES_MAX);
	assert_int_equal(presence.pages, 5);
}

/* ---- failing before the hand-over -------------------------------------------------------------- */

enum ending { END_FAIL, END_CANCEL, END_LINK, END_PEER, END_VIOLATION, ENDINGS };
static const char *const ending_names[ENDINGS] = {"fail()", "cancel()", "link lost", "FAIL heard",
						  "violation"};

static int end_migration(struct rig *rig, enum ending ending, struct hf_err *err)
{
	struct hf_err why;
	switch (ending) {
	case END_FAIL:
		hf_err_set(&why, HF_ERR_LOCAL, EIO, "a thread died");
		hf_source_fail(rig->source, &why);
		break;
	case END_CANCEL:
		return hf_source_cancel(rig->source, err);
	case END_LINK:
		rig_link_down(rig);
		break;
	case END_PEER:
		rig_hear(rig, HF_WIRE_FAIL);
		break;
	case END_VIOLATION:
		rig_hear(rig, HF_WIRE_ADVISE);
		break;
	case ENDINGS:
		break;
	}
	return 0;
}

static const enum hf_err_class ending_class[ENDINGS] = {HF_ERR_LOCAL, HF_ERR_CANCELLED, HF_ERR_LINK,
							HF_ERR_LOCAL, HF_ERR_PEER};

/* Whatever still comes must not resume the VM a second time, nor say anything. */
static void check_it_is_over(struct rig *rig)
{
	enum hf_vm_owner owner = rig_source_snapshot(rig).owner;
	for (enum ending ending = 0; ending < ENDINGS; ending++)
		end_migration(rig, ending, NULL);
	for (uint32_t type = 0; type <= RIG_TYPES; type++)
		rig_hear(rig, type);
	rig_expect_nothing(rig);
	assert_int_equal(rig_source_snapshot(rig).owner, owner);
}

static void expect_fail_sent(struct rig *rig, enum rig_source_at at, enum ending ending)
{
	bool said = at != SOURCE_NONE && ending != END_LINK && ending != END_PEER;
	assert_int_equal(rig->sent[HF_WIRE_FAIL].times, said);
	if (said)
		assert_int_equal(rig_sent_fail(rig).class, ending_class[ending]);
}

static void check_ending(struct rig *rig, enum rig_source_at at, enum ending ending, int op_result)
{
	struct hf_err err = HF_ERR_INIT;
	rig_source_at(rig, at);
	assert_int_equal(end_migration(rig, ending, &err), 0);
	struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
	assert_int_equal(snapshot.status, ending == END_CANCEL ? HF_STATUS_CANCELLED : HF_STATUS_FAILED);
	assert_int_equal(snapshot.err.class, ending_class[ending]);
	expect_fail_sent(rig, at, ending);

	bool under_way = at == SOURCE_STOPPING || at == SOURCE_SAVING;
	if (under_way) {
		/* The VMM is never given two operations at once. */
		assert_false(rig_called(rig, "resume"));
		rig_forget(rig);
		rig_vm_done(rig, at == SOURCE_STOPPING ? HF_VM_STOP : HF_VM_SAVE, op_result);
		rig_expect(rig, "resume");
	} else {
		assert_int_equal(rig_called(rig, "resume"), at >= SOURCE_STOPPING);
		rig_forget(rig);
	}
	if (at >= SOURCE_STOPPING) {
		assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_RESUMING);
		rig_vm_done(rig, HF_VM_RESUME, 0);
		rig_expect_nothing(rig);
	}
	assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_SOURCE);
	check_it_is_over(rig);
}

static void a_failure_before_the_hand_over_resumes_the_vm_exactly_once(void **state)
{
	(void)state;
	for (enum rig_source_at at = SOURCE_NONE; at <= SOURCE_DEVICE; at++)
		for (enum ending ending = 0; ending < ENDINGS; ending++)
			for (int op_result = -EIO; op_result <= 0; op_result += EIO) {
				if (at == SOURCE_NONE && ending >= END_LINK)
					continue; /* there is no link yet */
				print_message("%s in state %s\n", ending_names[ending],
					      rig_source_at_name(at));
				struct rig *rig = rig_create();
				check_ending(rig, at, ending, op_result);
				rig_destroy(rig);
			}
}

static void a_failing_operation_fails_the_migration_and_resumes_the_vm(void **state)
{
	(void)state;
	for (enum hf_vm_op op = HF_VM_STOP; op <= HF_VM_SAVE; op++) {
		struct rig *rig = rig_create();
		rig_source_at(rig, op == HF_VM_STOP ? SOURCE_STOPPING : SOURCE_SAVING);
		rig_vm_done(rig, op, -EBUSY);
		rig_expect(rig, "send FAIL", "resume");
		assert_non_null(strstr(rig_sent_fail(rig).text, "the VMM says no"));
		rig_destroy(rig);
	}
}

static void a_vm_that_somebody_else_had_stopped_is_not_run(void **state)
{
	(void)state;
	for (int cancelled_before = 0; cancelled_before < 2; cancelled_before++) {
		struct rig *rig = rig_create();
		rig_source_at(rig, SOURCE_STOPPING);
		if (cancelled_before)
			assert_int_equal(hf_source_cancel(rig->source, NULL), 0);
		rig_forget(rig);
		rig_vm_done(rig, HF_VM_STOP, -EPERM);
		if (cancelled_before)
			rig_expect_nothing(rig);
		else
			rig_expect(rig, "send FAIL");
		assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_SOURCE);
		rig_destroy(rig);
	}
}

static void an_operation_that_cannot_be_asked_for_resumes_the_vm(void **state)
{
	(void)state;
	struct rig *rig = rig_create();
	rig->vm_result[HF_VM_STOP] = -EPIPE;
	rig_source_at(rig, SOURCE_SETUP);
	rig_hear(rig, HF_WIRE_READY);
	rig_expect(rig, "stop", "send FAIL", "resume");
	rig_destroy(rig);

	rig = rig_create();
	rig->vm_result[HF_VM_SAVE] = -EPIPE;
	rig_source_at(rig, SOURCE_STOPPING);
	rig_vm_done(rig, HF_VM_STOP, 0);
	rig_expect(rig, "save", "send FAIL", "resume");
	rig_destroy(rig);
}

static void an_unreadable_presence_map_fails_the_migration(void **state)
{
	struct rig *rig = *state;
	rig->presence_result = -EIO;
	rig_source_at(rig, SOURCE_SAVING);
	rig_vm_done(rig, HF_VM_SAVE, 0);
	rig_expect(rig, "presence rom", "send FAIL", "resume");
	assert_non_null(strstr(rig_sent_fail(rig).text, "no presence"));
}

static void fail_inside_presence(struct rig *rig, const char *call)
{
	if (strcmp(call, "presence rom") == 0)
		end_migration(rig, END_FAIL, NULL);
}

static void a_failure_while_presence_is_read_stops_the_switch_over(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_SAVING);
	rig->inside = fail_inside_presence;
	rig_vm_done(rig, HF_VM_SAVE, 0);
	rig_expect(rig, "presence rom", "send FAIL", "resume", "presence ram");
	rig_vm_done(rig, HF_VM_RESUME, 0);
	check_it_is_over(rig);
}

static void load_inside_presence(struct rig *rig, const char *call)
{
	if (strcmp(call, "send PRESENCE") == 0)
		rig_hear(rig, HF_WIRE_LOADED);
}

static void a_destination_that_claims_to_have_loaded_half_a_state_does_not_get_the_vm(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_SAVING);
	rig->inside = load_inside_presence;
	rig_vm_done(rig, HF_VM_SAVE, 0);
	assert_false(rig_called(rig, "send RUN"));
	assert_true(rig_called(rig, "resume"));
	assert_int_equal(rig_source_snapshot(rig).err.class, HF_ERR_PEER);
}

static void a_vm_that_will_not_resume_is_reported_as_stuck(void **state)
{
	(void)state;
	for (int synchronous = 0; synchronous <= 1; synchronous++) {
		struct rig *rig = rig_create();
		if (synchronous)
			rig->vm_result[HF_VM_RESUME] = -EPIPE;
		rig_source_at(rig, SOURCE_DEVICE);
		rig_link_down(rig);
		rig_expect(rig, "resume");
		if (!synchronous)
			rig_vm_done(rig, HF_VM_RESUME, -EIO);
		struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
		assert_int_equal(snapshot.owner, HF_VM_OWNER_STUCK);
		assert_non_null(strstr(snapshot.err.text, "could NOT be resumed"));
		assert_non_null(strstr(snapshot.err.text, synchronous ? "could not ask" : "the VMM says no"));
		assert_non_null(strstr(snapshot.err.text, "the cable is cut"));
		rig_expect_nothing(rig);
		check_it_is_over(rig);
		rig_destroy(rig);
	}
}

/* ---- after the hand-over ----------------------------------------------------------------------- */

static void after_loaded_nothing_resumes_the_vm(void **state)
{
	(void)state;
	for (enum rig_source_at at = SOURCE_GIVEN_UP; at <= SOURCE_RESUMED; at++)
		for (enum ending ending = 0; ending < ENDINGS; ending++) {
			struct rig *rig = rig_create();
			struct hf_err err = HF_ERR_INIT;
			rig_source_at(rig, at);
			int result = end_migration(rig, ending, &err);
			struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
			assert_int_equal(result, ending == END_CANCEL ? -EPERM : 0);
			/* Trouble of this host is no reason to stop: the pages are served from here. */
			bool goes_on = ending == END_CANCEL || ending == END_FAIL;
			assert_int_equal(snapshot.status,
					 goes_on ? HF_STATUS_POSTCOPY_ACTIVE : HF_STATUS_POSTCOPY_PAUSED);
			assert_int_equal(snapshot.err.class, goes_on ? HF_ERR_NONE : ending_class[ending]);
			if (ending == END_CANCEL)
				assert_non_null(strstr(err.text, "too late"));
			check_it_is_over(rig);
			assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_DESTINATION);
			rig_destroy(rig);
		}
}

static void the_vm_is_given_up_even_if_run_cannot_be_sent(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_DEVICE);
	rig->send_result = -ENOTCONN;
	rig_hear(rig, HF_WIRE_LOADED);
	rig_expect(rig, "send RUN");
	rig_link_down(rig);
	rig_expect_nothing(rig);
	assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_DESTINATION);
}

static void a_migration_that_has_ended_cannot_be_cancelled(void **state)
{
	struct rig *rig = *state;
	struct hf_err err = HF_ERR_INIT;
	rig_source_at(rig, SOURCE_COMPLETED);
	assert_int_equal(hf_source_cancel(rig->source, &err), -EPERM);
	assert_non_null(strstr(err.text, "completed"));
	rig_link_down(rig);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_COMPLETED);
	rig_expect_nothing(rig);
}

/* ---- messages that are not expected ------------------------------------------------------------ */

static bool is_expected(enum rig_source_at at, uint32_t type)
{
	static const uint32_t next[SOURCE_COUNT] = {
	    [SOURCE_SETUP] = HF_WIRE_READY,
	    [SOURCE_DEVICE] = HF_WIRE_LOADED,
	    [SOURCE_GIVEN_UP] = HF_WIRE_RESUMED,
	    [SOURCE_RESUMED] = HF_WIRE_COMPLETE,
	};
	return type == HF_WIRE_FAIL || (next[at] != 0 && type == next[at]);
}

static void check_unexpected(struct rig *rig, enum rig_source_at at, uint32_t type)
{
	rig_source_at(rig, at);
	enum hf_status before = rig_source_snapshot(rig).status;
	rig_hear(rig, type);
	struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
	if (at == SOURCE_COMPLETED) {
		assert_int_equal(snapshot.status, before);
		rig_expect_nothing(rig);
		return;
	}
	assert_int_equal(snapshot.err.class, HF_ERR_PEER);
	assert_non_null(strstr(snapshot.err.text, hf_wire_type_name(type)));
	if (at >= SOURCE_GIVEN_UP) {
		assert_int_equal(snapshot.status, HF_STATUS_POSTCOPY_PAUSED);
		rig_expect_nothing(rig);
	} else if (at == SOURCE_DEVICE) {
		assert_int_equal(snapshot.status, HF_STATUS_FAILED);
		rig_expect(rig, "send FAIL", "resume");
	} else {
		assert_int_equal(snapshot.status, HF_STATUS_FAILED);
		rig_expect(rig, "send FAIL");
	}
}

static void every_message_in_every_state_where_it_is_not_expected_is_a_violation(void **state)
{
	(void)state;
	for (enum rig_source_at at = SOURCE_SETUP; at < SOURCE_COUNT; at++)
		for (uint32_t type = 0; type <= RIG_TYPES; type++) {
			if (is_expected(at, type))
				continue;
			print_message("%s in state %s\n", hf_wire_type_name(type), rig_source_at_name(at));
			struct rig *rig = rig_create();
			check_unexpected(rig, at, type);
			rig_destroy(rig);
		}
}

static void malformed_payloads_are_violations(void **state)
{
	(void)state;
	static const struct {
		uint32_t type;
		size_t bytes;
		uint8_t payload[16];
	} cases[] = {
	    {HF_WIRE_READY, 0, {0}},
	    {HF_WIRE_READY, 7, {0, 0, 0, 1, 0, 0, 0x10}},
	    {HF_WIRE_READY, 9, {0, 0, 0, 1, 0, 0, 0x10, 0, 0}},
	    {HF_WIRE_READY, 8, {0, 0, 0, 2, 0, 0, 0x10, 0}}, /* no such placement */
	    {HF_WIRE_READY, 8, {0, 0, 0, 1, 0, 0, 0x10, 1}}, /* no power of two */
	    {HF_WIRE_READY, 8, {0, 0, 0, 1, 0, 0, 0x08, 0}}, /* too small */
	    {HF_WIRE_READY, 8, {0, 0, 0, 1, 0x08, 0, 0, 0}}, /* too large */
	    {HF_WIRE_FAIL, 0, {0}},
	    {HF_WIRE_FAIL, 12, {0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 0}}, /* no such class */
	    {HF_WIRE_FAIL, 12, {0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0}}, /* no errno */
	    {HF_WIRE_FAIL, 12, {0, 0, 0, 3, 0, 0, 0, 5, 0, 0, 0, 1}}, /* text is not there */
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig *rig = rig_create();
		rig_source_at(rig, SOURCE_SETUP);
		rig_hear_bytes(rig, cases[i].type, cases[i].payload, cases[i].bytes);
		rig_expect(rig, "send FAIL");
		assert_int_equal(rig_sent_fail(rig).class, HF_ERR_PEER);
		assert_non_null(strstr(rig_sent_fail(rig).text, "VM 'here'"));
		assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_FAILED);
		rig_destroy(rig);
	}
}

static void events_of_another_epoch_are_dropped(void **state)
{
	struct rig *rig = *state;
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LINK, ECONNRESET, "an older link");
	rig_source_at(rig, SOURCE_DEVICE);
	hf_source_events.message(rig->source, RIG_EPOCH + 1, HF_WIRE_LOADED, NULL, 0);
	hf_source_events.message(rig->source, RIG_EPOCH + 1, HF_WIRE_ADVISE, NULL, 0);
	hf_source_events.link_down(rig->source, RIG_EPOCH + 1, &why);
	rig_expect_nothing(rig);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_DEVICE);
}

static void the_peers_reason_is_passed_on_and_not_sent_back(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_SETUP);
	rig_hear(rig, HF_WIRE_FAIL);
	rig_expect_nothing(rig);
	struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
	assert_string_equal(snapshot.err.text, "the destination says: my disk is on fire");
	assert_int_equal(snapshot.err.errnum, 5);
	assert_true(rig->notified > 0);
}

static void a_vm_without_memory_is_refused(void **state)
{
	struct rig *rig = *state;
	struct hf_ramblocks none;
	struct hf_err err = HF_ERR_INIT;
	hf_ramblocks_init(&none);
	rig->source_config.blocks = &none;
	assert_int_equal(hf_source_create(&rig->source, &rig->source_config, &err), -EINVAL);
	assert_null(rig->source);
	assert_non_null(strstr(err.text, "here"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(operations_and_messages_come_in_this_order),
	    RIG_TEST(a_hand_over_within_one_tick_of_the_clock_completes),
	    RIG_TEST(the_downtime_begins_when_the_vm_may_stand_still),
	    RIG_TEST(the_operators_wishes_go_ahead_of_advise),
	    RIG_TEST(a_large_device_state_travels_in_bounded_frames),
	    RIG_TEST(presence_of_a_large_block_travels_in_bounded_frames),
	    RIG_TEST(a_failure_before_the_hand_over_resumes_the_vm_exactly_once),
	    RIG_TEST(a_failing_operation_fails_the_migration_and_resumes_the_vm),
	    RIG_TEST(a_vm_that_somebody_else_had_stopped_is_not_run),
	    RIG_TEST(an_operation_that_cannot_be_asked_for_resumes_the_vm),
	    RIG_TEST(an_unreadable_presence_map_fails_the_migration),
	    RIG_TEST(a_failure_while_presence_is_read_stops_the_switch_over),
	    RIG_TEST(a_destination_that_claims_to_have_loaded_half_a_state_does_not_get_the_vm),
	    RIG_TEST(a_vm_that_will_not_resume_is_reported_as_stuck),
	    RIG_TEST(after_loaded_nothing_resumes_the_vm),
	    RIG_TEST(the_vm_is_given_up_even_if_run_cannot_be_sent),
	    RIG_TEST(a_migration_that_has_ended_cannot_be_cancelled),
	    RIG_TEST(every_message_in_every_state_where_it_is_not_expected_is_a_violation),
	    RIG_TEST(malformed_payloads_are_violations),
	    RIG_TEST(events_of_another_epoch_are_dropped),
	    RIG_TEST(the_peers_reason_is_passed_on_and_not_sent_back),
	    RIG_TEST(a_vm_without_memory_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
