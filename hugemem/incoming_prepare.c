/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Making the destination's memory ready, in this order:
 *
 * 1. Check that what the VMM has mapped is what it said, and that no page is there yet: a page that is there
 *    would never fault, and the guest would read what is in it.
 * 2. Take what can be missing on this host: the landings. continue: the alias is mapped, which reserves what
 *    the VMM has not. copy: staging slots. Up to here a refusal leaves the VMM as it was.
 * 3. Have the VMM's ranges registered. From here on nobody sees a page that was not placed.
 * 4. Check again: a page may have come in between. Only this second look is proof; the first one spares a
 *    VMM that is refused anyway the trouble of a registration.
 * 5. continue: allocate every page of the alias. Not before, because a page in the file that is not yet
 *    registered for minor faults would be visible half-filled.
 * 6. Start the fault reader. Faults of before wait in the kernel.
 *
 * All but the last can be done before there is a source (incoming_begin.c, which also has the way back); what
 * was not is done when it has come. A stop ends the allocation between two steps of 64 MiB (or one page, if
 * larger).
 *
 * An agent that was killed before anything was placed leaves a VMM whose ranges are registered and whose file
 * has pages that nobody has seen: allocated ones, and perhaps such that bytes had landed in. The registration
 * and the VMM's pagemap tell them from pages that somebody put there: what the VMM cannot reach, and has
 * none of, is nobody's. Such pages are taken out of the file before step 5, so what they held does not
 * matter. Who goes on with pages that were received has a record and comes by incoming_takeover.c.
 */
#include "hugemem/incoming_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugemem/attach_wire.h"
#include "hugemem/hugepool.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/numa.h"
#include "hugemem/residency.h"

#define POPULATE_STEP_BYTES (64ull << 20)

/* ---- is the memory what it was said to be, and fresh? ---- */

/* Pages of a file behind a private mapping are read without a fault. */
static int check_private_mapping(const struct hf_incoming_memory *memory,
				 const struct hf_attached_region *region,
				 const struct hf_vmm_mapping *mapping, struct hf_err *err)
{
	char path[96];
	struct stat file;

	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64,
		 (int)hf_attach_client_pid(memory->config.attach), mapping->start, mapping->end);
	if (stat(path, &file))
		return hf_err_set(
		    err, HF_ERR_LOCAL, errno,
		    "block '%s': cannot look at the file behind private memory (%s): %s; run as root "
		    "or with CAP_SYS_ADMIN",
		    region->idstr, path, strerror(errno));
	if (file.st_blocks == 0)
		return 0;
	return hf_err_set(
	    err, HF_ERR_LOCAL, EEXIST,
	    "block '%s' is a private mapping of a RAM file that already has pages; they would be "
	    "taken for guest memory: start the destination VMM with a new file",
	    region->idstr);
}

static int check_mapping(const struct hf_incoming_memory *memory, const struct hf_attached_region *region,
			 const struct hf_vmm_mapping *mapping, struct hf_err *err)
{
	struct stat file;
	char found[HF_SIZE_TEXT_BYTES], named[HF_SIZE_TEXT_BYTES];

	if (mapping->page_size_bytes != region->page_size_bytes)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "block '%s': what the VMM has mapped at 0x%" PRIx64
				  " has pages of %s, not of %s; give the VM memory on hugetlbfs",
				  region->idstr, mapping->start,
				  hf_size_text(mapping->page_size_bytes, found),
				  hf_size_text(region->page_size_bytes, named));
	if (region->fd < 0 && !mapping->shared)
		return check_private_mapping(memory, region, mapping, err);
	if (region->fd >= 0 && mapping->shared && fstat(region->fd, &file) == 0 &&
	    hf_vmm_mapping_is_of(mapping, &file) &&
	    mapping->offset_bytes - mapping->start == region->fd_offset_bytes - region->vmm_address)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
			  "block '%s': what the VMM has mapped at 0x%" PRIx64
			  " is not the %s it lends; restart the VMM",
			  region->idstr, mapping->start, region->fd < 0 ? "private memory" : "RAM file");
}

static int check_region_mappings(const struct hf_incoming_memory *memory,
				 const struct hf_attached_region *region,
				 const struct hf_vmm_mappings *mappings, struct hf_err *err)
{
	uint64_t covered = region->vmm_address, end = region->vmm_address + region->length_bytes;

	/* /proc/PID/smaps is sorted by address. */
	for (size_t i = 0; i < mappings->count && covered < end; i++) {
		const struct hf_vmm_mapping *mapping = &mappings->list[i];
		if (mapping->end <= covered)
			continue;
		if (mapping->start > covered)
			break;
		int result = check_mapping(memory, region, mapping, err);
		if (result)
			return result;
		covered = mapping->end;
	}
	if (covered >= end)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
			  "block '%s': the VMM has nothing mapped at 0x%" PRIx64
			  " where its guest memory should be; restart the VMM",
			  region->idstr, covered);
}

int hf_incoming_check_mappings(const struct hf_incoming_memory *memory, struct hf_err *err)
{
	struct hf_vmm_mappings mappings = {0};
	int result = hf_vmm_mappings_load(hf_attach_client_pid(memory->config.attach), &mappings, err);
	if (result)
		return result;
	for (uint32_t block = 0; block < memory->blocks.count && result == 0; block++)
		result = check_region_mappings(memory, &memory->regions[block], &mappings, err);
	hf_vmm_mappings_free(&mappings);
	return result;
}

static int stale(const struct hf_attached_region *region, uint64_t page, struct hf_err *err)
{
	return hf_err_set(
	    err, HF_ERR_LOCAL, EEXIST,
	    "block '%s': page %" PRIu64
	    " is already there; guest memory must be untouched before a migration comes in: start "
	    "the destination VMM with a new RAM file and without preallocation (prealloc=off)",
	    region->idstr, page);
}

static int check_file_fresh(const struct hf_attached_region *region, struct hf_err *err)
{
	struct hf_file_pages pages = {0};
	int result = hf_file_pages_scan(region->fd, region->page_size_bytes, &pages, err);
	if (result) {
		hf_err_prefix(err, "block '%s'", region->idstr);
		return result;
	}
	uint64_t first = region->fd_offset_bytes / region->page_size_bytes;
	uint64_t count = region->length_bytes / region->page_size_bytes;
	for (uint64_t page = 0; page < count && pages.present && result == 0; page++)
		if (hf_file_page_present(&pages, first + page))
			result = stale(region, page, err);
	if (result == 0 && pages.present < pages.accounted)
		result = hf_err_set(err, HF_ERR_LOCAL, EEXIST,
				    "block '%s': its RAM file already holds %" PRIu64
				    " pages; start the destination VMM with a new RAM file",
				    region->idstr, pages.accounted);
	hf_file_pages_free(&pages);
	return result;
}

/* The VMM has none of the region's pages. */
static int check_unmapped(const struct hf_incoming_memory *memory, const struct hf_attached_region *region,
			  struct hf_err *err)
{
	uint64_t count = region->length_bytes / region->page_size_bytes;

	for (uint64_t page = 0; page < count; page++) {
		int mapped = hf_vmm_page_mapped(memory->placer.pagemap_fd,
						region->vmm_address + page * region->page_size_bytes);
		if (mapped < 0)
			return hf_err_set(err, HF_ERR_LOCAL, -mapped,
					  "block '%s': cannot read the VMM's pagemap: %s; has it exited?",
					  region->idstr, strerror(-mapped));
		if (mapped)
			return stale(region, page, err);
	}
	return 0;
}

int hf_incoming_check_unmapped(const struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = 0;

	for (uint32_t block = 0; block < memory->blocks.count && result == 0; block++)
		result = check_unmapped(memory, &memory->regions[block], err);
	return result;
}

static int check_fresh(const struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = hf_incoming_check_mappings(memory, err);

	for (uint32_t block = 0; block < memory->blocks.count && result == 0; block++) {
		const struct hf_attached_region *region = &memory->regions[block];
		result = region->fd < 0 || memory->left_over ? check_unmapped(memory, region, err)
							     : check_file_fresh(region, err);
	}
	return result;
}

/* Has an agent before this one had the ranges registered? All, or none: else nothing is known of any. */
static int look_for_left_over(struct hf_incoming_memory *memory, struct hf_err *err)
{
	const struct hf_attached_region *unguarded;
	uint32_t guarded;

	int result = hf_incoming_count_guarded(memory, &guarded, &unguarded, err);
	if (result)
		return result;
	memory->left_over = guarded == memory->blocks.count;
	if (guarded == 0 || memory->left_over)
		return 0;
	return hf_err_set(
	    err, HF_ERR_LOCAL, EBUSY,
	    "block '%s' is not registered with a userfaultfd, but others of this VMM are: start the "
	    "destination VMM anew",
	    unguarded->idstr);
}

/* ---- registration ---- */

/* Where the VMM says no, nothing is registered; where it does not answer, who knows. */
static bool may_be_registered(int result)
{
	for (const struct hf_attach_error_class *known = hf_attach_error_classes; known->name; known++)
		if (result == -known->errnum)
			return false;
	return true;
}

int hf_incoming_register(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = hf_attach_client_userfault(memory->config.attach, memory->modes, memory->features,
						&memory->placer.userfault_fd, err);
	if (may_be_registered(result))
		atomic_store(&memory->touched, true);
	if (result)
		return result;
	int flags = fcntl(memory->placer.userfault_fd, F_GETFL);
	if (flags < 0 || fcntl(memory->placer.userfault_fd, F_SETFL, flags | O_NONBLOCK))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot make the userfaultfd non-blocking: %s",
				  strerror(errno));
	return 0;
}

/* ---- NUMA nodes ---- */

static struct hf_numa_policy policy_of(const struct hf_incoming_memory *memory, uint32_t block)
{
	return hf_numa_policy_of(hf_attach_client_pid(memory->config.attach),
				 memory->regions[block].vmm_address);
}

/* Pages of this size that blocks may take from these nodes only. */
static uint64_t pages_bound_within(const struct hf_incoming_memory *memory, uint64_t page_size_bytes,
				   uint64_t nodes)
{
	uint64_t pages = 0;

	for (uint32_t block = 0; block < memory->blocks.count; block++) {
		struct hf_numa_policy policy = policy_of(memory, block);
		if (policy.mode == HF_NUMA_BIND && (policy.nodes & ~nodes) == 0 &&
		    memory->blocks.blocks[block].page_size_bytes == page_size_bytes)
			pages += memory->blocks.blocks[block].pages;
	}
	return pages;
}

/*
 * The kernel reserves pages of the host. Whether those of a node suffice shows only when they are allocated:
 * late here, and too late for `copy`. Other VMs' reservations belong to no node, so this is a lower bound.
 */
static int check_nodes(const struct hf_incoming_memory *memory, uint32_t block, struct hf_err *err)
{
	const struct hf_ramblock *ramblock = &memory->blocks.blocks[block];
	struct hf_numa_policy policy = policy_of(memory, block);
	struct hf_hugepage_counts counts = {0};
	char size[HF_SIZE_TEXT_BYTES];

	if (policy.mode != HF_NUMA_BIND)
		return 0;
	int result = hf_hugepage_counts(ramblock->page_size_bytes, &counts, err);
	if (result)
		return result;
	uint64_t needed = pages_bound_within(memory, ramblock->page_size_bytes, policy.nodes);
	uint64_t there = hf_numa_free(&counts, policy.nodes);
	if (there >= needed)
		return 0;
	int node = __builtin_ctzll(policy.nodes);
	return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
			  "block '%s': the VMM binds it to NUMA node %d%s, where %" PRIu64
			  " huge pages of %s are missing (%" PRIu64 " needed, %" PRIu64
			  " free); add them in /sys/devices/system/node/node%d/hugepages/hugepages-%" PRIu64
			  "kB/nr_hugepages",
			  ramblock->idstr, node, policy.nodes & (policy.nodes - 1) ? " and others" : "",
			  needed - there, hf_size_text(ramblock->page_size_bytes, size), needed, there, node,
			  ramblock->page_size_bytes / 1024);
}

static int check_all_nodes(const struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = 0;

	for (uint32_t block = 0; block < memory->blocks.count && result == 0; block++)
		result = check_nodes(memory, block, err);
	return result;
}

/* ---- landings ---- */

/* The kernel reserves a mapping's pages as a whole or refuses the mapping. `pages`: of the refused ones. */
static int too_few_pages(const struct hf_ramblock *ramblock, uint64_t pages, struct hf_err *err)
{
	char size[HF_SIZE_TEXT_BYTES];

	if (hf_hugepages_require(ramblock->page_size_bytes, pages, err)) {
		hf_err_prefix(err, "block '%s': guest memory", ramblock->idstr);
		return -ENOMEM;
	}
	hf_size_text(ramblock->page_size_bytes, size);
	return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
			  "block '%s': %" PRIu64
			  " huge pages of %s cannot be reserved although the host has free "
			  "ones; look for a size limit of the hugetlbfs mount",
			  ramblock->idstr, pages, size);
}

static int map_alias(struct hf_incoming_memory *memory, uint32_t block, struct hf_err *err)
{
	const struct hf_attached_region *region = &memory->regions[block];

	/* The predecessor's reservations are the file's. What the VMM has discarded is not to be reserved
	 * again. */
	int reserve = memory->config.taken_over ? MAP_NORESERVE : 0;
	void *address = mmap(NULL, region->length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | reserve,
			     region->fd, (off_t)region->fd_offset_bytes);
	if (address == MAP_FAILED)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "block '%s': cannot map its RAM file: %s",
				  region->idstr, strerror(errno));
	memory->alias[block] = address;
	/* The alias allocates the pages: where the VMM wants them, not where this program happens to run. */
	struct hf_numa_policy policy = policy_of(memory, block);
	int applied = hf_numa_apply(&policy, address, region->length_bytes);
	if (applied)
		return hf_err_set(err, HF_ERR_LOCAL, -applied,
				  "block '%s': this program may not use the NUMA nodes the VMM binds it to: "
				  "%s; look at its cpuset",
				  region->idstr, strerror(-applied));
	if (madvise(address, region->length_bytes, MADV_DONTFORK))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "block '%s': MADV_DONTFORK: %s", region->idstr,
				  strerror(errno));
	return 0;
}

/* Goes on after a refused block, so that the error can say how many pages all blocks lack together. */
static int map_aliases(struct hf_incoming_memory *memory, struct hf_err *err)
{
	const struct hf_ramblock *refused = NULL;
	uint64_t refused_pages = 0;

	for (uint32_t block = 0; block < memory->blocks.count; block++) {
		const struct hf_ramblock *ramblock = &memory->blocks.blocks[block];
		int result = map_alias(memory, block, err);
		if (result && result != -ENOMEM)
			return result;
		if (result && !refused)
			refused = ramblock;
		if (result && refused->page_size_bytes == ramblock->page_size_bytes)
			refused_pages += ramblock->pages;
	}
	return refused ? too_few_pages(refused, refused_pages, err) : 0;
}

static int cannot_populate(const struct hf_incoming_memory *memory, uint32_t block, int errnum,
			   struct hf_err *err)
{
	const char *idstr = memory->blocks.blocks[block].idstr;

	if (memory->config.taken_over)
		return hf_err_set(err, HF_ERR_LOCAL, errnum,
				  "block '%s': pages that have yet to come cannot be allocated: %s; the VM "
				  "waits: free huge "
				  "pages of this size or add some, then start this program again",
				  idstr, strerror(errnum));
	return hf_err_set(err, HF_ERR_LOCAL, errnum,
			  "block '%s': the huge pages reserved for it cannot be allocated: %s; look "
			  "for a hugetlb cgroup limit or a NUMA binding, then start the "
			  "destination VMM anew",
			  idstr, strerror(errnum));
}

static int populate_run(struct hf_incoming_memory *memory, uint32_t block, uint64_t page, uint64_t pages,
			struct hf_err *err)
{
	const uint64_t page_size_bytes = memory->blocks.blocks[block].page_size_bytes;
	uint8_t *address = memory->alias[block] + page * page_size_bytes;
	uint64_t left_bytes = pages * page_size_bytes;
	uint64_t step_bytes = page_size_bytes < POPULATE_STEP_BYTES ? POPULATE_STEP_BYTES : page_size_bytes;

	while (left_bytes > 0) {
		if (step_bytes > left_bytes)
			step_bytes = left_bytes;
		if (atomic_load(&memory->stopping) || atomic_load(&memory->in_vain))
			return hf_err_set(err, HF_ERR_CANCELLED, ECANCELED,
					  "stopped while allocating guest memory");
		if (madvise(address, step_bytes, MADV_POPULATE_WRITE))
			return cannot_populate(memory, block, errno, err);
		address += step_bytes;
		left_bytes -= step_bytes;
		atomic_fetch_add(&memory->allocated_bytes, step_bytes);
	}
	return 0;
}

/* All pages that have yet to come. */
static int populate_alias(struct hf_incoming_memory *memory, uint32_t block, struct hf_err *err)
{
	const uint64_t pages = memory->blocks.blocks[block].pages;
	int result = 0;

	for (uint64_t first = 0; first < pages && result == 0;) {
		uint64_t end = first;
		while (end < pages && !hf_incoming_was_received(memory, block, end))
			end++;
		result = populate_run(memory, block, first, end - first, err);
		first = end + 1; /* behind the received page that ended the run */
	}
	return result;
}

static int make_alias(struct hf_incoming_memory *memory, struct hf_err *err)
{
	memory->alias = calloc(memory->blocks.count, sizeof(*memory->alias));
	if (!memory->alias)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	return map_aliases(memory, err);
}

int hf_incoming_populate(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = 0;

	for (uint32_t block = 0; memory->alias && block < memory->blocks.count && result == 0; block++)
		result = populate_alias(memory, block, err);
	return result;
}

static int make_staging(struct hf_incoming_memory *memory, struct hf_err *err)
{
	void *address = NULL;
	char size[HF_SIZE_TEXT_BYTES];

	int result = hf_hugepages_map(memory->blocks.page_size_max_bytes, memory->slots, &address, err);
	if (result) {
		hf_err_prefix(err, "placement copy needs %u huge pages of %s for staging", memory->slots,
			      hf_size_text(memory->blocks.page_size_max_bytes, size));
		return result;
	}
	memory->staging = address;
	memory->staging_bytes = memory->slots * memory->blocks.page_size_max_bytes;
	madvise(address, memory->staging_bytes, MADV_DONTFORK);
	return 0;
}

/*
 * Never written: reads as zeros and holds no memory but page tables. Populated, because a COPY whose source
 * faults makes the kernel allocate a second huge page for the time of the copy: seconds for 1 GiB, or ENOMEM.
 */
static int make_zeros(struct hf_incoming_memory *memory, struct hf_err *err)
{
	size_t length_bytes = memory->blocks.page_size_max_bytes;
	void *address =
	    mmap(NULL, length_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (address == MAP_FAILED)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot map a page of zeros: %s",
				  strerror(errno));
	memory->placer.zeros = address;
	memory->zeros_bytes = length_bytes;
	if (madvise(address, length_bytes, MADV_POPULATE_READ))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot populate a page of zeros: %s",
				  strerror(errno));
	return 0;
}

int hf_incoming_start_reader(struct hf_incoming_memory *memory, struct hf_err *err)
{
	struct hf_fault_reader_config config = {.userfault_fd = memory->placer.userfault_fd,
						.blocks = &memory->blocks,
						.regions = memory->regions,
						.clock = memory->config.clock,
						.fault = memory->config.fault,
						.failed = memory->config.failed,
						.engine = memory->engine};

	return hf_fault_reader_start(&memory->reader, &config, err);
}

static int make_landings(struct hf_incoming_memory *memory, struct hf_err *err)
{
	memory->landings = memory->placement;
	return memory->landings == HF_PLACEMENT_CONTINUE ? make_alias(memory, err)
							 : make_staging(memory, err);
}

/* What this host must have; the VMM is not touched. */
int hf_incoming_take_resources(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = make_zeros(memory, err);

	return result ? result : make_landings(memory, err);
}

int hf_incoming_prepare_program(const struct hf_incoming_memory *memory, struct hf_err *err)
{
	return memory->config.prepare_program ? memory->config.prepare_program(memory->engine, err) : 0;
}

/* Registered now: are these pages nobody's, and this program's to fill? */
static int own_pages(struct hf_incoming_memory *memory, struct hf_err *err)
{
	memory->left_over = hf_attach_client_resumed(memory->config.attach);
	int result = check_fresh(memory, err);
	if (result)
		return result;
	memory->owns_pages = true;
	if (!memory->left_over)
		return 0;
	result = hf_incoming_discard_pages(memory, err);
	return result ? result : check_all_nodes(memory, err);
}

int hf_incoming_guard(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = look_for_left_over(memory, err);

	if (result == 0)
		result = check_fresh(memory, err);
	/* What an agent before this one has allocated is not free yet. */
	if (result == 0 && !memory->left_over)
		result = check_all_nodes(memory, err);
	if (result == 0)
		result = hf_incoming_take_resources(memory, err);
	if (result == 0)
		result = hf_incoming_register(memory, err);
	if (result == 0)
		result = own_pages(memory, err);
	return result;
}

/* The source's operator has wished for `copy` since. (What was begun as `copy` had to be, and stays so.) */
static int leave_alias(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = hf_incoming_discard_pages(memory, err);

	hf_incoming_unmap_landings(memory);
	return result ? result : make_landings(memory, err);
}

int hf_incoming_prepare(struct hf_incoming_memory *memory, struct hf_err *err)
{
	if (memory->config.taken_over)
		return hf_incoming_take_over(memory, err);
	int result = hf_incoming_prepare_program(memory, err);
	bool allocated = result == 0 && hf_incoming_await_allocation(memory, &result, err);

	if (result == 0 && !memory->owns_pages)
		result = hf_incoming_guard(memory, err);
	else if (result == 0 && memory->landings != memory->placement)
		result = leave_alias(memory, err);
	if (result == 0 && !allocated)
		result = hf_incoming_populate(memory, err);
	if (result == 0)
		result = hf_incoming_start_reader(memory, err);
	return result;
}

void hf_incoming_unmap_landings(struct hf_incoming_memory *memory)
{
	for (uint32_t block = 0; memory->alias && block < memory->blocks.count; block++)
		if (memory->alias[block])
			munmap(memory->alias[block], memory->blocks.blocks[block].length_bytes);
	free(memory->alias);
	memory->alias = NULL;
	if (memory->staging)
		munmap(memory->staging, memory->staging_bytes);
	memory->staging = NULL;
}

void hf_incoming_unprepare(struct hf_incoming_memory *memory)
{
	hf_incoming_unmap_landings(memory);
	if (memory->zeros_bytes)
		munmap((void *)memory->placer.zeros, memory->zeros_bytes);
	memory->placer.zeros = NULL;
	memory->zeros_bytes = 0;
	if (memory->placer.userfault_fd >= 0)
		close(memory->placer.userfault_fd);
	memory->placer.userfault_fd = -1;
}
