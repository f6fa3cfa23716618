/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vcpu_state.c - the parts of a vCPU, their description, and their way from and to KVM.
 *
 * Theory of operation. KVM hands a vCPU out in parts: general registers, segment and control registers
 * (sregs2, which has the PDPTRs too, so that loading never reads guest memory), the xsave area with the
 * XCRs, debug registers, pending events, the run state and MSRs. All are structs of the kernel's ABI;
 * they are described field by field, so that padding does not travel.
 *
 * MSRs. The kernel lists what it knows. Each is read and written back on a fresh vCPU; what cannot be read,
 * or not be set to the value just read, is skipped, and the machine says which. The time stamp counter is an
 * MSR too but moves by itself: it has a field of its own, taken when the vCPU stops.
 *
 * There is no local APIC: the guest takes no interrupts, so the machine has no in-kernel irqchip.
 *
 * Setting goes in the order in which parts depend on each other: XCR0 says what the xsave area may hold,
 * control registers say which MSR values are legal, events come last.
 */
#include "kvm/vmm/vcpu_state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#define MSR_TSC 0x10u

/* ---- description ------------------------------------------------------------------------------ */

const struct hf_devstate_desc vmm_regs_desc = {
    .name = "regs",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct kvm_regs),
    .fields =
	(const struct hf_devstate_field[]){
	    HF_DEVSTATE_FIELD(struct kvm_regs, rax), HF_DEVSTATE_FIELD(struct kvm_regs, rbx),
	    HF_DEVSTATE_FIELD(struct kvm_regs, rcx), HF_DEVSTATE_FIELD(struct kvm_regs, rdx),
	    HF_DEVSTATE_FIELD(struct kvm_regs, rsi), HF_DEVSTATE_FIELD(struct kvm_regs, rdi),
	    HF_DEVSTATE_FIELD(struct kvm_regs, rsp), HF_DEVSTATE_FIELD(struct kvm_regs, rbp),
	    HF_DEVSTATE_FIELD(struct kvm_regs, r8), HF_DEVSTATE_FIELD(struct kvm_regs, r9),
	    HF_DEVSTATE_FIELD(struct kvm_regs, r10), HF_DEVSTATE_FIELD(struct kvm_regs, r11),
	    HF_DEVSTATE_FIELD(struct kvm_regs, r12), HF_DEVSTATE_FIELD(struct kvm_regs, r13),
	    HF_DEVSTATE_FIELD(struct kvm_regs, r14), HF_DEVSTATE_FIELD(struct kvm_regs, r15),
	    HF_DEVSTATE_FIELD(struct kvm_regs, rip), HF_DEVSTATE_FIELD(struct kvm_regs, rflags),
	    HF_DEVSTATE_FIELDS_END},
};

static const struct hf_devstate_desc segment_desc = {
    .name = "segment",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct kvm_segment),
    .fields =
	(const struct hf_devstate_field[]){
	    HF_DEVSTATE_FIELD(struct kvm_segment, base), HF_DEVSTATE_FIELD(struct kvm_segment, limit),
	    HF_DEVSTATE_FIELD(struct kvm_segment, selector), HF_DEVSTATE_FIELD(struct kvm_segment, type),
	    HF_DEVSTATE_FIELD(struct kvm_segment, present), HF_DEVSTATE_FIELD(struct kvm_segment, dpl),
	    HF_DEVSTATE_FIELD(struct kvm_segment, db), HF_DEVSTATE_FIELD(struct kvm_segment, s),
	    HF_DEVSTATE_FIELD(struct kvm_segment, l), HF_DEVSTATE_FIELD(struct kvm_segment, g),
	    HF_DEVSTATE_FIELD(struct kvm_segment, avl), HF_DEVSTATE_FIELD(struct kvm_segment, unusable),
	    HF_DEVSTATE_FIELDS_END},
};

static const struct hf_devstate_desc table_desc = {
    .name = "descriptor-table",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct kvm_dtable),
    .fields = (const struct hf_devstate_field[]){HF_DEVSTATE_FIELD(struct kvm_dtable, base),
						 HF_DEVSTATE_FIELD(struct kvm_dtable, limit),
						 HF_DEVSTATE_FIELDS_END},
};

#define SEGMENT(member) HF_DEVSTATE_NESTED(struct kvm_sregs2, member, &segment_desc)
#define TABLE(member)	HF_DEVSTATE_NESTED(struct kvm_sregs2, member, &table_desc)
#define CONTROL(member) HF_DEVSTATE_FIELD(struct kvm_sregs2, member)

static const struct hf_devstate_desc sregs_desc = {
    .name = "sregs",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct kvm_sregs2),
    .fields = (const struct hf_devstate_field[]){SEGMENT(cs),
						 SEGMENT(ds),
						 SEGMENT(es),
						 SEGMENT(fs),
						 SEGMENT(gs),
						 SEGMENT(ss),
						 SEGMENT(tr),
						 SEGMENT(ldt),
						 TABLE(gdt),
						 TABLE(idt),
						 CONTROL(cr0),
						 CONTROL(cr2),
						 CONTROL(cr3),
						 CONTROL(cr4),
						 CONTROL(cr8),
						 CONTROL(efer),
						 CONTROL(apic_base),
						 CONTROL(flags),
						 HF_DEVSTATE_ARRAY(struct kvm_sregs2, pdptrs),
						 HF_DEVSTATE_FIELDS_END},
};

static const struct hf_devstate_desc xcr_desc = {
    .name = "xcr",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct kvm_xcr),
    .fields =
	(const struct hf_devstate_field[]){HF_DEVSTATE_FIELD(struct kvm_xcr, xcr),
					   HF_DEVSTATE_FIELD(struct kvm_xcr, value), HF_DEVSTATE_FIELDS_END},
};

static const struct hf_devstate_desc xcrs_desc = {
    .name = "xcrs",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct kvm_xcrs),
    .fields =
	(const struct hf_devstate_field[]){
	    HF_DEVSTATE_FIELD(struct kvm_xcrs, nr_xcrs), HF_DEVSTATE_FIELD(struct kvm_xcrs, flags),
	    HF_DEVSTATE_NESTED_VARRAY(struct kvm_xcrs, xcrs, nr_xcrs, &xcr_desc), HF_DEVSTATE_FIELDS_END},
};

static const struct hf_devstate_desc debugregs_desc = {
    .name = "debugregs",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct kvm_debugregs),
    .fields = (const struct hf_devstate_field[]){HF_DEVSTATE_ARRAY(struct kvm_debugregs, db),
						 HF_DEVSTATE_FIELD(struct kvm_debugregs, dr6),
						 HF_DEVSTATE_FIELD(struct kvm_debugregs, dr7),
						 HF_DEVSTATE_FIELD(struct kvm_debugregs, flags),
						 HF_DEVSTATE_FIELDS_END},
};

#define EVENT(member) HF_DEVSTATE_FIELD(struct kvm_vcpu_events, member)

static const struct hf_devstate_desc events_desc = {
    .name = "events",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct kvm_vcpu_events),
    .fields = (const struct hf_devstate_field[]){EVENT(exception.injected),
						 EVENT(exception.nr),
						 EVENT(exception.has_error_code),
						 EVENT(exception.pending),
						 EVENT(exception.error_code),
						 EVENT(interrupt.injected),
						 EVENT(interrupt.nr),
						 EVENT(interrupt.soft),
						 EVENT(interrupt.shadow),
						 EVENT(nmi.injected),
						 EVENT(nmi.pending),
						 EVENT(nmi.masked),
						 EVENT(sipi_vector),
						 EVENT(flags),
						 EVENT(smi.smm),
						 EVENT(smi.pending),
						 EVENT(smi.smm_inside_nmi),
						 EVENT(smi.latched_init),
						 EVENT(triple_fault.pending),
						 EVENT(exception_has_payload),
						 EVENT(exception_payload),
						 HF_DEVSTATE_FIELDS_END},
};

static const struct hf_devstate_desc msr_desc = {
    .name = "msr",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct kvm_msr_entry),
    .fields = (const struct hf_devstate_field[]){HF_DEVSTATE_FIELD(struct kvm_msr_entry, index),
						 HF_DEVSTATE_FIELD(struct kvm_msr_entry, data),
						 HF_DEVSTATE_FIELDS_END},
};

const struct hf_devstate_desc vmm_vcpu_state_desc = {
    .name = "vcpu",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct vmm_vcpu_state),
    .fields =
	(const struct hf_devstate_field[]){
	    HF_DEVSTATE_NESTED(struct vmm_vcpu_state, regs, &vmm_regs_desc),
	    HF_DEVSTATE_NESTED(struct vmm_vcpu_state, sregs, &sregs_desc),
	    HF_DEVSTATE_NESTED(struct vmm_vcpu_state, xcrs, &xcrs_desc),
	    HF_DEVSTATE_NESTED(struct vmm_vcpu_state, debugregs, &debugregs_desc),
	    HF_DEVSTATE_NESTED(struct vmm_vcpu_state, events, &events_desc),
	    HF_DEVSTATE_FIELD(struct vmm_vcpu_state, mp_state.mp_state),
	    HF_DEVSTATE_FIELD(struct vmm_vcpu_state, tsc_khz), HF_DEVSTATE_FIELD(struct vmm_vcpu_state, tsc),
	    HF_DEVSTATE_FIELD(struct vmm_vcpu_state, xsave_bytes),
	    HF_DEVSTATE_VARRAY(struct vmm_vcpu_state, xsave, xsave_bytes),
	    HF_DEVSTATE_FIELD(struct vmm_vcpu_state, msr_count),
	    HF_DEVSTATE_NESTED_VARRAY(struct vmm_vcpu_state, msrs, msr_count, &msr_desc),
	    HF_DEVSTATE_FIELDS_END},
};

/* ---- KVM -------------------------------------------------------------------------------------- */

static int kvm_failed(const char *call, struct hf_err *err)
{
	int errnum = errno;
	return hf_err_set(err, HF_ERR_LOCAL, errnum, "%s failed: %s", call, strerror(errnum));
}

struct one_msr {
	struct kvm_msrs head;
	struct kvm_msr_entry entry;
};

/* KVM returns how many MSRs it did. */
static bool msr_get(int vcpu_fd, uint32_t index, uint64_t *value)
{
	struct one_msr msr = {.head.nmsrs = 1, .entry.index = index};
	if (ioctl(vcpu_fd, KVM_GET_MSRS, &msr) != 1)
		return false;
	*value = msr.entry.data;
	return true;
}

static bool msr_set(int vcpu_fd, uint32_t index, uint64_t value)
{
	struct one_msr msr = {.head.nmsrs = 1, .entry = {.index = index, .data = value}};
	return ioctl(vcpu_fd, KVM_SET_MSRS, &msr) == 1;
}

int vmm_vcpu_tsc_get(int vcpu_fd, uint64_t *tsc)
{
	return msr_get(vcpu_fd, MSR_TSC, tsc) ? 0 : -EIO;
}

int vmm_vcpu_tsc_set(int vcpu_fd, uint64_t tsc)
{
	return msr_set(vcpu_fd, MSR_TSC, tsc) ? 0 : -EIO;
}

int vmm_msr_list_make(struct vmm_msr_list *out, int kvm_fd, int vcpu_fd, struct hf_err *err)
{
	struct kvm_msr_list *known = calloc(1, sizeof(*known) + VMM_MSRS_MAX * sizeof(known->indices[0]));
	if (!known)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	known->nmsrs = VMM_MSRS_MAX;
	if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, known) < 0) {
		int result = kvm_failed("KVM_GET_MSR_INDEX_LIST", err);
		free(known);
		return result;
	}

	out->carried_count = out->skipped_count = 0;
	for (uint32_t i = 0; i < known->nmsrs; i++) {
		uint32_t index = known->indices[i];
		uint64_t value;
		if (index == MSR_TSC)
			continue;
		if (msr_get(vcpu_fd, index, &value) && msr_set(vcpu_fd, index, value))
			out->carried[out->carried_count++] = index;
		else
			out->skipped[out->skipped_count++] = index;
	}
	free(known);
	return 0;
}

static int get_msrs(struct vmm_vcpu_state *state, int vcpu_fd, const struct vmm_msr_list *list,
		    struct hf_err *err)
{
	for (uint32_t i = 0; i < list->carried_count; i++) {
		uint64_t value;
		if (!msr_get(vcpu_fd, list->carried[i], &value))
			return hf_err_set(err, HF_ERR_LOCAL, EIO,
					  "KVM no longer lets MSR 0x%" PRIx32 " be read", list->carried[i]);
		state->msrs[i] = (struct kvm_msr_entry){.index = list->carried[i], .data = value};
	}
	state->msr_count = list->carried_count;
	return 0;
}

int vmm_vcpu_state_get(struct vmm_vcpu_state *state, int vcpu_fd, const struct vmm_msr_list *msrs,
		       uint32_t xsave_bytes, struct hf_err *err)
{
	if (ioctl(vcpu_fd, KVM_GET_REGS, &state->regs) < 0)
		return kvm_failed("KVM_GET_REGS", err);
	if (ioctl(vcpu_fd, KVM_GET_SREGS2, &state->sregs) < 0)
		return kvm_failed("KVM_GET_SREGS2", err);
	if (ioctl(vcpu_fd, KVM_GET_XCRS, &state->xcrs) < 0)
		return kvm_failed("KVM_GET_XCRS", err);
	if (ioctl(vcpu_fd, KVM_GET_XSAVE2, state->xsave) < 0)
		return kvm_failed("KVM_GET_XSAVE2", err);
	if (ioctl(vcpu_fd, KVM_GET_DEBUGREGS, &state->debugregs) < 0)
		return kvm_failed("KVM_GET_DEBUGREGS", err);
	if (ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, &state->events) < 0)
		return kvm_failed("KVM_GET_VCPU_EVENTS", err);
	if (ioctl(vcpu_fd, KVM_GET_MP_STATE, &state->mp_state) < 0)
		return kvm_failed("KVM_GET_MP_STATE", err);
	int khz = ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0);
	if (khz < 0)
		return kvm_failed("KVM_GET_TSC_KHZ", err);
	state->tsc_khz = (uint32_t)khz;
	state->xsave_bytes = xsave_bytes;
	return get_msrs(state, vcpu_fd, msrs, err);
}

/* 250 millionths are within the accuracy of the clock; as QEMU's rule. */
static int set_tsc_khz(int vcpu_fd, uint32_t khz, struct hf_err *err)
{
	int own = ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0);
	if (own < 0)
		return kvm_failed("KVM_GET_TSC_KHZ", err);
	int64_t difference = (int64_t)khz - own;
	if (difference < 0)
		difference = -difference;
	if (difference * 4000 <= own)
		return 0;
	if (ioctl(vcpu_fd, KVM_SET_TSC_KHZ, (unsigned long)khz) < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno,
				  "the clock of the source ticks at %" PRIu32
				  " kHz, this host's at %d and KVM cannot scale it",
				  khz, own);
	return 0;
}

static int set_msrs(const struct vmm_vcpu_state *state, int vcpu_fd, struct hf_err *err)
{
	for (uint32_t i = 0; i < state->msr_count; i++)
		if (!msr_set(vcpu_fd, state->msrs[i].index, state->msrs[i].data))
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
					  "KVM refuses 0x%llx for MSR 0x%" PRIx32
					  "; is this another kind of CPU?",
					  (unsigned long long)state->msrs[i].data, state->msrs[i].index);
	return 0;
}

int vmm_vcpu_state_set(const struct vmm_vcpu_state *state, int vcpu_fd, uint32_t xsave_bytes,
		       struct hf_err *err)
{
	if (state->xsave_bytes != xsave_bytes)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "the xsave area has %" PRIu32 " bytes on the source and %" PRIu32
				  " here: another kind of CPU",
				  state->xsave_bytes, xsave_bytes);
	int result = set_tsc_khz(vcpu_fd, state->tsc_khz, err);
	if (result)
		return result;
	if (ioctl(vcpu_fd, KVM_SET_XCRS, &state->xcrs) < 0)
		return kvm_failed("KVM_SET_XCRS", err);
	if (ioctl(vcpu_fd, KVM_SET_XSAVE, state->xsave) < 0)
		return kvm_failed("KVM_SET_XSAVE", err);
	if (ioctl(vcpu_fd, KVM_SET_SREGS2, &state->sregs) < 0)
		return kvm_failed("KVM_SET_SREGS2", err);
	if (ioctl(vcpu_fd, KVM_SET_REGS, &state->regs) < 0)
		return kvm_failed("KVM_SET_REGS", err);
	result = set_msrs(state, vcpu_fd, err);
	if (result)
		return result;
	if (ioctl(vcpu_fd, KVM_SET_DEBUGREGS, &state->debugregs) < 0)
		return kvm_failed("KVM_SET_DEBUGREGS", err);
	if (ioctl(vcpu_fd, KVM_SET_MP_STATE, &state->mp_state) < 0)
		return kvm_failed("KVM_SET_MP_STATE", err);
	if (ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &state->events) < 0)
		return kvm_failed("KVM_SET_VCPU_EVENTS", err);
	return 0;
}
