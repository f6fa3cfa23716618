/* SPDX-License-Identifier: Apache-2.0 */
/*
 * URI schemes and their transports. Theory of operation: a transport has a header of its own with types of
 * its own; here each of its functions gets the common shape. A scheme is a row of `schemes`; two schemes may
 * share one transport, as tcp: and unix: do.
 */
#include "deploy/transports.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "transport-tcp/tcp.h"

_Static_assert(HF_SESSION_BYTES == HF_TCP_SESSION_BYTES, "one session identifier");

static struct hf_tcp_options tcp_options(const struct hf_link_options *options)
{
	return (struct hf_tcp_options){.channels = {options->channels, options->channels},
				       .timeout_ms = options->timeout_ms,
				       .check = options->check,
				       .precopy = options->precopy,
				       .release = options->release};
}

static int choose_session(struct hf_tcp_options *wanted, const char *uri,
			  const struct hf_link_options *options, struct hf_err *err)
{
	if (options->session) {
		memcpy(wanted->session, options->session, sizeof(wanted->session));
		wanted->epoch = options->epoch;
		return 0;
	}
	wanted->epoch = 1;
	if (getrandom(wanted->session, sizeof(wanted->session), 0) != (ssize_t)sizeof(wanted->session))
		return hf_err_set(err, HF_ERR_LOCAL, EIO, "%s: no random bytes for the session id", uri);
	return 0;
}

static int tcp_connect(void **link, const char *uri, const struct hf_link_options *options,
		       struct hf_err *err)
{
	struct hf_tcp_options wanted = tcp_options(options);
	int result = choose_session(&wanted, uri, options, err);
	if (result)
		return result;
	struct hf_tcp *tcp = NULL;
	result = hf_tcp_connect(&tcp, uri, &wanted, err);
	if (!result)
		*link = tcp;
	return result;
}

static int tcp_listen(void **listener, const char *uri, const struct hf_link_options *options,
		      struct hf_err *err)
{
	struct hf_tcp_options wanted = tcp_options(options);
	struct hf_tcp_listener *tcp = NULL;
	int result = hf_tcp_listen(&tcp, uri, &wanted, err);
	if (!result)
		*listener = tcp;
	return result;
}

static const char *tcp_listener_uri(const void *listener)
{
	return hf_tcp_listener_uri(listener);
}

static int tcp_listener_fd(const void *listener)
{
	return hf_tcp_listener_fd(listener);
}

static int tcp_accept(void *listener, void **link, struct hf_err *err)
{
	struct hf_tcp *tcp = NULL;
	int result = hf_tcp_accept(listener, &tcp, err);
	if (!result)
		*link = tcp;
	return result;
}

static void tcp_expect(void *listener, const uint8_t *session, uint64_t epoch_min)
{
	hf_tcp_listener_expect(listener, session, epoch_min);
}

static void tcp_listener_close(void *listener)
{
	if (listener)
		hf_tcp_listener_close(listener);
}

static const struct hf_link_info *tcp_info(const void *link)
{
	return hf_tcp_info(link);
}

static const uint8_t *tcp_session(const void *link)
{
	return hf_tcp_session(link);
}

static struct hf_transport tcp_transport(void *link)
{
	return hf_tcp_transport(link);
}

static int tcp_start(void *link, const struct hf_transport_events *events, void *engine, struct hf_err *err)
{
	return hf_tcp_start(link, events, engine, err);
}

static int tcp_flush(void *link, uint32_t timeout_ms)
{
	return hf_tcp_flush(link, timeout_ms);
}

static void tcp_close(void *link)
{
	hf_tcp_close(link);
}

#define STREAM_SOCKETS                                                                                       \
	.check_uri = hf_tcp_check_uri, .connect = tcp_connect, .listen = tcp_listen,                         \
	.listener_uri = tcp_listener_uri, .listener_fd = tcp_listener_fd, .accept = tcp_accept,              \
	.expect = tcp_expect, .listener_close = tcp_listener_close, .info = tcp_info,                        \
	.session = tcp_session, .transport = tcp_transport, .start = tcp_start, .flush = tcp_flush,          \
	.close = tcp_close

static const struct hf_scheme schemes[] = {
    {.name = "tcp", STREAM_SOCKETS},
    {.name = "unix", STREAM_SOCKETS},
};

#define SCHEMES (sizeof(schemes) / sizeof(schemes[0]))

static int unknown_scheme(const char *uri, struct hf_err *err)
{
	char known[128] = "";
	size_t used = 0;
	for (size_t i = 0; i < SCHEMES && used < sizeof(known); i++)
		used += (size_t)snprintf(known + used, sizeof(known) - used, "%s%s:", i ? ", " : "",
					 schemes[i].name);
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "'%.200s' is no address this program knows; it knows %s",
			  uri, known);
}

int hf_scheme_of(const char *uri, const struct hf_scheme **scheme, struct hf_err *err)
{
	for (size_t i = 0; i < SCHEMES; i++) {
		size_t length = strlen(schemes[i].name);
		if (strncmp(uri, schemes[i].name, length) != 0 || uri[length] != ':')
			continue;
		int result = schemes[i].check_uri(uri, err);
		if (!result)
			*scheme = &schemes[i];
		return result;
	}
	return unknown_scheme(uri, err);
}
