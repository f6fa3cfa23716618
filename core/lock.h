/* SPDX-License-Identifier: Apache-2.0 */
/*
 * lock.h - the project's mutex and condition, and the thread rules that a developer build asserts.
 *
 * Purpose: every mutex has a name and a rank. Built with -Ddeveloper=true, a thread that breaks a rule aborts
 * with a line that names the locks or calls involved:
 *   - locks are taken in the order of their ranks, each once, and given back by who took them;
 *   - who waits for a condition gives back the lock it took last;
 *   - no lock is held over a call of a port (rule b), and no port calls an engine back (rule a);
 *   - nothing is stopped from an engine's callback (rule f);
 *   - the thread that reads faults places nothing (rule g).
 * Otherwise this is pthread_mutex_t and pthread_cond_t and nothing else.
 * Ownership: the caller's; init and destroy.
 * Threads: any. What is asserted is kept for each thread; nothing is shared.
 * Units: deadlines in nanoseconds of CLOCK_MONOTONIC.
 * Errors: only the end of a wait; what an assertion finds is a bug and ends the process.
 */
#ifndef HF_CORE_LOCK_H
#define HF_CORE_LOCK_H

#include <errno.h>
#include <pthread.h>
#include <stdint.h>

/* A lock may be taken under those above it. The table in ARCHITECTURE.md says which file has which. */
enum hf_lock_rank {
	HF_RANK_VMM_MONITOR = 1,
	HF_RANK_VMM_RUN,
	HF_RANK_VMM_SERVER,
	HF_RANK_VM_ADAPTER,
	HF_RANK_VM_CLIENT,
	HF_RANK_ATTACH,
	HF_RANK_RECORDER,
	HF_RANK_PLACE_WORKERS,
	HF_RANK_RELEASE_WORKER,
	HF_RANK_LINK_RELAY,
	HF_RANK_PAGE_CHANNEL,
	HF_RANK_LINK,
	HF_RANK_ENGINE,
	HF_RANK_LINK_PROBE, /* a leaf: nothing is taken under it */
	HF_RANK_CONTROL,    /* a leaf too */
	HF_RANKS,
};

struct hf_lock {
	pthread_mutex_t mutex;
#ifdef HF_LOCK_CHECKS
	const char *name; /* static */
	enum hf_lock_rank rank;
#endif
};

struct hf_cond {
	pthread_cond_t cond;
};

/* What is known of a thread. For hf_lock_other_thread_begin() only. */
struct hf_lock_thread {
#ifdef HF_LOCK_CHECKS
	const struct hf_lock *held[HF_RANKS];
	unsigned held_count;
	const char *callout;	 /* the port or callback of an engine this thread is in; NULL: none */
	const char *only_queues; /* the name of a thread that places nothing; NULL: it may */
#else
	char nothing;
#endif
};

void hf_cond_init(struct hf_cond *cond);
void hf_cond_destroy(struct hf_cond *cond);
void hf_cond_wait(struct hf_cond *cond, struct hf_lock *lock);
/* 0: woken, look again; -ETIMEDOUT. */
int hf_cond_wait_until(struct hf_cond *cond, struct hf_lock *lock, uint64_t deadline_ns);

static inline void hf_cond_signal(struct hf_cond *cond)
{
	pthread_cond_signal(&cond->cond);
}

static inline void hf_cond_broadcast(struct hf_cond *cond)
{
	pthread_cond_broadcast(&cond->cond);
}

#ifdef HF_LOCK_CHECKS

/* name: static. */
void hf_lock_init(struct hf_lock *lock, const char *name, enum hf_lock_rank rank);
void hf_lock_destroy(struct hf_lock *lock);
void hf_lock(struct hf_lock *lock);
void hf_unlock(struct hf_lock *lock);
/* First line of a function whose comment says "locked". */
void hf_lock_assert_held(const struct hf_lock *lock);
/* An engine calls out: a port, or what its owner gave it to call. */
void hf_callout_begin(const char *call);
void hf_callout_end(void);
/* The calling thread, of this static name, never places a page (rule g); and before one is placed. */
void hf_lock_thread_only_queues(const char *name);
void hf_lock_assert_may_place(const char *call);
/* First line of what others call an engine by. */
void hf_lock_assert_entry(const char *call);
/* First line of what ends threads or frees what they use. */
void hf_lock_assert_may_stop(const char *call);
/*
 * For tests that play several threads on one: between the two the caller is another thread, one that holds
 * nothing.
 */
void hf_lock_other_thread_begin(struct hf_lock_thread *saved);
void hf_lock_other_thread_end(const struct hf_lock_thread *saved);

#else

static inline void hf_lock_init(struct hf_lock *lock, const char *name, enum hf_lock_rank rank)
{
	(void)name;
	(void)rank;
	pthread_mutex_init(&lock->mutex, NULL);
}

static inline void hf_lock_destroy(struct hf_lock *lock)
{
	pthread_mutex_destroy(&lock->mutex);
}

static inline void hf_lock(struct hf_lock *lock)
{
	pthread_mutex_lock(&lock->mutex);
}

static inline void hf_unlock(struct hf_lock *lock)
{
	pthread_mutex_unlock(&lock->mutex);
}

static inline void hf_lock_assert_held(const struct hf_lock *lock)
{
	(void)lock;
}

static inline void hf_callout_begin(const char *call)
{
	(void)call;
}

static inline void hf_callout_end(void)
{
}

static inline void hf_lock_thread_only_queues(const char *name)
{
	(void)name;
}

static inline void hf_lock_assert_may_place(const char *call)
{
	(void)call;
}

static inline void hf_lock_assert_entry(const char *call)
{
	(void)call;
}

static inline void hf_lock_assert_may_stop(const char *call)
{
	(void)call;
}

static inline void hf_lock_other_thread_begin(struct hf_lock_thread *saved)
{
	(void)saved;
}

static inline void hf_lock_other_thread_end(const struct hf_lock_thread *saved)
{
	(void)saved;
}

#endif

#endif
