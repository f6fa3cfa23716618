/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * PROTOCOL.md says what every byte means; these files are its only reader and writer: this one for
 * the frames of the control channel, wire_hello.c for opening a channel, wire_chunk.c for pages,
 * wire_precopy.c for rounds, wire_first.c for pages to fetch first. Three rules keep it safe:
 *
 * - Bytes are moved by two cursors, `struct reader` and `struct writer` (wire_cursor.h). A cursor that runs
 * out remembers it and from then on moves nothing, so a codec is a plain list of fields with one check at its
 * end. No struct is ever laid over a buffer.
 * - A decoder reads all fields into a local, checks each value, and only then stores to the caller.
 * - What a decoder would refuse, its encoder refuses to write (-EINVAL): both call the same check_*().
 *
 * Headers of fixed size may be followed by other bytes in the buffer; a payload has to end with its last
 * field.
 */
#include "core/wire.h"

#include <inttypes.h>

#include "core/memory.h"
#include "core/text.h"
#include "core/wire_cursor.h"

#define ERRNO_MAX	 4095u
#define ADVISE_MIN_BYTES (8 + 20 + 1) /* no VM name, one block with a name of one byte */
#define ADVISE_MAX_BYTES (8 + HF_WIRE_VM_NAME_MAX + HF_RAMBLOCKS_MAX * (20 + HF_RAMBLOCK_IDSTR_MAX))

/* ---- frames ------------------------------------------------------------------------------------- */

struct frame_rule {
	const char *name;
	uint32_t min_bytes, max_bytes; /* of the payload */
};

static const struct frame_rule frame_rules[] = {
    [HF_WIRE_ADVISE] = {"ADVISE", ADVISE_MIN_BYTES, ADVISE_MAX_BYTES},
    [HF_WIRE_READY] = {"READY", 8, 8},
    [HF_WIRE_PRESENCE] = {"PRESENCE", 12 + 1, 12 + HF_WIRE_PRESENCE_PAGES_MAX / 8},
    [HF_WIRE_DEVICE] = {"DEVICE", 1, HF_WIRE_FRAME_MAX_BYTES},
    [HF_WIRE_DEVICE_END] = {"DEVICE_END", 8, 8},
    [HF_WIRE_LOADED] = {"LOADED", 0, 0},
    [HF_WIRE_RUN] = {"RUN", 0, 0},
    [HF_WIRE_RESUMED] = {"RESUMED", 0, 0},
    [HF_WIRE_COMPLETE] = {"COMPLETE", 0, 0},
    [HF_WIRE_FINISH] = {"FINISH", 24, 24},
    [HF_WIRE_FAIL] = {"FAIL", 12, 12 + HF_WIRE_TEXT_MAX_BYTES},
    [HF_WIRE_WISH] = {"WISH", 8, 8},
    [HF_WIRE_CHECK] = {"CHECK", 0, 0},
    [HF_WIRE_LINK] = {"LINK", 24, 24},
    [HF_WIRE_REFUSED] = {"REFUSED", 12, 12 + HF_WIRE_TEXT_MAX_BYTES},
    [HF_WIRE_PLACED] = {"PLACED", 4 + 12, HF_WIRE_PLACED_MAX_BYTES},
    [HF_WIRE_ROUND] = {"ROUND", 12 + 1, 12 + HF_WIRE_PRESENCE_PAGES_MAX / 8},
    [HF_WIRE_ROUND_END] = {"ROUND_END", 16, 16},
    [HF_WIRE_ROUND_DONE] = {"ROUND_DONE", 32, 32},
    [HF_WIRE_FIRST] = {"FIRST", 4 + 8, HF_WIRE_FIRST_MAX_BYTES},
};

static const struct frame_rule *rule_of(uint32_t type)
{
	if (type >= sizeof(frame_rules) / sizeof(frame_rules[0]) || !frame_rules[type].name)
		return NULL;
	return &frame_rules[type];
}

const char *hf_wire_type_name(uint32_t type)
{
	const struct frame_rule *rule = rule_of(type);
	return rule ? rule->name : "unknown";
}

static int check_frame_header(const struct hf_wire_frame_header *header, struct hf_err *err)
{
	const struct frame_rule *rule = rule_of(header->type);
	if (!rule)
		return hf_wire_broken(err, "frame header", "type %" PRIu32 " is unknown", header->type);
	if (header->length_bytes < rule->min_bytes || header->length_bytes > rule->max_bytes)
		return hf_wire_broken(err, rule->name,
				      "length_bytes is %" PRIu32 ", not %" PRIu32 " to %" PRIu32,
				      header->length_bytes, rule->min_bytes, rule->max_bytes);
	return 0;
}

ssize_t hf_wire_encode_frame_header(const struct hf_wire_frame_header *header, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_frame_header(header, NULL) < 0)
		return -EINVAL;
	put_u32(&writer, header->type);
	put_u32(&writer, header->length_bytes);
	return writer_end(&writer);
}

int hf_wire_decode_frame_header(const uint8_t *buffer, size_t bytes, struct hf_wire_frame_header *header,
				struct hf_err *err)
{
	struct reader reader = {.at = buffer, .left = bytes};
	struct hf_wire_frame_header in = {.type = get_u32(&reader), .length_bytes = 0};
	in.length_bytes = get_u32(&reader);

	if (reader.cut_short)
		return hf_wire_cut_short(err, "frame header", bytes);
	int result = check_frame_header(&in, err);
	if (result < 0)
		return result;
	*header = in;
	return 0;
}

/* ---- ADVISE ------------------------------------------------------------------------------------- */

ssize_t hf_wire_encode_advise(const char *vm_name, const struct hf_ramblocks *blocks, uint8_t *buffer,
			      size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};
	size_t name_bytes = strlen(vm_name);

	if (name_bytes > HF_WIRE_VM_NAME_MAX || !hf_text_is_printable((const uint8_t *)vm_name, name_bytes))
		return -EINVAL;
	if (blocks->count < 1 || blocks->count > HF_RAMBLOCKS_MAX)
		return -EINVAL;

	put_u32(&writer, (uint32_t)name_bytes);
	put_u32(&writer, blocks->count);
	put_bytes(&writer, vm_name, name_bytes);
	for (uint32_t i = 0; i < blocks->count; i++) {
		const struct hf_ramblock *block = &blocks->blocks[i];
		size_t idstr_bytes = strlen(block->idstr);
		put_u64(&writer, block->length_bytes);
		put_u64(&writer, block->page_size_bytes);
		put_u32(&writer, (uint32_t)idstr_bytes);
		put_bytes(&writer, block->idstr, idstr_bytes);
	}
	return writer_end(&writer);
}

static int decode_name(struct reader *reader, uint32_t name_bytes, char *vm_name, struct hf_err *err)
{
	if (name_bytes > HF_WIRE_VM_NAME_MAX)
		return hf_wire_broken(err, "ADVISE", "vm_name_bytes is %" PRIu32 ", the limit is %d",
				      name_bytes, HF_WIRE_VM_NAME_MAX);
	const uint8_t *name = get_bytes(reader, name_bytes);
	if (!name)
		return hf_wire_broken(err, "ADVISE", "vm_name is cut short");
	if (!hf_text_is_printable(name, name_bytes))
		return hf_wire_broken(err, "ADVISE", "vm_name has control characters or is not UTF-8");
	memcpy(vm_name, name, name_bytes);
	vm_name[name_bytes] = '\0';
	return 0;
}

static int decode_block(struct reader *reader, struct hf_ramblocks *blocks, struct hf_err *err)
{
	const uint32_t number = blocks->count;
	uint64_t length_bytes = get_u64(reader);
	uint64_t page_size_bytes = get_u64(reader);
	uint32_t idstr_bytes = get_u32(reader);
	char idstr[HF_RAMBLOCK_IDSTR_MAX + 1];

	if (idstr_bytes > HF_RAMBLOCK_IDSTR_MAX)
		return hf_wire_broken(err, "ADVISE",
				      "block %" PRIu32 ": idstr_bytes is %" PRIu32 ", the limit is %d",
				      number, idstr_bytes, HF_RAMBLOCK_IDSTR_MAX);
	const uint8_t *text = get_bytes(reader, idstr_bytes);
	if (!text)
		return hf_wire_broken(err, "ADVISE", "block %" PRIu32 " is cut short", number);
	if (!hf_text_is_printable(text, idstr_bytes)) // also keeps a NUL from ending the name early
		return hf_wire_broken(
		    err, "ADVISE", "block %" PRIu32 ": idstr has control characters or is not UTF-8", number);
	memcpy(idstr, text, idstr_bytes);
	idstr[idstr_bytes] = '\0';

	struct hf_err why = HF_ERR_INIT;
	int result = hf_ramblocks_add(blocks, idstr, length_bytes, page_size_bytes, &why);
	if (result == -ENOMEM)
		return hf_err_set(err, why.class, ENOMEM, "%s", why.text);
	return result < 0 ? hf_wire_broken(err, "ADVISE", "%s", why.text) : 0;
}

static int decode_advise_into(struct reader *reader, size_t bytes, char *vm_name, struct hf_ramblocks *blocks,
			      struct hf_err *err)
{
	uint32_t name_bytes = get_u32(reader);
	uint32_t count = get_u32(reader);

	if (reader->cut_short)
		return hf_wire_cut_short(err, "ADVISE", bytes);
	if (count < 1 || count > HF_RAMBLOCKS_MAX)
		return hf_wire_broken(err, "ADVISE", "block_count is %" PRIu32 ", not 1 to %d", count,
				      HF_RAMBLOCKS_MAX);
	int result = decode_name(reader, name_bytes, vm_name, err);
	for (uint32_t i = 0; result == 0 && i < count; i++)
		result = decode_block(reader, blocks, err);
	return result < 0 ? result : hf_wire_check_end(reader, "ADVISE", bytes, err);
}

int hf_wire_decode_advise(const uint8_t *payload, size_t bytes, char vm_name[static HF_WIRE_VM_NAME_MAX + 1],
			  struct hf_ramblocks *blocks, struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	char name[HF_WIRE_VM_NAME_MAX + 1];
	struct hf_ramblocks in;

	hf_ramblocks_init(&in);
	int result = decode_advise_into(&reader, bytes, name, &in, err);
	if (result < 0) {
		hf_ramblocks_destroy(&in);
		return result;
	}
	memcpy(vm_name, name, strlen(name) + 1);
	*blocks = in;
	return 0;
}

/* ---- READY -------------------------------------------------------------------------------------- */

static int check_ready(const struct hf_wire_ready *ready, struct hf_err *err)
{
	if (ready->placement != HF_PLACEMENT_COPY && ready->placement != HF_PLACEMENT_CONTINUE)
		return hf_wire_broken(err, "READY", "placement %" PRIu32 " is unknown", ready->placement);
	if (ready->chunk_bytes < HF_WIRE_CHUNK_MIN_BYTES || ready->chunk_bytes > HF_WIRE_CHUNK_MAX_BYTES ||
	    (ready->chunk_bytes & (ready->chunk_bytes - 1)) != 0)
		return hf_wire_broken(err, "READY",
				      "chunk_bytes is %" PRIu32 ", no power of two from %u to %u",
				      ready->chunk_bytes, HF_WIRE_CHUNK_MIN_BYTES, HF_WIRE_CHUNK_MAX_BYTES);
	return 0;
}

ssize_t hf_wire_encode_ready(const struct hf_wire_ready *ready, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_ready(ready, NULL) < 0)
		return -EINVAL;
	put_u32(&writer, ready->placement);
	put_u32(&writer, ready->chunk_bytes);
	return writer_end(&writer);
}

int hf_wire_decode_ready(const uint8_t *payload, size_t bytes, struct hf_wire_ready *ready,
			 struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	struct hf_wire_ready in = {0};
	in.placement = get_u32(&reader);
	in.chunk_bytes = get_u32(&reader);

	int result = hf_wire_check_end(&reader, "READY", bytes, err);
	if (result == 0)
		result = check_ready(&in, err);
	if (result < 0)
		return result;
	*ready = in;
	return 0;
}

/* ---- WISH --------------------------------------------------------------------------------------- */

static int check_wish(const struct hf_wire_wish *wish, struct hf_err *err)
{
	if (wish->placement > HF_WIRE_WISH_CONTINUE)
		return hf_wire_broken(err, "WISH", "placement %" PRIu32 " is unknown", wish->placement);
	if (wish->hold_background > 1)
		return hf_wire_broken(err, "WISH", "hold_background is %" PRIu32 ", not 0 or 1",
				      wish->hold_background);
	return 0;
}

ssize_t hf_wire_encode_wish(const struct hf_wire_wish *wish, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_wish(wish, NULL) < 0)
		return -EINVAL;
	put_u32(&writer, wish->placement);
	put_u32(&writer, wish->hold_background);
	return writer_end(&writer);
}

int hf_wire_decode_wish(const uint8_t *payload, size_t bytes, struct hf_wire_wish *wish, struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	struct hf_wire_wish in = {0};
	in.placement = get_u32(&reader);
	in.hold_background = get_u32(&reader);

	int result = hf_wire_check_end(&reader, "WISH", bytes, err);
	if (result == 0)
		result = check_wish(&in, err);
	if (result < 0)
		return result;
	*wish = in;
	return 0;
}

/* ---- PRESENCE ----------------------------------------------------------------------------------- */

static int check_presence(const struct hf_wire_presence *presence, struct hf_err *err)
{
	const uint32_t pages = presence->pages;

	if (presence->block >= HF_RAMBLOCKS_MAX)
		return hf_wire_broken(err, "PRESENCE", "block is %" PRIu32 ", the limit is %d blocks",
				      presence->block, HF_RAMBLOCKS_MAX);
	if (pages < 1 || pages > HF_WIRE_PRESENCE_PAGES_MAX)
		return hf_wire_broken(err, "PRESENCE", "pages is %" PRIu32 ", not 1 to %u", pages,
				      HF_WIRE_PRESENCE_PAGES_MAX);
	if (presence->first_page > HF_PAGES_MAX - pages)
		return hf_wire_broken(err, "PRESENCE",
				      "first_page %" PRIu32 " and pages %" PRIu32 " exceed a block's %" PRIu32
				      " pages",
				      presence->first_page, pages, HF_PAGES_MAX);
	if (presence->bits_bytes != ((size_t)pages + 7) / 8)
		return hf_wire_broken(err, "PRESENCE", "%zu bytes of bits for %" PRIu32 " pages",
				      presence->bits_bytes, pages);
	if (pages % 8 != 0 && presence->bits[presence->bits_bytes - 1] >> (pages % 8) != 0)
		return hf_wire_broken(err, "PRESENCE", "bits are set beyond the last of %" PRIu32 " pages",
				      pages);
	return 0;
}

ssize_t hf_wire_encode_presence(const struct hf_wire_presence *presence, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_presence(presence, NULL) < 0)
		return -EINVAL;
	put_u32(&writer, presence->block);
	put_u32(&writer, presence->first_page);
	put_u32(&writer, presence->pages);
	put_bytes(&writer, presence->bits, presence->bits_bytes);
	return writer_end(&writer);
}

int hf_wire_decode_presence(const uint8_t *payload, size_t bytes, struct hf_wire_presence *presence,
			    struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	struct hf_wire_presence in = {0};
	in.block = get_u32(&reader);
	in.first_page = get_u32(&reader);
	in.pages = get_u32(&reader);
	if (reader.cut_short)
		return hf_wire_cut_short(err, "PRESENCE", bytes);
	in.bits = reader.at;
	in.bits_bytes = reader.left;

	int result = check_presence(&in, err);
	if (result < 0)
		return result;
	*presence = in;
	return 0;
}

/* ---- PLACED ------------------------------------------------------------------------------------- */

static int check_range(const struct hf_wire_page_range *range, struct hf_err *err)
{
	if (range->block >= HF_RAMBLOCKS_MAX)
		return hf_wire_broken(err, "PLACED", "block is %" PRIu32 ", the limit is %d blocks",
				      range->block, HF_RAMBLOCKS_MAX);
	if (range->pages < 1 || range->pages > HF_PAGES_MAX ||
	    range->first_page > HF_PAGES_MAX - range->pages)
		return hf_wire_broken(err, "PLACED",
				      "first_page %" PRIu32 " and pages %" PRIu32
				      " are no range of a block's %" PRIu32 " pages",
				      range->first_page, range->pages, HF_PAGES_MAX);
	return 0;
}

static int check_placed(const struct hf_wire_placed *placed, struct hf_err *err)
{
	int result = 0;
	if (placed->count < 1 || placed->count > HF_WIRE_PLACED_RANGES_MAX)
		return hf_wire_broken(err, "PLACED", "ranges is %" PRIu32 ", not 1 to %u", placed->count,
				      HF_WIRE_PLACED_RANGES_MAX);
	for (uint32_t i = 0; i < placed->count && result == 0; i++)
		result = check_range(&placed->ranges[i], err);
	return result;
}

ssize_t hf_wire_encode_placed(const struct hf_wire_placed *placed, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_placed(placed, NULL) < 0)
		return -EINVAL;
	put_u32(&writer, placed->count);
	for (uint32_t i = 0; i < placed->count; i++) {
		put_u32(&writer, placed->ranges[i].block);
		put_u32(&writer, placed->ranges[i].first_page);
		put_u32(&writer, placed->ranges[i].pages);
	}
	return writer_end(&writer);
}

int hf_wire_decode_placed(const uint8_t *payload, size_t bytes, struct hf_wire_placed *placed,
			  struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	struct hf_wire_placed in = {.count = get_u32(&reader)};

	for (uint32_t i = 0; i < in.count && i < HF_WIRE_PLACED_RANGES_MAX; i++) {
		in.ranges[i].block = get_u32(&reader);
		in.ranges[i].first_page = get_u32(&reader);
		in.ranges[i].pages = get_u32(&reader);
	}
	int result = reader.cut_short ? hf_wire_cut_short(err, "PLACED", bytes) : check_placed(&in, err);
	if (result == 0)
		result = hf_wire_check_end(&reader, "PLACED", bytes, err);
	if (result < 0)
		return result;
	*placed = in;
	return 0;
}

/* ---- DEVICE_END, FINISH ------------------------------------------------------------------------- */

static int check_device_end(const struct hf_wire_device_end *end, struct hf_err *err)
{
	if (end->total_bytes < 1 || end->total_bytes > HF_WIRE_DEVICE_STATE_MAX_BYTES)
		return hf_wire_broken(err, "DEVICE_END", "total_bytes is %" PRIu64 ", not 1 to %u",
				      end->total_bytes, HF_WIRE_DEVICE_STATE_MAX_BYTES);
	return 0;
}

ssize_t hf_wire_encode_device_end(const struct hf_wire_device_end *end, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_device_end(end, NULL) < 0)
		return -EINVAL;
	put_u64(&writer, end->total_bytes);
	return writer_end(&writer);
}

int hf_wire_decode_device_end(const uint8_t *payload, size_t bytes, struct hf_wire_device_end *end,
			      struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	struct hf_wire_device_end in = {.total_bytes = get_u64(&reader)};

	int result = hf_wire_check_end(&reader, "DEVICE_END", bytes, err);
	if (result == 0)
		result = check_device_end(&in, err);
	if (result < 0)
		return result;
	*end = in;
	return 0;
}

ssize_t hf_wire_encode_finish(const struct hf_wire_finish *finish, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	put_u64(&writer, finish->downtime_ns);
	put_u64(&writer, finish->total_time_ns);
	put_u64(&writer, finish->sent_bytes);
	return writer_end(&writer);
}

int hf_wire_decode_finish(const uint8_t *payload, size_t bytes, struct hf_wire_finish *finish,
			  struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	struct hf_wire_finish in = {0};
	in.downtime_ns = get_u64(&reader);
	in.total_time_ns = get_u64(&reader);
	in.sent_bytes = get_u64(&reader);

	int result = hf_wire_check_end(&reader, "FINISH", bytes, err);
	if (result < 0)
		return result;
	*finish = in;
	return 0;
}

/* ---- LINK --------------------------------------------------------------------------------------- */

static int check_link(const struct hf_wire_link *link, struct hf_err *err)
{
	if (link->round_trip_ns < 1 || link->rate_bytes_per_s < 1)
		return hf_wire_broken(err, "LINK", "round_trip_ns or rate_bytes_per_s is 0");
	return 0;
}

ssize_t hf_wire_encode_link(const struct hf_wire_link *link, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};

	if (check_link(link, NULL) < 0)
		return -EINVAL;
	put_u64(&writer, link->round_trip_ns);
	put_u64(&writer, link->rate_bytes_per_s);
	put_u64(&writer, link->max_page_stall_ns);
	return writer_end(&writer);
}

int hf_wire_decode_link(const uint8_t *payload, size_t bytes, struct hf_wire_link *link, struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	struct hf_wire_link in = {0};
	in.round_trip_ns = get_u64(&reader);
	in.rate_bytes_per_s = get_u64(&reader);
	in.max_page_stall_ns = get_u64(&reader);

	int result = hf_wire_check_end(&reader, "LINK", bytes, err);
	if (result == 0)
		result = check_link(&in, err);
	if (result < 0)
		return result;
	*link = in;
	return 0;
}

/* ---- FAIL, REFUSED ------------------------------------------------------------------------------ */

/* The enum's values are the wire's. */
_Static_assert(HF_ERR_LINK == 1 && HF_ERR_PEER == 2 && HF_ERR_LOCAL == 3 && HF_ERR_CANCELLED == 4,
	       "PROTOCOL.md pins these");

static int check_reason(const char *message, uint32_t class, uint32_t errnum, struct hf_err *err)
{
	if (class < HF_ERR_LINK || class > HF_ERR_CANCELLED)
		return hf_wire_broken(err, message, "class %" PRIu32 " is unknown", class);
	if (errnum < 1 || errnum > ERRNO_MAX)
		return hf_wire_broken(err, message, "errnum is %" PRIu32 ", not 1 to %u", errnum, ERRNO_MAX);
	return 0;
}

static ssize_t encode_reason(const struct hf_err *why, uint8_t *buffer, size_t bytes)
{
	struct writer writer = {.at = buffer, .left = bytes};
	char clean[HF_WIRE_TEXT_MAX_BYTES + 1];

	uint32_t class = (uint32_t)why->class, errnum = (uint32_t)why->errnum;
	if (check_reason("", class, errnum, NULL) < 0) { // better a vague reason than none
		class = HF_ERR_LOCAL;
		errnum = EIO;
	}
	size_t text_bytes = hf_text_make_printable(
	    (const uint8_t *)why->text, strnlen(why->text, sizeof(why->text)), clean, sizeof(clean));
	put_u32(&writer, class);
	put_u32(&writer, errnum);
	put_u32(&writer, (uint32_t)text_bytes);
	put_bytes(&writer, clean, text_bytes);
	return writer_end(&writer);
}

static int decode_reason(const char *message, const uint8_t *payload, size_t bytes, struct hf_err *why,
			 struct hf_err *err)
{
	struct reader reader = {.at = payload, .left = bytes};
	uint32_t class = get_u32(&reader);
	uint32_t errnum = get_u32(&reader);
	uint32_t text_bytes = get_u32(&reader);
	if (text_bytes > HF_WIRE_TEXT_MAX_BYTES)
		return hf_wire_broken(err, message, "text_bytes is %" PRIu32 ", the limit is %u", text_bytes,
				      HF_WIRE_TEXT_MAX_BYTES);
	const uint8_t *text = get_bytes(&reader, text_bytes);

	int result = hf_wire_check_end(&reader, message, bytes, err);
	if (result == 0)
		result = check_reason(message, class, errnum, err);
	if (result < 0)
		return result;
	why->class = (enum hf_err_class) class;
	why->errnum = (int)errnum;
	hf_text_make_printable(text, text_bytes, why->text, sizeof(why->text));
	return 0;
}

ssize_t hf_wire_encode_fail(const struct hf_err *why, uint8_t *buffer, size_t bytes)
{
	return encode_reason(why, buffer, bytes);
}

int hf_wire_decode_fail(const uint8_t *payload, size_t bytes, struct hf_err *why, struct hf_err *err)
{
	return decode_reason("FAIL", payload, bytes, why, err);
}

ssize_t hf_wire_encode_refused(const struct hf_err *why, uint8_t *buffer, size_t bytes)
{
	return encode_reason(why, buffer, bytes);
}

int hf_wire_decode_refused(const uint8_t *payload, size_t bytes, struct hf_err *why, struct hf_err *err)
{
	return decode_reason("REFUSED", payload, bytes, why, err);
}
