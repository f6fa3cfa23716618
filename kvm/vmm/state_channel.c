/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_channel.c - device state over a unix stream socket.
 *
 * Theory of operation. The stream is the blob of core/devstate.h and nothing else; the blob guards itself by
 * length and checksum, so the end of the stream is all the framing there is. Sockets do not block; every
 * wait is a poll on the socket and on cancel_fd.
 */
#include "kvm/vmm/state_channel.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/devstate.h"

#define IDLE_LIMIT_MS	    30000
#define FIRST_RECEIVE_BYTES (64u << 10)

int vmm_state_uri(const char *uri, const char **path, struct hf_err *err)
{
	if (!uri || strncmp(uri, "unix:", 5) || !uri[5] ||
	    strlen(uri + 5) >= sizeof(((struct sockaddr_un *)0)->sun_path))
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "Parameter 'uri' expects a valid migration protocol; this VMM knows unix:PATH");
	*path = uri + 5;
	return 0;
}

static int socket_failed(const char *what, int errnum, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LINK, errnum, "device state: %s: %s", what, strerror(errnum));
}

static int wait_for(int fd, short events, int timeout_ms, int cancel_fd, struct hf_err *err)
{
	struct pollfd polls[2] = {{.fd = fd, .events = events}, {.fd = cancel_fd, .events = POLLIN}};
	int ready;

	do
		ready = poll(polls, 2, timeout_ms);
	while (ready < 0 && errno == EINTR);
	if (ready < 0)
		return socket_failed("poll", errno, err);
	if (polls[1].revents)
		return hf_err_set(err, HF_ERR_CANCELLED, ECANCELED, "device state: cancelled");
	if (!ready)
		return socket_failed("the other side moves nothing", ETIMEDOUT, err);
	return 0;
}

static int make_socket(const char *path, struct sockaddr_un *address, int *fd, struct hf_err *err)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->sun_path, path, strlen(path));
	int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (made < 0)
		return socket_failed("socket", errno, err);
	*fd = made;
	return 0;
}

int vmm_state_connect(const char *path, int *fd, struct hf_err *err)
{
	struct sockaddr_un address;
	int made;
	int result = make_socket(path, &address, &made, err);
	if (result)
		return result;
	if (connect(made, (struct sockaddr *)&address, sizeof(address)) < 0) {
		result = socket_failed(path, errno, err);
		close(made);
		return result;
	}
	*fd = made;
	return 0;
}

int vmm_state_send(int fd, const void *data, size_t length_bytes, int cancel_fd, struct hf_err *err)
{
	const char *at = data;

	while (length_bytes) {
		int result = wait_for(fd, POLLOUT, IDLE_LIMIT_MS, cancel_fd, err);
		if (result)
			return result;
		ssize_t sent = send(fd, at, length_bytes, MSG_NOSIGNAL);
		if (sent < 0 && errno != EAGAIN && errno != EINTR)
			return socket_failed("send", errno, err);
		if (sent > 0) {
			at += sent;
			length_bytes -= (size_t)sent;
		}
	}
	return 0;
}

/* Removes a socket file nobody listens on; anything else stays and makes bind fail. */
static void remove_stale(const char *path, const struct sockaddr_un *address)
{
	struct stat file;
	if (lstat(path, &file) || !S_ISSOCK(file.st_mode))
		return;
	int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (probe < 0)
		return;
	if (connect(probe, (const struct sockaddr *)address, sizeof(*address)) < 0 && errno == ECONNREFUSED)
		unlink(path);
	close(probe);
}

int vmm_state_listen(const char *path, int *listen_fd, struct hf_err *err)
{
	struct sockaddr_un address;
	int made;
	int result = make_socket(path, &address, &made, err);
	if (result)
		return result;
	remove_stale(path, &address);
	/* fchmod before bind gives the file its mode from its first moment on. */
	if (fchmod(made, 0600) < 0 || bind(made, (struct sockaddr *)&address, sizeof(address)) < 0) {
		result = socket_failed(path, errno, err);
		close(made);
		return result;
	}
	if (listen(made, 1) < 0) {
		result = socket_failed(path, errno, err);
		unlink(path);
		close(made);
		return result;
	}
	*listen_fd = made;
	return 0;
}

int vmm_state_accept(int listen_fd, int cancel_fd, int *fd, struct hf_err *err)
{
	for (;;) {
		int result = wait_for(listen_fd, POLLIN, -1, cancel_fd, err);
		if (result)
			return result;
		int accepted = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (accepted >= 0) {
			*fd = accepted;
			return 0;
		}
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return socket_failed("accept", errno, err);
	}
}

struct receiver {
	char *data;
	size_t length, room;
};

static int make_room(struct receiver *receiver, struct hf_err *err)
{
	if (receiver->length < receiver->room)
		return 0;
	/* One byte above the limit tells "exactly the limit" from "too long". */
	if (receiver->room > HF_DEVSTATE_MAX_BYTES)
		return hf_err_set(err, HF_ERR_PEER, EMSGSIZE, "device state: more than %u bytes",
				  HF_DEVSTATE_MAX_BYTES);
	size_t room = receiver->room ? 2 * receiver->room : FIRST_RECEIVE_BYTES;
	if (room > HF_DEVSTATE_MAX_BYTES)
		room = (size_t)HF_DEVSTATE_MAX_BYTES + 1;
	char *data = realloc(receiver->data, room);
	if (!data)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "device state: out of memory");
	receiver->data = data;
	receiver->room = room;
	return 0;
}

static int receive_all(struct receiver *receiver, int fd, int cancel_fd, struct hf_err *err)
{
	for (;;) {
		int result = make_room(receiver, err);
		if (!result)
			result = wait_for(fd, POLLIN, IDLE_LIMIT_MS, cancel_fd, err);
		if (result)
			return result;
		ssize_t received =
		    recv(fd, receiver->data + receiver->length, receiver->room - receiver->length, 0);
		if (!received)
			return 0;
		if (received < 0 && errno != EAGAIN && errno != EINTR)
			return socket_failed("receive", errno, err);
		if (received > 0)
			receiver->length += (size_t)received;
	}
}

int vmm_state_receive(int fd, int cancel_fd, void **data, size_t *length_bytes, struct hf_err *err)
{
	struct receiver receiver = {0};
	int result = receive_all(&receiver, fd, cancel_fd, err);
	if (result) {
		free(receiver.data);
		return result;
	}
	*data = receiver.data;
	*length_bytes = receiver.length;
	return 0;
}
