/* SPDX-License-Identifier: Apache-2.0 */
#include "deploy/link_session.h"

#include <errno.h>
#include <signal.h>

#include "deploy/monotonic.h"
#include "deploy/program.h"

#define SESSION_TIMEOUT_NS 10000000000ull
#define FLUSH_TIMEOUT_MS   2000u

static int start(struct hf_link_session *session, struct hf_link_check **check, struct hf_err *err)
{
	struct hf_link_check_config config = {
	    .name = session->name,
	    .clock = hf_monotonic_clock(),
	    .transport = session->scheme->transport(session->link),
	    .chunk_bytes = session->chunk_bytes,
	    .max_page_stall_ns = session->max_page_stall_ns,
	    .notify = hf_waiter_notify,
	    .opaque = session->waiter,
	};
	int result = hf_link_check_create(check, &config, err);
	if (result)
		return result;
	return session->scheme->start(session->link,
				      session->is_source ? &hf_link_check_source_events
							 : &hf_link_check_destination_events,
				      *check, err);
}

static bool is_more_urgent(const struct hf_woken *woken)
{
	return woken->vmm_ended || woken->signal == SIGINT || woken->signal == SIGTERM;
}

/* Leaves early for a signal or the end of the VMM, which are the caller's to deal with. */
static int wait_for_end(struct hf_link_session *session, struct hf_link_check *check,
			struct hf_link_check_snapshot *out, struct hf_err *err)
{
	uint64_t deadline_ns = hf_monotonic_ns(NULL) + SESSION_TIMEOUT_NS;
	for (;;) {
		hf_link_check_snapshot(check, out);
		if (out->ended)
			break;
		if (is_more_urgent(&session->woken))
			return hf_err_set(err, HF_ERR_CANCELLED, ECANCELED, "%s: the check was cut short",
					  session->name);
		uint64_t now_ns = hf_monotonic_ns(NULL);
		if (now_ns >= deadline_ns)
			return hf_err_set(
			    err, HF_ERR_LINK, ETIMEDOUT,
			    "%s: the link could not be measured within %llu s; look at the peer "
			    "and the network",
			    session->name, SESSION_TIMEOUT_NS / 1000000000ull);
		struct hf_woken woken =
		    hf_waiter_wait(session->waiter, -1, (int)((deadline_ns - now_ns) / 1000000 + 1));
		/* What does not end the check is kept for the caller. */
		if (woken.signal || woken.vmm_ended)
			session->woken = woken;
	}
	if (out->err.class == HF_ERR_NONE)
		return 0;
	*err = out->err;
	return -out->err.errnum;
}

int hf_link_session_run(struct hf_link_session *session, struct hf_link_check_snapshot *out,
			struct hf_err *err)
{
	struct hf_link_check *check = NULL;
	session->woken = (struct hf_woken){0};
	int result = start(session, &check, err);
	if (!result)
		result = wait_for_end(session, check, out, err);
	session->scheme->flush(session->link, FLUSH_TIMEOUT_MS);
	session->scheme->close(session->link);
	hf_link_check_destroy(check);
	return result;
}

void hf_link_warn(const char *command, const struct hf_link_figures *figures,
		  const struct hf_ramblocks *blocks, uint64_t max_page_stall_ns)
{
	uint64_t stall_ns = hf_link_page_stall_ns(figures, blocks->page_size_max_bytes);
	char size[HF_SIZE_TEXT_BYTES], link[HF_LINK_TEXT_BYTES];
	if (max_page_stall_ns || stall_ns <= HF_PAGE_STALL_WARN_NS)
		return;
	hf_complain(command,
		    "warning: a thread that needs a page of %s will wait about %.0f ms over this link (%s); "
		    "--max-page-stall refuses such links",
		    hf_size_text(blocks->page_size_max_bytes, size), (double)stall_ns / 1e6,
		    hf_link_text(figures, link));
}
