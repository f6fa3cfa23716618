/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a connection is one queue pair for control and, for each class, a number of queue
 * pairs for pages, all reliable and connected, of one session and epoch, on one device. It is opened by
 * connect.c (the source) or accept.c (the destination) on the caller's thread and comes to life in
 * hf_rdma_start().
 *
 *   thread         one per               does                                         calls
 *   hf-rdma-ctl    connection            control messages both ways, the connection    link_up, message,
 *                                        manager's events, signs of life, the end      link_down
 *   hf-rdma-u0 ..  page channel,         completions of READs                          fetch_done
 *                  destination only
 *   hf-rdma-reg    connection,           registers memory, once, then ends
 *                  source only
 *
 * On the source no thread belongs to a page channel: the adapter answers READs by itself.
 *
 * One page channel has one class, so an urgent READ never queues behind a background one. How many READs the
 * two adapters work on at once is agreed on by the connection manager (initiator_depth, responder_resources);
 * neither side takes less than one. What is posted beyond that waits in the send queue in order, where
 * nothing but READs is.
 *
 * Control is a stream of frames, cut into messages (SEND, RECV). Each side has RDMA_CREDITS receives posted
 * and counts what it may still send (messages.c), so no SEND ever finds no receive. Keys and addresses of
 * memory travel there too (lend.c).
 *
 * A peer whose host is gone says nothing, and a queue pair notices nothing while nothing is sent. So each
 * side sends a sign of life every 5 s: its adapter finds out that nobody acknowledges, and a peer that is
 * silent for 30 s, though its adapter lives, is given up too.
 *
 * Its life is core/link_life.h's. Going down: note the reason, make down_fd readable. Each thread
 * then leaves by itself: page channels as fetch.c says, the control thread after it has delivered what had
 * arrived. It joins the others, destroys the queue pairs of the source's page channels and its own, takes
 * every registration back, and says link_down, last. So no adapter can touch a landing, or read the source's
 * memory, after link_down (rule d of core/transport.h), however late a READ comes.
 */
#include "transport-rdma/internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/link_probe.h"

#define CONTROL_BUFFERS ((size_t)2 * RDMA_CREDITS) /* to receive into, then to send from */

/* ---- making ----------------------------------------------------------------------------------- */

int rdma_options_check(const struct hf_rdma_options *options, struct hf_rdma_options *checked,
		       struct hf_err *err)
{
	struct hf_rdma_options result = {0};
	if (options)
		result = *options;
	int failed = hf_opening_check_options(result.channels, &result.timeout_ms, err);
	if (failed)
		return failed;
	*checked = result;
	return 0;
}

static void init_channels(struct hf_rdma *rdma)
{
	for (uint32_t i = 0; i < rdma->channel_count; i++) {
		struct page_channel *channel = &rdma->channels[i];
		uint32_t urgent = rdma->info.channels[HF_FETCH_URGENT];
		channel->rdma = rdma;
		channel->load.class = i < urgent ? HF_FETCH_URGENT : HF_FETCH_BACKGROUND;
		channel->index = i < urgent ? i : i - urgent;
		channel->spin_ns = 0;
		hf_lock_init(&channel->lock, "rdma page_channel.lock", HF_RANK_PAGE_CHANNEL);
	}
}

int rdma_new(struct hf_rdma **out, enum rdma_role role, struct hf_err *err)
{
	struct hf_rdma *rdma = calloc(1, sizeof(*rdma));
	if (!rdma)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory for a connection");
	hf_link_life_init(&rdma->life, "hf_rdma.life");
	rdma->outbox.most_bytes = HF_OUTBOX_MOST_BYTES;
	rdma->role = role;
	rdma->control.credits = RDMA_CREDITS;
	rdma->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rdma->down_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	rdma->control.inbox =
	    malloc(HF_WIRE_FRAME_HEADER_BYTES + (size_t)HF_WIRE_FRAME_MAX_BYTES + RDMA_MESSAGE_BYTES);
	if (rdma->wake_fd < 0 || rdma->down_fd < 0 || !rdma->control.inbox) {
		rdma_free(rdma);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
				  "no memory or descriptors for a connection; raise the limit of open files");
	}
	*out = rdma;
	return 0;
}

int rdma_set_terms(struct hf_rdma *rdma, const struct hf_link_info *info, struct hf_err *err)
{
	uint32_t count = info->channels[HF_FETCH_URGENT] + info->channels[HF_FETCH_BACKGROUND];
	rdma->info = *info;
	rdma->info.name = "rdma";
	rdma->info.one_sided = true;
	for (int i = 0; i < HF_FETCH_CLASSES; i++)
		rdma->info.capacity_chunks[i] = info->channels[i] * RDMA_CHANNEL_FETCHES_MAX;
	rdma->channels = calloc(count, sizeof(*rdma->channels));
	if (!rdma->channels)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "%s: out of memory for channels", rdma->name);
	rdma->channel_count = count;
	init_channels(rdma);
	return 0;
}

static void destroy_id(struct rdma_cm_id **id)
{
	if (!*id)
		return;
	if ((*id)->qp)
		rdma_destroy_qp(*id);
	rdma_destroy_id(*id);
	*id = NULL;
}

void rdma_destroy_control(struct hf_rdma *rdma)
{
	if (rdma->control_id && rdma->control_id->qp) {
		rdma_disconnect(rdma->control_id);
		rdma_destroy_qp(rdma->control_id);
	}
	for (uint32_t i = 0; i < rdma->channel_count; i++)
		if (rdma->channels[i].id && rdma->channels[i].id->qp) {
			rdma_disconnect(rdma->channels[i].id);
			rdma_destroy_qp(rdma->channels[i].id);
		}
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void rdma_free(struct hf_rdma *rdma)
{
	if (!rdma)
		return;
	rdma_destroy_control(rdma);
	rdma_deregister_all(&rdma->regions);
	rdma_deregister_all(&rdma->probe_region);
	if (rdma->control.mr)
		ibv_dereg_mr(rdma->control.mr);
	rdma_completions_close(&rdma->control.completions);
	for (uint32_t i = 0; i < rdma->channel_count; i++) {
		rdma_completions_close(&rdma->channels[i].completions);
		destroy_id(&rdma->channels[i].id);
		hf_lock_destroy(&rdma->channels[i].lock);
	}
	destroy_id(&rdma->control_id);
	if (rdma->pd)
		ibv_dealloc_pd(rdma->pd);
	if (rdma->cm_events)
		rdma_destroy_event_channel(rdma->cm_events);
	close_fd(rdma->wake_fd);
	close_fd(rdma->down_fd);
	hf_outbox_empty(&rdma->outbox);
	free(rdma->control.buffers);
	free(rdma->control.inbox);
	free(rdma->probe_block);
	free(rdma->ranges);
	free(rdma->own_keys);
	free(rdma->keys);
	free(rdma->channels);
	hf_link_life_destroy(&rdma->life);
	free(rdma);
}

/* ---- verbs of a connection -------------------------------------------------------------------- */

/* What the destination reads to measure the link. */
static int lend_probe_block(struct hf_rdma *rdma, struct hf_err *err)
{
	if (rdma->role != RDMA_ROLE_SOURCE)
		return 0;
	rdma->probe_block = hf_link_probe_block_create();
	if (!rdma->probe_block)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the probe block");
	return rdma_register(rdma->pd, &rdma->limits, rdma->probe_block, HF_LINK_PROBE_BYTES,
			     IBV_ACCESS_REMOTE_READ, &rdma->life, &rdma->probe_region, err);
}

static int make_buffers(struct hf_rdma *rdma, struct hf_err *err)
{
	struct rdma_control *control = &rdma->control;
	size_t bytes = CONTROL_BUFFERS * RDMA_MESSAGE_BYTES;
	control->buffers = aligned_alloc(4096, bytes);
	if (control->buffers)
		control->mr = ibv_reg_mr(rdma->pd, control->buffers, bytes, IBV_ACCESS_LOCAL_WRITE);
	if (control->mr)
		return 0;
	return hf_err_set(
	    err, HF_ERR_LOCAL, ENOMEM,
	    "%s: no registered memory for control messages: %s; raise the limit of locked memory "
	    "(LimitMEMLOCK=infinity)",
	    rdma->name, strerror(errno));
}

int rdma_use_device(struct hf_rdma *rdma, struct rdma_cm_id *id, struct hf_err *err)
{
	rdma->context = id->verbs;
	int result = rdma_find_limits(id->verbs, id->port_num, &rdma->limits, err);
	if (result)
		return result;
	rdma->pd = ibv_alloc_pd(id->verbs);
	if (!rdma->pd)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "%s: no protection domain: %s", rdma->name,
				  strerror(errno));
	result = make_buffers(rdma, err);
	return result ? result : lend_probe_block(rdma, err);
}

static int post_receives(struct hf_rdma *rdma)
{
	int result = 0;
	for (uint32_t i = 0; i < RDMA_CREDITS && !result; i++) {
		struct ibv_sge sge = {.addr =
					  (uintptr_t)rdma->control.buffers + (size_t)i * RDMA_MESSAGE_BYTES,
				      .length = RDMA_MESSAGE_BYTES,
				      .lkey = rdma->control.mr->lkey};
		struct ibv_recv_wr request = {.wr_id = i, .sg_list = &sge, .num_sge = 1}, *bad;
		result = ibv_post_recv(rdma->control_id->qp, &request, &bad);
	}
	return -result;
}

/* The adapter takes small messages with the request, as far as it can; cap says then how far. */
static int create_queue_pair(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *attributes,
			     uint32_t inline_bytes)
{
	attributes->cap.max_inline_data = inline_bytes;
	if (rdma_create_qp(id, pd, attributes) == 0)
		return 0;
	if (inline_bytes == 0 || errno != EINVAL)
		return -errno;
	attributes->cap.max_inline_data = 0;
	return rdma_create_qp(id, pd, attributes) == 0 ? 0 : -errno;
}

int rdma_make_queue_pair(struct hf_rdma *rdma, struct rdma_cm_id *id, struct page_channel *channel,
			 struct hf_err *err)
{
	if (id->verbs != rdma->context)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EXDEV,
		    "%s: its channels would use different RDMA devices; name one address of one "
		    "device",
		    rdma->name);
	struct rdma_completions *completions = channel ? &channel->completions : &rdma->control.completions;
	uint32_t sends = channel ? RDMA_SEND_QUEUE_MAX : RDMA_CREDITS;
	uint32_t receives = channel ? 1 : RDMA_CREDITS; // some adapters refuse an empty receive queue
	int result = rdma_completions_open(completions, id->verbs, sends + receives, err);
	if (result)
		return result;
	struct ibv_qp_init_attr attributes = {
	    .send_cq = completions->cq,
	    .recv_cq = completions->cq,
	    .cap = {.max_send_wr = sends, .max_recv_wr = receives, .max_send_sge = 1, .max_recv_sge = 1},
	    .qp_type = IBV_QPT_RC};
	result = create_queue_pair(id, rdma->pd, &attributes, channel ? 0 : RDMA_INLINE_BYTES);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "%s: no queue pair: %s", rdma->name,
				  strerror(-result));
	if (channel)
		return 0;
	rdma->control.inline_bytes = attributes.cap.max_inline_data;
	result = post_receives(rdma);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "%s: receives cannot be posted: %s", rdma->name,
				  strerror(-result));
	return 0;
}

struct rdma_conn_param rdma_conn_param(const void *private_data, size_t private_bytes, uint8_t depth_out,
				       uint8_t depth_in)
{
	return (struct rdma_conn_param){
	    .private_data = private_data,
	    .private_data_len = (uint8_t)private_bytes,
	    .initiator_depth = depth_out,
	    .responder_resources = depth_in,
	    .retry_count = 7,	  /* the most there is: about 20 s until a dead peer is given up */
	    .rnr_retry_count = 7, /* for ever; credits see to it that none is needed */
	};
}

struct page_channel *rdma_channel_of(struct hf_rdma *rdma, const struct rdma_cm_id *id)
{
	for (uint32_t i = 0; i < rdma->channel_count; i++)
		if (rdma->channels[i].id == id)
			return &rdma->channels[i];
	return NULL;
}

/* ---- going down ------------------------------------------------------------------------------- */

static void raise_fd(int fd)
{
	uint64_t one = 1;
	while (write(fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void rdma_wake(struct hf_rdma *rdma)
{
	raise_fd(rdma->wake_fd);
}

static void go_down(struct hf_rdma *rdma, const struct hf_err *why, bool told_to_stop)
{
	if (hf_link_life_end(&rdma->life, why, told_to_stop))
		raise_fd(rdma->down_fd);
}

void rdma_fail(struct hf_rdma *rdma, const struct hf_err *why)
{
	go_down(rdma, why, false);
}

void hf_rdma_shutdown(struct hf_rdma *rdma, const struct hf_err *why)
{
	struct hf_err orderly = HF_ERR_INIT;
	if (!why)
		hf_err_set(&orderly, HF_ERR_CANCELLED, ECANCELED, "%s: closed by this side", rdma->name);
	go_down(rdma, why ? why : &orderly, true);
}

/* ---- threads ---------------------------------------------------------------------------------- */

int rdma_thread_create(pthread_t *thread, const char *name, void *(*function)(void *), void *argument)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before); // signals belong to the program's own threads
	int result = pthread_create(thread, NULL, function, argument);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (!result)
		pthread_setname_np(*thread, name);
	return -result;
}

static int start_channel(struct page_channel *channel)
{
	char name[16];
	if (channel->rdma->role == RDMA_ROLE_SOURCE)
		return 0;
	snprintf(name, sizeof(name), "hf-rdma-%c%u", channel->load.class == HF_FETCH_URGENT ? 'u' : 'b',
		 channel->index % 1000);
	int result = rdma_thread_create(&channel->thread, name, rdma_fetch_main, channel);
	channel->thread_runs = !result;
	return result;
}

static void abandon_start(struct hf_rdma *rdma)
{
	hf_link_life_set_gate(&rdma->life, false);
	for (uint32_t i = 0; i < rdma->channel_count; i++) {
		if (rdma->channels[i].thread_runs)
			pthread_join(rdma->channels[i].thread, NULL);
		rdma->channels[i].thread_runs = false;
	}
}

int hf_rdma_start(struct hf_rdma *rdma, const struct hf_transport_events *events, void *engine,
		  struct hf_err *err)
{
	if (rdma->events)
		return hf_err_set(err, HF_ERR_LOCAL, EALREADY, "%s: already started", rdma->name);
	hf_lock(&rdma->life.lock);
	rdma->engine = engine;
	rdma->events = events;
	hf_unlock(&rdma->life.lock);
	rdma->control.heard_ms = rdma->control.sent_ms = rdma_now_ms();

	int result = 0;
	for (uint32_t i = 0; i < rdma->channel_count && !result; i++)
		result = start_channel(&rdma->channels[i]);
	if (!result) {
		hf_link_life_begin(&rdma->life);
		result = rdma_thread_create(&rdma->control_thread, "hf-rdma-ctl", rdma_control_main, rdma);
	}
	rdma->control_runs = !result;
	if (!result)
		return 0;

	struct hf_err why = HF_ERR_INIT;
	hf_err_set(&why, HF_ERR_LOCAL, -result, "%s: cannot make %u threads: %s; raise the limit of tasks",
		   rdma->name, rdma->channel_count + 1, strerror(-result));
	go_down(rdma, &why, true);
	abandon_start(rdma);
	if (err)
		*err = why;
	return result;
}

void hf_rdma_close(struct hf_rdma *rdma)
{
	hf_lock_assert_may_stop(__func__);
	if (!rdma)
		return;
	hf_rdma_shutdown(rdma, NULL);
	if (rdma->control_runs)
		pthread_join(rdma->control_thread, NULL);
	rdma_free(rdma);
}

const struct hf_link_info *hf_rdma_info(const struct hf_rdma *rdma)
{
	return &rdma->info;
}

const uint8_t *hf_rdma_session(const struct hf_rdma *rdma)
{
	return rdma->session;
}

/* ---- the port --------------------------------------------------------------------------------- */

static int port_fetch(void *self, const struct hf_fetch *fetch)
{
	return rdma_fetch_post(self, fetch);
}

static int port_send(void *self, uint64_t epoch, uint32_t type, const void *payload, size_t length_bytes)
{
	return rdma_control_send(self, epoch, type, payload, length_bytes);
}

struct hf_transport hf_rdma_transport(struct hf_rdma *rdma)
{
	static const struct hf_transport_ops ops = {.fetch = port_fetch, .send = port_send};
	return (struct hf_transport){.ops = &ops, .self = rdma};
}

/* An acknowledged SEND is in the peer's memory, where its control thread finds it. */
int hf_rdma_flush(struct hf_rdma *rdma, uint32_t timeout_ms)
{
	uint64_t deadline_ns = rdma_now_ns() + timeout_ms * 1000000ull;
	int waited = 0;
	hf_lock(&rdma->life.lock);
	while (rdma->unsent && !hf_link_life_is_down(&rdma->life) && !waited)
		waited = hf_cond_wait_until(&rdma->life.changed, &rdma->life.lock, deadline_ns);
	int result = 0;
	if (rdma->unsent)
		result = hf_link_life_is_down(&rdma->life) ? -ENOTCONN : -ETIMEDOUT;
	hf_unlock(&rdma->life.lock);
	return result;
}
