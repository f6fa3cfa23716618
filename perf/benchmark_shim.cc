// SPDX-License-Identifier: Apache-2.0
#include "perf/benchmark_shim.h"

#include <benchmark/benchmark.h>

struct hf_benchmark {
	benchmark::State &state;
};

static bool any_failed;

void hf_benchmark_add(const char *name, hf_benchmark_fn *run, const void *argument)
{
	benchmark::RegisterBenchmark(name,
				     [run, argument](benchmark::State &state) {
					     hf_benchmark of{state};
					     run(&of, argument);
				     })
	    ->UseManualTime()
	    ->Unit(benchmark::kMicrosecond);
}

bool hf_benchmark_next(hf_benchmark *of)
{
	return of->state.KeepRunning();
}

void hf_benchmark_took_ns(hf_benchmark *of, uint64_t took_ns)
{
	of->state.SetIterationTime(static_cast<double>(took_ns) / 1e9);
}

void hf_benchmark_counter(hf_benchmark *of, const char *name, double value)
{
	of->state.counters[name] = value;
}

void hf_benchmark_fail(hf_benchmark *of, const char *why)
{
	any_failed = true;
	of->state.SkipWithError(why);
}

int hf_benchmark_main(int argc, char **argv)
{
	benchmark::Initialize(&argc, argv);
	if (benchmark::ReportUnrecognizedArguments(argc, argv))
		return 2;
	benchmark::RunSpecifiedBenchmarks();
	benchmark::Shutdown();
	return any_failed ? 1 : 0;
}
