/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The program's voice. Theory of operation: one failure is one line. Parts of the text may come from a peer
 * or a VMM, so control characters become '?': nobody else writes to the operator's terminal.
 */
#include <stdio.h>

#include "deploy/program.h"

void hf_complain(const char *command, const char *format, ...)
{
	char text[2 * HF_ERR_TEXT_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	for (char *at = text; *at; at++) {
		if ((unsigned char)*at < ' ' || *at == 127)
			*at = '?';
	}
	fprintf(stderr, "hugeferry %s: %s\n", command, text);
	fflush(stderr);
}
