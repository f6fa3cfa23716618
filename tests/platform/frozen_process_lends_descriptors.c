/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: pidfd_getfd() duplicates descriptors of a process that is stopped, and the process stays so. A
 * userfaultfd got in this way works on its memory: COPY, CONTINUE and WAKE. A REGISTER for minor faults that
 * reaches from registered memory to the stack fails with EBUSY if another userfaultfd has that memory, and
 * with EINVAL, because of the stack, if it is its own or nobody's; it changes nothing.
 *
 * Kernel: 5.6 (pidfd_getfd), 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: hugemem/attach_client_adopt.c (memory is taken over from a VMM that may not run yet).
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugemem/process_stat.h"
#include "hugemem/residency.h"
#include "tests/platform/platform.h"

struct frozen {
	pid_t pid;
	int pidfd, tells_fd;
	struct ram ram;	    /* at the same place in both processes */
	int owner, other;   /* userfaultfds of its, duplicated; the first has the memory */
	uint64_t stack_end; /* of its highest mapping that no userfaultfd takes for minor faults */
};

static void be_frozen(const struct ram *ram, int tells_fd)
{
	int other = uffd_new(BOTH_FAULTS), owner = uffd_of(ram, BOTH_FAULTS, BOTH);

	say(tells_fd, (uint8_t)owner);
	say(tells_fd, (uint8_t)other);
	say(tells_fd, ram->vmm[0]); /* waits for the page, is stopped, and waits again */
	_exit(0);
}

static int duplicate(const struct frozen *frozen, int number)
{
	int fd = pidfd_getfd(frozen->pidfd, number, 0);

	if (fd < 0 && errno == ENOSYS)
		platform_lacks("no pidfd_getfd()");
	expect(fd >= 0, "a descriptor of a stopped process cannot be duplicated (%d)", errno);
	return fd;
}

static void expect_frozen(const struct frozen *frozen)
{
	struct hf_process_stat stat;

	must(hf_process_stat(frozen->pid, &stat) == 0);
	expect(stat.state == 'T', "a process that is looked into is not stopped any more (%c)", stat.state);
}

static void look_at_mappings(struct frozen *frozen, bool registered)
{
	struct hf_vmm_mappings mappings = {0};

	must(hf_vmm_mappings_load(frozen->pid, &mappings, NULL) == 0);
	for (size_t i = 0; i < mappings.count; i++) {
		const struct hf_vmm_mapping *mapping = &mappings.list[i];
		if (mapping->start == (uintptr_t)frozen->ram.vmm)
			expect(mapping->missing_faults == registered && mapping->minor_faults == registered,
			       "a REGISTER that failed has changed the registration");
		else
			expect(!mapping->waits_for_pages, "a REGISTER that failed has registered memory");
		if (!mapping->shared && mapping->inode == 0 && mapping->end < INT64_MAX)
			frozen->stack_end = mapping->end;
	}
	hf_vmm_mappings_free(&mappings);
	must(frozen->stack_end > (uintptr_t)frozen->ram.vmm + frozen->ram.length_bytes);
}

static int register_to_the_stack(const struct frozen *frozen, int uffd)
{
	uint64_t start = (uintptr_t)frozen->ram.vmm;
	struct uffdio_register request = {.range = {.start = start, .len = frozen->stack_end - start},
					  .mode = MINOR};

	return ioctl(uffd, UFFDIO_REGISTER, &request) ? -errno : 0;
}

static void freeze(struct frozen *frozen, uint64_t page_bytes)
{
	int ends[2], status;

	frozen->ram = ram_new(page_bytes, 2);
	must(pipe(ends) == 0);
	frozen->tells_fd = ends[0];
	frozen->pid = platform_fork();
	if (frozen->pid == 0)
		be_frozen(&frozen->ram, ends[1]);
	int owner = hear(ends[0]), other = hear(ends[0]);
	frozen->pidfd = pidfd_open(frozen->pid, 0);
	must(frozen->pidfd >= 0 && kill(frozen->pid, SIGSTOP) == 0);
	must(waitpid(frozen->pid, &status, WUNTRACED) == frozen->pid && WIFSTOPPED(status));
	frozen->owner = duplicate(frozen, owner);
	frozen->other = duplicate(frozen, other);
}

static void show(uint64_t page_bytes)
{
	struct frozen frozen = {0};

	freeze(&frozen, page_bytes);
	look_at_mappings(&frozen, true);
	expect_error("REGISTER of memory of its own up to the stack",
		     register_to_the_stack(&frozen, frozen.owner), EINVAL);
	expect_error("REGISTER of another one's memory up to the stack",
		     register_to_the_stack(&frozen, frozen.other), EBUSY);
	look_at_mappings(&frozen, true);

	page_mark(ram_alias(&frozen.ram, 0), page_bytes, 5);
	expect_answer("CONTINUE in a stopped process", page_continue(frozen.owner, &frozen.ram, 0), 0);
	expect_answer("COPY in a stopped process",
		      page_copy(frozen.owner, &frozen.ram, 1, content_new(page_bytes, 1, 6)), 0);
	expect_answer("WAKE in a stopped process", page_wake(frozen.owner, &frozen.ram, 0), 0);
	expect(page_is_mapped(frozen.pid, frozen.ram.vmm) &&
		   page_is_mapped(frozen.pid, ram_vmm(&frozen.ram, 1)),
	       "what was placed in a stopped process is not there");
	expect_frozen(&frozen);

	must(kill(frozen.pid, SIGCONT) == 0);
	expect(hear(frozen.tells_fd) == 5,
	       "it reads something else than what was placed while it was stopped");
	must(platform_wait(frozen.pid) == 0);
	expect(pidfd_getfd(frozen.pidfd, 0, 0) < 0 && errno == ESRCH,
	       "a process that has ended has descriptors");
}

static void open_and_wait(int tells_fd)
{
	say(tells_fd, (uint8_t)uffd_new(BOTH_FAULTS));
	pause();
}

/* The opposite: memory that nobody has registered is nobody's afterwards, too. */
static void show_nobodys(uint64_t page_bytes)
{
	struct frozen frozen = {.ram = ram_new(page_bytes, 1)};
	int ends[2];

	must(pipe(ends) == 0);
	frozen.pid = platform_fork();
	if (frozen.pid == 0)
		open_and_wait(ends[1]);
	int number = hear(ends[0]);
	frozen.pidfd = pidfd_open(frozen.pid, 0);
	must(frozen.pidfd >= 0 && kill(frozen.pid, SIGSTOP) == 0);
	frozen.owner = duplicate(&frozen, number);
	look_at_mappings(&frozen, false);
	expect_error("REGISTER of nobody's memory up to the stack",
		     register_to_the_stack(&frozen, frozen.owner), EINVAL);
	look_at_mappings(&frozen, false);
}

static void show_both(uint64_t page_bytes)
{
	show(page_bytes);
	show_nobodys(page_bytes);
}

int main(void)
{
	return platform_run(&(struct platform_fact){
	    .claim = "a stopped process's descriptors can be had, and it stays stopped",
	    .show = show_both,
	    .pages = 3,
	    .giant_pages = 3,
	    .features = BOTH_FAULTS});
}
