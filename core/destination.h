/* SPDX-License-Identifier: Apache-2.0 */
/*
 * destination.h - the engine of the side that pulls.
 *
 * Purpose: decides everything that travels. It checks the source's blocks against its own, has the memory
 * made ready, loads the device state, and from then on fetches pages: those that a thread waits for
 * first, the rest in the background, until every page is placed. The theory stands in destination.c.
 *
 * Ownership: the engine copies its configuration; ports outlive it. Destroy it only after the
 * transport, the memory port's threads and the VM adapter have stopped calling it.
 * Threads: every function may be called from any thread. No lock is held over a port call (rule b);
 * no port calls back (rule a).
 * Units: in the names.
 * Errors: entry points for events return nothing: an event that breaks the protocol fails the migration and
 * shows in the state and the error of the snapshot.
 */
#ifndef HF_CORE_DESTINATION_H
#define HF_CORE_DESTINATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/blocktime.h"
#include "core/clock.h"
#include "core/err.h"
#include "core/link_probe.h"
#include "core/memory.h"
#include "core/ramblock.h"
#include "core/record.h"
#include "core/state.h"
#include "core/stats.h"
#include "core/table.h"
#include "core/transport.h"
#include "core/vm.h"

struct hf_destination;

struct hf_destination_config {
	const char *vm_name;		   /* this side's, for messages */
	const struct hf_ramblocks *blocks; /* the destination VM's */
	const uint32_t *vcpu_thread_ids;   /* of the destination VM */
	uint32_t vcpus;
	struct hf_clock clock;
	struct hf_memory memory;
	struct hf_transport transport;
	struct hf_vm vm;
	struct hf_recorder recorder;
	/*
	 * Where the maps of received and present pages are kept so that they outlive this process: each
	 * hf_pagemap_bytes(all pages) long, zeroed for a new migration. NULL: in memory of the engine's own.
	 */
	uint8_t *kept_received, *kept_present;
	/*
	 * A process that was started again goes on from its record and its kept maps; the placement is the
	 * one it had. hf_destination_restart() begins.
	 */
	bool restarted;
	enum hf_record record;
	bool vmm_lives;			   /* the VMM that had loaded the VM is there still */
	uint32_t chunk_bytes;		   /* 0 = default; power of two */
	uint32_t background_share_percent; /* least share of bytes the background gets under endless faults; 0
					      = default */
	uint64_t max_postcopy_bandwidth;   /* bytes/s of the background alone; 0 = no limit */
	bool background_held;		   /* --no-background: serve faults only until told otherwise */
	uint64_t max_page_stall_ns;	   /* refuse a link on which one page takes longer; 0 = none */
	/* Something a waiting thread may want to see has changed. Called without the lock; must only signal.
	 */
	void (*notify)(void *opaque);
	void *opaque;
};

int hf_destination_create(struct hf_destination **out, const struct hf_destination_config *config,
			  struct hf_err *err);
void hf_destination_destroy(struct hf_destination *destination);

/*
 * Everything of the engine that a fault needs: to be kept in memory. Complete, and in place until the link
 * goes down, once the memory port has been asked to prepare.
 */
void hf_destination_tables(struct hf_destination *destination, struct hf_tables *tables);

/* Events of the transport; hf_destination_events has them as a table whose engine is the destination. */
extern const struct hf_transport_events hf_destination_events;

/* Events of the memory port. */
void hf_destination_memory_ready(struct hf_destination *destination, int result, const struct hf_err *err);
/* A thread faulted; block and page are the destination's. arrived_ns: when the message was read. */
void hf_destination_fault(struct hf_destination *destination, uint32_t block, uint64_t page,
			  uint32_t thread_id, uint64_t arrived_ns);
enum hf_work_next {
	HF_WORK_IDLE = 0, /* nothing to do; wait for the next kick */
	HF_WORK_MORE,	  /* call again */
	HF_WORK_LATER,	  /* could not place now; call again after a short while */
	HF_WORK_SOON,	  /* the background waits for its limit: call again within HF_LIMITER_BURST_NS */
};
/* One piece of work that needs no transfer; called by the memory port's worker of that class. */
enum hf_work_next hf_destination_work(struct hf_destination *destination, enum hf_work_class class);

/* Events of the VM adapter. */
void hf_destination_vm_done(struct hf_destination *destination, const struct hf_vm_result *result);
/* The VMM has ended, whoever ended it. */
void hf_destination_vm_ended(struct hf_destination *destination, const struct hf_err *why);
/* Event of the recorder: the record that was asked for is on storage, or could not be written. */
void hf_destination_recorded(struct hf_destination *destination, enum hf_record record, int result,
			     const struct hf_err *err);
/* Of a restarted engine, once, when the ports have started: takes the memory over and goes on. */
void hf_destination_restart(struct hf_destination *destination);

/* Operator. */
void hf_destination_hold_background(struct hf_destination *destination, bool hold);
/* Of the background, in bytes/s, from now on; 0: none. Pages that a thread waits for know no limit. */
void hf_destination_limit_background(struct hf_destination *destination, uint64_t limit_bytes_per_s);
/* Before the hand-over: cancels and returns 0. After it: -EPERM with the reason. */
int hf_destination_cancel(struct hf_destination *destination, struct hf_err *err);
/* A failure of this host outside the ports (a thread died). */
void hf_destination_fail(struct hf_destination *destination, const struct hf_err *why);
/* After the hand-over: the link is given up on purpose, as if it had been lost. -EPERM before it. */
int hf_destination_pause(struct hf_destination *destination, struct hf_err *err);
/* While paused: somebody waits for a new link, or has given up waiting. */
void hf_destination_recover_setup(struct hf_destination *destination, bool looking);
/*
 * The source is gone for good: pages without whole bytes are poisoned, and the migration ends as completed,
 * with pages_poisoned. Begins it; the background worker does it. -EPERM with the reason, unless the VM is
 * this side's for good and the migration is paused without a link; -EOPNOTSUPP where pages cannot be
 * poisoned.
 */
int hf_destination_poison_missing(struct hf_destination *destination, struct hf_err *err);
/* Every page is here and the source, which has not heard so, cannot be reached: ends as completed. */
void hf_destination_let_go(struct hf_destination *destination);

struct hf_destination_snapshot {
	enum hf_status status;
	enum hf_incoming incoming;
	enum hf_handover_destination handover;
	bool recoverable;     /* the source can go on over another link */
	uint32_t links_used;  /* that came up, in this process */
	bool has_state;	      /* the VMM was given the device state: it must not outlive a failure */
	bool pages_complete;  /* every page is here; only the source may not have heard */
	bool takeover_failed; /* a restarted engine could not have the memory: nothing goes on */
	bool poisoning;	      /* nothing is fetched any more: what is missing is being poisoned, or was */
	struct hf_err err;    /* of failed, cancelled, postcopy-paused and of poisoned pages; else a page that
				 could not be placed yet */
	char source_vm_name[256];
	enum hf_placement placement;
	uint32_t chunk_bytes;
	uint32_t pages_total;
	uint32_t pages_received;    /* placed, by any way */
	uint32_t pages_fetched;	    /* came over the link with bytes */
	uint32_t pages_zero;	    /* came as headers only, or never existed on the source */
	uint32_t pages_poisoned;    /* lost for good: the guest sees a memory error there */
	uint32_t pages_first;	    /* named by the source as those that loading will touch */
	uint32_t pages_asked_first; /* of them: asked for before a thread waited */
	uint64_t transferred_bytes; /* page payload */
	uint32_t precopy_rounds;    /* that have ended */
	uint64_t precopy_bytes;	    /* of transferred_bytes: moved in them */
	uint64_t pages_stalled;	    /* times a page could not be placed for want of a huge page */
	uint64_t setup_time_ns, load_time_ns;
	uint64_t record_time_ns;     /* of LOADED and of RUNNING together: part of the downtime */
	uint64_t postcopy_time_ns;   /* RUN heard .. last page placed */
	uint64_t total_time_ns;	     /* link up .. end */
	uint64_t downtime_ns;	     /* the source's figure; 0 until it is known */
	struct hf_link_figures link; /* measured before the hand-over; zeros: the source cannot */
	struct hf_blocktime_totals blocktime;
	struct hf_latency fault_latency;
};

/* Is the page lost, and the guest gets a memory error there? The numbers are the destination's. */
bool hf_destination_page_poisoned(struct hf_destination *destination, uint32_t block, uint64_t page);
void hf_destination_snapshot(struct hf_destination *destination, struct hf_destination_snapshot *out);
int hf_destination_blocktime_vcpu(struct hf_destination *destination, uint32_t vcpu,
				  struct hf_blocktime_vcpu *out);

#endif
