/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a pid comes to mean another process when its own has ended. Start time and pid name
 * one process of one boot; the boot id says which. A VMM whose threads have all ended is gone even while
 * nobody has reaped it; one whose first thread alone has ended is not.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/ramblock.h"
#include "kvm/vm_record.h"

#define STAT_MAX_BYTES 4096

struct process {
	char state;
	uint64_t threads;
	uint64_t start_ticks;
};

/* Text of a small file of /proc, terminated. */
static int read_text(const char *path, char *text, size_t text_bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, text, text_bytes - 1);
	int r = n < 0 ? -errno : 0;
	close(fd);
	text[n > 0 ? n : 0] = '\0';
	return r;
}

static int read_boot_id(char boot_id[static HF_VM_RECORD_BOOT_ID_CHARS + 1])
{
	char text[HF_VM_RECORD_BOOT_ID_CHARS + 2];
	int r = read_text("/proc/sys/kernel/random/boot_id", text, sizeof(text));
	if (r < 0)
		return r;
	if (strcspn(text, "\n") != HF_VM_RECORD_BOOT_ID_CHARS)
		return -EPROTO;
	memcpy(boot_id, text, HF_VM_RECORD_BOOT_ID_CHARS);
	boot_id[HF_VM_RECORD_BOOT_ID_CHARS] = '\0';
	return 0;
}

/* proc_pid_stat(5): fields 3, 20 and 22. The name before them may hold anything, also ')'. */
static int read_process(pid_t pid, struct process *process)
{
	char path[64], text[STAT_MAX_BYTES];
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	int r = read_text(path, text, sizeof(text));
	if (r == -ENOENT) // ended, or hidden from us (hidepid)
		return kill(pid, 0) && errno == ESRCH ? -ESRCH : -EACCES;
	if (r < 0)
		return r;
	const char *at = strrchr(text, ')');
	if (!at || sscanf(at,
			  ") %c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %" SCNu64
			  " %*s %" SCNu64,
			  &process->state, &process->threads, &process->start_ticks) != 3)
		return -EPROTO;
	return 0;
}

int hf_vm_record_vmm_lives(const struct hf_vm_record_description *description)
{
	char boot_id[HF_VM_RECORD_BOOT_ID_CHARS + 1];
	struct process process;
	int r = read_boot_id(boot_id);
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
	struct process process;
	struct hf_vm_record_description *description = calloc(1, sizeof(*description));
	if (description)
		description->vm_name = strdup(vm_name);
	if (!description || !description->vm_name) {
		hf_vm_record_description_free(description);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the description of a VM");
	}
	int r = read_boot_id(description->boot_id);
	if (r == 0)
		r = read_process(vmm_pid, &process);
	if (r < 0) {
		hf_vm_record_description_free(description);
		return hf_err_set(err, HF_ERR_LOCAL, -r, "the VMM (pid %d) cannot be looked at in /proc: %s",
				  (int)vmm_pid, strerror(-r));
	}
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

void hf_vm_record_description_free(struct hf_vm_record_description *description)
{
	if (!description)
		return;
	for (uint32_t i = 0; i < description->block_count; i++) {
		free(description->blocks[i].idstr);
		free(description->blocks[i].path);
	}
	free(description->blocks);
	free(description->vm_name);
	free(description->qmp_target);
	free(description->peer_uri);
	free(description->listen_uri);
	free(description);
}
