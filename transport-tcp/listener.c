/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: binding. A unix socket's file is made with mode 0600, because whoever may connect may
 * feed a VM its memory. A stale file is told from a live one by connecting to it: refused means that nobody
 * listens. On close only the very file that was made is removed.
 */
#include "transport-tcp/listener.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BACKLOG 256 /* all page channels of one session, and some strangers */

static int explain_bind(const struct hf_tcp_listener *listener, int result, struct hf_err *err)
{
	const char *hint = "check the address";
	if (result == -EADDRINUSE)
		hint = "another program listens there; choose another one or stop that program";
	else if (result == -EADDRNOTAVAIL)
		hint = "no interface of this host has that address";
	else if (result == -EACCES || result == -EPERM)
		hint = "this user may not use it";
	else if (result == -ENOENT || result == -ENOTDIR)
		hint = "make its directory first";
	return hf_err_set(err, HF_ERR_LOCAL, -result, "%s: cannot listen: %s; %s", listener->uri,
			  strerror(-result), hint);
}

/* ---- tcp -------------------------------------------------------------------------------------- */

static int bind_address(const struct addrinfo *address)
{
	int on = 1, off = 0;
	int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (address->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (!bind(fd, address->ai_addr, address->ai_addrlen) && !listen(fd, BACKLOG))
		return fd;
	int result = -errno;
	close(fd);
	return result;
}

/* Tries the addresses of one family (AF_UNSPEC: all); the first error is the one to tell. */
static int bind_first(const struct addrinfo *addresses, int family)
{
	int result = -EADDRNOTAVAIL;
	bool tried = false;
	for (const struct addrinfo *one = addresses; one; one = one->ai_next) {
		if (family != AF_UNSPEC && one->ai_family != family)
			continue;
		int fd = bind_address(one);
		if (fd >= 0)
			return fd;
		if (!tried)
			result = fd;
		tried = true;
	}
	return result;
}

static void take_bound_name(struct hf_tcp_listener *listener)
{
	struct tcp_address address = {.length_bytes = sizeof(address.storage)};
	if (!getsockname(listener->fd, (struct sockaddr *)&address.storage, &address.length_bytes))
		tcp_address_name(&address, listener->uri);
}

static int listen_tcp(struct hf_tcp_listener *listener, struct hf_err *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | AI_PASSIVE};
	const char *host = listener->parsed.address.host[0] ? listener->parsed.address.host : NULL;
	struct addrinfo *found;
	int failed = getaddrinfo(host, listener->parsed.address.port, &hints, &found);
	if (failed)
		return hf_err_set(err, HF_ERR_LOCAL, EADDRNOTAVAIL, "%s: cannot resolve the host: %s",
				  listener->uri, gai_strerror(failed));

	// "Every address" is one IPv6 socket that takes IPv4 too, where the host has IPv6.
	int result = host ? bind_first(found, AF_UNSPEC) : bind_first(found, AF_INET6);
	if (result < 0 && !host && result != -EADDRINUSE)
		result = bind_first(found, AF_INET);
	freeaddrinfo(found);
	if (result < 0)
		return explain_bind(listener, result, err);
	listener->fd = result;
	take_bound_name(listener);
	return 0;
}

/* ---- unix ------------------------------------------------------------------------------------- */

static bool someone_listens(const struct tcp_address *address)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return true; // when in doubt, leave the file alone
	bool refused = connect(fd, (const struct sockaddr *)&address->storage, address->length_bytes) &&
		       errno == ECONNREFUSED;
	close(fd);
	return !refused;
}

static int remove_stale_file(const struct hf_tcp_listener *listener, const struct tcp_address *address,
			     struct hf_err *err)
{
	struct stat status;
	if (lstat(listener->parsed.path, &status))
		return errno == ENOENT ? 0 : explain_bind(listener, -errno, err);
	if (!S_ISSOCK(status.st_mode))
		return hf_err_set(
		    err, HF_ERR_LOCAL, EEXIST,
		    "%s: a file that is no socket is in the way; remove it or choose another path",
		    listener->uri);
	if (someone_listens(address))
		return explain_bind(listener, -EADDRINUSE, err);
	if (unlink(listener->parsed.path) && errno != ENOENT)
		return explain_bind(listener, -errno, err);
	return 0;
}

static int bind_unix(struct hf_tcp_listener *listener, const struct tcp_address *address)
{
	struct stat status;
	// The mode of the socket, minus the umask, becomes the mode of the file: no moment of a wider one.
	if (fchmod(listener->fd, 0600) ||
	    bind(listener->fd, (const struct sockaddr *)&address->storage, address->length_bytes))
		return -errno;
	if (!lstat(listener->parsed.path, &status)) {
		listener->owns_file = true;
		listener->file_device = status.st_dev;
		listener->file_inode = status.st_ino;
	}
	return listen(listener->fd, BACKLOG) ? -errno : 0;
}

static int listen_unix(struct hf_tcp_listener *listener, struct hf_err *err)
{
	struct tcp_address address;
	tcp_unix_address(&listener->parsed, &address);
	int result = remove_stale_file(listener, &address, err);
	if (result)
		return result;
	listener->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	result = listener->fd < 0 ? -errno : bind_unix(listener, &address);
	return result ? explain_bind(listener, result, err) : 0;
}

/* ---- the object ------------------------------------------------------------------------------- */

int hf_tcp_listen(struct hf_tcp_listener **out, const char *uri, const struct hf_tcp_options *options,
		  struct hf_err *err)
{
	struct hf_tcp_listener *listener = calloc(1, sizeof(*listener));
	if (!listener)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory for a listener");
	listener->fd = -1;
	int result = tcp_uri_parse(uri, &listener->parsed, err);
	if (!result)
		result = tcp_options_check(options, &listener->options, err);
	if (!result) {
		memcpy(listener->guard.channels, listener->options.channels,
		       sizeof(listener->guard.channels));
		snprintf(listener->uri, sizeof(listener->uri), "%s", uri);
		result = listener->parsed.is_unix ? listen_unix(listener, err) : listen_tcp(listener, err);
	}
	if (result) {
		hf_tcp_listener_close(listener);
		return result;
	}
	*out = listener;
	return 0;
}

const char *hf_tcp_listener_uri(const struct hf_tcp_listener *listener)
{
	return listener->uri;
}

int hf_tcp_listener_fd(const struct hf_tcp_listener *listener)
{
	return listener->fd;
}

void hf_tcp_listener_expect(struct hf_tcp_listener *listener, const uint8_t *session, uint64_t epoch_min)
{
	hf_opening_expect(&listener->guard, session, epoch_min);
}

void hf_tcp_listener_close(struct hf_tcp_listener *listener)
{
	if (!listener)
		return;
	struct stat status;
	tcp_close_fd(&listener->fd);
	if (listener->owns_file && !lstat(listener->parsed.path, &status) &&
	    status.st_dev == listener->file_device && status.st_ino == listener->file_inode)
		unlink(listener->parsed.path);
	free(listener);
}
