/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig_rounds.h - a source that says rounds of pre-copy to a destination on the rig.
 *
 * Purpose: what it names, and when. Ownership, threads, errors: rig.h's. Units: set bits: ram pages 0 to 7 in
 * the low byte, rom pages 0 to 3 in the next four bits.
 */
#ifndef HF_TESTS_UNIT_ENGINE_RIG_ROUNDS_H
#define HF_TESTS_UNIT_ENGINE_RIG_ROUNDS_H

#include "tests/unit/engine/rig.h"

#define RIG_ROM_SHIFT  RIG_RAM_PAGES
#define RIG_ALL_PAGES  0xfffu
#define RIG_SOURCE_ROM 0u
#define RIG_SOURCE_RAM 1u

/* The migration is under way, and may have rounds. */
void rig_rounds_begin(struct rig *rig);
void rig_hear_piece(struct rig *rig, uint32_t block, uint32_t first, uint32_t pages, uint64_t bits);
void rig_hear_round_end(struct rig *rig, uint32_t round, uint32_t flags, uint64_t limit_bytes_per_s);
void rig_hear_set(struct rig *rig, uint32_t set);
void rig_round_begins(struct rig *rig, uint32_t round, uint32_t set);
void rig_round_whole(struct rig *rig, uint32_t round, uint32_t set);
/* The VM has stopped: the final set, and on as without rounds. */
void rig_round_final(struct rig *rig, uint32_t round, uint32_t stale, uint32_t flags);

#endif
