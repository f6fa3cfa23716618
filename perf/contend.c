/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What perf/inside.c is to see, and what not, for its check: one thread waits for a mutex that is taken,
 * another waits for a condition, a third for one that never comes. Exit code 0: the calls did what they are
 * to do.
 */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct shared {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	_Atomic pid_t thread; /* that sleeps for nothing but what it was made for from now on */
	bool go;	      /* under the lock */
	int timed_result;
};

static void *want(void *argument)
{
	struct shared *shared = argument;
	atomic_store(&shared->thread, (pid_t)syscall(SYS_gettid));
	pthread_mutex_lock(&shared->lock);
	pthread_mutex_unlock(&shared->lock);
	return NULL;
}

static void *idle(void *argument)
{
	struct shared *shared = argument;
	pthread_mutex_lock(&shared->lock);
	atomic_store(&shared->thread, (pid_t)syscall(SYS_gettid));
	while (!shared->go)
		pthread_cond_wait(&shared->changed, &shared->lock);
	pthread_mutex_unlock(&shared->lock);
	return NULL;
}

static void *wait_in_vain(void *argument)
{
	struct shared *shared = argument;
	struct timespec until = {0};
	clock_gettime(CLOCK_MONOTONIC, &until);
	pthread_mutex_lock(&shared->lock);
	do
		shared->timed_result = pthread_cond_timedwait(&shared->changed, &shared->lock, &until);
	while (!shared->timed_result);
	pthread_mutex_unlock(&shared->lock);
	return NULL;
}

static void until_it_sleeps(const struct shared *shared)
{
	char path[64], state = 0;
	while (state != 'S') {
		sched_yield();
		snprintf(path, sizeof(path), "/proc/self/task/%" PRIdMAX "/stat",
			 (intmax_t)atomic_load(&shared->thread));
		FILE *file = fopen(path, "re");
		if (!file)
			continue;
		if (fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
			state = 0;
		fclose(file);
	}
}

static pthread_t begin(struct shared *shared, const char *name, void *(*what)(void *))
{
	pthread_t thread;
	atomic_store(&shared->thread, 0);
	if (pthread_create(&thread, NULL, what, shared))
		_exit(2);
	pthread_setname_np(thread, name);
	return thread;
}

int main(void)
{
	struct shared shared = {.lock = PTHREAD_MUTEX_INITIALIZER};
	pthread_condattr_t monotonic;
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&shared.changed, &monotonic);

	pthread_mutex_lock(&shared.lock);
	pthread_t thread = begin(&shared, "wants", want);
	until_it_sleeps(&shared);
	pthread_mutex_unlock(&shared.lock);
	pthread_join(thread, NULL);

	thread = begin(&shared, "idles", idle);
	until_it_sleeps(&shared);
	pthread_mutex_lock(&shared.lock);
	shared.go = true;
	pthread_mutex_unlock(&shared.lock);
	pthread_cond_signal(&shared.changed);
	pthread_join(thread, NULL);

	thread = begin(&shared, "in vain", wait_in_vain);
	pthread_join(thread, NULL);
	return shared.timed_result == ETIMEDOUT ? 0 : 1;
}
