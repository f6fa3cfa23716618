/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The oracle keeps nothing but the list of events. To answer, it makes the list of waits: a wait opens at a
 * fault of a thread that has no open wait (or has one for another page) and closes at the first later event
 * that places its page or is a fault of the same thread on another page. Blocked time is a sum over waits,
 * each from its message to its end as blocktime.h defines them. Overlapped time is found by sweeping the
 * spans of the clock between neighbouring events and asking of each whether a wait of every vCPU covers it.
 * It shares no idea with blocktime.c but the definition; it is quadratic and plain.
 */
#include "tests/unit/core/cmocka_setup.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/blocktime.h"
#include "tests/unit/core/random.h"

#define EVENTS_MAX 1200
#define VCPUS_MAX  12

struct event {
	bool placed;
	uint32_t thread, page;
	uint64_t raw_ns; /* as given */
	uint64_t ns;	 /* the clock after it */
};

struct wait {
	uint32_t thread;
	uint32_t opened, closed; /* indexes of events; closed == count of events: still open */
	bool closed_by_placement;
	bool timed;
	uint64_t start_ns;
};

struct history {
	uint32_t vcpus;
	uint32_t thread_ids[VCPUS_MAX];
	struct event events[EVENTS_MAX];
	uint32_t count;
	struct wait waits[EVENTS_MAX];
	uint32_t waits_count;
	uint64_t seed;
};

static bool is_vcpu(const struct history *history, uint32_t thread)
{
	for (uint32_t i = 0; i < history->vcpus; i++)
		if (history->thread_ids[i] == thread)
			return true;
	return false;
}

static bool open_at(const struct wait *wait, uint32_t event)
{
	return wait->opened < event && wait->closed >= event;
}

/* Is there a place in the table for this thread's wait that opens at `event`? */
static bool has_place(const struct history *history, uint32_t thread, uint32_t event)
{
	if (is_vcpu(history, thread))
		return true;
	uint32_t taken = 0;
	for (uint32_t i = 0; i < history->waits_count; i++) {
		const struct wait *wait = &history->waits[i];
		if (!wait->timed || is_vcpu(history, wait->thread) || !open_at(wait, event))
			continue;
		if (wait->thread == thread)
			return true; /* keeps the place of the wait that this fault ends */
		taken++;
	}
	return taken < HF_BLOCKTIME_OTHERS_MAX;
}

/* Does a wait that is timed go on through this fault? */
static bool continues(const struct history *history, uint32_t event)
{
	for (uint32_t i = 0; i < history->waits_count; i++) {
		const struct wait *wait = &history->waits[i];
		if (wait->timed && wait->thread == history->events[event].thread && open_at(wait, event) &&
		    history->events[wait->opened].page == history->events[event].page)
			return true;
	}
	return false;
}

static struct wait wait_opened_by(const struct history *history, uint32_t opened)
{
	const struct event *fault = &history->events[opened];
	struct wait wait = {.thread = fault->thread, .opened = opened, .closed = history->count};

	for (uint32_t i = opened + 1; i < history->count; i++) {
		const struct event *event = &history->events[i];
		bool placement = event->placed && event->page == fault->page;
		bool left = !event->placed && event->thread == fault->thread && event->page != fault->page;
		if (!placement && !left)
			continue;
		wait.closed = i;
		wait.closed_by_placement = placement;
		break;
	}
	wait.timed = has_place(history, fault->thread, opened);
	return wait;
}

static uint64_t end_of(const struct history *history, const struct wait *wait, uint64_t now_ns)
{
	if (wait->closed == history->count)
		return now_ns;
	const struct event *event = &history->events[wait->closed];
	if (wait->closed_by_placement)
		return event->ns;
	return event->raw_ns < wait->start_ns ? wait->start_ns : event->raw_ns;
}

/* Of the waits found so far, which are all that opened earlier. NULL: none, or it is forgotten. */
static const struct wait *previous_wait(const struct history *history, uint32_t thread)
{
	for (uint32_t i = history->waits_count; i-- > 0;) {
		const struct wait *wait = &history->waits[i];
		if (wait->thread == thread && wait->timed)
			return wait->closed_by_placement && !is_vcpu(history, thread) ? NULL : wait;
	}
	return NULL;
}

static uint64_t start_of(const struct history *history, const struct wait *wait)
{
	const struct wait *previous = previous_wait(history, wait->thread);
	uint64_t arrived_ns = history->events[wait->opened].raw_ns;
	uint64_t free_ns = previous ? end_of(history, previous, 0) : 0;
	return arrived_ns < free_ns ? free_ns : arrived_ns;
}

static void find_waits(struct history *history)
{
	history->waits_count = 0;
	for (uint32_t i = 0; i < history->count; i++)
		if (!history->events[i].placed && !continues(history, i)) {
			struct wait wait = wait_opened_by(history, i);
			wait.start_ns = start_of(history, &wait);
			history->waits[history->waits_count++] = wait;
		}
}

static uint64_t time_of(const struct history *history, uint32_t event, uint64_t now_ns)
{
	return event < history->count ? history->events[event].ns : now_ns;
}

static uint64_t length_of(const struct history *history, const struct wait *wait, uint64_t now_ns)
{
	return end_of(history, wait, now_ns) - wait->start_ns;
}

static const struct wait *wait_in_span(const struct history *history, uint32_t thread, uint32_t span)
{
	for (uint32_t i = 0; i < history->waits_count; i++) {
		const struct wait *wait = &history->waits[i];
		if (wait->thread == thread && wait->opened <= span && wait->closed > span)
			return wait;
	}
	return NULL;
}

/* When a thread that waits in this span has last stopped: waits that end by a fault have no gap after them.
 */
static uint64_t stopped_ns(const struct history *history, uint32_t thread, uint32_t span)
{
	const struct wait *wait = wait_in_span(history, thread, span);
	for (uint32_t i = history->waits_count; i-- > 0;) {
		const struct wait *before = &history->waits[i];
		if (before->thread == thread && before->closed == wait->opened &&
		    !before->closed_by_placement)
			wait = before;
	}
	return wait->start_ns;
}

static bool all_wait(const struct history *history, uint32_t span)
{
	for (uint32_t i = 0; i < history->vcpus; i++)
		if (!wait_in_span(history, history->thread_ids[i], span))
			return false;
	return history->vcpus > 0;
}

static uint64_t latest_stop_ns(const struct history *history, uint32_t span)
{
	uint64_t latest_ns = 0;
	for (uint32_t i = 0; i < history->vcpus; i++) {
		uint64_t ns = stopped_ns(history, history->thread_ids[i], span);
		latest_ns = ns > latest_ns ? ns : latest_ns;
	}
	return latest_ns;
}

/* Span i lies between event i and the next. */
static uint64_t overlapped_ns(const struct history *history, uint64_t now_ns)
{
	uint64_t sum_ns = 0;
	for (uint32_t span = 0; span < history->count; span++) {
		if (!all_wait(history, span))
			continue;
		uint64_t start_ns = latest_stop_ns(history, span);
		while (span < history->count && all_wait(history, span))
			span++;
		sum_ns += time_of(history, span, now_ns) - start_ns;
	}
	return sum_ns;
}

/* ---- comparing ---------------------------------------------------------------------------------- */

#define EQUAL(history, what, got, expected)                                                                  \
	do {                                                                                                 \
		uint64_t got_ = (got), expected_ = (expected);                                               \
		if (got_ != expected_)                                                                       \
			fail_msg("seed %" PRIu64 ": %s is %" PRIu64 ", the oracle says %" PRIu64,            \
				 (history)->seed, what, got_, expected_);                                    \
	} while (0)

static uint64_t compare_vcpu(const struct history *history, const struct hf_blocktime *blocktime,
			     uint32_t vcpu, uint64_t query_ns, uint64_t now_ns)
{
	struct hf_blocktime_vcpu got;
	uint32_t thread = history->thread_ids[vcpu];
	uint64_t blocktime_ns = 0, faults = 0;
	bool blocked = false;

	for (uint32_t i = 0; i < history->waits_count; i++)
		if (history->waits[i].thread == thread) {
			blocktime_ns += length_of(history, &history->waits[i], now_ns);
			blocked |= history->waits[i].closed == history->count;
		}
	for (uint32_t i = 0; i < history->count; i++)
		faults += !history->events[i].placed && history->events[i].thread == thread;

	assert_int_equal(hf_blocktime_vcpu(blocktime, vcpu, query_ns, &got), 0);
	EQUAL(history, "a vCPU's blocktime_ns", got.blocktime_ns, blocktime_ns);
	EQUAL(history, "a vCPU's faults", got.faults, faults);
	EQUAL(history, "a vCPU's blocked", got.blocked, blocked);
	return got.blocktime_ns;
}

static uint64_t compare_totals(const struct history *history, const struct hf_blocktime *blocktime,
			       uint64_t query_ns, uint64_t now_ns)
{
	struct hf_blocktime_totals got;
	uint64_t faults[2] = {0}, other_ns = 0;

	for (uint32_t i = 0; i < history->count; i++)
		if (!history->events[i].placed)
			faults[is_vcpu(history, history->events[i].thread)]++;
	for (uint32_t i = 0; i < history->waits_count; i++)
		if (history->waits[i].timed && !is_vcpu(history, history->waits[i].thread))
			other_ns += length_of(history, &history->waits[i], now_ns);

	hf_blocktime_totals(blocktime, query_ns, &got);
	EQUAL(history, "faults_other", got.faults_other, faults[0]);
	EQUAL(history, "faults_vcpu", got.faults_vcpu, faults[1]);
	EQUAL(history, "other_blocktime_ns", got.other_blocktime_ns, other_ns);
	EQUAL(history, "overlapped_ns", got.overlapped_ns, overlapped_ns(history, now_ns));
	EQUAL(history, "vcpus", got.vcpus, history->vcpus);
	return got.overlapped_ns;
}

static void compare(struct history *history, const struct hf_blocktime *blocktime, uint64_t query_ns)
{
	uint64_t last_ns = history->count ? history->events[history->count - 1].ns : 0;
	uint64_t now_ns = query_ns < last_ns ? last_ns : query_ns;

	find_waits(history);
	uint64_t overlapped = compare_totals(history, blocktime, query_ns, now_ns);
	for (uint32_t vcpu = 0; vcpu < history->vcpus; vcpu++)
		if (compare_vcpu(history, blocktime, vcpu, query_ns, now_ns) < overlapped)
			fail_msg("seed %" PRIu64 ": vCPU %" PRIu32 " waited less than all did at once",
				 history->seed, vcpu);
}

/* The waits reported for each placement, as count, sum and sum of squares. */
struct reported {
	uint64_t count, sum_ns, squares;
};

static void add_reported(void *opaque, uint64_t wait_ns)
{
	struct reported *reported = opaque;
	reported->count++;
	reported->sum_ns += wait_ns;
	reported->squares += wait_ns * wait_ns;
}

static void compare_reported(const struct history *history, const struct reported *reported)
{
	struct reported expected[EVENTS_MAX] = {0};
	for (uint32_t i = 0; i < history->waits_count; i++)
		if (history->waits[i].timed && history->waits[i].closed_by_placement)
			add_reported(&expected[history->waits[i].closed],
				     length_of(history, &history->waits[i], 0));
	for (uint32_t i = 0; i < history->count; i++) {
		EQUAL(history, "waits reported", reported[i].count, expected[i].count);
		EQUAL(history, "their sum", reported[i].sum_ns, expected[i].sum_ns);
		EQUAL(history, "their squares", reported[i].squares, expected[i].squares);
	}
}

/* ---- histories ---------------------------------------------------------------------------------- */

struct shape {
	uint32_t vcpus, others, pages, events;
	uint32_t placed_percent;
};

static void add_event(struct history *history, struct hf_blocktime *blocktime, const struct event *event,
		      struct reported *reported)
{
	uint64_t last_ns = history->count ? history->events[history->count - 1].ns : 0;
	struct event *added = &history->events[history->count];

	*added = *event;
	added->ns = event->raw_ns < last_ns ? last_ns : event->raw_ns;
	memset(reported, 0, sizeof(*reported));
	history->count++;
	if (event->placed)
		hf_blocktime_placed(blocktime, event->page, event->raw_ns, add_reported, reported);
	else
		assert_int_equal(hf_blocktime_fault(blocktime, event->thread, event->page, event->raw_ns),
				 is_vcpu(history, event->thread));
}

static struct event random_event(struct random *random, const struct history *history,
				 const struct shape *shape, uint64_t *clock_ns)
{
	uint64_t thread = random_below(random, shape->vcpus + shape->others);
	/* Often nothing passes; sometimes a message arrives late. */
	*clock_ns += random_below(random, 3) ? random_below(random, 1000) : 0;
	uint64_t back_ns = random_below(random, 8) ? 0 : random_below(random, 2000);
	return (struct event){
	    .placed = random_below(random, 100) < shape->placed_percent,
	    .thread = thread < shape->vcpus ? history->thread_ids[thread] : 5000 + (uint32_t)thread,
	    .page = (uint32_t)random_below(random, shape->pages),
	    .raw_ns = *clock_ns > back_ns ? *clock_ns - back_ns : 0,
	};
}

static void run(uint64_t seed, const struct shape *shape)
{
	static struct history history;
	static struct reported reported[EVENTS_MAX];
	struct random random = {seed};
	struct hf_blocktime *blocktime;
	uint64_t clock_ns = 0;

	history.seed = seed;
	history.count = 0;
	history.vcpus = shape->vcpus;
	for (uint32_t i = 0; i < shape->vcpus; i++)
		history.thread_ids[i] = 100 + i * 64;
	assert_int_equal(hf_blocktime_create(&blocktime, history.thread_ids, shape->vcpus), 0);
	for (uint32_t i = 0; i < shape->events; i++) {
		struct event event = random_event(&random, &history, shape, &clock_ns);
		add_event(&history, blocktime, &event, &reported[i]);
		if (random_below(&random, 40) == 0)
			compare(&history, blocktime, clock_ns + random_below(&random, 500));
	}
	compare(&history, blocktime, 0);
	compare(&history, blocktime, clock_ns + random_below(&random, 5000));
	compare_reported(&history, reported);
	hf_blocktime_destroy(blocktime);
}

static void random_histories_agree_with_the_oracle(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 4000; seed++) {
		struct random random = {~seed};
		struct shape shape = {
		    .vcpus = (uint32_t)random_below(&random, VCPUS_MAX + 1),
		    .others = 1 + (uint32_t)random_below(&random, 5),
		    .pages = 1 + (uint32_t)random_below(&random, 12),
		    .events = 20 + (uint32_t)random_below(&random, 80),
		    .placed_percent = 10 + (uint32_t)random_below(&random, 70),
		};
		run(seed, &shape);
	}
}

/* Few vCPUs and rare placements: every vCPU is blocked most of the time. */
static void histories_with_all_vcpus_blocked_agree_with_the_oracle(void **state)
{
	(void)state;
	for (uint64_t seed = 100001; seed <= 101500; seed++) {
		struct random random = {~seed};
		struct shape shape = {
		    .vcpus = 1 + (uint32_t)random_below(&random, 3),
		    .others = (uint32_t)random_below(&random, 2),
		    .pages = 1 + (uint32_t)random_below(&random, 3),
		    .events = 60,
		    .placed_percent = 5 + (uint32_t)random_below(&random, 30),
		};
		run(seed, &shape);
	}
}

static void histories_with_more_threads_than_places_agree_with_the_oracle(void **state)
{
	(void)state;
	for (uint64_t seed = 200001; seed <= 200004; seed++) {
		struct shape shape = {
		    .vcpus = 3, .others = 400, .pages = 300, .events = EVENTS_MAX, .placed_percent = 15};
		run(seed, &shape);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(random_histories_agree_with_the_oracle),
	    cmocka_unit_test(histories_with_all_vcpus_blocked_agree_with_the_oracle),
	    cmocka_unit_test(histories_with_more_threads_than_places_agree_with_the_oracle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
