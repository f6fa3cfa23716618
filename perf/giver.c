/* SPDX-License-Identifier: Apache-2.0 */
#include "perf/giver.h"

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/zero.h"
#include "deploy/options.h"
#include "deploy/program.h"
#include "deploy/transports.h"
#include "perf/bare_loop.h"
#include "perf/idle_ports.h"
#include "perf/window.h"

#define CHANNELS_MAX 64u

struct giver {
	uint8_t *window;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool down; /* under the lock */
};

/* ---- the source's half of the port ------------------------------------------------------------- */

static void link_up(void *engine, const struct hf_link_info *info)
{
	(void)engine;
	(void)info;
}

static void link_down(void *engine, uint64_t epoch, const struct hf_err *why)
{
	struct giver *giver = engine;
	(void)epoch;
	(void)why; /* the taker closes when it has what it wants */
	pthread_mutex_lock(&giver->lock);
	giver->down = true;
	pthread_cond_signal(&giver->changed);
	pthread_mutex_unlock(&giver->lock);
}

/* As memory does it in a migration: what is all zeros is told, not sent. */
static int serve(void *engine, const struct hf_serve_request *request, struct hf_serve_reply *reply,
		 struct hf_err *err)
{
	const struct giver *giver = engine;
	if (request->block != 0 || request->offset_bytes >= HF_WINDOW_BYTES ||
	    request->length_bytes > HF_WINDOW_BYTES - request->offset_bytes)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "the other side asked for what is not in the window");
	const uint8_t *bytes = giver->window + request->offset_bytes;
	reply->zero = hf_is_zero(bytes, request->length_bytes);
	reply->bytes = reply->zero ? NULL : bytes;
	return 0;
}

static const struct hf_transport_events events = {
    .link_up = link_up,
    .link_down = link_down,
    .message = port_no_message,
    .serve = serve,
};

/* ---- a giver's life ---------------------------------------------------------------------------- */

static void wait_down(struct giver *giver)
{
	pthread_mutex_lock(&giver->lock);
	while (!giver->down)
		pthread_cond_wait(&giver->changed, &giver->lock);
	pthread_mutex_unlock(&giver->lock);
}

static int give(struct giver *giver, const struct hf_scheme *scheme, void *link, const char *bare_uri,
		struct hf_err *err)
{
	struct hf_bare *bare = NULL;
	struct hf_lent_range range = {giver->window, HF_WINDOW_BYTES};
	uint32_t sockets = scheme->info(link)->channels[HF_FETCH_BACKGROUND];
	int result = scheme->lend ? scheme->lend(link, &range, 1, false, err) : 0;
	if (!result && bare_uri)
		result = hf_bare_connect(&bare, bare_uri, giver->window, sockets, err);
	if (!result)
		result = scheme->start(link, &events, giver, err);
	if (!result)
		wait_down(giver);
	hf_bare_close(bare);
	return result;
}

int hf_giver_run(const struct hf_giver_config *config, struct hf_err *err)
{
	struct giver giver = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
	struct hf_link_options options = {.channels = config->channels};
	const struct hf_scheme *scheme;
	void *link = NULL;
	int result = hf_scheme_of(config->uri, &scheme, err);
	if (!result)
		result = hf_window_map(&giver.window, err);
	if (!result)
		result = scheme->connect(&link, config->uri, &options, err);
	if (!result) {
		result = give(&giver, scheme, link, config->bare_uri, err);
		scheme->close(link);
	}
	hf_window_unmap(giver.window);
	return result;
}

/* ---- as a process ------------------------------------------------------------------------------ */

int hf_giver_start(struct hf_child *child, const struct hf_giver_config *config, struct hf_err *err)
{
	char channels[16];
	snprintf(channels, sizeof(channels), "%u", config->channels);
	const char *argv[] = {"/proc/self/exe", "client", config->uri, "-q", channels, NULL, NULL, NULL};
	if (config->bare_uri) {
		argv[5] = "--bare";
		argv[6] = config->bare_uri;
	}
	return hf_child_start(child, "the giver", argv, err);
}

static int parse(int argc, char **argv, struct hf_giver_config *config)
{
	static const struct option options[] = {
	    {"bare", required_argument, NULL, 'b'}, {"qp", required_argument, NULL, 'q'}, {0}};
	uint64_t channels = config->channels;
	int option;
	while ((option = getopt_long(argc, argv, "q:", options, NULL)) != -1) {
		if (option == 'b')
			config->bare_uri = optarg;
		else if (option != 'q' || hf_parse_count(optarg, CHANNELS_MAX, &channels) || !channels)
			return -EINVAL;
	}
	config->channels = (uint32_t)channels;
	if (argc - optind != 1)
		return -EINVAL;
	config->uri = argv[optind];
	return 0;
}

int hf_giver_main(int argc, char **argv)
{
	struct hf_giver_config config = {.channels = CHANNELS_MAX};
	struct hf_err err = HF_ERR_INIT;
	if (parse(argc, argv, &config)) {
		hf_complain("perf client", "usage: client URI [--bare URI] [-q CHANNELS]");
		return 2;
	}
	if (hf_giver_run(&config, &err) < 0) {
		hf_complain("perf client", "%s", err.text);
		return 1;
	}
	return 0;
}
