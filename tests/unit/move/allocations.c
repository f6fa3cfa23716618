/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Once the VM runs at the destination, nothing is allocated until its last page is placed: not on either
 * side, not by a fault, a zero page, a page placed again, nor the background.
 */
#include "tests/unit/move/move.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "tests/unit/move/count_allocations.h"
#include "tests/unit/transport-tcp/rig.h"

static void stop_counting(void)
{
	allocations_count(false);
}

static void expect_none(void)
{
	struct allocations counted = allocations_counted();

	if (counted.calls)
		fail_msg("%u calls took memory, the first was %s() by thread '%s' from %p", counted.calls,
			 counted.first_call, counted.first_thread, counted.first_caller);
}

/* The VMM lets go of a page it has: the next touch is a fault on a page already received. */
static void discard(struct move *move, uint32_t page)
{
	assert_int_equal(madvise(move->destination_ram + page * HUGE_BYTES, HUGE_BYTES, MADV_DONTNEED), 0);
}

static void nothing_is_allocated_while_pages_come(const char *uri, enum hf_placement_choice choice)
{
	struct move move;

	move_all_placed = stop_counting;
	move_open(&move, 77, uri, choice);
	move_start(&move);
	move_wait_runs(&move);

	allocations_count(true);
	move_touch_and_check(&move, 0, 0); /* bytes */
	move_touch_and_check(&move, 1, 3); /* zeros that exist */
	move_touch_and_check(&move, 0, 4); /* a hole */
	for (uint32_t vcpu = 0; vcpu < MOVE_VCPUS; vcpu++)
		move_touch(&move, vcpu, 5); /* two wait for one page */
	for (uint32_t vcpu = 0; vcpu < MOVE_VCPUS; vcpu++)
		move_touched(&move, vcpu, 5);
	discard(&move, 0);
	move_touch_and_check(&move, 1, 0);
	ram_punch(move.destination_fd, 4 * HUGE_BYTES, HUGE_BYTES);
	move_touch_and_check(&move, 0, 4);
	hf_destination_hold_background(move.destination, false);
	move_touch_and_check(&move, 1, MOVE_PAGES - 1);
	move_wait_received(&move, MOVE_PAGES);
	allocations_count(false);
	expect_none();

	move_wait_completed(&move);
	move_check(&move);
	move_close(&move, 1);
}

static void over_tcp_by_continue(void **state)
{
	(void)state;
	nothing_is_allocated_while_pages_come("tcp:127.0.0.1:0", HF_PLACEMENT_CHOICE_CONTINUE);
}

static void over_tcp_by_copy(void **state)
{
	(void)state;
	nothing_is_allocated_while_pages_come("tcp:127.0.0.1:0", HF_PLACEMENT_CHOICE_COPY);
}

static void over_unix_by_continue(void **state)
{
	(void)state;
	nothing_is_allocated_while_pages_come(unix_uri(), HF_PLACEMENT_CHOICE_CONTINUE);
}

static void over_unix_by_copy(void **state)
{
	(void)state;
	nothing_is_allocated_while_pages_come(unix_uri(), HF_PLACEMENT_CHOICE_COPY);
}

/* Last, since a count is never taken back. */
static void what_is_allocated_is_counted(void **state)
{
	(void)state;
	allocations_count(true);
	char *volatile copy = strdup("by the C library itself");
	void *volatile grown = realloc(NULL, 10);
	void *mapped = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	allocations_count(false);
	assert_int_equal(allocations_counted().calls, 3);
	assert_string_equal(allocations_counted().first_call, "malloc");
	free(copy);
	free(grown);
	munmap(mapped, 4096);
}

static int reserve(void **state)
{
	return make_directory(state) || host_pages_reserve(HUGE_BYTES, MOVE_HOST_PAGES) ? -1 : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(over_tcp_by_continue),	    cmocka_unit_test(over_tcp_by_copy),
	    cmocka_unit_test(over_unix_by_continue),	    cmocka_unit_test(over_unix_by_copy),
	    cmocka_unit_test(what_is_allocated_is_counted),
	};
	return cmocka_run_group_tests(tests, reserve, move_give_back);
}
