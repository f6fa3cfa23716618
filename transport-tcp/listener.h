/* SPDX-License-Identifier: Apache-2.0 */
/*
 * listener.h - the listener as accept.c sees it. Not for other folders.
 *
 * Purpose: a bound socket and what it was asked for.
 * Ownership: the listener owns the descriptor and, for unix:, the socket file (only the one it made).
 * Threads: one at a time.
 * Units: none.
 * Errors: as in tcp.h.
 */
#ifndef HF_TRANSPORT_TCP_LISTENER_H
#define HF_TRANSPORT_TCP_LISTENER_H

#include <sys/types.h>

#include "core/opening.h"
#include "transport-tcp/internal.h"

struct hf_tcp_listener {
	int fd;
	char uri[TCP_NAME_BYTES];
	struct tcp_uri parsed;
	struct hf_tcp_options options;
	struct hf_opening_guard guard;
	bool owns_file;
	dev_t file_device; /* of the socket file; another one at that path is not ours to remove */
	ino_t file_inode;
};

#endif
