/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: a VM's record of which somebody else wrote each byte. The first byte says what is made right: bits
 * 0 to 2 the form and checksum of the two slots and the description, which are the first line, the second and
 * the rest, each without its last brace. With bit 3 the input is the file as it is.
 *
 * What is refused says why and changes nothing; what is accepted keeps all rules, and written again reads as
 * the same. The same bytes as a name of a VM make a file name.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/vm_record_internal.h"
#include "tests/fuzz/fuzz.h"

enum { SLOT = HF_VM_RECORD_SLOT_BYTES, AT = HF_VM_RECORD_DESCRIPTION_AT, CRC_MEMBER_BYTES = 23 };

static size_t seal(char *text, size_t bytes)
{
	uint32_t crc = ~0u;
	for (size_t i = 0; i < bytes; i++) {
		crc ^= (uint8_t)text[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
	}
	return bytes + (size_t)sprintf(text + bytes, ", \"crc32\": \"%08x\"}", ~crc);
}

static void make_slot(char *slot, bool right, const uint8_t *line, size_t bytes)
{
	memset(slot, ' ', SLOT);
	if (bytes > SLOT - 1 - CRC_MEMBER_BYTES - 1)
		bytes = SLOT - 1 - CRC_MEMBER_BYTES - 1;
	memcpy(slot, line, bytes);
	if (right)
		slot[seal(slot, bytes)] = ' ';
	slot[SLOT - 1] = '\n';
}

/* A whole file; free(). */
static char *make_file(uint8_t right, struct fuzz_input *input, size_t *file_bytes)
{
	char *file = malloc(AT + input->left + CRC_MEMBER_BYTES + 2);
	size_t bytes;
	fuzz_check(file);
	if (right & 8) {
		*file_bytes = input->left;
		memcpy(file, input->at, input->left);
		return file;
	}
	for (size_t i = 0; i < 2; i++) {
		const uint8_t *line = fuzz_line(input, &bytes);
		make_slot(file + i * SLOT, right & 1u << i, line, bytes);
	}
	bytes = input->left;
	memcpy(file + AT, input->at, bytes);
	if (right & 4) {
		bytes = seal(file + AT, bytes);
		file[AT + bytes++] = '\n';
	}
	*file_bytes = AT + bytes;
	return file;
}

static bool same_slot(const struct hf_vm_record_slot *a, const struct hf_vm_record_slot *b)
{
	return a->sequence == b->sequence && a->state.record == b->state.record &&
	       a->state.epoch == b->state.epoch && a->state.released == b->state.released &&
	       a->state.agent_pid == b->state.agent_pid &&
	       a->state.agent_start_ticks == b->state.agent_start_ticks &&
	       strcmp(a->state.written_at, b->state.written_at) == 0;
}

static void check_accepted(const struct hf_vm_record_content *content)
{
	char slot[SLOT], *text = NULL, *again = NULL;
	size_t bytes = 0, again_bytes = 0;
	struct hf_vm_record_slot read_slot;
	struct hf_vm_record_description *read = NULL;
	struct hf_err err = HF_ERR_INIT;
	fuzz_check(hf_vm_record_fits_role(content->description->role, content->slot.state.record));
	fuzz_check(hf_vm_record_description_check(content->description, NULL) == 0);
	hf_vm_record_vmm_lives(content->description);
	hf_vm_record_slot_encode(&content->slot, slot);
	fuzz_check(hf_vm_record_slot_decode(slot, &read_slot) == 0 && same_slot(&read_slot, &content->slot));

	int result = hf_vm_record_description_encode(content->description, &text, &bytes, &err);
	fuzz_check(result == 0 || result == -EMSGSIZE); // ours is longer than what was read
	if (result < 0)
		return;
	fuzz_check(hf_vm_record_description_decode(text, bytes, &read, NULL) == 0);
	fuzz_check(hf_vm_record_description_encode(read, &again, &again_bytes, NULL) == 0);
	fuzz_check(bytes == again_bytes && memcmp(text, again, bytes) == 0);
	hf_vm_record_description_free(read);
	free(text);
	free(again);
}

static void check_name(const uint8_t *data, size_t bytes)
{
	char file_name[HF_VM_RECORD_FILE_NAME_BYTES];
	char *name = malloc(bytes + 1);
	fuzz_check(name);
	memcpy(name, data, bytes);
	name[bytes] = '\0';
	int result = hf_vm_record_file_name(HF_VM_RECORD_OUTGOING, name, file_name, NULL);
	fuzz_check((result == 0) == (strlen(name) >= 1 && strlen(name) <= 255));
	fuzz_check(result < 0 || (!strchr(file_name, '/') && file_name[0] != '.'));
	free(name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	struct fuzz_input input = {.at = data, .left = bytes};
	struct hf_vm_record_content content, before;
	struct hf_err err = HF_ERR_INIT;
	size_t file_bytes;
	uint8_t right = fuzz_u8(&input);
	if (bytes == 0 || bytes > 16384)
		return 0;
	check_name(input.at, input.left);
	memset(&content, 0x5a, sizeof(content));
	memcpy(&before, &content, sizeof(content));
	char *file = make_file(right, &input, &file_bytes);
	if (hf_vm_record_decode(file, file_bytes, &content, &err) == 0) {
		check_accepted(&content);
		hf_vm_record_description_free(content.description);
	} else {
		fuzz_check(err.class != HF_ERR_NONE && err.text[0]);
		fuzz_check(fuzz_same(&before, &content, sizeof(content)));
	}
	free(file);
	return 0;
}
