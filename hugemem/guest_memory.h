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
 * that needs no transfer and wait for kicks; prepare runs in "hf-place-b", what begin starts in
 * "hf-allocate". Units: bytes, pages of the block's size. Errors: 0 or -errno with text.
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
#include "core/transport.h"
#include "hugemem/attach_client.h"
#include "hugemem/vmm_identity.h"

/* ---- destination ---- */

struct hf_incoming_memory;

enum hf_placement_choice {
	HF_PLACEMENT_CHOICE_AUTO = 0,
	HF_PLACEMENT_CHOICE_COPY,
	HF_PLACEMENT_CHOICE_CONTINUE
};

/*
 * What an agent that died in postcopy or in a pause has left for the next one (kept_pages.h keeps it). With
 * it, prepare() begins nothing: it goes on where the other one ended.
 *
 * What the engine has to keep to, in this mode:
 *  - the received bits are those its predecessor set, by the rules of every migration (`continue`: content
 *    whole, bit, CONTINUE; `copy`: COPY, bit). prepare() reads them; the engine sets none before ready();
 *  - each page without a bit may hold part of its content in the alias, so clear() is told it is dirty;
 *  - place_zero() of a page without a bit is right only if nothing was ever fetched for it: its presence bit
 *    is clear in a map that is complete. Else its chunks are fetched again;
 *  - a page with a bit is never fetched, and needs nothing before it faults: place_again() serves that.
 *    Under `continue` it may not be mapped yet (its agent died before CONTINUE); release() makes that good;
 *  - faults come from ready() on, also those the other agent had read and not answered: the VMM raises them
 *    again. Blocked time counts anew from there;
 *  - with `poisoning`, each page without a bit that is present is poisoned (again), and nothing is fetched;
 *  - when every page has its bit, only release() is left, if that was not done already. It may be repeated.
 */
struct hf_taken_over {
	enum hf_placement placement; /* never another than before */
	struct hf_vmm_identity vmm;
	/* As core/pagemap.h lays them out, over the blocks of the config in their order (the caller has
	 * compared them: hf_kept_pages_check_vmm()). Outlives the object. */
	const uint8_t *received;
	/* Pages were being poisoned: what has no bit is not fetched again, so nothing is allocated for it. */
	bool poisoning;
	bool settled; /* all of them are poisoned: the registration may have ended */
};

struct hf_incoming_memory_config {
	struct hf_attach_client *attach;
	const struct hf_ramblocks *blocks; /* in the order of the attach client's regions; copied */
	enum hf_placement_choice choice;
	uint32_t staging_slots; /* copy; 0 = default */
	struct hf_clock clock;
	/*
	 * NULL: memory that was never received before. Else a `choice` other than auto or the placement of
	 * then is refused (-EINVAL), and so is another VMM (-ESTALE).
	 */
	const struct hf_taken_over *taken_over; /* copied */
	/* The engine's entry points (hf_destination_memory_ready, _fault, _fail, _work). */
	void (*ready)(void *engine, int result, const struct hf_err *err);
	/*
	 * Optional; called once by prepare, first: what else this program needs to have for a migration, or
	 * why it must be refused.
	 */
	int (*prepare_program)(void *engine, struct hf_err *err);
	/*
	 * Optional; called before each page is poisoned, in a worker: notes durably, for the next process,
	 * that poisoning has begun (taken_over.poisoning); and before such memory is released: that it is
	 * settled.
	 */
	void (*poisoning)(void *engine, bool settled);
	void (*fault)(void *engine, uint32_t block, uint64_t page, uint32_t thread_id, uint64_t arrived_ns);
	/* Faults can be lost from here on; told once (hf_destination_fail). */
	void (*failed)(void *engine, const struct hf_err *err);
	int (*work)(void *engine,
		    enum hf_work_class class); /* returns enum hf_work_next of core/destination.h */
};

/*
 * Chooses the placement and checks features; touches no memory yet. With taken_over, ready() then hears one
 * of these, and nothing has been placed:
 *
 *   -ESTALE   missing pages are not guarded any more, or by another registration than then. What the VMM has
 *             read may be zeros: it must not run, nor go on running.
 *   -EBUSY    the predecessor has not ended within 5 s; its process id is in the text. Try again.
 *   others    this host lacks something (huge pages, locked memory). The VMM goes on waiting: help, then
 *             start the agent again.
 */
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
/*
 * The memory that landings lie in, for a link that must know it: one range a block (continue), or the staging
 * slots. Valid from ready() on, until destroy. Returns how many; at most HF_RAMBLOCKS_MAX.
 */
uint32_t hf_incoming_memory_landings(const struct hf_incoming_memory *memory,
				     struct hf_lent_range ranges[static HF_RAMBLOCKS_MAX]);
/*
 * Does before there is a source what needs none: checks, takes the landings and has the VMM's ranges
 * registered; `continue`: begins to allocate, in a thread of its own that calls ended() when it is over.
 * Faults wait in the kernel from here on. What the source's operator wishes may still be another placement.
 * If it fails, the VMM and this object are as before, and prepare() tries everything again. Not for
 * taken_over.
 */
int hf_incoming_memory_begin(struct hf_incoming_memory *memory, void (*ended)(void *opaque), void *opaque,
			     struct hf_err *err);
/* How far begin() has got. Its caller's thread, before start(). */
struct hf_incoming_progress {
	uint64_t allocated_bytes, total_bytes; /* `copy` allocates nothing in advance: 0 of 0 */
	bool over;
	int result; /* when it is over; err as ever */
	struct hf_err err;
};
void hf_incoming_memory_progress(struct hf_incoming_memory *memory, struct hf_incoming_progress *progress);
/*
 * After stop(), and when no link can touch a landing any more: makes the waiting VMM what it was before
 * begin() or prepare(). Only where nothing was placed: -EEXIST if the VMM has a page. After a failure the VMM
 * has to be started afresh (touched() stays).
 */
int hf_incoming_memory_give_back(struct hf_incoming_memory *memory, struct hf_err *err);
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
/* -EBUSY: another process may write to the memory through a mapping of its own, which no tracking sees. */
int hf_outgoing_memory_check_unshared(const struct hf_outgoing_memory *memory, struct hf_err *err);
/*
 * Makes the port able to give pages back, or says why that would be unsound here. own_tracking: whoever
 * tracks the VM's writes is the caller, and asks for none once a page is given back. begin() is called before
 * the first page goes, by the thread that gives it back; if it fails the page stays, and the next try calls
 * again.
 */
int hf_outgoing_memory_allow_release(struct hf_outgoing_memory *memory, bool own_tracking,
				     int (*begin)(void *, struct hf_err *), void *opaque, struct hf_err *err);
/* Starts the thread that gives pages back; work() is hf_source_release_work() of the engine. */
int hf_outgoing_memory_start_release(struct hf_outgoing_memory *memory, bool (*work)(void *engine),
				     void *engine, struct hf_err *err);
/* Joins it. Nothing is given back any more. Harmless where none was started. */
void hf_outgoing_memory_stop_release(struct hf_outgoing_memory *memory);
/*
 * For a link whose adapter reads the memory by itself: range i is block i, mapped so that it can be
 * registered. Registering allocates every page that is not there. So which pages exist is looked up before,
 * and from then on presence is that and what the VMM has mapped since; unless another process maps the memory
 * too, whose pages could not be told from those that were allocated: then all are present. The ranges are
 * valid until destroy; asking again gives the same. Not for memory of which pages are given back.
 */
int hf_outgoing_memory_lend(struct hf_outgoing_memory *memory,
			    struct hf_lent_range ranges[static HF_RAMBLOCKS_MAX], struct hf_err *err);
/*
 * The VM is elsewhere and its VMM has ended: gives every page of the RAM files back to the host. A VMM that
 * was killed leaves its files.
 */
int hf_outgoing_memory_discard(struct hf_outgoing_memory *memory, struct hf_err *err);
void hf_outgoing_memory_destroy(struct hf_outgoing_memory *memory);

#endif
