/* SPDX-License-Identifier: Apache-2.0 */
#include "perf/samples.h"

#include <math.h>
#include <stdlib.h>

void hf_samples_add(struct hf_samples *samples, double value)
{
	if (samples->count == samples->room) {
		samples->room = samples->room ? 2 * samples->room : 256;
		samples->values = realloc(samples->values, samples->room * sizeof(double));
		if (!samples->values)
			abort();
	}
	samples->values[samples->count++] = value;
}

static int compare_values(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;
	return (left > right) - (left < right);
}

double hf_samples_rank(struct hf_samples *samples, unsigned permille)
{
	if (samples->count == 0)
		return 0;
	qsort(samples->values, samples->count, sizeof(double), compare_values);
	size_t rank = (samples->count * permille + 999) / 1000;
	return samples->values[rank ? rank - 1 : 0];
}

double hf_samples_mean(const struct hf_samples *samples)
{
	double sum = 0;
	for (size_t i = 0; i < samples->count; i++)
		sum += samples->values[i];
	return samples->count ? sum / (double)samples->count : 0;
}

double hf_samples_deviation(const struct hf_samples *samples)
{
	double mean = hf_samples_mean(samples), sum = 0;
	for (size_t i = 0; i < samples->count; i++)
		sum += (samples->values[i] - mean) * (samples->values[i] - mean);
	return samples->count ? sqrt(sum / (double)samples->count) : 0;
}

void hf_samples_free(struct hf_samples *samples)
{
	free(samples->values);
	*samples = (struct hf_samples){0};
}
