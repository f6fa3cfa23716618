/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sim.h - the deterministic simulator: the real engines, a virtual clock, fake ports.
 *
 * One seed is one migration. Everything random comes from the seed: the shape of the VM, delays, failures and
 * what the guest does. An event is a function that runs at a virtual time, as one of the real threads would.
 * While an engine waits in a port call (the lock is not held there), other threads may run: the fake ports
 * run a few further events inside the call, which gives the interleavings of a real machine, repeatably.
 *
 * Every check that fails prints the seed and ends the process.
 */
#ifndef HF_TESTS_SIM_SIM_H
#define HF_TESTS_SIM_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/destination.h"
#include "core/source.h"

#define SIM_PAGES_MAX	192u
#define SIM_THREADS_MAX 12u
#define SIM_FETCHES_MAX 256u

struct sim;

typedef void sim_event_fn(struct sim *sim, uint64_t argument, void *data);

/* ---- what may happen in one run; drawn from the seed ---- */
struct sim_plan {
	enum hf_placement placement;
	uint32_t vcpus;
	uint32_t slots;
	uint32_t chunk_bytes;
	uint32_t channels[HF_FETCH_CLASSES];
	uint32_t capacity[HF_FETCH_CLASSES];
	bool background_held_first; /* by the destination's operator */
	bool source_holds;	    /* by the source's */
	bool wish_placement;
	enum hf_placement wished;
	bool cut_link; /* at cut_ns after the start */
	uint64_t cut_ns;
	bool cancel;
	bool cancel_on_source;
	uint64_t cancel_ns;
	int fail_vm_op; /* enum hf_vm_op, -1: none */
	bool fail_prepare;
	bool mismatch;		     /* the blocks differ */
	uint32_t pool_empty_percent; /* of placements under `copy` */
	uint32_t discard_percent;    /* of accesses: the VMM discards the page */
	uint32_t late_percent;	     /* of faults: the message is read late */
	uint32_t nested_percent;     /* of port calls: other threads run meanwhile */
	uint64_t delay_max_ns;	     /* of a message or chunk */
};

enum sim_thread_state { SIM_IDLE, SIM_BLOCKED, SIM_STOPPED };

/* A thread of the destination VMM. The first plan.vcpus are vCPUs. */
struct sim_thread {
	uint32_t id;
	enum sim_thread_state state;
	uint32_t page; /* that it waits for */
	uint64_t accesses_left;
	bool message_sent; /* the fault reader has read this wait's message */
};

struct sim_page {
	uint32_t block;
	uint64_t offset_bytes; /* in the block */
	uint64_t size_bytes;
	uint64_t base; /* of the page in the flat memories below */
	bool hole;     /* not present on the source */
	bool visible;  /* in the destination VMM */
	bool was_visible;
	bool discarded;	     /* by the VMM: must read as zeros */
	uint64_t guest_word; /* what the destination's guest last wrote at the page's start; 0 = nothing */
	uint32_t fetches;    /* in flight */
};

struct sim_fetch {
	bool busy;
	struct hf_fetch fetch;
	uint32_t page;
};

struct sim_queued_event {
	uint64_t time_ns, order;
	sim_event_fn *run;
	uint64_t argument;
	void *data;
};

struct sim {
	uint64_t seed;
	uint64_t random;
	bool verbose;
	struct sim_plan plan;

	/* Clock and queue. */
	uint64_t now_ns, order;
	struct sim_queued_event *queue;
	uint32_t queue_count, queue_room;
	uint32_t depth; /* of events run inside port calls */

	/* The engines and what they are made of. */
	struct hf_ramblocks source_blocks, destination_blocks;
	struct hf_source *source;
	struct hf_destination *destination;
	uint32_t destination_of_source[8];

	/* Memory. */
	struct sim_page pages[SIM_PAGES_MAX]; /* numbered as the destination's */
	uint32_t page_count;
	uint8_t *source_memory, *alias, *guest; /* guest: what the VMM sees under `copy` */
	uint8_t *staging, *zeros;
	uint64_t memory_bytes, page_max_bytes;
	bool handed_back;  /* the migration failed: the source VM runs again */
	bool memory_final; /* the source VM has stopped */
	bool released;
	bool kicked[HF_WORK_CLASSES], working[HF_WORK_CLASSES];

	/* Link. */
	bool link_up, link_cut, closing;
	bool notified;		     /* the programs have something to look at */
	uint32_t link_ends;	     /* sides that were told of link_down */
	uint64_t control_free_ns[2]; /* messages keep their order */
	uint64_t channel_free_ns[HF_FETCH_CLASSES];
	struct sim_fetch fetches[SIM_FETCHES_MAX];
	uint32_t fetches_busy[HF_FETCH_CLASSES];
	uint64_t urgent_bytes, held_background_bytes;

	/* VMs. */
	bool source_runs, destination_runs, destination_loaded;
	struct sim_thread threads[SIM_THREADS_MAX];
	uint32_t thread_count;
	uint64_t events_run;
	uint64_t discards;
};

/* sim.c */
uint64_t sim_random(struct sim *sim, uint64_t below);
bool sim_chance(struct sim *sim, uint32_t percent);
void sim_at(struct sim *sim, uint64_t delay_ns, sim_event_fn *run, uint64_t argument, void *data);
/* Other threads run while this one is in a port call. */
void sim_others(struct sim *sim);
void sim_log(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3)));
void sim_fail(struct sim *sim, const char *format, ...) __attribute__((format(printf, 2, 3), noreturn));
#define SIM_CHECK(sim, condition, ...)                                                                       \
	do {                                                                                                 \
		if (!(condition))                                                                            \
			sim_fail(sim, __VA_ARGS__);                                                          \
	} while (0)

/* sim_memory.c */
void sim_memory_create(struct sim *sim);
void sim_memory_destroy(struct sim *sim);
struct hf_memory sim_memory_port(struct sim *sim);
struct hf_source_memory sim_source_memory_port(struct sim *sim);
uint32_t sim_page_of(const struct sim *sim, uint32_t destination_block, uint64_t page);
void sim_check_page(struct sim *sim, uint32_t page, const char *when);
void sim_thread_access(struct sim *sim, uint64_t thread, void *data);

/* sim_link.c */
struct hf_transport sim_transport_port(struct sim *sim, bool is_source);
void sim_link_start(struct sim *sim);
void sim_link_cut(struct sim *sim, uint64_t argument, void *data);

/* sim_vm.c */
struct hf_vm sim_vm_port(struct sim *sim, bool is_source);

#endif
