/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/hugemem/incoming_rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/destination.h"

/* ---- the engine ---- */

uint64_t monotonic_ns(void *self)
{
	struct timespec now;

	(void)self;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void engine_ready(void *opaque, int result, const struct hf_err *err)
{
	struct engine *engine = opaque;

	engine->ready_result = result;
	if (err)
		engine->ready_err = *err;
	atomic_store(&engine->ready, true);
}

static int engine_prepare_program(void *opaque, struct hf_err *err)
{
	const struct engine *engine = opaque;

	return engine->refuses ? hf_err_set(err, HF_ERR_LOCAL, EPERM, "%s", engine->refuses) : 0;
}

static void engine_fault(void *opaque, uint32_t block, uint64_t page, uint32_t thread_id, uint64_t arrived_ns)
{
	struct engine *engine = opaque;

	pthread_mutex_lock(&engine->lock);
	if (engine->fault_count < FAULTS_MAX)
		engine->faults[engine->fault_count++] = (struct fault){block, page, thread_id, arrived_ns};
	pthread_mutex_unlock(&engine->lock);
}

static void engine_failed(void *opaque, const struct hf_err *err)
{
	struct engine *engine = opaque;

	pthread_mutex_lock(&engine->lock);
	engine->failures++;
	engine->failure = *err;
	pthread_mutex_unlock(&engine->lock);
}

static int engine_work(void *opaque, enum hf_work_class class)
{
	(void)opaque;
	(void)class;
	return HF_WORK_IDLE;
}

static bool is_ready(void *opaque)
{
	return atomic_load(&((struct engine *)opaque)->ready);
}

struct awaited {
	struct engine *engine;
	const struct toucher *toucher;
	uint32_t thread_id;
	struct fault found;
};

static bool fault_of_thread_is_there(void *opaque)
{
	struct awaited *awaited = opaque;
	bool there = false;

	if (toucher_is_done(awaited->toucher))
		fail_msg("a touch ended without a fault");
	pthread_mutex_lock(&awaited->engine->lock);
	for (unsigned i = 0; i < awaited->engine->fault_count && !there; i++) {
		there = awaited->engine->faults[i].thread_id == awaited->thread_id;
		if (there)
			awaited->found = awaited->engine->faults[i];
	}
	pthread_mutex_unlock(&awaited->engine->lock);
	return there;
}

bool has_faulted(struct destination *d, uint32_t block, uint64_t page)
{
	bool found = false;

	pthread_mutex_lock(&d->engine.lock);
	for (unsigned i = 0; i < d->engine.fault_count && !found; i++)
		found = d->engine.faults[i].block == block && d->engine.faults[i].page == page;
	pthread_mutex_unlock(&d->engine.lock);
	return found;
}

/* Waits until the toucher's fault has been delivered, checks where it is. */
void expect_fault(struct destination *destination, struct toucher *toucher, uint32_t block, uint64_t page)
{
	struct awaited awaited = {
	    .engine = &destination->engine, .toucher = toucher, .thread_id = toucher_thread_id(toucher)};

	wait_until(fault_of_thread_is_there, &awaited, "a fault");
	assert_int_equal(awaited.found.block, block);
	assert_int_equal(awaited.found.page, page);
	assert_false(toucher_is_done(toucher));
}

/* ---- the VMM and the agent ---- */

void make_guest_memory(struct destination *d)
{
	for (uint32_t block = 0; block < d->block_count; block++) {
		if (d->fd[block] < 0)
			d->fd[block] = ram_file_anonymous(d->page_size_bytes, d->pages);
		d->vmm[block] = ram_map(d->fd[block], d->pages * d->page_size_bytes, d->private_memory);
	}
}

static const char *idstr_of(uint32_t block)
{
	return block == 0 ? "ram0" : "ram1";
}

void name_blocks(struct destination *d)
{
	for (uint32_t block = 0; block < d->block_count; block++)
		assert_int_equal(hf_ramblocks_add(&d->blocks, idstr_of(block), d->pages * d->page_size_bytes,
						  d->page_size_bytes, NULL),
				 0);
}

void lend_memory(struct destination *d)
{
	const struct hf_attach_options options = {.socket_path = d->socket_path, .vm_name = "guest"};

	assert_int_equal(hf_attach_create(&d->attach, &options, &d->err), 0);
	for (uint32_t block = 0; block < d->block_count; block++) {
		const struct hf_attach_region region = {.idstr = idstr_of(block),
							.address = d->vmm[block],
							.length_bytes = d->pages * d->page_size_bytes,
							.page_size_bytes = d->page_size_bytes,
							.fd = d->private_memory ? -1 : d->fd[block]};
		if (hf_attach_add(d->attach, &region, &d->err))
			fail_msg("%s", d->err.text);
	}
	assert_int_equal(hf_attach_start(d->attach, &d->err), 0);
}

void connect_agent(struct destination *d)
{
	if (hf_attach_client_connect(&d->client, d->socket_path, &d->err))
		fail_msg("%s", d->err.text);
}

void attach_vmm(struct destination *d)
{
	name_blocks(d);
	lend_memory(d);
	connect_agent(d);
}

int create_port(struct destination *d)
{
	const struct hf_incoming_memory_config config = {.attach = d->client,
							 .blocks = &d->blocks,
							 .choice = d->choice,
							 .staging_slots = d->slots,
							 .clock = {.now_ns = monotonic_ns},
							 .taken_over = d->taken_over,
							 .ready = engine_ready,
							 .prepare_program = engine_prepare_program,
							 .fault = engine_fault,
							 .failed = engine_failed,
							 .work = engine_work};

	int result = hf_incoming_memory_create(&d->memory, &config, &d->err);
	if (result == 0)
		d->port = hf_incoming_memory_port(d->memory);
	return result;
}

/* The result that ready() reported. */
int prepare(struct destination *d)
{
	assert_int_equal(hf_incoming_memory_start(d->memory, &d->engine, &d->err), 0);
	assert_int_equal(d->port.ops->prepare(d->memory), 0);
	wait_until(is_ready, &d->engine, "the memory to be ready");
	return d->engine.ready_result;
}

void bring_up(struct destination *d)
{
	make_guest_memory(d);
	attach_vmm(d);
	if (create_port(d))
		fail_msg("%s", d->err.text);
	if (prepare(d))
		fail_msg("%s", d->engine.ready_err.text);
	assert_int_equal(hf_attach_wait_armed(d->attach, WAIT_LIMIT_MS), 0);
}

int set_up(void **state)
{
	struct destination *d = calloc(1, sizeof(*d));

	if (!d)
		return -1;
	d->choice = *state ? *(const enum hf_placement_choice *)*state : HF_PLACEMENT_CHOICE_AUTO;
	d->slots = SLOTS;
	d->block_count = BLOCKS;
	d->page_size_bytes = HUGE_BYTES;
	d->pages = PAGES;
	d->fd[0] = d->fd[1] = d->hog_fd = -1;
	hf_ramblocks_init(&d->blocks);
	pthread_mutex_init(&d->engine.lock, NULL);
	strcpy(d->directory, "/tmp/hf-test-XXXXXX");
	if (!mkdtemp(d->directory))
		return -1;
	snprintf(d->socket_path, sizeof(d->socket_path), "%s/attach", d->directory);
	*state = d;
	return 0;
}

int tear_down(void **state)
{
	struct destination *d = *state;

	/* Whoever still waits needs a page. */
	if (d->hog_fd >= 0) {
		ram_punch(d->hog_fd, 0, 2 * HUGE_BYTES);
		close(d->hog_fd);
	}
	hf_incoming_memory_destroy(d->memory);
	hf_attach_client_destroy(d->client);
	hf_attach_destroy(d->attach);
	touchers_end();
	for (uint32_t block = 0; block < d->block_count; block++) {
		if (d->vmm[block])
			munmap(d->vmm[block], d->pages * d->page_size_bytes);
		if (d->fd[block] >= 0)
			close(d->fd[block]);
	}
	hf_ramblocks_destroy(&d->blocks);
	pthread_mutex_destroy(&d->engine.lock);
	rmdir(d->directory);
	if (d->reserved_more)
		host_pages_give_back_last();
	free(d);
	return 0;
}

uint8_t *guest_page(struct destination *d, uint32_t block, uint64_t page)
{
	return d->vmm[block] + page * d->page_size_bytes;
}

void land(struct destination *d, uint32_t block, uint64_t page, uint32_t slot, uint8_t value)
{
	memset(d->port.ops->landing(d->memory, block, page, slot), value, d->page_size_bytes);
}

void place(struct destination *d, uint32_t block, uint64_t page, uint32_t slot)
{
	if (d->port.ops->place(d->memory, block, page, slot, &d->err))
		fail_msg("%s", d->err.text);
}

void land_and_place(struct destination *d, uint32_t block, uint64_t page, uint8_t value)
{
	land(d, block, page, 0, value);
	place(d, block, page, 0);
}

void place_zero(struct destination *d, uint32_t block, uint64_t page)
{
	if (d->port.ops->place_zero(d->memory, block, page, &d->err))
		fail_msg("%s", d->err.text);
}

void place_again(struct destination *d, uint32_t block, uint64_t page)
{
	if (d->port.ops->place_again(d->memory, block, page, &d->err))
		fail_msg("%s", d->err.text);
}

/* ---- the group ---- */

int reserve_pages(void **state)
{
	(void)state;
	return host_pages_reserve(HUGE_BYTES, 4 * BLOCKS * PAGES + SLOTS);
}

int give_back_pages(void **state)
{
	(void)state;
	host_pages_give_back();
	return 0;
}
