/* SPDX-License-Identifier: Apache-2.0 */
/*
 * limiter.h - a limit on bytes a second.
 *
 * Purpose: max-bandwidth and max-postcopy-bandwidth: says when the next bytes may go. A token bucket; what
 * exactly is promised stands in limiter.c. Ownership: plain struct, no pointers, no destructor. Threads: none
 * inside; the caller holds its lock. Every call is constant time. Units: bytes, bytes a second, nanoseconds
 * of the caller's monotonic clock. Errors: none. No value is too large; a time before the last one given
 * counts as that one.
 */
#ifndef HF_CORE_LIMITER_H
#define HF_CORE_LIMITER_H

#include <stdint.h>

#define HF_LIMITER_NEVER_NS UINT64_MAX
/* After a pause at most what the limit allows in this time goes at once, or one request if that is larger. */
#define HF_LIMITER_BURST_NS 10000000ull
/* Bytes that went without asking put off those that ask by no more than this. */
#define HF_LIMITER_DEBT_NS 1000000000ull

struct hf_limiter {
	uint64_t limit_bytes_per_s; /* 0: none */
	uint64_t settled_ns;	    /* the level is of this time */
	__int128 level;		    /* what may go, below 0 what has gone too early, in 1e-9 bytes */
};

/* Starts empty: nothing has been saved up. 0: no limit. */
void hf_limiter_init(struct hf_limiter *limiter, uint64_t limit_bytes_per_s, uint64_t now_ns);
/* Another limit from now on, 0 for none. What was saved up or gone too early stays, within the new bounds. */
void hf_limiter_set(struct hf_limiter *limiter, uint64_t limit_bytes_per_s, uint64_t now_ns);
/* When bytes that ask may go if nothing else goes before: now_ns, or later. HF_LIMITER_NEVER_NS: beyond the
 * clock. */
uint64_t hf_limiter_when_ns(const struct hf_limiter *limiter, uint64_t length_bytes, uint64_t now_ns);
/* They go now; also bytes that do not ask (urgent pages). */
void hf_limiter_take(struct hf_limiter *limiter, uint64_t length_bytes, uint64_t now_ns);

#endif
