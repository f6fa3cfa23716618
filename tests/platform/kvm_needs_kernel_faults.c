/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: with a userfaultfd for user-mode faults only, KVM_RUN does not wait for a missing page, and no
 * message comes: it fails with EFAULT, or, where KVM emulates the guest's instructions, takes the page for a
 * device.
 *
 * Kernel: 5.11 (UFFD_USER_MODE_ONLY).
 *
 * Relied on by: hugemem/uffd_open.c, hugemem/incoming_memory.c (refuses without kernel faults),
 * kvm/vmm/vcpu.c (an access where nothing is ends the machine).
 */
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/platform/platform_kvm.h"

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 1);
	struct vm vm = vm_new(&ram);
	int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	struct uffdio_api api = {.api = UFFD_API, .features = MISSING_FAULT};
	uint8_t *content = content_new(page_bytes, 1, 9);
	uint32_t word = 0;

	if (uffd < 0)
		platform_lacks("UFFD_USER_MODE_ONLY (Linux 5.11)");
	must(ioctl(uffd, UFFDIO_API, &api) == 0);
	uffd_add(uffd, ram.vmm, page_bytes, MISSING);
	int result = vm_read(&vm, &ram, 0, 0, &word);
	expect(vm_access_failed(result), "KVM_RUN on a missing page is answered with %d", result);
	expect(uffd_is_silent(uffd), "a guest's access raises a message in user mode only");
	/* The opposite. */
	must(page_copy(uffd, &ram, 0, content) == 0);
	expect_answer("KVM_RUN on a page that is there", vm_read(&vm, &ram, 0, 0, &word), 0);
	expect(word == 9, "the guest reads %x where 9 was placed", word);
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "with user-mode faults only KVM_RUN fails on a missing page",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = MISSING_FAULT});
}
