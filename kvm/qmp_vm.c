/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * The engine's requests go into a short queue; one worker thread ("hf-vm") runs them in order and reports
 * each end exactly once, also those that destroy() cuts off (-ECANCELED). An operation is commands plus
 * waiting for a state. What QEMU tells by events it also tells when asked, and only asking is certain (an
 * event may be switched off, or have come before we listened), so the truth is always query-status or
 * query-migrate; events only end a wait early: they write the eventfd that every wait polls.
 *
 * A VMM that dies closes its QMP connection: the command under way, or the next question (at most
 * PACE_MAX_MS later), fails with the client's words, which name socket and pid. Every wait has a limit.
 *
 * FENCE is where events are the truth. A VM that somebody ran and stopped again looks like one that nobody
 * has touched; only the RESUME event tells.
 *
 *     STOP     the flag is cleared, `stop`
 *              ...                            somebody's `cont`: RESUME goes into our socket, a vCPU runs
 *     FENCE    every thread stands still      a `cont` not yet read stays unread
 *              our socket is read empty       RESUME found: thawed, -EPERM
 *
 * The same is done as soon as the state is saved, while it travels: FENCE is then a second look.
 *
 * A VMM says RESUME before a vCPU runs, so once it is frozen the event is in our socket, or has been read, or
 * the VM has not run. A frozen VMM answers nothing: it is never asked, and ended by a signal only, since
 * thawing it would let it read what others have sent. LOAD ends with such a fence, too (qmp_vm_hold.c).
 *
 * RUN tells its failures apart by what the VMM says. Only a `cont` that was refused, by a VMM that then says
 * that the VM stands still and has sent no RESUME, has surely not run it. A VMM that says nothing is waited
 * for as long as it lives: QEMU's main loop, which would answer, may wait for a page of a guest whose link is
 * lost, and the page comes when the link does.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "kvm/qmp_codec.h"
#include "kvm/qmp_vm_internal.h"

#define PACE_MIN_MS	 1
#define PACE_MAX_MS	 200
#define RUN_LIMIT_MS	 60000
#define DRAIN_LIMIT_MS	 2000
#define STATUS_MAX_BYTES 64

/* ---- waiting ---- */

uint64_t hf_qmp_vm_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / 1000000u;
}

/* The clock of events' timestamps. */
static uint64_t real_time_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

int hf_qmp_vm_error(const struct hf_qmp_vm *vm, int errnum, struct hf_err *err, const char *format, ...)
{
	char text[HF_ERR_TEXT_BYTES];
	va_list args;
	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	hf_qmp_make_printable(text);
	return hf_err_set(err, HF_ERR_LOCAL, errnum, "the VMM (pid %d, QMP socket %s) %s",
			  (int)hf_qmp_client_pid(vm->client), hf_qmp_client_path(vm->client), text);
}

static void vm_wake(struct hf_qmp_vm *vm)
{
	uint64_t one = 1;
	ssize_t n = write(vm->wake_fd, &one, sizeof(one));
	(void)n; // the counter only saturates when a wake-up is pending anyway
}

static bool vm_stopping(struct hf_qmp_vm *vm)
{
	hf_lock(&vm->mutex);
	bool stopping = vm->stopping;
	hf_unlock(&vm->mutex);
	return stopping;
}

int hf_qmp_vm_wait(struct hf_qmp_vm *vm, int fd, short events, uint64_t timeout_ms, struct hf_err *err)
{
	struct pollfd set[2] = {{.fd = vm->wake_fd, .events = POLLIN}, {.fd = fd, .events = events}};
	int n = poll(set, 2, timeout_ms > INT32_MAX ? INT32_MAX : (int)timeout_ms);
	if (n > 0 && set[0].revents) {
		uint64_t count;
		ssize_t bytes = read(vm->wake_fd, &count, sizeof(count));
		(void)bytes; // non-blocking: nothing to read is fine
	}
	if (vm_stopping(vm))
		return hf_err_set(err, HF_ERR_CANCELLED, ECANCELED, "cancelled: the VM adapter is closing");
	return n > 0 && set[1].revents != 0;
}

struct hf_qmp_vm_pace hf_qmp_vm_pace(uint64_t limit_ms, const char *awaited)
{
	return (struct hf_qmp_vm_pace){.awaited = awaited,
				       .limit_ms = limit_ms,
				       .deadline_ms = hf_qmp_vm_now_ms() + limit_ms,
				       .interval_ms = PACE_MIN_MS};
}

int hf_qmp_vm_pace_wait(struct hf_qmp_vm *vm, struct hf_qmp_vm_pace *pace, int fd, short events,
			struct hf_err *err)
{
	uint64_t now = hf_qmp_vm_now_ms();
	if (now >= pace->deadline_ms)
		return hf_qmp_vm_error(vm, ETIMEDOUT, err, "has not %s within %u s; see its log",
				       pace->awaited, (unsigned)(pace->limit_ms / 1000));
	uint64_t left_ms = pace->deadline_ms - now;
	uint64_t wait_ms = left_ms < pace->interval_ms ? left_ms : pace->interval_ms;
	int r = hf_qmp_vm_wait(vm, fd, events, wait_ms, err);
	pace->due = r == 0 && hf_qmp_vm_now_ms() >= now + wait_ms;
	if (pace->due && pace->interval_ms < PACE_MAX_MS)
		pace->interval_ms *= 2;
	return r;
}

/* Locked. */
static void note_migration(struct hf_qmp_vm *vm, const json_t *data, uint64_t at_us)
{
	hf_lock_assert_held(&vm->mutex);
	const char *status = json_string_value(json_object_get(data, "status"));
	if (status && strcmp(status, "active") == 0) // prepared, and about to stop the VM
		vm->saving_us = at_us;
	if (status && strcmp(status, "completed") == 0)
		vm->told = HF_QMP_VM_TOLD_COMPLETED;
	else if (status && (strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0))
		vm->told = HF_QMP_VM_TOLD_FAILED;
}

static void on_event(void *opaque, const char *name, const json_t *data, uint64_t at_us)
{
	struct hf_qmp_vm *vm = opaque;
	hf_lock(&vm->mutex);
	bool known = true;
	if (strcmp(name, "RESUME") == 0) {
		vm->resume_seen = true;
		vm->revived |= !vm->own_cont;
	} else if (strcmp(name, "STOP") == 0) {
		vm->stop_seen = true;
	} else if (strcmp(name, "MIGRATION") == 0) {
		note_migration(vm, data, at_us);
	} else {
		known = false;
	}
	hf_unlock(&vm->mutex);
	if (known)
		vm_wake(vm);
}

/* Before the VM is stopped: that somebody stops and runs it at this very moment must not go unnoticed. */
static void expect_stop(struct hf_qmp_vm *vm, uint64_t begun_us)
{
	hf_lock(&vm->mutex);
	vm->revived = vm->stop_seen = false;
	vm->stop_begun_us = begun_us;
	vm->saving_us = 0;
	hf_unlock(&vm->mutex);
}

static uint64_t ran_on_ns(struct hf_qmp_vm *vm)
{
	hf_lock(&vm->mutex);
	uint64_t begun_us = vm->stop_begun_us, until_us = vm->saving_us;
	hf_unlock(&vm->mutex);
	return until_us > begun_us ? (until_us - begun_us) * 1000u : 0;
}

bool hf_qmp_vm_stop_seen(struct hf_qmp_vm *vm)
{
	hf_lock(&vm->mutex);
	bool seen = vm->stop_seen;
	hf_unlock(&vm->mutex);
	return seen;
}

void hf_qmp_vm_watch_revival(struct hf_qmp_vm *vm)
{
	hf_lock(&vm->mutex);
	vm->revived = false;
	hf_unlock(&vm->mutex);
}

bool hf_qmp_vm_is_revived(struct hf_qmp_vm *vm)
{
	hf_lock(&vm->mutex);
	bool revived = vm->revived;
	hf_unlock(&vm->mutex);
	return revived;
}

static void set_own_cont(struct hf_qmp_vm *vm, bool own_cont)
{
	hf_lock(&vm->mutex);
	vm->own_cont = own_cont;
	hf_unlock(&vm->mutex);
}

/* ---- operations ---- */

int hf_qmp_vm_query_status(struct hf_qmp_vm *vm, uint32_t timeout_ms, char *status, size_t status_bytes,
			   bool *running, struct hf_err *err)
{
	json_t *result = NULL;
	int r = hf_qmp_client_execute(vm->client, "query-status", NULL, timeout_ms, &result, err);
	if (r < 0)
		return r;
	const char *name = json_string_value(json_object_get(result, "status"));
	const json_t *flag = json_object_get(result, "running");
	if (name && json_is_boolean(flag)) {
		snprintf(status, status_bytes, "%s", name);
		hf_qmp_make_printable(status);
		*running = json_is_true(flag);
	} else {
		r = hf_qmp_vm_error(vm, EPROTO, err, "answered query-status without status and running");
	}
	json_decref(result);
	return r;
}

static int stop_vm(struct hf_qmp_vm *vm, struct hf_err *err)
{
	char status[STATUS_MAX_BYTES];
	bool running = false;
	int r = hf_qmp_client_execute(vm->client, "stop", NULL, HF_QMP_VM_STOP_LIMIT_MS, NULL, err);
	struct hf_qmp_vm_pace pace = hf_qmp_vm_pace(HF_QMP_VM_STOP_LIMIT_MS, "stopped after 'stop'");
	while (r >= 0) {
		r = hf_qmp_vm_query_status(vm, HF_QMP_VM_COMMAND_MS, status, sizeof(status), &running, err);
		if (r < 0 || !running)
			return r;
		r = hf_qmp_vm_pace_wait(vm, &pace, -1, 0, err);
	}
	return r;
}

static void set_fenced(struct hf_qmp_vm *vm, bool fenced)
{
	hf_lock(&vm->mutex);
	vm->fenced = fenced;
	hf_unlock(&vm->mutex);
}

int hf_qmp_vm_thaw(struct hf_qmp_vm *vm, struct hf_err *err)
{
	set_fenced(vm, false);
	return hf_vmm_thaw(&vm->process, err);
}

int hf_qmp_vm_freeze(struct hf_qmp_vm *vm, struct hf_err *err)
{
	set_fenced(vm, true);
	int r = hf_vmm_fence(&vm->process, HF_VMM_FENCE_LIMIT_MS, err);
	return r < 0 ? r : hf_qmp_client_drain(vm->client, DRAIN_LIMIT_MS, err);
}

bool hf_qmp_vm_is_fenced(struct hf_qmp_vm *vm)
{
	hf_lock(&vm->mutex);
	bool fenced = vm->fenced;
	hf_unlock(&vm->mutex);
	return fenced || hf_vmm_is_fenced(&vm->process);
}

static int op_stop(struct hf_qmp_vm *vm, struct hf_err *err)
{
	char status[STATUS_MAX_BYTES];
	bool running = false;
	int r = hf_qmp_vm_prepare(vm, err);
	if (r == 0 && vm->stops_itself)
		hf_qmp_vm_find_first(vm);
	/* As late as can be: a stop that comes after this question is taken for our own. */
	uint64_t begun_us = real_time_us();
	if (r == 0)
		r = hf_qmp_vm_query_status(vm, HF_QMP_VM_COMMAND_MS, status, sizeof(status), &running, err);
	if (r < 0)
		return r;
	/* Somebody else has stopped it meanwhile: run at the destination, it would run against their will. */
	if (!running)
		return hf_qmp_vm_error(vm, EPERM, err,
				       "is in state %s, not running any more: somebody else has stopped it",
				       status);
	expect_stop(vm, begun_us);
	return vm->stops_itself ? hf_qmp_vm_save_stopping(vm, err) : stop_vm(vm, err);
}

static bool cannot_run(const char *status)
{
	static const char *const states[] = {"internal-error", "io-error", "shutdown",
					     "guest-panicked", "watchdog", "finish-migrate"};
	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
		if (strcmp(status, states[i]) == 0)
			return true;
	}
	return false;
}

static bool take_resume_seen(struct hf_qmp_vm *vm)
{
	hf_lock(&vm->mutex);
	bool seen = vm->resume_seen;
	vm->resume_seen = false;
	hf_unlock(&vm->mutex);
	return seen;
}

/* After `cont` was accepted. */
static int wait_running(struct hf_qmp_vm *vm, uint32_t silence_ms, struct hf_err *err)
{
	char status[STATUS_MAX_BYTES];
	bool running = false;
	struct hf_qmp_vm_pace pace = hf_qmp_vm_pace(RUN_LIMIT_MS, "come to run after 'cont'");
	for (;;) {
		if (take_resume_seen(vm))
			return 0;
		int r = hf_qmp_vm_query_status(vm, silence_ms, status, sizeof(status), &running, err);
		if (r < 0 || running)
			return take_resume_seen(vm) ? 0 : r;
		if (cannot_run(status))
			return hf_qmp_vm_error(vm, EREMOTEIO, err,
					       "accepted 'cont' but is in state %s: it does not run", status);
		r = hf_qmp_vm_pace_wait(vm, &pace, -1, 0, err);
		if (r < 0)
			return r;
	}
}

static int give_cont(struct hf_qmp_vm *vm, uint32_t silence_ms, struct hf_err *err)
{
	take_resume_seen(vm);
	set_own_cont(vm, true);
	int r = hf_qmp_client_execute(vm->client, "cont", NULL, silence_ms, NULL, err);
	set_own_cont(vm, false); // its event came before its answer
	return r;
}

/* *still: after a failure the VMM has said that the VM has not run. */
static int run_vm(struct hf_qmp_vm *vm, uint32_t silence_ms, bool *still, struct hf_err *err)
{
	char status[STATUS_MAX_BYTES];
	bool running = false;
	int r = 0;
	*still = false;
	/* What we have just loaded stands still: LOAD has seen to that. */
	if (!vm->loaded)
		r = hf_qmp_vm_query_status(vm, silence_ms, status, sizeof(status), &running, err);
	vm->loaded = false;
	if (r < 0 || running)
		return r;
	r = give_cont(vm, silence_ms, err);
	if (r == 0)
		return wait_running(vm, silence_ms, err);
	if (r != -EREMOTEIO && r != -ENOSYS) // no answer to `cont`
		return r;
	int asked = hf_qmp_vm_query_status(vm, HF_QMP_VM_COMMAND_MS, status, sizeof(status), &running, NULL);
	if (asked == 0 && running)
		return 0;
	*still = asked == 0 && !take_resume_seen(vm);
	return r;
}

static int op_run(struct hf_qmp_vm *vm, struct hf_err *err)
{
	bool still = false;
	struct hf_err why = HF_ERR_INIT;
	int r = hf_qmp_vm_is_fenced(vm) ? hf_qmp_vm_thaw(vm, &why) : 0;
	if (r == 0)
		r = run_vm(vm, vm->run_silence_ms, &still, &why);
	if (r == 0)
		return 0;
	if (r == -ECANCELED || still) {
		if (err)
			*err = why;
		return r;
	}
	return hf_err_set(err, why.class, EOWNERDEAD, "it is not known whether the VM has run: %s", why.text);
}

/* A save that was broken off, by us or by our end, is not over at once; `cont` is refused until it is. */
static int wait_save_over(struct hf_qmp_vm *vm, struct hf_err *err)
{
	char status[STATUS_MAX_BYTES];
	bool running;
	struct hf_qmp_vm_pace pace = hf_qmp_vm_pace(RUN_LIMIT_MS, "given up saving its device state");
	for (;;) {
		int r =
		    hf_qmp_vm_query_status(vm, HF_QMP_VM_COMMAND_MS, status, sizeof(status), &running, err);
		if (r < 0 || strcmp(status, "finish-migrate") != 0)
			return r;
		r = hf_qmp_vm_pace_wait(vm, &pace, -1, 0, err);
		if (r < 0)
			return r;
	}
}

static int op_resume(struct hf_qmp_vm *vm, struct hf_err *err)
{
	bool still;
	int r = hf_qmp_vm_is_fenced(vm) ? hf_qmp_vm_thaw(vm, err) : 0;
	hf_qmp_vm_close_channel(vm);
	if (r == 0)
		r = wait_save_over(vm, err);
	return r < 0 ? r : run_vm(vm, RUN_LIMIT_MS, &still, err);
}

int hf_qmp_vm_resume(struct hf_qmp_vm *vm, struct hf_err *err)
{
	return op_resume(vm, err);
}

static int set_revived_error(struct hf_qmp_vm *vm, struct hf_err *err)
{
	return hf_qmp_vm_error(vm, EPERM, err,
			       "has run the VM since its device state was saved, because another QMP client "
			       "asked for it: what was saved is worth nothing, and the VM stays here");
}

static int check_not_running(struct hf_qmp_vm *vm, struct hf_err *err)
{
	char status[STATUS_MAX_BYTES];
	bool running = false;
	int r = hf_qmp_vm_query_status(vm, HF_QMP_VM_COMMAND_MS, status, sizeof(status), &running, err);
	return r == 0 && running ? set_revived_error(vm, err) : r;
}

/* Asked first, for a VMM whose events do not come; told last, when nothing more can come. */
static int fence_stopped(struct hf_qmp_vm *vm, struct hf_err *err)
{
	int r = hf_vmm_is_fenced(&vm->process) ? 0 : check_not_running(vm, err);
	if (r == 0 && vm->saved_err.class != HF_ERR_NONE) {
		if (err)
			*err = vm->saved_err;
		r = -vm->saved_err.errnum;
	}
	if (r == 0)
		r = hf_qmp_vm_freeze(vm, err);
	return r == 0 && hf_qmp_vm_is_revived(vm) ? set_revived_error(vm, err) : r;
}

static int op_fence(struct hf_qmp_vm *vm, struct hf_err *err)
{
	int r = fence_stopped(vm, err);
	if (r < 0 && hf_qmp_vm_is_fenced(vm))
		hf_qmp_vm_thaw(vm, NULL);
	return r;
}

/* ---- the worker ---- */

int hf_qmp_vm_do(struct hf_qmp_vm *vm, enum hf_vm_op op, struct hf_err *err)
{
	switch (op) {
	case HF_VM_STOP:
		return op_stop(vm, err);
	case HF_VM_RESUME:
		return op_resume(vm, err);
	case HF_VM_RUN:
		return op_run(vm, err);
	case HF_VM_FENCE:
		return op_fence(vm, err);
	case HF_VM_KILL:
		return hf_vmm_kill(&vm->process, HF_VMM_KILL_LIMIT_MS, err);
	case HF_VM_SAVE:
	case HF_VM_LOAD:
	case HF_VM_OPS:
		break;
	}
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "no such operation on a VM: %d", (int)op);
}

static int run_op(struct hf_qmp_vm *vm, const struct hf_qmp_vm_request *request, void **data,
		  size_t *length_bytes, struct hf_err *err)
{
	if (request->op == HF_VM_SAVE)
		return hf_qmp_vm_save(vm, data, length_bytes, err);
	if (request->op == HF_VM_LOAD)
		return hf_qmp_vm_load(vm, request->data, request->length_bytes, err);
	return hf_qmp_vm_do(vm, request->op, err);
}

/* The VM waits for none of this. A VMM is asked before it is frozen. */
static void tidy_after(struct hf_qmp_vm *vm, enum hf_vm_op op, int result)
{
	bool ran = op == HF_VM_RUN && result == 0;
	bool load_failed = op == HF_VM_LOAD && result < 0 && !hf_qmp_vm_is_fenced(vm);
	if (op == HF_VM_SAVE || op == HF_VM_LOAD)
		hf_qmp_vm_close_channel(vm);
	if (op == HF_VM_RESUME || ran || load_failed)
		hf_qmp_vm_restore(vm);
	if (op == HF_VM_SAVE && result == 0) {
		hf_qmp_vm_check_saved(vm);
		op_fence(vm, NULL); // FENCE looks again, and says what is wrong
	}
	if (ran && vm->silent) // a program before this one has loaded it
		hf_qmp_vm_put_back(vm, vm->settings_noted, NULL);
}

static void set_restoring(struct hf_qmp_vm *vm, bool restoring)
{
	hf_lock(&vm->mutex);
	vm->restoring = restoring;
	hf_cond_broadcast(&vm->changed);
	hf_unlock(&vm->mutex);
}

static void run_and_report(struct hf_qmp_vm *vm, const struct hf_qmp_vm_request *request)
{
	struct hf_err err = HF_ERR_INIT;
	void *data = NULL;
	size_t length_bytes = 0;
	int r;
	if (vm_stopping(vm))
		r = hf_err_set(&err, HF_ERR_CANCELLED, ECANCELED, "cancelled: the VM adapter is closing");
	else
		r = run_op(vm, request, &data, &length_bytes, &err);
	struct hf_vm_result result = {.op = request->op,
				      .result = r,
				      .err = r < 0 ? &err : NULL,
				      .data = data,
				      .length_bytes = length_bytes,
				      .ran_ns = request->op == HF_VM_STOP ? ran_on_ns(vm) : 0,
				      .first = request->op == HF_VM_STOP ? vm->first : NULL,
				      .first_count = request->op == HF_VM_STOP ? vm->first_count : 0};
	set_restoring(vm, true); // before a program can end because of it
	vm->done(vm->engine, &result);
	free(data);
	tidy_after(vm, request->op, r);
	set_restoring(vm, false);
}

static void *worker_thread(void *opaque)
{
	struct hf_qmp_vm *vm = opaque;
	/* Here, so that this thread has its memory before the VM waits for it. */
	if (!vm->silent)
		hf_qmp_vm_prepare_incoming(vm);
	hf_lock(&vm->mutex);
	vm->started = true;
	hf_cond_broadcast(&vm->changed);
	for (;;) {
		while (vm->queue_count == 0 && !vm->stopping)
			hf_cond_wait(&vm->changed, &vm->mutex);
		if (vm->queue_count == 0)
			break;
		struct hf_qmp_vm_request request = vm->queue[vm->queue_first];
		vm->queue_first = (vm->queue_first + 1) % HF_QMP_VM_QUEUE;
		vm->queue_count--;
		vm->busy = true;
		hf_unlock(&vm->mutex);
		if (request.op == HF_QMP_VM_HOLD)
			hf_qmp_vm_hold_again(vm);
		else
			run_and_report(vm, &request);
		hf_lock(&vm->mutex);
		vm->busy = false;
	}
	hf_unlock(&vm->mutex);
	return NULL;
}

static int enqueue(struct hf_qmp_vm *vm, enum hf_vm_op op, const void *data, size_t length_bytes)
{
	int r = 0;
	hf_lock(&vm->mutex);
	if (!vm->started || vm->stopping) {
		r = -ESHUTDOWN;
	} else if (vm->queue_count == HF_QMP_VM_QUEUE) {
		r = -EBUSY;
	} else {
		uint32_t at = (vm->queue_first + vm->queue_count++) % HF_QMP_VM_QUEUE;
		vm->queue[at] = (struct hf_qmp_vm_request){op, data, length_bytes};
		hf_cond_signal(&vm->changed);
	}
	hf_unlock(&vm->mutex);
	return r;
}

static int vm_request(void *self, enum hf_vm_op op, const void *data, size_t length_bytes)
{
	if ((unsigned)op >= HF_VM_OPS)
		return -EINVAL;
	if (op == HF_VM_LOAD && (!data || length_bytes == 0))
		return -EINVAL;
	if (op == HF_VM_LOAD && length_bytes > HF_QMP_VM_STATE_MAX_BYTES)
		return -EMSGSIZE;
	return enqueue(self, op, data, length_bytes);
}

int hf_qmp_vm_hold(struct hf_qmp_vm *vm)
{
	return enqueue(vm, HF_QMP_VM_HOLD, NULL, 0);
}

/* ---- life ---- */

static int create(struct hf_qmp_vm **out, const char *target, bool silent, struct hf_err *err)
{
	struct hf_qmp_vm *vm = calloc(1, sizeof(*vm));
	if (!vm)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a VM adapter");
	hf_lock_init(&vm->mutex, "hf_qmp_vm.mutex", HF_RANK_VM_ADAPTER);
	hf_cond_init(&vm->changed);
	vm->run_silence_ms = UINT32_MAX;
	vm->silent = silent;
	vm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int r = 0;
	if (vm->wake_fd < 0)
		r = hf_err_set(err, HF_ERR_LOCAL, errno, "VM adapter: cannot be made: %s", strerror(errno));
	if (r == 0)
		r = silent ? hf_qmp_client_connect_silent(&vm->client, target, on_event, vm, err)
			   : hf_qmp_client_connect(&vm->client, target, on_event, vm, err);
	if (r == 0)
		r = hf_vmm_open(&vm->process, hf_qmp_client_pid(vm->client), err);
	if (r == 0)
		hf_vmm_words_open(&vm->words, vm->process.pid);
	if (r < 0) {
		hf_qmp_vm_destroy(vm);
		return r;
	}
	*out = vm;
	return 0;
}

int hf_qmp_vm_create(struct hf_qmp_vm **out, const char *target, struct hf_err *err)
{
	return create(out, target, false, err);
}

int hf_qmp_vm_create_silent(struct hf_qmp_vm **out, const char *target, const char *settings,
			    struct hf_err *err)
{
	int r = create(out, target, true, err);
	if (r == 0 && settings && !((*out)->settings_noted = strdup(settings))) {
		hf_qmp_vm_destroy(*out);
		*out = NULL;
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a VM adapter");
	}
	return r;
}

int hf_qmp_vm_start(struct hf_qmp_vm *vm, void (*done)(void *engine, const struct hf_vm_result *result),
		    void *engine, struct hf_err *err)
{
	vm->done = done;
	vm->engine = engine;
	sigset_t all, before; // signals are for the program's own threads
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&vm->worker, NULL, worker_thread, vm);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		return hf_err_set(err, HF_ERR_LOCAL, error, "VM adapter: no thread to be had: %s",
				  strerror(error));
	pthread_setname_np(vm->worker, "hf-vm");
	hf_lock(&vm->mutex);
	while (!vm->started)
		hf_cond_wait(&vm->changed, &vm->mutex);
	hf_unlock(&vm->mutex);
	return 0;
}

struct hf_vm hf_qmp_vm_port(struct hf_qmp_vm *vm)
{
	static const struct hf_vm_ops ops = {.request = vm_request};
	return (struct hf_vm){.ops = &ops, .self = vm};
}

static void stop_worker(struct hf_qmp_vm *vm)
{
	hf_lock(&vm->mutex);
	bool started = vm->started;
	while (vm->restoring)
		hf_cond_wait(&vm->changed, &vm->mutex);
	bool idle = !vm->busy && vm->queue_count == 0;
	vm->stopping = true;
	hf_cond_broadcast(&vm->changed);
	hf_unlock(&vm->mutex);
	vm_wake(vm);
	if (vm->client && idle && !vm->fenced) // prepared for a LOAD that never came
		hf_qmp_vm_restore(vm);
	if (vm->client)
		hf_qmp_client_shutdown(vm->client);
	if (!started)
		return;
	pthread_join(vm->worker, NULL);
	hf_lock(&vm->mutex);
	vm->started = false;
	hf_unlock(&vm->mutex);
}

void hf_qmp_vm_stop(struct hf_qmp_vm *vm)
{
	hf_lock_assert_may_stop(__func__);
	if (vm)
		stop_worker(vm);
}

void hf_qmp_vm_destroy(struct hf_qmp_vm *vm)
{
	if (!vm)
		return;
	hf_qmp_vm_stop(vm);
	if (vm->client) {
		hf_qmp_vm_close_channel(vm);
		hf_qmp_vm_look_away(vm);
	}
	hf_qmp_client_destroy(vm->client);
	hf_vmm_close(&vm->process);
	hf_vmm_words_close(&vm->words);
	free(vm->settings_noted);
	hf_qmp_vm_forget_first(vm);
	json_decref(vm->memory_checked);
	hf_cond_destroy(&vm->changed);
	hf_lock_destroy(&vm->mutex);
	if (vm->wake_fd >= 0)
		close(vm->wake_fd);
	free(vm);
}
