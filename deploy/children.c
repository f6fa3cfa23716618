/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Children. Theory of operation: each child has a pipe for stdout, one for stderr and a pidfd; all are polled
 * together. Of stdout the beginning is kept (it says `listening on`), of stderr the end (it says what
 * failed). A child gets its own process group, so that an interrupt from the terminal reaches only the
 * parent, which then decides, and a death signal, so that it cannot outlive the parent.
 */
#include "deploy/children.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILDREN_MAX 8

/* Between fork and exec: only calls that are safe after a fork of a threaded process. */
static void __attribute__((noreturn)) become(const char *const *argv, int out_fd, int err_fd, pid_t parent)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	setpgid(0, 0);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(127);
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	dup2(null, STDIN_FILENO);
	dup2(out_fd, STDOUT_FILENO);
	dup2(err_fd, STDERR_FILENO);
	execv(argv[0], (char *const *)argv);
	const char *why = strerrordesc_np(errno);
	ssize_t ignored = write(STDERR_FILENO, why, strlen(why));
	(void)ignored;
	_exit(127);
}

static void close_pair(const int fds[2])
{
	if (fds[0] >= 0)
		close(fds[0]);
	if (fds[1] >= 0)
		close(fds[1]);
}

static void watch(struct hf_child *child, pid_t pid, int out_fd, int err_fd)
{
	child->pid = pid;
	child->pid_fd = (int)syscall(SYS_pidfd_open, pid, 0) + 1;
	child->out.fd = out_fd + 1;
	child->err.fd = err_fd + 1;
	child->started = true;
	fcntl(out_fd, F_SETFL, O_NONBLOCK);
	fcntl(err_fd, F_SETFL, O_NONBLOCK);
}

int hf_child_start(struct hf_child *child, const char *name, const char *const *argv, struct hf_err *err)
{
	int out[2] = {-1, -1}, errors[2] = {-1, -1};
	pid_t parent = getpid();
	pid_t pid = -1;
	*child = (struct hf_child){.name = name};
	if (!pipe2(out, O_CLOEXEC) && !pipe2(errors, O_CLOEXEC))
		pid = fork();
	if (pid < 0) {
		int errnum = errno;
		close_pair(out);
		close_pair(errors);
		return hf_err_set(err, HF_ERR_LOCAL, errnum, "%s could not be started: %s", name,
				  strerror(errnum));
	}
	if (!pid)
		become(argv, out[1], errors[1], parent);
	close(out[1]);
	close(errors[1]);
	watch(child, pid, out[0], errors[0]);
	return 0;
}

static void keep_beginning(struct hf_child_stream *stream, const char *bytes, size_t count)
{
	size_t room = sizeof(stream->text) - 1 - stream->used;
	if (count > room)
		count = room;
	memcpy(stream->text + stream->used, bytes, count);
	stream->used += count;
}

static void keep_end(struct hf_child_stream *stream, const char *bytes, size_t count)
{
	size_t capacity = sizeof(stream->text) - 1;
	if (count > capacity) {
		bytes += count - capacity;
		count = capacity;
	}
	if (stream->used + count > capacity) {
		size_t drop = stream->used + count - capacity;
		memmove(stream->text, stream->text + drop, stream->used - drop);
		stream->used -= drop;
	}
	memcpy(stream->text + stream->used, bytes, count);
	stream->used += count;
}

static void read_stream(struct hf_child_stream *stream,
			void (*keep)(struct hf_child_stream *, const char *, size_t))
{
	char bytes[1024];
	while (stream->fd) {
		ssize_t got = read(stream->fd - 1, bytes, sizeof(bytes));
		if (got > 0) {
			keep(stream, bytes, (size_t)got);
			continue;
		}
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0 && errno == EAGAIN)
			return;
		close(stream->fd - 1);
		stream->fd = 0;
	}
}

static void reap(struct hf_child *child, int flags)
{
	int status = 0;
	if (!child->pid || waitpid(child->pid, &status, flags) != child->pid)
		return;
	child->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	child->pid = 0;
	child->ended = true;
	if (child->pid_fd)
		close(child->pid_fd - 1);
	child->pid_fd = 0;
}

void hf_children_pump(struct hf_child *const *children, size_t count, int other_fd, int timeout_ms)
{
	struct pollfd fds[3 * CHILDREN_MAX + 1] = {{.fd = other_fd, .events = POLLIN}};
	nfds_t used = 1;
	for (size_t i = 0; i < count && i < CHILDREN_MAX; i++) {
		fds[used++] = (struct pollfd){.fd = children[i]->out.fd - 1, .events = POLLIN};
		fds[used++] = (struct pollfd){.fd = children[i]->err.fd - 1, .events = POLLIN};
		fds[used++] = (struct pollfd){.fd = children[i]->pid_fd - 1, .events = POLLIN};
	}
	if (poll(fds, used, timeout_ms) <= 0)
		return;
	for (size_t i = 0; i < count; i++) {
		reap(children[i], WNOHANG); // before reading: what a dead child said is all there
		read_stream(&children[i]->out, keep_beginning);
		read_stream(&children[i]->err, keep_end);
	}
}

void hf_child_last_line(const struct hf_child *child, char *line, size_t line_bytes)
{
	const char *text = child->err.text;
	size_t end = child->err.used;
	while (end && text[end - 1] == '\n')
		end--;
	size_t start = end;
	while (start && text[start - 1] != '\n')
		start--;
	size_t length = end - start < line_bytes ? end - start : line_bytes - 1;
	memcpy(line, text + start, length);
	line[length] = '\0';
}

void hf_child_signal(const struct hf_child *child, int signal)
{
	if (child->pid)
		kill(child->pid, signal);
}

static void close_stream(struct hf_child_stream *stream)
{
	if (stream->fd)
		close(stream->fd - 1);
	stream->fd = 0;
}

void hf_child_end(struct hf_child *child)
{
	hf_child_signal(child, SIGKILL);
	reap(child, 0);
	close_stream(&child->out);
	close_stream(&child->err);
}
