/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every message of the protocol once, with a sample: the wire tests walk this table. A failed decoder must
 * leave its output alone; decode() and recode() here check that on every call.
 */
#ifndef HF_TESTS_WIRE_MESSAGES_H
#define HF_TESTS_WIRE_MESSAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/err.h"

struct wire_message {
	const char *golden; /* file in tests/golden/wire, without .hex */
	bool payload;	    /* must end with its last field; else a fixed header, other bytes may follow */
	ssize_t (*encode)(uint8_t *buffer, size_t bytes); /* the sample */
	int (*decode)(const uint8_t *bytes, size_t count, struct hf_err *err);
	/* Decodes and encodes what came out; -EPROTO when it does not decode. */
	ssize_t (*recode)(const uint8_t *bytes, size_t count, uint8_t *out, size_t out_bytes);
};

extern const struct wire_message wire_messages[];
extern const size_t wire_messages_count;

#define GOLDEN_MAX_BYTES 4096
/* Reads a golden file; the number of bytes. Fails the test if it cannot. */
size_t golden_read(const char *name, uint8_t bytes[static GOLDEN_MAX_BYTES]);
/* Calls the message's decode() on an exact copy on the heap, so that reading past the end is noticed. */
int decode_exact(const struct wire_message *message, const uint8_t *bytes, size_t count, struct hf_err *err);
const struct wire_message *message_of(const char *golden);

#endif
