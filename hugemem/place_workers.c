/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Each class has a flag `kicked` under one mutex. A kick sets it and signals; the worker clears it *before*
 * it calls the engine. So a kick during a call leaves the flag set and the worker calls again: none is lost,
 * and any number of kicks during one call cost one more call.
 *
 *   engine (other thread)            worker
 *                                    kicked = false; unlock
 *                                    work() finds nothing, says idle
 *   queues work
 *   kick: kicked = true, signal
 *                                    lock; kicked is set: calls work() again
 *
 * When the engine says "later" (no huge page to be had), nobody will kick when one becomes free, so the
 * worker calls again after a short while, or at the next kick.
 */
#include "hugemem/place_workers.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/destination.h"
#include "core/lock.h"

#define LATER_MS 50
#define SOON_MS	 5 /* half of HF_LIMITER_BURST_NS */

struct worker {
	struct hf_place_workers *workers;
	enum hf_work_class class;
	pthread_t thread;
	bool running; /* the owner's: there is a thread to join */
	/* Under the lock. */
	struct hf_cond changed;
	bool kicked;
};

struct hf_place_workers {
	/* Set at creation and start. */
	int (*work)(void *engine, enum hf_work_class class);
	void *engine;
	/* Under the lock. */
	struct hf_lock lock;
	bool stopping;
	bool submitted; /* ever */
	void (*job)(void *opaque);
	void *job_opaque;
	struct worker worker[HF_WORK_CLASSES];
};

static void wait_a_while(struct worker *worker, unsigned wait_ms)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	uint64_t until_ns =
	    (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec + wait_ms * UINT64_C(1000000);
	int result = 0;
	while (result == 0 && !worker->workers->stopping && !worker->kicked)
		result = hf_cond_wait_until(&worker->changed, &worker->workers->lock, until_ns);
}

/* Calls the engine until it is idle. Holds the lock on entry and return, not in between. */
static void work_until_idle(struct worker *worker)
{
	struct hf_place_workers *workers = worker->workers;
	int next = HF_WORK_MORE;

	while (next != HF_WORK_IDLE && !workers->stopping) {
		worker->kicked = false;
		hf_unlock(&workers->lock);
		next = workers->work(workers->engine, worker->class);
		hf_lock(&workers->lock);
		if (next == HF_WORK_LATER)
			wait_a_while(worker, LATER_MS);
		else if (next == HF_WORK_SOON)
			wait_a_while(worker, SOON_MS);
	}
}

/* False: there was none for this worker. Holds the lock on entry and return, not in between. */
static bool run_job(struct worker *worker)
{
	struct hf_place_workers *workers = worker->workers;
	void (*job)(void *) = worker->class == HF_WORK_BACKGROUND ? workers->job : NULL;
	void *opaque = workers->job_opaque;

	if (!job)
		return false;
	workers->job = NULL;
	hf_unlock(&workers->lock);
	job(opaque);
	hf_lock(&workers->lock);
	return true;
}

static void *serve_kicks(void *opaque)
{
	struct worker *worker = opaque;
	struct hf_place_workers *workers = worker->workers;

	hf_lock(&workers->lock);
	while (!workers->stopping) {
		if (run_job(worker))
			continue;
		if (worker->kicked)
			work_until_idle(worker);
		else
			hf_cond_wait(&worker->changed, &workers->lock);
	}
	hf_unlock(&workers->lock);
	return NULL;
}

static void init_worker(struct hf_place_workers *workers, enum hf_work_class class)
{
	struct worker *worker = &workers->worker[class];

	worker->workers = workers;
	worker->class = class;
	hf_cond_init(&worker->changed);
}

int hf_place_workers_create(struct hf_place_workers **out,
			    int (*work)(void *engine, enum hf_work_class class), struct hf_err *err)
{
	struct hf_place_workers *workers = calloc(1, sizeof(*workers));
	if (!workers)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	workers->work = work;
	hf_lock_init(&workers->lock, "hf_place_workers.lock", HF_RANK_PLACE_WORKERS);
	init_worker(workers, HF_WORK_URGENT);
	init_worker(workers, HF_WORK_BACKGROUND);
	*out = workers;
	return 0;
}

static int start_worker(struct worker *worker, const char *name)
{
	int result = -pthread_create(&worker->thread, NULL, serve_kicks, worker);
	if (result)
		return result;
	pthread_setname_np(worker->thread, name);
	worker->running = true;
	return 0;
}

int hf_place_workers_start(struct hf_place_workers *workers, void *engine, struct hf_err *err)
{
	workers->engine = engine;
	int result = start_worker(&workers->worker[HF_WORK_URGENT], "hf-place-u");
	if (result == 0)
		result = start_worker(&workers->worker[HF_WORK_BACKGROUND], "hf-place-b");
	if (result) {
		hf_place_workers_stop(workers);
		return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot start a placing thread: %s",
				  strerror(-result));
	}
	return 0;
}

void hf_place_workers_kick(struct hf_place_workers *workers, enum hf_work_class class)
{
	struct worker *worker = &workers->worker[class];

	hf_lock(&workers->lock);
	worker->kicked = true;
	hf_cond_signal(&worker->changed);
	hf_unlock(&workers->lock);
}

int hf_place_workers_submit(struct hf_place_workers *workers, void (*job)(void *opaque), void *opaque)
{
	int result = 0;

	hf_lock(&workers->lock);
	if (workers->submitted) {
		result = -EBUSY;
	} else {
		workers->submitted = true;
		workers->job = job;
		workers->job_opaque = opaque;
		hf_cond_signal(&workers->worker[HF_WORK_BACKGROUND].changed);
	}
	hf_unlock(&workers->lock);
	return result;
}

void hf_place_workers_stop(struct hf_place_workers *workers)
{
	hf_lock_assert_may_stop(__func__);
	hf_lock(&workers->lock);
	workers->stopping = true;
	for (int class = 0; class < HF_WORK_CLASSES; class ++)
		hf_cond_signal(&workers->worker[class].changed);
	hf_unlock(&workers->lock);

	for (int class = 0; class < HF_WORK_CLASSES; class ++) {
		if (workers->worker[class].running)
			pthread_join(workers->worker[class].thread, NULL);
		workers->worker[class].running = false;
	}
}

void hf_place_workers_destroy(struct hf_place_workers *workers)
{
	if (!workers)
		return;
	hf_place_workers_stop(workers);
	for (int class = 0; class < HF_WORK_CLASSES; class ++)
		hf_cond_destroy(&workers->worker[class].changed);
	hf_lock_destroy(&workers->lock);
	free(workers);
}
