/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The comparison. Theory of operation: each page is first compared whole. Of a page that differs every word
 * that differs is judged:
 *
 *  - in a data page only a vCPU's slot may differ, and only if that vCPU's ledger for the page says that it
 * was written since. The ledger is stored before the slot, so a vCPU that was stopped between the two stores
 * has one slot, of the step it was in, that differs while the ledgers agree: one is allowed per vCPU;
 *  - in the system pages only status blocks and ledgers may differ. What these must be is checked elsewhere
 *    (hf_guest_verify). Page tables may not: the loader sets the bits that the processor would set.
 *
 * So a page the destination's guest has not written since must be identical to the last byte.
 */
#include "deploy/compare.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#include "kvm/guest/layout.h"

struct pair {
	const uint8_t *source, *destination;
	const struct hf_guest_header *header;
	bool slot_in_flight_used[HF_GUEST_VCPUS_MAX];
};

static uint64_t word_at(const uint8_t *memory, uint64_t offset)
{
	uint64_t word;
	memcpy(&word, memory + offset, sizeof(word));
	return word;
}

static bool system_word_may_differ(const struct hf_guest_header *header, uint64_t offset)
{
	return offset >= header->status_offset && offset < header->system_bytes;
}

static bool slot_may_differ(struct pair *pair, uint64_t page, uint64_t vcpu)
{
	uint64_t ledger = hf_guest_ledger_offset(pair->header, vcpu, page);
	if (word_at(pair->source, ledger) != word_at(pair->destination, ledger))
		return true;
	bool first = !pair->slot_in_flight_used[vcpu];
	pair->slot_in_flight_used[vcpu] = true;
	return first;
}

static bool data_word_may_differ(struct pair *pair, uint64_t page, uint64_t offset)
{
	const struct hf_guest_header *header = pair->header;
	uint64_t in_page = offset % header->page_size_bytes;
	uint64_t vcpu = in_page / header->part_bytes;
	if (vcpu >= header->vcpus || in_page != hf_guest_slot_offset(header, page, vcpu))
		return false;
	return slot_may_differ(pair, page, vcpu);
}

static void judge_page(struct pair *pair, uint64_t page, struct hf_comparison *comparison)
{
	uint64_t start = page * pair->header->page_size_bytes;
	uint64_t end = start + pair->header->page_size_bytes;
	uint64_t wrong_before = comparison->words_different;
	for (uint64_t offset = start; offset < end; offset += sizeof(uint64_t)) {
		if (word_at(pair->source, offset) == word_at(pair->destination, offset))
			continue;
		bool fine = page < pair->header->system_pages ? system_word_may_differ(pair->header, offset)
							      : data_word_may_differ(pair, page, offset);
		if (fine) {
			comparison->words_written++;
			continue;
		}
		if (!comparison->words_different++)
			comparison->first_different_offset = offset;
	}
	comparison->pages_different += comparison->words_different != wrong_before;
}

static int check_header(const struct hf_guest_header *header, uint64_t memory_bytes, struct hf_err *err)
{
	bool sound = header->magic == HF_GUEST_MAGIC && header->memory_bytes == memory_bytes &&
		     header->page_size_bytes >= 4096 && header->vcpus >= 1 &&
		     header->vcpus <= HF_GUEST_VCPUS_MAX && header->part_bytes >= sizeof(uint64_t) &&
		     header->pages == memory_bytes / header->page_size_bytes &&
		     header->system_bytes <= memory_bytes && header->ledger_offset <= header->system_bytes &&
		     header->pages * header->vcpus * 8 <= header->system_bytes - header->ledger_offset;
	return sound ? 0
		     : hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "the memory to compare does not hold the demo's guest");
}

int hf_compare(const void *source, const void *destination, uint64_t memory_bytes,
	       struct hf_comparison *comparison, struct hf_err *err)
{
	struct pair pair = {.source = source,
			    .destination = destination,
			    .header = (const void *)((const char *)source + HF_GUEST_HEADER_OFFSET)};
	if (memory_bytes < HF_GUEST_HEADER_OFFSET + sizeof(struct hf_guest_header))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "%" PRIu64 " bytes hold no guest", memory_bytes);
	int result = check_header(pair.header, memory_bytes, err);
	if (result)
		return result;
	struct hf_comparison found = {.bytes_compared = memory_bytes};
	uint64_t page_bytes = pair.header->page_size_bytes;
	for (uint64_t page = 0; page < pair.header->pages; page++) {
		uint64_t start = page * page_bytes;
		if (!memcmp(pair.source + start, pair.destination + start, page_bytes))
			found.pages_identical++;
		else
			judge_page(&pair, page, &found);
	}
	*comparison = found;
	return 0;
}
