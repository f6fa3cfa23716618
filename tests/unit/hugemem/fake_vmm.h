/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fake_vmm.h - a VMM's attach socket that answers with whatever a test wants said.
 *
 * Purpose: hostile answers for the attach client.
 * Ownership: descriptors stay the test's.
 * Threads: one of its own, ended by fake_vmm_stop().
 * Units: bytes.
 * Errors: a failure fails the running test.
 */
#ifndef HF_TESTS_FAKE_VMM_H
#define HF_TESTS_FAKE_VMM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

#define FAKE_ANSWERS_MAX 4
#define FAKE_FDS_MAX	 8

struct fake_answer {
	const char *bytes; /* NULL: says nothing until the client goes */
	size_t length;	   /* 0: strlen(bytes) */
	int fds[FAKE_FDS_MAX];
	unsigned fd_count;
};

struct fake_vmm {
	char directory[40], path[64];
	int listener;
	pthread_t thread;
	struct fake_answer answers[FAKE_ANSWERS_MAX]; /* one a request; then it closes */
	unsigned answer_count;
};

void fake_vmm_start(struct fake_vmm *vmm);
void fake_vmm_stop(struct fake_vmm *vmm);
/* Open descriptors of this process. */
unsigned open_descriptors(void);

#endif
