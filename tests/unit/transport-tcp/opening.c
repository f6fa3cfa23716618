/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/transport-tcp/rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* Long enough for a busy machine where the peer behaves, short where the test waits for its end. */
#define PATIENCE_MS   10000u
#define IMPATIENCE_MS 150u

static struct hf_tcp_listener *listen_on(const char *uri, uint32_t timeout_ms)
{
	struct hf_tcp_options options = {.timeout_ms = timeout_ms};
	struct hf_tcp_listener *listener;
	struct hf_err err = HF_ERR_INIT;
	if (hf_tcp_listen(&listener, uri, &options, &err))
		fail_msg("%s", err.text);
	return listener;
}

static void assert_mentions(const char *text, const char *word)
{
	if (!strstr(text, word))
		fail_msg("'%s' does not mention '%s'", text, word);
}

/* A real source reaches the listener: it is still of use. */
static void assert_still_accepts(struct hf_tcp_listener *listener)
{
	struct hf_tcp_options options = source_options(1, 1);
	struct connecting connecting;
	struct hf_err err = HF_ERR_INIT;
	struct hf_tcp *tcp;
	connecting_start(&connecting, hf_tcp_listener_uri(listener), &options);
	if (hf_tcp_accept(listener, &tcp, &err))
		fail_msg("accept: %s", err.text);
	assert_int_equal(connecting_join(&connecting), 0);
	hf_tcp_close(tcp);
	hf_tcp_close(connecting.tcp);
}

/* ---- good connections ------------------------------------------------------------------------- */

static void both_sides_are_told_the_same_of_the_link(void **state)
{
	const char *const uris[] = {"tcp:127.0.0.1:0", "tcp:[::1]:0", "tcp:localhost:0", "tcp::0",
				    unix_uri()};
	(void)state;
	for (size_t i = 0; i < sizeof(uris) / sizeof(uris[0]); i++) {
		struct pair pair;
		pair_open(&pair, uris[i], 2, 3);
		pair_start(&pair);
		const struct hf_link_info *there = &pair.destination_engine->info;
		const struct hf_link_info *here = &pair.source_engine->info;
		assert_int_equal(here->epoch, RIG_EPOCH);
		assert_int_equal(there->epoch, RIG_EPOCH);
		assert_memory_equal(hf_tcp_session(pair.source), "session of tests", HF_TCP_SESSION_BYTES);
		assert_memory_equal(hf_tcp_session(pair.destination), "session of tests",
				    HF_TCP_SESSION_BYTES);
		assert_int_equal(here->version, HF_WIRE_VERSION_MAX);
		assert_int_equal(there->version, HF_WIRE_VERSION_MAX);
		assert_int_equal(here->features, there->features);
		assert_memory_equal(here->channels, there->channels, sizeof(here->channels));
		assert_int_equal(here->channels[HF_FETCH_URGENT], 2);
		assert_int_equal(here->channels[HF_FETCH_BACKGROUND], 3);
		assert_string_equal(here->name, strncmp(uris[i], "unix", 4) ? "tcp" : "unix");
		pair_close(&pair);
	}
}

static void the_smaller_wish_for_channels_counts(void **state)
{
	static const struct {
		uint32_t source[2], destination[2], taken[2];
	} cases[] = {
	    {{0, 0}, {0, 0}, {1, 2}}, {{1, 1}, {4, 4}, {1, 1}},	    {{4, 4}, {2, 3}, {2, 3}},
	    {{8, 0}, {3, 9}, {3, 2}}, {{64, 64}, {5, 64}, {5, 64}},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct hf_tcp_options theirs = {
		    .channels = {cases[i].destination[0], cases[i].destination[1]}};
		struct hf_tcp_options ours = source_options(cases[i].source[0], cases[i].source[1]);
		struct hf_tcp_listener *listener;
		struct accepting accepting;
		struct hf_tcp *source;
		struct engine *engine = engine_new();
		assert_int_equal(hf_tcp_listen(&listener, unix_uri(), &theirs, NULL), 0);
		accepting_start(&accepting, listener);
		assert_int_equal(hf_tcp_connect(&source, hf_tcp_listener_uri(listener), &ours, NULL), 0);
		assert_int_equal(accepting_join(&accepting), 0);
		assert_int_equal(hf_tcp_start(source, &engine_events, engine, NULL), 0);
		engine_wait_up(engine);
		assert_memory_equal(engine->info.channels, cases[i].taken, sizeof(cases[i].taken));
		hf_tcp_close(source);
		hf_tcp_close(accepting.tcp);
		hf_tcp_listener_close(listener);
		engine_free(engine);
	}
}

static void a_listener_takes_one_connection_after_another(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", PATIENCE_MS);
	(void)state;
	for (int i = 0; i < 5; i++)
		assert_still_accepts(listener);
	hf_tcp_listener_close(listener);
}

static void the_listener_is_readable_when_someone_connects(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", PATIENCE_MS);
	struct pollfd entry = {.fd = hf_tcp_listener_fd(listener), .events = POLLIN};
	(void)state;
	assert_int_equal(poll(&entry, 1, 0), 0);
	int fd = raw_connect(hf_tcp_listener_uri(listener));
	assert_int_equal(poll(&entry, 1, PATIENCE_MS), 1);
	close(fd);
	hf_tcp_listener_close(listener);
}

static void a_connection_never_started_is_closed_without_events(void **state)
{
	struct pair pair;
	(void)state;
	pair_open(&pair, "tcp:127.0.0.1:0", 1, 1);
	pair_close(&pair);
	hf_tcp_close(NULL);
	hf_tcp_listener_close(NULL);
}

/* ---- listening -------------------------------------------------------------------------------- */

static void a_port_in_use_is_named(void **state)
{
	struct hf_tcp_listener *first = listen_on("tcp:127.0.0.1:0", PATIENCE_MS), *second = NULL;
	struct hf_err err = HF_ERR_INIT;
	(void)state;
	assert_int_equal(hf_tcp_listen(&second, hf_tcp_listener_uri(first), NULL, &err), -EADDRINUSE);
	assert_null(second);
	assert_int_equal(err.class, HF_ERR_LOCAL);
	assert_mentions(err.text, hf_tcp_listener_uri(first));
	assert_mentions(err.text, "in use");
	assert_null(strchr(err.text, '\n'));
	assert_still_accepts(first);
	hf_tcp_listener_close(first);
}

static void a_live_unix_socket_is_left_alone(void **state)
{
	struct hf_tcp_listener *first = listen_on(unix_uri(), PATIENCE_MS), *second = NULL;
	struct hf_err err = HF_ERR_INIT;
	(void)state;
	assert_int_equal(hf_tcp_listen(&second, hf_tcp_listener_uri(first), NULL, &err), -EADDRINUSE);
	assert_null(second);
	assert_mentions(err.text, hf_tcp_listener_uri(first));
	assert_int_equal(access(hf_tcp_listener_uri(first) + 5, F_OK), 0);
	hf_tcp_listener_close(first);
}

static void a_stale_unix_socket_is_replaced_and_removed_at_the_end(void **state)
{
	const char *uri = unix_uri(), *path = uri + 5;
	struct stat status;
	(void)state;
	struct hf_tcp_listener *listener = listen_on(uri, PATIENCE_MS);
	char saved[200];
	snprintf(saved, sizeof(saved), "%s.saved", path);
	assert_int_equal(link(path, saved), 0); // what a killed process leaves behind
	hf_tcp_listener_close(listener);
	assert_int_equal(access(path, F_OK), -1);
	assert_int_equal(rename(saved, path), 0);

	listener = listen_on(uri, PATIENCE_MS);
	assert_int_equal(lstat(path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0600);
	assert_still_accepts(listener);
	hf_tcp_listener_close(listener);
	assert_int_equal(access(path, F_OK), -1);
}

static void a_file_that_is_no_socket_is_left_alone(void **state)
{
	const char *uri = unix_uri(), *path = uri + 5;
	struct hf_tcp_listener *listener = NULL;
	struct hf_err err = HF_ERR_INIT;
	(void)state;
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(hf_tcp_listen(&listener, uri, NULL, &err), -EEXIST);
	assert_mentions(err.text, uri);
	assert_int_equal(unlink(path), 0);
}

static void another_socket_at_the_path_is_not_removed(void **state)
{
	char uri[128];
	(void)state;
	snprintf(uri, sizeof(uri), "%s", unix_uri());
	struct hf_tcp_listener *first = listen_on(uri, PATIENCE_MS);
	assert_int_equal(unlink(uri + 5), 0);
	struct hf_tcp_listener *second = listen_on(uri, PATIENCE_MS);
	hf_tcp_listener_close(first);
	assert_still_accepts(second);
	hf_tcp_listener_close(second);
}

/* ---- strangers -------------------------------------------------------------------------------- */

static void an_http_client_is_refused_and_the_listener_goes_on(void **state)
{
	static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", PATIENCE_MS);
	struct hf_err err = HF_ERR_INIT;
	struct hf_tcp *tcp = NULL;
	char answer[1024] = "";
	(void)state;
	int fd = raw_connect(hf_tcp_listener_uri(listener));
	raw_send(fd, request, strlen(request));
	uint64_t start_ms = now_ms();
	assert_int_equal(hf_tcp_accept(listener, &tcp, &err), -EPROTO);
	assert_in_range(now_ms() - start_ms, 0, PATIENCE_MS / 2); // told by its first bytes, not by a timeout
	assert_null(tcp);
	assert_int_equal(err.class, HF_ERR_PEER);
	assert_mentions(err.text, hf_tcp_listener_uri(listener));
	assert_mentions(err.text, "not Hugeferry");
	size_t got = raw_recv_all(fd, answer, sizeof(answer) - 1);
	assert_in_range(got, HF_WIRE_HELLO_REPLY_BYTES + 10, sizeof(answer));
	assert_mentions(answer + HF_WIRE_HELLO_REPLY_BYTES, "Hugeferry destination");
	close(fd);
	assert_still_accepts(listener);
	hf_tcp_listener_close(listener);
}

static void a_silent_client_times_out_and_is_told(void **state)
{
	char text[HF_WIRE_TEXT_MAX_BYTES + 1];
	(void)state;
	alarm(20);					// accept() has to end by itself
	for (size_t sent = 0; sent <= 40; sent += 20) { // a hello that stops in the middle is silence too
		struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", IMPATIENCE_MS);
		struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_CONTROL, 0, 1, 1);
		uint8_t bytes[HF_WIRE_HELLO_BYTES];
		struct hf_err err = HF_ERR_INIT;
		struct hf_tcp *tcp = NULL;
		int fd = raw_connect(hf_tcp_listener_uri(listener));
		hf_wire_encode_hello(&hello, bytes, sizeof(bytes));
		raw_send(fd, bytes, sent);
		assert_int_equal(hf_tcp_accept(listener, &tcp, &err), -ETIMEDOUT);
		assert_mentions(err.text, "no whole greeting");
		assert_int_equal(raw_recv_reply(fd, text).status, HF_WIRE_HELLO_REFUSED);
		assert_mentions(text, "no whole greeting");
		close(fd);
		hf_tcp_listener_close(listener);
	}
	alarm(0);
}

static void nobody_at_all_is_a_timeout(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", IMPATIENCE_MS);
	struct hf_err err = HF_ERR_INIT;
	struct hf_tcp *tcp = NULL;
	(void)state;
	assert_int_equal(hf_tcp_accept(listener, &tcp, &err), -ETIMEDOUT);
	assert_mentions(err.text, "nobody");
	hf_tcp_listener_close(listener);
}

static void a_client_that_goes_away_is_reported(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", PATIENCE_MS);
	struct hf_err err = HF_ERR_INIT;
	struct hf_tcp *tcp = NULL;
	(void)state;
	close(raw_connect(hf_tcp_listener_uri(listener)));
	assert_int_equal(hf_tcp_accept(listener, &tcp, &err), -EPROTO);
	assert_mentions(err.text, "went away");
	assert_still_accepts(listener);
	hf_tcp_listener_close(listener);
}

static void silent_strangers_do_not_hold_up_a_source(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", PATIENCE_MS);
	int silent[5];
	(void)state;
	for (int i = 0; i < 5; i++)
		silent[i] = raw_connect(hf_tcp_listener_uri(listener));
	uint64_t start_ms = now_ms();
	assert_still_accepts(listener);
	assert_in_range(now_ms() - start_ms, 0, PATIENCE_MS / 2);
	for (int i = 0; i < 5; i++)
		close(silent[i]);
	hf_tcp_listener_close(listener);
}

static void a_broken_hello_is_refused_with_the_reason(void **state)
{
	static const size_t broken_bytes[] = {8 + 3 /* version_min */, 8 + 4 + 4 + 8 + 16 + 8 /* channel */};
	char text[HF_WIRE_TEXT_MAX_BYTES + 1];
	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", PATIENCE_MS);
		struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_CONTROL, 0, 1, 1);
		uint8_t bytes[HF_WIRE_HELLO_BYTES];
		struct hf_err err = HF_ERR_INIT;
		struct hf_tcp *tcp = NULL;
		hf_wire_encode_hello(&hello, bytes, sizeof(bytes));
		bytes[broken_bytes[i]] ^= 0xff;
		int fd = raw_connect(hf_tcp_listener_uri(listener));
		raw_send(fd, bytes, sizeof(bytes));
		assert_int_equal(hf_tcp_accept(listener, &tcp, &err), -EPROTO);
		assert_int_equal(err.class, HF_ERR_PEER);
		assert_int_equal(raw_recv_reply(fd, text).status, HF_WIRE_HELLO_REFUSED);
		assert_mentions(err.text, text);
		close(fd);
		hf_tcp_listener_close(listener);
	}
}

static void another_version_is_told_both_ranges(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", PATIENCE_MS);
	struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_CONTROL, 0, 1, 1);
	char text[HF_WIRE_TEXT_MAX_BYTES + 1];
	struct hf_err err = HF_ERR_INIT;
	struct hf_tcp *tcp = NULL;
	(void)state;
	hello.version_min = 71;
	hello.version_max = 92;
	int fd = raw_connect(hf_tcp_listener_uri(listener));
	raw_send_hello(fd, &hello);
	assert_int_equal(hf_tcp_accept(listener, &tcp, &err), -EPROTONOSUPPORT);
	assert_int_equal(raw_recv_reply(fd, text).status, HF_WIRE_HELLO_VERSION);
	assert_mentions(text, "71 to 92");
	assert_mentions(err.text, "71 to 92");
	close(fd);
	hf_tcp_listener_close(listener);
}

/* ---- sessions --------------------------------------------------------------------------------- */

/* Opens the control channel of a session that wants one urgent and one background channel. */
static int open_raw_control(struct hf_tcp_listener *listener, struct accepting *accepting)
{
	struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_CONTROL, 0, 1, 1);
	char text[HF_WIRE_TEXT_MAX_BYTES + 1];
	accepting_start(accepting, listener);
	int fd = raw_connect(hf_tcp_listener_uri(listener));
	raw_send_hello(fd, &hello);
	assert_int_equal(raw_recv_reply(fd, text).status, HF_WIRE_HELLO_ACCEPTED);
	return fd;
}

static uint32_t say_hello(struct hf_tcp_listener *listener, const struct hf_wire_hello *hello, int *fd)
{
	char text[HF_WIRE_TEXT_MAX_BYTES + 1];
	*fd = raw_connect(hf_tcp_listener_uri(listener));
	raw_send_hello(*fd, hello);
	uint32_t status = raw_recv_reply(*fd, text).status;
	if (status != HF_WIRE_HELLO_ACCEPTED)
		assert_true(strlen(text) > 10);
	return status;
}

static void finish_session(struct hf_tcp_listener *listener, struct accepting *accepting)
{
	struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_URGENT, 0, 0, 0);
	int urgent, background;
	assert_int_equal(say_hello(listener, &hello, &urgent), HF_WIRE_HELLO_ACCEPTED);
	hello.channel = HF_WIRE_CHANNEL_BACKGROUND;
	assert_int_equal(say_hello(listener, &hello, &background), HF_WIRE_HELLO_ACCEPTED);
	if (accepting_join(accepting))
		fail_msg("%s", accepting->err.text);
	hf_tcp_close(accepting->tcp);
	close(urgent);
	close(background);
}

static void a_second_session_is_told_busy(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", PATIENCE_MS);
	struct hf_tcp_options options = source_options(1, 1);
	struct accepting accepting;
	struct hf_err err = HF_ERR_INIT;
	struct hf_tcp *tcp = NULL;
	(void)state;
	int control = open_raw_control(listener, &accepting);
	assert_int_equal(hf_tcp_connect(&tcp, hf_tcp_listener_uri(listener), &options, &err), -EBUSY);
	assert_null(tcp);
	assert_int_equal(err.class, HF_ERR_LINK); // asking again helps
	assert_mentions(err.text, "another migration");
	assert_mentions(err.text, hf_tcp_listener_uri(listener));
	finish_session(listener, &accepting);
	close(control);
	hf_tcp_listener_close(listener);
}

static void channels_nobody_awaits_are_refused(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", PATIENCE_MS);
	struct accepting accepting;
	(void)state;
	int control = open_raw_control(listener, &accepting);
	struct hf_wire_hello wrong[6];
	for (int i = 0; i < 6; i++)
		wrong[i] = raw_hello(HF_WIRE_CHANNEL_URGENT, 0, 0, 0);
	wrong[0].session[0] ^= 1;
	wrong[1].epoch++;
	wrong[2].index = 1;
	wrong[3].channel = HF_WIRE_CHANNEL_BACKGROUND;
	wrong[3].index = 63;
	wrong[4].version_max++; // not what its control channel said
	wrong[5].features ^= 1;
	for (int i = 0; i < 6; i++) {
		int fd;
		assert_int_equal(say_hello(listener, &wrong[i], &fd), HF_WIRE_HELLO_SESSION);
		close(fd);
	}
	finish_session(listener, &accepting);
	close(control);
	hf_tcp_listener_close(listener);
}

static void one_channel_is_not_opened_twice(void **state)
{
	struct hf_tcp_listener *listener = listen_on(unix_uri(), PATIENCE_MS);
	struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_URGENT, 0, 0, 0);
	struct accepting accepting;
	int first, second, third;
	(void)state;
	int control = open_raw_control(listener, &accepting);
	assert_int_equal(say_hello(listener, &hello, &first), HF_WIRE_HELLO_ACCEPTED);
	assert_int_equal(say_hello(listener, &hello, &second), HF_WIRE_HELLO_SESSION);
	hello.channel = HF_WIRE_CHANNEL_BACKGROUND;
	assert_int_equal(say_hello(listener, &hello, &third), HF_WIRE_HELLO_ACCEPTED);
	assert_int_equal(accepting_join(&accepting), 0);
	hf_tcp_close(accepting.tcp);
	close(control);
	close(first);
	close(second);
	close(third);
	hf_tcp_listener_close(listener);
}

static void a_source_lost_while_opening_is_reported(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", PATIENCE_MS);
	struct accepting accepting;
	(void)state;
	close(open_raw_control(listener, &accepting));
	assert_int_equal(accepting_join(&accepting), -EPROTO);
	assert_int_equal(accepting.err.class, HF_ERR_LINK);
	assert_mentions(accepting.err.text, "0 of 2 page channels");
	assert_still_accepts(listener);
	hf_tcp_listener_close(listener);
}

static void a_source_that_stops_opening_times_out(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0", IMPATIENCE_MS);
	struct accepting accepting;
	(void)state;
	int control = open_raw_control(listener, &accepting);
	assert_int_equal(accepting_join(&accepting), -ETIMEDOUT);
	assert_mentions(accepting.err.text, "0 of 2 page channels");
	close(control);
	hf_tcp_listener_close(listener);
}

/* ---- connecting to the wrong thing ------------------------------------------------------------ */

static void nobody_listening_is_said(void **state)
{
	struct hf_tcp_options options = source_options(1, 1);
	struct hf_err err = HF_ERR_INIT;
	struct hf_tcp *tcp = NULL;
	char uri[64];
	(void)state;
	close(raw_listen(uri));
	assert_int_equal(hf_tcp_connect(&tcp, uri, &options, &err), -ECONNREFUSED);
	assert_int_equal(err.class, HF_ERR_LINK);
	assert_mentions(err.text, uri);
	assert_mentions(err.text, "nobody listens");
	assert_int_equal(hf_tcp_connect(&tcp, unix_uri(), &options, &err), -ENOENT);
	assert_null(tcp);
}

static void a_silent_listener_times_out(void **state)
{
	struct hf_tcp_options options = source_options(1, 1);
	struct hf_err err = HF_ERR_INIT;
	struct hf_tcp *tcp = NULL;
	char uri[64];
	(void)state;
	int listener = raw_listen(uri);
	options.timeout_ms = IMPATIENCE_MS;
	assert_int_equal(hf_tcp_connect(&tcp, uri, &options, &err), -ETIMEDOUT);
	assert_int_equal(err.class, HF_ERR_LINK);
	assert_mentions(err.text, uri);
	assert_null(tcp);
	close(listener);
}

/* A destination that answers the control channel with these bytes and closes. */
static int connect_to(const void *answer, size_t answer_bytes, struct hf_err *err)
{
	struct hf_tcp_options options = source_options(2, 2);
	struct connecting connecting;
	uint8_t hello[HF_WIRE_HELLO_BYTES];
	char uri[64];
	int listener = raw_listen(uri);
	connecting_start(&connecting, uri, &options);
	int fd = raw_accept(listener);
	raw_recv(fd, hello, sizeof(hello));
	raw_send(fd, answer, answer_bytes);
	shutdown(fd, SHUT_WR);
	int result = connecting_join(&connecting);
	assert_null(connecting.tcp);
	assert_mentions(connecting.err.text, uri);
	*err = connecting.err;
	close(fd);
	close(listener);
	return result;
}

static void a_listener_that_is_not_hugeferry_is_named_so(void **state)
{
	static const char *const answers[] = {"SSH-2.0-OpenSSH_9.2p1\r\n", "H", "HUGEFERX", "220 mail\r\n"};
	struct hf_err err;
	(void)state;
	for (size_t i = 0; i < 4; i++) {
		if (!strcmp(answers[i], "H")) { // may still become a greeting, but ends
			assert_int_equal(connect_to(answers[i], 1, &err), -ECONNRESET);
			assert_int_equal(err.class, HF_ERR_LINK);
			continue;
		}
		assert_int_equal(connect_to(answers[i], strlen(answers[i]), &err), -EPROTO);
		assert_int_equal(err.class, HF_ERR_PEER);
		assert_mentions(err.text, "not Hugeferry");
	}
	assert_int_equal(connect_to("", 0, &err), -ECONNRESET);
}

static void terms_that_were_not_offered_are_refused(void **state)
{
	static const uint32_t channels[][2] = {{0, 1}, {1, 0}, {3, 1}, {1, 3}, {64, 64}};
	struct hf_err err;
	(void)state;
	for (size_t i = 0; i < sizeof(channels) / sizeof(channels[0]); i++) {
		struct hf_wire_hello_reply reply = {.version = HF_WIRE_VERSION_MAX,
						    .channels = {channels[i][0], channels[i][1]}};
		uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES];
		hf_wire_encode_hello_reply(&reply, "", bytes, sizeof(bytes));
		assert_int_equal(connect_to(bytes, sizeof(bytes), &err), -EPROTO);
		assert_int_equal(err.class, HF_ERR_PEER);
		bytes[11] = 0;	// status
		bytes[15] = 77; // version
		assert_int_equal(connect_to(bytes, sizeof(bytes), &err), -EPROTO);
	}
}

static void a_feature_that_was_not_offered_is_refused(void **state)
{
	struct hf_wire_hello_reply reply = {
	    .version = HF_WIRE_VERSION_MAX, .features = HF_WIRE_FEATURES, .channels = {1, 1}};
	uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES];
	struct hf_err err;
	(void)state;
	hf_wire_encode_hello_reply(&reply, "", bytes, sizeof(bytes));
	assert_int_equal(connect_to(bytes, sizeof(bytes), &err), -EPROTO);
	assert_mentions(err.text, "features");
}

static void only_a_checker_offers_to_be_one(void **state)
{
	(void)state;
	for (int check = 0; check < 2; check++) {
		struct hf_tcp_options options = source_options(1, 1);
		struct connecting connecting;
		struct hf_wire_hello hello;
		uint8_t bytes[HF_WIRE_HELLO_BYTES];
		char uri[64];
		options.check = check;
		int listener = raw_listen(uri);
		connecting_start(&connecting, uri, &options);
		int fd = raw_accept(listener);
		raw_recv(fd, bytes, sizeof(bytes));
		close(fd);
		assert_true(connecting_join(&connecting) < 0);
		assert_int_equal(hf_wire_decode_hello(bytes, sizeof(bytes), &hello, NULL), 0);
		assert_true(hello.features & HF_WIRE_FEATURE_LINK);
		assert_int_equal(!!(hello.features & HF_WIRE_FEATURE_RECOVER), !check);
		assert_int_equal(!!(hello.features & HF_WIRE_FEATURE_CHECK), check);
		assert_false(hello.features & HF_WIRE_FEATURE_PRECOPY);
		close(listener);
	}
}

/* Only a source that means to send rounds offers them, and a check never does. */
static void rounds_are_offered_by_who_means_them(void **state)
{
	(void)state;
	for (int check = 0; check <= 1; check++) {
		struct connecting connecting;
		struct hf_tcp_options options = source_options(1, 1);
		struct hf_wire_hello hello;
		uint8_t bytes[HF_WIRE_HELLO_BYTES];
		char uri[64];
		options.check = check;
		options.precopy = true;
		int listener = raw_listen(uri);
		connecting_start(&connecting, uri, &options);
		int fd = raw_accept(listener);
		raw_recv(fd, bytes, sizeof(bytes));
		close(fd);
		assert_true(connecting_join(&connecting) < 0);
		assert_int_equal(hf_wire_decode_hello(bytes, sizeof(bytes), &hello, NULL), 0);
		assert_int_equal(!!(hello.features & HF_WIRE_FEATURE_PRECOPY), !check);
		close(listener);
	}
}

static void the_reason_of_a_refusal_reaches_the_source(void **state)
{
	static const struct {
		uint32_t status;
		int result;
		enum hf_err_class class;
	} cases[] = {{HF_WIRE_HELLO_VERSION, -EPROTONOSUPPORT, HF_ERR_PEER},
		     {HF_WIRE_HELLO_BUSY, -EBUSY, HF_ERR_LINK},
		     {HF_WIRE_HELLO_SESSION, -ECONNREFUSED, HF_ERR_PEER},
		     {HF_WIRE_HELLO_REFUSED, -ECONNREFUSED, HF_ERR_PEER},
		     {4711, -ECONNREFUSED, HF_ERR_PEER}};
	struct hf_err err;
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct hf_wire_hello_reply reply = {.status = cases[i].status};
		uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES + 20];
		ssize_t length = hf_wire_encode_hello_reply(&reply, "too late today", bytes, sizeof(bytes));
		bytes[HF_WIRE_HELLO_REPLY_BYTES + 3] = '\n'; // never printed as it came
		assert_int_equal(connect_to(bytes, (size_t)length, &err), cases[i].result);
		assert_int_equal(err.class, cases[i].class);
		assert_mentions(err.text, "too?late today");
		// Also when the text does not come whole.
		assert_int_equal(connect_to(bytes, (size_t)length - 4, &err), cases[i].result);
		assert_mentions(err.text, "too?late t");
	}
}

/* Connects to a raw destination that accepts the control channel and gives this answer to the first page
 * channel. */
static void connect_to_page_answer(const struct hf_wire_hello_reply *answer, const char *text, int result,
				   const char *mentioned)
{
	struct hf_wire_hello_reply reply = {.version = HF_WIRE_VERSION_MAX, .channels = {1, 1}};
	struct hf_tcp_options options = source_options(1, 1);
	struct connecting connecting;
	uint8_t hello[HF_WIRE_HELLO_BYTES];
	char uri[64];
	int listener = raw_listen(uri);
	connecting_start(&connecting, uri, &options);
	int control = raw_accept(listener);
	raw_recv(control, hello, sizeof(hello));
	raw_send_reply(control, &reply, "");
	int page = raw_accept(listener);
	raw_recv(page, hello, sizeof(hello));
	raw_send_reply(page, answer, text);
	close(listener);
	assert_int_equal(connecting_join(&connecting), result);
	assert_null(connecting.tcp);
	assert_int_equal(connecting.err.class, HF_ERR_PEER);
	assert_mentions(connecting.err.text, mentioned);
	assert_int_equal(raw_recv_all(control, hello, 1), 0); // nothing is left open
	close(page);
	close(control);
}

static void a_destination_that_refuses_a_page_channel_fails_the_connection(void **state)
{
	struct hf_wire_hello_reply reply = {.status = HF_WIRE_HELLO_SESSION};
	(void)state;
	connect_to_page_answer(&reply, "who are you", -ECONNREFUSED, "who are you");
}

static void a_page_channel_answered_with_other_terms_fails_the_connection(void **state)
{
	struct hf_wire_hello_reply features = {.version = HF_WIRE_VERSION_MAX,
					       .features = HF_WIRE_FEATURES & -HF_WIRE_FEATURES};
	struct hf_wire_hello_reply channels = {.version = HF_WIRE_VERSION_MAX, .channels = {0, 1}};
	(void)state;
	connect_to_page_answer(&features, "", -EPROTO, "features 0x1");
	connect_to_page_answer(&channels, "", -EPROTO, "number of channels");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(both_sides_are_told_the_same_of_the_link),
	    cmocka_unit_test(the_smaller_wish_for_channels_counts),
	    cmocka_unit_test(a_listener_takes_one_connection_after_another),
	    cmocka_unit_test(the_listener_is_readable_when_someone_connects),
	    cmocka_unit_test(a_connection_never_started_is_closed_without_events),
	    cmocka_unit_test(a_port_in_use_is_named),
	    cmocka_unit_test(a_live_unix_socket_is_left_alone),
	    cmocka_unit_test(a_stale_unix_socket_is_replaced_and_removed_at_the_end),
	    cmocka_unit_test(a_file_that_is_no_socket_is_left_alone),
	    cmocka_unit_test(another_socket_at_the_path_is_not_removed),
	    cmocka_unit_test(an_http_client_is_refused_and_the_listener_goes_on),
	    cmocka_unit_test(a_silent_client_times_out_and_is_told),
	    cmocka_unit_test(nobody_at_all_is_a_timeout),
	    cmocka_unit_test(a_client_that_goes_away_is_reported),
	    cmocka_unit_test(silent_strangers_do_not_hold_up_a_source),
	    cmocka_unit_test(a_broken_hello_is_refused_with_the_reason),
	    cmocka_unit_test(another_version_is_told_both_ranges),
	    cmocka_unit_test(a_second_session_is_told_busy),
	    cmocka_unit_test(channels_nobody_awaits_are_refused),
	    cmocka_unit_test(one_channel_is_not_opened_twice),
	    cmocka_unit_test(a_source_lost_while_opening_is_reported),
	    cmocka_unit_test(a_source_that_stops_opening_times_out),
	    cmocka_unit_test(nobody_listening_is_said),
	    cmocka_unit_test(a_silent_listener_times_out),
	    cmocka_unit_test(a_listener_that_is_not_hugeferry_is_named_so),
	    cmocka_unit_test(terms_that_were_not_offered_are_refused),
	    cmocka_unit_test(a_feature_that_was_not_offered_is_refused),
	    cmocka_unit_test(only_a_checker_offers_to_be_one),
	    cmocka_unit_test(rounds_are_offered_by_who_means_them),
	    cmocka_unit_test(the_reason_of_a_refusal_reaches_the_source),
	    cmocka_unit_test(a_destination_that_refuses_a_page_channel_fails_the_connection),
	    cmocka_unit_test(a_page_channel_answered_with_other_terms_fails_the_connection),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
