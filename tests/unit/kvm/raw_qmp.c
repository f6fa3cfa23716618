/* SPDX-License-Identifier: Apache-2.0 */
#include "raw_qmp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

void raw_directory_make(struct raw_directory *directory)
{
	snprintf(directory->path, sizeof(directory->path), "/tmp/hf-test-qmp-XXXXXX");
	assert_non_null(mkdtemp(directory->path));
	snprintf(directory->socket_path, sizeof(directory->socket_path), "%s/qmp.sock", directory->path);
}

void raw_directory_remove(struct raw_directory *directory)
{
	// Fails when the code under test has left a file.
	assert_return_code(rmdir(directory->path), 0);
}

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	assert_true(strlen(path) < sizeof(address.sun_path));
	strcpy(address.sun_path, path);
	return address;
}

static void use(struct raw_qmp *raw, int fd)
{
	struct timeval timeout = {.tv_sec = RAW_TIMEOUT_MS / 1000};
	assert_return_code(fd, 0);
	raw->fd = fd;
	raw->length_bytes = 0;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
}

void raw_connect(struct raw_qmp *raw, const char *path)
{
	struct sockaddr_un address = address_of(path);
	use(raw, socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
	assert_return_code(connect(raw->fd, (struct sockaddr *)&address, sizeof(address)), 0);
}

int raw_listen(const char *path)
{
	struct sockaddr_un address = address_of(path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_return_code(fd, 0);
	assert_return_code(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_return_code(listen(fd, 8), 0);
	return fd;
}

void raw_accept(struct raw_qmp *raw, int listen_fd)
{
	use(raw, accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC));
}

void raw_send(struct raw_qmp *raw, const char *text)
{
	size_t left = strlen(text);
	while (left > 0) {
		ssize_t n = send(raw->fd, text, left, MSG_NOSIGNAL);
		assert_return_code(n, 0);
		text += n;
		left -= (size_t)n;
	}
}

json_t *raw_receive(struct raw_qmp *raw)
{
	char *end;
	while (!(end = memchr(raw->buffer, '\n', raw->length_bytes))) {
		assert_true(raw->length_bytes < sizeof(raw->buffer));
		ssize_t n = recv(raw->fd, raw->buffer + raw->length_bytes,
				 sizeof(raw->buffer) - raw->length_bytes, 0);
		assert_return_code(n, 0);
		if (n == 0)
			return NULL;
		raw->length_bytes += (size_t)n;
	}
	size_t line_bytes = (size_t)(end - raw->buffer) + 1;
	json_t *value = json_loadb(raw->buffer, line_bytes, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(value);
	raw->length_bytes -= line_bytes;
	memmove(raw->buffer, end + 1, raw->length_bytes);
	return value;
}

bool raw_matches(const json_t *pattern, const json_t *value)
{
	const char *text = json_string_value(pattern);
	if (text && strcmp(text, "*") == 0)
		return value != NULL;
	if (json_is_array(pattern) && json_is_array(value)) {
		bool same = json_array_size(pattern) == json_array_size(value);
		for (size_t i = 0; same && i < json_array_size(pattern); i++)
			same = raw_matches(json_array_get(pattern, i), json_array_get(value, i));
		return same;
	}
	if (!json_is_object(pattern) || !json_is_object(value))
		return json_equal(pattern, value);

	const char *key;
	json_t *member;
	bool same = json_object_size(pattern) == json_object_size(value);
	json_object_foreach((json_t *)pattern, key, member)
	{
		same = same && raw_matches(member, json_object_get(value, key));
	}
	return same;
}

void raw_expect(struct raw_qmp *raw, const char *expected)
{
	json_t *pattern = json_loads(expected, JSON_REJECT_DUPLICATES, NULL);
	json_t *value = raw_receive(raw);
	assert_non_null(pattern);
	assert_non_null(value);
	if (!raw_matches(pattern, value)) {
		char *text = json_dumps(value, 0);
		print_error("expected %s\n     got %s\n", expected, text);
		fail();
	}
	json_decref(pattern);
	json_decref(value);
}

void raw_expect_end(struct raw_qmp *raw)
{
	json_t *value = raw_receive(raw);
	assert_null(value);
}

void raw_negotiate(struct raw_qmp *raw, const char *path)
{
	raw_connect(raw, path);
	raw_expect(raw, "{\"QMP\": \"*\"}");
	raw_send(raw, "{\"execute\": \"qmp_capabilities\"}\n");
	raw_expect(raw, "{\"return\": {}}");
}

void raw_close(struct raw_qmp *raw)
{
	close(raw->fd);
	raw->fd = -1;
}
