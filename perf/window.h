/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.h - the memory that pages are read from, or land in.
 *
 * Purpose: 256 MiB on each side, used over and over from its start: larger than caches, so that page after
 * page is as cold as in a migration, and the same for what is measured and for the raw limit beside it.
 * Ownership: hf_window_map() / hf_window_unmap(). Threads: any. Units: bytes. Errors: 0 or -errno with a
 * line.
 */
#ifndef HF_PERF_WINDOW_H
#define HF_PERF_WINDOW_H

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include "core/err.h"

#define HF_WINDOW_BYTES (256ull << 20)

static inline int hf_window_map(uint8_t **window, struct hf_err *err)
{
	uint8_t *mapped =
	    mmap(NULL, HF_WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mapped == MAP_FAILED)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "no memory for the 256 MiB that pages are in: %s",
				  strerror(errno));
	madvise(mapped, HF_WINDOW_BYTES, MADV_HUGEPAGE); /* where the kernel has none small pages do */
	memset(mapped, 0x5a, HF_WINDOW_BYTES);
	*window = mapped;
	return 0;
}

static inline void hf_window_unmap(uint8_t *window)
{
	if (window)
		munmap(window, HF_WINDOW_BYTES);
}

#endif
