/* SPDX-License-Identifier: Apache-2.0 */
/*
 * compare.h - the source's memory against the destination's, byte by byte.
 *
 * Purpose: after a migration of the demo guest the source's memory shows the moment of its stop, the
 * destination's shows some time more of running. Every difference must be a word that this guest writes
 * and, by its own ledgers, has written since.
 * Ownership: the caller owns the memory.
 * Threads: pure; neither side may run.
 * Units: bytes, pages of the guest's size.
 * Errors: -EINVAL when the memory holds no demo guest. Wrong bytes are in the result.
 */
#ifndef HF_DEPLOY_COMPARE_H
#define HF_DEPLOY_COMPARE_H

#include <stdint.h>

#include "core/err.h"

struct hf_comparison {
	uint64_t bytes_compared;
	uint64_t words_written;	  /* differ, and the guest has written them since */
	uint64_t words_different; /* differ, and must not */
	uint64_t pages_identical;
	uint64_t pages_different; /* hold such a word */
	uint64_t first_different_offset;
};

int hf_compare(const void *source, const void *destination, uint64_t memory_bytes,
	       struct hf_comparison *comparison, struct hf_err *err);

#endif
