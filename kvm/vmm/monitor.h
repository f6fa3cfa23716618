/* SPDX-License-Identifier: Apache-2.0 */
/*
 * monitor.h - the run state of the VM and the QMP commands that change it.
 *
 * Purpose: serves the part of QEMU's QMP that moves a machine: query, stop, cont, migrate,
 * migrate-incoming, quit, with QEMU's names, states and events.
 * Ownership: machine and attach outlive the monitor; options too.
 * Threads: the QMP server's, one worker while device state travels. vmm_monitor_machine_failed() may be
 * called from a vCPU's thread. Units: milliseconds in _ms. Errors: 0 or -errno with text.
 */
#ifndef HF_KVM_VMM_MONITOR_H
#define HF_KVM_VMM_MONITOR_H

#include "core/err.h"
#include "hugemem/attach.h"
#include "kvm/vmm/machine.h"
#include "kvm/vmm/options.h"

struct vmm_monitor;

/* Made before the machine, which reports its failures here. */
int vmm_monitor_create(struct vmm_monitor **out, const struct vmm_options *options, struct hf_err *err);
void vmm_monitor_machine_failed(void *monitor, const struct hf_err *err);
/*
 * Opens the QMP socket; unless options say incoming, the machine then runs. attach may be NULL.
 */
int vmm_monitor_start(struct vmm_monitor *monitor, struct vmm_machine *machine, struct hf_attach *attach,
		      struct hf_err *err);
/* Readable once a client has said quit. */
int vmm_monitor_quit_fd(const struct vmm_monitor *monitor);
/*
 * Says SHUTDOWN with the reason (NULL: nothing) to all clients, closes the socket, cancels what travels. The
 * machine is only the caller's afterwards. NULL is fine.
 */
void vmm_monitor_quiesce(struct vmm_monitor *monitor, const char *reason);
/* Quiesces too; after the machine is gone. NULL is fine. */
void vmm_monitor_destroy(struct vmm_monitor *monitor);

#endif
