/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a source's page channel. One thread reads the requests that are there (at most a full
 * window), asks the engine where the bytes of each are and sends headers and bytes of all of them with one
 * call, straight from guest memory. Replies keep the order of the requests. The thread holds no state
 * about pages; a request that does not check out is a violation and ends the link.
 */
#include "transport-tcp/internal.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

struct batch {
	uint8_t requests[TCP_CHANNEL_FETCHES_MAX * HF_WIRE_REQUEST_BYTES];
	size_t request_bytes;
	uint8_t headers[TCP_CHANNEL_FETCHES_MAX][HF_WIRE_REPLY_BYTES];
	struct iovec parts[2 * TCP_CHANNEL_FETCHES_MAX];
	size_t part_count;
};

static int fail_link(struct page_channel *channel, int error_number)
{
	char name[TCP_CHANNEL_NAME_BYTES];
	tcp_channel_name(channel, name);
	tcp_fail_link(channel->tcp, name, error_number);
	return -1;
}

static int fail_violation(struct page_channel *channel, struct hf_err *err)
{
	char name[TCP_CHANNEL_NAME_BYTES];
	tcp_channel_name(channel, name);
	if (err->class == HF_ERR_NONE)
		hf_err_set(err, HF_ERR_PEER, EPROTO, "the destination asked for what there is not");
	hf_err_prefix(err, "%s, %s", channel->tcp->name, name);
	tcp_fail(channel->tcp, err);
	return -1;
}

/* At least one whole request; a part of the next may follow. */
static int read_requests(struct page_channel *channel, struct batch *batch)
{
	while (batch->request_bytes < HF_WIRE_REQUEST_BYTES) {
		ssize_t got = recv(channel->fd, batch->requests + batch->request_bytes,
				   sizeof(batch->requests) - batch->request_bytes, 0);
		if (got > 0)
			batch->request_bytes += (size_t)got;
		else if (got == 0)
			return fail_link(channel, 0);
		else if (errno != EINTR)
			return fail_link(channel, errno);
	}
	return 0;
}

static int answer(struct page_channel *channel, const uint8_t *bytes, uint8_t *header, struct batch *batch)
{
	struct hf_tcp *tcp = channel->tcp;
	struct hf_err err = HF_ERR_INIT;
	struct hf_wire_request request;
	struct hf_serve_reply reply = {0};
	if (hf_wire_decode_request(bytes, HF_WIRE_REQUEST_BYTES, &request, &err))
		return fail_violation(channel, &err);
	struct hf_serve_request asked = {.epoch = tcp->info.epoch,
					 .offset_bytes = request.offset_bytes,
					 .block = request.block,
					 .length_bytes = request.length_bytes,
					 .class = channel->load.class};
	if (tcp->events->serve(tcp->engine, &asked, &reply, &err))
		return fail_violation(channel, &err);

	struct hf_wire_reply wire = {.id = request.id,
				     .offset_bytes = request.offset_bytes,
				     .block = request.block,
				     .length_bytes = request.length_bytes,
				     .zero = reply.zero};
	if (hf_wire_encode_reply(&wire, header, HF_WIRE_REPLY_BYTES) != HF_WIRE_REPLY_BYTES) {
		hf_err_set(&err, HF_ERR_PEER, EPROTO, "the destination asked for a chunk no reply can carry");
		return fail_violation(channel, &err);
	}
	batch->parts[batch->part_count++] =
	    (struct iovec){.iov_base = header, .iov_len = HF_WIRE_REPLY_BYTES};
	if (!reply.zero)
		batch->parts[batch->part_count++] =
		    (struct iovec){.iov_base = (void *)reply.bytes, .iov_len = request.length_bytes};
	return 0;
}

static int answer_all(struct page_channel *channel, struct batch *batch)
{
	size_t count = batch->request_bytes / HF_WIRE_REQUEST_BYTES;
	batch->part_count = 0;
	for (size_t i = 0; i < count; i++)
		if (answer(channel, batch->requests + i * HF_WIRE_REQUEST_BYTES, batch->headers[i], batch))
			return -1;

	size_t used_bytes = count * HF_WIRE_REQUEST_BYTES;
	batch->request_bytes -= used_bytes;
	memmove(batch->requests, batch->requests + used_bytes, batch->request_bytes);
	return 0;
}

/* Takes what was sent off the front of the list. */
static void advance(struct msghdr *message, size_t sent_bytes)
{
	while (message->msg_iovlen && sent_bytes >= message->msg_iov->iov_len) {
		sent_bytes -= message->msg_iov->iov_len;
		message->msg_iov++;
		message->msg_iovlen--;
	}
	if (message->msg_iovlen) {
		message->msg_iov->iov_base = (uint8_t *)message->msg_iov->iov_base + sent_bytes;
		message->msg_iov->iov_len -= sent_bytes;
	}
}

static int send_all(struct page_channel *channel, struct batch *batch)
{
	struct msghdr message = {.msg_iov = batch->parts, .msg_iovlen = batch->part_count};
	while (message.msg_iovlen) {
		ssize_t sent = sendmsg(channel->fd, &message, MSG_NOSIGNAL);
		if (sent >= 0)
			advance(&message, (size_t)sent);
		else if (errno != EINTR)
			return fail_link(channel, errno);
	}
	return 0;
}

void *tcp_serve_main(void *argument)
{
	struct page_channel *channel = argument;
	struct batch batch;
	batch.request_bytes = 0;
	if (!hf_link_life_wait_gate(&channel->tcp->life))
		return NULL;
	while (!hf_link_life_is_down(&channel->tcp->life))
		if (read_requests(channel, &batch) || answer_all(channel, &batch) ||
		    send_all(channel, &batch))
			break;
	return NULL;
}
