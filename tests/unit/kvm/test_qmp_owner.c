/* SPDX-License-Identifier: Apache-2.0 */
/* Which process is taken for the VMM at a socket. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm/qmp_owner.h"
#include "raw_qmp.h"

static int set_up(void **state)
{
	static struct raw_directory directory;
	raw_directory_make(&directory);
	*state = &directory;
	return 0;
}

static int tear_down(void **state)
{
	struct raw_directory *directory = *state;
	unlink(directory->socket_path);
	raw_directory_remove(directory);
	return 0;
}

/* A process that has what this one has, and does nothing. */
static pid_t heir(void)
{
	pid_t parent = getpid();
	pid_t pid = fork();
	assert_return_code(pid, errno);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			pause();
		_exit(0);
	}
	return pid;
}

static void end(pid_t pid)
{
	assert_return_code(kill(pid, SIGKILL), errno);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* Connects and asks. */
static int owner_of(const char *path, struct ucred *owner, struct hf_err *err)
{
	struct raw_qmp raw;
	raw_connect(&raw, path);
	int r = hf_qmp_owner(raw.fd, owner, err);
	raw_close(&raw);
	return r;
}

static void who_listens_and_has_the_socket_is_the_vmm(void **state)
{
	const struct raw_directory *directory = *state;
	struct ucred owner;
	int fd = raw_listen(directory->socket_path);
	pid_t other = heir(); // has it too, as a child that was forked may
	assert_int_equal(owner_of(directory->socket_path, &owner, NULL), 0);
	assert_int_equal(owner.pid, getpid());
	assert_int_equal(owner.uid, geteuid());
	close(fd);
	end(other);
}

static void who_was_given_the_socket_is_the_vmm(void **state)
{
	const struct raw_directory *directory = *state;
	struct ucred owner;
	int fd = raw_listen(directory->socket_path);
	pid_t vmm = heir();
	close(fd);
	assert_int_equal(owner_of(directory->socket_path, &owner, NULL), 0);
	assert_int_equal(owner.pid, vmm);
	assert_int_equal(owner.uid, geteuid());
	end(vmm);
}

static void two_who_were_given_it_are_no_vmm(void **state)
{
	const struct raw_directory *directory = *state;
	struct ucred owner;
	struct hf_err err = HF_ERR_INIT;
	int fd = raw_listen(directory->socket_path);
	pid_t one = heir(), other = heir();
	close(fd);
	assert_int_equal(owner_of(directory->socket_path, &owner, &err), -ENXIO);
	assert_non_null(strstr(err.text, "let the VMM make it"));
	end(one);
	end(other);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(who_listens_and_has_the_socket_is_the_vmm),
	    TEST(who_was_given_the_socket_is_the_vmm),
	    TEST(two_who_were_given_it_are_no_vmm),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
