/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engines take for their tables, on VMs larger than any test host: at most the figures of
 * ARCHITECTURE.md, "Memory overhead". Counted by the C library, not by the engines.
 */
#include "tests/unit/core/cmocka_setup.h"

#include <malloc.h>
#include <stdio.h>

#include "core/destination.h"
#include "core/link_probe.h"
#include "core/source.h"
#include "core/wire.h"

#define GUEST_BYTES		(1ull << 40)
#define DESTINATION_PAGE_BYTES	9u
#define ENGINE_CONSTANT_BYTES	(256u << 10)
#define PROBE_DESTINATION_BYTES (16u << 20)
#define PROBE_SOURCE_BYTES	HF_LINK_PROBE_BYTES
#define BLOCK_BYTES		1024u /* name, length, page size, its number on the other side */
#define CHANNEL_CHUNKS		64u   /* what the transports hold on each page channel */

static uint64_t allocated_bytes(void)
{
	struct mallinfo2 info = mallinfo2();
	return info.uordblks + info.hblkhd;
}

static int take_fetch(void *self, const struct hf_fetch *fetch)
{
	(void)self;
	(void)fetch;
	return 0;
}

static int take_message(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	(void)self;
	(void)epoch;
	(void)type;
	(void)payload;
	(void)bytes;
	return 0;
}

static int take_order(void *self)
{
	(void)self;
	return 0;
}

static int take_request(void *self, enum hf_vm_op op, const void *data, size_t bytes)
{
	(void)self;
	(void)op;
	(void)data;
	(void)bytes;
	return 0;
}

static uint64_t now_ns(void *self)
{
	(void)self;
	return 1;
}

static const struct hf_transport_ops transport_ops = {.fetch = take_fetch, .send = take_message};
static const struct hf_memory_ops memory_ops = {.prepare = take_order};
static const struct hf_vm_ops vm_ops = {.request = take_request};

static void make_blocks(struct hf_ramblocks *blocks, uint32_t count, uint64_t page_size_bytes)
{
	hf_ramblocks_init(blocks);
	for (uint32_t i = 0; i < count; i++) {
		char idstr[16];
		snprintf(idstr, sizeof(idstr), "ram%u", i);
		assert_int_equal(hf_ramblocks_add(blocks, idstr, GUEST_BYTES / count, page_size_bytes, NULL),
				 0);
	}
}

/* The source's blocks are known; its memory is ready and nothing is allocated later, or it measures the link.
 */
static struct hf_destination *destination_in_the_middle(const struct hf_ramblocks *blocks, bool measures_link)
{
	const struct hf_destination_config config = {
	    .vm_name = "large",
	    .blocks = blocks,
	    .clock = {.now_ns = now_ns},
	    .memory = {.ops = &memory_ops, .placement = HF_PLACEMENT_CONTINUE},
	    .transport = {.ops = &transport_ops},
	    .vm = {.ops = &vm_ops},
	};
	const struct hf_link_info link = {.epoch = 1,
					  .version = 1,
					  .channels = {8, 8},
					  .capacity_chunks = {8 * CHANNEL_CHUNKS, 8 * CHANNEL_CHUNKS}};
	static uint8_t advise[HF_WIRE_FRAME_MAX_BYTES];
	struct hf_destination *destination = NULL;

	assert_int_equal(hf_destination_create(&destination, &config, NULL), 0);
	hf_destination_events.link_up(destination, &link);
	ssize_t bytes = hf_wire_encode_advise("large", blocks, advise, sizeof(advise));
	assert_true(bytes > 0);
	hf_destination_events.message(destination, 1, HF_WIRE_ADVISE, advise, (size_t)bytes);
	if (!measures_link)
		hf_destination_memory_ready(destination, 0, NULL);
	struct hf_destination_snapshot snapshot;
	hf_destination_snapshot(destination, &snapshot);
	assert_int_equal(snapshot.incoming, HF_INCOMING_ADVISE);
	assert_int_equal(snapshot.status, measures_link ? HF_STATUS_SETUP : HF_STATUS_ACTIVE);
	return destination;
}

static void check_destination(const struct hf_ramblocks *blocks, uint64_t fixed_bytes, bool measures_link)
{
	uint64_t before_bytes = allocated_bytes();
	struct hf_destination *destination = destination_in_the_middle(blocks, measures_link);
	uint64_t taken_bytes = allocated_bytes() - before_bytes;

	/* It counts: the table of pages and four maps at least. */
	assert_true(taken_bytes >= (uint64_t)blocks->pages_total * 8 + blocks->pages_total / 2);
	assert_true(taken_bytes <= (uint64_t)blocks->pages_total * DESTINATION_PAGE_BYTES + fixed_bytes +
				       (measures_link ? PROBE_DESTINATION_BYTES : 0));
	assert_true(taken_bytes <= GUEST_BYTES / 1000);
	hf_destination_destroy(destination);
}

static void check_source(const struct hf_ramblocks *blocks, uint64_t fixed_bytes)
{
	const struct hf_source_config config = {.vm_name = "large",
						.blocks = blocks,
						.clock = {.now_ns = now_ns},
						.transport = {.ops = &transport_ops},
						.vm = {.ops = &vm_ops}};
	struct hf_source *source = NULL;
	uint64_t before_bytes = allocated_bytes();

	assert_int_equal(hf_source_create(&source, &config, NULL), 0);
	uint64_t taken_bytes = allocated_bytes() - before_bytes;
	assert_true(taken_bytes >= blocks->pages_total / 8);
	assert_true(taken_bytes <= blocks->pages_total / 8 + fixed_bytes + PROBE_SOURCE_BYTES);
	hf_source_destroy(source);
}

static void check_overhead(uint32_t count, uint64_t page_size_bytes)
{
	const uint64_t fixed_bytes = ENGINE_CONSTANT_BYTES + count * BLOCK_BYTES;
	struct hf_ramblocks blocks;

	make_blocks(&blocks, count, page_size_bytes);
	check_destination(&blocks, fixed_bytes, false);
	check_destination(&blocks, fixed_bytes, true);
	check_source(&blocks, fixed_bytes);
	hf_ramblocks_destroy(&blocks);
}

static void a_tib_of_small_huge_pages_costs_nine_bytes_a_page(void **state)
{
	(void)state;
	check_overhead(1, 2u << 20);
}

static void a_tib_of_gigantic_pages_costs_next_to_nothing(void **state)
{
	(void)state;
	check_overhead(1, 1u << 30);
}

static void many_blocks_cost_a_kib_each(void **state)
{
	(void)state;
	check_overhead(HF_RAMBLOCKS_MAX, 2u << 20);
	check_overhead(HF_RAMBLOCKS_MAX, 1u << 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_tib_of_small_huge_pages_costs_nine_bytes_a_page),
	    cmocka_unit_test(a_tib_of_gigantic_pages_costs_next_to_nothing),
	    cmocka_unit_test(many_blocks_cost_a_kib_each),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
