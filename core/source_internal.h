/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source_internal.h - what the parts of the source engine share. Not a public header.
 *
 * Purpose: source.c holds the life of a migration and serves pages, source_messages.c what the destination
 * says, source_vm.c what the VMM does, source_precopy.c the rounds before the VM stops; all work on this
 * struct. Ownership, threads, units, errors: as in source.h; "locked" in a comment means that the caller
 * holds source->lock.
 */
#ifndef HF_CORE_SOURCE_INTERNAL_H
#define HF_CORE_SOURCE_INTERNAL_H

#include <stdatomic.h>

#include "core/convergence.h"
#include "core/hotness.h"
#include "core/lock.h"
#include "core/pagemap.h"
#include "core/ports_internal.h"
#include "core/source.h"
#include "core/source_release.h"
#include "core/wire.h"

enum {
	ACTION_NOTIFY = 1 << 0,
	ACTION_SEND_ADVISE = 1 << 1,
	ACTION_STOP = 1 << 2,
	ACTION_SAVE = 1 << 3,
	ACTION_SEND_RUN = 1 << 4,
	ACTION_SEND_FINISH = 1 << 5,
	ACTION_SEND_FAIL = 1 << 6,
	ACTION_RESUME = 1 << 7,
	ACTION_FENCE = 1 << 8,
	ACTION_RECORD = 1 << 9,
	ACTION_PRESENT = 1 << 10, /* ADVISE of a link that is not the first */
	ACTION_KICK_RELEASE = 1 << 11,
	ACTION_HARVEST = 1 << 12,
	ACTION_SEND_ROUND = 1 << 13,
	ACTION_CHANGE_ROUND = 1 << 14,
};

/* Where a migration with pre-copy is. */
enum precopy_stage {
	PRECOPY_WAITS = 0, /* READY has not been heard; without pre-copy for good */
	PRECOPY_HARVESTS,  /* a thread asks what was written, or says so */
	PRECOPY_ROUND,	   /* the destination fetches */
	PRECOPY_OVER,	   /* the VM is being stopped, or stands still */
};

struct source_precopy {
	/* Set at creation. */
	bool wanted, only;
	uint8_t *block_dirtied, *block_holes; /* the harvesting thread's own, as `dirtied` is */
	struct hf_pagemap dirtied;

	/* Atomic: the page path takes no lock. The maps change only while `serving` is not set. */
	atomic_bool serving;
	struct hf_pagemap round, holes;

	/* Under the lock. */
	bool spoken; /* the session has the feature */
	bool start_postcopy;
	bool within_limit; /* why the rounds ended */
	enum precopy_stage stage;
	uint32_t number;     /* of the round */
	uint32_t changing;   /* threads that repeat ROUND_END */
	bool done_waits;     /* ROUND_DONE was heard meanwhile */
	bool told, cut_told; /* its set has left */
	uint64_t limit_bytes_per_s, limit_told_bytes_per_s;
	bool harvested;		     /* at least once */
	struct hf_pagemap remaining; /* not in the round, to be moved yet; the harvesting thread reads it */
	struct hf_hotness hotness;
	struct hf_convergence_config convergence_config;
	struct hf_convergence convergence;
	uint64_t began_ns, harvest_ns, remaining_bytes, round_bytes;
	struct hf_wire_round_done done; /* the last */
	uint32_t rounds_done;
	uint64_t moved_bytes;
};

struct hf_source {
	/* Set at creation. */
	char vm_name[256];
	struct hf_ramblocks blocks;
	struct hf_clock clock;
	struct hf_source_memory memory;
	struct hf_transport transport;
	struct hf_vm vm;
	struct hf_recorder recorder;
	uint32_t placement_wish; /* enum hf_wire_placement_wish */
	uint64_t max_page_stall_ns;
	uint8_t *probe_block; /* what is served while the destination measures the link */
	void (*notify)(void *opaque);
	void *opaque;

	/* Written before `serving` is set; then pages only leave it, one bit at a time. */
	struct hf_pagemap present;

	/* Atomic: the page path takes no lock. */
	atomic_bool serving;
	atomic_bool probing; /* from link up to READY, if the link has the feature */
	atomic_uint_least64_t sent_bytes, sent_chunks, zero_chunks;

	struct source_precopy precopy;

	struct hf_lock lock;

	/* Under the lock. */
	enum hf_status status;
	enum hf_vm_owner owner;
	enum hf_handover_source handover;
	enum hf_record recording; /* being written */
	struct hf_err err;
	struct hf_err broken;  /* came while the record was being written */
	struct hf_err refusal; /* why the destination hands the VM back */
	uint64_t epoch, epoch_last;
	uint32_t links_used;
	bool recoverable; /* the session has the feature */
	bool in_doubt;	  /* see the snapshot */
	bool vm_stopping, vm_busy;
	bool device_whole; /* DEVICE_END is on its way: LOADED may be heard */
	bool resumed;	   /* RESUMED was heard on the link that is up */
	bool hears_placed; /* the link that is up has the feature */
	bool unseen;	   /* see the snapshot */
	bool released;	   /* pages were given back, by this process or one before it */
	struct hf_source_release release;
	bool hold_background;
	bool hold_known; /* it was wished once, or by a process before this one: said on each link */
	uint32_t pages_present;
	bool says_first;	    /* the session has the feature */
	struct hf_wire_first first; /* what loading will touch; written when the VM has stopped */
	struct hf_wire_ready ready;
	struct hf_link_figures link_figures;
	uint64_t link_up_ns, stop_ns, saving_ns, run_ns, end_ns;
	uint64_t device_state_bytes, stop_time_ns, save_time_ns, downtime_ns;
	uint64_t fence_ns, record_ns, fence_time_ns, record_time_ns;
};

/* Locked. Ends the migration (or pauses it, after the hand-over); why's text is kept. Returns actions. */
unsigned hf_source_fail_locked(struct hf_source *source, const struct hf_err *why);
/* Locked. For moves whose precondition the caller has checked. */
void hf_source_move(struct hf_source *source, enum hf_status status);
/* Locked. The VM is given up; the reason is kept. */
unsigned hf_source_pause_locked(struct hf_source *source, const struct hf_err *why);
/* Without the lock. A failure to send means that the link goes down, which is told as link_down. */
void hf_source_send_message(struct hf_source *source, uint64_t epoch, uint32_t type, const void *payload,
			    size_t bytes);
/* Locked. */
uint64_t hf_source_since(uint64_t start_ns, uint64_t end_ns);
/* Locked. One step of the hand-over; -EINVAL, and *actions untouched, for an event not expected. */
int hf_source_take_step(struct hf_source *source, enum hf_handover_source_event event,
			const struct hf_err *why, unsigned *actions);
/* Locked. A message out of its time. */
unsigned hf_source_unexpected(struct hf_source *source, uint32_t type);
/* Releases the lock and does what was decided. */
void hf_source_unlock_act(struct hf_source *source, unsigned actions);
/* Locked. A message that is wrong; why's text does not name the VM. */
unsigned hf_source_violation(struct hf_source *source, struct hf_err *why);
/* Event of the transport. */
void hf_source_event_message(void *engine, uint64_t epoch, uint32_t type, const void *payload, size_t bytes);
/* Without the lock; the VM stands still and nothing is served. */
int hf_source_read_presence(struct hf_source *source, struct hf_err *err);
/* Locked. Nothing more is to be done before the VM stops. */
unsigned hf_source_begin_stop(struct hf_source *source);

/* ---- source_precopy.c ---- */

int hf_source_precopy_create(struct hf_source *source, const struct hf_source_config *config,
			     struct hf_err *err);
void hf_source_precopy_destroy(struct hf_source *source);
/* Locked. READY was heard: rounds, or the VM stops. */
unsigned hf_source_precopy_begin(struct hf_source *source);
/* Locked. */
unsigned hf_source_on_round_done(struct hf_source *source, const uint8_t *payload, size_t bytes);
/* Without the lock, by the thread that heard what calls for it: READY, ROUND_DONE. */
void hf_source_harvest(struct hf_source *source);
void hf_source_send_round(struct hf_source *source, uint64_t epoch);
/* Without the lock. Says again how the round under way goes on. */
void hf_source_change_round(struct hf_source *source);
/* Without the lock; the VM stands still and its device state is whole. The last harvest, and its set. */
int hf_source_precopy_finish(struct hf_source *source, struct hf_err *err);
int hf_source_send_final(struct hf_source *source, uint64_t epoch);
/* May this page be asked for now? -EPROTO: no; 0: it does not exist, 1: it does. */
int hf_source_precopy_page(const struct hf_source *source, uint32_t page);
void hf_source_precopy_figures(const struct hf_source *source, struct hf_source_precopy_figures *out);

#endif
