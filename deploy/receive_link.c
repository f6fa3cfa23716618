/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The links of `receive`. Theory of operation: the destination listens, always. The listener is closed while
 * a link is there. When the link is lost the same address is opened again, for the one session that goes on;
 * who else comes is refused and told why. A program started again waits like that from the beginning.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/monotonic.h"
#include "deploy/program.h"
#include "deploy/receive_internal.h"
#include "hugemem/memory_lock.h"

/* With every page here nobody waits long for a source that only wants to hear so. */
#define FAREWELL_LIMIT_S 30u

int hf_receive_listen(struct receive *receive, struct hf_err *err)
{
	struct hf_link_options options = {.channels = receive->options.channels};
	int result = receive->scheme->listen(&receive->listener, receive->uri, &options, err);
	if (result)
		return result;
	if (receive->engine || receive->restarted)
		receive->scheme->expect(receive->listener, receive->session, receive->epoch);
	return 0;
}

int hf_receive_take_uri(struct receive *receive, const char *uri, struct hf_err *err)
{
	char *copy = strdup(uri);
	if (!copy)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	free(receive->uri_owned);
	receive->uri = receive->uri_owned = copy;
	return 0;
}

void hf_receive_close_listener(struct receive *receive)
{
	if (receive->scheme)
		receive->scheme->listener_close(receive->listener);
	receive->listener = NULL;
}

int hf_receive_lend(struct receive *receive, bool wait, struct hf_err *err)
{
	if (!receive->scheme->lend)
		return 0;
	struct hf_lent_range *ranges = calloc(HF_RAMBLOCKS_MAX, sizeof(*ranges));
	if (!ranges)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	uint32_t count = hf_incoming_memory_landings(receive->memory, ranges);
	int result = receive->scheme->lend(receive->link, ranges, count, wait, err);
	if (!result)
		receive->registration_time_ns = receive->scheme->lent_ns(receive->link);
	free(ranges);
	return result;
}

/* A link that is not the first; or the first of a program started again, whose memory may come later. */
static void lend_to_later_link(struct receive *receive)
{
	struct hf_err err = HF_ERR_INIT;
	if (!receive->link || receive->link_lent || !receive->landings_ready)
		return;
	receive->link_lent = true;
	if (hf_receive_lend(receive, false, &err) == 0)
		return;
	if (err.class != HF_ERR_LINK) /* that one is told by the engine */
		hf_complain(COMMAND, "%s", err.text);
	hf_receive_close_link(receive);
}

int hf_receive_start_link(struct receive *receive, struct hf_err *err)
{
	hf_destination_snapshot(receive->engine, &receive->snapshot);
	receive->links_before = receive->snapshot.links_used;
	receive->epoch = receive->scheme->info(receive->link)->epoch;
	receive->link_lent = !receive->restarted && receive->links_before == 0; /* memory_ready() does that */
	hf_link_relay_put(&receive->relay, receive->scheme->transport(receive->link));
	return receive->scheme->start(receive->link, &hf_destination_events, receive->engine, err);
}

bool hf_receive_link_comes_up(const struct receive *receive)
{
	return receive->link && receive->snapshot.links_used == receive->links_before;
}

void hf_receive_close_link(struct receive *receive)
{
	hf_link_relay_take(&receive->relay);
	if (receive->link)
		receive->scheme->close(receive->link);
	receive->link = NULL;
}

bool hf_receive_wants_link(const struct receive *receive)
{
	return receive->options.recover_timeout_s && !receive->stopped && !receive->poison &&
	       receive->snapshot.recoverable && !receive->snapshot.takeover_failed &&
	       receive->snapshot.handover != HF_DESTINATION_LOST &&
	       hf_status_is_paused(receive->snapshot.status);
}

static void tell_pause(struct receive *receive)
{
	if (receive->pause_told)
		return;
	receive->pause_told = true;
	if (receive->snapshot.pages_complete)
		return;
	hf_progress_end(&receive->progress);
	hf_complain(COMMAND, "the link was lost (%s); waiting at %s for the source to come again, up to %u s",
		    receive->snapshot.err.text, receive->scheme->listener_uri(receive->listener),
		    receive->options.recover_timeout_s);
}

static void listen_again(struct receive *receive, uint64_t now_ns)
{
	struct hf_err err = HF_ERR_INIT;
	if (receive->listener || !hf_reconnect_due(&receive->reconnect, now_ns))
		return;
	if (hf_receive_listen(receive, &err) == 0) {
		tell_pause(receive);
		return;
	}
	hf_reconnect_failed(&receive->reconnect, now_ns);
	if (!receive->pause_told)
		hf_complain(COMMAND, "%s; trying again", err.text);
	receive->pause_told = true;
}

void hf_receive_tend_link(struct receive *receive)
{
	uint64_t now_ns = hf_monotonic_ns(NULL);
	if (receive->snapshot.status == HF_STATUS_POSTCOPY_ACTIVE) {
		if (receive->pause_told) {
			hf_progress_end(&receive->progress);
			hf_complain(COMMAND, "the migration goes on");
		}
		receive->pause_told = false;
		hf_reconnect_end(&receive->reconnect);
	}
	bool agreeing = receive->snapshot.status == HF_STATUS_POSTCOPY_RECOVER;
	if (hf_reconnect_silent(&receive->reconnect, agreeing, now_ns))
		hf_receive_close_link(receive);
	lend_to_later_link(receive);
	if (!hf_receive_wants_link(receive))
		return;
	if (hf_receive_link_comes_up(receive))
		return;
	if (receive->link)
		hf_receive_close_link(receive);
	uint32_t limit_s = receive->options.recover_timeout_s;
	if (receive->snapshot.pages_complete && limit_s > FAREWELL_LIMIT_S)
		limit_s = FAREWELL_LIMIT_S;
	hf_reconnect_begin(&receive->reconnect, now_ns, limit_s);
	listen_again(receive, now_ns);
}

/* The new link's fetches have tables of their own. */
static int lock_tables(struct receive *receive, struct hf_err *err)
{
	struct hf_tables tables;
	hf_destination_tables(receive->engine, &tables);
	return hf_memory_lock(&tables, err);
}

void hf_receive_take_link(struct receive *receive)
{
	struct hf_err err = HF_ERR_INIT;
	if (receive->scheme->accept(receive->listener, &receive->link, &err)) {
		hf_complain(COMMAND, "a peer was refused: %s", err.text);
		return;
	}
	hf_receive_close_listener(receive);
	int result = hf_receive_start_link(receive, &err);
	if (result == 0)
		result = lock_tables(receive, &err);
	if (result == 0)
		return;
	hf_complain(COMMAND, "%s", err.text);
	hf_receive_close_link(receive);
}
