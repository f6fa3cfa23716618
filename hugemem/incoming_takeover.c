/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * An agent died while pages were still to come. The VMM's copy of the userfaultfd keeps those missing; the
 * received bits say which they are. The next agent goes on, in this order:
 *
 * 1. At creation: is it the same process? Notes about another VMM say nothing about this one.
 * 2. The VMM's mappings are what it lends, and each still waits for missing pages (/proc/PID/smaps). Where
 *    one does not, its holes have read as zeros since nobody knows when. This is looked up before anything
 *    is asked, because the question for a userfaultfd would register memory that has no registration.
 * 3. Landings. The alias is mapped, not touched.
 * 4. The userfaultfd, in the same modes. The library waits until the predecessor's process has ended,
 *    answers with the registration that stands, and wakes everybody: threads whose faults were read and
 *    never answered fault again. If it has made a new registration after all, it had none, and is told to
 *    end that one. A VMM that is frozen is not asked: attach_client_adopt.c had the same beforehand.
 * 5. continue: the pages without a received bit are allocated, where the file lacks them, and mapped.
 * 6. The fault reader.
 *
 * What the predecessor can have left of one page, what the VMM sees of it, and what becomes of it:
 *
 *   continue                        bit   the VMM
 *   nothing, or part of the bytes   no    waits             fetched from the start; clear() knows it is dirty
 *   the whole content               no    waits             the same
 *   died between bit and CONTINUE   yes   waits (MINOR)     place_again() shows it
 *   died after CONTINUE             yes   has it            nothing
 *   discarded by the VMM since      yes   waits (MISSING)   place_again() gives zeros
 *
 *   copy
 *   part of the bytes, in staging   no    waits             fetched from the start; staging is new
 *   died between COPY and bit       no    has it, and may   fetched; COPY says EEXIST, the pagemap that the
 *                                         have written      page is there: it is kept, waiters are woken
 *   died after the bit              yes   has it            nothing
 *   discarded by the VMM since      yes   waits             place_again() gives zeros
 *
 * Why received pages are not populated: the guest has them, so nothing lands there again; and one that the
 * VMM has discarded would come back into the file, a page of zeros that takes a huge page of the host which
 * the VMM has given back and for which none may be left. Populating a page that the file holds changes
 * nothing in it. A page without a bit that the VMM has discarded is allocated again and gets the source's
 * content, as it would have without a death between the two.
 *
 * Killed while it poisoned: pages without a bit are poisoned or not, and none is fetched any more. They are
 * poisoned again (placer.c), holes become zeros, and nothing is populated.
 *
 * Killed in release(): every page has its bit, and some ranges wait no more, or none. Then what is missing
 * was discarded and reads as zeros rightly. With some left, the registration is taken over as ever; with
 * none, there is nothing to serve and only release()'s farewell to the library is left.
 */
#include "hugemem/incoming_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>

#include "hugemem/residency.h"

/* ---- whose pages are they? ---- */

bool hf_incoming_was_received(const struct hf_incoming_memory *memory, uint32_t block, uint64_t page)
{
	uint64_t at = memory->blocks.blocks[block].first_page + page;

	return memory->config.taken_over && memory->taken_over.received[at / 8] & 1u << at % 8;
}

static bool all_received(const struct hf_incoming_memory *memory)
{
	for (uint32_t block = 0; block < memory->blocks.count; block++)
		for (uint64_t page = 0; page < memory->blocks.blocks[block].pages; page++)
			if (!hf_incoming_was_received(memory, block, page))
				return false;
	return true;
}

static int check_choice(struct hf_incoming_memory *memory, struct hf_err *err)
{
	const enum hf_placement_choice stored = memory->taken_over.placement == HF_PLACEMENT_COPY
						    ? HF_PLACEMENT_CHOICE_COPY
						    : HF_PLACEMENT_CHOICE_CONTINUE;

	if (memory->config.choice != HF_PLACEMENT_CHOICE_AUTO && memory->config.choice != stored)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "this migration was begun with placement %s, which cannot change any more; "
				  "ask for that one or for auto",
				  hf_placement_names[memory->taken_over.placement]);
	memory->config.choice = stored;
	return 0;
}

int hf_incoming_check_taken_over(struct hf_incoming_memory *memory, struct hf_err *err)
{
	const pid_t pid = hf_attach_client_pid(memory->config.attach);
	struct hf_vmm_identity now;

	if (!memory->config.taken_over)
		return 0;
	int result = hf_vmm_identity_of(pid, &now, err);
	if (result)
		return result;
	if (!hf_vmm_identity_equal(&now, &memory->taken_over.vmm))
		return hf_err_set(
		    err, HF_ERR_LOCAL, ESTALE,
		    "the VMM (process %d) is not the one the migration began with (process %d): "
		    "it was started again and has none of the pages received before; the "
		    "migration cannot go on, and this VM must not be run",
		    (int)pid, (int)memory->taken_over.vmm.pid);
	return check_choice(memory, err);
}

/* ---- is what is missing still guarded? ---- */

/* Does each mapping of the region wait for missing pages? The mappings have been checked. */
static bool is_guarded(const struct hf_attached_region *region, const struct hf_vmm_mappings *mappings)
{
	for (size_t i = 0; i < mappings->count; i++) {
		const struct hf_vmm_mapping *mapping = &mappings->list[i];
		if (mapping->end > region->vmm_address &&
		    mapping->start < region->vmm_address + region->length_bytes && !mapping->waits_for_pages)
			return false;
	}
	return true;
}

int hf_incoming_count_guarded(const struct hf_incoming_memory *memory, uint32_t *guarded,
			      const struct hf_attached_region **unguarded, struct hf_err *err)
{
	struct hf_vmm_mappings mappings = {0};

	*guarded = 0;
	*unguarded = NULL;
	int result = hf_vmm_mappings_load(hf_attach_client_pid(memory->config.attach), &mappings, err);
	if (result)
		return result;
	for (uint32_t block = 0; block < memory->blocks.count; block++)
		if (is_guarded(&memory->regions[block], &mappings))
			(*guarded)++;
		else if (!*unguarded)
			*unguarded = &memory->regions[block];
	hf_vmm_mappings_free(&mappings);
	return 0;
}

static int check_guarded(struct hf_incoming_memory *memory, struct hf_err *err)
{
	const struct hf_attached_region *unguarded;
	uint32_t guarded;

	int result = hf_incoming_count_guarded(memory, &guarded, &unguarded, err);
	if (result || !unguarded)
		return result;
	if (memory->taken_over.settled || all_received(memory)) {
		memory->released = guarded == 0;
		return 0;
	}
	return hf_err_set(
	    err, HF_ERR_LOCAL, ESTALE,
	    "block '%s': the VMM does not wait for missing pages any more (the userfaultfd "
	    "registration has ended) although some have yet to come; they may have been read as "
	    "zeros: the migration cannot go on, and this VM must not be run",
	    unguarded->idstr);
}

/* ---- the registration of then ---- */

static int register_again(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = hf_incoming_register(memory, err);
	if (result || hf_attach_client_resumed(memory->config.attach))
		return result;
	/* The library replaces no registration that guards pages, so there was none; there is none again. */
	hf_attach_client_release(memory->config.attach, NULL);
	return hf_err_set(err, HF_ERR_LOCAL, ESTALE,
			  "the VMM has ended the userfaultfd registration of then, or its memory is another; "
			  "pages that have "
			  "yet to come may have been read as zeros: the migration cannot go on, and this VM "
			  "must not be run");
}

int hf_incoming_take_over(struct hf_incoming_memory *memory, struct hf_err *err)
{
	int result = hf_incoming_check_mappings(memory, err);

	if (result == 0)
		result = check_guarded(memory, err);
	if (result || memory->released)
		return result;
	result = hf_incoming_prepare_program(memory, err);
	/* No look at the nodes: most of the pages are here, and the others are reserved. */
	if (result == 0)
		result = hf_incoming_take_resources(memory, err);
	if (result == 0)
		result = register_again(memory, err);
	if (result == 0 && !memory->taken_over.poisoning)
		result = hf_incoming_populate(memory, err);
	if (result == 0)
		result = hf_incoming_start_reader(memory, err);
	return result;
}
