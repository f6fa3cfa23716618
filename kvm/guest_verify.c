/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest_verify.c - checks a stopped guest's memory from outside.
 *
 * Theory of operation. The header says how memory was made; it is rebuilt from its own configuration and
 * must agree in every bit. The system part is made again in a buffer and compared, except for the status
 * blocks and the ledgers. Those are checked against each other and against the slots:
 *
 *     slot (vCPU, page)  = word of the count in ledger (vCPU, page)
 *     sum of a ledger    = writes of its vCPU
 *     visits + skips     = step
 *     memory errors     <= skips
 *     port uses          = one in HF_GUEST_PORT_STEPS steps, or in each
 *     every count        carries its seal
 *
 * A vCPU may have been stopped between two stores of step number `step`. Stores come in a fixed order, so
 * each relation may be off by one, in one direction, and one slot may lag its ledger: the slot on the page
 * that this step visits, if it writes, and only while the ledger's sum is ahead of the writes. Nothing
 * else is tolerated.
 *
 * Every other word of a page that was filled is pattern; of a page that was a hole, zero.
 */
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/guest/image.h"

struct verifier {
	const uint8_t *memory;
	const struct hf_guest_header *header;
	struct hf_guest_report report;
	bool *page_wrong;
	uint64_t
	    *lagging_page; /* for each vCPU, the page whose slot may be one count behind; UINT64_MAX: none */
};

static uint64_t word_at(const struct verifier *verifier, uint64_t offset)
{
	uint64_t word;
	memcpy(&word, verifier->memory + offset, sizeof(word));
	return word;
}

static void wrong_bytes(struct verifier *verifier, uint64_t offset, uint64_t bytes)
{
	struct hf_guest_report *report = &verifier->report;
	uint64_t page = offset / verifier->header->page_size_bytes;

	if (!report->bytes_wrong || offset < report->first_wrong_offset)
		report->first_wrong_offset = offset;
	report->bytes_wrong += bytes;
	report->pages_wrong += !verifier->page_wrong[page];
	verifier->page_wrong[page] = true;
}

static void check_word(struct verifier *verifier, uint64_t offset, uint64_t expected)
{
	uint64_t difference = word_at(verifier, offset) ^ expected;
	if (__builtin_expect(!difference, 1))
		return;

	uint64_t first = (uint64_t)__builtin_ctzll(difference) / 8, bytes = 0;
	for (; difference; difference >>= 8)
		bytes += (difference & 0xff) != 0;
	wrong_bytes(verifier, offset + first, bytes);
}

/* A word that cannot be named, only its relation to others. */
static void check_relation(struct verifier *verifier, uint64_t offset, bool holds)
{
	if (!holds)
		wrong_bytes(verifier, offset, 8);
}

static uint64_t ledger_sum(const struct verifier *verifier, uint64_t vcpu)
{
	uint64_t sum = 0;
	for (uint64_t page = 0; page < verifier->header->pages; page++)
		sum += word_at(verifier, hf_guest_ledger_offset(verifier->header, vcpu, page));
	return sum;
}

/* Does the step under way write, and where? */
static uint64_t page_being_written(const struct hf_guest_header *header, uint64_t vcpu, uint64_t step)
{
	uint64_t random = hf_guest_step_random(header, vcpu, step);
	uint64_t page = hf_guest_step_page(header, vcpu, step, random);

	if (hf_guest_step_skips(hf_guest_is_hole(header, page), random))
		return UINT64_MAX;
	return hf_guest_step_writes(header, random) ? page : UINT64_MAX;
}

/* Reads a sealed count. */
static uint64_t count_at(struct verifier *verifier, uint64_t offset)
{
	uint64_t sealed = word_at(verifier, offset);
	check_relation(verifier, offset, sealed == hf_guest_seal(hf_guest_count(sealed)));
	return hf_guest_count(sealed);
}

#define STATUS_AT(member)    (base + offsetof(struct hf_guest_status, member))
#define STATUS_COUNT(member) count_at(verifier, STATUS_AT(member))

static void check_errors(struct verifier *verifier, uint64_t base)
{
	uint64_t errors = STATUS_COUNT(errors);
	verifier->report.guest_errors += errors;
	if (errors)
		return;
	check_word(verifier, STATUS_AT(bad_address), 0);
	check_word(verifier, STATUS_AT(bad_expected), 0);
	check_word(verifier, STATUS_AT(bad_found), 0);
}

static void check_counts(struct verifier *verifier, uint64_t vcpu, uint64_t base)
{
	uint64_t step = STATUS_COUNT(step);
	uint64_t visits = STATUS_COUNT(visits);
	uint64_t writes = STATUS_COUNT(writes);
	uint64_t port_uses = STATUS_COUNT(port_uses);
	uint64_t ended = visits + STATUS_COUNT(skips) - step;
	uint64_t unwritten = ledger_sum(verifier, vcpu) - writes;
	uint64_t port_steps = verifier->header->pace_steps_per_s ? 1 : HF_GUEST_PORT_STEPS;
	uint64_t uses = (step + port_steps - 1) / port_steps;
	bool may_use = hf_guest_step_uses_port(verifier->header, step);
	uint64_t writing = page_being_written(verifier->header, vcpu, step);
	bool lags = unwritten == 1 && !ended && writing != UINT64_MAX;

	check_relation(verifier, STATUS_AT(visits), ended <= 1 && visits <= step + 1);
	check_relation(verifier, STATUS_AT(writes), !unwritten || lags);
	check_relation(verifier, STATUS_AT(port_uses),
		       port_uses == uses || (may_use && port_uses == uses + 1));
	verifier->lagging_page[vcpu] = lags ? writing : UINT64_MAX;
	verifier->report.visits += visits;
	verifier->report.writes += writes;
}

static void check_status(struct verifier *verifier, uint64_t vcpu)
{
	uint64_t base = verifier->header->status_offset + vcpu * sizeof(struct hf_guest_status);

	check_counts(verifier, vcpu, base);
	check_errors(verifier, base);
	check_word(verifier, STATUS_AT(vcpu), vcpu);
	uint64_t memory_errors = STATUS_COUNT(memory_errors);
	check_relation(verifier, STATUS_AT(memory_errors), memory_errors <= STATUS_COUNT(skips) + 1);
	verifier->report.memory_errors += memory_errors;
	for (uint64_t i = 0; i < sizeof(((struct hf_guest_status *)0)->zero) / 8; i++)
		check_word(verifier, STATUS_AT(zero) + 8 * i, 0);
	check_relation(verifier, STATUS_AT(stall_ticks),
		       STATUS_COUNT(stall_ticks) <= STATUS_COUNT(last_step_ticks));
	check_relation(verifier, STATUS_AT(stalled_ticks),
		       STATUS_COUNT(stalled_ticks) <= STATUS_COUNT(last_step_ticks));
}

static int check_system(struct verifier *verifier, struct hf_err *err)
{
	const struct hf_guest_header *header = verifier->header;
	uint8_t *image = malloc(header->system_bytes);
	if (!image)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM,
				  "guest: %" PRIu64 " bytes cannot be had to compare with",
				  header->system_bytes);

	hf_guest_system_image(image, header);
	for (uint64_t offset = 0; offset < header->status_offset; offset += 8) {
		uint64_t expected;
		memcpy(&expected, image + offset, sizeof(expected));
		check_word(verifier, offset, expected);
	}
	free(image);
	for (uint64_t vcpu = 0; vcpu < header->vcpus; vcpu++)
		check_status(verifier, vcpu);
	/* No system page has slots, so nobody writes the ledgers' words for them. */
	for (uint64_t vcpu = 0; vcpu < header->vcpus; vcpu++)
		for (uint64_t page = 0; page < header->system_pages; page++)
			check_word(verifier, hf_guest_ledger_offset(header, vcpu, page), 0);
	for (uint64_t offset = header->system_bytes; offset < header->system_pages * header->page_size_bytes;
	     offset += 8)
		check_word(verifier, offset, hf_guest_word(header->seed, offset, 0));
	return 0;
}

static void check_unchanging(struct verifier *verifier, uint64_t from, uint64_t to, bool hole)
{
	uint64_t seed = verifier->header->seed;
	for (uint64_t offset = from; offset < to; offset += 8)
		check_word(verifier, offset, hole ? 0 : hf_guest_word(seed, offset, 0));
}

static void check_slot(struct verifier *verifier, uint64_t vcpu, uint64_t page, uint64_t slot, bool hole)
{
	const struct hf_guest_header *header = verifier->header;
	uint64_t count = word_at(verifier, hf_guest_ledger_offset(header, vcpu, page));

	if (verifier->lagging_page[vcpu] == page && count &&
	    word_at(verifier, slot) == hf_guest_slot_word(header, slot, hole, count - 1))
		return;
	check_word(verifier, slot, hf_guest_slot_word(header, slot, hole, count));
}

static void check_data_page(struct verifier *verifier, uint64_t page)
{
	const struct hf_guest_header *header = verifier->header;
	uint64_t start = page * header->page_size_bytes;
	bool hole = hf_guest_is_hole(header, page);
	uint64_t checked = start;

	/* Parts follow each other, so do the slots in them. */
	for (uint64_t vcpu = 0; vcpu < header->vcpus; vcpu++) {
		uint64_t slot = start + hf_guest_slot_offset(header, page, vcpu);
		check_unchanging(verifier, checked, slot, hole);
		check_slot(verifier, vcpu, page, slot, hole);
		checked = slot + 8;
	}
	check_unchanging(verifier, checked, start + header->page_size_bytes, hole);
}

int hf_guest_verify_except(const void *memory, uint64_t memory_bytes, const bool *lost,
			   struct hf_guest_report *report, struct hf_err *err)
{
	struct hf_guest_header header;
	int result = hf_guest_header_read(&header, memory, memory_bytes, err);
	if (result)
		return result;

	struct verifier verifier = {.memory = memory,
				    .header = &header,
				    .page_wrong = calloc(header.pages, sizeof(*verifier.page_wrong)),
				    .lagging_page = calloc(header.vcpus, sizeof(*verifier.lagging_page))};
	if (!verifier.page_wrong || !verifier.lagging_page)
		result = hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "guest: out of memory");
	if (!result)
		result = check_system(&verifier, err);
	for (uint64_t page = header.system_pages; !result && page < header.pages; page++)
		if (!lost || !lost[page])
			check_data_page(&verifier, page);
	free(verifier.page_wrong);
	free(verifier.lagging_page);
	if (result)
		return result;

	verifier.report.vcpus = (uint32_t)header.vcpus;
	verifier.report.bytes_checked = memory_bytes;
	*report = verifier.report;
	return 0;
}

int hf_guest_verify(const void *memory, uint64_t memory_bytes, struct hf_guest_report *report,
		    struct hf_err *err)
{
	return hf_guest_verify_except(memory, memory_bytes, NULL, report, err);
}
