/* SPDX-License-Identifier: Apache-2.0 */
/*
 * move.h - whole migrations inside this process: two engines, their real ports, real huge pages.
 *
 * Purpose: everything of a move is real (transport, userfaultfd, attach hand-off, RAM files on hugetlbfs)
 * except the VM: this process is both VMMs, and threads of it stand for the destination's vCPUs. Several
 * moves may be open at once. Each has its own content, so that a page that went astray shows.
 *
 * Ownership: move_open() / move_close(); moves that were open at once are closed together.
 * Threads: the test's main thread.
 * Units: pages of 2 MiB.
 * Errors: a failure fails the running test.
 */
#ifndef HF_TESTS_MOVE_H
#define HF_TESTS_MOVE_H

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

#include "core/destination.h"
#include "core/source.h"
#include "hugemem/attach.h"
#include "hugemem/guest_memory.h"
#include "tests/unit/hugemem/host_fixture.h"
#include "transport-tcp/tcp.h"

#define MOVE_PAGES	20u
#define MOVE_SLOTS	4u
#define MOVE_VCPUS	2u
#define MOVE_HOST_PAGES (2u * MOVE_PAGES + MOVE_SLOTS) /* what one move needs */

/* Page i of the source: does not exist, exists and is zero, or holds bytes that follow from the seed. */
static inline bool move_page_is_hole(uint32_t page)
{
	return page % 5 == 4;
}
static inline bool move_page_is_zero(uint32_t page)
{
	return page % 5 == 3;
}

struct move_vm {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	enum hf_vm_op wanted[HF_VM_OPS];
	uint32_t wanted_count;
	bool quit;
	void (*done)(void *engine, const struct hf_vm_result *result);
	void *engine;
};

struct move_vcpu {
	pthread_t thread;
	atomic_uint thread_id;
	sem_t order;
	volatile uint8_t *address; /* NULL: end */
	atomic_bool busy;
	uint8_t seen;
};

struct move {
	uint64_t seed;
	struct move_vm source_vm, destination_vm;
	struct move_vcpu vcpus[MOVE_VCPUS];

	int source_fd, destination_fd;
	uint8_t *source_ram, *destination_ram;
	struct hf_ramblocks source_blocks, destination_blocks;

	struct hf_outgoing_memory *outgoing;
	struct hf_source *source;
	struct hf_tcp *source_link;

	char directory[32], attach_path[64];
	struct hf_attach *attach;
	struct hf_attach_client *client;
	struct hf_incoming_memory *incoming;
	struct hf_memory_ops memory_ops; /* the port's, with release() behind a hook */
	struct hf_destination *destination;
	struct hf_tcp *destination_link;
};

/* Called before release() of any move: the last page has been placed. NULL: nothing. */
extern void (*move_all_placed)(void);

/* The background is held until it is let go. `uri` is "tcp:127.0.0.1:0" or "unix:PATH". */
void move_open(struct move *move, uint64_t seed, const char *uri, enum hf_placement_choice choice);
void move_start(struct move *move);
/* Until RESUMED was heard: the VM runs at the destination. */
void move_wait_runs(struct move *move);
/* Until both sides have ended well. */
void move_wait_completed(struct move *move);
/* Until both sides have noticed that the link is lost after the hand-over. */
void move_wait_paused(struct move *move);
/* Until at least so many pages have been placed. */
void move_wait_received(struct move *move, uint32_t pages);

struct hf_destination_snapshot move_destination_snapshot(struct move *move);
struct hf_source_snapshot move_source_snapshot(struct move *move);

/* A vCPU touches a page, and may have to wait for it. */
void move_touch(struct move *move, uint32_t vcpu, uint32_t page);
bool move_is_touching(struct move *move, uint32_t vcpu);
/* Waits until it has the page; checks what it read. */
void move_touched(struct move *move, uint32_t vcpu, uint32_t page);
void move_touch_and_check(struct move *move, uint32_t vcpu, uint32_t page);

/* Every page of the destination is what the source had, and every page was counted once. */
void move_check(struct move *move);
void move_close(struct move *moves, uint32_t count);
/* Teardown of a group: huge pages, and the folder of unix sockets. */
int move_give_back(void **state);

#endif
