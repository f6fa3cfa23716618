/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hand-over on record, and a session that goes on: over a later link, in a process started again. With
 * `slow` the rig shows the fence and the records, and each ends when the test says so.
 */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <string.h>

static void use_recover(struct rig *rig)
{
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	rig->slow = true;
}

static void source_up_to(struct rig *rig, enum rig_source_at at)
{
	use_recover(rig);
	rig_source(rig);
	rig_source_reach(rig, SOURCE_NONE, at);
}

/* LOADED heard, the VMM is being frozen. */
static void source_fencing(struct rig *rig)
{
	source_up_to(rig, SOURCE_DEVICE);
	rig_hear(rig, HF_WIRE_LOADED);
	rig_forget(rig);
}

static void source_recording(struct rig *rig)
{
	source_fencing(rig);
	rig_vm_done(rig, HF_VM_FENCE, 0);
	rig_forget(rig);
}

static void source_given_up(struct rig *rig)
{
	source_recording(rig);
	rig_recorded(rig, HF_RECORD_GIVEN_UP, 0);
	rig_forget(rig);
}

static void destination_up_to(struct rig *rig, enum rig_at at)
{
	use_recover(rig);
	rig_destination(rig);
	rig_reach(rig, AT_NONE, at);
}

static void destination_loaded(struct rig *rig)
{
	destination_up_to(rig, AT_LISTEN);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	rig_recorded(rig, HF_RECORD_LOADED, 0);
	rig_forget(rig);
}

static void destination_starting(struct rig *rig)
{
	destination_loaded(rig);
	rig_hear(rig, HF_WIRE_RUN);
	rig_recorded(rig, HF_RECORD_RUNNING, 0);
	rig_forget(rig);
}

static void destination_running(struct rig *rig)
{
	destination_starting(rig);
	rig_vm_done(rig, HF_VM_RUN, 0);
	rig_forget(rig);
}

static void vmm_ends(struct rig *rig)
{
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LOCAL, ESRCH, "the VMM has ended");
	hf_destination_vm_ended(rig->destination, &why);
}

/* A later link on which the source says where it is. */
static void relink(struct rig *rig, uint64_t epoch)
{
	rig_link_again(rig, epoch);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_forget(rig);
}

static void expect_handover(struct rig *rig, enum hf_handover_destination handover)
{
	assert_string_equal(hf_handover_destination_name(rig_snapshot(rig).handover),
			    hf_handover_destination_name(handover));
}

static void expect_source_handover(struct rig *rig, enum hf_handover_source handover)
{
	assert_string_equal(hf_handover_source_name(rig_source_snapshot(rig).handover),
			    hf_handover_source_name(handover));
}

/* ---- source: giving up ------------------------------------------------------------------------- */

static void the_vm_is_frozen_then_recorded_as_given_up_then_run_is_said(void **state)
{
	struct rig *rig = *state;
	source_up_to(rig, SOURCE_DEVICE);
	rig_hear(rig, HF_WIRE_LOADED);
	rig_expect(rig, "fence");
	rig_vm_done(rig, HF_VM_FENCE, 0);
	rig_expect(rig, "record given-up");
	assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_SOURCE);
	rig_recorded(rig, HF_RECORD_GIVEN_UP, 0);
	rig_expect(rig, "send RUN");
	assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_DESTINATION);
}

static void a_vm_that_somebody_has_revived_stays_with_the_source(void **state)
{
	struct rig *rig = *state;
	source_fencing(rig);
	rig_vm_done(rig, HF_VM_FENCE, -EPERM);
	rig_expect(rig, "send FAIL", "resume");
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_FAILED);
	assert_true(rig_source_snapshot(rig).destination_in_doubt);
}

static void a_link_lost_while_the_vmm_is_frozen_resumes_it_when_that_has_ended(void **state)
{
	struct rig *rig = *state;
	source_fencing(rig);
	rig_link_down(rig);
	rig_expect_nothing(rig);
	rig_vm_done(rig, HF_VM_FENCE, 0);
	rig_expect(rig, "resume");
	assert_true(rig_source_snapshot(rig).destination_in_doubt);
}

static void a_link_lost_while_given_up_is_written_changes_nothing(void **state)
{
	struct rig *rig = *state;
	source_recording(rig);
	rig_link_down(rig);
	rig_expect_nothing(rig);
	rig_recorded(rig, HF_RECORD_GIVEN_UP, 0);
	rig_expect_nothing(rig);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_DESTINATION);
	rig_link_again(rig, 2);
	rig_expect(rig, "send ADVISE", "send RUN");
}

static void a_later_link_makes_up_for_one_that_was_lost_while_given_up_was_written(void **state)
{
	struct rig *rig = *state;
	source_recording(rig);
	rig_link_down(rig);
	rig_link_again(rig, 2);
	rig_expect(rig, "send ADVISE");
	rig_recorded(rig, HF_RECORD_GIVEN_UP, 0);
	rig_expect(rig, "send RUN");
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_ACTIVE);
}

static void neither_cancel_nor_pause_touches_a_vm_whose_record_is_being_written(void **state)
{
	struct rig *rig = *state;
	struct hf_err err;
	source_recording(rig);
	assert_int_equal(hf_source_cancel(rig->source, &err), -EPERM);
	assert_int_equal(hf_source_pause(rig->source, &err), -EPERM);
	rig_expect_nothing(rig);
}

/* GIVEN_UP may be on disk all the same. */
static void after_a_failed_write_the_vm_is_resumed_when_taken_back_is_on_record(void **state)
{
	struct rig *rig = *state;
	source_recording(rig);
	rig_recorded(rig, HF_RECORD_GIVEN_UP, -ENOSPC);
	rig_expect(rig, "record taken-back");
	rig_recorded(rig, HF_RECORD_TAKEN_BACK, 0);
	rig_expect(rig, "send FAIL", "resume");
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_FAILED);
}

static void a_vm_whose_record_nobody_knows_stands_still_until_a_link_comes(void **state)
{
	struct rig *rig = *state;
	source_recording(rig);
	rig_recorded(rig, HF_RECORD_GIVEN_UP, -ENOSPC);
	rig_recorded(rig, HF_RECORD_TAKEN_BACK, -ENOSPC);
	rig_expect(rig, "record taken-back");
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	rig_link_down(rig);
	rig_link_again(rig, 2);
	rig_expect(rig, "send ADVISE", "record taken-back");
}

/* ---- source: later links ----------------------------------------------------------------------- */

static void run_is_said_on_each_link_until_resumed_and_after_it(void **state)
{
	struct rig *rig = *state;
	source_given_up(rig);
	for (uint64_t epoch = 2; epoch < 5; epoch++) {
		rig_link_down(rig);
		rig_expect_nothing(rig);
		rig_link_again(rig, epoch);
		rig_expect(rig, "send ADVISE", "send RUN");
		assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_RECOVER);
		if (epoch > 2)
			rig_hear(rig, HF_WIRE_RESUMED);
	}
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_ACTIVE);
}

static void a_link_without_the_feature_or_of_an_older_epoch_is_none(void **state)
{
	struct rig *rig = *state;
	source_given_up(rig);
	rig_link_down(rig);
	rig_link_again(rig, 1);
	rig_expect_nothing(rig);
	rig->link.epoch = 2;
	rig->link.features = 0;
	hf_source_events.link_up(rig->source, &rig->link);
	rig_expect_nothing(rig);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
}

static void fail_is_said_on_each_link_until_it_is_answered(void **state)
{
	struct rig *rig = *state;
	source_fencing(rig);
	rig_vm_done(rig, HF_VM_FENCE, -EPERM);
	rig_forget(rig);
	for (uint64_t epoch = 2; epoch < 4; epoch++) {
		rig_link_down(rig);
		assert_true(rig_source_snapshot(rig).destination_in_doubt);
		rig_link_again(rig, epoch);
		rig_expect(rig, "send ADVISE", "send FAIL");
	}
	rig_hear(rig, HF_WIRE_FAIL);
	assert_false(rig_source_snapshot(rig).destination_in_doubt);
	rig_expect_nothing(rig);
}

static void a_destination_that_has_failed_by_itself_is_not_in_doubt(void **state)
{
	struct rig *rig = *state;
	source_up_to(rig, SOURCE_DEVICE);
	rig_hear(rig, HF_WIRE_FAIL);
	rig_expect(rig, "resume");
	assert_false(rig_source_snapshot(rig).destination_in_doubt);
}

static void complete_ends_the_migration_over_a_later_link_after_resumed(void **state)
{
	struct rig *rig = *state;
	source_given_up(rig);
	rig_hear(rig, HF_WIRE_RESUMED);
	rig_link_down(rig);
	rig_link_again(rig, 2);
	rig_forget(rig);
	rig_hear(rig, HF_WIRE_RESUMED);
	rig_hear(rig, HF_WIRE_COMPLETE);
	rig_expect(rig, "send FINISH");
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void complete_ahead_of_resumed_on_a_later_link_is_a_violation(void **state)
{
	struct rig *rig = *state;
	source_given_up(rig);
	rig_hear(rig, HF_WIRE_RESUMED);
	rig_link_down(rig);
	rig_link_again(rig, 2);
	rig_hear(rig, HF_WIRE_COMPLETE);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_int_equal(rig_source_snapshot(rig).err.class, HF_ERR_PEER);
}

static void whether_the_background_is_held_is_said_on_each_link(void **state)
{
	struct rig *rig = *state;
	rig->source_config.hold_background = true;
	source_given_up(rig);
	rig_link_down(rig);
	hf_source_hold_background(rig->source, false);
	rig_link_again(rig, 2);
	rig_expect(rig, "send WISH", "send ADVISE", "send RUN");
	struct hf_wire_wish wish;
	hf_wire_decode_wish(rig->sent[HF_WIRE_WISH].payload, rig->sent[HF_WIRE_WISH].bytes, &wish, NULL);
	assert_false(wish.hold_background);
}

/* ---- source: handed back ----------------------------------------------------------------------- */

static void a_vm_that_was_refused_is_resumed_when_that_is_on_record(void **state)
{
	struct rig *rig = *state;
	source_given_up(rig);
	rig_hear(rig, HF_WIRE_REFUSED);
	rig_expect(rig, "record taken-back");
	rig_hear(rig, HF_WIRE_REFUSED);
	rig_expect_nothing(rig);
	rig_recorded(rig, HF_RECORD_TAKEN_BACK, 0);
	rig_expect(rig, "send FAIL", "resume");
	rig_vm_done(rig, HF_VM_RESUME, 0);
	assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_SOURCE);
	assert_non_null(strstr(rig_source_snapshot(rig).err.text, "handed it back"));
}

static void a_vm_that_runs_at_the_destination_cannot_be_handed_back(void **state)
{
	struct rig *rig = *state;
	source_given_up(rig);
	rig_hear(rig, HF_WIRE_RESUMED);
	rig_hear(rig, HF_WIRE_REFUSED);
	rig_expect_nothing(rig);
	expect_source_handover(rig, HF_SOURCE_GONE);
}

/* ---- source: operators, and a process started again -------------------------------------------- */

static void a_pause_waits_for_a_link_that_somebody_may_look_for(void **state)
{
	struct rig *rig = *state;
	struct hf_err err;
	source_given_up(rig);
	hf_source_recover_setup(rig->source, true);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_ACTIVE);
	assert_int_equal(hf_source_pause(rig->source, &err), 0);
	rig_link_down(rig);
	hf_source_recover_setup(rig->source, true);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_RECOVER_SETUP);
	hf_source_recover_setup(rig->source, false);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	hf_source_recover_setup(rig->source, true);
	rig_link_again(rig, 2);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_RECOVER);
}

static void a_source_started_again_goes_on_from_its_record(void **state)
{
	static const struct {
		enum hf_record record;
		enum hf_vm_owner owner;
		const char *says;
	} cases[] = {
	    {HF_RECORD_NONE, HF_VM_OWNER_SOURCE, "send FAIL"},
	    {HF_RECORD_GIVEN_UP, HF_VM_OWNER_DESTINATION, "send RUN"},
	    {HF_RECORD_TAKEN_BACK, HF_VM_OWNER_SOURCE, "send FAIL"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig *rig = rig_create();
		use_recover(rig);
		rig->source_config.restarted = true;
		rig->source_config.record = cases[i].record;
		rig_source(rig);
		rig_forget(rig);
		assert_int_equal(rig_source_snapshot(rig).owner, cases[i].owner);
		rig_link_again(rig, 7);
		rig_expect(rig, "send WISH", "send ADVISE", cases[i].says);
		rig_destroy(rig);
	}
}

static void a_source_started_again_serves_and_may_get_its_vm_back(void **state)
{
	struct rig *rig = *state;
	use_recover(rig);
	rig->source_config.restarted = true;
	rig->source_config.record = HF_RECORD_GIVEN_UP;
	rig_source(rig);
	rig_link_again(rig, 2);
	struct hf_serve_request request = {.epoch = 2, .length_bytes = RIG_CHUNK};
	struct hf_serve_reply reply;
	assert_int_equal(hf_source_events.serve(rig->source, &request, &reply, NULL), 0);
	rig_forget(rig);
	rig_hear(rig, HF_WIRE_REFUSED);
	rig_recorded(rig, HF_RECORD_TAKEN_BACK, 0);
	rig_expect(rig, "record taken-back", "send FAIL", "resume");
	assert_true(rig_source_snapshot(rig).destination_in_doubt);
}

/* ---- destination: taking ----------------------------------------------------------------------- */

static void loaded_is_recorded_then_said_and_running_recorded_then_run(void **state)
{
	struct rig *rig = *state;
	destination_up_to(rig, AT_LISTEN);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	rig_expect(rig, "record loaded");
	rig_recorded(rig, HF_RECORD_LOADED, 0);
	rig_expect(rig, "send LOADED");
	rig_hear(rig, HF_WIRE_RUN);
	rig_expect(rig, "record running");
	rig_recorded(rig, HF_RECORD_RUNNING, 0);
	rig_expect(rig, "run");
	rig_vm_done(rig, HF_VM_RUN, 0);
	assert_true(rig_called(rig, "send RESUMED"));
}

static void a_link_lost_before_loaded_is_on_record_fails_and_says_nothing(void **state)
{
	struct rig *rig = *state;
	destination_up_to(rig, AT_LISTEN);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	rig_link_down(rig);
	rig_forget(rig);
	rig_recorded(rig, HF_RECORD_LOADED, 0);
	rig_expect_nothing(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
}

static void loaded_that_cannot_be_recorded_fails(void **state)
{
	struct rig *rig = *state;
	destination_up_to(rig, AT_LISTEN);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	rig_forget(rig);
	rig_recorded(rig, HF_RECORD_LOADED, -ENOSPC);
	rig_expect(rig, "send FAIL");
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
}

static void fail_ends_the_doubt_over_a_later_link_and_is_answered(void **state)
{
	struct rig *rig = *state;
	destination_loaded(rig);
	rig_link_down(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	relink(rig, 2);
	rig_hear(rig, HF_WIRE_FAIL);
	rig_expect(rig, "send FAIL");
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
}

/* ---- destination: handing back ----------------------------------------------------------------- */

static void a_vm_that_will_not_run_is_ended_recorded_and_refused(void **state)
{
	struct rig *rig = *state;
	destination_starting(rig);
	rig_vm_done(rig, HF_VM_RUN, -EIO);
	rig_expect(rig, "kill");
	rig_vm_done(rig, HF_VM_KILL, 0);
	rig_expect(rig, "record refused");
	rig_recorded(rig, HF_RECORD_REFUSED, 0);
	rig_expect(rig, "send REFUSED");
	rig_hear(rig, HF_WIRE_FAIL);
	rig_expect(rig, "send FAIL");
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
}

static void a_vm_that_may_have_run_is_lost_not_refused(void **state)
{
	struct rig *rig = *state;
	destination_starting(rig);
	rig_vm_done(rig, HF_VM_RUN, -EOWNERDEAD);
	rig_expect_nothing(rig);
	expect_handover(rig, HF_DESTINATION_LOST);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
}

static void a_vm_that_ran_and_whose_vmm_has_ended_meanwhile_is_lost(void **state)
{
	struct rig *rig = *state;
	destination_starting(rig);
	vmm_ends(rig);
	rig_vm_done(rig, HF_VM_RUN, 0);
	expect_handover(rig, HF_DESTINATION_LOST);
	assert_non_null(strstr(rig_snapshot(rig).err.text, "the VMM has ended"));
}

static void a_vmm_that_cannot_be_ended_makes_the_vm_lost(void **state)
{
	struct rig *rig = *state;
	destination_starting(rig);
	rig_vm_done(rig, HF_VM_RUN, -EIO);
	rig_vm_done(rig, HF_VM_KILL, -EIO);
	expect_handover(rig, HF_DESTINATION_LOST);
}

static void running_that_cannot_be_recorded_is_handed_back(void **state)
{
	struct rig *rig = *state;
	destination_loaded(rig);
	rig_hear(rig, HF_WIRE_RUN);
	rig_forget(rig);
	rig_recorded(rig, HF_RECORD_RUNNING, -ENOSPC);
	rig_expect(rig, "kill");
}

static void a_vmm_that_ends_after_loaded_is_refused_when_run_asks(void **state)
{
	struct rig *rig = *state;
	destination_loaded(rig);
	vmm_ends(rig);
	rig_expect(rig, "record refused");
	rig_recorded(rig, HF_RECORD_REFUSED, 0);
	rig_expect_nothing(rig);
	rig_hear(rig, HF_WIRE_RUN);
	rig_expect(rig, "send REFUSED");
	for (uint64_t epoch = 2; epoch < 4; epoch++) {
		rig_link_down(rig);
		relink(rig, epoch);
		rig_hear(rig, HF_WIRE_RUN);
		rig_expect(rig, "send REFUSED");
	}
}

static void no_page_is_asked_for_after_the_vmm_has_ended(void **state)
{
	struct rig *rig = *state;
	destination_running(rig);
	rig_link_down(rig);
	vmm_ends(rig);
	expect_handover(rig, HF_DESTINATION_LOST);
	relink(rig, 2);
	rig_hear(rig, HF_WIRE_RUN);
	rig_fault(rig, RIG_RAM, 3);
	rig_expect_nothing(rig);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_IDLE);
}

static void without_the_feature_nothing_is_handed_back(void **state)
{
	struct rig *rig = *state;
	rig->slow = true;
	rig_destination(rig);
	rig_reach(rig, AT_NONE, AT_LISTEN);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	rig_recorded(rig, HF_RECORD_LOADED, 0);
	rig_forget(rig);
	vmm_ends(rig);
	rig_expect_nothing(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_false(rig_snapshot(rig).recoverable);
}

/* ---- destination: later links ------------------------------------------------------------------ */

static void on_a_later_link_pages_are_asked_for_after_run(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.background_held = true;
	destination_running(rig);
	rig_fault(rig, RIG_ROM, 2);
	rig_expect(rig, "fetch urgent rom 2.0");
	rig_link_down(rig);
	rig_forget(rig);
	rig_fault(rig, RIG_ROM, 1);
	rig_link_again(rig, 2);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_expect_nothing(rig);
	rig_hear(rig, HF_WIRE_RUN);
	rig_expect(rig, "send RESUMED", "kick background", "fetch urgent rom 2.0", "fetch urgent rom 1.0");
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_ACTIVE);
}

static void run_ahead_of_advise_or_twice_is_a_violation(void **state)
{
	struct rig *rig = *state;
	destination_running(rig);
	rig_link_down(rig);
	rig_link_again(rig, 2);
	rig_hear(rig, HF_WIRE_RUN);
	assert_int_equal(rig_snapshot(rig).err.class, HF_ERR_PEER);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	rig_link_down(rig);
	relink(rig, 3);
	rig_hear(rig, HF_WIRE_RUN);
	rig_hear(rig, HF_WIRE_RUN);
	assert_int_equal(rig_snapshot(rig).err.class, HF_ERR_PEER);
}

static void run_while_the_vm_starts_is_answered_once_when_it_runs(void **state)
{
	struct rig *rig = *state;
	destination_starting(rig);
	rig_link_down(rig);
	relink(rig, 2);
	rig_hear(rig, HF_WIRE_RUN);
	assert_false(rig_called(rig, "send RESUMED"));
	rig_vm_done(rig, HF_VM_RUN, 0);
	assert_int_equal(rig->sent[HF_WIRE_RESUMED].times, 1);
}

static void a_vm_that_runs_before_run_is_heard_on_the_link_is_said_in_answer(void **state)
{
	struct rig *rig = *state;
	destination_starting(rig);
	rig_link_down(rig);
	relink(rig, 2);
	rig_vm_done(rig, HF_VM_RUN, 0);
	assert_int_equal(rig->sent[HF_WIRE_RESUMED].times, 0);
	rig_hear(rig, HF_WIRE_RUN);
	assert_int_equal(rig->sent[HF_WIRE_RESUMED].times, 1);
}

static void complete_is_said_again_after_resumed_on_each_later_link(void **state)
{
	struct rig *rig = *state;
	destination_running(rig);
	rig_reach(rig, AT_RUNNING, AT_COMPLETE);
	assert_true(rig_snapshot(rig).pages_complete);
	for (uint64_t epoch = 2; epoch < 4; epoch++) {
		rig_link_down(rig);
		assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
		relink(rig, epoch);
		rig_hear(rig, HF_WIRE_RUN);
		rig_expect(rig, "send RESUMED", "kick background", "send COMPLETE");
	}
	rig_hear(rig, HF_WIRE_FINISH);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void a_source_that_will_not_come_back_is_let_go_with_every_page(void **state)
{
	struct rig *rig = *state;
	destination_running(rig);
	rig_link_down(rig);
	hf_destination_let_go(rig->destination);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	relink(rig, 2);
	rig_hear(rig, HF_WIRE_RUN);
	rig_reach(rig, AT_RUNNING, AT_COMPLETE);
	rig_link_down(rig);
	hf_destination_let_go(rig->destination);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void a_link_without_the_feature_does_not_go_on(void **state)
{
	struct rig *rig = *state;
	destination_running(rig);
	rig_link_down(rig);
	rig->link.epoch = 2;
	rig->link.features = 0;
	hf_destination_events.link_up(rig->destination, &rig->link);
	rig_hear(rig, HF_WIRE_ADVISE);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
}

static void a_pause_of_the_destination_waits_for_a_link(void **state)
{
	struct rig *rig = *state;
	struct hf_err err;
	destination_up_to(rig, AT_ACTIVE);
	assert_int_equal(hf_destination_pause(rig->destination, &err), -EPERM);
	rig_reach(rig, AT_ACTIVE, AT_LISTEN);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	rig_recorded(rig, HF_RECORD_LOADED, 0);
	assert_int_equal(hf_destination_pause(rig->destination, &err), 0);
	rig_link_down(rig);
	hf_destination_recover_setup(rig->destination, true);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_RECOVER_SETUP);
	rig_link_again(rig, 2);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_RECOVER);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(the_vm_is_frozen_then_recorded_as_given_up_then_run_is_said),
	    RIG_TEST(a_vm_that_somebody_has_revived_stays_with_the_source),
	    RIG_TEST(a_link_lost_while_the_vmm_is_frozen_resumes_it_when_that_has_ended),
	    RIG_TEST(a_link_lost_while_given_up_is_written_changes_nothing),
	    RIG_TEST(a_later_link_makes_up_for_one_that_was_lost_while_given_up_was_written),
	    RIG_TEST(neither_cancel_nor_pause_touches_a_vm_whose_record_is_being_written),
	    RIG_TEST(after_a_failed_write_the_vm_is_resumed_when_taken_back_is_on_record),
	    RIG_TEST(a_vm_whose_record_nobody_knows_stands_still_until_a_link_comes),
	    RIG_TEST(run_is_said_on_each_link_until_resumed_and_after_it),
	    RIG_TEST(a_link_without_the_feature_or_of_an_older_epoch_is_none),
	    RIG_TEST(fail_is_said_on_each_link_until_it_is_answered),
	    RIG_TEST(a_destination_that_has_failed_by_itself_is_not_in_doubt),
	    RIG_TEST(complete_ends_the_migration_over_a_later_link_after_resumed),
	    RIG_TEST(complete_ahead_of_resumed_on_a_later_link_is_a_violation),
	    RIG_TEST(whether_the_background_is_held_is_said_on_each_link),
	    RIG_TEST(a_vm_that_was_refused_is_resumed_when_that_is_on_record),
	    RIG_TEST(a_vm_that_runs_at_the_destination_cannot_be_handed_back),
	    RIG_TEST(a_pause_waits_for_a_link_that_somebody_may_look_for),
	    RIG_TEST(a_source_started_again_goes_on_from_its_record),
	    RIG_TEST(a_source_started_again_serves_and_may_get_its_vm_back),
	    RIG_TEST(loaded_is_recorded_then_said_and_running_recorded_then_run),
	    RIG_TEST(a_link_lost_before_loaded_is_on_record_fails_and_says_nothing),
	    RIG_TEST(loaded_that_cannot_be_recorded_fails),
	    RIG_TEST(fail_ends_the_doubt_over_a_later_link_and_is_answered),
	    RIG_TEST(a_vm_that_will_not_run_is_ended_recorded_and_refused),
	    RIG_TEST(a_vm_that_may_have_run_is_lost_not_refused),
	    RIG_TEST(a_vm_that_ran_and_whose_vmm_has_ended_meanwhile_is_lost),
	    RIG_TEST(a_vmm_that_cannot_be_ended_makes_the_vm_lost),
	    RIG_TEST(running_that_cannot_be_recorded_is_handed_back),
	    RIG_TEST(a_vmm_that_ends_after_loaded_is_refused_when_run_asks),
	    RIG_TEST(no_page_is_asked_for_after_the_vmm_has_ended),
	    RIG_TEST(without_the_feature_nothing_is_handed_back),
	    RIG_TEST(on_a_later_link_pages_are_asked_for_after_run),
	    RIG_TEST(run_ahead_of_advise_or_twice_is_a_violation),
	    RIG_TEST(run_while_the_vm_starts_is_answered_once_when_it_runs),
	    RIG_TEST(a_vm_that_runs_before_run_is_heard_on_the_link_is_said_in_answer),
	    RIG_TEST(complete_is_said_again_after_resumed_on_each_later_link),
	    RIG_TEST(a_source_that_will_not_come_back_is_let_go_with_every_page),
	    RIG_TEST(a_link_without_the_feature_does_not_go_on),
	    RIG_TEST(a_pause_of_the_destination_waits_for_a_link),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
