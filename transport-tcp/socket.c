/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: sockets are blocking, because a page channel has a thread that should sleep in recv()
 * or sendmsg(); whoever must not block (the opening of a connection, the control thread, fetch) says so call
 * by call with MSG_DONTWAIT. Every wait while a connection is being opened ends at a deadline.
 */
#include "transport-tcp/internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint64_t tcp_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int tcp_wait(int fd, short events, uint64_t deadline_ms)
{
	for (;;) {
		uint64_t now_ms = tcp_now_ms();
		int left_ms = now_ms < deadline_ms ? (int)(deadline_ms - now_ms) : 0;
		struct pollfd entry = {.fd = fd, .events = events};
		int ready = poll(&entry, 1, left_ms);
		if (ready >= 0)
			return ready;
		if (errno != EINTR)
			return -errno;
	}
}

/* After a socket call that returned -1: 0 = try again now, else -errno. */
static int wait_after_error(int fd, short events, uint64_t deadline_ms)
{
	if (errno == EINTR)
		return 0;
	if (errno != EAGAIN)
		return -errno;
	int ready = tcp_wait(fd, events, deadline_ms);
	if (ready < 0)
		return ready;
	return ready ? 0 : -ETIMEDOUT;
}

int tcp_send_whole(int fd, const void *bytes, size_t length_bytes, uint64_t deadline_ms)
{
	const uint8_t *at = bytes;
	while (length_bytes) {
		ssize_t sent = send(fd, at, length_bytes, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (sent < 0) {
			int result = wait_after_error(fd, POLLOUT, deadline_ms);
			if (result)
				return result;
			continue;
		}
		at += sent;
		length_bytes -= (size_t)sent;
	}
	return 0;
}

ssize_t tcp_recv_some(int fd, void *bytes, size_t most_bytes, uint64_t deadline_ms)
{
	for (;;) {
		ssize_t got = recv(fd, bytes, most_bytes, MSG_DONTWAIT);
		if (got > 0)
			return got;
		if (got == 0)
			return -ECONNRESET;
		int result = wait_after_error(fd, POLLIN, deadline_ms);
		if (result)
			return result;
	}
}

static int set_int(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) ? -errno : 0;
}

int tcp_tune(int fd, bool is_unix)
{
	if (is_unix) // the kernel says at once when a local peer is gone
		return 0;

	const struct {
		int level, option, value;
	} options[] = {
	    {IPPROTO_TCP, TCP_NODELAY, 1},   {SOL_SOCKET, SO_KEEPALIVE, 1},
	    {IPPROTO_TCP, TCP_KEEPIDLE, 10}, {IPPROTO_TCP, TCP_KEEPINTVL, 5},
	    {IPPROTO_TCP, TCP_KEEPCNT, 4},   {IPPROTO_TCP, TCP_USER_TIMEOUT, (int)TCP_SILENCE_MAX_MS},
	};
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		int result = set_int(fd, options[i].level, options[i].option, options[i].value);
		if (result)
			return result;
	}
	return 0;
}

void tcp_tune_requester(int fd)
{
	// Each unacknowledged small segment costs the kernel a kilobyte or more. Where the host's limit is
	// lower the kernel takes what it allows; fetch copes with a full buffer.
	set_int(fd, SOL_SOCKET, SO_SNDBUF, 256 << 10);
}

bool tcp_greeting_possible(const uint8_t *bytes, size_t length_bytes)
{
	size_t magic_bytes = sizeof(HF_WIRE_MAGIC) - 1;
	return memcmp(bytes, HF_WIRE_MAGIC, length_bytes < magic_bytes ? length_bytes : magic_bytes) == 0;
}

void tcp_close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}
