/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A source that is gone for good. Theory of operation: waiting for it or poisoning what is missing is the
 * operator's choice, said over the control socket of a `receive` that waits, or by a new start. It cannot be
 * taken back: the kept maps have a note from the first page on, and a `receive` that finds it goes on
 * poisoning whether it was told so or not. No source is listened for then: it is never told that the
 * migration has completed, so that what it has can still be looked at.
 */
#include <errno.h>

#include "deploy/program.h"
#include "deploy/receive_internal.h"

void hf_receive_note_poison(void *opaque, bool settled)
{
	struct receive *receive = opaque;
	hf_kept_pages_set_poisoning(receive->kept, settled);
}

int hf_receive_poison(struct receive *receive, struct hf_err *err)
{
	if (!receive->engine)
		return hf_err_set(err, HF_ERR_LOCAL, EPERM, "there is no migration yet");
	int result = hf_destination_poison_missing(receive->engine, err);
	if (result)
		return result;
	receive->poison = true;
	hf_receive_close_listener(receive);
	return 0;
}

int hf_receive_check_poison(struct receive *receive, struct hf_err *err)
{
	bool ours = receive->restarted && receive->vmm_lives && receive->found == HF_RECORD_RUNNING;
	if (receive->options.poison_missing && !ours)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EPERM,
		    "--poison-missing: there is no VM that an earlier receive has left running here "
		    "(%s): nothing is poisoned",
		    receive->restarted ? "its record says that the source may still have it"
				       : "there is no record of one");
	receive->poison = receive->options.poison_missing;
	return 0;
}

void hf_receive_tend_poison(struct receive *receive)
{
	struct hf_err err = HF_ERR_INIT;
	if (!receive->poison)
		return;
	if (receive->snapshot.poisoning && receive->link) /* it came just before, and is refused */
		hf_receive_close_link(receive);
	if (receive->snapshot.poisoning || receive->snapshot.takeover_failed ||
	    receive->snapshot.handover != HF_DESTINATION_RUNNING || receive->snapshot.pages_complete)
		return;
	int result = hf_destination_poison_missing(receive->engine, &err);
	if (result == 0)
		return;
	hf_complain(COMMAND, "%s", err.text);
	receive->poison = false;
	receive->stopped = true;
}
