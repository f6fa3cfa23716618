/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_verbs.h - librdmacm and libibverbs without hardware, linked in their place.
 *
 * Purpose: one device whose queue pairs are connected within the process. It does what an adapter does with
 * READ, SEND and RECV, with keys and rights and errors, and asserts what must never happen: a SEND without a
 * receive, a full queue, an object that is freed while another one uses it.
 * Ownership: everything is the fake's; fake_end() fails the test if anything is left.
 * Threads: any.
 * Units: bytes.
 * Errors: those of the real libraries.
 */
#ifndef HF_TESTS_UNIT_TRANSPORT_RDMA_FAKE_VERBS_H
#define HF_TESTS_UNIT_TRANSPORT_RDMA_FAKE_VERBS_H

#include <infiniband/verbs.h>
#include <stdbool.h>
#include <stdint.h>

/* As after power-on: one device, reads of up to 1 MiB at once, nothing goes wrong. */
void fake_begin(void);
/* Asserts that nothing is left of verbs. */
void fake_end(void);

void fake_set_devices(int count);
void fake_set_read_depth(int out, int in);
/* What a queue pair takes with a SEND at most; refused: one that asks for any is not made. */
void fake_set_inline(uint32_t bytes, bool refused);
uint32_t fake_inline_sends(void);
/* 2048 bytes and RoCE after power-on. */
void fake_set_port(enum ibv_mtu active_mtu, uint8_t link_layer);
void fake_set_transport(enum ibv_transport_type type);
/* Queue pairs have what they would without being asked for more. */
void fake_be_stubborn(void);
/* The number of READs that are posted, of all queue pairs; and that have been done. */
uint32_t fake_reads_waiting(void);
/* READs wait until they are let through. */
void fake_hold_reads(bool hold);
/* Does that many of those that wait, the oldest first; the last of them ends with status. */
void fake_let_reads(uint32_t count, enum ibv_wc_status last);
/* The next registrations fail with this errno; 0: none does. */
void fake_fail_registrations(int error_number);
/* The most bytes registered for reading from afar at any time since, and now. */
uint64_t fake_readable_bytes(void);
/* Every queue pair's peer falls silent: what is posted from now on is never done until it is flushed. */
void fake_fall_silent(bool silent);
/* Reads as an adapter of a hostile peer would, with any key. */
enum ibv_wc_status fake_read_with(uint32_t rkey, uint64_t address, uint32_t length_bytes);
/* The key of the newest registration for reading from afar. */
uint32_t fake_last_rkey(uint64_t *address);

#endif
