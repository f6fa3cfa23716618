/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest runs in flat 32-bit protected mode without paging. Its program is in a small slot of its own at
 * guest address 0, so that its fetches touch no huge page; the ram begins at 1 GiB. Each access ends with a
 * write to a port, which leaves KVM_RUN.
 */
#include "tests/platform/platform_kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#define PROGRAM_BYTES 4096
#define READER	      0x100
#define WRITER	      0x200
#define RAM_ADDRESS   UINT64_C(0x40000000)
#define KVM_PAGES     UINT64_C(0xfffbd000) /* three pages that KVM wants for itself on some CPUs */

static const uint8_t reader[] = {0x8b, 0x03, 0xe6, 0x10}; /* mov eax, [ebx]; out 0x10, al */
static const uint8_t writer[] = {0x89, 0x03, 0xe6, 0x10}; /* mov [ebx], eax; out 0x10, al */

static void add_slot(int vm_fd, uint32_t slot, uint64_t physical, const void *memory, uint64_t length_bytes)
{
	struct kvm_userspace_memory_region region = {.slot = slot,
						     .guest_phys_addr = physical,
						     .memory_size = length_bytes,
						     .userspace_addr = (uintptr_t)memory};

	must(ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region) == 0);
}

static void enter_protected_mode(int vcpu)
{
	struct kvm_sregs sregs;
	struct kvm_segment code = {
	    .limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .db = 1, .g = 1};
	struct kvm_segment data = code;

	must(ioctl(vcpu, KVM_GET_SREGS, &sregs) == 0);
	data.type = 3;
	data.selector = 16;
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 |= 1;
	must(ioctl(vcpu, KVM_SET_SREGS, &sregs) == 0);
}

int open_kvm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		platform_lacks("/dev/kvm: %s", strerror(errno));
	return kvm;
}

struct vm vm_new(const struct ram *ram)
{
	int kvm = open_kvm();
	int vm_fd = ioctl(kvm, KVM_CREATE_VM, 0);
	must(vm_fd >= 0);
	must(ioctl(vm_fd, KVM_SET_TSS_ADDR, KVM_PAGES) == 0);

	uint8_t *program = ram_map(-1, PROGRAM_BYTES, MAP_SHARED | MAP_ANONYMOUS);
	memcpy(program + READER, reader, sizeof(reader));
	memcpy(program + WRITER, writer, sizeof(writer));
	add_slot(vm_fd, 0, 0, program, PROGRAM_BYTES);
	add_slot(vm_fd, 1, RAM_ADDRESS, ram->vmm, ram->length_bytes);

	struct vm vm = {.vcpu = ioctl(vm_fd, KVM_CREATE_VCPU, 0)};
	must(vm.vcpu >= 0);
	int run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	must(run_bytes > 0);
	vm.run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vm.vcpu, 0);
	must(vm.run != MAP_FAILED);
	enter_protected_mode(vm.vcpu);
	return vm;
}

static int run(struct vm *vm, struct kvm_regs *regs)
{
	must(ioctl(vm->vcpu, KVM_SET_REGS, regs) == 0);
	if (ioctl(vm->vcpu, KVM_RUN, 0) < 0)
		return -errno;
	int reason = (int)vm->run->exit_reason;
	/* The exit is completed by the next KVM_RUN, which is told to do no more than that. */
	vm->run->immediate_exit = 1;
	must(ioctl(vm->vcpu, KVM_RUN, 0) < 0 && errno == EINTR);
	vm->run->immediate_exit = 0;
	must(ioctl(vm->vcpu, KVM_GET_REGS, regs) == 0);
	return reason == KVM_EXIT_IO ? 0 : reason;
}

static uint64_t guest_address(const struct ram *ram, unsigned page, uint64_t offset_bytes)
{
	return RAM_ADDRESS + page * ram->page_bytes + offset_bytes;
}

int vm_read(struct vm *vm, const struct ram *ram, unsigned page, uint64_t offset_bytes, uint32_t *word)
{
	struct kvm_regs regs = {.rip = READER, .rflags = 2, .rbx = guest_address(ram, page, offset_bytes)};
	int result = run(vm, &regs);

	if (result == 0)
		*word = (uint32_t)regs.rax;
	return result;
}

int vm_write(struct vm *vm, const struct ram *ram, unsigned page, uint64_t offset_bytes, uint32_t word)
{
	struct kvm_regs regs = {
	    .rip = WRITER, .rflags = 2, .rbx = guest_address(ram, page, offset_bytes), .rax = word};

	return run(vm, &regs);
}
