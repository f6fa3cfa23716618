/* SPDX-License-Identifier: Apache-2.0 */
/* A destination in a process that was started again: it goes on from its record and its kept maps. */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <string.h>

static void use_recover(struct rig *rig)
{
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	rig->slow = true;
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

static uint8_t kept_received[2], kept_present[2];

/* pages: of ram and then rom, a bit each. */
static void destination_again(struct rig *rig, enum hf_record record, bool vmm_lives, uint16_t received)
{
	use_recover(rig);
	kept_received[0] = (uint8_t)received;
	kept_received[1] = (uint8_t)(received >> 8);
	kept_present[0] = 0xff;
	kept_present[1] = 0x0f;
	rig->destination_config.kept_received = kept_received;
	rig->destination_config.kept_present = kept_present;
	rig->destination_config.restarted = true;
	rig->destination_config.record = record;
	rig->destination_config.vmm_lives = vmm_lives;
	rig->destination_config.background_held = true;
	rig_destination(rig);
	hf_destination_restart(rig->destination);
}

static void a_destination_started_again_goes_on_from_its_record(void **state)
{
	static const struct {
		enum hf_record record;
		bool vmm_lives;
		enum hf_handover_destination handover;
		const char *does;
	} cases[] = {
	    {HF_RECORD_LOADED, true, HF_DESTINATION_LOADED, "prepare"},
	    {HF_RECORD_LOADED, false, HF_DESTINATION_RECORDING_REFUSED, "record refused"},
	    {HF_RECORD_RUNNING, true, HF_DESTINATION_STARTING_AGAIN, "prepare"},
	    {HF_RECORD_RUNNING, false, HF_DESTINATION_LOST, NULL},
	    {HF_RECORD_REFUSED, false, HF_DESTINATION_REFUSED, NULL},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rig *rig = rig_create();
		destination_again(rig, cases[i].record, cases[i].vmm_lives, 0);
		rig_expect(rig, cases[i].does);
		expect_handover(rig, cases[i].handover);
		assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
		rig_destroy(rig);
	}
}

static void a_vm_is_told_to_run_again_when_its_memory_is_taken_over(void **state)
{
	struct rig *rig = *state;
	destination_again(rig, HF_RECORD_RUNNING, true, 0x0ffe);
	rig_forget(rig);
	hf_destination_memory_ready(rig->destination, 0, NULL);
	rig_expect(rig, "run", "kick urgent");
	relink(rig, 5);
	rig_hear(rig, HF_WIRE_RUN);
	rig_forget(rig);
	rig_vm_done(rig, HF_VM_RUN, 0);
	rig_expect(rig, "send RESUMED", "kick background");
}

static void what_was_received_is_placed_again_and_the_rest_is_fetched(void **state)
{
	struct rig *rig = *state;
	destination_again(rig, HF_RECORD_RUNNING, true, 0x0ffe);
	assert_int_equal(rig_snapshot(rig).pages_received, 11);
	rig_fault(rig, RIG_ROM, 0);
	rig_fault(rig, RIG_RAM, 0);
	rig_forget(rig);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_IDLE);
	hf_destination_memory_ready(rig->destination, 0, NULL);
	rig_forget(rig);
	rig_work_all(rig);
	rig_expect(rig, "place_again rom 0");
	relink(rig, 5);
	rig_hear(rig, HF_WIRE_RUN);
	assert_true(rig_called(rig, "fetch urgent ram 0.0"));
	assert_false(rig_called(rig, "fetch urgent rom 0.0"));
}

static void run_heard_during_a_take_over_waits_for_it(void **state)
{
	struct rig *rig = *state;
	destination_again(rig, HF_RECORD_LOADED, true, 0);
	rig_fault(rig, RIG_ROM, 1);
	relink(rig, 2);
	rig_hear(rig, HF_WIRE_RUN);
	rig_expect_nothing(rig);
	hf_destination_memory_ready(rig->destination, 0, NULL);
	rig_expect(rig, "record running", "kick urgent", "fetch urgent rom 1.0");
}

static void a_take_over_that_fails_runs_nothing(void **state)
{
	struct rig *rig = *state;
	destination_again(rig, HF_RECORD_LOADED, true, 0);
	relink(rig, 2);
	rig_hear(rig, HF_WIRE_RUN);
	hf_destination_memory_ready(rig->destination, -ENOMEM, NULL);
	rig_expect_nothing(rig);
	assert_true(rig_snapshot(rig).takeover_failed);
	expect_handover(rig, HF_DESTINATION_LOADED);
}

static void with_every_page_the_ranges_are_let_go_before_the_vm_is_run(void **state)
{
	struct rig *rig = *state;
	destination_again(rig, HF_RECORD_RUNNING, true, 0x0fff);
	rig_expect(rig, "release", "run");
	assert_false(rig_snapshot(rig).pages_complete);
	rig_vm_done(rig, HF_VM_RUN, 0);
	assert_true(rig_snapshot(rig).pages_complete);
	rig_forget(rig);
	relink(rig, 2);
	rig_hear(rig, HF_WIRE_RUN);
	rig_expect(rig, "send RESUMED", "kick background", "send COMPLETE");
}

static void a_vm_refused_by_the_next_process_is_lost_and_not_complete(void **state)
{
	struct rig *rig = *state;
	destination_again(rig, HF_RECORD_RUNNING, true, 0x0fff);
	rig_vm_done(rig, HF_VM_RUN, -EIO);
	hf_destination_let_go(rig->destination);
	expect_handover(rig, HF_DESTINATION_LOST);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	relink(rig, 2);
	rig_hear(rig, HF_WIRE_FAIL);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(a_destination_started_again_goes_on_from_its_record),
	    RIG_TEST(a_vm_is_told_to_run_again_when_its_memory_is_taken_over),
	    RIG_TEST(what_was_received_is_placed_again_and_the_rest_is_fetched),
	    RIG_TEST(run_heard_during_a_take_over_waits_for_it),
	    RIG_TEST(a_take_over_that_fails_runs_nothing),
	    RIG_TEST(with_every_page_the_ranges_are_let_go_before_the_vm_is_run),
	    RIG_TEST(a_vm_refused_by_the_next_process_is_lost_and_not_complete),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
