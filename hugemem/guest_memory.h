/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest_memory.h - the memory ports over real memory.
 *
 * Purpose: hf_incoming_memory implements core/memory.h on the destination: alias mappings, staging slots,
 * the userfaultfd reader thread and two worker threads (urgent, background). hf_outgoing_memory
 * implements the source's side: read-only mappings of the RAM files and presence from the VMM's pagemap.
 *
 * Ownership: the attach client passed in outlives the object. stop() joins all threads.
 * Threads: incoming: "hf-faults" reads faults and only queues them; "hf-place-u" and "hf-place-b" do the work
 * that needs no transfer and wait for kicks; prepare runs in "hf-place-b". Units: bytes, pages of the block's
 * size. Errors: 0 or -errno with text.
 */
#ifndef HF_HUGEMEM_GUEST_MEMORY_H
#define HF_HUGEMEM_GUEST_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/clock.h"
#include "core/err.h"
#include "core/memory.h"
#include "core/ramblock.h"
#include "hugemem/attach_client.h"

/* ---- destination ---- */

struct hf_incoming_memory;

enum hf_placement_choice {
	HF_PLACEMENT_CHOICE_AUTO = 0,
	HF_PLACEMENT_CHOICE_COPY,
	HF_PLACEMENT_CHOICE_CONTINUE
};

struct hf_incoming_memory_config {
	struct hf_attach_client *attach;
	const struct hf_ramblocks *blocks; /* in the order of the attach client's regions; copied */
	enum hf_placement_choice choice;
	uint32_t staging_slots; /* copy; 0 = default */
	struct hf_clock clock;
	/* The engine's entry points (hf_destination_memory_ready, _fault, _fail, _work). */
	void (*ready)(void *engine, int result, const struct hf_err *err);
	/*
	 * Optional; called once by prepare, before anything of the VMM is touched: what else this program
	 * needs to have for a migration, or why it must be refused.
	 */
	int (*prepare_program)(void *engine, struct hf_err *err);
	void (*fault)(void *engine, uint32_t block, uint64_t page, uint32_t thread_id, uint64_t arrived_ns);
	/* Faults can be lost from here on; told once (hf_destination_fail). */
	void (*failed)(void *engine, const struct hf_err *err);
	int (*work)(void *engine,
		    enum hf_work_class class); /* returns enum hf_work_next of core/destination.h */
};

/* Chooses the placement and checks features; touches no memory yet. */
int hf_incoming_memory_create(struct hf_incoming_memory **out, const struct hf_incoming_memory_config *config,
			      struct hf_err *err);
/* The port for the engine, and why that placement was taken ("shared hugetlbfs, MINOR_HUGETLBFS offered"). */
struct hf_memory hf_incoming_memory_port(struct hf_incoming_memory *memory);
const char *hf_incoming_memory_reason(const struct hf_incoming_memory *memory);
/*
 * Has prepare() come so far that the VMM must be started afresh before another migration comes in? Any
 * thread.
 */
bool hf_incoming_memory_touched(const struct hf_incoming_memory *memory);
/* Starts the worker threads; engine is passed to the callbacks. */
int hf_incoming_memory_start(struct hf_incoming_memory *memory, void *engine, struct hf_err *err);
/* Stops and joins all threads. Does not unregister: missing pages stay missing. */
void hf_incoming_memory_stop(struct hf_incoming_memory *memory);
void hf_incoming_memory_destroy(struct hf_incoming_memory *memory);

/* ---- source ---- */

struct hf_outgoing_memory;

struct hf_outgoing_region {
	const char *idstr;
	const char *path; /* the RAM file, on hugetlbfs; NULL: none, which is refused */
	uint64_t length_bytes;
};

/*
 * Maps the RAM files of a VMM read-only and finds each in /proc/PID/smaps, so that presence can be read
 * from /proc/PID/pagemap. Fills `blocks` (initialised, empty) with idstr, length and page size. Memory that
 * is not hugetlbfs, or not mapped shared by the VMM, is refused.
 */
int hf_outgoing_memory_create(struct hf_outgoing_memory **out, pid_t vmm_pid,
			      const struct hf_outgoing_region *regions, uint32_t count,
			      struct hf_ramblocks *blocks, struct hf_err *err);
struct hf_source_memory hf_outgoing_memory_port(struct hf_outgoing_memory *memory);
void hf_outgoing_memory_destroy(struct hf_outgoing_memory *memory);

#endif
