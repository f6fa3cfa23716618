/* SPDX-License-Identifier: Apache-2.0 */
/*
 * agent_process.h - the process of an agent, as the next one, or the VMM, has to wait for its end.
 *
 * Purpose: an agent that has closed its connection may live on, with guest memory mapped and bytes on their
 * way into it. The next one is let in only when that process is gone; a pidfd tells, and cannot come to mean
 * another process.
 * Ownership: the caller's struct; close() it. -1 holds nothing.
 * Threads: one at a time. Units: milliseconds.
 * Errors: 0 or -errno.
 */
#ifndef HF_HUGEMEM_AGENT_PROCESS_H
#define HF_HUGEMEM_AGENT_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct hf_agent_process {
	int fd; /* a pidfd */
	pid_t pid;
};

#define HF_AGENT_PROCESS_NONE ((struct hf_agent_process){.fd = -1})

/*
 * The process that connected `socket`; pid is that of SO_PEERCRED. A kernel before 6.5 does not hand its
 * pidfd out with the socket: it is then looked up by its number, and if it has ended since and the number was
 * given away already, another process is watched in its place.
 */
int hf_agent_process_of(int socket, pid_t pid, struct hf_agent_process *process);
/* One that somebody has noted, in this boot; start_ticks as in process_stat.h. -ESRCH: it has ended. */
int hf_agent_process_find(pid_t pid, uint64_t start_ticks, struct hf_agent_process *process);
int hf_agent_process_copy(const struct hf_agent_process *process, struct hf_agent_process *copy);
void hf_agent_process_close(struct hf_agent_process *process);

/* Are both the same, and alive? */
bool hf_agent_process_same(const struct hf_agent_process *one, const struct hf_agent_process *other);
/* Waits until its last thread has ended, at most timeout_ms or until stop_fd is readable; is it gone? */
bool hf_agent_process_wait_gone(const struct hf_agent_process *process, uint32_t timeout_ms, int stop_fd);

#endif
