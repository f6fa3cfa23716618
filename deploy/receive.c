/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `hugeferry receive`. Theory of operation: everything that can fail without a peer is done first: the VMM
 * must wait for a migration (inmigrate), its memory is handed out over the attach socket, the placement is
 * chosen, and it is made ready as far as that goes without a source (hf_incoming_memory_begin()). If that
 * fails it is tried again when a source has come, so that both sides hear why. Then the listener opens and
 * `listening on URI` goes to stdout; `memory is ready` follows. Strangers are reported and forgotten; the
 * first whole connection closes the listener, gets an engine, and its fate is the program's fate. Where it
 * ends before the VMM was given anything, the VMM is made what it was.
 *
 * After the hand-over the VM lives here and nothing is given up: signals are refused by the engine. When the
 * link is lost the source is awaited again (receive_link.c). A program that ends, in whatever way, leaves the
 * VMM with its own copy of the userfaultfd, so missing pages stay missing and never read as zeros; started
 * again with the same command line it goes on (receive_state.c).
 */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/wire.h"
#include "deploy/link_session.h"
#include "deploy/monotonic.h"
#include "deploy/program.h"
#include "deploy/receive_internal.h"
#include "deploy/report.h"
#include "deploy/vmm_version.h"
#include "hugemem/memory_lock.h"

/* ---- events of the memory port, passed on to the engine ---- */

static void memory_ready(void *opaque, int result, const struct hf_err *err)
{
	struct receive *receive = opaque;
	struct hf_err why = HF_ERR_INIT;
	/* READY must not be said before the adapters of both sides have the memory. */
	if (!result && !receive->restarted) {
		result = hf_receive_lend(receive, true, &why);
		err = result ? &why : err;
	}
	receive->landings_ready = !result;
	/* Thawed so that this could be said; taken over or not, and before it may be told to run. */
	if (receive->found == HF_RECORD_LOADED && !hf_vmm_is_fenced(&receive->vmm))
		hf_qmp_vm_hold(receive->vm);
	hf_destination_memory_ready(receive->engine, result, err);
}

/* A fault must not wait for an agent that is itself paged out. */
static int prepare_program(void *opaque, struct hf_err *err)
{
	struct receive *receive = opaque;
	struct hf_tables tables;
	/* The source's operator may have wished for another one than was chosen at first. */
	hf_kept_pages_set_placement(receive->kept, hf_incoming_memory_port(receive->memory).placement);
	hf_destination_tables(receive->engine, &tables);
	return hf_memory_lock(&tables, err);
}

static void memory_fault(void *opaque, uint32_t block, uint64_t page, uint32_t thread_id, uint64_t arrived_ns)
{
	struct receive *receive = opaque;
	hf_destination_fault(receive->engine, block, page, thread_id, arrived_ns);
}

static void memory_failed(void *opaque, const struct hf_err *why)
{
	struct receive *receive = opaque;
	struct hf_err err = *why;
	hf_err_prefix(&err, "VM '%s'", hf_attach_client_vm_name(receive->attach));
	hf_destination_fail(receive->engine, &err);
}

static int memory_work(void *opaque, enum hf_work_class class)
{
	struct receive *receive = opaque;
	return hf_destination_work(receive->engine, class);
}

static void vm_done(void *opaque, const struct hf_vm_result *result)
{
	struct receive *receive = opaque;
	/* First: from RESUMED on the end may come, which the library is told. */
	if (result->op == HF_VM_RUN && result->result == 0)
		hf_receive_join(receive);
	hf_destination_vm_done(receive->engine, result);
}

static void recorded(void *opaque, enum hf_record record, int result, const struct hf_err *err)
{
	hf_destination_recorded(opaque, record, result, err);
}

/* ---- before there is a peer ---- */

static int check_waiting(struct receive *receive, struct hf_err *err)
{
	char status[64];
	int result = hf_qmp_vm_status(receive->vm, status, sizeof(status), err);
	if (result)
		return result;
	if (strcmp(status, "inmigrate") != 0)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "the VM at %s is '%s', not 'inmigrate'; start its VMM so that it waits for "
				  "a migration (-incoming defer)",
				  receive->options.vm, status);
	return 0;
}

static int check_same_process(struct receive *receive, struct hf_err *err)
{
	pid_t qmp = hf_qmp_vm_pid(receive->vm);
	pid_t attach = hf_attach_client_pid(receive->attach);
	if (qmp != attach)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "--vm %s is process %d, --attach %s is process %d; both must be one VMM",
				  receive->options.vm, (int)qmp, receive->options.attach, (int)attach);
	return 0;
}

static int open_memory(struct receive *receive, struct hf_err *err)
{
	struct hf_taken_over taken_over = {0};
	if (receive->restarted)
		taken_over = hf_kept_pages_taken_over(receive->kept);
	struct hf_incoming_memory_config config = {
	    .attach = receive->attach,
	    .blocks = &receive->blocks,
	    .choice = (enum hf_placement_choice)receive->options.placement,
	    .clock = hf_monotonic_clock(),
	    .ready = memory_ready,
	    .prepare_program = prepare_program,
	    .poisoning = hf_receive_note_poison,
	    .taken_over = receive->restarted ? &taken_over : NULL,
	    .fault = memory_fault,
	    .failed = memory_failed,
	    .work = memory_work,
	};
	int result = hf_incoming_memory_create(&receive->memory, &config, err);
	if (result)
		hf_err_prefix(err, "VM '%s' at %s", hf_attach_client_vm_name(receive->attach),
			      receive->options.attach);
	return result;
}

/* The VMM's threads wait for pages from here on. A failure is told when the program listens. */
static void begin_memory(struct receive *receive)
{
	receive->memory_begun = hf_incoming_memory_begin(receive->memory, hf_waiter_notify, &receive->waiter,
							 &receive->memory_err) == 0;
}

static int open_vm(struct receive *receive, struct hf_err *err)
{
	/* Started again, it must serve pages first: the VMM may not answer before it has them. */
	int result =
	    receive->restarted
		? hf_qmp_vm_create_silent(&receive->vm, receive->options.vm,
					  hf_vm_record_description(receive->record)->vmm_settings, err)
		: hf_qmp_vm_create(&receive->vm, receive->options.vm, err);
	if (!result)
		result = hf_vmm_open(&receive->vmm, hf_qmp_vm_pid(receive->vm), err);
	if (!result)
		result = hf_waiter_watch(&receive->waiter, receive->vmm.pid, err);
	if (!result && receive->settings_left)
		result = hf_receive_put_settings_back(receive, err);
	if (!result && !receive->restarted)
		result = check_waiting(receive, err);
	if (!result && !receive->restarted)
		result = hf_warn_untested(COMMAND, receive->vm, receive->options.vm, err);
	if (!result && !receive->restarted)
		result = hf_qmp_vm_check_incoming(receive->vm, err);
	if (!result)
		result = hf_receive_attach(receive, err);
	if (!result)
		result = check_same_process(receive, err);
	if (!result && receive->restarted)
		result = hf_receive_open_kept(receive, err);
	if (!result)
		result = hf_receive_learn_blocks(receive, err);
	if (!result && receive->restarted)
		result = hf_receive_check_kept(receive, err);
	if (!result && receive->kept)
		receive->poison |= hf_kept_pages_poisoning(receive->kept);
	if (!result)
		result = open_memory(receive, err);
	if (!result)
		result = receive->restarted
			     ? hf_receive_recall_vcpus(receive, err)
			     : hf_qmp_vm_vcpus(receive->vm, &receive->vcpu_threads, &receive->vcpus, err);
	if (!result && !receive->restarted)
		begin_memory(receive);
	return result;
}

static int open_listener(struct receive *receive, struct hf_err *err)
{
	int result = hf_receive_listen(receive, err);
	if (result)
		return result;
	const char *bound = receive->scheme->listener_uri(receive->listener);
	printf("listening on %s\n", bound);
	fflush(stdout);
	/* Where the source will come again: the port that was found, if any would do. */
	return hf_receive_take_uri(receive, bound, err);
}

/* Of a VM whose VMM has ended there is nothing to open: the source is only told. */
static int set_up(struct receive *receive, struct hf_err *err)
{
	hf_link_relay_init(&receive->relay);
	int result = hf_waiter_open(&receive->waiter, err);
	if (!result)
		result = hf_receive_open_control(receive, err);
	if (!result)
		result = hf_receive_find_record(receive, err);
	if (!result)
		result = hf_receive_check_poison(receive, err);
	if (!result)
		result = receive->restarted && !receive->vmm_lives ? hf_receive_recall_blocks(receive, err)
								   : open_vm(receive, err);
	if (!result && !receive->poison)
		result = open_listener(receive, err);
	return result;
}

/* ---- the peer ---- */

static uint64_t max_page_stall_ns(const struct receive *receive)
{
	return (uint64_t)receive->options.max_page_stall_ms * 1000000;
}

static int explain_vmm_end(struct receive *receive, struct hf_err *err)
{
	hf_err_set(err, HF_ERR_LOCAL, ESRCH, "the destination's VMM at %s has ended", receive->options.vm);
	if (receive->vm)
		hf_qmp_vm_add_words(receive->vm, err);
	return -ESRCH;
}

/* A pause needs no program: the VMM keeps the pages, the files what is known of them. */
static void take_signal(struct receive *receive, int signal)
{
	if (signal == SIGUSR1) {
		receive->hold_background = false;
		if (receive->engine)
			hf_destination_hold_background(receive->engine, false);
	} else if (signal && receive->engine && hf_status_is_paused(receive->snapshot.status)) {
		receive->stopped = true;
	} else if (signal && receive->engine) {
		receive->cancel_signalled = true;
	}
}

/* The source is told over the link: by an engine that has heard of it. */
static void cancel_if_signalled(struct receive *receive)
{
	struct hf_err err = HF_ERR_INIT;
	if (!receive->cancel_signalled || hf_receive_link_comes_up(receive))
		return;
	receive->cancel_signalled = false;
	if (hf_destination_cancel(receive->engine, &err))
		hf_complain(COMMAND, "%s", err.text);
}

/* While there is no engine: what else may end the program. */
static int take_woken(struct receive *receive, const struct hf_woken *woken, struct hf_err *err)
{
	receive->vmm_ended |= woken->vmm_ended;
	if (woken->vmm_ended)
		return explain_vmm_end(receive, err);
	take_signal(receive, woken->signal);
	if (woken->signal == SIGINT || woken->signal == SIGTERM || receive->cancel_asked)
		return hf_err_set(err, HF_ERR_CANCELLED, ECANCELED, "cancelled while waiting for a peer");
	return 0;
}

/* A peer that only wants the link measured gets its answer; the program goes on listening. */
static int answer_check(struct receive *receive, struct hf_err *err)
{
	if (!(receive->scheme->info(receive->link)->features & HF_WIRE_FEATURE_CHECK))
		return 0;
	struct hf_link_session session = {
	    .scheme = receive->scheme,
	    .link = receive->link,
	    .name = receive->options.listen,
	    .chunk_bytes = (uint32_t)receive->options.chunk_bytes,
	    .max_page_stall_ns = max_page_stall_ns(receive),
	    .waiter = &receive->waiter,
	};
	struct hf_link_check_snapshot measured;
	struct hf_err why = HF_ERR_INIT;
	char link[HF_LINK_TEXT_BYTES];
	receive->link = NULL;
	if (hf_link_session_run(&session, &measured, &why))
		hf_complain(COMMAND, "a check of the link failed: %s", why.text);
	else
		hf_complain(COMMAND, "the link was checked: %s", hf_link_text(&measured.figures, link));
	return take_woken(receive, &session.woken, err);
}

/* True: there is more to tell later. */
static bool tell_memory(struct receive *receive)
{
	struct hf_incoming_progress memory = {.over = true, .err = receive->memory_err};
	if (receive->memory_told)
		return false;
	if (receive->memory_begun)
		hf_incoming_memory_progress(receive->memory, &memory);
	if (!memory.over) {
		hf_progress_memory(&receive->progress, memory.allocated_bytes, memory.total_bytes);
		return true;
	}
	receive->memory_told = true;
	hf_progress_end(&receive->progress);
	if (memory.err.class == HF_ERR_NONE)
		printf("memory is ready\n");
	else
		printf("memory is not ready, which ends a migration if it has not changed by then: %s\n",
		       memory.err.text);
	fflush(stdout);
	return false;
}

static int accept_peer(struct receive *receive, struct hf_err *err)
{
	int fd = receive->scheme->listener_fd(receive->listener);
	while (!receive->link) {
		hf_control_run(receive->control);
		struct hf_woken woken = {0};
		int limit_ms = tell_memory(receive) ? hf_progress_period_ms(&receive->progress) : -1;
		if (!receive->cancel_asked)
			woken = hf_waiter_wait(&receive->waiter, fd, limit_ms);
		int stop = take_woken(receive, &woken, err);
		if (stop)
			return stop;
		struct hf_err refusal = HF_ERR_INIT;
		if (woken.extra && receive->scheme->accept(receive->listener, &receive->link, &refusal))
			hf_complain(COMMAND, "a peer was refused: %s", refusal.text);
		int result = receive->link ? answer_check(receive, err) : 0;
		if (result)
			return result;
	}
	hf_receive_close_listener(receive);
	return hf_receive_make_record(receive, err);
}

static int start_engine(struct receive *receive, struct hf_err *err)
{
	struct hf_destination_config config = {
	    .vm_name = receive->attach ? hf_attach_client_vm_name(receive->attach) : receive->options.vm,
	    .blocks = &receive->blocks,
	    .vcpu_thread_ids = receive->vcpu_threads,
	    .vcpus = receive->vcpus,
	    .clock = hf_monotonic_clock(),
	    .memory = receive->memory ? hf_incoming_memory_port(receive->memory) : (struct hf_memory){0},
	    .transport = hf_link_relay_port(&receive->relay),
	    .vm = hf_qmp_vm_port(receive->vm),
	    .kept_received = receive->kept ? hf_kept_pages_received(receive->kept) : NULL,
	    .kept_present = receive->kept ? hf_kept_pages_present(receive->kept) : NULL,
	    .restarted = receive->restarted,
	    .record = receive->found,
	    .vmm_lives = receive->vmm_lives,
	    .chunk_bytes = (uint32_t)receive->options.chunk_bytes,
	    .background_held = receive->hold_background,
	    .max_postcopy_bandwidth = receive->options.max_postcopy_bandwidth,
	    .max_page_stall_ns = max_page_stall_ns(receive),
	    .notify = hf_waiter_notify,
	    .opaque = &receive->waiter,
	};
	int result = hf_vm_recorder_create(&receive->recorder, receive->record, err);
	if (result)
		return result;
	config.recorder = hf_vm_recorder_port(receive->recorder);
	result = hf_destination_create(&receive->engine, &config, err);
	if (!result)
		result = hf_vm_recorder_start(receive->recorder, recorded, receive->engine, err);
	if (!result && receive->memory)
		result = hf_incoming_memory_start(receive->memory, receive, err);
	if (!result && receive->vm)
		result = hf_qmp_vm_start(receive->vm, vm_done, receive, err);
	if (!result && receive->link)
		result = hf_receive_start_link(receive, err);
	if (!result && receive->restarted)
		hf_destination_restart(receive->engine);
	return result;
}

static bool at_end(const struct receive *receive)
{
	if (hf_status_is_final(receive->snapshot.status))
		return true;
	if (!hf_status_is_paused(receive->snapshot.status))
		return false;
	if (receive->poison && !receive->stopped && !receive->vmm_ended &&
	    !receive->snapshot.takeover_failed && receive->snapshot.handover != HF_DESTINATION_LOST &&
	    !receive->snapshot.pages_complete)
		return false;
	/* Who can be told to listen again waits for that, unless every page is here. */
	if (receive->control && !receive->snapshot.pages_complete)
		return !hf_receive_wants_link(receive);
	return !hf_receive_wants_link(receive) || receive->reconnect.held ||
	       hf_reconnect_over(&receive->reconnect, hf_monotonic_ns(NULL));
}

/* Once: a page that cannot be placed is tried again and again while the others go on. */
static void tell_trouble(struct receive *receive)
{
	if (receive->trouble_told || hf_status_is_paused(receive->snapshot.status) ||
	    receive->snapshot.err.class == HF_ERR_NONE)
		return;
	receive->trouble_told = true;
	hf_progress_end(&receive->progress);
	hf_complain(COMMAND, "%s", receive->snapshot.err.text);
}

/* Once, when the link has been measured. */
static void tell_link(struct receive *receive)
{
	if (receive->link_told || receive->snapshot.link.rate_bytes_per_s == 0)
		return;
	receive->link_told = true;
	hf_link_warn(COMMAND, &receive->snapshot.link, &receive->blocks, max_page_stall_ns(receive));
}

static int wait_ms(const struct receive *receive)
{
	int period_ms = hf_progress_period_ms(&receive->progress);
	bool looks = hf_receive_wants_link(receive) || receive->reconnect.agree_by_ns;
	uint64_t due_ns = looks ? hf_reconnect_wake_ns(&receive->reconnect) : 0;
	if (due_ns && receive->listener) /* who comes wakes; only the deadline does else */
		due_ns = receive->reconnect.deadline_ns;
	if (!due_ns)
		return period_ms;
	uint64_t now_ns = hf_monotonic_ns(NULL);
	uint64_t left_ms = due_ns > now_ns ? (due_ns - now_ns) / 1000000 + 1 : 0;
	if (left_ms > INT_MAX)
		left_ms = INT_MAX;
	return period_ms >= 0 && (uint64_t)period_ms < left_ms ? period_ms : (int)left_ms;
}

static void take_vmm_end(struct receive *receive)
{
	struct hf_err err = HF_ERR_INIT;
	receive->vmm_ended = true;
	explain_vmm_end(receive, &err);
	hf_destination_vm_ended(receive->engine, &err);
}

static void wait_for_end(struct receive *receive)
{
	for (;;) {
		hf_control_run(receive->control);
		hf_destination_snapshot(receive->engine, &receive->snapshot);
		cancel_if_signalled(receive);
		hf_receive_tend_link(receive);
		hf_receive_tend_poison(receive);
		hf_destination_snapshot(receive->engine, &receive->snapshot);
		hf_control_status(receive->control, receive->snapshot.status);
		hf_progress_update(&receive->progress, &receive->snapshot);
		if (at_end(receive))
			break;
		tell_trouble(receive);
		tell_link(receive);
		int fd = receive->listener ? receive->scheme->listener_fd(receive->listener) : -1;
		struct hf_woken woken = hf_waiter_wait(&receive->waiter, fd, wait_ms(receive));
		if (woken.vmm_ended)
			take_vmm_end(receive);
		take_signal(receive, woken.signal);
		if (woken.extra)
			hf_receive_take_link(receive);
	}
	if (receive->snapshot.pages_complete)
		hf_destination_let_go(receive->engine);
	hf_progress_end(&receive->progress);
}

/* ---- the end ---- */

/*
 * Threads that call the engine end before it does; the figures are taken when nothing moves any more. The
 * link is closed last: the threads of the memory and of the VM adapter use it.
 */
static void stop_ports(struct receive *receive)
{
	if (receive->link)
		receive->scheme->flush(receive->link, FLUSH_TIMEOUT_MS);
	/* A thread of the memory may wait there for the source. */
	if (receive->link && receive->scheme->shutdown)
		receive->scheme->shutdown(receive->link);
	/* Also without an engine: it may be allocating. */
	if (receive->memory)
		hf_incoming_memory_stop(receive->memory);
	hf_qmp_vm_stop(receive->vm);
	hf_vm_recorder_stop(receive->recorder);
	hf_receive_close_link(receive);
}

/* A copy of a VM that is the source's: nobody may run it by mistake. */
static bool removed_vmm(struct receive *receive)
{
	struct hf_err err = HF_ERR_INIT;
	if (!receive->snapshot.has_state || !receive->vmm.fd || receive->vmm_ended)
		return false;
	if (hf_vmm_kill(&receive->vmm, HF_VMM_KILL_LIMIT_MS, &err) == 0)
		return true;
	hf_complain(COMMAND, "the VMM on this side has the VM's state and could not be ended: %s; end it",
		    err.text);
	return false;
}

/* Nothing was placed before the VMM was given its state: what was allocated for it is nobody's. */
static void give_back_memory(struct receive *receive)
{
	struct hf_err err = HF_ERR_INIT;
	if (!receive->memory || receive->restarted || receive->vmm_ended || receive->snapshot.has_state)
		return;
	if (hf_incoming_memory_give_back(receive->memory, &err))
		hf_complain(COMMAND, "the waiting VMM's memory could not be left as it was: %s", err.text);
}

static void explain_failure(struct receive *receive)
{
	if (removed_vmm(receive)) {
		hf_complain(COMMAND, "%s; the VMM on this side, which had the VM's state already, was ended",
			    receive->snapshot.err.text);
		return;
	}
	hf_complain(COMMAND, "%s; %s", receive->snapshot.err.text,
		    receive->memory && hf_incoming_memory_touched(receive->memory)
			? "start the waiting VMM afresh before the next try, its memory has been touched"
			: "the waiting VMM is untouched and still in inmigrate");
}

static void explain_pause(const struct hf_destination_snapshot *snapshot)
{
	if (snapshot->incoming == HF_INCOMING_RUNNING)
		hf_complain(
		    COMMAND,
		    "the migration stopped after the hand-over (%s); the VM belongs to this side and has "
		    "%u of %u pages, and a vCPU that needs another one waits",
		    snapshot->err.text, snapshot->pages_received, snapshot->pages_total);
	else
		hf_complain(
		    COMMAND,
		    "the migration stopped during the hand-over (%s); the VM is loaded here and does not "
		    "run: look at the source; only if it says that the VM belongs to the destination may "
		    "it be run here, and it has %u of %u pages",
		    snapshot->err.text, snapshot->pages_received, snapshot->pages_total);
}

static enum hf_exit conclude(struct receive *receive)
{
	switch (receive->snapshot.status) {
	case HF_STATUS_COMPLETED:
		if (receive->snapshot.pages_poisoned == 0)
			return HF_EXIT_OK;
		hf_complain(COMMAND, "%s", receive->snapshot.err.text);
		return HF_EXIT_POISONED;
	case HF_STATUS_POSTCOPY_PAUSED:
	case HF_STATUS_POSTCOPY_RECOVER_SETUP:
		if (receive->snapshot.handover == HF_DESTINATION_LOST || receive->vmm_ended) {
			hf_complain(COMMAND,
				    "%s after the hand-over: the VM is lost, the source has given it up",
				    receive->snapshot.err.text);
			return HF_EXIT_FAILED;
		}
		explain_pause(&receive->snapshot);
		return HF_EXIT_LINK_LOST;
	case HF_STATUS_CANCELLED:
		explain_failure(receive);
		return HF_EXIT_CANCELLED;
	default:
		explain_failure(receive);
		return HF_EXIT_FAILED;
	}
}

static json_t *make_report(struct receive *receive, const struct hf_err *early)
{
	struct hf_report_context context = hf_receive_report_context(receive);
	return early ? hf_report_failure(early)
		     : hf_report_destination(receive->engine, &receive->snapshot, &context);
}

static void report(struct receive *receive, const struct hf_err *early)
{
	struct hf_err err = HF_ERR_INIT;
	json_t *report = make_report(receive, early);
	if (receive->options.json && hf_report_write(report, receive->options.json, &err))
		hf_complain(COMMAND, "%s", err.text);
	if (!early && receive->snapshot.status == HF_STATUS_COMPLETED) {
		hf_report_print(stdout, report);
		fflush(stdout);
	}
	json_decref(report);
}

/* The files bind while the VM, or the doubt about it, is this side's and not all of it is here. */
static void settle(struct receive *receive)
{
	if (hf_status_is_final(receive->snapshot.status))
		hf_receive_forget(receive);
}

static void tear_down(struct receive *receive)
{
	hf_control_destroy(receive->control);
	hf_receive_close_listener(receive);
	stop_ports(receive);
	hf_qmp_vm_destroy(receive->vm);
	hf_destination_destroy(receive->engine);
	hf_incoming_memory_destroy(receive->memory);
	hf_receive_close_state(receive);
	hf_vmm_close(&receive->vmm);
	hf_link_relay_destroy(&receive->relay);
	free(receive->uri_owned);
	hf_attach_client_destroy(receive->attach);
	free(receive->vcpu_threads);
	hf_ramblocks_destroy(&receive->blocks);
	hf_waiter_close(&receive->waiter);
}

static enum hf_exit run(struct receive *receive)
{
	struct hf_err err = HF_ERR_INIT;
	int result = hf_options_vm_key(&receive->options, receive->key, &err);
	if (!result)
		result = set_up(receive, &err);
	if (!result && !receive->restarted)
		result = accept_peer(receive, &err);
	/* Again: it may have waited for days. */
	if (!result && !receive->restarted)
		result = hf_qmp_vm_check_incoming(receive->vm, &err);
	if (!result)
		result = start_engine(receive, &err);
	if (result) {
		hf_progress_end(&receive->progress);
		if (receive->thawed) /* as it was found: nobody may run its VM */
			hf_vmm_fence(&receive->vmm, HF_VMM_FENCE_LIMIT_MS, NULL);
		hf_complain(COMMAND, "%s", err.text);
		report(receive, &err);
		stop_ports(receive);
		give_back_memory(receive);
		if (receive->made_files)
			hf_receive_forget(receive);
		return err.class == HF_ERR_CANCELLED ? HF_EXIT_CANCELLED : HF_EXIT_FAILED;
	}
	hf_receive_answer_queries(receive);
	wait_for_end(receive);
	stop_ports(receive);
	hf_destination_snapshot(receive->engine, &receive->snapshot);
	hf_control_status(receive->control, receive->snapshot.status);
	give_back_memory(receive);
	enum hf_exit code = conclude(receive);
	report(receive, NULL);
	settle(receive);
	return code;
}

int hf_main_receive(int argc, char **argv)
{
	struct receive receive = {0};
	struct hf_err err = HF_ERR_INIT;
	int result = hf_options_parse(HF_COMMAND_RECEIVE, argc, argv, &receive.options, &err);
	if (!result)
		result = hf_scheme_of(receive.options.listen, &receive.scheme, &err);
	if (!result)
		result = hf_report_check_path(receive.options.json, &err);
	if (result < 0)
		hf_complain(COMMAND, "%s", err.text);
	if (result)
		return result < 0 ? HF_EXIT_USAGE : HF_EXIT_OK;
	receive.uri = receive.options.listen;
	receive.hold_background = receive.options.no_background;
	hf_progress_init(&receive.progress);
	hf_ramblocks_init(&receive.blocks);
	enum hf_exit code = run(&receive);
	tear_down(&receive);
	return code;
}
