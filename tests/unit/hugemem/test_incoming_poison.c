/* SPDX-License-Identifier: Apache-2.0 */
/* Poisoned pages against a real kernel, in both placements: who gets an error, when, and what is seen later.
 */
#include "tests/unit/hugemem/incoming_rig.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hugemem/kept_pages.h"
#include "hugemem/userfault.h"

static unsigned notes, settled_notes;

/* In place of the rig's. */
static void note(void *engine, bool settled)
{
	(void)engine;
	notes += !settled;
	settled_notes += settled;
}

static void begin(struct destination *d)
{
	notes = settled_notes = 0;
	bring_up(d);
	d->memory->config.poisoning = note;
	if (!d->memory->poison)
		skip();
}

static int poison(struct destination *d, uint32_t block, uint64_t page)
{
	struct hf_err err = HF_ERR_INIT;
	int result = d->port.ops->poison(d->memory, block, page, &err);
	if (result && result != -EEXIST)
		print_error("%s\n", err.text);
	return result;
}

static _Thread_local sigjmp_buf touched;
static void on_bus(int number)
{
	siglongjmp(touched, number);
}

/* Touches the page in this thread: the signal that came of it. */
static int touch(uint8_t *address)
{
	struct sigaction action = {.sa_handler = on_bus}, old;
	assert_int_equal(sigaction(SIGBUS, &action, &old), 0);
	int number = sigsetjmp(touched, 1);
	if (number == 0)
		*(volatile uint8_t *)address;
	assert_int_equal(sigaction(SIGBUS, &old, NULL), 0);
	return number;
}

static void a_poisoned_page_is_an_error_and_its_neighbours_are_not(void **state)
{
	struct destination *d = *state;
	begin(d);
	land_and_place(d, 0, 0, 7);
	memset(d->port.ops->landing(d->memory, 0, 1, 1), 9, HUGE_BYTES / 2);
	assert_int_equal(poison(d, 0, 1), 0);
	assert_int_equal(notes, 1);
	assert_int_equal(touch(guest_page(d, 0, 1)), SIGBUS);
	assert_int_equal(touch(guest_page(d, 0, 2) - 1), SIGBUS);
	assert_page_filled(guest_page(d, 0, 0), HUGE_BYTES, 7);
	place_zero(d, 0, 2);
	assert_page_filled(guest_page(d, 0, 2), HUGE_BYTES, 0);
	assert_int_equal(d->engine.fault_count, 0);
}

static void it_stays_an_error_when_the_registration_has_ended(void **state)
{
	struct destination *d = *state;
	struct hf_err err = HF_ERR_INIT;
	begin(d);
	memset(d->port.ops->landing(d->memory, 0, 1, 1), 9, HUGE_BYTES / 2);
	for (uint64_t page = 0; page < PAGES; page++) {
		assert_int_equal(poison(d, 0, page), 0);
		land_and_place(d, 1, page, 3);
	}
	assert_int_equal(settled_notes, 0);
	assert_int_equal(d->port.ops->release(d->memory, &err), 0);
	assert_int_equal(settled_notes, 1);
	for (uint64_t page = 0; page < PAGES; page++) {
		assert_int_equal(touch(guest_page(d, 0, page)), SIGBUS);
		assert_page_filled(guest_page(d, 1, page), HUGE_BYTES, 3);
	}
}

/* It has thrown the page away itself: zeros, and no half page that had landed. */
static void what_the_vmm_discards_reads_zeros_and_no_half_page(void **state)
{
	struct destination *d = *state;
	struct hf_err err = HF_ERR_INIT;
	begin(d);
	memset(d->port.ops->landing(d->memory, 0, 1, 1), 9, HUGE_BYTES / 2);
	for (uint32_t block = 0; block < BLOCKS; block++)
		for (uint64_t page = 0; page < PAGES; page++)
			assert_int_equal(poison(d, block, page), 0);
	assert_int_equal(d->port.ops->release(d->memory, &err), 0);
	assert_int_equal(madvise(guest_page(d, 0, 1), HUGE_BYTES, MADV_DONTNEED), 0);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 0);
	assert_int_equal(touch(guest_page(d, 0, 2)), SIGBUS);
}

static void *wait_for_page(void *opaque)
{
	return touch(opaque) == SIGBUS ? opaque : NULL;
}

static void who_waits_gets_the_error(void **state)
{
	struct destination *d = *state;
	pthread_t thread;
	void *met = NULL;
	begin(d);
	assert_int_equal(pthread_create(&thread, NULL, wait_for_page, guest_page(d, 1, 2)), 0);
	while (!has_faulted(d, 1, 2))
		usleep(1000);
	assert_int_equal(poison(d, 1, 2), 0);
	assert_int_equal(pthread_join(thread, &met), 0);
	assert_ptr_equal(met, guest_page(d, 1, 2));
}

static void a_page_that_the_vmm_has_is_left_alone(void **state)
{
	struct destination *d = *state;
	begin(d);
	land_and_place(d, 0, 0, 1);
	*guest_page(d, 0, 0) = 77;
	assert_int_equal(poison(d, 0, 0), -EEXIST);
	assert_int_equal(*guest_page(d, 0, 0), 77);
}

static void poisoning_again_leaves_it_poisoned(void **state)
{
	struct destination *d = *state;
	begin(d);
	assert_int_equal(poison(d, 0, 3), 0);
	assert_int_equal(poison(d, 0, 3), 0);
	assert_int_equal(touch(guest_page(d, 0, 3)), SIGBUS);
}

static void a_kernel_that_cannot_is_named(void **state)
{
	struct destination *d = *state;
	struct hf_err err = HF_ERR_INIT;
	begin(d);
	assert_int_equal(d->port.ops->may_poison(d->memory, &err), 0);
	d->memory->poison = false;
	assert_int_equal(d->port.ops->may_poison(d->memory, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "Linux 6.6"));
}

/* Its predecessor was killed about release(): a range that has ended must not be asked for again. */
static void what_was_settled_is_not_poisoned_again(void **state)
{
	struct destination *d = *state;
	begin(d);
	d->memory->taken_over.settled = true;
	assert_int_equal(poison(d, 0, 1), 0);
	assert_int_equal(notes, 0);
	d->memory->taken_over.settled = false;
	land_and_place(d, 0, 1, 9);
	assert_page_filled(guest_page(d, 0, 1), HUGE_BYTES, 9);
}

static void private_memory_is_poisoned_as_well(void **state)
{
	struct destination *d = *state;
	struct hf_err err = HF_ERR_INIT;
	d->private_memory = true;
	d->choice = HF_PLACEMENT_CHOICE_AUTO;
	begin(d);
	land_and_place(d, 0, 0, 7);
	for (uint32_t block = 0; block < BLOCKS; block++)
		for (uint64_t page = 0; page < PAGES; page++)
			assert_int_equal(poison(d, block, page), block + page == 0 ? -EEXIST : 0);
	assert_int_equal(d->port.ops->release(d->memory, &err), 0);
	assert_int_equal(touch(guest_page(d, 0, 1)), SIGBUS);
	assert_page_filled(guest_page(d, 0, 0), HUGE_BYTES, 7);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(a_poisoned_page_is_an_error_and_its_neighbours_are_not),
	    BOTH(it_stays_an_error_when_the_registration_has_ended),
	    BOTH(what_the_vmm_discards_reads_zeros_and_no_half_page),
	    BOTH(who_waits_gets_the_error),
	    BOTH(a_page_that_the_vmm_has_is_left_alone),
	    BOTH(poisoning_again_leaves_it_poisoned),
	    BOTH(a_kernel_that_cannot_is_named),
	    BOTH(what_was_settled_is_not_poisoned_again),
	    ANY(private_memory_is_poisoned_as_well),
	};
	return cmocka_run_group_tests(tests, reserve_pages, give_back_pages);
}
