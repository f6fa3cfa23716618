/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: chunks of what is to be taken are numbered; whoever may post one more takes the next
 * number. The caller posts as many as may be on their way, and each fetch_done() posts one, in the link's
 * threads, as the engine does. The last one notes the time, and wakes the caller: its wake-up is not
 * measured.
 */
#include "perf/taker.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "deploy/monotonic.h"
#include "deploy/transports.h"
#include "perf/bare_loop.h"
#include "perf/idle_ports.h"
#include "perf/window.h"

#define WAIT_MAX_S 120

struct hf_taker {
	struct hf_taker_config config;
	const struct hf_scheme *scheme;
	void *listener, *link;
	struct hf_transport transport;
	struct hf_bare *bare;
	uint8_t *window;
	bool raw_first;
	uint64_t offset_bytes; /* where the next measurement begins */
	/* Of the measurement under way. */
	struct hf_taking now;
	uint64_t chunks;
	_Atomic uint64_t next, left;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under the lock. */
	bool up, down, failed;
	struct hf_err why;
	uint64_t ended_ns; /* 0: not yet */
};

/* ---- posting ----------------------------------------------------------------------------------- */

static void give_up(struct hf_taker *taker, const struct hf_err *why)
{
	pthread_mutex_lock(&taker->lock);
	if (!taker->failed)
		taker->why = *why;
	taker->failed = true;
	pthread_cond_signal(&taker->changed);
	pthread_mutex_unlock(&taker->lock);
}

/* False: nothing is left to post. */
static bool post_next(struct hf_taker *taker)
{
	uint64_t number = atomic_fetch_add(&taker->next, 1);
	if (number >= taker->chunks)
		return false;
	uint64_t at = number * taker->now.chunk_bytes, left = taker->now.bytes - at;
	uint64_t offset = (taker->offset_bytes + at) % HF_WINDOW_BYTES;
	struct hf_fetch fetch = {
	    .id = number,
	    .epoch = 1,
	    .length_bytes = left < taker->now.chunk_bytes ? (uint32_t)left : taker->now.chunk_bytes,
	    .offset_bytes = offset,
	    .class = taker->now.class,
	    .landing = taker->window + offset,
	};
	int result = taker->transport.ops->fetch(taker->transport.self, &fetch);
	while (result == -EAGAIN) { /* there is room, but the kernel had none for the request */
		sched_yield();
		result = taker->transport.ops->fetch(taker->transport.self, &fetch);
	}
	if (result && result != -ENOTCONN) { /* that one link_down() explains */
		struct hf_err err;
		hf_err_set(&err, HF_ERR_LINK, -result, "a fetch is refused: %s", strerror(-result));
		give_up(taker, &err);
	}
	return result == 0;
}

/* ---- the destination's half of the port -------------------------------------------------------- */

static void link_up(void *engine, const struct hf_link_info *info)
{
	struct hf_taker *taker = engine;
	(void)info;
	pthread_mutex_lock(&taker->lock);
	taker->up = true;
	pthread_cond_signal(&taker->changed);
	pthread_mutex_unlock(&taker->lock);
}

static void link_down(void *engine, uint64_t epoch, const struct hf_err *why)
{
	(void)epoch;
	give_up(engine, why);
}

static void fetch_done(void *engine, const struct hf_fetch_done *done)
{
	struct hf_taker *taker = engine;
	if (done->status != HF_FETCH_OK)
		return;	  /* link_down() says why */
	post_next(taker); /* before this one counts: who counts the last knows that nobody posts any more */
	if (atomic_fetch_sub(&taker->left, 1) > 1)
		return;
	uint64_t now_ns = hf_monotonic_ns(NULL);
	pthread_mutex_lock(&taker->lock);
	taker->ended_ns = now_ns;
	pthread_cond_signal(&taker->changed);
	pthread_mutex_unlock(&taker->lock);
}

static const struct hf_transport_events events = {
    .link_up = link_up,
    .link_down = link_down,
    .message = port_no_message,
    .fetch_done = fetch_done,
};

/* Until it is so, under the lock, or the link has ended. */
static int wait_until(struct hf_taker *taker, bool (*is)(const struct hf_taker *taker), struct hf_err *err)
{
	struct timespec until;
	int result = 0;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += WAIT_MAX_S;
	pthread_mutex_lock(&taker->lock);
	while (!is(taker) && !taker->failed && !result)
		result = pthread_cond_timedwait(&taker->changed, &taker->lock, &until);
	bool failed = taker->failed;
	if (failed && err)
		*err = taker->why;
	pthread_mutex_unlock(&taker->lock);
	if (failed)
		return -EIO;
	return result ? hf_err_set(err, HF_ERR_LINK, result, "nothing came for %d s", WAIT_MAX_S) : 0;
}

static bool is_up(const struct hf_taker *taker)
{
	return taker->up;
}

static bool has_ended(const struct hf_taker *taker)
{
	return taker->ended_ns != 0;
}

/* ---- opening ----------------------------------------------------------------------------------- */

static int open_all(struct hf_taker *taker, struct hf_err *err)
{
	struct hf_link_options options = {.channels = taker->config.channels};
	int result = hf_scheme_of(taker->config.uri, &taker->scheme, err);
	if (!result)
		result = hf_window_map(&taker->window, err);
	if (!result)
		result = taker->scheme->listen(&taker->listener, taker->config.uri, &options, err);
	if (!result && taker->config.bare_uri)
		result = hf_bare_listen(&taker->bare, taker->config.bare_uri, err);
	return result;
}

int hf_taker_listen(struct hf_taker **out, const struct hf_taker_config *config, struct hf_err *err)
{
	struct hf_taker *taker = calloc(1, sizeof(*taker));
	if (!taker)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	taker->config = *config;
	pthread_mutex_init(&taker->lock, NULL);
	pthread_cond_init(&taker->changed, NULL);
	int result = open_all(taker, err);
	if (result) {
		hf_taker_close(taker);
		return result;
	}
	*out = taker;
	return 0;
}

const char *hf_taker_uri(const struct hf_taker *taker)
{
	return taker->scheme->listener_uri(taker->listener);
}

const char *hf_taker_bare_uri(const struct hf_taker *taker)
{
	return taker->bare ? hf_bare_uri(taker->bare) : NULL;
}

int hf_taker_fd(const struct hf_taker *taker)
{
	return taker->scheme->listener_fd(taker->listener);
}

const uint8_t *hf_taker_window(const struct hf_taker *taker)
{
	return taker->window;
}

const struct hf_link_info *hf_taker_info(const struct hf_taker *taker)
{
	return taker->scheme->info(taker->link);
}

int hf_taker_accept(struct hf_taker *taker, struct hf_err *err)
{
	struct hf_lent_range range = {taker->window, HF_WINDOW_BYTES};
	int result = taker->scheme->accept(taker->listener, &taker->link, err);
	if (result)
		return result;
	if (taker->bare)
		result =
		    hf_bare_accept(taker->bare, hf_taker_info(taker)->channels[HF_FETCH_BACKGROUND], err);
	taker->transport = taker->scheme->transport(taker->link);
	if (!result)
		result = taker->scheme->start(taker->link, &events, taker, err);
	if (!result)
		result = wait_until(taker, is_up, err);
	if (!result && taker->scheme->lend)
		result = taker->scheme->lend(taker->link, &range, 1, true, err);
	return result;
}

void hf_taker_close(struct hf_taker *taker)
{
	if (!taker)
		return;
	if (taker->link)
		taker->scheme->close(taker->link);
	if (taker->listener)
		taker->scheme->listener_close(taker->listener);
	hf_bare_close(taker->bare);
	hf_window_unmap(taker->window);
	pthread_cond_destroy(&taker->changed);
	pthread_mutex_destroy(&taker->lock);
	free(taker);
}

/* ---- measuring --------------------------------------------------------------------------------- */

static uint64_t cpu_ns(clockid_t clock)
{
	struct timespec used = {0};
	clock_gettime(clock, &used);
	return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

static void add_cpu(pid_t giver, uint64_t cpu[static 2], int sign)
{
	clockid_t clock;
	cpu[0] += (uint64_t)sign * cpu_ns(CLOCK_PROCESS_CPUTIME_ID);
	if (giver && clock_getcpuclockid(giver, &clock) == 0)
		cpu[1] += (uint64_t)sign * cpu_ns(clock);
}

static uint32_t depth_of(const struct hf_taker *taker)
{
	uint32_t most = hf_taker_info(taker)->capacity_chunks[taker->now.class];
	return taker->now.depth && taker->now.depth < most ? taker->now.depth : most;
}

static int take(struct hf_taker *taker, uint64_t *took_ns, struct hf_err *err)
{
	taker->ended_ns = 0;
	atomic_store(&taker->left, taker->chunks);
	atomic_store(&taker->next, 0);
	uint32_t depth = depth_of(taker);
	uint64_t began_ns = hf_monotonic_ns(NULL);
	while (depth-- && post_next(taker))
		;
	int result = wait_until(taker, has_ended, err);
	*took_ns = taker->ended_ns - began_ns;
	return result;
}

static int take_raw(struct hf_taker *taker, uint64_t *took_ns, struct hf_err *err)
{
	const struct hf_taking *now = &taker->now;
	uint64_t began_ns = hf_monotonic_ns(NULL);
	int result = now->class == HF_FETCH_URGENT
			 ? hf_bare_fetch(taker->bare, taker->window, taker->offset_bytes, now->bytes)
			 : hf_bare_stream(taker->bare, taker->window, now->bytes);
	*took_ns = hf_monotonic_ns(NULL) - began_ns;
	if (result)
		return hf_err_set(err, HF_ERR_LINK, -result, "the bare loop has lost its connection");
	return 0;
}

int hf_taker_pair(struct hf_taker *taker, const struct hf_taking *taking, pid_t giver, struct hf_pair *pair,
		  struct hf_err *err)
{
	if (!taking->chunk_bytes || HF_WINDOW_BYTES % taking->chunk_bytes)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "the length of a chunk must be a power of two");
	taker->now = *taking;
	taker->chunks = (taking->bytes + taking->chunk_bytes - 1) / taking->chunk_bytes;
	taker->offset_bytes -=
	    taker->offset_bytes % taking->chunk_bytes; /* no chunk crosses the window's end */
	*pair = (struct hf_pair){0};
	taker->raw_first = !taker->raw_first;
	int result = 0;
	for (int turn = 0; turn < 2 && !result; turn++) {
		bool raw = (turn == 0) == taker->raw_first;
		if (raw ? !taker->bare || taking->fetch_only : taking->raw_only)
			continue;
		uint64_t *cpu = raw ? pair->raw_cpu_ns : pair->fetch_cpu_ns;
		add_cpu(giver, cpu, -1);
		result = raw ? take_raw(taker, &pair->raw_ns, err) : take(taker, &pair->fetch_ns, err);
		add_cpu(giver, cpu, 1);
	}
	taker->offset_bytes =
	    (taker->offset_bytes + taker->chunks * taker->now.chunk_bytes) % HF_WINDOW_BYTES;
	return result;
}
