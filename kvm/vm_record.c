/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 *     0      slot A   one line of JSON, padded with spaces
 *     4096   slot B   the same
 *     8192   the description, some lines of JSON, never changed
 *
 * A change is written into the slot that does not hold, with the next sequence number, and is durable after
 * one fdatasync: the file has its blocks since it was made, so nothing but these 4096 bytes goes to the disk.
 * Whatever a crash makes of them, the other slot still says what held before. Who reads takes the slot that
 * is whole and has the higher number.
 *
 *     write: A = n+1     crash in here: B = n holds, and n+1 was never reported
 *     reported           a damaged A would now bring n back: a VM that was given up would be run
 *     copy:  B = n+1     crash in here: A holds. From here on damage to one slot changes nothing
 *
 * So a change is copied as soon as the VM does not wait for it. A process that ends before its fdatasync
 * leaves a record in the page cache alone; who opens it after that brings it to the disk before acting on it.
 * A file with no whole slot, or with one that is not understood, is an error and never "none".
 *
 * A write that fails leaves unknown bytes: the disk may say n+1, and so may the page cache, where a program
 * of this boot would find a record that was never reported. Therefore what held is written again over it, as
 * n+2. If that is not even taken by the page cache, the error says so.
 *
 * The lock (flock) is taken on the new file before it gets its name, and after a file was opened by its name;
 * then the name must still be that file's. So two programs never write one record, and the lock of a file
 * that was removed meanwhile is worth nothing. The lock ends with the process.
 *
 *     one:    open ... lock ......... remove, close
 *     other:  open .......................... lock: not the file of that name any more, open again
 */
#include "kvm/vm_record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "hugemem/process_stat.h"
#include "kvm/vm_record_internal.h"

#define TRIES 5 /* to get hold of a file that others make, write or remove meanwhile */

struct hf_vm_record {
	int dir_fd, fd;
	char *path;
	const char *name; /* in path */
	struct hf_vm_record_content content;
	pid_t agent_pid; /* this process, whose every change names it; 0: it cannot be looked up */
	uint64_t agent_start_ticks;
	bool removed;
};

/* ---- files ------------------------------------------------------------------------------------ */

static int write_all(int fd, const char *bytes, size_t length_bytes, off_t at)
{
	while (length_bytes > 0) {
		ssize_t n = pwrite(fd, bytes, length_bytes, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		bytes += n;
		length_bytes -= (size_t)n;
		at += n;
	}
	return 0;
}

/* Bytes read: fewer where the file ends. */
static ssize_t read_all(int fd, char *bytes, size_t length_bytes)
{
	size_t have = 0;
	while (have < length_bytes) {
		ssize_t n = pread(fd, bytes + have, length_bytes - have, (off_t)have);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

/* What the name of the file and of the directory hang on. */
static int sync_directory(int dir_fd)
{
	int parent = openat(dir_fd, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = parent >= 0 && fsync(parent) == 0 && fsync(dir_fd) == 0 ? 0 : -errno;
	if (parent >= 0)
		close(parent);
	return r;
}

static int error_of(const struct hf_vm_record *record, int r, struct hf_err *err, const char *what)
{
	return hf_err_set(err, HF_ERR_LOCAL, -r, "the VM's record %s cannot be %s: %s", record->path, what,
			  strerror(-r));
}

/* Once: the VM stands still while some changes are written. */
static void note_agent(struct hf_vm_record *record)
{
	struct hf_process_stat process;
	if (hf_process_stat(getpid(), &process))
		return;
	record->agent_pid = getpid();
	record->agent_start_ticks = process.start_ticks;
}

/* Makes *record with path and directory; `make` a directory that is missing. */
static int begin(struct hf_vm_record **out, const char *dir, enum hf_vm_record_role role, const char *vm_name,
		 bool make, struct hf_err *err)
{
	char name[HF_VM_RECORD_FILE_NAME_BYTES];
	int r = hf_vm_record_file_name(role, vm_name, name, err);
	if (r < 0)
		return r;
	struct hf_vm_record *record = calloc(1, sizeof(*record));
	if (!record || asprintf(&record->path, "%s/%s", dir, name) < 0) {
		free(record);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a VM's record");
	}
	record->name = record->path + strlen(dir) + 1;
	record->fd = record->dir_fd = -1;
	note_agent(record);
	if (!make || mkdir(dir, 0700) == 0 || errno == EEXIST)
		record->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (record->dir_fd < 0) {
		r = hf_err_set(err, HF_ERR_LOCAL, errno, "the directory of VMs' records, %s: %s", dir,
			       strerror(errno));
		hf_vm_record_close(record);
		return r;
	}
	*out = record;
	return 0;
}

void hf_vm_record_close(struct hf_vm_record *record)
{
	if (!record)
		return;
	if (record->fd >= 0)
		close(record->fd);
	if (record->dir_fd >= 0)
		close(record->dir_fd);
	hf_vm_record_description_free(record->content.description);
	free(record->path);
	free(record);
}

/* ---- reading ---------------------------------------------------------------------------------- */

static int distrust(const struct hf_vm_record *record, const char *why, struct hf_err *err)
{
	return hf_err_set(
	    err, HF_ERR_LOCAL, EBADMSG,
	    "the VM's record %s cannot be trusted: %s. Who may run the VM is not known here: do "
	    "not run it before you have seen that it does not run on the other host, then "
	    "remove the file",
	    record->path, why);
}

static int decode_file(struct hf_vm_record *record, char *bytes, enum hf_vm_record_role role,
		       const char *vm_name, struct hf_err *err)
{
	struct hf_err why = HF_ERR_INIT;
	struct hf_vm_record_content content;
	ssize_t length_bytes = read_all(record->fd, bytes, HF_VM_RECORD_FILE_MAX_BYTES + 1);
	if (length_bytes < 0)
		return error_of(record, (int)length_bytes, err, "read");
	int r = hf_vm_record_decode(bytes, (size_t)length_bytes, &content, &why);
	if (r == -EBADMSG)
		return distrust(record, why.text, err);
	if (r < 0)
		return error_of(record, r, err, "read");
	if (content.description->role != role || strcmp(content.description->vm_name, vm_name) != 0) {
		hf_vm_record_description_free(content.description);
		return distrust(record, "it is about another VM or side", err);
	}
	record->content = content;
	return 0;
}

/* Who only reads may see two writes of others half done. */
static int load(struct hf_vm_record *record, enum hf_vm_record_role role, const char *vm_name,
		struct hf_err *err)
{
	char *bytes = malloc(HF_VM_RECORD_FILE_MAX_BYTES + 1);
	int r = -EBADMSG;
	if (!bytes)
		return error_of(record, -ENOMEM, err, "read");
	for (int i = 0; i < TRIES && r == -EBADMSG; i++)
		r = decode_file(record, bytes, role, vm_name, err);
	free(bytes);
	return r;
}

static int open_file(struct hf_vm_record *record, int flags, struct hf_err *err)
{
	struct stat status;
	/* Not blocking: it might be a FIFO. */
	record->fd = openat(record->dir_fd, record->name, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (record->fd < 0 && errno == ENOENT)
		return hf_err_set(err, HF_ERR_LOCAL, ENOENT, "there is no record %s", record->path);
	if (record->fd < 0 || fstat(record->fd, &status))
		return error_of(record, -errno, err, "opened");
	if (!S_ISREG(status.st_mode))
		return distrust(record, "it is no regular file", err);
	return 0;
}

/* 1: locked, but it is not the file of that name any more. */
static int lock_file(struct hf_vm_record *record, struct hf_err *err)
{
	struct stat opened, named;
	if (flock(record->fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK)
			return error_of(record, -errno, err, "locked");
		return hf_err_set(err, HF_ERR_LOCAL, EBUSY,
				  "the VM's record %s is in use: another program moves this VM",
				  record->path);
	}
	if (fstat(record->fd, &opened))
		return error_of(record, -errno, err, "looked at");
	return fstatat(record->dir_fd, record->name, &named, AT_SYMLINK_NOFOLLOW) ||
	       opened.st_dev != named.st_dev || opened.st_ino != named.st_ino;
}

static int open_locked(struct hf_vm_record *record, struct hf_err *err)
{
	for (int i = 0; i < TRIES; i++) {
		int r = open_file(record, O_RDWR, err);
		if (r == 0)
			r = lock_file(record, err);
		if (r <= 0)
			return r;
		close(record->fd);
		record->fd = -1;
	}
	return hf_err_set(err, HF_ERR_LOCAL, EBUSY, "the VM's record %s is being replaced all the time",
			  record->path);
}

int hf_vm_record_open(struct hf_vm_record **out, const char *dir, enum hf_vm_record_role role,
		      const char *vm_name, struct hf_err *err)
{
	struct hf_vm_record *record;
	int r = begin(&record, dir, role, vm_name, false, err);
	if (r < 0)
		return r;
	r = open_locked(record, err);
	if (r == 0)
		r = load(record, role, vm_name, err);
	/* Its writer may have ended before it was on the disk, and before it was copied. */
	if (r == 0 && fdatasync(record->fd))
		r = error_of(record, -errno, err, "brought to the disk");
	if (r < 0) {
		hf_vm_record_close(record);
		return r;
	}
	hf_vm_record_copy(record, NULL);
	*out = record;
	return 0;
}

int hf_vm_record_read(const char *dir, enum hf_vm_record_role role, const char *vm_name,
		      struct hf_vm_record_state *state, struct hf_vm_record_description **description,
		      struct hf_err *err)
{
	struct hf_vm_record *record;
	int r = begin(&record, dir, role, vm_name, false, err);
	if (r < 0)
		return r;
	r = open_file(record, O_RDONLY, err);
	if (r == 0)
		r = load(record, role, vm_name, err);
	if (r == 0) {
		*state = record->content.slot.state;
		if (description) {
			*description = record->content.description;
			record->content.description = NULL;
		}
	}
	hf_vm_record_close(record);
	return r;
}

struct hf_vm_record_state hf_vm_record_state(const struct hf_vm_record *record)
{
	return record->content.slot.state;
}

const struct hf_vm_record_description *hf_vm_record_description(const struct hf_vm_record *record)
{
	return record->content.description;
}

const char *hf_vm_record_path(const struct hf_vm_record *record)
{
	return record->path;
}

/* ---- making ----------------------------------------------------------------------------------- */

static void note_time(struct hf_vm_record_state *state)
{
	time_t now = time(NULL);
	struct tm utc;
	if (!gmtime_r(&now, &utc) ||
	    strftime(state->written_at, sizeof(state->written_at), "%Y-%m-%dT%H:%M:%SZ", &utc) == 0)
		state->written_at[0] = '\0';
}

/* A whole new file in memory. */
static int make_image(const struct hf_vm_record_description *description, char **image, size_t *image_bytes,
		      struct hf_err *err)
{
	struct hf_vm_record_slot slot = {.sequence = 1, .state = {.record = HF_RECORD_NONE}};
	char *text = NULL;
	size_t text_bytes = 0;
	int r = hf_vm_record_description_encode(description, &text, &text_bytes, err);
	if (r < 0)
		return r;
	char *bytes = malloc(HF_VM_RECORD_DESCRIPTION_AT + text_bytes);
	if (bytes) {
		note_time(&slot.state);
		for (size_t i = 0; i < HF_VM_RECORD_SLOTS; i++)
			hf_vm_record_slot_encode(&slot, bytes + i * HF_VM_RECORD_SLOT_BYTES);
		memcpy(bytes + HF_VM_RECORD_DESCRIPTION_AT, text, text_bytes);
		*image = bytes;
		*image_bytes = HF_VM_RECORD_DESCRIPTION_AT + text_bytes;
	}
	free(text);
	return bytes ? 0 : hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a VM's record");
}

/* The new file under its name, or not at all. temporary: its name in the directory until then. */
static int publish(struct hf_vm_record *record, const char *temporary, const char *image, size_t image_bytes)
{
	if (flock(record->fd, LOCK_EX | LOCK_NB))
		return -errno;
	int r = write_all(record->fd, image, image_bytes, 0);
	if (r == 0 && fsync(record->fd))
		r = -errno;
	if (r < 0)
		return r;
	if (renameat2(record->dir_fd, temporary, record->dir_fd, record->name, RENAME_NOREPLACE))
		return -errno;
	r = sync_directory(record->dir_fd);
	if (r < 0)
		unlinkat(record->dir_fd, record->name, 0);
	return r;
}

static int publish_image(struct hf_vm_record *record, const char *dir, const char *image, size_t image_bytes,
			 struct hf_err *err)
{
	char *temporary;
	if (asprintf(&temporary, "%s/.new-XXXXXX", dir) < 0)
		return error_of(record, -ENOMEM, err, "made");
	int r;
	record->fd = mkostemp(temporary, O_CLOEXEC);
	if (record->fd < 0) {
		r = -errno;
	} else {
		const char *name = temporary + strlen(dir) + 1;
		r = publish(record, name, image, image_bytes);
		if (r < 0)
			unlinkat(record->dir_fd, name, 0);
	}
	free(temporary);
	if (r == -EEXIST)
		return hf_err_set(err, HF_ERR_LOCAL, EEXIST,
				  "there is a record %s: a migration of this VM was not brought to its end",
				  record->path);
	return r < 0 ? error_of(record, r, err, "made") : 0;
}

int hf_vm_record_create(struct hf_vm_record **out, const char *dir,
			const struct hf_vm_record_description *description, struct hf_err *err)
{
	struct hf_vm_record *record;
	char *image = NULL;
	size_t image_bytes = 0;
	int r = make_image(description, &image, &image_bytes, err);
	if (r < 0)
		return r;
	r = begin(&record, dir, description->role, description->vm_name, true, err);
	if (r < 0) {
		free(image);
		return r;
	}
	/* Before anything is on disk it is known that it can be read. */
	r = hf_vm_record_decode(image, image_bytes, &record->content, err);
	if (r == 0)
		r = publish_image(record, dir, image, image_bytes, err);
	free(image);
	if (r < 0)
		hf_vm_record_close(record);
	else
		*out = record;
	return r;
}

/* ---- writing ---------------------------------------------------------------------------------- */

static int write_slot(const struct hf_vm_record *record, unsigned at, const struct hf_vm_record_slot *slot)
{
	char bytes[HF_VM_RECORD_SLOT_BYTES];
	hf_vm_record_slot_encode(slot, bytes);
	int r = write_all(record->fd, bytes, sizeof(bytes), (off_t)at * HF_VM_RECORD_SLOT_BYTES);
	if (r == 0 && fdatasync(record->fd))
		r = -errno;
	return r;
}

/* The write of slot `at` has failed with `failed`, and left anything: what holds is written over it. */
static int put_back(struct hf_vm_record *record, unsigned at, const struct hf_vm_record_slot *slot,
		    int failed, struct hf_err *err)
{
	char bytes[HF_VM_RECORD_SLOT_BYTES];
	record->content.slot.sequence = slot->sequence + 1;
	record->content.copied = false;
	hf_vm_record_slot_encode(&record->content.slot, bytes);
	int r = write_all(record->fd, bytes, sizeof(bytes), (off_t)at * HF_VM_RECORD_SLOT_BYTES);
	if (r < 0)
		return hf_err_set(
		    err, HF_ERR_LOCAL, -failed,
		    "the VM's record %s cannot be written: %s; nor could '%s' be put back: it may "
		    "say '%s', which does not hold",
		    record->path, strerror(-failed), hf_record_name(record->content.slot.state.record),
		    hf_record_name(slot->state.record));
	/* If the disk refuses it again: this boot reads the page cache, and after this boot the VM is gone.
	 */
	(void)!fdatasync(record->fd);
	return error_of(record, failed, err, "written");
}

static int change(struct hf_vm_record *record, const struct hf_vm_record_state *to, struct hf_err *err)
{
	struct hf_vm_record_slot next = {.sequence = record->content.slot.sequence + 1, .state = *to};
	unsigned at = !record->content.at;
	if (record->removed)
		return error_of(record, -ESTALE, err, "written: it was removed");
	if (next.sequence >= HF_VM_RECORD_SEQUENCE_MAX)
		return error_of(record, -EOVERFLOW, err, "written");
	note_time(&next.state);
	next.state.agent_pid = record->agent_pid;
	next.state.agent_start_ticks = record->agent_start_ticks;
	int r = write_slot(record, at, &next);
	if (r < 0)
		return put_back(record, at, &next, r, err);
	record->content.slot = next;
	record->content.at = at;
	record->content.copied = false;
	return 0;
}

int hf_vm_record_write(struct hf_vm_record *record, enum hf_record value, struct hf_err *err)
{
	if (!hf_vm_record_fits_role(record->content.description->role, value))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "the VM's record %s cannot say '%s'",
				  record->path, hf_record_name(value));
	struct hf_vm_record_state to = record->content.slot.state;
	to.record = value;
	return change(record, &to, err);
}

int hf_vm_record_write_epoch(struct hf_vm_record *record, uint64_t epoch, struct hf_err *err)
{
	struct hf_vm_record_state to = record->content.slot.state;
	to.epoch = epoch;
	return change(record, &to, err);
}

int hf_vm_record_write_released(struct hf_vm_record *record, struct hf_err *err)
{
	struct hf_vm_record_state to = record->content.slot.state;
	to.released = true;
	return change(record, &to, err);
}

int hf_vm_record_copy(struct hf_vm_record *record, struct hf_err *err)
{
	if (record->content.copied || record->removed)
		return 0;
	int r = write_slot(record, !record->content.at, &record->content.slot);
	if (r < 0)
		return error_of(record, r, err, "written a second time");
	record->content.copied = true;
	return 0;
}

int hf_vm_record_remove(struct hf_vm_record *record, struct hf_err *err)
{
	if (unlinkat(record->dir_fd, record->name, 0))
		return error_of(record, -errno, err, "removed");
	record->removed = true;
	int r = sync_directory(record->dir_fd);
	return r < 0 ? error_of(record, r, err, "removed for good") : 0;
}
