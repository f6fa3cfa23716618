/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The two programs as processes: each makes an engine, may crash at any moment, inside a call of a port too,
 * and is started again with what is on record. An engine whose process has crashed runs on until its call
 * ends, since it is on the stack; its ports do nothing any more, and what it would write into the kept maps
 * goes to a copy.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/destination_internal.h"
#include "tests/sim/sim.h"

#define RESTART_DELAY_NS 200000u
#define CRASH_PERCENT	 15u

static uint64_t clock_now_ns(void *self)
{
	return ((struct sim *)self)->now_ns;
}

static void notified(void *opaque)
{
	((struct sim_process *)opaque)->sim->notified = true;
}

/* ---- records ---- */

static enum sim_covered failed_record(enum hf_record record)
{
	static const enum sim_covered covered[HF_RECORDS] = {
	    [HF_RECORD_GIVEN_UP] = SIM_GIVEN_UP_FAILED, [HF_RECORD_TAKEN_BACK] = SIM_TAKEN_BACK_FAILED,
	    [HF_RECORD_LOADED] = SIM_LOADED_FAILED,	[HF_RECORD_RUNNING] = SIM_RUNNING_FAILED,
	    [HF_RECORD_REFUSED] = SIM_REFUSED_FAILED,
	};
	return covered[record];
}

static bool write_fails(struct sim *sim, enum hf_record record)
{
	if (sim->record_failures_left == 0 || record != sim->plan.record_to_fail)
		return false;
	sim->record_failures_left--;
	sim->covered[failed_record(record)]++;
	return true;
}

static void recorded(struct sim *sim, uint64_t argument, void *data)
{
	struct sim_process *process = data;
	enum hf_record record = (enum hf_record)argument;
	if (process->dead)
		return;
	struct hf_err err;
	int result = 0;
	process->recording = false;
	if (write_fails(sim, record))
		result = hf_err_set(&err, HF_ERR_LOCAL, ENOSPC, "the disk is full");
	if (result == 0 || sim_chance(sim, 50))
		sim->on_record[process->is_source] = record;
	sim_log(sim, "record %s: %d", hf_record_name(record), result);
	if (process->is_source)
		hf_source_recorded(process->source, record, result, result ? &err : NULL);
	else
		hf_destination_recorded(process->destination, record, result, result ? &err : NULL);
}

static int record_request(void *self, enum hf_record record)
{
	struct sim_process *process = self;
	struct sim *sim = process->sim;
	if (process->dead)
		return 0;
	SIM_CHECK(sim, !process->recording, "two records are written at once");
	if (sim_chance(sim, 10) && write_fails(sim, record))
		return -EIO;
	process->recording = true;
	process->record = record;
	sim_at(sim, sim_random(sim, sim->plan.delay_max_ns), recorded, record, process);
	sim_process_may_crash(process);
	sim_others(sim);
	return 0;
}

static const struct hf_recorder_ops recorder_ops = {.request = record_request};

struct hf_recorder sim_recorder_port(struct sim_process *process)
{
	return (struct hf_recorder){.ops = &recorder_ops, .self = process};
}

/* ---- making ---- */

static struct sim_process *new_process(struct sim *sim, bool is_source, bool restarted)
{
	SIM_CHECK(sim, sim->process_count < SIM_PROCESSES_MAX, "too many processes");
	struct sim_process *process = &sim->processes[sim->process_count++];
	*process = (struct sim_process){.sim = sim, .is_source = is_source, .restarted = restarted};
	sim->side[is_source] = process;
	return process;
}

static void make_source(struct sim *sim, bool restarted)
{
	struct sim_process *process = new_process(sim, true, restarted);
	struct hf_source_config config = {
	    .vm_name = "sim-a",
	    .blocks = &sim->source_blocks,
	    .clock = {.now_ns = clock_now_ns, .self = sim},
	    .memory = sim_source_memory_port(process),
	    .transport = sim_transport_port(process),
	    .vm = sim_vm_port(process),
	    .recorder = sim_recorder_port(process),
	    .restarted = restarted,
	    .record = sim->on_record[true],
	    .wish_placement = sim->plan.wish_placement,
	    .placement = sim->plan.wished,
	    .hold_background = sim->plan.source_holds && !restarted,
	    .precopy = sim->plan.rounds.precopy != SIM_POSTCOPY_ALONE,
	    .precopy_only = sim->plan.rounds.precopy == SIM_PRECOPY_ONLY,
	    .downtime_limit_ns = sim->plan.rounds.downtime_limit_ns,
	    .max_bandwidth = sim->plan.rounds.max_bandwidth,
	    .notify = notified,
	    .opaque = process,
	};
	struct hf_err err;
	SIM_CHECK(sim, hf_source_create(&process->source, &config, &err) == 0, "%s", err.text);
	sim->source = process->source;
}

/* The maps as the process before left them. */
static void make_kept_maps(struct sim *sim, struct sim_process *process, const struct sim_process *before)
{
	size_t bytes = hf_pagemap_bytes(sim->page_count);
	process->received = calloc(2, bytes);
	SIM_CHECK(sim, process->received, "no memory");
	process->present = process->received + bytes;
	if (before)
		memcpy(process->received, before->received, 2 * bytes);
}

static void make_destination(struct sim *sim, bool restarted)
{
	uint32_t thread_ids[SIM_THREADS_MAX];
	for (uint32_t i = 0; i < sim->plan.vcpus; i++)
		thread_ids[i] = sim->threads[i].id;
	const struct sim_process *before = sim->side[false];
	struct sim_process *process = new_process(sim, false, restarted);
	make_kept_maps(sim, process, before);
	struct hf_destination_config config = {
	    .vm_name = "sim-b",
	    .blocks = &sim->destination_blocks,
	    .vcpu_thread_ids = thread_ids,
	    .vcpus = sim->plan.vcpus,
	    .clock = {.now_ns = clock_now_ns, .self = sim},
	    .memory = sim_memory_port(process),
	    .transport = sim_transport_port(process),
	    .vm = sim_vm_port(process),
	    .recorder = sim_recorder_port(process),
	    .kept_received = process->received,
	    .kept_present = process->present,
	    .restarted = restarted,
	    .record = sim->on_record[false],
	    .vmm_lives = sim->vmm_lives,
	    .notify = notified,
	    .opaque = process,
	    .chunk_bytes = sim->plan.chunk_bytes,
	    .background_held = sim->plan.background_held_first && !restarted,
	    .background_share_percent = sim->plan.share_percent,
	};
	struct hf_err err;
	SIM_CHECK(sim, hf_destination_create(&process->destination, &config, &err) == 0, "%s", err.text);
	sim->destination = process->destination;
}

void sim_processes_start(struct sim *sim)
{
	sim->crashes_left = sim->plan.crashes;
	sim->cuts_left = sim->plan.cuts;
	sim->record_failures_left = sim->plan.record_failures;
	make_source(sim, false);
	make_destination(sim, false);
	if (sim->plan.crashes > 0 && sim->plan.crash_ns > 0)
		sim_at(sim, sim->plan.crash_ns, sim_process_crash, sim->plan.crash_source, NULL);
}

static void free_engine(struct sim_process *process)
{
	hf_source_destroy(process->source);
	hf_destination_destroy(process->destination);
	process->source = NULL;
	process->destination = NULL;
}

void sim_processes_reap(struct sim *sim)
{
	for (uint32_t i = 0; i < sim->process_count; i++)
		if (sim->processes[i].dead)
			free_engine(&sim->processes[i]);
}

void sim_processes_end(struct sim *sim)
{
	for (uint32_t i = 0; i < sim->process_count; i++) {
		free_engine(&sim->processes[i]);
		free(sim->processes[i].received);
	}
}

/* ---- starting again ---- */

static void start_again(struct sim *sim, uint64_t is_source, void *data)
{
	(void)data;
	sim->notified = true;
	sim_log(sim, "the %s is started again with record %s", is_source ? "source" : "destination",
		hf_record_name(sim->on_record[is_source]));
	if (is_source) {
		make_source(sim, true);
		return;
	}
	sim->cursor_page = 0;
	sim->faulted = false;
	make_destination(sim, true);
	hf_destination_restart(sim->destination);
}

/* A destination without a record has nothing to go on with. */
static bool comes_again(struct sim *sim, bool is_source)
{
	if (!is_source && sim->on_record[false] == HF_RECORD_NONE)
		return false;
	return sim->crashes_left > 0 || !sim->plan.gone_for_good;
}

/* ---- crashing ---- */

static bool has_ended(struct sim *sim, bool is_source)
{
	struct hf_source_snapshot source;
	struct hf_destination_snapshot destination;
	if (is_source) {
		hf_source_snapshot(sim->source, &source);
		return hf_status_is_final(source.status);
	}
	hf_destination_snapshot(sim->destination, &destination);
	return hf_status_is_final(destination.status);
}

static void note_crash(struct sim *sim, const struct sim_process *process)
{
	enum hf_record record = sim->on_record[process->is_source];
	sim->covered[SIM_CRASHED_IN_A_CALL] += sim->depth > 0;
	sim_rounds_crashed(sim, process);
	if (process->is_source) {
		sim->covered[SIM_SOURCE_CRASHED] += record == HF_RECORD_NONE;
		sim->covered[SIM_SOURCE_CRASHED_RECORDING] += process->recording;
		sim->covered[SIM_SOURCE_CRASHED_GIVEN_UP] += record == HF_RECORD_GIVEN_UP;
		return;
	}
	sim->covered[SIM_DESTINATION_CRASHED_LOADED] += record == HF_RECORD_LOADED;
	sim->covered[SIM_DESTINATION_CRASHED_RUNNING] += record == HF_RECORD_RUNNING;
	sim->covered[SIM_DESTINATION_CRASHED_RECORDING] += process->recording;
	sim->covered[SIM_CRASHED_AMID_FETCHES] += sim->fetches_busy[0] + sim->fetches_busy[1] > 0;
	sim->covered[SIM_CRASHED_AFTER_RELEASE] += sim->released;
}

/* The crashed engine's last steps, which did not happen, go to a copy. */
static void keep_maps(struct sim *sim, struct sim_process *process)
{
	size_t bytes = hf_pagemap_bytes(sim->page_count);
	uint8_t *kept = malloc(2 * bytes);
	SIM_CHECK(sim, kept, "no memory");
	memcpy(kept, process->received, 2 * bytes);
	process->destination->received.bits = kept;
	process->destination->present.bits = kept + bytes;
	process->destination->received.owned = true;
}

void sim_process_crash(struct sim *sim, uint64_t is_source, void *data)
{
	(void)data;
	struct sim_process *process = sim->side[is_source];
	if (process->dead || sim->crashes_left == 0 || has_ended(sim, is_source))
		return;
	sim->crashes_left--;
	sim_log(sim, "the %s crashes%s", is_source ? "source" : "destination",
		process->recording ? " and was writing a record" : "");
	note_crash(sim, process);
	process->dead = true;
	if (process->recording && sim_chance(sim, 50))
		sim->on_record[is_source] = process->record;
	if (is_source) {
		sim->source = NULL;
	} else {
		sim_memory_crashed(sim);
		keep_maps(sim, process);
		sim->destination = NULL;
	}
	sim_vm_crashed(sim, process);
	sim_link_crashed(sim, is_source);
	if (comes_again(sim, is_source))
		sim_at(sim, sim_random(sim, RESTART_DELAY_NS), start_again, is_source, NULL);
	else
		sim->gone[is_source] = true;
}

void sim_process_may_crash(struct sim_process *process)
{
	struct sim *sim = process->sim;
	if (sim->plan.crash_ns > 0 || sim->crashes_left == 0 || process->dead ||
	    !sim_chance(sim, CRASH_PERCENT))
		return;
	sim_at(sim, sim_random(sim, sim_chance(sim, 50) ? 1 : 2 * sim->plan.delay_max_ns), sim_process_crash,
	       process->is_source, NULL);
}
