/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/hugemem/attach_scene.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugemem/kernel_compat.h"
#include "hugemem/userfault.h"

/* What a case has started and not ended yet. */
#define CHILDREN_MAX 8
static pid_t children[CHILDREN_MAX];
static unsigned child_count;

char wait_byte(int fd)
{
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	char byte = '\0';
	assert_int_equal(poll(&polled, 1, WAIT_LIMIT_MS), 1);
	assert_int_equal(read(fd, &byte, 1), 1);
	return byte;
}

bool is_silent(int fd)
{
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	return poll(&polled, 1, 0) == 0;
}

void say_byte(int fd, char byte)
{
	if (write(fd, &byte, 1) != 1)
		_exit(3);
}

pid_t fork_process(void)
{
	fflush(NULL);
	pid_t parent = getpid(), child = fork();
	assert_true(child >= 0 && child_count < CHILDREN_MAX);
	if (child > 0)
		children[child_count++] = child;
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(4);
	}
	return child;
}

// 'L' when it listens; after a byte it touches page 1 and says what it read there; ends after another byte.
static void vmm_process(struct attach_rig *rig, int out, int in, void (*enter)(struct attach_rig *rig))
{
	const struct hf_attach_options options = {.socket_path = rig->path, .vm_name = "victim"};
	const struct hf_attach_region region = rig_region(rig);
	struct hf_attach *attach;
	char byte;
	if (hf_attach_create(&attach, &options, NULL) || hf_attach_add(attach, &region, NULL) ||
	    hf_attach_start(attach, NULL))
		_exit(1);
	if (enter)
		enter(rig);
	say_byte(out, 'L');
	if (hf_attach_wait_armed(attach, WAIT_LIMIT_MS))
		_exit(2);
	say_byte(out, 'A');
	say_byte(out, (char)((volatile uint8_t *)rig->vmm)[HUGE_BYTES]);
	if (read(in, &byte, 1) != 1)
		_exit(5);
	hf_attach_destroy(attach);
	_exit(0);
}

// 'F' when it holds the fault of page 1. Then it only waits for its death.
void agent_process(struct attach_rig *rig, uint64_t features, int out)
{
	struct hf_attach_client *client;
	struct uffd_msg message;
	int fd;
	if (hf_attach_client_connect(&client, rig->path, NULL) ||
	    hf_attach_client_userfault(client, BOTH, features, &fd, NULL))
		_exit(1);
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	if (poll(&polled, 1, WAIT_LIMIT_MS) != 1 || read(fd, &message, sizeof(message)) != sizeof(message))
		_exit(2);
	say_byte(out, 'F');
	for (;;)
		pause();
}

void start_scene(struct scene *scene, uint64_t features, void (*enter)(struct attach_rig *rig))
{
	int vmm_out[2], vmm_in[2], agent_out[2];
	rig_memory(&scene->rig, SCENE_PAGES, false);
	assert_int_equal(pipe2(vmm_out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(vmm_in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(agent_out, O_CLOEXEC), 0);
	scene->vmm = fork_process();
	if (scene->vmm == 0)
		vmm_process(&scene->rig, vmm_out[1], vmm_in[0], enter);
	assert_int_equal(wait_byte(vmm_out[0]), 'L');
	scene->agent = fork_process();
	if (scene->agent == 0)
		agent_process(&scene->rig, features, agent_out[1]);
	close(vmm_out[1]);
	close(vmm_in[0]);
	close(agent_out[1]);
	scene->from_vmm = vmm_out[0];
	scene->to_vmm = vmm_in[1];
	scene->from_agent = agent_out[0];
	assert_int_equal(wait_byte(scene->from_vmm), 'A');
	assert_int_equal(wait_byte(scene->from_agent), 'F');
}

void kill_and_wait(pid_t pid)
{
	int status;
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

void end_scene(struct scene *scene)
{
	int status;
	say_byte(scene->to_vmm, 'E');
	assert_int_equal(waitpid(scene->vmm, &status, 0), scene->vmm);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	close(scene->from_vmm);
	close(scene->to_vmm);
	close(scene->from_agent);
	rig_stop(&scene->rig);
}

void place(struct scene *scene, int userfault, uint64_t page, uint8_t value)
{
	memset(scene->rig.alias + page * HUGE_BYTES, value, HUGE_BYTES);
	assert_int_equal(
	    hf_userfault_continue(userfault, (uintptr_t)scene->rig.vmm + page * HUGE_BYTES, HUGE_BYTES), 0);
}

int end_children(void **state)
{
	(void)state;
	for (unsigned i = 0; i < child_count; i++)
		if (waitpid(children[i], NULL, WNOHANG) == 0) {
			kill(children[i], SIGKILL);
			waitpid(children[i], NULL, 0);
		}
	child_count = 0;
	return 0;
}
