/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a transport makes of a connection, beside a bare loop over sockets that moves the same bytes in the
 * same run (taker.h). The giver is a process of its own on this host.
 *
 *  - page_fetch/SCHEME/SIZE: one page after the other, urgent: first request to last byte.
 *  - stream/SCHEME/channels:N/depth:D: background chunks, D on their way at once (0: as many as there is room
 * for), beside a bare loop over N sockets.
 *  - stream_by_iperf3/tcp/channels:N: the same, by default depth, beside iperf3 with N streams, where that is
 * installed.
 *
 *   bench-transport [--uri=URI] [--bare=URI] [--small] [--chunk=SIZE] [option of Google Benchmark...]
 *
 * Without --uri both tcp: and unix: are measured. --bare is wanted where the bare loop cannot have an address
 * of its own beside URI: rdma:. --small leaves pages above 2 MiB out.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/wire.h"
#include "deploy/options.h"
#include "deploy/program.h"
#include "perf/benchmark_shim.h"
#include "perf/giver.h"
#include "perf/halves.h"
#include "perf/iperf3.h"
#include "perf/local.h"
#include "perf/pairs.h"

#define MIB	     (1ull << 20)
#define STREAM_BYTES (64 * MIB)
#define WARM_UP	     2
#define IPERF3_BYTES (256 * MIB)
#define CASES_MAX    64u
#define URI_BYTES    128

struct link {
	const char *scheme;
	char uri[URI_BYTES], bare_uri[URI_BYTES];
};

struct transport_case {
	char name[96];
	const struct link *link;
	struct hf_taking taking;
	uint32_t channels;
	bool by_iperf3;
	cpu_set_t cpus; /* that both sides may have */
};

struct suite {
	struct link links[2];
	uint32_t link_count;
	uint64_t chunk_bytes;
	bool small;
	struct transport_case cases[CASES_MAX];
	uint32_t case_count;
};

/* ---- one case ---------------------------------------------------------------------------------- */

struct run {
	struct hf_benchmark *benchmark;
	const struct transport_case *of;
	struct hf_local local;
	struct hf_pairs pairs;
	struct hf_samples iperf3_mib_per_s, iperf3_cpu_s_per_gib;
	struct hf_err err;
};

static int start(struct run *run)
{
	const struct transport_case *of = run->of;
	struct hf_taker_config config = {
	    .uri = of->link->uri, .bare_uri = of->link->bare_uri, .channels = of->channels};
	return hf_local_start(&run->local, &config, &of->cpus, &run->err);
}

static int once(struct run *run, struct hf_pair *pair)
{
	return hf_taker_pair(run->local.taker, &run->of->taking, run->local.giver.pid, pair, &run->err);
}

/* One measurement, beside which iperf3 is what is not the transport's. */
static int once_by_iperf3(struct run *run, struct hf_pair *pair)
{
	struct hf_iperf3 measured;
	int result = once(run, pair);
	if (!result)
		result = hf_iperf3_measure(run->of->channels, &run->of->cpus, &measured, &run->err);
	if (result)
		return result;
	hf_samples_add(&run->iperf3_mib_per_s, measured.mib_per_s);
	hf_samples_add(&run->iperf3_cpu_s_per_gib, measured.cpu_s_per_gib);
	return 0;
}

static void report_pages(struct run *run)
{
	static const struct {
		const char *name, *raw_name;
		unsigned permille;
	} ranks[] = {
	    {"p50_us", "raw_p50_us", 500}, {"p99_us", "raw_p99_us", 990}, {"p999_us", "raw_p999_us", 999}};
	struct hf_benchmark *b = run->benchmark;
	for (size_t i = 0; i < sizeof(ranks) / sizeof(ranks[0]); i++) {
		hf_benchmark_counter(b, ranks[i].name,
				     hf_samples_rank(&run->pairs.fetch_us, ranks[i].permille));
		hf_benchmark_counter(b, ranks[i].raw_name,
				     hf_samples_rank(&run->pairs.raw_us, ranks[i].permille));
	}
}

static void report_stream(struct run *run)
{
	struct hf_benchmark *b = run->benchmark;
	struct hf_pairs *pairs = &run->pairs;
	hf_benchmark_counter(b, "mib_per_s",
			     hf_pairs_mib_per_s(pairs, hf_samples_rank(&pairs->fetch_us, 500)));
	hf_benchmark_counter(b, "cpu_s_per_gib", hf_pairs_cpu_s_per_gib(pairs, pairs->fetch_cpu_s));
	bool by_iperf3 = run->of->by_iperf3;
	hf_benchmark_counter(b, "raw_mib_per_s",
			     by_iperf3 ? hf_samples_rank(&run->iperf3_mib_per_s, 500)
				       : hf_pairs_mib_per_s(pairs, hf_samples_rank(&pairs->raw_us, 500)));
	hf_benchmark_counter(b, "raw_cpu_s_per_gib",
			     by_iperf3 ? hf_samples_rank(&run->iperf3_cpu_s_per_gib, 500)
				       : hf_pairs_cpu_s_per_gib(pairs, pairs->raw_cpu_s));
}

static void report(struct run *run)
{
	struct hf_benchmark *b = run->benchmark;
	if (run->of->taking.class == HF_FETCH_URGENT)
		report_pages(run);
	else
		report_stream(run);
	hf_benchmark_counter(b, "page_bytes", (double)run->of->taking.bytes);
	hf_benchmark_counter(b, "channels", hf_taker_info(run->local.taker)->channels[HF_FETCH_BACKGROUND]);
	if (run->of->by_iperf3)
		return;
	hf_benchmark_counter(b, "pairs", (double)run->pairs.ratio.count);
	hf_benchmark_counter(b, "time_ratio_p25", hf_samples_rank(&run->pairs.ratio, 250));
	hf_benchmark_counter(b, "time_ratio_p50", hf_samples_rank(&run->pairs.ratio, 500));
	hf_benchmark_counter(b, "time_ratio_p75", hf_samples_rank(&run->pairs.ratio, 750));
}

static void run_case(struct hf_benchmark *benchmark, const void *argument)
{
	struct run run = {.benchmark = benchmark, .of = argument};
	struct hf_pair pair;
	run.pairs.bytes = run.of->taking.bytes;
	int result = start(&run);
	for (int i = 0; i < WARM_UP && !result; i++)
		result = once(&run, &pair);
	while (!result && hf_benchmark_next(benchmark)) {
		result = run.of->by_iperf3 ? once_by_iperf3(&run, &pair) : once(&run, &pair);
		if (result)
			break;
		hf_pairs_add(&run.pairs, &pair);
		hf_benchmark_took_ns(benchmark, pair.fetch_ns);
	}
	if (result) {
		hf_local_explain(&run.local, &run.err);
		hf_benchmark_fail(benchmark, run.err.text);
	} else {
		report(&run);
	}
	hf_local_stop(&run.local);
	hf_pairs_free(&run.pairs);
	hf_samples_free(&run.iperf3_mib_per_s);
	hf_samples_free(&run.iperf3_cpu_s_per_gib);
}

/* ---- the suite --------------------------------------------------------------------------------- */

static void add(struct suite *suite, const struct transport_case *what)
{
	if (suite->case_count == CASES_MAX)
		abort();
	struct transport_case *added = &suite->cases[suite->case_count++];
	*added = *what;
	added->taking.chunk_bytes = (uint32_t)suite->chunk_bytes;
	added->cpus = hf_cpus();
	hf_benchmark_add(added->name, run_case, added);
}

static void add_pages(struct suite *suite, const struct link *link)
{
	static const struct {
		const char *name;
		uint64_t bytes;
	} pages[] = {{"4K", 4 << 10},	{"64K", 64 << 10}, {"256K", 256 << 10}, {"2M", 2 * MIB},
		     {"16M", 16 * MIB}, {"64M", 64 * MIB}, {"1G", 1024 * MIB}};
	for (size_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++) {
		struct transport_case page = {
		    .link = link, .taking = {HF_FETCH_URGENT, pages[i].bytes}, .channels = 1};
		if (suite->small && pages[i].bytes > 2 * MIB)
			continue;
		snprintf(page.name, sizeof(page.name), "page_fetch/%s/%s", link->scheme, pages[i].name);
		add(suite, &page);
	}
}

static void add_streams(struct suite *suite, const struct link *link)
{
	static const struct {
		uint32_t channels, depth;
	} shapes[] = {{1, 0}, {2, 0}, {4, 0}, {8, 0}, {2, 2}, {2, 4}, {2, 8}, {2, 32}};
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		struct transport_case stream = {
		    .link = link,
		    .taking = {.class = HF_FETCH_BACKGROUND, .bytes = STREAM_BYTES, .depth = shapes[i].depth},
		    .channels = shapes[i].channels};
		snprintf(stream.name, sizeof(stream.name), "stream/%s/channels:%u/depth:%u", link->scheme,
			 shapes[i].channels, shapes[i].depth);
		add(suite, &stream);
	}
}

static void add_iperf3(struct suite *suite, const struct link *link)
{
	if (!hf_iperf3_is_there()) {
		hf_complain("bench-transport",
			    "iperf3 is not installed (Debian: iperf3); nothing is measured "
			    "beside it");
		return;
	}
	for (uint32_t channels = 1; channels <= 2; channels++) {
		struct transport_case stream = {
		    .link = link,
		    .taking = {.class = HF_FETCH_BACKGROUND, .bytes = IPERF3_BYTES, .fetch_only = true},
		    .channels = channels,
		    .by_iperf3 = true};
		snprintf(stream.name, sizeof(stream.name), "stream_by_iperf3/%s/channels:%u", link->scheme,
			 channels);
		add(suite, &stream);
	}
}

static void default_links(struct suite *suite)
{
	suite->links[0] = (struct link){"tcp", "tcp:127.0.0.1:0", "tcp:127.0.0.1:0"};
	suite->links[1] = (struct link){.scheme = "unix"};
	snprintf(suite->links[1].uri, URI_BYTES, "unix:/tmp/hf-bench-%d", (int)getpid());
	snprintf(suite->links[1].bare_uri, URI_BYTES, "unix:/tmp/hf-bench-%d-bare", (int)getpid());
	suite->link_count = 2;
}

/* Takes its own options out of the list. */
static void parse(struct suite *suite, int *argc, char **argv)
{
	char *uri = NULL, *bare = NULL;
	int kept = 1;
	for (int i = 1; i < *argc; i++) {
		if (strncmp(argv[i], "--uri=", 6) == 0)
			uri = argv[i] + 6;
		else if (strncmp(argv[i], "--bare=", 7) == 0)
			bare = argv[i] + 7;
		else if (strcmp(argv[i], "--small") == 0)
			suite->small = true;
		else if (strncmp(argv[i], "--chunk=", 8) == 0 &&
			 hf_parse_size(argv[i] + 8, &suite->chunk_bytes) == 0)
			continue;
		else
			argv[kept++] = argv[i];
	}
	*argc = kept;
	default_links(suite);
	if (!uri)
		return;
	snprintf(suite->links[0].uri, URI_BYTES, "%s", uri);
	snprintf(suite->links[0].bare_uri, URI_BYTES, "%s", bare ? bare : "tcp:127.0.0.1:0");
	suite->links[0].scheme = uri;
	uri[strcspn(uri, ":")] = '\0';
	suite->link_count = 1;
}

int main(int argc, char **argv)
{
	struct suite suite = {.chunk_bytes = HF_CHUNK_DEFAULT_BYTES};
	if (argc > 1 && strcmp(argv[1], "client") == 0)
		return hf_giver_main(argc - 1, argv + 1);
	parse(&suite, &argc, argv);
	for (uint32_t i = 0; i < suite.link_count; i++) {
		add_pages(&suite, &suite.links[i]);
		add_streams(&suite, &suite.links[i]);
	}
	if (suite.link_count > 1) /* of this host's loopback */
		add_iperf3(&suite, &suite.links[0]);
	return hf_benchmark_main(argc, argv);
}
