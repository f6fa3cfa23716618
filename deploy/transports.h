/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transports.h - which transport serves which URI.
 *
 * Purpose: transports.c is the one file that knows transports by name. The subcommands only see this table's
 * operations, so that a new scheme is one more row there.
 * Ownership: a link and a listener belong to their creator, as the transport's own header says.
 * Threads: as the transport's own header says; the table is constant.
 * Units: milliseconds in _ms.
 * Errors: 0 or -errno with a line that names the URI.
 */
#ifndef HF_DEPLOY_TRANSPORTS_H
#define HF_DEPLOY_TRANSPORTS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/transport.h"

struct hf_link_options {
	uint32_t channels;   /* page channels wanted per class */
	uint32_t timeout_ms; /* for each step of opening; 0 = the transport's default */
	bool check;	     /* connect: the session only measures the link */
	bool release;	     /* connect: offers that the destination says what it has placed */
	bool precopy;	     /* connect: rounds of pre-copy are meant */
	/* connect: the session, HF_SESSION_BYTES; NULL = a fresh one, whose epoch is 1 whatever stands below
	 */
	const uint8_t *session;
	uint64_t epoch; /* connect: 1 for the session's first link, higher for each later one */
};

#define HF_SESSION_BYTES 16

struct hf_scheme {
	const char *name; /* "tcp": what stands before the colon */
	int (*check_uri)(const char *uri, struct hf_err *err);
	int (*connect)(void **link, const char *uri, const struct hf_link_options *options,
		       struct hf_err *err);
	int (*listen)(void **listener, const char *uri, const struct hf_link_options *options,
		      struct hf_err *err);
	const char *(*listener_uri)(const void *listener);
	int (*listener_fd)(const void *listener);
	int (*accept)(void *listener, void **link, struct hf_err *err);
	/* Accept only who continues this session with a higher epoch; NULL = anybody who begins one. */
	void (*expect)(void *listener, const uint8_t *session, uint64_t epoch_min);
	void (*listener_close)(void *listener);		      /* NULL is fine */
	const struct hf_link_info *(*info)(const void *link); /* what both sides agreed on */
	const uint8_t *(*session)(const void *link);	      /* HF_SESSION_BYTES; valid until close */
	struct hf_transport (*transport)(void *link);
	int (*start)(void *link, const struct hf_transport_events *events, void *engine, struct hf_err *err);
	int (*flush)(void *link, uint32_t timeout_ms);
	void (*close)(void *link); /* joins its threads; NULL is fine */
	/*
	 * NULL: the transport needs no memory lent. Else, once a link: on the source before start, block i is
	 * ranges[i]; on the destination when the landings are there, in any thread. `wait`: until both sides
	 * have made it ready.
	 */
	int (*lend)(void *link, const struct hf_lent_range *ranges, uint32_t count, bool wait,
		    struct hf_err *err);
	uint64_t (*lent_ns)(const void *link); /* how long that took on this side; NULL as lend */
	void (*shutdown)(void *link); /* makes it go down, which ends a lend() that waits; NULL as lend */
};

/* The transport of a URI whose form has been checked. -EINVAL with the schemes there are. */
int hf_scheme_of(const char *uri, const struct hf_scheme **scheme, struct hf_err *err);

#endif
