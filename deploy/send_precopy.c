/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pre-copy of `send`. Theory of operation: the VM's writes are tracked from before the link is opened until
 * the VM is given up, or until this program ends and the VM stays here. A VM that was given up is frozen and
 * cannot be asked; what tracks it ends with its VMM. The engine does the rounds; here are the operator's ways
 * to change them, and --postcopy-after, which is migrate-start-postcopy when the time has come.
 */
#include <errno.h>
#include <stdlib.h>

#include "deploy/monotonic.h"
#include "deploy/program.h"
#include "deploy/send_internal.h"

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

int hf_send_track(struct send *send, const struct hf_qmp_vm_block *backends, uint32_t count,
		  struct hf_err *err)
{
	if (!send->options.precopy)
		return 0;
	struct hf_err why = HF_ERR_INIT;
	int result = hf_outgoing_memory_check_unshared(send->memory, &why);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result,
				  "%.350s: rounds would miss what it writes; end it, or move the VM without "
				  "--precopy",
				  why.text);
	struct hf_block_file *files = calloc(count + 1, sizeof(*files));
	if (!files)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < count; i++)
		files[i] = (struct hf_block_file){backends[i].idstr, backends[i].path};
	result = hf_precopy_memory_create(&send->tracked, send->options.attach, hf_qmp_vm_pid(send->vm),
					  &send->blocks, files, hf_outgoing_memory_port(send->memory), err);
	free(files);
	if (result)
		hf_err_prefix(err, "--attach %s", send->options.attach);
	return result;
}

void hf_send_untrack(struct send *send)
{
	bool answers = !send->vmm_ended && send->snapshot.owner == HF_VM_OWNER_SOURCE;
	hf_precopy_memory_destroy(send->tracked, answers);
	send->tracked = NULL;
}

struct hf_source_memory hf_send_memory_port(struct send *send)
{
	return send->tracked ? hf_precopy_memory_port(send->tracked) : hf_outgoing_memory_port(send->memory);
}

void hf_send_begin_precopy(struct send *send)
{
	if (send->options.postcopy_after_s)
		send->postcopy_due_ns = hf_monotonic_ns(NULL) + send->options.postcopy_after_s * NS_PER_S;
}

void hf_send_tend_precopy(struct send *send)
{
	if (!send->postcopy_due_ns || hf_monotonic_ns(NULL) < send->postcopy_due_ns)
		return;
	send->postcopy_due_ns = 0;
	hf_source_start_postcopy(send->engine, NULL);
}

/* ---- control ---- */

int hf_send_control_postcopy(void *opaque, struct hf_err *err)
{
	const struct send *send = opaque;
	return hf_source_start_postcopy(send->engine, err);
}

int hf_send_control_set(void *opaque, const struct hf_control_parameters *parameters, struct hf_err *err)
{
	const struct send *send = opaque;
	(void)err;
	if (parameters->present & HF_CONTROL_MAX_BANDWIDTH)
		hf_source_limit_rounds(send->engine, parameters->max_bandwidth_bytes_per_s);
	if (parameters->present & HF_CONTROL_DOWNTIME_LIMIT)
		hf_source_limit_downtime(send->engine, parameters->downtime_limit_ms * NS_PER_MS);
	return 0;
}

void hf_send_control_get(void *opaque, struct hf_control_parameters *parameters)
{
	const struct send *send = opaque;
	struct hf_source_snapshot snapshot;
	hf_source_snapshot(send->engine, &snapshot);
	*parameters = (struct hf_control_parameters){
	    .present = HF_CONTROL_MAX_BANDWIDTH | HF_CONTROL_DOWNTIME_LIMIT,
	    .max_bandwidth_bytes_per_s = snapshot.precopy.limit_bytes_per_s,
	    .downtime_limit_ms = snapshot.precopy.downtime_limit_ns / NS_PER_MS,
	};
}
