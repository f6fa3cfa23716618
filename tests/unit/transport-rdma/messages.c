/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-rdma/pair.h"

#include <errno.h>
#include <stdlib.h>

#include "transport-rdma/internal.h"

#define MESSAGES 400u

static int begin(void **state)
{
	(void)state;
	fake_begin();
	return 0;
}

static size_t length_of(uint32_t number)
{
	return number % 50 == 7 ? HF_WIRE_FRAME_MAX_BYTES : 1 + number * 977 % 40000;
}

static void send_all(const struct hf_transport *port)
{
	uint8_t *payload = malloc(HF_WIRE_FRAME_MAX_BYTES);
	for (uint32_t i = 0; i < MESSAGES; i++) {
		message_payload(i, payload, length_of(i));
		assert_int_equal(port->ops->send(port->self, 1, HF_WIRE_DEVICE, payload, length_of(i)), 0);
	}
	free(payload);
}

/* Credits are counted right, or the fake finds a SEND without a receive. */
static void messages_of_any_size_come_in_order_both_ways_at_once(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	send_all(&linked.to_destination);
	send_all(&linked.to_source);
	engine_wait_messages(linked.destination_engine, MESSAGES);
	engine_wait_messages(linked.source_engine, MESSAGES);
	assert_int_equal(linked.destination_engine->wrong_messages, 0);
	assert_int_equal(linked.source_engine->wrong_messages, 0);
	linked_end(&linked);
}

/* The fake takes no more with a request than it has said. */
static void small_messages_go_with_their_requests_where_the_adapter_can(void **state)
{
	static const struct {
		uint32_t bytes;
		bool refused, used;
	} adapters[] = {{64, false, true}, {4096, false, true}, {0, false, false}, {64, true, false}};
	(void)state;
	for (size_t i = 0; i < sizeof(adapters) / sizeof(adapters[0]); i++) {
		struct linked linked;
		fake_begin();
		fake_set_inline(adapters[i].bytes, adapters[i].refused);
		linked_begin(&linked, 1, 1);
		send_all(&linked.to_destination);
		engine_wait_messages(linked.destination_engine, MESSAGES);
		assert_int_equal(linked.destination_engine->wrong_messages, 0);
		assert_int_equal(fake_inline_sends() > 0, adapters[i].used);
		linked_end(&linked);
	}
}

static void what_was_flushed_is_heard_though_the_link_is_closed_at_once(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++) {
		struct linked linked;
		uint8_t payload[8];
		fake_begin();
		linked_begin(&linked, 1, 1);
		message_payload(0, payload, sizeof(payload));
		assert_int_equal(linked.to_destination.ops->send(linked.to_destination.self, 1,
								 HF_WIRE_DEVICE, payload, sizeof(payload)),
				 0);
		assert_int_equal(hf_rdma_flush(linked.source, ENGINE_WAIT_MS), 0);
		hf_rdma_shutdown(linked.source, NULL);
		engine_wait_down(linked.destination_engine);
		assert_int_equal(linked.destination_engine->messages, 1);
		linked_end(&linked);
	}
}

static void messages_of_another_connection_are_not_taken(void **state)
{
	(void)state;
	struct linked linked;
	linked_begin(&linked, 1, 1);
	assert_int_equal(linked.to_source.ops->send(linked.to_source.self, 2, HF_WIRE_LOADED, NULL, 0),
			 -ENOTCONN);
	assert_int_equal(linked.to_source.ops->send(linked.to_source.self, 1, 9999, NULL, 0), -EINVAL);
	assert_int_equal(linked.to_source.ops->send(linked.to_source.self, 1, HF_WIRE_DEVICE, NULL,
						    HF_WIRE_FRAME_MAX_BYTES + 1),
			 -EMSGSIZE);
	linked_end(&linked);
}

static void check_header(uint32_t kind, uint32_t credits, uint32_t length_bytes, size_t bytes, int wanted)
{
	uint8_t buffer[RDMA_MESSAGE_HEADER_BYTES];
	struct rdma_message_header header = {(enum rdma_message_kind)kind, credits, length_bytes};
	struct hf_err err = HF_ERR_INIT;
	rdma_encode_header(&header, buffer);
	assert_int_equal(rdma_decode_header(buffer, bytes, &header, &err), wanted);
}

static void impossible_headers_are_refused(void **state)
{
	(void)state;
	check_header(RDMA_MESSAGE_KEYS, RDMA_CREDITS, 100, 108, 0);
	check_header(RDMA_MESSAGE_KEYS + 1, 0, 100, 108, -EPROTO);
	check_header(RDMA_MESSAGE_FRAMES, RDMA_CREDITS + 1, 100, 108, -EPROTO);
	check_header(RDMA_MESSAGE_FRAMES, 0, 101, 108, -EPROTO);
	check_header(RDMA_MESSAGE_FRAMES, 0, UINT32_MAX, 108, -EPROTO);
	check_header(RDMA_MESSAGE_NOTHING, 0, 0, 7, -EPROTO);
}

static void check_keys(const struct rdma_key *key, size_t cut_bytes, int wanted)
{
	uint8_t buffer[RDMA_MESSAGE_BYTES];
	struct rdma_keys keys = {.last = true, .count = 1, .key = {*key}}, again;
	struct hf_err err = HF_ERR_INIT;
	size_t bytes = rdma_encode_keys(&keys, buffer);
	assert_int_equal(rdma_decode_keys(buffer, bytes - cut_bytes, &again, &err), wanted);
	if (!wanted)
		assert_memory_equal(&again.key[0], key, sizeof(*key));
}

static void impossible_keys_are_refused(void **state)
{
	(void)state;
	check_keys(&(struct rdma_key){3, 77, 1ull << 40, 4096, 8192}, 0, 0);
	check_keys(&(struct rdma_key){3, 77, 1ull << 40, 4096, 8192}, 1, -EPROTO);
	check_keys(&(struct rdma_key){3, 77, 1ull << 40, 4096, 8192}, 36, -EPROTO);
	check_keys(&(struct rdma_key){3, 77, 1ull << 40, 4096, 0}, 0, -EPROTO);
	check_keys(&(struct rdma_key){3, 77, UINT64_MAX - 8, 4096, 8192}, 0, -EPROTO);
	check_keys(&(struct rdma_key){3, 77, 4096, UINT64_MAX - 8, 8192}, 0, -EPROTO);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(messages_of_any_size_come_in_order_both_ways_at_once, begin),
	    cmocka_unit_test_setup(small_messages_go_with_their_requests_where_the_adapter_can, begin),
	    cmocka_unit_test_setup(what_was_flushed_is_heard_though_the_link_is_closed_at_once, begin),
	    cmocka_unit_test_setup(messages_of_another_connection_are_not_taken, begin),
	    cmocka_unit_test_setup(impossible_headers_are_refused, begin),
	    cmocka_unit_test_setup(impossible_keys_are_refused, begin),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
