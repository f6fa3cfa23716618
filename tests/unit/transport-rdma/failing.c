/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-rdma/pair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "transport-rdma/internal.h"

static int begin(void **state)
{
	(void)state;
	fake_begin();
	return 0;
}

static void post_held(struct linked *linked, uint32_t count, enum hf_fetch_class class)
{
	fake_hold_reads(true);
	for (uint32_t i = 0; i < count; i++) {
		struct hf_fetch fetch = linked_fetch(linked, i, 0, i * 4096, 4096, class);
		linked_post(linked, &fetch);
	}
	assert_int_equal(fake_reads_waiting(), count);
}

/* What is told when READs fail: all of them, once, when no adapter can touch their landings any more. */
static void check_read_error(enum ibv_wc_status status, enum hf_err_class class, int error_number)
{
	struct linked linked;
	fake_begin();
	linked_begin(&linked, 1, 1);
	linked_lend(&linked);
	post_held(&linked, 20, HF_FETCH_URGENT);
	fake_let_reads(8, status);
	engine_wait_down(linked.destination_engine);
	assert_int_equal(linked.destination_engine->done_by_status[HF_FETCH_OK], 7);
	assert_int_equal(linked.destination_engine->done_by_status[HF_FETCH_FAILED], 13);
	assert_int_equal(linked.destination_engine->why.class, class);
	assert_int_equal(linked.destination_engine->why.errnum, error_number);
	engine_wait_down(linked.source_engine);
	assert_int_equal(linked.source_engine->why.class, HF_ERR_LINK);
	linked_end(&linked);
}

static void every_error_of_a_read_has_its_class(void **state)
{
	(void)state;
	check_read_error(IBV_WC_RETRY_EXC_ERR, HF_ERR_LINK, ETIMEDOUT);
	check_read_error(IBV_WC_RNR_RETRY_EXC_ERR, HF_ERR_LINK, ETIMEDOUT);
	check_read_error(IBV_WC_RESP_TIMEOUT_ERR, HF_ERR_LINK, ETIMEDOUT);
	check_read_error(IBV_WC_WR_FLUSH_ERR, HF_ERR_LINK, ECONNRESET);
	check_read_error(IBV_WC_REM_ABORT_ERR, HF_ERR_LINK, ECONNRESET);
	check_read_error(IBV_WC_REM_ACCESS_ERR, HF_ERR_PEER, EPROTO);
	check_read_error(IBV_WC_REM_INV_REQ_ERR, HF_ERR_PEER, EPROTO);
	check_read_error(IBV_WC_REM_INV_RD_REQ_ERR, HF_ERR_PEER, EPROTO);
	check_read_error(IBV_WC_REM_OP_ERR, HF_ERR_PEER, EPROTO);
	check_read_error(IBV_WC_LOC_PROT_ERR, HF_ERR_LOCAL, EIO);
	check_read_error(IBV_WC_LOC_LEN_ERR, HF_ERR_LOCAL, EIO);
	check_read_error(IBV_WC_LOC_QP_OP_ERR, HF_ERR_LOCAL, EIO);
	check_read_error(IBV_WC_FATAL_ERR, HF_ERR_LOCAL, EIO);
	check_read_error(IBV_WC_GENERAL_ERR, HF_ERR_LOCAL, EIO);
}

static _Atomic uint32_t most_reads_waiting;

/* In the channel's thread, where nothing may be asserted. */
static void note_reads_waiting(struct engine *engine, uint64_t id)
{
	(void)engine;
	(void)id;
	if (fake_reads_waiting() > most_reads_waiting)
		most_reads_waiting = fake_reads_waiting();
}

/* A fetch that has failed is not the adapter's any more: there is no READ that could still be done. */
static void what_fails_is_told_when_no_adapter_can_touch_it(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	linked_lend(&linked);
	post_held(&linked, 40, HF_FETCH_BACKGROUND);
	most_reads_waiting = 0;
	linked.destination_engine->on_done = note_reads_waiting;
	hf_rdma_shutdown(linked.destination, NULL);
	engine_wait_down(linked.destination_engine);
	assert_int_equal(most_reads_waiting, 0);
	assert_int_equal(linked.destination_engine->done_by_status[HF_FETCH_CANCELLED], 40);
	linked_end(&linked);
}

static void the_end_of_one_side_is_the_end_of_the_other(void **state)
{
	(void)state;
	for (int side = 0; side < 2; side++) {
		struct linked linked;
		fake_begin();
		linked_begin(&linked, 2, 2);
		linked_lend(&linked);
		post_held(&linked, 10, HF_FETCH_URGENT);
		hf_rdma_shutdown(side ? linked.source : linked.destination, NULL);
		engine_wait_down(linked.source_engine);
		engine_wait_down(linked.destination_engine);
		assert_int_equal(linked.destination_engine->done_total, 10);
		linked_end(&linked);
	}
}

static void after_the_end_nothing_is_taken(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	hf_rdma_shutdown(linked.destination, NULL);
	engine_wait_down(linked.destination_engine);
	struct hf_fetch fetch = linked_fetch(&linked, 0, 0, 0, 4096, HF_FETCH_URGENT);
	assert_int_equal(linked.to_source.ops->fetch(linked.to_source.self, &fetch), -ENOTCONN);
	assert_int_equal(linked.to_source.ops->send(linked.to_source.self, 1, HF_WIRE_LOADED, NULL, 0),
			 -ENOTCONN);
	linked_end(&linked);
}

static void memory_that_cannot_be_registered_ends_the_link_with_a_reason(void **state)
{
	(void)state;
	struct hf_err err = HF_ERR_INIT;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	struct hf_lent_range none = {linked.landings, 4096};
	fake_fail_registrations(ENOMEM);
	assert_int_equal(hf_rdma_lend(linked.destination, &none, 1, true, &err), -ENOMEM);
	assert_int_equal(err.class, HF_ERR_LOCAL);
	fake_fail_registrations(0);
	linked_end(&linked);

	/* The source's: the destination hears of a lost link, its own log says why. */
	fake_begin();
	linked_begin(&linked, 1, 1);
	struct hf_lent_range nothing = {NULL, 0};
	fake_fail_registrations(EFAULT);
	assert_true(hf_rdma_lend(linked.destination, &nothing, 1, true, &err) < 0);
	engine_wait_down(linked.source_engine);
	assert_int_equal(linked.source_engine->why.class, HF_ERR_LOCAL);
	assert_non_null(strstr(linked.source_engine->why.text, "cannot be registered"));
	engine_wait_down(linked.destination_engine);
	linked_end(&linked);
}

static void a_chunk_that_is_not_lent_is_a_violation(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	linked_lend(&linked);
	struct hf_fetch fetch = linked_fetch(&linked, 0, 1, ENGINE_BLOCK_BYTES - 4096, 8192, HF_FETCH_URGENT);
	fetch.landing = linked.landings;
	linked_post(&linked, &fetch);
	engine_wait_down(linked.destination_engine);
	assert_int_equal(linked.destination_engine->why.class, HF_ERR_PEER);
	assert_non_null(strstr(linked.destination_engine->why.text, "does not lend block 1"));
	assert_int_equal(linked.destination_engine->done_by_status[HF_FETCH_FAILED], 1);
	linked_end(&linked);
}

static void a_landing_that_cannot_be_registered_ends_the_link(void **state)
{
	(void)state;
	struct linked linked;
	uint8_t elsewhere[4096];
	linked_begin(&linked, 1, 1);
	linked_lend(&linked);
	fake_fail_registrations(ENOMEM);
	struct hf_fetch fetch = linked_fetch(&linked, 0, 0, 0, 4096, HF_FETCH_URGENT);
	fetch.landing = elsewhere;
	linked_post(&linked, &fetch);
	engine_wait_down(linked.destination_engine);
	assert_int_equal(linked.destination_engine->why.class, HF_ERR_LOCAL);
	assert_int_equal(linked.destination_engine->done_by_status[HF_FETCH_FAILED], 1);
	fake_fail_registrations(0);
	linked_end(&linked);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(every_error_of_a_read_has_its_class, begin),
	    cmocka_unit_test_setup(what_fails_is_told_when_no_adapter_can_touch_it, begin),
	    cmocka_unit_test_setup(the_end_of_one_side_is_the_end_of_the_other, begin),
	    cmocka_unit_test_setup(after_the_end_nothing_is_taken, begin),
	    cmocka_unit_test_setup(memory_that_cannot_be_registered_ends_the_link_with_a_reason, begin),
	    cmocka_unit_test_setup(a_chunk_that_is_not_lent_is_a_violation, begin),
	    cmocka_unit_test_setup(a_landing_that_cannot_be_registered_ends_the_link, begin),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
