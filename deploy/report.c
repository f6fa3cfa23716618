/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reports. Theory of operation: the JSON object is the report; the text for people is made from the object,
 * so both always say the same. Every member is always there: a number nobody knows is 0, `verified` is null
 * unless someone checked, `error` is null unless something failed.
 */
#include "deploy/report.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void set_number(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer((json_int_t)value));
}

/* 0 ns is no measurement but the want of one. */
static void set_time(json_t *object, const char *name, uint64_t value_ns)
{
	json_object_set_new(object, name, value_ns ? json_integer((json_int_t)value_ns) : json_null());
}

static void set_text(json_t *object, const char *name, const char *value)
{
	json_object_set_new(object, name, value ? json_string(value) : json_null());
}

static json_t *error_object(const struct hf_err *err)
{
	if (err->class == HF_ERR_NONE)
		return json_null();
	json_t *object = json_object();
	set_text(object, "class", hf_err_class_name(err->class));
	set_text(object, "text", err->text);
	return object;
}

static json_t *blocks_array(const struct hf_ramblocks *blocks)
{
	json_t *array = json_array();
	for (uint32_t i = 0; i < blocks->count; i++) {
		json_t *block = json_object();
		set_text(block, "idstr", blocks->blocks[i].idstr);
		set_number(block, "length_bytes", blocks->blocks[i].length_bytes);
		set_number(block, "page_size_bytes", blocks->blocks[i].page_size_bytes);
		json_array_append_new(array, block);
	}
	return array;
}

static void set_context(json_t *report, const struct hf_report_context *context)
{
	set_text(report, "transport", context->transport);
	set_number(report, "page_size_bytes", context->blocks->page_size_max_bytes);
	json_object_set_new(report, "blocks", blocks_array(context->blocks));
}

static json_t *latency_object(const struct hf_latency *latency)
{
	json_t *object = json_object();
	set_number(object, "count", latency->count);
	set_number(object, "p50_ns", hf_latency_percentile_ns(latency, 0.5));
	set_number(object, "p99_ns", hf_latency_percentile_ns(latency, 0.99));
	set_number(object, "p999_ns", hf_latency_percentile_ns(latency, 0.999));
	set_number(object, "max_ns", latency->max_ns);
	json_t *buckets = json_array();
	for (uint32_t i = 0; i < HF_LATENCY_BUCKETS; i++) {
		json_t *bucket = json_object();
		uint64_t bound_ns = hf_latency_bucket_bound_ns(i);
		if (bound_ns == UINT64_MAX)
			set_text(bucket, "below_us", NULL); // no upper bound
		else
			set_number(bucket, "below_us", bound_ns / 1000);
		set_number(bucket, "count", hf_latency_bucket_count(latency, i));
		json_array_append_new(buckets, bucket);
	}
	json_object_set_new(object, "buckets", buckets);
	return object;
}

static json_t *blocktime_object(struct hf_destination *engine, const struct hf_blocktime_totals *totals)
{
	json_t *object = json_object();
	json_t *vcpus = json_array();
	set_number(object, "overlapped_ns", totals->overlapped_ns);
	set_number(object, "other_threads_ns", totals->other_blocktime_ns);
	for (uint32_t i = 0; i < totals->vcpus; i++) {
		struct hf_blocktime_vcpu vcpu;
		if (hf_destination_blocktime_vcpu(engine, i, &vcpu))
			continue;
		json_t *entry = json_object();
		set_number(entry, "vcpu", vcpu.vcpu);
		set_number(entry, "blocktime_ns", vcpu.blocktime_ns);
		set_number(entry, "faults", vcpu.faults);
		json_array_append_new(vcpus, entry);
	}
	json_object_set_new(object, "vcpus", vcpus);
	return object;
}

/* What was measured before anything stopped, and what it predicts for the largest pages. */
static void set_link(json_t *report, const struct hf_link_figures *link, const struct hf_ramblocks *blocks)
{
	json_t *object = link->rate_bytes_per_s ? json_object() : json_null();
	if (link->rate_bytes_per_s) {
		set_number(object, "round_trip_ns", link->round_trip_ns);
		set_number(object, "rate_bytes_per_s", link->rate_bytes_per_s);
		set_number(object, "page_stall_ns", hf_link_page_stall_ns(link, blocks->page_size_max_bytes));
	}
	json_object_set_new(report, "link", object);
}

static json_t *run_object(const struct hf_ramblock *block, uint64_t first, uint64_t pages)
{
	json_t *object = json_object();
	set_text(object, "idstr", block->idstr);
	set_number(object, "first_page", first);
	set_number(object, "pages", pages);
	return object;
}

/* Runs of lost pages; looked up only where there are some, at the end. */
static json_t *poisoned_array(struct hf_destination *engine, const struct hf_destination_snapshot *snapshot,
			      const struct hf_ramblocks *blocks)
{
	json_t *array = json_array();
	bool known = snapshot->pages_poisoned > 0 && hf_status_is_final(snapshot->status);
	for (uint32_t i = 0; known && i < blocks->count; i++) {
		const struct hf_ramblock *block = &blocks->blocks[i];
		uint64_t run = 0;
		for (uint64_t page = 0; page <= block->pages; page++) {
			if (page < block->pages && hf_destination_page_poisoned(engine, i, page)) {
				run++;
				continue;
			}
			if (run)
				json_array_append_new(array, run_object(block, page - run, run));
			run = 0;
		}
	}
	return array;
}

json_t *hf_report_destination(struct hf_destination *engine, const struct hf_destination_snapshot *snapshot,
			      const struct hf_report_context *context)
{
	json_t *report = json_object();
	bool failed = snapshot->status != HF_STATUS_COMPLETED || snapshot->pages_poisoned > 0;
	set_text(report, "side", "destination");
	set_text(report, "status", hf_status_name(snapshot->status));
	set_text(report, "verified", NULL);
	set_context(report, context);
	set_text(report, "placement", snapshot->placement == HF_PLACEMENT_CONTINUE ? "continue" : "copy");
	set_text(report, "placement_reason", context->placement_reason);
	set_text(report, "source_vm", snapshot->source_vm_name);
	set_link(report, &snapshot->link, context->blocks);
	set_number(report, "chunk_bytes", snapshot->chunk_bytes);
	set_number(report, "pages_total", snapshot->pages_total);
	set_number(report, "pages_received", snapshot->pages_received);
	set_number(report, "pages_fetched", snapshot->pages_fetched);
	set_number(report, "pages_zero", snapshot->pages_zero);
	set_number(report, "pages_poisoned", snapshot->pages_poisoned);
	set_number(report, "pages_stalled", snapshot->pages_stalled);
	set_number(report, "pages_first", snapshot->pages_first);
	set_number(report, "pages_asked_first", snapshot->pages_asked_first);
	set_number(report, "precopy_rounds", snapshot->precopy_rounds);
	set_number(report, "precopy_bytes", snapshot->precopy_bytes);
	set_number(report, "transferred_bytes", snapshot->transferred_bytes);
	set_time(report, "setup_time_ns", snapshot->setup_time_ns);
	set_time(report, "registration_time_ns", context->registration_time_ns);
	set_time(report, "load_time_ns", snapshot->load_time_ns);
	set_time(report, "record_time_ns", snapshot->record_time_ns);
	set_number(report, "links", snapshot->links_used);
	set_time(report, "downtime_ns", snapshot->downtime_ns);
	set_time(report, "postcopy_time_ns", snapshot->postcopy_time_ns);
	set_number(report, "total_time_ns", snapshot->total_time_ns);
	json_object_set_new(report, "poisoned", poisoned_array(engine, snapshot, context->blocks));
	json_t *faults = json_object();
	set_number(faults, "vcpu", snapshot->blocktime.faults_vcpu);
	set_number(faults, "other", snapshot->blocktime.faults_other);
	json_object_set_new(report, "faults", faults);
	json_object_set_new(report, "blocktime", blocktime_object(engine, &snapshot->blocktime));
	json_object_set_new(report, "fault_latency", latency_object(&snapshot->fault_latency));
	json_object_set_new(report, "error", failed ? error_object(&snapshot->err) : json_null());
	return report;
}

const char *hf_vm_owner_name(enum hf_vm_owner owner)
{
	switch (owner) {
	case HF_VM_OWNER_SOURCE:
		return "source";
	case HF_VM_OWNER_RESUMING:
		return "resuming";
	case HF_VM_OWNER_STUCK:
		return "stuck";
	case HF_VM_OWNER_DESTINATION:
		return "destination";
	}
	return "unknown";
}

static json_t *precopy_object(const struct hf_source_precopy_figures *figures)
{
	if (!figures->wanted)
		return json_null();
	json_t *object = json_object();
	bool known = figures->expected_downtime_ns != UINT64_MAX;
	set_number(object, "rounds", figures->rounds);
	set_number(object, "moved_bytes", figures->moved_bytes);
	set_number(object, "remaining_bytes", figures->remaining_bytes);
	set_number(object, "dirty_pages_per_s", figures->dirty_pages_per_s);
	set_number(object, "dirty_bytes_per_s", figures->dirty_bytes_per_s);
	set_number(object, "rate_bytes_per_s", figures->rate_bytes_per_s);
	set_time(object, "expected_downtime_ns", known ? figures->expected_downtime_ns : 0);
	set_number(object, "downtime_limit_ns", figures->downtime_limit_ns);
	set_text(object, "ended_because", figures->ended_because);
	return object;
}

/* What a one-sided link reads is not seen here: no figures rather than wrong ones. */
static void set_served(json_t *report, const struct hf_source_snapshot *snapshot)
{
	if (snapshot->unseen) {
		json_object_set_new(report, "sent_bytes", json_null());
		json_object_set_new(report, "sent_chunks", json_null());
		json_object_set_new(report, "zero_chunks", json_null());
		return;
	}
	set_number(report, "sent_bytes", snapshot->sent_bytes);
	set_number(report, "sent_chunks", snapshot->sent_chunks);
	set_number(report, "zero_chunks", snapshot->zero_chunks);
}

json_t *hf_report_source(const struct hf_source_snapshot *snapshot, const struct hf_report_context *context)
{
	json_t *report = json_object();
	bool failed = snapshot->status != HF_STATUS_COMPLETED;
	set_text(report, "side", "source");
	set_text(report, "status", hf_status_name(snapshot->status));
	set_text(report, "vm_owner", hf_vm_owner_name(snapshot->owner));
	set_context(report, context);
	set_text(report, "placement", snapshot->placement == HF_PLACEMENT_CONTINUE ? "continue" : "copy");
	set_number(report, "chunk_bytes", snapshot->chunk_bytes);
	set_number(report, "pages_total", snapshot->pages_total);
	set_link(report, &snapshot->link, context->blocks);
	json_object_set_new(report, "precopy", precopy_object(&snapshot->precopy));
	set_number(report, "pages_present", snapshot->pages_present);
	set_number(report, "pages_first", snapshot->pages_first);
	set_served(report, snapshot);
	set_number(report, "released_pages", snapshot->released_pages);
	set_number(report, "released_bytes", snapshot->released_bytes);
	set_number(report, "device_state_bytes", snapshot->device_state_bytes);
	set_time(report, "stop_time_ns", snapshot->stop_time_ns);
	set_time(report, "save_time_ns", snapshot->save_time_ns);
	set_time(report, "registration_time_ns", context->registration_time_ns);
	set_time(report, "fence_time_ns", snapshot->fence_time_ns);
	set_time(report, "record_time_ns", snapshot->record_time_ns);
	set_number(report, "links", snapshot->links_used);
	set_time(report, "downtime_ns", snapshot->downtime_ns);
	set_time(report, "postcopy_time_ns", snapshot->postcopy_time_ns);
	set_number(report, "total_time_ns", snapshot->total_time_ns);
	json_object_set_new(report, "error", failed ? error_object(&snapshot->err) : json_null());
	return report;
}

json_t *hf_report_failure(const struct hf_err *err)
{
	json_t *report = json_object();
	set_text(report, "status", err->class == HF_ERR_CANCELLED ? "cancelled" : "failed");
	set_text(report, "verified", NULL);
	json_object_set_new(report, "error", error_object(err));
	return report;
}

static int write_failed(struct hf_err *err, const char *path, int errnum)
{
	return hf_err_set(err, HF_ERR_LOCAL, errnum, "report '%.300s' cannot be written: %s", path,
			  strerror(errnum));
}

int hf_report_check_path(const char *path, struct hf_err *err)
{
	struct stat there;
	if (!path)
		return 0;
	// The rename would put a file in the place of a link or a device.
	if (!lstat(path, &there) && !S_ISREG(there.st_mode))
		return hf_err_set(err, HF_ERR_LOCAL, EINVAL,
				  "report '%.300s' is there and is no plain file; give --json another name",
				  path);
	char folder[PATH_MAX];
	if (strlen(path) >= sizeof(folder) - sizeof(".1234567890.tmp"))
		return write_failed(err, path, ENAMETOOLONG);
	memcpy(folder, path, strlen(path) + 1);
	if (access(dirname(folder), W_OK | X_OK))
		return write_failed(err, path, errno);
	return 0;
}

static int write_and_sync(const json_t *report, int fd)
{
	errno = 0;
	if (json_dumpfd(report, fd, JSON_INDENT(2)) || write(fd, "\n", 1) != 1)
		return errno ? -errno : -EIO;
	return fsync(fd) ? -errno : 0;
}

int hf_report_write(const json_t *report, const char *path, struct hf_err *err)
{
	char temporary[PATH_MAX + 32];
	snprintf(temporary, sizeof(temporary), "%s.%d.tmp", path, (int)getpid());
	int fd = open(temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666);
	if (fd < 0)
		return write_failed(err, path, errno);
	int result = write_and_sync(report, fd);
	close(fd);
	if (!result && rename(temporary, path))
		result = -errno;
	if (result) {
		unlink(temporary);
		return write_failed(err, path, -result);
	}
	return 0;
}
