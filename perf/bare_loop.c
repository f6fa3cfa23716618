/* SPDX-License-Identifier: Apache-2.0 */
#include "perf/bare_loop.h"

#include <endian.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "core/host_port.h"
#include "perf/window.h"

#define SOCKETS_MAX   64u
#define ACCEPT_MAX_MS 60000
#define URI_BYTES     320
#define PIECE_BYTES   (1u << 20)
#define PIECES_AHEAD  16u /* as much as a page channel may have on its way */

struct request {
	uint64_t offset_bytes, bytes; /* big-endian on the wire */
};

struct bare_socket {
	int fd; /* -1: none */
	uint8_t *window;
	pthread_t thread;
	bool runs;
	/* Of a stream, its thread's own. */
	struct hf_bare *bare;
	struct piece {
		uint64_t offset_bytes, bytes;
	} asked[PIECES_AHEAD];
	uint64_t asked_count;
	bool failed;
};

struct hf_bare {
	int listener;
	char uri[URI_BYTES];
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)]; /* to unlink; "" if there is none */
	struct bare_socket sockets[SOCKETS_MAX];
	uint32_t count;
	/* Of a stream: what is left goes to whoever asks next. */
	uint64_t stream_bytes;
	_Atomic uint64_t asked_bytes;
};

/* ---- addresses --------------------------------------------------------------------------------- */

struct address {
	struct sockaddr_storage storage;
	socklen_t length;
};

static int unix_address(const char *uri, struct address *address, struct hf_err *err)
{
	struct sockaddr_un *of = (struct sockaddr_un *)&address->storage;
	const char *path = uri + strlen("unix:");
	if (!*path || strlen(path) >= sizeof(of->sun_path))
		return hf_uri_malformed(uri, "a path of 1 to 107 bytes belongs behind unix:", err);
	*of = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(of->sun_path, sizeof(of->sun_path), "%s", path);
	address->length = sizeof(*of);
	return 0;
}

static int address_of(const char *uri, bool listens, struct address *address, struct hf_err *err)
{
	struct hf_host_port of;
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = listens ? AI_PASSIVE : 0}, *found;
	*address = (struct address){0};
	if (strncmp(uri, "unix:", 5) == 0)
		return unix_address(uri, address, err);
	if (strncmp(uri, "tcp:", 4) != 0)
		return hf_uri_malformed(uri, "the bare loop knows tcp: and unix:", err);
	int result = hf_host_port_parse(uri, "tcp:", &of, err);
	if (result)
		return result;
	result = getaddrinfo(of.host[0] ? of.host : NULL, of.port, &hints, &found);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%s: %s", uri, gai_strerror(result));
	memcpy(&address->storage, found->ai_addr, found->ai_addrlen);
	address->length = found->ai_addrlen;
	freeaddrinfo(found);
	return 0;
}

static int system_error(const char *uri, const char *what, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LINK, errno, "bare loop at %s: %s: %s", uri, what, strerror(errno));
}

static void name_bound(struct hf_bare *bare, const char *uri)
{
	char host[256], port[16];
	struct address of = {.length = sizeof(of.storage)};
	snprintf(bare->uri, sizeof(bare->uri), "%s", uri);
	if (of.length && getsockname(bare->listener, (struct sockaddr *)&of.storage, &of.length) == 0 &&
	    of.storage.ss_family != AF_UNIX &&
	    getnameinfo((struct sockaddr *)&of.storage, of.length, host, sizeof(host), port, sizeof(port),
			NI_NUMERICHOST | NI_NUMERICSERV) == 0)
		snprintf(bare->uri, sizeof(bare->uri), strchr(host, ':') ? "tcp:[%s]:%s" : "tcp:%s:%s", host,
			 port);
}

/* ---- opening ----------------------------------------------------------------------------------- */

static struct hf_bare *new_bare(void)
{
	struct hf_bare *bare = calloc(1, sizeof(*bare));
	if (!bare)
		return NULL;
	bare->listener = -1;
	for (uint32_t i = 0; i < SOCKETS_MAX; i++)
		bare->sockets[i].fd = -1;
	return bare;
}

static int bind_and_listen(struct hf_bare *bare, const struct address *address)
{
	int one = 1;
	bare->listener = socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (bare->listener < 0)
		return -1;
	setsockopt(bare->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(bare->listener, (const struct sockaddr *)&address->storage, address->length))
		return -1;
	return listen(bare->listener, SOCKETS_MAX);
}

int hf_bare_listen(struct hf_bare **out, const char *uri, struct hf_err *err)
{
	struct address address;
	int result = address_of(uri, true, &address, err);
	if (result)
		return result;
	struct hf_bare *bare = new_bare();
	if (!bare)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	if (bind_and_listen(bare, &address)) {
		result = system_error(uri, "cannot listen", err);
		hf_bare_close(bare);
		return result;
	}
	if (address.storage.ss_family == AF_UNIX)
		snprintf(bare->path, sizeof(bare->path), "%s", uri + strlen("unix:"));
	name_bound(bare, uri);
	*out = bare;
	return 0;
}

const char *hf_bare_uri(const struct hf_bare *bare)
{
	return bare->uri;
}

static void add_socket(struct hf_bare *bare, int fd)
{
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)); /* of no effect on unix: */
	bare->sockets[bare->count++].fd = fd;
}

static int too_many(uint32_t sockets, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%u bare sockets are too many; %u are possible", sockets,
			  SOCKETS_MAX);
}

int hf_bare_accept(struct hf_bare *bare, uint32_t sockets, struct hf_err *err)
{
	if (sockets > SOCKETS_MAX)
		return too_many(sockets, err);
	while (bare->count < sockets) {
		struct pollfd entry = {.fd = bare->listener, .events = POLLIN};
		int ready = poll(&entry, 1, ACCEPT_MAX_MS);
		if (ready == 0)
			errno = ETIMEDOUT;
		int fd = ready > 0 ? accept4(bare->listener, NULL, NULL, SOCK_CLOEXEC) : -1;
		if (fd < 0)
			return system_error(bare->uri, "the other side does not connect", err);
		add_socket(bare, fd);
	}
	return 0;
}

/* ---- giving ------------------------------------------------------------------------------------ */

static bool receive_whole(int fd, void *bytes, uint64_t length)
{
	uint8_t *at = bytes;
	while (length) {
		ssize_t got = recv(fd, at, length, MSG_WAITALL);
		if (got <= 0 && !(got < 0 && errno == EINTR))
			return false;
		at += got > 0 ? got : 0;
		length -= got > 0 ? (uint64_t)got : 0;
	}
	return true;
}

static bool send_whole(int fd, const void *bytes, uint64_t length)
{
	const uint8_t *at = bytes;
	while (length) {
		ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
		if (sent < 0 && errno != EINTR)
			return false;
		at += sent > 0 ? sent : 0;
		length -= sent > 0 ? (uint64_t)sent : 0;
	}
	return true;
}

/* The part of the window from *offset_bytes on, at most `bytes`; *offset_bytes goes on behind it. */
static uint8_t *part_of(uint8_t *window, uint64_t *offset_bytes, uint64_t bytes, uint64_t *part_bytes)
{
	uint64_t from = *offset_bytes % HF_WINDOW_BYTES;
	*part_bytes = bytes < HF_WINDOW_BYTES - from ? bytes : HF_WINDOW_BYTES - from;
	*offset_bytes = from + *part_bytes;
	return window + from;
}

static void *give_main(void *argument)
{
	struct bare_socket *bare = argument;
	struct request request;
	bool good = true;
	while (good && receive_whole(bare->fd, &request, sizeof(request))) {
		uint64_t offset = be64toh(request.offset_bytes), left = be64toh(request.bytes), part;
		for (; good && left; left -= part) {
			uint8_t *from = part_of(bare->window, &offset, left, &part);
			good = send_whole(bare->fd, from, part);
		}
	}
	return NULL;
}

static int connect_one(struct hf_bare *bare, const struct address *address, uint8_t *window)
{
	int fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	if (connect(fd, (const struct sockaddr *)&address->storage, address->length)) {
		close(fd);
		return -1;
	}
	add_socket(bare, fd);
	struct bare_socket *of = &bare->sockets[bare->count - 1];
	of->window = window;
	errno = pthread_create(&of->thread, NULL, give_main, of);
	of->runs = errno == 0;
	return of->runs ? 0 : -1;
}

int hf_bare_connect(struct hf_bare **out, const char *uri, const uint8_t *window, uint32_t sockets,
		    struct hf_err *err)
{
	struct address address;
	if (sockets > SOCKETS_MAX)
		return too_many(sockets, err);
	int result = address_of(uri, false, &address, err);
	if (result)
		return result;
	struct hf_bare *bare = new_bare();
	if (!bare)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	while (bare->count < sockets)
		if (connect_one(bare, &address, (uint8_t *)window)) {
			result = system_error(uri, "cannot connect", err);
			for (uint32_t i = 0; i < bare->count; i++)
				shutdown(bare->sockets[i].fd, SHUT_RDWR);
			hf_bare_close(bare);
			return result;
		}
	*out = bare;
	return 0;
}

/* ---- taking ------------------------------------------------------------------------------------ */

static bool receive_into(int fd, uint8_t *window, uint64_t offset_bytes, uint64_t bytes)
{
	for (uint64_t part; bytes; bytes -= part) {
		uint8_t *into = part_of(window, &offset_bytes, bytes, &part);
		if (!receive_whole(fd, into, part))
			return false;
	}
	return true;
}

int hf_bare_fetch(struct hf_bare *bare, uint8_t *window, uint64_t offset_bytes, uint64_t bytes)
{
	int fd = bare->sockets[0].fd;
	struct request request = {htobe64(offset_bytes), htobe64(bytes)};
	if (!send_whole(fd, &request, sizeof(request)) || !receive_into(fd, window, offset_bytes, bytes))
		return -EIO;
	return 0;
}

/* The next piece of the stream: asked for. 0: there is none; -1: the connection is lost. */
static int ask_for_piece(struct bare_socket *of)
{
	struct hf_bare *bare = of->bare;
	uint64_t at = atomic_fetch_add(&bare->asked_bytes, PIECE_BYTES);
	if (at >= bare->stream_bytes)
		return 0;
	uint64_t left = bare->stream_bytes - at, bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
	struct request request = {htobe64(at), htobe64(bytes)};
	of->asked[of->asked_count++ % PIECES_AHEAD] = (struct piece){at, bytes};
	return send_whole(of->fd, &request, sizeof(request)) ? 1 : -1;
}

/* Asks ahead, so that the other side never waits for a request. */
static void *take_main(void *argument)
{
	struct bare_socket *of = argument;
	int asked = 1;
	of->asked_count = 0;
	of->failed = false;
	for (uint64_t taken = 0; !of->failed; taken++) {
		while (asked > 0 && of->asked_count - taken < PIECES_AHEAD)
			asked = ask_for_piece(of);
		if (taken == of->asked_count)
			break;
		struct piece piece = of->asked[taken % PIECES_AHEAD];
		of->failed = asked < 0 || !receive_into(of->fd, of->window, piece.offset_bytes, piece.bytes);
	}
	return NULL;
}

int hf_bare_stream(struct hf_bare *bare, uint8_t *window, uint64_t bytes)
{
	int result = 0;
	bare->stream_bytes = bytes;
	atomic_store(&bare->asked_bytes, 0);
	for (uint32_t i = 0; i < bare->count; i++) {
		struct bare_socket *of = &bare->sockets[i];
		of->bare = bare;
		of->window = window;
		of->runs = pthread_create(&of->thread, NULL, take_main, of) == 0;
		if (!of->runs)
			result = -EAGAIN;
	}
	for (uint32_t i = 0; i < bare->count; i++) {
		struct bare_socket *of = &bare->sockets[i];
		if (of->runs)
			pthread_join(of->thread, NULL);
		if (of->runs && of->failed)
			result = -EIO;
		of->runs = false;
	}
	return result;
}

/* A giver waits for the taker's end. */
void hf_bare_close(struct hf_bare *bare)
{
	if (!bare)
		return;
	for (uint32_t i = 0; i < bare->count; i++)
		if (bare->sockets[i].runs)
			pthread_join(bare->sockets[i].thread, NULL);
	for (uint32_t i = 0; i < bare->count; i++)
		close(bare->sockets[i].fd);
	if (bare->listener >= 0)
		close(bare->listener);
	if (bare->path[0])
		unlink(bare->path);
	free(bare);
}
