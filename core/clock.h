/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clock.h - port: the monotonic clock.
 *
 * Purpose: core reads no clock itself; real programs pass CLOCK_MONOTONIC, the simulator a virtual clock.
 * Ownership: the caller keeps `self` alive as long as the engine that uses it.
 * Threads: now_ns is called from any thread and never calls back into the engine.
 * Units: nanoseconds since an arbitrary start; never goes backwards.
 * Errors: none.
 */
#ifndef HF_CORE_CLOCK_H
#define HF_CORE_CLOCK_H

#include <stdint.h>

struct hf_clock {
	uint64_t (*now_ns)(void *self);
	void *self;
};

static inline uint64_t hf_clock_now_ns(const struct hf_clock *clock)
{
	return clock->now_ns(clock->self);
}

#endif
