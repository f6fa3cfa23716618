/* SPDX-License-Identifier: Apache-2.0 */
/*
 * placing.h - huge pages that are made visible, without anybody who waits for them.
 *
 * Purpose: a file of huge pages, mapped three times: as a guest has it (registered with userfaultfd), as an
 * agent has it (the alias), and plain. Ownership: hf_placing_open() / hf_placing_close(), which gives pages
 * back to the host that were taken from it; a zeroed struct may be closed. Threads: one. Units: bytes, pages.
 * Errors: 0 or -errno, with a line where there is an err.
 */
#ifndef HF_PERF_PLACING_H
#define HF_PERF_PLACING_H

#include <stdint.h>

#include "core/err.h"

struct hf_placing {
	uint64_t page_bytes, bytes, added_pages;
	int fd, uffd; /* stored + 1 */
	uint8_t *guest, *alias, *plain;
};

/* more_pages: that the caller maps himself. */
int hf_placing_open(struct hf_placing *placing, uint64_t page_bytes, uint32_t pages, uint32_t more_pages,
		    struct hf_err *err);
void hf_placing_close(struct hf_placing *placing);

/* Neither the file nor anybody's mapping has the page. */
int hf_placing_take_away(struct hf_placing *placing, uint32_t page);
/* The file has it, through the alias; the guest's mapping and the plain one do not. */
int hf_placing_leave_in_file(struct hf_placing *placing, uint32_t page);
/* UFFDIO_COPY, UFFDIO_CONTINUE. */
int hf_placing_copy(struct hf_placing *placing, uint32_t page, const void *content);
int hf_placing_continue(struct hf_placing *placing, uint32_t page);

#endif
