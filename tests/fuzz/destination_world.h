/* SPDX-License-Identifier: Apache-2.0 */
/*
 * destination_world.h - the ports of a destination engine under a fuzzer, and what must be true of every
 * call.
 *
 * Purpose: destination_world.c is the link, the memory and the VMM; it knows what has been said and what lies
 * where, and ends the process when the engine asks for what it must not. destination.c is the input: it
 * decides what happens next, and how each port answers.
 * Ownership: a world belongs to one run.
 * Threads: one; in the middle of a port call other "threads" run (world.inside), since no lock is held there.
 * Units: pages of 16 KiB (block 0, "ram") and 4 KiB (block 1, "rom"), chunks of 4 KiB.
 * Errors: broken rules abort.
 */
#ifndef HF_TESTS_FUZZ_DESTINATION_WORLD_H
#define HF_TESTS_FUZZ_DESTINATION_WORLD_H

#include "core/destination.h"
#include "core/wire.h"
#include "tests/fuzz/fuzz.h"

enum {
	RAM_PAGES = 4,
	ROM_PAGES = 3,
	PAGES = RAM_PAGES + ROM_PAGES,
	CHUNK_BYTES = 4096,
	RAM_CHUNKS = 4,
	RAM_PAGE_BYTES = RAM_CHUNKS * CHUNK_BYTES,
	BLOCKS = 2,
	SLOTS = 2, /* landings of `copy` */
	CAPACITY = 4,
	FETCHES_MAX = HF_FETCH_CLASSES * CAPACITY,
	STATE_MAX_BYTES = 4096,
	THREADS = 3,
};

struct world_page {
	bool present;	   /* the source's map says so */
	uint8_t zero_mask; /* chunks that are zeros on the source */
	bool visible;	   /* to the guest */
	bool placing;
	bool waited_for; /* a thread has faulted and was not woken */
	uint8_t version; /* how often a set has named it: what it holds is another each time */
};

struct world {
	struct fuzz_input *input;
	struct hf_destination *destination;
	struct hf_ramblocks blocks;
	struct hf_memory memory; /* as the engine knows it */
	uint64_t now_ns;
	uint32_t depth;	  /* of port calls inside port calls */
	unsigned running; /* threads that are in the engine now */
	void (*inside)(struct world *world);
	bool kind; /* ports refuse nothing: the end of a run */

	/* The link. */
	uint64_t epoch; /* 0: down */
	bool link_failing;
	struct hf_fetch fetches[FETCHES_MAX];
	uint32_t fetch_count;
	uint32_t sent[HF_WIRE_ROUND_DONE + 1]; /* how often each message was said */

	/* Of a session that goes on. */
	bool recovers, recording, answers_fail, vmm_gone;
	enum hf_record record, on_record; /* being written; written */
	uint64_t epoch_last;

	/* Rounds; a bit a page. */
	bool rounds, round_open, final, whole;
	uint32_t round;
	uint8_t named, in_round; /* in the set that is being told; in the last one */

	/* What the source has said. */
	bool advised;
	uint32_t source_of_block[BLOCKS];
	uint32_t presence_block, presence_page; /* next, in the source's numbers */
	bool presence_whole;
	uint8_t state[STATE_MAX_BYTES];
	size_t state_bytes;
	bool device_ended, run_heard, run_heard_once, fail_heard; /* run_heard: on this link */

	/* The VM and its memory. */
	bool vm_busy;
	enum hf_vm_op vm_op;
	bool load_asked, load_done, run_asked, run_done;
	bool prepare_asked, prepared, memory_failed, released;
	struct world_page pages[PAGES];
	uint8_t alias[PAGES][RAM_PAGE_BYTES];
	uint8_t staging[SLOTS][RAM_PAGE_BYTES];
};

void world_create(struct world *world, struct fuzz_input *input, void (*inside)(struct world *world));
void world_destroy(struct world *world);

uint32_t world_page(uint32_t block, uint64_t page);
/* It is here, visible or not: its landing holds what the source holds. */
bool world_has(struct world *world, uint32_t page);
struct hf_destination_snapshot world_snapshot(struct world *world);
/* Ends fetch `index`; OK writes the bytes the source has, FAILED leaves half of something. */
void world_end_fetch(struct world *world, uint32_t index, enum hf_fetch_status status);
/* A fault of one of the guest's threads, if that can happen now. */
void world_fault(struct world *world, uint32_t page, uint32_t thread);

#endif
