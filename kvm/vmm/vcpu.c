/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu.c - the thread of a vCPU.
 *
 * Theory of operation. The thread waits until the machine may run, then lets the accelerator execute the
 * guest until it is kicked. A kick is two things: vcpu->kicked, at which the accelerator looks before it
 * enters the guest, and a signal, which takes it out of the guest. Whichever point the thread is at, one of
 * them meets it; how is told in the accelerators' files. A guest that reads its port has its value in its
 * register before the vCPU stands, so a stopped vCPU never has half an instruction pending.
 */
#include "kvm/vmm/vcpu.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kvm/vmm/machine.h"

#define NS_PER_S	 1000000000ull
#define PACE_LATE_MAX_NS 50000000ull

void vmm_vcpu_kick(struct vmm_vcpu *vcpu)
{
	hf_lock_assert_held(&vcpu->control->lock);
	__atomic_store_n(vcpu->kicked, 1, __ATOMIC_SEQ_CST);
	if (vcpu->started)
		pthread_kill(vcpu->thread, vmm_machine_kick_signal());
}

void vmm_vcpu_unkick(struct vmm_vcpu *vcpu)
{
	hf_lock_assert_held(&vcpu->control->lock);
	__atomic_store_n(vcpu->kicked, 0, __ATOMIC_SEQ_CST);
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

uint32_t vmm_vcpu_read_port(struct vmm_vcpu *vcpu)
{
	wait_until_due(vcpu);
	return (uint32_t)++vcpu->port_reads;
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
		int result = vcpu->ops->vcpu_run(vcpu, &err);
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
	vcpu->ops->vcpu_destroy(vcpu);
}
