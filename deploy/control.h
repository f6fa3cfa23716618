/* SPDX-License-Identifier: Apache-2.0 */
/*
 * control.h - a migration is looked at and steered while it runs: QMP on a unix socket.
 *
 * Purpose: QEMU's migration commands, with its names, arguments and event, for `send` and `receive`. A
 * program says what it can do; a command that it cannot do is not there (CommandNotFound), nor is a
 * parameter. Ownership: create/destroy; a NULL control does nothing in every function, so that a program
 * without --qmp needs no conditions. Destroy it before what the operations and the query use. Threads:
 * create, run, status, set_query and destroy belong to the program's main thread, and the operations run in
 * it, inside hf_control_run(). The query alone runs in the QMP server's thread, at any time between
 * hf_control_set_query() and hf_control_destroy(): what it reads must not change, or be safe to ask from any
 * thread, as the engines' snapshots are. `wake` is called in the QMP server's thread and must only signal.
 * Units: in the names.
 * Errors: 0 or -errno with text; an operation's text goes to the client as it is.
 */
#ifndef HF_DEPLOY_CONTROL_H
#define HF_DEPLOY_CONTROL_H

#include <jansson.h>
#include <stdint.h>

#include "core/err.h"
#include "core/state.h"

struct hf_control;

enum hf_control_parameter {
	HF_CONTROL_MAX_BANDWIDTH = 1 << 0,
	HF_CONTROL_MAX_POSTCOPY_BANDWIDTH = 1 << 1,
	HF_CONTROL_DOWNTIME_LIMIT = 1 << 2,
};

struct hf_control_parameters {
	unsigned present; /* of enum hf_control_parameter: these are given, the others stay as they are */
	uint64_t max_bandwidth_bytes_per_s;
	uint64_t max_postcopy_bandwidth_bytes_per_s;
	uint64_t downtime_limit_ms; /* at most 2000 s, as in QEMU */
};

/* NULL: the program cannot do it, and the command is not offered. None may block for long: clients wait. */
struct hf_control_ops {
	int (*start_postcopy)(void *opaque, struct hf_err *err);	   /* migrate-start-postcopy */
	int (*pause)(void *opaque, struct hf_err *err);			   /* migrate-pause */
	int (*recover)(void *opaque, const char *uri, struct hf_err *err); /* migrate-recover */
	int (*resume)(void *opaque, const char *uri, struct hf_err *err);  /* migrate, with resume: true */
	int (*cancel)(void *opaque, struct hf_err *err);		   /* migrate_cancel */
	int (*poison_missing)(void *opaque, struct hf_err *err);	   /* x-poison-missing */
	/* migrate-set-parameters and query-migrate-parameters: both or none. */
	int (*set_parameters)(void *opaque, const struct hf_control_parameters *parameters,
			      struct hf_err *err);
	void (*get_parameters)(void *opaque, struct hf_control_parameters *parameters);
};

struct hf_control_config {
	const char *target; /* "unix:PATH"; NULL: no control, *out becomes NULL */
	struct hf_control_ops ops;
	void *opaque;
	unsigned parameters;	    /* of enum hf_control_parameter: those that can be set */
	void (*wake)(void *opaque); /* hf_control_run() is wanted */
	void *wake_opaque;
};

/* The socket has mode 0600; a stale one is replaced, one that is in use is refused (-EADDRINUSE). */
int hf_control_create(struct hf_control **out, const struct hf_control_config *config, struct hf_err *err);
/* Clients that wait get an error. The socket is removed; nobody hears of what happens later. */
void hf_control_destroy(struct hf_control *control);

/*
 * Answers query-migrate from now on: a new reference, or NULL when out of memory. Until then it is answered
 * with {}, as QEMU does when nothing has started. Called a few hundred times a second at most, however often
 * clients ask.
 */
typedef json_t *hf_control_query(void *opaque);
void hf_control_set_query(struct hf_control *control, hf_control_query *query, void *opaque);

/* Runs the operation that a client waits for, if one does. Call it before each wait that `wake` ends. */
void hf_control_run(struct hf_control *control);

/*
 * To be called after each snapshot: sends MIGRATION once for each change since the last call, beginning with
 * none. States that the migration cannot have gone round are told too, though no snapshot showed them.
 */
void hf_control_status(struct hf_control *control, enum hf_status status);

#endif
