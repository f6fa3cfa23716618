/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/move/move.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "deploy/monotonic.h"
#include "tests/unit/transport-tcp/rig.h"

#define RAM_BYTES (MOVE_PAGES * HUGE_BYTES)

void (*move_all_placed)(void);

/* ---- the VMs ----------------------------------------------------------------------------------- */

static bool take_order(struct move_vm *vm, enum hf_vm_op *op)
{
	pthread_mutex_lock(&vm->lock);
	while (!vm->quit && vm->wanted_count == 0)
		pthread_cond_wait(&vm->changed, &vm->lock);
	bool taken = vm->wanted_count > 0;
	if (taken) {
		*op = vm->wanted[0];
		memmove(vm->wanted, vm->wanted + 1, --vm->wanted_count * sizeof(vm->wanted[0]));
	}
	pthread_mutex_unlock(&vm->lock);
	return taken;
}

/* Every operation succeeds. */
static void *run_vm(void *opaque)
{
	static const char state[] = "device state";
	struct move_vm *vm = opaque;
	enum hf_vm_op op;

	while (take_order(vm, &op)) {
		struct hf_vm_result result = {.op = op};
		if (op == HF_VM_SAVE) {
			result.data = state;
			result.length_bytes = sizeof(state);
		}
		vm->done(vm->engine, &result);
	}
	return NULL;
}

static int request(void *self, enum hf_vm_op op, const void *data, size_t bytes)
{
	struct move_vm *vm = self;

	(void)data;
	(void)bytes;
	pthread_mutex_lock(&vm->lock);
	vm->wanted[vm->wanted_count++] = op;
	pthread_cond_signal(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static const struct hf_vm_ops vm_ops = {.request = request};

static void start_vm(struct move_vm *vm)
{
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	assert_int_equal(pthread_create(&vm->thread, NULL, run_vm, vm), 0);
}

static void end_vm(struct move_vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->quit = true;
	pthread_cond_signal(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	pthread_join(vm->thread, NULL);
	pthread_cond_destroy(&vm->changed);
	pthread_mutex_destroy(&vm->lock);
}

static void source_vm_done(void *engine, const struct hf_vm_result *result)
{
	hf_source_vm_done(engine, result);
}

static void destination_vm_done(void *engine, const struct hf_vm_result *result)
{
	hf_destination_vm_done(engine, result);
}

/* ---- the vCPUs --------------------------------------------------------------------------------- */

static void *run_vcpu(void *opaque)
{
	struct move_vcpu *vcpu = opaque;

	atomic_store(&vcpu->thread_id, (unsigned)gettid());
	for (;;) {
		while (sem_wait(&vcpu->order))
			;
		if (!vcpu->address)
			return NULL;
		vcpu->seen = *vcpu->address;
		atomic_store(&vcpu->busy, false);
	}
}

static bool has_thread_id(void *opaque)
{
	struct move_vcpu *vcpu = opaque;

	return atomic_load(&vcpu->thread_id) != 0;
}

static void start_vcpu(struct move_vcpu *vcpu)
{
	sem_init(&vcpu->order, 0, 0);
	assert_int_equal(pthread_create(&vcpu->thread, NULL, run_vcpu, vcpu), 0);
	wait_until(has_thread_id, vcpu, "a vCPU's thread");
}

static void order(struct move_vcpu *vcpu, volatile uint8_t *address)
{
	vcpu->address = address;
	atomic_store(&vcpu->busy, true);
	sem_post(&vcpu->order);
}

void move_touch(struct move *move, uint32_t vcpu, uint32_t page)
{
	assert_false(move_is_touching(move, vcpu));
	order(&move->vcpus[vcpu], move->destination_ram + (page + 1) * HUGE_BYTES - 1);
}

bool move_is_touching(struct move *move, uint32_t vcpu)
{
	return atomic_load(&move->vcpus[vcpu].busy);
}

static bool is_idle(void *opaque)
{
	struct move_vcpu *vcpu = opaque;

	return !atomic_load(&vcpu->busy);
}

void move_touched(struct move *move, uint32_t vcpu, uint32_t page)
{
	wait_until(is_idle, &move->vcpus[vcpu], "a vCPU to have its page");
	uint8_t wanted = move_page_is_hole(page) ? 0 : move->source_ram[(page + 1) * HUGE_BYTES - 1];
	assert_int_equal(move->vcpus[vcpu].seen, wanted);
}

void move_touch_and_check(struct move *move, uint32_t vcpu, uint32_t page)
{
	move_touch(move, vcpu, page);
	move_touched(move, vcpu, page);
}

/* One that still waits has been let go by the end of the userfaultfd. */
static void end_vcpu(struct move_vcpu *vcpu)
{
	wait_until(is_idle, vcpu, "a vCPU to be let go");
	order(vcpu, NULL);
	pthread_join(vcpu->thread, NULL);
	sem_destroy(&vcpu->order);
}

/* ---- memory ------------------------------------------------------------------------------------ */

static void fill_source(struct move *move)
{
	for (uint32_t page = 0; page < MOVE_PAGES; page++) {
		uint64_t *words = (uint64_t *)(move->source_ram + page * HUGE_BYTES);
		if (move_page_is_hole(page))
			continue;
		for (uint64_t i = 0; i < HUGE_BYTES / sizeof(*words); i++)
			words[i] =
			    move_page_is_zero(page)
				? 0
				: (move->seed + page * HUGE_BYTES + i) * 0x9e3779b97f4a7c15u | 1u << 24;
	}
}

static void open_source_memory(struct move *move)
{
	char path[64];
	const struct hf_outgoing_region region = {.idstr = "ram0", .path = path, .length_bytes = RAM_BYTES};
	struct hf_err err = HF_ERR_INIT;

	move->source_fd = ram_file_anonymous(HUGE_BYTES, MOVE_PAGES);
	move->source_ram = ram_map(move->source_fd, RAM_BYTES, false);
	fill_source(move);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", move->source_fd);
	hf_ramblocks_init(&move->source_blocks);
	if (hf_outgoing_memory_create(&move->outgoing, getpid(), &region, 1, &move->source_blocks, &err))
		fail_msg("%s", err.text);
}

static void lend_destination_memory(struct move *move)
{
	const struct hf_attach_options options = {.socket_path = move->attach_path, .vm_name = "guest"};
	struct hf_err err = HF_ERR_INIT;

	strcpy(move->directory, "/tmp/hf-test-XXXXXX");
	assert_non_null(mkdtemp(move->directory));
	snprintf(move->attach_path, sizeof(move->attach_path), "%s/attach", move->directory);
	move->destination_fd = ram_file_anonymous(HUGE_BYTES, MOVE_PAGES);
	move->destination_ram = ram_map(move->destination_fd, RAM_BYTES, false);
	const struct hf_attach_region region = {.idstr = "ram0",
						.address = move->destination_ram,
						.length_bytes = RAM_BYTES,
						.page_size_bytes = HUGE_BYTES,
						.fd = move->destination_fd};
	if (hf_attach_create(&move->attach, &options, &err) || hf_attach_add(move->attach, &region, &err) ||
	    hf_attach_start(move->attach, &err))
		fail_msg("%s", err.text);
	hf_ramblocks_init(&move->destination_blocks);
	assert_int_equal(hf_ramblocks_add(&move->destination_blocks, "ram0", RAM_BYTES, HUGE_BYTES, &err), 0);
}

static void memory_ready(void *opaque, int result, const struct hf_err *err)
{
	hf_destination_memory_ready(((struct move *)opaque)->destination, result, err);
}

static void memory_fault(void *opaque, uint32_t block, uint64_t page, uint32_t thread_id, uint64_t arrived_ns)
{
	hf_destination_fault(((struct move *)opaque)->destination, block, page, thread_id, arrived_ns);
}

static void memory_failed(void *opaque, const struct hf_err *err)
{
	hf_destination_fail(((struct move *)opaque)->destination, err);
}

static int memory_work(void *opaque, enum hf_work_class class)
{
	return hf_destination_work(((struct move *)opaque)->destination, class);
}

static void open_destination_memory(struct move *move, enum hf_placement_choice choice)
{
	struct hf_err err = HF_ERR_INIT;

	lend_destination_memory(move);
	if (hf_attach_client_connect(&move->client, move->attach_path, &err))
		fail_msg("%s", err.text);
	const struct hf_incoming_memory_config config = {.attach = move->client,
							 .blocks = &move->destination_blocks,
							 .choice = choice,
							 .staging_slots = MOVE_SLOTS,
							 .clock = hf_monotonic_clock(),
							 .ready = memory_ready,
							 .fault = memory_fault,
							 .failed = memory_failed,
							 .work = memory_work};
	if (hf_incoming_memory_create(&move->incoming, &config, &err))
		fail_msg("%s", err.text);
}

/* ---- link and engines -------------------------------------------------------------------------- */

static void open_link(struct move *move, const char *uri)
{
	struct hf_tcp_options options = source_options(1, 2);
	struct hf_tcp_listener *listener;
	struct accepting accepting;
	struct hf_err err = HF_ERR_INIT;

	if (hf_tcp_listen(&listener, uri, &options, &err))
		fail_msg("listen: %s", err.text);
	accepting_start(&accepting, listener);
	if (hf_tcp_connect(&move->source_link, hf_tcp_listener_uri(listener), &options, &err))
		fail_msg("connect: %s", err.text);
	if (accepting_join(&accepting))
		fail_msg("accept: %s", accepting.err.text);
	move->destination_link = accepting.tcp;
	hf_tcp_listener_close(listener);
}

static int (*real_release)(void *self, struct hf_err *err); /* the same of all moves */

static int release(void *self, struct hf_err *err)
{
	if (move_all_placed)
		move_all_placed();
	return real_release(self, err);
}

static struct hf_memory memory_port(struct move *move)
{
	struct hf_memory port = hf_incoming_memory_port(move->incoming);

	real_release = port.ops->release;
	move->memory_ops = *port.ops;
	move->memory_ops.release = release;
	port.ops = &move->memory_ops;
	return port;
}

static void create_engines(struct move *move)
{
	uint32_t thread_ids[MOVE_VCPUS];
	struct hf_err err = HF_ERR_INIT;

	for (uint32_t i = 0; i < MOVE_VCPUS; i++)
		thread_ids[i] = atomic_load(&move->vcpus[i].thread_id);
	const struct hf_source_config source = {.vm_name = "moved",
						.blocks = &move->source_blocks,
						.clock = hf_monotonic_clock(),
						.memory = hf_outgoing_memory_port(move->outgoing),
						.transport = hf_tcp_transport(move->source_link),
						.vm = {.ops = &vm_ops, .self = &move->source_vm}};
	const struct hf_destination_config destination = {
	    .vm_name = "moved",
	    .blocks = &move->destination_blocks,
	    .vcpu_thread_ids = thread_ids,
	    .vcpus = MOVE_VCPUS,
	    .clock = hf_monotonic_clock(),
	    .memory = memory_port(move),
	    .transport = hf_tcp_transport(move->destination_link),
	    .vm = {.ops = &vm_ops, .self = &move->destination_vm},
	    .background_held = true};
	if (hf_source_create(&move->source, &source, &err) ||
	    hf_destination_create(&move->destination, &destination, &err))
		fail_msg("%s", err.text);
	move->source_vm.engine = move->source;
	move->source_vm.done = source_vm_done;
	move->destination_vm.engine = move->destination;
	move->destination_vm.done = destination_vm_done;
}

void move_open(struct move *move, uint64_t seed, const char *uri, enum hf_placement_choice choice)
{
	memset(move, 0, sizeof(*move));
	move->seed = seed;
	for (uint32_t i = 0; i < MOVE_VCPUS; i++)
		start_vcpu(&move->vcpus[i]);
	open_source_memory(move);
	open_destination_memory(move, choice);
	open_link(move, uri);
	create_engines(move);
	start_vm(&move->source_vm);
	start_vm(&move->destination_vm);
}

void move_start(struct move *move)
{
	struct hf_err err = HF_ERR_INIT;

	if (hf_incoming_memory_start(move->incoming, move, &err) ||
	    hf_tcp_start(move->destination_link, &hf_destination_events, move->destination, &err) ||
	    hf_tcp_start(move->source_link, &hf_source_events, move->source, &err))
		fail_msg("%s", err.text);
}

/* ---- waiting ----------------------------------------------------------------------------------- */

struct hf_destination_snapshot move_destination_snapshot(struct move *move)
{
	struct hf_destination_snapshot snapshot;
	hf_destination_snapshot(move->destination, &snapshot);
	return snapshot;
}

struct hf_source_snapshot move_source_snapshot(struct move *move)
{
	struct hf_source_snapshot snapshot;
	hf_source_snapshot(move->source, &snapshot);
	return snapshot;
}

static void no_failure(struct move *move)
{
	struct hf_destination_snapshot destination = move_destination_snapshot(move);
	struct hf_source_snapshot source = move_source_snapshot(move);

	assert_string_equal(destination.err.text, "");
	assert_string_equal(source.err.text, "");
}

static bool runs(void *opaque)
{
	no_failure(opaque);
	return move_source_snapshot(opaque).downtime_ns > 0;
}

void move_wait_runs(struct move *move)
{
	wait_until(runs, move, "the VM to run at the destination");
}

static bool completed(void *opaque)
{
	no_failure(opaque);
	return move_source_snapshot(opaque).status == HF_STATUS_COMPLETED &&
	       move_destination_snapshot(opaque).status == HF_STATUS_COMPLETED;
}

void move_wait_completed(struct move *move)
{
	wait_until(completed, move, "the move to complete");
}

static bool paused(void *opaque)
{
	return move_source_snapshot(opaque).status == HF_STATUS_POSTCOPY_PAUSED &&
	       move_destination_snapshot(opaque).status == HF_STATUS_POSTCOPY_PAUSED;
}

void move_wait_paused(struct move *move)
{
	wait_until(paused, move, "both sides to pause");
}

struct received {
	struct move *move;
	uint32_t pages;
};

static bool has_received(void *opaque)
{
	struct received *wanted = opaque;

	return move_destination_snapshot(wanted->move).pages_received >= wanted->pages;
}

void move_wait_received(struct move *move, uint32_t pages)
{
	wait_until(has_received, &(struct received){move, pages}, "pages to be placed");
}

/* ---- the end ----------------------------------------------------------------------------------- */

static uint32_t pages_with_bytes(void)
{
	uint32_t pages = 0;

	for (uint32_t page = 0; page < MOVE_PAGES; page++)
		pages += !move_page_is_hole(page) && !move_page_is_zero(page);
	return pages;
}

void move_check(struct move *move)
{
	struct hf_destination_snapshot snapshot = move_destination_snapshot(move);

	assert_int_equal(snapshot.pages_received, MOVE_PAGES);
	assert_int_equal(snapshot.pages_fetched, pages_with_bytes());
	assert_int_equal(snapshot.pages_zero, MOVE_PAGES - pages_with_bytes());
	assert_int_equal(snapshot.transferred_bytes, pages_with_bytes() * HUGE_BYTES);
	for (uint32_t page = 0; page < MOVE_PAGES; page++) {
		const uint8_t *arrived = move->destination_ram + page * HUGE_BYTES;
		if (move_page_is_hole(page))
			assert_page_filled(arrived, HUGE_BYTES, 0);
		else
			assert_int_equal(memcmp(arrived, move->source_ram + page * HUGE_BYTES, HUGE_BYTES),
					 0);
	}
}

/* As the programs do it: threads that call an engine end before it does. */
static void end_engines(struct move *move)
{
	hf_incoming_memory_stop(move->incoming);
	hf_tcp_close(move->destination_link);
	hf_tcp_close(move->source_link);
	end_vm(&move->source_vm);
	end_vm(&move->destination_vm);
	hf_destination_destroy(move->destination);
	hf_source_destroy(move->source);
	hf_incoming_memory_destroy(move->incoming);
	hf_outgoing_memory_destroy(move->outgoing);
	hf_attach_client_destroy(move->client);
	hf_attach_destroy(move->attach);
}

static void free_memory(struct move *move)
{
	for (uint32_t i = 0; i < MOVE_VCPUS; i++)
		end_vcpu(&move->vcpus[i]);
	munmap(move->source_ram, RAM_BYTES);
	munmap(move->destination_ram, RAM_BYTES);
	close(move->source_fd);
	close(move->destination_fd);
	hf_ramblocks_destroy(&move->source_blocks);
	hf_ramblocks_destroy(&move->destination_blocks);
	rmdir(move->directory);
}

void move_close(struct move *moves, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		end_engines(&moves[i]);
	for (uint32_t i = 0; i < count; i++)
		free_memory(&moves[i]);
}

int move_give_back(void **state)
{
	host_pages_give_back();
	return remove_directory(state);
}
