/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: the framer of QMP. The bytes go in twice, whole and in pieces whose lengths the first byte gives.
 *
 * Both ways give the same messages; what is a message can be encoded on one line and read back as the same;
 * and after anything at all, a reset byte and a good message get through.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/qmp.h"
#include "kvm/qmp_codec.h"
#include "tests/fuzz/fuzz.h"

enum { LIMIT_BYTES = 2048 };

/* Everything one way of cutting gives: messages as text, errors as numbers. */
struct record {
	json_t *events;
};

static void check_encoding(json_t *message)
{
	size_t bytes;
	char *line = hf_qmp_encode(message, &bytes);
	fuzz_check(line && bytes >= 4 && strlen(line) == bytes);
	fuzz_check(strcmp(line + bytes - 2, "\r\n") == 0 && strcspn(line, "\r\n") == bytes - 2);
	json_t *again = json_loads(line, JSON_REJECT_DUPLICATES, NULL);
	fuzz_check(json_equal(again, message));
	json_decref(again);
	free(line);
}

static void take(struct hf_qmp_framer *framer, struct record *record, const uint8_t *bytes, size_t count)
{
	const char *at = (const char *)bytes;
	while (count) {
		struct hf_err err = HF_ERR_INIT;
		json_t *message = NULL;
		size_t before = count;
		int result = hf_qmp_framer_next(framer, &at, &count, &message, &err);
		fuzz_check(count < before || result == 1);
		fuzz_check(framer->length_bytes <= LIMIT_BYTES && framer->depth <= HF_QMP_DEPTH_MAX);
		if (result == 1) {
			fuzz_check(json_is_object(message) || json_is_array(message));
			check_encoding(message);
			json_array_append_new(record->events, message);
		} else if (result < 0) {
			fuzz_check(err.class != HF_ERR_NONE && err.text[0] && !message);
			json_array_append_new(record->events, json_integer(result));
		} else {
			fuzz_check(count == 0);
		}
	}
}

static struct record run(const uint8_t *data, size_t bytes, size_t piece)
{
	static const char good[] = "\xff{\"\": \"\", \"execute\": \"stop\"}";
	struct hf_qmp_framer framer;
	struct record record = {.events = json_array()};
	hf_qmp_framer_init(&framer, LIMIT_BYTES);
	for (size_t at = 0; at < bytes; at += piece)
		take(&framer, &record, data + at, bytes - at < piece ? bytes - at : piece);

	take(&framer, &record, (const uint8_t *)good, sizeof(good) - 1);
	const json_t *last = json_array_get(record.events, json_array_size(record.events) - 1);
	fuzz_check(json_is_string(json_object_get(last, "execute")));
	hf_qmp_framer_fini(&framer);
	return record;
}

/* A message that is too long is noticed earlier when it comes in pieces; what follows it may then differ. */
static bool too_long(const struct record *record)
{
	size_t index;
	json_t *event;
	json_array_foreach(record->events, index,
			   event) if (json_integer_value(event) == -EMSGSIZE) return true;
	return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes == 0)
		return 0;
	struct record whole = run(data + 1, bytes - 1, bytes);
	struct record pieces = run(data + 1, bytes - 1, 1u + data[0]);
	if (!too_long(&whole) && !too_long(&pieces))
		fuzz_check(json_equal(whole.events, pieces.events));
	json_decref(whole.events);
	json_decref(pieces.events);
	char *text = malloc(bytes + 1);
	fuzz_check(text);
	memcpy(text, data, bytes);
	text[bytes] = '\0';
	json_t *error = hf_qmp_error_object("GenericError", text);
	fuzz_check(error);
	json_decref(error);
	free(text);
	return 0;
}
