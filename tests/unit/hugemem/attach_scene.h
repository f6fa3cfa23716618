/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach_scene.h - a VMM and an agent that is killed, each a process of its own; the test is the next agent.
 *
 * Purpose: what the tests of taking over share.
 * Ownership: start_scene() has its end_scene(); end_children() is the teardown of a case that may have
 * failed.
 * Threads: the test's main thread.
 * Units: pages of 2 MiB.
 * Errors: a failure fails the running test.
 */
#ifndef HF_TESTS_ATTACH_SCENE_H
#define HF_TESTS_ATTACH_SCENE_H

#include "tests/unit/hugemem/attach_rig.h"

#define SCENE_PAGES 4u

struct scene {
	struct attach_rig rig; /* memory and path; the library lives in the VMM's process */
	pid_t vmm, agent;
	int from_vmm, to_vmm, from_agent;
};

/*
 * The agent has asked for these features and holds the fault of page 1, which the VMM waits for. enter: NULL,
 * or what the VMM does before it listens.
 */
void start_scene(struct scene *scene, uint64_t features, void (*enter)(struct attach_rig *rig));
void end_scene(struct scene *scene);
int end_children(void **state);

/* Fills and shows a page; what the VMM reads of it, it says. */
void place(struct scene *scene, int userfault, uint64_t page, uint8_t value);
char wait_byte(int fd);
bool is_silent(int fd);
/* In any process; a failure ends it. */
void say_byte(int fd, char byte);

/* As fork(); the child ends when the test does. */
pid_t fork_process(void);
void kill_and_wait(pid_t pid);
/* Asks for the userfaultfd, says 'F' when it holds the fault of page 1, and waits for its death. */
void agent_process(struct attach_rig *rig, uint64_t features, int out);

#endif
