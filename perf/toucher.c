/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation: the guest is a dozen instructions in long mode, in a page of its own below the memory
 * that is touched. It reads a port for an address, and writes there how many ticks the load took; both leave
 * KVM_RUN, and the vCPU's thread sleeps in between. A load that faults is begun anew when the page is there,
 * with everything behind it, so no fence is needed beside it.
 */
#include "perf/toucher.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define SYSTEM_BYTES (64u << 10)
#define ENTRY	     0x1000u
#define PML4	     0x2000u
#define PDPT	     0x3000u
#define PD_SYSTEM    0x4000u
#define PD_MEMORY    0x5000u
#define MEMORY_AT    (1ull << 30)
#define LARGE_PAGE   (2ull << 20)
#define TABLE	     0x7u  /* present, writable, user */
#define LEAF	     0x87u /* and a page of 2 MiB */
#define TSS_AT	     0xfffbd000ul
#define END	     UINT64_MAX

static const uint8_t program[] = {
    0x66, 0xba, 0x10, 0x05, /* mov dx, 0x510 */
    0xed,		    /* in eax, dx: where */
    0x89, 0xc3,		    /* mov ebx, eax */
    0x0f, 0x31,		    /* rdtsc */
    0x89, 0xc6,		    /* mov esi, eax */
    0x8a, 0x0b,		    /* mov cl, [rbx] */
    0x0f, 0x31,		    /* rdtsc */
    0x29, 0xf0,		    /* sub eax, esi */
    0x66, 0xba, 0x10, 0x05, /* mov dx, 0x510 */
    0xef,		    /* out dx, eax: how long */
    0xeb, 0xe8,		    /* and again */
};

struct vcpu {
	struct hf_toucher *toucher;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
	bool runs;
	_Atomic uint32_t thread_id;
	sem_t order, ended, started;
	uint64_t address; /* of the order; END */
	uint32_t ticks;
	int result;
};

struct hf_toucher {
	int kvm_fd, vm_fd;
	uint8_t *system;
	int run_bytes;
	uint32_t count;
	uint64_t tsc_khz;
	struct vcpu vcpus[HF_TOUCHER_VCPUS_MAX];
};

/* ---- a vCPU's thread --------------------------------------------------------------------------- */

/* Until the guest has written the port. */
static int run_touch(struct vcpu *vcpu)
{
	for (;;) {
		if (ioctl(vcpu->fd, KVM_RUN, 0) < 0) {
			if (errno == EINTR || errno == EAGAIN)
				continue;
			return -errno;
		}
		struct kvm_run *run = vcpu->run;
		if (run->exit_reason != KVM_EXIT_IO)
			return -EIO;
		uint32_t *data = (uint32_t *)((uint8_t *)run + run->io.data_offset);
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			vcpu->ticks = *data;
			return 0;
		}
		*data = (uint32_t)vcpu->address;
	}
}

static void *vcpu_main(void *argument)
{
	struct vcpu *vcpu = argument;
	atomic_store(&vcpu->thread_id, (uint32_t)gettid());
	sem_post(&vcpu->started);
	for (;;) {
		while (sem_wait(&vcpu->order))
			;
		if (vcpu->address == END)
			return NULL;
		vcpu->result = run_touch(vcpu);
		sem_post(&vcpu->ended);
	}
}

/* ---- making ------------------------------------------------------------------------------------ */

static int kvm_failed(const char *what, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, errno ? errno : EIO, "%s: %s", what, strerror(errno));
}

static void make_system(uint8_t *system)
{
	uint64_t *pml4 = (uint64_t *)(system + PML4), *pdpt = (uint64_t *)(system + PDPT);
	uint64_t *below = (uint64_t *)(system + PD_SYSTEM), *above = (uint64_t *)(system + PD_MEMORY);
	memcpy(system + ENTRY, program, sizeof(program));
	pml4[0] = PDPT | TABLE;
	pdpt[0] = PD_SYSTEM | TABLE;
	pdpt[1] = PD_MEMORY | TABLE;
	below[0] = LEAF;
	for (uint64_t i = 0; i < 512; i++)
		above[i] = (MEMORY_AT + i * LARGE_PAGE) | LEAF;
}

static int add_slot(struct hf_toucher *toucher, uint32_t slot, uint64_t at, void *memory, uint64_t bytes,
		    struct hf_err *err)
{
	struct kvm_userspace_memory_region region = {
	    .slot = slot, .guest_phys_addr = at, .memory_size = bytes, .userspace_addr = (uintptr_t)memory};
	if (ioctl(toucher->vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		return kvm_failed("KVM_SET_USER_MEMORY_REGION", err);
	return 0;
}

static int create_vm(struct hf_toucher *toucher, void *memory, uint64_t bytes, struct hf_err *err)
{
	toucher->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (toucher->kvm_fd < 0)
		return kvm_failed("/dev/kvm", err);
	toucher->vm_fd = ioctl(toucher->kvm_fd, KVM_CREATE_VM, 0UL);
	toucher->run_bytes = ioctl(toucher->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (toucher->vm_fd < 0 || toucher->run_bytes < 0 || ioctl(toucher->vm_fd, KVM_SET_TSS_ADDR, TSS_AT))
		return kvm_failed("KVM_CREATE_VM", err);
	uint8_t *system = mmap(NULL, SYSTEM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (system == MAP_FAILED)
		return kvm_failed("memory for the guest's program", err);
	toucher->system = system;
	make_system(system);
	int result = add_slot(toucher, 0, 0, system, SYSTEM_BYTES, err);
	return result ? result : add_slot(toucher, 1, MEMORY_AT, memory, bytes, err);
}

static int enter(struct vcpu *vcpu, struct hf_err *err)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rflags = 2, .rip = ENTRY};
	struct kvm_segment code = {
	    .limit = UINT32_MAX, .selector = 8, .present = 1, .type = 11, .s = 1, .l = 1, .g = 1};
	struct kvm_segment data = code;
	data.type = 3;
	data.selector = 16;
	data.l = 0;
	data.db = 1;
	if (ioctl(vcpu->fd, KVM_GET_SREGS, &sregs))
		return kvm_failed("KVM_GET_SREGS", err);
	sregs.cr3 = PML4;
	sregs.cr4 = 1u << 5;	/* PAE */
	sregs.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
	sregs.efer = 0x501;	/* LME LMA SCE */
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	if (ioctl(vcpu->fd, KVM_SET_SREGS, &sregs) || ioctl(vcpu->fd, KVM_SET_REGS, &regs))
		return kvm_failed("KVM_SET_SREGS", err);
	return 0;
}

static int create_vcpu(struct hf_toucher *toucher, uint32_t index, struct hf_err *err)
{
	struct vcpu *vcpu = &toucher->vcpus[index];
	vcpu->toucher = toucher;
	vcpu->fd = ioctl(toucher->vm_fd, KVM_CREATE_VCPU, (unsigned long)index);
	if (vcpu->fd < 0)
		return kvm_failed("KVM_CREATE_VCPU", err);
	toucher->count = index + 1;
	sem_init(&vcpu->order, 0, 0);
	sem_init(&vcpu->ended, 0, 0);
	sem_init(&vcpu->started, 0, 0);
	struct kvm_run *run =
	    mmap(NULL, (size_t)toucher->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (run == MAP_FAILED)
		return kvm_failed("mmap of a vCPU", err);
	vcpu->run = run;
	int result = enter(vcpu, err);
	if (result)
		return result;
	errno = pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
	if (errno)
		return kvm_failed("a vCPU's thread", err);
	vcpu->runs = true;
	while (sem_wait(&vcpu->started))
		;
	return 0;
}

static int create(struct hf_toucher *toucher, void *memory, uint64_t bytes, uint32_t vcpus,
		  struct hf_err *err)
{
	int result = create_vm(toucher, memory, bytes, err);
	for (uint32_t i = 0; i < vcpus && !result; i++)
		result = create_vcpu(toucher, i, err);
	if (result)
		return result;
	int khz = ioctl(toucher->vcpus[0].fd, KVM_GET_TSC_KHZ, 0);
	if (khz <= 0)
		return kvm_failed("KVM_GET_TSC_KHZ", err);
	toucher->tsc_khz = (uint64_t)khz;
	return 0;
}

int hf_toucher_create(struct hf_toucher **out, void *memory, uint64_t bytes, uint32_t vcpus,
		      struct hf_err *err)
{
	if (bytes > HF_TOUCHER_BYTES_MAX || !vcpus || vcpus > HF_TOUCHER_VCPUS_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "a toucher has up to 1 GiB and 64 vCPUs");
	struct hf_toucher *toucher = calloc(1, sizeof(*toucher));
	if (!toucher)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	toucher->kvm_fd = toucher->vm_fd = -1;
	int result = create(toucher, memory, bytes, vcpus, err);
	if (result) {
		hf_toucher_destroy(toucher);
		return result;
	}
	*out = toucher;
	return 0;
}

static void order(struct vcpu *vcpu, uint64_t address)
{
	vcpu->address = address;
	sem_post(&vcpu->order);
}

void hf_toucher_destroy(struct hf_toucher *toucher)
{
	if (!toucher)
		return;
	for (uint32_t i = 0; i < toucher->count; i++) {
		struct vcpu *vcpu = &toucher->vcpus[i];
		if (vcpu->runs) {
			order(vcpu, END);
			pthread_join(vcpu->thread, NULL);
		}
		if (vcpu->run)
			munmap(vcpu->run, (size_t)toucher->run_bytes);
		close(vcpu->fd);
		sem_destroy(&vcpu->order);
		sem_destroy(&vcpu->ended);
		sem_destroy(&vcpu->started);
	}
	if (toucher->vm_fd >= 0)
		close(toucher->vm_fd);
	if (toucher->kvm_fd >= 0)
		close(toucher->kvm_fd);
	if (toucher->system)
		munmap(toucher->system, SYSTEM_BYTES);
	free(toucher);
}

/* ---- touching ---------------------------------------------------------------------------------- */

uint32_t hf_toucher_thread_id(const struct hf_toucher *toucher, uint32_t vcpu)
{
	return atomic_load(&toucher->vcpus[vcpu].thread_id);
}

void hf_toucher_touch(struct hf_toucher *toucher, uint32_t vcpu, uint64_t offset_bytes)
{
	order(&toucher->vcpus[vcpu], MEMORY_AT + offset_bytes);
}

int hf_toucher_wait(struct hf_toucher *toucher, uint32_t vcpu, uint64_t *stood_ns)
{
	struct vcpu *of = &toucher->vcpus[vcpu];
	while (sem_wait(&of->ended))
		;
	*stood_ns = (uint64_t)of->ticks * 1000000 / toucher->tsc_khz;
	return of->result;
}
