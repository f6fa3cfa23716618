/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/hugemem/host_fixture.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <time.h>
#include <unistd.h>

#include "hugemem/residency.h"

#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif

int ram_file_anonymous(uint64_t page_size_bytes, uint64_t pages)
{
	unsigned page_size_flag = (unsigned)__builtin_ctzll(page_size_bytes) << MFD_HUGE_SHIFT;
	int fd = memfd_create("hf-test-ram", MFD_CLOEXEC | MFD_HUGETLB | page_size_flag);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(pages * page_size_bytes)), 0);
	return fd;
}

static int file_on_mount(int mount_fd, const char *name, uint64_t pages)
{
	int fd = openat(mount_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)(pages * HUGE_BYTES)), 0);
	return fd;
}

int ram_file_limited(uint64_t pages, uint64_t limit_pages, int *second_file)
{
	char size[32];
	int filesystem = fsopen("hugetlbfs", FSOPEN_CLOEXEC);

	assert_true(filesystem >= 0);
	snprintf(size, sizeof(size), "%" PRIu64, limit_pages * HUGE_BYTES);
	assert_int_equal(fsconfig(filesystem, FSCONFIG_SET_STRING, "pagesize", "2M", 0), 0);
	assert_int_equal(fsconfig(filesystem, FSCONFIG_SET_STRING, "size", size, 0), 0);
	assert_int_equal(fsconfig(filesystem, FSCONFIG_CMD_CREATE, NULL, NULL, 0), 0);
	int mount_fd = fsmount(filesystem, FSMOUNT_CLOEXEC, 0);
	assert_true(mount_fd >= 0);
	int fd = file_on_mount(mount_fd, "ram", pages);
	*second_file = file_on_mount(mount_fd, "other", limit_pages);
	close(mount_fd);
	close(filesystem);
	return fd;
}

uint8_t *ram_map(int fd, uint64_t length_bytes, bool private_mapping)
{
	void *address = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE,
			     (private_mapping ? MAP_PRIVATE : MAP_SHARED) | MAP_NORESERVE, fd, 0);

	assert_ptr_not_equal(address, MAP_FAILED);
	return address;
}

void ram_punch(int fd, uint64_t offset_bytes, uint64_t length_bytes)
{
	assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset_bytes,
				   (off_t)length_bytes),
			 0);
}

bool page_is_mapped(const void *address)
{
	int pagemap_fd = -1;

	assert_int_equal(hf_vmm_pagemap_open(getpid(), &pagemap_fd, NULL), 0);
	int mapped = hf_vmm_page_mapped(pagemap_fd, (uintptr_t)address);
	close(pagemap_fd);
	assert_true(mapped >= 0);
	return mapped;
}

struct touch {
	struct touch *next;
	pthread_t thread;
	volatile uint8_t *address;
	bool write;
	bool joined;
	atomic_uint thread_id;
	atomic_bool done;
	uint8_t seen;
};
static struct touch *touches;

static void *touch_address(void *opaque)
{
	struct touch *touch = opaque;

	atomic_store(&touch->thread_id, (unsigned)gettid());
	touch->seen = *touch->address;
	if (touch->write)
		*touch->address = (uint8_t)(touch->seen + 1);
	atomic_store(&touch->done, true);
	return NULL;
}

static bool has_thread_id(void *opaque)
{
	struct touch *touch = opaque;

	return atomic_load(&touch->thread_id) != 0;
}

void toucher_start(struct toucher *toucher, void *address)
{
	struct touch *touch = calloc(1, sizeof(*touch));

	assert_non_null(touch);
	touch->address = address;
	touch->write = toucher->write;
	assert_int_equal(pthread_create(&touch->thread, NULL, touch_address, touch), 0);
	touch->next = touches;
	touches = touch;
	toucher->touch = touch;
	wait_until(has_thread_id, touch, "the touching thread to start");
}

uint32_t toucher_thread_id(const struct toucher *toucher)
{
	return atomic_load(&toucher->touch->thread_id);
}

static bool is_done(void *opaque)
{
	struct touch *touch = opaque;

	return atomic_load(&touch->done);
}

bool toucher_is_done(const struct toucher *toucher)
{
	return is_done(toucher->touch);
}

uint8_t toucher_join(struct toucher *toucher)
{
	wait_until(is_done, toucher->touch, "a touch to end");
	pthread_join(toucher->touch->thread, NULL);
	toucher->touch->joined = true;
	return toucher->touch->seen;
}

void touchers_end(void)
{
	while (touches) {
		struct touch *touch = touches;
		touches = touch->next;
		if (!touch->joined)
			pthread_join(touch->thread, NULL);
		free(touch);
	}
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

int wait_limit_ms(void)
{
	const char *limit = getenv("HF_TEST_WAIT_LIMIT_MS");
	return limit ? (int)strtol(limit, NULL, 10) : 20000;
}

void wait_until(bool (*holds)(void *opaque), void *opaque, const char *what)
{
	uint64_t limit_ms = now_ms() + (uint64_t)WAIT_LIMIT_MS;

	while (!holds(opaque)) {
		if (now_ms() > limit_ms)
			fail_msg("waited %d ms in vain for %s", WAIT_LIMIT_MS, what);
		sched_yield();
	}
}

void assert_page_filled(const void *page, uint64_t page_size_bytes, uint8_t value)
{
	const uint8_t *bytes = page;

	/* Equal to itself moved by one byte: all bytes are the first one. */
	assert_int_equal(bytes[0], value);
	assert_int_equal(memcmp(bytes, bytes + 1, page_size_bytes - 1), 0);
}

int host_give_back(void **state)
{
	(void)state;
	host_pages_give_back();
	return 0;
}
