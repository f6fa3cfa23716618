/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.c - the machine around the vCPUs.
 *
 * Theory of operation. What executes the guest is an accelerator (accel.h): KVM, or the vCPUs' own threads.
 * Everything else is here and in vcpu.c. Neither reads or writes guest memory, so a machine whose memory has
 * yet to arrive can be made, loaded and told to run; the vCPUs then wait for their pages.
 *
 * Stopping kicks every vCPU and waits until each says that it stands. If one does not within the time
 * given, the order is taken back and those that did stop go on: a machine is never left half running.
 * That happens when KVM cannot interrupt a wait for a page.
 *
 * Device state is three kinds of sections: "machine" first, so that the wrong machine is refused with words
 * an operator understands, then for each vCPU the accelerator's ("vcpu" of KVM, "user-vcpu") and "port", its
 * one device. All objects are filled from a blob before the first vCPU is written to.
 */
#include "kvm/vmm/machine.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/devstate.h"
#include "core/ramblock.h"
#include "kvm/guest.h"
#include "kvm/guest/layout.h"
#include "kvm/vmm/vcpu.h"

struct vmm_machine {
	struct vmm_machine_config config;
	const struct vmm_accel_ops *ops;
	void *accel;
	struct vmm_run_control control;
	uint32_t vcpus; /* made so far */
	struct vmm_vcpu *vcpu;
};

const char *vmm_accel_name(enum vmm_accel accel)
{
	return accel == VMM_ACCEL_USER ? "user" : "kvm";
}

const struct vmm_accel_ops *vmm_accel_ops(enum vmm_accel accel)
{
	return accel == VMM_ACCEL_USER ? &vmm_accel_user : &vmm_accel_kvm;
}

int vmm_machine_kick_signal(void)
{
	return SIGRTMIN;
}

/* ---- making ----------------------------------------------------------------------------------- */

static int make_vcpus(struct vmm_machine *machine, struct hf_err *err)
{
	machine->vcpu = calloc(machine->config.vcpus, sizeof(*machine->vcpu));
	if (!machine->vcpu)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < machine->config.vcpus; i++) {
		struct vmm_vcpu *vcpu = &machine->vcpu[i];
		*vcpu = (struct vmm_vcpu){.index = i,
					  .fd = -1,
					  .ops = machine->ops,
					  .control = &machine->control,
					  .pace_steps_per_s = machine->config.pace_steps_per_s};
		int result = machine->ops->vcpu_create(machine->accel, vcpu, err);
		if (result)
			return result;
		machine->vcpus++;
	}
	int result = 0;
	for (uint32_t i = 0; !result && i < machine->vcpus; i++)
		result = vmm_vcpu_start(&machine->vcpu[i], err);
	return result;
}

/* One vCPU failed: the others leave KVM_RUN too, nobody waits for them here. */
static void vcpu_failed(void *opaque, const struct hf_err *err)
{
	struct vmm_machine *machine = opaque;

	hf_lock(&machine->control.lock);
	for (uint32_t i = 0; i < machine->vcpus; i++)
		vmm_vcpu_kick(&machine->vcpu[i]);
	hf_unlock(&machine->control.lock);
	machine->config.failed(machine->config.opaque, err);
}

int vmm_machine_create(struct vmm_machine **out, const struct vmm_machine_config *config, struct hf_err *err)
{
	struct vmm_machine *machine = calloc(1, sizeof(*machine));
	if (!machine)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	machine->control = (struct vmm_run_control){
	    .failed = vcpu_failed, .opaque = machine, .memory_bytes = config->memory_bytes};
	hf_lock_init(&machine->control.lock, "vmm_run_control.lock", HF_RANK_VMM_RUN);
	hf_cond_init(&machine->control.changed);
	machine->config = *config;
	machine->ops = vmm_accel_ops(config->accel);

	int result = machine->ops->open(&machine->accel, config, err);
	if (!result)
		result = make_vcpus(machine, err);
	if (result) {
		vmm_machine_destroy(machine);
		return result;
	}
	*out = machine;
	return 0;
}

void vmm_machine_destroy(struct vmm_machine *machine)
{
	if (!machine)
		return;
	hf_lock(&machine->control.lock);
	machine->control.run = false;
	machine->control.end = true;
	for (uint32_t i = 0; i < machine->vcpus; i++)
		vmm_vcpu_kick(&machine->vcpu[i]);
	hf_cond_broadcast(&machine->control.changed);
	hf_unlock(&machine->control.lock);
	for (uint32_t i = 0; i < machine->vcpus; i++)
		vmm_vcpu_destroy(&machine->vcpu[i]);
	free(machine->vcpu);
	if (machine->accel)
		machine->ops->close(machine->accel);
	hf_cond_destroy(&machine->control.changed);
	hf_lock_destroy(&machine->control.lock);
	free(machine);
}

/* ---- entering the guest ----------------------------------------------------------------------- */

int vmm_machine_enter_guest(struct vmm_machine *machine, struct hf_err *err)
{
	for (uint32_t i = 0; i < machine->vcpus; i++) {
		int result = machine->ops->vcpu_enter_guest(&machine->vcpu[i], err);
		if (result)
			return result;
	}
	return 0;
}

/* ---- running and stopping --------------------------------------------------------------------- */

static uint64_t deadline_after_ns(uint32_t timeout_ms)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + timeout_ms * UINT64_C(1000000);
}

/* The first vCPU that still runs; the number of vCPUs when all stand. */
static uint32_t first_running(const struct vmm_machine *machine)
{
	uint32_t i = 0;
	while (i < machine->vcpus && machine->vcpu[i].stopped)
		i++;
	return i;
}

/* Kicks every vCPU and waits; the first that still runs then, or the number of vCPUs. */
static uint32_t kick_and_wait_locked(struct vmm_machine *machine, uint32_t timeout_ms)
{
	hf_lock_assert_held(&machine->control.lock);
	struct vmm_run_control *control = &machine->control;
	uint64_t deadline_ns = deadline_after_ns(timeout_ms);
	int waited = 0;

	control->run = false;
	for (uint32_t i = 0; i < machine->vcpus; i++)
		vmm_vcpu_kick(&machine->vcpu[i]);
	hf_cond_broadcast(&control->changed); /* to those that wait for their pace */
	while (first_running(machine) < machine->vcpus && !waited)
		waited = hf_cond_wait_until(&control->changed, &control->lock, deadline_ns);
	return first_running(machine);
}

static void let_run_locked(struct vmm_machine *machine)
{
	hf_lock_assert_held(&machine->control.lock);
	for (uint32_t i = 0; i < machine->vcpus; i++)
		vmm_vcpu_unkick(&machine->vcpu[i]);
	machine->control.run = true;
	hf_cond_broadcast(&machine->control.changed);
}

int vmm_machine_run(struct vmm_machine *machine, struct hf_err *err)
{
	struct vmm_run_control *control = &machine->control;

	hf_lock(&control->lock);
	bool failed = control->has_failed;
	if (!failed)
		let_run_locked(machine);
	hf_unlock(&control->lock);
	return failed ? hf_err_set(err, HF_ERR_LOCAL, EIO, "the machine has failed and cannot run again") : 0;
}

int vmm_machine_stop(struct vmm_machine *machine, uint32_t timeout_ms, struct hf_err *err)
{
	struct vmm_run_control *control = &machine->control;

	hf_lock(&control->lock);
	uint32_t running = kick_and_wait_locked(machine, timeout_ms);
	if (running < machine->vcpus && !control->has_failed)
		let_run_locked(machine);
	hf_unlock(&control->lock);
	if (running < machine->vcpus)
		return hf_err_set(err, HF_ERR_LOCAL, ETIMEDOUT,
				  "vCPU %" PRIu32 " did not stop within %" PRIu32
				  " ms, it waits for a page of guest memory; the machine runs on",
				  running, timeout_ms);
	return 0;
}

bool vmm_machine_halt(struct vmm_machine *machine, uint32_t timeout_ms)
{
	hf_lock(&machine->control.lock);
	machine->control.has_failed = true;
	bool halted = kick_and_wait_locked(machine, timeout_ms) == machine->vcpus;
	hf_unlock(&machine->control.lock);
	return halted;
}

/* ---- device state ----------------------------------------------------------------------------- */

struct machine_object {
	uint64_t memory_bytes, page_size_bytes;
	uint32_t vcpus;
	uint32_t accel; /* enum vmm_accel */
	/* This machine's, not saved. */
	uint64_t own_memory_bytes, own_page_size_bytes;
	uint32_t own_vcpus, own_accel;
};

/* Version 1 knew no other. */
static int assume_kvm(void *object, struct hf_err *err)
{
	struct machine_object *machine = object;
	(void)err;
	machine->accel = VMM_ACCEL_KVM;
	return 0;
}

static int check_machine(void *object, uint32_t version, struct hf_err *err)
{
	const struct machine_object *machine = object;
	char theirs[HF_SIZE_TEXT_BYTES], ours[HF_SIZE_TEXT_BYTES];

	(void)version;
	if (machine->page_size_bytes != machine->own_page_size_bytes)
		return hf_err_set(
		    err, HF_ERR_PEER, EINVAL,
		    "page size is %s on the source and %s here; start this VM with --page-size as there",
		    hf_size_text(machine->page_size_bytes, theirs),
		    hf_size_text(machine->own_page_size_bytes, ours));
	if (machine->memory_bytes != machine->own_memory_bytes)
		return hf_err_set(err, HF_ERR_PEER, EINVAL,
				  "memory is %s on the source and %s here; start this VM with --mem as there",
				  hf_size_text(machine->memory_bytes, theirs),
				  hf_size_text(machine->own_memory_bytes, ours));
	if (machine->vcpus != machine->own_vcpus)
		return hf_err_set(err, HF_ERR_PEER, EINVAL,
				  "%" PRIu32 " vCPUs on the source and %" PRIu32
				  " here; start this VM with --vcpus as there",
				  machine->vcpus, machine->own_vcpus);
	if (machine->accel != machine->own_accel)
		return hf_err_set(err, HF_ERR_PEER, EINVAL,
				  "this VM runs with --accel %s and the source with another; start both with "
				  "the same",
				  vmm_accel_name(machine->own_accel));
	return 0;
}

static const struct hf_devstate_desc machine_desc = {
    .name = "machine",
    .version = 2,
    .minimum_version = 1,
    .object_bytes = sizeof(struct machine_object),
    .fields = (const struct hf_devstate_field[]){HF_DEVSTATE_FIELD(struct machine_object, memory_bytes),
						 HF_DEVSTATE_FIELD(struct machine_object, page_size_bytes),
						 HF_DEVSTATE_FIELD(struct machine_object, vcpus),
						 HF_DEVSTATE_FIELD_SINCE(struct machine_object, accel, 2),
						 HF_DEVSTATE_FIELDS_END},
    .pre_load = assume_kvm,
    .post_load = check_machine,
};

struct port_object {
	uint64_t reads;
	uint64_t pace_steps_per_s;
};

static int check_port(void *object, uint32_t version, struct hf_err *err)
{
	const struct port_object *port = object;
	(void)version;
	if (port->pace_steps_per_s > HF_GUEST_PACE_MAX)
		return hf_err_set(err, HF_ERR_PEER, EINVAL,
				  "a pace of %" PRIu64 " steps a second; at most %u are possible",
				  port->pace_steps_per_s, HF_GUEST_PACE_MAX);
	return 0;
}

static const struct hf_devstate_desc port_desc = {
    .name = "port",
    .version = 2,
    .minimum_version = 1,
    .object_bytes = sizeof(struct port_object),
    .fields =
	(const struct hf_devstate_field[]){HF_DEVSTATE_FIELD(struct port_object, reads),
					   HF_DEVSTATE_FIELD_SINCE(struct port_object, pace_steps_per_s, 2),
					   HF_DEVSTATE_FIELDS_END},
    .post_load = check_port,
};

/* All objects of a machine's device state and the sections that name them. */
struct objects {
	struct machine_object machine;
	uint32_t sections_count;
	struct hf_devstate_section *sections;
	struct port_object *ports;
	uint8_t *vcpus; /* as the accelerator's description has them */
};

static void objects_destroy(struct objects *objects)
{
	free(objects->sections);
	free(objects->ports);
	free(objects->vcpus);
}

static int objects_make(struct objects *objects, const struct vmm_machine *machine, struct hf_err *err)
{
	const struct vmm_machine_config *config = &machine->config;
	const struct hf_devstate_desc *desc = machine->ops->state_desc;
	uint32_t vcpus = machine->vcpus;

	objects->machine = (struct machine_object){.memory_bytes = config->memory_bytes,
						   .page_size_bytes = config->page_size_bytes,
						   .vcpus = vcpus,
						   .own_memory_bytes = config->memory_bytes,
						   .own_page_size_bytes = config->page_size_bytes,
						   .own_vcpus = vcpus,
						   .accel = config->accel,
						   .own_accel = config->accel};
	objects->sections_count = 1 + 2 * vcpus;
	objects->sections = calloc(objects->sections_count, sizeof(*objects->sections));
	objects->ports = calloc(vcpus, sizeof(*objects->ports));
	objects->vcpus = calloc(vcpus, machine->ops->state_desc->object_bytes);
	if (!objects->sections || !objects->ports || !objects->vcpus) {
		objects_destroy(objects);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory for device state");
	}

	objects->sections[0] = (struct hf_devstate_section){&machine_desc, 0, &objects->machine};
	for (uint32_t i = 0; i < vcpus; i++) {
		struct hf_devstate_section *section = &objects->sections[1 + 2 * i];
		section[0] = (struct hf_devstate_section){desc, i, objects->vcpus + i * desc->object_bytes};
		section[1] = (struct hf_devstate_section){&port_desc, i, &objects->ports[i]};
	}
	return 0;
}

int vmm_machine_save(struct vmm_machine *machine, void **data, size_t *length_bytes, struct hf_err *err)
{
	struct objects objects;
	int result = objects_make(&objects, machine, err);
	if (result)
		return result;

	for (uint32_t i = 0; !result && i < machine->vcpus; i++) {
		struct vmm_vcpu *vcpu = &machine->vcpu[i];
		objects.ports[i] = (struct port_object){vcpu->port_reads, vcpu->pace_steps_per_s};
		result =
		    machine->ops->vcpu_get(machine->accel, vcpu, objects.sections[1 + 2 * i].object, err);
		if (result)
			hf_err_prefix(err, "vCPU %" PRIu32, i);
	}
	if (!result)
		result = hf_devstate_save(objects.sections, objects.sections_count, data, length_bytes, err);
	objects_destroy(&objects);
	return result;
}

int vmm_machine_load(struct vmm_machine *machine, const void *data, size_t length_bytes, struct hf_err *err)
{
	struct objects objects;
	int result = objects_make(&objects, machine, err);
	if (result)
		return result;

	result = hf_devstate_load(objects.sections, objects.sections_count, data, length_bytes, err);
	for (uint32_t i = 0; !result && i < machine->vcpus; i++) {
		struct vmm_vcpu *vcpu = &machine->vcpu[i];
		vcpu->port_reads = objects.ports[i].reads;
		vcpu->pace_steps_per_s = objects.ports[i].pace_steps_per_s;
		result =
		    machine->ops->vcpu_set(machine->accel, vcpu, objects.sections[1 + 2 * i].object, err);
		if (result)
			hf_err_prefix(err, "vCPU %" PRIu32, i);
	}
	objects_destroy(&objects);
	return result;
}

/* ---- facts ------------------------------------------------------------------------------------ */

uint32_t vmm_machine_vcpus(const struct vmm_machine *machine)
{
	return machine->vcpus;
}

pid_t vmm_machine_vcpu_thread_id(const struct vmm_machine *machine, uint32_t vcpu)
{
	return machine->vcpu[vcpu].thread_id;
}

const struct vmm_msr_list *vmm_machine_msrs(const struct vmm_machine *machine)
{
	return machine->ops->msrs(machine->accel);
}
