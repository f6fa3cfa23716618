/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination's memory port against a real kernel: faults, landings, placing, release. The linker puts
 * COPY behind a wrapper here, which can answer what a kernel short of memory does.
 */
#include "tests/unit/hugemem/incoming_rig.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hugemem/kernel_compat.h"
#include "hugemem/userfault.h"

static int copy_answers; /* 0: the kernel's own answer */

int __real_hf_userfault_copy(int fd, uint64_t address, const void *content, uint64_t length_bytes);
int __wrap_hf_userfault_copy(int fd, uint64_t address, const void *content, uint64_t length_bytes);

int __wrap_hf_userfault_copy(int fd, uint64_t address, const void *content, uint64_t length_bytes)
{
	return copy_answers ? copy_answers : __real_hf_userfault_copy(fd, address, content, length_bytes);
}

static void a_fault_names_block_page_and_thread_and_placing_wakes_it(void **state)
{
	struct destination *d = *state;
	struct toucher first = {0}, second = {.write = true};

	bring_up(d);
	uint64_t before_ns = monotonic_ns(NULL);
	toucher_start(&first, guest_page(d, 0, 3) + 12345);
	expect_fault(d, &first, 0, 3);
	toucher_start(&second, guest_page(d, 1, 0));
	expect_fault(d, &second, 1, 0);
	assert_true(d->engine.faults[0].arrived_ns >= before_ns);
	assert_true(d->engine.faults[0].arrived_ns <= monotonic_ns(NULL));

	land_and_place(d, 0, 3, 0xa5);
	assert_int_equal(toucher_join(&first), 0xa5);
	assert_false(toucher_is_done(&second));
	land_and_place(d, 1, 0, 0x5a);
	assert_int_equal(toucher_join(&second), 0x5a);
	assert_page_filled(guest_page(d, 0, 3), HUGE_BYTES, 0xa5);
	assert_int_equal(*guest_page(d, 1, 0), 0x5b);
}

static void several_threads_may_wait_for_one_page(void **state)
{
	struct destination *d = *state;
	struct toucher touchers[4] = {0};

	bring_up(d);
	for (unsigned i = 0; i < 4; i++) {
		toucher_start(&touchers[i], guest_page(d, 1, 2) + i);
		expect_fault(d, &touchers[i], 1, 2);
	}
	land_and_place(d, 1, 2, 7);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(toucher_join(&touchers[i]), 7);
}

static void a_half_landed_page_is_not_visible(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	bring_up(d);
	memset(d->port.ops->landing(d->memory, 0, 1, 0), 9, HUGE_BYTES / 2);
	toucher_start(&toucher, guest_page(d, 0, 1));
	expect_fault(d, &toucher, 0, 1);
	assert_false(page_is_mapped(guest_page(d, 0, 1)));
	land_and_place(d, 0, 1, 9);
	assert_int_equal(toucher_join(&toucher), 9);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 9);
}

static void a_page_may_be_placed_before_any_fault(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	land_and_place(d, 1, 3, 42);
	assert_true(page_is_mapped(guest_page(d, 1, 3)));
	assert_page_filled(guest_page(d, 1, 3), HUGE_BYTES, 42);
	assert_int_equal(d->engine.fault_count, 0);
}

static void placing_a_page_that_is_there_keeps_what_the_guest_wrote(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	land_and_place(d, 0, 0, 1);
	*guest_page(d, 0, 0) = 77;
	place(d, 0, 0, 0);
	place_again(d, 0, 0);
	assert_int_equal(*guest_page(d, 0, 0), 77);
}

static void show_without_waking(struct destination *d, uint32_t block, uint64_t page)
{
	int fd = d->memory->placer.userfault_fd;
	uint64_t address = (uintptr_t)guest_page(d, block, page);
	struct uffdio_continue show = {.range = {address, HUGE_BYTES}, .mode = UFFDIO_CONTINUE_MODE_DONTWAKE};
	struct uffdio_copy fill = {.dst = address,
				   .src = (uintptr_t)d->port.ops->landing(d->memory, block, page, 0),
				   .len = HUGE_BYTES,
				   .mode = UFFDIO_COPY_MODE_DONTWAKE};

	if (d->port.placement == HF_PLACEMENT_CONTINUE)
		assert_int_equal(ioctl(fd, UFFDIO_CONTINUE, &show), 0);
	else
		assert_int_equal(ioctl(fd, UFFDIO_COPY, &fill), 0);
}

static void placing_a_page_that_is_there_wakes_who_still_waits(void **state)
{
	struct destination *d = *state;
	struct toucher first = {0}, second = {0};

	bring_up(d);
	toucher_start(&first, guest_page(d, 0, 0));
	expect_fault(d, &first, 0, 0);
	toucher_start(&second, guest_page(d, 1, 0));
	expect_fault(d, &second, 1, 0);
	land(d, 0, 0, 0, 4);
	show_without_waking(d, 0, 0);
	land(d, 1, 0, 0, 5);
	show_without_waking(d, 1, 0);
	place(d, 0, 0, 0);
	assert_int_equal(toucher_join(&first), 4);
	assert_false(toucher_is_done(&second));
	place_again(d, 1, 0);
	assert_int_equal(toucher_join(&second), 5);
}

static void a_zero_page_reads_as_zeros_and_can_be_written(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {.write = true};

	bring_up(d);
	toucher_start(&toucher, guest_page(d, 0, 2));
	expect_fault(d, &toucher, 0, 2);
	place_zero(d, 0, 2);
	assert_int_equal(toucher_join(&toucher), 0);
	assert_int_equal(*guest_page(d, 0, 2), 1);
	place_zero(d, 0, 3);
	assert_page_filled(guest_page(d, 0, 3), HUGE_BYTES, 0);
	*guest_page(d, 0, 2) = 0;
	assert_page_filled(guest_page(d, 0, 2), HUGE_BYTES, 0);
}

static void again_after_dontneed_shows_the_same_content(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	bring_up(d);
	land_and_place(d, 0, 1, 33);
	assert_int_equal(madvise(guest_page(d, 0, 1), HUGE_BYTES, MADV_DONTNEED), 0);
	toucher_start(&toucher, guest_page(d, 0, 1));
	expect_fault(d, &toucher, 0, 1);
	place_again(d, 0, 1);
	assert_true(page_is_mapped(guest_page(d, 0, 1)));
	assert_int_equal(toucher_join(&toucher), 33);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 33);
}

static void again_after_a_punched_hole_gives_zeros(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	bring_up(d);
	land_and_place(d, 1, 1, 33);
	ram_punch(d->fd[1], HUGE_BYTES, HUGE_BYTES);
	assert_false(page_is_mapped(guest_page(d, 1, 1)));
	toucher_start(&toucher, guest_page(d, 1, 1));
	expect_fault(d, &toucher, 1, 1);
	place_again(d, 1, 1);
	assert_true(page_is_mapped(guest_page(d, 1, 1)));
	assert_int_equal(toucher_join(&toucher), 0);
	assert_page_filled(guest_page(d, 1, 1), HUGE_BYTES, 0);
}

static void release_wakes_waiters_and_lets_the_rest_go(void **state)
{
	struct destination *d = *state;
	struct toucher waiting = {0};

	bring_up(d);
	land_and_place(d, 0, 0, 8);
	toucher_start(&waiting, guest_page(d, 1, 3));
	expect_fault(d, &waiting, 1, 3);
	unsigned faults = d->engine.fault_count;
	assert_int_equal(d->port.ops->release(d->memory, &d->err), 0);
	assert_int_equal(toucher_join(&waiting), 0);
	assert_int_equal(*guest_page(d, 1, 2), 0);
	assert_int_equal(*guest_page(d, 0, 0), 8);
	hf_incoming_memory_stop(d->memory);
	assert_int_equal(d->engine.fault_count, faults);
	assert_false(hf_attach_armed(d->attach));
}

static void release_does_not_need_the_vmm(void **state)
{
	struct destination *d = *state;
	struct toucher waiting = {0};

	bring_up(d);
	toucher_start(&waiting, guest_page(d, 1, 3));
	expect_fault(d, &waiting, 1, 3);
	/* Its copy of the userfaultfd goes with the library; the registration is held by the port's. */
	hf_attach_destroy(d->attach);
	d->attach = NULL;
	assert_false(toucher_is_done(&waiting));
	assert_int_equal(d->port.ops->release(d->memory, &d->err), 0);
	assert_int_equal(toucher_join(&waiting), 0);
}

static void stop_with_a_pending_fault_leaves_the_page_missing(void **state)
{
	struct destination *d = *state;
	struct toucher waiting = {0};
	struct uffd_msg message;
	int fd;

	bring_up(d);
	toucher_start(&waiting, guest_page(d, 1, 1));
	expect_fault(d, &waiting, 1, 1);
	hf_incoming_memory_destroy(d->memory);
	d->memory = NULL;
	hf_attach_client_destroy(d->client);
	d->client = NULL;
	assert_false(page_is_mapped(guest_page(d, 1, 1)));

	/* The next agent is given the same registration, and the fault is raised again. */
	assert_int_equal(hf_attach_client_connect(&d->client, d->socket_path, &d->err), 0);
	assert_int_equal(hf_attach_client_userfault(d->client, HF_USERFAULT_MISSING | HF_USERFAULT_MINOR,
						    UFFD_FEATURE_THREAD_ID, &fd, &d->err),
			 0);
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	assert_int_equal(poll(&polled, 1, WAIT_LIMIT_MS), 1);
	assert_int_equal(read(fd, &message, sizeof(message)), sizeof(message));
	assert_int_equal(message.arg.pagefault.address, (uintptr_t)guest_page(d, 1, 1));
	assert_int_equal(message.arg.pagefault.feat.ptid, toucher_thread_id(&waiting));
	assert_false(toucher_is_done(&waiting));
	assert_int_equal(hf_attach_client_release(d->client, &d->err), 0);
	toucher_join(&waiting);
	close(fd);
}

static void clear_zeros_a_landing_only_where_it_may_be_dirty(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	uint8_t *landing = d->port.ops->landing(d->memory, 0, 0, 0);
	bool zeroes_clean = d->port.placement == HF_PLACEMENT_COPY;
	landing[0] = landing[4096] = 1;
	d->port.ops->clear(d->memory, landing, 4096, false);
	assert_int_equal(landing[0], zeroes_clean ? 0 : 1);
	assert_int_equal(landing[4096], 1);
	landing[0] = 1;
	d->port.ops->clear(d->memory, landing, 4096, true);
	assert_int_equal(landing[0], 0);
	assert_int_equal(landing[4096], 1);
}

static void a_page_discarded_before_it_is_placed_becomes_zeros(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	land(d, 0, 1, 0, 5);
	ram_punch(d->fd[0], HUGE_BYTES, HUGE_BYTES);
	place(d, 0, 1, 0);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 0);
	ram_punch(d->fd[0], 2 * HUGE_BYTES, HUGE_BYTES);
	place_zero(d, 0, 2);
	assert_page_filled(guest_page(d, 0, 2), HUGE_BYTES, 0);
}

static void copy_without_a_free_page_waits_until_there_is_one(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	d->fd[0] = ram_file_limited(PAGES, 2, &d->hog_fd);
	uint8_t *hog = ram_map(d->hog_fd, 2 * HUGE_BYTES, false);
	bring_up(d);
	land_and_place(d, 0, 0, 1);
	hog[0] = 1; /* the mount is full now */
	toucher_start(&toucher, guest_page(d, 0, 1));
	expect_fault(d, &toucher, 0, 1);
	land(d, 0, 1, 2, 50);
	assert_int_equal(d->port.ops->place(d->memory, 0, 1, 2, &d->err), -EAGAIN);
	assert_non_null(strstr(d->err.text, "block 'ram0' page 1"));
	assert_int_equal(d->port.ops->place(d->memory, 0, 1, 2, NULL), -EAGAIN);
	assert_int_equal(d->port.ops->place_zero(d->memory, 0, 2, &d->err), -EAGAIN);
	assert_false(page_is_mapped(guest_page(d, 0, 1)));
	assert_false(toucher_is_done(&toucher));

	munmap(hog, 2 * HUGE_BYTES);
	ram_punch(d->hog_fd, 0, 2 * HUGE_BYTES);
	place(d, 0, 1, 2);
	assert_int_equal(toucher_join(&toucher), 50);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 50);
}

static void a_copy_without_memory_is_as_one_without_a_free_page(void **state)
{
	static const int answers[] = {-ENOMEM, -ENOSPC, -EEXIST};
	struct destination *d = *state;

	bring_up(d);
	land_and_place(d, 0, 0, 3);
	land(d, 0, 1, 1, 4);
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		copy_answers = answers[i];
		int there = d->port.ops->place(d->memory, 0, 0, 0, &d->err);
		int absent = d->port.ops->place(d->memory, 0, 1, 1, &d->err);
		copy_answers = 0;
		assert_int_equal(there, 0);
		assert_int_equal(absent, -EAGAIN);
		assert_false(page_is_mapped(guest_page(d, 0, 1)));
	}
	place(d, 0, 1, 1);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 4);
}

static void a_page_in_the_file_that_nobody_placed_is_not_taken_for_placed(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	uint8_t *foreign = ram_map(d->fd[0], PAGES * HUGE_BYTES, false);
	foreign[0] = 99;
	land(d, 0, 0, 0, 1);
	assert_int_equal(d->port.ops->place(d->memory, 0, 0, 0, &d->err), -EAGAIN);
	assert_non_null(strstr(d->err.text, "another process"));
	assert_false(page_is_mapped(guest_page(d, 0, 0)));
	munmap(foreign, PAGES * HUGE_BYTES);
}

static void private_memory_is_placed_by_copy(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	d->private_memory = true;
	bring_up(d);
	assert_int_equal(d->port.placement, HF_PLACEMENT_COPY);
	assert_non_null(strstr(hf_incoming_memory_reason(d->memory), "'ram0' is private"));
	toucher_start(&toucher, guest_page(d, 1, 1));
	expect_fault(d, &toucher, 1, 1);
	land_and_place(d, 1, 1, 3);
	assert_int_equal(toucher_join(&toucher), 3);
	place_zero(d, 1, 2);
	assert_page_filled(guest_page(d, 1, 2), HUGE_BYTES, 0);
}

static void private_memory_without_a_free_page_waits_until_there_is_one(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	copy_without_a_free_page_waits_until_there_is_one(state);
}

static void a_private_waiter_of_a_page_that_is_there_is_woken(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	placing_a_page_that_is_there_wakes_who_still_waits(state);
}

static void private_memory_that_was_dropped_gets_zeros_again(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	d->private_memory = true;
	bring_up(d);
	land_and_place(d, 0, 0, 3);
	place_again(d, 0, 0);
	assert_int_equal(*guest_page(d, 0, 0), 3);
	assert_int_equal(madvise(guest_page(d, 0, 0), HUGE_BYTES, MADV_DONTNEED), 0);
	toucher_start(&toucher, guest_page(d, 0, 0));
	expect_fault(d, &toucher, 0, 0);
	place_again(d, 0, 0);
	assert_true(page_is_mapped(guest_page(d, 0, 0)));
	assert_int_equal(toucher_join(&toucher), 0);
}

/* ThreadSanitizer keeps several bytes for each of memory, and sees the same threads with small pages. */
#ifdef __SANITIZE_THREAD__
#define HAS_MEMORY false
#else
#define HAS_MEMORY true
#endif

static void gibibyte_pages_work_the_same(void **state)
{
	struct destination *d = *state;
	struct toucher toucher = {0};

	if (!HAS_MEMORY)
		return;
	if (host_pages_reserve(GIB, d->choice == HF_PLACEMENT_CHOICE_COPY ? 2 : 1)) {
		print_message("skipped: this host has no contiguous memory for pages of 1 GiB\n");
		skip();
	}
	d->reserved_more = true;
	d->block_count = d->pages = d->slots = 1;
	d->page_size_bytes = GIB;
	bring_up(d);
	toucher_start(&toucher, guest_page(d, 0, 0) + GIB - 1);
	expect_fault(d, &toucher, 0, 0);
	land_and_place(d, 0, 0, 6);
	assert_int_equal(toucher_join(&toucher), 6);
	assert_page_filled(guest_page(d, 0, 0), GIB, 6);
	ram_punch(d->fd[0], 0, GIB);
	place_again(d, 0, 0);
	assert_page_filled(guest_page(d, 0, 0), GIB, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(a_fault_names_block_page_and_thread_and_placing_wakes_it),
	    BOTH(several_threads_may_wait_for_one_page),
	    BOTH(a_half_landed_page_is_not_visible),
	    BOTH(a_page_may_be_placed_before_any_fault),
	    BOTH(placing_a_page_that_is_there_keeps_what_the_guest_wrote),
	    BOTH(placing_a_page_that_is_there_wakes_who_still_waits),
	    BOTH(a_zero_page_reads_as_zeros_and_can_be_written),
	    BOTH(again_after_dontneed_shows_the_same_content),
	    BOTH(again_after_a_punched_hole_gives_zeros),
	    BOTH(release_wakes_waiters_and_lets_the_rest_go),
	    BOTH(release_does_not_need_the_vmm),
	    BOTH(stop_with_a_pending_fault_leaves_the_page_missing),
	    BOTH(clear_zeros_a_landing_only_where_it_may_be_dirty),
	    WITH(with_continue, a_page_discarded_before_it_is_placed_becomes_zeros),
	    WITH(copy, copy_without_a_free_page_waits_until_there_is_one),
	    WITH(copy, a_copy_without_memory_is_as_one_without_a_free_page),
	    WITH(copy, a_page_in_the_file_that_nobody_placed_is_not_taken_for_placed),
	    ANY(private_memory_is_placed_by_copy),
	    ANY(private_memory_without_a_free_page_waits_until_there_is_one),
	    ANY(a_private_waiter_of_a_page_that_is_there_is_woken),
	    ANY(private_memory_that_was_dropped_gets_zeros_again),
	    BOTH(gibibyte_pages_work_the_same),
	};

	return cmocka_run_group_tests(tests, reserve_pages, give_back_pages);
}
