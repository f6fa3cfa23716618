/* SPDX-License-Identifier: Apache-2.0 */
/*
 * guest.c - loads the guest program and its memory.
 *
 * Theory of operation. A guest's memory follows from its configuration alone: the header holds the
 * configuration and the layout made from it, the system part (kvm/guest/layout.h) is written from the
 * header, and every data page that exists is filled with the pattern. Pages left as holes are not touched,
 * since touching a huge page makes it exist. The page tables are written with the accessed and dirty bits
 * set, so that the processor never writes to them and they can be compared afterwards.
 *
 * Filling is split over a few threads by pieces of 2 MiB: it is bound by zeroing and writing memory.
 */
#include "kvm/guest.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "core/ramblock.h"
#include "guest_program.h"
#include "kvm/guest/image.h"

#define TABLE_BYTES   4096ull
#define PIECE_BYTES   (2ull << 20) /* of filling, and what one entry of a page directory maps */
#define GIB	      (1ull << 30)
#define ENTRY_TABLE   0x27ull /* present, writable, user, accessed */
#define ENTRY_PAGE    0xe7ull /* and dirty, large */
#define FILL_THREADS  8
#define PAGE_SIZE_MIN (2ull << 20)
#define PORTS	      0x10000u

static uint64_t round_up(uint64_t value, uint64_t unit)
{
	return (value + unit - 1) / unit * unit;
}

static uint64_t directories(const struct hf_guest_header *header)
{
	return round_up(header->memory_bytes, GIB) / GIB;
}

static uint64_t header_check(const struct hf_guest_header *header)
{
	const uint64_t *words = (const uint64_t *)header;
	uint64_t check = 0;
	for (size_t i = 0; i < offsetof(struct hf_guest_header, check) / 8; i++)
		check = hf_guest_mix(check + words[i]);
	return check;
}

static int refuse(struct hf_err *err, const char *what)
{
	return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "guest: %s", what);
}

static int check_config(const struct hf_guest_config *config, struct hf_err *err)
{
	uint64_t page_size = config->page_size_bytes;

	if ((unsigned)config->pattern > HF_GUEST_HOT)
		return refuse(err, "unknown pattern");
	if (config->vcpus < 1 || config->vcpus > HF_GUEST_VCPUS_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL, "guest: %" PRIu32 " vCPUs; 1 to %u are possible",
				  config->vcpus, HF_GUEST_VCPUS_MAX);
	if (config->write_percent > 100 || config->fill_percent > 100)
		return refuse(err, "shares are 0 to 100 percent");
	if (config->pace_steps_per_s > HF_GUEST_PACE_MAX)
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "guest: a pace of %" PRIu32 " steps a second; at most %u are possible",
				  config->pace_steps_per_s, HF_GUEST_PACE_MAX);
	if (page_size < PAGE_SIZE_MIN || (page_size & (page_size - 1)) || page_size > HF_PAGE_SIZE_MAX_BYTES)
		return refuse(err, "the page size must be a power of two of at least 2 MiB");
	if (!config->memory_bytes || config->memory_bytes % page_size ||
	    config->memory_bytes > HF_GUEST_MEMORY_MAX)
		return refuse(err, "the memory must be a multiple of its page size and at most 256 GiB");
	if ((uint64_t)config->beat_port + config->vcpus > PORTS)
		return refuse(err, "there are not so many ports behind beat_port");
	return 0;
}

int hf_guest_header_make(struct hf_guest_header *out, const struct hf_guest_config *config,
			 struct hf_err *err)
{
	int result = check_config(config, err);
	if (result)
		return result;

	struct hf_guest_header header = {
	    .magic = HF_GUEST_MAGIC,
	    .memory_bytes = config->memory_bytes,
	    .page_size_bytes = config->page_size_bytes,
	    .vcpus = config->vcpus,
	    .pattern = config->pattern,
	    .write_percent = config->write_percent,
	    .fill_percent = config->fill_percent,
	    .seed = config->seed,
	    .pace_steps_per_s = config->pace_steps_per_s,
	    .beat_port = config->beat_port,
	    .pages = config->memory_bytes / config->page_size_bytes,
	};
	uint64_t parts = 1;
	while (parts < header.vcpus)
		parts *= 2;
	header.part_bytes = header.page_size_bytes / parts;
	header.status_offset = HF_GUEST_TABLES_OFFSET + (2 + directories(&header)) * TABLE_BYTES;
	header.ledger_offset = header.status_offset + header.vcpus * sizeof(struct hf_guest_status);
	header.system_bytes = header.ledger_offset + header.vcpus * header.pages * 8;
	header.system_pages = round_up(header.system_bytes, header.page_size_bytes) / header.page_size_bytes;
	if (header.system_pages >= header.pages) {
		char size[HF_SIZE_TEXT_BYTES];
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "guest: %" PRIu64 " pages of %s are too few, at least %" PRIu64
				  " are needed; give the VM more memory",
				  header.pages, hf_size_text(header.page_size_bytes, size),
				  header.system_pages + 1);
	}
	header.data_pages = header.pages - header.system_pages;
	header.hot_pages = header.data_pages < 10 ? 1 : header.data_pages / 10;
	header.check = header_check(&header);
	*out = header;
	return 0;
}

int hf_guest_header_read(struct hf_guest_header *out, const void *memory, uint64_t memory_bytes,
			 struct hf_err *err)
{
	struct hf_guest_header found, made;

	if (memory_bytes < HF_GUEST_TEXT_OFFSET)
		return hf_err_set(err, HF_ERR_LOCAL, EBADMSG, "guest: %" PRIu64 " bytes hold no guest",
				  memory_bytes);
	memcpy(&found, (const uint8_t *)memory + HF_GUEST_HEADER_OFFSET, sizeof(found));

	struct hf_guest_config config = {
	    .pattern = (enum hf_guest_pattern)found.pattern,
	    .vcpus = found.vcpus <= HF_GUEST_VCPUS_MAX ? (uint32_t)found.vcpus : 0,
	    .write_percent = found.write_percent <= 100 ? (uint32_t)found.write_percent : UINT32_MAX,
	    .fill_percent = found.fill_percent <= 100 ? (uint32_t)found.fill_percent : UINT32_MAX,
	    .memory_bytes = found.memory_bytes,
	    .page_size_bytes = found.page_size_bytes,
	    .seed = found.seed,
	    .pace_steps_per_s =
		found.pace_steps_per_s <= HF_GUEST_PACE_MAX ? (uint32_t)found.pace_steps_per_s : UINT32_MAX,
	    .beat_port = found.beat_port <= PORTS ? (uint32_t)found.beat_port : PORTS,
	};
	if (found.memory_bytes != memory_bytes || hf_guest_header_make(&made, &config, NULL) ||
	    memcmp(&found, &made, sizeof(found)))
		return hf_err_set(
		    err, HF_ERR_LOCAL, EBADMSG,
		    "guest: the header at offset 0x%llx is damaged or missing: this memory holds no guest, "
		    "or its first page is wrong",
		    HF_GUEST_HEADER_OFFSET);
	*out = made;
	return 0;
}

/* ---- writing ---------------------------------------------------------------------------------- */

static void fill_pattern(uint8_t *memory, uint64_t seed, uint64_t from, uint64_t to)
{
	uint64_t *words = (uint64_t *)memory;
	for (uint64_t address = from; address < to; address += 8)
		words[address / 8] = hf_guest_word(seed, address, 0);
}

static uint64_t physical(uint64_t offset)
{
	return offset < HF_GUEST_LOW_BYTES ? offset : offset + HF_GUEST_HOLE_BYTES;
}

static void write_tables(uint8_t *image, const struct hf_guest_header *header)
{
	uint64_t tables = HF_GUEST_TABLES_OFFSET;
	uint64_t *root = (uint64_t *)(image + tables);
	uint64_t *pointers = (uint64_t *)(image + tables + TABLE_BYTES);
	uint64_t *entries = (uint64_t *)(image + tables + 2 * TABLE_BYTES);

	memset(root, 0, (2 + directories(header)) * TABLE_BYTES);
	root[0] = (tables + TABLE_BYTES) | ENTRY_TABLE;
	for (uint64_t i = 0; i < directories(header); i++)
		pointers[i] = (tables + (2 + i) * TABLE_BYTES) | ENTRY_TABLE;
	for (uint64_t i = 0; i < header->memory_bytes / PIECE_BYTES; i++)
		entries[i] = physical(i * PIECE_BYTES) | ENTRY_PAGE;
}

static void write_status(uint8_t *image, const struct hf_guest_header *header)
{
	for (uint64_t vcpu = 0; vcpu < header->vcpus; vcpu++) {
		uint64_t offset = header->status_offset + vcpu * sizeof(struct hf_guest_status);
		uint64_t none = hf_guest_seal(0);
		struct hf_guest_status status = {.step = none,
						 .visits = none,
						 .skips = none,
						 .writes = none,
						 .port_uses = none,
						 .errors = none,
						 .last_step_ticks = none,
						 .stall_ticks = none,
						 .vcpu = vcpu,
						 .memory_errors = none,
						 .stalled_ticks = none};
		memcpy(image + offset, &status, sizeof(status));
	}
}

void hf_guest_system_image(uint8_t *image, const struct hf_guest_header *header)
{
	_Static_assert(sizeof(guest_program) <= HF_GUEST_TEXT_MAX, "the program ends below the page tables");

	fill_pattern(image, header->seed, 0, HF_GUEST_TABLES_OFFSET);
	memcpy(image + HF_GUEST_HEADER_OFFSET, header, sizeof(*header));
	memcpy(image + HF_GUEST_TEXT_OFFSET, guest_program, sizeof(guest_program));
	write_tables(image, header);
	write_status(image, header);
	memset(image + header->ledger_offset, 0, header->system_bytes - header->ledger_offset);
}

struct filler {
	pthread_t thread;
	uint8_t *memory;
	const struct hf_guest_header *header;
	uint64_t first_piece, step_pieces;
};

static void *fill_pieces(void *opaque)
{
	const struct filler *filler = opaque;
	const struct hf_guest_header *header = filler->header;
	uint64_t pieces = header->memory_bytes / PIECE_BYTES;

	for (uint64_t piece = filler->first_piece; piece < pieces; piece += filler->step_pieces) {
		uint64_t from = piece * PIECE_BYTES, to = from + PIECE_BYTES;
		if (from < header->system_bytes)
			from = header->system_bytes;
		if (from < to && !hf_guest_is_hole(header, from / header->page_size_bytes))
			fill_pattern(filler->memory, header->seed, from, to);
	}
	return NULL;
}

static void fill_all(uint8_t *memory, const struct hf_guest_header *header)
{
	struct filler fillers[FILL_THREADS];
	long online = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned threads = online < 1 ? 1 : online > FILL_THREADS ? FILL_THREADS : (unsigned)online;
	bool started[FILL_THREADS] = {false};

	for (unsigned i = 0; i < threads; i++) {
		fillers[i] = (struct filler){
		    .memory = memory, .header = header, .first_piece = i, .step_pieces = threads};
		/* Without a thread its share is filled here. */
		started[i] =
		    i + 1 < threads && !pthread_create(&fillers[i].thread, NULL, fill_pieces, &fillers[i]);
		if (!started[i])
			fill_pieces(&fillers[i]);
	}
	for (unsigned i = 0; i < threads; i++)
		if (started[i])
			pthread_join(fillers[i].thread, NULL);
}

int hf_guest_load(void *memory, const struct hf_guest_config *config, struct hf_err *err)
{
	struct hf_guest_header header;
	int result = hf_guest_header_make(&header, config, err);
	if (result)
		return result;
	hf_guest_system_image(memory, &header);
	fill_all(memory, &header);
	return 0;
}

uint64_t hf_guest_visits(const void *memory, uint64_t memory_bytes)
{
	struct hf_guest_header header;
	uint64_t visits = 0;

	if (hf_guest_header_read(&header, memory, memory_bytes, NULL))
		return 0;
	for (uint64_t vcpu = 0; vcpu < header.vcpus; vcpu++) {
		uint64_t offset = header.status_offset + vcpu * sizeof(struct hf_guest_status) +
				  offsetof(struct hf_guest_status, visits);
		const uint64_t *sealed = (const uint64_t *)((const uint8_t *)memory + offset);
		visits += hf_guest_count(__atomic_load_n(sealed, __ATOMIC_RELAXED));
	}
	return visits;
}
