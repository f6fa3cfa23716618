/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about a VMM that is frozen or ended for certain, while other QMP clients do what they like. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vm_fixture.h"

#define ENDS_WITHIN_MS 10000
#define TALK_BYTES     30000 /* goes into a socket in one piece */

static void open_stopped(struct fixture *fixture, struct fake_vm_script script)
{
	script.state_bytes = STATE_BYTES;
	script.no_ignore_shared = true; // paused, so that somebody else may run it before it is saved
	open_vm(fixture, script);
	expect_ok(fixture, HF_VM_STOP);
}

static void open_saved(struct fixture *fixture, struct fake_vm_script script)
{
	open_stopped(fixture, script);
	expect_ok(fixture, HF_VM_SAVE);
}

/* Another QMP client, that gives commands and hears nothing. */
static void somebody_says(const struct fixture *fixture, const char *const *commands)
{
	struct raw_qmp raw;
	raw_negotiate(&raw, fixture->directory.socket_path);
	for (; *commands; commands++) {
		json_t *answer;
		bool answered = false;
		char line[64];
		snprintf(line, sizeof(line), "{\"execute\": \"%s\", \"id\": 7}\n", *commands);
		raw_send(&raw, line);
		while (!answered && (answer = raw_receive(&raw))) { // events come before
			answered = json_object_get(answer, "return") != NULL;
			json_decref(answer);
		}
		assert_true(answered);
	}
	raw_close(&raw);
}

static const char *const runs_it[] = {"cont", NULL};
static const char *const runs_and_stops_it[] = {"cont", "stop", NULL};

static void a_fenced_vm_is_frozen_and_resume_thaws_and_runs_it(void **state)
{
	struct fixture *fixture = *state;
	open_saved(fixture, (struct fake_vm_script){0});
	expect_ok(fixture, HF_VM_FENCE);
	assert_true(hf_vmm_is_fenced(&fixture->vm->process));
	expect_status(fixture, "fenced");
	expect_ok(fixture, HF_VM_FENCE);
	expect_ok(fixture, HF_VM_RESUME);
	expect_status(fixture, "running");
	// What our own `cont` told is no revival of what is stopped later.
	expect_ok(fixture, HF_VM_STOP);
	expect_ok(fixture, HF_VM_FENCE);
}

static void a_vm_that_was_saved_is_frozen_before_that_is_asked_for(void **state)
{
	struct fixture *fixture = *state;
	for (int stops_itself = 0; stops_itself < 2; stops_itself++) {
		open_vm(fixture, (struct fake_vm_script){.state_bytes = STATE_BYTES,
							 .no_ignore_shared = !stops_itself});
		expect_ok(fixture, HF_VM_STOP);
		expect_ok(fixture, HF_VM_SAVE);
		for (int turns = 0; turns < 10000 && !hf_vmm_is_fenced(&fixture->vm->process); turns++)
			usleep(1000);
		assert_true(hf_vmm_is_fenced(&fixture->vm->process));
		assert_false(fake_vm_has_run(&fixture->machine));
		expect_ok(fixture, HF_VM_RESUME);
		expect_status(fixture, "running");
		close_vm(fixture);
	}
}

static void a_vm_that_somebody_else_has_revived_is_not_fenced(void **state)
{
	struct fixture *fixture = *state;
	for (int i = 0; i < 3; i++) {
		open_stopped(fixture, (struct fake_vm_script){.no_events = i == 2});
		somebody_says(fixture, i == 1 ? runs_and_stops_it : runs_it);
		if (i == 1) // it is frozen behind that, but for what is known already
			expect_ok(fixture, HF_VM_SAVE);
		expect_failure(fixture, HF_VM_FENCE, EPERM, "another QMP client");
		assert_false(hf_vmm_is_fenced(&fixture->vm->process));
		expect_status(fixture, i == 1 ? "paused" : "running");
		expect_ok(fixture, HF_VM_RESUME);
		expect_status(fixture, "running");
		close_vm(fixture);
	}
}

struct reviver {
	struct raw_qmp raw;
	int turns; /* until it says `cont` */
};

static void *revive(void *opaque)
{
	struct reviver *reviver = opaque;
	for (int i = 0; i < reviver->turns; i++)
		sched_yield();
	raw_send(&reviver->raw, "{\"execute\": \"cont\"}\n");
	return NULL;
}

static void a_revival_while_the_vmm_is_being_frozen_never_goes_unseen(void **state)
{
	struct fixture *fixture = *state;
	int fenced = 0, rounds = 200;
	for (int i = 0; i < rounds; i++) {
		struct reviver reviver = {.turns = i};
		pthread_t thread;
		open_stopped(fixture, (struct fake_vm_script){0});
		raw_negotiate(&reviver.raw, fixture->directory.socket_path);
		assert_int_equal(pthread_create(&thread, NULL, revive, &reviver), 0);
		struct end end = run(fixture, HF_VM_FENCE);
		if (end.result == 0)
			assert_false(fake_vm_has_run(&fixture->machine));
		else
			assert_int_equal(end.result, -EPERM);
		fenced += end.result == 0;
		pthread_join(thread, NULL);
		raw_close(&reviver.raw);
		close_vm(fixture);
	}
	print_message("%d of %d were fenced before they were revived\n", fenced, rounds);
}

static void answer(struct raw_qmp *raw, json_int_t id, const char *value, const char *more)
{
	char text[TALK_BYTES + 256];
	snprintf(text, sizeof(text), "{\"return\": %s, \"id\": %lld}\r\n%s", value, (long long)id, more);
	raw_send(raw, text);
}

/* A VMM that is revived in the same breath in which it says that it is paused. */
static void be_talkative(const char *path, int ready_fd)
{
	static char talk[TALK_BYTES];
	struct raw_qmp raw = {.fd = -1};
	size_t used = 0;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (used < TALK_BYTES - 64)
		used += (size_t)snprintf(talk + used, sizeof(talk) - used, "{\"event\": \"E\"}\n");
	snprintf(talk + used, sizeof(talk) - used, "{\"event\": \"RESUME\"}\n");
	int listen_fd = raw_listen(path); // here, so that the socket is this process's
	if (write(ready_fd, "", 1) != 1)
		_exit(2);
	raw_accept(&raw, listen_fd);
	raw_send(&raw, "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n");
	for (bool asked = false; !asked;) {
		json_t *command = raw_receive(&raw);
		json_int_t id = json_integer_value(json_object_get(command, "id"));
		const char *name = json_string_value(json_object_get(command, "execute"));
		asked = name && strcmp(name, "query-status") == 0;
		if (asked)
			answer(&raw, id, "{\"status\": \"paused\", \"running\": false}", talk);
		else
			answer(&raw, id, "{}", "");
		json_decref(command);
	}
	for (;;)
		pause();
}

static void open_talkative(struct fixture *fixture)
{
	int ready[2];
	char byte;
	unlink(fixture->directory.socket_path);
	assert_return_code(pipe(ready), errno);
	fixture->machine.pid = fork();
	assert_return_code(fixture->machine.pid, errno);
	if (fixture->machine.pid == 0)
		be_talkative(fixture->directory.socket_path, ready[1]);
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	assert_int_equal(hf_qmp_vm_create(&fixture->vm, fixture->directory.socket_path, NULL), 0);
}

static void what_a_frozen_vmm_had_said_is_heard_before_it_counts_as_fenced(void **state)
{
	struct fixture *fixture = *state;
	struct hf_err err = HF_ERR_INIT;
	for (int i = 0; i < 10; i++) {
		open_talkative(fixture);
		assert_int_equal(hf_qmp_vm_do(fixture->vm, HF_VM_FENCE, &err), -EPERM);
		close_vm(fixture);
	}
}

static void a_frozen_vmm_is_not_asked_to_quit_but_killed(void **state)
{
	struct fixture *fixture = *state;
	int wait_status;
	struct raw_qmp raw;
	open_stopped(fixture, (struct fake_vm_script){0});
	raw_negotiate(&raw, fixture->directory.socket_path);
	expect_ok(fixture, HF_VM_FENCE);
	raw_send(&raw, "{\"execute\": \"cont\"}\n"); // it would be done if it were thawed
	assert_int_equal(hf_qmp_vm_quit(fixture->vm, NULL), 0);
	assert_false(fake_vm_has_run(&fixture->machine));
	assert_int_equal(waitpid(fixture->machine.pid, &wait_status, 0), fixture->machine.pid);
	assert_true(WIFSIGNALED(wait_status) && WTERMSIG(wait_status) == SIGKILL);
	fixture->machine.pid = 0;
	raw_close(&raw);
}

static void kill_ends_a_vmm_that_runs_is_frozen_or_is_dead_already(void **state)
{
	struct fixture *fixture = *state;
	for (int i = 0; i < 3; i++) {
		open_vm(fixture, script_for(HF_VM_RUN));
		if (i == 1)
			kill(fixture->machine.pid, SIGSTOP);
		if (i == 2)
			kill(fixture->machine.pid, SIGKILL);
		expect_ok(fixture, HF_VM_KILL);
		assert_true(hf_vmm_has_ended(&fixture->vm->process));
		assert_int_equal(waitpid(fixture->machine.pid, NULL, WNOHANG), fixture->machine.pid);
		fixture->machine.pid = 0;
		expect_ok(fixture, HF_VM_KILL);
		close_vm(fixture);
	}
}

/* ---- a VM that has been loaded ---------------------------------------------------------------- */

static void open_waiting(struct fixture *fixture, struct fake_vm_script script)
{
	script.status = "inmigrate";
	script.state_bytes = STATE_BYTES;
	open_vm(fixture, script);
	fixture->state = realloc(fixture->state, STATE_BYTES);
	fixture->state_bytes = STATE_BYTES;
	for (size_t i = 0; i < STATE_BYTES; i++)
		fixture->state[i] = fake_vm_state_byte(i);
}

static void a_loaded_vm_is_run_by_nobody_before_it_is_told_to(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	open_waiting(fixture, (struct fake_vm_script){0});
	raw_negotiate(&raw, fixture->directory.socket_path);
	expect_ok(fixture, HF_VM_LOAD);
	assert_true(hf_vmm_is_fenced(&fixture->vm->process));
	raw_send(&raw, "{\"execute\": \"cont\"}\n");
	poll(NULL, 0, 20);
	assert_false(fake_vm_has_run(&fixture->machine));
	expect_ok(fixture, HF_VM_RUN);
	expect_status(fixture, "running");
	raw_close(&raw);
}

static void a_vm_that_ran_by_itself_when_it_was_loaded_is_stopped_at_once(void **state)
{
	struct fixture *fixture = *state;
	for (int i = 0; i < 2; i++) {
		open_waiting(fixture, (struct fake_vm_script){.no_events = i == 1});
		fixture->vm->own_cont = i == 1; // as if the event had not come
		struct end end = run(fixture, HF_VM_LOAD);
		assert_int_equal(end.result, 0);
		assert_int_equal(hf_vmm_thaw(&fixture->vm->process, NULL), 0);
		fixture->vm->fenced = false;
		somebody_says(fixture, runs_it);
		struct hf_err err = HF_ERR_INIT;
		assert_int_equal(hf_qmp_vm_hold_loaded(fixture->vm, i == 0, &err), -EPERM);
		assert_non_null(strstr(err.text, "while the source still owns it"));
		assert_true(hf_vmm_is_fenced(&fixture->vm->process));
		close_vm(fixture);
	}
}

static void what_a_loaded_vmm_had_said_is_heard_before_it_counts_as_held(void **state)
{
	struct fixture *fixture = *state;
	struct hf_err err = HF_ERR_INIT;
	open_talkative(fixture);
	assert_int_equal(hf_qmp_vm_hold_loaded(fixture->vm, false, &err), -EPERM);
	assert_non_null(strstr(err.text, "another QMP client"));
	assert_true(hf_vmm_is_fenced(&fixture->vm->process));
}

static void a_run_while_the_loaded_vmm_is_being_frozen_never_goes_unseen(void **state)
{
	struct fixture *fixture = *state;
	int frozen = 0, rounds = 500;
	for (int i = 0; i < rounds; i++) {
		struct reviver reviver = {.turns = i % 200};
		pthread_t thread;
		open_waiting(fixture, (struct fake_vm_script){0});
		expect_ok(fixture, HF_VM_LOAD);
		assert_int_equal(hf_vmm_thaw(&fixture->vm->process, NULL), 0);
		fixture->vm->fenced = false;
		raw_negotiate(&reviver.raw, fixture->directory.socket_path);
		assert_int_equal(pthread_create(&thread, NULL, revive, &reviver), 0);
		int r = hf_qmp_vm_hold_loaded(fixture->vm, true, NULL);
		assert_true(hf_vmm_is_fenced(&fixture->vm->process));
		if (r == 0)
			assert_false(fake_vm_has_run(&fixture->machine));
		else
			assert_int_equal(r, -EPERM);
		frozen += r == 0;
		pthread_join(thread, NULL);
		raw_close(&reviver.raw);
		close_vm(fixture);
	}
	print_message("%d of %d were frozen before they were run\n", frozen, rounds);
}

static void who_takes_a_loaded_vm_over_freezes_it_again_or_kills_it(void **state)
{
	struct fixture *fixture = *state;
	for (int i = 0; i < 3; i++) {
		struct hf_err err = HF_ERR_INIT;
		open_waiting(fixture, (struct fake_vm_script){0});
		expect_ok(fixture, HF_VM_LOAD);
		assert_int_equal(hf_vmm_thaw(&fixture->vm->process, NULL), 0);
		fixture->vm->fenced = false;
		if (i)
			somebody_says(fixture, i == 1 ? runs_it : runs_and_stops_it);
		assert_int_equal(hf_qmp_vm_hold(fixture->vm), 0);
		if (i == 0) {
			while (!hf_vmm_is_fenced(&fixture->vm->process))
				poll(NULL, 0, 1);
			expect_ok(fixture, HF_VM_RUN);
			expect_status(fixture, "running");
		} else {
			for (int ms = 0; !hf_vmm_has_ended(&fixture->vm->process); ms++) {
				assert_true(ms < ENDS_WITHIN_MS);
				poll(NULL, 0, 1);
			}
			hf_err_set(&err, HF_ERR_LOCAL, ESRCH, "the VMM has ended");
			hf_qmp_vm_add_words(fixture->vm, &err);
			assert_non_null(strstr(err.text, "while the source still owns it"));
			assert_non_null(strstr(err.text, "the VMM has ended"));
		}
		close_vm(fixture);
	}
}

static void a_vmm_of_which_it_is_not_known_that_it_ran_is_kept_and_held(void **state)
{
	struct fixture *fixture = *state;
	open_waiting(fixture, (struct fake_vm_script){.refuse = "query-status"});
	expect_ok(fixture, HF_VM_LOAD);
	assert_int_equal(hf_vmm_thaw(&fixture->vm->process, NULL), 0);
	fixture->vm->fenced = false;
	hf_qmp_vm_hold_again(fixture->vm);
	assert_true(hf_vmm_is_fenced(&fixture->vm->process));
	assert_false(hf_vmm_has_ended(&fixture->vm->process));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_fenced_vm_is_frozen_and_resume_thaws_and_runs_it),
	    TEST(a_vm_that_was_saved_is_frozen_before_that_is_asked_for),
	    TEST(a_vm_that_somebody_else_has_revived_is_not_fenced),
	    TEST(a_revival_while_the_vmm_is_being_frozen_never_goes_unseen),
	    TEST(what_a_frozen_vmm_had_said_is_heard_before_it_counts_as_fenced),
	    TEST(a_frozen_vmm_is_not_asked_to_quit_but_killed),
	    TEST(kill_ends_a_vmm_that_runs_is_frozen_or_is_dead_already),
	    TEST(a_loaded_vm_is_run_by_nobody_before_it_is_told_to),
	    TEST(a_vm_that_ran_by_itself_when_it_was_loaded_is_stopped_at_once),
	    TEST(what_a_loaded_vmm_had_said_is_heard_before_it_counts_as_held),
	    TEST(a_run_while_the_loaded_vmm_is_being_frozen_never_goes_unseen),
	    TEST(who_takes_a_loaded_vm_over_freezes_it_again_or_kills_it),
	    TEST(a_vmm_of_which_it_is_not_known_that_it_ran_is_kept_and_held),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
