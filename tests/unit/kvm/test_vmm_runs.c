/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reference VMM alone: its guest runs, checks its memory, sees what is wrong; it stops, goes on and ends
 * as told.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "kvm/qmp_vm.h"
#include "kvm/qmp_vm_internal.h"
#include "kvm/vmm_process.h"
#include "vmm_rig.h"

#define PAGE_BYTES   (2 * RIG_MIB)
#define MEMORY_BYTES (32 * RIG_MIB)
#define STEPS	     300 /* more than HF_GUEST_PORT_STEPS, so that each vCPU has read its port twice */

static const char *const small[] = {"--page-size", "2M", "--fill", "70", NULL};

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void runs_right_on(uint32_t vcpus, const char *pattern)
{
	char number[8];
	const char *const options[] = {"--page-size", "2M",	"--vcpus", number, "--pattern",
				       pattern,	      "--fill", "80",	   NULL};
	snprintf(number, sizeof(number), "%u", vcpus);
	struct rig_vmm *vmm = rig_vmm_start("runs", MEMORY_BYTES, options);

	rig_assert_status(vmm, "running");
	rig_await_steps(vmm, vcpus, STEPS);
	rig_do(vmm, "stop");
	rig_assert_right(vmm);
	struct hf_guest_report report = rig_verify(vmm);
	assert_int_equal(report.vcpus, vcpus);
	assert_true(report.visits > 0 && report.writes > 0);
	assert_int_equal(report.visits, hf_guest_visits(vmm->memory, MEMORY_BYTES));
	for (uint32_t i = 0; i < vcpus; i++) {
		assert_true(hf_guest_count(rig_status(vmm, i)->port_uses) >= 2);
		assert_true(hf_guest_count(rig_status(vmm, i)->stall_ticks) > 0);
	}
	rig_vmm_quit(vmm);
}

static void the_guest_runs_right_on_one_vcpu(void **state)
{
	(void)state;
	runs_right_on(1, "random");
}

static void the_guest_runs_right_on_two_vcpus(void **state)
{
	(void)state;
	runs_right_on(2, "sequential");
}

static void the_guest_runs_right_on_eight_vcpus(void **state)
{
	(void)state;
	runs_right_on(8, "hot");
}

static void vcpu_threads_are_those_query_cpus_fast_names(void **state)
{
	const char *const options[] = {"--page-size", "2M", "--vcpus", "2", NULL};
	struct rig_vmm *vmm = rig_vmm_start("threads", MEMORY_BYTES, options);
	json_t *vcpus = rig_execute(vmm, "query-cpus-fast", NULL);

	(void)state;
	assert_int_equal(json_array_size(vcpus), 2);
	for (int i = 0; i < 2; i++) {
		json_t *vcpu = json_array_get(vcpus, (size_t)i);
		char path[64], name[32] = "", wanted[32];
		assert_int_equal(json_integer_value(json_object_get(vcpu, "cpu-index")), i);
		snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", vmm->pid,
			 (int)json_integer_value(json_object_get(vcpu, "thread-id")));
		snprintf(wanted, sizeof(wanted), "vcpu %d\n", i);
		FILE *file = fopen(path, "re");
		assert_non_null(file);
		assert_non_null(fgets(name, sizeof(name), file));
		fclose(file);
		assert_string_equal(name, wanted);
	}
	json_decref(vcpus);
	rig_vmm_quit(vmm);
}

static void a_stopped_guest_stands_and_goes_on(void **state)
{
	struct rig_vmm *vmm = rig_vmm_start("stop", MEMORY_BYTES, small);

	(void)state;
	for (int round = 0; round < 20; round++) {
		rig_await_steps(vmm, 1, 5);
		rig_do(vmm, "stop");
		rig_assert_status(vmm, "paused");
		uint64_t step = rig_status(vmm, 0)->step;
		rig_assert_right(vmm);
		rig_do(vmm, "stop");
		assert_int_equal(rig_status(vmm, 0)->step, step);
		rig_do(vmm, "cont");
		rig_assert_status(vmm, "running");
	}
	rig_await_event(vmm, "STOP");
	rig_await_event(vmm, "RESUME");
	rig_vmm_quit(vmm);
}

/* ---- the fence ---- */

static void a_fenced_vmm_takes_no_step_until_it_is_thawed(void **state)
{
	static const char *const four[] = {"--page-size", "2M", "--vcpus", "4", "--fill", "70", NULL};
	struct rig_vmm *vmm = rig_vmm_start("fenced", MEMORY_BYTES, four);
	struct hf_vmm_process process = {0};
	uint64_t longest_ns = 0, steps[4];

	(void)state;
	assert_int_equal(hf_vmm_open(&process, vmm->pid, NULL), 0);
	for (int round = 0; round < 30; round++) {
		rig_await_steps(vmm, 4, 5);
		uint64_t begin_ns = now_ns();
		assert_int_equal(hf_vmm_fence(&process, HF_VMM_FENCE_LIMIT_MS, NULL), 0);
		uint64_t taken_ns = now_ns() - begin_ns;
		longest_ns = taken_ns > longest_ns ? taken_ns : longest_ns;
		for (uint32_t i = 0; i < 4; i++)
			steps[i] = rig_status(vmm, i)->step;
		rig_assert_right(vmm); // reads all of the memory
		for (uint32_t i = 0; i < 4; i++)
			assert_int_equal(rig_status(vmm, i)->step, steps[i]);
		assert_int_equal(hf_vmm_thaw(&process, NULL), 0);
	}
	print_message("the longest fence took %.3f ms\n", (double)longest_ns / 1e6);
	hf_vmm_close(&process);
	rig_vmm_quit(vmm);
}

static void a_stopped_vm_is_fenced_and_one_revived_by_another_client_is_not(void **state)
{
	struct rig_vmm *vmm = rig_vmm_start("fenced", MEMORY_BYTES, small);
	struct hf_err err = HF_ERR_INIT;
	struct hf_qmp_vm *vm = NULL;
	char status[32];

	(void)state;
	assert_int_equal(hf_qmp_vm_create(&vm, vmm->qmp_path, &err), 0);
	for (int revived = 0; revived < 2; revived++) {
		assert_int_equal(hf_qmp_vm_do(vm, HF_VM_STOP, &err), 0);
		if (revived) {
			rig_do(vmm, "cont");
			rig_do(vmm, "stop");
		}
		assert_int_equal(hf_qmp_vm_do(vm, HF_VM_FENCE, &err), revived ? -EPERM : 0);
		assert_int_equal(hf_qmp_vm_status(vm, status, sizeof(status), NULL), 0);
		assert_string_equal(status, revived ? "paused" : "fenced");
		assert_int_equal(hf_qmp_vm_resume(vm, NULL), 0);
		rig_await_steps(vmm, 1, STEPS);
	}
	hf_qmp_vm_destroy(vm);
	rig_vmm_quit(vmm);
}

/* ---- corruption ------------------------------------------------------------------------------- */

struct seen {
	const struct rig_vmm *vmm;
};

static bool guest_has_seen(void *opaque)
{
	return rig_guest_errors(((struct seen *)opaque)->vmm, 1) > 0;
}

static uint64_t some_page(const struct rig_vmm *vmm, bool hole)
{
	const struct hf_guest_header *header =
	    (const struct hf_guest_header *)(vmm->memory + HF_GUEST_HEADER_OFFSET);
	uint64_t page = header->system_pages;
	while (page < header->pages && hf_guest_is_hole(header, page) != hole)
		page++;
	assert_true(page < header->pages);
	return page;
}

/* Is the step under way on this page? It may be about to write what it has checked already. */
static bool is_on_page(const struct rig_vmm *vmm, uint64_t page)
{
	const struct hf_guest_header *header =
	    (const struct hf_guest_header *)(vmm->memory + HF_GUEST_HEADER_OFFSET);
	uint64_t step = hf_guest_count(rig_status(vmm, 0)->step);
	return hf_guest_step_page(header, 0, step, hf_guest_step_random(header, 0, step)) == page;
}

static void stop_off_page(struct rig_vmm *vmm, uint64_t page)
{
	rig_do(vmm, "stop");
	while (is_on_page(vmm, page)) {
		rig_do(vmm, "cont");
		rig_await_steps(vmm, 1, 1);
		rig_do(vmm, "stop");
	}
	rig_assert_right(vmm);
}

static struct rig_vmm *start_and_stop(void)
{
	struct rig_vmm *vmm = rig_vmm_start("damaged", MEMORY_BYTES, small);
	rig_await_steps(vmm, 1, 50);
	stop_off_page(vmm, some_page(vmm, false));
	return vmm;
}

/* Damage has been done to the stopped VM: the verifier finds it, and the guest when it goes on. */
static void assert_both_see(struct rig_vmm *vmm, uint64_t page)
{
	struct seen seen = {vmm};
	struct hf_guest_report report = rig_verify(vmm);

	assert_true(report.bytes_wrong > 0);
	assert_int_equal(report.guest_errors, 0);
	rig_do(vmm, "cont");
	rig_wait_until(guest_has_seen, &seen, "the guest to see the damage");
	rig_do(vmm, "stop");
	const struct hf_guest_status *status = rig_status(vmm, 0);
	assert_int_equal(status->bad_address / PAGE_BYTES, page);
	assert_int_not_equal(status->bad_expected, status->bad_found);
	rig_vmm_quit(vmm);
}

static void a_zeroed_page_is_seen_by_guest_and_verifier(void **state)
{
	struct rig_vmm *vmm = start_and_stop();
	uint64_t page = some_page(vmm, false);

	(void)state;
	memset(vmm->memory + page * PAGE_BYTES, 0, PAGE_BYTES);
	assert_both_see(vmm, page);
}

static bool ledger_moved(void *opaque)
{
	const uint64_t *const *words = opaque;
	return __atomic_load_n(words[0], __ATOMIC_RELAXED) != *words[1];
}

/* Puts back bytes of a page as they were before the guest's last write to its slot there. */
static void put_back(uint64_t bytes_around_slot)
{
	struct rig_vmm *vmm = start_and_stop();
	const struct hf_guest_header *header =
	    (const struct hf_guest_header *)(vmm->memory + HF_GUEST_HEADER_OFFSET);
	uint64_t page = some_page(vmm, false);
	uint8_t *before = malloc(PAGE_BYTES);
	const uint64_t *ledger = (const uint64_t *)(vmm->memory + hf_guest_ledger_offset(header, 0, page));
	uint64_t count = *ledger;
	const uint64_t *words[] = {ledger, &count};

	assert_non_null(before);
	memcpy(before, vmm->memory + page * PAGE_BYTES, PAGE_BYTES);
	rig_do(vmm, "cont");
	rig_wait_until(ledger_moved, words, "a write to the page");
	rig_await_steps(vmm, 1, 1);
	stop_off_page(vmm, page);
	uint64_t start = hf_guest_slot_offset(header, page, 0) & ~(bytes_around_slot - 1);
	memcpy(vmm->memory + page * PAGE_BYTES + start, before + start, bytes_around_slot);
	free(before);
	assert_both_see(vmm, page);
}

static void a_stale_page_is_seen_by_guest_and_verifier(void **state)
{
	(void)state;
	put_back(PAGE_BYTES);
}

static void a_torn_page_is_seen_by_guest_and_verifier(void **state)
{
	(void)state;
	put_back(4096);
}

static void a_flipped_bit_is_seen_by_guest_and_verifier(void **state)
{
	struct rig_vmm *vmm = start_and_stop();
	const struct hf_guest_header *header =
	    (const struct hf_guest_header *)(vmm->memory + HF_GUEST_HEADER_OFFSET);
	uint64_t page = some_page(vmm, false);

	(void)state;
	vmm->memory[page * PAGE_BYTES + hf_guest_slot_offset(header, page, 0) + 3] ^= 0x10;
	assert_int_equal(rig_verify(vmm).bytes_wrong, 1);
	assert_both_see(vmm, page);
}

static void a_flipped_bit_in_a_hole_is_seen_by_the_verifier(void **state)
{
	struct rig_vmm *vmm = start_and_stop();
	uint64_t page = some_page(vmm, true);

	(void)state;
	vmm->memory[page * PAGE_BYTES + 12345] ^= 0x01;
	struct hf_guest_report report = rig_verify(vmm);
	assert_int_equal(report.bytes_wrong, 1);
	assert_int_equal(report.first_wrong_offset, page * PAGE_BYTES + 12345);
	rig_vmm_quit(vmm);
}

/* All of memory is of one moment, so only the vCPU's registers know better. */
static void memory_older_than_the_registers_is_seen_by_the_guest(void **state)
{
	struct rig_vmm *vmm = start_and_stop();
	struct seen seen = {vmm};
	uint8_t *before = malloc(MEMORY_BYTES);

	(void)state;
	assert_non_null(before);
	memcpy(before, vmm->memory, MEMORY_BYTES);
	rig_do(vmm, "cont");
	rig_await_steps(vmm, 1, 20);
	rig_do(vmm, "stop");
	memcpy(vmm->memory, before, MEMORY_BYTES);
	free(before);
	rig_assert_right(vmm);
	rig_do(vmm, "cont");
	rig_wait_until(guest_has_seen, &seen, "the guest to see that steps are missing");
	rig_vmm_quit(vmm);
}

static bool has_failed(void *opaque)
{
	json_t *reply = rig_execute(opaque, "query-status", NULL);
	bool failed = !strcmp(json_string_value(json_object_get(reply, "status")), "internal-error");
	json_decref(reply);
	return failed;
}

static void a_guest_without_its_program_ends_in_internal_error(void **state)
{
	const char *const options[] = {"--page-size", "2M", "--vcpus", "2", NULL};
	struct rig_vmm *vmm = rig_vmm_start("crashed", MEMORY_BYTES, options);

	(void)state;
	rig_await_steps(vmm, 2, 5);
	rig_do(vmm, "stop");
	memset(vmm->memory, 0, PAGE_BYTES);
	rig_do(vmm, "cont");
	rig_wait_until(has_failed, vmm, "the vCPU to fail");
	rig_refuse(vmm, "cont", NULL, "Resetting");
	rig_refuse(vmm, "migrate", json_pack("{s:s}", "uri", "unix:" RIG_FOLDER "/x"), "failed");
	rig_vmm_quit(vmm);
}

/* ---- the end ---------------------------------------------------------------------------------- */

static void a_signal_ends_it_cleanly(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct rig_vmm *vmm = rig_vmm_start("signalled", MEMORY_BYTES, small);
		kill(vmm->pid, i ? SIGINT : SIGTERM);
		assert_int_equal(rig_vmm_wait(vmm), 0);
		assert_int_equal(access(vmm->ram_path, F_OK), -1);
		assert_int_equal(access(vmm->qmp_path, F_OK), -1);
		rig_await_event(vmm, "SHUTDOWN");
		rig_vmm_forget(vmm);
	}
}

static bool is_gone(void *path)
{
	return access(path, F_OK) < 0;
}

static bool exists(void *path)
{
	return !access(path, F_OK);
}

static void it_ends_when_its_parent_is_killed(void **state)
{
	char ram[] = RIG_HUGE_FOLDER "/orphan", qmp[] = RIG_FOLDER "/orphan";
	const char *vmm = getenv("HUGEFERRY_VMM");

	(void)state;
	if (!vmm) {
		fail_msg("HUGEFERRY_VMM names no program");
		return;
	}
	pid_t parent = fork();
	assert_true(parent >= 0);
	if (parent == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pid_t child = fork();
		if (child == 0)
			execl(vmm, "hugeferry-vmm", "--mem", "32M", "--page-size", "2M", "--ram-file", ram,
			      "--qmp", "unix:" RIG_FOLDER "/orphan", "--die-with-parent", "--accel",
			      rig_accel(), (char *)NULL);
		pause();
		_exit(1);
	}
	rig_wait_until(exists, qmp, "the VMM to start");
	kill(parent, SIGKILL);
	waitpid(parent, NULL, 0);
	rig_wait_until(is_gone, ram, "the VMM to end");
	rig_wait_until(is_gone, qmp, "the VMM to end");
}

static void memory_and_its_file_are_described_as_qemu_does(void **state)
{
	const char *const options[] = {"--page-size", "2M", "--id", "mem7", NULL};
	struct rig_vmm *vmm = rig_vmm_start("described", MEMORY_BYTES, options);
	json_t *reply = rig_execute(vmm, "query-memdev", NULL);
	json_t *backend = json_array_get(reply, 0);

	(void)state;
	assert_int_equal(json_array_size(reply), 1);
	assert_string_equal(json_string_value(json_object_get(backend, "id")), "mem7");
	assert_int_equal(json_integer_value(json_object_get(backend, "size")), MEMORY_BYTES);
	assert_true(json_is_true(json_object_get(backend, "share")));
	json_decref(reply);
	reply = rig_execute(vmm, "qom-get",
			    json_pack("{s:s, s:s}", "path", "/objects/mem7", "property", "mem-path"));
	assert_string_equal(json_string_value(reply), vmm->ram_path);
	json_decref(reply);
	rig_refuse(vmm, "qom-get", json_pack("{s:s, s:s}", "path", "/objects/other", "property", "size"),
		   "not found");
	rig_refuse(vmm, "qom-get", json_pack("{s:s, s:s}", "path", "/objects/mem7", "property", "colour"),
		   "not found");
	rig_refuse(vmm, "qom-get", json_pack("{s:i, s:s}", "path", 4, "property", "colour"),
		   "Invalid parameter");
	rig_vmm_quit(vmm);
}

static int setup(void **state)
{
	(void)state;
	return rig_setup(PAGE_BYTES, MEMORY_BYTES / PAGE_BYTES);
}

static int teardown(void **state)
{
	(void)state;
	return rig_teardown();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_teardown(the_guest_runs_right_on_one_vcpu, rig_end_all),
	    cmocka_unit_test_teardown(the_guest_runs_right_on_two_vcpus, rig_end_all),
	    cmocka_unit_test_teardown(the_guest_runs_right_on_eight_vcpus, rig_end_all),
	    cmocka_unit_test_teardown(vcpu_threads_are_those_query_cpus_fast_names, rig_end_all),
	    cmocka_unit_test_teardown(a_stopped_guest_stands_and_goes_on, rig_end_all),
	    cmocka_unit_test_teardown(a_fenced_vmm_takes_no_step_until_it_is_thawed, rig_end_all),
	    cmocka_unit_test_teardown(a_stopped_vm_is_fenced_and_one_revived_by_another_client_is_not,
				      rig_end_all),
	    cmocka_unit_test_teardown(a_zeroed_page_is_seen_by_guest_and_verifier, rig_end_all),
	    cmocka_unit_test_teardown(a_stale_page_is_seen_by_guest_and_verifier, rig_end_all),
	    cmocka_unit_test_teardown(a_torn_page_is_seen_by_guest_and_verifier, rig_end_all),
	    cmocka_unit_test_teardown(a_flipped_bit_is_seen_by_guest_and_verifier, rig_end_all),
	    cmocka_unit_test_teardown(a_flipped_bit_in_a_hole_is_seen_by_the_verifier, rig_end_all),
	    cmocka_unit_test_teardown(memory_older_than_the_registers_is_seen_by_the_guest, rig_end_all),
	    cmocka_unit_test_teardown(a_guest_without_its_program_ends_in_internal_error, rig_end_all),
	    cmocka_unit_test_teardown(a_signal_ends_it_cleanly, rig_end_all),
	    cmocka_unit_test_teardown(it_ends_when_its_parent_is_killed, rig_end_all),
	    cmocka_unit_test_teardown(memory_and_its_file_are_described_as_qemu_does, rig_end_all),
	};
	return cmocka_run_group_tests_name("kvm/vmm runs", tests, setup, teardown);
}
