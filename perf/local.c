/* SPDX-License-Identifier: Apache-2.0 */
#include "perf/local.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "perf/giver.h"
#include "perf/halves.h"

/* It fills its memory first, which takes as long as it takes. */
static int wait_giver(struct hf_local *local, struct hf_err *err)
{
	struct hf_child *giver = &local->giver;
	struct pollfd connects = {.fd = hf_taker_fd(local->taker), .events = POLLIN};
	while (!giver->ended && poll(&connects, 1, 0) == 0)
		hf_children_pump(&giver, 1, connects.fd, -1);
	if (giver->ended)
		return hf_err_set(err, HF_ERR_LOCAL, ECHILD, "the giver has ended with %d", giver->exit_code);
	return 0;
}

int hf_local_start(struct hf_local *local, const struct hf_taker_config *config, const cpu_set_t *cpus,
		   struct hf_err *err)
{
	*local = (struct hf_local){0};
	int result = hf_taker_listen(&local->taker, config, err);
	if (result)
		return result;
	struct hf_giver_config giver = {.uri = hf_taker_uri(local->taker),
					.bare_uri = hf_taker_bare_uri(local->taker),
					.channels = config->channels};
	if (cpus)
		hf_stay_on_half(cpus, 1); /* a child begins where its parent is */
	result = hf_giver_start(&local->giver, &giver, err);
	if (cpus)
		hf_stay_on_half(cpus, 0);
	if (!result)
		result = wait_giver(local, err);
	return result ? result : hf_taker_accept(local->taker, err);
}

void hf_local_explain(struct hf_local *local, struct hf_err *err)
{
	struct hf_child *giver = &local->giver;
	char line[HF_ERR_TEXT_BYTES] = "";
	if (giver->started) {
		hf_children_pump(&giver, 1, -1, 100);
		hf_child_last_line(giver, line, sizeof(line));
	}
	size_t used = strlen(err->text);
	if (line[0])
		snprintf(err->text + used, sizeof(err->text) - used, "; the giver: %s", line);
}

void hf_local_stop(struct hf_local *local)
{
	hf_taker_close(local->taker);
	hf_child_end(&local->giver);
	*local = (struct hf_local){0};
}
