/* SPDX-License-Identifier: Apache-2.0 */
/*
 * devstate.c - saves and loads objects by their descriptions.
 *
 * Theory of operation. A blob is
 *
 *     magic[8] "HFDEVICE"  format u32  sections u32  total u64     header
 *     section ...                                                  body
 *     crc u32                                                      over everything before it
 *
 * and all integers are big-endian. A section is a name (u8 length, bytes), an instance u32, then an
 * object: version u32, length u32, content. Content is the fields in the order of their table, without
 * tags, then a u8 number of subsections; a subsection is a name and an object. A nested struct is its version
 * u32 and its content. So the bytes follow from the description alone, an object's end is known before
 * it is read, and a description that disagrees with the bytes ends at the wrong place and is refused.
 *
 * Loading works on copies: each section's object is copied, loaded and checked (post_load) there, and the
 * copies are moved over the objects only when every section has been good. A half-loaded machine cannot
 * exist. A version above the description's is refused, one below its minimum too; between them, fields that
 * did not exist yet keep what the object (or pre_load) says.
 *
 * Nothing read is trusted: the reader knows its end and refuses to pass it, counts are compared with the room
 * in the object before any element is stored, names are compared with what is registered.
 */
#include "core/devstate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const uint8_t magic[8] = "HFDEVICE";

enum {
	FORMAT = 1,
	HEADER_BYTES = 24,
	CRC_BYTES = 4,
	NESTING_MAX = 8,
	SECTIONS_MAX = 65536,
};

static uint32_t crc32_of(const uint8_t *data, size_t length)
{
	uint32_t table[256];
	for (uint32_t i = 0; i < 256; i++) {
		uint32_t entry = i;
		for (int bit = 0; bit < 8; bit++)
			entry = entry >> 1 ^ (entry & 1 ? 0xedb88320u : 0);
		table[i] = entry;
	}

	uint32_t crc = ~0u;
	for (size_t i = 0; i < length; i++)
		crc = crc >> 8 ^ table[(crc ^ data[i]) & 0xff];
	return ~crc;
}

/* ---- descriptions ----------------------------------------------------------------------------- */

static size_t scalar_bytes(enum hf_devstate_kind kind)
{
	switch (kind) {
	case HF_DEVSTATE_U8:
	case HF_DEVSTATE_BYTES:
		return 1;
	case HF_DEVSTATE_U16:
		return 2;
	case HF_DEVSTATE_U32:
		return 4;
	case HF_DEVSTATE_U64:
		return 8;
	case HF_DEVSTATE_END:
	case HF_DEVSTATE_STRUCT:
		break;
	}
	return 0;
}

static bool fits(size_t offset, size_t stride, uint32_t elements, size_t object_bytes)
{
	size_t length;
	return !__builtin_mul_overflow(stride, (size_t)elements, &length) && length <= object_bytes &&
	       offset <= object_bytes - length;
}

/* Is the count a u32 field that stands before this one and exists whenever this one does? */
static bool count_is_known(const struct hf_devstate_desc *desc, const struct hf_devstate_field *field)
{
	for (const struct hf_devstate_field *before = desc->fields; before != field; before++)
		if (before->kind == HF_DEVSTATE_U32 && before->elements == 1 && !before->variable &&
		    before->offset_bytes == field->count_offset_bytes &&
		    before->since_version <= field->since_version)
			return true;
	return false;
}

static bool field_is_sound(const struct hf_devstate_desc *desc, const struct hf_devstate_field *field)
{
	if (!field->name ||
	    !fits(field->offset_bytes, field->stride_bytes, field->elements, desc->object_bytes))
		return false;
	if (field->variable && !count_is_known(desc, field))
		return false;
	if (field->kind == HF_DEVSTATE_STRUCT)
		return field->nested && field->nested->object_bytes == field->stride_bytes;
	return scalar_bytes(field->kind) && field->stride_bytes == scalar_bytes(field->kind);
}

static bool name_is_sound(const char *name)
{
	return name && name[0] && strlen(name) <= UINT8_MAX;
}

static int check_desc(const struct hf_devstate_desc *desc, int depth, struct hf_err *err)
{
	if (depth > NESTING_MAX || !name_is_sound(desc->name) || !desc->version ||
	    desc->minimum_version > desc->version || !desc->fields)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "device state: the description of '%s' is unsound",
				  desc->name ? desc->name : "?");

	for (const struct hf_devstate_field *field = desc->fields; field->kind != HF_DEVSTATE_END; field++) {
		if (!field_is_sound(desc, field))
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
					  "device state: the description of '%s' is unsound at field '%s'",
					  desc->name, field->name ? field->name : "?");
		if (field->nested) {
			int result = check_desc(field->nested, depth + 1, err);
			if (result)
				return result;
		}
	}

	uint32_t subsections = 0;
	for (const struct hf_devstate_subsection *sub = desc->subsections; sub && sub->desc; sub++) {
		if (!sub->needed || sub->desc->object_bytes != desc->object_bytes ||
		    ++subsections > UINT8_MAX)
			return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
					  "device state: subsection '%s' of '%s' is unsound", sub->desc->name,
					  desc->name);
		int result = check_desc(sub->desc, depth + 1, err);
		if (result)
			return result;
	}
	return 0;
}

static int check_sections(const struct hf_devstate_section *sections, uint32_t count, struct hf_err *err)
{
	if (count > SECTIONS_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "device state: %" PRIu32 " sections are too many", count);
	for (uint32_t i = 0; i < count; i++) {
		int result = check_desc(sections[i].desc, 0, err);
		if (result)
			return result;
		for (uint32_t j = 0; j < i; j++)
			if (sections[j].instance == sections[i].instance &&
			    !strcmp(sections[j].desc->name, sections[i].desc->name))
				return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
						  "device state: section '%s' instance %" PRIu32
						  " is registered twice",
						  sections[i].desc->name, sections[i].instance);
	}
	return 0;
}

static uint32_t count_in_use(const struct hf_devstate_field *field, const void *object)
{
	if (!field->variable)
		return field->elements;
	uint32_t count;
	memcpy(&count, (const uint8_t *)object + field->count_offset_bytes, sizeof(count));
	return count;
}

/* ---- saving ----------------------------------------------------------------------------------- */

struct writer {
	uint8_t *data;
	size_t length;
	size_t room;
	bool failed; /* out of memory or too long; checked once at the end */
};

static uint8_t *append(struct writer *writer, size_t length)
{
	if (writer->failed || length > HF_DEVSTATE_MAX_BYTES - writer->length) {
		writer->failed = true;
		return NULL;
	}
	if (writer->length + length > writer->room) {
		size_t room = 2 * (writer->length + length);
		uint8_t *data = realloc(writer->data, room);
		if (!data) {
			writer->failed = true;
			return NULL;
		}
		writer->data = data;
		writer->room = room;
	}
	uint8_t *at = writer->data + writer->length;
	writer->length += length;
	return at;
}

static void store_big_endian(uint8_t *at, uint64_t value, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

static void put(struct writer *writer, uint64_t value, size_t bytes)
{
	uint8_t *at = append(writer, bytes);
	if (at)
		store_big_endian(at, value, bytes);
}

static void put_bytes(struct writer *writer, const void *bytes, size_t length)
{
	uint8_t *at = append(writer, length);
	if (at && length)
		memcpy(at, bytes, length);
}

static void put_name(struct writer *writer, const char *name)
{
	put(writer, strlen(name), 1);
	put_bytes(writer, name, strlen(name));
}

static uint64_t load_native(const uint8_t *at, size_t bytes)
{
	uint16_t value16;
	uint32_t value32;
	uint64_t value64;

	switch (bytes) {
	case 1:
		return *at;
	case 2:
		memcpy(&value16, at, 2);
		return value16;
	case 4:
		memcpy(&value32, at, 4);
		return value32;
	default:
		memcpy(&value64, at, 8);
		return value64;
	}
}

static int save_content(struct writer *writer, const struct hf_devstate_desc *desc, void *object,
			struct hf_err *err);

static int save_field(struct writer *writer, const struct hf_devstate_desc *desc,
		      const struct hf_devstate_field *field, void *object, struct hf_err *err)
{
	uint32_t count = count_in_use(field, object);
	if (count > field->elements)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "device state: '%s': %" PRIu32
				  " elements of '%s' are more than its room of %" PRIu32,
				  desc->name, count, field->name, field->elements);

	uint8_t *at = (uint8_t *)object + field->offset_bytes;
	if (field->kind == HF_DEVSTATE_BYTES) {
		put_bytes(writer, at, count);
		return 0;
	}
	for (uint32_t i = 0; i < count; i++, at += field->stride_bytes) {
		if (field->kind != HF_DEVSTATE_STRUCT) {
			put(writer, load_native(at, field->stride_bytes), field->stride_bytes);
			continue;
		}
		put(writer, field->nested->version, 4);
		int result = save_content(writer, field->nested, at, err);
		if (result)
			return result;
	}
	return 0;
}

static int save_object(struct writer *writer, const struct hf_devstate_desc *desc, void *object,
		       struct hf_err *err)
{
	put(writer, desc->version, 4);
	size_t length_at = writer->length;
	put(writer, 0, 4);
	int result = save_content(writer, desc, object, err);
	if (!result && !writer->failed)
		store_big_endian(writer->data + length_at, writer->length - length_at - 4, 4);
	return result;
}

static int save_subsections(struct writer *writer, const struct hf_devstate_desc *desc, void *object,
			    struct hf_err *err)
{
	size_t number_at = writer->length;
	uint8_t number = 0;

	put(writer, 0, 1);
	for (const struct hf_devstate_subsection *sub = desc->subsections; sub && sub->desc; sub++) {
		if (!sub->needed(object))
			continue;
		number++;
		put_name(writer, sub->desc->name);
		int result = save_object(writer, sub->desc, object, err);
		if (result)
			return result;
	}
	if (!writer->failed)
		writer->data[number_at] = number;
	return 0;
}

static int save_content(struct writer *writer, const struct hf_devstate_desc *desc, void *object,
			struct hf_err *err)
{
	int result = desc->pre_save ? desc->pre_save(object, err) : 0;
	for (const struct hf_devstate_field *field = desc->fields; !result && field->kind != HF_DEVSTATE_END;
	     field++)
		result = save_field(writer, desc, field, object, err);
	return result ? result : save_subsections(writer, desc, object, err);
}

static int save_all(struct writer *writer, const struct hf_devstate_section *sections, uint32_t count,
		    struct hf_err *err)
{
	put_bytes(writer, magic, sizeof(magic));
	put(writer, FORMAT, 4);
	put(writer, count, 4);
	put(writer, 0, 8);
	for (uint32_t i = 0; i < count; i++) {
		put_name(writer, sections[i].desc->name);
		put(writer, sections[i].instance, 4);
		int result = save_object(writer, sections[i].desc, sections[i].object, err);
		if (result)
			return result;
	}
	if (!writer->failed)
		store_big_endian(writer->data + 16, writer->length + CRC_BYTES, 8);
	put(writer, writer->failed ? 0 : crc32_of(writer->data, writer->length), CRC_BYTES);
	if (writer->failed)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
				  "device state: out of memory, or longer than %u bytes",
				  HF_DEVSTATE_MAX_BYTES);
	return 0;
}

int hf_devstate_save(const struct hf_devstate_section *sections, uint32_t count, void **data,
		     size_t *length_bytes, struct hf_err *err)
{
	int result = check_sections(sections, count, err);
	if (result)
		return result;

	struct writer writer = {0};
	result = save_all(&writer, sections, count, err);
	if (result) {
		free(writer.data);
		return result;
	}
	*data = writer.data;
	*length_bytes = writer.length;
	return 0;
}

/* ---- loading ---------------------------------------------------------------------------------- */

struct reader {
	const uint8_t *at;
	size_t left;
	bool failed; /* something was asked beyond the end; what was read then is zeros */
};

static const uint8_t *take(struct reader *reader, size_t length)
{
	if (reader->failed || length > reader->left) {
		reader->failed = true;
		return NULL;
	}
	const uint8_t *at = reader->at;
	reader->at += length;
	reader->left -= length;
	return at;
}

static uint64_t get(struct reader *reader, size_t bytes)
{
	const uint8_t *at = take(reader, bytes);
	uint64_t value = 0;
	for (size_t i = 0; at && i < bytes; i++)
		value = value << 8 | at[i];
	return value;
}

/* A printable copy for messages and for comparing; a name with a NUL or control byte matches nothing. */
static void get_name(struct reader *reader, char name[static UINT8_MAX + 1])
{
	size_t length = get(reader, 1);
	const uint8_t *at = take(reader, length);
	for (size_t i = 0; at && i < length; i++)
		name[i] = (char)(at[i] >= ' ' && at[i] < 0x7f ? at[i] : '?');
	name[at ? length : 0] = '\0';
}

static void store_native(uint8_t *at, uint64_t value, size_t bytes)
{
	uint8_t value8 = (uint8_t)value;
	uint16_t value16 = (uint16_t)value;
	uint32_t value32 = (uint32_t)value;

	switch (bytes) {
	case 1:
		memcpy(at, &value8, 1);
		break;
	case 2:
		memcpy(at, &value16, 2);
		break;
	case 4:
		memcpy(at, &value32, 4);
		break;
	default:
		memcpy(at, &value, 8);
		break;
	}
}

static int too_short(const struct hf_devstate_desc *desc, struct hf_err *err)
{
	return hf_err_set(err, HF_ERR_PEER, EPROTO, "device state: '%s' ends too early", desc->name);
}

static int check_version(const struct hf_devstate_desc *desc, uint32_t version, struct hf_err *err)
{
	if (version >= desc->minimum_version && version <= desc->version && version)
		return 0;
	return hf_err_set(err, HF_ERR_PEER, EPROTO,
			  "device state: '%s' was saved as version %" PRIu32 ", this side loads %" PRIu32
			  " to %" PRIu32 "; use a matching program on both sides",
			  desc->name, version, desc->minimum_version, desc->version);
}

static int load_content(struct reader *reader, const struct hf_devstate_desc *desc, uint32_t version,
			void *object, struct hf_err *err);

static int load_nested(struct reader *reader, const struct hf_devstate_desc *desc, void *object,
		       struct hf_err *err)
{
	uint32_t version = (uint32_t)get(reader, 4);
	if (reader->failed)
		return too_short(desc, err);
	int result = check_version(desc, version, err);
	return result ? result : load_content(reader, desc, version, object, err);
}

static int load_field(struct reader *reader, const struct hf_devstate_desc *desc,
		      const struct hf_devstate_field *field, void *object, struct hf_err *err)
{
	uint32_t count = count_in_use(field, object);
	if (count > field->elements)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "device state: '%s' has %" PRIu32 " elements of '%s', at most %" PRIu32
				  " are possible",
				  desc->name, count, field->name, field->elements);

	uint8_t *at = (uint8_t *)object + field->offset_bytes;
	if (field->kind == HF_DEVSTATE_BYTES) {
		const uint8_t *bytes = take(reader, count);
		if (bytes && count)
			memcpy(at, bytes, count);
		return 0;
	}
	for (uint32_t i = 0; i < count && !reader->failed; i++, at += field->stride_bytes) {
		if (field->kind != HF_DEVSTATE_STRUCT) {
			store_native(at, get(reader, field->stride_bytes), field->stride_bytes);
			continue;
		}
		int result = load_nested(reader, field->nested, at, err);
		if (result)
			return result;
	}
	return 0;
}

static int load_object(struct reader *reader, const struct hf_devstate_desc *desc, void *object,
		       struct hf_err *err)
{
	uint32_t version = (uint32_t)get(reader, 4);
	size_t length = get(reader, 4);
	const uint8_t *content = take(reader, length);
	if (!content)
		return too_short(desc, err);
	int result = check_version(desc, version, err);
	if (result)
		return result;

	struct reader inner = {.at = content, .left = length};
	result = load_content(&inner, desc, version, object, err);
	if (!result && inner.left)
		return hf_err_set(err, HF_ERR_PEER, EPROTO, "device state: '%s' has %zu bytes too many",
				  desc->name, inner.left);
	return result;
}

static int load_subsection(struct reader *reader, const struct hf_devstate_desc *desc,
			   uint64_t seen[static 4], void *object, struct hf_err *err)
{
	char name[UINT8_MAX + 1];
	get_name(reader, name);
	if (reader->failed)
		return too_short(desc, err);

	unsigned index = 0;
	for (const struct hf_devstate_subsection *sub = desc->subsections; sub && sub->desc; sub++, index++) {
		if (strcmp(sub->desc->name, name))
			continue;
		if (seen[index / 64] >> index % 64 & 1)
			return hf_err_set(err, HF_ERR_PEER, EPROTO,
					  "device state: '%s' has subsection '%s' twice", desc->name, name);
		seen[index / 64] |= 1ull << index % 64;
		return load_object(reader, sub->desc, object, err);
	}
	return hf_err_set(
	    err, HF_ERR_PEER, EPROTO,
	    "device state: '%s' has a subsection '%s' this program does not know; the destination is "
	    "older than the source",
	    desc->name, name);
}

static int load_content(struct reader *reader, const struct hf_devstate_desc *desc, uint32_t version,
			void *object, struct hf_err *err)
{
	int result = desc->pre_load ? desc->pre_load(object, err) : 0;
	for (const struct hf_devstate_field *field = desc->fields; !result && field->kind != HF_DEVSTATE_END;
	     field++)
		if (field->since_version <= version)
			result = load_field(reader, desc, field, object, err);
	if (result)
		return result;

	uint64_t seen[4] = {0};
	for (uint64_t left = get(reader, 1); left && !result && !reader->failed; left--)
		result = load_subsection(reader, desc, seen, object, err);
	if (result)
		return result;
	if (reader->failed)
		return too_short(desc, err);
	return desc->post_load ? desc->post_load(object, version, err) : 0;
}

/* Loads one section into its copy, which is made here; copies[i] set means "seen". */
static int load_section(struct reader *reader, const struct hf_devstate_section *sections, uint32_t count,
			void **copies, struct hf_err *err)
{
	char name[UINT8_MAX + 1];
	get_name(reader, name);
	uint32_t instance = (uint32_t)get(reader, 4);
	if (reader->failed)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "device state: ends within the head of a section");

	for (uint32_t i = 0; i < count; i++) {
		const struct hf_devstate_section *section = &sections[i];
		if (section->instance != instance || strcmp(section->desc->name, name))
			continue;
		if (copies[i])
			return hf_err_set(err, HF_ERR_PEER, EPROTO,
					  "device state: section '%s' instance %" PRIu32 " comes twice", name,
					  instance);
		copies[i] = malloc(section->desc->object_bytes + 1);
		if (!copies[i])
			return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "device state: out of memory");
		memcpy(copies[i], section->object, section->desc->object_bytes);
		int result = load_object(reader, section->desc, copies[i], err);
		if (result)
			hf_err_prefix(err, "section '%s' instance %" PRIu32, name, instance);
		return result;
	}
	return hf_err_set(err, HF_ERR_PEER, EPROTO,
			  "device state: section '%s' instance %" PRIu32
			  " is unknown here; start the destination VM with the same devices as the source",
			  name, instance);
}

static int check_frame(const uint8_t *data, size_t length, struct reader *body, uint32_t *sections,
		       struct hf_err *err)
{
	struct reader reader = {.at = data, .left = length};
	const uint8_t *start = take(&reader, sizeof(magic));
	uint32_t format = (uint32_t)get(&reader, 4);
	uint32_t number = (uint32_t)get(&reader, 4);
	uint64_t total = get(&reader, 8);

	if (reader.failed || reader.left < CRC_BYTES || length > HF_DEVSTATE_MAX_BYTES)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "device state: %zu bytes cannot be a device state", length);
	if (memcmp(start, magic, sizeof(magic)))
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "device state: this is no device state (wrong magic)");
	if (format != FORMAT)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "device state: format %" PRIu32 ", this side knows %d", format, FORMAT);
	if (total != length)
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "device state: %zu bytes came, %" PRIu64 " were saved", length, total);

	struct reader tail = {.at = data + length - CRC_BYTES, .left = CRC_BYTES};
	if ((uint32_t)get(&tail, CRC_BYTES) != crc32_of(data, length - CRC_BYTES))
		return hf_err_set(err, HF_ERR_PEER, EPROTO,
				  "device state: the checksum is wrong, bytes were damaged");
	reader.left -= CRC_BYTES;
	*body = reader;
	*sections = number;
	return 0;
}

static int load_all(struct reader *reader, uint32_t number, const struct hf_devstate_section *sections,
		    uint32_t count, void **copies, struct hf_err *err)
{
	for (uint32_t i = 0; i < number; i++) {
		int result = load_section(reader, sections, count, copies, err);
		if (result)
			return result;
	}
	if (reader->left)
		return hf_err_set(err, HF_ERR_PEER, EPROTO, "device state: %zu bytes follow the last section",
				  reader->left);
	for (uint32_t i = 0; i < count; i++)
		if (!copies[i])
			return hf_err_set(err, HF_ERR_PEER, EPROTO,
					  "device state: section '%s' instance %" PRIu32
					  " is missing; start both VMs with the same devices",
					  sections[i].desc->name, sections[i].instance);
	return 0;
}

int hf_devstate_load(const struct hf_devstate_section *sections, uint32_t count, const void *data,
		     size_t length_bytes, struct hf_err *err)
{
	struct reader body = {0};
	uint32_t number = 0;
	int result = check_sections(sections, count, err);
	if (!result)
		result = check_frame(data, length_bytes, &body, &number, err);
	if (result)
		return result;

	void **copies = calloc((size_t)count + 1, sizeof(*copies));
	if (!copies)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "device state: out of memory");
	result = load_all(&body, number, sections, count, copies, err);
	for (uint32_t i = 0; i < count; i++) {
		if (!result)
			memcpy(sections[i].object, copies[i], sections[i].desc->object_bytes);
		free(copies[i]);
	}
	free(copies);
	return result;
}
