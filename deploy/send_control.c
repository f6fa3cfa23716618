/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of `send`: what an operator can ask of the source while it runs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/monotonic.h"
#include "deploy/query_migrate.h"
#include "deploy/send_internal.h"

struct hf_report_context hf_send_report_context(const struct send *send)
{
	return (struct hf_report_context){.transport = send->scheme ? send->scheme->name : NULL,
					  .blocks = &send->blocks,
					  .registration_time_ns = send->registration_time_ns};
}

static int control_cancel(void *opaque, struct hf_err *err)
{
	const struct send *send = opaque;
	return hf_source_cancel(send->engine, err);
}

/* Nobody looks for a link until the operator says so. */
static int control_pause(void *opaque, struct hf_err *err)
{
	struct send *send = opaque;
	int result = hf_source_pause(send->engine, err);
	if (result == 0)
		send->reconnect.held = true;
	return result;
}

static int take_uri(struct send *send, const char *uri, struct hf_err *err)
{
	const struct hf_scheme *scheme;
	int result = hf_scheme_of(uri, &scheme, err);
	if (result)
		return result;
	char *copy = strdup(uri);
	if (!copy)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	free(send->uri_of_operator);
	send->uri = send->uri_of_operator = copy;
	send->scheme = scheme;
	return 0;
}

/* Also what does not last until the main thread looks again. */
static void tell_status(struct send *send)
{
	hf_source_snapshot(send->engine, &send->snapshot);
	hf_control_status(send->control, send->snapshot.status);
}

static int control_resume(void *opaque, const char *uri, struct hf_err *err)
{
	struct send *send = opaque;
	tell_status(send);
	if (!hf_send_wants_link(send))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "only a paused migration can be resumed; this one is '%s'",
				  hf_status_name(send->snapshot.status));
	hf_send_close_link(send);
	int result = take_uri(send, uri, err);
	if (result)
		return result;
	hf_reconnect_end(&send->reconnect);
	hf_reconnect_begin(&send->reconnect, hf_monotonic_ns(NULL), send->options.recover_timeout_s);
	hf_source_recover_setup(send->engine, true);
	tell_status(send);
	return 0;
}

static json_t *control_query(void *opaque)
{
	const struct send *send = opaque;
	struct hf_report_context context = hf_send_report_context(send);
	return hf_query_source(send->engine, &context);
}

int hf_send_open_control(struct send *send, struct hf_err *err)
{
	struct hf_control_config config = {
	    .target = send->options.qmp,
	    .ops = {.cancel = control_cancel,
		    .pause = control_pause,
		    .resume = control_resume,
		    .start_postcopy = hf_send_control_postcopy},
	    .opaque = send,
	    .wake = hf_waiter_notify,
	    .wake_opaque = &send->waiter,
	};
	if (send->options.precopy) {
		config.ops.set_parameters = hf_send_control_set;
		config.ops.get_parameters = hf_send_control_get;
		config.parameters = HF_CONTROL_MAX_BANDWIDTH | HF_CONTROL_DOWNTIME_LIMIT;
	}
	return hf_control_create(&send->control, &config, err);
}

void hf_send_answer_queries(struct send *send)
{
	hf_control_set_query(send->control, control_query, send);
}
