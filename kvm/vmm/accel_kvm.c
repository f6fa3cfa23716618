/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel_kvm.c - the guest on /dev/kvm.
 *
 * Theory of operation. Guest memory is one or two slots of KVM: physical addresses leave out 3 to 4 GiB,
 * where KVM itself keeps a few pages on Intel; the guest's page tables hide the gap.
 *
 * A vCPU's thread calls KVM_RUN again and again until it is kicked. A kick is two things:
 * kvm_run->immediate_exit, which makes the next KVM_RUN return
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
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm/guest/layout.h"
#include "kvm/vmm/accel.h"
#include "kvm/vmm/machine.h"
#include "kvm/vmm/memory_error.h"
#include "kvm/vmm/vcpu.h"
#include "kvm/vmm/vcpu_state.h"

#define KVM_PAGES_ADDRESS 0xfffbd000ul
#define CPUID_ENTRIES_MAX 256

struct kvm_machine {
	int kvm_fd, vm_fd;
	void *memory;
	uint32_t xsave_bytes;
	struct vmm_msr_list msrs;
};

/* ---- making ----------------------------------------------------------------------------------- */

static int kvm_failed(const char *call, struct hf_err *err)
{
	int errnum = errno;
	return hf_err_set(err, HF_ERR_LOCAL, errnum, "%s failed: %s", call, strerror(errnum));
}

static int open_kvm(struct kvm_machine *machine, struct hf_err *err)
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

static int add_memory(struct kvm_machine *machine, uint32_t slot, uint64_t offset, uint64_t physical,
		      uint64_t length, struct hf_err *err)
{
	struct kvm_userspace_memory_region region = {
	    .slot = slot,
	    .guest_phys_addr = physical,
	    .memory_size = length,
	    .userspace_addr = (uintptr_t)machine->memory + offset,
	};
	if (ioctl(machine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
		return kvm_failed("KVM_SET_USER_MEMORY_REGION", err);
	return 0;
}

static int add_all_memory(struct kvm_machine *machine, uint64_t bytes, struct hf_err *err)
{
	uint64_t low = bytes < HF_GUEST_LOW_BYTES ? bytes : HF_GUEST_LOW_BYTES;

	int result = add_memory(machine, 0, 0, 0, low, err);
	if (!result && bytes > low)
		result = add_memory(machine, 1, low, low + HF_GUEST_HOLE_BYTES, bytes - low, err);
	return result;
}

/* What KVM offers, with the numbers of the vCPU where the host's CPU has left its own. */
static int set_cpuid(struct kvm_machine *machine, const struct vmm_vcpu *vcpu, struct hf_err *err)
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

static void kvm_close(void *accel)
{
	struct kvm_machine *machine = accel;

	if (machine->vm_fd >= 0)
		close(machine->vm_fd);
	if (machine->kvm_fd >= 0)
		close(machine->kvm_fd);
	free(machine);
}

static int kvm_open(void **accel, const struct vmm_machine_config *config, struct hf_err *err)
{
	struct kvm_machine *machine = calloc(1, sizeof(*machine));
	if (!machine)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	machine->memory = config->memory;
	machine->kvm_fd = machine->vm_fd = -1;

	int result = open_kvm(machine, err);
	if (!result)
		result = add_all_memory(machine, config->memory_bytes, err);
	if (result)
		kvm_close(machine);
	else
		*accel = machine;
	return result;
}

static void vcpu_destroy(struct vmm_vcpu *vcpu)
{
	if (vcpu->run)
		munmap(vcpu->run, vcpu->run_bytes);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
}

static int map_run(const struct kvm_machine *machine, struct vmm_vcpu *vcpu, struct hf_err *err)
{
	int run_bytes = ioctl(machine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (run_bytes < (int)sizeof(struct kvm_run))
		return kvm_failed("KVM_GET_VCPU_MMAP_SIZE", err);
	void *run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "vCPU %" PRIu32 " cannot be mapped: %s",
				  vcpu->index, strerror(errno));
	vcpu->run = run;
	vcpu->run_bytes = (size_t)run_bytes;
	vcpu->kicked = &vcpu->run->immediate_exit;
	return 0;
}

static int vcpu_create(void *accel, struct vmm_vcpu *vcpu, struct hf_err *err)
{
	struct kvm_machine *machine = accel;

	vcpu->fd = ioctl(machine->vm_fd, KVM_CREATE_VCPU, (unsigned long)vcpu->index);
	if (vcpu->fd < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "vCPU %" PRIu32 " cannot be made: %s",
				  vcpu->index, strerror(errno));
	int result = map_run(machine, vcpu, err);
	if (!result)
		result = set_cpuid(machine, vcpu, err);
	if (!result && vcpu->index == 0)
		result = vmm_msr_list_make(&machine->msrs, machine->kvm_fd, vcpu->fd, err);
	if (result)
		vcpu_destroy(vcpu);
	return result;
}

static int vcpu_enter_guest(struct vmm_vcpu *vcpu, struct hf_err *err)
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

/* ---- running ---------------------------------------------------------------------------------- */

static int unexpected_io(const struct vmm_vcpu *vcpu, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, EIO,
			  "vCPU %" PRIu32 ": the guest used port 0x%x in a way this machine does not have",
			  vcpu->index, vcpu->run->io.port);
}

static int handle_io(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	struct kvm_run *run = vcpu->run;

	if (run->io.port != HF_GUEST_PORT || run->io.direction != KVM_EXIT_IO_IN || run->io.size != 4 ||
	    run->io.count != 1)
		return unexpected_io(vcpu, err);
	uint32_t value = vmm_vcpu_read_port(vcpu);
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

static int vcpu_run(struct vmm_vcpu *vcpu, struct hf_err *err)
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

/* ---- state ------------------------------------------------------------------------------------ */

static int vcpu_get(void *accel, const struct vmm_vcpu *vcpu, void *state, struct hf_err *err)
{
	const struct kvm_machine *machine = accel;
	struct vmm_vcpu_state *parts = state;

	parts->tsc = vcpu->tsc;
	return vmm_vcpu_state_get(parts, vcpu->fd, &machine->msrs, machine->xsave_bytes, err);
}

static int vcpu_set(void *accel, struct vmm_vcpu *vcpu, const void *state, struct hf_err *err)
{
	const struct kvm_machine *machine = accel;
	const struct vmm_vcpu_state *parts = state;

	vcpu->tsc = parts->tsc;
	return vmm_vcpu_state_set(parts, vcpu->fd, machine->xsave_bytes, err);
}

static const struct vmm_msr_list *msrs(const void *accel)
{
	return &((const struct kvm_machine *)accel)->msrs;
}

const struct vmm_accel_ops vmm_accel_kvm = {
    .state_desc = &vmm_vcpu_state_desc,
    .open = kvm_open,
    .close = kvm_close,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .vcpu_enter_guest = vcpu_enter_guest,
    .vcpu_run = vcpu_run,
    .vcpu_get = vcpu_get,
    .vcpu_set = vcpu_set,
    .msrs = msrs,
};
