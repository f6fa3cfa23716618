/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about cutting a hostile stream of bytes into JSON messages. */
#include <errno.h>
#include <fcntl.h>
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
#include "kvm/qmp_codec.h"

/*
 * Feeds text in pieces of piece_bytes and writes what comes out: a message as its compact JSON, an error as
 * '!', each followed by ';'.
 */
static void run(const char *text, size_t length_bytes, size_t piece_bytes, size_t limit_bytes, char *out,
		size_t out_bytes)
{
	struct hf_qmp_framer framer;
	hf_qmp_framer_init(&framer, limit_bytes);
	out[0] = '\0';
	for (size_t at = 0; at < length_bytes; at += piece_bytes) {
		size_t left = length_bytes - at < piece_bytes ? length_bytes - at : piece_bytes;
		// A heap copy of just this piece lets the sanitizer see reads past it.
		char *piece = malloc(left);
		memcpy(piece, text + at, left);
		const char *data = piece;
		json_t *message = NULL;
		int r;
		while ((r = hf_qmp_framer_next(&framer, &data, &left, &message, NULL)) != 0) {
			char *json = r > 0 ? json_dumps(message, JSON_COMPACT) : strdup("!");
			assert_true(strlen(out) + strlen(json) + 2 < out_bytes);
			strcat(strcat(out, json), ";");
			free(json);
			if (r > 0)
				json_decref(message);
		}
		assert_int_equal(left, 0);
		free(piece);
	}
	hf_qmp_framer_fini(&framer);
}

static void expect_stream(const char *text, const char *expected)
{
	char out[1024];
	for (size_t piece_bytes = 1; piece_bytes <= strlen(text); piece_bytes++) {
		run(text, strlen(text), piece_bytes, 1000, out, sizeof(out));
		assert_string_equal(out, expected);
	}
}

static void messages_need_no_line_ends_and_may_span_lines_and_reads(void **state)
{
	(void)state;
	expect_stream("{\"a\":1}{\"b\":2}", "{\"a\":1};{\"b\":2};");
	expect_stream(" \r\n\t{\"a\":\n\n[1,\r\n2]}\n", "{\"a\":[1,2]};");
	expect_stream("[]{}", "[];{};");
	expect_stream("\n\n", "");
}

static void brackets_and_quotes_inside_strings_do_not_count(void **state)
{
	(void)state;
	expect_stream("{\"a\":\"}]{[\"}", "{\"a\":\"}]{[\"};");
	expect_stream("{\"a\":\"\\\"}\"}", "{\"a\":\"\\\"}\"};");
	expect_stream("{\"a\":\"\\\\\"}{}", "{\"a\":\"\\\\\"};{};");
}

static void a_bad_message_is_one_error_and_the_next_line_works(void **state)
{
	(void)state;
	expect_stream("hello world\n{}", "!;{};");
	expect_stream("{\"a\":]}\n{}", "!;{};");
	expect_stream("{\"a\":}\n{}", "!;{};");
	expect_stream("}{}\n{}", "!;{};");
	expect_stream("{\"a\n{}", "!;{};");
	expect_stream("{\"a\":\"\x01\"}\n{}", "!;{};");
	expect_stream("42\n[1]", "!;[1];");
}

static void a_reset_byte_starts_afresh(void **state)
{
	(void)state;
	expect_stream("{\"a\":\xff{}", "!;{};");
	expect_stream("{\"a\":\"\xff{}", "!;{};");
	expect_stream("nonsense\xff{}", "!;{};");
	expect_stream("\xff{}\xff", "{};");
}

static void duplicate_keys_and_bad_utf8_are_rejected(void **state)
{
	(void)state;
	expect_stream("{\"a\":1,\"a\":2}{}", "!;{};");
	expect_stream("{\"a\":{\"b\":1,\"b\":1}}{}", "!;{};");
	expect_stream("{\"a\":\"\xc3\"}{}", "!;{};");
	expect_stream("{\"a\":\"\\u0000\"}{}", "!;{};");
}

static void numbers_of_64_bits_without_a_sign_leave_the_others_as_they_are(void **state)
{
	(void)state;
	expect_stream("{\"id\": 2, \"at\": [18446744073709547520, 4096, -1, 0.5]}{\"id\": 3}",
		      "{\"id\":2,\"at\":[1.8446744073709548e19,4096,-1,0.5]};{\"id\":3};");
	expect_stream("{\"id\": 1e400}\n{\"id\": 99999999999999999999, \"id\": 3}\n", "!;!;");
}

static void a_message_longer_than_the_limit_is_rejected_and_costs_no_memory(void **state)
{
	(void)state;
	char text[64], out[64];
	snprintf(text, sizeof(text), "{\"a\":\"%020d\"}\n{\"b\":1}", 0);
	size_t message_bytes = strcspn(text, "\n");
	for (size_t piece_bytes = 1; piece_bytes < sizeof(text); piece_bytes++) {
		run(text, strlen(text), piece_bytes, message_bytes, out, sizeof(out));
		assert_string_equal(out, "{\"a\":\"00000000000000000000\"};{\"b\":1};");
		run(text, strlen(text), piece_bytes, message_bytes - 1, out, sizeof(out));
		assert_string_equal(out, "!;{\"b\":1};");
	}
}

static void nesting_is_bounded(void **state)
{
	(void)state;
	char text[3 * HF_QMP_DEPTH_MAX], out[1024];
	for (unsigned depth = HF_QMP_DEPTH_MAX; depth <= HF_QMP_DEPTH_MAX + 1; depth++) {
		memset(text, '[', depth);
		memset(text + depth, ']', depth);
		strcpy(text + 2 * (size_t)depth, "\n{}");
		run(text, strlen(text), 7, 1000, out, sizeof(out));
		if (depth > HF_QMP_DEPTH_MAX)
			assert_string_equal(out, "!;{};");
		else
			assert_int_equal(out[0], '[');
	}
}

static void the_number_of_values_is_bounded(void **state)
{
	(void)state;
	size_t count = HF_QMP_VALUES_MAX + 1;
	char *text = malloc(2 * count + 8);
	char out[64];
	text[0] = '[';
	for (size_t i = 0; i < count; i++)
		memcpy(text + 1 + 2 * i, "1,", 2);
	strcpy(text + 2 * count, "]\n{}");
	run(text, strlen(text), 65536, HF_QMP_LINE_MAX_BYTES, out, sizeof(out));
	assert_string_equal(out, "!;{};");
	free(text);
}

static void random_bytes_never_break_the_framer(void **state)
{
	(void)state;
	static const char alphabet[] = "{}[]\"\\,:1a \n\xff\x01\xc3";
	uint32_t seed = 1;
	char text[257], out[4096];
	for (int round = 0; round < 3000; round++) {
		for (size_t i = 0; i < sizeof(text) - 1; i++) {
			seed = seed * 1664525u + 1013904223u;
			text[i] = alphabet[(seed >> 16) % (sizeof(alphabet) - 1)];
		}
		run(text, sizeof(text) - 1, 1 + seed % 50, 64, out, sizeof(out));
		// Whatever came before, a reset byte and a message get through.
		memcpy(text + 100, "\xff{\"z\":1}", 8);
		run(text, 108, 1 + seed % 50, 64, out, sizeof(out));
		size_t length = strlen(out);
		assert_true(length >= 8);
		assert_string_equal(out + length - 8, "{\"z\":1};");
	}
}

static void an_error_text_of_any_bytes_can_be_sent(void **state)
{
	(void)state;
	json_t *error = hf_qmp_error_object("GenericError", "cut \xc3");
	size_t length_bytes;
	char *line = hf_qmp_encode(error, &length_bytes);
	assert_string_equal(line, "{\"class\": \"GenericError\", \"desc\": \"cut ?\"}\r\n");
	assert_int_equal(length_bytes, strlen(line));
	free(line);
	json_decref(error);
}

static void foreign_text_cannot_leave_its_line(void **state)
{
	(void)state;
	char text[] = "a\nb\x1b[2J\xc2\x9b"
		      "c\x7f\xc3\xa4";
	hf_qmp_make_printable(text);
	assert_null(strpbrk(text, "\n\x1b\x7f\xc2"));
	assert_non_null(strstr(text, "\xc3\xa4"));
}

static void socket_paths_are_checked_before_use(void **state)
{
	(void)state;
	struct sockaddr_un address;
	struct hf_err err = HF_ERR_INIT;
	char path[200];
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(hf_qmp_address(path, &address, &err), -ENAMETOOLONG);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(hf_qmp_address("qmp:", &address, &err), -EINVAL);
	assert_int_equal(hf_qmp_address(NULL, &address, &err), -EINVAL);
	assert_int_equal(hf_qmp_address("qmp:/a/b", &address, NULL), 0);
	assert_string_equal(address.sun_path, "/a/b");
	path[sizeof(address.sun_path) - 1] = '\0';
	assert_int_equal(hf_qmp_address(path, &address, NULL), 0);
	assert_string_equal(address.sun_path, path);
}

static void output_that_the_socket_does_not_take_is_kept_in_order(void **state)
{
	(void)state;
	int fds[2];
	struct hf_qmp_stream stream;
	assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	hf_qmp_stream_init(&stream, fds[0]);

	uint32_t sent = 0, received = 0;
	char line[16], buffer[4096];
	size_t have = 0;
	while (received < 100000) {
		for (int i = 0; i < 3000 && sent < 100000; i++, sent++) {
			snprintf(line, sizeof(line), "%08u\n", sent);
			assert_int_equal(hf_qmp_stream_queue(&stream, line, 9), 0);
		}
		assert_int_equal(hf_qmp_stream_flush(&stream), 0);
		ssize_t n = read(fds[1], buffer + have, sizeof(buffer) - have);
		assert_true(n > 0);
		have += (size_t)n;
		size_t at = 0;
		for (; have - at >= 9; at += 9)
			assert_int_equal(strtoul(buffer + at, NULL, 10), received++);
		have -= at;
		memmove(buffer, buffer + at, have);
	}
	assert_int_equal(hf_qmp_stream_pending_bytes(&stream), 0);
	close(fds[1]);
	assert_int_equal(hf_qmp_stream_queue(&stream, "x", 1), 0);
	assert_int_equal(hf_qmp_stream_flush(&stream), -EPIPE);
	hf_qmp_stream_fini(&stream);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(messages_need_no_line_ends_and_may_span_lines_and_reads),
	    cmocka_unit_test(brackets_and_quotes_inside_strings_do_not_count),
	    cmocka_unit_test(a_bad_message_is_one_error_and_the_next_line_works),
	    cmocka_unit_test(a_reset_byte_starts_afresh),
	    cmocka_unit_test(duplicate_keys_and_bad_utf8_are_rejected),
	    cmocka_unit_test(numbers_of_64_bits_without_a_sign_leave_the_others_as_they_are),
	    cmocka_unit_test(a_message_longer_than_the_limit_is_rejected_and_costs_no_memory),
	    cmocka_unit_test(nesting_is_bounded),
	    cmocka_unit_test(the_number_of_values_is_bounded),
	    cmocka_unit_test(random_bytes_never_break_the_framer),
	    cmocka_unit_test(an_error_text_of_any_bytes_can_be_sent),
	    cmocka_unit_test(foreign_text_cannot_leave_its_line),
	    cmocka_unit_test(socket_paths_are_checked_before_use),
	    cmocka_unit_test(output_that_the_socket_does_not_take_is_kept_in_order),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
