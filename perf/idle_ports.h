/* SPDX-License-Identifier: Apache-2.0 */
/*
 * idle_ports.h - what ports and callbacks do that have nothing to do.
 *
 * Purpose: for benchmarks, in which little but the thing that is measured is real. They are named port_* and
 * not inlined so that a profiler can take them out (engines.h). Ownership: none. Threads: any. Units: bytes.
 * Errors: none.
 */
#ifndef HF_PERF_IDLE_PORTS_H
#define HF_PERF_IDLE_PORTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"

#define HF_IDLE __attribute__((noinline, unused)) static

/* hf_transport_events.message */
HF_IDLE void port_no_message(void *engine, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	(void)engine;
	(void)epoch;
	(void)type;
	(void)payload;
	(void)bytes;
}

/* hf_memory_ops.clear */
HF_IDLE void port_no_clear(void *self, void *landing, size_t bytes, bool dirty)
{
	(void)self;
	(void)landing;
	(void)bytes;
	(void)dirty;
}

/* hf_memory_ops.release */
HF_IDLE int port_no_release(void *self, struct hf_err *err)
{
	(void)self;
	(void)err;
	return 0;
}

#endif
