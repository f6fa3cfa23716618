/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The userfaultfd calls: what each answer of the kernel comes out as. The linker puts ioctl() behind a
 * wrapper here, which can refuse a call as the kernel does while the address space changes, or have it do a
 * part only.
 */
#include "tests/unit/hugemem/host_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hugemem/kernel_compat.h"
#include "hugemem/uffd_open.h"
#include "hugemem/userfault.h"

#define PAGES	     4u
#define LENGTH_BYTES (PAGES * HUGE_BYTES)

static unsigned refusals;	 /* of the next calls, with EAGAIN */
static uint64_t copy_most_bytes; /* of one COPY; 0: all it is asked for */

int __real_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);

static int copy_a_part(int fd, struct uffdio_copy *copy)
{
	uint64_t asked_bytes = copy->len;

	copy->len = asked_bytes < copy_most_bytes ? asked_bytes : copy_most_bytes;
	int result = __real_ioctl(fd, UFFDIO_COPY, copy);
	copy->len = asked_bytes;
	return result;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list arguments;
	va_start(arguments, request);
	void *argument = va_arg(arguments, void *);
	va_end(arguments);
	if (refusals > 0) {
		refusals--;
		errno = EAGAIN;
		return -1;
	}
	if (request == UFFDIO_COPY && copy_most_bytes)
		return copy_a_part(fd, argument);
	return __real_ioctl(fd, request, argument);
}

struct range {
	int fd; /* the RAM file */
	int userfault;
	uint8_t *vmm, *alias;
	uint8_t *content; /* as long as the range, filled with 7 */
};

static int set_up(void **state)
{
	struct range *range = calloc(1, sizeof(*range));
	struct hf_err err;
	uint64_t offered = 0;

	if (!range)
		return -1;
	*range = (struct range){.fd = -1, .userfault = -1};
	refusals = 0;
	copy_most_bytes = 0;
	*state = range;
	if (hf_uffd_kernel_features(&offered, &err))
		return -1;
	uint64_t features =
	    UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS | (offered & UFFD_FEATURE_POISON);
	if (hf_uffd_open(&range->userfault, features, &err))
		return -1;
	range->fd = ram_file_anonymous(HUGE_BYTES, PAGES);
	range->vmm = ram_map(range->fd, LENGTH_BYTES, false);
	range->alias = ram_map(range->fd, LENGTH_BYTES, false);
	range->content = malloc(LENGTH_BYTES);
	if (!range->content)
		return -1;
	memset(range->content, 7, LENGTH_BYTES);
	return hf_userfault_register(range->userfault, (uintptr_t)range->vmm, LENGTH_BYTES,
				     UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR);
}

static int tear_down(void **state)
{
	struct range *range = *state;

	close(range->userfault);
	touchers_end();
	munmap(range->vmm, LENGTH_BYTES);
	munmap(range->alias, LENGTH_BYTES);
	close(range->fd);
	free(range->content);
	free(range);
	return 0;
}

static uint64_t at(const struct range *range, unsigned page)
{
	return (uintptr_t)range->vmm + page * HUGE_BYTES;
}

static void copy_fills_several_pages(void **state)
{
	struct range *range = *state;

	assert_int_equal(hf_userfault_copy(range->userfault, at(range, 0), range->content, LENGTH_BYTES), 0);
	assert_page_filled(range->vmm, LENGTH_BYTES, 7);
}

static void copy_that_meets_a_page_stops_there_with_eexist(void **state)
{
	struct range *range = *state;

	assert_int_equal(hf_userfault_copy(range->userfault, at(range, 2), range->content, HUGE_BYTES), 0);
	assert_int_equal(hf_userfault_copy(range->userfault, at(range, 0), range->content, LENGTH_BYTES),
			 -EEXIST);
	assert_true(page_is_mapped(range->vmm + HUGE_BYTES));
	assert_false(page_is_mapped(range->vmm + 3 * HUGE_BYTES));
}

static void a_copy_done_in_part_goes_on_where_it_ended(void **state)
{
	struct range *range = *state;

	memset(range->content + 3 * HUGE_BYTES, 8, HUGE_BYTES);
	copy_most_bytes = HUGE_BYTES;
	assert_int_equal(hf_userfault_copy(range->userfault, at(range, 0), range->content, LENGTH_BYTES), 0);
	for (unsigned page = 0; page < PAGES; page++)
		assert_true(page_is_mapped(range->vmm + page * HUGE_BYTES));
	assert_page_filled(range->vmm, 3 * HUGE_BYTES, 7);
	assert_page_filled(range->vmm + 3 * HUGE_BYTES, HUGE_BYTES, 8);
}

static void a_call_refused_while_the_address_space_changes_is_repeated(void **state)
{
	struct range *range = *state;

	refusals = 3;
	assert_int_equal(hf_userfault_copy(range->userfault, at(range, 0), range->content, HUGE_BYTES), 0);
	range->alias[HUGE_BYTES] = 9;
	refusals = 3;
	assert_int_equal(hf_userfault_continue(range->userfault, at(range, 1), HUGE_BYTES), 0);
	assert_int_equal(range->vmm[0], 7);
	assert_int_equal(range->vmm[HUGE_BYTES], 9);
}

static void continue_without_a_page_in_the_file_is_efault(void **state)
{
	struct range *range = *state;

	assert_int_equal(hf_userfault_continue(range->userfault, at(range, 0), HUGE_BYTES), -EFAULT);
	assert_false(page_is_mapped(range->vmm));
}

static void continue_shows_pages_once(void **state)
{
	struct range *range = *state;

	memset(range->alias, 9, 2 * HUGE_BYTES);
	assert_int_equal(hf_userfault_continue(range->userfault, at(range, 0), 2 * HUGE_BYTES), 0);
	assert_page_filled(range->vmm, 2 * HUGE_BYTES, 9);
	assert_int_equal(hf_userfault_continue(range->userfault, at(range, 0), HUGE_BYTES), -EEXIST);
}

static void parts_of_a_page_are_refused(void **state)
{
	struct range *range = *state;

	assert_int_equal(hf_userfault_copy(range->userfault, at(range, 0), range->content, 4096), -EINVAL);
	assert_int_equal(hf_userfault_continue(range->userfault, at(range, 0) + 4096, HUGE_BYTES), -EINVAL);
}

static void a_range_that_is_not_registered_is_enoent(void **state)
{
	struct range *range = *state;

	assert_int_equal(
	    hf_userfault_copy(range->userfault, (uintptr_t)range->alias, range->content, HUGE_BYTES),
	    -ENOENT);
}

static void wake_raises_a_waiting_fault_again(void **state)
{
	struct range *range = *state;
	struct toucher toucher = {0};
	struct uffd_msg first, second;
	struct pollfd polled = {.fd = range->userfault, .events = POLLIN};

	toucher_start(&toucher, range->vmm + HUGE_BYTES);
	assert_int_equal(poll(&polled, 1, WAIT_LIMIT_MS), 1);
	assert_int_equal(read(range->userfault, &first, sizeof(first)), sizeof(first));
	assert_int_equal(hf_userfault_wake(range->userfault, at(range, 1), HUGE_BYTES), 0);
	assert_int_equal(poll(&polled, 1, WAIT_LIMIT_MS), 1);
	assert_int_equal(read(range->userfault, &second, sizeof(second)), sizeof(second));
	assert_int_equal(second.arg.pagefault.address, first.arg.pagefault.address);
	assert_int_equal(hf_userfault_copy(range->userfault, at(range, 1), range->content, HUGE_BYTES), 0);
	assert_int_equal(toucher_join(&toucher), 7);
}

static void unregister_lets_waiters_go(void **state)
{
	struct range *range = *state;
	struct toucher toucher = {0};
	struct pollfd polled = {.fd = range->userfault, .events = POLLIN};

	toucher_start(&toucher, range->vmm);
	assert_int_equal(poll(&polled, 1, WAIT_LIMIT_MS), 1);
	assert_int_equal(hf_userfault_unregister(range->userfault, at(range, 0), LENGTH_BYTES), 0);
	assert_int_equal(toucher_join(&toucher), 0);
}

static void a_second_userfaultfd_on_a_range_is_ebusy(void **state)
{
	struct range *range = *state;
	int other = -1;

	assert_int_equal(hf_uffd_open(&other, UFFD_FEATURE_MISSING_HUGETLBFS, NULL), 0);
	assert_int_equal(
	    hf_userfault_register(other, at(range, 0), LENGTH_BYTES, UFFDIO_REGISTER_MODE_MISSING), -EBUSY);
	close(other);
}

static void a_poisoned_page_cannot_be_read(void **state)
{
	struct range *range = *state;
	uint64_t offered = 0;
	int ends[2];

	assert_int_equal(hf_uffd_kernel_features(&offered, NULL), 0);
	if (!(offered & UFFD_FEATURE_POISON)) {
		print_message("skipped: this kernel has no UFFDIO_POISON (Linux 6.6)\n");
		skip();
	}
	assert_int_equal(hf_userfault_poison(range->userfault, at(range, 3), HUGE_BYTES), 0);
	assert_int_equal(pipe(ends), 0);
	/* The kernel's own access fails where a program's would be a SIGBUS. */
	assert_int_equal(write(ends[1], range->vmm + 3 * HUGE_BYTES, 1), -1);
	assert_int_equal(errno, EFAULT);
	close(ends[0]);
	close(ends[1]);
	assert_int_equal(hf_userfault_poison(range->userfault, at(range, 3), HUGE_BYTES), -EEXIST);
}

static int reserve(void **state)
{
	(void)state;
	return host_pages_reserve(HUGE_BYTES, PAGES + 2);
}

#define TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(copy_fills_several_pages),
	    TEST(copy_that_meets_a_page_stops_there_with_eexist),
	    TEST(a_copy_done_in_part_goes_on_where_it_ended),
	    TEST(a_call_refused_while_the_address_space_changes_is_repeated),
	    TEST(continue_without_a_page_in_the_file_is_efault),
	    TEST(continue_shows_pages_once),
	    TEST(parts_of_a_page_are_refused),
	    TEST(a_range_that_is_not_registered_is_enoent),
	    TEST(wake_raises_a_waiting_fault_again),
	    TEST(unregister_lets_waiters_go),
	    TEST(a_second_userfaultfd_on_a_range_is_ebusy),
	    TEST(a_poisoned_page_cannot_be_read),
	};

	return cmocka_run_group_tests(tests, reserve, host_give_back);
}
