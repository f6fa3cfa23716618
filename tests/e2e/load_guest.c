/* SPDX-License-Identifier: Apache-2.0 */
/*
 * load-guest RAM-FILE MEMORY-BYTES PAGE-BYTES VCPUS PATTERN WRITE-PERCENT FILL-PERCENT BEAT-PORT: lays the
 * guest of the reference VMM into the RAM file of a VMM that has no loader for it (QEMU with
 * kvm/guest/firmware.c).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvm/guest.h"
#include "kvm/guest/image.h"

#define PC_HOLE_OFFSET 0xa0000u /* no RAM from here to 1 MiB */

static uint64_t number(const char *text)
{
	return strtoull(text, NULL, 0);
}

static int load(int fd, const struct hf_guest_config *config, struct hf_err *err)
{
	struct hf_guest_header header;
	int result = hf_guest_header_make(&header, config, err);
	if (result)
		return result;
	if (header.system_bytes > PC_HOLE_OFFSET)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "guest: its system part of %" PRIu64 " bytes does not fit below %u",
				  header.system_bytes, PC_HOLE_OFFSET);
	if (ftruncate(fd, (off_t)config->memory_bytes))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "the RAM file does not become as long as that");
	void *memory = mmap(NULL, config->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "the RAM file cannot be mapped");
	return hf_guest_load(memory, config, err);
}

int main(int argc, char **argv)
{
	struct hf_err err = HF_ERR_INIT;
	int fd = argc == 9 ? open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
	if (fd < 0)
		return 2;
	struct hf_guest_config config = {
	    .memory_bytes = number(argv[2]),
	    .page_size_bytes = number(argv[3]),
	    .vcpus = (uint32_t)number(argv[4]),
	    .pattern = (enum hf_guest_pattern)number(argv[5]),
	    .write_percent = (uint32_t)number(argv[6]),
	    .fill_percent = (uint32_t)number(argv[7]),
	    .beat_port = (uint32_t)number(argv[8]),
	    .seed = 1,
	};
	if (load(fd, &config, &err)) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	return 0;
}
