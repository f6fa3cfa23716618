/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: /proc/PID/stat has the start time as its 22nd field. The second one is the program's
 * name in parentheses, which may itself hold anything, so counting starts behind the last parenthesis. Ticks
 * are coarse (10 ms), but a pid comes around only after all others.
 */
#include "hugemem/vmm_identity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIELDS_FROM_STATE_TO_START 19 /* the state is the 3rd field */

/* The start of a small file as text. */
static int read_text(const char *path, char *text, size_t text_bytes)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t got = read(fd, text, text_bytes - 1);
	int result = got < 0 ? -errno : 0;
	close(fd);
	text[got < 0 ? 0 : got] = '\0';
	return result;
}

static int parse_start(const char *stat, uint64_t *started_ticks)
{
	const char *at = strrchr(stat, ')');

	for (int i = 0; at && i <= FIELDS_FROM_STATE_TO_START; i++) {
		at = strchr(at, ' ');
		at = at ? at + 1 : NULL;
	}
	char *end = NULL;
	errno = 0;
	*started_ticks = at ? strtoull(at, &end, 10) : 0;
	return at && end != at && *end == ' ' && errno == 0 ? 0 : -EPROTO;
}

int hf_vmm_identity_of(pid_t pid, struct hf_vmm_identity *identity, struct hf_err *err)
{
	char path[64], text[1024];

	*identity = (struct hf_vmm_identity){.pid = pid};
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	int result = read_text(path, text, sizeof(text));
	if (result == 0)
		result = parse_start(text, &identity->started_ticks);
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, result == -ENOENT ? ESRCH : -result,
				  "cannot look at the VMM's process %d: %s; has it exited?", (int)pid,
				  strerror(result == -ENOENT ? ESRCH : -result));
	result = read_text("/proc/sys/kernel/random/boot_id", text, sizeof(text));
	if (result)
		return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot read the kernel's boot id: %s",
				  strerror(-result));
	size_t length = strcspn(text, "\n");
	memcpy(identity->boot_id, text, length < HF_BOOT_ID_BYTES ? length : HF_BOOT_ID_BYTES - 1);
	return 0;
}

bool hf_vmm_identity_equal(const struct hf_vmm_identity *one, const struct hf_vmm_identity *other)
{
	return one->pid == other->pid && one->started_ticks == other->started_ticks &&
	       memcmp(one->boot_id, other->boot_id, sizeof(one->boot_id)) == 0;
}
