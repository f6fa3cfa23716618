/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stats.h - distribution of latencies.
 *
 * Purpose: counts latencies in power-of-two microsecond buckets for the report (as QEMU's
 * postcopy-latency-dist) and, inside each, in sixteen equal parts, so that percentiles are within
 * 1/16 of the true value. (Idea: HdrHistogram.)
 *
 * Ownership: plain struct, no pointers, no destructor; zero-initialised is empty.
 * Threads: none inside; the caller holds its lock.
 * Units: nanoseconds; bucket bounds are powers of two of a microsecond.
 * Errors: none.
 */
#ifndef HF_CORE_STATS_H
#define HF_CORE_STATS_H

#include <stdint.h>

#define HF_LATENCY_BUCKETS 36u /* 0: below 1 us; i: [2^(i-1), 2^i) us; the last holds all above */
#define HF_LATENCY_PARTS   16u

struct hf_latency {
	uint64_t count;
	uint64_t sum_ns;
	uint64_t max_ns;
	uint32_t parts[HF_LATENCY_BUCKETS * HF_LATENCY_PARTS];
};

void hf_latency_add(struct hf_latency *latency, uint64_t value_ns);
/* Upper bound of the part that holds the given fraction (0.5, 0.99, ...), at most max_ns; 0 when empty. */
uint64_t hf_latency_percentile_ns(const struct hf_latency *latency, double fraction);
uint64_t hf_latency_bucket_count(const struct hf_latency *latency, uint32_t bucket);
/* Upper bound of a bucket, exclusive; UINT64_MAX for the last. */
uint64_t hf_latency_bucket_bound_ns(uint32_t bucket);

#endif
