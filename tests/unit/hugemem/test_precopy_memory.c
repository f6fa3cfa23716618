/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Harvests of memory that is lent to a network adapter. This process is the VMM and the agent; that an
 * adapter has the memory is that every page of the lent mapping is there, as registering leaves it. The
 * linker makes it the only one that maps the file: where tests run there may be processes that may not be
 * looked into.
 */
#include "tests/unit/hugemem/host_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugemem/attach.h"
#include "hugemem/guest_memory.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/precopy_memory.h"
#include "hugemem/residency.h"

#define PAGES	    8u
#define LENGTH	    (PAGES * HUGE_BYTES)
#define BIT(page)   (1u << (page))
#define LENT_BEFORE (BIT(0) | BIT(3))

struct vm {
	char directory[40], attach_path[64], ram_path[64];
	int fd;
	uint8_t *vmm;
	struct hf_attach *attach;
	struct hf_outgoing_memory *memory;
	struct hf_precopy_memory *tracked;
	struct hf_source_memory port;
	struct hf_ramblocks blocks;
	struct hf_err err;
};

int __wrap_hf_file_mapped_by_others(const struct stat *file, pid_t vmm_pid);

int __wrap_hf_file_mapped_by_others(const struct stat *file, pid_t vmm_pid)
{
	(void)file;
	(void)vmm_pid;
	return 0;
}

static void show_vmm(struct vm *vm)
{
	const struct hf_attach_options options = {.socket_path = vm->attach_path, .vm_name = "lent"};
	const struct hf_attach_region region = {.idstr = "ram0",
						.address = vm->vmm,
						.length_bytes = LENGTH,
						.page_size_bytes = HUGE_BYTES,
						.fd = vm->fd};
	assert_int_equal(hf_attach_create(&vm->attach, &options, NULL), 0);
	if (hf_attach_add(vm->attach, &region, &vm->err) || hf_attach_start(vm->attach, &vm->err))
		fail_msg("%s", vm->err.text);
}

/* A VM that has touched two pages, of which it has let one go, and its memory's port as `send` has it. */
static void open_vm(struct vm *vm)
{
	*vm = (struct vm){.directory = "/tmp/hf-lent-XXXXXX", .fd = ram_file_anonymous(HUGE_BYTES, PAGES)};
	assert_non_null(mkdtemp(vm->directory));
	snprintf(vm->attach_path, sizeof(vm->attach_path), "%s/attach", vm->directory);
	snprintf(vm->ram_path, sizeof(vm->ram_path), "/proc/self/fd/%d", vm->fd);
	vm->vmm = ram_map(vm->fd, LENGTH, false);
	vm->vmm[0] = vm->vmm[3 * HUGE_BYTES] = 1;
	madvise(vm->vmm + 3 * HUGE_BYTES, HUGE_BYTES, MADV_DONTNEED);
	show_vmm(vm);
	hf_ramblocks_init(&vm->blocks);
	const struct hf_outgoing_region region = {
	    .idstr = "ram0", .path = vm->ram_path, .length_bytes = LENGTH};
	const struct hf_block_file file = {region.idstr, region.path};
	if (hf_outgoing_memory_create(&vm->memory, getpid(), &region, 1, &vm->blocks, &vm->err) ||
	    hf_precopy_memory_create(&vm->tracked, vm->attach_path, getpid(), &vm->blocks, &file,
				     hf_outgoing_memory_port(vm->memory), &vm->err))
		fail_msg("%s", vm->err.text);
	vm->port = hf_precopy_memory_port(vm->tracked);
}

static void lend_and_register(struct vm *vm)
{
	struct hf_lent_range ranges[HF_RAMBLOCKS_MAX];

	if (hf_outgoing_memory_lend(vm->memory, ranges, &vm->err) ||
	    hf_precopy_memory_lent(vm->tracked, &vm->err))
		fail_msg("%s", vm->err.text);
	assert_int_equal(madvise(ranges[0].address, LENGTH, MADV_POPULATE_WRITE), 0);
}

static void open_lent(struct vm *vm)
{
	open_vm(vm);
	lend_and_register(vm);
}

static void close_vm(struct vm *vm)
{
	hf_precopy_memory_destroy(vm->tracked, true);
	hf_outgoing_memory_destroy(vm->memory);
	hf_attach_destroy(vm->attach);
	hf_ramblocks_destroy(&vm->blocks);
	munmap(vm->vmm, LENGTH);
	close(vm->fd);
	assert_int_equal(rmdir(vm->directory), 0);
}

static int try_harvest(struct vm *vm, uint8_t *dirtied)
{
	uint8_t holes = 0;
	int result = vm->port.ops->harvest(vm->port.self, 0, dirtied, &holes, 1, &vm->err);

	assert_int_equal(holes, 0);
	return result;
}

static unsigned harvest(struct vm *vm)
{
	uint8_t dirtied = 0;

	if (try_harvest(vm, &dirtied))
		fail_msg("%s", vm->err.text);
	return dirtied;
}

static unsigned presence(struct vm *vm)
{
	uint8_t present = 0;

	if (vm->port.ops->presence(vm->port.self, 0, &present, 1, &vm->err))
		fail_msg("%s", vm->err.text);
	return present;
}

static void what_registering_has_filled_does_not_exist(void **state)
{
	(void)state;
	struct vm vm;

	open_lent(&vm);
	assert_int_equal(harvest(&vm), LENT_BEFORE);
	assert_int_equal(harvest(&vm), 0);
	assert_int_equal(presence(&vm), LENT_BEFORE);
	close_vm(&vm);
}

static void what_is_touched_after_it_was_lent_exists(void **state)
{
	(void)state;
	struct vm vm;

	open_lent(&vm);
	vm.vmm[5 * HUGE_BYTES] = 1;
	assert_int_equal(harvest(&vm), LENT_BEFORE | BIT(5));
	vm.vmm[6 * HUGE_BYTES] = 1;
	vm.vmm[0] = 2;
	assert_int_equal(harvest(&vm), BIT(0) | BIT(6));
	assert_int_equal(presence(&vm), LENT_BEFORE | BIT(5) | BIT(6));
	close_vm(&vm);
}

static void a_page_touched_and_let_go_of_between_harvests_is_not_lost(void **state)
{
	(void)state;
	struct vm vm;

	open_lent(&vm);
	harvest(&vm);
	vm.vmm[5 * HUGE_BYTES] = 1;
	madvise(vm.vmm + 5 * HUGE_BYTES, HUGE_BYTES, MADV_DONTNEED);
	assert_int_equal(harvest(&vm), BIT(5));
	assert_int_equal(presence(&vm), LENT_BEFORE | BIT(5));
	close_vm(&vm);
}

/* The adapter has written nothing and the VM everything: both through mappings of their own. */
static void writes_of_pages_an_adapter_holds_are_found(void **state)
{
	(void)state;
	struct vm vm;

	open_lent(&vm);
	harvest(&vm);
	for (unsigned round = 0; round < 3; round++) {
		memset(vm.vmm, (int)round + 1, LENGTH);
		assert_int_equal(harvest(&vm), 0xff);
		assert_int_equal(harvest(&vm), 0);
	}
	close_vm(&vm);
}

static void a_page_given_back_under_an_adapter_ends_the_rounds(void **state)
{
	(void)state;
	struct vm vm;
	uint8_t dirtied = 0;

	open_lent(&vm);
	harvest(&vm);
	ram_punch(vm.fd, 3 * HUGE_BYTES, HUGE_BYTES);
	assert_int_equal(try_harvest(&vm, &dirtied), -ESTALE);
	assert_non_null(strstr(vm.err.text, "'ram0'"));
	assert_non_null(strstr(vm.err.text, "1 pages were given back"));
	close_vm(&vm);
}

/* Nothing fills the file, and what was punched is a hole. */
static void memory_that_is_not_lent_has_the_holes_of_its_file(void **state)
{
	(void)state;
	struct vm vm;
	uint8_t dirtied = 0, holes = 0;

	open_vm(&vm);
	assert_int_equal(harvest(&vm), LENT_BEFORE);
	ram_punch(vm.fd, 0, HUGE_BYTES);
	assert_int_equal(vm.port.ops->harvest(vm.port.self, 0, &dirtied, &holes, 1, &vm.err), 0);
	assert_int_equal(dirtied, BIT(0));
	assert_int_equal(holes, BIT(0));
	assert_int_equal(presence(&vm), BIT(3));
	close_vm(&vm);
}

static int reserve(void **state)
{
	(void)state;
	return host_pages_reserve(HUGE_BYTES, PAGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_registering_has_filled_does_not_exist),
	    cmocka_unit_test(what_is_touched_after_it_was_lent_exists),
	    cmocka_unit_test(a_page_touched_and_let_go_of_between_harvests_is_not_lost),
	    cmocka_unit_test(writes_of_pages_an_adapter_holds_are_found),
	    cmocka_unit_test(a_page_given_back_under_an_adapter_ends_the_rounds),
	    cmocka_unit_test(memory_that_is_not_lent_has_the_holes_of_its_file),
	};

	return cmocka_run_group_tests(tests, reserve, host_give_back);
}
