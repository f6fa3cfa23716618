/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/move/count_allocations.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What glibc calls its own, behind the names that are taken here. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);
void *__libc_memalign(size_t alignment, size_t bytes);

static atomic_bool counting;
static atomic_uint calls;
static struct allocations first; /* written by whoever counts the first call */

/* These talk QMP with the VMM, also after it runs; no page is theirs. */
static bool talks_qmp(const char *thread)
{
	return strcmp(thread, "hf-vm") == 0 || strcmp(thread, "hf-qmp-client") == 0;
}

static void count(const char *call, void *caller)
{
	char thread[sizeof(first.first_thread)] = "";
	if (!atomic_load(&counting))
		return;
	pthread_getname_np(pthread_self(), thread, sizeof(thread));
	if (talks_qmp(thread) || atomic_fetch_add(&calls, 1) != 0)
		return;
	strncpy(first.first_call, call, sizeof(first.first_call) - 1);
	memcpy(first.first_thread, thread, sizeof(thread));
	first.first_caller = caller;
}

void allocations_count(bool on)
{
	atomic_store(&counting, on);
}

struct allocations allocations_counted(void)
{
	struct allocations counted = first;
	counted.calls = atomic_load(&calls);
	return counted;
}

/* ---- in front of the C library ---- */

void *malloc(size_t bytes)
{
	count("malloc", __builtin_return_address(0));
	return __libc_malloc(bytes);
}

void *calloc(size_t number, size_t bytes)
{
	count("calloc", __builtin_return_address(0));
	return __libc_calloc(number, bytes);
}

void *realloc(void *old, size_t bytes)
{
	count("realloc", __builtin_return_address(0));
	return __libc_realloc(old, bytes);
}

void *memalign(size_t alignment, size_t bytes)
{
	count("memalign", __builtin_return_address(0));
	return __libc_memalign(alignment, bytes);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
	count("aligned_alloc", __builtin_return_address(0));
	return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **out, size_t alignment, size_t bytes)
{
	count("posix_memalign", __builtin_return_address(0));
	*out = __libc_memalign(alignment, bytes);
	return *out ? 0 : ENOMEM;
}

/* With 64-bit offsets, as everything here is compiled, this is mmap64(). */
void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
	count("mmap", __builtin_return_address(0));
	return (void *)syscall(SYS_mmap, address, bytes, protection, flags, fd, offset);
}
