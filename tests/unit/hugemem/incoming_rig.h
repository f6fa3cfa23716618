/* SPDX-License-Identifier: Apache-2.0 */
/*
 * incoming_rig.h - a VMM and the destination's memory port in one process, for the tests of the port.
 *
 * Purpose: this process is the VMM (its threads touch guest memory) and the agent (the port) at once; both
 * meet over a real attach socket. The rig stands where the engine stands. Ownership: set_up() makes the rig,
 * tear_down() ends everything in it, also after a test that failed. Threads: the test's main thread; the
 * engine's entry points are called by the port's threads. Units: pages of the rig's page size. Errors: a
 * failure fails the running test.
 */
#ifndef HF_TESTS_INCOMING_RIG_H
#define HF_TESTS_INCOMING_RIG_H

#include <pthread.h>
#include <stdatomic.h>

#include "hugemem/attach.h"
#include "hugemem/guest_memory.h"
#include "hugemem/incoming_internal.h"
#include "tests/unit/hugemem/host_fixture.h"

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
	unsigned failures; /* of the fault reader */
	struct hf_err failure;
	atomic_bool ready;
	int ready_result;
	struct hf_err ready_err;
	const char *refuses; /* prepare_program's reason; NULL: it goes well */
};

struct destination {
	enum hf_placement_choice choice;
	bool private_memory;
	uint32_t slots;
	uint32_t block_count;
	bool reserved_more; /* by the test itself; given back after it */
	uint64_t page_size_bytes;
	uint64_t pages;
	int fd[BLOCKS];
	int hog_fd; /* fills the limited mount of fd[0]; -1: none */
	uint8_t *vmm[BLOCKS];
	char directory[32], socket_path[64];
	struct hf_attach *attach;
	struct hf_attach_client *client;
	struct hf_ramblocks blocks;
	const struct hf_taken_over *taken_over;
	struct hf_incoming_memory *memory;
	struct hf_memory port;
	struct engine engine;
	struct hf_err err;
};

/* As struct hf_clock wants it. */
uint64_t monotonic_ns(void *self);
/* Of a test; *state: NULL or a placement choice before, the rig after. */
int set_up(void **state);
int tear_down(void **state);
void make_guest_memory(struct destination *d);
void attach_vmm(struct destination *d);
/* Its steps, for tests whose agents are several. */
void name_blocks(struct destination *d);
void lend_memory(struct destination *d);
void connect_agent(struct destination *d);
/* The steps of bring_up(); a test may do something in between. */
int create_port(struct destination *d);
/* The result that ready() reported. */
int prepare(struct destination *d);
/* All of it; fails the test when a step fails. */
void bring_up(struct destination *d);
/* Has a fault on that page been delivered? Any thread's. */
bool has_faulted(struct destination *d, uint32_t block, uint64_t page);
/* Waits until the toucher's fault has been delivered, checks where it is. */
void expect_fault(struct destination *destination, struct toucher *toucher, uint32_t block, uint64_t page);
uint8_t *guest_page(struct destination *d, uint32_t block, uint64_t page);
/* The port's operations; anything but success fails the test. */
void land(struct destination *d, uint32_t block, uint64_t page, uint32_t slot, uint8_t value);
void place(struct destination *d, uint32_t block, uint64_t page, uint32_t slot);
void land_and_place(struct destination *d, uint32_t block, uint64_t page, uint8_t value);
void place_zero(struct destination *d, uint32_t block, uint64_t page);
void place_again(struct destination *d, uint32_t block, uint64_t page);

static const enum hf_placement_choice copy = HF_PLACEMENT_CHOICE_COPY;
static const enum hf_placement_choice with_continue = HF_PLACEMENT_CHOICE_CONTINUE;

#define WITH(placement, test)                                                                                \
	{                                                                                                    \
#placement ": " #test, test, set_up, tear_down, (void *)&(placement)                         \
	}
#define BOTH(test) WITH(with_continue, test), WITH(copy, test)
#define ANY(test)  cmocka_unit_test_setup_teardown(test, set_up, tear_down)

/* Of a group: the pages all of this needs. */
int reserve_pages(void **state);
int give_back_pages(void **state);

#endif
