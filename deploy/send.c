/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `hugeferry send`. Theory of operation: wires the VM adapter, the source's memory and a link to the source
 * engine, then waits. The engine and the ports do everything in their own threads; the main thread reads
 * the engine's snapshot whenever it is notified, and translates signals, the time limit and the
 * death of the VMM into engine calls.
 *
 * Who owns the VM decides what the end looks like. Before the hand-over every failure leaves it here,
 * running; the program waits until the engine says that the VM has been resumed or cannot be. After the
 * hand-over it belongs to the destination: cancelling is refused, a lost link pauses and is looked for again
 * (send_link.c), and only `completed` ends the VMM, which until then stands frozen with the only copy of the
 * pages that have not been fetched. A program that ends before is started again with the same command line
 * and goes on (send_state.c).
 *
 * Only a running VM is taken. The destination runs what it receives, so a paused VM would be started there
 * behind its operator's back (QEMU would keep it paused; refusing is the honest subset).
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/link_session.h"
#include "deploy/monotonic.h"
#include "deploy/program.h"
#include "deploy/report.h"
#include "deploy/send_internal.h"
#include "deploy/vmm_version.h"

#define NS_PER_S 1000000000ull

static int check_running(struct send *send, struct hf_err *err)
{
	char status[64];
	int result = hf_qmp_vm_status(send->vm, status, sizeof(status), err);
	if (result)
		return result;
	if (strcmp(status, "running") != 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "the VM at %s is '%s'; only a running VM can be moved, since it would be "
				  "run at the destination",
				  send->options.vm, status);
	return 0;
}

static int map_blocks(struct send *send, const struct hf_qmp_vm_block *found, uint32_t count,
		      struct hf_err *err)
{
	if (!count)
		return hf_err_set(err, HF_ERR_LOCAL, ENOENT,
				  "it has no memory backend; its memory must be memory-backend-file "
				  "objects on hugetlbfs");
	struct hf_outgoing_region *regions = calloc(count, sizeof(*regions));
	if (!regions)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "out of memory");
	for (uint32_t i = 0; i < count; i++)
		regions[i] =
		    (struct hf_outgoing_region){found[i].idstr, found[i].path, found[i].length_bytes};
	int result = hf_outgoing_memory_create(&send->memory, hf_qmp_vm_pid(send->vm), regions, count,
					       &send->blocks, err);
	free(regions);
	return result;
}

/* The link is opened in between: the record is about its session. */
static int open_memory_and_link(struct send *send, struct hf_err *err)
{
	struct hf_qmp_vm_block *found = NULL;
	uint32_t count = 0;
	int result = hf_qmp_vm_blocks(send->vm, &found, &count, err);
	if (result)
		return result;
	result = map_blocks(send, found, count, err);
	if (result)
		hf_err_prefix(err, "VM at %s", send->options.vm);
	if (!result)
		result = hf_send_track(send, found, count, err);
	if (!result)
		result = hf_send_connect(send, err);
	if (!result)
		result = hf_send_make_record(send, found, count, err);
	hf_qmp_vm_blocks_free(found, count);
	return result;
}

/* A VM that was resumed is the operator's to stop: nobody may run it then, also if this program is killed. */
static void vm_done(void *opaque, const struct hf_vm_result *result)
{
	struct send *send = opaque;
	if (result->op == HF_VM_RESUME && result->result == 0)
		hf_guardian_disarm(send->guardian);
	hf_source_vm_done(send->engine, result);
}

static void recorded(void *opaque, enum hf_record record, int result, const struct hf_err *err)
{
	hf_source_recorded(opaque, record, result, err);
}

static int start_engine(struct send *send, struct hf_err *err)
{
	struct hf_source_config config = {
	    .vm_name = send->options.vm,
	    .blocks = &send->blocks,
	    .clock = hf_monotonic_clock(),
	    .memory = hf_send_memory_port(send),
	    .precopy = send->options.precopy,
	    .precopy_only = send->options.precopy_only,
	    .downtime_limit_ns = (uint64_t)send->options.downtime_limit_ms * 1000000,
	    .max_bandwidth = send->options.max_bandwidth_bytes,
	    .transport = hf_link_relay_port(&send->relay),
	    .vm = hf_send_vm_port(send),
	    .recorder = hf_vm_recorder_port(send->recorder),
	    .restarted = send->restarted,
	    .record = hf_vm_record_state(send->record).record,
	    .wish_placement = send->options.placement != HF_PLACEMENT_CHOICE_AUTO,
	    .placement = send->options.placement == HF_PLACEMENT_CHOICE_COPY ? HF_PLACEMENT_COPY
									     : HF_PLACEMENT_CONTINUE,
	    .max_page_stall_ns = (uint64_t)send->options.max_page_stall_ms * 1000000,
	    .hold_background = send->options.no_background,
	    .release = send->options.release_ram,
	    .released = hf_vm_record_state(send->record).released,
	    .notify = hf_waiter_notify,
	    .opaque = &send->waiter,
	};
	int result = hf_source_create(&send->engine, &config, err);
	if (!result)
		result = hf_vm_recorder_start(send->recorder, recorded, send->engine, err);
	if (!result)
		result = hf_send_start_release(send, err);
	if (!result && send->vm)
		result = hf_qmp_vm_start(send->vm, vm_done, send, err);
	if (!result && send->link)
		result = hf_send_start_link(send, err);
	return result;
}

static int open_vm(struct send *send, struct hf_err *err)
{
	int result = hf_qmp_vm_create(&send->vm, send->options.vm, err);
	if (!result)
		result = hf_vmm_open(&send->vmm, hf_qmp_vm_pid(send->vm), err);
	if (!result)
		result = check_running(send, err);
	if (!result)
		result = hf_warn_untested(COMMAND, send->vm, send->options.vm, err);
	if (!result)
		result = hf_qmp_vm_check_outgoing(send->vm, send->options.precopy, err);
	if (!result)
		result = open_memory_and_link(send, err);
	return result;
}

static int set_up(struct send *send, struct hf_err *err)
{
	hf_link_relay_init(&send->relay);
	int result = hf_waiter_open(&send->waiter, err);
	if (!result)
		result = hf_send_guard(send, err); /* before there are threads */
	if (!result)
		result = hf_send_open_control(send, err);
	if (!result)
		result = hf_send_find_record(send, err);
	if (!result)
		result = send->restarted ? hf_send_open_recorded_memory(send, err) : open_vm(send, err);
	if (!result)
		result = hf_waiter_watch(&send->waiter, send->vmm.pid, err);
	if (!result)
		result = hf_vm_recorder_create(&send->recorder, send->record, err);
	if (!result)
		result = hf_send_allow_release(send, err);
	if (!result)
		result = start_engine(send, err);
	if (!result)
		hf_send_answer_queries(send);
	return result;
}

/* The engine refuses after the hand-over and says why. */
static void cancel(struct send *send)
{
	struct hf_err err = HF_ERR_INIT;
	if (hf_source_cancel(send->engine, &err))
		hf_complain(COMMAND, "%s", err.text);
}

static void vmm_ended(struct send *send)
{
	send->vmm_ended = true;
	struct hf_err why = HF_ERR_INIT;
	hf_err_set(&why, HF_ERR_LOCAL, ESRCH, "the source's VMM at %s has ended", send->options.vm);
	hf_source_fail(send->engine, &why);
}

static bool handed_over_or_ending(const struct hf_source_snapshot *snapshot)
{
	return snapshot->owner == HF_VM_OWNER_DESTINATION || hf_status_is_final(snapshot->status);
}

/* The earlier of two times, of which 0 is none. */
static uint64_t earlier_ns(uint64_t one_ns, uint64_t other_ns)
{
	if (!one_ns || !other_ns)
		return one_ns ? one_ns : other_ns;
	return one_ns < other_ns ? one_ns : other_ns;
}

static int wait_ms(const struct send *send)
{
	uint64_t deadline_ns = hf_send_link_due_ns(send);
	if (!handed_over_or_ending(&send->snapshot))
		deadline_ns = earlier_ns(earlier_ns(deadline_ns, send->postcopy_due_ns),
					 earlier_ns(send->deadline_ns, send->switchover_deadline_ns));
	if (!deadline_ns)
		return -1;
	uint64_t now_ns = hf_monotonic_ns(NULL);
	return now_ns >= deadline_ns ? 0 : (int)((deadline_ns - now_ns) / 1000000 + 1);
}

static void note_switchover(struct send *send)
{
	if (send->switchover_noted || !send->snapshot.stopping)
		return;
	send->switchover_noted = true;
	if (send->options.switchover_timeout_s)
		send->switchover_deadline_ns =
		    hf_monotonic_ns(NULL) + send->options.switchover_timeout_s * NS_PER_S;
}

static bool passed(const struct send *send, uint64_t *deadline_ns)
{
	if (!*deadline_ns || handed_over_or_ending(&send->snapshot) || hf_monotonic_ns(NULL) < *deadline_ns)
		return false;
	*deadline_ns = 0;
	return true;
}

static void check_deadlines(struct send *send)
{
	if (passed(send, &send->deadline_ns)) {
		hf_complain(COMMAND, "the VM could not be handed over within %u s; cancelling",
			    send->options.timeout_s);
		cancel(send);
	} else if (passed(send, &send->switchover_deadline_ns)) {
		hf_complain(COMMAND,
			    "the VM stands still and has not been handed over within %u s "
			    "(--switchover-timeout); cancelling",
			    send->options.switchover_timeout_s);
		cancel(send);
	}
}

static bool at_end(const struct send *send)
{
	const struct hf_source_snapshot *snapshot = &send->snapshot;
	bool looks = hf_send_wants_link(send) &&
		     !hf_reconnect_over(&send->reconnect, hf_monotonic_ns(NULL)) && !send->reconnect.held;
	/* Who can be told to look again waits for that. */
	bool waits =
	    looks || (hf_send_wants_link(send) && send->control && hf_status_is_paused(snapshot->status));
	if (hf_status_is_paused(snapshot->status))
		return !waits;
	return hf_status_is_final(snapshot->status) && snapshot->owner != HF_VM_OWNER_RESUMING && !waits;
}

/* The VM's pages are kept by its VMM and the record: a pause needs no program. */
static void take_signal(struct send *send, int signal)
{
	if (signal == SIGUSR1)
		hf_source_hold_background(send->engine, false);
	else if (signal &&
		 (hf_status_is_paused(send->snapshot.status) || hf_status_is_final(send->snapshot.status)))
		send->stopped = true;
	else if (signal)
		send->cancel_signalled = true;
}

/* The destination is told over the link: by an engine that has heard of it. */
static void cancel_if_signalled(struct send *send)
{
	if (!send->cancel_signalled || hf_send_link_comes_up(send))
		return;
	send->cancel_signalled = false;
	cancel(send);
}

/* Once, when the destination has measured the link. */
static void tell_link(struct send *send)
{
	if (send->link_told || send->snapshot.link.rate_bytes_per_s == 0)
		return;
	send->link_told = true;
	hf_link_warn(COMMAND, &send->snapshot.link, &send->blocks,
		     (uint64_t)send->options.max_page_stall_ms * 1000000);
}

static void wait_for_end(struct send *send)
{
	if (send->options.timeout_s)
		send->deadline_ns = hf_monotonic_ns(NULL) + send->options.timeout_s * NS_PER_S;
	hf_send_begin_precopy(send);
	for (;;) {
		hf_control_run(send->control);
		hf_send_tend_precopy(send);
		hf_source_snapshot(send->engine, &send->snapshot);
		cancel_if_signalled(send);
		hf_send_tend_link(send);
		hf_source_snapshot(send->engine, &send->snapshot);
		hf_control_status(send->control, send->snapshot.status);
		if (at_end(send))
			return;
		tell_link(send);
		hf_send_tell_release(send);
		struct hf_woken woken = hf_waiter_wait(&send->waiter, -1, wait_ms(send));
		if (woken.vmm_ended)
			vmm_ended(send);
		take_signal(send, woken.signal);
		hf_source_snapshot(send->engine, &send->snapshot);
		note_switchover(send);
		check_deadlines(send);
	}
}

/* The last message must reach the destination before anything ends here. */
static void flush_link(struct send *send)
{
	if (send->link)
		send->scheme->flush(send->link, FLUSH_TIMEOUT_MS);
}

/* It is frozen, and is never thawed: somebody's `cont` may lie in its socket. */
static void end_source_vmm(struct send *send)
{
	struct hf_err err = HF_ERR_INIT;
	if (send->options.keep)
		return;
	if (!send->vmm_ended && hf_vmm_kill(&send->vmm, HF_VMM_KILL_LIMIT_MS, &err))
		hf_complain(COMMAND,
			    "completed, but the source's VMM could not be ended (%s); end it, never run it",
			    err.text);
	else if (hf_outgoing_memory_discard(send->memory, &err))
		hf_complain(COMMAND, "completed, but the source's memory could not be given back: %s",
			    err.text);
}

/* What the source VM does now: asked, not guessed. */
static void describe_source(const struct send *send, char *text, size_t bytes)
{
	char status[64];
	if (!send->vm || hf_qmp_vm_status(send->vm, status, sizeof(status), NULL))
		snprintf(text, bytes, "; the VM stays with the source");
	else if (!strcmp(status, "running"))
		snprintf(text, bytes, "; the source VM runs on");
	else
		snprintf(text, bytes, "; the VM stays with the source and is '%s'", status);
}

static void explain_failure(const struct send *send)
{
	const struct hf_source_snapshot *snapshot = &send->snapshot;
	char source[128];
	const char *who = source;
	if (send->vmm_ended)
		who = "; the source VM is gone with it";
	else if (snapshot->owner == HF_VM_OWNER_STUCK)
		who = "; the source VM is stopped and could not be resumed: `cont` it";
	else if (snapshot->owner == HF_VM_OWNER_DESTINATION)
		who = "; the VM belongs to the destination: do not run it here";
	else
		describe_source(send, source, sizeof(source));
	hf_complain(COMMAND, "%s%s", snapshot->err.text, who);
}

static enum hf_exit conclude(struct send *send)
{
	switch (send->snapshot.status) {
	case HF_STATUS_COMPLETED:
		end_source_vmm(send);
		if (send->snapshot.downtime_ns)
			printf("completed: the VM runs at %s, downtime %.1f ms\n", send->uri,
			       (double)send->snapshot.downtime_ns / 1e6);
		else
			printf("completed: the VM runs at %s\n", send->uri);
		return HF_EXIT_OK;
	case HF_STATUS_POSTCOPY_PAUSED:
	case HF_STATUS_POSTCOPY_RECOVER_SETUP:
		hf_complain(COMMAND,
			    "the link was lost after the hand-over (%s); the VM belongs to the destination: "
			    "the source VM is left frozen and must not be run again; start the same command "
			    "again to go on",
			    send->snapshot.err.text);
		return HF_EXIT_LINK_LOST;
	case HF_STATUS_CANCELLED:
		explain_failure(send);
		return HF_EXIT_CANCELLED;
	default:
		explain_failure(send);
		return HF_EXIT_FAILED;
	}
}

static void write_report(const struct send *send, const struct hf_err *early)
{
	struct hf_err err = HF_ERR_INIT;
	if (!send->options.json)
		return;
	struct hf_report_context context = hf_send_report_context(send);
	json_t *report = early ? hf_report_failure(early) : hf_report_source(&send->snapshot, &context);
	if (hf_report_write(report, send->options.json, &err))
		hf_complain(COMMAND, "%s", err.text);
	json_decref(report);
}

/* The record binds while the VM is the destination's and not all of it is there. */
static void settle(struct send *send)
{
	const struct hf_source_snapshot *snapshot = &send->snapshot;
	bool ours = hf_status_is_final(snapshot->status) && snapshot->owner == HF_VM_OWNER_SOURCE &&
		    !snapshot->destination_in_doubt;
	if (snapshot->status == HF_STATUS_COMPLETED || ours || send->aborted)
		hf_send_forget(send);
}

/* Threads that call the engine end before it does; the VM adapter's may still use the link. */
static void tear_down(struct send *send)
{
	hf_control_destroy(send->control);
	hf_qmp_vm_stop(send->vm);
	hf_outgoing_memory_stop_release(send->memory);
	hf_vm_recorder_stop(send->recorder);
	hf_send_close_link(send);
	hf_send_untrack(send);
	hf_qmp_vm_destroy(send->vm);
	hf_send_close_state(send);
	hf_source_destroy(send->engine);
	hf_link_relay_destroy(&send->relay);
	free(send->uri_of_operator);
	hf_outgoing_memory_destroy(send->memory);
	hf_ramblocks_destroy(&send->blocks);
	hf_waiter_close(&send->waiter);
}

int hf_main_send(int argc, char **argv)
{
	struct send send = {0};
	struct hf_err err = HF_ERR_INIT;
	int result = hf_options_parse(HF_COMMAND_SEND, argc, argv, &send.options, &err);
	if (!result)
		result = hf_scheme_of(send.options.to, &send.scheme, &err);
	if (!result)
		result = hf_report_check_path(send.options.json, &err);
	if (result < 0)
		hf_complain(COMMAND, "%s", err.text);
	if (result)
		return result < 0 ? HF_EXIT_USAGE : HF_EXIT_OK;
	hf_ramblocks_init(&send.blocks);
	send.uri = send.options.to;
	enum hf_exit code = HF_EXIT_FAILED;
	if (hf_options_vm_key(&send.options, send.key, &err) || set_up(&send, &err)) {
		hf_complain(COMMAND, "%s", err.text);
		write_report(&send, &err);
		if (send.made_record)
			hf_send_forget(&send);
	} else {
		wait_for_end(&send);
		flush_link(&send);
		code = conclude(&send);
		write_report(&send, NULL);
		settle(&send);
	}
	tear_down(&send);
	return code;
}
