/* SPDX-License-Identifier: Apache-2.0 */
/*
 * local.h - a taker here, and its giver in a process of its own on the other half of this host's CPUs.
 *
 * Purpose: what suites measure links and raw limits with. Ownership: hf_local_start() / hf_local_stop(); a
 * zeroed struct may be stopped. Threads: the main thread; the giver dies with it. Units: none. Errors: 0 or
 * -errno with a line, in which the giver has its say.
 */
#ifndef HF_PERF_LOCAL_H
#define HF_PERF_LOCAL_H

#include <sched.h>

#include "deploy/children.h"
#include "perf/taker.h"

struct hf_local {
	struct hf_taker *taker;
	struct hf_child giver;
};

/* cpus: NULL leaves both sides on whatever they are given. */
int hf_local_start(struct hf_local *local, const struct hf_taker_config *config, const cpu_set_t *cpus,
		   struct hf_err *err);
/* Adds to a failure what the giver has said of it. */
void hf_local_explain(struct hf_local *local, struct hf_err *err);
void hf_local_stop(struct hf_local *local);

#endif
