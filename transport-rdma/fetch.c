/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: a destination's page channel.
 *
 *   fetch()  any thread      lock; append to the FIFO; post what can be posted; unlock
 *   thread   one a channel   completion -> lock; the piece is the oldest one's; post what waits; unlock ->
 *                            fetch_done, when it was the fetch's last
 *
 * A fetch is one READ, or several where it is longer than the adapter reads at once. The caller of fetch()
 * posts itself: it may be the reader of page faults. READs of one queue pair complete in order, so
 * completions name nobody. A fetch waits unposted while the send queue is full or the source has not told its
 * keys.
 *
 * The thread polls while completions come and sleeps when they do not: how long it looks before it goes to
 * sleep doubles when looking was worth it and halves when it was not.
 *
 * The end. When the link is down the channel is closed for further posts, its queue pair is put into the
 * error state, and what was posted completes, flushed. Then the queue pair is destroyed: only now the adapter
 * cannot write to a landing any more, whatever it has answered. Only then the fetches that are left are
 * reported, each once.
 */
#include "transport-rdma/internal.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define COMPLETIONS_AT_ONCE 16
#define SPIN_MIN_NS	    1000u
#define SPIN_MAX_NS	    64000u

void rdma_channel_name(const struct page_channel *channel, char name[static RDMA_CHANNEL_NAME_BYTES])
{
	snprintf(name, RDMA_CHANNEL_NAME_BYTES, "%s channel %u",
		 channel->load.class == HF_FETCH_URGENT ? "urgent" : "background", channel->index);
}

static void fail_channel(struct page_channel *channel, enum ibv_wc_status status)
{
	struct hf_err why = HF_ERR_INIT;
	char name[RDMA_CHANNEL_NAME_BYTES];
	rdma_channel_name(channel, name);
	rdma_explain_completion(status, channel->rdma->name, name, &why);
	rdma_fail(channel->rdma, &why);
}

/* ---- where a chunk is, there and here --------------------------------------------------------- */

/* The key whose part of a block holds the chunk. */
static const struct rdma_key *find_key(const struct hf_rdma *rdma, const struct hf_fetch *fetch)
{
	uint32_t low = 0, high = rdma->key_count;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const struct rdma_key *key = &rdma->keys[middle];
		if (key->block < fetch->block ||
		    (key->block == fetch->block && key->offset_bytes <= fetch->offset_bytes))
			low = middle + 1;
		else
			high = middle;
	}
	return low ? &rdma->keys[low - 1] : NULL;
}

static bool holds(const struct rdma_key *key, const struct hf_fetch *fetch)
{
	return key && key->block == fetch->block && fetch->offset_bytes >= key->offset_bytes &&
	       fetch->offset_bytes - key->offset_bytes < key->length_bytes &&
	       fetch->length_bytes <= key->length_bytes - (fetch->offset_bytes - key->offset_bytes);
}

/* 1: *key; 0: not told yet; -EPROTO: the source lends no such memory. */
static int key_of(const struct hf_rdma *rdma, const struct hf_fetch *fetch, const struct rdma_key **key)
{
	bool probe = fetch->block == HF_WIRE_PROBE_BLOCK;
	if (!atomic_load(probe ? &rdma->probe_key_known : &rdma->keys_known))
		return 0;
	*key = probe ? &rdma->probe_key : find_key(rdma, fetch);
	return holds(*key, fetch) ? 1 : -EPROTO;
}

static int no_key(struct page_channel *channel, const struct hf_fetch *fetch)
{
	struct hf_err why = HF_ERR_INIT;
	hf_err_set(&why, HF_ERR_PEER, EPROTO,
		   "%s: the source does not lend block %u, offset %llu; one of the two programs is broken",
		   channel->rdma->name, fetch->block, (unsigned long long)fetch->offset_bytes);
	rdma_fail(channel->rdma, &why);
	return -EPROTO;
}

/* The landing's key: of lent memory, or of a registration for this fetch alone. */
static int find_landing(struct hf_rdma *rdma, struct posted_fetch *posted)
{
	const struct hf_fetch *fetch = &posted->fetch;
	const struct rdma_region *lent = NULL;
	if (atomic_load(&rdma->landings_known))
		lent = rdma_find_region(&rdma->regions, fetch->landing, fetch->length_bytes);
	if (!lent)
		posted->mr =
		    ibv_reg_mr(rdma->pd, fetch->landing, fetch->length_bytes, IBV_ACCESS_LOCAL_WRITE);
	if (!lent && !posted->mr)
		return errno ? -errno : -ENOMEM;
	posted->lkey = lent ? lent->mr->lkey : posted->mr->lkey;
	return 0;
}

/* ---- posting ---------------------------------------------------------------------------------- */

static int local_failure(struct page_channel *channel, const char *what, int result)
{
	struct hf_err why = HF_ERR_INIT;
	char name[RDMA_CHANNEL_NAME_BYTES];
	rdma_channel_name(channel, name);
	hf_err_set(&why, HF_ERR_LOCAL, -result, "%s, %s: %s: %s; check the limit of locked memory",
		   channel->rdma->name, name, what, strerror(-result));
	rdma_fail(channel->rdma, &why);
	return result;
}

/* Under the channel's lock. */
static int post_piece(struct page_channel *channel, struct posted_fetch *posted, const struct rdma_key *key)
{
	hf_lock_assert_held(&channel->lock);
	const struct hf_fetch *fetch = &posted->fetch;
	uint32_t length_bytes = fetch->length_bytes - posted->posted_bytes;
	if (length_bytes > channel->rdma->limits.read_max_bytes)
		length_bytes = channel->rdma->limits.read_max_bytes;
	uint64_t remote = key->address + (fetch->offset_bytes - key->offset_bytes) + posted->posted_bytes;
	struct ibv_sge sge = {.addr = (uintptr_t)fetch->landing + posted->posted_bytes,
			      .length = length_bytes,
			      .lkey = posted->lkey};
	struct ibv_send_wr request = {.sg_list = &sge,
				      .num_sge = 1,
				      .opcode = IBV_WR_RDMA_READ,
				      .send_flags = IBV_SEND_SIGNALED,
				      .wr.rdma = {.remote_addr = remote, .rkey = key->rkey}};
	struct ibv_send_wr *bad;
	int result = ibv_post_send(channel->id->qp, &request, &bad);
	if (result)
		return local_failure(channel, "a READ cannot be posted", -result);
	channel->piece_bytes[(channel->piece_head + channel->pieces) % RDMA_SEND_QUEUE_MAX] = length_bytes;
	channel->pieces++;
	posted->posted_bytes += length_bytes;
	return 0;
}

/* Under the channel's lock. Posts what can be posted; a failure has failed the link. */
static void pump(struct page_channel *channel)
{
	hf_lock_assert_held(&channel->lock);
	uint32_t outstanding = atomic_load(&channel->load.outstanding);
	while (!channel->closed && channel->unposted < outstanding && channel->pieces < RDMA_SEND_QUEUE_MAX) {
		struct posted_fetch *posted =
		    &channel->fifo[(channel->head + channel->unposted) % RDMA_CHANNEL_FETCHES_MAX];
		const struct rdma_key *key = NULL;
		int known = key_of(channel->rdma, &posted->fetch, &key);
		if (known < 0)
			no_key(channel, &posted->fetch);
		if (known <= 0)
			return;
		if (!posted->posted_bytes) {
			int result = find_landing(channel->rdma, posted);
			if (result) {
				local_failure(channel, "a landing cannot be registered", result);
				return;
			}
		}
		if (post_piece(channel, posted, key))
			return;
		if (posted->posted_bytes == posted->fetch.length_bytes)
			channel->unposted++;
	}
}

void rdma_fetch_pump_all(struct hf_rdma *rdma)
{
	for (uint32_t i = 0; i < rdma->channel_count; i++) {
		hf_lock(&rdma->channels[i].lock);
		pump(&rdma->channels[i]);
		hf_unlock(&rdma->channels[i].lock);
	}
}

static struct page_channel *pick_channel(struct hf_rdma *rdma, enum hf_fetch_class class)
{
	uint32_t index = hf_channel_pick(&rdma->channels[0].load, sizeof(rdma->channels[0]),
					 rdma->channel_count, class, RDMA_CHANNEL_FETCHES_MAX);
	return index == HF_CHANNEL_NONE ? NULL : &rdma->channels[index];
}

/* 1: no room after all. */
static int append(struct page_channel *channel, const struct hf_fetch *fetch)
{
	int result = 1;
	hf_lock(&channel->lock);
	uint32_t outstanding = atomic_load(&channel->load.outstanding);
	if (channel->closed) {
		result = -ENOTCONN;
	} else if (outstanding < RDMA_CHANNEL_FETCHES_MAX) {
		channel->fifo[(channel->head + outstanding) % RDMA_CHANNEL_FETCHES_MAX] =
		    (struct posted_fetch){.fetch = *fetch};
		atomic_store(&channel->load.outstanding, outstanding + 1);
		atomic_fetch_add(&channel->load.outstanding_bytes, fetch->length_bytes);
		pump(channel);
		result = 0;
	}
	hf_unlock(&channel->lock);
	return result;
}

int rdma_fetch_post(struct hf_rdma *rdma, const struct hf_fetch *fetch)
{
	if (rdma->role != RDMA_ROLE_DESTINATION || !fetch->landing || !fetch->length_bytes ||
	    fetch->length_bytes > HF_WIRE_CHUNK_MAX_BYTES || (unsigned)fetch->class >= HF_FETCH_CLASSES)
		return -EINVAL;
	if (!hf_link_life_is_up(&rdma->life) || fetch->epoch != rdma->info.epoch)
		return -ENOTCONN;
	for (;;) {
		struct page_channel *channel = pick_channel(rdma, fetch->class);
		if (!channel)
			return -EAGAIN;
		int result = append(channel, fetch);
		if (result <= 0)
			return result;
	}
}

/* ---- completing ------------------------------------------------------------------------------- */

static void take_head(struct page_channel *channel, struct posted_fetch *done)
{
	hf_lock_assert_held(&channel->lock);
	*done = channel->fifo[channel->head];
	channel->head = (channel->head + 1) % RDMA_CHANNEL_FETCHES_MAX;
	if (channel->unposted)
		channel->unposted--;
	atomic_fetch_sub(&channel->load.outstanding_bytes, done->fetch.length_bytes);
	atomic_fetch_sub(&channel->load.outstanding, 1);
}

static void report(struct page_channel *channel, struct posted_fetch *posted, enum hf_fetch_status status)
{
	struct hf_rdma *rdma = channel->rdma;
	if (posted->mr)
		ibv_dereg_mr(posted->mr);
	struct hf_fetch_done done = {.id = posted->fetch.id, .epoch = posted->fetch.epoch, .status = status};
	rdma->events->fetch_done(rdma->engine, &done);
}

static uint32_t take_piece(struct page_channel *channel)
{
	hf_lock_assert_held(&channel->lock);
	uint32_t length_bytes = channel->piece_bytes[channel->piece_head];
	channel->piece_head = (channel->piece_head + 1) % RDMA_SEND_QUEUE_MAX;
	channel->pieces--;
	return length_bytes;
}

static void complete(struct page_channel *channel, enum ibv_wc_status status)
{
	struct posted_fetch done;
	bool whole = false;
	hf_lock(&channel->lock);
	uint32_t length_bytes = take_piece(channel);
	if (status == IBV_WC_SUCCESS && !channel->closed) {
		struct posted_fetch *head = &channel->fifo[channel->head];
		head->landed_bytes += length_bytes;
		whole = head->landed_bytes == head->fetch.length_bytes;
		if (whole)
			take_head(channel, &done);
		pump(channel);
	}
	hf_unlock(&channel->lock);
	if (status != IBV_WC_SUCCESS)
		fail_channel(channel, status);
	else if (whole)
		report(channel, &done, HF_FETCH_OK);
}

/* Returns how many there were. */
static int take_completions(struct page_channel *channel)
{
	struct ibv_wc completions[COMPLETIONS_AT_ONCE];
	int count = ibv_poll_cq(channel->completions.cq, COMPLETIONS_AT_ONCE, completions);
	if (count < 0) {
		fail_channel(channel, IBV_WC_FATAL_ERR);
		return 0;
	}
	for (int i = 0; i < count; i++)
		complete(channel, completions[i].status);
	return count;
}

/* ---- waiting ---------------------------------------------------------------------------------- */

static bool spin(struct page_channel *channel)
{
	uint64_t until_ns = rdma_now_ns() + channel->spin_ns;
	bool found = false;
	while (!found && atomic_load(&channel->load.outstanding) && rdma_now_ns() < until_ns &&
	       !hf_link_life_is_down(&channel->rdma->life))
		found = take_completions(channel) > 0;
	channel->spin_ns = found ? channel->spin_ns * 2 : channel->spin_ns / 2;
	if (channel->spin_ns < SPIN_MIN_NS)
		channel->spin_ns = SPIN_MIN_NS;
	if (channel->spin_ns > SPIN_MAX_NS)
		channel->spin_ns = SPIN_MAX_NS;
	return found;
}

/* Sleeps until a completion has come or the link is down. */
static void sleep_until_any(struct page_channel *channel)
{
	if (ibv_req_notify_cq(channel->completions.cq, 0)) {
		fail_channel(channel, IBV_WC_FATAL_ERR);
		return;
	}
	// One that came before the notification was asked for would not be told.
	if (take_completions(channel) > 0)
		return;
	struct pollfd entries[2] = {{.fd = channel->completions.channel->fd, .events = POLLIN},
				    {.fd = channel->rdma->down_fd, .events = POLLIN}};
	poll(entries, 2, -1);
	if (entries[0].revents)
		rdma_completions_ack(&channel->completions);
}

/* ---- the end ---------------------------------------------------------------------------------- */

static void drain(struct page_channel *channel)
{
	struct ibv_wc completions[COMPLETIONS_AT_ONCE];
	struct ibv_qp_attr attributes = {.qp_state = IBV_QPS_ERR};
	uint64_t until_ms = rdma_now_ms() + RDMA_DRAIN_MAX_MS;
	rdma_disconnect(channel->id);
	ibv_modify_qp(channel->id->qp, &attributes, IBV_QP_STATE);
	uint32_t left = channel->pieces; // closed: nobody else changes it
	while (left && rdma_now_ms() < until_ms) {
		int count = ibv_poll_cq(channel->completions.cq, COMPLETIONS_AT_ONCE, completions);
		if (count < 0)
			break;
		left -= (uint32_t)count;
		struct pollfd pause = {.fd = channel->completions.channel->fd, .events = POLLIN};
		if (!count && ibv_req_notify_cq(channel->completions.cq, 0) == 0)
			poll(&pause, 1, 10);
		if (pause.revents)
			rdma_completions_ack(&channel->completions);
	}
	rdma_destroy_qp(channel->id);
}

static void end_channel(struct page_channel *channel)
{
	struct hf_rdma *rdma = channel->rdma;
	hf_lock(&channel->lock);
	channel->closed = true;
	hf_unlock(&channel->lock);
	drain(channel);
	hf_lock(&rdma->life.lock);
	enum hf_fetch_status status = rdma->life.told_to_stop ? HF_FETCH_CANCELLED : HF_FETCH_FAILED;
	hf_unlock(&rdma->life.lock);
	while (atomic_load(&channel->load.outstanding)) {
		struct posted_fetch left;
		hf_lock(&channel->lock);
		take_head(channel, &left);
		hf_unlock(&channel->lock);
		report(channel, &left, status);
	}
}

void *rdma_fetch_main(void *argument)
{
	struct page_channel *channel = argument;
	if (!hf_link_life_wait_gate(&channel->rdma->life))
		return NULL;
	while (!hf_link_life_is_down(&channel->rdma->life))
		if (!spin(channel))
			sleep_until_any(channel);
	end_channel(channel);
	return NULL;
}
