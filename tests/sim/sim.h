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
#include "core/lock.h"
#include "core/source.h"

#define SIM_PAGES_MAX	  192u
#define SIM_THREADS_MAX	  12u
#define SIM_FETCHES_MAX	  256u
#define SIM_SWEEP_STEPS	  64u /* between two looks at every page */
#define SIM_PROCESSES_MAX 8u

struct sim;

typedef void sim_event_fn(struct sim *sim, uint64_t argument, void *data);

/* ---- what may happen in one run; drawn from the seed ---- */
enum sim_precopy { SIM_POSTCOPY_ALONE = 0, SIM_PRECOPY_HYBRID, SIM_PRECOPY_ONLY };

/* Of rounds of pre-copy; drawn by itself, so that runs without rounds are what they would be anyway. */
struct sim_rounds_plan {
	enum sim_precopy precopy;
	bool unknown; /* to the destination's release */
	uint64_t downtime_limit_ns, max_bandwidth;
	uint32_t guest_writes; /* so many, from the first harvest on; then the guest rests */
	uint64_t write_every_ns;
	uint32_t hot_pages, hot_percent, punch_percent;
	uint32_t spurious_percent; /* of pages: a harvest reports them though nobody wrote them */
	uint32_t doubtful_percent; /* of holes: the port cannot tell that they are */
	uint32_t postcopy_commands, limit_commands;
	uint64_t commands_last_ns;
	uint32_t failing_harvest; /* of a block, counted from 1; 0: none */
	bool touched_early;	  /* the destination's VMM touches memory before it loads */
};

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
	bool recover;		/* the links have the feature */
	uint32_t cuts, crashes; /* cuts: of later links */
	uint64_t crash_ns;  /* when something is due on the hand-over; 0: then it happens where it hurts */
	bool crash_source;  /* the first of them */
	bool gone_for_good; /* the last process that crashes is not started again */
	uint32_t one_sided; /* of links, by epoch: the bits */
	uint32_t late_cut_percent; /* of cuts: one side hears of them much later */
	uint32_t record_failures;  /* of writes of one record; not more than so many */
	enum hf_record record_to_fail;
	uint32_t command_percent; /* of links: somebody pauses, or looks for another */
	bool revived;		  /* another client runs the source VM after it has stopped */
	enum sim_run { SIM_RUN_GOES, SIM_RUN_REFUSED, SIM_RUN_UNKNOWN } run;
	bool vmm_dies; /* the destination's, at a time of its own */
	uint64_t vmm_dies_ns;
	bool fail_takeover;
	bool cancel;
	bool cancel_on_source;
	uint64_t cancel_ns;
	int fail_vm_op; /* enum hf_vm_op, -1: none */
	bool fail_prepare;
	bool measure;		      /* the link has the feature */
	bool mismatch;		      /* the blocks differ */
	uint32_t share_percent;	      /* of the background */
	uint32_t refuse_percent;      /* of fetches: the link has no room, as long as some are on their way */
	uint32_t repeat_percent;      /* of dones and fault messages: told again later */
	uint32_t stray_faults;	      /* messages of threads nobody knows, at any time */
	uint32_t hostile_messages;    /* garbage on the control channel, at any time */
	uint32_t pool_empty_percent;  /* of placements under `copy` */
	uint64_t dry_from_ns, dry_ns; /* the pool is empty meanwhile; 0: never */
	uint32_t discard_percent;     /* of accesses: the VMM discards the page */
	uint32_t late_percent;	      /* of faults: the message is read late */
	uint32_t nested_percent;      /* of port calls: other threads run meanwhile */
	uint64_t delay_max_ns;	      /* of a message or chunk */
	struct sim_rounds_plan rounds;
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
	bool begun;	     /* by the background */
	bool kept;	     /* could not be placed once for want of a huge page */
	bool orphan;	     /* visible, and a crashed engine had not set its bit (copy) */
	bool continuable;    /* whole, and a crashed engine had set its bit and not placed it (continue) */
	uint64_t wait_posted_bytes[HF_FETCH_CLASSES]; /* when somebody began to wait for it */

	/* Rounds. */
	bool written;	 /* since the last harvest, or let go of */
	bool owed;	 /* found by a harvest, and in no set since */
	bool named;	 /* in the set that is being told */
	bool in_round;	 /* in the last set that was told */
	bool known_hole; /* the last harvest said so, and it is one still */
	bool fetched;	 /* something of it came in a round */
	bool came;	 /* received before the VM was loaded */
};

struct sim_fetch {
	bool busy;
	uint64_t number; /* of all that were carried */
	struct hf_fetch fetch;
	uint32_t page;	/* HF_PAGE_NONE: of the probe block */
	uint32_t round; /* that it was posted in */
	struct hf_serve_reply reply;
};

/* What a run has been through; over many seeds each must have happened. */
enum sim_covered {
	SIM_COMPLETED,
	SIM_PAUSED,
	SIM_FAILED_EARLY,
	SIM_CUT_AMID_FETCHES,
	SIM_PLACED_BY_COPY,
	SIM_PLACED_BY_CONTINUE,
	SIM_ONE_LANDING,
	SIM_PAGE_SIZES_MIXED,
	SIM_PAGE_OF_MANY_CHUNKS,
	SIM_ALL_URGENT_ROOM_USED,
	SIM_PROMOTED_AMID,
	SIM_SHARE_HAD_IN_HOLD,
	SIM_HELD_DUE_WITHOUT_ROOM,
	SIM_SHARE_HELD_TO,
	SIM_SCAN_RESTARTED,
	SIM_SCAN_WRAPPED,
	SIM_SHORT_WINDOW,
	SIM_REFUSED_URGENT,
	SIM_REFUSED_BACKGROUND,
	SIM_POOL_DRY,
	SIM_KEPT_PAGE_PLACED,
	SIM_DISCARDED,
	SIM_PLACED_AGAIN,
	SIM_DISCARDED_AFTER_DRY,
	SIM_DONE_REPEATED,
	SIM_DONE_AFTER_LINK_DOWN,
	SIM_DONE_MADE_UP,
	SIM_FAULT_REPEATED,
	SIM_FAULT_AMID_PLACING,
	SIM_FAULT_BEFORE_MAP,
	SIM_NAMED_ASKED,
	SIM_NAMED_AMID_WAIT,
	SIM_NAMED_FAULTED,
	SIM_NAMED_AFTER_RESUMED,
	SIM_FAULT_AFTER_RELEASE,
	SIM_HOSTILE_BEFORE_HAND_OVER,
	SIM_HOSTILE_AFTER_HAND_OVER,
	SIM_HOSTILE_TO_SOURCE,
	SIM_LINK_MEASURED,
	SIM_CUT_WHILE_MEASURED,
	SIM_WITHOUT_RECOVER,
	SIM_LINK_AGAIN,
	SIM_LINK_AGAIN_TWICE,
	SIM_HELD_UP_OVER_LINKS,
	SIM_CUT_BEFORE_RUN,
	SIM_CUT_BEFORE_ANSWER,
	SIM_HEARD_AFTER_CUT,
	SIM_ONE_SIDE_LATE,
	SIM_STALE_MESSAGE,
	SIM_STALE_LINK_DOWN,
	SIM_DOUBT_ENDED,
	SIM_COMPLETED_AFTER_LINKS,
	SIM_COMPLETE_SAID_AGAIN,
	SIM_LET_GO,
	SIM_PAUSED_BY_COMMAND,
	SIM_RECOVER_SETUP,
	SIM_SOURCE_CRASHED,
	SIM_SOURCE_CRASHED_RECORDING,
	SIM_SOURCE_CRASHED_GIVEN_UP,
	SIM_GUARDIAN_RESUMED,
	SIM_DESTINATION_CRASHED_LOADED,
	SIM_DESTINATION_CRASHED_RUNNING,
	SIM_DESTINATION_CRASHED_RECORDING,
	SIM_CRASHED_IN_A_CALL,
	SIM_CRASHED_AMID_FETCHES,
	SIM_CRASHED_BEFORE_BIT,
	SIM_CRASHED_BEFORE_CONTINUE,
	SIM_CRASHED_AFTER_RELEASE,
	SIM_FAULT_RAISED_AGAIN,
	SIM_COMPLETED_AFTER_CRASH,
	SIM_GIVEN_UP_FAILED,
	SIM_TAKEN_BACK_FAILED,
	SIM_LOADED_FAILED,
	SIM_RUNNING_FAILED,
	SIM_REFUSED_FAILED,
	SIM_REVIVED,
	SIM_HANDED_BACK,
	SIM_VMM_DIED_LOADED,
	SIM_LOST,
	SIM_ROUNDS_SEVERAL,
	SIM_ROUND_EMPTY,
	SIM_NAMED_AGAIN,
	SIM_WRITTEN_IN_FLIGHT,
	SIM_HOLE_NAMED,
	SIM_HOLE_IN_DOUBT,
	SIM_HOLE_AFTER_LANDING,
	SIM_HOT_LEFT_OUT,
	SIM_SAVE_WROTE,
	SIM_FOUND_STALE,
	SIM_CAME_BEFORE,
	SIM_ROUNDS_NOTHING_LEFT,
	SIM_ROUNDS_FIT,
	SIM_ROUNDS_FIT_NO_MORE,
	SIM_ROUNDS_STALLED,
	SIM_ROUNDS_ALL_HOT,
	SIM_WHOLE_WAITED,
	SIM_COMPLETED_WHOLE,
	SIM_POSTCOPY_AFTER_ROUNDS,
	SIM_POSTCOPY_ASKED_FIRST,
	SIM_POSTCOPY_ASKED_IN_HARVEST,
	SIM_POSTCOPY_ASKED_IN_ROUND,
	SIM_POSTCOPY_ASKED_LATE,
	SIM_POSTCOPY_REFUSED,
	SIM_ROUND_CUT,
	SIM_ROUND_CUT_TOO_LATE,
	SIM_ROUND_CHANGED,
	SIM_ROUND_LIMITED,
	SIM_DONE_OF_OLDER_ROUND,
	SIM_FAULT_IN_ROUND,
	SIM_LINK_CUT_IN_ROUND,
	SIM_CANCELLED_IN_ROUND,
	SIM_SOURCE_CRASHED_IN_ROUND,
	SIM_SOURCE_CRASHED_IN_HARVEST,
	SIM_DESTINATION_CRASHED_IN_ROUND,
	SIM_CRASHED_AFTER_ROUNDS,
	SIM_HARVEST_FAILED,
	SIM_LAST_HARVEST_FAILED,
	SIM_ROUNDS_REFUSED,
	SIM_ROUNDS_UNKNOWN,
	SIM_ROUNDS_OFFERED_LATER,
	SIM_ONE_SIDED,
	SIM_ONE_SIDED_ROUND,
	SIM_ONE_SIDED_CHANGED,
	SIM_COVERED_COUNT,
};

struct sim_queued_event {
	uint64_t time_ns, order;
	sim_event_fn *run;
	uint64_t argument;
	void *data;
};

/* One process of a side: its engine and what its threads have under way. A dead one does nothing more. */
struct sim_process {
	struct sim *sim;
	bool is_source, dead, restarted;
	struct hf_source *source; /* one of the two */
	struct hf_destination *destination;
	bool recording, vm_busy;
	enum hf_record record; /* being written */
	enum hf_vm_op vm_op;   /* under way */
	bool has_memory;       /* destination: faults are read */
	bool released;
	uint32_t dones_running; /* destination: ends of fetches it is being told of */
	bool kicked[HF_WORK_CLASSES], working[HF_WORK_CLASSES];
	uint8_t *received, *present; /* destination: the maps that outlive it */
};

/* The rounds so far, as the messages say. */
struct sim_rounds {
	uint32_t told, heard;	 /* sets that ROUND_END ended; the last ROUND_DONE that was heard */
	uint32_t at_destination; /* the last round it has heard of */
	bool open, cut;		 /* there: a round is under way, and it was asked to end it */
	bool final, whole;	 /* the final set was told, and WHOLE with it */
	bool device_ended;	 /* the destination has heard DEVICE_END */
	bool loaded;		 /* and has said LOADED */
	bool harvesting;
	uint32_t harvests, writes_left;
	bool commanding;
	bool limited; /* at any time */
	uint64_t limit_bytes_per_s, limit_since_ns, limit_posted_bytes;
};

/* What one side's engine has been told of the link. */
struct sim_end {
	bool up;   /* link_up and not yet link_down */
	bool deaf; /* the link was cut, and nothing more comes of what was on its way */
	uint64_t epoch;
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
	struct hf_source *source; /* NULL: its process has crashed */
	struct hf_destination *destination;
	uint32_t destination_of_source[8];
	struct sim_process processes[SIM_PROCESSES_MAX];
	uint32_t process_count;
	struct sim_process *side[2]; /* [is_source]: that runs, or ran last */
	bool gone[2];		     /* and none will again */
	uint32_t crashes_left, record_failures_left;
	enum hf_record on_record[2];

	/* Memory. */
	struct sim_page pages[SIM_PAGES_MAX]; /* numbered as the destination's */
	uint32_t page_count;
	uint8_t *source_memory, *alias, *guest; /* guest: what the VMM sees under `copy` */
	uint8_t *staging, *zeros;
	uint64_t memory_bytes, page_max_bytes;
	bool handed_back;  /* the migration failed: the source VM runs again */
	bool memory_final; /* the source VM has stopped */
	bool released;

	/* Link. */
	bool link_up, link_cut, closing, connecting;
	uint64_t epoch, run_epoch, answer_epoch, complete_epoch; /* the last link; where RUN was heard.. */
	struct sim_end ends[2];					 /* [is_source] */
	uint64_t hears_epoch[2]; /* of the message that side is being told; 0: none */
	uint64_t messages_sent[2],
	    messages_taken[2]; /* to that side; the last it was told, or that was lost */
	uint32_t cuts_left;
	uint64_t fetch_number;
	bool notified;		     /* the programs have something to look at */
	uint64_t control_free_ns[2]; /* messages keep their order */
	uint64_t channel_free_ns[HF_FETCH_CLASSES];
	struct sim_rounds rounds;
	struct sim_fetch fetches[SIM_FETCHES_MAX];
	uint32_t fetches_busy[HF_FETCH_CLASSES], probes_busy;
	uint64_t posted_bytes[HF_FETCH_CLASSES];

	/* VMs. */
	bool source_runs, destination_runs, destination_loaded;
	bool source_frozen, revived, vmm_lives, may_have_run;
	bool taken_back; /* that the source ran its VM after it was given up */
	struct sim_thread threads[SIM_THREADS_MAX];
	uint32_t thread_count;
	uint64_t events_run;
	uint64_t trace; /* of the pages made visible, in order */
	uint64_t covered[SIM_COVERED_COUNT];

	/* The rules' own. */
	int64_t behind_parts, behind_min_parts; /* how far the background is behind its share */
	uint32_t cursor_page;			/* where its scan must go on */
	bool faulted;				/* since it last went on */
	bool hostile;				/* a peer has broken the protocol */
	bool refused[HF_FETCH_CLASSES];		/* since the last done */
	bool fetch_failed;			/* on this link */
	uint32_t fetches_in_vain;		/* after the link was cut */
};

/* sim.c */
uint64_t sim_random(struct sim *sim, uint64_t below);
bool sim_chance(struct sim *sim, uint32_t percent);
void sim_at(struct sim *sim, uint64_t delay_ns, sim_event_fn *run, uint64_t argument, void *data);
/* Other threads run while this one is in a port call. */
void sim_others(struct sim *sim);
/* The same, now and then for very long. */
void sim_others_long(struct sim *sim);
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
struct hf_memory sim_memory_port(struct sim_process *process);
struct hf_source_memory sim_source_memory_port(struct sim_process *process);
uint32_t sim_page_of(const struct sim *sim, uint32_t destination_block, uint64_t page);
void sim_check_page(struct sim *sim, uint32_t page, const char *when);
void sim_thread_access(struct sim *sim, uint64_t thread, void *data);

/* Faults that nobody has read are raised again for a process that has taken the memory over. */
void sim_memory_crashed(struct sim *sim);

/* sim_link.c */
struct hf_transport sim_transport_port(struct sim_process *process);
bool sim_link_may_come_up(const struct sim *sim);
void sim_link_draw(struct sim *sim);
bool sim_link_one_sided(const struct sim *sim, uint64_t epoch);
void sim_link_start(struct sim *sim);
void sim_link_cut(struct sim *sim, uint64_t argument, void *data);
void sim_link_crashed(struct sim *sim, bool is_source);

/* sim_process.c */
void sim_processes_start(struct sim *sim);
void sim_processes_end(struct sim *sim);
/* Engines of dead processes are freed when nobody is inside one. */
void sim_processes_reap(struct sim *sim);
struct hf_recorder sim_recorder_port(struct sim_process *process);
void sim_process_crash(struct sim *sim, uint64_t is_source, void *data);
/* A moment at which a crash hurts. */
void sim_process_may_crash(struct sim_process *process);

/* sim_program.c: what the programs around the engines do */
void sim_program_operate(struct sim *sim);
void sim_program_command(struct sim *sim);

/* sim_rules.c: what must hold */
/* Every fetch; then every one that the link has room for. */
void sim_rules_posting(struct sim *sim, const struct hf_fetch *fetch, uint32_t page);
void sim_rules_posted(struct sim *sim, const struct hf_fetch *fetch, uint32_t page);
/* A message about a thread's fault reaches the engine. */
void sim_rules_fault(struct sim *sim, uint32_t page, uint32_t thread_id, uint64_t arrived_ns);
/* When no thread is inside an engine. */
void sim_rules_step(struct sim *sim);
/* The scheduler's figures begin anew with each link. */
void sim_rules_link_up(struct sim *sim);
void sim_rules_made_visible(struct sim *sim, uint32_t page);
void sim_rules_print(const struct sim *totals);
bool sim_rules_all_covered(const struct sim *totals);

/* sim_rounds.c: pre-copy */
void sim_rounds_draw(struct sim *sim);
void sim_rounds_start(struct sim *sim);
/* The source's port; then what its VM does. */
int sim_rounds_harvest(struct sim_process *process, uint32_t block, uint8_t *dirtied, uint8_t *holes,
		       struct hf_err *err);
void sim_rounds_read_hole(struct sim *sim, uint32_t page);
void sim_rounds_stopping(struct sim *sim);
void sim_rounds_saving(struct sim *sim);
/* A message leaves; is about to be heard. */
void sim_rounds_said(struct sim_process *process, uint32_t type, const void *payload, size_t bytes);
void sim_rounds_hears(struct sim *sim, bool to_source, uint32_t type, const void *payload, size_t bytes);
void sim_rounds_fetch(struct sim *sim, const struct hf_fetch *fetch, uint32_t page);
void sim_rounds_crashed(struct sim *sim, const struct sim_process *process);
void sim_rounds_completed(struct sim *sim, const struct hf_destination_snapshot *destination);
/* Does the link that is up have the feature? */
bool sim_rounds_offered(struct sim *sim);
/* Between ROUND_END's being said and ROUND_DONE's being heard. */
bool sim_rounds_under_way(const struct sim *sim);
bool sim_rounds_cannot_be(const struct sim *sim);

/* sim_storm.c: what goes wrong */
void sim_storm_start(struct sim *sim);
void sim_storm_done(struct sim *sim, const struct hf_fetch_done *done, uint32_t round);
bool sim_storm_refuses(struct sim *sim, enum hf_fetch_class class);
bool sim_storm_pool_is_dry(const struct sim *sim);

/* sim_vm.c */
struct hf_vm sim_vm_port(struct sim_process *process);
/* Does the source tell what loading will touch? */
bool sim_names_pages(const struct sim *sim);
void sim_vm_start(struct sim *sim);
/* Its program has crashed: what the VMM was asked to do was done or was not, and the guardian looks. */
void sim_vm_crashed(struct sim *sim, struct sim_process *process);

#endif
