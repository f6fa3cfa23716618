/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination's memory port against a real kernel. This process is the VMM (its threads touch guest
 * memory) and the agent (the port) at once; both meet over a real attach socket.
 */
#include "tests/unit/hugemem/host_fixture.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "core/destination.h"
#include "hugemem/attach.h"
#include "hugemem/guest_memory.h"
#include "hugemem/incoming_internal.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/userfault.h"

#define BLOCKS	   2u
#define PAGES	   4u /* of each block */
#define SLOTS	   4u
#define FAULTS_MAX 64

struct fault {
	uint32_t block;
	uint64_t page;
	uint32_t thread_id;
	uint64_t arrived_ns;
};

/* Stands where the engine stands. */
struct engine {
	pthread_mutex_t lock;
	struct fault faults[FAULTS_MAX];
	unsigned fault_count;
	atomic_bool ready;
	int ready_result;
	struct hf_err ready_err;
};

struct destination {
	enum hf_placement_choice choice;
	bool private_memory;
	uint32_t slots;
	uint32_t block_count;
	uint64_t page_size_bytes;
	uint64_t pages;
	int fd[BLOCKS];
	int hog_fd; /* fills the limited mount of fd[0]; -1: none */
	uint8_t *vmm[BLOCKS];
	char directory[32], socket_path[64];
	struct hf_attach *attach;
	struct hf_attach_client *client;
	struct hf_ramblocks blocks;
	struct hf_incoming_memory *memory;
	struct hf_memory port;
	struct engine engine;
	struct hf_err err;
};

/* ---- the engine ---- */

static uint64_t monotonic_ns(void *self)
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

static void engine_fault(void *opaque, uint32_t block, uint64_t page, uint32_t thread_id, uint64_t arrived_ns)
{
	struct engine *engine = opaque;

	pthread_mutex_lock(&engine->lock);
	if (engine->fault_count < FAULTS_MAX)
		engine->faults[engine->fault_count++] = (struct fault){block, page, thread_id, arrived_ns};
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
	uint32_t thread_id;
	struct fault found;
};

static bool fault_of_thread_is_there(void *opaque)
{
	struct awaited *awaited = opaque;
	bool there = false;

	pthread_mutex_lock(&awaited->engine->lock);
	for (unsigned i = 0; i < awaited->engine->fault_count && !there; i++) {
		there = awaited->engine->faults[i].thread_id == awaited->thread_id;
		if (there)
			awaited->found = awaited->engine->faults[i];
	}
	pthread_mutex_unlock(&awaited->engine->lock);
	return there;
}

/* Waits until the toucher's fault has been delivered, checks where it is. */
static void expect_fault(struct destination *destination, struct toucher *toucher, uint32_t block,
			 uint64_t page)
{
	struct awaited awaited = {.engine = &destination->engine, .thread_id = toucher_thread_id(toucher)};

	wait_until(fault_of_thread_is_there, &awaited, "a fault");
	assert_int_equal(awaited.found.block, block);
	assert_int_equal(awaited.found.page, page);
	assert_false(toucher_is_done(toucher));
}

/* ---- the VMM and the agent ---- */

static void make_guest_memory(struct destination *d)
{
	for (uint32_t block = 0; block < d->block_count; block++) {
		if (d->fd[block] < 0)
			d->fd[block] = ram_file_anonymous(d->page_size_bytes, d->pages);
		d->vmm[block] = ram_map(d->fd[block], d->pages * d->page_size_bytes, d->private_memory);
	}
}

static void attach_vmm(struct destination *d)
{
	const struct hf_attach_options options = {.socket_path = d->socket_path, .vm_name = "guest"};

	assert_int_equal(hf_attach_create(&d->attach, &options, &d->err), 0);
	for (uint32_t block = 0; block < d->block_count; block++) {
		char idstr[16];
		snprintf(idstr, sizeof(idstr), "ram%u", block);
		const struct hf_attach_region region = {.idstr = idstr,
							.address = d->vmm[block],
							.length_bytes = d->pages * d->page_size_bytes,
							.page_size_bytes = d->page_size_bytes,
							.fd = d->private_memory ? -1 : d->fd[block]};
		if (hf_attach_add(d->attach, &region, &d->err))
			fail_msg("%s", d->err.text);
		assert_int_equal(
		    hf_ramblocks_add(&d->blocks, idstr, region.length_bytes, region.page_size_bytes, NULL),
		    0);
	}
	assert_int_equal(hf_attach_start(d->attach, &d->err), 0);
	if (hf_attach_client_connect(&d->client, d->socket_path, &d->err))
		fail_msg("%s", d->err.text);
}

static int create_port(struct destination *d)
{
	const struct hf_incoming_memory_config config = {.attach = d->client,
							 .blocks = &d->blocks,
							 .choice = d->choice,
							 .staging_slots = d->slots,
							 .clock = {.now_ns = monotonic_ns},
							 .ready = engine_ready,
							 .fault = engine_fault,
							 .work = engine_work};

	int result = hf_incoming_memory_create(&d->memory, &config, &d->err);
	if (result == 0)
		d->port = hf_incoming_memory_port(d->memory);
	return result;
}

/* The result that ready() reported. */
static int prepare(struct destination *d)
{
	assert_int_equal(hf_incoming_memory_start(d->memory, &d->engine, &d->err), 0);
	assert_int_equal(d->port.ops->prepare(d->memory), 0);
	wait_until(is_ready, &d->engine, "the memory to be ready");
	return d->engine.ready_result;
}

static void bring_up(struct destination *d)
{
	make_guest_memory(d);
	attach_vmm(d);
	if (create_port(d))
		fail_msg("%s", d->err.text);
	if (prepare(d))
		fail_msg("%s", d->engine.ready_err.text);
	assert_int_equal(hf_attach_wait_armed(d->attach, WAIT_LIMIT_MS), 0);
}

static int set_up(void **state)
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

static int tear_down(void **state)
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
	free(d);
	return 0;
}

static uint8_t *guest_page(struct destination *d, uint32_t block, uint64_t page)
{
	return d->vmm[block] + page * d->page_size_bytes;
}

static void land(struct destination *d, uint32_t block, uint64_t page, uint32_t slot, uint8_t value)
{
	memset(d->port.ops->landing(d->memory, block, page, slot), value, d->page_size_bytes);
}

static void place(struct destination *d, uint32_t block, uint64_t page, uint32_t slot)
{
	if (d->port.ops->place(d->memory, block, page, slot, &d->err))
		fail_msg("%s", d->err.text);
}

static void land_and_place(struct destination *d, uint32_t block, uint64_t page, uint8_t value)
{
	land(d, block, page, 0, value);
	place(d, block, page, 0);
}

static void place_zero(struct destination *d, uint32_t block, uint64_t page)
{
	if (d->port.ops->place_zero(d->memory, block, page, &d->err))
		fail_msg("%s", d->err.text);
}

static void place_again(struct destination *d, uint32_t block, uint64_t page)
{
	if (d->port.ops->place_again(d->memory, block, page, &d->err))
		fail_msg("%s", d->err.text);
}

/* ---- both placements ---- */

static void a_fault_names_block_page_and_thread_and_placing_wakes_it(void **state)
{
	struct destination *d = *state;
	struct toucher first = {0}, second = {.write = true};

	bring_up(d);
	uint64_t before_ns = monotonic_ns(NULL);
	toucher_start(&first, guest_page(d, 0, 3) + 12345);
	expect_fault(d, &first, 0, 3);
	toucher_start(&second, guest_page(d, 1, 0));
	expect_fault(d, &second, 1, 0);
	assert_true(d->engine.faults[0].arrived_ns >= before_ns);
	assert_true(d->engine.faults[0].arrived_ns <= monotonic_ns(NULL));

	land_and_place(d, 0, 3, 0xa5);
	assert_int_equal(toucher_join(&first), 0xa5);
	assert_false(toucher_is_done(&second));
	land_and_place(d, 1, 0, 0x5a);
	assert_int_equal(toucher_join(&second), 0x5a);
	assert_page_filled(guest_page(d, 0, 3), HUGE_BYTES, 0xa5);
	assert_int_equal(*guest_page(d, 1, 0), 0x5b);
}

static void several_threads_may_wait_for_one_page(void **state)
{
	struct destination *d = *state;
	struct toucher touchers[4] = {0};

	bring_up(d);
	for (unsigned i = 0; i < 4; i++) {
		toucher_start(&touchers[i], guest_page(d, 1, 2) + i);
		expect_fault(d, &touchers[i], 1, 2);
	}
	land_and_place(d, 1, 2, 7);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(toucher_join(&touchers[i]), 7);
}

static void a_half_landed_page_is_not_visible(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	bring_up(d);
	memset(d->port.ops->landing(d->memory, 0, 1, 0), 9, HUGE_BYTES / 2);
	toucher_start(&toucher, guest_page(d, 0, 1));
	expect_fault(d, &toucher, 0, 1);
	assert_false(page_is_mapped(guest_page(d, 0, 1)));
	land_and_place(d, 0, 1, 9);
	assert_int_equal(toucher_join(&toucher), 9);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 9);
}

static void a_page_may_be_placed_before_any_fault(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	land_and_place(d, 1, 3, 42);
	assert_true(page_is_mapped(guest_page(d, 1, 3)));
	assert_page_filled(guest_page(d, 1, 3), HUGE_BYTES, 42);
	assert_int_equal(d->engine.fault_count, 0);
}

static void placing_a_page_that_is_there_keeps_what_the_guest_wrote(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	land_and_place(d, 0, 0, 1);
	*guest_page(d, 0, 0) = 77;
	place(d, 0, 0, 0);
	place_again(d, 0, 0);
	assert_int_equal(*guest_page(d, 0, 0), 77);
}

/* Makes a page visible without waking anyone, as if the kernel's wake had been lost. */
static void show_without_waking(struct destination *d, uint32_t block, uint64_t page)
{
	int fd = d->memory->placer.userfault_fd;
	uint64_t address = (uintptr_t)guest_page(d, block, page);
	struct uffdio_continue show = {.range = {address, HUGE_BYTES}, .mode = UFFDIO_CONTINUE_MODE_DONTWAKE};
	struct uffdio_copy fill = {.dst = address,
				   .src = (uintptr_t)d->port.ops->landing(d->memory, block, page, 0),
				   .len = HUGE_BYTES,
				   .mode = UFFDIO_COPY_MODE_DONTWAKE};

	if (d->port.placement == HF_PLACEMENT_CONTINUE)
		assert_int_equal(ioctl(fd, UFFDIO_CONTINUE, &show), 0);
	else
		assert_int_equal(ioctl(fd, UFFDIO_COPY, &fill), 0);
}

static void placing_a_page_that_is_there_wakes_who_still_waits(void **state)
{
	struct destination *d = *state;
	struct toucher first = {0}, second = {0};

	bring_up(d);
	toucher_start(&first, guest_page(d, 0, 0));
	expect_fault(d, &first, 0, 0);
	toucher_start(&second, guest_page(d, 1, 0));
	expect_fault(d, &second, 1, 0);
	land(d, 0, 0, 0, 4);
	show_without_waking(d, 0, 0);
	land(d, 1, 0, 0, 5);
	show_without_waking(d, 1, 0);
	place(d, 0, 0, 0);
	assert_int_equal(toucher_join(&first), 4);
	assert_false(toucher_is_done(&second));
	place_again(d, 1, 0);
	assert_int_equal(toucher_join(&second), 5);
}

static void a_zero_page_reads_as_zeros_and_can_be_written(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {.write = true};

	bring_up(d);
	toucher_start(&toucher, guest_page(d, 0, 2));
	expect_fault(d, &toucher, 0, 2);
	place_zero(d, 0, 2);
	assert_int_equal(toucher_join(&toucher), 0);
	assert_int_equal(*guest_page(d, 0, 2), 1);
	place_zero(d, 0, 3);
	assert_page_filled(guest_page(d, 0, 3), HUGE_BYTES, 0);
	*guest_page(d, 0, 2) = 0;
	assert_page_filled(guest_page(d, 0, 2), HUGE_BYTES, 0);
}

static void again_after_dontneed_shows_the_same_content(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	bring_up(d);
	land_and_place(d, 0, 1, 33);
	assert_int_equal(madvise(guest_page(d, 0, 1), HUGE_BYTES, MADV_DONTNEED), 0);
	toucher_start(&toucher, guest_page(d, 0, 1));
	expect_fault(d, &toucher, 0, 1);
	place_again(d, 0, 1);
	assert_int_equal(toucher_join(&toucher), 33);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 33);
}

static void again_after_a_punched_hole_gives_zeros(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	bring_up(d);
	land_and_place(d, 1, 1, 33);
	ram_punch(d->fd[1], HUGE_BYTES, HUGE_BYTES);
	assert_false(page_is_mapped(guest_page(d, 1, 1)));
	toucher_start(&toucher, guest_page(d, 1, 1));
	expect_fault(d, &toucher, 1, 1);
	place_again(d, 1, 1);
	assert_int_equal(toucher_join(&toucher), 0);
	assert_page_filled(guest_page(d, 1, 1), HUGE_BYTES, 0);
}

static void release_wakes_waiters_and_lets_the_rest_go(void **state)
{
	struct destination *d = *state;
	struct toucher waiting = {0};

	bring_up(d);
	land_and_place(d, 0, 0, 8);
	toucher_start(&waiting, guest_page(d, 1, 3));
	expect_fault(d, &waiting, 1, 3);
	unsigned faults = d->engine.fault_count;
	assert_int_equal(d->port.ops->release(d->memory, &d->err), 0);
	assert_int_equal(toucher_join(&waiting), 0);
	assert_int_equal(*guest_page(d, 1, 2), 0);
	assert_int_equal(*guest_page(d, 0, 0), 8);
	hf_incoming_memory_stop(d->memory);
	assert_int_equal(d->engine.fault_count, faults);
	assert_false(hf_attach_armed(d->attach));
}

static void stop_with_a_pending_fault_leaves_the_page_missing(void **state)
{
	struct destination *d = *state;
	struct toucher waiting = {0};
	struct uffd_msg message;
	int fd;

	bring_up(d);
	toucher_start(&waiting, guest_page(d, 1, 1));
	expect_fault(d, &waiting, 1, 1);
	hf_incoming_memory_destroy(d->memory);
	d->memory = NULL;
	hf_attach_client_destroy(d->client);
	d->client = NULL;
	assert_false(page_is_mapped(guest_page(d, 1, 1)));

	/* The next agent is given the same registration, and the fault is raised again. */
	assert_int_equal(hf_attach_client_connect(&d->client, d->socket_path, &d->err), 0);
	assert_int_equal(hf_attach_client_userfault(d->client, HF_USERFAULT_MISSING | HF_USERFAULT_MINOR,
						    UFFD_FEATURE_THREAD_ID, &fd, &d->err),
			 0);
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	assert_int_equal(poll(&polled, 1, WAIT_LIMIT_MS), 1);
	assert_int_equal(read(fd, &message, sizeof(message)), sizeof(message));
	assert_int_equal(message.arg.pagefault.address, (uintptr_t)guest_page(d, 1, 1));
	assert_int_equal(message.arg.pagefault.feat.ptid, toucher_thread_id(&waiting));
	assert_false(toucher_is_done(&waiting));
	assert_int_equal(hf_attach_client_release(d->client, &d->err), 0);
	toucher_join(&waiting);
	close(fd);
}

static void a_stale_file_is_refused_naming_block_and_page(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	*guest_page(d, 1, 2) = 1;
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EEXIST);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram1': page 2 "));
	assert_false(hf_attach_armed(d->attach));
}

static void other_memory_than_was_lent_is_refused(void **state)
{
	struct destination *d = *state;
	int other = ram_file_anonymous(HUGE_BYTES, PAGES);

	make_guest_memory(d);
	attach_vmm(d);
	void *address = mmap(d->vmm[0] + HUGE_BYTES, HUGE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_NORESERVE | MAP_FIXED, other, 0);
	close(other);
	assert_ptr_equal(address, d->vmm[0] + HUGE_BYTES);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EINVAL);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram0'"));
}

/* ---- continue ---- */

static void the_page_of_zeros_needs_no_fault_to_be_read(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	const uint8_t *zeros = d->memory->placer.zeros;
	for (uint64_t at = 0; at < HUGE_BYTES; at += 4096)
		assert_true(page_is_mapped(zeros + at));
}

static void clear_zeros_a_landing_only_where_it_may_be_dirty(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	uint8_t *landing = d->port.ops->landing(d->memory, 0, 0, 0);
	bool zeroes_clean = d->port.placement == HF_PLACEMENT_COPY;
	landing[0] = landing[4096] = 1;
	d->port.ops->clear(d->memory, landing, 4096, false);
	assert_int_equal(landing[0], zeroes_clean ? 0 : 1);
	assert_int_equal(landing[4096], 1);
	landing[0] = 1;
	d->port.ops->clear(d->memory, landing, 4096, true);
	assert_int_equal(landing[0], 0);
	assert_int_equal(landing[4096], 1);
}

static void a_page_discarded_before_it_is_placed_becomes_zeros(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	land(d, 0, 1, 0, 5);
	ram_punch(d->fd[0], HUGE_BYTES, HUGE_BYTES);
	place(d, 0, 1, 0);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 0);
	ram_punch(d->fd[0], 2 * HUGE_BYTES, HUGE_BYTES);
	place_zero(d, 0, 2);
	assert_page_filled(guest_page(d, 0, 2), HUGE_BYTES, 0);
}

static void a_stop_ends_the_allocation(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	atomic_store(&d->memory->stopping, true);
	assert_int_equal(prepare(d), -ECANCELED);
	assert_int_equal(d->engine.ready_err.class, HF_ERR_CANCELLED);
	assert_int_equal(
	    hf_userfault_continue(d->memory->placer.userfault_fd, (uintptr_t)d->vmm[0], HUGE_BYTES), -EFAULT);
}

static void too_few_pages_to_allocate_says_how_many_are_missing(void **state)
{
	struct destination *d = *state;
	char missing[64];

	d->pages = host_pages_available(HUGE_BYTES) + 5;
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -ENOMEM);
	snprintf(missing, sizeof(missing), " %llu huge pages of 2 MiB are missing",
		 (unsigned long long)(d->pages + 5));
	assert_non_null(strstr(d->engine.ready_err.text, missing));
}

static void a_limit_of_the_mount_is_told_apart_from_an_empty_pool(void **state)
{
	struct destination *d = *state;

	d->fd[0] = ram_file_limited(PAGES, 2, &d->hog_fd);
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -ENOMEM);
	assert_non_null(strstr(d->engine.ready_err.text, "size limit of the hugetlbfs mount"));
}

/* ---- copy ---- */

static void copy_without_a_free_page_waits_until_there_is_one(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	d->fd[0] = ram_file_limited(PAGES, 2, &d->hog_fd);
	uint8_t *hog = ram_map(d->hog_fd, 2 * HUGE_BYTES, false);
	bring_up(d);
	land_and_place(d, 0, 0, 1);
	hog[0] = 1; /* the mount is full now */
	toucher_start(&toucher, guest_page(d, 0, 1));
	expect_fault(d, &toucher, 0, 1);
	land(d, 0, 1, 2, 50);
	assert_int_equal(d->port.ops->place(d->memory, 0, 1, 2, &d->err), -EAGAIN);
	assert_non_null(strstr(d->err.text, "block 'ram0' page 1"));
	assert_int_equal(d->port.ops->place(d->memory, 0, 1, 2, NULL), -EAGAIN);
	assert_int_equal(d->port.ops->place_zero(d->memory, 0, 2, &d->err), -EAGAIN);
	assert_false(page_is_mapped(guest_page(d, 0, 1)));
	assert_false(toucher_is_done(&toucher));

	munmap(hog, 2 * HUGE_BYTES);
	ram_punch(d->hog_fd, 0, 2 * HUGE_BYTES);
	place(d, 0, 1, 2);
	assert_int_equal(toucher_join(&toucher), 50);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 50);
}

static void a_page_in_the_file_that_nobody_placed_is_not_taken_for_placed(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	uint8_t *foreign = ram_map(d->fd[0], PAGES * HUGE_BYTES, false);
	foreign[0] = 99;
	land(d, 0, 0, 0, 1);
	assert_int_equal(d->port.ops->place(d->memory, 0, 0, 0, &d->err), -EAGAIN);
	assert_non_null(strstr(d->err.text, "another process"));
	assert_false(page_is_mapped(guest_page(d, 0, 0)));
	munmap(foreign, PAGES * HUGE_BYTES);
}

static void too_few_pages_for_staging_is_said_at_once(void **state)
{
	struct destination *d = *state;

	d->slots = 4000;
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -ENOMEM);
	assert_non_null(strstr(d->engine.ready_err.text, "staging"));
}

static void default_slots_are_sixteen_of_two_mebibytes(void **state)
{
	struct destination *d = *state;

	d->slots = 0;
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(d->port.slots, 16);
}

/* ---- private memory ---- */

static void private_memory_is_placed_by_copy(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	d->private_memory = true;
	bring_up(d);
	assert_int_equal(d->port.placement, HF_PLACEMENT_COPY);
	assert_non_null(strstr(hf_incoming_memory_reason(d->memory), "'ram0' is private"));
	toucher_start(&toucher, guest_page(d, 1, 1));
	expect_fault(d, &toucher, 1, 1);
	land_and_place(d, 1, 1, 3);
	assert_int_equal(toucher_join(&toucher), 3);
	place_zero(d, 1, 2);
	assert_page_filled(guest_page(d, 1, 2), HUGE_BYTES, 0);
}

static void private_memory_without_a_free_page_waits_until_there_is_one(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	copy_without_a_free_page_waits_until_there_is_one(state);
}

static void a_private_waiter_of_a_page_that_is_there_is_woken(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	placing_a_page_that_is_there_wakes_who_still_waits(state);
}

static void private_memory_that_was_dropped_gets_zeros_again(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	d->private_memory = true;
	bring_up(d);
	land_and_place(d, 0, 0, 3);
	place_again(d, 0, 0);
	assert_int_equal(*guest_page(d, 0, 0), 3);
	assert_int_equal(madvise(guest_page(d, 0, 0), HUGE_BYTES, MADV_DONTNEED), 0);
	toucher_start(&toucher, guest_page(d, 0, 0));
	expect_fault(d, &toucher, 0, 0);
	place_again(d, 0, 0);
	assert_int_equal(toucher_join(&toucher), 0);
}

static void touched_private_memory_is_refused(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	make_guest_memory(d);
	*guest_page(d, 0, 3) = 1;
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EEXIST);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram0': page 3 "));
}

static void a_private_mapping_of_a_used_file_is_refused(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	make_guest_memory(d);
	uint8_t *shared = ram_map(d->fd[1], PAGES * HUGE_BYTES, false);
	shared[0] = 1;
	munmap(shared, PAGES * HUGE_BYTES);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EEXIST);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram1'"));
}

static void continue_of_private_memory_is_refused_naming_the_block(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	d->choice = HF_PLACEMENT_CHOICE_CONTINUE;
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), -EINVAL);
	assert_non_null(strstr(d->err.text, "'ram0' is private"));
	assert_null(d->memory);
}

/* ---- choice ---- */

static void auto_takes_continue_for_shared_memory(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(d->port.placement, HF_PLACEMENT_CONTINUE);
	assert_int_equal(d->port.slots, 0);
	assert_string_equal(hf_incoming_memory_reason(d->memory),
			    "shared hugetlbfs, MINOR_HUGETLBFS offered");
}

static void blocks_that_differ_from_the_lent_regions_are_refused(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	attach_vmm(d);
	strcpy(d->blocks.blocks[1].idstr, "other");
	assert_int_equal(create_port(d), -EINVAL);
	strcpy(d->blocks.blocks[1].idstr, "ram1");
	d->blocks.count = 1;
	assert_int_equal(create_port(d), -EINVAL);
	d->blocks.count = 2;
	assert_int_equal(create_port(d), 0);
}

/* ---- 1 GiB ---- */

static void gibibyte_pages_work_the_same(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	if (host_pages_reserve(GIB, d->choice == HF_PLACEMENT_CHOICE_COPY ? 2 : 1)) {
		print_message("skipped: this host has no contiguous memory for pages of 1 GiB\n");
		skip();
	}
	d->block_count = d->pages = d->slots = 1;
	d->page_size_bytes = GIB;
	bring_up(d);
	toucher_start(&toucher, guest_page(d, 0, 0) + GIB - 1);
	expect_fault(d, &toucher, 0, 0);
	land_and_place(d, 0, 0, 6);
	assert_int_equal(toucher_join(&toucher), 6);
	assert_page_filled(guest_page(d, 0, 0), GIB, 6);
	ram_punch(d->fd[0], 0, GIB);
	place_again(d, 0, 0);
	assert_page_filled(guest_page(d, 0, 0), GIB, 0);
}

static void default_slots_are_two_of_one_gibibyte(void **state)
{
	struct destination *d = *state;

	d->block_count = d->pages = 1;
	d->slots = 0;
	d->page_size_bytes = GIB;
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(d->port.slots, 2);
}

/* ---- main ---- */

static int reserve(void **state)
{
	(void)state;
	return host_pages_reserve(HUGE_BYTES, 4 * BLOCKS * PAGES + SLOTS);
}

static int give_back(void **state)
{
	(void)state;
	host_pages_give_back();
	return 0;
}

static const enum hf_placement_choice copy = HF_PLACEMENT_CHOICE_COPY;
static const enum hf_placement_choice with_continue = HF_PLACEMENT_CHOICE_CONTINUE;

#define WITH(placement, test)                                                                                \
	{                                                                                                    \
#placement ": " #test, test, set_up, tear_down, (void *)&placement                           \
	}
#define BOTH(test) WITH(with_continue, test), WITH(copy, test)
#define ANY(test)  cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(a_fault_names_block_page_and_thread_and_placing_wakes_it),
	    BOTH(several_threads_may_wait_for_one_page),
	    BOTH(a_half_landed_page_is_not_visible),
	    BOTH(a_page_may_be_placed_before_any_fault),
	    BOTH(placing_a_page_that_is_there_keeps_what_the_guest_wrote),
	    BOTH(placing_a_page_that_is_there_wakes_who_still_waits),
	    BOTH(a_zero_page_reads_as_zeros_and_can_be_written),
	    BOTH(again_after_dontneed_shows_the_same_content),
	    BOTH(again_after_a_punched_hole_gives_zeros),
	    BOTH(release_wakes_waiters_and_lets_the_rest_go),
	    BOTH(stop_with_a_pending_fault_leaves_the_page_missing),
	    BOTH(a_stale_file_is_refused_naming_block_and_page),
	    BOTH(other_memory_than_was_lent_is_refused),
	    BOTH(the_page_of_zeros_needs_no_fault_to_be_read),
	    BOTH(clear_zeros_a_landing_only_where_it_may_be_dirty),
	    WITH(with_continue, a_page_discarded_before_it_is_placed_becomes_zeros),
	    WITH(with_continue, a_stop_ends_the_allocation),
	    WITH(with_continue, too_few_pages_to_allocate_says_how_many_are_missing),
	    WITH(with_continue, a_limit_of_the_mount_is_told_apart_from_an_empty_pool),
	    WITH(copy, copy_without_a_free_page_waits_until_there_is_one),
	    WITH(copy, a_page_in_the_file_that_nobody_placed_is_not_taken_for_placed),
	    WITH(copy, too_few_pages_for_staging_is_said_at_once),
	    WITH(copy, default_slots_are_sixteen_of_two_mebibytes),
	    ANY(private_memory_is_placed_by_copy),
	    ANY(private_memory_without_a_free_page_waits_until_there_is_one),
	    ANY(a_private_waiter_of_a_page_that_is_there_is_woken),
	    ANY(private_memory_that_was_dropped_gets_zeros_again),
	    ANY(touched_private_memory_is_refused),
	    ANY(a_private_mapping_of_a_used_file_is_refused),
	    ANY(continue_of_private_memory_is_refused_naming_the_block),
	    ANY(auto_takes_continue_for_shared_memory),
	    ANY(blocks_that_differ_from_the_lent_regions_are_refused),
	    BOTH(gibibyte_pages_work_the_same),
	    WITH(copy, default_slots_are_two_of_one_gibibyte),
	};

	return cmocka_run_group_tests(tests, reserve, give_back);
}
