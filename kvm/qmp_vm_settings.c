/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * Capabilities decide what QEMU puts into the stream: x-ignore-shared keeps shared memory out; those that
 * need an answer, a pause, or more connections from a real destination are switched off; `events` spares
 * polling. With dirty-bitmaps the bitmaps of block nodes are part of the stream, under the nodes' names: QEMU
 * writes them when the VM stands, since its own postcopy is off, and nothing where there are none.
 * Capabilities that a VMM does not know are not mentioned to it. They are set before the VM
 * stops, or while the destination waits, and put back as soon as they have served.
 *
 * What is changed is known as a text of what it was, for the eyes of an operator and for a record:
 *
 *     x-ignore-shared=off return-path=on max-bandwidth=134217728
 *
 * A program that ends by itself puts back what this says. One that is killed does not; its record was written
 * before the first change, and who goes on for it (the guardian, a program started again) puts back what the
 * record says. A capability has two values, so one that is named is as the killed program has set it or as it
 * was. The bandwidth may have been set by somebody else since: only a limit that is lifted is put back.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/qmp_vm_internal.h"

#define NAME_BYTES	  64
#define PUT_BACK_LIMIT_MS 5000
#define BANDWIDTH	  "max-bandwidth"
#define UNCHANGED	  "unchanged" /* no setting */
/* Where nobody knows what they were: with it left on, a migration would carry no memory. */
#define UNKNOWN "x-ignore-shared=off"

struct wanted_capability {
	const char *name;
	bool state;
};

static const struct wanted_capability wanted[] = {
    {"events", true},	     {"x-ignore-shared", true}, {"late-block-activate", true},
    {"dirty-bitmaps", true}, {"return-path", false},	{"pause-before-switchover", false},
    {"postcopy-ram", false}, {"multifd", false},	{"mapped-ram", false},
};

static const struct wanted_capability *find_wanted(const char *name)
{
	for (size_t i = 0; name && i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		if (strcmp(wanted[i].name, name) == 0)
			return &wanted[i];
	}
	return NULL;
}

/* ---- as text ---- */

static void append(char *settings, const char *name, const char *value)
{
	size_t used = strlen(settings);
	snprintf(settings + used, HF_QMP_VM_SETTINGS_BYTES - used, "%s%s=%s", used ? " " : "", name, value);
}

static void append_capabilities(char *settings, const json_t *known)
{
	for (size_t i = 0; i < json_array_size(known); i++) {
		const json_t *entry = json_array_get(known, i);
		const struct wanted_capability *want =
		    find_wanted(json_string_value(json_object_get(entry, "capability")));
		if (want && json_is_true(json_object_get(entry, "state")) != want->state)
			append(settings, want->name, want->state ? "off" : "on");
	}
}

/* The next setting; false: there is none. A record may have been written by anybody. */
static bool next_setting(const char **at, char name[static NAME_BYTES], char value[static NAME_BYTES])
{
	int used = 0;
	if (sscanf(*at, " %63[^= ]=%63[^ ]%n", name, value, &used) != 2)
		return false;
	*at += used;
	return true;
}

/* As migrate-set-capabilities takes them: what was, or what is wanted. */
static json_t *capabilities_of(const char *settings, bool as_wanted)
{
	char name[NAME_BYTES], value[NAME_BYTES];
	json_t *list = json_array();
	while (next_setting(&settings, name, value)) {
		const struct wanted_capability *want = find_wanted(name);
		if (want)
			json_array_append_new(
			    list, json_pack("{s:s, s:b}", "capability", name, "state",
					    as_wanted ? (int)want->state : strcmp(value, "on") == 0));
	}
	return list;
}

/* Bytes a second; 0: no limit. */
static json_int_t bandwidth_of(const char *settings)
{
	char name[NAME_BYTES], value[NAME_BYTES];
	while (next_setting(&settings, name, value)) {
		if (strcmp(name, BANDWIDTH) == 0)
			return strtoll(value, NULL, 10);
	}
	return 0;
}

/* ---- asked and set ---- */

static int set_capabilities(struct hf_qmp_vm *vm, const char *settings, bool as_wanted, struct hf_err *err)
{
	json_t *list = capabilities_of(settings, as_wanted);
	if (json_array_size(list) > 0)
		return hf_qmp_vm_command(vm, "migrate-set-capabilities",
					 json_pack("{s:o}", "capabilities", list), NULL, err);
	json_decref(list);
	return 0;
}

/* Also 0 where that cannot be asked. */
static json_int_t query_bandwidth(struct hf_qmp_vm *vm)
{
	json_t *parameters = NULL;
	if (hf_qmp_vm_command(vm, "query-migrate-parameters", NULL, &parameters, NULL) < 0)
		return 0;
	json_int_t bytes_per_s = json_integer_value(json_object_get(parameters, BANDWIDTH));
	json_decref(parameters);
	return bytes_per_s;
}

static int set_bandwidth(struct hf_qmp_vm *vm, json_int_t bytes_per_s, struct hf_err *err)
{
	return hf_qmp_vm_command(vm, "migrate-set-parameters", json_pack("{s:I}", BANDWIDTH, bytes_per_s),
				 NULL, err);
}

static bool knows_capability(const json_t *known, const char *name)
{
	for (size_t i = 0; i < json_array_size(known); i++) {
		const char *one = json_string_value(json_object_get(json_array_get(known, i), "capability"));
		if (one && strcmp(one, name) == 0)
			return true;
	}
	return false;
}

/* *known: the capabilities that the VMM has. */
static int ask(struct hf_qmp_vm *vm, char settings[static HF_QMP_VM_SETTINGS_BYTES], json_t **known,
	       struct hf_err *err)
{
	struct hf_err ask_err = HF_ERR_INIT;
	char value[NAME_BYTES];
	settings[0] = '\0';
	*known = NULL;
	int r = hf_qmp_vm_command(vm, "query-migrate-capabilities", NULL, known, &ask_err);
	/* A VMM that has none sends no events either: it is asked instead. */
	if (r < 0 && r != -ENOSYS && r != -EREMOTEIO) {
		if (err)
			*err = ask_err;
		return r;
	}
	append_capabilities(settings, *known);
	json_int_t bytes_per_s = query_bandwidth(vm);
	snprintf(value, sizeof(value), "%" JSON_INTEGER_FORMAT, bytes_per_s);
	if (bytes_per_s > 0)
		append(settings, BANDWIDTH, value);
	return 0;
}

int hf_qmp_vm_settings(struct hf_qmp_vm *vm, char **settings, struct hf_err *err)
{
	char text[HF_QMP_VM_SETTINGS_BYTES];
	json_t *known;
	int r = ask(vm, text, &known, err);
	json_decref(known);
	if (r < 0)
		return r;
	*settings = strdup(text[0] ? text : UNCHANGED);
	return *settings ? 0 : hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a VMM's settings");
}

int hf_qmp_vm_prepare(struct hf_qmp_vm *vm, struct hf_err *err)
{
	if (vm->prepared)
		return 0;
	json_t *known;
	int r = ask(vm, vm->settings_before, &known, err);
	vm->tells = knows_capability(known, "events");
	vm->stops_itself = knows_capability(known, "x-ignore-shared");
	json_decref(known);
	if (r == 0)
		r = set_capabilities(vm, vm->settings_before, true, err);
	vm->prepared = r == 0;
	return r;
}

/*
 * QEMU sends its small RAM blocks no faster than it may send a VM's memory over a network: 64 MiB of video
 * memory would take half a second.
 */
void hf_qmp_vm_lift_bandwidth(struct hf_qmp_vm *vm)
{
	vm->bandwidth_lifted = bandwidth_of(vm->settings_before) > 0;
	if (vm->bandwidth_lifted)
		set_bandwidth(vm, 0, NULL);
}

/* With x-ignore-shared left on, a migration that somebody else begins would not carry the VM's memory. */
void hf_qmp_vm_restore(struct hf_qmp_vm *vm)
{
	if (vm->bandwidth_lifted)
		set_bandwidth(vm, bandwidth_of(vm->settings_before), NULL);
	vm->bandwidth_lifted = false;
	if (vm->prepared)
		set_capabilities(vm, vm->settings_before, false, NULL);
	vm->prepared = false;
}

static int put_back_once(struct hf_qmp_vm *vm, const char *settings, struct hf_err *err)
{
	int r = set_capabilities(vm, settings, false, err);
	json_int_t bytes_per_s = bandwidth_of(settings);
	if (r == 0 && bytes_per_s > 0 && query_bandwidth(vm) == 0)
		r = set_bandwidth(vm, bytes_per_s, err);
	return r;
}

/* Refused while a migration that was broken off is not over. */
int hf_qmp_vm_put_back(struct hf_qmp_vm *vm, const char *settings, struct hf_err *err)
{
	struct hf_qmp_vm_pace pace = hf_qmp_vm_pace(PUT_BACK_LIMIT_MS, "taken its migration settings back");
	struct hf_err why = HF_ERR_INIT;
	for (;;) {
		int r = put_back_once(vm, settings ? settings : UNKNOWN, &why);
		if (r == -ENOSYS) // it has none
			return 0;
		if (r == -EREMOTEIO && hf_qmp_vm_pace_wait(vm, &pace, -1, 0, NULL) == 0)
			continue;
		if (r < 0 && err)
			*err = why;
		return r;
	}
}
