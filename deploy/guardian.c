/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guardian. Theory of operation.
 *
 * It is forked while the agent has one thread, and shares one page with it. It waits on a pidfd of the agent
 * that was opened before the fork, so the agent can never end unseen and no other process is taken for it.
 * The pidfd is readable when the last thread of the agent is gone: then nobody writes the page or the record
 * any more.
 *
 *     agent                                    guardian
 *     arm: pid, start time, target; armed      waits
 *     STOP, SAVE, FENCE
 *     record GIVEN_UP                          waits
 *     ends                                     armed? no: ends
 *                                              the record: GIVEN_UP or unreadable: says so, ends
 *                                              else SIGCONT, `cont` unless the VM runs, the VMM's settings
 *                                              as the record has them, says so, ends
 *
 * Armed is a word of its own because it is one atomic store, while a record is a file. It stays so after
 * GIVEN_UP, since an agent that takes the VM back needs it too: so the record is read.
 *
 * An agent that is killed while it freezes leaves a VMM that runs and has a SIGSTOP on the way. So SIGCONT is
 * sent whatever state the VMM is in: it takes back a stop that is under way as well.
 *
 * QEMU serves one client a QMP socket; the agent's connection has ended with it, but QEMU may not have
 * noticed, or may still be at the end of a `migrate` whose other end has gone. Everything is tried again for
 * RETRY_LIMIT_MS.
 *
 * The VMM is known by its pid and the time of its start, so that a VMM that ended before and whose pid is
 * another's now is never touched.
 *
 * The guardian must outlive what ends the agent: it is in a session of its own and ignores what a terminal or
 * a shell sends. Of the agent's descriptors it keeps stderr, and nothing that somebody waits for the end of.
 */
#include "deploy/guardian.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "deploy/monotonic.h"
#include "deploy/program.h"
#include "kvm/qmp_vm.h"
#include "kvm/vmm_process.h"

#define COMMAND		 "guardian"
#define PROCESS_NAME	 "hf-guardian"
#define RETRY_LIMIT_MS	 60000u
#define FIRST_PAUSE_MS	 5
#define LAST_PAUSE_MS	 500
#define CONFIRM_PAUSE_MS 100
#define NS_PER_MS	 1000000ull
#define TARGET_MAX_BYTES (sizeof("qmp:") + sizeof(((struct sockaddr_un *)0)->sun_path))

struct page {
	_Atomic bool armed; /* stored last, read first; the agent has ended by then */
	pid_t vmm;
	uint64_t vmm_start_ticks;
	char target[TARGET_MAX_BYTES];
};

struct hf_guardian {
	struct page *page; /* shared */
	pid_t pid;	   /* 0: none, or reaped */
};

/* ---- in the guardian ---- */

struct watch {
	const struct page *page;
	struct hf_guardian_config config;
	int agent_fd, ready_fd;
	char *settings; /* of the VMM, by the record; NULL: not known */
};

static void say_stuck(const struct page *page, const struct hf_err *why)
{
	hf_complain(
	    COMMAND,
	    "the agent was killed before the VM was handed over, and the VM could NOT be run again: %s; it "
	    "is the source's: do `kill -CONT %d` and give `cont` on %s",
	    why->text, (int)page->vmm, page->target);
}

static void say_gone(const struct page *page)
{
	hf_complain(
	    COMMAND,
	    "the agent was killed before the VM was handed over, and the source's VMM (pid %d) has ended: "
	    "the VM runs nowhere; start it anew on this host",
	    (int)page->vmm);
}

/* One attempt. A VM that runs is not let down for settings that cannot be put back. */
static int resume(const struct watch *watch, struct hf_err *settings_err, struct hf_err *err)
{
	struct hf_qmp_vm *vm = NULL;
	int r = hf_qmp_vm_create(&vm, watch->page->target, err);
	if (r == 0)
		r = hf_qmp_vm_resume(vm, err);
	*settings_err = HF_ERR_INIT;
	if (r == 0)
		hf_qmp_vm_put_back(vm, watch->settings, settings_err);
	hf_qmp_vm_destroy(vm);
	return r;
}

/* Again later, unless the VMM ends. */
static void pause_for(const struct hf_vmm_process *vmm, int pause_ms)
{
	struct pollfd set = {.fd = vmm->fd - 1, .events = POLLIN};
	poll(&set, 1, pause_ms);
}

/*
 * Until it was found running twice: a `stop` of the agent may still lie unread in the VMM, and is done before
 * the second look.
 */
static int keep_trying(const struct watch *watch, const struct hf_vmm_process *vmm,
		       struct hf_err *settings_err, struct hf_err *err)
{
	int pause_ms = FIRST_PAUSE_MS, r = 0;
	uint32_t limit_ms = watch->config.retry_limit_ms ? watch->config.retry_limit_ms : RETRY_LIMIT_MS;
	uint64_t deadline_ns = hf_monotonic_ns(NULL) + limit_ms * NS_PER_MS;
	for (int found = 0; found < 2;) {
		r = hf_vmm_thaw(vmm, err);
		if (r == 0)
			r = resume(watch, settings_err, err);
		found = r == 0 ? found + 1 : 0;
		if (r < 0 && (hf_vmm_has_ended(vmm) || hf_monotonic_ns(NULL) >= deadline_ns))
			return r;
		if (found < 2)
			pause_for(vmm, found ? CONFIRM_PAUSE_MS : pause_ms);
		if (pause_ms < LAST_PAUSE_MS)
			pause_ms *= 2;
	}
	return 0;
}

static void run_again(const struct watch *watch)
{
	const struct page *page = watch->page;
	struct hf_vmm_process vmm = {0};
	struct hf_err err = HF_ERR_INIT, settings_err = HF_ERR_INIT;
	int r = hf_vmm_open_same(&vmm, page->vmm, page->vmm_start_ticks, &err);
	if (r == 0)
		r = keep_trying(watch, &vmm, &settings_err, &err);
	if (r == 0)
		hf_complain(
		    COMMAND,
		    "the agent was killed before the VM was handed over: the source VM (pid %d) runs on%s%s",
		    (int)page->vmm,
		    settings_err.class ? ", but its migration settings are not what they were: " : "",
		    settings_err.class ? settings_err.text : "");
	else if (r == -ESRCH || (vmm.fd && hf_vmm_has_ended(&vmm)))
		say_gone(page);
	else
		say_stuck(page, &err);
	hf_vmm_close(&vmm);
}

static void recover(struct watch *watch)
{
	const struct page *page = watch->page;
	enum hf_record record = HF_RECORD_NONE;
	struct hf_err err = HF_ERR_INIT;
	if (watch->config.record(watch->config.opaque, &record, &watch->settings, &err) < 0)
		hf_complain(
		    COMMAND,
		    "the agent was killed, and whether the VM was handed over cannot be read: %s; the source "
		    "VM (pid %d, %s) is left as it is: see whether the destination runs it, and only if it "
		    "never will, do `kill -CONT %d` and give `cont`",
		    err.text, (int)page->vmm, page->target, (int)page->vmm);
	else if (record == HF_RECORD_GIVEN_UP)
		hf_complain(
		    COMMAND,
		    "the agent was killed after it had given the VM up: the source VM (pid %d) is left as it "
		    "is; start the agent again",
		    (int)page->vmm);
	else
		run_again(watch);
}

/* Only stderr and what it waits on stay open. */
static void close_inherited(struct watch *watch)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int agent_fd = fcntl(watch->agent_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	int ready_fd = fcntl(watch->ready_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	if (null < 0 || agent_fd < 0 || ready_fd < 0)
		_exit(1);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	int low = agent_fd < ready_fd ? agent_fd : ready_fd;
	int high = agent_fd < ready_fd ? ready_fd : agent_fd;
	close_range(STDERR_FILENO + 1, (unsigned)low - 1, 0);
	close_range((unsigned)low + 1, (unsigned)high - 1, 0);
	close_range((unsigned)high + 1, UINT_MAX, 0);
	watch->agent_fd = agent_fd;
	watch->ready_fd = ready_fd;
}

static void ignore_signals(void)
{
	static const int ignored[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2};
	sigset_t none;
	for (size_t i = 0; i < sizeof(ignored) / sizeof(ignored[0]); i++)
		signal(ignored[i], SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void __attribute__((noreturn)) be_guardian(struct watch *watch)
{
	setsid();
	ignore_signals();
	prctl(PR_SET_NAME, PROCESS_NAME);
	close_inherited(watch);
	if (write(watch->ready_fd, "", 1) != 1)
		_exit(1);
	close(watch->ready_fd);
	struct pollfd set = {.fd = watch->agent_fd, .events = POLLIN};
	while (poll(&set, 1, -1) <= 0)
		continue;
	if (atomic_load(&watch->page->armed))
		recover(watch);
	_exit(0);
}

/* ---- in the agent ---- */

static int start_failed(struct hf_guardian *guardian, int error, struct hf_err *err)
{
	hf_guardian_end(guardian);
	return hf_err_set(err, HF_ERR_LOCAL, error, "the guardian could not be started: %s", strerror(error));
}

static int open_agent(struct watch *watch, int ready[2])
{
	watch->agent_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (watch->agent_fd < 0)
		return -errno;
	if (pipe2(ready, O_CLOEXEC) == 0)
		return 0;
	int error = errno;
	close(watch->agent_fd);
	return -error;
}

/* 0 once the guardian waits for the agent's end. */
static int fork_guardian(struct hf_guardian *guardian, struct watch *watch)
{
	int ready[2] = {-1, -1};
	char byte;
	int r = open_agent(watch, ready);
	if (r < 0)
		return r;
	watch->ready_fd = ready[1];
	fflush(NULL); // nothing is written twice
	guardian->pid = fork();
	int error = errno;
	if (guardian->pid == 0)
		be_guardian(watch);
	close(watch->agent_fd);
	close(ready[1]);
	ssize_t got = 0;
	while (guardian->pid > 0 && (got = read(ready[0], &byte, 1)) < 0 && errno == EINTR)
		continue;
	while (got == 1 && read(ready[0], &byte, 1) != 0) // and has closed what it does not need
		continue;
	close(ready[0]);
	if (guardian->pid > 0)
		return got == 1 ? 0 : -ECHILD;
	guardian->pid = 0;
	return -error;
}

int hf_guardian_start(struct hf_guardian **out, const struct hf_guardian_config *config, struct hf_err *err)
{
	struct hf_guardian *guardian = calloc(1, sizeof(*guardian));
	if (!guardian)
		return start_failed(NULL, ENOMEM, err);
	void *page =
	    mmap(NULL, sizeof(*guardian->page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (page == MAP_FAILED)
		return start_failed(guardian, errno, err);
	guardian->page = page;
	struct watch watch = {.page = page, .config = *config};
	int r = fork_guardian(guardian, &watch);
	if (r < 0)
		return start_failed(guardian, -r, err);
	*out = guardian;
	return 0;
}

/* A guardian that has ended is reaped here. */
static bool lives(struct hf_guardian *guardian)
{
	if (guardian->pid && waitpid(guardian->pid, NULL, WNOHANG) != 0)
		guardian->pid = 0;
	return guardian->pid != 0;
}

int hf_guardian_arm(struct hf_guardian *guardian, pid_t vmm, const char *target, struct hf_err *err)
{
	struct hf_vmm_process process = {0};
	struct page *page = guardian->page;
	if (strlen(target) >= sizeof(page->target))
		return hf_err_set(err, HF_ERR_LOCAL, ENAMETOOLONG, "the QMP socket's path is too long: %s",
				  target);
	int r = hf_vmm_open(&process, vmm, err);
	if (r < 0)
		return r;
	hf_guardian_disarm(guardian);
	page->vmm = vmm;
	page->vmm_start_ticks = process.start_ticks;
	snprintf(page->target, sizeof(page->target), "%s", target);
	hf_vmm_close(&process);
	if (!lives(guardian))
		return hf_err_set(
		    err, HF_ERR_LOCAL, ECHILD,
		    "the guardian process, which would run the VM again if this one was killed, is gone; "
		    "the VM is not stopped without it");
	atomic_store(&page->armed, true);
	return 0;
}

void hf_guardian_disarm(struct hf_guardian *guardian)
{
	atomic_store(&guardian->page->armed, false);
}

pid_t hf_guardian_pid(const struct hf_guardian *guardian)
{
	return guardian->pid;
}

void hf_guardian_end(struct hf_guardian *guardian)
{
	if (!guardian)
		return;
	if (guardian->pid) {
		kill(guardian->pid, SIGKILL); // not reaped, so the pid is its own
		while (waitpid(guardian->pid, NULL, 0) < 0 && errno == EINTR)
			continue;
	}
	if (guardian->page)
		munmap(guardian->page, sizeof(*guardian->page));
	free(guardian);
}
