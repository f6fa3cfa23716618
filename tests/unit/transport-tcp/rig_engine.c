/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-tcp/rig.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- contents --------------------------------------------------------------------------------- */

static uint8_t *memory_bytes;

static void fill_memory(void)
{
	size_t bytes = (size_t)ENGINE_BLOCKS * ENGINE_BLOCK_BYTES;
	memory_bytes = malloc(bytes);
	uint64_t state = 0x9e3779b97f4a7c15ull;
	for (size_t i = 0; i < bytes; i += sizeof(state)) {
		state = state * 6364136223846793005ull + 1442695040888963407ull;
		memcpy(memory_bytes + i, &state, sizeof(state));
	}
}

const uint8_t *source_memory(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, fill_memory);
	return memory_bytes;
}

bool chunk_is_zero(uint64_t offset_bytes)
{
	return offset_bytes / 4096 % 7 == 3;
}

void message_payload(uint32_t number, uint8_t *payload, size_t length_bytes)
{
	for (size_t i = 0; i < length_bytes; i++)
		payload[i] = (uint8_t)(number * 31u + i * 7u);
}

/* ---- events ----------------------------------------------------------------------------------- */

static void note(struct engine *engine, const char *rule)
{
	if (!engine->broken_rule[0])
		snprintf(engine->broken_rule, sizeof(engine->broken_rule), "%s", rule);
}

/* Locks; checks that the event may come now. */
static void begin(struct engine *engine, uint64_t epoch)
{
	pthread_mutex_lock(&engine->lock);
	if (engine->ups != 1)
		note(engine, "an event before link_up");
	if (engine->downs)
		note(engine, "an event after link_down");
	if (engine->ups && epoch != engine->info.epoch)
		note(engine, "an event with another epoch");
}

static void end(struct engine *engine)
{
	pthread_cond_broadcast(&engine->changed);
	pthread_mutex_unlock(&engine->lock);
}

static void on_link_up(void *opaque, const struct hf_link_info *info)
{
	struct engine *engine = opaque;
	pthread_mutex_lock(&engine->lock);
	if (engine->ups++)
		note(engine, "link_up twice");
	engine->info = *info;
	end(engine);
}

static void on_link_down(void *opaque, uint64_t epoch, const struct hf_err *why)
{
	struct engine *engine = opaque;
	begin(engine, epoch);
	engine->downs++;
	engine->why = *why;
	end(engine);
}

static void on_message(void *opaque, uint64_t epoch, uint32_t type, const void *payload, size_t length_bytes)
{
	struct engine *engine = opaque;
	uint8_t *expected = malloc(length_bytes + 1);
	begin(engine, epoch);
	message_payload(engine->messages, expected, length_bytes);
	if (memcmp(expected, payload, length_bytes) != 0)
		engine->wrong_messages++;
	engine->messages++;
	engine->message_bytes += length_bytes;
	engine->last_type = type;
	end(engine);
	free(expected);
	if (engine->on_message)
		engine->on_message(engine, type);
}

static void on_fetch_done(void *opaque, const struct hf_fetch_done *done)
{
	struct engine *engine = opaque;
	begin(engine, done->epoch);
	if (done->id >= ENGINE_FETCHES_MAX) {
		note(engine, "a done for an id that was never fetched");
	} else {
		if (engine->done_times[done->id]++)
			note(engine, "a second done for one fetch");
		engine->done_zero[done->id] = done->zero;
		engine->done_ok[done->id] = done->status == HF_FETCH_OK;
	}
	engine->done_total++;
	engine->done_by_status[done->status]++;
	engine->zero_total += done->zero;
	end(engine);
	if (engine->on_done)
		engine->on_done(engine, done->id);
}

static int on_serve(void *opaque, const struct hf_serve_request *request, struct hf_serve_reply *reply,
		    struct hf_err *err)
{
	struct engine *engine = opaque;
	begin(engine, request->epoch);
	end(engine);
	if (request->block >= ENGINE_BLOCKS || request->offset_bytes > ENGINE_BLOCK_BYTES ||
	    request->length_bytes > ENGINE_BLOCK_BYTES - request->offset_bytes)
		return hf_err_set(err, HF_ERR_PEER, EPROTO, "no such chunk: block %u", request->block);
	reply->zero = chunk_is_zero(request->offset_bytes);
	if (!reply->zero)
		reply->bytes =
		    engine->memory + (size_t)request->block * ENGINE_BLOCK_BYTES + request->offset_bytes;
	return 0;
}

const struct hf_transport_events engine_events = {.link_up = on_link_up,
						  .link_down = on_link_down,
						  .message = on_message,
						  .fetch_done = on_fetch_done,
						  .serve = on_serve};

/* ---- the object ------------------------------------------------------------------------------- */

struct engine *engine_new(void)
{
	struct engine *engine = calloc(1, sizeof(*engine));
	pthread_condattr_t monotonic;
	assert_non_null(engine);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&engine->changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_mutex_init(&engine->lock, NULL);
	engine->memory = source_memory();
	return engine;
}

void engine_free(struct engine *engine)
{
	assert_string_equal(engine->broken_rule, "");
	assert_int_equal(engine->ups, engine->downs);
	pthread_cond_destroy(&engine->changed);
	pthread_mutex_destroy(&engine->lock);
	free(engine);
}

static void wait_at_least(struct engine *engine, const uint32_t *number, uint32_t least)
{
	uint64_t deadline_ms = now_ms() + ENGINE_WAIT_MS;
	struct timespec until = {.tv_sec = (time_t)(deadline_ms / 1000)};
	int waited = 0;
	pthread_mutex_lock(&engine->lock);
	while (*number < least && !waited)
		waited = pthread_cond_timedwait(&engine->changed, &engine->lock, &until);
	uint32_t reached = *number;
	pthread_mutex_unlock(&engine->lock);
	assert_in_range(reached, least, UINT32_MAX);
}

void engine_wait_up(struct engine *engine)
{
	wait_at_least(engine, &engine->ups, 1);
}

void engine_wait_down(struct engine *engine)
{
	wait_at_least(engine, &engine->downs, 1);
}

void engine_wait_done(struct engine *engine, uint32_t total)
{
	wait_at_least(engine, &engine->done_total, total);
}

void engine_wait_messages(struct engine *engine, uint32_t total)
{
	wait_at_least(engine, &engine->messages, total);
}
