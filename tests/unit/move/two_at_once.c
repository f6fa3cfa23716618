/* SPDX-License-Identifier: Apache-2.0 */
/* Two migrations in one process share nothing: what befalls one, the other does not notice. */
#include "tests/unit/move/move.h"

#include <string.h>

#include "tests/unit/transport-tcp/rig.h"

static const struct {
	bool over_unix;
	enum hf_placement_choice choice;
} kinds[] = {
    {false, HF_PLACEMENT_CHOICE_CONTINUE},
    {true, HF_PLACEMENT_CHOICE_COPY},
    {false, HF_PLACEMENT_CHOICE_COPY},
    {true, HF_PLACEMENT_CHOICE_CONTINUE},
};
#define KINDS (sizeof(kinds) / sizeof(kinds[0]))

static void open_kind(struct move *move, uint64_t seed, size_t kind)
{
	move_open(move, seed, kinds[kind].over_unix ? unix_uri() : "tcp:127.0.0.1:0", kinds[kind].choice);
}

/* Both run at their destinations, on faults alone; one vCPU of each waits for a page that was touched. */
static void open_two(struct move moves[2], size_t kind)
{
	open_kind(&moves[0], 1000, kind);
	open_kind(&moves[1], 2000, (kind + 1) % KINDS);
	for (int i = 0; i < 2; i++)
		move_start(&moves[i]);
	for (int i = 0; i < 2; i++)
		move_wait_runs(&moves[i]);
}

static void let_go(struct move *move)
{
	hf_destination_hold_background(move->destination, false);
}

static void two_moves_at_once_arrive_whole(void **state)
{
	(void)state;
	for (size_t kind = 0; kind < KINDS; kind++) {
		struct move moves[2];
		open_two(moves, kind);
		for (uint32_t page = 0; page < 4; page++)
			for (int i = 0; i < 2; i++)
				move_touch_and_check(&moves[i], page % MOVE_VCPUS, page);
		for (int i = 0; i < 2; i++)
			let_go(&moves[i]);
		for (int i = 0; i < 2; i++)
			move_wait_completed(&moves[i]);
		for (int i = 0; i < 2; i++)
			move_check(&moves[i]);
		move_close(moves, 2);
	}
}

static void a_link_that_is_cut_costs_the_other_move_nothing(void **state)
{
	(void)state;
	for (size_t kind = 0; kind < KINDS; kind++) {
		struct move moves[2];
		struct move *cut = &moves[0], *other = &moves[1];
		open_two(moves, kind);
		move_touch_and_check(cut, 0, 0);
		move_touch_and_check(other, 0, 0);

		hf_tcp_shutdown(cut->source_link, NULL);
		move_wait_paused(cut);
		move_touch(cut, 0, 7); /* waits: nobody brings it */
		move_touch(cut, 1, 4); /* a hole needs nobody */
		move_touch_and_check(other, 1, 7);
		let_go(other);
		move_wait_completed(other);
		move_check(other);
		move_touched(cut, 1, 4);
		move_touch_and_check(cut, 1, 0); /* what has come stays */

		assert_true(move_is_touching(cut, 0));
		assert_false(page_is_mapped(cut->destination_ram + 7 * HUGE_BYTES));
		struct hf_destination_snapshot snapshot = move_destination_snapshot(cut);
		assert_int_equal(snapshot.status, HF_STATUS_POSTCOPY_PAUSED);
		assert_int_equal(snapshot.pages_received, 2);
		assert_int_equal(move_source_snapshot(cut).owner, HF_VM_OWNER_DESTINATION);
		move_close(moves, 2);
	}
}

static void a_cancelled_move_costs_the_other_nothing(void **state)
{
	(void)state;
	struct move moves[2];
	struct hf_err err = HF_ERR_INIT;

	open_kind(&moves[0], 1, 0);
	open_kind(&moves[1], 2, 1);
	move_start(&moves[1]);
	move_wait_runs(&moves[1]);
	/* Its link is not up yet. */
	assert_int_equal(hf_destination_cancel(moves[0].destination, &err), 0);
	let_go(&moves[1]);
	move_wait_completed(&moves[1]);
	move_check(&moves[1]);
	assert_int_equal(move_destination_snapshot(&moves[0]).status, HF_STATUS_CANCELLED);
	assert_int_equal(move_source_snapshot(&moves[0]).owner, HF_VM_OWNER_SOURCE);
	move_close(moves, 2);
}

static int reserve(void **state)
{
	return make_directory(state) || host_pages_reserve(HUGE_BYTES, 2 * MOVE_HOST_PAGES) ? -1 : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(two_moves_at_once_arrive_whole),
	    cmocka_unit_test(a_link_that_is_cut_costs_the_other_move_nothing),
	    cmocka_unit_test(a_cancelled_move_costs_the_other_nothing),
	};
	return cmocka_run_group_tests(tests, reserve, move_give_back);
}
