/* SPDX-License-Identifier: Apache-2.0 */
/*
 * source.h - the engine of the side that is pulled from.
 *
 * Purpose: a page server with a hand-over. It says which blocks there are, stops the VM when the
 * destination is ready, sends the presence map and the device state, gives the VM up when the destination has
 * loaded it, and serves chunks until the destination says that it has every page. The theory stands in
 * source.c.
 *
 * Ownership: the engine copies its configuration; ports outlive it. Destroy it only after the
 * transport and the VM adapter have stopped calling it.
 * Threads: every function may be called from any thread; serve() takes no lock.
 * Units: in the names.
 * Errors: as in destination.h.
 */
#ifndef HF_CORE_SOURCE_H
#define HF_CORE_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/clock.h"
#include "core/err.h"
#include "core/link_probe.h"
#include "core/memory.h"
#include "core/ramblock.h"
#include "core/record.h"
#include "core/state.h"
#include "core/transport.h"
#include "core/vm.h"

#define HF_DOWNTIME_LIMIT_NS 300000000ull /* as in QEMU */

struct hf_source;

struct hf_source_config {
	const char *vm_name;
	const struct hf_ramblocks *blocks;
	struct hf_clock clock;
	struct hf_source_memory memory;
	struct hf_transport transport;
	struct hf_vm vm;
	struct hf_recorder recorder;
	/*
	 * A process that was started again goes on from its record: GIVEN_UP waits for a link (the presence
	 * map is read now; the VM stands still), any other only says on the next link that the VM stayed
	 * here.
	 */
	bool restarted;
	enum hf_record record;
	bool wish_placement;	     /* false: the destination chooses */
	enum hf_placement placement; /* when wished */
	uint64_t max_page_stall_ns;  /* refuse a link on which one page takes longer; 0 = none */
	bool hold_background;	     /* the destination serves faults only, until told otherwise */
	bool release;		     /* gives back what the destination has placed; the link offers it */
	bool released;		     /* a process before this one did: the VM cannot be had back any more */
	/*
	 * Pages are moved in rounds before the VM stops; the memory port can harvest. What rounds cannot move
	 * comes by postcopy; with precopy_only, rounds go on until it fits into the pause.
	 */
	bool precopy, precopy_only;
	uint64_t downtime_limit_ns;   /* of the pause, as far as it can be told; 0 = HF_DOWNTIME_LIMIT_NS */
	uint64_t max_bandwidth;	      /* bytes/s of rounds; 0 = no limit */
	void (*notify)(void *opaque); /* as in destination.h */
	void *opaque;
};

int hf_source_create(struct hf_source **out, const struct hf_source_config *config, struct hf_err *err);
void hf_source_destroy(struct hf_source *source);

extern const struct hf_transport_events hf_source_events; /* engine: the source */

void hf_source_vm_done(struct hf_source *source, const struct hf_vm_result *result);
/* Event of the recorder: the record that was asked for is on storage, or could not be written. */
void hf_source_recorded(struct hf_source *source, enum hf_record record, int result,
			const struct hf_err *err);

/* Event of the memory port: gives one run of pages back; false: there is none. One thread at a time. */
bool hf_source_release_work(struct hf_source *source);

/* Asks the destination to hold the background, or to let it go on. */
void hf_source_hold_background(struct hf_source *source, bool hold);
int hf_source_cancel(struct hf_source *source, struct hf_err *err);
/*
 * The rounds end as soon as may be, and what is missing comes by postcopy. Harmless at any time: before the
 * first round there will be none, after the last it changes nothing. -EPERM with precopy_only.
 */
int hf_source_start_postcopy(struct hf_source *source, struct hf_err *err);
/* Of rounds, from now on. */
void hf_source_limit_rounds(struct hf_source *source, uint64_t limit_bytes_per_s);
void hf_source_limit_downtime(struct hf_source *source, uint64_t limit_ns);
/* After the hand-over: the link is given up on purpose, as if it had been lost. -EPERM before it. */
int hf_source_pause(struct hf_source *source, struct hf_err *err);
/* While paused: somebody looks for a new link, or has given up looking. */
void hf_source_recover_setup(struct hf_source *source, bool looking);
/*
 * A failure of this host outside the ports. After the hand-over it changes nothing: the pages are mapped here
 * too and go on being served.
 */
void hf_source_fail(struct hf_source *source, const struct hf_err *why);

/* Who runs, or may run, the VM. The program's last word to the operator depends on it. */
enum hf_vm_owner {
	HF_VM_OWNER_SOURCE = 0, /* never stopped, or running again */
	HF_VM_OWNER_RESUMING,	/* the migration failed; the source VM is being resumed */
	HF_VM_OWNER_STUCK, /* the migration failed and the source VM could not be resumed: it is stopped */
	HF_VM_OWNER_DESTINATION, /* given up, and that is on record */
};

struct hf_source_precopy_figures {
	bool wanted;
	uint32_t rounds;	  /* that have ended */
	uint64_t moved_bytes;	  /* in them */
	uint64_t remaining_bytes; /* as of the last harvest, with all of the round under way, or cut off */
	/* 0: not known. */
	uint64_t dirty_pages_per_s, dirty_bytes_per_s, rate_bytes_per_s;
	uint64_t expected_downtime_ns; /* UINT64_MAX: not known */
	const char *ended_because;     /* static; NULL: rounds have not ended */
	uint64_t downtime_limit_ns, limit_bytes_per_s;
};

struct hf_source_snapshot {
	enum hf_status status;
	enum hf_vm_owner owner;
	enum hf_handover_source handover;
	/*
	 * The destination may have said LOADED and has not answered FAIL: tell it over another link, and do
	 * not close one on which the answer may come.
	 */
	bool destination_in_doubt;
	bool recoverable;    /* the destination can go on over another link */
	uint32_t links_used; /* that came up, in this process */
	struct hf_err err;
	enum hf_placement placement; /* what the destination said */
	uint32_t chunk_bytes;
	uint32_t pages_total;
	uint32_t pages_present; /* after the VM has stopped */
	uint32_t pages_first;	/* named to the destination as those that loading will touch */
	uint64_t sent_bytes;	/* page payload */
	uint64_t sent_chunks, zero_chunks;
	bool unseen;				 /* a link was one-sided: those three are not all */
	uint64_t released_pages, released_bytes; /* given back to this host */
	struct hf_err release_err;		 /* why some could not be */
	struct hf_link_figures link; /* measured by the destination before READY; zeros: not known */
	struct hf_source_precopy_figures precopy;
	bool stopping; /* the VM stands still, or is being stopped */
	uint64_t device_state_bytes;
	uint64_t stop_time_ns, save_time_ns;
	uint64_t fence_time_ns, record_time_ns; /* parts of the downtime; 0: not done */
	uint64_t
	    downtime_ns; /* VM asked to stop .. RESUMED heard: an upper bound; 0: heard over another link */
	uint64_t postcopy_time_ns; /* RUN sent .. COMPLETE heard */
	uint64_t total_time_ns;	   /* link up .. end */
};

void hf_source_snapshot(struct hf_source *source, struct hf_source_snapshot *out);

#endif
