/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever connects to the attach socket: the VMM goes on, and the next good agent is served. */
#include "tests/unit/hugemem/attach_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HELLO	 "{\"command\":\"hello\",\"version\":1}\n"
#define OTHER_ID 65534

static int greeted_agent(const struct attach_rig *rig)
{
	int agent = raw_connect(rig);
	json_t *answer = raw_request(agent, HELLO);
	assert_non_null(json_object_get(answer, "return"));
	json_decref(answer);
	return agent;
}

// The library needs a moment to see that an agent has gone; until then the next one is told "busy".
static bool next_agent_is_served(void *opaque)
{
	const struct attach_rig *rig = opaque;
	struct hf_attach_client *client;
	int result = hf_attach_client_connect(&client, rig->path, NULL);
	if (result == -EBUSY)
		return false;
	assert_int_equal(result, 0);
	int userfault = rig_userfault(client, BOTH);
	assert_int_equal(hf_attach_client_release(client, NULL), 0);
	close(userfault);
	hf_attach_client_destroy(client);
	return true;
}

static void stop_after_next_agent(struct attach_rig *rig)
{
	wait_until(next_agent_is_served, rig, "the next agent to be served");
	rig_stop(rig);
}

static void bad_requests_get_errors_and_the_agent_may_go_on(void **state)
{
	(void)state;
	static const struct {
		const char *text, *class, *why;
	} cases[] = {
	    {"{}\n", "invalid", "needs 'command'"},
	    {"{\"command\":7}\n", "invalid", "needs 'command'"},
	    {"{\"command\":\"reboot\"}\n", "unsupported", "no command 'reboot'"},
	    {"{\"command\":\"\\u001b\\u0007\"}\n", "unsupported", "no command '\?\?'"},
	    {"{\"command\":\"hello\"}\n", "invalid", "integer 'version'"},
	    {"{\"command\":\"hello\",\"version\":\"1\"}\n", "invalid", "integer 'version'"},
	    {"{\"command\":\"hello\",\"version\":9}\n", "unsupported", "version 9"},
	    {"{\"command\":\"userfault\"}\n", "invalid", "needs 'modes'"},
	    {"{\"command\":\"userfault\",\"modes\":[]}\n", "invalid", "needs 'modes'"},
	    {"{\"command\":\"userfault\",\"modes\":\"missing\"}\n", "invalid", "needs 'modes'"},
	    {"{\"command\":\"userfault\",\"modes\":[1]}\n", "invalid", "must hold names"},
	    {"{\"command\":\"userfault\",\"modes\":[\"magic\"]}\n", "unsupported", "no mode 'magic'"},
	    {"{\"command\":\"userfault\",\"modes\":[\"missing\"],\"features\":7}\n", "invalid", "'features'"},
	    {"{\"command\":\"userfault\",\"modes\":[\"missing\"],\"features\":[null]}\n", "invalid",
	     "must hold names"},
	    {"{\"command\":\"userfault\",\"modes\":[\"missing\"],\"features\":[\"teleport\"]}\n",
	     "unsupported", "no feature 'teleport'"},
	    {"{\"command\":\"userfault\",\"modes\":[\"missing\"],\"features\":[\"event-remove\"]}\n",
	     "unsupported", "'event-remove' is not granted"},
	    {"{\"command\":\"userfault\",\"modes\":[\"missing\"],\"features\":[\"sigbus\"]}\n", "unsupported",
	     "'sigbus' is not granted"},
	};
	struct attach_rig rig;
	rig_start(&rig, 1);
	int agent = greeted_agent(&rig);
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		raw_expect_error(agent, cases[i].text, cases[i].class, cases[i].why);
	json_t *answer = raw_request(agent, "{\"command\":\"release\"}\n"); // nothing registered: fine
	assert_non_null(json_object_get(answer, "return"));
	json_decref(answer);
	assert_false(hf_attach_armed(rig.attach));
	close(agent);
	stop_after_next_agent(&rig);
}

static void quoted_text_cut_inside_a_character_is_still_answered(void **state)
{
	(void)state;
	struct attach_rig rig;
	char request[200] = "{\"command\":\"a";
	for (unsigned i = 0; i < 40; i++)
		strcat(request, "\u00e9");
	strcat(request, "\"}\n");
	rig_start(&rig, 1);
	int agent = greeted_agent(&rig);
	raw_expect_error(agent, request, "unsupported", "no command 'a\u00e9");
	close(agent);
	stop_after_next_agent(&rig);
}

static void nothing_is_done_before_hello(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, 1);
	int agent = raw_connect(&rig);
	raw_expect_error(agent, "{\"command\":\"userfault\",\"modes\":[\"missing\"]}\n", "invalid",
			 "'hello' first");
	raw_expect_error(agent, "{\"command\":\"release\"}\n", "invalid", "'hello' first");
	close(agent);
	// And a former agent's hello does not count.
	close(greeted_agent(&rig));
	wait_until(next_agent_is_served, &rig, "the next agent");
	agent = raw_connect(&rig);
	json_t *answer = raw_request(agent, "{\"command\":\"release\"}\n");
	assert_non_null(json_object_get(answer, "error"));
	json_decref(answer);
	close(agent);
	stop_after_next_agent(&rig);
}

static void lines_that_are_no_object_end_the_connection(void **state)
{
	(void)state;
	static const char *const lines[] = {"GET / HTTP/1.0\n",
					    "\n",
					    "[]\n",
					    "{\"command\":\n",
					    "{\"command\":\"hello\",\"command\":\"release\"}\n",
					    "\xff\xfe\n"};
	struct attach_rig rig;
	rig_start(&rig, 1);
	for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		int agent = greeted_agent(&rig);
		raw_expect_error(agent, lines[i], "invalid", "one JSON object");
		raw_expect_closed(agent);
	}
	stop_after_next_agent(&rig);
}

static void a_line_without_end_is_cut_off(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, 1);
	int agent = raw_connect(&rig);
	char *bytes = malloc(65536);
	assert_non_null(bytes);
	memset(bytes, '[', 65536);
	for (size_t done = 0; done < 65536;) {
		ssize_t n = send(agent, bytes + done, 65536 - done, MSG_NOSIGNAL);
		assert_true(n > 0);
		done += (size_t)n;
	}
	free(bytes);
	json_t *answer = raw_answer(agent, NULL);
	assert_non_null(json_object_get(answer, "error"));
	json_decref(answer);
	raw_expect_closed(agent);
	stop_after_next_agent(&rig);
}

static void half_closed_and_half_said_agents_make_room(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, 1);
	int agent = raw_connect(&rig);
	raw_say(agent, HELLO "{\"command\":");
	shutdown(agent, SHUT_WR);
	json_t *answer = raw_answer(agent, NULL); // what was asked in full is answered
	assert_non_null(json_object_get(answer, "return"));
	json_decref(answer);
	raw_expect_closed(agent);
	stop_after_next_agent(&rig);
}

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

// Fills both directions: the library is then waiting to send, and must still be stoppable at once.
static void an_agent_that_asks_and_never_reads_does_not_hold_the_vmm(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, 1);
	int agent = raw_connect(&rig);
	struct timeval limit = {.tv_usec = 300000};
	setsockopt(agent, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	while (send(agent, HELLO, strlen(HELLO), MSG_NOSIGNAL) > 0)
		;
	assert_int_equal(errno, EAGAIN); // blocked, not dropped
	uint64_t start_ms = now_ms();
	hf_attach_destroy(rig.attach);
	rig.attach = NULL;
	assert_true(now_ms() - start_ms < 5000); // the library's own limit is 10 s
	close(agent);
	rig_stop(&rig);
}

static void descriptors_an_agent_sends_are_closed(void **state)
{
	(void)state;
	struct attach_rig rig;
	int ends[2];
	rig_start(&rig, 1);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	int agent = raw_connect(&rig);
	union {
		char bytes[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {0};
	struct iovec vector = {HELLO, strlen(HELLO)};
	struct msghdr message = {.msg_iov = &vector,
				 .msg_iovlen = 1,
				 .msg_control = control.bytes,
				 .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	*header = (struct cmsghdr){
	    .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
	memcpy(CMSG_DATA(header), &ends[1], sizeof(int));
	assert_int_equal(sendmsg(agent, &message, MSG_NOSIGNAL), strlen(HELLO));
	close(ends[1]);
	json_t *answer = raw_answer(agent, NULL);
	assert_non_null(json_object_get(answer, "return"));
	json_decref(answer);
	char byte;
	assert_int_equal(read(ends[0], &byte, 1), 0); // end of file: nobody holds the other end
	close(ends[0]);
	close(agent);
	stop_after_next_agent(&rig);
}

static void a_second_agent_is_told_that_there_is_one(void **state)
{
	(void)state;
	struct attach_rig rig;
	struct hf_attach_client *second;
	struct hf_err err = HF_ERR_INIT;
	rig_start(&rig, 1);
	struct hf_attach_client *first = rig_client(&rig);
	assert_int_equal(hf_attach_client_connect(&second, rig.path, &err), -EBUSY);
	assert_non_null(strstr(err.text, "another agent is connected"));
	close(rig_userfault(first, BOTH)); // the first is not disturbed
	assert_int_equal(hf_attach_client_release(first, NULL), 0);
	hf_attach_client_destroy(first);
	stop_after_next_agent(&rig);
}

static int connect_as_other_user(const struct attach_rig *rig)
{
	if (setgid(OTHER_ID) || setuid(OTHER_ID))
		return 9;
	struct hf_attach_client *client;
	struct hf_err err = HF_ERR_INIT;
	int result = hf_attach_client_connect(&client, rig->path, &err);
	return result == -EACCES ? strstr(err.text, "must be root") ? 1 : 2 : 3;
}

static int status_of(pid_t child)
{
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

static void other_users_are_refused_by_mode_and_by_credentials(void **state)
{
	(void)state;
	struct attach_rig rig;
	struct stat made;
	rig_start(&rig, 1);
	assert_int_equal(stat(rig.path, &made), 0);
	assert_int_equal(made.st_mode & 0777, 0600);
	assert_int_equal(chmod(rig.directory, 0755), 0);
	fflush(NULL);
	pid_t child = fork();
	if (child == 0)
		_exit(connect_as_other_user(&rig));
	assert_int_equal(status_of(child), 2); // the file's mode
	assert_int_equal(chmod(rig.path, 0666), 0);
	child = fork();
	if (child == 0)
		_exit(connect_as_other_user(&rig));
	assert_int_equal(status_of(child), 1); // the library
	stop_after_next_agent(&rig);
}

// Listens until the pipe says it may go; as another user, so it may be no VMM of ours.
static void impostor(const char *path, int ready, int go)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	strcpy(address.sun_path, path);
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (setgid(OTHER_ID) || setuid(OTHER_ID) ||
	    bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 1))
		_exit(1);
	char byte = 0;
	if (write(ready, &byte, 1) == 1 && read(go, &byte, 1) >= 0)
		_exit(0);
	_exit(1);
}

static void the_client_refuses_a_vmm_of_another_user(void **state)
{
	(void)state;
	char directory[] = "/tmp/hf-impostor-XXXXXX", path[64], byte;
	assert_non_null(mkdtemp(directory));
	assert_int_equal(chmod(directory, 0777), 0);
	snprintf(path, sizeof(path), "%s/attach", directory);
	int ready[2], go[2];
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	assert_int_equal(pipe2(go, O_CLOEXEC), 0);
	fflush(NULL);
	pid_t child = fork();
	if (child == 0) {
		close(go[1]);
		impostor(path, ready[1], go[0]);
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &byte, 1), 1);
	struct hf_attach_client *client;
	struct hf_err err = HF_ERR_INIT;
	int result = hf_attach_client_connect(&client, path, &err);
	close(go[1]);
	assert_int_equal(status_of(child), 0);
	close(go[0]);
	close(ready[0]);
	unlink(path);
	rmdir(directory);
	assert_int_equal(result, -EACCES);
	assert_non_null(strstr(err.text, "uid 65534"));
}

/* ---- the socket's path ---- */

static void a_stale_socket_is_replaced(void **state)
{
	(void)state;
	struct attach_rig rig;
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	rig_memory(&rig, 1, false);
	strcpy(address.sun_path, rig.path);
	int stale = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(stale, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(stale, 1), 0);
	close(stale);
	rig_library(&rig);
	stop_after_next_agent(&rig);
}

static int start_another(struct attach_rig *rig, struct hf_err *err)
{
	struct hf_attach *second;
	const struct hf_attach_options options = {.socket_path = rig->path, .vm_name = "second"};
	const struct hf_attach_region region = rig_region(rig);
	assert_int_equal(hf_attach_create(&second, &options, NULL), 0);
	assert_int_equal(hf_attach_add(second, &region, NULL), 0);
	int result = hf_attach_start(second, err);
	hf_attach_destroy(second);
	return result;
}

static void a_live_socket_is_left_alone(void **state)
{
	(void)state;
	struct attach_rig rig;
	struct hf_err err = HF_ERR_INIT;
	rig_start(&rig, 1);
	assert_int_equal(start_another(&rig, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, rig.path));
	stop_after_next_agent(&rig);
}

static void a_file_that_is_no_socket_is_left_alone(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_memory(&rig, 1, false);
	int file = open(rig.path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(file >= 0);
	close(file);
	assert_int_equal(start_another(&rig, NULL), -EEXIST);
	assert_int_equal(unlink(rig.path), 0);
	rig_stop(&rig);
}

static void destroy_leaves_a_socket_that_took_the_name(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, 1);
	assert_int_equal(unlink(rig.path), 0);
	int file = open(rig.path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(file >= 0);
	close(file);
	hf_attach_destroy(rig.attach);
	rig.attach = NULL;
	assert_int_equal(unlink(rig.path), 0);
	rig_stop(&rig);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(bad_requests_get_errors_and_the_agent_may_go_on),
	    cmocka_unit_test(quoted_text_cut_inside_a_character_is_still_answered),
	    cmocka_unit_test(nothing_is_done_before_hello),
	    cmocka_unit_test(lines_that_are_no_object_end_the_connection),
	    cmocka_unit_test(a_line_without_end_is_cut_off),
	    cmocka_unit_test(half_closed_and_half_said_agents_make_room),
	    cmocka_unit_test(an_agent_that_asks_and_never_reads_does_not_hold_the_vmm),
	    cmocka_unit_test(descriptors_an_agent_sends_are_closed),
	    cmocka_unit_test(a_second_agent_is_told_that_there_is_one),
	    cmocka_unit_test(other_users_are_refused_by_mode_and_by_credentials),
	    cmocka_unit_test(the_client_refuses_a_vmm_of_another_user),
	    cmocka_unit_test(a_stale_socket_is_replaced),
	    cmocka_unit_test(a_live_socket_is_left_alone),
	    cmocka_unit_test(a_file_that_is_no_socket_is_left_alone),
	    cmocka_unit_test(destroy_leaves_a_socket_that_took_the_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
