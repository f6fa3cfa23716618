/* SPDX-License-Identifier: Apache-2.0 */
/*
 * platform.h - what the programs of tests/platform share.
 *
 * Purpose: each program there states one fact about the kernel that the project relies on, and shows it. This
 * runs the fact, once for each size of huge page that is asked for, in a process of its own: it may leave
 * threads blocked, memory mapped and descriptors open, since all of that ends with the process.
 *
 * Ownership: nothing needs to be freed. Threads: the helpers are for the fact's main thread. Units: bytes,
 * pages of the size that is tried. Errors: a fact that does not hold ends the process with one line; so does
 * a preparation that fails (must()).
 */
#ifndef HF_TESTS_PLATFORM_H
#define HF_TESTS_PLATFORM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "hugemem/kernel_compat.h"

#define SIZE_2M (UINT64_C(2) << 20)
#define SIZE_1G (UINT64_C(1) << 30)

#define MISSING	      UFFDIO_REGISTER_MODE_MISSING
#define MINOR	      UFFDIO_REGISTER_MODE_MINOR
#define BOTH	      (MISSING | MINOR)
#define MISSING_FAULT UFFD_FEATURE_MISSING_HUGETLBFS
#define BOTH_FAULTS   (UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS)
#define TRACKING      (UFFD_FEATURE_WP_HUGETLBFS_SHMEM | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC)

/* ---- running a fact ---- */

struct platform_fact {
	const char *claim;
	/* Returns if the fact holds. page_bytes is 0 where `pages` is. */
	void (*show)(uint64_t page_bytes);
	unsigned pages;	      /* huge pages of 2 MiB that must be available; 0: the fact is not about them */
	unsigned giant_pages; /* the same of 1 GiB; 0: not tried with that size */
	uint64_t features;    /* UFFD_FEATURE_*: without them there is nothing to show */
};

/* Prints a TAP line for each size. Returns the exit code: 0 holds, 77 this kernel lacks it, 1 it does not
 * hold. */
int platform_run(const struct platform_fact *fact);

/* Ends the process: "the kernel changed its mind: ...". */
__attribute__((noreturn, format(printf, 1, 2))) void platform_changed(const char *format, ...);
/* Ends the process as skipped: what this kernel lacks. */
__attribute__((noreturn, format(printf, 1, 2))) void platform_lacks(const char *format, ...);
__attribute__((noreturn)) void platform_broken(const char *file, int line, const char *what);

/* The fact itself. */
#define expect(condition, ...) ((condition) ? (void)0 : platform_changed(__VA_ARGS__))
/* What must work before the fact can be shown. */
#define must(condition) ((condition) ? (void)0 : platform_broken(__FILE__, __LINE__, #condition))
/* A result that is 0 or -errno is what it always was; `what` names the call. */
void expect_answer(const char *what, int64_t result, int64_t expected);
#define expect_error(what, result, expected) expect_answer(what, result, -(expected))
/* What COPY answers where no huge page can be had: ENOMEM, or, of 2 MiB and by newer kernels, EEXIST. */
void expect_no_page(const char *what, int64_t result, uint64_t page_bytes);

/* ---- memory ---- */

/* A hugetlbfs file without pages, mapped twice as VMM and agent do, without reservation. */
struct ram {
	uint64_t page_bytes, length_bytes;
	unsigned pages;
	int file;
	uint8_t *vmm, *alias;
};
struct ram ram_new(uint64_t page_bytes, unsigned pages);
int ram_file(uint64_t page_bytes, unsigned pages);
uint8_t *ram_map(int file, uint64_t length_bytes, int flags);
void ram_punch(const struct ram *ram, unsigned page);
/* Pages the file holds, by its block count. */
uint64_t ram_pages_held(const struct ram *ram);
static inline uint8_t *ram_vmm(const struct ram *ram, unsigned page)
{
	return ram->vmm + page * ram->page_bytes;
}
static inline uint8_t *ram_alias(const struct ram *ram, unsigned page)
{
	return ram->alias + page * ram->page_bytes;
}

/* A page's first and last byte: enough to tell a whole page from half of one. */
void page_mark(uint8_t *page, uint64_t page_bytes, uint8_t value);
bool page_is_marked(const uint8_t *page, uint64_t page_bytes, uint8_t value);
/* Memory of small pages that is resident, to copy from: zeros but for the marks of each page. */
uint8_t *content_new(uint64_t page_bytes, unsigned pages, uint8_t value);
/* Does the process (0: this one) have a page here, by its pagemap? */
bool page_is_mapped(pid_t pid, const void *address);
/* Takes every huge page that is available; munmap() of `length_bytes` gives them back. */
struct taken {
	void *address;
	uint64_t length_bytes;
};
struct taken pool_take_all(uint64_t page_bytes);
void pool_release(struct taken taken);
/* A counter of the pool: "free_hugepages" and its like. */
uint64_t pool_counter(uint64_t page_bytes, const char *counter);

/* ---- userfaultfd ---- */

/* With these features and no others, or the program ends as skipped. */
int uffd_new(uint64_t features);
/* As uffd_new(), and the VMM's mapping of ram registered. */
int uffd_of(const struct ram *ram, uint64_t features, uint64_t modes);
void uffd_add(int uffd, const void *address, uint64_t length_bytes, uint64_t modes);
/* The next message; changed if none comes. `of_what` completes "no message of ...". */
struct uffd_msg uffd_next(int uffd, const char *of_what);
bool uffd_is_silent(int uffd);
/* Of page `page` of the range that begins at `start`, and of that kind (UFFD_PAGEFAULT_FLAG_MINOR or 0)? */
void expect_fault(const struct uffd_msg *message, const struct ram *ram, unsigned page, uint64_t kind);
#define MISSING_KIND 0
#define MINOR_KIND   UFFD_PAGEFAULT_FLAG_MINOR

/* The four range calls on one page of the VMM's mapping; 0 or -errno, as in hugemem/userfault.h. */
int page_copy(int uffd, const struct ram *ram, unsigned page, const void *content);
int page_continue(int uffd, const struct ram *ram, unsigned page);
int page_wake(int uffd, const struct ram *ram, unsigned page);
int page_poison(int uffd, const struct ram *ram, unsigned page);

/* Write-protects a range, so that writes to it are noticed. 0 or -errno. */
int uffd_protect(int uffd, const void *address, uint64_t length_bytes);
/*
 * Bits, one a page, of the pages that were written since they were last protected, of process `pid` (0: this
 * one); protects them again when asked to.
 */
uint64_t written_pages(pid_t pid, const struct ram *ram, bool protect_again);

/* ---- those who touch memory ---- */

struct toucher {
	pthread_t thread;
	volatile uint8_t *address;
	bool write; /* 77, after it has read */
	uint8_t seen;
	atomic_int thread_id;
	atomic_bool done;
};
void toucher_start(struct toucher *toucher, uint8_t *address, bool write);
/* Waits for its end; returns what it read. */
uint8_t toucher_end(struct toucher *toucher);

/*
 * Sleeps in the kernel, and nobody has woken it: a thread that was woken is running or done, however late it
 * gets a processor.
 */
bool toucher_sleeps(struct toucher *toucher);

/* Touches an address in this thread; returns the signal that came of it, 0 if none. */
int touch_signal(volatile uint8_t *address, bool write);

/* ---- other processes ---- */

/* As fork(); the child ends when this process does. */
pid_t platform_fork(void);
/* Waits for its end; the process's exit code, or 128 and the signal. */
int platform_wait(pid_t child);
/* One byte of a pipe, as a message between processes. */
void say(int fd, uint8_t byte);
uint8_t hear(int fd);
bool is_readable(int fd);

#endif
