/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * Slots and description have one form: an object of JSON whose last member is the CRC-32 of all bytes before
 * it, in a fixed number of characters:
 *
 *     {"version": 1, "sequence": 3, ..., "crc32": "0123abcd"}
 *
 * The checksum is looked at before the parser sees anything, and nothing may stand beside the object but the
 * padding of a slot, so each bit of a slot counts.
 *
 * What has a right checksum was written by a program on purpose. If it is not understood, a newer one wrote
 * it, or somebody plays tricks: then the other slot does not stand in for it, and the whole is refused.
 */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/ramblock.h"
#include "core/text.h"
#include "core/wire.h"
#include "kvm/vm_record_internal.h"

#define FORMAT_VERSION	 1
#define CRC_HEAD	 ", \"crc32\": \""
#define CRC_TAIL	 "\"}"
#define CRC_DIGITS	 8
#define CRC_MEMBER_BYTES (sizeof(CRC_HEAD) - 1 + CRC_DIGITS + sizeof(CRC_TAIL) - 1)
#define ESCAPED_MAX	 200 /* characters of a name in a file name; of a longer one only the head */
#define STRING_MAX_BYTES 4095

/* ---- checksum --------------------------------------------------------------------------------- */

/* Half a byte at a time. */
static uint32_t crc32_of(const char *bytes, size_t length_bytes)
{
	static const uint32_t table[16] = {
	    0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
	    0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
	uint32_t crc = ~0u;
	for (size_t i = 0; i < length_bytes; i++) {
		crc ^= (uint8_t)bytes[i];
		crc = crc >> 4 ^ table[crc & 15];
		crc = crc >> 4 ^ table[crc & 15];
	}
	return ~crc;
}

/* body: an object without its closing brace. Room for CRC_MEMBER_BYTES and a terminator behind it. */
static void append_crc(char *body, size_t body_bytes)
{
	snprintf(body + body_bytes, CRC_MEMBER_BYTES + 1, CRC_HEAD "%08" PRIx32 CRC_TAIL,
		 crc32_of(body, body_bytes));
}

/* The object, if it is whole; a new reference. -EBADMSG: damaged; -EPROTONOSUPPORT: of another version. */
static int parse_checked(const char *text, size_t length_bytes, json_t **object)
{
	char expected[CRC_MEMBER_BYTES + 1];
	if (length_bytes <= CRC_MEMBER_BYTES)
		return -EBADMSG;
	size_t body_bytes = length_bytes - CRC_MEMBER_BYTES;
	snprintf(expected, sizeof(expected), CRC_HEAD "%08" PRIx32 CRC_TAIL, crc32_of(text, body_bytes));
	if (memcmp(expected, text + body_bytes, CRC_MEMBER_BYTES) != 0)
		return -EBADMSG;

	json_t *parsed = json_loadb(text, length_bytes, JSON_REJECT_DUPLICATES, NULL);
	const json_t *version = json_object_get(parsed, "version");
	if (!json_is_integer(version) || json_integer_value(version) != FORMAT_VERSION) {
		json_decref(parsed);
		return -EPROTONOSUPPORT;
	}
	*object = parsed;
	return 0;
}

/* ---- names ------------------------------------------------------------------------------------ */

const char *hf_vm_record_role_name(enum hf_vm_record_role role)
{
	return role == HF_VM_RECORD_OUTGOING ? "outgoing" : "incoming";
}

bool hf_vm_record_fits_role(enum hf_vm_record_role role, enum hf_record record)
{
	switch (record) {
	case HF_RECORD_NONE:
		return true;
	case HF_RECORD_GIVEN_UP:
	case HF_RECORD_TAKEN_BACK:
		return role == HF_VM_RECORD_OUTGOING;
	case HF_RECORD_LOADED:
	case HF_RECORD_RUNNING:
	case HF_RECORD_REFUSED:
		return role == HF_VM_RECORD_INCOMING;
	case HF_RECORDS:
		break;
	}
	return false;
}

static bool is_plain(char c)
{
	return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
	       c == '_' || c == '-';
}

/* out has room for three characters a byte and a terminator. */
static size_t escape(const char *name, char *out)
{
	size_t used = 0;
	for (const char *at = name; *at; at++) {
		if (is_plain(*at) && !(at == name && *at == '.'))
			out[used++] = *at;
		else
			used += (size_t)sprintf(out + used, "%%%02X", (unsigned)(uint8_t)*at);
	}
	out[used] = '\0';
	return used;
}

/* FNV-1a. It need not be hard to collide with: the description has the whole name. */
static uint64_t hash_of(const char *name)
{
	uint64_t hash = 0xcbf29ce484222325ull;
	for (; *name; name++)
		hash = (hash ^ (uint8_t)*name) * 0x100000001b3ull;
	return hash;
}

int hf_vm_record_file_name(enum hf_vm_record_role role, const char *vm_name,
			   char name[static HF_VM_RECORD_FILE_NAME_BYTES], struct hf_err *err)
{
	char escaped[3 * HF_WIRE_VM_NAME_MAX + 1];
	if ((unsigned)role >= HF_VM_RECORD_ROLES || !vm_name || !vm_name[0])
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "a VM without a name has no record");
	if (strnlen(vm_name, HF_WIRE_VM_NAME_MAX + 1) > HF_WIRE_VM_NAME_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, ENAMETOOLONG,
				  "the name of the VM is longer than %d bytes: it has no record",
				  HF_WIRE_VM_NAME_MAX);
	/* '~' stands in no escaped name, so a short name's file is never a long one's. */
	char hash[20] = "";
	if (escape(vm_name, escaped) > ESCAPED_MAX)
		snprintf(hash, sizeof(hash), "~%016" PRIx64, hash_of(vm_name));
	snprintf(name, HF_VM_RECORD_FILE_NAME_BYTES, "%.*s%s.%s", ESCAPED_MAX, escaped, hash,
		 hf_vm_record_role_name(role));
	return 0;
}

/* ---- slots ------------------------------------------------------------------------------------ */

/* Allocates nothing: the VM stands still. The epoch is a string because JSON's integers end at 63 bits. */
void hf_vm_record_slot_encode(const struct hf_vm_record_slot *slot,
			      char bytes[static HF_VM_RECORD_SLOT_BYTES])
{
	int body_bytes =
	    snprintf(bytes, HF_VM_RECORD_SLOT_BYTES,
		     "{\"version\": %d, \"sequence\": %" PRIu64 ", \"record\": \"%s\", "
		     "\"epoch\": \"%" PRIu64 "\", \"written_at\": \"%s\"%s",
		     FORMAT_VERSION, slot->sequence, hf_record_name(slot->state.record), slot->state.epoch,
		     slot->state.written_at, slot->state.released ? ", \"released\": true" : "");
	if (slot->state.agent_pid > 0)
		body_bytes += snprintf(bytes + body_bytes, HF_VM_RECORD_SLOT_BYTES - (size_t)body_bytes,
				       ", \"agent_pid\": %d, \"agent_start_ticks\": %" PRIu64,
				       (int)slot->state.agent_pid, slot->state.agent_start_ticks);
	append_crc(bytes, (size_t)body_bytes);
	size_t used = (size_t)body_bytes + CRC_MEMBER_BYTES;
	memset(bytes + used, ' ', HF_VM_RECORD_SLOT_BYTES - 1 - used);
	bytes[HF_VM_RECORD_SLOT_BYTES - 1] = '\n';
}

static bool parse_record(const char *name, enum hf_record *record)
{
	for (unsigned i = 0; i < HF_RECORDS; i++)
		if (strcmp(name, hf_record_name((enum hf_record)i)) == 0) {
			*record = (enum hf_record)i;
			return true;
		}
	return false;
}

/* As it was printed, and nothing else. */
static bool parse_epoch(const char *text, uint64_t *epoch)
{
	char again[24];
	uint64_t value = strtoull(text, NULL, 10);
	snprintf(again, sizeof(again), "%" PRIu64, value);
	if (strcmp(text, again) != 0)
		return false;
	*epoch = value;
	return true;
}

static bool is_time(const char *text)
{
	return strlen(text) < sizeof(((struct hf_vm_record_state *)NULL)->written_at) &&
	       strspn(text, "0123456789-:.TZ") == strlen(text);
}

static bool unpack_slot(json_t *object, struct hf_vm_record_slot *slot)
{
	json_int_t sequence = 0, agent_pid = 0, agent_start = 0;
	const char *record = NULL, *epoch = NULL, *written_at = NULL;
	int released = 0;
	struct hf_vm_record_slot read = {0};
	if (json_unpack(object, "{s:I, s:s, s:s, s:s, s?b, s?I, s?I}", "sequence", &sequence, "record",
			&record, "epoch", &epoch, "written_at", &written_at, "released", &released,
			"agent_pid", &agent_pid, "agent_start_ticks", &agent_start))
		return false;
	if (agent_pid < 0 || agent_pid > INT_MAX || agent_start < 0 || (!agent_pid && agent_start))
		return false;
	if (sequence < 1 || (uint64_t)sequence > HF_VM_RECORD_SEQUENCE_MAX || !is_time(written_at) ||
	    !parse_record(record, &read.state.record) || !parse_epoch(epoch, &read.state.epoch))
		return false;
	read.sequence = (uint64_t)sequence;
	read.state.released = released;
	read.state.agent_pid = (pid_t)agent_pid;
	read.state.agent_start_ticks = (uint64_t)agent_start;
	snprintf(read.state.written_at, sizeof(read.state.written_at), "%s", written_at);
	*slot = read;
	return true;
}

int hf_vm_record_slot_decode(const char bytes[static HF_VM_RECORD_SLOT_BYTES], struct hf_vm_record_slot *slot)
{
	json_t *object = NULL;
	size_t length_bytes = HF_VM_RECORD_SLOT_BYTES - 1;
	if (bytes[length_bytes] != '\n')
		return -EBADMSG;
	while (length_bytes > 0 && bytes[length_bytes - 1] == ' ')
		length_bytes--;
	int r = parse_checked(bytes, length_bytes, &object);
	if (r < 0)
		return r;
	r = unpack_slot(object, slot) ? 0 : -EPROTONOSUPPORT;
	json_decref(object);
	return r;
}

/* ---- description ------------------------------------------------------------------------------ */

static int check_string(const char *what, const char *text, size_t limit_bytes, struct hf_err *err)
{
	if (!text)
		return 0;
	size_t length_bytes = strnlen(text, limit_bytes + 1);
	if (length_bytes == 0 || length_bytes > limit_bytes ||
	    !hf_text_is_printable((const uint8_t *)text, length_bytes))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "%s is empty, longer than %zu bytes or no printable UTF-8", what,
				  limit_bytes);
	return 0;
}

/* Of a block whose length and page size are sound. */
static int check_place(const struct hf_vm_record_block *block, struct hf_err *err)
{
	uint64_t mask = block->page_size_bytes - 1;
	bool told = block->vmm_address || !block->file_offset_bytes;
	if (told && !(block->vmm_address & mask) && !(block->file_offset_bytes & mask) &&
	    block->vmm_address <= INT64_MAX - block->length_bytes &&
	    block->file_offset_bytes <= INT64_MAX - block->length_bytes)
		return 0;
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "block '%s' cannot be where it is said to be",
			  block->idstr);
}

/* The rules of ramblock.h, and paths. */
static int check_blocks(const struct hf_vm_record_description *description, struct hf_err *err)
{
	struct hf_ramblocks registry;
	int r = 0;
	if (description->block_count > HF_RAMBLOCKS_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, E2BIG, "%u blocks of memory; a VM has at most %d",
				  (unsigned)description->block_count, HF_RAMBLOCKS_MAX);
	hf_ramblocks_init(&registry);
	for (uint32_t i = 0; i < description->block_count && r == 0; i++) {
		const struct hf_vm_record_block *block = &description->blocks[i];
		r = hf_ramblocks_add(&registry, block->idstr, block->length_bytes, block->page_size_bytes,
				     err);
		if (r == 0)
			r = check_string("the path of a block of memory", block->path, STRING_MAX_BYTES, err);
		if (r == 0)
			r = check_place(block, err);
	}
	hf_ramblocks_destroy(&registry);
	return r;
}

static bool is_boot_id(const char *text)
{
	return strnlen(text, HF_VM_RECORD_BOOT_ID_CHARS + 1) == HF_VM_RECORD_BOOT_ID_CHARS &&
	       strspn(text, "0123456789abcdef-") == HF_VM_RECORD_BOOT_ID_CHARS;
}

static int check_vmm(const struct hf_vm_record_description *description, struct hf_err *err)
{
	if (description->vmm_pid < 1 || description->vmm_start_ticks > INT64_MAX ||
	    !is_boot_id(description->boot_id))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "pid, start time or boot id of the VMM cannot be right");
	return 0;
}

static bool chunk_is_possible(uint32_t chunk_bytes)
{
	return chunk_bytes == 0 ||
	       (chunk_bytes >= HF_WIRE_CHUNK_MIN_BYTES && chunk_bytes <= HF_WIRE_CHUNK_MAX_BYTES &&
		(chunk_bytes & (chunk_bytes - 1)) == 0);
}

int hf_vm_record_description_check(const struct hf_vm_record_description *description, struct hf_err *err)
{
	char name[HF_VM_RECORD_FILE_NAME_BYTES];
	int r = hf_vm_record_file_name(description->role, description->vm_name, name, err);
	if (r == 0)
		r = check_string("the name of the VM", description->vm_name, HF_WIRE_VM_NAME_MAX, err);
	if (r == 0)
		r = check_string("the QMP address", description->qmp_target, STRING_MAX_BYTES, err);
	if (r == 0)
		r = check_string("the peer's URI", description->peer_uri, STRING_MAX_BYTES, err);
	if (r == 0)
		r = check_string("the URI listened on", description->listen_uri, STRING_MAX_BYTES, err);
	if (r == 0)
		r = check_string("the VMM's settings", description->vmm_settings, STRING_MAX_BYTES, err);
	if (r == 0)
		r = check_vmm(description, err);
	if (r == 0 && (!chunk_is_possible(description->chunk_bytes) ||
		       (description->placement != HF_PLACEMENT_COPY &&
			description->placement != HF_PLACEMENT_CONTINUE)))
		r = hf_err_set(err, HF_ERR_LOCAL, EINVAL, "chunk or placement cannot be right");
	return r < 0 ? r : check_blocks(description, err);
}

static json_t *pack_block(const struct hf_vm_record_block *block)
{
	json_t *packed =
	    json_pack("{s:s, s:s*, s:I, s:I}", "idstr", block->idstr, "path", block->path, "length_bytes",
		      (json_int_t)block->length_bytes, "page_size_bytes", (json_int_t)block->page_size_bytes);
	if (block->vmm_address) {
		json_object_set_new(packed, "vmm_address", json_integer((json_int_t)block->vmm_address));
		json_object_set_new(packed, "file_offset_bytes",
				    json_integer((json_int_t)block->file_offset_bytes));
	}
	return packed;
}

static json_t *pack_blocks(const struct hf_vm_record_description *description)
{
	json_t *blocks = json_array();
	for (uint32_t i = 0; i < description->block_count; i++)
		json_array_append_new(blocks, pack_block(&description->blocks[i]));
	return blocks;
}

/* NULL, and so no member, for a VM whose vCPUs are not known. */
static json_t *pack_vcpus(const struct hf_vm_record_description *description)
{
	json_t *vcpus = description->vcpu_count ? json_array() : NULL;
	for (uint32_t i = 0; i < description->vcpu_count; i++)
		json_array_append_new(vcpus, json_integer(description->vcpu_thread_ids[i]));
	return vcpus;
}

static void session_text(const uint8_t *session, char *text)
{
	for (size_t i = 0; i < HF_VM_RECORD_SESSION_BYTES; i++)
		sprintf(text + 2 * i, "%02x", session[i]);
}

static json_t *pack_description(const struct hf_vm_record_description *description)
{
	char session[2 * HF_VM_RECORD_SESSION_BYTES + 1];
	session_text(description->session, session);
	return json_pack("{s:i, s:s, s:s, s:s, s:i, s:I, s:s, s:s*, s:s*, s:s*, s:s*, s:s, s:I, s:o*, s:o}",
			 "version", FORMAT_VERSION, "role", hf_vm_record_role_name(description->role),
			 "vm_name", description->vm_name, "session", session, "vmm_pid",
			 (int)description->vmm_pid, "vmm_start_ticks",
			 (json_int_t)description->vmm_start_ticks, "boot_id", description->boot_id,
			 "qmp_target", description->qmp_target, "peer_uri", description->peer_uri,
			 "listen_uri", description->listen_uri, "vmm_settings", description->vmm_settings,
			 "placement", description->placement == HF_PLACEMENT_CONTINUE ? "continue" : "copy",
			 "chunk_bytes", (json_int_t)description->chunk_bytes, "vcpu_thread_ids",
			 pack_vcpus(description), "blocks", pack_blocks(description));
}

int hf_vm_record_description_encode(const struct hf_vm_record_description *description, char **text,
				    size_t *length_bytes, struct hf_err *err)
{
	int r = hf_vm_record_description_check(description, err);
	if (r < 0)
		return r;
	json_t *object = pack_description(description);
	char *body = object ? json_dumps(object, JSON_INDENT(1)) : NULL;
	json_decref(object);
	size_t body_bytes = body ? strlen(body) - 2 : 0; // without "\n}"
	char *whole = body ? realloc(body, body_bytes + CRC_MEMBER_BYTES + 2) : NULL;
	if (!whole) {
		free(body);
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the description of a VM");
	}
	append_crc(whole, body_bytes);
	size_t whole_bytes = body_bytes + CRC_MEMBER_BYTES;
	whole[whole_bytes++] = '\n';
	if (whole_bytes > HF_VM_RECORD_DESCRIPTION_MAX_BYTES) {
		free(whole);
		return hf_err_set(err, HF_ERR_LOCAL, EMSGSIZE,
				  "the description of the VM is longer than a record holds: %zu of %u bytes",
				  whole_bytes, HF_VM_RECORD_DESCRIPTION_MAX_BYTES);
	}
	*text = whole;
	*length_bytes = whole_bytes;
	return 0;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_session(const char *text, uint8_t *session)
{
	if (strlen(text) != 2 * (size_t)HF_VM_RECORD_SESSION_BYTES)
		return false;
	for (size_t i = 0; i < HF_VM_RECORD_SESSION_BYTES; i++) {
		int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);
		if (high < 0 || low < 0)
			return false;
		session[i] = (uint8_t)(high << 4 | low);
	}
	return true;
}

static bool copy_string(const char *from, char **to)
{
	*to = from ? strdup(from) : NULL;
	return !from || *to;
}

static int unpack_blocks(const json_t *blocks, struct hf_vm_record_description *description,
			 struct hf_err *err)
{
	size_t index;
	json_t *block;
	int r = 0;
	json_array_foreach(blocks, index, block)
	{
		const char *idstr = NULL, *path = NULL;
		json_int_t length_bytes = 0, page_size_bytes = 0, address = 0, offset_bytes = 0;
		if (json_unpack(block, "{s:s, s?s, s:I, s:I, s?I, s?I}", "idstr", &idstr, "path", &path,
				"length_bytes", &length_bytes, "page_size_bytes", &page_size_bytes,
				"vmm_address", &address, "file_offset_bytes", &offset_bytes) ||
		    length_bytes < 0 || page_size_bytes < 0 || address < 0 || offset_bytes < 0)
			return hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "a block of memory is not described");
		r = hf_vm_record_description_add_block(description, idstr, path, (uint64_t)length_bytes,
						       (uint64_t)page_size_bytes, err);
		if (r < 0)
			break;
		description->blocks[index].vmm_address = (uint64_t)address;
		description->blocks[index].file_offset_bytes = (uint64_t)offset_bytes;
	}
	return r;
}

static int unpack_vcpus(const json_t *list, struct hf_vm_record_description *description, struct hf_err *err)
{
	size_t count = json_array_size(list);
	uint32_t *thread_ids = calloc(count + 1, sizeof(*thread_ids));
	if (!thread_ids)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the description of a VM");
	int r = 0;
	for (size_t i = 0; i < count && r == 0; i++) {
		json_int_t id = json_integer_value(json_array_get(list, i));
		thread_ids[i] = (uint32_t)id;
		if (id < 1 || id > INT_MAX)
			r = hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "a vCPU's thread is none");
	}
	if (r == 0)
		r = hf_vm_record_description_set_vcpus(description, thread_ids, (uint32_t)count, err);
	free(thread_ids);
	return r;
}

static bool settle_words(struct hf_vm_record_description *description, const char *role, const char *session,
			 const char *boot_id, const char *placement)
{
	description->role = strcmp(role, "outgoing") == 0 ? HF_VM_RECORD_OUTGOING : HF_VM_RECORD_INCOMING;
	description->placement =
	    strcmp(placement, "continue") == 0 ? HF_PLACEMENT_CONTINUE : HF_PLACEMENT_COPY;
	if (strcmp(role, hf_vm_record_role_name(description->role)) != 0 || !is_boot_id(boot_id))
		return false;
	snprintf(description->boot_id, sizeof(description->boot_id), "%s", boot_id);
	return (description->placement == HF_PLACEMENT_CONTINUE || strcmp(placement, "copy") == 0) &&
	       parse_session(session, description->session);
}

static int unpack_description(json_t *object, struct hf_vm_record_description *description,
			      struct hf_err *err)
{
	const char *role = NULL, *name = NULL, *session = NULL, *boot_id = NULL, *placement = NULL;
	const char *qmp = NULL, *peer = NULL, *listen = NULL, *settings = NULL;
	json_int_t pid = 0, start = 0, chunk = 0;
	json_t *blocks = NULL, *vcpus = NULL;
	if (json_unpack(object, "{s:s, s:s, s:s, s:I, s:I, s:s, s?s, s?s, s?s, s?s, s:s, s:I, s?o, s:o}",
			"role", &role, "vm_name", &name, "session", &session, "vmm_pid", &pid,
			"vmm_start_ticks", &start, "boot_id", &boot_id, "qmp_target", &qmp, "peer_uri", &peer,
			"listen_uri", &listen, "vmm_settings", &settings, "placement", &placement,
			"chunk_bytes", &chunk, "vcpu_thread_ids", &vcpus, "blocks", &blocks) ||
	    pid < 1 || pid > INT_MAX || start < 0 || chunk < 0 || chunk > UINT32_MAX ||
	    !json_is_array(blocks) || (vcpus && !json_is_array(vcpus)) ||
	    !settle_words(description, role, session, boot_id, placement))
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG,
				  "a member of the description is missing or wrong");
	description->vmm_pid = (pid_t)pid;
	description->vmm_start_ticks = (uint64_t)start;
	description->chunk_bytes = (uint32_t)chunk;
	if (!copy_string(name, &description->vm_name) || !copy_string(qmp, &description->qmp_target) ||
	    !copy_string(peer, &description->peer_uri) || !copy_string(listen, &description->listen_uri) ||
	    !copy_string(settings, &description->vmm_settings))
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the description of a VM");
	int r = unpack_blocks(blocks, description, err);
	if (r == 0)
		r = unpack_vcpus(vcpus, description, err);
	return r < 0 ? r : hf_vm_record_description_check(description, err);
}

int hf_vm_record_description_decode(const char *text, size_t length_bytes,
				    struct hf_vm_record_description **out, struct hf_err *err)
{
	json_t *object = NULL;
	int r = -EBADMSG;
	if (length_bytes > 0 && length_bytes <= HF_VM_RECORD_DESCRIPTION_MAX_BYTES &&
	    text[length_bytes - 1] == '\n')
		r = parse_checked(text, length_bytes - 1, &object);
	if (r < 0)
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "its description is %s",
				  r == -EBADMSG ? "damaged" : "of another version of Hugeferry");
	struct hf_vm_record_description *description = calloc(1, sizeof(*description));
	r = description ? unpack_description(object, description, err)
			: hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for the description of a VM");
	json_decref(object);
	if (r < 0)
		hf_vm_record_description_free(description);
	else
		*out = description;
	return r < 0 && r != -ENOMEM ? hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "%s", err ? err->text : "") : r;
}

/* ---- the whole -------------------------------------------------------------------------------- */

static bool say_the_same(const struct hf_vm_record_slot *one, const struct hf_vm_record_slot *other)
{
	return one->sequence == other->sequence && one->state.record == other->state.record &&
	       one->state.epoch == other->state.epoch && one->state.released == other->state.released &&
	       one->state.agent_pid == other->state.agent_pid;
}

/* Which slot holds. */
static int choose_slot(const char *bytes, struct hf_vm_record_content *content, struct hf_err *err)
{
	struct hf_vm_record_slot slots[HF_VM_RECORD_SLOTS] = {0};
	int found[HF_VM_RECORD_SLOTS] = {0};
	for (unsigned i = 0; i < HF_VM_RECORD_SLOTS; i++)
		found[i] = hf_vm_record_slot_decode(bytes + (size_t)i * HF_VM_RECORD_SLOT_BYTES, &slots[i]);
	if (found[0] == -EPROTONOSUPPORT || found[1] == -EPROTONOSUPPORT)
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG,
				  "it was written by another version of Hugeferry");
	if (found[0] < 0 && found[1] < 0)
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "both copies of the record are damaged");
	if (found[0] == 0 && found[1] == 0 && slots[0].sequence == slots[1].sequence &&
	    !say_the_same(&slots[0], &slots[1]))
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "its two copies contradict each other");
	content->at = found[0] < 0 || (found[1] == 0 && slots[1].sequence > slots[0].sequence);
	content->slot = slots[content->at];
	content->copied = found[0] == 0 && found[1] == 0 && say_the_same(&slots[0], &slots[1]);
	return 0;
}

int hf_vm_record_decode(const char *bytes, size_t length_bytes, struct hf_vm_record_content *content,
			struct hf_err *err)
{
	struct hf_vm_record_content read = {0};
	if (length_bytes <= HF_VM_RECORD_DESCRIPTION_AT || length_bytes > HF_VM_RECORD_FILE_MAX_BYTES)
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "no record is %zu bytes long", length_bytes);
	int r = choose_slot(bytes, &read, err);
	if (r == 0)
		r = hf_vm_record_description_decode(bytes + HF_VM_RECORD_DESCRIPTION_AT,
						    length_bytes - HF_VM_RECORD_DESCRIPTION_AT,
						    &read.description, err);
	if (r < 0)
		return r;
	if (!hf_vm_record_fits_role(read.description->role, read.slot.state.record)) {
		r = hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "'%s' is no record of an %s VM",
			       hf_record_name(read.slot.state.record),
			       hf_vm_record_role_name(read.description->role));
		hf_vm_record_description_free(read.description);
		return r;
	}
	*content = read;
	return 0;
}
