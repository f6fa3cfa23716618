/* SPDX-License-Identifier: Apache-2.0 */
/*
 * accel_user.c - the guest in user mode: a vCPU's thread executes the program itself.
 *
 * Theory of operation. The guest program reaches memory through segment GS only and jumps relatively, so with
 * the thread's GS base where guest memory is mapped it runs in that mapping as it does on a machine of its
 * own. It needs no stack; signal handlers have one of their own. NOTHING KEEPS THE GUEST FROM THE MEMORY OF
 * THIS PROGRAM: this is for hosts without KVM and for tests, and the program is ours. What arrives by a
 * migration is executed as well: it is to come from where this program would come from.
 *
 * The way in and out is by signals, whose return loads all registers:
 *
 *     thread: raises `enter` at itself    handler: keeps the thread's registers, puts the guest's in their
 * place guest:  has a fault, or is kicked   handler: keeps the guest's registers, puts the thread's in their
 * place
 *
 * so that the thread goes on behind the call that raised `enter`, and finds why the guest was left. Handlers
 * run with these signals blocked. A kick is as with KVM: vcpu->kicked is read in `enter`, and what comes
 * later is a signal that is delivered as soon as the guest's first instruction would run.
 *
 *     memory that is missing   the thread waits in its page fault; a kick ends the wait and the instruction
 *                              is done when the guest is entered again
 *     IN                       SIGSEGV of a general protection: done here, completely, before the vCPU stands
 *     poisoned memory          SIGBUS: the guest's memory error, see memory_error.c
 *
 * Any other fault of the guest is the end of the machine. One of this program is none of the guest's, and
 * ends the program as it always does.
 *
 * The clock is the host's and goes on while a vCPU stands: a guest's longest time between two steps includes
 * the time for which it was stopped.
 */
#include <asm/prctl.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "kvm/guest/layout.h"
#include "kvm/vmm/accel.h"
#include "kvm/vmm/machine.h"
#include "kvm/vmm/memory_error.h"
#include "kvm/vmm/vcpu.h"
#include "kvm/vmm/vcpu_state.h"

#define STACK_BYTES	    65536u
#define FLAGS_OF_ARITHMETIC 0xcd5u /* carry to overflow, direction among them */
#define FLAGS_ALWAYS	    0x2u
#define TRAP_PROTECTION	    13
#define OPCODE_IN_EAX_DX    0xed

#define SA_HAS_RESTORER	    0x04000000ul
#define KERNEL_SIGSET_BYTES 8
/* Whoever instruments a program believes the thread to be elsewhere. */
#define HANDLER __attribute__((no_sanitize("address", "thread", "undefined")))

struct vmm_user_vcpu {
	uint8_t *memory;
	uint64_t memory_bytes;
	uint8_t kicked;
	void *stack;
	struct kvm_regs regs; /* rip is an offset in guest memory */
	/* Between the thread and its handlers. */
	volatile sig_atomic_t in_guest;
	greg_t host[NGREG];
	siginfo_t left_by; /* si_signo 0: was not entered */
	greg_t left_trap;
};

static _Thread_local struct vmm_user_vcpu *own;
static const struct vmm_msr_list no_msrs;

/* ---- handlers --------------------------------------------------------------------------------- */

static int enter_signal(void)
{
	return SIGRTMIN + 1;
}

/* Where each register is in a signal's context. */
static const struct {
	int greg;
	size_t offset;
} places[] = {
    {REG_RAX, offsetof(struct kvm_regs, rax)}, {REG_RBX, offsetof(struct kvm_regs, rbx)},
    {REG_RCX, offsetof(struct kvm_regs, rcx)}, {REG_RDX, offsetof(struct kvm_regs, rdx)},
    {REG_RSI, offsetof(struct kvm_regs, rsi)}, {REG_RDI, offsetof(struct kvm_regs, rdi)},
    {REG_RSP, offsetof(struct kvm_regs, rsp)}, {REG_RBP, offsetof(struct kvm_regs, rbp)},
    {REG_R8, offsetof(struct kvm_regs, r8)},   {REG_R9, offsetof(struct kvm_regs, r9)},
    {REG_R10, offsetof(struct kvm_regs, r10)}, {REG_R11, offsetof(struct kvm_regs, r11)},
    {REG_R12, offsetof(struct kvm_regs, r12)}, {REG_R13, offsetof(struct kvm_regs, r13)},
    {REG_R14, offsetof(struct kvm_regs, r14)}, {REG_R15, offsetof(struct kvm_regs, r15)},
};

#define PLACES (sizeof(places) / sizeof(places[0]))

HANDLER static greg_t *place(struct kvm_regs *regs, size_t i)
{
	return (greg_t *)(void *)((char *)regs + places[i].offset);
}

HANDLER static void on_enter(int signal, siginfo_t *info, void *context)
{
	greg_t *gregs = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct vmm_user_vcpu *user = own;

	(void)signal;
	if (!user || user->in_guest || info->si_pid != getpid())
		return;
	user->left_by.si_signo = 0;
	if (__atomic_load_n(&user->kicked, __ATOMIC_SEQ_CST))
		return;
	for (int i = 0; i < NGREG; i++)
		user->host[i] = gregs[i];
	for (size_t i = 0; i < PLACES; i++)
		gregs[places[i].greg] = *place(&user->regs, i);
	gregs[REG_RIP] = (greg_t)((uintptr_t)user->memory + user->regs.rip);
	gregs[REG_EFL] = (greg_t)(user->regs.rflags & FLAGS_OF_ARITHMETIC) |
			 (gregs[REG_EFL] & ~(greg_t)FLAGS_OF_ARITHMETIC);
	user->in_guest = 1;
}

/* True: it was the guest that was interrupted, and it is left. */
HANDLER static bool leave_guest(const siginfo_t *info, greg_t *gregs)
{
	struct vmm_user_vcpu *user = own;

	if (!user || !user->in_guest)
		return false;
	for (size_t i = 0; i < PLACES; i++)
		*place(&user->regs, i) = gregs[places[i].greg];
	user->regs.rip = (uint64_t)gregs[REG_RIP] - (uintptr_t)user->memory;
	user->regs.rflags = ((uint64_t)gregs[REG_EFL] & FLAGS_OF_ARITHMETIC) | FLAGS_ALWAYS;
	user->left_by = *info;
	user->left_trap = gregs[REG_TRAPNO];
	user->in_guest = 0;
	for (int i = 0; i < NGREG; i++)
		gregs[i] = user->host[i];
	return true;
}

HANDLER static void on_kick(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	leave_guest(info, ((ucontext_t *)context)->uc_mcontext.gregs);
}

/* As the kernel has it. */
struct kernel_sigaction {
	void (*handler)(int number, siginfo_t *info, void *context);
	unsigned long flags;
	void (*restorer)(void);
	uint64_t mask;
};

void vmm_user_signal_return(void);
asm(".text\n"
    ".hidden	vmm_user_signal_return\n"
    ".globl	vmm_user_signal_return\n"
    "vmm_user_signal_return:\n"
    "	movl	$15, %eax\n" /* rt_sigreturn */
    "	syscall\n");

/* Not sigaction(): sanitizers put a handler of their own in between, which hands signals on when it likes. */
HANDLER static int set_action(int number, const struct kernel_sigaction *action)
{
	return syscall(SYS_rt_sigaction, number, action, NULL, KERNEL_SIGSET_BYTES) < 0 ? -errno : 0;
}

HANDLER static void on_fault(int number, siginfo_t *info, void *context)
{
	if (leave_guest(info, ((ucontext_t *)context)->uc_mcontext.gregs))
		return;
	struct kernel_sigaction usual = {0};
	set_action(number, &usual); /* it comes again */
}

static int catch_signal(int number, void (*handler)(int, siginfo_t *, void *), struct hf_err *err)
{
	struct kernel_sigaction action = {.handler = handler,
					  .flags = SA_SIGINFO | SA_ONSTACK | SA_HAS_RESTORER,
					  .restorer = vmm_user_signal_return,
					  .mask = ~0ull};
	int result = set_action(number, &action);
	return result ? hf_err_set(err, HF_ERR_LOCAL, -result, "signal %d: %s", number, strerror(-result))
		      : 0;
}

/* ---- making ----------------------------------------------------------------------------------- */

static int user_open(void **accel, const struct vmm_machine_config *config, struct hf_err *err)
{
	static const int faults[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP};

	if (mprotect(config->memory, config->memory_bytes, PROT_READ | PROT_WRITE | PROT_EXEC))
		return hf_err_set(
		    err, HF_ERR_LOCAL, errno,
		    "guest memory cannot be made executable, which --accel user needs: %s; is its "
		    "file on a mount with noexec?",
		    strerror(errno));
	struct vmm_machine_config *copy = malloc(sizeof(*copy));
	if (!copy)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	*copy = *config;
	int result = catch_signal(enter_signal(), on_enter, err);
	if (!result)
		result = catch_signal(vmm_machine_kick_signal(), on_kick, err);
	for (size_t i = 0; !result && i < sizeof(faults) / sizeof(faults[0]); i++)
		result = catch_signal(faults[i], on_fault, err);
	if (result)
		free(copy);
	else
		*accel = copy;
	return result;
}

static int vcpu_create(void *accel, struct vmm_vcpu *vcpu, struct hf_err *err)
{
	const struct vmm_machine_config *config = accel;
	struct vmm_user_vcpu *user = calloc(1, sizeof(*user));

	if (user)
		user->stack = malloc(STACK_BYTES);
	if (!user || !user->stack) {
		free(user);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	}
	user->memory = config->memory;
	user->memory_bytes = config->memory_bytes;
	user->regs = (struct kvm_regs){.rip = HF_GUEST_TEXT_OFFSET, .rflags = FLAGS_ALWAYS};
	vcpu->user = user;
	vcpu->kicked = &user->kicked;
	return 0;
}

/* The thread has ended. */
static void vcpu_destroy(struct vmm_vcpu *vcpu)
{
	free(vcpu->user->stack);
	free(vcpu->user);
}

static int vcpu_enter_guest(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	(void)err;
	/* The entry point's argument; the stack pointer stays 0, see the guest program. */
	vcpu->user->regs =
	    (struct kvm_regs){.rip = HF_GUEST_TEXT_OFFSET, .rflags = FLAGS_ALWAYS, .rdi = vcpu->index};
	return 0;
}

/* ---- running ---------------------------------------------------------------------------------- */

static int set_thread(struct vmm_vcpu *vcpu, stack_t *before, struct hf_err *err)
{
	struct vmm_user_vcpu *user = vcpu->user;
	stack_t stack = {.ss_sp = user->stack, .ss_size = STACK_BYTES};

	if (sigaltstack(&stack, before) || syscall(SYS_arch_prctl, ARCH_SET_GS, user->memory))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "vCPU %" PRIu32 ": user mode: %s", vcpu->index,
				  strerror(errno));
	own = user;
	return 0;
}

static int read_port(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	struct kvm_regs *regs = &vcpu->user->regs;
	uint16_t port = (uint16_t)regs->rdx;

	if (port != HF_GUEST_PORT)
		return hf_err_set(err, HF_ERR_LOCAL, EIO,
				  "vCPU %" PRIu32
				  ": the guest used port 0x%x in a way this machine does not have",
				  vcpu->index, port);
	regs->rax = vmm_vcpu_read_port(vcpu);
	regs->rip += 1;
	return 0;
}

static bool in_text(const struct kvm_regs *regs)
{
	return regs->rip >= HF_GUEST_TEXT_OFFSET && regs->rip < HF_GUEST_TEXT_OFFSET + HF_GUEST_TEXT_MAX;
}

static int handle_fault(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	struct vmm_user_vcpu *user = vcpu->user;
	const siginfo_t *info = &user->left_by;

	/* A kernel without CONFIG_MEMORY_FAILURE does not say that the page is poisoned, but its bytes are
	 * lost either way. */
	if (info->si_signo == SIGBUS)
		return vmm_memory_error_redirect(vcpu, &user->regs, err);
	if (info->si_signo == SIGSEGV && user->left_trap == TRAP_PROTECTION && in_text(&user->regs) &&
	    user->memory[user->regs.rip] == OPCODE_IN_EAX_DX)
		return read_port(vcpu, err);
	return hf_err_set(err, HF_ERR_LOCAL, EIO,
			  "vCPU %" PRIu32 ": %s at 0x%" PRIx64 "; guest memory or registers are wrong",
			  vcpu->index, strsignal(info->si_signo), (uint64_t)user->regs.rip);
}

static int vcpu_run(struct vmm_vcpu *vcpu, struct hf_err *err)
{
	struct vmm_user_vcpu *user = vcpu->user;
	stack_t before;
	int result = set_thread(vcpu, &before, err);
	if (result)
		return result;

	while (!result) {
		/* Not pthread_kill(): the guest is left to behind this system call. */
		syscall(SYS_tgkill, getpid(), gettid(), enter_signal());
		if (user->left_by.si_signo && user->left_by.si_signo != vmm_machine_kick_signal())
			result = handle_fault(vcpu, err);
		else if (__atomic_load_n(&user->kicked, __ATOMIC_SEQ_CST))
			break;
	}
	own = NULL;
	sigaltstack(&before, NULL); /* the thread ends with the one it began with */
	return result;
}

/* ---- state ------------------------------------------------------------------------------------ */

static int check_regs(void *object, uint32_t version, struct hf_err *err)
{
	const struct kvm_regs *regs = object;

	(void)version;
	if (!in_text(regs))
		return hf_err_set(err, HF_ERR_PEER, EINVAL,
				  "the guest stands at 0x%llx, which is not in its program",
				  (unsigned long long)regs->rip);
	return 0;
}

struct user_state {
	struct kvm_regs regs;
};

static const struct hf_devstate_desc user_state_desc = {
    .name = "user-vcpu",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct user_state),
    .fields = (const struct hf_devstate_field[]){HF_DEVSTATE_NESTED(struct user_state, regs, &vmm_regs_desc),
						 HF_DEVSTATE_FIELDS_END},
    .post_load = check_regs,
};

static int vcpu_get(void *accel, const struct vmm_vcpu *vcpu, void *state, struct hf_err *err)
{
	(void)accel;
	(void)err;
	*(struct user_state *)state = (struct user_state){vcpu->user->regs};
	return 0;
}

static int vcpu_set(void *accel, struct vmm_vcpu *vcpu, const void *state, struct hf_err *err)
{
	(void)accel;
	(void)err;
	vcpu->user->regs = ((const struct user_state *)state)->regs;
	return 0;
}

static const struct vmm_msr_list *msrs(const void *accel)
{
	(void)accel;
	return &no_msrs;
}

const struct vmm_accel_ops vmm_accel_user = {
    .state_desc = &user_state_desc,
    .open = user_open,
    .close = free,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .vcpu_enter_guest = vcpu_enter_guest,
    .vcpu_run = vcpu_run,
    .vcpu_get = vcpu_get,
    .vcpu_set = vcpu_set,
    .msrs = msrs,
};
