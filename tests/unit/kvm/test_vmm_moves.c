/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device state leaves one VMM and arrives in another, in a process of its own. Memory is carried by hand
 * here; what is tested is that state and memory together are the same guest, and that bad state is refused.
 */
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "hugemem/attach_client.h"
#include "vmm_rig.h"

#define PAGE_BYTES   (2 * RIG_MIB)
#define MEMORY_BYTES (32 * RIG_MIB)
#define STEPS	     300

static const char *const two_vcpus[] = {"--page-size", "2M", "--vcpus", "2", "--fill", "60", NULL};
static const char *const two_vcpus_incoming[] = {"--page-size", "2M",	 "--vcpus", "2",
						 "--incoming",	"defer", NULL};

static json_t *nowhere(void)
{
	return json_pack("{s:s}", "uri", "unix:" RIG_FOLDER "/nobody-listens");
}

static void a_guest_moved_to_another_process_goes_on(void **state)
{
	struct rig_vmm *from = rig_vmm_start("from", MEMORY_BYTES, two_vcpus);

	(void)state;
	rig_await_steps(from, 2, STEPS);
	for (int move = 0; move < 4; move++) {
		struct rig_vmm *to =
		    rig_vmm_start(move % 2 ? "from" : "to", MEMORY_BYTES, two_vcpus_incoming);
		rig_assert_status(to, "inmigrate");
		struct rig_state saved = rig_save(from);
		rig_assert_status(from, "postmigrate");
		rig_load(to, &saved);
		rig_assert_status(to, "paused");
		rig_copy_memory(to, from);
		rig_assert_right(to);
		rig_vmm_quit(from);
		rig_do(to, "cont");
		rig_assert_status(to, "running");
		rig_await_event(to, "RESUME");
		rig_await_steps(to, 2, STEPS);
		free(saved.data);
		from = to;
	}
	rig_do(from, "stop");
	rig_assert_right(from);
	rig_vmm_quit(from);
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* As many as are due, and what may be made up for after a delay (50 ms): a bound on any host. */
static void assert_keeps_pace(struct rig_vmm *vmm, uint64_t steps_per_s)
{
	uint64_t begin_ns = now_ns(), before = hf_guest_count(rig_status(vmm, 0)->step);
	rig_await_steps(vmm, 2, 20);
	uint64_t steps = hf_guest_count(rig_status(vmm, 0)->step) - before;
	uint64_t most = (now_ns() - begin_ns) * steps_per_s / 1000000000u + steps_per_s / 20 + 2;
	if (steps > most)
		fail_msg("%" PRIu64 " steps where %" PRIu64 " are due", steps, most);
}

static void a_paced_guest_keeps_its_pace_where_it_arrives(void **state)
{
	static const char *const paced[] = {"--page-size", "2M", "--vcpus", "2", "--pace", "100", NULL};
	struct rig_vmm *from = rig_vmm_start("from", MEMORY_BYTES, paced);
	struct rig_vmm *to = rig_vmm_start("to", MEMORY_BYTES, two_vcpus_incoming);

	(void)state;
	assert_keeps_pace(from, 100);
	struct rig_state saved = rig_save(from);
	rig_load(to, &saved);
	rig_copy_memory(to, from);
	rig_assert_right(to);
	rig_do(to, "cont");
	assert_keeps_pace(to, 100);
	rig_do(to, "stop");
	rig_assert_right(to);
	free(saved.data);
	rig_vmm_quit(from);
	rig_vmm_quit(to);
}

static void saved_loaded_and_saved_again_is_the_same(void **state)
{
	struct rig_vmm *from = rig_vmm_start("from", MEMORY_BYTES, two_vcpus);
	struct rig_vmm *to = rig_vmm_start("to", MEMORY_BYTES, two_vcpus_incoming);

	(void)state;
	rig_await_steps(from, 2, STEPS);
	struct rig_state first = rig_save(from);
	rig_load(to, &first);
	struct rig_state second = rig_save(to), third = rig_save(from);
	assert_int_equal(first.length, second.length);
	assert_memory_equal(first.data, second.data, first.length);
	assert_int_equal(first.length, third.length);
	assert_memory_equal(first.data, third.data, first.length);
	free(first.data);
	free(second.data);
	free(third.data);
	rig_vmm_quit(from);
	rig_vmm_quit(to);
}

static void loading_touches_no_memory(void **state)
{
	struct rig_vmm *from = rig_vmm_start("from", MEMORY_BYTES, two_vcpus);
	struct rig_vmm *to = rig_vmm_start("to", MEMORY_BYTES, two_vcpus_incoming);
	struct rig_state saved = rig_save(from);
	struct stat file;

	(void)state;
	rig_load(to, &saved);
	assert_int_equal(stat(from->ram_path, &file), 0);
	assert_true(file.st_blocks > 0);
	assert_int_equal(stat(to->ram_path, &file), 0);
	assert_int_equal(file.st_blocks, 0);
	free(saved.data);
	rig_vmm_quit(from);
	rig_vmm_quit(to);
}

static void a_given_up_source_can_take_its_guest_back(void **state)
{
	struct rig_vmm *vmm = rig_vmm_start("back", MEMORY_BYTES, two_vcpus);

	(void)state;
	rig_await_steps(vmm, 2, 10);
	struct rig_state saved = rig_save(vmm);
	free(saved.data);
	rig_await_event(vmm, "STOP");
	rig_assert_status(vmm, "postmigrate");
	rig_do(vmm, "cont");
	rig_assert_status(vmm, "running");
	rig_await_steps(vmm, 2, STEPS);
	rig_do(vmm, "stop");
	rig_assert_right(vmm);
	rig_vmm_quit(vmm);
}

static void a_migration_to_nobody_fails_and_the_guest_runs_on(void **state)
{
	struct rig_vmm *vmm = rig_vmm_start("nobody", MEMORY_BYTES, two_vcpus);

	(void)state;
	json_decref(rig_execute(vmm, "migrate", nowhere()));
	rig_await_migration(vmm, "failed");
	rig_assert_status(vmm, "running");
	json_t *reply = rig_execute(vmm, "query-migrate", NULL);
	assert_non_null(strstr(json_string_value(json_object_get(reply, "error-desc")), "nobody-listens"));
	json_decref(reply);
	rig_await_steps(vmm, 2, 10);

	rig_do(vmm, "stop");
	json_decref(rig_execute(vmm, "migrate", nowhere()));
	rig_await_migration(vmm, "failed");
	rig_assert_status(vmm, "paused");
	rig_assert_right(vmm);
	rig_vmm_quit(vmm);
}

static void commands_that_make_no_sense_are_refused(void **state)
{
	struct rig_vmm *runs = rig_vmm_start("runs", MEMORY_BYTES, two_vcpus);
	struct rig_vmm *waits = rig_vmm_start("waits", MEMORY_BYTES, two_vcpus_incoming);

	(void)state;
	rig_refuse(runs, "migrate-incoming", nowhere(), "'-incoming' was not specified");
	rig_refuse(runs, "migrate", json_pack("{s:s}", "uri", "tcp:127.0.0.1:1"), "unix:PATH");
	rig_refuse(runs, "migrate", json_pack("{s:s}", "uri", "unix:"), "unix:PATH");
	rig_refuse(runs, "migrate", json_pack("{s:i}", "uri", 3), "unix:PATH");
	rig_refuse(runs, "migrate", NULL, "uri");
	rig_refuse(waits, "cont", NULL, "has not been loaded");
	rig_refuse(waits, "migrate", nowhere(), "waiting for an incoming migration");
	json_decref(rig_execute(waits, "migrate-incoming", nowhere()));
	rig_refuse(waits, "migrate-incoming", nowhere(), "already been started");
	rig_refuse(waits, "cont", NULL, "has not been loaded");
	rig_refuse(runs, "migrate-set-capabilities",
		   json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", "postcopy-ram", "state", 1),
		   "postcopy-ram");
	rig_refuse(runs, "migrate-set-capabilities", json_pack("{s:[i]}", "capabilities", 3),
		   "Invalid parameter");
	rig_vmm_quit(runs);
	rig_vmm_quit(waits);
}

static void an_incoming_migration_can_be_cancelled_and_tried_again(void **state)
{
	struct rig_vmm *from = rig_vmm_start("from", MEMORY_BYTES, two_vcpus);
	struct rig_vmm *to = rig_vmm_start("to", MEMORY_BYTES, two_vcpus_incoming);

	(void)state;
	json_decref(rig_execute(to, "migrate-incoming", nowhere()));
	rig_do(to, "migrate_cancel");
	rig_await_migration(to, "cancelled");
	assert_int_equal(access(RIG_FOLDER "/nobody-listens", F_OK), -1);
	struct rig_state saved = rig_save(from);
	rig_load(to, &saved);
	rig_copy_memory(to, from);
	rig_do(to, "cont");
	rig_await_steps(to, 2, 10);
	free(saved.data);
	rig_vmm_quit(from);
	rig_vmm_quit(to);
}

static void migration_events_come_when_asked_for(void **state)
{
	struct rig_vmm *from = rig_vmm_start("from", MEMORY_BYTES, two_vcpus);

	(void)state;
	json_decref(
	    rig_execute(from, "migrate-set-capabilities",
			json_pack("{s:[{s:s, s:b}]}", "capabilities", "capability", "events", "state", 1)));
	struct rig_state saved = rig_save(from);
	free(saved.data);
	rig_await_event(from, "MIGRATION setup");
	rig_await_event(from, "MIGRATION active");
	rig_await_event(from, "MIGRATION completed");
	rig_vmm_quit(from);
}

static void other_clients_are_served_while_a_migration_waits(void **state)
{
	struct rig_vmm *to = rig_vmm_start("to", MEMORY_BYTES, two_vcpus_incoming);
	struct rig_vmm other = {0};

	(void)state;
	json_decref(rig_execute(to, "migrate-incoming", nowhere()));
	assert_int_equal(hf_qmp_client_connect(&other.client, to->qmp_path, NULL, NULL, NULL), 0);
	rig_assert_status(&other, "inmigrate");
	hf_qmp_client_destroy(other.client);
	rig_vmm_quit(to);
}

/* ---- hostile device state --------------------------------------------------------------------- */

static void assert_refused(struct rig_vmm *vmm, const struct rig_state *bad, const char *why)
{
	rig_offer(vmm, bad);
	rig_await_migration(vmm, "failed");
	json_t *reply = rig_execute(vmm, "query-migrate", NULL);
	const char *said = json_string_value(json_object_get(reply, "error-desc"));
	if (!said || !strstr(said, why))
		fail_msg("'%s' does not say '%s'", said, why);
	json_decref(reply);
	rig_assert_status(vmm, "inmigrate");
	rig_refuse(vmm, "cont", NULL, "has not been loaded");
}

static void damaged_state_is_refused_and_good_state_still_loads(void **state)
{
	struct rig_vmm *from = rig_vmm_start("from", MEMORY_BYTES, two_vcpus);
	struct rig_vmm *to = rig_vmm_start("to", MEMORY_BYTES, two_vcpus_incoming);
	rig_await_steps(from, 2, STEPS);
	struct rig_state good = rig_save(from);
	struct rig_state bad = {malloc(good.length), 0};

	(void)state;
	assert_refused(to, &bad, "cannot be a device state");
	memcpy(bad.data, good.data, good.length);
	for (int i = 1; i < 8; i++) {
		bad.length = good.length * (size_t)i / 8;
		assert_refused(to, &bad, "device state");
	}
	bad.length = good.length;
	((uint8_t *)bad.data)[good.length / 2] ^= 1;
	assert_refused(to, &bad, "checksum");
	memset(bad.data, 0xff, good.length);
	assert_refused(to, &bad, "no device state");

	rig_load(to, &good);
	rig_copy_memory(to, from);
	rig_do(to, "cont");
	rig_await_steps(to, 2, 10);
	rig_do(to, "stop");
	rig_assert_right(to);
	free(good.data);
	free(bad.data);
	rig_vmm_quit(from);
	rig_vmm_quit(to);
}

static void refuses_state_of(uint64_t memory_bytes, const char *vcpus, const char *why)
{
	const char *const options[] = {"--page-size", "2M", "--vcpus", vcpus, NULL};
	struct rig_vmm *from = rig_vmm_start("from", memory_bytes, options);
	struct rig_vmm *to = rig_vmm_start("to", MEMORY_BYTES, two_vcpus_incoming);
	struct rig_state other = rig_save(from);

	assert_refused(to, &other, why);
	free(other.data);
	rig_vmm_quit(from);
	rig_vmm_quit(to);
}

static void state_of_another_memory_size_is_refused(void **state)
{
	(void)state;
	refuses_state_of(MEMORY_BYTES / 2, "2", "memory is 16 MiB on the source and 32 MiB here");
}

static void state_of_another_number_of_vcpus_is_refused(void **state)
{
	(void)state;
	refuses_state_of(MEMORY_BYTES, "1", "1 vCPUs on the source and 2 here");
}

/* ---- the attach hand-off ---------------------------------------------------------------------- */

static struct rig_vmm *start_attached(void)
{
	const char attach_path[] = RIG_FOLDER "/attached.attach";
	const char *const options[] = {"--page-size", "2M",	  "--vcpus",   "2", "--incoming",
				       "defer",	      "--attach", attach_path, NULL};
	return rig_vmm_start("attached", MEMORY_BYTES, options);
}

static int arm(struct rig_vmm *vmm, struct hf_attach_client **client)
{
	struct hf_err err = HF_ERR_INIT;
	int userfault = -1;

	if (hf_attach_client_connect(client, vmm->attach_path, &err) ||
	    hf_attach_client_userfault(*client, HF_USERFAULT_MISSING | HF_USERFAULT_MINOR, 0, &userfault,
				       &err))
		fail_msg("%s", err.text);
	return userfault;
}

static void memory_must_be_attached_before_state_comes_in(void **state)
{
	struct rig_vmm *vmm = start_attached();
	struct hf_attach_client *client = NULL;

	(void)state;
	rig_refuse(vmm, "migrate-incoming", nowhere(), "not attached");
	int userfault = arm(vmm, &client);
	json_decref(rig_execute(vmm, "migrate-incoming", nowhere()));
	close(userfault);
	hf_attach_client_destroy(client);
	rig_vmm_quit(vmm);
}

static void it_does_not_run_when_nobody_serves_its_pages_any_more(void **state)
{
	struct rig_vmm *from = rig_vmm_start("from", MEMORY_BYTES, two_vcpus);
	struct rig_vmm *to = start_attached();
	struct hf_attach_client *client = NULL;
	struct rig_state saved = rig_save(from);
	int userfault = arm(to, &client);

	(void)state;
	rig_load(to, &saved);
	close(userfault);
	assert_int_equal(hf_attach_client_release(client, NULL), 0);
	rig_refuse(to, "cont", NULL, "not attached");
	rig_assert_status(to, "paused");
	hf_attach_client_destroy(client);
	free(saved.data);
	rig_vmm_quit(from);
	rig_vmm_quit(to);
}

static bool vcpus_have_faulted(void *opaque)
{
	/* 32 bytes is one struct uffd_msg; two vCPUs, two faults. */
	int *faults = opaque;
	uint8_t message[32];
	while (read(faults[0], message, sizeof(message)) == sizeof(message))
		faults[1]++;
	return faults[1] >= 2;
}

/* Kernels differ in whether such a wait can be interrupted; the answer must come and be true. */
static void stopping_a_vcpu_that_waits_for_a_page_is_answered(void **state)
{
	struct rig_vmm *from = rig_vmm_start("from", MEMORY_BYTES, two_vcpus);
	struct rig_vmm *to = start_attached();
	struct hf_attach_client *client = NULL;
	struct rig_state saved = rig_save(from);
	int faults[2] = {arm(to, &client), 0};
	struct hf_err err = HF_ERR_INIT;

	(void)state;
	rig_load(to, &saved);
	rig_do(to, "cont");
	rig_wait_until(vcpus_have_faulted, faults, "both vCPUs to fault");
	if (hf_qmp_client_execute(to->client, "stop", NULL, RIG_LIMIT_MS, NULL, &err)) {
		assert_non_null(strstr(err.text, "waits for a page"));
		rig_assert_status(to, "running");
	} else {
		rig_assert_status(to, "paused");
	}
	close(faults[0]);
	hf_attach_client_destroy(client);
	free(saved.data);
	rig_vmm_quit(from);
	rig_vmm_quit(to);
}

/* As a crashed agent's supervisor would see it: the descriptor lives on elsewhere, nobody reads it. */
static void it_ends_though_a_vcpu_waits_for_a_page_for_ever(void **state)
{
	struct rig_vmm *from = rig_vmm_start("from", MEMORY_BYTES, two_vcpus);
	struct rig_vmm *to = start_attached();
	struct hf_attach_client *client = NULL;
	struct rig_state saved = rig_save(from);
	int faults[2] = {arm(to, &client), 0};

	(void)state;
	rig_load(to, &saved);
	rig_do(to, "cont");
	rig_wait_until(vcpus_have_faulted, faults, "both vCPUs to fault");
	rig_vmm_quit(to);
	close(faults[0]);
	hf_attach_client_destroy(client);
	free(saved.data);
	rig_vmm_quit(from);
}

static int setup(void **state)
{
	(void)state;
	return rig_setup(PAGE_BYTES, 2 * MEMORY_BYTES / PAGE_BYTES);
}

static int teardown(void **state)
{
	(void)state;
	return rig_teardown();
}

#define MOVE_TEST(claim) cmocka_unit_test_teardown(claim, rig_end_all)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    MOVE_TEST(a_guest_moved_to_another_process_goes_on),
	    MOVE_TEST(a_paced_guest_keeps_its_pace_where_it_arrives),
	    MOVE_TEST(saved_loaded_and_saved_again_is_the_same),
	    MOVE_TEST(loading_touches_no_memory),
	    MOVE_TEST(a_given_up_source_can_take_its_guest_back),
	    MOVE_TEST(a_migration_to_nobody_fails_and_the_guest_runs_on),
	    MOVE_TEST(commands_that_make_no_sense_are_refused),
	    MOVE_TEST(an_incoming_migration_can_be_cancelled_and_tried_again),
	    MOVE_TEST(migration_events_come_when_asked_for),
	    MOVE_TEST(other_clients_are_served_while_a_migration_waits),
	    MOVE_TEST(damaged_state_is_refused_and_good_state_still_loads),
	    MOVE_TEST(state_of_another_memory_size_is_refused),
	    MOVE_TEST(state_of_another_number_of_vcpus_is_refused),
	    MOVE_TEST(memory_must_be_attached_before_state_comes_in),
	    MOVE_TEST(it_does_not_run_when_nobody_serves_its_pages_any_more),
	    MOVE_TEST(stopping_a_vcpu_that_waits_for_a_page_is_answered),
	    MOVE_TEST(it_ends_though_a_vcpu_waits_for_a_page_for_ever),
	};
	return cmocka_run_group_tests_name("kvm/vmm moves", tests, setup, teardown);
}
