/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM, an agent that is killed, and the next agent, each a process of its own (the second agent is the
 * test): a page that was missing when the agent died never reads as zeros.
 *
 *     VMM                     agent 1                 test (agent 2)
 *     attach, wait armed
 *                             userfault
 *     touch page 1 (blocks)   reads the fault
 *                             killed
 *                                                     userfault: resumed, the fault again
 *     reads 42           <----------------------------fill, CONTINUE
 */
#include "tests/unit/hugemem/attach_rig.h"

#include <errno.h>
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

#define PAGES 4u

struct scene {
	struct attach_rig rig; /* memory and path; the library lives in the VMM's process */
	pid_t vmm, agent;
	int from_vmm, to_vmm, from_agent;
};

/* What a case has started and not ended yet. */
#define CHILDREN_MAX 8
static pid_t children[CHILDREN_MAX];
static unsigned child_count;

static char wait_byte(int fd)
{
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	char byte = '\0';
	assert_int_equal(poll(&polled, 1, WAIT_LIMIT_MS), 1);
	assert_int_equal(read(fd, &byte, 1), 1);
	return byte;
}

static bool is_silent(int fd)
{
	struct pollfd polled = {.fd = fd, .events = POLLIN};
	return poll(&polled, 1, 0) == 0;
}

static void say_byte(int fd, char byte)
{
	if (write(fd, &byte, 1) != 1)
		_exit(3);
}

static pid_t fork_process(void)
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
static void vmm_process(struct attach_rig *rig, int out, int in)
{
	const struct hf_attach_options options = {.socket_path = rig->path, .vm_name = "victim"};
	const struct hf_attach_region region = rig_region(rig);
	struct hf_attach *attach;
	char byte;
	if (hf_attach_create(&attach, &options, NULL) || hf_attach_add(attach, &region, NULL) ||
	    hf_attach_start(attach, NULL))
		_exit(1);
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
static void agent_process(struct attach_rig *rig, uint64_t features, int out)
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

static void start_scene(struct scene *scene, uint64_t features)
{
	int vmm_out[2], vmm_in[2], agent_out[2];
	rig_memory(&scene->rig, PAGES, false);
	assert_int_equal(pipe2(vmm_out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(vmm_in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(agent_out, O_CLOEXEC), 0);
	scene->vmm = fork_process();
	if (scene->vmm == 0)
		vmm_process(&scene->rig, vmm_out[1], vmm_in[0]);
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

static void kill_and_wait(pid_t pid)
{
	int status;
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

static void end_scene(struct scene *scene)
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

static void place(struct scene *scene, int userfault, uint64_t page, uint8_t value)
{
	memset(scene->rig.alias + page * HUGE_BYTES, value, HUGE_BYTES);
	assert_int_equal(
	    hf_userfault_continue(userfault, (uintptr_t)scene->rig.vmm + page * HUGE_BYTES, HUGE_BYTES), 0);
}

static void a_killed_agents_fault_is_raised_again_for_the_next(void **state)
{
	(void)state;
	struct scene scene;
	start_scene(&scene, UFFD_FEATURE_THREAD_ID);
	kill_and_wait(scene.agent);
	struct hf_attach_client *client = rig_client(&scene.rig);
	assert_int_equal(hf_attach_client_pid(client), scene.vmm);
	int userfault = rig_userfault(client, BOTH);
	assert_true(hf_attach_client_resumed(client));
	assert_int_equal(next_fault(&scene.rig, userfault), 1);
	assert_true(is_silent(scene.from_vmm)); // it has read nothing, zeros neither
	place(&scene, userfault, 1, 42);
	assert_int_equal(wait_byte(scene.from_vmm), 42);
	assert_int_equal(hf_attach_client_release(client, NULL), 0);
	hf_attach_client_destroy(client);
	close(userfault);
	end_scene(&scene);
}

static void pages_stay_missing_through_several_dead_agents(void **state)
{
	(void)state;
	struct scene scene;
	start_scene(&scene, 0);
	kill_and_wait(scene.agent);
	for (unsigned i = 0; i < 3; i++) {
		int out[2];
		assert_int_equal(pipe2(out, O_CLOEXEC), 0);
		pid_t agent = fork_process();
		if (agent == 0)
			agent_process(&scene.rig, 0, out[1]);
		close(out[1]);
		assert_int_equal(wait_byte(out[0]), 'F');
		assert_true(is_silent(scene.from_vmm));
		kill_and_wait(agent);
		close(out[0]);
	}
	struct hf_attach_client *client = rig_client(&scene.rig);
	struct hf_err err = HF_ERR_INIT;
	int userfault;
	// No feature was asked for by the first agent, so one that needs thread ids is refused, not served
	// badly.
	assert_int_equal(hf_attach_client_userfault(client, BOTH, UFFD_FEATURE_THREAD_ID, &userfault, &err),
			 -EINVAL);
	assert_non_null(strstr(err.text, "thread-id"));
	assert_true(is_silent(scene.from_vmm));
	assert_int_equal(hf_attach_client_userfault(client, BOTH, 0, &userfault, &err), 0);
	assert_int_equal(next_fault(&scene.rig, userfault), 1);
	place(&scene, userfault, 1, 7);
	assert_int_equal(wait_byte(scene.from_vmm), 7);
	hf_attach_client_destroy(client);
	close(userfault);
	end_scene(&scene);
}

static void a_page_placed_before_the_fault_is_asked_again_needs_no_fault(void **state)
{
	(void)state;
	struct scene scene;
	start_scene(&scene, 0);
	kill_and_wait(scene.agent);
	struct hf_attach_client *client = rig_client(&scene.rig);
	struct hf_err err = HF_ERR_INIT;
	int userfault;
	assert_int_equal(hf_attach_client_userfault(client, BOTH, 0, &userfault, &err), 0);
	place(&scene, userfault, 1, 99);
	assert_int_equal(wait_byte(scene.from_vmm), 99);
	hf_attach_client_destroy(client);
	close(userfault);
	end_scene(&scene);
}

// Asks for the userfaultfd, closes its connection, says 'C' and lives on.
static void lingering_agent(struct attach_rig *rig, int out)
{
	struct hf_attach_client *client;
	int fd;
	if (hf_attach_client_connect(&client, rig->path, NULL) ||
	    hf_attach_client_userfault(client, BOTH, 0, &fd, NULL))
		_exit(1);
	hf_attach_client_destroy(client);
	say_byte(out, 'C');
	for (;;)
		pause();
}

static pid_t start_lingering_agent(struct attach_rig *rig)
{
	int out[2];
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	pid_t agent = fork_process();
	if (agent == 0)
		lingering_agent(rig, out[1]);
	close(out[1]);
	assert_int_equal(wait_byte(out[0]), 'C');
	close(out[0]);
	return agent;
}

static void an_agent_whose_predecessor_lives_on_is_refused_and_told_which(void **state)
{
	(void)state;
	struct attach_rig rig;
	struct hf_err err = HF_ERR_INIT;
	int userfault = -1;
	char pid[16];
	rig_start(&rig, PAGES);
	pid_t agent = start_lingering_agent(&rig);
	struct hf_attach_client *client = rig_client(&rig);
	assert_int_not_equal(hf_attach_client_userfault(client, BOTH, 0, &userfault, &err), 0);
	assert_int_equal(userfault, -1);
	snprintf(pid, sizeof(pid), " %d ", (int)agent);
	assert_non_null(strstr(err.text, pid));
	assert_non_null(strstr(err.text, "has not ended"));

	// The same connection is served once it has.
	kill_and_wait(agent);
	assert_int_equal(hf_attach_client_userfault(client, BOTH, 0, &userfault, &err), 0);
	assert_true(hf_attach_client_resumed(client));
	hf_attach_client_destroy(client);
	close(userfault);
	rig_stop(&rig);
}

static void an_agent_that_asks_while_its_predecessor_ends_is_served(void **state)
{
	(void)state;
	struct attach_rig rig;
	int userfault;
	rig_start(&rig, PAGES);
	pid_t agent = start_lingering_agent(&rig);
	int socket = raw_connect(&rig);
	json_decref(raw_request(socket, "{\"command\": \"hello\", \"version\": 1}\n"));
	raw_say(socket, "{\"command\": \"userfault\", \"modes\": [\"missing\", \"minor\"]}\n");
	kill_and_wait(agent);
	json_t *answer = raw_answer(socket, &userfault);
	assert_true(json_is_true(json_object_get(json_object_get(answer, "return"), "resumed")));
	assert_true(userfault >= 0);
	json_decref(answer);
	close(userfault);
	close(socket);
	rig_stop(&rig);
}

static void after_release_a_predecessor_may_live_on(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, PAGES);
	pid_t agent = start_lingering_agent(&rig);
	struct hf_attach_client *client = rig_client(&rig);
	assert_int_equal(hf_attach_client_release(client, NULL), 0);
	int userfault = rig_userfault(client, BOTH);
	assert_false(hf_attach_client_resumed(client));
	hf_attach_client_destroy(client);
	close(userfault);
	kill_and_wait(agent);
	rig_stop(&rig);
}

/* Of a case that failed; those that ended well have been waited for. */
static int end_children(void **state)
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

static int reserve(void **state)
{
	(void)state;
	return host_pages_reserve(HUGE_BYTES, 8);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_teardown(a_killed_agents_fault_is_raised_again_for_the_next, end_children),
	    cmocka_unit_test_teardown(pages_stay_missing_through_several_dead_agents, end_children),
	    cmocka_unit_test_teardown(a_page_placed_before_the_fault_is_asked_again_needs_no_fault,
				      end_children),
	    cmocka_unit_test_teardown(an_agent_whose_predecessor_lives_on_is_refused_and_told_which,
				      end_children),
	    cmocka_unit_test_teardown(an_agent_that_asks_while_its_predecessor_ends_is_served, end_children),
	    cmocka_unit_test_teardown(after_release_a_predecessor_may_live_on, end_children),
	};
	return cmocka_run_group_tests(tests, reserve, host_give_back);
}
