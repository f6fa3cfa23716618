/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.h - the findings of `hugeferry check`.
 *
 * Purpose: what the files of the subcommand share: adding one finding to what is printed and reported.
 * Ownership: the findings belong to check.c.
 * Threads: one.
 * Units: none.
 * Errors: a finding that is FAIL makes the command fail.
 */
#ifndef HF_DEPLOY_CHECK_H
#define HF_DEPLOY_CHECK_H

#include <jansson.h>
#include <stdbool.h>

#include "deploy/options.h"

enum hf_finding { HF_FINDING_OK = 0, HF_FINDING_WARN, HF_FINDING_FAIL };

struct hf_check {
	json_t *findings;
	bool failed;
};

/* advice (may be NULL) is shown where the finding is not ok. */
void hf_check_found(struct hf_check *check, enum hf_finding finding, const char *name, const char *advice,
		    const char *format, ...) __attribute__((format(printf, 5, 6)));

/* check_link.c: measures the link to options->to and predicts what a page costs on it. */
void hf_check_link(struct hf_check *check, const struct hf_options *options);

#endif
