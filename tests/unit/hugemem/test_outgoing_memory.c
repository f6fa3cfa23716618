/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The source's memory port: which pages exist, found without making any. The linker puts the scan of the
 * file's pages behind a wrapper here, which can be made blind, as a kernel that is not known would be; and
 * ioctl(), which can be made to know no PAGEMAP_SCAN, as kernels before 6.7.
 */
#include "tests/unit/hugemem/host_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "hugemem/guest_memory.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/residency.h"
#include "hugemem/uffd_open.h"
#include "hugemem/userfault.h"

#define PAGES 12u

struct source {
	int fd;
	uint8_t *vmm; /* the VMM's mapping; the VMM is this process */
	char path[64];
	struct hf_outgoing_memory *memory;
	struct hf_ramblocks blocks;
	struct hf_err err;
};

static bool blind, old_kernel;
static unsigned file_scans, table_scans;

int __real_ioctl(int fd, unsigned long request, void *argument);
int __wrap_ioctl(int fd, unsigned long request, void *argument);

int __wrap_ioctl(int fd, unsigned long request, void *argument)
{
	if (request == PAGEMAP_SCAN) {
		table_scans++;
		if (old_kernel) {
			errno = ENOTTY;
			return -1;
		}
	}
	return __real_ioctl(fd, request, argument);
}

int __real_hf_file_pages_scan(int fd, uint64_t page_size_bytes, struct hf_file_pages *out,
			      struct hf_err *err);
int __wrap_hf_file_pages_scan(int fd, uint64_t page_size_bytes, struct hf_file_pages *out,
			      struct hf_err *err);

int __wrap_hf_file_pages_scan(int fd, uint64_t page_size_bytes, struct hf_file_pages *out, struct hf_err *err)
{
	int result = __real_hf_file_pages_scan(fd, page_size_bytes, out, err);

	file_scans++;
	if (result == 0 && blind) {
		memset(out->bits, 0, (out->pages + 7) / 8);
		out->present = 0;
	}
	return result;
}

/* Where tests run there may be processes that may not be looked into. */
static bool alone;

int __real_hf_file_mapped_by_others(const struct stat *file, pid_t vmm_pid);
int __wrap_hf_file_mapped_by_others(const struct stat *file, pid_t vmm_pid);

int __wrap_hf_file_mapped_by_others(const struct stat *file, pid_t vmm_pid)
{
	return alone ? 0 : __real_hf_file_mapped_by_others(file, vmm_pid);
}

static void make_file(struct source *source, uint64_t pages)
{
	blind = alone = false;
	file_scans = table_scans = 0;
	*source = (struct source){.fd = ram_file_anonymous(HUGE_BYTES, pages)};
	snprintf(source->path, sizeof(source->path), "/proc/self/fd/%d", source->fd);
	hf_ramblocks_init(&source->blocks);
}

static int create(struct source *source, pid_t pid, uint64_t length_bytes)
{
	const struct hf_outgoing_region region = {
	    .idstr = "ram0", .path = source->path, .length_bytes = length_bytes};

	return hf_outgoing_memory_create(&source->memory, pid, &region, 1, &source->blocks, &source->err);
}

static void open_source(struct source *source)
{
	make_file(source, PAGES);
	source->vmm = ram_map(source->fd, PAGES * HUGE_BYTES, false);
	assert_int_equal(create(source, getpid(), PAGES * HUGE_BYTES), 0);
}

static void close_source(struct source *source)
{
	hf_outgoing_memory_destroy(source->memory);
	hf_ramblocks_destroy(&source->blocks);
	if (source->vmm)
		munmap(source->vmm, PAGES * HUGE_BYTES);
	close(source->fd);
}

static unsigned presence(struct source *source)
{
	struct hf_source_memory port = hf_outgoing_memory_port(source->memory);
	uint8_t bitmap[2] = {0};

	int result = port.ops->presence(port.self, 0, bitmap, sizeof(bitmap), &source->err);
	if (result)
		fail_msg("%s", source->err.text);
	return bitmap[0] | (unsigned)bitmap[1] << 8;
}

static uint64_t pages_in_file(const struct source *source)
{
	struct stat file;

	assert_int_equal(fstat(source->fd, &file), 0);
	return (uint64_t)file.st_blocks * 512 / HUGE_BYTES;
}

static void blocks_are_filled_with_name_length_and_page_size(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	assert_int_equal(source.blocks.count, 1);
	assert_string_equal(source.blocks.blocks[0].idstr, "ram0");
	assert_int_equal(source.blocks.blocks[0].length_bytes, PAGES * HUGE_BYTES);
	assert_int_equal(source.blocks.blocks[0].page_size_bytes, HUGE_BYTES);
	close_source(&source);
}

static void an_untouched_file_has_no_pages(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	assert_int_equal(presence(&source), 0);
	assert_int_equal(pages_in_file(&source), 0);
	close_source(&source);
}

static void touched_pages_are_present_and_holes_stay_holes(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	source.vmm[0] = 1;
	source.vmm[3 * HUGE_BYTES] = 1;
	source.vmm[11 * HUGE_BYTES] = 1;
	uint64_t free_pages = host_pages_free(HUGE_BYTES);
	assert_int_equal(presence(&source), 1u << 0 | 1u << 3 | 1u << 11);
	assert_int_equal(pages_in_file(&source), 3);
	assert_int_equal(host_pages_free(HUGE_BYTES), free_pages);
	close_source(&source);
}

/*
 * A page table of huge-page entries covers 1 GiB. Where the kernel will put the next mapping, and in the
 * table below, something is mapped from here on: a scan has to find itself a table of its own.
 */
static void fill_page_tables_nearby(void *pages[2])
{
	const uintptr_t table_bytes = 512 * HUGE_BYTES;
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE;

	pages[0] = mmap(NULL, 4096, PROT_READ, flags, -1, 0);
	assert_ptr_not_equal(pages[0], MAP_FAILED);
	uintptr_t table = (uintptr_t)pages[0] & ~(table_bytes - 1);
	pages[1] = mmap((void *)(table - table_bytes), 4096, PROT_READ, flags | MAP_FIXED_NOREPLACE, -1, 0);
	if (pages[1] == MAP_FAILED)
		assert_int_equal(errno, EEXIST);
}

static void empty_page_tables(void *pages[2])
{
	for (int i = 0; i < 2; i++)
		if (pages[i] != MAP_FAILED)
			munmap(pages[i], 4096);
}

static void a_page_that_the_vmm_has_let_go_of_is_present(void **state)
{
	(void)state;
	struct source source;
	void *nearby[2];

	open_source(&source);
	fill_page_tables_nearby(nearby);
	for (int page = 0; page < 4; page++)
		source.vmm[page * HUGE_BYTES] = 1;
	assert_int_equal(madvise(source.vmm + HUGE_BYTES, 2 * HUGE_BYTES, MADV_DONTNEED), 0);
	assert_false(page_is_mapped(source.vmm + HUGE_BYTES));
	assert_int_equal(presence(&source), 0xf);
	assert_int_equal(pages_in_file(&source), 4); /* the look into the file has filled no hole */
	empty_page_tables(nearby);
	close_source(&source);
}

static void a_page_that_only_another_process_touched_is_present(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	pid_t child = fork();
	if (child == 0) {
		uint8_t *other =
		    mmap(NULL, PAGES * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, source.fd, 0);
		other[5 * HUGE_BYTES] = 1;
		_exit(0);
	}
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(presence(&source), 1u << 5);
	close_source(&source);
}

static void reading_a_page_does_not_hide_the_others(void **state)
{
	(void)state;
	struct source source;
	struct hf_source_memory port;

	open_source(&source);
	for (int page = 0; page < 6; page += 2)
		source.vmm[page * HUGE_BYTES] = (uint8_t)(page + 1);
	assert_int_equal(madvise(source.vmm, PAGES * HUGE_BYTES, MADV_DONTNEED), 0);
	port = hf_outgoing_memory_port(source.memory);
	/* From here on the agent's mapping has a page table, in which pages 0 and 4 are absent. */
	const void *bytes = NULL;
	assert_int_equal(port.ops->chunk(port.self, 0, 2 * HUGE_BYTES, 4096, &bytes, NULL), 0);
	assert_non_null(bytes);
	assert_int_equal(*(const uint8_t *)bytes, 3);
	assert_int_equal(presence(&source), 1u << 0 | 1u << 2 | 1u << 4);
	close_source(&source);
}

/* Of the first bytes of a page; the page that fails is named. */
static int chunk_of(struct source *source, uint64_t page, const void **bytes)
{
	struct hf_source_memory port = hf_outgoing_memory_port(source->memory);

	source->err = HF_ERR_INIT;
	return port.ops->chunk(port.self, 0, page * HUGE_BYTES, 4096, bytes, &source->err);
}

static void a_file_cut_short_is_an_error_and_not_the_end(void **state)
{
	(void)state;
	struct source source;
	const void *bytes = NULL;

	open_source(&source);
	source.vmm[2 * HUGE_BYTES] = 7;
	source.vmm[5 * HUGE_BYTES] = 8;
	assert_int_equal(chunk_of(&source, 5, &bytes), 0);
	assert_int_equal(*(const uint8_t *)bytes, 8);
	assert_int_equal(ftruncate(source.fd, 4 * HUGE_BYTES), 0);
	assert_int_equal(chunk_of(&source, 5, &bytes), -EIO);
	assert_non_null(strstr(source.err.text, "page 5 is gone"));
	assert_non_null(strstr(source.err.text, "8 MiB"));
	assert_int_equal(chunk_of(&source, 2, &bytes), 0);
	assert_int_equal(*(const uint8_t *)bytes, 7);
	close_source(&source);
}

/* A poison marker where the agent reads is what a page with a memory error becomes. */
static void a_memory_error_is_an_error_and_not_the_end(void **state)
{
	(void)state;
	struct source source;
	const void *bytes = NULL;
	int userfault;

	open_source(&source);
	source.vmm[0] = 7;
	source.vmm[HUGE_BYTES] = 8;
	assert_int_equal(chunk_of(&source, 1, &bytes), 0);
	void *page = mmap((void *)bytes, HUGE_BYTES, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE | MAP_FIXED, -1, 0);
	assert_ptr_equal(page, bytes);
	assert_int_equal(hf_uffd_open(&userfault, UFFD_FEATURE_POISON, NULL), 0);
	assert_int_equal(
	    hf_userfault_register(userfault, (uintptr_t)page, HUGE_BYTES, UFFDIO_REGISTER_MODE_MISSING), 0);
	assert_int_equal(hf_userfault_poison(userfault, (uintptr_t)page, HUGE_BYTES), 0);
	assert_int_equal(chunk_of(&source, 1, &bytes), -EIO);
	assert_non_null(strstr(source.err.text, "page 1 cannot be read: a memory error"));
	assert_int_equal(chunk_of(&source, 0, &bytes), 0);
	close(userfault);
	close_source(&source);
}

static void what_the_vmm_has_mapped_is_found_without_the_file(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	source.vmm[HUGE_BYTES] = 1;
	source.vmm[10 * HUGE_BYTES] = 1;
	blind = true;
	assert_int_equal(presence(&source), 1u << 1 | 1u << 10);
	close_source(&source);
}

static void pages_that_cannot_be_found_are_not_taken_for_holes(void **state)
{
	(void)state;
	struct source source;
	uint8_t bitmap[2] = {0xaa, 0xaa};

	open_source(&source);
	source.vmm[HUGE_BYTES] = 1;
	source.vmm[2 * HUGE_BYTES] = 1;
	assert_int_equal(madvise(source.vmm + HUGE_BYTES, HUGE_BYTES, MADV_DONTNEED), 0);
	blind = true;
	struct hf_source_memory port = hf_outgoing_memory_port(source.memory);
	assert_int_equal(port.ops->presence(port.self, 0, bitmap, sizeof(bitmap), &source.err), -EAGAIN);
	assert_non_null(strstr(source.err.text, "'ram0': its RAM file holds 2 pages, but only 1 "));
	assert_int_equal(bitmap[0], 0xaa);
	close_source(&source);
}

/* Does what registering with an adapter does: every page of the mapping is there afterwards. */
static void lend_and_register(struct source *source)
{
	struct hf_lent_range ranges[HF_RAMBLOCKS_MAX];

	assert_int_equal(hf_outgoing_memory_lend(source->memory, ranges, &source->err), 0);
	assert_int_equal(ranges[0].length_bytes, PAGES * HUGE_BYTES);
	assert_int_equal(madvise(ranges[0].address, ranges[0].length_bytes, MADV_POPULATE_WRITE), 0);
	assert_int_equal(pages_in_file(source), PAGES);
}

static void holes_of_lent_memory_are_holes_though_they_are_filled(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	source.vmm[HUGE_BYTES] = 1;
	source.vmm[4 * HUGE_BYTES] = 1;
	assert_int_equal(madvise(source.vmm + HUGE_BYTES, HUGE_BYTES, MADV_DONTNEED), 0);
	alone = true;
	lend_and_register(&source);
	assert_int_equal(presence(&source), 1u << 1 | 1u << 4);
	source.vmm[9 * HUGE_BYTES] = 1; /* touched since */
	assert_int_equal(presence(&source), 1u << 1 | 1u << 4 | 1u << 9);
	close_source(&source);
}

static void lent_memory_that_others_map_too_is_all_present(void **state)
{
	(void)state;
	struct source source;
	int ready[2], done[2];
	char byte = 0;

	open_source(&source);
	assert_int_equal(pipe(ready) | pipe(done), 0);
	pid_t child = fork();
	if (child == 0) {
		close(done[1]); /* so that it ends with the test */
		void *other =
		    mmap(NULL, PAGES * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, source.fd, 0);
		_exit(other == MAP_FAILED || write(ready[1], &byte, 1) != 1 || read(done[0], &byte, 1) != 1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	lend_and_register(&source);
	assert_int_equal(presence(&source), (1u << PAGES) - 1);
	assert_int_equal(write(done[1], &byte, 1), 1);
	assert_int_equal(waitpid(child, NULL, 0), child);
	for (int i = 0; i < 2; i++) {
		close(ready[i]);
		close(done[i]);
	}
	close_source(&source);
}

static void lent_pages_that_were_discarded_since_are_refused(void **state)
{
	(void)state;
	struct source source;
	uint8_t bitmap[2] = {0};

	open_source(&source);
	memset(source.vmm, 1, 3 * HUGE_BYTES);
	lend_and_register(&source);
	assert_int_equal(
	    fallocate(source.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, HUGE_BYTES, HUGE_BYTES), 0);
	source.vmm[HUGE_BYTES] = 2; /* another page is there now; the adapter has the old one */
	assert_int_equal(pages_in_file(&source), PAGES);
	struct hf_source_memory port = hf_outgoing_memory_port(source.memory);
	assert_int_equal(port.ops->presence(port.self, 0, bitmap, sizeof(bitmap), &source.err), -ESTALE);
	assert_non_null(strstr(source.err.text, "1 pages were given back"));
	close_source(&source);
}

static int never_begun(void *opaque, struct hf_err *err)
{
	(void)opaque;
	(void)err;
	return 0;
}

static void memory_that_is_given_back_is_not_lent(void **state)
{
	(void)state;
	struct source source;
	struct hf_lent_range ranges[HF_RAMBLOCKS_MAX];

	open_source(&source);
	assert_int_equal(
	    hf_outgoing_memory_allow_release(source.memory, false, never_begun, NULL, &source.err), 0);
	assert_int_equal(hf_outgoing_memory_lend(source.memory, ranges, &source.err), -EBUSY);
	close_source(&source);
}

static void a_full_file_is_all_present(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	for (unsigned page = 0; page < PAGES; page++)
		source.vmm[page * HUGE_BYTES] = 1;
	assert_int_equal(presence(&source), (1u << PAGES) - 1);
	close_source(&source);
}

static void the_vmms_page_tables_are_enough_if_they_hold_all_the_file_holds(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	source.vmm[HUGE_BYTES] = 1;
	source.vmm[2 * HUGE_BYTES] = 1;
	source.vmm[9 * HUGE_BYTES] = 1;
	assert_int_equal(presence(&source), 1u << 1 | 1u << 2 | 1u << 9);
	assert_int_equal(file_scans, 0);
	assert_int_equal(table_scans, 1);

	/* One page that the VMM has let go of, and the file is looked at. */
	assert_int_equal(madvise(source.vmm + HUGE_BYTES, HUGE_BYTES, MADV_DONTNEED), 0);
	assert_int_equal(presence(&source), 1u << 1 | 1u << 2 | 1u << 9);
	assert_int_equal(file_scans, 1);
	close_source(&source);
}

static void more_runs_of_pages_than_one_call_returns_are_found(void **state)
{
	(void)state;
	const uint64_t pages = 140; /* every second one: 70 runs */
	struct source source;
	uint8_t bitmap[18] = {0};

	make_file(&source, pages);
	source.vmm = ram_map(source.fd, pages * HUGE_BYTES, false);
	assert_int_equal(create(&source, getpid(), pages * HUGE_BYTES), 0);
	for (uint64_t page = 0; page < pages; page += 2)
		source.vmm[page * HUGE_BYTES] = 1;
	struct hf_source_memory port = hf_outgoing_memory_port(source.memory);
	assert_int_equal(port.ops->presence(port.self, 0, bitmap, sizeof(bitmap), &source.err), 0);
	for (uint64_t page = 0; page < pages; page++)
		assert_int_equal(bitmap[page / 8] >> page % 8 & 1, page % 2 == 0);
	assert_int_equal(file_scans, 0);
	munmap(source.vmm, pages * HUGE_BYTES);
	source.vmm = NULL;
	close_source(&source);
}

static void a_punched_page_is_a_hole_again(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	source.vmm[0] = 1;
	source.vmm[HUGE_BYTES] = 1;
	ram_punch(source.fd, 0, HUGE_BYTES);
	assert_int_equal(presence(&source), 1u << 1);
	close_source(&source);
}

static void a_file_is_given_back_whole_when_its_vm_is_elsewhere(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	uint64_t before = host_pages_free(HUGE_BYTES);
	source.vmm[0] = source.vmm[5 * HUGE_BYTES] = 1;
	assert_int_equal(host_pages_free(HUGE_BYTES), before - 2);
	munmap(source.vmm, PAGES * HUGE_BYTES); /* its VMM has ended */
	source.vmm = NULL;
	assert_int_equal(pages_in_file(&source), 2);
	assert_int_equal(hf_outgoing_memory_discard(source.memory, &source.err), 0);
	assert_int_equal(pages_in_file(&source), 0);
	assert_int_equal(host_pages_free(HUGE_BYTES), before);
	close_source(&source);
}

static void a_file_mapped_in_pieces_is_found_whole(void **state)
{
	(void)state;
	struct source source;

	make_file(&source, PAGES);
	uint8_t *high =
	    mmap(NULL, 4 * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, source.fd, 8 * HUGE_BYTES);
	uint8_t *low = mmap(NULL, 4 * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, source.fd, 0);
	assert_ptr_not_equal(high, MAP_FAILED);
	assert_ptr_not_equal(low, MAP_FAILED);
	assert_int_equal(create(&source, getpid(), PAGES * HUGE_BYTES), 0);
	high[HUGE_BYTES] = 1;
	low[2 * HUGE_BYTES] = 1;
	assert_int_equal(presence(&source), 1u << 9 | 1u << 2);
	munmap(high, 4 * HUGE_BYTES);
	munmap(low, 4 * HUGE_BYTES);
	close_source(&source);
}

static void presence_outlives_the_vmm(void **state)
{
	(void)state;
	struct source source;
	int ready[2], quit[2];
	char byte = 0;

	make_file(&source, PAGES);
	assert_int_equal(pipe(ready), 0);
	assert_int_equal(pipe(quit), 0);
	pid_t child = fork();
	if (child == 0) {
		uint8_t *vmm =
		    mmap(NULL, PAGES * HUGE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, source.fd, 0);
		vmm[7 * HUGE_BYTES] = 1;
		_exit(write(ready[1], "", 1) != 1 || read(quit[0], &byte, 1) != 1);
	}
	assert_int_equal(read(ready[0], &byte, 1), 1);
	int created = create(&source, child, PAGES * HUGE_BYTES);
	assert_int_equal(write(quit[1], "", 1), 1);
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(created, 0);
	assert_int_equal(presence(&source), 1u << 7);
	for (int end = 0; end < 2; end++) {
		close(ready[end]);
		close(quit[end]);
	}
	close_source(&source);
}

static void a_bitmap_of_another_length_is_refused(void **state)
{
	(void)state;
	struct source source;
	uint8_t bitmap[3] = {0};

	open_source(&source);
	struct hf_source_memory port = hf_outgoing_memory_port(source.memory);
	assert_int_equal(port.ops->presence(port.self, 0, bitmap, 1, NULL), -EINVAL);
	assert_int_equal(port.ops->presence(port.self, 0, bitmap, 3, NULL), -EINVAL);
	close_source(&source);
}

static void a_file_that_the_vmm_has_not_mapped_is_refused(void **state)
{
	(void)state;
	struct source source;

	make_file(&source, PAGES);
	assert_int_equal(create(&source, getpid(), PAGES * HUGE_BYTES), -ENOENT);
	assert_non_null(strstr(source.err.text, "ram0"));
	assert_int_equal(source.blocks.count, 0);
	close_source(&source);
}

static void a_private_mapping_is_refused(void **state)
{
	(void)state;
	struct source source;

	make_file(&source, PAGES);
	source.vmm = ram_map(source.fd, PAGES * HUGE_BYTES, true);
	assert_int_equal(create(&source, getpid(), PAGES * HUGE_BYTES), -EINVAL);
	assert_non_null(strstr(source.err.text, "shared"));
	close_source(&source);
}

static void a_vm_that_another_program_moves_is_refused(void **state)
{
	(void)state;
	struct source source;
	struct hf_outgoing_memory *first;

	open_source(&source);
	first = source.memory;
	struct hf_ramblocks blocks = source.blocks;
	hf_ramblocks_init(&source.blocks);
	assert_int_equal(create(&source, getpid(), PAGES * HUGE_BYTES), -EBUSY);
	assert_non_null(strstr(source.err.text, "another program"));
	source.memory = first;
	source.blocks = blocks;
	close_source(&source);
}

static void a_vm_that_is_still_being_received_is_refused(void **state)
{
	(void)state;
	struct source source;
	struct uffdio_api api = {.api = UFFD_API};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	make_file(&source, PAGES);
	source.vmm = ram_map(source.fd, PAGES * HUGE_BYTES, false);
	assert_int_equal(ioctl(fd, UFFDIO_API, &api), 0);
	struct uffdio_register range = {.range = {(uintptr_t)source.vmm, PAGES * HUGE_BYTES},
					.mode = UFFDIO_REGISTER_MODE_MISSING};
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &range), 0);
	assert_int_equal(create(&source, getpid(), PAGES * HUGE_BYTES), -EBUSY);
	assert_non_null(strstr(source.err.text, "still being received"));
	close(fd);
	close_source(&source);
}

static void a_length_past_the_file_is_refused(void **state)
{
	(void)state;
	struct source source;

	make_file(&source, PAGES);
	source.vmm = ram_map(source.fd, PAGES * HUGE_BYTES, false);
	assert_int_equal(create(&source, getpid(), (PAGES + 1) * HUGE_BYTES), -EINVAL);
	assert_int_equal(create(&source, getpid(), HUGE_BYTES + 4096), -EINVAL);
	assert_int_equal(create(&source, getpid(), 0), -EINVAL);
	close_source(&source);
}

static void memory_that_is_not_hugetlbfs_is_refused(void **state)
{
	(void)state;
	struct source source = {.fd = memfd_create("small", MFD_CLOEXEC)};

	snprintf(source.path, sizeof(source.path), "/proc/self/fd/%d", source.fd);
	assert_int_equal(ftruncate(source.fd, 4 * MIB), 0);
	assert_int_equal(create(&source, getpid(), 4 * MIB), -EMEDIUMTYPE);
	assert_non_null(strstr(source.err.text, "ram0"));
	close_source(&source);
}

static void a_scan_counts_what_the_file_system_accounts_for(void **state)
{
	(void)state;
	struct hf_file_pages pages;
	struct source source;

	open_source(&source);
	source.vmm[2 * HUGE_BYTES] = 1;
	assert_int_equal(hf_file_pages_scan(source.fd, HUGE_BYTES, &pages, NULL), 0);
	assert_int_equal(pages.pages, PAGES);
	assert_int_equal(pages.present, 1);
	assert_int_equal(pages.accounted, 1);
	assert_true(hf_file_page_present(&pages, 2));
	assert_false(hf_file_page_present(&pages, PAGES));
	hf_file_pages_free(&pages);
	close_source(&source);
}

static int on_an_old_kernel(void **state)
{
	(void)state;
	old_kernel = true;
	return 0;
}

static int on_this_kernel(void **state)
{
	(void)state;
	old_kernel = false;
	return 0;
}

#define OLD(test)                                                                                            \
	{                                                                                                    \
		"before PAGEMAP_SCAN: " #test, test, on_an_old_kernel, on_this_kernel, NULL                  \
	}

static int reserve(void **state)
{
	(void)state;
	return host_pages_reserve(HUGE_BYTES, 2 * PAGES + 70);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(blocks_are_filled_with_name_length_and_page_size),
	    cmocka_unit_test(an_untouched_file_has_no_pages),
	    cmocka_unit_test(touched_pages_are_present_and_holes_stay_holes),
	    cmocka_unit_test(a_page_that_the_vmm_has_let_go_of_is_present),
	    cmocka_unit_test(a_page_that_only_another_process_touched_is_present),
	    cmocka_unit_test(reading_a_page_does_not_hide_the_others),
	    cmocka_unit_test(a_file_cut_short_is_an_error_and_not_the_end),
	    cmocka_unit_test(a_memory_error_is_an_error_and_not_the_end),
	    cmocka_unit_test(what_the_vmm_has_mapped_is_found_without_the_file),
	    cmocka_unit_test(pages_that_cannot_be_found_are_not_taken_for_holes),
	    cmocka_unit_test(holes_of_lent_memory_are_holes_though_they_are_filled),
	    cmocka_unit_test(lent_memory_that_others_map_too_is_all_present),
	    cmocka_unit_test(lent_pages_that_were_discarded_since_are_refused),
	    cmocka_unit_test(memory_that_is_given_back_is_not_lent),
	    cmocka_unit_test(a_full_file_is_all_present),
	    cmocka_unit_test(the_vmms_page_tables_are_enough_if_they_hold_all_the_file_holds),
	    cmocka_unit_test(more_runs_of_pages_than_one_call_returns_are_found),
	    cmocka_unit_test(a_punched_page_is_a_hole_again),
	    cmocka_unit_test(a_file_is_given_back_whole_when_its_vm_is_elsewhere),
	    cmocka_unit_test(a_file_mapped_in_pieces_is_found_whole),
	    cmocka_unit_test(presence_outlives_the_vmm),
	    cmocka_unit_test(a_bitmap_of_another_length_is_refused),
	    cmocka_unit_test(a_file_that_the_vmm_has_not_mapped_is_refused),
	    cmocka_unit_test(a_private_mapping_is_refused),
	    cmocka_unit_test(a_vm_that_another_program_moves_is_refused),
	    cmocka_unit_test(a_vm_that_is_still_being_received_is_refused),
	    cmocka_unit_test(a_length_past_the_file_is_refused),
	    cmocka_unit_test(memory_that_is_not_hugetlbfs_is_refused),
	    cmocka_unit_test(a_scan_counts_what_the_file_system_accounts_for),
	    OLD(touched_pages_are_present_and_holes_stay_holes),
	    OLD(a_page_that_the_vmm_has_let_go_of_is_present),
	    OLD(what_the_vmm_has_mapped_is_found_without_the_file),
	    OLD(pages_that_cannot_be_found_are_not_taken_for_holes),
	    OLD(a_file_mapped_in_pieces_is_found_whole),
	    OLD(presence_outlives_the_vmm),
	};

	return cmocka_run_group_tests(tests, reserve, host_give_back);
}
