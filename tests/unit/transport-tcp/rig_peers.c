/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-tcp/rig.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define RIG_SESSION "session of tests" /* 16 bytes */
#define RAW_SESSION "a raw session.."

char test_directory[] = "/tmp/hf-tcp-XXXXXX";

int make_directory(void **state)
{
	(void)state;
	return mkdtemp(test_directory) ? 0 : -1;
}

/* Fails when a listener left its file behind, but leaves nothing itself. */
int remove_directory(void **state)
{
	int left_behind = 0;
	DIR *directory = opendir(test_directory);
	(void)state;
	if (!directory)
		return -1;
	for (struct dirent *entry; (entry = readdir(directory));) {
		if (entry->d_name[0] == '.')
			continue;
		unlinkat(dirfd(directory), entry->d_name, 0);
		left_behind++;
	}
	closedir(directory);
	return rmdir(test_directory) || left_behind ? -1 : 0;
}

const char *unix_uri(void)
{
	static char uri[128];
	static unsigned number;
	snprintf(uri, sizeof(uri), "unix:%s/%u", test_directory, number++);
	return uri;
}

/* ---- threads for calls that block ------------------------------------------------------------- */

static void *accept_main(void *argument)
{
	struct accepting *accepting = argument;
	accepting->result = hf_tcp_accept(accepting->listener, &accepting->tcp, &accepting->err);
	return NULL;
}

void accepting_start(struct accepting *accepting, struct hf_tcp_listener *listener)
{
	*accepting = (struct accepting){.listener = listener};
	assert_int_equal(pthread_create(&accepting->thread, NULL, accept_main, accepting), 0);
}

int accepting_join(struct accepting *accepting)
{
	pthread_join(accepting->thread, NULL);
	return accepting->result;
}

static void *connect_main(void *argument)
{
	struct connecting *connecting = argument;
	connecting->result =
	    hf_tcp_connect(&connecting->tcp, connecting->uri, &connecting->options, &connecting->err);
	return NULL;
}

void connecting_start(struct connecting *connecting, const char *uri, const struct hf_tcp_options *options)
{
	*connecting = (struct connecting){.options = *options};
	snprintf(connecting->uri, sizeof(connecting->uri), "%s", uri);
	assert_int_equal(pthread_create(&connecting->thread, NULL, connect_main, connecting), 0);
}

int connecting_join(struct connecting *connecting)
{
	pthread_join(connecting->thread, NULL);
	return connecting->result;
}

/* ---- both sides, real ------------------------------------------------------------------------- */

struct hf_tcp_options source_options(uint32_t urgent, uint32_t background)
{
	return (struct hf_tcp_options){.channels = {urgent, background}, .session = RIG_SESSION, .epoch = 1};
}

struct hf_tcp_options continuing_options(uint32_t urgent, uint32_t background)
{
	struct hf_tcp_options options = source_options(urgent, background);
	options.epoch = RIG_EPOCH;
	return options;
}

void await_source(struct hf_tcp_listener *listener)
{
	hf_tcp_listener_expect(listener, (const uint8_t *)RIG_SESSION, RIG_EPOCH - 1);
}

void pair_open(struct pair *pair, const char *uri, uint32_t urgent, uint32_t background)
{
	struct hf_tcp_options options = continuing_options(urgent, background);
	struct hf_err err = HF_ERR_INIT;
	struct accepting accepting;
	memset(pair, 0, sizeof(*pair));
	if (hf_tcp_listen(&pair->listener, uri, &options, &err))
		fail_msg("listen: %s", err.text);
	await_source(pair->listener);
	accepting_start(&accepting, pair->listener);
	if (hf_tcp_connect(&pair->source, hf_tcp_listener_uri(pair->listener), &options, &err))
		fail_msg("connect: %s", err.text);
	if (accepting_join(&accepting))
		fail_msg("accept: %s", accepting.err.text);
	pair->destination = accepting.tcp;
	pair->to_source = hf_tcp_transport(pair->destination);
	pair->to_destination = hf_tcp_transport(pair->source);
	pair->source_engine = engine_new();
	pair->destination_engine = engine_new();
}

void pair_start(struct pair *pair)
{
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_tcp_start(pair->destination, &engine_events, pair->destination_engine, &err), 0);
	assert_int_equal(hf_tcp_start(pair->source, &engine_events, pair->source_engine, &err), 0);
	engine_wait_up(pair->destination_engine);
	engine_wait_up(pair->source_engine);
}

void pair_close(struct pair *pair)
{
	hf_tcp_close(pair->destination);
	hf_tcp_close(pair->source);
	hf_tcp_listener_close(pair->listener);
	engine_free(pair->destination_engine);
	engine_free(pair->source_engine);
}

struct hf_fetch make_fetch(uint64_t id, uint32_t block, uint64_t offset_bytes, uint32_t length_bytes,
			   enum hf_fetch_class class, void *landing)
{
	return (struct hf_fetch){.id = id,
				 .epoch = RIG_EPOCH,
				 .block = block,
				 .length_bytes = length_bytes,
				 .offset_bytes = offset_bytes,
				 .class = class,
				 .landing = landing};
}

void post(const struct hf_transport *port, const struct hf_fetch *fetch)
{
	int result;
	while ((result = port->ops->fetch(port->self, fetch)) == -EAGAIN)
		sched_yield();
	assert_int_equal(result, 0);
}

/* ---- raw peers -------------------------------------------------------------------------------- */

int raw_connect(const char *uri)
{
	struct sockaddr_un unix_address = {.sun_family = AF_UNIX};
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	bool is_unix = strncmp(uri, "unix:", 5) == 0;
	int fd = socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	if (is_unix) {
		snprintf(unix_address.sun_path, sizeof(unix_address.sun_path), "%s", uri + 5);
		assert_int_equal(connect(fd, (struct sockaddr *)&unix_address, sizeof(unix_address)), 0);
	} else {
		address.sin_port = htons((uint16_t)atoi(strrchr(uri, ':') + 1));
		assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	}
	return fd;
}

void raw_send(int fd, const void *bytes, size_t length_bytes)
{
	assert_int_equal(send(fd, bytes, length_bytes, MSG_NOSIGNAL), length_bytes);
}

void raw_recv(int fd, void *bytes, size_t length_bytes)
{
	for (size_t have = 0; have < length_bytes;) {
		struct pollfd entry = {.fd = fd, .events = POLLIN};
		assert_int_equal(poll(&entry, 1, ENGINE_WAIT_MS), 1);
		ssize_t got = recv(fd, (uint8_t *)bytes + have, length_bytes - have, 0);
		assert_true(got > 0);
		have += (size_t)got;
	}
}

size_t raw_recv_all(int fd, void *bytes, size_t most_bytes)
{
	size_t have = 0;
	for (;;) {
		struct pollfd entry = {.fd = fd, .events = POLLIN};
		assert_int_equal(poll(&entry, 1, ENGINE_WAIT_MS), 1);
		ssize_t got = recv(fd, (uint8_t *)bytes + have, most_bytes - have, 0);
		if (got <= 0)
			return have;
		have += (size_t)got;
	}
}

struct hf_wire_hello raw_hello(enum hf_wire_channel channel, uint32_t index, uint32_t urgent,
			       uint32_t background)
{
	return (struct hf_wire_hello){.version_min = HF_WIRE_VERSION_MIN,
				      .version_max = HF_WIRE_VERSION_MAX,
				      .features = HF_WIRE_FEATURES & ~HF_WIRE_FEATURE_CHECK,
				      .session = RAW_SESSION,
				      .epoch = 1,
				      .channel = channel,
				      .index = index,
				      .channels_wanted = {urgent, background}};
}

void raw_send_hello(int fd, const struct hf_wire_hello *hello)
{
	uint8_t bytes[HF_WIRE_HELLO_BYTES];
	assert_int_equal(hf_wire_encode_hello(hello, bytes, sizeof(bytes)), sizeof(bytes));
	raw_send(fd, bytes, sizeof(bytes));
}

struct hf_wire_hello_reply raw_recv_reply(int fd, char text[static HF_WIRE_TEXT_MAX_BYTES + 1])
{
	uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES];
	struct hf_wire_hello_reply reply;
	raw_recv(fd, bytes, sizeof(bytes));
	assert_int_equal(hf_wire_decode_hello_reply(bytes, sizeof(bytes), &reply, NULL), 0);
	raw_recv(fd, text, reply.text_bytes);
	text[reply.text_bytes] = '\0';
	return reply;
}

void raw_send_reply(int fd, const struct hf_wire_hello_reply *reply, const char *text)
{
	uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES + HF_WIRE_TEXT_MAX_BYTES];
	struct hf_wire_hello_reply with_text = *reply;
	with_text.text_bytes = (uint32_t)strlen(text);
	ssize_t encoded = hf_wire_encode_hello_reply(&with_text, text, bytes, sizeof(bytes));
	assert_true(encoded > 0);
	raw_send(fd, bytes, (size_t)encoded);
}

struct hf_wire_request raw_recv_request(int fd)
{
	uint8_t bytes[HF_WIRE_REQUEST_BYTES];
	struct hf_wire_request request;
	raw_recv(fd, bytes, sizeof(bytes));
	assert_int_equal(hf_wire_decode_request(bytes, sizeof(bytes), &request, NULL), 0);
	return request;
}

void raw_send_page_reply(int fd, const struct hf_wire_request *request, bool zero, const void *bytes)
{
	uint8_t header[HF_WIRE_REPLY_BYTES];
	struct hf_wire_reply reply = {.id = request->id,
				      .offset_bytes = request->offset_bytes,
				      .block = request->block,
				      .length_bytes = request->length_bytes,
				      .zero = zero};
	assert_int_equal(hf_wire_encode_reply(&reply, header, sizeof(header)), sizeof(header));
	raw_send(fd, header, sizeof(header));
	if (bytes)
		raw_send(fd, bytes, request->length_bytes);
}

static struct hf_wire_hello page_hello(uint32_t number, uint32_t urgent)
{
	if (number < urgent)
		return raw_hello(HF_WIRE_CHANNEL_URGENT, number, 0, 0);
	return raw_hello(HF_WIRE_CHANNEL_BACKGROUND, number - urgent, 0, 0);
}

struct hf_tcp *raw_source_open(struct raw *raw, const char *uri, uint32_t urgent, uint32_t background,
			       struct engine *engine)
{
	struct hf_tcp_options options = {.channels = {urgent, background}};
	struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_CONTROL, 0, urgent, background);
	hello.epoch = RIG_EPOCH;
	struct hf_tcp_listener *listener;
	struct accepting accepting;
	char text[HF_WIRE_TEXT_MAX_BYTES + 1];
	*raw = (struct raw){.listener = -1, .count = urgent + background};
	assert_int_equal(hf_tcp_listen(&listener, uri, &options, NULL), 0);
	hf_tcp_listener_expect(listener, (const uint8_t *)RAW_SESSION, RIG_EPOCH - 1);
	accepting_start(&accepting, listener);

	raw->control = raw_connect(hf_tcp_listener_uri(listener));
	raw_send_hello(raw->control, &hello);
	assert_int_equal(raw_recv_reply(raw->control, text).status, HF_WIRE_HELLO_ACCEPTED);
	for (uint32_t i = 0; i < raw->count; i++) {
		hello = page_hello(i, urgent);
		hello.epoch = RIG_EPOCH;
		raw->pages[i] = raw_connect(hf_tcp_listener_uri(listener));
		raw_send_hello(raw->pages[i], &hello);
		assert_int_equal(raw_recv_reply(raw->pages[i], text).status, HF_WIRE_HELLO_ACCEPTED);
	}
	assert_int_equal(accepting_join(&accepting), 0);
	hf_tcp_listener_close(listener);
	assert_int_equal(hf_tcp_start(accepting.tcp, &engine_events, engine, NULL), 0);
	engine_wait_up(engine);
	return accepting.tcp;
}

int raw_listen(char uri[static 64])
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, length), 0);
	assert_int_equal(listen(fd, 16), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	snprintf(uri, 64, "tcp:127.0.0.1:%u", ntohs(address.sin_port));
	return fd;
}

int raw_accept(int listener)
{
	struct pollfd entry = {.fd = listener, .events = POLLIN};
	assert_int_equal(poll(&entry, 1, ENGINE_WAIT_MS), 1);
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

struct hf_tcp *raw_destination_open(struct raw *raw, uint32_t urgent, uint32_t background,
				    struct engine *engine)
{
	struct hf_tcp_options options = continuing_options(urgent, background);
	struct hf_wire_hello_reply reply = {.version = HF_WIRE_VERSION_MAX,
					    .features = HF_WIRE_FEATURE_RECOVER,
					    .channels = {urgent, background}};
	struct connecting connecting;
	uint8_t hello[HF_WIRE_HELLO_BYTES];
	char uri[64];
	*raw = (struct raw){.listener = raw_listen(uri), .count = urgent + background};
	connecting_start(&connecting, uri, &options);

	raw->control = raw_accept(raw->listener);
	raw_recv(raw->control, hello, sizeof(hello));
	raw_send_reply(raw->control, &reply, "");
	memset(reply.channels, 0, sizeof(reply.channels));
	for (uint32_t i = 0; i < raw->count; i++) {
		raw->pages[i] = raw_accept(raw->listener);
		raw_recv(raw->pages[i], hello, sizeof(hello));
		raw_send_reply(raw->pages[i], &reply, "");
	}
	assert_int_equal(connecting_join(&connecting), 0);
	assert_int_equal(hf_tcp_start(connecting.tcp, &engine_events, engine, NULL), 0);
	engine_wait_up(engine);
	return connecting.tcp;
}

void raw_close(struct raw *raw)
{
	if (raw->listener >= 0)
		close(raw->listener);
	if (raw->control >= 0)
		close(raw->control);
	for (uint32_t i = 0; i < raw->count; i++)
		if (raw->pages[i] >= 0)
			close(raw->pages[i]);
}
