/* SPDX-License-Identifier: Apache-2.0 */
/* Whatever a VMM says, the attach client answers with an error in time, and keeps no descriptor of it. */
#include "tests/unit/hugemem/fake_vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/ramblock.h"
#include "hugemem/attach_client.h"

#define PAGE	     2097152
#define TIMEOUT_MS   300u
#define LONG_TIME_MS 20000u

#define REGION(name, address, size, offset, page, shared)                                                    \
	"{\"idstr\":\"" name "\",\"base_host_virt_addr\":" #address ",\"size\":" #size                       \
	",\"offset\":" #offset ",\"page_size\":" #page ",\"page_size_kib\":" #page ",\"shared\":" #shared    \
	"}"
#define HELLO(regions, fds)                                                                                  \
	"{\"return\":{\"version\":1,\"vm_name\":\"vm\",\"pid\":1,\"regions\":[" regions "]},\"fds\":" #fds   \
	"}\n"
#define PRIVATE_OK REGION("ram0", 2097152, 4194304, 0, 2097152, false)
#define SHARED_OK  REGION("ram0", 2097152, 4194304, 0, 2097152, true)

// Address space only: no huge page is ever touched, so none is needed.
static int ram_file(unsigned pages)
{
	int fd = memfd_create("hf-ram", MFD_CLOEXEC | MFD_HUGETLB | (21u << 26));
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)pages * PAGE), 0);
	return fd;
}

static int read_only(int fd)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int reopened = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(reopened >= 0);
	return reopened;
}

static void expect_refused(const struct fake_answer *answer, uint32_t timeout_ms, int result, const char *why)
{
	struct fake_vmm vmm = {.answers = {*answer}, .answer_count = 1};
	struct hf_attach_client *client = NULL;
	struct hf_err err = HF_ERR_INIT;
	fake_vmm_start(&vmm);
	unsigned before = open_descriptors();
	int got = hf_attach_client_connect_timeout(&client, vmm.path, timeout_ms, &err);
	bool kept_socket_path = strstr(err.text, vmm.path) != NULL;
	fake_vmm_stop(&vmm);
	if (got != result || !strstr(err.text, why))
		fail_msg("wanted %d '%s', got %d '%s' for: %.200s", result, why, got, err.text,
			 answer->bytes ? answer->bytes : "(silence)");
	assert_null(client);
	assert_true(kept_socket_path);
	assert_true(open_descriptors() < before); // at least the listener is gone, and nothing has come
}

static void expect_text(const char *bytes, int result, const char *why)
{
	expect_refused(&(struct fake_answer){.bytes = bytes}, LONG_TIME_MS, result, why);
}

static void expect_with_fd(const char *bytes, int fd, const char *why)
{
	expect_refused(&(struct fake_answer){.bytes = bytes, .fds = {fd}, .fd_count = 1}, LONG_TIME_MS,
		       -EPROTO, why);
	close(fd);
}

static void good_answers_are_accepted(void **state)
{
	(void)state;
	int fd = ram_file(2);
	struct fake_vmm vmm = {
	    .answers = {{.bytes =
			     HELLO(SHARED_OK ", " REGION("b\\u00e9", 8388608, 2097152, 0, 2097152, false), 1),
			 .fds = {fd},
			 .fd_count = 1}},
	    .answer_count = 1};
	struct hf_attach_client *client;
	struct hf_err err = HF_ERR_INIT;
	fake_vmm_start(&vmm);
	int result = hf_attach_client_connect(&client, vmm.path, &err);
	fake_vmm_stop(&vmm);
	assert_string_equal(err.text, "");
	assert_int_equal(result, 0);
	uint32_t count;
	const struct hf_attached_region *regions = hf_attach_client_regions(client, &count);
	assert_int_equal(count, 2);
	assert_string_equal(regions[0].idstr, "ram0");
	assert_int_equal(regions[0].vmm_address, 2097152);
	assert_int_equal(regions[0].length_bytes, 2 * PAGE);
	assert_true(regions[0].fd >= 0 && fcntl(regions[0].fd, F_GETFD) == FD_CLOEXEC);
	assert_string_equal(regions[1].idstr, "b\u00e9");
	assert_int_equal(regions[1].fd, -1);
	assert_string_equal(hf_attach_client_vm_name(client), "vm");
	assert_int_equal(hf_attach_client_pid(client), getpid());
	hf_attach_client_destroy(client);
	close(fd);
}

static void silence_ends_in_a_timeout(void **state)
{
	(void)state;
	expect_refused(&(struct fake_answer){.bytes = NULL}, TIMEOUT_MS, -ETIMEDOUT, "does not answer");
}

static void half_an_answer_ends_in_a_timeout(void **state)
{
	(void)state;
	struct fake_vmm vmm = {.answers = {{.bytes = "{\"return\":"}, {.bytes = NULL}}, .answer_count = 2};
	struct hf_attach_client *client;
	fake_vmm_start(&vmm);
	int result = hf_attach_client_connect_timeout(&client, vmm.path, TIMEOUT_MS, NULL);
	fake_vmm_stop(&vmm);
	assert_int_equal(result, -ETIMEDOUT);
}

static void a_closed_connection_is_said_to_be_one(void **state)
{
	(void)state;
	struct fake_vmm vmm = {.answer_count = 0};
	struct hf_attach_client *client;
	struct hf_err err = HF_ERR_INIT;
	fake_vmm_start(&vmm);
	int result = hf_attach_client_connect(&client, vmm.path, &err);
	fake_vmm_stop(&vmm);
	assert_int_equal(result, -ECONNRESET);
	assert_non_null(strstr(err.text, "closed the connection"));
}

static void nobody_at_the_path_is_said_so(void **state)
{
	(void)state;
	struct hf_attach_client *client;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_attach_client_connect(&client, "/tmp/hf-nobody-is-here", &err), -ENOENT);
	assert_non_null(strstr(err.text, "/tmp/hf-nobody-is-here"));
	char path[200];
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(hf_attach_client_connect(&client, path, NULL), -ENAMETOOLONG);
	assert_int_equal(hf_attach_client_connect(&client, "", NULL), -ENAMETOOLONG);
}

static void answers_that_are_no_single_json_object_are_refused(void **state)
{
	(void)state;
	expect_text("hello\n", -EPROTO, "no JSON object");
	expect_text("\n", -EPROTO, "no JSON object");
	expect_text("[]\n", -EPROTO, "no JSON object");
	expect_text("{\"fds\":0,\"fds\":1}\n", -EPROTO, "no JSON object");
	expect_text(HELLO(PRIVATE_OK, 0) "{}\n", -EPROTO, "more than the answer");
	expect_refused(&(struct fake_answer){.bytes = "{}\0\n", .length = 4}, LONG_TIME_MS, -EPROTO,
		       "no JSON object");
}

static void endless_and_deep_answers_are_refused(void **state)
{
	(void)state;
	size_t length = 3u << 20;
	char *bytes = malloc(length);
	assert_non_null(bytes);
	memset(bytes, ' ', length);
	expect_refused(&(struct fake_answer){.bytes = bytes, .length = length}, LONG_TIME_MS, -EMSGSIZE,
		       "longer");
	memset(bytes, '[', 1000000);
	bytes[999999] = '\n';
	expect_refused(&(struct fake_answer){.bytes = bytes, .length = 1000000}, LONG_TIME_MS, -EPROTO,
		       "no JSON object");
	free(bytes);
}

static void refusals_are_passed_on_by_class_and_made_printable(void **state)
{
	(void)state;
	expect_text("{\"error\":{\"class\":\"busy\",\"desc\":\"one at a time\"}}\n", -EBUSY, "one at a time");
	expect_text("{\"error\":{\"class\":\"refused\",\"desc\":\"no\"}}\n", -EACCES, "refuses: no");
	expect_text("{\"error\":{\"class\":\"new\",\"desc\":\"a\\u001b[2Jb\"}}\n", -EREMOTEIO, "a?[2Jb");
	expect_text("{\"error\":{\"class\":\"busy\"}}\n", -EPROTO, "without class or text");
	expect_text("{\"error\":7}\n", -EPROTO, "without class or text");
}

static void hellos_of_another_form_are_refused(void **state)
{
	(void)state;
	expect_text("{\"return\":[],\"fds\":0}\n", -EPROTO, "lacks 'return'");
	expect_text("{\"return\":{}}\n", -EPROTO, "lacks 'return' or 'fds'");
	expect_text("{\"return\":{},\"fds\":0}\n", -EPROTO, "version");
	expect_text("{\"return\":{\"version\":2},\"fds\":0}\n", -EPROTO, "version");
	expect_text("{\"return\":{\"version\":1},\"fds\":0}\n", -EPROTO, "no name");
	expect_text("{\"return\":{\"version\":1,\"vm_name\":\"a\\nb\"},\"fds\":0}\n", -EPROTO, "no name");
	expect_text("{\"return\":{\"version\":1,\"vm_name\":\"vm\"},\"fds\":0}\n", -ENOENT,
		    "lends no memory");
	expect_text(HELLO("", 0), -ENOENT, "lends no memory");
	expect_text(HELLO("7", 0), -EPROTO, "lacks idstr");
}

static void more_regions_than_allowed_are_refused(void **state)
{
	(void)state;
	char *bytes = malloc(65536);
	assert_non_null(bytes);
	strcpy(bytes, "{\"return\":{\"version\":1,\"vm_name\":\"vm\",\"regions\":[0");
	for (unsigned i = 0; i < HF_RAMBLOCKS_MAX; i++)
		strcat(bytes, ",0");
	strcat(bytes, "]},\"fds\":0}\n");
	expect_text(bytes, -EPROTO, "257 regions");
	free(bytes);
}

static void regions_with_impossible_numbers_are_refused(void **state)
{
	(void)state;
	static const struct {
		const char *regions, *why;
		int result;
	} cases[] = {
	    {HELLO(PRIVATE_OK "," PRIVATE_OK, 0), "two RAM blocks of this name", -EEXIST},
	    {HELLO(REGION("", 2097152, 2097152, 0, 2097152, false), 0), "empty name", -EINVAL},
	    {HELLO(REGION("a\\u0007", 2097152, 2097152, 0, 2097152, false), 0), "control", -EINVAL},
	    {HELLO(REGION("a", 2097153, 2097152, 0, 2097152, false), 0), "no page boundary", -EPROTO},
	    {HELLO(REGION("a", 0, 2097152, 0, 2097152, false), 0), "no page boundary", -EPROTO},
	    {HELLO(REGION("a", 2097152, 2097152, 4096, 2097152, false), 0), "no page boundary", -EPROTO},
	    {HELLO(REGION("a", 2097152, 0, 0, 2097152, false), 0), "'a'", -EINVAL},
	    {HELLO(REGION("a", 2097152, 2097153, 0, 2097152, false), 0), "'a'", -EINVAL},
	    {HELLO(REGION("a", 2097152, 2097152, 0, 0, false), 0), "'a'", -EINVAL},
	    {HELLO(REGION("a", 2097152, 2097152, 0, 3, false), 0), "'a'", -EINVAL},
	    {HELLO(REGION("a", 2097152, 2097152, 0, 4096, false), 0), "no huge pages", -EPROTO},
	    {HELLO(REGION("a", 2097152, 2097152, 0, 4611686018427387904, false), 0), "'a'", -EINVAL},
	    {HELLO(REGION("a", 9223372036852678656, 4194304, 0, 2097152, false), 0), "overflow", -EPROTO},
	    {HELLO(REGION("a", 2097152, 4194304, 9223372036852678656, 2097152, false), 0), "overflow",
	     -EPROTO},
	    {HELLO(REGION("a", -2097152, 2097152, 0, 2097152, false), 0), "lacks", -EPROTO},
	    {HELLO(REGION("a", 2097152, 2097152.5, 0, 2097152, false), 0), "lacks", -EPROTO},
	    {HELLO(REGION("a", "2097152", 2097152, 0, 2097152, false), 0), "lacks", -EPROTO},
	    {HELLO(REGION("a", 2097152, 2097152, 0, 2097152, 1), 0), "lacks", -EPROTO},
	    {HELLO(PRIVATE_OK "," REGION("b", 4194304, 2097152, 0, 2097152, false), 0),
	     "overlaps an earlier region in the VMM's address space", -EPROTO},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		expect_text(cases[i].regions, cases[i].result, cases[i].why);
}

static void a_number_past_64_bits_is_refused(void **state)
{
	(void)state;
	expect_text(HELLO(REGION("a", 2097152, 36893488147419103232, 0, 2097152, false), 0), -EPROTO,
		    "no JSON object");
}

static void descriptors_that_are_not_what_is_named_are_refused(void **state)
{
	(void)state;
	int good = ram_file(2);
	expect_with_fd(HELLO(SHARED_OK, 1), open("/dev/null", O_RDWR | O_CLOEXEC), "no file on hugetlbfs");
	expect_with_fd(HELLO(SHARED_OK, 1), memfd_create("small", MFD_CLOEXEC), "no file on hugetlbfs");
	expect_with_fd(HELLO(SHARED_OK, 1), ram_file(1), "where it needs");
	expect_with_fd(HELLO(REGION("a", 2097152, 2097152, 4194304, 2097152, true), 1), ram_file(2),
		       "where it needs");
	expect_with_fd(HELLO(SHARED_OK, 1), read_only(good), "not open for reading and writing");
	expect_with_fd(HELLO(REGION("a", 1073741824, 1073741824, 0, 1073741824, true), 1), ram_file(512),
		       "page size is 1 GiB as named and 2 MiB in its file");
	close(good);
}

static void another_number_of_descriptors_than_named_is_refused(void **state)
{
	(void)state;
	expect_text(HELLO(SHARED_OK, 1), -EPROTO, "another number of descriptors");
	expect_text(HELLO(SHARED_OK, 0), -EPROTO, "no descriptor is left");
	expect_text(HELLO(SHARED_OK, -1), -EPROTO, "another number of descriptors");
	expect_with_fd(HELLO(SHARED_OK, 0), ram_file(2), "another number of descriptors");
	expect_with_fd(HELLO(PRIVATE_OK, 1), ram_file(2), "1 descriptors came for 0 shared regions");
}

static void two_regions_in_the_same_bytes_of_a_file_are_refused(void **state)
{
	(void)state;
	int fd = ram_file(3);
	struct fake_answer answer = {
	    .bytes = HELLO(SHARED_OK "," REGION("b", 20971520, 4194304, 2097152, 2097152, true), 2),
	    .fds = {fd, fd},
	    .fd_count = 2};
	expect_refused(&answer, LONG_TIME_MS, -EPROTO, "overlaps an earlier region in its file");
	close(fd);
}

static void too_few_free_descriptors_name_the_limit_to_raise(void **state)
{
	(void)state;
	int fd = ram_file(2);
	struct fake_vmm vmm = {
	    .answers = {{.bytes = HELLO(SHARED_OK "," REGION("b", 20971520, 4194304, 0, 2097152, true), 2),
			 .fds = {fd, fd, fd, fd, fd, fd, fd, fd},
			 .fd_count = 8}},
	    .answer_count = 1};
	struct hf_attach_client *client;
	struct hf_err err = HF_ERR_INIT;
	struct rlimit limit, low;
	fake_vmm_start(&vmm);
	int next = dup(fd);
	close(next);
	getrlimit(RLIMIT_NOFILE, &limit);
	// Room for the client's socket, the server's end of it and one more.
	low = (struct rlimit){.rlim_cur = (rlim_t)next + 3, .rlim_max = limit.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	int result = hf_attach_client_connect(&client, vmm.path, &err);
	setrlimit(RLIMIT_NOFILE, &limit);
	fake_vmm_stop(&vmm);
	close(fd);
	assert_int_equal(result, -EMFILE);
	assert_non_null(strstr(err.text, "ulimit -n"));
	assert_int_equal(err.class, HF_ERR_LOCAL);
}

static void expect_bad_userfault(const struct fake_answer *answer, const char *why)
{
	struct fake_vmm vmm = {.answers = {{.bytes = HELLO(PRIVATE_OK, 0)}, *answer}, .answer_count = 2};
	struct hf_attach_client *client;
	struct hf_err err = HF_ERR_INIT;
	int fd = -77;
	fake_vmm_start(&vmm);
	assert_int_equal(hf_attach_client_connect(&client, vmm.path, &err), 0);
	int result = hf_attach_client_userfault(client, HF_USERFAULT_MISSING, 0, &fd, &err);
	int next = hf_attach_client_release(client, NULL);
	fake_vmm_stop(&vmm);
	hf_attach_client_destroy(client);
	assert_int_equal(result, -EPROTO);
	assert_int_equal(fd, -77);
	assert_non_null(strstr(err.text, why));
	// Whatever comes later on this connection can no longer be trusted to be the answer.
	assert_int_equal(next, -ENOTCONN);
}

static void a_userfault_answer_without_a_userfaultfd_is_refused(void **state)
{
	(void)state;
	int event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	unsigned before = open_descriptors();
	expect_bad_userfault(&(struct fake_answer){.bytes = "{\"return\":{\"resumed\":false},\"fds\":1}\n",
						   .fds = {event},
						   .fd_count = 1},
			     "no non-blocking userfaultfd");
	expect_bad_userfault(&(struct fake_answer){.bytes = "{\"return\":{\"resumed\":false},\"fds\":0}\n"},
			     "agreed form");
	expect_bad_userfault(
	    &(struct fake_answer){.bytes = "{\"return\":{},\"fds\":1}\n", .fds = {event}, .fd_count = 1},
	    "agreed form");
	assert_int_equal(open_descriptors(), before);
	close(event);
}

static void impossible_modes_and_features_never_leave_the_client(void **state)
{
	(void)state;
	struct fake_vmm vmm = {.answers = {{.bytes = HELLO(PRIVATE_OK, 0)}}, .answer_count = 1};
	struct hf_attach_client *client;
	struct hf_err err = HF_ERR_INIT;
	int fd;
	fake_vmm_start(&vmm);
	assert_int_equal(hf_attach_client_connect(&client, vmm.path, &err), 0);
	int none = hf_attach_client_userfault(client, 0, 0, &fd, &err);
	int unknown = hf_attach_client_userfault(client, 1 << 7, 0, &fd, &err);
	int feature = hf_attach_client_userfault(client, HF_USERFAULT_MISSING, UINT64_C(1) << 50, &fd, &err);
	hf_attach_client_destroy(client);
	fake_vmm_stop(&vmm);
	assert_int_equal(none, -EINVAL);
	assert_int_equal(unknown, -EINVAL);
	assert_int_equal(feature, -EINVAL);
	assert_non_null(strstr(err.text, "bit 50"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(good_answers_are_accepted),
	    cmocka_unit_test(silence_ends_in_a_timeout),
	    cmocka_unit_test(half_an_answer_ends_in_a_timeout),
	    cmocka_unit_test(a_closed_connection_is_said_to_be_one),
	    cmocka_unit_test(nobody_at_the_path_is_said_so),
	    cmocka_unit_test(answers_that_are_no_single_json_object_are_refused),
	    cmocka_unit_test(endless_and_deep_answers_are_refused),
	    cmocka_unit_test(refusals_are_passed_on_by_class_and_made_printable),
	    cmocka_unit_test(hellos_of_another_form_are_refused),
	    cmocka_unit_test(more_regions_than_allowed_are_refused),
	    cmocka_unit_test(regions_with_impossible_numbers_are_refused),
	    cmocka_unit_test(a_number_past_64_bits_is_refused),
	    cmocka_unit_test(descriptors_that_are_not_what_is_named_are_refused),
	    cmocka_unit_test(another_number_of_descriptors_than_named_is_refused),
	    cmocka_unit_test(two_regions_in_the_same_bytes_of_a_file_are_refused),
	    cmocka_unit_test(too_few_free_descriptors_name_the_limit_to_raise),
	    cmocka_unit_test(a_userfault_answer_without_a_userfaultfd_is_refused),
	    cmocka_unit_test(impossible_modes_and_features_never_leave_the_client),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
