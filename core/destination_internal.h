/* SPDX-License-Identifier: Apache-2.0 */
/*
 * destination_internal.h - what the parts of the destination engine share. Not a public header.
 *
 * Purpose: destination.c holds the life of a migration, destination_pages.c the way of a page,
 * destination_fetch.c how its bytes come, destination_placed.c what the source hears of it,
 * destination_precopy.c what comes before the source VM stops; all work on this struct. Ownership, threads,
 * units, errors: as in destination.h; "locked" in a comment means that the caller holds destination->lock.
 */
#ifndef HF_CORE_DESTINATION_INTERNAL_H
#define HF_CORE_DESTINATION_INTERNAL_H

#include "core/destination.h"
#include "core/limiter.h"
#include "core/link_probe.h"
#include "core/lock.h"
#include "core/pagemap.h"
#include "core/ports_internal.h"
#include "core/schedule.h"
#include "core/wire.h"

#define HF_TRANSFERS_MAX   256u /* pages in flight at once under `continue` */
#define HF_TRANSFER_NONE   UINT16_MAX
#define HF_FETCH_SLOT_NONE UINT32_MAX

/* Where a page is on its way. */
enum page_state {
	PAGE_MISSING = 0,   /* nothing under way; the background will come to it */
	PAGE_URGENT_WAIT,   /* a thread waits; in the urgent queue until a transfer is free */
	PAGE_FETCHING,	    /* has a transfer; chunks to post or on their way */
	PAGE_PLACING,	    /* all chunks landed; a thread is making it visible */
	PAGE_LOCAL_WAIT,    /* in the local queue: work without a transfer of bytes */
	PAGE_LOCAL_PLACING, /* a worker does that work now */
	PAGE_RECEIVED,	    /* visible to the guest */
};

struct page_entry {
	uint32_t next;	   /* in the queue the state names */
	uint16_t transfer; /* FETCHING, PLACING; LOCAL_WAIT when the bytes have landed already */
	uint8_t state;	   /* enum page_state */
	bool awaited : 1;  /* a thread waits: counted in schedule.urgent_pages until the bytes have landed */
	bool refault : 1;  /* faulted while it was being placed: place again afterwards */
	bool counted : 1;  /* in pages_received: it was visible once */
	bool poisoned : 1; /* its bytes are lost: RECEIVED, but never counted */
	bool landed : 1;   /* bytes landed here before: the landing is no longer zeros */
};

/* A page whose chunks are being fetched. */
struct transfer {
	uint32_t page;
	uint32_t chunks;	/* of the page */
	uint32_t chunks_posted; /* in order: 0 .. chunks_posted - 1 */
	uint32_t chunks_done;	/* landed, failed or cancelled */
	uint32_t chunks_zero;
	uint16_t next;		   /* in the class's list or the free list */
	enum hf_fetch_class class; /* of the chunks still to be posted */
	bool failed;
	bool background_slot; /* counted against the background's share of transfers */
	bool named;	      /* by FIRST */
};

struct transfer_list {
	uint16_t head, tail;
};

struct page_queue {
	uint32_t head, tail;
};

/* A fetch the transport holds. Its index and generation make the id, so that a stale done is noticed. */
struct fetch_slot {
	struct hf_schedule_chunk chunk;
	uint64_t offset_bytes; /* in the page */
	uint32_t generation;
	uint32_t next_free;
	uint16_t transfer;
	bool busy;
};

/* What to do once the lock is released (rule b). */
enum {
	ACTION_NOTIFY = 1 << 0,
	ACTION_PREPARE = 1 << 1,
	ACTION_SEND_READY = 1 << 2,
	ACTION_LOAD = 1 << 3,
	ACTION_SEND_LOADED = 1 << 4,
	ACTION_RUN = 1 << 5,
	ACTION_SEND_RESUMED = 1 << 6,
	ACTION_KICK_URGENT = 1 << 7,
	ACTION_KICK_BACKGROUND = 1 << 8,
	ACTION_PUMP = 1 << 9,
	ACTION_RELEASE = 1 << 10,
	ACTION_SEND_COMPLETE = 1 << 11,
	ACTION_SEND_FAIL = 1 << 12,
	ACTION_PROBE = 1 << 13,
	ACTION_SEND_LINK = 1 << 14,
	ACTION_RECORD = 1 << 15,
	ACTION_KILL = 1 << 16,
	ACTION_SEND_REFUSED = 1 << 17,
	ACTION_TAKE_OVER = 1 << 18,
	ACTION_SAY_PLACED = 1 << 19,
	ACTION_SEND_ROUND_DONE = 1 << 20,
	ACTION_CLEAR_HOLES = 1 << 21,
};

/* Pages that come while the source VM runs (destination_precopy.c). */
enum round_state {
	ROUND_NONE = 0,
	ROUND_RUNS, /* its pages are being fetched */
	ROUND_CUT,  /* what is on its way comes in, and then it has ended */
};

struct precopy {
	bool spoken;	 /* the session's first link has the feature */
	bool final;	 /* the final set is known */
	bool whole;	 /* LOADED wants every page */
	bool load_waits; /* the VM is loaded, pages are missing */
	enum round_state state;
	uint32_t round;		      /* the one under way, or the last */
	uint32_t set_block, set_page; /* where the next ROUND may go on, the source's numbering */
	struct hf_pagemap landed;     /* whole, and not named by a set since; has bits from ADVISE on */
	struct hf_pagemap set;	      /* as far as it was heard */
	struct hf_limiter limiter;
	uint64_t began_ns, moved_before_bytes;
	uint32_t rounds_done;
	uint64_t moved_bytes, duration_ns, rate_bytes_per_s; /* of the last round */
	uint64_t moved_total_bytes;
};

/* Pages that loading will touch, as the source has named them (destination_first.c). */
struct first_pages {
	bool heard;
	uint32_t pages[HF_WIRE_FIRST_PAGES_MAX];
	uint32_t count;
	uint32_t next;	    /* those before it are under way, or here */
	uint32_t asked_for; /* before anybody waited for them */
};

struct hf_destination {
	/* Set at creation. */
	struct hf_clock clock;
	struct hf_memory memory;
	struct hf_transport transport;
	struct hf_vm vm;
	struct hf_recorder recorder;
	struct hf_ramblocks blocks;
	char vm_name[256];
	uint32_t chunk_bytes;
	uint32_t transfers_count, background_transfers_max, background_transfers_kept;
	uint64_t max_page_stall_ns;
	void (*notify)(void *opaque);
	void *opaque;

	struct hf_lock lock;

	/* Under the lock: life. */
	enum hf_status status;
	enum hf_incoming incoming;
	enum hf_handover_destination handover;
	enum hf_record recording; /* being written */
	struct hf_err err;
	struct hf_err refusal; /* why the VM does not run here */
	uint64_t epoch;	       /* of the link that is up; 0 = none */
	uint64_t epoch_last;
	uint32_t links_used;
	unsigned restart_actions; /* of a restarted engine, once its memory is taken over */
	bool taking_over, takeover_failed;
	/* Of the link that is up: */
	bool advised;	    /* ADVISE was heard */
	bool run_heard;	    /* RUN was */
	bool run_waits;	    /* RUN was, and the memory is not taken over yet */
	bool resumed_begun; /* RESUMED is leaving */
	bool resumed_said;  /* RESUMED has left over it */
	bool fetching;	    /* pages may be asked for */
	struct hf_link_info link;
	struct hf_link_probe *probe; /* made at ADVISE, stays until destruction */
	struct hf_link_figures link_figures;
	char source_vm_name[256];
	uint32_t *block_of_source; /* local index of each source block; NULL before ADVISE */
	uint32_t *source_of_block;
	uint32_t presence_block, presence_page; /* next the source must describe, its numbering */
	uint8_t *device_state;
	uint64_t device_state_bytes, device_state_room_bytes;
	bool recoverable; /* the session has the feature */
	bool has_state;	  /* the VMM was given it */
	bool resumed;	  /* RESUMED has left: the end may be said */
	bool releasing;	  /* every page is placed, ranges are being unregistered */
	bool released;
	bool vmm_ended;
	bool complete_said;
	bool poisoning; /* for good: no link is taken any more, what is missing is poisoned */
	bool presence_complete;
	bool background_held;
	uint32_t placement_wish; /* enum hf_wire_placement_wish */
	uint64_t link_up_ns, advise_ns, device_end_ns, run_ns, placed_last_ns, end_ns;
	uint64_t setup_time_ns, load_time_ns, downtime_ns;
	uint64_t record_ns, record_time_ns;

	/* Under the lock: pages. Allocated at creation; nothing is allocated per page. */
	struct page_entry *pages;
	struct hf_pagemap received;   /* content is valid; the one truth about it */
	struct hf_pagemap present;    /* exists on the source */
	struct hf_pagemap todo_fetch; /* exists, PAGE_MISSING */
	struct hf_pagemap todo_zero;  /* does not exist, PAGE_MISSING */
	uint32_t todo_zero_cursor;
	struct page_queue urgent_wait;
	struct page_queue local_wait;
	struct transfer *transfers;
	struct transfer_list active[HF_FETCH_CLASSES]; /* with chunks to post */
	struct fetch_slot *slots;		       /* allocated at link_up for the capacity of the link */
	uint32_t slots_count, slots_free;
	uint32_t outstanding[HF_FETCH_CLASSES];
	bool refused[HF_FETCH_CLASSES]; /* by the transport: nothing of the class until the next done */
	bool fetch_broken;		/* a fetch failed: none is posted until the next link_up */
	uint16_t transfers_free, transfers_background;
	uint32_t transfers_of[HF_FETCH_CLASSES]; /* in use; a promoted one is urgent */
	uint32_t urgent_fetching;		 /* of the urgent ones those with bytes to come */
	struct hf_schedule schedule;
	struct hf_limiter limiter; /* of the background */
	struct precopy precopy;
	struct first_pages first;
	struct hf_blocktime *blocktime;
	struct hf_latency fault_latency;
	uint32_t pages_received, pages_fetched, pages_zero, pages_poisoned;
	uint32_t *poisoned_of_block; /* allocated when poisoning begins */
	uint64_t transferred_bytes, pages_stalled;

	/* Under the lock: what the source is told of placed pages; see destination_placed.c. */
	struct hf_pagemap unsaid; /* allocated at link_up if the link has the feature */
	uint32_t unsaid_pages, unsaid_cursor;
	uint64_t placed_said_ns; /* when the source was told last */
};

/* ---- destination.c ---- */

/* Without the lock. A failure to send means that the link goes down, which is told as link_down. */
void hf_destination_send(struct hf_destination *destination, uint64_t epoch, uint32_t type,
			 const void *payload, size_t bytes);
/* Releases the lock and does what was decided. */
void hf_destination_unlock_act(struct hf_destination *destination, unsigned actions);
/* Locked. Ends the migration (or pauses it, after the hand-over); why's text is kept. Returns actions. */
unsigned hf_destination_fail_locked(struct hf_destination *destination, const struct hf_err *why);
/* Locked. LOADED may have been said: nothing is abandoned from here on without the source. */
bool hf_destination_committed(const struct hf_destination *destination);
/* Locked. If every page is placed (or poisoned) and the VM runs: the actions that end the migration. */
unsigned hf_destination_check_end(struct hf_destination *destination);

/* ---- destination.c, destination_messages.c, destination_vm.c for each other ---- */

/* Locked. What a step of the hand-over makes the engine do; why: of a failure. */
unsigned hf_destination_actions_of(struct hf_destination *destination,
				   const struct hf_handover_destination_step *step, const struct hf_err *why);
/* Locked. Nothing is needed from the source any more. */
void hf_destination_complete(struct hf_destination *destination);
/* Locked. For moves whose precondition the caller has checked. */
void hf_destination_move(struct hf_destination *destination, enum hf_status status,
			 enum hf_incoming incoming);
/* Locked. Nothing is abandoned; the reason is kept. Returns actions, as the next three do. */
unsigned hf_destination_pause_locked(struct hf_destination *destination, const struct hf_err *why);
/* Locked. One step of the hand-over; -EINVAL, and *actions untouched, for an event not expected. */
int hf_destination_take_step(struct hf_destination *destination, enum hf_handover_destination_event event,
			     const struct hf_err *why, unsigned *actions);
/* Locked. A message out of its time. */
unsigned hf_destination_unexpected(struct hf_destination *destination, uint32_t type);
/* Locked. A message that is wrong; why's text does not name the VM. */
unsigned hf_destination_violation(struct hf_destination *destination, const struct hf_err *why);
/* Locked. A process before this one has got as far as its record says. */
void hf_destination_begin_again(struct hf_destination *destination, enum hf_record record, bool vmm_lives);
/* Event of the transport. */
void hf_destination_event_message(void *engine, uint64_t epoch, uint32_t type, const void *payload,
				  size_t bytes);

/* ---- destination_probe.c ---- */

/* Locked. The blocks match: the actions that measure the link, or that go on without. */
unsigned hf_destination_probe_begin(struct hf_destination *destination);
/* Without the lock. */
void hf_destination_probe_start(struct hf_destination *destination);
void hf_destination_probe_done(struct hf_destination *destination, const struct hf_fetch_done *done);
void hf_destination_send_link(struct hf_destination *destination, uint64_t epoch);

/* ---- destination_placed.c ---- */

/* Locked. Room for what is said over a new link. */
int hf_destination_placed_link_up(struct hf_destination *destination, const struct hf_link_info *info);
/* Locked. RESUMED has left over this link: the actions that say all that was placed until now. */
unsigned hf_destination_placed_begin(struct hf_destination *destination);
/* Locked. The page is placed for good. */
unsigned hf_destination_placed(struct hf_destination *destination, uint32_t page);
/* Without the lock. */
void hf_destination_say_placed(struct hf_destination *destination);

/* ---- destination_precopy.c ---- */

/* Without the lock. The placement is settled, nothing is prepared yet. */
int hf_destination_precopy_prepare(struct hf_destination *destination, struct hf_err *err);
void hf_destination_precopy_destroy(struct hf_destination *destination);
void hf_destination_precopy_tables(const struct hf_destination *destination, struct hf_tables *tables);
/* Locked. */
unsigned hf_destination_on_round(struct hf_destination *destination, const uint8_t *payload, size_t bytes);
unsigned hf_destination_on_round_end(struct hf_destination *destination, const uint8_t *payload,
				     size_t bytes);
/* Locked. Pages are landing and nothing is placed. */
static inline bool hf_destination_in_round(const struct hf_destination *destination)
{
	return destination->precopy.state != ROUND_NONE;
}
/* Locked. Between DEVICE_END and LOADED of a migration that has no postcopy. */
bool hf_destination_loads_whole(const struct hf_destination *destination);
/* Locked. What limits the background now; NULL: nothing. */
struct hf_limiter *hf_destination_limiter(struct hf_destination *destination);
/* Locked. All chunks of a page of the round have landed. */
void hf_destination_round_landed(struct hf_destination *destination, uint16_t transfer);
/* Locked. Something has changed: has the round ended? */
unsigned hf_destination_round_check(struct hf_destination *destination);
/* Locked. PRESENCE is whole: what has landed and is not stale is received. */
unsigned hf_destination_precopy_settle(struct hf_destination *destination);
/* Without the lock. Pages that landed and do not exist any more become zeros. */
void hf_destination_clear_holes(struct hf_destination *destination);
/* Locked. The VM is loaded: must LOADED wait? */
bool hf_destination_load_must_wait(struct hf_destination *destination);
void hf_destination_send_round_done(struct hf_destination *destination, uint64_t epoch);

/* ---- destination_first.c ---- */

/* Locked. */
unsigned hf_destination_on_first(struct hf_destination *destination, const uint8_t *payload, size_t bytes);
/* Locked. The next page that FIRST names, exists and nobody has asked for; none. */
uint32_t hf_destination_first_next(struct hf_destination *destination);
/* Locked. The background's next chunk is of such a page, and loading the VM may wait for it. */
bool hf_destination_first_is_next(struct hf_destination *destination);

/* ---- where a page is ---- */

struct page_place {
	uint32_t block;
	uint64_t page; /* in the block */
};

static inline struct page_place hf_place_of_page(const struct hf_destination *d, uint32_t page)
{
	uint32_t block = hf_ramblocks_block_of_page(&d->blocks, page);
	return (struct page_place){.block = block, .page = page - d->blocks.blocks[block].first_page};
}

/* ---- queues of pages, linked through page_entry.next; locked ---- */

static inline void hf_page_queue_push(struct hf_destination *d, struct page_queue *queue, uint32_t page)
{
	hf_lock_assert_held(&d->lock);
	d->pages[page].next = HF_PAGE_NONE;
	if (queue->head == HF_PAGE_NONE)
		queue->head = page;
	else
		d->pages[queue->tail].next = page;
	queue->tail = page;
}

static inline uint32_t hf_page_queue_pop(struct hf_destination *d, struct page_queue *queue)
{
	hf_lock_assert_held(&d->lock);
	uint32_t page = queue->head;
	if (page != HF_PAGE_NONE)
		queue->head = d->pages[page].next;
	return page;
}

/* ---- destination_pages.c ---- */

int hf_destination_pages_create(struct hf_destination *destination,
				const struct hf_destination_config *config, struct hf_err *err);
void hf_destination_pages_destroy(struct hf_destination *destination);
/* Locked. */
void hf_destination_pages_tables(const struct hf_destination *destination, struct hf_tables *tables);
/* Locked. The presence map is whole: sorts the pages into those to fetch and those that are zeros. */
void hf_destination_pages_presence(struct hf_destination *destination);
/* Locked. Sorts the pages by what the kept maps say. */
void hf_destination_pages_restart(struct hf_destination *destination);
/* Locked. Faults are served from LISTEN on. */
bool hf_destination_serving(const struct hf_destination *destination);
bool hf_destination_background_runs(const struct hf_destination *destination);
/* Locked. Somebody waits for the page's bytes: the background is held until they have landed. */
void hf_destination_begin_await(struct hf_destination *destination, uint32_t page);
void hf_destination_end_await(struct hf_destination *destination, uint32_t page);
void hf_destination_queue_urgent(struct hf_destination *destination, uint32_t page);
/* Locked. Takes a page that the background has not come to out of the background's hands. */
void hf_destination_claim(struct hf_destination *destination, uint32_t page);
/* Without the lock. All chunks have landed and the page is PAGE_PLACING: makes it visible. */
void hf_destination_place_transfer(struct hf_destination *destination, uint32_t page, uint16_t index);

/* Locked. The page is settled: its waits are closed; who has come meanwhile is served again. */
unsigned hf_destination_settle_page(struct hf_destination *destination, uint32_t page);

/* ---- destination_poison.c ---- */

/* Locked. The next page to poison; none. */
uint32_t hf_destination_poison_take(struct hf_destination *destination);
/* Locked. The port has poisoned it (0), or the VMM has it (-EEXIST). */
unsigned hf_destination_poison_commit(struct hf_destination *destination, uint32_t page, int result);
/* Locked. The end: says what is lost. */
void hf_destination_poison_tell(struct hf_destination *destination);

/* ---- destination_fetch.c ---- */

/* Locked. The placement is settled: makes the table of transfers. */
int hf_destination_fetch_prepare(struct hf_destination *destination);
void hf_destination_fetch_destroy(struct hf_destination *destination);
/* Locked. */
void hf_destination_fetch_tables(const struct hf_destination *destination, struct hf_tables *tables);
/* Locked. Sizes the fetch slots for a new link. */
int hf_destination_fetch_link_up(struct hf_destination *destination, const struct hf_link_info *info);
/* Locked. Without a link: a page that only part of the bytes of has landed; its transfer is freed. None. */
uint32_t hf_destination_take_partial(struct hf_destination *destination);
/* Locked. No fetch is on its way any more. */
void hf_destination_fetch_link_down(struct hf_destination *destination);
/* Locked. No more of the pages that the background is in the middle of is posted; they are missing again. */
void hf_destination_abandon_background(struct hf_destination *destination);
/* Locked. A fault on a page in PAGE_FETCHING: its chunks not yet posted become urgent. */
void hf_destination_promote(struct hf_destination *destination, uint32_t page);
/* Locked. */
void hf_destination_free_transfer(struct hf_destination *destination, uint16_t index);
/* Locked. Would the background post now, but for its limit? */
bool hf_destination_background_limited(struct hf_destination *destination);
/* Without the lock: posts fetches until there is nothing to post or no room. */
void hf_destination_pump(struct hf_destination *destination);
void hf_destination_event_fetch_done(void *engine, const struct hf_fetch_done *done);

#endif
