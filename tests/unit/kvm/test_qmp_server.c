/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about the QMP server, checked with raw sockets. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm/qmp.h"
#include "raw_qmp.h"

#define NOT_NEGOTIATED                                                                                       \
	"{\"error\": {\"class\": \"CommandNotFound\", "                                                      \
	"\"desc\": \"Expecting capabilities negotiation with 'qmp_capabilities'\"}}"

struct fixture {
	struct raw_directory directory;
	struct hf_qmp_server *server;
	int calls; /* of handlers; they all run in one thread */
};

static int handle_echo(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct fixture *fixture = opaque;
	(void)err;
	fixture->calls++;
	*result = json_deep_copy(arguments);
	return 0;
}

static int handle_nothing(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct fixture *fixture = opaque;
	(void)result, (void)err;
	fixture->calls++;
	return json_object_size(arguments) == 0 ? 0 : -EINVAL;
}

static int handle_fail(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	(void)opaque, (void)result;
	int error = (int)json_integer_value(json_object_get(arguments, "errno"));
	const char *desc = json_string_value(json_object_get(arguments, "desc"));
	return desc ? hf_err_set(err, HF_ERR_LOCAL, error, "%s", desc) : -error;
}

static int handle_event(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	struct fixture *fixture = opaque;
	(void)arguments, (void)result, (void)err;
	hf_qmp_server_event(fixture->server, "STOP", NULL);
	return 0;
}

static int handle_big(void *opaque, const json_t *arguments, json_t **result, struct hf_err *err)
{
	(void)opaque, (void)err;
	size_t length_bytes = (size_t)json_integer_value(json_object_get(arguments, "bytes"));
	char *text = malloc(length_bytes + 1);
	memset(text, 'x', length_bytes);
	text[length_bytes] = '\0';
	*result = json_string(text);
	free(text);
	return 0;
}

static const char *const echo_arguments[] = {"text", "*more", NULL};
static const char *const fail_arguments[] = {"errno", "*desc", NULL};
static const char *const big_arguments[] = {"bytes", NULL};
static const struct hf_qmp_command commands[] = {
    {"echo", handle_echo, echo_arguments}, {"nothing", handle_nothing, NULL},
    {"fail", handle_fail, fail_arguments}, {"emit", handle_event, NULL},
    {"big", handle_big, big_arguments},	   {NULL, NULL, NULL},
};

static struct hf_qmp_server_config config_of(struct fixture *fixture)
{
	return (struct hf_qmp_server_config){.socket_path = fixture->directory.socket_path,
					     .commands = commands,
					     .opaque = fixture,
					     .package = "test 1.0"};
}

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	struct hf_err err = HF_ERR_INIT;
	raw_directory_make(&fixture->directory);
	struct hf_qmp_server_config config = config_of(fixture);
	*state = fixture;
	return hf_qmp_server_create(&fixture->server, &config, &err);
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;
	hf_qmp_server_destroy(fixture->server);
	raw_directory_remove(&fixture->directory);
	free(fixture);
	return 0;
}

static void the_greeting_is_qemus(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	raw_connect(&raw, fixture->directory.socket_path);
	raw_expect(&raw, "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 0}, "
			 "\"package\": \"test 1.0\"}, \"capabilities\": []}}");
	raw_close(&raw);
}

static void no_command_runs_before_the_negotiation(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	raw_connect(&raw, fixture->directory.socket_path);
	raw_expect(&raw, "{\"QMP\": \"*\"}");
	raw_send(&raw, "{\"execute\":\"nothing\"}{\"execute\":\"query-commands\"}{\"execute\":\"unknown\"}");
	for (int i = 0; i < 3; i++)
		raw_expect(&raw, NOT_NEGOTIATED);
	assert_int_equal(fixture->calls, 0);
	raw_send(&raw, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}");
	raw_expect(&raw,
		   "{\"error\": {\"class\": \"GenericError\", \"desc\": \"Capability oob not available\"}}");
	raw_send(&raw, "{\"execute\":\"nothing\"}");
	raw_expect(&raw, NOT_NEGOTIATED);
	raw_send(&raw,
		 "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}{\"execute\":\"nothing\"}");
	raw_expect(&raw, "{\"return\": {}}");
	raw_expect(&raw, "{\"return\": {}}");
	raw_send(&raw, "{\"execute\":\"qmp_capabilities\"}");
	raw_expect(&raw,
		   "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Capabilities negotiation is "
		   "already complete, command ignored\"}}");
	raw_close(&raw);
}

static void ids_of_any_type_are_echoed_also_with_errors(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	raw_negotiate(&raw, fixture->directory.socket_path);
	raw_send(&raw, "{\"execute\":\"nothing\",\"id\":7}"
		       "{\"execute\":\"nothing\",\"id\":{\"a\":[null,1.5]}}"
		       "{\"execute\":\"unknown\",\"id\":\"x\"}"
		       "{\"execute\":1,\"id\":[]}");
	raw_expect(&raw, "{\"return\": {}, \"id\": 7}");
	raw_expect(&raw, "{\"return\": {}, \"id\": {\"a\": [null, 1.5]}}");
	raw_expect(&raw, "{\"id\": \"x\", \"error\": {\"class\": \"CommandNotFound\", "
			 "\"desc\": \"The command unknown has not been found\"}}");
	raw_expect(&raw, "{\"id\": [], \"error\": {\"class\": \"GenericError\", "
			 "\"desc\": \"QMP input member 'execute' must be a string\"}}");
	raw_close(&raw);
}

static void expect_refusal(struct raw_qmp *raw, const char *request, const char *desc)
{
	json_t *error = json_pack("{s:{s:s, s:s}}", "error", "class", "GenericError", "desc", desc);
	char *expected = json_dumps(error, 0);
	raw_send(raw, request);
	raw_expect(raw, expected);
	free(expected);
	json_decref(error);
}

static void malformed_requests_get_qemus_words_and_run_nothing(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	raw_negotiate(&raw, fixture->directory.socket_path);
	expect_refusal(&raw, "[]", "QMP input must be a JSON object");
	expect_refusal(&raw, "{}", "QMP input lacks member 'execute'");
	expect_refusal(&raw, "{\"exec-oob\":\"nothing\"}", "QMP input member 'exec-oob' is unexpected");
	expect_refusal(&raw, "{\"execute\":\"nothing\",\"x\":1}", "QMP input member 'x' is unexpected");
	expect_refusal(&raw, "{\"execute\":\"nothing\",\"arguments\":[]}",
		       "QMP input member 'arguments' must be an object");
	expect_refusal(&raw, "{\"execute\":\"nothing\",\"arguments\":{\"y\":1}}",
		       "Parameter 'y' is unexpected");
	expect_refusal(&raw, "{\"execute\":\"query-commands\",\"arguments\":{\"y\":1}}",
		       "Parameter 'y' is unexpected");
	expect_refusal(&raw, "{\"execute\":\"echo\",\"arguments\":{\"more\":1}}",
		       "Parameter 'text' is missing");
	expect_refusal(&raw, "{\"execute\":\"echo\",\"arguments\":{\"text\":1,\"*more\":1}}",
		       "Parameter '*more' is unexpected");
	raw_send(&raw, "{\"execute\":\"nothing\",\"execute\":\"nothing\"}");
	raw_expect(&raw, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"*\"}}");
	assert_int_equal(fixture->calls, 0);
	raw_send(&raw, "{\"execute\":\"echo\",\"arguments\":{\"text\":\"\\u00e4\",\"more\":[2]}}");
	raw_expect(&raw, "{\"return\": {\"text\": \"\\u00e4\", \"more\": [2]}}");
	raw_close(&raw);
}

static void a_handlers_error_becomes_class_and_desc(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	char request[128];
	raw_negotiate(&raw, fixture->directory.socket_path);
	expect_refusal(&raw, "{\"execute\":\"fail\",\"arguments\":{\"errno\":5,\"desc\":\"no\"}}", "no");
	snprintf(request, sizeof(request), "{\"execute\":\"fail\",\"arguments\":{\"errno\":%d}}", EBUSY);
	expect_refusal(&raw, request, strerror(EBUSY));
	snprintf(request, sizeof(request),
		 "{\"execute\":\"fail\",\"arguments\":{\"errno\":%d,\"desc\":\"-\"}}", ENODEV);
	raw_send(&raw, request);
	raw_expect(&raw, "{\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"-\"}}");
	snprintf(request, sizeof(request),
		 "{\"execute\":\"fail\",\"arguments\":{\"errno\":%d,\"desc\":\"-\"}}", ENOSYS);
	expect_refusal(&raw, request, "-");
	raw_close(&raw);
}

static void query_commands_lists_every_command(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	raw_negotiate(&raw, fixture->directory.socket_path);
	raw_send(&raw, "{\"execute\":\"query-commands\"}");
	raw_expect(&raw, "{\"return\": [{\"name\": \"qmp_capabilities\"}, {\"name\": \"query-commands\"}, "
			 "{\"name\": \"echo\"}, {\"name\": \"nothing\"}, {\"name\": \"fail\"}, "
			 "{\"name\": \"emit\"}, {\"name\": \"big\"}]}");
	raw_close(&raw);
}

static void events_reach_all_negotiated_clients_and_stand_before_the_reply(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw[4], silent;
	raw_connect(&silent, fixture->directory.socket_path);
	raw_expect(&silent, "{\"QMP\": \"*\"}");
	for (int i = 0; i < 4; i++)
		raw_negotiate(&raw[i], fixture->directory.socket_path);
	raw_send(&raw[0], "{\"execute\":\"emit\",\"id\":1}");
	for (int i = 0; i < 4; i++)
		raw_expect(
		    &raw[i],
		    "{\"event\": \"STOP\", \"timestamp\": {\"seconds\": \"*\", \"microseconds\": \"*\"}}");
	raw_expect(&raw[0], "{\"return\": {}, \"id\": 1}");
	hf_qmp_server_event(fixture->server, "MIGRATION", json_pack("{s:s}", "status", "completed"));
	for (int i = 0; i < 4; i++) {
		raw_expect(&raw[i], "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"completed\"}, "
				    "\"timestamp\": \"*\"}");
		raw_close(&raw[i]);
	}
	// The next line for the one that has not negotiated is the answer, no event.
	raw_send(&silent, "{\"execute\":\"qmp_capabilities\"}");
	raw_expect(&silent, "{\"return\": {}}");
	raw_close(&silent);
}

static void commands_split_into_single_bytes_and_joined_in_one_write_both_work(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	char request[] = "{\"execute\" :\n \"nothing\", \"id\": 1 }";
	char byte[2] = "";
	raw_negotiate(&raw, fixture->directory.socket_path);
	for (char *at = request; *at; at++) {
		byte[0] = *at;
		raw_send(&raw, byte);
	}
	raw_expect(&raw, "{\"return\": {}, \"id\": 1}");

	char many[50 * sizeof(request)] = "";
	for (int i = 0; i < 40; i++)
		strcat(many, request);
	raw_send(&raw, many);
	for (int i = 0; i < 40; i++)
		raw_expect(&raw, "{\"return\": {}, \"id\": 1}");
	assert_int_equal(fixture->calls, 41);
	raw_close(&raw);
}

static void commands_before_a_half_close_are_answered_then_the_server_closes(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	raw_connect(&raw, fixture->directory.socket_path);
	raw_send(&raw,
		 "{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"nothing\",\"id\":1}\n{\"execute\":");
	shutdown(raw.fd, SHUT_WR);
	raw_expect(&raw, "{\"QMP\": \"*\"}");
	raw_expect(&raw, "{\"return\": {}}");
	raw_expect(&raw, "{\"return\": {}, \"id\": 1}");
	raw_expect_end(&raw);
	raw_close(&raw);
}

/* Sends commands without reading a reply until the socket takes no more. */
static void stuff(struct raw_qmp *raw, const char *request)
{
	fcntl(raw->fd, F_SETFL, O_NONBLOCK);
	struct pollfd poll_fd = {.fd = raw->fd, .events = POLLOUT};
	// 200 ms without room: the server has stopped reading from us.
	while (poll(&poll_fd, 1, 200) > 0 && !(poll_fd.revents & (POLLHUP | POLLERR))) {
		if (send(raw->fd, request, strlen(request), MSG_NOSIGNAL) < 0)
			assert_int_equal(errno, EAGAIN);
	}
}

static void a_client_that_reads_nothing_is_held_back_and_harms_nobody(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp stuffer, other;
	raw_negotiate(&stuffer, fixture->directory.socket_path);
	raw_negotiate(&other, fixture->directory.socket_path);
	stuff(&stuffer, "{\"execute\":\"big\",\"arguments\":{\"bytes\":60000}}");
	raw_send(&other, "{\"execute\":\"nothing\",\"id\":1}");
	raw_expect(&other, "{\"return\": {}, \"id\": 1}");
	assert_int_equal(fixture->calls, 1);
	raw_close(&stuffer);
	raw_close(&other);
}

static void a_client_that_reads_no_events_is_thrown_out(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp deaf, other;
	raw_negotiate(&deaf, fixture->directory.socket_path);
	raw_negotiate(&other, fixture->directory.socket_path);
	char *text = malloc(30001);
	memset(text, 'x', 30000);
	text[30000] = '\0';
	for (int i = 0; i < 400; i++) {
		hf_qmp_server_event(fixture->server, "NOISE", json_pack("{s:s}", "text", text));
		raw_expect(&other, "{\"event\": \"NOISE\", \"data\": \"*\", \"timestamp\": \"*\"}");
	}
	free(text);
	int events = 0;
	json_t *event;
	while ((event = raw_receive(&deaf))) {
		json_decref(event);
		events++;
	}
	assert_in_range(events, 1, 399);
	raw_close(&deaf);
	raw_close(&other);
}

static void a_flood_of_garbage_harms_nobody(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp flood, other;
	raw_negotiate(&flood, fixture->directory.socket_path);
	raw_negotiate(&other, fixture->directory.socket_path);
	char *garbage = malloc(HF_QMP_LINE_MAX_BYTES + 100);
	memset(garbage, '1', HF_QMP_LINE_MAX_BYTES + 99);
	garbage[HF_QMP_LINE_MAX_BYTES + 99] = '\0';
	raw_send(&flood, "{\"execute\":\"nothing\",\"id\":");
	raw_send(&flood, garbage); // too long
	raw_send(&flood, "}\n");
	raw_expect(&flood, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"*\"}}");
	raw_send(&flood, "{\"execute\":\"nothing\",\"id\":9}\n");
	raw_expect(&flood, "{\"return\": {}, \"id\": 9}");
	free(garbage);
	stuff(&flood, "]]]\n\n{\"\n");
	raw_send(&other, "{\"execute\":\"nothing\",\"id\":1}");
	raw_expect(&other, "{\"return\": {}, \"id\": 1}");
	raw_close(&flood);
	raw_close(&other);
}

static void an_answer_that_is_too_large_is_an_error_with_its_id(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	raw_negotiate(&raw, fixture->directory.socket_path);
	raw_send(&raw, "{\"execute\":\"big\",\"id\":4,\"arguments\":{\"bytes\":4194304}}");
	raw_expect(&raw, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"*\"}, \"id\": 4}");
	raw_close(&raw);
}

static void when_all_places_are_taken_by_clients_the_next_is_told_so(void **state)
{
	struct fixture *fixture = *state;
	static struct raw_qmp raw[33];
	for (int i = 0; i < 32; i++)
		raw_negotiate(&raw[i], fixture->directory.socket_path);
	raw_connect(&raw[32], fixture->directory.socket_path);
	raw_expect(&raw[32], "{\"error\": {\"class\": \"GenericError\", \"desc\": \"*\"}}");
	raw_expect_end(&raw[32]);
	raw_close(&raw[32]);
	raw_close(&raw[5]);
	// A place is free once the server has seen the close; until then it refuses.
	json_t *first = NULL;
	do {
		json_decref(first);
		raw_connect(&raw[32], fixture->directory.socket_path);
		first = raw_receive(&raw[32]);
		raw_close(&raw[32]);
	} while (!json_object_get(first, "QMP"));
	json_decref(first);
	for (int i = 0; i < 32; i++) {
		if (i != 5)
			raw_close(&raw[i]);
	}
}

static void clients_that_never_negotiate_make_room(void **state)
{
	struct fixture *fixture = *state;
	static struct raw_qmp idle[32];
	struct raw_qmp raw;
	for (int i = 0; i < 32; i++) {
		raw_connect(&idle[i], fixture->directory.socket_path);
		raw_expect(&idle[i], "{\"QMP\": \"*\"}");
	}
	json_t *first = NULL;
	do { // refused during the grace time
		json_decref(first);
		raw_connect(&raw, fixture->directory.socket_path);
		first = raw_receive(&raw);
		if (!json_object_get(first, "QMP"))
			raw_close(&raw);
	} while (!json_object_get(first, "QMP"));
	json_decref(first);
	raw_send(&raw, "{\"execute\":\"qmp_capabilities\"}");
	raw_expect(&raw, "{\"return\": {}}");
	raw_expect_end(&idle[0]);
	raw_close(&raw);
	for (int i = 0; i < 32; i++)
		raw_close(&idle[i]);
}

static void the_socket_is_private_a_live_one_is_refused_a_stale_one_replaced(void **state)
{
	struct fixture *fixture = *state;
	struct hf_qmp_server_config config = config_of(fixture);
	struct hf_qmp_server *second = NULL;
	struct hf_err err = HF_ERR_INIT;
	struct stat stat_buffer;
	assert_return_code(stat(config.socket_path, &stat_buffer), 0);
	assert_int_equal(stat_buffer.st_mode & 07777, 0600);
	assert_int_equal(hf_qmp_server_create(&second, &config, &err), -EADDRINUSE);
	assert_null(second);
	assert_non_null(strstr(err.text, config.socket_path));

	char stale[128];
	snprintf(stale, sizeof(stale), "%s/stale", fixture->directory.path);
	close(raw_listen(stale));
	config.socket_path = stale;
	assert_int_equal(hf_qmp_server_create(&second, &config, &err), 0);
	struct raw_qmp raw;
	raw_negotiate(&raw, stale);
	raw_close(&raw);
	hf_qmp_server_destroy(second);
	assert_int_equal(access(stale, F_OK), -1);
}

static void a_file_that_is_no_socket_is_left_alone(void **state)
{
	struct fixture *fixture = *state;
	struct hf_qmp_server_config config = config_of(fixture);
	struct hf_qmp_server *second = NULL;
	char path[128];
	snprintf(path, sizeof(path), "%s/file", fixture->directory.path);
	int fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	config.socket_path = path;
	assert_int_equal(hf_qmp_server_create(&second, &config, NULL), -EEXIST);
	assert_null(second);
	assert_return_code(unlink(path), 0);
}

static void destroy_ends_clients_after_their_last_event(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	raw_negotiate(&raw, fixture->directory.socket_path);
	hf_qmp_server_event(fixture->server, "SHUTDOWN", NULL);
	hf_qmp_server_destroy(fixture->server);
	fixture->server = NULL;
	raw_expect(&raw, "{\"event\": \"SHUTDOWN\", \"timestamp\": \"*\"}");
	raw_expect_end(&raw);
	raw_close(&raw);
	hf_qmp_server_destroy(NULL);
}

static void *emit_many(void *opaque)
{
	struct fixture *fixture = opaque;
	for (int i = 0; i < 500; i++)
		hf_qmp_server_event(fixture->server, "TICK", json_pack("{s:i}", "n", i));
	return NULL;
}

static void events_from_several_threads_mix_with_commands_and_none_is_lost(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	pthread_t threads[3];
	raw_negotiate(&raw, fixture->directory.socket_path);
	for (int i = 0; i < 3; i++)
		pthread_create(&threads[i], NULL, emit_many, fixture);
	for (int i = 0; i < 100; i++)
		raw_send(&raw, "{\"execute\":\"nothing\"}");
	int events = 0, replies = 0;
	while (events < 1500 || replies < 100) {
		json_t *line = raw_receive(&raw);
		assert_non_null(line);
		events += json_object_get(line, "event") != NULL;
		replies += json_object_get(line, "return") != NULL;
		json_decref(line);
	}
	for (int i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	raw_close(&raw);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(the_greeting_is_qemus),
	    TEST(no_command_runs_before_the_negotiation),
	    TEST(ids_of_any_type_are_echoed_also_with_errors),
	    TEST(malformed_requests_get_qemus_words_and_run_nothing),
	    TEST(a_handlers_error_becomes_class_and_desc),
	    TEST(query_commands_lists_every_command),
	    TEST(events_reach_all_negotiated_clients_and_stand_before_the_reply),
	    TEST(commands_split_into_single_bytes_and_joined_in_one_write_both_work),
	    TEST(commands_before_a_half_close_are_answered_then_the_server_closes),
	    TEST(a_client_that_reads_nothing_is_held_back_and_harms_nobody),
	    TEST(a_client_that_reads_no_events_is_thrown_out),
	    TEST(a_flood_of_garbage_harms_nobody),
	    TEST(an_answer_that_is_too_large_is_an_error_with_its_id),
	    TEST(when_all_places_are_taken_by_clients_the_next_is_told_so),
	    TEST(clients_that_never_negotiate_make_room),
	    TEST(the_socket_is_private_a_live_one_is_refused_a_stale_one_replaced),
	    TEST(a_file_that_is_no_socket_is_left_alone),
	    TEST(destroy_ends_clients_after_their_last_event),
	    TEST(events_from_several_threads_mix_with_commands_and_none_is_lost),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
