/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of hugeferry-vmm: what is right is taken, what is wrong is refused in a line that names
 * the option.
 */
#include <errno.h>
#include <getopt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kvm/vmm/options.h"

#define WORDS_MAX 40

static int parse(struct vmm_options *options, struct hf_err *err, const char *const *words)
{
	char *argv[WORDS_MAX + 1] = {(char *)"hugeferry-vmm"};
	int argc = 1;
	for (; words[argc - 1]; argc++)
		argv[argc] = (char *)words[argc - 1];
	optind = 0; /* GNU: start again */
	return vmm_options_parse(options, argc, argv, err);
}

#define REQUIRED "--mem", "64M", "--page-size", "2M", "--ram-file", "/huge/ram", "--qmp", "unix:/run/qmp"

static void defaults_are_filled_in(void **state)
{
	const char *const words[] = {REQUIRED, NULL};
	struct vmm_options options;

	(void)state;
	assert_int_equal(parse(&options, NULL, words), 0);
	assert_int_equal(options.guest.memory_bytes, 64u << 20);
	assert_int_equal(options.guest.page_size_bytes, 2u << 20);
	assert_int_equal(options.guest.vcpus, 1);
	assert_int_equal(options.guest.pattern, HF_GUEST_RANDOM);
	assert_int_equal(options.guest.write_percent, 50);
	assert_int_equal(options.guest.fill_percent, 100);
	assert_int_equal(options.guest.seed, 1);
	assert_string_equal(options.name, "vm");
	assert_string_equal(options.id, "ram0");
	assert_string_equal(options.ram_file, "/huge/ram");
	assert_string_equal(options.qmp_path, "/run/qmp");
	assert_null(options.attach_path);
	assert_false(options.incoming);
	assert_false(options.die_with_parent);
}

static void every_option_is_taken(void **state)
{
	const char *const words[] = {"--mem=4G",
				     "--page-size",
				     "1G",
				     "--ram-file",
				     "/r",
				     "--qmp",
				     "unix:/q",
				     "--vcpus",
				     "64",
				     "--id",
				     "mem1",
				     "--name",
				     "blue",
				     "--attach",
				     "/a",
				     "--incoming",
				     "defer",
				     "--pattern",
				     "hot",
				     "--write-share",
				     "0",
				     "--fill",
				     "7",
				     "--seed",
				     "18446744073709551615",
				     "--pace",
				     "100",
				     "--die-with-parent",
				     NULL};
	struct vmm_options options;

	(void)state;
	assert_int_equal(parse(&options, NULL, words), 0);
	assert_int_equal(options.guest.memory_bytes, 4ull << 30);
	assert_int_equal(options.guest.page_size_bytes, 1u << 30);
	assert_int_equal(options.guest.vcpus, 64);
	assert_int_equal(options.guest.pattern, HF_GUEST_HOT);
	assert_int_equal(options.guest.write_percent, 0);
	assert_int_equal(options.guest.fill_percent, 7);
	assert_int_equal(options.guest.seed, UINT64_MAX);
	assert_int_equal(options.guest.pace_steps_per_s, 100);
	assert_string_equal(options.id, "mem1");
	assert_string_equal(options.name, "blue");
	assert_string_equal(options.attach_path, "/a");
	assert_true(options.incoming);
	assert_true(options.die_with_parent);
}

static void every_bad_value_is_refused_by_name(void **state)
{
	static const struct {
		const char *option, *value;
	} bad[] = {
	    {"--mem", "0"},
	    {"--mem", "12X"},
	    {"--mem", "12MM"},
	    {"--mem", "-4M"},
	    {"--mem", ""},
	    {"--mem", "99999999999999999999"},
	    {"--mem", "18446744073709551615K"},
	    {"--mem", "65M"},
	    {"--mem", "257G"},
	    {"--page-size", "4K"},
	    {"--page-size", "2"},
	    {"--page-size", "huge"},
	    {"--ram-file", "relative"},
	    {"--ram-file", ""},
	    {"--qmp", "/run/qmp"},
	    {"--qmp", "unix:relative"},
	    {"--qmp", "unix:"},
	    {"--qmp", "tcp:1:2"},
	    {"--attach", "relative"},
	    {"--vcpus", "0"},
	    {"--vcpus", "65"},
	    {"--vcpus", "two"},
	    {"--vcpus", "1x"},
	    {"--id", ""},
	    {"--id", "a/b"},
	    {"--id", "a b"},
	    {"--name", "\n"},
	    {"--pattern", "spiral"},
	    {"--write-share", "101"},
	    {"--write-share", "-1"},
	    {"--fill", "200"},
	    {"--fill", "half"},
	    {"--seed", "x"},
	    {"--seed", "18446744073709551616"},
	    {"--pace", "0"},
	    {"--pace", "10001"},
	    {"--incoming", "tcp:0:1"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		const char *const words[] = {REQUIRED, bad[i].option, bad[i].value, NULL};
		struct vmm_options options = {.name = "untouched"};
		struct hf_err err = HF_ERR_INIT;
		if (parse(&options, &err, words) != -EINVAL || !strstr(err.text, bad[i].option))
			fail_msg("%s '%s': '%s'", bad[i].option, bad[i].value, err.text);
		assert_string_equal(options.name, "untouched");
	}
}

static void a_socket_path_too_long_for_a_socket_is_refused(void **state)
{
	char path[200] = "unix:/";
	const char *const words[] = {"--qmp", path, NULL};
	struct vmm_options options;
	struct hf_err err = HF_ERR_INIT;

	(void)state;
	memset(path + 6, 'x', sizeof(path) - 7);
	assert_int_equal(parse(&options, &err, words), -EINVAL);
	assert_non_null(strstr(err.text, "107 bytes"));
}

static void what_is_required_must_be_there(void **state)
{
	static const char *const all[] = {REQUIRED};

	(void)state;
	for (size_t left_out = 0; left_out < 8; left_out += 2) {
		const char *words[8] = {NULL};
		struct vmm_options options;
		struct hf_err err = HF_ERR_INIT;
		size_t count = 0;
		for (size_t i = 0; i < 8; i++)
			if (i / 2 != left_out / 2)
				words[count++] = all[i];
		assert_int_equal(parse(&options, &err, words), -EINVAL);
		assert_non_null(strstr(err.text, all[left_out]));
		assert_non_null(strstr(err.text, "required"));
	}
}

static void what_is_no_option_is_refused(void **state)
{
	static const char *const words[][10] = {{REQUIRED, "--colour", NULL},
						{REQUIRED, "stray", NULL},
						{REQUIRED, "--vcpus", NULL},
						{REQUIRED, "-x", NULL}};
	static const char *const said[] = {"--colour", "stray", "--vcpus", "-x"};

	(void)state;
	for (size_t i = 0; i < 4; i++) {
		struct vmm_options options;
		struct hf_err err = HF_ERR_INIT;
		assert_int_equal(parse(&options, &err, words[i]), -EINVAL);
		if (!strstr(err.text, said[i]))
			fail_msg("'%s' does not name %s", err.text, said[i]);
	}
}

static void help_names_every_option(void **state)
{
	static const char *const names[] = {
	    "--mem",  "--page-size", "--ram-file",	  "--qmp",     "--vcpus",	"--id",
	    "--name", "--attach",    "--incoming",	  "--pattern", "--write-share", "--fill",
	    "--seed", "--pace",	     "--die-with-parent", "--help"};
	const char *const words[] = {"--help", NULL};
	struct vmm_options options;

	(void)state;
	assert_int_equal(parse(&options, NULL, words), 0);
	assert_true(options.help);
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		assert_non_null(strstr(vmm_options_help, names[i]));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(defaults_are_filled_in),
	    cmocka_unit_test(every_option_is_taken),
	    cmocka_unit_test(every_bad_value_is_refused_by_name),
	    cmocka_unit_test(a_socket_path_too_long_for_a_socket_is_refused),
	    cmocka_unit_test(what_is_required_must_be_there),
	    cmocka_unit_test(what_is_no_option_is_refused),
	    cmocka_unit_test(help_names_every_option),
	};
	return cmocka_run_group_tests_name("kvm/vmm options", tests, NULL, NULL);
}
