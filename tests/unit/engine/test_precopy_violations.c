/* SPDX-License-Identifier: Apache-2.0 */
/* What a source may not say of rounds of pre-copy, and that each of it ends the migration with words for it.
 */
#include "tests/unit/engine/rig_rounds.h"

#include <string.h>

static void without_the_feature(struct rig *rig)
{
	rig->link.features &= ~HF_WIRE_FEATURE_PRECOPY;
	rig_destination_at(rig, AT_ACTIVE);
	rig_hear_piece(rig, RIG_SOURCE_ROM, 0, 4, 1);
}

static void end_without_the_feature(struct rig *rig)
{
	rig->link.features &= ~HF_WIRE_FEATURE_PRECOPY;
	rig_destination_at(rig, AT_ACTIVE);
	rig_hear_round_end(rig, 1, 0, 0);
}

static void before_ready(struct rig *rig)
{
	rig_destination_at(rig, AT_ADVISE);
	rig_hear_piece(rig, RIG_SOURCE_ROM, 0, 4, 1);
}

static void presence_without_the_final_set(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_round_whole(rig, 1, 1);
	rig_hear(rig, HF_WIRE_PRESENCE);
}

static void set_in_a_round(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_round_begins(rig, 1, 1);
	rig_hear_piece(rig, RIG_SOURCE_ROM, 0, 4, 1);
}

static void round_in_a_round(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_round_begins(rig, 1, 1);
	rig_hear_round_end(rig, 2, 0, 0);
}

static void final_in_a_round(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_round_begins(rig, 1, 1);
	rig_hear_round_end(rig, 1, HF_WIRE_ROUND_FINAL, 0);
}

static void number_left_out(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_hear_round_end(rig, 2, 0, 0);
}

static void cut_before_it_began(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_hear_round_end(rig, 1, HF_WIRE_ROUND_CUT, 0);
}

static void set_after_the_final_one(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_round_final(rig, 1, 0, 0);
	rig_hear_piece(rig, RIG_SOURCE_ROM, 0, 4, 1);
}

static void end_after_the_final_one(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_round_final(rig, 1, 0, 0);
	rig_hear_round_end(rig, 2, 0, 0);
}

static void piece_backwards(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_hear_piece(rig, RIG_SOURCE_RAM, 2, 2, 1);
	rig_hear_piece(rig, RIG_SOURCE_RAM, 3, 2, 1);
}

static void block_backwards(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_hear_piece(rig, RIG_SOURCE_RAM, 2, 2, 1);
	rig_hear_piece(rig, RIG_SOURCE_ROM, 0, 2, 1);
}

static void block_unknown(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_hear_piece(rig, 2, 0, 2, 1);
}

static void behind_the_block(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_hear_piece(rig, RIG_SOURCE_RAM, 6, 3, 1);
}

static void far_behind_the_block(struct rig *rig)
{
	rig_rounds_begin(rig);
	rig_hear_piece(rig, RIG_SOURCE_ROM, 0xfffffff0, 3, 1);
}

static void what_a_source_may_not_say_ends_the_migration(void **state)
{
	(void)state;
	static const struct {
		void (*say)(struct rig *rig);
		const char *words;
	} violations[] = {
	    {without_the_feature, "ROUND, which is not expected"},
	    {end_without_the_feature, "ROUND_END, which is not expected"},
	    {before_ready, "ROUND, which is not expected"},
	    {presence_without_the_final_set, "PRESENCE, which is not expected"},
	    {set_in_a_round, "ROUND, which is not expected"},
	    {round_in_a_round, "ended the set of round 2 while 1 was under way"},
	    {final_in_a_round, "ended the set of round 1 while 1 was under way"},
	    {number_left_out, "ended the set of round 2 while 0 was the last"},
	    {cut_before_it_began, "ended the set of round 1"},
	    {set_after_the_final_one, "ROUND, which is not expected"},
	    {end_after_the_final_one, "ROUND_END, which is not expected"},
	    {piece_backwards, "out of order"},
	    {block_backwards, "out of order"},
	    {block_unknown, "out of order"},
	    {behind_the_block, "out of order"},
	    {far_behind_the_block, "out of order"},
	};
	for (size_t i = 0; i < sizeof(violations) / sizeof(violations[0]); i++) {
		struct rig *rig = rig_create();
		rig->link.features |= HF_WIRE_FEATURE_PRECOPY;
		violations[i].say(rig);
		rig_expect_violation(rig, violations[i].words);
		rig_destroy(rig);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_a_source_may_not_say_ends_the_migration),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
