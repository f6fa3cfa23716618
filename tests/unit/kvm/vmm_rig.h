/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm_rig.h - hugeferry-vmm processes for the tests of this folder.
 *
 * Purpose: huge pages, a place for files, and VMMs in processes of their own, driven over QMP. The place is a
 * tmpfs and hugetlbfs mounted in a mount namespace of this process only, so nothing is left behind
 * however it ends; a keeper process gives the reserved pages back even then; the VMMs end with their parent.
 * Ownership: rig_vmm_start() and rig_vmm_end() pair; rig_teardown() ends what a failed test left.
 * Threads: the test's main thread; events arrive in the QMP client's.
 * Units: bytes.
 * Errors: a failure fails the running test.
 */
#ifndef HF_TESTS_VMM_RIG_H
#define HF_TESTS_VMM_RIG_H

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#include "kvm/guest.h"
#include "kvm/guest/layout.h"
#include "kvm/qmp.h"

#define RIG_MIB		(1ull << 20)
#define RIG_LIMIT_MS	60000
#define RIG_EVENTS_MAX	64
#define RIG_FOLDER	"/run/vmm-rig"
#define RIG_HUGE_FOLDER RIG_FOLDER "/huge"

/* --accel of the VMMs to come: KVM where the host has it, else user mode; $HUGEFERRY_ACCEL decides otherwise.
 */
const char *rig_accel(void);
/* Group setup and teardown; -1 with a printed reason. Before any thread. */
int rig_setup(uint64_t page_size_bytes, uint64_t pages);
int rig_teardown(void);
/* Teardown of each test: kills the VMMs that a failed test left. */
int rig_end_all(void **state);

struct rig_vmm {
	pid_t pid;
	char name[32];
	char qmp_path[108], attach_path[108], ram_path[108];
	struct hf_qmp_client *client;
	uint8_t *memory; /* a mapping of our own of the VM's memory */
	uint64_t memory_bytes;
	char events[RIG_EVENTS_MAX][24];
	uint32_t events_count; /* atomic */
};

/* options: after the name, memory and sockets of the VMM itself; ends with NULL. */
struct rig_vmm *rig_vmm_start(const char *name, uint64_t memory_bytes, const char *const *options);
/* Quits it, checks that it ended well and left no files. */
void rig_vmm_quit(struct rig_vmm *vmm);
/* Kills it. */
void rig_vmm_kill(struct rig_vmm *vmm);
/* Waits for the end of the process; its wait status. */
int rig_vmm_wait(struct rig_vmm *vmm);
/* Disconnects and forgets it, after its end. */
void rig_vmm_forget(struct rig_vmm *vmm);

/* Must succeed / must fail with a text that holds `why`. arguments are stolen. */
json_t *rig_execute(struct rig_vmm *vmm, const char *command, json_t *arguments);
void rig_do(struct rig_vmm *vmm, const char *command);
void rig_refuse(struct rig_vmm *vmm, const char *command, json_t *arguments, const char *why);
void rig_assert_status(struct rig_vmm *vmm, const char *status);
/* Waits until query-migrate says so. */
void rig_await_migration(struct rig_vmm *vmm, const char *status);
void rig_await_event(struct rig_vmm *vmm, const char *name);

const struct hf_guest_status *rig_status(const struct rig_vmm *vmm, uint32_t vcpu);
/* Waits until every vCPU has done so many more steps, the VMM still being well. */
void rig_await_steps(struct rig_vmm *vmm, uint32_t vcpus, uint64_t steps);
struct hf_guest_report rig_verify(const struct rig_vmm *vmm);
void rig_assert_right(const struct rig_vmm *vmm);
uint64_t rig_guest_errors(const struct rig_vmm *vmm, uint32_t vcpus);

/* Device state as a file would hold it; data is freed with free(). */
struct rig_state {
	void *data;
	size_t length;
};
struct rig_state rig_save(struct rig_vmm *vmm);
/* Gives the state to a VMM that waits for it, the end not awaited. */
void rig_offer(struct rig_vmm *vmm, const struct rig_state *state);
void rig_load(struct rig_vmm *vmm, const struct rig_state *state);
/* All of a stopped VM's memory into another's, holes staying holes. */
void rig_copy_memory(struct rig_vmm *to, const struct rig_vmm *from);

/* Waits until it holds; fails the test after RIG_LIMIT_MS. */
void rig_wait_until(bool (*holds)(void *opaque), void *opaque, const char *what);

#endif
