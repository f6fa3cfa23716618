/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The destination's memory port is made ready, or refused with a reason. The linker puts the request for the
 * registration behind a wrapper here, so that something can happen just before it, and the probe, so that the
 * kernel can be a lesser one.
 */
#include "tests/unit/hugemem/incoming_rig.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hugemem/numa.h"
#include "hugemem/probe.h"
#include "hugemem/userfault.h"

static volatile uint8_t *touched_before_registration;

int __real_hf_attach_client_userfault(struct hf_attach_client *client, unsigned modes, uint64_t features,
				      int *fd, struct hf_err *err);
int __wrap_hf_attach_client_userfault(struct hf_attach_client *client, unsigned modes, uint64_t features,
				      int *fd, struct hf_err *err);

int __wrap_hf_attach_client_userfault(struct hf_attach_client *client, unsigned modes, uint64_t features,
				      int *fd, struct hf_err *err)
{
	if (touched_before_registration)
		*touched_before_registration = 1;
	touched_before_registration = NULL;
	return __real_hf_attach_client_userfault(client, modes, features, fd, err);
}

static void (*lessen)(struct hf_probe *probe); /* NULL: the kernel as it is */

int __real_hf_probe(struct hf_probe *out, struct hf_err *err);
int __wrap_hf_probe(struct hf_probe *out, struct hf_err *err);

int __wrap_hf_probe(struct hf_probe *out, struct hf_err *err)
{
	int result = __real_hf_probe(out, err);
	if (result == 0 && lessen)
		lessen(out);
	return result;
}

static void a_stale_file_is_refused_naming_block_and_page(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	*guest_page(d, 1, 2) = 1;
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EEXIST);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram1': page 2 "));
	assert_false(hf_attach_armed(d->attach));
}

static void a_page_that_comes_just_before_the_registration_is_refused(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	touched_before_registration = guest_page(d, 1, 2);
	assert_int_equal(prepare(d), -EEXIST);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram1': page 2 "));
}

static void other_memory_than_was_lent_is_refused(void **state)
{
	struct destination *d = *state;
	int other = ram_file_anonymous(HUGE_BYTES, PAGES);

	make_guest_memory(d);
	attach_vmm(d);
	void *address = mmap(d->vmm[0] + HUGE_BYTES, HUGE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_SHARED | MAP_NORESERVE | MAP_FIXED, other, 0);
	close(other);
	assert_ptr_equal(address, d->vmm[0] + HUGE_BYTES);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EINVAL);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram0'"));
}

static void the_page_of_zeros_needs_no_fault_to_be_read(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	const uint8_t *zeros = d->memory->placer.zeros;
	for (uint64_t at = 0; at < HUGE_BYTES; at += 4096)
		assert_true(page_is_mapped(zeros + at));
}

static void every_page_of_the_alias_is_allocated_when_memory_is_ready(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	for (uint32_t block = 0; block < BLOCKS; block++)
		for (uint64_t page = 0; page < PAGES; page++)
			assert_true(page_is_mapped(d->port.ops->landing(d->memory, block, page, 0)));
}

static void every_staging_slot_is_allocated_when_memory_is_ready(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	for (uint32_t slot = 0; slot < SLOTS; slot++)
		assert_true(page_is_mapped(d->port.ops->landing(d->memory, 0, 0, slot)));
}

static void a_stop_ends_the_allocation(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	atomic_store(&d->memory->stopping, true);
	assert_int_equal(prepare(d), -ECANCELED);
	assert_int_equal(d->engine.ready_err.class, HF_ERR_CANCELLED);
	assert_int_equal(
	    hf_userfault_continue(d->memory->placer.userfault_fd, (uintptr_t)d->vmm[0], HUGE_BYTES), -EFAULT);
}

static void too_few_pages_to_allocate_says_how_many_are_missing(void **state)
{
	struct destination *d = *state;
	char missing[64];

	d->pages = host_pages_available(HUGE_BYTES) + 5;
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -ENOMEM);
	snprintf(missing, sizeof(missing), " %" PRIu64 " huge pages of 2 MiB are missing", d->pages + 5);
	assert_non_null(strstr(d->engine.ready_err.text, missing));
	assert_false(hf_incoming_memory_touched(d->memory));
}

static void what_the_program_lacks_is_refused_before_the_vmm_is_touched(void **state)
{
	struct destination *d = *state;

	d->engine.refuses = "no lock to be had";
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EPERM);
	assert_string_equal(d->engine.ready_err.text, "no lock to be had");
	assert_false(hf_incoming_memory_touched(d->memory));
	assert_false(hf_attach_armed(d->attach));
}

static void the_alias_takes_its_pages_where_the_vmm_wants_them(void **state)
{
	struct destination *d = *state;
	const struct hf_numa_policy bound = {.mode = HF_NUMA_BIND, .nodes = 1};

	make_guest_memory(d);
	assert_int_equal(hf_numa_apply(&bound, d->vmm[1], PAGES * HUGE_BYTES), 0);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), 0);
	struct hf_numa_policy found = hf_numa_policy_of(getpid(), (uintptr_t)d->memory->alias[1]);
	assert_int_equal(found.mode, HF_NUMA_BIND);
	assert_int_equal(found.nodes, 1);
	found = hf_numa_policy_of(getpid(), (uintptr_t)d->memory->alias[0]);
	assert_int_equal(found.mode, HF_NUMA_ANY);
}

static void small_pages_in_private_memory_are_refused(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	make_guest_memory(d);
	attach_vmm(d);
	void *address = mmap(d->vmm[1] + HUGE_BYTES, HUGE_BYTES, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
	assert_ptr_equal(address, d->vmm[1] + HUGE_BYTES);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EINVAL);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram1'"));
	assert_non_null(strstr(d->engine.ready_err.text, "pages of 4 KiB, not of 2 MiB"));
	assert_false(hf_incoming_memory_touched(d->memory));
}

static void registered_memory_counts_as_touched(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_false(hf_incoming_memory_touched(d->memory));
	assert_int_equal(prepare(d), 0);
	assert_true(hf_incoming_memory_touched(d->memory));
}

static void a_limit_of_the_mount_is_told_apart_from_an_empty_pool(void **state)
{
	struct destination *d = *state;

	d->fd[0] = ram_file_limited(PAGES, 2, &d->hog_fd);
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -ENOMEM);
	assert_non_null(strstr(d->engine.ready_err.text, "size limit of the hugetlbfs mount"));
}

static void too_few_pages_for_staging_is_said_at_once(void **state)
{
	struct destination *d = *state;

	d->slots = 4000;
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -ENOMEM);
	assert_non_null(strstr(d->engine.ready_err.text, "staging"));
	assert_false(hf_incoming_memory_touched(d->memory));
}

static void default_slots_are_sixteen_of_two_mebibytes(void **state)
{
	struct destination *d = *state;

	d->slots = 0;
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(d->port.slots, 16);
}

static void touched_private_memory_is_refused(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	make_guest_memory(d);
	*guest_page(d, 0, 3) = 1;
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EEXIST);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram0': page 3 "));
}

static void a_private_mapping_of_a_used_file_is_refused(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	make_guest_memory(d);
	uint8_t *shared = ram_map(d->fd[1], PAGES * HUGE_BYTES, false);
	shared[0] = 1;
	munmap(shared, PAGES * HUGE_BYTES);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(prepare(d), -EEXIST);
	assert_non_null(strstr(d->engine.ready_err.text, "'ram1'"));
}

static void continue_of_private_memory_is_refused_naming_the_block(void **state)
{
	struct destination *d = *state;

	d->private_memory = true;
	d->choice = HF_PLACEMENT_CHOICE_CONTINUE;
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), -EINVAL);
	assert_non_null(strstr(d->err.text, "'ram0' is private"));
	assert_null(d->memory);
}

static void auto_takes_continue_for_shared_memory(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(d->port.placement, HF_PLACEMENT_CONTINUE);
	assert_int_equal(d->port.slots, 0);
	assert_string_equal(hf_incoming_memory_reason(d->memory),
			    "shared hugetlbfs, MINOR_HUGETLBFS offered");
}

static void without_userfaultfd(struct hf_probe *probe)
{
	probe->userfaultfd = false;
	probe->userfaultfd_errno = ENOSYS;
}

static void without_kernel_faults(struct hf_probe *probe)
{
	probe->kernel_faults = false;
}

static void without_missing(struct hf_probe *probe)
{
	probe->missing_hugetlbfs = false;
}

static void without_thread_id(struct hf_probe *probe)
{
	probe->thread_id = false;
}

static void without_minor(struct hf_probe *probe)
{
	probe->minor_hugetlbfs = false;
}

static void a_kernel_that_lacks_something_is_refused_by_name(void **state)
{
	static const struct {
		void (*lessen)(struct hf_probe *probe);
		int result;
		const char *says;
	} lesser[] = {
	    {without_userfaultfd, -ENOSYS, "no userfaultfd"},
	    {without_kernel_faults, -EPERM, "user-mode faults"},
	    {without_missing, -EOPNOTSUPP, "MISSING_HUGETLBFS"},
	    {without_thread_id, -EOPNOTSUPP, "THREAD_ID"},
	};
	struct destination *d = *state;

	make_guest_memory(d);
	attach_vmm(d);
	for (size_t i = 0; i < sizeof(lesser) / sizeof(lesser[0]); i++) {
		lessen = lesser[i].lessen;
		int result = create_port(d);
		lessen = NULL;
		assert_int_equal(result, lesser[i].result);
		assert_non_null(strstr(d->err.text, lesser[i].says));
		assert_null(d->memory);
		assert_false(hf_attach_armed(d->attach));
	}
}

static void a_kernel_without_minor_faults_takes_copy(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	attach_vmm(d);
	lessen = without_minor;
	d->choice = HF_PLACEMENT_CHOICE_CONTINUE;
	int asked = create_port(d);
	d->choice = HF_PLACEMENT_CHOICE_AUTO;
	int automatic = asked ? create_port(d) : 0;
	lessen = NULL;
	assert_int_equal(asked, -EOPNOTSUPP);
	assert_non_null(strstr(d->err.text, "MINOR_HUGETLBFS"));
	assert_int_equal(automatic, 0);
	assert_int_equal(d->port.placement, HF_PLACEMENT_COPY);
	assert_non_null(strstr(hf_incoming_memory_reason(d->memory), "MINOR_HUGETLBFS"));
}

static void blocks_that_differ_from_the_lent_regions_are_refused(void **state)
{
	struct destination *d = *state;

	make_guest_memory(d);
	attach_vmm(d);
	strcpy(d->blocks.blocks[1].idstr, "other");
	assert_int_equal(create_port(d), -EINVAL);
	strcpy(d->blocks.blocks[1].idstr, "ram1");
	d->blocks.count = 1;
	assert_int_equal(create_port(d), -EINVAL);
	d->blocks.count = 2;
	assert_int_equal(create_port(d), 0);
}

static void a_landing_that_is_gone_is_told_when_it_is_placed(void **state)
{
	struct destination *d = *state;

	bring_up(d);
	assert_int_equal(ftruncate(d->fd[0], HUGE_BYTES), 0);
	d->port.ops->clear(d->memory, d->port.ops->landing(d->memory, 0, 3, 0), HUGE_BYTES, true);
	assert_true(d->port.ops->place(d->memory, 0, 3, 0, &d->err) < 0);
	assert_non_null(strstr(d->err.text, "'ram0' page 3"));
}

static void default_slots_are_two_of_one_gibibyte(void **state)
{
	struct destination *d = *state;

	if (!hf_hugepage_size_is_offered(GIB)) {
		print_message("skipped: this kernel has no huge pages of 1 GiB\n");
		skip();
	}
	d->block_count = d->pages = 1;
	d->slots = 0;
	d->page_size_bytes = GIB;
	make_guest_memory(d);
	attach_vmm(d);
	assert_int_equal(create_port(d), 0);
	assert_int_equal(d->port.slots, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    BOTH(a_stale_file_is_refused_naming_block_and_page),
	    BOTH(a_page_that_comes_just_before_the_registration_is_refused),
	    BOTH(other_memory_than_was_lent_is_refused),
	    BOTH(what_the_program_lacks_is_refused_before_the_vmm_is_touched),
	    WITH(with_continue, the_alias_takes_its_pages_where_the_vmm_wants_them),
	    ANY(small_pages_in_private_memory_are_refused),
	    BOTH(registered_memory_counts_as_touched),
	    BOTH(the_page_of_zeros_needs_no_fault_to_be_read),
	    WITH(with_continue, every_page_of_the_alias_is_allocated_when_memory_is_ready),
	    WITH(copy, every_staging_slot_is_allocated_when_memory_is_ready),
	    WITH(with_continue, a_stop_ends_the_allocation),
	    WITH(with_continue, too_few_pages_to_allocate_says_how_many_are_missing),
	    WITH(with_continue, a_limit_of_the_mount_is_told_apart_from_an_empty_pool),
	    WITH(copy, too_few_pages_for_staging_is_said_at_once),
	    WITH(copy, default_slots_are_sixteen_of_two_mebibytes),
	    ANY(touched_private_memory_is_refused),
	    ANY(a_private_mapping_of_a_used_file_is_refused),
	    ANY(continue_of_private_memory_is_refused_naming_the_block),
	    ANY(auto_takes_continue_for_shared_memory),
	    ANY(a_kernel_that_lacks_something_is_refused_by_name),
	    ANY(a_kernel_without_minor_faults_takes_copy),
	    ANY(blocks_that_differ_from_the_lent_regions_are_refused),
	    WITH(with_continue, a_landing_that_is_gone_is_told_when_it_is_placed),
	    WITH(copy, default_slots_are_two_of_one_gibibyte),
	};

	return cmocka_run_group_tests(tests, reserve_pages, give_back_pages);
}
