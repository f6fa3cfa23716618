/* SPDX-License-Identifier: Apache-2.0 */
/*
 * waiter.h - what the main thread of `send` and `receive` waits for.
 *
 * Purpose: one poll over the engine's notifications, the operator's signals, the VMM's life and one more
 * descriptor.
 * Ownership: open/close; a zeroed struct may be closed.
 * Threads: open before any other thread exists (they inherit the blocked signals); notify from any thread;
 * the rest by the main thread.
 * Units: milliseconds in _ms.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_DEPLOY_WAITER_H
#define HF_DEPLOY_WAITER_H

#include <stdbool.h>
#include <sys/types.h>

#include "core/err.h"

struct hf_waiter {
	int event_fd, signal_fd, vmm_fd; /* stored + 1, so that zeroed means none */
};

struct hf_woken {
	int signal;	/* one of SIGINT, SIGTERM (also for SIGHUP, SIGQUIT), SIGUSR1; 0: none */
	bool vmm_ended; /* reported once */
	bool extra;	/* the extra descriptor is readable */
};

/* Blocks SIGINT, SIGTERM, SIGHUP, SIGQUIT and SIGUSR1 and ignores SIGPIPE from now on. */
int hf_waiter_open(struct hf_waiter *waiter, struct hf_err *err);
/* Also wakes when the process ends. */
int hf_waiter_watch(struct hf_waiter *waiter, pid_t vmm, struct hf_err *err);
/* For an engine's notify; opaque is the waiter. */
void hf_waiter_notify(void *opaque);
/* extra_fd < 0: none. timeout_ms < 0: no limit. */
struct hf_woken hf_waiter_wait(struct hf_waiter *waiter, int extra_fd, int timeout_ms);
void hf_waiter_close(struct hf_waiter *waiter);

#endif
