/* SPDX-License-Identifier: Apache-2.0 */
/*
 * transport.h - port: what the engines need from a link, and what a link tells the engines.
 *
 * Purpose: the destination pulls. Its engine asks for chunks of pages (fetch); the transport delivers each
 * chunk's bytes straight at the landing address and says so once (fetch_done). Both engines exchange
 * control messages (send / message; the payloads are those of wire.h). The source's engine is asked where
 * the bytes of a chunk are (serve); a transport with one-sided reads never asks.
 *
 * Ownership: a landing belongs to the transport from a successful fetch() until its fetch_done(). A message
 * passed to send() is copied. Payloads passed to message() belong to the transport and end with the call.
 * Threads: the operations may be called from any thread, several at once; they never block on the
 * peer and never call an event (rule a). Events come from the transport's own threads, several at once.
 * Every fetch() that returned 0 ends in exactly one fetch_done() (rule c); link_down() comes once for each
 * link_up(), after the last fetch_done(), when nothing can touch a landing any more (rule d). Each event
 * carries the epoch of the connection it belongs to (rule e).
 * Units: bytes.
 * Errors: operations return 0 or -errno; after a failed fetch() no fetch_done() follows.
 */
#ifndef HF_CORE_TRANSPORT_H
#define HF_CORE_TRANSPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

enum hf_fetch_class {
	HF_FETCH_URGENT = 0,	 /* a thread waits for this page */
	HF_FETCH_BACKGROUND = 1, /* nobody waits */
	HF_FETCH_CLASSES = 2,
};

/* One chunk. It never crosses a page. */
struct hf_fetch {
	uint64_t id;	/* the engine's; the transport hands it back in fetch_done */
	uint64_t epoch; /* the connection this fetch belongs to */
	uint32_t block; /* index in the registry both sides agreed on */
	uint32_t length_bytes;
	uint64_t offset_bytes; /* in the block */
	enum hf_fetch_class class;
	void *landing;
};

enum hf_fetch_status {
	HF_FETCH_OK = 0,
	HF_FETCH_FAILED,    /* the link failed before the bytes were whole */
	HF_FETCH_CANCELLED, /* the transport was told to stop */
};

struct hf_fetch_done {
	uint64_t id;
	uint64_t epoch;
	enum hf_fetch_status status;
	bool zero; /* all bytes are zero; the landing was not written */
};

/*
 * Memory that a transport with one-sided reads is lent for the time of a link: on the source what chunks are
 * read from, on the destination what landings lie in.
 */
struct hf_lent_range {
	void *address;
	uint64_t length_bytes;
};

struct hf_transport_ops {
	/* Destination: posts one fetch. -EAGAIN: class is at its capacity. -ENOTCONN: the link is down. */
	int (*fetch)(void *self, const struct hf_fetch *fetch);
	/* Both: queues one control message (type and payload of wire.h). */
	int (*send)(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t length_bytes);
};

struct hf_transport {
	const struct hf_transport_ops *ops;
	void *self;
};

/* What a new connection offers. */
struct hf_link_info {
	uint64_t epoch;				    /* 1 for the first connection, then rising */
	uint32_t version;			    /* protocol version both sides speak */
	uint64_t features;			    /* features both sides speak */
	uint32_t channels[HF_FETCH_CLASSES];	    /* page channels per class */
	uint32_t capacity_chunks[HF_FETCH_CLASSES]; /* fetches the transport holds at once, per class */
	bool one_sided;				    /* the source is not asked for chunks (serve) */
	const char *name;			    /* "tcp", "unix", ...; static */
};

/* A chunk the peer asks the source for, as it came off the wire, unchecked. */
struct hf_serve_request {
	uint64_t epoch;
	uint64_t offset_bytes;
	uint32_t block;
	uint32_t length_bytes;
	enum hf_fetch_class class;
};

struct hf_serve_reply {
	const void *bytes; /* valid until the source's link_down(); NULL when zero */
	bool zero;
};

struct hf_transport_events {
	void (*link_up)(void *engine, const struct hf_link_info *info);
	void (*link_down)(void *engine, uint64_t epoch, const struct hf_err *why);
	void (*message)(void *engine, uint64_t epoch, uint32_t type, const void *payload,
			size_t length_bytes);
	/* Destination only. */
	void (*fetch_done)(void *engine, const struct hf_fetch_done *done);
	/*
	 * Source only: where the bytes of a chunk are. An error is a violation by the peer, or this side
	 * cannot read them; the transport closes the link with it.
	 */
	int (*serve)(void *engine, const struct hf_serve_request *request, struct hf_serve_reply *reply,
		     struct hf_err *err);
};

#endif
