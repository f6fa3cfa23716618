/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * COPY, CONTINUE and POISON report progress in a field of their argument: bytes done, or a negative errno,
 * also next to a failing return value. Two failures are not the caller's business and are repeated here:
 *
 * - EAGAIN: the process changes its address space just now and the kernel refuses to race with it. The
 *   change ends by itself, so the call yields the processor and tries again.
 * - Fewer bytes than asked: the rest is asked for in another call. Each huge page is done whole or not at
 * all.
 */
#include "hugemem/userfault.h"

#include <errno.h>
#include <sched.h>
#include <sys/ioctl.h>

#include "hugemem/kernel_compat.h"

/* Ioctls a range must offer for a mode; WAKE comes with every mode. */
static uint64_t ioctls_needed(uint64_t modes)
{
	uint64_t needed = 1ull << _UFFDIO_WAKE;

	if (modes & UFFDIO_REGISTER_MODE_MISSING)
		needed |= 1ull << _UFFDIO_COPY;
	if (modes & UFFDIO_REGISTER_MODE_MINOR)
		needed |= 1ull << _UFFDIO_CONTINUE;
	return needed;
}

int hf_userfault_register(int fd, uint64_t address, uint64_t length_bytes, uint64_t modes)
{
	struct uffdio_register request = {.range = {.start = address, .len = length_bytes}, .mode = modes};

	if (ioctl(fd, UFFDIO_REGISTER, &request))
		return -errno;
	if (~request.ioctls & ioctls_needed(modes)) {
		hf_userfault_unregister(fd, address, length_bytes);
		return -EOPNOTSUPP;
	}
	return 0;
}

int hf_userfault_unregister(int fd, uint64_t address, uint64_t length_bytes)
{
	struct uffdio_range range = {.start = address, .len = length_bytes};

	return ioctl(fd, UFFDIO_UNREGISTER, &range) ? -errno : 0;
}

int hf_userfault_wake(int fd, uint64_t address, uint64_t length_bytes)
{
	struct uffdio_range range = {.start = address, .len = length_bytes};

	return ioctl(fd, UFFDIO_WAKE, &range) ? -errno : 0;
}

int hf_userfault_protect(int fd, uint64_t address, uint64_t length_bytes)
{
	struct uffdio_writeprotect request = {.range = {.start = address, .len = length_bytes},
					      .mode = UFFDIO_WRITEPROTECT_MODE_WP};

	while (ioctl(fd, UFFDIO_WRITEPROTECT, &request)) {
		if (errno != EAGAIN)
			return -errno;
		sched_yield();
	}
	return 0;
}

/* What one ioctl achieved: bytes done (> 0) or -errno. `reported` is the progress field it left. */
static int64_t progress(int returned, int errnum, int64_t reported)
{
	if (reported)
		return reported;
	return returned ? -errnum : -EIO;
}

static int64_t copy_once(int fd, uint64_t address, uint64_t content, uint64_t length_bytes)
{
	struct uffdio_copy request = {.dst = address, .src = content, .len = length_bytes};
	int returned = ioctl(fd, UFFDIO_COPY, &request);

	return progress(returned, errno, request.copy);
}

static int64_t continue_once(int fd, uint64_t address, uint64_t unused, uint64_t length_bytes)
{
	(void)unused;
	struct uffdio_continue request = {.range = {.start = address, .len = length_bytes}};
	int returned = ioctl(fd, UFFDIO_CONTINUE, &request);

	return progress(returned, errno, request.mapped);
}

static int64_t poison_once(int fd, uint64_t address, uint64_t unused, uint64_t length_bytes)
{
	(void)unused;
	struct uffdio_poison request = {.range = {.start = address, .len = length_bytes}};
	int returned = ioctl(fd, UFFDIO_POISON, &request);

	return progress(returned, errno, request.updated);
}

static int whole_range(int64_t (*once)(int, uint64_t, uint64_t, uint64_t), int fd, uint64_t address,
		       uint64_t content, uint64_t length_bytes)
{
	uint64_t done_bytes = 0;

	while (done_bytes < length_bytes) {
		int64_t step =
		    once(fd, address + done_bytes, content + done_bytes, length_bytes - done_bytes);
		if (step == -EAGAIN)
			sched_yield();
		else if (step < 0)
			return (int)step;
		else
			done_bytes += (uint64_t)step;
	}
	return 0;
}

int hf_userfault_copy(int fd, uint64_t address, const void *content, uint64_t length_bytes)
{
	return whole_range(copy_once, fd, address, (uintptr_t)content, length_bytes);
}

int hf_userfault_continue(int fd, uint64_t address, uint64_t length_bytes)
{
	return whole_range(continue_once, fd, address, 0, length_bytes);
}

int hf_userfault_poison(int fd, uint64_t address, uint64_t length_bytes)
{
	return whole_range(poison_once, fd, address, 0, length_bytes);
}
