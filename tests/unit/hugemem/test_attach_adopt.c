/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VMM that is stopped, and the next agent (the test), which takes over from the one that was killed without
 * a step of the VMM's.
 *
 *     VMM                     agent 1                 test (agent 2)
 *     attach, wait armed
 *                             userfault
 *     touch page 1 (blocks)   reads the fault
 *                             killed
 *     stopped                                         adopts, fills page 1
 *     stopped still
 *     goes on, reads 42                               joins
 */
#include "tests/unit/hugemem/attach_scene.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugemem/agent_process.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/process_stat.h"
#include "hugemem/residency.h"
#include "hugemem/uffd_open.h"
#include "hugemem/userfault.h"
#include "tests/unit/hugemem/fake_vmm.h"

#define JOIN_MS	      10000u
#define BOTH_FEATURES (UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS)

static int denied_with; /* the error of pidfd_getfd(), once it is not 0 */

int __real_pidfd_getfd(int pidfd, int fd, unsigned flags);
int __wrap_pidfd_getfd(int pidfd, int fd, unsigned flags);

int __wrap_pidfd_getfd(int pidfd, int fd, unsigned flags)
{
	if (!denied_with)
		return __real_pidfd_getfd(pidfd, fd, flags);
	errno = denied_with;
	return -1;
}

static char state_of(pid_t pid)
{
	struct hf_process_stat stat;
	assert_int_equal(hf_process_stat(pid, &stat), 0);
	return stat.state;
}

/* As the record would have it. */
static struct hf_attached_region known_region(const struct attach_rig *rig)
{
	return (struct hf_attached_region){.idstr = "block 0",
					   .vmm_address = (uintptr_t)rig->vmm,
					   .length_bytes = rig->pages * HUGE_BYTES,
					   .page_size_bytes = HUGE_BYTES,
					   .fd = -1};
}

/* The agent is dead and the VMM stopped. */
static void stop_scene(struct scene *scene, uint64_t features, void (*enter)(struct attach_rig *rig))
{
	int status;
	start_scene(scene, features, enter);
	kill_and_wait(scene->agent);
	assert_int_equal(kill(scene->vmm, SIGSTOP), 0);
	assert_int_equal(waitpid(scene->vmm, &status, WUNTRACED), scene->vmm);
	assert_true(WIFSTOPPED(status));
}

static int adopt_region(const struct scene *scene, const struct hf_attached_region *region,
			struct hf_attach_client **client, struct hf_err *err)
{
	return hf_attach_client_adopt(client, scene->rig.path, scene->vmm, "victim", region, 1, err);
}

static struct hf_attach_client *adopt(const struct scene *scene)
{
	const struct hf_attached_region region = known_region(&scene->rig);
	struct hf_attach_client *client;
	struct hf_err err = HF_ERR_INIT;
	if (adopt_region(scene, &region, &client, &err))
		fail_msg("%s", err.text);
	return client;
}

/* Page 1 is placed while the VMM is stopped, and is what it reads when it goes on. */
static void place_and_go_on(struct scene *scene, int userfault)
{
	place(scene, userfault, 1, 42);
	assert_int_equal(state_of(scene->vmm), 'T');
	assert_true(is_silent(scene->from_vmm));
	assert_int_equal(kill(scene->vmm, SIGCONT), 0);
	assert_int_equal(wait_byte(scene->from_vmm), 42);
}

static void refused(struct scene *scene, const struct hf_attached_region *region, int result, const char *why)
{
	struct hf_attach_client *client = NULL;
	struct hf_err err = HF_ERR_INIT;
	unsigned before = open_descriptors();
	assert_int_equal(adopt_region(scene, region, &client, &err), result);
	assert_null(client);
	if (!strstr(err.text, why))
		fail_msg("%s", err.text);
	assert_int_equal(open_descriptors(), before);
	assert_int_equal(state_of(scene->vmm), 'T');
}

/* The VMM has been refused, and serves the next one as ever. */
static void serve_and_end(struct scene *scene)
{
	assert_int_equal(kill(scene->vmm, SIGCONT), 0);
	struct hf_attach_client *client = rig_client(&scene->rig);
	struct hf_err err = HF_ERR_INIT;
	int userfault;
	if (hf_attach_client_userfault(client, BOTH, 0, &userfault, &err))
		fail_msg("%s", err.text);
	assert_true(hf_attach_client_resumed(client));
	place(scene, userfault, 1, 7);
	assert_int_equal(wait_byte(scene->from_vmm), 7);
	hf_attach_client_destroy(client);
	close(userfault);
	end_scene(scene);
}

/* ---- cases ---- */

static void a_stopped_vmms_memory_is_taken_over_as_it_is(void **state)
{
	(void)state;
	struct scene scene;
	uint32_t count = 0;
	stop_scene(&scene, UFFD_FEATURE_THREAD_ID, NULL);
	struct hf_attach_client *client = adopt(&scene);
	assert_int_equal(hf_attach_client_pid(client), scene.vmm);
	const struct hf_attached_region *regions = hf_attach_client_regions(client, &count);
	assert_int_equal(count, 1);
	assert_int_equal(regions->vmm_address, (uintptr_t)scene.rig.vmm);
	assert_true(regions->fd >= 0);
	int userfault = rig_userfault(client, BOTH);
	assert_true(hf_attach_client_resumed(client));
	place_and_go_on(&scene, userfault);
	assert_int_equal(hf_attach_client_join(client, JOIN_MS, NULL), 0);
	assert_int_equal(hf_attach_client_join(client, JOIN_MS, NULL), 0); // once is enough
	assert_int_equal(hf_attach_client_release(client, NULL), 0);
	assert_int_equal(hf_userfault_wake(userfault, (uintptr_t)scene.rig.vmm, HUGE_BYTES), 0);
	hf_attach_client_destroy(client);
	close(userfault);
	end_scene(&scene);
}

static bool is_registered(pid_t pid, const uint8_t *address)
{
	struct hf_vmm_mappings mappings = {0};
	bool waits = false;
	assert_int_equal(hf_vmm_mappings_load(pid, &mappings, NULL), 0);
	for (size_t i = 0; i < mappings.count; i++)
		if (mappings.list[i].start == (uintptr_t)address)
			waits = mappings.list[i].waits_for_pages;
	hf_vmm_mappings_free(&mappings);
	return waits;
}

static void release_that_was_not_joined_before_is_told_to_the_library(void **state)
{
	(void)state;
	struct scene scene;
	stop_scene(&scene, UFFD_FEATURE_THREAD_ID, NULL);
	struct hf_attach_client *client = adopt(&scene);
	int userfault = rig_userfault(client, BOTH);
	place_and_go_on(&scene, userfault);
	assert_true(is_registered(scene.vmm, scene.rig.vmm));
	assert_int_equal(hf_attach_client_release(client, NULL), 0);
	assert_false(is_registered(scene.vmm, scene.rig.vmm));
	hf_attach_client_destroy(client);
	close(userfault);
	end_scene(&scene);
}

static void who_has_joined_is_the_one_whose_end_is_waited_for(void **state)
{
	(void)state;
	struct scene scene;
	int status;
	stop_scene(&scene, UFFD_FEATURE_THREAD_ID, NULL);
	struct hf_attach_client *client = adopt(&scene);
	int userfault = rig_userfault(client, BOTH);
	place_and_go_on(&scene, userfault);
	assert_int_equal(hf_attach_client_join(client, JOIN_MS, NULL), 0);
	hf_attach_client_destroy(client);
	pid_t other = fork_process();
	if (other == 0) {
		int fd;
		struct hf_attach_client *next;
		if (hf_attach_client_connect(&next, scene.rig.path, NULL))
			_exit(1);
		_exit(hf_attach_client_userfault(next, BOTH, 0, &fd, NULL) == -EBUSY ? 0 : 2);
	}
	assert_int_equal(waitpid(other, &status, 0), other);
	assert_int_equal(status, 0);
	close(userfault);
	end_scene(&scene);
}

/* In the VMM, before the library makes its own: numbers that come first. */
static void have_other_userfaultfds(struct attach_rig *rig)
{
	int fd, of_nothing;
	uint8_t *other = ram_map(ram_file_anonymous(HUGE_BYTES, 1), HUGE_BYTES, false);
	(void)rig;
	if (hf_uffd_open(&of_nothing, 0, NULL) || hf_uffd_open(&fd, UFFD_FEATURE_MISSING_HUGETLBFS, NULL) ||
	    hf_userfault_register(fd, (uintptr_t)other, HUGE_BYTES, UFFDIO_REGISTER_MODE_MISSING))
		_exit(9);
}

static void of_several_userfaultfds_the_one_that_has_the_memory_is_taken(void **state)
{
	(void)state;
	struct scene scene;
	stop_scene(&scene, UFFD_FEATURE_THREAD_ID, have_other_userfaultfds);
	struct hf_attach_client *client = adopt(&scene);
	int userfault = rig_userfault(client, BOTH);
	place_and_go_on(&scene, userfault);
	hf_attach_client_destroy(client);
	close(userfault);
	end_scene(&scene);
}

static void where_one_of_another_process_may_be_it_none_is_taken(void **state)
{
	(void)state;
	struct scene scene;
	int parents;
	assert_int_equal(hf_uffd_open(&parents, BOTH_FEATURES, NULL), 0); // inherited by all
	stop_scene(&scene, 0, NULL);
	const struct hf_attached_region region = known_region(&scene.rig);
	refused(&scene, &region, -ENOTUNIQ, "several userfaultfds");
	assert_false(is_registered(getpid(), scene.rig.vmm));
	close(parents);
	serve_and_end(&scene);
}

/* The first descriptor of the RAM file that is found may only be read. */
static void have_read_only_file(struct attach_rig *rig)
{
	char path[32];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", rig->fd);
	int fd = open(path, O_RDONLY);
	if (fd < 0 || dup2(fd, rig->fd) < 0)
		_exit(9);
}

static void a_descriptor_of_the_file_that_is_only_read_is_not_taken(void **state)
{
	(void)state;
	struct scene scene;
	uint32_t count;
	stop_scene(&scene, UFFD_FEATURE_THREAD_ID, have_read_only_file);
	struct hf_attach_client *client = adopt(&scene);
	assert_int_equal(fcntl(hf_attach_client_regions(client, &count)->fd, F_GETFL) & O_ACCMODE, O_RDWR);
	int userfault = rig_userfault(client, BOTH);
	place_and_go_on(&scene, userfault);
	hf_attach_client_destroy(client);
	close(userfault);
	end_scene(&scene);
}

static void modes_and_features_that_it_has_not_are_refused(void **state)
{
	(void)state;
	struct scene scene;
	struct hf_err err = HF_ERR_INIT;
	int userfault = -1;
	stop_scene(&scene, 0, NULL);
	struct hf_attach_client *client = adopt(&scene);
	assert_int_equal(hf_attach_client_userfault(client, BOTH, UFFD_FEATURE_THREAD_ID, &userfault, &err),
			 -EINVAL);
	assert_int_equal(hf_attach_client_userfault(client, HF_USERFAULT_MISSING, 0, &userfault, &err),
			 -EINVAL);
	assert_int_equal(userfault, -1);
	assert_int_equal(hf_attach_client_userfault(client, BOTH, 0, &userfault, &err), 0);
	place_and_go_on(&scene, userfault);
	hf_attach_client_destroy(client);
	close(userfault);
	end_scene(&scene);
}

static void what_is_not_as_the_record_says_is_refused(void **state)
{
	(void)state;
	struct scene scene;
	stop_scene(&scene, 0, NULL);
	struct hf_attached_region region = known_region(&scene.rig);
	region.vmm_address = 1ull << 40; // nothing, or a sanitizer's
	refused(&scene, &region, -ESTALE, "region 'block 0'");
	region = known_region(&scene.rig);
	region.vmm_address -= HUGE_BYTES;
	refused(&scene, &region, -ESTALE, "region 'block 0'");
	region = known_region(&scene.rig);
	region.fd_offset_bytes = HUGE_BYTES;
	refused(&scene, &region, -EPROTO, "where it needs");
	region = known_region(&scene.rig);
	region.page_size_bytes = 2 * HUGE_BYTES;
	refused(&scene, &region, -EPROTO, "region 'block 0'");
	serve_and_end(&scene);
}

static void without_the_right_or_the_call_nothing_is_touched(void **state)
{
	(void)state;
	struct scene scene;
	stop_scene(&scene, 0, NULL);
	const struct hf_attached_region region = known_region(&scene.rig);
	for (int i = 0; i < 2; i++) {
		denied_with = i ? ENOSYS : EPERM;
		refused(&scene, &region, -denied_with, "pidfd_getfd");
	}
	denied_with = 0;
	serve_and_end(&scene);
}

static void memory_that_nobody_has_registered_is_refused(void **state)
{
	(void)state;
	struct scene scene = {.vmm = getpid()};
	struct hf_attach_client *client;
	rig_memory(&scene.rig, SCENE_PAGES, false);
	const struct hf_attached_region region = known_region(&scene.rig);
	assert_int_equal(adopt_region(&scene, &region, &client, NULL), -ESTALE);
	assert_false(is_registered(getpid(), scene.rig.vmm));
	rig_stop(&scene.rig);
}

static void a_process_that_was_noted_is_found_while_it_is_that_one(void **state)
{
	(void)state;
	struct hf_process_stat stat;
	struct hf_agent_process process = HF_AGENT_PROCESS_NONE;
	pid_t child = fork_process();
	if (child == 0)
		for (;;)
			pause();
	assert_int_equal(hf_process_stat(child, &stat), 0);
	assert_int_equal(hf_agent_process_find(child, stat.start_ticks + 1, &process), -ESRCH);
	assert_int_equal(process.fd, -1);
	assert_int_equal(hf_agent_process_find(child, stat.start_ticks, &process), 0);
	assert_false(hf_agent_process_wait_gone(&process, 0, -1));
	kill(child, SIGKILL);
	assert_true(hf_agent_process_wait_gone(&process, JOIN_MS, -1));
	hf_agent_process_close(&process);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(hf_agent_process_find(child, stat.start_ticks, &process), -ESRCH);
}

static int reserve(void **state)
{
	(void)state;
	return host_pages_reserve(HUGE_BYTES, 8);
}

static int clean_up(void **state)
{
	denied_with = 0;
	return end_children(state);
}

#define TEST(name) cmocka_unit_test_teardown(name, clean_up)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(a_stopped_vmms_memory_is_taken_over_as_it_is),
	    TEST(release_that_was_not_joined_before_is_told_to_the_library),
	    TEST(who_has_joined_is_the_one_whose_end_is_waited_for),
	    TEST(of_several_userfaultfds_the_one_that_has_the_memory_is_taken),
	    TEST(where_one_of_another_process_may_be_it_none_is_taken),
	    TEST(a_descriptor_of_the_file_that_is_only_read_is_not_taken),
	    TEST(modes_and_features_that_it_has_not_are_refused),
	    TEST(what_is_not_as_the_record_says_is_refused),
	    TEST(without_the_right_or_the_call_nothing_is_touched),
	    TEST(memory_that_nobody_has_registered_is_refused),
	    TEST(a_process_that_was_noted_is_found_while_it_is_that_one),
	};
	return cmocka_run_group_tests(tests, reserve, host_give_back);
}
