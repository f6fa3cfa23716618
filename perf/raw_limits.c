/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a whole migration is held against, of this moment: its bytes over as many sockets by a bare loop
 * (bare_loop.h), and its huge pages allocated; nothing else. bench_migrate.py runs it before each move.
 *
 *   raw-limits CHANNELS SIZE [PAGE-SIZE]      prints JSON; CPU is that of both sides
 */
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "core/wire.h"
#include "deploy/options.h"
#include "deploy/program.h"
#include "hugemem/hugepool.h"
#include "perf/giver.h"
#include "perf/local.h"
#include "perf/pairs.h"

#define GIB	   (1ull << 30)
#define PAGE_BYTES (2ull << 20)
#define TURN_BYTES (256ull << 20)
#define TURNS	   8u

struct limits {
	double mib_per_s, loop_cpu_s_per_gib, allocation_cpu_s_per_gib;
};

static int measure_loop(struct limits *limits, uint32_t channels, struct hf_err *err)
{
	const struct hf_taker_config config = {
	    .uri = "tcp:127.0.0.1:0", .bare_uri = "tcp:127.0.0.1:0", .channels = channels};
	const struct hf_taking taking = {.class = HF_FETCH_BACKGROUND,
					 .bytes = TURN_BYTES,
					 .chunk_bytes = HF_CHUNK_DEFAULT_BYTES,
					 .raw_only = true};
	struct hf_pairs pairs = {.bytes = TURN_BYTES};
	struct hf_local local;
	struct hf_pair pair;
	int result = hf_local_start(&local, &config, NULL, err);
	if (!result) /* what is not counted: both are warm then */
		result = hf_taker_pair(local.taker, &taking, local.giver.pid, &pair, err);
	for (uint32_t turn = 0; turn < TURNS && !result; turn++) {
		result = hf_taker_pair(local.taker, &taking, local.giver.pid, &pair, err);
		if (!result)
			hf_pairs_add(&pairs, &pair);
	}
	if (result) {
		hf_local_explain(&local, err);
	} else {
		limits->mib_per_s = hf_pairs_mib_per_s(&pairs, hf_samples_rank(&pairs.raw_us, 500));
		limits->loop_cpu_s_per_gib = hf_pairs_cpu_s_per_gib(&pairs, pairs.raw_cpu_s);
	}
	hf_local_stop(&local);
	hf_pairs_free(&pairs);
	return result;
}

static double cpu_s(void)
{
	struct timespec used;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

static int measure_allocation(struct limits *limits, uint64_t bytes, uint64_t page_bytes, struct hf_err *err)
{
	void *memory;
	double before_s = cpu_s();
	int result = hf_hugepages_map(page_bytes, bytes / page_bytes, &memory, err);
	if (result)
		return result;
	limits->allocation_cpu_s_per_gib = (cpu_s() - before_s) * GIB / (double)bytes;
	munmap(memory, bytes);
	return 0;
}

int main(int argc, char **argv)
{
	struct limits limits = {0};
	struct hf_err err = HF_ERR_INIT;
	uint64_t channels = 0, bytes = 0, page_bytes = PAGE_BYTES;
	if (argc > 1 && strcmp(argv[1], "client") == 0)
		return hf_giver_main(argc - 1, argv + 1);
	if (argc < 3 || argc > 4 || hf_parse_count(argv[1], HF_WIRE_CHANNELS_MAX, &channels) || !channels ||
	    hf_parse_size(argv[2], &bytes) || (argc == 4 && hf_parse_size(argv[3], &page_bytes)) ||
	    !page_bytes || bytes < page_bytes) {
		fputs("usage: raw-limits CHANNELS SIZE [PAGE-SIZE]\n", stderr);
		return 2;
	}
	int result = measure_loop(&limits, (uint32_t)channels, &err);
	if (!result)
		result = measure_allocation(&limits, bytes / page_bytes * page_bytes, page_bytes, &err);
	if (result) {
		hf_complain("raw-limits", "%s", err.text);
		return 1;
	}
	printf("{\"mib_per_s\": %.6g, \"loop_cpu_s_per_gib\": %.6g, \"allocation_cpu_s_per_gib\": %.6g}\n",
	       limits.mib_per_s, limits.loop_cpu_s_per_gib, limits.allocation_cpu_s_per_gib);
	return 0;
}
