/* SPDX-License-Identifier: Apache-2.0 */
#include "core/err.h"

#include <stdio.h>
#include <string.h>

#undef hf_err_set /* here it is defined, not used */

int hf_err_vset(struct hf_err *err, enum hf_err_class class, int errnum, const char *format, va_list args)
{
	if (err) {
		/* Formatted apart: the arguments may point into err->text. */
		char text[HF_ERR_TEXT_BYTES];
		vsnprintf(text, sizeof(text), format, args);
		err->class = class;
		err->errnum = errnum;
		memcpy(err->text, text, sizeof(text));
	}
	return -errnum;
}

int hf_err_set(struct hf_err *err, enum hf_err_class class, int errnum, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	int result = hf_err_vset(err, class, errnum, format, args);
	va_end(args);
	return result;
}

int hf_err_prefix(struct hf_err *err, const char *format, ...)
{
	if (!err)
		return 0;

	char prefix[HF_ERR_TEXT_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(prefix, sizeof(prefix), format, args);
	va_end(args);

	char text[2 * HF_ERR_TEXT_BYTES + 2];
	snprintf(text, sizeof(text), "%s: %s", prefix, err->text);
	memcpy(err->text, text, sizeof(err->text) - 1);
	err->text[sizeof(err->text) - 1] = '\0';
	return -err->errnum;
}

const char *hf_err_class_name(enum hf_err_class class)
{
	switch (class) {
	case HF_ERR_NONE:
		return "none";
	case HF_ERR_LINK:
		return "link";
	case HF_ERR_PEER:
		return "peer";
	case HF_ERR_LOCAL:
		return "local";
	case HF_ERR_CANCELLED:
		return "cancelled";
	}
	return "unknown";
}
