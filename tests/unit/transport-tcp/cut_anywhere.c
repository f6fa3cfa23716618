/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A proxy stands between both sides, passes everything on and, after a given number of bytes, cuts all
 * connections at once. Wherever that happens, each side must either report that the connection could not be
 * opened or see it go down once, with every fetch done once.
 */
#include "tests/unit/transport-tcp/rig.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- proxy ------------------------------------------------------------------------------------ */

#define PROXY_ENDS_MAX 16 /* two a connection */

struct proxy {
	pthread_t thread;
	int listener, stop;
	char uri[64];
	const char *target;
	size_t bytes_left; /* until the cut */
	int ends[PROXY_ENDS_MAX];
	uint32_t end_count;
};

/* Passes on what is there; false: cut now. */
static bool proxy_pass(struct proxy *proxy, int from, int to)
{
	static _Thread_local uint8_t buffer[65536];
	size_t most_bytes = proxy->bytes_left < sizeof(buffer) ? proxy->bytes_left : sizeof(buffer);
	if (!most_bytes)
		return false;
	ssize_t got = recv(from, buffer, most_bytes, 0);
	if (got <= 0)
		return false;
	proxy->bytes_left -= (size_t)got;
	for (ssize_t done = 0; done < got;) {
		ssize_t sent = send(to, buffer + done, (size_t)(got - done), MSG_NOSIGNAL);
		if (sent < 0)
			return false;
		done += sent;
	}
	return proxy->bytes_left > 0;
}

static void proxy_take(struct proxy *proxy)
{
	int client = accept4(proxy->listener, NULL, NULL, SOCK_CLOEXEC);
	if (client < 0 || proxy->end_count + 2 > PROXY_ENDS_MAX)
		abort();
	proxy->ends[proxy->end_count++] = client;
	proxy->ends[proxy->end_count++] = raw_connect(proxy->target);
}

static void *proxy_main(void *argument)
{
	struct proxy *proxy = argument;
	for (bool cut = false; !cut;) {
		struct pollfd entries[2 + PROXY_ENDS_MAX] = {{.fd = proxy->stop, .events = POLLIN},
							     {.fd = proxy->listener, .events = POLLIN}};
		uint32_t ends = proxy->end_count;
		for (uint32_t i = 0; i < ends; i++)
			entries[2 + i] = (struct pollfd){.fd = proxy->ends[i], .events = POLLIN};
		if (poll(entries, 2 + ends, -1) < 0 || entries[0].revents)
			break;
		for (uint32_t i = 0; i < ends && !cut; i++)
			if (entries[2 + i].revents)
				cut = !proxy_pass(proxy, proxy->ends[i], proxy->ends[i ^ 1]);
		if (entries[1].revents && !cut)
			proxy_take(proxy);
	}
	close(proxy->listener);
	for (uint32_t i = 0; i < proxy->end_count; i++)
		close(proxy->ends[i]);
	return NULL;
}

static void proxy_start(struct proxy *proxy, const char *target, size_t bytes)
{
	*proxy = (struct proxy){.target = target, .bytes_left = bytes, .stop = eventfd(0, EFD_CLOEXEC)};
	proxy->listener = raw_listen(proxy->uri);
	assert_int_equal(pthread_create(&proxy->thread, NULL, proxy_main, proxy), 0);
}

static void proxy_end(struct proxy *proxy)
{
	uint64_t one = 1;
	assert_int_equal(write(proxy->stop, &one, sizeof(one)), sizeof(one));
	pthread_join(proxy->thread, NULL);
	close(proxy->stop);
}

/* ---- one run ---------------------------------------------------------------------------------- */

#define FETCHES	    40u
#define CHUNK_BYTES 16384u

struct run {
	struct hf_tcp *source, *destination;
	struct engine *source_engine, *destination_engine;
	uint8_t landings[FETCHES][CHUNK_BYTES];
	uint32_t posted;
};

static void run_open(struct run *run, struct hf_tcp_listener *listener, const char *uri)
{
	struct hf_tcp_options options = continuing_options(1, 2);
	struct accepting accepting;
	struct hf_err err = HF_ERR_INIT;
	accepting_start(&accepting, listener);
	int result = hf_tcp_connect(&run->source, uri, &options, &err);
	assert_int_equal(result ? err.class : HF_ERR_LINK, HF_ERR_LINK);
	if (accepting_join(&accepting))
		assert_int_equal(accepting.err.class, HF_ERR_LINK);
	run->destination = accepting.tcp;
}

static void start(struct hf_tcp *tcp, struct engine *engine)
{
	if (tcp)
		assert_int_equal(hf_tcp_start(tcp, &engine_events, engine, NULL), 0);
}

static void run_fetches(struct run *run)
{
	struct hf_transport port = hf_tcp_transport(run->destination);
	engine_wait_up(run->destination_engine);
	for (uint32_t i = 0; i < FETCHES; i++) {
		struct hf_fetch fetch = make_fetch(i, i % 2, (uint64_t)i * CHUNK_BYTES, CHUNK_BYTES,
						   i % 3 == 0, run->landings[i]);
		int result = port.ops->fetch(port.self, &fetch);
		if (result)
			assert_int_equal(result, -ENOTCONN);
		else
			run->posted++;
	}
}

static void run_check(struct run *run)
{
	const struct engine *engine = run->destination_engine;
	assert_int_equal(engine->done_total, run->posted);
	for (uint32_t i = 0; i < FETCHES; i++) {
		uint64_t offset_bytes = (uint64_t)i * CHUNK_BYTES;
		assert_in_range(engine->done_times[i], 0, 1);
		if (!engine->done_times[i] || !engine->done_ok[i] || chunk_is_zero(offset_bytes))
			continue;
		assert_memory_equal(run->landings[i],
				    source_memory() + i % 2 * (size_t)ENGINE_BLOCK_BYTES + offset_bytes,
				    CHUNK_BYTES);
	}
}

/* Returns how many fetches succeeded. */
static uint32_t run_with_cut_after(size_t bytes)
{
	struct hf_tcp_listener *listener;
	struct run *run = calloc(1, sizeof(*run));
	struct proxy proxy;
	assert_int_equal(hf_tcp_listen(&listener, "tcp:127.0.0.1:0", NULL, NULL), 0);
	await_source(listener);
	proxy_start(&proxy, hf_tcp_listener_uri(listener), bytes);
	run->source_engine = engine_new();
	run->destination_engine = engine_new();
	run_open(run, listener, proxy.uri);
	start(run->source, run->source_engine);
	start(run->destination, run->destination_engine);
	if (run->destination)
		run_fetches(run);
	if (run->destination && run->source && bytes == SIZE_MAX)
		engine_wait_done(run->destination_engine, FETCHES);
	if (bytes == SIZE_MAX)
		hf_tcp_shutdown(run->source, NULL);
	if (run->destination)
		engine_wait_down(run->destination_engine);
	if (run->source)
		engine_wait_down(run->source_engine);
	run_check(run);
	uint32_t succeeded = run->destination_engine->done_by_status[HF_FETCH_OK];
	hf_tcp_close(run->source);
	hf_tcp_close(run->destination);
	proxy_end(&proxy);
	hf_tcp_listener_close(listener);
	engine_free(run->source_engine);
	engine_free(run->destination_engine);
	free(run);
	return succeeded;
}

static void without_a_cut_everything_arrives(void **state)
{
	(void)state;
	assert_int_equal(run_with_cut_after(SIZE_MAX), FETCHES);
}

static void a_cut_while_opening_fails_both_sides_cleanly(void **state)
{
	(void)state;
	// Four channels of 72 + 40 bytes.
	for (size_t bytes = 1; bytes < 4 * 112; bytes += 13)
		assert_int_equal(run_with_cut_after(bytes), 0);
}

static void a_cut_while_fetching_ends_every_fetch_once(void **state)
{
	const size_t opening_bytes = 4 * 112, all_bytes = FETCHES * (CHUNK_BYTES + 64);
	uint32_t partial = 0;
	(void)state;
	for (size_t bytes = 1; bytes < all_bytes * 3 / 4; bytes += 12347) {
		uint32_t succeeded = run_with_cut_after(opening_bytes + bytes);
		assert_in_range(succeeded, 0, FETCHES - 1);
		partial += succeeded > 0;
	}
	assert_in_range(partial, 10, 1000); // the cuts did come in the middle of things
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(without_a_cut_everything_arrives),
	    cmocka_unit_test(a_cut_while_opening_fails_both_sides_cleanly),
	    cmocka_unit_test(a_cut_while_fetching_ends_every_fetch_once),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
