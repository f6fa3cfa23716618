/* SPDX-License-Identifier: Apache-2.0 */
/*
 * link_session.h - running one check of a link, and saying what a page costs on it.
 *
 * Purpose: what `check --to` and a `receive` that is asked have in common: an opened link gets the small
 * engine of core/link_check.h, which runs to its end or to the first thing that is more urgent. Ownership:
 * hf_link_session_run() closes the link, in whatever way it ends. Threads: the main thread only. Units: in
 * the names. Errors: 0 or -errno with text.
 */
#ifndef HF_DEPLOY_LINK_SESSION_H
#define HF_DEPLOY_LINK_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "core/link_check.h"
#include "core/ramblock.h"
#include "deploy/transports.h"
#include "deploy/waiter.h"

/* Without a limit of the operator's, a page that takes longer is worth a warning. */
#define HF_PAGE_STALL_WARN_NS 500000000ull

struct hf_link_session {
	const struct hf_scheme *scheme;
	void *link;
	bool is_source;
	const char *name; /* for messages */
	uint32_t chunk_bytes;
	uint64_t max_page_stall_ns;
	struct hf_waiter *waiter;
	struct hf_woken woken; /* out: a signal, or the end of the VMM; it may have cut the check short */
};

int hf_link_session_run(struct hf_link_session *session, struct hf_link_check_snapshot *out,
			struct hf_err *err);

/* One line on stderr if a page of these blocks takes long and no limit was set. Unmeasured links are not. */
void hf_link_warn(const char *command, const struct hf_link_figures *figures,
		  const struct hf_ramblocks *blocks, uint64_t max_page_stall_ns);

#endif
