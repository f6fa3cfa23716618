/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake memory ports and the threads of the destination VMM. The rules of real memory that matter are
 * kept: a page is visible or not; a thread that touches a page that is not visible sleeps until the page is
 * placed, and a message about it is read some time later; a placement wakes every sleeper of the page; the
 * VMM may discard a page behind everybody's back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/destination_internal.h"
#include "core/lock.h"
#include "core/zero.h"
#include "tests/sim/sim.h"

#define TAKE_OVER_NS 300000u

uint32_t sim_page_of(const struct sim *sim, uint32_t destination_block, uint64_t page)
{
	return sim->destination_blocks.blocks[destination_block].first_page + (uint32_t)page;
}

static uint8_t *guest_view(struct sim *sim, uint32_t page)
{
	uint8_t *memory = sim->plan.placement == HF_PLACEMENT_CONTINUE ? sim->alias : sim->guest;
	return memory + sim->pages[page].base;
}

/* Compares what the guest sees with what it must see. */
static void check_range(struct sim *sim, uint32_t page, size_t start, size_t end, const char *when)
{
	const struct sim_page *p = &sim->pages[page];
	const uint8_t *seen = guest_view(sim, page);
	bool zeros = p->discarded || p->hole;
	const uint8_t *expected = zeros ? sim->zeros : sim->source_memory + p->base;
	if (p->guest_word && start == 0) {
		start = sizeof(p->guest_word);
		SIM_CHECK(sim, memcmp(seen, &p->guest_word, start) == 0, "%s: page %u lost a guest's write",
			  when, page);
	}
	if (memcmp(seen + start, expected + start, end - start) == 0)
		return;
	for (size_t i = start; i < end; i++)
		SIM_CHECK(sim, seen[i] == expected[i], "%s: page %u byte %zu is %02x, not %02x", when, page,
			  i, seen[i], expected[i]);
}

void sim_check_page(struct sim *sim, uint32_t page, const char *when)
{
	check_range(sim, page, 0, sim->pages[page].size_bytes, when);
}

/* An access: the first bytes, where the guest writes, and some others. */
static void check_access(struct sim *sim, uint32_t page)
{
	size_t start = sim_random(sim, sim->pages[page].size_bytes / 1024) * 1024;
	check_range(sim, page, 0, 64, "access");
	check_range(sim, page, start, start + 1024, "access");
}

/* ---- threads of the destination VMM ---- */

static bool faults_are_read(const struct sim *sim)
{
	return sim->destination && sim->side[false]->has_memory;
}

/* The kernel raises a fault again when the range is woken and the page still is not there. */
static void repeat_message(struct sim *sim, uint64_t thread, void *data)
{
	const struct sim_thread *t = &sim->threads[thread];
	uint32_t page = (uint32_t)(uintptr_t)data;
	if (t->state != SIM_BLOCKED || t->page != page || !faults_are_read(sim))
		return;
	sim->covered[SIM_FAULT_REPEATED]++;
	sim_rules_fault(sim, page, t->id, sim->now_ns);
}

static void read_message(struct sim *sim, uint64_t thread, void *data)
{
	struct sim_thread *t = &sim->threads[thread];
	uint32_t page = (uint32_t)(uintptr_t)data;
	/* A thread woken before its message was read has none to be read any more. */
	if (t->state != SIM_BLOCKED || t->page != page || t->message_sent || !faults_are_read(sim))
		return;
	t->message_sent = true;
	uint64_t arrived_ns = sim->now_ns;
	if (sim_chance(sim, sim->plan.late_percent))
		sim_others(
		    sim); /* the reader has the message; the page may be placed before the engine hears */
	if (!faults_are_read(sim))
		return;
	sim_log(sim, "thread %llu faults on page %u", (unsigned long long)thread, page);
	sim_rules_fault(sim, page, t->id, arrived_ns);
	if (sim_chance(sim, sim->plan.repeat_percent))
		sim_at(sim, sim_random(sim, 20000), repeat_message, thread, data);
}

static void block_thread(struct sim *sim, uint64_t thread, uint32_t page)
{
	struct sim_thread *t = &sim->threads[thread];
	t->state = SIM_BLOCKED;
	t->page = page;
	t->message_sent = false;
	sim_at(sim, sim_random(sim, 2000), read_message, thread, (void *)(uintptr_t)page);
}

static void discard(struct sim *sim, uint32_t page)
{
	struct sim_page *p = &sim->pages[page];
	sim_log(sim, "VMM discards page %u", page);
	sim->covered[SIM_DISCARDED]++;
	p->visible = false;
	p->discarded = true;
	p->guest_word = 0;
	memset(guest_view(sim, page), 0, p->size_bytes);
}

void sim_thread_access(struct sim *sim, uint64_t thread, void *data)
{
	(void)data;
	struct sim_thread *t = &sim->threads[thread];
	bool is_vcpu = thread < sim->plan.vcpus;
	if (t->accesses_left == 0 || t->state != SIM_IDLE || (is_vcpu && !sim->destination_runs))
		return;
	t->accesses_left--;

	uint32_t page = (uint32_t)sim_random(sim, sim->page_count);
	struct sim_page *p = &sim->pages[page];
	if (!p->visible && !sim->released) {
		block_thread(sim, thread, page);
		return;
	}
	p->visible = true; /* after the release the kernel gives zeros for what the VMM discarded */
	check_access(sim, page);
	if (sim_chance(sim, 50)) {
		p->guest_word = sim_random(sim, UINT64_MAX) | 1;
		memcpy(guest_view(sim, page), &p->guest_word, sizeof(p->guest_word));
	}
	if (!sim->released && sim_chance(sim, sim->plan.discard_percent))
		discard(sim, page);
	sim_at(sim, sim_random(sim, 3000), sim_thread_access, thread, NULL);
}

static void wake(struct sim *sim, uint32_t page)
{
	for (uint32_t i = 0; i < sim->thread_count; i++) {
		struct sim_thread *t = &sim->threads[i];
		if (t->state != SIM_BLOCKED || t->page != page)
			continue;
		t->state = SIM_IDLE;
		t->accesses_left++;
		sim_at(sim, sim_random(sim, 500), sim_thread_access, i, NULL);
	}
}

/* ---- destination port ---- */

/* ---- a process of the destination has crashed, another takes over ---- */

/* What its kept maps say of a page must be true of it. */
static void check_kept(struct sim *sim, uint32_t page)
{
	struct sim_page *p = &sim->pages[page];
	bool received = hf_pagemap_test(&sim->destination->received, page);
	bool by_continue = sim->plan.placement == HF_PLACEMENT_CONTINUE;
	SIM_CHECK(sim, !by_continue || received || !p->was_visible || p->orphan,
		  "page %u is visible, and the next process would fetch it again", page);
	SIM_CHECK(sim, by_continue || !received || p->was_visible,
		  "page %u would read as zeros under the next process", page);
	if (!received && p->was_visible) {
		sim->covered[SIM_CRASHED_BEFORE_BIT] += !p->orphan;
		p->orphan = true;
	}
	if (received && !p->was_visible && !p->continuable) {
		sim->covered[SIM_CRASHED_BEFORE_CONTINUE]++;
		p->continuable = true;
		sim_check_page(sim, page, "kept");
	}
}

void sim_memory_crashed(struct sim *sim)
{
	for (uint32_t i = 0; i < sim->thread_count; i++)
		sim->threads[i].message_sent = false;
	if (sim->on_record[false] == HF_RECORD_NONE)
		return;
	for (uint32_t page = 0; page < sim->page_count; page++)
		check_kept(sim, page);
	/* Staging is gone with the process. */
	memset(sim->staging, 0xee, sim->plan.slots * sim->page_max_bytes);
}

static void raise_again(struct sim *sim)
{
	for (uint32_t i = 0; i < sim->thread_count; i++) {
		const struct sim_thread *t = &sim->threads[i];
		if (t->state != SIM_BLOCKED)
			continue;
		sim->covered[SIM_FAULT_RAISED_AGAIN]++;
		sim_at(sim, sim_random(sim, 2000), read_message, i, (void *)(uintptr_t)t->page);
	}
}

static void memory_ready(struct sim *sim, uint64_t failed, void *data)
{
	(void)sim;
	struct sim_process *process = data;
	struct hf_err err;
	int result = 0;
	if (process->dead)
		return;
	if (failed)
		result = hf_err_set(&err, HF_ERR_LOCAL, ENOMEM, "3 huge pages of 2 MiB are missing");
	hf_destination_memory_ready(process->destination, result, result ? &err : NULL);
}

/* After a take-over faults are read before the engine has heard. */
static void prepared(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	struct sim_process *process = data;
	if (process->dead)
		return;
	bool failed = process->restarted ? sim->plan.fail_takeover : sim->plan.fail_prepare;
	process->has_memory = !failed;
	if (!process->restarted || failed) {
		memory_ready(sim, failed, process);
		return;
	}
	raise_again(sim);
	sim_at(sim, sim_random(sim, 4000), memory_ready, false, process);
}

static int port_choose(void *self, enum hf_placement placement, struct hf_memory *port, struct hf_err *err)
{
	(void)err;
	struct sim_process *process = self;
	process->sim->plan.placement = placement;
	*port = sim_memory_port(process);
	return 0;
}

static int port_prepare(void *self)
{
	struct sim_process *process = self;
	struct sim *sim = process->sim;
	uint64_t most_ns = process->restarted ? TAKE_OVER_NS : sim->plan.delay_max_ns;
	if (!process->dead)
		sim_at(sim, sim_random(sim, most_ns), prepared, 0, process);
	return 0;
}

static void *port_landing(void *self, uint32_t block, uint64_t page, uint32_t slot)
{
	struct sim_process *process = self;
	struct sim *sim = process->sim;
	uint32_t index = sim_page_of(sim, block, page);
	SIM_CHECK(sim, process->has_memory, "a landing before the memory is ready");
	sim_others(sim);
	if (sim->plan.placement == HF_PLACEMENT_CONTINUE)
		return sim->alias + sim->pages[index].base;
	SIM_CHECK(sim, slot < sim->plan.slots, "staging slot %u of %u", slot, sim->plan.slots);
	return sim->staging + slot * sim->page_max_bytes;
}

/* Before a page becomes visible the whole of it must be what the source has. */
static void check_landing(struct sim *sim, uint32_t page, uint32_t slot)
{
	const struct sim_page *p = &sim->pages[page];
	const uint8_t *landing = sim->plan.placement == HF_PLACEMENT_CONTINUE
				     ? sim->alias + p->base
				     : sim->staging + slot * sim->page_max_bytes;
	SIM_CHECK(sim, p->fetches == 0, "page %u is placed with %u fetches on their way", page, p->fetches);
	SIM_CHECK(sim, !p->was_visible || p->orphan, "page %u is placed a second time from a landing", page);
	SIM_CHECK(sim, sim->memory_final, "page %u is placed before the source VM has stopped", page);
	if (memcmp(landing, sim->source_memory + p->base, p->size_bytes) == 0)
		return;
	for (size_t i = 0; i < p->size_bytes; i++)
		SIM_CHECK(sim, landing[i] == sim->source_memory[p->base + i],
			  "page %u lands wrong at byte %zu", page, i);
}

static void make_visible(struct sim *sim, uint32_t page)
{
	sim->trace = (sim->trace ^ (page + sim->now_ns)) * 0x100000001b3;
	sim_rules_made_visible(sim, page);
	SIM_CHECK(sim, sim->rounds.device_ended, "page %u is visible before DEVICE_END is heard", page);
	sim->pages[page].visible = true;
	sim->pages[page].was_visible = true;
	wake(sim, page);
}

/* The VMM discards the page as soon as it has it, and a thread faults on it before the engine has heard. */
static void discard_at_once(struct sim *sim, uint32_t page)
{
	uint32_t thread = (uint32_t)sim_random(sim, sim->thread_count);
	bool may_run = thread >= sim->plan.vcpus || sim->destination_runs;
	if (!sim_chance(sim, sim->plan.discard_percent) || !may_run ||
	    sim->threads[thread].state != SIM_IDLE || sim->threads[thread].accesses_left == 0)
		return;
	sim->covered[SIM_FAULT_AMID_PLACING]++;
	discard(sim, page);
	sim->threads[thread].accesses_left--;
	sim->threads[thread].state = SIM_BLOCKED;
	sim->threads[thread].page = page;
	sim->threads[thread].message_sent = false;
	struct hf_lock_thread saved;
	hf_lock_other_thread_begin(&saved);
	read_message(sim, thread, (void *)(uintptr_t)page);
	hf_lock_other_thread_end(&saved);
}

static int no_huge_page(struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, EAGAIN, "no huge page to be had");
}

static bool pool_is_empty(struct sim *sim)
{
	if (sim_storm_pool_is_dry(sim)) {
		sim->covered[SIM_POOL_DRY]++;
		return true;
	}
	return sim_chance(sim, sim->plan.pool_empty_percent);
}

static int no_process(struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, ESRCH, "the VMM has ended");
}

/* The port finds a page that another process has made visible, and only wakes who waits. */
static bool is_there(struct sim *sim, uint32_t page)
{
	if (!sim->pages[page].orphan || !sim->pages[page].visible)
		return false;
	wake(sim, page);
	return true;
}

static int port_place(void *self, uint32_t block, uint64_t page_in_block, uint32_t slot, struct hf_err *err)
{
	struct sim_process *process = self;
	struct sim *sim = process->sim;
	uint32_t page = sim_page_of(sim, block, page_in_block);
	sim_others(sim);
	if (process->dead || is_there(sim, page))
		return 0;
	if (!sim->vmm_lives)
		return no_process(err);
	check_landing(sim, page, slot);
	if (sim->plan.placement == HF_PLACEMENT_COPY && pool_is_empty(sim)) {
		sim->pages[page].kept = true;
		return no_huge_page(err);
	}
	sim->covered[SIM_KEPT_PAGE_PLACED] += sim->pages[page].kept;
	if (sim->plan.placement == HF_PLACEMENT_COPY)
		memcpy(guest_view(sim, page), sim->staging + slot * sim->page_max_bytes,
		       sim->pages[page].size_bytes);
	sim->pages[page].discarded = false; /* nobody knows any more that it was */
	sim_log(sim, "page %u is placed", page);
	make_visible(sim, page);
	discard_at_once(sim, page);
	sim_others(sim);
	return 0;
}

static int port_place_zero(void *self, uint32_t block, uint64_t page_in_block, struct hf_err *err)
{
	struct sim_process *process = self;
	struct sim *sim = process->sim;
	uint32_t page = sim_page_of(sim, block, page_in_block);
	sim_others(sim);
	if (process->dead || is_there(sim, page))
		return 0;
	if (!sim->vmm_lives)
		return no_process(err);
	SIM_CHECK(sim, process->has_memory, "a page is placed before the memory is ready");
	SIM_CHECK(sim, sim->pages[page].hole, "page %u has content and is placed as zeros", page);
	SIM_CHECK(sim, !sim->pages[page].was_visible || sim->pages[page].orphan,
		  "hole %u is placed a second time", page);
	if (sim->plan.placement == HF_PLACEMENT_COPY && pool_is_empty(sim))
		return no_huge_page(err);
	sim_log(sim, "hole %u is placed", page);
	make_visible(sim, page);
	sim_others(sim);
	return 0;
}

static int port_place_again(void *self, uint32_t block, uint64_t page_in_block, struct hf_err *err)
{
	struct sim_process *process = self;
	struct sim *sim = process->sim;
	uint32_t page = sim_page_of(sim, block, page_in_block);
	sim_others(sim);
	if (process->dead)
		return 0;
	if (!sim->vmm_lives)
		return no_process(err);
	SIM_CHECK(sim, process->has_memory, "a page is placed again before the memory is ready");
	SIM_CHECK(sim, sim->pages[page].was_visible || sim->pages[page].continuable,
		  "page %u is placed again before it was placed", page);
	if (!sim->pages[page].visible && pool_is_empty(sim)) {
		sim->pages[page].kept = true;
		return no_huge_page(err);
	}
	sim->covered[SIM_PLACED_AGAIN]++;
	sim->covered[SIM_DISCARDED_AFTER_DRY] += sim->pages[page].discarded && sim->pages[page].kept;
	sim_log(sim, "page %u is placed again", page);
	make_visible(sim, page);
	return 0;
}

static void port_clear(void *self, void *landing, size_t length_bytes, bool dirty)
{
	struct sim_process *process = self;
	struct sim *sim = process->sim;
	sim_others(sim);
	if (!process->dead && (dirty || sim->plan.placement == HF_PLACEMENT_COPY))
		memset(landing, 0, length_bytes);
}

static void worker(struct sim *sim, uint64_t class, void *data)
{
	struct sim_process *process = data;
	if (process->dead)
		return;
	process->kicked[class] = false;
	switch (hf_destination_work(process->destination, (enum hf_work_class) class)) {
	case HF_WORK_MORE:
		sim_at(sim, sim_random(sim, 300), worker, class, process);
		return;
	case HF_WORK_LATER:
		sim_at(sim, 20000, worker, class, process);
		return;
	case HF_WORK_SOON:
		sim_at(sim, 5000000, worker, class, process);
		return;
	case HF_WORK_IDLE:
		break;
	}
	process->working[class] = false;
	if (process->kicked[class]) {
		process->working[class] = true;
		sim_at(sim, 0, worker, class, process);
	}
}

static void port_kick(void *self, enum hf_work_class class)
{
	struct sim_process *process = self;
	process->kicked[class] = true;
	if (process->working[class] || process->dead)
		return;
	process->working[class] = true;
	sim_at(process->sim, sim_random(process->sim, 500), worker, class, process);
}

static int port_release(void *self, struct hf_err *err)
{
	struct sim_process *process = self;
	struct sim *sim = process->sim;
	SIM_CHECK(sim, !process->released, "memory is released twice");
	sim_others(sim);
	if (process->dead)
		return 0;
	if (!sim->vmm_lives)
		return no_process(err);
	for (uint32_t page = 0; page < sim->page_count; page++)
		SIM_CHECK(sim, sim->pages[page].was_visible || sim->pages[page].continuable,
			  "memory is released without page %u", page);
	sim->released = process->released = true;
	for (uint32_t page = 0; page < sim->page_count; page++)
		wake(sim, page);
	sim_process_may_crash(process);
	return 0;
}

static const struct hf_memory_ops memory_ops = {
    .choose = port_choose,
    .prepare = port_prepare,
    .landing = port_landing,
    .place = port_place,
    .place_zero = port_place_zero,
    .place_again = port_place_again,
    .clear = port_clear,
    .kick = port_kick,
    .release = port_release,
};

struct hf_memory sim_memory_port(struct sim_process *process)
{
	const struct sim *sim = process->sim;
	return (struct hf_memory){
	    .ops = &memory_ops,
	    .self = process,
	    .placement = sim->plan.placement,
	    .slots = sim->plan.placement == HF_PLACEMENT_COPY ? sim->plan.slots : 0,
	};
}

/* ---- source port ---- */

/* The source numbers its blocks in another order; the flat memories are laid out as the destination's. */
static uint32_t first_page_of_source_block(struct sim *sim, uint32_t block)
{
	return sim->destination_blocks.blocks[sim->destination_of_source[block]].first_page;
}

static int source_chunk(void *self, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
			const void **bytes, struct hf_err *err)
{
	(void)err;
	struct sim *sim = ((struct sim_process *)self)->sim;
	uint32_t page = first_page_of_source_block(sim, block) +
			(uint32_t)(offset_bytes / sim->source_blocks.blocks[block].page_size_bytes);
	if (sim->pages[page].hole)
		sim_rounds_read_hole(sim, page);
	const uint8_t *address =
	    sim->source_memory + sim->pages[first_page_of_source_block(sim, block)].base + offset_bytes;
	*bytes = hf_is_zero(address, length_bytes) ? NULL : address;
	return 0;
}

static int source_presence(void *self, uint32_t block, uint8_t *bitmap, size_t bitmap_bytes,
			   struct hf_err *err)
{
	(void)err;
	struct sim *sim = ((struct sim_process *)self)->sim;
	SIM_CHECK(sim, sim->memory_final, "presence is read while the source VM runs");
	uint32_t first = first_page_of_source_block(sim, block);
	uint32_t pages = sim->source_blocks.blocks[block].pages;
	SIM_CHECK(sim, bitmap_bytes == (pages + 7) / 8, "presence map of %zu bytes", bitmap_bytes);
	for (uint32_t i = 0; i < pages; i++)
		if (!sim->pages[first + i].hole)
			bitmap[i / 8] |= (uint8_t)(1u << i % 8);
	return 0;
}

static int source_harvest(void *self, uint32_t block, uint8_t *dirtied, uint8_t *holes, size_t bitmap_bytes,
			  struct hf_err *err)
{
	struct sim_process *process = self;
	const struct hf_ramblock *harvested = &process->sim->source_blocks.blocks[block];
	SIM_CHECK(process->sim, bitmap_bytes == hf_pagemap_bytes(harvested->pages), "a harvest of %zu bytes",
		  bitmap_bytes);
	return sim_rounds_harvest(process, block, dirtied, holes, err);
}

static const struct hf_source_memory_ops source_memory_ops = {
    .chunk = source_chunk,
    .presence = source_presence,
    .harvest = source_harvest,
};

struct hf_source_memory sim_source_memory_port(struct sim_process *process)
{
	return (struct hf_source_memory){.ops = &source_memory_ops, .self = process};
}

/* ---- making it ---- */

static void fill_page(struct sim *sim, struct sim_page *p)
{
	uint8_t *bytes = sim->source_memory + p->base;
	uint64_t kind = sim_random(sim, 8);
	p->hole = kind == 0;
	if (kind <= 1)
		return; /* a hole, or a page of zeros that exists */
	uint64_t word = sim_random(sim, UINT64_MAX);
	for (size_t i = 0; i < p->size_bytes; i += 8) {
		word = word * 6364136223846793005ull + 1442695040888963407ull;
		bool zero_chunk = kind == 2 && (i / sim->plan.chunk_bytes) % 2 == 0;
		if (!zero_chunk)
			memcpy(bytes + i, &word, 8);
	}
}

void sim_memory_create(struct sim *sim)
{
	const struct hf_ramblocks *blocks = &sim->destination_blocks;
	sim->memory_bytes = blocks->length_total_bytes;
	sim->page_max_bytes = blocks->page_size_max_bytes;
	sim->source_memory = calloc(1, sim->memory_bytes);
	sim->alias = calloc(1, sim->memory_bytes);
	sim->guest = calloc(1, sim->memory_bytes);
	sim->staging = malloc(sim->plan.slots * sim->page_max_bytes);
	sim->zeros = calloc(1, sim->page_max_bytes);
	SIM_CHECK(sim, sim->source_memory && sim->alias && sim->guest && sim->staging && sim->zeros,
		  "no memory");
	memset(sim->staging, 0xee, sim->plan.slots * sim->page_max_bytes);

	uint64_t base = 0;
	for (uint32_t i = 0; i < blocks->count; i++) {
		const struct hf_ramblock *block = &blocks->blocks[i];
		for (uint32_t page = 0; page < block->pages; page++) {
			struct sim_page *p = &sim->pages[sim->page_count++];
			*p = (struct sim_page){
			    .block = i,
			    .offset_bytes = page * block->page_size_bytes,
			    .size_bytes = block->page_size_bytes,
			    .base = base,
			};
			base += block->page_size_bytes;
			fill_page(sim, p);
		}
	}
}

void sim_memory_destroy(struct sim *sim)
{
	free(sim->source_memory);
	free(sim->alias);
	free(sim->guest);
	free(sim->staging);
	free(sim->zeros);
}
