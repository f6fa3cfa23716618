/* SPDX-License-Identifier: Apache-2.0 */
/* The attach library with a well-meaning agent: regions, modes, faults, roles. */
#include "tests/unit/hugemem/attach_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugemem/kernel_compat.h"
#include "hugemem/userfault.h"

#define PAGES 4u

static void hello_lists_the_regions_under_firecrackers_names(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, PAGES);
	int fd, agent = raw_connect(&rig);
	raw_say(agent, "{\"command\":\"hello\",\"version\":1,\"something\":\"unknown\"}\n");
	json_t *answer = raw_answer(agent, &fd);
	json_int_t version, pid, address, size, offset, page_size, page_size_kib;
	const char *vm_name, *idstr;
	int shared, fds;
	assert_int_equal(json_unpack(answer, "{s:{s:I,s:s,s:I,s:[{s:s,s:I,s:I,s:I,s:I,s:I,s:b}]},s:i}",
				     "return", "version", &version, "vm_name", &vm_name, "pid", &pid,
				     "regions", "idstr", &idstr, "base_host_virt_addr", &address, "size",
				     &size, "offset", &offset, "page_size", &page_size, "page_size_kib",
				     &page_size_kib, "shared", &shared, "fds", &fds),
			 0);
	assert_int_equal(version, 1);
	assert_string_equal(vm_name, "vm under test");
	assert_int_equal(pid, getpid());
	assert_string_equal(idstr, "ram0");
	assert_int_equal(address, (uintptr_t)rig.vmm);
	assert_int_equal(size, PAGES * HUGE_BYTES);
	assert_int_equal(offset, 0);
	assert_int_equal(page_size, HUGE_BYTES);
	assert_int_equal(page_size_kib, HUGE_BYTES);
	assert_true(shared);
	assert_int_equal(fds, 1);
	struct stat sent, ours;
	assert_int_equal(fstat(fd, &sent), 0);
	assert_int_equal(fstat(rig.fd, &ours), 0);
	assert_int_equal(sent.st_ino, ours.st_ino);
	json_decref(answer);
	close(fd);
	close(agent);
	rig_stop(&rig);
}

static void a_fault_reaches_the_agent_and_continue_ends_it(void **state)
{
	(void)state;
	struct attach_rig rig;
	struct toucher toucher = {.write = true};
	rig_start(&rig, PAGES);
	struct hf_attach_client *client = rig_client(&rig);
	int userfault = rig_userfault(client, BOTH);
	assert_false(hf_attach_client_resumed(client));
	toucher_start(&toucher, rig.vmm + 2 * HUGE_BYTES);
	assert_int_equal(next_fault(&rig, userfault), 2);
	memset(rig.alias + 2 * HUGE_BYTES, 41, HUGE_BYTES);
	assert_int_equal(hf_userfault_continue(userfault, (uintptr_t)rig.vmm + 2 * HUGE_BYTES, HUGE_BYTES),
			 0);
	assert_int_equal(toucher_join(&toucher), 41);
	close(userfault);
	hf_attach_client_destroy(client);
	rig_stop(&rig);
}

static void a_page_that_is_half_filled_in_the_alias_stays_hidden(void **state)
{
	(void)state;
	struct attach_rig rig;
	struct toucher toucher = {0};
	rig_start(&rig, PAGES);
	struct hf_attach_client *client = rig_client(&rig);
	int userfault = rig_userfault(client, BOTH);
	memset(rig.alias, 1, HUGE_BYTES / 2);
	toucher_start(&toucher, rig.vmm);
	assert_int_equal(next_fault(&rig, userfault), 0); // a minor fault, not a read
	memset(rig.alias, 9, HUGE_BYTES);
	assert_int_equal(hf_userfault_continue(userfault, (uintptr_t)rig.vmm, HUGE_BYTES), 0);
	assert_int_equal(toucher_join(&toucher), 9);
	close(userfault);
	hf_attach_client_destroy(client);
	rig_stop(&rig);
}

/* The library arms itself after it has answered; when it answers again, it has done so or will not. */
static void register_and_settle(struct hf_attach_client *client, unsigned modes)
{
	close(rig_userfault(client, modes));
	close(rig_userfault(client, modes));
}

static void armed_means_every_region_is_guarded(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, PAGES);
	assert_false(hf_attach_armed(rig.attach));
	assert_int_equal(hf_attach_wait_armed(rig.attach, 20), -ETIMEDOUT);
	struct hf_attach_client *client = rig_client(&rig);
	register_and_settle(client, HF_USERFAULT_WP_ASYNC);
	assert_false(hf_attach_armed(rig.attach));
	assert_int_equal(hf_attach_client_release(client, NULL), 0);
	// Missing faults alone leave half-filled pages of shared memory open to be seen.
	register_and_settle(client, HF_USERFAULT_MISSING);
	assert_false(hf_attach_armed(rig.attach));
	assert_int_equal(hf_attach_client_release(client, NULL), 0);
	close(rig_userfault(client, BOTH));
	assert_int_equal(hf_attach_wait_armed(rig.attach, WAIT_LIMIT_MS), 0);
	assert_true(hf_attach_armed(rig.attach));
	assert_int_equal(hf_attach_client_release(client, NULL), 0);
	assert_false(hf_attach_armed(rig.attach));
	hf_attach_client_destroy(client);
	rig_stop(&rig);
}

static void private_memory_takes_missing_and_refuses_minor_by_name(void **state)
{
	(void)state;
	struct attach_rig rig;
	struct toucher toucher = {0};
	struct hf_err err = HF_ERR_INIT;
	int userfault;
	rig_memory(&rig, PAGES, true);
	rig_library(&rig);
	struct hf_attach_client *client = rig_client(&rig);
	uint32_t count;
	assert_int_equal(hf_attach_client_regions(client, &count)->fd, -1);
	assert_int_equal(hf_attach_client_userfault(client, BOTH, 0, &userfault, &err), -EOPNOTSUPP);
	assert_non_null(strstr(err.text, "region 'ram0' is private memory"));
	userfault = rig_userfault(client, HF_USERFAULT_MISSING);
	assert_int_equal(hf_attach_wait_armed(rig.attach, WAIT_LIMIT_MS), 0);
	toucher_start(&toucher, rig.vmm + HUGE_BYTES);
	assert_int_equal(next_fault(&rig, userfault), 1);
	uint8_t *page = mmap(NULL, HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(page, 5, HUGE_BYTES);
	assert_int_equal(hf_userfault_copy(userfault, (uintptr_t)rig.vmm + HUGE_BYTES, page, HUGE_BYTES), 0);
	assert_int_equal(toucher_join(&toucher), 5);
	munmap(page, HUGE_BYTES);
	close(userfault);
	hf_attach_client_destroy(client);
	rig_stop(&rig);
}

static void descriptors_of_256_regions_arrive_in_order(void **state)
{
	(void)state;
	enum { COUNT = HF_RAMBLOCKS_MAX };
	struct rlimit limit;
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	struct attach_rig rig;
	rig_memory(&rig, COUNT, false);
	const struct hf_attach_options options = {.socket_path = rig.path, .vm_name = "many"};
	assert_int_equal(hf_attach_create(&rig.attach, &options, NULL), 0);
	for (uint64_t i = 0; i < COUNT; i++) {
		char idstr[16];
		snprintf(idstr, sizeof(idstr), "ram%u", (unsigned)i);
		struct hf_attach_region region = rig_region(&rig);
		region.idstr = idstr;
		region.address = rig.vmm + i * HUGE_BYTES;
		region.fd_offset_bytes = i * HUGE_BYTES;
		region.length_bytes = HUGE_BYTES;
		assert_int_equal(hf_attach_add(rig.attach, &region, &rig.err), 0);
	}
	struct hf_attach_region one_more = rig_region(&rig);
	assert_int_equal(hf_attach_add(rig.attach, &one_more, &rig.err), -ENOSPC);
	assert_int_equal(hf_attach_start(rig.attach, &rig.err), 0);
	struct hf_attach_client *client = rig_client(&rig);
	uint32_t count;
	const struct hf_attached_region *regions = hf_attach_client_regions(client, &count);
	assert_int_equal(count, COUNT);
	assert_string_equal(regions[255].idstr, "ram255");
	assert_int_equal(regions[255].fd_offset_bytes, 255 * HUGE_BYTES);
	hf_attach_client_destroy(client);
	rig_stop(&rig);
}

static void registrations_that_guard_pages_are_not_replaced_by_others(void **state)
{
	(void)state;
	struct attach_rig rig;
	struct hf_err err = HF_ERR_INIT;
	int fd = -1;
	rig_start(&rig, PAGES);
	struct hf_attach_client *client = rig_client(&rig);
	int first = rig_userfault(client, BOTH);
	assert_int_equal(hf_attach_client_userfault(client, HF_USERFAULT_WP_ASYNC, 0, &fd, &err), -EINVAL);
	assert_non_null(strstr(err.text, "release"));
	assert_int_equal(hf_attach_client_userfault(client, BOTH, UFFD_FEATURE_EXACT_ADDRESS, &fd, &err),
			 -EINVAL);
	assert_non_null(strstr(err.text, "exact-address"));
	assert_true(hf_attach_armed(rig.attach));
	// The agent's own descriptor is not needed for what follows, nor does it hinder.
	assert_int_equal(hf_attach_client_release(client, &err), 0);
	int second = rig_userfault(client, HF_USERFAULT_WP_ASYNC);
	assert_false(hf_attach_client_resumed(client));
	int third = rig_userfault(client, BOTH);
	assert_false(hf_attach_client_resumed(client));
	int fourth = rig_userfault(client, BOTH);
	assert_true(hf_attach_client_resumed(client));
	close(first);
	close(second);
	close(third);
	close(fourth);
	hf_attach_client_destroy(client);
	rig_stop(&rig);
}

static void write_tracking_sees_the_vmms_writes(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, PAGES);
	memset(rig.vmm, 1, PAGES * HUGE_BYTES);
	struct hf_attach_client *client = rig_client(&rig);
	int userfault = rig_userfault(client, HF_USERFAULT_WP_ASYNC);
	int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	struct page_region found[PAGES];
	struct pm_scan_arg scan = {.size = sizeof(scan),
				   .flags = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
				   .start = (uintptr_t)rig.vmm,
				   .end = (uintptr_t)rig.vmm + PAGES * HUGE_BYTES,
				   .vec = (uintptr_t)found,
				   .vec_len = PAGES,
				   .category_mask = PAGE_IS_WRITTEN,
				   .return_mask = PAGE_IS_WRITTEN};
	assert_int_equal(ioctl(pagemap, PAGEMAP_SCAN, &scan), 1);
	assert_int_equal(ioctl(pagemap, PAGEMAP_SCAN, &scan), 0);
	rig.vmm[3 * HUGE_BYTES + 17] = 2;
	assert_int_equal(ioctl(pagemap, PAGEMAP_SCAN, &scan), 1);
	assert_int_equal(found[0].start, (uintptr_t)rig.vmm + 3 * HUGE_BYTES);
	assert_int_equal(found[0].end, (uintptr_t)rig.vmm + 4 * HUGE_BYTES);
	close(pagemap);
	close(userfault);
	hf_attach_client_destroy(client);
	rig_stop(&rig);
}

static void a_forked_child_does_not_have_the_memory(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, PAGES);
	pid_t child = fork();
	if (child == 0) {
		unsigned char present;
		bool there = mincore(rig.vmm, HUGE_BYTES, &present) == 0;
		_exit(there ? 1 : errno == ENOMEM ? 0 : 2);
	}
	int status;
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	rig_stop(&rig);
}

static void destroy_ends_the_registration_when_the_agent_is_gone(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_start(&rig, PAGES);
	struct hf_attach_client *client = rig_client(&rig);
	close(rig_userfault(client, BOTH));
	hf_attach_client_destroy(client);
	hf_attach_destroy(rig.attach);
	rig.attach = NULL;
	assert_int_equal(rig.vmm[0], 0); // reads, does not wait
	rig_stop(&rig);
}

/* ---- what add() refuses ---- */

static void expect_add(struct attach_rig *rig, struct hf_attach_region region, int result, const char *why)
{
	struct hf_err err = HF_ERR_INIT;
	int got = hf_attach_add(rig->attach, &region, &err);
	if (got != result || !strstr(err.text, why))
		fail_msg("wanted %d '%s', got %d '%s'", result, why, got, err.text);
}

static void add_refuses_what_the_mapping_is_not(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_memory(&rig, PAGES, false);
	const struct hf_attach_options options = {.socket_path = rig.path, .vm_name = "vm"};
	assert_int_equal(hf_attach_create(&rig.attach, &options, NULL), 0);
	const struct hf_attach_region good = rig_region(&rig);
	int other = ram_file_anonymous(HUGE_BYTES, PAGES), small = memfd_create("small", MFD_CLOEXEC);
	struct hf_attach_region region = good;

	region.page_size_bytes = GIB;
	expect_add(&rig, region, -EINVAL, "page boundary");
	region = good, region.page_size_bytes = HUGE_BYTES / 2;
	expect_add(&rig, region, -EINVAL, "page size is 2 MiB in the mapping and 1 MiB as named");
	region = good, region.page_size_bytes = 0;
	expect_add(&rig, region, -EINVAL, "page size");
	region = good, region.address = rig.vmm + 4096;
	expect_add(&rig, region, -EINVAL, "page boundary");
	region = good, region.address = NULL;
	expect_add(&rig, region, -EINVAL, "page boundary");
	region = good, region.length_bytes = UINT64_MAX - HUGE_BYTES + 1;
	expect_add(&rig, region, -EINVAL, "wraps around");
	region = good, region.length_bytes--;
	expect_add(&rig, region, -EINVAL, "ram0");
	region = good, region.fd = other;
	expect_add(&rig, region, -EINVAL, "not a mapping of the file");
	region = good, region.fd = small;
	expect_add(&rig, region, -EMEDIUMTYPE, "not on hugetlbfs");
	region = good, region.fd_offset_bytes = HUGE_BYTES;
	expect_add(&rig, region, -EINVAL, "at offset 2097152");
	region = good, region.fd_offset_bytes = 512;
	expect_add(&rig, region, -EINVAL, "no page boundary");
	region = good, region.fd = -1;
	expect_add(&rig, region, -EINVAL, "mapped shared, but no file");
	region = good, region.fd = -1, region.fd_offset_bytes = HUGE_BYTES;
	expect_add(&rig, region, -EINVAL, "private memory and has an offset");
	region = good, region.idstr = "";
	expect_add(&rig, region, -EINVAL, "empty name");
	assert_int_equal(mprotect(rig.vmm, HUGE_BYTES, PROT_READ), 0);
	expect_add(&rig, good, -EACCES, "not mapped readable and writable");
	assert_int_equal(mprotect(rig.vmm, HUGE_BYTES, PROT_READ | PROT_WRITE), 0);

	assert_int_equal(hf_attach_add(rig.attach, &good, &rig.err), 0);
	expect_add(&rig, good, -EEXIST, "ram0");
	region = good, region.idstr = "ram1";
	expect_add(&rig, region, -EINVAL, "region 'ram1' overlaps region 'ram0'");
	assert_int_equal(hf_attach_start(rig.attach, &rig.err), 0);
	expect_add(&rig, region, -EBUSY, "before start");
	close(other);
	close(small);
	rig_stop(&rig);
}

static void add_refuses_gaps_and_small_pages(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_memory(&rig, PAGES, false);
	const struct hf_attach_options options = {.socket_path = rig.path, .vm_name = "vm"};
	assert_int_equal(hf_attach_create(&rig.attach, &options, NULL), 0);
	struct hf_attach_region region = rig_region(&rig);
	munmap(rig.vmm + 2 * HUGE_BYTES, HUGE_BYTES);
	expect_add(&rig, region, -EFAULT, "not mapped at offset 4194304");
	// The parts before and after the gap are fine.
	region.length_bytes = 2 * HUGE_BYTES;
	assert_int_equal(hf_attach_add(rig.attach, &region, &rig.err), 0);
	region.idstr = "after";
	region.address = rig.vmm + 3 * HUGE_BYTES;
	region.length_bytes = HUGE_BYTES;
	region.fd_offset_bytes = 3 * HUGE_BYTES;
	assert_int_equal(hf_attach_add(rig.attach, &region, &rig.err), 0);

	uint8_t *small =
	    mmap(NULL, 2 * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t aligned = ((uintptr_t)small + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1);
	region = (struct hf_attach_region){.idstr = "small",
					   .address = (void *)aligned,
					   .length_bytes = HUGE_BYTES,
					   .page_size_bytes = HUGE_BYTES,
					   .fd = -1};
	expect_add(&rig, region, -EINVAL, "made of 4 KiB pages");
	munmap(small, 2 * HUGE_BYTES);
	rig_stop(&rig);
}

static void a_library_without_regions_does_not_start(void **state)
{
	(void)state;
	struct hf_attach *attach;
	struct hf_attach_options options = {.socket_path = "/tmp/hf-attach-none", .vm_name = "vm"};
	assert_int_equal(hf_attach_create(&attach, &options, NULL), 0);
	assert_int_equal(hf_attach_start(attach, NULL), -EINVAL);
	hf_attach_destroy(attach);
	assert_int_equal(access("/tmp/hf-attach-none", F_OK), -1);
	options.vm_name = "a\nb";
	assert_int_equal(hf_attach_create(&attach, &options, NULL), -EINVAL);
	options.vm_name = "";
	assert_int_equal(hf_attach_create(&attach, &options, NULL), -EINVAL);
	hf_attach_destroy(NULL);
	hf_attach_client_destroy(NULL);
}

struct later {
	const struct attach_rig *rig;
	int asked;
	int result; /* of the last addition */
};

static void add_later(struct hf_attach *attach, void *opaque)
{
	struct later *later = opaque;
	struct hf_attach_region region = rig_region(later->rig);
	char idstr[16];
	snprintf(idstr, sizeof(idstr), "ram%d", later->asked++);
	region.idstr = idstr;
	region.address = (uint8_t *)region.address + (uint64_t)(later->asked - 1) * HUGE_BYTES;
	region.fd_offset_bytes += (uint64_t)(later->asked - 1) * HUGE_BYTES;
	region.length_bytes = HUGE_BYTES;
	later->result = hf_attach_add(attach, &region, NULL);
}

static uint32_t regions_of(struct hf_attach_client *client)
{
	uint32_t count;
	hf_attach_client_regions(client, &count);
	return count;
}

static void regions_that_come_later_are_lent_until_something_is_registered(void **state)
{
	(void)state;
	struct attach_rig rig;
	rig_memory(&rig, 3, false);
	struct later later = {.rig = &rig};
	struct hf_attach_options options = {
	    .socket_path = rig.path, .vm_name = "vm", .more_regions = add_later, .opaque = &later};
	assert_int_equal(hf_attach_create(&rig.attach, &options, NULL), 0);
	assert_int_equal(hf_attach_start(rig.attach, NULL), 0);
	struct hf_attach_region region = rig_region(&rig);
	assert_int_equal(hf_attach_add(rig.attach, &region, NULL), -EBUSY);
	for (uint32_t expected = 1; expected <= 2; expected++) {
		struct hf_attach_client *client = rig_client(&rig);
		assert_int_equal(later.result, 0);
		assert_int_equal(regions_of(client), expected);
		if (expected == 2)
			close(rig_userfault(client, BOTH));
		hf_attach_client_destroy(client);
	}
	struct hf_attach_client *client = rig_client(&rig);
	assert_int_equal(regions_of(client), 2);
	assert_int_equal(later.asked, 2);
	assert_int_equal(hf_attach_client_release(client, NULL), 0);
	hf_attach_client_destroy(client);
	rig_stop(&rig);
}

static int reserve(void **state)
{
	(void)state;
	return host_pages_reserve(HUGE_BYTES, 16);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(hello_lists_the_regions_under_firecrackers_names),
	    cmocka_unit_test(a_fault_reaches_the_agent_and_continue_ends_it),
	    cmocka_unit_test(a_page_that_is_half_filled_in_the_alias_stays_hidden),
	    cmocka_unit_test(armed_means_every_region_is_guarded),
	    cmocka_unit_test(private_memory_takes_missing_and_refuses_minor_by_name),
	    cmocka_unit_test(descriptors_of_256_regions_arrive_in_order),
	    cmocka_unit_test(registrations_that_guard_pages_are_not_replaced_by_others),
	    cmocka_unit_test(write_tracking_sees_the_vmms_writes),
	    cmocka_unit_test(a_forked_child_does_not_have_the_memory),
	    cmocka_unit_test(destroy_ends_the_registration_when_the_agent_is_gone),
	    cmocka_unit_test(add_refuses_what_the_mapping_is_not),
	    cmocka_unit_test(add_refuses_gaps_and_small_pages),
	    cmocka_unit_test(a_library_without_regions_does_not_start),
	    cmocka_unit_test(regions_that_come_later_are_lent_until_something_is_registered),
	};
	return cmocka_run_group_tests(tests, reserve, host_give_back);
}
