/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm_record.h - the durable record of who may run a VM.
 *
 * Purpose: one small file for each VM and side of a migration, DIR/NAME.outgoing or DIR/NAME.incoming. It
 * says how far the VM was given (enum hf_record of core/handover.h) and, once and for all, which migration
 * and which VMM it is about, so that a program started again, a guardian or an operator with `cat` can tell.
 * The format and why it outlives a crash at any point stand in vm_record.c.
 *
 * Ownership: create/open and close; a description is freed with hf_vm_record_description_free(). A record
 * that is open is locked: no other program opens it until it is closed or this process has ended. Threads:
 * one at a time. Units: bytes; start times in the kernel's clock ticks since boot. Errors: 0 or -errno with
 * text that names the file. -ENOENT: there is no record. -EBADMSG: there is one that cannot be trusted, which
 * is never the same as none. -EBUSY: another program has it open.
 */
#ifndef HF_KVM_VM_RECORD_H
#define HF_KVM_VM_RECORD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"
#include "core/handover.h"
#include "core/memory.h"

#define HF_VM_RECORD_SESSION_BYTES 16
#define HF_VM_RECORD_BOOT_ID_CHARS 36

enum hf_vm_record_role {
	HF_VM_RECORD_OUTGOING = 0, /* this host is the source */
	HF_VM_RECORD_INCOMING,
	HF_VM_RECORD_ROLES,
};

struct hf_vm_record_block {
	char *idstr;
	char *path; /* NULL: none */
	uint64_t length_bytes, page_size_bytes;
	/* incoming: where the VMM has it mapped, and from where in its file. 0: not known */
	uint64_t vmm_address, file_offset_bytes;
};

/* What does not change while a record exists. Strings are UTF-8 without control characters, from malloc(). */
struct hf_vm_record_description {
	enum hf_vm_record_role role;
	uint8_t session[HF_VM_RECORD_SESSION_BYTES];
	char *vm_name;
	pid_t vmm_pid;
	uint64_t vmm_start_ticks; /* with the pid it names one process of one boot */
	char boot_id[HF_VM_RECORD_BOOT_ID_CHARS + 1];
	char *qmp_target; /* NULL: none; the next three as well */
	char *peer_uri;
	char *listen_uri;
	char *vmm_settings; /* that a migration changes, as they were before: hf_qmp_vm_settings() */
	enum hf_placement placement;
	uint32_t chunk_bytes; /* 0: not settled */
	struct hf_vm_record_block *blocks;
	uint32_t block_count;
	uint32_t *vcpu_thread_ids; /* in cpu-index order */
	uint32_t vcpu_count;
};

/* Notes VM and VMM with its start time and this boot; the other members are the caller's to fill. */
int hf_vm_record_description_create(struct hf_vm_record_description **out, enum hf_vm_record_role role,
				    const char *vm_name, pid_t vmm_pid, struct hf_err *err);
/* Strings are copied. Checked when the record is created. -ENOMEM, -E2BIG. */
int hf_vm_record_description_add_block(struct hf_vm_record_description *description, const char *idstr,
				       const char *path, uint64_t length_bytes, uint64_t page_size_bytes,
				       struct hf_err *err);
/* Copied. -ENOMEM. */
int hf_vm_record_description_set_vcpus(struct hf_vm_record_description *description,
				       const uint32_t *thread_ids, uint32_t count, struct hf_err *err);
void hf_vm_record_description_free(struct hf_vm_record_description *description);
/* 1: that very process of this boot is there; 0: it has ended; -errno: nobody can tell now. */
int hf_vm_record_vmm_lives(const struct hf_vm_record_description *description);

struct hf_vm_record;

/* What the file says at the moment. */
struct hf_vm_record_state {
	enum hf_record record;
	uint64_t epoch;	 /* of the last link; 0: none yet */
	bool released;	 /* outgoing: pages of the VM were given back, or are about to be */
	pid_t agent_pid; /* of the program that wrote it, which has the VM's memory; 0: not known */
	uint64_t agent_start_ticks;
	char written_at[32]; /* UTC, for people */
};

/*
 * Makes the file, durably, with HF_RECORD_NONE; `dir` too, where it is missing and its parent is not.
 * -EEXIST: there is one already, of a migration that nobody has brought to its end.
 */
int hf_vm_record_create(struct hf_vm_record **out, const char *dir,
			const struct hf_vm_record_description *description, struct hf_err *err);
/* An existing one, to go on with; what it says is on storage then. */
int hf_vm_record_open(struct hf_vm_record **out, const char *dir, enum hf_vm_record_role role,
		      const char *vm_name, struct hf_err *err);
/*
 * Only looks, also while others write: what it finds may not be on storage yet. description may be NULL; else
 * free what it is set to.
 */
int hf_vm_record_read(const char *dir, enum hf_vm_record_role role, const char *vm_name,
		      struct hf_vm_record_state *state, struct hf_vm_record_description **description,
		      struct hf_err *err);

struct hf_vm_record_state hf_vm_record_state(const struct hf_vm_record *record);
/* Lives as long as the record is open. */
const struct hf_vm_record_description *hf_vm_record_description(const struct hf_vm_record *record);
const char *hf_vm_record_path(const struct hf_vm_record *record);

/*
 * On storage when they return 0. After a failure what was said before holds. -EINVAL: no record of this role.
 */
int hf_vm_record_write(struct hf_vm_record *record, enum hf_record value, struct hf_err *err);
int hf_vm_record_write_epoch(struct hf_vm_record *record, uint64_t epoch, struct hf_err *err);
/* For good: from here on the memory of the VM is not whole on this host. */
int hf_vm_record_write_released(struct hf_vm_record *record, struct hf_err *err);
/*
 * Writes what was written last a second time, so that damage to one copy loses nothing. Not part of the
 * above: the VM stands still while they are under way.
 */
int hf_vm_record_copy(struct hf_vm_record *record, struct hf_err *err);
/* Removes the file, durably; only close is left then. */
int hf_vm_record_remove(struct hf_vm_record *record, struct hf_err *err);
void hf_vm_record_close(struct hf_vm_record *record);

#endif
