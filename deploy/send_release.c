/* SPDX-License-Identifier: Apache-2.0 */
/*
 * --release-ram. Theory of operation: the engine knows which pages may go (core/source_release.c), a thread
 * of the memory port gives them back. That pages have gone is on record before the first one goes, because a
 * program started again must never take a VM back of which it has only a part.
 */
#include <errno.h>

#include "core/wire.h"
#include "deploy/program.h"
#include "deploy/send_internal.h"

static int begin(void *opaque, struct hf_err *err)
{
	const struct send *send = opaque;
	return hf_vm_recorder_write_released(send->recorder, err);
}

static bool work(void *engine)
{
	return hf_source_release_work(engine);
}

int hf_send_allow_release(struct send *send, struct hf_err *err)
{
	if (!send->options.release_ram)
		return 0;
	/* Memory has one userfaultfd. Pre-copy needs its own no more once the VM has stopped, and what a
	 * program before this one has left on the VMM that it froze is needed by nobody. */
	bool own_tracking = send->options.precopy || send->restarted;
	return hf_outgoing_memory_allow_release(send->memory, own_tracking, begin, send, err);
}

int hf_send_start_release(struct send *send, struct hf_err *err)
{
	if (!send->options.release_ram)
		return 0;
	return hf_outgoing_memory_start_release(send->memory, work, send->engine, err);
}

int hf_send_check_release(struct send *send, struct hf_err *err)
{
	if (!send->options.release_ram ||
	    (send->scheme->info(send->link)->features & HF_WIRE_FEATURE_RELEASE))
		return 0;
	return hf_err_set(
	    err, HF_ERR_PEER, EOPNOTSUPP,
	    "the destination's release does not say which pages it has placed, so --release-ram "
	    "cannot be kept; install the same release on both hosts, or leave it out");
}

void hf_send_tell_release(struct send *send)
{
	if (send->release_told || send->snapshot.release_err.class == HF_ERR_NONE)
		return;
	send->release_told = true;
	hf_complain(COMMAND, "not every page could be given back: %s", send->snapshot.release_err.text);
}
