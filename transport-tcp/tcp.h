/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp.h - the transport over stream sockets: `tcp:HOST:PORT` and `unix:PATH`.
 *
 * Purpose: one control channel and, per class, page channels, each a socket of its own. Implements
 * the transport port (core/transport.h). The theory stands in tcp.c.
 *
 * Ownership: a connection belongs to its creator; `events` and `engine` outlive it. hf_tcp_close() joins
 * every thread: afterwards no event comes any more.
 *
 * Threads: connect, accept and flush block (bounded by the timeouts) and belong to the caller's thread;
 * everything else as core/transport.h says. hf_tcp_close() and hf_tcp_flush() must not be called from an
 * event (rule f); hf_tcp_shutdown() may: it only makes the link go down.
 *
 * Units: milliseconds in _ms, bytes in _bytes.
 *
 * Errors: 0 or -errno with a line that names the URI. The port's send() returns -EMSGSIZE for a payload over
 * HF_WIRE_FRAME_MAX_BYTES, -EINVAL for a type wire.h does not know, -ENOBUFS when more than the largest
 * device state and 64 MiB wait for a peer that does not read, -ENOTCONN when the link is down, not yet up, or
 * of another epoch.
 */
#ifndef HF_TRANSPORT_TCP_TCP_H
#define HF_TRANSPORT_TCP_TCP_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/transport.h"

struct hf_tcp;		/* one connection: all channels of one epoch */
struct hf_tcp_listener; /* a bound address */

#define HF_TCP_SESSION_BYTES 16

struct hf_tcp_options {
	uint32_t channels[HF_FETCH_CLASSES]; /* page channels wanted; the smaller of both sides is taken */
	uint32_t timeout_ms;		     /* for each step of opening a connection; 0 = default (10 s) */
	/* connect only */
	uint8_t session[HF_TCP_SESSION_BYTES];
	uint64_t epoch; /* 1 for the first; above 1 continues the session, which both sides must speak */
	bool check;	/* a session that only measures the link */
	bool release;	/* offers that the destination says what it has placed */
	bool precopy;	/* the source means to move pages in rounds before its VM stops */
};

/* Is this a URI of this transport ("tcp:" or "unix:")? */
bool hf_tcp_handles(const char *uri);
/* Checks the form of a URI without touching the network. */
int hf_tcp_check_uri(const char *uri, struct hf_err *err);

/*
 * Source: connects the control channel, then the page channels, and starts their threads. Afterwards
 * link_up() is delivered from the control thread, never before hf_tcp_start().
 *
 * The class of an error says whether the same call, with a higher epoch, may succeed later:
 *   HF_ERR_LINK   yes: nobody listens, no answer in time, the connection broke, the destination is busy; and,
 *                 when a session is continued, every refusal that is not of the session itself
 *   HF_ERR_PEER   no: the destination does not know the session (any more), or it is another program, or one
 *                 that cannot go on with what was offered
 *   HF_ERR_LOCAL  this host lacks something, or the options are wrong
 */
int hf_tcp_connect(struct hf_tcp **out, const char *uri, const struct hf_tcp_options *options,
		   struct hf_err *err);

/*
 * Destination: binds and listens; a port in use is a clear error. For unix: a stale socket file nobody
 * listens on is replaced, a live one is -EADDRINUSE.
 */
int hf_tcp_listen(struct hf_tcp_listener **out, const char *uri, const struct hf_tcp_options *options,
		  struct hf_err *err);
/* The bound address as a URI to connect to (with the real port when 0 was asked for). */
const char *hf_tcp_listener_uri(const struct hf_tcp_listener *listener);
/* Becomes readable when someone connects; for the caller's poll loop. */
int hf_tcp_listener_fd(const struct hf_tcp_listener *listener);
/*
 * Accepts one whole connection (all channels of one session). A stranger who is not Hugeferry, is silent or
 * drops off is refused with a line and -EPROTO / -ETIMEDOUT when nobody else is connected; the listener stays
 * usable, and strangers do not hold up a source that connects beside them. Connections from a second session
 * are answered HF_WIRE_HELLO_BUSY while one is being accepted. Other failures of this host: -EMFILE etc.
 */
int hf_tcp_accept(struct hf_tcp_listener *listener, struct hf_tcp **out, struct hf_err *err);
/*
 * From now on only a connection that continues this session with an epoch above epoch_min is accepted: a
 * migration whose link was lost waits for its source. The same session with another epoch is answered
 * HF_WIRE_HELLO_SESSION, everybody else (who only wants to measure, too) HF_WIRE_HELLO_BUSY. NULL, as at
 * first: anybody who begins a session; who wants to continue one is answered HF_WIRE_HELLO_SESSION. Belongs
 * to the thread that accepts, between two accepts; whoever has connected and was not heard yet is judged by
 * it.
 */
void hf_tcp_listener_expect(struct hf_tcp_listener *listener, const uint8_t *session, uint64_t epoch_min);
void hf_tcp_listener_close(struct hf_tcp_listener *listener);

/* What the two sides agreed on. Valid until hf_tcp_close(). */
const struct hf_link_info *hf_tcp_info(const struct hf_tcp *tcp);
/* The HF_TCP_SESSION_BYTES that tell this session from others. Valid until hf_tcp_close(). */
const uint8_t *hf_tcp_session(const struct hf_tcp *tcp);
/* The port to give to the engine. Valid until hf_tcp_close(). */
struct hf_transport hf_tcp_transport(struct hf_tcp *tcp);
/* From here on events are delivered; the first is link_up. */
int hf_tcp_start(struct hf_tcp *tcp, const struct hf_transport_events *events, void *engine,
		 struct hf_err *err);
/*
 * Makes the link go down; returns at once. link_down() repeats why, unless the link had failed before; NULL
 * (an orderly end) becomes HF_ERR_CANCELLED. Unfinished fetches end as HF_FETCH_CANCELLED.
 */
void hf_tcp_shutdown(struct hf_tcp *tcp, const struct hf_err *why);
/*
 * Waits until the peer's host has every control message already queued, at most timeout_ms (so that a last
 * FAIL or FINISH reaches the peer even when hf_tcp_close() follows at once). -ETIMEDOUT, -ENOTCONN.
 */
int hf_tcp_flush(struct hf_tcp *tcp, uint32_t timeout_ms);
/* Shuts down, joins all threads, frees. NULL is fine. */
void hf_tcp_close(struct hf_tcp *tcp);

#endif
