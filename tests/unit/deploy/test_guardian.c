/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Claims about the guardian. The agent is a child process that arms its guardian for a stopped VM and is
 * killed. This process is the reaper of its orphans, so a guardian that outlives its job would be seen.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "deploy/guardian.h"
#include "deploy/monotonic.h"
#include "kvm/vmm_process.h"
#include "tests/unit/kvm/fake_vm.h"
#include "tests/unit/kvm/raw_qmp.h"

#define LIMIT_MS       20000 /* a second is the promise, on a machine with nothing else to do */
#define PLAYED_MS      1000
#define UNREADABLE     HF_RECORDS
#define SAID_MAX_BYTES 4096

/* What the agent does before it is killed. */
struct play {
	bool armed, disarmed, frozen, exits;
	int record; /* enum hf_record or UNREADABLE */
	const char *settings;
};

struct shared {
	pid_t guardian;
	uint32_t calls; /* of the hook */
};

struct fixture {
	struct raw_directory directory;
	struct fake_vm machine;
	struct hf_vmm_process vmm;
	struct shared *shared;
	struct play play;
	pid_t agent;
	int stderr_fd;
	char said[SAID_MAX_BYTES];
};

static int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	raw_directory_make(&fixture->directory);
	fixture->shared =
	    mmap(NULL, sizeof(*fixture->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(fixture->shared, MAP_FAILED);
	*state = fixture;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fixture = *state;
	hf_vmm_close(&fixture->vmm);
	fake_vm_stop(&fixture->machine);
	unlink(fixture->directory.socket_path);
	raw_directory_remove(&fixture->directory);
	munmap(fixture->shared, sizeof(*fixture->shared));
	free(fixture);
	// No process is left.
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	assert_int_equal(errno, ECHILD);
	return 0;
}

/* ---- the agent --------------------------------------------------------------------------------- */

static int read_record(void *opaque, enum hf_record *record, char **settings, struct hf_err *err)
{
	struct fixture *fixture = opaque;
	fixture->shared->calls++;
	if (fixture->play.record == UNREADABLE)
		return hf_err_set(err, HF_ERR_LOCAL, EIO, "the record is torn");
	*record = (enum hf_record)fixture->play.record;
	*settings = strdup(fixture->play.settings ? fixture->play.settings : "unchanged");
	return 0;
}

static void check(bool holds)
{
	if (!holds)
		_exit(3);
}

static void be_agent(struct fixture *fixture, int ready_fd)
{
	struct hf_guardian *guardian = NULL;
	struct hf_guardian_config config = {
	    .record = read_record, .opaque = fixture, .retry_limit_ms = PLAYED_MS};
	check(hf_guardian_start(&guardian, &config, NULL) == 0);
	fixture->shared->guardian = hf_guardian_pid(guardian);
	if (fixture->play.armed)
		check(hf_guardian_arm(guardian, fixture->machine.pid, fixture->directory.socket_path, NULL) ==
		      0);
	if (fixture->play.frozen)
		check(hf_vmm_fence(&fixture->vmm, HF_VMM_FENCE_LIMIT_MS, NULL) == 0);
	if (fixture->play.disarmed)
		hf_guardian_disarm(guardian);
	check(write(ready_fd, "", 1) == 1);
	if (fixture->play.exits)
		_exit(0);
	for (;;)
		pause();
}

static void start_agent(struct fixture *fixture, struct play play, struct fake_vm_script script)
{
	int ready[2], said[2];
	char byte;
	script.socket_path = fixture->directory.socket_path;
	script.status = "paused"; // the agent has stopped it
	fake_vm_start(&fixture->machine, &script);
	assert_int_equal(hf_vmm_open(&fixture->vmm, fixture->machine.pid, NULL), 0);
	fixture->play = play;
	assert_return_code(pipe2(ready, O_CLOEXEC), errno);
	assert_return_code(pipe2(said, O_CLOEXEC), errno);
	fixture->agent = fork();
	assert_return_code(fixture->agent, errno);
	if (fixture->agent == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		dup2(said[1], STDERR_FILENO);
		be_agent(fixture, ready[1]);
	}
	close(ready[1]);
	close(said[1]);
	fixture->stderr_fd = said[0];
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
}

/* Until nobody holds stderr, so that nobody has more to say. */
static void hear(struct fixture *fixture)
{
	ssize_t got;
	size_t used = 0;
	while ((got = read(fixture->stderr_fd, fixture->said + used, sizeof(fixture->said) - 1 - used)) > 0)
		used += (size_t)got;
	close(fixture->stderr_fd);
}

static void expect_guardian_ended(const struct fixture *fixture)
{
	int status;
	assert_int_equal(waitpid(fixture->shared->guardian, &status, 0), fixture->shared->guardian);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* Kills the agent, hears the guardian to its end. */
static void end_agent(struct fixture *fixture)
{
	if (!fixture->play.exits)
		kill(fixture->agent, SIGKILL);
	assert_int_equal(waitpid(fixture->agent, NULL, 0), fixture->agent);
	hear(fixture);
	expect_guardian_ended(fixture);
}

static void expect_said(const struct fixture *fixture, const char *words)
{
	const char *end = strchr(fixture->said, '\n');
	if (!strstr(fixture->said, words) || !end || end[1])
		fail_msg("'%s' is not one line with '%s'", fixture->said, words);
}

/* ---- what became of the VM --------------------------------------------------------------------- */

static void expect_status(const struct fixture *fixture, const char *status)
{
	struct raw_qmp raw;
	char answer[128];
	snprintf(answer, sizeof(answer),
		 "{\"return\": {\"status\": \"%s\", \"running\": %s, \"singlestep\": false}}", status,
		 strcmp(status, "running") ? "false" : "true");
	raw_negotiate(&raw, fixture->directory.socket_path);
	raw_send(&raw, "{\"execute\": \"query-status\"}\n");
	raw_expect(&raw, answer);
	raw_close(&raw);
}

static void expect_untouched(const struct fixture *fixture)
{
	assert_int_equal(hf_vmm_is_fenced(&fixture->vmm), fixture->play.frozen);
	assert_false(fake_vm_has_run(&fixture->machine));
	if (fixture->play.frozen)
		assert_int_equal(hf_vmm_thaw(&fixture->vmm, NULL), 0);
	expect_status(fixture, "paused");
}

/* From the kill of the agent on. */
static double kill_and_wait_until_it_runs_ms(struct fixture *fixture)
{
	uint64_t start_ns = hf_monotonic_ns(NULL);
	kill(fixture->agent, SIGKILL);
	for (int i = 0; !fake_vm_has_run(&fixture->machine); i++) {
		assert_true(i < LIMIT_MS);
		poll(NULL, 0, 1);
	}
	return (double)(hf_monotonic_ns(NULL) - start_ns) / 1e6;
}

/* ---- claims ------------------------------------------------------------------------------------ */

static void expect_runs(struct fixture *fixture, struct play play)
{
	start_agent(fixture, play, (struct fake_vm_script){0});
	double ms = kill_and_wait_until_it_runs_ms(fixture);
	print_message("it ran after %.1f ms\n", ms);
	end_agent(fixture);
	expect_status(fixture, "running");
	expect_said(fixture,
		    "hugeferry guardian: the agent was killed before the VM was handed over: the source VM");
}

static void an_agent_killed_while_armed_leaves_a_vm_that_runs(void **state)
{
	expect_runs(*state, (struct play){.armed = true});
}

static void a_frozen_vmm_is_thawed_and_its_vm_runs(void **state)
{
	expect_runs(*state, (struct play){.armed = true, .frozen = true});
}

static void a_vm_that_was_taken_back_runs(void **state)
{
	expect_runs(*state, (struct play){.armed = true, .frozen = true, .record = HF_RECORD_TAKEN_BACK});
}

static void the_vmm_has_the_settings_again_that_the_record_names(void **state)
{
	struct raw_qmp raw;
	struct fixture *fixture = *state;
	expect_runs(fixture, (struct play){.armed = true, .settings = "xbzrle=on return-path=off"});
	raw_negotiate(&raw, fixture->directory.socket_path);
	raw_send(&raw, "{\"execute\": \"query-migrate-capabilities\"}\n");
	raw_expect(&raw, "{\"return\": [\"*\", \"*\", {\"capability\": \"return-path\", \"state\": false},"
			 "{\"capability\": \"xbzrle\", \"state\": false}]}"); // not one of ours
	raw_close(&raw);
}

static void without_being_armed_it_touches_nothing_and_says_nothing(void **state)
{
	struct fixture *fixture = *state;
	start_agent(fixture, (struct play){.frozen = true}, (struct fake_vm_script){0});
	end_agent(fixture);
	assert_string_equal(fixture->said, "");
	assert_int_equal(fixture->shared->calls, 0);
	expect_untouched(fixture);
}

static void disarmed_it_touches_nothing_and_says_nothing(void **state)
{
	struct fixture *fixture = *state;
	start_agent(fixture, (struct play){.armed = true, .disarmed = true, .frozen = true},
		    (struct fake_vm_script){0});
	end_agent(fixture);
	assert_string_equal(fixture->said, "");
	expect_untouched(fixture);
}

static void a_vm_that_was_given_up_is_not_touched(void **state)
{
	struct fixture *fixture = *state;
	start_agent(fixture, (struct play){.armed = true, .frozen = true, .record = HF_RECORD_GIVEN_UP},
		    (struct fake_vm_script){0});
	end_agent(fixture);
	assert_int_equal(fixture->shared->calls, 1);
	expect_said(fixture, "given the VM up");
	expect_untouched(fixture);
}

static void behind_a_record_that_cannot_be_read_the_vm_is_not_run(void **state)
{
	struct fixture *fixture = *state;
	start_agent(fixture, (struct play){.armed = true, .frozen = true, .record = UNREADABLE},
		    (struct fake_vm_script){0});
	end_agent(fixture);
	expect_said(fixture, "the record is torn");
	expect_untouched(fixture);
}

static void an_agent_that_ends_by_itself_while_armed_is_no_better(void **state)
{
	struct fixture *fixture = *state;
	start_agent(fixture, (struct play){.armed = true, .exits = true}, (struct fake_vm_script){0});
	end_agent(fixture);
	expect_status(fixture, "running");
}

static void a_vmm_that_refuses_cont_at_first_is_asked_again(void **state)
{
	struct fixture *fixture = *state;
	start_agent(fixture, (struct play){.armed = true},
		    (struct fake_vm_script){.refuse = "cont", .refusals = 3});
	end_agent(fixture);
	expect_status(fixture, "running");
	expect_said(fixture, "runs on");
}

static void a_vm_that_cannot_be_run_again_is_told_with_what_to_do(void **state)
{
	struct fixture *fixture = *state;
	char advice[128];
	start_agent(fixture, (struct play){.armed = true}, (struct fake_vm_script){.refuse = "cont"});
	end_agent(fixture);
	snprintf(advice, sizeof(advice), "do `kill -CONT %d` and give `cont` on", (int)fixture->machine.pid);
	expect_said(fixture, "scripted refusal");
	expect_said(fixture, advice);
}

static void a_vmm_that_has_ended_is_told(void **state)
{
	struct fixture *fixture = *state;
	start_agent(fixture, (struct play){.armed = true}, (struct fake_vm_script){0});
	assert_int_equal(hf_vmm_kill(&fixture->vmm, HF_VMM_KILL_LIMIT_MS, NULL), 0);
	end_agent(fixture);
	expect_said(fixture, "has ended: the VM runs nowhere");
}

static void what_ends_an_agent_does_not_end_its_guardian(void **state)
{
	struct fixture *fixture = *state;
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	start_agent(fixture, (struct play){.armed = true}, (struct fake_vm_script){0});
	pid_t guardian = fixture->shared->guardian;
	assert_int_equal(getsid(guardian), guardian);
	for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
		assert_return_code(kill(guardian, signals[i]), errno);
	end_agent(fixture);
	expect_status(fixture, "running");
}

static void it_has_a_name_and_holds_no_descriptor_that_others_wait_for(void **state)
{
	struct fixture *fixture = *state;
	char path[64], name[32] = "", target[128];
	int count = 0;
	start_agent(fixture, (struct play){0}, (struct fake_vm_script){0});
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)fixture->shared->guardian);
	FILE *comm = fopen(path, "r");
	assert_non_null(comm);
	assert_non_null(fgets(name, sizeof(name), comm));
	fclose(comm);
	assert_string_equal(name, "hf-guardian\n");

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)fixture->shared->guardian);
	DIR *folder = opendir(path);
	assert_non_null(folder);
	for (const struct dirent *entry; (entry = readdir(folder));) {
		ssize_t length = readlinkat(dirfd(folder), entry->d_name, target, sizeof(target) - 1);
		if (length < 0)
			continue;
		target[length] = '\0';
		count++;
		bool is_stderr = strcmp(entry->d_name, "2") == 0;
		if (!is_stderr && strcmp(target, "/dev/null") != 0 && !strstr(target, "pidfd"))
			fail_msg("it holds %s", target);
	}
	closedir(folder);
	assert_int_equal(count, 4);
	end_agent(fixture);
}

static int no_record(void *opaque, enum hf_record *record, char **settings, struct hf_err *err)
{
	(void)opaque, (void)record, (void)settings, (void)err;
	return 0;
}

static void a_guardian_that_was_killed_is_noticed_when_it_is_to_be_armed(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = {.socket_path = fixture->directory.socket_path};
	struct hf_guardian_config config = {.record = no_record};
	struct hf_guardian *guardian;
	struct hf_vmm_process process = {0};
	struct hf_err err = HF_ERR_INIT;
	fake_vm_start(&fixture->machine, &script);
	assert_int_equal(hf_guardian_start(&guardian, &config, NULL), 0);
	assert_int_equal(hf_guardian_arm(guardian, fixture->machine.pid, script.socket_path, NULL), 0);
	hf_guardian_disarm(guardian);
	assert_int_equal(hf_vmm_open(&process, hf_guardian_pid(guardian), NULL), 0);
	assert_int_equal(hf_vmm_kill(&process, HF_VMM_KILL_LIMIT_MS, NULL), 0);
	hf_vmm_close(&process);
	assert_int_equal(hf_guardian_arm(guardian, fixture->machine.pid, script.socket_path, &err), -ECHILD);
	assert_non_null(strstr(err.text, "is gone"));
	hf_guardian_end(guardian);
}

static void end_reaps_it_armed_or_not(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = {.socket_path = fixture->directory.socket_path, .status = "paused"};
	struct hf_guardian_config config = {.record = no_record};
	fake_vm_start(&fixture->machine, &script);
	for (int armed = 0; armed < 2; armed++) {
		struct hf_guardian *guardian;
		assert_int_equal(hf_guardian_start(&guardian, &config, NULL), 0);
		pid_t pid = hf_guardian_pid(guardian);
		if (armed)
			assert_int_equal(
			    hf_guardian_arm(guardian, fixture->machine.pid, script.socket_path, NULL), 0);
		hf_guardian_end(guardian);
		assert_int_equal(kill(pid, 0), -1);
		assert_int_equal(errno, ESRCH);
	}
	assert_false(fake_vm_has_run(&fixture->machine));
	hf_guardian_end(NULL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(an_agent_killed_while_armed_leaves_a_vm_that_runs),
	    TEST(a_frozen_vmm_is_thawed_and_its_vm_runs),
	    TEST(a_vm_that_was_taken_back_runs),
	    TEST(the_vmm_has_the_settings_again_that_the_record_names),
	    TEST(without_being_armed_it_touches_nothing_and_says_nothing),
	    TEST(disarmed_it_touches_nothing_and_says_nothing),
	    TEST(a_vm_that_was_given_up_is_not_touched),
	    TEST(behind_a_record_that_cannot_be_read_the_vm_is_not_run),
	    TEST(an_agent_that_ends_by_itself_while_armed_is_no_better),
	    TEST(a_vmm_that_refuses_cont_at_first_is_asked_again),
	    TEST(a_vm_that_cannot_be_run_again_is_told_with_what_to_do),
	    TEST(a_vmm_that_has_ended_is_told),
	    TEST(what_ends_an_agent_does_not_end_its_guardian),
	    TEST(it_has_a_name_and_holds_no_descriptor_that_others_wait_for),
	    TEST(a_guardian_that_was_killed_is_noticed_when_it_is_to_be_armed),
	    TEST(end_reaps_it_armed_or_not),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
