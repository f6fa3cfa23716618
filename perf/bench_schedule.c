/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the scheduler promises, measured over real sockets (ARCHITECTURE, "Background and urgent"):
 *
 *  - urgent_page: how long a thread waits for a page while nothing else is on the link, and while the
 * background runs at full speed, in turns; and how many background chunks came in between.
 *  - background_share: what the background gets of the bytes while several threads wait without end.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/schedule.h"
#include "deploy/monotonic.h"
#include "perf/benchmark_shim.h"
#include "perf/moving.h"
#include "perf/samples.h"

#define MIB		  (1ull << 20)
#define GIB		  (1ull << 30)
#define CHUNK_BYTES	  (256u << 10) /* the engine's default */
#define FULL_SPEED_CHUNKS 128u	       /* the background posts before it counts as being at full speed */
#define WAITING_THREADS	  4u
#define URGENT_PER_BATCH  (128 * MIB)
#define PAGES_APART	  300u /* the background never begins so many pages ahead */

struct shape {
	const char *name, *uri; /* NULL: unix */
	uint64_t page_bytes;
	uint32_t pages;
};

static const struct shape shapes[] = {
    {"unix/2M", NULL, 2 * MIB, 1u << 16},
    {"tcp/2M", "tcp:127.0.0.1:0", 2 * MIB, 1u << 16},
    {"tcp/1G", "tcp:127.0.0.1:0", GIB, 1u << 10},
};
#define SHAPES (sizeof(shapes) / sizeof(shapes[0]))

/* ---- a migration as long as it lasts ----------------------------------------------------------- */

/* Faults come from the last page down; the background goes up from the first. */
struct run {
	struct hf_benchmark *benchmark;
	const struct shape *shape;
	struct hf_moving *moving;
	void (*placed)(void *run, struct hf_moving_fault *fault);
	_Atomic uint32_t next_page;
};

static bool fail(struct run *run, const char *why)
{
	hf_benchmark_fail(run->benchmark, why);
	return false;
}

static bool start(struct run *run)
{
	char uri[64];
	struct hf_err err = HF_ERR_INIT;
	snprintf(uri, sizeof(uri), "unix:/tmp/hf-bench-%d", (int)getpid());
	struct hf_moving_config config = {
	    .uri = run->shape->uri ? run->shape->uri : uri,
	    .page_bytes = run->shape->page_bytes,
	    .pages = run->shape->pages,
	    .channels = 2,
	    .placed = run->placed,
	    .opaque = run,
	};
	atomic_store(&run->next_page, config.pages);
	if (hf_moving_start(&run->moving, &config, &err) == 0)
		return true;
	run->moving = NULL;
	return fail(run, err.text);
}

static void stop(struct run *run)
{
	hf_moving_stop(run->moving);
	run->moving = NULL;
}

/* True if so many more pages can be faulted on before the background meets them. */
static bool pages_left(struct run *run, uint32_t pages)
{
	return atomic_load(&run->next_page) >
	       hf_moving_counts(run->moving).placed_pages + PAGES_APART + pages;
}

static void fault(struct run *run, struct hf_moving_fault *wait)
{
	hf_moving_fault(run->moving, wait, atomic_fetch_sub(&run->next_page, 1) - 1);
}

static bool wait_placed(struct run *run, const struct hf_moving_fault *wait)
{
	return hf_moving_wait_placed(run->moving, wait) == 0 || fail(run, "a page never came");
}

/* ---- urgent_page ------------------------------------------------------------------------------- */

struct latencies {
	struct hf_samples idle_us, busy_us;
	struct hf_samples in_flight,
	    posted; /* background chunks: at the fault; from then until its bytes had landed */
};

static double waited_us(const struct hf_moving_fault *wait)
{
	return (double)(wait->placed_ns - wait->faulted_ns) / 1000;
}

static bool fault_idle(struct run *run, struct latencies *latencies)
{
	struct hf_moving_fault wait;
	hf_moving_hold_background(run->moving, true);
	if (hf_moving_wait_idle(run->moving) < 0)
		return fail(run, "the link does not fall idle");
	fault(run, &wait);
	if (!wait_placed(run, &wait))
		return false;
	hf_samples_add(&latencies->idle_us, waited_us(&wait));
	return true;
}

static bool fault_busy(struct run *run, struct latencies *latencies)
{
	struct hf_moving_fault wait;
	uint64_t posted = hf_moving_counts(run->moving).posted_chunks[HF_FETCH_BACKGROUND];
	hf_moving_hold_background(run->moving, false);
	if (hf_moving_wait_background_posted(run->moving, posted + FULL_SPEED_CHUNKS) < 0)
		return fail(run, "the background does not run");
	fault(run, &wait);
	if (!wait_placed(run, &wait))
		return false;
	const int background = HF_FETCH_BACKGROUND;
	hf_samples_add(&latencies->busy_us, waited_us(&wait));
	hf_samples_add(&latencies->in_flight, (double)(wait.at_fault.posted_chunks[background] -
						       wait.at_fault.ended_chunks[background]));
	hf_samples_add(&latencies->posted, (double)(wait.at_landed.posted_chunks[background] -
						    wait.at_fault.posted_chunks[background]));
	hf_benchmark_took_ns(run->benchmark, wait.placed_ns - wait.faulted_ns);
	return true;
}

static void report_latencies(struct run *run, struct latencies *latencies)
{
	struct hf_benchmark *b = run->benchmark;
	uint64_t share_chunks = run->shape->page_bytes / CHUNK_BYTES * HF_SCHEDULE_SHARE_DEFAULT_PERCENT /
				(100 - HF_SCHEDULE_SHARE_DEFAULT_PERCENT);
	double idle_p50 = hf_samples_rank(&latencies->idle_us, 500),
	       idle_p99 = hf_samples_rank(&latencies->idle_us, 990);
	double busy_p50 = hf_samples_rank(&latencies->busy_us, 500),
	       busy_p99 = hf_samples_rank(&latencies->busy_us, 990);
	hf_benchmark_counter(b, "idle_p50_us", idle_p50);
	hf_benchmark_counter(b, "idle_p99_us", idle_p99);
	hf_benchmark_counter(b, "busy_p50_us", busy_p50);
	hf_benchmark_counter(b, "busy_p99_us", busy_p99);
	hf_benchmark_counter(b, "ratio_p50", busy_p50 / idle_p50);
	hf_benchmark_counter(b, "ratio_p99", busy_p99 / idle_p99);
	hf_benchmark_counter(b, "background_in_flight_p50", hf_samples_rank(&latencies->in_flight, 500));
	hf_benchmark_counter(b, "background_in_flight_max", hf_samples_rank(&latencies->in_flight, 1000));
	hf_benchmark_counter(b, "background_posted_p50", hf_samples_rank(&latencies->posted, 500));
	hf_benchmark_counter(b, "background_posted_max", hf_samples_rank(&latencies->posted, 1000));
	hf_benchmark_counter(b, "background_promised_max", (double)(2 + share_chunks));
}

static void urgent_page(struct hf_benchmark *benchmark, const void *shape)
{
	struct run run = {.benchmark = benchmark, .shape = shape};
	struct latencies latencies = {0};
	bool good = start(&run);
	while (good && hf_benchmark_next(benchmark)) {
		if (!pages_left(&run, 2)) {
			stop(&run);
			good = start(&run);
		}
		good = good && fault_idle(&run, &latencies) && fault_busy(&run, &latencies);
	}
	if (good)
		report_latencies(&run, &latencies);
	stop(&run);
	hf_samples_free(&latencies.idle_us);
	hf_samples_free(&latencies.busy_us);
	hf_samples_free(&latencies.in_flight);
	hf_samples_free(&latencies.posted);
}

/* ---- background_share -------------------------------------------------------------------------- */

struct share {
	struct hf_moving_fault waits[WAITING_THREADS];
	struct hf_moving_counts start;
	struct hf_samples behind_chunks; /* after each batch; below zero: ahead */
};

/* A thread has its page, and faults on the next at once: the others wait meanwhile. */
static void fault_again(void *opaque, struct hf_moving_fault *wait)
{
	struct run *run = opaque;
	uint32_t before = atomic_load(&run->next_page);
	while (before > PAGES_APART && !atomic_compare_exchange_weak(&run->next_page, &before, before - 1))
		;
	if (before > PAGES_APART)
		hf_moving_fault(run->moving, wait, before - 1);
}

static void begin_waiting(struct run *run, struct share *share)
{
	for (uint32_t i = 0; i < WAITING_THREADS; i++)
		fault(run, &share->waits[i]);
	share->start = hf_moving_counts(run->moving);
	hf_moving_hold_background(run->moving, false);
}

static uint64_t posted_since(const struct hf_moving_counts *start, const struct hf_moving_counts *now,
			     enum hf_fetch_class class)
{
	return now->posted_bytes[class] - start->posted_bytes[class];
}

static void note_share(struct run *run, struct share *share)
{
	struct hf_moving_counts now = hf_moving_counts(run->moving);
	double urgent = (double)posted_since(&share->start, &now, HF_FETCH_URGENT);
	double background = (double)posted_since(&share->start, &now, HF_FETCH_BACKGROUND);
	double due = (urgent + background) * HF_SCHEDULE_SHARE_DEFAULT_PERCENT / 100;
	hf_samples_add(&share->behind_chunks, (due - background) / CHUNK_BYTES);
	hf_benchmark_counter(run->benchmark, "share_percent", 100 * background / (urgent + background));
	hf_benchmark_counter(run->benchmark, "posted_chunks", (urgent + background) / CHUNK_BYTES);
}

static bool batch(struct run *run, struct share *share)
{
	uint64_t start_ns = hf_monotonic_ns(NULL);
	uint32_t pages = (uint32_t)(URGENT_PER_BATCH / run->shape->page_bytes);
	uint32_t placed = hf_moving_counts(run->moving).placed_faults + (pages ? pages : 1);
	if (atomic_load(&run->next_page) <= 2 * PAGES_APART)
		return fail(run, "the VM is too small for so long a run");
	if (hf_moving_wait_placed_faults(run->moving, placed) < 0)
		return fail(run, "a page never came");
	note_share(run, share);
	hf_benchmark_took_ns(run->benchmark, hf_monotonic_ns(NULL) - start_ns);
	return true;
}

static void background_share(struct hf_benchmark *benchmark, const void *shape)
{
	struct run run = {.benchmark = benchmark, .shape = shape, .placed = fault_again};
	struct share share = {0};
	bool good = start(&run);
	if (good)
		begin_waiting(&run, &share);
	while (good && hf_benchmark_next(benchmark))
		good = batch(&run, &share);
	hf_benchmark_counter(benchmark, "share_stated_percent", HF_SCHEDULE_SHARE_DEFAULT_PERCENT);
	hf_benchmark_counter(benchmark, "behind_p50_chunks", hf_samples_rank(&share.behind_chunks, 500));
	hf_benchmark_counter(benchmark, "behind_max_chunks", hf_samples_rank(&share.behind_chunks, 1000));
	stop(&run);
	hf_samples_free(&share.behind_chunks);
}

int main(int argc, char **argv)
{
	char names[2][SHAPES][64];
	for (size_t i = 0; i < SHAPES; i++) {
		snprintf(names[0][i], sizeof(names[0][i]), "urgent_page/%s", shapes[i].name);
		hf_benchmark_add(names[0][i], urgent_page, &shapes[i]);
		snprintf(names[1][i], sizeof(names[1][i]), "background_share/%s", shapes[i].name);
		hf_benchmark_add(names[1][i], background_share, &shapes[i]);
	}
	return hf_benchmark_main(argc, argv);
}
