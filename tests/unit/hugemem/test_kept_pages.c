/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The kept file: what a killed agent leaves, and files that are none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/pagemap.h"
#include "hugemem/kept_pages_internal.h"
#include "hugemem/memory_lock.h"

#define PAGES 11u /* of both blocks: the last byte of a bitmap has padding */
#define MIB   (UINT64_C(1) << 20)

struct files {
	char parent[32], directory[48];
	struct hf_ramblocks blocks;
	struct hf_kept_description description;
	struct hf_kept_pages *kept;
	struct hf_err err;
};

static int set_up(void **state)
{
	struct files *f = calloc(1, sizeof(*f));

	if (!f)
		return -1;
	strcpy(f->parent, "/dev/shm/hf-kept-XXXXXX");
	assert_non_null(mkdtemp(f->parent));
	snprintf(f->directory, sizeof(f->directory), "%s/hugeferry", f->parent);
	hf_ramblocks_init(&f->blocks);
	assert_int_equal(hf_ramblocks_add(&f->blocks, "ram0", 3 * 1024 * MIB, 1024 * MIB, NULL), 0);
	assert_int_equal(hf_ramblocks_add(&f->blocks, "ram1", 8 * 2 * MIB, 2 * MIB, NULL), 0);
	f->description = (struct hf_kept_description){.vm_name = "guest",
						      .session = {1, 2, 3},
						      .placement = HF_PLACEMENT_CONTINUE,
						      .chunk_bytes = 262144,
						      .blocks = &f->blocks};
	assert_int_equal(hf_vmm_identity_of(getpid(), &f->description.vmm, NULL), 0);
	*state = f;
	return 0;
}

static void remove_all(const char *directory)
{
	char path[400];
	DIR *open_directory = opendir(directory);

	for (struct dirent *entry; open_directory && (entry = readdir(open_directory));) {
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			unlink(path);
	}
	if (open_directory)
		closedir(open_directory);
	rmdir(directory);
}

static int tear_down(void **state)
{
	struct files *f = *state;

	hf_kept_pages_close(f->kept);
	remove_all(f->directory);
	rmdir(f->parent);
	hf_ramblocks_destroy(&f->blocks);
	free(f);
	return 0;
}

static void create(struct files *f)
{
	if (hf_kept_pages_create(&f->kept, f->directory, &f->description, &f->err))
		fail_msg("%s", f->err.text);
}

static void reopen(struct files *f)
{
	hf_kept_pages_close(f->kept);
	f->kept = NULL;
	if (hf_kept_pages_open(&f->kept, f->directory, f->description.vm_name, &f->err))
		fail_msg("%s", f->err.text);
}

static unsigned files_in(const char *directory)
{
	unsigned count = 0;
	DIR *open_directory = opendir(directory);

	assert_non_null(open_directory);
	while (readdir(open_directory))
		count++;
	closedir(open_directory);
	return count - 2;
}

static void what_is_described_comes_back(void **state)
{
	struct files *f = *state;
	struct stat found;

	create(f);
	assert_int_equal(stat(f->directory, &found), 0);
	assert_int_equal(found.st_mode & 0777, 0700);
	assert_int_equal(stat(hf_kept_pages_path(f->kept), &found), 0);
	assert_int_equal(found.st_mode & 0777, 0600);
	assert_true(found.st_blocks * 512 >= found.st_size);
	assert_true(hf_kept_pages_on_tmpfs(f->kept));
	reopen(f);
	const struct hf_kept_description *back = hf_kept_pages_description(f->kept);
	assert_string_equal(back->vm_name, "guest");
	assert_memory_equal(back->session, f->description.session, HF_KEPT_SESSION_BYTES);
	assert_true(hf_vmm_identity_equal(&back->vmm, &f->description.vmm));
	assert_int_equal(back->placement, HF_PLACEMENT_CONTINUE);
	assert_int_equal(back->chunk_bytes, 262144);
	assert_int_equal(back->blocks->pages_total, PAGES);
	assert_int_equal(hf_kept_pages_check_vmm(f->kept, &f->description.vmm, &f->blocks, &f->err), 0);
	assert_int_equal(hf_kept_pages_bitmap_bytes(f->kept), hf_pagemap_bytes(PAGES));
	assert_false(hf_kept_pages_presence_complete(f->kept));
	assert_false(hf_kept_pages_poisoning(f->kept));
}

static void a_new_files_bits_are_clear_and_on_memory_pages_of_their_own(void **state)
{
	struct files *f = *state;
	struct hf_pagemap received, present;
	struct hf_tables tables = {0};

	create(f);
	hf_pagemap_wrap(&received, hf_kept_pages_received(f->kept), PAGES);
	hf_pagemap_wrap(&present, hf_kept_pages_present(f->kept), PAGES);
	assert_int_equal(hf_pagemap_count(&received) + hf_pagemap_count(&present), 0);
	assert_int_equal((uintptr_t)received.bits % 4096, 0);
	assert_int_equal((uintptr_t)present.bits % 4096, 0);
	hf_kept_pages_tables(f->kept, &tables);
	assert_int_equal(tables.count, 1);
	assert_int_equal(hf_memory_lock(&tables, &f->err), 0);
	const uint8_t *first = tables.list[0].address;
	assert_true(received.bits > first && present.bits > received.bits &&
		    present.bits + hf_pagemap_bytes(PAGES) <= first + tables.list[0].bytes);
}

static void bits_of_a_killed_process_stay(void **state)
{
	struct files *f = *state;
	struct hf_pagemap map;
	int status;

	fflush(NULL);
	pid_t child = fork();
	if (child == 0) {
		if (hf_kept_pages_create(&f->kept, f->directory, &f->description, NULL))
			_exit(1);
		hf_pagemap_wrap(&map, hf_kept_pages_received(f->kept), PAGES);
		hf_pagemap_set(&map, 0);
		hf_pagemap_set(&map, 9);
		hf_pagemap_wrap(&map, hf_kept_pages_present(f->kept), PAGES);
		hf_pagemap_set(&map, 10);
		hf_kept_pages_set_presence_complete(f->kept);
		hf_kept_pages_set_poisoning(f->kept, false);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFSIGNALED(status));
	reopen(f);
	hf_pagemap_wrap(&map, hf_kept_pages_received(f->kept), PAGES);
	assert_int_equal(hf_pagemap_count(&map), 2);
	assert_true(hf_pagemap_test(&map, 0) && hf_pagemap_test(&map, 9));
	struct hf_taken_over taken_over = hf_kept_pages_taken_over(f->kept);
	assert_ptr_equal(taken_over.received, map.bits);
	assert_int_equal(taken_over.placement, HF_PLACEMENT_CONTINUE);
	assert_true(hf_vmm_identity_equal(&taken_over.vmm, &f->description.vmm));
	hf_pagemap_wrap(&map, hf_kept_pages_present(f->kept), PAGES);
	assert_int_equal(hf_pagemap_next_set(&map, 0), 10);
	assert_true(hf_kept_pages_presence_complete(f->kept));
	assert_true(hf_kept_pages_poisoning(f->kept) && taken_over.poisoning && !taken_over.settled);
	hf_kept_pages_set_poisoning(f->kept, true);
	reopen(f);
	taken_over = hf_kept_pages_taken_over(f->kept);
	assert_true(taken_over.poisoning && taken_over.settled);
}

static void there_is_none_before_and_after(void **state)
{
	struct files *f = *state;

	assert_int_equal(hf_kept_pages_open(&f->kept, f->directory, "guest", &f->err), -ENOENT);
	create(f);
	assert_int_equal(files_in(f->directory), 1);
	assert_int_equal(hf_kept_pages_remove(f->kept, &f->err), 0);
	assert_int_equal(hf_kept_pages_remove(f->kept, &f->err), 0);
	hf_kept_pages_received(f->kept)[0] = 1; /* still there for who has it */
	assert_int_equal(files_in(f->directory), 0);
	hf_kept_pages_close(f->kept);
	f->kept = NULL;
	assert_int_equal(hf_kept_pages_open(&f->kept, f->directory, "guest", &f->err), -ENOENT);
}

static void removing_does_not_take_a_later_file(void **state)
{
	struct files *f = *state;
	struct hf_kept_pages *earlier;

	create(f);
	earlier = f->kept;
	assert_int_equal(hf_kept_pages_remove(earlier, &f->err), 0);
	create(f);
	assert_int_equal(hf_kept_pages_remove(earlier, &f->err), 0);
	hf_kept_pages_close(earlier);
	assert_int_equal(files_in(f->directory), 1);
}

static void what_is_there_is_never_overwritten(void **state)
{
	struct files *f = *state;
	struct hf_kept_pages *other = NULL;

	create(f);
	hf_kept_pages_received(f->kept)[0] = 5;
	assert_int_equal(hf_kept_pages_create(&other, f->directory, &f->description, &f->err), -EEXIST);
	assert_int_equal(files_in(f->directory), 1);
	reopen(f);
	assert_int_equal(hf_kept_pages_received(f->kept)[0], 5);
}

static void half_a_file_of_a_killed_maker_is_no_file_and_in_nobodys_way(void **state)
{
	struct files *f = *state;
	char path[80];

	assert_int_equal(mkdir(f->directory, 0700), 0);
	snprintf(path, sizeof(path), "%s/guest%%new", f->directory);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	char rubbish[5000];
	memset(rubbish, 0xff, sizeof(rubbish));
	assert_int_equal(write(fd, rubbish, sizeof(rubbish)), sizeof(rubbish));
	close(fd);
	assert_int_equal(hf_kept_pages_open(&f->kept, f->directory, "guest", &f->err), -ENOENT);
	create(f);
	assert_int_equal(hf_kept_pages_received(f->kept)[0], 0);
	assert_int_equal(files_in(f->directory), 1);
	reopen(f);
}

static void a_file_in_use_is_not_opened_twice(void **state)
{
	struct files *f = *state;
	struct hf_kept_pages *other = NULL;

	create(f);
	assert_int_equal(hf_kept_pages_open(&other, f->directory, "guest", &f->err), -EBUSY);
	assert_non_null(strstr(f->err.text, "in use by another process"));
	reopen(f);
}

static void another_process_boot_or_memory_is_told_apart(void **state)
{
	struct files *f = *state;
	struct hf_vmm_identity vmm = f->description.vmm;

	create(f);
	vmm.pid++;
	assert_int_equal(hf_kept_pages_check_vmm(f->kept, &vmm, &f->blocks, &f->err), -ESTALE);
	vmm = f->description.vmm;
	vmm.started_ticks++;
	assert_int_equal(hf_kept_pages_check_vmm(f->kept, &vmm, &f->blocks, &f->err), -ESTALE);
	vmm = f->description.vmm;
	vmm.boot_id[0] ^= 1;
	assert_int_equal(hf_kept_pages_check_vmm(f->kept, &vmm, &f->blocks, &f->err), -ESTALE);
	f->blocks.blocks[1].length_bytes += 2 * MIB;
	assert_int_equal(hf_kept_pages_check_vmm(f->kept, &f->description.vmm, &f->blocks, &f->err), -ESTALE);
	assert_non_null(strstr(f->err.text, "'ram1'"));
	f->blocks.count = 1;
	assert_int_equal(hf_kept_pages_check_vmm(f->kept, &f->description.vmm, &f->blocks, &f->err), -ESTALE);
	f->blocks.count = 2;
}

static void a_process_that_has_ended_is_nobody(void **state)
{
	struct files *f = *state;
	struct hf_vmm_identity vmm;

	fflush(NULL);
	pid_t child = fork();
	if (child == 0)
		_exit(0);
	waitpid(child, NULL, 0);
	assert_int_equal(hf_vmm_identity_of(child, &vmm, &f->err), -ESRCH);
	assert_int_equal(hf_vmm_identity_of(getppid(), &vmm, &f->err), 0);
	assert_true(vmm.started_ticks <= f->description.vmm.started_ticks);
	assert_int_equal(strlen(vmm.boot_id), 36);
}

/* ---- names ---- */

static void names_of_files_are_plain_and_unlike(void **state)
{
	static const struct {
		const char *vm, *file;
	} names[] = {
	    {"guest", "guest"},	    {"a.b-c_9", "a.b-c_9"}, {".", "%2E"},	  {"..", "%2E."},
	    {".hid", "%2Ehid"},	    {"a/b", "a%2Fb"},	    {"a%2Fb", "a%252Fb"}, {"new%new", "new%25new"},
	    {"\xc3\xa9", "%C3%A9"}, {"a b", "a%20b"},
	};
	char name[HF_KEPT_NAME_BYTES], other[HF_KEPT_NAME_BYTES], vm[HF_RAMBLOCK_IDSTR_MAX + 1];

	(void)state;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		hf_kept_name(names[i].vm, name);
		assert_string_equal(name, names[i].file);
	}
	memset(vm, '/', sizeof(vm) - 1);
	vm[sizeof(vm) - 1] = '\0';
	hf_kept_name(vm, name);
	assert_true(strlen(name) < HF_KEPT_NAME_BYTES && strstr(name, "%%"));
	vm[sizeof(vm) - 2] = '.';
	hf_kept_name(vm, other);
	assert_string_not_equal(name, other);
}

static void a_vm_with_the_longest_name_has_a_file(void **state)
{
	struct files *f = *state;
	char vm[HF_RAMBLOCK_IDSTR_MAX + 1];

	memset(vm, '/', sizeof(vm) - 1);
	vm[sizeof(vm) - 1] = '\0';
	f->description.vm_name = vm;
	create(f);
	reopen(f);
	assert_string_equal(hf_kept_pages_description(f->kept)->vm_name, vm);
}

/* ---- files that are none ---- */

static void expect_refused(struct files *f, const char *why)
{
	int result = hf_kept_pages_open(&f->kept, f->directory, "guest", &f->err);

	assert_int_equal(result, -EBADMSG);
	assert_null(f->kept);
	if (!strstr(f->err.text, why) || !strstr(f->err.text, f->directory))
		fail_msg("wanted '%s', got '%s'", why, f->err.text);
}

/* Makes the digest right again: what is refused then is refused for what it says. */
static void redo_digest(const char *path)
{
	static struct {
		struct hf_kept_header header;
		struct hf_kept_block blocks[HF_RAMBLOCKS_MAX];
	} file;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(read(fd, &file, sizeof(file)) > 0);
	uint64_t digest = UINT64_C(0xcbf29ce484222325);
	const uint8_t *at = (const uint8_t *)&file.header;
	for (size_t i = 0; i < offsetof(struct hf_kept_header, flags); i++)
		digest = (digest ^ at[i]) * UINT64_C(0x100000001b3);
	at = (const uint8_t *)file.blocks;
	for (size_t i = 0; i < file.header.block_count * sizeof(file.blocks[0]); i++)
		digest = (digest ^ at[i]) * UINT64_C(0x100000001b3);
	assert_int_equal(pwrite(fd, &digest, sizeof(digest), offsetof(struct hf_kept_header, digest)),
			 sizeof(digest));
	close(fd);
}

static void write_at(const char *path, uint64_t offset, const void *bytes, size_t length)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, bytes, length, (off_t)offset), length);
	close(fd);
}

static void every_changed_byte_in_front_of_the_bits_is_found(void **state)
{
	struct files *f = *state;
	char path[80];
	const size_t end = sizeof(struct hf_kept_header) + 2 * sizeof(struct hf_kept_block);

	create(f);
	snprintf(path, sizeof(path), "%s", hf_kept_pages_path(f->kept));
	hf_kept_pages_close(f->kept);
	f->kept = NULL;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	for (size_t at = 0; at < end; at++) {
		uint8_t byte, changed;
		assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
		changed = byte ^ 0x82;
		assert_int_equal(pwrite(fd, &changed, 1, (off_t)at), 1);
		if (hf_kept_pages_open(&f->kept, f->directory, "guest", &f->err) != -EBADMSG)
			fail_msg("a change of byte %zu was not found", at);
		assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
	}
	close(fd);
	reopen(f);
}

static void impossible_values_with_a_right_digest_are_refused(void **state)
{
#define FIELD(field, value)                                                                                  \
	offsetof(struct hf_kept_header, field), sizeof(((struct hf_kept_header *)0)->field), value
#define BLOCK(field, value)                                                                                  \
	sizeof(struct hf_kept_header) + offsetof(struct hf_kept_block, field),                               \
	    sizeof(((struct hf_kept_block *)0)->field), value
	static const struct {
		uint64_t at;
		size_t length;
		uint64_t value;
		const char *why;
	} cases[] = {
	    {FIELD(version, 2), "another version"},
	    {FIELD(placement, 2), "placement"},
	    {FIELD(file_bytes, 4096), "length"},
	    {FIELD(received_at, 0), "do not fit"},
	    {FIELD(received_at, UINT64_MAX), "do not fit"},
	    {FIELD(present_at, UINT64_C(1) << 40), "do not fit"},
	    {FIELD(bitmap_bytes, UINT64_C(1) << 40), "do not fit"},
	    {FIELD(pages, UINT32_MAX), "do not fit"},
	    {FIELD(pages, 0), "do not fit"},
	    {FIELD(block_count, 0), "number of memory blocks"},
	    {FIELD(block_count, UINT32_MAX), "number of memory blocks"},
	    {FIELD(block_count, 1), "do not fit"},
	    {FIELD(chunk_bytes, 0), "impossible"},
	    {FIELD(vmm_pid, 0), "impossible"},
	    {FIELD(vmm_pid, UINT64_C(1) << 33), "impossible"},
	    {FIELD(flags, 16), "flags"},
	    {BLOCK(length_bytes, 0), "memory blocks is impossible"},
	    {BLOCK(length_bytes, UINT64_C(1) << 62), "impossible"},
	    {BLOCK(page_size_bytes, 3), "memory blocks is impossible"},
	};
	struct files *f = *state;
	char path[80];

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		create(f);
		snprintf(path, sizeof(path), "%s", hf_kept_pages_path(f->kept));
		hf_kept_pages_close(f->kept);
		f->kept = NULL;
		write_at(path, cases[i].at, &cases[i].value, cases[i].length);
		if (cases[i].at != offsetof(struct hf_kept_header, block_count) || cases[i].value == 1)
			redo_digest(path);
		expect_refused(f, cases[i].why);
		assert_int_equal(unlink(path), 0);
	}
}

static void another_vms_file_under_this_name_is_refused(void **state)
{
	struct files *f = *state;
	char from[80], to[80];

	f->description.vm_name = "other";
	create(f);
	hf_kept_pages_close(f->kept);
	f->kept = NULL;
	snprintf(from, sizeof(from), "%s/other", f->directory);
	snprintf(to, sizeof(to), "%s/guest", f->directory);
	assert_int_equal(rename(from, to), 0);
	expect_refused(f, "another VM");
}

static void files_of_another_length_or_kind_are_refused(void **state)
{
	struct files *f = *state;
	char path[80], link_path[96];

	create(f);
	snprintf(path, sizeof(path), "%s", hf_kept_pages_path(f->kept));
	struct hf_tables tables = {0};
	hf_kept_pages_tables(f->kept, &tables);
	const off_t length = (off_t)tables.list[0].bytes;
	hf_kept_pages_close(f->kept);
	f->kept = NULL;
	const off_t lengths[] = {length + 4096, length - 4096, 4096, 399, 0};
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		assert_int_equal(truncate(path, lengths[i]), 0);
		expect_refused(f, lengths[i] >= 4096 ? "length" : "no file of kept pages");
		if (i == 0)
			assert_int_equal(truncate(path, length), 0);
	}
	assert_int_equal(chmod(path, 0666), 0);
	expect_refused(f, "nobody else may write");
	assert_int_equal(chmod(path, 0600), 0);
	snprintf(link_path, sizeof(link_path), "%s.link", path);
	assert_int_equal(link(path, link_path), 0);
	expect_refused(f, "nobody else may write");
	assert_int_equal(unlink(path), 0);
	assert_int_equal(symlink(link_path, path), 0);
	assert_true(hf_kept_pages_open(&f->kept, f->directory, "guest", &f->err) < 0);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	expect_refused(f, "no regular file");
}

static void bits_behind_the_last_page_are_damage(void **state)
{
	struct files *f = *state;

	create(f);
	hf_kept_pages_received(f->kept)[1] = 0x08; /* page 11 of 0..10 */
	hf_kept_pages_close(f->kept);
	f->kept = NULL;
	expect_refused(f, "bits of pages that are none");
}

static void a_directory_others_may_write_to_is_refused(void **state)
{
	struct files *f = *state;

	assert_int_equal(mkdir(f->directory, 0700), 0);
	assert_int_equal(chmod(f->directory, 0777), 0);
	assert_int_equal(hf_kept_pages_create(&f->kept, f->directory, &f->description, &f->err), -EPERM);
	assert_int_equal(hf_kept_pages_open(&f->kept, f->directory, "guest", &f->err), -EPERM);
	assert_int_equal(chmod(f->directory, 0700), 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(what_is_described_comes_back),
	    CASE(a_new_files_bits_are_clear_and_on_memory_pages_of_their_own),
	    CASE(bits_of_a_killed_process_stay),
	    CASE(there_is_none_before_and_after),
	    CASE(removing_does_not_take_a_later_file),
	    CASE(what_is_there_is_never_overwritten),
	    CASE(half_a_file_of_a_killed_maker_is_no_file_and_in_nobodys_way),
	    CASE(a_file_in_use_is_not_opened_twice),
	    CASE(another_process_boot_or_memory_is_told_apart),
	    CASE(a_process_that_has_ended_is_nobody),
	    CASE(names_of_files_are_plain_and_unlike),
	    CASE(a_vm_with_the_longest_name_has_a_file),
	    CASE(every_changed_byte_in_front_of_the_bits_is_found),
	    CASE(impossible_values_with_a_right_digest_are_refused),
	    CASE(another_vms_file_under_this_name_is_refused),
	    CASE(files_of_another_length_or_kind_are_refused),
	    CASE(bits_behind_the_last_page_are_damage),
	    CASE(a_directory_others_may_write_to_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
