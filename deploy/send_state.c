/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What outlives `send`. Theory of operation: from the moment a destination has taken the session there is a
 * record of it (kvm/vm_record.h), named after the VM's QMP socket, since that is what the same command line
 * names again and a frozen VMM cannot be asked. Who finds one goes on from it:
 *
 *   given-up        the VM is the destination's. Its VMM stands frozen here with the pages; they are served
 *                   again, over the session that the record names
 *   anything else   the program before this one ended before the VM was given up. The guardian has run the
 *                   VM again and put the VMM's settings back, or this program does both; the destination,
 *                   which may still wait for a word, is told, and the record is removed
 *
 * The record goes when nothing depends on it any more: the VM runs here, or every page is at the destination
 * and the VMM has ended.
 *
 * Between STOP and the record a killed program must not leave the VM standing: the guardian sees to that. It
 * is armed before the VMM is asked to stop; if it cannot be, the VM is not stopped.
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "deploy/program.h"
#include "deploy/send_internal.h"

/* ---- the guardian ---- */

struct record_place {
	const char *dir, *key;
};

/* In the guardian, after this process has ended. */
static int read_record(void *opaque, enum hf_record *record, char **settings, struct hf_err *err)
{
	const struct send *send = opaque;
	struct hf_vm_record_state state;
	struct hf_vm_record_description *about = NULL;
	int result =
	    hf_vm_record_read(send->options.state_dir, HF_VM_RECORD_OUTGOING, send->key, &state, &about, err);
	if (result == -ENOENT) {
		*record = HF_RECORD_NONE;
		return 0;
	}
	if (result)
		return result;
	*record = state.record;
	*settings = about->vmm_settings;
	about->vmm_settings = NULL;
	hf_vm_record_description_free(about);
	return 0;
}

int hf_send_guard(struct send *send, struct hf_err *err)
{
	struct hf_guardian_config config = {.record = read_record, .opaque = send};
	return hf_guardian_start(&send->guardian, &config, err);
}

/* ---- the VM port ---- */

static int guarded_request(void *self, enum hf_vm_op op, const void *data, size_t length_bytes)
{
	struct send *send = self;
	struct hf_err err = HF_ERR_INIT;
	struct hf_vm vm = hf_qmp_vm_port(send->vm);
	if (op == HF_VM_STOP) {
		int result = hf_guardian_arm(send->guardian, hf_qmp_vm_pid(send->vm), send->options.vm, &err);
		if (result < 0) {
			hf_complain(COMMAND, "%s", err.text);
			return result;
		}
	}
	return vm.ops->request(vm.self, op, data, length_bytes);
}

static int revive(struct send *send, struct hf_err *err)
{
	struct hf_qmp_vm *vm = NULL;
	struct hf_err why = HF_ERR_INIT;
	int result = hf_vmm_thaw(&send->vmm, err);
	if (result == 0)
		result = hf_qmp_vm_create(&vm, send->options.vm, err);
	if (result == 0)
		result = hf_qmp_vm_resume(vm, err);
	if (result == 0 && hf_qmp_vm_put_back(vm, hf_vm_record_description(send->record)->vmm_settings, &why))
		hf_complain(COMMAND, "the migration settings of the VM's VMM are not what they were: %s",
			    why.text);
	hf_qmp_vm_destroy(vm);
	return result;
}

static void *revive_and_report(void *opaque)
{
	struct send *send = opaque;
	struct hf_err err = HF_ERR_INIT;
	int result = revive(send, &err);
	struct hf_vm_result end = {.op = HF_VM_RESUME, .result = result, .err = result ? &err : NULL};
	hf_source_vm_done(send->engine, &end);
	return NULL;
}

/* A program started again has a frozen VMM and one thing it may ever ask of it. */
static int frozen_request(void *self, enum hf_vm_op op, const void *data, size_t length_bytes)
{
	struct send *send = self;
	(void)data;
	(void)length_bytes;
	if (op != HF_VM_RESUME || send->reviving)
		return -EINVAL;
	sigset_t all, before; // signals are for the main thread
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&send->reviver, NULL, revive_and_report, send);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	send->reviving = error == 0;
	return -error;
}

struct hf_vm hf_send_vm_port(struct send *send)
{
	static const struct hf_vm_ops guarded = {.request = guarded_request};
	static const struct hf_vm_ops frozen = {.request = frozen_request};
	return (struct hf_vm){.ops = send->vm ? &guarded : &frozen, .self = send};
}

/* ---- a record that is found ---- */

static int remove_record(struct send *send, struct hf_err *err)
{
	int result = send->record ? hf_vm_record_remove(send->record, err) : 0;
	hf_vm_record_close(send->record);
	send->record = NULL;
	return result;
}

static int vmm_is_gone(const struct send *send, struct hf_err *err)
{
	return hf_err_set(
	    err, HF_ERR_LOCAL, ESRCH,
	    "the VM was given to the destination, and its VMM here, with the pages that had not "
	    "been fetched, has ended; see whether the VM is whole there; then remove %s",
	    hf_vm_record_path(send->record));
}

/* Before it was given up: it runs here. */
static int take_up_aborted(struct send *send, struct hf_err *err)
{
	send->aborted = true;
	int result = revive(send, err);
	if (result < 0)
		hf_err_prefix(err, "the VM was never given up, but could not be run again here");
	return result;
}

static int take_up(struct send *send, struct hf_err *err)
{
	const struct hf_vm_record_description *about = hf_vm_record_description(send->record);
	struct hf_vm_record_state state = hf_vm_record_state(send->record);
	int lives = hf_vm_record_vmm_lives(about);
	if (lives < 0)
		return hf_err_set(err, HF_ERR_LOCAL, -lives, "cannot tell whether the VMM of %s lives",
				  hf_vm_record_path(send->record));
	if (!lives && state.record != HF_RECORD_GIVEN_UP)
		return remove_record(send, err); /* of a VM that has ended since */
	if (!lives)
		return vmm_is_gone(send, err);
	memcpy(send->session, about->session, sizeof(send->session));
	send->epoch = state.epoch ? state.epoch : 1; /* only later links are recorded */
	send->restarted = true;
	int result = hf_vmm_open_same(&send->vmm, about->vmm_pid, about->vmm_start_ticks, err);
	if (result == 0 && state.record != HF_RECORD_GIVEN_UP)
		result = take_up_aborted(send, err);
	return result;
}

int hf_send_find_record(struct send *send, struct hf_err *err)
{
	int result =
	    hf_vm_record_open(&send->record, send->options.state_dir, HF_VM_RECORD_OUTGOING, send->key, err);
	if (result == -ENOENT)
		return 0;
	if (result == 0)
		result = take_up(send, err);
	return result;
}

int hf_send_open_recorded_memory(struct send *send, struct hf_err *err)
{
	const struct hf_vm_record_description *about = hf_vm_record_description(send->record);
	struct hf_outgoing_region *regions = calloc(about->block_count, sizeof(*regions));
	if (!regions)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < about->block_count; i++)
		regions[i] = (struct hf_outgoing_region){about->blocks[i].idstr, about->blocks[i].path,
							 about->blocks[i].length_bytes};
	int result = hf_outgoing_memory_create(&send->memory, about->vmm_pid, regions, about->block_count,
					       &send->blocks, err);
	free(regions);
	return result;
}

/* ---- a record that is made ---- */

static int describe_blocks(struct hf_vm_record_description *about, const struct send *send,
			   const struct hf_qmp_vm_block *blocks, uint32_t count, struct hf_err *err)
{
	int result = 0;
	for (uint32_t i = 0; i < count && result == 0; i++)
		result = hf_vm_record_description_add_block(about, blocks[i].idstr, blocks[i].path,
							    blocks[i].length_bytes,
							    send->blocks.blocks[i].page_size_bytes, err);
	return result;
}

int hf_send_make_record(struct send *send, const struct hf_qmp_vm_block *blocks, uint32_t count,
			struct hf_err *err)
{
	struct hf_vm_record_description *about = NULL;
	int result = hf_vm_record_description_create(&about, HF_VM_RECORD_OUTGOING, send->key,
						     hf_qmp_vm_pid(send->vm), err);
	if (result < 0)
		return result;
	memcpy(about->session, send->session, sizeof(about->session));
	about->qmp_target = strdup(send->options.vm);
	about->peer_uri = strdup(send->uri);
	result = about->qmp_target && about->peer_uri
		     ? describe_blocks(about, send, blocks, count, err)
		     : hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	if (result == 0)
		result = hf_qmp_vm_settings(send->vm, &about->vmm_settings, err);
	if (result == 0)
		result = hf_vm_record_create(&send->record, send->options.state_dir, about, err);
	hf_vm_record_description_free(about);
	send->made_record = result == 0;
	return result;
}

/* ---- the end ---- */

void hf_send_forget(struct send *send)
{
	struct hf_err err = HF_ERR_INIT;
	hf_vm_recorder_stop(send->recorder);
	hf_guardian_end(send->guardian);
	send->guardian = NULL;
	if (remove_record(send, &err))
		hf_complain(COMMAND, "%s", err.text);
}

void hf_send_close_state(struct send *send)
{
	if (send->reviving)
		pthread_join(send->reviver, NULL);
	hf_vm_recorder_destroy(send->recorder);
	hf_guardian_end(send->guardian);
	hf_vm_record_close(send->record);
	hf_vmm_close(&send->vmm);
}
