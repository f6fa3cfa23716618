/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state.h - the states of a migration and their transitions, as data.
 *
 * Purpose: one table per side says which state may follow which. Names are those of QEMU's
 * MigrationStatus and, on the destination, of its postcopy states (seed "Postcopy states").
 *
 * Ownership, threads: constant data and pure functions.
 * Units: none.
 * Errors: a transition the table does not have is refused with -EINVAL and changes nothing.
 */
#ifndef HF_CORE_STATE_H
#define HF_CORE_STATE_H

#include <stdbool.h>

/* What query-migrate calls status; both sides have one. */
enum hf_status {
	HF_STATUS_NONE = 0,	   /* created, no link yet */
	HF_STATUS_SETUP,	   /* link up; versions and blocks are exchanged, memory is made ready */
	HF_STATUS_ACTIVE,	   /* both sides ready; the source VM runs or is being stopped */
	HF_STATUS_DEVICE,	   /* the source VM has stopped; device state travels and is loaded */
	HF_STATUS_POSTCOPY_ACTIVE, /* the source has given the VM up; pages follow */
	HF_STATUS_POSTCOPY_PAUSED, /* the link is lost; the VM runs on the pages it has */
	HF_STATUS_POSTCOPY_RECOVER_SETUP, /* an operator asked for a new link, which is not up yet */
	HF_STATUS_POSTCOPY_RECOVER,	  /* a new link is up; the two sides agree on where they are */
	HF_STATUS_COMPLETED,
	HF_STATUS_FAILED, /* the VM is the source's: before the hand-over, or handed back */
	HF_STATUS_CANCELLED,
	HF_STATUSES,
};

/* The destination's progress inside those. */
enum hf_incoming {
	HF_INCOMING_NONE = 0,
	HF_INCOMING_ADVISE,  /* blocks are known, memory is being made ready */
	HF_INCOMING_LISTEN,  /* faults are served; device state may load */
	HF_INCOMING_RUNNING, /* the VM was told to run */
	HF_INCOMING_END,
	HF_INCOMINGS,
};

bool hf_status_allowed(enum hf_status from, enum hf_status to);
bool hf_incoming_allowed(enum hf_incoming from, enum hf_incoming to);
int hf_status_move(enum hf_status *status, enum hf_status to);
int hf_incoming_move(enum hf_incoming *incoming, enum hf_incoming to);

/* completed, failed, cancelled: nothing follows. */
bool hf_status_is_final(enum hf_status status);

/* postcopy-paused, postcopy-recover-setup: a new link is needed. */
bool hf_status_is_paused(enum hf_status status);

const char *hf_status_name(enum hf_status status); /* "postcopy-active" */
const char *hf_incoming_name(enum hf_incoming incoming);

#endif
