/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the control thread frames the connection's life.
 *
 *   link_up -> tell the probe block's key (source) -> open the gate -> exchange messages until the link is
 * down -> deliver what had already arrived -> end everything that an adapter could use -> link_down
 *
 * send() copies a frame to a bounded queue; the thread cuts what is queued into messages as far as credits
 * go. Messages that had arrived are delivered after the link has failed too, for the reason given in
 * transport-tcp/control.c: a RUN that has arrived decides who has the VM.
 */
#include "transport-rdma/internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAYLOAD_BYTES	    (RDMA_MESSAGE_BYTES - RDMA_MESSAGE_HEADER_BYTES)
#define MESSAGES_AT_THE_END 4096 /* more than can have arrived */

/* ---- the queue -------------------------------------------------------------------------------- */

/* A message that is lost would leave both sides waiting for ever: without it the link is of no use. */
static int give_up(struct hf_rdma *rdma, int result)
{
	struct hf_err why = HF_ERR_INIT;
	if (result == -ENOMEM || result == -ENOBUFS) {
		hf_err_set(&why, HF_ERR_LINK, -result, "%s, control channel: %s; check the peer's log",
			   rdma->name, strerror(-result));
		rdma_fail(rdma, &why);
	}
	return result;
}

/* Under the lock. */
static int enqueue(struct hf_rdma *rdma, struct hf_outbox_frame *frame)
{
	hf_lock_assert_held(&rdma->life.lock);
	int result = hf_link_life_is_up(&rdma->life) ? hf_outbox_append(&rdma->outbox, frame) : -ENOTCONN;
	rdma->unsent |= !result;
	return result;
}

int rdma_control_send(struct hf_rdma *rdma, uint64_t epoch, uint32_t type, const void *payload,
		      size_t length_bytes)
{
	struct hf_outbox_frame *frame;
	if (epoch != rdma->info.epoch || !hf_link_life_is_up(&rdma->life))
		return -ENOTCONN;
	int result = hf_outbox_frame_create(&frame, type, payload, length_bytes);
	if (result)
		return give_up(rdma, result);
	hf_lock(&rdma->life.lock);
	result = enqueue(rdma, frame);
	hf_unlock(&rdma->life.lock);
	if (result) {
		free(frame);
		return give_up(rdma, result);
	}
	rdma_wake(rdma);
	return 0;
}

static struct hf_outbox_frame *first_frame(struct hf_rdma *rdma)
{
	hf_lock(&rdma->life.lock);
	struct hf_outbox_frame *first = rdma->outbox.first;
	hf_unlock(&rdma->life.lock);
	return first;
}

static void drop_first_frame(struct hf_rdma *rdma)
{
	hf_lock(&rdma->life.lock);
	struct hf_outbox_frame *first = hf_outbox_take_first(&rdma->outbox);
	hf_unlock(&rdma->life.lock);
	rdma->control.first_sent_bytes = 0;
	free(first);
}

/* Fills one message with the next bytes of the queue; returns how many. */
static size_t take_from_queue(struct hf_rdma *rdma, uint8_t *payload)
{
	size_t bytes = 0;
	struct hf_outbox_frame *frame;
	while (bytes < PAYLOAD_BYTES && (frame = first_frame(rdma))) {
		size_t *sent_bytes = &rdma->control.first_sent_bytes;
		size_t part_bytes = frame->length_bytes - *sent_bytes;
		if (part_bytes > PAYLOAD_BYTES - bytes)
			part_bytes = PAYLOAD_BYTES - bytes;
		memcpy(payload + bytes, frame->bytes + *sent_bytes, part_bytes);
		bytes += part_bytes;
		*sent_bytes += part_bytes;
		if (*sent_bytes == frame->length_bytes)
			drop_first_frame(rdma);
	}
	return bytes;
}

static void note_all_sent(struct hf_rdma *rdma)
{
	if (rdma->control.sends)
		return;
	hf_lock(&rdma->life.lock);
	if (!rdma->outbox.first && rdma->unsent && !hf_link_life_is_down(&rdma->life)) {
		rdma->unsent = false;
		hf_cond_broadcast(&rdma->life.changed);
	}
	hf_unlock(&rdma->life.lock);
}

/* ---- keys ------------------------------------------------------------------------------------- */

static int send_probe_key(struct hf_rdma *rdma)
{
	struct rdma_keys keys = {.count = 1};
	if (rdma->role != RDMA_ROLE_SOURCE || !(rdma->info.features & HF_WIRE_FEATURE_LINK))
		return 0;
	const struct rdma_region *region = &rdma->probe_region.region[0];
	keys.key[0] = (struct rdma_key){.block = HF_WIRE_PROBE_BLOCK,
					.rkey = region->mr->rkey,
					.address = region->address,
					.length_bytes = region->length_bytes};
	return rdma_send_message(rdma, RDMA_MESSAGE_KEYS, rdma_encode_keys(&keys, rdma_next_payload(rdma)));
}

/* Source: what is registered, as far as credits go. */
static int send_keys(struct hf_rdma *rdma)
{
	struct rdma_control *control = &rdma->control;
	hf_lock(&rdma->life.lock);
	bool ready = rdma->own_keys_ready;
	hf_unlock(&rdma->life.lock);
	while (ready && rdma_may_send(rdma)) {
		struct rdma_keys keys = {.count = rdma->own_key_count - control->keys_sent};
		if (keys.count > RDMA_KEYS_PER_MESSAGE)
			keys.count = RDMA_KEYS_PER_MESSAGE;
		memcpy(keys.key, rdma->own_keys + control->keys_sent, keys.count * sizeof(keys.key[0]));
		control->keys_sent += keys.count;
		keys.last = control->keys_sent == rdma->own_key_count;
		if (rdma_send_message(rdma, RDMA_MESSAGE_KEYS,
				      rdma_encode_keys(&keys, rdma_next_payload(rdma))))
			return -1;
		if (keys.last) {
			hf_lock(&rdma->life.lock);
			rdma->own_keys_ready = false;
			hf_unlock(&rdma->life.lock);
			return 0;
		}
	}
	return 0;
}

/* Destination: the landings are ready, so the source may register. */
static int send_want(struct hf_rdma *rdma)
{
	hf_lock(&rdma->life.lock);
	bool lent = rdma->lent;
	hf_unlock(&rdma->life.lock);
	if (rdma->role != RDMA_ROLE_DESTINATION || !lent || rdma->control.want_sent || !rdma_may_send(rdma))
		return 0;
	rdma->control.want_sent = true;
	return rdma_send_message(rdma, RDMA_MESSAGE_WANT_KEYS, 0);
}

static int send_what_waits(struct hf_rdma *rdma)
{
	if (send_want(rdma) || send_keys(rdma))
		return -1;
	while (rdma_may_send(rdma)) {
		size_t bytes = take_from_queue(rdma, rdma_next_payload(rdma));
		if (!bytes)
			break;
		if (rdma_send_message(rdma, RDMA_MESSAGE_FRAMES, bytes))
			return -1;
	}
	return rdma_tend_credits(rdma);
}

/* ---- hearing ---------------------------------------------------------------------------------- */

/* The length of the frame at the start, header included; 0: not whole yet; -1: violation, link failed. */
static ssize_t frame_bytes(struct hf_rdma *rdma, const uint8_t *bytes, size_t have_bytes,
			   struct hf_wire_frame_header *header)
{
	struct hf_err err = HF_ERR_INIT;
	if (have_bytes < HF_WIRE_FRAME_HEADER_BYTES)
		return 0;
	if (hf_wire_decode_frame_header(bytes, HF_WIRE_FRAME_HEADER_BYTES, header, &err))
		return rdma_violation(rdma, &err);
	size_t whole_bytes = HF_WIRE_FRAME_HEADER_BYTES + (size_t)header->length_bytes;
	return have_bytes < whole_bytes ? 0 : (ssize_t)whole_bytes;
}

/* This side ended the link, or what comes can not be told from garbage. */
static bool deaf(struct hf_rdma *rdma)
{
	hf_lock(&rdma->life.lock);
	bool is_deaf = rdma->control.broken || (hf_link_life_is_down(&rdma->life) && rdma->life.told_to_stop);
	hf_unlock(&rdma->life.lock);
	return is_deaf;
}

static int hear_frames(struct hf_rdma *rdma, const uint8_t *payload, size_t length_bytes)
{
	struct rdma_control *control = &rdma->control;
	size_t used_bytes = 0;
	// Less than one frame is left from before, so there is always room.
	memcpy(control->inbox + control->inbox_bytes, payload, length_bytes);
	control->inbox_bytes += length_bytes;
	while (!deaf(rdma)) {
		struct hf_wire_frame_header header;
		const uint8_t *frame = control->inbox + used_bytes;
		ssize_t bytes = frame_bytes(rdma, frame, control->inbox_bytes - used_bytes, &header);
		if (bytes < 0)
			return -1;
		if (!bytes)
			break;
		rdma->events->message(rdma->engine, rdma->info.epoch, header.type,
				      frame + HF_WIRE_FRAME_HEADER_BYTES, header.length_bytes);
		used_bytes += (size_t)bytes;
	}
	control->inbox_bytes -= used_bytes;
	memmove(control->inbox, control->inbox + used_bytes, control->inbox_bytes);
	return 0;
}

static int hear_want(struct hf_rdma *rdma, size_t length_bytes)
{
	struct hf_err err = HF_ERR_INIT;
	int result = length_bytes ? -EPROTO : rdma_lend_begin(rdma);
	if (!result)
		return 0;
	if (result != -EPROTO)
		hf_err_set(&err, HF_ERR_LOCAL, -result, "no thread to register memory: %s",
			   strerror(-result));
	else
		hf_err_set(&err, HF_ERR_PEER, EPROTO,
			   "the peer asks for keys when it may not; one of the two programs is broken");
	return rdma_violation(rdma, &err);
}

static int hear_keys(struct hf_rdma *rdma, const uint8_t *payload, size_t length_bytes)
{
	struct hf_err err = HF_ERR_INIT;
	struct rdma_keys keys;
	int result = rdma_decode_keys(payload, length_bytes, &keys, &err);
	if (!result)
		result = rdma_lend_take_keys(rdma, &keys, &err);
	if (result)
		return rdma_violation(rdma, &err);
	rdma_fetch_pump_all(rdma);
	return 0;
}

int rdma_hear(struct hf_rdma *rdma, enum rdma_message_kind kind, const uint8_t *payload, size_t length_bytes)
{
	switch (kind) {
	case RDMA_MESSAGE_FRAMES:
		return hear_frames(rdma, payload, length_bytes);
	case RDMA_MESSAGE_WANT_KEYS:
		return hear_want(rdma, length_bytes);
	case RDMA_MESSAGE_KEYS:
		return hear_keys(rdma, payload, length_bytes);
	default:
		return 0;
	}
}

/* ---- the connection manager ------------------------------------------------------------------- */

static void take_cm_event(struct hf_rdma *rdma, const struct rdma_cm_happened *happened)
{
	struct hf_err why = HF_ERR_INIT;
	if (happened->type == RDMA_CM_EVENT_DISCONNECTED)
		hf_err_set(&why, HF_ERR_LINK, ECONNRESET,
			   "%s: the peer closed the connection; its own log says why", rdma->name);
	else if (happened->type == RDMA_CM_EVENT_DEVICE_REMOVAL)
		hf_err_set(&why, HF_ERR_LOCAL, ENODEV, "%s: this host's RDMA device is being removed",
			   rdma->name);
	else
		return;
	rdma_fail(rdma, &why);
}

static void take_cm_events(struct hf_rdma *rdma)
{
	struct rdma_cm_happened happened;
	while (rdma_next_event(rdma->cm_events, 0, &happened) > 0)
		take_cm_event(rdma, &happened);
}

/* ---- the thread ------------------------------------------------------------------------------- */

static void check_silence(struct hf_rdma *rdma)
{
	struct hf_err why = HF_ERR_INIT;
	if (rdma_now_ms() - rdma->control.heard_ms < RDMA_SILENCE_MAX_MS)
		return;
	hf_err_set(
	    &why, HF_ERR_LINK, ETIMEDOUT,
	    "%s, control channel: no sign of life from the peer for %u s; check the host and the network",
	    rdma->name, RDMA_SILENCE_MAX_MS / 1000);
	rdma_fail(rdma, &why);
}

static void drain_wakeups(struct hf_rdma *rdma)
{
	uint64_t count;
	while (read(rdma->wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
}

/* Sleeps until there is something to do: a message, an event, something to send, the time to show life. */
static void wait_for_work(struct hf_rdma *rdma)
{
	struct rdma_completions *completions = &rdma->control.completions;
	struct pollfd entries[] = {{.fd = completions->channel->fd, .events = POLLIN},
				   {.fd = rdma->cm_events->fd, .events = POLLIN},
				   {.fd = rdma->wake_fd, .events = POLLIN},
				   {.fd = rdma->down_fd, .events = POLLIN}};
	poll(entries, sizeof(entries) / sizeof(entries[0]), (int)RDMA_SIGN_OF_LIFE_MS / 5);
	if (entries[0].revents)
		rdma_completions_ack(completions);
	if (entries[1].revents)
		take_cm_events(rdma);
	if (entries[2].revents)
		drain_wakeups(rdma);
}

static void exchange_messages(struct hf_rdma *rdma)
{
	while (!hf_link_life_is_down(&rdma->life)) {
		struct ibv_cq *cq = rdma->control.completions.cq;
		int taken = rdma_take_messages(rdma, false);
		if (taken < 0 || send_what_waits(rdma))
			return;
		note_all_sent(rdma);
		check_silence(rdma);
		if (taken > 0)
			continue;
		if (ibv_req_notify_cq(cq, 0)) {
			rdma_fail_adapter(rdma);
			return;
		}
		// One that came before the notification was asked for would not be told.
		taken = rdma_take_messages(rdma, false);
		if (taken == 0)
			wait_for_work(rdma);
		else if (taken < 0)
			return;
	}
}

static void deliver_what_arrived(struct hf_rdma *rdma)
{
	for (int i = 0; i < MESSAGES_AT_THE_END; i++)
		if (rdma_take_messages(rdma, deaf(rdma)) <= 0)
			return;
}

void *rdma_control_main(void *argument)
{
	struct hf_rdma *rdma = argument;
	rdma->events->link_up(rdma->engine, &rdma->info);
	hf_link_life_set_gate(&rdma->life, true);

	if (hf_link_life_is_down(&rdma->life) || send_probe_key(rdma) == 0)
		exchange_messages(rdma);
	deliver_what_arrived(rdma);

	for (uint32_t i = 0; i < rdma->channel_count; i++)
		if (rdma->channels[i].thread_runs)
			pthread_join(rdma->channels[i].thread, NULL);
	rdma_destroy_control(rdma);
	rdma_lend_end(rdma);
	rdma->events->link_down(rdma->engine, rdma->info.epoch, &rdma->life.why);
	return NULL;
}
