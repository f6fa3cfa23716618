/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c - hugeferry-vmm: puts the parts together and waits for the end.
 *
 * Theory of operation. Everything is made in an order in which each part may rely on the one before: memory
 * file, guest (unless one is to come in), machine, attach hand-off, QMP socket. The QMP socket is last, so
 * whoever can connect to it finds a complete VM. The main thread then waits for a signal or for `quit`,
 * and takes everything down in reverse.
 *
 * A vCPU may wait for a page nobody will ever bring. It is let go by giving up our copy of the userfaultfd;
 * where an agent still holds one, threads cannot be joined: the files are removed and the process ends with
 * the vCPU in it.
 *
 * The vCPUs report failures to the monitor, so that one exists before the machine and outlives it.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "hugemem/attach.h"
#include "hugemem/hugepool.h"
#include "kvm/guest.h"
#include "kvm/vmm/machine.h"
#include "kvm/vmm/memory_error.h"
#include "kvm/vmm/monitor.h"
#include "kvm/vmm/options.h"

#define HALT_LIMIT_MS 1000

struct vmm {
	struct vmm_options options;
	int signal_fd;
	struct hf_ram_file ram;
	struct vmm_monitor *monitor;
	struct vmm_machine *machine;
	struct hf_attach *attach;
};

static void on_kick(int signal)
{
	(void)signal; /* it ends KVM_RUN, that is all; user mode has a handler of its own */
}

/* SIGTERM and SIGINT are read from a descriptor; blocked here, they are blocked in every thread. */
static int set_signals(struct vmm *vmm, struct hf_err *err)
{
	struct sigaction kick = {.sa_handler = on_kick};
	sigset_t ends;

	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	if (sigaction(vmm_machine_kick_signal(), &kick, NULL) || vmm_memory_error_catch() ||
	    sigprocmask(SIG_BLOCK, &ends, NULL))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "signals: %s", strerror(errno));
	vmm->signal_fd = signalfd(-1, &ends, SFD_CLOEXEC);
	if (vmm->signal_fd < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "signalfd: %s", strerror(errno));
	return 0;
}

/* SIGTERM, not SIGKILL: the files are to go too. */
static int die_with_parent(pid_t parent, struct hf_err *err)
{
	if (prctl(PR_SET_PDEATHSIG, SIGTERM) < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "PR_SET_PDEATHSIG: %s", strerror(errno));
	if (getppid() != parent)
		return hf_err_set(err, HF_ERR_LOCAL, ESRCH, "the parent process has ended already");
	return 0;
}

static int make_machine(struct vmm *vmm, struct hf_err *err)
{
	struct vmm_machine_config config = {
	    .accel = vmm->options.accel,
	    .memory = vmm->ram.address,
	    .memory_bytes = vmm->ram.length_bytes,
	    .page_size_bytes = vmm->ram.page_size_bytes,
	    .vcpus = vmm->options.guest.vcpus,
	    .pace_steps_per_s = vmm->options.incoming ? 0 : vmm->options.guest.pace_steps_per_s,
	    .failed = vmm_monitor_machine_failed,
	    .opaque = vmm->monitor,
	};
	int result = vmm_machine_create(&vmm->machine, &config, err);
	if (!result && !vmm->options.incoming)
		result = vmm_machine_enter_guest(vmm->machine, err);
	return result;
}

static void say_skipped_msrs(const struct vmm *vmm)
{
	const struct vmm_msr_list *list = vmm_machine_msrs(vmm->machine);
	if (!list->skipped_count)
		return;
	fprintf(stderr, "hugeferry-vmm: %s: MSRs not part of device state (KVM does not let them be set):",
		vmm->options.name);
	for (uint32_t i = 0; i < list->skipped_count; i++)
		fprintf(stderr, " 0x%x", list->skipped[i]);
	fprintf(stderr, "\n");
}

static int make_attach(struct vmm *vmm, struct hf_err *err)
{
	struct hf_attach_options options = {.socket_path = vmm->options.attach_path,
					    .vm_name = vmm->options.name};
	struct hf_attach_region region = {.idstr = vmm->options.id,
					  .address = vmm->ram.address,
					  .length_bytes = vmm->ram.length_bytes,
					  .page_size_bytes = vmm->ram.page_size_bytes,
					  .fd = vmm->ram.fd};

	if (!options.socket_path)
		return 0;
	int result = hf_attach_create(&vmm->attach, &options, err);
	if (!result)
		result = hf_attach_add(vmm->attach, &region, err);
	if (!result)
		result = hf_attach_start(vmm->attach, err);
	return result;
}

static int make_all(struct vmm *vmm, struct hf_err *err)
{
	const struct hf_guest_config *guest = &vmm->options.guest;

	int result = hf_ram_file_create(&vmm->ram, vmm->options.ram_file, guest->memory_bytes,
					guest->page_size_bytes, err);
	if (!result && !vmm->options.incoming)
		result = hf_guest_load(vmm->ram.address, guest, err);
	if (!result)
		result = vmm_monitor_create(&vmm->monitor, &vmm->options, err);
	if (!result)
		result = make_machine(vmm, err);
	if (result)
		return result;
	say_skipped_msrs(vmm);
	result = make_attach(vmm, err);
	if (!result)
		result = vmm_monitor_start(vmm->monitor, vmm->machine, vmm->attach, err);
	return result;
}

/* Why the VM ends, in QEMU's words. */
static const char *wait_for_end(const struct vmm *vmm)
{
	struct pollfd polls[2] = {{.fd = vmm->signal_fd, .events = POLLIN},
				  {.fd = vmm_monitor_quit_fd(vmm->monitor), .events = POLLIN}};
	while (poll(polls, 2, -1) < 0 && errno == EINTR)
		continue;
	return polls[1].revents ? "host-qmp-quit" : "host-signal";
}

/* False: a vCPU does not come out of the guest. */
static bool halt_machine(struct vmm *vmm)
{
	if (!vmm->machine || vmm_machine_halt(vmm->machine, HALT_LIMIT_MS))
		return true;
	/* It waits for a page. Without our copy of the userfaultfd the page is zeros, unless an agent holds
	 * one. */
	hf_attach_destroy(vmm->attach);
	vmm->attach = NULL;
	return vmm_machine_halt(vmm->machine, HALT_LIMIT_MS);
}

static void destroy_all(struct vmm *vmm, const char *reason)
{
	/* The monitor's worker calls the machine, the machine's threads call the monitor. */
	vmm_monitor_quiesce(vmm->monitor, reason);
	if (!halt_machine(vmm)) {
		unlink(vmm->ram.path);
		_exit(reason ? 0 : 1);
	}
	vmm_machine_destroy(vmm->machine);
	vmm_monitor_destroy(vmm->monitor);
	hf_attach_destroy(vmm->attach);
	hf_ram_file_destroy(&vmm->ram);
	if (vmm->signal_fd >= 0)
		close(vmm->signal_fd);
}

int main(int argc, char **argv)
{
	struct vmm vmm = {.signal_fd = -1, .ram = {.fd = -1}};
	struct hf_err err = HF_ERR_INIT;
	pid_t parent = getppid();

	int result = vmm_options_parse(&vmm.options, argc, argv, &err);
	if (!result && vmm.options.help) {
		fputs(vmm_options_help, stdout);
		return fflush(stdout) ? 1 : 0;
	}
	if (!result && vmm.options.die_with_parent)
		result = die_with_parent(parent, &err);
	if (!result)
		result = set_signals(&vmm, &err);
	if (!result)
		result = make_all(&vmm, &err);
	const char *reason = result ? NULL : wait_for_end(&vmm);
	if (result)
		fprintf(stderr, "hugeferry-vmm: %s\n", err.text);
	destroy_all(&vmm, reason);
	return result ? 1 : 0;
}
