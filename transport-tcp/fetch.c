/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a destination's page channel.
 *
 *   fetch()  any thread             lock; append to the FIFO; send the request; unlock
 *   thread   one a channel          header -> compare with the FIFO's head -> payload into its landing ->
 *                                   lock; pop; unlock -> fetch_done
 *
 * The source answers in order, so the head of the FIFO says what the next reply must be. Appending and
 * sending are one section: the order in the FIFO is the order on the wire. The caller sends itself, because
 * it may be the reader of page faults and a wake-up of another thread would cost more than the call.
 *
 * A fetch stays at the head while its bytes arrive. So when the link fails, whatever the FIFO holds is
 * exactly what has not been reported: the thread closes the FIFO for further fetches and reports each once.
 * It is the only one that writes to landings, so they are free when it has been joined.
 *
 * Outstanding requests are few and small and the send buffer has room for all of them; if the kernel has
 * none for one all the same (memory pressure) the fetch is refused as if the channel were full, because the
 * next reply will have the engine ask again. Without a reply to wait for, or with half a request sent, the
 * link is given up.
 */
#include "transport-tcp/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

void tcp_channel_name(const struct page_channel *channel, char name[static TCP_CHANNEL_NAME_BYTES])
{
	snprintf(name, TCP_CHANNEL_NAME_BYTES, "%s channel %u",
		 channel->load.class == HF_FETCH_URGENT ? "urgent" : "background", channel->index);
}

/* ---- posting ---------------------------------------------------------------------------------- */

static struct page_channel *pick_channel(struct hf_tcp *tcp, enum hf_fetch_class class)
{
	uint32_t index = hf_channel_pick(&tcp->channels[0].load, sizeof(tcp->channels[0]), tcp->channel_count,
					 class, TCP_CHANNEL_FETCHES_MAX);
	return index == HF_CHANNEL_NONE ? NULL : &tcp->channels[index];
}

/* Under the channel's lock. */
static int send_request(struct page_channel *channel, const uint8_t *request)
{
	hf_lock_assert_held(&channel->lock);
	ssize_t sent;
	do
		sent = send(channel->fd, request, HF_WIRE_REQUEST_BYTES, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent == HF_WIRE_REQUEST_BYTES)
		return 0;
	if (sent < 0 && errno == EAGAIN && atomic_load(&channel->load.outstanding))
		return -EAGAIN;

	char name[TCP_CHANNEL_NAME_BYTES];
	tcp_channel_name(channel, name);
	tcp_fail_link(channel->tcp, name, sent < 0 ? errno : ENOBUFS);
	return -ENOTCONN;
}

/* 1: no room after all. */
static int append(struct page_channel *channel, const struct hf_fetch *fetch, const uint8_t *request)
{
	int result = 1;
	hf_lock(&channel->lock);
	uint32_t outstanding = atomic_load(&channel->load.outstanding);
	if (channel->closed) {
		result = -ENOTCONN;
	} else if (outstanding < TCP_CHANNEL_FETCHES_MAX) {
		result = send_request(channel, request);
		if (!result) {
			channel->fifo[(channel->head + outstanding) % TCP_CHANNEL_FETCHES_MAX] = *fetch;
			atomic_store(&channel->load.outstanding, outstanding + 1);
			atomic_fetch_add(&channel->load.outstanding_bytes, fetch->length_bytes);
		}
	}
	hf_unlock(&channel->lock);
	return result;
}

int tcp_fetch_post(struct hf_tcp *tcp, const struct hf_fetch *fetch)
{
	if (tcp->role != TCP_ROLE_DESTINATION || !fetch->landing || !fetch->length_bytes ||
	    fetch->length_bytes > HF_WIRE_CHUNK_MAX_BYTES || (unsigned)fetch->class >= HF_FETCH_CLASSES)
		return -EINVAL;
	if (!hf_link_life_is_up(&tcp->life) || fetch->epoch != tcp->info.epoch)
		return -ENOTCONN;

	uint8_t request[HF_WIRE_REQUEST_BYTES];
	ssize_t encoded =
	    hf_wire_encode_request(&(struct hf_wire_request){.id = fetch->id,
							     .offset_bytes = fetch->offset_bytes,
							     .block = fetch->block,
							     .length_bytes = fetch->length_bytes},
				   request, sizeof(request));
	if (encoded < 0)
		return (int)encoded;

	for (;;) {
		struct page_channel *channel = pick_channel(tcp, fetch->class);
		if (!channel)
			return -EAGAIN;
		int result = append(channel, fetch, request);
		if (result <= 0)
			return result;
	}
}

/* ---- receiving -------------------------------------------------------------------------------- */

/* 0, or the link has been failed and -1. */
static int receive(struct page_channel *channel, void *bytes, size_t length_bytes)
{
	uint8_t *at = bytes;
	while (length_bytes) {
		ssize_t got = recv(channel->fd, at, length_bytes, MSG_WAITALL);
		if (got > 0) {
			at += got;
			length_bytes -= (size_t)got;
			continue;
		}
		if (got < 0 && errno == EINTR)
			continue;
		char name[TCP_CHANNEL_NAME_BYTES];
		tcp_channel_name(channel, name);
		tcp_fail_link(channel->tcp, name, got < 0 ? errno : 0);
		return -1;
	}
	return 0;
}

static bool peek_head(struct page_channel *channel, struct hf_fetch *fetch)
{
	hf_lock(&channel->lock);
	bool found = atomic_load(&channel->load.outstanding) > 0;
	if (found)
		*fetch = channel->fifo[channel->head];
	hf_unlock(&channel->lock);
	return found;
}

static void pop_head(struct page_channel *channel)
{
	hf_lock(&channel->lock);
	atomic_fetch_sub(&channel->load.outstanding_bytes, channel->fifo[channel->head].length_bytes);
	channel->head = (channel->head + 1) % TCP_CHANNEL_FETCHES_MAX;
	atomic_fetch_sub(&channel->load.outstanding, 1);
	hf_unlock(&channel->lock);
}

static int violation(struct page_channel *channel, const struct hf_err *why)
{
	char name[TCP_CHANNEL_NAME_BYTES];
	struct hf_err err = *why;
	tcp_channel_name(channel, name);
	hf_err_prefix(&err, "%s, %s", channel->tcp->name, name);
	tcp_fail(channel->tcp, &err);
	return -1;
}

static int check_reply(const struct hf_wire_reply *reply, const struct hf_fetch *fetch, struct hf_err *err)
{
	if (reply->id == fetch->id && reply->block == fetch->block &&
	    reply->offset_bytes == fetch->offset_bytes && reply->length_bytes == fetch->length_bytes)
		return 0;
	return hf_err_set(
	    err, HF_ERR_PEER, EPROTO,
	    "the source answered block %u offset %llu length %u (id %llu) when block %u offset %llu "
	    "length %u (id %llu) was next; one of the two programs is broken",
	    reply->block, (unsigned long long)reply->offset_bytes, reply->length_bytes,
	    (unsigned long long)reply->id, fetch->block, (unsigned long long)fetch->offset_bytes,
	    fetch->length_bytes, (unsigned long long)fetch->id);
}

static int receive_reply(struct page_channel *channel)
{
	uint8_t header[HF_WIRE_REPLY_BYTES];
	if (receive(channel, header, sizeof(header)))
		return -1;

	struct hf_err err = HF_ERR_INIT;
	struct hf_wire_reply reply;
	struct hf_fetch fetch;
	if (hf_wire_decode_reply(header, sizeof(header), &reply, &err))
		return violation(channel, &err);
	if (!peek_head(channel, &fetch)) {
		hf_err_set(&err, HF_ERR_PEER, EPROTO,
			   "the source sent a page nobody asked for; one of the two programs is broken");
		return violation(channel, &err);
	}
	if (check_reply(&reply, &fetch, &err))
		return violation(channel, &err);
	if (!reply.zero && receive(channel, fetch.landing, fetch.length_bytes))
		return -1;

	pop_head(channel);
	struct hf_tcp *tcp = channel->tcp;
	tcp->events->fetch_done(tcp->engine, &(struct hf_fetch_done){.id = fetch.id,
								     .epoch = fetch.epoch,
								     .status = HF_FETCH_OK,
								     .zero = reply.zero});
	return 0;
}

/* The link is down: nothing more is taken, what is left is reported. */
static void report_leftovers(struct page_channel *channel)
{
	struct hf_tcp *tcp = channel->tcp;
	struct hf_fetch fetch;

	hf_lock(&channel->lock);
	channel->closed = true;
	hf_unlock(&channel->lock);

	hf_lock(&tcp->life.lock);
	enum hf_fetch_status status = tcp->life.told_to_stop ? HF_FETCH_CANCELLED : HF_FETCH_FAILED;
	hf_unlock(&tcp->life.lock);

	while (peek_head(channel, &fetch)) {
		pop_head(channel);
		tcp->events->fetch_done(
		    tcp->engine,
		    &(struct hf_fetch_done){.id = fetch.id, .epoch = fetch.epoch, .status = status});
	}
}

void *tcp_fetch_main(void *argument)
{
	struct page_channel *channel = argument;
	if (!hf_link_life_wait_gate(&channel->tcp->life))
		return NULL;
	while (!hf_link_life_is_down(&channel->tcp->life))
		if (receive_reply(channel))
			break;
	report_leftovers(channel);
	return NULL;
}
