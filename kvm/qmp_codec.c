/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * QMP frames nothing: a message is a JSON object and ends with its closing brace. QEMU's own clients differ
 * (some end a command with CR LF, some with nothing, people type one over several lines), so the framer
 * counts braces outside strings instead of looking for line ends. It copies a message's bytes together and
 * parses them once, when the outermost brace closes.
 *
 * Bounds stand before memory is spent: bytes, nesting, and the number of values (a value may be two
 * characters of text and a hundred bytes in memory). A message that breaks a rule is one error; what is left
 * of its line is skipped, so that one typing mistake does not swallow the commands after it. A raw line end
 * inside a string is such a break, since JSON has none there; that ends even an unclosed quote. The byte
 * 0xff, which cannot occur in UTF-8, always starts afresh.
 */
#include "kvm/qmp_codec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kvm/qmp.h"

#define EXACT_MAX	  9007199254740992.0 /* a double has all whole numbers below it */
#define KEEP_BUFFER_BYTES 65536u
#define RESET_BYTE	  ((char)0xff)

void hf_qmp_framer_init(struct hf_qmp_framer *framer, size_t limit_bytes)
{
	*framer = (struct hf_qmp_framer){.limit_bytes = limit_bytes};
}

void hf_qmp_framer_fini(struct hf_qmp_framer *framer)
{
	free(framer->bytes);
	framer->bytes = NULL;
}

static void framer_restart(struct hf_qmp_framer *framer)
{
	framer->length_bytes = 0;
	framer->values = 0;
	framer->depth = 0;
	framer->in_string = framer->escaped = false;
	if (framer->capacity_bytes > KEEP_BUFFER_BYTES) {
		free(framer->bytes);
		framer->bytes = NULL;
		framer->capacity_bytes = 0;
	}
}

/* Throws the message away; `byte` is the last one eaten. */
static int framer_reject(struct hf_qmp_framer *framer, char byte, int error)
{
	framer_restart(framer);
	framer->skipping = byte != '\n' && byte != RESET_BYTE;
	return error;
}

static int framer_append(struct hf_qmp_framer *framer, const char *data, size_t length_bytes)
{
	if (length_bytes > framer->limit_bytes - framer->length_bytes)
		return -EMSGSIZE;
	size_t needed_bytes = framer->length_bytes + length_bytes;
	if (needed_bytes > framer->capacity_bytes) {
		size_t capacity_bytes = framer->capacity_bytes ? framer->capacity_bytes : 1024;
		while (capacity_bytes < needed_bytes)
			capacity_bytes *= 2;
		char *bytes = realloc(framer->bytes, capacity_bytes);
		if (!bytes)
			return -ENOMEM;
		framer->bytes = bytes;
		framer->capacity_bytes = capacity_bytes;
	}
	memcpy(framer->bytes + framer->length_bytes, data, length_bytes);
	framer->length_bytes += length_bytes;
	return 0;
}

static int reject_text(struct hf_err *err, int error)
{
	switch (error) {
	case -EMSGSIZE:
		return hf_err_set(err, HF_ERR_LOCAL, EMSGSIZE,
				  "JSON message is too large (limits: %u bytes, %u values, %u levels)",
				  HF_QMP_LINE_MAX_BYTES, HF_QMP_VALUES_MAX, HF_QMP_DEPTH_MAX);
	case -ENOMEM:
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a JSON message");
	default:
		return hf_err_set(err, HF_ERR_LOCAL, EPROTO,
				  "JSON parse error, stray character or unbalanced bracket");
	}
}

static bool is_space(char byte)
{
	return byte == ' ' || byte == '\t' || byte == '\r' || byte == '\n';
}

static int framer_open(struct hf_qmp_framer *framer, char closer)
{
	if (framer->depth == HF_QMP_DEPTH_MAX)
		return -EMSGSIZE;
	framer->closers[framer->depth++] = closer;
	return 0;
}

static int framer_count_value(struct hf_qmp_framer *framer)
{
	return ++framer->values > HF_QMP_VALUES_MAX ? -EMSGSIZE : 0;
}

static int framer_string_byte(struct hf_qmp_framer *framer, char byte)
{
	if ((unsigned char)byte < 0x20 || byte == RESET_BYTE)
		return -EPROTO;
	if (framer->escaped)
		framer->escaped = false;
	else if (byte == '\\')
		framer->escaped = true;
	else if (byte == '"')
		framer->in_string = false;
	return 0;
}

/* One byte inside a message: 1 when it was the last, 0, or -errno. */
static int framer_byte(struct hf_qmp_framer *framer, char byte)
{
	if (framer->in_string)
		return framer_string_byte(framer, byte);

	switch (byte) {
	case '"':
		framer->in_string = true;
		return 0;
	case '{':
	case '[': {
		int r = framer_open(framer, byte == '{' ? '}' : ']');
		return r < 0 ? r : framer_count_value(framer);
	}
	case ',':
		return framer_count_value(framer);
	case '}':
	case ']':
		if (framer->closers[framer->depth - 1] != byte)
			return -EPROTO;
		return --framer->depth == 0;
	case RESET_BYTE:
		return -EPROTO;
	default:
		return 0;
	}
}

/* Eats what stands between messages. 1: at the first byte of one; 0: all eaten; -EPROTO: a stray byte. */
static int framer_seek(struct hf_qmp_framer *framer, const char **data, const char *end)
{
	while (*data < end) {
		char byte = **data;
		if (framer->skipping) {
			framer->skipping = byte != '\n' && byte != RESET_BYTE;
		} else if (byte == '{' || byte == '[') {
			return 1;
		} else if (!is_space(byte) && byte != RESET_BYTE) {
			++*data;
			return framer_reject(framer, byte, -EPROTO);
		}
		++*data;
	}
	return 0;
}

static json_t *integer_again(json_t *value)
{
	double number = json_real_value(value);
	if (!json_is_real(value) || number <= -EXACT_MAX || number >= EXACT_MAX ||
	    number != (double)(json_int_t)number)
		return NULL;
	return json_integer((json_int_t)number);
}

/* As deep as the framer lets a message be. */
static void make_integers_again(json_t *value)
{
	const char *key;
	json_t *member, *integer;
	size_t i;
	void *next;
	json_object_foreach_safe(value, next, key, member)
	{
		make_integers_again(member);
		integer = integer_again(member);
		if (integer)
			json_object_set_new(value, key, integer);
	}
	json_array_foreach(value, i, member)
	{
		make_integers_again(member);
		integer = integer_again(member);
		if (integer)
			json_array_set_new(value, i, integer);
	}
}

/*
 * QEMU writes 64 bits without a sign, some of which a guest chooses, and the library's integers have a sign.
 * A message with one that is too big is taken all the same: such a number is a real in it.
 */
static json_t *parse(const struct hf_qmp_framer *framer, json_error_t *error)
{
	json_t *value = json_loadb(framer->bytes, framer->length_bytes, JSON_REJECT_DUPLICATES, error);
	if (value || json_error_code(error) != json_error_numeric_overflow)
		return value;
	value = json_loadb(framer->bytes, framer->length_bytes,
			   JSON_REJECT_DUPLICATES | JSON_DECODE_INT_AS_REAL, error);
	make_integers_again(value);
	return value;
}

static int framer_parse(struct hf_qmp_framer *framer, json_t **message, struct hf_err *err)
{
	json_error_t error;
	json_t *value = parse(framer, &error);
	framer_restart(framer);
	if (!value) {
		hf_qmp_make_printable(error.text);
		return hf_err_set(err, HF_ERR_LOCAL, EPROTO, "JSON parse error, %s", error.text);
	}
	*message = value;
	return 1;
}

int hf_qmp_framer_next(struct hf_qmp_framer *framer, const char **data, size_t *length_bytes,
		       json_t **message, struct hf_err *err)
{
	const char *at = *data;
	const char *end = at + *length_bytes;
	int r = framer->depth ? 1 : framer_seek(framer, &at, end);
	if (r == 1) {
		const char *start = at;
		for (r = 0; at < end && r == 0; at++)
			r = framer_byte(framer, *at);
		if (r >= 0) {
			int appended = framer_append(framer, start, (size_t)(at - start));
			// A message that is over leaves nothing of itself to skip.
			if (appended < 0)
				r = framer_reject(framer, (char)(r == 1 ? '\n' : at[-1]), appended);
		} else {
			r = framer_reject(framer, at[-1], r);
		}
	}
	*data = at;
	*length_bytes = (size_t)(end - at);
	if (r < 0)
		return reject_text(err, r);
	return r == 1 ? framer_parse(framer, message, err) : 0;
}

char *hf_qmp_encode(const json_t *message, size_t *length_bytes)
{
	char *text = json_dumps(message, JSON_ENSURE_ASCII);
	if (!text)
		return NULL;
	size_t text_bytes = strlen(text);
	char *line = text_bytes <= HF_QMP_LINE_MAX_BYTES ? malloc(text_bytes + 3) : NULL;
	if (line) {
		snprintf(line, text_bytes + 3, "%s\r\n", text);
		*length_bytes = text_bytes + 2;
	}
	free(text);
	return line;
}

static json_t *string_of_any_bytes(const char *text)
{
	json_t *string = json_string(text);
	if (string)
		return string;

	// Not UTF-8: a text cut in the middle of a character, or a path with odd bytes.
	char *copy = strdup(text);
	if (!copy)
		return NULL;
	for (char *at = copy; *at; at++) {
		if ((unsigned char)*at >= 0x80)
			*at = '?';
	}
	string = json_string(copy);
	free(copy);
	return string;
}

json_t *hf_qmp_error_object(const char *class_name, const char *desc)
{
	return json_pack("{s:s, s:o}", "class", class_name, "desc", string_of_any_bytes(desc));
}

void hf_qmp_make_printable(char *text)
{
	for (unsigned char *at = (unsigned char *)text; *at; at++) {
		// 0xc2 0x80..0x9f are the control characters of Latin 1.
		if (*at < 0x20 || *at == 0x7f || (*at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0))
			*at = '?';
	}
}

int hf_qmp_address(const char *target, struct sockaddr_un *address, struct hf_err *err)
{
	const char *path = target && strncmp(target, "qmp:", 4) == 0 ? target + 4 : target;
	if (!path || !*path)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "no QMP socket given; write qmp:PATH or the path of the socket");
	size_t path_bytes = strlen(path);
	if (path_bytes >= sizeof(address->sun_path))
		return hf_err_set(err, HF_ERR_LOCAL, ENAMETOOLONG,
				  "QMP socket %s: its path is %zu bytes, a unix socket takes at most %zu",
				  path, path_bytes, sizeof(address->sun_path) - 1);
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	memcpy(address->sun_path, path, path_bytes);
	return 0;
}

void hf_qmp_stream_init(struct hf_qmp_stream *stream, int fd)
{
	stream->fd = fd;
	hf_qmp_framer_init(&stream->framer, HF_QMP_LINE_MAX_BYTES);
	stream->input_start = stream->input_end = 0;
	stream->output = NULL;
	stream->output_start = stream->output_end = stream->output_capacity_bytes = 0;
}

void hf_qmp_stream_fini(struct hf_qmp_stream *stream)
{
	if (stream->fd >= 0)
		close(stream->fd);
	stream->fd = -1;
	hf_qmp_framer_fini(&stream->framer);
	free(stream->output);
	stream->output = NULL;
}

int hf_qmp_stream_fill(struct hf_qmp_stream *stream)
{
	for (;;) {
		ssize_t n = recv(stream->fd, stream->input, sizeof(stream->input), MSG_DONTWAIT);
		if (n >= 0) {
			stream->input_start = 0;
			stream->input_end = (size_t)n;
			return (int)n;
		}
		if (errno != EINTR)
			return -errno;
	}
}

int hf_qmp_stream_next(struct hf_qmp_stream *stream, json_t **message, struct hf_err *err)
{
	const char *data = stream->input + stream->input_start;
	size_t length_bytes = stream->input_end - stream->input_start;
	int r = hf_qmp_framer_next(&stream->framer, &data, &length_bytes, message, err);
	stream->input_start = stream->input_end - length_bytes;
	return r;
}

int hf_qmp_stream_queue(struct hf_qmp_stream *stream, const char *text, size_t length_bytes)
{
	size_t pending_bytes = hf_qmp_stream_pending_bytes(stream);
	if (stream->output_start > 0) {
		memmove(stream->output, stream->output + stream->output_start, pending_bytes);
		stream->output_start = 0;
		stream->output_end = pending_bytes;
	}
	if (length_bytes > stream->output_capacity_bytes - pending_bytes) {
		size_t capacity_bytes = 2 * (pending_bytes + length_bytes);
		char *output = realloc(stream->output, capacity_bytes);
		if (!output)
			return -ENOMEM;
		stream->output = output;
		stream->output_capacity_bytes = capacity_bytes;
	}
	memcpy(stream->output + pending_bytes, text, length_bytes);
	stream->output_end = pending_bytes + length_bytes;
	return 0;
}

int hf_qmp_stream_flush(struct hf_qmp_stream *stream)
{
	while (hf_qmp_stream_pending_bytes(stream) > 0) {
		ssize_t n = send(stream->fd, stream->output + stream->output_start,
				 hf_qmp_stream_pending_bytes(stream), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n >= 0)
			stream->output_start += (size_t)n;
		else if (errno == EAGAIN || errno == EWOULDBLOCK)
			return 0;
		else if (errno != EINTR)
			return -errno;
	}
	if (stream->output_capacity_bytes > KEEP_BUFFER_BYTES) {
		free(stream->output);
		stream->output = NULL;
		stream->output_capacity_bytes = 0;
	}
	stream->output_start = stream->output_end = 0;
	return 0;
}
