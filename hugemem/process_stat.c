/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: proc_pid_stat(5). The second field is the program's name in parentheses, which may
 * itself hold anything, so counting starts behind the last parenthesis. Ticks are coarse (10 ms), but a pid
 * comes around only after all others.
 */
#include "hugemem/process_stat.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STAT_MAX_BYTES	  1024
#define FIELD_STATE	  3
#define FIELD_THREADS	  20
#define FIELD_START_TICKS 22

/* The start of a small file as text. */
static int read_text(int folder_fd, const char *path, char *text, size_t text_bytes)
{
	int fd = openat(folder_fd, path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t got = read(fd, text, text_bytes - 1);
	int result = got < 0 ? -errno : 0;
	close(fd);
	text[got < 0 ? 0 : got] = '\0';
	return result;
}

/* from: where field FIELD_STATE begins. */
static int field_of(const char *from, int wanted, uint64_t *value)
{
	for (int number = FIELD_STATE; from && number < wanted; number++) {
		from = strchr(from, ' ');
		from = from ? from + 1 : NULL;
	}
	char *end = NULL;
	errno = 0;
	*value = from ? strtoull(from, &end, 10) : 0;
	return from && end != from && *end == ' ' && errno == 0 ? 0 : -EPROTO;
}

static int parse(char *text, struct hf_process_stat *stat)
{
	char *name = strchr(text, '(');
	char *end = strrchr(text, ')');
	if (!name || !end || end < name || end[1] != ' ' || !end[2])
		return -EPROTO;
	*end = '\0';
	snprintf(stat->name, sizeof(stat->name), "%s", name + 1);
	stat->state = end[2];
	int result = field_of(end + 2, FIELD_THREADS, &stat->threads);
	return result ? result : field_of(end + 2, FIELD_START_TICKS, &stat->start_ticks);
}

int hf_process_stat_at(int folder_fd, const char *path, struct hf_process_stat *stat)
{
	char text[STAT_MAX_BYTES];
	int result = read_text(folder_fd, path, text, sizeof(text));
	return result ? result : parse(text, stat);
}

int hf_process_stat(pid_t pid, struct hf_process_stat *stat)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	return hf_process_stat_at(AT_FDCWD, path, stat);
}

int hf_boot_id(char boot_id[static HF_BOOT_ID_BYTES])
{
	char text[HF_BOOT_ID_BYTES + 1];
	int result = read_text(AT_FDCWD, "/proc/sys/kernel/random/boot_id", text, sizeof(text));
	if (result)
		return result;
	if (strcspn(text, "\n") != HF_BOOT_ID_CHARS)
		return -EPROTO;
	memset(boot_id, 0, HF_BOOT_ID_BYTES);
	memcpy(boot_id, text, HF_BOOT_ID_CHARS);
	return 0;
}
