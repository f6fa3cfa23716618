/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zero.h - is a chunk all zeros?
 *
 * Purpose: the one scan that every implementation of the source's memory port shares.
 * Ownership, errors: none. Threads: any. Units: bytes.
 */
#ifndef HF_CORE_ZERO_H
#define HF_CORE_ZERO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline bool hf_is_zero(const void *memory, size_t length_bytes)
{
	/* If the first 16 bytes are zero and each byte equals the one 16 before it, all are. */
	static const uint8_t zeros[16];
	const uint8_t *bytes = memory;
	if (length_bytes < sizeof(zeros))
		return memcmp(bytes, zeros, length_bytes) == 0;
	return memcmp(bytes, zeros, sizeof(zeros)) == 0 &&
	       memcmp(bytes, bytes + sizeof(zeros), length_bytes - sizeof(zeros)) == 0;
}

#endif
