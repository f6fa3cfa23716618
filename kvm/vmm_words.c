/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation. /proc/PID/fd/2 is opened while the VMM lives: the file can then be read after its end,
 * whatever its name was. Only a regular file: opening a pipe would take words away from who reads it, opening
 * a device may do anything. Lines become one line.
 */
#include "kvm/vmm_words.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvm/qmp_codec.h"

void hf_vmm_words_open(struct hf_vmm_words *words, pid_t pid)
{
	char path[64];
	struct stat file;
	snprintf(path, sizeof(path), "/proc/%d/fd/2", (int)pid);
	*words = (struct hf_vmm_words){0};
	if (stat(path, &file) < 0 || !S_ISREG(file.st_mode))
		return;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return;
	words->fd = fd + 1;
	// It may have been exchanged in between.
	if (fstat(fd, &file) < 0 || !S_ISREG(file.st_mode))
		hf_vmm_words_close(words);
	else
		words->start_bytes = (uint64_t)file.st_size;
}

void hf_vmm_words_close(struct hf_vmm_words *words)
{
	if (words->fd)
		close(words->fd - 1);
	*words = (struct hf_vmm_words){0};
}

void hf_vmm_words_add(const struct hf_vmm_words *words, struct hf_err *err)
{
	char said[HF_ERR_TEXT_BYTES];
	ssize_t bytes =
	    words->fd ? pread(words->fd - 1, said, sizeof(said) - 1, (off_t)words->start_bytes) : 0;
	while (bytes > 0 && said[bytes - 1] == '\n')
		bytes--;
	if (bytes <= 0)
		return;
	said[bytes] = '\0';
	const char *between = "; its log says: ";
	char *rest = said;
	for (char *line; (line = strsep(&rest, "\n")); between = "; ") {
		size_t used = strnlen(err->text, sizeof(err->text) - 1);
		hf_qmp_make_printable(line);
		snprintf(err->text + used, sizeof(err->text) - used, "%s%s", between, line);
	}
}
