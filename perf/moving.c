/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: two engines on hf_tcp, each with ports that do as little as possible. What a port must
 * answer later (memory ready, the VM's operations) is noted and answered by the caller's thread in
 * run_until(). The destination's transport is looked through: every fetch and every end is counted on its
 * way.
 *
 * Memory is a window on each side, used over and over: a file that is larger than caches, or, for longer
 * pages, that file mapped several times.
 */
#include "perf/moving.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/destination.h"
#include "core/source.h"
#include "core/zero.h"
#include "deploy/monotonic.h"
#include "perf/idle_ports.h"
#include "transport-tcp/tcp.h"

#define FILE_BYTES     (64u << 20)
#define FLIGHTS_MAX    8192u
#define VCPU_THREAD_ID 1u
#define WAIT_MAX_S     60

typedef bool condition_fn(const struct hf_moving *m, const void *argument);

struct flight {
	bool busy;
	uint64_t id;
	enum hf_fetch_class class;
};

struct hf_moving {
	struct hf_moving_config config;
	struct hf_ramblocks blocks;
	uint8_t *window[2]; /* source, destination */
	uint64_t window_bytes;

	struct hf_tcp_listener *listener;
	struct hf_tcp *source_link, *destination_link;
	struct hf_source *source;
	struct hf_destination *destination;
	struct hf_transport link; /* the destination's, unwatched */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* Under the lock. */
	bool prepare_asked, failed;
	bool asked[2][HF_VM_OPS]; /* source, destination */
	bool runs;
	condition_fn *awaited; /* by the caller's thread; NULL: it does not wait */
	const void *awaited_argument;
	struct hf_moving_fault **waits; /* by page */
	struct hf_moving_counts counts, urgent_landed;
	struct flight flights[FLIGHTS_MAX];
};

/* A port asks for something that the caller's thread does. */
static void ask(struct hf_moving *m, bool *what)
{
	pthread_mutex_lock(&m->lock);
	*what = true;
	pthread_cond_signal(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

/* Unlocks. Wakes the caller's thread only for what it waits for: it shares the cores with the link. */
static void counted(struct hf_moving *m)
{
	if (m->awaited && m->awaited(m, m->awaited_argument))
		pthread_cond_signal(&m->changed);
	pthread_mutex_unlock(&m->lock);
}

/* ---- the link, looked through ------------------------------------------------------------------ */

/* Ids are spread evenly enough; linear from there. */
static struct flight *flight_of(struct hf_moving *m, uint64_t id, bool busy)
{
	for (uint64_t i = 0; i < FLIGHTS_MAX; i++) {
		struct flight *flight = &m->flights[(id + i) % FLIGHTS_MAX];
		if (flight->busy == busy && (!busy || flight->id == id))
			return flight;
	}
	return NULL;
}

static int watched_fetch(void *self, const struct hf_fetch *fetch)
{
	struct hf_moving *m = self;
	pthread_mutex_lock(&m->lock);
	struct flight *flight = flight_of(m, fetch->id, false);
	if (flight)
		*flight = (struct flight){.busy = true, .id = fetch->id, .class = fetch->class};
	m->counts.posted_chunks[fetch->class]++;
	m->counts.posted_bytes[fetch->class] += fetch->length_bytes;
	counted(m);

	int result = flight ? m->link.ops->fetch(m->link.self, fetch) : -EAGAIN;
	if (result == 0)
		return 0;
	pthread_mutex_lock(&m->lock);
	if (flight)
		flight->busy = false;
	m->counts.posted_chunks[fetch->class]--;
	m->counts.posted_bytes[fetch->class] -= fetch->length_bytes;
	pthread_mutex_unlock(&m->lock);
	return result;
}

static int watched_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	struct hf_moving *m = self;
	return m->link.ops->send(m->link.self, epoch, type, payload, bytes);
}

static void watched_link_up(void *self, const struct hf_link_info *info)
{
	hf_destination_events.link_up(((struct hf_moving *)self)->destination, info);
}

static void watched_link_down(void *self, uint64_t epoch, const struct hf_err *why)
{
	struct hf_moving *m = self;
	ask(m, &m->failed); /* nobody waits any more when it is stopped */
	hf_destination_events.link_down(m->destination, epoch, why);
}

static void watched_message(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	hf_destination_events.message(((struct hf_moving *)self)->destination, epoch, type, payload, bytes);
}

/* The fault whose page this thread has placed in the event it is in. */
static _Thread_local struct hf_moving_fault *placed_now;

static void watched_done(void *self, const struct hf_fetch_done *done)
{
	struct hf_moving *m = self;
	pthread_mutex_lock(&m->lock);
	struct flight *flight = flight_of(m, done->id, true);
	if (flight) {
		flight->busy = false;
		m->counts.ended_chunks[flight->class]++;
		if (flight->class == HF_FETCH_URGENT)
			m->urgent_landed = m->counts;
	}
	counted(m);
	placed_now = NULL;
	hf_destination_events.fetch_done(m->destination, done);
	if (placed_now && m->config.placed)
		m->config.placed(m->config.opaque, placed_now);
}

static const struct hf_transport_ops watched_ops = {.fetch = watched_fetch, .send = watched_send};
static const struct hf_transport_events watched_events = {
    .link_up = watched_link_up,
    .link_down = watched_link_down,
    .message = watched_message,
    .fetch_done = watched_done,
};

/* ---- memory ------------------------------------------------------------------------------------ */

static int memory_choose(void *self, enum hf_placement placement, struct hf_memory *port, struct hf_err *err)
{
	(void)self;
	(void)placement;
	(void)port;
	(void)err;
	return 0;
}

static int memory_prepare(void *self)
{
	struct hf_moving *m = self;
	ask(m, &m->prepare_asked);
	return 0;
}

static void *memory_landing(void *self, uint32_t block, uint64_t page, uint32_t slot)
{
	(void)block;
	(void)slot;
	struct hf_moving *m = self;
	return m->window[1] + page * m->config.page_bytes % m->window_bytes;
}

static int memory_place(void *self, uint32_t block, uint64_t page, uint32_t slot, struct hf_err *err)
{
	(void)block;
	(void)slot;
	(void)err;
	struct hf_moving *m = self;
	uint64_t now_ns = hf_monotonic_ns(NULL);
	pthread_mutex_lock(&m->lock);
	m->counts.placed_pages++;
	struct hf_moving_fault *fault = m->waits[page];
	if (fault) {
		m->waits[page] = NULL;
		fault->placed_ns = now_ns;
		fault->at_landed = m->urgent_landed;
		fault->placed = true;
		m->counts.placed_faults++;
		placed_now = fault;
	}
	counted(m);
	return 0;
}

static int memory_place_zero(void *self, uint32_t block, uint64_t page, struct hf_err *err)
{
	return memory_place(self, block, page, 0, err);
}

/* No page is a hole and none faults twice: there is no work without a transfer. */
static void memory_kick(void *self, enum hf_work_class class)
{
	(void)self;
	(void)class;
}

static const struct hf_memory_ops memory_ops = {
    .choose = memory_choose,
    .prepare = memory_prepare,
    .landing = memory_landing,
    .place = memory_place,
    .place_zero = memory_place_zero,
    .place_again = memory_place_zero,
    .clear = port_no_clear,
    .kick = memory_kick,
    .release = port_no_release,
};

static int source_chunk(void *self, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
			const void **bytes, struct hf_err *err)
{
	(void)block;
	(void)err;
	struct hf_moving *m = self;
	const uint8_t *address = (const uint8_t *)m->window[0] + offset_bytes % m->window_bytes;
	*bytes = hf_is_zero(address, length_bytes) ? NULL : address;
	return 0;
}

static int source_presence(void *self, uint32_t block, uint8_t *bitmap, size_t bytes, struct hf_err *err)
{
	(void)block;
	(void)err;
	const struct hf_moving *m = self;
	memset(bitmap, 0xff, bytes);
	if (m->config.pages % 8)
		bitmap[bytes - 1] = (uint8_t)((1u << m->config.pages % 8) - 1);
	return 0;
}

static const struct hf_source_memory_ops source_memory_ops = {
    .chunk = source_chunk,
    .presence = source_presence,
};

/* ---- VMs --------------------------------------------------------------------------------------- */

static int note_request(struct hf_moving *m, int side, enum hf_vm_op op)
{
	ask(m, &m->asked[side][op]);
	return 0;
}

static int source_request(void *self, enum hf_vm_op op, const void *data, size_t bytes)
{
	(void)data;
	(void)bytes;
	return note_request(self, 0, op);
}

static int destination_request(void *self, enum hf_vm_op op, const void *data, size_t bytes)
{
	(void)data;
	(void)bytes;
	return note_request(self, 1, op);
}

static const struct hf_vm_ops source_vm_ops = {.request = source_request};
static const struct hf_vm_ops destination_vm_ops = {.request = destination_request};

/* ---- the caller's thread ----------------------------------------------------------------------- */

static void answer_vm(struct hf_moving *m, int side, enum hf_vm_op op)
{
	struct hf_vm_result result = {.op = op};
	if (op == HF_VM_SAVE) {
		result.data = "state";
		result.length_bytes = 5;
	}
	if (side == 0)
		hf_source_vm_done(m->source, &result);
	else
		hf_destination_vm_done(m->destination, &result);
	if (side == 1 && op == HF_VM_RUN)
		m->runs = true;
}

/* Locked, and again on return. Answers what ports were asked; false if nothing was. */
static bool answer_ports(struct hf_moving *m)
{
	if (m->prepare_asked) {
		m->prepare_asked = false;
		pthread_mutex_unlock(&m->lock);
		hf_destination_memory_ready(m->destination, 0, NULL);
		pthread_mutex_lock(&m->lock);
		return true;
	}
	for (int side = 0; side < 2; side++)
		for (int op = 0; op < HF_VM_OPS; op++) {
			if (!m->asked[side][op])
				continue;
			m->asked[side][op] = false;
			pthread_mutex_unlock(&m->lock);
			answer_vm(m, side, (enum hf_vm_op)op);
			pthread_mutex_lock(&m->lock);
			return true;
		}
	return false;
}

static int run_until(struct hf_moving *m, condition_fn *reached, const void *argument)
{
	struct timespec until;
	int result = 0;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += WAIT_MAX_S;
	pthread_mutex_lock(&m->lock);
	m->awaited = reached;
	m->awaited_argument = argument;
	while (!reached(m, argument) && !m->failed && result == 0)
		if (!answer_ports(m))
			result = pthread_cond_timedwait(&m->changed, &m->lock, &until);
	m->awaited = NULL;
	result = m->failed || result ? -EIO : 0;
	pthread_mutex_unlock(&m->lock);
	return result;
}

/* ---- start and stop ---------------------------------------------------------------------------- */

static int map_window(struct hf_moving *m, int side)
{
	int fd = memfd_create("hf-moving", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, FILE_BYTES)) {
		if (fd >= 0)
			close(fd);
		return -errno;
	}
	uint64_t bytes = m->window_bytes;
	uint8_t *window = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int result = window == MAP_FAILED ? -errno : 0;
	for (uint64_t at = 0; at < bytes && result == 0; at += FILE_BYTES)
		if (mmap(window + at, bytes - at < FILE_BYTES ? bytes - at : FILE_BYTES,
			 PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
			result = -errno;
	close(fd);
	if (window != MAP_FAILED)
		m->window[side] = window;
	if (result == 0)
		memset(window, 0x5a, bytes < FILE_BYTES ? bytes : FILE_BYTES);
	return result;
}

static void *connect_main(void *self)
{
	struct hf_moving *m = self;
	struct hf_tcp_options options = {.channels = {m->config.channels, m->config.channels}, .epoch = 1};
	struct hf_err err;
	hf_tcp_connect(&m->source_link, hf_tcp_listener_uri(m->listener), &options, &err);
	return NULL;
}

static int open_link(struct hf_moving *m, struct hf_err *err)
{
	struct hf_tcp_options options = {.channels = {m->config.channels, m->config.channels}};
	pthread_t thread;
	int result = hf_tcp_listen(&m->listener, m->config.uri, &options, err);
	if (result < 0)
		return result;
	result = -pthread_create(&thread, NULL, connect_main, m);
	if (result < 0)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "no thread to connect from");
	result = hf_tcp_accept(m->listener, &m->destination_link, err);
	pthread_join(thread, NULL);
	if (result == 0 && !m->source_link)
		return hf_err_set(err, HF_ERR_LINK, ECONNREFUSED, "could not connect to %s", m->config.uri);
	return result;
}

static int create_engines(struct hf_moving *m, struct hf_err *err)
{
	static const uint32_t thread_ids[] = {VCPU_THREAD_ID};
	struct hf_source_config source = {
	    .vm_name = "from",
	    .blocks = &m->blocks,
	    .clock = hf_monotonic_clock(),
	    .memory = {.ops = &source_memory_ops, .self = m},
	    .transport = hf_tcp_transport(m->source_link),
	    .vm = {.ops = &source_vm_ops, .self = m},
	};
	m->link = hf_tcp_transport(m->destination_link);
	const struct hf_moving_memory *memory = m->config.memory;
	struct hf_destination_config destination = {
	    .vm_name = "to",
	    .blocks = &m->blocks,
	    .vcpu_thread_ids = memory ? memory->vcpu_thread_ids : thread_ids,
	    .vcpus = memory ? memory->vcpus : 1,
	    .clock = hf_monotonic_clock(),
	    .memory =
		memory
		    ? memory->port
		    : (struct hf_memory){.ops = &memory_ops, .self = m, .placement = HF_PLACEMENT_CONTINUE},
	    .transport = {.ops = &watched_ops, .self = m},
	    .vm = {.ops = &destination_vm_ops, .self = m},
	    .chunk_bytes = m->config.chunk_bytes,
	    .background_share_percent = m->config.background_share_percent,
	    .background_held = true,
	};
	int result = hf_source_create(&m->source, &source, err);
	if (result == 0)
		result = hf_destination_create(&m->destination, &destination, err);
	if (result == 0 && memory)
		result = memory->start(memory->self, m->destination, err);
	return result;
}

static int start_source(struct hf_moving *m, struct hf_err *err)
{
	if (m->config.before_source)
		m->config.before_source(m->config.opaque);
	int result = hf_tcp_start(m->source_link, &hf_source_events, m->source, err);
	if (m->config.behind_source)
		m->config.behind_source(m->config.opaque);
	return result;
}

static bool vm_runs(const struct hf_moving *m, const void *argument)
{
	(void)argument;
	return m->runs;
}

static int start(struct hf_moving *m, struct hf_err *err)
{
	uint64_t bytes = m->config.page_bytes * m->config.pages;
	int result = hf_ramblocks_add(&m->blocks, "ram", bytes, m->config.page_bytes, err);
	if (result < 0)
		return result;
	m->waits = calloc(m->config.pages, sizeof(struct hf_moving_fault *));
	result = m->waits ? map_window(m, 0) : -ENOMEM;
	if (result == 0)
		result = map_window(m, 1);
	if (result < 0)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "no memory for a page of %llu bytes",
				  (unsigned long long)m->config.page_bytes);
	result = open_link(m, err);
	if (result == 0)
		result = create_engines(m, err);
	if (result == 0)
		result = hf_tcp_start(m->destination_link, &watched_events, m, err);
	if (result == 0)
		result = start_source(m, err);
	if (result == 0 && run_until(m, vm_runs, NULL) < 0)
		result = hf_err_set(err, HF_ERR_LOCAL, EIO, "the migration did not get under way");
	return result;
}

int hf_moving_start(struct hf_moving **out, const struct hf_moving_config *config, struct hf_err *err)
{
	struct hf_moving *m = calloc(1, sizeof(*m));
	if (!m)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory");
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&m->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&m->lock, NULL);
	hf_ramblocks_init(&m->blocks);
	m->config = *config;
	m->window_bytes = config->page_bytes < FILE_BYTES ? FILE_BYTES : config->page_bytes;
	int result = start(m, err);
	if (result < 0) {
		hf_moving_stop(m);
		return result;
	}
	*out = m;
	return 0;
}

void hf_moving_stop(struct hf_moving *m)
{
	if (!m)
		return;
	if (m->config.memory)
		m->config.memory->stop(m->config.memory->self);
	hf_tcp_close(m->destination_link);
	hf_tcp_close(m->source_link);
	hf_tcp_listener_close(m->listener);
	hf_destination_destroy(m->destination);
	hf_source_destroy(m->source);
	hf_ramblocks_destroy(&m->blocks);
	for (int side = 0; side < 2; side++)
		if (m->window[side])
			munmap(m->window[side], m->window_bytes);
	pthread_cond_destroy(&m->changed);
	pthread_mutex_destroy(&m->lock);
	free(m->waits);
	free(m);
}

/* ---- in the middle of it ----------------------------------------------------------------------- */

struct hf_destination *hf_moving_destination(struct hf_moving *m)
{
	return m->destination;
}

void hf_moving_hold_background(struct hf_moving *m, bool hold)
{
	hf_destination_hold_background(m->destination, hold);
}

struct hf_moving_counts hf_moving_counts(struct hf_moving *m)
{
	pthread_mutex_lock(&m->lock);
	struct hf_moving_counts counts = m->counts;
	pthread_mutex_unlock(&m->lock);
	return counts;
}

void hf_moving_fault(struct hf_moving *m, struct hf_moving_fault *fault, uint32_t page)
{
	*fault = (struct hf_moving_fault){.page = page, .faulted_ns = hf_monotonic_ns(NULL)};
	pthread_mutex_lock(&m->lock);
	fault->at_fault = m->counts;
	m->waits[page] = fault;
	pthread_mutex_unlock(&m->lock);
	hf_destination_fault(m->destination, 0, page, VCPU_THREAD_ID, fault->faulted_ns);
}

static bool is_placed(const struct hf_moving *m, const void *argument)
{
	(void)m;
	return ((const struct hf_moving_fault *)argument)->placed;
}

int hf_moving_wait_placed(struct hf_moving *m, const struct hf_moving_fault *fault)
{
	return run_until(m, is_placed, fault);
}

static bool faults_are_placed(const struct hf_moving *m, const void *argument)
{
	return m->counts.placed_faults >= *(const uint32_t *)argument;
}

int hf_moving_wait_placed_faults(struct hf_moving *m, uint32_t faults)
{
	return run_until(m, faults_are_placed, &faults);
}

static bool background_is_posted(const struct hf_moving *m, const void *argument)
{
	return m->counts.posted_chunks[HF_FETCH_BACKGROUND] >= *(const uint64_t *)argument ||
	       m->counts.placed_pages == m->config.pages;
}

int hf_moving_wait_background_posted(struct hf_moving *m, uint64_t chunks)
{
	return run_until(m, background_is_posted, &chunks);
}

static bool nothing_is_on_its_way(const struct hf_moving *m, const void *argument)
{
	(void)argument;
	for (int class = 0; class < HF_FETCH_CLASSES; class ++)
		if (m->counts.posted_chunks[class] != m->counts.ended_chunks[class])
			return false;
	return true;
}

int hf_moving_wait_idle(struct hf_moving *m)
{
	return run_until(m, nothing_is_on_its_way, NULL);
}
