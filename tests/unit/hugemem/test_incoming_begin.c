/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination's memory is made ready before there is a source, and made what it was if none comes. The
 * agent before this one is played by a port that is destroyed without giving anything back: what is left of
 * it is what a killed process leaves.
 */
#include "tests/unit/hugemem/incoming_rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hugemem/hugepool.h"
#include "hugemem/residency.h"
#include "hugemem/userfault.h"

static const enum hf_placement_choice automatic = HF_PLACEMENT_CHOICE_AUTO;

static atomic_bool over;

static void note_over(void *opaque)
{
	atomic_store((atomic_bool *)opaque, true);
}

static bool is_over(void *opaque)
{
	return atomic_load((atomic_bool *)opaque);
}

static int begin(struct destination *d)
{
	atomic_store(&over, false);
	return hf_incoming_memory_begin(d->memory, note_over, &over, &d->err);
}

static void begin_and_await(struct destination *d)
{
	struct hf_incoming_progress progress;
	bool allocates = d->port.placement == HF_PLACEMENT_CONTINUE;

	if (begin(d))
		fail_msg("%s", d->err.text);
	wait_until(is_over, &over, "the memory to be allocated");
	hf_incoming_memory_progress(d->memory, &progress);
	assert_true(progress.over);
	assert_int_equal(progress.result, 0);
	assert_int_equal(progress.total_bytes, allocates ? BLOCKS * PAGES * HUGE_BYTES : 0);
	assert_int_equal(progress.allocated_bytes, progress.total_bytes);
}

static void make_vmm(struct destination *d)
{
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
}

static uint64_t pages_in_file(struct destination *d, uint32_t block)
{
	uint64_t pages = 0;

	assert_int_equal(hf_file_pages_accounted(d->fd[block], HUGE_BYTES, &pages), 0);
	return pages;
}

static uint64_t reserved_pages(void)
{
	struct hf_hugepage_counts counts = {0};

	assert_int_equal(hf_hugepage_counts(HUGE_BYTES, &counts, NULL), 0);
	return counts.reserved;
}

static void prepare_well(struct destination *d)
{
	if (prepare(d))
		fail_msg("%s", d->engine.ready_err.text);
}

/* The predecessor's process has ended: nothing but the VMM is left. */
static void forget_agent(struct destination *d)
{
	hf_incoming_memory_stop(d->memory);
	hf_incoming_memory_destroy(d->memory);
	d->memory = NULL;
	hf_attach_client_destroy(d->client);
	connect_agent(d);
	assert_int_equal(create_port(d), 0);
	assert_true(hf_attach_armed(d->attach));
}

/* ---- with a source in the end ---- */

static void what_was_begun_only_needs_a_reader(void **state)
{
	struct destination *d = *state;
	bool allocates = d->choice == HF_PLACEMENT_CHOICE_CONTINUE;

	make_vmm(d);
	begin_and_await(d);
	assert_true(hf_attach_armed(d->attach));
	for (uint32_t block = 0; block < BLOCKS; block++) {
		assert_int_equal(pages_in_file(d, block), allocates ? PAGES : 0);
		for (uint64_t page = 0; page < PAGES; page++)
			assert_false(page_is_mapped(guest_page(d, block, page)));
	}
	prepare_well(d);
	land_and_place(d, 1, 2, 0x5a);
	assert_page_filled(guest_page(d, 1, 2), HUGE_BYTES, 0x5a);
	place_zero(d, 0, 1);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 0);
}

static void who_touches_a_page_before_there_is_a_source_waits_for_it(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	make_vmm(d);
	begin_and_await(d);
	toucher_start(&toucher, guest_page(d, 1, 3));
	prepare_well(d);
	expect_fault(d, &toucher, 1, 3);
	land_and_place(d, 1, 3, 0x77);
	assert_int_equal(toucher_join(&toucher), 0x77);
}

static void a_source_that_comes_at_once_finds_all_allocated(void **state)
{
	struct destination *d = *state;

	make_vmm(d);
	assert_int_equal(begin(d), 0);
	prepare_well(d);
	assert_true(atomic_load(&over));
	for (uint32_t block = 0; block < BLOCKS; block++)
		assert_int_equal(pages_in_file(d, block), PAGES);
}

static void a_source_that_wishes_for_copy_gets_empty_files(void **state)
{
	struct destination *d = *state;
	uint64_t reserved = reserved_pages();

	make_vmm(d);
	begin_and_await(d);
	assert_int_equal(d->port.placement, HF_PLACEMENT_CONTINUE);
	assert_int_equal(d->port.ops->choose(d->memory, HF_PLACEMENT_COPY, &d->port, &d->err), 0);
	prepare_well(d);
	for (uint32_t block = 0; block < BLOCKS; block++)
		assert_int_equal(pages_in_file(d, block), 0);
	/* What was taken out of the files is reserved again. */
	assert_int_equal(reserved_pages(), reserved + BLOCKS * PAGES);
	for (uint32_t slot = 0; slot < SLOTS; slot++)
		assert_true(page_is_mapped(d->port.ops->landing(d->memory, 0, 0, slot)));
	land_and_place(d, 0, 3, 0x31);
	assert_page_filled(guest_page(d, 0, 3), HUGE_BYTES, 0x31);
}

static void what_cannot_be_begun_is_refused_by_prepare_for_the_same_reason(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	*guest_page(d, 1, 2) = 1;
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(begin(d), -EEXIST);
	assert_non_null(strstr(d->err.text, "'ram1': page 2 "));
	assert_false(hf_incoming_memory_touched(d->memory));
	assert_false(hf_attach_armed(d->attach));
	assert_int_equal(prepare(d), -EEXIST);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram1': page 2 "));
	assert_int_equal(*guest_page(d, 1, 2), 1);
}

static void what_the_host_lacks_at_first_may_be_there_when_a_source_comes(void **state)
{
	struct destination *d = *state;

	d->fd[0] = ram_file_limited(PAGES, PAGES, &d->hog_fd);
	uint8_t *hog = ram_map(d->hog_fd, 2 * HUGE_BYTES, false);
	hog[0] = 1; /* of the mount that holds no more */
	make_vmm(d);
	assert_int_equal(begin(d), -ENOMEM);
	assert_false(hf_incoming_memory_touched(d->memory));
	ram_punch(d->hog_fd, 0, 2 * HUGE_BYTES);
	munmap(hog, 2 * HUGE_BYTES);
	prepare_well(d);
	land_and_place(d, 0, 0, 0x44);
	assert_page_filled(guest_page(d, 0, 0), HUGE_BYTES, 0x44);
}

/* ---- there and back ---- */

static void give_back(struct destination *d)
{
	hf_incoming_memory_stop(d->memory);
	if (hf_incoming_memory_give_back(d->memory, &d->err))
		fail_msg("%s", d->err.text);
	assert_false(hf_incoming_memory_touched(d->memory));
	assert_false(hf_attach_armed(d->attach));
}

static void what_was_begun_is_undone(void **state)
{
	struct destination *d = *state;

	make_vmm(d);
	begin_and_await(d);
	give_back(d);
	for (uint32_t block = 0; block < BLOCKS; block++)
		assert_int_equal(pages_in_file(d, block), 0);
	/* As new: another agent finds nothing that it would refuse. */
	hf_incoming_memory_destroy(d->memory);
	assert_int_equal(create_port(d), 0);
	begin_and_await(d);
	prepare_well(d);
	land_and_place(d, 0, 0, 0x21);
	assert_page_filled(guest_page(d, 0, 0), HUGE_BYTES, 0x21);
}

static void what_landed_and_was_never_shown_goes_with_it(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	make_vmm(d);
	begin_and_await(d);
	prepare_well(d);
	toucher_start(&toucher, guest_page(d, 0, 2));
	expect_fault(d, &toucher, 0, 2);
	land(d, 0, 2, 0, 0x99);
	give_back(d);
	assert_int_equal(toucher_join(&toucher), 0); /* as in a VM that no agent ever came to */
	assert_int_equal(pages_in_file(d, 0), 1);
	assert_int_equal(pages_in_file(d, 1), 0);
}

static void memory_with_a_page_that_was_placed_is_not_given_back(void **state)
{
	struct destination *d = *state;

	make_vmm(d);
	begin_and_await(d);
	prepare_well(d);
	land_and_place(d, 1, 0, 0x66);
	*(volatile uint8_t *)guest_page(d, 1, 0);
	hf_incoming_memory_stop(d->memory);
	assert_int_equal(hf_incoming_memory_give_back(d->memory, &d->err), -EEXIST);
	assert_true(hf_incoming_memory_touched(d->memory));
	assert_true(hf_attach_armed(d->attach));
	assert_page_filled(guest_page(d, 1, 0), HUGE_BYTES, 0x66);
}

static void a_stop_ends_what_was_begun(void **state)
{
	struct destination *d = *state;
	struct hf_incoming_progress progress;

	make_vmm(d);
	atomic_store(&d->memory->stopping, true);
	assert_int_equal(begin(d), 0);
	wait_until(is_over, &over, "the allocation to end");
	hf_incoming_memory_progress(d->memory, &progress);
	assert_int_equal(progress.result, -ECANCELED);
	assert_int_equal(progress.allocated_bytes, 0);
	give_back(d);
}

/* ---- after a predecessor that was killed ---- */

static void pages_that_were_only_allocated_are_taken_for_nothing_else(void **state)
{
	struct destination *d = *state;
	bool allocates = d->choice == HF_PLACEMENT_CHOICE_CONTINUE;

	make_vmm(d);
	begin_and_await(d);
	forget_agent(d);
	begin_and_await(d);
	for (uint32_t block = 0; block < BLOCKS; block++)
		assert_int_equal(pages_in_file(d, block), allocates ? PAGES : 0);
	prepare_well(d);
	land_and_place(d, 1, 1, 0x17);
	assert_page_filled(guest_page(d, 1, 1), HUGE_BYTES, 0x17);
}

/* A predecessor whose source went away before the switch, with bytes that had landed; and somebody waits. */
static void bytes_of_another_source_are_gone(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	make_vmm(d);
	begin_and_await(d);
	prepare_well(d);
	land(d, 0, 1, 0, 0xee);
	toucher_start(&toucher, guest_page(d, 0, 1));
	expect_fault(d, &toucher, 0, 1);
	d->engine.fault_count = 0;
	atomic_store(&d->engine.ready, false);
	forget_agent(d);
	begin_and_await(d);
	prepare_well(d);
	expect_fault(d, &toucher, 0, 1);
	place_zero(d, 0, 1);
	assert_int_equal(toucher_join(&toucher), 0);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 0);
}

static void a_page_that_the_vmm_has_is_refused_and_kept(void **state)
{
	struct destination *d = *state;

	make_vmm(d);
	begin_and_await(d);
	prepare_well(d);
	land_and_place(d, 1, 0, 0x66);
	*(volatile uint8_t *)guest_page(d, 1, 0);
	atomic_store(&d->engine.ready, false);
	forget_agent(d);
	assert_int_equal(begin(d), -EEXIST);
	assert_non_null(strstr(d->err.text, "'ram1': page 0 "));
	assert_int_equal(prepare(d), -EEXIST);
	assert_page_filled(guest_page(d, 1, 0), HUGE_BYTES, 0x66);
	assert_true(hf_attach_armed(d->attach));
}

static void memory_that_is_guarded_in_part_is_refused(void **state)
{
	struct destination *d = *state;

	make_vmm(d);
	begin_and_await(d);
	assert_int_equal(
	    hf_userfault_unregister(d->memory->placer.userfault_fd, (uintptr_t)d->vmm[1], PAGES * HUGE_BYTES),
	    0);
	forget_agent(d);
	assert_int_equal(begin(d), -EBUSY);
	assert_non_null(strstr(d->err.text, "'ram1'"));
	assert_int_equal(pages_in_file(d, 0), PAGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(what_was_begun_only_needs_a_reader),
	    BOTH(who_touches_a_page_before_there_is_a_source_waits_for_it),
	    WITH(with_continue, a_source_that_comes_at_once_finds_all_allocated),
	    WITH(automatic, a_source_that_wishes_for_copy_gets_empty_files),
	    BOTH(what_cannot_be_begun_is_refused_by_prepare_for_the_same_reason),
	    WITH(with_continue, what_the_host_lacks_at_first_may_be_there_when_a_source_comes),
	    BOTH(what_was_begun_is_undone),
	    BOTH(what_landed_and_was_never_shown_goes_with_it),
	    BOTH(memory_with_a_page_that_was_placed_is_not_given_back),
	    WITH(with_continue, a_stop_ends_what_was_begun),
	    BOTH(pages_that_were_only_allocated_are_taken_for_nothing_else),
	    BOTH(bytes_of_another_source_are_gone),
	    BOTH(a_page_that_the_vmm_has_is_refused_and_kept),
	    WITH(with_continue, memory_that_is_guarded_in_part_is_refused),
	};

	return cmocka_run_group_tests(tests, reserve_pages, give_back_pages);
}
