/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The verbs half. Theory of operation: one lock for all. A READ or SEND that is posted is done at once, by
 * the thread that posts it, unless READs are held; its completion goes into the queue and, if the queue is
 * armed, makes the completion channel readable. An error puts both ends of a queue pair into the error state,
 * which flushes what they have posted. fake_cm.c has the connection manager.
 */
#include "tests/unit/transport-rdma/fake_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct fake fake = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct ibv_device device = {.name = "fake0"};
static struct ibv_device *devices[2] = {&device, NULL};

void fake_raise(int fd)
{
	uint64_t one = 1;
	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

/* ---- completions ------------------------------------------------------------------------------ */

/* Locked. */
static void complete(struct ibv_cq *queue, uint64_t wr_id, enum ibv_wc_status status, uint32_t bytes)
{
	struct fake_cq *cq = (struct fake_cq *)queue;
	assert_true(cq->count < CQ_MAX);
	cq->entries[(cq->head + cq->count++) % CQ_MAX] =
	    (struct ibv_wc){.wr_id = wr_id, .status = status, .byte_len = bytes};
	if (cq->armed)
		fake_raise(cq->cq.channel->fd);
	cq->armed = false;
}

static int poll_cq(struct ibv_cq *queue, int room, struct ibv_wc *out)
{
	struct fake_cq *cq = (struct fake_cq *)queue;
	int count = 0;
	pthread_mutex_lock(&fake.lock);
	for (; count < room && cq->count; count++) {
		out[count] = cq->entries[cq->head];
		cq->head = (cq->head + 1) % CQ_MAX;
		cq->count--;
	}
	pthread_mutex_unlock(&fake.lock);
	return count;
}

static int req_notify_cq(struct ibv_cq *queue, int solicited_only)
{
	(void)solicited_only;
	pthread_mutex_lock(&fake.lock);
	((struct fake_cq *)queue)->armed = true;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

/* ---- queue pairs ------------------------------------------------------------------------------ */

/* Locked. */
static void flush(struct fake_qp *qp)
{
	for (; qp->send_count; qp->send_count--) {
		complete(qp->qp.send_cq, qp->sends[qp->send_head].wr_id, IBV_WC_WR_FLUSH_ERR, 0);
		qp->send_head = (qp->send_head + 1) % SENDS_MAX;
	}
	for (; qp->receive_count; qp->receive_count--) {
		complete(qp->qp.recv_cq, qp->receives[qp->receive_head].wr_id, IBV_WC_WR_FLUSH_ERR, 0);
		qp->receive_head = (qp->receive_head + 1) % RECEIVES_MAX;
	}
}

void fake_break(struct fake_qp *qp)
{
	qp->broken = true;
	flush(qp);
}

/* Locked. The registration that holds this range with these rights. */
static const struct fake_mr *find_mr(uint32_t key, uint64_t address, uint64_t bytes, int access)
{
	for (const struct fake_mr *mr = fake.mrs; mr; mr = mr->next)
		if (mr->mr.rkey == key && address >= (uintptr_t)mr->mr.addr &&
		    address + bytes <= (uintptr_t)mr->mr.addr + mr->mr.length &&
		    (mr->access & access) == access)
			return mr;
	return NULL;
}

/* Locked. */
static enum ibv_wc_status do_read(const struct fake_send *send)
{
	if (!find_mr(send->lkey, send->local, send->bytes, IBV_ACCESS_LOCAL_WRITE))
		return IBV_WC_LOC_PROT_ERR;
	if (!find_mr(send->rkey, send->remote, send->bytes, IBV_ACCESS_REMOTE_READ))
		return IBV_WC_REM_ACCESS_ERR;
	memcpy((void *)(uintptr_t)send->local, (const void *)(uintptr_t)send->remote, send->bytes);
	return IBV_WC_SUCCESS;
}

/* Locked. */
static enum ibv_wc_status do_send(struct fake_qp *peer, const struct fake_send *send)
{
	assert_true(peer->receive_count > 0); // credits see to that
	const struct fake_receive *receive = &peer->receives[peer->receive_head];
	assert_true(send->bytes <= receive->bytes);
	memcpy((void *)(uintptr_t)receive->address, (const void *)(uintptr_t)send->local, send->bytes);
	peer->receive_head = (peer->receive_head + 1) % RECEIVES_MAX;
	peer->receive_count--;
	complete(peer->qp.recv_cq, receive->wr_id, IBV_WC_SUCCESS, send->bytes);
	return IBV_WC_SUCCESS;
}

/* Locked. Does the oldest one, which ends with `wanted` if it can be done. */
static void do_first(struct fake_qp *qp, enum ibv_wc_status wanted)
{
	struct fake_send send = qp->sends[qp->send_head];
	enum ibv_wc_status status = wanted;
	if (wanted == IBV_WC_SUCCESS)
		status = send.is_read ? do_read(&send) : do_send(qp->peer, &send);
	qp->send_head = (qp->send_head + 1) % SENDS_MAX;
	qp->send_count--;
	complete(qp->qp.send_cq, send.wr_id, status, send.bytes);
	if (status != IBV_WC_SUCCESS)
		fake_break(qp);
}

/* Locked. */
static void do_what_can_be_done(struct fake_qp *qp)
{
	while (qp->send_count && !qp->broken && !fake.silent && qp->peer && !qp->peer->broken &&
	       !(fake.hold_reads && qp->sends[qp->send_head].is_read))
		do_first(qp, IBV_WC_SUCCESS);
}

static int post_send(struct ibv_qp *pair, struct ibv_send_wr *request, struct ibv_send_wr **bad)
{
	struct fake_qp *qp = (struct fake_qp *)pair;
	pthread_mutex_lock(&fake.lock);
	*bad = request;
	assert_true(qp->send_count < qp->sends_max);
	qp->sends[(qp->send_head + qp->send_count++) % SENDS_MAX] =
	    (struct fake_send){.wr_id = request->wr_id,
			       .is_read = request->opcode == IBV_WR_RDMA_READ,
			       .local = request->sg_list->addr,
			       .bytes = request->sg_list->length,
			       .lkey = request->sg_list->lkey,
			       .remote = request->wr.rdma.remote_addr,
			       .rkey = request->wr.rdma.rkey};
	assert_true(request->opcode != IBV_WR_RDMA_READ || request->sg_list->length <= READ_MAX_BYTES);
	if (request->send_flags & IBV_SEND_INLINE) {
		assert_int_equal(request->opcode, IBV_WR_SEND);
		assert_true(request->sg_list->length <= qp->inline_bytes);
		fake.inline_sends++;
	}
	if (qp->broken)
		flush(qp);
	do_what_can_be_done(qp);
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

static int post_recv(struct ibv_qp *pair, struct ibv_recv_wr *request, struct ibv_recv_wr **bad)
{
	struct fake_qp *qp = (struct fake_qp *)pair;
	pthread_mutex_lock(&fake.lock);
	*bad = request;
	assert_true(qp->receive_count < qp->receives_max);
	qp->receives[(qp->receive_head + qp->receive_count++) % RECEIVES_MAX] =
	    (struct fake_receive){request->wr_id, request->sg_list->addr, request->sg_list->length};
	if (qp->broken)
		flush(qp);
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

struct ibv_context fake_context = {
    .device = &device,
    .ops = {
	.poll_cq = poll_cq, .req_notify_cq = req_notify_cq, .post_send = post_send, .post_recv = post_recv}};

/* ---- the library ------------------------------------------------------------------------------ */

struct ibv_device **ibv_get_device_list(int *count)
{
	*count = fake.devices;
	return devices;
}

void ibv_free_device_list(struct ibv_device **list)
{
	assert_ptr_equal(list, devices);
}

const char *ibv_get_device_name(struct ibv_device *of)
{
	return of->name;
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attributes)
{
	assert_ptr_equal(context, &fake_context);
	*attributes = (struct ibv_device_attr){.max_qp_init_rd_atom = fake.depth_out,
					       .max_qp_rd_atom = fake.depth_in,
					       .max_mr_size = UINT64_MAX};
	return 0;
}

#undef ibv_query_port
int ibv_query_port(struct ibv_context *context, uint8_t port, struct _compat_ibv_port_attr *attributes)
{
	struct ibv_port_attr *port_attributes = (struct ibv_port_attr *)attributes;
	assert_ptr_equal(context, &fake_context);
	assert_int_equal(port, 1);
	port_attributes->max_msg_sz = READ_MAX_BYTES;
	port_attributes->active_mtu = fake.active_mtu;
	port_attributes->link_layer = fake.link_layer;
	return 0;
}

/* Two of them for one address, as for the versions of RoCE. */
static const union ibv_gid gids[] = {
    {.raw = {0xfe, 0x80, [15] = 1}},
    {.raw = {[10] = 0xff, 0xff, 127, 0, 0, 1}},
    {.raw = {[10] = 0xff, 0xff, 127, 0, 0, 2}},
    {.raw = {[10] = 0xff, 0xff, 127, 0, 0, 1}},
    {.raw = {0}},
};
#define GIDS ((int)(sizeof(gids) / sizeof(gids[0])))

int fake_gid_index(const union ibv_gid *gid)
{
	for (int i = 0; i < GIDS; i++)
		if (!memcmp(&gids[i], gid, sizeof(*gid)))
			return i;
	return -1;
}

int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
	assert_ptr_equal(context, &fake_context);
	assert_int_equal(port, 1);
	if (index >= GIDS)
		return -1;
	*gid = gids[index];
	return 0;
}

int ibv_query_qp(struct ibv_qp *of, struct ibv_qp_attr *attributes, int mask,
		 struct ibv_qp_init_attr *init_attributes)
{
	const struct fake_qp *qp = (struct fake_qp *)of;
	assert_int_equal(mask, IBV_QP_AV | IBV_QP_PATH_MTU);
	pthread_mutex_lock(&fake.lock);
	attributes->ah_attr = qp->way;
	attributes->path_mtu = qp->mtu;
	*init_attributes = (struct ibv_qp_init_attr){0};
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	struct ibv_pd *pd = calloc(1, sizeof(*pd));
	pd->context = context;
	pthread_mutex_lock(&fake.lock);
	fake.objects++;
	pthread_mutex_unlock(&fake.lock);
	return pd;
}

static void forget(void *object)
{
	pthread_mutex_lock(&fake.lock);
	fake.objects--;
	pthread_mutex_unlock(&fake.lock);
	free(object);
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	pthread_mutex_lock(&fake.lock);
	for (const struct fake_mr *mr = fake.mrs; mr; mr = mr->next)
		assert_ptr_not_equal(mr->mr.pd, pd);
	pthread_mutex_unlock(&fake.lock);
	forget(pd);
	return 0;
}

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
	struct ibv_comp_channel *channel = calloc(1, sizeof(*channel));
	channel->context = context;
	channel->fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
	pthread_mutex_lock(&fake.lock);
	fake.objects++;
	pthread_mutex_unlock(&fake.lock);
	return channel;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
	assert_int_equal(channel->refcnt, 0);
	close(channel->fd);
	forget(channel);
	return 0;
}

struct ibv_cq *ibv_create_cq(struct ibv_context *context, int entries, void *cq_context,
			     struct ibv_comp_channel *channel, int vector)
{
	struct fake_cq *cq = calloc(1, sizeof(*cq));
	(void)vector;
	assert_in_range(entries, 1, CQ_MAX);
	cq->cq = (struct ibv_cq){.context = context, .channel = channel, .cq_context = cq_context};
	channel->refcnt++;
	pthread_mutex_lock(&fake.lock);
	fake.objects++;
	for (int i = 0; i < CHANNELS_MAX; i++)
		if (!fake.cqs[i]) {
			fake.cqs[i] = cq;
			break;
		}
	pthread_mutex_unlock(&fake.lock);
	return &cq->cq;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
	pthread_mutex_lock(&fake.lock);
	assert_int_equal(((struct fake_cq *)cq)->users, 0);
	for (int i = 0; i < CHANNELS_MAX; i++)
		if (fake.cqs[i] == (struct fake_cq *)cq)
			fake.cqs[i] = NULL;
	pthread_mutex_unlock(&fake.lock);
	cq->channel->refcnt--;
	forget(cq);
	return 0;
}

int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **context)
{
	uint64_t count;
	if (read(channel->fd, &count, sizeof(count)) < 0)
		return -1;
	pthread_mutex_lock(&fake.lock);
	for (int i = 0; i < CHANNELS_MAX; i++)
		if (fake.cqs[i] && fake.cqs[i]->cq.channel == channel)
			*cq = &fake.cqs[i]->cq;
	pthread_mutex_unlock(&fake.lock);
	*context = NULL;
	return 0;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int count)
{
	(void)cq;
	assert_int_equal(count, 1);
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *address, size_t bytes, uint64_t iova,
				unsigned int access)
{
	assert_int_equal(iova, (uintptr_t)address);
	pthread_mutex_lock(&fake.lock);
	struct fake_mr *mr = fake.registration_error ? NULL : calloc(1, sizeof(*mr));
	if (mr) {
		uint32_t key = ++fake.last_key;
		mr->mr =
		    (struct ibv_mr){.pd = pd, .addr = address, .length = bytes, .lkey = key, .rkey = key};
		mr->access = (int)access;
		mr->next = fake.mrs;
		fake.mrs = mr;
		fake.objects++;
	}
	int error_number = fake.registration_error;
	pthread_mutex_unlock(&fake.lock);
	errno = error_number;
	return mr ? &mr->mr : NULL;
}

#undef ibv_reg_mr
struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *address, size_t bytes, int access)
{
	return ibv_reg_mr_iova2(pd, address, bytes, (uintptr_t)address, (unsigned)access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	pthread_mutex_lock(&fake.lock);
	struct fake_mr **at = &fake.mrs;
	while (*at && &(*at)->mr != mr)
		at = &(*at)->next;
	assert_non_null(*at);
	if (*at) // for the analyzer
		*at = (*at)->next;
	pthread_mutex_unlock(&fake.lock);
	forget(mr);
	return 0;
}

int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attributes, int mask)
{
	assert_int_equal(mask, IBV_QP_STATE);
	assert_int_equal(attributes->qp_state, IBV_QPS_ERR);
	pthread_mutex_lock(&fake.lock);
	fake_break((struct fake_qp *)qp);
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

const char *ibv_wc_status_str(enum ibv_wc_status status)
{
	static const char *const names[] = {[IBV_WC_LOC_PROT_ERR] = "local protection error",
					    [IBV_WC_REM_ACCESS_ERR] = "remote access error"};
	bool known = (size_t)status < sizeof(names) / sizeof(names[0]) && names[status];
	return known ? names[status] : "a status";
}

/* ---- what tests ask for ----------------------------------------------------------------------- */

void fake_begin(void)
{
	fake.devices = 1;
	fake.depth_out = fake.depth_in = 16;
	fake.inline_bytes = 64;
	fake.inline_sends = 0;
	fake.refuses_inline = false;
	fake.hold_reads = fake.silent = false;
	fake.registration_error = 0;
	fake.stubborn = false;
	fake_set_port(IBV_MTU_2048, IBV_LINK_LAYER_ETHERNET);
	fake_set_transport(IBV_TRANSPORT_IB);
}

void fake_end(void)
{
	assert_int_equal(fake.objects, 0);
	assert_null(fake.mrs);
}

void fake_set_devices(int count)
{
	fake.devices = count;
}

void fake_set_port(enum ibv_mtu active_mtu, uint8_t link_layer)
{
	fake.active_mtu = active_mtu;
	fake.link_layer = link_layer;
}

void fake_set_transport(enum ibv_transport_type type)
{
	device.transport_type = type;
}

void fake_be_stubborn(void)
{
	fake.stubborn = true;
}

void fake_set_read_depth(int out, int in)
{
	fake.depth_out = out;
	fake.depth_in = in;
}

void fake_set_inline(uint32_t bytes, bool refused)
{
	fake.inline_bytes = bytes;
	fake.refuses_inline = refused;
}

uint32_t fake_inline_sends(void)
{
	pthread_mutex_lock(&fake.lock);
	uint32_t sends = fake.inline_sends;
	pthread_mutex_unlock(&fake.lock);
	return sends;
}

uint32_t fake_reads_waiting(void)
{
	uint32_t waiting = 0;
	pthread_mutex_lock(&fake.lock);
	for (int i = 0; i < CHANNELS_MAX; i++)
		for (uint32_t k = 0; fake.qps[i] && k < fake.qps[i]->send_count; k++)
			waiting += fake.qps[i]->sends[(fake.qps[i]->send_head + k) % SENDS_MAX].is_read;
	pthread_mutex_unlock(&fake.lock);
	return waiting;
}

void fake_hold_reads(bool hold)
{
	pthread_mutex_lock(&fake.lock);
	fake.hold_reads = hold;
	for (int i = 0; i < CHANNELS_MAX; i++)
		if (fake.qps[i])
			do_what_can_be_done(fake.qps[i]);
	pthread_mutex_unlock(&fake.lock);
}

void fake_let_reads(uint32_t count, enum ibv_wc_status last)
{
	pthread_mutex_lock(&fake.lock);
	for (int i = 0; i < CHANNELS_MAX; i++)
		while (count && fake.qps[i] && fake.qps[i]->send_count &&
		       fake.qps[i]->sends[fake.qps[i]->send_head].is_read)
			do_first(fake.qps[i], --count ? IBV_WC_SUCCESS : last);
	pthread_mutex_unlock(&fake.lock);
	assert_int_equal(count, 0);
}

void fake_fail_registrations(int error_number)
{
	pthread_mutex_lock(&fake.lock);
	fake.registration_error = error_number;
	pthread_mutex_unlock(&fake.lock);
}

uint64_t fake_readable_bytes(void)
{
	uint64_t bytes = 0;
	pthread_mutex_lock(&fake.lock);
	for (const struct fake_mr *mr = fake.mrs; mr; mr = mr->next)
		bytes += mr->access & IBV_ACCESS_REMOTE_READ ? mr->mr.length : 0;
	pthread_mutex_unlock(&fake.lock);
	return bytes;
}

void fake_fall_silent(bool silent)
{
	pthread_mutex_lock(&fake.lock);
	fake.silent = silent;
	pthread_mutex_unlock(&fake.lock);
}

enum ibv_wc_status fake_read_with(uint32_t rkey, uint64_t address, uint32_t length_bytes)
{
	pthread_mutex_lock(&fake.lock);
	const struct fake_mr *mr = find_mr(rkey, address, length_bytes, IBV_ACCESS_REMOTE_READ);
	pthread_mutex_unlock(&fake.lock);
	return mr ? IBV_WC_SUCCESS : IBV_WC_REM_ACCESS_ERR;
}

uint32_t fake_last_rkey(uint64_t *address)
{
	uint32_t key = 0;
	pthread_mutex_lock(&fake.lock);
	for (const struct fake_mr *mr = fake.mrs; mr; mr = mr->next)
		if ((mr->access & IBV_ACCESS_REMOTE_READ) && mr->mr.rkey > key) {
			key = mr->mr.rkey;
			*address = (uintptr_t)mr->mr.addr;
		}
	pthread_mutex_unlock(&fake.lock);
	return key;
}
