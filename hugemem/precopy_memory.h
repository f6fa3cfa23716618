/* SPDX-License-Identifier: Apache-2.0 */
/*
 * precopy_memory.h - the source's memory port of a VM whose writes are tracked while it runs.
 *
 * Purpose: adds harvest() (core/memory.h) to another port of the same memory: what a VMM has written, asked
 * of its page tables over its attach socket (dirty_tracking.h, whose caveats hold here). Ownership: the port
 * below outlives the object. Threads: create and destroy block on the VMM, bounded; the port's operations as
 * in core/memory.h. Units: pages of a block. Errors: 0 or -errno with text.
 */
#ifndef HF_HUGEMEM_PRECOPY_MEMORY_H
#define HF_HUGEMEM_PRECOPY_MEMORY_H

#include <stdbool.h>
#include <sys/types.h>

#include "core/err.h"
#include "core/memory.h"
#include "core/ramblock.h"
#include "hugemem/attach_client.h"

struct hf_precopy_memory;

/*
 * vmm_pid: who has to be behind the attach socket. files: one a block, by which a VMM that does not name its
 * regions is understood. Tracks from here on.
 */
int hf_precopy_memory_create(struct hf_precopy_memory **out, const char *attach_path, pid_t vmm_pid,
			     const struct hf_ramblocks *blocks, const struct hf_block_file *files,
			     struct hf_source_memory below, struct hf_err *err);
struct hf_source_memory hf_precopy_memory_port(struct hf_precopy_memory *memory);
/*
 * The port below lends the memory to a network adapter (guest_memory.h). To be told before the link starts
 * that does; again is fine.
 */
int hf_precopy_memory_lent(struct hf_precopy_memory *memory, struct hf_err *err);
/*
 * answers: the VMM can be asked to end the tracking. One that is frozen or gone is not; if it ever runs again
 * it pays a fault that the kernel resolves for each page it writes, until somebody tracks it again or it
 * ends.
 */
void hf_precopy_memory_destroy(struct hf_precopy_memory *memory, bool answers);

#endif
