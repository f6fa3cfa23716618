/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - what the files of this folder share. Not for other folders.
 *
 * Purpose: the structures of a connection and the functions that cross files. The theory stands in rdma.c.
 * Ownership: struct hf_rdma owns every object of verbs. Queue pairs go before registrations, registrations
 * before link_down(), everything else in rdma_free().
 * Threads: fields are grouped by owner. Lock order: page_channel.lock, then the life's.
 * Units: milliseconds of CLOCK_MONOTONIC in _ms, bytes in _bytes.
 * Errors: 0 or -errno; texts name the URI or the peer.
 */
#ifndef HF_TRANSPORT_RDMA_INTERNAL_H
#define HF_TRANSPORT_RDMA_INTERNAL_H

#include <infiniband/verbs.h>
#include <netdb.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/channel_load.h"
#include "core/err.h"
#include "core/host_port.h"
#include "core/link_life.h"
#include "core/lock.h"
#include "core/opening.h"
#include "core/outbox.h"
#include "core/transport.h"
#include "core/wire.h"
#include "transport-rdma/rdma.h"

#define RDMA_CHANNEL_FETCHES_MAX 64u
#define RDMA_SEND_QUEUE_MAX	 64u /* of a page channel: pieces of fetches on their way */
#define RDMA_READ_DEPTH_MAX	 16u
#define RDMA_READ_MIN_BYTES	 (1u << 20) /* what an adapter must be able to read at once */
#define RDMA_SILENCE_MAX_MS	 30000u
#define RDMA_SIGN_OF_LIFE_MS	 5000u
#define RDMA_DRAIN_MAX_MS	 10000u
#define RDMA_NAME_BYTES		 320
#define RDMA_REGION_MAX_BYTES	 (8ull << 30) /* registered at once: closing does not wait for more */
#define RDMA_PRIVATE_MAX_BYTES	 256
_Static_assert(HF_RDMA_SESSION_BYTES == HF_WIRE_SESSION_BYTES, "one session identifier");

/* ---- the protocol of its own (wire.c) --------------------------------------------------------- */

#define RDMA_HELLO_BYTES	  44
#define RDMA_REFUSAL_TEXT_BYTES	  100 /* what fits beside the reply into a reject of every fabric */
#define RDMA_MESSAGE_HEADER_BYTES 8
#define RDMA_MESSAGE_BYTES	  16384u /* header included */
#define RDMA_CREDITS		  32u	 /* messages either side has room for */
#define RDMA_INLINE_BYTES	  256u /* of a control message that go with its request, if the adapter can */
#define RDMA_KEYS_HEADER_BYTES	  8
#define RDMA_KEY_BYTES		  32
#define RDMA_KEYS_MAX		  65536u /* of all blocks */
#define RDMA_KEYS_PER_MESSAGE                                                                                \
	((RDMA_MESSAGE_BYTES - RDMA_MESSAGE_HEADER_BYTES - RDMA_KEYS_HEADER_BYTES) / RDMA_KEY_BYTES)

enum rdma_message_kind {
	RDMA_MESSAGE_NOTHING = 0, /* credits, a sign of life */
	RDMA_MESSAGE_FRAMES = 1,  /* the next bytes of the control channel */
	RDMA_MESSAGE_WANT_KEYS = 2,
	RDMA_MESSAGE_KEYS = 3,
};

struct rdma_message_header {
	enum rdma_message_kind kind;
	uint32_t credits; /* that the receiver has again */
	uint32_t length_bytes;
};

/* A part of a block that the destination may read. */
struct rdma_key {
	uint32_t block;
	uint32_t rkey;
	uint64_t address;
	uint64_t offset_bytes, length_bytes; /* in the block */
};

struct rdma_keys {
	bool last;
	uint32_t count;
	struct rdma_key key[RDMA_KEYS_PER_MESSAGE];
};

#define RDMA_PREFIX "rdma:"
ssize_t rdma_encode_hello(const struct hf_wire_hello *hello, uint8_t *buffer, size_t bytes);
/* What came may be longer: fabrics pad with zeros. */
int rdma_decode_hello(const uint8_t *buffer, size_t bytes, struct hf_wire_hello *hello, struct hf_err *err);
void rdma_encode_header(const struct rdma_message_header *header,
			uint8_t buffer[static RDMA_MESSAGE_HEADER_BYTES]);
int rdma_decode_header(const uint8_t *buffer, size_t bytes, struct rdma_message_header *header,
		       struct hf_err *err);
/* Returns the length. */
size_t rdma_encode_keys(const struct rdma_keys *keys, uint8_t *buffer);
int rdma_decode_keys(const uint8_t *buffer, size_t bytes, struct rdma_keys *keys, struct hf_err *err);

/* ---- verbs (verbs.c) -------------------------------------------------------------------------- */

/* What an adapter can do, as far as it matters here. */
struct rdma_limits {
	uint32_t read_max_bytes;
	uint8_t read_depth_out, read_depth_in; /* READs at once: asked by this side, answered by it */
	uint64_t region_max_bytes;	       /* a power of two */
};

/* A copy of what a connection manager's event says. */
struct rdma_cm_happened {
	enum rdma_cm_event_type type;
	struct rdma_cm_id *id;
	int status;
	uint8_t initiator_depth, responder_resources;
	uint8_t private_data[RDMA_PRIVATE_MAX_BYTES];
	size_t private_bytes;
};

struct rdma_region {
	uintptr_t address;
	uint64_t length_bytes;
	struct ibv_mr *mr;
};

struct rdma_regions {
	struct rdma_region *region; /* in the order they were registered */
	uint32_t count;
};

uint64_t rdma_now_ms(void);
uint64_t rdma_now_ns(void);
/* -ENODEV and what to check, if this host has no device. */
int rdma_check_device(const char *uri, struct hf_err *err);
int rdma_open_events(struct rdma_event_channel **events, const char *uri, struct hf_err *err);
/* 1: *happened; 0: the deadline has passed (0: do not wait); -errno. */
int rdma_next_event(struct rdma_event_channel *events, uint64_t deadline_ms,
		    struct rdma_cm_happened *happened);
/* "rdma:192.0.2.1:4444", "rdma:[2001:db8::1]:4444". */
void rdma_address_name(const struct sockaddr *address, char name[static RDMA_NAME_BYTES]);
/* Those of HOST; the caller frees them. */
int rdma_resolve(const char *uri, const struct hf_host_port *parsed, bool to_listen, struct addrinfo **found,
		 struct hf_err *err);
int rdma_find_limits(struct ibv_context *context, uint8_t port, struct rdma_limits *limits,
		     struct hf_err *err);
/* Explains a failed completion; a flushed one explains nothing by itself. */
void rdma_explain_completion(enum ibv_wc_status status, const char *name, const char *channel,
			     struct hf_err *err);
/* Blocks; looks between two pieces whether the link has ended: -ECANCELED. */
int rdma_register(struct ibv_pd *pd, const struct rdma_limits *limits, void *address, uint64_t length_bytes,
		  int access, const struct hf_link_life *life, struct rdma_regions *regions,
		  struct hf_err *err);
void rdma_deregister_all(struct rdma_regions *regions);
const struct rdma_region *rdma_find_region(const struct rdma_regions *regions, const void *address,
					   uint64_t length_bytes);

/* ---- the way to the destination (route.c) ------------------------------------------------------ */

struct rdma_uri {
	struct hf_host_port address;
	int gid_index, mtu_bytes, service_level, type_of_service; /* -1: not asked for */
};

struct ibv_path_data;

/* Form only. */
int rdma_uri_parse(const char *uri, struct rdma_uri *parsed, struct hf_err *err);
bool rdma_uri_asks(const struct rdma_uri *parsed);
bool rdma_uri_changes_path(const struct rdma_uri *parsed);
/* Before a route is looked for. */
int rdma_set_type_of_service(struct rdma_cm_id *id, const struct rdma_uri *wished);
/* Can the device that was found do it at all? */
int rdma_check_wishes(const struct rdma_cm_id *id, const struct rdma_uri *wished, const char *uri,
		      struct hf_err *err);
/* 1: *source is where to connect from, for the GID that is wished; 0: it is that one, or any will do. */
int rdma_source_of_gid(const struct rdma_cm_id *id, const struct rdma_uri *wished, const char *uri,
		       struct sockaddr_storage *source, struct hf_err *err);
/* What an id's route would be, with what is wished. */
void rdma_change_path(const struct rdma_cm_id *id, const struct rdma_uri *wished,
		      struct ibv_path_data *changed);
/* Has a connected queue pair what was asked for? */
int rdma_check_granted(struct rdma_cm_id *id, const struct rdma_uri *wished, const char *uri,
		       struct hf_err *err);

/* A queue of completions and how a thread waits for it. */
struct rdma_completions {
	struct ibv_comp_channel *channel;
	struct ibv_cq *cq;
};

int rdma_completions_open(struct rdma_completions *completions, struct ibv_context *context, uint32_t entries,
			  struct hf_err *err);
void rdma_completions_close(struct rdma_completions *completions);
/* To be called when the channel's descriptor is readable. */
void rdma_completions_ack(struct rdma_completions *completions);

/* ---- one connection (rdma.c) ------------------------------------------------------------------ */

enum rdma_role { RDMA_ROLE_SOURCE, RDMA_ROLE_DESTINATION };

struct posted_fetch {
	struct hf_fetch fetch;
	uint32_t posted_bytes;
	uint32_t landed_bytes;
	struct ibv_mr *mr; /* of this landing alone; NULL: it is in lent memory */
	uint32_t lkey;
};

struct page_channel {
	/* Set at creation and while opening. */
	struct hf_rdma *rdma;
	struct hf_channel_load load; /* its counts: under lock, read without it to choose a channel */
	uint32_t index;
	struct rdma_cm_id *id;
	/* Destination. hf_rdma_start's, then the control thread's. */
	pthread_t thread;
	bool thread_runs;
	/* The channel's thread's own. */
	struct rdma_completions completions;
	uint64_t spin_ns;
	/* Under lock. */
	struct hf_lock lock;
	bool closed;		 /* nothing may be appended or posted */
	uint32_t head, unposted; /* of the FIFO: fetches before `unposted` are posted whole */
	uint32_t pieces;	 /* on their way */
	uint32_t piece_bytes[RDMA_SEND_QUEUE_MAX]; /* of each, in the order of posting */
	uint32_t piece_head;
	struct posted_fetch fifo[RDMA_CHANNEL_FETCHES_MAX];
};

/* The control thread's own: its queue pair's buffers, and what may be sent. */
struct rdma_control {
	struct rdma_completions completions;
	uint8_t *buffers; /* received, then sent ones */
	struct ibv_mr *mr;
	uint32_t credits;      /* messages the peer has room for */
	uint32_t owed;	       /* messages this side has room for again and has not said */
	uint32_t sends;	       /* on their way */
	uint32_t next_send;    /* buffer; they complete in order */
	uint32_t inline_bytes; /* a message of so many goes with its request */
	uint64_t heard_ms, sent_ms;
	bool want_sent;
	uint32_t keys_sent; /* of hf_rdma.own_keys */
	uint8_t *inbox;
	size_t inbox_bytes;
	size_t first_sent_bytes; /* of the outbox's first frame */
	bool broken;		 /* no frame can be told any more */
};

struct hf_rdma {
	/* Set at creation and while opening. */
	enum rdma_role role;
	char name[RDMA_NAME_BYTES]; /* of the peer, for texts */
	uint8_t session[HF_RDMA_SESSION_BYTES];
	uint32_t channel_count;
	struct page_channel *channels; /* urgent first */
	struct hf_link_info info;
	struct rdma_event_channel *cm_events;
	struct ibv_context *context; /* the connection manager's */
	struct ibv_pd *pd;
	struct rdma_limits limits;
	struct rdma_cm_id *control_id;
	int wake_fd;	      /* ends the control thread's poll */
	int down_fd;	      /* readable for good once the link is down */
	uint8_t *probe_block; /* source */
	struct rdma_regions probe_region;
	/* Set by hf_rdma_start(). */
	const struct hf_transport_events *events;
	void *engine;
	pthread_t control_thread;
	struct rdma_control control;
	/* The control thread's: source. */
	pthread_t register_thread;
	bool register_runs;
	bool control_runs;	  /* hf_rdma_start()'s */
	struct hf_link_life life; /* down: down_fd is readable */
	/* Under life.lock; life.changed: something has been sent, keys are known, nobody registers any more.
	 */
	struct hf_outbox outbox;
	bool unsent;			  /* something is queued, or has not arrived there */
	bool lending;			  /* somebody registers; the link's end waits */
	bool lent;			  /* destination */
	bool own_keys_ready;		  /* source: what is to be told is complete */
	_Atomic uint64_t registration_ns; /* read without it */
	struct hf_lent_range *ranges;
	struct rdma_regions regions; /* of lent memory */
	struct rdma_key *own_keys;
	uint32_t range_count, own_key_count;
	/* Destination: written by the control thread, read once the flag is set. */
	struct rdma_key probe_key;
	struct rdma_key *keys;
	uint32_t key_count;
	atomic_bool probe_key_known, keys_known, landings_known;
};

int rdma_new(struct hf_rdma **out, enum rdma_role role, struct hf_err *err);
/* Makes the page channels that were agreed on. */
int rdma_set_terms(struct hf_rdma *rdma, const struct hf_link_info *info, struct hf_err *err);
void rdma_free(struct hf_rdma *rdma); /* no thread runs; NULL and half-built are fine */
/* For both sides: the device that the control channel's id has found. */
int rdma_use_device(struct hf_rdma *rdma, struct rdma_cm_id *id, struct hf_err *err);
/* Makes the queue pair of an id, and posts the receives of the control channel. channel NULL: control. */
int rdma_make_queue_pair(struct hf_rdma *rdma, struct rdma_cm_id *id, struct page_channel *channel,
			 struct hf_err *err);
/* What a connection asks of the other side, and grants it. depth_out, depth_in: READs at once. */
struct rdma_conn_param rdma_conn_param(const void *private_data, size_t private_bytes, uint8_t depth_out,
				       uint8_t depth_in);
struct page_channel *rdma_channel_of(struct hf_rdma *rdma, const struct rdma_cm_id *id);
/* The first caller's reason stays. Never blocks, calls no event. */
void rdma_fail(struct hf_rdma *rdma, const struct hf_err *why);
int rdma_thread_create(pthread_t *thread, const char *name, void *(*function)(void *), void *argument);
void rdma_wake(struct hf_rdma *rdma);
int rdma_options_check(const struct hf_rdma_options *options, struct hf_rdma_options *checked,
		       struct hf_err *err);
void rdma_destroy_control(struct hf_rdma *rdma);

/* ---- messages (messages.c); the control thread's -------------------------------------------- */

/* May one be sent that is more than a sign of life? */
bool rdma_may_send(const struct hf_rdma *rdma);
/* Where the payload of the next one is to be written; RDMA_MESSAGE_BYTES less its header. */
uint8_t *rdma_next_payload(struct hf_rdma *rdma);
/* 0, or the link has been failed and -1. */
int rdma_send_message(struct hf_rdma *rdma, enum rdma_message_kind kind, size_t length_bytes);
/* Gives back what is owed, says that this side lives. */
int rdma_tend_credits(struct hf_rdma *rdma);
/*
 * Takes completions: delivers what was received to rdma_hear(), in order. Returns how many there were, -1:
 * the link has failed. A side that is deaf only counts.
 */
int rdma_take_messages(struct hf_rdma *rdma, bool deaf);
/* control.c's. 0, or the link has been failed and -1. */
int rdma_hear(struct hf_rdma *rdma, enum rdma_message_kind kind, const uint8_t *payload, size_t length_bytes);
int rdma_violation(struct hf_rdma *rdma, const struct hf_err *why);
void rdma_fail_adapter(struct hf_rdma *rdma);

/* ---- channels (control.c, fetch.c, lend.c) ---------------------------------------- */

void *rdma_control_main(void *rdma);
int rdma_control_send(struct hf_rdma *rdma, uint64_t epoch, uint32_t type, const void *payload,
		      size_t length_bytes);

void *rdma_fetch_main(void *page_channel);
int rdma_fetch_post(struct hf_rdma *rdma, const struct hf_fetch *fetch);
/* Posts what waits for keys. */
void rdma_fetch_pump_all(struct hf_rdma *rdma);

#define RDMA_CHANNEL_NAME_BYTES 32
void rdma_channel_name(const struct page_channel *channel, char name[static RDMA_CHANNEL_NAME_BYTES]);

/* Source: registers in a thread of its own, then wakes the control thread. */
int rdma_lend_begin(struct hf_rdma *rdma);
/* Destination: keys of the source; checked. */
int rdma_lend_take_keys(struct hf_rdma *rdma, const struct rdma_keys *keys, struct hf_err *err);
/* The link is down: nobody registers any more, and nothing is registered. */
void rdma_lend_end(struct hf_rdma *rdma);

#endif
