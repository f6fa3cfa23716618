/* SPDX-License-Identifier: Apache-2.0 */
/*
 * handover.h - who may run the VM: the two sides of the hand-over as tables.
 *
 * Purpose: the one place that decides when the source gives its VM up, when the destination may run it, and
 * what each side says and records on the way. The engines act on these tables; the model in tests/spin/ is
 * made from the same tables and is checked for every order of messages, losses and crashes. The theory stands
 * in handover.c.
 *
 * Ownership, threads: constant data and pure functions.
 * Units: none.
 * Errors: an event that a state does not expect is refused with -EINVAL and changes nothing.
 */
#ifndef HF_CORE_HANDOVER_H
#define HF_CORE_HANDOVER_H

#include <stdbool.h>

/* What a side has on durable storage. Written before what depends on it is done or said. */
enum hf_record {
	HF_RECORD_NONE = 0, /* no file, or nothing that binds: the VM is the source's */
	/* source */
	HF_RECORD_GIVEN_UP,   /* the VM is the destination's: it is never run here again */
	HF_RECORD_TAKEN_BACK, /* the destination refused it for good: it may run here */
	/* destination */
	HF_RECORD_LOADED,  /* loaded, stands still: it waits for RUN or FAIL and abandons nothing */
	HF_RECORD_RUNNING, /* it was told to run: it runs here or nowhere */
	HF_RECORD_REFUSED, /* its VMM is gone and it never ran: the source may have it back */
	HF_RECORDS,
};

const char *hf_record_name(enum hf_record record); /* "given-up" */

/* Done in this order, those that a step does not have left out. */
enum hf_handover_action {
	HF_ACT_FENCE = 1 << 0,	  /* source: freeze the VMM, so that no other client can revive the VM */
	HF_ACT_RECORD = 1 << 1,	  /* write the step's record durably; RECORDED or RECORD_FAILED follows */
	HF_ACT_RUN = 1 << 2,	  /* destination: run the VM */
	HF_ACT_KILL = 1 << 3,	  /* destination: end the VMM, so that the VM surely does not run here */
	HF_ACT_SAY_FAIL = 1 << 4, /* the VM is the source's */
	HF_ACT_RESUME = 1 << 5,	  /* source: thaw the VMM and run the VM, if this side has stopped it */
	HF_ACT_SAY_LOADED = 1 << 6,
	HF_ACT_SAY_RUN = 1 << 7,
	HF_ACT_SAY_RESUMED = 1 << 8,
	HF_ACT_SAY_REFUSED = 1 << 9,
	HF_ACT_FAIL = 1 << 10,	/* this side's migration has failed */
	HF_ACT_ALARM = 1 << 11, /* only a person can decide what happens to the VM now */
};

/* ---- source ---- */

enum hf_handover_source {
	HF_SOURCE_OWNS = 0,	  /* nothing is promised */
	HF_SOURCE_FENCING,	  /* LOADED heard; the VMM is being frozen */
	HF_SOURCE_FENCING_BROKEN, /* the same, but the migration has failed meanwhile */
	HF_SOURCE_RECORDING,	  /* GIVEN_UP is being written: what the record says is what holds */
	HF_SOURCE_GIVEN_UP,	  /* GIVEN_UP is durable; RUN is said on each link until RESUMED */
	HF_SOURCE_GONE,		  /* RESUMED heard */
	HF_SOURCE_TAKING_BACK,	  /* REFUSED heard, or GIVEN_UP failed; TAKEN_BACK is being written */
	HF_SOURCE_STUCK,	  /* TAKEN_BACK failed: what is on disk is unknown; again on each link */
	HF_SOURCE_ABORTED,	  /* the VM runs here, or is about to; FAIL is said on each link */
	HF_SOURCE_STATES,
};

enum hf_handover_source_event {
	HF_SOURCE_LINK = 0, /* a link is up again */
	HF_SOURCE_BROKEN,   /* a lost link, a failure of either side, a cancel */
	HF_SOURCE_HEARD_LOADED,
	HF_SOURCE_HEARD_RESUMED,
	HF_SOURCE_HEARD_REFUSED,
	HF_SOURCE_FENCED,
	HF_SOURCE_FENCE_FAILED, /* or somebody else had revived the VM */
	HF_SOURCE_RECORDED,
	HF_SOURCE_RECORD_FAILED, /* the old record or the new one is on disk */
	HF_SOURCE_EVENTS,
};

struct hf_handover_source_step {
	bool allowed;
	enum hf_handover_source next;
	unsigned actions; /* enum hf_handover_action, ored */
	enum hf_record record;
};

/* -EINVAL and *step untouched for an event that is not expected. */
int hf_handover_source_step(enum hf_handover_source state, enum hf_handover_source_event event,
			    struct hf_handover_source_step *step);
/* A new process that finds this record, and the actions it begins with. */
struct hf_handover_source_step hf_handover_source_restart(enum hf_record record);
const char *hf_handover_source_name(enum hf_handover_source state);
const char *hf_handover_source_event_name(enum hf_handover_source_event event);

/* ---- destination ---- */

enum hf_handover_destination {
	HF_DESTINATION_LOADING = 0,	  /* nothing is promised; up to the end of the device state */
	HF_DESTINATION_RECORDING_LOADED,  /* LOADED is being written, and has not been said */
	HF_DESTINATION_LOADED,		  /* LOADED is durable and was said; waits for RUN or FAIL */
	HF_DESTINATION_RECORDING_RUNNING, /* RUN heard; RUNNING is being written */
	HF_DESTINATION_STARTING,	  /* the VMM was asked to run */
	HF_DESTINATION_STARTING_ENDED,	  /* the same, but the VMM has ended meanwhile */
	HF_DESTINATION_STARTING_AGAIN,	  /* the same by a new process: the one before may have run it */
	HF_DESTINATION_RUNNING,		  /* the VM runs; RESUMED is the answer to each RUN */
	HF_DESTINATION_KILLING,		  /* it surely has not run, and its VMM is being ended */
	HF_DESTINATION_RECORDING_REFUSED, /* the VMM has ended; REFUSED is being written */
	HF_DESTINATION_REFUSED,		  /* REFUSED is the answer to each RUN */
	HF_DESTINATION_ABORTED,		  /* the VM is the source's */
	HF_DESTINATION_LOST,		  /* it may have run and does not: nobody may run it */
	HF_DESTINATION_STATES,
};

enum hf_handover_destination_event {
	HF_DESTINATION_BROKEN = 0, /* a lost link, a failure of this host, a violation, a cancel */
	HF_DESTINATION_HEARD_RUN,
	HF_DESTINATION_HEARD_FAIL, /* the VM is the source's */
	HF_DESTINATION_VM_LOADED,
	HF_DESTINATION_VM_RAN,
	HF_DESTINATION_VM_REFUSED, /* it was not run this time: the VMM said so */
	HF_DESTINATION_VM_UNKNOWN, /* nobody can tell whether it ran: the VMM ended, or does not answer */
	HF_DESTINATION_VM_KILLED,
	HF_DESTINATION_KILL_FAILED,
	HF_DESTINATION_VM_ENDED, /* the VMM has ended by itself */
	HF_DESTINATION_RECORDED,
	HF_DESTINATION_RECORD_FAILED,
	HF_DESTINATION_EVENTS,
};

struct hf_handover_destination_step {
	bool allowed;
	enum hf_handover_destination next;
	unsigned actions;
	enum hf_record record;
};

int hf_handover_destination_step(enum hf_handover_destination state, enum hf_handover_destination_event event,
				 struct hf_handover_destination_step *step);
/* vmm_lives: the VMM that had loaded the VM is there still. */
struct hf_handover_destination_step hf_handover_destination_restart(enum hf_record record, bool vmm_lives);
const char *hf_handover_destination_name(enum hf_handover_destination state);
const char *hf_handover_destination_event_name(enum hf_handover_destination_event event);

#endif
