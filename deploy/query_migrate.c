/* SPDX-License-Identifier: Apache-2.0 */
/*
 * query-migrate. Theory of operation: each member is there exactly when QEMU would have it or we know it,
 * never as a made-up 0. `remaining` is exact when all blocks have pages of one size and else an upper bound,
 * since snapshots count pages and not their bytes.
 */
#include "deploy/query_migrate.h"

#include <stdlib.h>

static void set_number(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer((json_int_t)value));
}

static uint64_t rounded_ms(uint64_t time_ns)
{
	return time_ns / 1000000 + (time_ns % 1000000 >= 500000);
}

/* QEMU's blocktimes are uint32. */
static uint64_t blocktime_ms(uint64_t time_ns)
{
	uint64_t time_ms = rounded_ms(time_ns);
	return time_ms < UINT32_MAX ? time_ms : UINT32_MAX;
}

static uint64_t less(uint64_t from, uint64_t what)
{
	return from > what ? from - what : 0;
}

static uint64_t smaller(uint64_t one, uint64_t other)
{
	return one < other ? one : other;
}

static uint64_t total_bytes(const struct hf_ramblocks *blocks)
{
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < blocks->count; i++)
		bytes += blocks->blocks[i].length_bytes;
	return bytes;
}

static json_t *ram_object(const struct hf_ramblocks *blocks, uint64_t transferred_bytes,
			  uint64_t remaining_bytes)
{
	json_t *ram = json_object();
	set_number(ram, "transferred", transferred_bytes);
	set_number(ram, "remaining", remaining_bytes);
	set_number(ram, "total", total_bytes(blocks));
	set_number(ram, "page-size", blocks->page_size_max_bytes);
	set_number(ram, "normal-bytes", transferred_bytes);
	return ram;
}

/* What both sides know. downtime_ns counts when the migration has completed. */
static json_t *info_object(enum hf_status status, const struct hf_err *err, uint64_t total_time_ns,
			   uint64_t downtime_ns)
{
	json_t *info = json_object();
	bool ended_badly = status == HF_STATUS_FAILED || status == HF_STATUS_CANCELLED ||
			   status == HF_STATUS_POSTCOPY_PAUSED;
	json_object_set_new(info, "status", json_string(hf_status_name(status)));
	set_number(info, "total-time", rounded_ms(total_time_ns));
	if (status == HF_STATUS_COMPLETED && downtime_ns)
		set_number(info, "downtime", rounded_ms(downtime_ns));
	if (ended_badly && err->class != HF_ERR_NONE)
		json_object_set_new(info, "error-desc", json_string(err->text));
	return info;
}

static void set_report(json_t *info, json_t *report)
{
	if (report)
		json_object_set_new(info, "hugeferry", report);
}

/* ---- source ---- */

/* Which pages are present is known once the VM has stopped; a chunk of zeros counts as sent. */
static uint64_t source_remaining_bytes(const struct hf_source_snapshot *snapshot,
				       const struct hf_ramblocks *blocks)
{
	uint64_t page_max_bytes = blocks->page_size_max_bytes;
	uint64_t left_bytes = total_bytes(blocks);
	const struct hf_source_precopy_figures *precopy = &snapshot->precopy;
	bool given_up = snapshot->owner == HF_VM_OWNER_DESTINATION;
	if (snapshot->status == HF_STATUS_COMPLETED)
		return 0;
	/* What was sent since the rounds ended is of what they have left. */
	if (precopy->wanted && precopy->rounds)
		return precopy->ended_because
			   ? less(precopy->remaining_bytes, less(snapshot->sent_bytes, precopy->moved_bytes))
			   : precopy->remaining_bytes;
	if (given_up || snapshot->pages_present)
		left_bytes = smaller(left_bytes, snapshot->pages_present * page_max_bytes);
	left_bytes = less(left_bytes, snapshot->sent_bytes);
	return less(left_bytes, snapshot->zero_chunks * smaller(snapshot->chunk_bytes, page_max_bytes));
}

static void set_precopy(json_t *info, json_t *ram, const struct hf_source_precopy_figures *figures)
{
	if (!figures->wanted)
		return;
	set_number(ram, "dirty-sync-count", figures->rounds);
	if (!figures->rounds)
		return;
	set_number(ram, "dirty-pages-rate", figures->dirty_pages_per_s);
	set_number(ram, "precopy-bytes", figures->moved_bytes);
	if (figures->expected_downtime_ns != UINT64_MAX)
		set_number(info, "expected-downtime", rounded_ms(figures->expected_downtime_ns));
}

json_t *hf_query_migrate_source(const struct hf_source_snapshot *snapshot, const struct hf_ramblocks *blocks,
				json_t *report)
{
	if (snapshot->status == HF_STATUS_NONE) {
		json_decref(report);
		return json_object();
	}
	json_t *info =
	    info_object(snapshot->status, &snapshot->err, snapshot->total_time_ns, snapshot->downtime_ns);
	json_t *ram = ram_object(blocks, snapshot->sent_bytes, source_remaining_bytes(snapshot, blocks));
	if (snapshot->unseen) {
		json_object_del(ram, "transferred");
		json_object_del(ram, "normal-bytes");
	}
	set_precopy(info, ram, &snapshot->precopy);
	json_object_set_new(info, "ram", ram);
	set_report(info, report);
	return info;
}

json_t *hf_query_source(struct hf_source *engine, const struct hf_report_context *context)
{
	struct hf_source_snapshot snapshot;
	hf_source_snapshot(engine, &snapshot);
	return hf_query_migrate_source(&snapshot, context->blocks, hf_report_source(&snapshot, context));
}

/* ---- destination ---- */

static uint64_t destination_remaining_bytes(const struct hf_destination_snapshot *snapshot,
					    const struct hf_ramblocks *blocks)
{
	uint64_t left_bytes = total_bytes(blocks);
	uint64_t pages_left =
	    less(snapshot->pages_total, snapshot->pages_received + snapshot->pages_poisoned);
	if (!snapshot->pages_total)
		return left_bytes; // the source has not said yet which blocks it has
	return smaller(less(left_bytes, snapshot->transferred_bytes),
		       pages_left * blocks->page_size_max_bytes);
}

static uint64_t mean_ns(uint64_t sum_ns, uint64_t count)
{
	return count ? sum_ns / count : 0;
}

/* Ours: bucket 0 is below 1 us, bucket i from 2^(i-1) us on. QEMU's element N is our N + 1, and its ends are
 * open. */
static json_t *latency_dist(const struct hf_latency *latency)
{
	uint64_t counts[HF_QUERY_LATENCY_BUCKETS] = {0};
	json_t *dist = json_array();
	for (uint32_t i = 0; i < HF_LATENCY_BUCKETS; i++)
		counts[smaller(less(i, 1), HF_QUERY_LATENCY_BUCKETS - 1)] +=
		    hf_latency_bucket_count(latency, i);
	for (uint32_t i = 0; i < HF_QUERY_LATENCY_BUCKETS; i++)
		json_array_append_new(dist, json_integer((json_int_t)counts[i]));
	return dist;
}

static void set_blocktime(json_t *info, const struct hf_destination_snapshot *snapshot,
			  const struct hf_blocktime_vcpu *vcpus, uint32_t vcpu_count)
{
	const struct hf_blocktime_totals *totals = &snapshot->blocktime;
	const struct hf_latency *latency = &snapshot->fault_latency;
	json_t *times = json_array();
	json_t *latencies = json_array();
	for (uint32_t i = 0; i < vcpu_count; i++) {
		json_array_append_new(times, json_integer((json_int_t)blocktime_ms(vcpus[i].blocktime_ns)));
		json_array_append_new(
		    latencies, json_integer((json_int_t)mean_ns(vcpus[i].blocktime_ns, vcpus[i].faults)));
	}
	set_number(info, "postcopy-blocktime", blocktime_ms(totals->overlapped_ns));
	json_object_set_new(info, "postcopy-vcpu-blocktime", times);
	set_number(info, "postcopy-latency", mean_ns(latency->sum_ns, latency->count));
	json_object_set_new(info, "postcopy-latency-dist", latency_dist(latency));
	json_object_set_new(info, "postcopy-vcpu-latency", latencies);
	set_number(info, "postcopy-non-vcpu-latency",
		   mean_ns(totals->other_blocktime_ns, totals->faults_other));
}

json_t *hf_query_migrate_destination(const struct hf_destination_snapshot *snapshot,
				     const struct hf_blocktime_vcpu *vcpus, uint32_t vcpu_count,
				     const struct hf_ramblocks *blocks, json_t *report)
{
	if (snapshot->status == HF_STATUS_NONE) {
		json_decref(report);
		return json_object();
	}
	json_t *info =
	    info_object(snapshot->status, &snapshot->err, snapshot->total_time_ns, snapshot->downtime_ns);
	json_t *ram =
	    ram_object(blocks, snapshot->transferred_bytes, destination_remaining_bytes(snapshot, blocks));
	set_number(ram, "normal", snapshot->pages_fetched);
	set_number(ram, "duplicate", snapshot->pages_zero);
	json_object_set_new(info, "ram", ram);
	if (snapshot->setup_time_ns)
		set_number(info, "setup-time", rounded_ms(snapshot->setup_time_ns));
	set_blocktime(info, snapshot, vcpus, vcpu_count);
	set_report(info, report);
	return info;
}

json_t *hf_query_destination(struct hf_destination *engine, const struct hf_report_context *context)
{
	struct hf_destination_snapshot snapshot;
	hf_destination_snapshot(engine, &snapshot);
	uint32_t count = snapshot.blocktime.vcpus;
	struct hf_blocktime_vcpu *vcpus = calloc(count + 1ull, sizeof(*vcpus));
	if (!vcpus)
		return NULL;
	for (uint32_t i = 0; i < count; i++)
		hf_destination_blocktime_vcpu(engine, i, &vcpus[i]);
	json_t *info = hf_query_migrate_destination(&snapshot, vcpus, count, context->blocks,
						    hf_report_destination(engine, &snapshot, context));
	free(vcpus);
	return info;
}
