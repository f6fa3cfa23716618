/* SPDX-License-Identifier: Apache-2.0 */
/*
 * monitor_migrate.c - device state leaves and arrives.
 *
 * Theory of operation. Only device state moves here; memory is Hugeferry's business. `migrate` and
 * `migrate-incoming` check and prepare in the QMP thread, then a worker does what may take long, so that
 * other clients are served meanwhile. One worker at a time; a command that needs the machine to itself
 * sees by the run state that it is taken:
 *
 *     migrate            running/paused/postmigrate -> finish-migrate -> postmigrate
 *                                                   `-- failed --> as before, running again if it ran
 *     migrate-incoming   inmigrate -> paused        (failed: stays inmigrate, may be tried again)
 *
 * While the worker runs, the machine's stop, save and load are its alone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "kvm/vmm/monitor_internal.h"
#include "kvm/vmm/state_channel.h"

static const char *const migration_names[] = {
    [VMM_MIGRATION_NONE] = "none",     [VMM_MIGRATION_SETUP] = "setup",
    [VMM_MIGRATION_ACTIVE] = "active", [VMM_MIGRATION_COMPLETED] = "completed",
    [VMM_MIGRATION_FAILED] = "failed", [VMM_MIGRATION_CANCELLED] = "cancelled",
};

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static bool is_busy(enum vmm_migration_status status)
{
	return status == VMM_MIGRATION_SETUP || status == VMM_MIGRATION_ACTIVE;
}

void vmm_monitor_migration_locked(struct vmm_monitor *monitor, enum vmm_migration_status status)
{
	hf_lock_assert_held(&monitor->lock);
	monitor->migration = status;
	if (status == VMM_MIGRATION_SETUP) {
		monitor->started_ms = now_ms();
		monitor->transferred_bytes = 0;
		monitor->migration_err = HF_ERR_INIT;
	}
	if (!is_busy(status))
		monitor->ended_ms = now_ms();
	if (monitor->events)
		vmm_monitor_event_locked(monitor, "MIGRATION",
					 json_pack("{s:s}", "status", migration_names[status]));
}

static void set_active(struct vmm_monitor *monitor)
{
	hf_lock(&monitor->lock);
	vmm_monitor_migration_locked(monitor, VMM_MIGRATION_ACTIVE);
	hf_unlock(&monitor->lock);
}

static void set_failed_locked(struct vmm_monitor *monitor, const struct hf_err *err)
{
	hf_lock_assert_held(&monitor->lock);
	monitor->migration_err = *err;
	vmm_monitor_migration_locked(monitor, err->class == HF_ERR_CANCELLED ? VMM_MIGRATION_CANCELLED
									     : VMM_MIGRATION_FAILED);
}

void vmm_monitor_join_worker(struct vmm_monitor *monitor)
{
	if (monitor->has_worker)
		pthread_join(monitor->worker, NULL);
	monitor->has_worker = false;
}

static int start_worker(struct vmm_monitor *monitor, void *(*work)(void *), struct hf_err *err)
{
	uint64_t ignored;

	vmm_monitor_join_worker(monitor);
	/* A cancel that came too late for the last one is not for this one. */
	if (read(monitor->cancel_fd, &ignored, sizeof(ignored)) < 0 && errno != EAGAIN)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "eventfd: %s", strerror(errno));
	int errnum = pthread_create(&monitor->worker, NULL, work, monitor);
	if (errnum)
		return hf_err_set(err, HF_ERR_LOCAL, errnum, "no thread for the migration: %s",
				  strerror(errnum));
	monitor->has_worker = true;
	return 0;
}

/* ---- outgoing --------------------------------------------------------------------------------- */

static int send_state(struct vmm_monitor *monitor, struct hf_err *err)
{
	void *data;
	size_t length_bytes;
	int fd;
	int result = vmm_machine_save(monitor->machine, &data, &length_bytes, err);
	if (result)
		return result;

	result = vmm_state_connect(monitor->path, &fd, err);
	if (!result) {
		result = vmm_state_send(fd, data, length_bytes, monitor->cancel_fd, err);
		close(fd);
	}
	free(data);
	if (!result) {
		hf_lock(&monitor->lock);
		monitor->transferred_bytes = length_bytes;
		hf_unlock(&monitor->lock);
	}
	return result;
}

static int stop_for_migration(struct vmm_monitor *monitor, struct hf_err *err)
{
	int result = vmm_machine_stop(monitor->machine, VMM_STOP_LIMIT_MS, err);
	if (result)
		return result;
	hf_lock(&monitor->lock);
	if (monitor->state == VMM_FINISH_MIGRATE)
		vmm_monitor_event_locked(monitor, "STOP", NULL);
	else
		result = hf_err_set(err, HF_ERR_LOCAL, EIO, "the machine failed");
	hf_unlock(&monitor->lock);
	return result;
}

/* The machine is as before `migrate`; one that had been stopped for it runs again. */
static void roll_back_locked(struct vmm_monitor *monitor, bool stopped_for_it, const struct hf_err *err)
{
	hf_lock_assert_held(&monitor->lock);
	struct hf_err run_err = HF_ERR_INIT;

	set_failed_locked(monitor, err);
	if (monitor->state != VMM_FINISH_MIGRATE)
		return;
	monitor->state = monitor->state_before;
	if (!stopped_for_it)
		return;
	vmm_monitor_event_locked(monitor, "RESUME", NULL); // before the vCPUs run, as in `cont`
	if (vmm_machine_run(monitor->machine, &run_err)) {
		monitor->state = VMM_INTERNAL_ERROR;
		vmm_monitor_log(monitor, run_err.text);
		vmm_monitor_event_locked(monitor, "STOP", NULL);
	}
}

static void *migrate_worker(void *opaque)
{
	struct vmm_monitor *monitor = opaque;
	struct hf_err err = HF_ERR_INIT;
	bool ran = monitor->state_before == VMM_RUNNING;

	set_active(monitor);
	int result = ran ? stop_for_migration(monitor, &err) : 0;
	bool stopped_for_it = ran && !result;
	if (!result)
		result = send_state(monitor, &err);

	hf_lock(&monitor->lock);
	if (!result && monitor->state == VMM_FINISH_MIGRATE) {
		monitor->state = VMM_POSTMIGRATE;
		vmm_monitor_migration_locked(monitor, VMM_MIGRATION_COMPLETED);
	} else {
		roll_back_locked(monitor, stopped_for_it, &err);
	}
	hf_unlock(&monitor->lock);
	return NULL;
}

static int take_path(struct vmm_monitor *monitor, const json_t *arguments, struct hf_err *err)
{
	const char *path;
	int result = vmm_state_uri(json_string_value(json_object_get(arguments, "uri")), &path, err);
	if (!result)
		memcpy(monitor->path, path, strlen(path) + 1);
	return result;
}

static int may_migrate_locked(const struct vmm_monitor *monitor, struct hf_err *err)
{
	hf_lock_assert_held(&monitor->lock);
	if (is_busy(monitor->migration))
		return hf_err_set(err, HF_ERR_LOCAL, EBUSY, "There's a migration process in progress");
	if (monitor->state == VMM_INMIGRATE)
		return hf_err_set(err, HF_ERR_LOCAL, EPERM, "Guest is waiting for an incoming migration");
	if (monitor->state == VMM_INTERNAL_ERROR)
		return hf_err_set(err, HF_ERR_LOCAL, EIO,
				  "The machine has failed, its state cannot be saved");
	return 0;
}

int vmm_qmp_migrate(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;

	(void)reply;
	hf_lock(&monitor->lock);
	int result = may_migrate_locked(monitor, err);
	if (!result)
		result = take_path(monitor, arguments, err);
	if (!result) {
		monitor->state_before = monitor->state;
		monitor->state = VMM_FINISH_MIGRATE;
		vmm_monitor_migration_locked(monitor, VMM_MIGRATION_SETUP);
	}
	hf_unlock(&monitor->lock);
	if (result)
		return result;

	struct hf_err start_err = HF_ERR_INIT;
	result = start_worker(monitor, migrate_worker, &start_err);
	if (result) {
		hf_lock(&monitor->lock);
		roll_back_locked(monitor, false, &start_err);
		hf_unlock(&monitor->lock);
		*err = start_err;
	}
	return result;
}

/* ---- incoming --------------------------------------------------------------------------------- */

static int receive_state(struct vmm_monitor *monitor, struct hf_err *err)
{
	void *data;
	size_t length_bytes;
	int fd;
	int result = vmm_state_accept(monitor->listen_fd, monitor->cancel_fd, &fd, err);
	if (result)
		return result;
	set_active(monitor);
	result = vmm_state_receive(fd, monitor->cancel_fd, &data, &length_bytes, err);
	close(fd);
	if (result)
		return result;

	result = vmm_machine_load(monitor->machine, data, length_bytes, err);
	free(data);
	hf_lock(&monitor->lock);
	monitor->transferred_bytes = length_bytes;
	hf_unlock(&monitor->lock);
	return result;
}

static void *incoming_worker(void *opaque)
{
	struct vmm_monitor *monitor = opaque;
	struct hf_err err = HF_ERR_INIT;
	int result = receive_state(monitor, &err);

	close(monitor->listen_fd);
	unlink(monitor->path);
	hf_lock(&monitor->lock);
	if (result) {
		vmm_monitor_log(monitor, err.text);
		set_failed_locked(monitor, &err);
	} else {
		monitor->state = VMM_PAUSED;
		monitor->must_be_armed = true;
		vmm_monitor_migration_locked(monitor, VMM_MIGRATION_COMPLETED);
	}
	hf_unlock(&monitor->lock);
	return NULL;
}

static int may_come_in_locked(const struct vmm_monitor *monitor, struct hf_err *err)
{
	hf_lock_assert_held(&monitor->lock);
	if (!monitor->options->incoming)
		return hf_err_set(err, HF_ERR_LOCAL, EPERM,
				  "'-incoming' was not specified on the command line");
	if (monitor->state != VMM_INMIGRATE || is_busy(monitor->migration))
		return hf_err_set(err, HF_ERR_LOCAL, EBUSY,
				  "The incoming migration has already been started");
	return vmm_monitor_check_armed(monitor, err);
}

int vmm_qmp_migrate_incoming(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;

	(void)reply;
	hf_lock(&monitor->lock);
	int result = may_come_in_locked(monitor, err);
	if (!result)
		result = take_path(monitor, arguments, err);
	if (!result)
		result = vmm_state_listen(monitor->path, &monitor->listen_fd, err);
	if (!result)
		vmm_monitor_migration_locked(monitor, VMM_MIGRATION_SETUP);
	hf_unlock(&monitor->lock);
	if (result)
		return result;

	struct hf_err start_err = HF_ERR_INIT;
	result = start_worker(monitor, incoming_worker, &start_err);
	if (result) {
		close(monitor->listen_fd);
		unlink(monitor->path);
		hf_lock(&monitor->lock);
		set_failed_locked(monitor, &start_err);
		hf_unlock(&monitor->lock);
		*err = start_err;
	}
	return result;
}

/* ---- both ------------------------------------------------------------------------------------- */

int vmm_qmp_migrate_cancel(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;

	(void)arguments;
	(void)reply;
	(void)err;
	hf_lock(&monitor->lock);
	bool busy = is_busy(monitor->migration);
	hf_unlock(&monitor->lock);
	if (busy)
		eventfd_write(monitor->cancel_fd, 1);
	return 0;
}

int vmm_qmp_query_migrate(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;

	(void)arguments;
	hf_lock(&monitor->lock);
	enum vmm_migration_status status = monitor->migration;
	uint64_t end_ms = is_busy(status) ? now_ms() : monitor->ended_ms;
	json_t *object = json_object();
	if (object && status != VMM_MIGRATION_NONE) {
		json_object_set_new(object, "status", json_string(migration_names[status]));
		json_object_set_new(object, "total-time",
				    json_integer((json_int_t)(end_ms - monitor->started_ms)));
		json_object_set_new(object, "ram",
				    json_pack("{s:I, s:I, s:I}", "transferred",
					      (json_int_t)monitor->transferred_bytes, "remaining",
					      (json_int_t)0, "total",
					      (json_int_t)monitor->options->guest.memory_bytes));
		if (status == VMM_MIGRATION_FAILED)
			json_object_set_new(object, "error-desc", json_string(monitor->migration_err.text));
	}
	hf_unlock(&monitor->lock);
	if (!object)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	*reply = object;
	return 0;
}

static int check_capability(const json_t *entry, bool *events, struct hf_err *err)
{
	const char *name = json_string_value(json_object_get(entry, "capability"));
	const json_t *state = json_object_get(entry, "state");

	if (!name || !json_is_boolean(state))
		return hf_err_set(
		    err, HF_ERR_LOCAL, EINVAL,
		    "Invalid parameter type for 'capabilities', expected: capability and state");
	if (strcmp(name, "events"))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "Invalid parameter '%.100s'", name);
	*events = json_is_true(state);
	return 0;
}

int vmm_qmp_set_capabilities(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;
	const json_t *capabilities = json_object_get(arguments, "capabilities");
	bool events = monitor->events;

	(void)reply;
	if (!json_is_array(capabilities))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "Invalid parameter type for 'capabilities', expected: array");
	for (size_t i = 0; i < json_array_size(capabilities); i++) {
		int result = check_capability(json_array_get(capabilities, i), &events, err);
		if (result)
			return result;
	}
	hf_lock(&monitor->lock);
	monitor->events = events;
	hf_unlock(&monitor->lock);
	return 0;
}

int vmm_qmp_query_capabilities(void *opaque, const json_t *arguments, json_t **reply, struct hf_err *err)
{
	struct vmm_monitor *monitor = opaque;

	(void)arguments;
	*reply = json_pack("[{s:s, s:b}]", "capability", "events", "state", (int)monitor->events);
	return *reply ? 0 : hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
}
