/* SPDX-License-Identifier: Apache-2.0 */
/* Continuing a session: who is let in where one is awaited, and what a source that tries again is told. */
#include "tests/unit/transport-tcp/rig.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATIENCE_MS   10000u
#define IMPATIENCE_MS 100u

static struct hf_tcp_listener *listen_on(const char *uri)
{
	struct hf_tcp_options options = {.timeout_ms = PATIENCE_MS};
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

/* The session of source_options(), at this epoch. */
static struct hf_tcp_options at_epoch(uint64_t epoch)
{
	struct hf_tcp_options options = source_options(1, 1);
	options.epoch = epoch;
	return options;
}

struct both {
	struct hf_tcp *source, *destination;
};

/* A real source is accepted. */
static struct both open_both(struct hf_tcp_listener *listener, const struct hf_tcp_options *options)
{
	struct both both = {0};
	struct connecting connecting;
	struct hf_err err = HF_ERR_INIT;
	connecting_start(&connecting, hf_tcp_listener_uri(listener), options);
	if (hf_tcp_accept(listener, &both.destination, &err))
		fail_msg("accept: %s", err.text);
	if (connecting_join(&connecting))
		fail_msg("connect: %s", connecting.err.text);
	both.source = connecting.tcp;
	return both;
}

static void close_both(struct both *both)
{
	hf_tcp_close(both->source);
	hf_tcp_close(both->destination);
}

/* A real source is refused, and the destination says the same. */
static void assert_refused(struct hf_tcp_listener *listener, const struct hf_tcp_options *options, int result,
			   enum hf_err_class class, const char *word)
{
	struct connecting connecting;
	struct hf_tcp *tcp = NULL;
	struct hf_err err = HF_ERR_INIT;
	connecting_start(&connecting, hf_tcp_listener_uri(listener), options);
	assert_true(hf_tcp_accept(listener, &tcp, &err) < 0);
	assert_int_equal(connecting_join(&connecting), result);
	assert_null(tcp);
	assert_null(connecting.tcp);
	assert_int_equal(connecting.err.class, class);
	assert_mentions(connecting.err.text, word);
	assert_mentions(err.text, word);
}

/* The status that a hello is answered with where nobody is accepted. */
static uint32_t status_of(struct hf_tcp_listener *listener, const struct hf_wire_hello *hello)
{
	char text[HF_WIRE_TEXT_MAX_BYTES + 1];
	struct hf_tcp *tcp = NULL;
	struct hf_err err = HF_ERR_INIT;
	int fd = raw_connect(hf_tcp_listener_uri(listener));
	raw_send_hello(fd, hello);
	assert_true(hf_tcp_accept(listener, &tcp, &err) < 0);
	uint32_t status = raw_recv_reply(fd, text).status;
	assert_mentions(err.text, text);
	close(fd);
	return status;
}

/* ---- at the destination ----------------------------------------------------------------------- */

static void a_session_is_continued_link_after_link(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct hf_tcp_listener *listener = listen_on(i ? "tcp:127.0.0.1:0" : unix_uri());
		for (uint64_t epoch = 1; epoch < 9; epoch += epoch) {
			struct hf_tcp_options options = at_epoch(epoch);
			struct both both = open_both(listener, &options);
			assert_memory_equal(hf_tcp_session(both.destination), options.session,
					    HF_TCP_SESSION_BYTES);
			assert_memory_equal(hf_tcp_session(both.source), options.session,
					    HF_TCP_SESSION_BYTES);
			assert_int_equal(hf_tcp_info(both.source)->epoch, epoch);
			assert_int_equal(hf_tcp_info(both.destination)->epoch, epoch);
			assert_true(hf_tcp_info(both.source)->features & HF_WIRE_FEATURE_RECOVER);
			assert_true(hf_tcp_info(both.destination)->features & HF_WIRE_FEATURE_RECOVER);
			hf_tcp_listener_expect(listener, hf_tcp_session(both.destination), epoch);
			close_both(&both);
		}
		hf_tcp_listener_close(listener);
	}
}

static void an_epoch_that_is_not_higher_is_refused_for_good(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0");
	(void)state;
	await_source(listener);
	for (uint64_t epoch = 1; epoch < RIG_EPOCH; epoch++) {
		struct hf_tcp_options options = at_epoch(epoch);
		assert_refused(listener, &options, -ECONNREFUSED, HF_ERR_PEER, "comes too late");
	}
	struct hf_tcp_options options = at_epoch(RIG_EPOCH);
	struct both both = open_both(listener, &options);
	close_both(&both);
	hf_tcp_listener_expect(listener, options.session, UINT64_MAX);
	options = at_epoch(UINT64_MAX);
	assert_refused(listener, &options, -ECONNREFUSED, HF_ERR_PEER, "comes too late");
	hf_tcp_listener_close(listener);
}

static void while_one_session_is_awaited_others_are_told_busy(void **state)
{
	struct hf_tcp_listener *listener = listen_on(unix_uri());
	(void)state;
	await_source(listener);
	for (uint64_t epoch = 1; epoch <= RIG_EPOCH + 1; epoch++) {
		struct hf_tcp_options options = at_epoch(epoch);
		options.session[HF_TCP_SESSION_BYTES - 1] ^= 1;
		assert_refused(listener, &options, -EBUSY, HF_ERR_LINK, "in the middle of another migration");
	}
	hf_tcp_listener_close(listener);
}

static void while_a_session_is_awaited_no_link_is_measured(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0");
	struct hf_tcp_options options = at_epoch(1);
	struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_CONTROL, 0, 1, 1);
	(void)state;
	await_source(listener);
	options.check = true;
	assert_refused(listener, &options, -EBUSY, HF_ERR_LINK, "in the middle of another migration");
	memcpy(hello.session, options.session, sizeof(hello.session));
	hello.epoch = RIG_EPOCH;
	hello.features = HF_WIRE_FEATURES; // to measure, and of the awaited session
	assert_int_equal(status_of(listener, &hello), HF_WIRE_HELLO_BUSY);
	hf_tcp_listener_close(listener);
}

static void a_session_that_nobody_awaits_is_not_continued(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0");
	struct hf_tcp_options options = at_epoch(2);
	(void)state;
	assert_refused(listener, &options, -ECONNREFUSED, HF_ERR_PEER, "nobody here waits");
	await_source(listener);
	hf_tcp_listener_expect(listener, NULL, 0);
	options = at_epoch(RIG_EPOCH);
	assert_refused(listener, &options, -ECONNREFUSED, HF_ERR_PEER, "nobody here waits");
	options = at_epoch(1); // but anybody begins one
	struct both both = open_both(listener, &options);
	close_both(&both);
	hf_tcp_listener_close(listener);
}

static void a_source_that_does_not_say_that_it_can_continue_is_refused(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0");
	struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_CONTROL, 0, 1, 1);
	(void)state;
	hf_tcp_listener_expect(listener, hello.session, 1);
	hello.epoch = 2;
	hello.features &= ~HF_WIRE_FEATURE_RECOVER;
	assert_int_equal(status_of(listener, &hello), HF_WIRE_HELLO_SESSION);
	hello.version_min = hello.version_max = HF_WIRE_VERSION_MAX + 1; // its features mean nothing to us
	assert_int_equal(status_of(listener, &hello), HF_WIRE_HELLO_VERSION);
	hf_tcp_listener_close(listener);
}

static void a_source_of_an_older_release_is_accepted_without_the_feature(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0");
	struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_CONTROL, 0, 1, 1);
	struct accepting accepting;
	char text[HF_WIRE_TEXT_MAX_BYTES + 1];
	(void)state;
	hello.features = HF_WIRE_FEATURE_LINK;
	accepting_start(&accepting, listener);
	int fd = raw_connect(hf_tcp_listener_uri(listener));
	raw_send_hello(fd, &hello);
	struct hf_wire_hello_reply reply = raw_recv_reply(fd, text);
	assert_int_equal(reply.status, HF_WIRE_HELLO_ACCEPTED);
	assert_int_equal(reply.features, HF_WIRE_FEATURE_LINK);
	close(fd);
	assert_true(accepting_join(&accepting) < 0);
	hf_tcp_listener_close(listener);
}

static void a_try_that_was_given_up_does_not_cost_the_next(void **state)
{
	struct hf_tcp_listener *listener = listen_on("tcp:127.0.0.1:0");
	struct hf_tcp_options options = at_epoch(RIG_EPOCH + 1);
	struct hf_wire_hello hello = raw_hello(HF_WIRE_CHANNEL_CONTROL, 0, 1, 1);
	struct connecting connecting;
	struct hf_tcp *tcp = NULL;
	(void)state;
	await_source(listener);
	memcpy(hello.session, options.session, sizeof(hello.session));
	hello.epoch = RIG_EPOCH;
	int fd = raw_connect(hf_tcp_listener_uri(listener));
	raw_send_hello(fd, &hello);
	close(fd);
	connecting_start(&connecting, hf_tcp_listener_uri(listener), &options);
	while (hf_tcp_accept(listener, &tcp, NULL)) // the first answer may be about the one that is gone
		;
	assert_int_equal(connecting_join(&connecting), 0);
	assert_int_equal(hf_tcp_info(tcp)->epoch, RIG_EPOCH + 1);
	hf_tcp_close(tcp);
	hf_tcp_close(connecting.tcp);
	hf_tcp_listener_close(listener);
}

/* ---- at the source ---------------------------------------------------------------------------- */

struct stubborn {
	pthread_t thread;
	char uri[128];
	struct hf_tcp *tcp;
	uint64_t epoch;
	struct hf_err err; /* of the last try in vain */
};

static void *try_again_main(void *argument)
{
	struct stubborn *stubborn = argument;
	struct hf_tcp_options options = at_epoch(RIG_EPOCH);
	options.timeout_ms = IMPATIENCE_MS;
	while (hf_tcp_connect(&stubborn->tcp, stubborn->uri, &options, &stubborn->err) &&
	       stubborn->err.class == HF_ERR_LINK)
		options.epoch++;
	stubborn->epoch = options.epoch;
	return NULL;
}

static void a_source_that_tries_again_and_again_is_accepted_in_the_end(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct hf_tcp_listener *listener = listen_on(i ? "tcp:127.0.0.1:0" : unix_uri());
		struct stubborn stubborn = {0};
		struct hf_tcp *tcp = NULL;
		await_source(listener);
		snprintf(stubborn.uri, sizeof(stubborn.uri), "%s", hf_tcp_listener_uri(listener));
		assert_int_equal(pthread_create(&stubborn.thread, NULL, try_again_main, &stubborn), 0);
		usleep(5 * IMPATIENCE_MS * 1000); // nobody accepts meanwhile
		while (hf_tcp_accept(listener, &tcp, NULL))
			;
		pthread_join(stubborn.thread, NULL);
		if (!stubborn.tcp)
			fail_msg("gave up: %s", stubborn.err.text);
		assert_int_equal(hf_tcp_info(tcp)->epoch, stubborn.epoch);
		assert_in_range(stubborn.epoch, RIG_EPOCH + 2, RIG_EPOCH + 100);
		hf_tcp_close(tcp);
		hf_tcp_close(stubborn.tcp);
		hf_tcp_listener_close(listener);
	}
}

static void a_try_ends_soon_where_nobody_answers(void **state)
{
	struct hf_tcp_options options = at_epoch(2);
	struct hf_err err = HF_ERR_INIT;
	struct hf_tcp *tcp = NULL;
	char uri[64];
	(void)state;
	options.timeout_ms = IMPATIENCE_MS;
	uint64_t start_ms = now_ms();
	int listener = raw_listen(uri);
	assert_int_equal(hf_tcp_connect(&tcp, uri, &options, &err), -ETIMEDOUT);
	assert_int_equal(err.class, HF_ERR_LINK);
	close(listener);
	assert_int_equal(hf_tcp_connect(&tcp, uri, &options, &err), -ECONNREFUSED);
	assert_int_equal(err.class, HF_ERR_LINK);
	assert_int_equal(hf_tcp_connect(&tcp, unix_uri(), &options, &err), -ENOENT);
	assert_int_equal(err.class, HF_ERR_LINK);
	assert_in_range(now_ms() - start_ms, IMPATIENCE_MS, PATIENCE_MS);
	assert_null(tcp);
}

/*
 * Continues a session at a raw destination that gives these bytes to its control channel, or, once that is
 * accepted, to the first page channel.
 */
static int continue_at(bool page, const void *answer, size_t answer_bytes, struct hf_err *err)
{
	struct hf_wire_hello_reply accepted = {
	    .version = HF_WIRE_VERSION_MAX, .features = HF_WIRE_FEATURE_RECOVER, .channels = {1, 1}};
	struct hf_tcp_options options = at_epoch(2);
	struct connecting connecting;
	uint8_t hello[HF_WIRE_HELLO_BYTES];
	int control = -1;
	char uri[64];
	int listener = raw_listen(uri);
	connecting_start(&connecting, uri, &options);
	if (page) {
		control = raw_accept(listener);
		raw_recv(control, hello, sizeof(hello));
		raw_send_reply(control, &accepted, "");
	}
	int fd = raw_accept(listener);
	raw_recv(fd, hello, sizeof(hello));
	raw_send(fd, answer, answer_bytes);
	shutdown(fd, SHUT_WR);
	int result = connecting_join(&connecting);
	assert_null(connecting.tcp);
	*err = connecting.err;
	close(fd);
	if (page)
		close(control);
	close(listener);
	return result;
}

static void the_class_says_whether_trying_again_may_help(void **state)
{
	static const struct {
		bool page;
		uint32_t status;
		enum hf_err_class class;
	} cases[] = {
	    {false, HF_WIRE_HELLO_BUSY, HF_ERR_LINK},
	    {false, HF_WIRE_HELLO_SESSION, HF_ERR_PEER},
	    {false, HF_WIRE_HELLO_VERSION, HF_ERR_PEER},
	    {false, HF_WIRE_HELLO_REFUSED, HF_ERR_LINK},
	    {false, 4711, HF_ERR_LINK},
	    {true, HF_WIRE_HELLO_BUSY, HF_ERR_LINK},
	    {true, HF_WIRE_HELLO_SESSION, HF_ERR_LINK}, // the session is known; this link was given up there
	    {true, HF_WIRE_HELLO_REFUSED, HF_ERR_LINK},
	    {true, HF_WIRE_HELLO_VERSION, HF_ERR_PEER},
	};
	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct hf_wire_hello_reply reply = {.status = cases[i].status};
		uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES + 20];
		struct hf_err err;
		ssize_t length = hf_wire_encode_hello_reply(&reply, "not today", bytes, sizeof(bytes));
		assert_true(continue_at(cases[i].page, bytes, (size_t)length, &err) < 0);
		if (err.class != cases[i].class)
			fail_msg("status %u: class %d", cases[i].status, err.class);
		assert_mentions(err.text, "not today");
	}
}

static void a_connection_that_breaks_while_it_is_opened_may_be_tried_again(void **state)
{
	struct hf_err err;
	(void)state;
	for (int page = 0; page < 2; page++)
		for (size_t bytes = 0; bytes <= 8; bytes += 4) {
			assert_int_equal(continue_at(page, HF_WIRE_MAGIC, bytes, &err), -ECONNRESET);
			assert_int_equal(err.class, HF_ERR_LINK);
		}
	assert_int_equal(continue_at(false, "SSH-2.0", 7, &err), -EPROTO); // another program
	assert_int_equal(err.class, HF_ERR_PEER);
}

static void a_destination_that_cannot_continue_is_left_at_once(void **state)
{
	struct hf_wire_hello_reply reply = {
	    .version = HF_WIRE_VERSION_MAX, .features = HF_WIRE_FEATURE_LINK, .channels = {1, 1}};
	uint8_t bytes[HF_WIRE_HELLO_REPLY_BYTES];
	struct hf_err err;
	(void)state;
	hf_wire_encode_hello_reply(&reply, "", bytes, sizeof(bytes));
	assert_int_equal(continue_at(false, bytes, sizeof(bytes), &err), -EOPNOTSUPP);
	assert_int_equal(err.class, HF_ERR_PEER);
	assert_mentions(err.text, "cannot continue");
}

static void a_destination_of_an_older_release_is_accepted_without_the_feature(void **state)
{
	struct hf_wire_hello_reply reply = {.version = HF_WIRE_VERSION_MAX, .channels = {1, 1}};
	struct hf_tcp_options options = at_epoch(1);
	struct connecting connecting;
	uint8_t hello[HF_WIRE_HELLO_BYTES];
	char uri[64];
	int fds[3];
	(void)state;
	int listener = raw_listen(uri);
	connecting_start(&connecting, uri, &options);
	for (int i = 0; i < 3; i++) {
		fds[i] = raw_accept(listener);
		raw_recv(fds[i], hello, sizeof(hello));
		raw_send_reply(fds[i], &reply, "");
		reply.channels[0] = reply.channels[1] = 0;
	}
	assert_int_equal(connecting_join(&connecting), 0);
	assert_int_equal(hf_tcp_info(connecting.tcp)->features, 0);
	hf_tcp_close(connecting.tcp);
	for (int i = 0; i < 3; i++)
		close(fds[i]);
	close(listener);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_session_is_continued_link_after_link),
	    cmocka_unit_test(an_epoch_that_is_not_higher_is_refused_for_good),
	    cmocka_unit_test(while_one_session_is_awaited_others_are_told_busy),
	    cmocka_unit_test(while_a_session_is_awaited_no_link_is_measured),
	    cmocka_unit_test(a_session_that_nobody_awaits_is_not_continued),
	    cmocka_unit_test(a_source_that_does_not_say_that_it_can_continue_is_refused),
	    cmocka_unit_test(a_source_of_an_older_release_is_accepted_without_the_feature),
	    cmocka_unit_test(a_try_that_was_given_up_does_not_cost_the_next),
	    cmocka_unit_test(a_source_that_tries_again_and_again_is_accepted_in_the_end),
	    cmocka_unit_test(a_try_ends_soon_where_nobody_answers),
	    cmocka_unit_test(the_class_says_whether_trying_again_may_help),
	    cmocka_unit_test(a_connection_that_breaks_while_it_is_opened_may_be_tried_again),
	    cmocka_unit_test(a_destination_that_cannot_continue_is_left_at_once),
	    cmocka_unit_test(a_destination_of_an_older_release_is_accepted_without_the_feature),
	};
	return cmocka_run_group_tests(tests, make_directory, remove_directory);
}
