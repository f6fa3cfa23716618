/* SPDX-License-Identifier: Apache-2.0 */
/* platform.h: memory, userfaultfd, and those who touch it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hugemem/residency.h"
#include "hugemem/uffd_open.h"
#include "hugemem/userfault.h"
#include "tests/platform/platform.h"
#include "tests/unit/hugemem/host_pages.h"

#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif

/* Long enough for a machine that does much else; nothing is waited for that is not known to come. */
#define MESSAGE_LIMIT_MS 30000

/* ---- memory ---- */

int ram_file(uint64_t page_bytes, unsigned pages)
{
	unsigned size_flag = (unsigned)__builtin_ctzll(page_bytes) << MFD_HUGE_SHIFT;
	int file = memfd_create("hf-platform", MFD_CLOEXEC | MFD_HUGETLB | size_flag);

	must(file >= 0);
	must(ftruncate(file, (off_t)(pages * page_bytes)) == 0);
	return file;
}

uint8_t *ram_map(int file, uint64_t length_bytes, int flags)
{
	void *address = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE, flags, file, 0);

	must(address != MAP_FAILED);
	return address;
}

struct ram ram_new(uint64_t page_bytes, unsigned pages)
{
	struct ram ram = {.page_bytes = page_bytes,
			  .length_bytes = pages * page_bytes,
			  .pages = pages,
			  .file = ram_file(page_bytes, pages)};

	ram.vmm = ram_map(ram.file, ram.length_bytes, MAP_SHARED | MAP_NORESERVE);
	ram.alias = ram_map(ram.file, ram.length_bytes, MAP_SHARED | MAP_NORESERVE);
	return ram;
}

void ram_punch(const struct ram *ram, unsigned page)
{
	must(fallocate(ram->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)(page * ram->page_bytes),
		       (off_t)ram->page_bytes) == 0);
}

uint64_t ram_pages_held(const struct ram *ram)
{
	struct stat file;

	must(fstat(ram->file, &file) == 0);
	return (uint64_t)file.st_blocks * 512 / ram->page_bytes;
}

void page_mark(uint8_t *page, uint64_t page_bytes, uint8_t value)
{
	page[0] = page[page_bytes - 1] = value;
}

bool page_is_marked(const uint8_t *page, uint64_t page_bytes, uint8_t value)
{
	const volatile uint8_t *bytes = page;

	return bytes[0] == value && bytes[page_bytes - 1] == value;
}

uint8_t *content_new(uint64_t page_bytes, unsigned pages, uint8_t value)
{
	uint64_t length_bytes = pages * page_bytes;
	uint8_t *content = ram_map(-1, length_bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE);

	must(madvise(content, length_bytes, MADV_NOHUGEPAGE) == 0 || errno == EINVAL);
	if (madvise(content, length_bytes, MADV_POPULATE_READ))
		platform_lacks("MADV_POPULATE_READ (Linux 5.14)");
	for (unsigned page = 0; page < pages; page++)
		page_mark(content + page * page_bytes, page_bytes, value);
	return content;
}

bool page_is_mapped(pid_t pid, const void *address)
{
	int pagemap = -1;

	must(hf_vmm_pagemap_open(pid ? pid : getpid(), &pagemap, NULL) == 0);
	int mapped = hf_vmm_page_mapped(pagemap, (uintptr_t)address);
	close(pagemap);
	must(mapped >= 0);
	return mapped;
}

struct taken pool_take_all(uint64_t page_bytes)
{
	struct taken taken = {.length_bytes = host_pages_available(page_bytes) * page_bytes};

	if (taken.length_bytes == 0)
		return taken;
	int file = ram_file(page_bytes, (unsigned)(taken.length_bytes / page_bytes));
	taken.address = ram_map(file, taken.length_bytes, MAP_SHARED);
	close(file);
	return taken;
}

void pool_release(struct taken taken)
{
	must(taken.length_bytes == 0 || munmap(taken.address, taken.length_bytes) == 0);
}

uint64_t pool_counter(uint64_t page_bytes, const char *counter)
{
	char path[128];
	uint64_t value = 0;

	snprintf(path, sizeof(path), "/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/%s", page_bytes / 1024,
		 counter);
	FILE *file = fopen(path, "re");
	must(file && fscanf(file, "%" SCNu64, &value) == 1);
	fclose(file);
	return value;
}

/* ---- userfaultfd ---- */

int uffd_new(uint64_t features)
{
	int uffd = -1;
	struct hf_err err = HF_ERR_INIT;

	if (hf_uffd_open(&uffd, features, &err))
		platform_lacks("%s", err.text);
	return uffd;
}

void uffd_add(int uffd, const void *address, uint64_t length_bytes, uint64_t modes)
{
	int result = hf_userfault_register(uffd, (uintptr_t)address, length_bytes, modes);

	expect(result == 0, "a range of huge pages cannot be registered (modes %" PRIx64 "): %s", modes,
	       strerror(-result));
}

int uffd_of(const struct ram *ram, uint64_t features, uint64_t modes)
{
	int uffd = uffd_new(features);

	uffd_add(uffd, ram->vmm, ram->length_bytes, modes);
	return uffd;
}

struct uffd_msg uffd_next(int uffd, const char *of_what)
{
	struct uffd_msg message;
	struct pollfd polled = {.fd = uffd, .events = POLLIN};

	expect(poll(&polled, 1, MESSAGE_LIMIT_MS) == 1, "no message of %s", of_what);
	must(read(uffd, &message, sizeof(message)) == sizeof(message));
	return message;
}

bool uffd_is_silent(int uffd)
{
	return !is_readable(uffd);
}

void expect_fault(const struct uffd_msg *message, const struct ram *ram, unsigned page, uint64_t kind)
{
	expect(message->event == UFFD_EVENT_PAGEFAULT, "message %u where a fault is due", message->event);
	uint64_t offset_bytes = message->arg.pagefault.address - (uintptr_t)ram->vmm;
	expect(offset_bytes / ram->page_bytes == page, "the fault of page %u names offset %" PRIx64, page,
	       offset_bytes);
	uint64_t found = message->arg.pagefault.flags & (UFFD_PAGEFAULT_FLAG_MINOR | UFFD_PAGEFAULT_FLAG_WP);
	expect(found == kind, "a fault with flags %" PRIx64 ", they were %" PRIx64, found, kind);
}

static uint64_t page_address(const struct ram *ram, unsigned page)
{
	return (uintptr_t)ram_vmm(ram, page);
}

int page_copy(int uffd, const struct ram *ram, unsigned page, const void *content)
{
	return hf_userfault_copy(uffd, page_address(ram, page), content, ram->page_bytes);
}

int page_continue(int uffd, const struct ram *ram, unsigned page)
{
	return hf_userfault_continue(uffd, page_address(ram, page), ram->page_bytes);
}

int page_wake(int uffd, const struct ram *ram, unsigned page)
{
	return hf_userfault_wake(uffd, page_address(ram, page), ram->page_bytes);
}

int page_poison(int uffd, const struct ram *ram, unsigned page)
{
	return hf_userfault_poison(uffd, page_address(ram, page), ram->page_bytes);
}

int uffd_protect(int uffd, const void *address, uint64_t length_bytes)
{
	struct uffdio_writeprotect request = {.range = {.start = (uintptr_t)address, .len = length_bytes},
					      .mode = UFFDIO_WRITEPROTECT_MODE_WP};

	return ioctl(uffd, UFFDIO_WRITEPROTECT, &request) ? -errno : 0;
}

uint64_t written_pages(pid_t pid, const struct ram *ram, bool protect_again)
{
	struct page_region regions[64] = {{0}};
	struct pm_scan_arg scan = {
	    .size = sizeof(scan),
	    .flags = protect_again ? PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC : 0,
	    .start = (uintptr_t)ram->vmm,
	    .end = (uintptr_t)ram->vmm + ram->length_bytes,
	    .vec = (uintptr_t)regions,
	    .vec_len = 64,
	    .category_mask = PAGE_IS_WRITTEN,
	    .return_mask = PAGE_IS_WRITTEN,
	};
	int pagemap = -1;
	uint64_t written = 0;

	must(hf_vmm_pagemap_open(pid ? pid : getpid(), &pagemap, NULL) == 0);
	int count = ioctl(pagemap, PAGEMAP_SCAN, &scan);
	expect(count >= 0, "PAGEMAP_SCAN of write-protected huge pages: %s", strerror(errno));
	close(pagemap);
	for (int i = 0; i < count; i++)
		for (uint64_t at = regions[i].start; at < regions[i].end; at += ram->page_bytes)
			written |= UINT64_C(1) << (at - (uintptr_t)ram->vmm) / ram->page_bytes;
	return written;
}

/* ---- those who touch memory ---- */

static void *touch(void *opaque)
{
	struct toucher *toucher = opaque;

	atomic_store(&toucher->thread_id, gettid());
	toucher->seen = *toucher->address;
	if (toucher->write)
		*toucher->address = 77;
	atomic_store(&toucher->done, true);
	return NULL;
}

void toucher_start(struct toucher *toucher, uint8_t *address, bool write)
{
	*toucher = (struct toucher){.address = address, .write = write};
	must(pthread_create(&toucher->thread, NULL, touch, toucher) == 0);
}

uint8_t toucher_end(struct toucher *toucher)
{
	must(pthread_join(toucher->thread, NULL) == 0);
	return toucher->seen;
}

/* As in /proc/PID/stat: R runs or may run, S and D sleep. */
static char thread_state(int thread_id)
{
	char path[64], state = 'X';

	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", thread_id);
	FILE *file = fopen(path, "re");
	if (!file)
		return state;
	must(fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
	fclose(file);
	return state;
}

bool toucher_sleeps(struct toucher *toucher)
{
	int thread_id = atomic_load(&toucher->thread_id);

	/* In this order: who was woken is seen to run, or else to be done. */
	bool sleeps = thread_id && strchr("SD", thread_state(thread_id));
	return sleeps && !atomic_load(&toucher->done);
}

static sigjmp_buf touched;
static void note_signal(int number)
{
	siglongjmp(touched, number);
}

int touch_signal(volatile uint8_t *address, bool write)
{
	struct sigaction action = {.sa_handler = note_signal};
	struct sigaction old_bus, old_segv;

	must(sigaction(SIGBUS, &action, &old_bus) == 0 && sigaction(SIGSEGV, &action, &old_segv) == 0);
	int number = sigsetjmp(touched, 1);
	if (number == 0) {
		uint8_t value = *address;
		if (write)
			*address = value;
	}
	must(sigaction(SIGBUS, &old_bus, NULL) == 0 && sigaction(SIGSEGV, &old_segv, NULL) == 0);

	return number;
}
