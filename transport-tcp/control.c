/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the control thread frames the connection's life.
 *
 *   link_up -> open the gate for the page channels -> read and write messages until the link is down ->
 *   deliver what had already arrived -> join the page channels' threads -> link_down
 *
 * Reading and writing share one thread and one poll(), and neither ever blocks, so two sides that send
 * much at once cannot lock each other up. send() copies the frame to a bounded queue and wakes the thread.
 *
 * Why messages are still delivered after the link has failed: a side that has said its last word (FAIL,
 * FINISH) flushes and closes all its sockets at once. The end of a page channel may then be noticed here
 * before the last message has been read. Flush waits until the peer's kernel has the bytes, so they are in
 * the receive buffer by then, and shutdown(2) leaves them there.
 */
#include "transport-tcp/internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char control_name[] = "control channel";

#define INBOX_BYTES (HF_WIRE_FRAME_HEADER_BYTES + (size_t)HF_WIRE_FRAME_MAX_BYTES)

/* ---- sending ---------------------------------------------------------------------------------- */

static void wake(struct hf_tcp *tcp)
{
	uint64_t one = 1;
	while (write(tcp->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* A control message that is lost would leave both sides waiting for ever: without it the link is of no use.
 */
static int give_up(struct hf_tcp *tcp, int result)
{
	if (result == -ENOMEM || result == -ENOBUFS)
		tcp_fail_link(tcp, "control channel", -result);
	return result;
}

/* Under the lock. */
static int enqueue(struct hf_tcp *tcp, struct hf_outbox_frame *frame)
{
	hf_lock_assert_held(&tcp->life.lock);
	return hf_link_life_is_up(&tcp->life) ? hf_outbox_append(&tcp->outbox, frame) : -ENOTCONN;
}

int tcp_control_send(struct hf_tcp *tcp, uint64_t epoch, uint32_t type, const void *payload,
		     size_t length_bytes)
{
	struct hf_outbox_frame *frame;
	if (epoch != tcp->info.epoch || !hf_link_life_is_up(&tcp->life))
		return -ENOTCONN;
	int result = hf_outbox_frame_create(&frame, type, payload, length_bytes);
	if (result)
		return give_up(tcp, result);

	hf_lock(&tcp->life.lock);
	result = enqueue(tcp, frame);
	hf_unlock(&tcp->life.lock);
	if (result == 0) {
		wake(tcp);
		return 0;
	}
	free(frame);
	return give_up(tcp, result);
}

static struct hf_outbox_frame *first_frame(struct hf_tcp *tcp)
{
	hf_lock(&tcp->life.lock);
	struct hf_outbox_frame *first = tcp->outbox.first;
	hf_unlock(&tcp->life.lock);
	return first;
}

static void drop_first_frame(struct hf_tcp *tcp)
{
	hf_lock(&tcp->life.lock);
	struct hf_outbox_frame *first = hf_outbox_take_first(&tcp->outbox);
	if (!tcp->outbox.first)
		hf_cond_broadcast(&tcp->life.changed);
	hf_unlock(&tcp->life.lock);
	tcp->first_sent_bytes = 0;
	free(first);
}

/* Returns whether something is left that the socket does not take now. */
static bool write_messages(struct hf_tcp *tcp)
{
	struct hf_outbox_frame *frame;
	while ((frame = first_frame(tcp))) {
		ssize_t sent = send(tcp->control_fd, frame->bytes + tcp->first_sent_bytes,
				    frame->length_bytes - tcp->first_sent_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0 && errno == EAGAIN)
			return true;
		if (sent < 0 && errno != EINTR) {
			tcp_fail_link(tcp, control_name, errno);
			return false;
		}
		if (sent > 0)
			tcp->first_sent_bytes += (size_t)sent;
		if (tcp->first_sent_bytes == frame->length_bytes)
			drop_first_frame(tcp);
	}
	return false;
}

/* ---- receiving -------------------------------------------------------------------------------- */

/* The length of the frame at the start, header included; 0: not whole yet; -1: violation, link failed. */
static ssize_t frame_bytes(struct hf_tcp *tcp, const uint8_t *bytes, size_t have_bytes,
			   struct hf_wire_frame_header *header)
{
	struct hf_err err = HF_ERR_INIT;
	if (have_bytes < HF_WIRE_FRAME_HEADER_BYTES)
		return 0;
	if (hf_wire_decode_frame_header(bytes, HF_WIRE_FRAME_HEADER_BYTES, header, &err)) {
		hf_err_prefix(&err, "%s, %s", tcp->name, control_name);
		tcp->control_broken = true;
		tcp_fail(tcp, &err);
		return -1;
	}
	size_t whole_bytes = HF_WIRE_FRAME_HEADER_BYTES + (size_t)header->length_bytes;
	return have_bytes < whole_bytes ? 0 : (ssize_t)whole_bytes;
}

/*
 * This side ended the link, or what comes can not be told from garbage. A page channel that failed, for
 * whatever reason, is none: a RUN that has arrived decides who has the VM.
 */
static bool deaf(struct hf_tcp *tcp)
{
	hf_lock(&tcp->life.lock);
	bool is_deaf = tcp->control_broken || (hf_link_life_is_down(&tcp->life) && tcp->life.told_to_stop);
	hf_unlock(&tcp->life.lock);
	return is_deaf;
}

static int deliver_frames(struct hf_tcp *tcp)
{
	size_t used_bytes = 0;
	while (!deaf(tcp)) {
		struct hf_wire_frame_header header;
		const uint8_t *frame = tcp->inbox + used_bytes;
		ssize_t bytes = frame_bytes(tcp, frame, tcp->inbox_bytes - used_bytes, &header);
		if (bytes < 0)
			return -1;
		if (!bytes)
			break;
		tcp->events->message(tcp->engine, tcp->info.epoch, header.type,
				     frame + HF_WIRE_FRAME_HEADER_BYTES, header.length_bytes);
		used_bytes += (size_t)bytes;
	}
	tcp->inbox_bytes -= used_bytes;
	memmove(tcp->inbox, tcp->inbox + used_bytes, tcp->inbox_bytes);
	return 0;
}

/* 1: read something, 0: nothing there now, -1: the link has failed. */
static int read_messages(struct hf_tcp *tcp)
{
	// A whole frame always fits: deliver_frames() leaves less than one, at the start.
	ssize_t got;
	do
		got = recv(tcp->control_fd, tcp->inbox + tcp->inbox_bytes, INBOX_BYTES - tcp->inbox_bytes,
			   MSG_DONTWAIT);
	while (got < 0 && errno == EINTR);
	if (got < 0 && errno == EAGAIN)
		return 0;
	if (got <= 0) {
		tcp_fail_link(tcp, control_name, got < 0 ? errno : 0);
		return -1;
	}
	tcp->inbox_bytes += (size_t)got;
	return deliver_frames(tcp) ? -1 : 1;
}

/* ---- the thread ------------------------------------------------------------------------------- */

static void drain_wakeups(struct hf_tcp *tcp)
{
	uint64_t count;
	while (read(tcp->wake_fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
}

static void exchange_messages(struct hf_tcp *tcp)
{
	while (!hf_link_life_is_down(&tcp->life)) {
		bool blocked = write_messages(tcp);
		struct pollfd entries[2] = {
		    {.fd = tcp->control_fd, .events = (short)(POLLIN | (blocked ? POLLOUT : 0))},
		    {.fd = tcp->wake_fd, .events = POLLIN},
		};
		if (poll(entries, 2, -1) < 0) {
			if (errno != EINTR && errno != ENOMEM)
				tcp_fail_link(tcp, control_name, errno);
			continue;
		}
		if (entries[1].revents)
			drain_wakeups(tcp);
		if ((entries[0].revents & ~POLLOUT) && read_messages(tcp) < 0)
			break;
	}
}

static void deliver_what_arrived(struct hf_tcp *tcp)
{
	while (!deaf(tcp) && read_messages(tcp) > 0)
		;
}

void *tcp_control_main(void *argument)
{
	struct hf_tcp *tcp = argument;
	tcp->events->link_up(tcp->engine, &tcp->info);
	hf_link_life_set_gate(&tcp->life, true);

	exchange_messages(tcp);
	deliver_what_arrived(tcp);

	for (uint32_t i = 0; i < tcp->channel_count; i++)
		pthread_join(tcp->channels[i].thread, NULL);
	tcp->events->link_down(tcp->engine, tcp->info.epoch, &tcp->life.why);
	return NULL;
}
