/* SPDX-License-Identifier: Apache-2.0 */
/* The way of a page on the destination: faults, fetches, landing, placing. */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/destination_internal.h"

#define MISSING_2 (0xffu & ~(1u << 2)) /* ram page 2 does not exist on the source */

/* The VM runs, nothing has been fetched, and only faults are served. */
static void running_held(struct rig *rig)
{
	rig->destination_config.background_held = true;
	rig_destination_at(rig, AT_RUNNING);
}

static bool received(const struct rig *rig, uint32_t block, uint32_t page)
{
	return hf_pagemap_test(&rig->destination->received,
			       rig->destination_blocks.blocks[block].first_page + page);
}

static void land_page(struct rig *rig, const char *name, uint32_t chunks)
{
	for (uint32_t chunk = 0; chunk < chunks; chunk++) {
		char fetch[RIG_CALL_BYTES];
		snprintf(fetch, sizeof(fetch), "%s.%u", name, chunk);
		rig_landed(rig, fetch);
	}
}

/* ---- faults ------------------------------------------------------------------------------------ */

static void faults_before_the_map_is_known_are_served_after_device_end(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = MISSING_2;
	rig_destination_at(rig, AT_ADVISE);
	rig_fault(rig, RIG_RAM, 1);
	rig_reach(rig, AT_ADVISE, AT_PRESENCE);
	rig_fault(rig, RIG_RAM, 2);
	rig_fault(rig, RIG_ROM, 3);
	rig_expect_nothing(rig);
	rig_reach(rig, AT_PRESENCE, AT_DEVICE_DATA);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_IDLE);
	assert_int_equal(rig->fetches_count, 0);
	rig_hear(rig, HF_WIRE_DEVICE_END);
	rig_expect(rig, "load", "kick urgent", "fetch urgent ram 1.0", "fetch urgent ram 1.1",
		   "fetch urgent ram 1.2", "fetch urgent ram 1.3", "fetch urgent rom 3.0");
	rig_work_all(rig);
	rig_expect(rig, "place_zero ram 2");
	land_page(rig, "ram 1", 4);
	rig_landed(rig, "rom 3.0");
	rig_expect(rig, "place ram 1", "place rom 3");
}

static void faults_on_holes_are_placed_as_zeros_without_a_fetch(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = MISSING_2;
	running_held(rig);
	rig_fault(rig, RIG_RAM, 2);
	rig_expect(rig, "kick urgent");
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_MORE);
	rig_expect(rig, "place_zero ram 2");
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_IDLE);
	assert_true(received(rig, RIG_RAM, 2));
	assert_int_equal(rig_snapshot(rig).pages_zero, 1);
}

static void a_page_waited_for_by_many_is_fetched_once(void **state)
{
	struct rig *rig = *state;
	running_held(rig);
	for (uint32_t thread = 0; thread < 20; thread++)
		hf_destination_fault(rig->destination, RIG_ROM, 1, 900 + thread, rig->now_ns);
	rig_fault(rig, RIG_ROM, 1);
	rig_expect(rig, "fetch urgent rom 1.0");
	rig->now_ns += 5000;
	rig_landed(rig, "rom 1.0");
	rig_expect(rig, "place rom 1");
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	assert_int_equal(snapshot.blocktime.faults_vcpu, 1);
	assert_int_equal(snapshot.blocktime.faults_other, 20);
	assert_int_equal(snapshot.fault_latency.count, 21);
	assert_int_equal(snapshot.fault_latency.max_ns, 5000);
}

static void faults_outside_the_blocks_are_ignored(void **state)
{
	struct rig *rig = *state;
	running_held(rig);
	rig_fault(rig, RIG_BLOCKS, 0);
	rig_fault(rig, UINT32_MAX, 0);
	rig_fault(rig, RIG_RAM, RIG_RAM_PAGES);
	rig_fault(rig, RIG_ROM, UINT64_MAX);
	rig_fault(rig, RIG_RAM, 1ull << 32);
	rig_expect_nothing(rig);
}

static void a_fault_on_a_received_page_is_placed_again_never_only_dropped(void **state)
{
	struct rig *rig = *state;
	running_held(rig);
	rig_fault(rig, RIG_ROM, 0);
	rig_landed(rig, "rom 0.0");
	rig_expect(rig, "fetch urgent rom 0.0", "place rom 0");
	rig_fault(rig, RIG_ROM, 0);
	rig_expect(rig, "kick urgent");
	rig->place_again_result = -EAGAIN;
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_LATER);
	rig->place_again_result = 0;
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_MORE);
	rig_expect(rig, "place_again rom 0", "place_again rom 0");
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_IDLE);
	assert_int_equal(rig_snapshot(rig).pages_received, 1);
	assert_int_equal(rig_snapshot(rig).pages_stalled, 1);
}

static void fault_again_inside_place(struct rig *rig, const char *call)
{
	if (strcmp(call, "place rom 0") == 0)
		rig_fault(rig, RIG_ROM, 0);
	if (strcmp(call, "place_zero ram 2") == 0)
		rig_fault(rig, RIG_RAM, 2);
	if (strcmp(call, "place_again rom 0") == 0 && rig->seen++ == 0)
		rig_fault(rig, RIG_ROM, 0);
}

static void a_fault_while_its_page_is_placed_is_placed_again(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = MISSING_2;
	running_held(rig);
	rig->inside = fault_again_inside_place;
	rig_fault(rig, RIG_ROM, 0);
	rig_landed(rig, "rom 0.0");
	rig_expect(rig, "fetch urgent rom 0.0", "place rom 0", "kick urgent");
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_MORE);
	rig_expect(rig, "place_again rom 0", "kick urgent");
	rig_work_all(rig);
	rig_expect(rig, "place_again rom 0");
	rig_fault(rig, RIG_RAM, 2);
	rig_work_all(rig);
	rig_expect(rig, "kick urgent", "place_zero ram 2", "kick urgent", "place_again ram 2");
}

static void ranges_are_not_released_while_a_fault_waits_to_be_placed_again(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0;
	rig->rom_present = 1;
	rig_destination_at(rig, AT_RUNNING);
	rig_work_all(rig);
	rig_forget(rig);
	rig->inside = fault_again_inside_place;
	rig->seen = 1;
	rig_landed(rig, "rom 0.0");
	rig_expect(rig, "place rom 0", "kick urgent");
	rig_work_all(rig);
	rig_expect(rig, "place_again rom 0", "release", "send COMPLETE");
}

/* ---- what is fetched, and in which order ------------------------------------------------------- */

static void a_fault_on_a_page_in_flight_promotes_the_rest_and_fetches_nothing_twice(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_RUN);
	rig_vm_done(rig, HF_VM_RUN, 0);
	rig_expect(rig, "send RESUMED", "kick background", "fetch background ram 0.0",
		   "fetch background ram 0.1");
	rig_fault(rig, RIG_RAM, 0);
	rig_expect(rig, "fetch urgent ram 0.2", "fetch urgent ram 0.3");
	rig_fault(rig, RIG_RAM, 0);
	rig_landed(rig, "ram 0.3");
	rig_landed(rig, "ram 0.0");
	rig_landed(rig, "ram 0.1");
	rig_expect_nothing(rig);
	rig_landed(rig, "ram 0.2");
	/* Its bytes are here: the background goes on after it while it is placed. */
	rig_expect(rig, "fetch background ram 1.0", "fetch background ram 1.1", "place ram 0");
}

static void a_fault_on_a_page_whose_chunks_are_all_posted_waits_for_them(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0;
	rig_destination_at(rig, AT_RUNNING);
	assert_int_equal(rig->fetches_count, 2); /* rom 0 and rom 1 */
	rig_fault(rig, RIG_ROM, 0);
	rig_landed(rig, "rom 1.0");
	rig_expect(rig, "place rom 1"); /* held: somebody waits */
	rig_landed(rig, "rom 0.0");
	rig_expect(rig, "fetch background rom 2.0", "fetch background rom 3.0", "place rom 0");
}

static void urgent_chunks_are_posted_before_background_ones(void **state)
{
	struct rig *rig = *state;
	running_held(rig);
	rig_fault(rig, RIG_RAM, 5);
	rig_fault(rig, RIG_RAM, 3);
	rig_fault(rig, RIG_RAM, 7);
	rig_expect(rig, "fetch urgent ram 5.0", "fetch urgent ram 5.1", "fetch urgent ram 5.2",
		   "fetch urgent ram 5.3", "fetch urgent ram 3.0", "fetch urgent ram 3.1",
		   "fetch urgent ram 3.2", "fetch urgent ram 3.3");
	/* The link holds no more urgent ones: room there is only for the background, which must not have it.
	 */
	hf_destination_hold_background(rig->destination, false);
	rig_expect(rig, "kick background");
	land_page(rig, "ram 5", 4);
	rig_expect(rig, "fetch urgent ram 7.0", "fetch urgent ram 7.1", "fetch urgent ram 7.2",
		   "fetch urgent ram 7.3", "place ram 5");
	land_page(rig, "ram 3", 4);
	rig_expect(rig, "place ram 3");
	land_page(rig, "ram 7", 4);
	/* The scan goes on after the page that faulted last, then from the start. */
	rig_expect(rig, "fetch background rom 0.0", "fetch background rom 1.0", "place ram 7");
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
}

static void a_fault_overtakes_a_background_page_half_posted(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_RUNNING); /* ram 0.0 and 0.1 are on their way */
	rig_fault(rig, RIG_RAM, 4);
	rig_expect(rig, "fetch urgent ram 4.0", "fetch urgent ram 4.1", "fetch urgent ram 4.2",
		   "fetch urgent ram 4.3");
	rig_landed(rig, "ram 0.0");
	rig_landed(rig, "ram 0.1");
	rig_expect_nothing(rig);
	land_page(rig, "ram 4", 4);
	/* The page begun is finished first, then the scan goes on behind the fault. */
	rig_expect(rig, "fetch background ram 0.2", "fetch background ram 0.3", "place ram 4");
	rig_landed(rig, "ram 0.2");
	rig_landed(rig, "ram 0.3");
	rig_expect(rig, "fetch background ram 5.0", "fetch background ram 5.1", "place ram 0");
}

static void the_background_is_held_until_told_otherwise(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = MISSING_2;
	rig->destination_config.background_held = true;
	rig_destination_at(rig, AT_RUN);
	rig_vm_done(rig, HF_VM_RUN, 0);
	rig_expect(rig, "send RESUMED", "kick background");
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_IDLE);
	rig_fault(rig, RIG_ROM, 0);
	rig_landed(rig, "rom 0.0");
	rig_expect(rig, "fetch urgent rom 0.0", "place rom 0");
	hf_destination_hold_background(rig->destination, false);
	rig_expect(rig, "kick background", "fetch background rom 1.0", "fetch background rom 2.0");
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_MORE);
	rig_expect(rig, "place_zero ram 2");
	hf_destination_hold_background(rig->destination, true);
	rig_landed(rig, "rom 1.0");
	rig_landed(rig, "rom 2.0");
	rig_expect(rig, "place rom 1", "place rom 2");
}

static void the_background_does_not_begin_before_resumed(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = MISSING_2;
	rig_destination_at(rig, AT_RUN);
	assert_int_equal(rig->fetches_count, 0);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_IDLE);
	rig_expect_nothing(rig);
}

static void the_background_leaves_landings_for_faults(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.memory.placement = HF_PLACEMENT_COPY;
	rig->destination_config.memory.slots = 2;
	rig->ram_present = 0;
	rig_destination_at(rig, AT_RUNNING);
	assert_int_equal(rig->fetches_count, 1);
	rig_fault(rig, RIG_ROM, 3);
	rig_fault(rig, RIG_ROM, 2);
	rig_expect(rig, "fetch urgent rom 3.0"); /* rom 2 waits for a landing */
	rig_landed(rig, "rom 3.0");
	rig_expect(rig, "place rom 3", "fetch urgent rom 2.0");
}

static void a_page_kept_for_want_of_a_huge_page_does_not_cost_the_next_its_landing(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.memory.placement = HF_PLACEMENT_COPY;
	rig->destination_config.memory.slots = 2;
	rig->ram_present = 0;
	rig_destination_at(rig, AT_RUNNING);
	rig_fault(rig, RIG_ROM, 3);
	rig->place_result = -EAGAIN;
	rig_landed(rig, "rom 3.0");
	rig->place_result = 0;
	rig_fault(rig, RIG_ROM, 2);
	rig_forget(rig);
	rig_landed(rig, "rom 0.0");
	assert_true(rig_called(rig, "fetch urgent rom 2.0"));
}

/* So many threads fault on one missing page after the other, from the last one down. */
static uint32_t keep_faulting(struct rig *rig, uint32_t waiting, uint32_t next_page)
{
	while (rig->destination->schedule.urgent_pages < waiting && next_page > 0)
		rig_fault(rig, RIG_RAM, --next_page);
	return next_page;
}

static void check_share_under_endless_faults(uint32_t share_percent, uint32_t waiting, uint32_t capacity)
{
	struct rig *rig = rig_create();
	rig->ram_pages = 1024;
	rig->link.capacity_chunks[HF_FETCH_URGENT] = capacity;
	rig->link.capacity_chunks[HF_FETCH_BACKGROUND] = 2 * capacity;
	rig->destination_config.background_share_percent = share_percent;
	running_held(rig);
	uint32_t next_page = keep_faulting(rig, waiting, rig->ram_pages);
	hf_destination_hold_background(rig->destination, false);
	/* The scan goes on behind the faults, then wraps around: it does not meet them. */
	while (next_page > rig->ram_pages / 2) {
		next_page = keep_faulting(rig, waiting, next_page);
		rig->now_ns += 10000;
		rig_land_oldest(rig);
		rig_forget(rig);
		uint64_t urgent = rig->posted_bytes[HF_FETCH_URGENT];
		uint64_t background = rig->posted_bytes[HF_FETCH_BACKGROUND];
		/* Kept from its share before it might run, it is owed two chunks at most of what was posted
		 * then. */
		uint64_t before = (uint64_t)capacity * RIG_CHUNK * share_percent / (100 - share_percent);
		uint64_t kept = before > 2 * RIG_CHUNK ? before - 2 * RIG_CHUNK : 0;
		uint64_t due = urgent * share_percent / (100 - share_percent);
		if (background > due || background + kept + RIG_CHUNK < due)
			fail_msg("share %u %%, %u waiting: %llu background bytes where %llu are due",
				 share_percent, waiting, (unsigned long long)background,
				 (unsigned long long)due);
	}
	rig_destroy(rig);
}

static void under_endless_faults_the_background_gets_its_share(void **state)
{
	(void)state;
	static const uint32_t shares[] = {1, 5, 20, HF_SCHEDULE_SHARE_MAX_PERCENT};
	for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
		check_share_under_endless_faults(shares[i], 2, 8);
		check_share_under_endless_faults(shares[i], 2, 64);
		check_share_under_endless_faults(shares[i], 16, 64);
		check_share_under_endless_faults(shares[i], 40, 8);
	}
}

/* ---- landing and placing ----------------------------------------------------------------------- */

static void note_received_inside_place(struct rig *rig, const char *call)
{
	if (strncmp(call, "place", 5) == 0)
		rig->seen = 1 + hf_pagemap_test(&rig->destination->received, rig->placing_page);
}

static void check_received_bit(enum hf_placement placement, uint32_t slots, uint32_t seen)
{
	struct rig *rig = rig_create();
	rig->ram_present = MISSING_2;
	rig->destination_config.memory.placement = placement;
	rig->destination_config.memory.slots = slots;
	running_held(rig);
	rig->inside = note_received_inside_place;

	rig_fault(rig, RIG_RAM, 1);
	assert_false(received(rig, RIG_RAM, 1));
	land_page(rig, "ram 1", 4);
	assert_int_equal(rig->seen, seen);
	assert_true(received(rig, RIG_RAM, 1));

	rig->seen = 0;
	rig_fault(rig, RIG_RAM, 2);
	rig_work_all(rig);
	assert_int_equal(rig->seen, seen);
	assert_true(received(rig, RIG_RAM, 2));
	rig_destroy(rig);
}

static void the_received_bit_is_set_before_place_under_continue_and_after_it_under_copy(void **state)
{
	(void)state;
	check_received_bit(HF_PLACEMENT_CONTINUE, 0, 2);
	check_received_bit(HF_PLACEMENT_COPY, RIG_SLOTS_MAX, 1);
}

static void note_bytes_inside_place(struct rig *rig, const char *call)
{
	if (strcmp(call, "place ram 1") != 0)
		return;
	rig->seen = 0;
	for (uint32_t i = 0; i < RIG_RAM_PAGE; i++)
		rig->seen += rig->placing[i] != 0;
}

static void check_zero_chunks(enum hf_placement placement, uint32_t slots)
{
	struct rig *rig = rig_create();
	rig->destination_config.memory.placement = placement;
	rig->destination_config.memory.slots = slots;
	running_held(rig);
	memset(rig->ram, 0xee, RIG_RAM_PAGES * RIG_RAM_PAGE); /* what lay there before */
	memset(rig->staging, 0xee, RIG_SLOTS_MAX * RIG_RAM_PAGE);
	rig->inside = note_bytes_inside_place;
	rig_fault(rig, RIG_RAM, 1);
	rig_forget(rig);
	rig_landed_zero(rig, "ram 1.0");
	rig_landed(rig, "ram 1.1");
	rig_landed_zero(rig, "ram 1.3");
	rig_landed_zero(rig, "ram 1.2");
	rig_expect(rig, "clear 4096", "clear 4096", "clear 4096", "place ram 1");
	assert_int_equal(rig->seen, RIG_CHUNK);
	assert_int_equal(rig_snapshot(rig).pages_fetched, 1);
	assert_int_equal(rig_snapshot(rig).transferred_bytes, RIG_CHUNK);

	rig_fault(rig, RIG_ROM, 1);
	rig_landed_zero(rig, "rom 1.0");
	rig_expect(rig, "fetch urgent rom 1.0", "clear 4096", "place rom 1");
	assert_int_equal(rig_snapshot(rig).pages_zero, 1);
	rig_destroy(rig);
}

static void zero_chunks_are_cleared_before_the_page_is_placed(void **state)
{
	(void)state;
	check_zero_chunks(HF_PLACEMENT_CONTINUE, 0);
	check_zero_chunks(HF_PLACEMENT_COPY, 1);
}

static void a_page_that_landed_in_part_before_is_cleared_as_dirty(void **state)
{
	struct rig *rig = *state;
	running_held(rig);
	rig_fault(rig, RIG_RAM, 1);
	rig_landed(rig, "ram 1.1");
	rig_fetch_ends(rig, "ram 1.2", HF_FETCH_CANCELLED, false);
	rig_landed(rig, "ram 1.0");
	rig_forget(rig);
	rig_landed(rig, "ram 1.3");
	rig_expect(rig, "fetch urgent ram 1.0", "fetch urgent ram 1.1", "fetch urgent ram 1.2",
		   "fetch urgent ram 1.3");
	rig_landed_zero(rig, "ram 1.1");
	rig_expect(rig, "clear 4096 dirty");
}

static void check_place_later(enum hf_placement placement, uint32_t slots)
{
	struct rig *rig = rig_create();
	rig->destination_config.memory.placement = placement;
	rig->destination_config.memory.slots = slots;
	running_held(rig);
	rig_fault(rig, RIG_RAM, 1);
	rig_forget(rig);
	rig->place_result = -EAGAIN;
	land_page(rig, "ram 1", 4);
	rig_expect(rig, "place ram 1", "kick urgent");
	assert_int_equal(received(rig, RIG_RAM, 1), placement == HF_PLACEMENT_CONTINUE);
	rig_fault(rig, RIG_RAM, 1); /* one more waits for it; it is not fetched again */
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_LATER);
	rig_expect(rig, "place ram 1");
	assert_int_equal(rig_snapshot(rig).pages_received, 0);
	assert_int_equal(rig_snapshot(rig).pages_stalled, 2);
	assert_string_equal(rig_snapshot(rig).err.text, "no place");
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_ACTIVE);

	/* Its landing stays its own: others land elsewhere. */
	rig_fault(rig, RIG_RAM, 3);
	rig_forget(rig);
	rig->place_result = 0;
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_MORE);
	rig_expect(rig, "place ram 1");
	assert_true(received(rig, RIG_RAM, 1));
	assert_int_equal(rig_snapshot(rig).pages_received, 1);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_IDLE);
	rig_destroy(rig);
}

static void a_page_that_cannot_be_placed_now_is_kept_and_placed_by_work(void **state)
{
	(void)state;
	check_place_later(HF_PLACEMENT_CONTINUE, 0);
	check_place_later(HF_PLACEMENT_COPY, 2);
}

static void zeros_that_a_thread_waits_for_do_not_stand_behind_the_others(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = 0;
	rig_destination_at(rig, AT_RUNNING);
	rig_fault(rig, RIG_RAM, 6);
	rig_forget(rig);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_MORE);
	rig_expect(rig, "place_zero ram 6");
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_URGENT), HF_WORK_IDLE);
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_MORE);
	rig_expect(rig, "place_zero ram 7");
}

static void background_zeros_that_cannot_be_placed_now_are_placed_later(void **state)
{
	struct rig *rig = *state;
	rig->ram_present = MISSING_2;
	rig->rom_present = 0;
	rig->destination_config.background_held = true;
	rig_destination_at(rig, AT_RUNNING);
	hf_destination_hold_background(rig->destination, false);
	rig_land_all(rig);
	rig_forget(rig);
	rig->place_zero_result = -EAGAIN;
	assert_int_equal(hf_destination_work(rig->destination, HF_WORK_BACKGROUND), HF_WORK_LATER);
	rig_expect(rig, "place_zero ram 2", "kick urgent");
	rig->place_zero_result = 0;
	rig_work_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
	rig_expect(rig, "place_zero ram 2", "place_zero rom 0", "place_zero rom 1", "place_zero rom 2",
		   "place_zero rom 3", "release", "send COMPLETE");
}

static void a_page_that_cannot_be_placed_at_all_fails_before_loaded_and_is_kept_after(void **state)
{
	(void)state;
	for (enum rig_at at = AT_LISTEN; at <= AT_RUNNING; at++) {
		struct rig *rig = rig_create();
		rig->destination_config.background_held = true;
		rig_destination_at(rig, at);
		rig->place_result = -EFAULT;
		rig_fault(rig, RIG_ROM, 2);
		rig_landed(rig, "rom 2.0");
		struct hf_destination_snapshot snapshot = rig_snapshot(rig);
		assert_string_equal(snapshot.err.text, "no place");
		if (at < AT_LOADED)
			assert_int_equal(snapshot.status, HF_STATUS_FAILED);
		else
			assert_int_equal(snapshot.status,
					 at == AT_LOADED ? HF_STATUS_DEVICE : HF_STATUS_POSTCOPY_ACTIVE);
		assert_int_equal(snapshot.pages_received, 0);
		/* After the hand-over the page is still to be had. */
		rig->place_result = 0;
		rig_work_all(rig);
		assert_int_equal(rig_snapshot(rig).pages_received, at >= AT_LOADED);
		rig_destroy(rig);
	}
}

/* ---- fetches that end otherwise ---------------------------------------------------------------- */

static void done(struct rig *rig, uint64_t id, uint64_t epoch)
{
	struct hf_fetch_done end = {.id = id, .epoch = epoch, .status = HF_FETCH_OK, .zero = true};
	hf_destination_events.fetch_done(rig->destination, &end);
	end.zero = false;
	hf_destination_events.fetch_done(rig->destination, &end);
	end.status = HF_FETCH_FAILED;
	hf_destination_events.fetch_done(rig->destination, &end);
}

static void a_done_of_another_epoch_unknown_or_repeated_is_ignored(void **state)
{
	struct rig *rig = *state;
	running_held(rig);
	rig_fault(rig, RIG_RAM, 1);
	uint64_t first = rig->fetches[0].id, last = rig->fetches[3].id;
	rig_forget(rig);
	done(rig, last, RIG_EPOCH + 1);
	done(rig, last, 0);
	done(rig, last + (1ull << 32), RIG_EPOCH); /* another use of the slot */
	done(rig, last - (1ull << 32), RIG_EPOCH);
	done(rig, last + 1, RIG_EPOCH); /* a slot that is free */
	done(rig, 1000000, RIG_EPOCH);
	done(rig, UINT64_MAX, RIG_EPOCH);
	rig_landed(rig, "ram 1.0");
	for (int i = 0; i < 4; i++)
		done(rig, first, RIG_EPOCH);
	rig_landed(rig, "ram 1.1");
	rig_landed(rig, "ram 1.2");
	rig_expect_nothing(rig);
	assert_int_equal(rig_snapshot(rig).pages_received, 0);
	rig_landed(rig, "ram 1.3");
	rig_expect(rig, "place ram 1");
	assert_int_equal(rig_snapshot(rig).transferred_bytes, RIG_RAM_PAGE);

	/* The slots serve again; ids of their first use are dead. */
	rig_fault(rig, RIG_RAM, 2);
	rig_forget(rig);
	for (uint64_t slot = 0; slot < 12; slot++)
		done(rig, (first & ~UINT64_C(0xffffffff)) | slot, RIG_EPOCH);
	rig_expect_nothing(rig);
	land_page(rig, "ram 2", 4);
	rig_expect(rig, "place ram 2");
}

static void a_full_transport_loses_nothing_and_fetches_nothing_twice(void **state)
{
	(void)state;
	for (uint32_t taken = 0; taken < 4; taken++) {
		struct rig *rig = rig_create();
		running_held(rig);
		rig_fault(rig, RIG_ROM, 0);
		rig->fetch_result = -EAGAIN;
		rig->fetch_failures = 1;
		rig->fetch_taken = taken;
		rig_fault(rig, RIG_RAM, 1);
		assert_int_equal(rig->fetches_count, 1 + taken);
		rig_fault(rig, RIG_RAM, 1); /* the link is full until something lands */
		assert_int_equal(rig->fetches_count, 1 + taken);
		rig_land_all(rig);
		assert_true(rig_called(rig, "place ram 1"));
		assert_int_equal(rig->posted_bytes[HF_FETCH_URGENT], RIG_RAM_PAGE + RIG_ROM_PAGE);
		assert_int_equal(rig_snapshot(rig).pages_received, 2);
		assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_ACTIVE);
		assert_int_equal(rig->destination->schedule.urgent_pages, 0);
		rig_destroy(rig);
	}
}

static void a_full_background_channel_keeps_no_urgent_chunk_back(void **state)
{
	struct rig *rig = *state;
	rig->ram_pages = 64;
	rig->link.capacity_chunks[HF_FETCH_URGENT] = 64;
	rig_destination_at(rig, AT_RUNNING); /* ram 0.0 and 0.1 are on their way */
	for (uint64_t page = 40; page < 44; page++)
		rig_fault(rig, RIG_RAM, page);
	rig_forget(rig);
	/* 19 urgent chunks earn one of the background; that is what the transport has no room for. */
	rig->fetch_result = -EAGAIN;
	rig->fetch_failures = 1;
	rig->fetch_taken = 3;
	rig_fault(rig, RIG_RAM, 44);
	rig_expect(rig, "fetch urgent ram 44.0", "fetch urgent ram 44.1", "fetch urgent ram 44.2",
		   "fetch background ram 0.2", "fetch urgent ram 44.3");
	rig_landed(rig, "ram 40.0");
	rig_expect(rig, "fetch background ram 0.2");
}

static void a_page_half_fetched_in_the_background_never_blocks_the_only_landing(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.memory.placement = HF_PLACEMENT_COPY;
	rig->destination_config.memory.slots = 1;
	rig_destination_at(rig, AT_RUNNING);
	rig_fault(rig, RIG_RAM, 5);
	rig_expect_nothing(rig);
	rig_landed(rig, "ram 0.0");
	rig_landed(rig, "ram 0.1");
	rig_expect(rig, "fetch background ram 0.2", "fetch background ram 0.3");
	rig_landed(rig, "ram 0.2");
	rig_landed(rig, "ram 0.3");
	rig_expect(rig, "place ram 0", "fetch urgent ram 5.0", "fetch urgent ram 5.1", "fetch urgent ram 5.2",
		   "fetch urgent ram 5.3");
}

static void threads_that_wait_leave_the_background_a_landing(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.memory.placement = HF_PLACEMENT_COPY;
	rig->destination_config.memory.slots = 4;
	rig->link.capacity_chunks[HF_FETCH_URGENT] = 64;
	running_held(rig);
	for (uint64_t page = 0; page < 5; page++)
		rig_fault(rig, RIG_RAM, page);
	assert_int_equal(rig->fetches_count, 4 * 4); /* nothing is kept for a background that is held */
	rig_fault(rig, RIG_RAM, 5);
	hf_destination_hold_background(rig->destination, false);
	rig_forget(rig);
	land_page(rig, "ram 0", 4);
	rig_expect(rig, "place ram 0");
	land_page(rig, "ram 1", 4);
	assert_true(rig_called(rig, "fetch urgent ram 4.0"));
	assert_true(rig_called(rig, "fetch background ram 6.0"));
}

static enum page_state state_of(const struct rig *rig, uint32_t ram_page)
{
	return rig->destination->pages[ram_page].state;
}

static void a_link_that_is_gone_loses_nothing_and_is_left_alone(void **state)
{
	struct rig *rig = *state;
	running_held(rig);
	rig->fetch_result = -ENOTCONN;
	rig->fetch_failures = 1;
	rig->fetch_taken = 2;
	rig_fault(rig, RIG_RAM, 1);
	rig_expect(rig, "fetch urgent ram 1.0", "fetch urgent ram 1.1", "fetch urgent ram 1.2");
	rig_fault(rig, RIG_RAM, 3);
	hf_destination_hold_background(rig->destination, false);
	rig_landed(rig, "ram 1.0");
	rig_fetch_ends(rig, "ram 1.1", HF_FETCH_FAILED, false);
	rig_expect(rig, "kick background");
	assert_int_equal(state_of(rig, 1), PAGE_URGENT_WAIT);
	assert_int_equal(state_of(rig, 3), PAGE_URGENT_WAIT);
	rig_link_down(rig);
	rig_expect_nothing(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_int_equal(rig->destination->schedule.urgent_pages, 2);
}

static void pages_of_a_cut_link_are_missing_again(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_RUNNING);
	rig_landed(rig, "ram 0.0"); /* 0.1 and 0.2 are on their way */
	rig_forget(rig);
	rig_link_down(rig);
	rig_expect_nothing(rig);
	assert_int_equal(state_of(rig, 0), PAGE_MISSING);
	assert_int_equal(hf_pagemap_count(&rig->destination->todo_fetch), RIG_RAM_PAGES + RIG_ROM_PAGES);
	assert_false(received(rig, RIG_RAM, 0));
}

static void a_cancelled_background_chunk_brings_its_page_again(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_RUNNING);
	rig_fetch_ends(rig, "ram 0.0", HF_FETCH_CANCELLED, false);
	rig_land_all(rig);
	rig_work_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
	assert_int_equal(rig_snapshot(rig).pages_fetched, RIG_RAM_PAGES + RIG_ROM_PAGES);
}

static void a_fault_on_a_page_that_lost_a_chunk_is_served(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_RUNNING);
	rig_fetch_ends(rig, "ram 0.0", HF_FETCH_CANCELLED, false);
	rig_forget(rig);
	rig_fault(rig, RIG_RAM, 0); /* 0.1 is still on its way */
	assert_false(rig_called(rig, "fetch urgent ram 0.0"));
	while (!rig_called(rig, "place ram 0"))
		rig_land_oldest(rig);
	assert_true(rig_called(rig, "fetch urgent ram 0.0"));
	assert_int_equal(rig->destination->schedule.urgent_pages, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(faults_before_the_map_is_known_are_served_after_device_end),
	    RIG_TEST(faults_on_holes_are_placed_as_zeros_without_a_fetch),
	    RIG_TEST(a_page_waited_for_by_many_is_fetched_once),
	    RIG_TEST(faults_outside_the_blocks_are_ignored),
	    RIG_TEST(a_fault_on_a_received_page_is_placed_again_never_only_dropped),
	    RIG_TEST(a_fault_while_its_page_is_placed_is_placed_again),
	    RIG_TEST(ranges_are_not_released_while_a_fault_waits_to_be_placed_again),
	    RIG_TEST(a_fault_on_a_page_in_flight_promotes_the_rest_and_fetches_nothing_twice),
	    RIG_TEST(a_fault_on_a_page_whose_chunks_are_all_posted_waits_for_them),
	    RIG_TEST(urgent_chunks_are_posted_before_background_ones),
	    RIG_TEST(a_fault_overtakes_a_background_page_half_posted),
	    RIG_TEST(the_background_is_held_until_told_otherwise),
	    RIG_TEST(the_background_does_not_begin_before_resumed),
	    RIG_TEST(the_background_leaves_landings_for_faults),
	    RIG_TEST(a_page_kept_for_want_of_a_huge_page_does_not_cost_the_next_its_landing),
	    RIG_TEST(under_endless_faults_the_background_gets_its_share),
	    RIG_TEST(the_received_bit_is_set_before_place_under_continue_and_after_it_under_copy),
	    RIG_TEST(zero_chunks_are_cleared_before_the_page_is_placed),
	    RIG_TEST(a_page_that_landed_in_part_before_is_cleared_as_dirty),
	    RIG_TEST(a_page_that_cannot_be_placed_now_is_kept_and_placed_by_work),
	    RIG_TEST(zeros_that_a_thread_waits_for_do_not_stand_behind_the_others),
	    RIG_TEST(background_zeros_that_cannot_be_placed_now_are_placed_later),
	    RIG_TEST(a_page_that_cannot_be_placed_at_all_fails_before_loaded_and_is_kept_after),
	    RIG_TEST(a_done_of_another_epoch_unknown_or_repeated_is_ignored),
	    RIG_TEST(a_full_transport_loses_nothing_and_fetches_nothing_twice),
	    RIG_TEST(a_full_background_channel_keeps_no_urgent_chunk_back),
	    RIG_TEST(a_page_half_fetched_in_the_background_never_blocks_the_only_landing),
	    RIG_TEST(threads_that_wait_leave_the_background_a_landing),
	    RIG_TEST(a_link_that_is_gone_loses_nothing_and_is_left_alone),
	    RIG_TEST(pages_of_a_cut_link_are_missing_again),
	    RIG_TEST(a_cancelled_background_chunk_brings_its_page_again),
	    RIG_TEST(a_fault_on_a_page_that_lost_a_chunk_is_served),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
