/* SPDX-License-Identifier: Apache-2.0 */
/*
 * raw_qmp.h - QMP for tests, byte by byte, without the library under test.
 *
 * Purpose: connect, send any bytes, receive one JSON line; temporary socket paths.
 * Ownership: raw_receive() returns a new reference.
 * Threads: a struct raw_qmp belongs to one thread.
 * Units: milliseconds in _ms.
 * Errors: what must work is asserted; the test fails where it does not.
 */
#ifndef HF_TESTS_UNIT_KVM_RAW_QMP_H
#define HF_TESTS_UNIT_KVM_RAW_QMP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#define RAW_TIMEOUT_MS 20000

struct raw_qmp {
	int fd;
	char buffer[65536];
	size_t length_bytes;
};

/* A private directory with room for a socket path; removed, with what is in it, by raw_directory_remove(). */
struct raw_directory {
	char path[64];
	char socket_path[96];
};
void raw_directory_make(struct raw_directory *directory);
/* Number of entries left in it is asserted to be 0. */
void raw_directory_remove(struct raw_directory *directory);

void raw_connect(struct raw_qmp *raw, const char *path);
int raw_listen(const char *path);
/* Accepts on a socket of raw_listen(). */
void raw_accept(struct raw_qmp *raw, int listen_fd);
void raw_send(struct raw_qmp *raw, const char *text);
/* The next line as JSON; NULL at the end of the stream. */
json_t *raw_receive(struct raw_qmp *raw);
/* Receives one line and compares it with JSON text in which a string "*" stands for anything. */
void raw_expect(struct raw_qmp *raw, const char *expected);
void raw_expect_end(struct raw_qmp *raw);
/* Connects, takes the greeting, negotiates. */
void raw_negotiate(struct raw_qmp *raw, const char *path);
void raw_close(struct raw_qmp *raw);
/* Does value match the pattern of raw_expect()? */
bool raw_matches(const json_t *pattern, const json_t *value);

#endif
