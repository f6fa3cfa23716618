/* SPDX-License-Identifier: Apache-2.0 */
/*
 * halves.h - each side of a measurement on CPUs of its own, as on two hosts.
 *
 * Purpose: where two sides run on one host, whether they share a CPU is chance, stays so for a while, and
 * decides the figure. Threads and processes that are made inherit the half. Ownership: none. Threads: of the
 * caller. Units: none. Errors: none; on a host with one CPU nothing changes.
 */
#ifndef HF_PERF_HALVES_H
#define HF_PERF_HALVES_H

#include <sched.h>

/* The CPUs that this thread may have. */
static inline cpu_set_t hf_cpus(void)
{
	cpu_set_t all;
	CPU_ZERO(&all);
	sched_getaffinity(0, sizeof(all), &all);
	return all;
}

/* The calling thread, and what it makes from now on: on the first (0) or the second half of these. */
static inline void hf_stay_on_half(const cpu_set_t *all, int half)
{
	cpu_set_t mine;
	int seen = 0, count = CPU_COUNT(all);
	CPU_ZERO(&mine);
	for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
		if (CPU_ISSET(cpu, all) && seen++ * 2 / count == half)
			CPU_SET(cpu, &mine);
	if (count > 1)
		sched_setaffinity(0, sizeof(mine), &mine);
}

#endif
