/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Bits in a shared mapping are the kernel's from the store on: a process killed by whatever signal loses
 * none. So each death leaves the bits exactly as its last store did, and their order to what they speak of
 * does the rest:
 *
 *   continue    content whole  (1)  bit   (2)  CONTINUE
 *   copy        content whole  (3)  COPY  (4)  bit
 *
 *   1  not received: fetched again into the alias, which nobody sees
 *   2  received and whole: shown when it faults
 *   3  not received, and nothing was seen: fetched again
 *   4  there, but without a bit: fetched once more, and the kernel does not let it be placed over what is
 *      there
 *
 * Never may a bit stand whose content does not (the guest would read what landed in half) or, under continue,
 * a page be visible without its bit (the next agent would let bytes land under the guest's own writes).
 *
 * Nothing is synced: the end of the host ends the VM and its memory as well, and a tmpfs with them. Where the
 * directory is on a disk, the boot id tells that the file is of another life.
 *
 * The file gets its name when it is complete (rename without replacing); the other name, NAME%new, is taken
 * over from whoever died there. Both are locked by flock() while in use, which the kernel ends with the
 * process's last thread. A lock got on a file that has lost its name since is worth nothing, hence the second
 * look. All blocks are allocated at creation: a full tmpfs must not become a SIGBUS on a page's way.
 */
#include "hugemem/kept_pages_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define LOCK_TRIES   500 /* 5 s, as long as a VMM waits for the predecessor's end */
#define LOCK_STEP_NS 10000000L
/* No VM has so many pages. */
#define FILE_BYTES_MAX (2 * ((uint64_t)HF_PAGES_MAX / 8) + (UINT64_C(1) << 20))

struct hf_kept_pages {
	int directory;
	int fd; /* holds the lock */
	struct hf_kept_header *header;
	uint64_t file_bytes;
	struct hf_ramblocks blocks;
	struct hf_kept_description description;
	char name[HF_KEPT_NAME_BYTES];
	char *path; /* for people */
};

static int failed(const struct hf_kept_pages *kept, const char *what, int errnum, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, errnum, "%s '%.300s': %s", what, kept->path, strerror(errnum));
}

/* ---- directory and names ---- */

static int open_directory(struct hf_kept_pages *kept, const char *directory, bool make, struct hf_err *err)
{
	struct stat found;

	if (make && mkdir(directory, 0700) && errno != EEXIST)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot make the directory '%.300s': %s",
				  directory, strerror(errno));
	kept->directory = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	if (kept->directory < 0)
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot open the directory '%.300s': %s",
				  directory, strerror(errno));
	if (fstat(kept->directory, &found))
		return hf_err_set(err, HF_ERR_LOCAL, errno, "cannot look at '%.300s': %s", directory,
				  strerror(errno));
	if (found.st_uid != geteuid() || found.st_mode & (S_IWGRP | S_IWOTH))
		return hf_err_set(
		    err, HF_ERR_LOCAL, EPERM,
		    "others than this program's user may write to '%.300s'; make it its own, with "
		    "mode 0700",
		    directory);
	return 0;
}

static int allocate(struct hf_kept_pages **out, const char *directory, const char *vm_name, bool make,
		    struct hf_err *err)
{
	struct hf_kept_pages *kept = calloc(1, sizeof(*kept));

	if (!kept)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	kept->directory = kept->fd = -1;
	hf_ramblocks_init(&kept->blocks);
	hf_kept_name(vm_name, kept->name);
	if (asprintf(&kept->path, "%s/%s", directory, kept->name) < 0) {
		kept->path = NULL;
		hf_kept_pages_close(kept);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	}
	int result = open_directory(kept, directory, make, err);
	if (result) {
		hf_kept_pages_close(kept);
		return result;
	}
	*out = kept;
	return 0;
}

/* ---- the lock ---- */

/* Has the locked file still this name? */
static bool is_named(const struct hf_kept_pages *kept, const char *name)
{
	struct stat mine, named;

	return fstat(kept->fd, &mine) == 0 &&
	       fstatat(kept->directory, name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       mine.st_ino == named.st_ino && mine.st_dev == named.st_dev;
}

static int lock_file(const struct hf_kept_pages *kept, const char *name, int tries, struct hf_err *err)
{
	const struct timespec step = {.tv_nsec = LOCK_STEP_NS};

	while (flock(kept->fd, LOCK_EX | LOCK_NB)) {
		if (errno != EWOULDBLOCK && errno != EINTR)
			return failed(kept, "cannot lock", errno, err);
		if (--tries <= 0)
			return hf_err_set(err, HF_ERR_LOCAL, EBUSY,
					  "'%.300s' is in use by another process; end the one that receives "
					  "this VM, then try again",
					  kept->path);
		nanosleep(&step, NULL);
	}
	if (!is_named(kept, name))
		return hf_err_set(err, HF_ERR_LOCAL, EBUSY,
				  "'%.300s' was renamed or removed by another process just now; try again",
				  kept->path);
	return 0;
}

/* ---- the mapping ---- */

static int map_file(struct hf_kept_pages *kept, struct hf_err *err)
{
	void *address =
	    mmap(NULL, kept->file_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, kept->fd, 0);

	if (address == MAP_FAILED)
		return failed(kept, "cannot map", errno, err);
	kept->header = address;
	return 0;
}

/* Of a header that is good. */
static enum hf_placement placement_of(const struct hf_kept_header *header)
{
	bool other = __atomic_load_n(&header->flags, __ATOMIC_ACQUIRE) & HF_KEPT_OTHER_PLACEMENT;

	if (!other)
		return (enum hf_placement)header->placement;
	return header->placement == HF_PLACEMENT_COPY ? HF_PLACEMENT_CONTINUE : HF_PLACEMENT_COPY;
}

static void describe(struct hf_kept_pages *kept)
{
	const struct hf_kept_header *header = kept->header;
	struct hf_kept_description *description = &kept->description;

	*description = (struct hf_kept_description){
	    .vm_name = header->vm_name,
	    .vmm = {.pid = (pid_t)header->vmm_pid, .started_ticks = header->vmm_started_ticks},
	    .placement = placement_of(header),
	    .chunk_bytes = header->chunk_bytes,
	    .blocks = &kept->blocks};
	memcpy(description->session, header->session, sizeof(description->session));
	memcpy(description->vmm.boot_id, header->vmm_boot_id, sizeof(description->vmm.boot_id));
}

/* ---- create ---- */

static int make_file(struct hf_kept_pages *kept, const char *name, struct hf_err *err)
{
	kept->fd = openat(kept->directory, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (kept->fd < 0)
		return failed(kept, "cannot make", errno, err);
	int result = lock_file(kept, name, 1, err);
	if (result)
		return result;
	/* Whoever died here may have left half a file; one that is cut and grown again is all zeros. */
	if (ftruncate(kept->fd, 0))
		return failed(kept, "cannot empty", errno, err);
	int errnum = posix_fallocate(kept->fd, 0, (off_t)kept->file_bytes);
	if (errnum) {
		unlinkat(kept->directory, name, 0); // where there is no room it would only take some
		return failed(kept, "cannot allocate", errnum, err);
	}
	return map_file(kept, err);
}

static int give_name(struct hf_kept_pages *kept, const char *temporary, struct hf_err *err)
{
	if (renameat2(kept->directory, temporary, kept->directory, kept->name, RENAME_NOREPLACE) == 0)
		return 0;
	int errnum = errno;
	unlinkat(kept->directory, temporary, 0);
	if (errnum == EEXIST)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EEXIST,
		    "'%.300s' is there already: it tells which pages an earlier migration of this "
		    "VM has received",
		    kept->path);
	return failed(kept, "cannot name", errnum, err);
}

static int create(struct hf_kept_pages *kept, const struct hf_kept_description *description,
		  struct hf_err *err)
{
	char temporary[HF_KEPT_NAME_BYTES + 8];

	snprintf(temporary, sizeof(temporary), "%s%%new", kept->name);
	int result = hf_kept_file_bytes(description, &kept->file_bytes, err);
	if (result == 0)
		result = hf_ramblocks_copy(&kept->blocks, description->blocks, err);
	if (result == 0)
		result = make_file(kept, temporary, err);
	if (result)
		return result;
	hf_kept_fill(kept->header, kept->file_bytes, description);
	result = give_name(kept, temporary, err);
	if (result == 0)
		describe(kept);
	return result;
}

int hf_kept_pages_create(struct hf_kept_pages **out, const char *directory,
			 const struct hf_kept_description *description, struct hf_err *err)
{
	struct hf_kept_pages *kept = NULL;

	int result = allocate(&kept, directory, description->vm_name, true, err);
	if (result)
		return result;
	result = create(kept, description, err);
	if (result) {
		hf_kept_pages_close(kept);
		return result;
	}
	*out = kept;
	return 0;
}

/* ---- open ---- */

static int check_file(struct hf_kept_pages *kept, struct hf_err *err)
{
	struct stat found;

	if (fstat(kept->fd, &found))
		return failed(kept, "cannot look at", errno, err);
	if (!S_ISREG(found.st_mode) || found.st_uid != geteuid() || found.st_nlink != 1 ||
	    found.st_mode & (S_IWGRP | S_IWOTH))
		return hf_err_set(
		    err, HF_ERR_LOCAL, EBADMSG,
		    "it is no regular file of this program's user that nobody else may write to");
	if (found.st_size < (off_t)sizeof(struct hf_kept_header) || (uint64_t)found.st_size > FILE_BYTES_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "it is no file of kept pages");
	kept->file_bytes = (uint64_t)found.st_size;
	return 0;
}

static int open_file(struct hf_kept_pages *kept, const char *vm_name, struct hf_err *err)
{
	kept->fd =
	    openat(kept->directory, kept->name, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (kept->fd < 0)
		return failed(kept, "cannot open", errno, err);
	int result = lock_file(kept, kept->name, LOCK_TRIES, err);
	if (result)
		return result;
	result = check_file(kept, err);
	if (result == 0)
		result = map_file(kept, err);
	if (result == 0)
		result = hf_kept_check(kept->header, kept->file_bytes, vm_name, &kept->blocks, err);
	if (result == -EBADMSG)
		hf_err_prefix(err,
			      "'%.200s' cannot tell which pages were received. Remove it and start the "
			      "destination VMM anew; the VM must not be run from what is there",
			      kept->path);
	return result;
}

int hf_kept_pages_open(struct hf_kept_pages **out, const char *directory, const char *vm_name,
		       struct hf_err *err)
{
	struct hf_kept_pages *kept = NULL;

	int result = allocate(&kept, directory, vm_name, false, err);
	if (result)
		return result;
	result = open_file(kept, vm_name, err);
	if (result) {
		hf_kept_pages_close(kept);
		return result;
	}
	describe(kept);
	*out = kept;
	return 0;
}

static int check_blocks(const struct hf_kept_pages *kept, const struct hf_ramblocks *blocks,
			struct hf_err *err)
{
	const struct hf_ramblocks *then = &kept->blocks;

	if (then->count != blocks->count)
		return hf_err_set(err, HF_ERR_LOCAL, ESTALE,
				  "'%.200s' speaks of %" PRIu32 " memory blocks, the VMM lends %" PRIu32,
				  kept->path, then->count, blocks->count);
	for (uint32_t i = 0; i < blocks->count; i++)
		if (strcmp(then->blocks[i].idstr, blocks->blocks[i].idstr) != 0 ||
		    then->blocks[i].length_bytes != blocks->blocks[i].length_bytes ||
		    then->blocks[i].page_size_bytes != blocks->blocks[i].page_size_bytes)
			return hf_err_set(err, HF_ERR_LOCAL, ESTALE,
					  "'%.120s': block '%.80s' is not what the VMM lends as '%.80s'",
					  kept->path, then->blocks[i].idstr, blocks->blocks[i].idstr);
	return 0;
}

int hf_kept_pages_check_vmm(const struct hf_kept_pages *kept, const struct hf_vmm_identity *vmm,
			    const struct hf_ramblocks *blocks, struct hf_err *err)
{
	if (!hf_vmm_identity_equal(&kept->description.vmm, vmm))
		return hf_err_set(
		    err, HF_ERR_LOCAL, ESTALE,
		    "'%.200s' is of another VMM (process %d, this one is process %d) or was made "
		    "before this host was started again",
		    kept->path, (int)kept->description.vmm.pid, (int)vmm->pid);
	return check_blocks(kept, blocks, err);
}

/* ---- what it holds ---- */

const struct hf_kept_description *hf_kept_pages_description(const struct hf_kept_pages *kept)
{
	return &kept->description;
}

uint8_t *hf_kept_pages_received(struct hf_kept_pages *kept)
{
	return (uint8_t *)kept->header + kept->header->received_at;
}

uint8_t *hf_kept_pages_present(struct hf_kept_pages *kept)
{
	return (uint8_t *)kept->header + kept->header->present_at;
}

size_t hf_kept_pages_bitmap_bytes(const struct hf_kept_pages *kept)
{
	return kept->header->bitmap_bytes;
}

static bool has_flag(const struct hf_kept_pages *kept, uint32_t flag)
{
	return __atomic_load_n(&kept->header->flags, __ATOMIC_ACQUIRE) & flag;
}

struct hf_taken_over hf_kept_pages_taken_over(struct hf_kept_pages *kept)
{
	return (struct hf_taken_over){.placement = kept->description.placement,
				      .vmm = kept->description.vmm,
				      .poisoning = has_flag(kept, HF_KEPT_POISONING),
				      .settled = has_flag(kept, HF_KEPT_SETTLED),
				      .received = hf_kept_pages_received(kept)};
}

void hf_kept_pages_set_placement(struct hf_kept_pages *kept, enum hf_placement placement)
{
	/* One store: it is the old one or the new one, whenever this process is killed. */
	if (placement != (enum hf_placement)kept->header->placement)
		__atomic_fetch_or(&kept->header->flags, HF_KEPT_OTHER_PLACEMENT, __ATOMIC_RELEASE);
	else
		__atomic_fetch_and(&kept->header->flags, ~HF_KEPT_OTHER_PLACEMENT, __ATOMIC_RELEASE);
	kept->description.placement = placement;
}

void hf_kept_pages_set_presence_complete(struct hf_kept_pages *kept)
{
	__atomic_fetch_or(&kept->header->flags, HF_KEPT_PRESENCE_COMPLETE, __ATOMIC_RELEASE);
}

bool hf_kept_pages_presence_complete(const struct hf_kept_pages *kept)
{
	return __atomic_load_n(&kept->header->flags, __ATOMIC_ACQUIRE) & HF_KEPT_PRESENCE_COMPLETE;
}

void hf_kept_pages_set_poisoning(struct hf_kept_pages *kept, bool settled)
{
	__atomic_fetch_or(&kept->header->flags, HF_KEPT_POISONING | (settled ? HF_KEPT_SETTLED : 0),
			  __ATOMIC_SEQ_CST);
}

bool hf_kept_pages_poisoning(const struct hf_kept_pages *kept)
{
	return has_flag(kept, HF_KEPT_POISONING);
}

void hf_kept_pages_tables(const struct hf_kept_pages *kept, struct hf_tables *tables)
{
	hf_tables_add(tables, kept->header, kept->file_bytes);
}

bool hf_kept_pages_on_tmpfs(const struct hf_kept_pages *kept)
{
	struct statfs filesystem;

	return fstatfs(kept->fd, &filesystem) == 0 &&
	       (filesystem.f_type == TMPFS_MAGIC || filesystem.f_type == RAMFS_MAGIC);
}

const char *hf_kept_pages_path(const struct hf_kept_pages *kept)
{
	return kept->path;
}

/* ---- end ---- */

int hf_kept_pages_remove(struct hf_kept_pages *kept, struct hf_err *err)
{
	/* By now another's file may have the name. */
	if (!is_named(kept, kept->name) || unlinkat(kept->directory, kept->name, 0) == 0 || errno == ENOENT)
		return 0;
	return failed(kept, "cannot remove", errno, err);
}

void hf_kept_pages_close(struct hf_kept_pages *kept)
{
	if (!kept)
		return;
	if (kept->header)
		munmap(kept->header, kept->file_bytes);
	if (kept->fd >= 0)
		close(kept->fd);
	if (kept->directory >= 0)
		close(kept->directory);
	hf_ramblocks_destroy(&kept->blocks);
	free(kept->path);
	free(kept);
}
