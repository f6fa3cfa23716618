/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about the QMP client, against the project's own server and against raw, hostile ones. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm/qmp.h"
#include "raw_qmp.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n"
#define LONG_MS	 20000

struct fixture {
	struct raw_directory directory;
	int listen_fd;
	struct raw_qmp raw; /* the VMM's end, in `thread` until it is joined */
	pthread_t thread;
	const char *welcome; /* what the VMM says first */
	bool negotiates;
	const char *negotiation_answer; /* NULL: yes */
	struct hf_qmp_client *client;

	pthread_mutex_t mutex;
	pthread_cond_t changed;
	char events[256];
	int execute_in_event;
};

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	raw_directory_make(&fixture->directory);
	fixture->listen_fd = raw_listen(fixture->directory.socket_path);
	fixture->raw.fd = -1;
	pthread_mutex_init(&fixture->mutex, NULL);
	pthread_cond_init(&fixture->changed, NULL);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;
	hf_qmp_client_destroy(fixture->client);
	if (fixture->raw.fd >= 0)
		raw_close(&fixture->raw);
	close(fixture->listen_fd);
	unlink(fixture->directory.socket_path);
	raw_directory_remove(&fixture->directory);
	free(fixture);
	return 0;
}

static void on_event(void *opaque, const char *name, const json_t *data, uint64_t at_us)
{
	(void)at_us;
	struct fixture *fixture = opaque;
	pthread_mutex_lock(&fixture->mutex);
	struct hf_qmp_client *client = fixture->client;
	const char *status = json_string_value(json_object_get(data, "status"));
	size_t length = strlen(fixture->events);
	snprintf(fixture->events + length, sizeof(fixture->events) - length, "%s(%s) ", name,
		 status ? status : "");
	if (strcmp(name, "EXECUTE") == 0)
		fixture->execute_in_event = hf_qmp_client_execute(client, "stop", NULL, LONG_MS, NULL, NULL);
	pthread_cond_broadcast(&fixture->changed);
	pthread_mutex_unlock(&fixture->mutex);
}

static void wait_events(struct fixture *fixture, const char *expected)
{
	pthread_mutex_lock(&fixture->mutex);
	while (strlen(fixture->events) < strlen(expected))
		pthread_cond_wait(&fixture->changed, &fixture->mutex);
	assert_string_equal(fixture->events, expected);
	pthread_mutex_unlock(&fixture->mutex);
}

/* The VMM's end of a connection being made. */
static void *welcome_thread(void *opaque)
{
	struct fixture *fixture = opaque;
	raw_accept(&fixture->raw, fixture->listen_fd);
	raw_send(&fixture->raw, fixture->welcome);
	if (fixture->negotiates) {
		raw_expect(&fixture->raw, "{\"execute\": \"qmp_capabilities\", \"id\": 1}");
		raw_send(&fixture->raw, fixture->negotiation_answer ? fixture->negotiation_answer
								    : "{\"return\": {}, \"id\": 1}\r\n");
	} else {
		shutdown(fixture->raw.fd, SHUT_WR);
	}
	return NULL;
}

static int connect_to(struct fixture *fixture, const char *welcome, bool negotiates, struct hf_err *err)
{
	fixture->welcome = welcome;
	fixture->negotiates = negotiates;
	assert_int_equal(pthread_create(&fixture->thread, NULL, welcome_thread, fixture), 0);
	struct hf_qmp_client *client = NULL;
	int r = hf_qmp_client_connect(&client, fixture->directory.socket_path, on_event, fixture, err);
	pthread_join(fixture->thread, NULL);
	pthread_mutex_lock(&fixture->mutex);
	fixture->client = client;
	pthread_mutex_unlock(&fixture->mutex);
	return r;
}

static void connect_raw(struct fixture *fixture)
{
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(connect_to(fixture, GREETING, true, &err), 0);
}

/* One command in a thread of its own, so that the test can be the VMM meanwhile. */
struct call {
	struct hf_qmp_client *client;
	const char *command;
	uint32_t timeout_ms;
	int result;
	pthread_t thread;
	json_t *answer;
	struct hf_err err;
};

static void *call_thread(void *opaque)
{
	struct call *call = opaque;
	call->result = hf_qmp_client_execute(call->client, call->command, NULL, call->timeout_ms,
					     &call->answer, &call->err);
	return NULL;
}

static void call_start(struct call *call, struct fixture *fixture, const char *command, uint32_t timeout_ms)
{
	*call = (struct call){.client = fixture->client, .command = command, .timeout_ms = timeout_ms};
	assert_int_equal(pthread_create(&call->thread, NULL, call_thread, call), 0);
}

static void call_join(struct call *call)
{
	pthread_join(call->thread, NULL);
}

/* Starts a command and answers it with the given text. */
static void converse(struct call *call, struct fixture *fixture, const char *answer)
{
	call_start(call, fixture, "query-status", LONG_MS);
	json_decref(raw_receive(&fixture->raw));
	raw_send(&fixture->raw, answer);
	call_join(call);
}

static void the_client_negotiates_knows_the_vmms_pid_and_takes_a_prefix(void **state)
{
	struct fixture *fixture = *state;
	connect_raw(fixture);
	assert_int_equal(hf_qmp_client_pid(fixture->client), getpid());
	assert_int_equal(hf_qmp_client_uid(fixture->client), geteuid());
	assert_string_equal(hf_qmp_client_path(fixture->client), fixture->directory.socket_path);
	hf_qmp_client_destroy(fixture->client);
	fixture->client = NULL;
	raw_expect_end(&fixture->raw);

	char target[128];
	struct hf_err err = HF_ERR_INIT;
	snprintf(target, sizeof(target), "qmp:%s-not", fixture->directory.socket_path);
	assert_int_equal(hf_qmp_client_connect(&fixture->client, target, NULL, NULL, &err), -ENOENT);
	assert_non_null(strstr(err.text, target + 4));
	assert_null(fixture->client);
	hf_qmp_client_destroy(NULL);
}

static void what_does_not_greet_like_qmp_is_refused(void **state)
{
	struct fixture *fixture = *state;
	static const struct {
		const char *welcome;
		int error;
	} cases[] = {
	    {"", ECONNRESET},
	    {"{\"QMP\"", ECONNRESET},
	    {"SSH-2.0-OpenSSH\n", EPROTO},
	    {"[]", EPROTO},
	    {"{\"QMP\": 1}", EPROTO},
	    {"{\"return\": {}}", EPROTO},
	    {"{\"error\": {\"class\": \"GenericError\", \"desc\": \"too many\"}}", EREMOTEIO},
	    {GREETING, ECONNRESET},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct hf_err err = HF_ERR_INIT;
		int r = connect_to(fixture, cases[i].welcome, false, &err);
		assert_int_equal(r, -cases[i].error);
		assert_null(fixture->client);
		assert_non_null(strstr(err.text, fixture->directory.socket_path));
		raw_close(&fixture->raw);
	}
}

static void a_vmm_that_refuses_the_negotiation_is_refused(void **state)
{
	struct fixture *fixture = *state;
	struct hf_err err = HF_ERR_INIT;
	fixture->negotiation_answer =
	    "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not you\"}, \"id\": 1}";
	assert_int_equal(connect_to(fixture, GREETING, true, &err), -EREMOTEIO);
	assert_non_null(strstr(err.text, "not you"));
	assert_null(fixture->client);
}

static void an_answer_brings_its_result_and_an_error_its_class_and_words(void **state)
{
	struct fixture *fixture = *state;
	struct call call;
	connect_raw(fixture);
	converse(&call, fixture, "{\"return\": {\"status\": \"running\"}, \"id\": 2}");
	assert_int_equal(call.result, 0);
	assert_string_equal(json_string_value(json_object_get(call.answer, "status")), "running");
	json_decref(call.answer);

	converse(&call, fixture,
		 "{\"error\": {\"class\": \"GenericError\", \"desc\": \"bad\\nthing\"}, \"id\": 3}");
	assert_int_equal(call.result, -EREMOTEIO);
	assert_non_null(strstr(call.err.text, "query-status"));
	assert_non_null(strstr(call.err.text, "bad?thing"));
	assert_null(call.answer);

	converse(&call, fixture, "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"x\"}, \"id\": 4}");
	assert_int_equal(call.result, -ENOSYS);
	converse(&call, fixture, "{\"error\": 5, \"id\": 5}");
	assert_int_equal(call.result, -EREMOTEIO);
	converse(&call, fixture, "{\"neither\": 5, \"id\": 6}");
	assert_int_equal(call.result, -EPROTO);
}

static void answers_in_another_order_find_their_commands(void **state)
{
	struct fixture *fixture = *state;
	struct call calls[3];
	static const char *const names[] = {"a", "b", "c"};
	json_t *requests[3];
	connect_raw(fixture);
	for (int i = 0; i < 3; i++) {
		call_start(&calls[i], fixture, names[i], LONG_MS);
		requests[i] = raw_receive(&fixture->raw);
	}
	raw_send(&fixture->raw,
		 "{\"return\": {}, \"id\": 999}{\"return\": {}, \"id\": \"2\"}{\"return\": {}}");
	for (int i = 2; i >= 0; i--) {
		json_t *answer =
		    json_pack("{s:{s:O}, s:O}", "return", "name", json_object_get(requests[i], "execute"),
			      "id", json_object_get(requests[i], "id"));
		char *text = json_dumps(answer, 0);
		raw_send(&fixture->raw, text);
		free(text);
		json_decref(answer);
		json_decref(requests[i]);
	}
	for (int i = 0; i < 3; i++) {
		call_join(&calls[i]);
		assert_int_equal(calls[i].result, 0);
		assert_string_equal(json_string_value(json_object_get(calls[i].answer, "name")), names[i]);
		json_decref(calls[i].answer);
	}
}

static void several_questions_at_once_have_each_an_end_of_their_own(void **state)
{
	struct fixture *fixture = *state;
	struct hf_qmp_question questions[] = {{.command = "a", .arguments = json_pack("{s:i}", "n", 1)},
					      {.command = "b"},
					      {.command = "\xff"},
					      {.command = "c"},
					      {.command = "never"}};
	connect_raw(fixture);
	hf_qmp_client_send(fixture->client, questions, 5, LONG_MS);
	raw_expect(&fixture->raw, "{\"execute\": \"a\", \"id\": 2, \"arguments\": {\"n\": 1}}");
	raw_expect(&fixture->raw, "{\"execute\": \"b\", \"id\": 3}");
	raw_expect(&fixture->raw, "{\"execute\": \"c\", \"id\": 5}");
	raw_send(&fixture->raw, "{\"return\": {\"last\": 1}, \"id\": 5}"
				"{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no b\"}, \"id\": 3}"
				"{\"return\": [], \"id\": 2}");
	hf_qmp_client_await(fixture->client, questions, 4, LONG_MS);
	hf_qmp_client_await(fixture->client, questions, 5, 0); // those that have ended stay as they are
	assert_int_equal(questions[0].r, 0);
	assert_true(json_is_array(questions[0].result));
	assert_int_equal(questions[1].r, -ENOSYS);
	assert_non_null(strstr(questions[1].err.text, "no b"));
	assert_null(questions[1].result);
	assert_int_equal(questions[2].r, -EINVAL);
	assert_int_equal(questions[3].r, 0);
	assert_int_equal(json_integer_value(json_object_get(questions[3].result, "last")), 1);
	assert_int_equal(questions[4].r, -ETIMEDOUT);
	assert_non_null(strstr(questions[4].err.text, "never"));
	json_decref(questions[0].result);
	json_decref(questions[3].result);
}

static void a_command_times_out_and_its_late_answer_harms_nothing(void **state)
{
	struct fixture *fixture = *state;
	struct call call;
	struct hf_err err = HF_ERR_INIT;
	json_t *result = NULL;
	connect_raw(fixture);
	assert_int_equal(hf_qmp_client_execute(fixture->client, "slow", NULL, 20, &result, &err), -ETIMEDOUT);
	assert_null(result);
	assert_non_null(strstr(err.text, "slow"));
	assert_non_null(strstr(err.text, fixture->directory.socket_path));
	json_decref(raw_receive(&fixture->raw));
	raw_send(&fixture->raw, "{\"return\": {\"late\": 1}, \"id\": 2}");
	converse(&call, fixture, "{\"return\": {\"late\": 0}, \"id\": 3}");
	assert_int_equal(json_integer_value(json_object_get(call.answer, "late")), 0);
	json_decref(call.answer);
}

static void the_end_of_the_vmm_fails_every_pending_and_every_later_command(void **state)
{
	struct fixture *fixture = *state;
	struct call calls[4];
	struct hf_err err = HF_ERR_INIT;
	char pid[32];
	snprintf(pid, sizeof(pid), "pid %d", (int)getpid());
	connect_raw(fixture);
	for (int i = 0; i < 4; i++) {
		call_start(&calls[i], fixture, "migrate", LONG_MS);
		json_decref(raw_receive(&fixture->raw));
	}
	shutdown(fixture->raw.fd, SHUT_RDWR);
	for (int i = 0; i < 4; i++) {
		call_join(&calls[i]);
		assert_int_equal(calls[i].result, -ECONNRESET);
		assert_int_equal(calls[i].err.class, HF_ERR_LOCAL);
		assert_non_null(strstr(calls[i].err.text, "migrate"));
		assert_non_null(strstr(calls[i].err.text, pid));
		assert_non_null(strstr(calls[i].err.text, fixture->directory.socket_path));
	}
	assert_int_equal(hf_qmp_client_execute(fixture->client, "cont", json_object(), LONG_MS, NULL, &err),
			 -ECONNRESET);
}

static void a_vmm_that_breaks_the_protocol_fails_the_pending_command(void **state)
{
	struct fixture *fixture = *state;
	static const char *const answers[] = {
	    "garbage\n",
	    "{\"return\": {}, \"id\": 2, \"id\": 2}",
	    "[{\"return\": {}, \"id\": 2}]",
	    "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}",
	    "{\"return\": {}, \"id\": 2]",
	};
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		struct call call;
		connect_raw(fixture);
		converse(&call, fixture, answers[i]);
		assert_int_equal(call.result, -EPROTO);
		assert_non_null(strstr(call.err.text, fixture->directory.socket_path));
		hf_qmp_client_destroy(fixture->client);
		fixture->client = NULL;
		raw_close(&fixture->raw);
	}
}

static void an_endless_message_from_the_vmm_is_cut_off(void **state)
{
	struct fixture *fixture = *state;
	struct call call;
	connect_raw(fixture);
	call_start(&call, fixture, "query-status", LONG_MS);
	json_decref(raw_receive(&fixture->raw));
	char *text = malloc(HF_QMP_LINE_MAX_BYTES + 2);
	memset(text, 'x', HF_QMP_LINE_MAX_BYTES + 1);
	text[HF_QMP_LINE_MAX_BYTES + 1] = '\0';
	raw_send(&fixture->raw, "{\"return\": \"");
	// The client hangs up in the middle, so this write may fail.
	size_t sent = 0;
	ssize_t n;
	while (sent <= HF_QMP_LINE_MAX_BYTES &&
	       (n = send(fixture->raw.fd, text + sent, HF_QMP_LINE_MAX_BYTES + 1 - sent, MSG_NOSIGNAL)) > 0)
		sent += (size_t)n;
	call_join(&call);
	assert_int_equal(call.result, -EMSGSIZE);
	free(text);
}

static void events_arrive_in_order_also_those_sent_with_the_greeting(void **state)
{
	struct fixture *fixture = *state;
	connect_raw(fixture);
	raw_send(&fixture->raw, "{\"event\": \"STOP\", \"timestamp\": {}}\n"
				"{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}}"
				"{\"event\": \"RESUME\", \"data\": 7}{\"event\": 7}");
	wait_events(fixture, "STOP() MIGRATION(active) RESUME() ");
	hf_qmp_client_destroy(fixture->client);
	raw_close(&fixture->raw);
	fixture->events[0] = '\0';

	assert_int_equal(connect_to(fixture, GREETING "{\"event\": \"EARLY\"}", true, NULL), 0);
	wait_events(fixture, "EARLY() ");
}

static void a_command_from_the_events_callback_is_refused_instead_of_hanging(void **state)
{
	struct fixture *fixture = *state;
	connect_raw(fixture);
	raw_send(&fixture->raw, "{\"event\": \"EXECUTE\"}");
	wait_events(fixture, "EXECUTE() ");
	assert_int_equal(fixture->execute_in_event, -EDEADLK);
}

static void shutdown_frees_a_waiting_thread(void **state)
{
	struct fixture *fixture = *state;
	struct call call;
	connect_raw(fixture);
	call_start(&call, fixture, "stop", LONG_MS);
	json_decref(raw_receive(&fixture->raw));
	hf_qmp_client_shutdown(fixture->client);
	call_join(&call);
	assert_int_equal(call.result, -ECANCELED);
	assert_int_equal(call.err.class, HF_ERR_CANCELLED);
}

static void a_vmm_that_reads_nothing_does_not_block_the_caller(void **state)
{
	struct fixture *fixture = *state;
	connect_raw(fixture);
	char *text = malloc(3000001);
	memset(text, 'x', 3000000);
	text[3000000] = '\0';
	int r = -ETIMEDOUT;
	int commands = 0;
	for (; r == -ETIMEDOUT && commands < 20; commands++)
		r = hf_qmp_client_execute(fixture->client, "eat", json_pack("{s:s}", "text", text), 1, NULL,
					  NULL);
	assert_int_equal(r, -EAGAIN);
	free(text);
}

static void a_command_that_is_too_long_or_no_utf8_is_refused(void **state)
{
	struct fixture *fixture = *state;
	struct call call;
	connect_raw(fixture);
	char *text = malloc(HF_QMP_LINE_MAX_BYTES + 1);
	memset(text, 'x', HF_QMP_LINE_MAX_BYTES);
	text[HF_QMP_LINE_MAX_BYTES] = '\0';
	assert_int_equal(
	    hf_qmp_client_execute(fixture->client, "a", json_pack("{s:s}", "text", text), 1000, NULL, NULL),
	    -EINVAL);
	free(text);
	assert_int_equal(hf_qmp_client_execute(fixture->client, "\xff", NULL, 1000, NULL, NULL), -EINVAL);
	call_start(&call, fixture, "fine", LONG_MS);
	json_t *request = raw_receive(&fixture->raw);
	assert_string_equal(json_string_value(json_object_get(request, "execute")), "fine");
	json_decref(request);
	hf_qmp_client_shutdown(fixture->client);
	call_join(&call);
}

/* ---- with the project's own server ---- */

static int handle_echo(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	(void)opaque, (void)err;
	*result = json_deep_copy(arguments);
	return 0;
}

static void *echo_thread(void *opaque)
{
	struct hf_qmp_client *client = opaque;
	for (int i = 0; i < 200; i++) {
		json_t *result = NULL;
		int value = (int)((uintptr_t)&result >> 4 & 0xfffff) + i; // differs between threads
		int r = hf_qmp_client_execute(client, "echo", json_pack("{s:i}", "n", value), LONG_MS,
					      &result, NULL);
		if (r < 0 || json_integer_value(json_object_get(result, "n")) != value)
			return "wrong answer";
		json_decref(result);
	}
	return NULL;
}

static void many_threads_on_many_clients_get_their_own_answers(void **state)
{
	struct fixture *fixture = *state;
	static const char *const arguments[] = {"n", NULL};
	static const struct hf_qmp_command commands[] = {{"echo", handle_echo, arguments},
							 {NULL, NULL, NULL}};
	char path[128];
	struct hf_qmp_server *server;
	struct hf_qmp_client *clients[4];
	pthread_t threads[8];
	snprintf(path, sizeof(path), "%s/echo", fixture->directory.path);
	struct hf_qmp_server_config config = {.socket_path = path, .commands = commands};
	assert_int_equal(hf_qmp_server_create(&server, &config, NULL), 0);
	for (int i = 0; i < 4; i++)
		assert_int_equal(hf_qmp_client_connect(&clients[i], path, NULL, NULL, NULL), 0);
	for (int i = 0; i < 8; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, echo_thread, clients[i / 2]), 0);
	for (int i = 0; i < 100; i++)
		hf_qmp_server_event(server, "TICK", NULL);
	for (int i = 0; i < 8; i++) {
		void *complaint;
		pthread_join(threads[i], &complaint);
		assert_null(complaint);
	}
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_qmp_client_execute(clients[0], "nope", NULL, LONG_MS, NULL, &err), -ENOSYS);
	assert_int_equal(hf_qmp_client_execute(clients[0], "echo", NULL, LONG_MS, NULL, &err), -EREMOTEIO);
	assert_non_null(strstr(err.text, "Parameter 'n' is missing"));
	hf_qmp_server_destroy(server);
	assert_int_equal(hf_qmp_client_execute(clients[0], "echo", NULL, LONG_MS, NULL, &err), -ECONNRESET);
	for (int i = 0; i < 4; i++)
		hf_qmp_client_destroy(clients[i]);
}

static void events_that_lie_in_the_socket_have_been_delivered_after_a_drain(void **state)
{
	struct fixture *fixture = *state;
	struct hf_err err = HF_ERR_INIT;
	connect_raw(fixture);
	for (int i = 0; i < 200; i++) {
		fixture->events[0] = '\0'; // the reader has nothing to deliver now
		raw_send(&fixture->raw, "{\"event\": \"A\"}{\"event\": \"B\"}\r\n{\"event\": \"C\"}");
		assert_int_equal(hf_qmp_client_drain(fixture->client, LONG_MS, NULL), 0);
		assert_string_equal(fixture->events, "A() B() C() ");
	}
	raw_send(&fixture->raw, "{\"event\": \"RES");
	assert_int_equal(hf_qmp_client_drain(fixture->client, LONG_MS, &err), -EAGAIN);
	assert_non_null(strstr(err.text, "middle of a message"));
	raw_send(&fixture->raw, "UME\"}");
	assert_int_equal(hf_qmp_client_drain(fixture->client, LONG_MS, NULL), 0);
	raw_close(&fixture->raw);
	int r;
	while ((r = hf_qmp_client_drain(fixture->client, LONG_MS, NULL)) == 0)
		continue;
	assert_int_equal(r, -ECONNRESET);
}

static void a_vmm_that_was_silent_is_used_when_it_greets(void **state)
{
	struct fixture *fixture = *state;
	struct hf_err err = HF_ERR_INIT;
	struct call call;
	int r = hf_qmp_client_connect_silent(&fixture->client, fixture->directory.socket_path, on_event,
					     fixture, &err);
	assert_int_equal(r, 0);
	assert_int_equal(hf_qmp_client_pid(fixture->client), getpid());
	r = hf_qmp_client_execute(fixture->client, "cont", NULL, 50, NULL, &err);
	assert_int_equal(r, -ETIMEDOUT);
	assert_non_null(strstr(err.text, "no answer"));

	fixture->welcome = GREETING;
	fixture->negotiates = true;
	welcome_thread(fixture);
	call_start(&call, fixture, "query-status", UINT32_MAX);
	raw_expect(&fixture->raw, "{\"execute\": \"query-status\", \"id\": 2}"); // and no `cont` that is over
	raw_send(&fixture->raw, "{\"return\": {}, \"id\": 2}\r\n");
	call_join(&call);
	assert_int_equal(call.result, 0);
	json_decref(call.answer);
}

static void a_silent_vmm_that_greets_wrongly_fails_what_waits_for_it(void **state)
{
	struct fixture *fixture = *state;
	struct call call;
	assert_int_equal(
	    hf_qmp_client_connect_silent(&fixture->client, fixture->directory.socket_path, NULL, NULL, NULL),
	    0);
	call_start(&call, fixture, "query-status", UINT32_MAX);
	fixture->welcome = "{\"hello\": 1}\r\n";
	welcome_thread(fixture);
	call_join(&call);
	assert_int_equal(call.result, -EPROTO);
	assert_non_null(strstr(call.err.text, "something else than QMP"));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(the_client_negotiates_knows_the_vmms_pid_and_takes_a_prefix),
	    TEST(a_vmm_that_was_silent_is_used_when_it_greets),
	    TEST(a_silent_vmm_that_greets_wrongly_fails_what_waits_for_it),
	    TEST(what_does_not_greet_like_qmp_is_refused),
	    TEST(a_vmm_that_refuses_the_negotiation_is_refused),
	    TEST(an_answer_brings_its_result_and_an_error_its_class_and_words),
	    TEST(answers_in_another_order_find_their_commands),
	    TEST(several_questions_at_once_have_each_an_end_of_their_own),
	    TEST(a_command_times_out_and_its_late_answer_harms_nothing),
	    TEST(the_end_of_the_vmm_fails_every_pending_and_every_later_command),
	    TEST(a_vmm_that_breaks_the_protocol_fails_the_pending_command),
	    TEST(an_endless_message_from_the_vmm_is_cut_off),
	    TEST(events_arrive_in_order_also_those_sent_with_the_greeting),
	    TEST(a_command_from_the_events_callback_is_refused_instead_of_hanging),
	    TEST(shutdown_frees_a_waiting_thread),
	    TEST(a_vmm_that_reads_nothing_does_not_block_the_caller),
	    TEST(a_command_that_is_too_long_or_no_utf8_is_refused),
	    TEST(many_threads_on_many_clients_get_their_own_answers),
	    TEST(events_that_lie_in_the_socket_have_been_delivered_after_a_drain),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
