/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source_internal.h - what the parts of the source engine share. Not a public header.
 *
 * Purpose: source.c holds the life of a migration and serves pages, source_messages.c what the destination
 * says, source_vm.c what the VMM does; all work on this struct. Ownership, threads, units, errors: as in
 * source.h; "locked" in a comment means that the caller holds source->lock.
 */
#ifndef HF_CORE_SOURCE_INTERNAL_H
#define HF_CORE_SOURCE_INTERNAL_H

#include <stdatomic.h>

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
	bool released;	   /* pages were given back, by this process or one before it */
	struct hf_source_release release;
	bool hold_background;
	bool hold_known; /* it was wished once, or by a process before this one: said on each link */
	uint32_t pages_present;
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

#endif
