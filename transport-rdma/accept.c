/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the destination listens and accepts one whole connection.
 *
 * Who connects has said its whole hello with the request, so nobody keeps anybody waiting: each request is
 * judged at once. The listener's event channel brings requests only; the id of a request that is let in moves
 * to the connection's own event channel, which brings everything else, so the listener may be closed
 * afterwards.
 *
 *   request for control, a session is on           -> busy
 *   request for control, no session, and welcome   -> accepted: the session is his; page channels are awaited
 *   request for a page channel that is awaited     -> accepted
 *   anything else                                  -> rejected, with the reason
 *
 * The connection is whole when every channel that was accepted is established. If it is lost before, the
 * search goes on until the time is over; the first thing that went wrong is the answer then.
 */
#include "transport-rdma/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BACKLOG 256

struct hf_rdma_listener {
	char uri[RDMA_NAME_BYTES];
	struct rdma_uri parsed;
	struct hf_rdma_options options;
	struct hf_opening_guard guard;
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
};

struct acceptance {
	struct hf_rdma_listener *listener;
	uint64_t deadline_ms;
	struct hf_rdma *rdma; /* the session; NULL until its control channel has come */
	struct hf_wire_hello hello;
	uint32_t established; /* channels, control included */
	struct hf_err trouble;
};

static void note_trouble(struct acceptance *acceptance, const struct hf_err *why)
{
	if (acceptance->trouble.class == HF_ERR_NONE) {
		acceptance->trouble = *why;
		hf_err_prefix(&acceptance->trouble, "%s", acceptance->listener->uri);
	}
}

/* ---- answering -------------------------------------------------------------------------------- */

static void refuse(struct acceptance *acceptance, struct rdma_cm_id *id, enum hf_wire_hello_status status,
		   struct hf_err *why)
{
	uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES + RDMA_REFUSAL_TEXT_BYTES];
	char text[RDMA_REFUSAL_TEXT_BYTES + 1], name[RDMA_NAME_BYTES];
	struct hf_wire_hello_reply reply = {.status = status};
	snprintf(text, sizeof(text), "%.*s", (int)RDMA_REFUSAL_TEXT_BYTES, why->text);
	ssize_t encoded = hf_wire_encode_hello_reply(&reply, text, bytes, sizeof(bytes));
	rdma_address_name(rdma_get_peer_addr(id), name);
	rdma_reject(id, bytes, encoded > 0 ? (uint8_t)encoded : 0);
	rdma_destroy_id(id);
	hf_err_prefix(why, "%s was refused", name);
	note_trouble(acceptance, why);
}

static int accept_id(struct hf_rdma *rdma, struct rdma_cm_id *id, const struct rdma_cm_happened *request,
		     const struct hf_wire_hello_reply *reply, struct hf_err *err)
{
	uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES];
	ssize_t encoded = hf_wire_encode_hello_reply(reply, "", bytes, sizeof(bytes));
	// What the source's adapter answers at once, and what it may ask: as the request says.
	uint8_t out = rdma->limits.read_depth_out, in = rdma->limits.read_depth_in;
	if (request->initiator_depth < out)
		out = request->initiator_depth;
	if (request->responder_resources < in)
		in = request->responder_resources;
	if (!out)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "the source's adapter answers no READ; look at its RDMA device");
	struct rdma_conn_param parameters = rdma_conn_param(bytes, (size_t)encoded, out, in ? in : 1);
	if (rdma_accept(id, &parameters))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "%s: cannot accept: %s", rdma->name,
				  strerror(errno));
	return 0;
}

/* ---- the session ------------------------------------------------------------------------------ */

static void lose_session(struct acceptance *acceptance, int error_number, const char *text)
{
	struct hf_rdma *rdma = acceptance->rdma;
	struct hf_err why = HF_ERR_INIT;
	hf_err_set(&why, HF_ERR_LINK, error_number, "%s %s with %u of %u channels open", rdma->name, text,
		   acceptance->established, rdma->channel_count + 1);
	note_trouble(acceptance, &why);
	rdma_free(rdma);
	acceptance->rdma = NULL;
	acceptance->established = 0;
}

static int build_session(struct acceptance *acceptance, struct rdma_cm_id *id,
			 const struct hf_wire_hello *hello, const struct hf_link_info *info,
			 struct hf_rdma *rdma, struct hf_err *err)
{
	rdma_address_name(rdma_get_peer_addr(id), rdma->name);
	memcpy(rdma->session, hello->session, sizeof(rdma->session));
	int result = rdma_open_events(&rdma->cm_events, acceptance->listener->uri, err);
	if (!result)
		result = rdma_set_terms(rdma, info, err);
	if (!result && rdma_migrate_id(id, rdma->cm_events))
		result = hf_err_set(err, HF_ERR_LOCAL, errno, "%s: %s", rdma->name, strerror(errno));
	if (!result)
		result = rdma_use_device(rdma, id, err);
	return result;
}

static void open_session(struct acceptance *acceptance, const struct rdma_cm_happened *request,
			 const struct hf_wire_hello *hello)
{
	struct hf_err err = HF_ERR_INIT;
	struct hf_link_info info;
	struct hf_rdma *rdma = NULL;
	enum hf_wire_hello_status refusal = HF_WIRE_HELLO_REFUSED;
	int result = hf_opening_settle(&acceptance->listener->guard, hello, &info, &refusal, &err);
	if (!result) {
		refusal = HF_WIRE_HELLO_REFUSED;
		result = rdma_new(&rdma, RDMA_ROLE_DESTINATION, &err);
	}
	if (!result)
		result = build_session(acceptance, request->id, hello, &info, rdma, &err);
	if (!result) {
		rdma->control_id = request->id;
		result = rdma_make_queue_pair(rdma, request->id, NULL, &err);
	}
	struct hf_wire_hello_reply reply = {.version = info.version, .features = info.features};
	memcpy(reply.channels, info.channels, sizeof(reply.channels));
	if (!result)
		result = accept_id(rdma, request->id, request, &reply, &err);
	if (!result) {
		acceptance->rdma = rdma;
		acceptance->hello = *hello;
		acceptance->deadline_ms = rdma_now_ms() + acceptance->listener->options.timeout_ms;
		return;
	}
	if (request->id->qp)
		rdma_destroy_qp(request->id);
	if (rdma)
		rdma->control_id = NULL;
	refuse(acceptance, request->id, refusal, &err);
	rdma_free(rdma);
}

/* The channel this hello is for, if it is awaited. */
static struct page_channel *awaited_channel(const struct acceptance *acceptance,
					    const struct hf_wire_hello *hello)
{
	struct hf_rdma *rdma = acceptance->rdma;
	enum hf_fetch_class class =
	    hello->channel == HF_WIRE_CHANNEL_URGENT ? HF_FETCH_URGENT : HF_FETCH_BACKGROUND;
	if (!rdma || !hf_opening_same_session(&acceptance->hello, hello))
		return NULL;
	for (uint32_t i = 0; i < rdma->channel_count; i++) {
		struct page_channel *channel = &rdma->channels[i];
		if (channel->class == class && channel->index == hello->index && !channel->id)
			return channel;
	}
	return NULL;
}

static void join_session(struct acceptance *acceptance, const struct rdma_cm_happened *request,
			 const struct hf_wire_hello *hello)
{
	struct hf_err err = HF_ERR_INIT;
	struct page_channel *channel = awaited_channel(acceptance, hello);
	if (!channel) {
		hf_err_set(&err, HF_ERR_PEER, EPROTO, "no migration here waits for that channel");
		refuse(acceptance, request->id, HF_WIRE_HELLO_SESSION, &err);
		return;
	}
	struct hf_rdma *rdma = channel->rdma;
	int result = rdma_migrate_id(request->id, rdma->cm_events)
			 ? hf_err_set(&err, HF_ERR_LOCAL, errno, "%s: %s", rdma->name, strerror(errno))
			 : rdma_make_queue_pair(rdma, request->id, channel, &err);
	struct hf_wire_hello_reply reply = {.version = rdma->info.version, .features = rdma->info.features};
	if (!result)
		result = accept_id(rdma, request->id, request, &reply, &err);
	if (!result) {
		channel->id = request->id;
		acceptance->deadline_ms = rdma_now_ms() + acceptance->listener->options.timeout_ms;
		return;
	}
	if (request->id->qp)
		rdma_destroy_qp(request->id);
	rdma_completions_close(&channel->completions);
	refuse(acceptance, request->id, HF_WIRE_HELLO_REFUSED, &err);
}

static void hear_request(struct acceptance *acceptance, const struct rdma_cm_happened *request)
{
	struct hf_err err = HF_ERR_INIT;
	struct hf_wire_hello hello;
	if (request->type != RDMA_CM_EVENT_CONNECT_REQUEST)
		return;
	if (rdma_decode_hello(request->private_data, request->private_bytes, &hello, &err)) {
		refuse(acceptance, request->id, HF_WIRE_HELLO_REFUSED, &err);
	} else if (hello.channel != HF_WIRE_CHANNEL_CONTROL) {
		join_session(acceptance, request, &hello);
	} else if (acceptance->rdma) {
		hf_err_set(&err, HF_ERR_PEER, EBUSY, "another migration to this host is being set up");
		refuse(acceptance, request->id, HF_WIRE_HELLO_BUSY, &err);
	} else {
		open_session(acceptance, request, &hello);
	}
}

static void hear_member(struct acceptance *acceptance, const struct rdma_cm_happened *happened)
{
	if (happened->type == RDMA_CM_EVENT_ESTABLISHED)
		acceptance->established++;
	else
		lose_session(acceptance, EPROTO, "went away");
}

/* ---- the loop --------------------------------------------------------------------------------- */

static int step(struct acceptance *acceptance, struct hf_err *err)
{
	struct hf_rdma *rdma = acceptance->rdma;
	uint64_t now_ms = rdma_now_ms();
	struct pollfd entries[2] = {{.fd = acceptance->listener->events->fd, .events = POLLIN},
				    {.fd = rdma ? rdma->cm_events->fd : -1, .events = POLLIN}};
	int left_ms = now_ms < acceptance->deadline_ms ? (int)(acceptance->deadline_ms - now_ms) : 0;
	if (poll(entries, 2, left_ms) < 0 && errno != EINTR)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "%s: poll: %s", acceptance->listener->uri,
				  strerror(errno));
	struct rdma_cm_happened happened;
	if (rdma && rdma_next_event(rdma->cm_events, 0, &happened) > 0)
		hear_member(acceptance, &happened);
	if (rdma_next_event(acceptance->listener->events, 0, &happened) > 0)
		hear_request(acceptance, &happened);
	return 0;
}

static int give_up(struct acceptance *acceptance, struct hf_err *err)
{
	if (acceptance->trouble.class == HF_ERR_NONE)
		return hf_err_set(err, HF_ERR_LINK, ETIMEDOUT, "%s: nobody connected within %u ms",
				  acceptance->listener->uri, acceptance->listener->options.timeout_ms);
	if (err)
		*err = acceptance->trouble;
	return -acceptance->trouble.errnum;
}

static int accept_session(struct acceptance *acceptance, struct hf_err *err)
{
	for (;;) {
		const struct hf_rdma *rdma = acceptance->rdma;
		if (rdma && acceptance->established == rdma->channel_count + 1)
			return 0;
		bool in_time = rdma_now_ms() < acceptance->deadline_ms;
		if (rdma && !in_time)
			lose_session(acceptance, ETIMEDOUT, "stopped opening channels");
		if (!acceptance->rdma && (acceptance->trouble.class != HF_ERR_NONE || !in_time))
			return give_up(acceptance, err);
		int result = step(acceptance, err);
		if (result)
			return result;
	}
}

int hf_rdma_accept(struct hf_rdma_listener *listener, struct hf_rdma **out, struct hf_err *err)
{
	struct acceptance acceptance = {.listener = listener,
					.deadline_ms = rdma_now_ms() + listener->options.timeout_ms};
	int result = accept_session(&acceptance, err);
	if (result) {
		rdma_free(acceptance.rdma);
		return result;
	}
	*out = acceptance.rdma;
	return 0;
}

/* ---- the listener ----------------------------------------------------------------------------- */

static int explain_bind(const struct hf_rdma_listener *listener, int error_number, struct hf_err *err)
{
	const char *hint = "check the address";
	if (error_number == EADDRINUSE)
		hint = "another program listens there; choose another one or stop that program";
	else if (error_number == EADDRNOTAVAIL || error_number == ENODEV)
		hint = "no RDMA device of this host has that address (see `rdma link` and `ip address`)";
	else if (error_number == EACCES || error_number == EPERM)
		hint = "this user may not use it";
	return hf_err_set(err, HF_ERR_LOCAL, error_number, "%s: cannot listen: %s; %s", listener->uri,
			  strerror(error_number), hint);
}

static int bind_address(struct hf_rdma_listener *listener, const struct sockaddr *address)
{
	int on = 1;
	if (rdma_create_id(listener->events, &listener->id, NULL, RDMA_PS_TCP))
		return errno;
	rdma_set_option(listener->id, RDMA_OPTION_ID, RDMA_OPTION_ID_REUSEADDR, &on, sizeof(on));
	if (!rdma_bind_addr(listener->id, (struct sockaddr *)address) && !rdma_listen(listener->id, BACKLOG))
		return 0;
	int error_number = errno;
	rdma_destroy_id(listener->id);
	listener->id = NULL;
	return error_number;
}

static int bind_any(struct hf_rdma_listener *listener, struct hf_err *err)
{
	struct addrinfo *found;
	int result = rdma_resolve(listener->uri, &listener->parsed.address, true, &found, err);
	if (result)
		return result;
	int first = 0;
	for (const struct addrinfo *one = found; one && !listener->id; one = one->ai_next) {
		int error_number = bind_address(listener, one->ai_addr);
		first = first ? first : error_number;
	}
	freeaddrinfo(found);
	if (!listener->id)
		return explain_bind(listener, first, err);
	rdma_address_name(rdma_get_local_addr(listener->id), listener->uri);
	return 0;
}

int hf_rdma_listen(struct hf_rdma_listener **out, const char *uri, const struct hf_rdma_options *options,
		   struct hf_err *err)
{
	struct hf_rdma_listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory for a listener");
	int result = rdma_uri_parse(uri, &listener->parsed, err);
	if (!result && rdma_uri_asks(&listener->parsed))
		result = hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "'%s': who connects says what is behind '?', and the GID is that of HOST; leave "
		    "it out",
		    uri);
	if (!result)
		result = rdma_options_check(options, &listener->options, err);
	if (!result) {
		snprintf(listener->uri, sizeof(listener->uri), "%s", uri);
		memcpy(listener->guard.channels, listener->options.channels,
		       sizeof(listener->guard.channels));
		result = rdma_open_events(&listener->events, uri, err);
	}
	if (!result)
		result = bind_any(listener, err);
	if (result) {
		hf_rdma_listener_close(listener);
		return result;
	}
	*out = listener;
	return 0;
}

const char *hf_rdma_listener_uri(const struct hf_rdma_listener *listener)
{
	return listener->uri;
}

int hf_rdma_listener_fd(const struct hf_rdma_listener *listener)
{
	return listener->events->fd;
}

void hf_rdma_listener_expect(struct hf_rdma_listener *listener, const uint8_t *session, uint64_t epoch_min)
{
	hf_opening_expect(&listener->guard, session, epoch_min);
}

void hf_rdma_listener_close(struct hf_rdma_listener *listener)
{
	if (!listener)
		return;
	if (listener->id)
		rdma_destroy_id(listener->id);
	if (listener->events)
		rdma_destroy_event_channel(listener->events);
	free(listener);
}
