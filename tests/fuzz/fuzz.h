/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz.h - what the fuzz targets share.
 *
 * Purpose: a target is one function that takes any bytes and ends the process when a rule is broken.
 * libFuzzer, AFL++ and replay.c (which runs files, for the tests) all call it. Ownership: the input is the
 * caller's. Threads: one calls; some targets start threads of the code under test and end them before they
 * return. Units: bytes. Errors: a broken rule aborts.
 */
#ifndef HF_TESTS_FUZZ_FUZZ_H
#define HF_TESTS_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Where the code under test and a target disagree. */
#define fuzz_check(condition) ((condition) ? (void)0 : fuzz_broken(__FILE__, __LINE__, #condition))
void fuzz_broken(const char *file, int line, const char *condition) __attribute__((noreturn));

/* Compares objects as bytes, padding too. */
bool fuzz_same(const void *a, const void *b, size_t bytes);

/* A fresh directory, under TMPDIR: a fuzzer's end gives nobody the time to remove it, but run.py removes
 * that. */
#define FUZZ_DIRECTORY_BYTES 64
void fuzz_make_directory(char path[static FUZZ_DIRECTORY_BYTES]);

/* The input as a series of decisions; at its end every decision is 0. */
struct fuzz_input {
	const uint8_t *at;
	size_t left;
};

uint8_t fuzz_u8(struct fuzz_input *input);
uint16_t fuzz_u16(struct fuzz_input *input);
/* 0 to limit - 1. */
uint32_t fuzz_below(struct fuzz_input *input, uint32_t limit);
/* Up to *count bytes; *count is set to how many there were. Never NULL. */
const uint8_t *fuzz_bytes(struct fuzz_input *input, size_t *count);
/* A piece of the input: a length of one byte, then as many bytes as there are. */
const uint8_t *fuzz_piece(struct fuzz_input *input, size_t *count);
/* The next line, without its end; what is left if there is no end. */
const uint8_t *fuzz_line(struct fuzz_input *input, size_t *count);

#endif
