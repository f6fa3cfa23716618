/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about the durable record of who may run a VM. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "hugemem/process_stat.h"
#include "record_rig.h"

enum { SLOT = HF_VM_RECORD_SLOT_BYTES, TAIL = HF_VM_RECORD_DESCRIPTION_AT };

static void expect_state(const struct record_rig *rig, enum hf_vm_record_role role, enum hf_record record,
			 uint64_t epoch)
{
	struct hf_vm_record_state state;
	struct hf_err err = HF_ERR_INIT;
	if (hf_vm_record_read(rig->dir, role, "vm1", &state, NULL, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(state.record, record);
	assert_int_equal(state.epoch, epoch);
}

static void expect_same_text(const char *a, const char *b)
{
	if (a && b)
		assert_string_equal(a, b);
	else
		assert_true(a == b);
}

static void expect_same_description(const struct hf_vm_record_description *a,
				    const struct hf_vm_record_description *b)
{
	assert_int_equal(a->role, b->role);
	assert_memory_equal(a->session, b->session, sizeof(a->session));
	assert_string_equal(a->vm_name, b->vm_name);
	assert_int_equal(a->vmm_pid, b->vmm_pid);
	assert_int_equal(a->vmm_start_ticks, b->vmm_start_ticks);
	assert_string_equal(a->boot_id, b->boot_id);
	expect_same_text(a->qmp_target, b->qmp_target);
	expect_same_text(a->peer_uri, b->peer_uri);
	expect_same_text(a->listen_uri, b->listen_uri);
	expect_same_text(a->vmm_settings, b->vmm_settings);
	assert_int_equal(a->placement, b->placement);
	assert_int_equal(a->chunk_bytes, b->chunk_bytes);
	assert_int_equal(a->vcpu_count, b->vcpu_count);
	for (uint32_t i = 0; i < a->vcpu_count; i++)
		assert_int_equal(a->vcpu_thread_ids[i], b->vcpu_thread_ids[i]);
	assert_int_equal(a->block_count, b->block_count);
	for (uint32_t i = 0; i < a->block_count; i++) {
		assert_string_equal(a->blocks[i].idstr, b->blocks[i].idstr);
		expect_same_text(a->blocks[i].path, b->blocks[i].path);
		assert_int_equal(a->blocks[i].length_bytes, b->blocks[i].length_bytes);
		assert_int_equal(a->blocks[i].page_size_bytes, b->blocks[i].page_size_bytes);
		assert_int_equal(a->blocks[i].vmm_address, b->blocks[i].vmm_address);
		assert_int_equal(a->blocks[i].file_offset_bytes, b->blocks[i].file_offset_bytes);
	}
}

/* ---- life ------------------------------------------------------------------------------------- */

static void a_new_record_says_none_and_all_it_was_told(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record_description *told = record_rig_description(HF_VM_RECORD_INCOMING, "vm1");
	struct hf_vm_record_description *read = NULL;
	struct hf_vm_record_state now;
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_INCOMING);
	expect_same_description(told, hf_vm_record_description(record));
	hf_vm_record_close(record);
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_INCOMING, "vm1", &now, &read, NULL), 0);
	expect_same_description(told, read);
	assert_int_equal(now.record, HF_RECORD_NONE);
	assert_int_equal(now.epoch, 0);
	hf_vm_record_description_free(read);
	hf_vm_record_description_free(told);
}

static void what_was_written_is_there_again(void **state)
{
	const struct record_rig *rig = *state;
	static const enum hf_record records[] = {HF_RECORD_GIVEN_UP, HF_RECORD_TAKEN_BACK, HF_RECORD_NONE};
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_OUTGOING);
	for (uint64_t i = 0; i < 12; i++) {
		uint64_t epoch = i == 11 ? UINT64_MAX : i + 1;
		assert_int_equal(hf_vm_record_write(record, records[i % 3], NULL), 0);
		assert_int_equal(hf_vm_record_write_epoch(record, epoch, NULL), 0);
		if (i % 2)
			assert_int_equal(hf_vm_record_copy(record, NULL), 0);
		expect_state(rig, HF_VM_RECORD_OUTGOING, records[i % 3], epoch);
		hf_vm_record_close(record);
		assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", NULL), 0);
		assert_int_equal(hf_vm_record_state(record).record, records[i % 3]);
		assert_int_equal(hf_vm_record_state(record).epoch, epoch);
	}
	hf_vm_record_close(record);
}

static void that_pages_were_released_is_never_forgotten(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_OUTGOING);
	assert_false(hf_vm_record_state(record).released);
	assert_int_equal(hf_vm_record_write(record, HF_RECORD_GIVEN_UP, NULL), 0);
	assert_int_equal(hf_vm_record_write_released(record, NULL), 0);
	assert_int_equal(hf_vm_record_write_epoch(record, 3, NULL), 0);
	assert_int_equal(hf_vm_record_write(record, HF_RECORD_GIVEN_UP, NULL), 0);
	for (int i = 0; i < 2; i++) {
		hf_vm_record_close(record);
		assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", NULL), 0);
		assert_true(hf_vm_record_state(record).released);
		assert_int_equal(hf_vm_record_state(record).epoch, 3);
	}
	hf_vm_record_close(record);
}

/* As an agent that is killed; whoever opens it hears of that one, until it writes itself. */
static pid_t write_in_another_process(const struct record_rig *rig)
{
	struct hf_vm_record *record;
	pid_t child = fork();
	if (child == 0)
		_exit(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_INCOMING, "vm1", NULL) ||
		      hf_vm_record_write(record, HF_RECORD_LOADED, NULL));
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	return child;
}

static void a_record_tells_which_program_wrote_it_last(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_process_stat own;
	assert_int_equal(hf_process_stat(getpid(), &own), 0);
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_INCOMING);
	assert_int_equal(hf_vm_record_state(record).agent_pid, 0);
	hf_vm_record_close(record);
	pid_t child = write_in_another_process(rig);
	assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_INCOMING, "vm1", NULL), 0);
	assert_int_equal(hf_vm_record_state(record).agent_pid, child);
	assert_true(hf_vm_record_state(record).agent_start_ticks >= own.start_ticks);
	assert_int_equal(hf_vm_record_write(record, HF_RECORD_LOADED, NULL), 0);
	hf_vm_record_close(record);
	assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_INCOMING, "vm1", NULL), 0);
	assert_int_equal(hf_vm_record_state(record).agent_pid, getpid());
	assert_int_equal(hf_vm_record_state(record).agent_start_ticks, own.start_ticks);
	hf_vm_record_close(record);
}

static void directory_and_file_are_for_their_owner_alone(void **state)
{
	const struct record_rig *rig = *state;
	struct stat status;
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_OUTGOING);
	assert_int_equal(stat(rig->dir, &status), 0);
	assert_int_equal(status.st_mode & 07777, 0700);
	assert_int_equal(stat(hf_vm_record_path(record), &status), 0);
	assert_int_equal(status.st_mode & 07777, 0600);
	hf_vm_record_close(record);
}

static void a_person_can_read_it(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_OUTGOING);
	size_t length_bytes;
	assert_int_equal(hf_vm_record_write(record, HF_RECORD_GIVEN_UP, NULL), 0);
	char *bytes = record_rig_file(hf_vm_record_path(record), &length_bytes);
	for (size_t i = 0; i < length_bytes; i++)
		assert_true(bytes[i] == '\n' || (uint8_t)bytes[i] >= ' ');
	assert_int_equal(bytes[SLOT - 1], '\n');
	assert_int_equal(bytes[2 * SLOT - 1], '\n');
	assert_non_null(memmem(bytes, TAIL, "\"record\": \"given-up\"", 20));
	free(bytes);
	hf_vm_record_close(record);
}

static void one_vm_has_one_record_for_each_side(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record_description *again = record_rig_description(HF_VM_RECORD_OUTGOING, "vm1");
	struct hf_vm_record *out = record_rig_create(rig, HF_VM_RECORD_OUTGOING), *second = NULL;
	struct hf_vm_record *in = record_rig_create(rig, HF_VM_RECORD_INCOMING);
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_vm_record_write(out, HF_RECORD_GIVEN_UP, NULL), 0);
	assert_int_equal(hf_vm_record_create(&second, rig->dir, again, &err), -EEXIST);
	assert_non_null(strstr(err.text, hf_vm_record_path(out)));
	hf_vm_record_close(out);
	assert_int_equal(hf_vm_record_create(&second, rig->dir, again, &err), -EEXIST);
	expect_state(rig, HF_VM_RECORD_OUTGOING, HF_RECORD_GIVEN_UP, 0);
	hf_vm_record_close(in);
	hf_vm_record_description_free(again);
}

static void no_record_is_no_record(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record *record = NULL;
	struct hf_vm_record_state now;
	assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", NULL), -ENOENT);
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_OUTGOING, "vm1", &now, NULL, NULL),
			 -ENOENT);
	record = record_rig_create(rig, HF_VM_RECORD_INCOMING);
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_OUTGOING, "vm1", &now, NULL, NULL),
			 -ENOENT);
	assert_int_equal(hf_vm_record_remove(record, NULL), 0);
	assert_int_equal(hf_vm_record_write(record, HF_RECORD_LOADED, NULL), -ESTALE);
	hf_vm_record_close(record);
	assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_INCOMING, "vm1", NULL), -ENOENT);
}

static void a_side_records_only_what_it_can_be_in(void **state)
{
	const struct record_rig *rig = *state;
	static const bool fits[HF_VM_RECORD_ROLES][HF_RECORDS] = {
	    [HF_VM_RECORD_OUTGOING] =
		{[HF_RECORD_NONE] = true, [HF_RECORD_GIVEN_UP] = true, [HF_RECORD_TAKEN_BACK] = true},
	    [HF_VM_RECORD_INCOMING] = {[HF_RECORD_NONE] = true,
				       [HF_RECORD_LOADED] = true,
				       [HF_RECORD_RUNNING] = true,
				       [HF_RECORD_REFUSED] = true}};
	for (int role = 0; role < HF_VM_RECORD_ROLES; role++) {
		struct hf_vm_record *record = record_rig_create(rig, (enum hf_vm_record_role)role);
		for (int value = 0; value < HF_RECORDS; value++)
			assert_int_equal(hf_vm_record_write(record, (enum hf_record)value, NULL),
					 fits[role][value] ? 0 : -EINVAL);
		assert_int_equal(hf_vm_record_write(record, HF_RECORDS, NULL), -EINVAL);
		hf_vm_record_close(record);
	}
}

/* ---- damage ----------------------------------------------------------------------------------- */

static void without_a_whole_slot_the_operator_is_told_what_to_do(void **state)
{
	const struct record_rig *rig = *state;
	size_t length_bytes;
	unsigned newer;
	char path[256];
	struct hf_vm_record *record = NULL;
	struct hf_vm_record_state now = {.record = HF_RECORDS};
	struct hf_err err = HF_ERR_INIT;
	char *bytes = record_rig_given_up_file(rig, true, &length_bytes, &newer);
	bytes[20] ^= 1;
	bytes[SLOT + 20] ^= 1;
	snprintf(path, sizeof(path), "%s/vm1.outgoing", rig->dir);
	record_rig_write_file(path, bytes, length_bytes);
	assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", &err), -EBADMSG);
	assert_non_null(strstr(err.text, path));
	assert_non_null(strstr(err.text, "do not run it before"));
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_OUTGOING, "vm1", &now, NULL, &err),
			 -EBADMSG);
	assert_int_equal(now.record, HF_RECORDS);
	record_rig_write_file(path, "", 0);
	assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", &err), -EBADMSG);
	free(bytes);
}

static void a_damaged_slot_is_written_anew_when_the_record_is_opened(void **state)
{
	const struct record_rig *rig = *state;
	size_t length_bytes;
	unsigned newer;
	char path[256];
	struct hf_vm_record *record = NULL;
	struct hf_vm_record_content content;
	char *bytes = record_rig_given_up_file(rig, true, &length_bytes, &newer);
	bytes[20] ^= 1;
	snprintf(path, sizeof(path), "%s/vm1.outgoing", rig->dir);
	record_rig_write_file(path, bytes, length_bytes);
	free(bytes);
	assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", NULL), 0);
	bytes = record_rig_file(path, &length_bytes);
	assert_int_equal(hf_vm_record_decode(bytes, length_bytes, &content, NULL), 0);
	assert_true(content.copied);
	assert_int_equal(content.slot.state.record, HF_RECORD_GIVEN_UP);
	hf_vm_record_description_free(content.description);
	free(bytes);
	hf_vm_record_close(record);
}

static void a_description_has_its_limits(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record *record = NULL;
	char path[4096], idstr[16];
	memset(path, 'p', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	for (int longer = 0; longer < 2; longer++) {
		struct hf_vm_record_description *description =
		    record_rig_description(HF_VM_RECORD_OUTGOING, "vm1");
		path[longer ? 4095 : 3900] = '\0';
		for (int i = 2; i < 256; i++) {
			snprintf(idstr, sizeof(idstr), "ram%d", i);
			assert_int_equal(hf_vm_record_description_add_block(description, idstr, path, 2 << 20,
									    2 << 20, NULL),
					 0);
		}
		assert_int_equal(
		    hf_vm_record_description_add_block(description, "more", path, 2 << 20, 2 << 20, NULL),
		    -E2BIG);
		assert_int_equal(hf_vm_record_create(&record, rig->dir, description, NULL),
				 longer ? -EMSGSIZE : 0);
		if (!longer) {
			hf_vm_record_close(record);
			expect_state(rig, HF_VM_RECORD_OUTGOING, HF_RECORD_NONE, 0);
		}
		hf_vm_record_description_free(description);
		path[3900] = 'p';
	}
}

static void a_record_of_another_vm_or_side_is_not_taken(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_OUTGOING);
	struct hf_vm_record_state now;
	char path[256];
	size_t length_bytes;
	char *bytes = record_rig_file(hf_vm_record_path(record), &length_bytes);
	snprintf(path, sizeof(path), "%s/vm2.outgoing", rig->dir);
	record_rig_write_file(path, bytes, length_bytes);
	snprintf(path, sizeof(path), "%s/vm1.incoming", rig->dir);
	record_rig_write_file(path, bytes, length_bytes);
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_OUTGOING, "vm2", &now, NULL, NULL),
			 -EBADMSG);
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_INCOMING, "vm1", &now, NULL, NULL),
			 -EBADMSG);
	free(bytes);
	hf_vm_record_close(record);
}

static void what_is_no_file_is_no_record_and_holds_nobody_up(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record *record = NULL;
	struct hf_vm_record_state now;
	char path[256];
	assert_int_equal(mkdir(rig->dir, 0700), 0);
	snprintf(path, sizeof(path), "%s/vm1.outgoing", rig->dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", NULL), -EBADMSG);
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_OUTGOING, "vm1", &now, NULL, NULL),
			 -EBADMSG);
	unlink(path);
	assert_int_equal(symlink("/dev/zero", path), 0);
	assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", NULL), -ELOOP);
	unlink(path);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_true(hf_vm_record_read(rig->dir, HF_VM_RECORD_OUTGOING, "vm1", &now, NULL, NULL) < 0);
}

/* ---- a long name ------------------------------------------------------------------------------------ */

static void a_vm_of_the_longest_name_has_a_record(void **state)
{
	const struct record_rig *rig = *state;
	char name[256];
	struct hf_vm_record *record = NULL;
	struct hf_vm_record_state now;
	memset(name, '/', 255);
	name[255] = '\0';
	struct hf_vm_record_description *description = record_rig_description(HF_VM_RECORD_INCOMING, name);
	assert_int_equal(hf_vm_record_create(&record, rig->dir, description, NULL), 0);
	hf_vm_record_close(record);
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_INCOMING, name, &now, NULL, NULL), 0);
	hf_vm_record_description_free(description);
}

/* ---- several programs ------------------------------------------------------------------------- */

static void one_program_at_a_time_holds_a_record_and_others_may_look(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_OUTGOING), *other = NULL;
	struct hf_err err = HF_ERR_INIT;
	for (int i = 0; i < 2; i++) { // who made it holds it as who opened it does
		assert_int_equal(hf_vm_record_open(&other, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", &err),
				 -EBUSY);
		assert_non_null(strstr(err.text, hf_vm_record_path(record)));
		expect_state(rig, HF_VM_RECORD_OUTGOING, HF_RECORD_NONE, 0);
		hf_vm_record_close(record);
		assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", NULL), 0);
	}
	hf_vm_record_close(record);
}

static void fight(const struct record_rig *rig, atomic_int *holders, atomic_int *held)
{
	struct hf_vm_record_description *description = record_rig_description(HF_VM_RECORD_OUTGOING, "vm1");
	for (int i = 0; i < 150; i++) {
		struct hf_vm_record *record;
		if (hf_vm_record_create(&record, rig->dir, description, NULL) < 0 &&
		    hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", NULL) < 0)
			continue;
		if (atomic_fetch_add(holders, 1) != 0)
			_exit(1);
		atomic_fetch_add(held, 1);
		bool wrote = hf_vm_record_write(record, HF_RECORD_GIVEN_UP, NULL) == 0;
		atomic_fetch_sub(holders, 1); // the next one may come as soon as it is removed
		bool removed = i % 3 == 0 || hf_vm_record_remove(record, NULL) == 0;
		hf_vm_record_close(record);
		if (!wrote || !removed)
			_exit(2);
	}
	_exit(0);
}

static void however_it_is_made_and_removed_nobody_holds_it_twice(void **state)
{
	const struct record_rig *rig = *state;
	enum { FIGHTERS = 4 };
	atomic_int *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t pids[FIGHTERS];
	assert_true(shared != MAP_FAILED);
	for (int i = 0; i < FIGHTERS; i++) {
		pids[i] = fork();
		assert_true(pids[i] >= 0);
		if (pids[i] == 0)
			fight(rig, &shared[0], &shared[1]);
	}
	for (int i = 0; i < FIGHTERS; i++) {
		int status;
		assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
		assert_int_equal(status, 0);
	}
	assert_true(atomic_load(&shared[1]) > 0);
	munmap(shared, 4096);
}

/* ---- crashes ---------------------------------------------------------------------------------- */

static void write_until_killed(const struct record_rig *rig, int acknowledge_fd)
{
	struct hf_vm_record *record;
	if (hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", NULL) < 0)
		_exit(1);
	for (uint64_t epoch = hf_vm_record_state(record).epoch + 1;; epoch++) {
		if (hf_vm_record_write_epoch(record, epoch, NULL) < 0 ||
		    write(acknowledge_fd, &epoch, sizeof(epoch)) != sizeof(epoch) ||
		    hf_vm_record_copy(record, NULL) < 0)
			_exit(1);
	}
}

static void a_writer_killed_at_any_moment_leaves_all_it_has_reported(void **state)
{
	const struct record_rig *rig = *state;
	uint64_t reported = 0;
	hf_vm_record_close(record_rig_create(rig, HF_VM_RECORD_OUTGOING));
	for (int round = 0; round < 40; round++) {
		int pipe_fds[2], status;
		struct hf_vm_record_state now;
		assert_int_equal(pipe(pipe_fds), 0);
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0)
			write_until_killed(rig, pipe_fds[1]);
		close(pipe_fds[1]);
		for (int i = 0; i <= round % 4; i++)
			assert_int_equal(read(pipe_fds[0], &reported, sizeof(reported)), sizeof(reported));
		usleep((useconds_t)(round * 97)); // somewhere in a write or a copy
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		while (read(pipe_fds[0], &reported, sizeof(reported)) == sizeof(reported))
			;
		close(pipe_fds[0]);
		assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_OUTGOING, "vm1", &now, NULL, NULL),
				 0);
		assert_in_range(now.epoch, reported, reported + 1);
	}
}

static void expect_put_back(const struct record_rig *rig, struct hf_vm_record *record)
{
	assert_int_equal(hf_vm_record_state(record).record, HF_RECORD_NONE);
	expect_state(rig, HF_VM_RECORD_OUTGOING, HF_RECORD_NONE, 0);
}

static void after_a_write_that_failed_the_old_record_holds(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_OUTGOING);
	struct hf_err err = HF_ERR_INIT;
	for (int failing = 1; failing <= 2; failing++) { // the write alone, and putting back as well
		atomic_store(&record_rig_disk.fail_syncs, failing);
		assert_int_equal(hf_vm_record_write(record, HF_RECORD_GIVEN_UP, &err), -EIO);
		assert_non_null(strstr(err.text, hf_vm_record_path(record)));
		assert_int_equal(atomic_load(&record_rig_disk.fail_syncs), 0);
		expect_put_back(rig, record);
	}
	atomic_store(&record_rig_disk.write_errno, ENOSPC);
	assert_int_equal(hf_vm_record_write(record, HF_RECORD_GIVEN_UP, &err), -ENOSPC);
	assert_non_null(strstr(err.text, "does not hold"));
	atomic_store(&record_rig_disk.write_errno, 0);
	expect_put_back(rig, record);
	assert_int_equal(hf_vm_record_write(record, HF_RECORD_GIVEN_UP, NULL), 0);
	expect_state(rig, HF_VM_RECORD_OUTGOING, HF_RECORD_GIVEN_UP, 0);
	hf_vm_record_close(record);
}

static void what_cannot_be_brought_to_the_disk_is_not_opened(void **state)
{
	const struct record_rig *rig = *state;
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_OUTGOING);
	hf_vm_record_close(record);
	atomic_store(&record_rig_disk.fail_syncs, 1);
	assert_int_equal(hf_vm_record_open(&record, rig->dir, HF_VM_RECORD_OUTGOING, "vm1", NULL), -EIO);
}

/* ---- the VMM ---------------------------------------------------------------------------------- */

static void a_pid_counts_only_with_its_start_time_and_boot(void **state)
{
	(void)state;
	struct hf_vm_record_description *vmm = record_rig_description(HF_VM_RECORD_INCOMING, "vm1");
	assert_int_equal(hf_vm_record_vmm_lives(vmm), 1);
	vmm->vmm_start_ticks++;
	assert_int_equal(hf_vm_record_vmm_lives(vmm), 0);
	vmm->vmm_start_ticks--;
	vmm->boot_id[0] = vmm->boot_id[0] == '0' ? '1' : '0';
	assert_int_equal(hf_vm_record_vmm_lives(vmm), 0);
	hf_vm_record_description_free(vmm);
}

static void a_vmm_that_has_ended_is_gone_reaped_or_not(void **state)
{
	(void)state;
	struct hf_vm_record_description *vmm = NULL;
	siginfo_t info;
	pid_t pid = fork();
	if (pid == 0) {
		pause();
		_exit(0);
	}
	assert_int_equal(hf_vm_record_description_create(&vmm, HF_VM_RECORD_INCOMING, "vm1", pid, NULL), 0);
	assert_int_equal(hf_vm_record_vmm_lives(vmm), 1);
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(hf_vm_record_vmm_lives(vmm), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_int_equal(hf_vm_record_vmm_lives(vmm), 0);
	hf_vm_record_description_free(vmm);
	assert_int_equal(hf_vm_record_description_create(&vmm, HF_VM_RECORD_INCOMING, "vm1", pid, NULL),
			 -ESRCH);
}

#define TEST(claim) cmocka_unit_test_setup_teardown(claim, record_rig_setup, record_rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_new_record_says_none_and_all_it_was_told),
	    TEST(what_was_written_is_there_again),
	    TEST(that_pages_were_released_is_never_forgotten),
	    TEST(a_record_tells_which_program_wrote_it_last),
	    TEST(directory_and_file_are_for_their_owner_alone),
	    TEST(a_person_can_read_it),
	    TEST(one_vm_has_one_record_for_each_side),
	    TEST(no_record_is_no_record),
	    TEST(a_side_records_only_what_it_can_be_in),
	    TEST(without_a_whole_slot_the_operator_is_told_what_to_do),
	    TEST(a_damaged_slot_is_written_anew_when_the_record_is_opened),
	    TEST(a_description_has_its_limits),
	    TEST(a_record_of_another_vm_or_side_is_not_taken),
	    TEST(what_is_no_file_is_no_record_and_holds_nobody_up),
	    TEST(a_vm_of_the_longest_name_has_a_record),
	    TEST(one_program_at_a_time_holds_a_record_and_others_may_look),
	    TEST(however_it_is_made_and_removed_nobody_holds_it_twice),
	    TEST(a_writer_killed_at_any_moment_leaves_all_it_has_reported),
	    TEST(after_a_write_that_failed_the_old_record_holds),
	    TEST(what_cannot_be_brought_to_the_disk_is_not_opened),
	    TEST(a_pid_counts_only_with_its_start_time_and_boot),
	    TEST(a_vmm_that_has_ended_is_gone_reaped_or_not),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
