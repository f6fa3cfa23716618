/* SPDX-License-Identifier: Apache-2.0 */
/*
 * numa.h - on which NUMA nodes a VMM wants its memory.
 *
 * Purpose: huge pages are reserved for a host, not for a node. Where the VMM binds a block to nodes, only
 * their pages count, and the pages the agent allocates for it must come from there.
 *
 * Ownership: plain structs.
 * Threads: any.
 * Units: pages of the named size; nodes are bits, node 0 the lowest.
 * Errors: 0 or -errno.
 */
#ifndef HF_HUGEMEM_NUMA_H
#define HF_HUGEMEM_NUMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "hugemem/hugepool.h"

enum hf_numa_mode {
	HF_NUMA_ANY = 0, /* none, or one that is no strict wish and needs no copying */
	HF_NUMA_PREFERRED = 1,
	HF_NUMA_BIND = 2, /* these values are the kernel's */
	HF_NUMA_INTERLEAVE = 3,
};

struct hf_numa_policy {
	enum hf_numa_mode mode;
	uint64_t nodes;
};

/* Of the mapping that holds the address, from the text of a /proc/PID/numa_maps. */
struct hf_numa_policy hf_numa_policy_in(FILE *numa_maps, uint64_t address);
/* A kernel without NUMA has no policies. */
struct hf_numa_policy hf_numa_policy_of(pid_t pid, uint64_t address);
/* Gives a mapping of this process the policy. */
int hf_numa_apply(const struct hf_numa_policy *policy, void *address, size_t length_bytes);
/* Free huge pages of these nodes. */
uint64_t hf_numa_free(const struct hf_hugepage_counts *counts, uint64_t nodes);

#endif
