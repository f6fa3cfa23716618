/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach_internal.h - the inside of the attach library, shared by attach.c and attach_session.c.
 *
 * Purpose: attach.c owns the object, the socket and the thread; attach_session.c answers requests.
 * Ownership: one hf_attach owns everything here.
 * Threads: fields are grouped by who may touch them.
 * Units: bytes.
 * Errors: 0 or -errno.
 */
#ifndef HF_HUGEMEM_ATTACH_INTERNAL_H
#define HF_HUGEMEM_ATTACH_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/types.h>

#include "core/lock.h"
#include "core/ramblock.h"
#include "hugemem/agent_process.h"
#include "hugemem/attach.h"
#include "hugemem/attach_wire.h"

struct hf_attach_memory {
	uint64_t address;
	uint64_t fd_offset_bytes;
	int fd; /* our duplicate; -1: private */
};

struct hf_attach_agent {
	int socket; /* -1: nobody */
	struct hf_agent_process process;
	bool greeted;
	size_t used;
	uint64_t line_deadline_ns; /* of a line whose end has not come yet; 0: none */
	char buffer[HF_ATTACH_REQUEST_MAX_BYTES];
};

struct hf_attach {
	/* set at creation */
	char *vm_name;
	char *socket_path;
	int stop_fd;
	void (*more_regions)(struct hf_attach *attach, void *opaque);
	void *opaque;

	/* set before start, or by the thread in more_regions: block i is backed by memory[i] */
	struct hf_ramblocks blocks;
	struct hf_attach_memory memory[HF_RAMBLOCKS_MAX];

	/* set by start */
	bool started;
	pthread_t thread;
	int listener;
	dev_t socket_device;
	ino_t socket_inode;

	/* the thread's own */
	struct hf_attach_agent agent;
	bool adding;		  /* in more_regions */
	uint64_t listen_again_ns; /* accept() ran out of descriptors; 0: listening */
	int userfault;		  /* the library's copy; -1: nothing registered */
	unsigned modes;
	uint64_t features;
	struct hf_agent_process holder; /* the last that was given the userfaultfd */

	/* any thread */
	atomic_bool armed;

	/* under the lock: only the wait for `armed` */
	struct hf_lock lock;
	struct hf_cond armed_changed;
};

/* Answers one request line (without its newline). -errno: drop the agent. */
int hf_attach_session_line(struct hf_attach *attach, const char *line, size_t length);
/* Sends an error answer to a socket that may be no agent's; best effort, never waits. */
void hf_attach_session_refuse(int socket, const char *class, const char *text);

#endif
