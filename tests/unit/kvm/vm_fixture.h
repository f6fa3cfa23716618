/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vm_fixture.h - a VM adapter with a VMM that follows a script, for the tests of this folder.
 *
 * Purpose: opens and closes the two, runs operations to their end, says what came of them.
 * Ownership: setup() and teardown() of each test; close_vm() ends adapter and VMM before.
 * Threads: the test's main thread; the adapter's worker reports ends.
 * Units: bytes. Errors: asserted.
 */
#ifndef HF_TESTS_UNIT_KVM_VM_FIXTURE_H
#define HF_TESTS_UNIT_KVM_VM_FIXTURE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "fake_vm.h"
#include "kvm/qmp_vm.h"
#include "kvm/qmp_vm_internal.h"
#include "raw_qmp.h"

#define STATE_BYTES 300000
#define RESULTS_MAX 32

struct end {
	enum hf_vm_op op;
	int result;
	uint64_t ran_ns;
	uint32_t first_count;
	struct hf_err err;
};

struct fixture {
	struct raw_directory directory;
	struct fake_vm machine;
	struct hf_qmp_vm *vm;
	uint8_t *state; /* what SAVE brought, or LOAD gets */
	size_t state_bytes;

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	struct end ends[RESULTS_MAX];
	int end_count;
};

int setup(void **state);
void close_vm(struct fixture *fixture);
int teardown(void **state);
void open_vm(struct fixture *fixture, struct fake_vm_script script);
int request(struct fixture *fixture, enum hf_vm_op op);
/* The end of the nth operation. */
struct end wait_end(struct fixture *fixture, int number);
/* Runs one operation to its end. */
struct end run(struct fixture *fixture, enum hf_vm_op op);
void expect_ok(struct fixture *fixture, enum hf_vm_op op);
void expect_failure(struct fixture *fixture, enum hf_vm_op op, int error, const char *words);
void expect_status(struct fixture *fixture, const char *expected);
/* A VM in the state from which op may start. */
struct fake_vm_script script_for(enum hf_vm_op op);

#endif
