/* SPDX-License-Identifier: Apache-2.0 */
/* Claims about a VM's record as bytes: damage is noticed, nothing is believed unchecked, names are told
 * apart. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "record_rig.h"

enum { SLOT = HF_VM_RECORD_SLOT_BYTES, TAIL = HF_VM_RECORD_DESCRIPTION_AT };

/* ---- damage ----------------------------------------------------------------------------------- */

/* The record, or -errno. */
static int decode(const char *bytes, size_t length_bytes)
{
	struct hf_vm_record_content content;
	int r = hf_vm_record_decode(bytes, length_bytes, &content, NULL);
	if (r < 0)
		return r;
	hf_vm_record_description_free(content.description);
	return (int)content.slot.state.record;
}

static void flip(char *bytes, size_t bit)
{
	((uint8_t *)bytes)[bit / 8] ^= (uint8_t)(1u << bit % 8);
}

static void no_single_bit_of_a_copied_record_brings_an_older_one_back(void **state)
{
	size_t length_bytes;
	unsigned newer;
	char *bytes = record_rig_given_up_file(*state, true, &length_bytes, &newer);
	for (size_t bit = 0; bit < (size_t)TAIL * 8; bit++) {
		flip(bytes, bit);
		assert_int_equal(decode(bytes, length_bytes), HF_RECORD_GIVEN_UP);
		flip(bytes, bit);
	}
	free(bytes);
}

static void no_single_bit_of_a_slot_makes_another_record(void **state)
{
	size_t length_bytes;
	unsigned newer;
	char *bytes = record_rig_given_up_file(*state, false, &length_bytes, &newer);
	for (size_t bit = 0; bit < (size_t)TAIL * 8; bit++) {
		struct hf_vm_record_slot slot;
		size_t at = bit / 8 / SLOT;
		flip(bytes, bit);
		assert_int_equal(hf_vm_record_slot_decode(bytes + at * SLOT, &slot), -EBADMSG);
		assert_int_equal(decode(bytes, length_bytes),
				 at == newer ? HF_RECORD_NONE : HF_RECORD_GIVEN_UP);
		flip(bytes, bit);
	}
	free(bytes);
}

static void no_single_bit_of_the_description_is_believed(void **state)
{
	size_t length_bytes;
	unsigned newer;
	char *bytes = record_rig_given_up_file(*state, true, &length_bytes, &newer);
	for (size_t bit = (size_t)TAIL * 8; bit < length_bytes * 8; bit++) {
		flip(bytes, bit);
		assert_int_equal(decode(bytes, length_bytes), -EBADMSG);
		flip(bytes, bit);
	}
	free(bytes);
}

static void cut_short_anywhere_it_is_damaged(void **state)
{
	size_t length_bytes;
	unsigned newer;
	char *bytes = record_rig_given_up_file(*state, false, &length_bytes, &newer);
	for (size_t cut = 0; cut < length_bytes; cut++) {
		char *piece = malloc(cut ? cut : 1); // no longer than it says, for the sanitizer
		memcpy(piece, bytes, cut);
		assert_int_equal(decode(piece, cut), -EBADMSG);
		free(piece);
	}
	free(bytes);
}

static void an_update_torn_anywhere_keeps_the_old_record(void **state)
{
	size_t length_bytes;
	unsigned newer;
	char *bytes = record_rig_given_up_file(*state, false, &length_bytes, &newer);
	char *slot = bytes + (size_t)newer * SLOT, after[SLOT], before[SLOT];
	struct hf_vm_record_slot none = {.sequence = 1};
	memcpy(after, slot, SLOT);
	hf_vm_record_slot_encode(&none, before);
	for (int zeros = 0; zeros < 2; zeros++) { // what the rest was: the slot before, or nothing
		if (zeros)
			memset(before, 0, SLOT);
		for (size_t cut = 0; cut < SLOT; cut++) {
			memcpy(slot, after, cut);
			memcpy(slot + cut, before + cut, SLOT - cut);
			bool whole = memcmp(slot, after, SLOT) == 0;
			assert_int_equal(decode(bytes, length_bytes),
					 whole ? HF_RECORD_GIVEN_UP : HF_RECORD_NONE);
			memcpy(slot, before, cut);
			memcpy(slot + cut, after + cut, SLOT - cut);
			whole = memcmp(slot, after, SLOT) == 0;
			assert_int_equal(decode(bytes, length_bytes),
					 whole ? HF_RECORD_GIVEN_UP : HF_RECORD_NONE);
		}
	}
	free(bytes);
}

static void a_torn_copy_keeps_the_new_record(void **state)
{
	size_t length_bytes;
	unsigned newer;
	char *bytes = record_rig_given_up_file(*state, false, &length_bytes, &newer);
	char *older = bytes + (size_t)!newer * SLOT;
	for (size_t i = 0; i < SLOT; i++) {
		older[i] = bytes[(size_t)newer * SLOT + i];
		assert_int_equal(decode(bytes, length_bytes), HF_RECORD_GIVEN_UP);
	}
	free(bytes);
}

/* ---- what somebody wrote on purpose ----------------------------------------------------------- */

static void put_slot(char *bytes, const char *body)
{
	memset(bytes, ' ', SLOT);
	bytes[record_rig_seal(body, bytes)] = ' ';
	bytes[SLOT - 1] = '\n';
}

#define REST ", \"written_at\": \"2026-01-01T00:00:00Z\""

static void a_whole_slot_that_is_not_understood_is_not_passed_over(void **state)
{
	static const char *const bodies[] = {
	    "{\"version\": 2, \"sequence\": 9, \"record\": \"none\", \"epoch\": \"0\"" REST,
	    "{\"sequence\": 9, \"record\": \"none\", \"epoch\": \"0\"" REST,
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"lent\", \"epoch\": \"0\"" REST,
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"loaded\", \"epoch\": \"0\"" REST, // the other
											       // side's
	    "{\"version\": 1, \"sequence\": 9, \"record\": 1, \"epoch\": \"0\"" REST,
	    "{\"version\": 1, \"sequence\": 0, \"record\": \"none\", \"epoch\": \"0\"" REST,
	    "{\"version\": 1, \"sequence\": -9, \"record\": \"none\", \"epoch\": \"0\"" REST,
	    "{\"version\": 1, \"sequence\": 9.5, \"record\": \"none\", \"epoch\": \"0\"" REST,
	    "{\"version\": 1, \"sequence\": 9223372036854775807, \"record\": \"none\", \"epoch\": \"0\"" REST,
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"none\", \"epoch\": 0" REST,
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"none\", \"epoch\": \"-1\"" REST,
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"none\", \"epoch\": "
	    "\"18446744073709551616\"" REST,
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"none\", \"epoch\": \"0\", \"written_at\": "
	    "\"now\"",
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"none\", \"record\": \"given-up\", \"epoch\": "
	    "\"0\"" REST,
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"none\", \"epoch\": \"0\", \"agent_pid\": "
	    "-1" REST,
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"none\", \"epoch\": \"0\", \"agent_pid\": "
	    "4294967297" REST,
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"none\", \"epoch\": \"0\", "
	    "\"agent_start_ticks\": "
	    "5" REST,
	    "{\"version\": 1, \"sequence\": 9, \"record\": \"none\", \"epoch\": \"0\", \"agent_pid\": 5, "
	    "\"agent_start_ticks\": -5" REST,
	    "[1, 2",
	    "nothing of the kind",
	};
	size_t length_bytes;
	unsigned newer;
	char *bytes = record_rig_given_up_file(*state, false, &length_bytes, &newer);
	put_slot(bytes,
		 "{\"version\": 1, \"sequence\": 9, \"record\": \"taken-back\", \"epoch\": \"7\"" REST);
	assert_int_equal(decode(bytes, length_bytes), HF_RECORD_TAKEN_BACK);
	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++) {
		put_slot(bytes, bodies[i]);
		if (decode(bytes, length_bytes) != -EBADMSG)
			fail_msg("believed: %s", bodies[i]);
	}
	free(bytes);
}

static void two_slots_of_one_number_must_agree(void **state)
{
	size_t length_bytes;
	unsigned newer;
	char *bytes = record_rig_given_up_file(*state, false, &length_bytes, &newer);
	put_slot(bytes, "{\"version\": 1, \"sequence\": 9, \"record\": \"none\", \"epoch\": \"1\"" REST);
	put_slot(bytes + SLOT,
		 "{\"version\": 1, \"sequence\": 9, \"record\": \"given-up\", \"epoch\": \"1\"" REST);
	assert_int_equal(decode(bytes, length_bytes), -EBADMSG);
	free(bytes);
}

#define BOOT	"01234567-89ab-cdef-0123-456789abcdef"
#define SESSION "000102030405060708090a0b0c0d0e0f"
#define HEAD(version, role, name, pid)                                                                       \
	"{\"version\": " version ", \"role\": " role ", \"vm_name\": " name ", \"vmm_pid\": " pid ", "
#define MIDDLE(session, start, boot)                                                                         \
	"\"session\": \"" session "\", \"vmm_start_ticks\": " start ", \"boot_id\": \"" boot "\", "
#define END(placement, chunk, blocks)                                                                        \
	"\"placement\": \"" placement "\", \"chunk_bytes\": " chunk ", \"blocks\": " blocks
#define HEAD_GOOD   HEAD("1", "\"outgoing\"", "\"vm1\"", "77")
#define MIDDLE_GOOD MIDDLE(SESSION, "5", BOOT)
#define END_GOOD    END("copy", "262144", "[]")
#define BLOCK(id, length, page)                                                                              \
	"{\"idstr\": \"" id "\", \"length_bytes\": " length ", \"page_size_bytes\": " page "}"

#define PLACED(length, page, address, offset)                                                                \
	"{\"idstr\": \"a\", \"length_bytes\": " length ", \"page_size_bytes\": " page                        \
	", \"vmm_address\": " address ", \"file_offset_bytes\": " offset "}"
#define WITH_BLOCK(block) HEAD_GOOD MIDDLE_GOOD END("copy", "262144", "[" block "]")

static int decode_description(const char *body)
{
	char text[4096];
	struct hf_vm_record_description *description = NULL;
	size_t length_bytes = record_rig_seal(body, text);
	text[length_bytes++] = '\n';
	int r = hf_vm_record_description_decode(text, length_bytes, &description, NULL);
	if (r == 0)
		hf_vm_record_description_free(description);
	return r;
}

static void a_description_is_checked_member_by_member(void **state)
{
	(void)state;
	static const char *const bodies[] = {
	    HEAD("2", "\"outgoing\"", "\"vm1\"", "77") MIDDLE_GOOD END_GOOD,
	    HEAD("1", "\"sideways\"", "\"vm1\"", "77") MIDDLE_GOOD END_GOOD,
	    HEAD("1", "1", "\"vm1\"", "77") MIDDLE_GOOD END_GOOD,
	    HEAD("1", "\"outgoing\"", "\"\"", "77") MIDDLE_GOOD END_GOOD,
	    HEAD("1", "\"outgoing\"", "\"a\\nb\"", "77") MIDDLE_GOOD END_GOOD,
	    HEAD("1", "\"outgoing\"", "\"a\\u0000b\"", "77") MIDDLE_GOOD END_GOOD,
	    HEAD("1", "\"outgoing\"", "null", "77") MIDDLE_GOOD END_GOOD,
	    HEAD("1", "\"outgoing\"", "\"vm1\"", "0") MIDDLE_GOOD END_GOOD,
	    HEAD("1", "\"outgoing\"", "\"vm1\"", "-1") MIDDLE_GOOD END_GOOD,
	    HEAD("1", "\"outgoing\"", "\"vm1\"", "4294967297") MIDDLE_GOOD END_GOOD,
	    HEAD("1", "\"outgoing\"", "\"vm1\"", "\"77\"") MIDDLE_GOOD END_GOOD,
	    HEAD_GOOD MIDDLE("00", "5", BOOT) END_GOOD,
	    HEAD_GOOD MIDDLE("0001020304050607X8090a0b0c0d0e0f", "5", BOOT) END_GOOD,
	    HEAD_GOOD MIDDLE(SESSION, "-5", BOOT) END_GOOD,
	    HEAD_GOOD MIDDLE(SESSION, "5", "") END_GOOD,
	    HEAD_GOOD MIDDLE(SESSION, "5", BOOT "0") END_GOOD,
	    HEAD_GOOD MIDDLE(SESSION, "5", "01234567-89ab-cdef-0123-456789abcde/") END_GOOD,
	    HEAD_GOOD MIDDLE_GOOD END("guess", "262144", "[]"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "262145", "[]"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "2048", "[]"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "4294967296", "[]"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "262144", "{}"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "262144", "[7]"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "262144", "[" BLOCK("", "4096", "4096") "]"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "262144", "[" BLOCK("a", "0", "4096") "]"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "262144", "[" BLOCK("a", "4097", "4096") "]"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "262144", "[" BLOCK("a", "4096", "0") "]"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "262144", "[" BLOCK("a", "-4096", "4096") "]"),
	    HEAD_GOOD MIDDLE_GOOD END("copy", "262144",
				      "[" BLOCK("a", "4096", "4096") ", " BLOCK("a", "4096", "4096") "]"),
	    WITH_BLOCK(PLACED("4096", "4096", "-4096", "0")),
	    WITH_BLOCK(PLACED("4096", "4096", "4097", "0")),
	    WITH_BLOCK(PLACED("4096", "4096", "9223372036854771712", "0")),
	    WITH_BLOCK(PLACED("4096", "4096", "\"4096\"", "0")),
	    WITH_BLOCK(PLACED("4096", "4096", "4096", "1")),
	    WITH_BLOCK(PLACED("4096", "4096", "4096", "-4096")),
	    WITH_BLOCK(PLACED("4096", "4096", "4096", "9223372036854771712")),
	    WITH_BLOCK(PLACED("4096", "4096", "0", "4096")),
	    HEAD_GOOD MIDDLE_GOOD "\"qmp_target\": 5, " END_GOOD,
	    HEAD_GOOD MIDDLE_GOOD "\"qmp_target\": \"\", " END_GOOD,
	    HEAD_GOOD MIDDLE_GOOD "\"peer_uri\": \"a\\u202eb\", " END_GOOD,
	    HEAD_GOOD MIDDLE_GOOD "\"vcpu_thread_ids\": 5, " END_GOOD,
	    HEAD_GOOD MIDDLE_GOOD "\"vcpu_thread_ids\": [5, 0], " END_GOOD,
	    HEAD_GOOD MIDDLE_GOOD "\"vcpu_thread_ids\": [\"5\"], " END_GOOD,
	    HEAD_GOOD MIDDLE_GOOD "\"vcpu_thread_ids\": [4294967296], " END_GOOD,
	    HEAD_GOOD MIDDLE_GOOD "\"placement\": \"copy\"",
	};
	assert_int_equal(decode_description(HEAD_GOOD MIDDLE_GOOD END_GOOD), 0);
	assert_int_equal(decode_description(WITH_BLOCK(PLACED("4096", "4096", "4096", "8192"))), 0);
	assert_int_equal(decode_description(HEAD_GOOD MIDDLE_GOOD "\"vcpu_thread_ids\": [5, 7], " END_GOOD),
			 0);
	assert_int_equal(decode_description(
			     HEAD_GOOD MIDDLE_GOOD END("continue", "0", "[" BLOCK("a", "4096", "4096") "]")),
			 0);
	for (size_t i = 0; i < sizeof(bodies) / sizeof(bodies[0]); i++)
		if (decode_description(bodies[i]) != -EBADMSG)
			fail_msg("believed: %s", bodies[i]);
}

/* ---- names ------------------------------------------------------------------------------------ */

static void expect_unescaped(const char *file, const char *name)
{
	for (; *name; name++) {
		unsigned byte = (uint8_t)*file++;
		if (byte == '%') {
			assert_int_equal(sscanf(file, "%2X", &byte), 1);
			file += 2;
		}
		assert_int_equal(byte, (uint8_t)*name);
	}
	assert_string_equal(file, ".incoming");
}

static void a_name_is_escaped_so_that_it_can_be_read_back(void **state)
{
	(void)state;
	static const char *const names[] = {"vm1", "..", ".", "../../etc/passwd", "a b",	"%41",
					    "A~B", "\n", "/", "\xff\xfe",	  "a.outgoing", "\xc3\xa9"};
	char file[HF_VM_RECORD_FILE_NAME_BYTES], name[2] = "";
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		assert_int_equal(hf_vm_record_file_name(HF_VM_RECORD_INCOMING, names[i], file, NULL), 0);
		expect_unescaped(file, names[i]);
		assert_null(strchr(file, '/'));
		assert_true(file[0] != '.');
	}
	for (int c = 1; c < 256; c++) {
		name[0] = (char)c;
		assert_int_equal(hf_vm_record_file_name(HF_VM_RECORD_INCOMING, name, file, NULL), 0);
		expect_unescaped(file, name);
	}
	assert_int_equal(hf_vm_record_file_name(HF_VM_RECORD_OUTGOING, "vm-1_x.y", file, NULL), 0);
	assert_string_equal(file, "vm-1_x.y.outgoing");
}

static int by_text(const void *a, const void *b)
{
	return strcmp(a, b);
}

static void different_names_have_different_files(void **state)
{
	(void)state;
	enum { LONGEST = 255, COUNT = LONGEST * 4 };
	static const char fillers[] = {'a', '/', '%', '\x80'};
	static char files[COUNT][HF_VM_RECORD_FILE_NAME_BYTES];
	char name[LONGEST + 2];
	for (int i = 0; i < COUNT; i++) { // each filler at each length: long ones differ in their tails alone
		size_t length = (size_t)(i % LONGEST) + 1;
		memset(name, fillers[i / LONGEST], length);
		name[length] = '\0';
		assert_int_equal(hf_vm_record_file_name(HF_VM_RECORD_OUTGOING, name, files[i], NULL), 0);
		assert_true(strlen(files[i]) <= 255 && !strchr(files[i], '/'));
	}
	qsort(files, COUNT, sizeof(files[0]), by_text);
	for (int i = 1; i < COUNT; i++)
		assert_string_not_equal(files[i - 1], files[i]);
	memset(name, 'a', sizeof(name) - 1);
	name[LONGEST + 1] = '\0';
	assert_int_equal(hf_vm_record_file_name(HF_VM_RECORD_OUTGOING, name, files[0], NULL), -ENAMETOOLONG);
	assert_int_equal(hf_vm_record_file_name(HF_VM_RECORD_OUTGOING, "", files[0], NULL), -EINVAL);
}

#define TEST(claim) cmocka_unit_test_setup_teardown(claim, record_rig_setup, record_rig_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(no_single_bit_of_a_copied_record_brings_an_older_one_back),
	    TEST(no_single_bit_of_a_slot_makes_another_record),
	    TEST(no_single_bit_of_the_description_is_believed),
	    TEST(cut_short_anywhere_it_is_damaged),
	    TEST(an_update_torn_anywhere_keeps_the_old_record),
	    TEST(a_torn_copy_keeps_the_new_record),
	    TEST(a_whole_slot_that_is_not_understood_is_not_passed_over),
	    TEST(two_slots_of_one_number_must_agree),
	    TEST(a_description_is_checked_member_by_member),
	    TEST(a_name_is_escaped_so_that_it_can_be_read_back),
	    TEST(different_names_have_different_files),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
