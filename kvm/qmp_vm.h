/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp_vm.h - the VM adapter: drives a VMM over QMP behind the port of core/vm.h.
 *
 * Purpose: stop, save, load, run and resume a VM with the few QMP commands that QEMU and the reference VMM
 * share; device state travels over a unix socket the adapter makes for `migrate` and `migrate-incoming`.
 *
 * Ownership: create/destroy; destroy joins the worker thread.
 * Threads: one worker thread runs the requested operations in order and reports each end through `done`.
 * Units: milliseconds in _ms.
 * Errors: 0 or -errno with text; a QMP error's own words are passed on.
 */
#ifndef HF_KVM_QMP_VM_H
#define HF_KVM_QMP_VM_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"
#include "core/vm.h"

struct hf_qmp_vm;

#define HF_QMP_VM_TESTED "7.2 and 10.0"

struct hf_qmp_vm_block {
	char *idstr; /* id of the memory backend */
	char *path;  /* its mem-path */
	uint64_t length_bytes;
	bool shared;
};

/* target as in qmp.h. done: hf_source_vm_done or hf_destination_vm_done. */
int hf_qmp_vm_create(struct hf_qmp_vm **out, const char *target, struct hf_err *err);
/*
 * For a VMM that may be waiting for a page and not answer now; it is awaited by what is asked first.
 * settings: what the program before this one noted of them (NULL: nothing); they are put back after RUN.
 */
int hf_qmp_vm_create_silent(struct hf_qmp_vm **out, const char *target, const char *settings,
			    struct hf_err *err);
/* Starts the worker. `done` may be called from now on. */
int hf_qmp_vm_start(struct hf_qmp_vm *vm, void (*done)(void *engine, const struct hf_vm_result *result),
		    void *engine, struct hf_err *err);
struct hf_vm hf_qmp_vm_port(struct hf_qmp_vm *vm);
/* Ends every open request with -ECANCELED and joins the worker; request() goes on to fail. */
void hf_qmp_vm_stop(struct hf_qmp_vm *vm);
void hf_qmp_vm_destroy(struct hf_qmp_vm *vm);

/*
 * A VM that a program before this one has loaded, and that may not run yet: its VMM, thawed so that its
 * memory could be taken over, is frozen before anything that is requested later. If the VM has run meanwhile
 * the VMM is killed.
 */
int hf_qmp_vm_hold(struct hf_qmp_vm *vm);

pid_t hf_qmp_vm_pid(const struct hf_qmp_vm *vm);
/* "running", "paused", "inmigrate", ... as query-status says; "fenced" if the VMM is frozen, by whomever. */
int hf_qmp_vm_status(struct hf_qmp_vm *vm, char *status, size_t status_bytes, struct hf_err *err);
/* Adds to the text of an error why we have killed the VMM, or what it has written to its log, if that is a
 * file, since create(). */
void hf_qmp_vm_add_words(struct hf_qmp_vm *vm, struct hf_err *err);
/*
 * "QEMU 7.2.22" (query-version), and whether Hugeferry is tested with such a one. A VMM that is no QEMU says
 * nothing, with 0.
 */
int hf_qmp_vm_version(struct hf_qmp_vm *vm, char *version, size_t version_bytes, bool *tested,
		      struct hf_err *err);
/* Thread ids of the vCPUs, in cpu-index order (query-cpus-fast). Free with free(). */
int hf_qmp_vm_vcpus(struct hf_qmp_vm *vm, uint32_t **thread_ids, uint32_t *count, struct hf_err *err);
/* Memory backends (query-memdev, qom-get). Free with hf_qmp_vm_blocks_free(). */
int hf_qmp_vm_blocks(struct hf_qmp_vm *vm, struct hf_qmp_vm_block **blocks, uint32_t *count,
		     struct hf_err *err);
void hf_qmp_vm_blocks_free(struct hf_qmp_vm_block *blocks, uint32_t count);
/*
 * Before anything is stopped. -EPERM with the device's name and what to do: it reaches guest memory by a way
 * on which a page that has yet to come reads as zeros (VFIO, vhost-user, ...), or, with `precopy`, writes to
 * it unseen by the tracking of writes (O_DIRECT), or the VMM itself says that it cannot be migrated. After
 * SAVE the same is looked at again, and FENCE fails for what has come since.
 */
int hf_qmp_vm_check_outgoing(struct hf_qmp_vm *vm, bool precopy, struct hf_err *err);
/* Likewise, of the VMM that waits; also if it has locked its memory. */
int hf_qmp_vm_check_incoming(struct hf_qmp_vm *vm, struct hf_err *err);
/*
 * What the VMM has set for its migrations and SAVE or LOAD will change, as it is now, for who goes on if this
 * program is killed: "x-ignore-shared=off max-bandwidth=134217728". Free with free().
 */
int hf_qmp_vm_settings(struct hf_qmp_vm *vm, char **settings, struct hf_err *err);
/* Sets what was noted so; NULL: nobody has, and only what is dangerous is taken back. */
int hf_qmp_vm_put_back(struct hf_qmp_vm *vm, const char *settings, struct hf_err *err);
/*
 * HF_VM_RESUME in the caller's thread, for a program that does nothing else: thaws the VMM if it is frozen
 * and runs the VM unless it runs. Not once the worker has been started.
 */
int hf_qmp_vm_resume(struct hf_qmp_vm *vm, struct hf_err *err);
/* Ends the VMM: quit, or SIGKILL if it is frozen, and then the files it would have removed stay. */
int hf_qmp_vm_quit(struct hf_qmp_vm *vm, struct hf_err *err);

#endif
