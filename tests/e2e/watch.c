/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Preloaded into `hugeferry send` or `receive`: counts what the program allocates from the hand-over to the
 * last page, and writes that and what memory it took at most to the file named by HF_WATCH.
 *
 * The moments are seen where the program meets the kernel: the control frames that go out and come in, and
 * the end of the registration, which comes after the last page.
 */
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "core/wire.h"
#include "hugemem/kernel_compat.h"
#include "tests/unit/move/count_allocations.h"

static atomic_uint starts, stops;

/* Is this a frame of that type without a payload? */
static bool is_frame(const uint8_t *bytes, ssize_t length_bytes, uint32_t type)
{
	struct hf_wire_frame_header header;
	return length_bytes == HF_WIRE_FRAME_HEADER_BYTES &&
	       hf_wire_decode_frame_header(bytes, HF_WIRE_FRAME_HEADER_BYTES, &header, NULL) == 0 &&
	       header.type == type && header.length_bytes == 0;
}

static void start(void)
{
	allocations_count(true);
	atomic_fetch_add(&starts, 1);
}

static void stop(void)
{
	allocations_count(false);
	atomic_fetch_add(&stops, 1);
}

ssize_t send(int fd, const void *bytes, size_t length_bytes, int flags)
{
	ssize_t sent = syscall(SYS_sendto, fd, bytes, length_bytes, flags, NULL, 0);
	/* What either side has to say before its part of the hand-over is done has been said now. */
	if (is_frame(bytes, sent, HF_WIRE_RUN) || is_frame(bytes, sent, HF_WIRE_RESUMED))
		start();
	return sent;
}

ssize_t recv(int fd, void *bytes, size_t length_bytes, int flags)
{
	ssize_t got = syscall(SYS_recvfrom, fd, bytes, length_bytes, flags, NULL, NULL);
	if (is_frame(bytes, got, HF_WIRE_COMPLETE))
		stop();
	return got;
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	if (request == UFFDIO_UNREGISTER)
		stop();
	return (int)syscall(SYS_ioctl, fd, request, argument);
}

__attribute__((destructor)) static void report(void)
{
	const char *path = getenv("HF_WATCH");
	struct allocations counted = allocations_counted();
	char line[256], status[8192];
	int out = path ? open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_TRUNC, 0600) : -1;
	int in = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	int length =
	    snprintf(line, sizeof(line), "starts: %u\nstops: %u\ncalls: %u\nfirst: %s by %s from %p\n",
		     atomic_load(&starts), atomic_load(&stops), counted.calls, counted.first_call,
		     counted.first_thread, counted.first_caller);
	ssize_t got = read(in, status, sizeof(status));
	if (out < 0 || got <= 0 || write(out, line, (size_t)length) != length ||
	    write(out, status, (size_t)got) != got)
		_exit(99);
	close(in);
	close(out);
}
