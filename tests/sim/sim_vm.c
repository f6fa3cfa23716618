/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake VMs. The source's guest writes until it is stopped; at no time may both run. A VMM outlives the
 * program that drives it: what it was asked to do when the program crashed was done or was not. A VM that
 * stands still may be run by another client, unless it is frozen. The source's has a guardian, which runs the
 * VM when the program has crashed, unless the record says that it was given up.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

#define GUARDIAN_DELAY_NS 100000u

static const char device_state[] = "device state of the simulated VM, long enough to be a state";

static void start_source(struct sim *sim)
{
	SIM_CHECK(sim, !sim->destination_runs, "the source VM is resumed while the destination VM runs");
	SIM_CHECK(sim, sim->on_record[true] != HF_RECORD_GIVEN_UP,
		  "the source VM is run, and GIVEN_UP is on record");
	SIM_CHECK(sim, !sim->may_have_run, "the source VM is run after the destination VM has run");
	sim->source_frozen = false;
	sim->source_runs = true;
	sim->handed_back = true;
	sim->covered[SIM_HANDED_BACK] += sim->on_record[true] == HF_RECORD_TAKEN_BACK;
}

/* Device load touches memory, as virtio does: a thread that is no vCPU. */
static void load_touches_memory(struct sim *sim)
{
	for (uint32_t i = sim->plan.vcpus; i < sim->thread_count; i++)
		sim_thread_access(sim, i, NULL);
}

#define NAMED_RANGES 4u

/* Of the seed alone: what a run goes through apart from these pages does not depend on them. */
bool sim_names_pages(const struct sim *sim)
{
	return sim->seed % 4 == 3;
}

static void name_pages(const struct sim *sim, struct hf_vm_range ranges[static NAMED_RANGES])
{
	for (uint32_t i = 0; i < NAMED_RANGES; i++) {
		const struct hf_ramblock *block =
		    &sim->source_blocks.blocks[(sim->seed / 4 + i) % sim->source_blocks.count];
		snprintf(ranges[i].idstr, sizeof(ranges[i].idstr), "%s", block->idstr);
		ranges[i].offset_bytes = (sim->seed / 16 + 7 * i) * 12345 % block->length_bytes;
		ranges[i].length_bytes = 1 + i * block->page_size_bytes / 2;
	}
}

static void start_destination(struct sim *sim)
{
	SIM_CHECK(sim, !sim->source_runs, "the destination VM runs while the source VM does");
	SIM_CHECK(sim, !sim->handed_back, "the destination VM runs although the source was told to go on");
	SIM_CHECK(sim, sim->destination_loaded, "the destination VM runs without device state");
	SIM_CHECK(sim, sim->on_record[false] == HF_RECORD_RUNNING,
		  "the destination VM runs before that is on record");
	SIM_CHECK(sim, sim->on_record[true] == HF_RECORD_GIVEN_UP,
		  "the destination VM runs, and the source has not given it up");
	if (sim->destination_runs)
		return;
	SIM_CHECK(sim, sim->side[false]->has_memory || sim->released,
		  "the destination VM runs before its memory is taken over");
	sim->destination_runs = sim->may_have_run = true;
	for (uint32_t i = 0; i < sim->plan.vcpus; i++)
		sim_at(sim, sim_random(sim, 1000), sim_thread_access, i, NULL);
}

static void source_writes(struct sim *sim)
{
	for (uint32_t i = 0; i < sim->page_count; i++)
		if (!sim->pages[i].hole && sim_chance(sim, 10)) {
			sim->source_memory[sim->pages[i].base + 8] ^= 0x5a;
			sim->pages[i].written = true;
		}
}

static void revive(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	if (sim->source_runs || sim->source_frozen)
		return;
	sim_log(sim, "another client runs the source VM");
	SIM_CHECK(sim, !sim->may_have_run && sim->on_record[true] != HF_RECORD_GIVEN_UP,
		  "a VM that was given up can be run by others");
	sim->source_runs = sim->revived = sim->handed_back = true;
	sim->notified = true;
}

static void tell_ended(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	struct hf_err why;
	hf_err_set(&why, HF_ERR_LOCAL, ESRCH, "the VMM has ended");
	if (sim->destination)
		hf_destination_vm_ended(sim->destination, &why);
}

static void end_vmm(struct sim *sim)
{
	sim->vmm_lives = sim->destination_runs = false;
	for (uint32_t i = 0; i < sim->thread_count; i++)
		sim->threads[i].state = SIM_STOPPED;
	sim_at(sim, sim_random(sim, sim->plan.delay_max_ns), tell_ended, 0, NULL);
}

static void vmm_dies(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	if (!sim->vmm_lives)
		return;
	sim_log(sim, "the VMM of the destination ends");
	sim->covered[SIM_VMM_DIED_LOADED] += sim->on_record[false] == HF_RECORD_LOADED;
	end_vmm(sim);
}

static bool device_threads_done(const struct sim *sim)
{
	for (uint32_t i = sim->plan.vcpus; i < sim->thread_count; i++)
		if (sim->threads[i].state == SIM_BLOCKED)
			return false;
	return true;
}

/* ---- what an operation does to a VMM ---- */

static int stop_source(struct sim *sim)
{
	SIM_CHECK(sim, !sim->memory_final, "the source VM is stopped twice");
	source_writes(sim);
	sim->source_runs = false;
	sim->memory_final = true;
	if (sim->plan.revived)
		sim_at(sim, sim_random(sim, 10 * sim->plan.delay_max_ns), revive, 0, NULL);
	return 0;
}

static int fence_source(struct sim *sim)
{
	if (sim->source_runs) {
		sim->covered[SIM_REVIVED]++;
		return -EPERM;
	}
	sim->source_frozen = true;
	return 0;
}

/* -EOWNERDEAD whenever the VMM ended while it may have run. */
static int run_destination(struct sim *sim)
{
	if (sim->vmm_lives && (sim->plan.run == SIM_RUN_GOES || sim->destination_runs)) {
		start_destination(sim);
		return 0;
	}
	if (!sim->vmm_lives)
		return sim->may_have_run || sim_chance(sim, 50) ? -EOWNERDEAD : -ESRCH;
	if (sim->plan.run == SIM_RUN_REFUSED)
		return -EIO;
	if (sim_chance(sim, 50))
		start_destination(sim);
	end_vmm(sim);
	return -EOWNERDEAD;
}

static int kill_destination(struct sim *sim)
{
	SIM_CHECK(sim, !sim->may_have_run, "the VMM is ended although the VM has run");
	end_vmm(sim);
	return 0;
}

static int apply(struct sim *sim, enum hf_vm_op op)
{
	if ((int)op == sim->plan.fail_vm_op)
		return -EIO;
	switch (op) {
	case HF_VM_STOP:
		return stop_source(sim);
	case HF_VM_FENCE:
		return fence_source(sim);
	case HF_VM_RESUME:
		start_source(sim);
		return 0;
	case HF_VM_LOAD:
		sim->destination_loaded = sim->vmm_lives;
		return sim->vmm_lives ? 0 : -ESRCH;
	case HF_VM_RUN:
		return run_destination(sim);
	case HF_VM_KILL:
		return kill_destination(sim);
	case HF_VM_SAVE:
		sim_rounds_saving(sim);
		break;
	case HF_VM_OPS:
		break;
	}
	return 0;
}

/* ---- ports ---- */

static void finish_op(struct sim *sim, uint64_t op, void *data)
{
	struct sim_process *process = data;
	struct hf_err err;
	struct hf_vm_result result = {.op = (enum hf_vm_op)op};
	if (process->dead)
		return;
	if (op == HF_VM_LOAD && !device_threads_done(sim)) {
		if (sim->link_cut)
			return; /* the VMM hangs in a fault; nobody can help it */
		sim_at(sim, 1000, finish_op, op, process);
		return;
	}
	process->vm_busy = false;
	int answer = apply(sim, result.op);
	if (answer < 0) {
		result.result = hf_err_set(&err, HF_ERR_LOCAL, -answer, "the VMM says no");
		result.err = &err;
	} else if (op == HF_VM_SAVE) {
		result.data = device_state;
		result.length_bytes = sizeof(device_state);
	}
	struct hf_vm_range ranges[NAMED_RANGES];
	if (op == HF_VM_STOP && sim_names_pages(sim)) {
		name_pages(sim, ranges);
		result.first = ranges;
		result.first_count = NAMED_RANGES;
	}
	sim_log(sim, "VM %s: %d", hf_vm_op_name(result.op), result.result);
	if (process->is_source)
		hf_source_vm_done(process->source, &result);
	else
		hf_destination_vm_done(process->destination, &result);
}

static int request(void *self, enum hf_vm_op op, const void *data, size_t length_bytes)
{
	struct sim_process *process = self;
	struct sim *sim = process->sim;
	if (process->dead)
		return 0;
	SIM_CHECK(sim, !process->vm_busy, "the VMM is asked to %s while it is busy with %s",
		  hf_vm_op_name(op), hf_vm_op_name(process->vm_op));
	if (op == HF_VM_LOAD) {
		SIM_CHECK(sim,
			  length_bytes == sizeof(device_state) && !memcmp(data, device_state, length_bytes),
			  "device state arrives changed");
		load_touches_memory(sim);
	}
	if (op == HF_VM_STOP)
		sim_rounds_stopping(sim);
	process->vm_busy = true;
	process->vm_op = op;
	sim_at(sim, sim_random(sim, sim->plan.delay_max_ns), finish_op, op, process);
	sim_process_may_crash(process);
	sim_others(sim);
	return 0;
}

static const struct hf_vm_ops vm_ops = {.request = request};

struct hf_vm sim_vm_port(struct sim_process *process)
{
	return (struct hf_vm){.ops = &vm_ops, .self = process};
}

void sim_vm_start(struct sim *sim)
{
	sim->source_runs = sim->vmm_lives = true;
	if (sim->plan.vmm_dies)
		sim_at(sim, sim->plan.vmm_dies_ns, vmm_dies, 0, NULL);
}

static void guard(struct sim *sim, uint64_t argument, void *data)
{
	(void)argument;
	(void)data;
	if (sim->source_runs)
		return;
	sim_log(sim, "the guardian runs the source VM");
	sim->covered[SIM_GUARDIAN_RESUMED]++;
	start_source(sim);
}

void sim_vm_crashed(struct sim *sim, struct sim_process *process)
{
	if (process->vm_busy && sim_chance(sim, 50))
		apply(sim, process->vm_op);
	if (process->is_source && sim->on_record[true] != HF_RECORD_GIVEN_UP)
		sim_at(sim, sim_random(sim, GUARDIAN_DELAY_NS), guard, 0, NULL);
}
