/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * What takes long of making memory ready is allocating it, 0.1 to 0.2 s a GiB, and no source is needed for
 * that. So begin() takes the steps of incoming_prepare.c up to the proof that nobody has a page, and a thread
 * allocates. prepare(), when a source has come, waits for that thread and goes on.
 *
 * begin() is refused, or fails: what it did is undone; prepare() does everything, and tells both sides.
 *
 * Allocating fails: prepare() tries again.
 *
 * A VMM's thread touches a page: it waits in the kernel, until the page is placed or all is given back.
 *
 * The source wishes for `copy`: the allocation is ended, and the pages are taken out of the files again.
 *
 * No source comes, or its migration ends before anything was placed: give_back() does the same, and ends the
 * registration. Whoever waited finds what a new file holds: zeros.
 *
 * This program is killed: the VMM's copy keeps the registration; the next one finds it (incoming_prepare.c)
 * and begins anew with empty files.
 *
 * Whether anything was placed is not remembered but looked up: the VMM has pages, or has none. A page that
 * it has is never taken out of its file here.
 *
 * A page that is taken out of its file loses its reservation, so the pool could run dry before it is wanted
 * again: a mapping, made and unmade, has the kernel reserve what lacks a reservation, or refuse.
 */
#include "hugemem/incoming_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>

#include "hugemem/hugepool.h"

/* ---- pages of nobody ---- */

static int reserve(const struct hf_attached_region *region, struct hf_err *err)
{
	void *address = mmap(NULL, region->length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, region->fd,
			     (off_t)region->fd_offset_bytes);
	if (address != MAP_FAILED) {
		munmap(address, region->length_bytes);
		return 0;
	}
	char size[HF_SIZE_TEXT_BYTES];
	return hf_err_set(err, HF_ERR_LOCAL, errno,
			  "block '%s': its huge pages of %s cannot be reserved again: %s", region->idstr,
			  hf_size_text(region->page_size_bytes, size), strerror(errno));
}

static int punch(const struct hf_attached_region *region, struct hf_err *err)
{
	if (!fallocate(region->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)region->fd_offset_bytes,
		       (off_t)region->length_bytes))
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, errno,
			  "block '%s': allocated pages cannot be taken out of its RAM file: %s",
			  region->idstr, strerror(errno));
}

static int punch_pages(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = hf_incoming_check_unmapped(memory, err);

	for (uint32_t block = 0; block < memory->blocks.count && result == 0; block++)
		if (memory->regions[block].fd >= 0)
			result = punch(&memory->regions[block], err);
	return result;
}

static int reserve_pages(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = 0;

	for (uint32_t block = 0; block < memory->blocks.count && result == 0; block++)
		if (memory->regions[block].fd >= 0)
			result = reserve(&memory->regions[block], err);
	return result;
}

int hf_incoming_discard_pages(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = punch_pages(memory, err);

	return result ? result : reserve_pages(memory, err);
}

/* ---- allocating ---- */

static void *allocate(void *opaque)
{
	struct hf_incoming_memory *memory = opaque;

	memory->allocation_result = hf_incoming_populate(memory, &memory->allocation_err);
	atomic_store(&memory->allocation_over, true);
	memory->allocation_ended(memory->allocation_opaque);
	return NULL;
}

static int start_allocating(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = -pthread_create(&memory->allocator, NULL, allocate, memory);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot start the allocating thread: %s",
				  strerror(-result));
	memory->allocating = true;
	pthread_setname_np(memory->allocator, "hf-allocate");
	return 0;
}

bool hf_incoming_await_allocation(struct hf_incoming_memory *memory, int *result, struct hf_err *err)
{
	if (!memory->allocating)
		return false;
	bool wanted = memory->landings == memory->placement;
	if (!wanted)
		atomic_store(&memory->in_vain, true);
	pthread_join(memory->allocator, NULL);
	memory->allocating = false;
	if (!wanted) {
		atomic_store(&memory->in_vain, false);
		return false;
	}
	if (memory->allocation_result != -ECANCELED)
		return memory->allocation_result == 0; // else it is tried again
	*result = memory->allocation_result;
	if (err)
		*err = memory->allocation_err;
	return false;
}

void hf_incoming_memory_progress(struct hf_incoming_memory *memory, struct hf_incoming_progress *progress)
{
	*progress = (struct hf_incoming_progress){.over = atomic_load(&memory->allocation_over)};
	if (memory->landings == HF_PLACEMENT_CONTINUE && memory->owns_pages) {
		progress->allocated_bytes = atomic_load(&memory->allocated_bytes);
		for (uint32_t block = 0; block < memory->blocks.count; block++)
			progress->total_bytes += memory->blocks.blocks[block].length_bytes;
	}
	if (!progress->over)
		return;
	progress->result = memory->allocation_result;
	progress->err = memory->allocation_err;
}

/* ---- there and back ---- */

int hf_incoming_memory_begin(struct hf_incoming_memory *memory, void (*ended)(void *opaque), void *opaque,
			     struct hf_err *err)
{
	memory->allocation_ended = ended;
	memory->allocation_opaque = opaque;
	int result = hf_incoming_guard(memory, err);
	if (result == 0)
		result = start_allocating(memory, err);
	/* What cannot be undone is told when a source comes: prepare() finds it. */
	if (result)
		hf_incoming_memory_give_back(memory, NULL);
	return result;
}

/* Pages go first: once nothing is registered, whoever waits would find those that were allocated. */
static int leave_vmm(struct hf_incoming_memory *memory, struct hf_err *err)
{
	struct hf_err reserve_err = HF_ERR_INIT;
	int reserved = 0;
	int result = memory->owns_pages ? punch_pages(memory, err) : hf_incoming_check_unmapped(memory, err);

	/* Pages that somebody else has taken are no reason to let threads wait for ever. */
	if (result == 0 && memory->owns_pages)
		reserved = reserve_pages(memory, &reserve_err);
	if (result == 0)
		result = hf_attach_client_release(memory->config.attach, err);
	if (result)
		return result;
	atomic_store(&memory->touched, false);
	if (reserved && err)
		*err = reserve_err;
	return reserved;
}

int hf_incoming_memory_give_back(struct hf_incoming_memory *memory, struct hf_err *err)
{
	if (memory->config.taken_over)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "memory that holds received pages is not given back");
	int result = atomic_load(&memory->touched) ? leave_vmm(memory, err) : 0;

	hf_incoming_unprepare(memory);
	memory->owns_pages = false;
	return result;
}
