/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One function knows what a printable character is, the others walk with it. The decoder takes the length
 * from the lead byte, joins the continuation bytes and then compares the value with the least one that needs
 * this length: that refuses overlong forms, by which a control character could hide.
 */
#include "core/text.h"

#include <string.h>

struct utf8_form {
	uint8_t lead_mask, lead_value; /* of the first byte */
	uint8_t bytes;
	uint32_t least; /* value that needs this many bytes */
};

static const struct utf8_form forms[] = {
    {0x80, 0x00, 1, 0},
    {0xe0, 0xc0, 2, 0x80},
    {0xf0, 0xe0, 3, 0x800},
    {0xf8, 0xf0, 4, 0x10000},
};

static const struct utf8_form *form_of(uint8_t lead)
{
	for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++)
		if ((lead & forms[i].lead_mask) == forms[i].lead_value)
			return &forms[i];
	return NULL;
}

static bool is_control(uint32_t value)
{
	return value < 0x20 || (value >= 0x7f && value < 0xa0) || (value >= 0x2028 && value <= 0x202e) ||
	       (value >= 0x2066 && value <= 0x2069);
}

size_t hf_text_printable_char(const uint8_t *text, size_t bytes)
{
	if (bytes == 0)
		return 0;
	const struct utf8_form *form = form_of(text[0]);
	if (!form || bytes < form->bytes)
		return 0;

	uint32_t value = text[0] & (uint8_t)~form->lead_mask;
	for (size_t i = 1; i < form->bytes; i++) {
		if ((text[i] & 0xc0) != 0x80)
			return 0;
		value = value << 6 | (text[i] & 0x3f);
	}
	if (value < form->least || value > 0x10ffff || (value >= 0xd800 && value <= 0xdfff))
		return 0;
	return is_control(value) ? 0 : form->bytes;
}

bool hf_text_is_printable(const uint8_t *text, size_t bytes)
{
	while (bytes > 0) {
		size_t length = hf_text_printable_char(text, bytes);
		if (length == 0)
			return false;
		text += length;
		bytes -= length;
	}
	return true;
}

size_t hf_text_make_printable(const uint8_t *text, size_t bytes, char *out, size_t out_bytes)
{
	size_t used = 0;
	while (bytes > 0) {
		size_t length = hf_text_printable_char(text, bytes);
		size_t taken = length ? length : 1;
		if (used + taken + 1 > out_bytes)
			break;
		if (length)
			memcpy(out + used, text, length);
		else
			out[used] = '?';
		used += taken;
		text += taken;
		bytes -= taken;
	}
	if (out_bytes > 0)
		out[used] = '\0';
	return used;
}
