/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bare_loop.h - the raw limit of a socket: a loop that asks for bytes and takes them, and nothing else.
 *
 * Purpose: what stands beside every figure of the transports, measured in turns with it: the same bytes, out
 * of and into the same memory, over the same number of sockets. A request is 16 bytes, where and how many;
 * the answer is the bytes. No page, no chunk, no class, no check.
 *
 * Ownership: hf_bare_listen() and hf_bare_connect() / hf_bare_close(), which joins the threads of a giver.
 * The window is the caller's. Threads: one. Units: in the names. Errors: 0 or -errno with a line.
 */
#ifndef HF_PERF_BARE_LOOP_H
#define HF_PERF_BARE_LOOP_H

#include <stdint.h>

#include "core/err.h"

struct hf_bare;

/* The taker: `tcp:HOST:PORT` or `unix:PATH`. */
int hf_bare_listen(struct hf_bare **out, const char *uri, struct hf_err *err);
/* Where a giver finds it: with the real port when 0 was asked for. */
const char *hf_bare_uri(const struct hf_bare *bare);
int hf_bare_accept(struct hf_bare *bare, uint32_t sockets, struct hf_err *err);
/* The giver: serves, in a thread for each socket, until the taker closes. */
int hf_bare_connect(struct hf_bare **out, const char *uri, const uint8_t *window, uint32_t sockets,
		    struct hf_err *err);
/* One request over the first socket, into the window from offset on; it goes round at the window's end. */
int hf_bare_fetch(struct hf_bare *bare, uint8_t *window, uint64_t offset_bytes, uint64_t bytes);
/* So many bytes by all sockets at once, each in a thread that takes the next piece when it has one. */
int hf_bare_stream(struct hf_bare *bare, uint8_t *window, uint64_t bytes);
void hf_bare_close(struct hf_bare *bare);

#endif
