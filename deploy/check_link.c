/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `hugeferry check --to URI`. Theory of operation: connects as a source would to a `hugeferry receive` that
 * waits for its VM, asks it to measure the link, and prints how long a thread would wait for one huge page of
 * each size this kernel has. The receiver goes on waiting. Placing a page comes on top of what is predicted.
 */
#include <errno.h>
#include <stdio.h>

#include "core/link_probe.h"
#include "deploy/check.h"
#include "deploy/link_session.h"
#include "deploy/report.h"
#include "hugemem/hugepool.h"

#define PAGE_SIZES_MAX 16

static int measure(const struct hf_options *options, struct hf_link_check_snapshot *measured,
		   struct hf_err *err)
{
	struct hf_waiter waiter;
	struct hf_link_session session = {.is_source = true, .name = options->to, .waiter = &waiter};
	struct hf_link_options link_options = {.channels = options->channels, .check = true};
	int result = hf_scheme_of(options->to, &session.scheme, err);
	if (!result)
		result = hf_waiter_open(&waiter, err);
	if (result)
		return result;
	result = session.scheme->connect(&session.link, options->to, &link_options, err);
	if (!result)
		result = hf_link_session_run(&session, measured, err);
	hf_waiter_close(&waiter);
	return result;
}

/* The strictest of what this operator, the destination's operator and common sense allow. */
static uint64_t limit_ns(const struct hf_options *options, const struct hf_link_check_snapshot *measured)
{
	uint64_t here_ns = (uint64_t)options->max_page_stall_ms * 1000000;
	uint64_t there_ns = measured->max_page_stall_ns;
	if (here_ns && there_ns)
		return here_ns < there_ns ? here_ns : there_ns;
	if (here_ns || there_ns)
		return here_ns ? here_ns : there_ns;
	return HF_PAGE_STALL_WARN_NS;
}

static void predict(struct hf_check *check, uint64_t page_size_bytes, uint64_t most_ns,
		    const struct hf_link_check_snapshot *measured)
{
	char size[HF_SIZE_TEXT_BYTES], stall[HF_TIME_TEXT_BYTES], most[HF_TIME_TEXT_BYTES];
	uint64_t stall_ns = hf_link_page_stall_ns(&measured->figures, page_size_bytes);
	bool fine = stall_ns <= most_ns;
	hf_check_found(check, fine ? HF_FINDING_OK : HF_FINDING_WARN, "page stall",
		       "use a faster link or more channels, smaller pages, or raise --max-page-stall",
		       "a thread that needs a page of %s would wait %s for its bytes%s%s",
		       hf_size_text(page_size_bytes, size), hf_time_text(stall_ns, stall),
		       fine ? "" : ", more than ", fine ? "" : hf_time_text(most_ns, most));
}

void hf_check_link(struct hf_check *check, const struct hf_options *options)
{
	struct hf_link_check_snapshot measured = {0};
	struct hf_err err = HF_ERR_INIT;
	char link[HF_LINK_TEXT_BYTES];
	if (measure(options, &measured, &err)) {
		hf_check_found(check, HF_FINDING_FAIL, "link",
			       "start `hugeferry receive` there first; it may be asked any number of times",
			       "%s", err.text);
		return;
	}
	hf_check_found(check, HF_FINDING_OK, "link", NULL, "to %s: %s", options->to,
		       hf_link_text(&measured.figures, link));
	uint64_t sizes[PAGE_SIZES_MAX];
	int count = hf_hugepage_sizes(sizes, PAGE_SIZES_MAX);
	for (int i = 0; i < count; i++)
		predict(check, sizes[i], limit_ns(options, &measured), &measured);
}
