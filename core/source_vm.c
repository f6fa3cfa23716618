/* SPDX-License-Identifier: Apache-2.0 */
/* What the VMM reports: stopped, saved, frozen, resumed; and the state that leaves once it is saved. */
#include "core/source_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/wire.h"

unsigned hf_source_begin_stop(struct hf_source *s)
{
	hf_lock_assert_held(&s->lock);
	s->vm_stopping = true;
	s->vm_busy = true;
	s->stop_ns = hf_clock_now_ns(&s->clock);
	return ACTION_STOP | ACTION_NOTIFY;
}

/* Without the lock; the VM stands still and `serving` is not set, so nobody reads the map. */
int hf_source_read_presence(struct hf_source *s, struct hf_err *err)
{
	int result = 0;
	for (uint32_t i = 0; i < s->blocks.count && result == 0; i++) {
		const struct hf_ramblock *block = &s->blocks.blocks[i];
		size_t bytes = hf_pagemap_bytes(block->pages);
		uint8_t *bits = calloc(1, bytes);
		if (!bits)
			return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the presence map");
		result = hf_source_memory_presence(&s->memory, i, bits, bytes, err);
		if (result == 0)
			result = hf_pagemap_import(&s->present, block->first_page, block->pages, bits, bytes);
		free(bits);
	}
	return result;
}

/* The bits of one block, in frames of a bounded number of pages. */
static int send_presence_of(struct hf_source *s, uint64_t epoch, uint32_t index, uint8_t *buffer,
			    uint8_t *bits)
{
	const struct hf_ramblock *block = &s->blocks.blocks[index];
	for (uint32_t first = 0; first < block->pages;) {
		uint32_t pages = block->pages - first;
		if (pages > HF_WIRE_PRESENCE_PAGES_MAX)
			pages = HF_WIRE_PRESENCE_PAGES_MAX;

		hf_pagemap_export(&s->present, block->first_page + first, pages, bits);
		struct hf_wire_presence presence = {
		    .block = index,
		    .first_page = first,
		    .pages = pages,
		    .bits = bits,
		    .bits_bytes = hf_pagemap_bytes(pages),
		};
		ssize_t bytes = hf_wire_encode_presence(&presence, buffer, HF_WIRE_FRAME_MAX_BYTES);
		if (bytes < 0)
			return (int)bytes;
		hf_source_send_message(s, epoch, HF_WIRE_PRESENCE, buffer, (size_t)bytes);
		first += pages;
	}
	return 0;
}

static int send_presence(struct hf_source *s, uint64_t epoch)
{
	uint8_t *buffer = malloc(HF_WIRE_FRAME_MAX_BYTES);
	uint8_t *bits = malloc(hf_pagemap_bytes(HF_WIRE_PRESENCE_PAGES_MAX));
	int result = buffer && bits ? 0 : -ENOMEM;
	for (uint32_t i = 0; i < s->blocks.count && result == 0; i++)
		result = send_presence_of(s, epoch, i, buffer, bits);
	free(bits);
	free(buffer);
	return result;
}

/* ---- what loading will touch ------------------------------------------------------------------- */

/* Locked. A page once; what is no page of the VM's, or one too many, is left out: it is a hint. */
static void add_first(struct hf_source *s, uint32_t block, uint64_t page)
{
	hf_lock_assert_held(&s->lock);
	struct hf_wire_first *first = &s->first;
	if (page >= s->blocks.blocks[block].pages || first->count == HF_WIRE_FIRST_PAGES_MAX)
		return;
	for (uint32_t i = 0; i < first->count; i++)
		if (first->pages[i].block == block && first->pages[i].page == page)
			return;
	first->pages[first->count++] = (struct hf_wire_page){block, (uint32_t)page};
}

static void add_range(struct hf_source *s, const struct hf_vm_range *range)
{
	hf_lock_assert_held(&s->lock);
	uint32_t block = 0;
	while (block < s->blocks.count && strcmp(s->blocks.blocks[block].idstr, range->idstr) != 0)
		block++;
	if (block == s->blocks.count || range->length_bytes == 0)
		return;
	const struct hf_ramblock *found = &s->blocks.blocks[block];
	if (range->offset_bytes >= found->length_bytes ||
	    range->length_bytes > found->length_bytes - range->offset_bytes)
		return;
	uint64_t page = range->offset_bytes / found->page_size_bytes;
	uint64_t last = (range->offset_bytes + range->length_bytes - 1) / found->page_size_bytes;
	for (; page <= last && s->first.count < HF_WIRE_FIRST_PAGES_MAX; page++)
		add_first(s, block, page);
}

/* Before DEVICE_END, from which on pages may be asked for. */
static int send_first(struct hf_source *s, uint64_t epoch)
{
	if (!s->says_first || s->first.count == 0)
		return 0;
	uint8_t buffer[HF_WIRE_FIRST_MAX_BYTES];
	ssize_t bytes = hf_wire_encode_first(&s->first, buffer, sizeof(buffer));
	if (bytes < 0)
		return (int)bytes;
	hf_source_send_message(s, epoch, HF_WIRE_FIRST, buffer, (size_t)bytes);
	return 0;
}

/* ---- the state --------------------------------------------------------------------------------- */

static int send_device(struct hf_source *s, uint64_t epoch, const uint8_t *state, size_t total)
{
	for (size_t sent = 0; sent < total;) {
		size_t piece =
		    total - sent < HF_WIRE_FRAME_MAX_BYTES ? total - sent : HF_WIRE_FRAME_MAX_BYTES;
		hf_source_send_message(s, epoch, HF_WIRE_DEVICE, state + sent, piece);
		sent += piece;
	}
	struct hf_wire_device_end end = {.total_bytes = total};
	uint8_t buffer[64];
	ssize_t bytes = hf_wire_encode_device_end(&end, buffer, sizeof(buffer));
	if (bytes < 0)
		return (int)bytes;
	hf_lock(&s->lock);
	s->device_whole = true;
	hf_unlock(&s->lock);
	hf_source_send_message(s, epoch, HF_WIRE_DEVICE_END, buffer, (size_t)bytes);
	return 0;
}

/*
 * The VM stands still and its device state is whole. The map is read only now: saving a device may have
 * written memory. Pages may be asked for as soon as DEVICE_END is out, so serving begins before it is sent.
 */
static void switch_over(struct hf_source *s, const struct hf_vm_result *saved)
{
	struct hf_err err = HF_ERR_INIT;
	int result = hf_source_precopy_finish(s, &err);
	if (result == 0)
		result = hf_source_read_presence(s, &err);

	hf_lock(&s->lock);
	uint64_t epoch = s->epoch;
	bool go_on = s->status == HF_STATUS_ACTIVE;
	if (go_on && result == 0) {
		hf_source_move(s, HF_STATUS_DEVICE);
		s->pages_present = hf_pagemap_count(&s->present);
		s->device_state_bytes = saved->length_bytes;
		s->save_time_ns = hf_clock_now_ns(&s->clock) - s->saving_ns;
		atomic_store(&s->serving, true);
	}
	hf_source_unlock_act(s, ACTION_NOTIFY);
	if (!go_on)
		return;

	if (result == 0)
		result = hf_source_send_final(s, epoch);
	if (result == 0)
		result = send_presence(s, epoch);
	if (result == 0)
		result = send_first(s, epoch);
	if (result == 0)
		result = send_device(s, epoch, saved->data, saved->length_bytes);
	if (result < 0) {
		if (err.class == HF_ERR_NONE)
			hf_err_set(&err, HF_ERR_LOCAL, -result, "the device state could not be sent");
		hf_err_prefix(&err, "VM '%s'", s->vm_name);
		hf_source_fail(s, &err);
	}
}

/* Locked. An operation ended after the migration had failed, or the resume itself has ended. */
static unsigned vm_done_failed(struct hf_source *s, const struct hf_vm_result *result)
{
	hf_lock_assert_held(&s->lock);
	if (s->owner != HF_VM_OWNER_RESUMING)
		return 0;
	if (result->op != HF_VM_RESUME && s->vm_stopping)
		return ACTION_RESUME;
	bool left_alone = !s->vm_stopping;
	s->owner = left_alone || result->result == 0 ? HF_VM_OWNER_SOURCE : HF_VM_OWNER_STUCK;
	if (s->owner == HF_VM_OWNER_STUCK) {
		hf_err_prefix(&s->err, "the VM could NOT be resumed (%s) after",
			      result->err ? result->err->text : "no reason given");
	}
	return ACTION_NOTIFY;
}

static unsigned vm_done_well(struct hf_source *s, const struct hf_vm_result *result)
{
	hf_lock_assert_held(&s->lock);
	uint64_t now_ns = hf_clock_now_ns(&s->clock);
	if (result->op == HF_VM_STOP) {
		/* It stands still from then on. */
		s->stop_ns += result->ran_ns < now_ns - s->stop_ns ? result->ran_ns : now_ns - s->stop_ns;
		s->stop_time_ns = now_ns - s->stop_ns;
		s->saving_ns = now_ns;
		s->vm_busy = true;
		for (uint32_t i = 0; i < result->first_count; i++)
			add_range(s, &result->first[i]);
		return ACTION_SAVE;
	}
	return 0;
}

/* Locked. A VMM that was frozen is thawed when the VM stays here after all. */
static unsigned fence_done(struct hf_source *s, const struct hf_vm_result *result)
{
	hf_lock_assert_held(&s->lock);
	struct hf_err err;
	unsigned actions = 0;
	s->fence_time_ns = hf_clock_now_ns(&s->clock) - s->fence_ns;
	if (result->result < 0)
		hf_err_set(&err, HF_ERR_LOCAL, -result->result, "VM '%s': %s failed on the source: %s",
			   s->vm_name, hf_vm_op_name(result->op),
			   result->err ? result->err->text : "no reason given");
	hf_source_take_step(s, result->result < 0 ? HF_SOURCE_FENCE_FAILED : HF_SOURCE_FENCED, &err,
			    &actions);
	return actions;
}

void hf_source_vm_done(struct hf_source *s, const struct hf_vm_result *result)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&s->lock);
	unsigned actions;
	bool saved = false;
	s->vm_busy = false;
	/* A VM that somebody else had stopped is not this side's to run again. */
	if (result->op == HF_VM_STOP && result->result == -EPERM)
		s->vm_stopping = false;
	if (result->op == HF_VM_FENCE) {
		actions = fence_done(s, result);
	} else if (hf_status_is_final(s->status)) {
		actions = vm_done_failed(s, result);
	} else if (result->result < 0) {
		struct hf_err err;
		hf_err_set(&err, HF_ERR_LOCAL, -result->result, "VM '%s': %s failed on the source: %s",
			   s->vm_name, hf_vm_op_name(result->op),
			   result->err ? result->err->text : "no reason given");
		actions = hf_source_fail_locked(s, &err);
	} else {
		saved = result->op == HF_VM_SAVE;
		actions = vm_done_well(s, result);
	}
	hf_source_unlock_act(s, actions);
	if (saved)
		switch_over(s, result);
}
