/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The fake VMs. The source's guest writes until it is stopped; at no time may both run.
 */
#include <errno.h>
#include <string.h>

#include "tests/sim/sim.h"

static const char device_state[] = "device state of the simulated VM, long enough to be a state";

static void start_source(struct sim *sim)
{
	SIM_CHECK(sim, !sim->destination_runs, "the source VM is resumed while the destination VM runs");
	sim->source_runs = true;
	sim->handed_back = true;
}

/* Device load touches memory, as virtio does: a thread that is no vCPU. */
static void load_touches_memory(struct sim *sim)
{
	for (uint32_t i = sim->plan.vcpus; i < sim->thread_count; i++)
		sim_thread_access(sim, i, NULL);
}

static void start_destination(struct sim *sim)
{
	SIM_CHECK(sim, !sim->source_runs, "the destination VM runs while the source VM does");
	SIM_CHECK(sim, !sim->handed_back, "the destination VM runs although the source was told to go on");
	SIM_CHECK(sim, sim->destination_loaded, "the destination VM runs without device state");
	sim->destination_runs = true;
	for (uint32_t i = 0; i < sim->plan.vcpus; i++)
		sim_at(sim, sim_random(sim, 1000), sim_thread_access, i, NULL);
}

static void source_writes(struct sim *sim)
{
	for (uint32_t i = 0; i < sim->page_count; i++)
		if (!sim->pages[i].hole && sim_chance(sim, 10))
			sim->source_memory[sim->pages[i].base + 8] ^= 0x5a;
}

static bool device_threads_done(const struct sim *sim)
{
	for (uint32_t i = sim->plan.vcpus; i < sim->thread_count; i++)
		if (sim->threads[i].state == SIM_BLOCKED)
			return false;
	return true;
}

static void finish_op(struct sim *sim, uint64_t op, void *data)
{
	struct hf_err err;
	struct hf_vm_result result = {.op = (enum hf_vm_op)op};
	if (op == HF_VM_LOAD && !device_threads_done(sim)) {
		if (sim->link_cut)
			return; /* the VMM hangs in a fault; nobody can help it */
		sim_at(sim, 1000, finish_op, op, data);
		return;
	}
	if ((int)op == sim->plan.fail_vm_op) {
		result.result = hf_err_set(&err, HF_ERR_LOCAL, EIO, "the VMM says no");
		result.err = &err;
	} else if (op == HF_VM_STOP) {
		source_writes(sim);
		sim->source_runs = false;
		sim->memory_final = true;
	} else if (op == HF_VM_SAVE) {
		result.data = device_state;
		result.length_bytes = sizeof(device_state);
	} else if (op == HF_VM_RESUME) {
		start_source(sim);
	} else if (op == HF_VM_LOAD) {
		sim->destination_loaded = true;
	} else if (op == HF_VM_RUN) {
		start_destination(sim);
	}
	sim_log(sim, "VM %s: %d", hf_vm_op_name(result.op), result.result);
	if (data == sim->source)
		hf_source_vm_done(sim->source, &result);
	else
		hf_destination_vm_done(sim->destination, &result);
}

static int source_request(void *self, enum hf_vm_op op, const void *data, size_t length_bytes)
{
	(void)data;
	(void)length_bytes;
	struct sim *sim = self;
	sim_at(sim, sim_random(sim, sim->plan.delay_max_ns), finish_op, op, sim->source);
	sim_others(sim);
	return 0;
}

static int destination_request(void *self, enum hf_vm_op op, const void *data, size_t length_bytes)
{
	struct sim *sim = self;
	if (op == HF_VM_LOAD) {
		SIM_CHECK(sim,
			  length_bytes == sizeof(device_state) && !memcmp(data, device_state, length_bytes),
			  "device state arrives changed");
		load_touches_memory(sim);
	}
	sim_at(sim, sim_random(sim, sim->plan.delay_max_ns), finish_op, op, sim->destination);
	sim_others(sim);
	return 0;
}

static const struct hf_vm_ops source_vm_ops = {.request = source_request};
static const struct hf_vm_ops destination_vm_ops = {.request = destination_request};

struct hf_vm sim_vm_port(struct sim *sim, bool is_source)
{
	return (struct hf_vm){.ops = is_source ? &source_vm_ops : &destination_vm_ops, .self = sim};
}
