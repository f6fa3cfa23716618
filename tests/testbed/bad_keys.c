/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A destination that means no good: bad-keys URI. It greets and asks for keys as it should, and then asks
 * the source's adapter for what it was not lent, over a page channel each time, since none survives that.
 * At last it ends the migration and asks for what it could read before. An adapter whose peer has no such
 * channel any more repeats itself for a minute; so SIGUSR1 says that the source's program has ended, and the
 * READ has had the time until then. Exit code 0: the READs that may be done were, and nothing else.
 *
 * It stands on the transport's own files, without its threads.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "transport-rdma/internal.h"

#define PIECE_BYTES 4096u
#define CHANNELS    8u
#define WAIT_MS	    60000u
#define PATTERN	    0xa5

struct thief {
	struct hf_rdma *rdma;
	uint8_t *buffer; /* two pieces */
	struct ibv_mr *mr;
	uint32_t used; /* channels */
};

/* What is asked for of the source's memory; a part of a block is lent with key. */
struct attempt {
	const char *what;
	enum ibv_wr_opcode opcode;
	uint64_t address;
	uint32_t rkey, length_bytes;
};

static void die(const char *what, const struct hf_err *err)
{
	fprintf(stderr, "bad-keys: %s: %s\n", what, err ? err->text : strerror(errno));
	exit(1);
}

/* ---- what an honest destination does too ------------------------------------------------------ */

static void hear_nothing(void *engine, uint64_t epoch, uint32_t type, const void *payload,
			 size_t length_bytes)
{
	(void)engine;
	(void)epoch;
	(void)type;
	(void)payload;
	(void)length_bytes;
}

static void wait_completions(struct rdma_completions *completions, uint64_t deadline_ms)
{
	struct pollfd entry = {.fd = completions->channel->fd, .events = POLLIN};
	uint64_t now_ms = rdma_now_ms();
	if (now_ms >= deadline_ms || poll(&entry, 1, (int)(deadline_ms - now_ms)) <= 0)
		die("nothing comes", NULL);
	rdma_completions_ack(completions);
}

static void ask_for_keys(struct hf_rdma *rdma)
{
	static const struct hf_transport_events ears = {.message = hear_nothing};
	struct rdma_completions *completions = &rdma->control.completions;
	uint64_t deadline_ms = rdma_now_ms() + WAIT_MS;
	rdma->events = &ears;
	rdma->control.want_sent = true;
	if (rdma_send_message(rdma, RDMA_MESSAGE_WANT_KEYS, 0))
		die("asking for keys", &rdma->why);
	while (!atomic_load(&rdma->keys_known)) {
		if (ibv_req_notify_cq(completions->cq, 0))
			die("notifications", NULL);
		int taken = rdma_take_messages(rdma, false);
		if (taken < 0)
			die("hearing the keys", &rdma->why);
		if (!taken)
			wait_completions(completions, deadline_ms);
	}
}

static void meet(struct thief *thief, const char *uri)
{
	const struct hf_rdma_options options = {.channels = {1, CHANNELS}, .timeout_ms = WAIT_MS};
	struct hf_rdma_listener *listener = NULL;
	struct hf_err err = HF_ERR_INIT;
	if (hf_rdma_listen(&listener, uri, &options, &err))
		die("listening", &err);
	printf("listening on %s\n", hf_rdma_listener_uri(listener));
	fflush(stdout);
	if (hf_rdma_accept(listener, &thief->rdma, &err))
		die("accepting", &err);
	hf_rdma_listener_close(listener);
	ask_for_keys(thief->rdma);
	thief->buffer = aligned_alloc(PIECE_BYTES, (size_t)2 * PIECE_BYTES);
	if (thief->buffer)
		thief->mr = ibv_reg_mr(thief->rdma->pd, thief->buffer, (size_t)2 * PIECE_BYTES,
				       IBV_ACCESS_LOCAL_WRITE);
	if (!thief->mr)
		die("a buffer", NULL);
}

/* ---- what it does not ------------------------------------------------------------------------- */

static struct page_channel *next_channel(struct thief *thief)
{
	if (thief->used >= thief->rdma->channel_count)
		die("the source has opened too few channels", NULL);
	return &thief->rdma->channels[thief->used++];
}

static void post(const struct thief *thief, const struct page_channel *channel, const struct attempt *attempt)
{
	struct ibv_sge sge = {
	    .addr = (uintptr_t)thief->buffer, .length = attempt->length_bytes, .lkey = thief->mr->lkey};
	struct ibv_send_wr request = {
	    .sg_list = &sge, .num_sge = 1, .opcode = attempt->opcode, .send_flags = IBV_SEND_SIGNALED};
	struct ibv_send_wr *bad;
	memset(thief->buffer, PATTERN, (size_t)2 * PIECE_BYTES);
	if (attempt->opcode == IBV_WR_ATOMIC_FETCH_AND_ADD) {
		request.wr.atomic.remote_addr = attempt->address;
		request.wr.atomic.rkey = attempt->rkey;
		request.wr.atomic.compare_add = 1;
	} else {
		request.wr.rdma.remote_addr = attempt->address;
		request.wr.rdma.rkey = attempt->rkey;
	}
	if (ibv_post_send(channel->id->qp, &request, &bad))
		die(attempt->what, NULL);
}

static enum ibv_wc_status outcome(struct page_channel *channel, const struct attempt *attempt)
{
	struct rdma_completions *completions = &channel->completions;
	uint64_t deadline_ms = rdma_now_ms() + WAIT_MS;
	struct ibv_wc completion;
	for (;;) {
		if (ibv_req_notify_cq(completions->cq, 0))
			die("notifications", NULL);
		int count = ibv_poll_cq(completions->cq, 1, &completion);
		if (count < 0)
			die(attempt->what, NULL);
		if (count > 0)
			break;
		wait_completions(completions, deadline_ms);
	}
	printf("%s: %s\n", attempt->what, ibv_wc_status_str(completion.status));
	return completion.status;
}

static enum ibv_wc_status try_it(const struct thief *thief, struct page_channel *channel,
				 const struct attempt *attempt)
{
	post(thief, channel, attempt);
	return outcome(channel, attempt);
}

/* Returns 1 if anything came of it. */
static int in_vain(const struct thief *thief, const struct attempt *attempt, enum ibv_wc_status status)
{
	bool untouched = true, refused = status != IBV_WC_SUCCESS;
	for (uint32_t i = 0; i < 2 * PIECE_BYTES; i++)
		untouched &= thief->buffer[i] == PATTERN;
	if (refused && untouched)
		return 0;
	fprintf(stderr, "bad-keys: %s: done\n", attempt->what);
	return 1;
}

static int try_what_is_not_lent(struct thief *thief, const struct rdma_key *key)
{
	const struct rdma_key *probe = &thief->rdma->probe_key;
	const struct attempt attempts[] = {
	    {"a READ with another key", IBV_WR_RDMA_READ, key->address, ~key->rkey, PIECE_BYTES},
	    {"a READ with the key of other memory", IBV_WR_RDMA_READ, key->address, probe->rkey, PIECE_BYTES},
	    {"a READ past the end", IBV_WR_RDMA_READ, key->address + key->length_bytes - PIECE_BYTES,
	     key->rkey, 2 * PIECE_BYTES},
	    {"a READ before the start", IBV_WR_RDMA_READ, key->address - PIECE_BYTES, key->rkey,
	     2 * PIECE_BYTES},
	    {"a WRITE", IBV_WR_RDMA_WRITE, key->address, key->rkey, PIECE_BYTES},
	    {"an atomic addition", IBV_WR_ATOMIC_FETCH_AND_ADD, key->address, key->rkey, 8},
	};
	int failures = 0;
	for (size_t i = 0; i < sizeof(attempts) / sizeof(attempts[0]); i++)
		failures += in_vain(thief, &attempts[i], try_it(thief, next_channel(thief), &attempts[i]));
	return failures;
}

/* Ends the migration, and asks once more when the source has taken its end of the channel back. */
static int try_after_the_end(struct thief *thief, struct page_channel *channel, const struct rdma_key *key,
			     const sigset_t *source_gone)
{
	struct ibv_qp_attr attributes = {.qp_state = IBV_QPS_ERR};
	int number;
	const struct attempt late = {"a READ after the end", IBV_WR_RDMA_READ, key->address, key->rkey,
				     PIECE_BYTES};
	struct rdma_cm_happened happened = {0};
	uint64_t deadline_ms = rdma_now_ms() + WAIT_MS;
	rdma_disconnect(thief->rdma->control_id);
	while (happened.id != channel->id || happened.type != RDMA_CM_EVENT_DISCONNECTED)
		if (rdma_next_event(thief->rdma->cm_events, deadline_ms, &happened) <= 0)
			die("the source does not end its migration", NULL);
	post(thief, channel, &late);
	sigwait(source_gone, &number);
	if (ibv_modify_qp(channel->id->qp, &attributes, IBV_QP_STATE))
		die("ending a queue pair", NULL);
	return in_vain(thief, &late, outcome(channel, &late));
}

int main(int count, char **arguments)
{
	struct thief thief = {0};
	sigset_t source_gone;
	sigemptyset(&source_gone);
	sigaddset(&source_gone, SIGUSR1);
	sigprocmask(SIG_BLOCK, &source_gone, NULL);
	if (count != 2) {
		fprintf(stderr, "usage: bad-keys rdma:HOST:PORT\n");
		return 2;
	}
	meet(&thief, arguments[1]);
	const struct rdma_key *key = &thief.rdma->keys[0];
	const struct attempt allowed = {"a READ of what is lent", IBV_WR_RDMA_READ, key->address, key->rkey,
					PIECE_BYTES};
	struct page_channel *honest = next_channel(&thief);
	int failures = try_it(&thief, honest, &allowed) != IBV_WC_SUCCESS;
	failures += try_what_is_not_lent(&thief, key);
	failures += try_it(&thief, honest, &allowed) != IBV_WC_SUCCESS;
	failures += try_after_the_end(&thief, honest, key, &source_gone);
	ibv_dereg_mr(thief.mr);
	rdma_free(thief.rdma);
	free(thief.buffer);
	return failures ? 1 : 0;
}
