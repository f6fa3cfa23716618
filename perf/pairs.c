/* SPDX-License-Identifier: Apache-2.0 */
#include "perf/pairs.h"

void hf_pairs_add(struct hf_pairs *pairs, const struct hf_pair *pair)
{
	hf_samples_add(&pairs->fetch_us, (double)pair->fetch_ns / 1e3);
	if (pair->raw_ns) {
		hf_samples_add(&pairs->raw_us, (double)pair->raw_ns / 1e3);
		hf_samples_add(&pairs->ratio, (double)pair->fetch_ns / (double)pair->raw_ns);
	}
	for (int side = 0; side < 2; side++) {
		pairs->fetch_cpu_s[side] += (double)pair->fetch_cpu_ns[side] / 1e9;
		pairs->raw_cpu_s[side] += (double)pair->raw_cpu_ns[side] / 1e9;
	}
}

double hf_pairs_mib_per_s(const struct hf_pairs *pairs, double us)
{
	return us > 0 ? (double)pairs->bytes / (1 << 20) / us * 1e6 : 0;
}

double hf_pairs_cpu_s_per_gib(const struct hf_pairs *pairs, const double *cpu_s)
{
	double gib = (double)pairs->bytes * (double)pairs->fetch_us.count / (1u << 30);
	return gib > 0 ? (cpu_s[0] + cpu_s[1]) / gib : 0;
}

void hf_pairs_free(struct hf_pairs *pairs)
{
	hf_samples_free(&pairs->fetch_us);
	hf_samples_free(&pairs->raw_us);
	hf_samples_free(&pairs->ratio);
}
