/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * A VMM that knows nothing of Hugeferry is started by `hugeferry exec` with this object preloaded. It stands
 * in for mmap() and mmap64(): the real call is made first; where it has mapped a file on hugetlbfs shared and
 * writable, that is guest memory. It is kept from forked children at once, its descriptor is duplicated, and
 * it goes on a list. Everything else is the attach library's, whose thread takes the list when an agent asks
 * for the regions: nothing is registered, and the running guest pays nothing, before an agent says so.
 *
 * QEMU reserves address space first and then maps the file into it with MAP_FIXED; later madvise() calls
 * leave a registration as it is. With -incoming and prealloc=off it touches no guest memory before device
 * state is loaded, so that an agent that comes any time before then finds all pages missing. A file with
 * pages is refused by the agent: it may be from an earlier run, or made by prealloc=on. Private mappings are
 * not lent: QEMU would carry their content itself.
 *
 * The socket is made with the first region, in the thread that maps it, so a VMM may fork to the background
 * before it has memory. The variables that brought this object here are taken out of the environment when it
 * is loaded: children go without it.
 *
 * The hook may be called by any thread, and in the process of loading, before the constructor: it does
 * nothing then. It has no context but the process, hence the one variable here. The list is pushed to and
 * taken as a whole with one atomic operation each; the VMM's threads never wait for an agent.
 */
#undef _FILE_OFFSET_BITS // with it the headers take the two functions for one
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/ramblock.h"
#include "core/text.h"
#include "hugemem/attach.h"
#include "hugemem/attach_preload.h"
#include "hugemem/hugepool.h"

/* Of the process's memory, not yet with the library. */
struct found {
	struct found *next;
	char name[HF_RAMBLOCK_IDSTR_MAX + 1];
	struct hf_attach_region region;
};

static struct {
	char *socket_path; /* NULL: not preloaded for this process */
	pthread_once_t once;
	_Atomic(struct found *) list; /* the newest first */
} preload = {.once = PTHREAD_ONCE_INIT};

/* The VMM's stderr is where its operator looks. */
static void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void complain(const char *format, ...)
{
	char text[HF_ERR_TEXT_BYTES + 128];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	fprintf(stderr, "hugeferry-attach: %s\n", text);
}

/* `exec` has put this object in front of whatever was preloaded before. */
static void leave_environment(void)
{
	const char *all = getenv("LD_PRELOAD");
	char *others = all ? strchr(all, ':') : NULL;
	if (others)
		setenv("LD_PRELOAD", others + 1, 1);
	else
		unsetenv("LD_PRELOAD");
	unsetenv(HF_ATTACH_PRELOAD_SOCKET);
}

__attribute__((constructor)) static void enter_process(void)
{
	const char *path = getenv(HF_ATTACH_PRELOAD_SOCKET);
	if (!path)
		return;
	preload.socket_path = strdup(path);
	leave_environment();
}

/* ---- the list ---- */

/* Its path, or where that does not fit, which of the process's files it is. */
static void name_of(int fd, char name[static HF_RAMBLOCK_IDSTR_MAX + 1])
{
	char link[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t length = readlink(link, name, HF_RAMBLOCK_IDSTR_MAX + 1);
	if (length > 0 && length <= HF_RAMBLOCK_IDSTR_MAX &&
	    hf_text_is_printable((const uint8_t *)name, (size_t)length))
		name[length] = '\0';
	else
		snprintf(name, HF_RAMBLOCK_IDSTR_MAX + 1, "file %d", fd);
}

static void add_found(struct hf_attach *attach, const struct found *found)
{
	struct hf_err err = HF_ERR_INIT;
	if (hf_attach_add(attach, &found->region, &err))
		complain("memory cannot be lent: %s", err.text);
}

/* In the library's thread. */
static void take_list(struct hf_attach *attach, void *opaque)
{
	struct found *newest = atomic_exchange(&preload.list, NULL), *oldest = NULL;
	(void)opaque;
	while (newest) {
		struct found *next = newest->next;
		newest->next = oldest;
		oldest = newest;
		newest = next;
	}
	while (oldest) {
		struct found *next = oldest->next;
		add_found(attach, oldest);
		close(oldest->region.fd);
		free(oldest);
		oldest = next;
	}
}

/* It ends with the process. */
static void start_library(void)
{
	struct hf_attach_options options = {
	    .socket_path = preload.socket_path, .vm_name = preload.socket_path, .more_regions = take_list};
	struct hf_attach *attach = NULL;
	struct hf_err err = HF_ERR_INIT;
	int result = hf_attach_create(&attach, &options, &err);
	if (!result)
		result = hf_attach_start(attach, &err);
	if (!result)
		return;
	complain("this VM cannot be moved: %s", err.text);
	hf_attach_destroy(attach);
}

static void lend(void *address, size_t length_bytes, bool shared, int fd, off_t offset)
{
	uint64_t page_size_bytes = 0;
	if (hf_hugetlbfs_page_size(fd, &page_size_bytes, NULL))
		return;
	if (!shared) { // for an agent that would like to know why there is nothing
		pthread_once(&preload.once, start_library);
		return;
	}
	struct found *found = calloc(1, sizeof(*found));
	int kept = found ? fcntl(fd, F_DUPFD_CLOEXEC, 0) : -1;
	if (kept < 0) {
		complain("memory cannot be lent: %s", strerror(errno));
		free(found);
		return;
	}
	name_of(fd, found->name);
	// A forked child would see half-filled pages and zeros: it has no userfaultfd.
	madvise(address, length_bytes, MADV_DONTFORK);
	found->region = (struct hf_attach_region){.idstr = found->name,
						  .address = address,
						  .length_bytes = length_bytes,
						  .page_size_bytes = page_size_bytes,
						  .fd = kept,
						  .fd_offset_bytes = (uint64_t)offset};
	found->next = atomic_load(&preload.list);
	while (!atomic_compare_exchange_weak(&preload.list, &found->next, found))
		continue;
	pthread_once(&preload.once, start_library);
}

/* ---- the two functions ---- */

static bool may_be_guest_memory(int protection, int flags, int fd)
{
	return preload.socket_path && fd >= 0 && !(flags & MAP_ANONYMOUS) && protection & PROT_WRITE;
}

void *mmap64(void *address, size_t length_bytes, int protection, int flags, int fd, off_t offset)
{
	void *mapped = (void *)syscall(SYS_mmap, address, length_bytes, protection, flags, fd, offset);
	if (mapped != MAP_FAILED && may_be_guest_memory(protection, flags, fd)) {
		int error = errno;
		lend(mapped, length_bytes, (flags & MAP_TYPE) != MAP_PRIVATE, fd, offset);
		errno = error;
	}
	return mapped;
}

void *mmap(void *address, size_t length_bytes, int protection, int flags, int fd, off_t offset)
{
	return mmap64(address, length_bytes, protection, flags, fd, offset);
}
