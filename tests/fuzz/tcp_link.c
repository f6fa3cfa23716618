/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: what comes in on the channels of an open link. The first byte chooses the channel: control, a
 * destination's page channel (replies), a source's (requests). The thread's function runs here, on a socket
 * the peer has filled and closed, so a run is quick and always the same.
 *
 * A reference reader goes through the same bytes: what it takes is delivered, in order, and nothing else.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "core/wire.h"
#include "tests/fuzz/peer.h"
#include "transport-tcp/internal.h"

enum {
	STREAM_MAX = 64 << 10,
	FETCHES = 4,
	CHUNK_BYTES = 4096,
	BLOCK_BYTES = 1 << 20,
	SERVED_MAX_BYTES = 96 << 10
};

struct engine {
	struct fuzz_input *input;
	struct hf_tcp *tcp;
	uint32_t ups, downs, messages, dones, oks;
	size_t taken; /* bytes of the stream that must have been delivered so far */
	uint32_t served_bytes, serves;
	bool stopped;
};

static uint8_t stream[STREAM_MAX];
static size_t stream_bytes;

/* ---- the link ---------------------------------------------------------------------------------- */

static void on_link_up(void *engine, const struct hf_link_info *info)
{
	struct engine *e = engine;
	fuzz_check(info->epoch == 1 && e->ups++ == 0 && !e->messages);
}

static void on_link_down(void *engine, uint64_t epoch, const struct hf_err *why)
{
	struct engine *e = engine;
	fuzz_check(epoch == 1 && e->downs++ == 0 && why->class != HF_ERR_NONE && why->text[0]);
}

/* Header and payload must be those that come next in the stream. */
static void on_message(void *engine, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	struct engine *e = engine;
	struct hf_wire_frame_header header;
	const uint8_t *frame = stream + e->taken;
	fuzz_check(epoch == 1 && !e->downs && !e->stopped);
	fuzz_check(hf_wire_decode_frame_header(frame, stream_bytes - e->taken, &header, NULL) == 0);
	fuzz_check(header.type == type && header.length_bytes == bytes);
	fuzz_check(memcmp(frame + HF_WIRE_FRAME_HEADER_BYTES, payload, bytes) == 0);
	e->taken += HF_WIRE_FRAME_HEADER_BYTES + bytes;
	e->messages++;
	// The engine answers, or has had enough.
	uint8_t choice = fuzz_u8(e->input);
	if (choice >= 0xf0) {
		e->stopped = true;
		hf_tcp_shutdown(e->tcp, NULL);
	} else if (choice >= 0x80) {
		tcp_control_send(e->tcp, 1, 1 + choice % HF_WIRE_WISH, stream, choice & 0x3f);
	}
}

static int on_serve(void *engine, const struct hf_serve_request *request, struct hf_serve_reply *reply,
		    struct hf_err *err)
{
	static const uint8_t memory[BLOCK_BYTES] = {1};
	struct engine *e = engine;
	e->serves++;
	if (request->block > 1 || request->offset_bytes >= BLOCK_BYTES ||
	    request->length_bytes > BLOCK_BYTES - request->offset_bytes)
		return hf_err_set(err, HF_ERR_PEER, EPROTO, "no such page");
	// Nobody reads the replies until the thread has left: what the socket cannot hold goes as zeros.
	if (request->length_bytes > SERVED_MAX_BYTES - e->served_bytes) {
		reply->zero = true;
		return 0;
	}
	e->served_bytes += request->length_bytes;
	reply->bytes = memory + request->offset_bytes;
	return 0;
}

static void on_fetch_done(void *engine, const struct hf_fetch_done *done);

static const struct hf_transport_events events = {.link_up = on_link_up,
						  .link_down = on_link_down,
						  .message = on_message,
						  .fetch_done = on_fetch_done,
						  .serve = on_serve};

/* All of the stream is in the channel's socket and the peer says no more. */
static int fill(int *own_fd)
{
	int peer_fd;
	*own_fd = fuzz_peer_pair(&peer_fd);
	fuzz_peer_write(peer_fd, stream, stream_bytes);
	shutdown(peer_fd, SHUT_WR);
	return peer_fd;
}

static struct hf_tcp *make_link(struct engine *engine, enum tcp_role role, uint32_t channels)
{
	struct hf_link_info info = {.epoch = 1, .version = 1, .channels = {channels, 0}};
	int unused;
	fuzz_check(tcp_new(&engine->tcp, role, true, &info, NULL) == 0);
	engine->tcp->events = &events;
	engine->tcp->engine = engine;
	hf_link_life_begin(&engine->tcp->life);
	hf_link_life_set_gate(&engine->tcp->life, true);
	engine->tcp->control_fd = fuzz_peer_pair(&unused);
	return engine->tcp;
}

/* ---- control ----------------------------------------------------------------------------------- */

/* Frames as they should be, or anything. */
static void compose_frames(struct fuzz_input *input)
{
	while (input->left && stream_bytes + 300 < STREAM_MAX) {
		uint8_t choice = fuzz_u8(input);
		size_t count;
		const uint8_t *piece = fuzz_piece(input, &count);
		struct hf_wire_frame_header header = {.type = choice & 0xf, .length_bytes = (uint32_t)count};
		if (choice < 0xe0)
			stream_bytes +=
			    (size_t)(hf_wire_encode_frame_header(&header, stream + stream_bytes, 8) == 8) * 8;
		memcpy(stream + stream_bytes, piece, count);
		stream_bytes += count;
	}
}

/* How much of the stream is good frames. */
static size_t good_frames(uint32_t *count)
{
	struct hf_wire_frame_header header;
	size_t at = 0;
	for (*count = 0; hf_wire_decode_frame_header(stream + at, stream_bytes - at, &header, NULL) == 0;
	     ++*count) {
		if (header.length_bytes > stream_bytes - at - HF_WIRE_FRAME_HEADER_BYTES)
			break;
		at += HF_WIRE_FRAME_HEADER_BYTES + header.length_bytes;
	}
	return at;
}

static void control(struct fuzz_input *input)
{
	struct engine engine = {.input = input};
	uint32_t frames;
	struct fuzz_input decisions = *input;
	compose_frames(input);
	engine.input = &decisions;
	struct hf_tcp *tcp = make_link(&engine, TCP_ROLE_DESTINATION, 0);
	tcp_close_fd(&tcp->control_fd);
	fill(&tcp->control_fd);
	tcp_control_main(tcp);
	size_t good_bytes = good_frames(&frames);
	fuzz_check(engine.ups == 1 && engine.downs == 1);
	if (!engine.stopped)
		fuzz_check(engine.taken == good_bytes && engine.messages == frames);
	tcp_free(tcp);
}

/* ---- a destination's page channel --------------------------------------------------------------- */

static struct {
	struct hf_fetch fetch;
	uint8_t *landing;
	bool done;
} fetches[FETCHES];

/* The next reply of the stream must be this one's, whole. */
static void on_fetch_done(void *engine, const struct hf_fetch_done *done)
{
	struct engine *e = engine;
	struct hf_wire_reply reply;
	uint32_t index = (uint32_t)done->id - 100;
	fuzz_check(index == e->dones++ && index < FETCHES && done->epoch == 1 && !fetches[index].done);
	fetches[index].done = true;
	if (done->status != HF_FETCH_OK)
		return;
	const uint8_t *at = stream + e->taken;
	fuzz_check(e->oks++ == index);
	fuzz_check(hf_wire_decode_reply(at, stream_bytes - e->taken, &reply, NULL) == 0);
	fuzz_check(reply.id == done->id && reply.offset_bytes == fetches[index].fetch.offset_bytes);
	fuzz_check(reply.zero == done->zero && reply.length_bytes == CHUNK_BYTES && reply.block == 1);
	e->taken += HF_WIRE_REPLY_BYTES + (reply.zero ? 0 : CHUNK_BYTES);
	fuzz_check(e->taken <= stream_bytes);
	if (!reply.zero)
		fuzz_check(memcmp(fetches[index].landing, at + HF_WIRE_REPLY_BYTES, CHUNK_BYTES) == 0);
}

static void compose_replies(struct fuzz_input *input)
{
	for (uint32_t i = 0; input->left && i < 2 * FETCHES; i++) {
		uint8_t choice = fuzz_u8(input);
		size_t count;
		struct hf_wire_reply reply = {.id = 100 + i,
					      .offset_bytes = (uint64_t)i * CHUNK_BYTES,
					      .block = 1,
					      .length_bytes = CHUNK_BYTES,
					      .zero = choice & 1};
		uint8_t *at = stream + stream_bytes;
		hf_wire_encode_reply(&reply, at, HF_WIRE_REPLY_BYTES);
		if (choice & 2) // one wrong byte
			at[fuzz_below(input, HF_WIRE_REPLY_BYTES)] ^= fuzz_u8(input);
		stream_bytes += HF_WIRE_REPLY_BYTES;
		if (choice & 4) { // any bytes, perhaps too few
			const uint8_t *piece = fuzz_piece(input, &count);
			memcpy(stream + stream_bytes, piece, count);
			stream_bytes += count;
		} else if (!reply.zero) {
			memset(stream + stream_bytes, choice, CHUNK_BYTES);
			stream_bytes += CHUNK_BYTES;
		}
	}
}

static void post_fetches(struct hf_tcp *tcp)
{
	for (uint32_t i = 0; i < FETCHES; i++) {
		fetches[i].landing = malloc(CHUNK_BYTES);
		fetches[i].done = false;
		fuzz_check(fetches[i].landing);
		fetches[i].fetch = (struct hf_fetch){.id = 100 + i,
						     .epoch = 1,
						     .block = 1,
						     .length_bytes = CHUNK_BYTES,
						     .offset_bytes = (uint64_t)i * CHUNK_BYTES,
						     .class = HF_FETCH_URGENT,
						     .landing = fetches[i].landing};
		fuzz_check(tcp_fetch_post(tcp, &fetches[i].fetch) == 0);
	}
}

static void fetch(struct fuzz_input *input)
{
	struct engine engine = {.input = input};
	compose_replies(input);
	struct hf_tcp *tcp = make_link(&engine, TCP_ROLE_DESTINATION, 1);
	fill(&tcp->channels[0].fd);
	post_fetches(tcp);
	tcp_fetch_main(&tcp->channels[0]);
	fuzz_check(engine.dones == FETCHES && hf_link_life_is_down(&tcp->life));
	fuzz_check(tcp->life.why.class != HF_ERR_NONE && tcp->life.why.text[0]);
	for (uint32_t i = 0; i < FETCHES; i++)
		free(fetches[i].landing);
	tcp_free(tcp);
}

/* ---- a source's page channel -------------------------------------------------------------------- */

static void compose_requests(struct fuzz_input *input)
{
	while (input->left && stream_bytes < 100 * HF_WIRE_REQUEST_BYTES) {
		uint8_t choice = fuzz_u8(input);
		struct hf_wire_request request = {.id = choice,
						  .offset_bytes = (uint64_t)fuzz_u8(input) << 12,
						  .block = choice >> 2 & 3,
						  .length_bytes = (1u + (choice >> 4)) << 12};
		uint8_t *at = stream + stream_bytes;
		hf_wire_encode_request(&request, at, HF_WIRE_REQUEST_BYTES);
		if (choice & 2)
			at[fuzz_below(input, HF_WIRE_REQUEST_BYTES)] ^= fuzz_u8(input);
		stream_bytes += choice & 1 ? HF_WIRE_REQUEST_BYTES : HF_WIRE_REQUEST_BYTES - (choice == 0);
	}
}

/* Replies are to the first requests, in their order. */
static void check_replies(const struct engine *engine, int peer_fd)
{
	static uint8_t replies[SERVED_MAX_BYTES + 200 * HF_WIRE_REPLY_BYTES];
	size_t bytes = fuzz_peer_read(peer_fd, replies, sizeof(replies)), at = 0;
	uint32_t count = 0;
	for (; at + HF_WIRE_REPLY_BYTES <= bytes; count++) {
		struct hf_wire_request request;
		struct hf_wire_reply reply;
		fuzz_check(hf_wire_decode_request(stream + (size_t)count * HF_WIRE_REQUEST_BYTES,
						  HF_WIRE_REQUEST_BYTES, &request, NULL) == 0);
		fuzz_check(hf_wire_decode_reply(replies + at, bytes - at, &reply, NULL) == 0);
		fuzz_check(reply.id == request.id && reply.block == request.block);
		fuzz_check(reply.offset_bytes == request.offset_bytes &&
			   reply.length_bytes == request.length_bytes);
		at += HF_WIRE_REPLY_BYTES + (reply.zero ? 0 : reply.length_bytes);
	}
	fuzz_check(at == bytes && count <= engine->serves);
}

static void serve(struct fuzz_input *input)
{
	struct engine engine = {.input = input};
	compose_requests(input);
	struct hf_tcp *tcp = make_link(&engine, TCP_ROLE_SOURCE, 1);
	int peer_fd = fill(&tcp->channels[0].fd);
	tcp_serve_main(&tcp->channels[0]);
	fuzz_check(hf_link_life_is_down(&tcp->life) && tcp->life.why.class != HF_ERR_NONE);
	check_replies(&engine, peer_fd);
	tcp_free(tcp);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static void (*const channels[])(struct fuzz_input * input) = {control, fetch, serve};
	struct fuzz_input input = {.at = data, .left = bytes};
	uint8_t choice = fuzz_u8(&input);
	fuzz_peers_begin(NULL);
	fuzz_peers.shortness = choice / 3;
	stream_bytes = 0;
	memset(stream, 0, sizeof(stream));
	channels[choice % 3](&input);
	fuzz_peers_end();
	return 0;
}
