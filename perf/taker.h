/* SPDX-License-Identifier: Apache-2.0 */
/*
 * taker.h - the side that fetches: a destination without VM and engine, and a raw limit beside it.
 *
 * Purpose: listens, takes a giver's connection over any transport, and measures it: one page after the other,
 * or as many chunks as go through. Each measurement is made twice, in turns: by the transport, and by a bare
 * loop over sockets (bare_loop.h) for the same bytes.
 *
 * Ownership: hf_taker_listen() / hf_taker_close(). Threads: one; the link has its own. Units: in the names.
 * Errors: 0 or -errno with a line.
 */
#ifndef HF_PERF_TAKER_H
#define HF_PERF_TAKER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"
#include "core/transport.h"

struct hf_taker;

struct hf_taker_config {
	const char *uri;
	const char *bare_uri; /* NULL: no bare loop */
	uint32_t channels;    /* of each class, at most */
};

int hf_taker_listen(struct hf_taker **out, const struct hf_taker_config *config, struct hf_err *err);
const char *hf_taker_uri(const struct hf_taker *taker);
const char *hf_taker_bare_uri(const struct hf_taker *taker); /* NULL: none */
/* Becomes readable when a giver connects. */
int hf_taker_fd(const struct hf_taker *taker);
int hf_taker_accept(struct hf_taker *taker, struct hf_err *err);
/* What lands, lands there. */
const uint8_t *hf_taker_window(const struct hf_taker *taker);
const struct hf_link_info *hf_taker_info(const struct hf_taker *taker);
void hf_taker_close(struct hf_taker *taker);

/* What one measurement took: `fetch` by the transport, `raw` by the bare loop (0: there is none). */
struct hf_pair {
	uint64_t fetch_ns, raw_ns;
	/* CPU of this process, and of the giver's where it is on this host (else 0). */
	uint64_t fetch_cpu_ns[2], raw_cpu_ns[2];
};

/* What is taken, of one class: HF_FETCH_URGENT, whole, over the first socket of the bare loop; or background,
 * and the bare loop streams over as many sockets as there are channels. Each chunk is asked for by itself. */
struct hf_taking {
	enum hf_fetch_class class;
	uint64_t bytes;
	uint32_t chunk_bytes; /* a power of two, at most HF_WINDOW_BYTES */
	uint32_t depth;	      /* chunks on their way at once; 0: as many as the transport holds */
	bool fetch_only, raw_only;
};

/* Each way once, or only one; which goes first changes from call to call. giver: its process, or 0. */
int hf_taker_pair(struct hf_taker *taker, const struct hf_taking *taking, pid_t giver, struct hf_pair *pair,
		  struct hf_err *err);

#endif
