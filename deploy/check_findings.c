/* SPDX-License-Identifier: Apache-2.0 */
#include "deploy/check.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/err.h"

static const char *const finding_names[] = {"ok", "warn", "FAIL"};

void hf_check_found(struct hf_check *check, enum hf_finding finding, const char *name, const char *advice,
		    const char *format, ...)
{
	char detail[2 * HF_ERR_TEXT_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(detail, sizeof(detail), format, args);
	va_end(args);
	check->failed |= finding == HF_FINDING_FAIL;
	printf("%-4s  %-14s  %s\n", finding_names[finding], name, detail);
	if (finding != HF_FINDING_OK && advice)
		printf("%22sdo: %s\n", "", advice);

	json_t *entry = json_object();
	json_object_set_new(entry, "name", json_string(name));
	json_object_set_new(entry, "result", json_string(finding_names[finding]));
	json_object_set_new(entry, "detail", json_string(detail));
	json_object_set_new(entry, "advice",
			    finding != HF_FINDING_OK && advice ? json_string(advice) : json_null());
	json_array_append_new(check->findings, entry);
}
