/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about the thread that writes a VM's record behind the port of the engines. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kvm/vm_recorder.h"
#include "record_rig.h"

/* An engine that remembers what it was told. */
struct engine {
	struct hf_recorder port;
	enum hf_record records[8];
	int results[8];
	char text[HF_ERR_TEXT_BYTES];
	char thread[16];
	int again; /* so many more requests from done() */
	int again_result;
	atomic_int ends;
};

struct fixture {
	struct hf_vm_record *file;
	struct hf_vm_recorder *recorder;
	struct engine engine;
};

static void on_done(void *opaque, enum hf_record record, int result, const struct hf_err *err)
{
	struct engine *engine = opaque;
	int n = atomic_load(&engine->ends);
	engine->records[n] = record;
	engine->results[n] = result;
	if (err)
		snprintf(engine->text, sizeof(engine->text), "%s", err->text);
	pthread_getname_np(pthread_self(), engine->thread, sizeof(engine->thread));
	if (engine->again-- > 0)
		engine->again_result = engine->port.ops->request(engine->port.self, HF_RECORD_RUNNING);
	atomic_fetch_add(&engine->ends, 1);
}

static void set_up(struct fixture *f, const struct record_rig *rig)
{
	memset(f, 0, sizeof(*f));
	f->file = record_rig_create(rig, HF_VM_RECORD_INCOMING);
	assert_int_equal(hf_vm_recorder_create(&f->recorder, f->file, NULL), 0);
	f->engine.port = hf_vm_recorder_port(f->recorder);
}

static void start(struct fixture *f, const struct record_rig *rig)
{
	set_up(f, rig);
	assert_int_equal(hf_vm_recorder_start(f->recorder, on_done, &f->engine, NULL), 0);
}

static void end(struct fixture *f)
{
	atomic_store(&record_rig_disk.gate, false);
	hf_vm_recorder_destroy(f->recorder);
	hf_vm_record_close(f->file);
}

static int ask(struct fixture *f, enum hf_record record)
{
	return f->engine.port.ops->request(f->engine.port.self, record);
}

static void await_ends(struct fixture *f, int ends)
{
	while (atomic_load(&f->engine.ends) != ends)
		usleep(100);
}

static enum hf_record on_disk(const struct record_rig *rig)
{
	struct hf_vm_record_state state;
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_INCOMING, "vm1", &state, NULL, NULL), 0);
	return state.record;
}

static void the_end_is_told_in_the_recorders_thread_when_the_record_is_on_disk(void **state)
{
	const struct record_rig *rig = *state;
	struct fixture f;
	start(&f, rig);
	atomic_store(&record_rig_disk.gate, true);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), 0);
	record_rig_await_gate(1);
	assert_int_equal(atomic_load(&f.engine.ends), 0);
	atomic_store(&record_rig_disk.gate, false);
	await_ends(&f, 1);
	assert_int_equal(f.engine.records[0], HF_RECORD_LOADED);
	assert_int_equal(f.engine.results[0], 0);
	assert_string_equal(f.engine.thread, "hf-record");
	assert_string_equal(f.engine.text, "");
	assert_int_equal(on_disk(rig), HF_RECORD_LOADED);
	end(&f);
}

static void a_second_request_is_refused_until_the_first_was_reported(void **state)
{
	struct fixture f;
	start(&f, *state);
	atomic_store(&record_rig_disk.gate, true);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), 0);
	assert_int_equal(ask(&f, HF_RECORD_RUNNING), -EBUSY);
	record_rig_await_gate(1);
	assert_int_equal(ask(&f, HF_RECORD_RUNNING), -EBUSY);
	atomic_store(&record_rig_disk.gate, false);
	await_ends(&f, 1);
	assert_int_equal(ask(&f, HF_RECORD_RUNNING),
			 0); // the copy may be under way: that is nobody's business
	await_ends(&f, 2);
	assert_int_equal(f.engine.records[1], HF_RECORD_RUNNING);
	end(&f);
}

static void the_next_request_may_come_from_the_report(void **state)
{
	const struct record_rig *rig = *state;
	struct fixture f;
	set_up(&f, rig);
	f.engine.again = 1;
	assert_int_equal(hf_vm_recorder_start(f.recorder, on_done, &f.engine, NULL), 0);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), 0);
	await_ends(&f, 2);
	assert_int_equal(f.engine.again_result, 0);
	assert_int_equal(on_disk(rig), HF_RECORD_RUNNING);
	end(&f);
}

static void what_was_reported_is_copied_afterwards(void **state)
{
	struct fixture f;
	struct hf_vm_record_content content;
	size_t length_bytes;
	start(&f, *state);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), 0);
	await_ends(&f, 1);
	hf_vm_recorder_stop(f.recorder);
	char *bytes = record_rig_file(hf_vm_record_path(f.file), &length_bytes);
	assert_int_equal(hf_vm_record_decode(bytes, length_bytes, &content, NULL), 0);
	assert_true(content.copied);
	assert_int_equal(content.slot.state.record, HF_RECORD_LOADED);
	hf_vm_record_description_free(content.description);
	free(bytes);
	end(&f);
}

static void a_failure_is_told_with_its_reason_and_changes_nothing(void **state)
{
	const struct record_rig *rig = *state;
	struct fixture f;
	start(&f, rig);
	atomic_store(&record_rig_disk.fail_syncs, 1);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), 0);
	await_ends(&f, 1);
	assert_int_equal(f.engine.results[0], -EIO);
	assert_non_null(strstr(f.engine.text, "vm1.incoming"));
	assert_int_equal(on_disk(rig), HF_RECORD_NONE);
	assert_int_equal(ask(&f, HF_RECORD_GIVEN_UP), 0); // not of this side
	await_ends(&f, 2);
	assert_int_equal(f.engine.results[1], -EINVAL);
	struct hf_vm_recorder_times times = hf_vm_recorder_times(f.recorder);
	assert_int_equal(times.last_ns[HF_RECORD_LOADED], 0);
	assert_int_equal(times.last_ns[HF_RECORD_GIVEN_UP], 0);
	end(&f);
}

static void the_time_of_a_record_counts_from_its_request(void **state)
{
	struct fixture f;
	start(&f, *state);
	atomic_store(&record_rig_disk.gate, true);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), 0);
	record_rig_await_gate(1);
	usleep(20000);
	atomic_store(&record_rig_disk.gate, false);
	await_ends(&f, 1);
	struct hf_vm_recorder_times times = hf_vm_recorder_times(f.recorder);
	assert_true(times.last_ns[HF_RECORD_LOADED] >= 20000000);
	assert_int_equal(times.last_ns[HF_RECORD_RUNNING], 0);
	end(&f);
}

static void an_epoch_is_on_disk_when_the_call_returns(void **state)
{
	const struct record_rig *rig = *state;
	struct fixture f;
	struct hf_vm_record_state now;
	struct hf_err err = HF_ERR_INIT;
	start(&f, rig);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), 0);
	assert_int_equal(hf_vm_recorder_write_epoch(f.recorder, 7, NULL), 0);
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_INCOMING, "vm1", &now, NULL, NULL), 0);
	assert_int_equal(now.epoch, 7);
	assert_int_equal(now.record, HF_RECORD_LOADED);
	await_ends(&f, 1);
	hf_vm_recorder_stop(f.recorder);
	assert_int_equal(hf_vm_recorder_write_epoch(f.recorder, 8, &err), -ECANCELED);
	end(&f);
}

static void released_is_on_disk_when_the_call_returns(void **state)
{
	const struct record_rig *rig = *state;
	struct fixture f;
	struct hf_vm_record_state now;
	struct hf_err err = HF_ERR_INIT;
	start(&f, rig);
	assert_int_equal(hf_vm_recorder_write_epoch(f.recorder, 7, NULL), 0);
	assert_int_equal(hf_vm_recorder_write_released(f.recorder, NULL), 0);
	assert_int_equal(hf_vm_record_read(rig->dir, HF_VM_RECORD_INCOMING, "vm1", &now, NULL, NULL), 0);
	assert_true(now.released);
	assert_int_equal(now.epoch, 7);
	hf_vm_recorder_stop(f.recorder);
	assert_int_equal(hf_vm_recorder_write_released(f.recorder, &err), -ECANCELED);
	end(&f);
}

static void a_failed_epoch_says_why(void **state)
{
	struct fixture f;
	struct hf_err err = HF_ERR_INIT;
	start(&f, *state);
	atomic_store(&record_rig_disk.fail_syncs, 1);
	assert_int_equal(hf_vm_recorder_write_epoch(f.recorder, 7, &err), -EIO);
	assert_non_null(strstr(err.text, "vm1.incoming"));
	end(&f);
}

static void nothing_is_taken_before_the_start_and_after_the_stop(void **state)
{
	struct fixture f;
	set_up(&f, *state);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), -ESHUTDOWN);
	assert_int_equal(hf_vm_recorder_start(f.recorder, on_done, &f.engine, NULL), 0);
	assert_int_equal(ask(&f, HF_RECORDS), -EINVAL);
	hf_vm_recorder_stop(f.recorder);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), -ESHUTDOWN);
	assert_int_equal(atomic_load(&f.engine.ends), 0);
	end(&f);
}

static void *stop_thread(void *opaque)
{
	struct fixture *f = opaque;
	hf_vm_recorder_stop(f->recorder);
	return NULL;
}

static void a_stop_lets_a_write_end_and_cancels_what_has_not_begun(void **state)
{
	const struct record_rig *rig = *state;
	struct fixture f;
	pthread_t stopper;
	start(&f, rig);
	atomic_store(&record_rig_disk.gate, true);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), 0);
	record_rig_await_gate(1);
	f.engine.again = 1; // asked for in the report, when the stop has come
	assert_int_equal(pthread_create(&stopper, NULL, stop_thread, &f), 0);
	while (ask(&f, HF_RECORD_RUNNING) != -ESHUTDOWN)
		usleep(100);
	atomic_store(&record_rig_disk.gate, false);
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&f.engine.ends), 1);
	assert_int_equal(f.engine.results[0], 0);
	assert_int_equal(f.engine.again_result, -ESHUTDOWN);
	assert_int_equal(on_disk(rig), HF_RECORD_LOADED);
	end(&f);
}

static void a_request_behind_a_copy_is_cancelled_by_a_stop_and_not_written(void **state)
{
	const struct record_rig *rig = *state;
	struct fixture f;
	pthread_t stopper;
	start(&f, rig);
	atomic_store(&record_rig_disk.passes, 1);
	atomic_store(&record_rig_disk.gate, true);
	assert_int_equal(ask(&f, HF_RECORD_LOADED), 0);
	await_ends(&f, 1);
	record_rig_await_gate(1); // the copy stands there
	assert_int_equal(ask(&f, HF_RECORD_RUNNING), 0);
	assert_int_equal(pthread_create(&stopper, NULL, stop_thread, &f), 0);
	while (ask(&f, HF_RECORD_RUNNING) != -ESHUTDOWN)
		usleep(100);
	atomic_store(&record_rig_disk.gate, false);
	pthread_join(stopper, NULL);
	assert_int_equal(atomic_load(&f.engine.ends), 2);
	assert_int_equal(f.engine.records[1], HF_RECORD_RUNNING);
	assert_int_equal(f.engine.results[1], -ECANCELED);
	assert_int_equal(on_disk(rig), HF_RECORD_LOADED);
	end(&f);
}

#define TEST(claim) cmocka_unit_test_setup_teardown(claim, record_rig_setup, record_rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(the_end_is_told_in_the_recorders_thread_when_the_record_is_on_disk),
	    TEST(a_second_request_is_refused_until_the_first_was_reported),
	    TEST(the_next_request_may_come_from_the_report),
	    TEST(what_was_reported_is_copied_afterwards),
	    TEST(a_failure_is_told_with_its_reason_and_changes_nothing),
	    TEST(the_time_of_a_record_counts_from_its_request),
	    TEST(an_epoch_is_on_disk_when_the_call_returns),
	    TEST(released_is_on_disk_when_the_call_returns),
	    TEST(a_failed_epoch_says_why),
	    TEST(nothing_is_taken_before_the_start_and_after_the_stop),
	    TEST(a_stop_lets_a_write_end_and_cancels_what_has_not_begun),
	    TEST(a_request_behind_a_copy_is_cancelled_by_a_stop_and_not_written),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
