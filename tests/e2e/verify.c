/* SPDX-License-Identifier: Apache-2.0 */
/* verify-guest RAM-FILE: are all bytes of a stopped reference guest what they must be? */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kvm/guest.h"

int main(int argc, char **argv)
{
	struct hf_guest_report report = {0};
	struct hf_err err = HF_ERR_INIT;
	struct stat file;
	int fd = argc == 2 ? open(argv[1], O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0 || fstat(fd, &file))
		return 2;
	uint64_t bytes = (uint64_t)file.st_size;
	const void *memory = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return 2;
	if (hf_guest_verify(memory, bytes, &report, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	if (report.bytes_wrong || report.guest_errors || !report.visits || report.bytes_checked != bytes) {
		fprintf(stderr,
			"%" PRIu64 " of %" PRIu64 " bytes are wrong, the first at %#" PRIx64
			"; the guest saw %" PRIu64 " wrong words in %" PRIu64 " visits\n",
			report.bytes_wrong, bytes, report.first_wrong_offset, report.guest_errors,
			report.visits);
		return 1;
	}
	return 0;
}
