/* SPDX-License-Identifier: Apache-2.0 */
/*
 * children.h - child processes with watched output.
 *
 * Purpose: starts programs, keeps what they say, learns of their end, and ends them for certain.
 * Ownership: start/end; a zeroed struct may be ended. A child dies with its parent, also when that is killed.
 * Threads: one; children are started from the main thread (their death signal is tied to it).
 * Units: milliseconds in _ms.
 * Errors: 0 or -errno with text.
 */
#ifndef HF_DEPLOY_CHILDREN_H
#define HF_DEPLOY_CHILDREN_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "core/err.h"

#define HF_CHILD_OUTPUT_BYTES 4096

struct hf_child_stream {
	int fd; /* stored + 1; 0: closed */
	char text[HF_CHILD_OUTPUT_BYTES];
	size_t used;
};

struct hf_child {
	const char *name;
	pid_t pid; /* 0: not started, or ended and reaped */
	int pid_fd;
	struct hf_child_stream out; /* the first bytes */
	struct hf_child_stream err; /* the last bytes */
	bool started, ended;
	int exit_code; /* of an ended one; 128 + signal when killed */
};

int hf_child_start(struct hf_child *child, const char *name, const char *const *argv, struct hf_err *err);
/* Reads what the children say and reaps those that ended; waits for at most timeout_ms for anything. */
void hf_children_pump(struct hf_child *const *children, size_t count, int other_fd, int timeout_ms);
/* Copies the last line of its stderr, "" when it said nothing. */
void hf_child_last_line(const struct hf_child *child, char *line, size_t line_bytes);
void hf_child_signal(const struct hf_child *child, int signal);
/* Kills it if it still runs, reaps it, closes. */
void hf_child_end(struct hf_child *child);

#endif
