/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The assertions of core/lock.h: each breach of a rule ends the process (a child's here) with a line that
 * names what is involved, and what the rules allow does not.
 */
#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <time.h>

#include "core/lock.h"
#include "tests/unit/core/death.h"

static struct hf_lock channel, link_lock, engine;
static struct hf_cond changed;

static int make_locks(void **state)
{
	(void)state;
	hf_lock_init(&channel, "channel", HF_RANK_PAGE_CHANNEL);
	hf_lock_init(&link_lock, "link", HF_RANK_LINK);
	hf_lock_init(&engine, "engine", HF_RANK_ENGINE);
	hf_cond_init(&changed);
	return 0;
}

static int destroy_locks(void **state)
{
	(void)state;
	hf_cond_destroy(&changed);
	hf_lock_destroy(&engine);
	hf_lock_destroy(&link_lock);
	hf_lock_destroy(&channel);
	return 0;
}

/* ---- what is allowed ---- */

static void locks_nest_in_the_order_of_their_ranks(void **state)
{
	(void)state;
	for (int round = 0; round < 2; round++) {
		hf_lock(&channel);
		hf_lock(&link_lock);
		hf_lock_assert_held(&channel);
		hf_lock_assert_held(&link_lock);
		hf_unlock(&channel); /* in any order */
		hf_unlock(&link_lock);
		hf_lock_assert_entry("nothing is held");
	}
}

static void a_callout_ends(void **state)
{
	(void)state;
	hf_callout_begin("transport.send()");
	hf_callout_end();
	hf_lock_assert_entry("entry");
	hf_lock_assert_may_stop("stop");
}

static void another_thread_played_by_this_one_holds_nothing(void **state)
{
	(void)state;
	struct hf_lock_thread saved;
	hf_callout_begin("memory.place()");
	hf_lock_other_thread_begin(&saved);
	hf_lock_assert_entry("entry");
	hf_lock(&engine);
	hf_unlock(&engine);
	hf_lock_other_thread_end(&saved);
	hf_callout_end();
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void a_wait_ends_at_its_deadline(void **state)
{
	(void)state;
	uint64_t deadline_ns = now_ns() + 1000000;
	int result = 0;
	hf_lock(&link_lock);
	while (result == 0)
		result = hf_cond_wait_until(&changed, &link_lock, deadline_ns);
	hf_lock_assert_held(&link_lock);
	hf_unlock(&link_lock);
	assert_int_equal(result, -ETIMEDOUT);
	assert_true(now_ns() >= deadline_ns);
}

static bool woken; /* under link_lock */

static void *wake_up(void *opaque)
{
	(void)opaque;
	hf_lock(&link_lock);
	woken = true;
	hf_cond_signal(&changed);
	hf_unlock(&link_lock);
	return NULL;
}

static void a_wait_gives_the_lock_to_others(void **state)
{
	(void)state;
	pthread_t thread;
	hf_lock(&link_lock);
	assert_int_equal(pthread_create(&thread, NULL, wake_up, NULL), 0);
	while (!woken)
		hf_cond_wait(&changed, &link_lock);
	hf_unlock(&link_lock);
	pthread_join(thread, NULL);
}

/* ---- what is not ---- */

static void take_against_the_order(void *opaque)
{
	(void)opaque;
	hf_lock(&link_lock);
	hf_lock(&channel);
}

static void take_two_of_a_rank(void *opaque)
{
	(void)opaque;
	struct hf_lock other;
	hf_lock_init(&other, "other engine", HF_RANK_ENGINE);
	hf_lock(&engine);
	hf_lock(&other);
}

static void take_twice(void *opaque)
{
	(void)opaque;
	hf_lock(&engine);
	hf_lock(&engine);
}

static void *take_engine(void *opaque)
{
	(void)opaque;
	hf_lock(&engine);
	return NULL;
}

static void give_back_anothers(void *opaque)
{
	(void)opaque;
	pthread_t thread;
	pthread_create(&thread, NULL, take_engine, NULL);
	pthread_join(thread, NULL);
	hf_unlock(&engine);
}

static void be_without(void *opaque)
{
	(void)opaque;
	hf_lock(&link_lock);
	hf_lock_assert_held(&engine);
}

static void destroy_held(void *opaque)
{
	(void)opaque;
	hf_lock(&engine);
	hf_lock_destroy(&engine);
}

static void wait_without(void *opaque)
{
	(void)opaque;
	hf_cond_wait(&changed, &link_lock);
}

static void wait_and_keep_a_later_one(void *opaque)
{
	(void)opaque;
	hf_lock(&link_lock);
	hf_lock(&engine);
	hf_cond_wait_until(&changed, &link_lock, now_ns());
}

static void call_out_under_a_lock(void *opaque)
{
	(void)opaque;
	hf_lock(&engine);
	hf_callout_begin("memory.place()");
}

static void call_out_from_a_callout(void *opaque)
{
	(void)opaque;
	hf_callout_begin("transport.send()");
	hf_callout_begin("memory.place()");
}

static void enter_under_a_lock(void *opaque)
{
	(void)opaque;
	hf_lock(&channel);
	hf_lock_assert_entry("fetch_done()");
}

static void enter_from_a_callout(void *opaque)
{
	(void)opaque;
	hf_callout_begin("transport.fetch()");
	hf_lock_assert_entry("fetch_done()");
}

static void stop_under_a_lock(void *opaque)
{
	(void)opaque;
	hf_lock(&link_lock);
	hf_lock_assert_may_stop("close()");
}

static void stop_from_a_callout(void *opaque)
{
	(void)opaque;
	hf_callout_begin("notify()");
	hf_lock_assert_may_stop("close()");
}

static void place_in_a_thread_that_only_queues(void *opaque)
{
	(void)opaque;
	hf_lock_thread_only_queues("hf-faults");
	hf_lock_assert_may_place("memory.place()");
}

static void leave_another_thread_with_a_lock(void *opaque)
{
	(void)opaque;
	struct hf_lock_thread saved;
	hf_lock_other_thread_begin(&saved);
	hf_lock(&engine);
	hf_lock_other_thread_end(&saved);
}

static const struct {
	void (*breach)(void *opaque);
	const char *says;
} breaches[] = {
    {take_against_the_order, "lock 'channel' (rank 9) is taken under 'link' (rank 10)"},
    {take_two_of_a_rank, "lock 'other engine' (rank 11) is taken under 'engine' (rank 11)"},
    {take_twice, "lock 'engine' is taken twice by one thread"},
    {give_back_anothers, "lock 'engine' is given back by a thread that does not hold it"},
    {be_without, "lock 'engine' is not held where it must be"},
    {destroy_held, "lock 'engine' is destroyed while it is held"},
    {wait_without, "lock 'link' is not held where it must be"},
    {wait_and_keep_a_later_one, "a wait gives back lock 'link' and keeps 'engine', which was taken later"},
    {call_out_under_a_lock, "memory.place() is called under lock 'engine'"},
    {call_out_from_a_callout, "memory.place() is called from inside transport.send()"},
    {enter_under_a_lock, "fetch_done() is called under lock 'channel'"},
    {enter_from_a_callout,
     "fetch_done() is called from inside transport.fetch(): a port never calls the engine"},
    {stop_under_a_lock, "close() is called under lock 'link'"},
    {stop_from_a_callout, "close() is called from inside notify(): nothing is stopped from an engine's"},
    {place_in_a_thread_that_only_queues, "memory.place() is called in thread hf-faults, which only queues"},
    {leave_another_thread_with_a_lock, "is called under lock 'engine'"},
};

static void every_breach_ends_the_process_with_its_names(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(breaches) / sizeof(breaches[0]); i++)
		assert_dies(breaches[i].breach, NULL, breaches[i].says);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(locks_nest_in_the_order_of_their_ranks),
	    cmocka_unit_test(a_callout_ends),
	    cmocka_unit_test(another_thread_played_by_this_one_holds_nothing),
	    cmocka_unit_test(a_wait_ends_at_its_deadline),
	    cmocka_unit_test(a_wait_gives_the_lock_to_others),
	    cmocka_unit_test(every_breach_ends_the_process_with_its_names),
	};
	return cmocka_run_group_tests(tests, make_locks, destroy_locks);
}
