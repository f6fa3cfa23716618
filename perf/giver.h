/* SPDX-License-Identifier: Apache-2.0 */
/*
 * giver.h - the side whose memory is read: a source without VM and engine.
 *
 * Purpose: connects to a taker over any transport, and to its bare loop, and serves a window of memory until
 * the taker closes. Ownership: hf_giver_run() returns with everything given back; a started one belongs to
 * its hf_child. Threads: one. Units: in the names. Errors: 0 or -errno with a line.
 */
#ifndef HF_PERF_GIVER_H
#define HF_PERF_GIVER_H

#include <stdint.h>

#include "core/err.h"
#include "deploy/children.h"

struct hf_giver_config {
	const char *uri;
	const char *bare_uri; /* NULL: no bare loop */
	uint32_t channels;    /* of each class; the smaller number of both sides is taken */
};

int hf_giver_run(const struct hf_giver_config *config, struct hf_err *err);

/* This program again, as a process of its own: `PROGRAM client URI [--bare URI] -q CHANNELS`. */
int hf_giver_start(struct hf_child *child, const struct hf_giver_config *config, struct hf_err *err);
/* Is this program that process? Its whole life then. */
int hf_giver_main(int argc, char **argv);

#endif
