/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: when the process whose memory it is has gone, its userfaultfd fails COPY with ESRCH and raises
 * no message; it does not become readable. WAKE, which touches no memory, succeeds.
 *
 * Kernel: 4.11 (ESRCH; ENOSPC before).
 *
 * Relied on by: hugemem/fault_reader.c (only falls silent), hugemem/placer.c (names the VMM's exit).
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/platform/platform.h"

/* Registers its own copy of the mapping and says which descriptor that was. */
static void vmm_process(const struct ram *ram, int to_parent)
{
	say(to_parent, (uint8_t)uffd_of(ram, MISSING_FAULT, MISSING));
	for (;;)
		pause();
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	uint8_t *content = content_new(page_bytes, 1, 9);
	int from_vmm[2];

	must(pipe(from_vmm) == 0);
	pid_t vmm = platform_fork();
	if (vmm == 0)
		vmm_process(&ram, from_vmm[1]);
	int vmm_uffd = hear(from_vmm[0]);
	int pidfd = (int)syscall(SYS_pidfd_open, vmm, 0);
	must(pidfd >= 0);
	int uffd = (int)syscall(SYS_pidfd_getfd, pidfd, vmm_uffd, 0);
	must(uffd >= 0);
	/* The opposite. */
	expect_answer("COPY into another process", page_copy(uffd, &ram, 0, content), 0);
	expect(page_is_mapped(vmm, ram.vmm), "COPY did not reach the other process");

	must(kill(vmm, SIGKILL) == 0);
	must(platform_wait(vmm) == 128 + SIGKILL);
	expect_error("COPY into a process that has gone", page_copy(uffd, &ram, 1, content), ESRCH);
	expect_answer("WAKE in a process that has gone", page_wake(uffd, &ram, 1), 0);
	expect(uffd_is_silent(uffd), "the userfaultfd of a process that has gone is readable");
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "the userfaultfd of a gone process is ESRCH, and silent",
				    .show = show,
				    .pages = 1,
				    .giant_pages = 1,
				    .features = MISSING_FAULT});
}
