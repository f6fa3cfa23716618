/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-tcp/rig.h"

#include "core/lock.h"
#include "tests/unit/core/death.h"

#include <errno.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define CHUNK_BYTES 65536u

static uint8_t landings[64][CHUNK_BYTES], page[CHUNK_BYTES];

/* Posts that many chunks to the class; ids from 0. */
static void post_chunks(const struct hf_transport *port, uint32_t count, enum hf_fetch_class class)
{
	for (uint32_t i = 0; i < count; i++) {
		struct hf_fetch fetch =
		    make_fetch(i, 0, (uint64_t)i * CHUNK_BYTES, CHUNK_BYTES, class, landings[i]);
		assert_int_equal(port->ops->fetch(port->self, &fetch), 0);
	}
}

static void assert_all_done(const struct engine *engine, uint32_t total)
{
	assert_int_equal(engine->downs, 1);
	assert_int_equal(engine->done_total, total);
	for (uint32_t i = 0; i < total; i++)
		assert_int_equal(engine->done_times[i], 1);
}

/* ---- the link is cut -------------------------------------------------------------------------- */

static void a_source_lost_in_the_middle_of_a_page_fails_every_fetch_once(void **state)
{
	(void)state;
	for (int reset = 0; reset < 2; reset++) {
		struct engine *engine = engine_new();
		struct raw raw;
		struct hf_tcp *tcp = raw_source_open(&raw, "tcp:127.0.0.1:0", 1, 2, engine);
		struct hf_transport port = hf_tcp_transport(tcp);
		post_chunks(&port, 40, HF_FETCH_BACKGROUND);
		struct hf_wire_request request = raw_recv_request(raw.pages[1]);
		raw_send_page_reply(raw.pages[1], &request, false, page);
		request = raw_recv_request(raw.pages[1]);
		raw_send_page_reply(raw.pages[1], &request, false, NULL);
		raw_send(raw.pages[1], page, CHUNK_BYTES / 2);
		engine_wait_done(engine, 1);
		struct linger now = {.l_onoff = reset, .l_linger = 0};
		setsockopt(raw.pages[1], SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		raw_close(&raw);
		engine_wait_down(engine);
		assert_int_equal(engine->why.class, HF_ERR_LINK);
		assert_non_null(strstr(engine->why.text, "tcp:127.0.0.1:"));
		assert_all_done(engine, 40);
		assert_int_equal(engine->done_by_status[HF_FETCH_OK], 1);
		assert_int_equal(engine->done_by_status[HF_FETCH_FAILED], 39);
		hf_tcp_close(tcp);
		engine_free(engine);
	}
}

static void nothing_touches_a_landing_after_link_down(void **state)
{
	static uint8_t snapshot[CHUNK_BYTES];
	struct engine *engine = engine_new();
	struct raw raw;
	(void)state;
	struct hf_tcp *tcp = raw_source_open(&raw, unix_uri(), 1, 1, engine);
	struct hf_transport port = hf_tcp_transport(tcp);
	memset(landings[0], 0xee, CHUNK_BYTES);
	memset(page, 0x11, CHUNK_BYTES);
	post_chunks(&port, 1, HF_FETCH_URGENT);
	struct hf_wire_request request = raw_recv_request(raw.pages[0]);
	raw_send_page_reply(raw.pages[0], &request, false, NULL);
	raw_send(raw.pages[0], page, CHUNK_BYTES / 2);
	hf_tcp_shutdown(tcp, NULL);
	engine_wait_down(engine);
	memcpy(snapshot, landings[0], CHUNK_BYTES);
	memset(page, 0x22, CHUNK_BYTES);
	send(raw.pages[0], page, CHUNK_BYTES / 2, MSG_NOSIGNAL);
	hf_tcp_close(tcp);
	assert_memory_equal(snapshot, landings[0], CHUNK_BYTES);
	assert_all_done(engine, 1);
	assert_int_equal(engine->done_by_status[HF_FETCH_CANCELLED], 1);
	raw_close(&raw);
	engine_free(engine);
}

/* Gives a link_down that would not wait every chance to come. */
static void dawdle(struct engine *engine, uint64_t id)
{
	(void)id;
	uint64_t until_ms = now_ms() + 200;
	bool down = false;
	while (!down && now_ms() < until_ms) {
		pthread_mutex_lock(&engine->lock);
		down = engine->downs > 0;
		pthread_mutex_unlock(&engine->lock);
		sched_yield();
	}
}

static void link_down_waits_for_a_done_that_is_being_told(void **state)
{
	struct engine *engine = engine_new();
	struct raw raw;
	(void)state;
	struct hf_tcp *tcp = raw_source_open(&raw, unix_uri(), 1, 1, engine);
	struct hf_transport port = hf_tcp_transport(tcp);
	engine->on_done = dawdle;
	post_chunks(&port, 2, HF_FETCH_URGENT);
	raw_close(&raw);
	engine_wait_down(engine);
	assert_all_done(engine, 2);
	hf_tcp_close(tcp);
	engine_free(engine);
}

static void any_one_channel_takes_the_whole_connection_down(void **state)
{
	(void)state;
	for (int lost = 0; lost < 4; lost++) {
		struct engine *engine = engine_new();
		struct raw raw;
		uint8_t byte;
		struct hf_tcp *tcp = raw_source_open(&raw, "tcp:127.0.0.1:0", 1, 2, engine);
		int *fds[4] = {&raw.control, &raw.pages[0], &raw.pages[1], &raw.pages[2]};
		close(*fds[lost]);
		*fds[lost] = -1;
		for (int i = 0; i < 4; i++)
			if (i != lost)
				assert_int_equal(raw_recv_all(*fds[i], &byte, 1), 0);
		engine_wait_down(engine);
		assert_int_equal(engine->why.class, HF_ERR_LINK);
		hf_tcp_close(tcp);
		raw_close(&raw);
		engine_free(engine);
	}
}

static void each_side_hears_of_the_others_end(void **state)
{
	(void)state;
	for (int who = 0; who < 2; who++) {
		struct pair pair;
		pair_open(&pair, who ? unix_uri() : "tcp:127.0.0.1:0", 1, 2);
		pair_start(&pair);
		hf_tcp_shutdown(who ? pair.source : pair.destination, NULL);
		engine_wait_down(pair.source_engine);
		engine_wait_down(pair.destination_engine);
		const struct hf_err *own = who ? &pair.source_engine->why : &pair.destination_engine->why;
		const struct hf_err *other = who ? &pair.destination_engine->why : &pair.source_engine->why;
		assert_int_equal(own->class, HF_ERR_CANCELLED);
		assert_int_equal(other->class, HF_ERR_LINK);
		pair_close(&pair);
	}
}

static void the_first_reason_is_the_one_reported(void **state)
{
	struct hf_err first = HF_ERR_INIT, second = HF_ERR_INIT;
	struct pair pair;
	(void)state;
	hf_err_set(&first, HF_ERR_LOCAL, EIO, "the first reason");
	hf_err_set(&second, HF_ERR_LOCAL, EIO, "the second reason");
	pair_open(&pair, "tcp:127.0.0.1:0", 1, 1);
	pair_start(&pair);
	hf_tcp_shutdown(pair.destination, &first);
	hf_tcp_shutdown(pair.destination, &second);
	hf_tcp_shutdown(pair.destination, NULL);
	engine_wait_down(pair.destination_engine);
	assert_string_equal(pair.destination_engine->why.text, "the first reason");
	assert_int_equal(pair.destination_engine->why.class, HF_ERR_LOCAL);
	pair_close(&pair);
}

static void a_connection_shut_down_before_its_start_goes_up_and_down(void **state)
{
	struct pair pair;
	(void)state;
	pair_open(&pair, "tcp:127.0.0.1:0", 1, 1);
	hf_tcp_shutdown(pair.destination, NULL);
	pair_start(&pair);
	engine_wait_down(pair.destination_engine);
	engine_wait_down(pair.source_engine);
	pair_close(&pair);
}

/* ---- the source breaks the protocol ----------------------------------------------------------- */

enum lie { LIE_ID, LIE_BLOCK, LIE_OFFSET, LIE_LENGTH, LIE_ORDER, LIE_UNASKED, LIE_FLAGS, LIE_GARBAGE, LIES };

static void tell_lie(const struct raw *raw, enum lie lie)
{
	int fd = raw->pages[0];
	uint8_t garbage[HF_WIRE_REPLY_BYTES];
	struct hf_wire_request request = raw_recv_request(fd);
	if (lie == LIE_ID)
		request.id++;
	else if (lie == LIE_BLOCK)
		request.block++;
	else if (lie == LIE_OFFSET)
		request.offset_bytes += 4096;
	else if (lie == LIE_LENGTH)
		request.length_bytes += 4096;
	else if (lie == LIE_ORDER)
		request = raw_recv_request(fd);
	else if (lie == LIE_UNASKED) {
		for (int i = 0; i < 5; i++) {
			raw_send_page_reply(fd, &request, true, NULL);
			if (i < 3)
				request = raw_recv_request(fd);
		}
		return;
	}
	if (lie == LIE_FLAGS || lie == LIE_GARBAGE) {
		struct hf_wire_reply reply = {.id = request.id,
					      .offset_bytes = request.offset_bytes,
					      .block = request.block,
					      .length_bytes = request.length_bytes};
		hf_wire_encode_reply(&reply, garbage, sizeof(garbage));
		garbage[lie == LIE_FLAGS ? HF_WIRE_REPLY_BYTES - 1 : 0] = 0x80;
		raw_send(fd, garbage, sizeof(garbage));
		return;
	}
	raw_send_page_reply(fd, &request, false, NULL);
}

static void a_reply_that_was_not_asked_for_is_a_violation(void **state)
{
	(void)state;
	for (enum lie lie = 0; lie < LIES; lie++) {
		struct engine *engine = engine_new();
		struct raw raw;
		struct hf_tcp *tcp = raw_source_open(&raw, unix_uri(), 1, 1, engine);
		struct hf_transport port = hf_tcp_transport(tcp);
		memset(landings, 0xee, sizeof(landings));
		post_chunks(&port, 4, HF_FETCH_URGENT);
		tell_lie(&raw, lie);
		engine_wait_down(engine);
		assert_int_equal(engine->why.class, HF_ERR_PEER);
		assert_non_null(strstr(engine->why.text, "urgent channel 0"));
		assert_all_done(engine, 4);
		assert_int_equal(engine->done_by_status[HF_FETCH_FAILED], lie == LIE_UNASKED ? 0 : 4);
		for (size_t i = 0; i < sizeof(landings); i++)
			assert_int_equal(((uint8_t *)landings)[i], 0xee);
		hf_tcp_close(tcp);
		raw_close(&raw);
		engine_free(engine);
	}
}

static void a_reply_cut_short_is_a_lost_link(void **state)
{
	(void)state;
	for (uint32_t length = 0; length <= HF_WIRE_REPLY_BYTES; length += 8) {
		struct engine *engine = engine_new();
		struct raw raw;
		uint8_t header[HF_WIRE_REPLY_BYTES];
		struct hf_tcp *tcp = raw_source_open(&raw, "tcp:127.0.0.1:0", 1, 1, engine);
		struct hf_transport port = hf_tcp_transport(tcp);
		post_chunks(&port, 2, HF_FETCH_URGENT);
		struct hf_wire_request request = raw_recv_request(raw.pages[0]);
		struct hf_wire_reply reply = {.id = request.id,
					      .offset_bytes = request.offset_bytes,
					      .block = request.block,
					      .length_bytes = request.length_bytes};
		hf_wire_encode_reply(&reply, header, sizeof(header));
		raw_send(raw.pages[0], header, length);
		shutdown(raw.pages[0], SHUT_WR);
		engine_wait_down(engine);
		assert_int_equal(engine->why.class, HF_ERR_LINK);
		assert_all_done(engine, 2);
		assert_int_equal(engine->done_by_status[HF_FETCH_FAILED], 2);
		hf_tcp_close(tcp);
		raw_close(&raw);
		engine_free(engine);
	}
}

/* ---- the destination breaks the protocol ------------------------------------------------------ */

static void a_request_that_breaks_the_rules_ends_the_link(void **state)
{
	static const struct hf_wire_request requests[] = {
	    {.id = 1, .block = ENGINE_BLOCKS, .length_bytes = 4096},
	    {.id = 1, .block = 0, .offset_bytes = ENGINE_BLOCK_BYTES, .length_bytes = 4096},
	    {.id = 1, .block = 0, .offset_bytes = ENGINE_BLOCK_BYTES - 4096, .length_bytes = 8192},
	    {.id = 1, .block = 0, .offset_bytes = UINT64_MAX - 65535, .length_bytes = 4096},
	};
	(void)state;
	for (size_t i = 0; i < 3 + sizeof(requests) / sizeof(requests[0]); i++) {
		struct engine *engine = engine_new();
		struct raw raw;
		uint8_t bytes[HF_WIRE_REQUEST_BYTES];
		struct hf_tcp *tcp = raw_destination_open(&raw, 1, 1, engine);
		hf_wire_encode_request(&requests[i < 3 ? 0 : i - 3], bytes, sizeof(bytes));
		if (i == 0)
			memset(bytes, 0, sizeof(bytes));
		else if (i == 1)
			memset(bytes, 0xff, sizeof(bytes));
		else if (i == 2)
			memset(bytes + 24, 0, 4); // no length
		raw_send(raw.pages[1], bytes, sizeof(bytes));
		engine_wait_down(engine);
		assert_int_equal(engine->why.class, HF_ERR_PEER);
		assert_non_null(strstr(engine->why.text, "background channel 0"));
		assert_int_equal(raw_recv_all(raw.pages[1], bytes, sizeof(bytes)), 0); // no answer
		hf_tcp_close(tcp);
		raw_close(&raw);
		engine_free(engine);
	}
}

static void a_request_cut_short_is_a_lost_link(void **state)
{
	struct hf_wire_request request = {.id = 1, .length_bytes = 4096};
	uint8_t bytes[HF_WIRE_REQUEST_BYTES];
	(void)state;
	hf_wire_encode_request(&request, bytes, sizeof(bytes));
	for (size_t length = 0; length < sizeof(bytes); length += 5) {
		struct engine *engine = engine_new();
		struct raw raw;
		struct hf_tcp *tcp = raw_destination_open(&raw, 1, 1, engine);
		raw_send(raw.pages[0], bytes, length);
		shutdown(raw.pages[0], SHUT_WR);
		engine_wait_down(engine);
		assert_int_equal(engine->why.class, HF_ERR_LINK);
		hf_tcp_close(tcp);
		raw_close(&raw);
		engine_free(engine);
	}
}

/* Memory nobody may touch: what a system call says EFAULT to, and a page that is gone is. */
static uint8_t *lost_memory(void)
{
	uint8_t *memory =
	    mmap(NULL, ENGINE_BLOCK_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	return memory;
}

static void assert_down_for_want_of_memory(struct engine *engine)
{
	engine_wait_down(engine);
	assert_int_equal(engine->why.class, HF_ERR_LOCAL);
	assert_non_null(strstr(engine->why.text, "guest memory of this side is gone"));
}

static void bytes_that_are_gone_are_not_called_a_broken_network(void **state)
{
	struct hf_wire_request request = {.id = 1, .offset_bytes = 4096, .length_bytes = 4096};
	uint8_t bytes[HF_WIRE_REQUEST_BYTES];
	struct engine *engine = engine_new();
	struct raw raw;
	(void)state;
	uint8_t *lost = lost_memory();
	engine->memory = lost;
	assert_false(chunk_is_zero(request.offset_bytes));
	struct hf_tcp *tcp = raw_destination_open(&raw, 1, 1, engine);
	hf_wire_encode_request(&request, bytes, sizeof(bytes));
	raw_send(raw.pages[0], bytes, sizeof(bytes));
	assert_down_for_want_of_memory(engine);
	hf_tcp_close(tcp);
	raw_close(&raw);
	engine_free(engine);
	munmap(lost, ENGINE_BLOCK_BYTES);
}

static void a_landing_that_is_gone_is_not_called_a_broken_network(void **state)
{
	struct engine *engine = engine_new();
	struct raw raw;
	(void)state;
	uint8_t *lost = lost_memory();
	struct hf_tcp *tcp = raw_source_open(&raw, unix_uri(), 1, 1, engine);
	struct hf_transport port = hf_tcp_transport(tcp);
	struct hf_fetch fetch = make_fetch(0, 0, 0, 4096, HF_FETCH_URGENT, lost);
	post(&port, &fetch);
	struct hf_wire_request request = raw_recv_request(raw.pages[0]);
	raw_send_page_reply(raw.pages[0], &request, false, source_memory());
	assert_down_for_want_of_memory(engine);
	assert_int_equal(engine->done_by_status[HF_FETCH_FAILED], 1);
	hf_tcp_close(tcp);
	raw_close(&raw);
	engine_free(engine);
	munmap(lost, ENGINE_BLOCK_BYTES);
}

static void requests_may_arrive_in_pieces_and_in_crowds(void **state)
{
	const uint32_t count = 200; // more than the source reads at once
	uint8_t *bytes = malloc(count * HF_WIRE_REQUEST_BYTES), got[4096];
	struct engine *engine = engine_new();
	struct raw raw;
	(void)state;
	struct hf_tcp *tcp = raw_destination_open(&raw, 1, 1, engine);
	for (uint32_t i = 0; i < count; i++) {
		struct hf_wire_request request = {.id = i, .offset_bytes = i * 4096ull, .length_bytes = 4096};
		hf_wire_encode_request(&request, bytes + i * HF_WIRE_REQUEST_BYTES, HF_WIRE_REQUEST_BYTES);
	}
	raw_send(raw.pages[0], bytes, 11);
	raw_send(raw.pages[0], bytes + 11, 41);
	for (uint32_t i = 0; i < count; i++) {
		struct hf_wire_reply reply;
		raw_recv(raw.pages[0], got, HF_WIRE_REPLY_BYTES);
		if (i == 0) // the source holds one whole request and a part of the next: now the rest
			raw_send(raw.pages[0], bytes + 52, count * HF_WIRE_REQUEST_BYTES - 52);
		assert_int_equal(hf_wire_decode_reply(got, HF_WIRE_REPLY_BYTES, &reply, NULL), 0);
		assert_int_equal(reply.id, i);
		assert_int_equal(reply.zero, chunk_is_zero(i * 4096ull));
		if (reply.zero)
			continue;
		raw_recv(raw.pages[0], got, 4096);
		assert_memory_equal(got, source_memory() + i * 4096ull, 4096);
	}
	hf_tcp_close(tcp);
	raw_close(&raw);
	engine_free(engine);
	free(bytes);
}

static void a_source_whose_peer_stops_reading_can_be_closed(void **state)
{
	struct engine *engine = engine_new();
	struct raw raw;
	uint8_t header[HF_WIRE_REPLY_BYTES];
	(void)state;
	struct hf_tcp *tcp = raw_destination_open(&raw, 1, 1, engine);
	for (uint32_t i = 0; i < 64; i++) {
		struct hf_wire_request request = {.id = i, .length_bytes = ENGINE_BLOCK_BYTES};
		uint8_t bytes[HF_WIRE_REQUEST_BYTES];
		hf_wire_encode_request(&request, bytes, sizeof(bytes));
		raw_send(raw.pages[0], bytes, sizeof(bytes));
	}
	raw_recv(raw.pages[0], header, sizeof(header)); // it is at it, and can never finish
	hf_tcp_close(tcp);
	assert_int_equal(engine->downs, 1);
	raw_close(&raw);
	engine_free(engine);
}

/* ---- while transfers run ---------------------------------------------------------------------- */

#define STREAM_FETCHES 4000u

/* Every done posts one more, until the link is down or the numbers run out. */
struct stream {
	struct hf_transport port;
	_Atomic uint32_t next, posted;
	uint8_t landing[STREAM_FETCHES][4096];
	struct hf_tcp *shut_down_at_half; /* from within an event */
};

/* From an event a full class is no reason to wait: waiting there would keep it full. */
static void stream_post(struct stream *stream, bool in_event)
{
	uint32_t number = atomic_fetch_add(&stream->next, 1);
	if (number >= STREAM_FETCHES)
		return;
	struct hf_fetch fetch =
	    make_fetch(number, number % 2, number % 64 * 4096ull, 4096, number % 2, stream->landing[number]);
	int result;
	while ((result = stream->port.ops->fetch(stream->port.self, &fetch)) == -EAGAIN && !in_event)
		sched_yield();
	if (!result)
		atomic_fetch_add(&stream->posted, 1);
	if (stream->shut_down_at_half && number == STREAM_FETCHES / 2)
		hf_tcp_shutdown(stream->shut_down_at_half, NULL);
}

static void stream_done(struct engine *engine, uint64_t id)
{
	(void)id;
	stream_post(engine->opaque, true);
}

static struct stream *stream_start(struct pair *pair, const char *uri)
{
	struct stream *stream = calloc(1, sizeof(*stream));
	pair_open(pair, uri, 2, 3);
	stream->port = pair->to_source;
	pair->destination_engine->opaque = stream;
	pair->destination_engine->on_done = stream_done;
	pair_start(pair);
	for (int i = 0; i < 100; i++)
		stream_post(stream, false);
	return stream;
}

static void assert_stream_balanced(const struct stream *stream, const struct engine *engine)
{
	assert_int_equal(engine->downs, 1);
	assert_int_equal(engine->done_total, stream->posted); // each once: the engine notes doubles
}

static void either_side_may_close_while_transfers_run(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 40; i++) {
		struct pair pair;
		struct stream *stream = stream_start(&pair, i % 4 < 2 ? "tcp:127.0.0.1:0" : unix_uri());
		engine_wait_done(pair.destination_engine, 1 + i * 50);
		if (i % 2) {
			hf_tcp_close(pair.source);
			pair.source = NULL;
			engine_wait_down(pair.destination_engine);
			assert_int_equal(pair.destination_engine->why.class, HF_ERR_LINK);
		} else {
			hf_tcp_close(pair.destination);
			pair.destination = NULL;
			engine_wait_down(pair.source_engine);
			assert_int_equal(pair.source_engine->why.class, HF_ERR_LINK);
		}
		assert_stream_balanced(stream, pair.destination_engine);
		pair_close(&pair);
		free(stream);
	}
}

static void shutdown_may_come_from_an_event(void **state)
{
	struct pair pair;
	(void)state;
	pair_open(&pair, "tcp:127.0.0.1:0", 2, 3);
	struct stream *stream = calloc(1, sizeof(*stream));
	stream->port = pair.to_source;
	stream->shut_down_at_half = pair.destination;
	pair.destination_engine->opaque = stream;
	pair.destination_engine->on_done = stream_done;
	pair_start(&pair);
	for (int i = 0; i < 100; i++)
		stream_post(stream, false);
	engine_wait_down(pair.destination_engine);
	assert_stream_balanced(stream, pair.destination_engine);
	pair_close(&pair);
	free(stream);
}

static void close_from_a_callback(void *tcp)
{
	hf_callout_begin("notify()");
	hf_tcp_close(tcp);
}

static void a_connection_closed_from_an_engines_callback_is_caught(void **state)
{
	(void)state;
	struct pair pair;
	pair_open(&pair, "tcp:127.0.0.1:0", 1, 1);
	pair_start(&pair);
	engine_wait_up(pair.destination_engine);
	assert_dies(close_from_a_callback, pair.destination, "hf_tcp_close is called from inside notify()");
	pair_close(&pair);
}

static void *shut_down_main(void *tcp)
{
	hf_tcp_shutdown(tcp, NULL);
	return NULL;
}

static void *post_main(void *stream)
{
	for (int i = 0; i < 500; i++)
		stream_post(stream, false);
	return NULL;
}

static void threads_may_post_and_shut_down_at_once(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++) {
		struct pair pair;
		pthread_t threads[5];
		struct stream *stream = stream_start(&pair, "tcp:127.0.0.1:0");
		for (int n = 0; n < 3; n++)
			assert_int_equal(pthread_create(&threads[n], NULL, post_main, stream), 0);
		engine_wait_done(pair.destination_engine, 50);
		assert_int_equal(pthread_create(&threads[3], NULL, shut_down_main, pair.destination), 0);
		assert_int_equal(pthread_create(&threads[4], NULL, shut_down_main, pair.source), 0);
		for (int n = 0; n < 5; n++)
			pthread_join(threads[n], NULL);
		engine_wait_down(pair.destination_engine);
		assert_stream_balanced(stream, pair.destination_engine);
		pair_close(&pair);
		free(stream);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_source_lost_in_the_middle_of_a_page_fails_every_fetch_once),
	    cmocka_unit_test(nothing_touches_a_landing_after_link_down),
	    cmocka_unit_test(link_down_waits_for_a_done_that_is_being_told),
	    cmocka_unit_test(any_one_channel_takes_the_whole_connection_down),
	    cmocka_unit_test(each_side_hears_of_the_others_end),
	    cmocka_unit_test(the_first_reason_is_the_one_reported),
	    cmocka_unit_test(a_connection_shut_down_before_its_start_goes_up_and_down),
	    cmocka_unit_test(a_reply_that_was_not_asked_for_is_a_violation),
	    cmocka_unit_test(a_reply_cut_short_is_a_lost_link),
	    cmocka_unit_test(a_request_that_breaks_the_rules_ends_the_link),
	    cmocka_unit_test(a_request_cut_short_is_a_lost_link),
	    cmocka_unit_test(bytes_that_are_gone_are_not_called_a_broken_network),
	    cmocka_unit_test(a_landing_that_is_gone_is_not_called_a_broken_network),
	    cmocka_unit_test(requests_may_arrive_in_pieces_and_in_crowds),
	    cmocka_unit_test(a_source_whose_peer_stops_reading_can_be_closed),
	    cmocka_unit_test(either_side_may_close_while_transfers_run),
	    cmocka_unit_test(shutdown_may_come_from_an_event),
	    cmocka_unit_test(a_connection_closed_from_an_engines_callback_is_caught),
	    cmocka_unit_test(threads_may_post_and_shut_down_at_once),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
