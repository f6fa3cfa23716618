/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a migration on the destination. */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <string.h>

#include "core/schedule.h"

static bool may_have_been_given_up(enum rig_at at)
{
	return at >= AT_LOADED;
}

/* ---- the way it should go ---------------------------------------------------------------------- */

static void operations_and_messages_come_in_this_order(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0x01;
	rig->rom_present = 0x00;
	rig_destination(rig);
	hf_destination_events.link_up(rig->destination, &rig->link);
	rig_expect_nothing(rig);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_expect(rig, "prepare");
	hf_destination_memory_ready(rig->destination, 0, NULL);
	rig_expect(rig, "send READY");
	rig_reach(rig, AT_ACTIVE, AT_PRESENCE);
	rig_reach(rig, AT_PRESENCE, AT_DEVICE_DATA);
	rig_hear(rig, HF_WIRE_DEVICE_END);
	rig_expect(rig, "load", "kick urgent");
	rig_vm_done(rig, HF_VM_LOAD, 0);
	rig_expect(rig, "send LOADED");
	rig_hear(rig, HF_WIRE_RUN);
	rig_expect(rig, "run");
	rig_vm_done(rig, HF_VM_RUN, 0);
	rig_expect(rig, "send RESUMED", "kick background", "fetch background ram 0.0",
		   "fetch background ram 0.1");
	rig_work_all(rig);
	rig_forget(rig);
	rig_land_all(rig);
	rig_expect(rig, "fetch background ram 0.2", "fetch background ram 0.3", "place ram 0", "release",
		   "send COMPLETE");
	rig_hear(rig, HF_WIRE_FINISH);
	rig_expect_nothing(rig);

	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.status, HF_STATUS_COMPLETED);
	assert_int_equal(snapshot.incoming, HF_INCOMING_END);
	assert_string_equal(snapshot.source_vm_name, "here");
	assert_int_equal(snapshot.pages_received, snapshot.pages_total);
	assert_int_equal(snapshot.pages_fetched, 1);
	assert_int_equal(snapshot.pages_zero, RIG_RAM_PAGES - 1 + RIG_ROM_PAGES);
	assert_int_equal(snapshot.transferred_bytes, RIG_RAM_PAGE);
	assert_int_equal(snapshot.downtime_ns, 77);
	assert_true(rig->notified > 0);
}

static void ready_says_placement_and_chunk_size(void **state)
{
	struct rig *rig = *state;
	struct hf_wire_ready ready;
	rig_destination_at(rig, AT_ACTIVE);
	assert_int_equal(hf_wire_decode_ready(rig->sent[HF_WIRE_READY].payload,
					      rig->sent[HF_WIRE_READY].bytes, &ready, NULL),
			 0);
	assert_int_equal(ready.placement, HF_PLACEMENT_CONTINUE);
	assert_int_equal(ready.chunk_bytes, RIG_CHUNK);
}

/* ---- refusing ---------------------------------------------------------------------------------- */

static void check_blocks_refused(const char *idstr, uint64_t length, uint64_t page_size, const char *one,
				 const char *other)
{
	struct rig *rig = rig_create();
	assert_int_equal(hf_ramblocks_add(&rig->source_blocks, "rom", 16384, 4096, NULL), 0);
	if (idstr)
		assert_int_equal(hf_ramblocks_add(&rig->source_blocks, idstr, length, page_size, NULL), 0);
	rig_destination_at(rig, AT_SETUP);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_expect(rig, "send FAIL");
	struct hf_err why = rig_sent_fail(rig);
	print_message("%s\n", why.text);
	assert_non_null(strstr(why.text, "there"));
	assert_non_null(strstr(why.text, idstr ? idstr : "ram"));
	assert_non_null(strstr(why.text, one));
	assert_non_null(strstr(why.text, other));
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
	rig_destroy(rig);
}

static void blocks_that_differ_are_refused_before_anything_is_prepared(void **state)
{
	(void)state;
	check_blocks_refused("ram", RIG_RAM_PAGES * RIG_RAM_PAGE, 4096, "4 KiB on the source",
			     "16 KiB on the destination");
	check_blocks_refused("ram", 2 * RIG_RAM_PAGES * RIG_RAM_PAGE, RIG_RAM_PAGE, "256 KiB on the source",
			     "128 KiB on the destination");
	check_blocks_refused("vga", 16384, 4096, "exists on the source", "not on the destination");
	check_blocks_refused(NULL, 0, 0, "exists on the destination", "not on the source");
}

static void memory_that_cannot_be_prepared_is_refused_with_the_reason(void **state)
{
	struct rig *rig = *state;
	struct hf_err err;
	hf_err_set(&err, HF_ERR_LOCAL, ENOMEM, "3 huge pages are missing");
	rig_destination_at(rig, AT_ADVISE);
	hf_destination_memory_ready(rig->destination, -ENOMEM, &err);
	rig_expect(rig, "send FAIL");
	assert_non_null(strstr(rig_sent_fail(rig).text, "3 huge pages are missing"));
	assert_int_equal(rig_sent_fail(rig).errnum, ENOMEM);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
	hf_destination_memory_ready(rig->destination, 0, NULL);
	rig_expect_nothing(rig);
}

static void memory_that_cannot_start_to_be_prepared_is_refused(void **state)
{
	struct rig *rig = *state;
	rig->prepare_result = -EAGAIN;
	rig_destination_at(rig, AT_SETUP);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_expect(rig, "prepare", "send FAIL");
	assert_int_equal(rig_sent_fail(rig).errnum, EAGAIN);
}

static void a_wished_placement_is_chosen_before_memory_is_prepared(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_SETUP);
	rig_hear(rig, HF_WIRE_WISH);
	rig_expect_nothing(rig);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_expect(rig, "choose copy", "prepare");
	assert_int_equal(rig_snapshot(rig).placement, HF_PLACEMENT_COPY);
	/* And the background is held, as wished, until it is told otherwise. */
	rig_reach(rig, AT_ADVISE, AT_RUNNING);
	assert_int_equal(rig->fetches_count, 0);
	struct hf_wire_wish go_on = {.placement = HF_WIRE_WISH_ANY, .hold_background = 0};
	uint8_t buffer[8];
	assert_int_equal(hf_wire_encode_wish(&go_on, buffer, sizeof(buffer)), sizeof(buffer));
	rig_hear_bytes(rig, HF_WIRE_WISH, buffer, sizeof(buffer));
	assert_int_equal(rig->fetches_count, 2);
}

static void a_wish_that_cannot_be_met_is_refused_with_the_reason(void **state)
{
	struct rig *rig = *state;
	rig->choose_result = -ENOTSUP;
	rig_destination_at(rig, AT_SETUP);
	rig_hear(rig, HF_WIRE_WISH);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_expect(rig, "choose copy", "send FAIL");
	assert_non_null(strstr(rig_sent_fail(rig).text, "not that placement"));
}

static void impossible_configurations_are_refused(void **state)
{
	(void)state;
	static const uint32_t chunks[] = {1, 2048, 4097, 12288, HF_WIRE_CHUNK_MAX_BYTES * 2, UINT32_MAX};
	struct rig *rig = rig_create();
	rig_source(rig); /* makes the blocks */
	rig->destination_config.blocks = &rig->destination_blocks;
	struct hf_err err = HF_ERR_INIT;
	for (size_t i = 0; i < sizeof(chunks) / sizeof(chunks[0]); i++) {
		rig->destination_config.chunk_bytes = chunks[i];
		assert_int_equal(hf_destination_create(&rig->destination, &rig->destination_config, &err),
				 -EINVAL);
	}
	rig->destination_config.chunk_bytes = 0;
	rig->destination_config.background_share_percent = HF_SCHEDULE_SHARE_MAX_PERCENT + 1;
	assert_int_equal(hf_destination_create(&rig->destination, &rig->destination_config, &err), -EINVAL);
	struct hf_ramblocks none;
	hf_ramblocks_init(&none);
	rig->destination_config.background_share_percent = HF_SCHEDULE_SHARE_MAX_PERCENT;
	rig->destination_config.blocks = &none;
	assert_int_equal(hf_destination_create(&rig->destination, &rig->destination_config, &err), -EINVAL);
	assert_null(rig->destination);
	rig_destroy(rig);
}

/* ---- the end ----------------------------------------------------------------------------------- */

static void fetch_all_by_faults(struct rig *rig)
{
	for (uint64_t page = 0; page < RIG_RAM_PAGES; page++)
		rig_fault(rig, RIG_RAM, page);
	for (uint64_t page = 0; page < RIG_ROM_PAGES; page++)
		rig_fault(rig, RIG_ROM, page);
	rig_land_all(rig);
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.pages_received, snapshot.pages_total);
}

static void complete_is_not_said_before_resumed_and_only_after_release(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_LISTEN);
	fetch_all_by_faults(rig);
	assert_false(rig_called(rig, "release"));
	rig_reach(rig, AT_LISTEN, AT_RUN);
	rig_vm_done(rig, HF_VM_RUN, 0);
	rig_expect(rig, "send RESUMED", "kick background", "release", "send COMPLETE");
}

static void land_all_inside_resumed(struct rig *rig, const char *call)
{
	if (strcmp(call, "send RESUMED") != 0)
		return;
	fetch_all_by_faults(rig);
	assert_false(rig_called(rig, "release")); /* RESUMED has not left */
	rig_forget(rig);
}

static void the_last_page_may_land_while_resumed_is_being_said(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.background_held = true;
	rig_destination_at(rig, AT_RUN);
	rig->inside = land_all_inside_resumed;
	rig_vm_done(rig, HF_VM_RUN, 0);
	rig_expect(rig, "kick background", "release", "send COMPLETE");
}

static void without_release_complete_is_never_said(void **state)
{
	struct rig *rig = *state;
	rig->release_result = -EIO;
	rig->destination_config.background_held = true;
	rig_destination_at(rig, AT_RUNNING);
	fetch_all_by_faults(rig);
	assert_true(rig_called(rig, "release"));
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 0);
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.status, HF_STATUS_POSTCOPY_PAUSED);
	assert_non_null(strstr(snapshot.err.text, "not released"));
	/* Faults are still raised: they must be served. */
	rig_forget(rig);
	rig_fault(rig, RIG_ROM, 0);
	rig_work_all(rig);
	assert_true(rig_called(rig, "place_again rom 0"));
}

static void cut_inside_release(struct rig *rig, const char *call)
{
	if (strcmp(call, "release") == 0)
		rig_link_down(rig);
}

static void a_link_lost_while_ranges_are_released_completes(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.background_held = true;
	rig_destination_at(rig, AT_RUNNING);
	rig->inside = cut_inside_release;
	fetch_all_by_faults(rig);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 0);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
}

static void fault_inside_release(struct rig *rig, const char *call)
{
	if (strcmp(call, "release") != 0)
		return;
	rig_fault(rig, RIG_ROM, 0);
	rig_work_all(rig);
}

static void faults_inside_release_are_left_to_it(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.background_held = true;
	rig_destination_at(rig, AT_RUNNING);
	rig->inside = fault_inside_release;
	fetch_all_by_faults(rig);
	assert_false(rig_called(rig, "place_again rom 0"));
	uint32_t releases = 0;
	for (uint32_t i = 0; i < rig->calls_made; i++)
		releases += strcmp(rig->calls[i], "release") == 0;
	assert_int_equal(releases, 1);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
}

static void fault_inside_place(struct rig *rig, const char *call)
{
	if (strcmp(call, "place ram 1") != 0)
		return;
	rig_fault(rig, RIG_ROM, 0);
	rig->seen = 1 + rig->fetches_count;
}

static void a_landing_is_not_used_again_before_its_page_is_placed(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.background_held = true;
	rig->destination_config.memory.placement = HF_PLACEMENT_COPY;
	rig->destination_config.memory.slots = 1;
	rig_destination_at(rig, AT_RUNNING);
	rig->inside = fault_inside_place;
	rig_fault(rig, RIG_RAM, 1);
	rig_land_all(rig);
	assert_int_equal(rig->seen, 1); /* the page that faulted meanwhile was not fetched yet */
	assert_true(rig_called(rig, "fetch urgent rom 0.0"));
	assert_int_equal(rig_snapshot(rig).pages_received, 2);
}

static void a_malformed_finish_completes_without_figures(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_COMPLETE);
	rig_hear_bytes(rig, HF_WIRE_FINISH, "short", 5);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
	assert_int_equal(rig_snapshot(rig).downtime_ns, 0);
	rig_expect_nothing(rig);
}

/* ---- a lost link ------------------------------------------------------------------------------- */

static void a_lost_link_fails_before_loaded_pauses_after_it_and_completes_after_complete(void **state)
{
	(void)state;
	for (enum rig_at at = AT_SETUP; at < AT_COUNT; at++) {
		struct rig *rig = rig_create();
		rig_destination_at(rig, at);
		rig_link_down(rig);
		struct hf_destination_snapshot snapshot = rig_snapshot(rig);
		rig_expect_nothing(rig);
		if (at >= AT_COMPLETE) {
			assert_int_equal(snapshot.status, HF_STATUS_COMPLETED);
		} else if (may_have_been_given_up(at)) {
			assert_int_equal(snapshot.status, HF_STATUS_POSTCOPY_PAUSED);
			assert_int_equal(snapshot.err.class, HF_ERR_LINK);
		} else {
			assert_int_equal(snapshot.status, HF_STATUS_FAILED);
			assert_int_equal(snapshot.incoming, HF_INCOMING_END);
			assert_int_equal(snapshot.err.class, HF_ERR_LINK);
			assert_string_equal(snapshot.err.text, "the cable is cut");
		}
		rig_destroy(rig);
	}
}

static void a_paused_vm_still_runs_and_keeps_its_faults(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_RUN);
	rig_link_down(rig);
	rig_vm_done(rig, HF_VM_RUN, 0);
	rig_expect(rig, "kick background");
	rig_fault(rig, RIG_RAM, 1);
	rig_expect_nothing(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_true(rig_snapshot(rig).blocktime.faults_vcpu == 1);
}

static void a_link_closed_without_a_reason_gets_one(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_ACTIVE);
	hf_destination_events.link_down(rig->destination, RIG_EPOCH, NULL);
	assert_int_equal(rig_snapshot(rig).err.class, HF_ERR_LINK);
	assert_non_null(strstr(rig_snapshot(rig).err.text, "'there'"));
}

/* ---- cancelling and failing -------------------------------------------------------------------- */

static void cancel_works_until_loaded_is_said_and_is_refused_after(void **state)
{
	(void)state;
	for (enum rig_at at = AT_NONE; at < AT_COUNT; at++) {
		struct rig *rig = rig_create();
		struct hf_err err = HF_ERR_INIT;
		rig_destination_at(rig, at);
		enum hf_status before = rig_snapshot(rig).status;
		int result = hf_destination_cancel(rig->destination, &err);
		struct hf_destination_snapshot snapshot = rig_snapshot(rig);
		if (may_have_been_given_up(at)) {
			assert_int_equal(result, -EPERM);
			assert_true(err.text[0] != '\0');
			assert_int_equal(snapshot.status, before);
			rig_expect_nothing(rig);
		} else {
			assert_int_equal(result, 0);
			assert_int_equal(err.class, HF_ERR_NONE);
			assert_int_equal(snapshot.status, HF_STATUS_CANCELLED);
			if (at == AT_NONE) {
				rig_expect_nothing(rig);
			} else {
				rig_expect(rig, "send FAIL");
				assert_int_equal(rig_sent_fail(rig).class, HF_ERR_CANCELLED);
			}
			assert_int_equal(hf_destination_cancel(rig->destination, &err), -EPERM);
		}
		rig_destroy(rig);
	}
}

static void a_cancelled_migration_neither_loads_nor_runs_nor_fetches(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_LISTEN);
	rig_fault(rig, RIG_RAM, 0);
	assert_int_equal(hf_destination_cancel(rig->destination, NULL), 0);
	rig_forget(rig);
	rig_vm_done(rig, HF_VM_LOAD, 0);
	for (uint32_t type = 0; type <= RIG_TYPES; type++)
		rig_hear(rig, type);
	rig_fault(rig, RIG_RAM, 1);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_IDLE);
	rig_expect_nothing(rig);
}

static void the_source_saying_fail_ends_it_before_run_and_pauses_it_after(void **state)
{
	(void)state;
	for (enum rig_at at = AT_SETUP; at < AT_COMPLETE; at++) {
		struct rig *rig = rig_create();
		rig_destination_at(rig, at);
		rig_hear(rig, HF_WIRE_FAIL);
		struct hf_destination_snapshot snapshot = rig_snapshot(rig);
		assert_string_equal(snapshot.err.text, "the source says: my disk is on fire");
		/* LOADED alone has given nothing up: the source says that it keeps the VM. */
		assert_int_equal(snapshot.status,
				 at >= AT_RUN ? HF_STATUS_POSTCOPY_PAUSED : HF_STATUS_FAILED);
		rig_expect_nothing(rig);
		rig_destroy(rig);
	}
}

static void a_local_failure_fails_before_loaded_pauses_after_it_and_completes_after_complete(void **state)
{
	(void)state;
	for (enum rig_at at = AT_NONE; at < AT_COUNT; at++) {
		struct rig *rig = rig_create();
		struct hf_err why;
		hf_err_set(&why, HF_ERR_LOCAL, EIO, "a thread died");
		rig_destination_at(rig, at);
		hf_destination_fail(rig->destination, &why);
		enum hf_status after = rig_snapshot(rig).status;
		if (at >= AT_COMPLETE)
			assert_int_equal(after, HF_STATUS_COMPLETED);
		else
			assert_int_equal(after, may_have_been_given_up(at) ? HF_STATUS_POSTCOPY_PAUSED
									   : HF_STATUS_FAILED);
		assert_int_equal(rig->sent[HF_WIRE_FAIL].times, at > AT_NONE && at < AT_LOADED);
		rig_destroy(rig);
	}
}

static void a_vm_that_will_not_load_fails_and_one_that_will_not_run_pauses(void **state)
{
	(void)state;
	for (int synchronous = 0; synchronous <= 1; synchronous++) {
		struct rig *rig = rig_create();
		if (synchronous)
			rig->vm_result[HF_VM_LOAD] = -EPIPE;
		rig_destination_at(rig, AT_DEVICE_DATA);
		rig_hear(rig, HF_WIRE_DEVICE_END);
		if (!synchronous)
			rig_vm_done(rig, HF_VM_LOAD, -EIO);
		assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
		assert_int_equal(rig->sent[HF_WIRE_FAIL].times, 1);
		assert_int_equal(rig->sent[HF_WIRE_LOADED].times, 0);
		rig_destroy(rig);

		rig = rig_create();
		if (synchronous)
			rig->vm_result[HF_VM_RUN] = -EPIPE;
		rig_destination_at(rig, AT_RUN);
		if (!synchronous)
			rig_vm_done(rig, HF_VM_RUN, -EIO);
		assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
		assert_int_equal(rig->sent[HF_WIRE_FAIL].times, 0);
		assert_int_equal(rig->sent[HF_WIRE_RESUMED].times, 0);
		rig_destroy(rig);
	}
}

static void a_second_link_is_a_failure(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_ACTIVE);
	hf_destination_events.link_up(rig->destination, &rig->link);
	rig_expect(rig, "send FAIL");
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_FAILED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(operations_and_messages_come_in_this_order),
	    RIG_TEST(ready_says_placement_and_chunk_size),
	    RIG_TEST(blocks_that_differ_are_refused_before_anything_is_prepared),
	    RIG_TEST(memory_that_cannot_be_prepared_is_refused_with_the_reason),
	    RIG_TEST(memory_that_cannot_start_to_be_prepared_is_refused),
	    RIG_TEST(a_wished_placement_is_chosen_before_memory_is_prepared),
	    RIG_TEST(a_wish_that_cannot_be_met_is_refused_with_the_reason),
	    RIG_TEST(impossible_configurations_are_refused),
	    RIG_TEST(complete_is_not_said_before_resumed_and_only_after_release),
	    RIG_TEST(the_last_page_may_land_while_resumed_is_being_said),
	    RIG_TEST(without_release_complete_is_never_said),
	    RIG_TEST(a_link_lost_while_ranges_are_released_completes),
	    RIG_TEST(faults_inside_release_are_left_to_it),
	    RIG_TEST(a_landing_is_not_used_again_before_its_page_is_placed),
	    RIG_TEST(a_malformed_finish_completes_without_figures),
	    RIG_TEST(a_lost_link_fails_before_loaded_pauses_after_it_and_completes_after_complete),
	    RIG_TEST(a_paused_vm_still_runs_and_keeps_its_faults),
	    RIG_TEST(a_link_closed_without_a_reason_gets_one),
	    RIG_TEST(cancel_works_until_loaded_is_said_and_is_refused_after),
	    RIG_TEST(a_cancelled_migration_neither_loads_nor_runs_nor_fetches),
	    RIG_TEST(the_source_saying_fail_ends_it_before_run_and_pauses_it_after),
	    RIG_TEST(a_local_failure_fails_before_loaded_pauses_after_it_and_completes_after_complete),
	    RIG_TEST(a_vm_that_will_not_load_fails_and_one_that_will_not_run_pauses),
	    RIG_TEST(a_second_link_is_a_failure),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
