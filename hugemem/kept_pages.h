/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kept_pages.h - which pages were received, kept where a killed agent leaves it.
 *
 * Purpose: a small mapped file, one a VM: whose memory it is about, and two bitmaps (received, present) in
 * the layout of core/pagemap.h, for the engine to wrap (hf_pagemap_wrap). An agent that is killed leaves it
 * as it is; the next one opens it and goes on. The bits are set on the way of every page, so the directory
 * should be on a tmpfs, as /run is: on a disk's file system a store can wait for write-back, and a fault
 * with it, whether or not the pages are locked. hf_kept_pages_on_tmpfs() tells.
 *
 * Ownership: the object owns mapping and lock. close() leaves the file, remove() takes it away. Bitmaps,
 * description and tables stay valid until close().
 * Threads: the bitmaps as core/pagemap.h says; all else one at a time.
 * Units: bytes, pages.
 * Errors: 0 or -errno with text that names the file.
 */
#ifndef HF_HUGEMEM_KEPT_PAGES_H
#define HF_HUGEMEM_KEPT_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/err.h"
#include "core/memory.h"
#include "core/ramblock.h"
#include "core/table.h"
#include "hugemem/guest_memory.h"
#include "hugemem/vmm_identity.h"

#define HF_KEPT_SESSION_BYTES 16

struct hf_kept_pages;

/* Whose pages they are. Nothing of it changes while the file exists. */
struct hf_kept_description {
	const char *vm_name;			/* as the attach client has it: printable, 1 to 255 bytes */
	uint8_t session[HF_KEPT_SESSION_BYTES]; /* the engine's; not looked at here */
	struct hf_vmm_identity vmm;
	enum hf_placement placement;
	uint32_t chunk_bytes;
	const struct hf_ramblocks *blocks;
};

/*
 * A new file, all bits clear; complete or not there, whenever this is killed. The directory is made (0700) if
 * it is not there, its parent must be. Best before the source VM stops: what can fail fails here. -EEXIST:
 * there is one for this VM, which tells what was received and is never overwritten: open() it, and remove()
 * it if it is of another VMM. -EBUSY: another process makes one.
 */
int hf_kept_pages_create(struct hf_kept_pages **out, const char *directory,
			 const struct hf_kept_description *description, struct hf_err *err);
/*
 * The file of that VM. -ENOENT: there is none, as before most migrations. -EBUSY: another process has it
 * open, also after 5 s. -EBADMSG: it is damaged, not ours, or of another version; nothing of it may be used:
 * the text says why.
 */
int hf_kept_pages_open(struct hf_kept_pages **out, const char *directory, const char *vm_name,
		       struct hf_err *err);
/* Is it of this process, with these blocks in this order? -ESTALE: no, and the text says what differs. */
int hf_kept_pages_check_vmm(const struct hf_kept_pages *kept, const struct hf_vmm_identity *vmm,
			    const struct hf_ramblocks *blocks, struct hf_err *err);

/* vm_name and blocks are the object's. */
const struct hf_kept_description *hf_kept_pages_description(const struct hf_kept_pages *kept);
uint8_t *hf_kept_pages_received(struct hf_kept_pages *kept);
uint8_t *hf_kept_pages_present(struct hf_kept_pages *kept);
size_t hf_kept_pages_bitmap_bytes(const struct hf_kept_pages *kept); /* of each */
/* What hf_incoming_memory needs of it. */
struct hf_taken_over hf_kept_pages_taken_over(struct hf_kept_pages *kept);

/* Before anything of the VMM is touched: the source's operator wishes another placement. */
void hf_kept_pages_set_placement(struct hf_kept_pages *kept, enum hf_placement placement);
/* After the last present bit was set; everything before it is seen by whoever sees the flag. */
void hf_kept_pages_set_presence_complete(struct hf_kept_pages *kept);
bool hf_kept_pages_presence_complete(const struct hf_kept_pages *kept);

/*
 * Before the first page is poisoned; it stays: what is missing is poisoned, by whoever goes on. settled: the
 * last has been, and the registration may end.
 */
void hf_kept_pages_set_poisoning(struct hf_kept_pages *kept, bool settled);
bool hf_kept_pages_poisoning(const struct hf_kept_pages *kept);

/* The whole mapping, for hf_memory_lock(). */
void hf_kept_pages_tables(const struct hf_kept_pages *kept, struct hf_tables *tables);
bool hf_kept_pages_on_tmpfs(const struct hf_kept_pages *kept);
const char *hf_kept_pages_path(const struct hf_kept_pages *kept);

/* The file goes, the object stays usable until close(). Not there any more: 0. */
int hf_kept_pages_remove(struct hf_kept_pages *kept, struct hf_err *err);
void hf_kept_pages_close(struct hf_kept_pages *kept);

#endif
