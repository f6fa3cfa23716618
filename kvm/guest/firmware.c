/* SPDX-License-Identifier: Apache-2.0 */
/*
 * firmware.c - what a PC (QEMU's) runs first, in place of a BIOS: it starts the guest program on every vCPU.
 *
 * Theory of operation. The guest's memory, program and page tables included, lies in the RAM file before the
 * PC is switched on; only the way from the reset vector into the program is missing. It uses no memory, so
 * that nothing but the program writes any. The 64 KiB of this image end at 4 GiB and are seen below 1 MiB as
 * well:
 *
 *     0xf0000     entry    of the other vCPUs (the startup message names a page), and of the first by a jump
 *     0xffff0     reset    the first vCPU, in real mode
 *
 * A vCPU's number is its APIC's. The first one starts all others, whose way is the same but for that. The PC
 * has no RAM from 0xa0000 to 1 MiB: the program's system part must end below (the loader sees to it), and
 * data pages lie above.
 */
#include "kvm/guest/layout.h"

#define FLAT_CODE     0x08
#define FLAT_DATA     0x10
#define LONG_CODE     0x18
#define SEGMENT	      0xf0000
#define MSR_APIC_BASE 0x1b
#define FIRST_VCPU    (1 << 8) /* in it */
#define MSR_EFER      0xc0000080
#define APIC_ID	      0xfee00020
#define APIC_ICR      0xfee00300
#define INIT_OTHERS   0xc4500
#define START_OTHERS  (0xc4600 | SEGMENT >> 12)
#define PAUSE_ROUNDS  1000 /* between the two messages */
#define CR0_PROTECTED 0x1
#define CR0_LONG      0x80050033 /* as the reference VMM's */
#define CR4_PAE	      0x20
#define EFER_LME      0x100

__attribute__((noreturn, section(".entry"))) void firmware_entry(void)
{
	asm volatile(".code16\n"
		     "	cli\n"
		     "	lgdtl	%%cs:descriptors - firmware_entry\n"
		     "	movl	%%cr0, %%eax\n"
		     "	orl	%[protected], %%eax\n"
		     "	movl	%%eax, %%cr0\n"
		     "	ljmpl	%[flat_code], $%c[segment] + flat - firmware_entry\n"

		     ".code32\n"
		     "flat:	movl	%[flat_data], %%eax\n"
		     "	movl	%%eax, %%ds\n"
		     "	movl	%%eax, %%es\n"
		     "	movl	%%eax, %%fs\n"
		     "	movl	%%eax, %%gs\n"
		     "	movl	%%eax, %%ss\n"
		     "	movl	%[msr_apic_base], %%ecx\n"
		     "	rdmsr\n"
		     "	testl	%[first_vcpu], %%eax\n"
		     "	jz	number\n"
		     "	movl	%[init_others], %c[apic_icr]\n"
		     "	movl	%[pause], %%ecx\n"
		     "wait:	loop	wait\n"
		     "	movl	%[start_others], %c[apic_icr]\n"
		     "number:	movl	%c[apic_id], %%ebx\n"
		     "	shrl	$24, %%ebx\n"

		     "	movl	%[cr4], %%eax\n"
		     "	movl	%%eax, %%cr4\n"
		     "	movl	%[tables], %%eax\n"
		     "	movl	%%eax, %%cr3\n"
		     "	movl	%[msr_efer], %%ecx\n"
		     "	rdmsr\n"
		     "	orl	%[efer_lme], %%eax\n"
		     "	wrmsr\n"
		     "	movl	%[cr0_long], %%eax\n"
		     "	movl	%%eax, %%cr0\n"
		     "	ljmpl	%[long_code], $%c[segment] + long - firmware_entry\n"

		     ".code64\n"
		     "long:	movl	%%ebx, %%edi\n"
		     "	xorl	%%esi, %%esi\n"
		     "	xorl	%%esp, %%esp\n"
		     "	xorl	%%r15d, %%r15d\n"
		     "	movl	%[text], %%eax\n"
		     "	jmp	*%%rax\n"

		     "	.balign	8\n"
		     "table:	.quad	0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff\n"
		     "descriptors: .word . - table - 1\n"
		     "	.long	%c[segment] + table - firmware_entry\n"

		     "	.section .reset, \"ax\"\n"
		     ".code16\n"
		     "	jmp	firmware_entry\n"
		     ".code64\n"
		     "	.section .entry\n"
		     :
		     : [protected] "i"(CR0_PROTECTED), [cr0_long] "i"(CR0_LONG), [cr4] "i"(CR4_PAE),
		       [msr_efer] "i"(MSR_EFER), [efer_lme] "i"(EFER_LME), [segment] "i"(SEGMENT),
		       [flat_code] "i"(FLAT_CODE), [flat_data] "i"(FLAT_DATA), [long_code] "i"(LONG_CODE),
		       [msr_apic_base] "i"(MSR_APIC_BASE), [first_vcpu] "i"(FIRST_VCPU),
		       [init_others] "i"(INIT_OTHERS), [start_others] "i"(START_OTHERS),
		       [apic_icr] "i"(APIC_ICR), [apic_id] "i"(APIC_ID), [pause] "i"(PAUSE_ROUNDS),
		       [tables] "i"(HF_GUEST_TABLES_OFFSET), [text] "i"(HF_GUEST_TEXT_OFFSET));
	__builtin_unreachable();
}
