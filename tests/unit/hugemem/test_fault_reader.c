/* SPDX-License-Identifier: Apache-2.0 */
/* No fault is lost silently: what the reader cannot pass on it reports, once. A pipe stands for a
 * userfaultfd. */
#include "tests/unit/core/death.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "core/lock.h"
#include "hugemem/fault_reader.h"
#include "hugemem/kernel_compat.h"

#define ADDRESS	      0x200000000u
#define PAGE_BYTES    (2u << 20)
#define PAGES	      4u
#define WAIT_LIMIT_MS 20000

struct heard {
	int faults_fd, failures_fd; /* semaphores that count */
	uint64_t last_page;
	int policy; /* of the thread that told */
	struct hf_err err;
};

struct fixture {
	struct heard heard;
	struct hf_ramblocks blocks;
	struct hf_attached_region region;
	int read_fd, write_fd;
	struct hf_fault_reader *reader;
	atomic_bool storm_ends;
};

static uint64_t now_ns(void *self)
{
	(void)self;
	return 1;
}

static void on_fault(void *opaque, uint32_t block, uint64_t page, uint32_t thread_id, uint64_t arrived_ns)
{
	struct heard *heard = opaque;
	struct sched_param param;
	pthread_getschedparam(pthread_self(), &heard->policy, &param);
	assert_int_equal(block, 0);
	assert_int_equal(thread_id, 77);
	assert_int_equal(arrived_ns, 1);
	heard->last_page = page;
	eventfd_write(heard->faults_fd, 1);
}

static void on_failed(void *opaque, const struct hf_err *err)
{
	struct heard *heard = opaque;
	heard->err = *err;
	eventfd_write(heard->failures_fd, 1);
}

static void start(struct fixture *fixture)
{
	struct hf_fault_reader_config config = {.userfault_fd = fixture->read_fd,
						.blocks = &fixture->blocks,
						.regions = &fixture->region,
						.clock = {.now_ns = now_ns},
						.fault = on_fault,
						.failed = on_failed,
						.engine = &fixture->heard};
	assert_int_equal(hf_fault_reader_start(&fixture->reader, &config, NULL), 0);
}

static int set_up(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	int fds[2];
	assert_non_null(fixture);
	*state = fixture;
	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	fixture->read_fd = fds[0];
	fixture->write_fd = fds[1];
	fixture->heard.faults_fd = eventfd(0, EFD_SEMAPHORE);
	fixture->heard.failures_fd = eventfd(0, EFD_SEMAPHORE);
	fixture->region = (struct hf_attached_region){.vmm_address = ADDRESS};
	hf_ramblocks_init(&fixture->blocks);
	return hf_ramblocks_add(&fixture->blocks, "ram0", (uint64_t)PAGES * PAGE_BYTES, PAGE_BYTES, NULL);
}

static int tear_down(void **state)
{
	struct fixture *fixture = *state;
	hf_fault_reader_destroy(fixture->reader);
	close(fixture->heard.faults_fd);
	close(fixture->heard.failures_fd);
	close(fixture->read_fd);
	if (fixture->write_fd >= 0)
		close(fixture->write_fd);
	hf_ramblocks_destroy(&fixture->blocks);
	free(fixture);
	return 0;
}

static void say_fault(const struct fixture *fixture, uint64_t address)
{
	struct uffd_msg message = {.event = UFFD_EVENT_PAGEFAULT};
	message.arg.pagefault.address = address;
	message.arg.pagefault.feat.ptid = 77;
	assert_int_equal(write(fixture->write_fd, &message, sizeof(message)), sizeof(message));
}

static void wait_one(int fd)
{
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	eventfd_t one;
	assert_int_equal(poll(&polled, 1, WAIT_LIMIT_MS), 1);
	assert_int_equal(eventfd_read(fd, &one), 0);
}

static bool is_silent(int fd)
{
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	return poll(&polled, 1, 0) == 0;
}

static void a_fault_in_no_region_is_reported_once_and_others_still_come(void **state)
{
	struct fixture *fixture = *state;
	start(fixture);
	say_fault(fixture, ADDRESS - 1);
	wait_one(fixture->heard.failures_fd);
	assert_non_null(strstr(fixture->heard.err.text, "0x1ffffffff is in no region"));
	say_fault(fixture, ADDRESS + (uint64_t)PAGES * PAGE_BYTES);
	say_fault(fixture, ADDRESS + 2 * PAGE_BYTES + 5);
	wait_one(fixture->heard.faults_fd);
	assert_int_equal(fixture->heard.last_page, 2);
	assert_true(is_silent(fixture->heard.failures_fd));
}

static void *try_to_go_first(void *opaque)
{
	struct sched_param lowest = {.sched_priority = sched_get_priority_min(SCHED_FIFO)};
	*(int *)opaque =
	    pthread_setschedparam(pthread_self(), SCHED_FIFO, &lowest) ? SCHED_OTHER : SCHED_FIFO;
	return NULL;
}

/* What a thread of this process may be at all: without the right to it the reader does without. */
static int first_policy(void)
{
	pthread_t thread;
	int policy = -1;
	assert_int_equal(pthread_create(&thread, NULL, try_to_go_first, &policy), 0);
	pthread_join(thread, NULL);
	return policy;
}

static void faults_are_read_before_ordinary_threads_run(void **state)
{
	struct fixture *fixture = *state;
	start(fixture);
	say_fault(fixture, ADDRESS);
	wait_one(fixture->heard.faults_fd);
	assert_int_equal(fixture->heard.policy, first_policy());
}

static void a_descriptor_that_ends_is_reported(void **state)
{
	struct fixture *fixture = *state;
	start(fixture);
	say_fault(fixture, ADDRESS);
	wait_one(fixture->heard.faults_fd);
	close(fixture->write_fd);
	fixture->write_fd = -1;
	wait_one(fixture->heard.failures_fd);
	assert_int_equal(fixture->heard.err.class, HF_ERR_LOCAL);
	assert_non_null(strstr(fixture->heard.err.text, "reading its userfaultfd"));
	hf_fault_reader_destroy(fixture->reader); /* it can still be stopped */
	fixture->reader = NULL;
	assert_true(is_silent(fixture->heard.failures_fd));
}

static void a_read_that_fails_for_good_is_reported_with_its_reason(void **state)
{
	struct fixture *fixture = *state;
	close(fixture->read_fd);
	fixture->read_fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	start(fixture);
	wait_one(fixture->heard.failures_fd);
	assert_int_equal(fixture->heard.err.errnum, EISDIR);
	assert_non_null(strstr(fixture->heard.err.text, "threads that wait for those pages stand still"));
	hf_fault_reader_destroy(fixture->reader);
	fixture->reader = NULL;
	assert_true(is_silent(fixture->heard.failures_fd));
}

static void *storm(void *opaque)
{
	struct fixture *fixture = opaque;
	struct uffd_msg message = {.event = UFFD_EVENT_PAGEFAULT};
	message.arg.pagefault.address = ADDRESS;
	message.arg.pagefault.feat.ptid = 77;
	while (!atomic_load(&fixture->storm_ends))
		if (write(fixture->write_fd, &message, sizeof(message)) < 0)
			sched_yield(); /* the pipe is full */
	return NULL;
}

static void stopping_under_a_storm_of_faults_ends_it(void **state)
{
	struct fixture *fixture = *state;
	pthread_t thread;
	start(fixture);
	assert_int_equal(pthread_create(&thread, NULL, storm, fixture), 0);
	for (int i = 0; i < 100; i++)
		wait_one(fixture->heard.faults_fd);
	hf_fault_reader_destroy(fixture->reader);
	fixture->reader = NULL;
	uint64_t page = fixture->heard.last_page = PAGES; /* nobody else writes it now */
	atomic_store(&fixture->storm_ends, true);
	pthread_join(thread, NULL);
	assert_int_equal(fixture->heard.last_page, page);
}

static void place_in_fault(void *engine, uint32_t block, uint64_t page, uint32_t thread_id,
			   uint64_t arrived_ns)
{
	on_fault(engine, block, page, thread_id, arrived_ns);
	hf_lock_assert_may_place("memory.place()");
}

static void place_in_the_readers_thread(void *opaque)
{
	struct fixture *fixture = opaque;
	struct hf_fault_reader_config config = {.userfault_fd = fixture->read_fd,
						.blocks = &fixture->blocks,
						.regions = &fixture->region,
						.clock = {.now_ns = now_ns},
						.fault = place_in_fault,
						.failed = on_failed,
						.engine = &fixture->heard};
	hf_fault_reader_start(&fixture->reader, &config, NULL);
	say_fault(fixture, ADDRESS);
	wait_one(fixture->heard.failures_fd); /* never: it has died */
}

static void a_page_placed_in_the_readers_thread_is_caught(void **state)
{
	assert_dies(place_in_the_readers_thread, *state,
		    "memory.place() is called in thread hf-faults, which only queues");
}

int main(void)
{
#define WITH_FIXTURE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    WITH_FIXTURE(a_fault_in_no_region_is_reported_once_and_others_still_come),
	    WITH_FIXTURE(faults_are_read_before_ordinary_threads_run),
	    WITH_FIXTURE(a_descriptor_that_ends_is_reported),
	    WITH_FIXTURE(a_read_that_fails_for_good_is_reported_with_its_reason),
	    WITH_FIXTURE(stopping_under_a_storm_of_faults_ends_it),
	    WITH_FIXTURE(a_page_placed_in_the_readers_thread_is_caught),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
