/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu_guest.h - what the parts of the guest share.
 *
 * Purpose: qemu_guest.c checks memory and prints the heartbeat; qemu_guest_devices.c loads modules and works
 * with devices. Ownership: none. Threads: a worker's counters are written by its thread, read by the main
 * thread. Units: pages of 4096 bytes. Errors: a guest that cannot go on ends, and its kernel with it.
 */
#ifndef HF_TESTS_E2E_QEMU_GUEST_H
#define HF_TESTS_E2E_QEMU_GUEST_H

#include <stdatomic.h>
#include <stdint.h>

#define PAGE_BYTES 4096u
#define WORDS	   (PAGE_BYTES / sizeof(uint64_t))

struct worker {
	uint64_t *memory;
	uint64_t pages; /* of one pass */
	int cpu;
	atomic_ullong visits, wrong;
};

/* Those of the initramfs, in the order of their names; then there is a /dev. */
void guest_load_modules(void);
/* A thread for each: reads the first disk past the page cache; takes memory and gives it back. */
void guest_read_disk(struct worker *worker);
void guest_churn(struct worker *worker);

#endif
