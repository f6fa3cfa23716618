/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * What a VMM will touch when it loads the state of this VM's devices is asked while the VM still runs, so
 * that those pages can be fetched first (core/destination_first.c). As seen of QEMU 7.2 and 10.0 that is
 *
 *     rings of virtio devices       the index of each avail and used ring is read
 *     the first megabyte of a PC    kvmvapic's option ROM (seen with TCG; not if apic.vapic=off)
 *
 * Devices without virtio's rings (AHCI, e1000e, VGA) touched nothing; xhci may read its slots' contexts
 * while a device is plugged in, and its guest alone knows where they are.
 *
 *     x-query-virtio                      devices
 *     x-query-virtio-status               of each: how many queues
 *     x-query-virtio-queue-status         of each queue: where its rings are, as guest-physical addresses
 *     x-query-virtio-vhost-queue-status   instead of it where vhost drives the device
 *     human-monitor-command               `info mtree -f`: which part of which RAM block is at which address
 *
 * (Asked for a queue in the first way QEMU asks vhost's back end, and one in another process stops its ring
 * for that.)
 *
 * Commands that begin with x- and the monitor for people are no stable interfaces. So none of it is needed:
 * what is not known, is refused, looks otherwise, or takes too long, names no page, and the migration goes on
 * as without. The answers are outside input: an address counts only if it lies in a RAM section of the map,
 * and the engine takes only pages that its blocks have. With a virtual IOMMU the addresses are the device's,
 * so devices behind one are left out.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/qmp_vm_internal.h"

#define QUESTION_MS	   1000 /* those that are asked at once */
#define TOTAL_MS	   2000
#define DEVICES_MAX	   64u
#define QUEUES_MAX	   256u /* of all devices */
#define QUEUE_SIZE_MAX	   32768u
#define SECTIONS_MAX	   256u
#define RINGS_EACH	   3u
#define FIRST_ADDRESS	   0u /* a huge page from here on has all of the first megabyte */
#define DESCRIPTOR_BYTES   16u
#define AVAIL_ENTRY_BYTES  2u
#define USED_ENTRY_BYTES   8u
#define RING_HEADER_BYTES  6u /* flags, index, event */
#define OBJECTS		   "/objects/"
#define BEHIND_IOMMU	   "VIRTIO_F_IOMMU_PLATFORM"
#define BEHIND_IOMMU_LATER "VIRTIO_F_ACCESS_PLATFORM"

/* A part of guest-physical memory that is a part of a RAM block. */
struct section {
	uint64_t start, last, offset_bytes;
	char idstr[HF_RAMBLOCK_IDSTR_MAX + 1];
};

struct search {
	struct hf_qmp_vm *vm;
	uint64_t deadline_ms;
	uint32_t section_count, first_count;
	struct section sections[SECTIONS_MAX];
	struct hf_qmp_question about[DEVICES_MAX], queues[QUEUES_MAX];
	struct hf_vm_range first[1 + QUEUES_MAX * RINGS_EACH];
};

/* All at once, within the time that is left; the result is NULL where there is none. */
static void ask_all(const struct search *search, struct hf_qmp_question *questions, uint32_t count)
{
	uint64_t now_ms = hf_qmp_vm_now_ms();
	if (now_ms >= search->deadline_ms) {
		for (uint32_t i = 0; i < count; i++)
			json_decref(questions[i].arguments);
		return;
	}
	uint64_t left_ms = search->deadline_ms - now_ms;
	uint32_t limit_ms = left_ms < QUESTION_MS ? (uint32_t)left_ms : QUESTION_MS;
	hf_qmp_client_send(search->vm->client, questions, count, limit_ms);
	hf_qmp_client_await(search->vm->client, questions, count, limit_ms);
}

/* ---- where guest-physical memory is ---- */

/* "  0000000000100000-000000007fffffff (prio 0, ram): ram0 @0000000000100000" */
static bool read_section(const char *line, struct section *section)
{
	char name[sizeof(OBJECTS) + HF_RAMBLOCK_IDSTR_MAX] = "";
	uint64_t offset_bytes = 0;
	int fields = sscanf(line, " %16" SCNx64 "-%16" SCNx64 " (prio %*d, ram): %264[^ \r\n] @%16" SCNx64,
			    &section->start, &section->last, name, &offset_bytes);
	const char *idstr = strncmp(name, OBJECTS, strlen(OBJECTS)) == 0 ? name + strlen(OBJECTS) : name;
	if (fields < 3 || section->last < section->start || strlen(idstr) > HF_RAMBLOCK_IDSTR_MAX ||
	    offset_bytes > UINT64_MAX - (section->last - section->start))
		return false;
	section->offset_bytes = offset_bytes;
	snprintf(section->idstr, sizeof(section->idstr), "%s", idstr);
	return true;
}

/* The flat view that the vCPUs' system memory is seen by, of all of them. */
static void read_sections(struct search *search, const char *text)
{
	bool memory = false;
	for (const char *line = text; line && search->section_count < SECTIONS_MAX;) {
		if (strncmp(line, "FlatView", strlen("FlatView")) == 0 && memory)
			return;
		memory |= strncmp(line, " AS \"memory\",", strlen(" AS \"memory\",")) == 0;
		if (memory && read_section(line, &search->sections[search->section_count]))
			search->section_count++;
		line = strchr(line, '\n');
		line += line != NULL;
	}
}

static void add_first(struct search *search, uint64_t address, uint64_t length_bytes)
{
	for (uint32_t i = 0; i < search->section_count; i++) {
		const struct section *section = &search->sections[i];
		if (address < section->start || address > section->last)
			continue;
		uint64_t left_bytes = section->last - address; /* and one more */
		struct hf_vm_range *range = &search->first[search->first_count++];
		range->offset_bytes = section->offset_bytes + (address - section->start);
		range->length_bytes = length_bytes - 1 < left_bytes ? length_bytes : left_bytes + 1;
		memcpy(range->idstr, section->idstr, sizeof(range->idstr));
		return;
	}
}

/* ---- where rings are ---- */

static bool read_number(const json_t *object, const char *name, uint64_t most, uint64_t *number)
{
	const json_t *value = json_object_get(object, name);
	*number = (uint64_t)json_integer_value(value);
	return json_is_integer(value) && json_integer_value(value) >= 0 && *number <= most;
}

/* What a way to ask for a queue calls its answers. */
struct queue_words {
	const char *command, *size, *descriptors, *avail, *used;
};
static const struct queue_words own_words = {"x-query-virtio-queue-status", "vring-num", "vring-desc",
					     "vring-avail", "vring-used"};
static const struct queue_words vhost_words = {"x-query-virtio-vhost-queue-status", "num", "desc-phys",
					       "avail-phys", "used-phys"};

static void add_queue(struct search *search, const json_t *queue, const struct queue_words *words)
{
	uint64_t size, descriptors, avail, used;
	if (!read_number(queue, words->size, QUEUE_SIZE_MAX, &size) ||
	    !read_number(queue, words->descriptors, INT64_MAX, &descriptors) ||
	    !read_number(queue, words->avail, INT64_MAX, &avail) ||
	    !read_number(queue, words->used, INT64_MAX, &used))
		return;
	if (size == 0 || descriptors == 0) /* its guest has not set it up, and loading passes it over */
		return;
	add_first(search, avail, RING_HEADER_BYTES + size * AVAIL_ENTRY_BYTES);
	add_first(search, used, RING_HEADER_BYTES + size * USED_ENTRY_BYTES);
	add_first(search, descriptors, size * DESCRIPTOR_BYTES);
}

static bool is_behind_iommu(const json_t *status)
{
	const json_t *names = json_object_get(json_object_get(status, "guest-features"), "transports");
	for (size_t i = 0; i < json_array_size(names); i++) {
		const char *name = json_string_value(json_array_get(names, i));
		if (name && (strncmp(name, BEHIND_IOMMU, strlen(BEHIND_IOMMU)) == 0 ||
			     strncmp(name, BEHIND_IOMMU_LATER, strlen(BEHIND_IOMMU_LATER)) == 0))
			return true;
	}
	return false;
}

/* Adds the questions for a device's queues to the first `count`. */
static uint32_t add_questions(struct search *search, const json_t *device, const json_t *status,
			      uint32_t count)
{
	uint64_t queues;
	json_t *path = json_object_get(device, "path");
	const struct queue_words *words = json_object_get(status, "vhost-dev") ? &vhost_words : &own_words;
	if (!read_number(status, "num-vqs", QUEUES_MAX, &queues) || is_behind_iommu(status))
		return count;
	for (uint64_t i = 0; i < queues && count < QUEUES_MAX; i++)
		search->queues[count++] = (struct hf_qmp_question){
		    .command = words->command,
		    .arguments = json_pack("{s:O, s:I}", "path", path, "queue", (json_int_t)i),
		};
	return count;
}

/* Those of which QEMU 7.2 and 10.0 answer. QEMU ends itself when it is asked for one that it has no words
 * for. */
static bool may_be_asked(const json_t *device)
{
	static const char *const names[] = {"virtio-9p",   "virtio-balloon", "virtio-blk",  "virtio-crypto",
					    "virtio-gpu",  "virtio-input",   "virtio-net",  "virtio-rng",
					    "virtio-scsi", "virtio-serial",  "virtio-sound"};
	const char *name = json_string_value(json_object_get(device, "name"));
	for (size_t i = 0; name && i < sizeof(names) / sizeof(names[0]); i++) {
		if (strcmp(name, names[i]) == 0)
			return true;
	}
	return false;
}

/* Of each device that may be asked: the question for its status. Returns how many. */
static uint32_t ask_for_devices(struct search *search, const json_t *devices,
				const json_t *asked[static DEVICES_MAX])
{
	uint32_t count = 0;
	for (size_t i = 0; i < json_array_size(devices) && count < DEVICES_MAX; i++) {
		const json_t *device = json_array_get(devices, i);
		if (!may_be_asked(device))
			continue;
		asked[count] = device;
		search->about[count++] = (struct hf_qmp_question){
		    .command = "x-query-virtio-status",
		    .arguments = json_pack("{s:O}", "path", json_object_get(device, "path"))};
	}
	ask_all(search, search->about, count);
	return count;
}

static void add_devices(struct search *search, const json_t *devices)
{
	const json_t *asked[DEVICES_MAX];
	uint32_t queue_count = 0;
	uint32_t count = ask_for_devices(search, devices, asked);
	for (uint32_t i = 0; i < count; i++) {
		queue_count = add_questions(search, asked[i], search->about[i].result, queue_count);
		json_decref(search->about[i].result);
	}
	ask_all(search, search->queues, queue_count);
	for (uint32_t i = 0; i < queue_count; i++) {
		add_queue(search, search->queues[i].result,
			  search->queues[i].command == vhost_words.command ? &vhost_words : &own_words);
		json_decref(search->queues[i].result);
	}
}

static void find_first(struct search *search)
{
	struct hf_qmp_question questions[] = {
	    {.command = "x-query-virtio"},
	    {.command = "human-monitor-command",
	     .arguments = json_pack("{s:s}", "command-line", "info mtree -f")}};
	json_t *devices, *map;
	ask_all(search, questions, 2);
	devices = questions[0].result;
	map = questions[1].result;
	read_sections(search, json_string_value(map));
	if (search->section_count > 0) {
		add_first(search, FIRST_ADDRESS, 1);
		add_devices(search, devices); // none where QEMU has no virtio and says so by an error
	}
	json_decref(devices);
	json_decref(map);
}

void hf_qmp_vm_find_first(struct hf_qmp_vm *vm)
{
	hf_qmp_vm_forget_first(vm);
	struct search *search = calloc(1, sizeof(*search));
	if (!search)
		return;
	search->vm = vm;
	search->deadline_ms = hf_qmp_vm_now_ms() + TOTAL_MS;
	find_first(search);
	vm->first = calloc(search->first_count + 1, sizeof(*vm->first));
	if (vm->first) {
		memcpy(vm->first, search->first, search->first_count * sizeof(*vm->first));
		vm->first_count = search->first_count;
	}
	free(search);
}

void hf_qmp_vm_forget_first(struct hf_qmp_vm *vm)
{
	free(vm->first);
	vm->first = NULL;
	vm->first_count = 0;
}
