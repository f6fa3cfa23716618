/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * Signals go through a pidfd, which never means another process. What /proc/PID says is believed only if the
 * process still lived after it was read: then the pid was its own all the time.
 *
 * SIGSTOP is taken by one thread, which marks all others; each stops when it next leaves the kernel. Marked
 * threads make no new threads, so a walk over the threads that finds all of them stopped has missed none. A
 * vCPU in KVM_RUN and a thread in poll() are interrupted; one that waits uninterruptibly (state D: storage or
 * NFS that does not answer, a vfork) is not, and is what the error names. A thread under a debugger (state t)
 * does not count as stopped: the debugger may let it go.
 *
 * SIGKILL ends stopped and faulting threads too. The pidfd becomes readable when the last thread is gone and
 * the memory has been given back.
 */
#include "kvm/vmm_process.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "hugemem/process_stat.h"

#define FIRST_PAUSE_NS 50000ull
#define LAST_PAUSE_NS  5000000ull
#define NS_PER_MS      1000000ull
#define NS_PER_S       1000000000ull

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

/* ---- /proc ---- */

static bool stands_still(char state)
{
	return state == 'T' || state == 'Z' || state == 'X';
}

struct moving_thread {
	pid_t tid;
	struct hf_process_stat stat;
};

/* 1: every thread stands still; 0: *moving does not; -errno. */
static int look_at_threads(DIR *threads, struct moving_thread *moving)
{
	const struct dirent *entry;
	while ((errno = 0, entry = readdir(threads))) {
		char path[sizeof(entry->d_name) + sizeof("/stat")];
		if (entry->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), "%s/stat", entry->d_name);
		int r = hf_process_stat_at(dirfd(threads), path, &moving->stat);
		if (r == -ENOENT || r == -ESRCH)
			continue;
		if (r < 0)
			return r;
		moving->tid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (!stands_still(moving->stat.state))
			return 0;
	}
	return errno ? -errno : 1;
}

/* As look_at_threads(). -ESRCH: the process has ended, and what was read may be another's. */
static int look(const struct hf_vmm_process *vmm, struct moving_thread *moving)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/task", (int)vmm->pid);
	DIR *threads = opendir(path);
	int r = threads ? look_at_threads(threads, moving) : -errno;
	if (threads)
		closedir(threads);
	return hf_vmm_has_ended(vmm) ? -ESRCH : r;
}

/* ---- errors ---- */

static int set_ended(const struct hf_vmm_process *vmm, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, ESRCH, "the VMM (pid %d) has ended", (int)vmm->pid);
}

static int set_failed(const struct hf_vmm_process *vmm, const char *what, int error, struct hf_err *err)
{
	if (error == ESRCH)
		return set_ended(vmm, err);
	return hf_err_set(err, HF_ERR_LOCAL, error, "the VMM (pid %d) cannot be %s: %s%s", (int)vmm->pid,
			  what, strerror(error),
			  error == EPERM ? "; run this as root or as the VMM's user" : "");
}

static int set_moving(const struct hf_vmm_process *vmm, const struct moving_thread *moving, uint32_t limit_ms,
		      struct hf_err *err)
{
	char state = moving->stat.state;
	const char *why = "it runs on";
	if (state == 'D')
		why = "it is blocked in the kernel, perhaps by storage that does not answer";
	else if (state == 't')
		why = "a debugger holds it; detach the debugger";
	return hf_err_set(
	    err, HF_ERR_LOCAL, ETIMEDOUT,
	    "the VMM (pid %d) could not be frozen within %u ms: thread %d (%s) is in state %c: %s",
	    (int)vmm->pid, limit_ms, (int)moving->tid, moving->stat.name, state, why);
}

/* ---- acting ---- */

static int send_signal(const struct hf_vmm_process *vmm, int signal, const char *what, struct hf_err *err)
{
	if (vmm->pid == getpid())
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "pid %d is this program itself, and no VMM",
				  (int)vmm->pid);
	if (syscall(SYS_pidfd_send_signal, vmm->fd - 1, signal, NULL, 0) == 0)
		return 0;
	return set_failed(vmm, what, errno, err);
}

/* Waits for the end of the process. */
static bool ends_within(const struct hf_vmm_process *vmm, uint64_t wait_ns)
{
	struct pollfd set = {.fd = vmm->fd - 1, .events = POLLIN};
	uint64_t deadline_ns = now_ns() + wait_ns;
	for (;;) {
		struct timespec wait = {.tv_sec = (time_t)(wait_ns / NS_PER_S),
					.tv_nsec = (long)(wait_ns % NS_PER_S)};
		int n = ppoll(&set, 1, &wait, NULL);
		if (n >= 0 || errno != EINTR)
			return n > 0;
		uint64_t now = now_ns();
		wait_ns = now < deadline_ns ? deadline_ns - now : 0;
	}
}

bool hf_vmm_has_ended(const struct hf_vmm_process *vmm)
{
	return ends_within(vmm, 0);
}

static int wait_until_still(const struct hf_vmm_process *vmm, uint32_t limit_ms, struct hf_err *err)
{
	struct moving_thread moving = {0};
	uint64_t deadline_ns = now_ns() + limit_ms * NS_PER_MS;
	uint64_t pause_ns = FIRST_PAUSE_NS;
	for (;;) {
		uint64_t looked_ns = now_ns();
		int r = look(vmm, &moving);
		if (r == 1)
			return 0;
		if (r < 0)
			return set_failed(vmm, "seen through /proc", -r, err);
		if (looked_ns >= deadline_ns)
			return set_moving(vmm, &moving, limit_ms, err);
		ends_within(vmm, pause_ns);
		if (pause_ns < LAST_PAUSE_NS)
			pause_ns *= 2;
	}
}

int hf_vmm_fence(const struct hf_vmm_process *vmm, uint32_t limit_ms, struct hf_err *err)
{
	if (hf_vmm_has_ended(vmm)) // not reaped yet, it would take the signal
		return set_ended(vmm, err);
	int r = send_signal(vmm, SIGSTOP, "frozen", err);
	return r < 0 ? r : wait_until_still(vmm, limit_ms, err);
}

bool hf_vmm_is_fenced(const struct hf_vmm_process *vmm)
{
	struct moving_thread moving = {0};
	return look(vmm, &moving) == 1;
}

int hf_vmm_thaw(const struct hf_vmm_process *vmm, struct hf_err *err)
{
	if (hf_vmm_has_ended(vmm))
		return set_ended(vmm, err);
	return send_signal(vmm, SIGCONT, "thawed", err);
}

int hf_vmm_kill(const struct hf_vmm_process *vmm, uint32_t limit_ms, struct hf_err *err)
{
	if (hf_vmm_has_ended(vmm))
		return 0;
	struct hf_err signal_err = HF_ERR_INIT;
	int r = send_signal(vmm, SIGKILL, "killed", &signal_err);
	if (r < 0 && r != -ESRCH) {
		if (err)
			*err = signal_err;
		return r;
	}
	if (ends_within(vmm, limit_ms * NS_PER_MS))
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, ETIMEDOUT,
			  "the VMM (pid %d) was killed and has not ended within %u ms: it is blocked in the "
			  "kernel, perhaps by storage that does not answer",
			  (int)vmm->pid, limit_ms);
}

/* ---- life ---- */

int hf_vmm_open(struct hf_vmm_process *vmm, pid_t pid, struct hf_err *err)
{
	struct hf_process_stat stat;
	struct hf_vmm_process opened = {.pid = pid};
	if (pid <= 1) // 0: it lives in another pid namespace
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "pid %d is no VMM: is its QMP socket made by another program, or does it run "
		    "in a container of its own?",
		    (int)pid);
	opened.fd = (int)syscall(SYS_pidfd_open, pid, 0) + 1;
	if (!opened.fd)
		return set_failed(&opened, "watched", errno, err);
	int r = hf_process_stat(pid, &stat);
	if (r < 0 || hf_vmm_has_ended(&opened)) {
		r = set_failed(&opened, "seen through /proc", r == 0 || r == -ENOENT ? ESRCH : -r, err);
		hf_vmm_close(&opened);
		return r;
	}
	opened.start_ticks = stat.start_ticks;
	*vmm = opened;
	return 0;
}

int hf_vmm_open_same(struct hf_vmm_process *vmm, pid_t pid, uint64_t start_ticks, struct hf_err *err)
{
	struct hf_vmm_process opened = {0};
	int r = hf_vmm_open(&opened, pid, err);
	if (r < 0)
		return r;
	if (opened.start_ticks != start_ticks) {
		hf_vmm_close(&opened);
		return set_ended(&(struct hf_vmm_process){.pid = pid}, err);
	}
	*vmm = opened;
	return 0;
}

void hf_vmm_close(struct hf_vmm_process *vmm)
{
	if (vmm->fd)
		close(vmm->fd - 1);
	*vmm = (struct hf_vmm_process){0};
}
