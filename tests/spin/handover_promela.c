/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints the tables of core/handover.c as Promela, for handover.pml: a constant for each state, record,
 * message and action, an inline for each event, and one for the restart of each side. Each entry is on a line
 * of its own, so that run.py can take one away.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "core/handover.h"

struct action {
	const char *name;
	unsigned bit;
};

static const struct action actions[] = {
    {"FENCE", HF_ACT_FENCE},
    {"RECORD", HF_ACT_RECORD},
    {"RUN", HF_ACT_RUN},
    {"KILL", HF_ACT_KILL},
    {"RESUME", HF_ACT_RESUME},
    {"SAY_LOADED", HF_ACT_SAY_LOADED},
    {"SAY_RUN", HF_ACT_SAY_RUN},
    {"SAY_RESUMED", HF_ACT_SAY_RESUMED},
    {"SAY_REFUSED", HF_ACT_SAY_REFUSED},
    {"SAY_FAIL", HF_ACT_SAY_FAIL},
    {"FAIL", HF_ACT_FAIL},
    {"ALARM", HF_ACT_ALARM},
};
#define ACTIONS (sizeof(actions) / sizeof(actions[0]))

static int unknown_actions;

/* "fencing-broken" as FENCING_BROKEN or fencing_broken. */
static void print_name(const char *prefix, const char *name, int (*letter)(int))
{
	fputs(prefix, stdout);
	for (; *name; name++)
		putchar(*name == '-' ? '_' : letter((unsigned char)*name));
}

static void print_constant(const char *prefix, const char *name, unsigned value)
{
	fputs("#define ", stdout);
	print_name(prefix, name, toupper);
	printf(" %u\n", value);
}

static void print_actions(unsigned mask)
{
	const char *plus = "";
	for (size_t i = 0; i < ACTIONS; i++) {
		if (!(mask & actions[i].bit))
			continue;
		printf("%sACT_%s", plus, actions[i].name);
		plus = " + ";
		mask &= ~actions[i].bit;
	}
	if (!*plus)
		putchar('0');
	unknown_actions |= mask != 0;
}

/* What a step does. `side` is "s" or "d", the prefix of the model's variables. */
static void print_step(const char *side, const char *state_prefix, const char *next, unsigned mask,
		       enum hf_record record)
{
	printf(" -> %s_state = ", side);
	print_name(state_prefix, next, toupper);
	printf("; %s_todo = ", side);
	print_actions(mask);
	printf("; %s_record = ", side);
	print_name("R_", hf_record_name(record), toupper);
	putchar('\n');
}

static void print_source(void)
{
	for (int event = 0; event < HF_SOURCE_EVENTS; event++) {
		print_name("\ninline source_",
			   hf_handover_source_event_name((enum hf_handover_source_event)event), tolower);
		puts("()\n{\n\tif");
		for (int state = 0; state < HF_SOURCE_STATES; state++) {
			struct hf_handover_source_step step;
			if (hf_handover_source_step((enum hf_handover_source)state,
						    (enum hf_handover_source_event)event, &step) != 0)
				continue;
			print_name("\t:: s_state == S_",
				   hf_handover_source_name((enum hf_handover_source)state), toupper);
			print_step("s", "S_", hf_handover_source_name(step.next), step.actions, step.record);
		}
		puts("\t:: else -> assert(!SOURCE_REFUSES_THE_EVENT)\n\tfi\n}");
	}
	puts("\ninline source_restart()\n{\n\tif");
	for (int record = 0; record < HF_RECORDS; record++) {
		struct hf_handover_source_step step = hf_handover_source_restart((enum hf_record)record);
		print_name("\t:: s_disk == R_", hf_record_name((enum hf_record)record), toupper);
		print_step("s", "S_", hf_handover_source_name(step.next), step.actions, step.record);
	}
	puts("\tfi\n}");
}

static void print_destination(void)
{
	for (int event = 0; event < HF_DESTINATION_EVENTS; event++) {
		print_name("\ninline destination_",
			   hf_handover_destination_event_name((enum hf_handover_destination_event)event),
			   tolower);
		puts("()\n{\n\tif");
		for (int state = 0; state < HF_DESTINATION_STATES; state++) {
			struct hf_handover_destination_step step;
			if (hf_handover_destination_step((enum hf_handover_destination)state,
							 (enum hf_handover_destination_event)event,
							 &step) != 0)
				continue;
			print_name("\t:: d_state == D_",
				   hf_handover_destination_name((enum hf_handover_destination)state),
				   toupper);
			print_step("d", "D_", hf_handover_destination_name(step.next), step.actions,
				   step.record);
		}
		puts("\t:: else -> assert(!DESTINATION_REFUSES_THE_EVENT)\n\tfi\n}");
	}
	puts("\n#define VMM_LIVES (d_vmm != GONE)\ninline destination_restart()\n{\n\tif");
	for (int record = 0; record < HF_RECORDS; record++)
		for (int lives = 0; lives <= 1; lives++) {
			struct hf_handover_destination_step step =
			    hf_handover_destination_restart((enum hf_record)record, lives);
			print_name("\t:: d_disk == R_", hf_record_name((enum hf_record)record), toupper);
			fputs(lives ? " && VMM_LIVES" : " && !VMM_LIVES", stdout);
			print_step("d", "D_", hf_handover_destination_name(step.next), step.actions,
				   step.record);
		}
	puts("\tfi\n}");
}

int main(void)
{
	puts("/* Made by handover_promela from core/handover.c. */");
	for (int i = 0; i < HF_RECORDS; i++)
		print_constant("R_", hf_record_name((enum hf_record)i), (unsigned)i);
	for (int i = 0; i < HF_SOURCE_STATES; i++)
		print_constant("S_", hf_handover_source_name((enum hf_handover_source)i), (unsigned)i);
	for (int i = 0; i < HF_DESTINATION_STATES; i++)
		print_constant("D_", hf_handover_destination_name((enum hf_handover_destination)i),
			       (unsigned)i);
	for (size_t i = 0; i < ACTIONS; i++)
		print_constant("ACT_", actions[i].name, actions[i].bit);
	print_source();
	print_destination();
	return unknown_actions || ferror(stdout) || fflush(stdout) != 0;
}
