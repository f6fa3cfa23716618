/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source_world.h - the ports of a source engine under a fuzzer, and what must be true of every call.
 *
 * Purpose: source_world.c is the link, the memory, the VMM and the recorder; it knows what has been said and
 * heard, and ends the process when the engine asks for what it must not. source.c is the input: it decides
 * what happens next, and how each port answers.
 * Ownership: a world belongs to one run.
 * Threads: one; in the middle of a port call other "threads" run (world.inside), since no lock is held there.
 * Units: pages of 16 KiB (block 0, "ram") and 4 KiB (block 1, "rom"), chunks of 4 KiB.
 * Errors: broken rules abort.
 */
#ifndef HF_TESTS_FUZZ_SOURCE_WORLD_H
#define HF_TESTS_FUZZ_SOURCE_WORLD_H

#include "core/source.h"
#include "core/wire.h"
#include "tests/fuzz/fuzz.h"

enum {
	RAM_PAGES = 4,
	ROM_PAGES = 3,
	PAGES = RAM_PAGES + ROM_PAGES,
	CHUNK_BYTES = 4096,
	RAM_PAGE_BYTES = 4 * CHUNK_BYTES,
	MEMORY_BYTES = RAM_PAGES * RAM_PAGE_BYTES + ROM_PAGES * CHUNK_BYTES,
	BLOCKS = 2,
	STATE_BYTES = 300,
};

struct world {
	struct fuzz_input *input;
	struct hf_source *source;
	struct hf_ramblocks blocks;
	uint64_t now_ns, epoch;
	uint32_t depth; /* of port calls inside port calls */
	void (*inside)(struct world *world);
	unsigned running; /* threads that are in the engine now */
	bool kind;	  /* ports refuse nothing: the end of a run */

	/* Of a session that goes on. */
	bool recovers, recording, refused_heard;
	enum hf_record record, on_record; /* being written; written */
	uint64_t epoch_last;

	/* What was said and heard. */
	uint32_t sent[HF_WIRE_FIRST + 1];
	uint32_t presence_block, presence_page;
	size_t device_bytes;
	bool measures, link_heard, ready_heard, loaded_heard, resumed_heard, complete_heard, fail_heard;

	/* The VM. */
	bool vm_runs, vm_busy, stopped, stopped_by_others, saved, resume_failed;
	enum hf_vm_op vm_op;
	bool present[PAGES];
	uint8_t memory[MEMORY_BYTES], state[STATE_BYTES];

	/* Rounds; a bit a page. */
	bool rounds, only, spoken, harvesting, final;
	uint32_t written, found; /* since the last harvest; by harvests, and not named since */
	uint32_t known_holes;	 /* the last harvest has said so */
	uint32_t named, round;	 /* in the set that is being told; in the round under way */
	uint32_t told, done;
};

/* The shape of the session is the input's. */
void world_create(struct world *world, struct fuzz_input *input, void (*inside)(struct world *world));
void world_destroy(struct world *world);

/* How a port answers: 0, or the failure if the input says so. */
int world_answer(struct world *world, int failure);
struct hf_source_snapshot world_snapshot(struct world *world);
uint8_t *world_address(struct world *world, uint32_t block, uint64_t offset_bytes);
uint32_t world_page(uint32_t block, uint64_t offset_bytes);

#endif
