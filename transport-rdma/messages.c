/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: messages of the control channel and their credits.
 *
 * Each side has posted RDMA_CREDITS receives before the connection is there, and posts one again as soon as
 * it has dealt with what came in it. A credit is one such receive of the peer's: a message costs one, and
 * each message gives back those that its sender owes. The last credit is kept for a message that gives
 * credits back, so two sides that are both out of credits can not wait for each other. Sent buffers are few
 * as well: one is free again when its SEND has completed, which means that it is in the peer's memory.
 */
#include "transport-rdma/internal.h"

#include <errno.h>
#include <string.h>

#define COMPLETIONS_AT_ONCE 16
#define OWED_MAX	    (RDMA_CREDITS / 2)
#define IS_SEND		    (1ull << 32) /* in wr_id; else the number of the buffer received into */

static const char control_name[] = "control channel";

static uint8_t *receive_buffer(const struct hf_rdma *rdma, uint64_t number)
{
	return rdma->control.buffers + number * RDMA_MESSAGE_BYTES;
}

static uint8_t *send_buffer(const struct hf_rdma *rdma)
{
	return rdma->control.buffers + (size_t)(RDMA_CREDITS + rdma->control.next_send) * RDMA_MESSAGE_BYTES;
}

int rdma_violation(struct hf_rdma *rdma, const struct hf_err *why)
{
	struct hf_err err = *why;
	hf_err_prefix(&err, "%s, %s", rdma->name, control_name);
	rdma->control.broken = true;
	rdma_fail(rdma, &err);
	return -1;
}

static int fail_completion(struct hf_rdma *rdma, enum ibv_wc_status status)
{
	struct hf_err why = HF_ERR_INIT;
	rdma_explain_completion(status, rdma->name, control_name, &why);
	rdma_fail(rdma, &why);
	return -1;
}

void rdma_fail_adapter(struct hf_rdma *rdma)
{
	fail_completion(rdma, IBV_WC_FATAL_ERR);
}

/* ---- sending ---------------------------------------------------------------------------------- */

bool rdma_may_send(const struct hf_rdma *rdma)
{
	return rdma->control.credits >= 2 && rdma->control.sends < RDMA_CREDITS;
}

uint8_t *rdma_next_payload(struct hf_rdma *rdma)
{
	return send_buffer(rdma) + RDMA_MESSAGE_HEADER_BYTES;
}

int rdma_send_message(struct hf_rdma *rdma, enum rdma_message_kind kind, size_t length_bytes)
{
	struct rdma_control *control = &rdma->control;
	struct rdma_message_header header = {
	    .kind = kind, .credits = control->owed, .length_bytes = (uint32_t)length_bytes};
	rdma_encode_header(&header, send_buffer(rdma));
	struct ibv_sge sge = {.addr = (uintptr_t)send_buffer(rdma),
			      .length = (uint32_t)(RDMA_MESSAGE_HEADER_BYTES + length_bytes),
			      .lkey = control->mr->lkey};
	struct ibv_send_wr request = {.wr_id = IS_SEND,
				      .sg_list = &sge,
				      .num_sge = 1,
				      .opcode = IBV_WR_SEND,
				      .send_flags = IBV_SEND_SIGNALED};
	if (sge.length <= control->inline_bytes)
		request.send_flags |= IBV_SEND_INLINE;
	struct ibv_send_wr *bad;
	if (ibv_post_send(rdma->control_id->qp, &request, &bad))
		return fail_completion(rdma, IBV_WC_FATAL_ERR);
	control->owed = 0;
	control->credits--;
	control->sends++;
	control->next_send = (control->next_send + 1) % RDMA_CREDITS;
	control->sent_ms = rdma_now_ms();
	return 0;
}

int rdma_tend_credits(struct hf_rdma *rdma)
{
	const struct rdma_control *control = &rdma->control;
	bool free = control->sends < RDMA_CREDITS;
	bool give_back = control->owed >= OWED_MAX && control->credits >= 1;
	bool show_life = rdma_now_ms() - control->sent_ms >= RDMA_SIGN_OF_LIFE_MS && rdma_may_send(rdma);
	return free && (give_back || show_life) ? rdma_send_message(rdma, RDMA_MESSAGE_NOTHING, 0) : 0;
}

/* ---- receiving -------------------------------------------------------------------------------- */

static int post_again(struct hf_rdma *rdma, uint64_t number)
{
	struct ibv_sge sge = {.addr = (uintptr_t)receive_buffer(rdma, number),
			      .length = RDMA_MESSAGE_BYTES,
			      .lkey = rdma->control.mr->lkey};
	struct ibv_recv_wr request = {.wr_id = number, .sg_list = &sge, .num_sge = 1}, *bad;
	if (hf_link_life_is_down(&rdma->life))
		return 0; // nothing comes any more
	if (ibv_post_recv(rdma->control_id->qp, &request, &bad))
		return fail_completion(rdma, IBV_WC_FATAL_ERR);
	rdma->control.owed++;
	return 0;
}

static int take_received(struct hf_rdma *rdma, const struct ibv_wc *completion, bool deaf)
{
	struct hf_err err = HF_ERR_INIT;
	struct rdma_message_header header;
	if (deaf)
		return 0;
	const uint8_t *bytes = receive_buffer(rdma, completion->wr_id);
	if (rdma_decode_header(bytes, completion->byte_len, &header, &err) ||
	    header.credits > RDMA_CREDITS - rdma->control.credits) {
		if (err.class == HF_ERR_NONE)
			hf_err_set(&err, HF_ERR_PEER, EPROTO, "the peer gives back more credits than it had");
		return rdma_violation(rdma, &err);
	}
	rdma->control.credits += header.credits;
	rdma->control.heard_ms = rdma_now_ms();
	if (rdma_hear(rdma, header.kind, bytes + RDMA_MESSAGE_HEADER_BYTES, header.length_bytes))
		return -1;
	return post_again(rdma, completion->wr_id);
}

int rdma_take_messages(struct hf_rdma *rdma, bool deaf)
{
	struct ibv_wc completions[COMPLETIONS_AT_ONCE];
	int count = ibv_poll_cq(rdma->control.completions.cq, COMPLETIONS_AT_ONCE, completions);
	int result = count < 0 ? fail_completion(rdma, IBV_WC_FATAL_ERR) : 0;
	for (int i = 0; i < count; i++) {
		bool is_send = completions[i].wr_id & IS_SEND;
		rdma->control.sends -= is_send;
		if (completions[i].status != IBV_WC_SUCCESS)
			fail_completion(rdma, completions[i].status);
		else if (!is_send && !result)
			result = take_received(rdma, &completions[i], deaf);
	}
	return result ? -1 : count;
}
