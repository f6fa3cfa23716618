/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rdma.h - the transport over verbs: `rdma:HOST:PORT`.
 *
 * Purpose: reliable connected queue pairs, one for control and some for pages of each class. The destination
 * reads pages out of the source's memory (RDMA READ); the source's CPU has no part in it. Implements the
 * transport port (core/transport.h). The theory stands in rdma.c.
 *
 * Ownership: a connection belongs to its creator; `events`, `engine` and lent memory outlive it.
 * hf_rdma_close() joins every thread and takes every registration back: afterwards no event comes and no
 * adapter, of this host or another, can touch the memory any more. Both are so already when link_down() is
 * told.
 *
 * Threads: connect, accept, lend and flush block and belong to the caller's thread; everything else as
 * core/transport.h says. hf_rdma_close() and hf_rdma_flush() must not be called from an event (rule f).
 *
 * Units: milliseconds in _ms, bytes in _bytes.
 *
 * Errors: 0 or -errno with a line that names the URI. Those of the port's operations are tcp.h's.
 */
#ifndef HF_TRANSPORT_RDMA_RDMA_H
#define HF_TRANSPORT_RDMA_RDMA_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/transport.h"

struct hf_rdma;		 /* one connection: all queue pairs of one epoch */
struct hf_rdma_listener; /* a bound address */

#define HF_RDMA_SESSION_BYTES 16

struct hf_rdma_options {
	uint32_t channels[HF_FETCH_CLASSES]; /* page channels wanted; the smaller of both sides is taken */
	uint32_t timeout_ms;		     /* for each step of opening a connection; 0 = default (10 s) */
	/* connect only */
	uint8_t session[HF_RDMA_SESSION_BYTES];
	uint64_t epoch; /* 1 for the first; above 1 continues the session */
	bool check;	/* a session that only measures the link */
	bool precopy;	/* pages are meant to move in rounds before the VM stops */
};

/*
 * Checks the form of a URI without touching an adapter. To connect, options may follow behind '?', with '&'
 * between: gid-index=N, mtu=BYTES, sl=N, tos=N.
 */
int hf_rdma_check_uri(const char *uri, struct hf_err *err);

/* Source: connects control, then pages. The class of an error says what it says in tcp.h. */
int hf_rdma_connect(struct hf_rdma **out, const char *uri, const struct hf_rdma_options *options,
		    struct hf_err *err);

/* Destination: binds and listens. -ENODEV with what to check where the host has no RDMA device. */
int hf_rdma_listen(struct hf_rdma_listener **out, const char *uri, const struct hf_rdma_options *options,
		   struct hf_err *err);
/* The bound address as a URI (with the real port when 0 was asked for). */
const char *hf_rdma_listener_uri(const struct hf_rdma_listener *listener);
/* Becomes readable when someone connects; for the caller's poll loop. */
int hf_rdma_listener_fd(const struct hf_rdma_listener *listener);
/* Accepts one whole connection. Who does not belong to it is refused; the listener stays usable. */
int hf_rdma_accept(struct hf_rdma_listener *listener, struct hf_rdma **out, struct hf_err *err);
/* Only who continues this session; NULL: anybody who begins one. As in tcp.h. */
void hf_rdma_listener_expect(struct hf_rdma_listener *listener, const uint8_t *session, uint64_t epoch_min);
void hf_rdma_listener_close(struct hf_rdma_listener *listener); /* NULL is fine */

/*
 * Once for each connection. The ranges are copied.
 *
 * Source: block i of the registry is ranges[i]. Before hf_rdma_start(). The memory is registered, for
 * reading only, when the destination asks for it, and no byte of it can be read before that.
 *
 * Destination: landings will be in these ranges. Registers them, asks the source for its blocks, and waits
 * until it has told where they are, if `wait`; so no READY is said before both sides have registered. Else,
 * or on a connection that is not started yet, fetches wait. Landings elsewhere are allowed, and registered
 * for each fetch.
 */
int hf_rdma_lend(struct hf_rdma *rdma, const struct hf_lent_range *ranges, uint32_t count, bool wait,
		 struct hf_err *err);
/* How long registering on this side took; 0: not done. */
uint64_t hf_rdma_registration_ns(const struct hf_rdma *rdma);

/* As in tcp.h. */
const struct hf_link_info *hf_rdma_info(const struct hf_rdma *rdma);
const uint8_t *hf_rdma_session(const struct hf_rdma *rdma);
struct hf_transport hf_rdma_transport(struct hf_rdma *rdma);
int hf_rdma_start(struct hf_rdma *rdma, const struct hf_transport_events *events, void *engine,
		  struct hf_err *err);
void hf_rdma_shutdown(struct hf_rdma *rdma, const struct hf_err *why);
int hf_rdma_flush(struct hf_rdma *rdma, uint32_t timeout_ms);
void hf_rdma_close(struct hf_rdma *rdma); /* NULL is fine */

#endif
