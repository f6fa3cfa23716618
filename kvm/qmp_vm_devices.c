/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * A page that has yet to come waits behind the page tables of the VMM's own process. vCPUs, the VMM's
 * threads, the kernel on their behalf (O_DIRECT, vhost-net) all go through them and wait. What does not is
 * refused on both sides before anything is stopped, since a VM looks the same on both:
 *
 *   VFIO, vDPA, NVMe driven by the VMM    a device reads and writes physical pages that were pinned when it
 *                                         was set up
 *   vhost-user, multi-process VMMs        another process has mapped the file itself, and is registered with
 *                                         no userfaultfd: a missing page is a page of zeros to it
 *   virtio-mem, hv-balloon                memory that is plugged and unplugged while it loads or runs
 *   encrypted guests                      their memory is worth nothing elsewhere
 *
 * virtio-balloon and free page reporting are not among them. A page that the guest gives up is punched out of
 * the file whether it has come or not; one that has come reads as zeros then (hugemem/placer.c), one that has
 * not comes as it was when the VM stopped, or in part as zeros. The guest has said that it does not care.
 *
 * Writes are tracked in the same page tables. The kernel writes past them where it pinned a page before a
 * harvest and fills it later: O_DIRECT and SCSI pass-through. Once the VM is stopped and its devices are
 * drained nothing is under way any more, so that only pre-copy is refused for them.
 *
 * All of it can change while the VM runs, also for minutes of rounds, and QEMU tells nothing of it: there is
 * no event for a device that is plugged in or a node that is opened in another way. So the source is looked
 * at again when its devices have been saved: what is in the saved state is seen, what comes later moves
 * nowhere. The destination loads meanwhile, so that nobody waits for it; what is found fails FENCE, and the
 * VM runs on at the source. While QEMU migrates it lets nobody plug in a device, and without one a network
 * back end or a memory backend that is new does nothing: these are asked for as soon as it has accepted
 * `migrate`, when the VM still runs, and only objects and block nodes when it stands. A VMM that is stopped
 * first is asked for all of it then. Memory has to be the same as before: pages of a backend that came later
 * would be in no stream. What was there only between the two looks is not seen. The destination is looked at
 * again when a source has come.
 *
 * A container of QEMU's object tree tells each child's name and type. Network back ends are no objects; only
 * the monitor for people (`info network`) has their kinds. What a VMM does not know (CommandNotFound) it has
 * no devices for.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/qmp_vm_internal.h"

#define NAME_PRECISION	 80
#define KIND_BYTES	 64
#define REASON_PRECISION 250
/* Libraries lock a few pages for their secrets. */
#define LOCKED_MAX_KIB 1024u

/* A kind of device, back end or driver, by the beginning of its name. */
struct refusal {
	const char *kind;
	const char *why;
};

#define PINS	 "reads and writes guest memory past the page tables"
#define OTHER	 "lets another process map guest memory"
#define DISCARDS "takes memory away and gives it back by itself"
#define SEALED	 "makes guest memory unreadable elsewhere"
#define DIRECT	 "lets the kernel write to guest memory unseen"

static const struct refusal devices[] = {
    {"vfio-", PINS},
    {"vhost-vdpa-", PINS},
    {"vhost-user-", OTHER},
    {"cryptodev-vhost-user", OTHER},
    {"x-pci-proxy-dev", OTHER},
    {"x-vfio-user-", OTHER},
    {"ivshmem-", OTHER},
    {"virtio-mem-", DISCARDS},
    {"hv-balloon", DISCARDS},
    {"sev-", SEALED},
    {"tdx-guest", SEALED},
    {0},
};
static const struct refusal networks[] = {{"vhost-user", OTHER}, {"vhost-vdpa", PINS}, {0}};
static const struct refusal drivers[] = {{"nvme", PINS},
					 {"io_uring", PINS}, /* libblkio's, with registered buffers */
					 {"virtio-blk-vfio-", PINS},
					 {"virtio-blk-vhost-", OTHER},
					 {0}};
static const struct refusal writing_devices[] = {
    {"scsi-generic", DIRECT}, {"scsi-block", DIRECT}, {"vhost-scsi", DIRECT}, {0}};
/* Those that open what is below them with O_DIRECT; of a network's block drivers cache.direct means nothing.
 */
static const struct refusal direct_drivers[] = {
    {"file", DIRECT}, {"host_device", DIRECT}, {"host_cdrom", DIRECT}, {0}};

static const struct refusal *find_refusal(const struct refusal *table, const char *kind)
{
	for (; kind && table->kind; table++) {
		if (strncmp(kind, table->kind, strlen(table->kind)) == 0)
			return table;
	}
	return NULL;
}

static int refuse(struct hf_qmp_vm *vm, const char *what, const char *name, const char *kind, const char *why,
		  const char *remedy, struct hf_err *err)
{
	return hf_qmp_vm_error(vm, EPERM, err, "has %s '%.*s' (%.*s), which %s; %s", what, NAME_PRECISION,
			       name, NAME_PRECISION, kind, why, remedy);
}

/* ---- what is asked ---- */

enum {
	PERIPHERAL = 0,
	PERIPHERAL_ANON,
	UNATTACHED,
	NETWORKS,
	MEMORY,
	STEADY, /* those before it: see above */
	OBJECTS = STEADY,
	NODES,
	SAVED, /* all that is looked at again */
	BLOCKERS = SAVED,
	QUESTIONS
};
_Static_assert(QUESTIONS == HF_QMP_VM_LOOK, "a question has no room");

static const struct {
	const char *command, *key, *value, *what;
} questions[QUESTIONS] = {
    [PERIPHERAL] = {"qom-list", "path", "/machine/peripheral", "device"},
    [PERIPHERAL_ANON] = {"qom-list", "path", "/machine/peripheral-anon", "device"},
    [UNATTACHED] = {"qom-list", "path", "/machine/unattached", "device"},
    [NETWORKS] = {"human-monitor-command", "command-line", "info network", NULL},
    [MEMORY] = {"query-memdev", NULL, NULL, NULL},
    [OBJECTS] = {"qom-list", "path", "/objects", "object"},
    [NODES] = {"query-named-block-nodes", NULL, NULL, NULL},
    [BLOCKERS] = {"query-migrate", NULL, NULL, NULL},
};

/* Questions `from` to before `to`. */
static void look_at(struct hf_qmp_vm *vm, uint32_t from, uint32_t to)
{
	for (uint32_t i = from; i < to; i++) {
		json_t *arguments = NULL;
		if (questions[i].key)
			arguments = json_pack("{s:s}", questions[i].key, questions[i].value);
		else if (i == NODES)
			arguments = json_pack("{s:b}", "flat", 1);
		vm->look[i] =
		    (struct hf_qmp_question){.command = questions[i].command, .arguments = arguments};
	}
	hf_qmp_client_send(vm->client, &vm->look[from], to - from, HF_QMP_VM_COMMAND_MS);
}

static void see(struct hf_qmp_vm *vm)
{
	hf_qmp_client_await(vm->client, vm->look, QUESTIONS, HF_QMP_VM_COMMAND_MS);
}

void hf_qmp_vm_look_away(struct hf_qmp_vm *vm)
{
	hf_qmp_client_await(vm->client, vm->look, QUESTIONS, 0);
	for (size_t i = 0; i < QUESTIONS; i++)
		json_decref(vm->look[i].result);
	memset(vm->look, 0, sizeof(vm->look));
	vm->looking = false;
}

/* The result stays NULL for a VMM that does not know the command. */
static int read_answer(const struct hf_qmp_question *question, const json_t **result, struct hf_err *err)
{
	*result = question->result;
	if (question->r == 0 || question->r == -ENOSYS)
		return 0;
	if (err)
		*err = question->err;
	return question->r;
}

/* ---- devices and objects ---- */

static bool kind_of_child(const json_t *property, char kind[static KIND_BYTES])
{
	const char *type = json_string_value(json_object_get(property, "type"));
	return type && sscanf(type, "child<%63[^>]>", kind) == 1;
}

static int check_container(struct hf_qmp_vm *vm, uint32_t container, const struct refusal *table,
			   const char *remedy, struct hf_err *err)
{
	const json_t *list;
	if (vm->look[container].r == -EREMOTEIO) // no such container: nothing is in it
		return 0;
	int r = read_answer(&vm->look[container], &list, err);
	for (size_t i = 0; r == 0 && i < json_array_size(list); i++) {
		const json_t *property = json_array_get(list, i);
		const char *name = json_string_value(json_object_get(property, "name"));
		char kind[KIND_BYTES];
		const struct refusal *found =
		    name && kind_of_child(property, kind) ? find_refusal(table, kind) : NULL;
		if (found)
			r = refuse(vm, questions[container].what, name, kind, found->why, remedy, err);
	}
	return r;
}

static int check_tree(struct hf_qmp_vm *vm, const struct refusal *table, const char *remedy,
		      struct hf_err *err)
{
	int r = 0;
	for (uint32_t i = 0; r == 0 && i < QUESTIONS; i++) {
		if (questions[i].what)
			r = check_container(vm, i, table, remedy, err);
	}
	return r;
}

/* ---- network back ends ---- */

/* " \ NAME: index=0,type=KIND,..." */
static int check_network_line(struct hf_qmp_vm *vm, const char *line, const char *remedy, struct hf_err *err)
{
	char name[NAME_PRECISION + 1] = "";
	char kind[KIND_BYTES] = "";
	line += strspn(line, " \\");
	if (sscanf(line, "%80[^:]: index=%*[0-9],type=%63[^,\r]", name, kind) != 2)
		return 0;
	const struct refusal *found = find_refusal(networks, kind);
	return found ? refuse(vm, "network back end", name, kind, found->why, remedy, err) : 0;
}

static int check_networks(struct hf_qmp_vm *vm, const char *remedy, struct hf_err *err)
{
	const json_t *said;
	int r = read_answer(&vm->look[NETWORKS], &said, err);
	const char *line = json_string_value(said);
	while (r == 0 && line && *line) {
		r = check_network_line(vm, line, remedy, err);
		line = strchr(line, '\n');
		line = line ? line + 1 : NULL;
	}
	return r;
}

/* ---- block nodes ---- */

static int check_nodes(struct hf_qmp_vm *vm, const struct refusal *table, bool direct, const char *remedy,
		       struct hf_err *err)
{
	const json_t *nodes;
	int r = read_answer(&vm->look[NODES], &nodes, err);
	for (size_t i = 0; r == 0 && i < json_array_size(nodes); i++) {
		const json_t *node = json_array_get(nodes, i);
		const char *name = json_string_value(json_object_get(node, "node-name"));
		const char *driver = json_string_value(json_object_get(node, "drv"));
		bool is_direct = json_is_true(json_object_get(json_object_get(node, "cache"), "direct"));
		const struct refusal *found = find_refusal(table, driver);
		if (found && name && (!direct || is_direct))
			r = refuse(vm, direct ? "block node with cache.direct=on" : "block node", name,
				   driver, found->why, remedy, err);
	}
	return r;
}

/* ---- the two sides ---- */

static int check_second_ways(struct hf_qmp_vm *vm, struct hf_err *err)
{
	const char *remedy = "take it out of the VM before it is moved";
	int r = check_tree(vm, devices, remedy, err);
	if (r == 0)
		r = check_networks(vm, remedy, err);
	return r ? r : check_nodes(vm, drivers, false, remedy, err);
}

static int check_unseen_writes(struct hf_qmp_vm *vm, struct hf_err *err)
{
	const char *remedy = "move the VM without --precopy";
	int r = check_tree(vm, writing_devices, remedy, err);
	return r ? r : check_nodes(vm, direct_drivers, true, remedy, err);
}

/* What makes QEMU refuse `migrate`, in its own words, while the VM still runs. */
static int check_blockers(struct hf_qmp_vm *vm, struct hf_err *err)
{
	const json_t *info;
	int r = read_answer(&vm->look[BLOCKERS], &info, err);
	const char *reason = json_string_value(json_array_get(json_object_get(info, "blocked-reasons"), 0));
	if (r == 0 && reason)
		r = hf_qmp_vm_error(vm, EPERM, err, "says that it cannot be migrated: %.*s", REASON_PRECISION,
				    reason);
	return r;
}

/* KiB that the process has locked; 0 if that cannot be told. */
static uint64_t locked_kib(pid_t pid)
{
	char path[64];
	char line[256];
	unsigned long kib = 0;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file) && sscanf(line, "VmLck: %lu kB", &kib) != 1)
		continue;
	if (file)
		fclose(file);
	return kib;
}

/* Some have no id. */
static bool has_same(const json_t *a, const json_t *b, const char *key)
{
	const json_t *value = json_object_get(a, key);
	return value ? json_equal(value, json_object_get(b, key)) : !json_object_get(b, key);
}

static bool has_backend(const json_t *list, const json_t *backend)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *other = json_array_get(list, i);
		if (has_same(other, backend, "id") && has_same(other, backend, "size"))
			return true;
	}
	return false;
}

/* Notes it the first time. */
static int check_same_memory(struct hf_qmp_vm *vm, struct hf_err *err)
{
	const json_t *now;
	int r = read_answer(&vm->look[MEMORY], &now, err);
	if (r == 0 && !vm->memory_checked) {
		vm->memory_checked = vm->look[MEMORY].result;
		vm->look[MEMORY].result = NULL;
		return 0;
	}
	for (size_t i = 0; r == 0 && i < json_array_size(now); i++) {
		const json_t *backend = json_array_get(now, i);
		const char *id = json_string_value(json_object_get(backend, "id"));
		if (!has_backend(vm->memory_checked, backend))
			r = hf_qmp_vm_error(vm, EPERM, err,
					    "has memory backend '%.*s', which it had not when its move began",
					    NAME_PRECISION, id ? id : "");
	}
	return r;
}

static int check_moving(struct hf_qmp_vm *vm, bool precopy, struct hf_err *err)
{
	int r = check_second_ways(vm, err);
	if (r == 0 && precopy)
		r = check_unseen_writes(vm, err);
	return r ? r : check_same_memory(vm, err);
}

int hf_qmp_vm_check_outgoing(struct hf_qmp_vm *vm, bool precopy, struct hf_err *err)
{
	look_at(vm, 0, QUESTIONS);
	see(vm);
	int r = check_moving(vm, precopy, err);
	vm->check = precopy ? HF_QMP_VM_CHECK_ROUNDS : HF_QMP_VM_CHECK;
	if (r == 0)
		r = check_blockers(vm, err);
	hf_qmp_vm_look_away(vm);
	return r;
}

void hf_qmp_vm_look_migrating(struct hf_qmp_vm *vm)
{
	hf_qmp_vm_look_away(vm);
	if (vm->check == HF_QMP_VM_CHECK_NONE)
		return;
	look_at(vm, 0, STEADY);
	vm->looking = true;
}

void hf_qmp_vm_check_saved(struct hf_qmp_vm *vm)
{
	vm->saved_err = HF_ERR_INIT;
	if (vm->check == HF_QMP_VM_CHECK_NONE)
		return;
	look_at(vm, vm->looking ? STEADY : 0, SAVED);
	see(vm);
	check_moving(vm, vm->check == HF_QMP_VM_CHECK_ROUNDS, &vm->saved_err);
	hf_qmp_vm_look_away(vm);
}

int hf_qmp_vm_check_incoming(struct hf_qmp_vm *vm, struct hf_err *err)
{
	look_at(vm, 0, SAVED);
	see(vm);
	int r = check_second_ways(vm, err);
	hf_qmp_vm_look_away(vm);
	uint64_t locked = r ? 0 : locked_kib(hf_qmp_vm_pid(vm));
	if (locked > LOCKED_MAX_KIB)
		return hf_qmp_vm_error(vm, EPERM, err,
				       "has locked %lu MiB of memory, which fills what has yet to come with "
				       "zeros; start it without -overcommit mem-lock=on",
				       (unsigned long)(locked / 1024));
	return r;
}
