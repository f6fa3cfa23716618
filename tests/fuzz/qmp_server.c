/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: the QMP server against a client that says anything. One server serves all inputs: what a client
 * leaves behind ends with its connection.
 *
 * The client gets a greeting, then whole lines of JSON: answers that are one of return and error, with an id
 * only if one was given, and events only after negotiation; then the end.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kvm/qmp.h"
#include "tests/fuzz/fuzz.h"

enum { INPUT_MAX = 4096, ANSWERS_MAX = 4 << 20 };

static struct hf_qmp_server *server;
static char socket_path[FUZZ_DIRECTORY_BYTES + 8];

/* ---- commands ---------------------------------------------------------------------------------- */

static int echo(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	(void)opaque, (void)err;
	fuzz_check(json_is_object(arguments));
	*result = json_deep_copy(arguments);
	hf_qmp_server_event(server, "ECHO", NULL);
	return 0;
}

static int refuse(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	(void)opaque, (void)result;
	const char *text = json_string_value(json_object_get(arguments, "text"));
	fuzz_check(json_object_get(arguments, "text")); // it is not optional
	return hf_err_set(err, HF_ERR_LOCAL, ENODEV, "%s", text ? text : "no");
}

static const char *const echo_arguments[] = {"*a", "*b", NULL};
static const char *const refuse_arguments[] = {"text", NULL};
static const struct hf_qmp_command commands[] = {
    {"echo", echo, echo_arguments}, {"refuse", refuse, refuse_arguments}, {NULL, NULL, NULL}};

static void stop_server(void)
{
	hf_qmp_server_destroy(server);
	*strrchr(socket_path, '/') = '\0';
	rmdir(socket_path);
}

static void start_server(void)
{
	char directory[FUZZ_DIRECTORY_BYTES];
	if (server)
		return;
	fuzz_make_directory(directory);
	snprintf(socket_path, sizeof(socket_path), "%s/qmp", directory);
	struct hf_qmp_server_config config = {
	    .socket_path = socket_path, .commands = commands, .package = "fuzz"};
	fuzz_check(hf_qmp_server_create(&server, &config, NULL) == 0);
	atexit(stop_server);
}

/* ---- the client -------------------------------------------------------------------------------- */

static int connect_client(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", socket_path);
	fuzz_check(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
	return fd;
}

/* Says everything, reads everything, until the server has hung up. */
static size_t converse(int fd, const uint8_t *data, size_t bytes, char *answers)
{
	size_t sent = 0, got = 0;
	for (;;) {
		struct pollfd entry = {.fd = fd, .events = (short)(POLLIN | (sent < bytes ? POLLOUT : 0))};
		if (poll(&entry, 1, -1) < 0 && errno == EINTR) // the fuzzer's own clock
			continue;
		if (sent < bytes && entry.revents & POLLOUT) {
			ssize_t n = send(fd, data + sent, bytes - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
			sent = n > 0 ? sent + (size_t)n : bytes;
			if (sent == bytes)
				shutdown(fd, SHUT_WR);
		}
		if (!(entry.revents & ~POLLOUT))
			continue;
		fuzz_check(got < ANSWERS_MAX);
		ssize_t n = recv(fd, answers + got, ANSWERS_MAX - got, MSG_DONTWAIT);
		if (n <= 0)
			return got;
		got += (size_t)n;
	}
}

/* Nothing but negotiation has a result, and no event comes, before negotiation has. */
static void check_negotiated(const json_t *message, bool *negotiated)
{
	const json_t *result = json_object_get(message, "return");
	fuzz_check(*negotiated || !json_object_get(message, "event"));
	fuzz_check(*negotiated || !result || (json_is_object(result) && json_object_size(result) == 0));
	*negotiated |= result != NULL;
}

static void check_line(const char *line, size_t bytes, bool first, bool *negotiated)
{
	json_t *message = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, NULL);
	bool is_event = json_object_get(message, "event");
	const json_t *error = json_object_get(message, "error");
	fuzz_check(json_is_object(message));
	fuzz_check(first == (json_object_get(message, "QMP") != NULL));
	fuzz_check(first || is_event || !error != !json_object_get(message, "return"));
	if (error) {
		fuzz_check(json_is_string(json_object_get(error, "class")));
		fuzz_check(json_is_string(json_object_get(error, "desc")));
	}
	check_negotiated(message, negotiated);
	json_decref(message);
}

static void check_answers(const char *answers, size_t bytes)
{
	const char *at = answers;
	bool negotiated = false;
	for (const char *end; (end = memchr(at, '\n', bytes - (size_t)(at - answers))); at = end + 1) {
		fuzz_check(end > at && end[-1] == '\r');
		check_line(at, (size_t)(end - 1 - at), at == answers, &negotiated);
	}
	fuzz_check(at > answers && at == answers + bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static char answers[ANSWERS_MAX];
	if (bytes == 0 || bytes > INPUT_MAX)
		return 0;
	start_server();
	int fd = connect_client();
	size_t got = converse(fd, data, bytes, answers);
	check_answers(answers, got);
	close(fd);
	return 0;
}
