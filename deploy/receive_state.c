/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What outlives `receive`. Theory of operation: once a source has come there are two files, named after the
 * VM's QMP socket, which the same command line names again:
 *
 *   the record      who may run the VM (kvm/vm_record.h); on storage that outlives the host
 *   the kept maps   which pages are here (hugemem/kept_pages.h); on a tmpfs, for they are worth nothing
 * without the VMM, which does not outlive the host either
 *
 * Who finds a record goes on from it:
 *
 *   none            the program before this one ended before anything was promised: the VMM's settings are
 *                   put back, both files are removed
 *   loaded          the VM waits for RUN or FAIL: the memory is taken over, the session awaited. The VMM is
 *                   frozen, and stays so (receive_attach.c)
 *   running         the same, and the VM is told to run (again)
 *   refused         the VM is the source's; the source is told when it asks
 *
 * If the VMM has ended meanwhile a loaded VM is handed back, and one that was told to run is lost: nobody can
 * tell what it did.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/wire.h"
#include "deploy/program.h"
#include "deploy/receive_internal.h"

/* ---- found ---- */

static void remove_files(struct receive *receive)
{
	struct hf_err err = HF_ERR_INIT;
	if (receive->kept && hf_kept_pages_remove(receive->kept, &err))
		hf_complain(COMMAND, "%s", err.text);
	hf_kept_pages_close(receive->kept);
	receive->kept = NULL;
	if (receive->record && hf_vm_record_remove(receive->record, &err))
		hf_complain(COMMAND, "%s", err.text);
	hf_vm_record_close(receive->record);
	receive->record = NULL;
}

/* Kept maps without a record that binds are of no use, whatever is in them. */
static int remove_kept(struct receive *receive, struct hf_err *err)
{
	int result = hf_kept_pages_open(&receive->kept, receive->options.runtime_dir, receive->key, err);
	if (result == -ENOENT)
		return 0;
	if (result == 0)
		result = hf_kept_pages_remove(receive->kept, err);
	hf_kept_pages_close(receive->kept);
	receive->kept = NULL;
	return result;
}

/* The VMM still waits, and may have what the program before this one has set. */
static int keep_settings(struct receive *receive, const struct hf_vm_record_description *about,
			 struct hf_err *err)
{
	if (!about->vmm_settings)
		return 0;
	receive->settings_left = strdup(about->vmm_settings);
	return receive->settings_left ? 0 : hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
}

int hf_receive_put_settings_back(struct receive *receive, struct hf_err *err)
{
	int result = hf_qmp_vm_put_back(receive->vm, receive->settings_left, err);
	if (result == 0)
		remove_files(receive);
	return result;
}

/* LOAD freezes a VMM before it is on record that it has loaded. */
static int check_answers(const struct hf_vm_record_description *about, struct hf_err *err)
{
	struct hf_vmm_process vmm = {0};
	int result = hf_vmm_open(&vmm, about->vmm_pid, err);
	if (result == 0 && hf_vmm_is_fenced(&vmm))
		result = hf_err_set(err, HF_ERR_LOCAL, EBUSY,
				    "the VMM (pid %d) is frozen: a program that was killed may have loaded a "
				    "VM into it that is the "
				    "source's; end it (kill -9 %d) and start a new one",
				    (int)about->vmm_pid, (int)about->vmm_pid);
	hf_vmm_close(&vmm);
	return result;
}

static int lost(const struct receive *receive, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, ESRCH,
			  "the VM was told to run here, and its VMM has ended: nobody can tell what it did "
			  "before, so it must not be run from the source either without a look at its disks; "
			  "then remove %s",
			  hf_vm_record_path(receive->record));
}

static int take_up(struct receive *receive, struct hf_err *err)
{
	const struct hf_vm_record_description *about = hf_vm_record_description(receive->record);
	struct hf_vm_record_state state = hf_vm_record_state(receive->record);
	int lives = hf_vm_record_vmm_lives(about);
	if (lives < 0)
		return hf_err_set(err, HF_ERR_LOCAL, -lives, "cannot tell whether the VMM of %s lives",
				  hf_vm_record_path(receive->record));
	if (state.record == HF_RECORD_NONE) {
		int result = lives ? check_answers(about, err) : 0;
		if (result == 0 && lives)
			result = keep_settings(receive, about, err);
		if (result)
			return result;
		if (!receive->settings_left)
			remove_files(receive);
		return remove_kept(receive, err);
	}
	if (state.record == HF_RECORD_RUNNING && !lives)
		return lost(receive, err);
	memcpy(receive->session, about->session, sizeof(receive->session));
	receive->found = state.record;
	receive->restarted = true;
	receive->vmm_lives = lives;
	/* "Any free port" was a certain one then. */
	size_t length = strlen(receive->uri);
	if (length > 2 && strcmp(receive->uri + length - 2, ":0") == 0 && about->listen_uri)
		return hf_receive_take_uri(receive, about->listen_uri, err);
	return 0;
}

int hf_receive_find_record(struct receive *receive, struct hf_err *err)
{
	int result = hf_vm_record_open(&receive->record, receive->options.state_dir, HF_VM_RECORD_INCOMING,
				       receive->key, err);
	if (result == -ENOENT)
		return remove_kept(receive, err);
	if (result == 0)
		result = take_up(receive, err);
	return result;
}

static int same_session(const struct receive *receive, struct hf_err *err)
{
	const struct hf_kept_description *kept = hf_kept_pages_description(receive->kept);
	if (memcmp(kept->session, receive->session, sizeof(receive->session)) == 0)
		return 0;
	return hf_err_set(
	    err, HF_ERR_LOCAL, ESTALE,
	    "%s and %s are of two migrations: which pages of the VM are here is not known, and it "
	    "must not be run",
	    hf_vm_record_path(receive->record), hf_kept_pages_path(receive->kept));
}

int hf_receive_open_kept(struct receive *receive, struct hf_err *err)
{
	int result = hf_kept_pages_open(&receive->kept, receive->options.runtime_dir, receive->key, err);
	if (result < 0) {
		hf_err_prefix(err, "which pages of the VM are here is not known, so it cannot go on");
		return result;
	}
	return same_session(receive, err);
}

int hf_receive_check_kept(const struct receive *receive, struct hf_err *err)
{
	struct hf_vmm_identity vmm;
	int result = hf_vmm_identity_of(hf_attach_client_pid(receive->attach), &vmm, err);
	if (result == 0)
		result = hf_kept_pages_check_vmm(receive->kept, &vmm, &receive->blocks, err);
	return result;
}

int hf_receive_recall_vcpus(struct receive *receive, struct hf_err *err)
{
	const struct hf_vm_record_description *about = hf_vm_record_description(receive->record);
	receive->vcpu_threads = calloc(about->vcpu_count + 1, sizeof(*receive->vcpu_threads));
	if (!receive->vcpu_threads)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < about->vcpu_count; i++)
		receive->vcpu_threads[i] = about->vcpu_thread_ids[i];
	receive->vcpus = about->vcpu_count;
	return 0;
}

int hf_receive_recall_blocks(struct receive *receive, struct hf_err *err)
{
	const struct hf_vm_record_description *about = hf_vm_record_description(receive->record);
	int result = 0;
	for (uint32_t i = 0; i < about->block_count && result == 0; i++)
		result =
		    hf_ramblocks_add(&receive->blocks, about->blocks[i].idstr, about->blocks[i].length_bytes,
				     about->blocks[i].page_size_bytes, err);
	return result;
}

/* ---- made ---- */

static int make_kept(struct receive *receive, struct hf_err *err)
{
	struct hf_kept_description about = {.vm_name = receive->key,
					    .placement = hf_incoming_memory_port(receive->memory).placement,
					    .chunk_bytes = receive->options.chunk_bytes
							       ? (uint32_t)receive->options.chunk_bytes
							       : HF_CHUNK_DEFAULT_BYTES,
					    .blocks = &receive->blocks};
	memcpy(about.session, receive->session, sizeof(about.session));
	int result = hf_vmm_identity_of(hf_attach_client_pid(receive->attach), &about.vmm, err);
	if (result == 0)
		result = hf_kept_pages_create(&receive->kept, receive->options.runtime_dir, &about, err);
	return result;
}

static int describe(struct receive *receive, struct hf_vm_record_description *about, struct hf_err *err)
{
	memcpy(about->session, receive->session, sizeof(about->session));
	uint32_t count = 0; /* as many as blocks, in their order */
	const struct hf_attached_region *regions = hf_attach_client_regions(receive->attach, &count);
	about->qmp_target = strdup(receive->options.vm);
	about->listen_uri = strdup(receive->uri);
	if (!about->qmp_target || !about->listen_uri)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	int result = 0;
	for (uint32_t i = 0; i < receive->blocks.count && result == 0; i++) {
		const struct hf_ramblock *block = &receive->blocks.blocks[i];
		result = hf_vm_record_description_add_block(about, block->idstr, NULL, block->length_bytes,
							    block->page_size_bytes, err);
		if (result == 0) {
			about->blocks[i].vmm_address = regions[i].vmm_address;
			about->blocks[i].file_offset_bytes = regions[i].fd_offset_bytes;
		}
	}
	if (result == 0)
		result =
		    hf_vm_record_description_set_vcpus(about, receive->vcpu_threads, receive->vcpus, err);
	return result;
}

int hf_receive_make_record(struct receive *receive, struct hf_err *err)
{
	struct hf_vm_record_description *about = NULL;
	receive->made_files = true;
	memcpy(receive->session, receive->scheme->session(receive->link), sizeof(receive->session));
	int result = make_kept(receive, err);
	if (result == 0)
		result = hf_vm_record_description_create(&about, HF_VM_RECORD_INCOMING, receive->key,
							 hf_qmp_vm_pid(receive->vm), err);
	if (result == 0)
		result = describe(receive, about, err);
	if (result == 0)
		result = hf_qmp_vm_settings(receive->vm, &about->vmm_settings, err);
	if (result == 0)
		result = hf_vm_record_create(&receive->record, receive->options.state_dir, about, err);
	hf_vm_record_description_free(about);
	return result;
}

/* ---- the end ---- */

void hf_receive_forget(struct receive *receive)
{
	hf_vm_recorder_stop(receive->recorder);
	remove_files(receive);
}

void hf_receive_close_state(struct receive *receive)
{
	free(receive->settings_left);
	hf_vm_recorder_destroy(receive->recorder);
	hf_vm_record_close(receive->record);
	hf_kept_pages_close(receive->kept);
}
