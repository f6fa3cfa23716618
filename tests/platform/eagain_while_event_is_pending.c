/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fact: while a change of the address space waits for its event to be read, COPY and CONTINUE are
 * EAGAIN and do nothing.
 *
 * Kernel: 4.11 (EVENT_REMOVE), 5.18 (MADV_DONTNEED on hugetlb).
 *
 * Relied on by: hugemem/userfault.c, which asks again: a VMM may have asked for such events.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "tests/platform/platform.h"

static void *discard(void *opaque)
{
	const struct ram *ram = opaque;

	must(madvise(ram->vmm, ram->page_bytes, MADV_DONTNEED) == 0);
	return NULL;
}

static void expect_again(const char *call, int result, int64_t progress)
{
	expect_error(call, result, EAGAIN);
	expect(progress == 0 || progress == -EAGAIN, "%s reports %" PRId64 " bytes beside EAGAIN", call,
	       progress);
}

static void show(uint64_t page_bytes)
{
	struct ram ram = ram_new(page_bytes, 2);
	int uffd = uffd_of(&ram, BOTH_FAULTS | UFFD_FEATURE_EVENT_REMOVE, BOTH);
	uint8_t *content = content_new(page_bytes, 1, 9);
	struct pollfd polled = {.fd = uffd, .events = POLLIN};
	pthread_t thread;

	expect_answer("COPY while nothing is pending", page_copy(uffd, &ram, 0, content), 0);
	must(pthread_create(&thread, NULL, discard, &ram) == 0);
	must(poll(&polled, 1, -1) == 1);

	struct uffdio_copy copy = {
	    .dst = (uintptr_t)ram_vmm(&ram, 1), .src = (uintptr_t)content, .len = page_bytes};
	int result = ioctl(uffd, UFFDIO_COPY, &copy) ? -errno : 0;
	expect_again("COPY while an event is pending", result, copy.copy);
	struct uffdio_continue show_page = {
	    .range = {.start = (uintptr_t)ram_vmm(&ram, 1), .len = page_bytes}};
	result = ioctl(uffd, UFFDIO_CONTINUE, &show_page) ? -errno : 0;
	expect_again("CONTINUE while an event is pending", result, show_page.mapped);
	expect(!page_is_mapped(0, ram_vmm(&ram, 1)), "a page is mapped in spite of EAGAIN");

	/* The opposite: the change ends once its event is read, and what asks again gets through. */
	struct uffd_msg message = uffd_next(uffd, "the discarded page");
	expect(message.event == UFFD_EVENT_REMOVE, "MADV_DONTNEED raises event %u", message.event);
	expect_answer("COPY after the event was read", page_copy(uffd, &ram, 1, content), 0);
	must(pthread_join(thread, NULL) == 0); // the page is discarded after the event was read, not by it
	expect_answer("CONTINUE after the page was discarded", page_continue(uffd, &ram, 0), 0);
}

int main(void)
{
	return platform_run(
	    &(struct platform_fact){.claim = "COPY and CONTINUE are EAGAIN while an event is pending",
				    .show = show,
				    .pages = 2,
				    .giant_pages = 2,
				    .features = BOTH_FAULTS | UFFD_FEATURE_EVENT_REMOVE});
}
