/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Claims about the comparison of two memories. A real guest is loaded into plain memory, twice; then single
 * words are changed as the guest, or an error, would change them.
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

#include "deploy/compare.h"
#include "kvm/guest.h"
#include "kvm/guest/layout.h"

#define MEMORY_BYTES (16ull << 20)
#define PAGE_BYTES   (2ull << 20)

struct sides {
	uint8_t *source, *destination;
	const struct hf_guest_header *header;
};

static uint8_t *make_side(void)
{
	const struct hf_guest_config config = {.pattern = HF_GUEST_RANDOM,
					       .vcpus = 2,
					       .write_percent = 50,
					       .fill_percent = 100,
					       .memory_bytes = MEMORY_BYTES,
					       .page_size_bytes = PAGE_BYTES,
					       .seed = 7};
	void *memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(memory != MAP_FAILED);
	assert_int_equal(hf_guest_load(memory, &config, NULL), 0);
	return memory;
}

static int make_sides(void **state)
{
	struct sides *sides = calloc(1, sizeof(*sides));
	sides->source = make_side();
	sides->destination = make_side();
	sides->header = (const void *)(sides->source + HF_GUEST_HEADER_OFFSET);
	*state = sides;
	return 0;
}

static int free_sides(void **state)
{
	struct sides *sides = *state;
	munmap(sides->source, MEMORY_BYTES);
	munmap(sides->destination, MEMORY_BYTES);
	free(sides);
	return 0;
}

static struct hf_comparison compare(const struct sides *sides)
{
	struct hf_comparison found;
	assert_int_equal(hf_compare(sides->source, sides->destination, MEMORY_BYTES, &found, NULL), 0);
	return found;
}

static uint64_t *word(uint8_t *memory, uint64_t offset)
{
	return (uint64_t *)(memory + offset);
}

static uint64_t slot(const struct sides *sides, uint64_t page, uint64_t vcpu)
{
	return page * PAGE_BYTES + hf_guest_slot_offset(sides->header, page, vcpu);
}

static void equal_memories_are_equal(void **state)
{
	struct hf_comparison found = compare(*state);
	assert_int_equal(found.words_different, 0);
	assert_int_equal(found.words_written, 0);
	assert_int_equal(found.pages_identical, MEMORY_BYTES / PAGE_BYTES);
}

static void one_flipped_bit_of_pattern_is_found(void **state)
{
	struct sides *sides = *state;
	uint64_t offset = MEMORY_BYTES - 8;
	if (offset == slot(sides, MEMORY_BYTES / PAGE_BYTES - 1, 1))
		offset -= 8;
	*word(sides->destination, offset) ^= 1;
	struct hf_comparison found = compare(sides);
	assert_int_equal(found.words_different, 1);
	assert_int_equal(found.pages_different, 1);
	assert_int_equal(found.first_different_offset, offset);
}

static void a_slot_the_ledger_vouches_for_may_differ(void **state)
{
	struct sides *sides = *state;
	*word(sides->destination, slot(sides, 3, 0)) ^= 0xff;
	*word(sides->destination, slot(sides, 4, 0)) ^= 0xff;
	*word(sides->destination, hf_guest_ledger_offset(sides->header, 0, 3)) += 1;
	*word(sides->destination, hf_guest_ledger_offset(sides->header, 0, 4)) += 1;
	struct hf_comparison found = compare(sides);
	assert_int_equal(found.words_different, 0);
	assert_int_equal(found.words_written, 4);
}

static void a_slot_nobody_wrote_must_not_differ_but_for_one_in_flight(void **state)
{
	struct sides *sides = *state;
	*word(sides->destination, slot(sides, 3, 1)) ^= 0xff;
	assert_int_equal(compare(sides).words_different, 0);
	*word(sides->destination, slot(sides, 5, 1)) ^= 0xff;
	struct hf_comparison found = compare(sides);
	assert_int_equal(found.words_different, 1);
	assert_int_equal(found.first_different_offset, slot(sides, 5, 1));
}

static void text_and_page_tables_must_not_differ(void **state)
{
	struct sides *sides = *state;
	*word(sides->destination, HF_GUEST_TEXT_OFFSET) ^= 1;
	*word(sides->destination, HF_GUEST_TABLES_OFFSET) ^= 1;
	assert_int_equal(compare(sides).words_different, 2);
}

static void a_lost_page_is_found(void **state)
{
	struct sides *sides = *state;
	memset(sides->destination + 6 * PAGE_BYTES, 0, PAGE_BYTES);
	struct hf_comparison found = compare(sides);
	assert_int_equal(found.pages_different, 1);
	assert_true(found.words_different >= PAGE_BYTES / 8 - 2);
}

static void memory_without_a_guest_is_refused(void **state)
{
	struct sides *sides = *state;
	struct hf_comparison found = {.bytes_compared = 5};
	struct hf_err err = HF_ERR_INIT;
	*word(sides->source, HF_GUEST_HEADER_OFFSET) ^= 1;
	assert_int_equal(hf_compare(sides->source, sides->destination, MEMORY_BYTES, &found, &err), -EINVAL);
	assert_int_equal(hf_compare(sides->source, sides->destination, 64, &found, &err), -EINVAL);
	assert_int_equal(found.bytes_compared, 5);
}

#define CASE(claim) cmocka_unit_test_setup_teardown(claim, make_sides, free_sides)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    CASE(equal_memories_are_equal),
	    CASE(one_flipped_bit_of_pattern_is_found),
	    CASE(a_slot_the_ledger_vouches_for_may_differ),
	    CASE(a_slot_nobody_wrote_must_not_differ_but_for_one_in_flight),
	    CASE(text_and_page_tables_must_not_differ),
	    CASE(a_lost_page_is_found),
	    CASE(memory_without_a_guest_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
