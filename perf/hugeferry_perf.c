/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hugeferry-perf - what a link between two hosts makes of page fetches, for those who know perftest.
 *
 *   hugeferry-perf server URI [OPTION...]    waits for a client, fetches from it, prints
 *   hugeferry-perf client URI [--bare URI]   its memory is read
 *
 * As in a migration the side that listens is the one that fetches. URI is any that `hugeferry receive
 * --listen` takes. Options, columns, units and the keys of the JSON are perftest's where it has them, so that
 * the table can be laid beside that of ib_read_lat or ib_read_bw for the same device. With --bare on both
 * sides a loop over bare sockets moves the same bytes in turns with the transport, and three columns more
 * show it.
 */
#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/wire.h"
#include "deploy/monotonic.h"
#include "deploy/options.h"
#include "deploy/program.h"
#include "perf/giver.h"
#include "perf/pairs.h"
#include "perf/taker.h"

#define SIZE_MIN_BYTES	  4096ull
#define SIZE_MAX_BYTES	  (1ull << 30)
#define SIZE_BYTES	  (2ull << 20)
#define LATENCY_ITERS	  1000u
#define STREAM_ITERS	  5000u
#define ALL_MOST_BYTES	  (16ull << 30) /* with -a large sizes take fewer iterations */
#define ITERS_MIN	  5u
#define STREAM_TURNS	  20u /* of the transport and the bare loop, in one line */
#define STREAM_TURN_BYTES (16ull << 20)
#define CHANNELS	  2u

struct settings {
	const char *uri, *bare_uri, *json_path;
	bool bandwidth, all, gbits;
	uint64_t size_bytes, iters, duration_s;
	uint64_t channels, depth, chunk_bytes;
};

static const char usage[] =
    "usage: hugeferry-perf server URI [OPTION...]     fetches pages from a client that connects\n"
    "       hugeferry-perf client URI [--bare URI]    gives them\n\n"
    "  -T, --test lat|bw        one page after the other (default), or as many as go through\n"
    "  -s, --size SIZE          of a page, a power of two from 4K to 1G (default 2M)\n"
    "  -a, --all                all sizes from 4K to 1G\n"
    "  -n, --iters N            pages (default: lat 1000, bw 5000; with -a fewer of the large ones)\n"
    "  -D, --duration S         as many pages as go in so many seconds, instead\n"
    "  -q, --qp N               page channels (default: lat 1, bw 2)\n"
    "  -t, --tx-depth N         chunks on their way at once (default: as many as the transport holds)\n"
    "      --chunk SIZE         what is asked for at once (default 256K)\n"
    "      --bare URI           tcp: or unix:, the same on both sides: a bare socket loop beside it\n"
    "      --report_gbits       Gbit/s instead of MiB/s\n"
    "      --out_json           writes the report to perftest_out.json as well\n"
    "      --out_json_file FILE writes it there\n"
    "  -F, -R                   taken and without effect: no CPU governor is looked at, and rdma: is always\n"
    "                           connected by the connection manager\n";

/* ---- options ----------------------------------------------------------------------------------- */

enum { OPTION_CHUNK = 256, OPTION_BARE, OPTION_GBITS, OPTION_JSON, OPTION_JSON_FILE };

static const struct option long_options[] = {
    {"test", required_argument, NULL, 'T'},
    {"size", required_argument, NULL, 's'},
    {"all", no_argument, NULL, 'a'},
    {"iters", required_argument, NULL, 'n'},
    {"duration", required_argument, NULL, 'D'},
    {"qp", required_argument, NULL, 'q'},
    {"tx-depth", required_argument, NULL, 't'},
    {"CPU-freq", no_argument, NULL, 'F'},
    {"rdma_cm", no_argument, NULL, 'R'},
    {"chunk", required_argument, NULL, OPTION_CHUNK},
    {"bare", required_argument, NULL, OPTION_BARE},
    {"report_gbits", no_argument, NULL, OPTION_GBITS},
    {"out_json", no_argument, NULL, OPTION_JSON},
    {"out_json_file", required_argument, NULL, OPTION_JSON_FILE},
    {0},
};

static bool is_power_of_two(uint64_t value)
{
	return value && !(value & (value - 1));
}

static bool set_size(const char *text, uint64_t most_bytes, uint64_t *bytes)
{
	return hf_parse_size(text, bytes) == 0 && is_power_of_two(*bytes) && *bytes >= SIZE_MIN_BYTES &&
	       *bytes <= most_bytes;
}

static bool set_count(const char *text, uint64_t least, uint64_t most, uint64_t *count)
{
	return hf_parse_count(text, most, count) == 0 && *count >= least;
}

static bool set_option(struct settings *settings, int option)
{
	switch (option) {
	case 'T':
		settings->bandwidth = strcmp(optarg, "bw") == 0;
		return settings->bandwidth || strcmp(optarg, "lat") == 0;
	case 's':
		return set_size(optarg, SIZE_MAX_BYTES, &settings->size_bytes);
	case 'a':
		settings->all = true;
		return true;
	case 'n':
		return set_count(optarg, ITERS_MIN, UINT32_MAX, &settings->iters);
	case 'D':
		return set_count(optarg, 1, 86400, &settings->duration_s);
	case 'q':
		return set_count(optarg, 1, HF_WIRE_CHANNELS_MAX, &settings->channels);
	case 't':
		return set_count(optarg, 1, UINT32_MAX, &settings->depth);
	case OPTION_CHUNK:
		return set_size(optarg, HF_WIRE_CHUNK_MAX_BYTES, &settings->chunk_bytes);
	case OPTION_BARE:
		settings->bare_uri = optarg;
		return true;
	case OPTION_GBITS:
		settings->gbits = true;
		return true;
	case OPTION_JSON:
		settings->json_path = "perftest_out.json";
		return true;
	case OPTION_JSON_FILE:
		settings->json_path = optarg;
		return true;
	default:
		return option == 'F' || option == 'R';
	}
}

static bool parse(struct settings *settings, int argc, char **argv)
{
	int option;
	while ((option = getopt_long(argc, argv, "T:s:an:D:q:t:FR", long_options, NULL)) != -1) {
		if (option == '?')
			return false;
		if (!set_option(settings, option)) {
			hf_complain("perf server", "'%s' cannot be; --help says what can", optarg);
			return false;
		}
	}
	if (argc - optind != 1)
		return false;
	settings->uri = argv[optind];
	if (!settings->channels)
		settings->channels = settings->bandwidth ? CHANNELS : 1;
	return true;
}

/* ---- measuring --------------------------------------------------------------------------------- */

struct line {
	uint64_t bytes, iters;
	struct hf_pairs pairs;
};

static uint64_t iters_of(const struct settings *settings, uint64_t bytes)
{
	uint64_t iters = settings->iters;
	if (!iters)
		iters = settings->bandwidth ? STREAM_ITERS : LATENCY_ITERS;
	uint64_t most = ALL_MOST_BYTES / bytes;
	if (settings->iters || iters <= most)
		return iters;
	return most < ITERS_MIN ? ITERS_MIN : most;
}

/* Pages moved in one turn: one, or enough to be a stream. */
static uint64_t pages_a_turn(const struct settings *settings, uint64_t bytes, uint64_t iters)
{
	if (!settings->bandwidth)
		return 1;
	uint64_t pages = settings->duration_s ? 0 : iters / STREAM_TURNS;
	if (pages * bytes < STREAM_TURN_BYTES)
		pages = (STREAM_TURN_BYTES + bytes - 1) / bytes;
	return settings->duration_s || pages <= iters ? pages : iters;
}

static int measure(const struct settings *settings, struct hf_taker *taker, struct line *line,
		   struct hf_err *err)
{
	uint64_t iters = iters_of(settings, line->bytes), pages = pages_a_turn(settings, line->bytes, iters);
	uint64_t chunk = settings->chunk_bytes < line->bytes ? settings->chunk_bytes : line->bytes;
	uint64_t until_ns = hf_monotonic_ns(NULL) + settings->duration_s * 1000000000u;
	struct hf_taking taking = {.class = settings->bandwidth ? HF_FETCH_BACKGROUND : HF_FETCH_URGENT,
				   .bytes = pages * line->bytes,
				   .chunk_bytes = (uint32_t)chunk,
				   .depth = (uint32_t)settings->depth};
	struct hf_pair pair;
	line->pairs.bytes = taking.bytes;
	int result =
	    hf_taker_pair(taker, &taking, 0, &pair, err); /* what is not counted: both are warm then */
	while (!result && (settings->duration_s ? hf_monotonic_ns(NULL) < until_ns : line->iters < iters)) {
		result = hf_taker_pair(taker, &taking, 0, &pair, err);
		if (!result)
			hf_pairs_add(&line->pairs, &pair);
		line->iters += pages;
	}
	return result;
}

/* ---- the report -------------------------------------------------------------------------------- */

static void head(const struct settings *settings)
{
	const char *unit = settings->gbits ? "Gb/sec" : "MB/sec";
	if (settings->bandwidth)
		printf(" #bytes     #iterations    BW peak[%s]    BW average[%s]   MsgRate[Mpps]", unit,
		       unit);
	else
		printf(" #bytes #iterations    t_min[usec]    t_max[usec]  t_typical[usec]    t_avg[usec]    "
		       "t_stdev[usec]   99%% percentile[usec]   99.9%% percentile[usec]");
	if (settings->bare_uri && settings->bandwidth)
		printf("   bare average[%s]   average/bare", unit);
	else if (settings->bare_uri)
		printf("   bare typical[usec]   bare 99%%[usec]   typical/bare");
	printf("\n");
	fflush(stdout);
}

/* Of the whole, in the unit of the table. */
static double rate(const struct settings *settings, const struct line *line, double us)
{
	double mib = hf_pairs_mib_per_s(&line->pairs, us);
	return settings->gbits ? mib * 8 * (1 << 20) / 1e9 : mib;
}

static void put(json_t *into, const char *key, double value)
{
	json_object_set_new(into, key, json_real(value));
}

static void show_bandwidth(const struct settings *settings, struct line *line, json_t *into)
{
	struct hf_pairs *pairs = &line->pairs;
	double average_us = hf_samples_mean(&pairs->fetch_us);
	double peak = rate(settings, line, hf_samples_rank(&pairs->fetch_us, 0));
	double average = rate(settings, line, average_us);
	double messages = (double)pairs->bytes / (double)line->bytes / average_us;
	printf(" %-10llu %-14llu %-18.2f %-19.2f %-13.6f", (unsigned long long)line->bytes,
	       (unsigned long long)line->iters, peak, average, messages);
	put(into, "BW_peak", peak);
	put(into, "BW_average", average);
	put(into, "MsgRate", messages);
	if (settings->bare_uri) {
		double bare = rate(settings, line, hf_samples_mean(&pairs->raw_us));
		printf("   %-22.2f %.3f", bare, average / bare);
		put(into, "bare_BW_average", bare);
	}
}

static void show_latency(const struct settings *settings, struct line *line, json_t *into)
{
	struct hf_pairs *pairs = &line->pairs;
	struct hf_samples *us = &pairs->fetch_us;
	const struct {
		const char *key;
		int width;
		double value;
	} columns[] = {
	    {"t_min", 14, hf_samples_rank(us, 0)},
	    {"t_max", 12, hf_samples_rank(us, 1000)},
	    {"t_typical", 18, hf_samples_rank(us, 500)},
	    {"t_avg", 14, hf_samples_mean(us)},
	    {"t_stdev", 15, hf_samples_deviation(us)},
	    {"percentile_99", 22, hf_samples_rank(us, 990)},
	    {"percentile_99.9", 23, hf_samples_rank(us, 999)},
	};
	printf(" %-6llu %-14llu", (unsigned long long)line->bytes, (unsigned long long)line->iters);
	for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++) {
		printf(" %-*.2f", columns[i].width, columns[i].value);
		put(into, columns[i].key, columns[i].value);
	}
	if (settings->bare_uri) {
		double typical = hf_samples_rank(&pairs->raw_us, 500),
		       p99 = hf_samples_rank(&pairs->raw_us, 990);
		printf("  %-20.2f %-17.2f %.3f", typical, p99, hf_samples_rank(us, 500) / typical);
		put(into, "bare_t_typical", typical);
		put(into, "bare_percentile_99", p99);
	}
}

static void show(const struct settings *settings, struct line *line, json_t *results)
{
	json_t *into = json_object();
	json_object_set_new(into, "MsgSize", json_integer((json_int_t)line->bytes));
	json_object_set_new(into, "n_iterations", json_integer((json_int_t)line->iters));
	if (settings->bandwidth)
		show_bandwidth(settings, line, into);
	else
		show_latency(settings, line, into);
	printf("\n");
	fflush(stdout);
	json_array_append_new(results, into);
}

static int write_json(const struct settings *settings, const struct hf_link_info *info, json_t *results,
		      struct hf_err *err)
{
	json_t *report =
	    json_pack("{s:{s:s, s:s, s:i, s:I, s:I, s:s}, s:O}", "test_info", "test",
		      settings->bandwidth ? "page fetch BW" : "page fetch latency", "transport", info->name,
		      "channels", (int)info->channels[HF_FETCH_BACKGROUND], "tx_depth",
		      (json_int_t)settings->depth, "chunk_bytes", (json_int_t)settings->chunk_bytes,
		      "BW_unit", settings->gbits ? "Gb/sec" : "MB/sec", "results", results);
	int result = report ? json_dump_file(report, settings->json_path, JSON_INDENT(2)) : -1;
	json_decref(report);
	return result ? hf_err_set(err, HF_ERR_LOCAL, EIO, "%s cannot be written", settings->json_path) : 0;
}

/* ---- the server -------------------------------------------------------------------------------- */

static int measure_all(const struct settings *settings, struct hf_taker *taker, json_t *results,
		       struct hf_err *err)
{
	uint64_t bytes = settings->all ? SIZE_MIN_BYTES : settings->size_bytes;
	uint64_t last_bytes = settings->all ? SIZE_MAX_BYTES : bytes;
	int result = 0;
	head(settings);
	for (; bytes <= last_bytes && !result; bytes *= 2) {
		struct line line = {.bytes = bytes};
		result = measure(settings, taker, &line, err);
		if (!result)
			show(settings, &line, results);
		hf_pairs_free(&line.pairs);
	}
	return result;
}

static int serve(const struct settings *settings, struct hf_taker *taker, struct hf_err *err)
{
	struct pollfd entry = {.fd = hf_taker_fd(taker), .events = POLLIN};
	printf("listening on %s\n", hf_taker_uri(taker));
	if (hf_taker_bare_uri(taker))
		printf("bare loop at %s\n", hf_taker_bare_uri(taker));
	fflush(stdout);
	while (poll(&entry, 1, -1) < 0 && errno == EINTR)
		;
	int result = hf_taker_accept(taker, err);
	if (result)
		return result;
	json_t *results = json_array();
	result = measure_all(settings, taker, results, err);
	if (!result && settings->json_path)
		result = write_json(settings, hf_taker_info(taker), results, err);
	json_decref(results);
	return result;
}

static int server(int argc, char **argv)
{
	struct settings settings = {.size_bytes = SIZE_BYTES, .chunk_bytes = HF_CHUNK_DEFAULT_BYTES};
	struct hf_err err = HF_ERR_INIT;
	struct hf_taker *taker = NULL;
	if (!parse(&settings, argc, argv)) {
		fputs(usage, stderr);
		return 2;
	}
	struct hf_taker_config config = {
	    .uri = settings.uri, .bare_uri = settings.bare_uri, .channels = (uint32_t)settings.channels};
	int result = hf_taker_listen(&taker, &config, &err);
	if (!result)
		result = serve(&settings, taker, &err);
	hf_taker_close(taker);
	if (result)
		hf_complain("perf server", "%s", err.text);
	return result ? 1 : 0;
}

int main(int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "server") == 0)
		return server(argc - 1, argv + 1);
	if (argc > 1 && strcmp(argv[1], "client") == 0)
		return hf_giver_main(argc - 1, argv + 1);
	bool asked = argc > 1 && strcmp(argv[1], "--help") == 0;
	fputs(usage, asked ? stdout : stderr);
	return asked ? 0 : 2;
}
