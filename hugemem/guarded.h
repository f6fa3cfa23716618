/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guarded.h - touching guest memory that may be gone.
 *
 * Purpose: a page with a memory error, or one behind the end of a RAM file that was cut short, kills who
 * touches it with SIGBUS. An agent must live to say which page it was.
 *
 * Ownership: a call makes the process's handler for SIGBUS the one here. Outside of calls a SIGBUS kills.
 * Threads: any; a call unblocks SIGBUS in its thread.
 * Units: bytes.
 * Errors: 0, or -EIO: a page of the range cannot be had.
 */
#ifndef HF_HUGEMEM_GUARDED_H
#define HF_HUGEMEM_GUARDED_H

#include <stdbool.h>
#include <stddef.h>

int hf_guarded_is_zero(const void *bytes, size_t length_bytes, bool *zero);
int hf_guarded_clear(void *bytes, size_t length_bytes);

#endif
