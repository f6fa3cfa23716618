/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation. A page that is poisoned cannot be had by KVM. What it does then:
 *
 *   the CPU runs the guest           SIGBUS (BUS_MCEERR_AR) for the vCPU's thread, and KVM_RUN ends with
 * EINTR; the instruction has not been executed KVM emulates its instructions    KVM_EXIT_MMIO, as if there
 * were a device at the address; the instruction ends at the next KVM_RUN, with the value that the VMM gives
 *
 * The second is told from a real device by its address, which is guest memory. The access is ended with all
 * bits set, as a bus does, and nothing of it matters: either way the guest then starts at its entry point
 * with its second argument 1, which is this machine's memory error. (It has no interrupts, so no machine
 * check.)
 *
 * A guest that meets the next one before it has ended the step of the last cannot handle it: its program,
 * header or counters are lost, and the machine ends, as hardware does at a machine check in a machine check.
 *
 * To end the access KVM_RUN is entered with immediate_exit set, which is the kicker's flag as well: it is set
 * and put back under the lock that kickers hold.
 */
#include "kvm/vmm/memory_error.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

#include "kvm/guest/layout.h"

#define PIECES_MAX 16 /* of one access */

static _Thread_local volatile sig_atomic_t taken;

static void note(int number, siginfo_t *info, void *context)
{
	(void)context;
	if (info->si_code == BUS_MCEERR_AR)
		taken = 1;
	else
		signal(number, SIG_DFL); /* it comes again */
}

int vmm_memory_error_catch(void)
{
	struct sigaction action = {.sa_sigaction = note, .sa_flags = SA_SIGINFO};

	return sigaction(SIGBUS, &action, NULL) ? -errno : 0;
}

bool vmm_memory_error_taken(void)
{
	bool was_taken = taken;

	taken = 0;
	return was_taken;
}

bool vmm_memory_error_is_exit(const struct vmm_vcpu *vcpu)
{
	uint64_t bytes = vcpu->control->memory_bytes;
	uint64_t low = bytes < HF_GUEST_LOW_BYTES ? bytes : HF_GUEST_LOW_BYTES;
	uint64_t address = vcpu->run->mmio.phys_addr;

	if (vcpu->run->exit_reason != KVM_EXIT_MMIO)
		return false;
	return address < low ||
	       (address >= HF_GUEST_LOW_BYTES + HF_GUEST_HOLE_BYTES && address < bytes + HF_GUEST_HOLE_BYTES);
}

/* Returns what KVM_RUN did: 0, or -errno. */
static int enter_and_leave(const struct vmm_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;

	hf_lock(&vcpu->control->lock);
	uint8_t kicked = run->immediate_exit;
	run->immediate_exit = 1;
	int result = ioctl(vcpu->fd, KVM_RUN, 0) < 0 ? -errno : 0;
	run->immediate_exit = kicked;
	hf_unlock(&vcpu->control->lock);
	return result;
}

int vmm_memory_error_end_access(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	int result = 0;

	for (int piece = 0; piece < PIECES_MAX && result == 0 && vmm_memory_error_is_exit(vcpu); piece++) {
		memset(vcpu->run->mmio.data, 0xff, sizeof(vcpu->run->mmio.data));
		result = enter_and_leave(vcpu);
	}
	if (result == -EINTR)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, result ? -result : EIO,
			  "vCPU %" PRIu32 ": an access to a lost page cannot be ended", vcpu->index);
}

int vmm_memory_error_redirect(struct vmm_vcpu *vcpu, struct kvm_regs *regs, struct hf_err *err)
{
	if (vcpu->met_error && vcpu->error_step == regs->r15)
		return hf_err_set(err, HF_ERR_LOCAL, EHWPOISON,
				  "vCPU %" PRIu32
				  ": a page that the guest needs to handle memory errors is lost",
				  vcpu->index);
	vcpu->met_error = true;
	vcpu->error_step = regs->r15;
	regs->rip = HF_GUEST_TEXT_OFFSET;
	regs->rsp = 0;
	regs->rdi = vcpu->index;
	regs->rsi = 1;
	return 0;
}

int vmm_memory_error_deliver(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	struct kvm_regs regs;
	bool done = ioctl(vcpu->fd, KVM_GET_REGS, &regs) == 0;

	if (done) {
		int result = vmm_memory_error_redirect(vcpu, &regs, err);
		if (result)
			return result;
		done = ioctl(vcpu->fd, KVM_SET_REGS, &regs) == 0;
	}
	return done ? 0
		    : hf_err_set(err, HF_ERR_LOCAL, errno,
				 "vCPU %" PRIu32 ": KVM does not let a memory error be delivered: %s",
				 vcpu->index, strerror(errno));
}
