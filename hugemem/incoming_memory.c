/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The destination's memory port. create() decides the placement from what the regions are and what the kernel
 * offers; begin (incoming_begin.c) and prepare (incoming_prepare.c), run by the background worker, register
 * the VMM's memory, make the landings and start the fault reader; placer.c then makes pages visible.
 *
 *   placement   landing                      zero page                 needs
 *   continue    the page in the alias        the preallocated page     shared regions, MINOR_HUGETLBFS
 *   copy        a staging slot (huge page)   COPY of a page of zeros   nothing
 *
 * After ready() nothing in the object changes until it is destroyed, so the operations take no lock.
 *
 * What an agent that died has left is taken over by incoming_takeover.c instead of prepared; all else is the
 * same.
 *
 * stop() ends the threads and nothing else: what is missing stays missing and who waits goes on waiting. Only
 * release() ends the registration.
 */
#include "hugemem/incoming_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugemem/guarded.h"
#include "hugemem/hugepool.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/probe.h"
#include "hugemem/residency.h"
#include "hugemem/userfault.h"

#define STAGING_DEFAULT_BYTES (32ull << 20)
#define SLOTS_DEFAULT_MIN     2u
#define SLOTS_DEFAULT_MAX     16u
#define SLOTS_MAX	      4096u

/* ---- the port's operations ---- */

static void prepare_and_report(void *opaque)
{
	struct hf_incoming_memory *memory = opaque;
	struct hf_err err = HF_ERR_INIT;

	int result = hf_incoming_prepare(memory, &err);
	memory->config.ready(memory->engine, result, result ? &err : NULL);
}

static int op_prepare(void *self)
{
	struct hf_incoming_memory *memory = self;

	return hf_place_workers_submit(memory->workers, prepare_and_report, memory);
}

static void *op_landing(void *self, uint32_t block, uint64_t page, uint32_t slot)
{
	const struct hf_incoming_memory *memory = self;

	if (memory->placement == HF_PLACEMENT_CONTINUE)
		return memory->alias[block] + page * memory->blocks.blocks[block].page_size_bytes;
	return memory->staging + slot * memory->blocks.page_size_max_bytes;
}

static int op_place(void *self, uint32_t block, uint64_t page, uint32_t slot, struct hf_err *err)
{
	const struct hf_incoming_memory *memory = self;

	if (memory->placement == HF_PLACEMENT_CONTINUE)
		return hf_placer_continue(&memory->placer, block, page, err);
	return hf_placer_copy(&memory->placer, block, page, op_landing(self, block, page, slot), err);
}

static int op_place_zero(void *self, uint32_t block, uint64_t page, struct hf_err *err)
{
	const struct hf_incoming_memory *memory = self;

	if (memory->placement == HF_PLACEMENT_CONTINUE)
		return hf_placer_continue(&memory->placer, block, page, err);
	return hf_placer_copy(&memory->placer, block, page, memory->placer.zeros, err);
}

static int op_place_again(void *self, uint32_t block, uint64_t page, struct hf_err *err)
{
	const struct hf_incoming_memory *memory = self;

	return hf_placer_again(&memory->placer, block, page, err);
}

static int op_may_poison(void *self, struct hf_err *err)
{
	const struct hf_incoming_memory *memory = self;

	if (memory->poison || memory->taken_over.settled)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, EOPNOTSUPP,
			  "this kernel's userfaultfd cannot poison pages (POISON, Linux 6.6 or newer): the "
			  "pages can only be waited for");
}

static void note_poisoning(const struct hf_incoming_memory *memory, bool settled)
{
	if (memory->config.poisoning)
		memory->config.poisoning(memory->engine, settled);
}

/* The note stands before the first page is poisoned: from then on none may be placed that is not here. */
static int op_poison(void *self, uint32_t block, uint64_t page, struct hf_err *err)
{
	struct hf_incoming_memory *memory = self;

	if (memory->taken_over.settled)
		return 0; /* it is, and its range may not be registered any more */
	note_poisoning(memory, false);
	atomic_store(&memory->poisoned, true);
	return hf_placer_poison(&memory->placer, block, page, err);
}

static void op_clear(void *self, void *landing, size_t length_bytes, bool dirty)
{
	const struct hf_incoming_memory *memory = self;

	/* A landing that is gone cannot be placed either, and that is told with its page. */
	if (dirty || memory->placement == HF_PLACEMENT_COPY)
		hf_guarded_clear(landing, length_bytes);
}

static void op_kick(void *self, enum hf_work_class class)
{
	struct hf_incoming_memory *memory = self;

	hf_place_workers_kick(memory->workers, class);
}

static int unregister_block(const struct hf_incoming_memory *memory, uint32_t block, struct hf_err *err)
{
	const struct hf_attached_region *region = &memory->regions[block];
	int result =
	    hf_userfault_unregister(memory->placer.userfault_fd, region->vmm_address, region->length_bytes);

	if (result == 0)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, -result,
			  "block '%s': cannot end the userfaultfd registration: %s; has the VMM unmapped or "
			  "remapped its guest memory?",
			  region->idstr, strerror(-result));
}

static int op_release(void *self, struct hf_err *err)
{
	const struct hf_incoming_memory *memory = self;
	struct hf_err first = HF_ERR_INIT, later = HF_ERR_INIT;
	int result = 0;

	if (atomic_load(&memory->poisoned))
		note_poisoning(memory, true);
	/* A range that fails must not keep the waiters of the others. One that has ended before is no
	 * failure. */
	for (uint32_t block = 0; !memory->released && block < memory->blocks.count; block++) {
		int unregistered = unregister_block(memory, block, result ? &later : &first);
		if (result == 0)
			result = unregistered;
	}
	/*
	 * Tells the library to close its copy. Nothing depends on it: without ranges the descriptor raises no
	 * fault, and a VMM that is too busy to answer has all its pages all the same.
	 */
	hf_attach_client_release(memory->config.attach, &later);
	if (result && err)
		*err = first;
	return result;
}

const char *const hf_placement_names[] = {
    [HF_PLACEMENT_COPY] = "copy",
    [HF_PLACEMENT_CONTINUE] = "continue",
};

static int choose_placement(struct hf_incoming_memory *memory, bool minor, struct hf_err *err);
static int choose_slots(struct hf_incoming_memory *memory, struct hf_err *err);

/* Called before prepare(): nothing depends on the placement yet. */
static int op_choose(void *self, enum hf_placement placement, struct hf_memory *port, struct hf_err *err)
{
	struct hf_incoming_memory *memory = self;
	bool minor = memory->features & UFFD_FEATURE_MINOR_HUGETLBFS;

	if (memory->config.taken_over && placement == memory->placement)
		return 0;
	if (memory->config.taken_over)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "the source asks for placement %s, but this migration was begun with %s, which "
		    "cannot change any more",
		    hf_placement_names[placement], hf_placement_names[memory->placement]);
	if (memory->config.choice != HF_PLACEMENT_CHOICE_AUTO)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "the source asks for placement %s, but this side was told to take %s; leave it "
		    "to one of them",
		    hf_placement_names[placement], hf_placement_names[memory->placement]);
	memory->config.choice =
	    placement == HF_PLACEMENT_COPY ? HF_PLACEMENT_CHOICE_COPY : HF_PLACEMENT_CHOICE_CONTINUE;
	int result = choose_placement(memory, minor, err);
	if (result == 0)
		result = choose_slots(memory, err);
	if (result == 0)
		*port = hf_incoming_memory_port(memory);
	return result;
}

static const struct hf_memory_ops incoming_ops = {
    .choose = op_choose,
    .prepare = op_prepare,
    .landing = op_landing,
    .place = op_place,
    .place_zero = op_place_zero,
    .place_again = op_place_again,
    .may_poison = op_may_poison,
    .poison = op_poison,
    .clear = op_clear,
    .kick = op_kick,
    .release = op_release,
};

/* ---- creation ---- */

static int check_region(const struct hf_attached_region *region, const struct hf_ramblock *block,
			struct hf_err *err)
{
	struct stat file;
	uint64_t page_size_bytes = 0, end_bytes;

	if (strcmp(region->idstr, block->idstr) != 0 || region->length_bytes != block->length_bytes ||
	    region->page_size_bytes != block->page_size_bytes)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "block '%s' is not what the VMM lends as '%s': name, length or page size differ",
		    block->idstr, region->idstr);
	if (block->page_size_bytes <= (uint64_t)sysconf(_SC_PAGESIZE))
		return hf_err_set(err, HF_ERR_LOCAL, EMEDIUMTYPE,
				  "block '%s' has no huge pages; give the VM memory on hugetlbfs",
				  block->idstr);
	if (region->fd < 0)
		return 0;
	int result = hf_hugetlbfs_page_size(region->fd, &page_size_bytes, err);
	if (result) {
		hf_err_prefix(err, "block '%s'", block->idstr);
		return result;
	}
	if (fstat(region->fd, &file))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "block '%s': cannot look at its RAM file: %s",
				  block->idstr, strerror(errno));
	if (page_size_bytes != block->page_size_bytes || region->fd_offset_bytes % page_size_bytes ||
	    __builtin_add_overflow(region->fd_offset_bytes, region->length_bytes, &end_bytes) ||
	    end_bytes > (uint64_t)file.st_size)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "block '%s' does not fit its RAM file: offset, length or page size is wrong",
		    block->idstr);
	return 0;
}

static int check_regions(const struct hf_incoming_memory *memory, uint32_t regions, struct hf_err *err)
{
	int result = 0;

	if (regions != memory->blocks.count || regions == 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "the VMM lends %u memory regions, %u blocks were expected", regions,
				  memory->blocks.count);
	for (uint32_t block = 0; block < regions && result == 0; block++)
		result = check_region(&memory->regions[block], &memory->blocks.blocks[block], err);
	return result;
}

static const struct hf_attached_region *find_region(const struct hf_incoming_memory *memory, bool is_private)
{
	for (uint32_t block = 0; block < memory->blocks.count; block++)
		if ((memory->regions[block].fd < 0) == is_private)
			return &memory->regions[block];
	return NULL;
}

static int take_continue(struct hf_incoming_memory *memory, const char *why)
{
	memory->placement = HF_PLACEMENT_CONTINUE;
	snprintf(memory->reason, sizeof(memory->reason), "%s", why);
	return 0;
}

static int take_copy(struct hf_incoming_memory *memory, const char *why)
{
	memory->placement = HF_PLACEMENT_COPY;
	snprintf(memory->reason, sizeof(memory->reason), "%s", why);
	return 0;
}

/* One registration covers all regions, and CONTINUE is for shared ones: in private memory it costs a second
 * page. */
static int check_mixture(const struct hf_incoming_memory *memory, struct hf_err *err)
{
	const struct hf_attached_region *shared = find_region(memory, false);
	const struct hf_attached_region *private_region = find_region(memory, true);

	if (!shared || !private_region)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
			  "block '%.80s' is shared memory and block '%.80s' is private, which cannot be "
			  "received together; give the VM shared memory for both",
			  shared->idstr, private_region->idstr);
}

static int choose_placement(struct hf_incoming_memory *memory, bool minor, struct hf_err *err)
{
	const struct hf_attached_region *private_region = find_region(memory, true);
	bool asked = memory->config.choice == HF_PLACEMENT_CHOICE_CONTINUE;

	if (memory->config.choice == HF_PLACEMENT_CHOICE_COPY)
		return take_copy(memory, "copy was asked for");
	if (asked && private_region)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "placement continue needs shared memory, but block '%s' is private; use auto or "
		    "copy, or give the VM shared memory",
		    private_region->idstr);
	if (asked && !minor)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EOPNOTSUPP,
		    "placement continue needs a kernel that offers MINOR_HUGETLBFS (Linux 5.13); use "
		    "auto or copy");
	if (private_region) {
		char why[128];
		snprintf(why, sizeof(why), "block '%.80s' is private memory", private_region->idstr);
		return take_copy(memory, why);
	}
	if (!minor)
		return take_copy(memory, "this kernel does not offer MINOR_HUGETLBFS");
	return take_continue(memory,
			     asked ? "continue was asked for" : "shared hugetlbfs, MINOR_HUGETLBFS offered");
}

static int check_kernel(const struct hf_probe *probe, struct hf_err *err)
{
	if (!probe->userfaultfd)
		return hf_err_set(err, HF_ERR_LOCAL,
				  probe->userfaultfd_errno ? probe->userfaultfd_errno : EPERM,
				  "no userfaultfd to be had: %s; run as root or allow /dev/userfaultfd",
				  strerror(probe->userfaultfd_errno));
	if (!probe->kernel_faults)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EPERM,
		    "userfaultfd is restricted to user-mode faults, which KVM cannot use; run as root, "
		    "with CAP_SYS_PTRACE, or allow /dev/userfaultfd");
	if (!probe->missing_hugetlbfs || !probe->thread_id)
		return hf_err_set(err, HF_ERR_LOCAL, EOPNOTSUPP,
				  "this kernel's userfaultfd lacks %s; Linux 4.14 or newer is needed",
				  probe->thread_id ? "MISSING_HUGETLBFS" : "THREAD_ID");
	return 0;
}

static void choose_modes(struct hf_incoming_memory *memory, const struct hf_probe *probe)
{
	memory->modes = HF_USERFAULT_MISSING;
	memory->features = UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_THREAD_ID;
	if (probe->exact_address)
		memory->features |= UFFD_FEATURE_EXACT_ADDRESS;
	/* Offered is enough for the call; it is asked for only anew, since a registration of then may lack
	 * it. */
	memory->poison = probe->poison;
	if (probe->poison && !memory->config.taken_over)
		memory->features |= UFFD_FEATURE_POISON;
	if (!probe->minor_hugetlbfs)
		return;
	memory->features |= UFFD_FEATURE_MINOR_HUGETLBFS;
	if (find_region(memory, false)) {
		memory->modes |= HF_USERFAULT_MINOR;
		memory->placer.minor = true;
	}
}

static int choose_slots(struct hf_incoming_memory *memory, struct hf_err *err)
{
	uint64_t slots = memory->config.staging_slots;

	memory->slots = 0;
	if (memory->placement == HF_PLACEMENT_CONTINUE)
		return 0;
	if (slots > SLOTS_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%u staging slots are too many; at most %u",
				  memory->config.staging_slots, SLOTS_MAX);
	if (slots == 0) {
		slots = STAGING_DEFAULT_BYTES / memory->blocks.page_size_max_bytes;
		slots = slots < SLOTS_DEFAULT_MIN ? SLOTS_DEFAULT_MIN : slots;
		slots = slots > SLOTS_DEFAULT_MAX ? SLOTS_DEFAULT_MAX : slots;
	}
	memory->slots = (uint32_t)slots;
	return 0;
}

static int set_up(struct hf_incoming_memory *memory, const struct hf_incoming_memory_config *config,
		  struct hf_err *err)
{
	struct hf_probe probe = {0};
	uint32_t regions = 0;

	int result = hf_ramblocks_copy(&memory->blocks, config->blocks, err);
	if (result)
		return result;
	memory->config.blocks = &memory->blocks;
	memory->regions = hf_attach_client_regions(config->attach, &regions);
	result = check_regions(memory, regions, err);
	if (result == 0)
		result = hf_probe(&probe, err);
	if (result == 0)
		result = check_kernel(&probe, err);
	if (result == 0)
		result = check_mixture(memory, err);
	if (result == 0)
		result = hf_incoming_check_taken_over(memory, err);
	if (result == 0)
		result = choose_placement(memory, probe.minor_hugetlbfs, err);
	if (result)
		return result;
	if (config->taken_over)
		snprintf(memory->reason, sizeof(memory->reason), "the migration was begun with it");
	choose_modes(memory, &probe);
	memory->placer.blocks = &memory->blocks;
	memory->placer.regions = memory->regions;
	result = choose_slots(memory, err);
	if (result == 0)
		result = hf_vmm_pagemap_open(hf_attach_client_pid(config->attach), &memory->placer.pagemap_fd,
					     err);
	if (result == 0)
		result = hf_place_workers_create(&memory->workers, config->work, err);
	return result;
}

int hf_incoming_memory_create(struct hf_incoming_memory **out, const struct hf_incoming_memory_config *config,
			      struct hf_err *err)
{
	struct hf_incoming_memory *memory = calloc(1, sizeof(*memory));
	if (!memory)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	memory->config = *config;
	if (config->taken_over) {
		memory->taken_over = *config->taken_over;
		memory->config.taken_over = &memory->taken_over;
	}
	memory->placer.userfault_fd = -1;
	memory->placer.pagemap_fd = -1;
	atomic_init(&memory->stopping, false);
	atomic_init(&memory->poisoned, false);
	atomic_init(&memory->touched, config->taken_over != NULL);
	atomic_init(&memory->in_vain, false);
	atomic_init(&memory->allocation_over, false);
	atomic_init(&memory->allocated_bytes, 0);
	hf_ramblocks_init(&memory->blocks);
	int result = set_up(memory, config, err);
	if (result) {
		hf_incoming_memory_destroy(memory);
		return result;
	}
	*out = memory;
	return 0;
}

struct hf_memory hf_incoming_memory_port(struct hf_incoming_memory *memory)
{
	return (struct hf_memory){
	    .ops = &incoming_ops, .self = memory, .placement = memory->placement, .slots = memory->slots};
}

const char *hf_incoming_memory_reason(const struct hf_incoming_memory *memory)
{
	return memory->reason;
}

uint32_t hf_incoming_memory_landings(const struct hf_incoming_memory *memory,
				     struct hf_lent_range ranges[static HF_RAMBLOCKS_MAX])
{
	uint32_t count = 0;

	if (memory->staging)
		ranges[count++] = (struct hf_lent_range){memory->staging, memory->staging_bytes};
	for (uint32_t block = 0; memory->alias && block < memory->blocks.count; block++)
		if (memory->alias[block])
			ranges[count++] = (struct hf_lent_range){memory->alias[block],
								 memory->blocks.blocks[block].length_bytes};
	return count;
}

bool hf_incoming_memory_touched(const struct hf_incoming_memory *memory)
{
	return atomic_load(&memory->touched);
}

int hf_incoming_memory_start(struct hf_incoming_memory *memory, void *engine, struct hf_err *err)
{
	memory->engine = engine;
	return hf_place_workers_start(memory->workers, engine, err);
}

void hf_incoming_memory_stop(struct hf_incoming_memory *memory)
{
	atomic_store(&memory->stopping, true);
	if (memory->workers)
		hf_place_workers_stop(memory->workers);
	/* The background worker may have waited for the allocation, or started the reader, until it was
	 * joined above. */
	int result = 0;
	hf_incoming_await_allocation(memory, &result, NULL);
	hf_fault_reader_destroy(memory->reader);
	memory->reader = NULL;
}

void hf_incoming_memory_destroy(struct hf_incoming_memory *memory)
{
	if (!memory)
		return;
	hf_incoming_memory_stop(memory);
	hf_place_workers_destroy(memory->workers);
	hf_incoming_unprepare(memory);
	if (memory->placer.pagemap_fd >= 0)
		close(memory->placer.pagemap_fd);
	hf_ramblocks_destroy(&memory->blocks);
	free(memory);
}
