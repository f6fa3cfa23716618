/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors travel as SCM_RIGHTS beside the bytes of an answer. One sendmsg() takes at most 253 of them, so
 * they go in batches, each with one byte; the rest of the text follows bare. The receiver collects whatever
 * comes until the line is whole and compares the number with the one the answer names.
 */
#include "hugemem/attach_wire.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "hugemem/attach_client.h"

#define BATCH_FDS 128

const struct hf_attach_error_class hf_attach_error_classes[] = {
    {"busy", EBUSY},		 // another agent is connected
    {"refused", EACCES},	 // not this peer
    {"invalid", EINVAL},	 // the request is malformed or not allowed now
    {"unsupported", EOPNOTSUPP}, // the kernel, the memory or the library cannot
    {"failed", EIO},		 // it was tried and failed
    {NULL, 0},
};

const struct hf_attach_mode hf_attach_modes[] = {
    {"missing", HF_USERFAULT_MISSING},
    {"minor", HF_USERFAULT_MINOR},
    {"wp-async", HF_USERFAULT_WP_ASYNC},
    {NULL, 0},
};

uint64_t hf_attach_now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t hf_attach_deadline_ns(uint32_t timeout_ms)
{
	return hf_attach_now_ns() + timeout_ms * 1000000ull;
}

static int remaining_ms(uint64_t deadline_ns)
{
	uint64_t now_ns = hf_attach_now_ns();
	if (now_ns >= deadline_ns)
		return 0;
	uint64_t ms = (deadline_ns - now_ns + 999999) / 1000000;
	return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

int hf_attach_wire_wait(int fd, short events, uint64_t deadline_ns, int stop_fd)
{
	for (;;) {
		struct pollfd polled[2] = {{.fd = fd, .events = events}, {.fd = stop_fd, .events = POLLIN}};
		int n = poll(polled, 2, remaining_ms(deadline_ns));
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0 && polled[1].revents)
			return -ECANCELED;
		if (n > 0)
			return 0;
		if (n == 0 && hf_attach_now_ns() >= deadline_ns)
			return -ETIMEDOUT;
	}
}

static ssize_t send_some(int socket, const char *bytes, size_t length, const int *fds, uint32_t fd_count)
{
	union {
		char bytes[CMSG_SPACE(BATCH_FDS * sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec vector = {.iov_base = (void *)bytes, .iov_len = length};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
	if (fd_count) {
		message.msg_control = control.bytes;
		message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
		struct cmsghdr *header = CMSG_FIRSTHDR(&message);
		header->cmsg_level = SOL_SOCKET;
		header->cmsg_type = SCM_RIGHTS;
		header->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
		memcpy(CMSG_DATA(header), fds, fd_count * sizeof(int));
	}
	ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
	return sent < 0 ? -errno : sent;
}

int hf_attach_wire_send(int socket, const char *bytes, size_t length, const int *fds, uint32_t fd_count,
			uint64_t deadline_ns, int stop_fd)
{
	while (length) {
		uint32_t batch = fd_count < BATCH_FDS ? fd_count : BATCH_FDS;
		ssize_t sent = send_some(socket, bytes, batch ? 1 : length, fds, batch);
		if (sent > 0) {
			bytes += sent;
			length -= (size_t)sent;
			fds = batch ? fds + batch : fds; // there may be no list at all
			fd_count -= batch;
		} else if (sent == -EAGAIN) {
			int result = hf_attach_wire_wait(socket, POLLOUT, deadline_ns, stop_fd);
			if (result)
				return result;
		} else if (sent != -EINTR) {
			return (int)sent;
		}
	}
	return 0;
}

void hf_attach_fds_close(struct hf_attach_fds *fds)
{
	for (uint32_t i = 0; i < fds->count; i++)
		close(fds->fd[i]);
	fds->count = 0;
}

// Takes what fits; the rest is closed, so that no descriptor outlives the refusal.
static int take_fds(struct msghdr *message, struct hf_attach_fds *fds)
{
	int result = 0;
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
			if (fds->count < HF_ATTACH_FDS_MAX) {
				fds->fd[fds->count++] = fd;
			} else {
				close(fd);
				result = -EMSGSIZE;
			}
		}
	}
	return result;
}

ssize_t hf_attach_wire_receive(int socket, char *buffer, size_t capacity, struct hf_attach_fds *fds)
{
	union {
		char bytes[CMSG_SPACE(HF_ATTACH_FDS_MAX * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec vector = {.iov_base = buffer, .iov_len = capacity};
	struct msghdr message = {.msg_iov = &vector,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};
	ssize_t received;
	do {
		received = recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (received < 0 && errno == EINTR);
	if (received < 0)
		return -errno;
	int result = take_fds(&message, fds);
	if (result)
		return result;
	return message.msg_flags & MSG_CTRUNC ? -EMFILE : received;
}

int hf_attach_wire_peer(int socket, pid_t *pid, struct hf_err *err)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);
	if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot tell who is at the other end: %s",
				  strerror(errno));
	if (peer.uid != 0 && peer.uid != geteuid())
		return hf_err_set(err, HF_ERR_PEER, EACCES,
				  "process %d at the other end runs as uid %u; it must be root or uid %u",
				  (int)peer.pid, (unsigned)peer.uid, (unsigned)geteuid());
	*pid = peer.pid;
	return 0;
}

int hf_attach_wire_address(struct sockaddr_un *address, const char *path, struct hf_err *err)
{
	size_t length = strlen(path);
	if (!length || length >= sizeof(address->sun_path))
		return hf_err_set(err, HF_ERR_LOCAL, ENAMETOOLONG,
				  "the attach socket's path must have 1 to %zu characters: '%s'",
				  sizeof(address->sun_path) - 1, path);
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->sun_path, path, length + 1);
	return 0;
}
