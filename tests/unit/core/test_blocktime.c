/* SPDX-License-Identifier: Apache-2.0 */
/* Cases drawn by hand; test_blocktime_oracle.c has the random ones. */
#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>

#include "core/blocktime.h"

static const uint32_t two_vcpus[] = {101, 102};

static struct hf_blocktime *create(const uint32_t *thread_ids, uint32_t vcpus)
{
	struct hf_blocktime *blocktime = NULL;
	assert_int_equal(hf_blocktime_create(&blocktime, thread_ids, vcpus), 0);
	return blocktime;
}

static uint64_t vcpu_ns(const struct hf_blocktime *blocktime, uint32_t vcpu, uint64_t now_ns)
{
	struct hf_blocktime_vcpu out;
	assert_int_equal(hf_blocktime_vcpu(blocktime, vcpu, now_ns, &out), 0);
	assert_int_equal(out.vcpu, vcpu);
	return out.blocktime_ns;
}

static struct hf_blocktime_totals totals(const struct hf_blocktime *blocktime, uint64_t now_ns)
{
	struct hf_blocktime_totals out;
	hf_blocktime_totals(blocktime, now_ns, &out);
	return out;
}

static void add_wait(void *opaque, uint64_t wait_ns)
{
	uint64_t *sums = opaque;
	sums[0]++;
	sums[1] += wait_ns;
}

static void a_vcpu_waits_from_its_fault_to_the_placement(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 2);
	uint64_t ended[2] = {0};
	assert_true(hf_blocktime_fault(b, 101, 7, 1000));
	hf_blocktime_placed(b, 8, 1100, add_wait, ended);
	assert_int_equal(ended[0], 0);
	hf_blocktime_placed(b, 7, 1500, add_wait, ended);
	assert_int_equal(ended[0], 1);
	assert_int_equal(ended[1], 500);
	assert_int_equal(vcpu_ns(b, 0, 9000), 500);
	assert_int_equal(vcpu_ns(b, 1, 9000), 0);
	assert_int_equal(totals(b, 9000).overlapped_ns, 0);
	hf_blocktime_destroy(b);
}

static void one_placement_ends_every_wait_for_its_page(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 2);
	uint64_t ended[2] = {0};
	hf_blocktime_fault(b, 101, 7, 1000);
	assert_false(hf_blocktime_fault(b, 900, 7, 1100));
	hf_blocktime_fault(b, 102, 7, 1200);
	hf_blocktime_placed(b, 7, 2000, add_wait, ended);
	assert_int_equal(ended[0], 3);
	assert_int_equal(ended[1], 1000 + 900 + 800);
	assert_int_equal(vcpu_ns(b, 0, 2000), 1000);
	assert_int_equal(vcpu_ns(b, 1, 2000), 800);
	struct hf_blocktime_totals t = totals(b, 2000);
	assert_int_equal(t.overlapped_ns, 800);
	assert_int_equal(t.other_blocktime_ns, 900);
	assert_int_equal(t.faults_vcpu, 2);
	assert_int_equal(t.faults_other, 1);
	assert_int_equal(t.vcpus, 2);
	hf_blocktime_destroy(b);
}

static void a_fault_on_another_page_ends_the_old_wait(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 1);
	uint64_t ended[2] = {0};
	hf_blocktime_fault(b, 101, 7, 1000);
	hf_blocktime_fault(b, 101, 9, 1300); /* before 7 is reported placed */
	hf_blocktime_placed(b, 7, 1400, add_wait, ended);
	assert_int_equal(ended[0], 0);
	hf_blocktime_placed(b, 9, 1700, add_wait, ended);
	assert_int_equal(ended[1], 400);
	assert_int_equal(vcpu_ns(b, 0, 1700), 700);
	assert_int_equal(totals(b, 1700).overlapped_ns, 700);
	hf_blocktime_destroy(b);
}

static void a_second_fault_on_the_same_page_continues_the_wait(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 1);
	uint64_t ended[2] = {0};
	struct hf_blocktime_vcpu out;
	hf_blocktime_fault(b, 101, 7, 1000);
	hf_blocktime_fault(b, 101, 7, 1300);
	hf_blocktime_placed(b, 7, 2000, add_wait, ended);
	assert_int_equal(ended[0], 1);
	assert_int_equal(ended[1], 1000);
	assert_int_equal(hf_blocktime_vcpu(b, 0, 2000, &out), 0);
	assert_int_equal(out.faults, 2);
	hf_blocktime_destroy(b);
}

static void overlapped_time_needs_every_vcpu(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 2);
	hf_blocktime_fault(b, 101, 1, 100);
	hf_blocktime_fault(b, 900, 2, 100); /* no vCPU */
	assert_int_equal(totals(b, 500).overlapped_ns, 0);
	hf_blocktime_fault(b, 102, 3, 200);
	hf_blocktime_placed(b, 1, 350, NULL, NULL);
	hf_blocktime_fault(b, 101, 4, 400);
	hf_blocktime_placed(b, 3, 500, NULL, NULL);
	assert_int_equal(totals(b, 900).overlapped_ns, 150 + 100);
	hf_blocktime_destroy(b);
}

static void a_query_counts_open_waits_and_changes_nothing(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 1);
	struct hf_blocktime_vcpu out;
	hf_blocktime_fault(b, 101, 1, 100);
	hf_blocktime_fault(b, 900, 2, 100);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(hf_blocktime_vcpu(b, 0, 700, &out), 0);
		assert_true(out.blocked);
		assert_int_equal(out.blocktime_ns, 600);
		assert_int_equal(totals(b, 700).overlapped_ns, 600);
		assert_int_equal(totals(b, 700).other_blocktime_ns, 600);
		assert_int_equal(vcpu_ns(b, 0, 300), 200);
	}
	hf_blocktime_placed(b, 1, 200, NULL, NULL);
	assert_int_equal(hf_blocktime_vcpu(b, 0, 700, &out), 0);
	assert_false(out.blocked);
	assert_int_equal(out.blocktime_ns, 100);
	hf_blocktime_destroy(b);
}

static void a_wait_starts_not_before_the_threads_previous_one_ended(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 1);
	hf_blocktime_fault(b, 101, 1, 1000);
	hf_blocktime_placed(b, 1, 400, NULL, NULL); /* the clock is at 1000 */
	assert_int_equal(vcpu_ns(b, 0, 0), 0);
	hf_blocktime_fault(b, 101, 2, 600); /* starts at 1000 */
	hf_blocktime_placed(b, 2, 1250, NULL, NULL);
	assert_int_equal(vcpu_ns(b, 0, 0), 250);
	hf_blocktime_destroy(b);
}

static void a_wait_starts_when_its_message_was_read_even_if_reported_late(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 2);
	uint64_t ended[2] = {0};
	hf_blocktime_placed(b, 8, 5000, NULL, NULL);
	hf_blocktime_fault(b, 101, 7, 1000);
	hf_blocktime_fault(b, 900, 7, 2000);
	assert_int_equal(vcpu_ns(b, 0, 0), 4000);
	assert_int_equal(totals(b, 0).other_blocktime_ns, 3000);
	hf_blocktime_placed(b, 7, 6000, add_wait, ended);
	assert_int_equal(ended[0], 2);
	assert_int_equal(ended[1], 5000 + 4000);
	assert_int_equal(vcpu_ns(b, 0, 9000), 5000);
	assert_int_equal(totals(b, 9000).other_blocktime_ns, 4000);
	hf_blocktime_destroy(b);
}

static void a_late_fault_on_another_page_splits_the_time_where_its_message_was_read(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 1);
	uint64_t ended[2] = {0};
	hf_blocktime_fault(b, 101, 7, 1000);
	hf_blocktime_placed(b, 8, 5000, NULL, NULL);
	hf_blocktime_fault(b, 101, 9, 1300);
	hf_blocktime_placed(b, 9, 6000, add_wait, ended);
	assert_int_equal(ended[0], 1);
	assert_int_equal(ended[1], 4700);
	assert_int_equal(vcpu_ns(b, 0, 6000), 5000);
	assert_int_equal(totals(b, 6000).overlapped_ns, 5000);
	hf_blocktime_destroy(b);
}

static void a_late_fault_older_than_the_wait_it_ends_leaves_that_wait_empty(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 1);
	uint64_t ended[2] = {0};
	hf_blocktime_fault(b, 101, 7, 1000);
	hf_blocktime_fault(b, 101, 9, 400);
	hf_blocktime_placed(b, 9, 1500, add_wait, ended);
	assert_int_equal(ended[1], 500);
	assert_int_equal(vcpu_ns(b, 0, 1500), 500);
	hf_blocktime_destroy(b);
}

static void late_faults_leave_the_overlapped_time_within_every_vcpus(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 2);
	hf_blocktime_fault(b, 101, 1, 1000);
	hf_blocktime_placed(b, 8, 2000, NULL, NULL);
	hf_blocktime_fault(b, 102, 2, 1500); /* overlapped from 1500 */
	hf_blocktime_fault(b, 101, 3, 1200); /* goes on waiting */
	hf_blocktime_placed(b, 2, 2600, NULL, NULL);
	hf_blocktime_placed(b, 3, 2700, NULL, NULL);
	assert_int_equal(vcpu_ns(b, 0, 3000), 1700);
	assert_int_equal(vcpu_ns(b, 1, 3000), 1100);
	assert_int_equal(totals(b, 3000).overlapped_ns, 1100);
	hf_blocktime_destroy(b);
}

static void another_thread_does_not_inherit_the_end_of_a_wait(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 1);
	uint64_t ended[2] = {0};
	hf_blocktime_fault(b, 900, 1, 1000);
	hf_blocktime_placed(b, 1, 5000, NULL, NULL);
	hf_blocktime_fault(b, 901, 2, 3000); /* takes the record of 900 */
	hf_blocktime_placed(b, 2, 6000, add_wait, ended);
	assert_int_equal(ended[1], 3000);
	hf_blocktime_destroy(b);
}

static void more_other_threads_than_the_table_holds_are_counted_but_not_timed(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 2);
	uint64_t ended[2] = {0};
	for (uint32_t i = 0; i < HF_BLOCKTIME_OTHERS_MAX + 10; i++)
		assert_false(hf_blocktime_fault(b, 1000 + i, i, 100));
	assert_true(hf_blocktime_fault(b, 101, 5, 100)); /* vCPUs have their place */
	assert_int_equal(totals(b, 200).faults_other, HF_BLOCKTIME_OTHERS_MAX + 10);
	assert_int_equal(totals(b, 200).other_blocktime_ns, 100ull * HF_BLOCKTIME_OTHERS_MAX);

	/* A place that becomes free is taken by the next who faults. */
	hf_blocktime_placed(b, 0, 200, add_wait, ended);
	assert_int_equal(ended[0], 1);
	hf_blocktime_fault(b, 1000 + HF_BLOCKTIME_OTHERS_MAX, 77, 200);
	hf_blocktime_placed(b, 77, 300, add_wait, ended);
	assert_int_equal(ended[0], 3); /* the new one and the one that waited for 77 before */
	assert_int_equal(ended[1], 100 + 100 + 200);
	hf_blocktime_destroy(b);
}

static void without_vcpus_nothing_is_overlapped(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(NULL, 0);
	assert_false(hf_blocktime_fault(b, 101, 1, 100));
	struct hf_blocktime_totals t = totals(b, 300);
	assert_int_equal(t.vcpus, 0);
	assert_int_equal(t.overlapped_ns, 0);
	assert_int_equal(t.other_blocktime_ns, 200);
	hf_blocktime_destroy(b);
}

static void any_page_number_and_thread_id_is_a_key(void **state)
{
	(void)state;
	static const uint32_t ids[] = {0, UINT32_MAX};
	struct hf_blocktime *b = create(ids, 2);
	assert_true(hf_blocktime_fault(b, 0, UINT32_MAX, 100));
	assert_true(hf_blocktime_fault(b, UINT32_MAX, 0, 150));
	hf_blocktime_placed(b, UINT32_MAX, 200, NULL, NULL);
	assert_int_equal(vcpu_ns(b, 0, 300), 100);
	assert_int_equal(vcpu_ns(b, 1, 300), 150);
	hf_blocktime_destroy(b);
}

static void two_vcpus_of_one_thread_are_refused(void **state)
{
	(void)state;
	static const uint32_t ids[] = {5, 6, 5};
	struct hf_blocktime *b = (struct hf_blocktime *)ids;
	assert_int_equal(hf_blocktime_create(&b, ids, 3), -EINVAL);
	assert_ptr_equal(b, ids); /* untouched */
	assert_int_equal(hf_blocktime_create(&b, ids, UINT32_MAX), -EINVAL);
	hf_blocktime_destroy(NULL);
}

static void a_vcpu_that_does_not_exist_is_refused(void **state)
{
	(void)state;
	struct hf_blocktime *b = create(two_vcpus, 2);
	struct hf_blocktime_vcpu out = {.faults = 77};
	assert_int_equal(hf_blocktime_vcpu(b, 2, 0, &out), -EINVAL);
	assert_int_equal(out.faults, 77);
	hf_blocktime_destroy(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_vcpu_waits_from_its_fault_to_the_placement),
	    cmocka_unit_test(one_placement_ends_every_wait_for_its_page),
	    cmocka_unit_test(a_fault_on_another_page_ends_the_old_wait),
	    cmocka_unit_test(a_second_fault_on_the_same_page_continues_the_wait),
	    cmocka_unit_test(overlapped_time_needs_every_vcpu),
	    cmocka_unit_test(a_query_counts_open_waits_and_changes_nothing),
	    cmocka_unit_test(a_wait_starts_not_before_the_threads_previous_one_ended),
	    cmocka_unit_test(a_wait_starts_when_its_message_was_read_even_if_reported_late),
	    cmocka_unit_test(a_late_fault_on_another_page_splits_the_time_where_its_message_was_read),
	    cmocka_unit_test(a_late_fault_older_than_the_wait_it_ends_leaves_that_wait_empty),
	    cmocka_unit_test(late_faults_leave_the_overlapped_time_within_every_vcpus),
	    cmocka_unit_test(another_thread_does_not_inherit_the_end_of_a_wait),
	    cmocka_unit_test(more_other_threads_than_the_table_holds_are_counted_but_not_timed),
	    cmocka_unit_test(without_vcpus_nothing_is_overlapped),
	    cmocka_unit_test(any_page_number_and_thread_id_is_a_key),
	    cmocka_unit_test(two_vcpus_of_one_thread_are_refused),
	    cmocka_unit_test(a_vcpu_that_does_not_exist_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
