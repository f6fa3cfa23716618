/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The machine inside this process: every part of a vCPU survives saving and loading, an instruction half done
 * when the vCPU was stopped is done once, and state that KVM refuses leaves a machine that can be loaded.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm/guest.h"
#include "kvm/guest/layout.h"
#include "kvm/vmm/machine.h"

#define PAGE_BYTES   (2ull << 20)
#define MEMORY_BYTES (3 * PAGE_BYTES)
#define STOP_MS	     20000
#define MSR_LSTAR    0xc0000082u
#define MSR_STAR     0xc0000081u
#define MSR_GS_BASE  0xc0000102u /* KERNEL_GS_BASE */
#define XMM0_OFFSET  160u
#define XSTATE_BV    512u

static bool has_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* ---- one vCPU, straight from KVM -------------------------------------------------------------- */

struct bare_vcpu {
	int kvm, vm, vcpu;
	uint32_t xsave_bytes;
};

static struct bare_vcpu bare_vcpu_make(void)
{
	struct bare_vcpu bare = {.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC)};
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));

	assert_true(bare.kvm >= 0);
	assert_non_null(cpuid);
	bare.vm = ioctl(bare.kvm, KVM_CREATE_VM, 0);
	assert_true(bare.vm >= 0);
	bare.vcpu = ioctl(bare.vm, KVM_CREATE_VCPU, 0);
	assert_true(bare.vcpu >= 0);
	cpuid->nent = 256;
	assert_int_equal(ioctl(bare.kvm, KVM_GET_SUPPORTED_CPUID, cpuid), 0);
	assert_int_equal(ioctl(bare.vcpu, KVM_SET_CPUID2, cpuid), 0);
	free(cpuid);
	bare.xsave_bytes = (uint32_t)ioctl(bare.vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	return bare;
}

static void bare_vcpu_end(struct bare_vcpu *bare)
{
	close(bare->vcpu);
	close(bare->vm);
	close(bare->kvm);
}

static uint64_t *msr_of(struct vmm_vcpu_state *state, uint32_t index)
{
	for (uint32_t i = 0; i < state->msr_count; i++)
		if (state->msrs[i].index == index)
			return (uint64_t *)&state->msrs[i].data;
	fail_msg("MSR 0x%x is not carried", index);
	return NULL;
}

/* Values no vCPU has by itself, in every part. */
static void make_unusual(struct vmm_vcpu_state *state)
{
	uint64_t *registers = (uint64_t *)&state->regs;
	for (size_t i = 0; i < 16; i++)
		registers[i] = 0x1111111111111111ull * (i + 1) ^ 0xabc;
	state->regs.rip = 0x123456;
	state->regs.rflags = 0xad7;
	state->sregs.fs.base = 0x7f0012345678;
	state->sregs.gdt.base = 0x5000;
	state->sregs.gdt.limit = 0x77;
	state->sregs.idt.limit = 0x1ff;
	state->sregs.cr2 = 0xdead000;
	state->xcrs.xcrs[0].value = 3;
	memset(state->xsave + XMM0_OFFSET, 0x6b, 256);
	state->xsave[XSTATE_BV] |= 2;
	state->debugregs.db[0] = 0x1000;
	state->debugregs.db[3] = 0x4000;
	state->debugregs.dr7 = 0x401;
	state->events.nmi.pending = 1;
	state->events.interrupt.shadow = 1;
	state->mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
	*msr_of(state, MSR_LSTAR) = 0xffffffff81000000;
	*msr_of(state, MSR_STAR) = 0x0023001000000000;
	*msr_of(state, MSR_GS_BASE) = 0xffff888000000000;
}

static void every_part_of_a_vcpu_survives(void **unused)
{
	if (!has_kvm())
		skip(); /* it is about KVM */
	struct bare_vcpu a = bare_vcpu_make(), b = bare_vcpu_make();
	struct vmm_msr_list *msrs = calloc(1, sizeof(*msrs));
	struct vmm_vcpu_state *set = calloc(1, sizeof(*set)), *got = calloc(1, sizeof(*got));
	struct vmm_vcpu_state *loaded = calloc(1, sizeof(*loaded)), *again = calloc(1, sizeof(*again));
	struct hf_err err = HF_ERR_INIT;

	(void)unused;
	assert_int_equal(vmm_msr_list_make(msrs, a.kvm, a.vcpu, &err), 0);
	assert_true(msrs->carried_count > 20);
	assert_int_equal(vmm_vcpu_state_get(set, a.vcpu, msrs, a.xsave_bytes, &err), 0);
	make_unusual(set);
	if (vmm_vcpu_state_set(set, a.vcpu, a.xsave_bytes, &err))
		fail_msg("%s", err.text);
	assert_int_equal(vmm_vcpu_state_get(got, a.vcpu, msrs, a.xsave_bytes, &err), 0);

	/* KVM has taken the unusual values. */
	assert_memory_equal(&set->regs, &got->regs, sizeof(set->regs));
	assert_int_equal(got->sregs.fs.base, 0x7f0012345678);
	assert_int_equal(got->sregs.gdt.limit, 0x77);
	assert_int_equal(got->sregs.cr2, 0xdead000);
	assert_int_equal(got->xcrs.xcrs[0].value, 3);
	assert_memory_equal(set->xsave + XMM0_OFFSET, got->xsave + XMM0_OFFSET, 256);
	assert_int_equal(got->debugregs.db[3], 0x4000);
	assert_int_equal(got->events.nmi.pending, 1);
	assert_int_equal(*msr_of(got, MSR_LSTAR), 0xffffffff81000000);
	assert_int_equal(*msr_of(got, MSR_GS_BASE), 0xffff888000000000);

	/* Through the blob into another VM's vCPU and out again. */
	struct hf_devstate_section out = {&vmm_vcpu_state_desc, 0, got},
				   in = {&vmm_vcpu_state_desc, 0, loaded};
	struct hf_devstate_section out_again = {&vmm_vcpu_state_desc, 0, again};
	void *first, *second;
	size_t first_bytes, second_bytes;
	assert_int_equal(hf_devstate_save(&out, 1, &first, &first_bytes, &err), 0);
	assert_int_equal(hf_devstate_load(&in, 1, first, first_bytes, &err), 0);
	assert_int_equal(vmm_vcpu_state_set(loaded, b.vcpu, b.xsave_bytes, &err), 0);
	assert_int_equal(vmm_vcpu_state_get(again, b.vcpu, msrs, b.xsave_bytes, &err), 0);
	assert_int_equal(hf_devstate_save(&out_again, 1, &second, &second_bytes, &err), 0);
	assert_int_equal(first_bytes, second_bytes);
	assert_memory_equal(first, second, first_bytes);
	free(first);
	free(second);
	free(msrs);
	free(set);
	free(got);
	free(loaded);
	free(again);
	bare_vcpu_end(&a);
	bare_vcpu_end(&b);
}

/* ---- a machine that does nothing but read its port -------------------------------------------- */

/*
 * mov edx, 0x510; xor ebx, ebx
 * again: in eax, dx; inc ebx; cmp eax, ebx; jne wrong; mov gs:[0x400000], rbx; jmp again
 * wrong: hlt
 */
static const uint8_t port_reader[] = {0xba, 0x10, 0x05, 0x00, 0x00, 0x31, 0xdb, 0xed, 0xff,
				      0xc3, 0x39, 0xd8, 0x75, 0x0b, 0x65, 0x48, 0x89, 0x1c,
				      0x25, 0x00, 0x00, 0x40, 0x00, 0xeb, 0xee, 0xf4};

static uint8_t *make_memory(void)
{
	struct hf_guest_config config = {.pattern = HF_GUEST_RANDOM,
					 .vcpus = 1,
					 .write_percent = 50,
					 .fill_percent = 100,
					 .memory_bytes = MEMORY_BYTES,
					 .page_size_bytes = PAGE_BYTES,
					 .seed = 3};
	uint8_t *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(memory, MAP_FAILED);
	assert_int_equal(hf_guest_load(memory, &config, NULL), 0);
	return memory;
}

static void machine_failed(void *opaque, const struct hf_err *err)
{
	__atomic_add_fetch((uint32_t *)opaque, 1, __ATOMIC_RELAXED);
	print_message("the machine failed: %s\n", err->text);
}

/* Of the machines to come. */
static enum vmm_accel accel;

static struct vmm_machine *make_machine(uint8_t *memory, uint32_t *failures)
{
	struct vmm_machine_config config = {.accel = accel,
					    .memory = memory,
					    .memory_bytes = MEMORY_BYTES,
					    .page_size_bytes = PAGE_BYTES,
					    .vcpus = 1,
					    .failed = machine_failed,
					    .opaque = failures};
	struct vmm_machine *machine;
	struct hf_err err = HF_ERR_INIT;
	if (vmm_machine_create(&machine, &config, &err))
		fail_msg("%s", err.text);
	return machine;
}

static void wait_for_change(const uint64_t *word, uint64_t from, const uint32_t *failures)
{
	for (int i = 0; __atomic_load_n(word, __ATOMIC_RELAXED) == from; i++) {
		assert_int_equal(__atomic_load_n(failures, __ATOMIC_RELAXED), 0);
		assert_true(i < 20000);
		poll(NULL, 0, 1);
	}
}

static void a_port_read_under_way_when_stopped_is_done_once(void **state)
{
	if (accel == VMM_ACCEL_KVM && !has_kvm())
		skip();
	uint32_t failures = 0;
	uint8_t *memory = make_memory();
	const uint64_t *reads = (const uint64_t *)(memory + 0x400000);
	struct vmm_machine *machine = make_machine(memory, &failures);

	(void)state;
	memcpy(memory + HF_GUEST_TEXT_OFFSET, port_reader, sizeof(port_reader));
	*(uint64_t *)(memory + 0x400000) = 0;
	assert_int_equal(vmm_machine_enter_guest(machine, NULL), 0);
	for (int move = 0; move < 60; move++) {
		struct hf_err err = HF_ERR_INIT;
		void *blob;
		size_t blob_bytes;

		uint64_t before = *reads;
		assert_int_equal(vmm_machine_run(machine, &err), 0);
		wait_for_change(reads, before, &failures);
		assert_int_equal(vmm_machine_stop(machine, STOP_MS, &err), 0);
		assert_int_equal(vmm_machine_save(machine, &blob, &blob_bytes, &err), 0);
		struct vmm_machine *next = make_machine(memory, &failures);
		assert_int_equal(vmm_machine_load(next, blob, blob_bytes, &err), 0);
		free(blob);
		vmm_machine_destroy(machine);
		machine = next;
	}
	assert_int_equal(failures, 0);
	assert_true(*reads >= 60);
	vmm_machine_destroy(machine);
	munmap(memory, MEMORY_BYTES);
}

static void a_stopped_machine_does_not_change(void **state)
{
	if (accel == VMM_ACCEL_KVM && !has_kvm())
		skip();
	uint32_t failures = 0;
	uint8_t *memory = make_memory();
	struct vmm_machine *machine = make_machine(memory, &failures);
	void *blobs[2];
	size_t bytes[2];

	(void)state;
	assert_int_equal(vmm_machine_enter_guest(machine, NULL), 0);
	assert_int_equal(vmm_machine_run(machine, NULL), 0);
	while (!hf_guest_visits(memory, MEMORY_BYTES))
		poll(NULL, 0, 1);
	assert_int_equal(vmm_machine_stop(machine, STOP_MS, NULL), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(vmm_machine_save(machine, &blobs[i], &bytes[i], NULL), 0);
	assert_int_equal(bytes[0], bytes[1]);
	assert_memory_equal(blobs[0], blobs[1], bytes[0]);
	free(blobs[0]);
	free(blobs[1]);
	vmm_machine_destroy(machine);
	munmap(memory, MEMORY_BYTES);
}

/* Physical addresses leave out 3 to 4 GiB, the guest's own addresses do not. */
/* ThreadSanitizer keeps several bytes for each of memory, and sees the same threads with less. */
#ifdef __SANITIZE_THREAD__
#define HAS_MEMORY false
#else
#define HAS_MEMORY true
#endif

static void run_on_both_sides_of_the_hole(void)
{
	struct hf_guest_config config = {.pattern = HF_GUEST_RANDOM,
					 .vcpus = 1,
					 .write_percent = 100,
					 .fill_percent = 2,
					 .memory_bytes = HF_GUEST_LOW_BYTES + (1ull << 30),
					 .page_size_bytes = PAGE_BYTES,
					 .seed = 3};
	uint64_t bytes = config.memory_bytes, high_writes = 0;
	uint32_t failures = 0;
	uint8_t *memory =
	    mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct vmm_machine_config machine_config = {.accel = accel,
						    .memory = memory,
						    .memory_bytes = bytes,
						    .page_size_bytes = PAGE_BYTES,
						    .vcpus = 1,
						    .failed = machine_failed,
						    .opaque = &failures};
	struct hf_guest_report report;
	struct vmm_machine *machine;

	assert_ptr_not_equal(memory, MAP_FAILED);
	assert_int_equal(hf_guest_load(memory, &config, NULL), 0);
	const struct hf_guest_header *header =
	    (const struct hf_guest_header *)(memory + HF_GUEST_HEADER_OFFSET);
	assert_int_equal(vmm_machine_create(&machine, &machine_config, NULL), 0);
	assert_int_equal(vmm_machine_enter_guest(machine, NULL), 0);
	assert_int_equal(vmm_machine_run(machine, NULL), 0);
	for (int i = 0; !high_writes && i < 20000; i++) {
		assert_int_equal(__atomic_load_n(&failures, __ATOMIC_RELAXED), 0);
		for (uint64_t page = HF_GUEST_LOW_BYTES / PAGE_BYTES; page < header->pages; page++)
			high_writes +=
			    *(volatile uint64_t *)(memory + hf_guest_ledger_offset(header, 0, page));
		poll(NULL, 0, 1);
	}
	assert_int_equal(vmm_machine_stop(machine, STOP_MS, NULL), 0);
	assert_true(high_writes > 0);
	assert_int_equal(hf_guest_verify(memory, bytes, &report, NULL), 0);
	assert_int_equal(report.bytes_wrong, 0);
	assert_int_equal(report.guest_errors, 0);
	vmm_machine_destroy(machine);
	munmap(memory, bytes);
}

static void memory_on_both_sides_of_the_hole_is_right(void **state)
{
	if (accel == VMM_ACCEL_KVM && !has_kvm())
		skip();
	(void)state;
	if (HAS_MEMORY)
		run_on_both_sides_of_the_hole();
}

/* Well formed, but no CPU has such values. */
static void state_that_kvm_refuses_is_an_error_and_good_state_loads_after_it(void **state)
{
	if (!has_kvm())
		skip(); /* it is about KVM */
	static const uint8_t entry_point[] = {0, 0, 0, 0, 0, 0, 0x20, 0};
	uint32_t failures = 0;
	uint8_t *memory = make_memory();
	struct vmm_machine *machine = make_machine(memory, &failures);
	struct bare_vcpu bare = bare_vcpu_make();
	struct vmm_msr_list *msrs = calloc(1, sizeof(*msrs));
	struct vmm_vcpu_state *values = calloc(1, sizeof(*values));
	struct hf_err err = HF_ERR_INIT;
	void *good;
	size_t good_bytes;

	(void)state;
	assert_int_equal(vmm_machine_enter_guest(machine, NULL), 0);
	assert_int_equal(vmm_machine_save(machine, &good, &good_bytes, &err), 0);
	assert_non_null(memmem(good, good_bytes, entry_point, sizeof(entry_point)));

	assert_int_equal(vmm_msr_list_make(msrs, bare.kvm, bare.vcpu, &err), 0);
	assert_int_equal(vmm_vcpu_state_get(values, bare.vcpu, msrs, bare.xsave_bytes, &err), 0);
	struct vmm_vcpu_state *bad = malloc(sizeof(*bad));
	for (int i = 0; i < 5; i++) {
		*bad = *values;
		if (i == 0)
			bad->sregs.cr0 = 0x80000000; /* paging without protection */
		else if (i == 1)
			bad->xcrs.xcrs[0].value = 4; /* AVX without x87 */
		else if (i == 2)
			*msr_of(bad, MSR_LSTAR) = 0x0123456789abcdef; /* not canonical */
		else if (i == 3)
			bad->debugregs.dr7 = UINT64_MAX;
		else
			bad->xsave_bytes = 8;
		err = HF_ERR_INIT;
		assert_true(vmm_vcpu_state_set(bad, bare.vcpu, bare.xsave_bytes, &err) < 0);
		assert_true(err.text[0]);
	}
	free(bad);
	assert_int_equal(vmm_vcpu_state_set(values, bare.vcpu, bare.xsave_bytes, &err), 0);

	assert_int_equal(vmm_machine_load(machine, good, good_bytes, &err), 0);
	assert_int_equal(vmm_machine_run(machine, &err), 0);
	while (!hf_guest_visits(memory, MEMORY_BYTES))
		poll(NULL, 0, 1);
	assert_int_equal(vmm_machine_stop(machine, STOP_MS, &err), 0);
	assert_int_equal(failures, 0);
	free(good);
	free(msrs);
	free(values);
	bare_vcpu_end(&bare);
	vmm_machine_destroy(machine);
	munmap(memory, MEMORY_BYTES);
}

static void on_kick(int signal)
{
	(void)signal;
}

/* ---- user mode -------------------------------------------------------------------------------- */

/* As it was saved when there was no other accelerator than KVM. */
struct old_machine {
	uint64_t memory_bytes, page_size_bytes;
	uint32_t vcpus;
};

static const struct hf_devstate_desc old_desc = {
    .name = "machine",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct old_machine),
    .fields = (const struct hf_devstate_field[]){HF_DEVSTATE_FIELD(struct old_machine, memory_bytes),
						 HF_DEVSTATE_FIELD(struct old_machine, page_size_bytes),
						 HF_DEVSTATE_FIELD(struct old_machine, vcpus),
						 HF_DEVSTATE_FIELDS_END}};

static void state_of_the_other_accelerator_is_refused_and_one_s_own_loads_after_it(void **state)
{
	struct old_machine old = {MEMORY_BYTES, PAGE_BYTES, 1};
	struct hf_devstate_section section = {&old_desc, 0, &old};
	uint32_t failures = 0;
	uint8_t *memory = make_memory();
	struct vmm_machine *machine = make_machine(memory, &failures);
	struct hf_err err = HF_ERR_INIT;
	void *good, *foreign;
	size_t good_bytes, foreign_bytes;

	(void)state;
	assert_int_equal(vmm_machine_enter_guest(machine, NULL), 0);
	assert_int_equal(vmm_machine_save(machine, &good, &good_bytes, &err), 0);
	assert_int_equal(hf_devstate_save(&section, 1, &foreign, &foreign_bytes, &err), 0);
	assert_int_equal(vmm_machine_load(machine, foreign, foreign_bytes, &err), -EINVAL);
	assert_non_null(strstr(err.text, "--accel user and the source with another"));
	assert_int_equal(vmm_machine_load(machine, good, good_bytes, &err), 0);
	free(good);
	free(foreign);
	vmm_machine_destroy(machine);
	munmap(memory, MEMORY_BYTES);
}

static void a_guest_that_goes_astray_is_the_machine_s_failure(void **state)
{
	static const uint8_t programs[][4] = {
	    {0xf4},		      /* hlt */
	    {0x0f, 0x0b},	      /* ud2 */
	    {0xcc},		      /* int3 */
	    {0x31, 0xc9, 0xf7, 0xf1}, /* xor ecx, ecx; div ecx */
	    {0x50},		      /* push rax: there is no stack */
	    {0x66, 0xba, 0x70, 0xed}, /* mov dx, 0xed70; then another port's read */
	};

	(void)state;
	for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++) {
		uint32_t failures = 0;
		uint8_t *memory = make_memory();
		struct vmm_machine *machine = make_machine(memory, &failures);

		memcpy(memory + HF_GUEST_TEXT_OFFSET, programs[i], sizeof(programs[i]));
		memory[HF_GUEST_TEXT_OFFSET + 4] = 0xed;
		assert_int_equal(vmm_machine_enter_guest(machine, NULL), 0);
		assert_int_equal(vmm_machine_run(machine, NULL), 0);
		for (int wait = 0; !__atomic_load_n(&failures, __ATOMIC_RELAXED); wait++) {
			assert_true(wait < STOP_MS);
			poll(NULL, 0, 1);
		}
		assert_int_equal(vmm_machine_run(machine, NULL), -EIO);
		assert_true(vmm_machine_halt(machine, STOP_MS));
		vmm_machine_destroy(machine);
		munmap(memory, MEMORY_BYTES);
	}
}

static int in_user_mode(void **state)
{
	(void)state;
	accel = VMM_ACCEL_USER;
	return 0;
}

static int on_kvm(void **state)
{
	(void)state;
	accel = VMM_ACCEL_KVM;
	if (!has_kvm())
		print_message("skipped: /dev/kvm cannot be opened\n");
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup(every_part_of_a_vcpu_survives, on_kvm),
	    cmocka_unit_test_setup(state_that_kvm_refuses_is_an_error_and_good_state_loads_after_it, on_kvm),
	    cmocka_unit_test_setup(a_port_read_under_way_when_stopped_is_done_once, in_user_mode),
	    cmocka_unit_test_setup(a_stopped_machine_does_not_change, in_user_mode),
	    cmocka_unit_test_setup(memory_on_both_sides_of_the_hole_is_right, in_user_mode),
	    cmocka_unit_test_setup(state_of_the_other_accelerator_is_refused_and_one_s_own_loads_after_it,
				   in_user_mode),
	    cmocka_unit_test_setup(a_guest_that_goes_astray_is_the_machine_s_failure, in_user_mode),
	    /* Behind those of user mode, whose signal handlers leave KVM's vCPUs alone. */
	    cmocka_unit_test_setup(a_port_read_under_way_when_stopped_is_done_once, on_kvm),
	    cmocka_unit_test_setup(a_stopped_machine_does_not_change, on_kvm),
	    cmocka_unit_test_setup(memory_on_both_sides_of_the_hole_is_right, on_kvm),
	};
	struct sigaction kick = {.sa_handler = on_kick};
	sigaction(vmm_machine_kick_signal(), &kick, NULL);
	return cmocka_run_group_tests_name("kvm/vmm machine", tests, NULL, NULL);
}
