/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Waiting. Theory of operation: everything the main thread can be told is a descriptor: an eventfd for
 * the engine (which may only signal), a signalfd for the operator, a pidfd for the VMM. So no handler runs
 * asynchronously and no event is lost between looking and waiting.
 */
#include "deploy/waiter.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

static int failed(struct hf_err *err, const char *what)
{
	int errnum = errno;
	return hf_err_set(err, HF_ERR_LOCAL, errnum, "%s: %s", what, strerror(errnum));
}

int hf_waiter_open(struct hf_waiter *waiter, struct hf_err *err)
{
	sigset_t signals;
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SIGQUIT);
	sigaddset(&signals, SIGUSR1);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);

	*waiter = (struct hf_waiter){0};
	waiter->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) + 1;
	waiter->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK) + 1;
	if (!waiter->event_fd || !waiter->signal_fd) {
		int result = failed(err, "cannot make the descriptors to wait on");
		hf_waiter_close(waiter);
		return result;
	}
	return 0;
}

int hf_waiter_watch(struct hf_waiter *waiter, pid_t vmm, struct hf_err *err)
{
	int fd = (int)syscall(SYS_pidfd_open, vmm, 0);
	if (fd < 0)
		return failed(err, "cannot watch the VMM's process");
	waiter->vmm_fd = fd + 1;
	return 0;
}

void hf_waiter_notify(void *opaque)
{
	const struct hf_waiter *waiter = opaque;
	uint64_t one = 1;
	// EAGAIN means that it is already signalled.
	ssize_t ignored = write(waiter->event_fd - 1, &one, sizeof(one));
	(void)ignored;
}

static int read_signal(const struct hf_waiter *waiter)
{
	struct signalfd_siginfo info;
	ssize_t got = read(waiter->signal_fd - 1, &info, sizeof(info));
	if (got != (ssize_t)sizeof(info))
		return 0;
	/* A terminal that closes must not end a program that holds a VM's only pages. */
	bool asks_to_end = info.ssi_signo == SIGHUP || info.ssi_signo == SIGQUIT;
	return asks_to_end ? SIGTERM : (int)info.ssi_signo;
}

static void drain_event(const struct hf_waiter *waiter)
{
	uint64_t count;
	ssize_t ignored = read(waiter->event_fd - 1, &count, sizeof(count));
	(void)ignored;
}

struct hf_woken hf_waiter_wait(struct hf_waiter *waiter, int extra_fd, int timeout_ms)
{
	struct pollfd fds[] = {
	    {.fd = waiter->event_fd - 1, .events = POLLIN},
	    {.fd = waiter->signal_fd - 1, .events = POLLIN},
	    {.fd = waiter->vmm_fd - 1, .events = POLLIN},
	    {.fd = extra_fd, .events = POLLIN},
	};
	struct hf_woken woken = {0};
	if (poll(fds, 4, timeout_ms) <= 0)
		return woken;
	if (fds[0].revents)
		drain_event(waiter);
	if (fds[1].revents)
		woken.signal = read_signal(waiter);
	if (fds[2].revents) {
		woken.vmm_ended = true;
		close(waiter->vmm_fd - 1);
		waiter->vmm_fd = 0;
	}
	woken.extra = fds[3].revents != 0;
	return woken;
}

void hf_waiter_close(struct hf_waiter *waiter)
{
	const int fds[] = {waiter->event_fd, waiter->signal_fd, waiter->vmm_fd};
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++) {
		if (fds[i])
			close(fds[i] - 1);
	}
	*waiter = (struct hf_waiter){0};
}
