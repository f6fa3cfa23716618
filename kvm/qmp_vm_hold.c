/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: between LOAD and RUN the destination has a VM that may not run, since the source may
 * still run its own. QEMU would run it for anybody who says `cont`. So its VMM is frozen as soon as it has
 * loaded, before LOADED is said, and thawed by RUN alone; who has to take the VM back kills it as it is.
 *
 *     LOAD    RESUMEs are counted from here; `migrate-incoming` ...
 *             loaded: asked whether it stands still, unless it has told; frozen, our socket read empty
 *             RESUME found: the VM has run; LOAD fails, and it stays frozen until it is killed
 *     RUN     thawed, `cont`
 *
 * A `cont` before the freezing is found: the VM has run for the fraction of a millisecond that this took. One
 * after it lies in the VMM's socket until RUN, when it does no harm.
 *
 * Frozen by SIGSTOP, it stays so when this program is killed, and the next one takes the memory over as it is
 * (deploy/receive_attach.c). Only where that cannot be done does it thaw the VMM, since the attach library
 * hands the memory out in a thread of it, and freezes it again as soon as it has the memory: HOLD. If the VM
 * has run meanwhile the VMM is killed at once.
 */
#include <errno.h>

#include "kvm/qmp_vm_internal.h"

#define STATUS_MAX_BYTES 64
#define ANSWER_LIMIT_MS	 2000 /* a VMM that waits for a page answers nothing */

static int set_ran(struct hf_qmp_vm *vm, const char *why, struct hf_err *err)
{
	return hf_qmp_vm_error(vm, EPERM, err, "ran the VM while the source still owns it%s", why);
}

static int set_ran_by_itself(struct hf_qmp_vm *vm, struct hf_err *err)
{
	hf_qmp_vm_freeze(vm, NULL);
	return set_ran(vm,
		       ", by itself after loading it; start the VMM so that it waits for 'cont' (QEMU: -S), "
		       "which nobody else may give",
		       err);
}

static int check_stands_still(struct hf_qmp_vm *vm, uint32_t limit_ms, struct hf_err *err)
{
	char status[STATUS_MAX_BYTES];
	bool running = false;
	int r = hf_qmp_vm_query_status(vm, limit_ms, status, sizeof(status), &running, err);
	return r == 0 && running ? set_ran_by_itself(vm, err) : r;
}

static int freeze_unrun(struct hf_qmp_vm *vm, struct hf_err *err)
{
	int r = hf_qmp_vm_freeze(vm, err);
	if (r < 0 || !hf_qmp_vm_is_revived(vm))
		return r;
	return set_ran(
	    vm, ", because another QMP client asked for it; what it did to disks is to be looked at", err);
}

int hf_qmp_vm_hold_loaded(struct hf_qmp_vm *vm, bool told, struct hf_err *err)
{
	int r = 0;
	if (hf_qmp_vm_is_revived(vm))
		return set_ran_by_itself(vm, err);
	if (!told)
		r = check_stands_still(vm, HF_QMP_VM_COMMAND_MS, err);
	return r < 0 ? r : freeze_unrun(vm, err);
}

void hf_qmp_vm_hold_again(struct hf_qmp_vm *vm)
{
	struct hf_err err = HF_ERR_INIT;
	int r = check_stands_still(vm, ANSWER_LIMIT_MS, &err);
	if (r == 0 || r == -ETIMEDOUT)
		r = freeze_unrun(vm, &err);
	/* What is not known to have run is kept, and kept from running. */
	if (r < 0 && r != -EPERM)
		hf_qmp_vm_freeze(vm, NULL);
	if (r != -EPERM)
		return;
	hf_lock(&vm->mutex);
	vm->killed_for = err; // before its end is seen
	hf_unlock(&vm->mutex);
	hf_vmm_kill(&vm->process, HF_VMM_KILL_LIMIT_MS, NULL);
}
