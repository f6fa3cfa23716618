/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach_rig.h - a VMM with the attach library in it, and an agent that may say anything.
 *
 * Purpose: what the tests of the attach library share.
 * Ownership: every start has its stop.
 * Threads: the test's main thread.
 * Units: pages of 2 MiB.
 * Errors: a failure fails the running test.
 */
#ifndef HF_TESTS_ATTACH_RIG_H
#define HF_TESTS_ATTACH_RIG_H

#include <jansson.h>

#include "hugemem/attach.h"
#include "hugemem/attach_client.h"
#include "tests/unit/hugemem/host_fixture.h"

#define BOTH (HF_USERFAULT_MISSING | HF_USERFAULT_MINOR)

struct attach_rig {
	char directory[40], path[64];
	uint64_t pages;
	int fd;		/* the RAM file; -1: private memory */
	uint8_t *vmm;	/* the VMM's mapping */
	uint8_t *alias; /* the agent's; NULL for private memory */
	struct hf_attach *attach;
	struct hf_err err;
};

/* A directory for the socket and memory; no library yet. */
void rig_memory(struct attach_rig *rig, uint64_t pages, bool private_memory);
void rig_library(struct attach_rig *rig);
/* Both, with one region "ram0". */
void rig_start(struct attach_rig *rig, uint64_t pages);
void rig_stop(struct attach_rig *rig);
struct hf_attach_region rig_region(const struct attach_rig *rig);

struct hf_attach_client *rig_client(const struct attach_rig *rig);
/* A userfaultfd in these modes; thread ids wanted. */
int rig_userfault(struct hf_attach_client *client, unsigned modes);
/* The page index of the next fault message, within WAIT_LIMIT_MS. */
uint64_t next_fault(const struct attach_rig *rig, int userfault);

/* An agent that speaks bytes. */
int raw_connect(const struct attach_rig *rig);
void raw_say(int socket, const char *text);
/* One answer; NULL when the library closes instead. *fd gets the first descriptor, or -1; may be NULL. */
json_t *raw_answer(int socket, int *fd);
json_t *raw_request(int socket, const char *text);
/* The answer must be an error of that class whose text holds `why`. */
void raw_expect_error(int socket, const char *text, const char *class, const char *why);
void raw_expect_closed(int socket);

#endif
