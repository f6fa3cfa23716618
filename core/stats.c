/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Bucket i > 0 spans [2^(i-1), 2^i) microseconds and is as wide as its lower bound; a sixteenth of it is at
 * most a sixteenth of any value in it. So the largest value a part can hold is within 1/16 of every value
 * counted there. Bucket 0 spans one microsecond in parts of 62.5 ns.
 */
#include "core/stats.h"

#define US_NS 1000ull

static uint64_t bucket_start_ns(uint32_t bucket)
{
	return bucket == 0 ? 0 : US_NS << (bucket - 1);
}

static uint64_t bucket_width_ns(uint32_t bucket)
{
	return bucket == 0 ? US_NS : US_NS << (bucket - 1);
}

static uint32_t bucket_of(uint64_t value_ns)
{
	uint64_t value_us = value_ns / US_NS;
	if (value_us == 0)
		return 0;
	uint32_t bucket = 64 - (uint32_t)__builtin_clzll(value_us);
	return bucket < HF_LATENCY_BUCKETS ? bucket : HF_LATENCY_BUCKETS - 1;
}

static uint32_t part_of(uint64_t value_ns)
{
	uint32_t bucket = bucket_of(value_ns);
	uint64_t into_ns = value_ns - bucket_start_ns(bucket), width_ns = bucket_width_ns(bucket);
	if (into_ns >= width_ns) // beyond the last bucket's own range
		into_ns = width_ns - 1;
	return bucket * HF_LATENCY_PARTS + (uint32_t)(into_ns * HF_LATENCY_PARTS / width_ns);
}

/* The largest value that falls into this part. */
static uint64_t part_end_ns(uint32_t part)
{
	uint32_t bucket = part / HF_LATENCY_PARTS;
	uint64_t sixteenths = (part % HF_LATENCY_PARTS + 1) * bucket_width_ns(bucket);
	return bucket_start_ns(bucket) + (sixteenths + HF_LATENCY_PARTS - 1) / HF_LATENCY_PARTS - 1;
}

void hf_latency_add(struct hf_latency *latency, uint64_t value_ns)
{
	uint32_t *part = &latency->parts[part_of(value_ns)];

	latency->count++;
	latency->sum_ns += value_ns;
	if (latency->max_ns < value_ns)
		latency->max_ns = value_ns;
	if (*part < UINT32_MAX)
		(*part)++;
}

/* Which of the sorted values: the first such that `fraction` of all are not above it, from 1. */
static uint64_t rank_of(uint64_t count, double fraction)
{
	if (!(fraction > 0))
		return 1;
	if (fraction >= 1)
		return count;
	double wanted = fraction * (double)count;
	uint64_t rank = (uint64_t)wanted;
	if ((double)rank < wanted)
		rank++;
	return rank == 0 ? 1 : rank;
}

uint64_t hf_latency_percentile_ns(const struct hf_latency *latency, double fraction)
{
	if (latency->count == 0)
		return 0;

	const uint32_t last = HF_LATENCY_BUCKETS * HF_LATENCY_PARTS - 1;
	uint64_t rank = rank_of(latency->count, fraction), seen = 0;
	for (uint32_t part = 0; part < last; part++) {
		seen += latency->parts[part];
		if (seen >= rank)
			return part_end_ns(part) < latency->max_ns ? part_end_ns(part) : latency->max_ns;
	}
	return latency->max_ns; // the last part has no end
}

uint64_t hf_latency_bucket_count(const struct hf_latency *latency, uint32_t bucket)
{
	uint64_t count = 0;
	if (bucket >= HF_LATENCY_BUCKETS)
		return 0;
	for (uint32_t part = 0; part < HF_LATENCY_PARTS; part++)
		count += latency->parts[bucket * HF_LATENCY_PARTS + part];
	return count;
}

uint64_t hf_latency_bucket_bound_ns(uint32_t bucket)
{
	return bucket + 1 < HF_LATENCY_BUCKETS ? US_NS << bucket : UINT64_MAX;
}
