/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The links of `send`. Theory of operation: the source connects, always. While the engine wants a link and
 * has none, the main thread tries again (reconnect.h); each attempt has a higher epoch, which is on record
 * before it is used, so that a program started again never comes with an epoch the destination has seen. A
 * link that connected and is lost before the two sides agree is one more failed attempt: the deadline runs
 * on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/monotonic.h"
#include "deploy/program.h"
#include "deploy/send_internal.h"

#define AGAIN_TIMEOUT_MS 2000u /* for each step; the operator's signals wait meanwhile */
#define DOUBT_LIMIT_S	 30u   /* for telling a destination that the VM stayed here */
#define ANSWER_NS	 1000000000ull

/* A process before this one has begun to: what is gone must not come back as pages of zeros. */
static bool already_released(const struct send *send)
{
	return send->record && hf_vm_record_state(send->record).released;
}

static int connect_link(struct send *send, const uint8_t *session, uint64_t epoch, struct hf_err *err)
{
	struct hf_link_options options = {.channels = send->options.channels,
					  .precopy = send->options.precopy,
					  .release = send->options.release_ram ||
						     (send->scheme->lend && already_released(send)),
					  .session = session,
					  .epoch = epoch};
	if (session)
		options.timeout_ms = AGAIN_TIMEOUT_MS;
	else if (send->options.timeout_s && send->options.timeout_s < 10)
		options.timeout_ms = send->options.timeout_s * 1000;
	return send->scheme->connect(&send->link, send->uri, &options, err);
}

int hf_send_connect(struct send *send, struct hf_err *err)
{
	int result = connect_link(send, NULL, 0, err);
	if (result)
		return result;
	memcpy(send->session, send->scheme->session(send->link), sizeof(send->session));
	send->epoch = 1;
	return hf_send_check_release(send, err);
}

static int lend_memory(struct send *send, struct hf_err *err)
{
	if (!send->scheme->lend)
		return 0;
	struct hf_lent_range *ranges = calloc(HF_RAMBLOCKS_MAX, sizeof(*ranges));
	if (!ranges)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	int result = hf_outgoing_memory_lend(send->memory, ranges, err);
	if (!result && send->tracked)
		result = hf_precopy_memory_lent(send->tracked, err);
	if (!result)
		result = send->scheme->lend(send->link, ranges, send->blocks.count, false, err);
	free(ranges);
	return result;
}

static void note_lent(struct send *send)
{
	if (send->link && send->scheme->lent_ns && send->scheme->lent_ns(send->link))
		send->registration_time_ns = send->scheme->lent_ns(send->link);
}

int hf_send_start_link(struct send *send, struct hf_err *err)
{
	int result = lend_memory(send, err);
	if (result)
		return result;
	hf_source_snapshot(send->engine, &send->snapshot);
	send->links_before = send->snapshot.links_used;
	hf_link_relay_put(&send->relay, send->scheme->transport(send->link));
	return send->scheme->start(send->link, &hf_source_events, send->engine, err);
}

bool hf_send_link_comes_up(const struct send *send)
{
	return send->link && send->snapshot.links_used == send->links_before;
}

void hf_send_close_link(struct send *send)
{
	hf_link_relay_take(&send->relay);
	note_lent(send);
	if (send->link)
		send->scheme->close(send->link);
	send->link = NULL;
}

bool hf_send_wants_link(const struct send *send)
{
	if (!send->options.recover_timeout_s || send->stopped || !send->snapshot.recoverable)
		return false;
	return hf_status_is_paused(send->snapshot.status) || send->snapshot.destination_in_doubt;
}

/* The epoch is the session's highest from here on, whatever becomes of the attempt. */
static int connect_again(struct send *send, struct hf_err *err)
{
	int result = hf_vm_recorder_write_epoch(send->recorder, send->epoch + 1, err);
	if (result == 0)
		result = connect_link(send, send->session, ++send->epoch, err);
	if (result == 0)
		result = hf_send_start_link(send, err);
	return result;
}

static uint32_t doubt_limit_s(const struct send *send)
{
	uint32_t limit_s = send->options.recover_timeout_s;
	return limit_s > DOUBT_LIMIT_S ? DOUBT_LIMIT_S : limit_s;
}

/* A link on which FAIL is said stays for the answer. */
static void wait_for_answer(struct send *send, uint64_t now_ns)
{
	if (send->reconnect.next_ns < now_ns + ANSWER_NS)
		send->reconnect.next_ns = now_ns + ANSWER_NS;
}

static void try_link(struct send *send)
{
	struct hf_err err = HF_ERR_INIT;
	int result = connect_again(send, &err);
	hf_reconnect_failed(&send->reconnect, hf_monotonic_ns(NULL)); /* until both sides have agreed */
	if (result == 0 && send->snapshot.destination_in_doubt)
		wait_for_answer(send, hf_monotonic_ns(NULL));
	if (result == 0)
		return;
	hf_send_close_link(send);
	if (err.class != HF_ERR_PEER)
		return;
	send->reconnect.held = true;
	hf_complain(COMMAND, "the destination does not take this migration up again: %s", err.text);
}

static void tell_pause(struct send *send)
{
	if (send->pause_told)
		return;
	send->pause_told = true;
	if (send->snapshot.owner == HF_VM_OWNER_DESTINATION)
		hf_complain(COMMAND, "the link was lost (%s); connecting again to %s for up to %u s",
			    send->snapshot.err.text, send->uri, send->options.recover_timeout_s);
}

void hf_send_tend_link(struct send *send)
{
	uint64_t now_ns = hf_monotonic_ns(NULL);
	note_lent(send);
	if (send->snapshot.status == HF_STATUS_POSTCOPY_ACTIVE) {
		if (send->pause_told)
			hf_complain(COMMAND, "the migration goes on");
		send->pause_told = false;
		hf_reconnect_end(&send->reconnect);
	}
	bool agreeing = send->snapshot.status == HF_STATUS_POSTCOPY_RECOVER;
	if (hf_reconnect_silent(&send->reconnect, agreeing, now_ns))
		hf_send_close_link(send);
	if (!hf_send_wants_link(send))
		return;
	if (hf_send_link_comes_up(send))
		return;
	bool doubt = send->snapshot.destination_in_doubt;
	if (doubt && send->link && !send->reconnect.deadline_ns) {
		hf_reconnect_begin(&send->reconnect, now_ns, doubt_limit_s(send));
		wait_for_answer(send, now_ns);
	}
	/* FAIL has been said on it. */
	if (doubt && send->link && now_ns < send->reconnect.next_ns)
		return;
	/* What paused may have a link that is of no use any more. */
	if (send->link)
		hf_send_close_link(send);
	tell_pause(send);
	hf_reconnect_begin(&send->reconnect, now_ns,
			   doubt ? doubt_limit_s(send) : send->options.recover_timeout_s);
	if (hf_reconnect_due(&send->reconnect, now_ns))
		try_link(send);
}

uint64_t hf_send_link_due_ns(const struct send *send)
{
	if (send->snapshot.status == HF_STATUS_POSTCOPY_RECOVER)
		return hf_reconnect_wake_ns(&send->reconnect);
	bool waits = !send->link || send->snapshot.destination_in_doubt;
	return hf_send_wants_link(send) && waits ? hf_reconnect_wake_ns(&send->reconnect) : 0;
}
