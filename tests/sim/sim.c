/* SPDX-License-Identifier: Apache-2.0 */
/*
 * simulate [--first SEED] [--seeds N] [--seed SEED]: runs N migrations, one for each seed; --seed runs one
 * and prints what happens.
 */
#include "tests/sim/sim.h"
#include "core/destination_internal.h"
#include "core/schedule.h"

#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NESTED_DEPTH_MAX  3u
#define NESTED_EVENTS_MAX 4u
#define STALL_EVENTS_MAX  60u /* a thread that is held up for long */
#define STALL_PERCENT	  2u
#define LONG_EVENTS_MAX	  2000u
#define LONG_PERCENT	  30u
#define EVENTS_MAX	  2000000u
#define MEASURED_DELAY_NS 16000u
#define SEEDS_ALONE	  100u /* so many are run again, each by itself */
#define SEEDS_COVER_ALL	  20000u

/* ---- randomness, log, failure ---- */

uint64_t sim_random(struct sim *sim, uint64_t below)
{
	/* splitmix64 */
	uint64_t z = (sim->random += 0x9e3779b97f4a7c15ull);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	z ^= z >> 31;
	return below ? z % below : 0;
}

bool sim_chance(struct sim *sim, uint32_t percent)
{
	return sim_random(sim, 100) < percent;
}

void sim_log(struct sim *sim, const char *format, ...)
{
	if (!sim->verbose)
		return;
	va_list args;
	printf("%12" PRIu64 " ns  ", sim->now_ns);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
}

void sim_fail(struct sim *sim, const char *format, ...)
{
	va_list args;
	fprintf(stderr, "seed %" PRIu64 ", %" PRIu64 " ns: ", sim->seed, sim->now_ns);
	va_start(args, format);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, "\nsee it happen: simulate --seed %" PRIu64 "\n", sim->seed);
	exit(1);
}

/* ---- the queue: a heap by time, then by order of arrival ---- */

static bool earlier(const struct sim_queued_event *a, const struct sim_queued_event *b)
{
	return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->order < b->order;
}

static void swap(struct sim_queued_event *a, struct sim_queued_event *b)
{
	struct sim_queued_event saved = *a;
	*a = *b;
	*b = saved;
}

void sim_at(struct sim *sim, uint64_t delay_ns, sim_event_fn *run, uint64_t argument, void *data)
{
	if (sim->queue_count == sim->queue_room) {
		sim->queue_room = sim->queue_room ? sim->queue_room * 2 : 256;
		sim->queue = realloc(sim->queue, sim->queue_room * sizeof(*sim->queue));
		SIM_CHECK(sim, sim->queue, "no memory");
	}
	uint32_t i = sim->queue_count++;
	sim->queue[i] = (struct sim_queued_event){
	    .time_ns = sim->now_ns + delay_ns,
	    .order = sim->order++,
	    .run = run,
	    .argument = argument,
	    .data = data,
	};
	for (; i > 0 && earlier(&sim->queue[i], &sim->queue[(i - 1) / 2]); i = (i - 1) / 2)
		swap(&sim->queue[i], &sim->queue[(i - 1) / 2]);
}

static bool run_next(struct sim *sim)
{
	if (sim->queue_count == 0)
		return false;
	struct sim_queued_event event = sim->queue[0];
	sim->queue[0] = sim->queue[--sim->queue_count];
	for (uint32_t i = 0;;) {
		uint32_t least = i;
		for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < sim->queue_count; child++)
			if (earlier(&sim->queue[child], &sim->queue[least]))
				least = child;
		if (least == i)
			break;
		swap(&sim->queue[i], &sim->queue[least]);
		i = least;
	}
	if (event.time_ns > sim->now_ns)
		sim->now_ns = event.time_ns;
	SIM_CHECK(sim, ++sim->events_run < EVENTS_MAX, "no end after %u events", EVENTS_MAX);
	event.run(sim, event.argument, event.data);
	return true;
}

static void run_others(struct sim *sim, uint64_t most)
{
	struct hf_lock_thread caller;
	hf_lock_other_thread_begin(&caller);
	sim->depth++;
	for (uint64_t events = 1 + sim_random(sim, most); events > 0; events--) {
		run_next(sim);
		sim_program_operate(sim);
	}
	sim->depth--;
	hf_lock_other_thread_end(&caller);
}

void sim_others(struct sim *sim)
{
	if (sim->depth >= NESTED_DEPTH_MAX || !sim_chance(sim, sim->plan.nested_percent))
		return;
	run_others(sim, sim_chance(sim, STALL_PERCENT) ? STALL_EVENTS_MAX : NESTED_EVENTS_MAX);
}

void sim_others_long(struct sim *sim)
{
	if (sim->plan.nested_percent > 0 && sim->depth == 0 && sim_chance(sim, LONG_PERCENT))
		run_others(sim, LONG_EVENTS_MAX);
	else
		sim_others(sim);
}

/* ---- one run ---- */

static void draw_recovery(struct sim *sim)
{
	struct sim_plan *plan = &sim->plan;
	plan->recover = !sim_chance(sim, 15);
	plan->cuts = plan->cut_link && sim_chance(sim, 60) ? (uint32_t)sim_random(sim, 5) : 0;
	plan->crashes = sim_chance(sim, 25) ? 1 + (uint32_t)sim_random(sim, 3) : 0;
	plan->crash_ns = sim_chance(sim, 40) ? 1 + sim_random(sim, 2000000) : 0;
	plan->crash_source = sim_chance(sim, 40);
	plan->gone_for_good = sim_chance(sim, 8);
	plan->late_cut_percent = sim_chance(sim, 30) ? 50 : 0;
	plan->record_failures = sim_chance(sim, 10) ? 1 + (uint32_t)sim_random(sim, 3) : 0;
	plan->record_to_fail = 1 + (enum hf_record)sim_random(sim, HF_RECORDS - 1);
	plan->command_percent = sim_chance(sim, 20) ? 30 : 0;
	plan->revived = sim_chance(sim, 4);
	plan->run = sim_chance(sim, 5)	 ? SIM_RUN_REFUSED
		    : sim_chance(sim, 2) ? SIM_RUN_UNKNOWN
					 : SIM_RUN_GOES;
	plan->vmm_dies = sim_chance(sim, 5);
	plan->vmm_dies_ns = sim_random(sim, 1000000);
	plan->fail_takeover = sim_chance(sim, 3);
	plan->fail_vm_op = sim_chance(sim, 8) ? (int)sim_random(sim, HF_VM_OPS) : -1;
}

static void draw_plan(struct sim *sim)
{
	struct sim_plan *plan = &sim->plan;
	*plan = (struct sim_plan){
	    .placement = sim_chance(sim, 50) ? HF_PLACEMENT_CONTINUE : HF_PLACEMENT_COPY,
	    .vcpus = 1 + (uint32_t)sim_random(sim, 8),
	    .slots = 1 + (uint32_t)sim_random(sim, 13),
	    .chunk_bytes = 4096u << sim_random(sim, 2),
	    .background_held_first = sim_chance(sim, 20),
	    .source_holds = sim_chance(sim, 10),
	    .wish_placement = sim_chance(sim, 20),
	    .wished = sim_chance(sim, 50) ? HF_PLACEMENT_CONTINUE : HF_PLACEMENT_COPY,
	    .cut_link = sim_chance(sim, 25),
	    .cut_ns = sim_random(sim, 3000000),
	    .cancel = sim_chance(sim, 10),
	    .cancel_on_source = sim_chance(sim, 50),
	    .cancel_ns = sim_random(sim, 500000),
	    .fail_prepare = sim_chance(sim, 3),
	    .mismatch = sim_chance(sim, 3),
	    .measure = sim_random(sim, 1000) == 0, /* it takes 200 ms, longer than all else */
	    .share_percent = sim_chance(sim, 50)
				 ? HF_SCHEDULE_SHARE_DEFAULT_PERCENT
				 : 1 + (uint32_t)sim_random(sim, HF_SCHEDULE_SHARE_MAX_PERCENT),
	    .refuse_percent = sim_chance(sim, 20) ? 1 + (uint32_t)sim_random(sim, 60) : 0,
	    .repeat_percent = sim_chance(sim, 30) ? 20 : 0,
	    .stray_faults = sim_chance(sim, 20) ? (uint32_t)sim_random(sim, 20) : 0,
	    .hostile_messages = sim_chance(sim, 5) ? 1 + (uint32_t)sim_random(sim, 3) : 0,
	    .pool_empty_percent = sim_chance(sim, 30) ? 30 : 0,
	    .dry_from_ns = sim_random(sim, 1500000),
	    .dry_ns = sim_chance(sim, 20) ? sim_random(sim, 400000) : 0,
	    .discard_percent = sim_chance(sim, 30) ? 10 : 0,
	    .late_percent = sim_chance(sim, 50) ? 40 : 0,
	    .nested_percent = sim_chance(sim, 70) ? 30 : 0,
	    .delay_max_ns = 1000u << sim_random(sim, 8),
	};
	draw_recovery(sim);
	sim_rounds_draw(sim);
	sim_link_draw(sim);
	/* What is measured lasts some time, however fast the link is: that many chunks come meanwhile. */
	if (plan->measure && plan->delay_max_ns < MEASURED_DELAY_NS)
		plan->delay_max_ns = MEASURED_DELAY_NS;
	for (int class = 0; class < HF_FETCH_CLASSES; class ++) {
		plan->channels[class] = 1 + (uint32_t)sim_random(sim, 3);
		plan->capacity[class] = plan->channels[class] * (1 + (uint32_t)sim_random(sim, 16));
	}
}

/* The same blocks on both sides, in another order on the source. */
static void make_blocks(struct sim *sim)
{
	uint32_t count = 1 + (uint32_t)sim_random(sim, 3);
	struct hf_err err;
	hf_ramblocks_init(&sim->source_blocks);
	hf_ramblocks_init(&sim->destination_blocks);
	uint64_t page_size[3], length[3];
	char idstr[3][16];
	bool giant = sim_chance(sim, 8); /* many chunks a page, few pages, as with 1 GiB */
	for (uint32_t i = 0; i < count; i++) {
		page_size[i] = 4096ull << (giant ? 5 + sim_random(sim, 2) : sim_random(sim, 4));
		length[i] = page_size[i] * (1 + sim_random(sim, giant ? 5 : SIM_PAGES_MAX / 3));
		snprintf(idstr[i], sizeof(idstr[i]), "ram%u", i);
	}
	for (uint32_t i = 0; i < count; i++) {
		uint32_t from = (i + 1) % count;
		int result =
		    hf_ramblocks_add(&sim->destination_blocks, idstr[i], length[i], page_size[i], &err);
		uint64_t extra = sim->plan.mismatch && from == 0 ? page_size[from] : 0;
		if (result == 0)
			result = hf_ramblocks_add(&sim->source_blocks, idstr[from], length[from] + extra,
						  page_size[from], &err);
		SIM_CHECK(sim, result == 0, "%s", err.text);
		sim->destination_of_source[i] = from;
	}
}

static void make_threads(struct sim *sim)
{
	sim->thread_count = sim->plan.vcpus + (uint32_t)sim_random(sim, SIM_THREADS_MAX - sim->plan.vcpus);
	for (uint32_t i = 0; i < sim->thread_count; i++)
		sim->threads[i] = (struct sim_thread){
		    .id = 1000 + i,
		    .accesses_left = i < sim->plan.vcpus ? 20 + sim_random(sim, 200) : 3,
		};
}

static void cancel(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	struct hf_err err = HF_ERR_INIT;
	if (!sim->source || !sim->destination)
		return;
	int result = sim->plan.cancel_on_source ? hf_source_cancel(sim->source, &err)
						: hf_destination_cancel(sim->destination, &err);
	sim_log(sim, "cancel: %d %s", result, err.text);
	sim->covered[SIM_CANCELLED_IN_ROUND] += result == 0 && sim_rounds_under_way(sim);
	SIM_CHECK(sim, result == 0 || err.text[0], "a cancel is refused without a reason");
}

static void release_background(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	if (sim->plan.source_holds && sim->source)
		hf_source_hold_background(sim->source, false);
	if ((sim->plan.background_held_first || !sim->plan.recover) && sim->destination)
		hf_destination_hold_background(sim->destination, false);
}

/* What must hold after each step. */
static void check_always(struct sim *sim)
{
	SIM_CHECK(sim, !(sim->source_runs && sim->destination_runs), "the VM runs twice");
	sim_rules_step(sim);
}

/* Something other than links and crashes went wrong. */
static bool disturbed(const struct sim *sim)
{
	const struct sim_plan *plan = &sim->plan;
	return plan->cut_link || plan->cancel || plan->fail_vm_op >= 0 || plan->fail_prepare ||
	       plan->mismatch || plan->crashes > 0 || plan->record_failures > 0 || plan->revived ||
	       plan->run != SIM_RUN_GOES || plan->vmm_dies || sim->hostile || sim_rounds_cannot_be(sim) ||
	       plan->rounds.failing_harvest > 0;
}

/* May the end be one where the VM runs nowhere, or somebody still waits? */
static bool excused(const struct sim *sim)
{
	const struct sim_plan *plan = &sim->plan;
	if (sim->destination && sim->destination->handover == HF_DESTINATION_LOST)
		return true;
	return !plan->recover || sim->hostile || sim->gone[true] || sim->gone[false] || !sim->vmm_lives ||
	       plan->fail_vm_op == HF_VM_RESUME || plan->fail_vm_op == HF_VM_KILL || plan->fail_takeover;
}

static void check_completed(struct sim *sim, const struct hf_destination_snapshot *destination)
{
	SIM_CHECK(sim, sim->released && (sim->destination_runs || !sim->vmm_lives),
		  "completed, but not released and running");
	SIM_CHECK(sim, destination->pages_received == sim->page_count, "completed with %u of %u pages",
		  destination->pages_received, sim->page_count);
	SIM_CHECK(sim, destination->pages_fetched + destination->pages_zero == sim->page_count,
		  "%u pages fetched and %u zero of %u", destination->pages_fetched, destination->pages_zero,
		  sim->page_count);
	for (uint32_t i = 0; i < sim->thread_count; i++)
		SIM_CHECK(sim, sim->threads[i].state != SIM_BLOCKED, "thread %u still waits", i);
	for (uint32_t page = 0; page < sim->page_count; page++)
		sim_check_page(sim, page, "end");
	sim_rounds_completed(sim, destination);
	sim->covered[SIM_COMPLETED_AFTER_LINKS] += sim->epoch > 1;
	sim->covered[SIM_COMPLETED_AFTER_CRASH] += sim->side[false]->restarted;
	if (sim->side[false]->restarted)
		return;
	for (uint32_t i = 0; i < sim->plan.vcpus; i++) {
		struct hf_blocktime_vcpu vcpu;
		hf_destination_blocktime_vcpu(sim->destination, i, &vcpu);
		SIM_CHECK(sim, destination->blocktime.overlapped_ns <= vcpu.blocktime_ns,
			  "overlapped blocktime exceeds that of vCPU %u", i);
		/* One more placement of a page may be under way at the end. */
		SIM_CHECK(sim,
			  vcpu.blocktime_ns <= destination->total_time_ns || sim->plan.nested_percent > 0,
			  "vCPU %u was blocked longer than the migration took", i);
	}
}

/* Links came again and processes were started again: the VM runs, and nobody waits for nothing. */
static void check_progress(struct sim *sim)
{
	struct hf_source_snapshot source;
	struct hf_destination_snapshot destination;
	hf_source_snapshot(sim->source, &source);
	hf_destination_snapshot(sim->destination, &destination);
	if (sim->source_runs) {
		SIM_CHECK(sim, hf_status_is_final(destination.status),
			  "the VM stayed with the source, and the destination never heard");
		SIM_CHECK(sim, source.owner == HF_VM_OWNER_SOURCE,
			  "the source does not know that its VM runs");
		return;
	}
	SIM_CHECK(sim, sim->destination_runs, "the VM runs nowhere");
	SIM_CHECK(sim, destination.status == HF_STATUS_COMPLETED,
		  "links came again, and the migration ended as %s", hf_status_name(destination.status));
}

static void check_source_end(struct sim *sim, const struct hf_source_snapshot *source)
{
	/* Nobody is left without a VM unless the hand-over was under way or the VMM itself failed. */
	if (source->owner == HF_VM_OWNER_SOURCE)
		SIM_CHECK(sim, sim->source_runs, "the source owns the VM, and it stands still");
	SIM_CHECK(sim, source->owner != HF_VM_OWNER_RESUMING, "the source VM was never resumed");
	SIM_CHECK(sim, source->owner != HF_VM_OWNER_STUCK || sim->plan.fail_vm_op == HF_VM_RESUME,
		  "the source VM is stuck");
	if (source->status != HF_STATUS_COMPLETED)
		SIM_CHECK(sim, source->err.text[0] || source->status == HF_STATUS_NONE,
			  "the source ended as %s without a reason", hf_status_name(source->status));
}

static void check_destination_end(struct sim *sim, const struct hf_destination_snapshot *destination)
{
	sim->covered[SIM_LINK_MEASURED] += destination->link.rate_bytes_per_s > 0;
	sim->covered[SIM_LOST] += destination->handover == HF_DESTINATION_LOST;
	SIM_CHECK(sim, disturbed(sim) || destination->status == HF_STATUS_COMPLETED,
		  "nothing went wrong, but the migration ended as %s", hf_status_name(destination->status));
	if (destination->status == HF_STATUS_COMPLETED)
		check_completed(sim, destination);
	else
		SIM_CHECK(sim, destination->err.text[0] || destination->status == HF_STATUS_NONE,
			  "the destination ended as %s without a reason",
			  hf_status_name(destination->status));
}

static void check_end(struct sim *sim)
{
	struct hf_source_snapshot source = {0};
	struct hf_destination_snapshot destination = {0};
	if (sim->source) {
		hf_source_snapshot(sim->source, &source);
		check_source_end(sim, &source);
	}
	if (sim->destination) {
		hf_destination_snapshot(sim->destination, &destination);
		check_destination_end(sim, &destination);
	}
	sim_log(sim, "source %s (%s), destination %s/%s (%s)", hf_status_name(source.status), source.err.text,
		hf_status_name(destination.status), hf_incoming_name(destination.incoming),
		destination.err.text);
	if (source.owner == HF_VM_OWNER_DESTINATION && sim->destination)
		SIM_CHECK(sim,
			  destination.status != HF_STATUS_FAILED && destination.status != HF_STATUS_CANCELLED,
			  "the source gave the VM up and the destination dropped it (%s)",
			  hf_status_name(destination.status));
	if (destination.status == HF_STATUS_COMPLETED && sim->process_count == 2 && sim->source)
		SIM_CHECK(sim, source.unseen || destination.transferred_bytes <= source.sent_bytes,
			  "more bytes came than were sent");
	if (!excused(sim))
		check_progress(sim);
}

static void note_shape(struct sim *sim)
{
	const struct hf_ramblocks *blocks = &sim->destination_blocks;
	for (uint32_t i = 1; i < blocks->count; i++)
		sim->covered[SIM_PAGE_SIZES_MIXED] +=
		    blocks->blocks[i].page_size_bytes != blocks->blocks[0].page_size_bytes;
	sim->covered[SIM_PAGE_OF_MANY_CHUNKS] += blocks->page_size_max_bytes >= 64ull * sim->plan.chunk_bytes;
	sim->covered[SIM_SHORT_WINDOW] += sim->plan.capacity[HF_FETCH_BACKGROUND] <= 2;
	sim->covered[SIM_ONE_LANDING] += sim->plan.placement == HF_PLACEMENT_COPY && sim->plan.slots == 1;
}

static void note_end(struct sim *sim)
{
	struct hf_destination_snapshot destination;
	if (!sim->destination)
		return;
	hf_destination_snapshot(sim->destination, &destination);
	sim->covered[SIM_COMPLETED] += destination.status == HF_STATUS_COMPLETED;
	sim->covered[SIM_PAUSED] += destination.status == HF_STATUS_POSTCOPY_PAUSED;
	sim->covered[SIM_FAILED_EARLY] += destination.status == HF_STATUS_FAILED;
}

static struct sim *open_seed(uint64_t seed, bool verbose)
{
	struct sim *sim = calloc(1, sizeof(*sim));
	if (!sim)
		abort();
	sim->seed = sim->random = seed;
	sim->verbose = verbose;
	sim->now_ns = 1000000;
	draw_plan(sim);
	make_blocks(sim);
	sim_memory_create(sim);
	make_threads(sim);
	sim_processes_start(sim);
	note_shape(sim);
	sim_vm_start(sim);

	sim_link_start(sim);
	sim_rounds_start(sim);
	if (sim->plan.cancel)
		sim_at(sim, sim->plan.cancel_ns, cancel, 0, NULL);
	if (sim->plan.background_held_first || sim->plan.source_holds)
		sim_at(sim, 5000000, release_background, 0, NULL);
	sim_storm_start(sim);
	return sim;
}

/* False: nothing happens any more. */
static bool step(struct sim *sim)
{
	check_always(sim);
	sim_program_operate(sim);
	sim_processes_reap(sim);
	return run_next(sim);
}

static void close_seed(struct sim *sim, struct sim *totals)
{
	check_end(sim);
	note_end(sim);
	totals->events_run += sim->events_run;
	totals->trace += sim->trace;
	for (int i = 0; i < SIM_COVERED_COUNT; i++)
		totals->covered[i] += sim->covered[i] > 0;
	sim_processes_end(sim);
	hf_ramblocks_destroy(&sim->source_blocks);
	hf_ramblocks_destroy(&sim->destination_blocks);
	sim_memory_destroy(sim);
	free(sim->queue);
	free(sim);
}

/* Two migrations in one process, one event of each in turn; other_seed 0: one alone. */
static void run_seeds(uint64_t seed, uint64_t other_seed, bool verbose, struct sim *totals)
{
	struct sim *sim = open_seed(seed, verbose);
	struct sim *other = other_seed ? open_seed(other_seed, verbose) : NULL;
	bool runs = true, other_runs = other != NULL;

	while (runs || other_runs) {
		runs = runs && step(sim);
		other_runs = other_runs && step(other);
	}
	close_seed(sim, totals);
	if (other)
		close_seed(other, totals);
}

/* Beside another, a seed's migration goes as it goes alone: engines share nothing. */
static bool goes_as_alone(uint64_t seed)
{
	static struct sim together, alone;
	memset(&together, 0, sizeof(together));
	memset(&alone, 0, sizeof(alone));
	run_seeds(seed, seed + 1, false, &together);
	run_seeds(seed, 0, false, &alone);
	run_seeds(seed + 1, 0, false, &alone);
	if (together.events_run == alone.events_run && together.trace == alone.trace)
		return true;
	fprintf(stderr,
		"seeds %" PRIu64 " and %" PRIu64 " go another way together: %" PRIu64
		" events together, %" PRIu64 " one by one\n",
		seed, seed + 1, together.events_run, alone.events_run);
	return false;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
	    {"first", required_argument, NULL, 'f'},
	    {"seeds", required_argument, NULL, 'n'},
	    {"seed", required_argument, NULL, 's'},
	    {0},
	};
	uint64_t first = 1, seeds = 1000;
	bool verbose = false;
	for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		if (option == 'f') {
			first = strtoull(optarg, NULL, 0);
		} else if (option == 'n') {
			seeds = strtoull(optarg, NULL, 0);
		} else if (option == 's') {
			first = strtoull(optarg, NULL, 0);
			seeds = 1;
			verbose = true;
			setvbuf(stdout, NULL, _IOLBF, 0);
		} else {
			return 2;
		}
	}

	/* Runs take and give back the same memory; the kernel need not clear it each time. */
	mallopt(M_MMAP_THRESHOLD, 1 << 30);
	mallopt(M_TRIM_THRESHOLD, 1 << 30);
	static struct sim totals;
	for (uint64_t seed = first; seed < first + seeds; seed += 2)
		run_seeds(seed, seed + 1 < first + seeds ? seed + 1 : 0, verbose, &totals);
	for (uint64_t seed = first; seeds >= 10 * SEEDS_ALONE && seed < first + SEEDS_ALONE; seed += 2)
		if (!goes_as_alone(seed))
			return 1;
	sim_rules_print(&totals);
	printf("%" PRIu64 " seeds, %" PRIu64 " completed, %" PRIu64 " events: all rules kept\n", seeds,
	       totals.covered[SIM_COMPLETED], totals.events_run);
	/* A simulator in which almost nothing completes, or to which nothing happens, proves nothing. */
	if (seeds >= 100 && totals.covered[SIM_COMPLETED] < seeds / 3)
		return 1;
	return seeds >= SEEDS_COVER_ALL && !sim_rules_all_covered(&totals);
}
