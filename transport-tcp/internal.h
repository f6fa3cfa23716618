/* SPDX-License-Identifier: Apache-2.0 */
/*
 * internal.h - what the files of this folder share. Not for other folders.
 *
 * Purpose: the structures of a connection and the functions that cross files. The theory stands in tcp.c.
 * Ownership: struct hf_tcp owns its descriptors; they are closed only in tcp_free(), after the joins, so that
 * any thread may shutdown(2) them at any time.
 * Threads: fields are grouped by owner. Lock order: page_channel.lock, then the life's.
 * Units: milliseconds of CLOCK_MONOTONIC in _ms, bytes in _bytes.
 * Errors: 0 or -errno; texts name the URI or the peer's address.
 */
#ifndef HF_TRANSPORT_TCP_INTERNAL_H
#define HF_TRANSPORT_TCP_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

#include "core/channel_load.h"
#include "core/err.h"
#include "core/host_port.h"
#include "core/link_life.h"
#include "core/lock.h"
#include "core/opening.h"
#include "core/outbox.h"
#include "core/transport.h"
#include "core/wire.h"
#include "transport-tcp/tcp.h"

/* Outstanding on one page channel; also what a source answers at once. */
#define TCP_CHANNEL_FETCHES_MAX 64u
#define TCP_SILENCE_MAX_MS	30000u
#define TCP_NAME_BYTES		320
_Static_assert(HF_TCP_SESSION_BYTES == HF_WIRE_SESSION_BYTES, "one session identifier");

/* ---- addresses (uri.c) ------------------------------------------------------------------------ */

struct tcp_uri {
	bool is_unix;
	struct hf_host_port address; /* "" = any host, for listening only */
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

struct tcp_address {
	struct sockaddr_storage storage;
	socklen_t length_bytes;
};

int tcp_uri_parse(const char *uri, struct tcp_uri *parsed, struct hf_err *err);
void tcp_unix_address(const struct tcp_uri *parsed, struct tcp_address *address);
/* "tcp:127.0.0.1:4444", "tcp:[::1]:4444" or "unix:PATH". */
void tcp_address_name(const struct tcp_address *address, char name[static TCP_NAME_BYTES]);

/* ---- sockets (socket.c) ----------------------------------------------------------------------- */

uint64_t tcp_now_ms(void);
/* 1: ready (or failed: the next call on fd will tell), 0: the deadline has passed, else -errno. */
int tcp_wait(int fd, short events, uint64_t deadline_ms);
/* -ETIMEDOUT, -ECONNRESET (also for EOF), ... */
int tcp_send_whole(int fd, const void *bytes, size_t length_bytes, uint64_t deadline_ms);
ssize_t tcp_recv_some(int fd, void *bytes, size_t most_bytes, uint64_t deadline_ms);
/* Quick small messages, and a peer that died silently is noticed within TCP_SILENCE_MAX_MS. */
int tcp_tune(int fd, bool is_unix);
/* Room for a full window of requests, however slow the acknowledgements. */
void tcp_tune_requester(int fd);
/* Can these bytes still become a greeting? */
bool tcp_greeting_possible(const uint8_t *bytes, size_t length_bytes);
void tcp_close_fd(int *fd);

/* ---- one connection (tcp.c) ------------------------------------------------------------------- */

enum tcp_role { TCP_ROLE_SOURCE, TCP_ROLE_DESTINATION };

struct page_channel {
	/* Set at creation. */
	struct hf_tcp *tcp;
	struct hf_channel_load load; /* its counts: under lock, read without it to choose a channel */
	uint32_t index;
	int fd;
	/* hf_tcp_start's, then the control thread's. */
	pthread_t thread;
	bool thread_runs;
	/* Destination, under lock. */
	struct hf_lock lock;
	bool closed;	 /* the thread has left; nothing may be appended */
	bool sending;	 /* a thread sends requests, without the lock: it takes along what is appended */
	uint32_t head;	 /* answers so far: where the FIFO begins in the ring */
	uint32_t unsent; /* at the end of the FIFO: requests that were not sent */
	struct hf_fetch fifo[TCP_CHANNEL_FETCHES_MAX];
};

struct hf_tcp {
	/* Set at creation. */
	enum tcp_role role;
	bool is_unix;
	char name[TCP_NAME_BYTES]; /* of the peer, for texts */
	struct hf_link_info info;
	uint8_t session[HF_TCP_SESSION_BYTES];
	struct page_channel *channels; /* urgent first */
	uint32_t channel_count;
	int control_fd;
	int wake_fd; /* ends the control thread's poll */
	/* Set by hf_tcp_start(). */
	const struct hf_transport_events *events;
	void *engine;
	pthread_t control_thread;
	bool control_runs;
	struct hf_link_life life; /* down: sockets are shut down */
	/* Under life.lock; life.changed: it ran empty. */
	struct hf_outbox outbox;
	/* The control thread's own. */
	uint8_t *inbox;
	size_t inbox_bytes;
	size_t first_sent_bytes; /* of the outbox's first frame */
	bool control_broken;	 /* no frame can be told any more */
};

int tcp_new(struct hf_tcp **out, enum tcp_role role, bool is_unix, const struct hf_link_info *info,
	    struct hf_err *err);
void tcp_free(struct hf_tcp *tcp); /* no thread runs; NULL and half-built are fine */
/* The first caller's reason stays. Never blocks, calls no event. */
void tcp_fail(struct hf_tcp *tcp, const struct hf_err *why);
/* tcp_fail() for a socket call that returned error_number (0: EOF) on the named channel. */
void tcp_fail_link(struct hf_tcp *tcp, const char *channel_name, int error_number);
int tcp_thread_create(pthread_t *thread, const char *name, void *(*function)(void *), void *argument);
/* The connections a side wants, defaults filled in; -EINVAL. */
int tcp_options_check(const struct hf_tcp_options *options, struct hf_tcp_options *checked,
		      struct hf_err *err);

/* ---- channels (control.c, fetch.c, serve.c) --------------------------------------------------- */

/* Delivers link_up, messages and link_down; joins the page channels' threads before that. */
void *tcp_control_main(void *tcp);
int tcp_control_send(struct hf_tcp *tcp, uint64_t epoch, uint32_t type, const void *payload,
		     size_t length_bytes);

void *tcp_fetch_main(void *page_channel); /* destination */
int tcp_fetch_post(struct hf_tcp *tcp, const struct hf_fetch *fetch);

void *tcp_serve_main(void *page_channel); /* source */

#define TCP_CHANNEL_NAME_BYTES 32
void tcp_channel_name(const struct page_channel *channel, char name[static TCP_CHANNEL_NAME_BYTES]);

#endif
