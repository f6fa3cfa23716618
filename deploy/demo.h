/* SPDX-License-Identifier: Apache-2.0 */
/*
 * demo.h - inside of `hugeferry demo`: the run (demo.c) and its judgement (demo_verify.c).
 *
 * Purpose: the state both files share.
 * Ownership: demo.c opens and closes everything; demo_verify.c borrows.
 * Threads: the main thread, but for the QMP client's reader.
 * Units: in the names.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_DEPLOY_DEMO_H
#define HF_DEPLOY_DEMO_H

#include <jansson.h>

#include "deploy/children.h"
#include "deploy/options.h"
#include "deploy/workspace.h"
#include "kvm/qmp.h"

enum demo_child { DEMO_SOURCE_VMM = 0, DEMO_DESTINATION_VMM, DEMO_RECEIVE, DEMO_SEND, DEMO_CHILDREN };

/* A RAM file of one of the VMs, seen from outside, read-only. */
struct hf_demo_view {
	const void *memory; /* NULL: not mapped */
	uint64_t bytes;
};

struct hf_demo {
	bool user_mode; /* of the VMs: the host has no /dev/kvm */
	struct hf_options options;
	int signal_fd; /* stored + 1 */
	char self[4096], vmm[4096];
	struct hf_workspace workspace;
	struct hf_child children[DEMO_CHILDREN];
	struct hf_qmp_client *destination; /* QMP of the destination VMM */
	struct hf_demo_view view[2];	   /* DEMO_SOURCE_VMM, DEMO_DESTINATION_VMM */
	uint64_t visits_wanted;		   /* what wait_visits waits for */
	uint64_t deadline_ns;		   /* what wait_time waits for */
	enum demo_child visitor;
	char uri[256];
	json_t *report;
};

int hf_demo_map(struct hf_demo *demo, enum demo_child vmm, struct hf_err *err);
void hf_demo_unmap(struct hf_demo *demo);

/*
 * With both VMs stopped: checks every byte, compares if asked, and completes demo->report, which holds the
 * destination's report. -EBADMSG when something is wrong; the report then says what.
 */
int hf_demo_verify(struct hf_demo *demo, struct hf_err *err);
void hf_demo_print(const struct hf_demo *demo);

#endif
