/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire_cursor.h - cursors and errors that all parts of the codec share. Not a public header.
 *
 * Purpose: moves big-endian fields between a buffer and values. A cursor that runs out remembers it and from
 * then on moves nothing (readers give zeros), so that a codec is a plain list of fields with one check at its
 * end. Ownership: the buffer is the caller's. Threads: a cursor belongs to one. Units: bytes. Errors: as in
 * wire.h.
 */
#ifndef HF_CORE_WIRE_CURSOR_H
#define HF_CORE_WIRE_CURSOR_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

#include "core/err.h"

struct writer {
	uint8_t *at;
	size_t left;
	size_t written;
	bool full;
};

static inline uint8_t *writer_take(struct writer *writer, size_t bytes)
{
	if (writer->full || bytes > writer->left) {
		writer->full = true;
		return NULL;
	}
	uint8_t *at = writer->at;
	writer->at += bytes;
	writer->left -= bytes;
	writer->written += bytes;
	return at;
}

static inline void put_u32(struct writer *writer, uint32_t value)
{
	uint8_t *at = writer_take(writer, 4);
	for (int i = 0; at && i < 4; i++)
		at[i] = (uint8_t)(value >> (24 - 8 * i));
}

static inline void put_u64(struct writer *writer, uint64_t value)
{
	put_u32(writer, (uint32_t)(value >> 32));
	put_u32(writer, (uint32_t)value);
}

static inline void put_bytes(struct writer *writer, const void *bytes, size_t count)
{
	uint8_t *at = writer_take(writer, count);
	if (at && count > 0)
		memcpy(at, bytes, count);
}

static inline ssize_t writer_end(const struct writer *writer)
{
	return writer->full ? -ENOSPC : (ssize_t)writer->written;
}

struct reader {
	const uint8_t *at;
	size_t left;
	bool cut_short;
};

static inline const uint8_t *get_bytes(struct reader *reader, size_t count)
{
	if (reader->cut_short || count > reader->left) {
		reader->cut_short = true;
		return NULL;
	}
	const uint8_t *at = reader->at;
	reader->at += count;
	reader->left -= count;
	return at;
}

static inline uint32_t get_u32(struct reader *reader)
{
	const uint8_t *at = get_bytes(reader, 4);
	uint32_t value = 0;
	for (int i = 0; at && i < 4; i++)
		value = value << 8 | at[i];
	return value;
}

static inline uint64_t get_u64(struct reader *reader)
{
	uint64_t high = get_u32(reader);
	return high << 32 | get_u32(reader);
}

/* Fills err with what is wrong in the peer's message and returns -EPROTO. */
int hf_wire_broken(struct hf_err *err, const char *message, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int hf_wire_cut_short(struct hf_err *err, const char *message, size_t bytes);
/* A payload of `bytes` must be used up exactly. */
int hf_wire_check_end(const struct reader *reader, const char *message, size_t bytes, struct hf_err *err);

#endif
