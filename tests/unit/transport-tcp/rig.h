/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig.h - what the tests of transport-tcp share: a recording engine, a pair of connected sides, and raw peers
 * that speak the protocol byte by byte so that they can break it.
 *
 * Purpose: every event is checked against the rules of core/transport.h as it comes (first link_up, nothing
 * after link_down, one done per fetch); a broken rule is noted and fails the test.
 * Ownership: the caller owns every struct; engine_free(), pair_close() and raw_close() release what they
 * hold. Threads: an engine is locked inside; everything else belongs to the test's thread. Units: bytes; the
 * chunks of these tests lie in blocks of ENGINE_BLOCK_BYTES. Errors: helpers fail the running test.
 */
#ifndef HF_TESTS_UNIT_TRANSPORT_TCP_RIG_H
#define HF_TESTS_UNIT_TRANSPORT_TCP_RIG_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "core/wire.h"
#include "transport-tcp/tcp.h"

#define ENGINE_BLOCKS	   2u
#define ENGINE_BLOCK_BYTES (8u << 20)
#define ENGINE_FETCHES_MAX 8192u
#define ENGINE_WAIT_MS	   20000u
#define RIG_EPOCH	   7u /* of every pair and every raw link: they continue a session */

struct engine {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t ups, downs;
	struct hf_link_info info;
	struct hf_err why;
	char broken_rule[128]; /* "" while all is well */
	/* Destination. */
	uint32_t done_total, done_by_status[3], zero_total;
	uint8_t done_times[ENGINE_FETCHES_MAX]; /* by fetch id */
	bool done_zero[ENGINE_FETCHES_MAX], done_ok[ENGINE_FETCHES_MAX];
	/* Source. */
	const uint8_t *memory; /* ENGINE_BLOCKS blocks */
	/* Both. */
	uint32_t messages;
	uint64_t message_bytes;
	uint32_t last_type;
	uint32_t wrong_messages; /* not the one that was next, see message_payload() */
	/* Called without the lock, in the thread of the event; may be NULL. */
	void (*on_message)(struct engine *engine, uint32_t type);
	void (*on_done)(struct engine *engine, uint64_t id);
	void *opaque;
};

extern const struct hf_transport_events engine_events;

struct engine *engine_new(void);
void engine_free(struct engine *engine); /* fails the test when a rule was broken */
/* Each waits until the number is reached; fails the test after ENGINE_WAIT_MS. */
void engine_wait_up(struct engine *engine);
void engine_wait_down(struct engine *engine);
void engine_wait_done(struct engine *engine, uint32_t total);
void engine_wait_messages(struct engine *engine, uint32_t total);

/* Source memory: bytes that depend on their place. Chunks at every seventh 4 KiB boundary are zero. */
const uint8_t *source_memory(void);
bool chunk_is_zero(uint64_t offset_bytes);
/* The n-th message of a sequence: its length and its bytes follow from n. */
void message_payload(uint32_t number, uint8_t *payload, size_t length_bytes);
uint64_t now_ms(void);

/* ---- both sides, real ------------------------------------------------------------------------- */

struct pair {
	struct hf_tcp_listener *listener;
	struct hf_tcp *source, *destination;
	struct engine *source_engine, *destination_engine;
	struct hf_transport to_source; /* the destination's port */
	struct hf_transport to_destination;
};

extern char test_directory[]; /* for unix sockets; removed at the end */
int make_directory(void **state);
int remove_directory(void **state);
const char *unix_uri(void); /* a fresh path at each call; valid until the next one */

/* Opens but does not start. */
void pair_open(struct pair *pair, const char *uri, uint32_t urgent, uint32_t background);
void pair_start(struct pair *pair);
void pair_close(struct pair *pair);

struct hf_fetch make_fetch(uint64_t id, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
			   enum hf_fetch_class class, void *landing);
/* Posts, again and again while the class is full. */
void post(const struct hf_transport *port, const struct hf_fetch *fetch);

/* Runs hf_tcp_accept() in a thread. */
struct accepting {
	pthread_t thread;
	struct hf_tcp_listener *listener;
	struct hf_tcp *tcp;
	struct hf_err err;
	int result;
};
void accepting_start(struct accepting *accepting, struct hf_tcp_listener *listener);
int accepting_join(struct accepting *accepting);

/* Runs hf_tcp_connect() in a thread. */
struct connecting {
	pthread_t thread;
	char uri[256];
	struct hf_tcp_options options;
	struct hf_tcp *tcp;
	struct hf_err err;
	int result;
};
void connecting_start(struct connecting *connecting, const char *uri, const struct hf_tcp_options *options);
int connecting_join(struct connecting *connecting);

/* Begins a session. */
struct hf_tcp_options source_options(uint32_t urgent, uint32_t background);
/* Continues it, at a listener that await_source() was called with. */
struct hf_tcp_options continuing_options(uint32_t urgent, uint32_t background);
void await_source(struct hf_tcp_listener *listener);

/* ---- raw peers -------------------------------------------------------------------------------- */

#define RAW_CHANNELS_MAX 4

struct raw {
	int listener; /* a raw destination's, else -1 */
	int control;
	int pages[RAW_CHANNELS_MAX]; /* urgent first */
	uint32_t count;
};

int raw_connect(const char *uri);
void raw_send(int fd, const void *bytes, size_t length_bytes);
/* Reads exactly that much; fails the test after ENGINE_WAIT_MS. */
void raw_recv(int fd, void *bytes, size_t length_bytes);
/* Reads to the end; returns how much came (a reset counts as the end). */
size_t raw_recv_all(int fd, void *bytes, size_t most_bytes);
/* Begins a session. */
struct hf_wire_hello raw_hello(enum hf_wire_channel channel, uint32_t index, uint32_t urgent,
			       uint32_t background);
void raw_send_hello(int fd, const struct hf_wire_hello *hello);
struct hf_wire_hello_reply raw_recv_reply(int fd, char text[static HF_WIRE_TEXT_MAX_BYTES + 1]);
void raw_send_reply(int fd, const struct hf_wire_hello_reply *reply, const char *text);
struct hf_wire_request raw_recv_request(int fd);
void raw_send_page_reply(int fd, const struct hf_wire_request *request, bool zero, const void *bytes);

/* A raw source against a real destination, opened and started. */
struct hf_tcp *raw_source_open(struct raw *raw, const char *uri, uint32_t urgent, uint32_t background,
			       struct engine *engine);
/* A real source against a raw destination, opened and started. */
struct hf_tcp *raw_destination_open(struct raw *raw, uint32_t urgent, uint32_t background,
				    struct engine *engine);
/* Listens on an ephemeral port of 127.0.0.1. */
int raw_listen(char uri[static 64]);
int raw_accept(int listener);
void raw_close(struct raw *raw);

#endif
