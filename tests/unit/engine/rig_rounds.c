/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/engine/rig_rounds.h"

void rig_rounds_begin(struct rig *rig)
{
	rig->link.features |= HF_WIRE_FEATURE_PRECOPY;
	rig_destination_at(rig, AT_ACTIVE);
}

void rig_hear_piece(struct rig *rig, uint32_t block, uint32_t first, uint32_t pages, uint64_t bits)
{
	struct rig_message message;
	rig_presence_message(block, first, pages, bits, &message);
	rig_hear_bytes(rig, HF_WIRE_ROUND, message.payload, message.bytes);
}

void rig_hear_round_end(struct rig *rig, uint32_t round, uint32_t flags, uint64_t limit_bytes_per_s)
{
	struct hf_wire_round_end end = {
	    .round = round, .flags = flags, .limit_bytes_per_s = limit_bytes_per_s};
	uint8_t payload[64];
	ssize_t bytes = hf_wire_encode_round_end(&end, payload, sizeof(payload));
	assert_true(bytes > 0);
	rig_hear_bytes(rig, HF_WIRE_ROUND_END, payload, (size_t)bytes);
}

void rig_hear_set(struct rig *rig, uint32_t set)
{
	if (set >> RIG_ROM_SHIFT)
		rig_hear_piece(rig, RIG_SOURCE_ROM, 0, RIG_ROM_PAGES, set >> RIG_ROM_SHIFT);
	if (set & 0xff)
		rig_hear_piece(rig, RIG_SOURCE_RAM, 0, RIG_RAM_PAGES, set & 0xff);
}

void rig_round_begins(struct rig *rig, uint32_t round, uint32_t set)
{
	rig_hear_set(rig, set);
	rig_hear_round_end(rig, round, 0, 0);
}

void rig_round_whole(struct rig *rig, uint32_t round, uint32_t set)
{
	rig_round_begins(rig, round, set);
	rig_land_all(rig);
	assert_int_equal(rig->sent[HF_WIRE_ROUND_DONE].times, round);
}

void rig_round_final(struct rig *rig, uint32_t round, uint32_t stale, uint32_t flags)
{
	rig_hear_set(rig, stale);
	rig_hear_round_end(rig, round, HF_WIRE_ROUND_FINAL | flags, 0);
}
