/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * A bucket fills with `limit` bytes a second, up to B = what the limit allows in HF_LIMITER_BURST_NS. Bytes
 * that go are taken out, and may leave it below empty. n bytes that ask may go when it holds min(n, B): what
 * is larger than the bucket goes when the bucket is full, and leaves it owing the rest. So, for requests that
 * ask, over any stretch of time t in which the limit does not change
 *
 *     bytes gone <= limit x t + B + the largest request
 *
 * and if somebody always asks, no less than limit x t less one request: nothing that the limit allowed is
 * given away but by a pause longer than the bucket.
 *
 * Bytes that do not ask are counted too, so that the ones which do make room for them; but the bucket never
 * owes more than HF_LIMITER_DEBT_NS of the limit for them: under endless faults the limit holds the others
 * for a bounded time.
 *
 * The level is exact: in units of 1e-9 byte, one nanosecond adds `limit` of them, without rounding. It is
 * below 2^95 in either direction, whatever the caller passes: B < 2^64 x 2^24, debts < 2^64 x 2^30.
 */
#include "core/limiter.h"

#define NANO 1000000000

static __int128 units_in(uint64_t limit_bytes_per_s, uint64_t time_ns)
{
	return (__int128)limit_bytes_per_s * time_ns;
}

static __int128 units_of(uint64_t length_bytes)
{
	return (__int128)length_bytes * NANO;
}

static __int128 bucket(const struct hf_limiter *limiter)
{
	return units_in(limiter->limit_bytes_per_s, HF_LIMITER_BURST_NS);
}

static __int128 level_at(const struct hf_limiter *limiter, uint64_t now_ns)
{
	uint64_t passed_ns = now_ns > limiter->settled_ns ? now_ns - limiter->settled_ns : 0;
	unsigned __int128 missing = (unsigned __int128)(bucket(limiter) - limiter->level);
	unsigned __int128 gained = (unsigned __int128)limiter->limit_bytes_per_s * passed_ns;

	return gained >= missing ? bucket(limiter) : limiter->level + (__int128)gained;
}

static void settle(struct hf_limiter *limiter, uint64_t now_ns)
{
	limiter->level = level_at(limiter, now_ns);
	if (now_ns > limiter->settled_ns)
		limiter->settled_ns = now_ns;
}

void hf_limiter_init(struct hf_limiter *limiter, uint64_t limit_bytes_per_s, uint64_t now_ns)
{
	*limiter = (struct hf_limiter){.limit_bytes_per_s = limit_bytes_per_s, .settled_ns = now_ns};
}

void hf_limiter_set(struct hf_limiter *limiter, uint64_t limit_bytes_per_s, uint64_t now_ns)
{
	settle(limiter, now_ns);
	limiter->limit_bytes_per_s = limit_bytes_per_s;
	__int128 owes_most = -units_in(limit_bytes_per_s, HF_LIMITER_DEBT_NS);
	if (limiter->level > bucket(limiter))
		limiter->level = bucket(limiter);
	if (limiter->level < owes_most)
		limiter->level = owes_most;
}

uint64_t hf_limiter_when_ns(const struct hf_limiter *limiter, uint64_t length_bytes, uint64_t now_ns)
{
	uint64_t limit = limiter->limit_bytes_per_s;
	__int128 needed = units_of(length_bytes);

	if (limit == 0)
		return now_ns;
	if (needed > bucket(limiter))
		needed = bucket(limiter);
	__int128 missing = needed - level_at(limiter, now_ns);
	if (missing <= 0)
		return now_ns;
	__int128 wait_ns = (missing + limit - 1) / limit;
	uint64_t from_ns = now_ns > limiter->settled_ns ? now_ns : limiter->settled_ns;
	return wait_ns >= HF_LIMITER_NEVER_NS - from_ns ? HF_LIMITER_NEVER_NS : from_ns + (uint64_t)wait_ns;
}

void hf_limiter_take(struct hf_limiter *limiter, uint64_t length_bytes, uint64_t now_ns)
{
	settle(limiter, now_ns);
	if (limiter->limit_bytes_per_s == 0)
		return;
	__int128 most = units_in(limiter->limit_bytes_per_s, HF_LIMITER_DEBT_NS);
	if (most < units_of(length_bytes))
		most = units_of(length_bytes);
	limiter->level -= units_of(length_bytes);
	if (limiter->level < -most)
		limiter->level = -most;
}
