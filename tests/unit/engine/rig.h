/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rig.h - ports that record, for scripts that tell an engine what happens and read off what it does.
 *
 * Purpose: every port call becomes a short line ("fetch urgent ram 1.2": block ram, page 1, chunk 2); a test
 * says with rig_expect() which lines must have been written since the last time, in order, and no others.
 * Ports answer what the test has set. The two sides number the blocks in opposite order.
 *
 * Ownership: rig_create() / rig_destroy(), which destroys the engine too.
 * Threads: none. `inside` runs in the middle of a port call, as another thread might: no lock is held there.
 * Units: pages of 16 KiB ("ram") and 4 KiB ("rom"), chunks of 4 KiB.
 * Errors: checks that fail end the test.
 */
#ifndef HF_TESTS_ENGINE_RIG_H
#define HF_TESTS_ENGINE_RIG_H

#include "tests/unit/core/cmocka_setup.h"

#include "core/destination.h"
#include "core/lock.h"
#include "core/source.h"
#include "core/wire.h"

#define RIG_CALL_BYTES	  80
#define RIG_CALLS_MAX	  8192
#define RIG_FETCHES_MAX	  256
#define RIG_RAM_PAGES	  8u
#define RIG_ROM_PAGES	  4u
#define RIG_RAM_PAGE	  16384u
#define RIG_ROM_PAGE	  4096u
#define RIG_CHUNK	  4096u
#define RIG_SLOTS_MAX	  8u
#define RIG_EPOCH	  1u
#define RIG_THREAD	  501u /* the vCPU's */
#define RIG_DEVICE_STATE  "device state"
#define RIG_STATE_BYTES	  (sizeof(RIG_DEVICE_STATE) - 1)
#define RIG_PAYLOAD_BYTES 4096
#define RIG_TYPES	  (HF_WIRE_FIRST + 1u) /* 0 is none */

enum { RIG_RAM, RIG_ROM, RIG_BLOCKS }; /* the destination's numbers; the source's are the other way round */

struct rig {
	char calls[RIG_CALLS_MAX][RIG_CALL_BYTES];
	uint32_t calls_made;
	uint32_t vm_requests, notified;
	uint64_t now_ns;
	/* Of STOP, as the VMM's adapter says. */
	uint64_t ran_ns;
	const struct hf_vm_range *first;
	uint32_t first_count;

	/* What the ports answer; 0 is success. */
	int choose_result, prepare_result, place_result, place_zero_result, place_again_result,
	    may_poison_result, poison_result, release_result, give_back_result, send_result, presence_result,
	    chunk_result;
	int fetch_result; /* of fetch_failures fetches, after fetch_taken more have been taken */
	uint32_t fetch_failures, fetch_taken;
	int vm_result[HF_VM_OPS]; /* of the request */
	/* The port call number fail_at, from 1, fails (all from there on: fail_on); 0: none does. */
	uint32_t fail_at, can_fail;
	bool fail_on, failed, failed_on_link;
	bool vm_refused;   /* a request failed: its end is not reported */
	uint32_t resuming; /* requests to resume that were taken */

	/*
	 * The VMM is frozen and records are written at once, without a line; with `slow` they have lines and
	 * end when the test says so.
	 */
	bool slow, fence_asked;
	enum hf_record record_asked;

	void (*inside)(struct rig *rig, const char *call);
	bool inside_is_the_port; /* `inside` is the port's own thread: not what a port may do */
	uint32_t seen;		 /* for `inside` to count in */
	const char *sought;	 /* for `inside` to look for */

	uint32_t ram_pages;
	struct hf_ramblocks source_blocks, destination_blocks;

	/* Set before rig_destination() or rig_source(). */
	struct hf_destination_config destination_config;
	struct hf_source_config source_config;
	struct hf_link_info link;
	uint64_t ram_present, rom_present; /* bit i: page i exists on the source */
	/* What the next harvest finds; it empties them. */
	uint64_t ram_dirtied, rom_dirtied, ram_holes, rom_holes;
	int harvest_result;

	struct hf_destination *destination;
	struct hf_source *source;

	uint8_t *ram, *rom;	/* the alias, or the source's memory */
	uint8_t *staging;	/* RIG_SLOTS_MAX landings of `copy` */
	uint32_t addressed;	/* calls of chunk() */
	const uint8_t *placing; /* bytes of the page in place() */
	uint32_t placing_page;	/* and its number in the engine */

	struct hf_fetch fetches[RIG_FETCHES_MAX]; /* on their way, oldest first */
	uint32_t fetches_count;
	uint64_t posted_bytes[HF_FETCH_CLASSES];

	/* The last message of each type. */
	struct {
		uint32_t times;
		size_t bytes;
		uint8_t payload[RIG_PAYLOAD_BYTES];
	} sent[RIG_TYPES];
};

struct rig *rig_create(void);
void rig_destroy(struct rig *rig);

/* ---- what was called ---- */

#define rig_expect(rig, ...)	rig_expect_calls(rig, __LINE__, (const char *const[]){__VA_ARGS__, NULL})
#define rig_expect_nothing(rig) rig_expect_calls(rig, __LINE__, (const char *const[]){NULL})
void rig_expect_calls(struct rig *rig, int line, const char *const *calls);
void rig_forget(struct rig *rig);			  /* whatever was called is not looked at */
bool rig_called(const struct rig *rig, const char *call); /* since the last look */
void rig_record(struct rig *rig, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The FAIL last sent, decoded. */
struct hf_err rig_sent_fail(const struct rig *rig);

/* ---- messages ---- */

struct rig_message {
	uint32_t type;
	size_t bytes;
	uint8_t payload[RIG_PAYLOAD_BYTES];
};
/* A well-formed message of this type, as the peer of a rig in the middle of things would send it. */
void rig_message(const struct rig *rig, uint32_t type, struct rig_message *out);
void rig_presence_message(uint32_t source_block, uint32_t first_page, uint32_t pages, uint64_t bits,
			  struct rig_message *out);

/* ---- destination ---- */

enum rig_at {
	AT_NONE = 0,	/* created */
	AT_SETUP,	/* link up */
	AT_ADVISE,	/* ADVISE heard, memory is being prepared */
	AT_ACTIVE,	/* READY said */
	AT_PRESENCE,	/* one of two blocks described */
	AT_DEVICE_DATA, /* map whole, a piece of device state heard */
	AT_LISTEN,	/* DEVICE_END heard, the VMM loads */
	AT_LOADED,	/* LOADED said */
	AT_RUN,		/* RUN heard, the VMM was told */
	AT_RUNNING,	/* RESUMED said */
	AT_COMPLETE,	/* COMPLETE said */
	AT_COMPLETED,	/* FINISH heard */
	AT_COUNT,
};
const char *rig_at_name(enum rig_at at);

void rig_destination(struct rig *rig); /* creates the engine */
/* Goes on from where it is, one event after the other, until it is there; forgets the calls. */
void rig_reach(struct rig *rig, enum rig_at from, enum rig_at to);
/* Creates the engine and reaches. */
void rig_destination_at(struct rig *rig, enum rig_at at);
void rig_hear(struct rig *rig, uint32_t type); /* a well-formed message */
void rig_hear_bytes(struct rig *rig, uint32_t type, const void *payload, size_t bytes);
void rig_vm_done(struct rig *rig, enum hf_vm_op op, int result);
void rig_recorded(struct rig *rig, enum hf_record record, int result);
/* A link with the feature RECOVER and this epoch comes up. */
void rig_link_again(struct rig *rig, uint64_t epoch);
void rig_link_down(struct rig *rig);
void rig_fault(struct rig *rig, uint32_t block, uint64_t page);
struct hf_destination_snapshot rig_snapshot(struct rig *rig);
/* It has failed, for what the peer did, which these words name. */
void rig_expect_violation(struct rig *rig, const char *words);

/* Ends a fetch that is on its way, by its name ("ram 1.2"). */
void rig_landed(struct rig *rig, const char *chunk);
void rig_landed_zero(struct rig *rig, const char *chunk);
void rig_end_fetch(struct rig *rig, uint32_t index, enum hf_fetch_status status, bool zero);
void rig_fetch_ends(struct rig *rig, const char *chunk, enum hf_fetch_status status, bool zero);
/* Lands the fetch that is longest on its way. A fetch of the probe block is called "probe". */
void rig_land_oldest(struct rig *rig);
/* The same of one class; nothing if none is on its way. */
void rig_land_oldest_of(struct rig *rig, enum hf_fetch_class class);
/* Lands fetches, the oldest first, until none is on its way. */
void rig_land_all(struct rig *rig);
/* Calls hf_destination_work() of both classes until both are idle. */
void rig_work_all(struct rig *rig);

/* ---- source ---- */

enum rig_source_at {
	SOURCE_NONE = 0,
	SOURCE_SETUP, /* ADVISE said */
	SOURCE_STOPPING,
	SOURCE_SAVING,
	SOURCE_DEVICE,	 /* DEVICE_END said */
	SOURCE_GIVEN_UP, /* RUN said */
	SOURCE_RESUMED,	 /* RESUMED heard */
	SOURCE_COMPLETED,
	SOURCE_COUNT,
};
const char *rig_source_at_name(enum rig_source_at at);
void rig_source(struct rig *rig);
void rig_source_reach(struct rig *rig, enum rig_source_at from, enum rig_source_at to);
void rig_source_at(struct rig *rig, enum rig_source_at at);
struct hf_source_snapshot rig_source_snapshot(struct rig *rig);

/* ---- each test gets a rig of its own ---- */

int rig_setup(void **state);
int rig_teardown(void **state);
#define RIG_TEST(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)

#endif
