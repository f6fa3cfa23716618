/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The pairs that are allowed are written here a second time, as text, and every pair of states is walked:
 * what the text has must be allowed and what it lacks refused.
 */
#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "core/state.h"
#include "core/vm.h"

static const char status_text[] =
    "none: setup failed cancelled\n"
    "setup: active failed cancelled\n"
    "active: device failed cancelled\n"
    "device: postcopy-active postcopy-paused failed cancelled\n"
    "postcopy-active: postcopy-paused completed failed\n"
    "postcopy-paused: postcopy-recover-setup postcopy-recover postcopy-active "
    "completed failed cancelled\n"
    "postcopy-recover-setup: postcopy-recover postcopy-paused completed failed "
    "cancelled\n"
    "postcopy-recover: postcopy-active postcopy-paused completed failed cancelled\n"
    "completed:\n"
    "failed:\n"
    "cancelled:\n";

static const char incoming_text[] = "none: advise end\n"
				    "advise: listen end\n"
				    "listen: running end\n"
				    "running: end\n"
				    "end:\n";

static const char *const statuses[] = {"none",
				       "setup",
				       "active",
				       "device",
				       "postcopy-active",
				       "postcopy-paused",
				       "postcopy-recover-setup",
				       "postcopy-recover",
				       "completed",
				       "failed",
				       "cancelled"};
static const char *const incomings[] = {"none", "advise", "listen", "running", "end"};

/* Does the line of `from` have the word `to`? */
static bool text_allows(const char *text, const char *from, const char *to)
{
	size_t from_length = strlen(from), to_length = strlen(to);
	for (const char *line = text; *line; line = strchr(line, '\n') + 1) {
		if (strncmp(line, from, from_length) != 0 || line[from_length] != ':')
			continue;
		for (const char *at = line + from_length + 1; *at == ' '; at += strcspn(at + 1, " \n") + 1)
			if (strncmp(at + 1, to, to_length) == 0 && strchr(" \n", at[1 + to_length]))
				return true;
		return false;
	}
	fail_msg("the text has no line for %s", from);
	return false;
}

static void names_are_those_of_qemu(void **state)
{
	(void)state;
	assert_int_equal(sizeof(statuses) / sizeof(statuses[0]), HF_STATUSES);
	assert_int_equal(sizeof(incomings) / sizeof(incomings[0]), HF_INCOMINGS);
	for (int i = 0; i < HF_STATUSES; i++)
		assert_string_equal(hf_status_name((enum hf_status)i), statuses[i]);
	for (int i = 0; i < HF_INCOMINGS; i++)
		assert_string_equal(hf_incoming_name((enum hf_incoming)i), incomings[i]);
	assert_string_equal(hf_status_name(HF_STATUSES), "unknown");
	assert_string_equal(hf_status_name((enum hf_status) - 1), "unknown");
	assert_string_equal(hf_incoming_name(HF_INCOMINGS), "unknown");
}

static void every_pair_of_statuses_is_allowed_or_refused_as_written(void **state)
{
	(void)state;
	for (int from = 0; from < HF_STATUSES; from++)
		for (int to = 0; to < HF_STATUSES; to++) {
			enum hf_status status = (enum hf_status)from;
			bool expected = text_allows(status_text, statuses[from], statuses[to]);
			if (hf_status_allowed(status, (enum hf_status)to) != expected)
				fail_msg("%s -> %s", statuses[from], statuses[to]);
			assert_int_equal(hf_status_move(&status, (enum hf_status)to), expected ? 0 : -EINVAL);
			assert_int_equal(status, expected ? to : from);
		}
}

static void every_pair_of_incoming_states_is_allowed_or_refused_as_written(void **state)
{
	(void)state;
	for (int from = 0; from < HF_INCOMINGS; from++)
		for (int to = 0; to < HF_INCOMINGS; to++) {
			enum hf_incoming incoming = (enum hf_incoming)from;
			bool expected = text_allows(incoming_text, incomings[from], incomings[to]);
			if (hf_incoming_allowed(incoming, (enum hf_incoming)to) != expected)
				fail_msg("%s -> %s", incomings[from], incomings[to]);
			assert_int_equal(hf_incoming_move(&incoming, (enum hf_incoming)to),
					 expected ? 0 : -EINVAL);
			assert_int_equal(incoming, expected ? to : from);
		}
}

static void values_that_are_no_state_are_refused(void **state)
{
	(void)state;
	for (int i = 0; i < HF_STATUSES; i++) {
		assert_false(hf_status_allowed((enum hf_status)i, HF_STATUSES));
		assert_false(hf_status_allowed((enum hf_status)i, (enum hf_status) - 1));
		assert_false(hf_status_allowed((enum hf_status)i, (enum hf_status)32));
		assert_false(hf_status_allowed(HF_STATUSES, (enum hf_status)i));
		assert_false(hf_status_allowed((enum hf_status) - 1, (enum hf_status)i));
	}
	for (int i = 0; i < HF_INCOMINGS; i++) {
		assert_false(hf_incoming_allowed((enum hf_incoming)i, HF_INCOMINGS));
		assert_false(hf_incoming_allowed(HF_INCOMINGS, (enum hf_incoming)i));
	}
	assert_false(hf_status_is_final(HF_STATUSES));
}

/* What follows from DESIGN, whatever the text above says. */
static void a_vm_in_postcopy_is_never_cancelled_and_a_pause_leads_back(void **state)
{
	(void)state;
	assert_false(hf_status_allowed(HF_STATUS_POSTCOPY_ACTIVE, HF_STATUS_CANCELLED));
	assert_true(hf_status_allowed(HF_STATUS_POSTCOPY_PAUSED, HF_STATUS_POSTCOPY_RECOVER));
	assert_true(hf_status_allowed(HF_STATUS_POSTCOPY_RECOVER, HF_STATUS_POSTCOPY_PAUSED));
	assert_true(hf_status_allowed(HF_STATUS_POSTCOPY_RECOVER, HF_STATUS_POSTCOPY_ACTIVE));
	for (int to = 0; to < HF_STATUS_DEVICE; to++)
		for (int from = HF_STATUS_POSTCOPY_ACTIVE; from < HF_STATUSES; from++)
			assert_false(hf_status_allowed((enum hf_status)from, (enum hf_status)to));
}

static void every_state_before_the_hand_over_can_fail_and_be_cancelled(void **state)
{
	(void)state;
	static const enum hf_status before[] = {HF_STATUS_NONE, HF_STATUS_SETUP, HF_STATUS_ACTIVE,
						HF_STATUS_DEVICE};
	for (size_t i = 0; i < sizeof(before) / sizeof(before[0]); i++) {
		assert_true(hf_status_allowed(before[i], HF_STATUS_FAILED));
		assert_true(hf_status_allowed(before[i], HF_STATUS_CANCELLED));
	}
}

static void only_completed_failed_and_cancelled_are_final(void **state)
{
	(void)state;
	for (int i = 0; i < HF_STATUSES; i++)
		assert_int_equal(hf_status_is_final((enum hf_status)i), i == HF_STATUS_COMPLETED ||
									    i == HF_STATUS_FAILED ||
									    i == HF_STATUS_CANCELLED);
}

static void an_incoming_migration_can_end_from_any_state(void **state)
{
	(void)state;
	for (int i = 0; i < HF_INCOMING_END; i++)
		assert_true(hf_incoming_allowed((enum hf_incoming)i, HF_INCOMING_END));
}

static void every_vm_operation_has_a_name_of_its_own(void **state)
{
	(void)state;
	static const char *const names[HF_VM_OPS] = {"stop", "save",  "resume", "load",
						     "run",  "fence", "kill"};
	for (int i = 0; i < HF_VM_OPS; i++)
		assert_string_equal(hf_vm_op_name((enum hf_vm_op)i), names[i]);
	assert_string_equal(hf_vm_op_name(HF_VM_OPS), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(names_are_those_of_qemu),
	    cmocka_unit_test(every_pair_of_statuses_is_allowed_or_refused_as_written),
	    cmocka_unit_test(every_pair_of_incoming_states_is_allowed_or_refused_as_written),
	    cmocka_unit_test(values_that_are_no_state_are_refused),
	    cmocka_unit_test(a_vm_in_postcopy_is_never_cancelled_and_a_pause_leads_back),
	    cmocka_unit_test(every_state_before_the_hand_over_can_fail_and_be_cancelled),
	    cmocka_unit_test(only_completed_failed_and_cancelled_are_final),
	    cmocka_unit_test(an_incoming_migration_can_end_from_any_state),
	    cmocka_unit_test(every_vm_operation_has_a_name_of_its_own),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
