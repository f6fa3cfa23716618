/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu_guest.h - what the parts of the guest share.
 *
 * Purpose: qemu_guest.c checks memory and prints the heartbeat; qemu_guest_devices.c works with memory that
 * devices write to or that the guest gives up. Ownership: none. Threads: a worker's counters are written by
 * its thread, read by the main thread. Units: pages of 4096 bytes. Errors: a guest that cannot go on ends,
 * and its kernel with it.
 */
#ifndef HF_TESTS_E2E_QEMU_GUEST_H
#define HF_TESTS_E2E_QEMU_GUEST_H

#include <stdatomic.h>
#include <stdint.h>

#define PAGE_BYTES	  4096u
#define WORDS		  (PAGE_BYTES / sizeof(uint64_t))
#define GUEST_DISK_PASS	  64u
#define GUEST_DISK_PAGES  (8u << 20 >> 12)
#define GUEST_CHURN_PAGES (16u << 20 >> 12)

struct worker {
	void *(*work)(void *);
	uint64_t *memory; /* a slice, or one page for a device */
	uint64_t pages;	  /* are a pass */
	int cpu, fd;
	atomic_ullong visits, wrong;
};

/* Threads: the first disk is read past the page cache; memory is used and given back. */
void *guest_read_disk(void *worker);
void *guest_churn(void *worker);

#endif
