/* SPDX-License-Identifier: Apache-2.0 */
/*
 * benchmark_shim.h - Google Benchmark for benchmarks written in C.
 *
 * Purpose: the few calls the suites need. A suite's main() adds its benchmarks and calls hf_benchmark_main(),
 * which understands every option of Google Benchmark (--benchmark_filter, --benchmark_format=json, ...). Each
 * iteration says itself how long it took.
 *
 * Ownership: names and arguments outlive hf_benchmark_main(). Threads: the caller's only.
 * Units: nanoseconds in _ns; a counter's unit is in its name.
 * Errors: hf_benchmark_fail() ends a benchmark with a line; hf_benchmark_main() then returns 1.
 */
#ifndef HF_PERF_BENCHMARK_SHIM_H
#define HF_PERF_BENCHMARK_SHIM_H

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct hf_benchmark; /* one run of one benchmark */

typedef void hf_benchmark_fn(struct hf_benchmark *benchmark, const void *argument);

void hf_benchmark_add(const char *name, hf_benchmark_fn *run, const void *argument);
/* Is there another iteration to do? */
bool hf_benchmark_next(struct hf_benchmark *benchmark);
void hf_benchmark_took_ns(struct hf_benchmark *benchmark, uint64_t took_ns);
void hf_benchmark_counter(struct hf_benchmark *benchmark, const char *name, double value);
void hf_benchmark_fail(struct hf_benchmark *benchmark, const char *why);
int hf_benchmark_main(int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif
