/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One VM, two hosts, a link that loses what is on its way, and processes that may end at any moment. What
 * must hold: never do both sides run the VM; and while both hosts live and the link comes back, one of them
 * does.
 *
 *     source                                            destination
 *     OWNS                                              LOADING
 *                                                       RECORDING_LOADED   ==> LOADED on disk
 *                         <---- LOADED ----             LOADED
 *     FENCING             (the VMM is frozen)
 *     RECORDING           ==> GIVEN_UP on disk
 *     GIVEN_UP            ----- RUN ------>             RECORDING_RUNNING  ==> RUNNING on disk
 *                                                       STARTING           (cont)
 *     GONE                <---- RESUMED ---             RUNNING
 *
 * The point of decision is the source's record. Before it any failure leaves the VM with the source; the
 * destination that has said LOADED cannot know and waits, until it hears FAIL (the VM stayed) or RUN. After
 * it the source says RUN on each link until it has heard RESUMED. RUN may come any number of times.
 *
 * The fence stands before the record, not behind it: freezing may find that another client has revived the VM
 * since it was saved, and then there is still a way back. A process that ends between the two leaves a frozen
 * VMM without a record: whoever comes next (the guardian, or the same program started again) thaws and runs
 * it.
 *
 * While the record is being written nobody knows what is on disk, so a failure that comes then changes
 * nothing: the end of the write decides. After a failed write nobody knows either: if the VM were resumed and
 * GIVEN_UP is what the next process finds, that process would say RUN. So TAKEN_BACK is written before the VM
 * is resumed; if that fails too the VM stands still (STUCK) until it can be written, or until a new process
 * can read what holds.
 *
 * A destination that surely has not run the VM may hand it back: it ends its VMM, records REFUSED and answers
 * RUN with REFUSED. If the VMM ended by itself after it was told to run, the guest may have run, for the
 * blink of an eye, and written to disks: then nobody may run it, and a person must look (LOST).
 *
 * A process that is started again knows its record and nothing else. RUNNING does not say whether the VM was
 * told to run: it is told (again), which a running VM does not notice. If it is refused then, that does not
 * say that the VM never ran: it may have run under the process before, and stopped by itself. It is LOST.
 */
#include "core/handover.h"

#include <errno.h>

/* ---- source ---- */

#define STEP(to, ...)                                                                                        \
	{                                                                                                    \
		.allowed = true, .next = (to), __VA_ARGS__                                                   \
	}

static const struct hf_handover_source_step source_steps[HF_SOURCE_STATES][HF_SOURCE_EVENTS] =
    {
	[HF_SOURCE_OWNS] =
	    {
		[HF_SOURCE_BROKEN] =
		    STEP(HF_SOURCE_ABORTED, .actions = HF_ACT_RESUME | HF_ACT_SAY_FAIL | HF_ACT_FAIL),
		[HF_SOURCE_HEARD_LOADED] = STEP(HF_SOURCE_FENCING, .actions = HF_ACT_FENCE),
	    },
	[HF_SOURCE_FENCING] =
	    {
		/* The VMM does one thing at a time: it is resumed when it has been frozen. */
		[HF_SOURCE_BROKEN] = STEP(HF_SOURCE_FENCING_BROKEN, .actions = HF_ACT_SAY_FAIL | HF_ACT_FAIL),
		[HF_SOURCE_HEARD_REFUSED] =
		    STEP(HF_SOURCE_FENCING_BROKEN, .actions = HF_ACT_SAY_FAIL | HF_ACT_FAIL),
		[HF_SOURCE_FENCED] =
		    STEP(HF_SOURCE_RECORDING, .actions = HF_ACT_RECORD, .record = HF_RECORD_GIVEN_UP),
		[HF_SOURCE_FENCE_FAILED] =
		    STEP(HF_SOURCE_ABORTED, .actions = HF_ACT_RESUME | HF_ACT_SAY_FAIL | HF_ACT_FAIL),
	    },
	[HF_SOURCE_FENCING_BROKEN] =
	    {
		[HF_SOURCE_LINK] = STEP(HF_SOURCE_FENCING_BROKEN, .actions = HF_ACT_SAY_FAIL),
		[HF_SOURCE_BROKEN] = STEP(HF_SOURCE_FENCING_BROKEN, ),
		[HF_SOURCE_HEARD_REFUSED] = STEP(HF_SOURCE_FENCING_BROKEN, ),
		[HF_SOURCE_FENCED] = STEP(HF_SOURCE_ABORTED, .actions = HF_ACT_RESUME),
		[HF_SOURCE_FENCE_FAILED] = STEP(HF_SOURCE_ABORTED, .actions = HF_ACT_RESUME),
	    },
	[HF_SOURCE_RECORDING] =
	    {
		[HF_SOURCE_LINK] = STEP(HF_SOURCE_RECORDING, ),
		[HF_SOURCE_BROKEN] = STEP(HF_SOURCE_RECORDING, ),
		/* It is said again in answer to RUN. */
		[HF_SOURCE_HEARD_REFUSED] = STEP(HF_SOURCE_RECORDING, ),
		[HF_SOURCE_RECORDED] = STEP(HF_SOURCE_GIVEN_UP, .actions = HF_ACT_SAY_RUN),
		/* GIVEN_UP may be on disk all the same, and the next process would say RUN. */
		[HF_SOURCE_RECORD_FAILED] =
		    STEP(HF_SOURCE_TAKING_BACK, .actions = HF_ACT_RECORD, .record = HF_RECORD_TAKEN_BACK),
	    },
	[HF_SOURCE_GIVEN_UP] =
	    {
		[HF_SOURCE_LINK] = STEP(HF_SOURCE_GIVEN_UP, .actions = HF_ACT_SAY_RUN),
		[HF_SOURCE_BROKEN] = STEP(HF_SOURCE_GIVEN_UP, ),
		[HF_SOURCE_HEARD_RESUMED] = STEP(HF_SOURCE_GONE, ),
		[HF_SOURCE_HEARD_REFUSED] =
		    STEP(HF_SOURCE_TAKING_BACK, .actions = HF_ACT_RECORD, .record = HF_RECORD_TAKEN_BACK),
	    },
	[HF_SOURCE_GONE] =
	    {
		/* The answer says how far the destination is. */
		[HF_SOURCE_LINK] = STEP(HF_SOURCE_GONE, .actions = HF_ACT_SAY_RUN),
		[HF_SOURCE_BROKEN] = STEP(HF_SOURCE_GONE, ),
		[HF_SOURCE_HEARD_RESUMED] = STEP(HF_SOURCE_GONE, ),
	    },
	[HF_SOURCE_TAKING_BACK] =
	    {
		[HF_SOURCE_LINK] = STEP(HF_SOURCE_TAKING_BACK, ),
		[HF_SOURCE_BROKEN] = STEP(HF_SOURCE_TAKING_BACK, ),
		[HF_SOURCE_HEARD_REFUSED] = STEP(HF_SOURCE_TAKING_BACK, ),
		[HF_SOURCE_RECORDED] =
		    STEP(HF_SOURCE_ABORTED, .actions = HF_ACT_RESUME | HF_ACT_SAY_FAIL | HF_ACT_FAIL),
		[HF_SOURCE_RECORD_FAILED] = STEP(HF_SOURCE_STUCK, .actions = HF_ACT_ALARM),
	    },
	[HF_SOURCE_STUCK] =
	    {
		/* The record allows neither side to run the VM, until it can be read or written. */
		[HF_SOURCE_LINK] =
		    STEP(HF_SOURCE_TAKING_BACK, .actions = HF_ACT_RECORD, .record = HF_RECORD_TAKEN_BACK),
		[HF_SOURCE_BROKEN] = STEP(HF_SOURCE_STUCK, ),
		[HF_SOURCE_HEARD_REFUSED] = STEP(HF_SOURCE_STUCK, ),
	    },
	[HF_SOURCE_ABORTED] =
	    {
		[HF_SOURCE_LINK] = STEP(HF_SOURCE_ABORTED, .actions = HF_ACT_SAY_FAIL),
		[HF_SOURCE_BROKEN] = STEP(HF_SOURCE_ABORTED, ),
		/* It was on its way when the failure came. */
		[HF_SOURCE_HEARD_LOADED] = STEP(HF_SOURCE_ABORTED, ),
		[HF_SOURCE_HEARD_REFUSED] = STEP(HF_SOURCE_ABORTED, ),
	    },
};

int hf_handover_source_step(enum hf_handover_source state, enum hf_handover_source_event event,
			    struct hf_handover_source_step *step)
{
	if ((unsigned)state >= HF_SOURCE_STATES || (unsigned)event >= HF_SOURCE_EVENTS ||
	    !source_steps[state][event].allowed)
		return -EINVAL;
	*step = source_steps[state][event];
	return 0;
}

struct hf_handover_source_step hf_handover_source_restart(enum hf_record record)
{
	if (record == HF_RECORD_GIVEN_UP)
		return (struct hf_handover_source_step)STEP(HF_SOURCE_GIVEN_UP, );
	return (struct hf_handover_source_step)STEP(HF_SOURCE_ABORTED, .actions = HF_ACT_RESUME);
}

static const char *const source_names[HF_SOURCE_STATES] = {
    [HF_SOURCE_OWNS] = "owns",
    [HF_SOURCE_FENCING] = "fencing",
    [HF_SOURCE_FENCING_BROKEN] = "fencing-broken",
    [HF_SOURCE_RECORDING] = "recording",
    [HF_SOURCE_GIVEN_UP] = "given-up",
    [HF_SOURCE_GONE] = "gone",
    [HF_SOURCE_TAKING_BACK] = "taking-back",
    [HF_SOURCE_STUCK] = "stuck",
    [HF_SOURCE_ABORTED] = "aborted",
};

static const char *const source_event_names[HF_SOURCE_EVENTS] = {
    [HF_SOURCE_LINK] = "link",
    [HF_SOURCE_BROKEN] = "broken",
    [HF_SOURCE_HEARD_LOADED] = "heard-loaded",
    [HF_SOURCE_HEARD_RESUMED] = "heard-resumed",
    [HF_SOURCE_HEARD_REFUSED] = "heard-refused",
    [HF_SOURCE_FENCED] = "fenced",
    [HF_SOURCE_FENCE_FAILED] = "fence-failed",
    [HF_SOURCE_RECORDED] = "recorded",
    [HF_SOURCE_RECORD_FAILED] = "record-failed",
};

const char *hf_handover_source_name(enum hf_handover_source state)
{
	return (unsigned)state < HF_SOURCE_STATES ? source_names[state] : "unknown";
}

const char *hf_handover_source_event_name(enum hf_handover_source_event event)
{
	return (unsigned)event < HF_SOURCE_EVENTS ? source_event_names[event] : "unknown";
}

/* ---- destination ---- */

static const struct hf_handover_destination_step
    destination_steps[HF_DESTINATION_STATES][HF_DESTINATION_EVENTS] =
	{
	    [HF_DESTINATION_LOADING] =
		{
		    [HF_DESTINATION_BROKEN] =
			STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_SAY_FAIL | HF_ACT_FAIL),
		    [HF_DESTINATION_HEARD_FAIL] = STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_FAIL),
		    [HF_DESTINATION_VM_ENDED] =
			STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_SAY_FAIL | HF_ACT_FAIL),
		    [HF_DESTINATION_VM_LOADED] = STEP(HF_DESTINATION_RECORDING_LOADED,
						      .actions = HF_ACT_RECORD, .record = HF_RECORD_LOADED),
		},
	    [HF_DESTINATION_RECORDING_LOADED] =
		{
		    /* LOADED was not said: the source goes on, and will say so if it is asked. */
		    [HF_DESTINATION_BROKEN] =
			STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_SAY_FAIL | HF_ACT_FAIL),
		    [HF_DESTINATION_HEARD_FAIL] = STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_FAIL),
		    [HF_DESTINATION_VM_ENDED] =
			STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_SAY_FAIL | HF_ACT_FAIL),
		    [HF_DESTINATION_RECORDED] = STEP(HF_DESTINATION_LOADED, .actions = HF_ACT_SAY_LOADED),
		    [HF_DESTINATION_RECORD_FAILED] =
			STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_SAY_FAIL | HF_ACT_FAIL),
		},
	    [HF_DESTINATION_LOADED] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_LOADED, ),
		    [HF_DESTINATION_HEARD_RUN] =
			STEP(HF_DESTINATION_RECORDING_RUNNING, .actions = HF_ACT_RECORD,
			     .record = HF_RECORD_RUNNING),
		    [HF_DESTINATION_HEARD_FAIL] = STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_FAIL),
		    /* It has not run, and never will here. */
		    [HF_DESTINATION_VM_ENDED] = STEP(HF_DESTINATION_RECORDING_REFUSED,
						     .actions = HF_ACT_RECORD, .record = HF_RECORD_REFUSED),
		},
	    [HF_DESTINATION_RECORDING_RUNNING] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_RECORDING_RUNNING, ),
		    [HF_DESTINATION_HEARD_RUN] = STEP(HF_DESTINATION_RECORDING_RUNNING, ),
		    /* The VMM is asked to run, and will not: that it never ran is known only then. */
		    [HF_DESTINATION_VM_ENDED] = STEP(HF_DESTINATION_RECORDING_RUNNING, ),
		    [HF_DESTINATION_RECORDED] = STEP(HF_DESTINATION_STARTING, .actions = HF_ACT_RUN),
		    [HF_DESTINATION_RECORD_FAILED] = STEP(HF_DESTINATION_KILLING, .actions = HF_ACT_KILL),
		},
	    [HF_DESTINATION_STARTING] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_STARTING, ),
		    [HF_DESTINATION_HEARD_RUN] = STEP(HF_DESTINATION_STARTING, ),
		    /* The answer may be on its way. */
		    [HF_DESTINATION_VM_ENDED] = STEP(HF_DESTINATION_STARTING_ENDED, ),
		    [HF_DESTINATION_VM_RAN] = STEP(HF_DESTINATION_RUNNING, .actions = HF_ACT_SAY_RESUMED),
		    [HF_DESTINATION_VM_REFUSED] = STEP(HF_DESTINATION_KILLING, .actions = HF_ACT_KILL),
		    [HF_DESTINATION_VM_UNKNOWN] = STEP(HF_DESTINATION_LOST, .actions = HF_ACT_ALARM),
		},
	    [HF_DESTINATION_STARTING_ENDED] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_STARTING_ENDED, ),
		    [HF_DESTINATION_HEARD_RUN] = STEP(HF_DESTINATION_STARTING_ENDED, ),
		    [HF_DESTINATION_VM_RAN] = STEP(HF_DESTINATION_LOST, .actions = HF_ACT_ALARM),
		    [HF_DESTINATION_VM_REFUSED] = STEP(HF_DESTINATION_RECORDING_REFUSED,
						       .actions = HF_ACT_RECORD, .record = HF_RECORD_REFUSED),
		    [HF_DESTINATION_VM_UNKNOWN] = STEP(HF_DESTINATION_LOST, .actions = HF_ACT_ALARM),
		},
	    [HF_DESTINATION_STARTING_AGAIN] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_STARTING_AGAIN, ),
		    [HF_DESTINATION_HEARD_RUN] = STEP(HF_DESTINATION_STARTING_AGAIN, ),
		    [HF_DESTINATION_VM_ENDED] = STEP(HF_DESTINATION_LOST, .actions = HF_ACT_ALARM),
		    [HF_DESTINATION_VM_RAN] = STEP(HF_DESTINATION_RUNNING, .actions = HF_ACT_SAY_RESUMED),
		    /* It will not run now; it may have before. */
		    [HF_DESTINATION_VM_REFUSED] = STEP(HF_DESTINATION_LOST, .actions = HF_ACT_ALARM),
		    [HF_DESTINATION_VM_UNKNOWN] = STEP(HF_DESTINATION_LOST, .actions = HF_ACT_ALARM),
		},
	    [HF_DESTINATION_RUNNING] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_RUNNING, ),
		    [HF_DESTINATION_HEARD_RUN] = STEP(HF_DESTINATION_RUNNING, .actions = HF_ACT_SAY_RESUMED),
		    [HF_DESTINATION_VM_ENDED] = STEP(HF_DESTINATION_LOST, .actions = HF_ACT_ALARM),
		},
	    [HF_DESTINATION_KILLING] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_KILLING, ),
		    [HF_DESTINATION_HEARD_RUN] = STEP(HF_DESTINATION_KILLING, ),
		    [HF_DESTINATION_VM_ENDED] = STEP(HF_DESTINATION_KILLING, ),
		    [HF_DESTINATION_VM_KILLED] =
			STEP(HF_DESTINATION_RECORDING_REFUSED, .actions = HF_ACT_RECORD,
			     .record = HF_RECORD_REFUSED),
		    [HF_DESTINATION_KILL_FAILED] = STEP(HF_DESTINATION_LOST, .actions = HF_ACT_ALARM),
		},
	    [HF_DESTINATION_RECORDING_REFUSED] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_RECORDING_REFUSED, ),
		    /* Answered when the record is written. */
		    [HF_DESTINATION_HEARD_RUN] = STEP(HF_DESTINATION_RECORDING_REFUSED, ),
		    [HF_DESTINATION_HEARD_FAIL] = STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_FAIL),
		    [HF_DESTINATION_VM_ENDED] = STEP(HF_DESTINATION_RECORDING_REFUSED, ),
		    [HF_DESTINATION_RECORDED] = STEP(HF_DESTINATION_REFUSED, .actions = HF_ACT_SAY_REFUSED),
		    /* The VMM is gone all the same, and this process knows that it never ran. */
		    [HF_DESTINATION_RECORD_FAILED] =
			STEP(HF_DESTINATION_REFUSED, .actions = HF_ACT_SAY_REFUSED),
		},
	    [HF_DESTINATION_REFUSED] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_REFUSED, ),
		    [HF_DESTINATION_HEARD_RUN] = STEP(HF_DESTINATION_REFUSED, .actions = HF_ACT_SAY_REFUSED),
		    [HF_DESTINATION_HEARD_FAIL] = STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_FAIL),
		    [HF_DESTINATION_VM_ENDED] = STEP(HF_DESTINATION_REFUSED, ),
		},
	    [HF_DESTINATION_ABORTED] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_ABORTED, ),
		    [HF_DESTINATION_HEARD_FAIL] = STEP(HF_DESTINATION_ABORTED, ),
		    [HF_DESTINATION_VM_LOADED] = STEP(HF_DESTINATION_ABORTED, ),
		    [HF_DESTINATION_VM_ENDED] = STEP(HF_DESTINATION_ABORTED, ),
		    [HF_DESTINATION_RECORDED] = STEP(HF_DESTINATION_ABORTED, ),
		    [HF_DESTINATION_RECORD_FAILED] = STEP(HF_DESTINATION_ABORTED, ),
		},
	    [HF_DESTINATION_LOST] =
		{
		    [HF_DESTINATION_BROKEN] = STEP(HF_DESTINATION_LOST, ),
		    [HF_DESTINATION_HEARD_RUN] = STEP(HF_DESTINATION_LOST, ),
		    /* The process before had said REFUSED, and could not record it. */
		    [HF_DESTINATION_HEARD_FAIL] = STEP(HF_DESTINATION_ABORTED, .actions = HF_ACT_FAIL),
		    [HF_DESTINATION_VM_ENDED] = STEP(HF_DESTINATION_LOST, ),
		    /* The VMM had ended before its answer was heard. */
		    [HF_DESTINATION_VM_RAN] = STEP(HF_DESTINATION_LOST, ),
		    [HF_DESTINATION_VM_REFUSED] = STEP(HF_DESTINATION_LOST, ),
		    [HF_DESTINATION_VM_UNKNOWN] = STEP(HF_DESTINATION_LOST, ),
		},
};

int hf_handover_destination_step(enum hf_handover_destination state, enum hf_handover_destination_event event,
				 struct hf_handover_destination_step *step)
{
	if ((unsigned)state >= HF_DESTINATION_STATES || (unsigned)event >= HF_DESTINATION_EVENTS ||
	    !destination_steps[state][event].allowed)
		return -EINVAL;
	*step = destination_steps[state][event];
	return 0;
}

struct hf_handover_destination_step hf_handover_destination_restart(enum hf_record record, bool vmm_lives)
{
	typedef struct hf_handover_destination_step step;

	if (record == HF_RECORD_LOADED && vmm_lives)
		return (step)STEP(HF_DESTINATION_LOADED, );
	if (record == HF_RECORD_LOADED)
		return (step)STEP(HF_DESTINATION_RECORDING_REFUSED, .actions = HF_ACT_RECORD,
				  .record = HF_RECORD_REFUSED);
	if (record == HF_RECORD_RUNNING && vmm_lives)
		return (step)STEP(HF_DESTINATION_STARTING_AGAIN, .actions = HF_ACT_RUN);
	if (record == HF_RECORD_RUNNING)
		return (step)STEP(HF_DESTINATION_LOST, .actions = HF_ACT_ALARM);
	if (record == HF_RECORD_REFUSED)
		return (step)STEP(HF_DESTINATION_REFUSED, );
	return (step)STEP(HF_DESTINATION_ABORTED, );
}

static const char *const destination_names[HF_DESTINATION_STATES] = {
    [HF_DESTINATION_LOADING] = "loading",
    [HF_DESTINATION_RECORDING_LOADED] = "recording-loaded",
    [HF_DESTINATION_LOADED] = "loaded",
    [HF_DESTINATION_RECORDING_RUNNING] = "recording-running",
    [HF_DESTINATION_STARTING] = "starting",
    [HF_DESTINATION_STARTING_ENDED] = "starting-ended",
    [HF_DESTINATION_STARTING_AGAIN] = "starting-again",
    [HF_DESTINATION_RUNNING] = "running",
    [HF_DESTINATION_KILLING] = "killing",
    [HF_DESTINATION_RECORDING_REFUSED] = "recording-refused",
    [HF_DESTINATION_REFUSED] = "refused",
    [HF_DESTINATION_ABORTED] = "aborted",
    [HF_DESTINATION_LOST] = "lost",
};

static const char *const destination_event_names[HF_DESTINATION_EVENTS] = {
    [HF_DESTINATION_BROKEN] = "broken",		  [HF_DESTINATION_HEARD_RUN] = "heard-run",
    [HF_DESTINATION_HEARD_FAIL] = "heard-fail",	  [HF_DESTINATION_VM_LOADED] = "vm-loaded",
    [HF_DESTINATION_VM_RAN] = "vm-ran",		  [HF_DESTINATION_VM_REFUSED] = "vm-refused",
    [HF_DESTINATION_VM_UNKNOWN] = "vm-unknown",	  [HF_DESTINATION_VM_KILLED] = "vm-killed",
    [HF_DESTINATION_KILL_FAILED] = "kill-failed", [HF_DESTINATION_VM_ENDED] = "vm-ended",
    [HF_DESTINATION_RECORDED] = "recorded",	  [HF_DESTINATION_RECORD_FAILED] = "record-failed",
};

const char *hf_handover_destination_name(enum hf_handover_destination state)
{
	return (unsigned)state < HF_DESTINATION_STATES ? destination_names[state] : "unknown";
}

const char *hf_handover_destination_event_name(enum hf_handover_destination_event event)
{
	return (unsigned)event < HF_DESTINATION_EVENTS ? destination_event_names[event] : "unknown";
}

/* ---- records ---- */

static const char *const record_names[HF_RECORDS] = {
    [HF_RECORD_NONE] = "none",	   [HF_RECORD_GIVEN_UP] = "given-up", [HF_RECORD_TAKEN_BACK] = "taken-back",
    [HF_RECORD_LOADED] = "loaded", [HF_RECORD_RUNNING] = "running",   [HF_RECORD_REFUSED] = "refused",
};

const char *hf_record_name(enum hf_record record)
{
	return (unsigned)record < HF_RECORDS ? record_names[record] : "unknown";
}
