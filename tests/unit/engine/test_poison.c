/* SPDX-License-Identifier: Apache-2.0 */
/* A source that is gone for good: which pages are poisoned, which are not, and when it is refused. */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <string.h>

#include "core/destination_internal.h"

#define MISSING_2   (0xffu & ~(1u << 2)) /* ram page 2 does not exist on the source */
#define PAGES	    (RIG_RAM_PAGES + RIG_ROM_PAGES)
#define KEPT_BYTES  64
#define ONLY_RAM_01 0x3u

static uint32_t times_called(const struct rig *rig, const char *call)
{
	uint32_t times = 0;
	for (uint32_t i = 0; i < rig->calls_made; i++)
		times += strncmp(rig->calls[i], call, strlen(call)) == 0;
	return times;
}

static bool received(const struct rig *rig, uint32_t block, uint32_t page)
{
	return hf_pagemap_test(&rig->destination->received,
			       rig->destination_blocks.blocks[block].first_page + page);
}

static int poison(struct rig *rig, const char *why)
{
	struct hf_err err = HF_ERR_INIT;
	int result = hf_destination_poison_missing(rig->destination, &err);
	if (result && !strstr(err.text, why))
		fail_msg("'%s' is not in '%s'", why, err.text);
	return result;
}

/* Paused: only faults have been served. */
static void paused(struct rig *rig)
{
	rig->destination_config.background_held = true;
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	rig_destination_at(rig, AT_RUNNING);
}

static void assert_ended(struct rig *rig, uint32_t poisoned)
{
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.status, HF_STATUS_COMPLETED);
	assert_int_equal(snapshot.incoming, HF_INCOMING_END);
	assert_int_equal(snapshot.pages_poisoned, poisoned);
	assert_int_equal(snapshot.pages_received, PAGES - poisoned);
	assert_false(snapshot.pages_complete);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 0);
}

/* ---- which pages ------------------------------------------------------------------------------- */

static void what_is_missing_is_poisoned_once_and_holes_are_zeros(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = MISSING_2;
	paused(rig);
	rig_fault(rig, RIG_ROM, 1);
	rig_land_all(rig);
	rig_fault(rig, RIG_ROM, 3); /* on its way when the link is cut */
	rig_link_down(rig);
	rig_fault(rig, RIG_RAM, 5); /* and this comes later */
	rig_forget(rig);

	assert_int_equal(poison(rig, ""), 0);
	rig_expect(rig, "kick urgent", "kick background");
	assert_true(rig_snapshot(rig).poisoning);
	rig_work_all(rig);
	assert_int_equal(times_called(rig, "poison "), PAGES - 2);
	assert_int_equal(times_called(rig, "poison rom 3"), 1);
	assert_int_equal(times_called(rig, "poison ram 5"), 1);
	assert_false(rig_called(rig, "poison ram 2"));
	assert_false(rig_called(rig, "poison rom 1"));
	assert_true(rig_called(rig, "place_zero ram 2"));
	assert_int_equal(times_called(rig, "release"), 1);
	assert_ended(rig, PAGES - 2);
	assert_true(received(rig, RIG_RAM, 2));
	assert_false(received(rig, RIG_RAM, 5));
	assert_true(hf_destination_page_poisoned(rig->destination, RIG_RAM, 5));
	assert_false(hf_destination_page_poisoned(rig->destination, RIG_RAM, 2));
	const char *text = rig_snapshot(rig).err.text;
	assert_non_null(strstr(text, "10 of 12 pages"));
	assert_non_null(strstr(text, "7 of block 'ram', 3 of block 'rom'"));
	assert_int_equal(rig_snapshot(rig).err.errnum, EHWPOISON);
}

/* The link took two chunks of the page, then none any more, then was lost. */
static void a_page_with_part_of_its_bytes_is_poisoned(void **state)
{
	struct rig *rig = *state;
	rig->link.capacity_chunks[HF_FETCH_URGENT] = 2;
	paused(rig);
	rig_fault(rig, RIG_RAM, 4);
	rig->fetch_result = -EAGAIN;
	rig->fetch_failures = UINT32_MAX;
	rig_landed(rig, "ram 4.0");
	rig_landed(rig, "ram 4.1");
	rig_link_down(rig);
	rig_forget(rig);
	uint32_t page = rig->destination_blocks.blocks[RIG_RAM].first_page + 4;
	assert_int_equal(rig->destination->pages[page].state, PAGE_FETCHING);
	assert_int_equal(poison(rig, ""), 0);
	rig_work_all(rig);
	assert_int_equal(times_called(rig, "poison ram 4"), 1);
	assert_int_equal(rig->destination->schedule.urgent_pages, 0);
	assert_int_equal(rig->destination->transfers_of[HF_FETCH_URGENT], 0);
	assert_ended(rig, PAGES);
}

static void a_whole_page_that_waits_for_a_huge_page_is_placed(void **state)
{
	struct rig *rig = *state;
	paused(rig);
	rig->place_result = -EAGAIN;
	rig_fault(rig, RIG_RAM, 4);
	rig_land_all(rig);
	rig_link_down(rig);
	assert_int_equal(poison(rig, ""), 0);
	rig_work_all(rig);
	assert_int_equal(rig_snapshot(rig).pages_poisoned, PAGES - 1);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED); /* not without that page */
	assert_false(rig_called(rig, "release"));
	rig->place_result = 0;
	rig_work_all(rig);
	assert_false(rig_called(rig, "poison ram 4"));
	assert_ended(rig, PAGES - 1);
}

static void a_page_that_the_vmm_has_is_not_lost(void **state)
{
	struct rig *rig = *state;
	paused(rig);
	rig_link_down(rig);
	assert_int_equal(poison(rig, ""), 0);
	rig->poison_result = -EEXIST;
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_MORE);
	rig->poison_result = 0;
	assert_true(received(rig, RIG_RAM, 0));
	rig_work_all(rig);
	assert_ended(rig, PAGES - 1);
}

static void a_page_that_cannot_be_poisoned_now_is_tried_again(void **state)
{
	struct rig *rig = *state;
	paused(rig);
	rig_link_down(rig);
	assert_int_equal(poison(rig, ""), 0);
	rig->poison_result = -EIO;
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_LATER);
	assert_int_equal(rig_snapshot(rig).pages_poisoned, 0);
	rig->poison_result = 0;
	rig_work_all(rig);
	assert_ended(rig, PAGES);
}

/* ---- faults ------------------------------------------------------------------------------------ */

static void fault_inside(struct rig *rig, const char *call)
{
	if (strcmp(call, "poison ram 1") != 0 || rig->seen++ > 0)
		return;
	rig_fault(rig, RIG_RAM, 1);
}

static void a_fault_while_its_page_is_being_poisoned_is_woken(void **state)
{
	struct rig *rig = *state;
	paused(rig);
	rig_link_down(rig);
	rig_forget(rig);
	rig->inside = fault_inside;
	assert_int_equal(poison(rig, ""), 0);
	rig_work_all(rig);
	assert_int_equal(times_called(rig, "poison ram 1"), 2);
	assert_ended(rig, PAGES);
}

static void a_fault_on_a_poisoned_page_is_woken_and_counts_once(void **state)
{
	struct rig *rig = *state;
	paused(rig);
	rig_link_down(rig);
	assert_int_equal(poison(rig, ""), 0);
	hf_destination_work(rig->destination, HF_WORK_BACKGROUND);
	rig_expect(rig, "kick urgent", "kick background", "poison ram 0");
	rig_fault(rig, RIG_RAM, 0);
	rig_expect(rig, "kick urgent");
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_MORE);
	rig_expect(rig, "poison ram 0");
	assert_int_equal(rig_snapshot(rig).pages_poisoned, 1);
	rig_fault(rig, RIG_ROM, 3); /* not poisoned yet */
	rig_work_all(rig);
	assert_int_equal(times_called(rig, "poison rom 3"), 1);
	assert_ended(rig, PAGES);
}

/* ---- refusals ---------------------------------------------------------------------------------- */

static void it_is_refused_before_the_vm_is_this_sides(void **state)
{
	for (enum rig_at at = AT_SETUP; at < AT_RUNNING; at++) {
		struct rig *rig = rig_create();
		rig_destination_at(rig, at);
		if (at >= AT_LOADED)
			rig_link_down(rig);
		assert_int_equal(poison(rig, "the source may still have it"), -EPERM);
		assert_false(rig_snapshot(rig).poisoning);
		rig_destroy(rig);
	}
	(void)state;
}

static void it_is_refused_while_a_link_is_up_and_after_the_end(void **state)
{
	struct rig *rig = *state;
	paused(rig);
	assert_int_equal(poison(rig, "the source is connected"), -EPERM);
	/* The peer broke a rule: paused, but its link is there still. */
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LOCAL, EIO, "a thread died");
	hf_destination_fail(rig->destination, &why);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_int_equal(poison(rig, "the source is connected"), -EPERM);
	rig_link_down(rig);
	rig->may_poison_result = -EOPNOTSUPP;
	assert_int_equal(poison(rig, "no poison"), -EOPNOTSUPP);
	rig_work_all(rig);
	assert_int_equal(rig_snapshot(rig).pages_poisoned, 0);
	rig->may_poison_result = 0;
	assert_int_equal(poison(rig, ""), 0);
	rig_work_all(rig);
	assert_int_equal(poison(rig, "ended already"), -EPERM);
}

static void it_is_refused_when_no_page_is_missing(void **state)
{
	struct rig *rig = *state;
	rig->link.features |= HF_WIRE_FEATURE_RECOVER;
	rig_destination_at(rig, AT_COMPLETE);
	rig_link_down(rig);
	assert_int_equal(poison(rig, "none is missing"), -EPERM);
}

static void nothing_but_the_operator_begins_it(void **state)
{
	struct rig *rig = *state;
	paused(rig);
	rig_link_down(rig);
	rig_work_all(rig);
	hf_destination_let_go(rig->destination);
	hf_destination_hold_background(rig->destination, false);
	rig_work_all(rig);
	assert_int_equal(times_called(rig, "poison "), 0);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
}

static void a_link_that_comes_meanwhile_is_refused_and_it_cannot_be_cancelled(void **state)
{
	struct rig *rig = *state;
	paused(rig);
	rig_link_down(rig);
	assert_int_equal(poison(rig, ""), 0);
	hf_destination_work(rig->destination, HF_WORK_BACKGROUND);
	assert_int_equal(hf_destination_cancel(rig->destination, NULL), -EPERM);
	hf_destination_recover_setup(rig->destination, true);
	rig_link_again(rig, RIG_EPOCH + 1);
	assert_int_equal(rig->destination->epoch, 0);
	rig_hear(rig, HF_WIRE_ADVISE);
	rig_hear(rig, HF_WIRE_RUN);
	rig_work_all(rig);
	assert_int_equal(times_called(rig, "fetch"), 0);
	assert_int_equal(times_called(rig, "send"), 0);
	assert_ended(rig, PAGES);
	rig_link_again(rig, RIG_EPOCH + 2);
	assert_int_equal(rig->destination->epoch, 0);
}

static void a_release_that_fails_is_tried_when_it_is_said_again(void **state)
{
	struct rig *rig = *state;
	paused(rig);
	rig_link_down(rig);
	rig->release_result = -EIO;
	assert_int_equal(poison(rig, ""), 0);
	rig_work_all(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	rig->release_result = 0;
	assert_int_equal(poison(rig, ""), 0);
	assert_ended(rig, PAGES);
}

/* ---- a process that was started again ---------------------------------------------------------- */

static void a_new_process_goes_on_poisoning_by_the_received_bits(void **state)
{
	struct rig *rig = *state;
	static uint8_t kept_received[KEPT_BYTES], kept_present[KEPT_BYTES];
	memset(kept_received, 0, sizeof(kept_received));
	memset(kept_present, 0xff, 1); /* the first block, ram; rom is holes */
	kept_received[0] = ONLY_RAM_01;
	rig->destination_config.kept_received = kept_received;
	rig->destination_config.kept_present = kept_present;
	rig->destination_config.restarted = rig->destination_config.vmm_lives = true;
	rig->destination_config.record = HF_RECORD_RUNNING;
	rig_destination(rig);
	hf_destination_restart(rig->destination);
	assert_int_equal(poison(rig, "the source may still have it"), -EPERM);
	hf_destination_memory_ready(rig->destination, 0, NULL);
	rig_vm_done(rig, HF_VM_RUN, 0);
	rig_forget(rig);
	assert_int_equal(poison(rig, ""), 0);
	rig_work_all(rig);
	assert_int_equal(times_called(rig, "poison ram"), RIG_RAM_PAGES - 2);
	assert_int_equal(times_called(rig, "place_zero rom"), RIG_ROM_PAGES);
	assert_ended(rig, RIG_RAM_PAGES - 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(what_is_missing_is_poisoned_once_and_holes_are_zeros),
	    RIG_TEST(a_page_with_part_of_its_bytes_is_poisoned),
	    RIG_TEST(a_whole_page_that_waits_for_a_huge_page_is_placed),
	    RIG_TEST(a_page_that_the_vmm_has_is_not_lost),
	    RIG_TEST(a_page_that_cannot_be_poisoned_now_is_tried_again),
	    RIG_TEST(a_fault_while_its_page_is_being_poisoned_is_woken),
	    RIG_TEST(a_fault_on_a_poisoned_page_is_woken_and_counts_once),
	    RIG_TEST(it_is_refused_before_the_vm_is_this_sides),
	    RIG_TEST(it_is_refused_while_a_link_is_up_and_after_the_end),
	    RIG_TEST(it_is_refused_when_no_page_is_missing),
	    RIG_TEST(nothing_but_the_operator_begins_it),
	    RIG_TEST(a_link_that_comes_meanwhile_is_refused_and_it_cannot_be_cancelled),
	    RIG_TEST(a_release_that_fails_is_tried_when_it_is_said_again),
	    RIG_TEST(a_new_process_goes_on_poisoning_by_the_received_bits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
