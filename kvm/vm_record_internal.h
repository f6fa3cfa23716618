/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm_record_internal.h - a record as bytes. Internal to kvm/, its tests and the fuzz target.
 *
 * Purpose: encode, and decode without trust. No system calls here.
 * Ownership: the caller's buffers; text is freed with free().
 * Threads: pure functions.
 * Units: bytes.
 * Errors: 0 or -errno; outputs are untouched on failure.
 */
#ifndef HF_KVM_VM_RECORD_INTERNAL_H
#define HF_KVM_VM_RECORD_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>

#include "kvm/vm_record.h"

#define HF_VM_RECORD_SLOTS		   2
#define HF_VM_RECORD_SLOT_BYTES		   4096u
#define HF_VM_RECORD_DESCRIPTION_AT	   8192u /* behind the slots */
#define HF_VM_RECORD_DESCRIPTION_MAX_BYTES (1u << 20)
#define HF_VM_RECORD_FILE_MAX_BYTES	   (HF_VM_RECORD_DESCRIPTION_AT + HF_VM_RECORD_DESCRIPTION_MAX_BYTES)
#define HF_VM_RECORD_SEQUENCE_MAX	   (1ull << 60) /* never reached by counting */
#define HF_VM_RECORD_FILE_NAME_BYTES	   256

struct hf_vm_record_slot {
	uint64_t sequence; /* rises with each change, from 1 */
	struct hf_vm_record_state state;
};

/* A whole file. */
struct hf_vm_record_content {
	struct hf_vm_record_slot slot; /* the one that holds */
	unsigned at;		       /* its number */
	bool copied;		       /* the other one says the same */
	struct hf_vm_record_description *description;
};

bool hf_vm_record_fits_role(enum hf_vm_record_role role, enum hf_record record);
const char *hf_vm_record_role_name(enum hf_vm_record_role role); /* "outgoing" */
/* NAME.outgoing for a VM of any name; different names have different files. -EINVAL, -ENAMETOOLONG. */
int hf_vm_record_file_name(enum hf_vm_record_role role, const char *vm_name,
			   char name[static HF_VM_RECORD_FILE_NAME_BYTES], struct hf_err *err);

void hf_vm_record_slot_encode(const struct hf_vm_record_slot *slot,
			      char bytes[static HF_VM_RECORD_SLOT_BYTES]);
/* -EBADMSG: damaged, or its writing was cut short. -EPROTONOSUPPORT: whole, and not understood here. */
int hf_vm_record_slot_decode(const char bytes[static HF_VM_RECORD_SLOT_BYTES],
			     struct hf_vm_record_slot *slot);

int hf_vm_record_description_check(const struct hf_vm_record_description *description, struct hf_err *err);
int hf_vm_record_description_encode(const struct hf_vm_record_description *description, char **text,
				    size_t *length_bytes, struct hf_err *err);
int hf_vm_record_description_decode(const char *text, size_t length_bytes,
				    struct hf_vm_record_description **out, struct hf_err *err);

/* The text says what is wrong with the bytes; the file is the caller's to name. */
int hf_vm_record_decode(const char *bytes, size_t length_bytes, struct hf_vm_record_content *content,
			struct hf_err *err);

#endif
