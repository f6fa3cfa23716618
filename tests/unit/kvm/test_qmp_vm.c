/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about the VM adapter, checked with a VMM that follows a script and may die. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm/qmp.h"
#include "vm_fixture.h"

#define COMMANDS_MAX 30
#define MIGRATION_ACTIVE                                                                                     \
	"{\"event\": \"MIGRATION\", \"data\": {\"status\": \"active\"}, \"timestamp\": \"*\"}"

static void make_state(struct fixture *fixture, size_t bytes)
{
	free(fixture->state);
	fixture->state = malloc(bytes);
	fixture->state_bytes = bytes;
	for (size_t i = 0; i < bytes; i++)
		fixture->state[i] = fake_vm_state_byte(i);
}

static void expect_state(const struct fixture *fixture, size_t bytes)
{
	assert_int_equal(fixture->state_bytes, bytes);
	for (size_t i = 0; i < bytes; i++) {
		if (fixture->state[i] != fake_vm_state_byte(i))
			fail_msg("byte %zu of the device state is wrong", i);
	}
}

static void whole_life(struct fixture *fixture, struct fake_vm_script script)
{
	script.state_bytes = STATE_BYTES;
	open_vm(fixture, script);
	expect_status(fixture, "running");
	expect_ok(fixture, HF_VM_STOP);
	expect_ok(fixture, HF_VM_SAVE);
	expect_state(fixture, STATE_BYTES);
	expect_ok(fixture, HF_VM_RESUME);
	expect_status(fixture, "running");
	close_vm(fixture);

	script.status = "inmigrate";
	open_vm(fixture, script);
	make_state(fixture, STATE_BYTES);
	expect_ok(fixture, HF_VM_LOAD);
	expect_status(fixture, "fenced");
	expect_ok(fixture, HF_VM_RUN);
	expect_status(fixture, "running");
}

static void a_vm_is_stopped_saved_resumed_loaded_and_run(void **state)
{
	whole_life(*state, (struct fake_vm_script){0});
}

static void without_events_states_are_asked_for(void **state)
{
	whole_life(*state, (struct fake_vm_script){.no_events = true, .slow_queries = 5});
}

static void a_vmm_without_capability_commands_works(void **state)
{
	whole_life(*state, (struct fake_vm_script){.no_capability_commands = true});
}

static void a_vmm_whose_migrate_stops_nothing_is_stopped_before(void **state)
{
	struct fixture *fixture = *state;
	whole_life(fixture, (struct fake_vm_script){.no_ignore_shared = true});
	close_vm(fixture);
	open_vm(fixture, (struct fake_vm_script){.state_bytes = 1, .no_ignore_shared = true});
	expect_ok(fixture, HF_VM_STOP);
	expect_status(fixture, "paused");
}

static void stop_begins_the_save_of_a_vm_that_stands_still_from_then_on(void **state)
{
	struct fixture *fixture = *state;
	for (int silent = 0; silent < 2; silent++) {
		struct fake_vm_script script = {.state_bytes = STATE_BYTES, .refuse = "stop"};
		script.no_events = silent;
		open_vm(fixture, script);
		struct end end = run(fixture, HF_VM_STOP);
		assert_int_equal(end.result, 0);
		// Until the VMM had told that it begins; without events nobody knows.
		assert_int_equal(end.ran_ns > 0, !silent);
		char status[32];
		assert_int_equal(hf_qmp_vm_status(fixture->vm, status, sizeof(status), NULL), 0);
		assert_string_not_equal(status, "running");
		expect_ok(fixture, HF_VM_SAVE);
		expect_state(fixture, STATE_BYTES);
		close_vm(fixture);
	}
}

static void a_save_that_stop_has_begun_is_broken_off_by_resume(void **state)
{
	struct fixture *fixture = *state;
	for (int locks = 0; locks < 2; locks++) {
		// More than the socket holds: it waits for a reader, and then answers or, as QEMU, does not.
		open_vm(fixture,
			(struct fake_vm_script){.state_bytes = 5000000, .locks_while_it_saves = locks});
		expect_ok(fixture, HF_VM_STOP);
		expect_ok(fixture, HF_VM_RESUME);
		expect_status(fixture, "running");
		close_vm(fixture);
	}

	open_vm(fixture, (struct fake_vm_script){.state_bytes = 1});
	expect_ok(fixture, HF_VM_STOP); // and it may be over by then
	expect_ok(fixture, HF_VM_RESUME);
	expect_status(fixture, "running");
}

static void a_vm_whose_save_fails_after_it_was_stopped_runs_on(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = {.state_bytes = STATE_BYTES, .migration_error = "no room"};
	open_vm(fixture, script);
	struct end end = run(fixture, HF_VM_STOP);
	if (end.result == 0)
		end = run(fixture, HF_VM_SAVE);
	assert_int_equal(end.result, -EREMOTEIO);
	assert_non_null(strstr(end.err.text, "no room"));
	expect_ok(fixture, HF_VM_RESUME);
	expect_status(fixture, "running");
}

static void a_vmm_that_would_run_what_it_has_loaded_is_told_to_wait(void **state)
{
	struct fixture *fixture = *state;
	for (int refuses = 0; refuses < 2; refuses++) {
		struct fake_vm_script script = script_for(HF_VM_LOAD);
		script.starts_itself = true;
		script.refuse = refuses ? "stop" : NULL;
		open_vm(fixture, script);
		make_state(fixture, STATE_BYTES);
		if (refuses)
			expect_failure(fixture, HF_VM_LOAD, EPERM, "by itself after loading it");
		else
			expect_ok(fixture, HF_VM_LOAD);
		assert_int_equal(fake_vm_has_run(&fixture->machine), refuses);
		close_vm(fixture);
	}
}

static void a_vm_that_was_loaded_and_stands_still_is_run_without_a_question(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_LOAD);
	script.refuse = "query-status";
	open_vm(fixture, script);
	make_state(fixture, STATE_BYTES);
	expect_ok(fixture, HF_VM_LOAD);
	expect_ok(fixture, HF_VM_RUN);
	assert_true(fake_vm_has_run(&fixture->machine));
}

static void a_vmm_that_says_nothing_of_its_incoming_migration_is_judged_by_its_status(void **state)
{
	struct fixture *fixture = *state;
	open_vm(fixture, (struct fake_vm_script){
			     .status = "inmigrate", .state_bytes = STATE_BYTES, .silent_migration = true});
	make_state(fixture, STATE_BYTES);
	expect_ok(fixture, HF_VM_LOAD);
	expect_status(fixture, "fenced");
}

static void a_state_of_one_byte_and_of_many_megabytes_pass_whole(void **state)
{
	struct fixture *fixture = *state;
	static const size_t sizes[] = {1, (1 << 20) - 1, 1 << 20, 5000001};
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		open_vm(fixture, (struct fake_vm_script){.state_bytes = sizes[i], .status = "paused"});
		expect_ok(fixture, HF_VM_SAVE);
		expect_state(fixture, sizes[i]);
		expect_ok(fixture, HF_VM_FENCE); // behind what SAVE leaves for later
		kill(fixture->machine.pid, SIGCONT);
		expect_ok(fixture, HF_VM_LOAD);
		close_vm(fixture);
	}
}

/* The fake VMM refuses to save and to load where memory would be in the stream, or an answer awaited. */
static void capabilities_are_set_for_saving_and_put_back(void **state)
{
	struct fixture *fixture = *state;
	static const enum hf_vm_op ops[] = {HF_VM_SAVE, HF_VM_LOAD, HF_VM_STOP};
	for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++) {
		struct raw_qmp raw;
		open_vm(fixture, script_for(ops[i]));
		make_state(fixture, STATE_BYTES);
		expect_ok(fixture, ops[i]);
		expect_ok(fixture, HF_VM_RESUME); // of a VM that was only stopped, too
		expect_ok(fixture, HF_VM_RESUME); // after what the first one leaves for later
		raw_negotiate(&raw, fixture->directory.socket_path);
		raw_send(&raw, "{\"execute\":\"query-migrate-capabilities\"}");
		raw_expect(&raw, "{\"return\": [{\"capability\": \"x-ignore-shared\", \"state\": false},"
				 "{\"capability\": \"events\", \"state\": false},"
				 "{\"capability\": \"return-path\", \"state\": true},"
				 "{\"capability\": \"xbzrle\", \"state\": false}]}");
		raw_close(&raw);
		close_vm(fixture);
	}
}

static void expect_max_bandwidth_as_it_was(const struct fixture *fixture)
{
	struct raw_qmp raw;
	char expected[128];
	snprintf(expected, sizeof(expected),
		 "{\"return\": {\"max-bandwidth\": %d, \"downtime-limit\": \"*\"}}", FAKE_VM_MAX_BANDWIDTH);
	raw_negotiate(&raw, fixture->directory.socket_path);
	raw_send(&raw, "{\"execute\": \"query-migrate-parameters\"}\n");
	raw_expect(&raw, expected);
	raw_close(&raw);
}

/* What a killed program leaves behind: between the lifting of the bandwidth and the end of SAVE. */
static void leave_as_killed(const struct fixture *fixture, bool bandwidth)
{
	struct raw_qmp raw;
	raw_negotiate(&raw, fixture->directory.socket_path);
	raw_send(&raw, "{\"execute\": \"migrate-set-capabilities\", \"arguments\": {\"capabilities\": ["
		       "{\"capability\": \"events\", \"state\": true},"
		       "{\"capability\": \"x-ignore-shared\", \"state\": true},"
		       "{\"capability\": \"return-path\", \"state\": false}]}}");
	raw_expect(&raw, "{\"return\": {}}");
	if (bandwidth) {
		raw_send(&raw,
			 "{\"execute\": \"migrate-set-parameters\", \"arguments\": {\"max-bandwidth\": 0}}");
		raw_expect(&raw, "{\"return\": {}}");
	}
	raw_close(&raw);
}

static void expect_capabilities(const struct fixture *fixture, bool as_before)
{
	struct raw_qmp raw;
	char expected[256];
	const char *changed = as_before ? "false" : "true", *unchanged = as_before ? "true" : "false";
	snprintf(expected, sizeof(expected),
		 "{\"return\": [{\"capability\": \"x-ignore-shared\", \"state\": %s},"
		 "{\"capability\": \"events\", \"state\": %s},"
		 "{\"capability\": \"return-path\", \"state\": %s},"
		 "{\"capability\": \"xbzrle\", \"state\": false}]}",
		 changed, changed, unchanged);
	raw_negotiate(&raw, fixture->directory.socket_path);
	raw_send(&raw, "{\"execute\":\"query-migrate-capabilities\"}");
	raw_expect(&raw, expected);
	raw_close(&raw);
}

static void who_goes_on_for_a_program_that_was_killed_puts_all_settings_back(void **state)
{
	struct fixture *fixture = *state;
	for (int runs = 0; runs < 2; runs++) {
		char *settings = NULL;
		struct fake_vm_script script = script_for(HF_VM_RESUME);
		script.no_events = true;
		open_vm(fixture, script);
		assert_int_equal(hf_qmp_vm_settings(fixture->vm, &settings, NULL), 0);
		leave_as_killed(fixture, true);
		expect_capabilities(fixture, false);
		if (runs) { // as hf_qmp_vm_create_silent() makes it
			fixture->vm->silent = true;
			fixture->vm->settings_noted = settings;
			expect_ok(fixture, HF_VM_RUN);
			expect_ok(fixture, HF_VM_RUN); // after what the first one leaves for later
		} else {
			assert_int_equal(hf_qmp_vm_resume(fixture->vm, NULL), 0);
			assert_int_equal(hf_qmp_vm_put_back(fixture->vm, settings, NULL), 0);
			free(settings);
		}
		expect_capabilities(fixture, true);
		expect_max_bandwidth_as_it_was(fixture);
		close_vm(fixture);
	}
}

/* The record of another release, or none. */
static void without_a_note_of_the_settings_memory_is_in_the_stream_again(void **state)
{
	struct fixture *fixture = *state;
	struct raw_qmp raw;
	open_vm(fixture, script_for(HF_VM_RESUME));
	leave_as_killed(fixture, false);
	assert_int_equal(hf_qmp_vm_put_back(fixture->vm, NULL, NULL), 0);
	raw_negotiate(&raw, fixture->directory.socket_path);
	raw_send(&raw, "{\"execute\":\"query-migrate-capabilities\"}");
	raw_expect(&raw, "{\"return\": [{\"capability\": \"x-ignore-shared\", \"state\": false},"
			 "\"*\", \"*\", \"*\"]}");
	raw_close(&raw);
}

/* It was set by somebody since. */
static void a_bandwidth_that_is_not_lifted_is_not_put_back(void **state)
{
	struct fixture *fixture = *state;
	open_vm(fixture, script_for(HF_VM_RESUME));
	assert_int_equal(hf_qmp_vm_put_back(fixture->vm, "max-bandwidth=1 nonsense = x", NULL), 0);
	expect_max_bandwidth_as_it_was(fixture);
}

static void a_vmm_that_was_prepared_and_never_loaded_is_left_as_it_was(void **state)
{
	struct fixture *fixture = *state;
	open_vm(fixture, script_for(HF_VM_LOAD));
	expect_capabilities(fixture, false);
	hf_qmp_vm_stop(fixture->vm);
	expect_capabilities(fixture, true);
}

static void expect_death(struct fixture *fixture, const struct end *end)
{
	char pid[32];
	snprintf(pid, sizeof(pid), "pid %d", (int)fixture->machine.pid);
	assert_int_equal(end->result, end->op == HF_VM_RUN ? -EOWNERDEAD : -ECONNRESET);
	assert_int_equal(end->err.class, HF_ERR_LOCAL);
	assert_non_null(strstr(end->err.text, pid));
	assert_non_null(strstr(end->err.text, fixture->directory.socket_path));
}

static void a_vmm_that_dies_at_any_command_is_named_and_nothing_is_left(void **state)
{
	struct fixture *fixture = *state;
	for (int op = 0; op < HF_VM_KILL; op++) { // to that, dead is as good as any
		int deaths = 0;
		struct end end = {.result = -1};
		for (int at = 1; end.result < 0; at++) {
			struct fake_vm_script script = script_for((enum hf_vm_op)op);
			assert_true(at < COMMANDS_MAX);
			script.die_at_command = at;
			script.no_events = true; // more questions to die at
			open_vm(fixture, script);
			make_state(fixture, STATE_BYTES);
			end = run(fixture, (enum hf_vm_op)op);
			if (end.result < 0) {
				expect_death(fixture, &end);
				deaths++;
			}
			close_vm(fixture);
		}
		assert_true(deaths >= (op == HF_VM_SAVE || op == HF_VM_LOAD ? 4 : op == HF_VM_FENCE ? 1 : 2));
	}
}

static void a_vmm_that_dies_in_the_stream_is_named(void **state)
{
	struct fixture *fixture = *state;
	static const enum hf_vm_op ops[] = {HF_VM_SAVE, HF_VM_LOAD};
	static const size_t points[] = {1, STATE_BYTES / 2, STATE_BYTES};
	for (int i = 0; i < 6; i++) {
		struct fake_vm_script script = script_for(ops[i % 2]);
		script.die_after_bytes = points[i / 2];
		open_vm(fixture, script);
		make_state(fixture, STATE_BYTES);
		struct end end = run(fixture, ops[i % 2]);
		expect_death(fixture, &end);
		close_vm(fixture);
	}
}

static void a_vmm_killed_between_operations_fails_the_next_one(void **state)
{
	struct fixture *fixture = *state;
	open_vm(fixture, script_for(HF_VM_STOP));
	expect_ok(fixture, HF_VM_STOP);
	kill(fixture->machine.pid, SIGKILL);
	waitpid(fixture->machine.pid, NULL, 0);
	struct end end = run(fixture, HF_VM_RESUME);
	expect_death(fixture, &end);
	fixture->machine.pid = 0;
}

static void expect_refused(struct fixture *fixture, enum hf_vm_op op, const char *command)
{
	struct fake_vm_script script = script_for(op);
	script.refuse = command;
	script.no_events = true; // more questions to refuse
	open_vm(fixture, script);
	make_state(fixture, STATE_BYTES);
	expect_failure(fixture, op, EREMOTEIO, "scripted refusal");
	struct end end = run(fixture, op);
	assert_non_null(strstr(end.err.text, command));
	close_vm(fixture);
}

static void a_vm_that_somebody_else_has_stopped_is_left_as_it_is(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_STOP);
	script.status = "paused";
	open_vm(fixture, script);
	expect_failure(fixture, HF_VM_STOP, EPERM, "somebody else");
	expect_status(fixture, "paused");
	close_vm(fixture);
}

static void a_refusal_at_any_step_is_passed_on(void **state)
{
	struct fixture *fixture = *state;
	expect_refused(fixture, HF_VM_STOP, "migrate");
	expect_refused(fixture, HF_VM_STOP, "query-status");
	expect_refused(fixture, HF_VM_SAVE, "migrate-set-capabilities");
	expect_refused(fixture, HF_VM_SAVE, "migrate");
	expect_refused(fixture, HF_VM_SAVE, "query-migrate");
	expect_refused(fixture, HF_VM_LOAD, "migrate-set-capabilities");
	expect_refused(fixture, HF_VM_LOAD, "migrate-incoming");
	expect_refused(fixture, HF_VM_RUN, "cont");
	expect_refused(fixture, HF_VM_RESUME, "cont");
}

static void a_failed_migration_of_device_state_gives_the_vmms_own_reason(void **state)
{
	struct fixture *fixture = *state;
	for (int i = 0; i < 3; i++) {
		enum hf_vm_op op = i == 2 ? HF_VM_LOAD : HF_VM_SAVE;
		struct fake_vm_script script = script_for(op);
		script.migration_error = "device apic: wrong\nversion";
		script.fails_unconnected = i == 1;
		open_vm(fixture, script);
		make_state(fixture, STATE_BYTES);
		expect_failure(fixture, op, EREMOTEIO, "device apic: wrong?version");
		// It can go on from there.
		if (op == HF_VM_SAVE)
			expect_ok(fixture, HF_VM_RESUME);
		close_vm(fixture);
	}
}

static void a_vmm_that_loads_half_the_state_is_not_believed(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_LOAD);
	script.state_bytes = 5000000; // more than the socket holds
	script.takes_half = true;
	open_vm(fixture, script);
	make_state(fixture, script.state_bytes);
	expect_failure(fixture, HF_VM_LOAD, EPROTO, "5000000");
}

static void a_state_past_the_limit_is_refused_and_the_vm_can_be_resumed(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_SAVE);
	script.state_bytes = (size_t)300 << 20;
	open_vm(fixture, script);
	expect_failure(fixture, HF_VM_SAVE, EMSGSIZE, "x-ignore-shared");
	expect_ok(fixture, HF_VM_RESUME);
}

static void a_save_knows_no_limit_of_bandwidth_and_leaves_it_as_it_was(void **state)
{
	struct fixture *fixture = *state;
	for (int fails = 0; fails < 2; fails++) {
		struct fake_vm_script script = script_for(HF_VM_SAVE);
		script.migration_error = fails ? "no" : NULL;
		open_vm(fixture, script);
		if (fails)
			expect_failure(fixture, HF_VM_SAVE, EREMOTEIO, "no");
		else
			expect_ok(fixture, HF_VM_SAVE);
		expect_ok(fixture, HF_VM_RESUME);
		expect_ok(fixture, HF_VM_RESUME); // after what the first one leaves for later
		expect_max_bandwidth_as_it_was(fixture);
		close_vm(fixture);
	}
}

static void a_save_of_no_bytes_is_an_error(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_SAVE);
	script.state_bytes = 0;
	open_vm(fixture, script);
	expect_failure(fixture, HF_VM_SAVE, EPROTO, "no bytes");
}

static void a_vm_that_cannot_run_after_cont_is_an_error(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_RUN);
	script.status_after_cont = "internal-error";
	open_vm(fixture, script);
	expect_failure(fixture, HF_VM_RUN, EOWNERDEAD, "internal-error");
}

static void a_vm_that_runs_is_run_again_without_a_cont(void **state)
{
	struct fixture *fixture = *state;
	for (int i = 0; i < 2; i++) {
		open_vm(fixture, (struct fake_vm_script){.refuse = "cont"});
		expect_ok(fixture, i ? HF_VM_RUN : HF_VM_RESUME);
		close_vm(fixture);
	}
}

static void only_a_vmm_that_says_so_has_not_run_its_vm(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_RUN);
	script.refuse = "cont";
	open_vm(fixture, script);
	expect_failure(fixture, HF_VM_RUN, EREMOTEIO, "scripted refusal");
	close_vm(fixture);

	// Refused, then dead: its word for it is missing.
	script.count_from = "cont";
	script.die_at_command = 2;
	open_vm(fixture, script);
	expect_failure(fixture, HF_VM_RUN, EOWNERDEAD, "scripted refusal");
	close_vm(fixture);

	// It has run for a moment, whatever became of it and of the answer.
	script = script_for(HF_VM_RUN);
	script.runs_and_stops_before_refusal = true;
	script.refuse = "cont";
	open_vm(fixture, script);
	expect_failure(fixture, HF_VM_RUN, EOWNERDEAD, "scripted refusal");
}

static void a_vm_whose_save_was_broken_off_is_resumed_when_qemu_is_through_with_it(void **state)
{
	struct fixture *fixture = *state;
	open_vm(fixture, (struct fake_vm_script){
			     .status = "finish-migrate", .settles = "postmigrate", .slow_queries = 4});
	expect_ok(fixture, HF_VM_RESUME);
	assert_true(fake_vm_has_run(&fixture->machine));
}

static void a_vmm_silent_after_cont_may_have_run_its_vm(void **state)
{
	struct fixture *fixture = *state;
	for (int at = 1; at <= 2; at++) { // `cont`, or the question behind it
		struct fake_vm_script script = script_for(HF_VM_RUN);
		script.count_from = "cont";
		script.silent_from_command = at;
		script.no_events = true;
		open_vm(fixture, script);
		fixture->vm->run_silence_ms = 100;
		expect_failure(fixture, HF_VM_RUN, EOWNERDEAD, "no answer");
		close_vm(fixture);
	}
}

static void destroy_ends_every_request_exactly_once_also_in_the_middle_of_a_load(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_LOAD);
	struct raw_qmp raw;
	script.never_completes = true;
	script.slow_queries = 0;
	open_vm(fixture, script);
	make_state(fixture, STATE_BYTES);
	raw_negotiate(&raw, fixture->directory.socket_path);
	assert_int_equal(request(fixture, HF_VM_LOAD), 0);
	assert_int_equal(request(fixture, HF_VM_RUN), 0);
	assert_int_equal(request(fixture, HF_VM_STOP), 0);
	raw_expect(&raw, MIGRATION_ACTIVE);
	raw_close(&raw);
	hf_qmp_vm_destroy(fixture->vm);
	fixture->vm = NULL;
	assert_int_equal(fixture->end_count, 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(fixture->ends[i].result, -ECANCELED);
		assert_int_equal(fixture->ends[i].err.class, HF_ERR_CANCELLED);
	}
}

static void bad_requests_are_refused_at_once(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_LOAD);
	script.never_completes = true;
	open_vm(fixture, script);
	struct hf_vm port = hf_qmp_vm_port(fixture->vm);
	assert_int_equal(port.ops->request(port.self, HF_VM_OPS, NULL, 0), -EINVAL);
	assert_int_equal(port.ops->request(port.self, HF_VM_LOAD, NULL, 1), -EINVAL);
	assert_int_equal(port.ops->request(port.self, HF_VM_LOAD, "x", 0), -EINVAL);
	assert_int_equal(port.ops->request(port.self, HF_VM_LOAD, "x", ((size_t)256 << 20) + 1), -EMSGSIZE);

	struct raw_qmp raw;
	raw_negotiate(&raw, fixture->directory.socket_path);
	make_state(fixture, 1);
	assert_int_equal(request(fixture, HF_VM_LOAD), 0);
	raw_expect(&raw, MIGRATION_ACTIVE); // the first is under way
	raw_close(&raw);
	for (int i = 0; i < 8; i++)
		assert_int_equal(request(fixture, HF_VM_LOAD), 0);
	assert_int_equal(request(fixture, HF_VM_LOAD), -EBUSY);
	hf_qmp_vm_destroy(fixture->vm);
	fixture->vm = NULL;
	assert_int_equal(fixture->end_count, 9);
}

static void a_request_before_start_is_refused(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = {.socket_path = fixture->directory.socket_path};
	fake_vm_start(&fixture->machine, &script);
	assert_int_equal(hf_qmp_vm_create(&fixture->vm, fixture->directory.socket_path, NULL), 0);
	assert_int_equal(request(fixture, HF_VM_STOP), -ESHUTDOWN);
	assert_int_equal(hf_qmp_vm_pid(fixture->vm), fixture->machine.pid);
}

static void vcpu_threads_come_in_the_order_of_cpu_index(void **state)
{
	struct fixture *fixture = *state;
	uint32_t *ids;
	uint32_t count;
	open_vm(fixture, (struct fake_vm_script){0});
	assert_int_equal(hf_qmp_vm_vcpus(fixture->vm, &ids, &count, NULL), 0);
	assert_int_equal(count, 3);
	assert_int_equal(ids[0], 1002);
	assert_int_equal(ids[1], 1001);
	assert_int_equal(ids[2], 900);
	free(ids);
}

static void nonsense_about_vcpus_is_refused(void **state)
{
	struct fixture *fixture = *state;
	static const char *const answers[] = {
	    "[]",
	    "{}",
	    "[1]",
	    "[{\"cpu-index\":0}]",
	    "[{\"cpu-index\":0,\"thread-id\":0}]",
	    "[{\"cpu-index\":0,\"thread-id\":4294967297}]",
	    "[{\"cpu-index\":-1,\"thread-id\":5}]",
	    "[{\"cpu-index\":0,\"thread-id\":\"5\"}]",
	    "[{\"cpu-index\":0,\"thread-id\":5},{\"cpu-index\":0,\"thread-id\":6}]",
	};
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		uint32_t *ids = NULL;
		uint32_t count = 77;
		open_vm(fixture, (struct fake_vm_script){.vcpus = answers[i]});
		assert_int_equal(hf_qmp_vm_vcpus(fixture->vm, &ids, &count, NULL), -EPROTO);
		assert_null(ids);
		assert_int_equal(count, 77);
		close_vm(fixture);
	}
}

static void memory_backends_are_listed_and_those_without_a_file_have_no_path(void **state)
{
	struct fixture *fixture = *state;
	struct hf_qmp_vm_block *blocks;
	uint32_t count;
	open_vm(fixture, (struct fake_vm_script){0});
	assert_int_equal(hf_qmp_vm_blocks(fixture->vm, &blocks, &count, NULL), 0);
	assert_int_equal(count, 3);
	assert_string_equal(blocks[0].idstr, "ram0");
	assert_string_equal(blocks[0].path, "/huge/ram0");
	assert_int_equal(blocks[0].length_bytes, 2097152);
	assert_true(blocks[0].shared);
	assert_string_equal(blocks[1].idstr, "anon");
	assert_null(blocks[1].path);
	assert_false(blocks[1].shared);
	assert_string_equal(blocks[2].idstr, "");
	assert_null(blocks[2].path);
	hf_qmp_vm_blocks_free(blocks, count);
	hf_qmp_vm_blocks_free(NULL, 3);
}

static void nonsense_about_memory_is_refused(void **state)
{
	struct fixture *fixture = *state;
	static const char *const answers[] = {
	    "{}", "[7]", "[{\"id\":\"a\"}]", "[{\"id\":5,\"size\":1}]",
	    "[{\"id\":\"ram0\",\"size\":4096},{\"id\":\"b\",\"size\":-4096}]"};
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		struct hf_qmp_vm_block *blocks = NULL;
		uint32_t count = 77;
		open_vm(fixture, (struct fake_vm_script){.memory_backends = answers[i]});
		assert_int_equal(hf_qmp_vm_blocks(fixture->vm, &blocks, &count, NULL), -EPROTO);
		assert_null(blocks);
		assert_int_equal(count, 77);
		close_vm(fixture);
	}
}

static void quit_ends_the_vmm_and_a_refusal_is_an_error(void **state)
{
	struct fixture *fixture = *state;
	open_vm(fixture, (struct fake_vm_script){.refuse = "quit"});
	assert_int_equal(hf_qmp_vm_quit(fixture->vm, NULL), -EREMOTEIO);
	close_vm(fixture);
	open_vm(fixture, (struct fake_vm_script){0});
	assert_int_equal(hf_qmp_vm_quit(fixture->vm, NULL), 0);
	int wait_status;
	assert_int_equal(waitpid(fixture->machine.pid, &wait_status, 0), fixture->machine.pid);
	assert_true(WIFEXITED(wait_status));
	fixture->machine.pid = 0;
}

static void a_vmm_that_is_not_there_is_an_error_that_names_the_socket(void **state)
{
	struct fixture *fixture = *state;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_qmp_vm_create(&fixture->vm, fixture->directory.socket_path, &err), -ENOENT);
	assert_null(fixture->vm);
	assert_non_null(strstr(err.text, fixture->directory.socket_path));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_vm_is_stopped_saved_resumed_loaded_and_run),
	    TEST(without_events_states_are_asked_for),
	    TEST(a_vmm_without_capability_commands_works),
	    TEST(a_vmm_whose_migrate_stops_nothing_is_stopped_before),
	    TEST(stop_begins_the_save_of_a_vm_that_stands_still_from_then_on),
	    TEST(a_save_that_stop_has_begun_is_broken_off_by_resume),
	    TEST(a_vm_whose_save_fails_after_it_was_stopped_runs_on),
	    TEST(a_vmm_that_would_run_what_it_has_loaded_is_told_to_wait),
	    TEST(a_vm_that_was_loaded_and_stands_still_is_run_without_a_question),
	    TEST(a_vmm_that_says_nothing_of_its_incoming_migration_is_judged_by_its_status),
	    TEST(a_state_of_one_byte_and_of_many_megabytes_pass_whole),
	    TEST(capabilities_are_set_for_saving_and_put_back),
	    TEST(who_goes_on_for_a_program_that_was_killed_puts_all_settings_back),
	    TEST(without_a_note_of_the_settings_memory_is_in_the_stream_again),
	    TEST(a_bandwidth_that_is_not_lifted_is_not_put_back),
	    TEST(a_vmm_that_was_prepared_and_never_loaded_is_left_as_it_was),
	    TEST(a_vmm_that_dies_at_any_command_is_named_and_nothing_is_left),
	    TEST(a_vmm_that_dies_in_the_stream_is_named),
	    TEST(a_vmm_killed_between_operations_fails_the_next_one),
	    TEST(a_refusal_at_any_step_is_passed_on),
	    TEST(a_vm_that_somebody_else_has_stopped_is_left_as_it_is),
	    TEST(a_failed_migration_of_device_state_gives_the_vmms_own_reason),
	    TEST(a_vmm_that_loads_half_the_state_is_not_believed),
	    TEST(a_state_past_the_limit_is_refused_and_the_vm_can_be_resumed),
	    TEST(a_save_knows_no_limit_of_bandwidth_and_leaves_it_as_it_was),
	    TEST(a_save_of_no_bytes_is_an_error),
	    TEST(a_vm_that_cannot_run_after_cont_is_an_error),
	    TEST(a_vm_that_runs_is_run_again_without_a_cont),
	    TEST(only_a_vmm_that_says_so_has_not_run_its_vm),
	    TEST(a_vm_whose_save_was_broken_off_is_resumed_when_qemu_is_through_with_it),
	    TEST(a_vmm_silent_after_cont_may_have_run_its_vm),
	    TEST(destroy_ends_every_request_exactly_once_also_in_the_middle_of_a_load),
	    TEST(bad_requests_are_refused_at_once),
	    TEST(a_request_before_start_is_refused),
	    TEST(vcpu_threads_come_in_the_order_of_cpu_index),
	    TEST(nonsense_about_vcpus_is_refused),
	    TEST(memory_backends_are_listed_and_those_without_a_file_have_no_path),
	    TEST(nonsense_about_memory_is_refused),
	    TEST(quit_ends_the_vmm_and_a_refusal_is_an_error),
	    TEST(a_vmm_that_is_not_there_is_an_error_that_names_the_socket),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
