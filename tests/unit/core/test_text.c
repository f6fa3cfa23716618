/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/cmocka_setup.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "core/text.h"
#include "tests/unit/core/random.h"

static bool printable(const char *text)
{
	/* An exact copy on the heap, so that reading past the end is noticed. */
	size_t bytes = strlen(text);
	uint8_t *copy = calloc(1, bytes ? bytes : 1);
	memcpy(copy, text, bytes); // NOLINT(bugprone-not-null-terminated-result): on purpose, see above
	bool result = hf_text_is_printable(copy, bytes);
	free(copy);
	return result;
}

static void printable_text_in_any_script_is_accepted(void **state)
{
	(void)state;
	assert_true(printable(""));
	assert_true(printable("/objects/ram0 ~"));
	assert_true(printable("gr\u00f6\u00dfe \u5185\u5b58 \U0001f6f6"));
	assert_true(printable("\u00a0")); /* the first after C1 */
	assert_true(printable("\u07ff\u0800\uffff\U00010000\U0010ffff"));
	assert_true(printable("\ud7ff\ue000")); /* beside the surrogates */
}

static void control_characters_are_refused(void **state)
{
	(void)state;
	for (unsigned c = 1; c < 0x20; c++)
		assert_false(printable((char[]){'a', (char)c, 0}));
	assert_false(printable("\x7f"));
	assert_false(printable("\xc2\x80")); /* U+0080 .. */
	assert_false(printable("\xc2\x9f")); /* .. U+009F */
	assert_false(printable("\u2028"));
	assert_false(printable("\u202e")); /* right-to-left override */
	assert_false(printable("\u2066"));
	assert_false(hf_text_is_printable((const uint8_t *)"a\0b", 3));
}

static void what_is_not_utf8_is_refused(void **state)
{
	(void)state;
	static const char *const bad[] = {
	    "\x80",
	    "\xbf",
	    "\xc0\xaf",
	    "\xc1\xbf",
	    "\xe0\x9f\xbf",
	    "\xf0\x8f\xbf\xbf",
	    "\xed\xa0\x80",
	    "\xed\xbf\xbf",
	    "\xf4\x90\x80\x80",
	    "\xf5\x80\x80\x80",
	    "\xf8\x88\x80\x80",
	    "\xff",
	    "\xc3",
	    "\xe2\x82",
	    "\xf0\x9f\x98",
	    "\xc3(",
	    "\xe2(\xa1",
	    "\xc0\x8a", /* a newline in two bytes */
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_false(printable(bad[i]));
}

static void making_printable_keeps_good_characters_and_marks_bad_bytes(void **state)
{
	(void)state;
	char out[64];
	static const char in[] = "a\nb\xc3\xa4\xff\x1b[31m\xe2\x82";
	size_t length = hf_text_make_printable((const uint8_t *)in, sizeof(in) - 1, out, sizeof(out));
	assert_string_equal(out, "a?b\xc3\xa4??[31m??");
	assert_int_equal(length, strlen(out));
}

static void making_printable_cuts_between_characters(void **state)
{
	(void)state;
	static const char in[] = "a\u20ac\u20ac"; /* 1 + 3 + 3 bytes */
	static const size_t lengths[] = {0, 0, 1, 1, 1, 4, 4, 4, 7, 7};

	for (size_t room = 1; room < sizeof(lengths) / sizeof(lengths[0]); room++) {
		char *out = malloc(room);
		size_t length = hf_text_make_printable((const uint8_t *)in, strlen(in), out, room);
		assert_int_equal(length, lengths[room]);
		assert_int_equal(strlen(out), length);
		assert_memory_equal(out, in, length);
		free(out);
	}
	assert_int_equal(hf_text_make_printable((const uint8_t *)in, 3, NULL, 0), 0);
}

static void whatever_comes_in_printable_text_comes_out(void **state)
{
	(void)state;
	struct random random = {1};
	for (int round = 0; round < 20000; round++) {
		uint8_t in[24];
		char out[16];
		size_t bytes = random_below(&random, sizeof(in) + 1);
		for (size_t i = 0; i < bytes; i++)
			in[i] = (uint8_t)random_next(&random) | (random_below(&random, 2) ? 0xc0 : 0);
		size_t length = hf_text_make_printable(in, bytes, out, sizeof(out));
		assert_true(length < sizeof(out));
		assert_true(hf_text_is_printable((const uint8_t *)out, length));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(printable_text_in_any_script_is_accepted),
	    cmocka_unit_test(control_characters_are_refused),
	    cmocka_unit_test(what_is_not_utf8_is_refused),
	    cmocka_unit_test(making_printable_keeps_good_characters_and_marks_bad_bytes),
	    cmocka_unit_test(making_printable_cuts_between_characters),
	    cmocka_unit_test(whatever_comes_in_printable_text_comes_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
