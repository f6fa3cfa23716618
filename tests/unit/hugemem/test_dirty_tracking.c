/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tracking a VMM's writes from outside. This process is the VMM and the agent; they meet over the attach
 * socket. The linker puts hf_probe() behind a wrapper here, which can answer as an older kernel would.
 */
#include "tests/unit/hugemem/host_fixture.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "hugemem/attach.h"
#include "hugemem/dirty_tracking.h"
#include "hugemem/kernel_compat.h"
#include "hugemem/probe.h"

#define PAGES	   8u /* of each block */
#define BLOCKS	   2u
#define COST_PAGES 1000u
#define POOL_PAGES COST_PAGES
#define WRITERS	   3u
#define TRIALS	   12u
#define ROUNDS	   60u

static uint64_t features_gone; /* of the kernel's, as the probe sees it */
static bool scan_gone;

int __real_hf_probe(struct hf_probe *out, struct hf_err *err);
int __wrap_hf_probe(struct hf_probe *out, struct hf_err *err);

int __wrap_hf_probe(struct hf_probe *out, struct hf_err *err)
{
	int result = __real_hf_probe(out, err);

	out->features &= ~features_gone;
	out->pagemap_scan &= !scan_gone;
	return result;
}

/* ---- a VMM with one RAM file and several regions in it ---- */

struct vm {
	char directory[40], path[64];
	uint64_t page_bytes;
	uint32_t pages, blocks; /* pages of each block */
	int fd;
	uint8_t *vmm[BLOCKS], *alias;
	struct hf_attach *attach;
	struct hf_attach_client *client;
	struct hf_ramblocks registry;
	struct hf_dirty_tracking *tracking;
	struct hf_err err;
};

static const char *const names[BLOCKS] = {"ram0", "ram1"};

static uint8_t *page_at(const struct vm *vm, uint32_t block, uint32_t page)
{
	return vm->vmm[block] + page * vm->page_bytes;
}

/* Block b is at offset b * length of the file, and the blocks' mappings are apart. */
static void map_block(struct vm *vm, uint32_t block)
{
	uint64_t length_bytes = vm->pages * vm->page_bytes;
	void *address = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, vm->fd,
			     (off_t)(block * length_bytes));

	assert_ptr_not_equal(address, MAP_FAILED);
	vm->vmm[block] = address;
	const struct hf_attach_region region = {.idstr = names[block],
						.address = address,
						.length_bytes = length_bytes,
						.page_size_bytes = vm->page_bytes,
						.fd = vm->fd,
						.fd_offset_bytes = block * length_bytes};
	if (hf_attach_add(vm->attach, &region, &vm->err) ||
	    hf_ramblocks_add(&vm->registry, names[block], length_bytes, vm->page_bytes, &vm->err))
		fail_msg("%s", vm->err.text);
}

static void open_vm(struct vm *vm, uint64_t page_bytes, uint32_t blocks, uint32_t pages)
{
	*vm = (struct vm){.directory = "/tmp/hf-dirty-XXXXXX",
			  .page_bytes = page_bytes,
			  .pages = pages,
			  .blocks = blocks,
			  .fd = ram_file_anonymous(page_bytes, blocks * pages)};
	assert_non_null(mkdtemp(vm->directory));
	snprintf(vm->path, sizeof(vm->path), "%s/attach", vm->directory);
	hf_ramblocks_init(&vm->registry);
	const struct hf_attach_options options = {.socket_path = vm->path, .vm_name = "tracked"};
	assert_int_equal(hf_attach_create(&vm->attach, &options, NULL), 0);
	for (uint32_t block = 0; block < blocks; block++)
		map_block(vm, block);
	vm->alias = ram_map(vm->fd, blocks * pages * page_bytes, false);
	if (hf_attach_start(vm->attach, &vm->err) ||
	    hf_attach_client_connect(&vm->client, vm->path, &vm->err))
		fail_msg("%s", vm->err.text);
}

static void start(struct vm *vm)
{
	if (hf_dirty_tracking_start(&vm->tracking, vm->client, &vm->registry, &vm->err))
		fail_msg("%s", vm->err.text);
}

static void stop(struct vm *vm)
{
	int result = hf_dirty_tracking_stop(vm->tracking, &vm->err);

	vm->tracking = NULL;
	if (result)
		fail_msg("%s", vm->err.text);
}

static void close_vm(struct vm *vm)
{
	stop(vm);
	hf_attach_client_destroy(vm->client);
	hf_attach_destroy(vm->attach);
	hf_ramblocks_destroy(&vm->registry);
	for (uint32_t block = 0; block < vm->blocks; block++)
		munmap(vm->vmm[block], vm->pages * vm->page_bytes);
	munmap(vm->alias, vm->blocks * vm->pages * vm->page_bytes);
	close(vm->fd);
	assert_int_equal(rmdir(vm->directory), 0);
}

/* The bits of up to eight pages. */
static unsigned harvest(struct vm *vm, uint32_t block)
{
	struct hf_dirty_harvest done;
	uint8_t bits = 0;

	if (hf_dirty_tracking_harvest(vm->tracking, block, &bits, 1, &done, &vm->err))
		fail_msg("%s", vm->err.text);
	assert_int_equal(done.pages, __builtin_popcount(bits));
	return bits;
}

static void open_and_start(struct vm *vm)
{
	open_vm(vm, HUGE_BYTES, 1, PAGES);
	start(vm);
}

/* ---- what is found ---- */

static void the_first_harvest_is_every_page_that_exists(void **state)
{
	struct vm vm;

	(void)state;
	open_vm(&vm, HUGE_BYTES, 1, PAGES);
	*page_at(&vm, 0, 0) = 1;
	*page_at(&vm, 0, 3) = 1;
	vm.alias[5 * HUGE_BYTES] = 1; /* the VMM has not mapped it */
	*page_at(&vm, 0, 6) = 1;      /* nor this, any more */
	madvise(page_at(&vm, 0, 6), HUGE_BYTES, MADV_DONTNEED);
	start(&vm);
	assert_int_equal(harvest(&vm, 0), 1u << 0 | 1u << 3 | 1u << 5 | 1u << 6);
	assert_int_equal(harvest(&vm, 0), 0);
	close_vm(&vm);
}

static void harvesting_makes_no_page(void **state)
{
	struct vm vm;

	(void)state;
	open_and_start(&vm);
	uint64_t free_pages = host_pages_free(HUGE_BYTES);
	for (unsigned i = 0; i < 3; i++)
		assert_int_equal(harvest(&vm, 0), 0);
	assert_int_equal(host_pages_free(HUGE_BYTES), free_pages);
	close_vm(&vm);
}

static void a_written_page_is_found_once_and_a_page_only_read_is_not(void **state)
{
	struct vm vm;

	(void)state;
	open_vm(&vm, HUGE_BYTES, 1, PAGES);
	memset(vm.alias, 1, PAGES * HUGE_BYTES);
	for (uint32_t page = 0; page < PAGES; page++)
		assert_int_equal(*page_at(&vm, 0, page), 1);
	start(&vm);
	assert_int_equal(harvest(&vm, 0), 0xff);
	for (uint32_t page = 0; page < PAGES; page++) {
		page_at(&vm, 0, page)[HUGE_BYTES - 1] = 2;
		assert_int_equal(page_at(&vm, 0, (page + 1) % PAGES)[0], 1);
		assert_int_equal(harvest(&vm, 0), 1u << page);
		assert_int_equal(harvest(&vm, 0), 0);
	}
	close_vm(&vm);
}

static void a_page_that_comes_to_exist_is_found_however_it_came(void **state)
{
	struct vm vm;

	(void)state;
	open_and_start(&vm);
	assert_int_equal(harvest(&vm, 0), 0);
	*page_at(&vm, 0, 1) = 1;
	assert_int_equal(harvest(&vm, 0), 1u << 1);
	assert_int_equal(*page_at(&vm, 0, 2), 0);
	assert_int_equal(harvest(&vm, 0), 1u << 2);
	vm.alias[3 * HUGE_BYTES] = 7; /* by somebody else; the VMM then reads it */
	assert_int_equal(*page_at(&vm, 0, 3), 7);
	assert_int_equal(harvest(&vm, 0), 1u << 3);
	close_vm(&vm);
}

static void a_page_that_the_vmm_has_let_go_of_is_found_once(void **state)
{
	struct vm vm;
	struct hf_dirty_harvest done;
	uint8_t bits = 0;

	(void)state;
	open_and_start(&vm);
	*page_at(&vm, 0, 0) = *page_at(&vm, 0, 1) = *page_at(&vm, 0, 2) = 1;
	assert_int_equal(harvest(&vm, 0), 7);
	*page_at(&vm, 0, 0) = 2; /* no longer shows as written after this: */
	madvise(page_at(&vm, 0, 0), HUGE_BYTES, MADV_DONTNEED);
	ram_punch(vm.fd, HUGE_BYTES, HUGE_BYTES);
	assert_int_equal(hf_dirty_tracking_harvest(vm.tracking, 0, &bits, 1, &done, NULL), 0);
	assert_int_equal(bits, 3);
	assert_int_equal(done.gone, 2);
	assert_int_equal(harvest(&vm, 0), 0);
	assert_int_equal(*page_at(&vm, 0, 0), 2); /* comes back */
	*page_at(&vm, 0, 1) = 3;
	assert_int_equal(harvest(&vm, 0), 3);
	close_vm(&vm);
}

/* Absent at both harvests around it, so that nothing but an empty entry tells of it. */
static void a_page_that_came_was_written_and_was_let_go_of_is_found(void **state)
{
	struct vm vm;

	(void)state;
	open_and_start(&vm);
	assert_int_equal(harvest(&vm, 0), 0);
	for (uint8_t value = 1; value < 4; value++) {
		*page_at(&vm, 0, 1) = value;
		madvise(page_at(&vm, 0, 1), HUGE_BYTES, MADV_DONTNEED);
		assert_int_equal(harvest(&vm, 0), 2);
		assert_int_equal(harvest(&vm, 0), 0);
	}
	close_vm(&vm);
}

static void blocks_at_offsets_of_one_file_are_told_apart(void **state)
{
	struct vm vm;

	(void)state;
	open_vm(&vm, HUGE_BYTES, BLOCKS, PAGES);
	vm.alias[(PAGES + 4) * HUGE_BYTES] = 1; /* page 4 of the second block, not mapped by the VMM */
	*page_at(&vm, 0, 7) = 1;
	*page_at(&vm, 1, 0) = 1;
	start(&vm);
	assert_int_equal(harvest(&vm, 1), 1u << 0 | 1u << 4);
	assert_int_equal(harvest(&vm, 0), 1u << 7);
	*page_at(&vm, 1, 7) = 1;
	assert_int_equal(harvest(&vm, 0), 0);
	assert_int_equal(harvest(&vm, 1), 1u << 7);
	close_vm(&vm);
}

static void the_order_of_blocks_is_the_callers(void **state)
{
	struct vm vm;
	struct hf_ramblocks other;

	(void)state;
	open_vm(&vm, HUGE_BYTES, BLOCKS, PAGES);
	hf_ramblocks_init(&other);
	for (uint32_t i = BLOCKS; i-- > 0;)
		assert_int_equal(hf_ramblocks_add(&other, names[i], PAGES * HUGE_BYTES, HUGE_BYTES, NULL), 0);
	assert_int_equal(hf_dirty_tracking_start(&vm.tracking, vm.client, &other, NULL), 0);
	*page_at(&vm, 1, 2) = 1;
	assert_int_equal(harvest(&vm, 1), 0);
	assert_int_equal(harvest(&vm, 0), 1u << 2);
	hf_ramblocks_destroy(&other);
	close_vm(&vm);
}

static void a_bitmap_gathers_harvests_and_loses_nothing(void **state)
{
	struct vm vm;
	struct hf_dirty_harvest done;
	uint8_t bits = 1u << 7, small[2];

	(void)state;
	open_and_start(&vm);
	for (uint32_t page = 0; page < 3; page++) {
		*page_at(&vm, 0, page) = 1;
		assert_int_equal(hf_dirty_tracking_harvest(vm.tracking, 0, &bits, 1, &done, NULL), 0);
		assert_int_equal(done.pages, 1);
	}
	assert_int_equal(bits, 1u << 7 | 7);
	*page_at(&vm, 0, 1) = 2;
	assert_int_equal(hf_dirty_tracking_harvest(vm.tracking, 0, &bits, 1, &done, NULL), 0);
	assert_int_equal(done.pages, 1); /* though its bit was set */
	*page_at(&vm, 0, 4) = 2;
	assert_int_equal(hf_dirty_tracking_harvest(vm.tracking, 0, small, 2, &done, &vm.err), -EINVAL);
	assert_int_equal(harvest(&vm, 0), 1u << 4); /* the mistake has cost nothing */
	close_vm(&vm);
}

static void more_runs_than_one_call_takes_are_all_found(void **state)
{
	enum { MANY = 640 }; /* every second one: 320 runs */
	struct vm vm;
	struct hf_dirty_harvest done;
	uint8_t bits[MANY / 8] = {0};

	(void)state;
	open_vm(&vm, HUGE_BYTES, 1, MANY);
	for (uint32_t page = 1; page < MANY; page += 2)
		*page_at(&vm, 0, page) = 1;
	start(&vm);
	for (unsigned i = 0; i < 2; i++) {
		memset(bits, 0, sizeof(bits));
		assert_int_equal(hf_dirty_tracking_harvest(vm.tracking, 0, bits, sizeof(bits), &done, NULL),
				 0);
		assert_int_equal(done.pages, i == 0 ? MANY / 2 : 0);
		for (unsigned j = 0; j < sizeof(bits); j++)
			assert_int_equal(bits[j], i == 0 ? 0xaa : 0);
	}
	close_vm(&vm);
}

/* ---- races ---- */

/* Threads that count in pages, each in words of its own; copies are made after harvests. */
struct race {
	struct vm vm;
	atomic_bool over;
	bool discards;
	uint64_t copy[PAGES][WRITERS];
};

struct writer {
	struct race *race;
	uint64_t number, random;
	pthread_t thread;
};

static _Atomic uint64_t *word_of(const struct race *race, uint32_t page, uint64_t writer)
{
	uint64_t apart_bytes = race->vm.page_bytes / WRITERS / 4096 * 4096;

	return (_Atomic uint64_t *)(page_at(&race->vm, 0, page) + writer * apart_bytes);
}

static uint32_t next_page(struct writer *writer)
{
	writer->random = writer->random * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (uint32_t)(writer->random >> 40) % writer->race->vm.pages;
}

static void *count_in_pages(void *opaque)
{
	struct writer *writer = opaque;
	struct race *race = writer->race;

	while (!atomic_load(&race->over)) {
		atomic_fetch_add(word_of(race, next_page(writer), writer->number), 1);
		if (race->discards && writer->random % 8 == 0)
			madvise(page_at(&race->vm, 0, next_page(writer)), race->vm.page_bytes, MADV_DONTNEED);
	}
	return NULL;
}

static void copy_pages(struct race *race, unsigned bits)
{
	for (uint32_t page = 0; page < race->vm.pages; page++)
		for (uint64_t writer = 0; writer < WRITERS && bits >> page & 1; writer++)
			race->copy[page][writer] = atomic_load(word_of(race, page, writer));
}

static void run_writers(struct race *race, unsigned trial)
{
	struct writer writers[WRITERS];

	atomic_store(&race->over, false);
	for (uint64_t i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){.race = race, .number = i, .random = trial * WRITERS + i};
		assert_int_equal(pthread_create(&writers[i].thread, NULL, count_in_pages, &writers[i]), 0);
	}
	for (unsigned round = 0; round < ROUNDS; round++)
		copy_pages(race, harvest(&race->vm, 0));
	atomic_store(&race->over, true);
	for (unsigned i = 0; i < WRITERS; i++)
		pthread_join(writers[i].thread, NULL);
}

/* After the last harvest the copies are what the pages are, or a write was lost. */
static void race_writers(uint64_t page_bytes, uint32_t pages, bool discards)
{
	struct race *race = calloc(1, sizeof(*race));

	assert_non_null(race);
	race->discards = discards;
	open_vm(&race->vm, page_bytes, 1, pages);
	start(&race->vm);
	for (unsigned trial = 0; trial < TRIALS; trial++) {
		run_writers(race, trial);
		copy_pages(race, harvest(&race->vm, 0));
		for (uint32_t page = 0; page < pages; page++)
			for (uint64_t writer = 0; writer < WRITERS; writer++)
				assert_int_equal(race->copy[page][writer],
						 atomic_load(word_of(race, page, writer)));
	}
	close_vm(&race->vm);
	free(race);
}

static void no_write_that_races_with_a_harvest_is_lost(void **state)
{
	(void)state;
	race_writers(HUGE_BYTES, PAGES, false);
}

static void none_is_lost_of_pages_that_the_vmm_lets_go_of_either(void **state)
{
	(void)state;
	race_writers(HUGE_BYTES, PAGES, true);
}

/* ---- pages of 1 GiB ---- */

/* To find such pages takes 1 TiB of addresses in one piece, which ThreadSanitizer has only at times. */
#ifdef __SANITIZE_THREAD__
#define HAS_ADDRESSES false
#else
#define HAS_ADDRESSES true
#endif

static void with_pages_of_1_gib(void (*test)(void))
{
	if (host_pages_reserve(GIB, 2)) {
		print_message("skip: no two pages of 1 GiB to be had\n");
		skip();
	}
	test();
	host_pages_give_back_last();
}

static void find_giant_pages(void)
{
	struct vm vm;

	open_vm(&vm, GIB, 1, 2);
	*page_at(&vm, 0, 1) = 1;
	start(&vm);
	assert_int_equal(harvest(&vm, 0), 2);
	assert_int_equal(harvest(&vm, 0), 0);
	page_at(&vm, 0, 1)[GIB - 1] = 1;
	assert_int_equal(harvest(&vm, 0), 2);
	*page_at(&vm, 0, 0) = 1;
	assert_int_equal(harvest(&vm, 0), 1);
	*page_at(&vm, 0, 0) = 2;
	madvise(page_at(&vm, 0, 0), GIB, MADV_DONTNEED);
	assert_int_equal(harvest(&vm, 0), 1);
	assert_int_equal(harvest(&vm, 0), 0);
	close_vm(&vm);
	race_writers(GIB, 2, false);
	race_writers(GIB, 2, true);
}

static void pages_of_1_gib_are_tracked_as_well(void **state)
{
	(void)state;
	if (HAS_ADDRESSES)
		with_pages_of_1_gib(find_giant_pages);
}

/* ---- beginning and end ---- */

static void after_stop_the_vmm_writes_on_and_nothing_is_protected(void **state)
{
	struct vm vm;
	struct toucher toucher = {.write = true};
	struct hf_dirty_tracking *stopped;

	(void)state;
	open_and_start(&vm);
	*page_at(&vm, 0, 0) = 1;
	assert_int_equal(harvest(&vm, 0), 1);
	stop(&vm);
	toucher_start(&toucher, page_at(&vm, 0, 0));
	assert_int_equal(toucher_join(&toucher), 1);
	start(&vm);
	assert_int_equal(harvest(&vm, 0), 1);
	stopped = NULL;
	assert_int_equal(hf_dirty_tracking_stop(stopped, NULL), 0);
	touchers_end();
	close_vm(&vm);
}

/* An agent that dies says nothing; its successor must not trust what it had protected. */
static void a_start_forgets_what_an_earlier_agent_has_seen(void **state)
{
	struct vm vm;

	(void)state;
	open_and_start(&vm);
	*page_at(&vm, 0, 0) = *page_at(&vm, 0, 1) = *page_at(&vm, 0, 2) = 1;
	assert_int_equal(harvest(&vm, 0), 7);
	ram_punch(vm.fd, 2 * HUGE_BYTES, HUGE_BYTES); /* leaves a mark */
	struct hf_dirty_tracking *dead = vm.tracking;
	start(&vm);
	assert_int_equal(harvest(&vm, 0), 3);
	vm.alias[2 * HUGE_BYTES] = 9; /* by somebody else */
	assert_int_equal(*page_at(&vm, 0, 2), 9);
	*page_at(&vm, 0, 1) = 2;
	assert_int_equal(harvest(&vm, 0), 6);
	assert_int_equal(hf_dirty_tracking_stop(dead, NULL), 0);
	close_vm(&vm);
}

static void tracking_that_somebody_has_ended_fails_and_says_so(void **state)
{
	struct vm vm;
	struct hf_dirty_harvest done = {.pages = 77};
	uint8_t bits = 0;

	(void)state;
	open_and_start(&vm);
	*page_at(&vm, 0, 0) = 1;
	assert_int_equal(harvest(&vm, 0), 1);
	assert_int_equal(hf_attach_client_release(vm.client, NULL), 0);
	assert_true(hf_dirty_tracking_harvest(vm.tracking, 0, &bits, 1, &done, &vm.err) < 0);
	assert_non_null(strstr(vm.err.text, "block 'ram0': the memory of VM 'tracked' is no longer tracked"));
	assert_int_equal(done.pages, 77);
	close_vm(&vm);
}

static void expect_refusal(struct vm *vm, const struct hf_ramblocks *blocks, int result, const char *why)
{
	assert_int_equal(hf_dirty_tracking_start(&vm->tracking, vm->client, blocks, &vm->err), result);
	if (!strstr(vm->err.text, why))
		fail_msg("'%s' does not say '%s'", vm->err.text, why);
	assert_null(vm->tracking);
}

static void blocks_that_are_not_the_vms_are_refused_by_name(void **state)
{
	struct vm vm;
	struct hf_ramblocks other;

	(void)state;
	open_vm(&vm, HUGE_BYTES, 1, PAGES);
	hf_ramblocks_init(&other);
	assert_int_equal(hf_ramblocks_add(&other, "ram7", PAGES * HUGE_BYTES, HUGE_BYTES, NULL), 0);
	expect_refusal(&vm, &other, -ENOENT, "block 'ram7': VM 'tracked' lends no region of that name");
	hf_ramblocks_destroy(&other);
	hf_ramblocks_init(&other);
	assert_int_equal(hf_ramblocks_add(&other, "ram0", GIB, GIB, NULL), 0);
	expect_refusal(&vm, &other, -EINVAL, "in pages of 2 MiB, the VM has 1073741824 in pages of 1 GiB");
	hf_ramblocks_destroy(&other);
	close_vm(&vm);
}

static void an_older_kernel_is_refused_naming_what_it_takes(void **state)
{
	struct vm vm;

	(void)state;
	open_vm(&vm, HUGE_BYTES, 1, PAGES);
	features_gone = UFFD_FEATURE_WP_ASYNC;
	expect_refusal(&vm, &vm.registry, -EOPNOTSUPP, "Linux 6.7 or newer");
	assert_non_null(strstr(vm.err.text, "wp-async"));
	features_gone = 0;
	scan_gone = true;
	expect_refusal(&vm, &vm.registry, -EOPNOTSUPP, "lacks PAGEMAP_SCAN");
	scan_gone = false;
	close_vm(&vm);
}

static void memory_that_still_misses_pages_is_refused(void **state)
{
	struct vm vm;
	int userfault = -1;

	(void)state;
	open_vm(&vm, HUGE_BYTES, 1, PAGES);
	assert_int_equal(hf_attach_client_userfault(vm.client, HF_USERFAULT_MISSING | HF_USERFAULT_MINOR, 0,
						    &userfault, &vm.err),
			 0);
	expect_refusal(&vm, &vm.registry, -EINVAL, "missing pages are guarded now");
	assert_int_equal(hf_attach_client_release(vm.client, NULL), 0);
	close(userfault);
	close_vm(&vm);
}

/* ---- cost ---- */

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void time_harvest(struct vm *vm, uint32_t expected, const char *what)
{
	struct hf_dirty_harvest done;
	uint8_t bits[COST_PAGES / 8] = {0};
	uint64_t start_ns = now_ns();

	assert_int_equal(hf_dirty_tracking_harvest(vm->tracking, 0, bits, sizeof(bits), &done, NULL), 0);
	print_message("# %s: %" PRIu64 " us\n", what, (now_ns() - start_ns) / 1000);
	assert_int_equal(done.pages, expected);
}

/* Prints times; what it checks is what was found. */
static void a_harvest_costs(void **state)
{
	struct vm vm;

	(void)state;
	open_vm(&vm, HUGE_BYTES, 1, COST_PAGES);
	for (uint32_t page = 0; page < COST_PAGES; page++)
		*page_at(&vm, 0, page) = 1;
	start(&vm);
	time_harvest(&vm, COST_PAGES, "first harvest of 1000 pages");
	time_harvest(&vm, 0, "idle harvest of 1000 pages");
	for (uint32_t page = 0; page < COST_PAGES; page += 2)
		*page_at(&vm, 0, page) = 2;
	time_harvest(&vm, COST_PAGES / 2, "harvest of 500 single pages in 1000");
	uint64_t start_ns = now_ns();
	for (uint32_t page = 0; page < COST_PAGES; page++)
		*page_at(&vm, 0, page) = 3;
	print_message("# a first write after a harvest: %" PRIu64 " ns a page\n",
		      (now_ns() - start_ns) / COST_PAGES);
	time_harvest(&vm, COST_PAGES, "harvest of 1000 pages, all written");
	close_vm(&vm);
}

static int take_pages(void **state)
{
	(void)state;
	return host_pages_reserve(HUGE_BYTES, POOL_PAGES);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_first_harvest_is_every_page_that_exists),
	    cmocka_unit_test(harvesting_makes_no_page),
	    cmocka_unit_test(a_written_page_is_found_once_and_a_page_only_read_is_not),
	    cmocka_unit_test(a_page_that_comes_to_exist_is_found_however_it_came),
	    cmocka_unit_test(a_page_that_the_vmm_has_let_go_of_is_found_once),
	    cmocka_unit_test(a_page_that_came_was_written_and_was_let_go_of_is_found),
	    cmocka_unit_test(blocks_at_offsets_of_one_file_are_told_apart),
	    cmocka_unit_test(the_order_of_blocks_is_the_callers),
	    cmocka_unit_test(a_bitmap_gathers_harvests_and_loses_nothing),
	    cmocka_unit_test(more_runs_than_one_call_takes_are_all_found),
	    cmocka_unit_test(no_write_that_races_with_a_harvest_is_lost),
	    cmocka_unit_test(none_is_lost_of_pages_that_the_vmm_lets_go_of_either),
	    cmocka_unit_test(pages_of_1_gib_are_tracked_as_well),
	    cmocka_unit_test(after_stop_the_vmm_writes_on_and_nothing_is_protected),
	    cmocka_unit_test(a_start_forgets_what_an_earlier_agent_has_seen),
	    cmocka_unit_test(tracking_that_somebody_has_ended_fails_and_says_so),
	    cmocka_unit_test(blocks_that_are_not_the_vms_are_refused_by_name),
	    cmocka_unit_test(an_older_kernel_is_refused_naming_what_it_takes),
	    cmocka_unit_test(memory_that_still_misses_pages_is_refused),
	    cmocka_unit_test(a_harvest_costs),
	};
	return cmocka_run_group_tests_name("dirty tracking", tests, take_pages, host_give_back);
}
