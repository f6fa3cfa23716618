/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the destination lists to be kept in memory is all it has allocated. The linker sends its allocations
 * through here.
 */
#include "tests/unit/engine/rig.h"

#include <stdlib.h>
#include <string.h>

#define LIVE_MAX 256

static struct {
	bool watching;
	struct hf_table live[LIVE_MAX];
	uint32_t count;
} heap;

void *__real_malloc(size_t bytes);
void *__real_calloc(size_t count, size_t bytes);
void __real_free(void *address);
void *__wrap_malloc(size_t bytes);
void *__wrap_calloc(size_t count, size_t bytes);
void __wrap_free(void *address);

static void *watch(void *address, size_t bytes)
{
	if (heap.watching && heap.count < LIVE_MAX)
		heap.live[heap.count++] = (struct hf_table){address, bytes};
	return address;
}

void *__wrap_malloc(size_t bytes)
{
	return watch(__real_malloc(bytes), bytes);
}

void *__wrap_calloc(size_t count, size_t bytes)
{
	return watch(__real_calloc(count, bytes), count * bytes);
}

void __wrap_free(void *address)
{
	for (uint32_t i = 0; address && i < heap.count; i++)
		if (heap.live[i].address == address)
			heap.live[i] = heap.live[--heap.count];
	__real_free(address);
}

static bool is_the_rigs(const struct rig *rig, const void *address)
{
	return address == rig->ram || address == rig->rom || address == rig->staging;
}

static bool is_listed(const struct hf_tables *tables, const struct hf_table *allocated)
{
	for (uint32_t i = 0; i < tables->count; i++)
		if (tables->list[i].address == allocated->address &&
		    tables->list[i].bytes == allocated->bytes)
			return true;
	return false;
}

static void everything_allocated_is_listed(void **state)
{
	struct rig *rig = *state;
	struct hf_tables tables;

	heap.watching = true;
	rig_destination_at(rig, AT_ADVISE);
	heap.watching = false;
	hf_destination_tables(rig->destination, &tables);
	assert_in_range(heap.count, tables.count, LIVE_MAX - 1);
	for (uint32_t i = 0; i < heap.count; i++)
		if (!is_listed(&tables, &heap.live[i]) && !is_the_rigs(rig, heap.live[i].address))
			fail_msg("allocation %u of the engine, %zu bytes, is not listed", i,
				 heap.live[i].bytes);
	heap.count = 0;
}

static void copy_lists_the_transfers_it_has(void **state)
{
	struct rig *rig = *state;

	rig->destination_config.memory.placement = HF_PLACEMENT_COPY;
	rig->destination_config.memory.slots = 2;
	everything_allocated_is_listed(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    RIG_TEST(everything_allocated_is_listed),
	    RIG_TEST(copy_lists_the_transfers_it_has),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
