/* SPDX-License-Identifier: Apache-2.0 */
/*
 * death.h - checks that a breach of a thread rule ends the process.
 *
 * Purpose: runs the breach in a child and checks that it aborts and what it says. Without the assertions of
 * a developer build (core/lock.h) the running test is skipped.
 * Ownership, threads: the child is a fork of the calling thread, so the test must have no other that matters.
 * Units: none.
 * Errors: a check that fails ends the test.
 */
#ifndef HF_TESTS_DEATH_H
#define HF_TESTS_DEATH_H

#include "tests/unit/core/cmocka_setup.h"

#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static inline _Noreturn void die(int stderr_fd, void (*breach)(void *opaque), void *opaque)
{
	const struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	signal(SIGABRT, SIG_DFL);
	dup2(stderr_fd, STDERR_FILENO);
	breach(opaque);
	_exit(0);
}

static inline void assert_dies(void (*breach)(void *opaque), void *opaque, const char *says)
{
#ifdef HF_LOCK_CHECKS
	const bool checked = true;
#else
	const bool checked = false;
#endif
	if (!checked) {
		print_message("thread rules are asserted in developer builds only\n");
		skip();
	}

	int pipe_fds[2];
	assert_int_equal(pipe(pipe_fds), 0);
	pid_t child = fork();
	assert_true(child >= 0);
	if (child == 0)
		die(pipe_fds[1], breach, opaque);
	close(pipe_fds[1]);

	char text[4096];
	size_t used = 0;
	ssize_t got;
	while ((got = read(pipe_fds[0], text + used, sizeof(text) - 1 - used)) > 0)
		used += (size_t)got;
	text[used] = '\0';
	close(pipe_fds[0]);
	int status = 0;
	assert_int_equal(waitpid(child, &status, 0), child);
	if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGABRT || !strstr(text, says))
		fail_msg("wanted an abort that says \"%s\"; got status 0x%x and: %s", says, status, text);
}

#endif
