/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: loading device state (core/devstate.h), with a description of every kind of field and with that of
 * a real vCPU. The first byte chooses the machine and whether length and checksum are made right: a fuzzer
 * would hardly find them, and what lies behind them must hold without them.
 *
 * A load that fails changes nothing; what was loaded saves, and loads again as the same.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/devstate.h"
#include "kvm/vmm/vcpu_state.h"
#include "tests/fuzz/fuzz.h"

enum { TOTAL_OFFSET = 16, HEADER_BYTES = 24, CRC_BYTES = 4, BODY_MAX = 1 << 17 };

/* ---- a device with everything ----------------------------------------------------------------- */

struct part {
	uint8_t kind;
	uint16_t limit;
};

struct device {
	uint32_t in_use;
	uint64_t address;
	uint16_t ring[5];
	uint8_t name[9];
	uint32_t part_count;
	struct part parts[4], first;
	uint32_t later;
	uint64_t extra;
};

static const struct hf_devstate_field part_fields[] = {
    HF_DEVSTATE_FIELD(struct part, kind), HF_DEVSTATE_FIELD(struct part, limit), HF_DEVSTATE_FIELDS_END};
static const struct hf_devstate_desc part_desc = {.name = "part",
						  .version = 1,
						  .minimum_version = 1,
						  .object_bytes = sizeof(struct part),
						  .fields = part_fields};

static const struct hf_devstate_field extra_fields[] = {HF_DEVSTATE_FIELD(struct device, extra),
							HF_DEVSTATE_FIELDS_END};
static const struct hf_devstate_desc extra_desc = {.name = "device/extra",
						   .version = 2,
						   .minimum_version = 1,
						   .object_bytes = sizeof(struct device),
						   .fields = extra_fields};

static bool extra_needed(const void *object)
{
	return ((const struct device *)object)->extra != 0;
}

static int device_post_load(void *object, uint32_t version, struct hf_err *err)
{
	const struct device *device = object;
	fuzz_check(version >= 1 && version <= 3);
	fuzz_check(device->in_use <= 5 && device->part_count <= 4);
	if (device->address == 0xbad)
		return hf_err_set(err, HF_ERR_PEER, EPROTO, "no such address");
	return 0;
}

static const struct hf_devstate_field device_fields[] = {
    HF_DEVSTATE_FIELD(struct device, in_use),
    HF_DEVSTATE_FIELD(struct device, address),
    HF_DEVSTATE_VARRAY(struct device, ring, in_use),
    HF_DEVSTATE_ARRAY(struct device, name),
    HF_DEVSTATE_FIELD(struct device, part_count),
    HF_DEVSTATE_NESTED_VARRAY(struct device, parts, part_count, &part_desc),
    HF_DEVSTATE_NESTED(struct device, first, &part_desc),
    HF_DEVSTATE_FIELD_SINCE(struct device, later, 3),
    HF_DEVSTATE_FIELDS_END};
static const struct hf_devstate_subsection device_subsections[] = {{&extra_desc, extra_needed}, {NULL, NULL}};
static const struct hf_devstate_desc device_desc = {.name = "device",
						    .version = 3,
						    .minimum_version = 1,
						    .object_bytes = sizeof(struct device),
						    .fields = device_fields,
						    .subsections = device_subsections,
						    .post_load = device_post_load};

/* ---- two machines ----------------------------------------------------------------------------- */

#define DEVICES 2
static struct device devices[DEVICES], devices_before[DEVICES];
static struct vmm_vcpu_state vcpu, vcpu_before;

static const struct hf_devstate_section device_sections[] = {{&device_desc, 0, &devices[0]},
							     {&device_desc, 7, &devices[1]}};
static const struct hf_devstate_section vcpu_sections[] = {{&vmm_vcpu_state_desc, 0, &vcpu}};

static void reset(void)
{
	memset(devices, 0x11, sizeof(devices));
	for (uint32_t i = 0; i < DEVICES; i++)
		devices[i].in_use = devices[i].part_count = 2;
	memset(&vcpu, 0, sizeof(vcpu));
	memcpy(devices_before, devices, sizeof(devices));
	memcpy(&vcpu_before, &vcpu, sizeof(vcpu));
}

static void check_untouched(void)
{
	fuzz_check(fuzz_same(devices_before, devices, sizeof(devices)));
	fuzz_check(fuzz_same(&vcpu_before, &vcpu, sizeof(vcpu)));
}

/* ---- the blob --------------------------------------------------------------------------------- */

static void put_big_endian(uint8_t *at, uint64_t value, int bytes)
{
	for (int i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

static uint32_t crc32_of(const uint8_t *data, size_t bytes)
{
	uint32_t crc = ~0u;
	for (size_t i = 0; i < bytes; i++) {
		crc ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
	}
	return ~crc;
}

/* The input with its length and checksum put right. */
static uint8_t *seal(const uint8_t *data, size_t *bytes)
{
	uint8_t *blob = malloc(*bytes + CRC_BYTES);
	fuzz_check(blob);
	memcpy(blob, data, *bytes);
	if (*bytes >= HEADER_BYTES)
		put_big_endian(blob + TOTAL_OFFSET, *bytes + CRC_BYTES, 8);
	put_big_endian(blob + *bytes, crc32_of(blob, *bytes), CRC_BYTES);
	*bytes += CRC_BYTES;
	return blob;
}

static void check_saves_again(const struct hf_devstate_section *sections, uint32_t count)
{
	void *saved = NULL, *again = NULL;
	size_t saved_bytes = 0, again_bytes = 0;
	fuzz_check(hf_devstate_save(sections, count, &saved, &saved_bytes, NULL) == 0);
	fuzz_check(hf_devstate_load(sections, count, saved, saved_bytes, NULL) == 0);
	fuzz_check(hf_devstate_save(sections, count, &again, &again_bytes, NULL) == 0);
	fuzz_check(again_bytes == saved_bytes && memcmp(again, saved, saved_bytes) == 0);
	free(saved);
	free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	if (bytes == 0 || bytes > BODY_MAX)
		return 0;
	const struct hf_devstate_section *sections = data[0] & 1 ? vcpu_sections : device_sections;
	uint32_t count = data[0] & 1 ? 1 : DEVICES;
	size_t blob_bytes = bytes - 1;
	uint8_t *sealed = data[0] & 2 ? NULL : seal(data + 1, &blob_bytes);
	struct hf_err err = HF_ERR_INIT;

	reset();
	int result = hf_devstate_load(sections, count, sealed ? sealed : data + 1, blob_bytes, &err);
	if (result) {
		fuzz_check(err.class != HF_ERR_NONE && err.text[0]);
		check_untouched();
	} else {
		check_saves_again(sections, count);
	}
	free(sealed);
	return 0;
}
