/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp_vm_internal.h - what the files of the VM adapter share.
 *
 * Purpose: the adapter's state, commands and waiting (qmp_vm.c) for the two operations that move device
 * state over a socket (qmp_vm_state.c), for the settings that these need (qmp_vm_settings.c) and for the
 * queries (qmp_vm_query.c).
 * Ownership: as in qmp_vm.h. Threads: waiting is for the worker only.
 * Units: milliseconds in _ms.
 * Errors: 0 or -errno with text; -ECANCELED when the adapter is being destroyed.
 */
#ifndef HF_KVM_QMP_VM_INTERNAL_H
#define HF_KVM_QMP_VM_INTERNAL_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#include "core/lock.h"
#include "core/vm.h"
#include "kvm/qmp.h"
#include "kvm/qmp_vm.h"
#include "kvm/vmm_process.h"
#include "kvm/vmm_words.h"

#define HF_QMP_VM_QUEUE		  8
#define HF_QMP_VM_STATE_MAX_BYTES (256u << 20)
#define HF_QMP_VM_COMMAND_MS	  30000u
#define HF_QMP_VM_STOP_LIMIT_MS	  60000	    /* QEMU drains block devices when it stops */
#define HF_QMP_VM_HOLD		  HF_VM_OPS /* an operation of the adapter's own; nobody hears of its end */
#define HF_QMP_VM_SETTINGS_BYTES  512
#define HF_QMP_VM_LOOK		  8

struct hf_qmp_vm_request {
	enum hf_vm_op op;
	const void *data; /* the engine's, until the end is reported */
	size_t length_bytes;
};

/* What the VMM has said of the migration that was begun last. */
enum hf_qmp_vm_told { HF_QMP_VM_TOLD_NOTHING = 0, HF_QMP_VM_TOLD_COMPLETED, HF_QMP_VM_TOLD_FAILED };

/* Where device state passes, from the socket's directory on. All zeros: there is none. */
struct hf_qmp_vm_channel {
	bool open;
	bool migrating; /* the VMM has accepted `migrate` */
	bool ended;	/* SAVE: the VMM has closed the stream */
	char directory[sizeof(((struct sockaddr_un *)0)->sun_path)];
	struct sockaddr_un address;
	int listen_fd, fd; /* -1: none */
	char *data;	   /* SAVE: what has come */
	size_t length_bytes, capacity_bytes;
};
/* What was looked at before the VM was stopped. */
enum hf_qmp_vm_check { HF_QMP_VM_CHECK_NONE, HF_QMP_VM_CHECK, HF_QMP_VM_CHECK_ROUNDS };

struct hf_qmp_vm {
	/* set at creation */
	struct hf_qmp_client *client;
	struct hf_vmm_process process;
	struct hf_vmm_words words;
	int wake_fd;		 /* written at events that an operation may wait for, and at the end */
	bool silent;		 /* it may not answer before pages are served */
	uint32_t run_silence_ms; /* RUN: no answer to a command; UINT32_MAX: for ever */

	/* set by start() */
	void (*done)(void *engine, const struct hf_vm_result *result);
	void *engine;
	pthread_t worker;

	/* the worker's own */
	bool prepared;
	bool tells;	    /* it sends MIGRATION events */
	bool stops_itself;  /* `migrate` stops the VM, and a waiting one may start by itself: QEMU */
	bool knows_no_stay; /* `migrate-incoming` has no exit-on-error */
	bool loaded;	    /* by us, and not told to run since */
	bool bandwidth_lifted;
	bool looking; /* some of `look` has been asked since `migrate` was accepted */
	enum hf_qmp_vm_check check;
	uint32_t first_count;
	struct hf_vm_range *first; /* what loading will touch; NULL: it is not known */
	struct hf_qmp_vm_channel channel;
	char settings_before[HF_QMP_VM_SETTINGS_BYTES];
	char *settings_noted; /* silent: by a program before this one; NULL: nobody knows */

	struct hf_qmp_question look[HF_QMP_VM_LOOK]; /* what is asked about devices and memory */
	json_t *memory_checked;			     /* query-memdev then; NULL: it was not looked at */
	struct hf_err saved_err;		     /* what is wrong with a VM that was saved */

	struct hf_lock mutex;
	struct hf_cond changed;
	/* under the lock */
	struct hf_qmp_vm_request queue[HF_QMP_VM_QUEUE];
	uint32_t queue_first, queue_count;
	bool started, stopping;
	bool busy;	  /* the worker, with an operation */
	bool resume_seen; /* RESUME event since `cont` was given */
	bool revived;	  /* RESUME event since STOP, and not of our own `cont` */
	bool own_cont;	  /* our `cont` is under way: its event is no revival */
	bool stop_seen;	  /* STOP event since STOP was begun */
	uint64_t stop_begun_us,
	    saving_us; /* by the host's real time; the VM ran on until the second; 0: not known */
	bool fenced;   /* by us */
	enum hf_qmp_vm_told told;
	bool restoring;		  /* the worker, what an operation has changed */
	struct hf_err killed_for; /* the VMM was, by us */
};

uint64_t hf_qmp_vm_now_ms(void);

/* Steals arguments. */
static inline int hf_qmp_vm_command(struct hf_qmp_vm *vm, const char *command, json_t *arguments,
				    json_t **result, struct hf_err *err)
{
	return hf_qmp_client_execute(vm->client, command, arguments, HF_QMP_VM_COMMAND_MS, result, err);
}

/* "the VMM (pid 1, QMP socket /x) " and the format, as text of *err. */
int hf_qmp_vm_error(const struct hf_qmp_vm *vm, int errnum, struct hf_err *err, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/*
 * Waits for the descriptor (-1: none), an event of the VMM or the time. 1: the descriptor is ready; 0:
 * look again; -ECANCELED: being destroyed.
 */
int hf_qmp_vm_wait(struct hf_qmp_vm *vm, int fd, short events, uint64_t timeout_ms, struct hf_err *err);

/* Asking again and again, less and less often, until a deadline; events cut a wait short. */
struct hf_qmp_vm_pace {
	const char *awaited; /* "the VMM has not AWAITED within ..." */
	uint64_t limit_ms, deadline_ms;
	uint32_t interval_ms;
	bool due; /* the last wait was not cut short */
};
struct hf_qmp_vm_pace hf_qmp_vm_pace(uint64_t limit_ms, const char *awaited);
/* As hf_qmp_vm_wait(), but -ETIMEDOUT once the deadline has passed. */
int hf_qmp_vm_pace_wait(struct hf_qmp_vm *vm, struct hf_qmp_vm_pace *pace, int fd, short events,
			struct hf_err *err);

/* query-status; status is cut to fit. */
int hf_qmp_vm_query_status(struct hf_qmp_vm *vm, uint32_t timeout_ms, char *status, size_t status_bytes,
			   bool *running, struct hf_err *err);

/* An event has told so. */
bool hf_qmp_vm_stop_seen(struct hf_qmp_vm *vm);

/* One of STOP, RESUME, RUN, FENCE, KILL in the caller's thread, instead of the worker's. */
int hf_qmp_vm_do(struct hf_qmp_vm *vm, enum hf_vm_op op, struct hf_err *err);
/* We have frozen it, or somebody else has: it does not answer. */
bool hf_qmp_vm_is_fenced(struct hf_qmp_vm *vm);

/* `migrate` was accepted: asks what stays as it is from now on, if hf_qmp_vm_check_outgoing() has. */
void hf_qmp_vm_look_migrating(struct hf_qmp_vm *vm);
/* Nobody waits for any of it any more. */
void hf_qmp_vm_look_away(struct hf_qmp_vm *vm);
/* Looks again at what hf_qmp_vm_check_outgoing() has looked at, if it has; into saved_err. */
void hf_qmp_vm_check_saved(struct hf_qmp_vm *vm);
/* Every thread stands still, and what was said before has been heard. */
int hf_qmp_vm_freeze(struct hf_qmp_vm *vm, struct hf_err *err);
int hf_qmp_vm_thaw(struct hf_qmp_vm *vm, struct hf_err *err);
/* From now on RESUMEs that nobody here has asked for count... */
void hf_qmp_vm_watch_revival(struct hf_qmp_vm *vm);
/* ... and there was one. */
bool hf_qmp_vm_is_revived(struct hf_qmp_vm *vm);
/* Freezes a VM that has been loaded: until RUN nobody runs it. told: the VMM has said so by an event, so it
 * has said before whether it runs. -EPERM: it does; it is frozen all the same. */
int hf_qmp_vm_hold_loaded(struct hf_qmp_vm *vm, bool told, struct hf_err *err);
/* The same for one that a program before this one has held; if it has run its VMM is killed. */
void hf_qmp_vm_hold_again(struct hf_qmp_vm *vm);

/* Capabilities and what else SAVE and LOAD need; done already, it does nothing. */
int hf_qmp_vm_prepare(struct hf_qmp_vm *vm, struct hf_err *err);
/* Likewise, of a VMM that waits for a VM; what goes wrong is told when it matters. */
void hf_qmp_vm_prepare_incoming(struct hf_qmp_vm *vm);
/* For SAVE alone. */
void hf_qmp_vm_lift_bandwidth(struct hf_qmp_vm *vm);
/* Takes both back. */
void hf_qmp_vm_restore(struct hf_qmp_vm *vm);
/* Asks a VMM whose VM runs what loading its state will touch; no error, but maybe nothing. */
void hf_qmp_vm_find_first(struct hf_qmp_vm *vm);
void hf_qmp_vm_forget_first(struct hf_qmp_vm *vm);
/* Begins a save that stops the VM, and returns when it stands still; for a VMM that `stops_itself`. */
int hf_qmp_vm_save_stopping(struct hf_qmp_vm *vm, struct hf_err *err);
/* Goes on with it, or begins one of a VM that stands still. *data: malloc'd. */
int hf_qmp_vm_save(struct hf_qmp_vm *vm, void **data, size_t *length_bytes, struct hf_err *err);
int hf_qmp_vm_load(struct hf_qmp_vm *vm, const void *data, size_t length_bytes, struct hf_err *err);
/* After the end of either; a save that goes on is broken off first. */
void hf_qmp_vm_close_channel(struct hf_qmp_vm *vm);

#endif
