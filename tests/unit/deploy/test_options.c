/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about the command line: what is strict, what is required, what an error names. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "deploy/options.h"

#define PARSE(command, options, err, ...)                                                                    \
	parse(command, options, err, (char *[]){"command", __VA_ARGS__, NULL})

static int parse(enum hf_command command, struct hf_options *options, struct hf_err *err, char **argv)
{
	int argc = 0;
	while (argv[argc])
		argc++;
	return hf_options_parse(command, argc, argv, options, err);
}

static void sizes_are_digits_and_one_unit(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0},
		    {"4096", 4096},
		    {"64K", 64ull << 10},
		    {"2M", 2ull << 20},
		    {"1G", 1ull << 30},
		    {"3T", 3ull << 40},
		    {"18446744073709551615", UINT64_MAX},
		    {"16777215T", 16777215ull << 40}};
	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		uint64_t bytes = 1;
		assert_int_equal(hf_parse_size(good[i].text, &bytes), 0);
		assert_true(bytes == good[i].bytes);
	}
}

static void anything_else_is_no_size_and_changes_nothing(void **state)
{
	(void)state;
	static const char *const bad[] = {"",
					  "G",
					  "-1",
					  "+1",
					  " 1",
					  "1 ",
					  "1.5G",
					  "2GiB",
					  "2g",
					  "0x10",
					  "1MK",
					  "1e3",
					  "K1",
					  "1\n",
					  "16777216T",
					  "18446744073709551616",
					  "99999999999999999999999"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t bytes = 77;
		assert_true(hf_parse_size(bad[i], &bytes) < 0);
		assert_int_equal(bytes, 77);
	}
}

static void a_limit_for_a_page_belongs_to_a_link(void **state)
{
	(void)state;
	struct hf_options options;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(PARSE(HF_COMMAND_CHECK, &options, &err, "--max-page-stall", "20"), -EINVAL);
	assert_non_null(strstr(err.text, "--to"));
	assert_int_equal(PARSE(HF_COMMAND_CHECK, &options, &err, "--max-page-stall", "20", "--to", "tcp:a:1"),
			 0);
	assert_int_equal(options.max_page_stall_ms, 20);
}

static void a_control_socket_is_a_unix_socket(void **state)
{
	(void)state;
	char *bad[] = {"tcp:localhost:1", "/tmp/q", "unix:"};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct hf_options options;
		struct hf_err err = HF_ERR_INIT;
		assert_int_equal(PARSE(HF_COMMAND_SEND, &options, &err, "--vm", "qmp:/a", "--to", "tcp:a:1",
				       "--qmp", bad[i]),
				 -EINVAL);
		assert_non_null(strstr(err.text, "unix:PATH"));
	}
}

static void what_is_required_is_asked_for_by_name(void **state)
{
	(void)state;
	struct hf_options options = {.vcpus = 99};
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(PARSE(HF_COMMAND_SEND, &options, &err, "--vm", "qmp:/a"), -EINVAL);
	assert_non_null(strstr(err.text, "--to"));
	assert_int_equal(PARSE(HF_COMMAND_RECEIVE, &options, &err, "--vm", "qmp:/a", "--listen", "tcp:a:1"),
			 -EINVAL);
	assert_non_null(strstr(err.text, "--attach"));
	assert_int_equal(options.vcpus, 99);
}

static void a_command_knows_only_its_own_options(void **state)
{
	(void)state;
	struct hf_options options;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(PARSE(HF_COMMAND_CHECK, &options, &err, "--vcpus", "2"), -EINVAL);
	assert_non_null(strstr(err.text, "--vcpus"));
	assert_int_equal(PARSE(HF_COMMAND_DEMO, &options, &err, "--vcpus", "2"), 0);
	assert_int_equal(options.vcpus, 2);
}

static void values_out_of_range_are_refused_with_the_range(void **state)
{
	(void)state;
	struct hf_options options;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(PARSE(HF_COMMAND_DEMO, &options, &err, "--vcpus", "65"), -EINVAL);
	assert_non_null(strstr(err.text, "1 to 64"));
	assert_int_equal(PARSE(HF_COMMAND_DEMO, &options, &err, "--channels", "0"), -EINVAL);
	assert_int_equal(PARSE(HF_COMMAND_DEMO, &options, &err, "--write-share", "101"), -EINVAL);
	assert_int_equal(PARSE(HF_COMMAND_DEMO, &options, &err, "--placement", "best"), -EINVAL);
	assert_non_null(strstr(err.text, "auto|copy|continue"));
	assert_int_equal(PARSE(HF_COMMAND_DEMO, &options, &err, "--chunk-size", "96K"), -EINVAL);
	assert_non_null(strstr(err.text, "power of two"));
	assert_int_equal(PARSE(HF_COMMAND_DEMO, &options, &err, "--chunk-size", "1K"), -EINVAL);
}

static void leftover_words_and_missing_values_are_errors(void **state)
{
	(void)state;
	struct hf_options options;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(PARSE(HF_COMMAND_DEMO, &options, &err, "fast"), -EINVAL);
	assert_non_null(strstr(err.text, "fast"));
	assert_int_equal(PARSE(HF_COMMAND_DEMO, &options, &err, "--mem"), -EINVAL);
	assert_non_null(strstr(err.text, "--mem"));
	assert_int_equal(PARSE(HF_COMMAND_DEMO, &options, &err, "--json", ""), -EINVAL);
}

static void all_of_receive_reaches_its_fields(void **state)
{
	(void)state;
	struct hf_options options;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(PARSE(HF_COMMAND_RECEIVE, &options, &err, "--vm", "qmp:/v", "--attach", "/a",
			       "--listen", "unix:/l", "--placement", "copy", "--channels", "7",
			       "--chunk-size", "128K", "--json", "/j", "--no-background", "--qmp", "unix:/q",
			       "--poison-missing"),
			 0);
	assert_true(options.poison_missing);
	assert_string_equal(options.vm, "qmp:/v");
	assert_string_equal(options.attach, "/a");
	assert_string_equal(options.listen, "unix:/l");
	assert_string_equal(options.json, "/j");
	assert_string_equal(options.qmp, "unix:/q");
	assert_int_equal(options.placement, 1);
	assert_int_equal(options.channels, 7);
	assert_int_equal(options.chunk_bytes, 128 << 10);
	assert_true(options.no_background);
}

#define SEND_ALL "--vm", "qmp:/v", "--to", "unix:/t"

static void precopy_is_asked_for_whole(void **state)
{
	(void)state;
	struct hf_options options;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(PARSE(HF_COMMAND_SEND, &options, &err, SEND_ALL, "--precopy"), -EINVAL);
	assert_non_null(strstr(err.text, "--attach PATH"));
	assert_int_equal(PARSE(HF_COMMAND_SEND, &options, &err, SEND_ALL, "--attach", "/a", "--precopy",
			       "--placement", "copy"),
			 -EINVAL);
	assert_non_null(strstr(err.text, "by copy"));
	assert_int_equal(
	    PARSE(HF_COMMAND_SEND, &options, &err, SEND_ALL, "--attach", "/a", "--precopy", "--release-ram"),
	    0);
	assert_int_equal(PARSE(HF_COMMAND_SEND, &options, &err, SEND_ALL, "--attach", "/a", "--precopy-only",
			       "--postcopy-after", "3"),
			 -EINVAL);
	assert_non_null(strstr(err.text, "exclude each other"));
	assert_int_equal(PARSE(HF_COMMAND_SEND, &options, &err, SEND_ALL, "--downtime-limit", "20"), -EINVAL);
	assert_non_null(strstr(err.text, "--precopy"));
	assert_int_equal(PARSE(HF_COMMAND_RECEIVE, &options, &err, "--precopy"), -EINVAL);
}

static void all_of_precopy_reaches_its_fields(void **state)
{
	(void)state;
	struct hf_options options;
	assert_int_equal(PARSE(HF_COMMAND_SEND, &options, NULL, SEND_ALL), 0);
	assert_false(options.precopy);
	assert_int_equal(PARSE(HF_COMMAND_SEND, &options, NULL, SEND_ALL, "--attach", "/a", "--precopy",
			       "--downtime-limit", "20", "--max-bandwidth", "3M", "--postcopy-after", "4",
			       "--placement", "continue"),
			 0);
	assert_true(options.precopy && !options.precopy_only);
	assert_int_equal(options.downtime_limit_ms, 20);
	assert_int_equal(options.max_bandwidth_bytes, 3 << 20);
	assert_int_equal(options.postcopy_after_s, 4);
	assert_int_equal(PARSE(HF_COMMAND_SEND, &options, NULL, SEND_ALL, "--attach", "/a", "--precopy-only"),
			 0);
	assert_true(options.precopy && options.precopy_only);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(sizes_are_digits_and_one_unit),
	    cmocka_unit_test(anything_else_is_no_size_and_changes_nothing),
	    cmocka_unit_test(a_limit_for_a_page_belongs_to_a_link),
	    cmocka_unit_test(a_control_socket_is_a_unix_socket),
	    cmocka_unit_test(what_is_required_is_asked_for_by_name),
	    cmocka_unit_test(a_command_knows_only_its_own_options),
	    cmocka_unit_test(values_out_of_range_are_refused_with_the_range),
	    cmocka_unit_test(leftover_words_and_missing_values_are_errors),
	    cmocka_unit_test(all_of_receive_reaches_its_fields),
	    cmocka_unit_test(precopy_is_asked_for_whole),
	    cmocka_unit_test(all_of_precopy_reaches_its_fields),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
