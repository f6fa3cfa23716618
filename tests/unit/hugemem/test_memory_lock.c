/* SPDX-License-Identifier: Apache-2.0 */
/* Tables are kept in memory, or the refusal names bytes, limit and remedy. Each case is a child of its own.
 */
#include <errno.h>
#include <linux/capability.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "hugemem/memory_lock.h"
#include "hugemem/probe.h"

#define KIB 1024u

static uint64_t locked_kib(void)
{
	char line[128];
	unsigned long long kib = UINT64_MAX;
	FILE *file = fopen("/proc/self/status", "re");
	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "VmLck: %llu", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib;
}

static bool drop_ipc_lock(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
	if (syscall(SYS_capget, &header, data))
		return false;
	data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
	data[CAP_TO_INDEX(CAP_IPC_LOCK)].permitted &= ~CAP_TO_MASK(CAP_IPC_LOCK);
	data[CAP_TO_INDEX(CAP_IPC_LOCK)].inheritable = 0;
	return syscall(SYS_capset, &header, data) == 0 && !hf_probe_ipc_lock();
}

static bool limit_to(uint64_t kib)
{
	struct rlimit limit = {.rlim_cur = kib * KIB, .rlim_max = kib * KIB};
	return setrlimit(RLIMIT_MEMLOCK, &limit) == 0;
}

/* Two tables: 40 and 24 KiB in whole pages. */
static bool make_tables(struct hf_tables *tables)
{
	uint8_t *memory = mmap(NULL, 80 * KIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return false;
	*tables = (struct hf_tables){0};
	hf_tables_add(tables, memory + 100, 40 * KIB - 200);
	hf_tables_add(tables, memory + 48 * KIB, 24 * KIB);
	return true;
}

static int within_the_limit(void)
{
	struct hf_tables tables;
	if (!drop_ipc_lock() || !limit_to(64) || !make_tables(&tables))
		return 1;
	return hf_memory_lock(&tables, NULL) == 0 && locked_kib() == 64 ? 0 : 2;
}

static int above_the_limit(void)
{
	struct hf_tables tables;
	struct hf_err err = HF_ERR_INIT;
	if (!drop_ipc_lock() || !limit_to(60) || !make_tables(&tables))
		return 1;
	if (hf_memory_lock(&tables, &err) != -ENOMEM || locked_kib() != 0)
		return 2;
	return strstr(err.text, "64 KiB") && strstr(err.text, "limit is 60 KiB") &&
		       strstr(err.text, "ulimit -l") && strstr(err.text, "LimitMEMLOCK=") &&
		       strstr(err.text, "CAP_IPC_LOCK")
		   ? 0
		   : 3;
}

static int no_locking_at_all(void)
{
	struct hf_tables tables;
	struct hf_err err = HF_ERR_INIT;
	if (!drop_ipc_lock() || !limit_to(0) || !make_tables(&tables))
		return 1;
	return hf_memory_lock(&tables, &err) == -EPERM && strstr(err.text, "limit is 0 KiB") ? 0 : 2;
}

static int the_capability_lifts_the_limit(void)
{
	struct hf_tables tables;
	if (!limit_to(0) || !make_tables(&tables))
		return 1;
	return hf_memory_lock(&tables, NULL) == 0 && locked_kib() == 64 ? 0 : 2;
}

/* Not the limit's fault: advice about it would mislead. */
static int what_is_no_limit_is_not_called_one(void)
{
	struct hf_tables tables;
	struct hf_err err = HF_ERR_INIT;
	if (!make_tables(&tables) || munmap((void *)tables.list[1].address, tables.list[1].bytes))
		return 1;
	if (hf_memory_lock(&tables, &err) != -ENOMEM || locked_kib() != 0)
		return 2;
	return strstr(err.text, "64 KiB") && !strstr(err.text, "limit") ? 0 : 3;
}

static void in_a_child(void **state)
{
	int (*body)(void) = (int (*)(void)) * state;
	int status;
	if (!hf_probe_ipc_lock()) {
		print_message("skip: needs CAP_IPC_LOCK to give it up\n");
		skip();
	}
	pid_t child = fork();
	if (child == 0)
		_exit(body());
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

#define CHILD(body)                                                                                          \
	{                                                                                                    \
#body, in_a_child, NULL, NULL, (void *)(body)                                                \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CHILD(within_the_limit),
	    CHILD(above_the_limit),
	    CHILD(no_locking_at_all),
	    CHILD(the_capability_lifts_the_limit),
	    CHILD(what_is_no_limit_is_not_called_one),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
