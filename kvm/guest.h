/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.h - the guest program of the reference VMM, and the check of a guest's memory from outside.
 *
 * Purpose: a flat 64-bit program that writes and checks memory on every vCPU, following a pattern. Every
 * byte of guest memory is known: it is a pure function of its address, except the words the guest itself
 * writes, and those are bound to ledgers kept elsewhere in guest memory. So a lost, stale, torn or doubled
 * page shows both inside (the guest's own error counter) and outside (hf_guest_verify).
 *
 * Ownership: the caller owns the memory.
 * Threads: functions are pure over the memory given; the VM must be stopped while verifying.
 * Units: bytes.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_KVM_GUEST_H
#define HF_KVM_GUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "core/err.h"

#define HF_GUEST_PACE_MAX 10000u

enum hf_guest_pattern { HF_GUEST_SEQUENTIAL = 0, HF_GUEST_RANDOM, HF_GUEST_HOT };

struct hf_guest_config {
	enum hf_guest_pattern pattern;
	uint32_t vcpus;
	uint32_t write_percent;	   /* 0..100: share of visits that write */
	uint32_t fill_percent;	   /* 0..100: share of memory that exists at start; the rest stays holes */
	uint32_t pace_steps_per_s; /* of each vCPU, at most; 0: as fast as it can */
	uint32_t beat_port;	   /* 0: the reference VMM's port is read; else see kvm/guest/firmware.c */
	uint64_t memory_bytes;
	uint64_t page_size_bytes;
	uint64_t seed;
};

/*
 * Fills guest memory (program, tables, pattern) before the first run. The holes fill_percent leaves are
 * spread over memory by the seed and are not touched.
 */
int hf_guest_load(void *memory, const struct hf_guest_config *config, struct hf_err *err);

struct hf_guest_report {
	uint64_t bytes_checked;
	uint64_t bytes_wrong;
	uint64_t pages_wrong;
	uint64_t first_wrong_offset;
	uint64_t visits; /* all vCPUs */
	uint64_t writes;
	uint64_t guest_errors;	/* mismatches the guest itself saw */
	uint64_t memory_errors; /* times it met a page that was lost */
	uint32_t vcpus;
};

/*
 * Checks every byte against what it must be and reads the guest's own counters. 0 also when bytes are wrong.
 * -EBADMSG: the guest's header is, so there is nothing to check against. Reading shared huge pages makes
 * holes exist.
 */
int hf_guest_verify(const void *memory, uint64_t memory_bytes, struct hf_guest_report *report,
		    struct hf_err *err);
/* The same but for pages that are lost: a bool each. */
int hf_guest_verify_except(const void *memory, uint64_t memory_bytes, const bool *lost,
			   struct hf_guest_report *report, struct hf_err *err);
/* Visits so far, without checking; cheap, for "does it run?". */
uint64_t hf_guest_visits(const void *memory, uint64_t memory_bytes);

#endif
