/* SPDX-License-Identifier: Apache-2.0 */
/*
 * program.c - the guest: every vCPU checks and writes memory for ever.
 *
 * Theory of operation. The program runs in 64-bit mode without interrupts, without a stack and without
 * data of its own: what it needs is in registers, in the header and in its vCPU's status block. It has no
 * stack because every byte of guest memory must be known to the verifier, and a stack's bytes are not.
 * (The stack pointer is 0, so a compiler that spills would end the guest at once with a triple fault.)
 *
 * Every access to memory is through segment GS. Its base is 0 where there is a machine of its own; the VMM
 * that runs the program in user mode puts it where the guest's memory begins. The program jumps relatively,
 * so it runs wherever memory is.
 *
 * vCPUs share nothing they write: each has its status block, its ledger and its slot on each page. A page
 * that came late, twice, torn or not at all disagrees with the ledger, which lies on another page; a
 * status block that was lost disagrees with the step counter in r15, which travels as device state; an IN
 * instruction that was completed twice or never disagrees with the count of port uses. A machine that does
 * not count (any but the reference VMM) is told the count's low byte by OUT instead: what it has written down
 * shows.
 */
#define HF_GUEST_SEGMENT __seg_gs
#include "kvm/guest/layout.h"

register uint64_t steps_done asm("r15");

/* Keeps values from living longer than one phase of a step: what does not fit the registers has no place. */
static inline void forget_registers(void)
{
	asm volatile("" ::: "memory");
}

static inline void add_one(volatile HF_GUEST_SEGMENT uint64_t *sealed)
{
	*sealed = hf_guest_seal(*sealed + 1);
}

static inline void complain(volatile HF_GUEST_SEGMENT struct hf_guest_status *status, uint64_t address,
			    uint64_t expected, uint64_t found)
{
	if (!hf_guest_count(status->errors)) {
		status->bad_address = address;
		status->bad_expected = expected;
		status->bad_found = found;
	}
	add_one(&status->errors);
}

static inline void check_word(volatile HF_GUEST_SEGMENT struct hf_guest_status *status, uint64_t address,
			      uint64_t expected)
{
	uint64_t found = *(volatile HF_GUEST_SEGMENT uint64_t *)address;
	if (found != expected)
		complain(status, address, expected, found);
}

static inline void note_stall(volatile HF_GUEST_SEGMENT struct hf_guest_status *status)
{
	uint64_t now = hf_guest_count(__builtin_ia32_rdtsc());
	uint64_t before = hf_guest_count(status->last_step_ticks);
	if (before && now > before && now - before > hf_guest_count(status->stall_ticks))
		status->stall_ticks = hf_guest_seal(now - before);
	status->last_step_ticks = hf_guest_seal(now);
}

/* A step is long where the processor is emulated; two readings around one load show a page that was missing.
 */
static inline void touch(volatile HF_GUEST_SEGMENT struct hf_guest_status *status,
			 const HF_GUEST_SEGMENT struct hf_guest_header *header, uint64_t page)
{
	uint64_t before = __builtin_ia32_rdtsc();
	(void)*(volatile HF_GUEST_SEGMENT uint64_t *)(page * header->page_size_bytes);
	uint64_t after = __builtin_ia32_rdtsc();
	if (after > before && after - before > HF_GUEST_STALL_TICKS)
		status->stalled_ticks = hf_guest_seal(status->stalled_ticks + after - before);
}

static inline void read_port(volatile HF_GUEST_SEGMENT struct hf_guest_status *status)
{
	uint32_t reads;
	uint32_t expected = (uint32_t)hf_guest_count(status->port_uses) + 1;

	asm volatile("inl %w1, %0" : "=a"(reads) : "d"(HF_GUEST_PORT));
	if (reads != expected)
		complain(status, HF_GUEST_PORT, expected, reads);
	add_one(&status->port_uses);
}

static inline void write_port(volatile HF_GUEST_SEGMENT struct hf_guest_status *status,
			      const HF_GUEST_SEGMENT struct hf_guest_header *header)
{
	uint16_t port = (uint16_t)(header->beat_port + status->vcpu);
	asm volatile("outb %b0, %w1" : : "a"(status->port_uses), "d"(port));
	add_one(&status->port_uses);
}

static inline void check_random_word(volatile HF_GUEST_SEGMENT struct hf_guest_status *status,
				     const HF_GUEST_SEGMENT struct hf_guest_header *header, uint64_t page,
				     uint64_t random)
{
	uint64_t offset = random & (header->page_size_bytes - 1) & ~7ull;
	uint64_t address = page * header->page_size_bytes + offset;
	uint64_t part = offset / header->part_bytes;

	if (part < header->vcpus && offset == hf_guest_slot_offset(header, page, part))
		return;
	check_word(status, address, hf_guest_slot_word(header, address, hf_guest_is_hole(header, page), 0));
}

static inline void visit(volatile HF_GUEST_SEGMENT struct hf_guest_status *status,
			 const HF_GUEST_SEGMENT struct hf_guest_header *header, uint64_t page,
			 uint64_t random)
{
	touch(status, header, page);
	forget_registers();
	check_random_word(status, header, page, hf_guest_mix(random + 2));
	forget_registers();
	check_random_word(status, header, page, hf_guest_mix(random + 3));
	forget_registers();

	volatile HF_GUEST_SEGMENT uint64_t *ledger =
	    (volatile HF_GUEST_SEGMENT uint64_t *)hf_guest_ledger_offset(header, status->vcpu, page);
	uint64_t slot = page * header->page_size_bytes + hf_guest_slot_offset(header, page, status->vcpu);
	check_word(status, slot, hf_guest_slot_word(header, slot, hf_guest_is_hole(header, page), *ledger));
	forget_registers();

	if (hf_guest_step_writes(header, random)) {
		uint64_t count = *ledger + 1;
		*ledger = count;
		*(volatile HF_GUEST_SEGMENT uint64_t *)slot = hf_guest_word(header->seed, slot, count);
		add_one(&status->writes);
	}
	add_one(&status->visits);
}

/*
 * Memory and registers must be of one moment. Two relations, because a vCPU may have been stopped between
 * loading a count and storing it again; then that one looks right.
 */
static inline void check_progress(volatile HF_GUEST_SEGMENT struct hf_guest_status *status)
{
	uint64_t step = hf_guest_count(status->step);
	uint64_t ended = hf_guest_count(status->visits) + hf_guest_count(status->skips);

	if (step != steps_done)
		complain(status, (uint64_t)&status->step, steps_done, step);
	if (ended != steps_done)
		complain(status, (uint64_t)&status->visits, steps_done, ended);
}

static inline void do_step(volatile HF_GUEST_SEGMENT struct hf_guest_status *status,
			   const HF_GUEST_SEGMENT struct hf_guest_header *header)
{
	check_progress(status);
	note_stall(status);
	if (hf_guest_step_uses_port(header, steps_done)) {
		if (header->beat_port)
			write_port(status, header);
		else
			read_port(status);
	}
	forget_registers();

	uint64_t random = hf_guest_step_random(header, status->vcpu, steps_done);
	uint64_t page = hf_guest_step_page(header, status->vcpu, steps_done, random);
	if (hf_guest_step_skips(hf_guest_is_hole(header, page), random))
		add_one(&status->skips);
	else
		visit(status, header, page, random);
	forget_registers();

	add_one(&status->step);
	steps_done++;
}

/* The step met a page whose bytes are lost: it has stored nothing that depends on the page, and is skipped.
 */
static inline void end_lost_step(volatile HF_GUEST_SEGMENT struct hf_guest_status *status)
{
	add_one(&status->memory_errors);
	add_one(&status->skips);
	add_one(&status->step);
	steps_done++;
}

__attribute__((noreturn, flatten, section(".entry"))) void guest_entry(uint64_t vcpu, uint64_t memory_error)
{
	const HF_GUEST_SEGMENT struct hf_guest_header *header =
	    (const HF_GUEST_SEGMENT struct hf_guest_header *)HF_GUEST_HEADER_OFFSET;
	volatile HF_GUEST_SEGMENT struct hf_guest_status *status =
	    (volatile HF_GUEST_SEGMENT struct hf_guest_status *)header->status_offset + vcpu;

	if (memory_error)
		end_lost_step(status);
	forget_registers();
	for (;;)
		do_step(status, header);
}
