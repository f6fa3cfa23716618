/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `hugeferry send`. Theory of operation: wires the VM adapter, the source's memory and a link to the source
 * engine, then waits. The engine and the ports do everything in their own threads; the main thread reads
 * the engine's snapshot whenever it is notified, and translates signals, the time limit and the
 * death of the VMM into engine calls.
 *
 * Who owns the VM decides what the end looks like. Before the hand-over every failure leaves it here,
 * running; the program waits until the engine says that the VM has been resumed or cannot be. After the
 * hand-over it belongs to the destination: cancelling is refused, the link's loss ends the program but leaves
 * the VMM stopped with the only copy of the pages that have not been fetched, and only `completed` ends the
 * VMM.
 *
 * Only a running VM is taken. The destination runs what it receives, so a paused VM would be started there
 * behind its operator's back (QEMU would keep it paused; refusing is the honest subset).
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/source.h"
#include "deploy/control.h"
#include "deploy/link_session.h"
#include "deploy/monotonic.h"
#include "deploy/options.h"
#include "deploy/program.h"
#include "deploy/query_migrate.h"
#include "deploy/report.h"
#include "deploy/transports.h"
#include "deploy/waiter.h"
#include "hugemem/guest_memory.h"
#include "kvm/qmp_vm.h"

#define COMMAND		 "send"
#define FLUSH_TIMEOUT_MS 2000u
#define NS_PER_S	 1000000000ull

struct send {
	struct hf_options options;
	struct hf_waiter waiter;
	struct hf_control *control; /* NULL without --qmp */
	const struct hf_scheme *scheme;
	struct hf_qmp_vm *vm;
	struct hf_ramblocks blocks;
	struct hf_outgoing_memory *memory;
	void *link;
	struct hf_source *engine;
	struct hf_source_snapshot snapshot; /* the last one taken */
	uint64_t deadline_ns;		    /* 0: none */
	uint64_t switchover_deadline_ns;    /* 0: none */
	bool switchover_noted;
	bool link_told;
	bool vmm_ended;
};

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

static int open_memory(struct send *send, struct hf_err *err)
{
	struct hf_qmp_vm_block *found = NULL;
	uint32_t count = 0;
	int result = hf_qmp_vm_blocks(send->vm, &found, &count, err);
	if (result)
		return result;
	result = map_blocks(send, found, count, err);
	if (result)
		hf_err_prefix(err, "VM at %s", send->options.vm);
	hf_qmp_vm_blocks_free(found, count);
	return result;
}

static int open_link(struct send *send, struct hf_err *err)
{
	struct hf_link_options options = {.channels = send->options.channels};
	if (send->options.timeout_s && send->options.timeout_s < 10)
		options.timeout_ms = send->options.timeout_s * 1000;
	return send->scheme->connect(&send->link, send->options.to, &options, err);
}

static void vm_done(void *opaque, const struct hf_vm_result *result)
{
	hf_source_vm_done(opaque, result);
}

static int start_engine(struct send *send, struct hf_err *err)
{
	struct hf_source_config config = {
	    .vm_name = send->options.vm,
	    .blocks = &send->blocks,
	    .clock = hf_monotonic_clock(),
	    .memory = hf_outgoing_memory_port(send->memory),
	    .transport = send->scheme->transport(send->link),
	    .vm = hf_qmp_vm_port(send->vm),
	    .wish_placement = send->options.placement != HF_PLACEMENT_CHOICE_AUTO,
	    .placement = send->options.placement == HF_PLACEMENT_CHOICE_COPY ? HF_PLACEMENT_COPY
									     : HF_PLACEMENT_CONTINUE,
	    .max_page_stall_ns = (uint64_t)send->options.max_page_stall_ms * 1000000,
	    .hold_background = send->options.no_background,
	    .notify = hf_waiter_notify,
	    .opaque = &send->waiter,
	};
	int result = hf_source_create(&send->engine, &config, err);
	if (result)
		return result;
	result = hf_qmp_vm_start(send->vm, vm_done, send->engine, err);
	if (result)
		return result;
	return send->scheme->start(send->link, &hf_source_events, send->engine, err);
}

/* ---- the control socket ---- */

static struct hf_report_context report_context(const struct send *send)
{
	return (struct hf_report_context){.transport = send->scheme ? send->scheme->name : NULL,
					  .blocks = &send->blocks};
}

static int control_cancel(void *opaque, struct hf_err *err)
{
	const struct send *send = opaque;
	return hf_source_cancel(send->engine, err);
}

static json_t *control_query(void *opaque)
{
	const struct send *send = opaque;
	struct hf_report_context context = report_context(send);
	return hf_query_source(send->engine, &context);
}

static int open_control(struct send *send, struct hf_err *err)
{
	struct hf_control_config config = {
	    .target = send->options.qmp,
	    .ops = {.cancel = control_cancel},
	    .opaque = send,
	    .wake = hf_waiter_notify,
	    .wake_opaque = &send->waiter,
	};
	return hf_control_create(&send->control, &config, err);
}

static int set_up(struct send *send, struct hf_err *err)
{
	int result = hf_waiter_open(&send->waiter, err);
	if (!result)
		result = open_control(send, err);
	if (!result)
		result = hf_qmp_vm_create(&send->vm, send->options.vm, err);
	if (!result)
		result = hf_waiter_watch(&send->waiter, hf_qmp_vm_pid(send->vm), err);
	if (!result)
		result = check_running(send, err);
	if (!result)
		result = open_memory(send, err);
	if (!result)
		result = open_link(send, err);
	if (!result)
		result = start_engine(send, err);
	if (!result)
		hf_control_set_query(send->control, control_query, send);
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
	uint64_t deadline_ns = earlier_ns(send->deadline_ns, send->switchover_deadline_ns);
	if (!deadline_ns || handed_over_or_ending(&send->snapshot))
		return -1;
	uint64_t now_ns = hf_monotonic_ns(NULL);
	return now_ns >= deadline_ns ? 0 : (int)((deadline_ns - now_ns) / 1000000 + 1);
}

/* From READY on the VM stands still, or is being stopped. */
static void note_switchover(struct send *send)
{
	if (send->switchover_noted || send->snapshot.status < HF_STATUS_ACTIVE)
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

static bool at_end(const struct hf_source_snapshot *snapshot)
{
	if (snapshot->status == HF_STATUS_POSTCOPY_PAUSED)
		return true;
	return hf_status_is_final(snapshot->status) && snapshot->owner != HF_VM_OWNER_RESUMING;
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
	for (;;) {
		hf_control_run(send->control);
		hf_source_snapshot(send->engine, &send->snapshot);
		hf_control_status(send->control, send->snapshot.status);
		if (at_end(&send->snapshot))
			return;
		tell_link(send);
		struct hf_woken woken = hf_waiter_wait(&send->waiter, -1, wait_ms(send));
		if (woken.vmm_ended)
			vmm_ended(send);
		if (woken.signal == SIGINT || woken.signal == SIGTERM)
			cancel(send);
		if (woken.signal == SIGUSR1)
			hf_source_hold_background(send->engine, false);
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

static void end_source_vmm(struct send *send)
{
	struct hf_err err = HF_ERR_INIT;
	if (send->options.keep)
		return;
	if (send->vmm_ended)
		return;
	if (hf_qmp_vm_quit(send->vm, &err))
		hf_complain(COMMAND,
			    "completed, but the source's VMM could not be ended (%s); end it, never run it",
			    err.text);
}

/* What the source VM does now: asked, not guessed. */
static void describe_source(const struct send *send, char *text, size_t bytes)
{
	char status[64];
	if (hf_qmp_vm_status(send->vm, status, sizeof(status), NULL))
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
		printf("completed: the VM runs at %s, downtime %.1f ms\n", send->options.to,
		       (double)send->snapshot.downtime_ns / 1e6);
		return HF_EXIT_OK;
	case HF_STATUS_POSTCOPY_PAUSED:
		hf_complain(COMMAND,
			    "the link was lost after the hand-over (%s); the VM belongs to the destination: "
			    "the source VM is left stopped and must not be run again",
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
	struct hf_report_context context = report_context(send);
	json_t *report = early ? hf_report_failure(early) : hf_report_source(&send->snapshot, &context);
	if (hf_report_write(report, send->options.json, &err))
		hf_complain(COMMAND, "%s", err.text);
	json_decref(report);
}

/* Threads that call the engine end before it does; the VM adapter's may still use the link. */
static void tear_down(struct send *send)
{
	hf_control_destroy(send->control);
	hf_qmp_vm_stop(send->vm);
	if (send->link)
		send->scheme->close(send->link);
	hf_qmp_vm_destroy(send->vm);
	hf_source_destroy(send->engine);
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
	enum hf_exit code = HF_EXIT_FAILED;
	if (set_up(&send, &err)) {
		hf_complain(COMMAND, "%s", err.text);
		write_report(&send, &err);
	} else {
		wait_for_end(&send);
		flush_link(&send);
		code = conclude(&send);
		write_report(&send, NULL);
	}
	tear_down(&send);
	return code;
}
