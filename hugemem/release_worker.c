/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: as a worker of place_workers.c, with one class. A kick sets a flag; the thread clears
 * it before it calls the engine, so that no kick is lost.
 *
 * A hole is punched into the RAM file. The frozen VMM and this process have it mapped; the kernel takes the
 * page out of both and gives it back to the pool, free for anybody: its reservation goes with it. Nobody may
 * touch the hole again, since that would allocate a page.
 */
#include "hugemem/release_worker.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/lock.h"

struct hf_release_worker {
	/* Set before the start. */
	int (*begin)(void *opaque, struct hf_err *err);
	void *begin_opaque;
	bool (*work)(void *engine);
	void *engine;
	int *fds;
	uint32_t files;
	pthread_t thread;
	bool running; /* there is a thread to join */

	struct hf_lock lock;
	struct hf_cond changed;
	/* Under the lock. */
	bool kicked, stopping;

	/* The thread's own. */
	bool begun;
};

int hf_release_worker_create(struct hf_release_worker **out, int (*begin)(void *, struct hf_err *),
			     void *opaque, struct hf_err *err)
{
	struct hf_release_worker *worker = calloc(1, sizeof(*worker));
	if (!worker)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	worker->begin = begin;
	worker->begin_opaque = opaque;
	hf_lock_init(&worker->lock, "hf_release_worker.lock", HF_RANK_RELEASE_WORKER);
	hf_cond_init(&worker->changed);
	*out = worker;
	return 0;
}

int hf_ram_file_reopen(int fd, struct hf_err *err)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd); /* the same file, whatever has its name now */
	int writable = open(path, O_RDWR | O_CLOEXEC);
	if (writable >= 0)
		return writable;
	return hf_err_set(err, HF_ERR_LOCAL, errno,
			  "its RAM file cannot be opened for writing (%s), so pages cannot be given back",
			  strerror(errno));
}

int hf_release_worker_add(struct hf_release_worker *worker, int fd, struct hf_err *err)
{
	int *grown = reallocarray(worker->fds, worker->files + 1, sizeof(*grown));
	if (!grown)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	worker->fds = grown;
	int writable = hf_ram_file_reopen(fd, err);
	if (writable < 0)
		return writable;
	worker->fds[worker->files++] = writable;
	return 0;
}

/* Holds the lock on entry and return, not in between. */
static void work_until_idle(struct hf_release_worker *worker)
{
	bool more = true;

	worker->kicked = false;
	while (more && !worker->stopping) {
		hf_unlock(&worker->lock);
		more = worker->work(worker->engine);
		hf_lock(&worker->lock);
	}
}

static void *serve_kicks(void *opaque)
{
	struct hf_release_worker *worker = opaque;

	hf_lock(&worker->lock);
	while (!worker->stopping) {
		if (worker->kicked)
			work_until_idle(worker);
		else
			hf_cond_wait(&worker->changed, &worker->lock);
	}
	hf_unlock(&worker->lock);
	return NULL;
}

int hf_release_worker_start(struct hf_release_worker *worker, bool (*work)(void *engine), void *engine,
			    struct hf_err *err)
{
	sigset_t all, before; /* signals are for the program's own threads */

	worker->work = work;
	worker->engine = engine;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&worker->thread, NULL, serve_kicks, worker);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return hf_err_set(err, HF_ERR_LOCAL, error,
				  "cannot start the thread that gives pages back: %s", strerror(error));
	pthread_setname_np(worker->thread, "hf-release");
	worker->running = true;
	return 0;
}

void hf_release_worker_kick(struct hf_release_worker *worker)
{
	hf_lock(&worker->lock);
	worker->kicked = true;
	hf_cond_signal(&worker->changed);
	hf_unlock(&worker->lock);
}

int hf_release_worker_release(struct hf_release_worker *worker, uint32_t file, uint64_t offset_bytes,
			      uint64_t length_bytes, struct hf_err *err)
{
	int result = 0;

	if (!worker->begun && worker->begin)
		result = worker->begin(worker->begin_opaque, err);
	if (result < 0)
		return result;
	worker->begun = true;
	do
		result = fallocate(worker->fds[file], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   (off_t)offset_bytes, (off_t)length_bytes);
	while (result && errno == EINTR);
	return result ? hf_err_set(err, HF_ERR_LOCAL, errno, "cannot be given back: %s", strerror(errno)) : 0;
}

void hf_release_worker_stop(struct hf_release_worker *worker)
{
	hf_lock_assert_may_stop(__func__);
	if (!worker || !worker->running)
		return;
	hf_lock(&worker->lock);
	worker->stopping = true;
	hf_cond_signal(&worker->changed);
	hf_unlock(&worker->lock);
	pthread_join(worker->thread, NULL);
	worker->running = false;
}

void hf_release_worker_destroy(struct hf_release_worker *worker)
{
	if (!worker)
		return;
	hf_release_worker_stop(worker);
	for (uint32_t file = 0; file < worker->files; file++)
		close(worker->fds[file]);
	free(worker->fds);
	hf_cond_destroy(&worker->changed);
	hf_lock_destroy(&worker->lock);
	free(worker);
}
