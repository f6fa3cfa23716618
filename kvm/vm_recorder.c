/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One thread does one thing at a time, the most urgent first: a record that an engine asked for, an epoch
 * that the program waits for, the copy of what was written last. A request may have to wait for the end of an
 * epoch or copy under way, one fdatasync. The copy of LOADED is written while the source hears LOADED and
 * records GIVEN_UP, so RUNNING does not meet it.
 *
 * A request is no longer pending when its end is reported: what the engine asks for in done(), or right
 * behind it from another thread, is the next one.
 */
#include "kvm/vm_recorder.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/lock.h"

enum epoch_state { EPOCH_IDLE = 0, EPOCH_ASKED, EPOCH_DONE };

struct hf_vm_recorder {
	/* set before the thread starts */
	struct hf_vm_record *file;
	hf_vm_recorder_done *done;
	void *engine;
	pthread_t thread;

	struct hf_lock lock;
	struct hf_cond changed;
	/* under the lock */
	bool started, stopping;
	bool pending; /* a request that has not been reported */
	enum hf_record record;
	uint64_t asked_ns;
	enum epoch_state epoch_state;
	uint64_t epoch; /* 0: not an epoch, but that pages were released */
	int epoch_result;
	struct hf_err epoch_err;
	struct hf_vm_recorder_times times;

	/* hf-record's own */
	bool copy_due;
};

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int cancelled(struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_CANCELLED, ECANCELED, "cancelled: the VM's record is being closed");
}

/* ---- the thread: each is called locked, and gives the lock back meanwhile ---------------------- */

static void serve_request(struct hf_vm_recorder *recorder)
{
	struct hf_err err = HF_ERR_INIT;
	enum hf_record record = recorder->record;
	bool stopping = recorder->stopping;
	hf_unlock(&recorder->lock);
	int r = stopping ? cancelled(&err) : hf_vm_record_write(recorder->file, record, &err);
	uint64_t end_ns = now_ns();
	recorder->copy_due |= r == 0;

	hf_lock(&recorder->lock);
	if (r == 0)
		recorder->times.last_ns[record] = end_ns - recorder->asked_ns;
	recorder->pending = false;
	hf_unlock(&recorder->lock);
	recorder->done(recorder->engine, record, r, r < 0 ? &err : NULL);
	hf_lock(&recorder->lock);
}

static void serve_epoch(struct hf_vm_recorder *recorder)
{
	struct hf_err err = HF_ERR_INIT;
	uint64_t epoch = recorder->epoch;
	bool stopping = recorder->stopping;
	hf_unlock(&recorder->lock);
	int r = stopping     ? cancelled(&err)
		: epoch == 0 ? hf_vm_record_write_released(recorder->file, &err)
			     : hf_vm_record_write_epoch(recorder->file, epoch, &err);
	recorder->copy_due |= r == 0;
	hf_lock(&recorder->lock);
	recorder->epoch_result = r;
	recorder->epoch_err = err;
	recorder->epoch_state = EPOCH_DONE;
	hf_cond_broadcast(&recorder->changed);
}

/* A copy that fails is written by the next change, or by who opens the record next. */
static void serve_copy(struct hf_vm_recorder *recorder)
{
	recorder->copy_due = false;
	hf_unlock(&recorder->lock);
	hf_vm_record_copy(recorder->file, NULL);
	hf_lock(&recorder->lock);
}

static void *record_thread(void *opaque)
{
	struct hf_vm_recorder *recorder = opaque;
	hf_lock(&recorder->lock);
	for (;;) {
		if (recorder->pending)
			serve_request(recorder);
		else if (recorder->epoch_state == EPOCH_ASKED)
			serve_epoch(recorder);
		else if (recorder->copy_due)
			serve_copy(recorder);
		else if (recorder->stopping)
			break;
		else
			hf_cond_wait(&recorder->changed, &recorder->lock);
	}
	hf_unlock(&recorder->lock);
	return NULL;
}

/* ---- asking ----------------------------------------------------------------------------------- */

static int recorder_request(void *self, enum hf_record record)
{
	struct hf_vm_recorder *recorder = self;
	int r = 0;
	if ((unsigned)record >= HF_RECORDS)
		return -EINVAL;
	hf_lock(&recorder->lock);
	if (!recorder->started || recorder->stopping) {
		r = -ESHUTDOWN;
	} else if (recorder->pending) {
		r = -EBUSY;
	} else {
		recorder->pending = true;
		recorder->record = record;
		recorder->asked_ns = now_ns();
		hf_cond_broadcast(&recorder->changed);
	}
	hf_unlock(&recorder->lock);
	return r;
}

/* Locked. */
static int wait_for_epoch(struct hf_vm_recorder *recorder, uint64_t epoch, struct hf_err *err)
{
	recorder->epoch = epoch;
	recorder->epoch_state = EPOCH_ASKED;
	hf_cond_broadcast(&recorder->changed);
	while (recorder->epoch_state != EPOCH_DONE)
		hf_cond_wait(&recorder->changed, &recorder->lock);
	recorder->epoch_state = EPOCH_IDLE;
	hf_cond_broadcast(&recorder->changed);
	if (recorder->epoch_result < 0 && err)
		*err = recorder->epoch_err;
	return recorder->epoch_result;
}

int hf_vm_recorder_write_epoch(struct hf_vm_recorder *recorder, uint64_t epoch, struct hf_err *err)
{
	int r;
	hf_lock(&recorder->lock);
	if (!recorder->started || recorder->stopping)
		r = cancelled(err);
	else if (recorder->epoch_state != EPOCH_IDLE)
		r = hf_err_set(err, HF_ERR_LOCAL, EBUSY, "an epoch is being recorded already");
	else
		r = wait_for_epoch(recorder, epoch, err);
	hf_unlock(&recorder->lock);
	return r;
}

int hf_vm_recorder_write_released(struct hf_vm_recorder *recorder, struct hf_err *err)
{
	hf_lock(&recorder->lock);
	while (recorder->started && recorder->epoch_state != EPOCH_IDLE)
		hf_cond_wait(&recorder->changed, &recorder->lock);
	int r = recorder->started ? wait_for_epoch(recorder, 0, err) : cancelled(err);
	hf_unlock(&recorder->lock);
	return r;
}

struct hf_vm_recorder_times hf_vm_recorder_times(struct hf_vm_recorder *recorder)
{
	hf_lock(&recorder->lock);
	struct hf_vm_recorder_times times = recorder->times;
	hf_unlock(&recorder->lock);
	return times;
}

/* ---- life ------------------------------------------------------------------------------------- */

int hf_vm_recorder_create(struct hf_vm_recorder **out, struct hf_vm_record *record, struct hf_err *err)
{
	struct hf_vm_recorder *recorder = calloc(1, sizeof(*recorder));
	if (!recorder)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a recorder");
	recorder->file = record;
	hf_lock_init(&recorder->lock, "hf_vm_recorder.lock", HF_RANK_RECORDER);
	hf_cond_init(&recorder->changed);
	*out = recorder;
	return 0;
}

int hf_vm_recorder_start(struct hf_vm_recorder *recorder, hf_vm_recorder_done *done, void *engine,
			 struct hf_err *err)
{
	recorder->done = done;
	recorder->engine = engine;
	sigset_t all, before; // signals are for the program's own threads
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&recorder->thread, NULL, record_thread, recorder);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return hf_err_set(err, HF_ERR_LOCAL, error, "recorder: no thread to be had: %s",
				  strerror(error));
	pthread_setname_np(recorder->thread, "hf-record");
	hf_lock(&recorder->lock);
	recorder->started = true;
	hf_unlock(&recorder->lock);
	return 0;
}

struct hf_recorder hf_vm_recorder_port(struct hf_vm_recorder *recorder)
{
	static const struct hf_recorder_ops ops = {.request = recorder_request};
	return (struct hf_recorder){.ops = &ops, .self = recorder};
}

void hf_vm_recorder_stop(struct hf_vm_recorder *recorder)
{
	hf_lock_assert_may_stop(__func__);
	if (!recorder)
		return;
	hf_lock(&recorder->lock);
	bool started = recorder->started;
	recorder->stopping = true;
	recorder->started = false;
	hf_cond_broadcast(&recorder->changed);
	hf_unlock(&recorder->lock);
	if (started)
		pthread_join(recorder->thread, NULL);
}

void hf_vm_recorder_destroy(struct hf_vm_recorder *recorder)
{
	if (!recorder)
		return;
	hf_vm_recorder_stop(recorder);
	hf_cond_destroy(&recorder->changed);
	hf_lock_destroy(&recorder->lock);
	free(recorder);
}
