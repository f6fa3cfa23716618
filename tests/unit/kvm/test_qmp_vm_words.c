/* SPDX-License-Identifier: Apache-2.0 */
/* What the VM adapter passes on of a VMM's own words, and whether it knows its version. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vm_fixture.h"

#define OLD_WORDS "before anybody came"
#define WORDS	  "Unknown section 'rng' 0.\nload of migration failed\t: Invalid argument"

static int make_log(void)
{
	int fd = memfd_create("log", MFD_CLOEXEC);
	assert_true(fd > 0);
	dprintf(fd, OLD_WORDS "\n");
	return fd;
}

static void load_with(struct fixture *fixture, struct fake_vm_script script)
{
	script.migration_error = "load of migration failed";
	fixture->state_bytes = STATE_BYTES;
	fixture->state = malloc(STATE_BYTES);
	for (size_t i = 0; i < STATE_BYTES; i++)
		fixture->state[i] = fake_vm_state_byte(i);
	open_vm(fixture, script);
}

static void a_vmm_that_need_not_end_is_told_to_stay_and_says_why(void **state)
{
	struct fixture *fixture = *state;
	load_with(fixture, script_for(HF_VM_LOAD));
	expect_failure(fixture, HF_VM_LOAD, EREMOTEIO,
		       "says failed about its device state: load of migration");
	assert_int_equal(waitpid(fixture->machine.pid, NULL, WNOHANG), 0);
}

static void the_last_words_of_one_that_ends_are_passed_on_as_one_line(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_LOAD);
	script.exits_on_error = true;
	script.log_fd = make_log();
	script.last_words = WORDS;
	load_with(fixture, script);
	struct end end = run(fixture, HF_VM_LOAD);
	assert_int_equal(end.result, -ECONNRESET);
	assert_non_null(strstr(end.err.text, "; its log says: Unknown section 'rng' 0.; load of migration "
					     "failed?: Invalid argument"));
	assert_null(strstr(end.err.text, OLD_WORDS));
	close(script.log_fd);
}

static void words_longer_than_an_error_are_cut(void **state)
{
	struct fixture *fixture = *state;
	char words[4000];
	struct fake_vm_script script = script_for(HF_VM_LOAD);
	memset(words, 'x', sizeof(words));
	words[sizeof(words) - 1] = '\0';
	script.log_fd = make_log();
	script.last_words = words;
	load_with(fixture, script);
	struct end end = run(fixture, HF_VM_LOAD);
	assert_int_equal(end.result, -EREMOTEIO);
	assert_int_equal(strlen(end.err.text), sizeof(end.err.text) - 1);
	close(script.log_fd);
}

static void a_log_that_is_a_pipe_is_left_to_who_reads_it(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = script_for(HF_VM_LOAD);
	int ends[2];
	char read_here[sizeof(WORDS) + 1];
	assert_return_code(pipe2(ends, O_CLOEXEC), errno);
	script.log_fd = ends[1];
	script.last_words = WORDS;
	load_with(fixture, script);
	struct end end = run(fixture, HF_VM_LOAD);
	assert_null(strstr(end.err.text, "its log says"));
	assert_int_equal(read(ends[0], read_here, sizeof(read_here)), sizeof(WORDS));
	close(ends[0]);
	close(ends[1]);
}

static void expect_version(struct fixture *fixture, const char *answer, const char *version, bool tested)
{
	char text[64];
	bool is_tested = !tested;
	struct fake_vm_script script = script_for(HF_VM_STOP);
	script.version = answer;
	open_vm(fixture, script);
	assert_int_equal(hf_qmp_vm_version(fixture->vm, text, sizeof(text), &is_tested, NULL), 0);
	assert_string_equal(text, version);
	assert_int_equal(is_tested, tested);
	close_vm(fixture);
}

static void a_version_that_was_not_tested_is_known_as_such(void **state)
{
	struct fixture *fixture = *state;
	expect_version(fixture, "{\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 22}, \"package\": \"x\"}",
		       "QEMU 7.2.22", true);
	expect_version(fixture, "{\"qemu\": {\"major\": 10, \"minor\": 0, \"micro\": 2}}", "QEMU 10.0.2",
		       true);
	expect_version(fixture, "{\"qemu\": {\"major\": 10, \"minor\": 1, \"micro\": 0}}", "QEMU 10.1.0",
		       false);
	expect_version(fixture, "{\"qemu\": {\"major\": 8, \"minor\": 2, \"micro\": 0}}", "QEMU 8.2.0",
		       false);
	expect_version(fixture, "{\"qemu\": 7}", "QEMU 0.0.0", false);
}

static void a_vmm_that_knows_no_versions_is_no_qemu(void **state)
{
	struct fixture *fixture = *state;
	expect_version(fixture, NULL, "", true);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_vmm_that_need_not_end_is_told_to_stay_and_says_why),
	    TEST(the_last_words_of_one_that_ends_are_passed_on_as_one_line),
	    TEST(words_longer_than_an_error_are_cut),
	    TEST(a_log_that_is_a_pipe_is_left_to_who_reads_it),
	    TEST(a_version_that_was_not_tested_is_known_as_such),
	    TEST(a_vmm_that_knows_no_versions_is_no_qemu),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
