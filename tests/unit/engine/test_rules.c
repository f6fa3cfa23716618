/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The rules between engines and ports (ARCHITECTURE, "Threads"): what happens when any port call fails, what
 * an event of another connection does, what a port must not do, and that a pause with a live link still
 * hears.
 */
#include "tests/unit/engine/rig.h"

#include <errno.h>
#include <string.h>

#include "tests/unit/core/death.h"

/* ---- (a) a port call that fails is a return value, nothing more ------------------------------- */

/* Everything a destination's ports are asked for: both classes, holes, a page that faults again. */
static void destination_step(struct rig *rig, enum rig_at at)
{
	if (at == AT_ADVISE)
		rig_hear(rig, HF_WIRE_WISH); /* has the port choose() */
	rig_reach(rig, at - 1, at);
	if (at == AT_LISTEN) {
		rig_fault(rig, RIG_RAM, 3);
		rig_fault(rig, RIG_ROM, 1); /* a hole */
	}
	if (at == AT_RUNNING) {
		rig_work_all(rig);
		rig_fault(rig, RIG_ROM, 1); /* again: it is here */
		rig_work_all(rig);
	}
	if (at == AT_COMPLETE)
		rig_work_all(rig); /* a worker tries what could not be placed again */
}

static void check_destination_end(struct rig *rig, enum rig_at at)
{
	struct hf_destination_snapshot snapshot = rig_snapshot(rig);
	print_message("call %u fails%s, got to %s: %s: %s\n", rig->fail_at,
		      rig->fail_on ? ", and all after it" : "", rig_at_name(at),
		      hf_status_name(snapshot.status), snapshot.err.text);
	if (snapshot.status == HF_STATUS_COMPLETED)
		return;
	bool committed = rig->sent[HF_WIRE_LOADED].times > 0;
	assert_true(snapshot.status == (committed ? HF_STATUS_POSTCOPY_PAUSED : HF_STATUS_FAILED));
	assert_int_not_equal(snapshot.err.class, HF_ERR_NONE);
	assert_true(snapshot.err.text[0] != '\0');
}

/* One call fails, or all do from there on. Returns false when there is no such call. */
static bool destination_with_failure(uint32_t fail_at, bool fail_on)
{
	struct rig *rig = rig_create();
	rig->fail_at = fail_at;
	rig->fail_on = fail_on;
	rig->ram_present = 0x0f;
	rig->rom_present = 0x01;
	rig_destination(rig);
	enum rig_at at = AT_NONE;
	while (at < AT_COMPLETED && !rig->failed_on_link && !rig->vm_refused &&
	       !hf_status_is_final(rig_snapshot(rig).status))
		destination_step(rig, ++at);
	bool failed = rig->failed;
	if (rig->failed_on_link)
		rig_link_down(rig);
	if (failed && (!fail_on || rig->failed_on_link || rig->vm_refused))
		check_destination_end(rig, at);
	if (!failed)
		assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
	/* Nothing was taken that could still end: a done for it would be made up. */
	assert_true(rig_snapshot(rig).status != HF_STATUS_COMPLETED || rig->fetches_count == 0);
	rig_destroy(rig);
	return failed;
}

static void a_destination_survives_the_failure_of_any_port_call(void **state)
{
	(void)state;
	uint32_t calls = 0;
	while (destination_with_failure(calls + 1, false))
		calls++;
	assert_true(calls > 30);
	for (uint32_t i = 1; i <= calls; i++)
		destination_with_failure(i, true);
}

static bool source_with_failure(uint32_t fail_at, bool fail_on)
{
	struct rig *rig = rig_create();
	rig->fail_at = fail_at;
	rig->fail_on = fail_on;
	rig->source_config.hold_background = true; /* a WISH is sent */
	rig_source(rig);
	enum rig_source_at at = SOURCE_NONE;
	while (at < SOURCE_COMPLETED && !rig->failed) {
		at++;
		rig_source_reach(rig, at - 1, at);
	}
	bool failed = rig->failed;
	bool cannot_resume = fail_on;
	if (rig->failed_on_link)
		rig_link_down(rig);
	if (rig->resuming > 0)
		rig_vm_done(rig, HF_VM_RESUME, 0);

	struct hf_source_snapshot snapshot = rig_source_snapshot(rig);
	print_message("call %u fails%s, got to %s: %s, VM with %d: %s\n", fail_at,
		      fail_on ? ", and all after it" : "", rig_source_at_name(at),
		      hf_status_name(snapshot.status), (int)snapshot.owner, snapshot.err.text);
	if (snapshot.owner == HF_VM_OWNER_DESTINATION) {
		assert_true(snapshot.status == HF_STATUS_POSTCOPY_PAUSED ||
			    snapshot.status == HF_STATUS_COMPLETED);
		assert_true(at >= SOURCE_GIVEN_UP);
	} else {
		assert_int_equal(snapshot.status, HF_STATUS_FAILED);
		assert_true(snapshot.owner == HF_VM_OWNER_SOURCE ||
			    (cannot_resume && snapshot.owner == HF_VM_OWNER_STUCK));
	}
	if (snapshot.status != HF_STATUS_COMPLETED)
		assert_int_not_equal(snapshot.err.class, HF_ERR_NONE);
	rig_destroy(rig);
	return failed;
}

static void a_source_survives_the_failure_of_any_port_call(void **state)
{
	(void)state;
	uint32_t calls = 0;
	while (source_with_failure(calls + 1, false))
		calls++;
	assert_true(calls >= 12);
	for (uint32_t i = 1; i <= calls; i++)
		source_with_failure(i, true);
}

/* ---- (a) a port that calls back is caught ------------------------------------------------------ */

static void call_back(struct rig *rig, const char *call)
{
	if (!strstr(call, rig->sought))
		return;
	if (rig->source)
		hf_source_events.link_down(rig->source, RIG_EPOCH, NULL);
	else
		hf_destination_events.link_down(rig->destination, RIG_EPOCH, NULL);
}

static void reach_with_a_port_that_calls_back(void *opaque)
{
	struct rig *rig = opaque;
	rig->inside = call_back;
	rig->inside_is_the_port = true;
	if (rig->source)
		rig_source_reach(rig, SOURCE_NONE, SOURCE_COMPLETED);
	else
		for (enum rig_at at = AT_SETUP; at <= AT_COMPLETED; at++)
			destination_step(rig, at);
}

static void check_call_back(bool is_source, const char *sought, const char *says)
{
	struct rig *rig = rig_create();
	rig->sought = sought;
	rig->ram_present = 0x0f;
	rig->rom_present = 0x01;
	if (is_source)
		rig_source(rig);
	else
		rig_destination(rig);
	assert_dies(reach_with_a_port_that_calls_back, rig, says);
	rig_destroy(rig);
}

static void a_port_that_calls_the_engine_from_inside_is_caught(void **state)
{
	(void)state;
	static const struct {
		bool is_source;
		const char *sought, *says;
	} calls[] = {
	    {false, "choose", "event_link_down is called from inside memory.choose()"},
	    {false, "prepare", "event_link_down is called from inside memory.prepare()"},
	    {false, "send READY", "event_link_down is called from inside transport.send()"},
	    {false, "load", "event_link_down is called from inside vm.request()"},
	    {false, "kick", "event_link_down is called from inside memory.kick()"},
	    {false, "fetch urgent", "event_link_down is called from inside transport.fetch()"},
	    {false, "place_zero", "event_link_down is called from inside memory.place_zero()"},
	    {false, "place_again", "event_link_down is called from inside memory.place_again()"},
	    {false, "place ram", "event_link_down is called from inside memory.place()"},
	    {false, "release", "event_link_down is called from inside memory.release()"},
	    {true, "send ADVISE", "event_link_down is called from inside transport.send()"},
	    {true, "stop", "event_link_down is called from inside vm.request()"},
	    {true, "presence", "event_link_down is called from inside memory.presence()"},
	};
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
		check_call_back(calls[i].is_source, calls[i].sought, calls[i].says);
}

/* ---- (c) one done for each fetch --------------------------------------------------------------- */

static void dones_that_are_repeated_stale_or_made_up_change_nothing(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.background_held = true;
	rig_destination_at(rig, AT_RUNNING);
	rig_fault(rig, RIG_ROM, 0); /* one page, one chunk */
	assert_int_equal(rig->fetches_count, 1);
	struct hf_fetch_done done = {.id = rig->fetches[0].id, .epoch = RIG_EPOCH, .status = HF_FETCH_OK};

	struct hf_fetch_done made_up[] = {done, done, done, done};
	made_up[0].id ^= 1;
	made_up[1].id += UINT64_C(1) << 32;
	made_up[2].id = UINT64_MAX;
	made_up[3].epoch++;
	for (size_t i = 0; i < 4; i++)
		for (enum hf_fetch_status status = HF_FETCH_OK; status <= HF_FETCH_CANCELLED; status++)
			for (int zero = 0; zero < 2; zero++) {
				made_up[i].status = status;
				made_up[i].zero = zero;
				hf_destination_events.fetch_done(rig->destination, &made_up[i]);
			}
	assert_false(rig_called(rig, "place rom 0"));
	assert_int_equal(rig_snapshot(rig).pages_received, 0);

	rig_landed(rig, "rom 0.0");
	assert_true(rig_called(rig, "place rom 0"));
	rig_forget(rig);
	rig_fault(rig, RIG_ROM, 1); /* takes the slot again */
	rig_forget(rig);
	for (enum hf_fetch_status status = HF_FETCH_OK; status <= HF_FETCH_CANCELLED; status++) {
		done.status = status;
		hf_destination_events.fetch_done(rig->destination, &done);
	}
	rig_expect_nothing(rig);
	assert_int_equal(rig_snapshot(rig).pages_received, 1);
	rig_landed(rig, "rom 1.0");
	assert_int_equal(rig_snapshot(rig).pages_received, 2);
}

/* ---- (e) events of another connection ---------------------------------------------------------- */

static void hear_the_old_link(struct rig *rig, uint64_t epoch)
{
	const struct hf_transport_events *events = rig->source ? &hf_source_events : &hf_destination_events;
	void *engine = rig->source ? (void *)rig->source : (void *)rig->destination;
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LINK, ECONNRESET, "an older link");
	for (uint32_t type = 1; type < RIG_TYPES; type++) {
		struct rig_message message;
		rig_message(rig, type, &message);
		events->message(engine, epoch, type, message.payload, message.bytes);
	}
	for (uint64_t id = 0; rig->destination && id < 16; id++) {
		struct hf_fetch_done done = {.id = id | UINT64_C(1) << 32, .epoch = epoch};
		events->fetch_done(engine, &done);
	}
	events->link_down(engine, epoch, &why);
}

static void after_a_pause_neither_link_is_heard(void **state)
{
	(void)state;
	for (enum rig_at at = AT_LOADED; at <= AT_RUNNING; at++) {
		struct rig *rig = rig_create();
		rig_destination_at(rig, at);
		rig_link_down(rig);
		rig_forget(rig);
		rig->link.epoch = RIG_EPOCH + 1;
		hf_destination_events.link_up(rig->destination, &rig->link);
		for (uint64_t epoch = 0; epoch <= RIG_EPOCH + 1; epoch++)
			hear_the_old_link(rig, epoch);
		rig_expect_nothing(rig);
		assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
		assert_string_equal(rig_snapshot(rig).err.text, "the cable is cut");
		rig_destroy(rig);
	}
}

static void after_a_sources_pause_neither_link_is_heard(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_GIVEN_UP);
	rig_link_down(rig);
	rig->link.epoch = RIG_EPOCH + 1;
	hf_source_events.link_up(rig->source, &rig->link);
	for (uint64_t epoch = 0; epoch <= RIG_EPOCH + 1; epoch++)
		hear_the_old_link(rig, epoch);
	rig_expect_nothing(rig);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_string_equal(rig_source_snapshot(rig).err.text, "the cable is cut");
}

static void before_a_link_is_up_none_is_heard(void **state)
{
	struct rig *rig = *state;
	rig_destination(rig);
	hear_the_old_link(rig, 0);
	rig_expect_nothing(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_NONE);
}

static void before_a_sources_link_is_up_none_is_heard(void **state)
{
	struct rig *rig = *state;
	rig_source(rig);
	hear_the_old_link(rig, 0);
	rig_expect_nothing(rig);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_NONE);
}

/* ---- (f) nothing is stopped from a callback ---------------------------------------------------- */

static void destroy_destination(void *opaque)
{
	struct rig *rig = opaque;
	hf_destination_destroy(rig->destination);
}

static void destroy_source(void *opaque)
{
	struct rig *rig = opaque;
	hf_source_destroy(rig->source);
}

static void fail_destination(void *opaque)
{
	struct rig *rig = opaque;
	struct hf_err why = {.class = HF_ERR_LOCAL, .errnum = EIO};
	hf_destination_fail(rig->destination, &why);
}

static void bring_the_link_up(void *opaque)
{
	struct rig *rig = opaque;
	if (rig->source)
		hf_source_events.link_up(rig->source, &rig->link);
	else
		hf_destination_events.link_up(rig->destination, &rig->link);
}

static void engines_are_neither_destroyed_nor_entered_from_notify(void **state)
{
	struct rig *rig = *state;
	rig->destination_config.notify = destroy_destination;
	rig_destination(rig);
	assert_dies(bring_the_link_up, rig,
		    "hf_destination_destroy is called from inside notify(): nothing is stopped");
	rig_destroy(rig);

	*state = rig = rig_create();
	rig->destination_config.notify = fail_destination;
	rig_destination(rig);
	assert_dies(bring_the_link_up, rig, "hf_destination_fail is called from inside notify()");
	rig_destroy(rig);

	*state = rig = rig_create();
	rig->source_config.notify = destroy_source;
	rig_source(rig);
	assert_dies(bring_the_link_up, rig,
		    "hf_source_destroy is called from inside notify(): nothing is stopped");
}

/* ---- a pause while the link is up -------------------------------------------------------------- */

static void pause_by_trouble(struct rig *rig)
{
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LOCAL, EIO, "a thread died");
	if (rig->source)
		rig_hear(rig,
			 HF_WIRE_READY); /* a violation; trouble of its own does not stop a source then */
	else
		hf_destination_fail(rig->destination, &why);
	rig_expect_nothing(rig);
}

static void a_destination_paused_before_run_still_runs_the_vm_it_is_given(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_LOADED);
	pause_by_trouble(rig);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	rig_hear(rig, HF_WIRE_RUN);
	rig_expect(rig, "run");
	assert_int_equal(rig_snapshot(rig).incoming, HF_INCOMING_RUNNING);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	assert_string_equal(rig_snapshot(rig).err.text, "a thread died");
	rig_hear(rig, HF_WIRE_RUN); /* once */
	rig_expect_nothing(rig);

	/* The link still brings its pages, and then nothing has been lost. */
	rig_reach(rig, AT_RUN, AT_COMPLETE);
	assert_int_equal(rig->sent[HF_WIRE_RESUMED].times, 1);
	assert_int_equal(rig->sent[HF_WIRE_COMPLETE].times, 1);
	rig_hear(rig, HF_WIRE_FINISH);
	assert_int_equal(rig_snapshot(rig).status, HF_STATUS_COMPLETED);
	assert_int_equal(rig_snapshot(rig).downtime_ns, 77);
	assert_int_equal(rig_snapshot(rig).err.class, HF_ERR_NONE);
}

static void a_destination_paused_before_run_hears_that_the_source_keeps_the_vm(void **state)
{
	struct rig *rig = *state;
	rig_destination_at(rig, AT_LOADED);
	pause_by_trouble(rig);
	rig_hear(rig, HF_WIRE_FAIL);
	rig_hear(rig, HF_WIRE_RUN); /* of a source that contradicts itself: the first word counts */
	rig_expect_nothing(rig);
	assert_int_equal(rig_snapshot(rig).incoming, HF_INCOMING_END);
	assert_non_null(strstr(rig_snapshot(rig).err.text, "stays with the source"));
}

static void a_paused_source_with_a_link_completes_when_the_destination_does(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_GIVEN_UP);
	pause_by_trouble(rig);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
	rig_hear(rig, HF_WIRE_RESUMED);
	assert_true(rig_source_snapshot(rig).downtime_ns > 0);
	rig_hear(rig, HF_WIRE_COMPLETE);
	rig_expect(rig, "send FINISH");
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_COMPLETED);
	assert_int_equal(rig_source_snapshot(rig).err.class, HF_ERR_NONE);
	assert_int_equal(rig_source_snapshot(rig).owner, HF_VM_OWNER_DESTINATION);
}

static void a_paused_source_that_has_not_heard_resumed_takes_no_complete(void **state)
{
	struct rig *rig = *state;
	rig_source_at(rig, SOURCE_GIVEN_UP);
	pause_by_trouble(rig);
	rig_hear(rig, HF_WIRE_COMPLETE);
	rig_expect_nothing(rig);
	assert_int_equal(rig_source_snapshot(rig).status, HF_STATUS_POSTCOPY_PAUSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_destination_survives_the_failure_of_any_port_call),
	    cmocka_unit_test(a_source_survives_the_failure_of_any_port_call),
	    cmocka_unit_test(a_port_that_calls_the_engine_from_inside_is_caught),
	    RIG_TEST(dones_that_are_repeated_stale_or_made_up_change_nothing),
	    cmocka_unit_test(after_a_pause_neither_link_is_heard),
	    RIG_TEST(after_a_sources_pause_neither_link_is_heard),
	    RIG_TEST(before_a_link_is_up_none_is_heard),
	    RIG_TEST(before_a_sources_link_is_up_none_is_heard),
	    RIG_TEST(engines_are_neither_destroyed_nor_entered_from_notify),
	    RIG_TEST(a_destination_paused_before_run_still_runs_the_vm_it_is_given),
	    RIG_TEST(a_destination_paused_before_run_hears_that_the_source_keeps_the_vm),
	    RIG_TEST(a_paused_source_with_a_link_completes_when_the_destination_does),
	    RIG_TEST(a_paused_source_that_has_not_heard_resumed_takes_no_complete),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
