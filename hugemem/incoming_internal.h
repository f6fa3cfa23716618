/* SPDX-License-Identifier: Apache-2.0 */
/*
 * incoming_internal.h - what incoming_memory.c, _begin.c, _prepare.c and _takeover.c share. Internal to
 * hugemem/.
 *
 * Purpose: the object behind struct hf_incoming_memory and the steps of making it ready.
 * Ownership: as the groups of the struct say.
 * Threads: as the groups of the struct say.
 * Units: bytes, pages of the block's size.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_HUGEMEM_INCOMING_INTERNAL_H
#define HF_HUGEMEM_INCOMING_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hugemem/fault_reader.h"
#include "hugemem/guest_memory.h"
#include "hugemem/place_workers.h"
#include "hugemem/placer.h"

struct hf_incoming_memory {
	/* Set at creation. */
	struct hf_incoming_memory_config config; /* blocks and taken_over point to the copies below */
	struct hf_ramblocks blocks;
	struct hf_taken_over taken_over;
	const struct hf_attached_region *regions; /* the attach client's */
	enum hf_placement placement;
	char reason[192];
	uint32_t slots; /* 0 with continue */
	unsigned modes; /* enum hf_userfault_mode, ored */
	uint64_t features;
	bool poison;		 /* the kernel can poison pages */
	struct hf_placer placer; /* userfault_fd and zeros: set by prepare */
	struct hf_place_workers *workers;

	/* Set at start. */
	void *engine;

	/* Of begin: the owner's, then the background worker's, which joins the thread. */
	pthread_t allocator;
	bool allocating; /* there is a thread to join */
	void (*allocation_ended)(void *opaque);
	void *allocation_opaque;
	int allocation_result;
	struct hf_err allocation_err; /* valid once allocation_over */

	/* Set by begin or prepare, constant from ready() on. */
	enum hf_placement landings; /* whose landings were made */
	bool left_over;	 /* an agent before this one had the ranges registered, and placed nothing */
	bool owns_pages; /* registered, and nobody has a page: what the files hold is this program's */
	uint8_t **alias; /* one a block; continue */
	uint8_t *staging;
	size_t staging_bytes;
	size_t zeros_bytes;
	struct hf_fault_reader *reader;
	bool released; /* taken over after all ranges were unregistered: no userfault_fd */

	/* Any thread. */
	atomic_bool stopping;
	atomic_bool poisoned; /* a page is, or was about to be */
	atomic_bool touched;  /* the VMM's ranges are registered, or may be */
	atomic_bool in_vain;  /* what is allocated is not wanted any more */
	atomic_bool allocation_over;
	_Atomic uint64_t allocated_bytes;
};

extern const char *const hf_placement_names[]; /* by enum hf_placement */

/* Every way in which the VMM's mappings could be others than the ones it named, or hold pages already. */
int hf_incoming_check_mappings(const struct hf_incoming_memory *memory, struct hf_err *err);
/* The VMM has no page at all; -EEXIST with block and page. */
int hf_incoming_check_unmapped(const struct hf_incoming_memory *memory, struct hf_err *err);
/* How many regions wait for missing pages. *unguarded: the first that does not, NULL if there is none. */
int hf_incoming_count_guarded(const struct hf_incoming_memory *memory, uint32_t *guarded,
			      const struct hf_attached_region **unguarded, struct hf_err *err);
/* Runs in the background worker; needs start(). */
int hf_incoming_prepare(struct hf_incoming_memory *memory, struct hf_err *err);
/* Of it: up to the proof that nobody has a page. owns_pages is set if it succeeds. */
int hf_incoming_guard(struct hf_incoming_memory *memory, struct hf_err *err);
/* Its steps, which taking over has as well. */
int hf_incoming_prepare_program(const struct hf_incoming_memory *memory, struct hf_err *err);
int hf_incoming_take_resources(struct hf_incoming_memory *memory, struct hf_err *err);
int hf_incoming_register(struct hf_incoming_memory *memory, struct hf_err *err);
int hf_incoming_populate(struct hf_incoming_memory *memory, struct hf_err *err);
int hf_incoming_start_reader(struct hf_incoming_memory *memory, struct hf_err *err);
/* Frees what begin or prepare has made, however far it came; the reader has been destroyed. */
void hf_incoming_unprepare(struct hf_incoming_memory *memory);
void hf_incoming_unmap_landings(struct hf_incoming_memory *memory);

/* Waits for the thread that begin started. True: there was one and it has allocated all; else see *result. */
bool hf_incoming_await_allocation(struct hf_incoming_memory *memory, int *result, struct hf_err *err);
/* Takes every page out of shared files and has the host reserve it again. Nobody may have one. */
int hf_incoming_discard_pages(struct hf_incoming_memory *memory, struct hf_err *err);

/* At creation: is it that VMM, and may it be that placement? Narrows config.choice to it. */
int hf_incoming_check_taken_over(struct hf_incoming_memory *memory, struct hf_err *err);
/* Instead of hf_incoming_prepare(), where something is taken over. */
int hf_incoming_take_over(struct hf_incoming_memory *memory, struct hf_err *err);
/* Is the page's received bit set? No, where nothing is taken over. Constant until ready(). */
bool hf_incoming_was_received(const struct hf_incoming_memory *memory, uint32_t block, uint64_t page);

#endif
