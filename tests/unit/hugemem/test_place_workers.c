/* SPDX-License-Identifier: Apache-2.0 */
/* The placing threads: no kick is lost, later means soon, one job before all. */
#include "tests/unit/hugemem/host_fixture.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>

#include "core/destination.h"
#include "core/lock.h"
#include "hugemem/place_workers.h"
#include "tests/unit/core/death.h"

#define KICKS 20000u

struct engine {
	atomic_uint queued, done;
	atomic_uint calls[HF_WORK_CLASSES];
	atomic_uint laters;
	atomic_bool in_call, leave_call;
	atomic_uint job_thread, background_thread;
	atomic_bool job_was_late;
};

static bool all_done(void *opaque)
{
	struct engine *engine = opaque;

	return atomic_load(&engine->done) == KICKS;
}

static int take_one(void *opaque, enum hf_work_class class)
{
	struct engine *engine = opaque;
	unsigned queued = atomic_load(&engine->queued), done = atomic_load(&engine->done);

	(void)class;
	if (done == queued)
		return HF_WORK_IDLE;
	atomic_store(&engine->done, done + 1);
	return HF_WORK_MORE;
}

static void no_kick_is_lost_under_a_storm(void **state)
{
	(void)state;
	struct engine engine = {0};
	struct hf_place_workers *workers;

	assert_int_equal(hf_place_workers_create(&workers, take_one, NULL), 0);
	assert_int_equal(hf_place_workers_start(workers, &engine, NULL), 0);
	for (unsigned i = 0; i < KICKS; i++) {
		atomic_fetch_add(&engine.queued, 1);
		hf_place_workers_kick(workers, HF_WORK_URGENT);
	}
	wait_until(all_done, &engine, "all work to be done");
	hf_place_workers_destroy(workers);
}

static int idle_in_the_end(void *opaque, enum hf_work_class class)
{
	struct engine *engine = opaque;

	atomic_store(&engine->in_call, true);
	while (!atomic_load(&engine->leave_call))
		sched_yield();
	atomic_fetch_add(&engine->calls[class], 1);
	return HF_WORK_IDLE;
}

static bool is_in_call(void *opaque)
{
	return atomic_load(&((struct engine *)opaque)->in_call);
}

static bool was_called_twice(void *opaque)
{
	return atomic_load(&((struct engine *)opaque)->calls[HF_WORK_URGENT]) >= 2;
}

static void a_kick_during_a_call_that_says_idle_calls_again(void **state)
{
	(void)state;
	struct engine engine = {0};
	struct hf_place_workers *workers;

	assert_int_equal(hf_place_workers_create(&workers, idle_in_the_end, NULL), 0);
	assert_int_equal(hf_place_workers_start(workers, &engine, NULL), 0);
	hf_place_workers_kick(workers, HF_WORK_URGENT);
	wait_until(is_in_call, &engine, "the first call");
	hf_place_workers_kick(workers, HF_WORK_URGENT);
	atomic_store(&engine.leave_call, true);
	wait_until(was_called_twice, &engine, "the second call");
	hf_place_workers_destroy(workers);
	assert_int_equal(atomic_load(&engine.calls[HF_WORK_BACKGROUND]), 0);
}

static void a_kick_before_start_is_kept(void **state)
{
	(void)state;
	struct engine engine = {0};
	struct hf_place_workers *workers;

	atomic_store(&engine.queued, KICKS);
	assert_int_equal(hf_place_workers_create(&workers, take_one, NULL), 0);
	hf_place_workers_kick(workers, HF_WORK_BACKGROUND);
	assert_int_equal(hf_place_workers_start(workers, &engine, NULL), 0);
	wait_until(all_done, &engine, "all work to be done");
	hf_place_workers_destroy(workers);
}

static int later_twice(void *opaque, enum hf_work_class class)
{
	struct engine *engine = opaque;

	atomic_fetch_add(&engine->calls[class], 1);
	return atomic_fetch_add(&engine->laters, 1) < 2 ? HF_WORK_LATER : HF_WORK_IDLE;
}

static bool was_called_three_times(void *opaque)
{
	return atomic_load(&((struct engine *)opaque)->calls[HF_WORK_URGENT]) == 3;
}

static void later_calls_again_without_a_kick(void **state)
{
	(void)state;
	struct engine engine = {0};
	struct hf_place_workers *workers;

	assert_int_equal(hf_place_workers_create(&workers, later_twice, NULL), 0);
	assert_int_equal(hf_place_workers_start(workers, &engine, NULL), 0);
	hf_place_workers_kick(workers, HF_WORK_URGENT);
	wait_until(was_called_three_times, &engine, "two more calls");
	hf_place_workers_destroy(workers);
}

static int always_later(void *opaque, enum hf_work_class class)
{
	struct engine *engine = opaque;

	atomic_fetch_add(&engine->calls[class], 1);
	return HF_WORK_LATER;
}

static bool was_called(void *opaque)
{
	return atomic_load(&((struct engine *)opaque)->calls[HF_WORK_URGENT]) >= 1;
}

static void stop_does_not_wait_for_work_that_cannot_be_done(void **state)
{
	(void)state;
	struct engine engine = {0};
	struct hf_place_workers *workers;

	assert_int_equal(hf_place_workers_create(&workers, always_later, NULL), 0);
	assert_int_equal(hf_place_workers_start(workers, &engine, NULL), 0);
	hf_place_workers_kick(workers, HF_WORK_URGENT);
	wait_until(was_called, &engine, "a call");
	alarm(WAIT_LIMIT_MS / 1000); /* a stop that waits for ever ends the test */
	hf_place_workers_stop(workers);
	alarm(0);
	unsigned calls = atomic_load(&engine.calls[HF_WORK_URGENT]);
	hf_place_workers_kick(workers, HF_WORK_URGENT);
	hf_place_workers_destroy(workers);
	assert_int_equal(atomic_load(&engine.calls[HF_WORK_URGENT]), calls);
}

static void stop_from_a_callback(void *workers)
{
	hf_callout_begin("notify()");
	hf_place_workers_stop(workers);
}

static void stopping_from_an_engines_callback_is_caught(void **state)
{
	(void)state;
	struct engine engine = {0};
	struct hf_place_workers *workers;

	assert_int_equal(hf_place_workers_create(&workers, take_one, NULL), 0);
	assert_int_equal(hf_place_workers_start(workers, &engine, NULL), 0);
	assert_dies(stop_from_a_callback, workers, "hf_place_workers_stop is called from inside notify()");
	hf_place_workers_destroy(workers);
}

static int note_thread(void *opaque, enum hf_work_class class)
{
	struct engine *engine = opaque;

	if (class == HF_WORK_BACKGROUND)
		atomic_store(&engine->background_thread, (unsigned)gettid());
	return HF_WORK_IDLE;
}

static void note_job_thread(void *opaque)
{
	struct engine *engine = opaque;

	atomic_store(&engine->job_was_late, atomic_load(&engine->background_thread) != 0);
	atomic_store(&engine->job_thread, (unsigned)gettid());
}

static bool background_ran(void *opaque)
{
	return atomic_load(&((struct engine *)opaque)->background_thread) != 0;
}

static void the_job_runs_once_in_the_background_thread_before_other_work(void **state)
{
	(void)state;
	struct engine engine = {0};
	struct hf_place_workers *workers;

	assert_int_equal(hf_place_workers_create(&workers, note_thread, NULL), 0);
	hf_place_workers_kick(workers, HF_WORK_BACKGROUND);
	assert_int_equal(hf_place_workers_submit(workers, note_job_thread, &engine), 0);
	assert_int_equal(hf_place_workers_submit(workers, note_job_thread, &engine), -EBUSY);
	assert_int_equal(hf_place_workers_start(workers, &engine, NULL), 0);
	wait_until(background_ran, &engine, "background work");
	hf_place_workers_destroy(workers);
	assert_int_equal(atomic_load(&engine.job_thread), atomic_load(&engine.background_thread));
	assert_false(atomic_load(&engine.job_was_late));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(no_kick_is_lost_under_a_storm),
	    cmocka_unit_test(a_kick_during_a_call_that_says_idle_calls_again),
	    cmocka_unit_test(a_kick_before_start_is_kept),
	    cmocka_unit_test(later_calls_again_without_a_kick),
	    cmocka_unit_test(stop_does_not_wait_for_work_that_cannot_be_done),
	    cmocka_unit_test(stopping_from_an_engines_callback_is_caught),
	    cmocka_unit_test(the_job_runs_once_in_the_background_thread_before_other_work),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
