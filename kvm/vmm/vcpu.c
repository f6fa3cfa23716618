/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu.c - the thread of a vCPU.
 *
 * Theory of operation. The thread waits until the machine may run, then calls KVM_RUN again and again until
 * it is kicked. A kick is two things: kvm_run->immediate_exit, which makes the next KVM_RUN return
 * at once, and a signal, which ends the one under way. Whichever point the thread is at, one of them meets
 * it:
 *
 *     stopper                         vCPU thread
 *     immediate_exit = 1
 *                                     KVM_RUN -> EINTR at once       (came before KVM_RUN)
 *     signal
 *                                     KVM_RUN under way -> EINTR     (came after)
 *
 * Only EINTR leads out of the loop. An exit that needs completion (the guest reads a port) is handled and
 * followed by another KVM_RUN, which delivers the value to the guest's register before it looks at
 * immediate_exit. So a stopped vCPU never has half an instruction pending, and its registers are all there
 * is to save.
 *
 * The clock: the guest's time stamp counter goes on while a vCPU stands. It is read when the vCPU stops and
 * written back when it runs again, so a stopped machine's state does not change.
 */
#include "kvm/vmm/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "kvm/guest/layout.h"
#include "kvm/vmm/machine.h"
#include "kvm/vmm/memory_error.h"
#include "kvm/vmm/vcpu_state.h"

#define NS_PER_S	 1000000000ull
#define PACE_LATE_MAX_NS 50000000ull

int vmm_vcpu_create(struct vmm_vcpu *vcpu, uint32_t index, int vm_fd, size_t run_bytes,
		    struct vmm_run_control *control, struct hf_err *err)
{
	int fd = ioctl(vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (fd < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "vCPU %" PRIu32 " cannot be made: %s", index,
				  strerror(errno));
	void *run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (run == MAP_FAILED) {
		int errnum = errno;
		close(fd);
		return hf_err_set(err, HF_ERR_LOCAL, errnum, "vCPU %" PRIu32 " cannot be mapped: %s", index,
				  strerror(errnum));
	}
	*vcpu = (struct vmm_vcpu){
	    .index = index, .fd = fd, .run = run, .run_bytes = run_bytes, .control = control};
	return 0;
}

void vmm_vcpu_kick(struct vmm_vcpu *vcpu)
{
	hf_lock_assert_held(&vcpu->control->lock);
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (vcpu->started)
		pthread_kill(vcpu->thread, vmm_machine_kick_signal());
}

void vmm_vcpu_unkick(struct vmm_vcpu *vcpu)
{
	hf_lock_assert_held(&vcpu->control->lock);
	__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

static int unexpected_io(const struct vmm_vcpu *vcpu, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, EIO,
			  "vCPU %" PRIu32 ": the guest used port 0x%x in a way this machine does not have",
			  vcpu->index, vcpu->run->io.port);
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/*
 * A paced guest has its answer when it is due, or when the machine is to stand still. One that is late, as
 * after a wait for a page, catches up with a little of it only.
 */
static void wait_until_due(struct vmm_vcpu *vcpu)
{
	struct vmm_run_control *control = vcpu->control;
	uint64_t now = now_ns();

	if (!vcpu->pace_steps_per_s)
		return;
	vcpu->port_due_ns += NS_PER_S / vcpu->pace_steps_per_s;
	if (vcpu->port_due_ns + PACE_LATE_MAX_NS < now)
		vcpu->port_due_ns = now - PACE_LATE_MAX_NS;
	hf_lock(&control->lock);
	while (control->run && hf_cond_wait_until(&control->changed, &control->lock, vcpu->port_due_ns) == 0)
		continue;
	if (!control->run)
		vcpu->port_due_ns = now_ns();
	hf_unlock(&control->lock);
}

static int handle_io(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	struct kvm_run *run = vcpu->run;

	if (run->io.port != HF_GUEST_PORT || run->io.direction != KVM_EXIT_IO_IN || run->io.size != 4 ||
	    run->io.count != 1)
		return unexpected_io(vcpu, err);
	wait_until_due(vcpu);
	uint32_t value = (uint32_t)++vcpu->port_reads;
	memcpy((uint8_t *)run + run->io.data_offset, &value, sizeof(value));
	return 0;
}

/* There is no device: either it is guest memory whose bytes are lost, or the guest has gone astray. */
static int handle_mmio(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	if (!vmm_memory_error_is_exit(vcpu))
		return hf_err_set(err, HF_ERR_LOCAL, EIO,
				  "vCPU %" PRIu32 ": the guest used address 0x%llx, where nothing is",
				  vcpu->index, (unsigned long long)vcpu->run->mmio.phys_addr);
	int result = vmm_memory_error_end_access(vcpu, err);
	return result ? result : vmm_memory_error_deliver(vcpu, err);
}

static int handle_exit(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	struct kvm_run *run = vcpu->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		return handle_io(vcpu, err);
	case KVM_EXIT_INTR:
		return 0;
	case KVM_EXIT_SHUTDOWN:
		return hf_err_set(err, HF_ERR_LOCAL, EIO,
				  "vCPU %" PRIu32 ": triple fault; guest memory or registers are wrong",
				  vcpu->index);
	case KVM_EXIT_INTERNAL_ERROR:
		return hf_err_set(err, HF_ERR_LOCAL, EIO, "vCPU %" PRIu32 ": KVM internal error %u",
				  vcpu->index, run->internal.suberror);
	case KVM_EXIT_FAIL_ENTRY:
		return hf_err_set(err, HF_ERR_LOCAL, EIO,
				  "vCPU %" PRIu32 ": KVM could not enter the guest (0x%llx)", vcpu->index,
				  (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
	case KVM_EXIT_MMIO:
		return handle_mmio(vcpu, err);
	default:
		return hf_err_set(err, HF_ERR_LOCAL, EIO, "vCPU %" PRIu32 ": unexpected exit %u from KVM_RUN",
				  vcpu->index, run->exit_reason);
	}
}

/* Until kicked: 0. */
static int run_until_kicked(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	for (;;) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			if (vmm_memory_error_taken() && vmm_memory_error_deliver(vcpu, err))
				return -EIO;
			if (errno == EINTR && __atomic_load_n(&vcpu->run->immediate_exit, __ATOMIC_SEQ_CST))
				return 0;
			if (errno == EINTR || errno == EAGAIN)
				continue;
			return hf_err_set(err, HF_ERR_LOCAL, errno,
					  "vCPU %" PRIu32
					  ": KVM_RUN failed: %s; a page of guest memory may be poisoned or "
					  "gone",
					  vcpu->index, strerror(errno));
		}
		int result = handle_exit(vcpu, err);
		if (result)
			return result;
	}
}

static int run_once(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	int result = vmm_vcpu_tsc_set(vcpu->fd, vcpu->tsc);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, EIO,
				  "vCPU %" PRIu32 ": KVM does not let its clock be set", vcpu->index);
	result = run_until_kicked(vcpu, err);
	int read = vmm_vcpu_tsc_get(vcpu->fd, &vcpu->tsc);
	if (!result && read)
		result = hf_err_set(err, HF_ERR_LOCAL, EIO,
				    "vCPU %" PRIu32 ": KVM does not let its clock be read", vcpu->index);
	return result;
}

/* Called with the lock held; ends the run of the whole machine. */
static void fail(struct vmm_vcpu *vcpu, const struct hf_err *err)
{
	hf_lock_assert_held(&vcpu->control->lock);
	struct vmm_run_control *control = vcpu->control;
	bool first = !control->has_failed;

	control->has_failed = true;
	control->run = false;
	if (!first)
		return;
	hf_unlock(&control->lock);
	control->failed(control->opaque, err);
	hf_lock(&control->lock);
}

static void *vcpu_thread(void *opaque)
{
	struct vmm_vcpu *vcpu = opaque;
	struct vmm_run_control *control = vcpu->control;

	hf_lock(&control->lock);
	vcpu->thread_id = gettid();
	vcpu->stopped = true;
	hf_cond_broadcast(&control->changed);
	while (!control->end) {
		if (!control->run) {
			hf_cond_wait(&control->changed, &control->lock);
			continue;
		}
		vcpu->stopped = false;
		hf_unlock(&control->lock);
		struct hf_err err = HF_ERR_INIT;
		int result = run_once(vcpu, &err);
		hf_lock(&control->lock);
		vcpu->stopped = true;
		if (result)
			fail(vcpu, &err);
		hf_cond_broadcast(&control->changed);
	}
	hf_unlock(&control->lock);
	return NULL;
}

int vmm_vcpu_start(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	int errnum = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
	if (errnum)
		return hf_err_set(err, HF_ERR_LOCAL, errnum,
				  "vCPU %" PRIu32 ": its thread cannot be made: %s", vcpu->index,
				  strerror(errnum));
	char name[16];
	snprintf(name, sizeof(name), "vcpu %" PRIu32, vcpu->index);
	pthread_setname_np(vcpu->thread, name);

	hf_lock(&vcpu->control->lock);
	vcpu->started = true;
	while (!vcpu->thread_id)
		hf_cond_wait(&vcpu->control->changed, &vcpu->control->lock);
	hf_unlock(&vcpu->control->lock);
	return 0;
}

void vmm_vcpu_destroy(struct vmm_vcpu *vcpu)
{
	if (vcpu->started)
		pthread_join(vcpu->thread, NULL);
	if (vcpu->run)
		munmap(vcpu->run, vcpu->run_bytes);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
}
