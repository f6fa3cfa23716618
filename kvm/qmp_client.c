/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation.
 *
 * A command puts a record with a fresh id on the pending list and queues its line. Who waits for it waits on
 * the condition until the reader thread ("hf-qmp-client") has hung the answer on the record, the time is
 * over, or the connection has failed. Answers are matched by id alone, so several threads may have commands
 * out at once, or one thread several, and an answer that comes after its time-out finds no record and is
 * dropped.
 *
 * The reader begins with the greeting and answers it with qmp_capabilities; only then are commands written. A
 * client that was connected silently has not waited for that: its first command does.
 *
 * A line is written at once by the caller as far as the socket takes it; the reader thread writes the rest,
 * so that no caller blocks in a write and no line is ever cut. The first failure of the connection is kept
 * (`failure`) and ends every pending and later command with the same words.
 *
 * drain() is for a VMM that has been frozen: nothing comes any more but what lies in our socket. The reader
 * thread notes when it has found the socket empty after it was asked to, and so has delivered all events.
 *
 * The VMM is not trusted: bytes go through the bounded codec, an event or answer of the wrong shape fails the
 * connection or the command, and foreign text is made printable before it enters an error line.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/lock.h"
#include "kvm/qmp.h"
#include "kvm/qmp_codec.h"
#include "kvm/qmp_owner.h"

#define CONNECT_TIMEOUT_MS 10000
#define CONNECT_RETRY_MS   10
#define UNSENT_MAX_BYTES   (2 * (size_t)HF_QMP_LINE_MAX_BYTES)
#define NS_PER_MS	   1000000ull
#define US_PER_S	   1000000
#define DESC_PRECISION	   300 /* leaves room for the rest of the line */

struct hf_qmp_client {
	/* set at creation */
	struct sockaddr_un address;
	struct ucred vmm;
	hf_qmp_event *on_event;
	void *opaque;
	int wake_fd;
	pthread_t thread;
	bool has_thread;

	struct hf_qmp_stream stream; /* input half: the reader's; output half: under the lock */

	struct hf_lock mutex;
	struct hf_cond changed; /* an answer, a failure, a user left */
	/* under the lock */
	struct hf_qmp_pending *pending;
	json_int_t last_id;
	bool greeted, negotiated;
	uint32_t users; /* threads inside execute() */
	struct hf_err failure;
	bool stop;
	uint32_t drains_wanted, drains_done;
	bool drained_mid_message; /* at the last drain */
};

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000u + (uint64_t)now.tv_nsec / NS_PER_MS;
}

static void client_wake(struct hf_qmp_client *client)
{
	uint64_t one = 1;
	ssize_t n = write(client->wake_fd, &one, sizeof(one));
	(void)n; // the counter only saturates when a wake-up is pending anyway
}

/* Under the lock. The first failure stays. */
static void fail_locked(struct hf_qmp_client *client, const struct hf_err *why)
{
	hf_lock_assert_held(&client->mutex);
	if (client->failure.class == HF_ERR_NONE)
		client->failure = *why;
	for (struct hf_qmp_pending *at = client->pending; at; at = at->next)
		at->done = true;
	client->pending = NULL;
	hf_cond_broadcast(&client->changed);
}

static void fail(struct hf_qmp_client *client, const struct hf_err *why)
{
	hf_lock(&client->mutex);
	fail_locked(client, why);
	hf_unlock(&client->mutex);
}

static int set_lost(const struct hf_qmp_client *client, int error, struct hf_err *err)
{
	if (error == 0)
		return hf_err_set(err, HF_ERR_LOCAL, ECONNRESET,
				  "the VMM (pid %d, QMP socket %s) has closed its QMP connection; it has "
				  "probably exited: see its log",
				  (int)client->vmm.pid, client->address.sun_path);
	return hf_err_set(err, HF_ERR_LOCAL, -error,
			  "the QMP connection to the VMM (pid %d, QMP socket %s) is lost: %s; see whether it "
			  "still runs",
			  (int)client->vmm.pid, client->address.sun_path, strerror(-error));
}

static int set_garbled(const struct hf_qmp_client *client, const char *what, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, EPROTO, "QMP socket %s (pid %d): %s; is this a QMP server?",
			  client->address.sun_path, (int)client->vmm.pid, what);
}

/* ---- the reader ---- */

/* Steals the answer when it finds who asked. */
static bool deliver(struct hf_qmp_client *client, json_int_t id, json_t *answer)
{
	bool found = false;
	hf_lock(&client->mutex);
	for (struct hf_qmp_pending **at = &client->pending; *at; at = &(*at)->next) {
		if ((*at)->id != id)
			continue;
		(*at)->answer = answer;
		(*at)->done = true;
		*at = (*at)->next;
		found = true;
		hf_cond_broadcast(&client->changed);
		break;
	}
	hf_unlock(&client->mutex);
	return found;
}

static const char *desc_of(const json_t *answer)
{
	const char *desc = json_string_value(json_object_get(json_object_get(answer, "error"), "desc"));
	return desc ? desc : "(no description)";
}

static void copy_desc(char desc[DESC_PRECISION], const json_t *answer)
{
	snprintf(desc, DESC_PRECISION, "%s", desc_of(answer));
	hf_qmp_make_printable(desc);
}

/* ---- the greeting ---- */

static void note(struct hf_qmp_client *client, bool *flag)
{
	hf_lock(&client->mutex);
	*flag = true;
	hf_cond_broadcast(&client->changed);
	hf_unlock(&client->mutex);
}

/* With the first id. */
static int negotiate(struct hf_qmp_client *client, struct hf_err *err)
{
	static const char line[] = "{\"execute\": \"qmp_capabilities\", \"id\": 1}\n";
	hf_lock(&client->mutex);
	int r = hf_qmp_stream_queue(&client->stream, line, sizeof(line) - 1);
	hf_unlock(&client->mutex);
	return r < 0 ? set_lost(client, r, err) : 0;
}

static int take_greeting(struct hf_qmp_client *client, const json_t *message, struct hf_err *err)
{
	char desc[DESC_PRECISION];
	if (json_object_get(message, "error")) {
		copy_desc(desc, message);
		return hf_err_set(err, HF_ERR_LOCAL, EREMOTEIO, "QMP socket %s (pid %d): the VMM refused: %s",
				  client->address.sun_path, (int)client->vmm.pid, desc);
	}
	if (!json_is_object(json_object_get(message, "QMP")))
		return set_garbled(client, "it greets with something else than QMP", err);
	note(client, &client->greeted);
	return negotiate(client, err);
}

static int take_negotiated(struct hf_qmp_client *client, const json_t *message, struct hf_err *err)
{
	char desc[DESC_PRECISION];
	if (json_object_get(message, "error")) {
		copy_desc(desc, message);
		return hf_err_set(err, HF_ERR_LOCAL, EREMOTEIO,
				  "the VMM (pid %d, QMP socket %s) refused 'qmp_capabilities': %s",
				  (int)client->vmm.pid, client->address.sun_path, desc);
	}
	note(client, &client->negotiated);
	return 0;
}

/* ---- messages ---- */

static uint64_t timestamp_us(const json_t *timestamp)
{
	json_int_t seconds = json_integer_value(json_object_get(timestamp, "seconds"));
	json_int_t microseconds = json_integer_value(json_object_get(timestamp, "microseconds"));
	bool sane = seconds > 0 && seconds < UINT32_MAX && microseconds >= 0 && microseconds < US_PER_S;
	return sane ? (uint64_t)seconds * US_PER_S + (uint64_t)microseconds : 0;
}

/* Steals message. An error means that the connection is of no more use. */
static int take_message(struct hf_qmp_client *client, json_t *message, struct hf_err *err)
{
	int r = 0;
	const json_t *id = json_object_get(message, "id");
	const json_t *event = json_object_get(message, "event");
	if (!client->greeted) { // set by this thread alone
		r = take_greeting(client, message, err);
	} else if (!client->negotiated && json_is_integer(id) && json_integer_value(id) == 1) {
		r = take_negotiated(client, message, err);
	} else if (json_is_string(event)) {
		const json_t *data = json_object_get(message, "data");
		if (client->on_event)
			client->on_event(client->opaque, json_string_value(event),
					 json_is_object(data) ? data : NULL,
					 timestamp_us(json_object_get(message, "timestamp")));
	} else if (json_is_integer(id)) {
		if (deliver(client, json_integer_value(id), message))
			return 0;
	} else if (json_object_get(message, "error")) {
		// Without an id: the server could not read one of our lines, nobody knows which.
		char desc[DESC_PRECISION];
		copy_desc(desc, message);
		r = set_garbled(client, desc, err);
	} else if (!json_is_object(message)) {
		r = set_garbled(client, "a message is no JSON object", err);
	}
	json_decref(message);
	return r;
}

/* All whole messages that have been read. */
static int take_messages(struct hf_qmp_client *client, struct hf_err *err)
{
	json_t *message;
	int r;
	while ((r = hf_qmp_stream_next(&client->stream, &message, err)) > 0) {
		r = take_message(client, message, err);
		if (r < 0)
			return r;
	}
	if (r < 0 && !client->greeted)
		return set_garbled(client, "it greets with something else than QMP", err);
	if (r < 0)
		hf_err_prefix(err, "QMP socket %s (pid %d) sent what is no QMP", client->address.sun_path,
			      (int)client->vmm.pid);
	return r;
}

static int take_input(struct hf_qmp_client *client, struct hf_err *err)
{
	int n = hf_qmp_stream_fill(&client->stream);
	if (n == -EAGAIN)
		return 0;
	return n > 0 ? take_messages(client, err) : set_lost(client, n, err);
}

/* Writes what waits; returns the events to poll for, or 0 to stop. *drain: not 0 if a drain is asked for. */
static short prepare_poll(struct hf_qmp_client *client, uint32_t *drain)
{
	hf_lock(&client->mutex);
	int r = hf_qmp_stream_flush(&client->stream);
	short events = POLLIN;
	if (hf_qmp_stream_pending_bytes(&client->stream) > 0)
		events |= POLLOUT;
	if (r < 0) {
		struct hf_err err = HF_ERR_INIT;
		set_lost(client, r == -EPIPE ? 0 : r, &err);
		fail_locked(client, &err);
	}
	if (client->stop || client->failure.class != HF_ERR_NONE)
		events = 0;
	*drain = client->drains_wanted != client->drains_done ? client->drains_wanted : 0;
	hf_unlock(&client->mutex);
	return events;
}

/* The socket was empty after this drain was asked for. */
static void note_drained(struct hf_qmp_client *client, uint32_t drain)
{
	hf_lock(&client->mutex);
	client->drains_done = drain;
	client->drained_mid_message = client->stream.framer.depth > 0;
	hf_cond_broadcast(&client->changed);
	hf_unlock(&client->mutex);
}

static void *reader_thread(void *opaque)
{
	struct hf_qmp_client *client = opaque;
	struct hf_err err = HF_ERR_INIT;
	short events;
	uint32_t drain;
	while ((events = prepare_poll(client, &drain)) != 0) {
		struct pollfd set[2] = {{.fd = client->stream.fd, .events = events},
					{.fd = client->wake_fd, .events = POLLIN}};
		if (poll(set, 2, drain ? 0 : -1) < 0)
			continue;
		if (set[1].revents) {
			uint64_t count;
			ssize_t n = read(client->wake_fd, &count, sizeof(count));
			(void)n; // non-blocking: nothing to read is fine
		}
		bool readable = set[0].revents & (POLLIN | POLLHUP | POLLERR);
		if (readable && take_input(client, &err) < 0)
			fail(client, &err);
		if (drain && !readable)
			note_drained(client, drain);
	}
	return NULL;
}

/* ---- commands ---- */

static char *command_line(const char *command, json_t *arguments, json_int_t id, size_t *length_bytes)
{
	json_t *message = json_pack("{s:s, s:I}", "execute", command, "id", id);
	if (message && arguments)
		json_object_set(message, "arguments", arguments);
	char *line = message ? hf_qmp_encode(message, length_bytes) : NULL;
	json_decref(message);
	return line;
}

/* Under the lock. Nobody waits for the answer unless it is hung onto the list of those pending. */
static int queue_line(struct hf_qmp_client *client, const char *command, json_t *arguments, json_int_t *id,
		      struct hf_err *err)
{
	if (client->failure.class != HF_ERR_NONE) {
		if (err)
			*err = client->failure;
		return -client->failure.errnum;
	}
	*id = ++client->last_id;
	size_t length_bytes;
	char *line = command_line(command, arguments, *id, &length_bytes);
	if (!line)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "QMP command '%s': too long for a QMP line, or not valid JSON", command);
	int r = -EAGAIN;
	if (hf_qmp_stream_pending_bytes(&client->stream) < UNSENT_MAX_BYTES)
		r = hf_qmp_stream_queue(&client->stream, line, length_bytes);
	free(line);
	if (r < 0)
		return hf_err_set(err, HF_ERR_LOCAL, -r,
				  "QMP command '%s': the VMM (pid %d, QMP socket %s) reads no commands",
				  command, (int)client->vmm.pid, client->address.sun_path);
	return 0;
}

/* Under the lock. */
static int queue_question(struct hf_qmp_client *client, struct hf_qmp_question *question)
{
	json_int_t id = 0;
	question->pending = (struct hf_qmp_pending){0};
	int r = queue_line(client, question->command, question->arguments, &id, &question->err);
	if (r < 0)
		return r;
	question->pending.id = id;
	question->pending.next = client->pending;
	client->pending = &question->pending;
	return 0;
}

/* Under the lock. Whether the write failed or is unfinished is the reader's business. */
static void send_queued(struct hf_qmp_client *client)
{
	hf_lock_assert_held(&client->mutex);
	if (hf_qmp_stream_flush(&client->stream) < 0 || hf_qmp_stream_pending_bytes(&client->stream) > 0)
		client_wake(client);
}

static void forget(struct hf_qmp_client *client, struct hf_qmp_pending *pending)
{
	hf_lock_assert_held(&client->mutex);
	for (struct hf_qmp_pending **at = &client->pending; *at; at = &(*at)->next) {
		if (*at == pending) {
			*at = pending->next;
			return;
		}
	}
}

static int set_unanswered(const struct hf_qmp_client *client, const char *command, uint32_t timeout_ms,
			  struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_LOCAL, ETIMEDOUT,
			  "QMP command '%s': no answer from the VMM (pid %d, QMP socket %s) within %u "
			  "ms; it hangs or is stopped",
			  command, (int)client->vmm.pid, client->address.sun_path, timeout_ms);
}

static uint64_t deadline_after_ns(uint32_t timeout_ms)
{
	return timeout_ms == UINT32_MAX ? UINT64_MAX : (now_ms() + timeout_ms) * NS_PER_MS;
}

static int wait_changed(struct hf_qmp_client *client, uint64_t deadline_ns)
{
	if (deadline_ns != UINT64_MAX)
		return hf_cond_wait_until(&client->changed, &client->mutex, deadline_ns);
	hf_cond_wait(&client->changed, &client->mutex);
	return 0;
}

/* Under the lock. 0 also when the connection has failed: what comes next finds that. */
static int wait_negotiated(struct hf_qmp_client *client, uint64_t deadline_ns)
{
	hf_lock_assert_held(&client->mutex);
	int result = 0;
	while (!client->negotiated && client->failure.class == HF_ERR_NONE && result == 0)
		result = wait_changed(client, deadline_ns);
	return client->negotiated || client->failure.class != HF_ERR_NONE ? 0 : -ETIMEDOUT;
}

/* Under the lock. */
static int wait_answer(struct hf_qmp_client *client, struct hf_qmp_question *question, uint64_t deadline_ns,
		       uint32_t timeout_ms)
{
	hf_lock_assert_held(&client->mutex);
	struct hf_qmp_pending *pending = &question->pending;
	int result = 0;
	while (!pending->done && result == 0)
		result = wait_changed(client, deadline_ns);
	if (!pending->done) {
		forget(client, pending);
		return set_unanswered(client, question->command, timeout_ms, &question->err);
	}
	if (!pending->answer) {
		hf_err_set(&question->err, client->failure.class, client->failure.errnum,
			   "QMP command '%s': %s", question->command, client->failure.text);
		return -client->failure.errnum;
	}
	return 0;
}

static int errno_of_class(const char *class_name)
{
	return class_name && strcmp(class_name, "CommandNotFound") == 0 ? ENOSYS : EREMOTEIO;
}

static int take_answer(const struct hf_qmp_client *client, struct hf_qmp_question *question)
{
	int r = 0;
	json_t *answer = question->pending.answer;
	json_t *value = json_object_get(answer, "return");
	const json_t *error = json_object_get(answer, "error");
	if (error) {
		const char *class_name = json_string_value(json_object_get(error, "class"));
		char desc[DESC_PRECISION];
		copy_desc(desc, answer);
		r = hf_err_set(&question->err, HF_ERR_LOCAL, errno_of_class(class_name),
			       "the VMM (pid %d, QMP socket %s) refused '%s': %s", (int)client->vmm.pid,
			       client->address.sun_path, question->command, desc);
	} else if (!value) {
		r = set_garbled(client, "an answer holds neither return nor error", &question->err);
	} else {
		question->result = json_incref(value);
	}
	json_decref(answer);
	return r;
}

static void enter(struct hf_qmp_client *client)
{
	hf_lock(&client->mutex);
	client->users++;
	hf_unlock(&client->mutex);
}

static void leave(struct hf_qmp_client *client)
{
	hf_lock(&client->mutex);
	if (--client->users == 0)
		hf_cond_broadcast(&client->changed);
	hf_unlock(&client->mutex);
}

static void fail_all(struct hf_qmp_question *questions, uint32_t count, int r, const struct hf_err *err)
{
	for (uint32_t i = 0; i < count; i++) {
		questions[i].r = r;
		questions[i].err = *err;
	}
}

/* Under the lock. */
static int queue_all(struct hf_qmp_client *client, struct hf_qmp_question *questions, uint32_t count,
		     uint64_t deadline_ns, uint32_t timeout_ms, struct hf_err *err)
{
	hf_lock_assert_held(&client->mutex);
	int r = wait_negotiated(client, deadline_ns);
	if (r < 0)
		return set_unanswered(client, questions[0].command, timeout_ms, err);
	for (uint32_t i = 0; i < count; i++)
		questions[i].r = queue_question(client, &questions[i]);
	send_queued(client);
	return 0;
}

static void send_until(struct hf_qmp_client *client, struct hf_qmp_question *questions, uint32_t count,
		       uint64_t deadline_ns, uint32_t timeout_ms)
{
	struct hf_err err = HF_ERR_INIT;
	int r;
	if (count == 0)
		return;
	enter(client);
	if (pthread_equal(pthread_self(), client->thread)) {
		r = hf_err_set(&err, HF_ERR_LOCAL, EDEADLK,
			       "QMP command '%s' cannot be given from an event's callback",
			       questions[0].command);
	} else {
		hf_lock(&client->mutex);
		r = queue_all(client, questions, count, deadline_ns, timeout_ms, &err);
		hf_unlock(&client->mutex);
	}
	if (r < 0)
		fail_all(questions, count, r, &err);
	leave(client);
	for (uint32_t i = 0; i < count; i++) {
		json_decref(questions[i].arguments);
		questions[i].arguments = NULL;
	}
}

static void await_until(struct hf_qmp_client *client, struct hf_qmp_question *questions, uint32_t count,
			uint64_t deadline_ns, uint32_t timeout_ms)
{
	enter(client);
	for (uint32_t i = 0; i < count; i++) {
		struct hf_qmp_question *question = &questions[i];
		if (!question->pending.id)
			continue;
		hf_lock(&client->mutex);
		question->r = wait_answer(client, question, deadline_ns, timeout_ms);
		hf_unlock(&client->mutex);
		if (question->r == 0)
			question->r = take_answer(client, question);
		question->pending = (struct hf_qmp_pending){0};
	}
	leave(client);
}

void hf_qmp_client_send(struct hf_qmp_client *client, struct hf_qmp_question *questions, uint32_t count,
			uint32_t timeout_ms)
{
	send_until(client, questions, count, deadline_after_ns(timeout_ms), timeout_ms);
}

void hf_qmp_client_await(struct hf_qmp_client *client, struct hf_qmp_question *questions, uint32_t count,
			 uint32_t timeout_ms)
{
	await_until(client, questions, count, deadline_after_ns(timeout_ms), timeout_ms);
}

int hf_qmp_client_execute(struct hf_qmp_client *client, const char *command, json_t *arguments,
			  uint32_t timeout_ms, json_t **result, struct hf_err *err)
{
	struct hf_qmp_question question = {.command = command, .arguments = arguments};
	uint64_t deadline_ns = deadline_after_ns(timeout_ms);
	send_until(client, &question, 1, deadline_ns, timeout_ms);
	await_until(client, &question, 1, deadline_ns, timeout_ms);
	if (question.r < 0 && err)
		*err = question.err;
	if (result && question.r == 0)
		*result = question.result;
	else
		json_decref(question.result);
	return question.r;
}

int hf_qmp_client_post(struct hf_qmp_client *client, const char *command, struct hf_err *err)
{
	hf_lock(&client->mutex);
	json_int_t id = 0;
	int r = queue_line(client, command, NULL, &id, err);
	send_queued(client);
	hf_unlock(&client->mutex);
	return r;
}

/* Under the lock. */
static int wait_drained(struct hf_qmp_client *client, uint32_t timeout_ms, struct hf_err *err)
{
	hf_lock_assert_held(&client->mutex);
	uint64_t deadline_ns = (now_ms() + timeout_ms) * NS_PER_MS;
	if (++client->drains_wanted == 0)
		++client->drains_wanted;
	uint32_t drain = client->drains_wanted;
	int result = 0;
	client_wake(client);
	while (client->drains_done != drain && client->failure.class == HF_ERR_NONE && result == 0)
		result = hf_cond_wait_until(&client->changed, &client->mutex, deadline_ns);
	if (client->failure.class != HF_ERR_NONE) {
		if (err)
			*err = client->failure;
		return -client->failure.errnum;
	}
	if (client->drains_done != drain)
		return hf_err_set(err, HF_ERR_LOCAL, ETIMEDOUT,
				  "the VMM (pid %d, QMP socket %s) says more than can be read within %u ms",
				  (int)client->vmm.pid, client->address.sun_path, timeout_ms);
	if (client->drained_mid_message)
		return hf_err_set(
		    err, HF_ERR_LOCAL, EAGAIN,
		    "the VMM (pid %d, QMP socket %s) was interrupted in the middle of a message",
		    (int)client->vmm.pid, client->address.sun_path);
	return 0;
}

int hf_qmp_client_drain(struct hf_qmp_client *client, uint32_t timeout_ms, struct hf_err *err)
{
	enter(client);
	hf_lock(&client->mutex);
	int r = wait_drained(client, timeout_ms, err);
	hf_unlock(&client->mutex);
	leave(client);
	return r;
}

/* ---- life ---- */

static int connect_socket(const struct sockaddr_un *address, uint64_t deadline_ms, int *fd,
			  struct hf_err *err)
{
	*fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int error = *fd < 0 ? errno : 0;
	while (!error && connect(*fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
		// EAGAIN: the queue of connections is full, and nothing tells when it is no more.
		if ((errno != EAGAIN && errno != EINTR) || now_ms() > deadline_ms)
			error = errno;
		else
			poll(NULL, 0, CONNECT_RETRY_MS);
	}
	if (!error)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, error,
			  "QMP socket %s: cannot connect: %s; is the VMM running%s?", address->sun_path,
			  strerror(error), error == EACCES ? ", and may this user reach it" : "");
}

static int start_reader(struct hf_qmp_client *client, struct hf_err *err)
{
	client->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int error = client->wake_fd < 0 ? errno : 0;
	if (!error) {
		sigset_t all, before; // signals are for the program's own threads
		sigfillset(&all);
		pthread_sigmask(SIG_SETMASK, &all, &before);
		error = pthread_create(&client->thread, NULL, reader_thread, client);
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	}
	if (error)
		return hf_err_set(err, HF_ERR_LOCAL, error, "QMP socket %s: no thread to be had: %s",
				  client->address.sun_path, strerror(error));
	client->has_thread = true;
	pthread_setname_np(client->thread, "hf-qmp-client");
	return 0;
}

static int wait_greeting(struct hf_qmp_client *client, uint64_t deadline_ms, struct hf_err *err)
{
	hf_lock(&client->mutex);
	int r = wait_negotiated(client, deadline_ms * NS_PER_MS);
	if (r < 0 && client->greeted) {
		set_unanswered(client, "qmp_capabilities", CONNECT_TIMEOUT_MS, err);
	} else if (r < 0) {
		hf_err_set(
		    err, HF_ERR_LOCAL, ETIMEDOUT,
		    "QMP socket %s (pid %d): no greeting; the VMM hangs, or another client holds its only "
		    "QMP connection",
		    client->address.sun_path, (int)client->vmm.pid);
	} else if (client->failure.class != HF_ERR_NONE) {
		r = -client->failure.errnum;
		if (err)
			*err = client->failure;
	}
	hf_unlock(&client->mutex);
	return r;
}

static int connect_client(struct hf_qmp_client *client, bool silent, struct hf_err *err)
{
	uint64_t deadline_ms = now_ms() + CONNECT_TIMEOUT_MS;
	int r = connect_socket(&client->address, deadline_ms, &client->stream.fd, err);
	if (r < 0)
		return r;
	r = hf_qmp_owner(client->stream.fd, &client->vmm, err);
	if (r < 0) {
		hf_err_prefix(err, "QMP socket %s", client->address.sun_path);
		return r;
	}
	r = start_reader(client, err);
	return r < 0 || silent ? r : wait_greeting(client, deadline_ms, err);
}

static int connect_to(struct hf_qmp_client **out, const char *target, bool silent, hf_qmp_event *on_event,
		      void *opaque, struct hf_err *err)
{
	struct hf_qmp_client *client = calloc(1, sizeof(*client));
	if (!client)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a QMP client");
	hf_lock_init(&client->mutex, "hf_qmp_client.mutex", HF_RANK_VM_CLIENT);
	hf_cond_init(&client->changed);
	hf_qmp_stream_init(&client->stream, -1);
	client->wake_fd = -1;
	client->last_id = 1; // negotiate()'s
	client->on_event = on_event;
	client->opaque = opaque;
	int r = hf_qmp_address(target, &client->address, err);
	if (r == 0)
		r = connect_client(client, silent, err);
	if (r < 0) {
		hf_qmp_client_destroy(client);
		return r;
	}
	*out = client;
	return 0;
}

int hf_qmp_client_connect(struct hf_qmp_client **out, const char *target, hf_qmp_event *on_event,
			  void *opaque, struct hf_err *err)
{
	return connect_to(out, target, false, on_event, opaque, err);
}

int hf_qmp_client_connect_silent(struct hf_qmp_client **out, const char *target, hf_qmp_event *on_event,
				 void *opaque, struct hf_err *err)
{
	return connect_to(out, target, true, on_event, opaque, err);
}

pid_t hf_qmp_client_pid(const struct hf_qmp_client *client)
{
	return client->vmm.pid;
}

uid_t hf_qmp_client_uid(const struct hf_qmp_client *client)
{
	return client->vmm.uid;
}

const char *hf_qmp_client_path(const struct hf_qmp_client *client)
{
	return client->address.sun_path;
}

void hf_qmp_client_shutdown(struct hf_qmp_client *client)
{
	struct hf_err err = HF_ERR_INIT;
	hf_err_set(&err, HF_ERR_CANCELLED, ECANCELED,
		   "the QMP connection to the VMM (pid %d, QMP socket %s) was closed on this side",
		   (int)client->vmm.pid, client->address.sun_path);
	hf_lock(&client->mutex);
	client->stop = true;
	fail_locked(client, &err);
	hf_unlock(&client->mutex);
	client_wake(client);
}

void hf_qmp_client_destroy(struct hf_qmp_client *client)
{
	hf_lock_assert_may_stop(__func__);
	if (!client)
		return;
	if (client->has_thread) {
		hf_qmp_client_shutdown(client);
		pthread_join(client->thread, NULL);
		hf_lock(&client->mutex);
		while (client->users > 0)
			hf_cond_wait(&client->changed, &client->mutex);
		hf_unlock(&client->mutex);
	}
	hf_cond_destroy(&client->changed);
	hf_lock_destroy(&client->mutex);
	if (client->wake_fd >= 0)
		close(client->wake_fd);
	hf_qmp_stream_fini(&client->stream);
	free(client);
}
