/* SPDX-License-Identifier: Apache-2.0 */
/*
 * iperf3.h - what iperf3 carries over this host's loopback: a raw limit that is nobody's of this project.
 *
 * Purpose: runs /usr/bin/iperf3 twice, the giver on one half of the CPUs and the taker on the other, as
 * local.h has them. Ownership: none; both processes have ended when a call returns. Threads: the main thread.
 * Units: MiB are 2^20 bytes. Errors: 0 or -errno with a line, in which iperf3 has its say.
 */
#ifndef HF_PERF_IPERF3_H
#define HF_PERF_IPERF3_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"

struct hf_iperf3 {
	double mib_per_s, cpu_s_per_gib; /* of both sides, as it says itself */
};

bool hf_iperf3_is_there(void);
int hf_iperf3_measure(uint32_t streams, const cpu_set_t *cpus, struct hf_iperf3 *measured,
		      struct hf_err *err);

#endif
