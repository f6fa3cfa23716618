/* SPDX-License-Identifier: Apache-2.0 */
#include "hugemem/agent_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hugemem/attach_wire.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/process_stat.h"

int hf_agent_process_of(int socket, pid_t pid, struct hf_agent_process *process)
{
	int fd;
	socklen_t length = sizeof(fd);
	if (getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &length)) {
		if (errno != ENOPROTOOPT)
			return -errno;
		fd = pidfd_open(pid, 0);
		if (fd < 0)
			return -errno;
	}
	*process = (struct hf_agent_process){.fd = fd, .pid = pid};
	return 0;
}

int hf_agent_process_find(pid_t pid, uint64_t start_ticks, struct hf_agent_process *process)
{
	struct hf_process_stat stat;
	struct hf_agent_process found = {.fd = pidfd_open(pid, 0), .pid = pid};
	/* EINVAL, ENOENT: its number is a thread's of another process now. */
	if (found.fd < 0)
		return errno == EINVAL || errno == ENOENT ? -ESRCH : -errno;
	int result = hf_process_stat(pid, &stat);
	if (result == -ENOENT || (!result && stat.start_ticks != start_ticks))
		result = -ESRCH;
	if (result)
		hf_agent_process_close(&found);
	else
		*process = found;
	return result;
}

int hf_agent_process_copy(const struct hf_agent_process *process, struct hf_agent_process *copy)
{
	int fd = fcntl(process->fd, F_DUPFD_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	*copy = (struct hf_agent_process){.fd = fd, .pid = process->pid};
	return 0;
}

void hf_agent_process_close(struct hf_agent_process *process)
{
	if (process->fd >= 0)
		close(process->fd);
	*process = HF_AGENT_PROCESS_NONE;
}

bool hf_agent_process_same(const struct hf_agent_process *one, const struct hf_agent_process *other)
{
	/* While one of the two lives nobody else has its number. */
	return one->pid == other->pid && one->pid > 0 && !hf_agent_process_wait_gone(one, 0, -1);
}

bool hf_agent_process_wait_gone(const struct hf_agent_process *process, uint32_t timeout_ms, int stop_fd)
{
	struct pollfd polled[2] = {{.fd = process->fd, .events = POLLIN}, {.fd = stop_fd, .events = POLLIN}};
	uint64_t deadline_ns = hf_attach_deadline_ns(timeout_ms);
	for (;;) {
		uint64_t now_ns = hf_attach_now_ns();
		int left_ms = now_ns < deadline_ns ? (int)((deadline_ns - now_ns + 999999) / 1000000) : 0;
		int ready = poll(polled, 2, left_ms);
		if (ready < 0 && errno == EINTR)
			continue;
		return ready > 0 && polled[0].revents;
	}
}
