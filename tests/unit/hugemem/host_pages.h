/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host_pages.h - huge pages of the host, lent to a test.
 *
 * Purpose: pages are added to the pool on top of what is free, and given back when the test's process ends in
 * whatever way. Ownership: this module's. Threads: the test's main thread. Units: pages of the named size.
 * Errors: -1 with a printed reason; a pool that cannot be read ends the process. Knows no test framework.
 */
#ifndef HF_TESTS_HOST_PAGES_H
#define HF_TESTS_HOST_PAGES_H

#include <stdint.h>

/* 0, or -1 with a printed reason. Adds to what is there. */
int host_pages_reserve(uint64_t page_size_bytes, uint64_t pages);
/* What the last host_pages_reserve() added. */
void host_pages_give_back_last(void);
/* All that was added. */
void host_pages_give_back(void);
uint64_t host_pages_free(uint64_t page_size_bytes);
/* Free and reserved by nobody. */
uint64_t host_pages_available(uint64_t page_size_bytes);

#endif
