/* SPDX-License-Identifier: Apache-2.0 */
/*
 * send_internal.h - what the parts of `hugeferry send` share.
 *
 * Purpose: send.c is the program's life, send_link.c its links, send_state.c what outlives it: the record,
 * the guardian, and a start that finds a record.
 * Ownership: the struct is the program's; send.c tears it down.
 * Threads: the main thread, except the VM port, which any thread calls.
 * Units: in the names.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_DEPLOY_SEND_INTERNAL_H
#define HF_DEPLOY_SEND_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/source.h"
#include "deploy/control.h"
#include "deploy/guardian.h"
#include "deploy/link_relay.h"
#include "deploy/options.h"
#include "deploy/reconnect.h"
#include "deploy/report.h"
#include "deploy/transports.h"
#include "deploy/waiter.h"
#include "hugemem/guest_memory.h"
#include "hugemem/precopy_memory.h"
#include "kvm/qmp_vm.h"
#include "kvm/vm_record.h"
#include "kvm/vm_recorder.h"
#include "kvm/vmm_process.h"

#define COMMAND		 "send"
#define FLUSH_TIMEOUT_MS 2000u

struct send {
	struct hf_options options;
	char key[HF_VM_KEY_BYTES]; /* names the VM's record */
	struct hf_waiter waiter;
	struct hf_control *control; /* NULL without --qmp */
	const struct hf_scheme *scheme;
	const char *uri;       /* where the destination is */
	char *uri_of_operator; /* NULL, or what uri points to: `migrate` with resume named it */
	struct hf_qmp_vm *vm;  /* NULL when started again: a frozen VMM does not answer */
	struct hf_vmm_process vmm;
	struct hf_ramblocks blocks;
	struct hf_outgoing_memory *memory;
	struct hf_precopy_memory *tracked; /* NULL without --precopy */
	struct hf_link_relay relay;
	void *link;
	_Atomic uint64_t registration_time_ns; /* of its memory; also read by the control thread */
	uint32_t links_before;		       /* that the engine had heard of when this one was started */
	uint8_t session[HF_SESSION_BYTES];
	uint64_t epoch;
	struct hf_reconnect reconnect;
	struct hf_guardian *guardian;
	struct hf_vm_record *record;
	struct hf_vm_recorder *recorder;
	struct hf_source *engine;
	struct hf_source_snapshot snapshot; /* the last one taken */
	uint64_t deadline_ns;		    /* 0: none */
	uint64_t switchover_deadline_ns;    /* 0: none */
	uint64_t postcopy_due_ns;	    /* 0: none */
	bool switchover_noted;
	bool link_told;
	bool pause_told;
	bool release_told;
	bool vmm_ended;
	bool cancel_signalled; /* and not yet done */
	bool stopped;	       /* by a signal while paused: the state is kept for the next start */
	bool made_record;      /* by this program: it may go when nothing has begun */
	bool restarted;	       /* a record was found */
	bool aborted;	       /* and it says that the VM was never given up */
	pthread_t reviver;
	bool reviving;
};

/* ---- send_link.c ---- */

/* The first link of a session. */
int hf_send_connect(struct send *send, struct hf_err *err);
/* Starts the link that was connected. */
int hf_send_start_link(struct send *send, struct hf_err *err);
/* Does the engine want a link that it has not got? */
/* There is a link, and the engine has not heard of it yet. */
bool hf_send_link_comes_up(const struct send *send);
bool hf_send_wants_link(const struct send *send);
/* Closes what was lost, connects again when it is time. */
void hf_send_tend_link(struct send *send);
void hf_send_close_link(struct send *send);
/* When something is to be done about the link; 0: nothing. */
uint64_t hf_send_link_due_ns(const struct send *send);

/* ---- send_precopy.c ---- */

/* With --precopy: the VM's writes are tracked from here on, until the end. */
int hf_send_track(struct send *send, const struct hf_qmp_vm_block *backends, uint32_t count,
		  struct hf_err *err);
void hf_send_untrack(struct send *send);
struct hf_source_memory hf_send_memory_port(struct send *send);
/* --postcopy-after counts from here. */
void hf_send_begin_precopy(struct send *send);
void hf_send_tend_precopy(struct send *send);
/* For the control socket. */
int hf_send_control_postcopy(void *opaque, struct hf_err *err);
int hf_send_control_set(void *opaque, const struct hf_control_parameters *parameters, struct hf_err *err);
void hf_send_control_get(void *opaque, struct hf_control_parameters *parameters);

/* ---- send_release.c ---- */

/* Where --release-ram is asked for: what it needs, or why it cannot be. */
int hf_send_allow_release(struct send *send, struct hf_err *err);
int hf_send_start_release(struct send *send, struct hf_err *err);
/* Does the destination say what it has placed? */
int hf_send_check_release(struct send *send, struct hf_err *err);
/* Once, if pages could not be given back. */
void hf_send_tell_release(struct send *send);

/* ---- send_control.c ---- */

struct hf_report_context hf_send_report_context(const struct send *send);
int hf_send_open_control(struct send *send, struct hf_err *err);
/* The engine is there. */
void hf_send_answer_queries(struct send *send);

/* ---- send_state.c ---- */

int hf_send_guard(struct send *send, struct hf_err *err);
/* A record of a program before this one, if there is one: send->restarted. */
int hf_send_find_record(struct send *send, struct hf_err *err);
/* A new one, for the session. */
int hf_send_make_record(struct send *send, const struct hf_qmp_vm_block *blocks, uint32_t count,
			struct hf_err *err);
int hf_send_open_recorded_memory(struct send *send, struct hf_err *err);
/* What the VM is driven by: guarded from STOP on, or revived where it was frozen by another program. */
struct hf_vm hf_send_vm_port(struct send *send);
/* Nothing is needed of it any more. */
void hf_send_forget(struct send *send);
void hf_send_close_state(struct send *send);

#endif
