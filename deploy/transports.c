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
#ifdef HF_RDMA
#include "transport-rdma/rdma.h"
#endif

_Static_assert(HF_SESSION_BYTES == HF_TCP_SESSION_BYTES, "one session identifier");

static struct hf_tcp_options tcp_options(const struct hf_link_options *options)
{
	return (struct hf_tcp_options){.channels = {options->channels, options->channels},
				       .timeout_ms = options->timeout_ms,
				       .check = options->check,
				       .precopy = options->precopy,
				       .release = options->release};
}

static int choose_session(uint8_t session[static HF_SESSION_BYTES], uint64_t *epoch, const char *uri,
			  const struct hf_link_options *options, struct hf_err *err)
{
	if (options->session) {
		memcpy(session, options->session, HF_SESSION_BYTES);
		*epoch = options->epoch;
		return 0;
	}
	*epoch = 1;
	if (getrandom(session, HF_SESSION_BYTES, 0) != HF_SESSION_BYTES)
		return hf_err_set(err, HF_ERR_LOCAL, EIO, "%s: no random bytes for the session id", uri);
	return 0;
}

static int tcp_connect(void **link, const char *uri, const struct hf_link_options *options,
		       struct hf_err *err)
{
	struct hf_tcp_options wanted = tcp_options(options);
	int result = choose_session(wanted.session, &wanted.epoch, uri, options, err);
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

#ifdef HF_RDMA

static struct hf_rdma_options rdma_options(const struct hf_link_options *options)
{
	return (struct hf_rdma_options){.channels = {options->channels, options->channels},
					.timeout_ms = options->timeout_ms,
					.check = options->check,
					.precopy = options->precopy};
}

static int rdma_connect(void **link, const char *uri, const struct hf_link_options *options,
			struct hf_err *err)
{
	struct hf_rdma_options wanted = rdma_options(options);
	struct hf_rdma *rdma = NULL;
	if (options->release)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EOPNOTSUPP,
		    "%s: --release-ram cannot be had over rdma:, which reads memory that the adapter holds; "
		    "leave it out or use tcp:",
		    uri);
	int result = choose_session(wanted.session, &wanted.epoch, uri, options, err);
	if (!result)
		result = hf_rdma_connect(&rdma, uri, &wanted, err);
	if (!result)
		*link = rdma;
	return result;
}

static int rdma_listen(void **listener, const char *uri, const struct hf_link_options *options,
		       struct hf_err *err)
{
	struct hf_rdma_options wanted = rdma_options(options);
	struct hf_rdma_listener *rdma = NULL;
	int result = hf_rdma_listen(&rdma, uri, &wanted, err);
	if (!result)
		*listener = rdma;
	return result;
}

static const char *rdma_listener_uri(const void *listener)
{
	return hf_rdma_listener_uri(listener);
}

static int rdma_listener_fd(const void *listener)
{
	return hf_rdma_listener_fd(listener);
}

static int rdma_accept(void *listener, void **link, struct hf_err *err)
{
	struct hf_rdma *rdma = NULL;
	int result = hf_rdma_accept(listener, &rdma, err);
	if (!result)
		*link = rdma;
	return result;
}

static void rdma_expect(void *listener, const uint8_t *session, uint64_t epoch_min)
{
	hf_rdma_listener_expect(listener, session, epoch_min);
}

static void rdma_listener_close(void *listener)
{
	hf_rdma_listener_close(listener);
}

static const struct hf_link_info *rdma_info(const void *link)
{
	return hf_rdma_info(link);
}

static const uint8_t *rdma_session(const void *link)
{
	return hf_rdma_session(link);
}

static struct hf_transport rdma_transport(void *link)
{
	return hf_rdma_transport(link);
}

static int rdma_start(void *link, const struct hf_transport_events *events, void *engine, struct hf_err *err)
{
	return hf_rdma_start(link, events, engine, err);
}

static int rdma_flush(void *link, uint32_t timeout_ms)
{
	return hf_rdma_flush(link, timeout_ms);
}

static void rdma_close(void *link)
{
	hf_rdma_close(link);
}

static int rdma_lend(void *link, const struct hf_lent_range *ranges, uint32_t count, bool wait,
		     struct hf_err *err)
{
	return hf_rdma_lend(link, ranges, count, wait, err);
}

static void rdma_shutdown(void *link)
{
	hf_rdma_shutdown(link, NULL);
}

static uint64_t rdma_lent_ns(const void *link)
{
	return hf_rdma_registration_ns(link);
}

#endif

static const struct hf_scheme schemes[] = {
    {.name = "tcp", STREAM_SOCKETS},
    {.name = "unix", STREAM_SOCKETS},
#ifdef HF_RDMA
    {.name = "rdma",
     .check_uri = hf_rdma_check_uri,
     .connect = rdma_connect,
     .listen = rdma_listen,
     .listener_uri = rdma_listener_uri,
     .listener_fd = rdma_listener_fd,
     .accept = rdma_accept,
     .expect = rdma_expect,
     .listener_close = rdma_listener_close,
     .info = rdma_info,
     .session = rdma_session,
     .transport = rdma_transport,
     .start = rdma_start,
     .flush = rdma_flush,
     .close = rdma_close,
     .lend = rdma_lend,
     .lent_ns = rdma_lent_ns,
     .shutdown = rdma_shutdown},
#endif
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
