/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-tcp/rig.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "transport-tcp/internal.h" // to make the queue's limit small

static const size_t lengths_bytes[] = {1,    2,	    7,	   8,	   9,	    4095,   4096,
				       4097, 65535, 65536, 262144, 1048575, 1 << 20};
#define LENGTHS (sizeof(lengths_bytes) / sizeof(lengths_bytes[0]))

static uint8_t payload[HF_WIRE_FRAME_MAX_BYTES + 1];

static void send_number(const struct hf_transport *port, uint32_t number, size_t length_bytes)
{
	message_payload(number, payload, length_bytes);
	assert_int_equal(port->ops->send(port->self, RIG_EPOCH, HF_WIRE_DEVICE, payload, length_bytes), 0);
}

static void messages_of_all_sizes_arrive_in_order_both_ways_at_once(void **state)
{
	const uint32_t rounds = 6;
	const char *const uris[] = {"tcp:127.0.0.1:0", unix_uri()};
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct pair pair;
		uint64_t total_bytes = 0;
		pair_open(&pair, uris[i], 1, 1);
		pair_start(&pair);
		for (uint32_t n = 0; n < rounds * LENGTHS; n++) {
			send_number(&pair.to_destination, n, lengths_bytes[n % LENGTHS]);
			send_number(&pair.to_source, n, lengths_bytes[n % LENGTHS]);
			total_bytes += lengths_bytes[n % LENGTHS];
		}
		engine_wait_messages(pair.destination_engine, rounds * LENGTHS);
		engine_wait_messages(pair.source_engine, rounds * LENGTHS);
		assert_int_equal(pair.destination_engine->wrong_messages, 0);
		assert_int_equal(pair.source_engine->wrong_messages, 0);
		assert_int_equal(pair.destination_engine->message_bytes, total_bytes);
		assert_int_equal(pair.source_engine->message_bytes, total_bytes);
		pair_close(&pair);
	}
}

static void many_small_messages_keep_their_order_and_bytes(void **state)
{
	struct pair pair;
	const uint32_t total = 20000;
	(void)state;
	pair_open(&pair, "tcp:127.0.0.1:0", 1, 1);
	pair_start(&pair);
	for (uint32_t n = 0; n < total; n++)
		send_number(&pair.to_destination, n, 1 + n % 23);
	engine_wait_messages(pair.destination_engine, total);
	assert_int_equal(pair.destination_engine->wrong_messages, 0);
	assert_int_equal(pair.destination_engine->messages, total);
	pair_close(&pair);
}

static void what_cannot_be_sent_is_refused(void **state)
{
	struct pair pair;
	(void)state;
	pair_open(&pair, "tcp:127.0.0.1:0", 1, 1);
	struct hf_transport port = pair.to_source;
	assert_int_equal(port.ops->send(port.self, RIG_EPOCH, HF_WIRE_RUN, NULL, 0),
			 -ENOTCONN); // not started
	pair_start(&pair);
	assert_int_equal(port.ops->send(port.self, 6, HF_WIRE_RUN, NULL, 0), -ENOTCONN);
	assert_int_equal(port.ops->send(port.self, RIG_EPOCH, 9999, NULL, 0), -EINVAL);
	assert_int_equal(port.ops->send(port.self, RIG_EPOCH, HF_WIRE_RUN, payload, 1), -EINVAL);
	assert_int_equal(port.ops->send(port.self, RIG_EPOCH, HF_WIRE_DEVICE, payload, sizeof(payload)),
			 -EMSGSIZE);
	assert_int_equal(port.ops->send(port.self, RIG_EPOCH, HF_WIRE_RUN, NULL, 0), 0);
	engine_wait_messages(pair.source_engine, 1);
	assert_int_equal(pair.source_engine->last_type, HF_WIRE_RUN);
	hf_tcp_shutdown(pair.destination, NULL);
	assert_int_equal(port.ops->send(port.self, RIG_EPOCH, HF_WIRE_RUN, NULL, 0), -ENOTCONN);
	pair_close(&pair);
}

/* The peer reads nothing: send() returns at once every time, and at the limit with an error. */
static void a_peer_that_does_not_read_fills_a_bounded_queue(void **state)
{
	struct engine *engine = engine_new();
	struct raw raw;
	(void)state;
	struct hf_tcp *tcp = raw_source_open(&raw, "tcp:127.0.0.1:0", 1, 1, engine);
	struct hf_transport port = hf_tcp_transport(tcp);
	tcp->outbox.most_bytes = 32u << 20;
	uint32_t sent = 0;
	int result;
	while (!(result = port.ops->send(port.self, RIG_EPOCH, HF_WIRE_DEVICE, payload, 1 << 20)))
		assert_in_range(++sent, 1, 100); // the queue's 32 and what the kernel's buffers hold
	assert_int_equal(result, -ENOBUFS);
	assert_in_range(sent, 31, 100);
	/* What was refused is lost, so the link is of no use any more: it goes down and says why. */
	assert_int_equal(port.ops->send(port.self, RIG_EPOCH, HF_WIRE_RUN, NULL, 0), -ENOTCONN);
	hf_tcp_close(tcp);
	assert_int_equal(engine->downs, 1);
	raw_close(&raw);
	engine_free(engine);
}

static void a_device_state_of_the_largest_size_fits_the_queue(void **state)
{
	(void)state;
	// With the header of every frame, and room for what else is on the way.
	size_t frames = HF_WIRE_DEVICE_STATE_MAX_BYTES / HF_WIRE_FRAME_MAX_BYTES;
	assert_true(HF_WIRE_DEVICE_STATE_MAX_BYTES + frames * HF_WIRE_FRAME_HEADER_BYTES + (32u << 20) <
		    HF_OUTBOX_MOST_BYTES);
}

static void flush_delivers_the_last_messages_before_close(void **state)
{
	(void)state;
	for (int i = 0; i < 60; i++) {
		struct pair pair;
		const uint32_t total = 1 + (uint32_t)i % 4;
		pair_open(&pair, i % 2 ? unix_uri() : "tcp:127.0.0.1:0", 2, 2);
		pair_start(&pair);
		// The page channels end at the same time as the control channel, which has most to read.
		for (uint32_t n = 0; n < total; n++)
			send_number(&pair.to_destination, n, i % 3 ? 1 : 700000);
		assert_int_equal(hf_tcp_flush(pair.source, ENGINE_WAIT_MS), 0);
		hf_tcp_close(pair.source);
		pair.source = NULL;
		engine_wait_down(pair.destination_engine);
		assert_int_equal(pair.destination_engine->messages, total);
		assert_int_equal(pair.destination_engine->wrong_messages, 0);
		pair_close(&pair);
	}
}

struct last_words {
	struct raw raw;
	struct hf_transport port;
};

static const uint8_t run_frame[HF_WIRE_FRAME_HEADER_BYTES] = {0, 0, 0, HF_WIRE_RUN, 0, 0, 0, 0};

static void say_more_and_break_a_page_channel(struct engine *engine, uint32_t type)
{
	struct last_words *words = engine->opaque;
	if (engine->messages > 1)
		return;
	raw_send(words->raw.control, run_frame, sizeof(run_frame));
	close(words->raw.pages[0]);
	words->raw.pages[0] = -1;
	const uint64_t limit_ms = now_ms() + ENGINE_WAIT_MS;
	while (words->port.ops->send(words->port.self, RIG_EPOCH, type, NULL, 0) != -ENOTCONN)
		assert_true(now_ms() < limit_ms);
}

/* It has arrived when the link is found broken, and nobody has read it. */
static void what_arrived_before_the_link_broke_is_delivered(void **state)
{
	struct engine *engine = engine_new();
	struct last_words words;
	(void)state;
	struct hf_tcp *tcp = raw_destination_open(&words.raw, 1, 1, engine);
	words.port = hf_tcp_transport(tcp);
	engine->opaque = &words;
	engine->on_message = say_more_and_break_a_page_channel;
	raw_send(words.raw.control, run_frame, sizeof(run_frame));
	engine_wait_down(engine);
	assert_int_equal(engine->messages, 2);
	hf_tcp_close(tcp);
	raw_close(&words.raw);
	engine_free(engine);
}

/* Everything is in this kernel's buffer and not yet in the peer's: closing now could lose it. */
static void flush_waits_until_the_peers_host_has_the_bytes(void **state)
{
	const int small = 4096, large = 212992;
	const size_t length_bytes = 180000;
	struct engine *engine = engine_new();
	struct raw raw;
	(void)state;
	struct hf_tcp *tcp = raw_source_open(&raw, "tcp:127.0.0.1:0", 1, 1, engine);
	struct hf_transport port = hf_tcp_transport(tcp);
	assert_int_equal(setsockopt(raw.control, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	assert_int_equal(setsockopt(tcp->control_fd, SOL_SOCKET, SO_SNDBUF, &large, sizeof(large)), 0);
	send_number(&port, 0, length_bytes);
	assert_int_equal(hf_tcp_flush(tcp, 100), -ETIMEDOUT);
	hf_lock(&tcp->life.lock);
	assert_null(tcp->outbox.first);
	hf_unlock(&tcp->life.lock);
	raw_recv(raw.control, payload, HF_WIRE_FRAME_HEADER_BYTES + length_bytes);
	assert_int_equal(hf_tcp_flush(tcp, ENGINE_WAIT_MS), 0);
	hf_tcp_close(tcp);
	raw_close(&raw);
	engine_free(engine);
}

static void flush_says_when_messages_are_lost(void **state)
{
	struct engine *engine = engine_new();
	struct raw raw;
	(void)state;
	struct hf_tcp *tcp = raw_source_open(&raw, "tcp:127.0.0.1:0", 1, 1, engine);
	struct hf_transport port = hf_tcp_transport(tcp);
	assert_int_equal(hf_tcp_flush(tcp, 0), 0); // nothing to wait for
	for (int i = 0; i < 40; i++)
		assert_int_equal(port.ops->send(port.self, RIG_EPOCH, HF_WIRE_DEVICE, payload, 1 << 20), 0);
	raw_close(&raw);
	assert_int_equal(hf_tcp_flush(tcp, ENGINE_WAIT_MS), -ENOTCONN);
	hf_tcp_close(tcp);
	engine_free(engine);
}

static void answer_in_event(struct engine *engine, uint32_t type)
{
	struct hf_transport *port = engine->opaque;
	if (type == HF_WIRE_RUN)
		port->ops->send(port->self, RIG_EPOCH, HF_WIRE_RESUMED, NULL, 0);
}

static void a_message_may_be_answered_from_its_event(void **state)
{
	struct pair pair;
	(void)state;
	pair_open(&pair, unix_uri(), 1, 1);
	pair.destination_engine->opaque = &pair.to_source;
	pair.destination_engine->on_message = answer_in_event;
	pair_start(&pair);
	for (int i = 0; i < 100; i++) {
		struct hf_transport port = pair.to_destination;
		assert_int_equal(port.ops->send(port.self, RIG_EPOCH, HF_WIRE_RUN, NULL, 0), 0);
	}
	engine_wait_messages(pair.source_engine, 100);
	assert_int_equal(pair.source_engine->last_type, HF_WIRE_RESUMED);
	pair_close(&pair);
}

/* ---- hostile frames --------------------------------------------------------------------------- */

static void a_frame_that_breaks_the_rules_ends_the_link(void **state)
{
	static const uint8_t frames[][HF_WIRE_FRAME_HEADER_BYTES] = {
	    {0, 0, 0, 0, 0, 0, 0, 0},		    // no such type
	    {0x7f, 0, 0, 4, 0, 0, 0, 1},	    // no such type
	    {0, 0, 0, HF_WIRE_DEVICE, 0, 16, 0, 1}, // one byte over the limit
	    {0, 0, 0, HF_WIRE_DEVICE, 255, 255, 255, 255},
	    {0, 0, 0, HF_WIRE_RUN, 0, 0, 0, 1}, // a payload where none belongs
	    {'G', 'E', 'T', ' ', '/', ' ', 'H', 'T'},
	};
	(void)state;
	for (size_t i = 0; i < 2 * sizeof(frames) / sizeof(frames[0]); i++) {
		struct engine *engine = engine_new();
		struct raw raw;
		struct hf_tcp *tcp = i % 2 ? raw_source_open(&raw, "tcp:127.0.0.1:0", 1, 1, engine)
					   : raw_destination_open(&raw, 1, 1, engine);
		raw_send(raw.control, frames[i / 2], sizeof(frames[0]));
		engine_wait_down(engine);
		assert_int_equal(engine->why.class, HF_ERR_PEER);
		assert_non_null(strstr(engine->why.text, "control channel"));
		assert_int_equal(engine->messages, 0);
		hf_tcp_close(tcp);
		raw_close(&raw);
		engine_free(engine);
	}
}

static void a_frame_cut_short_is_a_lost_link(void **state)
{
	static const uint8_t frame[] = {0, 0, 0, HF_WIRE_DEVICE, 0, 0, 0, 4, 1, 2, 3};
	(void)state;
	for (size_t length = 1; length <= sizeof(frame); length++) {
		struct engine *engine = engine_new();
		struct raw raw;
		struct hf_tcp *tcp = raw_destination_open(&raw, 1, 1, engine);
		raw_send(raw.control, frame, length);
		shutdown(raw.control, SHUT_WR);
		engine_wait_down(engine);
		assert_int_equal(engine->why.class, HF_ERR_LINK);
		assert_int_equal(engine->messages, 0);
		hf_tcp_close(tcp);
		raw_close(&raw);
		engine_free(engine);
	}
}

static void frames_may_arrive_byte_by_byte(void **state)
{
	static const uint8_t frames[] = {0, 0, 0, HF_WIRE_DEVICE, 0, 0, 0, 2, 0, 7,
					 0, 0, 0, HF_WIRE_DEVICE, 0, 0, 0, 1, 31};
	struct engine *engine = engine_new();
	struct raw raw;
	(void)state;
	struct hf_tcp *tcp = raw_destination_open(&raw, 1, 1, engine);
	for (size_t i = 0; i < sizeof(frames); i++)
		raw_send(raw.control, frames + i, 1);
	engine_wait_messages(engine, 2);
	assert_int_equal(engine->wrong_messages, 0);
	hf_tcp_close(tcp);
	raw_close(&raw);
	engine_free(engine);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(messages_of_all_sizes_arrive_in_order_both_ways_at_once),
	    cmocka_unit_test(many_small_messages_keep_their_order_and_bytes),
	    cmocka_unit_test(what_cannot_be_sent_is_refused),
	    cmocka_unit_test(a_peer_that_does_not_read_fills_a_bounded_queue),
	    cmocka_unit_test(a_device_state_of_the_largest_size_fits_the_queue),
	    cmocka_unit_test(flush_delivers_the_last_messages_before_close),
	    cmocka_unit_test(what_arrived_before_the_link_broke_is_delivered),
	    cmocka_unit_test(flush_waits_until_the_peers_host_has_the_bytes),
	    cmocka_unit_test(flush_says_when_messages_are_lost),
	    cmocka_unit_test(a_message_may_be_answered_from_its_event),
	    cmocka_unit_test(a_frame_that_breaks_the_rules_ends_the_link),
	    cmocka_unit_test(a_frame_cut_short_is_a_lost_link),
	    cmocka_unit_test(frames_may_arrive_byte_by_byte),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
