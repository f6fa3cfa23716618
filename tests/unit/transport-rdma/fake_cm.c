/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection manager's half of the fake. Addresses are not looked at but for the port; a request goes to
 * the listener of that port, with its private data padded with zeros as fabrics do.
 */
#include "tests/unit/transport-rdma/fake_internal.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <infiniband/sa.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define REQUEST_BYTES 56
#define REJECT_BYTES  148
#define EVENTS_MAX    64

struct fake_event {
	struct rdma_cm_event event;
	uint8_t private_data[256];
};

struct fake_channel {
	struct rdma_event_channel channel;
	struct fake_event *events[EVENTS_MAX];
	uint32_t count;
};

struct fake_id {
	struct rdma_cm_id id;
	struct fake_id *peer; /* that is connected, or is being */
	bool connected;
	struct rdma_conn_param offer; /* of who connects; its private data is not kept */
	uint8_t tos;
	bool addressed, routed;
	struct ibv_sa_path_rec path;
};

static uint16_t port_of(const struct sockaddr *address)
{
	return ntohs(((const struct sockaddr_in *)address)->sin_port);
}

/* Locked. */
static void tell(struct fake_id *to, enum rdma_cm_event_type type, int status,
		 const struct rdma_conn_param *parameters, size_t padded_bytes)
{
	struct fake_channel *channel = (struct fake_channel *)to->id.channel;
	struct fake_event *event = calloc(1, sizeof(*event));
	event->event = (struct rdma_cm_event){.id = &to->id, .event = type, .status = status};
	if (parameters) {
		event->event.param.conn = *parameters;
		if (parameters->private_data_len)
			memcpy(event->private_data, parameters->private_data, parameters->private_data_len);
		event->event.param.conn.private_data = event->private_data;
		event->event.param.conn.private_data_len = (uint8_t)padded_bytes;
	}
	assert_true(channel->count < EVENTS_MAX);
	channel->events[channel->count++] = event;
	fake_raise(channel->channel.fd);
}

/* Locked. */
static struct fake_event *take_event(struct fake_channel *channel, uint32_t number)
{
	uint64_t count;
	struct fake_event *event = channel->events[number];
	channel->count--;
	for (uint32_t i = number; i < channel->count; i++)
		channel->events[i] = channel->events[i + 1];
	assert_int_equal(read(channel->channel.fd, &count, sizeof(count)), sizeof(count));
	return event;
}

struct rdma_event_channel *rdma_create_event_channel(void)
{
	struct fake_channel *channel = calloc(1, sizeof(*channel));
	channel->channel.fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	pthread_mutex_lock(&fake.lock);
	fake.objects++;
	pthread_mutex_unlock(&fake.lock);
	return &channel->channel;
}

static void forget_id(struct fake_id *id);

void rdma_destroy_event_channel(struct rdma_event_channel *of)
{
	struct fake_channel *channel = (struct fake_channel *)of;
	pthread_mutex_lock(&fake.lock);
	while (channel->count) {
		struct fake_event *event = take_event(channel, 0);
		free(event);
	}
	fake.objects--;
	pthread_mutex_unlock(&fake.lock);
	close(of->fd);
	free(channel);
}

int rdma_get_cm_event(struct rdma_event_channel *of, struct rdma_cm_event **event)
{
	struct fake_channel *channel = (struct fake_channel *)of;
	pthread_mutex_lock(&fake.lock);
	bool any = channel->count > 0;
	if (any)
		*event = &take_event(channel, 0)->event;
	pthread_mutex_unlock(&fake.lock);
	errno = EAGAIN;
	return any ? 0 : -1;
}

int rdma_ack_cm_event(struct rdma_cm_event *event)
{
	free(event);
	return 0;
}

int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **out, void *context,
		   enum rdma_port_space space)
{
	struct fake_id *id = calloc(1, sizeof(*id));
	id->id = (struct rdma_cm_id){.channel = channel, .context = context, .ps = space};
	pthread_mutex_lock(&fake.lock);
	fake.objects++;
	pthread_mutex_unlock(&fake.lock);
	*out = &id->id;
	return 0;
}

/* Locked. */
static void drop_events(const struct fake_id *id)
{
	struct fake_channel *channel = (struct fake_channel *)id->id.channel;
	for (uint32_t i = channel->count; i-- > 0;)
		if (channel->events[i]->event.id == &id->id)
			free(take_event(channel, i));
}

/* Locked. */
static void part(struct fake_id *id)
{
	if (id->peer && id->connected)
		tell(id->peer, RDMA_CM_EVENT_DISCONNECTED, 0, NULL, 0);
	if (id->peer)
		id->peer->peer = NULL;
	id->peer = NULL;
	id->connected = false;
}

static void forget_id(struct fake_id *id)
{
	fake.objects--;
	free(id);
}

int rdma_destroy_id(struct rdma_cm_id *of)
{
	struct fake_id *id = (struct fake_id *)of;
	assert_null(of->qp);
	pthread_mutex_lock(&fake.lock);
	drop_events(id);
	part(id);
	for (int i = 0; i < CHANNELS_MAX; i++)
		if (fake.listeners[i] == id)
			fake.listeners[i] = NULL;
	forget_id(id);
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

static void have_route(struct fake_id *id, const struct ibv_sa_path_rec *path)
{
	assert_true(id->addressed && !id->routed);
	id->routed = true;
	id->path = *path;
	id->id.route.path_rec = &id->path;
	id->id.route.num_paths = 1;
	pthread_mutex_lock(&fake.lock);
	tell(id, RDMA_CM_EVENT_ROUTE_RESOLVED, 0, NULL, 0);
	pthread_mutex_unlock(&fake.lock);
}

static void set_path(struct fake_id *id, const struct ibv_path_data *data)
{
	const struct ibv_path_record *set = &data->path;
	assert_int_equal(data->flags,
			 IBV_PATH_FLAG_GMP | IBV_PATH_FLAG_PRIMARY | IBV_PATH_FLAG_BIDIRECTIONAL);
	assert_int_equal(set->mtu >> 6, 2);
	assert_int_equal(set->rate >> 6, 2);
	assert_int_equal(set->packetlifetime >> 6, 2);
	const struct ibv_sa_path_rec path = {.dgid = set->dgid,
					     .sgid = set->sgid,
					     .flow_label = htobe32(be32toh(set->flowlabel_hoplimit) >> 8),
					     .hop_limit = (uint8_t)be32toh(set->flowlabel_hoplimit),
					     .traffic_class = set->tclass,
					     .pkey = set->pkey,
					     .sl = be16toh(set->qosclass_sl) & 0xf,
					     .mtu = set->mtu & 0x3f,
					     .rate = set->rate & 0x3f,
					     .packet_life_time = set->packetlifetime & 0x3f};
	have_route(id, &path);
}

int rdma_set_option(struct rdma_cm_id *of, int level, int name, void *value, size_t bytes)
{
	struct fake_id *id = (struct fake_id *)of;
	if (level == RDMA_OPTION_IB) {
		assert_int_equal(name, RDMA_OPTION_IB_PATH);
		assert_int_equal(bytes, sizeof(struct ibv_path_data));
		set_path(id, value);
	} else if (name == RDMA_OPTION_ID_TOS) {
		assert_int_equal(bytes, 1);
		assert_false(id->addressed);
		id->tos = *(uint8_t *)value;
	}
	return 0;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *address)
{
	struct sockaddr_in *bound = (struct sockaddr_in *)&id->route.addr.src_addr;
	uint16_t port = port_of(address);
	bound->sin_family = AF_INET;
	bound->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	bound->sin_port = htons(port ? port : (uint16_t)(20000 + ++fake.last_port));
	return 0;
}

int rdma_listen(struct rdma_cm_id *id, int backlog)
{
	int result = -1;
	(void)backlog;
	pthread_mutex_lock(&fake.lock);
	for (int i = 0; i < CHANNELS_MAX && result; i++)
		if (!fake.listeners[i]) {
			fake.listeners[i] = (struct fake_id *)id;
			result = 0;
		}
	pthread_mutex_unlock(&fake.lock);
	return result;
}

static union ibv_gid gid_of(const struct sockaddr_in *address)
{
	union ibv_gid gid = {.raw = {[10] = 0xff, 0xff, 127, 0, 0, 1}};
	if (address->sin_addr.s_addr != INADDR_ANY)
		memcpy(gid.raw + 12, &address->sin_addr, sizeof(address->sin_addr));
	return gid;
}

int rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *from, struct sockaddr *to, int timeout_ms)
{
	static const struct sockaddr_in usual = {.sin_family = AF_INET, .sin_addr.s_addr = INADDR_ANY};
	(void)timeout_ms;
	memcpy(&id->route.addr.dst_addr, to, sizeof(struct sockaddr_in));
	id->route.addr.addr.ibaddr.sgid = gid_of(from ? (struct sockaddr_in *)from : &usual);
	((struct fake_id *)id)->addressed = true;
	id->verbs = &fake_context;
	id->port_num = 1;
	pthread_mutex_lock(&fake.lock);
	tell((struct fake_id *)id, RDMA_CM_EVENT_ADDR_RESOLVED, 0, NULL, 0);
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

int rdma_resolve_route(struct rdma_cm_id *id, int timeout_ms)
{
	struct fake_id *of = (struct fake_id *)id;
	const struct ibv_sa_path_rec path = {.sgid = id->route.addr.addr.ibaddr.sgid,
					     .dgid = id->route.addr.addr.ibaddr.sgid,
					     .flow_label = htobe32(0x12345),
					     .hop_limit = 64,
					     .traffic_class = of->tos,
					     .pkey = 0xffff,
					     .sl = of->tos >> 5,
					     .mtu = fake.active_mtu,
					     .rate = 3,
					     .packet_life_time = 18};
	(void)timeout_ms;
	have_route(of, &path);
	return 0;
}

/* Locked. */
static struct fake_id *listener_of(uint16_t port)
{
	for (int i = 0; i < CHANNELS_MAX; i++)
		if (fake.listeners[i] && port_of(&fake.listeners[i]->id.route.addr.src_addr) == port)
			return fake.listeners[i];
	return NULL;
}

/* Locked. As the other side sees it: what one asks, the other one answers. */
static struct rdma_conn_param seen_from_there(const struct rdma_conn_param *parameters)
{
	struct rdma_conn_param seen = *parameters;
	seen.initiator_depth = parameters->responder_resources;
	seen.responder_resources = parameters->initiator_depth;
	return seen;
}

/* Locked. What the route says, as far as the adapter grants it. */
static void give_way(struct fake_id *id)
{
	struct fake_qp *qp = (struct fake_qp *)id->id.qp;
	if (!qp || !id->routed)
		return;
	qp->mtu = fake.stubborn ? fake.active_mtu : (enum ibv_mtu)id->path.mtu;
	qp->way = (struct ibv_ah_attr){.sl = fake.stubborn ? 0 : id->path.sl,
				       .grh = {.sgid_index = (uint8_t)fake_gid_index(&id->path.sgid),
					       .flow_label = be32toh(id->path.flow_label),
					       .hop_limit = id->path.hop_limit,
					       .traffic_class = fake.stubborn ? 0 : id->path.traffic_class}};
}

int rdma_connect(struct rdma_cm_id *of, struct rdma_conn_param *parameters)
{
	struct fake_id *id = (struct fake_id *)of;
	struct rdma_conn_param seen = seen_from_there(parameters);
	assert_in_range(parameters->private_data_len, 1, REQUEST_BYTES);
	pthread_mutex_lock(&fake.lock);
	give_way(id);
	struct fake_id *listener = listener_of(port_of(&of->route.addr.dst_addr));
	if (!listener) {
		tell(id, RDMA_CM_EVENT_REJECTED, 8, NULL, 0);
	} else {
		struct fake_id *child = calloc(1, sizeof(*child));
		child->id = (struct rdma_cm_id){
		    .channel = listener->id.channel, .verbs = &fake_context, .port_num = 1};
		memcpy(&child->id.route.addr.dst_addr, &listener->id.route.addr.src_addr,
		       sizeof(struct sockaddr_in));
		child->peer = id;
		id->peer = child;
		fake.objects++;
		tell(child, RDMA_CM_EVENT_CONNECT_REQUEST, 0, &seen, REQUEST_BYTES);
	}
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

int rdma_accept(struct rdma_cm_id *of, struct rdma_conn_param *parameters)
{
	struct fake_id *id = (struct fake_id *)of;
	struct rdma_conn_param seen = seen_from_there(parameters);
	pthread_mutex_lock(&fake.lock);
	struct fake_id *peer = id->peer;
	if (peer) {
		((struct fake_qp *)of->qp)->peer = (struct fake_qp *)peer->id.qp;
		((struct fake_qp *)peer->id.qp)->peer = (struct fake_qp *)of->qp;
		id->connected = peer->connected = true;
		tell(peer, RDMA_CM_EVENT_ESTABLISHED, 0, &seen, parameters->private_data_len);
		tell(id, RDMA_CM_EVENT_ESTABLISHED, 0, NULL, 0);
	}
	pthread_mutex_unlock(&fake.lock);
	errno = ECONNRESET;
	return peer ? 0 : -1;
}

int rdma_reject(struct rdma_cm_id *of, const void *private_data, uint8_t bytes)
{
	struct fake_id *id = (struct fake_id *)of;
	const struct rdma_conn_param parameters = {.private_data = private_data, .private_data_len = bytes};
	assert_in_range(bytes, 0, REJECT_BYTES);
	pthread_mutex_lock(&fake.lock);
	if (id->peer)
		tell(id->peer, RDMA_CM_EVENT_REJECTED, 28, &parameters, REJECT_BYTES);
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

int rdma_disconnect(struct rdma_cm_id *of)
{
	struct fake_id *id = (struct fake_id *)of;
	pthread_mutex_lock(&fake.lock);
	if (of->qp)
		fake_break((struct fake_qp *)of->qp);
	if (id->connected && id->peer)
		tell(id->peer, RDMA_CM_EVENT_DISCONNECTED, 0, NULL, 0);
	id->connected = false;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

int rdma_migrate_id(struct rdma_cm_id *id, struct rdma_event_channel *channel)
{
	pthread_mutex_lock(&fake.lock);
	const struct fake_channel *old = (struct fake_channel *)id->channel;
	for (uint32_t i = 0; i < old->count; i++)
		assert_ptr_not_equal(old->events[i]->event.id, id);
	id->channel = channel;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

int rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *attributes)
{
	if (attributes->cap.max_inline_data && fake.refuses_inline) {
		errno = EINVAL;
		return -1;
	}
	if (attributes->cap.max_inline_data > fake.inline_bytes)
		attributes->cap.max_inline_data = fake.inline_bytes;
	struct fake_qp *qp = calloc(1, sizeof(*qp));
	qp->inline_bytes = attributes->cap.max_inline_data;
	qp->qp = (struct ibv_qp){
	    .context = id->verbs, .pd = pd, .send_cq = attributes->send_cq, .recv_cq = attributes->recv_cq};
	qp->sends_max = attributes->cap.max_send_wr;
	qp->receives_max = attributes->cap.max_recv_wr;
	assert_in_range(qp->sends_max, 1, SENDS_MAX);
	pthread_mutex_lock(&fake.lock);
	((struct fake_cq *)attributes->send_cq)->users++;
	fake.objects++;
	for (int i = 0; i < CHANNELS_MAX; i++)
		if (!fake.qps[i]) {
			fake.qps[i] = qp;
			break;
		}
	id->qp = &qp->qp;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

void rdma_destroy_qp(struct rdma_cm_id *id)
{
	struct fake_qp *qp = (struct fake_qp *)id->qp;
	pthread_mutex_lock(&fake.lock);
	for (int i = 0; i < CHANNELS_MAX; i++)
		if (fake.qps[i] == qp)
			fake.qps[i] = NULL;
	if (qp->peer)
		qp->peer->peer = NULL;
	((struct fake_cq *)qp->qp.send_cq)->users--;
	fake.objects--;
	id->qp = NULL;
	pthread_mutex_unlock(&fake.lock);
	free(qp);
}
