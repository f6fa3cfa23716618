/* SPDX-License-Identifier: Apache-2.0 */
/*
 * placer.h - makes pages visible to the VMM: the rules of COPY and CONTINUE. Internal to hugemem/.
 *
 * Purpose: one place for what each answer of the kernel means and what follows from it. Theory: placer.c.
 * Ownership: everything in struct hf_placer is borrowed; the struct has no destructor.
 * Threads: the struct is constant while in use; any number of threads, one at a time for one page.
 * Units: pages of the block's size.
 * Errors: 0 only if the page is visible; -EAGAIN: not now, try again; else the placement is impossible.
 */
#ifndef HF_HUGEMEM_PLACER_H
#define HF_HUGEMEM_PLACER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"
#include "core/ramblock.h"
#include "hugemem/attach_client.h"

struct hf_placer {
	int userfault_fd;
	int pagemap_fd; /* of the VMM */
	const struct hf_ramblocks *blocks;
	const struct hf_attached_region *regions; /* one a block */
	const void *zeros;			  /* as long as the largest page, populated */
	bool minor;				  /* shared regions are registered for minor faults */
};

/* `content`: one whole page that is in memory; a COPY whose source faults needs a second huge page. */
int hf_placer_copy(const struct hf_placer *placer, uint32_t block, uint64_t page, const void *content,
		   struct hf_err *err);
/* Shows the page that the file holds; zeros when the VMM has taken it out of the file. */
int hf_placer_continue(const struct hf_placer *placer, uint32_t block, uint64_t page, struct hf_err *err);
/*
 * Every access to the page is a memory error from here on, also after the registration has ended; who waits
 * gets it now, also when the page was poisoned before. -EEXIST, without text: the VMM has the page.
 */
int hf_placer_poison(const struct hf_placer *placer, uint32_t block, uint64_t page, struct hf_err *err);
/* A fault on a page that was placed before, by either way. */
int hf_placer_again(const struct hf_placer *placer, uint32_t block, uint64_t page, struct hf_err *err);

#endif
