/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>
#include <string.h>

#include "core/err.h"

static void setting_returns_the_negative_errno_and_fills_the_struct(void **state)
{
	(void)state;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_err_set(&err, HF_ERR_PEER, EPROTO, "block '%s'", "ram0"), -EPROTO);
	assert_int_equal(err.class, HF_ERR_PEER);
	assert_int_equal(err.errnum, EPROTO);
	assert_string_equal(err.text, "block 'ram0'");
}

static void a_null_err_is_allowed(void **state)
{
	(void)state;
	assert_int_equal(hf_err_set(NULL, HF_ERR_LINK, EPIPE, "gone"), -EPIPE);
	assert_int_equal(hf_err_prefix(NULL, "vm"), 0);
}

static void arguments_may_be_the_old_text(void **state)
{
	(void)state;
	struct hf_err err = HF_ERR_INIT;
	hf_err_set(&err, HF_ERR_LOCAL, EIO, "first");
	hf_err_set(&err, HF_ERR_LOCAL, EIO, "second after %s", err.text);
	assert_string_equal(err.text, "second after first");
}

static void a_prefix_keeps_class_and_errno(void **state)
{
	(void)state;
	struct hf_err err = HF_ERR_INIT;
	hf_err_set(&err, HF_ERR_CANCELLED, ECANCELED, "stopped");
	assert_int_equal(hf_err_prefix(&err, "VM '%s'", "db1"), -ECANCELED);
	assert_int_equal(err.class, HF_ERR_CANCELLED);
	assert_string_equal(err.text, "VM 'db1': stopped");
}

static void a_text_that_is_too_long_is_cut_and_terminated(void **state)
{
	(void)state;
	char text[2 * HF_ERR_TEXT_BYTES];
	struct hf_err err = HF_ERR_INIT;

	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	hf_err_set(&err, HF_ERR_LOCAL, EIO, "%s", text);
	assert_int_equal(strlen(err.text), HF_ERR_TEXT_BYTES - 1);
	hf_err_prefix(&err, "%s", text);
	assert_int_equal(strlen(err.text), HF_ERR_TEXT_BYTES - 1);
}

static void every_class_has_a_name(void **state)
{
	(void)state;
	assert_string_equal(hf_err_class_name(HF_ERR_NONE), "none");
	assert_string_equal(hf_err_class_name(HF_ERR_LINK), "link");
	assert_string_equal(hf_err_class_name(HF_ERR_PEER), "peer");
	assert_string_equal(hf_err_class_name(HF_ERR_LOCAL), "local");
	assert_string_equal(hf_err_class_name(HF_ERR_CANCELLED), "cancelled");
	assert_string_equal(hf_err_class_name((enum hf_err_class)77), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(setting_returns_the_negative_errno_and_fills_the_struct),
	    cmocka_unit_test(a_null_err_is_allowed),
	    cmocka_unit_test(arguments_may_be_the_old_text),
	    cmocka_unit_test(a_prefix_keeps_class_and_errno),
	    cmocka_unit_test(a_text_that_is_too_long_is_cut_and_terminated),
	    cmocka_unit_test(every_class_has_a_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
