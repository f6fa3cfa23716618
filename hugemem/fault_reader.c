/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * The thread sleeps in poll() on the userfaultfd and on an eventfd that asks it to stop. When faults are
 * there it reads as many as the kernel has, up to a fixed number at once, and takes the time right after
 * read(): that is the earliest moment at which this process can know of them.
 *
 * Messages that are no page faults are dropped: no such event was asked for. A fault that cannot be passed on
 * leaves a thread of the VM waiting for ever, so whatever loses one is reported: an address outside every
 * region, and a read that fails, or ends, for good; after that only the stop is waited for. The userfaultfd
 * of an address space that is gone only falls silent; whoever watches the VMM notices.
 */
#include "hugemem/fault_reader.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/lock.h"
#include "hugemem/kernel_compat.h"

#define MESSAGES_AT_ONCE 64

struct hf_fault_reader {
	/* Set at creation. */
	struct hf_fault_reader_config config;
	int stop_fd;
	pthread_t thread;
	/* The thread's own. */
	bool told; /* of trouble */
};

static void tell(struct hf_fault_reader *reader, int errnum, const char *what)
{
	struct hf_err err;
	if (reader->told)
		return;
	reader->told = true;
	hf_err_set(
	    &err, HF_ERR_LOCAL, errnum,
	    "page faults of the VM are lost, and threads that wait for those pages stand still: %s; see "
	    "this host's kernel log",
	    what);
	reader->config.failed(reader->config.engine, &err);
}

static void deliver(struct hf_fault_reader *reader, const struct uffd_msg *message, uint64_t arrived_ns)
{
	const struct hf_fault_reader_config *config = &reader->config;
	uint64_t address = message->arg.pagefault.address;
	char what[96];

	if (message->event != UFFD_EVENT_PAGEFAULT)
		return;
	for (uint32_t block = 0; block < config->blocks->count; block++) {
		/* Wraps to a huge number for an address below the region. */
		uint64_t offset_bytes = address - config->regions[block].vmm_address;
		if (offset_bytes >= config->blocks->blocks[block].length_bytes)
			continue;
		config->fault(config->engine, block,
			      offset_bytes / config->blocks->blocks[block].page_size_bytes,
			      message->arg.pagefault.feat.ptid, arrived_ns);
		return;
	}
	snprintf(what, sizeof(what), "a fault at 0x%llx is in no region of its memory",
		 (unsigned long long)address);
	tell(reader, EFAULT, what);
}

/* False when nothing can be read any more. */
static bool read_faults(struct hf_fault_reader *reader)
{
	struct uffd_msg messages[MESSAGES_AT_ONCE];
	ssize_t got = read(reader->config.userfault_fd, messages, sizeof(messages));

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (got <= 0) {
		int errnum = got < 0 ? errno : EPIPE;
		char what[96];
		snprintf(what, sizeof(what), "reading its userfaultfd: %s", strerror(errnum));
		tell(reader, errnum, what);
		return false;
	}
	uint64_t arrived_ns = hf_clock_now_ns(&reader->config.clock);
	for (size_t i = 0; i < (size_t)got / sizeof(messages[0]); i++)
		deliver(reader, &messages[i], arrived_ns);
	return true;
}

/*
 * Before all ordinary threads: what it does is short, a vCPU stands meanwhile, and what it has not read yet
 * is in no blocktime. Where that is not allowed it goes without.
 */
static void go_first(void)
{
	struct sched_param lowest = {.sched_priority = sched_get_priority_min(SCHED_FIFO)};
	pthread_setschedparam(pthread_self(), SCHED_FIFO, &lowest);
}

static void *read_until_stopped(void *opaque)
{
	struct hf_fault_reader *reader = opaque;
	struct pollfd polled[2] = {{.fd = reader->stop_fd, .events = POLLIN},
				   {.fd = reader->config.userfault_fd, .events = POLLIN}};
	nfds_t count = 2;

	hf_lock_thread_only_queues("hf-faults");
	go_first();
	for (;;) {
		int ready = poll(polled, count, -1);
		if (ready < 0)
			continue;
		if (polled[0].revents)
			return NULL;
		if (polled[1].revents && !read_faults(reader))
			count = 1; /* only the stop is waited for */
	}
}

int hf_fault_reader_start(struct hf_fault_reader **out, const struct hf_fault_reader_config *config,
			  struct hf_err *err)
{
	int result = -ENOMEM;
	struct hf_fault_reader *reader = calloc(1, sizeof(*reader));
	if (!reader)
		goto fail;
	reader->config = *config;
	reader->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (reader->stop_fd < 0) {
		result = -errno;
		goto fail_free;
	}
	result = -pthread_create(&reader->thread, NULL, read_until_stopped, reader);
	if (result)
		goto fail_close;
	pthread_setname_np(reader->thread, "hf-faults");
	*out = reader;
	return 0;

fail_close:
	close(reader->stop_fd);
fail_free:
	free(reader);
fail:
	return hf_err_set(err, HF_ERR_LOCAL, -result, "cannot start the fault reader: %s", strerror(-result));
}

void hf_fault_reader_destroy(struct hf_fault_reader *reader)
{
	hf_lock_assert_may_stop(__func__);
	if (!reader)
		return;
	eventfd_write(reader->stop_fd, 1);
	pthread_join(reader->thread, NULL);
	close(reader->stop_fd);
	free(reader);
}
