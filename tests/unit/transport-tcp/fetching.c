/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-tcp/rig.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "transport-tcp/internal.h" // to make a send buffer small

static const char *const loopback_uris[] = {"tcp:127.0.0.1:0", "tcp:[::1]:0", NULL};

static const char *uri_number(size_t i)
{
	return loopback_uris[i] ? loopback_uris[i] : unix_uri();
}

static void check_landing(const struct engine *engine, const struct hf_fetch *fetch)
{
	const uint8_t *landing = fetch->landing;
	assert_int_equal(engine->done_times[fetch->id], 1);
	assert_int_equal(engine->done_zero[fetch->id], chunk_is_zero(fetch->offset_bytes));
	if (engine->done_zero[fetch->id]) {
		for (uint32_t i = 0; i < fetch->length_bytes; i++)
			assert_int_equal(landing[i], 0xee);
		return;
	}
	assert_memory_equal(landing,
			    source_memory() + (size_t)fetch->block * ENGINE_BLOCK_BYTES + fetch->offset_bytes,
			    fetch->length_bytes);
}

static void fetch_and_check(struct pair *pair, struct hf_fetch fetch)
{
	memset(fetch.landing, 0xee, fetch.length_bytes + 1);
	post(&pair->to_source, &fetch);
	engine_wait_done(pair->destination_engine, (uint32_t)fetch.id + 1);
	check_landing(pair->destination_engine, &fetch);
	assert_int_equal(((uint8_t *)fetch.landing)[fetch.length_bytes], 0xee);
}

/* As far back in the block as a chunk of that length can be without counting as zero. */
static uint64_t nonzero_offset(uint32_t length_bytes)
{
	uint64_t offset_bytes = ENGINE_BLOCK_BYTES - length_bytes;
	while (chunk_is_zero(offset_bytes))
		offset_bytes -= 4096;
	return offset_bytes;
}

static void chunks_of_every_size_arrive_whole(void **state)
{
	static const uint32_t lengths_bytes[] = {4096,	 8192,	  12288,   65536,   69632,
						 262144, 1048576, 2097152, 5 << 20, 8 << 20};
	uint8_t *landing = malloc(ENGINE_BLOCK_BYTES + 1);
	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct pair pair;
		uint64_t id = 0;
		pair_open(&pair, uri_number(i), 1, 2);
		pair_start(&pair);
		for (size_t n = 0; n < sizeof(lengths_bytes) / sizeof(lengths_bytes[0]); n++)
			for (int kind = 0; kind < HF_FETCH_CLASSES; kind++) {
				uint64_t offset_bytes = nonzero_offset(lengths_bytes[n]);
				fetch_and_check(&pair, make_fetch(id++, kind, offset_bytes, lengths_bytes[n],
								  kind, landing));
			}
		assert_int_equal(pair.destination_engine->zero_total, 0);
		pair_close(&pair);
	}
	free(landing);
}

static void zero_chunks_leave_the_landing_alone(void **state)
{
	uint8_t *landing = malloc(65536 + 1);
	struct pair pair;
	(void)state;
	pair_open(&pair, "tcp:127.0.0.1:0", 1, 1);
	pair_start(&pair);
	fetch_and_check(&pair, make_fetch(0, 0, 3 * 4096, 65536, HF_FETCH_URGENT, landing));
	fetch_and_check(&pair, make_fetch(1, 1, 10 * 4096, 4096, HF_FETCH_BACKGROUND, landing));
	assert_int_equal(pair.destination_engine->zero_total, 2);
	fetch_and_check(&pair, make_fetch(2, 1, 11 * 4096, 4096, HF_FETCH_BACKGROUND, landing));
	assert_int_equal(pair.destination_engine->zero_total, 2);
	pair_close(&pair);
	free(landing);
}

static void every_fetch_of_thousands_is_done_once(void **state)
{
	const uint32_t total = 6000, length_bytes = 8192;
	struct hf_fetch *fetches = malloc(total * sizeof(*fetches));
	uint8_t *landings = malloc((size_t)total * length_bytes);
	(void)state;
	for (size_t scheme = 0; scheme < 3; scheme += 2) {
		struct pair pair;
		pair_open(&pair, uri_number(scheme), 3, 5);
		pair_start(&pair);
		memset(landings, 0xee, (size_t)total * length_bytes);
		for (uint32_t i = 0; i < total; i++) {
			uint64_t offset_bytes =
			    i * 2654435761u % (ENGINE_BLOCK_BYTES / length_bytes) * (uint64_t)length_bytes;
			fetches[i] = make_fetch(i, i % 2, offset_bytes, length_bytes, i % 3 == 0,
						landings + (size_t)i * length_bytes);
			post(&pair.to_source, &fetches[i]);
		}
		engine_wait_done(pair.destination_engine, total);
		for (uint32_t i = 0; i < total; i++)
			check_landing(pair.destination_engine, &fetches[i]);
		assert_int_equal(pair.destination_engine->done_by_status[HF_FETCH_OK], total);
		pair_close(&pair);
	}
	free(landings);
	free(fetches);
}

/* Posts the next fetch from inside fetch_done, as an engine does. */
struct chain {
	struct hf_transport port;
	uint8_t *landing;
	_Atomic uint64_t next;
	uint64_t total;
};

static void post_next(struct engine *engine, uint64_t id)
{
	struct chain *chain = engine->opaque;
	(void)id;
	uint64_t next = chain->next++;
	if (next >= chain->total)
		return;
	struct hf_fetch fetch =
	    make_fetch(next, 0, next % 1024 * 4096, 4096, next % 2, chain->landing + next * 4096);
	post(&chain->port, &fetch);
}

static void a_done_may_post_the_next_fetch(void **state)
{
	struct chain chain = {.next = 1, .total = 2000};
	struct pair pair;
	(void)state;
	chain.landing = malloc(chain.total * 4096);
	pair_open(&pair, "tcp:127.0.0.1:0", 1, 1);
	chain.port = pair.to_source;
	pair.destination_engine->opaque = &chain;
	pair.destination_engine->on_done = post_next;
	pair_start(&pair);
	struct hf_fetch first = make_fetch(0, 0, 0, 4096, HF_FETCH_URGENT, chain.landing);
	post(&chain.port, &first);
	engine_wait_done(pair.destination_engine, (uint32_t)chain.total);
	for (uint64_t i = 0; i < chain.total; i++)
		if (!chunk_is_zero(i % 1024 * 4096))
			assert_memory_equal(chain.landing + i * 4096, source_memory() + i % 1024 * 4096,
					    4096);
	pair_close(&pair);
	free(chain.landing);
}

static void what_cannot_be_fetched_is_refused_at_once(void **state)
{
	uint8_t landing[4096];
	struct pair pair;
	(void)state;
	pair_open(&pair, "tcp:127.0.0.1:0", 1, 1);
	struct hf_transport port = pair.to_source;
	struct hf_fetch fetch = make_fetch(0, 0, 0, 4096, HF_FETCH_URGENT, landing);
	assert_int_equal(port.ops->fetch(port.self, &fetch), -ENOTCONN); // not started
	pair_start(&pair);

	fetch.epoch = RIG_EPOCH - 1;
	assert_int_equal(port.ops->fetch(port.self, &fetch), -ENOTCONN);
	fetch.epoch = RIG_EPOCH;
	fetch.length_bytes = 0;
	assert_int_equal(port.ops->fetch(port.self, &fetch), -EINVAL);
	fetch.length_bytes = HF_WIRE_CHUNK_MAX_BYTES + 4096;
	assert_int_equal(port.ops->fetch(port.self, &fetch), -EINVAL);
	fetch.length_bytes = 100;
	assert_int_equal(port.ops->fetch(port.self, &fetch), -EINVAL);
	fetch.length_bytes = 4096;
	fetch.landing = NULL;
	assert_int_equal(port.ops->fetch(port.self, &fetch), -EINVAL);
	fetch.landing = landing;
	assert_int_equal(pair.to_destination.ops->fetch(pair.to_destination.self, &fetch), -EINVAL);

	hf_tcp_shutdown(pair.destination, NULL);
	assert_int_equal(port.ops->fetch(port.self, &fetch), -ENOTCONN);
	assert_int_equal(pair.destination_engine->done_total, 0);
	pair_close(&pair);
}

/* The source reads nothing: the requests alone must fit, and the class then says that it is full. */
static void a_full_class_says_again_and_goes_on_later(void **state)
{
	static uint8_t landing[4096], bytes[4096];
	(void)state;
	for (size_t scheme = 0; scheme < 3; scheme += 2) {
		struct engine *engine = engine_new();
		struct raw raw;
		struct hf_tcp *tcp = raw_source_open(&raw, uri_number(scheme), 1, 2, engine);
		struct hf_transport port = hf_tcp_transport(tcp);
		uint32_t capacity = engine->info.capacity_chunks[HF_FETCH_BACKGROUND];
		assert_int_equal(capacity, 128);
		for (uint32_t i = 0; i < capacity; i++) {
			struct hf_fetch fetch = make_fetch(i, 0, 0, 4096, HF_FETCH_BACKGROUND, landing);
			assert_int_equal(port.ops->fetch(port.self, &fetch), 0);
		}
		struct hf_fetch more = make_fetch(capacity, 0, 0, 4096, HF_FETCH_BACKGROUND, landing);
		assert_int_equal(port.ops->fetch(port.self, &more), -EAGAIN);

		struct hf_wire_request request = raw_recv_request(raw.pages[1]);
		raw_send_page_reply(raw.pages[1], &request, false, bytes);
		engine_wait_done(engine, 1);
		assert_int_equal(port.ops->fetch(port.self, &more), 0);
		raw_close(&raw);
		engine_wait_down(engine);
		hf_tcp_close(tcp);
		assert_int_equal(engine->done_total, capacity + 1);
		engine_free(engine);
	}
}

/* The kernel takes fewer requests than the channel would hold: that, too, is a full class, no failure. */
static void a_full_socket_is_a_full_class(void **state)
{
	static uint8_t landing[4096], bytes[4096];
	const int small = 1;
	struct engine *engine = engine_new();
	struct raw raw;
	uint32_t posted = 0;
	int result;
	(void)state;
	struct hf_tcp *tcp = raw_source_open(&raw, unix_uri(), 1, 1, engine);
	struct hf_transport port = hf_tcp_transport(tcp);
	assert_int_equal(setsockopt(tcp->channels[0].fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)), 0);
	struct hf_fetch fetch = make_fetch(0, 0, 0, 4096, HF_FETCH_URGENT, landing);
	while (!(result = port.ops->fetch(port.self, &fetch)))
		fetch.id = ++posted;
	assert_int_equal(result, -EAGAIN);
	assert_in_range(posted, 1, 63);
	for (uint32_t i = 0; i < posted; i++) {
		struct hf_wire_request request = raw_recv_request(raw.pages[0]);
		assert_int_equal(request.id, i);
		raw_send_page_reply(raw.pages[0], &request, false, bytes);
	}
	engine_wait_done(engine, posted);
	assert_int_equal(port.ops->fetch(port.self, &fetch), 0);
	assert_int_equal(raw_recv_request(raw.pages[0]).id, posted);
	hf_tcp_close(tcp);
	raw_close(&raw);
	assert_int_equal(engine->done_by_status[HF_FETCH_OK], posted);
	assert_int_equal(engine->done_total, posted + 1);
	engine_free(engine);
}

static void fetches_go_to_the_channel_with_the_fewest_bytes_to_come(void **state)
{
	static uint8_t landing[65536];
	struct engine *engine = engine_new();
	struct raw raw;
	(void)state;
	struct hf_tcp *tcp = raw_source_open(&raw, "tcp:127.0.0.1:0", 1, 2, engine);
	struct hf_transport port = hf_tcp_transport(tcp);
	// 64 KiB go to one channel; the next three chunks are less than that together and go to the other.
	struct hf_fetch fetch = make_fetch(0, 0, 0, 65536, HF_FETCH_BACKGROUND, landing);
	assert_int_equal(port.ops->fetch(port.self, &fetch), 0);
	for (uint64_t id = 1; id <= 3; id++) {
		fetch = make_fetch(id, 0, id * 65536, 4096, HF_FETCH_BACKGROUND, landing);
		assert_int_equal(port.ops->fetch(port.self, &fetch), 0);
	}
	assert_int_equal(raw_recv_request(raw.pages[1]).id, 0);
	for (uint64_t id = 1; id <= 3; id++)
		assert_int_equal(raw_recv_request(raw.pages[2]).id, id);
	hf_tcp_close(tcp);
	raw_close(&raw);
	assert_int_equal(engine->done_by_status[HF_FETCH_CANCELLED], 4);
	engine_free(engine);
}

/* ---- classes ----------------------------------------------------------------------------------- */

#define URGENT_ID 1u

/* A background page that takes as long to place as the urgent one takes to come. */
static void place_background_slowly(struct engine *engine, uint64_t id)
{
	struct timespec until = {.tv_sec = (time_t)((now_ms() + ENGINE_WAIT_MS) / 1000)};
	int waited = 0;
	pthread_mutex_lock(&engine->lock);
	while (id != URGENT_ID && !engine->done_times[URGENT_ID] && !waited)
		waited = pthread_cond_timedwait(&engine->changed, &engine->lock, &until);
	pthread_mutex_unlock(&engine->lock);
	atomic_fetch_add((atomic_uint *)engine->opaque, waited != 0);
}

static void an_urgent_done_does_not_wait_for_background_placements(void **state)
{
	(void)state;
	static uint8_t background_landing[4096], urgent_landing[4096];
	atomic_uint gave_up = 0;
	struct pair pair;
	pair_open(&pair, "tcp:127.0.0.1:0", 1, 1);
	pair.destination_engine->on_done = place_background_slowly;
	pair.destination_engine->opaque = &gave_up;
	pair_start(&pair);
	struct hf_fetch background = make_fetch(0, 0, 0, 4096, HF_FETCH_BACKGROUND, background_landing);
	post(&pair.to_source, &background);
	engine_wait_done(pair.destination_engine, 1);
	struct hf_fetch urgent = make_fetch(URGENT_ID, 0, 0, 4096, HF_FETCH_URGENT, urgent_landing);
	post(&pair.to_source, &urgent);
	engine_wait_done(pair.destination_engine, 2);
	pair_close(&pair);
	assert_int_equal(atomic_load(&gave_up), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(chunks_of_every_size_arrive_whole),
	    cmocka_unit_test(zero_chunks_leave_the_landing_alone),
	    cmocka_unit_test(every_fetch_of_thousands_is_done_once),
	    cmocka_unit_test(a_done_may_post_the_next_fetch),
	    cmocka_unit_test(what_cannot_be_fetched_is_refused_at_once),
	    cmocka_unit_test(a_full_class_says_again_and_goes_on_later),
	    cmocka_unit_test(a_full_socket_is_a_full_class),
	    cmocka_unit_test(fetches_go_to_the_channel_with_the_fewest_bytes_to_come),
	    cmocka_unit_test(an_urgent_done_does_not_wait_for_background_placements),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
