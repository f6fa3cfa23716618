/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host_fixture.h - real huge pages, RAM files and touching threads for the tests of this folder.
 *
 * Purpose: what the host tests share. RAM files are memfds or live on a detached hugetlbfs mount, so nothing
 * is left behind when a test dies; reserved pages are given back by the group's teardown. Ownership: every
 * make has its end. Threads: the functions belong to the test's main thread unless said otherwise. Units:
 * pages of the named size. Errors: a failure fails the running test.
 */
#ifndef HF_TESTS_HOST_FIXTURE_H
#define HF_TESTS_HOST_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <cmocka.h>

#include "tests/unit/hugemem/host_pages.h"

#define MIB	   (UINT64_C(1) << 20)
#define GIB	   (UINT64_C(1) << 30)
#define HUGE_BYTES (2 * MIB)
/* 20 s, or what HF_TEST_WAIT_LIMIT_MS says: less where tests are meant to fail (tests/mutations). */
#define WAIT_LIMIT_MS wait_limit_ms()

/* host_pages_give_back() as a group teardown of cmocka. */
int host_give_back(void **state);

int ram_file_anonymous(uint64_t page_size_bytes, uint64_t pages);
/* A file on a hugetlbfs of its own that holds at most limit_pages pages of 2 MiB in all its files. */
int ram_file_limited(uint64_t pages, uint64_t limit_pages, int *second_file);
/* As a VMM maps it; without reserving. private_mapping: MAP_PRIVATE. */
uint8_t *ram_map(int fd, uint64_t length_bytes, bool private_mapping);
void ram_punch(int fd, uint64_t offset_bytes, uint64_t length_bytes);
/* Is a page mapped in this process? */
bool page_is_mapped(const void *address);

/*
 * A thread that reads one byte, and then writes its value plus one when `write` is set. It may outlive a test
 * that fails, so what it works on is not in here.
 */
struct touch;
struct toucher {
	bool write;
	struct touch *touch;
};
void toucher_start(struct toucher *toucher, void *address);
uint32_t toucher_thread_id(const struct toucher *toucher);
bool toucher_is_done(const struct toucher *toucher);
/* Waits for its end; returns the byte it read. */
uint8_t toucher_join(struct toucher *toucher);
/* For teardown, after the userfaultfd has gone and before the memory goes: ends all that are left. */
void touchers_end(void);

int wait_limit_ms(void);
/* Waits until it holds; fails the test after WAIT_LIMIT_MS. */
void wait_until(bool (*holds)(void *opaque), void *opaque, const char *what);

/* Every byte of a page is `value`. */
void assert_page_filled(const void *page, uint64_t page_size_bytes, uint8_t value);

#endif
