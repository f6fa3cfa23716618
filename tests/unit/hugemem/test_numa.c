/* SPDX-License-Identifier: Apache-2.0 */
/* Policies are read from the kernel's text, also those of hosts with more nodes than this one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "hugemem/numa.h"

static const char maps[] =
    "00400000 default file=/bin/vmm:0 mapped=1 N0=1 kernelpagesize_kB=4\n"
    "7f0000000000 bind:1 file=/dev/hugepages/a huge dirty=2 N1=2 kernelpagesize_kB=2048\n"
    "7f0010000000 bind=static:0-1,3 file=/dev/hugepages/b huge\n"
    "7f0020000000 interleave:0,2-3 file=/dev/hugepages/c huge\n"
    "7f0030000000 prefer:2 anon=1\n"
    "7f0040000000 prefer (many):0-1 anon=1\n"
    "7f0050000000 local file=/a:1\n"
    "7f0060000000 bind:60-99\n"
    "7f0070000000 bind\n";

static void assert_policy(uint64_t address, enum hf_numa_mode mode, uint64_t nodes)
{
	FILE *file = fmemopen((void *)maps, sizeof(maps) - 1, "r");
	assert_non_null(file);
	struct hf_numa_policy policy = hf_numa_policy_in(file, address);
	fclose(file);
	assert_int_equal(policy.mode, mode);
	assert_int_equal(policy.nodes, nodes);
}

static void each_mapping_has_its_own_policy(void **state)
{
	(void)state;
	assert_policy(0x1000, HF_NUMA_ANY, 0);
	assert_policy(0x400000, HF_NUMA_ANY, 0);
	assert_policy(0x7f0000000000, HF_NUMA_BIND, 1u << 1);
	assert_policy(0x7f000fffffff, HF_NUMA_BIND, 1u << 1);
	assert_policy(0x7f0010000000, HF_NUMA_BIND, 1u << 0 | 1u << 1 | 1u << 3);
	assert_policy(0x7f0020200000, HF_NUMA_INTERLEAVE, 1u << 0 | 1u << 2 | 1u << 3);
	assert_policy(0x7f0030000000, HF_NUMA_PREFERRED, 1u << 2);
	assert_policy(0x7f0050000000, HF_NUMA_ANY, 0);
	assert_policy(0x7f0060000000, HF_NUMA_BIND, UINT64_C(0xf) << 60);
	assert_policy(0x7f0070000000, HF_NUMA_ANY, 0);
}

static void pages_of_other_nodes_do_not_count(void **state)
{
	(void)state;
	const struct hf_hugepage_counts counts = {
	    .free = 117, .nodes = 3, .node_id = {0, 2, 5}, .node_free = {100, 10, 7}};
	assert_int_equal(hf_numa_free(&counts, 1u << 0), 100);
	assert_int_equal(hf_numa_free(&counts, 1u << 2 | 1u << 5), 17);
	assert_int_equal(hf_numa_free(&counts, 1u << 1), 0);
}

static void a_policy_that_is_applied_is_found_again(void **state)
{
	(void)state;
	const struct hf_numa_policy bound = {.mode = HF_NUMA_BIND, .nodes = 1}, none = {0};
	uint8_t *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	if (access("/proc/self/numa_maps", R_OK)) {
		print_message("skip: this kernel has no NUMA\n");
		skip();
	}
	assert_int_equal(hf_numa_apply(&none, memory, 4096), 0);
	assert_int_equal(hf_numa_policy_of(getpid(), (uintptr_t)memory).mode, HF_NUMA_ANY);
	assert_int_equal(hf_numa_apply(&bound, memory + 4096, 4096), 0);
	struct hf_numa_policy found = hf_numa_policy_of(getpid(), (uintptr_t)memory + 4096);
	assert_int_equal(found.mode, HF_NUMA_BIND);
	assert_int_equal(found.nodes, 1);
	assert_int_equal(hf_numa_policy_of(getpid(), (uintptr_t)memory).mode, HF_NUMA_ANY);
	munmap(memory, 8192);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(each_mapping_has_its_own_policy),
	    cmocka_unit_test(pages_of_other_nodes_do_not_count),
	    cmocka_unit_test(a_policy_that_is_applied_is_found_again),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
