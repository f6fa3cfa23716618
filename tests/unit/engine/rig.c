/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The recording ports. A landing's address is checked when it comes back in a fetch: bytes that land in the
 * wrong place are the worst thing an engine can do.
 */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/zero.h"

/* ---- lines ------------------------------------------------------------------------------------- */

void rig_record(struct rig *rig, const char *format, ...)
{
	assert_true(rig->calls_made < RIG_CALLS_MAX);
	char *line = rig->calls[rig->calls_made++];
	va_list args;
	va_start(args, format);
	vsnprintf(line, RIG_CALL_BYTES, format, args);
	va_end(args);
	if (rig->inside && rig->inside_is_the_port) {
		rig->inside(rig, line);
	} else if (rig->inside) {
		struct hf_lock_thread caller;
		hf_lock_other_thread_begin(&caller);
		rig->inside(rig, line);
		hf_lock_other_thread_end(&caller);
	}
}

void rig_expect_calls(struct rig *rig, int line, const char *const *calls)
{
	uint32_t at = 0;
	bool same = true;
	for (uint32_t i = 0; same && calls[i]; i++, at++)
		same = at < rig->calls_made && strcmp(rig->calls[at], calls[i]) == 0;
	if (!same || at != rig->calls_made) {
		for (uint32_t i = 0; calls[i]; i++)
			print_error("expected: %s\n", calls[i]);
		for (uint32_t i = 0; i < rig->calls_made; i++)
			print_error("called:   %s\n", rig->calls[i]);
		fail_msg("line %d: other calls than expected", line);
	}
	rig_forget(rig);
}

void rig_forget(struct rig *rig)
{
	rig->calls_made = 0;
}

bool rig_called(const struct rig *rig, const char *call)
{
	for (uint32_t i = 0; i < rig->calls_made; i++)
		if (strcmp(rig->calls[i], call) == 0)
			return true;
	return false;
}

/* ---- both sides -------------------------------------------------------------------------------- */

/* What a port call answers: `result`, or a failure if its number is up. */
static int answer(struct rig *rig, int result)
{
	uint32_t number = ++rig->can_fail;
	if (rig->fail_at == 0 || number < rig->fail_at || (number > rig->fail_at && !rig->fail_on))
		return result;
	rig->failed = true;
	return -EIO;
}

static int link_answer(struct rig *rig, int result)
{
	int answered = answer(rig, result);
	rig->failed_on_link |= answered == -EIO && result == 0;
	return answered;
}

static int answer_with(struct rig *rig, int own_result, const char *text, struct hf_err *err)
{
	int result = answer(rig, own_result);
	return result ? hf_err_set(err, HF_ERR_LOCAL, -result, "%s", text) : 0;
}

static uint64_t clock_now(void *self)
{
	return ((struct rig *)self)->now_ns;
}

static void notify(void *opaque)
{
	((struct rig *)opaque)->notified++;
}

static int transport_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	struct rig *rig = self;
	assert_int_equal(epoch, rig->link.epoch);
	assert_in_range(type, HF_WIRE_ADVISE, RIG_TYPES - 1);
	struct hf_wire_frame_header header = {.type = type, .length_bytes = (uint32_t)bytes};
	uint8_t buffer[HF_WIRE_FRAME_HEADER_BYTES];
	assert_int_equal(hf_wire_encode_frame_header(&header, buffer, sizeof(buffer)), sizeof(buffer));

	rig->sent[type].times++;
	rig->sent[type].bytes = bytes;
	if (bytes && bytes <= RIG_PAYLOAD_BYTES)
		memcpy(rig->sent[type].payload, payload, bytes);
	rig_record(rig, "send %s", hf_wire_type_name(type));
	return link_answer(rig, rig->send_result);
}

struct hf_err rig_sent_fail(const struct rig *rig)
{
	struct hf_err why;
	assert_int_equal(
	    hf_wire_decode_fail(rig->sent[HF_WIRE_FAIL].payload, rig->sent[HF_WIRE_FAIL].bytes, &why, NULL),
	    0);
	return why;
}

static int vm_request(void *self, enum hf_vm_op op, const void *data, size_t bytes)
{
	struct rig *rig = self;
	if (op == HF_VM_FENCE && !rig->slow) {
		int result = answer(rig, rig->vm_result[op]);
		rig->fence_asked = result == 0;
		rig->vm_refused |= result != 0;
		return result;
	}
	if (op == HF_VM_LOAD) {
		assert_int_equal(bytes, RIG_STATE_BYTES);
		assert_memory_equal(data, RIG_DEVICE_STATE, RIG_STATE_BYTES);
	}
	rig->vm_requests++;
	rig_record(rig, "%s", hf_vm_op_name(op));
	int result = answer(rig, rig->vm_result[op]);
	rig->vm_refused |= result != 0;
	rig->resuming += op == HF_VM_RESUME && result == 0;
	return result;
}

static int recorder_request(void *self, enum hf_record record)
{
	struct rig *rig = self;
	if (rig->slow)
		rig_record(rig, "record %s", hf_record_name(record));
	int result = answer(rig, 0);
	rig->record_asked = result == 0 && !rig->slow ? record : HF_RECORD_NONE;
	return result;
}

/* ---- the destination's ports ------------------------------------------------------------------- */

static uint32_t page_size_of(uint32_t block)
{
	return block == RIG_RAM ? RIG_RAM_PAGE : RIG_ROM_PAGE;
}

static const char *name_of(uint32_t block)
{
	return block == RIG_RAM ? "ram" : "rom";
}

static int memory_choose(void *self, enum hf_placement placement, struct hf_memory *port, struct hf_err *err)
{
	struct rig *rig = self;
	rig_record(rig, "choose %s", placement == HF_PLACEMENT_COPY ? "copy" : "continue");
	int result = answer_with(rig, rig->choose_result, "not that placement", err);
	if (result)
		return result;
	port->placement = placement;
	port->slots = placement == HF_PLACEMENT_COPY ? RIG_SLOTS_MAX : 0;
	rig->destination_config.memory = *port;
	return 0;
}

static int memory_prepare(void *self)
{
	struct rig *rig = self;
	rig_record(rig, "prepare");
	return answer(rig, rig->prepare_result);
}

static void *memory_landing(void *self, uint32_t block, uint64_t page, uint32_t slot)
{
	struct rig *rig = self;
	if (rig->destination_config.memory.placement == HF_PLACEMENT_COPY) {
		assert_true(slot < rig->destination_config.memory.slots);
		return rig->staging + (size_t)slot * RIG_RAM_PAGE;
	}
	return (block == RIG_RAM ? rig->ram : rig->rom) + page * page_size_of(block);
}

static int memory_place(void *self, uint32_t block, uint64_t page, uint32_t slot, struct hf_err *err)
{
	struct rig *rig = self;
	rig->placing = memory_landing(self, block, page, slot);
	rig->placing_page = rig->destination_blocks.blocks[block].first_page + (uint32_t)page;
	rig_record(rig, "place %s %u", name_of(block), (unsigned)page);
	rig->placing = NULL;
	return answer_with(rig, rig->place_result, "no place", err);
}

static int memory_place_zero(void *self, uint32_t block, uint64_t page, struct hf_err *err)
{
	struct rig *rig = self;
	rig->placing_page = rig->destination_blocks.blocks[block].first_page + (uint32_t)page;
	rig_record(rig, "place_zero %s %u", name_of(block), (unsigned)page);
	return answer_with(rig, rig->place_zero_result, "no zeros", err);
}

static int memory_place_again(void *self, uint32_t block, uint64_t page, struct hf_err *err)
{
	struct rig *rig = self;
	rig_record(rig, "place_again %s %u", name_of(block), (unsigned)page);
	return answer_with(rig, rig->place_again_result, "not again", err);
}

static int memory_may_poison(void *self, struct hf_err *err)
{
	const struct rig *rig = self;
	return rig->may_poison_result ? hf_err_set(err, HF_ERR_LOCAL, -rig->may_poison_result, "no poison")
				      : 0;
}

static int memory_poison(void *self, uint32_t block, uint64_t page, struct hf_err *err)
{
	struct rig *rig = self;
	rig_record(rig, "poison %s %u", name_of(block), (unsigned)page);
	return answer_with(rig, rig->poison_result, "not poisoned", err);
}

static void memory_clear(void *self, void *landing, size_t bytes, bool dirty)
{
	memset(landing, 0, bytes);
	rig_record(self, "clear %zu%s", bytes, dirty ? " dirty" : "");
}

static void memory_kick(void *self, enum hf_work_class class)
{
	rig_record(self, "kick %s", class == HF_WORK_URGENT ? "urgent" : "background");
}

static int memory_release(void *self, struct hf_err *err)
{
	struct rig *rig = self;
	rig_record(rig, "release");
	return answer_with(rig, rig->release_result, "not released", err);
}

static const struct hf_memory_ops memory_ops = {
    .choose = memory_choose,
    .prepare = memory_prepare,
    .landing = memory_landing,
    .place = memory_place,
    .place_zero = memory_place_zero,
    .place_again = memory_place_again,
    .may_poison = memory_may_poison,
    .poison = memory_poison,
    .clear = memory_clear,
    .kick = memory_kick,
    .release = memory_release,
};

/* "ram 1.2" */
static void name_fetch(const struct hf_fetch *fetch, char name[RIG_CALL_BYTES])
{
	if (fetch->block == HF_WIRE_PROBE_BLOCK) {
		snprintf(name, RIG_CALL_BYTES, "probe");
		return;
	}
	uint32_t block = RIG_BLOCKS - 1 - fetch->block;
	uint32_t size = page_size_of(block);
	snprintf(name, RIG_CALL_BYTES, "%s %u.%u", name_of(block), (unsigned)(fetch->offset_bytes / size),
		 (unsigned)(fetch->offset_bytes % size / RIG_CHUNK));
}

static void check_page_fetch(const struct rig *rig, const struct hf_fetch *fetch)
{
	assert_true(fetch->block < RIG_BLOCKS);
	uint32_t block = RIG_BLOCKS - 1 - fetch->block;
	uint32_t size = page_size_of(block);
	assert_true(fetch->offset_bytes + fetch->length_bytes <=
		    rig->destination_blocks.blocks[block].length_bytes);
	assert_int_equal(fetch->offset_bytes / size, (fetch->offset_bytes + fetch->length_bytes - 1) / size);

	const uint8_t *landing = fetch->landing;
	if (rig->destination_config.memory.placement == HF_PLACEMENT_CONTINUE)
		assert_ptr_equal(landing, (block == RIG_RAM ? rig->ram : rig->rom) + fetch->offset_bytes);
	else
		assert_int_equal((uint64_t)(landing - rig->staging) % RIG_RAM_PAGE,
				 fetch->offset_bytes % size);
}

static void check_fetch(const struct rig *rig, const struct hf_fetch *fetch)
{
	assert_int_equal(fetch->epoch, rig->link.epoch);
	if (fetch->block != HF_WIRE_PROBE_BLOCK)
		check_page_fetch(rig, fetch);

	for (uint32_t i = 0; i < rig->fetches_count; i++) {
		assert_true(rig->fetches[i].id != fetch->id);
		assert_false(fetch->block != HF_WIRE_PROBE_BLOCK && rig->fetches[i].block == fetch->block &&
			     rig->fetches[i].offset_bytes == fetch->offset_bytes);
		assert_ptr_not_equal(rig->fetches[i].landing, fetch->landing);
	}
}

static void take_fetch(struct rig *rig, const struct hf_fetch *fetch)
{
	uint32_t of_class = 1;
	for (uint32_t i = 0; i < rig->fetches_count; i++)
		of_class += rig->fetches[i].class == fetch->class;
	assert_true(of_class <= rig->link.capacity_chunks[fetch->class]);
	assert_true(rig->fetches_count < RIG_FETCHES_MAX);
	rig->fetches[rig->fetches_count++] = *fetch;
	rig->posted_bytes[fetch->class] += fetch->length_bytes;
}

static int transport_fetch(void *self, const struct hf_fetch *fetch)
{
	struct rig *rig = self;
	char name[RIG_CALL_BYTES];
	check_fetch(rig, fetch);
	name_fetch(fetch, name);
	bool refused = rig->fetch_failures > 0 && rig->fetch_taken == 0;
	rig->fetch_taken -= rig->fetch_taken > 0;
	rig->fetch_failures -= refused;
	int result = link_answer(rig, refused ? rig->fetch_result : 0);
	if (result == 0)
		take_fetch(rig, fetch);
	rig_record(rig, "fetch %s %s", fetch->class == HF_FETCH_URGENT ? "urgent" : "background", name);
	return result;
}

static const struct hf_transport_ops transport_ops = {.fetch = transport_fetch, .send = transport_send};
static const struct hf_vm_ops vm_ops = {.request = vm_request};
static const struct hf_recorder_ops recorder_ops = {.request = recorder_request};

void rig_end_fetch(struct rig *rig, uint32_t index, enum hf_fetch_status status, bool zero)
{
	struct hf_fetch_done done = {
	    .id = rig->fetches[index].id,
	    .epoch = rig->fetches[index].epoch,
	    .status = status,
	    .zero = zero,
	};
	rig->fetches_count--;
	memmove(&rig->fetches[index], &rig->fetches[index + 1],
		(rig->fetches_count - index) * sizeof(rig->fetches[0]));
	hf_destination_events.fetch_done(rig->destination, &done);
}

void rig_fetch_ends(struct rig *rig, const char *chunk, enum hf_fetch_status status, bool zero)
{
	for (uint32_t i = 0; i < rig->fetches_count; i++) {
		char name[RIG_CALL_BYTES];
		name_fetch(&rig->fetches[i], name);
		if (strcmp(name, chunk) == 0) {
			rig_end_fetch(rig, i, status, zero);
			return;
		}
	}
	fail_msg("no fetch of %s is on its way", chunk);
}

void rig_landed(struct rig *rig, const char *chunk)
{
	rig_fetch_ends(rig, chunk, HF_FETCH_OK, false);
}

void rig_landed_zero(struct rig *rig, const char *chunk)
{
	rig_fetch_ends(rig, chunk, HF_FETCH_OK, true);
}

void rig_land_oldest(struct rig *rig)
{
	assert_true(rig->fetches_count > 0);
	rig_end_fetch(rig, 0, HF_FETCH_OK, false);
}

void rig_land_oldest_of(struct rig *rig, enum hf_fetch_class class)
{
	for (uint32_t i = 0; i < rig->fetches_count; i++)
		if (rig->fetches[i].class == class) {
			rig_end_fetch(rig, i, HF_FETCH_OK, false);
			return;
		}
}

void rig_land_all(struct rig *rig)
{
	while (rig->fetches_count > 0)
		rig_land_oldest(rig);
}

/* ---- the source's ports ------------------------------------------------------------------------ */

static int source_chunk(void *self, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
			const void **bytes, struct hf_err *err)
{
	struct rig *rig = self;
	const uint8_t *address = (RIG_BLOCKS - 1 - block == RIG_RAM ? rig->ram : rig->rom) + offset_bytes;
	rig->addressed++;
	if (rig->chunk_result < 0)
		return hf_err_set(err, HF_ERR_LOCAL, -rig->chunk_result, "page lost");
	*bytes = hf_is_zero(address, length_bytes) ? NULL : address;
	return 0;
}

static int source_presence(void *self, uint32_t block, uint8_t *bitmap, size_t bytes, struct hf_err *err)
{
	struct rig *rig = self;
	bool is_ram = RIG_BLOCKS - 1 - block == RIG_RAM;
	uint64_t bits = is_ram ? rig->ram_present : rig->rom_present;
	uint32_t pages = rig->source_blocks.blocks[block].pages;
	for (uint32_t page = 0; page < pages && page < 64; page++)
		if (bits >> page & 1)
			bitmap[page / 8] |= (uint8_t)(1u << page % 8);
	assert_int_equal(bytes, ((size_t)pages + 7) / 8);
	rig_record(rig, "presence %s", is_ram ? "ram" : "rom");
	return answer_with(rig, rig->presence_result, "no presence", err);
}

static void put_bits(uint64_t *bits, uint8_t *bitmap, size_t bytes)
{
	for (size_t i = 0; i < bytes && i < 8; i++)
		bitmap[i] = (uint8_t)(*bits >> (8 * i));
	*bits = 0;
}

static int source_harvest(void *self, uint32_t block, uint8_t *dirtied, uint8_t *holes, size_t bytes,
			  struct hf_err *err)
{
	struct rig *rig = self;
	bool is_ram = RIG_BLOCKS - 1 - block == RIG_RAM;
	put_bits(is_ram ? &rig->ram_dirtied : &rig->rom_dirtied, dirtied, bytes);
	put_bits(is_ram ? &rig->ram_holes : &rig->rom_holes, holes, bytes);
	rig_record(rig, "harvest %s", is_ram ? "ram" : "rom");
	return answer_with(rig, rig->harvest_result, "no harvest", err);
}

static int source_release(void *self, uint32_t block, uint64_t first_page, uint32_t pages, struct hf_err *err)
{
	struct rig *rig = self;
	rig_record(rig, "release %s %u+%u", name_of(RIG_BLOCKS - 1 - block), (unsigned)first_page, pages);
	return answer_with(rig, rig->give_back_result, "not given back", err);
}

static void source_kick_release(void *self)
{
	rig_record(self, "kick release");
}

static const struct hf_source_memory_ops source_memory_ops = {
    .harvest = source_harvest,
    .chunk = source_chunk,
    .presence = source_presence,
    .release = source_release,
    .kick_release = source_kick_release,
};

/* ---- the rig ----------------------------------------------------------------------------------- */

static void add_block(const struct rig *rig, struct hf_ramblocks *blocks, uint32_t block)
{
	uint64_t pages = block == RIG_RAM ? rig->ram_pages : RIG_ROM_PAGES;
	assert_int_equal(
	    hf_ramblocks_add(blocks, name_of(block), pages * page_size_of(block), page_size_of(block), NULL),
	    0);
}

static void create_memory(struct rig *rig)
{
	rig->ram = calloc(rig->ram_pages, RIG_RAM_PAGE);
	rig->rom = calloc(RIG_ROM_PAGES, RIG_ROM_PAGE);
	rig->staging = calloc(RIG_SLOTS_MAX, RIG_RAM_PAGE);
	assert_true(rig->ram && rig->rom && rig->staging);
	if (rig->source_blocks.count == 0) {
		add_block(rig, &rig->source_blocks, RIG_ROM);
		add_block(rig, &rig->source_blocks, RIG_RAM);
	}
	add_block(rig, &rig->destination_blocks, RIG_RAM);
	add_block(rig, &rig->destination_blocks, RIG_ROM);
}

struct rig *rig_create(void)
{
	static const uint32_t thread_ids[] = {RIG_THREAD};
	struct rig *rig = calloc(1, sizeof(*rig));
	assert_non_null(rig);
	rig->now_ns = 1000000000;
	rig->ram_pages = RIG_RAM_PAGES;
	rig->ram_present = rig->rom_present = UINT64_MAX;
	rig->link = (struct hf_link_info){
	    .epoch = RIG_EPOCH,
	    .version = 1,
	    .channels = {1, 1},
	    .capacity_chunks = {8, 4},
	    .name = "rig",
	};
	struct hf_clock clock = {.now_ns = clock_now, .self = rig};
	struct hf_transport transport = {.ops = &transport_ops, .self = rig};
	struct hf_vm vm = {.ops = &vm_ops, .self = rig};
	struct hf_recorder recorder = {.ops = &recorder_ops, .self = rig};
	rig->destination_config = (struct hf_destination_config){
	    .vm_name = "there",
	    .vcpu_thread_ids = thread_ids,
	    .vcpus = 1,
	    .clock = clock,
	    .memory = {.ops = &memory_ops, .self = rig, .placement = HF_PLACEMENT_CONTINUE},
	    .transport = transport,
	    .vm = vm,
	    .recorder = recorder,
	    .chunk_bytes = RIG_CHUNK,
	    .notify = notify,
	    .opaque = rig,
	};
	rig->source_config = (struct hf_source_config){
	    .vm_name = "here",
	    .clock = clock,
	    .memory = {.ops = &source_memory_ops, .self = rig},
	    .transport = transport,
	    .vm = vm,
	    .recorder = recorder,
	    .notify = notify,
	    .opaque = rig,
	};
	return rig;
}

void rig_destroy(struct rig *rig)
{
	if (!rig)
		return;
	hf_destination_destroy(rig->destination);
	hf_source_destroy(rig->source);
	hf_ramblocks_destroy(&rig->source_blocks);
	hf_ramblocks_destroy(&rig->destination_blocks);
	free(rig->ram);
	free(rig->rom);
	free(rig->staging);
	free(rig);
}

void rig_destination(struct rig *rig)
{
	create_memory(rig);
	rig->destination_config.blocks = &rig->destination_blocks;
	assert_int_equal(hf_destination_create(&rig->destination, &rig->destination_config, NULL), 0);
}

void rig_source(struct rig *rig)
{
	create_memory(rig);
	rig->source_config.blocks = &rig->source_blocks;
	assert_int_equal(hf_source_create(&rig->source, &rig->source_config, NULL), 0);
}

int rig_setup(void **state)
{
	*state = rig_create();
	return 0;
}

int rig_teardown(void **state)
{
	rig_destroy(*state);
	return 0;
}
