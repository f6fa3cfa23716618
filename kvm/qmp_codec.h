/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qmp_codec.h - QMP on a socket: cutting bytes into JSON messages, and writing without blocking.
 *
 * Purpose: the part that server and client share. A framer turns any stream of bytes into whole JSON
 * objects within fixed bounds; a stream joins a non-blocking socket, a framer and an output queue.
 *
 * Ownership: a stream owns its descriptor and buffers. Encoded text is the caller's, free().
 * Threads: none of its own. The input half (fill, next) and the output half (queue, flush) share no
 * fields, so each may have its own lock or thread.
 * Units: bytes.
 * Errors: 0 or -errno with text; a bad message leaves the framer ready for the next one.
 */
#ifndef HF_KVM_QMP_CODEC_H
#define HF_KVM_QMP_CODEC_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#include "core/err.h"

#define HF_QMP_DEPTH_MAX  64u
#define HF_QMP_VALUES_MAX (256u << 10) /* bounds what a short text can make the parser allocate */

struct hf_qmp_framer {
	char *bytes; /* the message so far */
	size_t length_bytes, capacity_bytes, limit_bytes;
	uint32_t values;
	uint32_t depth;
	char closers[HF_QMP_DEPTH_MAX]; /* what must close each open level */
	bool in_string, escaped;
	bool skipping; /* after a bad message: nothing counts until the line ends */
};

void hf_qmp_framer_init(struct hf_qmp_framer *framer, size_t limit_bytes);
void hf_qmp_framer_fini(struct hf_qmp_framer *framer);
/*
 * Eats *data until a message is whole. Returns 1 with *message (a new reference; an object or an array), 0
 * when all bytes are eaten and more are needed, or -EPROTO, -EMSGSIZE, -ENOMEM for a message that was thrown
 * away. *data and *length_bytes move on in every case.
 */
int hf_qmp_framer_next(struct hf_qmp_framer *framer, const char **data, size_t *length_bytes,
		       json_t **message, struct hf_err *err);

/* One line with its end, or NULL: no memory, or longer than HF_QMP_LINE_MAX_BYTES. */
char *hf_qmp_encode(const json_t *message, size_t *length_bytes);
/* {"class": ..., "desc": ...}; desc may hold any bytes. */
json_t *hf_qmp_error_object(const char *class_name, const char *desc);
/* Replaces control characters, so that a foreign string cannot leave its line. */
void hf_qmp_make_printable(char *text);

/* Strips "qmp:" and fills the address; -ENAMETOOLONG, -EINVAL. */
int hf_qmp_address(const char *target, struct sockaddr_un *address, struct hf_err *err);

struct hf_qmp_stream {
	int fd;
	/* input half */
	struct hf_qmp_framer framer;
	char input[16384];
	size_t input_start, input_end;
	/* output half */
	char *output;
	size_t output_start, output_end, output_capacity_bytes;
};

/* fd: non-blocking; the stream owns it from now on. */
void hf_qmp_stream_init(struct hf_qmp_stream *stream, int fd);
void hf_qmp_stream_fini(struct hf_qmp_stream *stream);
/* Reads once; only when no input is left. Bytes read, 0 at the end, -EAGAIN or -errno. */
int hf_qmp_stream_fill(struct hf_qmp_stream *stream);
/* As hf_qmp_framer_next(), from what fill() has read. */
int hf_qmp_stream_next(struct hf_qmp_stream *stream, json_t **message, struct hf_err *err);
static inline bool hf_qmp_stream_has_input(const struct hf_qmp_stream *stream)
{
	return stream->input_start != stream->input_end;
}
/* Appends to the output; -ENOMEM. */
int hf_qmp_stream_queue(struct hf_qmp_stream *stream, const char *text, size_t length_bytes);
/* Writes what the socket takes now: 0 (perhaps with bytes left) or -errno. */
int hf_qmp_stream_flush(struct hf_qmp_stream *stream);
static inline size_t hf_qmp_stream_pending_bytes(const struct hf_qmp_stream *stream)
{
	return stream->output_end - stream->output_start;
}

#endif
