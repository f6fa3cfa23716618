/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tables are written here a second time, as text: what the text has must be in the tables as it says,
 * what it lacks must be refused. Then come rules that follow from the theory in core/handover.c, whatever the
 * text says. That the rules are enough is shown by the model in tests/spin/.
 */
#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/handover.h"

/* state event -> next actions */
static const char source_text[] = "\n"
				  "owns broken -> aborted say-fail resume fail\n"
				  "owns heard-loaded -> fencing fence\n"
				  "fencing broken -> fencing-broken say-fail fail\n"
				  "fencing heard-refused -> fencing-broken say-fail fail\n"
				  "fencing fenced -> recording record=given-up\n"
				  "fencing fence-failed -> aborted say-fail resume fail\n"
				  "fencing-broken link -> fencing-broken say-fail\n"
				  "fencing-broken broken -> fencing-broken\n"
				  "fencing-broken heard-refused -> fencing-broken\n"
				  "fencing-broken fenced -> aborted resume\n"
				  "fencing-broken fence-failed -> aborted resume\n"
				  "recording link -> recording\n"
				  "recording broken -> recording\n"
				  "recording heard-refused -> recording\n"
				  "recording recorded -> given-up say-run\n"
				  "recording record-failed -> taking-back record=taken-back\n"
				  "given-up link -> given-up say-run\n"
				  "given-up broken -> given-up\n"
				  "given-up heard-resumed -> gone\n"
				  "given-up heard-refused -> taking-back record=taken-back\n"
				  "gone link -> gone say-run\n"
				  "gone broken -> gone\n"
				  "gone heard-resumed -> gone\n"
				  "taking-back link -> taking-back\n"
				  "taking-back broken -> taking-back\n"
				  "taking-back heard-refused -> taking-back\n"
				  "taking-back recorded -> aborted say-fail resume fail\n"
				  "taking-back record-failed -> stuck alarm\n"
				  "stuck link -> taking-back record=taken-back\n"
				  "stuck broken -> stuck\n"
				  "stuck heard-refused -> stuck\n"
				  "aborted link -> aborted say-fail\n"
				  "aborted broken -> aborted\n"
				  "aborted heard-loaded -> aborted\n"
				  "aborted heard-refused -> aborted\n";

static const char destination_text[] = "\n"
				       "loading broken -> aborted say-fail fail\n"
				       "loading heard-fail -> aborted fail\n"
				       "loading vm-loaded -> recording-loaded record=loaded\n"
				       "loading vm-ended -> aborted say-fail fail\n"
				       "recording-loaded broken -> aborted say-fail fail\n"
				       "recording-loaded heard-fail -> aborted fail\n"
				       "recording-loaded vm-ended -> aborted say-fail fail\n"
				       "recording-loaded recorded -> loaded say-loaded\n"
				       "recording-loaded record-failed -> aborted say-fail fail\n"
				       "loaded broken -> loaded\n"
				       "loaded heard-run -> recording-running record=running\n"
				       "loaded heard-fail -> aborted fail\n"
				       "loaded vm-ended -> recording-refused record=refused\n"
				       "recording-running broken -> recording-running\n"
				       "recording-running heard-run -> recording-running\n"
				       "recording-running vm-ended -> recording-running\n"
				       "recording-running recorded -> starting run\n"
				       "recording-running record-failed -> killing kill\n"
				       "starting broken -> starting\n"
				       "starting heard-run -> starting\n"
				       "starting vm-ran -> running say-resumed\n"
				       "starting vm-refused -> killing kill\n"
				       "starting vm-unknown -> lost alarm\n"
				       "starting vm-ended -> starting-ended\n"
				       "starting-ended broken -> starting-ended\n"
				       "starting-ended heard-run -> starting-ended\n"
				       "starting-ended vm-ran -> lost alarm\n"
				       "starting-ended vm-refused -> recording-refused record=refused\n"
				       "starting-ended vm-unknown -> lost alarm\n"
				       "starting-again broken -> starting-again\n"
				       "starting-again heard-run -> starting-again\n"
				       "starting-again vm-ran -> running say-resumed\n"
				       "starting-again vm-refused -> lost alarm\n"
				       "starting-again vm-unknown -> lost alarm\n"
				       "starting-again vm-ended -> lost alarm\n"
				       "running broken -> running\n"
				       "running heard-run -> running say-resumed\n"
				       "running vm-ended -> lost alarm\n"
				       "killing broken -> killing\n"
				       "killing heard-run -> killing\n"
				       "killing vm-killed -> recording-refused record=refused\n"
				       "killing kill-failed -> lost alarm\n"
				       "killing vm-ended -> killing\n"
				       "recording-refused broken -> recording-refused\n"
				       "recording-refused heard-run -> recording-refused\n"
				       "recording-refused heard-fail -> aborted fail\n"
				       "recording-refused vm-ended -> recording-refused\n"
				       "recording-refused recorded -> refused say-refused\n"
				       "recording-refused record-failed -> refused say-refused\n"
				       "refused broken -> refused\n"
				       "refused heard-run -> refused say-refused\n"
				       "refused heard-fail -> aborted fail\n"
				       "refused vm-ended -> refused\n"
				       "aborted broken -> aborted\n"
				       "aborted heard-fail -> aborted\n"
				       "aborted vm-loaded -> aborted\n"
				       "aborted vm-ended -> aborted\n"
				       "aborted recorded -> aborted\n"
				       "aborted record-failed -> aborted\n"
				       "lost broken -> lost\n"
				       "lost heard-run -> lost\n"
				       "lost heard-fail -> aborted fail\n"
				       "lost vm-ran -> lost\n"
				       "lost vm-refused -> lost\n"
				       "lost vm-unknown -> lost\n"
				       "lost vm-ended -> lost\n";

#define ACTIONS 12
static const char *const action_names[ACTIONS] = {"fence",	 "record",	"run",	      "kill",
						  "say-fail",	 "resume",	"say-loaded", "say-run",
						  "say-resumed", "say-refused", "fail",	      "alarm"};

/* One type for both sides, so that what must hold for both is said once. */
struct entry {
	int from, event, next;
	unsigned actions;
	enum hf_record record;
};

static bool source_entry(int from, int event, struct entry *entry)
{
	struct hf_handover_source_step step;
	if (hf_handover_source_step((enum hf_handover_source)from, (enum hf_handover_source_event)event,
				    &step))
		return false;
	assert_true(step.allowed);
	*entry = (struct entry){from, event, (int)step.next, step.actions, step.record};
	return true;
}

static bool destination_entry(int from, int event, struct entry *entry)
{
	struct hf_handover_destination_step step;
	if (hf_handover_destination_step((enum hf_handover_destination)from,
					 (enum hf_handover_destination_event)event, &step))
		return false;
	assert_true(step.allowed);
	*entry = (struct entry){from, event, (int)step.next, step.actions, step.record};
	return true;
}

static const char *source_name(int state)
{
	return hf_handover_source_name((enum hf_handover_source)state);
}

static const char *source_event_name(int event)
{
	return hf_handover_source_event_name((enum hf_handover_source_event)event);
}

static const char *destination_name(int state)
{
	return hf_handover_destination_name((enum hf_handover_destination)state);
}

static const char *destination_event_name(int event)
{
	return hf_handover_destination_event_name((enum hf_handover_destination_event)event);
}

struct side {
	const char *text;
	int states, events;
	bool (*entry)(int from, int event, struct entry *entry);
	const char *(*name)(int state);
	const char *(*event_name)(int event);
};

static const struct side source = {source_text,	 HF_SOURCE_STATES, HF_SOURCE_EVENTS,
				   source_entry, source_name,	   source_event_name};
static const struct side destination = {destination_text,  HF_DESTINATION_STATES, HF_DESTINATION_EVENTS,
					destination_entry, destination_name,	  destination_event_name};
static const struct side *const sides[] = {&source, &destination};

/* Calls what is to be checked for every entry of a side. */
static void each_entry(const struct side *side,
		       void (*check)(const struct side *side, const struct entry *entry))
{
	struct entry entry;
	for (int from = 0; from < side->states; from++)
		for (int event = 0; event < side->events; event++)
			if (side->entry(from, event, &entry))
				check(side, &entry);
}

static void print_entry(const struct side *side, const struct entry *entry, char *line, size_t size)
{
	size_t used = (size_t)snprintf(line, size, "\n%s %s -> %s", side->name(entry->from),
				       side->event_name(entry->event), side->name(entry->next));
	for (int i = 0; i < ACTIONS; i++) {
		if (!(entry->actions & 1U << i))
			continue;
		used += (size_t)snprintf(line + used, size - used, " %s", action_names[i]);
		if (1U << i == HF_ACT_RECORD)
			used +=
			    (size_t)snprintf(line + used, size - used, "=%s", hf_record_name(entry->record));
	}
	snprintf(line + used, size - used, "\n");
}

static void is_in_the_text(const struct side *side, const struct entry *entry)
{
	char line[200];
	assert_int_equal(entry->actions >> ACTIONS, 0);
	print_entry(side, entry, line, sizeof(line));
	if (!strstr(side->text, line))
		fail_msg("not in the text:%s", line);
}

static int entries;

static void count_entry(const struct side *side, const struct entry *entry)
{
	(void)side, (void)entry;
	entries++;
}

static void every_state_and_event_does_what_is_written_and_else_is_refused(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		int lines = -1;
		for (const char *at = sides[i]->text; *at; at++)
			lines += *at == '\n';
		each_entry(sides[i], is_in_the_text);
		entries = 0;
		each_entry(sides[i], count_entry);
		assert_int_equal(entries, lines);
	}
}

static void a_refused_event_leaves_the_step_as_it_was(void **state)
{
	(void)state;
	struct hf_handover_source_step s = {.next = HF_SOURCE_GONE, .actions = HF_ACT_ALARM};
	assert_int_equal(hf_handover_source_step(HF_SOURCE_OWNS, HF_SOURCE_HEARD_RESUMED, &s), -EINVAL);
	assert_int_equal(s.next, HF_SOURCE_GONE);
	assert_int_equal(s.actions, HF_ACT_ALARM);
	struct hf_handover_destination_step d = {.next = HF_DESTINATION_LOST, .actions = HF_ACT_ALARM};
	assert_int_equal(hf_handover_destination_step(HF_DESTINATION_LOADING, HF_DESTINATION_HEARD_RUN, &d),
			 -EINVAL);
	assert_int_equal(d.next, HF_DESTINATION_LOST);
	assert_int_equal(d.actions, HF_ACT_ALARM);
}

static void values_that_are_no_state_and_no_event_are_refused(void **state)
{
	(void)state;
	struct entry entry;
	for (int i = 0; i < 2; i++) {
		const int wrong_states[] = {-1, sides[i]->states, 1000};
		const int wrong_events[] = {-1, sides[i]->events, 1000};
		for (int w = 0; w < 3; w++) {
			for (int event = 0; event < sides[i]->events; event++)
				assert_false(sides[i]->entry(wrong_states[w], event, &entry));
			for (int from = 0; from < sides[i]->states; from++)
				assert_false(sides[i]->entry(from, wrong_events[w], &entry));
			assert_string_equal(sides[i]->name(wrong_states[w]), "unknown");
			assert_string_equal(sides[i]->event_name(wrong_events[w]), "unknown");
		}
	}
	assert_string_equal(hf_record_name(HF_RECORDS), "unknown");
	assert_string_equal(hf_record_name((enum hf_record) - 1), "unknown");
}

static void are_unique(const char *(*name)(int value), int values)
{
	for (int a = 0; a < values; a++) {
		assert_non_null(name(a));
		assert_string_not_equal(name(a), "unknown");
		for (int b = 0; b < a; b++)
			assert_string_not_equal(name(a), name(b));
	}
}

static const char *record_name(int record)
{
	return hf_record_name((enum hf_record)record);
}

static void names_are_unique(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		are_unique(sides[i]->name, sides[i]->states);
		are_unique(sides[i]->event_name, sides[i]->events);
	}
	are_unique(record_name, HF_RECORDS);
}

static bool is_of_the_source(enum hf_record record)
{
	return record == HF_RECORD_GIVEN_UP || record == HF_RECORD_TAKEN_BACK;
}

static void carries_a_record_if_it_records(const struct side *side, const struct entry *entry)
{
	assert_int_equal(entry->record != HF_RECORD_NONE, (entry->actions & HF_ACT_RECORD) != 0);
	if (entry->record != HF_RECORD_NONE)
		assert_int_equal(is_of_the_source(entry->record), side == &source);
}

static void steps_that_record_carry_a_record_of_their_side_and_others_none(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++)
		each_entry(sides[i], carries_a_record_if_it_records);
}

static void is_an_action_of_its_side(const struct side *side, const struct entry *entry)
{
	const unsigned of_source = HF_ACT_FENCE | HF_ACT_RESUME | HF_ACT_SAY_RUN;
	const unsigned of_destination =
	    HF_ACT_RUN | HF_ACT_KILL | HF_ACT_SAY_LOADED | HF_ACT_SAY_RESUMED | HF_ACT_SAY_REFUSED;
	assert_int_equal(entry->actions & (side == &source ? of_destination : of_source), 0);
}

static void each_side_does_only_what_is_its_own(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++)
		each_entry(sides[i], is_an_action_of_its_side);
}

static void every_state_can_hear_of_a_broken_link(void **state)
{
	(void)state;
	struct entry entry;
	for (int from = 0; from < HF_SOURCE_STATES; from++)
		assert_true(source_entry(from, HF_SOURCE_BROKEN, &entry));
	for (int from = 0; from < HF_DESTINATION_STATES; from++)
		assert_true(destination_entry(from, HF_DESTINATION_BROKEN, &entry));
}

static bool given_up(int from)
{
	return from == HF_SOURCE_GIVEN_UP || from == HF_SOURCE_GONE;
}

static void says_run_only_once_given_up(const struct side *side, const struct entry *entry)
{
	(void)side;
	if (entry->actions & HF_ACT_SAY_RUN)
		assert_true(given_up(entry->next));
	if (given_up(entry->next) && !given_up(entry->from)) {
		assert_int_equal(entry->from, HF_SOURCE_RECORDING);
		assert_int_equal(entry->event, HF_SOURCE_RECORDED);
	}
	if (entry->next == HF_SOURCE_RECORDING && entry->from != HF_SOURCE_RECORDING) {
		assert_int_equal(entry->event, HF_SOURCE_FENCED);
		assert_int_equal(entry->record, HF_RECORD_GIVEN_UP);
	}
}

static void run_is_said_only_after_the_fence_and_then_the_record(void **state)
{
	(void)state;
	each_entry(&source, says_run_only_once_given_up);
	assert_int_equal(hf_handover_source_restart(HF_RECORD_NONE).next, HF_SOURCE_ABORTED);
}

/* From where GIVEN_UP may be on disk, the one way back is TAKEN_BACK, written. */
static bool may_be_given_up(int from)
{
	return given_up(from) || from == HF_SOURCE_RECORDING || from == HF_SOURCE_TAKING_BACK ||
	       from == HF_SOURCE_STUCK;
}

static void resumes_only_what_is_not_given_up(const struct side *side, const struct entry *entry)
{
	(void)side;
	if (!may_be_given_up(entry->from))
		return;
	if ((entry->actions & (HF_ACT_RESUME | HF_ACT_SAY_FAIL)) || !may_be_given_up(entry->next)) {
		assert_int_equal(entry->from, HF_SOURCE_TAKING_BACK);
		assert_int_equal(entry->event, HF_SOURCE_RECORDED);
	}
	if (entry->next == HF_SOURCE_TAKING_BACK && entry->from != HF_SOURCE_TAKING_BACK)
		assert_int_equal(entry->record, HF_RECORD_TAKEN_BACK);
}

static void once_given_up_nothing_resumes_or_says_fail_unless_taken_back_is_recorded(void **state)
{
	(void)state;
	each_entry(&source, resumes_only_what_is_not_given_up);
}

static void keeps_running_it(const struct side *side, const struct entry *entry)
{
	(void)side;
	if (entry->from == HF_SOURCE_ABORTED)
		assert_int_equal(entry->next, HF_SOURCE_ABORTED);
	if (entry->next == HF_SOURCE_ABORTED && entry->from != HF_SOURCE_ABORTED)
		assert_true(entry->actions & HF_ACT_RESUME);
}

static void whoever_aborts_at_the_source_resumes_and_stays_so(void **state)
{
	(void)state;
	each_entry(&source, keeps_running_it);
}

static void runs_only_when_running_is_recorded(const struct side *side, const struct entry *entry)
{
	(void)side;
	if (entry->actions & HF_ACT_RUN) {
		assert_int_equal(entry->from, HF_DESTINATION_RECORDING_RUNNING);
		assert_int_equal(entry->event, HF_DESTINATION_RECORDED);
	}
	if (entry->next == HF_DESTINATION_RECORDING_RUNNING &&
	    entry->from != HF_DESTINATION_RECORDING_RUNNING) {
		assert_int_equal(entry->event, HF_DESTINATION_HEARD_RUN);
		assert_int_equal(entry->record, HF_RECORD_RUNNING);
	}
}

static void the_destination_runs_it_only_when_told_and_when_running_is_recorded(void **state)
{
	(void)state;
	each_entry(&destination, runs_only_when_running_is_recorded);
	for (int record = 0; record < HF_RECORDS; record++)
		for (int lives = 0; lives <= 1; lives++) {
			bool runs = hf_handover_destination_restart((enum hf_record)record, lives).actions &
				    HF_ACT_RUN;
			assert_int_equal(runs, record == HF_RECORD_RUNNING && lives);
		}
}

/* Refused is said only of a VM that surely has not run: its VMM has ended, and it has said or never been
 * told. */
static void refuses_only_what_never_ran(const struct side *side, const struct entry *entry)
{
	(void)side;
	if (entry->next != HF_DESTINATION_RECORDING_REFUSED || entry->from == entry->next)
		return;
	assert_int_equal(entry->record, HF_RECORD_REFUSED);
	switch (entry->from) {
	case HF_DESTINATION_LOADED:
		assert_int_equal(entry->event, HF_DESTINATION_VM_ENDED);
		break;
	case HF_DESTINATION_KILLING:
		assert_int_equal(entry->event, HF_DESTINATION_VM_KILLED);
		break;
	default:
		assert_int_equal(entry->from, HF_DESTINATION_STARTING_ENDED);
		assert_int_equal(entry->event, HF_DESTINATION_VM_REFUSED);
	}
}

static void a_vm_is_handed_back_only_if_it_surely_never_ran(void **state)
{
	(void)state;
	each_entry(&destination, refuses_only_what_never_ran);
}

static void alarms_and_stays(const struct side *side, const struct entry *entry)
{
	(void)side;
	if (entry->next == HF_DESTINATION_LOST && entry->from != HF_DESTINATION_LOST)
		assert_true(entry->actions & HF_ACT_ALARM);
	if (entry->from == HF_DESTINATION_LOST && entry->next != HF_DESTINATION_LOST)
		assert_int_equal(entry->event, HF_DESTINATION_HEARD_FAIL);
}

static void a_lost_vm_raises_an_alarm_and_only_the_source_ends_that(void **state)
{
	(void)state;
	each_entry(&destination, alarms_and_stays);
}

static void each_record_starts_the_source_where_it_was(void **state)
{
	(void)state;
	for (int record = 0; record < HF_RECORDS; record++) {
		struct hf_handover_source_step step = hf_handover_source_restart((enum hf_record)record);
		bool bound = record == HF_RECORD_GIVEN_UP;
		assert_true(step.allowed);
		assert_int_equal(step.next, bound ? HF_SOURCE_GIVEN_UP : HF_SOURCE_ABORTED);
		assert_int_equal(step.actions, bound ? 0 : HF_ACT_RESUME);
		assert_int_equal(step.record, HF_RECORD_NONE);
	}
}

static void each_record_starts_the_destination_where_it_was(void **state)
{
	(void)state;
	static const struct {
		enum hf_record found;
		bool vmm_lives;
		enum hf_handover_destination next;
		unsigned actions;
		enum hf_record record;
	} expected[] = {
	    {HF_RECORD_NONE, false, HF_DESTINATION_ABORTED, 0, HF_RECORD_NONE},
	    {HF_RECORD_NONE, true, HF_DESTINATION_ABORTED, 0, HF_RECORD_NONE},
	    {HF_RECORD_LOADED, false, HF_DESTINATION_RECORDING_REFUSED, HF_ACT_RECORD, HF_RECORD_REFUSED},
	    {HF_RECORD_LOADED, true, HF_DESTINATION_LOADED, 0, HF_RECORD_NONE},
	    {HF_RECORD_RUNNING, false, HF_DESTINATION_LOST, HF_ACT_ALARM, HF_RECORD_NONE},
	    {HF_RECORD_RUNNING, true, HF_DESTINATION_STARTING_AGAIN, HF_ACT_RUN, HF_RECORD_NONE},
	    {HF_RECORD_REFUSED, false, HF_DESTINATION_REFUSED, 0, HF_RECORD_NONE},
	    {HF_RECORD_REFUSED, true, HF_DESTINATION_REFUSED, 0, HF_RECORD_NONE},
	};
	for (size_t i = 0; i < sizeof(expected) / sizeof(expected[0]); i++) {
		struct hf_handover_destination_step step =
		    hf_handover_destination_restart(expected[i].found, expected[i].vmm_lives);
		assert_true(step.allowed);
		assert_int_equal(step.next, expected[i].next);
		assert_int_equal(step.actions, expected[i].actions);
		assert_int_equal(step.record, expected[i].record);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_state_and_event_does_what_is_written_and_else_is_refused),
	    cmocka_unit_test(a_refused_event_leaves_the_step_as_it_was),
	    cmocka_unit_test(values_that_are_no_state_and_no_event_are_refused),
	    cmocka_unit_test(names_are_unique),
	    cmocka_unit_test(steps_that_record_carry_a_record_of_their_side_and_others_none),
	    cmocka_unit_test(each_side_does_only_what_is_its_own),
	    cmocka_unit_test(every_state_can_hear_of_a_broken_link),
	    cmocka_unit_test(run_is_said_only_after_the_fence_and_then_the_record),
	    cmocka_unit_test(once_given_up_nothing_resumes_or_says_fail_unless_taken_back_is_recorded),
	    cmocka_unit_test(whoever_aborts_at_the_source_resumes_and_stays_so),
	    cmocka_unit_test(the_destination_runs_it_only_when_told_and_when_running_is_recorded),
	    cmocka_unit_test(a_vm_is_handed_back_only_if_it_surely_never_ran),
	    cmocka_unit_test(a_lost_vm_raises_an_alarm_and_only_the_source_ends_that),
	    cmocka_unit_test(each_record_starts_the_source_where_it_was),
	    cmocka_unit_test(each_record_starts_the_destination_where_it_was),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
