/* SPDX-License-Identifier: Apache-2.0 */
/*
 * verify-guest RAM-FILE [LOST-PAGE...]: are all bytes of a stopped reference guest what they must be, but for
 * the pages that are lost?
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvm/guest.h"

/* Any number of small pages at most: what is no page of the guest's is a mistake. */
static bool *lost_pages(char **arguments, uint64_t pages)
{
	bool *lost = calloc(pages, sizeof(*lost));
	for (; lost && *arguments; arguments++) {
		uint64_t page = strtoull(*arguments, NULL, 10);
		if (page >= pages)
			exit(2);
		lost[page] = true;
	}
	return lost;
}

static int tell(const struct hf_guest_report *report, uint64_t bytes)
{
	fprintf(stderr,
		"%" PRIu64 " of %" PRIu64 " bytes are wrong, the first at %#" PRIx64
		"; the guest saw %" PRIu64 " wrong words and %" PRIu64 " memory errors in %" PRIu64
		" visits\n",
		report->bytes_wrong, bytes, report->first_wrong_offset, report->guest_errors,
		report->memory_errors, report->visits);
	return 1;
}

int main(int argc, char **argv)
{
	struct hf_guest_report report = {0};
	struct hf_err err = HF_ERR_INIT;
	struct stat file;
	int fd = argc >= 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0 || fstat(fd, &file))
		return 2;
	uint64_t bytes = (uint64_t)file.st_size;
	const void *memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return 2;
	bool *lost = lost_pages(argv + 2, bytes / 4096);
	int result = lost ? hf_guest_verify_except(memory, bytes, lost, &report, &err) : -ENOMEM;
	free(lost);
	if (result) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	bool wrong = report.bytes_wrong || report.guest_errors || !report.visits ||
		     report.bytes_checked != bytes || (argc == 2 && report.memory_errors);
	return wrong ? tell(&report, bytes) : 0;
}
