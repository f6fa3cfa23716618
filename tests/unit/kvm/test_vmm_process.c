/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Claims about VMM processes, checked with children of several threads that count in shared memory. A child
 * that waits for a vfork is one that SIGSTOP does not reach.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm/vmm_process.h"

#define THREADS	       4
#define SHORT_LIMIT_MS 30u
#define LIMIT_MS       20000

struct shared {
	_Atomic uint64_t counts[THREADS];
	_Atomic int blocked_child; /* pid of the vfork's child */
};

struct fixture {
	struct shared *shared;
	pid_t pid;
	int ready_fd, hold_fd; /* from the child; to it, closed to let a vfork's child go */
	struct hf_vmm_process vmm;
};

static void *count(void *opaque)
{
	_Atomic uint64_t *counter = opaque;
	for (;;) {
		++*counter;
		sched_yield();
	}
	return NULL;
}

/* As a VMM has them: threads that run, and one that waits in the kernel. */
static void run_threads(struct fixture *fixture)
{
	pthread_t id;
	for (int i = 0; i < THREADS; i++)
		if (pthread_create(&id, NULL, count, &fixture->shared->counts[i]) != 0)
			_exit(2);
}

/* Waits as in a vfork, whose child here has memory of its own, until hold_fd is closed. */
static void block(struct shared *shared, int hold_fd)
{
	char byte;
	if (syscall(SYS_clone, CLONE_VFORK | SIGCHLD, NULL, NULL, NULL, NULL) == 0) {
		shared->blocked_child = getpid();
		ssize_t ignored = read(hold_fd, &byte, 1);
		(void)ignored;
		_exit(0);
	}
}

static void be_vmm(struct fixture *fixture, int ready_fd, int hold_fd, bool blocks)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	prctl(PR_SET_NAME, "odd) S (name");
	run_threads(fixture);
	if (write(ready_fd, "", 1) != 1)
		_exit(2);
	if (blocks)
		block(fixture->shared, hold_fd);
	for (;;)
		pause();
}

static void start(struct fixture *fixture, bool blocks)
{
	struct hf_err err = HF_ERR_INIT;
	int ready[2], hold[2];
	char byte;
	assert_return_code(pipe2(ready, O_CLOEXEC), errno);
	assert_return_code(pipe2(hold, O_CLOEXEC), errno);
	fixture->pid = fork();
	assert_return_code(fixture->pid, errno);
	if (fixture->pid == 0) {
		close(hold[1]);
		be_vmm(fixture, ready[1], hold[0], blocks);
	}
	close(ready[1]);
	close(hold[0]);
	fixture->hold_fd = hold[1];
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	assert_int_equal(hf_vmm_open(&fixture->vmm, fixture->pid, &err), 0);
}

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	fixture->shared =
	    mmap(NULL, sizeof(*fixture->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(fixture->shared, MAP_FAILED);
	fixture->hold_fd = -1;
	*state = fixture;
	return 0;
}

static void reap(struct fixture *fixture)
{
	assert_int_equal(waitpid(fixture->pid, NULL, 0), fixture->pid);
	fixture->pid = 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;
	if (fixture->hold_fd >= 0)
		close(fixture->hold_fd);
	if (fixture->pid > 0) {
		kill(fixture->pid, SIGKILL);
		reap(fixture);
	}
	hf_vmm_close(&fixture->vmm);
	munmap(fixture->shared, sizeof(*fixture->shared));
	free(fixture);
	return 0;
}

static void await(const struct fixture *fixture, bool (*holds)(const struct fixture *))
{
	for (int i = 0; !holds(fixture); i++) {
		assert_true(i < LIMIT_MS);
		poll(NULL, 0, 1);
	}
}

static bool counts_more(const struct fixture *fixture)
{
	static uint64_t before[THREADS];
	bool more = true;
	for (int i = 0; i < THREADS; i++)
		more = more && fixture->shared->counts[i] > before[i];
	for (int i = 0; more && i < THREADS; i++)
		before[i] = fixture->shared->counts[i];
	return more;
}

static bool is_blocked(const struct fixture *fixture)
{
	char path[64], text[256] = "";
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)fixture->pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t got = read(fd, text, sizeof(text) - 1);
	close(fd);
	const char *state = strrchr(text, ')');
	return got > 0 && state && state[2] == 'D' && fixture->shared->blocked_child > 0;
}

static uint64_t sum(const struct fixture *fixture)
{
	uint64_t sum = 0;
	for (int i = 0; i < THREADS; i++)
		sum += fixture->shared->counts[i];
	return sum;
}

static void fence(const struct fixture *fixture)
{
	struct hf_err err = HF_ERR_INIT;
	if (hf_vmm_fence(&fixture->vmm, HF_VMM_FENCE_LIMIT_MS, &err) < 0)
		fail_msg("%s", err.text);
}

static void no_thread_moves_once_fenced_and_all_do_once_thawed(void **state)
{
	struct fixture *fixture = *state;
	start(fixture, false);
	for (int i = 0; i < 50; i++) {
		await(fixture, counts_more);
		assert_false(hf_vmm_is_fenced(&fixture->vmm));
		fence(fixture);
		uint64_t before = sum(fixture);
		assert_true(hf_vmm_is_fenced(&fixture->vmm));
		sched_yield(); // a thread that runs would count
		assert_int_equal(sum(fixture), before);
		assert_int_equal(hf_vmm_thaw(&fixture->vmm, NULL), 0);
	}
	await(fixture, counts_more);
}

static void a_fenced_vmm_is_fenced_again_and_a_running_one_thawed_again(void **state)
{
	struct fixture *fixture = *state;
	start(fixture, false);
	fence(fixture);
	fence(fixture);
	assert_int_equal(hf_vmm_thaw(&fixture->vmm, NULL), 0);
	assert_int_equal(hf_vmm_thaw(&fixture->vmm, NULL), 0);
	await(fixture, counts_more);
}

static void a_fenced_vmm_can_be_killed(void **state)
{
	struct fixture *fixture = *state;
	start(fixture, false);
	fence(fixture);
	assert_int_equal(hf_vmm_kill(&fixture->vmm, HF_VMM_KILL_LIMIT_MS, NULL), 0);
	assert_true(hf_vmm_has_ended(&fixture->vmm));
	reap(fixture);
}

static void a_vmm_that_has_ended_is_an_error_to_all_but_kill(void **state)
{
	struct fixture *fixture = *state;
	start(fixture, false);
	for (int reaped = 0; reaped < 2; reaped++) {
		struct hf_err err = HF_ERR_INIT;
		assert_int_equal(hf_vmm_kill(&fixture->vmm, HF_VMM_KILL_LIMIT_MS, NULL), 0);
		assert_int_equal(hf_vmm_fence(&fixture->vmm, HF_VMM_FENCE_LIMIT_MS, &err), -ESRCH);
		assert_non_null(strstr(err.text, "has ended"));
		assert_int_equal(hf_vmm_thaw(&fixture->vmm, NULL), -ESRCH);
		assert_false(hf_vmm_is_fenced(&fixture->vmm));
		if (!reaped)
			reap(fixture);
	}
}

static void a_vmm_blocked_in_the_kernel_is_an_error_that_names_the_thread_and_no_hang(void **state)
{
	struct fixture *fixture = *state;
	struct hf_err err = HF_ERR_INIT;
	char thread[64];
	start(fixture, true);
	await(fixture, is_blocked);
	assert_int_equal(hf_vmm_fence(&fixture->vmm, SHORT_LIMIT_MS, &err), -ETIMEDOUT);
	snprintf(thread, sizeof(thread), "thread %d (odd) S (name) is in state D", (int)fixture->pid);
	if (!strstr(err.text, thread) || !strstr(err.text, "blocked in the kernel"))
		fail_msg("'%s' does not say '%s'", err.text, thread);
	assert_false(hf_vmm_is_fenced(&fixture->vmm));
	// Its other threads stand still, and go on when it is thawed.
	assert_int_equal(hf_vmm_thaw(&fixture->vmm, NULL), 0);
	await(fixture, counts_more);
	close(fixture->hold_fd);
	fixture->hold_fd = -1;
	fence(fixture);
}

static void a_vmm_under_a_debugger_is_not_taken_for_fenced(void **state)
{
	struct fixture *fixture = *state;
	struct hf_err err = HF_ERR_INIT;
	start(fixture, false);
	if (ptrace(PTRACE_SEIZE, fixture->pid, NULL, NULL) < 0) {
		print_message("no ptrace: %s\n", strerror(errno));
		skip();
	}
	ptrace(PTRACE_INTERRUPT, fixture->pid, NULL, NULL);
	assert_int_equal(hf_vmm_fence(&fixture->vmm, SHORT_LIMIT_MS, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "debugger"));
	assert_int_equal(hf_vmm_kill(&fixture->vmm, HF_VMM_KILL_LIMIT_MS, NULL), 0);
}

static void a_process_is_known_by_its_start_too(void **state)
{
	struct fixture *fixture = *state;
	struct hf_vmm_process same = {0}, other = {0};
	start(fixture, false);
	assert_true(fixture->vmm.start_ticks > 0);
	assert_int_equal(hf_vmm_open_same(&same, fixture->pid, fixture->vmm.start_ticks, NULL), 0);
	hf_vmm_close(&same);
	assert_int_equal(hf_vmm_open_same(&other, fixture->pid, fixture->vmm.start_ticks + 1, NULL), -ESRCH);
	assert_int_equal(other.fd, 0);
}

static void this_program_and_init_are_never_taken_for_a_vmm(void **state)
{
	(void)state;
	struct hf_vmm_process self = {0}, none = {0};
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_vmm_open(&none, 1, &err), -EINVAL);
	assert_int_equal(hf_vmm_open(&none, 0, &err), -EINVAL);
	assert_non_null(strstr(err.text, "container"));
	assert_int_equal(hf_vmm_open(&self, getpid(), NULL), 0);
	assert_int_equal(hf_vmm_fence(&self, SHORT_LIMIT_MS, NULL), -EINVAL);
	assert_int_equal(hf_vmm_kill(&self, SHORT_LIMIT_MS, NULL), -EINVAL);
	hf_vmm_close(&self);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(no_thread_moves_once_fenced_and_all_do_once_thawed),
	    TEST(a_fenced_vmm_is_fenced_again_and_a_running_one_thawed_again),
	    TEST(a_fenced_vmm_can_be_killed),
	    TEST(a_vmm_that_has_ended_is_an_error_to_all_but_kill),
	    TEST(a_vmm_blocked_in_the_kernel_is_an_error_that_names_the_thread_and_no_hang),
	    TEST(a_vmm_under_a_debugger_is_not_taken_for_fenced),
	    TEST(a_process_is_known_by_its_start_too),
	    TEST(this_program_and_init_are_never_taken_for_a_vmm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
