/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-rdma/pair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/link_probe.h"

#define CHUNK_BYTES (256u << 10)

static int begin(void **state)
{
	(void)state;
	fake_begin();
	return 0;
}

static void chunks_land_where_they_are_to(void **state)
{
	(void)state;
	struct linked linked;
	struct hf_fetch fetches[64];
	linked_begin(&linked, 2, 2);
	linked_lend(&linked);
	for (uint32_t i = 0; i < 64; i++) {
		fetches[i] = linked_fetch(&linked, i, i % 2, i / 2 * CHUNK_BYTES, CHUNK_BYTES,
					  i % 3 ? HF_FETCH_BACKGROUND : HF_FETCH_URGENT);
		linked_post(&linked, &fetches[i]);
	}
	engine_wait_done(linked.destination_engine, 64);
	assert_int_equal(linked.destination_engine->done_by_status[HF_FETCH_OK], 64);
	for (uint32_t i = 0; i < 64; i++)
		assert_landed(&linked, &fetches[i]);
	linked_end(&linked);
}

static void a_chunk_longer_than_the_adapter_reads_comes_in_pieces(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	linked_lend(&linked);
	fake_hold_reads(true);
	struct hf_fetch fetch = linked_fetch(&linked, 0, 1, 0, (5u << 20) + 4096, HF_FETCH_URGENT);
	linked_post(&linked, &fetch);
	assert_int_equal(fake_reads_waiting(), 6);
	fake_let_reads(5, IBV_WC_SUCCESS);
	assert_int_equal(linked.destination_engine->done_total, 0);
	fake_hold_reads(false);
	engine_wait_done(linked.destination_engine, 1);
	assert_landed(&linked, &fetch);
	linked_end(&linked);
}

static void fetches_wait_until_the_source_has_told_its_keys(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	struct hf_fetch fetch = linked_fetch(&linked, 3, 0, 4096, 4096, HF_FETCH_URGENT);
	linked_post(&linked, &fetch);
	assert_int_equal(fake_reads_waiting(), 0);
	assert_int_equal(linked.destination_engine->done_total, 0);
	linked_lend(&linked);
	engine_wait_done(linked.destination_engine, 1);
	assert_landed(&linked, &fetch);
	linked_end(&linked);
}

static void the_link_is_measured_before_memory_is_lent(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	uint8_t *block = hf_link_probe_block_create();
	struct hf_fetch fetch = linked_fetch(&linked, 0, 0, 4096, 1u << 20, HF_FETCH_URGENT);
	fetch.block = HF_WIRE_PROBE_BLOCK;
	linked_post(&linked, &fetch);
	engine_wait_done(linked.destination_engine, 1);
	assert_int_equal(linked.destination_engine->done_by_status[HF_FETCH_OK], 1);
	assert_memory_equal(fetch.landing, block + 4096, fetch.length_bytes);
	free(block);
	linked_end(&linked);
}

static void memory_is_readable_only_between_the_wish_for_keys_and_the_end(void **state)
{
	(void)state;
	struct linked linked;
	uint64_t address = 0;
	linked_begin(&linked, 1, 1);
	assert_int_equal(fake_readable_bytes(), HF_LINK_PROBE_BYTES);
	linked_lend(&linked);
	assert_int_equal(fake_readable_bytes(), HF_LINK_PROBE_BYTES + ENGINE_BLOCKS * ENGINE_BLOCK_BYTES);
	assert_true(hf_rdma_registration_ns(linked.source) > 0);
	assert_true(hf_rdma_registration_ns(linked.destination) > 0);
	uint32_t key = fake_last_rkey(&address);
	assert_int_equal(fake_read_with(key, address, 4096), IBV_WC_SUCCESS);
	hf_rdma_shutdown(linked.destination, NULL);
	engine_wait_down(linked.source_engine);
	assert_int_equal(fake_readable_bytes(), 0);
	assert_int_equal(fake_read_with(key, address, 4096), IBV_WC_REM_ACCESS_ERR);
	linked_end(&linked);
}

static void an_urgent_read_does_not_wait_behind_background_ones(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	linked_lend(&linked);
	fake_hold_reads(true);
	for (uint32_t i = 0; i < 32; i++) {
		struct hf_fetch fetch = linked_fetch(&linked, i, 0, i * 4096, 4096, HF_FETCH_BACKGROUND);
		linked_post(&linked, &fetch);
	}
	struct hf_fetch urgent = linked_fetch(&linked, 100, 1, 0, 4096, HF_FETCH_URGENT);
	linked_post(&linked, &urgent);
	/* Queue pairs are in the order they were made: control, urgent, background. */
	fake_let_reads(1, IBV_WC_SUCCESS);
	engine_wait_done(linked.destination_engine, 1);
	assert_true(linked.destination_engine->done_ok[100]);
	fake_hold_reads(false);
	engine_wait_done(linked.destination_engine, 33);
	linked_end(&linked);
}

static void a_class_that_is_full_says_so(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	linked_lend(&linked);
	fake_hold_reads(true);
	uint32_t capacity = hf_rdma_info(linked.destination)->capacity_chunks[HF_FETCH_URGENT];
	for (uint32_t i = 0; i <= capacity; i++) {
		struct hf_fetch fetch = linked_fetch(&linked, i, 0, i * 4096, 4096, HF_FETCH_URGENT);
		int result = linked.to_source.ops->fetch(linked.to_source.self, &fetch);
		assert_int_equal(result, i < capacity ? 0 : -EAGAIN);
	}
	fake_hold_reads(false);
	engine_wait_done(linked.destination_engine, capacity);
	linked_end(&linked);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(chunks_land_where_they_are_to, begin),
	    cmocka_unit_test_setup(a_chunk_longer_than_the_adapter_reads_comes_in_pieces, begin),
	    cmocka_unit_test_setup(fetches_wait_until_the_source_has_told_its_keys, begin),
	    cmocka_unit_test_setup(the_link_is_measured_before_memory_is_lent, begin),
	    cmocka_unit_test_setup(memory_is_readable_only_between_the_wish_for_keys_and_the_end, begin),
	    cmocka_unit_test_setup(an_urgent_read_does_not_wait_behind_background_ones, begin),
	    cmocka_unit_test_setup(a_class_that_is_full_says_so, begin),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
