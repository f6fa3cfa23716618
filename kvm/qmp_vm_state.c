/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * Device state is a migration stream that carries no memory: QEMU writes and reads it as any migration, over
 * a unix socket whose other end is this file. The socket lives in a directory of its own (mode 0700, given to
 * the VMM's user), which goes when the operation ends, however it ends.
 *
 *     STOP   listen; `migrate` unix:PATH; read until the VM stands still
 *     SAVE   read to the end; wait until completed or failed
 *     LOAD   `migrate-incoming` unix:PATH (the VMM listens when that returns); connect; write; half-close;
 *            wait until completed or failed; freeze (qmp_vm_hold.c)
 *
 * QEMU prepares a migration while the VM runs (it begins to log writes, and sends the small RAM blocks that
 * are its own), then stops the VM by itself. So STOP begins what SAVE ends, and the VM stands still for
 * nothing but its devices. It runs again by itself when that fails, or is broken off. A VMM whose `migrate`
 * carries devices alone is stopped with `stop` first, and then SAVE does it all.
 *
 * The state then says that the VM ran, and a QEMU that was not started with -S would run it as soon as it has
 * loaded it. So `stop` goes ahead of `migrate-incoming`: to a QEMU that waits it means the same.
 *
 * The end of the stream alone proves nothing (a VMM that dies also ends it): the state counts only once
 * the VMM says completed, by an event or when it is asked. While LOAD waits, the VMM's main loop may stand
 * still in a fault that is served over the link, so a question that is not answered is no failure there; only
 * LOAD_LIMIT_MS is.
 *
 * What QEMU puts into the stream its capabilities decide (qmp_vm_settings.c).
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "kvm/qmp_vm_internal.h"

#define ACCEPT_LIMIT_MS	  30000
#define ASK_PERIOD_MS	  500
#define SILENCE_LIMIT_MS  60000	 /* no byte from a VMM that saves */
#define COMPLETE_LIMIT_MS 60000	 /* stream over .. "completed" */
#define LOAD_SILENCE_MS	  120000 /* a VMM that loads takes no byte: it waits for pages */
#define LOAD_LIMIT_MS	  600000
#define VERDICT_LIMIT_MS  10000 /* the stream broke .. the VMM says why */
#define ABANDON_LIMIT_MS  5000
#define TOLD_PACE_MS	  16 /* at which is asked first what an event would have told */
#define FIRST_CAPACITY	  (1u << 20)
#define DESC_PRECISION	  250
#define STATUS_MAX_BYTES  64
#define URI_BYTES	  (sizeof("unix:") + sizeof(((struct sockaddr_un *)0)->sun_path))

/* ---- the socket ---- */

static int make_directory(char *directory, size_t directory_bytes)
{
	const char *const places[] = {getenv("TMPDIR"), "/run", "/tmp"};
	int error = ENOENT;
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		if (!places[i] || !*places[i])
			continue;
		// Room for "/state" must be left in a socket's path.
		int n = snprintf(directory, directory_bytes, "%s/hugeferry-XXXXXX", places[i]);
		if (n < 0 || (size_t)n + sizeof("/state") > directory_bytes) {
			error = ENAMETOOLONG;
			continue;
		}
		if (mkdtemp(directory))
			return 0;
		error = errno;
	}
	directory[0] = '\0';
	return -error;
}

/* The VMM may run as another user, and must reach the socket (SAVE) or make it (LOAD). */
static int give_to_vmm(const struct hf_qmp_vm *vm, const char *path)
{
	uid_t uid = hf_qmp_client_uid(vm->client);
	if (uid == geteuid())
		return 0;
	return lchown(path, uid, (gid_t)-1) < 0 ? -errno : 0;
}

static int channel_open(struct hf_qmp_vm *vm, struct hf_err *err)
{
	struct hf_qmp_vm_channel *channel = &vm->channel;
	*channel = (struct hf_qmp_vm_channel){
	    .open = true, .listen_fd = -1, .fd = -1, .address = {.sun_family = AF_UNIX}};
	int r = make_directory(channel->directory, sizeof(channel->directory));
	if (r == 0)
		r = give_to_vmm(vm, channel->directory);
	if (r < 0)
		return hf_err_set(
		    err, HF_ERR_LOCAL, -r,
		    "no directory for the device state's socket (tried TMPDIR, /run and /tmp): %s",
		    strerror(-r));
	snprintf(channel->address.sun_path, sizeof(channel->address.sun_path), "%.*s/state",
		 (int)(sizeof(channel->address.sun_path) - sizeof("/state")), channel->directory);
	return 0;
}

static void channel_hang_up(struct hf_qmp_vm_channel *channel)
{
	if (channel->fd >= 0)
		close(channel->fd);
	if (channel->listen_fd >= 0)
		close(channel->listen_fd);
	channel->fd = channel->listen_fd = -1;
}

static void channel_close(struct hf_qmp_vm_channel *channel)
{
	channel_hang_up(channel);
	if (channel->address.sun_path[0])
		unlink(channel->address.sun_path);
	if (channel->directory[0])
		rmdir(channel->directory);
	free(channel->data);
	*channel = (struct hf_qmp_vm_channel){0};
}

static int channel_error(const struct hf_qmp_vm_channel *channel, int error, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, error, "the device state's socket %s: %s",
			  channel->address.sun_path, strerror(error));
}

static int channel_listen(struct hf_qmp_vm *vm, struct hf_qmp_vm_channel *channel, struct hf_err *err)
{
	channel->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	// fchmod before bind gives the file its mode from its first moment on.
	if (channel->listen_fd < 0 || fchmod(channel->listen_fd, 0600) < 0 ||
	    bind(channel->listen_fd, (struct sockaddr *)&channel->address, sizeof(channel->address)) < 0 ||
	    listen(channel->listen_fd, 1) < 0)
		return channel_error(channel, errno, err);
	int r = give_to_vmm(vm, channel->address.sun_path);
	return r < 0 ? channel_error(channel, -r, err) : 0;
}

/* ---- what the VMM says ---- */

enum migration { MIGRATION_NONE, MIGRATION_BUSY, MIGRATION_COMPLETED };

static int migration_error(const struct hf_qmp_vm *vm, const char *status, const json_t *info,
			   struct hf_err *err)
{
	const char *desc = json_string_value(json_object_get(info, "error-desc"));
	return hf_qmp_vm_error(vm, EREMOTEIO, err, "says %s about its device state: %.*s", status,
			       DESC_PRECISION, desc ? desc : "no reason given; see its log");
}

/* A migration that failed or was cancelled is -EREMOTEIO. */
static int query_migration_within(struct hf_qmp_vm *vm, uint32_t limit_ms, enum migration *state,
				  struct hf_err *err)
{
	json_t *info = NULL;
	int r = hf_qmp_client_execute(vm->client, "query-migrate", NULL, limit_ms, &info, err);
	if (r < 0)
		return r;
	const char *status = json_string_value(json_object_get(info, "status"));
	if (!status || strcmp(status, "none") == 0)
		*state = MIGRATION_NONE;
	else if (strcmp(status, "completed") == 0)
		*state = MIGRATION_COMPLETED;
	else if (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0)
		r = migration_error(vm, status, info, err);
	else
		*state = MIGRATION_BUSY;
	json_decref(info);
	return r;
}

static int query_migration(struct hf_qmp_vm *vm, enum migration *state, struct hf_err *err)
{
	return query_migration_within(vm, HF_QMP_VM_COMMAND_MS, state, err);
}

static enum hf_qmp_vm_told take_told(struct hf_qmp_vm *vm)
{
	hf_lock(&vm->mutex);
	enum hf_qmp_vm_told told = vm->told;
	if (told == HF_QMP_VM_TOLD_FAILED) // the reason is asked for, once
		vm->told = HF_QMP_VM_TOLD_NOTHING;
	hf_unlock(&vm->mutex);
	return told;
}

/* Before a migration is begun: whatever is told from now on is told of that one. */
static void forget_told(struct hf_qmp_vm *vm)
{
	hf_lock(&vm->mutex);
	vm->told = HF_QMP_VM_TOLD_NOTHING;
	hf_unlock(&vm->mutex);
}

/* Of a VMM that sends events little is asked: it may be in the middle of what is waited for. */
static struct hf_qmp_vm_pace verdict_pace(const struct hf_qmp_vm *vm, uint64_t limit_ms, const char *awaited)
{
	struct hf_qmp_vm_pace pace = hf_qmp_vm_pace(limit_ms, awaited);
	if (vm->tells)
		pace.interval_ms = TOLD_PACE_MS;
	return pace;
}

/* 1: the VMM has told that it completed; 0: it is to be asked. */
static int wait_told(struct hf_qmp_vm *vm, struct hf_qmp_vm_pace *pace, struct hf_err *err)
{
	for (;;) {
		enum hf_qmp_vm_told told = take_told(vm);
		if (told != HF_QMP_VM_TOLD_NOTHING)
			return told == HF_QMP_VM_TOLD_COMPLETED;
		int r = hf_qmp_vm_pace_wait(vm, pace, -1, 0, err);
		if (r < 0 || pace->due)
			return r;
	}
}

/* For SAVE: there has been a `migrate`, so `none` cannot be. */
static int wait_completed(struct hf_qmp_vm *vm, uint64_t limit_ms, const char *awaited, struct hf_err *err)
{
	struct hf_qmp_vm_pace pace = verdict_pace(vm, limit_ms, awaited);
	for (;;) {
		enum migration state = MIGRATION_BUSY;
		int r = wait_told(vm, &pace, err);
		if (r == 0)
			r = query_migration(vm, &state, err);
		if (r != 0 || state == MIGRATION_COMPLETED)
			return r < 0 ? r : 0;
	}
}

/* QEMU 9.1 and later can be told to stay and say why when it cannot load. */
static bool knows_no_stay(struct hf_qmp_vm *vm)
{
	json_t *version = NULL;
	if (hf_qmp_vm_command(vm, "query-version", NULL, &version, NULL) < 0)
		return false;
	const json_t *qemu = json_object_get(version, "qemu");
	json_int_t major = json_integer_value(json_object_get(qemu, "major"));
	json_int_t minor = json_integer_value(json_object_get(qemu, "minor"));
	json_decref(version);
	return major < 9 || (major == 9 && minor < 1);
}

void hf_qmp_vm_prepare_incoming(struct hf_qmp_vm *vm)
{
	char status[STATUS_MAX_BYTES];
	bool running;
	if (hf_qmp_vm_query_status(vm, HF_QMP_VM_COMMAND_MS, status, sizeof(status), &running, NULL) < 0 ||
	    strcmp(status, "inmigrate") != 0)
		return;
	hf_qmp_vm_prepare(vm, NULL);
	vm->knows_no_stay = knows_no_stay(vm);
}

static const char *uri_of(const struct hf_qmp_vm_channel *channel, char uri[static URI_BYTES])
{
	snprintf(uri, URI_BYTES, "unix:%s", channel->address.sun_path);
	return uri;
}

static int give_uri(struct hf_qmp_vm *vm, const char *command, const struct hf_qmp_vm_channel *channel,
		    struct hf_err *err)
{
	char uri[URI_BYTES];
	return hf_qmp_vm_command(vm, command, json_pack("{s:s}", "uri", uri_of(channel, uri)), NULL, err);
}

/* ---- SAVE ---- */

static int channel_room(const struct hf_qmp_vm *vm, struct hf_qmp_vm_channel *channel, struct hf_err *err)
{
	if (channel->length_bytes < channel->capacity_bytes)
		return 0;
	// One byte more than the limit, so that a state of exactly the limit can be told from a longer one.
	if (channel->capacity_bytes > HF_QMP_VM_STATE_MAX_BYTES)
		return hf_qmp_vm_error(
		    vm, EMSGSIZE, err,
		    "sends more than %u MiB of device state; is its memory shared (share=on), "
		    "and does it know x-ignore-shared?",
		    HF_QMP_VM_STATE_MAX_BYTES >> 20);
	size_t capacity_bytes = channel->capacity_bytes ? 2 * channel->capacity_bytes : FIRST_CAPACITY;
	if (capacity_bytes > HF_QMP_VM_STATE_MAX_BYTES)
		capacity_bytes = (size_t)HF_QMP_VM_STATE_MAX_BYTES + 1;
	char *data = realloc(channel->data, capacity_bytes);
	if (!data)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for %zu bytes of device state",
				  capacity_bytes);
	channel->data = data;
	channel->capacity_bytes = capacity_bytes;
	return 0;
}

/* What has come of the stream until now. */
static int take_stream(struct hf_qmp_vm *vm, struct hf_err *err)
{
	struct hf_qmp_vm_channel *channel = &vm->channel;
	if (channel->fd < 0)
		channel->fd = accept4(channel->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	while (channel->fd >= 0) {
		int r = channel_room(vm, channel, err);
		if (r < 0)
			return r;
		ssize_t n = recv(channel->fd, channel->data + channel->length_bytes,
				 channel->capacity_bytes - channel->length_bytes, 0);
		channel->ended = n == 0 || (n < 0 && errno == ECONNRESET);
		if (n <= 0)
			break;
		channel->length_bytes += (size_t)n;
	}
	if (channel->ended || errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
		return 0;
	return channel_error(channel, errno, err);
}

/*
 * Whether it has failed before it connected, has died, or stands still. It is not waited for long: QEMU
 * writes device state with its big lock held, so it answers nothing from when its socket is full until
 * somebody reads.
 */
static int ask_save(struct hf_qmp_vm *vm, bool until_stopped, bool *stopped, struct hf_err *err)
{
	char status[STATUS_MAX_BYTES];
	enum migration state = MIGRATION_BUSY;
	bool running = true;
	struct hf_err ask_err = HF_ERR_INIT;
	int r = query_migration_within(vm, ASK_PERIOD_MS, &state, &ask_err);
	if (r == 0 && until_stopped)
		r = hf_qmp_vm_query_status(vm, ASK_PERIOD_MS, status, sizeof(status), &running, &ask_err);
	*stopped = r == 0 && !running;
	if (r < 0 && r != -ETIMEDOUT && err)
		*err = ask_err;
	return r == -ETIMEDOUT ? 0 : r;
}

static int set_silent(const struct hf_qmp_vm *vm, struct hf_err *err)
{
	if (vm->channel.fd < 0)
		return hf_qmp_vm_error(vm, ETIMEDOUT, err,
				       "has not connected to save its device state within %d s; see its log",
				       ACCEPT_LIMIT_MS / 1000);
	return hf_qmp_vm_error(vm, ETIMEDOUT, err,
			       "stopped sending device state after %zu bytes; see its log",
			       vm->channel.length_bytes);
}

/*
 * Reads until the end of the stream, or only until the VM stands still. A broken stream ends like a whole
 * one; the VMM's word tells them apart.
 */
static int follow_save(struct hf_qmp_vm *vm, bool until_stopped, struct hf_err *err)
{
	struct hf_qmp_vm_channel *channel = &vm->channel;
	uint64_t begin_ms = hf_qmp_vm_now_ms(), byte_ms = begin_ms, ask_ms = begin_ms;
	for (;;) {
		size_t had_bytes = channel->length_bytes;
		bool stopped = until_stopped && hf_qmp_vm_stop_seen(vm);
		int r = stopped ? 0 : take_stream(vm, err);
		if (r < 0 || stopped)
			return r;
		if (channel->ended)
			return wait_completed(vm, COMPLETE_LIMIT_MS, "finished saving its device state", err);
		uint64_t now_ms = hf_qmp_vm_now_ms();
		if (channel->length_bytes > had_bytes)
			byte_ms = now_ms;
		if (now_ms - byte_ms > (channel->fd < 0 ? ACCEPT_LIMIT_MS : SILENCE_LIMIT_MS))
			return set_silent(vm, err);
		if (until_stopped && now_ms - begin_ms > HF_QMP_VM_STOP_LIMIT_MS)
			return hf_qmp_vm_error(vm, ETIMEDOUT, err,
					       "has not stopped the VM to save it within %d s",
					       HF_QMP_VM_STOP_LIMIT_MS / 1000);
		uint64_t wait_ms = vm->tells ? ASK_PERIOD_MS : TOLD_PACE_MS;
		r = hf_qmp_vm_wait(vm, channel->fd < 0 ? channel->listen_fd : channel->fd, POLLIN, wait_ms,
				   err);
		bool asks = (channel->fd < 0 || until_stopped) && hf_qmp_vm_now_ms() >= ask_ms + wait_ms;
		if (r == 0 && (asks || take_told(vm) == HF_QMP_VM_TOLD_FAILED)) {
			r = ask_save(vm, until_stopped, &stopped, err);
			ask_ms = hf_qmp_vm_now_ms();
		}
		if (r < 0 || stopped)
			return r;
	}
}

/* After a failure behind `migrate`: so that the VMM can be resumed, or asked to save again. */
static void abandon(struct hf_qmp_vm *vm)
{
	/* First: QEMU that waits for somebody to read the rest answers nothing. */
	channel_hang_up(&vm->channel);
	hf_qmp_client_execute(vm->client, "migrate_cancel", NULL, ABANDON_LIMIT_MS, NULL, NULL);
	wait_completed(vm, ABANDON_LIMIT_MS, "cancelled its saving", NULL);
}

void hf_qmp_vm_close_channel(struct hf_qmp_vm *vm)
{
	if (!vm->channel.open)
		return;
	if (vm->channel.migrating)
		abandon(vm);
	channel_close(&vm->channel);
}

static int begin_save(struct hf_qmp_vm *vm, struct hf_err *err)
{
	int r = channel_open(vm, err);
	if (r == 0)
		r = hf_qmp_vm_prepare(vm, err);
	if (r == 0)
		r = channel_listen(vm, &vm->channel, err);
	if (r < 0)
		return r;
	hf_qmp_vm_lift_bandwidth(vm);
	forget_told(vm);
	r = give_uri(vm, "migrate", &vm->channel, err);
	vm->channel.migrating = r == 0;
	return r;
}

/* Only a VMM that still answers can be told. */
static int end_save(struct hf_qmp_vm *vm, int r, const struct hf_err *save_err, struct hf_err *err)
{
	if (r == 0)
		return 0;
	vm->channel.migrating &= save_err->class != HF_ERR_CANCELLED && r != -ECONNRESET;
	hf_qmp_vm_close_channel(vm);
	if (err)
		*err = *save_err;
	return r;
}

int hf_qmp_vm_save_stopping(struct hf_qmp_vm *vm, struct hf_err *err)
{
	struct hf_err save_err = HF_ERR_INIT;
	int r = begin_save(vm, &save_err);
	if (r == 0) {
		hf_qmp_vm_look_migrating(vm);
		r = follow_save(vm, true, &save_err);
	}
	return end_save(vm, r, &save_err, err);
}

int hf_qmp_vm_save(struct hf_qmp_vm *vm, void **data, size_t *length_bytes, struct hf_err *err)
{
	struct hf_qmp_vm_channel *channel = &vm->channel;
	struct hf_err save_err = HF_ERR_INIT;
	int r = channel->open ? 0 : begin_save(vm, &save_err);
	if (r == 0)
		r = follow_save(vm, false, &save_err);
	if (r == 0 && channel->length_bytes == 0)
		r = hf_qmp_vm_error(vm, EPROTO, &save_err, "saved a device state of no bytes");
	if (r < 0)
		return end_save(vm, r, &save_err, err);
	channel->migrating = false;
	*data = channel->data;
	*length_bytes = channel->length_bytes;
	channel->data = NULL;
	return 0;
}

/* ---- LOAD ---- */

static int connect_vmm(struct hf_qmp_vm *vm, struct hf_qmp_vm_channel *channel, struct hf_err *err)
{
	struct hf_qmp_vm_pace pace =
	    hf_qmp_vm_pace(ACCEPT_LIMIT_MS, "accepted its device state's connection");
	channel->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (channel->fd < 0)
		return channel_error(channel, errno, err);
	while (connect(channel->fd, (const struct sockaddr *)&channel->address, sizeof(channel->address)) <
	       0) {
		if (errno != EAGAIN && errno != EINTR)
			return hf_qmp_vm_error(vm, errno, err,
					       "accepted migrate-incoming but does not listen on %s: %s",
					       channel->address.sun_path, strerror(errno));
		int r = hf_qmp_vm_pace_wait(vm, &pace, -1, 0, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* *sent_bytes less than all, with 0: the VMM has closed its end. */
static int write_state(struct hf_qmp_vm *vm, const struct hf_qmp_vm_channel *channel, const char *data,
		       size_t length_bytes, size_t *sent_bytes, struct hf_err *err)
{
	uint64_t last_byte_ms = hf_qmp_vm_now_ms();
	*sent_bytes = 0;
	while (*sent_bytes < length_bytes) {
		ssize_t n = send(channel->fd, data + *sent_bytes, length_bytes - *sent_bytes, MSG_NOSIGNAL);
		if (n > 0) {
			*sent_bytes += (size_t)n;
			last_byte_ms = hf_qmp_vm_now_ms();
			continue;
		}
		if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
			return 0;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return channel_error(channel, errno, err);
		if (hf_qmp_vm_now_ms() - last_byte_ms > LOAD_SILENCE_MS)
			return hf_qmp_vm_error(
			    vm, ETIMEDOUT, err,
			    "has taken no device state for %d s (at byte %zu of %zu); are its "
			    "pages served?",
			    LOAD_SILENCE_MS / 1000, *sent_bytes, length_bytes);
		int r = hf_qmp_vm_wait(vm, channel->fd, POLLOUT, LOAD_SILENCE_MS / 10, err);
		if (r < 0)
			return r;
	}
	shutdown(channel->fd, SHUT_WR);
	return 0;
}

/* For a VMM that reports no incoming migration: it has loaded when it is not waiting for one any more. */
static int loaded_by_status(struct hf_qmp_vm *vm, bool *loaded, struct hf_err *err)
{
	char status[STATUS_MAX_BYTES];
	bool running = false;
	int r = hf_qmp_vm_query_status(vm, HF_QMP_VM_COMMAND_MS, status, sizeof(status), &running, err);
	if (r < 0)
		return r;
	*loaded = running || strcmp(status, "paused") == 0 || strcmp(status, "prelaunch") == 0;
	if (!*loaded && strcmp(status, "inmigrate") != 0)
		return hf_qmp_vm_error(vm, EREMOTEIO, err, "is in state %s after the load; see its log",
				       status);
	return 0;
}

static int ask_loaded(struct hf_qmp_vm *vm, bool *loaded, struct hf_err *err)
{
	enum migration state = MIGRATION_BUSY;
	int r = query_migration(vm, &state, err);
	if (r == 0 && state == MIGRATION_NONE)
		return loaded_by_status(vm, loaded, err);
	*loaded = r == 0 && state == MIGRATION_COMPLETED;
	return r;
}

/* *told: by an event, behind whatever it told before. */
static int wait_loaded(struct hf_qmp_vm *vm, uint64_t limit_ms, bool *told, struct hf_err *err)
{
	struct hf_qmp_vm_pace pace = verdict_pace(vm, limit_ms, "finished loading its device state");
	for (;;) {
		bool loaded = false;
		struct hf_err ask_err = HF_ERR_INIT;
		int r = wait_told(vm, &pace, err);
		*told = r == 1;
		if (r != 0)
			return r < 0 ? r : 0;
		r = ask_loaded(vm, &loaded, &ask_err);
		if (r < 0 && r != -ETIMEDOUT) {
			if (err)
				*err = ask_err;
			return r;
		}
		if (loaded)
			return 0;
	}
}

/* Older ones, and others, do not know `exit-on-error`, and have done nothing when they say so. */
static int give_incoming(struct hf_qmp_vm *vm, const struct hf_qmp_vm_channel *channel, struct hf_err *err)
{
	char uri[URI_BYTES];
	struct hf_err unknown = HF_ERR_INIT;
	int r = -EREMOTEIO;
	if (!vm->knows_no_stay)
		r = hf_qmp_vm_command(
		    vm, "migrate-incoming",
		    json_pack("{s:s, s:b}", "uri", uri_of(channel, uri), "exit-on-error", 0), NULL, &unknown);
	if (r == -EREMOTEIO)
		return give_uri(vm, "migrate-incoming", channel, err);
	if (r < 0 && err)
		*err = unknown;
	return r;
}

static int load_through(struct hf_qmp_vm *vm, const void *data, size_t length_bytes, struct hf_err *err)
{
	struct hf_qmp_vm_channel *channel = &vm->channel;
	size_t sent_bytes = 0;
	bool told = false;
	int r = hf_qmp_vm_prepare(vm, err);
	/* QEMU runs at once what ran when it was saved, unless it was started with -S, or is told here to
	 * wait. */
	if (r == 0 && vm->stops_itself)
		r = hf_qmp_client_post(vm->client, "stop", err);
	if (r < 0)
		return r;
	forget_told(vm);
	r = give_incoming(vm, channel, err);
	if (r == 0)
		r = connect_vmm(vm, channel, err);
	if (r == 0)
		r = write_state(vm, channel, data, length_bytes, &sent_bytes, err);
	if (r == 0)
		r = wait_loaded(vm, sent_bytes == length_bytes ? LOAD_LIMIT_MS : VERDICT_LIMIT_MS, &told,
				err);
	if (r == 0 && sent_bytes < length_bytes)
		return hf_qmp_vm_error(vm, EPROTO, err,
				       "says completed, but took only %zu of %zu bytes of device state",
				       sent_bytes, length_bytes);
	return r == 0 ? hf_qmp_vm_hold_loaded(vm, told, err) : r;
}

int hf_qmp_vm_load(struct hf_qmp_vm *vm, const void *data, size_t length_bytes, struct hf_err *err)
{
	struct hf_err load_err = HF_ERR_INIT;
	int r = channel_open(vm, &load_err);
	hf_qmp_vm_watch_revival(vm);
	if (r == 0)
		r = load_through(vm, data, length_bytes, &load_err);
	vm->loaded = r == 0;
	if (r == 0 || !err)
		return r;
	*err = load_err;
	if (load_err.class != HF_ERR_CANCELLED)
		hf_vmm_words_add(&vm->words, err);
	return r;
}
