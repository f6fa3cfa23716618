/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Claims about the control socket: commands reach the program's main thread with their arguments, what the
 * program cannot do is not there, events tell each change once and in order, nobody waits for ever.
 */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "deploy/control.h"
#include "tests/unit/core/cmocka_setup.h"
#include "tests/unit/kvm/raw_qmp.h"

#define ALL_PARAMETERS                                                                                       \
	(HF_CONTROL_MAX_BANDWIDTH | HF_CONTROL_MAX_POSTCOPY_BANDWIDTH | HF_CONTROL_DOWNTIME_LIMIT)
#define DONE "{\"return\": {}}"

/* The program: this thread is its main thread. */
struct program {
	struct raw_directory directory;
	char target[128];
	sem_t woken;
	struct hf_control *control;
	pthread_t main_thread;
	char called[256]; /* the operations, in order */
	struct hf_control_parameters parameters;
	const char *refusal; /* of the next operation */
	int queries;	     /* the QMP thread's own while the control lives */
};

static void wake(void *opaque)
{
	struct program *program = opaque;
	sem_post(&program->woken);
}

static int called(struct program *program, const char *name, const char *argument, struct hf_err *err)
{
	assert_true(pthread_equal(pthread_self(), program->main_thread));
	size_t used = strlen(program->called);
	snprintf(program->called + used, sizeof(program->called) - used, "%s(%s) ", name, argument);
	return program->refusal ? hf_err_set(err, HF_ERR_LOCAL, EPERM, "%s", program->refusal) : 0;
}

static int start_postcopy(void *opaque, struct hf_err *err)
{
	return called(opaque, "start_postcopy", "", err);
}

static int pause_link(void *opaque, struct hf_err *err)
{
	return called(opaque, "pause", "", err);
}

static int recover(void *opaque, const char *uri, struct hf_err *err)
{
	return called(opaque, "recover", uri, err);
}

static int resume(void *opaque, const char *uri, struct hf_err *err)
{
	return called(opaque, "resume", uri, err);
}

static int cancel(void *opaque, struct hf_err *err)
{
	return called(opaque, "cancel", "", err);
}

static int poison_missing(void *opaque, struct hf_err *err)
{
	return called(opaque, "poison_missing", "", err);
}

static int set_parameters(void *opaque, const struct hf_control_parameters *parameters, struct hf_err *err)
{
	struct program *program = opaque;
	program->parameters = *parameters;
	return called(program, "set_parameters", "", err);
}

static void get_parameters(void *opaque, struct hf_control_parameters *parameters)
{
	const struct program *program = opaque;
	*parameters = program->parameters;
}

static json_t *query(void *opaque)
{
	struct program *program = opaque;
	return json_pack("{s:i}", "asked", ++program->queries);
}

static const struct hf_control_ops all_ops = {
    .start_postcopy = start_postcopy,
    .pause = pause_link,
    .recover = recover,
    .resume = resume,
    .cancel = cancel,
    .poison_missing = poison_missing,
    .set_parameters = set_parameters,
    .get_parameters = get_parameters,
};

static void start(struct program *program, const struct hf_control_ops *ops, unsigned parameters)
{
	struct hf_err err = HF_ERR_INIT;
	memset(program, 0, sizeof(*program));
	raw_directory_make(&program->directory);
	snprintf(program->target, sizeof(program->target), "unix:%s", program->directory.socket_path);
	sem_init(&program->woken, 0, 0);
	program->main_thread = pthread_self();
	struct hf_control_config config = {
	    .target = program->target,
	    .ops = *ops,
	    .opaque = program,
	    .parameters = parameters,
	    .wake = wake,
	    .wake_opaque = program,
	};
	assert_int_equal(hf_control_create(&program->control, &config, &err), 0);
}

static void end(struct program *program)
{
	hf_control_destroy(program->control);
	raw_directory_remove(&program->directory);
	sem_destroy(&program->woken);
}

static void wait_woken(struct program *program)
{
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += RAW_TIMEOUT_MS / 1000;
	assert_int_equal(sem_timedwait(&program->woken, &until), 0);
}

static void ask(struct raw_qmp *raw, const char *command, const char *arguments)
{
	char text[512];
	snprintf(text, sizeof(text), "{\"execute\": \"%s\", \"arguments\": %s}\n", command, arguments);
	raw_send(raw, text);
}

/* The command is run by this thread, as by a program's main thread. */
static void run(struct program *program, struct raw_qmp *raw, const char *command, const char *arguments,
		const char *reply)
{
	ask(raw, command, arguments);
	wait_woken(program);
	hf_control_run(program->control);
	raw_expect(raw, reply);
}

/* It is answered without the main thread. */
static void refused(struct raw_qmp *raw, const char *command, const char *arguments, const char *class,
		    const char *desc)
{
	char reply[512];
	snprintf(reply, sizeof(reply), "{\"error\": {\"class\": \"%s\", \"desc\": \"%s\"}}", class, desc);
	ask(raw, command, arguments);
	raw_expect(raw, reply);
}

static void each_command_reaches_its_operation_in_the_main_thread(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, ALL_PARAMETERS);
	raw_negotiate(&raw, program.directory.socket_path);
	run(&program, &raw, "migrate-start-postcopy", "{}", DONE);
	run(&program, &raw, "migrate-pause", "{}", DONE);
	run(&program, &raw, "migrate-recover", "{\"uri\": \"tcp:a:1\"}", DONE);
	run(&program, &raw, "migrate", "{\"uri\": \"unix:/b\", \"resume\": true, \"detach\": true}", DONE);
	run(&program, &raw, "migrate_cancel", "{}", DONE);
	run(&program, &raw, "x-poison-missing", "{}", DONE);
	assert_string_equal(
	    program.called,
	    "start_postcopy() pause() recover(tcp:a:1) resume(unix:/b) cancel() poison_missing() ");
	raw_close(&raw);
	end(&program);
}

static void only_parameters_that_are_given_are_set(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, ALL_PARAMETERS);
	raw_negotiate(&raw, program.directory.socket_path);
	run(&program, &raw, "migrate-set-parameters",
	    "{\"max-bandwidth\": 9223372036854775807, \"downtime-limit\": 2000000}", DONE);
	assert_int_equal(program.parameters.present, HF_CONTROL_MAX_BANDWIDTH | HF_CONTROL_DOWNTIME_LIMIT);
	assert_true(program.parameters.max_bandwidth_bytes_per_s == INT64_MAX);
	assert_int_equal(program.parameters.downtime_limit_ms, 2000000);
	run(&program, &raw, "query-migrate-parameters", "{}",
	    "{\"return\": {\"max-bandwidth\": 9223372036854775807, \"downtime-limit\": 2000000}}");
	run(&program, &raw, "migrate-set-parameters", "{\"max-postcopy-bandwidth\": 0}", DONE);
	assert_int_equal(program.parameters.present, HF_CONTROL_MAX_POSTCOPY_BANDWIDTH);
	assert_int_equal(program.parameters.max_postcopy_bandwidth_bytes_per_s, 0);
	raw_close(&raw);
	end(&program);
}

static void wrong_arguments_never_reach_the_program(void **state)
{
	(void)state;
	static const char *const wrong[][3] = {
	    {"migrate-start-postcopy", "{\"now\": true}", "Parameter 'now' is unexpected"},
	    {"migrate-pause", "{\"uri\": \"a\"}", "Parameter 'uri' is unexpected"},
	    {"migrate_cancel", "{\"id\": 1}", "Parameter 'id' is unexpected"},
	    {"query-migrate", "{\"all\": true}", "Parameter 'all' is unexpected"},
	    {"query-migrate-parameters", "{\"all\": true}", "Parameter 'all' is unexpected"},
	    {"migrate-recover", "{}", "Parameter 'uri' is missing"},
	    {"migrate-recover", "{\"uri\": 1}", "Invalid parameter type for 'uri', expected: string"},
	    {"migrate-recover", "{\"uri\": \"a\", \"resume\": true}", "Parameter 'resume' is unexpected"},
	    {"migrate", "{\"resume\": true}", "Parameter 'uri' is missing"},
	    {"migrate", "{\"uri\": null, \"resume\": true}",
	     "Invalid parameter type for 'uri', expected: string"},
	    {"migrate", "{\"uri\": \"a\", \"resume\": \"yes\"}",
	     "Invalid parameter type for 'resume', expected: boolean"},
	    {"migrate", "{\"uri\": \"a\", \"blk\": true}", "Parameter 'blk' is unexpected"},
	    {"migrate-set-parameters", "{\"max-bandwidth\": \"1G\"}",
	     "Invalid parameter type for 'max-bandwidth', expected: integer"},
	    {"migrate-set-parameters", "{\"max-bandwidth\": 1.5}",
	     "Invalid parameter type for 'max-bandwidth', expected: integer"},
	    {"migrate-set-parameters", "{\"max-postcopy-bandwidth\": -1}",
	     "Parameter 'max-postcopy-bandwidth' expects a number from 0 to 9223372036854775807"},
	    {"migrate-set-parameters", "{\"downtime-limit\": 2000001}",
	     "Parameter 'downtime-limit' expects a number from 0 to 2000000"},
	    {"migrate-set-parameters", "{\"multifd-channels\": 2}",
	     "Parameter 'multifd-channels' is unexpected"},
	};
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, ALL_PARAMETERS);
	raw_negotiate(&raw, program.directory.socket_path);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		refused(&raw, wrong[i][0], wrong[i][1], "GenericError", wrong[i][2]);
	assert_int_equal(sem_trywait(&program.woken), -1);
	assert_string_equal(program.called, "");
	raw_close(&raw);
	end(&program);
}

static void a_second_migration_is_refused_and_says_why(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, 0);
	raw_negotiate(&raw, program.directory.socket_path);
	for (int i = 0; i < 2; i++) {
		ask(&raw, "migrate", i ? "{\"uri\": \"a\", \"resume\": false}" : "{\"uri\": \"a\"}");
		json_t *reply = raw_receive(&raw);
		const char *desc =
		    json_string_value(json_object_get(json_object_get(reply, "error"), "desc"));
		assert_non_null(desc);
		assert_non_null(strstr(desc, "named on its command line"));
		json_decref(reply);
	}
	assert_string_equal(program.called, "");
	raw_close(&raw);
	end(&program);
}

static void what_the_program_cannot_do_is_not_there(void **state)
{
	(void)state;
	static const char *const absent[] = {
	    "migrate_cancel", "migrate-start-postcopy", "migrate-pause",	  "migrate-recover",
	    "migrate",	      "x-poison-missing",	"migrate-set-parameters", "query-migrate-parameters",
	    "query-status"};
	static const struct hf_control_ops none = {0};
	struct program program;
	struct raw_qmp raw;
	char desc[128];
	start(&program, &none, ALL_PARAMETERS);
	raw_negotiate(&raw, program.directory.socket_path);
	for (size_t i = 0; i < sizeof(absent) / sizeof(absent[0]); i++) {
		snprintf(desc, sizeof(desc), "The command %s has not been found", absent[i]);
		refused(&raw, absent[i], "{}", "CommandNotFound", desc);
	}
	ask(&raw, "query-commands", "{}");
	raw_expect(&raw, "{\"return\": [{\"name\": \"qmp_capabilities\"}, {\"name\": \"query-commands\"},"
			 " {\"name\": \"query-migrate\"}]}");
	raw_close(&raw);
	end(&program);
}

static void a_parameter_that_cannot_be_set_is_not_there(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, HF_CONTROL_MAX_POSTCOPY_BANDWIDTH);
	raw_negotiate(&raw, program.directory.socket_path);
	refused(&raw, "migrate-set-parameters", "{\"max-bandwidth\": 1}", "GenericError",
		"Parameter 'max-bandwidth' is unexpected");
	run(&program, &raw, "migrate-set-parameters", "{\"max-postcopy-bandwidth\": 5}", DONE);
	raw_close(&raw);
	end(&program);
}

static void a_refusal_of_the_program_reaches_the_client(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, 0);
	raw_negotiate(&raw, program.directory.socket_path);
	program.refusal = "the VM is the destination's";
	run(&program, &raw, "migrate_cancel", "{}",
	    "{\"error\": {\"class\": \"GenericError\", \"desc\": \"the VM is the destination's\"}}");
	program.refusal = NULL;
	run(&program, &raw, "migrate_cancel", "{}", DONE);
	raw_close(&raw);
	end(&program);
}

static void expect_event(struct raw_qmp *raw, const char *status)
{
	char text[128];
	snprintf(text, sizeof(text),
		 "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"%s\"}, \"timestamp\": \"*\"}", status);
	raw_expect(raw, text);
}

static void each_change_is_told_once_and_in_order(void **state)
{
	(void)state;
	static const enum hf_status seen[] = {HF_STATUS_NONE,
					      HF_STATUS_SETUP,
					      HF_STATUS_SETUP,
					      HF_STATUS_ACTIVE,
					      HF_STATUS_DEVICE,
					      HF_STATUS_POSTCOPY_ACTIVE,
					      HF_STATUS_POSTCOPY_ACTIVE,
					      HF_STATUS_POSTCOPY_PAUSED,
					      HF_STATUS_POSTCOPY_ACTIVE,
					      HF_STATUS_COMPLETED,
					      HF_STATUS_COMPLETED};
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, 0);
	raw_negotiate(&raw, program.directory.socket_path);
	for (size_t i = 0; i < sizeof(seen) / sizeof(seen[0]); i++) {
		hf_control_status(program.control, seen[i]);
		if (i && seen[i] != seen[i - 1])
			expect_event(&raw, hf_status_name(seen[i]));
	}
	end(&program);
	raw_expect_end(&raw); // and nothing else has been said
	raw_close(&raw);
}

static void states_no_snapshot_showed_are_told_if_they_were_passed(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, 0);
	raw_negotiate(&raw, program.directory.socket_path);
	hf_control_status(program.control, HF_STATUS_POSTCOPY_ACTIVE);
	hf_control_status(program.control, HF_STATUS_COMPLETED);
	static const char *const told[] = {"setup", "active", "device", "postcopy-active", "completed"};
	for (size_t i = 0; i < sizeof(told) / sizeof(told[0]); i++)
		expect_event(&raw, told[i]);
	end(&program);
	raw_expect_end(&raw);
	raw_close(&raw);
}

static void states_that_may_have_been_left_out_are_not_made_up(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, 0);
	raw_negotiate(&raw, program.directory.socket_path);
	hf_control_status(program.control, HF_STATUS_SETUP);
	hf_control_status(program.control, HF_STATUS_FAILED); // perhaps active was between, perhaps not
	expect_event(&raw, "setup");
	expect_event(&raw, "failed");
	end(&program);
	raw_expect_end(&raw);
	raw_close(&raw);
}

static void before_anything_has_started_query_migrate_is_empty(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, 0);
	raw_negotiate(&raw, program.directory.socket_path);
	ask(&raw, "query-migrate", "{}");
	raw_expect(&raw, DONE);
	hf_control_set_query(program.control, query, &program);
	ask(&raw, "query-migrate", "{}");
	raw_expect(&raw, "{\"return\": {\"asked\": 1}}");
	raw_close(&raw);
	end(&program);
}

/* It needs no main thread, and each of a thousand costs no snapshot. */
static void a_flood_of_queries_is_answered_from_few_snapshots(void **state)
{
	(void)state;
	enum { QUERIES = 1000 };
	struct program program;
	struct raw_qmp raw;
	struct timespec before, after;
	start(&program, &all_ops, 0);
	hf_control_set_query(program.control, query, &program);
	raw_negotiate(&raw, program.directory.socket_path);
	clock_gettime(CLOCK_MONOTONIC, &before);
	for (int i = 0; i < QUERIES; i++) {
		ask(&raw, "query-migrate", "{}");
		raw_expect(&raw, "{\"return\": {\"asked\": \"*\"}}");
	}
	clock_gettime(CLOCK_MONOTONIC, &after);
	double took_ms =
	    (double)(after.tv_sec - before.tv_sec) * 1e3 + (double)(after.tv_nsec - before.tv_nsec) / 1e6;
	raw_close(&raw);
	end(&program);
	assert_true(program.queries >= 1 && program.queries <= 2 + took_ms / 5);
	assert_int_equal(strlen(program.called), 0);
}

static void a_query_after_an_event_or_a_reply_is_made_afresh(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, 0);
	hf_control_set_query(program.control, query, &program);
	raw_negotiate(&raw, program.directory.socket_path);
	ask(&raw, "query-migrate", "{}");
	raw_expect(&raw, "{\"return\": {\"asked\": 1}}");
	hf_control_status(program.control, HF_STATUS_SETUP);
	expect_event(&raw, "setup");
	ask(&raw, "query-migrate", "{}");
	raw_expect(&raw, "{\"return\": {\"asked\": 2}}");
	run(&program, &raw, "migrate_cancel", "{}", DONE);
	ask(&raw, "query-migrate", "{}");
	raw_expect(&raw, "{\"return\": {\"asked\": 3}}");
	raw_close(&raw);
	end(&program);
}

static void a_command_that_waits_at_the_end_is_told_so(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp raw;
	start(&program, &all_ops, 0);
	raw_negotiate(&raw, program.directory.socket_path);
	ask(&raw, "migrate_cancel", "{}");
	wait_woken(&program);
	end(&program);
	raw_expect(&raw, "{\"error\": {\"class\": \"GenericError\", \"desc\": \"the migration has ended\"}}");
	raw_expect_end(&raw);
	raw_close(&raw);
	assert_string_equal(program.called, "");
}

static void a_client_that_leaves_while_its_command_waits_hurts_nobody(void **state)
{
	(void)state;
	struct program program;
	struct raw_qmp gone, raw;
	start(&program, &all_ops, 0);
	raw_negotiate(&gone, program.directory.socket_path);
	ask(&gone, "migrate-pause", "{}");
	wait_woken(&program);
	raw_close(&gone);
	hf_control_run(program.control);
	raw_negotiate(&raw, program.directory.socket_path);
	run(&program, &raw, "migrate_cancel", "{}", DONE);
	assert_string_equal(program.called, "pause() cancel() ");
	raw_close(&raw);
	end(&program);
}

static void the_socket_is_the_owners_alone_and_one_in_use_is_refused(void **state)
{
	(void)state;
	struct program program;
	struct stat stat_of_socket;
	struct hf_control *second = NULL;
	struct hf_err err = HF_ERR_INIT;
	start(&program, &all_ops, 0);
	assert_int_equal(stat(program.directory.socket_path, &stat_of_socket), 0);
	assert_int_equal(stat_of_socket.st_mode & 0777, 0600);
	struct hf_control_config config = {.target = program.target, .wake = wake, .wake_opaque = &program};
	assert_int_equal(hf_control_create(&second, &config, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, program.directory.socket_path));
	config.target = "tcp:localhost:1";
	assert_int_equal(hf_control_create(&second, &config, &err), -EINVAL);
	assert_null(second);
	end(&program);
}

static void without_a_target_there_is_nothing_and_everything_may_be_called(void **state)
{
	(void)state;
	struct hf_control *control = (void *)&control;
	struct hf_control_config config = {0};
	assert_int_equal(hf_control_create(&control, &config, NULL), 0);
	assert_null(control);
	hf_control_run(control);
	hf_control_set_query(control, query, NULL);
	hf_control_status(control, HF_STATUS_SETUP);
	hf_control_destroy(control);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_command_reaches_its_operation_in_the_main_thread),
	    cmocka_unit_test(only_parameters_that_are_given_are_set),
	    cmocka_unit_test(wrong_arguments_never_reach_the_program),
	    cmocka_unit_test(a_second_migration_is_refused_and_says_why),
	    cmocka_unit_test(what_the_program_cannot_do_is_not_there),
	    cmocka_unit_test(a_parameter_that_cannot_be_set_is_not_there),
	    cmocka_unit_test(a_refusal_of_the_program_reaches_the_client),
	    cmocka_unit_test(each_change_is_told_once_and_in_order),
	    cmocka_unit_test(states_no_snapshot_showed_are_told_if_they_were_passed),
	    cmocka_unit_test(states_that_may_have_been_left_out_are_not_made_up),
	    cmocka_unit_test(before_anything_has_started_query_migrate_is_empty),
	    cmocka_unit_test(a_flood_of_queries_is_answered_from_few_snapshots),
	    cmocka_unit_test(a_query_after_an_event_or_a_reply_is_made_afresh),
	    cmocka_unit_test(a_command_that_waits_at_the_end_is_told_so),
	    cmocka_unit_test(a_client_that_leaves_while_its_command_waits_hurts_nobody),
	    cmocka_unit_test(the_socket_is_the_owners_alone_and_one_in_use_is_refused),
	    cmocka_unit_test(without_a_target_there_is_nothing_and_everything_may_be_called),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
