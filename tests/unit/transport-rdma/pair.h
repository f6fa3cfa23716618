/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pair.h - both sides of a connection on the fake of fake_verbs.h, with recording engines.
 *
 * Purpose: what the tests of transport-rdma share. The engines are those of the tests of transport-tcp.
 * Ownership: the caller owns every struct; pair_end() releases what it holds and asserts that nothing of
 * verbs is left. Threads: the test's. Units: bytes. Errors: helpers fail the running test.
 */
#ifndef HF_TESTS_UNIT_TRANSPORT_RDMA_PAIR_H
#define HF_TESTS_UNIT_TRANSPORT_RDMA_PAIR_H

#include "tests/unit/transport-rdma/fake_verbs.h"
#include "tests/unit/transport-tcp/rig.h"
#include "transport-rdma/rdma.h"

struct linked {
	struct hf_rdma_listener *listener;
	struct hf_rdma *source, *destination;
	struct engine *source_engine, *destination_engine;
	struct hf_transport to_source, to_destination; /* the ports of the other side */
	uint8_t *landings;			       /* as long as the source's memory */
	struct hf_lent_range memory[ENGINE_BLOCKS];
};

struct meeting {
	pthread_t thread;
	struct hf_rdma_listener *listener;
	struct hf_rdma *rdma;
	struct hf_err err;
	int result;
};

struct hf_rdma_options linking_options(uint32_t urgent, uint32_t background);
/* Runs hf_rdma_accept() in a thread. */
void meeting_start(struct meeting *meeting, struct hf_rdma_listener *listener);
int meeting_join(struct meeting *meeting);

/* Opens and starts, lends the source's memory. */
void linked_begin(struct linked *linked, uint32_t urgent, uint32_t background);
/* The destination lends its landings and hears the keys. */
void linked_lend(struct linked *linked);
void linked_end(struct linked *linked);
/* A fetch into its own place in the landings. */
struct hf_fetch linked_fetch(const struct linked *linked, uint64_t id, uint32_t block, uint64_t offset_bytes,
			     uint32_t length_bytes, enum hf_fetch_class class);
void assert_landed(const struct linked *linked, const struct hf_fetch *fetch);
void linked_post(const struct linked *linked, const struct hf_fetch *fetch);

#endif
