/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/core/cmocka_setup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/ramblock.h"

#define MIB (1ull << 20)
#define GIB (1ull << 30)

static struct hf_ramblocks new_registry(void)
{
	struct hf_ramblocks registry;
	hf_ramblocks_init(&registry);
	return registry;
}

static void add(struct hf_ramblocks *registry, const char *idstr, uint64_t length, uint64_t page_size)
{
	struct hf_err err = HF_ERR_INIT;
	if (hf_ramblocks_add(registry, idstr, length, page_size, &err) < 0)
		fail_msg("%s", err.text);
}

static void blocks_are_numbered_in_one_sequence_of_pages(void **state)
{
	(void)state;
	struct hf_ramblocks r = new_registry();
	add(&r, "ram0", 3 * GIB, GIB);
	add(&r, "vga", 16 * MIB, 2 * MIB);
	add(&r, "rom", 8192, 4096);

	assert_int_equal(r.count, 3);
	assert_int_equal(r.pages_total, 3 + 8 + 2);
	assert_int_equal(r.length_total_bytes, 3 * GIB + 16 * MIB + 8192);
	assert_int_equal(r.page_size_max_bytes, GIB);
	assert_int_equal(r.blocks[1].first_page, 3);
	assert_int_equal(r.blocks[1].pages, 8);
	assert_int_equal(r.blocks[2].first_page, 11);
	assert_string_equal(r.blocks[2].idstr, "rom");
	hf_ramblocks_destroy(&r);
}

static void the_block_of_every_page_is_found(void **state)
{
	(void)state;
	struct hf_ramblocks r = new_registry();
	char idstr[16];
	for (uint32_t i = 0; i < HF_RAMBLOCKS_MAX; i++) {
		snprintf(idstr, sizeof(idstr), "b%u", i);
		add(&r, idstr, (1 + i * 7 % 5) * 4096ull, 4096);
	}
	for (uint32_t block = 0, page = 0; block < r.count; block++)
		for (uint32_t i = 0; i < 1 + block * 7 % 5; i++)
			assert_int_equal(hf_ramblocks_block_of_page(&r, page++), block);
	hf_ramblocks_destroy(&r);
}

/* Adding fails with this errno and a text that has these words, and leaves the registry as it was. */
static void refused(const char *idstr, uint64_t length, uint64_t page_size, int errnum, const char *words)
{
	struct hf_ramblocks r = new_registry();
	struct hf_err err = HF_ERR_INIT;
	add(&r, "ram0", 4 * MIB, 2 * MIB);

	assert_int_equal(hf_ramblocks_add(&r, idstr, length, page_size, &err), -errnum);
	assert_int_equal(err.errnum, errnum);
	assert_int_equal(err.class, HF_ERR_LOCAL);
	if (!strstr(err.text, words))
		fail_msg("'%s' is not in '%s'", words, err.text);
	assert_int_equal(r.count, 1);
	assert_int_equal(r.pages_total, 2);
	assert_int_equal(r.length_total_bytes, 4 * MIB);
	assert_int_equal(r.page_size_max_bytes, 2 * MIB);
	hf_ramblocks_destroy(&r);
}

static void a_bad_name_is_refused(void **state)
{
	(void)state;
	char name[HF_RAMBLOCK_IDSTR_MAX + 2];
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';

	refused("", MIB, 4096, EINVAL, "empty name");
	refused(name, MIB, 4096, ENAMETOOLONG, "255");
	refused("ram\n0", MIB, 4096, EINVAL, "control characters");
	refused("ram\xff", MIB, 4096, EINVAL, "UTF-8");
	refused("ram0", MIB, 4096, EEXIST, "'ram0'");
}

static void the_longest_name_is_kept_whole(void **state)
{
	(void)state;
	struct hf_ramblocks r = new_registry();
	char name[HF_RAMBLOCK_IDSTR_MAX + 1];
	memset(name, 'n', sizeof(name));
	name[sizeof(name) - 1] = '\0';
	add(&r, name, 4096, 4096);
	assert_string_equal(r.blocks[0].idstr, name);
	hf_ramblocks_destroy(&r);
}

static void a_bad_page_size_is_refused(void **state)
{
	(void)state;
	refused("x", 6 * MIB, 0, EINVAL, "0 bytes");
	refused("x", 6 * MIB, 2048, EINVAL, "2 KiB");
	refused("x", 6 * MIB, 3 * MIB, EINVAL, "3 MiB");
	refused("x", 64 * GIB, 32 * GIB, EINVAL, "32 GiB");
}

static void a_bad_length_is_refused(void **state)
{
	(void)state;
	refused("x", 0, 2 * MIB, EINVAL, "length is 0");
	refused("x", 3 * MIB, 2 * MIB, EINVAL, "3 MiB is no multiple of the page size of 2 MiB");
	refused("x", UINT64_MAX, 2 * MIB, EINVAL, "no multiple");
}

static void totals_that_overflow_are_refused(void **state)
{
	(void)state;
	/* The registry has 2 pages already. */
	refused("x", (HF_PAGES_MAX - 1) * 4096ull, 4096, EOVERFLOW, "pages");

	struct hf_ramblocks r = new_registry();
	add(&r, "ram0", 4 * MIB, 2 * MIB);
	add(&r, "most", (HF_PAGES_MAX - 2) * 4096ull, 4096);
	assert_int_equal(r.pages_total, HF_PAGES_MAX);
	assert_int_equal(hf_ramblocks_block_of_page(&r, HF_PAGES_MAX - 1), 1);
	assert_int_equal(hf_ramblocks_add(&r, "one", 4096, 4096, NULL), -EOVERFLOW);
	hf_ramblocks_destroy(&r);

	r = new_registry();
	struct hf_err err = HF_ERR_INIT;
	add(&r, "half", 1ull << 63, 16 * GIB);
	assert_int_equal(hf_ramblocks_add(&r, "half too", 1ull << 63, 16 * GIB, &err), -EOVERFLOW);
	assert_non_null(strstr(err.text, "64 bits"));
	assert_int_equal(r.count, 1);
	hf_ramblocks_destroy(&r);
}

static void one_block_too_many_is_refused(void **state)
{
	(void)state;
	struct hf_ramblocks r = new_registry();
	char idstr[16];
	for (int i = 0; i < HF_RAMBLOCKS_MAX; i++) {
		snprintf(idstr, sizeof(idstr), "b%d", i);
		add(&r, idstr, 4096, 4096);
	}
	assert_int_equal(hf_ramblocks_add(&r, "x", 4096, 4096, NULL), -E2BIG);
	assert_int_equal(r.count, HF_RAMBLOCKS_MAX);
	hf_ramblocks_destroy(&r);
}

static void a_copy_outlives_the_original(void **state)
{
	(void)state;
	struct hf_ramblocks r = new_registry(), copy;
	add(&r, "ram0", 4 * MIB, 2 * MIB);
	assert_int_equal(hf_ramblocks_copy(&copy, &r, NULL), 0);
	hf_ramblocks_destroy(&r);
	assert_int_equal(copy.count, 1);
	assert_int_equal(copy.pages_total, 2);
	assert_string_equal(copy.blocks[0].idstr, "ram0");
	hf_ramblocks_destroy(&copy);
	hf_ramblocks_destroy(&copy);
	hf_ramblocks_destroy(NULL);
}

static void equal_blocks_match_in_any_order(void **state)
{
	(void)state;
	struct hf_ramblocks source = new_registry(), destination = new_registry();
	uint32_t map[3] = {9, 9, 9};
	add(&source, "a", 2 * MIB, 2 * MIB);
	add(&source, "b", 4 * MIB, 2 * MIB);
	add(&source, "c", GIB, GIB);
	add(&destination, "c", GIB, GIB);
	add(&destination, "a", 2 * MIB, 2 * MIB);
	add(&destination, "b", 4 * MIB, 2 * MIB);

	assert_int_equal(hf_ramblocks_match(&source, &destination, map, NULL), 0);
	assert_int_equal(map[0], 1);
	assert_int_equal(map[1], 2);
	assert_int_equal(map[2], 0);
	hf_ramblocks_destroy(&source);
	hf_ramblocks_destroy(&destination);
}

static void mismatch(struct hf_ramblocks *source, struct hf_ramblocks *destination, const char *words)
{
	struct hf_err err = HF_ERR_INIT;
	uint32_t map[4] = {9, 9, 9, 9};

	assert_int_equal(hf_ramblocks_match(source, destination, map, &err), -EINVAL);
	if (!strstr(err.text, words))
		fail_msg("'%s' is not in '%s'", words, err.text);
	for (int i = 0; i < 4; i++)
		assert_int_equal(map[i], 9);
	hf_ramblocks_destroy(source);
	hf_ramblocks_destroy(destination);
}

static void a_page_size_mismatch_names_the_block_and_both_sizes(void **state)
{
	(void)state;
	struct hf_ramblocks source = new_registry(), destination = new_registry();
	add(&source, "rom", 4096, 4096);
	add(&source, "ram0", GIB, 2 * MIB);
	add(&destination, "rom", 4096, 4096);
	add(&destination, "ram0", GIB, GIB);
	mismatch(&source, &destination,
		 "block 'ram0': page size is 2 MiB on the source and 1 GiB on the destination");
}

static void a_length_mismatch_names_the_block_and_both_lengths(void **state)
{
	(void)state;
	struct hf_ramblocks source = new_registry(), destination = new_registry();
	add(&source, "ram0", 2 * GIB, 2 * MIB);
	add(&destination, "ram0", 3 * GIB, 2 * MIB);
	mismatch(&source, &destination,
		 "block 'ram0': length is 2 GiB on the source and 3 GiB on the destination");
}

static void a_block_that_one_side_lacks_is_named(void **state)
{
	(void)state;
	struct hf_ramblocks source = new_registry(), destination = new_registry();
	add(&source, "ram0", GIB, GIB);
	add(&source, "more", GIB, GIB);
	add(&destination, "ram0", GIB, GIB);
	mismatch(&source, &destination, "block 'more': exists on the source and not on the destination");

	source = new_registry();
	destination = new_registry();
	add(&source, "ram0", GIB, GIB);
	add(&destination, "ram0", GIB, GIB);
	add(&destination, "more", GIB, GIB);
	mismatch(&source, &destination, "block 'more': exists on the destination and not on the source");
}

static void every_difference_is_named(void **state)
{
	(void)state;
	struct hf_ramblocks source = new_registry(), destination = new_registry();
	add(&source, "ram0", GIB, 2 * MIB);
	add(&source, "same", GIB, 2 * MIB);
	add(&source, "ram1", 2 * GIB, 2 * MIB);
	add(&source, "left", GIB, GIB);
	add(&destination, "come", GIB, GIB);
	add(&destination, "ram1", GIB, GIB);
	add(&destination, "ram0", GIB, GIB);
	add(&destination, "same", GIB, 2 * MIB);
	mismatch(&source, &destination,
		 "block 'ram0': page size is 2 MiB on the source and 1 GiB on the destination; "
		 "block 'ram1': page size is 2 MiB on the source and 1 GiB on the destination; "
		 "block 'ram1': length is 2 GiB on the source and 1 GiB on the destination; "
		 "block 'left': exists on the source and not on the destination; "
		 "and 1 more; start the destination VM with the source's memory backends");
}

static void a_list_of_differences_too_long_ends_with_their_number(void **state)
{
	(void)state;
	struct hf_ramblocks source = new_registry(), destination = new_registry();
	char idstr[HF_RAMBLOCK_IDSTR_MAX + 1];
	memset(idstr, 'n', HF_RAMBLOCK_IDSTR_MAX);
	idstr[HF_RAMBLOCK_IDSTR_MAX] = '\0';
	for (int i = 0; i < 200; i++) {
		idstr[0] = (char)('A' + i / 26);
		idstr[1] = (char)('A' + i % 26);
		add(&source, idstr, GIB, GIB);
	}
	add(&destination, "ram0", GIB, GIB);
	mismatch(&source, &destination, "; and 200 more; start the destination VM with");
}

static void sizes_are_written_in_the_largest_unit_that_divides_them(void **state)
{
	(void)state;
	static const struct {
		uint64_t bytes;
		const char *text;
	} cases[] = {
	    {0, "0 bytes"},
	    {1, "1 bytes"},
	    {4096, "4 KiB"},
	    {2 * MIB, "2 MiB"},
	    {GIB, "1 GiB"},
	    {GIB + 1, "1073741825 bytes"},
	    {1536 * MIB, "1536 MiB"},
	    {1ull << 40, "1 TiB"},
	    {1ull << 60, "1048576 TiB"},
	    {UINT64_MAX, "18446744073709551615 bytes"},
	};
	char buffer[HF_SIZE_TEXT_BYTES];
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_string_equal(hf_size_text(cases[i].bytes, buffer), cases[i].text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(blocks_are_numbered_in_one_sequence_of_pages),
	    cmocka_unit_test(the_block_of_every_page_is_found),
	    cmocka_unit_test(a_bad_name_is_refused),
	    cmocka_unit_test(the_longest_name_is_kept_whole),
	    cmocka_unit_test(a_bad_page_size_is_refused),
	    cmocka_unit_test(a_bad_length_is_refused),
	    cmocka_unit_test(totals_that_overflow_are_refused),
	    cmocka_unit_test(one_block_too_many_is_refused),
	    cmocka_unit_test(a_copy_outlives_the_original),
	    cmocka_unit_test(equal_blocks_match_in_any_order),
	    cmocka_unit_test(a_page_size_mismatch_names_the_block_and_both_sizes),
	    cmocka_unit_test(a_length_mismatch_names_the_block_and_both_lengths),
	    cmocka_unit_test(a_block_that_one_side_lacks_is_named),
	    cmocka_unit_test(every_difference_is_named),
	    cmocka_unit_test(a_list_of_differences_too_long_ends_with_their_number),
	    cmocka_unit_test(sizes_are_written_in_the_largest_unit_that_divides_them),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
