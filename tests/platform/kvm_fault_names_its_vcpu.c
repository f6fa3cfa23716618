/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: a guest's access to a page that is missing, or half filled, is a fault of the thread that runs the
 * vCPU; KVM_RUN waits, and the guest goes on with the whole page.
 *
 * Kernel: 4.14 (THREAD_ID), 5.13 (MINOR_HUGETLBFS).
 *
 * Relied on by: hugemem/fault_reader.c, core/blocktime.c, kvm/qmp_vm_query.c (thread ids of vCPUs).
 */
#include <string.h>
#include <unistd.h>

#include "tests/platform/platform_kvm.h"

#define WORD 0x01020304u

struct vcpu {
	struct vm vm;
	const struct ram *ram;
	unsigned page;
	atomic_int thread_id;
	uint32_t word;
	int result;
};

static void *read_last_word(void *opaque)
{
	struct vcpu *vcpu = opaque;

	atomic_store(&vcpu->thread_id, gettid());
	vcpu->result = vm_read(&vcpu->vm, vcpu->ram, vcpu->page, vcpu->ram->page_bytes - sizeof(vcpu->word),
			       &vcpu->word);
	return NULL;
}

static void show_of(struct vcpu *vcpu, int uffd, unsigned page, uint64_t kind)
{
	const struct ram *ram = vcpu->ram;
	uint32_t word = WORD;
	pthread_t thread;

	vcpu->page = page;
	must(pthread_create(&thread, NULL, read_last_word, vcpu) == 0);
	struct uffd_msg message = uffd_next(uffd, "a guest's access");
	expect_fault(&message, ram, page, kind);
	int named = (int)message.arg.pagefault.feat.ptid, is = atomic_load(&vcpu->thread_id);
	expect(named == is, "the fault of the vCPU of thread %d names thread %d", is, named);
	memcpy(ram_alias(ram, page) + ram->page_bytes - sizeof(word), &word, sizeof(word));
	must(page_continue(uffd, ram, page) == 0);
	must(pthread_join(thread, NULL) == 0);
	expect_answer("KVM_RUN after its page was placed", vcpu->result, 0);
	expect(vcpu->word == WORD, "the guest reads %x where %x was placed", vcpu->word, WORD);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	struct vcpu vcpu = {.vm = vm_new(&ram), .ram = &ram};
	int uffd = uffd_of(&ram, BOTH_FAULTS | UFFD_FEATURE_THREAD_ID, BOTH);

	show_of(&vcpu, uffd, 0, MISSING_KIND);
	ram_alias(&ram, 1)[0] = 1;
	show_of(&vcpu, uffd, 1, MINOR_KIND);
	/* The opposite. */
	read_last_word(&vcpu);
	expect(vcpu.result == 0 && uffd_is_silent(uffd),
	       "a guest's access to a page that is there raises a fault");
}

int main(void)
{
	return platform_run(&(struct platform_fact){.claim = "a guest's fault names the thread of its vCPU",
						    .show = show,
						    .pages = 2,
						    .giant_pages = 2,
						    .features = BOTH_FAULTS | UFFD_FEATURE_THREAD_ID});
}
