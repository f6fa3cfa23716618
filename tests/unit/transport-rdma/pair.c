/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-rdma/pair.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MEMORY_BYTES ((size_t)ENGINE_BLOCKS * ENGINE_BLOCK_BYTES)

struct hf_rdma_options linking_options(uint32_t urgent, uint32_t background)
{
	return (struct hf_rdma_options){
	    .channels = {urgent, background}, .timeout_ms = ENGINE_WAIT_MS, .session = {7, 1}, .epoch = 1};
}

static void *accept_in_thread(void *argument)
{
	struct meeting *meeting = argument;
	meeting->result = hf_rdma_accept(meeting->listener, &meeting->rdma, &meeting->err);
	return NULL;
}

void meeting_start(struct meeting *meeting, struct hf_rdma_listener *listener)
{
	*meeting = (struct meeting){.listener = listener};
	assert_int_equal(pthread_create(&meeting->thread, NULL, accept_in_thread, meeting), 0);
}

int meeting_join(struct meeting *meeting)
{
	assert_int_equal(pthread_join(meeting->thread, NULL), 0);
	return meeting->result;
}

void linked_begin(struct linked *linked, uint32_t urgent, uint32_t background)
{
	struct hf_rdma_options options = linking_options(urgent, background);
	struct hf_err err = HF_ERR_INIT;
	struct meeting meeting;
	*linked = (struct linked){.landings = calloc(1, MEMORY_BYTES)};
	assert_int_equal(hf_rdma_listen(&linked->listener, "rdma:127.0.0.1:0", &options, &err), 0);
	meeting_start(&meeting, linked->listener);
	int result = hf_rdma_connect(&linked->source, hf_rdma_listener_uri(linked->listener), &options, &err);
	assert_string_equal(err.text, "");
	assert_int_equal(result, 0);
	assert_int_equal(meeting_join(&meeting), 0);
	linked->destination = meeting.rdma;
	linked->source_engine = engine_new();
	linked->destination_engine = engine_new();
	linked->to_source = hf_rdma_transport(linked->destination);
	linked->to_destination = hf_rdma_transport(linked->source);
	for (uint32_t i = 0; i < ENGINE_BLOCKS; i++)
		linked->memory[i] = (struct hf_lent_range){
		    (void *)(source_memory() + (size_t)i * ENGINE_BLOCK_BYTES), ENGINE_BLOCK_BYTES};
	assert_int_equal(hf_rdma_lend(linked->source, linked->memory, ENGINE_BLOCKS, false, &err), 0);
	assert_int_equal(hf_rdma_start(linked->source, &engine_events, linked->source_engine, &err), 0);
	assert_int_equal(hf_rdma_start(linked->destination, &engine_events, linked->destination_engine, &err),
			 0);
	engine_wait_up(linked->source_engine);
	engine_wait_up(linked->destination_engine);
}

void linked_lend(struct linked *linked)
{
	struct hf_lent_range landings = {linked->landings, MEMORY_BYTES};
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_rdma_lend(linked->destination, &landings, 1, true, &err), 0);
}

void linked_end(struct linked *linked)
{
	hf_rdma_close(linked->source);
	hf_rdma_close(linked->destination);
	hf_rdma_listener_close(linked->listener);
	engine_free(linked->source_engine);
	engine_free(linked->destination_engine);
	free(linked->landings);
	fake_end();
}

struct hf_fetch linked_fetch(const struct linked *linked, uint64_t id, uint32_t block, uint64_t offset_bytes,
			     uint32_t length_bytes, enum hf_fetch_class class)
{
	return (struct hf_fetch){.id = id,
				 .epoch = 1,
				 .block = block,
				 .offset_bytes = offset_bytes,
				 .length_bytes = length_bytes,
				 .class = class,
				 .landing =
				     linked->landings + (size_t)block * ENGINE_BLOCK_BYTES + offset_bytes};
}

void assert_landed(const struct linked *linked, const struct hf_fetch *fetch)
{
	const uint8_t *there = (const uint8_t *)linked->memory[fetch->block].address + fetch->offset_bytes;
	assert_memory_equal(fetch->landing, there, fetch->length_bytes);
}

void linked_post(const struct linked *linked, const struct hf_fetch *fetch)
{
	const struct timespec pause = {.tv_nsec = 100000};
	int result;
	while ((result = linked->to_source.ops->fetch(linked->to_source.self, fetch)) == -EAGAIN)
		nanosleep(&pause, NULL);
	assert_int_equal(result, 0);
}
