/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about what a VMM tells of memory that loading will touch, and that whatever it says harms nothing.
 */
#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vm_fixture.h"

/* As QEMU 7.2 writes it, of 6 GiB in two backends; the second is split by the gap below 4 GiB. */
#define MAP                                                                                                  \
	"FlatView #0\n AS \"cpu-smm-0\", root: memory\n Root memory region: memory\n"                        \
	"  0000000000000000-00000000ffffffff (prio 0, ram): wrong\n\n"                                       \
	"FlatView #1\n AS \"memory\", root: system\n AS \"cpu-memory-0\", root: system\n"                    \
	" Root memory region: system\n"                                                                      \
	"  0000000000000000-00000000000bffff (prio 0, ram): ram0\n"                                          \
	"  00000000000c0000-00000000000fffff (prio 0, rom): ram0 @00000000000c0000\n"                        \
	"  0000000000100000-000000003fffffff (prio 0, ram): ram0 @0000000000100000\r\n"                      \
	"  0000000040000000-000000007fffffff (prio 0, ram): /objects/ram1\n"                                 \
	"  00000000fec00000-00000000fec00fff (prio 0, i/o): kvm-ioapic\n"                                    \
	"  0000000100000000-00000001ffffffff (prio -1, ram): ram1 @0000000040000000 KVM\n\n"                 \
	"FlatView #2\n AS \"I/O\", root: io\n"                                                               \
	"  0000000200000000-00000002ffffffff (prio 0, ram): wrong\n"
#define DEVICE	    "{\"name\": \"virtio-net\", \"path\": \"/machine/peripheral/net/virtio-backend\"}"
#define STATUS	    "{\"num-vqs\": 1, \"guest-features\": {\"transports\": [\"VIRTIO_F_VERSION_1: yes\"]}}"
#define QUEUE	    "{\"vring-num\": %s, \"vring-desc\": %s, \"vring-avail\": %s, \"vring-used\": %s}"
#define RINGS_BYTES 512

/* Queue 0: of 256 entries, at 1 MiB and more. */
static const struct fake_vm_script usual = {
    .memory_map = MAP,
    .virtio = "[" DEVICE "]",
    .virtio_status = STATUS,
    .virtio_queues = "[{\"vring-num\": 256, \"vring-desc\": 1048576, \"vring-avail\": 1052672, "
		     "\"vring-used\": 1053248}]",
};

static void find(struct fixture *fixture, const struct fake_vm_script *script)
{
	open_vm(fixture, *script);
	hf_qmp_vm_find_first(fixture->vm);
}

static void expect_range(const struct fixture *fixture, uint32_t number, const char *idstr,
			 uint64_t offset_bytes, uint64_t length_bytes)
{
	assert_in_range(number, 0, fixture->vm->first_count - 1);
	const struct hf_vm_range *range = &fixture->vm->first[number];
	if (strcmp(range->idstr, idstr) != 0 || range->offset_bytes != offset_bytes ||
	    range->length_bytes != length_bytes)
		fail_msg("range %" PRIu32 " is %s %#" PRIx64 " %" PRIu64, number, range->idstr,
			 range->offset_bytes, range->length_bytes);
}

/* What is found beside the first megabyte. */
static void expect_count(struct fixture *fixture, const struct fake_vm_script *script, uint32_t count)
{
	find(fixture, script);
	assert_int_equal(fixture->vm->first_count, count);
	if (count > 0)
		expect_range(fixture, 0, "ram0", 0, 1);
	close_vm(fixture);
}

static void the_first_megabyte_and_each_ring_are_found_in_their_blocks(void **state)
{
	struct fixture *fixture = *state;
	find(fixture, &usual);
	assert_int_equal(fixture->vm->first_count, 4);
	expect_range(fixture, 0, "ram0", 0, 1);
	expect_range(fixture, 1, "ram0", 0x101000, 6 + 2 * 256);
	expect_range(fixture, 2, "ram0", 0x101240, 6 + 8 * 256);
	expect_range(fixture, 3, "ram0", 0x100000, 16 * 256);
}

static void an_address_is_looked_up_in_the_vm_s_memory_alone(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = usual;
	/* 0x40001000, 0x100002000, and the last four bytes below the gap */
	script.virtio_queues = "[{\"vring-num\": 8, \"vring-desc\": 1073745920, \"vring-avail\": 4294975488, "
			       "\"vring-used\": 2147483644}]";
	find(fixture, &script);
	assert_int_equal(fixture->vm->first_count, 4);
	expect_range(fixture, 1, "ram1", 0x40002000, 6 + 2 * 8);
	expect_range(fixture, 2, "ram1", 0x3ffffffc, 4);
	expect_range(fixture, 3, "ram1", 0x1000, 16 * 8);
}

static void stop_tells_what_was_found(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = usual;
	script.state_bytes = STATE_BYTES;
	open_vm(fixture, script);
	assert_int_equal(run(fixture, HF_VM_STOP).first_count, 4);
	assert_int_equal(run(fixture, HF_VM_SAVE).first_count, 0);
}

static void a_device_that_vhost_drives_is_asked_without_its_back_end(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = usual;
	script.virtio_status = "{\"num-vqs\": 1, \"vhost-dev\": {}}";
	script.vhost_queues =
	    "[{\"num\": 8, \"desc-phys\": 4096, \"avail-phys\": 8192, \"used-phys\": 12288}]";
	find(fixture, &script);
	assert_int_equal(fixture->vm->first_count, 4);
	expect_range(fixture, 1, "ram0", 8192, 6 + 2 * 8);
}

static void devices_behind_an_iommu_are_left_out(void **state)
{
	struct fake_vm_script script = usual;
	script.virtio_status = "{\"num-vqs\": 1, \"guest-features\": {\"transports\": "
			       "[7, \"VIRTIO_F_IOMMU_PLATFORM: Device can be used on IOMMU platform\"]}}";
	expect_count(*state, &script, 1);
	script.virtio_status = "{\"num-vqs\": 1, \"guest-features\": {\"transports\": "
			       "[\"VIRTIO_F_ACCESS_PLATFORM: x\"]}}";
	expect_count(*state, &script, 1);
}

static void what_is_refused_is_left_out(void **state)
{
	static const struct {
		const char *command;
		uint32_t count;
	} refusals[] = {{"x-query-virtio", 1},
			{"human-monitor-command", 0},
			{"x-query-virtio-status", 1},
			{"x-query-virtio-queue-status", 1}};
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		struct fake_vm_script script = usual;
		script.refuse = refusals[i].command;
		expect_count(*state, &script, refusals[i].count);
	}
}

static void a_queue_that_is_refused_does_not_cost_the_others(void **state)
{
	struct fake_vm_script script = usual;
	script.virtio_status = "{\"num-vqs\": 3}";
	expect_count(*state, &script, 4);
	script.virtio = "[" DEVICE ", {}, 7, " DEVICE "]";
	expect_count(*state, &script, 1 + 2 * 3);
}

static void devices_that_qemu_may_not_know_are_not_asked_for(void **state)
{
	struct fake_vm_script script = usual;
	script.virtio = "[{\"name\": \"virtio-own\", \"path\": \"/own\"}, {\"path\": \"/nameless\"}]";
	expect_count(*state, &script, 1);
}

static void a_vm_that_is_stopped_while_it_is_asked_is_not_moved(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script script = usual;
	script.state_bytes = STATE_BYTES;
	script.stops_at_map = true;
	open_vm(fixture, script);
	expect_failure(fixture, HF_VM_STOP, EPERM, "somebody else has stopped it");
}

static void queues_with_impossible_numbers_are_left_out(void **state)
{
	static const char *const queues[][4] = {
	    {"0", "4096", "8192", "12288"},	{"256", "0", "8192", "12288"},
	    {"32769", "4096", "8192", "12288"}, {"-1", "4096", "8192", "12288"},
	    {"256", "-4096", "8192", "12288"},	{"256", "4096", "\"8192\"", "12288"},
	    {"256", "4096", "8192", "1.5"},	{"256", "4096", "8192", "null"},
	};
	for (size_t i = 0; i < sizeof(queues) / sizeof(queues[0]); i++) {
		char list[RINGS_BYTES];
		struct fake_vm_script script = usual;
		snprintf(list, sizeof(list), "[" QUEUE "]", queues[i][0], queues[i][1], queues[i][2],
			 queues[i][3]);
		script.virtio_queues = list;
		expect_count(*state, &script, 1);
	}
}

static void addresses_that_are_no_memory_are_left_out(void **state)
{
	struct fake_vm_script script = usual;
	/* ROM, the hole below 4 GiB, and the end of the world */
	script.virtio_queues = "[{\"vring-num\": 8, \"vring-desc\": 786432, \"vring-avail\": 4273995776, "
			       "\"vring-used\": 9223372036854775807}]";
	expect_count(*state, &script, 1);
}

static void answers_of_another_kind_name_nothing(void **state)
{
	static const char *const answers[] = {"{}", "[]", "7", "\"x\"", "null", "[[]]", "[{\"path\": 7}]"};
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		struct fake_vm_script script = usual;
		script.virtio = answers[i];
		script.virtio_status = "{\"num-vqs\": 0}";
		expect_count(*state, &script, 1);
		script = usual;
		script.virtio_status = answers[i];
		expect_count(*state, &script, 1);
		script = usual;
		script.virtio_queues = answers[i];
		expect_count(*state, &script, 1);
	}
}

static void a_map_that_is_none_names_nothing(void **state)
{
#define MEMORY "FlatView #0\n AS \"memory\", root: system\n"
	static const char *const maps[] = {
	    "",
	    MEMORY,
	    "  0000000000000000-00000000000bffff (prio 0, ram): ram0\n",
	    MEMORY "  00000000000bffff-0000000000000000 (prio 0, ram): ram0\n",
	    MEMORY "  0000000000000000-00000000000bffff (prio 0, ram): ram0 @ffffffffffffffff\n",
	    MEMORY "  0000000000000000-00000000000bffff (prio 0, ram):\n",
	    MEMORY "  0000000000000000-00000000000bffff (prio x, ram): ram0\n",
	    MEMORY "  zzzz-yyyy (prio 0, ram): ram0\n",
	};
	for (size_t i = 0; i < sizeof(maps) / sizeof(maps[0]); i++) {
		struct fake_vm_script script = usual;
		script.memory_map = maps[i];
		expect_count(*state, &script, 0);
	}
}

/* A map and a list, each longer than anything sane. */
static void more_than_there_is_room_for_is_cut(void **state)
{
	struct fake_vm_script script = usual;
	char *map = calloc(1, 100000), *list = calloc(1, 100000);
	assert_true(map && list);
	strcpy(map, MEMORY "  0000000000000000-00000000ffffffff (prio 0, ram): ram0\n");
	for (int i = 0; i < 600; i++)
		strcat(map, "  0000000000000000-00000000000bffff (prio 0, ram): ram0\n");
	strcpy(list, "[" DEVICE);
	for (int i = 0; i < 100; i++)
		strcat(list, "," DEVICE);
	strcat(list, "]");
	script.memory_map = map;
	script.virtio = list;
	script.virtio_status = "{\"num-vqs\": 256}";
	expect_count(*state, &script, 4); /* the first device has used up all questions */
	script.virtio_status = "{\"num-vqs\": 257}";
	expect_count(*state, &script, 1);
	script.virtio_status = STATUS;
	expect_count(*state, &script, 1 + 64 * 3);
	free(map);
	free(list);
}

static void a_vmm_that_answers_nothing_is_not_waited_for_long(void **state)
{
	struct fake_vm_script script = usual;
	script.count_from = "x-query-virtio-status";
	script.silent_from_command = 1;
	expect_count(*state, &script, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(the_first_megabyte_and_each_ring_are_found_in_their_blocks),
	    TEST(an_address_is_looked_up_in_the_vm_s_memory_alone),
	    TEST(stop_tells_what_was_found),
	    TEST(a_device_that_vhost_drives_is_asked_without_its_back_end),
	    TEST(devices_behind_an_iommu_are_left_out),
	    TEST(what_is_refused_is_left_out),
	    TEST(a_queue_that_is_refused_does_not_cost_the_others),
	    TEST(devices_that_qemu_may_not_know_are_not_asked_for),
	    TEST(a_vm_that_is_stopped_while_it_is_asked_is_not_moved),
	    TEST(queues_with_impossible_numbers_are_left_out),
	    TEST(addresses_that_are_no_memory_are_left_out),
	    TEST(answers_of_another_kind_name_nothing),
	    TEST(a_map_that_is_none_names_nothing),
	    TEST(more_than_there_is_room_for_is_cut),
	    TEST(a_vmm_that_answers_nothing_is_not_waited_for_long),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
