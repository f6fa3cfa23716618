/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A running VM whose writes are tracked from outside, as a source of pre-copy does: hugeferry-vmm with
 * --attach and without --incoming. A shadow of its memory is kept up to date from what the harvests find and
 * nothing else.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hugemem/attach_client.h"
#include "hugemem/dirty_tracking.h"
#include "vmm_rig.h"

#define PAGE_BYTES   (2 * RIG_MIB)
#define PAGES	     24u
#define MEMORY_BYTES (PAGES * PAGE_BYTES)
#define VCPUS	     2u
#define ROUNDS	     20u

struct source {
	struct rig_vmm *vmm;
	struct hf_attach_client *client;
	struct hf_ramblocks blocks;
	struct hf_dirty_tracking *tracking;
	uint8_t *shadow;
};

static void start_vm(struct source *source, const char *write_share)
{
	const char attach_path[] = RIG_FOLDER "/tracked.attach";
	const char *const options[] = {
	    "--page-size",   "2M",	  "--vcpus",  "2",	   "--fill", "60", "--pattern", "hot",
	    "--write-share", write_share, "--attach", attach_path, NULL};
	struct hf_err err = HF_ERR_INIT;
	uint32_t count;

	*source = (struct source){.vmm = rig_vmm_start("tracked", MEMORY_BYTES, options)};
	rig_await_steps(source->vmm, VCPUS, 5);
	if (hf_attach_client_connect(&source->client, attach_path, &err))
		fail_msg("%s", err.text);
	const struct hf_attached_region *regions = hf_attach_client_regions(source->client, &count);
	assert_int_equal(count, 1);
	hf_ramblocks_init(&source->blocks);
	assert_int_equal(hf_ramblocks_add(&source->blocks, regions[0].idstr, regions[0].length_bytes,
					  regions[0].page_size_bytes, NULL),
			 0);
	source->shadow = calloc(1, MEMORY_BYTES);
	assert_non_null(source->shadow);
}

static void start_tracking(struct source *source)
{
	struct hf_err err = HF_ERR_INIT;

	if (hf_dirty_tracking_start(&source->tracking, source->client, &source->blocks, &err))
		fail_msg("%s", err.text);
}

/* The pages found, as bits. */
static uint32_t harvest(struct source *source)
{
	struct hf_err err = HF_ERR_INIT;
	struct hf_dirty_harvest done;
	uint8_t bitmap[PAGES / 8] = {0};

	if (hf_dirty_tracking_harvest(source->tracking, 0, bitmap, sizeof(bitmap), &done, &err))
		fail_msg("%s", err.text);
	return bitmap[0] | (uint32_t)bitmap[1] << 8 | (uint32_t)bitmap[2] << 16;
}

/* A round of pre-copy. Returns how many pages it moved. */
static unsigned update_shadow(struct source *source)
{
	uint32_t found = harvest(source);

	for (uint32_t page = 0; page < PAGES; page++)
		if (found >> page & 1)
			memcpy(source->shadow + page * PAGE_BYTES, source->vmm->memory + page * PAGE_BYTES,
			       PAGE_BYTES);
	return (unsigned)__builtin_popcount(found);
}

static void end(struct source *source)
{
	assert_int_equal(hf_dirty_tracking_stop(source->tracking, NULL), 0);
	hf_attach_client_destroy(source->client);
	hf_ramblocks_destroy(&source->blocks);
	free(source->shadow);
}

static void what_a_running_guest_writes_is_found_and_a_shadow_of_it_is_right(void **state)
{
	struct source source;
	struct hf_guest_report report;
	unsigned moved = 0;

	(void)state;
	start_vm(&source, "60");
	start_tracking(&source);
	for (unsigned round = 0; round < ROUNDS; round++) {
		moved += update_shadow(&source);
		rig_await_steps(source.vmm, VCPUS, 1);
	}
	assert_true(moved > PAGES); /* the guest did write in between */
	rig_do(source.vmm, "stop");
	update_shadow(&source);
	assert_int_equal(update_shadow(&source), 0);
	assert_int_equal(hf_guest_verify(source.shadow, MEMORY_BYTES, &report, NULL), 0);
	assert_int_equal(report.bytes_wrong, 0);
	assert_int_equal(report.guest_errors, 0);
	assert_memory_equal(source.shadow, source.vmm->memory, MEMORY_BYTES);
	rig_assert_right(source.vmm);
	rig_do(source.vmm, "cont");
	rig_await_steps(source.vmm, VCPUS, 5);
	end(&source);
	rig_await_steps(source.vmm, VCPUS, 5);
	rig_vmm_quit(source.vmm);
}

static void pages_that_a_guest_only_reads_are_not_found(void **state)
{
	struct source source;

	(void)state;
	start_vm(&source, "0");
	start_tracking(&source);
	harvest(&source);
	rig_await_steps(source.vmm, VCPUS, 100);
	const struct hf_guest_header *header =
	    (const struct hf_guest_header *)(source.vmm->memory + HF_GUEST_HEADER_OFFSET);
	uint64_t own_pages = header->system_pages; /* it counts its steps there */
	uint32_t found = harvest(&source);
	assert_int_not_equal(found, 0);
	assert_int_equal(found >> own_pages, 0);
	end(&source);
	rig_vmm_quit(source.vmm);
}

static void the_guest_runs_on_without_a_stop_and_the_next_start_begins_with_all_pages(void **state)
{
	struct source source;

	(void)state;
	start_vm(&source, "60");
	start_tracking(&source);
	uint32_t first = harvest(&source);
	struct hf_dirty_tracking *dead /* never stopped */ = source.tracking;
	rig_await_steps(source.vmm, VCPUS, 20);
	start_tracking(&source);
	assert_int_equal(harvest(&source) & first, first);
	assert_int_equal(hf_dirty_tracking_stop(dead, NULL), 0);
	rig_await_steps(source.vmm, VCPUS, 20);
	end(&source);
	rig_vmm_quit(source.vmm);
}

static void a_vmm_that_has_exited_is_an_error_not_a_vm_that_writes_nothing(void **state)
{
	struct source source;
	struct hf_err err = HF_ERR_INIT;
	struct hf_dirty_harvest done;
	uint8_t bitmap[PAGES / 8] = {0};

	(void)state;
	start_vm(&source, "60");
	start_tracking(&source);
	harvest(&source);
	rig_vmm_kill(source.vmm);
	assert_int_equal(hf_dirty_tracking_harvest(source.tracking, 0, bitmap, sizeof(bitmap), &done, &err),
			 -ESRCH);
	assert_non_null(strstr(err.text, "the VMM of VM 'tracked' has exited"));
	assert_true(hf_dirty_tracking_stop(source.tracking, &err) < 0);
	hf_attach_client_destroy(source.client);
	hf_ramblocks_destroy(&source.blocks);
	free(source.shadow);
}

static int setup(void **state)
{
	(void)state;
	return rig_setup(PAGE_BYTES, PAGES);
}

static int teardown(void **state)
{
	(void)state;
	return rig_teardown();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_teardown(what_a_running_guest_writes_is_found_and_a_shadow_of_it_is_right,
				      rig_end_all),
	    cmocka_unit_test_teardown(pages_that_a_guest_only_reads_are_not_found, rig_end_all),
	    cmocka_unit_test_teardown(
		the_guest_runs_on_without_a_stop_and_the_next_start_begins_with_all_pages, rig_end_all),
	    cmocka_unit_test_teardown(a_vmm_that_has_exited_is_an_error_not_a_vm_that_writes_nothing,
				      rig_end_all),
	};
	return cmocka_run_group_tests_name("kvm/vmm tracked", tests, setup, teardown);
}
