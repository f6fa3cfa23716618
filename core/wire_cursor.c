/* SPDX-License-Identifier: Apache-2.0 */
#include "core/wire_cursor.h"

#include <stdio.h>

int hf_wire_broken(struct hf_err *err, const char *message, const char *format, ...)
{
	char detail[HF_ERR_TEXT_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(detail, sizeof(detail), format, args);
	va_end(args);
	return hf_err_set(err, HF_ERR_PEER, EPROTO,
			  "the peer sent a broken %s: %s; check that both hosts run the same release",
			  message, detail);
}

int hf_wire_cut_short(struct hf_err *err, const char *message, size_t bytes)
{
	return hf_wire_broken(err, message, "it is cut short at %zu bytes", bytes);
}

static int too_long(struct hf_err *err, const char *message, size_t bytes)
{
	return hf_wire_broken(err, message, "%zu bytes follow its last field", bytes);
}

int hf_wire_check_end(const struct reader *reader, const char *message, size_t bytes, struct hf_err *err)
{
	if (reader->cut_short)
		return hf_wire_cut_short(err, message, bytes);
	if (reader->left > 0)
		return too_long(err, message, reader->left);
	return 0;
}
