/* SPDX-License-Identifier: Apache-2.0 */
/*
 * monotonic.h - the real clock behind core/clock.h.
 *
 * Purpose: CLOCK_MONOTONIC for the engines and for time-outs.
 * Ownership: none.
 * Threads: any.
 * Units: nanoseconds.
 * Errors: none.
 */
#ifndef HF_DEPLOY_MONOTONIC_H
#define HF_DEPLOY_MONOTONIC_H

#include <time.h>

#include "core/clock.h"

static inline uint64_t hf_monotonic_ns(void *unused)
{
	(void)unused;
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline struct hf_clock hf_monotonic_clock(void)
{
	return (struct hf_clock){.now_ns = hf_monotonic_ns};
}

#endif
