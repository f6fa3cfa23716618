/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 *     source                     destination
 *       CHECK  --------------->
 *              <~~~~~~~~~~~~~~~  requests for the probe block
 *              <---------------  LINK (or FAIL)
 *       closes
 *
 * That a session is a check is known from its features, before the first message (HF_WIRE_FEATURE_CHECK), so
 * a destination never starts a migration's engine for one. Each half ends once: with its answer, with a
 * failure, or with the link.
 */
#include "core/link_check.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/lock.h"
#include "core/ports_internal.h"
#include "core/wire.h"

#define FEATURES_NEEDED (HF_WIRE_FEATURE_LINK | HF_WIRE_FEATURE_CHECK)

struct hf_link_check {
	/* Set at creation. */
	char name[256];
	struct hf_clock clock;
	struct hf_transport transport;
	uint32_t chunk_bytes;
	uint64_t max_page_stall_ns;
	void (*notify)(void *opaque);
	void *opaque;
	uint8_t *probe_block; /* source */

	struct hf_lock lock;
	/* Under the lock. */
	struct hf_link_info link;
	struct hf_link_probe *probe; /* destination: made at CHECK, stays until destruction */
	struct hf_link_check_snapshot snapshot;
};

/* ---- ending ------------------------------------------------------------------------------------ */

/* False if it has ended already. */
static bool end_check(struct hf_link_check *check, const struct hf_err *why)
{
	hf_lock(&check->lock);
	bool first = !check->snapshot.ended;
	if (first && why) {
		check->snapshot.err = *why;
		hf_err_prefix(&check->snapshot.err, "%s", check->name);
	}
	check->snapshot.ended = true;
	hf_unlock(&check->lock);
	return first;
}

static void tell(struct hf_link_check *check)
{
	hf_call_notify(check->notify, check->opaque);
}

static void send_message(struct hf_link_check *check, uint32_t type, const void *payload, size_t bytes)
{
	hf_lock(&check->lock);
	uint64_t epoch = check->link.epoch;
	hf_unlock(&check->lock);
	/* A failure to send means that the link goes down, which is told as link_down. */
	if (epoch != 0)
		hf_transport_send(&check->transport, epoch, type, payload, bytes);
}

/* The peer must hear why. */
static void fail_and_tell_peer(struct hf_link_check *check, const struct hf_err *why)
{
	uint8_t buffer[HF_ERR_TEXT_BYTES + 64];
	if (!end_check(check, why))
		return;
	ssize_t bytes = hf_wire_encode_fail(why, buffer, sizeof(buffer));
	if (bytes > 0)
		send_message(check, HF_WIRE_FAIL, buffer, (size_t)bytes);
	tell(check);
}

static void unexpected(struct hf_link_check *check, uint32_t type)
{
	struct hf_err err;
	hf_err_set(&err, HF_ERR_PEER, EPROTO,
		   "the peer sent %s, which is not expected in a check of the link", hf_wire_type_name(type));
	fail_and_tell_peer(check, &err);
}

static void on_fail(struct hf_link_check *check, const void *payload, size_t bytes)
{
	struct hf_err why, err = HF_ERR_INIT;
	if (hf_wire_decode_fail(payload, bytes, &why, &err) < 0)
		why = err;
	else
		hf_err_prefix(&why, "the peer says");
	if (end_check(check, &why))
		tell(check);
}

static void event_link_down(void *engine, uint64_t epoch, const struct hf_err *why)
{
	hf_lock_assert_entry(__func__);
	struct hf_link_check *check = engine;
	struct hf_err err = why ? *why : HF_ERR_INIT;
	if (err.class == HF_ERR_NONE)
		hf_err_set(&err, HF_ERR_LINK, ECONNRESET, "the peer closed the link");
	hf_lock(&check->lock);
	bool mine = epoch == check->link.epoch;
	if (mine)
		check->link.epoch = 0;
	hf_unlock(&check->lock);
	if (mine && end_check(check, &err))
		tell(check);
}

/* ---- source ------------------------------------------------------------------------------------ */

static void source_link_up(void *engine, const struct hf_link_info *info)
{
	hf_lock_assert_entry(__func__);
	struct hf_link_check *check = engine;
	hf_lock(&check->lock);
	check->link = *info;
	hf_unlock(&check->lock);
	if ((info->features & FEATURES_NEEDED) == FEATURES_NEEDED) {
		send_message(check, HF_WIRE_CHECK, NULL, 0);
		return;
	}
	struct hf_err err;
	hf_err_set(&err, HF_ERR_PEER, EOPNOTSUPP,
		   "the destination's release cannot measure a link; install the same release on both hosts");
	fail_and_tell_peer(check, &err);
}

static void source_message(void *engine, uint64_t epoch, uint32_t type, const void *payload, size_t bytes)
{
	hf_lock_assert_entry(__func__);
	struct hf_link_check *check = engine;
	struct hf_wire_link link;
	struct hf_err err = HF_ERR_INIT;
	(void)epoch; /* a check has one connection */
	if (type == HF_WIRE_FAIL) {
		on_fail(check, payload, bytes);
		return;
	}
	if (type != HF_WIRE_LINK) {
		unexpected(check, type);
		return;
	}
	if (hf_wire_decode_link(payload, bytes, &link, &err) < 0) {
		fail_and_tell_peer(check, &err);
		return;
	}
	hf_lock(&check->lock);
	if (!check->snapshot.ended) {
		check->snapshot.figures = (struct hf_link_figures){link.round_trip_ns, link.rate_bytes_per_s};
		check->snapshot.max_page_stall_ns = link.max_page_stall_ns;
	}
	hf_unlock(&check->lock);
	if (end_check(check, NULL))
		tell(check);
}

static int source_serve(void *engine, const struct hf_serve_request *request, struct hf_serve_reply *reply,
			struct hf_err *err)
{
	hf_lock_assert_entry(__func__);
	struct hf_link_check *check = engine;
	if (request->block != HF_WIRE_PROBE_BLOCK)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "%s: the destination asked for a page in a check of the link", check->name);
	return hf_link_probe_serve(check->probe_block, request, reply, err);
}

const struct hf_transport_events hf_link_check_source_events = {
    .link_up = source_link_up,
    .link_down = event_link_down,
    .message = source_message,
    .serve = source_serve,
};

/* ---- destination ------------------------------------------------------------------------------- */

static void destination_link_up(void *engine, const struct hf_link_info *info)
{
	hf_lock_assert_entry(__func__);
	struct hf_link_check *check = engine;
	hf_lock(&check->lock);
	check->link = *info;
	hf_unlock(&check->lock);
}

static void measured(struct hf_link_check *check, struct hf_link_probe *probe)
{
	uint8_t buffer[64];
	struct hf_link_figures figures = hf_link_probe_figures(probe);
	struct hf_wire_link link = {
	    .round_trip_ns = figures.round_trip_ns,
	    .rate_bytes_per_s = figures.rate_bytes_per_s,
	    .max_page_stall_ns = check->max_page_stall_ns,
	};
	ssize_t bytes = hf_wire_encode_link(&link, buffer, sizeof(buffer));
	if (bytes > 0)
		send_message(check, HF_WIRE_LINK, buffer, (size_t)bytes);
	hf_lock(&check->lock);
	if (!check->snapshot.ended)
		check->snapshot.figures = figures;
	hf_unlock(&check->lock);
	if (end_check(check, NULL))
		tell(check);
}

static void probe_ended(struct hf_link_check *check, struct hf_link_probe *probe, enum hf_link_probe_end end,
			const struct hf_err *err)
{
	if (end == HF_LINK_PROBE_FINISHED)
		measured(check, probe);
	else if (end == HF_LINK_PROBE_FAILED)
		fail_and_tell_peer(check, err);
}

static void on_check(struct hf_link_check *check)
{
	struct hf_err err = HF_ERR_INIT;
	struct hf_link_probe *probe = NULL;

	hf_lock(&check->lock);
	bool expected = check->link.epoch != 0 && !check->probe && !check->snapshot.ended;
	int result = expected ? hf_link_probe_create(&probe, &check->clock, &check->transport, &check->link,
						     check->chunk_bytes)
			      : 0;
	check->probe = probe ? probe : check->probe;
	hf_unlock(&check->lock);
	if (!expected) {
		unexpected(check, HF_WIRE_CHECK);
	} else if (result < 0) {
		hf_err_set(&err, HF_ERR_LOCAL, ENOMEM, "no memory to measure the link");
		fail_and_tell_peer(check, &err);
	} else {
		enum hf_link_probe_end end = hf_link_probe_start(probe, &err);
		probe_ended(check, probe, end, &err);
	}
}

static void destination_message(void *engine, uint64_t epoch, uint32_t type, const void *payload,
				size_t bytes)
{
	hf_lock_assert_entry(__func__);
	struct hf_link_check *check = engine;
	(void)epoch;
	if (type == HF_WIRE_CHECK)
		on_check(check);
	else if (type == HF_WIRE_FAIL)
		on_fail(check, payload, bytes);
	else
		unexpected(check, type);
}

static void destination_fetch_done(void *engine, const struct hf_fetch_done *done)
{
	hf_lock_assert_entry(__func__);
	struct hf_link_check *check = engine;
	struct hf_err err = HF_ERR_INIT;
	hf_lock(&check->lock);
	struct hf_link_probe *probe = check->probe;
	hf_unlock(&check->lock);
	if (!probe)
		return;
	enum hf_link_probe_end end = hf_link_probe_done(probe, done, &err);
	probe_ended(check, probe, end, &err);
}

const struct hf_transport_events hf_link_check_destination_events = {
    .link_up = destination_link_up,
    .link_down = event_link_down,
    .message = destination_message,
    .fetch_done = destination_fetch_done,
};

/* ---- creation ---------------------------------------------------------------------------------- */

void hf_link_check_snapshot(struct hf_link_check *check, struct hf_link_check_snapshot *out)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&check->lock);
	*out = check->snapshot;
	hf_unlock(&check->lock);
}

int hf_link_check_create(struct hf_link_check **out, const struct hf_link_check_config *config,
			 struct hf_err *err)
{
	struct hf_link_check *check = calloc(1, sizeof(*check));
	uint8_t *probe_block = hf_link_probe_block_create();
	if (!check || !probe_block) {
		free(check);
		free(probe_block);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory to check the link");
	}
	snprintf(check->name, sizeof(check->name), "%s", config->name);
	check->clock = config->clock;
	check->transport = config->transport;
	check->chunk_bytes = config->chunk_bytes ? config->chunk_bytes : HF_CHUNK_DEFAULT_BYTES;
	check->max_page_stall_ns = config->max_page_stall_ns;
	check->notify = config->notify;
	check->opaque = config->opaque;
	check->probe_block = probe_block;
	hf_lock_init(&check->lock, "hf_link_check.lock", HF_RANK_ENGINE);
	*out = check;
	return 0;
}

void hf_link_check_destroy(struct hf_link_check *check)
{
	hf_lock_assert_may_stop(__func__);
	if (!check)
		return;
	hf_link_probe_destroy(check->probe);
	free(check->probe_block);
	hf_lock_destroy(&check->lock);
	free(check);
}
