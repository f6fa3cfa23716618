/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct fuzz_peers fuzz_peers = {.listener = -1};

static atomic_uint_least64_t skipped_ns;

/* ---- the code's system calls ------------------------------------------------------------------- */

int __real_poll(struct pollfd *entries, nfds_t count, int timeout_ms);
int __wrap_poll(struct pollfd *entries, nfds_t count, int timeout_ms);
int __real_clock_gettime(clockid_t clock, struct timespec *now);
int __wrap_clock_gettime(clockid_t clock, struct timespec *now);
ssize_t __real_recv(int fd, void *bytes, size_t count, int flags);
ssize_t __wrap_recv(int fd, void *bytes, size_t count, int flags);
ssize_t __real_send(int fd, const void *bytes, size_t count, int flags);
ssize_t __wrap_send(int fd, const void *bytes, size_t count, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *message, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags);
int __wrap_connect(int fd, const struct sockaddr *address, socklen_t bytes);
int __real_connect(int fd, const struct sockaddr *address, socklen_t bytes);
int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *bytes, int flags);
int __real_accept4(int fd, struct sockaddr *address, socklen_t *bytes, int flags);

int __wrap_poll(struct pollfd *entries, nfds_t count, int timeout_ms)
{
	if (timeout_ms <= 0)
		return __real_poll(entries, count, timeout_ms);
	int ready = __real_poll(entries, count, 0);
	if (ready == 0)
		atomic_fetch_add(&skipped_ns, (uint64_t)timeout_ms * 1000000u);
	return ready;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = __real_clock_gettime(clock, now);
	uint64_t ns = (uint64_t)now->tv_nsec + atomic_load(&skipped_ns);
	now->tv_sec += (time_t)(ns / 1000000000u);
	now->tv_nsec = (long)(ns % 1000000000u);
	return result;
}

ssize_t __wrap_recv(int fd, void *bytes, size_t count, int flags)
{
	if (fuzz_peers.shortness && count > 1u + fuzz_peers.shortness)
		count = 1u + fuzz_peers.shortness;
	return __real_recv(fd, bytes, count, flags);
}

static ssize_t sent(int fd, ssize_t result)
{
	int before = errno;
	if (result > 0 && fuzz_peers.on_send)
		fuzz_peers.on_send(fuzz_peers.opaque, fd);
	errno = before;
	return result;
}

ssize_t __wrap_send(int fd, const void *bytes, size_t count, int flags)
{
	return sent(fd, __real_send(fd, bytes, count, flags));
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *message, int flags)
{
	return sent(fd, __real_sendmsg(fd, message, flags));
}

int __wrap_connect(int fd, const struct sockaddr *address, socklen_t bytes)
{
	int peer_fd;
	if (!fuzz_peers.on_connect)
		return __real_connect(fd, address, bytes);
	int own_fd = fuzz_peer_pair(&peer_fd);
	bool anybody = fuzz_peers.on_connect(fuzz_peers.opaque, peer_fd);
	int flags = fcntl(fd, F_GETFL);
	if (anybody)
		fuzz_check(dup2(own_fd, fd) == fd && fcntl(fd, F_SETFL, flags) == 0);
	close(own_fd);
	errno = ECONNREFUSED;
	return anybody ? 0 : -1;
}

int __wrap_accept4(int fd, struct sockaddr *address, socklen_t *bytes, int flags)
{
	uint64_t one;
	if (fd != fuzz_peers.listener)
		return __real_accept4(fd, address, bytes, flags);
	if (read(fd, &one, sizeof(one)) != (ssize_t)sizeof(one))
		return -1;
	int own_fd = fuzz_peers.knocking[0];
	memmove(fuzz_peers.knocking, fuzz_peers.knocking + 1, sizeof(fuzz_peers.knocking) - sizeof(int));
	fuzz_peers.knocking_count--;
	return own_fd;
}

/* ---- the peers --------------------------------------------------------------------------------- */

void fuzz_peers_begin(void *opaque)
{
	fuzz_peers = (struct fuzz_peers){.opaque = opaque, .listener = -1};
}

void fuzz_peers_end(void)
{
	for (uint32_t i = 0; i < fuzz_peers.count; i++)
		close(fuzz_peers.fds[i]);
	for (uint32_t i = 0; i < fuzz_peers.knocking_count; i++)
		close(fuzz_peers.knocking[i]);
	if (fuzz_peers.listener >= 0)
		close(fuzz_peers.listener);
	fuzz_peers_begin(NULL);
}

int fuzz_peer_pair(int *peer_fd)
{
	int pair[2];
	fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
	if (fuzz_peers.count == FUZZ_PEERS_MAX) { // the first has been heard out
		close(fuzz_peers.fds[0]);
		memmove(fuzz_peers.fds, fuzz_peers.fds + 1, sizeof(fuzz_peers.fds) - sizeof(int));
		fuzz_peers.count--;
	}
	fuzz_peers.fds[fuzz_peers.count++] = pair[1];
	*peer_fd = pair[1];
	return pair[0];
}

int fuzz_peer_knock(void)
{
	uint64_t one = 1;
	int peer_fd;
	fuzz_check(fuzz_peers.knocking_count < FUZZ_PEERS_MAX);
	if (fuzz_peers.listener < 0)
		fuzz_peers.listener = eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK | EFD_CLOEXEC);
	fuzz_check(fuzz_peers.listener >= 0);
	fuzz_peers.knocking[fuzz_peers.knocking_count++] = fuzz_peer_pair(&peer_fd);
	fuzz_check(write(fuzz_peers.listener, &one, sizeof(one)) == (ssize_t)sizeof(one));
	return peer_fd;
}

int fuzz_next_fd(void)
{
	int fd = dup(STDERR_FILENO);
	fuzz_check(fd >= 0);
	close(fd);
	return fd;
}

void fuzz_peer_write(int fd, const void *bytes, size_t count)
{
	const uint8_t *at = bytes;
	while (count) {
		ssize_t written = __real_send(fd, at, count, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (written <= 0) // the code has gone, or does not read: either is fine with a fuzzer
			return;
		at += written;
		count -= (size_t)written;
	}
}

size_t fuzz_peer_read(int fd, uint8_t *bytes, size_t most)
{
	size_t have = 0;
	while (have < most) {
		ssize_t got = __real_recv(fd, bytes + have, most - have, MSG_DONTWAIT);
		if (got <= 0)
			break;
		have += (size_t)got;
	}
	return have;
}
