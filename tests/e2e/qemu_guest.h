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
/* Checks a page against what it was given in the last pass, and gives it what comes next. */
void guest_visit(struct worker *worker, uint64_t *words, uint64_t page, uint64_t pass);
/*
 * A thread for each: reads the first disk past the page cache; uses it as a slice of memory; draws random
 * numbers; takes memory and gives it back.
 */
void guest_read_disk(struct worker *worker);
void guest_use_disk(struct worker *worker);
void guest_draw_random(struct worker *worker);
void guest_churn(struct worker *worker);

#endif
