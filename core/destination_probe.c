/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measuring the link before anything stops. Between ADVISE and preparing the memory the destination lets a
 * probe run (link_probe.h), tells the source what came out (LINK), and refuses if a thread would wait for one
 * page longer than the operator allows. Preparing comes after it, since it would keep the processors busy. A
 * source whose build does not serve probes is not measured.
 */
#include <errno.h>

#include "core/destination_internal.h"
#include "core/wire.h"

unsigned hf_destination_probe_begin(struct hf_destination *d)
{
	struct hf_err err;
	if (!(d->link.features & HF_WIRE_FEATURE_LINK)) {
		if (d->max_page_stall_ns == 0)
			return ACTION_PREPARE;
		hf_err_set(
		    &err, HF_ERR_PEER, EOPNOTSUPP,
		    "VM '%s': the source's release cannot help to measure the link, so --max-page-stall "
		    "cannot be kept; install the same release on both hosts, or leave the limit out",
		    d->vm_name);
		return hf_destination_fail_locked(d, &err);
	}
	int result = hf_link_probe_create(&d->probe, &d->clock, &d->transport, &d->link, d->chunk_bytes);
	if (result == 0)
		return ACTION_PROBE;
	hf_err_set(&err, HF_ERR_LOCAL, -result, "VM '%s': no memory to measure the link", d->vm_name);
	return hf_destination_fail_locked(d, &err);
}

/* Locked. */
static unsigned probe_finished(struct hf_destination *d)
{
	hf_lock_assert_held(&d->lock);
	if (d->status != HF_STATUS_SETUP)
		return 0; /* the migration has ended meanwhile */
	struct hf_err err = HF_ERR_INIT;
	d->link_figures = hf_link_probe_figures(d->probe);
	if (hf_link_stall_check(&d->link_figures, &d->blocks, d->max_page_stall_ns, &err) < 0) {
		hf_err_prefix(&err, "VM '%s'", d->vm_name);
		return hf_destination_fail_locked(d, &err);
	}
	return ACTION_SEND_LINK | ACTION_PREPARE | ACTION_NOTIFY;
}

static void probe_ended(struct hf_destination *d, enum hf_link_probe_end end, struct hf_err *err)
{
	if (end == HF_LINK_PROBE_RUNS)
		return;
	unsigned actions;
	hf_lock(&d->lock);
	if (end == HF_LINK_PROBE_FINISHED) {
		actions = probe_finished(d);
	} else {
		hf_err_prefix(err, "VM '%s'", d->vm_name);
		actions = hf_destination_fail_locked(d, err);
	}
	hf_destination_unlock_act(d, actions);
}

void hf_destination_probe_start(struct hf_destination *d)
{
	struct hf_err err = HF_ERR_INIT;
	probe_ended(d, hf_link_probe_start(d->probe, &err), &err);
}

void hf_destination_probe_done(struct hf_destination *d, const struct hf_fetch_done *done)
{
	struct hf_err err = HF_ERR_INIT;
	hf_lock(&d->lock);
	struct hf_link_probe *probe = d->probe;
	hf_unlock(&d->lock);
	if (probe)
		probe_ended(d, hf_link_probe_done(probe, done, &err), &err);
}

void hf_destination_send_link(struct hf_destination *d, uint64_t epoch)
{
	hf_lock(&d->lock);
	struct hf_wire_link link = {
	    .round_trip_ns = d->link_figures.round_trip_ns,
	    .rate_bytes_per_s = d->link_figures.rate_bytes_per_s,
	    .max_page_stall_ns = d->max_page_stall_ns,
	};
	hf_unlock(&d->lock);
	uint8_t buffer[64];
	ssize_t bytes = hf_wire_encode_link(&link, buffer, sizeof(buffer));
	if (bytes > 0)
		hf_destination_send(d, epoch, HF_WIRE_LINK, buffer, (size_t)bytes);
}
