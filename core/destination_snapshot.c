/* SPDX-License-Identifier: Apache-2.0 */
/* What a program may know of a migration, at one instant; after its end the clock stands still. */
#include <string.h>

#include "core/destination_internal.h"

static uint64_t since(uint64_t start_ns, uint64_t end_ns)
{
	return start_ns && end_ns > start_ns ? end_ns - start_ns : 0;
}

void hf_destination_snapshot(struct hf_destination *d, struct hf_destination_snapshot *out)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	uint64_t now_ns = d->end_ns ? d->end_ns : hf_clock_now_ns(&d->clock);
	*out = (struct hf_destination_snapshot){
	    .status = d->status,
	    .incoming = d->incoming,
	    .handover = d->handover,
	    .recoverable = d->recoverable,
	    .links_used = d->links_used,
	    .has_state = d->has_state,
	    .pages_complete = d->complete_said,
	    .takeover_failed = d->takeover_failed,
	    .err = d->err,
	    .placement = d->memory.placement,
	    .chunk_bytes = d->chunk_bytes,
	    .pages_total = d->blocks.pages_total,
	    .pages_received = d->pages_received,
	    .pages_fetched = d->pages_fetched,
	    .pages_zero = d->pages_zero,
	    .pages_poisoned = d->pages_poisoned,
	    .pages_first = d->first.count,
	    .pages_asked_first = d->first.asked_for,
	    .poisoning = d->poisoning,
	    .transferred_bytes = d->transferred_bytes,
	    .precopy_rounds = d->precopy.rounds_done,
	    .precopy_bytes = d->precopy.moved_total_bytes,
	    .pages_stalled = d->pages_stalled,
	    .setup_time_ns = d->setup_time_ns,
	    .load_time_ns = d->load_time_ns,
	    .record_time_ns = d->record_time_ns,
	    .postcopy_time_ns =
		since(d->run_ns, d->pages_received == d->blocks.pages_total ? d->placed_last_ns : now_ns),
	    .total_time_ns = since(d->link_up_ns, now_ns),
	    .downtime_ns = d->downtime_ns,
	    .link = d->link_figures,
	    .fault_latency = d->fault_latency,
	};
	memcpy(out->source_vm_name, d->source_vm_name, sizeof(out->source_vm_name));
	hf_blocktime_totals(d->blocktime, now_ns, &out->blocktime);
	hf_unlock(&d->lock);
}

int hf_destination_blocktime_vcpu(struct hf_destination *d, uint32_t vcpu, struct hf_blocktime_vcpu *out)
{
	hf_lock_assert_entry(__func__);
	hf_lock(&d->lock);
	uint64_t now_ns = d->end_ns ? d->end_ns : hf_clock_now_ns(&d->clock);
	int result = hf_blocktime_vcpu(d->blocktime, vcpu, now_ns, out);
	hf_unlock(&d->lock);
	return result;
}
