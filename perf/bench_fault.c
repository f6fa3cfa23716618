/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a vCPU feels of a missing page: from its touch until it goes on, by its own clock, through KVM,
 * userfaultfd, engine, link and placement (postcopy.h).
 *
 *  - touch/SCHEME/PLACEMENT/vcpus:N: N vCPUs touch a missing page each, at once; the one that waits longest
 * counts. Alternately with nothing else on the link, and while the background runs at full speed. Limit: as
 * many pages fetched over the bare transport, and placed, with nobody who waits.
 *  - background/SCHEME/PLACEMENT: all pages with no fault. Limit: a bare loop over as many sockets, and no
 * placement.
 *
 * Beside it the truth of the blocktime that is reported: what the engine has counted for the vCPUs, by what
 * they have measured themselves, and the difference for each fault.
 *
 *   bench-fault [--chunk=SIZE] [--share=PERCENT] [option of Google Benchmark...]
 *
 * SIZE and PERCENT are `receive`'s --chunk-size and --background-share. Wants root, /dev/kvm and up to 900
 * MiB of huge pages.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/destination.h"
#include "core/wire.h"
#include "deploy/monotonic.h"
#include "deploy/options.h"
#include "perf/benchmark_shim.h"
#include "perf/giver.h"
#include "perf/halves.h"
#include "perf/local.h"
#include "perf/placing.h"
#include "perf/postcopy.h"
#include "perf/samples.h"

#define PAGES		  384u
#define CHANNELS	  2u
#define FULL_SPEED_CHUNKS 32u /* the background posts before it counts as being at full speed */
#define PAGES_APART	  48u /* the background never begins so many pages ahead of a fault */
#define URI_BYTES	  64
#define LOOK_NS		  200000

struct fault_case {
	const char *name, *scheme;
	enum hf_placement_choice choice;
	uint32_t vcpus;
	bool background;
	uint64_t chunk_bytes, share_percent; /* 0: the engine's default */
	cpu_set_t cpus;
};

/* What vCPUs have felt, and what the engine has counted of it. */
struct stood {
	struct hf_samples us; /* the longest of each round */
	double guest_us, reported_us;
	uint64_t faults;
};

struct run {
	struct hf_benchmark *benchmark;
	const struct fault_case *of;
	struct hf_local raw;
	struct hf_placing raw_pages;
	struct hf_postcopy *postcopy;
	uint32_t next_page; /* to be touched; from the last one down. The background goes up from the first */
	struct stood idle, busy;
	struct hf_samples raw_us, present_us, mib_per_s, raw_mib_per_s;
	double cpu_s, raw_cpu_s;
	struct hf_err err;
};

/* ---- start and stop ---------------------------------------------------------------------------- */

static void address(const struct run *run, const char *what, char uri[static URI_BYTES])
{
	if (strcmp(run->of->scheme, "tcp") == 0)
		snprintf(uri, URI_BYTES, "tcp:127.0.0.1:0");
	else
		snprintf(uri, URI_BYTES, "unix:/tmp/hf-bench-%d-%s", (int)getpid(), what);
}

static int start_raw(struct run *run)
{
	char uri[URI_BYTES], bare_uri[URI_BYTES];
	address(run, "raw", uri);
	address(run, "bare", bare_uri);
	struct hf_taker_config config = {.uri = uri, .bare_uri = bare_uri, .channels = CHANNELS};
	int result = hf_local_start(&run->raw, &config, &run->of->cpus, &run->err);
	return result
		   ? result
		   : hf_placing_open(&run->raw_pages, HF_POSTCOPY_PAGE_BYTES, run->of->vcpus, 0, &run->err);
}

static int start_postcopy(struct run *run)
{
	char uri[URI_BYTES];
	address(run, "link", uri);
	struct hf_postcopy_config config = {.uri = uri,
					    .pages = PAGES,
					    .vcpus = run->of->vcpus,
					    .channels = CHANNELS,
					    .chunk_bytes = (uint32_t)run->of->chunk_bytes,
					    .background_share_percent = (uint32_t)run->of->share_percent,
					    .choice = run->of->choice,
					    .cpus = run->of->cpus};
	hf_postcopy_stop(run->postcopy);
	run->postcopy = NULL;
	run->next_page = PAGES;
	return hf_postcopy_start(&run->postcopy, &config, &run->err);
}

static void stop(struct run *run)
{
	hf_postcopy_stop(run->postcopy);
	hf_placing_close(&run->raw_pages);
	hf_local_stop(&run->raw);
	struct hf_samples *samples[] = {&run->idle.us,	  &run->busy.us,   &run->raw_us,
					&run->present_us, &run->mib_per_s, &run->raw_mib_per_s};
	for (size_t i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
		hf_samples_free(samples[i]);
}

static int lost(struct run *run)
{
	return hf_err_set(&run->err, HF_ERR_LOCAL, 5, "the migration has failed");
}

/* ---- touch ------------------------------------------------------------------------------------- */

static struct hf_destination *engine_of(struct run *run)
{
	return hf_moving_destination(hf_postcopy_moving(run->postcopy));
}

static double reported_us(struct run *run)
{
	double sum = 0;
	for (uint32_t i = 0; i < run->of->vcpus; i++) {
		struct hf_blocktime_vcpu vcpu = {0};
		hf_destination_blocktime_vcpu(engine_of(run), i, &vcpu);
		sum += (double)vcpu.blocktime_ns / 1e3;
	}
	return sum;
}

/* Each vCPU the page of its own; how long the slowest stood. */
static int touch_all(struct run *run, uint32_t first_page, struct stood *stood)
{
	struct hf_toucher *toucher = hf_postcopy_toucher(run->postcopy);
	double before_us = reported_us(run), longest_us = 0;
	int result = 0;
	for (uint32_t i = 0; i < run->of->vcpus; i++)
		hf_toucher_touch(toucher, i, (first_page + i) * HF_POSTCOPY_PAGE_BYTES);
	for (uint32_t i = 0; i < run->of->vcpus; i++) {
		uint64_t ns = 0;
		if (hf_toucher_wait(toucher, i, &ns))
			result = lost(run);
		longest_us = (double)ns / 1e3 > longest_us ? (double)ns / 1e3 : longest_us;
		stood->guest_us += (double)ns / 1e3;
	}
	hf_samples_add(&stood->us, longest_us);
	stood->reported_us += reported_us(run) - before_us;
	stood->faults += run->of->vcpus;
	return result;
}

/* The first of as many pages as there are vCPUs, that nobody has touched. */
static uint32_t choose_pages(struct run *run)
{
	run->next_page -= run->of->vcpus;
	return run->next_page;
}

static int touch_idle(struct run *run)
{
	struct stood present = {0};
	struct hf_moving *moving = hf_postcopy_moving(run->postcopy);
	hf_moving_hold_background(moving, true);
	if (hf_moving_wait_idle(moving))
		return lost(run);
	uint32_t pages = choose_pages(run);
	int result = touch_all(run, pages, &run->idle);
	if (!result)
		result = touch_all(run, pages, &present);
	if (!result)
		hf_samples_add(&run->present_us, hf_samples_rank(&present.us, 500));
	hf_samples_free(&present.us);
	return result;
}

static int touch_busy(struct run *run)
{
	struct hf_moving *moving = hf_postcopy_moving(run->postcopy);
	uint64_t posted = hf_moving_counts(moving).posted_chunks[HF_FETCH_BACKGROUND];
	hf_moving_hold_background(moving, false);
	if (hf_moving_wait_background_posted(moving, posted + FULL_SPEED_CHUNKS))
		return lost(run);
	int result = touch_all(run, choose_pages(run), &run->busy);
	hf_moving_hold_background(moving, true);
	return result;
}

static int place_raw(struct run *run, uint32_t page, uint64_t *took_ns)
{
	struct hf_placing *pages = &run->raw_pages;
	bool copies = run->of->choice == HF_PLACEMENT_CHOICE_COPY;
	int result = copies ? hf_placing_take_away(pages, page) : hf_placing_leave_in_file(pages, page);
	uint64_t began_ns = hf_monotonic_ns(NULL);
	if (!result)
		result = copies ? hf_placing_copy(pages, page, hf_taker_window(run->raw.taker))
				: hf_placing_continue(pages, page);
	*took_ns += hf_monotonic_ns(NULL) - began_ns;
	return result;
}

static int fetch_raw(struct run *run)
{
	struct hf_pair pair;
	struct hf_taking taking = {.class = HF_FETCH_URGENT,
				   .bytes = run->of->vcpus * HF_POSTCOPY_PAGE_BYTES,
				   .chunk_bytes = HF_CHUNK_DEFAULT_BYTES,
				   .fetch_only = true};
	int result = hf_taker_pair(run->raw.taker, &taking, 0, &pair, &run->err);
	for (uint32_t i = 0; i < run->of->vcpus && !result; i++)
		if (place_raw(run, i, &pair.fetch_ns))
			result = lost(run);
	if (!result)
		hf_samples_add(&run->raw_us, (double)pair.fetch_ns / 1e3);
	return result;
}

/* Pages that can still be touched before the background meets them. */
static bool pages_left(struct run *run)
{
	struct hf_destination_snapshot snapshot;
	hf_destination_snapshot(engine_of(run), &snapshot);
	return run->next_page > snapshot.pages_received + PAGES_APART + 2 * run->of->vcpus;
}

static int touch_once(struct run *run)
{
	int result = pages_left(run) ? 0 : start_postcopy(run);
	if (!result)
		result = touch_idle(run);
	if (!result)
		result = fetch_raw(run);
	if (!result)
		result = touch_busy(run);
	if (!result)
		hf_benchmark_took_ns(run->benchmark,
				     (uint64_t)(run->idle.us.values[run->idle.us.count - 1] * 1e3));
	return result;
}

static void report_truth(struct hf_benchmark *b, const struct stood *stood, const char *ratio,
			 const char *apart)
{
	hf_benchmark_counter(b, ratio, stood->reported_us / stood->guest_us);
	hf_benchmark_counter(b, apart, (stood->guest_us - stood->reported_us) / (double)stood->faults);
}

static void report_touch(struct run *run)
{
	struct hf_benchmark *b = run->benchmark;
	report_truth(b, &run->idle, "reported_by_felt", "felt_longer_us_per_fault");
	report_truth(b, &run->busy, "busy_reported_by_felt", "busy_felt_longer_us_per_fault");
	double p50 = hf_samples_rank(&run->idle.us, 500), busy_p99 = hf_samples_rank(&run->busy.us, 990);
	hf_benchmark_counter(b, "p50_us", p50);
	hf_benchmark_counter(b, "p99_us", hf_samples_rank(&run->idle.us, 990));
	hf_benchmark_counter(b, "busy_p50_us", hf_samples_rank(&run->busy.us, 500));
	hf_benchmark_counter(b, "busy_p99_us", busy_p99);
	hf_benchmark_counter(b, "busy_p99_by_idle_p50", busy_p99 / p50);
	hf_benchmark_counter(b, "raw_p50_us", hf_samples_rank(&run->raw_us, 500));
	hf_benchmark_counter(b, "raw_p99_us", hf_samples_rank(&run->raw_us, 990));
	hf_benchmark_counter(b, "present_p50_us", hf_samples_rank(&run->present_us, 500));
	hf_benchmark_counter(b, "faults", (double)(run->idle.faults + run->busy.faults));
}

/* ---- background -------------------------------------------------------------------------------- */

static double cpu_s(void)
{
	struct timespec used;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static bool has_all(struct run *run)
{
	struct hf_destination_snapshot snapshot;
	hf_destination_snapshot(engine_of(run), &snapshot);
	return snapshot.pages_received == PAGES;
}

static int move_all(struct run *run)
{
	const struct timespec look = {.tv_nsec = LOOK_NS};
	int result = start_postcopy(run);
	if (result)
		return result;
	double cpu_before_s = cpu_s();
	uint64_t began_ns = hf_monotonic_ns(NULL);
	hf_moving_hold_background(hf_postcopy_moving(run->postcopy), false);
	while (!has_all(run)) {
		struct hf_destination_snapshot snapshot;
		hf_destination_snapshot(engine_of(run), &snapshot);
		if (snapshot.err.class != HF_ERR_NONE)
			return lost(run);
		nanosleep(&look, NULL);
	}
	uint64_t took_ns = hf_monotonic_ns(NULL) - began_ns;
	run->cpu_s += cpu_s() - cpu_before_s;
	hf_samples_add(&run->mib_per_s, 2.0 * PAGES / ((double)took_ns / 1e9));
	hf_benchmark_took_ns(run->benchmark, took_ns);
	return 0;
}

static int stream_raw(struct run *run)
{
	struct hf_pair pair;
	struct hf_taking taking = {.class = HF_FETCH_BACKGROUND,
				   .bytes = PAGES * HF_POSTCOPY_PAGE_BYTES,
				   .chunk_bytes = HF_CHUNK_DEFAULT_BYTES,
				   .raw_only = true};
	int result = hf_taker_pair(run->raw.taker, &taking, run->raw.giver.pid, &pair, &run->err);
	if (result)
		return result;
	run->raw_cpu_s += (double)(pair.raw_cpu_ns[0] + pair.raw_cpu_ns[1]) / 1e9;
	hf_samples_add(&run->raw_mib_per_s, 2.0 * PAGES / ((double)pair.raw_ns / 1e9));
	return 0;
}

static void report_background(struct run *run)
{
	struct hf_benchmark *b = run->benchmark;
	double gib = 2.0 * PAGES / 1024 * (double)run->mib_per_s.count;
	hf_benchmark_counter(b, "mib_per_s", hf_samples_rank(&run->mib_per_s, 500));
	hf_benchmark_counter(b, "raw_mib_per_s", hf_samples_rank(&run->raw_mib_per_s, 500));
	hf_benchmark_counter(b, "cpu_s_per_gib", run->cpu_s / gib);
	hf_benchmark_counter(b, "raw_cpu_s_per_gib", run->raw_cpu_s / gib);
}

/* ---- the suite --------------------------------------------------------------------------------- */

static void run_case(struct hf_benchmark *benchmark, const void *argument)
{
	struct run run = {.benchmark = benchmark, .of = argument};
	int result = start_raw(&run);
	if (!result && !run.of->background)
		result = start_postcopy(&run);
	while (!result && hf_benchmark_next(benchmark)) {
		result = run.of->background ? move_all(&run) : touch_once(&run);
		if (!result && run.of->background)
			result = stream_raw(&run);
	}
	if (result) {
		hf_local_explain(&run.raw, &run.err);
		hf_benchmark_fail(benchmark, run.err.text);
	} else if (run.of->background) {
		report_background(&run);
	} else {
		report_touch(&run);
	}
	stop(&run);
}

static struct fault_case *list(void)
{
	static const struct fault_case cases[] = {
	    {"touch/tcp/continue/vcpus:1", "tcp", HF_PLACEMENT_CHOICE_CONTINUE, 1},
	    {"touch/tcp/continue/vcpus:2", "tcp", HF_PLACEMENT_CHOICE_CONTINUE, 2},
	    {"touch/tcp/continue/vcpus:4", "tcp", HF_PLACEMENT_CHOICE_CONTINUE, 4},
	    {"touch/tcp/continue/vcpus:8", "tcp", HF_PLACEMENT_CHOICE_CONTINUE, 8},
	    {"touch/tcp/continue/vcpus:16", "tcp", HF_PLACEMENT_CHOICE_CONTINUE, 16},
	    {"touch/tcp/copy/vcpus:1", "tcp", HF_PLACEMENT_CHOICE_COPY, 1},
	    {"touch/unix/continue/vcpus:1", "unix", HF_PLACEMENT_CHOICE_CONTINUE, 1},
	    {"background/tcp/continue", "tcp", HF_PLACEMENT_CHOICE_CONTINUE, 1, true},
	    {"background/tcp/copy", "tcp", HF_PLACEMENT_CHOICE_COPY, 1, true},
	    {"background/unix/continue", "unix", HF_PLACEMENT_CHOICE_CONTINUE, 1, true},
	    {0},
	};
	struct fault_case *mine = malloc(sizeof(cases));
	if (!mine)
		abort();
	memcpy(mine, cases, sizeof(cases));
	return mine;
}

/* Takes its own options out of the list. False: one of them cannot be. */
static bool parse(struct fault_case *asked, int *argc, char **argv)
{
	bool good = true;
	int kept = 1;
	for (int i = 1; i < *argc; i++) {
		if (strncmp(argv[i], "--chunk=", 8) == 0)
			good = good && hf_parse_size(argv[i] + 8, &asked->chunk_bytes) == 0 &&
			       asked->chunk_bytes <= HF_WIRE_CHUNK_MAX_BYTES;
		else if (strncmp(argv[i], "--share=", 8) == 0)
			good = good && hf_parse_count(argv[i] + 8, 100, &asked->share_percent) == 0;
		else
			argv[kept++] = argv[i];
	}
	*argc = kept;
	return good;
}

int main(int argc, char **argv)
{
	struct fault_case asked = {0};
	if (argc > 1 && strcmp(argv[1], "client") == 0)
		return hf_giver_main(argc - 1, argv + 1);
	if (!parse(&asked, &argc, argv)) {
		fputs("usage: bench-fault [--chunk=SIZE] [--share=PERCENT] [option of Google Benchmark...]\n",
		      stderr);
		return 2;
	}
	struct fault_case *cases = list();
	for (struct fault_case *of = cases; of->name; of++) {
		of->cpus = hf_cpus();
		of->chunk_bytes = asked.chunk_bytes;
		of->share_percent = asked.share_percent;
		hf_benchmark_add(of->name, run_case, of);
	}
	int result = hf_benchmark_main(argc, argv);
	free(cases);
	return result;
}
