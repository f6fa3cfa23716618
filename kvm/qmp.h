/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp.h - the one QMP library: codec, dispatch, errors, client.
 *
 * Purpose: QEMU's machine protocol as the reference VMM (and later the daemon) serves it and as the VM
 * adapter speaks it to QEMU: one JSON object a line, greeting, capabilities negotiation, commands
 * with ids, errors with QEMU's classes, asynchronous events.
 *
 * Ownership: json_t references as said at each function.
 * Threads: a server has one thread of its own; command handlers run in it, events may be emitted from any
 * thread. A client has a reader thread; execute() may be called from any thread and blocks, bounded.
 * Units: milliseconds in _ms.
 * Errors: 0 or -errno with text; everything from the other side is checked (size, depth, types).
 */
#ifndef HF_KVM_QMP_H
#define HF_KVM_QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"

#define HF_QMP_LINE_MAX_BYTES (4u << 20)

/* ---- server ---- */

struct hf_qmp_server;

/*
 * Handles one command. arguments is borrowed, never NULL, always an object. On success returns 0 and sets
 * *result to a new reference (or leaves NULL for {}). On failure returns -errno with err->text as "desc"; the
 * class is DeviceNotFound for -ENODEV, else GenericError. Events it emits reach clients before its
 * reply. A client may be so fast that a handler runs before hf_qmp_server_create() has returned.
 */
typedef int hf_qmp_handler(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err);

struct hf_qmp_command {
	const char *name;
	hf_qmp_handler *handler;
	const char *const *arguments; /* NULL-terminated names it knows; "*name" is optional. NULL: none */
};

struct hf_qmp_server_config {
	const char *socket_path; /* mode 0600; stale replaced, live refused */
	const struct hf_qmp_command
	    *commands; /* ends with a NULL name; qmp_capabilities and query-commands are built in */
	void *opaque;
	const char *package; /* greeting's version.package, e.g. "hugeferry-vmm 0.1" */
};

int hf_qmp_server_create(struct hf_qmp_server **out, const struct hf_qmp_server_config *config,
			 struct hf_err *err);
/*
 * Sends {"event": name, "data": data, "timestamp": ...} to every client past negotiation. On return it lies
 * in each client's socket, unless that is full. Steals data (may be NULL).
 */
void hf_qmp_server_event(struct hf_qmp_server *server, const char *name, json_t *data);
void hf_qmp_server_destroy(struct hf_qmp_server *server); /* not from a handler */

/* ---- client ---- */

struct hf_qmp_client;

/* Called in the reader thread; data is borrowed. at_us: by the VMM's real time; 0: it does not say. */
typedef void hf_qmp_event(void *opaque, const char *name, const json_t *data, uint64_t at_us);

/* target: "qmp:PATH" or a plain path. Connects, reads the greeting, negotiates. */
int hf_qmp_client_connect(struct hf_qmp_client **out, const char *target, hf_qmp_event *on_event,
			  void *opaque, struct hf_err *err);
/*
 * The same without waiting for the greeting: a VMM may be silent for as long as it waits for a page. Commands
 * wait for it, within their time; what is wrong with it they say.
 */
int hf_qmp_client_connect_silent(struct hf_qmp_client **out, const char *target, hf_qmp_event *on_event,
				 void *opaque, struct hf_err *err);
/* Of the process that has the VMM's socket (qmp_owner.h). */
pid_t hf_qmp_client_pid(const struct hf_qmp_client *client);
uid_t hf_qmp_client_uid(const struct hf_qmp_client *client);
const char *hf_qmp_client_path(const struct hf_qmp_client *client);
/*
 * Sends a command and waits for its answer. Steals arguments (may be NULL). *result (may be NULL) gets a new
 * reference. A QMP error is -EREMOTEIO with QEMU's own "desc" in the text, except that CommandNotFound is
 * -ENOSYS; no answer in time is -ETIMEDOUT; not from an event's callback (-EDEADLK).
 */
int hf_qmp_client_execute(struct hf_qmp_client *client, const char *command, json_t *arguments,
			  uint32_t timeout_ms, json_t **result, struct hf_err *err);
/* The client's, while a question waits for its answer. */
struct hf_qmp_pending {
	struct hf_qmp_pending *next;
	json_int_t id;	/* 0: it does not wait */
	json_t *answer; /* once done without failure */
	bool done;
};

/* A command that is sent now and whose end is looked at later; how it ends, as execute() has it. */
struct hf_qmp_question {
	const char *command;
	json_t *arguments; /* stolen by send; may be NULL */
	json_t *result;	   /* a new reference if r is 0 after the wait, else NULL */
	int r;
	struct hf_err err; /* if r < 0 */
	struct hf_qmp_pending pending;
};

/*
 * Sends them all at once; the time is for a silent VMM's greeting. Each must be waited for before it is sent
 * again or goes: await(), which with no time takes what has come and leaves the rest unanswered (-ETIMEDOUT).
 * What is not under way it leaves alone.
 */
void hf_qmp_client_send(struct hf_qmp_client *client, struct hf_qmp_question *questions, uint32_t count,
			uint32_t timeout_ms);
void hf_qmp_client_await(struct hf_qmp_client *client, struct hf_qmp_question *questions, uint32_t count,
			 uint32_t timeout_ms);
/* Sends a command, to be done before whatever is sent next; what becomes of it is not heard. */
int hf_qmp_client_post(struct hf_qmp_client *client, const char *command, struct hf_err *err);
/*
 * Waits until every event that lay in the socket when this was called has been delivered. -EAGAIN: what lies
 * there ends in the middle of a message; -ETIMEDOUT: more and more comes. Not from an event's callback; one
 * caller at a time.
 */
int hf_qmp_client_drain(struct hf_qmp_client *client, uint32_t timeout_ms, struct hf_err *err);
/* Ends pending and later commands with -ECANCELED; for another thread that waits in one. */
void hf_qmp_client_shutdown(struct hf_qmp_client *client);
void hf_qmp_client_destroy(struct hf_qmp_client *client);

#endif
