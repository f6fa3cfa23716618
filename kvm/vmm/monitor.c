/* SPDX-License-Identifier: Apache-2.0 */
/*
 * monitor.c - the run state and the commands.
 *
 * Theory of operation. One run state, under one lock, with QEMU's names; commands move it and say so with
 * QEMU's events. Commands run in the QMP server's thread, one at a time. The lock is held while vCPUs are
 * stopped for `stop` (bounded), since everything else that would change the run state has to wait for
 * that anyway; a vCPU that fails meanwhile already counts as stopped when it asks for the lock.
 *
 * A machine that came in must not run before its missing pages are served: until its first `cont` after
 * loading, the attach library has to be armed (where there is one). Lock order: the monitor's, then the
 * machine's or the QMP server's.
 */
#include "kvm/vmm/monitor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "kvm/vmm/monitor_internal.h"

#define ARM_LIMIT_MS 500

static const char *const state_names[] = {
    [VMM_INMIGRATE] = "inmigrate",     [VMM_PAUSED] = "paused",
    [VMM_RUNNING] = "running",	       [VMM_FINISH_MIGRATE] = "finish-migrate",
    [VMM_POSTMIGRATE] = "postmigrate", [VMM_INTERNAL_ERROR] = "internal-error",
};

void vmm_monitor_log(const struct vmm_monitor *monitor, const char *text)
{
	fprintf(stderr, "hugeferry-vmm: %s: %s\n", monitor->options->name, text);
}

void vmm_monitor_event_locked(struct vmm_monitor *monitor, const char *name, json_t *data)
{
	hf_lock_assert_held(&monitor->lock);
	if (monitor->server)
		hf_qmp_server_event(monitor->server, name, data);
	else
		json_decref(data);
}

void vmm_monitor_machine_failed(void *opaque, const struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;

	vmm_monitor_log(monitor, err->text);
	hf_lock(&monitor->lock);
	monitor->state = VMM_INTERNAL_ERROR;
	vmm_monitor_event_locked(monitor, "STOP", NULL);
	hf_unlock(&monitor->lock);
}

int vmm_monitor_check_armed(const struct vmm_monitor *monitor, struct hf_err *err)
{
	/* The library arms just after the descriptor has left; an agent may be here before that. */
	if (!monitor->attach || !hf_attach_wait_armed(monitor->attach, ARM_LIMIT_MS))
		return 0;
	return hf_err_set(
	    err, HF_ERR_LOCAL, EPERM,
	    "Guest memory is not attached yet: nobody serves the missing pages of block '%s' of VM '%s'; "
	    "start hugeferry on this host with the attach socket first",
	    monitor->options->id, monitor->options->name);
}

/* ---- commands --------------------------------------------------------------------------------- */

static int out_of_memory(struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
}

static int query_status(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;

	(void)arguments;
	hf_lock(&monitor->lock);
	enum vmm_run_state state = monitor->state;
	hf_unlock(&monitor->lock);
	*reply = json_pack("{s:s, s:b}", "status", state_names[state], "running", state == VMM_RUNNING);
	return *reply ? 0 : out_of_memory(err);
}

static json_t *describe_vcpu(const struct vmm_monitor *monitor, uint32_t vcpu)
{
	char path[64];
	snprintf(path, sizeof(path), "/machine/unattached/device[%" PRIu32 "]", vcpu);
	return json_pack("{s:i, s:s, s:I, s:s, s:{s:i, s:i, s:i}}", "cpu-index", (int)vcpu, "qom-path", path,
			 "thread-id", (json_int_t)vmm_machine_vcpu_thread_id(monitor->machine, vcpu),
			 "target", "x86_64", "props", "socket-id", 0, "core-id", (int)vcpu, "thread-id", 0);
}

static int query_cpus_fast(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;
	json_t *vcpus = json_array();

	(void)arguments;
	if (!vcpus)
		return out_of_memory(err);
	for (uint32_t i = 0; i < vmm_machine_vcpus(monitor->machine); i++)
		if (json_array_append_new(vcpus, describe_vcpu(monitor, i))) {
			json_decref(vcpus);
			return out_of_memory(err);
		}
	*reply = vcpus;
	return 0;
}

static int stop(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;
	int result = 0;

	(void)arguments;
	(void)reply;
	hf_lock(&monitor->lock);
	if (monitor->state == VMM_RUNNING) {
		result = vmm_machine_stop(monitor->machine, VMM_STOP_LIMIT_MS, err);
		if (!result) {
			monitor->state = VMM_PAUSED;
			vmm_monitor_event_locked(monitor, "STOP", NULL);
		}
	}
	hf_unlock(&monitor->lock);
	return result;
}

static int may_run_locked(const struct vmm_monitor *monitor, struct hf_err *err)
{
	hf_lock_assert_held(&monitor->lock);
	switch (monitor->state) {
	case VMM_INMIGRATE:
		return hf_err_set(
		    err, HF_ERR_LOCAL, EPERM,
		    "Guest is waiting for an incoming migration; its device state has not been loaded");
	case VMM_FINISH_MIGRATE:
		return hf_err_set(err, HF_ERR_LOCAL, EBUSY, "Migration is not finalized yet");
	case VMM_INTERNAL_ERROR:
		return hf_err_set(err, HF_ERR_LOCAL, EIO, "Resetting the Virtual Machine is required");
	case VMM_PAUSED:
	case VMM_RUNNING:
	case VMM_POSTMIGRATE:
		break;
	}
	return monitor->must_be_armed ? vmm_monitor_check_armed(monitor, err) : 0;
}

static int run_locked(struct vmm_monitor *monitor, struct hf_err *err)
{
	hf_lock_assert_held(&monitor->lock);
	int result = may_run_locked(monitor, err);
	if (result || monitor->state == VMM_RUNNING)
		return result;
	/* Before the vCPUs run: one that fails at once changes the state again. */
	enum vmm_run_state before = monitor->state;
	monitor->state = VMM_RUNNING;
	/* As QEMU does: whoever freezes this process later finds the event if a vCPU has run. */
	vmm_monitor_event_locked(monitor, "RESUME", NULL);
	result = vmm_machine_run(monitor->machine, err);
	if (result) {
		monitor->state = before;
		vmm_monitor_event_locked(monitor, "STOP", NULL);
		return result;
	}
	monitor->must_be_armed = false;
	return 0;
}

static int cont(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;

	(void)arguments;
	(void)reply;
	hf_lock(&monitor->lock);
	int result = run_locked(monitor, err);
	hf_unlock(&monitor->lock);
	return result;
}

static int quit(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;

	(void)arguments;
	(void)reply;
	(void)err;
	eventfd_write(monitor->quit_fd, 1);
	return 0;
}

static int query_memdev(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	const struct vmm_monitor *monitor = opaque;

	(void)arguments;
	*reply = json_pack("[{s:s, s:I, s:b, s:b, s:b, s:b, s:b, s:[], s:s}]", "id", monitor->options->id,
			   "size", (json_int_t)monitor->options->guest.memory_bytes, "merge", 0, "dump", 1,
			   "prealloc", 0, "share", 1, "reserve", 1, "host-nodes", "policy", "default");
	return *reply ? 0 : out_of_memory(err);
}

static int qom_get(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	const struct vmm_monitor *monitor = opaque;
	const char *path = json_string_value(json_object_get(arguments, "path"));
	const char *property = json_string_value(json_object_get(arguments, "property"));

	if (!path || !property)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Invalid parameter type, expected: string");
	if (strncmp(path, "/objects/", 9) || strcmp(path + 9, monitor->options->id))
		return hf_err_set(err, HF_ERR_LOCAL, ENODEV, "Device '%.100s' not found", path);
	if (!strcmp(property, "mem-path"))
		*reply = json_string(monitor->options->ram_file);
	else if (!strcmp(property, "size"))
		*reply = json_integer((json_int_t)monitor->options->guest.memory_bytes);
	else if (!strcmp(property, "share"))
		*reply = json_true();
	else
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "Property 'memory-backend-file.%.100s' not found", property);
	return *reply ? 0 : out_of_memory(err);
}

static const char *const uri_argument[] = {"uri", NULL};
static const char *const qom_arguments[] = {"path", "property", NULL};
static const char *const capabilities_argument[] = {"capabilities", NULL};

static const struct hf_qmp_command commands[] = {
    {"query-status", query_status, NULL},
    {"query-cpus-fast", query_cpus_fast, NULL},
    {"query-memdev", query_memdev, NULL},
    {"qom-get", qom_get, qom_arguments},
    {"stop", stop, NULL},
    {"cont", cont, NULL},
    {"quit", quit, NULL},
    {"migrate", vmm_qmp_migrate, uri_argument},
    {"migrate-incoming", vmm_qmp_migrate_incoming, uri_argument},
    {"migrate_cancel", vmm_qmp_migrate_cancel, NULL},
    {"query-migrate", vmm_qmp_query_migrate, NULL},
    {"migrate-set-capabilities", vmm_qmp_set_capabilities, capabilities_argument},
    {"query-migrate-capabilities", vmm_qmp_query_capabilities, NULL},
    {NULL, NULL, NULL},
};

/* ---- life ------------------------------------------------------------------------------------- */

int vmm_monitor_create(struct vmm_monitor **out, const struct vmm_options *options, struct hf_err *err)
{
	struct vmm_monitor *monitor = calloc(1, sizeof(*monitor));
	if (!monitor)
		return out_of_memory(err);
	monitor->options = options;
	monitor->state = options->incoming ? VMM_INMIGRATE : VMM_PAUSED;
	hf_lock_init(&monitor->lock, "vmm_monitor.lock", HF_RANK_VMM_MONITOR);
	monitor->quit_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	monitor->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (monitor->quit_fd < 0 || monitor->cancel_fd < 0) {
		int errnum = errno;
		vmm_monitor_destroy(monitor);
		return hf_err_set(err, HF_ERR_LOCAL, errnum, "eventfd: %s", strerror(errnum));
	}
	*out = monitor;
	return 0;
}

int vmm_monitor_start(struct vmm_monitor *monitor, struct vmm_machine *machine, struct hf_attach *attach,
		      struct hf_err *err)
{
	struct hf_qmp_server_config config = {.socket_path = monitor->options->qmp_path,
					      .commands = commands,
					      .opaque = monitor,
					      .package = "hugeferry-vmm " HF_VERSION};

	monitor->machine = machine;
	monitor->attach = attach;
	/* Commands wait for the lock, so none sees a monitor without its server. */
	hf_lock(&monitor->lock);
	int result = hf_qmp_server_create(&monitor->server, &config, err);
	if (!result && !monitor->options->incoming)
		result = run_locked(monitor, err);
	hf_unlock(&monitor->lock);
	return result;
}

int vmm_monitor_quit_fd(const struct vmm_monitor *monitor)
{
	return monitor->quit_fd;
}

void vmm_monitor_quiesce(struct vmm_monitor *monitor, const char *reason)
{
	if (!monitor)
		return;
	hf_lock(&monitor->lock);
	struct hf_qmp_server *server = monitor->server;
	monitor->server = NULL;
	hf_unlock(&monitor->lock);
	if (server && reason)
		hf_qmp_server_event(server, "SHUTDOWN",
				    json_pack("{s:b, s:s}", "guest", 0, "reason", reason));
	hf_qmp_server_destroy(server);
	/* No command comes any more, so no worker starts. */
	if (monitor->cancel_fd >= 0)
		eventfd_write(monitor->cancel_fd, 1);
	vmm_monitor_join_worker(monitor);
}

void vmm_monitor_destroy(struct vmm_monitor *monitor)
{
	if (!monitor)
		return;
	vmm_monitor_quiesce(monitor, NULL);
	if (monitor->quit_fd >= 0)
		close(monitor->quit_fd);
	if (monitor->cancel_fd >= 0)
		close(monitor->cancel_fd);
	hf_lock_destroy(&monitor->lock);
	free(monitor);
}
