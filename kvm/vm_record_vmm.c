/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: start time and pid name one process of one boot; the boot id says which. A VMM whose
 * threads have all ended is gone even while nobody has reaped it; one whose first thread alone has ended is
 * not.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/ramblock.h"
#include "hugemem/process_stat.h"
#include "kvm/vm_record.h"

static int read_process(pid_t pid, struct hf_process_stat *process)
{
	int r = hf_process_stat(pid, process);
	if (r == -ENOENT) // ended, or hidden from us (hidepid)
		return kill(pid, 0) && errno == ESRCH ? -ESRCH : -EACCES;
	return r;
}

int hf_vm_record_vmm_lives(const struct hf_vm_record_description *description)
{
	char boot_id[HF_BOOT_ID_BYTES];
	struct hf_process_stat process;
	int r = hf_boot_id(boot_id);
	if (r < 0)
		return r;
	if (strcmp(boot_id, description->boot_id) != 0)
		return 0;
	r = read_process(description->vmm_pid, &process);
	if (r < 0)
		return r == -ESRCH ? 0 : r;
	bool ended = (process.state == 'Z' || process.state == 'X') && process.threads <= 1;
	return process.start_ticks == description->vmm_start_ticks && !ended;
}

/* ---- descriptions ----------------------------------------------------------------------------- */

int hf_vm_record_description_create(struct hf_vm_record_description **out, enum hf_vm_record_role role,
				    const char *vm_name, pid_t vmm_pid, struct hf_err *err)
{
	struct hf_process_stat process = {0};
	char boot_id[HF_BOOT_ID_BYTES] = "";
	struct hf_vm_record_description *description = calloc(1, sizeof(*description));
	if (description)
		description->vm_name = strdup(vm_name);
	if (!description || !description->vm_name) {
		hf_vm_record_description_free(description);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the description of a VM");
	}
	int r = hf_boot_id(boot_id);
	if (r == 0)
		r = read_process(vmm_pid, &process);
	if (r < 0) {
		hf_vm_record_description_free(description);
		return hf_err_set(err, HF_ERR_LOCAL, -r, "the VMM (pid %d) cannot be looked at in /proc: %s",
				  (int)vmm_pid, strerror(-r));
	}
	memcpy(description->boot_id, boot_id, sizeof(description->boot_id));
	description->role = role;
	description->vmm_pid = vmm_pid;
	description->vmm_start_ticks = process.start_ticks;
	*out = description;
	return 0;
}

int hf_vm_record_description_add_block(struct hf_vm_record_description *description, const char *idstr,
				       const char *path, uint64_t length_bytes, uint64_t page_size_bytes,
				       struct hf_err *err)
{
	if (description->block_count == HF_RAMBLOCKS_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, E2BIG, "a VM has at most %d blocks of memory",
				  HF_RAMBLOCKS_MAX);
	if (!description->blocks)
		description->blocks = calloc(HF_RAMBLOCKS_MAX, sizeof(*description->blocks));
	struct hf_vm_record_block block = {.idstr = strdup(idstr),
					   .path = path ? strdup(path) : NULL,
					   .length_bytes = length_bytes,
					   .page_size_bytes = page_size_bytes};
	if (!description->blocks || !block.idstr || (path && !block.path)) {
		free(block.idstr);
		free(block.path);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the description of a VM");
	}
	description->blocks[description->block_count++] = block;
	return 0;
}

int hf_vm_record_description_set_vcpus(struct hf_vm_record_description *description,
				       const uint32_t *thread_ids, uint32_t count, struct hf_err *err)
{
	uint32_t *copy = calloc((size_t)count + 1, sizeof(*copy));
	if (!copy)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the description of a VM");
	for (uint32_t i = 0; i < count; i++)
		copy[i] = thread_ids[i];
	free(description->vcpu_thread_ids);
	description->vcpu_thread_ids = copy;
	description->vcpu_count = count;
	return 0;
}

void hf_vm_record_description_free(struct hf_vm_record_description *description)
{
	if (!description)
		return;
	for (uint32_t i = 0; i < description->block_count; i++) {
		free(description->blocks[i].idstr);
		free(description->blocks[i].path);
	}
	free(description->blocks);
	free(description->vcpu_thread_ids);
	free(description->vm_name);
	free(description->qmp_target);
	free(description->peer_uri);
	free(description->listen_uri);
	free(description->vmm_settings);
	free(description);
}
