/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Each state's row lists the states that may follow it, with the reason. Nothing else decides: the engines
 * move by hf_status_move() and treat a refusal as an event that came at the wrong time. No state follows
 * itself; a repeated event is no transition.
 *
 *     none -> setup -> active -> device -> postcopy-active ----------> completed
 *       |       |        |        |  |        |        ^                  ^
 *       +-------+--------+--------+  |        v        |                  |
 *                   |                +----> postcopy-paused --------------+
 *           failed or cancelled               |        ^                  |
 *                                             v        |                  |
 *                      (postcopy-recover-setup) -> postcopy-recover ------+
 *
 * The edge device -> postcopy-active is the hand-over. Left of it the VM belongs to the source, so every
 * state may still fail or be cancelled; right of it the destination's VM is the only one: a lost link pauses,
 * and a new one leads back through postcopy-recover. One way leads from there to failed: a destination that
 * surely has not run the VM hands it back. The edge device -> postcopy-paused is the destination's alone: it
 * has said LOADED and lost the link, and cannot know whether the source has handed over, so it must neither
 * run nor give up, until it hears that the VM stayed with the source (failed) or is its own.
 */
#include "core/state.h"

#include <errno.h>

#define BIT(state) (1u << (state))

static const unsigned status_next[HF_STATUSES] = {
    /* No link yet. It may never come up, or somebody cancels while one side waits for the other. */
    [HF_STATUS_NONE] = BIT(HF_STATUS_SETUP) | BIT(HF_STATUS_FAILED) | BIT(HF_STATUS_CANCELLED),

    /* Blocks are compared, memory is made ready. Active when both sides are. */
    [HF_STATUS_SETUP] = BIT(HF_STATUS_ACTIVE) | BIT(HF_STATUS_FAILED) | BIT(HF_STATUS_CANCELLED),

    /* The source VM runs, or is being stopped. Device when it stands still. */
    [HF_STATUS_ACTIVE] = BIT(HF_STATUS_DEVICE) | BIT(HF_STATUS_FAILED) | BIT(HF_STATUS_CANCELLED),

    /* Device state travels and loads. Ends in the hand-over, or the source VM runs again. */
    [HF_STATUS_DEVICE] = BIT(HF_STATUS_POSTCOPY_ACTIVE) | BIT(HF_STATUS_POSTCOPY_PAUSED) |
			 BIT(HF_STATUS_FAILED) | BIT(HF_STATUS_CANCELLED),

    /* The VM is the destination's. Pages follow until none is missing or the link is lost. */
    [HF_STATUS_POSTCOPY_ACTIVE] =
	BIT(HF_STATUS_POSTCOPY_PAUSED) | BIT(HF_STATUS_COMPLETED) | BIT(HF_STATUS_FAILED),

    /*
     * No link, or one whose peer broke a rule. Without a new one it still completes when the bytes of the
     * last page had landed before the link was lost and were being placed.
     */
    [HF_STATUS_POSTCOPY_PAUSED] = BIT(HF_STATUS_POSTCOPY_RECOVER_SETUP) | BIT(HF_STATUS_POSTCOPY_RECOVER) |
				  BIT(HF_STATUS_POSTCOPY_ACTIVE) | BIT(HF_STATUS_COMPLETED) |
				  BIT(HF_STATUS_FAILED) | BIT(HF_STATUS_CANCELLED),

    /* Somebody has asked for a link; it comes up, or does not. */
    [HF_STATUS_POSTCOPY_RECOVER_SETUP] = BIT(HF_STATUS_POSTCOPY_RECOVER) | BIT(HF_STATUS_POSTCOPY_PAUSED) |
					 BIT(HF_STATUS_COMPLETED) | BIT(HF_STATUS_FAILED) |
					 BIT(HF_STATUS_CANCELLED),

    /* A link is up; active when both sides have said where they are. It may be lost again. */
    [HF_STATUS_POSTCOPY_RECOVER] = BIT(HF_STATUS_POSTCOPY_ACTIVE) | BIT(HF_STATUS_POSTCOPY_PAUSED) |
				   BIT(HF_STATUS_COMPLETED) | BIT(HF_STATUS_FAILED) |
				   BIT(HF_STATUS_CANCELLED),

    /* Final. */
    [HF_STATUS_COMPLETED] = 0,
    [HF_STATUS_FAILED] = 0,
    [HF_STATUS_CANCELLED] = 0,
};

static const unsigned incoming_next[HF_INCOMINGS] = {
    /* The source has not said which blocks it has. */
    [HF_INCOMING_NONE] = BIT(HF_INCOMING_ADVISE) | BIT(HF_INCOMING_END),

    /* Memory is being made ready; nothing faults yet. */
    [HF_INCOMING_ADVISE] = BIT(HF_INCOMING_LISTEN) | BIT(HF_INCOMING_END),

    /* Faults are served, the device state may load. */
    [HF_INCOMING_LISTEN] = BIT(HF_INCOMING_RUNNING) | BIT(HF_INCOMING_END),

    /* The VM runs here; the end is that every page is placed. */
    [HF_INCOMING_RUNNING] = BIT(HF_INCOMING_END),

    /* Completed or aborted. */
    [HF_INCOMING_END] = 0,
};

static const char *const status_names[HF_STATUSES] = {
    [HF_STATUS_NONE] = "none",
    [HF_STATUS_SETUP] = "setup",
    [HF_STATUS_ACTIVE] = "active",
    [HF_STATUS_DEVICE] = "device",
    [HF_STATUS_POSTCOPY_ACTIVE] = "postcopy-active",
    [HF_STATUS_POSTCOPY_PAUSED] = "postcopy-paused",
    [HF_STATUS_POSTCOPY_RECOVER_SETUP] = "postcopy-recover-setup",
    [HF_STATUS_POSTCOPY_RECOVER] = "postcopy-recover",
    [HF_STATUS_COMPLETED] = "completed",
    [HF_STATUS_FAILED] = "failed",
    [HF_STATUS_CANCELLED] = "cancelled",
};

static const char *const incoming_names[HF_INCOMINGS] = {
    [HF_INCOMING_NONE] = "none",       [HF_INCOMING_ADVISE] = "advise", [HF_INCOMING_LISTEN] = "listen",
    [HF_INCOMING_RUNNING] = "running", [HF_INCOMING_END] = "end",
};

/* Also refuses values that are no state: they may come from memory another process wrote. */
static bool allowed(const unsigned *next, unsigned states, unsigned from, unsigned to)
{
	return from < states && to < states && (next[from] & BIT(to)) != 0;
}

bool hf_status_allowed(enum hf_status from, enum hf_status to)
{
	return allowed(status_next, HF_STATUSES, from, to);
}

bool hf_incoming_allowed(enum hf_incoming from, enum hf_incoming to)
{
	return allowed(incoming_next, HF_INCOMINGS, from, to);
}

int hf_status_move(enum hf_status *status, enum hf_status to)
{
	if (!hf_status_allowed(*status, to))
		return -EINVAL;
	*status = to;
	return 0;
}

int hf_incoming_move(enum hf_incoming *incoming, enum hf_incoming to)
{
	if (!hf_incoming_allowed(*incoming, to))
		return -EINVAL;
	*incoming = to;
	return 0;
}

bool hf_status_is_final(enum hf_status status)
{
	return (unsigned)status < HF_STATUSES && status_next[status] == 0;
}

bool hf_status_is_paused(enum hf_status status)
{
	return status == HF_STATUS_POSTCOPY_PAUSED || status == HF_STATUS_POSTCOPY_RECOVER_SETUP;
}

const char *hf_status_name(enum hf_status status)
{
	return (unsigned)status < HF_STATUSES ? status_names[status] : "unknown";
}

const char *hf_incoming_name(enum hf_incoming incoming)
{
	return (unsigned)incoming < HF_INCOMINGS ? incoming_names[incoming] : "unknown";
}
