/* SPDX-License-Identifier: Apache-2.0 */
/* The probe says what trying says. Needs no rights: without them it must say so. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "hugemem/kernel_compat.h"
#include "hugemem/probe.h"
#include "hugemem/uffd_open.h"

static void flags_agree_with_the_feature_bits(void **state)
{
	(void)state;
	struct hf_probe probe;
	assert_int_equal(hf_probe(&probe, NULL), 0);
	assert_int_equal(probe.missing_hugetlbfs, !!(probe.features & UFFD_FEATURE_MISSING_HUGETLBFS));
	assert_int_equal(probe.minor_hugetlbfs, !!(probe.features & UFFD_FEATURE_MINOR_HUGETLBFS));
	assert_int_equal(probe.thread_id, !!(probe.features & UFFD_FEATURE_THREAD_ID));
	assert_int_equal(probe.exact_address, !!(probe.features & UFFD_FEATURE_EXACT_ADDRESS));
	assert_int_equal(probe.poison, !!(probe.features & UFFD_FEATURE_POISON));
	assert_int_equal(probe.wp_async, !!(probe.features & UFFD_FEATURE_WP_ASYNC));
	if (probe.userfaultfd)
		assert_int_equal(probe.pagemap_scan, probe.wp_async); // both came with Linux 6.7
	struct rlimit limit;
	assert_int_equal(getrlimit(RLIMIT_MEMLOCK, &limit), 0);
	assert_int_equal(probe.memlock_limit_bytes,
			 limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : limit.rlim_cur);
}

static void what_is_offered_can_be_opened_and_nothing_else(void **state)
{
	(void)state;
	struct hf_probe probe;
	struct hf_err err = HF_ERR_INIT;
	int fd;
	assert_int_equal(hf_probe(&probe, NULL), 0);
	if (!probe.kernel_faults) {
		assert_true(hf_uffd_open(&fd, 0, &err) < 0);
		assert_int_equal(probe.userfaultfd_errno, err.errnum);
		return;
	}
	assert_int_equal(probe.userfaultfd_errno, 0);
	assert_int_equal(hf_uffd_open(&fd, probe.features & UFFD_FEATURE_THREAD_ID, &err), 0);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	close(fd);
	assert_int_equal(hf_uffd_open(&fd, UINT64_C(1) << 60, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "bit 60"));
}

// In a child without rights: no userfaultfd with kernel faults, unless this host grants it to all.
static int probe_as_nobody(void)
{
	if (setgid(65534) || setuid(65534))
		return 3;
	struct hf_probe probe;
	struct hf_err err = HF_ERR_INIT;
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
	bool granted = fd >= 0 || access("/dev/userfaultfd", R_OK | W_OK) == 0;
	if (hf_probe(&probe, NULL) || probe.ipc_lock)
		return 1;
	if (granted)
		return probe.kernel_faults ? 0 : 1;
	if (probe.kernel_faults || !probe.userfaultfd_errno)
		return 1;
	return hf_uffd_open(&fd, 0, &err) < 0 && strstr(err.text, "CAP_SYS_PTRACE") ? 0 : 2;
}

static void without_rights_the_error_names_the_rights(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		print_message("skip: needs root to become somebody else\n");
		skip();
	}
	pid_t child = fork();
	if (child == 0)
		_exit(probe_as_nobody());
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void without_descriptors_the_probe_fails_and_leaves_its_output(void **state)
{
	(void)state;
	struct rlimit limit, none;
	struct hf_probe probe = {.userfaultfd_errno = 12345};
	struct hf_err err = HF_ERR_INIT;
	getrlimit(RLIMIT_NOFILE, &limit);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = limit.rlim_max};
	setrlimit(RLIMIT_NOFILE, &none);
	int result = hf_probe(&probe, &err);
	setrlimit(RLIMIT_NOFILE, &limit);
	assert_int_equal(result, -EMFILE);
	assert_int_equal(probe.userfaultfd_errno, 12345);
}

static void feature_names_and_bits_are_inverse(void **state)
{
	(void)state;
	unsigned named = 0;
	for (unsigned shift = 0; shift < 64; shift++) {
		const char *name = hf_uffd_feature_name(1ull << shift);
		if (!name)
			continue;
		named++;
		assert_int_equal(hf_uffd_feature_bit(name), 1ull << shift);
	}
	assert_int_equal(named, 17);
	assert_int_equal(hf_uffd_feature_bit("nothing"), 0);
	char text[64], small[8];
	assert_string_equal(hf_uffd_feature_names(UFFD_FEATURE_POISON | UFFD_FEATURE_THREAD_ID, text, 64),
			    "thread-id, poison");
	assert_string_equal(hf_uffd_feature_names(UFFD_FEATURE_POISON | UFFD_FEATURE_THREAD_ID, small, 8),
			    "thread-");
	assert_string_equal(hf_uffd_feature_names(0, text, 64), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(flags_agree_with_the_feature_bits),
	    cmocka_unit_test(what_is_offered_can_be_opened_and_nothing_else),
	    cmocka_unit_test(without_rights_the_error_names_the_rights),
	    cmocka_unit_test(without_descriptors_the_probe_fails_and_leaves_its_output),
	    cmocka_unit_test(feature_names_and_bits_are_inverse),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
