/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the source opens a connection.
 *
 *   control channel: connect, hello -> reply says how many page channels of each class
 *   each page channel, to the same address: connect, hello -> reply
 *
 * Every step ends at its own deadline (resolving a name is bounded by the resolver's). Nothing the listener
 * says is believed unchecked: it may be another program, another version, or broken. When any step fails the
 * whole connection is given up.
 */
#include "transport-tcp/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "core/opening.h"

struct opening {
	const char *uri;
	struct tcp_uri parsed;
	struct tcp_address address; /* the one that answered */
	struct hf_tcp_options options;
	struct hf_opening_offer offer;
	struct hf_link_info info;
};

/* ---- sockets ---------------------------------------------------------------------------------- */

static int finish_connect(int fd, uint64_t deadline_ms)
{
	int ready = tcp_wait(fd, POLLOUT, deadline_ms);
	if (ready < 0)
		return ready;
	if (!ready)
		return -ETIMEDOUT;
	int error_number = 0;
	socklen_t length = sizeof(error_number);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error_number, &length))
		return -errno;
	return -error_number;
}

/* A unix socket with a full backlog would refuse a non-blocking connect, so it blocks, for a while. */
static int connect_unix(int fd, const struct tcp_address *address, uint32_t timeout_ms)
{
	uint64_t deadline_ms = tcp_now_ms() + timeout_ms;
	struct timeval limit = {.tv_sec = timeout_ms / 1000,
				.tv_usec = (suseconds_t)(timeout_ms % 1000) * 1000};
	const struct timeval none = {0};
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	while (connect(fd, (const struct sockaddr *)&address->storage, address->length_bytes)) {
		if (errno == EAGAIN)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
		if (tcp_now_ms() >= deadline_ms)
			return -ETIMEDOUT;
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &none, sizeof(none));
	return 0;
}

static int connect_tcp(int fd, const struct tcp_address *address, uint32_t timeout_ms)
{
	uint64_t deadline_ms = tcp_now_ms() + timeout_ms;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK))
		return -errno;
	if (connect(fd, (const struct sockaddr *)&address->storage, address->length_bytes)) {
		if (errno != EINPROGRESS && errno != EINTR)
			return -errno;
		int result = finish_connect(fd, deadline_ms);
		if (result)
			return result;
	}
	return fcntl(fd, F_SETFL, flags) ? -errno : 0;
}

/* A connected socket, or -errno. */
static int connect_address(const struct tcp_address *address, uint32_t timeout_ms)
{
	bool is_unix = address->storage.ss_family == AF_UNIX;
	int fd = socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int result = is_unix ? connect_unix(fd, address, timeout_ms) : connect_tcp(fd, address, timeout_ms);
	if (!result)
		result = tcp_tune(fd, is_unix);
	if (!result)
		return fd;
	close(fd);
	return result;
}

static int explain_connect(const struct opening *opening, int result, struct hf_err *err)
{
	const char *hint = "check the address and that the destination runs";
	if (result == -ECONNREFUSED || result == -ENOENT)
		hint = "nobody listens there; start the destination first, or it has taken another VM";
	else if (result == -EMFILE || result == -ENFILE)
		hint = "raise the limit of open files";
	enum hf_err_class class =
	    result == -EMFILE || result == -ENFILE || result == -EACCES ? HF_ERR_LOCAL : HF_ERR_LINK;
	return hf_err_set(err, class, -result, "%s: cannot connect: %s; %s", opening->uri, strerror(-result),
			  hint);
}

static int connect_first_tcp(struct opening *opening, int *fd, struct hf_err *err)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV};
	struct addrinfo *found;
	int failed = getaddrinfo(opening->parsed.address.host, opening->parsed.address.port, &hints, &found);
	if (failed)
		return hf_err_set(err, HF_ERR_LINK, EHOSTUNREACH, "%s: cannot resolve the host: %s",
				  opening->uri, gai_strerror(failed));

	int result = -EHOSTUNREACH;
	for (const struct addrinfo *one = found; one && result < 0; one = one->ai_next) {
		memcpy(&opening->address.storage, one->ai_addr, one->ai_addrlen);
		opening->address.length_bytes = one->ai_addrlen;
		result = connect_address(&opening->address, opening->options.timeout_ms);
	}
	freeaddrinfo(found);
	if (result < 0)
		return explain_connect(opening, result, err);
	*fd = result;
	return 0;
}

static int connect_first(struct opening *opening, int *fd, struct hf_err *err)
{
	if (!opening->parsed.is_unix)
		return connect_first_tcp(opening, fd, err);
	tcp_unix_address(&opening->parsed, &opening->address);
	int result = connect_address(&opening->address, opening->options.timeout_ms);
	if (result < 0)
		return explain_connect(opening, result, err);
	*fd = result;
	return 0;
}

/* ---- greeting --------------------------------------------------------------------------------- */

static int not_hugeferry(const struct opening *opening, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_PEER, EPROTO,
			  "%s: what answers there is not Hugeferry; check host and port", opening->uri);
}

static int explain_greeting(const struct opening *opening, int result, struct hf_err *err)
{
	if (result == -ETIMEDOUT)
		return hf_err_set(err, HF_ERR_LINK, ETIMEDOUT,
				  "%s: no answer to the greeting within %u ms; is a Hugeferry destination "
				  "waiting there?",
				  opening->uri, opening->options.timeout_ms);
	return hf_err_set(err, HF_ERR_LINK, -result,
			  "%s: the connection broke during the greeting: %s; is a Hugeferry destination "
			  "waiting there?",
			  opening->uri, strerror(-result));
}

/* The fixed part. A program that is not Hugeferry is told by its first bytes, however few it sends. */
static int read_reply(const struct opening *opening, int fd, uint64_t deadline_ms,
		      struct hf_wire_hello_reply *reply, struct hf_err *err)
{
	uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES];
	size_t have = 0;
	while (have < sizeof(bytes)) {
		ssize_t got = tcp_recv_some(fd, bytes + have, sizeof(bytes) - have, deadline_ms);
		if (got < 0)
			return explain_greeting(opening, (int)got, err);
		have += (size_t)got;
		if (!tcp_greeting_possible(bytes, have))
			return not_hugeferry(opening, err);
	}
	struct hf_err why = HF_ERR_INIT;
	int result = hf_wire_decode_hello_reply(bytes, sizeof(bytes), reply, &why);
	if (result) {
		hf_err_prefix(&why, "%s", opening->uri);
		if (err)
			*err = why;
	}
	return result;
}

/* Returns how much of it came. */
static size_t read_text(int fd, uint8_t *text, size_t text_bytes, uint64_t deadline_ms)
{
	size_t have = 0;
	while (have < text_bytes) {
		ssize_t got = tcp_recv_some(fd, text + have, text_bytes - have, deadline_ms);
		if (got < 0)
			break;
		have += (size_t)got;
	}
	return have;
}

static int read_accepted(const struct opening *opening, int fd, enum hf_wire_channel channel,
			 struct hf_wire_hello_reply *reply, struct hf_err *err)
{
	uint64_t deadline_ms = tcp_now_ms() + opening->options.timeout_ms;
	uint8_t text[HF_WIRE_TEXT_MAX_BYTES];
	int result = read_reply(opening, fd, deadline_ms, reply, err);
	if (result)
		return result;
	// A refusal counts even when the connection breaks before its text has come.
	size_t text_bytes = read_text(fd, text, reply->text_bytes, deadline_ms);
	if (reply->status != HF_WIRE_HELLO_ACCEPTED)
		return hf_opening_refused(&opening->offer, channel, reply->status, text, text_bytes, err);
	if (text_bytes < reply->text_bytes)
		return explain_greeting(opening, -ECONNRESET, err);
	return 0;
}

static int greet(const struct opening *opening, int fd, const struct hf_wire_hello *hello,
		 struct hf_wire_hello_reply *reply, struct hf_err *err)
{
	uint8_t bytes[HF_WIRE_HELLO_BYTES];
	ssize_t encoded = hf_wire_encode_hello(hello, bytes, sizeof(bytes));
	if (encoded < 0)
		return hf_err_set(err, HF_ERR_LOCAL, (int)-encoded, "%s: cannot make the greeting",
				  opening->uri);
	int result = tcp_send_whole(fd, bytes, (size_t)encoded, tcp_now_ms() + opening->options.timeout_ms);
	// A listener that refuses at once may have closed already; its reason can still be read.
	if (result && result != -EPIPE && result != -ECONNRESET)
		return explain_greeting(opening, result, err);
	return read_accepted(opening, fd, hello->channel, reply, err);
}

/* ---- opening ---------------------------------------------------------------------------------- */

static int open_control(struct opening *opening, int *fd, struct hf_err *err)
{
	struct hf_wire_hello hello = hf_opening_hello(&opening->offer, HF_WIRE_CHANNEL_CONTROL, 0);
	struct hf_wire_hello_reply reply = {0};

	int result = connect_first(opening, fd, err);
	if (!result)
		result = greet(opening, *fd, &hello, &reply, err);
	return result ? result : hf_opening_take_terms(&opening->offer, &reply, &opening->info, err);
}

static int open_page_channel(const struct opening *opening, struct page_channel *channel, struct hf_err *err)
{
	enum hf_wire_channel kind =
	    channel->load.class == HF_FETCH_URGENT ? HF_WIRE_CHANNEL_URGENT : HF_WIRE_CHANNEL_BACKGROUND;
	struct hf_wire_hello hello = hf_opening_hello(&opening->offer, kind, channel->index);
	struct hf_wire_hello_reply reply = {0};
	int result = connect_address(&opening->address, opening->options.timeout_ms);
	if (result < 0)
		return explain_connect(opening, result, err);
	channel->fd = result;
	result = greet(opening, channel->fd, &hello, &reply, err);
	return result ? result : hf_opening_check_repeated(&opening->offer, &opening->info, &reply, err);
}

static int check_connect(const char *uri, const struct hf_tcp_options *options, struct opening *opening,
			 struct hf_err *err)
{
	memset(opening, 0, sizeof(*opening));
	opening->uri = uri;
	int result = tcp_uri_parse(uri, &opening->parsed, err);
	if (!result)
		result = tcp_options_check(options, &opening->options, err);
	if (result)
		return result;
	if (!opening->parsed.is_unix &&
	    (!opening->parsed.address.host[0] || !atoi(opening->parsed.address.port)))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "'%s': to connect, host and port must be named; write tcp:HOST:PORT", uri);
	opening->offer = (struct hf_opening_offer){.uri = uri,
						   .epoch = opening->options.epoch,
						   .check = opening->options.check,
						   .release = opening->options.release,
						   .precopy = opening->options.precopy};
	memcpy(opening->offer.session, opening->options.session, sizeof(opening->offer.session));
	memcpy(opening->offer.channels, opening->options.channels, sizeof(opening->offer.channels));
	return hf_opening_check_offer(&opening->offer, err);
}

int hf_tcp_connect(struct hf_tcp **out, const char *uri, const struct hf_tcp_options *options,
		   struct hf_err *err)
{
	struct opening opening;
	struct hf_tcp *tcp = NULL;
	int control_fd = -1;
	int result = check_connect(uri, options, &opening, err);
	if (!result)
		result = open_control(&opening, &control_fd, err);
	if (!result)
		result = tcp_new(&tcp, TCP_ROLE_SOURCE, opening.parsed.is_unix, &opening.info, err);
	if (result) {
		tcp_close_fd(&control_fd);
		return result;
	}
	tcp->control_fd = control_fd;
	snprintf(tcp->name, sizeof(tcp->name), "%s", uri);
	memcpy(tcp->session, opening.options.session, sizeof(tcp->session));
	for (uint32_t i = 0; i < tcp->channel_count && !result; i++)
		result = open_page_channel(&opening, &tcp->channels[i], err);
	if (result) {
		tcp_free(tcp);
		return result;
	}
	*out = tcp;
	return 0;
}
