/* SPDX-License-Identifier: Apache-2.0 */
/*
 * monitor_internal.h - between the monitor's commands and its moving of device state.
 *
 * Purpose: the monitor's state and the steps both files need.
 * Ownership: private to monitor.c and monitor_migrate.c.
 * Threads: fields are grouped by owner; functions with _locked want monitor->lock held.
 * Units: milliseconds in _ms.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_KVM_VMM_MONITOR_INTERNAL_H
#define HF_KVM_VMM_MONITOR_INTERNAL_H

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/lock.h"
#include "kvm/qmp.h"
#include "kvm/vmm/monitor.h"

#define VMM_STOP_LIMIT_MS 5000

/* QEMU's RunState, as far as this machine has them. */
enum vmm_run_state {
	VMM_INMIGRATE = 0, /* waits for device state; cannot run */
	VMM_PAUSED,
	VMM_RUNNING,
	VMM_FINISH_MIGRATE, /* device state is being saved and sent */
	VMM_POSTMIGRATE,    /* it was sent; `cont` takes the machine back */
	VMM_INTERNAL_ERROR, /* a vCPU failed; nothing runs any more */
};

/* QEMU's MigrationStatus, as far. */
enum vmm_migration_status {
	VMM_MIGRATION_NONE = 0,
	VMM_MIGRATION_SETUP,
	VMM_MIGRATION_ACTIVE,
	VMM_MIGRATION_COMPLETED,
	VMM_MIGRATION_FAILED,
	VMM_MIGRATION_CANCELLED,
};

struct vmm_monitor {
	/* Set at creation and at start. */
	const struct vmm_options *options;
	struct vmm_machine *machine;
	struct hf_attach *attach;
	int quit_fd;
	int cancel_fd;
	struct hf_lock lock;
	/* Under the lock. */
	struct hf_qmp_server *server;
	enum vmm_run_state state;
	bool must_be_armed; /* loaded, has not run since: pages may still be missing */
	bool events;	    /* capability */
	enum vmm_migration_status migration;
	struct hf_err migration_err;
	uint64_t started_ms, ended_ms;
	uint64_t transferred_bytes;
	/* The QMP thread's own; the worker reads them. */
	bool has_worker;
	pthread_t worker;
	enum vmm_run_state state_before;
	char path[108];
	int listen_fd;
};

void vmm_monitor_log(const struct vmm_monitor *monitor, const char *text);
void vmm_monitor_event_locked(struct vmm_monitor *monitor, const char *name, json_t *data);
/* Sets the status and says so where the capability `events` is on. */
void vmm_monitor_migration_locked(struct vmm_monitor *monitor, enum vmm_migration_status status);
/* With every page that may still be missing served, or -EPERM. */
int vmm_monitor_check_armed(const struct vmm_monitor *monitor, struct hf_err *err);

/* Joins the last worker, if it has ended or been cancelled. */
void vmm_monitor_join_worker(struct vmm_monitor *monitor);

hf_qmp_handler vmm_qmp_migrate, vmm_qmp_migrate_incoming, vmm_qmp_migrate_cancel, vmm_qmp_query_migrate,
    vmm_qmp_set_capabilities, vmm_qmp_query_capabilities;

#endif
