/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The strict pool on this host's real huge pages. Needs root; mounts live in a namespace of their own. The
 * pool is the whole host's: what is compared with its counts is tried again when somebody else moved them
 * meanwhile.
 */
#include "tests/unit/hugemem/host_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "hugemem/hugepool.h"

#define PAGES	6u
#define TRIES	100
#define MOMENTS 1500
// A limit nobody reaches: with one, the mount counts its own pages, reserved ones too.
#define MOUNT_OPTIONS "pagesize=2M,size=64G"

static char directory[] = "/tmp/hf-hugepool-XXXXXX";

static int set_up(void **state)
{
	(void)state;
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    !mkdtemp(directory)) {
		perror("hugepool tests need root");
		return -1;
	}
	if (mount("hugetlbfs", directory, "hugetlbfs", 0, MOUNT_OPTIONS)) {
		perror("mount hugetlbfs");
		return -1;
	}
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	umount(directory);
	rmdir(directory);
	host_pages_give_back();
	return 0;
}

static struct hf_hugepage_counts counts_now(void)
{
	struct hf_hugepage_counts counts;
	assert_int_equal(hf_hugepage_counts(HUGE_BYTES, &counts, NULL), 0);
	return counts;
}

static bool same_counts(const struct hf_hugepage_counts *a, const struct hf_hugepage_counts *b)
{
	return a->total == b->total && a->free == b->free && a->reserved == b->reserved &&
	       a->surplus == b->surplus;
}

static uint64_t taken_from_mount(void)
{
	struct statfs fs;
	assert_int_equal(statfs(directory, &fs), 0);
	return (uint64_t)(fs.f_blocks - fs.f_bfree);
}

static const char *path_of(const char *name)
{
	static char path[128];
	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

static void sizes_ascend_and_hold_2_mib(void **state)
{
	(void)state;
	uint64_t sizes[16];
	int n = hf_hugepage_sizes(sizes, 16);
	assert_true(n >= 1);
	bool found = false;
	for (int i = 0; i < n; i++) {
		found |= sizes[i] == HUGE_BYTES;
		assert_true(i == 0 || sizes[i] > sizes[i - 1]);
	}
	assert_true(found);
	assert_int_equal(hf_hugepage_sizes(sizes, 1), 1);
	assert_true(hf_hugepage_size_is_offered(HUGE_BYTES));
	assert_false(hf_hugepage_size_is_offered(HUGE_BYTES / 2));
}

static void a_size_the_kernel_lacks_is_refused_and_the_offered_ones_named(void **state)
{
	(void)state;
	struct hf_hugepage_counts counts;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_hugepage_counts(8 * MIB, &counts, &err), -ENODEV);
	assert_non_null(strstr(err.text, "8 MiB"));
	assert_non_null(strstr(err.text, "2 MiB"));
	uint64_t added = 7;
	assert_int_equal(hf_hugepages_reserve(8 * MIB, 1, &added, &err), -ENODEV);
	assert_int_equal(added, 0);
}

static bool nodes_add_up(void)
{
	struct hf_hugepage_counts counts = counts_now();
	uint64_t total = 0, unused = 0;
	for (uint32_t i = 0; i < counts.nodes; i++) {
		total += counts.node_total[i];
		unused += counts.node_free[i];
	}
	return counts.nodes >= 1 && total == counts.total && unused == counts.free;
}

static void node_counts_add_up_to_the_total(void **state)
{
	(void)state;
	assert_int_equal(host_pages_reserve(HUGE_BYTES, PAGES), 0);
	bool add_up = false;
	for (unsigned i = 0; i < TRIES && !add_up; i++)
		add_up = nodes_add_up();
	assert_true(add_up);
}

// Does what the message tells the operator. The lock keeps other users of the library from changing the pool.
static bool command_helps(void)
{
	int pool = open("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", O_RDWR | O_CLOEXEC);
	assert_int_equal(flock(pool, LOCK_EX), 0);
	struct hf_hugepage_counts before = counts_now();
	uint64_t need = hf_hugepages_available(&before) + 3;
	struct hf_err err = HF_ERR_INIT;
	int refused = hf_hugepages_require(HUGE_BYTES, need, &err);
	const char *command = strstr(err.text, "echo ");
	unsigned long long count = 0;
	char path[128] = "";
	bool understood = command && sscanf(command, "echo %llu > %127s", &count, path) == 2;
	FILE *file = understood && count == before.total + 3 ? fopen(path, "w") : NULL;
	int result = -1;
	if (file) {
		fprintf(file, "%llu", count);
		fclose(file);
		result = hf_hugepages_require(HUGE_BYTES, need, NULL);
	}
	close(pool);
	if (file)
		hf_hugepages_give_back(HUGE_BYTES, 3 + before.surplus, NULL);
	return refused == -ENOMEM && !strncmp(err.text, "3 huge pages of 2 MiB are missing", 33) && !result;
}

static void the_command_in_the_error_adds_what_is_missing(void **state)
{
	(void)state;
	bool helps = false;
	for (unsigned i = 0; i < TRIES && !helps; i++)
		helps = command_helps();
	assert_true(helps);
}

static bool give_back_undoes_reserve(void)
{
	uint64_t added = 0, more = 1;
	struct hf_hugepage_counts before = counts_now();
	uint64_t wanted = hf_hugepages_available(&before) + PAGES;
	assert_int_equal(hf_hugepages_reserve(HUGE_BYTES, wanted, &added, NULL), 0);
	struct hf_hugepage_counts during = counts_now();
	assert_int_equal(hf_hugepages_reserve(HUGE_BYTES, hf_hugepages_available(&during) / 2, &more, NULL),
			 0);
	assert_int_equal(hf_hugepages_give_back(HUGE_BYTES, added + more, NULL), 0);
	struct hf_hugepage_counts after = counts_now();
	return added == PAGES + before.surplus && more == 0 && during.total == before.total + PAGES &&
	       same_counts(&before, &after);
}

static void what_reserve_adds_give_back_takes(void **state)
{
	(void)state;
	bool undone = false;
	for (unsigned i = 0; i < TRIES && !undone; i++)
		undone = give_back_undoes_reserve();
	assert_true(undone);
}

/* In use, and given back. */
static char *make_surplus(const struct hf_hugepage_counts *now)
{
	uint64_t added = 0;
	uint64_t wanted = hf_hugepages_available(now) + PAGES;
	assert_int_equal(hf_hugepages_reserve(HUGE_BYTES, wanted, &added, NULL), 0);
	char *address = mmap(NULL, PAGES * HUGE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB, -1, 0);
	assert_ptr_not_equal(address, MAP_FAILED);
	assert_int_equal(hf_hugepages_give_back(HUGE_BYTES, added, NULL), 0);
	return address;
}

static bool reserve_helps_beside_surplus(void)
{
	struct hf_hugepage_counts before = counts_now();
	char *address = make_surplus(&before);
	struct hf_hugepage_counts surplus = counts_now();
	uint64_t added = 0, wanted = hf_hugepages_available(&surplus) + 2;
	assert_int_equal(hf_hugepages_reserve(HUGE_BYTES, wanted, &added, NULL), 0);
	struct hf_hugepage_counts during = counts_now();
	assert_int_equal(hf_hugepages_give_back(HUGE_BYTES, added, NULL), 0);
	munmap(address, PAGES * HUGE_BYTES);
	struct hf_hugepage_counts after = counts_now();
	return surplus.surplus >= PAGES && hf_hugepages_available(&during) == wanted &&
	       same_counts(&before, &after);
}

static void reserved_pages_can_be_had_beside_surplus(void **state)
{
	(void)state;
	bool helps = false;
	for (unsigned i = 0; i < TRIES && !helps; i++)
		helps = reserve_helps_beside_surplus();
	assert_true(helps);
}

static void *let_go(void *address)
{
	munmap(address, PAGES * HUGE_BYTES);
	return NULL;
}

/* Pages that were given back while in use go with their user: the pool proper is no larger for a moment. */
static bool pool_stays_while_surplus_goes(void)
{
	struct hf_hugepage_counts before = counts_now();
	char *address = make_surplus(&before);
	pthread_t thread;
	assert_int_equal(pthread_create(&thread, NULL, let_go, address), 0);
	bool stays = true;
	struct hf_hugepage_counts during;
	do {
		during = counts_now();
		stays = stays && during.total - during.surplus == before.total - before.surplus;
	} while (during.surplus > before.surplus);
	pthread_join(thread, NULL);
	return stays;
}

static bool always_stays(void)
{
	for (unsigned i = 0; i < MOMENTS; i++) {
		if (!pool_stays_while_surplus_goes())
			return false;
	}
	return true;
}

static void counts_are_of_one_moment(void **state)
{
	(void)state;
	// Read at two moments the pool grows in some tries of a thousand. So it does when somebody else has
	// it grow.
	bool stays = false;
	for (unsigned rounds = 0; rounds < 5 && !stays; rounds++)
		stays = always_stays();
	assert_true(stays);
}

static bool asking_too_much_changes_nothing(void)
{
	struct hf_err err = HF_ERR_INIT;
	uint64_t added = 7;
	struct hf_hugepage_counts before = counts_now();
	assert_int_equal(hf_hugepages_reserve(HUGE_BYTES, UINT64_C(1) << 30, &added, &err), -ENOMEM);
	assert_int_equal(added, 0);
	assert_non_null(strstr(err.text, "this host has memory for"));
	assert_int_equal(hf_hugepages_reserve(HUGE_BYTES, UINT64_MAX, &added, &err), -ENOMEM);
	assert_int_equal(hf_hugepages_give_back(HUGE_BYTES, before.total + 1000000, &err), -EINVAL);
	struct hf_hugepage_counts after = counts_now();
	return same_counts(&before, &after);
}

static void more_than_the_host_has_leaves_the_pool_as_it_was(void **state)
{
	(void)state;
	bool unchanged = false;
	for (unsigned i = 0; i < TRIES && !unchanged; i++)
		unchanged = asking_too_much_changes_nothing();
	assert_true(unchanged);
}

static void a_mount_made_after_start_is_found(void **state)
{
	(void)state;
	char path[128];
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_hugetlbfs_mount_point(HUGE_BYTES, path, sizeof(path), &err), 0);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	uint64_t size;
	assert_int_equal(hf_hugetlbfs_page_size(fd, &size, &err), 0);
	assert_int_equal(size, HUGE_BYTES);
	close(fd);
	assert_int_equal(hf_hugetlbfs_mount_point(HUGE_BYTES, path, 2, &err), -ENAMETOOLONG);
}

static void a_mount_point_with_a_space_is_found(void **state)
{
	(void)state;
	char spaced[] = "/tmp/hf hugepool XXXXXX", path[128];
	assert_non_null(mkdtemp(spaced));
	assert_int_equal(umount(directory), 0);
	assert_int_equal(mount("hugetlbfs", spaced, "hugetlbfs", 0, MOUNT_OPTIONS), 0);
	int result = hf_hugetlbfs_mount_point(HUGE_BYTES, path, sizeof(path), NULL);
	umount(spaced);
	rmdir(spaced);
	assert_int_equal(mount("hugetlbfs", directory, "hugetlbfs", 0, MOUNT_OPTIONS), 0);
	assert_int_equal(result, 0);
}

static void a_missing_mount_is_answered_with_the_mount_command(void **state)
{
	(void)state;
	uint64_t sizes[16];
	char path[128];
	struct hf_err err = HF_ERR_INIT;
	if (hf_hugepage_sizes(sizes, 16) < 2 || !hf_hugetlbfs_mount_point(GIB, path, sizeof(path), NULL)) {
		print_message("skip: this host has no second page size, or has it mounted\n");
		skip();
	}
	assert_int_equal(hf_hugetlbfs_mount_point(GIB, path, sizeof(path), &err), -ENOENT);
	assert_non_null(strstr(err.text, "mount -t hugetlbfs -o pagesize=1048576K"));
}

static void a_ram_file_has_its_length_and_goes_with_destroy(void **state)
{
	(void)state;
	struct hf_ram_file file;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(host_pages_reserve(HUGE_BYTES, PAGES), 0);
	assert_int_equal(taken_from_mount(), 0);
	assert_int_equal(hf_ram_file_create(&file, path_of("ram"), PAGES * HUGE_BYTES, HUGE_BYTES, &err), 0);
	struct stat there;
	assert_int_equal(stat(path_of("ram"), &there), 0);
	assert_int_equal(there.st_size, PAGES * HUGE_BYTES);
	assert_int_equal(there.st_mode & 0777, 0600);
	// Reserved by the mapping, before anything was touched.
	assert_int_equal(taken_from_mount(), PAGES);
	memset(file.address, 1, PAGES * HUGE_BYTES);
	struct hf_ram_file second;
	assert_int_equal(hf_ram_file_create(&second, path_of("ram"), HUGE_BYTES, HUGE_BYTES, &err), -EEXIST);
	hf_ram_file_destroy(&file);
	assert_int_equal(access(path_of("ram"), F_OK), -1);
	assert_int_equal(taken_from_mount(), 0);
	hf_ram_file_destroy(&file);
	hf_ram_file_destroy(NULL);
}

static void destroy_leaves_a_file_that_took_the_name(void **state)
{
	(void)state;
	struct hf_ram_file file;
	assert_int_equal(host_pages_reserve(HUGE_BYTES, PAGES), 0);
	assert_int_equal(hf_ram_file_create(&file, path_of("ram"), HUGE_BYTES, HUGE_BYTES, NULL), 0);
	assert_int_equal(unlink(path_of("ram")), 0);
	int other = open(path_of("ram"), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
	assert_true(other >= 0);
	hf_ram_file_destroy(&file);
	assert_int_equal(access(path_of("ram"), F_OK), 0);
	close(other);
	unlink(path_of("ram"));
}

static void a_ram_file_the_pool_cannot_hold_is_refused_and_removed(void **state)
{
	(void)state;
	struct hf_ram_file file = {.length_bytes = 12345};
	struct hf_err err = HF_ERR_INIT;
	uint64_t length_bytes = counts_now().total * HUGE_BYTES + GIB;
	assert_int_equal(hf_ram_file_create(&file, path_of("ram"), length_bytes, HUGE_BYTES, &err), -ENOMEM);
	assert_non_null(strstr(err.text, " huge pages of 2 MiB are missing"));
	assert_non_null(strstr(err.text, "echo "));
	assert_int_equal(access(path_of("ram"), F_OK), -1);
	assert_int_equal(file.length_bytes, 12345);
}

static void a_ram_file_elsewhere_than_on_hugetlbfs_is_refused_and_removed(void **state)
{
	(void)state;
	struct hf_ram_file file;
	struct hf_err err = HF_ERR_INIT;
	char path[] = "/tmp/hf-ram-XXXXXX";
	int fd = mkstemp(path);
	close(fd);
	unlink(path);
	assert_int_equal(hf_ram_file_create(&file, path, HUGE_BYTES, HUGE_BYTES, &err), -EMEDIUMTYPE);
	assert_int_equal(access(path, F_OK), -1);
}

static void a_ram_file_of_another_page_size_or_odd_length_is_refused(void **state)
{
	(void)state;
	struct hf_ram_file file;
	struct hf_err err = HF_ERR_INIT;
	char long_path[300];
	memset(long_path, 'x', sizeof(long_path) - 1);
	long_path[sizeof(long_path) - 1] = '\0';
	assert_int_equal(hf_ram_file_create(&file, path_of("r"), GIB, GIB, &err), -EINVAL);
	assert_non_null(strstr(err.text, "pages of 1 GiB are wanted, this hugetlbfs has pages of 2 MiB"));
	assert_int_equal(hf_ram_file_create(&file, path_of("r"), HUGE_BYTES + 1, HUGE_BYTES, &err), -EINVAL);
	assert_int_equal(hf_ram_file_create(&file, path_of("r"), 0, HUGE_BYTES, &err), -EINVAL);
	assert_int_equal(hf_ram_file_create(&file, path_of("r"), HUGE_BYTES, 3, &err), -EINVAL);
	assert_int_equal(hf_ram_file_create(&file, path_of("r"), UINT64_C(1) << 63, HUGE_BYTES, &err),
			 -EINVAL);
	assert_int_equal(hf_ram_file_create(&file, long_path, HUGE_BYTES, HUGE_BYTES, &err), -ENAMETOOLONG);
	assert_int_equal(access(path_of("r"), F_OK), -1);
}

// The sum of a property of all this process's mappings of huge pages.
static unsigned long hugetlb_kib(void)
{
	FILE *file = fopen("/proc/self/smaps_rollup", "re");
	char line[256];
	unsigned long kib = 0;
	while (fgets(line, sizeof(line), file) && sscanf(line, "Private_Hugetlb: %lu", &kib) != 1)
		;
	fclose(file);
	return kib;
}

static void staging_is_made_of_huge_pages_all_present(void **state)
{
	(void)state;
	void *address;
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(host_pages_reserve(HUGE_BYTES, PAGES), 0);
	assert_int_equal(hugetlb_kib(), 0);
	assert_int_equal(hf_hugepages_map(HUGE_BYTES, PAGES, &address, &err), 0);
	assert_int_equal(hugetlb_kib(), PAGES * 2048);
	for (unsigned i = 0; i < PAGES; i++)
		assert_true(page_is_mapped((char *)address + i * HUGE_BYTES));
	assert_int_equal(munmap(address, PAGES * HUGE_BYTES), 0);
	assert_int_equal(hugetlb_kib(), 0);
}

static void staging_the_pool_cannot_hold_is_refused_without_a_word_on_stderr(void **state)
{
	(void)state;
	void *address = &address;
	struct hf_err err = HF_ERR_INIT;
	int kept = dup(STDERR_FILENO), pipe_fds[2];
	assert_int_equal(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
	dup2(pipe_fds[1], STDERR_FILENO);
	int result = hf_hugepages_map(HUGE_BYTES, counts_now().total + 512, &address, &err);
	int absurd = hf_hugepages_map(HUGE_BYTES, UINT64_MAX, &address, NULL);
	int zero = hf_hugepages_map(HUGE_BYTES, 0, &address, NULL);
	dup2(kept, STDERR_FILENO);
	close(kept);
	char said[64];
	assert_int_equal(read(pipe_fds[0], said, sizeof(said)), -1);
	assert_int_equal(errno, EAGAIN);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	assert_int_equal(result, -ENOMEM);
	assert_non_null(strstr(err.text, " huge pages of 2 MiB are missing"));
	assert_int_equal(absurd, -EINVAL);
	assert_int_equal(zero, -EINVAL);
	assert_ptr_equal(address, &address);
}

#define TEST(name) cmocka_unit_test_teardown(name, host_give_back)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(sizes_ascend_and_hold_2_mib),
	    TEST(a_size_the_kernel_lacks_is_refused_and_the_offered_ones_named),
	    TEST(node_counts_add_up_to_the_total),
	    TEST(the_command_in_the_error_adds_what_is_missing),
	    TEST(what_reserve_adds_give_back_takes),
	    TEST(counts_are_of_one_moment),
	    TEST(reserved_pages_can_be_had_beside_surplus),
	    TEST(more_than_the_host_has_leaves_the_pool_as_it_was),
	    TEST(a_mount_made_after_start_is_found),
	    TEST(a_mount_point_with_a_space_is_found),
	    TEST(a_missing_mount_is_answered_with_the_mount_command),
	    TEST(a_ram_file_has_its_length_and_goes_with_destroy),
	    TEST(destroy_leaves_a_file_that_took_the_name),
	    TEST(a_ram_file_the_pool_cannot_hold_is_refused_and_removed),
	    TEST(a_ram_file_elsewhere_than_on_hugetlbfs_is_refused_and_removed),
	    TEST(a_ram_file_of_another_page_size_or_odd_length_is_refused),
	    TEST(staging_is_made_of_huge_pages_all_present),
	    TEST(staging_the_pool_cannot_hold_is_refused_without_a_word_on_stderr),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
