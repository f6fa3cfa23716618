/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into `hugeferry send` or `receive`: how long its threads wait for locks, and what memory it takes
 * at most. Written as JSON to the file named by HF_INSIDE when the program ends.
 *
 * Theory of operation: a mutex is tried first, and only what does not get it then is timed: a lock that is
 * free costs one look more. The time goes to the thread, by its name, to the place in the program that wanted
 * the lock and to the place that had taken it last; both are noted by address, for addr2line.
 *
 * Waiting for a condition is idleness, not a wait for a lock, but for taking the mutex back at its end. The C
 * library does both in one call, so conditions are made anew here, of a counter that is a futex: a wait
 * sleeps until it has changed. Nothing is missed: it is read under the mutex that whoever signals has held,
 * and a wake-up too many is what every wait must expect anyway.
 *
 * Locks of the kernel are not seen (a page fault's, a socket's).
 */
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PLACES_MAX 256u
#define NAME_BYTES 16 /* the kernel's, of a thread */
#define LOCKS_MAX                                                                                            \
	4096u /* a power of two; two locks of one number are taken for one another as to who had it */

/* Somebody wanted a lock that somebody else had. */
struct place {
	void *wanted, *had;
	bool again; /* at the end of a wait for a condition */
	char thread[NAME_BYTES];
	uint64_t waits, ns, longest_ns;
};

/* In the place of the C library's. */
struct condition {
	_Atomic uint32_t changes;
	clockid_t clock; /* CLOCK_REALTIME is 0, as in a static one */
};
_Static_assert(sizeof(struct condition) <= sizeof(pthread_cond_t), "a condition of ours fits into theirs");
_Static_assert(CLOCK_REALTIME == 0, "a static condition has the clock that it is to have");

static struct {
	_Atomic(void *) had[LOCKS_MAX];
	atomic_flag busy; /* a lock of its own: those of the C library are looked at here */
	/* Under it. */
	struct place places[PLACES_MAX];
	uint32_t count;
	uint64_t lost; /* waits for which there was no place */
} seen = {.busy = ATOMIC_FLAG_INIT};

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* ---- places ------------------------------------------------------------------------------------ */

static struct place *place_of(const struct place *wait)
{
	for (uint32_t i = 0; i < seen.count; i++) {
		struct place *place = &seen.places[i];
		if (place->wanted == wait->wanted && place->had == wait->had && place->again == wait->again &&
		    strcmp(place->thread, wait->thread) == 0)
			return place;
	}
	if (seen.count == PLACES_MAX)
		return NULL;
	seen.places[seen.count] = *wait;
	return &seen.places[seen.count++];
}

static void add(void *wanted, void *had, bool again, uint64_t ns)
{
	struct place wait = {.wanted = wanted, .had = had, .again = again};
	prctl(PR_GET_NAME, wait.thread);
	while (atomic_flag_test_and_set(&seen.busy))
		sched_yield();
	struct place *place = place_of(&wait);
	if (place) {
		place->waits++;
		place->ns += ns;
		place->longest_ns = ns > place->longest_ns ? ns : place->longest_ns;
	} else {
		seen.lost++;
	}
	atomic_flag_clear(&seen.busy);
}

/* ---- mutexes ----------------------------------------------------------------------------------- */

static int lock(pthread_mutex_t *mutex, void *caller, bool again)
{
	static _Atomic(void *) found;
	_Atomic(void *) *had = &seen.had[((uintptr_t)mutex >> 4) % LOCKS_MAX];
	int result = pthread_mutex_trylock(mutex);
	if (result == EBUSY) {
		void *holder = atomic_load_explicit(had, memory_order_relaxed);
		if (!atomic_load(&found))
			atomic_store(&found, dlsym(RTLD_NEXT, "pthread_mutex_lock"));
		int (*really)(pthread_mutex_t *) = (int (*)(pthread_mutex_t *))atomic_load(&found);
		uint64_t since_ns = now_ns();
		result = really(mutex);
		add(caller, holder, again, now_ns() - since_ns);
	}
	atomic_store_explicit(had, caller, memory_order_relaxed);
	return result;
}

int pthread_mutex_lock(pthread_mutex_t *mutex)
{
	return lock(mutex, __builtin_return_address(0), false);
}

/* ---- conditions -------------------------------------------------------------------------------- */

static int wait_for(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until, void *caller)
{
	struct condition *condition = (struct condition *)cond;
	uint32_t changes = atomic_load(&condition->changes);
	int flags = condition->clock == CLOCK_REALTIME ? FUTEX_CLOCK_REALTIME : 0;
	pthread_mutex_unlock(mutex);
	long slept = syscall(SYS_futex, &condition->changes, FUTEX_WAIT_BITSET_PRIVATE | flags, changes,
			     until, NULL, FUTEX_BITSET_MATCH_ANY);
	int result = slept < 0 && errno == ETIMEDOUT ? ETIMEDOUT : 0;
	lock(mutex, caller, true);
	return result;
}

static int wake(pthread_cond_t *cond, int threads)
{
	struct condition *condition = (struct condition *)cond;
	atomic_fetch_add(&condition->changes, 1);
	syscall(SYS_futex, &condition->changes, FUTEX_WAKE_PRIVATE, threads);
	return 0;
}

int pthread_cond_init(pthread_cond_t *cond, const pthread_condattr_t *attributes)
{
	struct condition *condition = (struct condition *)cond;
	memset(cond, 0, sizeof(*cond));
	return attributes ? pthread_condattr_getclock(attributes, &condition->clock) : 0;
}

int pthread_cond_destroy(pthread_cond_t *cond)
{
	(void)cond;
	return 0;
}

int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
	return wait_for(cond, mutex, NULL, __builtin_return_address(0));
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until)
{
	return wait_for(cond, mutex, until, __builtin_return_address(0));
}

int pthread_cond_signal(pthread_cond_t *cond)
{
	return wake(cond, 1);
}

int pthread_cond_broadcast(pthread_cond_t *cond)
{
	return wake(cond, INT_MAX);
}

/* ---- what is written at the end ---------------------------------------------------------------- */

static uint64_t status_kib(const char *name)
{
	char line[256];
	uint64_t kib = 0;
	size_t length = strlen(name);
	FILE *file = fopen("/proc/self/status", "re");
	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, name, length) == 0 && line[length] == ':')
			kib = strtoull(line + length + 1, NULL, 10);
	if (file)
		fclose(file);
	return kib;
}

/* Where the program was loaded has nothing to do with where its text is in the file. */
static uint64_t offset_of(void *address)
{
	Dl_info info;
	return address && dladdr(address, &info) ? (uint64_t)((char *)address - (char *)info.dli_fbase) : 0;
}

static void __attribute__((destructor)) report(void)
{
	const char *path = getenv("HF_INSIDE");
	FILE *file = path ? fopen(path, "we") : NULL;
	if (!file)
		return;
	fprintf(file,
		"{\"peak_kib\": %" PRIu64 ", \"file_kib\": %" PRIu64 ", \"lost\": %" PRIu64 ", \"waits\": [",
		status_kib("VmHWM"), status_kib("RssFile"), seen.lost);
	for (uint32_t i = 0; i < seen.count; i++) {
		const struct place *place = &seen.places[i];
		fprintf(file,
			"%s\n{\"thread\": \"%s\", \"wanted\": %" PRIu64 ", \"had\": %" PRIu64
			", \"again\": %s, \"waits\": %" PRIu64 ", \"ns\": %" PRIu64
			", \"longest_ns\": %" PRIu64 "}",
			i ? "," : "", place->thread, offset_of(place->wanted), offset_of(place->had),
			place->again ? "true" : "false", place->waits, place->ns, place->longest_ns);
	}
	fprintf(file, "]}\n");
	fclose(file);
}
