/* SPDX-License-Identifier: Apache-2.0 */
/*
 * machine.c - the machine around the vCPUs.
 *
 * Theory of operation. Guest memory is one or two slots of KVM: physical addresses leave out 3 to 4 GiB,
 * where KVM itself keeps a few pages on Intel; the guest's page tables hide the gap. Nothing here reads or
 * writes guest memory, so a machine whose memory has yet to arrive can be made, loaded and told to run;
 * the vCPUs then wait in KVM_RUN for their pages.
 *
 * Stopping kicks every vCPU and waits until each says that it stands. If one does not within the time
 * given, the order is taken back and those that did stop go on: a machine is never left half running.
 * That happens when KVM cannot interrupt a wait for a page.
 *
 * Device state is three kinds of sections: "machine" first, so that the wrong machine is refused with words
 * an operator understands, then for each vCPU "vcpu" and "port", its one device. All objects are filled
 * from a blob before the first vCPU is written to.
 */
#include "kvm/vmm/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "core/devstate.h"
#include "core/ramblock.h"
#include "kvm/guest.h"
#include "kvm/guest/layout.h"
#include "kvm/vmm/vcpu.h"

#define KVM_PAGES_ADDRESS 0xfffbd000ul
#define CPUID_ENTRIES_MAX 256

struct vmm_machine {
	struct vmm_machine_config config;
	int kvm_fd, vm_fd;
	uint32_t xsave_bytes;
	struct vmm_msr_list msrs;
	struct vmm_run_control control;
	uint32_t vcpus; /* made so far */
	struct vmm_vcpu *vcpu;
};

int vmm_machine_kick_signal(void)
{
	return SIGRTMIN;
}

static int kvm_failed(const char *call, struct hf_err *err)
{
	int errnum = errno;
	return hf_err_set(err, HF_ERR_LOCAL, errnum, "%s failed: %s", call, strerror(errnum));
}

/* ---- making ----------------------------------------------------------------------------------- */

static int open_kvm(struct vmm_machine *machine, struct hf_err *err)
{
	machine->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (machine->kvm_fd < 0)
		return hf_err_set(
		    err, HF_ERR_LOCAL, errno,
		    "/dev/kvm: %s; load the module kvm_intel or kvm_amd, or run as a user of group kvm",
		    strerror(errno));
	if (ioctl(machine->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
		return hf_err_set(err, HF_ERR_LOCAL, ENOSYS, "/dev/kvm: unknown version of its interface");
	machine->vm_fd = ioctl(machine->kvm_fd, KVM_CREATE_VM, 0);
	if (machine->vm_fd < 0)
		return kvm_failed("KVM_CREATE_VM", err);
	if (ioctl(machine->vm_fd, KVM_SET_TSS_ADDR, KVM_PAGES_ADDRESS) < 0)
		return kvm_failed("KVM_SET_TSS_ADDR", err);
	if (ioctl(machine->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SREGS2) <= 0)
		return hf_err_set(err, HF_ERR_LOCAL, ENOSYS,
				  "this kernel's KVM has no KVM_CAP_SREGS2 (Linux 5.14)");

	int xsave_bytes = ioctl(machine->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	if (xsave_bytes < (int)sizeof(struct kvm_xsave) || xsave_bytes > (int)VMM_XSAVE_MAX_BYTES)
		return hf_err_set(err, HF_ERR_LOCAL, ENOSYS,
				  "KVM_CAP_XSAVE2 (Linux 5.17) says %d bytes, %zu to %u are handled",
				  xsave_bytes, sizeof(struct kvm_xsave), VMM_XSAVE_MAX_BYTES);
	machine->xsave_bytes = (uint32_t)xsave_bytes;
	return 0;
}

static int add_memory(struct vmm_machine *machine, uint32_t slot, uint64_t offset, uint64_t physical,
		      uint64_t length, struct hf_err *err)
{
	struct kvm_userspace_memory_region region = {
	    .slot = slot,
	    .guest_phys_addr = physical,
	    .memory_size = length,
	    .userspace_addr = (uintptr_t)machine->config.memory + offset,
	};
	if (ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return kvm_failed("KVM_SET_USER_MEMORY_REGION", err);
	return 0;
}

static int add_all_memory(struct vmm_machine *machine, struct hf_err *err)
{
	uint64_t bytes = machine->config.memory_bytes;
	uint64_t low = bytes < HF_GUEST_LOW_BYTES ? bytes : HF_GUEST_LOW_BYTES;

	int result = add_memory(machine, 0, 0, 0, low, err);
	if (!result && bytes > low)
		result = add_memory(machine, 1, low, low + HF_GUEST_HOLE_BYTES, bytes - low, err);
	return result;
}

/* What KVM offers, with the numbers of the vCPU where the host's CPU has left its own. */
static int set_cpuid(struct vmm_machine *machine, const struct vmm_vcpu *vcpu, struct hf_err *err)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES_MAX * sizeof(cpuid->entries[0]));
	if (!cpuid)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	cpuid->nent = CPUID_ENTRIES_MAX;

	int result = 0;
	if (ioctl(machine->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0)
		result = kvm_failed("KVM_GET_SUPPORTED_CPUID", err);
	for (uint32_t i = 0; !result && i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
		if (entry->function == 1)
			entry->ebx = (entry->ebx & 0x00ffffff) | vcpu->index << 24;
		else if (entry->function == 0xb || entry->function == 0x1f)
			entry->edx = vcpu->index;
	}
	if (!result && ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0)
		result = kvm_failed("KVM_SET_CPUID2", err);
	free(cpuid);
	return result;
}

static int make_vcpus(struct vmm_machine *machine, struct hf_err *err)
{
	int run_bytes = ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (run_bytes < (int)sizeof(struct kvm_run))
		return kvm_failed("KVM_GET_VCPU_MMAP_SIZE", err);

	machine->vcpu = calloc(machine->config.vcpus, sizeof(*machine->vcpu));
	if (!machine->vcpu)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < machine->config.vcpus; i++) {
		struct vmm_vcpu *vcpu = &machine->vcpu[i];
		int result =
		    vmm_vcpu_create(vcpu, i, machine->vm_fd, (size_t)run_bytes, &machine->control, err);
		if (result)
			return result;
		machine->vcpus++;
		vcpu->pace_steps_per_s = machine->config.pace_steps_per_s;
		result = set_cpuid(machine, vcpu, err);
		if (result)
			return result;
	}
	int result = vmm_msr_list_make(&machine->msrs, machine->kvm_fd, machine->vcpu[0].fd, err);
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
	machine->kvm_fd = machine->vm_fd = -1;

	int result = open_kvm(machine, err);
	if (!result)
		result = add_all_memory(machine, err);
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
	if (machine->vm_fd >= 0)
		close(machine->vm_fd);
	if (machine->kvm_fd >= 0)
		close(machine->kvm_fd);
	hf_cond_destroy(&machine->control.changed);
	hf_lock_destroy(&machine->control.lock);
	free(machine);
}

/* ---- entering the guest ----------------------------------------------------------------------- */

static int enter_guest(const struct vmm_vcpu *vcpu, struct hf_err *err)
{
	struct kvm_sregs2 sregs;
	if (ioctl(vcpu->fd, KVM_GET_SREGS2, &sregs) < 0)
		return kvm_failed("KVM_GET_SREGS2", err);

	struct kvm_segment code = {
	    .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = {
	    .limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = HF_GUEST_TABLES_OFFSET;
	sregs.cr4 = 0x20;	/* PAE */
	sregs.cr0 = 0x80050033; /* PG, AM, WP, NE, ET, MP, PE */
	sregs.efer = 0x500;	/* LMA, LME */
	if (ioctl(vcpu->fd, KVM_SET_SREGS2, &sregs) < 0)
		return kvm_failed("KVM_SET_SREGS2", err);

	/* The entry point's argument; the stack pointer stays 0, see the guest program. */
	struct kvm_regs regs = {.rip = HF_GUEST_TEXT_OFFSET, .rflags = 2, .rdi = vcpu->index};
	if (ioctl(vcpu->fd, KVM_SET_REGS, &regs) < 0)
		return kvm_failed("KVM_SET_REGS", err);
	struct kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};
	if (ioctl(vcpu->fd, KVM_SET_MP_STATE, &runnable) < 0)
		return kvm_failed("KVM_SET_MP_STATE", err);
	return 0;
}

int vmm_machine_enter_guest(struct vmm_machine *machine, struct hf_err *err)
{
	for (uint32_t i = 0; i < machine->vcpus; i++) {
		int result = enter_guest(&machine->vcpu[i], err);
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
	/* This machine's, not saved. */
	uint64_t own_memory_bytes, own_page_size_bytes;
	uint32_t own_vcpus;
};

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
	return 0;
}

static const struct hf_devstate_desc machine_desc = {
    .name = "machine",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct machine_object),
    .fields = (const struct hf_devstate_field[]){HF_DEVSTATE_FIELD(struct machine_object, memory_bytes),
						 HF_DEVSTATE_FIELD(struct machine_object, page_size_bytes),
						 HF_DEVSTATE_FIELD(struct machine_object, vcpus),
						 HF_DEVSTATE_FIELDS_END},
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
	struct vmm_vcpu_state *vcpus;
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
	uint32_t vcpus = machine->vcpus;

	objects->machine = (struct machine_object){.memory_bytes = config->memory_bytes,
						   .page_size_bytes = config->page_size_bytes,
						   .vcpus = vcpus,
						   .own_memory_bytes = config->memory_bytes,
						   .own_page_size_bytes = config->page_size_bytes,
						   .own_vcpus = vcpus};
	objects->sections_count = 1 + 2 * vcpus;
	objects->sections = calloc(objects->sections_count, sizeof(*objects->sections));
	objects->ports = calloc(vcpus, sizeof(*objects->ports));
	objects->vcpus = calloc(vcpus, sizeof(*objects->vcpus));
	if (!objects->sections || !objects->ports || !objects->vcpus) {
		objects_destroy(objects);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory for device state");
	}

	objects->sections[0] = (struct hf_devstate_section){&machine_desc, 0, &objects->machine};
	for (uint32_t i = 0; i < vcpus; i++) {
		struct hf_devstate_section *section = &objects->sections[1 + 2 * i];
		section[0] = (struct hf_devstate_section){&vmm_vcpu_state_desc, i, &objects->vcpus[i]};
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
		objects.vcpus[i].tsc = vcpu->tsc;
		objects.ports[i] = (struct port_object){vcpu->port_reads, vcpu->pace_steps_per_s};
		result = vmm_vcpu_state_get(&objects.vcpus[i], vcpu->fd, &machine->msrs, machine->xsave_bytes,
					    err);
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
		vcpu->tsc = objects.vcpus[i].tsc;
		vcpu->port_reads = objects.ports[i].reads;
		vcpu->pace_steps_per_s = objects.ports[i].pace_steps_per_s;
		result = vmm_vcpu_state_set(&objects.vcpus[i], vcpu->fd, machine->xsave_bytes, err);
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
	return &machine->msrs;
}
