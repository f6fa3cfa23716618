/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Helpers of the unit tests that are used here check with cmocka, which otherwise would only end the test. */
__attribute__((constructor)) static void make_assertions_abort(void)
{
	setenv("CMOCKA_TEST_ABORT", "1", 1);
}

void fuzz_broken(const char *file, int line, const char *condition)
{
	fprintf(stderr, "%s:%d: broken: %s\n", file, line, condition);
	abort();
}

void fuzz_make_directory(char path[static FUZZ_DIRECTORY_BYTES])
{
	const char *base = getenv("TMPDIR");
	snprintf(path, FUZZ_DIRECTORY_BYTES, "%s/hf-fuzz-XXXXXX", base ? base : "/tmp");
	fuzz_check(mkdtemp(path));
}

bool fuzz_same(const void *a, const void *b, size_t bytes)
{
	return memcmp(a, b, bytes) == 0;
}

uint8_t fuzz_u8(struct fuzz_input *input)
{
	if (input->left == 0)
		return 0;
	input->left--;
	return *input->at++;
}

uint16_t fuzz_u16(struct fuzz_input *input)
{
	uint16_t high = fuzz_u8(input);
	return (uint16_t)(high << 8 | fuzz_u8(input));
}

uint32_t fuzz_below(struct fuzz_input *input, uint32_t limit)
{
	return fuzz_u8(input) % limit;
}

const uint8_t *fuzz_bytes(struct fuzz_input *input, size_t *count)
{
	const uint8_t *at = input->at;
	if (*count > input->left)
		*count = input->left;
	input->at += *count;
	input->left -= *count;
	return at;
}

const uint8_t *fuzz_piece(struct fuzz_input *input, size_t *count)
{
	*count = fuzz_u8(input);
	return fuzz_bytes(input, count);
}

const uint8_t *fuzz_line(struct fuzz_input *input, size_t *count)
{
	const uint8_t *at = input->at;
	const uint8_t *end = input->left ? memchr(at, '\n', input->left) : NULL;
	*count = end ? (size_t)(end - at) : input->left;
	size_t with_end = *count + (end != NULL);
	fuzz_bytes(input, &with_end);
	return at;
}
