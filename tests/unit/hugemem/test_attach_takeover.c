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
#include "tests/unit/hugemem/attach_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hugemem/kernel_compat.h"

static void a_killed_agents_fault_is_raised_again_for_the_next(void **state)
{
	(void)state;
	struct scene scene;
	start_scene(&scene, UFFD_FEATURE_THREAD_ID, NULL);
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
	start_scene(&scene, 0, NULL);
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
	start_scene(&scene, 0, NULL);
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
	rig_start(&rig, SCENE_PAGES);
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
	rig_start(&rig, SCENE_PAGES);
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
	rig_start(&rig, SCENE_PAGES);
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
