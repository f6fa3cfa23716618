/* SPDX-License-Identifier: Apache-2.0 */
/*
 * postcopy.h - a migration in postcopy whose guest is told what to touch.
 *
 * Purpose: what moving.h moves, into real memory: huge pages, userfaultfd through the attach library, a
 * placement, and vCPUs on /dev/kvm (toucher.h). All of the destination is what runs in a migration; the
 * source's VM is missing, its pages are a window of ordinary memory. It stands where pages are fetched, and
 * the background is held.
 *
 * Ownership: hf_postcopy_start() / hf_postcopy_stop(), which gives huge pages back to the host that were
 * taken from it. Every touch has been waited for before the stop. Threads: one. Units: pages of 2 MiB.
 * Errors: 0 or -errno with a line.
 */
#ifndef HF_PERF_POSTCOPY_H
#define HF_PERF_POSTCOPY_H

#include <sched.h>
#include <stdint.h>

#include "core/err.h"
#include "hugemem/guest_memory.h"
#include "perf/moving.h"
#include "perf/toucher.h"

#define HF_POSTCOPY_PAGE_BYTES (2ull << 20)

struct hf_postcopy;

struct hf_postcopy_config {
	const char *uri; /* to listen on */
	uint32_t pages, vcpus, channels;
	uint32_t chunk_bytes, background_share_percent; /* 0 = default */
	enum hf_placement_choice choice;
	cpu_set_t cpus; /* that both sides may have, each its half; the caller may be on one already */
};

int hf_postcopy_start(struct hf_postcopy **out, const struct hf_postcopy_config *config, struct hf_err *err);
void hf_postcopy_stop(struct hf_postcopy *postcopy);

struct hf_moving *hf_postcopy_moving(struct hf_postcopy *postcopy);
struct hf_toucher *hf_postcopy_toucher(struct hf_postcopy *postcopy);

#endif
