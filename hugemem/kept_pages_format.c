/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 *     header | block, block, ... | padding | received bits | padding | present bits | padding
 *
 * The bitmaps start on pages of their own. Nothing in front of them changes once the file has its name, but
 * for the flags; a digest (FNV-1a, 64 bits) finds damage there. It is no protection from somebody who may
 * write to the directory: that is the administrator alone. Every field is checked as if it were hostile
 * nevertheless, because a wrong offset or count would have bits set in foreign memory and a wrong bit would
 * show a page of nothing. The layout follows from the blocks alone, so the offsets in the file must be the
 * ones computed anew.
 *
 * Damage in the bitmaps cannot be found (each byte changes by itself), but for bits behind the last page.
 */
#include "hugemem/kept_pages_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/pagemap.h"
#include "core/text.h"

#define KEPT_VERSION   1u
#define KEPT_ALIGNMENT UINT64_C(4096)
#define FNV_OFFSET     UINT64_C(0xcbf29ce484222325)
#define FNV_PRIME      UINT64_C(0x100000001b3)

static const uint8_t kept_magic[8] = {'H', 'F', 'K', 'E', 'P', 'T', '\r', '\n'};

static uint64_t digest_more(uint64_t digest, const void *bytes, size_t length)
{
	const uint8_t *at = bytes;

	for (size_t i = 0; i < length; i++)
		digest = (digest ^ at[i]) * FNV_PRIME;
	return digest;
}

/* ---- the file's name ---- */

static bool stays(char byte, bool first)
{
	return (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z') || (byte >= '0' && byte <= '9') ||
	       byte == '_' || byte == '-' || (byte == '.' && !first);
}

/* Room for "%%", 16 digits and NUL is always left. False: it did not all fit. */
static bool escape(const char *vm_name, char *name)
{
	const size_t limit = HF_KEPT_NAME_BYTES - 2 - 16 - 1;
	size_t used = 0;

	name[0] = '\0';
	for (size_t i = 0; vm_name[i]; i++) {
		bool plain = stays(vm_name[i], i == 0);
		if (used + (plain ? 1 : 3) > limit)
			return false;
		if (plain)
			snprintf(name + used, 2, "%c", vm_name[i]);
		else
			snprintf(name + used, 4, "%%%02X", (unsigned)(unsigned char)vm_name[i]);
		used += plain ? 1 : 3;
	}
	return true;
}

void hf_kept_name(const char *vm_name, char name[static HF_KEPT_NAME_BYTES])
{
	if (escape(vm_name, name))
		return;
	size_t used = strlen(name);
	uint64_t digest = digest_more(FNV_OFFSET, vm_name, strlen(vm_name));
	snprintf(name + used, HF_KEPT_NAME_BYTES - used, "%%%%%016llX", (unsigned long long)digest);
}

/* ---- the layout ---- */

static uint64_t aligned(uint64_t bytes)
{
	return (bytes + KEPT_ALIGNMENT - 1) & ~(KEPT_ALIGNMENT - 1);
}

static void lay_out(uint32_t block_count, uint32_t pages, struct hf_kept_header *layout)
{
	layout->bitmap_bytes = hf_pagemap_bytes(pages);
	layout->received_at = aligned(sizeof(*layout) + block_count * sizeof(struct hf_kept_block));
	layout->present_at = aligned(layout->received_at + layout->bitmap_bytes);
	layout->file_bytes = aligned(layout->present_at + layout->bitmap_bytes);
}

int hf_kept_file_bytes(const struct hf_kept_description *description, uint64_t *file_bytes,
		       struct hf_err *err)
{
	struct hf_kept_header layout = {0};
	const struct hf_ramblocks *blocks = description->blocks;
	size_t name_bytes = strlen(description->vm_name);

	if (name_bytes == 0 || name_bytes > HF_RAMBLOCK_IDSTR_MAX || blocks->count == 0 ||
	    description->chunk_bytes == 0 || description->vmm.pid <= 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "a VM without name, process, memory or chunks has no pages to keep");
	lay_out(blocks->count, blocks->pages_total, &layout);
	*file_bytes = layout.file_bytes;
	return 0;
}

static uint64_t digest_of(const struct hf_kept_header *header)
{
	const struct hf_kept_block *blocks = (const void *)(header + 1);
	uint64_t digest = digest_more(FNV_OFFSET, header, offsetof(struct hf_kept_header, flags));

	return digest_more(digest, blocks, header->block_count * sizeof(*blocks));
}

void hf_kept_fill(struct hf_kept_header *header, uint64_t file_bytes,
		  const struct hf_kept_description *description)
{
	const struct hf_ramblocks *from = description->blocks;
	struct hf_kept_block *blocks = (void *)(header + 1);

	memcpy(header->magic, kept_magic, sizeof(kept_magic));
	header->version = KEPT_VERSION;
	header->placement = description->placement;
	header->vmm_started_ticks = description->vmm.started_ticks;
	header->vmm_pid = description->vmm.pid;
	memcpy(header->vmm_boot_id, description->vmm.boot_id, sizeof(header->vmm_boot_id));
	memcpy(header->session, description->session, sizeof(header->session));
	memcpy(header->vm_name, description->vm_name, strlen(description->vm_name));
	header->chunk_bytes = description->chunk_bytes;
	header->pages = from->pages_total;
	header->block_count = from->count;
	lay_out(from->count, from->pages_total, header);
	header->file_bytes = file_bytes;
	for (uint32_t i = 0; i < from->count; i++) {
		memcpy(blocks[i].idstr, from->blocks[i].idstr, strlen(from->blocks[i].idstr));
		blocks[i].length_bytes = from->blocks[i].length_bytes;
		blocks[i].page_size_bytes = from->blocks[i].page_size_bytes;
	}
	header->digest = digest_of(header);
}

/* ---- checking ---- */

static int damaged(struct hf_err *err, const char *what)
{
	return hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "%s", what);
}

static bool is_name(const char *text, size_t bytes)
{
	size_t length = strnlen(text, bytes);

	return length > 0 && length < bytes && hf_text_is_printable((const uint8_t *)text, length);
}

/* As far as the digest can be computed. */
static int check_front(const struct hf_kept_header *header, uint64_t file_bytes, struct hf_err *err)
{
	if (file_bytes < sizeof(*header) || memcmp(header->magic, kept_magic, sizeof(kept_magic)) != 0)
		return damaged(err, "it is no file of kept pages");
	if (header->version != KEPT_VERSION)
		return damaged(err, "it was made by another version of this program");
	if (header->file_bytes != file_bytes)
		return damaged(err, "its length is not the one it was made with");
	if (header->block_count == 0 || header->block_count > HF_RAMBLOCKS_MAX ||
	    header->block_count > (file_bytes - sizeof(*header)) / sizeof(struct hf_kept_block))
		return damaged(err, "its number of memory blocks is impossible");
	if (header->digest != digest_of(header))
		return damaged(err, "its digest is wrong");
	return 0;
}

static int check_values(const struct hf_kept_header *header, const char *vm_name, struct hf_err *err)
{
	if (!is_name(header->vm_name, sizeof(header->vm_name)) || strcmp(header->vm_name, vm_name) != 0)
		return damaged(err, "it is of another VM");
	if (header->placement != HF_PLACEMENT_COPY && header->placement != HF_PLACEMENT_CONTINUE)
		return damaged(err, "its placement is none that is known");
	if (header->vmm_pid <= 0 || header->vmm_pid > INT32_MAX || header->chunk_bytes == 0 ||
	    header->vmm_boot_id[HF_BOOT_ID_BYTES - 1] != '\0')
		return damaged(err, "its process, boot or chunk is impossible");
	if (header->flags & ~HF_KEPT_FLAGS)
		return damaged(err, "it has flags that are not known");
	return 0;
}

static int read_blocks(const struct hf_kept_header *header, struct hf_ramblocks *blocks, struct hf_err *err)
{
	const struct hf_kept_block *from = (const void *)(header + 1);

	for (uint32_t i = 0; i < header->block_count; i++) {
		if (!is_name(from[i].idstr, sizeof(from[i].idstr)) ||
		    hf_ramblocks_add(blocks, from[i].idstr, from[i].length_bytes, from[i].page_size_bytes,
				     NULL))
			return damaged(err, "one of its memory blocks is impossible");
	}
	return 0;
}

static int check_layout(const struct hf_kept_header *header, const struct hf_ramblocks *blocks,
			struct hf_err *err)
{
	struct hf_kept_header layout = {0};

	lay_out(blocks->count, blocks->pages_total, &layout);
	if (header->pages != blocks->pages_total || header->file_bytes != layout.file_bytes ||
	    header->received_at != layout.received_at || header->present_at != layout.present_at ||
	    header->bitmap_bytes != layout.bitmap_bytes)
		return damaged(err, "its bitmaps do not fit its memory blocks");
	return 0;
}

static int check_padding(const struct hf_kept_header *header, uint64_t at, struct hf_err *err)
{
	const uint8_t *last = (const uint8_t *)header + at + header->bitmap_bytes - 1;

	if (header->pages % 8 != 0 && *last >> header->pages % 8 != 0)
		return damaged(err, "it has bits of pages that are none");
	return 0;
}

int hf_kept_check(const struct hf_kept_header *header, uint64_t file_bytes, const char *vm_name,
		  struct hf_ramblocks *blocks, struct hf_err *err)
{
	int result = check_front(header, file_bytes, err);

	if (result == 0)
		result = check_values(header, vm_name, err);
	if (result == 0)
		result = read_blocks(header, blocks, err);
	if (result == 0)
		result = check_layout(header, blocks, err);
	if (result == 0)
		result = check_padding(header, header->received_at, err);
	if (result == 0)
		result = check_padding(header, header->present_at, err);
	return result;
}
