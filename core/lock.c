/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: each thread keeps the list of locks it holds, in the order it took them, and the port
 * call it is in. All that is asserted follows from these two. They are looked at before the mutex is, so a
 * thread that would wait for itself says so instead.
 */
#include "core/lock.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef HF_LOCK_CHECKS

static _Thread_local struct hf_lock_thread self;

static _Noreturn void broken(const char *call, const char *text)
{
	__assert_fail(text, "core/lock.c", 0, call);
	abort(); /* some compilers do not know that it does not return */
}

#define BROKEN(call, ...)                                                                                    \
	do {                                                                                                 \
		char text_[256];                                                                             \
		snprintf(text_, sizeof(text_), __VA_ARGS__);                                                 \
		broken(call, text_);                                                                         \
	} while (0)

void hf_lock_init(struct hf_lock *lock, const char *name, enum hf_lock_rank rank)
{
	pthread_mutex_init(&lock->mutex, NULL);
	lock->name = name;
	lock->rank = rank;
}

static int held_at(const struct hf_lock *lock)
{
	for (unsigned i = 0; i < self.held_count; i++)
		if (self.held[i] == lock)
			return (int)i;
	return -1;
}

void hf_lock_destroy(struct hf_lock *lock)
{
	if (held_at(lock) >= 0)
		BROKEN(__func__, "lock '%s' is destroyed while it is held", lock->name);
	pthread_mutex_destroy(&lock->mutex);
}

void hf_lock(struct hf_lock *lock)
{
	if (held_at(lock) >= 0)
		BROKEN(__func__, "lock '%s' is taken twice by one thread", lock->name);
	if (self.held_count > 0) {
		const struct hf_lock *last = self.held[self.held_count - 1];
		if (last->rank >= lock->rank)
			BROKEN(__func__, "lock '%s' (rank %u) is taken under '%s' (rank %u)", lock->name,
			       (unsigned)lock->rank, last->name, (unsigned)last->rank);
	}
	pthread_mutex_lock(&lock->mutex);
	self.held[self.held_count++] = lock; /* ranks rise, so there is room */
}

void hf_unlock(struct hf_lock *lock)
{
	int at = held_at(lock);
	if (at < 0)
		BROKEN(__func__, "lock '%s' is given back by a thread that does not hold it", lock->name);
	self.held_count--;
	for (unsigned i = (unsigned)at; i < self.held_count; i++)
		self.held[i] = self.held[i + 1];
	pthread_mutex_unlock(&lock->mutex);
}

void hf_lock_assert_held(const struct hf_lock *lock)
{
	if (held_at(lock) < 0)
		BROKEN(__func__, "lock '%s' is not held where it must be", lock->name);
}

static void assert_may_wait(const struct hf_lock *lock)
{
	hf_lock_assert_held(lock);
	/* It is taken again when the wait ends: that must not be against the order. */
	const struct hf_lock *last = self.held[self.held_count - 1];
	if (last != lock)
		BROKEN("hf_cond_wait", "a wait gives back lock '%s' and keeps '%s', which was taken later",
		       lock->name, last->name);
}

static void assert_no_lock(const char *call)
{
	if (self.held_count > 0)
		BROKEN(call, "%s is called under lock '%s'", call, self.held[self.held_count - 1]->name);
}

void hf_callout_begin(const char *call)
{
	assert_no_lock(call);
	if (self.callout)
		BROKEN(call, "%s is called from inside %s", call, self.callout);
	self.callout = call;
}

void hf_callout_end(void)
{
	self.callout = NULL;
}

void hf_lock_thread_only_queues(const char *name)
{
	self.only_queues = name;
}

void hf_lock_assert_may_place(const char *call)
{
	if (self.only_queues)
		BROKEN(call, "%s is called in thread %s, which only queues", call, self.only_queues);
}

void hf_lock_assert_entry(const char *call)
{
	assert_no_lock(call);
	if (self.callout)
		BROKEN(call, "%s is called from inside %s: a port never calls the engine back", call,
		       self.callout);
}

void hf_lock_assert_may_stop(const char *call)
{
	assert_no_lock(call);
	if (self.callout)
		BROKEN(call, "%s is called from inside %s: nothing is stopped from an engine's callback",
		       call, self.callout);
}

void hf_lock_other_thread_begin(struct hf_lock_thread *saved)
{
	*saved = self;
	self = (struct hf_lock_thread){0};
}

void hf_lock_other_thread_end(const struct hf_lock_thread *saved)
{
	assert_no_lock(__func__);
	self = *saved;
}

#else

static inline void assert_may_wait(const struct hf_lock *lock)
{
	(void)lock;
}

#endif

void hf_cond_init(struct hf_cond *cond)
{
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&cond->cond, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

void hf_cond_destroy(struct hf_cond *cond)
{
	pthread_cond_destroy(&cond->cond);
}

void hf_cond_wait(struct hf_cond *cond, struct hf_lock *lock)
{
	assert_may_wait(lock);
	pthread_cond_wait(&cond->cond, &lock->mutex);
}

int hf_cond_wait_until(struct hf_cond *cond, struct hf_lock *lock, uint64_t deadline_ns)
{
	const struct timespec deadline = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
					  .tv_nsec = (long)(deadline_ns % 1000000000u)};
	assert_may_wait(lock);
	return -pthread_cond_timedwait(&cond->cond, &lock->mutex, &deadline);
}
