/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach_wire.h - what both ends of the attach hand-off share. Internal to hugemem/.
 *
 * Purpose: limits and names of the protocol (PROTOCOL.md, part "Attach"), sending and receiving bytes with
 * descriptors beside them, the check of the peer's credentials.
 * Ownership: received descriptors belong to the hf_attach_fds they are put in.
 * Threads: any; no state of its own.
 * Units: milliseconds, nanoseconds of CLOCK_MONOTONIC, bytes.
 * Errors: 0 or -errno; -ETIMEDOUT past the deadline, -ECANCELED when stop_fd became readable.
 */
#ifndef HF_HUGEMEM_ATTACH_WIRE_H
#define HF_HUGEMEM_ATTACH_WIRE_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/un.h>

#include "core/err.h"
#include "core/ramblock.h"

#define HF_ATTACH_VERSION	    1
#define HF_ATTACH_REQUEST_MAX_BYTES (64u << 10)
#define HF_ATTACH_ANSWER_MAX_BYTES  (1u << 20)
#define HF_ATTACH_TIMEOUT_MS	    10000u
#define HF_ATTACH_FDS_MAX	    HF_RAMBLOCKS_MAX /* beside one answer */

/* The error classes of an answer. */
struct hf_attach_error_class {
	const char *name;
	int errnum;
};
extern const struct hf_attach_error_class hf_attach_error_classes[]; /* ends with a NULL name */

/* "missing", "minor", "wp-async" for enum hf_userfault_mode; ends with a NULL name. */
struct hf_attach_mode {
	const char *name;
	unsigned mode;
};
extern const struct hf_attach_mode hf_attach_modes[];

uint64_t hf_attach_now_ns(void);
uint64_t hf_attach_deadline_ns(uint32_t timeout_ms);

/* Waits for poll events on fd; stop_fd may be -1. */
int hf_attach_wire_wait(int fd, short events, uint64_t deadline_ns, int stop_fd);
/* Sends all bytes, the descriptors with the first of them. */
int hf_attach_wire_send(int socket, const char *bytes, size_t length, const int *fds, uint32_t fd_count,
			uint64_t deadline_ns, int stop_fd);

struct hf_attach_fds {
	int fd[HF_ATTACH_FDS_MAX];
	uint32_t count;
};
void hf_attach_fds_close(struct hf_attach_fds *fds);
/*
 * One recvmsg() of a non-blocking socket; received descriptors are appended, close-on-exec. Bytes
 * received, 0 at the end, -EAGAIN, -EMSGSIZE for more descriptors than fit, -EMFILE when this process could
 * not take them.
 */
ssize_t hf_attach_wire_receive(int socket, char *buffer, size_t capacity, struct hf_attach_fds *fds);

/* The peer must be root or run under our own effective uid. */
int hf_attach_wire_peer(int socket, pid_t *pid, struct hf_err *err);
int hf_attach_wire_address(struct sockaddr_un *address, const char *path, struct hf_err *err);

#endif
