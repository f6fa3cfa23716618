/* SPDX-License-Identifier: Apache-2.0 */
/*
 * userfault.h - the userfaultfd range calls, one function each.
 *
 * Purpose: wraps the ioctls on huge-page ranges: repeats what the kernel asks to have repeated (EAGAIN while
 * a change of the address space is pending, short copies) and turns the rest into one -errno.
 *
 * Ownership: the descriptor and all memory stay the caller's.
 * Threads: any; calls on different ranges of one descriptor may run at once.
 * Units: addresses are those of the process the descriptor was made in; lengths are bytes, both multiples
 * of the range's huge page size.
 * Errors: 0 or -errno. -EEXIST, -EFAULT and -ENOENT have the meanings said at the functions.
 */
#ifndef HF_HUGEMEM_USERFAULT_H
#define HF_HUGEMEM_USERFAULT_H

#include <stdint.h>

/* modes: UFFDIO_REGISTER_MODE_*. Fails with -EOPNOTSUPP when the range cannot do what the modes need. */
int hf_userfault_register(int fd, uint64_t address, uint64_t length_bytes, uint64_t modes);
/* Wakes everyone who waits in the range; what is missing reads as zeros from here on. */
int hf_userfault_unregister(int fd, uint64_t address, uint64_t length_bytes);

/*
 * Allocates the pages, fills them and makes them visible. -EEXIST proves nothing: the page is there, or the
 * file's page cache holds it, or no huge page could be had. -ENOENT: no such registered range. The content
 * must be in memory: when reading it faults, the kernel takes one more huge page for the time of the copy.
 */
int hf_userfault_copy(int fd, uint64_t address, const void *content, uint64_t length_bytes);
/*
 * Makes pages visible that the file already holds. -EEXIST: visible before, nobody was woken. -EFAULT: the
 * file does not hold the page.
 */
int hf_userfault_continue(int fd, uint64_t address, uint64_t length_bytes);
/* Waiters try their access again. */
int hf_userfault_wake(int fd, uint64_t address, uint64_t length_bytes);
/* Write-protects: the next write to each page is noticed. Pages that are absent get a mark that protects them
 * too. */
int hf_userfault_protect(int fd, uint64_t address, uint64_t length_bytes);
/* Every later access gets SIGBUS. -ENOTTY or -EINVAL before Linux 6.6; -EEXIST: the page is there. */
int hf_userfault_poison(int fd, uint64_t address, uint64_t length_bytes);

#endif
