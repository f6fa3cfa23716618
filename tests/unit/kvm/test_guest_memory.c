/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory without a machine: what the loader writes, the verifier accepts; what anything else writes, it
 * finds. The guest's steps are played here store by store, so that a guest stopped between any two of
 * them can be shown to the verifier.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "kvm/guest.h"
#include "kvm/guest/image.h"

#define PAGE_BYTES (2ull << 20)
#define PAGES	   5
#define VCPUS	   3
#define BYTES	   (PAGES * PAGE_BYTES)
/* ThreadSanitizer is for loading, which has threads; the rounds go to the verifier, which has none. */
#ifdef __SANITIZE_THREAD__
#define ROUNDS	 60
#define BIT_STEP 7u
#else
#define ROUNDS	 150
#define BIT_STEP 1u
#endif

static uint8_t *memory;
static struct hf_guest_header header;

static struct hf_guest_config example_config(void)
{
	return (struct hf_guest_config){.pattern = HF_GUEST_RANDOM,
					.vcpus = VCPUS,
					.write_percent = 60,
					.fill_percent = 50,
					.memory_bytes = BYTES,
					.page_size_bytes = PAGE_BYTES,
					.seed = 7};
}

static uint64_t *word_at(uint64_t offset)
{
	return (uint64_t *)(memory + offset);
}

static struct hf_guest_status *status_of(uint64_t vcpu)
{
	return (struct hf_guest_status *)(memory + header.status_offset) + vcpu;
}

static void add_one(uint64_t *sealed)
{
	*sealed = hf_guest_seal(hf_guest_count(*sealed) + 1);
}

/* Stops before store number `stores`, counted from 0. True if the step ended before that. */
static bool play_step(uint64_t vcpu, unsigned stores)
{
	struct hf_guest_status *status = status_of(vcpu);
	uint64_t step = hf_guest_count(status->step);
	uint64_t random = hf_guest_step_random(&header, vcpu, step);
	uint64_t page = hf_guest_step_page(&header, vcpu, step, random);
	bool skips = hf_guest_step_skips(hf_guest_is_hole(&header, page), random);

	if (hf_guest_step_uses_port(&header, step)) {
		if (!stores--)
			return false;
		add_one(&status->port_uses);
	}
	if (!skips && hf_guest_step_writes(&header, random)) {
		uint64_t *ledger = word_at(hf_guest_ledger_offset(&header, vcpu, page));
		uint64_t slot = page * PAGE_BYTES + hf_guest_slot_offset(&header, page, vcpu);
		if (!stores--)
			return false;
		++*ledger;
		if (!stores--)
			return false;
		*word_at(slot) = hf_guest_word(header.seed, slot, *ledger);
		if (!stores--)
			return false;
		add_one(&status->writes);
	}
	if (!stores--)
		return false;
	add_one(skips ? &status->skips : &status->visits);
	if (!stores--)
		return false;
	add_one(&status->step);
	return true;
}

static void play_steps(unsigned steps)
{
	for (unsigned i = 0; i < steps; i++)
		for (uint64_t vcpu = 0; vcpu < VCPUS; vcpu++)
			assert_true(play_step(vcpu, UINT32_MAX));
}

static uint64_t wrong_bytes(void)
{
	struct hf_guest_report report;
	assert_int_equal(hf_guest_verify(memory, BYTES, &report, NULL), 0);
	return report.bytes_wrong;
}

/* Also when the header itself is what is damaged. */
static bool is_found(void)
{
	struct hf_guest_report report;
	int result = hf_guest_verify(memory, BYTES, &report, NULL);
	assert_true(result == 0 || result == -EBADMSG);
	return result || report.bytes_wrong;
}

static uint64_t a_page(bool hole)
{
	uint64_t page = header.system_pages;
	while (page < PAGES && hf_guest_is_hole(&header, page) != hole)
		page++;
	assert_true(page < PAGES);
	return page;
}

static int load(void **state)
{
	struct hf_guest_config config = example_config();

	(void)state;
	memory = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED || hf_guest_load(memory, &config, NULL))
		return -1;
	return hf_guest_header_read(&header, memory, BYTES, NULL);
}

static int unload(void **state)
{
	(void)state;
	return munmap(memory, BYTES);
}

static void loaded_memory_is_right(void **state)
{
	struct hf_guest_report report;

	(void)state;
	assert_int_equal(hf_guest_verify(memory, BYTES, &report, NULL), 0);
	assert_int_equal(report.bytes_wrong, 0);
	assert_int_equal(report.pages_wrong, 0);
	assert_int_equal(report.bytes_checked, BYTES);
	assert_int_equal(report.vcpus, VCPUS);
	assert_int_equal(report.visits, 0);
	assert_int_equal(hf_guest_visits(memory, BYTES), 0);
}

static void holes_are_not_touched_by_loading(void **state)
{
	uint64_t page = a_page(true);
	unsigned char present[PAGE_BYTES / 4096];

	(void)state;
	assert_int_equal(mincore(memory + page * PAGE_BYTES, PAGE_BYTES, present), 0);
	for (size_t i = 0; i < sizeof(present); i++)
		assert_int_equal(present[i] & 1, 0);
}

static void a_guest_stopped_between_any_two_stores_is_right(void **state)
{
	(void)state;
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t vcpu = (uint64_t)round % VCPUS;
		struct hf_guest_status status = *status_of(vcpu);
		uint64_t *ledgers = malloc(PAGES * 8), slots[PAGES];
		unsigned stores = 0;

		assert_non_null(ledgers);
		memcpy(ledgers, word_at(hf_guest_ledger_offset(&header, vcpu, 0)), PAGES * 8);
		for (uint64_t page = 0; page < PAGES; page++)
			slots[page] = *word_at(page * PAGE_BYTES + hf_guest_slot_offset(&header, page, vcpu));
		while (!play_step(vcpu, stores++)) {
			assert_int_equal(wrong_bytes(), 0);
			*status_of(vcpu) = status;
			memcpy(word_at(hf_guest_ledger_offset(&header, vcpu, 0)), ledgers, PAGES * 8);
			for (uint64_t page = header.system_pages; page < PAGES; page++)
				*word_at(page * PAGE_BYTES + hf_guest_slot_offset(&header, page, vcpu)) =
				    slots[page];
		}
		free(ledgers);
		assert_int_equal(wrong_bytes(), 0);
	}
	struct hf_guest_report report;
	assert_int_equal(hf_guest_verify(memory, BYTES, &report, NULL), 0);
	assert_true(report.writes > 10 && report.visits > report.writes);
	assert_int_equal(hf_guest_visits(memory, BYTES), report.visits);
}

static void a_paced_guest_has_used_its_port_in_each_step(void **state)
{
	struct hf_guest_config config = example_config();

	(void)state;
	config.pace_steps_per_s = 100;
	assert_int_equal(hf_guest_load(memory, &config, NULL), 0);
	assert_int_equal(hf_guest_header_read(&header, memory, BYTES, NULL), 0);
	play_steps(20);
	assert_int_equal(hf_guest_count(status_of(0)->port_uses), 20);
	assert_int_equal(wrong_bytes(), 0);
	status_of(0)->port_uses = hf_guest_seal(19);
	assert_int_equal(wrong_bytes(), 8);
}

/* A page of which a vCPU has written its slot, and its contents before that. */
static uint64_t written_page(uint8_t *before)
{
	uint64_t page = a_page(false);
	uint64_t *ledger = word_at(hf_guest_ledger_offset(&header, 0, page));

	play_steps(20);
	memcpy(before, memory + page * PAGE_BYTES, PAGE_BYTES);
	for (uint64_t count = *ledger; *ledger == count;)
		play_steps(1);
	assert_int_equal(wrong_bytes(), 0);
	return page;
}

static void a_stale_page_is_found(void **state)
{
	uint8_t *before = malloc(PAGE_BYTES);
	uint64_t page = written_page(before);

	(void)state;
	memcpy(memory + page * PAGE_BYTES, before, PAGE_BYTES);
	struct hf_guest_report report;
	assert_int_equal(hf_guest_verify(memory, BYTES, &report, NULL), 0);
	assert_true(report.bytes_wrong > 0);
	assert_int_equal(report.pages_wrong, 1);
	assert_int_equal(report.first_wrong_offset / PAGE_BYTES, page);
	free(before);
}

static void a_torn_page_is_found(void **state)
{
	uint8_t *before = malloc(PAGE_BYTES);
	uint64_t page = written_page(before);
	uint64_t slot = hf_guest_slot_offset(&header, page, 0);

	(void)state;
	/* The 4 KiB with the slot are old, the rest is new. */
	uint64_t start = slot & ~4095ull;
	memcpy(memory + page * PAGE_BYTES + start, before + start, 4096);
	assert_true(wrong_bytes() > 0);
	free(before);
}

static void a_stale_ledger_is_found(void **state)
{
	uint8_t *before = malloc(PAGE_BYTES);

	(void)state;
	assert_int_equal(header.system_pages, 1);
	play_steps(20);
	memcpy(before, memory, PAGE_BYTES);
	play_steps(20);
	memcpy(memory, before, PAGE_BYTES);
	assert_true(wrong_bytes() > 0);
	free(before);
}

static void a_zeroed_page_is_found(void **state)
{
	(void)state;
	play_steps(50);
	for (uint64_t page = 0; page < PAGES; page++) {
		uint8_t *saved = malloc(PAGE_BYTES);
		memcpy(saved, memory + page * PAGE_BYTES, PAGE_BYTES);
		bool was_zero = true;
		for (uint64_t i = 0; i < PAGE_BYTES; i++)
			was_zero = was_zero && !saved[i];
		memset(memory + page * PAGE_BYTES, 0, PAGE_BYTES);
		assert_int_equal(is_found(), !was_zero);
		memcpy(memory + page * PAGE_BYTES, saved, PAGE_BYTES);
		free(saved);
	}
	assert_int_equal(wrong_bytes(), 0);
}

static void swapped_pages_are_found(void **state)
{
	uint64_t first = a_page(false), second = first + 1;
	uint8_t *saved = malloc(PAGE_BYTES);

	(void)state;
	while (hf_guest_is_hole(&header, second))
		second++;
	assert_true(second < PAGES);
	memcpy(saved, memory + first * PAGE_BYTES, PAGE_BYTES);
	memcpy(memory + first * PAGE_BYTES, memory + second * PAGE_BYTES, PAGE_BYTES);
	memcpy(memory + second * PAGE_BYTES, saved, PAGE_BYTES);
	struct hf_guest_report report;
	assert_int_equal(hf_guest_verify(memory, BYTES, &report, NULL), 0);
	assert_int_equal(report.pages_wrong, 2);
	free(saved);
}

static void assert_flip_is_found(uint64_t offset, unsigned bit)
{
	memory[offset] ^= (uint8_t)(1u << bit);
	if (!is_found())
		fail_msg("bit %u of offset 0x%llx was not found", bit, (unsigned long long)offset);
	memory[offset] ^= (uint8_t)(1u << bit);
}

static void every_flipped_bit_of_a_status_block_is_found(void **state)
{
	uint64_t start = header.status_offset + sizeof(struct hf_guest_status);

	(void)state;
	play_steps(30);
	/* In the middle of a step that writes, where the verifier is most tolerant. */
	while (!hf_guest_step_writes(&header,
				     hf_guest_step_random(&header, 1, hf_guest_count(status_of(1)->step))))
		play_steps(1);
	play_step(1, 1);
	for (uint64_t bit = 0; bit < 8 * sizeof(struct hf_guest_status); bit += BIT_STEP)
		assert_flip_is_found(start + bit / 8, (unsigned)(bit % 8));
}

static void a_lost_page_is_left_out_and_no_other(void **state)
{
	bool lost[PAGES] = {false};
	struct hf_guest_report report;
	uint64_t page = a_page(false);

	(void)state;
	play_steps(30);
	memset(memory + page * PAGE_BYTES, 0, PAGE_BYTES);
	lost[page] = true;
	add_one(&status_of(1)->memory_errors);
	add_one(&status_of(1)->skips);
	add_one(&status_of(1)->step);
	assert_int_equal(hf_guest_verify_except(memory, BYTES, lost, &report, NULL), 0);
	assert_int_equal(report.bytes_wrong, 0);
	assert_int_equal(report.memory_errors, 1);
	lost[page] = false;
	lost[page == PAGES - 1 ? page - 1 : page + 1] = true;
	assert_int_equal(hf_guest_verify_except(memory, BYTES, lost, &report, NULL), 0);
	assert_int_equal(report.pages_wrong, 1);
}

static void more_memory_errors_than_skips_are_found(void **state)
{
	(void)state;
	play_steps(30);
	for (uint64_t skips = hf_guest_count(status_of(0)->skips) + 2; skips > 0; skips--)
		add_one(&status_of(0)->memory_errors);
	assert_true(is_found());
}

static void a_flipped_bit_anywhere_is_found(void **state)
{
	uint64_t random = 1;

	(void)state;
	play_steps(200);
	for (int i = 0; i < 200; i++) {
		random = hf_guest_mix(random + 1);
		/* One in three in the system part: header, text, tables, ledgers. */
		uint64_t range = i % 3 ? BYTES : header.system_bytes;
		assert_flip_is_found((random >> 8) % range, random % 8);
	}
	assert_int_equal(wrong_bytes(), 0);
}

static void a_write_into_a_hole_is_found(void **state)
{
	uint64_t page = a_page(true);

	(void)state;
	for (uint64_t vcpu = 0; vcpu < VCPUS; vcpu++)
		assert_flip_is_found(page * PAGE_BYTES + hf_guest_slot_offset(&header, page, vcpu), 0);
	assert_flip_is_found(page * PAGE_BYTES, 7);
	assert_flip_is_found((page + 1) * PAGE_BYTES - 1, 3);
}

static void a_write_that_was_never_counted_is_found(void **state)
{
	uint64_t page = a_page(false);
	uint64_t slot = page * PAGE_BYTES + hf_guest_slot_offset(&header, page, 1);
	uint64_t *ledger = word_at(hf_guest_ledger_offset(&header, 1, page));

	(void)state;
	/* Slot and ledger agree, but nobody has taken such a step. */
	++*ledger;
	*word_at(slot) = hf_guest_word(header.seed, slot, *ledger);
	++*ledger;
	*word_at(slot) = hf_guest_word(header.seed, slot, *ledger);
	assert_true(wrong_bytes() > 0);
}

static void memory_without_a_guest_is_refused(void **state)
{
	struct hf_guest_report report;
	struct hf_err err = HF_ERR_INIT;

	(void)state;
	assert_int_equal(hf_guest_verify(memory, BYTES - PAGE_BYTES, &report, &err), -EBADMSG);
	memset(memory, 0, PAGE_BYTES);
	assert_int_equal(hf_guest_verify(memory, BYTES, &report, &err), -EBADMSG);
	assert_int_equal(hf_guest_visits(memory, BYTES), 0);
	assert_int_equal(hf_guest_verify(memory, 4096, &report, &err), -EBADMSG);
}

static void impossible_configurations_are_refused(void **state)
{
	struct hf_guest_config wrong[10];

	(void)state;
	for (int i = 0; i < 10; i++)
		wrong[i] = example_config();
	wrong[0].vcpus = 0;
	wrong[1].vcpus = HF_GUEST_VCPUS_MAX + 1;
	wrong[2].write_percent = 101;
	wrong[3].fill_percent = 101;
	wrong[4].memory_bytes = PAGE_BYTES; /* no data page */
	wrong[5].memory_bytes = BYTES + 4096;
	wrong[6].page_size_bytes = 4096;
	wrong[7].pattern = (enum hf_guest_pattern)3;
	wrong[8].pace_steps_per_s = HF_GUEST_PACE_MAX + 1;
	wrong[9].beat_port = 0xffff;
	for (int i = 0; i < 10; i++) {
		struct hf_err err = HF_ERR_INIT;
		assert_int_equal(hf_guest_load(memory, &wrong[i], &err), -EINVAL);
		assert_true(err.text[0]);
	}
	assert_int_equal(wrong_bytes(), 0);
}

static void every_pattern_stays_within_the_data_pages(void **state)
{
	(void)state;
	for (int pattern = HF_GUEST_SEQUENTIAL; pattern <= HF_GUEST_HOT; pattern++) {
		struct hf_guest_config config = example_config();
		struct hf_guest_header other;
		uint64_t visits[64] = {0}, hot = 0;
		config.pattern = (enum hf_guest_pattern)pattern;
		config.memory_bytes = 64 * PAGE_BYTES;
		assert_int_equal(hf_guest_header_make(&other, &config, NULL), 0);
		for (uint64_t step = 0; step < 20000; step++) {
			uint64_t random = hf_guest_step_random(&other, 1, step);
			uint64_t page = hf_guest_step_page(&other, 1, step, random);
			assert_in_range(page, other.system_pages, 63);
			visits[page]++;
		}
		for (uint64_t page = other.system_pages; page < 64; page++) {
			assert_true(visits[page] > 0);
			hot += visits[page] > 1000;
		}
		/* The hot tenth of 63 pages takes nine tenths of 20000 visits. */
		assert_int_equal(hot, pattern == HF_GUEST_HOT ? 6 : 0);
	}
}

#define GUEST_TEST(claim) cmocka_unit_test_setup_teardown(claim, load, unload)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    GUEST_TEST(loaded_memory_is_right),
	    GUEST_TEST(holes_are_not_touched_by_loading),
	    GUEST_TEST(a_guest_stopped_between_any_two_stores_is_right),
	    GUEST_TEST(a_paced_guest_has_used_its_port_in_each_step),
	    GUEST_TEST(a_stale_page_is_found),
	    GUEST_TEST(a_torn_page_is_found),
	    GUEST_TEST(a_stale_ledger_is_found),
	    GUEST_TEST(a_zeroed_page_is_found),
	    GUEST_TEST(swapped_pages_are_found),
	    GUEST_TEST(every_flipped_bit_of_a_status_block_is_found),
	    GUEST_TEST(a_lost_page_is_left_out_and_no_other),
	    GUEST_TEST(more_memory_errors_than_skips_are_found),
	    GUEST_TEST(a_flipped_bit_anywhere_is_found),
	    GUEST_TEST(a_write_into_a_hole_is_found),
	    GUEST_TEST(a_write_that_was_never_counted_is_found),
	    GUEST_TEST(memory_without_a_guest_is_refused),
	    GUEST_TEST(impossible_configurations_are_refused),
	    GUEST_TEST(every_pattern_stays_within_the_data_pages),
	};
	return cmocka_run_group_tests_name("kvm/guest memory", tests, NULL, NULL);
}
