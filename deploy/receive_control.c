/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket of `receive`: what an operator can ask of the destination while it runs. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/monotonic.h"
#include "deploy/query_migrate.h"
#include "deploy/receive_internal.h"

struct hf_report_context hf_receive_report_context(const struct receive *receive)
{
	return (struct hf_report_context){
	    .transport = receive->scheme ? receive->scheme->name : NULL,
	    .placement_reason = receive->memory ? hf_incoming_memory_reason(receive->memory) : NULL,
	    .blocks = &receive->blocks,
	    .registration_time_ns = receive->registration_time_ns,
	};
}

static int control_cancel(void *opaque, struct hf_err *err)
{
	struct receive *receive = opaque;
	receive->cancel_asked = !receive->engine;
	return receive->engine ? hf_destination_cancel(receive->engine, err) : 0;
}

/* Nobody listens until the operator says so. */
static int control_pause(void *opaque, struct hf_err *err)
{
	struct receive *receive = opaque;
	if (!receive->engine)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "there is no migration yet");
	int result = hf_destination_pause(receive->engine, err);
	if (result == 0)
		receive->reconnect.held = true;
	return result;
}

static int take_uri(struct receive *receive, const char *uri, struct hf_err *err)
{
	const struct hf_scheme *scheme;
	int result = hf_scheme_of(uri, &scheme, err);
	if (result)
		return result;
	hf_receive_close_listener(receive);
	receive->scheme = scheme;
	return hf_receive_take_uri(receive, uri, err);
}

/* Also what does not last until the main thread looks again. */
static void tell_status(struct receive *receive)
{
	hf_destination_snapshot(receive->engine, &receive->snapshot);
	hf_control_status(receive->control, receive->snapshot.status);
}

static int control_recover(void *opaque, const char *uri, struct hf_err *err)
{
	struct receive *receive = opaque;
	if (receive->engine)
		tell_status(receive);
	if (receive->poison)
		return hf_err_set(err, HF_ERR_LOCAL, EPERM, "the pages that are missing are being poisoned");
	if (!receive->engine || !hf_receive_wants_link(receive))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "only a paused migration can be recovered; this one is '%s'",
				  hf_status_name(receive->snapshot.status));
	hf_receive_close_link(receive);
	int result = take_uri(receive, uri, err);
	if (result)
		return result;
	hf_reconnect_end(&receive->reconnect);
	hf_reconnect_begin(&receive->reconnect, hf_monotonic_ns(NULL), receive->options.recover_timeout_s);
	result = hf_receive_listen(receive, err);
	if (result)
		return result;
	hf_destination_recover_setup(receive->engine, true);
	tell_status(receive);
	return 0;
}

static int set_parameters(void *opaque, const struct hf_control_parameters *parameters, struct hf_err *err)
{
	struct receive *receive = opaque;
	(void)err;
	if (!(parameters->present & HF_CONTROL_MAX_POSTCOPY_BANDWIDTH))
		return 0;
	receive->options.max_postcopy_bandwidth = parameters->max_postcopy_bandwidth_bytes_per_s;
	if (receive->engine)
		hf_destination_limit_background(receive->engine, receive->options.max_postcopy_bandwidth);
	return 0;
}

static void get_parameters(void *opaque, struct hf_control_parameters *parameters)
{
	const struct receive *receive = opaque;
	parameters->max_postcopy_bandwidth_bytes_per_s = receive->options.max_postcopy_bandwidth;
}

static int control_poison(void *opaque, struct hf_err *err)
{
	return hf_receive_poison(opaque, err);
}

static json_t *control_query(void *opaque)
{
	const struct receive *receive = opaque;
	struct hf_report_context context = hf_receive_report_context(receive);
	return hf_query_destination(receive->engine, &context);
}

int hf_receive_open_control(struct receive *receive, struct hf_err *err)
{
	struct hf_control_config config = {
	    .target = receive->options.qmp,
	    .ops = {.cancel = control_cancel,
		    .pause = control_pause,
		    .recover = control_recover,
		    .poison_missing = control_poison,
		    .set_parameters = set_parameters,
		    .get_parameters = get_parameters},
	    .parameters = HF_CONTROL_MAX_POSTCOPY_BANDWIDTH,
	    .opaque = receive,
	    .wake = hf_waiter_notify,
	    .wake_opaque = &receive->waiter,
	};
	return hf_control_create(&receive->control, &config, err);
}

void hf_receive_answer_queries(struct receive *receive)
{
	hf_control_set_query(receive->control, control_query, receive);
}
