/* SPDX-License-Identifier: Apache-2.0 */
/*
 * receive_internal.h - what the parts of `hugeferry receive` share.
 *
 * Purpose: receive.c is the program's life, receive_link.c its listener and links, receive_attach.c its way
 * to the VMM's memory, receive_state.c what outlives it: the record, the kept maps, and a start that finds
 * them.
 * Ownership: the struct is the program's; receive.c tears it down.
 * Threads: the main thread, except the callbacks of the ports.
 * Units: in the names.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_DEPLOY_RECEIVE_INTERNAL_H
#define HF_DEPLOY_RECEIVE_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "core/destination.h"
#include "deploy/control.h"
#include "deploy/link_relay.h"
#include "deploy/options.h"
#include "deploy/progress.h"
#include "deploy/reconnect.h"
#include "deploy/report.h"
#include "deploy/transports.h"
#include "deploy/waiter.h"
#include "hugemem/guest_memory.h"
#include "hugemem/kept_pages.h"
#include "kvm/qmp_vm.h"
#include "kvm/vm_record.h"
#include "kvm/vm_recorder.h"
#include "kvm/vmm_process.h"

#define COMMAND		 "receive"
#define FLUSH_TIMEOUT_MS 2000u

struct receive {
	struct hf_options options;
	char key[HF_VM_KEY_BYTES]; /* names the VM's record and kept maps */
	struct hf_waiter waiter;
	struct hf_control *control; /* NULL without --qmp */
	struct hf_progress progress;
	const struct hf_scheme *scheme;
	const char *uri; /* to listen at */
	char *uri_owned; /* NULL, or what uri points to */
	struct hf_qmp_vm *vm;
	struct hf_vmm_process vmm;
	struct hf_attach_client *attach;
	struct hf_ramblocks blocks;
	struct hf_incoming_memory *memory;
	uint32_t *vcpu_threads;
	uint32_t vcpus;
	void *listener;
	struct hf_link_relay relay;
	void *link;
	_Atomic uint64_t registration_time_ns; /* of its landings; also read by the control thread */
	_Atomic bool landings_ready;
	bool link_lent;	       /* the main thread's: of a link that is not the first */
	uint32_t links_before; /* that the engine had heard of when this one was started */
	uint8_t session[HF_SESSION_BYTES];
	uint64_t epoch; /* of the last link; 0 after a new start: any may come */
	struct hf_reconnect reconnect;
	struct hf_vm_record *record;
	struct hf_vm_recorder *recorder;
	struct hf_kept_pages *kept;
	enum hf_record found; /* by a program started again */
	char *settings_left;  /* of the VMM, as a program that has ended found them; NULL: none */
	bool made_files;      /* by this program: they may go when nothing has begun */
	bool restarted, vmm_lives;
	bool thawed; /* its VMM, which a program before this one had frozen */
	bool memory_begun, memory_told;
	struct hf_err memory_err; /* why it was not begun */
	bool hold_background;
	bool trouble_told;
	bool link_told;
	bool pause_told;
	bool vmm_ended;
	bool cancel_asked;     /* over the control socket, while there was no engine */
	bool cancel_signalled; /* and not yet done */
	bool poison;	       /* what is missing is to be poisoned: no source is awaited any more */
	bool stopped;	       /* by a signal while paused: the state is kept for the next start */
	struct hf_destination *engine;
	struct hf_destination_snapshot snapshot; /* the last one taken */
};

/* ---- receive_link.c ---- */

int hf_receive_listen(struct receive *receive, struct hf_err *err);
/* To listen at from the next time on; copied. */
int hf_receive_take_uri(struct receive *receive, const char *uri, struct hf_err *err);
/* The first link: whoever has come as a whole. */
int hf_receive_start_link(struct receive *receive, struct hf_err *err);
/* Lends the landings to the link, where it wants that. `wait`: until the source has done the same. */
int hf_receive_lend(struct receive *receive, bool wait, struct hf_err *err);
/* There is a link, and the engine has not heard of it yet. */
bool hf_receive_link_comes_up(const struct receive *receive);
bool hf_receive_wants_link(const struct receive *receive);
/* Closes what was lost and listens again. */
void hf_receive_tend_link(struct receive *receive);
/* Somebody is at the listener while a link is wanted. */
void hf_receive_take_link(struct receive *receive);
void hf_receive_close_link(struct receive *receive);
void hf_receive_close_listener(struct receive *receive);

/* ---- receive_control.c ---- */

struct hf_report_context hf_receive_report_context(const struct receive *receive);
int hf_receive_open_control(struct receive *receive, struct hf_err *err);
/* The engine is there. */
void hf_receive_answer_queries(struct receive *receive);

/* ---- receive_poison.c ---- */

/* The operator has said so: over the control socket, or with a new start. -EPERM with the reason. */
int hf_receive_poison(struct receive *receive, struct hf_err *err);
/* If it was started for that: is there a VM to poison pages of? */
int hf_receive_check_poison(struct receive *receive, struct hf_err *err);
/* Poisons as soon as the VM has been told to run (again). */
void hf_receive_tend_poison(struct receive *receive);
/* Before each page, and after the last (settled), in a worker of the memory port. */
void hf_receive_note_poison(void *opaque, bool settled);

/* ---- receive_blocks.c ---- */

/*
 * The blocks of memory that are to come, in the order of the attached regions: named as the VMM's memory
 * backends are, or, of a program started again, as the kept maps say, since the VMM may not answer then.
 */
int hf_receive_learn_blocks(struct receive *receive, struct hf_err *err);

/* ---- receive_attach.c ---- */

/* The VMM's memory: from its attach library, or, of one that may not run yet, past it. */
int hf_receive_attach(struct receive *receive, struct hf_err *err);
/* The VM runs; the library hears who has the memory, if it has not. In hf-vm. */
void hf_receive_join(struct receive *receive);

/* ---- receive_state.c ---- */

/* A record of a program before this one, if there is one: receive->restarted. */
int hf_receive_find_record(struct receive *receive, struct hf_err *err);
/* New ones, for the session that was accepted. */
int hf_receive_make_record(struct receive *receive, struct hf_err *err);
/* The kept maps of the program before this one, ... */
int hf_receive_open_kept(struct receive *receive, struct hf_err *err);
/* ... which must be about this VMM and these blocks. */
int hf_receive_check_kept(const struct receive *receive, struct hf_err *err);
/* The vCPUs' threads, from the record: the VMM may not answer. */
int hf_receive_recall_vcpus(struct receive *receive, struct hf_err *err);
/* Of a VM whose VMM has ended: nobody else can be asked. */
int hf_receive_recall_blocks(struct receive *receive, struct hf_err *err);
/* Nothing is needed of them any more. */
void hf_receive_forget(struct receive *receive);
/* settings_left, with a VMM that answers; only then is the record gone that has them. */
int hf_receive_put_settings_back(struct receive *receive, struct hf_err *err);
void hf_receive_close_state(struct receive *receive);

#endif
