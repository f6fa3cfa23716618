/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about which VMs the adapter refuses to move, and what it says; of devices no test machine has, too.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "vm_fixture.h"

#define LIST_BYTES 512

enum side { INCOMING, OUTGOING, PRECOPY };

static int check(struct fixture *fixture, enum side side, struct hf_err *err)
{
	return side == INCOMING ? hf_qmp_vm_check_incoming(fixture->vm, err)
				: hf_qmp_vm_check_outgoing(fixture->vm, side == PRECOPY, err);
}

static void expect_allowed(struct fixture *fixture, struct fake_vm_script script, enum side side)
{
	struct hf_err err = HF_ERR_INIT;
	open_vm(fixture, script);
	int r = check(fixture, side, &err);
	if (r < 0)
		print_error("%s\n", err.text);
	assert_int_equal(r, 0);
	close_vm(fixture);
}

static void expect_refused(struct fixture *fixture, struct fake_vm_script script, enum side side,
			   const char *name, const char *kind)
{
	struct hf_err err = HF_ERR_INIT;
	open_vm(fixture, script);
	int r = check(fixture, side, &err);
	if (!strstr(err.text, name) || !strstr(err.text, kind))
		print_error("got %d: %s\n", r, err.text);
	assert_int_equal(r, -EPERM);
	assert_non_null(strstr(err.text, name));
	assert_non_null(strstr(err.text, kind));
	assert_non_null(strstr(err.text, side == PRECOPY ? "without --precopy" : "take it out"));
	close_vm(fixture);
}

static const char *children(const char *kind)
{
	static char list[LIST_BYTES];
	snprintf(list, sizeof(list),
		 "[{\"name\":\"type\",\"type\":\"string\"}, "
		 "{\"name\":\"rng0\",\"type\":\"child<virtio-rng-pci>\"},"
		 " {\"name\":\"odd one\",\"type\":\"child<%s>\"}]",
		 kind);
	return list;
}

static void devices_that_reach_memory_by_another_way_are_refused_on_both_sides(void **state)
{
	static const char *const kinds[] = {
	    "vfio-pci",		  "vfio-pci-nohotplug", "vfio-ap",	  "vhost-vdpa-device-pci",
	    "vhost-user-blk-pci", "vhost-user-fs-pci",	"vhost-user-gpu", "x-pci-proxy-dev",
	    "ivshmem-plain",	  "virtio-mem-pci",	"hv-balloon",
	};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct fake_vm_script script = {.peripherals = children(kinds[i])};
		expect_refused(*state, script, OUTGOING, "device 'odd one'", kinds[i]);
		expect_refused(*state, script, INCOMING, "device 'odd one'", kinds[i]);
	}
}

static void objects_count_as_devices_do(void **state)
{
	static const char *const kinds[] = {"cryptodev-vhost-user", "sev-snp-guest", "tdx-guest"};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		expect_refused(*state, (struct fake_vm_script){.objects = children(kinds[i])}, OUTGOING,
			       "object 'odd one'", kinds[i]);
}

static void devices_whose_memory_goes_through_the_page_tables_are_moved(void **state)
{
	static const char *const kinds[] = {"virtio-balloon-pci", "virtio-net-pci", "vhost-vsock-pci",
					    "vhost-scsi-pci",	  "nvme",	    "pc-dimm"};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct fake_vm_script script = {.peripherals = children(kinds[i])};
		expect_allowed(*state, script, OUTGOING);
		expect_allowed(*state, script, INCOMING);
	}
}

static void network_back_ends_are_looked_at(void **state)
{
	static const char lines[] = "nic: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56\r\n"
				    " \\ net7: index=0,type=%s,vhost-user0 to c0\r\n";
	static const char *const kinds[] = {"vhost-user", "vhost-vdpa"};
	char text[LIST_BYTES];
	for (size_t i = 0; i < 2; i++) {
		snprintf(text, sizeof(text), lines, kinds[i]);
		expect_refused(*state, (struct fake_vm_script){.networks = text}, INCOMING,
			       "network back end 'net7'", kinds[i]);
	}
	snprintf(text, sizeof(text), lines, "tap");
	expect_allowed(*state, (struct fake_vm_script){.networks = text}, INCOMING);
}

static const char *node(const char *driver, bool direct)
{
	static char list[LIST_BYTES];
	snprintf(list, sizeof(list),
		 "[{\"node-name\":\"fmt\",\"drv\":\"qcow2\",\"cache\":{\"direct\":%s}},"
		 " {\"node-name\":\"disk0\",\"drv\":\"%s\",\"cache\":{\"direct\":%s}}]",
		 direct ? "true" : "false", driver, direct ? "true" : "false");
	return list;
}

static void block_drivers_that_map_memory_are_refused(void **state)
{
	static const char *const kinds[] = {"nvme", "nvme-io_uring", "virtio-blk-vhost-user",
					    "virtio-blk-vfio-pci"};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		expect_refused(*state, (struct fake_vm_script){.block_nodes = node(kinds[i], false)},
			       INCOMING, "block node 'disk0'", kinds[i]);
}

static void what_writes_unseen_is_refused_in_rounds_only(void **state)
{
	static const char *const drivers[] = {"file", "host_device", "host_cdrom"};
	static const char *const kinds[] = {"scsi-generic", "scsi-block", "vhost-scsi-pci"};
	for (size_t i = 0; i < 3; i++) {
		struct fake_vm_script script = {.block_nodes = node(drivers[i], true)};
		expect_refused(*state, script, PRECOPY, "'disk0'", drivers[i]);
		expect_allowed(*state, script, OUTGOING);
		expect_allowed(*state, script, INCOMING);
		expect_allowed(*state, (struct fake_vm_script){.block_nodes = node(drivers[i], false)},
			       PRECOPY);
		script = (struct fake_vm_script){.peripherals = children(kinds[i])};
		expect_refused(*state, script, PRECOPY, "'odd one'", kinds[i]);
		expect_allowed(*state, script, OUTGOING);
	}
	/* Its cache.direct is an inherited word. */
	expect_allowed(*state, (struct fake_vm_script){.block_nodes = node("rbd", true)}, PRECOPY);
}

static void a_vmm_that_says_it_cannot_be_migrated_is_believed(void **state)
{
	struct fixture *fixture = *state;
	struct hf_err err = HF_ERR_INIT;
	open_vm(fixture, (struct fake_vm_script){.blocked_reason = "non-migratable device: nvme"});
	assert_int_equal(check(fixture, OUTGOING, &err), -EPERM);
	assert_non_null(strstr(err.text, "non-migratable device: nvme"));
	assert_int_equal(check(fixture, INCOMING, &err), 0);
}

static void a_question_that_is_not_answered_refuses(void **state)
{
	static const char *const commands[] = {"human-monitor-command", "query-named-block-nodes",
					       "query-migrate"};
	struct fixture *fixture = *state;
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		struct hf_err err = HF_ERR_INIT;
		open_vm(fixture, (struct fake_vm_script){.refuse = commands[i]});
		assert_int_equal(check(fixture, OUTGOING, &err), -EREMOTEIO);
		assert_non_null(strstr(err.text, "scripted refusal"));
		close_vm(fixture);
	}
	for (int command = 1; command <= 6; command++) {
		struct hf_err err = HF_ERR_INIT;
		open_vm(fixture, (struct fake_vm_script){.die_at_command = command});
		assert_int_equal(check(fixture, OUTGOING, &err), -ECONNRESET);
		close_vm(fixture);
	}
}

static void stop_and_save(struct fixture *fixture, const struct fake_vm_script *plugged, enum side side)
{
	open_vm(fixture, (struct fake_vm_script){.state_bytes = 1000, .plugged = plugged});
	assert_int_equal(check(fixture, side, NULL), 0);
	expect_ok(fixture, HF_VM_STOP);
	expect_ok(fixture, HF_VM_SAVE);
}

static void what_was_plugged_in_since_is_found_before_the_vm_is_given_up(void **state)
{
	static const char direct[] =
	    "[{\"node-name\":\"odd one\",\"drv\":\"file\",\"cache\":{\"direct\":true}}]";
	struct fixture *fixture = *state;
	struct fake_vm_script vfio = {.peripherals = children("vfio-pci")};
	struct fake_vm_script disk = {.block_nodes = direct};
	struct fake_vm_script larger = {
	    .memory_backends =
		"[{\"id\":\"ram0\",\"size\":4194304},{\"id\":\"anon\",\"size\":4096},{\"size\":8192}]"};
	struct fake_vm_script more = {
	    .memory_backends = "[{\"id\":\"ram0\",\"size\":2097152},{\"id\":\"dimm1\",\"size\":2097152}]"};
	const struct {
		const struct fake_vm_script *plugged;
		enum side side;
		const char *words;
	} cases[] = {{&vfio, OUTGOING, "odd one"},
		     {&disk, PRECOPY, "odd one"},
		     {&larger, OUTGOING, "'ram0', which it had not"},
		     {&more, OUTGOING, "'dimm1', which it had not"}};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		stop_and_save(fixture, cases[i].plugged, cases[i].side);
		expect_failure(fixture, HF_VM_FENCE, EPERM, cases[i].words);
		assert_false(hf_vmm_is_fenced(&fixture->vm->process));
		expect_ok(fixture, HF_VM_RESUME);
		close_vm(fixture);
	}
}

static void what_can_be_opened_while_qemu_migrates_is_looked_at_when_it_has_saved(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script nvme = {.block_nodes = "[{\"node-name\":\"odd one\",\"drv\":\"nvme\"}]"};
	struct fake_vm_script server = {.objects = children("x-vfio-user-server")};
	const struct fake_vm_script *opened[] = {&nvme, &server};
	for (size_t i = 0; i < sizeof(opened) / sizeof(opened[0]); i++) {
		/* More than the socket holds: it is not saved before SAVE. */
		open_vm(fixture, (struct fake_vm_script){.state_bytes = 5000000, .opened = opened[i]});
		assert_int_equal(check(fixture, OUTGOING, NULL), 0);
		expect_ok(fixture, HF_VM_STOP);
		expect_ok(fixture, HF_VM_SAVE);
		expect_failure(fixture, HF_VM_FENCE, EPERM, "odd one");
		close_vm(fixture);
	}
}

static void a_vmm_that_answers_nothing_while_it_saves_is_read_from(void **state)
{
	struct fixture *fixture = *state;
	open_vm(fixture, (struct fake_vm_script){.state_bytes = 5000000, .locks_while_it_saves = true});
	assert_int_equal(check(fixture, OUTGOING, NULL), 0);
	expect_ok(fixture, HF_VM_STOP);
	expect_ok(fixture, HF_VM_SAVE);
	expect_ok(fixture, HF_VM_FENCE);
}

static void what_was_asked_of_a_save_that_is_broken_off_is_asked_again(void **state)
{
	struct fixture *fixture = *state;
	open_vm(fixture, (struct fake_vm_script){.state_bytes = 5000000, .locks_while_it_saves = true});
	assert_int_equal(check(fixture, OUTGOING, NULL), 0);
	for (int i = 0; i < 2; i++) {
		expect_ok(fixture, HF_VM_STOP);
		expect_ok(fixture, HF_VM_RESUME);
		expect_status(fixture, "running");
	}
	expect_ok(fixture, HF_VM_STOP);
	expect_ok(fixture, HF_VM_SAVE);
	expect_ok(fixture, HF_VM_FENCE);
}

static void what_does_not_matter_may_be_plugged_in(void **state)
{
	struct fixture *fixture = *state;
	struct fake_vm_script network = {.peripherals = children("virtio-net-pci"),
					 .memory_backends = "[{\"id\":\"ram0\",\"size\":2097152}]"};
	stop_and_save(fixture, &network, PRECOPY);
	expect_ok(fixture, HF_VM_FENCE);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	    CASE(devices_that_reach_memory_by_another_way_are_refused_on_both_sides),
	    CASE(objects_count_as_devices_do),
	    CASE(devices_whose_memory_goes_through_the_page_tables_are_moved),
	    CASE(network_back_ends_are_looked_at),
	    CASE(block_drivers_that_map_memory_are_refused),
	    CASE(what_writes_unseen_is_refused_in_rounds_only),
	    CASE(a_vmm_that_says_it_cannot_be_migrated_is_believed),
	    CASE(a_question_that_is_not_answered_refuses),
	    CASE(what_was_plugged_in_since_is_found_before_the_vm_is_given_up),
	    CASE(what_can_be_opened_while_qemu_migrates_is_looked_at_when_it_has_saved),
	    CASE(a_vmm_that_answers_nothing_while_it_saves_is_read_from),
	    CASE(what_was_asked_of_a_save_that_is_broken_off_is_asked_again),
	    CASE(what_does_not_matter_may_be_plugged_in),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
