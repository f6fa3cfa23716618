/* SPDX-License-Identifier: Apache-2.0 */
/*
 * peer.h - the other end of sockets, played from the input without threads and without waiting.
 *
 * Purpose: a target that links peer.c with the --wrap options of meson.build gets, for the code under test:
 *   connect()        reaches a socket whose other end the target's on_connect has filled
 *   accept4()        hands out the sockets of fuzz_peer_knock(), in order
 *   poll()           with a time limit is over at once, and time is past that limit when nothing was ready
 *   recv()           gives a few bytes at a time, as the input says
 *   sendmsg(), send() tell on_send afterwards, so that a peer answers what was asked
 * Ownership: fuzz_peer_end() closes every peer's end.
 * Threads: one, and those of the code under test.
 * Units: bytes.
 * Errors: a system call that fails aborts.
 */
#ifndef HF_TESTS_FUZZ_PEER_H
#define HF_TESTS_FUZZ_PEER_H

#include "tests/fuzz/fuzz.h"

#define FUZZ_PEERS_MAX 16

struct fuzz_peers {
	void *opaque;
	/* A socket is being connected: `fd` is the peer's end. Returns whether there is anybody. */
	bool (*on_connect)(void *opaque, int fd);
	/* Bytes have left `fd`, the code's own end. */
	void (*on_send)(void *opaque, int fd);
	uint8_t shortness; /* recv() gives at most 1 + this; 0: no limit */

	int fds[FUZZ_PEERS_MAX]; /* the peers' ends */
	uint32_t count;
	int knocking[FUZZ_PEERS_MAX]; /* for accept4() */
	uint32_t knocking_count;
	int listener; /* readable while somebody knocks; made by the first who does; -1 */
};

extern struct fuzz_peers fuzz_peers;

void fuzz_peers_begin(void *opaque);
void fuzz_peers_end(void);
/* A pair of sockets: the peer's end is kept, the code's is returned. */
int fuzz_peer_pair(int *peer_fd);
/* Somebody connects to the listener; returns the peer's end. */
int fuzz_peer_knock(void);

/* The number the next descriptor will have: what it was before, when none has been left behind. */
int fuzz_next_fd(void);

void fuzz_peer_write(int fd, const void *bytes, size_t count);
/* Everything that has come, up to `most`. */
size_t fuzz_peer_read(int fd, uint8_t *bytes, size_t most);

#endif
