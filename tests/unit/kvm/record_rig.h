/* SPDX-License-Identifier: Apache-2.0 */
/*
 * record_rig.h - a directory for records, and a disk that fails or stands still when it is told to.
 *
 * Purpose: the test program is linked with --wrap for fdatasync and pwrite64. Ownership: cmocka's setup and
 * teardown. Threads: faults may be set while another thread writes. Units: none. Errors: cmocka assertions.
 */
#ifndef HF_TESTS_RECORD_RIG_H
#define HF_TESTS_RECORD_RIG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "kvm/vm_record_internal.h"

struct record_rig {
	char parent[64];
	char dir[80]; /* not made yet */
};

int record_rig_setup(void **state);
int record_rig_teardown(void **state); /* removes what tests leave */

/* Of this process, for a VM called so, with two blocks. */
struct hf_vm_record_description *record_rig_description(enum hf_vm_record_role role, const char *vm_name);
/* Made and open. */
struct hf_vm_record *record_rig_create(const struct record_rig *rig, enum hf_vm_record_role role);
/* The bytes of a file, exactly as long; free(). */
char *record_rig_file(const char *path, size_t *length_bytes);
void record_rig_write_file(const char *path, const char *bytes, size_t length_bytes);

/* A file of an outgoing VM as bytes: "none" before, "given-up" now, in slot *newer; copied or not. */
char *record_rig_given_up_file(const struct record_rig *rig, bool copied, size_t *length_bytes,
			       unsigned *newer);

/* An object without its end, closed with the checksum; by another implementation of it. Returns its length.
 */
size_t record_rig_seal(const char *body, char *out);

struct record_rig_disk {
	atomic_int fail_syncs;	/* so many of the next fdatasync fail with EIO */
	atomic_int write_errno; /* pwrite fails with it */
	atomic_bool gate;	/* fdatasync waits until it is false */
	atomic_int passes;	/* so many are let through the gate all the same */
	atomic_int waiting;	/* so many do */
};
extern struct record_rig_disk record_rig_disk;

/* Until that many fdatasync calls stand at the gate. */
void record_rig_await_gate(int waiting);

#endif
