/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about child processes: what is kept of their words, how their end is learnt, that none survives. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "deploy/children.h"

static void start(struct hf_child *child, const char *script)
{
	const char *argv[] = {"/bin/sh", "-c", script, NULL};
	assert_int_equal(hf_child_start(child, "child", argv, NULL), 0);
}

static void wait_end(struct hf_child *child)
{
	struct hf_child *children[] = {child};
	while (!child->ended)
		hf_children_pump(children, 1, -1, -1);
}

static void the_last_line_of_stderr_is_what_failed(void **state)
{
	(void)state;
	struct hf_child child;
	char line[64];
	start(&child, "echo first >&2; echo 'the last' >&2; exit 7");
	wait_end(&child);
	assert_int_equal(child.exit_code, 7);
	hf_child_last_line(&child, line, sizeof(line));
	assert_string_equal(line, "the last");
	hf_child_end(&child);
}

static void the_last_line_survives_a_flood(void **state)
{
	(void)state;
	struct hf_child child;
	char line[16];
	start(&child, "i=0; while [ $i -lt 3000 ]; do echo line $i >&2; echo out $i; i=$((i+1)); done");
	wait_end(&child);
	hf_child_last_line(&child, line, sizeof(line));
	assert_string_equal(line, "line 2999");
	assert_memory_equal(child.out.text, "out 0\n", 6);
	hf_child_end(&child);
}

static void a_killed_child_has_128_and_the_signal(void **state)
{
	(void)state;
	struct hf_child child;
	start(&child, "kill -KILL $$");
	wait_end(&child);
	assert_int_equal(child.exit_code, 128 + SIGKILL);
	hf_child_end(&child);
}

static void end_kills_what_still_runs(void **state)
{
	(void)state;
	struct hf_child child;
	start(&child, "trap '' TERM INT; while :; do read x </dev/zero; done");
	pid_t pid = child.pid;
	hf_child_end(&child);
	assert_int_equal(kill(pid, 0), -1);
	assert_int_equal(errno, ESRCH);
	hf_child_end(&child);
}

static void a_program_that_is_not_there_ends_with_127(void **state)
{
	(void)state;
	struct hf_child child;
	char line[64];
	const char *argv[] = {"/nowhere/program", NULL};
	assert_int_equal(hf_child_start(&child, "child", argv, NULL), 0);
	wait_end(&child);
	assert_int_equal(child.exit_code, 127);
	hf_child_last_line(&child, line, sizeof(line));
	assert_string_equal(line, "No such file or directory");
	hf_child_end(&child);
}

static void a_child_does_not_inherit_blocked_signals(void **state)
{
	(void)state;
	struct hf_child child;
	sigset_t set, before;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, &before);
	start(&child, "while :; do read x </dev/zero; done");
	hf_child_signal(&child, SIGTERM);
	wait_end(&child);
	assert_int_equal(child.exit_code, 128 + SIGTERM);
	sigprocmask(SIG_SETMASK, &before, NULL);
	hf_child_end(&child);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_last_line_of_stderr_is_what_failed),
	    cmocka_unit_test(the_last_line_survives_a_flood),
	    cmocka_unit_test(a_killed_child_has_128_and_the_signal),
	    cmocka_unit_test(end_kills_what_still_runs),
	    cmocka_unit_test(a_program_that_is_not_there_ends_with_127),
	    cmocka_unit_test(a_child_does_not_inherit_blocked_signals),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
