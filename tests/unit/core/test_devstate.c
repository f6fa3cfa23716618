/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Device state: what is saved is loaded, and nothing else is. The descriptions here are of an invented disk
 * in two versions of the program; damage is done to blobs whose checksum is then made right again, so
 * that the parser behind it is what refuses.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/devstate.h"

struct request {
	uint64_t sector;
	uint16_t length;
	uint8_t flags;
};

struct disk {
	uint8_t status;
	uint16_t port;
	uint32_t irq;
	uint64_t position;
	uint16_t taps[3];
	uint8_t serial[5];
	uint32_t queue_length;
	struct request queue[4];
	uint32_t buffer_bytes;
	uint8_t buffer[16];
	uint32_t words_count;
	uint64_t words[4];
	struct request current;
	struct request pair[2];
	uint32_t speed; /* since version 2 */
	/* subsection */
	bool transfer;
	uint32_t transferred;
	/* not saved */
	int opened;
	uint32_t loads, saves, loaded_version;
};

static const struct hf_devstate_desc request_desc = {
    .name = "request",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct request),
    .fields =
	(const struct hf_devstate_field[]){HF_DEVSTATE_FIELD(struct request, sector),
					   HF_DEVSTATE_FIELD(struct request, length),
					   HF_DEVSTATE_FIELD(struct request, flags), HF_DEVSTATE_FIELDS_END},
};

static bool transfer_needed(const void *object)
{
	return ((const struct disk *)object)->transfer;
}

static int transfer_post_load(void *object, uint32_t version, struct hf_err *err)
{
	(void)version;
	(void)err;
	((struct disk *)object)->transfer = true;
	return 0;
}

static const struct hf_devstate_desc transfer_desc = {
    .name = "disk/transfer",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct disk),
    .fields = (const struct hf_devstate_field[]){HF_DEVSTATE_FIELD(struct disk, transferred),
						 HF_DEVSTATE_FIELDS_END},
    .post_load = transfer_post_load,
};

static int disk_pre_save(void *object, struct hf_err *err)
{
	struct disk *disk = object;
	disk->saves++;
	return disk->status == 0xee ? hf_err_set(err, HF_ERR_LOCAL, EIO, "the disk is on fire") : 0;
}

static int disk_pre_load(void *object, struct hf_err *err)
{
	struct disk *disk = object;
	(void)err;
	disk->speed = 100; /* what version 1 had */
	disk->transfer = false;
	return 0;
}

static int disk_post_load(void *object, uint32_t version, struct hf_err *err)
{
	struct disk *disk = object;
	disk->loads++;
	disk->loaded_version = version;
	return disk->port > 1000 ? hf_err_set(err, HF_ERR_PEER, EINVAL, "port %u is too high", disk->port)
				 : 0;
}

#define DISK_FIELDS_1                                                                                        \
	HF_DEVSTATE_FIELD(struct disk, status), HF_DEVSTATE_FIELD(struct disk, port),                        \
	    HF_DEVSTATE_FIELD(struct disk, irq), HF_DEVSTATE_FIELD(struct disk, position),                   \
	    HF_DEVSTATE_ARRAY(struct disk, taps), HF_DEVSTATE_ARRAY(struct disk, serial),                    \
	    HF_DEVSTATE_FIELD(struct disk, queue_length),                                                    \
	    HF_DEVSTATE_NESTED_VARRAY(struct disk, queue, queue_length, &request_desc),                      \
	    HF_DEVSTATE_FIELD(struct disk, buffer_bytes),                                                    \
	    HF_DEVSTATE_VARRAY(struct disk, buffer, buffer_bytes),                                           \
	    HF_DEVSTATE_FIELD(struct disk, words_count),                                                     \
	    HF_DEVSTATE_VARRAY(struct disk, words, words_count),                                             \
	    HF_DEVSTATE_NESTED(struct disk, current, &request_desc),                                         \
	    HF_DEVSTATE_NESTED_ARRAY(struct disk, pair, &request_desc)

static const struct hf_devstate_subsection disk_subsections[] = {{&transfer_desc, transfer_needed},
								 {NULL, NULL}};

/* The program of today. */
static const struct hf_devstate_desc disk_desc = {
    .name = "disk",
    .version = 2,
    .minimum_version = 1,
    .object_bytes = sizeof(struct disk),
    .fields =
	(const struct hf_devstate_field[]){DISK_FIELDS_1, HF_DEVSTATE_FIELD_SINCE(struct disk, speed, 2),
					   HF_DEVSTATE_FIELDS_END},
    .subsections = disk_subsections,
    .pre_save = disk_pre_save,
    .pre_load = disk_pre_load,
    .post_load = disk_post_load,
};

/* The program of yesterday: no speed, no subsection. */
static const struct hf_devstate_desc old_disk_desc = {
    .name = "disk",
    .version = 1,
    .minimum_version = 1,
    .object_bytes = sizeof(struct disk),
    .fields = (const struct hf_devstate_field[]){DISK_FIELDS_1, HF_DEVSTATE_FIELDS_END},
};

/* The program of tomorrow, which has forgotten version 1. */
static const struct hf_devstate_desc strict_disk_desc = {
    .name = "disk",
    .version = 3,
    .minimum_version = 2,
    .object_bytes = sizeof(struct disk),
    .fields =
	(const struct hf_devstate_field[]){DISK_FIELDS_1, HF_DEVSTATE_FIELD_SINCE(struct disk, speed, 2),
					   HF_DEVSTATE_FIELDS_END},
    .subsections = disk_subsections,
};

static struct disk example(void)
{
	struct disk disk = {.status = 0x91,
			    .port = 0x1f0 / 2,
			    .irq = 0xdeadbeef,
			    .position = 0x0123456789abcdef,
			    .taps = {1, 0xffff, 3},
			    .serial = {'a', 0, 'b', 0xff, 'c'},
			    .queue_length = 2,
			    .queue = {{7, 8, 9}, {UINT64_MAX, 10, 11}},
			    .buffer_bytes = 16,
			    .words_count = 3,
			    .words = {1, 2, UINT64_MAX},
			    .current = {12, 13, 14},
			    .pair = {{15, 16, 17}, {18, 19, 20}},
			    .speed = 7200,
			    .transfer = true,
			    .transferred = 4242,
			    .opened = 3};
	memset(disk.buffer, 0x5a, sizeof(disk.buffer));
	return disk;
}

struct blob {
	void *data;
	size_t length;
};

static struct blob save_as(const struct hf_devstate_desc *desc, struct disk *disk)
{
	struct hf_devstate_section section = {desc, 3, disk};
	struct blob blob = {0};
	struct hf_err err = HF_ERR_INIT;

	assert_int_equal(hf_devstate_save(&section, 1, &blob.data, &blob.length, &err), 0);
	return blob;
}

static int load_as(const struct hf_devstate_desc *desc, struct disk *disk, struct blob blob,
		   struct hf_err *err)
{
	struct hf_devstate_section section = {desc, 3, disk};
	return hf_devstate_load(&section, 1, blob.data, blob.length, err);
}

/* Independent of the code under test: bit by bit. */
static void repair_checksum(struct blob blob)
{
	uint8_t *data = blob.data;
	uint32_t crc = ~0u;
	for (size_t i = 0; i < blob.length - 4; i++) {
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = (crc & 1) ? crc >> 1 ^ 0xedb88320u : crc >> 1;
	}
	crc = ~crc;
	for (int i = 0; i < 4; i++)
		data[blob.length - 4 + i] = (uint8_t)(crc >> (24 - 8 * i));
}

static void repair_length(struct blob blob)
{
	uint8_t *data = blob.data;
	for (int i = 0; i < 8; i++)
		data[16 + i] = (uint8_t)((uint64_t)blob.length >> (56 - 8 * i));
	repair_checksum(blob);
}

static void assert_same_state(const struct disk *a, const struct disk *b)
{
	assert_int_equal(a->status, b->status);
	assert_int_equal(a->port, b->port);
	assert_int_equal(a->irq, b->irq);
	assert_int_equal(a->position, b->position);
	assert_memory_equal(a->taps, b->taps, sizeof(a->taps));
	assert_memory_equal(a->serial, b->serial, sizeof(a->serial));
	assert_int_equal(a->queue_length, b->queue_length);
	for (uint32_t i = 0; i < a->queue_length; i++) {
		assert_int_equal(a->queue[i].sector, b->queue[i].sector);
		assert_int_equal(a->queue[i].length, b->queue[i].length);
		assert_int_equal(a->queue[i].flags, b->queue[i].flags);
	}
	assert_int_equal(a->buffer_bytes, b->buffer_bytes);
	assert_memory_equal(a->buffer, b->buffer, a->buffer_bytes);
	assert_int_equal(a->words_count, b->words_count);
	assert_memory_equal(a->words, b->words, a->words_count * 8);
	assert_int_equal(a->current.sector, b->current.sector);
	assert_int_equal(a->pair[1].length, b->pair[1].length);
}

static void what_is_saved_is_loaded(void **state)
{
	struct disk from = example(), to = {.opened = 77};
	struct hf_err err = HF_ERR_INIT;
	struct blob blob = save_as(&disk_desc, &from);

	(void)state;
	assert_int_equal(load_as(&disk_desc, &to, blob, &err), 0);
	assert_same_state(&from, &to);
	assert_int_equal(to.speed, 7200);
	assert_true(to.transfer);
	assert_int_equal(to.transferred, 4242);
	assert_int_equal(to.opened, 77);
	assert_int_equal(err.class, HF_ERR_NONE);
	free(blob.data);
}

static void saving_what_was_loaded_gives_the_same_bytes(void **state)
{
	struct disk from = example(), to = {0};
	struct blob first = save_as(&disk_desc, &from);

	(void)state;
	assert_int_equal(load_as(&disk_desc, &to, first, NULL), 0);
	struct blob second = save_as(&disk_desc, &to);
	assert_int_equal(first.length, second.length);
	assert_memory_equal(first.data, second.data, first.length);
	free(first.data);
	free(second.data);
}

static void integers_are_big_endian(void **state)
{
	static const uint8_t irq_then_position[] = {0xde, 0xad, 0xbe, 0xef, 0x01, 0x23,
						    0x45, 0x67, 0x89, 0xab, 0xcd, 0xef};
	struct disk from = example();
	struct blob blob = save_as(&disk_desc, &from);

	(void)state;
	assert_non_null(memmem(blob.data, blob.length, irq_then_position, sizeof(irq_then_position)));
	free(blob.data);
}

static void empty_variable_fields_travel(void **state)
{
	struct disk from = example(), to = example();
	from.queue_length = from.buffer_bytes = from.words_count = 0;
	struct blob blob = save_as(&disk_desc, &from);

	(void)state;
	assert_int_equal(load_as(&disk_desc, &to, blob, NULL), 0);
	assert_int_equal(to.queue_length, 0);
	assert_int_equal(to.buffer_bytes, 0);
	assert_int_equal(to.words_count, 0);
	free(blob.data);
}

static void hooks_run_and_see_the_saved_version(void **state)
{
	struct disk from = example(), to = {0};
	struct blob blob = save_as(&disk_desc, &from);

	(void)state;
	assert_int_equal(from.saves, 1);
	assert_int_equal(load_as(&disk_desc, &to, blob, NULL), 0);
	assert_int_equal(to.loads, 1);
	assert_int_equal(to.loaded_version, 2);
	free(blob.data);
}

static void a_subsection_not_needed_does_not_travel(void **state)
{
	struct disk from = example(), to = example();
	from.transfer = false;
	to.transferred = 1;
	struct blob blob = save_as(&disk_desc, &from);

	(void)state;
	assert_null(memmem(blob.data, blob.length, "disk/transfer", 13));
	assert_int_equal(load_as(&disk_desc, &to, blob, NULL), 0);
	assert_false(to.transfer);
	assert_int_equal(to.transferred, 1);
	free(blob.data);
}

static void a_subsection_unknown_here_is_refused(void **state)
{
	const struct hf_devstate_desc without = {
	    .name = "disk",
	    .version = 2,
	    .minimum_version = 1,
	    .object_bytes = sizeof(struct disk),
	    .fields = (const struct hf_devstate_field[]){
		// cppcheck-suppress nullPointer ; only in sizeof and _Generic
		DISK_FIELDS_1, HF_DEVSTATE_FIELD_SINCE(struct disk, speed, 2), HF_DEVSTATE_FIELDS_END}};
	struct disk from = example(), to = {0};
	struct hf_err err = HF_ERR_INIT;
	struct blob blob = save_as(&disk_desc, &from);

	(void)state;
	assert_int_equal(load_as(&without, &to, blob, &err), -EPROTO);
	assert_non_null(strstr(err.text, "disk/transfer"));
	free(blob.data);
}

static void an_older_version_is_loaded_with_defaults(void **state)
{
	struct disk from = example(), to = {.speed = 5};
	struct blob blob = save_as(&old_disk_desc, &from);

	(void)state;
	assert_int_equal(load_as(&disk_desc, &to, blob, NULL), 0);
	assert_same_state(&from, &to);
	assert_int_equal(to.speed, 100);
	assert_int_equal(to.loaded_version, 1);
	free(blob.data);
}

static void a_newer_version_is_refused(void **state)
{
	struct disk from = example(), to = {0};
	struct hf_err err = HF_ERR_INIT;
	struct blob blob = save_as(&disk_desc, &from);

	(void)state;
	assert_int_equal(load_as(&old_disk_desc, &to, blob, &err), -EPROTO);
	assert_non_null(strstr(err.text, "version 2"));
	free(blob.data);
}

static void a_version_below_the_minimum_is_refused(void **state)
{
	struct disk from = example(), to = {0};
	struct hf_err err = HF_ERR_INIT;
	struct blob blob = save_as(&old_disk_desc, &from);

	(void)state;
	assert_int_equal(load_as(&strict_disk_desc, &to, blob, &err), -EPROTO);
	assert_non_null(strstr(err.text, "2 to 3"));
	free(blob.data);
}

static void sections_are_told_apart_by_instance(void **state)
{
	struct disk from[2] = {example(), example()}, to[2] = {0};
	from[1].irq = 11;
	struct hf_devstate_section saved[] = {{&disk_desc, 0, &from[0]}, {&disk_desc, 1, &from[1]}};
	struct hf_devstate_section loaded[] = {{&disk_desc, 1, &to[1]}, {&disk_desc, 0, &to[0]}};
	struct blob blob = {0};

	(void)state;
	assert_int_equal(hf_devstate_save(saved, 2, &blob.data, &blob.length, NULL), 0);
	assert_int_equal(hf_devstate_load(loaded, 2, blob.data, blob.length, NULL), 0);
	assert_int_equal(to[0].irq, 0xdeadbeef);
	assert_int_equal(to[1].irq, 11);
	free(blob.data);
}

static void unknown_missing_and_doubled_sections_are_refused(void **state)
{
	struct disk from = example(), a = {0}, b = {0};
	struct hf_devstate_section one[] = {{&disk_desc, 0, &from}};
	struct hf_devstate_section two[] = {{&disk_desc, 0, &a}, {&disk_desc, 1, &b}};
	struct hf_devstate_section other[] = {{&disk_desc, 9, &a}};
	struct blob blob = {0};
	struct hf_err err = HF_ERR_INIT;

	(void)state;
	assert_int_equal(hf_devstate_save(one, 1, &blob.data, &blob.length, NULL), 0);
	assert_int_equal(hf_devstate_load(two, 2, blob.data, blob.length, &err), -EPROTO);
	assert_non_null(strstr(err.text, "missing"));
	assert_int_equal(hf_devstate_load(other, 1, blob.data, blob.length, &err), -EPROTO);
	assert_non_null(strstr(err.text, "unknown"));
	assert_int_equal(a.irq, 0);
	free(blob.data);

	/* Instance 1 becomes a second instance 0; both bodies start behind name and instance. */
	struct disk pair[2] = {example(), example()};
	struct hf_devstate_section both[] = {{&disk_desc, 0, &pair[0]}, {&disk_desc, 1, &pair[1]}};
	assert_int_equal(hf_devstate_save(both, 2, &blob.data, &blob.length, NULL), 0);
	size_t section_bytes = (blob.length - 28) / 2;
	((uint8_t *)blob.data)[24 + section_bytes + 1 + 4 + 3] = 0;
	repair_checksum(blob);
	assert_int_equal(hf_devstate_load(two, 2, blob.data, blob.length, &err), -EPROTO);
	assert_non_null(strstr(err.text, "twice"));
	free(blob.data);
	assert_int_equal(hf_devstate_save((struct hf_devstate_section[]){both[0], both[0]}, 2, &blob.data,
					  &blob.length, NULL),
			 -EINVAL);
}

static void a_failed_load_changes_nothing(void **state)
{
	struct disk good = example(), bad = example(), to[2] = {{.opened = 1}, {.opened = 2}};
	struct disk before[2] = {to[0], to[1]};
	bad.port = 2000;
	struct hf_devstate_section saved[] = {{&disk_desc, 0, &good}, {&disk_desc, 1, &bad}};
	struct hf_devstate_section loaded[] = {{&disk_desc, 0, &to[0]}, {&disk_desc, 1, &to[1]}};
	struct blob blob = {0};
	struct hf_err err = HF_ERR_INIT;

	(void)state;
	assert_int_equal(hf_devstate_save(saved, 2, &blob.data, &blob.length, NULL), 0);
	assert_int_equal(hf_devstate_load(loaded, 2, blob.data, blob.length, &err), -EINVAL);
	assert_non_null(strstr(err.text, "port 2000"));
	assert_memory_equal(before, to, sizeof(to));
	free(blob.data);
}

static void a_failed_pre_save_fails_the_save(void **state)
{
	struct disk disk = example();
	struct hf_devstate_section section = {&disk_desc, 0, &disk};
	struct blob blob = {.data = &disk, .length = 5};
	struct hf_err err = HF_ERR_INIT;

	(void)state;
	disk.status = 0xee;
	assert_int_equal(hf_devstate_save(&section, 1, &blob.data, &blob.length, &err), -EIO);
	assert_ptr_equal(blob.data, &disk);
	assert_int_equal(blob.length, 5);
}

static void a_count_beyond_its_room_is_refused_both_ways(void **state)
{
	struct disk from = example(), to = {0};
	struct hf_devstate_section section = {&disk_desc, 3, &from};
	struct blob blob = save_as(&disk_desc, &from);
	static const uint8_t count_and_buffer[] = {0, 0, 0, 16, 0x5a, 0x5a};
	struct hf_err err = HF_ERR_INIT;

	(void)state;
	uint8_t *count = memmem(blob.data, blob.length, count_and_buffer, sizeof(count_and_buffer));
	assert_non_null(count);
	count[3] = 17;
	repair_checksum(blob);
	assert_int_equal(load_as(&disk_desc, &to, blob, &err), -EPROTO);
	assert_non_null(strstr(err.text, "buffer"));
	count[0] = 0xff;
	repair_checksum(blob);
	assert_int_equal(load_as(&disk_desc, &to, blob, &err), -EPROTO);
	free(blob.data);

	from.words_count = 5;
	assert_int_equal(hf_devstate_save(&section, 1, &blob.data, &blob.length, &err), -EINVAL);
}

static void truncation_at_every_byte_is_refused(void **state)
{
	struct disk from = example();
	struct blob blob = save_as(&disk_desc, &from);

	(void)state;
	for (size_t length = 0; length < blob.length; length++) {
		/* An allocation of exactly that length: a reader that goes past it is seen. */
		struct blob cut = {malloc(length ? length : 1), length};
		struct disk to = {0};
		memcpy(cut.data, blob.data, length);
		assert_int_equal(load_as(&disk_desc, &to, cut, NULL), -EPROTO);
		if (length >= 28) {
			repair_length(cut);
			assert_int_equal(load_as(&disk_desc, &to, cut, NULL), -EPROTO);
		}
		assert_int_equal(to.loads, 0);
		free(cut.data);
	}
	free(blob.data);
}

static void every_flipped_bit_is_refused(void **state)
{
	struct disk from = example();
	struct blob blob = save_as(&disk_desc, &from);
	uint8_t *data = blob.data;

	(void)state;
	for (size_t bit = 0; bit < blob.length * 8; bit++) {
		struct disk to = {0};
		data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		assert_int_equal(load_as(&disk_desc, &to, blob, NULL), -EPROTO);
		data[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	free(blob.data);
}

/* Damage behind a right checksum: refused or loaded, but never out of bounds and never a broken invariant. */
static void garbage_with_a_right_checksum_is_handled(void **state)
{
	struct disk from = example();
	struct blob blob = save_as(&disk_desc, &from);
	struct blob damaged = {malloc(blob.length), blob.length};
	uint64_t random = 88172645463325252ull;
	unsigned refused = 0;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		struct disk to = {0};
		memcpy(damaged.data, blob.data, blob.length);
		for (int change = 0; change <= round % 4; change++) {
			random ^= random << 13;
			random ^= random >> 7;
			random ^= random << 17;
			((uint8_t *)damaged.data)[24 + random % (blob.length - 28)] = (uint8_t)(random >> 40);
		}
		repair_checksum(damaged);
		int result = load_as(&disk_desc, &to, damaged, NULL);
		refused += result != 0;
		assert_in_range(to.queue_length, 0, 4);
		assert_in_range(to.buffer_bytes, 0, 16);
		assert_in_range(to.words_count, 0, 4);
		assert_true(result == 0 || result == -EPROTO || result == -EINVAL);
	}
	assert_true(refused > 1000 && refused < 20000);
	free(damaged.data);
	free(blob.data);
}

static void bytes_after_the_last_section_are_refused(void **state)
{
	struct disk from = example(), to = {0};
	struct blob blob = save_as(&disk_desc, &from);
	struct blob longer = {calloc(1, blob.length + 3), blob.length + 3};

	(void)state;
	memcpy(longer.data, blob.data, blob.length - 4);
	repair_length(longer);
	assert_int_equal(load_as(&disk_desc, &to, longer, NULL), -EPROTO);
	free(longer.data);
	free(blob.data);
}

static void an_unsound_description_is_refused(void **state)
{
	static const struct hf_devstate_field beyond[] = {{.name = "x",
							   .kind = HF_DEVSTATE_U64,
							   .offset_bytes = sizeof(struct disk) - 4,
							   .stride_bytes = 8,
							   .elements = 1},
							  HF_DEVSTATE_FIELDS_END};
	static const struct hf_devstate_field count_after[] = {
	    // cppcheck-suppress nullPointer ; only in sizeof and _Generic
	    HF_DEVSTATE_VARRAY(struct disk, words, words_count), HF_DEVSTATE_FIELD(struct disk, words_count),
	    HF_DEVSTATE_FIELDS_END};
	static const struct hf_devstate_field wrong_width[] = {
	    {.name = "x", .kind = HF_DEVSTATE_U64, .stride_bytes = 1, .elements = 1}, HF_DEVSTATE_FIELDS_END};
	static const struct hf_devstate_field *const tables[] = {beyond, count_after, wrong_width};
	struct disk disk = example();

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct hf_devstate_desc desc = {.name = "disk",
						.version = 1,
						.minimum_version = 1,
						.object_bytes = sizeof(struct disk),
						.fields = tables[i]};
		struct hf_devstate_section section = {&desc, 0, &disk};
		struct blob blob = {0};
		assert_int_equal(hf_devstate_save(&section, 1, &blob.data, &blob.length, NULL), -EINVAL);
		assert_null(blob.data);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_saved_is_loaded),
	    cmocka_unit_test(saving_what_was_loaded_gives_the_same_bytes),
	    cmocka_unit_test(integers_are_big_endian),
	    cmocka_unit_test(empty_variable_fields_travel),
	    cmocka_unit_test(hooks_run_and_see_the_saved_version),
	    cmocka_unit_test(a_subsection_not_needed_does_not_travel),
	    cmocka_unit_test(a_subsection_unknown_here_is_refused),
	    cmocka_unit_test(an_older_version_is_loaded_with_defaults),
	    cmocka_unit_test(a_newer_version_is_refused),
	    cmocka_unit_test(a_version_below_the_minimum_is_refused),
	    cmocka_unit_test(sections_are_told_apart_by_instance),
	    cmocka_unit_test(unknown_missing_and_doubled_sections_are_refused),
	    cmocka_unit_test(a_failed_load_changes_nothing),
	    cmocka_unit_test(a_failed_pre_save_fails_the_save),
	    cmocka_unit_test(a_count_beyond_its_room_is_refused_both_ways),
	    cmocka_unit_test(truncation_at_every_byte_is_refused),
	    cmocka_unit_test(every_flipped_bit_is_refused),
	    cmocka_unit_test(garbage_with_a_right_checksum_is_handled),
	    cmocka_unit_test(bytes_after_the_last_section_are_refused),
	    cmocka_unit_test(an_unsound_description_is_refused),
	};
	return cmocka_run_group_tests_name("core/devstate", tests, NULL, NULL);
}
