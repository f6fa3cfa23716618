/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about query-migrate: QEMU's names, types and units, made from snapshots that are written here. */
#include <errno.h>

#include "deploy/query_migrate.h"
#include "tests/unit/core/cmocka_setup.h"

#define M (1ull << 20)

static struct hf_ramblocks two_blocks(void)
{
	struct hf_ramblocks blocks;
	hf_ramblocks_init(&blocks);
	assert_int_equal(hf_ramblocks_add(&blocks, "ram0", 16 * M, 2 * M, NULL), 0);
	assert_int_equal(hf_ramblocks_add(&blocks, "ram1", 4 * M, 2 * M, NULL), 0);
	return blocks;
}

static json_int_t number(const json_t *object, const char *name)
{
	const json_t *value = json_object_get(object, name);
	assert_true(json_is_integer(value));
	return json_integer_value(value);
}

static const char *text(const json_t *object, const char *name)
{
	const char *value = json_string_value(json_object_get(object, name));
	assert_non_null(value);
	return value;
}

static json_t *source(const struct hf_source_snapshot *snapshot)
{
	struct hf_ramblocks blocks = two_blocks();
	json_t *info = hf_query_migrate_source(snapshot, &blocks, NULL);
	hf_ramblocks_destroy(&blocks);
	return info;
}

static json_t *destination(const struct hf_destination_snapshot *snapshot,
			   const struct hf_blocktime_vcpu *vcpus, uint32_t count)
{
	struct hf_ramblocks blocks = two_blocks();
	json_t *info = hf_query_migrate_destination(snapshot, vcpus, count, &blocks, NULL);
	hf_ramblocks_destroy(&blocks);
	return info;
}

static void without_a_link_both_are_empty(void **state)
{
	(void)state;
	struct hf_source_snapshot out = {0};
	struct hf_destination_snapshot in = {0};
	json_t *infos[] = {source(&out), destination(&in, NULL, 0)};
	for (int i = 0; i < 2; i++) {
		assert_true(json_is_object(infos[i]));
		assert_int_equal(json_object_size(infos[i]), 0);
		json_decref(infos[i]);
	}
}

static void rounds_have_the_names_of_qemu(void **state)
{
	(void)state;
	struct hf_source_snapshot snapshot = {
	    .status = HF_STATUS_ACTIVE,
	    .pages_total = 10,
	    .precopy = {.wanted = true, .expected_downtime_ns = UINT64_MAX},
	};
	json_t *info = source(&snapshot);
	const json_t *ram = json_object_get(info, "ram");
	assert_int_equal(number(ram, "dirty-sync-count"), 0);
	assert_int_equal(number(ram, "remaining"), 20 * M);
	assert_null(json_object_get(ram, "dirty-pages-rate"));
	assert_null(json_object_get(info, "expected-downtime"));
	json_decref(info);

	snapshot.precopy = (struct hf_source_precopy_figures){
	    .wanted = true,
	    .rounds = 3,
	    .moved_bytes = 30 * M,
	    .remaining_bytes = 6 * M,
	    .dirty_pages_per_s = 77,
	    .expected_downtime_ns = 41600000,
	};
	info = source(&snapshot);
	ram = json_object_get(info, "ram");
	assert_int_equal(number(ram, "dirty-sync-count"), 3);
	assert_int_equal(number(ram, "dirty-pages-rate"), 77);
	assert_int_equal(number(ram, "precopy-bytes"), 30 * M);
	assert_int_equal(number(ram, "remaining"), 6 * M);
	assert_int_equal(number(info, "expected-downtime"), 42);
	json_decref(info);

	/* After the rounds what is sent is of what they have left. */
	snapshot.status = HF_STATUS_POSTCOPY_ACTIVE;
	snapshot.owner = HF_VM_OWNER_DESTINATION;
	snapshot.precopy.ended_because = "it had to";
	snapshot.sent_bytes = 32 * M;
	info = source(&snapshot);
	assert_int_equal(number(json_object_get(info, "ram"), "remaining"), 4 * M);
	json_decref(info);

	snapshot.precopy.wanted = false;
	info = source(&snapshot);
	assert_null(json_object_get(json_object_get(info, "ram"), "dirty-sync-count"));
	json_decref(info);
}

static void a_source_counts_down_what_is_present(void **state)
{
	(void)state;
	struct hf_source_snapshot snapshot = {
	    .status = HF_STATUS_ACTIVE, .chunk_bytes = 65536, .pages_total = 10, .total_time_ns = 1499999};
	json_t *info = source(&snapshot);
	const json_t *ram = json_object_get(info, "ram");
	assert_string_equal(text(info, "status"), "active");
	assert_int_equal(number(info, "total-time"), 1);
	assert_int_equal(number(ram, "remaining"), 20 * M); // what is present is not known yet
	assert_int_equal(number(ram, "total"), 20 * M);
	assert_int_equal(number(ram, "page-size"), 2 * M);
	assert_null(json_object_get(info, "downtime"));
	assert_null(json_object_get(info, "error-desc"));
	assert_null(json_object_get(info, "postcopy-blocktime"));
	json_decref(info);

	snapshot.status = HF_STATUS_POSTCOPY_ACTIVE;
	snapshot.owner = HF_VM_OWNER_DESTINATION;
	snapshot.pages_present = 6;
	snapshot.sent_bytes = 3 * M;
	snapshot.zero_chunks = 16; // 1 MiB
	snapshot.downtime_ns = 7 * 1000000;
	info = source(&snapshot);
	ram = json_object_get(info, "ram");
	assert_string_equal(text(info, "status"), "postcopy-active");
	assert_int_equal(number(ram, "transferred"), 3 * M);
	assert_int_equal(number(ram, "remaining"), 8 * M);
	assert_null(json_object_get(info, "downtime")); // as in QEMU: when it has completed
	json_decref(info);

	snapshot.status = HF_STATUS_COMPLETED;
	info = source(&snapshot);
	assert_int_equal(number(json_object_get(info, "ram"), "remaining"), 0);
	assert_int_equal(number(info, "downtime"), 7);
	json_decref(info);
}

static void what_was_sent_twice_does_not_make_less_than_nothing(void **state)
{
	(void)state;
	struct hf_source_snapshot snapshot = {.status = HF_STATUS_POSTCOPY_ACTIVE,
					      .owner = HF_VM_OWNER_DESTINATION,
					      .pages_present = 2,
					      .sent_bytes = 9 * M};
	json_t *info = source(&snapshot);
	assert_int_equal(number(json_object_get(info, "ram"), "remaining"), 0);
	json_decref(info);
}

static void what_a_one_sided_link_moved_is_not_made_up(void **state)
{
	(void)state;
	struct hf_source_snapshot snapshot = {.status = HF_STATUS_POSTCOPY_ACTIVE,
					      .owner = HF_VM_OWNER_DESTINATION,
					      .pages_present = 2,
					      .unseen = true};
	json_t *info = source(&snapshot);
	const json_t *ram = json_object_get(info, "ram");
	assert_null(json_object_get(ram, "transferred"));
	assert_null(json_object_get(ram, "normal-bytes"));
	assert_int_equal(number(ram, "remaining"), 4 * M);
	json_decref(info);
}

static void an_end_that_is_none_says_why(void **state)
{
	(void)state;
	static const enum hf_status bad[] = {HF_STATUS_FAILED, HF_STATUS_CANCELLED,
					     HF_STATUS_POSTCOPY_PAUSED};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct hf_source_snapshot out = {.status = bad[i]};
		struct hf_destination_snapshot in = {.status = bad[i]};
		hf_err_set(&out.err, HF_ERR_LINK, ENOENT, "no more link");
		in.err = out.err;
		json_t *infos[] = {source(&out), destination(&in, NULL, 0)};
		for (int side = 0; side < 2; side++) {
			assert_string_equal(text(infos[side], "error-desc"), "no more link");
			assert_string_equal(text(infos[side], "status"), hf_status_name(bad[i]));
			json_decref(infos[side]);
		}
	}
}

static void a_page_that_has_trouble_is_no_error_of_the_migration(void **state)
{
	(void)state;
	struct hf_destination_snapshot snapshot = {.status = HF_STATUS_POSTCOPY_ACTIVE};
	hf_err_set(&snapshot.err, HF_ERR_LOCAL, ENOMEM, "no huge page");
	json_t *info = destination(&snapshot, NULL, 0);
	assert_null(json_object_get(info, "error-desc"));
	json_decref(info);
}

static void a_destination_counts_pages_and_blocktime_in_qemus_units(void **state)
{
	(void)state;
	static const struct hf_blocktime_vcpu vcpus[] = {
	    {.vcpu = 0, .blocktime_ns = 3600000, .faults = 3},
	    {.vcpu = 1, .blocktime_ns = 0, .faults = 0},
	    {.vcpu = 2, .blocktime_ns = UINT64_MAX / 2, .faults = 1},
	};
	struct hf_destination_snapshot snapshot = {
	    .status = HF_STATUS_POSTCOPY_ACTIVE,
	    .pages_total = 10,
	    .pages_received = 7,
	    .pages_fetched = 5,
	    .pages_zero = 2,
	    .transferred_bytes = 9 * M,
	    .setup_time_ns = 12 * 1000000,
	    .blocktime = {.overlapped_ns = 1600000,
			  .faults_other = 4,
			  .other_blocktime_ns = 4000,
			  .vcpus = 3},
	};
	hf_latency_add(&snapshot.fault_latency, 1000000);
	hf_latency_add(&snapshot.fault_latency, 2000000);
	json_t *info = destination(&snapshot, vcpus, 3);
	const json_t *ram = json_object_get(info, "ram");
	assert_int_equal(number(ram, "transferred"), 9 * M);
	assert_int_equal(number(ram, "remaining"), 6 * M);
	assert_int_equal(number(ram, "normal"), 5);
	assert_int_equal(number(ram, "duplicate"), 2);
	assert_int_equal(number(info, "setup-time"), 12);
	assert_int_equal(number(info, "postcopy-blocktime"), 2); // ms
	const json_t *times = json_object_get(info, "postcopy-vcpu-blocktime");
	assert_int_equal(json_array_size(times), 3);
	assert_int_equal(json_integer_value(json_array_get(times, 0)), 4);
	assert_int_equal(json_integer_value(json_array_get(times, 1)), 0);
	assert_int_equal(json_integer_value(json_array_get(times, 2)), UINT32_MAX); // QEMU's type
	assert_int_equal(number(info, "postcopy-latency"), 1500000);		    // ns
	const json_t *latencies = json_object_get(info, "postcopy-vcpu-latency");
	assert_int_equal(json_integer_value(json_array_get(latencies, 0)), 1200000);
	assert_int_equal(json_integer_value(json_array_get(latencies, 1)), 0);
	assert_int_equal(number(info, "postcopy-non-vcpu-latency"), 1000);
	json_decref(info);
}

static json_int_t dist_at(uint64_t latency_ns, size_t element)
{
	struct hf_destination_snapshot snapshot = {.status = HF_STATUS_POSTCOPY_ACTIVE};
	hf_latency_add(&snapshot.fault_latency, latency_ns);
	json_t *info = destination(&snapshot, NULL, 0);
	const json_t *dist = json_object_get(info, "postcopy-latency-dist");
	assert_int_equal(json_array_size(dist), HF_QUERY_LATENCY_BUCKETS);
	json_int_t count = json_integer_value(json_array_get(dist, element));
	json_decref(info);
	return count;
}

static void latencies_fall_into_qemus_buckets(void **state)
{
	(void)state;
	assert_int_equal(dist_at(300, 0), 1); // QEMU has none for less than a microsecond
	assert_int_equal(dist_at(1000, 0), 1);
	assert_int_equal(dist_at(1999, 0), 1);
	assert_int_equal(dist_at(2000, 1), 1);
	assert_int_equal(dist_at(256000, 8), 1);
	assert_int_equal(dist_at(511999, 8), 1);
	assert_int_equal(dist_at(512000, 9), 1);
	assert_int_equal(dist_at(10ull * 1000000000, 23), 1);
	assert_int_equal(dist_at(1000ull * 1000000000, 23), 1); // and no last one
}

static void our_own_figures_are_the_reports(void **state)
{
	(void)state;
	struct hf_ramblocks blocks = two_blocks();
	struct hf_report_context context = {.transport = "tcp", .blocks = &blocks};
	struct hf_source_snapshot snapshot = {.status = HF_STATUS_DEVICE, .pages_total = 10};
	json_t *report = hf_report_source(&snapshot, &context);
	json_t *info = hf_query_migrate_source(&snapshot, &blocks, json_incref(report));
	assert_true(json_equal(json_object_get(info, "hugeferry"), report));
	json_decref(info);
	json_decref(report);
	hf_ramblocks_destroy(&blocks);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(without_a_link_both_are_empty),
	    cmocka_unit_test(a_source_counts_down_what_is_present),
	    cmocka_unit_test(rounds_have_the_names_of_qemu),
	    cmocka_unit_test(what_was_sent_twice_does_not_make_less_than_nothing),
	    cmocka_unit_test(what_a_one_sided_link_moved_is_not_made_up),
	    cmocka_unit_test(an_end_that_is_none_says_why),
	    cmocka_unit_test(a_page_that_has_trouble_is_no_error_of_the_migration),
	    cmocka_unit_test(a_destination_counts_pages_and_blocktime_in_qemus_units),
	    cmocka_unit_test(latencies_fall_into_qemus_buckets),
	    cmocka_unit_test(our_own_figures_are_the_reports),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
