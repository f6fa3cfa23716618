/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both engines, joined, and a guest that writes, punches holes and is moved: in whatever order messages,
 * landings, faults, writes and the operator's wishes come, the destination ends with the source's memory.
 */
#include "tests/unit/engine/rig.h"

#include <stdlib.h>
#include <string.h>

#include "tests/unit/core/random.h"

/* AddressSanitizer looks for other faults than numbers of runs do, and takes ten times as long. */
#ifdef __SANITIZE_ADDRESS__
#define RUNS 300u
#else
#define RUNS 3000u
#endif
#define STEPS_MAX   60000u
#define MESSAGES    64u
#define WRITES_FREE 400u /* a guest that never rests could go on for ever without postcopy */

struct message {
	uint32_t type;
	size_t bytes;
	uint8_t payload[RIG_PAYLOAD_BYTES];
};

struct side {
	struct rig *rig;
	struct message queue[MESSAGES]; /* said, not heard */
	uint32_t said, heard;
	bool asked[HF_VM_OPS];
};

static struct side source, destination;
static struct random dice;
static bool guest_runs;
static uint32_t writes;

static uint32_t choose(uint32_t below)
{
	return (uint32_t)(random_next(&dice) % below);
}

static void note(struct side *side, const char *call)
{
	for (enum hf_vm_op op = 0; op < HF_VM_OPS; op++)
		side->asked[op] |= strcmp(call, hf_vm_op_name(op)) == 0;
	for (uint32_t type = 1; strncmp(call, "send ", 5) == 0 && type < RIG_TYPES; type++) {
		if (strcmp(call + 5, hf_wire_type_name(type)) != 0)
			continue;
		struct message *message = &side->queue[side->said++ % MESSAGES];
		assert_true(side->said - side->heard <= MESSAGES);
		message->type = type;
		message->bytes = side->rig->sent[type].bytes;
		memcpy(message->payload, side->rig->sent[type].payload, message->bytes);
	}
	if (side->rig->calls_made > RIG_CALLS_MAX / 2)
		rig_forget(side->rig);
}

static void note_source(struct rig *rig, const char *call)
{
	(void)rig;
	note(&source, call);
}

static void note_destination(struct rig *rig, const char *call)
{
	(void)rig;
	note(&destination, call);
}

static void hear(struct side *from, struct side *to)
{
	if (from->heard == from->said)
		return;
	struct message message = from->queue[from->heard++ % MESSAGES];
	assert_int_not_equal(message.type, HF_WIRE_FAIL);
	rig_hear_bytes(to->rig, message.type, message.payload, message.bytes);
}

static void do_vm(struct side *side)
{
	for (enum hf_vm_op op = 0; op < HF_VM_OPS; op++) {
		if (!side->asked[op] || op == HF_VM_FENCE)
			continue;
		side->asked[op] = false;
		guest_runs &= op != HF_VM_STOP;
		rig_vm_done(side->rig, op, 0);
	}
}

/* What the guest does to a page shows in the next harvest. */
static void write_page(struct rig *rig, bool punch)
{
	bool is_ram = choose(4) != 0;
	uint32_t page = choose(is_ram ? 1 + choose(RIG_RAM_PAGES) : RIG_ROM_PAGES);
	uint32_t size = is_ram ? RIG_RAM_PAGE : RIG_ROM_PAGE;
	uint8_t *bytes = (is_ram ? rig->ram : rig->rom) + page * size;
	uint64_t *present = is_ram ? &rig->ram_present : &rig->rom_present;
	uint64_t *dirtied = is_ram ? &rig->ram_dirtied : &rig->rom_dirtied;
	uint64_t *holes = is_ram ? &rig->ram_holes : &rig->rom_holes;
	if (punch) {
		memset(bytes, 0, size);
		*present &= ~(1ull << page);
	} else {
		uint32_t offset = choose(size / RIG_CHUNK) * RIG_CHUNK;
		memset(bytes + offset, choose(3) ? (int)choose(256) : 0, RIG_CHUNK);
		*present |= 1ull << page;
	}
	*dirtied |= 1ull << page;
	*holes = *dirtied & ~*present;
	writes++;
}

static void land(void)
{
	struct rig *rig = destination.rig;
	if (rig->fetches_count == 0)
		return;
	uint32_t index = choose(rig->fetches_count);
	const struct hf_fetch *fetch = &rig->fetches[index];
	struct hf_serve_request request = {
	    .epoch = fetch->epoch,
	    .block = fetch->block,
	    .offset_bytes = fetch->offset_bytes,
	    .length_bytes = fetch->length_bytes,
	    .class = fetch->class,
	};
	struct hf_serve_reply reply;
	struct hf_err err;
	if (hf_source_events.serve(source.rig->source, &request, &reply, &err) < 0)
		fail_msg("%s", err.text);
	if (reply.bytes)
		memcpy(fetch->landing, reply.bytes, fetch->length_bytes);
	rig_end_fetch(rig, index, HF_FETCH_OK, reply.zero);
}

static void fault(void)
{
	struct hf_destination_snapshot snapshot = rig_snapshot(destination.rig);
	if (snapshot.status != HF_STATUS_ACTIVE && snapshot.status != HF_STATUS_DEVICE &&
	    snapshot.status != HF_STATUS_POSTCOPY_ACTIVE)
		return;
	bool is_ram = choose(2);
	rig_fault(destination.rig, is_ram ? RIG_RAM : RIG_ROM,
		  choose(is_ram ? RIG_RAM_PAGES : RIG_ROM_PAGES));
}

static void operate(void)
{
	switch (choose(40)) {
	case 0:
		hf_source_start_postcopy(source.rig->source, NULL);
		break;
	case 1:
		hf_source_limit_rounds(source.rig->source, choose(2) ? 0 : 1000000 + choose(100000000));
		break;
	case 2:
		hf_source_limit_downtime(source.rig->source, 1 + choose(2000000));
		break;
	default:
		break;
	}
}

static void step(void)
{
	uint64_t passed_ns = choose(200000);
	source.rig->now_ns = destination.rig->now_ns += passed_ns;
	switch (choose(9)) {
	case 0:
		hear(&source, &destination);
		break;
	case 1:
		hear(&destination, &source);
		break;
	case 2:
	case 3:
		land();
		break;
	case 4:
		if (guest_runs && writes < WRITES_FREE)
			write_page(source.rig, choose(5) == 0);
		break;
	case 5:
		if (source.asked[HF_VM_SAVE] && choose(2)) /* saving a device writes memory */
			write_page(source.rig, false);
		do_vm(choose(2) ? &source : &destination);
		break;
	case 6:
		hf_destination_work(destination.rig->destination, HF_WORK_URGENT);
		hf_destination_work(destination.rig->destination, HF_WORK_BACKGROUND);
		if (destination.rig->record_asked != HF_RECORD_NONE)
			rig_recorded(destination.rig, destination.rig->record_asked, 0);
		break;
	case 7:
		if (choose(8) == 0)
			fault();
		break;
	default:
		operate();
		break;
	}
}

static struct rig *join(struct side *side, void (*inside)(struct rig *rig, const char *call))
{
	*side = (struct side){.rig = rig_create()};
	side->rig->link.features = HF_WIRE_FEATURE_PRECOPY | HF_WIRE_FEATURE_RECOVER;
	side->rig->inside = inside;
	side->rig->inside_is_the_port = true; /* it only takes notes */
	return side->rig;
}

static void begin(bool only)
{
	struct rig *from = join(&source, note_source), *to = join(&destination, note_destination);
	guest_runs = true;
	writes = 0;
	from->ram_present = choose(256);
	from->rom_present = choose(16);
	from->ram_dirtied = from->ram_present;
	from->rom_dirtied = from->rom_present;
	from->source_config.precopy = true;
	from->source_config.precopy_only = only;
	from->source_config.downtime_limit_ns = 1 + choose(1000000);
	rig_destination(to);
	rig_source(from);
	for (uint32_t page = 0; page < RIG_RAM_PAGES; page++)
		if (from->ram_present >> page & 1)
			memset(from->ram + page * RIG_RAM_PAGE, (int)choose(256), RIG_RAM_PAGE);
	for (uint32_t page = 0; page < RIG_ROM_PAGES; page++)
		if (from->rom_present >> page & 1)
			memset(from->rom + page * RIG_ROM_PAGE, (int)choose(256), RIG_ROM_PAGE);
	hf_source_events.link_up(from->source, &from->link);
	hf_destination_events.link_up(to->destination, &to->link);
	while (source.heard < source.said)
		hear(&source, &destination);
	hf_destination_memory_ready(to->destination, 0, NULL);
}

static bool ended(void)
{
	return rig_snapshot(destination.rig).status == HF_STATUS_COMPLETED &&
	       rig_source_snapshot(source.rig).status == HF_STATUS_COMPLETED;
}

static void the_destination_ends_with_the_memory_of_the_source(void **state)
{
	(void)state;
	uint64_t rounds = 0, postcopies = 0, moved = 0;
	for (uint32_t run = 0; run < RUNS; run++) {
		dice = (struct random){.state = run + 1};
		begin(run % 3 == 0);
		uint32_t steps = 0;
		while (!ended() && steps++ < STEPS_MAX)
			step();
		if (!ended())
			fail_msg("run %u: source %s (%s), destination %s (%s)", run,
				 hf_status_name(rig_source_snapshot(source.rig).status),
				 rig_source_snapshot(source.rig).err.text,
				 hf_status_name(rig_snapshot(destination.rig).status),
				 rig_snapshot(destination.rig).err.text);
		if (memcmp(source.rig->ram, destination.rig->ram, RIG_RAM_PAGES * RIG_RAM_PAGE) != 0 ||
		    memcmp(source.rig->rom, destination.rig->rom, RIG_ROM_PAGES * RIG_ROM_PAGE) != 0)
			fail_msg("run %u: the memory differs", run);
		struct hf_source_precopy_figures figures = rig_source_snapshot(source.rig).precopy;
		rounds += figures.rounds;
		moved += figures.moved_bytes;
		struct hf_wire_round_end end;
		assert_int_equal(hf_wire_decode_round_end(source.rig->sent[HF_WIRE_ROUND_END].payload,
							  source.rig->sent[HF_WIRE_ROUND_END].bytes, &end,
							  NULL),
				 0);
		postcopies += !(end.flags & HF_WIRE_ROUND_WHOLE);
		rig_destroy(source.rig);
		rig_destroy(destination.rig);
	}
	/* The runs are not all of one kind. */
	assert_true(rounds > 2 * RUNS);
	assert_in_range(postcopies, RUNS / 10, RUNS - RUNS / 10);
	assert_true(moved > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(the_destination_ends_with_the_memory_of_the_source),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
