/* SPDX-License-Identifier: Apache-2.0 */
/* What fake_verbs.c and fake_cm.c share. */
#ifndef HF_TESTS_UNIT_TRANSPORT_RDMA_FAKE_INTERNAL_H
#define HF_TESTS_UNIT_TRANSPORT_RDMA_FAKE_INTERNAL_H

#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "tests/unit/transport-rdma/fake_verbs.h"

#define READ_MAX_BYTES (1u << 20)
#define CQ_MAX	       256
#define SENDS_MAX      128
#define RECEIVES_MAX   128
#define CHANNELS_MAX   64

struct fake_cq {
	struct ibv_cq cq;
	struct ibv_wc entries[CQ_MAX];
	uint32_t head, count, users;
	bool armed;
};

struct fake_send {
	uint64_t wr_id, local, remote;
	uint32_t bytes, lkey, rkey;
	bool is_read;
};

struct fake_receive {
	uint64_t wr_id, address;
	uint32_t bytes;
};

struct fake_qp {
	struct ibv_qp qp;
	struct fake_qp *peer; /* NULL: not connected, or the peer's is gone */
	struct ibv_ah_attr way;
	enum ibv_mtu mtu;
	uint32_t inline_bytes;
	bool broken;
	struct fake_send sends[SENDS_MAX];
	uint32_t send_head, send_count, sends_max;
	struct fake_receive receives[RECEIVES_MAX];
	uint32_t receive_head, receive_count, receives_max;
};

struct fake_mr {
	struct ibv_mr mr;
	int access;
	struct fake_mr *next;
};

struct fake {
	pthread_mutex_t lock;
	uint32_t inline_bytes, inline_sends;
	bool refuses_inline;
	int devices, depth_out, depth_in, registration_error, objects;
	bool hold_reads, silent, stubborn;
	enum ibv_mtu active_mtu;
	uint8_t link_layer;
	uint32_t last_key;
	struct fake_mr *mrs;
	struct fake_cq *cqs[CHANNELS_MAX];
	struct fake_qp *qps[CHANNELS_MAX];
	struct fake_id *listeners[CHANNELS_MAX];
	uint16_t last_port;
};

extern struct fake fake;
extern struct ibv_context fake_context;

void fake_raise(int fd);
/* Of the one that has this address; -1: none has. */
int fake_gid_index(const union ibv_gid *gid);
/* Locked. Into the error state. */
void fake_break(struct fake_qp *qp);

#endif
