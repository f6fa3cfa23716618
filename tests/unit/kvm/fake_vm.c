/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * Handlers run in the QMP server's thread, the stream of `migrate` or `migrate-incoming` in one more; both
 * change the states under one lock. "Slow" scripts change a state only when it has been asked for often
 * enough, so that a test of polling needs no clock. Dying is _exit(): sockets close as they do when a VMM
 * crashes.
 */
#include "fake_vm.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm/qmp.h"

#define STANDS_STILL_MS	 3000 /* of a QEMU whose write nobody reads: it never answers */
#define CAPABILITIES_MAX 4

struct capability {
	const char *name;
	bool state;
};

struct machine {
	const struct fake_vm_script *script;
	const struct fake_vm_script *plugged; /* what is plugged in */
	_Atomic bool *has_run;
	struct hf_qmp_server *server;
	int commands, refused;
	bool exits_on_error;
	bool starts_itself;
	json_int_t max_bandwidth;
	int stream_fd; /* connected (migrate) or listening (migrate-incoming) */
	_Atomic bool locked;
	struct capability capabilities[CAPABILITIES_MAX];

	pthread_mutex_t mutex;
	/* under the lock */
	const char *status, *next_status;
	const char *migration, *next_migration;
	const char *error_desc;
	int questions_left;
};

static void emit(struct machine *machine, const char *name, json_t *data)
{
	pthread_mutex_lock(&machine->mutex); // the server may be younger than its thread
	if (machine->script->no_events)
		json_decref(data);
	else
		hf_qmp_server_event(machine->server, name, data);
	pthread_mutex_unlock(&machine->mutex);
}

/* Counts commands; dies or refuses where the script says so. */
static int enter(struct machine *machine, const char *name, struct hf_err *err)
{
	const char *from = machine->script->count_from;
	machine->commands += machine->commands || !from || strcmp(from, name) == 0;
	if (machine->commands && machine->commands == machine->script->die_at_command)
		_exit(1);
	if (machine->commands && machine->commands == machine->script->silent_from_command)
		for (;;)
			pause();
	bool tired = machine->script->refusals && machine->refused == machine->script->refusals;
	if (machine->script->refuse && strcmp(machine->script->refuse, name) == 0 && !tired) {
		machine->refused++;
		return hf_err_set(err, HF_ERR_LOCAL, EPERM, "scripted refusal");
	}
	return 0;
}

static void wait_unlocked(struct machine *machine)
{
	for (int ms = 0; machine->locked; ms++) {
		if (ms == STANDS_STILL_MS)
			_exit(1);
		poll(NULL, 0, 1);
	}
}

static bool is_in(struct machine *machine, const char *status)
{
	pthread_mutex_lock(&machine->mutex);
	bool is = strcmp(machine->status, status) == 0;
	pthread_mutex_unlock(&machine->mutex);
	return is;
}

static void set_status(struct machine *machine, const char *status)
{
	pthread_mutex_lock(&machine->mutex);
	machine->next_status = status;
	machine->questions_left = machine->script->slow_queries;
	if (machine->questions_left == 0)
		machine->status = status;
	pthread_mutex_unlock(&machine->mutex);
}

static void set_stopped(struct machine *machine, const char *status)
{
	set_status(machine, status);
	emit(machine, "STOP", NULL);
}

static void plug(struct machine *machine, const struct fake_vm_script *script)
{
	pthread_mutex_lock(&machine->mutex);
	if (script)
		machine->plugged = script;
	pthread_mutex_unlock(&machine->mutex);
}

/* What is plugged in now. */
static const struct fake_vm_script *plugged(struct machine *machine)
{
	pthread_mutex_lock(&machine->mutex);
	const struct fake_vm_script *now = machine->plugged;
	pthread_mutex_unlock(&machine->mutex);
	return now;
}

static void set_migration(struct machine *machine, const char *migration)
{
	pthread_mutex_lock(&machine->mutex);
	machine->next_migration = migration;
	machine->questions_left = machine->script->slow_queries;
	if (machine->questions_left == 0)
		machine->migration = migration;
	pthread_mutex_unlock(&machine->mutex);
	emit(machine, "MIGRATION", json_pack("{s:s}", "status", migration));
}

static int handle_stop(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	(void)arguments, (void)result;
	struct machine *machine = opaque;
	int r = enter(machine, "stop", err);
	if (r < 0)
		return r;
	machine->starts_itself = false;
	if (is_in(machine, "inmigrate")) // as in QEMU
		return 0;
	set_stopped(machine, "paused");
	return 0;
}

static int handle_cont(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	(void)arguments, (void)result;
	int r = enter(machine, "cont", err);
	const char *status = machine->script->status_after_cont;
	if (r == 0 && is_in(machine, "finish-migrate"))
		return hf_err_set(err, HF_ERR_LOCAL, EPERM, "Migration is not finalized yet");
	if (r < 0 && machine->script->runs_and_stops_before_refusal) {
		emit(machine, "RESUME", NULL);
		emit(machine, "STOP", NULL);
	}
	if (r == 0) {
		// As in QEMU: told before a vCPU runs.
		if (!status)
			emit(machine, "RESUME", NULL);
		*machine->has_run = true;
		set_status(machine, status ? status : "running");
	}
	return r;
}

/* Under the lock: a slow state comes one question nearer. */
static void count_question(struct machine *machine)
{
	if (machine->questions_left > 0 && --machine->questions_left == 0) {
		machine->status = machine->next_status;
		machine->migration = machine->next_migration;
	}
}

static int handle_query_status(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	(void)arguments;
	int r = enter(machine, "query-status", err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&machine->mutex);
	count_question(machine);
	*result = json_pack("{s:s, s:b, s:b}", "status", machine->status, "running",
			    strcmp(machine->status, "running") == 0, "singlestep", 0);
	pthread_mutex_unlock(&machine->mutex);
	return 0;
}

static int handle_query_migrate(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	(void)arguments;
	int r = enter(machine, "query-migrate", err);
	if (r < 0)
		return r;
	pthread_mutex_lock(&machine->mutex);
	count_question(machine);
	*result = json_object();
	if (machine->migration && !machine->script->silent_migration)
		json_object_set_new(*result, "status", json_string(machine->migration));
	if (machine->script->blocked_reason)
		json_object_set_new(*result, "blocked-reasons",
				    json_pack("[s]", machine->script->blocked_reason));
	if (machine->error_desc && machine->migration && strcmp(machine->migration, "failed") == 0)
		json_object_set_new(*result, "error-desc", json_string(machine->error_desc));
	pthread_mutex_unlock(&machine->mutex);
	return 0;
}

static int handle_migrate_cancel(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	(void)arguments, (void)result;
	struct machine *machine = opaque;
	int r = enter(machine, "migrate_cancel", err);
	wait_unlocked(machine);
	if (r == 0)
		set_migration(opaque, "cancelled");
	return r;
}

static int handle_query_capabilities(void *opaque, const json_t *arguments, json_t **result,
				     struct hf_err *err)
{
	struct machine *machine = opaque;
	(void)arguments;
	int r = enter(machine, "query-migrate-capabilities", err);
	if (r < 0)
		return r;
	*result = json_array();
	for (int i = machine->script->no_ignore_shared; i < CAPABILITIES_MAX; i++)
		json_array_append_new(*result,
				      json_pack("{s:s, s:b}", "capability", machine->capabilities[i].name,
						"state", (int)machine->capabilities[i].state));
	return 0;
}

static int set_capability(struct machine *machine, const json_t *entry, struct hf_err *err)
{
	const char *name = json_string_value(json_object_get(entry, "capability"));
	for (int i = 0; name && i < CAPABILITIES_MAX; i++) {
		if (strcmp(machine->capabilities[i].name, name) == 0) {
			machine->capabilities[i].state = json_is_true(json_object_get(entry, "state"));
			return 0;
		}
	}
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Invalid parameter '%s'", name ? name : "");
}

static int handle_set_capabilities(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	const json_t *list = json_object_get(arguments, "capabilities");
	(void)result;
	int r = enter(opaque, "migrate-set-capabilities", err);
	for (size_t i = 0; r == 0 && i < json_array_size(list); i++)
		r = set_capability(opaque, json_array_get(list, i), err);
	return r;
}

/* ---- streams ---- */

static int address_of_uri(const json_t *arguments, struct sockaddr_un *address, struct hf_err *err)
{
	const char *uri = json_string_value(json_object_get(arguments, "uri"));
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (!uri || strncmp(uri, "unix:/", 6) != 0 || strlen(uri + 5) >= sizeof(address->sun_path))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "bad uri");
	strcpy(address->sun_path, uri + 5);
	return 0;
}

static void end_migration(struct machine *machine, const char *failure)
{
	pthread_mutex_lock(&machine->mutex);
	machine->error_desc = failure;
	pthread_mutex_unlock(&machine->mutex);
	set_migration(machine, failure ? "failed" : "completed");
}

static void die_if_due(const struct machine *machine, size_t bytes)
{
	if (machine->script->die_after_bytes && bytes >= machine->script->die_after_bytes)
		_exit(1);
}

/* As in QEMU: the VM is stopped only when the migration has begun, and runs again if it fails. */
static bool stop_to_save(struct machine *machine)
{
	if (!is_in(machine, "running"))
		return false;
	set_stopped(machine, "finish-migrate");
	return true;
}

static void end_save(struct machine *machine, int fd, bool ran, const char *failure)
{
	plug(machine, machine->script->opened);
	end_migration(machine, failure);
	if (ran && failure)
		emit(machine, "RESUME", NULL);
	if (ran)
		set_status(machine, failure ? "running" : "postmigrate");
	close(fd);
}

static void *save_thread(void *opaque)
{
	struct machine *machine = opaque;
	machine->locked = machine->script->locks_while_it_saves;
	bool ran = stop_to_save(machine);
	if (machine->locked)
		poll(NULL, 0, 50); // nothing comes before it is known that the VM stands still
	size_t sent_bytes = 0, total_bytes = machine->script->state_bytes;
	uint8_t chunk[4096];
	int fd = machine->stream_fd;
	if (machine->script->migration_error)
		total_bytes /= 2;
	while (sent_bytes < total_bytes) {
		size_t length_bytes =
		    total_bytes - sent_bytes < sizeof(chunk) ? total_bytes - sent_bytes : sizeof(chunk);
		for (size_t i = 0; i < length_bytes; i++)
			chunk[i] = fake_vm_state_byte(sent_bytes + i);
		ssize_t n = send(fd, chunk, length_bytes, MSG_NOSIGNAL);
		if (n < 0) {
			machine->locked = false;
			end_save(machine, fd, ran, "the stream broke");
			return NULL;
		}
		sent_bytes += (size_t)n;
		die_if_due(machine, sent_bytes);
	}
	machine->locked = false;
	// As in QEMU, the verdict stands before the stream ends.
	end_save(machine, fd, ran, machine->script->migration_error);
	return NULL;
}

static void *load_thread(void *opaque)
{
	struct machine *machine = opaque;
	const struct fake_vm_script *script = machine->script;
	const char *failure = script->migration_error;
	size_t received_bytes = 0;
	uint8_t chunk[4096];
	ssize_t n;
	int listen_fd = machine->stream_fd;
	int fd = accept(listen_fd, NULL, NULL);
	while ((n = read(fd, chunk, sizeof(chunk))) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			if (chunk[i] != fake_vm_state_byte(received_bytes + (size_t)i))
				failure = "device state is not what was saved";
		}
		received_bytes += (size_t)n;
		die_if_due(machine, received_bytes);
		if (script->takes_half && received_bytes >= script->state_bytes / 2)
			break;
	}
	if (!script->takes_half && received_bytes != script->state_bytes)
		failure = "device state has another length than what was saved";
	close(fd);
	close(listen_fd);
	if (script->never_completes)
		return NULL;
	if (failure && script->last_words)
		dprintf(STDERR_FILENO, "%s\n", script->last_words);
	if (failure && machine->exits_on_error)
		_exit(1);
	if (!failure && machine->starts_itself) {
		emit(machine, "RESUME", NULL);
		*machine->has_run = true;
	}
	if (!failure)
		set_status(machine, machine->starts_itself ? "running" : "paused");
	end_migration(machine, failure);
	return NULL;
}

static void start_stream(struct machine *machine, void *(*thread)(void *))
{
	pthread_t id;
	set_migration(machine, "active");
	pthread_mutex_lock(&machine->mutex);
	machine->migration = "active";
	pthread_mutex_unlock(&machine->mutex);
	if (pthread_create(&id, NULL, thread, machine) != 0)
		_exit(2);
	pthread_detach(id);
}

static int handle_query_parameters(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	(void)arguments;
	*result = json_pack("{s:I, s:i}", "max-bandwidth", machine->max_bandwidth, "downtime-limit", 300);
	return enter(machine, "query-migrate-parameters", err);
}

static int handle_set_parameters(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	(void)result;
	int r = enter(machine, "migrate-set-parameters", err);
	if (r == 0)
		machine->max_bandwidth = json_integer_value(json_object_get(arguments, "max-bandwidth"));
	return r;
}

/* Without them all of memory would be in the stream, and the end of it wait for an answer. */
static int check_capabilities(const struct machine *machine, struct hf_err *err)
{
	for (int i = 0; i < CAPABILITIES_MAX && !machine->script->no_capability_commands; i++) {
		const struct capability *capability = &machine->capabilities[i];
		bool wanted = strcmp(capability->name, "x-ignore-shared") == 0;
		if (wanted && machine->script->no_ignore_shared)
			continue;
		if ((wanted || strcmp(capability->name, "return-path") == 0) && capability->state != wanted)
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%s is not as it should be",
					  capability->name);
	}
	return 0;
}

static int handle_migrate(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	struct sockaddr_un address;
	(void)result;
	int r = enter(machine, "migrate", err);
	if (r == 0)
		r = address_of_uri(arguments, &address, err);
	if (r < 0)
		return r;
	if (machine->max_bandwidth)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "this would take long");
	if (machine->script->no_ignore_shared && is_in(machine, "running"))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "the VM runs");
	r = check_capabilities(machine, err);
	if (r < 0)
		return r;
	plug(machine, machine->script->plugged);
	if (machine->script->fails_unconnected) {
		end_migration(machine, machine->script->migration_error);
		return 0;
	}
	machine->stream_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(machine->stream_fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "Failed to connect to '%s'", address.sun_path);
	start_stream(machine, save_thread);
	return 0;
}

static int handle_migrate_incoming(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	struct sockaddr_un address;
	(void)result;
	int r = enter(machine, "migrate-incoming", err);
	if (r == 0)
		r = address_of_uri(arguments, &address, err);
	if (r < 0)
		return r;
	r = check_capabilities(machine, err);
	if (r < 0)
		return r;
	const json_t *exits = json_object_get(arguments, "exit-on-error");
	if (exits && machine->script->exits_on_error)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Parameter 'exit-on-error' is unexpected");
	machine->exits_on_error = !json_is_false(exits); // QEMU's default
	machine->stream_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bind(machine->stream_fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    listen(machine->stream_fd, 1) < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "Failed to bind '%s'", address.sun_path);
	start_stream(machine, load_thread);
	return 0;
}

/* ---- queries ---- */

static int handle_vcpus(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	const char *text = machine->script->vcpus;
	(void)arguments;
	*result =
	    json_loads(text ? text
			    : "[{\"cpu-index\":1,\"thread-id\":1001,\"target\":\"x86_64\"},"
			      " {\"cpu-index\":2,\"thread-id\":900}, {\"cpu-index\":0,\"thread-id\":1002}]",
		       JSON_DECODE_ANY, NULL);
	return enter(machine, "query-cpus-fast", err);
}

static int handle_memdev(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	const char *text = plugged(machine)->memory_backends;
	(void)arguments;
	*result = json_loads(
	    text ? text
		 : "[{\"id\":\"ram0\",\"size\":2097152,\"share\":true,\"merge\":true,\"policy\":\"default\"},"
		   " {\"id\":\"anon\",\"size\":4096,\"share\":false}, {\"size\":8192}]",
	    JSON_DECODE_ANY, NULL);
	return enter(machine, "query-memdev", err);
}

static int handle_qom_get(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	const char *path = json_string_value(json_object_get(arguments, "path"));
	const char *property = json_string_value(json_object_get(arguments, "property"));
	int r = enter(opaque, "qom-get", err);
	if (r < 0)
		return r;
	if (!path || !property || strcmp(path, "/objects/ram0") != 0 || strcmp(property, "mem-path") != 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Property '%s.%s' not found", path ? path : "",
				  property ? property : "");
	*result = json_string("/huge/ram0");
	return 0;
}

static int handle_query_version(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	(void)arguments;
	*result = json_loads(machine->script->version, JSON_DECODE_ANY, NULL);
	return enter(machine, "query-version", err);
}

static int handle_qom_list(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	const char *path = json_string_value(json_object_get(arguments, "path"));
	const char *text = NULL;
	int r = enter(opaque, "qom-list", err);
	wait_unlocked(opaque);
	if (r < 0)
		return r;
	const struct fake_vm_script *script = plugged(opaque);
	if (path && strcmp(path, "/machine/peripheral") == 0)
		text = script->peripherals;
	else if (path && strcmp(path, "/objects") == 0)
		text = script->objects;
	if (!text)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Device '%s' not found", path ? path : "");
	*result = json_loads(text, JSON_DECODE_ANY, NULL);
	return 0;
}

static int handle_human(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	const struct fake_vm_script *script = plugged(opaque);
	const char *line = json_string_value(json_object_get(arguments, "command-line"));
	const char *text = NULL;
	int r = enter(opaque, "human-monitor-command", err);
	if (line && strcmp(line, "info network") == 0)
		text = script->networks;
	else if (line && strcmp(line, "info mtree -f") == 0) {
		text = script->memory_map;
		if (script->stops_at_map)
			set_stopped(opaque, "paused");
	}
	if (r == 0)
		*result = json_string(text ? text : "");
	return r;
}

static int answer_virtio(struct machine *machine, const char *command, const char *text, json_t **result,
			 struct hf_err *err)
{
	int r = enter(machine, command, err);
	if (r == 0 && !text)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "there is no such device");
	if (r == 0)
		*result = json_loads(text, JSON_DECODE_ANY, NULL);
	return r;
}

static int handle_virtio(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	(void)arguments;
	return answer_virtio(machine, "x-query-virtio", machine->script->virtio, result, err);
}

static int handle_virtio_status(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	(void)arguments;
	return answer_virtio(machine, "x-query-virtio-status", machine->script->virtio_status, result, err);
}

static int answer_queue(struct machine *machine, const char *command, const char *list,
			const json_t *arguments, json_t **result, struct hf_err *err)
{
	json_t *queues = NULL;
	int r = answer_virtio(machine, command, list, &queues, err);
	size_t number = (size_t)json_integer_value(json_object_get(arguments, "queue"));
	if (r == 0 && number >= json_array_size(queues))
		r = hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Invalid virtqueue number %zu", number);
	if (r == 0)
		*result = json_incref(json_array_get(queues, number));
	json_decref(queues);
	return r;
}

static int handle_queue(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	return answer_queue(machine, "x-query-virtio-queue-status", machine->script->virtio_queues, arguments,
			    result, err);
}

static int handle_vhost_queue(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct machine *machine = opaque;
	return answer_queue(machine, "x-query-virtio-vhost-queue-status", machine->script->vhost_queues,
			    arguments, result, err);
}

static int handle_block_nodes(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	const char *text = plugged(opaque)->block_nodes;
	(void)arguments;
	int r = enter(opaque, "query-named-block-nodes", err);
	if (r == 0)
		*result = json_loads(text ? text : "[]", JSON_DECODE_ANY, NULL);
	return r;
}

static int handle_quit(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	(void)arguments, (void)result;
	if (enter(opaque, "quit", err) < 0)
		return -EPERM;
	_exit(0);
}

static const char *const uri_argument[] = {"uri", NULL};
static const char *const incoming_arguments[] = {"uri", "*exit-on-error", NULL};
static const char *const capabilities_argument[] = {"capabilities", NULL};
static const char *const parameters_arguments[] = {"max-bandwidth", NULL};
static const char *const qom_arguments[] = {"path", "property", NULL};
static const char *const path_argument[] = {"path", NULL};
static const char *const queue_arguments[] = {"path", "queue", NULL};
static const char *const line_argument[] = {"command-line", NULL};
static const char *const flat_argument[] = {"flat", NULL};
static const struct hf_qmp_command commands[] = {
    {"query-version", handle_query_version, NULL}, /* the first ones are those that a script may lack */
    {"query-migrate-capabilities", handle_query_capabilities, NULL},
    {"migrate-set-capabilities", handle_set_capabilities, capabilities_argument},
    {"stop", handle_stop, NULL},
    {"cont", handle_cont, NULL},
    {"query-status", handle_query_status, NULL},
    {"query-migrate", handle_query_migrate, NULL},
    {"migrate", handle_migrate, uri_argument},
    {"migrate-incoming", handle_migrate_incoming, incoming_arguments},
    {"migrate_cancel", handle_migrate_cancel, NULL},
    {"query-migrate-parameters", handle_query_parameters, NULL},
    {"migrate-set-parameters", handle_set_parameters, parameters_arguments},
    {"query-cpus-fast", handle_vcpus, NULL},
    {"query-memdev", handle_memdev, NULL},
    {"qom-get", handle_qom_get, qom_arguments},
    {"qom-list", handle_qom_list, path_argument},
    {"human-monitor-command", handle_human, line_argument},
    {"query-named-block-nodes", handle_block_nodes, flat_argument},
    {"x-query-virtio", handle_virtio, NULL},
    {"x-query-virtio-status", handle_virtio_status, path_argument},
    {"x-query-virtio-queue-status", handle_queue, queue_arguments},
    {"x-query-virtio-vhost-queue-status", handle_vhost_queue, queue_arguments},
    {"quit", handle_quit, NULL},
    {NULL, NULL, NULL},
};

static void run_machine(const struct fake_vm_script *script, _Atomic bool *has_run, int ready_fd)
{
	struct machine machine = {
	    .script = script,
	    .plugged = script,
	    .has_run = has_run,
	    .max_bandwidth = FAKE_VM_MAX_BANDWIDTH,
	    .mutex = PTHREAD_MUTEX_INITIALIZER,
	    .capabilities = {
		{"x-ignore-shared", false}, {"events", false}, {"return-path", true}, {"xbzrle", false}}};
	machine.starts_itself = script->starts_itself;
	machine.status = machine.next_status = script->status ? script->status : "running";
	if (script->settles) {
		machine.next_status = script->settles;
		machine.questions_left = script->slow_queries;
	}
	int lacks = script->no_capability_commands ? 3 : script->version ? 0 : 1;
	struct hf_qmp_server_config config = {.socket_path = script->socket_path,
					      .commands = commands + lacks,
					      .opaque = &machine,
					      .package = "fake"};
	pthread_mutex_lock(&machine.mutex);
	int r = hf_qmp_server_create(&machine.server, &config, NULL);
	pthread_mutex_unlock(&machine.mutex);
	if (r < 0 || write(ready_fd, "", 1) != 1)
		_exit(2);
	for (;;)
		pause();
}

void fake_vm_start(struct fake_vm *vm, const struct fake_vm_script *script)
{
	int ready[2];
	char byte;
	assert_return_code(pipe(ready), 0);
	unlink(script->socket_path);
	vm->has_run =
	    mmap(NULL, sizeof(*vm->has_run), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(vm->has_run, MAP_FAILED);
	pid_t parent = getpid();
	vm->pid = fork();
	assert_return_code(vm->pid, 0);
	if (vm->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(2);
		if (script->log_fd)
			dup2(script->log_fd, STDERR_FILENO);
		run_machine(script, vm->has_run, ready[1]);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
}

bool fake_vm_has_run(const struct fake_vm *vm)
{
	return *vm->has_run;
}

void fake_vm_stop(struct fake_vm *vm)
{
	if (vm->pid > 0) {
		kill(vm->pid, SIGKILL);
		waitpid(vm->pid, NULL, 0);
	}
	if (vm->has_run)
		munmap(vm->has_run, sizeof(*vm->has_run));
	*vm = (struct fake_vm){0};
}
