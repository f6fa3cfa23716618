/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the source opens a connection.
 *
 *   control channel: address, route, queue pair, request with a hello -> reply says how many page channels
 *   each page channel, to the same address: likewise -> reply
 *
 * The hello travels as private data of the connection request, the answer as that of its reply, or of the
 * rejection. All events of all channels come through one event channel, and one channel is opened at a time,
 * so an event for another one means that that one is lost. Every step ends at its own deadline.
 */
#include "transport-rdma/internal.h"

#include <errno.h>
#include <infiniband/sa.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct opening {
	const char *uri;
	struct rdma_uri parsed;
	struct hf_rdma_options options;
	struct hf_opening_offer offer;
	struct rdma_event_channel *events;
	struct sockaddr_storage address; /* the one that answered */
	struct sockaddr_storage source;	 /* to connect from; ss_family 0: any that the route has */
};

static int explain(const struct opening *opening, int result, const char *step, struct hf_err *err)
{
	const char *hint = "check the address, that the destination runs, and that its RDMA device is up";
	enum hf_err_class class = HF_ERR_LINK;
	if (result == -ECONNREFUSED)
		hint = "nobody listens there; start the destination first, or it has taken another VM";
	if (result == -ENODEV) {
		hint = "no RDMA device of this host reaches that address; see `rdma link`, or use tcp:";
		class = HF_ERR_LOCAL;
	}
	return hf_err_set(err, class, -result, "%s: cannot connect (%s): %s; %s", opening->uri, step,
			  strerror(-result), hint);
}

/* ---- one step --------------------------------------------------------------------------------- */

/* Errors of the connection manager are -errno; what a fabric says in a rejection is a number of its own. */
static int event_error(const struct rdma_cm_happened *happened)
{
	if (happened->type == RDMA_CM_EVENT_UNREACHABLE)
		return happened->status == -ETIMEDOUT || !happened->status ? -ETIMEDOUT : -EHOSTUNREACH;
	if (happened->type == RDMA_CM_EVENT_REJECTED)
		return -ECONNREFUSED;
	if (happened->type == RDMA_CM_EVENT_DISCONNECTED)
		return -ECONNRESET;
	return happened->status < 0 ? happened->status : -EIO;
}

/* Waits for this event of this id; else -errno, with *happened filled for a rejection. */
static int await(const struct opening *opening, const struct rdma_cm_id *id, enum rdma_cm_event_type wanted,
		 struct rdma_cm_happened *happened)
{
	uint64_t deadline_ms = rdma_now_ms() + opening->options.timeout_ms;
	int result = rdma_next_event(opening->events, deadline_ms, happened);
	if (result <= 0)
		return result ? result : -ETIMEDOUT;
	if (happened->id != id)
		return -ECONNRESET;
	return happened->type == wanted && !happened->status ? 0 : event_error(happened);
}

static int find_address(const struct opening *opening, struct rdma_cm_id *id, const void *address)
{
	struct rdma_cm_happened happened;
	struct sockaddr *source = opening->source.ss_family ? (struct sockaddr *)&opening->source : NULL;
	if (rdma_resolve_addr(id, source, (struct sockaddr *)address, (int)opening->options.timeout_ms))
		return -errno;
	return await(opening, id, RDMA_CM_EVENT_ADDR_RESOLVED, &happened);
}

/* *id: a new one, which has found the address; else untouched. */
static int make_id(const struct opening *opening, const void *address, struct rdma_cm_id **id)
{
	struct rdma_cm_id *made = NULL;
	if (rdma_create_id(opening->events, &made, NULL, RDMA_PS_TCP))
		return -errno;
	int result = rdma_set_type_of_service(made, &opening->parsed);
	if (!result)
		result = find_address(opening, made, address);
	if (result)
		rdma_destroy_id(made);
	else
		*id = made;
	return result;
}

static int take_changed_path(const struct opening *opening, const struct rdma_cm_id *found,
			     struct rdma_cm_id *id)
{
	struct rdma_cm_happened happened;
	struct ibv_path_data path;
	rdma_change_path(found, &opening->parsed, &path);
	if (rdma_set_option(id, RDMA_OPTION_IB, RDMA_OPTION_IB_PATH, &path, sizeof(path)))
		return -errno;
	return await(opening, id, RDMA_CM_EVENT_ROUTE_RESOLVED, &happened);
}

/* May put another id in the place of *id. */
static int find_route(const struct opening *opening, struct rdma_cm_id **id)
{
	struct rdma_cm_happened happened;
	struct rdma_cm_id *changed = NULL;
	if (rdma_resolve_route(*id, (int)opening->options.timeout_ms))
		return -errno;
	int result = await(opening, *id, RDMA_CM_EVENT_ROUTE_RESOLVED, &happened);
	if (result || !rdma_uri_changes_path(&opening->parsed))
		return result;
	if ((*id)->route.num_paths < 1)
		return -EHOSTUNREACH;
	result = make_id(opening, &opening->address, &changed);
	if (!changed)
		return result;
	result = take_changed_path(opening, *id, changed);
	rdma_destroy_id(result ? changed : *id);
	if (!result)
		*id = changed;
	return result;
}

/* ---- greeting --------------------------------------------------------------------------------- */

static int read_reply(const struct opening *opening, enum hf_wire_channel channel,
		      const struct rdma_cm_happened *happened, struct hf_wire_hello_reply *reply,
		      struct hf_err *err)
{
	struct hf_err why = HF_ERR_INIT;
	int result = hf_wire_decode_hello_reply(happened->private_data, happened->private_bytes, reply, &why);
	if (result && happened->type == RDMA_CM_EVENT_REJECTED)
		return explain(opening, -ECONNREFUSED, "rejected", err);
	if (result) {
		hf_err_prefix(&why, "%s", opening->uri);
		if (err)
			*err = why;
		return result;
	}
	if (reply->status == HF_WIRE_HELLO_ACCEPTED && happened->type != RDMA_CM_EVENT_REJECTED)
		return 0;
	size_t room = happened->private_bytes - HF_WIRE_HELLO_REPLY_BYTES;
	return hf_opening_refused(&opening->offer, channel, reply->status,
				  happened->private_data + HF_WIRE_HELLO_REPLY_BYTES,
				  reply->text_bytes < room ? reply->text_bytes : room, err);
}

static int check_depth(const struct opening *opening, const struct rdma_cm_happened *happened,
		       struct hf_err *err)
{
	// What the destination may have on its way to here.
	if (happened->responder_resources)
		return 0;
	return hf_err_set(err, HF_ERR_PEER, EPROTO,
			  "%s: the destination's adapter would READ nothing at once; look at its RDMA device",
			  opening->uri);
}

static int greet(const struct opening *opening, struct hf_rdma *rdma, struct rdma_cm_id *id,
		 const struct hf_wire_hello *hello, struct hf_wire_hello_reply *reply, struct hf_err *err)
{
	uint8_t bytes[RDMA_HELLO_BYTES];
	struct rdma_cm_happened happened = {0};
	ssize_t encoded = rdma_encode_hello(hello, bytes, sizeof(bytes));
	if (encoded < 0)
		return hf_err_set(err, HF_ERR_LOCAL, (int)-encoded, "%s: cannot make the greeting",
				  opening->uri);
	struct rdma_conn_param parameters =
	    rdma_conn_param(bytes, (size_t)encoded, 1, rdma->limits.read_depth_in);
	if (rdma_connect(id, &parameters))
		return explain(opening, -errno, "connect", err);
	int result = await(opening, id, RDMA_CM_EVENT_ESTABLISHED, &happened);
	if (result && happened.type != RDMA_CM_EVENT_REJECTED)
		return explain(opening, result, "connect", err);
	result = read_reply(opening, hello->channel, &happened, reply, err);
	if (!result)
		result = check_depth(opening, &happened, err);
	return result ? result : rdma_check_granted(id, &opening->parsed, opening->uri, err);
}

/* ---- opening ---------------------------------------------------------------------------------- */

/* An id of an address that answers at all. */
static int find_first_address(struct opening *opening, struct rdma_cm_id **id, struct hf_err *err)
{
	struct addrinfo *found;
	int result = rdma_resolve(opening->uri, &opening->parsed.address, false, &found, err);
	if (result)
		return result;
	result = -EHOSTUNREACH;
	for (const struct addrinfo *one = found; one && result; one = one->ai_next) {
		result = make_id(opening, one->ai_addr, id);
		if (!result)
			memcpy(&opening->address, one->ai_addr, one->ai_addrlen);
	}
	freeaddrinfo(found);
	return result ? explain(opening, result, "address", err) : 0;
}

/* The device that was found may have the GID that is wished behind another address. */
static int take_gid(struct opening *opening, struct rdma_cm_id **id, struct hf_err *err)
{
	struct rdma_cm_id *other = NULL;
	int result = rdma_check_wishes(*id, &opening->parsed, opening->uri, err);
	if (!result)
		result = rdma_source_of_gid(*id, &opening->parsed, opening->uri, &opening->source, err);
	if (result <= 0)
		return result;
	result = make_id(opening, &opening->address, &other);
	if (!other)
		return explain(opening, result, "from that GID", err);
	rdma_destroy_id(*id);
	*id = other;
	return 0;
}

/* The terms are known only when the control channel is there, and it needs an object to belong to. */
static int open_control(struct opening *opening, struct hf_rdma *rdma, struct hf_link_info *info,
			struct hf_err *err)
{
	struct hf_wire_hello hello = hf_opening_hello(&opening->offer, HF_WIRE_CHANNEL_CONTROL, 0);
	struct hf_wire_hello_reply reply = {0};
	int result = find_first_address(opening, &rdma->control_id, err);
	if (!result)
		result = take_gid(opening, &rdma->control_id, err);
	if (result)
		return result;
	result = find_route(opening, &rdma->control_id);
	if (result)
		return explain(opening, result, "route", err);
	result = rdma_use_device(rdma, rdma->control_id, err);
	if (!result)
		result = rdma_make_queue_pair(rdma, rdma->control_id, NULL, err);
	if (!result)
		result = greet(opening, rdma, rdma->control_id, &hello, &reply, err);
	return result ? result : hf_opening_take_terms(&opening->offer, &reply, info, err);
}

static int open_page_channel(struct opening *opening, struct hf_rdma *rdma, struct page_channel *channel,
			     struct hf_err *err)
{
	enum hf_wire_channel kind =
	    channel->class == HF_FETCH_URGENT ? HF_WIRE_CHANNEL_URGENT : HF_WIRE_CHANNEL_BACKGROUND;
	struct hf_wire_hello hello = hf_opening_hello(&opening->offer, kind, channel->index);
	struct hf_wire_hello_reply reply = {0};
	int result = make_id(opening, &opening->address, &channel->id);
	if (!result)
		result = find_route(opening, &channel->id);
	if (result)
		return explain(opening, result, "page channel", err);
	result = rdma_make_queue_pair(rdma, channel->id, channel, err);
	if (!result)
		result = greet(opening, rdma, channel->id, &hello, &reply, err);
	return result ? result : hf_opening_check_repeated(&opening->offer, &rdma->info, &reply, err);
}

int hf_rdma_check_uri(const char *uri, struct hf_err *err)
{
	struct rdma_uri parsed;
	return rdma_uri_parse(uri, &parsed, err);
}

static int check_connect(const char *uri, const struct hf_rdma_options *options, struct opening *opening,
			 struct hf_err *err)
{
	*opening = (struct opening){.uri = uri};
	int result = rdma_uri_parse(uri, &opening->parsed, err);
	if (!result)
		result = rdma_options_check(options, &opening->options, err);
	if (result)
		return result;
	if (!opening->parsed.address.host[0] || !atoi(opening->parsed.address.port))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "'%s': to connect, host and port must be named; write rdma:HOST:PORT", uri);
	opening->offer = (struct hf_opening_offer){
	    .uri = uri,
	    .epoch = opening->options.epoch,
	    .check = opening->options.check,
	    .precopy = opening->options.precopy,
	};
	memcpy(opening->offer.session, opening->options.session, sizeof(opening->offer.session));
	memcpy(opening->offer.channels, opening->options.channels, sizeof(opening->offer.channels));
	return hf_opening_check_offer(&opening->offer, err);
}

static int open_all(struct opening *opening, struct hf_rdma *rdma, struct hf_err *err)
{
	struct hf_link_info info;
	int result = open_control(opening, rdma, &info, err);
	if (!result)
		result = rdma_set_terms(rdma, &info, err);
	for (uint32_t i = 0; !result && i < rdma->channel_count; i++)
		result = open_page_channel(opening, rdma, &rdma->channels[i], err);
	return result;
}

int hf_rdma_connect(struct hf_rdma **out, const char *uri, const struct hf_rdma_options *options,
		    struct hf_err *err)
{
	struct opening opening;
	struct hf_rdma *rdma = NULL;
	struct hf_err why = HF_ERR_INIT;
	int result = check_connect(uri, options, &opening, &why);
	if (!result)
		result = rdma_open_events(&opening.events, uri, &why);
	if (!result)
		result = rdma_new(&rdma, RDMA_ROLE_SOURCE, &why);
	if (result && opening.events)
		rdma_destroy_event_channel(opening.events);
	if (!result) {
		rdma->cm_events = opening.events;
		snprintf(rdma->name, sizeof(rdma->name), "%s", uri);
		memcpy(rdma->session, opening.options.session, sizeof(rdma->session));
		result = open_all(&opening, rdma, &why);
	}
	if (!result) {
		*out = rdma;
		return 0;
	}
	rdma_free(rdma);
	if (err)
		*err = why;
	return result;
}
