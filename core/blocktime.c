/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Theory of operation
 *
 * One record per vCPU, and a pool of records for other threads while they wait. Two hash tables lead to them:
 *
 *     thread id -> record                  a thread waits for one page at most
 *     page      -> page_wait -> records    a page may have many waiters, linked both ways
 *
 * Events are fault(thread, page) and placed(page). A placement ends the waits of its page and of no other.
 * Reports may come out of order, because a thread runs as soon as its page is visible:
 *
 *     thread            placing thread         here
 *     faults on 7                              waits for 7 since t1
 *                       7 is made visible
 *     runs, faults on 9                        t2: the wait for 7 ends, waits for 9 since t2
 *                       reports 7 placed       t3: nobody waits for 7
 *
 * So a fault on another page ends the old wait, and placed() finds the waiters by page, never by thread. A
 * second fault on the same page is the kernel raising the first one again (a WAKE without a page): the wait
 * goes on.
 *
 * A fault is also reported late, after events younger than its message. last_ns, the clock, never goes back;
 * a wait does start back at its message, or it would lose what the thread stood still before the report:
 *
 *     time          t1          t2          t3
 *     thread        faults on 7                        waits t1 .. t3
 *     clock                     t2: fault   t3: 7
 *                               reported    placed
 *
 * Overlapped time needs only a counter and the latest start of a wait that found its vCPU running: when the
 * last vCPU stops, all have waited since that start, which no wait that goes on can be younger than. It
 * reaches back into no sum already made: a vCPU that ran until its last stop was freed at the clock before
 * it. A row of waits in which each begins where a fault ended the one before has no gap, so a fault that
 * moves a thread to another page leaves the counter alone.
 *
 * Between two events nothing changes, so every sum is brought up to date at the event that ends it; a query
 * adds what is still open without storing it.
 */
#include "core/blocktime.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define NONE	  UINT32_MAX
#define VCPUS_MAX (1u << 20)

/* A thread. The first `vcpus` records are the vCPUs', the others come from the free list. */
struct record {
	uint32_t thread_id;
	uint32_t thread_next; /* in the bucket of thread ids; of a free record: in the free list */
	uint32_t page_wait;   /* what it waits for; NONE: it runs */
	uint32_t waiter_next, waiter_previous;
	uint64_t since_ns;
	uint64_t ended_ns;     /* its previous wait */
	uint64_t blocktime_ns; /* of waits that have ended */
	uint64_t faults;
};

/* A page somebody waits for. */
struct page_wait {
	uint32_t page;
	uint32_t first_waiter;
	uint32_t next; /* in the bucket of pages, or in the free list */
};

struct hf_blocktime {
	uint32_t vcpus;
	uint32_t records_count;
	uint32_t bucket_mask;
	struct record *records;
	struct page_wait *page_waits; /* one per record is enough */
	uint32_t *thread_buckets, *page_buckets;
	uint32_t record_free, page_wait_free;

	uint64_t last_ns; /* the clock */
	uint32_t vcpus_blocked;
	uint64_t latest_stop_ns;       /* the latest start of a wait that found its vCPU running */
	uint64_t all_blocked_since_ns; /* while vcpus_blocked == vcpus */
	uint64_t overlapped_ns;
	uint64_t faults_vcpu, faults_other, other_blocktime_ns;
};

static uint32_t bucket_of(const struct hf_blocktime *blocktime, uint32_t key)
{
	uint64_t mixed = key * 0x9e3779b97f4a7c15ull;
	return (uint32_t)(mixed >> 32) & blocktime->bucket_mask;
}

static bool is_vcpu(const struct hf_blocktime *blocktime, uint32_t record)
{
	return record < blocktime->vcpus;
}

static uint64_t later(uint64_t a_ns, uint64_t b_ns)
{
	return a_ns > b_ns ? a_ns : b_ns;
}

/* ---- threads ------------------------------------------------------------------------------------ */

static uint32_t find_thread(const struct hf_blocktime *blocktime, uint32_t thread_id)
{
	uint32_t record = blocktime->thread_buckets[bucket_of(blocktime, thread_id)];
	while (record != NONE && blocktime->records[record].thread_id != thread_id)
		record = blocktime->records[record].thread_next;
	return record;
}

static void insert_thread(struct hf_blocktime *blocktime, uint32_t record, uint32_t thread_id)
{
	uint32_t *bucket = &blocktime->thread_buckets[bucket_of(blocktime, thread_id)];

	blocktime->records[record].thread_id = thread_id;
	blocktime->records[record].thread_next = *bucket;
	*bucket = record;
}

/* NONE when as many others wait already as the pool holds. */
static uint32_t take_other(struct hf_blocktime *blocktime, uint32_t thread_id)
{
	uint32_t record = blocktime->record_free;
	if (record == NONE)
		return NONE;
	blocktime->record_free = blocktime->records[record].thread_next;
	blocktime->records[record].ended_ns = 0; // another thread's
	insert_thread(blocktime, record, thread_id);
	return record;
}

static void give_back_other(struct hf_blocktime *blocktime, uint32_t record)
{
	uint32_t thread_id = blocktime->records[record].thread_id;
	uint32_t *link = &blocktime->thread_buckets[bucket_of(blocktime, thread_id)];

	while (*link != record)
		link = &blocktime->records[*link].thread_next;
	*link = blocktime->records[record].thread_next;
	blocktime->records[record].thread_next = blocktime->record_free;
	blocktime->record_free = record;
}

/* ---- pages -------------------------------------------------------------------------------------- */

static uint32_t find_page(const struct hf_blocktime *blocktime, uint32_t page)
{
	uint32_t wait = blocktime->page_buckets[bucket_of(blocktime, page)];
	while (wait != NONE && blocktime->page_waits[wait].page != page)
		wait = blocktime->page_waits[wait].next;
	return wait;
}

static uint32_t find_or_add_page(struct hf_blocktime *blocktime, uint32_t page)
{
	uint32_t wait = find_page(blocktime, page);
	if (wait != NONE)
		return wait;

	wait = blocktime->page_wait_free;
	assert(wait != NONE); // no more pages are waited for than threads wait
	uint32_t *bucket = &blocktime->page_buckets[bucket_of(blocktime, page)];
	blocktime->page_wait_free = blocktime->page_waits[wait].next;
	blocktime->page_waits[wait] = (struct page_wait){.page = page, .first_waiter = NONE, .next = *bucket};
	*bucket = wait;
	return wait;
}

static void remove_page(struct hf_blocktime *blocktime, uint32_t wait)
{
	uint32_t page = blocktime->page_waits[wait].page;
	uint32_t *link = &blocktime->page_buckets[bucket_of(blocktime, page)];

	while (*link != wait)
		link = &blocktime->page_waits[*link].next;
	*link = blocktime->page_waits[wait].next;
	blocktime->page_waits[wait].next = blocktime->page_wait_free;
	blocktime->page_wait_free = wait;
}

static void link_waiter(struct hf_blocktime *blocktime, uint32_t record, uint32_t page)
{
	uint32_t wait = find_or_add_page(blocktime, page);
	uint32_t first = blocktime->page_waits[wait].first_waiter;

	blocktime->records[record].page_wait = wait;
	blocktime->records[record].waiter_next = first;
	blocktime->records[record].waiter_previous = NONE;
	if (first != NONE)
		blocktime->records[first].waiter_previous = record;
	blocktime->page_waits[wait].first_waiter = record;
}

static void unlink_waiter(struct hf_blocktime *blocktime, uint32_t record)
{
	struct record *self = &blocktime->records[record];
	uint32_t wait = self->page_wait;

	if (self->waiter_next != NONE)
		blocktime->records[self->waiter_next].waiter_previous = self->waiter_previous;
	if (self->waiter_previous != NONE)
		blocktime->records[self->waiter_previous].waiter_next = self->waiter_next;
	else
		blocktime->page_waits[wait].first_waiter = self->waiter_next;
	self->page_wait = NONE;
	if (blocktime->page_waits[wait].first_waiter == NONE)
		remove_page(blocktime, wait);
}

/* ---- waits -------------------------------------------------------------------------------------- */

static void vcpu_stops(struct hf_blocktime *blocktime, uint64_t since_ns)
{
	blocktime->latest_stop_ns = later(since_ns, blocktime->latest_stop_ns);
	if (++blocktime->vcpus_blocked == blocktime->vcpus)
		blocktime->all_blocked_since_ns = blocktime->latest_stop_ns;
}

static void vcpu_runs(struct hf_blocktime *blocktime)
{
	if (blocktime->vcpus_blocked-- == blocktime->vcpus)
		blocktime->overlapped_ns += blocktime->last_ns - blocktime->all_blocked_since_ns;
}

/* Returns the length of the wait. The record of a thread that is no vCPU stays taken. */
static uint64_t end_wait(struct hf_blocktime *blocktime, uint32_t record, uint64_t end_ns)
{
	struct record *self = &blocktime->records[record];
	uint64_t wait_ns = end_ns - self->since_ns;

	unlink_waiter(blocktime, record);
	self->ended_ns = end_ns;
	if (is_vcpu(blocktime, record))
		self->blocktime_ns += wait_ns;
	else
		blocktime->other_blocktime_ns += wait_ns;
	return wait_ns;
}

static void wait_for_page(struct hf_blocktime *blocktime, uint32_t record, uint32_t page, uint64_t arrived_ns)
{
	struct record *self = &blocktime->records[record];
	bool waited = self->page_wait != NONE;

	if (waited && blocktime->page_waits[self->page_wait].page == page)
		return;
	if (waited)
		end_wait(blocktime, record, later(arrived_ns, self->since_ns));
	else if (is_vcpu(blocktime, record))
		vcpu_stops(blocktime, later(arrived_ns, self->ended_ns));
	self->since_ns = later(arrived_ns, self->ended_ns);
	link_waiter(blocktime, record, page);
}

/* The page a thread waited for is there. Returns the length of the wait. */
static uint64_t release(struct hf_blocktime *blocktime, uint32_t record)
{
	uint64_t wait_ns = end_wait(blocktime, record, blocktime->last_ns);
	if (is_vcpu(blocktime, record))
		vcpu_runs(blocktime);
	else
		give_back_other(blocktime, record);
	return wait_ns;
}

bool hf_blocktime_fault(struct hf_blocktime *blocktime, uint32_t thread_id, uint32_t page,
			uint64_t arrived_ns)
{
	uint32_t record = find_thread(blocktime, thread_id);
	bool vcpu = record != NONE && is_vcpu(blocktime, record);

	blocktime->last_ns = later(arrived_ns, blocktime->last_ns);
	if (vcpu) {
		blocktime->faults_vcpu++;
		blocktime->records[record].faults++;
	} else {
		blocktime->faults_other++;
		if (record == NONE)
			record = take_other(blocktime, thread_id);
	}
	if (record != NONE)
		wait_for_page(blocktime, record, page, arrived_ns);
	return vcpu;
}

void hf_blocktime_placed(struct hf_blocktime *blocktime, uint32_t page, uint64_t now_ns,
			 hf_blocktime_wait_ended *wait_ended, void *opaque)
{
	blocktime->last_ns = later(now_ns, blocktime->last_ns);

	uint32_t wait = find_page(blocktime, page);
	uint32_t record = wait == NONE ? NONE : blocktime->page_waits[wait].first_waiter;
	while (record != NONE) {
		uint32_t next = blocktime->records[record].waiter_next;
		uint64_t wait_ns = release(blocktime, record);
		if (wait_ended)
			wait_ended(opaque, wait_ns);
		record = next;
	}
}

/* ---- queries ------------------------------------------------------------------------------------ */

static uint64_t open_wait_ns(const struct record *record, uint64_t now_ns)
{
	return record->page_wait == NONE ? 0 : now_ns - record->since_ns;
}

void hf_blocktime_totals(const struct hf_blocktime *blocktime, uint64_t now_ns,
			 struct hf_blocktime_totals *totals)
{
	struct hf_blocktime_totals out = {
	    .overlapped_ns = blocktime->overlapped_ns,
	    .faults_vcpu = blocktime->faults_vcpu,
	    .faults_other = blocktime->faults_other,
	    .other_blocktime_ns = blocktime->other_blocktime_ns,
	    .vcpus = blocktime->vcpus,
	};

	now_ns = later(now_ns, blocktime->last_ns);
	if (blocktime->vcpus > 0 && blocktime->vcpus_blocked == blocktime->vcpus)
		out.overlapped_ns += now_ns - blocktime->all_blocked_since_ns;
	for (uint32_t i = blocktime->vcpus; i < blocktime->records_count; i++)
		out.other_blocktime_ns += open_wait_ns(&blocktime->records[i], now_ns);
	*totals = out;
}

int hf_blocktime_vcpu(const struct hf_blocktime *blocktime, uint32_t vcpu, uint64_t now_ns,
		      struct hf_blocktime_vcpu *out)
{
	if (vcpu >= blocktime->vcpus)
		return -EINVAL;
	const struct record *record = &blocktime->records[vcpu];
	now_ns = later(now_ns, blocktime->last_ns);
	*out = (struct hf_blocktime_vcpu){
	    .vcpu = vcpu,
	    .blocktime_ns = record->blocktime_ns + open_wait_ns(record, now_ns),
	    .faults = record->faults,
	    .blocked = record->page_wait != NONE,
	};
	return 0;
}

/* ---- life --------------------------------------------------------------------------------------- */

static size_t buckets_of(const struct hf_blocktime *blocktime)
{
	return (size_t)blocktime->bucket_mask + 1;
}

void hf_blocktime_tables(const struct hf_blocktime *blocktime, struct hf_tables *tables)
{
	size_t records = blocktime->records_count;

	hf_tables_add(tables, blocktime, sizeof(*blocktime));
	hf_tables_add(tables, blocktime->records, records * sizeof(*blocktime->records));
	hf_tables_add(tables, blocktime->page_waits, records * sizeof(*blocktime->page_waits));
	hf_tables_add(tables, blocktime->thread_buckets,
		      buckets_of(blocktime) * sizeof(*blocktime->thread_buckets));
	hf_tables_add(tables, blocktime->page_buckets,
		      buckets_of(blocktime) * sizeof(*blocktime->page_buckets));
}

static int allocate(struct hf_blocktime *blocktime)
{
	size_t buckets = 1;
	while (buckets < (size_t)blocktime->records_count * 2)
		buckets *= 2;
	blocktime->bucket_mask = (uint32_t)buckets - 1;
	blocktime->records = calloc(blocktime->records_count, sizeof(*blocktime->records));
	blocktime->page_waits = calloc(blocktime->records_count, sizeof(*blocktime->page_waits));
	blocktime->thread_buckets = calloc(buckets, sizeof(*blocktime->thread_buckets));
	blocktime->page_buckets = calloc(buckets, sizeof(*blocktime->page_buckets));
	if (!blocktime->records || !blocktime->page_waits || !blocktime->thread_buckets ||
	    !blocktime->page_buckets)
		return -ENOMEM;
	for (size_t i = 0; i < buckets_of(blocktime); i++)
		blocktime->thread_buckets[i] = blocktime->page_buckets[i] = NONE;
	return 0;
}

static void fill_free_lists(struct hf_blocktime *blocktime)
{
	blocktime->record_free = blocktime->page_wait_free = NONE;
	for (uint32_t i = blocktime->records_count; i-- > 0;) {
		blocktime->records[i].page_wait = NONE;
		blocktime->page_waits[i].next = blocktime->page_wait_free;
		blocktime->page_wait_free = i;
		if (is_vcpu(blocktime, i))
			continue;
		blocktime->records[i].thread_next = blocktime->record_free;
		blocktime->record_free = i;
	}
}

static int add_vcpus(struct hf_blocktime *blocktime, const uint32_t *thread_ids)
{
	for (uint32_t i = 0; i < blocktime->vcpus; i++) {
		if (find_thread(blocktime, thread_ids[i]) != NONE)
			return -EINVAL;
		insert_thread(blocktime, i, thread_ids[i]);
	}
	return 0;
}

int hf_blocktime_create(struct hf_blocktime **blocktime, const uint32_t *thread_ids, uint32_t vcpus)
{
	if (vcpus > VCPUS_MAX)
		return -EINVAL;
	struct hf_blocktime *self = calloc(1, sizeof(*self));
	if (!self)
		return -ENOMEM;
	self->vcpus = vcpus;
	self->records_count = vcpus + HF_BLOCKTIME_OTHERS_MAX;

	int result = allocate(self);
	if (result == 0) {
		fill_free_lists(self);
		result = add_vcpus(self, thread_ids);
	}
	if (result < 0) {
		hf_blocktime_destroy(self);
		return result;
	}
	*blocktime = self;
	return 0;
}

void hf_blocktime_destroy(struct hf_blocktime *blocktime)
{
	if (!blocktime)
		return;
	free(blocktime->records);
	free(blocktime->page_waits);
	free(blocktime->thread_buckets);
	free(blocktime->page_buckets);
	free(blocktime);
}
