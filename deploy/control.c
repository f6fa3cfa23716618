/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Control. Theory of operation: the QMP server runs handlers in one thread, so at most one operation is asked
 * for at a time, and there is room for one. Its way:
 *
 *     QMP thread                               main thread
 *     idle -> posted, wake, wait
 *                                              hf_control_run: posted -> running
 *                                              the operation, without the lock
 *                                              running -> done, signal
 *     done -> idle, reply
 *
 * What is posted and not taken within BUSY_AFTER_MS, or at the end of the program, is withdrawn and the
 * client told so; what runs is waited for. So an operation has happened exactly if its client was told.
 *
 * query-migrate does not go that way: it must be answered while the main thread is busy, and costs it
 * nothing. Its answer is kept for QUERY_FRESH_NS, or until a status changes or an operation has run: clients
 * that ask without end cost the engine's lock a fixed rate, and one that asks after an event or a reply sees
 * what they told of.
 */
#include "deploy/control.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "core/lock.h"
#include "deploy/monotonic.h"
#include "kvm/qmp.h"

#define BUSY_AFTER_MS	  10000ull
#define QUERY_FRESH_NS	  5000000ull
#define COMMANDS_MAX	  10
#define PARAMETERS	  3
#define DOWNTIME_LIMIT_MS 2000000ull

enum request_kind {
	START_POSTCOPY,
	PAUSE,
	RECOVER,
	RESUME,
	CANCEL,
	POISON_MISSING,
	SET_PARAMETERS,
	GET_PARAMETERS
};

struct request {
	enum request_kind kind;
	const char *uri;
	struct hf_control_parameters parameters;
};

enum progress { IDLE = 0, POSTED, RUNNING, DONE };

struct hf_control {
	/* set at creation */
	struct hf_control_ops ops;
	void *opaque;
	void (*wake)(void *opaque);
	void *wake_opaque;
	const char *parameter_arguments[PARAMETERS + 1];

	/* the main thread's own */
	struct hf_qmp_server *server;
	enum hf_status status; /* the last that was told */

	struct hf_lock lock;
	struct hf_cond changed;
	/* under the lock */
	enum progress progress;
	struct request request; /* running: the main thread's own */
	int result;
	struct hf_err err;
	bool closing;
	hf_control_query *query;
	void *query_opaque;
	bool answer_is_stale;

	/* the QMP thread's own */
	json_t *answer;
	uint64_t answered_ns;
};

/* ---- from the QMP thread to the main thread ---- */

static bool may_wait_locked(struct hf_control *control, uint64_t deadline_ns)
{
	hf_lock_assert_held(&control->lock);
	if (control->progress == RUNNING) {
		hf_cond_wait(&control->changed, &control->lock);
		return true;
	}
	return control->progress == POSTED && !control->closing &&
	       hf_cond_wait_until(&control->changed, &control->lock, deadline_ns) == 0;
}

static int not_run(const struct hf_control *control, struct hf_err *err)
{
	hf_lock_assert_held(&control->lock);
	if (control->closing)
		return hf_err_set(err, HF_ERR_LOCAL, ESHUTDOWN, "the migration has ended");
	return hf_err_set(err, HF_ERR_LOCAL, EBUSY,
			  "the program was busy for %llu s and the command has not been run; try again",
			  BUSY_AFTER_MS / 1000);
}

/* What the operation gives back stands in *request. */
static int ask_main_thread(struct hf_control *control, struct request *request, struct hf_err *err)
{
	uint64_t deadline_ns = hf_monotonic_ns(NULL) + BUSY_AFTER_MS * 1000000;
	hf_lock(&control->lock);
	control->request = *request;
	control->progress = POSTED;
	hf_unlock(&control->lock);
	control->wake(control->wake_opaque);

	hf_lock(&control->lock);
	while (may_wait_locked(control, deadline_ns))
		;
	int result = control->progress == DONE ? control->result : not_run(control, err);
	if (control->progress == DONE && result < 0)
		*err = control->err;
	*request = control->request;
	control->progress = IDLE;
	hf_unlock(&control->lock);
	return result;
}

static int run_request(const struct hf_control *control, struct request *request, struct hf_err *err)
{
	const struct hf_control_ops *ops = &control->ops;
	switch (request->kind) {
	case START_POSTCOPY:
		return ops->start_postcopy(control->opaque, err);
	case PAUSE:
		return ops->pause(control->opaque, err);
	case RECOVER:
		return ops->recover(control->opaque, request->uri, err);
	case RESUME:
		return ops->resume(control->opaque, request->uri, err);
	case CANCEL:
		return ops->cancel(control->opaque, err);
	case POISON_MISSING:
		return ops->poison_missing(control->opaque, err);
	case SET_PARAMETERS:
		return ops->set_parameters(control->opaque, &request->parameters, err);
	case GET_PARAMETERS:
		ops->get_parameters(control->opaque, &request->parameters);
		return 0;
	}
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "no such operation");
}

void hf_control_run(struct hf_control *control)
{
	if (!control)
		return;
	hf_lock(&control->lock);
	bool asked = control->progress == POSTED;
	if (asked)
		control->progress = RUNNING;
	hf_unlock(&control->lock);
	if (!asked)
		return;
	struct hf_err err = HF_ERR_INIT;
	int result = run_request(control, &control->request, &err);
	hf_lock(&control->lock);
	control->progress = DONE;
	control->result = result;
	control->err = err;
	control->answer_is_stale = true;
	hf_cond_signal(&control->changed);
	hf_unlock(&control->lock);
}

/* ---- arguments ---- */

static int wrong_type(const char *name, const char *expected, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Invalid parameter type for '%s', expected: %s", name,
			  expected);
}

static int read_uri(const json_t *arguments, const char **uri, struct hf_err *err)
{
	const json_t *value = json_object_get(arguments, "uri");
	*uri = json_string_value(value);
	if (!*uri || strlen(*uri) != json_string_length(value))
		return wrong_type("uri", "string", err);
	return 0;
}

static int read_bool(const json_t *arguments, const char *name, bool *value, struct hf_err *err)
{
	const json_t *given = json_object_get(arguments, name);
	if (given && !json_is_boolean(given))
		return wrong_type(name, "boolean", err);
	*value = json_is_true(given);
	return 0;
}

static const struct parameter {
	const char *argument; /* optional, as the QMP library writes it */
	unsigned bit;
	size_t offset;
	uint64_t max;
} parameters[PARAMETERS] = {
    {"*max-bandwidth", HF_CONTROL_MAX_BANDWIDTH,
     offsetof(struct hf_control_parameters, max_bandwidth_bytes_per_s), INT64_MAX},
    {"*max-postcopy-bandwidth", HF_CONTROL_MAX_POSTCOPY_BANDWIDTH,
     offsetof(struct hf_control_parameters, max_postcopy_bandwidth_bytes_per_s), INT64_MAX},
    {"*downtime-limit", HF_CONTROL_DOWNTIME_LIMIT, offsetof(struct hf_control_parameters, downtime_limit_ms),
     DOWNTIME_LIMIT_MS},
};

static int read_parameter(const struct parameter *parameter, const json_t *arguments,
			  struct hf_control_parameters *out, struct hf_err *err)
{
	const char *name = parameter->argument + 1;
	const json_t *given = json_object_get(arguments, name);
	if (!given)
		return 0;
	json_int_t value = json_integer_value(given);
	if (!json_is_integer(given))
		return wrong_type(name, "integer", err);
	if (value < 0 || (uint64_t)value > parameter->max)
		return hf_err_set(err, HF_ERR_LOCAL, ERANGE, "Parameter '%s' expects a number from 0 to %llu",
				  name, (unsigned long long)parameter->max);
	out->present |= parameter->bit;
	*(uint64_t *)((char *)out + parameter->offset) = (uint64_t)value;
	return 0;
}

/* ---- commands; all run in the QMP thread ---- */

static int ask_simply(struct hf_control *control, enum request_kind kind, struct hf_err *err)
{
	struct request request = {.kind = kind};
	return ask_main_thread(control, &request, err);
}

static int start_postcopy(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	(void)arguments;
	(void)reply;
	return ask_simply(opaque, START_POSTCOPY, err);
}

static int pause_link(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	(void)arguments;
	(void)reply;
	return ask_simply(opaque, PAUSE, err);
}

static int cancel(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	(void)arguments;
	(void)reply;
	return ask_simply(opaque, CANCEL, err);
}

static int poison_missing(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	(void)arguments;
	(void)reply;
	return ask_simply(opaque, POISON_MISSING, err);
}

static int recover(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct request request = {.kind = RECOVER};
	(void)reply;
	int result = read_uri(arguments, &request.uri, err);
	return result ? result : ask_main_thread(opaque, &request, err);
}

static int migrate(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct request request = {.kind = RESUME};
	bool resume = false;
	(void)reply;
	int result = read_uri(arguments, &request.uri, err);
	if (!result)
		result = read_bool(arguments, "resume", &resume, err);
	if (!result && !resume)
		result = hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				    "this program moves one VM, named on its command line; only a migration "
				    "that is paused can be gone on with: say \"resume\": true");
	return result ? result : ask_main_thread(opaque, &request, err);
}

static int set_parameters(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct request request = {.kind = SET_PARAMETERS};
	int result = 0;
	(void)reply;
	for (size_t i = 0; !result && i < PARAMETERS; i++)
		result = read_parameter(&parameters[i], arguments, &request.parameters, err);
	return result ? result : ask_main_thread(opaque, &request, err);
}

static int query_parameters(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct request request = {.kind = GET_PARAMETERS};
	(void)arguments;
	int result = ask_main_thread(opaque, &request, err);
	if (result)
		return result;
	*reply = json_object();
	for (size_t i = 0; i < PARAMETERS; i++) {
		const struct parameter *parameter = &parameters[i];
		const char *field = (const char *)&request.parameters + parameter->offset;
		if (request.parameters.present & parameter->bit)
			json_object_set_new(*reply, parameter->argument + 1,
					    json_integer((json_int_t) * (const uint64_t *)field));
	}
	return 0;
}

static int query_migrate(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct hf_control *control = opaque;
	uint64_t now_ns = hf_monotonic_ns(NULL);
	(void)arguments;
	hf_lock(&control->lock);
	hf_control_query *query = control->query;
	void *query_opaque = control->query_opaque;
	bool fresh =
	    control->answer && !control->answer_is_stale && now_ns - control->answered_ns < QUERY_FRESH_NS;
	control->answer_is_stale = false;
	hf_unlock(&control->lock);
	if (!query)
		return 0;
	if (!fresh) {
		json_decref(control->answer);
		control->answer = query(query_opaque);
		control->answered_ns = now_ns;
	}
	if (!control->answer)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	*reply = json_incref(control->answer);
	return 0;
}

/* ---- the status ---- */

void hf_control_set_query(struct hf_control *control, hf_control_query *query, void *opaque)
{
	if (!control)
		return;
	hf_lock(&control->lock);
	control->query = query;
	control->query_opaque = opaque;
	control->answer_is_stale = true;
	hf_unlock(&control->lock);
}

/* Is there a way that does not touch `without` in between? HF_STATUSES: any way. */
static bool reaches(enum hf_status from, enum hf_status to, enum hf_status without)
{
	unsigned reached = 1u << from, before;
	do {
		before = reached;
		for (unsigned at = 0; at < HF_STATUSES; at++) {
			for (unsigned next = 0; (reached >> at & 1) && next < HF_STATUSES; next++) {
				if (next != without && hf_status_allowed(at, next))
					reached |= 1u << next;
			}
		}
	} while (reached != before);
	return reached >> to & 1;
}

static void tell(struct hf_control *control, enum hf_status status)
{
	hf_qmp_server_event(control->server, "MIGRATION",
			    json_pack("{s:s}", "status", hf_status_name(status)));
}

/* A state that every way leads through splits the way in two, each with fewer such states. */
static void tell_way(struct hf_control *control, enum hf_status from, enum hf_status to)
{
	for (enum hf_status via = 0; via < HF_STATUSES && reaches(from, to, HF_STATUSES); via++) {
		if (via == from || via == to || reaches(from, to, via))
			continue;
		tell_way(control, from, via);
		tell_way(control, via, to);
		return;
	}
	tell(control, to);
}

void hf_control_status(struct hf_control *control, enum hf_status status)
{
	if (!control || status == control->status)
		return;
	hf_lock(&control->lock);
	control->answer_is_stale = true; // first: who hears the event may ask at once
	hf_unlock(&control->lock);
	/* It might have been paused in between, and have gone on without a link; a link was asked for. */
	if (control->status == HF_STATUS_POSTCOPY_RECOVER_SETUP && status == HF_STATUS_POSTCOPY_ACTIVE)
		tell(control, HF_STATUS_POSTCOPY_RECOVER);
	tell_way(control, control->status, status);
	control->status = status;
}

/* ---- life ---- */

static struct hf_qmp_command *offer(struct hf_qmp_command *at, bool offered, const char *name,
				    hf_qmp_handler *handler, const char *const *arguments)
{
	if (!offered)
		return at;
	*at = (struct hf_qmp_command){.name = name, .handler = handler, .arguments = arguments};
	return at + 1;
}

static void list_commands(const struct hf_control *control, struct hf_qmp_command list[COMMANDS_MAX])
{
	static const char *const uri[] = {"uri", NULL};
	/* detach has had no meaning in QEMU for long, but its clients send it. */
	static const char *const migrate_arguments[] = {"uri", "*resume", "*detach", NULL};
	const struct hf_control_ops *ops = &control->ops;
	list = offer(list, true, "query-migrate", query_migrate, NULL);
	list = offer(list, ops->cancel, "migrate_cancel", cancel, NULL);
	list = offer(list, ops->start_postcopy, "migrate-start-postcopy", start_postcopy, NULL);
	list = offer(list, ops->pause, "migrate-pause", pause_link, NULL);
	list = offer(list, ops->recover, "migrate-recover", recover, uri);
	list = offer(list, ops->poison_missing, "x-poison-missing", poison_missing, NULL);
	list = offer(list, ops->resume, "migrate", migrate, migrate_arguments);
	list = offer(list, ops->set_parameters, "migrate-set-parameters", set_parameters,
		     control->parameter_arguments);
	list = offer(list, ops->get_parameters, "query-migrate-parameters", query_parameters, NULL);
	*list = (struct hf_qmp_command){0};
}

static int start_server(struct hf_control *control, const struct hf_control_config *config,
			struct hf_err *err)
{
	static const char scheme[] = "unix:";
	size_t scheme_length = sizeof(scheme) - 1;
	struct hf_qmp_command commands[COMMANDS_MAX];
	if (strncmp(config->target, scheme, scheme_length) != 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "--qmp wants unix:PATH, not '%.200s'",
				  config->target);
	list_commands(control, commands);
	struct hf_qmp_server_config server = {
	    .socket_path = config->target + scheme_length,
	    .commands = commands,
	    .opaque = control,
	    .package = "hugeferry " HF_VERSION,
	};
	return hf_qmp_server_create(&control->server, &server, err);
}

int hf_control_create(struct hf_control **out, const struct hf_control_config *config, struct hf_err *err)
{
	if (!config->target) {
		*out = NULL;
		return 0;
	}
	struct hf_control *control = calloc(1, sizeof(*control));
	if (!control)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	hf_lock_init(&control->lock, "hf_control.lock", HF_RANK_CONTROL);
	hf_cond_init(&control->changed);
	control->ops = config->ops;
	control->opaque = config->opaque;
	control->wake = config->wake;
	control->wake_opaque = config->wake_opaque;
	for (size_t i = 0, used = 0; i < PARAMETERS; i++) {
		if (config->parameters & parameters[i].bit)
			control->parameter_arguments[used++] = parameters[i].argument;
	}
	int result = start_server(control, config, err);
	if (result < 0) {
		hf_control_destroy(control);
		return result;
	}
	*out = control;
	return 0;
}

void hf_control_destroy(struct hf_control *control)
{
	if (!control)
		return;
	hf_lock(&control->lock);
	control->closing = true;
	hf_cond_signal(&control->changed);
	hf_unlock(&control->lock);
	hf_qmp_server_destroy(control->server);
	json_decref(control->answer);
	hf_cond_destroy(&control->changed);
	hf_lock_destroy(&control->lock);
	free(control);
}
