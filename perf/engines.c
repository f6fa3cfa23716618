/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: ports only note what they are asked for, in tables that are there from the start. One
 * loop does what was noted, until there is nothing left to do: hears messages, answers the VMs, ends the
 * oldest fetch, faults. The migration has then completed on both sides, or it is stuck, which is an error.
 */
#include "perf/engines.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "core/destination.h"
#include "core/source.h"
#include "core/wire.h"
#include "perf/idle_ports.h"

#define ENTRY	      __attribute__((noinline)) static
#define PORT	      __attribute__((noinline)) static
#define MESSAGES_MAX  64u
#define FETCHES_MAX   1024u
#define CHUNKS_MAX    64u /* a class's, on their way */
#define LINK_BYTES_NS 10u /* 10 GB/s */
#define LANDINGS      0x100000000000ull
#define NOBODY	      UINT32_MAX
#define DEVICE_STATE  "state"
#define FIRST_THREAD  1000u
#define SEED	      0x9e3779b97f4a7c15ull

enum side { SOURCE, DESTINATION, SIDES };

struct message {
	uint32_t type;
	size_t bytes;
	uint8_t payload[HF_WIRE_FRAME_MAX_BYTES];
};

/* Messages to one side, and what its VM and its recorder were asked for. */
struct inbox {
	struct message *messages; /* a ring */
	uint32_t first, count;
	bool vm_asked[HF_VM_OPS];
	enum hf_record record_asked;
};

struct fetches {
	struct hf_fetch ring[FETCHES_MAX];
	uint32_t first, count;
	uint32_t of_class[HF_FETCH_CLASSES];
};

struct engines {
	const struct hf_engines_shape *shape;
	struct hf_engines_figures *figures;
	struct hf_ramblocks blocks;
	uint32_t *thread_ids;
	struct hf_source *source;
	struct hf_destination *destination;
	uint64_t now_ns;
	struct inbox inboxes[SIDES];
	struct fetches fetches;
	bool prepare_asked, kicked[HF_WORK_CLASSES];
	bool overflow; /* a table was too small: the figures would be wrong */

	uint64_t allocations_at_run, memory_before_bytes;
	bool runs;
	uint8_t *placed;	/* by page */
	uint32_t *waiting;	/* by page: the first vCPU that waits for it */
	uint32_t *waiting_next; /* by vCPU */
	uint32_t *idle;		/* vCPUs that would fault */
	uint32_t idle_count, waiting_count;
	uint64_t placed_count, faults_left, random;
};

/* ---- ports ------------------------------------------------------------------------------------- */

PORT uint64_t port_now_ns(void *self)
{
	return ((const struct engines *)self)->now_ns;
}

static int queue_message(struct engines *e, enum side to, uint32_t type, const void *payload, size_t bytes)
{
	struct inbox *inbox = &e->inboxes[to];
	if (inbox->count == MESSAGES_MAX || bytes > HF_WIRE_FRAME_MAX_BYTES) {
		e->overflow = true;
		return -ENOTCONN;
	}
	struct message *message = &inbox->messages[(inbox->first + inbox->count++) % MESSAGES_MAX];
	message->type = type;
	message->bytes = bytes;
	if (bytes)
		memcpy(message->payload, payload, bytes);
	return 0;
}

PORT int port_source_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	(void)epoch;
	return queue_message(self, DESTINATION, type, payload, bytes);
}

PORT int port_destination_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	(void)epoch;
	return queue_message(self, SOURCE, type, payload, bytes);
}

PORT int port_fetch(void *self, const struct hf_fetch *fetch)
{
	struct engines *e = self;
	struct fetches *fetches = &e->fetches;
	if (fetches->of_class[fetch->class] == CHUNKS_MAX || fetches->count == FETCHES_MAX)
		return -EAGAIN;
	fetches->of_class[fetch->class]++;
	fetches->ring[(fetches->first + fetches->count++) % FETCHES_MAX] = *fetch;
	return 0;
}

static int ask_vm(struct engines *e, enum side side, enum hf_vm_op op)
{
	e->inboxes[side].vm_asked[op] = true;
	return 0;
}

PORT int port_source_vm(void *self, enum hf_vm_op op, const void *data, size_t bytes)
{
	(void)data;
	(void)bytes;
	return ask_vm(self, SOURCE, op);
}

PORT int port_destination_vm(void *self, enum hf_vm_op op, const void *data, size_t bytes)
{
	(void)data;
	(void)bytes;
	return ask_vm(self, DESTINATION, op);
}

PORT int port_source_record(void *self, enum hf_record record)
{
	((struct engines *)self)->inboxes[SOURCE].record_asked = record;
	return 0;
}

PORT int port_destination_record(void *self, enum hf_record record)
{
	((struct engines *)self)->inboxes[DESTINATION].record_asked = record;
	return 0;
}

PORT int port_prepare(void *self)
{
	((struct engines *)self)->prepare_asked = true;
	return 0;
}

PORT void *port_landing(void *self, uint32_t block, uint64_t page, uint32_t slot)
{
	const struct engines *e = self;
	(void)block;
	(void)slot;
	return (void *)(uintptr_t)(LANDINGS + page * e->shape->page_bytes); // nobody looks there
}

PORT int port_place(void *self, uint32_t block, uint64_t page, uint32_t slot, struct hf_err *err)
{
	struct engines *e = self;
	(void)block;
	(void)slot;
	(void)err;
	e->placed_count += !e->placed[page];
	e->placed[page] = true;
	for (uint32_t vcpu = e->waiting[page]; vcpu != NOBODY; vcpu = e->waiting_next[vcpu]) {
		e->idle[e->idle_count++] = vcpu;
		e->waiting_count--;
	}
	e->waiting[page] = NOBODY;
	if (e->placed_count == e->blocks.pages_total && e->shape->allocations)
		e->figures->running_allocations = e->shape->allocations() - e->allocations_at_run;
	return 0;
}

PORT int port_place_zero(void *self, uint32_t block, uint64_t page, struct hf_err *err)
{
	return port_place(self, block, page, 0, err);
}

PORT void port_kick(void *self, enum hf_work_class class)
{
	((struct engines *)self)->kicked[class] = true;
}

PORT int port_chunk(void *self, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
		    const void **bytes, struct hf_err *err)
{
	(void)self;
	(void)block;
	(void)offset_bytes;
	(void)length_bytes;
	(void)err;
	*bytes = DEVICE_STATE; // any address: nobody looks there
	return 0;
}

PORT int port_presence(void *self, uint32_t block, uint8_t *bitmap, size_t bytes, struct hf_err *err)
{
	const struct engines *e = self;
	(void)block;
	(void)err;
	memset(bitmap, 0xff, bytes);
	if (e->blocks.pages_total % 8)
		bitmap[bytes - 1] = (uint8_t)((1u << e->blocks.pages_total % 8) - 1);
	return 0;
}

static const struct hf_transport_ops source_link = {.send = port_source_send};
static const struct hf_transport_ops destination_link = {.send = port_destination_send, .fetch = port_fetch};
static const struct hf_vm_ops source_vm = {.request = port_source_vm};
static const struct hf_vm_ops destination_vm = {.request = port_destination_vm};
static const struct hf_recorder_ops source_recorder = {.request = port_source_record};
static const struct hf_recorder_ops destination_recorder = {.request = port_destination_record};
static const struct hf_source_memory_ops source_memory = {.chunk = port_chunk, .presence = port_presence};
static const struct hf_memory_ops destination_memory = {
    .prepare = port_prepare,
    .landing = port_landing,
    .place = port_place,
    .place_zero = port_place_zero,
    .place_again = port_place_zero,
    .clear = port_no_clear,
    .kick = port_kick,
    .release = port_no_release,
};

/* ---- entries ----------------------------------------------------------------------------------- */

ENTRY int enter_create(struct engines *e, struct hf_err *err)
{
	const struct hf_clock clock = {.now_ns = port_now_ns, .self = e};
	const struct hf_source_config source = {
	    .vm_name = "here",
	    .blocks = &e->blocks,
	    .clock = clock,
	    .memory = {.ops = &source_memory, .self = e},
	    .transport = {.ops = &source_link, .self = e},
	    .vm = {.ops = &source_vm, .self = e},
	    .recorder = {.ops = &source_recorder, .self = e},
	};
	const struct hf_destination_config destination = {
	    .vm_name = "there",
	    .blocks = &e->blocks,
	    .vcpu_thread_ids = e->thread_ids,
	    .vcpus = e->shape->vcpus,
	    .clock = clock,
	    .memory = {.ops = &destination_memory, .self = e, .placement = HF_PLACEMENT_CONTINUE},
	    .transport = {.ops = &destination_link, .self = e},
	    .vm = {.ops = &destination_vm, .self = e},
	    .recorder = {.ops = &destination_recorder, .self = e},
	};
	int result = hf_source_create(&e->source, &source, err);
	return result ? result : hf_destination_create(&e->destination, &destination, err);
}

ENTRY void enter_link_up(struct engines *e)
{
	const struct hf_link_info link = {.epoch = 1,
					  .version = 1,
					  .features = HF_WIRE_FEATURE_RECOVER,
					  .channels = {1, 1},
					  .capacity_chunks = {CHUNKS_MAX, CHUNKS_MAX},
					  .name = "nothing"};
	hf_destination_events.link_up(e->destination, &link);
	hf_source_events.link_up(e->source, &link);
}

ENTRY void enter_message(struct engines *e, enum side side, const struct message *message)
{
	if (side == SOURCE)
		hf_source_events.message(e->source, 1, message->type, message->payload, message->bytes);
	else
		hf_destination_events.message(e->destination, 1, message->type, message->payload,
					      message->bytes);
}

ENTRY void enter_vm_done(struct engines *e, enum side side, const struct hf_vm_result *result)
{
	if (side == SOURCE)
		hf_source_vm_done(e->source, result);
	else
		hf_destination_vm_done(e->destination, result);
}

ENTRY void enter_recorded(struct engines *e, enum side side, enum hf_record record)
{
	if (side == SOURCE)
		hf_source_recorded(e->source, record, 0, NULL);
	else
		hf_destination_recorded(e->destination, record, 0, NULL);
}

ENTRY void enter_memory_ready(struct engines *e)
{
	hf_destination_memory_ready(e->destination, 0, NULL);
}

ENTRY enum hf_work_next enter_work(struct engines *e, enum hf_work_class class)
{
	return hf_destination_work(e->destination, class);
}

ENTRY int enter_serve(struct engines *e, const struct hf_serve_request *request, struct hf_err *err)
{
	struct hf_serve_reply reply;
	return hf_source_events.serve(e->source, request, &reply, err);
}

ENTRY void enter_fetch_done(struct engines *e, const struct hf_fetch_done *done)
{
	hf_destination_events.fetch_done(e->destination, done);
}

ENTRY void enter_fault(struct engines *e, uint32_t page, uint32_t vcpu)
{
	hf_destination_fault(e->destination, 0, page, FIRST_THREAD + vcpu, e->now_ns);
}

/* ---- the loop: each step is false if there was nothing to do ----------------------------------- */

static bool hear(struct engines *e, enum side side)
{
	struct inbox *inbox = &e->inboxes[side];
	if (inbox->count == 0)
		return false;
	enter_message(e, side, &inbox->messages[inbox->first]);
	inbox->first = (inbox->first + 1) % MESSAGES_MAX;
	inbox->count--;
	return true;
}

static uint64_t memory_bytes(void)
{
	struct mallinfo2 info = mallinfo2();
	return info.uordblks + info.hblkhd;
}

static void note_run(struct engines *e)
{
	e->runs = true;
	e->allocations_at_run = e->shape->allocations ? e->shape->allocations() : 0;
	e->figures->memory_bytes = memory_bytes() - e->memory_before_bytes;
}

static bool answer_vm(struct engines *e, enum side side)
{
	for (int op = 0; op < HF_VM_OPS; op++) {
		if (!e->inboxes[side].vm_asked[op])
			continue;
		struct hf_vm_result result = {.op = (enum hf_vm_op)op};
		if (op == HF_VM_SAVE) {
			result.data = DEVICE_STATE;
			result.length_bytes = sizeof(DEVICE_STATE);
		}
		e->inboxes[side].vm_asked[op] = false;
		if (side == DESTINATION && op == HF_VM_RUN)
			note_run(e);
		enter_vm_done(e, side, &result);
		return true;
	}
	return false;
}

static bool answer_recorder(struct engines *e, enum side side)
{
	enum hf_record record = e->inboxes[side].record_asked;
	e->inboxes[side].record_asked = HF_RECORD_NONE;
	if (record != HF_RECORD_NONE)
		enter_recorded(e, side, record);
	return record != HF_RECORD_NONE;
}

static bool answer_memory(struct engines *e)
{
	bool prepared = e->prepare_asked;
	e->prepare_asked = false;
	if (prepared)
		enter_memory_ready(e);
	for (int class = 0; class < HF_WORK_CLASSES; class ++)
		if (e->kicked[class]) {
			e->kicked[class] = false;
			while (enter_work(e, (enum hf_work_class) class) == HF_WORK_MORE)
				continue;
			return true;
		}
	return prepared;
}

/* Served and landed. */
static bool land_oldest(struct engines *e, int *result, struct hf_err *err)
{
	struct fetches *fetches = &e->fetches;
	if (fetches->count == 0)
		return false;
	const struct hf_fetch fetch = fetches->ring[fetches->first];
	fetches->first = (fetches->first + 1) % FETCHES_MAX;
	fetches->count--;
	fetches->of_class[fetch.class]--;
	const struct hf_serve_request request = {.epoch = fetch.epoch,
						 .offset_bytes = fetch.offset_bytes,
						 .block = fetch.block,
						 .length_bytes = fetch.length_bytes,
						 .class = fetch.class};
	*result = enter_serve(e, &request, err);
	e->now_ns += fetch.length_bytes / LINK_BYTES_NS;
	e->figures->chunks++;
	enter_fetch_done(e, &(struct hf_fetch_done){.id = fetch.id, .epoch = fetch.epoch});
	return *result == 0;
}

/* A page that is not placed: at random, and the next one of these from there. */
static uint32_t page_to_fault(struct engines *e)
{
	e->random = e->random * 6364136223846793005ull + 1442695040888963407ull;
	uint32_t page = (uint32_t)((e->random >> 32) % e->blocks.pages_total);
	while (e->placed[page])
		page = (page + 1) % e->blocks.pages_total;
	return page;
}

static bool fault(struct engines *e)
{
	if (!e->runs || e->idle_count == 0 || e->faults_left == 0 || e->placed_count == e->blocks.pages_total)
		return false;
	uint32_t vcpu = e->idle[--e->idle_count], page = page_to_fault(e);
	e->waiting_next[vcpu] = e->waiting[page];
	e->waiting[page] = vcpu;
	e->faults_left--;
	e->figures->faults++;
	if (++e->waiting_count > e->figures->waiting_max)
		e->figures->waiting_max = e->waiting_count;
	enter_fault(e, page, vcpu);
	return true;
}

static int run(struct engines *e, struct hf_err *err)
{
	int result = 0;
	enter_link_up(e);
	while (result == 0 &&
	       (hear(e, SOURCE) || hear(e, DESTINATION) || answer_recorder(e, SOURCE) ||
		answer_recorder(e, DESTINATION) || answer_vm(e, SOURCE) || answer_vm(e, DESTINATION) ||
		answer_memory(e) || fault(e) || land_oldest(e, &result, err)))
		continue;
	return result;
}

/* ---- a migration ------------------------------------------------------------------------------- */

static int allocate(struct engines *e, struct hf_err *err)
{
	int result = hf_ramblocks_add(&e->blocks, "ram", e->shape->guest_bytes, e->shape->page_bytes, err);
	if (result)
		return result;
	uint32_t pages = e->blocks.pages_total, vcpus = e->shape->vcpus;
	e->placed = calloc(pages, sizeof(*e->placed));
	e->waiting = malloc(pages * sizeof(*e->waiting));
	e->waiting_next = malloc(vcpus * sizeof(*e->waiting_next));
	e->idle = malloc(vcpus * sizeof(*e->idle));
	e->thread_ids = malloc(vcpus * sizeof(*e->thread_ids));
	for (int side = 0; side < SIDES; side++)
		e->inboxes[side].messages = malloc(MESSAGES_MAX * sizeof(struct message));
	if (!e->placed || !e->waiting || !e->waiting_next || !e->idle || !e->thread_ids ||
	    !e->inboxes[SOURCE].messages || !e->inboxes[DESTINATION].messages)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	memset(e->waiting, 0xff, pages * sizeof(*e->waiting));
	for (uint32_t vcpu = 0; vcpu < vcpus; vcpu++) {
		e->thread_ids[vcpu] = FIRST_THREAD + vcpu;
		e->idle[e->idle_count++] = vcpu;
	}
	e->faults_left = (uint64_t)pages * e->shape->faulted_percent / 100;
	e->figures->pages = pages;
	return 0;
}

static void release(struct engines *e)
{
	hf_destination_destroy(e->destination);
	hf_source_destroy(e->source);
	hf_ramblocks_destroy(&e->blocks);
	for (int side = 0; side < SIDES; side++)
		free(e->inboxes[side].messages);
	free(e->thread_ids);
	free(e->idle);
	free(e->waiting_next);
	free(e->waiting);
	free(e->placed);
	free(e);
}

static int check_completed(const struct engines *e, struct hf_err *err)
{
	struct hf_source_snapshot source;
	struct hf_destination_snapshot destination;
	hf_source_snapshot(e->source, &source);
	hf_destination_snapshot(e->destination, &destination);
	if (e->overflow)
		return hf_err_set(err, HF_ERR_LOCAL, EOVERFLOW,
				  "more messages at once than there is room for");
	if (source.status != HF_STATUS_COMPLETED || destination.status != HF_STATUS_COMPLETED)
		return hf_err_set(err, HF_ERR_LOCAL, EIO, "the engines are stuck: %s, %s",
				  hf_status_name(source.status), hf_status_name(destination.status));
	return 0;
}

int hf_engines_migrate(const struct hf_engines_shape *shape, struct hf_engines_figures *figures,
		       struct hf_err *err)
{
	struct engines *e = calloc(1, sizeof(*e));
	if (!e)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	*figures = (struct hf_engines_figures){0};
	e->shape = shape;
	e->figures = figures;
	e->random = SEED;
	e->now_ns = 1;
	hf_ramblocks_init(&e->blocks);
	int result = allocate(e, err);
	e->memory_before_bytes = memory_bytes();
	if (result == 0)
		result = enter_create(e, err);
	if (result == 0)
		result = run(e, err);
	if (result == 0)
		result = check_completed(e, err);
	release(e);
	return result;
}
