/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * Device state is a migration stream that carries no memory: QEMU writes and reads it as any migration, over
 * a unix socket whose other end is this file. The socket lives in a directory of its own (mode 0700, given to
 * the VMM's user), which goes when the operation ends, however it ends.
 *
 *     SAVE   listen; `migrate` unix:PATH; accept; read to the end; ask until completed or failed
 *     LOAD   `migrate-incoming` unix:PATH (the VMM listens when that returns); connect; write; half-close;
 *            ask until completed or failed; freeze (qmp_vm_hold.c)
 *
 * The end of the stream alone proves nothing (a VMM that dies also ends it): the state counts only once
 * the VMM says completed. While LOAD waits, the VMM's main loop may stand still in a fault that is served
 * over the link, so a question that is not answered is no failure there; only LOAD_LIMIT_MS is.
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
#define FIRST_CAPACITY	  (1u << 20)
#define DESC_PRECISION	  250
#define STATUS_MAX_BYTES  64
#define URI_BYTES	  (sizeof("unix:") + sizeof(((struct sockaddr_un *)0)->sun_path))

/* ---- the socket ---- */

struct channel {
	char directory[sizeof(((struct sockaddr_un *)0)->sun_path)];
	struct sockaddr_un address;
	int listen_fd, fd;
	bool migrating; /* the VMM has accepted `migrate` */
};

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

static int channel_open(struct hf_qmp_vm *vm, struct channel *channel, struct hf_err *err)
{
	channel->listen_fd = channel->fd = -1;
	channel->migrating = false;
	channel->address = (struct sockaddr_un){.sun_family = AF_UNIX};
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

static void channel_close(struct channel *channel)
{
	if (channel->fd >= 0)
		close(channel->fd);
	if (channel->listen_fd >= 0)
		close(channel->listen_fd);
	if (channel->address.sun_path[0])
		unlink(channel->address.sun_path);
	if (channel->directory[0])
		rmdir(channel->directory);
}

static int channel_error(const struct channel *channel, int error, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, error, "the device state's socket %s: %s",
			  channel->address.sun_path, strerror(error));
}

static int channel_listen(struct hf_qmp_vm *vm, struct channel *channel, struct hf_err *err)
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

/* For SAVE: there has been a `migrate`, so `none` cannot be. */
static int wait_completed(struct hf_qmp_vm *vm, uint64_t limit_ms, const char *awaited, struct hf_err *err)
{
	struct hf_qmp_vm_pace pace = hf_qmp_vm_pace(limit_ms, awaited);
	for (;;) {
		enum migration state;
		int r = query_migration(vm, &state, err);
		if (r < 0 || state == MIGRATION_COMPLETED)
			return r;
		r = hf_qmp_vm_pace_wait(vm, &pace, -1, 0, err);
		if (r < 0)
			return r;
	}
}

static const char *uri_of(const struct channel *channel, char uri[static URI_BYTES])
{
	snprintf(uri, URI_BYTES, "unix:%s", channel->address.sun_path);
	return uri;
}

static int give_uri(struct hf_qmp_vm *vm, const char *command, const struct channel *channel,
		    struct hf_err *err)
{
	char uri[URI_BYTES];
	return hf_qmp_vm_command(vm, command, json_pack("{s:s}", "uri", uri_of(channel, uri)), NULL, err);
}

/* ---- SAVE ---- */

/*
 * Whether it has failed before it connected, or died, is only asked when it has not come for a while, and not
 * for long: QEMU writes device state with its big lock held, so it answers nothing from when its socket is
 * full until somebody reads.
 */
static int accept_vmm(struct hf_qmp_vm *vm, struct channel *channel, struct hf_err *err)
{
	struct hf_qmp_vm_pace pace = hf_qmp_vm_pace(ACCEPT_LIMIT_MS, "connected to save its device state");
	uint64_t ask_ms = hf_qmp_vm_now_ms() + ASK_PERIOD_MS;
	for (;;) {
		channel->fd = accept4(channel->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (channel->fd >= 0)
			return 0;
		if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED)
			return channel_error(channel, errno, err);
		int r = hf_qmp_vm_pace_wait(vm, &pace, channel->listen_fd, POLLIN, err);
		if (r == 0 && hf_qmp_vm_now_ms() >= ask_ms) {
			enum migration state;
			struct hf_err ask_err = HF_ERR_INIT;
			r = query_migration_within(vm, ASK_PERIOD_MS, &state, &ask_err);
			if (r == -ETIMEDOUT)
				r = 0;
			else if (r < 0 && err)
				*err = ask_err;
			ask_ms = hf_qmp_vm_now_ms() + ASK_PERIOD_MS;
		}
		if (r < 0)
			return r;
	}
}

struct buffer {
	char *data;
	size_t length_bytes, capacity_bytes;
};

static int buffer_grow(const struct hf_qmp_vm *vm, struct buffer *buffer, struct hf_err *err)
{
	if (buffer->length_bytes < buffer->capacity_bytes)
		return 0;
	// One byte more than the limit, so that a state of exactly the limit can be told from a longer one.
	if (buffer->capacity_bytes > HF_QMP_VM_STATE_MAX_BYTES)
		return hf_qmp_vm_error(
		    vm, EMSGSIZE, err,
		    "sends more than %u MiB of device state; is its memory shared (share=on), "
		    "and does it know x-ignore-shared?",
		    HF_QMP_VM_STATE_MAX_BYTES >> 20);
	size_t capacity_bytes = buffer->capacity_bytes ? 2 * buffer->capacity_bytes : FIRST_CAPACITY;
	if (capacity_bytes > HF_QMP_VM_STATE_MAX_BYTES)
		capacity_bytes = (size_t)HF_QMP_VM_STATE_MAX_BYTES + 1;
	char *data = realloc(buffer->data, capacity_bytes);
	if (!data)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for %zu bytes of device state",
				  capacity_bytes);
	buffer->data = data;
	buffer->capacity_bytes = capacity_bytes;
	return 0;
}

/* Until the end of the stream; a broken stream ends like a whole one, the VMM's word tells them apart. */
static int read_state(struct hf_qmp_vm *vm, const struct channel *channel, struct buffer *buffer,
		      struct hf_err *err)
{
	uint64_t last_byte_ms = hf_qmp_vm_now_ms();
	for (;;) {
		int r = buffer_grow(vm, buffer, err);
		if (r < 0)
			return r;
		ssize_t n = recv(channel->fd, buffer->data + buffer->length_bytes,
				 buffer->capacity_bytes - buffer->length_bytes, 0);
		if (n == 0 || (n < 0 && errno == ECONNRESET))
			return 0;
		if (n > 0) {
			buffer->length_bytes += (size_t)n;
			last_byte_ms = hf_qmp_vm_now_ms();
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return channel_error(channel, errno, err);
		if (hf_qmp_vm_now_ms() - last_byte_ms > SILENCE_LIMIT_MS)
			return hf_qmp_vm_error(vm, ETIMEDOUT, err,
					       "stopped sending device state after %zu bytes; see its log",
					       buffer->length_bytes);
		r = hf_qmp_vm_wait(vm, channel->fd, POLLIN, SILENCE_LIMIT_MS / 10, err);
		if (r < 0)
			return r;
	}
}

/* After a failure behind `migrate`: so that the VMM can be resumed, or asked to save again. */
static void abandon(struct hf_qmp_vm *vm)
{
	hf_qmp_client_execute(vm->client, "migrate_cancel", NULL, ABANDON_LIMIT_MS, NULL, NULL);
	wait_completed(vm, ABANDON_LIMIT_MS, "cancelled its saving", NULL);
}

static int save_through(struct hf_qmp_vm *vm, struct channel *channel, struct buffer *buffer,
			struct hf_err *err)
{
	int r = channel_listen(vm, channel, err);
	if (r == 0)
		hf_qmp_vm_lift_bandwidth(vm);
	if (r == 0)
		r = give_uri(vm, "migrate", channel, err);
	if (r < 0)
		return r;
	channel->migrating = true;
	r = accept_vmm(vm, channel, err);
	if (r == 0)
		r = read_state(vm, channel, buffer, err);
	if (r == 0)
		r = wait_completed(vm, COMPLETE_LIMIT_MS, "finished saving its device state", err);
	if (r == 0 && buffer->length_bytes == 0)
		return hf_qmp_vm_error(vm, EPROTO, err, "saved a device state of no bytes");
	return r;
}

int hf_qmp_vm_save(struct hf_qmp_vm *vm, void **data, size_t *length_bytes, struct hf_err *err)
{
	struct channel channel;
	struct buffer buffer = {0};
	struct hf_err save_err = HF_ERR_INIT;
	int r = channel_open(vm, &channel, &save_err);
	if (r == 0)
		r = hf_qmp_vm_prepare(vm, &save_err);
	if (r == 0)
		r = save_through(vm, &channel, &buffer, &save_err);
	channel_close(&channel);
	if (r < 0) {
		// Only a VMM that still answers can be told.
		if (channel.migrating && save_err.class != HF_ERR_CANCELLED && r != -ECONNRESET)
			abandon(vm);
		free(buffer.data);
		if (err)
			*err = save_err;
		return r;
	}
	*data = buffer.data;
	*length_bytes = buffer.length_bytes;
	return 0;
}

/* ---- LOAD ---- */

static int connect_vmm(struct hf_qmp_vm *vm, struct channel *channel, struct hf_err *err)
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
static int write_state(struct hf_qmp_vm *vm, const struct channel *channel, const char *data,
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

static int wait_loaded(struct hf_qmp_vm *vm, uint64_t limit_ms, struct hf_err *err)
{
	struct hf_qmp_vm_pace pace = hf_qmp_vm_pace(limit_ms, "finished loading its device state");
	for (;;) {
		bool loaded = false;
		struct hf_err ask_err = HF_ERR_INIT;
		int r = ask_loaded(vm, &loaded, &ask_err);
		if (r < 0 && r != -ETIMEDOUT) {
			if (err)
				*err = ask_err;
			return r;
		}
		if (loaded)
			return 0;
		r = hf_qmp_vm_pace_wait(vm, &pace, -1, 0, err);
		if (r < 0)
			return r;
	}
}

/*
 * QEMU 9.1 and later can be told to stay and say why when it cannot load; older ones, and others, do not know
 * the word, and have done nothing when they say so.
 */
static int give_incoming(struct hf_qmp_vm *vm, const struct channel *channel, struct hf_err *err)
{
	char uri[URI_BYTES];
	struct hf_err unknown = HF_ERR_INIT;
	int r = hf_qmp_vm_command(vm, "migrate-incoming",
				  json_pack("{s:s, s:b}", "uri", uri_of(channel, uri), "exit-on-error", 0),
				  NULL, &unknown);
	if (r == -EREMOTEIO)
		return give_uri(vm, "migrate-incoming", channel, err);
	if (r < 0 && err)
		*err = unknown;
	return r;
}

static int load_through(struct hf_qmp_vm *vm, struct channel *channel, const void *data, size_t length_bytes,
			struct hf_err *err)
{
	size_t sent_bytes = 0;
	int r = hf_qmp_vm_prepare(vm, err);
	if (r == 0)
		r = give_incoming(vm, channel, err);
	if (r == 0)
		r = connect_vmm(vm, channel, err);
	if (r == 0)
		r = write_state(vm, channel, data, length_bytes, &sent_bytes, err);
	if (r == 0)
		r = wait_loaded(vm, sent_bytes == length_bytes ? LOAD_LIMIT_MS : VERDICT_LIMIT_MS, err);
	if (r == 0 && sent_bytes < length_bytes)
		return hf_qmp_vm_error(vm, EPROTO, err,
				       "says completed, but took only %zu of %zu bytes of device state",
				       sent_bytes, length_bytes);
	return r;
}

int hf_qmp_vm_load(struct hf_qmp_vm *vm, const void *data, size_t length_bytes, struct hf_err *err)
{
	struct channel channel;
	struct hf_err load_err = HF_ERR_INIT;
	int r = channel_open(vm, &channel, &load_err);
	hf_qmp_vm_watch_revival(vm);
	if (r == 0)
		r = load_through(vm, &channel, data, length_bytes, &load_err);
	if (r == 0)
		r = hf_qmp_vm_hold_loaded(vm, &load_err);
	channel_close(&channel);
	if (r == 0 || !err)
		return r;
	*err = load_err;
	if (load_err.class != HF_ERR_CANCELLED)
		hf_vmm_words_add(&vm->words, err);
	return r;
}
