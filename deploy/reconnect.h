/* SPDX-License-Identifier: Apache-2.0 */
/*
 * reconnect.h - when to look for a new link, and until when.
 *
 * Purpose: both programs look for a link by themselves while one is missing: at once, then after 100 ms, 200
 * ms
 * ... 5 s, up to a deadline that counts from the loss of the last link that worked.
 * Ownership, threads: a plain value of one thread.
 * Units: nanoseconds of CLOCK_MONOTONIC.
 * Errors: none.
 */
#ifndef HF_DEPLOY_RECONNECT_H
#define HF_DEPLOY_RECONNECT_H

#include <stdbool.h>
#include <stdint.h>

struct hf_reconnect {
	uint64_t next_ns, pause_ns;
	uint64_t deadline_ns; /* 0: no link is missing */
	uint64_t agree_by_ns; /* 0: nothing is to be agreed on */
	bool held;	      /* by the operator, or by a peer that will never have us: nothing is tried */
};

/* A link is missing, from now on; does nothing if that is known. */
void hf_reconnect_begin(struct hf_reconnect *reconnect, uint64_t now_ns, uint32_t limit_s);
/* Is it time for an attempt? */
bool hf_reconnect_due(const struct hf_reconnect *reconnect, uint64_t now_ns);
/* An attempt has failed: the next one later. */
void hf_reconnect_failed(struct hf_reconnect *reconnect, uint64_t now_ns);
bool hf_reconnect_over(const struct hf_reconnect *reconnect, uint64_t now_ns);
/* A link works again. */
void hf_reconnect_end(struct hf_reconnect *reconnect);
/*
 * A new link is up, and the two sides have yet to agree. True once that has taken too long: the peer is
 * silent, and another link may do better.
 */
bool hf_reconnect_silent(struct hf_reconnect *reconnect, bool agreeing, uint64_t now_ns);
/* When to look again; 0: there is nothing to wait for. */
uint64_t hf_reconnect_wake_ns(const struct hf_reconnect *reconnect);

#endif
