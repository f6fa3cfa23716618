/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a guest's access to a poisoned page fails: KVM_RUN returns, with SIGBUS for the vCPU's thread,
 * EFAULT, or, where KVM emulates the guest's instructions, as if the page were a device. Other pages stay as
 * they are.
 *
 * Kernel: 6.6 (POISON).
 *
 * Relied on by: kvm/vmm/memory_error.c (it becomes a memory error of the guest), hugemem/userfault.h.
 */
#include <signal.h>

#include "tests/platform/platform_kvm.h"

/* KVM_RUN returns when a handler has run. */
static void go_on(int number)
{
	(void)number;
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	struct vm vm = vm_new(&ram);
	int uffd = uffd_of(&ram, BOTH_FAULTS | UFFD_FEATURE_POISON, BOTH);
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct sigaction action = {.sa_handler = go_on};
	uint32_t word = 0;

	must(sigaction(SIGBUS, &action, NULL) == 0);
	must(page_poison(uffd, &ram, 0) == 0);
	must(page_copy(uffd, &ram, 1, content) == 0);
	int result = vm_read(&vm, &ram, 0, 0, &word);
	expect(vm_access_failed(result), "KVM_RUN on a poisoned page is answered with %d", result);
	expect(word == 0, "the guest reads something of a poisoned page");
	/* The opposite. */
	expect_answer("KVM_RUN on a page beside a poisoned one", vm_read(&vm, &ram, 1, 0, &word), 0);
	expect(word == 9, "the guest reads %x where 9 was placed", word);
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a guest's access to a poisoned page fails",
						    .show = show,
						    .pages = 1,
						    .giant_pages = 1,
						    .features = BOTH_FAULTS | UFFD_FEATURE_POISON});
}
