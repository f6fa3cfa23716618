/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a descriptor received with MSG_CMSG_CLOEXEC is close-on-exec, and without it is not, whatever the
 * sender had; where the receiver may open no more, the message arrives with MSG_CTRUNC and without the
 * descriptor.
 *
 * Kernel: 2.6.23 (MSG_CMSG_CLOEXEC).
 *
 * Relied on by: hugemem/attach_wire.c.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/platform/platform.h"

union control {
	char bytes[CMSG_SPACE(sizeof(int))];
	struct cmsghdr align;
};

static void send_descriptor(int socket_fd, int fd)
{
	union control control = {0};
	char byte = 'x';
	struct iovec part = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof(fd));
	memcpy(CMSG_DATA(header), &fd, sizeof(fd));
	must(sendmsg(socket_fd, &message, 0) == 1);
}

/* -1 if none came; *flags says how the message came. */
static int receive_descriptor(int socket_fd, int how, int *flags)
{
	union control control = {0};
	char byte;
	int fd = -1;
	struct iovec part = {.iov_base = &byte, .iov_len = 1};
	struct msghdr message = {.msg_iov = &part,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};

	must(recvmsg(socket_fd, &message, how) == 1);
	*flags = message.msg_flags;
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (header && header->cmsg_len == CMSG_LEN(sizeof(fd)))
		memcpy(&fd, CMSG_DATA(header), sizeof(fd));
	return fd;
}

static void show(uint64_t page_bytes)
{
	int ends[2], flags, sent = open("/dev/null", O_RDWR | O_CLOEXEC);

	(void)page_bytes;
	must(sent >= 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	send_descriptor(ends[0], sent);
	int fd = receive_descriptor(ends[1], MSG_CMSG_CLOEXEC, &flags);
	expect(fd >= 0 && fcntl(fd, F_GETFD) == FD_CLOEXEC,
	       "MSG_CMSG_CLOEXEC makes no close-on-exec descriptor");
	expect(!(flags & MSG_CTRUNC), "a descriptor that came whole is called truncated");
	send_descriptor(ends[0], sent);
	fd = receive_descriptor(ends[1], 0, &flags);
	expect(fd >= 0 && fcntl(fd, F_GETFD) == 0, "a descriptor is close-on-exec without MSG_CMSG_CLOEXEC");

	struct rlimit none = {.rlim_cur = 0, .rlim_max = 0};
	send_descriptor(ends[0], sent);
	must(setrlimit(RLIMIT_NOFILE, &none) == 0);
	fd = receive_descriptor(ends[1], MSG_CMSG_CLOEXEC, &flags);
	expect(fd == -1 && flags & MSG_CTRUNC,
	       "a descriptor that cannot be opened is not reported by MSG_CTRUNC");
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "a passed descriptor is close-on-exec if asked, and its loss is told", .show = show});
}
