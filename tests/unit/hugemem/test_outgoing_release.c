/* SPDX-License-Identifier: Apache-2.0 */
/* The source's memory port gives pages back: those and no others, to the host's pool, in a thread of its own.
 */
#include "tests/unit/hugemem/host_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hugemem/guest_memory.h"
#include "hugemem/kernel_compat.h"

#define PAGES 8u

struct source {
	int fd;
	uint8_t *vmm; /* the VMM's mapping; the VMM is this process */
	struct hf_outgoing_memory *memory;
	struct hf_source_memory port;
	struct hf_ramblocks blocks;
	struct hf_err err;
	unsigned begun;
	int begin_result;
	/* The engine's part. */
	atomic_uint work_left, worked;
	int release_result;
};

static int begin(void *opaque, struct hf_err *err)
{
	struct source *source = opaque;

	source->begun++;
	return source->begin_result ? hf_err_set(err, HF_ERR_LOCAL, -source->begin_result, "no record") : 0;
}

static void create(struct source *source)
{
	char path[64];
	struct hf_outgoing_region region = {
	    .idstr = "ram0", .path = path, .length_bytes = PAGES * HUGE_BYTES};

	*source = (struct source){.fd = ram_file_anonymous(HUGE_BYTES, PAGES)};
	source->vmm = ram_map(source->fd, PAGES * HUGE_BYTES, false);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", source->fd);
	hf_ramblocks_init(&source->blocks);
	assert_int_equal(
	    hf_outgoing_memory_create(&source->memory, getpid(), &region, 1, &source->blocks, NULL), 0);
	source->port = hf_outgoing_memory_port(source->memory);
}

static void open_source(struct source *source)
{
	create(source);
	for (unsigned page = 0; page < PAGES; page++)
		memset(source->vmm + page * HUGE_BYTES, (int)page + 1, HUGE_BYTES);
	assert_int_equal(hf_outgoing_memory_allow_release(source->memory, false, begin, source, &source->err),
			 0);
}

static void close_source(struct source *source)
{
	hf_outgoing_memory_destroy(source->memory);
	hf_ramblocks_destroy(&source->blocks);
	munmap(source->vmm, PAGES * HUGE_BYTES);
	close(source->fd);
}

static unsigned presence(struct source *source)
{
	uint8_t bitmap[1] = {0};

	assert_int_equal(
	    source->port.ops->presence(source->port.self, 0, bitmap, sizeof(bitmap), &source->err), 0);
	return bitmap[0];
}

static int release(struct source *source, uint64_t first, uint32_t pages)
{
	return source->port.ops->release(source->port.self, 0, first, pages, &source->err);
}

static void released_pages_come_back_to_the_host_and_others_stay(void **state)
{
	(void)state;
	struct source source;
	const void *bytes = NULL;

	open_source(&source);
	/* Read here too, as serving does: this mapping must not keep the page either. */
	assert_int_equal(source.port.ops->chunk(source.port.self, 0, 3 * HUGE_BYTES, 4096, &bytes, NULL), 0);
	uint64_t before = host_pages_available(HUGE_BYTES);
	assert_int_equal(release(&source, 2, 3), 0);
	assert_int_equal(release(&source, 7, 1), 0);
	assert_int_equal(host_pages_available(HUGE_BYTES), before + 4);
	assert_int_equal(presence(&source), 0x63);
	for (unsigned page = 0; page < PAGES; page++)
		if (0x63 >> page & 1)
			assert_page_filled(source.vmm + page * HUGE_BYTES, HUGE_BYTES, (uint8_t)(page + 1));
	assert_int_equal(host_pages_available(HUGE_BYTES), before + 4);
	close_source(&source);
}

static void releasing_again_changes_nothing(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	assert_int_equal(release(&source, 0, 1), 0);
	uint64_t before = host_pages_available(HUGE_BYTES);
	assert_int_equal(release(&source, 0, 1), 0);
	assert_int_equal(host_pages_available(HUGE_BYTES), before);
	close_source(&source);
}

static void it_is_on_record_before_the_first_page_goes(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	source.begin_result = -EIO;
	assert_int_equal(release(&source, 0, 1), -EIO);
	assert_non_null(strstr(source.err.text, "block 'ram0' page 0: no record"));
	assert_int_equal(presence(&source), 0xff);
	source.begin_result = 0;
	assert_int_equal(release(&source, 0, 1), 0);
	assert_int_equal(release(&source, 1, 1), 0);
	assert_int_equal(source.begun, 2);
	assert_int_equal(presence(&source), 0xfc);
	close_source(&source);
}

static void memory_whose_writes_somebody_else_tracks_is_refused(void **state)
{
	(void)state;
	struct source source;
	struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_WP_HUGETLBFS_SHMEM};
	int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	source = (struct source){.fd = ram_file_anonymous(HUGE_BYTES, PAGES)};
	source.vmm = ram_map(source.fd, PAGES * HUGE_BYTES, false);
	if (ioctl(fd, UFFDIO_API, &api)) {
		print_message("this kernel tracks no writes of huge pages: %s\n", strerror(errno));
		skip();
	}
	struct uffdio_register range = {.range = {(uintptr_t)source.vmm, PAGES * HUGE_BYTES},
					.mode = UFFDIO_REGISTER_MODE_WP};
	assert_int_equal(ioctl(fd, UFFDIO_REGISTER, &range), 0);
	char path[64];
	struct hf_outgoing_region region = {
	    .idstr = "ram0", .path = path, .length_bytes = PAGES * HUGE_BYTES};
	snprintf(path, sizeof(path), "/proc/self/fd/%d", source.fd);
	hf_ramblocks_init(&source.blocks);
	assert_int_equal(
	    hf_outgoing_memory_create(&source.memory, getpid(), &region, 1, &source.blocks, NULL), 0);
	assert_int_equal(hf_outgoing_memory_allow_release(source.memory, false, begin, &source, &source.err),
			 -EBUSY);
	assert_non_null(strstr(source.err.text, "block 'ram0'"));
	assert_non_null(strstr(source.err.text, "write tracking"));
	/* Who tracks for a migration knows when that is over. */
	assert_int_equal(hf_outgoing_memory_allow_release(source.memory, true, begin, &source, NULL), 0);
	close(fd);
	close_source(&source);
}

static bool work(void *engine)
{
	struct source *source = engine;

	if (atomic_load(&source->work_left) == 0)
		return false;
	unsigned page = atomic_fetch_add(&source->worked, 1);
	source->release_result |= release(source, page, 1);
	atomic_fetch_sub(&source->work_left, 1);
	return true;
}

static bool nothing_left(void *opaque)
{
	return atomic_load(&((struct source *)opaque)->work_left) == 0;
}

static void a_kick_makes_the_thread_work_until_there_is_nothing_left(void **state)
{
	(void)state;
	struct source source;

	open_source(&source);
	assert_int_equal(hf_outgoing_memory_start_release(source.memory, work, &source, NULL), 0);
	for (unsigned round = 1; round <= 2; round++) {
		atomic_store(&source.work_left, 3);
		source.port.ops->kick_release(source.port.self);
		wait_until(nothing_left, &source, "the thread gives pages back");
	}
	hf_outgoing_memory_stop_release(source.memory);
	assert_int_equal(source.release_result, 0);
	assert_int_equal(presence(&source), 0xc0);
	close_source(&source);
}

static int reserve(void **state)
{
	(void)state;
	return host_pages_reserve(HUGE_BYTES, 2 * PAGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(released_pages_come_back_to_the_host_and_others_stay),
	    cmocka_unit_test(releasing_again_changes_nothing),
	    cmocka_unit_test(it_is_on_record_before_the_first_page_goes),
	    cmocka_unit_test(memory_whose_writes_somebody_else_tracks_is_refused),
	    cmocka_unit_test(a_kick_makes_the_thread_work_until_there_is_nothing_left),
	};

	return cmocka_run_group_tests(tests, reserve, host_give_back);
}
