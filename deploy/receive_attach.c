/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How `receive` gets hold of the VMM's memory. Theory of operation: the attach library hands it out, in a
 * thread of the VMM. A VMM that has loaded a VM is frozen until it is told to run it (kvm/qmp_vm_hold.c), and
 * so it is for a `receive` that was started again in between: thawed for the library's sake it would read
 * what other QMP clients have said meanwhile, and a `cont` among it would run the VM that the source may run.
 * So what the library would hand out is taken out of the frozen process (hugemem/attach_client_adopt.c), with
 * what the record has: where the blocks are, and which program had them before, whose end is waited for here
 * as the library would. The record names this program from then on.
 *
 *     found loaded, frozen    adopted; RUN thaws it, and then the library hears of this program
 *                             cannot be adopted: said, thawed, held again (hf_qmp_vm_hold())
 *     found running, frozen   thawed: the VM is this side's, and is told to run in any case
 *     else                    the library
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/program.h"
#include "deploy/receive_internal.h"
#include "hugemem/agent_process.h"

#define PREDECESSOR_WAIT_MS 5000u
#define JOIN_LIMIT_MS	    2000u /* each of three steps; the source waits to hear that the VM runs */

/* ---- a frozen one ---- */

static int await_predecessor(const struct hf_vm_record_state *state, struct hf_err *err)
{
	struct hf_agent_process before = HF_AGENT_PROCESS_NONE;
	if (!state->agent_pid)
		return hf_err_set(err, HF_ERR_LOCAL, ENODATA,
				  "the record does not tell which program had it before");
	int result = hf_agent_process_find(state->agent_pid, state->agent_start_ticks, &before);
	if (result == -ESRCH)
		return 0;
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "process %d, which had it before: %s",
				  (int)state->agent_pid, strerror(-result));
	bool gone = hf_agent_process_wait_gone(&before, PREDECESSOR_WAIT_MS, -1);
	hf_agent_process_close(&before);
	return gone ? 0
		    : hf_err_set(err, HF_ERR_LOCAL, EBUSY, "process %d, which had it before, has not ended",
				 (int)state->agent_pid);
}

/* Where the blocks were when the record was made. */
static int recall_regions(const struct receive *receive, struct hf_attached_region *regions,
			  struct hf_err *err)
{
	const struct hf_vm_record_description *about = hf_vm_record_description(receive->record);
	for (uint32_t i = 0; i < about->block_count; i++) {
		const struct hf_vm_record_block *block = &about->blocks[i];
		if (!block->vmm_address)
			return hf_err_set(err, HF_ERR_LOCAL, ENODATA,
					  "the record does not tell where its memory is");
		regions[i] = (struct hf_attached_region){.vmm_address = block->vmm_address,
							 .length_bytes = block->length_bytes,
							 .page_size_bytes = block->page_size_bytes,
							 .fd_offset_bytes = block->file_offset_bytes};
		snprintf(regions[i].idstr, sizeof(regions[i].idstr), "%s", block->idstr);
	}
	return 0;
}

static int adopt(struct receive *receive, struct hf_err *err)
{
	const struct hf_vm_record_state state = hf_vm_record_state(receive->record);
	uint32_t count = hf_vm_record_description(receive->record)->block_count;
	struct hf_attached_region *regions = calloc(count + 1, sizeof(*regions));
	int result =
	    regions ? await_predecessor(&state, err) : hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	if (!result)
		result = recall_regions(receive, regions, err);
	if (!result)
		result =
		    hf_attach_client_adopt(&receive->attach, receive->options.attach,
					   hf_qmp_vm_pid(receive->vm), receive->key, regions, count, err);
	/* For the next one, before anything of the memory is touched. */
	if (!result)
		result = hf_vm_record_write(receive->record, state.record, err);
	if (result) {
		hf_attach_client_destroy(receive->attach);
		receive->attach = NULL;
	}
	free(regions);
	return result;
}

/* ---- any ---- */

int hf_receive_attach(struct receive *receive, struct hf_err *err)
{
	struct hf_err why = HF_ERR_INIT;
	bool frozen = receive->restarted && hf_vmm_is_fenced(&receive->vmm);
	if (frozen && receive->found == HF_RECORD_LOADED) {
		int result = adopt(receive, &why);
		if (result == -EBUSY) /* nor would the library let it in */
			*err = why;
		if (result == 0 || result == -EBUSY)
			return result;
		hf_complain(
		    COMMAND,
		    "the VMM's memory cannot be taken over while it is frozen: %s; it is thawed for a "
		    "moment, and killed if another QMP client has it run the VM in that moment",
		    why.text);
	}
	int result = frozen ? hf_vmm_thaw(&receive->vmm, err) : 0;
	receive->thawed = frozen && result == 0;
	return result ? result : hf_attach_client_connect(&receive->attach, receive->options.attach, err);
}

void hf_receive_join(struct receive *receive)
{
	struct hf_err err = HF_ERR_INIT;
	if (hf_attach_client_join(receive->attach, JOIN_LIMIT_MS, &err))
		hf_complain(COMMAND, "the VMM's attach library is told later who has its memory: %s",
			    err.text);
}
