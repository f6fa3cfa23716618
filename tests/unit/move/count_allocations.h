/* SPDX-License-Identifier: Apache-2.0 */
/*
 * count_allocations.h - counts what a process takes from the allocator and from the kernel.
 *
 * Purpose: linked into a program, or preloaded into one, it stands in front of malloc() and its kin, mmap()
 * and sbrk(). While it counts, each call is counted and the first is remembered, except those of the threads
 * that talk QMP. Ownership: none. Threads: any. Units: calls. Errors: none.
 */
#ifndef HF_TESTS_COUNT_ALLOCATIONS_H
#define HF_TESTS_COUNT_ALLOCATIONS_H

#include <stdbool.h>
#include <stdint.h>

struct allocations {
	uint32_t calls;
	char first_call[16];   /* "malloc" */
	char first_thread[16]; /* name of the thread that made it */
	void *first_caller;
};

void allocations_count(bool count);
struct allocations allocations_counted(void);

#endif
