/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kept_pages_internal.h - the bytes of a kept file. Internal to hugemem/.
 *
 * Purpose: kept_pages.c opens, locks and maps; kept_pages_format.c knows what is in the file and its name.
 * Ownership: everything points into the mapping, or is the caller's.
 * Threads: one at a time, but for `flags`. Units: bytes.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_HUGEMEM_KEPT_PAGES_INTERNAL_H
#define HF_HUGEMEM_KEPT_PAGES_INTERNAL_H

#include "hugemem/kept_pages.h"

#define HF_KEPT_NAME_BYTES 232 /* of a file, with its NUL: room for an ending in NAME_MAX */

/* In the byte order of the host: a kept file does not leave it. Reserved bytes are 0. */
struct hf_kept_block {
	char idstr[HF_RAMBLOCK_IDSTR_MAX + 1]; /* NUL-terminated, NUL to the end */
	uint64_t length_bytes;
	uint64_t page_size_bytes;
};

struct hf_kept_header {
	uint8_t magic[8];
	uint32_t version;
	uint32_t placement;
	uint64_t file_bytes;
	uint64_t received_at; /* offsets in the file */
	uint64_t present_at;
	uint64_t bitmap_bytes; /* of each */
	uint64_t vmm_started_ticks;
	int64_t vmm_pid;
	char vmm_boot_id[HF_BOOT_ID_BYTES];
	uint8_t session[HF_KEPT_SESSION_BYTES];
	char vm_name[HF_RAMBLOCK_IDSTR_MAX + 1]; /* as idstr */
	uint32_t chunk_bytes;
	uint32_t pages;
	uint32_t block_count;
	uint32_t flags;	 /* changes; not in the digest */
	uint64_t digest; /* of the rest of the header and of the blocks, which follow it */
};

#define HF_KEPT_PRESENCE_COMPLETE 1u
#define HF_KEPT_OTHER_PLACEMENT	  2u /* not the one in the header: the source's operator wished so */
#define HF_KEPT_POISONING	  4u /* pages without a bit may be poisoned: none is fetched any more */
#define HF_KEPT_SETTLED		  8u /* they are poisoned, all of them */
#define HF_KEPT_FLAGS		  15u

/*
 * The name of a VM's file: [A-Za-z0-9_-] and dots but the first stay, each other byte is %XX. A name too long
 * for that is cut and ends in %% and a digest of the whole, which no name without a cut can hold. Two VMs
 * whose digests are the same are told apart by the header.
 */
void hf_kept_name(const char *vm_name, char name[static HF_KEPT_NAME_BYTES]);

/* Length of the file; -EINVAL with text when the description is none. */
int hf_kept_file_bytes(const struct hf_kept_description *description, uint64_t *file_bytes,
		       struct hf_err *err);
/* Into a mapping of that length that is all zeros. */
void hf_kept_fill(struct hf_kept_header *header, uint64_t file_bytes,
		  const struct hf_kept_description *description);
/*
 * Is all of it as hf_kept_fill() makes it, and of this VM? Fills *blocks (initialised, empty). -EBADMSG with
 * what is wrong, as the end of a sentence.
 */
int hf_kept_check(const struct hf_kept_header *header, uint64_t file_bytes, const char *vm_name,
		  struct hf_ramblocks *blocks, struct hf_err *err);

#endif
