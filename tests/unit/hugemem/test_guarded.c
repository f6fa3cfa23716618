/* SPDX-License-Identifier: Apache-2.0 */
/* A page that is gone is an error to who asks and death to everyone else. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "hugemem/guarded.h"

#define PAGE  4096u
#define PAGES 4u

/* The last two of four pages lie behind the end of the file. */
static uint8_t *map_half_gone(void)
{
	int fd = memfd_create("half", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, PAGES * PAGE), 0);
	uint8_t *bytes = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(bytes, MAP_FAILED);
	bytes[PAGE] = 1;
	bytes[3 * PAGE] = 1;
	assert_int_equal(ftruncate(fd, PAGES / 2 * PAGE), 0);
	close(fd);
	return bytes;
}

static void check_all(uint8_t *bytes)
{
	bool zero = false;
	assert_int_equal(hf_guarded_is_zero(bytes, PAGE, &zero), 0);
	assert_true(zero);
	assert_int_equal(hf_guarded_is_zero(bytes, 2 * PAGE, &zero), 0);
	assert_false(zero);
	assert_int_equal(hf_guarded_is_zero(bytes + 2 * PAGE, PAGE, &zero), -EIO);
	assert_int_equal(hf_guarded_clear(bytes + 3 * PAGE, PAGE), -EIO);
	assert_int_equal(hf_guarded_clear(bytes + PAGE, PAGE), 0);
	assert_int_equal(bytes[PAGE], 0);
	assert_int_equal(hf_guarded_clear(bytes + PAGE, 2 * PAGE), -EIO);
}

static void pages_that_are_gone_are_errors(void **state)
{
	(void)state;
	uint8_t *bytes = map_half_gone();
	check_all(bytes);
	munmap(bytes, PAGES * PAGE);
}

static void *check_in_thread(void *bytes)
{
	check_all(bytes);
	return NULL;
}

static void a_thread_that_blocks_all_signals_lives_too(void **state)
{
	(void)state;
	uint8_t *bytes = map_half_gone();
	pthread_t thread;
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	assert_int_equal(pthread_create(&thread, NULL, check_in_thread, bytes), 0);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_join(thread, NULL);
	munmap(bytes, PAGES * PAGE);
}

/* In a child: once within a guarded call, once outside. */
static void other_accesses_still_kill(void **state)
{
	(void)state;
	uint8_t *bytes = map_half_gone();
	int status;
	pid_t child = fork();
	if (child == 0) {
		bool zero;
		int result = hf_guarded_is_zero(bytes + 2 * PAGE, PAGE, &zero);
		_exit(result == -EIO ? *(volatile uint8_t *)(bytes + 2 * PAGE) : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	munmap(bytes, PAGES * PAGE);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGBUS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(pages_that_are_gone_are_errors),
	    cmocka_unit_test(other_accesses_still_kill),
	    cmocka_unit_test(a_thread_that_blocks_all_signals_lives_too),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
