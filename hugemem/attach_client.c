/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * One request, one answer, each a line of JSON, each exchange under one deadline. The VMM is not trusted: an
 * answer is bounded in size, must be alone on the wire, must come with as many descriptors as it names, and
 * is checked field by field before anything of it is kept (attach_client_regions.c for the regions). After an
 * answer that breaks the protocol, or a time-out, nothing more can be said on the connection: an old answer
 * could be taken for that of a later request. So the socket is closed and further calls get -ENOTCONN. A
 * refusal (`error`) is a good answer and leaves the connection usable.
 */
#include "hugemem/attach_client.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <jansson.h>

#include "core/text.h"
#include "hugemem/attach_client_internal.h"
#include "hugemem/uffd_open.h"

/* ---- one exchange ---- */

struct exchange {
	json_t *answer; /* whole object */
	const json_t *value;
	struct hf_attach_fds fds;
};

static void exchange_end(struct exchange *exchange)
{
	json_decref(exchange->answer);
	hf_attach_fds_close(&exchange->fds);
}

static int give_up(struct hf_attach_client *client, int errnum, struct hf_err *err, const char *what)
{
	if (client->socket >= 0)
		close(client->socket);
	client->socket = -1;
	enum hf_err_class class = errnum == EMFILE || errnum == ENOMEM ? HF_ERR_LOCAL : HF_ERR_PEER;
	return hf_err_set(err, class, errnum, "VMM at '%s': %s", client->path, what);
}

static const char *receive_problem(int result)
{
	switch (result) {
	case 0:
	case -ECONNRESET:
	case -EPIPE:
		return "it closed the connection without an answer";
	case -ETIMEDOUT:
		return "it does not answer; is it stopped?";
	case -EMFILE:
		return "this process may not have that many open files; raise its limit (ulimit -n)";
	case -EMSGSIZE:
		return "its answer is longer, or has more descriptors, than the protocol allows";
	default:
		return strerror(-result);
	}
}

// Reads up to the newline. *length is that of the line without it.
static int receive_line(struct hf_attach_client *client, char *buffer, size_t *length,
			struct hf_attach_fds *fds, uint64_t deadline_ns)
{
	size_t used = 0;
	for (;;) {
		int result = hf_attach_wire_wait(client->socket, POLLIN, deadline_ns, -1);
		if (result)
			return result;
		ssize_t n = hf_attach_wire_receive(client->socket, buffer + used,
						   HF_ATTACH_ANSWER_MAX_BYTES - used, fds);
		if (n == -EAGAIN)
			continue;
		if (n <= 0)
			return n == 0 ? -ECONNRESET : (int)n;
		char *newline = memchr(buffer + used, '\n', (size_t)n);
		used += (size_t)n;
		if (newline) {
			*length = (size_t)(newline - buffer);
			return *length + 1 == used ? 0 : -EPROTO;
		}
		if (used == HF_ATTACH_ANSWER_MAX_BYTES)
			return -EMSGSIZE;
	}
}

static int receive_answer(struct hf_attach_client *client, struct exchange *exchange, uint64_t deadline_ns,
			  struct hf_err *err)
{
	char *buffer = malloc(HF_ATTACH_ANSWER_MAX_BYTES);
	if (!buffer)
		return give_up(client, ENOMEM, err, "out of memory");
	size_t length = 0;
	int result = receive_line(client, buffer, &length, &exchange->fds, deadline_ns);
	if (!result)
		exchange->answer = json_loadb(buffer, length, JSON_REJECT_DUPLICATES, NULL);
	free(buffer);
	if (result == -EPROTO)
		return give_up(client, EPROTO, err, "it said more than the answer to the request");
	if (result)
		return give_up(client, -result, err, receive_problem(result));
	if (!json_is_object(exchange->answer))
		return give_up(client, EPROTO, err, "its answer is no JSON object");
	return 0;
}

static int refusal(struct hf_attach_client *client, const json_t *error, struct hf_err *err)
{
	const char *class = json_string_value(json_object_get(error, "class"));
	const char *desc = json_string_value(json_object_get(error, "desc"));
	if (!class || !desc)
		return give_up(client, EPROTO, err, "its answer is an error without class or text");
	int errnum = EREMOTEIO; // classes of later versions
	for (const struct hf_attach_error_class *known = hf_attach_error_classes; known->name; known++)
		if (!strcmp(known->name, class))
			errnum = known->errnum;
	char text[HF_ERR_TEXT_BYTES];
	hf_text_make_printable((const uint8_t *)desc, strlen(desc), text, sizeof(text));
	return hf_err_set(err, HF_ERR_PEER, errnum, "VMM at '%s' refuses: %s", client->path, text);
}

static int check_answer(struct hf_attach_client *client, struct exchange *exchange, struct hf_err *err)
{
	const json_t *error = json_object_get(exchange->answer, "error");
	if (error)
		return refusal(client, error, err);
	exchange->value = json_object_get(exchange->answer, "return");
	const json_t *fds = json_object_get(exchange->answer, "fds");
	if (!json_is_object(exchange->value) || !json_is_integer(fds))
		return give_up(client, EPROTO, err, "its answer lacks 'return' or 'fds'");
	if (json_integer_value(fds) != (json_int_t)exchange->fds.count)
		return give_up(client, EPROTO, err,
			       "its answer names another number of descriptors than it came with");
	return 0;
}

static int send_request(struct hf_attach_client *client, const json_t *request, uint64_t deadline_ns)
{
	char *line = json_dumps(request, JSON_COMPACT);
	if (!line)
		return -ENOMEM;
	size_t length = strlen(line);
	line[length] = '\n'; // in place of the terminator
	int result = hf_attach_wire_send(client->socket, line, length + 1, NULL, 0, deadline_ns, -1);
	free(line);
	return result;
}

// Steals the request. On failure the exchange is empty.
static int exchange_run(struct hf_attach_client *client, json_t *request, struct exchange *exchange,
			struct hf_err *err)
{
	*exchange = (struct exchange){0};
	if (client->socket < 0) {
		json_decref(request);
		return hf_err_set(err, HF_ERR_PEER, ENOTCONN,
				  "VMM at '%s': the connection has ended before; connect again",
				  client->path);
	}
	uint64_t deadline_ns = hf_attach_deadline_ns(client->timeout_ms);
	int result = request ? send_request(client, request, deadline_ns) : -ENOMEM;
	json_decref(request);
	// A VMM that refuses us may have closed already; what it said first can still be read.
	if (result && result != -EPIPE && result != -ECONNRESET)
		return give_up(client, -result, err, receive_problem(result));
	result = receive_answer(client, exchange, deadline_ns, err);
	if (!result)
		result = check_answer(client, exchange, err);
	if (result) {
		exchange_end(exchange);
		*exchange = (struct exchange){0};
	}
	return result;
}

/* ---- connect ---- */

static int open_socket(struct hf_attach_client *client, struct hf_err *err)
{
	struct sockaddr_un address;
	int result = hf_attach_wire_address(&address, client->path, err);
	if (result)
		return result;
	client->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (client->socket < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot make a socket: %s", strerror(errno));
	// Bounds the wait of connect() for a place in the queue; all else uses its own deadlines.
	struct timeval timeout = {.tv_sec = client->timeout_ms / 1000,
				  .tv_usec = (suseconds_t)(client->timeout_ms % 1000) * 1000};
	setsockopt(client->socket, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	if (connect(client->socket, (struct sockaddr *)&address, sizeof(address))) {
		int why = errno == EAGAIN ? ETIMEDOUT : errno;
		return hf_err_set(err, HF_ERR_LOCAL, why,
				  "cannot reach the attach socket '%s' of the VMM: %s", client->path,
				  strerror(why));
	}
	result = hf_attach_wire_peer(client->socket, &client->pid, err);
	if (!result && client->pid <= 0)
		result = hf_err_set(err, HF_ERR_LOCAL, ESRCH,
				    "its process is not to be seen from this pid namespace");
	if (result)
		hf_err_prefix(err, "VMM at '%s'", client->path);
	return result;
}

static int take_hello(struct hf_attach_client *client, struct exchange *exchange, struct hf_err *err)
{
	const json_t *version = json_object_get(exchange->value, "version");
	if (!json_is_integer(version) || json_integer_value(version) != HF_ATTACH_VERSION)
		return give_up(client, EPROTO, err, "it answers in another version of the protocol");
	const char *name = json_string_value(json_object_get(exchange->value, "vm_name"));
	size_t length = name ? strlen(name) : 0;
	if (!length || length > HF_RAMBLOCK_IDSTR_MAX || !hf_text_is_printable((const uint8_t *)name, length))
		return give_up(client, EPROTO, err, "its VM has no name, or none that can be printed");
	memcpy(client->vm_name, name, length + 1);
	int result = hf_attach_client_take_regions(client, json_object_get(exchange->value, "regions"),
						   &exchange->fds, err);
	if (result)
		hf_err_prefix(err, "VMM '%s' at '%s'", client->vm_name, client->path);
	return result;
}

static int greet(struct hf_attach_client *client, struct hf_err *err)
{
	struct exchange exchange;
	int result =
	    exchange_run(client, json_pack("{s:s, s:i}", "command", "hello", "version", HF_ATTACH_VERSION),
			 &exchange, err);
	if (result)
		return result;
	result = take_hello(client, &exchange, err);
	exchange_end(&exchange);
	return result;
}

struct hf_attach_client *hf_attach_client_new(const char *socket_path, uint32_t timeout_ms,
					      struct hf_err *err)
{
	struct hf_attach_client *client = calloc(1, sizeof(*client));
	char *path = strdup(socket_path);
	if (!client || !path) {
		free(client);
		free(path);
		hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory for the attach client");
		return NULL;
	}
	client->socket = client->adopted_fd = -1;
	client->timeout_ms = timeout_ms ? timeout_ms : HF_ATTACH_TIMEOUT_MS;
	client->path = path;
	return client;
}

int hf_attach_client_connect_timeout(struct hf_attach_client **out, const char *socket_path,
				     uint32_t timeout_ms, struct hf_err *err)
{
	struct hf_attach_client *client = hf_attach_client_new(socket_path, timeout_ms, err);
	if (!client)
		return -ENOMEM;
	int result = open_socket(client, err);
	if (!result)
		result = greet(client, err);
	if (result) {
		hf_attach_client_destroy(client);
		return result;
	}
	*out = client;
	return 0;
}

int hf_attach_client_connect(struct hf_attach_client **out, const char *socket_path, struct hf_err *err)
{
	return hf_attach_client_connect_timeout(out, socket_path, 0, err);
}

void hf_attach_client_destroy(struct hf_attach_client *client)
{
	if (!client)
		return;
	if (client->socket >= 0)
		close(client->socket);
	if (client->adopted_fd >= 0)
		close(client->adopted_fd);
	for (uint32_t i = 0; i < client->count; i++)
		if (client->regions[i].fd >= 0)
			close(client->regions[i].fd);
	free(client->regions);
	free(client->path);
	free(client);
}

pid_t hf_attach_client_pid(const struct hf_attach_client *client)
{
	return client->pid;
}

const char *hf_attach_client_vm_name(const struct hf_attach_client *client)
{
	return client->vm_name;
}

const struct hf_attached_region *hf_attach_client_regions(const struct hf_attach_client *client,
							  uint32_t *count)
{
	*count = client->count;
	return client->regions;
}

bool hf_attach_client_resumed(const struct hf_attach_client *client)
{
	return client->resumed;
}

/* ---- requests ---- */

static json_t *mode_names(unsigned modes)
{
	json_t *list = json_array();
	for (const struct hf_attach_mode *mode = hf_attach_modes; mode->name; mode++)
		if (modes & mode->mode)
			json_array_append_new(list, json_string(mode->name));
	return list;
}

static json_t *feature_names(uint64_t features, struct hf_err *err)
{
	json_t *list = json_array();
	for (unsigned shift = 0; shift < 64; shift++) {
		uint64_t bit = features & (1ull << shift);
		const char *name = bit ? hf_uffd_feature_name(bit) : NULL;
		if (name) {
			json_array_append_new(list, json_string(name));
		} else if (bit) {
			hf_err_set(err, HF_ERR_LOCAL, EINVAL, "userfaultfd feature bit %u has no name here",
				   shift);
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

// Anything could have been sent.
bool hf_attach_client_is_userfaultfd(int fd)
{
	char link[40], target[40];
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || !(flags & O_NONBLOCK))
		return false;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t length = readlink(link, target, sizeof(target) - 1);
	if (length < 0)
		return false;
	target[length] = '\0';
	return !strcmp(target, HF_ATTACH_USERFAULTFD_LINK);
}

static int take_userfault(struct hf_attach_client *client, struct exchange *exchange, int *fd,
			  struct hf_err *err)
{
	const json_t *resumed = json_object_get(exchange->value, "resumed");
	if (!json_is_boolean(resumed) || exchange->fds.count != 1)
		return give_up(client, EPROTO, err, "its answer to 'userfault' is not of the agreed form");
	if (!hf_attach_client_is_userfaultfd(exchange->fds.fd[0]))
		return give_up(client, EPROTO, err,
			       "the descriptor it sent is no non-blocking userfaultfd of this kernel");
	client->resumed = json_is_true(resumed);
	*fd = exchange->fds.fd[0];
	exchange->fds.count = 0;
	return 0;
}

int hf_attach_client_userfault(struct hf_attach_client *client, unsigned modes, uint64_t features, int *fd,
			       struct hf_err *err)
{
	unsigned known = HF_USERFAULT_MISSING | HF_USERFAULT_MINOR | HF_USERFAULT_WP_ASYNC;
	if (!modes || modes & ~known)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "userfaultfd modes %#x are not known", modes);
	if (client->adopted_fd >= 0)
		return hf_attach_client_take_adopted(client, modes, features, fd, err);
	json_t *features_json = feature_names(features, err);
	if (!features_json)
		return -EINVAL;
	json_t *request = json_pack("{s:s, s:o, s:o}", "command", "userfault", "modes", mode_names(modes),
				    "features", features_json);
	struct exchange exchange;
	int result = exchange_run(client, request, &exchange, err);
	if (result)
		return result;
	result = take_userfault(client, &exchange, fd, err);
	exchange_end(&exchange);
	return result;
}

int hf_attach_client_release(struct hf_attach_client *client, struct hf_err *err)
{
	struct exchange exchange;
	int result = hf_attach_client_join(client, client->timeout_ms, err);
	if (!result)
		result = exchange_run(client, json_pack("{s:s}", "command", "release"), &exchange, err);
	if (result)
		return result;
	if (exchange.fds.count)
		result = give_up(client, EPROTO, err, "its answer to 'release' has descriptors");
	exchange_end(&exchange);
	return result;
}
