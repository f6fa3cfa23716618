/* SPDX-License-Identifier: Apache-2.0 */
/*
 * state_channel.h - carries device state over a unix stream socket, as `migrate` and `migrate-incoming` do.
 *
 * Purpose: sends a blob, or receives one up to the end of the stream.
 * Ownership: the received blob is the caller's, free with free().
 * Threads: blocks; another thread ends the wait by making cancel_fd readable.
 * Units: bytes. A peer that moves nothing for half a minute is given up.
 * Errors: 0 or -errno with text; -ECANCELED: cancelled.
 */
#ifndef HF_KVM_VMM_STATE_CHANNEL_H
#define HF_KVM_VMM_STATE_CHANNEL_H

#include <stddef.h>

#include "core/err.h"

/* "unix:PATH" with a path that fits; *path points into uri. */
int vmm_state_uri(const char *uri, const char **path, struct hf_err *err);

int vmm_state_connect(const char *path, int *fd, struct hf_err *err);
int vmm_state_send(int fd, const void *data, size_t length_bytes, int cancel_fd, struct hf_err *err);

/* A stale socket file is replaced, one somebody listens on is -EADDRINUSE. */
int vmm_state_listen(const char *path, int *listen_fd, struct hf_err *err);
/* Waits without limit; the listening socket stays the caller's. */
int vmm_state_accept(int listen_fd, int cancel_fd, int *fd, struct hf_err *err);
int vmm_state_receive(int fd, int cancel_fd, void **data, size_t *length_bytes, struct hf_err *err);

#endif
