/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dirty_tracking.h - which huge pages has a running VMM written since they were last asked for?
 *
 * Purpose: pre-copy's dirty log, kept from outside the VMM: the attach library registers guest memory for
 * asynchronous write protection, and each harvest asks the VMM's page tables and protects again what it
 * found. The VMM and its guest never wait for the agent; the first write to a page after a harvest costs them
 * one fault that the kernel resolves alone.
 *
 * What is found: writes through the VMM's own mapping, by whomever: the VMM's threads, KVM's vCPUs, the
 * kernel on its behalf, process_vm_writev() from another process; pages that came to exist; pages that the
 * VMM has let go of (discarded, punched out), once, since what is there now may be something else. What is
 * NOT found, so that a VM with such devices must not be pre-copied, or those pages fetched again after the VM
 * has stopped and drained:
 *   - DMA into pages that were pinned before the harvest: O_DIRECT I/O under way, VFIO;
 *   - writes through any other mapping of the RAM file: vhost-user back ends, other processes;
 *   - a page that is punched out and then read, not written, before the next harvest: it has become zeros
 * (balloon, free page reporting and virtio-mem punch so; a guest may not rely on the content of such a page).
 *
 * Ownership: the attach client outlives the tracking, and is asked for nothing else in between. Bitmaps are
 * the caller's. Threads: one at a time. start and stop block as the attach client does; harvest never waits
 * for the VMM. Units: pages of a block, from the block's first; a bitmap has one bit a page, least
 * significant first in each byte. Errors: 0 or -errno with text. A harvest that failed may have lost writes:
 * the tracking is over. Stop it, and take every page for dirty.
 */
#ifndef HF_HUGEMEM_DIRTY_TRACKING_H
#define HF_HUGEMEM_DIRTY_TRACKING_H

#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/ramblock.h"
#include "hugemem/attach_client.h"

struct hf_dirty_tracking;

struct hf_dirty_harvest {
	uint32_t pages; /* found by this harvest, also those whose bits were set before */
	uint32_t gone;	/* of these, pages that the VMM has not mapped: the source may hold a hole there */
};

/*
 * Each block is matched with the VMM's region of that idstr, of the same length and page size and shared.
 * From here on writes are tracked. What an agent before this one has tracked is forgotten. -EOPNOTSUPP: the
 * kernel is older than 6.7, or a region is private memory.
 */
int hf_dirty_tracking_start(struct hf_dirty_tracking **out, struct hf_attach_client *client,
			    const struct hf_ramblocks *blocks, struct hf_err *err);
/*
 * Sets the bits of the pages of a block that were written since the harvest before; the first one, of all
 * pages that exist. Clears none, so one bitmap may gather several harvests, and a set that was sent may be
 * kept apart from the next. A write that happens meanwhile is in this harvest or in the next one; in either
 * case reading the page *after* the harvest shows all writes that are not in a later one.
 *
 * Cost: two walks of the block's page table entries, O(pages): 0.2 us a page, 0.3 to 0.6 us one that was
 * written (measured, dirty_tracking.c). The first harvest also looks at the file's pages.
 */
int hf_dirty_tracking_harvest(struct hf_dirty_tracking *tracking, uint32_t block, uint8_t *bitmap,
			      size_t bitmap_bytes, struct hf_dirty_harvest *harvest, struct hf_err *err);
/*
 * Ends the registration, which lifts all protection. Frees, also when it fails: the VMM does not answer, and
 * keeps a registration that costs it one fault a page and that the next start or the VMM's end removes. NULL
 * is fine.
 */
int hf_dirty_tracking_stop(struct hf_dirty_tracking *tracking, struct hf_err *err);
/* Frees without a word to the VMM, which cannot answer: as a stop that failed. NULL is fine. */
void hf_dirty_tracking_abandon(struct hf_dirty_tracking *tracking);

#endif
