/* SPDX-License-Identifier: Apache-2.0 */
/*
 * layout.h - what guest memory holds, as seen by the guest program, its loader and its verifier.
 *
 * Purpose: one place for offsets, structs and the pure functions that say what each word must be. The
 * guest program is compiled from the same functions, so that both sides cannot disagree.
 * Ownership: none.
 * Threads: pure functions.
 * Units: offsets and lengths in bytes; the guest's virtual addresses are offsets in its memory.
 * Errors: none.
 *
 * Memory from offset 0:
 *
 *     0x1000  struct hf_guest_header
 *     0x2000  program text
 *     0x8000  page tables (virtual address = offset; physical addresses leave a hole from 3 to 4 GiB)
 *     ...     one struct hf_guest_status for each vCPU
 *     ...     ledgers: for each vCPU and page a u64, how often the vCPU has written its slot there
 *             ("system" ends here; the rest of its last huge page is pattern)
 *     ...     data pages
 *
 * A data page is cut into as many equal parts as there are vCPUs (rounded up to a power of two). In
 * its part a vCPU has one slot, a u64 at a place that differs from page to page. Slots change, everything
 * else is pattern (or zeros, in pages that did not exist at the start) for ever.
 */
#ifndef HF_KVM_GUEST_LAYOUT_H
#define HF_KVM_GUEST_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

/* The program reaches its memory by a segment; all others by plain pointers. */
#ifndef HF_GUEST_SEGMENT
#define HF_GUEST_SEGMENT
#endif

#define HF_GUEST_MAGIC	       0x3147595252454647ull
#define HF_GUEST_HEADER_OFFSET 0x1000ull
#define HF_GUEST_TEXT_OFFSET   0x2000ull /* the entry point */
#define HF_GUEST_TABLES_OFFSET 0x8000ull
#define HF_GUEST_TEXT_MAX      (HF_GUEST_TABLES_OFFSET - HF_GUEST_TEXT_OFFSET)
#define HF_GUEST_LOW_BYTES     (3ull << 30) /* physical memory below the hole */
#define HF_GUEST_HOLE_BYTES    (1ull << 30)
#define HF_GUEST_MEMORY_MAX    (256ull << 30)
#define HF_GUEST_VCPUS_MAX     64u
#define HF_GUEST_PORT	       0x510	    /* reading a u32 gives the number of reads of this vCPU so far */
#define HF_GUEST_STALL_TICKS   (1ull << 18) /* of the clock; a load that takes longer waits for its page */
#define HF_GUEST_PORT_STEPS    256u /* the guest uses its port once in so many steps, a paced one in each */
#define HF_GUEST_HOLE_VISITS   64u  /* one in so many visits that would hit a hole does */

struct hf_guest_header {
	uint64_t magic;
	uint64_t memory_bytes;
	uint64_t page_size_bytes;
	uint64_t vcpus;
	uint64_t pattern;
	uint64_t write_percent;
	uint64_t fill_percent;
	uint64_t seed;
	uint64_t pages;
	uint64_t system_pages; /* pages that hold text, tables, status, ledgers */
	uint64_t data_pages;
	uint64_t hot_pages;
	uint64_t status_offset;
	uint64_t ledger_offset;
	uint64_t system_bytes; /* end of the ledgers */
	uint64_t part_bytes;   /* of a page, for each vCPU's slot */
	uint64_t pace_steps_per_s;
	uint64_t beat_port; /* 0: HF_GUEST_PORT is read; else each vCPU writes to its own, from here on */
	uint64_t check;	    /* over the words before */
};

/*
 * A memory error (a page whose bytes are lost) starts the program at its entry point again, told so in its
 * second argument, with r15 as it was. Every page is read before a step stores anything but port_uses, so
 * the step under way becomes a skip.
 *
 * One step chooses a page and visits it or skips it. Everything a step does follows from its number. The
 * order of stores in a step is: port_uses, ledger, slot, writes, visits or skips, step. So a vCPU stopped
 * between two stores leaves only differences that belong to step `step`; they are tolerated, and no others.
 *
 * Counts are sealed, so that a flipped bit cannot pass for a store under way: the low 56 bits are the count,
 * the high byte is a check of them.
 */
struct hf_guest_status {
	uint64_t step;	 /* sealed, as all up to stall_ticks; steps done */
	uint64_t visits; /* steps that visited their page */
	uint64_t skips;	 /* steps that did not */
	uint64_t writes;
	uint64_t port_uses;
	uint64_t errors;
	uint64_t last_step_ticks; /* of the clock */
	uint64_t stall_ticks;	  /* longest time between two steps */
	uint64_t bad_address;	  /* of the first error; plain, as the two below */
	uint64_t bad_expected;
	uint64_t bad_found;
	uint64_t vcpu;
	uint64_t memory_errors; /* sealed; steps that were ended by one, among the skips */
	uint64_t stalled_ticks; /* sealed; the sum of all waits for pages of data */
	uint64_t zero[2];
};

#define HF_GUEST_COUNT_MASK ((1ull << 56) - 1)

static inline uint64_t hf_guest_seal(uint64_t count)
{
	uint64_t fold = count & HF_GUEST_COUNT_MASK;
	count = fold;
	fold ^= fold >> 32;
	fold ^= fold >> 16;
	fold ^= fold >> 8;
	return count | (fold ^ 0xa5) << 56;
}

static inline uint64_t hf_guest_count(uint64_t sealed)
{
	return sealed & HF_GUEST_COUNT_MASK;
}

static inline uint64_t hf_guest_mix(uint64_t value)
{
	value ^= value >> 32;
	value *= 0xd6e8feb86659fd93ull;
	value ^= value >> 32;
	value *= 0xd6e8feb86659fd93ull;
	return value ^ value >> 32;
}

/* The word at an address after `count` writes; count 0 is the pattern. */
static inline uint64_t hf_guest_word(uint64_t seed, uint64_t address, uint64_t count)
{
	return hf_guest_mix(address + seed * 0x9e3779b97f4a7c15ull + count * 0xc2b2ae3d27d4eb4full);
}

/* Scales 32 random bits to 0..limit-1. */
static inline uint64_t hf_guest_below(uint64_t random, uint64_t limit)
{
	return (random & 0xffffffffu) * limit >> 32;
}

static inline bool hf_guest_is_hole(const HF_GUEST_SEGMENT struct hf_guest_header *header, uint64_t page)
{
	if (page < header->system_pages)
		return false;
	return hf_guest_below(hf_guest_mix(header->seed ^ page << 20), 100) >= header->fill_percent;
}

/* Offset of a vCPU's slot within a page. */
static inline uint64_t hf_guest_slot_offset(const HF_GUEST_SEGMENT struct hf_guest_header *header,
					    uint64_t page, uint64_t vcpu)
{
	uint64_t place = hf_guest_mix(header->seed + (page << 8 | vcpu));
	return vcpu * header->part_bytes + (place & (header->part_bytes - 1) & ~7ull);
}

static inline uint64_t hf_guest_slot_word(const HF_GUEST_SEGMENT struct hf_guest_header *header,
					  uint64_t address, bool hole, uint64_t count)
{
	return hole && !count ? 0 : hf_guest_word(header->seed, address, count);
}

/*
 * Does the step use the port? A paced guest does in each: the machine answers no sooner than the next step
 * is due.
 */
static inline bool hf_guest_step_uses_port(const HF_GUEST_SEGMENT struct hf_guest_header *header,
					   uint64_t step)
{
	return header->pace_steps_per_s || step % HF_GUEST_PORT_STEPS == 0;
}

/* The random number of a step. */
static inline uint64_t hf_guest_step_random(const HF_GUEST_SEGMENT struct hf_guest_header *header,
					    uint64_t vcpu, uint64_t step)
{
	return hf_guest_mix(hf_guest_mix(header->seed + (vcpu << 56)) + step);
}

static inline uint64_t hf_guest_step_page(const HF_GUEST_SEGMENT struct hf_guest_header *header,
					  uint64_t vcpu, uint64_t step, uint64_t random)
{
	uint64_t page;

	if (header->pattern == 0)
		page = (step + vcpu * header->data_pages / header->vcpus) % header->data_pages;
	else if (header->pattern == 2 && hf_guest_below(hf_guest_mix(random), 10) != 0)
		page = hf_guest_below(random >> 32, header->hot_pages) *
		       (header->data_pages / header->hot_pages);
	else
		page = hf_guest_below(random >> 32, header->data_pages);
	return header->system_pages + page;
}

static inline bool hf_guest_step_skips(bool hole, uint64_t random)
{
	return hole && random % HF_GUEST_HOLE_VISITS;
}

static inline bool hf_guest_step_writes(const HF_GUEST_SEGMENT struct hf_guest_header *header,
					uint64_t random)
{
	return hf_guest_below(hf_guest_mix(random + 1), 100) < header->write_percent;
}

static inline uint64_t hf_guest_ledger_offset(const HF_GUEST_SEGMENT struct hf_guest_header *header,
					      uint64_t vcpu, uint64_t page)
{
	return header->ledger_offset + (vcpu * header->pages + page) * 8;
}

#endif
