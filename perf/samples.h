/* SPDX-License-Identifier: Apache-2.0 */
/*
 * samples.h - numbers that were measured, and their ranks.
 *
 * Purpose: what all suites need to say a median and a percentile. Ownership: zeroed at first;
 * hf_samples_free() at the end. Threads: one at a time. Units: the caller's. Errors: memory that runs out
 * ends the benchmark.
 */
#ifndef HF_PERF_SAMPLES_H
#define HF_PERF_SAMPLES_H

#include <stddef.h>

struct hf_samples {
	double *values;
	size_t count, room;
};

void hf_samples_add(struct hf_samples *samples, double value);
/* Nearest rank, in thousandths: 500 is the median, 1000 the largest. 0 if there are none. */
double hf_samples_rank(struct hf_samples *samples, unsigned permille);
double hf_samples_mean(const struct hf_samples *samples);
/* Of the sample, not of what it stands for. */
double hf_samples_deviation(const struct hf_samples *samples);
void hf_samples_free(struct hf_samples *samples);

#endif
