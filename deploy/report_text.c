/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The report for people. Theory of operation: reads the JSON object of report.c and prints a column of names
 * and a column of values, in the order in which an operator asks: what moved, how long it stood still, what
 * the guest felt. Times take the unit that leaves three digits.
 */
#include <inttypes.h>
#include <string.h>

#include "deploy/report.h"

const char *hf_time_text(uint64_t time_ns, char buffer[static HF_TIME_TEXT_BYTES])
{
	double value = (double)time_ns;
	if (time_ns < 1000)
		snprintf(buffer, HF_TIME_TEXT_BYTES, "%" PRIu64 " ns", time_ns);
	else if (time_ns < 1000000)
		snprintf(buffer, HF_TIME_TEXT_BYTES, "%.*f us",
			 value < 1e4   ? 2
			 : value < 1e5 ? 1
				       : 0,
			 value / 1e3);
	else if (time_ns < 1000000000)
		snprintf(buffer, HF_TIME_TEXT_BYTES, "%.*f ms",
			 value < 1e7   ? 2
			 : value < 1e8 ? 1
				       : 0,
			 value / 1e6);
	else
		snprintf(buffer, HF_TIME_TEXT_BYTES, "%.2f s", value / 1e9);
	return buffer;
}

static uint64_t number(const json_t *object, const char *name)
{
	return (uint64_t)json_integer_value(json_object_get(object, name));
}

static const char *text(const json_t *object, const char *name)
{
	const char *value = json_string_value(json_object_get(object, name));
	return value ? value : "-";
}

static void print_name(FILE *out, const char *name)
{
	fprintf(out, "  %-15s ", name);
}

static void print_time(FILE *out, const char *name, const json_t *object, const char *member)
{
	char buffer[HF_TIME_TEXT_BYTES];
	print_name(out, name);
	fprintf(out, "%s", hf_time_text(number(object, member), buffer));
}

static void print_moved(FILE *out, const json_t *report)
{
	char size[HF_SIZE_TEXT_BYTES];
	print_name(out, "pages");
	fprintf(out, "%" PRIu64 " of %s: %" PRIu64 " fetched, %" PRIu64 " zero\n",
		number(report, "pages_total"), hf_size_text(number(report, "page_size_bytes"), size),
		number(report, "pages_fetched"), number(report, "pages_zero"));
	if (number(report, "pages_poisoned") > 0) {
		print_name(out, "lost");
		fprintf(out, "%" PRIu64 " pages, poisoned: the guest gets memory errors there\n",
			number(report, "pages_poisoned"));
	}
	double mib = (double)number(report, "transferred_bytes") / (double)(1u << 20);
	double seconds = (double)number(report, "postcopy_time_ns") / 1e9;
	print_name(out, "moved");
	fprintf(out, "%.1f MiB over %s", mib, text(report, "transport"));
	if (seconds > 0)
		fprintf(out, ", %.0f MiB/s", mib / seconds);
	fputc('\n', out);
	print_name(out, "placement");
	fprintf(out, "%s (%s)\n", text(report, "placement"), text(report, "placement_reason"));
}

static void print_times(FILE *out, const json_t *report)
{
	char postcopy[HF_TIME_TEXT_BYTES];
	if (json_is_null(json_object_get(report, "downtime_ns")))
		fprintf(out, "  %-15s not known: the link was lost before the source could say\n",
			"downtime");
	else {
		print_time(out, "downtime", report, "downtime_ns");
		fputc('\n', out);
	}
	print_time(out, "total time", report, "total_time_ns");
	fprintf(out, ", of it %s until the last page was there\n",
		hf_time_text(number(report, "postcopy_time_ns"), postcopy));
}

static void print_link(FILE *out, const json_t *report)
{
	const json_t *link = json_object_get(report, "link");
	char stall[HF_TIME_TEXT_BYTES], text[HF_LINK_TEXT_BYTES];
	if (!json_is_object(link))
		return;
	struct hf_link_figures figures = {number(link, "round_trip_ns"), number(link, "rate_bytes_per_s")};
	print_name(out, "link");
	fprintf(out, "%s; one page: %s\n", hf_link_text(&figures, text),
		hf_time_text(number(link, "page_stall_ns"), stall));
}

static void print_faults(FILE *out, const json_t *report)
{
	const json_t *faults = json_object_get(report, "faults");
	const json_t *latency = json_object_get(report, "fault_latency");
	char p50[HF_TIME_TEXT_BYTES], p99[HF_TIME_TEXT_BYTES], p999[HF_TIME_TEXT_BYTES],
	    max[HF_TIME_TEXT_BYTES];
	print_name(out, "faults");
	fprintf(out, "%" PRIu64 " by vCPUs, %" PRIu64 " by other threads\n", number(faults, "vcpu"),
		number(faults, "other"));
	print_name(out, "fault latency");
	fprintf(out, "p50 %s   p99 %s   p99.9 %s   max %s\n", hf_time_text(number(latency, "p50_ns"), p50),
		hf_time_text(number(latency, "p99_ns"), p99), hf_time_text(number(latency, "p999_ns"), p999),
		hf_time_text(number(latency, "max_ns"), max));
}

static void print_blocktime(FILE *out, const json_t *report)
{
	const json_t *blocktime = json_object_get(report, "blocktime");
	const json_t *vcpu;
	size_t index;
	char time[HF_TIME_TEXT_BYTES];
	json_array_foreach(json_object_get(blocktime, "vcpus"), index, vcpu)
	{
		print_name(out, index ? "" : "blocktime");
		fprintf(out, "vCPU %-3" PRIu64 " %10s in %" PRIu64 " faults\n", number(vcpu, "vcpu"),
			hf_time_text(number(vcpu, "blocktime_ns"), time), number(vcpu, "faults"));
	}
	print_name(out, "");
	fprintf(out, "%-8s %10s all vCPUs at once\n", "overlap",
		hf_time_text(number(blocktime, "overlapped_ns"), time));
}

void hf_report_print(FILE *out, const json_t *report)
{
	print_moved(out, report);
	print_times(out, report);
	print_link(out, report);
	print_faults(out, report);
	print_blocktime(out, report);
}
