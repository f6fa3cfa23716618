/* SPDX-License-Identifier: Apache-2.0 */
#include "record_rig.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

struct record_rig_disk record_rig_disk;

int __real_fdatasync(int fd);
int __wrap_fdatasync(int fd);
ssize_t __real_pwrite64(int fd, const void *bytes, size_t count, off_t at);
ssize_t __wrap_pwrite64(int fd, const void *bytes, size_t count, off_t at);

/* One thread at a time takes. */
static bool take_one(atomic_int *count)
{
	if (atomic_load(count) == 0)
		return false;
	atomic_fetch_sub(count, 1);
	return true;
}

int __wrap_fdatasync(int fd)
{
	atomic_fetch_add(&record_rig_disk.waiting, 1);
	while (atomic_load(&record_rig_disk.gate) && !take_one(&record_rig_disk.passes))
		usleep(100);
	atomic_fetch_sub(&record_rig_disk.waiting, 1);
	if (take_one(&record_rig_disk.fail_syncs)) {
		errno = EIO;
		return -1;
	}
	return __real_fdatasync(fd);
}

ssize_t __wrap_pwrite64(int fd, const void *bytes, size_t count, off_t at)
{
	int error = atomic_load(&record_rig_disk.write_errno);
	if (error) {
		errno = error;
		return -1;
	}
	return __real_pwrite64(fd, bytes, count, at);
}

void record_rig_await_gate(int waiting)
{
	while (atomic_load(&record_rig_disk.waiting) != waiting)
		usleep(100);
}

int record_rig_setup(void **state)
{
	struct record_rig *rig = calloc(1, sizeof(*rig));
	strcpy(rig->parent, "/tmp/hugeferry-test-XXXXXX");
	if (!mkdtemp(rig->parent)) {
		free(rig);
		return -1;
	}
	snprintf(rig->dir, sizeof(rig->dir), "%s/records", rig->parent);
	atomic_store(&record_rig_disk.fail_syncs, 0);
	atomic_store(&record_rig_disk.write_errno, 0);
	atomic_store(&record_rig_disk.passes, 0);
	atomic_store(&record_rig_disk.gate, false);
	*state = rig;
	return 0;
}

int record_rig_teardown(void **state)
{
	struct record_rig *rig = *state;
	DIR *dir = opendir(rig->dir);
	int temporaries = 0;
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		temporaries += strncmp(entry->d_name, ".new-", 5) == 0;
		unlinkat(dirfd(dir), entry->d_name, 0);
		unlinkat(dirfd(dir), entry->d_name, AT_REMOVEDIR);
	}
	if (dir)
		closedir(dir);
	rmdir(rig->dir);
	int r = rmdir(rig->parent);
	free(rig);
	return temporaries ? -1 : r;
}

struct hf_vm_record_description *record_rig_description(enum hf_vm_record_role role, const char *vm_name)
{
	struct hf_vm_record_description *description = NULL;
	assert_int_equal(hf_vm_record_description_create(&description, role, vm_name, getpid(), NULL), 0);
	for (int i = 0; i < HF_VM_RECORD_SESSION_BYTES; i++)
		description->session[i] = (uint8_t)(i * 17);
	description->qmp_target = strdup("qmp:/run/vm.sock");
	description->peer_uri = strdup("tcp:host-b:4444");
	description->vmm_settings = strdup("x-ignore-shared=off max-bandwidth=134217728");
	description->placement = HF_PLACEMENT_CONTINUE;
	description->chunk_bytes = 256 << 10;
	assert_int_equal(hf_vm_record_description_add_block(description, "ram0",
							    "/dev/hugepages/\xc3\xa9 \"0\"", 64ull << 30,
							    1ull << 30, NULL),
			 0);
	assert_int_equal(
	    hf_vm_record_description_add_block(description, "ram1", NULL, 4ull << 20, 2ull << 20, NULL), 0);
	description->blocks[1].vmm_address = 0x7f0000200000;
	description->blocks[1].file_offset_bytes = 6ull << 20;
	static const uint32_t vcpu_thread_ids[] = {4712, 4711};
	assert_int_equal(hf_vm_record_description_set_vcpus(description, vcpu_thread_ids, 2, NULL), 0);
	return description;
}

struct hf_vm_record *record_rig_create(const struct record_rig *rig, enum hf_vm_record_role role)
{
	struct hf_vm_record_description *description = record_rig_description(role, "vm1");
	struct hf_vm_record *record = NULL;
	struct hf_err err = HF_ERR_INIT;
	if (hf_vm_record_create(&record, rig->dir, description, &err) < 0)
		fail_msg("%s", err.text);
	hf_vm_record_description_free(description);
	return record;
}

char *record_rig_file(const char *path, size_t *length_bytes)
{
	struct stat status = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0 && fstat(fd, &status) == 0);
	char *bytes = malloc((size_t)status.st_size + 1);
	assert_non_null(bytes);
	assert_int_equal(read(fd, bytes, (size_t)status.st_size), status.st_size);
	close(fd);
	*length_bytes = (size_t)status.st_size;
	return bytes;
}

char *record_rig_given_up_file(const struct record_rig *rig, bool copied, size_t *length_bytes,
			       unsigned *newer)
{
	struct hf_vm_record *record = record_rig_create(rig, HF_VM_RECORD_OUTGOING);
	struct hf_vm_record_content content;
	assert_int_equal(hf_vm_record_write(record, HF_RECORD_GIVEN_UP, NULL), 0);
	if (copied)
		assert_int_equal(hf_vm_record_copy(record, NULL), 0);
	char *bytes = record_rig_file(hf_vm_record_path(record), length_bytes);
	assert_int_equal(hf_vm_record_decode(bytes, *length_bytes, &content, NULL), 0);
	assert_int_equal(content.copied, copied);
	hf_vm_record_description_free(content.description);
	*newer = content.at;
	assert_int_equal(hf_vm_record_remove(record, NULL), 0);
	hf_vm_record_close(record);
	return bytes;
}

void record_rig_write_file(const char *path, const char *bytes, size_t length_bytes)
{
	int fd = open(path, O_WRONLY | O_TRUNC | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, bytes, length_bytes), length_bytes);
	close(fd);
}

size_t record_rig_seal(const char *body, char *out)
{
	/* Long division, most significant bit first: nothing like the loop under test. */
	size_t bits = strlen(body) * 8;
	uint32_t rest = ~0u;
	for (size_t i = 0; i < bits; i++) {
		uint32_t in = ((uint8_t)body[i / 8] >> (i % 8)) & 1;
		uint32_t top = rest >> 31;
		rest = rest << 1 ^ (top ^ in ? 0x04c11db7u : 0);
	}
	uint32_t crc = 0;
	for (int i = 0; i < 32; i++)
		crc |= ((~rest >> i) & 1) << (31 - i);
	return (size_t)sprintf(out, "%s, \"crc32\": \"%08x\"}", body, crc);
}
