/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pairs.h - figures of a transport, each with its raw limit beside it.
 *
 * Purpose: collects what hf_taker_pair() has measured, and says it in the units of the field. Ownership:
 * zeroed at first; hf_pairs_free(). Threads: one. Units: microseconds in _us; MiB are 2^20 bytes. Errors:
 * none.
 */
#ifndef HF_PERF_PAIRS_H
#define HF_PERF_PAIRS_H

#include "perf/samples.h"
#include "perf/taker.h"

struct hf_pairs {
	uint64_t bytes; /* of each measurement */
	struct hf_samples fetch_us, raw_us;
	struct hf_samples ratio; /* fetch_us by raw_us of each pair */
	double fetch_cpu_s[2], raw_cpu_s[2];
};

void hf_pairs_add(struct hf_pairs *pairs, const struct hf_pair *pair);
double hf_pairs_mib_per_s(const struct hf_pairs *pairs, double us);
/* Of all that was moved; side 0 is the taker. */
double hf_pairs_cpu_s_per_gib(const struct hf_pairs *pairs, const double *cpu_s);
void hf_pairs_free(struct hf_pairs *pairs);

#endif
