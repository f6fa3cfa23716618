/* SPDX-License-Identifier: Apache-2.0 */
/*
 * engines.h - a whole migration of which nothing but the engines is real, for benchmarks of what they cost.
 *
 * Purpose: both engines in one thread, joined by ports that do as little as can be done: no memory, no link,
 * no VM; a clock that moves by what a link of 10 GB/s would take. Each vCPU faults again as soon as its page
 * is placed, so all of them wait at once, until so many pages have been faulted on; the background brings the
 * others.
 *
 * Every call into an engine goes through a function named enter_*, every port is named port_*: what a
 * profiler counts between them is the engines' alone.
 *
 * Ownership: nothing outlives the call. Threads: the caller's.
 * Units: in the names. Errors: 0 or -errno with a line.
 */
#ifndef HF_PERF_ENGINES_H
#define HF_PERF_ENGINES_H

#include <stdint.h>

#include "core/err.h"

struct hf_engines_shape {
	uint64_t guest_bytes, page_bytes;
	uint32_t vcpus;
	uint32_t faulted_percent; /* of pages */
	/* How often memory was asked for so far; NULL: not counted. */
	uint64_t (*allocations)(void);
};

struct hf_engines_figures {
	uint64_t pages, chunks, faults;
	uint64_t running_allocations; /* from the hand-over until the last page was placed */
	uint32_t waiting_max;	      /* vCPUs at once */
	uint64_t memory_bytes;	      /* of both engines, at the hand-over: then they take no more */
};

int hf_engines_migrate(const struct hf_engines_shape *shape, struct hf_engines_figures *figures,
		       struct hf_err *err);

#endif
