/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * One thread ("hf-qmp") polls the listening socket, a wake-up eventfd and every client, and runs the command
 * handlers itself, so a handler needs no lock against other commands. Sockets never block. What QEMU
 * says in which situation (error class and wording, order of events and replies) is kept, because clients
 * match on it.
 *
 * One bad client must not cost the others anything:
 *   - it gets COMMANDS_PER_TURN commands, then the next client has its turn;
 *   - when it does not read its replies, its commands wait (its input is not even read any more);
 *   - when it does not read its events, it is thrown out at EVENTS_PENDING_MAX_BYTES;
 *   - when all places are taken, the oldest that never finished the negotiation makes room.
 *
 * The lock guards the list of clients and the output half of each; that is all that emitters of events
 * touch, and they only append and wake the thread: an emitter never waits for a client, and an event emitted
 * by a handler stands before that handler's reply. The input half and `stream.fd` belong to the thread.
 * Nothing is called with the lock held but send() on a non-blocking socket.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/lock.h"
#include "kvm/qmp.h"
#include "kvm/qmp_codec.h"

#define CLIENTS_MAX		 32
#define COMMANDS_PER_TURN	 8
#define REPLIES_PENDING_BYTES	 65536u
#define EVENTS_PENDING_MAX_BYTES (HF_QMP_LINE_MAX_BYTES + (1u << 20)) /* beside the longest reply */
#define NEGOTIATION_GRACE_NS	 1000000000ull
#define ACCEPT_RETRY_MS		 100

/* The QEMU whose commands, errors and events are spoken; clients look at it to know what to expect. */
#define DIALECT_MAJOR 7
#define DIALECT_MINOR 2
#define DIALECT_MICRO 0

struct server_client {
	struct hf_qmp_stream stream;
	uint64_t accepted_ns;
	bool input_ended; /* thread's own */
	/* under the lock */
	bool negotiated;
	bool doomed;
};

struct hf_qmp_server {
	/* set at creation */
	struct sockaddr_un address;
	struct stat socket_stat; /* to remove our socket only */
	struct hf_qmp_command *commands;
	uint32_t command_count;
	void *opaque;
	char *package;
	int listen_fd, wake_fd;
	pthread_t thread;
	bool has_thread, bound;

	/* the thread's own */
	bool accept_paused;

	struct hf_lock mutex;
	/* under the lock */
	struct server_client *clients[CLIENTS_MAX]; /* changed by the thread only */
	uint32_t client_count;
	bool stop;
};

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void server_wake(struct hf_qmp_server *server)
{
	uint64_t one = 1;
	ssize_t n = write(server->wake_fd, &one, sizeof(one));
	(void)n; // the counter only saturates when a wake-up is pending anyway
}

/* ---- replies ---- */

static bool queue_line(struct server_client *client, const json_t *message)
{
	size_t length_bytes;
	char *line = message ? hf_qmp_encode(message, &length_bytes) : NULL;
	bool queued = line && hf_qmp_stream_queue(&client->stream, line, length_bytes) == 0;
	free(line);
	return queued;
}

/* Steals message. Under the lock or before the client is in the list. */
static void client_queue(struct server_client *client, json_t *message)
{
	if (!queue_line(client, message))
		client->doomed = true;
	json_decref(message);
}

static void client_flush(struct server_client *client)
{
	if (hf_qmp_stream_flush(&client->stream) < 0)
		client->doomed = true;
}

static json_t *version_object(const struct hf_qmp_server *server)
{
	return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "micro", DIALECT_MICRO, "minor", DIALECT_MINOR,
			 "major", DIALECT_MAJOR, "package", server->package);
}

static json_t *greeting(const struct hf_qmp_server *server)
{
	return json_pack("{s:{s:o, s:[]}}", "QMP", "version", version_object(server), "capabilities");
}

static json_t *error_reply(const char *class_name, const char *desc)
{
	return json_pack("{s:o}", "error", hf_qmp_error_object(class_name, desc));
}

static const char *class_of(int error)
{
	return error == -ENOSYS ? "CommandNotFound" : error == -ENODEV ? "DeviceNotFound" : "GenericError";
}

/* Steals result. */
static json_t *reply(int error, const struct hf_err *err, json_t *result)
{
	if (error < 0) {
		json_decref(result);
		return error_reply(class_of(error), err->text[0] ? err->text : strerror(-error));
	}
	return json_pack("{s:o}", "return", result ? result : json_object());
}

/* ---- commands ---- */

static const struct hf_qmp_command *find_command(const struct hf_qmp_server *server, const char *name)
{
	for (uint32_t i = 0; i < server->command_count; i++) {
		if (strcmp(server->commands[i].name, name) == 0)
			return &server->commands[i];
	}
	return NULL;
}

static bool knows_argument(const char *const *known, const char *name)
{
	for (; known && *known; known++) {
		if (strcmp(**known == '*' ? *known + 1 : *known, name) == 0)
			return true;
	}
	return false;
}

static int check_arguments(const char *const *known, json_t *arguments, struct hf_err *err)
{
	const char *name;
	json_t *value;
	for (const char *const *at = known; at && *at; at++) {
		if (**at != '*' && !json_object_get(arguments, *at))
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Parameter '%s' is missing", *at);
	}
	json_object_foreach(arguments, name, value)
	{
		if (!knows_argument(known, name))
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Parameter '%s' is unexpected", name);
	}
	return 0;
}

static int check_request(json_t *request, struct hf_err *err)
{
	const char *member;
	json_t *value;
	if (!json_is_object(request))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "QMP input must be a JSON object");
	json_object_foreach(request, member, value)
	{
		if (strcmp(member, "execute") == 0) {
			if (!json_is_string(value))
				return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
						  "QMP input member 'execute' must be a string");
		} else if (strcmp(member, "arguments") == 0) {
			if (!json_is_object(value))
				return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
						  "QMP input member 'arguments' must be an object");
		} else if (strcmp(member, "id") != 0) {
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "QMP input member '%s' is unexpected",
					  member);
		}
	}
	if (!json_object_get(request, "execute"))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "QMP input lacks member 'execute'");
	return 0;
}

static int negotiate(struct hf_qmp_server *server, struct server_client *client, json_t *arguments,
		     struct hf_err *err)
{
	static const char *const known[] = {"*enable", NULL};
	int r = check_arguments(known, arguments, err);
	if (r < 0)
		return r;
	json_t *enable = json_object_get(arguments, "enable");
	if (enable && !json_is_array(enable))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "Invalid parameter type for 'enable', expected: array");
	if (json_array_size(enable) > 0) {
		const char *name = json_string_value(json_array_get(enable, 0));
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Capability %s not available",
				  name ? name : "of that type");
	}
	hf_lock(&server->mutex);
	client->negotiated = true;
	hf_unlock(&server->mutex);
	return 0;
}

static json_t *command_list(const struct hf_qmp_server *server)
{
	json_t *list = json_array();
	json_array_append_new(list, json_pack("{s:s}", "name", "qmp_capabilities"));
	json_array_append_new(list, json_pack("{s:s}", "name", "query-commands"));
	for (uint32_t i = 0; i < server->command_count; i++)
		json_array_append_new(list, json_pack("{s:s}", "name", server->commands[i].name));
	return list;
}

static int run_negotiated(struct hf_qmp_server *server, const char *name, json_t *arguments, json_t **result,
			  struct hf_err *err)
{
	if (strcmp(name, "qmp_capabilities") == 0)
		return hf_err_set(err, HF_ERR_LOCAL, ENOSYS,
				  "Capabilities negotiation is already complete, command ignored");
	if (strcmp(name, "query-commands") == 0) {
		int r = check_arguments(NULL, arguments, err);
		if (r == 0)
			*result = command_list(server);
		return r;
	}
	const struct hf_qmp_command *command = find_command(server, name);
	if (!command)
		return hf_err_set(err, HF_ERR_LOCAL, ENOSYS, "The command %s has not been found", name);
	int r = check_arguments(command->arguments, arguments, err);
	if (r < 0)
		return r;
	r = command->handler(server->opaque, arguments, result, err);
	// A handler's own -ENOSYS must not look as if the command did not exist.
	return r == -ENOSYS ? -EOPNOTSUPP : r;
}

static int run_request(struct hf_qmp_server *server, struct server_client *client, json_t *request,
		       json_t **result, struct hf_err *err)
{
	int r = check_request(request, err);
	if (r < 0)
		return r;
	const char *name = json_string_value(json_object_get(request, "execute"));
	json_t *arguments = json_object_get(request, "arguments");
	arguments = arguments ? json_incref(arguments) : json_object();
	// Only this thread writes `negotiated`, so it may read it without the lock.
	if (client->negotiated)
		r = run_negotiated(server, name, arguments, result, err);
	else if (strcmp(name, "qmp_capabilities") == 0)
		r = negotiate(server, client, arguments, err);
	else
		r = hf_err_set(err, HF_ERR_LOCAL, ENOSYS,
			       "Expecting capabilities negotiation with 'qmp_capabilities'");
	json_decref(arguments);
	return r;
}

static void send_reply(struct hf_qmp_server *server, struct server_client *client, json_t *answer, json_t *id)
{
	if (answer && id)
		json_object_set(answer, "id", id);
	hf_lock(&server->mutex);
	if (!queue_line(client, answer)) {
		json_t *too_long = error_reply("GenericError", "the answer is too large for one QMP message");
		if (too_long && id && json_dumpb(id, NULL, 0, JSON_ENCODE_ANY) < 4096)
			json_object_set(too_long, "id", id);
		client_queue(client, too_long);
	}
	client_flush(client);
	hf_unlock(&server->mutex);
	json_decref(answer);
}

/* Takes one message from the client's input; false when there is none whole. */
static bool client_run_one(struct hf_qmp_server *server, struct server_client *client)
{
	struct hf_err err = HF_ERR_INIT;
	json_t *request = NULL;
	json_t *result = NULL;
	int r = hf_qmp_stream_next(&client->stream, &request, &err);
	if (r == 0)
		return false;
	if (r > 0)
		r = run_request(server, client, request, &result, &err);
	send_reply(server, client, reply(r, &err, result), json_object_get(request, "id"));
	json_decref(request);
	return true;
}

/* ---- the thread ---- */

/* May this client's commands run, or has it replies to read first? */
static bool client_may_run(const struct server_client *client)
{
	return !client->doomed && hf_qmp_stream_pending_bytes(&client->stream) < REPLIES_PENDING_BYTES;
}

static bool client_may_run_now(struct hf_qmp_server *server, const struct server_client *client)
{
	hf_lock(&server->mutex);
	bool may_run = client_may_run(client) && !server->stop;
	hf_unlock(&server->mutex);
	return may_run;
}

static void client_serve(struct hf_qmp_server *server, struct server_client *client, short events)
{
	if (events & POLLOUT) {
		hf_lock(&server->mutex);
		client_flush(client);
		hf_unlock(&server->mutex);
	}
	bool may_run = client_may_run_now(server, client);
	if (may_run && !client->input_ended && !hf_qmp_stream_has_input(&client->stream) &&
	    (events & (POLLIN | POLLHUP | POLLERR))) {
		int n = hf_qmp_stream_fill(&client->stream);
		client->input_ended = n == 0 || (n < 0 && n != -EAGAIN);
	}
	for (int i = 0; i < COMMANDS_PER_TURN && may_run; i++) {
		if (!client_run_one(server, client))
			break;
		may_run = client_may_run_now(server, client);
	}
	bool gone = (events & (POLLHUP | POLLERR)) && !may_run; // it will read no reply any more
	hf_lock(&server->mutex);
	if (gone || (client->input_ended && !hf_qmp_stream_has_input(&client->stream) &&
		     hf_qmp_stream_pending_bytes(&client->stream) == 0))
		client->doomed = true;
	hf_unlock(&server->mutex);
}

static void client_free(struct server_client *client)
{
	if (!client)
		return;
	hf_qmp_stream_fini(&client->stream);
	free(client);
}

static void remove_doomed(struct hf_qmp_server *server)
{
	uint32_t kept = 0;
	hf_lock(&server->mutex);
	for (uint32_t i = 0; i < server->client_count; i++) {
		if (server->clients[i]->doomed)
			client_free(server->clients[i]);
		else
			server->clients[kept++] = server->clients[i];
	}
	server->client_count = kept;
	hf_unlock(&server->mutex);
}

/* Under the lock. The list is in the order of arrival. */
static void make_room(struct hf_qmp_server *server)
{
	uint64_t now = now_ns();
	for (uint32_t i = 0; i < server->client_count; i++) {
		struct server_client *client = server->clients[i];
		if (client->negotiated || now - client->accepted_ns < NEGOTIATION_GRACE_NS)
			continue;
		client_free(client);
		server->client_count--;
		for (; i < server->client_count; i++)
			server->clients[i] = server->clients[i + 1];
		return;
	}
}

static void add_client(struct hf_qmp_server *server, int fd)
{
	struct server_client *client = calloc(1, sizeof(*client));
	if (!client) {
		close(fd);
		return;
	}
	hf_qmp_stream_init(&client->stream, fd);
	client->accepted_ns = now_ns();
	hf_lock(&server->mutex);
	if (server->client_count == CLIENTS_MAX)
		make_room(server);
	bool room = server->client_count < CLIENTS_MAX;
	client_queue(client, room ? greeting(server)
				  : error_reply("GenericError", "too many QMP clients; close one of them"));
	client_flush(client);
	if (room)
		server->clients[server->client_count++] = client;
	hf_unlock(&server->mutex);
	if (!room)
		client_free(client);
}

static void accept_clients(struct hf_qmp_server *server)
{
	for (int i = 0; i < CLIENTS_MAX; i++) {
		int fd = accept4(server->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd >= 0) {
			add_client(server, fd);
			continue;
		}
		// Without descriptors or memory the connection stays in the queue; polling it would spin.
		if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS)
			server->accept_paused = true;
		if (errno != EINTR && errno != ECONNABORTED)
			return;
	}
}

static short wanted_events(const struct server_client *client)
{
	bool reads =
	    !client->input_ended && client_may_run(client) && !hf_qmp_stream_has_input(&client->stream);
	return (short)((reads ? POLLIN : 0) | (hf_qmp_stream_pending_bytes(&client->stream) ? POLLOUT : 0));
}

/* Fills the poll set: wake-up, listening socket, clients. Returns the timeout, or -2 to stop. */
static int prepare_poll(struct hf_qmp_server *server, struct pollfd *set, uint32_t *count)
{
	int timeout_ms = server->accept_paused ? ACCEPT_RETRY_MS : -1;
	set[0] = (struct pollfd){.fd = server->wake_fd, .events = POLLIN};
	set[1] = (struct pollfd){.fd = server->accept_paused ? -1 : server->listen_fd, .events = POLLIN};
	hf_lock(&server->mutex);
	*count = server->client_count;
	for (uint32_t i = 0; i < *count; i++) {
		struct server_client *client = server->clients[i];
		set[2 + i] = (struct pollfd){.fd = client->stream.fd, .events = wanted_events(client)};
		if (client->doomed || (hf_qmp_stream_has_input(&client->stream) && client_may_run(client)))
			timeout_ms = 0;
	}
	if (server->stop)
		timeout_ms = -2;
	hf_unlock(&server->mutex);
	return timeout_ms;
}

static void drain_wake(const struct hf_qmp_server *server)
{
	uint64_t count;
	ssize_t n = read(server->wake_fd, &count, sizeof(count));
	(void)n; // non-blocking: nothing to read is fine
}

static void *server_thread(void *opaque)
{
	struct hf_qmp_server *server = opaque;
	struct pollfd set[2 + CLIENTS_MAX];
	uint32_t count;
	int timeout_ms;

	while ((timeout_ms = prepare_poll(server, set, &count)) != -2) {
		if (poll(set, 2 + count, timeout_ms) < 0)
			continue;
		if (set[0].revents)
			drain_wake(server);
		for (uint32_t i = 0; i < count; i++)
			client_serve(server, server->clients[i], set[2 + i].revents);
		remove_doomed(server);
		server->accept_paused = false;
		if (set[1].revents)
			accept_clients(server);
	}
	return NULL;
}

/* ---- life ---- */

static int copy_config(struct hf_qmp_server *server, const struct hf_qmp_server_config *config,
		       struct hf_err *err)
{
	uint32_t count = 0;
	for (const struct hf_qmp_command *at = config->commands; at && at->name; at++)
		count++;
	server->command_count = count;
	server->commands = calloc(count + 1, sizeof(*server->commands));
	server->package = strdup(config->package ? config->package : "");
	if (!server->commands || !server->package)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a QMP server");
	if (count)
		memcpy(server->commands, config->commands, count * sizeof(*server->commands));
	server->opaque = config->opaque;
	return hf_qmp_address(config->socket_path, &server->address, err);
}

/* A socket in the way: removed when nobody listens on it any more. */
static int remove_stale(const struct sockaddr_un *address, struct hf_err *err)
{
	struct stat stat;
	if (lstat(address->sun_path, &stat) < 0)
		return errno == ENOENT ? 0
				       : hf_err_set(err, HF_ERR_LOCAL, errno, "QMP socket %s: %s",
						    address->sun_path, strerror(errno));
	if (!S_ISSOCK(stat.st_mode))
		return hf_err_set(err, HF_ERR_LOCAL, EEXIST,
				  "QMP socket %s: a file of that name is in the way and is no socket; remove "
				  "it or choose another path",
				  address->sun_path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "QMP socket %s: no socket to be had: %s",
				  address->sun_path, strerror(errno));
	int connected = connect(fd, (const struct sockaddr *)address, sizeof(*address));
	int error = connected < 0 ? errno : 0;
	close(fd);
	if (error != ECONNREFUSED)
		return hf_err_set(err, HF_ERR_LOCAL, EADDRINUSE,
				  "QMP socket %s is in use; is this VM running already? Stop it or choose "
				  "another path",
				  address->sun_path);
	if (unlink(address->sun_path) < 0 && errno != ENOENT)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "QMP socket %s: cannot remove the stale one: %s",
				  address->sun_path, strerror(errno));
	return 0;
}

static int server_listen(struct hf_qmp_server *server, struct hf_err *err)
{
	int r = remove_stale(&server->address, err);
	if (r < 0)
		return r;
	server->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	// fchmod before bind gives the file its mode from its first moment on.
	if (server->listen_fd < 0 || fchmod(server->listen_fd, 0600) < 0 ||
	    bind(server->listen_fd, (struct sockaddr *)&server->address, sizeof(server->address)) < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "QMP socket %s: cannot be made: %s",
				  server->address.sun_path, strerror(errno));
	server->bound = lstat(server->address.sun_path, &server->socket_stat) == 0;
	if (!server->bound || listen(server->listen_fd, CLIENTS_MAX) < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "QMP socket %s: cannot listen: %s",
				  server->address.sun_path, strerror(errno));
	return 0;
}

static int server_start(struct hf_qmp_server *server, struct hf_err *err)
{
	server->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (server->wake_fd < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "QMP socket %s: no eventfd to be had: %s",
				  server->address.sun_path, strerror(errno));
	sigset_t all, before; // signals are for the program's own threads
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&server->thread, NULL, server_thread, server);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return hf_err_set(err, HF_ERR_LOCAL, error, "QMP socket %s: no thread to be had: %s",
				  server->address.sun_path, strerror(error));
	server->has_thread = true;
	pthread_setname_np(server->thread, "hf-qmp");
	return 0;
}

int hf_qmp_server_create(struct hf_qmp_server **out, const struct hf_qmp_server_config *config,
			 struct hf_err *err)
{
	struct hf_qmp_server *server = calloc(1, sizeof(*server));
	if (!server)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a QMP server");
	hf_lock_init(&server->mutex, "hf_qmp_server.mutex", HF_RANK_VMM_SERVER);
	server->listen_fd = server->wake_fd = -1;
	int r = copy_config(server, config, err);
	if (r == 0)
		r = server_listen(server, err);
	if (r == 0)
		r = server_start(server, err);
	if (r < 0) {
		hf_qmp_server_destroy(server);
		return r;
	}
	*out = server;
	return 0;
}

static json_t *event_object(const char *name, json_t *data)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	json_t *event = json_pack("{s:{s:I, s:I}, s:s}", "timestamp", "seconds", (json_int_t)now.tv_sec,
				  "microseconds", (json_int_t)(now.tv_nsec / 1000), "event", name);
	if (event && data)
		json_object_set(event, "data", data);
	return event;
}

void hf_qmp_server_event(struct hf_qmp_server *server, const char *name, json_t *data)
{
	json_t *event = event_object(name, data);
	size_t length_bytes;
	char *line = event ? hf_qmp_encode(event, &length_bytes) : NULL;
	hf_lock(&server->mutex);
	for (uint32_t i = 0; line && i < server->client_count; i++) {
		struct server_client *client = server->clients[i];
		if (!client->negotiated)
			continue;
		size_t pending_bytes = hf_qmp_stream_pending_bytes(&client->stream);
		if (pending_bytes > EVENTS_PENDING_MAX_BYTES ||
		    hf_qmp_stream_queue(&client->stream, line, length_bytes) < 0)
			client->doomed = true;
		else
			client_flush(client);
	}
	hf_unlock(&server->mutex);
	server_wake(server);
	free(line);
	json_decref(event);
	json_decref(data);
}

static void remove_own_socket(const struct hf_qmp_server *server)
{
	struct stat stat;
	const struct stat *own = &server->socket_stat;
	if (server->bound && lstat(server->address.sun_path, &stat) == 0 && stat.st_dev == own->st_dev &&
	    stat.st_ino == own->st_ino)
		unlink(server->address.sun_path);
}

void hf_qmp_server_destroy(struct hf_qmp_server *server)
{
	if (!server)
		return;
	if (server->has_thread) {
		hf_lock(&server->mutex);
		server->stop = true;
		hf_unlock(&server->mutex);
		server_wake(server);
		pthread_join(server->thread, NULL);
	}
	remove_own_socket(server);
	for (uint32_t i = 0; i < server->client_count; i++) {
		client_flush(server->clients[i]); // last events, as far as the sockets take them
		client_free(server->clients[i]);
	}
	hf_lock_destroy(&server->mutex);
	if (server->wake_fd >= 0)
		close(server->wake_fd);
	if (server->listen_fd >= 0)
		close(server->listen_fd);
	free(server->commands);
	free(server->package);
	free(server);
}
