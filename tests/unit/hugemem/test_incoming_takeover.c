/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An agent is killed while it receives, and the next one goes on. The VMM is the test's process, with one
 * thread a page that reads a byte and adds one to it; the first agent is a child that kills itself at one
 * point of a page's way, the second one the test again. No byte of a page is zero at its source.
 *
 *     VMM                     agent 1                       agent 2
 *     lends, waits            registers, makes kept file
 *     touches every page      places page 0 of block 0
 *                             the victim: up to the point
 *                             SIGKILL
 *                                                           kept file, the same registration
 *                                                           the faults again; the rest
 *     every thread has read its page's byte; every page is whole and has the guest's write
 */
#include "tests/unit/hugemem/incoming_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/pagemap.h"
#include "hugemem/kept_pages.h"
#include "hugemem/residency.h"
#include "hugemem/userfault.h"

#define VICTIM_BLOCK 1u
#define VICTIM_PAGE  2u
#define CHUNK_BYTES  (256u << 10)

enum death {
	FAULTS_READ,	     /* of every page; none answered */
	HALF_LANDED,	     /* the victim's first half */
	LANDED,		     /* the whole of it */
	BIT_BEFORE_CONTINUE, /* continue */
	CONTINUED,	     /* continue */
	COPIED_BEFORE_BIT,   /* copy */
	BIT_AFTER_COPY,	     /* copy */
	ALL_PLACED,	     /* every page has its bit */
	RELEASED_IN_PART,    /* and one block is unregistered */
	RELEASED,
	LIVES_ON, /* has placed the first page, closed its connection, and waits */
};

struct scene {
	struct destination *d;
	char kept_directory[48];
	pid_t agent;
	int go_fd, lives_fd;
	struct hf_kept_pages *kept;
	struct hf_taken_over taken_over;
	struct hf_pagemap received;
	struct toucher touchers[BLOCKS][PAGES];
	bool touching;
};

static pid_t tests_pid;
static struct scene scene;
static int denied_resumed; /* the answer is "not resumed", whatever was said */

bool __real_hf_attach_client_resumed(const struct hf_attach_client *client);
bool __wrap_hf_attach_client_resumed(const struct hf_attach_client *client);

bool __wrap_hf_attach_client_resumed(const struct hf_attach_client *client)
{
	return !denied_resumed && __real_hf_attach_client_resumed(client);
}

static uint8_t content(uint32_t block, uint64_t page)
{
	return (uint8_t)(0x11 + 0x40 * block + page);
}

static uint32_t index_of(uint32_t block, uint64_t page)
{
	return (uint32_t)(block * PAGES + page);
}

/* ---- the engine's part, of both agents ---- */

static void set_bit(uint32_t block, uint64_t page)
{
	hf_pagemap_set(&scene.received, index_of(block, page));
}

static void receive_page(struct destination *d, uint32_t block, uint64_t page)
{
	land(d, block, page, 0, content(block, page));
	if (d->port.placement == HF_PLACEMENT_CONTINUE)
		set_bit(block, page);
	place(d, block, page, 0);
	if (d->port.placement == HF_PLACEMENT_COPY)
		set_bit(block, page);
}

static void wrap_kept(void)
{
	hf_pagemap_wrap(&scene.received, hf_kept_pages_received(scene.kept), BLOCKS * PAGES);
}

/* ---- the agent that is killed: a process ---- */

static void die(void)
{
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

static void make_kept(struct destination *d)
{
	struct hf_kept_description description = {.vm_name = hf_attach_client_vm_name(d->client),
						  .placement = d->port.placement,
						  .chunk_bytes = CHUNK_BYTES,
						  .blocks = &d->blocks};

	assert_int_equal(hf_vmm_identity_of(hf_attach_client_pid(d->client), &description.vmm, NULL), 0);
	if (hf_kept_pages_create(&scene.kept, scene.kept_directory, &description, &d->err))
		fail_msg("%s", d->err.text);
	wrap_kept();
}

static bool all_have_faulted(void *opaque)
{
	bool all = true;

	for (uint32_t block = 0; block < BLOCKS; block++)
		for (uint64_t page = 0; page < PAGES; page++)
			all = all && has_faulted(opaque, block, page);
	return all;
}

static void die_on_the_victims_way(struct destination *d, enum death death)
{
	memset(d->port.ops->landing(d->memory, VICTIM_BLOCK, VICTIM_PAGE, 0),
	       content(VICTIM_BLOCK, VICTIM_PAGE), HUGE_BYTES / (death == HALF_LANDED ? 2 : 1));
	if (death == HALF_LANDED || death == LANDED)
		die();
	if (death == BIT_BEFORE_CONTINUE || death == CONTINUED)
		set_bit(VICTIM_BLOCK, VICTIM_PAGE);
	if (death != BIT_BEFORE_CONTINUE)
		place(d, VICTIM_BLOCK, VICTIM_PAGE, 0);
	if (death == BIT_AFTER_COPY)
		set_bit(VICTIM_BLOCK, VICTIM_PAGE);
	die();
}

static void die_about_release(struct destination *d, enum death death)
{
	for (uint32_t block = 0; block < BLOCKS; block++)
		for (uint64_t page = 0; page < PAGES; page++)
			if (!hf_pagemap_test(&scene.received, index_of(block, page)))
				receive_page(d, block, page);
	if (death == RELEASED_IN_PART)
		assert_int_equal(hf_userfault_unregister(d->memory->placer.userfault_fd,
							 d->memory->regions[0].vmm_address,
							 PAGES * HUGE_BYTES),
				 0);
	if (death == RELEASED)
		assert_int_equal(d->port.ops->release(d->memory, &d->err), 0);
	die();
}

static void live_on(struct destination *d)
{
	hf_attach_client_destroy(d->client);
	d->client = NULL;
	if (write(scene.lives_fd, "L", 1) != 1)
		_exit(7);
	for (;;)
		pause();
}

static void first_agent(struct destination *d, enum death death)
{
	char byte;

	if (read(scene.go_fd, &byte, 1) != 1)
		_exit(8);
	name_blocks(d);
	connect_agent(d);
	assert_int_equal(create_port(d), 0);
	if (prepare(d))
		fail_msg("%s", d->engine.ready_err.text);
	make_kept(d);
	wait_until(all_have_faulted, d, "a fault on every page");
	if (death == FAULTS_READ)
		die();
	receive_page(d, 0, 0);
	if (death == LIVES_ON)
		live_on(d);
	if (death >= ALL_PLACED)
		die_about_release(d, death);
	die_on_the_victims_way(d, death);
}

static void fork_agent(struct destination *d, enum death death)
{
	int go[2], lives[2];

	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	assert_int_equal(pipe2(lives, O_CLOEXEC), 0);
	fflush(NULL);
	scene.agent = fork();
	assert_true(scene.agent >= 0);
	if (scene.agent == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(go[1]);
		scene.go_fd = go[0];
		scene.lives_fd = lives[1];
		first_agent(d, death);
	}
	close(go[0]);
	close(lives[1]);
	scene.go_fd = go[1];
	scene.lives_fd = lives[0];
}

/* ---- the VMM ---- */

static void touch_every_page(struct destination *d)
{
	for (uint32_t block = 0; block < BLOCKS; block++)
		for (uint64_t page = 0; page < PAGES; page++) {
			scene.touchers[block][page].write = true;
			toucher_start(&scene.touchers[block][page], guest_page(d, block, page));
		}
	scene.touching = true;
}

static void await_death(void)
{
	int status;

	assert_int_equal(waitpid(scene.agent, &status, 0), scene.agent);
	scene.agent = 0;
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGKILL);
}

/* Up to the first agent's death. The child is forked while there is one thread. */
static void run_first_agent(struct destination *d, enum death death)
{
	scene = (struct scene){.d = d};
	snprintf(scene.kept_directory, sizeof(scene.kept_directory), "%s/kept", d->directory);
	fork_agent(d, death);
	name_blocks(d);
	make_guest_memory(d);
	lend_memory(d);
	assert_int_equal(write(scene.go_fd, "G", 1), 1);
	assert_int_equal(hf_attach_wait_armed(d->attach, WAIT_LIMIT_MS), 0);
	touch_every_page(d);
	if (death != LIVES_ON)
		await_death();
}

static void expect_every_page_right(struct destination *d)
{
	for (uint32_t block = 0; block < BLOCKS; block++)
		for (uint64_t page = 0; page < PAGES; page++) {
			uint8_t value = content(block, page);
			assert_int_equal(toucher_join(&scene.touchers[block][page]), value);
			uint8_t *first = guest_page(d, block, page);
			assert_int_equal(*first, value + 1); /* what the guest wrote is not undone */
			*first = value;
			assert_page_filled(first, HUGE_BYTES, value);
		}
}

/* ---- the agent that goes on ---- */

static void open_kept(struct destination *d)
{
	if (hf_kept_pages_open(&scene.kept, scene.kept_directory, "guest", &d->err))
		fail_msg("%s", d->err.text);
	wrap_kept();
	scene.taken_over = hf_kept_pages_taken_over(scene.kept);
	d->taken_over = &scene.taken_over;
}

static int take_over(struct destination *d)
{
	open_kept(d);
	connect_agent(d);
	d->choice = HF_PLACEMENT_CHOICE_AUTO;
	if (create_port(d))
		fail_msg("%s", d->err.text);
	return prepare(d);
}

static void take_over_well(struct destination *d)
{
	if (take_over(d))
		fail_msg("%s", d->engine.ready_err.text);
	assert_int_equal(d->port.placement, scene.taken_over.placement);
}

static bool is_served_or_faulted(void *opaque)
{
	uint32_t index = *(const uint32_t *)opaque;

	return toucher_is_done(&scene.touchers[index / PAGES][index % PAGES]) ||
	       has_faulted(scene.d, index / PAGES, index % PAGES);
}

/* As the engine does: received pages when they fault, all others from the start. */
static void go_on(struct destination *d)
{
	for (uint32_t index = 0; index < BLOCKS * PAGES; index++) {
		wait_until(is_served_or_faulted, &index, "each thread to be served or to fault again");
		if (!hf_pagemap_test(&scene.received, index))
			receive_page(d, index / PAGES, index % PAGES);
		else if (!toucher_is_done(&scene.touchers[index / PAGES][index % PAGES]))
			place_again(d, index / PAGES, index % PAGES);
	}
}

static void release_twice(struct destination *d)
{
	for (int i = 0; i < 2; i++)
		if (d->port.ops->release(d->memory, &d->err))
			fail_msg("%s", d->err.text);
	assert_false(hf_attach_armed(d->attach));
}

static void expect_received(unsigned pages)
{
	assert_int_equal(hf_pagemap_count(&scene.received), pages);
}

static void killed_and_taken_over(struct destination *d, enum death death, unsigned received)
{
	struct toucher meanwhile = {0}; /* touches a page while there is no agent */

	run_first_agent(d, death);
	toucher_start(&meanwhile, guest_page(d, 0, 3) + HUGE_BYTES / 2);
	take_over_well(d);
	expect_received(received);
	go_on(d);
	expect_received(BLOCKS * PAGES);
	assert_int_equal(toucher_join(&meanwhile), content(0, 3));
	expect_every_page_right(d);
	release_twice(d);
	assert_int_equal(hf_kept_pages_remove(scene.kept, &d->err), 0);
}

/* ---- killed at each point ---- */

static void faults_read_and_not_answered_are_raised_again(void **state)
{
	killed_and_taken_over(*state, FAULTS_READ, 0);
}

static void killed_with_half_a_page_landed(void **state)
{
	killed_and_taken_over(*state, HALF_LANDED, 1);
}

static void killed_with_a_page_landed_and_no_bit(void **state)
{
	killed_and_taken_over(*state, LANDED, 1);
}

static void killed_between_bit_and_continue(void **state)
{
	killed_and_taken_over(*state, BIT_BEFORE_CONTINUE, 2);
}

static void killed_after_continue(void **state)
{
	killed_and_taken_over(*state, CONTINUED, 2);
}

static bool victim_is_done(void *opaque)
{
	(void)opaque;
	return toucher_is_done(&scene.touchers[VICTIM_BLOCK][VICTIM_PAGE]);
}

/* The guest writes to the page before it comes a second time. */
static void killed_between_copy_and_bit(void **state)
{
	struct destination *d = *state;

	run_first_agent(d, COPIED_BEFORE_BIT);
	wait_until(victim_is_done, NULL, "the guest's write");
	take_over_well(d);
	expect_received(1);
	go_on(d);
	expect_every_page_right(d);
}

static void killed_after_copy_and_bit(void **state)
{
	killed_and_taken_over(*state, BIT_AFTER_COPY, 2);
}

static void killed_between_copy_and_bit_of_private_memory(void **state)
{
	((struct destination *)*state)->private_memory = true;
	killed_between_copy_and_bit(state);
}

static void private_pages_stay_missing_as_well(void **state)
{
	((struct destination *)*state)->private_memory = true;
	killed_and_taken_over(*state, LANDED, 1);
}

static void killed_again_after_taking_over(void **state)
{
	struct destination *d = *state;

	run_first_agent(d, LANDED);
	take_over_well(d);
	receive_page(d, 1, 3);
	hf_incoming_memory_destroy(d->memory); /* its end with faults unanswered */
	d->memory = NULL;
	hf_attach_client_destroy(d->client);
	d->client = NULL;
	hf_kept_pages_close(scene.kept);
	d->engine.fault_count = 0;
	atomic_store(&d->engine.ready, false);
	take_over_well(d);
	expect_received(2);
	go_on(d);
	expect_every_page_right(d);
}

/* ---- about the end ---- */

static void all_placed_and_only_release_is_left(void **state)
{
	struct destination *d = *state;

	run_first_agent(d, ALL_PLACED);
	take_over_well(d);
	expect_received(BLOCKS * PAGES);
	expect_every_page_right(d);
	release_twice(d);
}

static void a_release_that_was_cut_short_is_finished(void **state)
{
	struct destination *d = *state;

	run_first_agent(d, RELEASED_IN_PART);
	take_over_well(d);
	expect_every_page_right(d);
	release_twice(d);
}

static void after_release_there_is_nothing_to_take_over_and_that_is_well(void **state)
{
	struct destination *d = *state;

	run_first_agent(d, RELEASED);
	take_over_well(d);
	assert_true(d->memory->placer.userfault_fd < 0);
	assert_false(hf_attach_armed(d->attach)); /* nothing was registered anew */
	expect_every_page_right(d);
	release_twice(d);
}

/* ---- discarded pages ---- */

static void a_received_page_that_was_discarded_is_zeros_and_takes_no_page_of_the_host(void **state)
{
	struct destination *d = *state;
	struct toucher again = {0};
	uint64_t before, after;

	run_first_agent(d, LANDED);
	toucher_join(&scene.touchers[0][0]);
	ram_punch(d->fd[0], 0, HUGE_BYTES);
	assert_int_equal(hf_file_pages_accounted(d->fd[0], HUGE_BYTES, &before), 0);
	uint64_t available = host_pages_available(HUGE_BYTES);
	take_over_well(d);
	assert_int_equal(host_pages_available(HUGE_BYTES), available - d->port.slots);
	assert_int_equal(hf_file_pages_accounted(d->fd[0], HUGE_BYTES, &after), 0);
	assert_int_equal(after, before);
	toucher_start(&again, guest_page(d, 0, 0));
	expect_fault(d, &again, 0, 0);
	place_again(d, 0, 0);
	assert_int_equal(toucher_join(&again), 0);
	assert_page_filled(guest_page(d, 0, 0), HUGE_BYTES, 0);
}

static void a_page_discarded_before_it_came_is_allocated_again_and_comes(void **state)
{
	struct destination *d = *state;

	run_first_agent(d, LANDED);
	ram_punch(d->fd[VICTIM_BLOCK], VICTIM_PAGE * HUGE_BYTES, HUGE_BYTES);
	take_over_well(d);
	assert_true(page_is_mapped(d->port.ops->landing(d->memory, VICTIM_BLOCK, VICTIM_PAGE, 0)));
	go_on(d);
	expect_every_page_right(d);
}

/* ---- refused ---- */

static void expect_nothing_placed(struct destination *d)
{
	for (uint32_t block = 0; block < BLOCKS; block++)
		for (uint64_t page = 0; page < PAGES; page++)
			assert_int_equal(page_is_mapped(guest_page(d, block, page)), block == 0 && page == 0);
}

static void another_vmm_is_refused(void **state)
{
	struct destination *d = *state;

	run_first_agent(d, LANDED);
	open_kept(d);
	connect_agent(d);
	scene.taken_over.vmm.started_ticks++;
	assert_int_equal(create_port(d), -ESTALE);
	assert_non_null(strstr(d->err.text, "must not be run"));
	expect_nothing_placed(d);
}

/* As a VMM started again under the same pid would be. Its threads are let go before. */
static void a_vmm_whose_registration_has_gone_is_refused_and_left_as_it_was(void **state)
{
	struct destination *d = *state;

	run_first_agent(d, LANDED);
	hf_attach_destroy(d->attach);
	lend_memory(d);
	assert_int_equal(take_over(d), -ESTALE);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram0'"));
	assert_non_null(strstr(d->engine.ready_err.text, "must not be run"));
	assert_false(hf_attach_armed(d->attach));
	assert_true(hf_incoming_memory_touched(d->memory));
	assert_null(d->memory->alias);
}

static void a_registration_that_is_another_is_refused_and_ended(void **state)
{
	struct destination *d = *state;

	run_first_agent(d, LANDED);
	denied_resumed = true;
	int result = take_over(d);
	denied_resumed = false;
	assert_int_equal(result, -ESTALE);
	assert_non_null(strstr(d->engine.ready_err.text, "must not be run"));
	assert_false(hf_attach_armed(d->attach));
	assert_null(d->memory->reader);
}

static void another_placement_than_then_is_refused(void **state)
{
	struct destination *d = *state;
	bool was_copy = d->choice == HF_PLACEMENT_CHOICE_COPY;

	run_first_agent(d, LANDED);
	open_kept(d);
	connect_agent(d);
	d->choice = was_copy ? HF_PLACEMENT_CHOICE_CONTINUE : HF_PLACEMENT_CHOICE_COPY;
	assert_int_equal(create_port(d), -EINVAL);
	assert_non_null(strstr(d->err.text, was_copy ? "with placement copy" : "with placement continue"));
	d->choice = HF_PLACEMENT_CHOICE_AUTO;
	assert_int_equal(create_port(d), 0);
	enum hf_placement then = was_copy ? HF_PLACEMENT_COPY : HF_PLACEMENT_CONTINUE;
	enum hf_placement other = was_copy ? HF_PLACEMENT_CONTINUE : HF_PLACEMENT_COPY;
	assert_int_equal(d->port.ops->choose(d->memory, other, &d->port, &d->err), -EINVAL);
	assert_int_equal(d->port.placement, then);
	assert_int_equal(d->port.ops->choose(d->memory, then, &d->port, &d->err), 0);
	assert_string_equal(hf_incoming_memory_reason(d->memory), "the migration was begun with it");
	expect_nothing_placed(d);
}

static void a_damaged_kept_file_is_refused_and_nothing_is_placed(void **state)
{
	struct destination *d = *state;
	char path[64];

	run_first_agent(d, LANDED);
	snprintf(path, sizeof(path), "%s/guest", scene.kept_directory);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "x", 1, 100), 1);
	close(fd);
	assert_int_equal(hf_kept_pages_open(&scene.kept, scene.kept_directory, "guest", &d->err), -EBADMSG);
	assert_non_null(strstr(d->err.text, path));
	expect_nothing_placed(d);
	assert_true(hf_attach_armed(d->attach)); /* the VM goes on waiting */
}

static void a_predecessor_that_lives_on_is_named(void **state)
{
	struct destination *d = *state;
	char byte, pid[16];

	run_first_agent(d, LIVES_ON);
	assert_int_equal(read(scene.lives_fd, &byte, 1), 1);
	/* Its kept file is locked, so the notes are the test's own. */
	assert_int_equal(hf_kept_pages_open(&scene.kept, scene.kept_directory, "guest", &d->err), -EBUSY);
	static const uint8_t received[1] = {1};
	scene.taken_over = (struct hf_taken_over){
	    .placement = d->choice == HF_PLACEMENT_CHOICE_COPY ? HF_PLACEMENT_COPY : HF_PLACEMENT_CONTINUE,
	    .received = received};
	assert_int_equal(hf_vmm_identity_of(getpid(), &scene.taken_over.vmm, &d->err), 0);
	d->taken_over = &scene.taken_over;
	connect_agent(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EBUSY);
	snprintf(pid, sizeof(pid), " %d ", (int)scene.agent);
	assert_non_null(strstr(d->engine.ready_err.text, pid));
	assert_non_null(strstr(d->engine.ready_err.text, "has not ended"));
	expect_nothing_placed(d);
}

/* ---- the group ---- */

static int set_up_scene(void **state)
{
	/* A child whose assertion failed comes here, and goes no further. */
	if (getpid() != tests_pid)
		_exit(9);
	return set_up(state);
}

static void remove_kept_files(void)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/guest", scene.kept_directory);
	unlink(path);
	rmdir(scene.kept_directory);
}

static int tear_down_scene(void **state)
{
	if (getpid() != tests_pid)
		_exit(9);
	if (scene.agent > 0) {
		kill(scene.agent, SIGKILL);
		waitpid(scene.agent, NULL, 0);
	}
	if (scene.go_fd > 0) {
		close(scene.go_fd);
		close(scene.lives_fd);
	}
	struct destination *d = *state;
	/* Before the bits they are read from. */
	hf_incoming_memory_destroy(d->memory);
	d->memory = NULL;
	hf_kept_pages_close(scene.kept);
	remove_kept_files();
	scene = (struct scene){0};
	return tear_down(state);
}

#define KILLED(placement, test)                                                                              \
	{                                                                                                    \
#placement ": " #test, test, set_up_scene, tear_down_scene, (void *)&(placement)             \
	}
#define IN_BOTH(test) KILLED(with_continue, test), KILLED(copy, test)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    IN_BOTH(faults_read_and_not_answered_are_raised_again),
	    IN_BOTH(killed_with_half_a_page_landed),
	    IN_BOTH(killed_with_a_page_landed_and_no_bit),
	    KILLED(with_continue, killed_between_bit_and_continue),
	    KILLED(with_continue, killed_after_continue),
	    KILLED(copy, killed_between_copy_and_bit),
	    KILLED(copy, killed_after_copy_and_bit),
	    KILLED(copy, killed_between_copy_and_bit_of_private_memory),
	    KILLED(copy, private_pages_stay_missing_as_well),
	    IN_BOTH(killed_again_after_taking_over),
	    IN_BOTH(all_placed_and_only_release_is_left),
	    IN_BOTH(a_release_that_was_cut_short_is_finished),
	    IN_BOTH(after_release_there_is_nothing_to_take_over_and_that_is_well),
	    IN_BOTH(a_received_page_that_was_discarded_is_zeros_and_takes_no_page_of_the_host),
	    KILLED(with_continue, a_page_discarded_before_it_came_is_allocated_again_and_comes),
	    IN_BOTH(another_vmm_is_refused),
	    IN_BOTH(a_vmm_whose_registration_has_gone_is_refused_and_left_as_it_was),
	    IN_BOTH(a_registration_that_is_another_is_refused_and_ended),
	    IN_BOTH(another_placement_than_then_is_refused),
	    IN_BOTH(a_damaged_kept_file_is_refused_and_nothing_is_placed),
	    KILLED(with_continue, a_predecessor_that_lives_on_is_named),
	};

	tests_pid = getpid();
	return cmocka_run_group_tests(tests, reserve_pages, give_back_pages);
}
