/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The source's memory port: read-only mappings of the RAM files, made without reserving huge pages, since a
 * hole is never read.
 *
 * Presence. A page exists if the VMM has it mapped (its pagemap) or if the file's page cache holds it (VMMs
 * let go of pages they mapped before; other processes, such as vhost-user back ends, fill pages the VMM never
 * touched). Neither look allocates. The VMM's page tables are read first, because that costs least and the VM
 * stands still: as many pages as the file system counts are all. Else the page cache is asked page by page,
 * and the count is the check: finding fewer than it counts means a page with content would be taken for a
 * hole and reach the destination as zeros, so presence() then looks again (the VMM may have discarded pages
 * meanwhile) and fails in the end.
 *
 * Memory that is lent to a network adapter is all there: registering allocates holes. Which pages existed was
 * looked up before (`existed`), and a page the VMM has touched since is in its page tables: of such a page it
 * must not let go until it stands still, other than by giving it back to the host, which is how VMMs discard
 * huge pages.
 *
 * The RAM file must be the one the VMM has mapped shared: device and inode are compared with /proc/PID/smaps.
 * It may be mapped in pieces, at several offsets.
 */
#include "hugemem/guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugemem/guarded.h"
#include "hugemem/hugepool.h"
#include "hugemem/release_worker.h"
#include "hugemem/residency.h"

#define PRESENCE_LOOKS_MAX 4

/* Where the VMM has a part of the file. */
struct piece {
	uint64_t vmm_address;
	uint64_t offset_bytes;
	uint64_t length_bytes;
};

struct outgoing_block {
	int fd;
	uint8_t *address;
	uint64_t length_bytes;
	struct piece *pieces;
	size_t piece_count;
	bool tracks_writes; /* the VMM's mapping is registered for it */
	uint8_t *lent;	    /* the mapping for an adapter; NULL: never asked for */
	uint8_t *existed;   /* the pages of then; NULL: cannot be told from those allocated since */
};

struct hf_outgoing_memory {
	/* Set at creation, constant. */
	int pagemap_fd; /* of the VMM */
	pid_t vmm_pid;
	struct hf_ramblocks blocks;
	struct outgoing_block *block; /* one a block */
	uint32_t count;
	struct hf_release_worker *releaser; /* NULL: pages are not given back */
};

/* ---- the port's operations ---- */

static int unreadable(const struct hf_outgoing_memory *memory, uint32_t block, uint64_t offset_bytes,
		      struct hf_err *err)
{
	const struct hf_ramblock *ramblock = &memory->blocks.blocks[block];
	uint64_t page = offset_bytes / ramblock->page_size_bytes;
	char size[HF_SIZE_TEXT_BYTES];
	struct stat file;

	if (fstat(memory->block[block].fd, &file) == 0 && (uint64_t)file.st_size < ramblock->length_bytes)
		return hf_err_set(err, HF_ERR_LOCAL, EIO,
				  "block '%s' page %" PRIu64
				  " is gone: the VM's RAM file was cut to %s; see who did that",
				  ramblock->idstr, page, hf_size_text((uint64_t)file.st_size, size));
	return hf_err_set(err, HF_ERR_LOCAL, EIO,
			  "block '%s' page %" PRIu64
			  " cannot be read: a memory error of this host (see the kernel's log)",
			  ramblock->idstr, page);
}

static int op_chunk(void *self, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
		    const void **bytes, struct hf_err *err)
{
	const struct hf_outgoing_memory *memory = self;
	const uint8_t *address = memory->block[block].address + offset_bytes;
	bool zero = false;

	if (hf_guarded_is_zero(address, length_bytes, &zero))
		return unreadable(memory, block, offset_bytes, err);
	*bytes = zero ? NULL : address;
	return 0;
}

static void set_bit(uint8_t *bitmap, uint64_t page)
{
	bitmap[page / 8] |= (uint8_t)(1u << page % 8);
}

/* What a look at the VMM's page tables fills. */
struct mapped {
	uint8_t *bitmap;
	uint64_t page_size_bytes;
	uint64_t first_address; /* where the VMM has, or would have, the block's first page */
	uint64_t pages;		/* bits that were not set before */
};

static void add_mapped(void *opaque, uint64_t start, uint64_t end)
{
	struct mapped *mapped = opaque;

	for (; start < end; start += mapped->page_size_bytes) {
		uint64_t page = (start - mapped->first_address) / mapped->page_size_bytes;
		mapped->pages += !(mapped->bitmap[page / 8] >> page % 8 & 1);
		set_bit(mapped->bitmap, page);
	}
}

/* Sets the bits of pages the VMM has mapped. A VMM that has exited has none; its file is still there. */
static int find_mapped(const struct hf_outgoing_memory *memory, uint32_t block, uint8_t *bitmap,
		       uint64_t *pages)
{
	uint64_t page_size_bytes = memory->blocks.blocks[block].page_size_bytes;
	struct mapped mapped = {.bitmap = bitmap, .page_size_bytes = page_size_bytes};
	int result = 0;

	for (size_t i = 0; i < memory->block[block].piece_count && result == 0; i++) {
		const struct piece *piece = &memory->block[block].pieces[i];
		mapped.first_address = piece->vmm_address - piece->offset_bytes;
		result = hf_vmm_pages_mapped(memory->pagemap_fd, piece->vmm_address,
					     piece->vmm_address + piece->length_bytes, page_size_bytes,
					     add_mapped, &mapped);
	}
	*pages = mapped.pages;
	return result;
}

static void add_cached(const struct hf_file_pages *cached, uint32_t pages, uint8_t *bitmap)
{
	for (uint64_t page = 0; page < pages; page++)
		if (hf_file_page_present(cached, page))
			set_bit(bitmap, page);
}

/* Pages of the whole file that either look has found. */
static uint64_t count_found(const struct hf_file_pages *cached, uint32_t pages, const uint8_t *bitmap)
{
	uint64_t found = 0;

	for (uint64_t page = 0; page < cached->pages; page++)
		found += hf_file_page_present(cached, page) ||
			 (page < pages && (bitmap[page / 8] >> page % 8 & 1));
	return found;
}

/* The VMM has not mapped all the file holds: looks into the page cache too. -EAGAIN: that is still not all.
 */
static int look_at_file(const struct hf_outgoing_memory *memory, uint32_t block, uint8_t *bitmap,
			struct hf_err *err)
{
	const struct hf_ramblock *ramblock = &memory->blocks.blocks[block];
	struct hf_file_pages cached = {0};
	struct hf_err why = HF_ERR_INIT;
	uint64_t mapped = 0;

	/* The file first: its count must not include pages that come after the look at the VMM. */
	int result = hf_file_pages_scan(memory->block[block].fd, ramblock->page_size_bytes, &cached, &why);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "%s", why.text);
	result = find_mapped(memory, block, bitmap, &mapped);
	if (result)
		hf_err_set(err, HF_ERR_LOCAL, -result, "cannot read the VMM's pagemap: %s",
			   strerror(-result));
	else if (count_found(&cached, ramblock->pages, bitmap) < cached.accounted)
		result =
		    hf_err_set(err, HF_ERR_LOCAL, EAGAIN,
			       "its RAM file holds %" PRIu64 " pages, but only %" PRIu64
			       " can be found; migrating would lose the others, so it is refused (kernel "
			       "not supported, or RAM discarded while the VM was stopped)",
			       cached.accounted, count_found(&cached, ramblock->pages, bitmap));
	add_cached(&cached, ramblock->pages, bitmap);
	hf_file_pages_free(&cached);
	return result;
}

/*
 * The quick look: what the VMM has mapped are pages of the file, so as many of them as the file holds, before
 * and after the look, are all of them. 1: these are all; 0: there are others.
 */
static int look_at_vmm(const struct hf_outgoing_memory *memory, uint32_t block, uint8_t *bitmap)
{
	uint64_t page_size_bytes = memory->blocks.blocks[block].page_size_bytes;
	uint64_t before = 0, mapped = 0, after = 0;

	int result = hf_file_pages_accounted(memory->block[block].fd, page_size_bytes, &before);
	if (result == 0)
		result = find_mapped(memory, block, bitmap, &mapped);
	if (result == 0)
		result = hf_file_pages_accounted(memory->block[block].fd, page_size_bytes, &after);
	return result ? result : mapped == before && mapped == after;
}

/* -EAGAIN: fewer pages were found than the file holds. */
static int look(const struct hf_outgoing_memory *memory, uint32_t block, uint8_t *bitmap, struct hf_err *err)
{
	int result = look_at_vmm(memory, block, bitmap);

	if (result < 0)
		hf_err_set(err, HF_ERR_LOCAL, -result, "cannot read which pages the VMM has: %s",
			   strerror(-result));
	else
		result = result > 0 ? 0 : look_at_file(memory, block, bitmap, err);
	if (result)
		hf_err_prefix(err, "block '%s'", memory->blocks.blocks[block].idstr);
	return result;
}

static void count_mapped(void *opaque, uint64_t start, uint64_t end)
{
	*(uint64_t *)opaque += end - start;
}

/*
 * A page that was given back to the host while an adapter had it lives on for the adapter alone, which would
 * read what it was before. It has left this process's page tables, where registering had put every page.
 */
static int check_still_whole(const struct hf_outgoing_memory *memory, uint32_t block, struct hf_err *err)
{
	const struct hf_ramblock *ramblock = &memory->blocks.blocks[block];
	uint64_t start = (uintptr_t)memory->block[block].lent, mapped_bytes = 0;
	int pagemap_fd = -1;

	int result = hf_vmm_pagemap_open(getpid(), &pagemap_fd, err);
	if (result)
		return result;
	result = hf_vmm_pages_mapped(pagemap_fd, start, start + ramblock->length_bytes,
				     ramblock->page_size_bytes, count_mapped, &mapped_bytes);
	close(pagemap_fd);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result,
				  "block '%s': cannot read this program's pagemap: %s", ramblock->idstr,
				  strerror(-result));
	if (mapped_bytes == ramblock->length_bytes)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, ESTALE,
			  "block '%s': %" PRIu64
			  " pages were given back to the host after the network adapter had got them, which "
			  "would read what they were before; keep the balloon still (free page reporting, "
			  "virtio-mem), or use another transport",
			  ramblock->idstr,
			  (ramblock->length_bytes - mapped_bytes) / ramblock->page_size_bytes);
}

/* Of lent memory: what existed before, and what the VMM has mapped. */
static int look_since(const struct hf_outgoing_memory *memory, uint32_t block, uint8_t *bitmap,
		      struct hf_err *err)
{
	const struct hf_ramblock *ramblock = &memory->blocks.blocks[block];
	uint64_t mapped = 0;

	int result = find_mapped(memory, block, bitmap, &mapped);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result,
				  "block '%s': cannot read which pages the VMM has: %s", ramblock->idstr,
				  strerror(-result));
	for (size_t i = 0; i < ((size_t)ramblock->pages + 7) / 8; i++)
		bitmap[i] |= memory->block[block].existed[i];
	return 0;
}

static int op_presence(void *self, uint32_t block, uint8_t *bitmap, size_t bitmap_bytes, struct hf_err *err)
{
	const struct hf_outgoing_memory *memory = self;
	size_t needed_bytes = ((size_t)memory->blocks.blocks[block].pages + 7) / 8;
	struct hf_err why = HF_ERR_INIT;
	int result = -EAGAIN;

	if (bitmap_bytes != needed_bytes)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "block '%s': a presence bitmap has %zu bytes, not %zu",
				  memory->blocks.blocks[block].idstr, needed_bytes, bitmap_bytes);
	if (memory->block[block].lent) {
		result = check_still_whole(memory, block, err);
		if (result)
			return result;
		result = -EAGAIN;
	}
	uint8_t *found = malloc(needed_bytes);
	if (!found)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	for (int looks = 0; looks < PRESENCE_LOOKS_MAX && result == -EAGAIN; looks++) {
		memset(found, 0, needed_bytes);
		result = memory->block[block].existed ? look_since(memory, block, found, &why)
						      : look(memory, block, found, &why);
	}
	if (result == 0)
		memcpy(bitmap, found, needed_bytes);
	else if (err)
		*err = why;
	free(found);
	return result;
}

static int op_release(void *self, uint32_t block, uint64_t first_page, uint32_t pages, struct hf_err *err)
{
	const struct hf_outgoing_memory *memory = self;
	const struct hf_ramblock *ramblock = &memory->blocks.blocks[block];
	int result =
	    hf_release_worker_release(memory->releaser, block, first_page * ramblock->page_size_bytes,
				      pages * ramblock->page_size_bytes, err);
	if (result)
		hf_err_prefix(err, "block '%s' page %" PRIu64, ramblock->idstr, first_page);
	return result;
}

static void op_kick_release(void *self)
{
	const struct hf_outgoing_memory *memory = self;

	hf_release_worker_kick(memory->releaser);
}

static const struct hf_source_memory_ops outgoing_ops = {
    .chunk = op_chunk, .presence = op_presence, .release = op_release, .kick_release = op_kick_release};

/* ---- creation ---- */

static int open_and_lock(const struct hf_outgoing_region *region, int *fd, struct stat *file,
			 struct hf_err *err)
{
	if (!region->path)
		return hf_err_set(err, HF_ERR_LOCAL, ENOENT,
				  "block '%s' has no file behind it, so its pages cannot be read from "
				  "outside; give the VM memory-backend-file on hugetlbfs with share=on",
				  region->idstr);
	/* Non-blocking: a path that names a FIFO must not hang us. */
	int opened = open(region->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (opened < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "block '%s': cannot open its RAM file %s: %s",
				  region->idstr, region->path, strerror(errno));
	*fd = opened;
	if (fstat(opened, file) || !S_ISREG(file->st_mode))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "block '%s': %s is no regular file",
				  region->idstr, region->path);
	/* Two programs that move one VM would run it twice. The lock ends with this process, however it ends.
	 */
	if (flock(opened, LOCK_EX | LOCK_NB))
		return hf_err_set(
		    err, HF_ERR_LOCAL, EBUSY,
		    "block '%s': another program is moving this VM (it holds the lock of %s); wait "
		    "for it or end it",
		    region->idstr, region->path);
	return 0;
}

static int check_file(const struct hf_outgoing_region *region, int fd, const struct stat *file,
		      uint64_t *page_size_bytes, struct hf_err *err)
{
	uint64_t size = 0;
	char length[HF_SIZE_TEXT_BYTES], page[HF_SIZE_TEXT_BYTES], there[HF_SIZE_TEXT_BYTES];
	int result = hf_hugetlbfs_page_size(fd, &size, err);

	if (result) {
		hf_err_prefix(err, "block '%s', RAM file %s", region->idstr, region->path);
		return result;
	}
	if (region->length_bytes == 0 || region->length_bytes % size ||
	    region->length_bytes > (uint64_t)file->st_size)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "block '%s': its length of %s is not whole pages of %s within %s (%s)",
				  region->idstr, hf_size_text(region->length_bytes, length),
				  hf_size_text(size, page), region->path,
				  hf_size_text((uint64_t)file->st_size, there));
	*page_size_bytes = size;
	return 0;
}

static int append_piece(struct outgoing_block *block, const struct hf_vmm_mapping *mapping,
			uint64_t length_bytes)
{
	uint64_t mapped_bytes = mapping->end - mapping->start;

	if (mapping->offset_bytes >= length_bytes)
		return 0;
	if (mapped_bytes > length_bytes - mapping->offset_bytes)
		mapped_bytes = length_bytes - mapping->offset_bytes;
	void *grown = reallocarray(block->pieces, block->piece_count + 1, sizeof(*block->pieces));
	if (!grown)
		return -ENOMEM;
	block->pieces = grown;
	block->pieces[block->piece_count++] =
	    (struct piece){mapping->start, mapping->offset_bytes, mapped_bytes};
	return 0;
}

static int find_pieces(const struct hf_outgoing_region *region, const struct hf_vmm_mappings *mappings,
		       const struct stat *file, struct outgoing_block *block, struct hf_err *err)
{
	bool seen_private = false, seen_waiting = false;

	for (size_t i = 0; i < mappings->count; i++) {
		if (!hf_vmm_mapping_is_of(&mappings->list[i], file))
			continue;
		seen_private |= !mappings->list[i].shared;
		seen_waiting |= mappings->list[i].waits_for_pages;
		block->tracks_writes |= mappings->list[i].tracks_writes;
		if (mappings->list[i].shared && append_piece(block, &mappings->list[i], region->length_bytes))
			return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	}
	if (seen_private)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "block '%s': the VMM maps %s privately, so what the guest writes cannot be read "
		    "from the file; give the VM shared memory (share=on)",
		    region->idstr, region->path);
	if (seen_waiting)
		return hf_err_set(err, HF_ERR_LOCAL, EBUSY,
				  "block '%s': this VM is still being received: pages of %s are missing and "
				  "would arrive as "
				  "zeros; let the migration to this host complete first",
				  region->idstr, region->path);
	if (block->piece_count == 0)
		return hf_err_set(err, HF_ERR_LOCAL, ENOENT,
				  "block '%s': the VMM has not mapped %s; is it the RAM file of this VM?",
				  region->idstr, region->path);
	return 0;
}

static int map_file(const struct hf_outgoing_region *region, struct outgoing_block *block, struct hf_err *err)
{
	void *address = mmap(NULL, region->length_bytes, PROT_READ, MAP_SHARED | MAP_NORESERVE, block->fd, 0);

	if (address == MAP_FAILED)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "block '%s': cannot map %s: %s", region->idstr,
				  region->path, strerror(errno));
	block->address = address;
	block->length_bytes = region->length_bytes;
	madvise(address, region->length_bytes, MADV_DONTFORK);
	return 0;
}

static int add_block(struct hf_outgoing_memory *memory, const struct hf_outgoing_region *region,
		     const struct hf_vmm_mappings *mappings, struct outgoing_block *block, struct hf_err *err)
{
	struct stat file;
	uint64_t page_size_bytes = 0;

	int result = open_and_lock(region, &block->fd, &file, err);
	if (result == 0)
		result = check_file(region, block->fd, &file, &page_size_bytes, err);
	if (result == 0)
		result = find_pieces(region, mappings, &file, block, err);
	if (result == 0)
		result = hf_ramblocks_add(&memory->blocks, region->idstr, region->length_bytes,
					  page_size_bytes, err);
	if (result == 0)
		result = map_file(region, block, err);
	return result;
}

static int add_blocks(struct hf_outgoing_memory *memory, pid_t vmm_pid,
		      const struct hf_outgoing_region *regions, uint32_t count, struct hf_err *err)
{
	struct hf_vmm_mappings mappings = {0};

	if (count == 0 || count > HF_RAMBLOCKS_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%u RAM blocks; a VM has 1 to %d", count,
				  HF_RAMBLOCKS_MAX);
	memory->block = calloc(count, sizeof(*memory->block));
	if (!memory->block)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	memory->count = count;
	for (uint32_t block = 0; block < count; block++)
		memory->block[block].fd = -1;
	int result = hf_vmm_pagemap_open(vmm_pid, &memory->pagemap_fd, err);
	if (result == 0)
		result = hf_vmm_mappings_load(vmm_pid, &mappings, err);
	if (result)
		return result;
	for (uint32_t block = 0; block < count && result == 0; block++)
		result = add_block(memory, &regions[block], &mappings, &memory->block[block], err);
	hf_vmm_mappings_free(&mappings);
	return result;
}

int hf_outgoing_memory_create(struct hf_outgoing_memory **out, pid_t vmm_pid,
			      const struct hf_outgoing_region *regions, uint32_t count,
			      struct hf_ramblocks *blocks, struct hf_err *err)
{
	struct hf_outgoing_memory *memory = calloc(1, sizeof(*memory));
	if (!memory)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	memory->pagemap_fd = -1;
	memory->vmm_pid = vmm_pid;
	hf_ramblocks_init(&memory->blocks);
	int result = add_blocks(memory, vmm_pid, regions, count, err);
	if (result == 0)
		result = hf_ramblocks_copy(blocks, &memory->blocks, err);
	if (result) {
		hf_outgoing_memory_destroy(memory);
		return result;
	}
	*out = memory;
	return 0;
}

struct hf_source_memory hf_outgoing_memory_port(struct hf_outgoing_memory *memory)
{
	return (struct hf_source_memory){.ops = &outgoing_ops, .self = memory};
}

/* ---- giving pages back ---- */

/*
 * The place for every registration under which a punched hole is unsound. Write tracking
 * that somebody else lives on never shows a hole as written; a device that has the memory registered goes on
 * with the page that was there.
 */
static int check_releasable(const struct hf_outgoing_memory *memory, bool own_tracking, struct hf_err *err)
{
	for (uint32_t block = 0; block < memory->count; block++)
		if (memory->block[block].tracks_writes && !own_tracking)
			return hf_err_set(
			    err, HF_ERR_LOCAL, EBUSY,
			    "block '%s': the VMM's memory is registered for write tracking, which does not "
			    "see "
			    "pages that are given back; leave --release-ram out, or end the tracking",
			    memory->blocks.blocks[block].idstr);
	return 0;
}

int hf_outgoing_memory_allow_release(struct hf_outgoing_memory *memory, bool own_tracking,
				     int (*begin)(void *, struct hf_err *), void *opaque, struct hf_err *err)
{
	int result = check_releasable(memory, own_tracking, err);
	if (result == 0)
		result = hf_release_worker_create(&memory->releaser, begin, opaque, err);
	for (uint32_t block = 0; block < memory->count && result == 0; block++) {
		result = hf_release_worker_add(memory->releaser, memory->block[block].fd, err);
		if (result)
			hf_err_prefix(err, "block '%s'", memory->blocks.blocks[block].idstr);
	}
	return result;
}

int hf_outgoing_memory_start_release(struct hf_outgoing_memory *memory, bool (*work)(void *engine),
				     void *engine, struct hf_err *err)
{
	return hf_release_worker_start(memory->releaser, work, engine, err);
}

void hf_outgoing_memory_stop_release(struct hf_outgoing_memory *memory)
{
	if (memory)
		hf_release_worker_stop(memory->releaser);
}

/* ---- lending to an adapter ---- */

static int map_to_lend(const struct hf_outgoing_memory *memory, uint32_t block, uint8_t **mapping,
		       struct hf_err *err)
{
	uint64_t length_bytes = memory->block[block].length_bytes;
	int fd = hf_ram_file_reopen(memory->block[block].fd, err);
	if (fd < 0)
		return fd;
	/* Writable: older kernels register no other mapping. Nothing is reserved that the VMM has not. */
	void *address = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	int errnum = errno;
	close(fd);
	if (address == MAP_FAILED)
		return hf_err_set(err, HF_ERR_LOCAL, errnum, "cannot map its RAM file to lend it: %s",
				  strerror(errnum));
	madvise(address, length_bytes, MADV_DONTFORK);
	*mapping = address;
	return 0;
}

static int note_existing(struct hf_outgoing_memory *memory, uint32_t block, struct hf_err *err)
{
	const struct outgoing_block *of = &memory->block[block];
	size_t bytes = ((size_t)memory->blocks.blocks[block].pages + 7) / 8;
	struct stat file;

	if (fstat(of->fd, &file))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "its RAM file: %s", strerror(errno));
	int shared = hf_file_mapped_by_others(&file, memory->vmm_pid);
	if (shared < 0)
		return hf_err_set(err, HF_ERR_LOCAL, -shared, "cannot see who else maps its RAM file: %s",
				  strerror(-shared));
	if (shared)
		return 0;
	uint8_t *existed = calloc(1, bytes);
	if (!existed)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	int result = op_presence(memory, block, existed, bytes, err);
	if (result)
		free(existed);
	else
		memory->block[block].existed = existed;
	return result;
}

static int lend_block(struct hf_outgoing_memory *memory, uint32_t block, struct hf_err *err)
{
	struct outgoing_block *lent = &memory->block[block];
	uint8_t *mapping = NULL;

	if (lent->lent)
		return 0;
	int result = note_existing(memory, block, err);
	if (result == 0)
		result = map_to_lend(memory, block, &mapping, err);
	if (result)
		hf_err_prefix(err, "block '%s'", memory->blocks.blocks[block].idstr);
	else
		lent->lent = mapping;
	return result;
}

int hf_outgoing_memory_lend(struct hf_outgoing_memory *memory,
			    struct hf_lent_range ranges[static HF_RAMBLOCKS_MAX], struct hf_err *err)
{
	if (memory->releaser)
		return hf_err_set(err, HF_ERR_LOCAL, EBUSY,
				  "memory of which pages are given back cannot be lent to a network adapter, "
				  "which would go on with pages that are gone");
	for (uint32_t block = 0; block < memory->count; block++) {
		int result = lend_block(memory, block, err);
		if (result)
			return result;
		ranges[block] =
		    (struct hf_lent_range){memory->block[block].lent, memory->block[block].length_bytes};
	}
	return 0;
}

int hf_outgoing_memory_check_unshared(const struct hf_outgoing_memory *memory, struct hf_err *err)
{
	for (uint32_t block = 0; block < memory->count; block++) {
		int result = hf_file_check_unshared(memory->block[block].fd, memory->vmm_pid, err);
		if (result) {
			hf_err_prefix(err, "block '%s'", memory->blocks.blocks[block].idstr);
			return result;
		}
	}
	return 0;
}

static void free_block(struct outgoing_block *block)
{
	if (block->lent)
		munmap(block->lent, block->length_bytes);
	free(block->existed);
	if (block->address)
		munmap(block->address, block->length_bytes);
	if (block->fd >= 0)
		close(block->fd);
	free(block->pieces);
}

static int discard_block(const struct outgoing_block *block, struct hf_err *err)
{
	int fd = hf_ram_file_reopen(block->fd, err);
	if (fd < 0)
		return fd;
	int result = fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)block->length_bytes);
	int errnum = errno;
	close(fd);
	return result ? hf_err_set(err, HF_ERR_LOCAL, errnum, "its pages cannot be given back: %s",
				   strerror(errnum))
		      : 0;
}

int hf_outgoing_memory_discard(struct hf_outgoing_memory *memory, struct hf_err *err)
{
	int result = 0;
	for (uint32_t block = 0; block < memory->count && result == 0; block++) {
		result = discard_block(&memory->block[block], err);
		if (result)
			hf_err_prefix(err, "block '%s'", memory->blocks.blocks[block].idstr);
	}
	return result;
}

void hf_outgoing_memory_destroy(struct hf_outgoing_memory *memory)
{
	if (!memory)
		return;
	hf_release_worker_destroy(memory->releaser);
	for (uint32_t block = 0; block < memory->count; block++)
		free_block(&memory->block[block]);
	free(memory->block);
	if (memory->pagemap_fd >= 0)
		close(memory->pagemap_fd);
	hf_ramblocks_destroy(&memory->blocks);
	free(memory);
}
