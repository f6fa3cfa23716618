/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a destination's page channel.
 *
 *   fetch()  any thread             lock; append to the FIFO; unlock; send the request
 *   thread   one a channel          header -> compare with the FIFO's head -> payload into its landing ->
 *                                   lock; pop; unlock -> fetch_done
 *
 * The source answers in order, so the head of the FIFO says what the next reply must be. The order in the
 * FIFO is the order on the wire: one thread at a time sends, and it goes on until nothing is left to send.
 * Who appends meanwhile leaves its request to that thread. Nobody waits for another one's send, which may
 * take long: over loopback the kernel delivers in it, and who is woken there may take the CPU. The caller
 * sends itself, because it may be the reader of page faults and a wake-up of another thread would cost more
 * than the call.
 *
 * A fetch stays at the head while its bytes arrive. So when the link fails, whatever the FIFO holds is
 * exactly what has not been reported: the thread closes the FIFO for further fetches and reports each once.
 * It is the only one that writes to landings, so they are free when it has been joined.
 *
 * Outstanding requests are few and small and the send buffer has room for all of them; if the kernel has
 * none for one all the same (memory pressure) the fetch is refused as if the channel were full, because the
 * next reply will have the engine ask again. What others have left to the thread that is refused is sent
 * behind the next reply, before anything else. Without a reply to wait for, or with half a request sent, the
 * link is given up.
 */
#include "transport-tcp/internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

_Static_assert(!(TCP_CHANNEL_FETCHES_MAX & (TCP_CHANNEL_FETCHES_MAX - 1)),
	       "places in the ring go on where the count of answers begins again");

void tcp_channel_name(const struct page_channel *channel, char name[static TCP_CHANNEL_NAME_BYTES])
{
	snprintf(name, TCP_CHANNEL_NAME_BYTES, "%s channel %u",
		 channel->load.class == HF_FETCH_URGENT ? "urgent" : "background", channel->index);
}

static void fail_channel(struct page_channel *channel, int error_number)
{
	char name[TCP_CHANNEL_NAME_BYTES];
	tcp_channel_name(channel, name);
	tcp_fail_link(channel->tcp, name, error_number);
}

/* ---- posting ---------------------------------------------------------------------------------- */

static struct page_channel *pick_channel(struct hf_tcp *tcp, enum hf_fetch_class class)
{
	uint32_t index = hf_channel_pick(&tcp->channels[0].load, sizeof(tcp->channels[0]), tcp->channel_count,
					 class, TCP_CHANNEL_FETCHES_MAX);
	return index == HF_CHANNEL_NONE ? NULL : &tcp->channels[index];
}

static ssize_t encode(const struct hf_fetch *fetch, uint8_t request[static HF_WIRE_REQUEST_BYTES])
{
	return hf_wire_encode_request(&(struct hf_wire_request){.id = fetch->id,
								.offset_bytes = fetch->offset_bytes,
								.block = fetch->block,
								.length_bytes = fetch->length_bytes},
				      request, HF_WIRE_REQUEST_BYTES);
}

/* False: the kernel has no room for it. What else goes wrong fails the link. */
static bool send_request(struct page_channel *channel, const struct hf_fetch *fetch)
{
	uint8_t request[HF_WIRE_REQUEST_BYTES];
	ssize_t sent;
	encode(fetch, request); // tcp_fetch_post() has seen that it can be
	do
		sent = send(channel->fd, request, sizeof(request), MSG_DONTWAIT | MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	if (sent < 0 && errno == EAGAIN)
		return false;
	if (sent != sizeof(request))
		fail_channel(channel, sent < 0 ? errno : ENOBUFS);
	return true;
}

/* Locked. What was sent and not answered. */
static uint32_t answers_to_come(const struct page_channel *channel)
{
	hf_lock_assert_held(&channel->lock);
	return atomic_load(&channel->load.outstanding) - channel->unsent;
}

/* Locked. */
static struct hf_fetch *first_unsent(struct page_channel *channel)
{
	return &channel->fifo[(channel->head + answers_to_come(channel)) % TCP_CHANNEL_FETCHES_MAX];
}

/*
 * Locked, and unlocked in between; nobody else sends. Until nothing is left to send, or the kernel has no
 * room and an answer is to come. How many were sent; what an error has caught counts, and is told with the
 * rest of the FIFO.
 */
static uint32_t send_unsent(struct page_channel *channel)
{
	uint32_t count = 0;
	channel->sending = true;
	while (channel->unsent && !channel->closed) {
		uint32_t answers_before = answers_to_come(channel), place = channel->head + answers_before;
		struct hf_fetch fetch = *first_unsent(channel);
		channel->unsent--; // from here on it may be answered
		hf_unlock(&channel->lock);
		bool sent = send_request(channel, &fetch);
		if (!sent && !answers_before)
			fail_channel(channel, ENOBUFS);
		hf_lock(&channel->lock);
		/* A source that guesses has answered what it was not asked: that is told, and comes no more.
		 */
		bool guessed = (int32_t)(channel->head - place) > 0;
		bool done_with = sent || guessed || !answers_before || channel->closed;
		count += done_with;
		if (done_with)
			continue;
		channel->unsent++;
		if (answers_to_come(channel))
			break; // else all have come meanwhile, and nobody would come again
	}
	channel->sending = false;
	return count;
}

/* Locked. The first of those that were not sent: nobody minds in which order the others are. */
static void take_back(struct page_channel *channel)
{
	struct hf_fetch *fetch = first_unsent(channel);
	uint32_t last = atomic_fetch_sub(&channel->load.outstanding, 1) - 1;
	atomic_fetch_sub(&channel->load.outstanding_bytes, fetch->length_bytes);
	channel->unsent--;
	*fetch = channel->fifo[(channel->head + last) % TCP_CHANNEL_FETCHES_MAX];
}

/* 1: no room after all. */
static int append(struct page_channel *channel, const struct hf_fetch *fetch)
{
	int result = 1;
	hf_lock(&channel->lock);
	uint32_t outstanding = atomic_load(&channel->load.outstanding);
	if (channel->closed) {
		result = -ENOTCONN;
	} else if (channel->unsent && !channel->sending) {
		result = -EAGAIN;
	} else if (outstanding < TCP_CHANNEL_FETCHES_MAX) {
		result = 0;
		channel->fifo[(channel->head + outstanding) % TCP_CHANNEL_FETCHES_MAX] = *fetch;
		channel->unsent++;
		atomic_fetch_add(&channel->load.outstanding, 1);
		atomic_fetch_add(&channel->load.outstanding_bytes, fetch->length_bytes);
		if (!channel->sending && !send_unsent(channel) && channel->unsent && !channel->closed) {
			take_back(channel);
			result = -EAGAIN;
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
	ssize_t encoded = encode(fetch, request);
	if (encoded < 0)
		return (int)encoded;

	for (;;) {
		struct page_channel *channel = pick_channel(tcp, fetch->class);
		if (!channel)
			return -EAGAIN;
		int result = append(channel, fetch);
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
		fail_channel(channel, got < 0 ? errno : 0);
		return -1;
	}
	return 0;
}

static bool peek_head(struct page_channel *channel, struct hf_fetch *fetch)
{
	hf_lock(&channel->lock);
	bool found = answers_to_come(channel) > 0;
	if (found)
		*fetch = channel->fifo[channel->head % TCP_CHANNEL_FETCHES_MAX];
	hf_unlock(&channel->lock);
	return found;
}

static void pop_head(struct page_channel *channel)
{
	hf_lock(&channel->lock);
	atomic_fetch_sub(&channel->load.outstanding_bytes,
			 channel->fifo[channel->head % TCP_CHANNEL_FETCHES_MAX].length_bytes);
	channel->head++;
	atomic_fetch_sub(&channel->load.outstanding, 1);
	if (channel->unsent && !channel->sending)
		send_unsent(channel);
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
	channel->unsent = 0; // what was not sent is told with the rest
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
