/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about reports: all members are there, files appear whole or not at all, times read well. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "deploy/report.h"

struct folder {
	char path[64];
	char file[96];
};

static int make_folder(void **state)
{
	struct folder *folder = calloc(1, sizeof(*folder));
	strcpy(folder->path, "/tmp/hugeferry-test-XXXXXX");
	if (!mkdtemp(folder->path)) {
		free(folder);
		return -1;
	}
	snprintf(folder->file, sizeof(folder->file), "%s/report.json", folder->path);
	*state = folder;
	return 0;
}

static int remove_folder(void **state)
{
	struct folder *folder = *state;
	unlink(folder->file);
	int result = rmdir(folder->path); // fails when a temporary file was left
	free(folder);
	return result;
}

static struct hf_ramblocks one_block(void)
{
	struct hf_ramblocks blocks;
	hf_ramblocks_init(&blocks);
	assert_int_equal(hf_ramblocks_add(&blocks, "ram0", 4ull << 20, 2ull << 20, NULL), 0);
	return blocks;
}

static void a_destination_report_has_every_promised_member(void **state)
{
	(void)state;
	static const char *const members[] = {
	    "status",	       "verified",    "transport",	"placement",	    "placement_reason",
	    "page_size_bytes", "pages_total", "pages_fetched",	"pages_zero",	    "transferred_bytes",
	    "faults",	       "downtime_ns", "total_time_ns",	"postcopy_time_ns", "blocktime",
	    "fault_latency",   "error",	      "pages_poisoned", "poisoned"};
	struct hf_ramblocks blocks = one_block();
	struct hf_report_context context = {
	    .transport = "tcp", .placement_reason = "because", .blocks = &blocks};
	struct hf_destination_snapshot snapshot = {.status = HF_STATUS_COMPLETED, .pages_total = 2};
	hf_latency_add(&snapshot.fault_latency, 3000);
	json_t *report = hf_report_destination(NULL, &snapshot, &context);
	for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++)
		assert_non_null(json_object_get(report, members[i]));
	assert_true(json_is_null(json_object_get(report, "verified")));
	assert_true(json_is_null(json_object_get(report, "error")));
	assert_string_equal(json_string_value(json_object_get(report, "status")), "completed");
	json_decref(report);
	hf_ramblocks_destroy(&blocks);
}

static void a_report_of_poisoned_pages_is_no_success_in_silence(void **state)
{
	(void)state;
	struct hf_ramblocks blocks = one_block();
	struct hf_report_context context = {.transport = "tcp", .blocks = &blocks};
	/* While it goes on which pages they are is not looked up. */
	struct hf_destination_snapshot snapshot = {
	    .status = HF_STATUS_POSTCOPY_PAUSED, .pages_total = 2, .pages_poisoned = 1};
	hf_err_set(&snapshot.err, HF_ERR_LOCAL, EHWPOISON, "1 page is lost");
	json_t *report = hf_report_destination(NULL, &snapshot, &context);
	assert_int_equal(json_integer_value(json_object_get(report, "pages_poisoned")), 1);
	assert_int_equal(json_array_size(json_object_get(report, "poisoned")), 0);
	assert_string_equal(json_string_value(json_object_get(json_object_get(report, "error"), "text")),
			    "1 page is lost");
	json_decref(report);
	hf_ramblocks_destroy(&blocks);
}

static void bucket_counts_of_a_report_add_up(void **state)
{
	(void)state;
	struct hf_ramblocks blocks = one_block();
	struct hf_report_context context = {.transport = "tcp", .blocks = &blocks};
	struct hf_destination_snapshot snapshot = {.status = HF_STATUS_COMPLETED};
	for (uint64_t i = 0; i < 1000; i++)
		hf_latency_add(&snapshot.fault_latency, i * i * 100);
	json_t *report = hf_report_destination(NULL, &snapshot, &context);
	const json_t *latency = json_object_get(report, "fault_latency");
	const json_t *bucket;
	size_t index;
	json_int_t sum = 0;
	json_array_foreach(json_object_get(latency, "buckets"), index, bucket) sum +=
	    json_integer_value(json_object_get(bucket, "count"));
	assert_int_equal(sum, 1000);
	assert_int_equal(json_array_size(json_object_get(latency, "buckets")), HF_LATENCY_BUCKETS);
	assert_true(json_is_null(json_object_get(
	    json_array_get(json_object_get(latency, "buckets"), HF_LATENCY_BUCKETS - 1), "below_us")));
	json_decref(report);
	hf_ramblocks_destroy(&blocks);
}

static void a_failed_report_says_class_and_text(void **state)
{
	(void)state;
	struct hf_err err = HF_ERR_INIT;
	hf_err_set(&err, HF_ERR_PEER, 71, "block 'ram0' differs");
	json_t *report = hf_report_failure(&err);
	const json_t *error = json_object_get(report, "error");
	assert_string_equal(json_string_value(json_object_get(report, "status")), "failed");
	assert_string_equal(json_string_value(json_object_get(error, "class")), "peer");
	assert_string_equal(json_string_value(json_object_get(error, "text")), "block 'ram0' differs");
	json_decref(report);
}

static void writing_replaces_the_file_and_leaves_no_other(void **state)
{
	struct folder *folder = *state;
	for (int i = 1; i <= 2; i++) {
		json_t *report = json_pack("{s:i}", "round", i);
		assert_int_equal(hf_report_write(report, folder->file, NULL), 0);
		json_decref(report);
		json_t *read = json_load_file(folder->file, 0, NULL);
		assert_int_equal(json_integer_value(json_object_get(read, "round")), i);
		json_decref(read);
	}
}

static void a_missing_folder_is_found_before_the_work(void **state)
{
	struct folder *folder = *state;
	char path[160];
	struct hf_err err = HF_ERR_INIT;
	snprintf(path, sizeof(path), "%s/not-there/report.json", folder->path);
	assert_true(hf_report_check_path(path, &err) < 0);
	assert_non_null(strstr(err.text, path));
	assert_int_equal(hf_report_check_path(folder->file, &err), 0);
	assert_int_equal(hf_report_check_path(NULL, &err), 0);
}

static void a_device_or_a_link_is_never_replaced(void **state)
{
	struct folder *folder = *state;
	struct hf_err err = HF_ERR_INIT;
	assert_true(hf_report_check_path("/dev/null", &err) < 0);
	assert_int_equal(symlink("/dev/null", folder->file), 0);
	assert_true(hf_report_check_path(folder->file, &err) < 0);
	assert_non_null(strstr(err.text, "no plain file"));
}

static void times_take_the_unit_that_fits(void **state)
{
	(void)state;
	static const struct {
		uint64_t time_ns;
		const char *text;
	} cases[] = {{0, "0 ns"},	    {999, "999 ns"},	   {1500, "1.50 us"},
		     {45600, "45.6 us"},    {123456, "123 us"},	   {1234567, "1.23 ms"},
		     {12345678, "12.3 ms"}, {123456789, "123 ms"}, {1234567890, "1.23 s"}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char text[HF_TIME_TEXT_BYTES];
		assert_string_equal(hf_time_text(cases[i].time_ns, text), cases[i].text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_destination_report_has_every_promised_member),
	    cmocka_unit_test(a_report_of_poisoned_pages_is_no_success_in_silence),
	    cmocka_unit_test(bucket_counts_of_a_report_add_up),
	    cmocka_unit_test(a_failed_report_says_class_and_text),
	    cmocka_unit_test_setup_teardown(writing_replaces_the_file_and_leaves_no_other, make_folder,
					    remove_folder),
	    cmocka_unit_test_setup_teardown(a_missing_folder_is_found_before_the_work, make_folder,
					    remove_folder),
	    cmocka_unit_test_setup_teardown(a_device_or_a_link_is_never_replaced, make_folder, remove_folder),
	    cmocka_unit_test(times_take_the_unit_that_fits),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
