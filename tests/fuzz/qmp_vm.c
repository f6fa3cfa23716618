/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Target: the QMP client and the VM adapter on it, against a VMM that answers anything. The input is what the
 * adapter is asked for, and the VMM's answers: values of "return" or errors with the right id, or any bytes,
 * device state, a hang-up. After what the input has for a command comes one answer that is right in form, so
 * that nobody waits for long.
 *
 * The rules: lists come out whole or not at all; a device state that is saved is what the VMM sent; every
 * operation ends once, and with a reason if not well; no descriptor, file or thread is left behind.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "kvm/qmp_vm.h"
#include "kvm/qmp_vm_internal.h"
#include "tests/fuzz/peer.h"

#define GREETING "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n"

enum { STATE_BYTES = 64, COMMANDS_MAX = 60, REQUEST_MAX = 4096 };

struct vmm {
	struct fuzz_input *input;
	int own_fd, fd; /* of the QMP connection: the adapter's end and the VMM's */
	uint32_t commands;
	uint8_t state[STATE_BYTES]; /* what it has sent to be saved */
	size_t state_bytes;
	bool state_sent;
	/* The end of an operation, told by the adapter's worker. */
	pthread_mutex_t lock;
	pthread_cond_t changed;
	uint32_t ends;
};

/* ---- the VMM ----------------------------------------------------------------------------------- */

static void say(const struct vmm *vmm, const char *text)
{
	fuzz_peer_write(vmm->fd, text, strlen(text));
}

/* `migrate`: connects to the socket the adapter has made, and sends its state. */
static void send_state(struct vmm *vmm, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	bool (*on_connect)(void *, int) = fuzz_peers.on_connect;
	void (*on_send)(void *, int) = fuzz_peers.on_send;
	size_t bytes;
	const uint8_t *state = fuzz_piece(vmm->input, &bytes);
	vmm->state_bytes = bytes < STATE_BYTES ? bytes : STATE_BYTES;
	memcpy(vmm->state, state, vmm->state_bytes);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	fuzz_peers.on_connect = NULL; // these calls are the VMM's
	fuzz_peers.on_send = NULL;
	fuzz_check(fd >= 0);
	if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0) {
		fuzz_peer_write(fd, vmm->state, vmm->state_bytes);
		vmm->state_sent = true;
	}
	close(fd);
	fuzz_peers.on_connect = on_connect;
	fuzz_peers.on_send = on_send;
}

/* An answer whose body is the input's. */
static void answer_with(const struct vmm *vmm, const char *member, const uint8_t *body, size_t bytes,
			json_int_t id)
{
	char head[32], tail[48];
	snprintf(head, sizeof(head), "{\"%s\": ", member);
	snprintf(tail, sizeof(tail), ", \"id\": %lld}\r\n", (long long)id);
	say(vmm, head);
	fuzz_peer_write(vmm->fd, body, bytes);
	say(vmm, tail);
}

static void answer(struct vmm *vmm, json_int_t id)
{
	uint8_t choice = fuzz_u8(vmm->input);
	size_t bytes = 0;
	const uint8_t *body = choice & 0x10 ? fuzz_line(vmm->input, &bytes) : (const uint8_t *)"";
	switch (choice & 3) {
	case 0:
		if (bytes)
			answer_with(vmm, "return", body, bytes, id);
		break;
	case 1:
		answer_with(vmm, "error",
			    (const uint8_t *)"{\"class\": \"CommandNotFound\", \"desc\": \"no\"}", 42, id);
		break;
	case 2:
		fuzz_peer_write(vmm->fd, body, bytes);
		break;
	default:
		if (choice == 0xff)
			shutdown(vmm->fd, SHUT_RDWR);
	}
	if (choice & 0x20)
		say(vmm, "{\"event\": \"RESUME\", \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\r\n");
	// A list would be no answer to most commands, and an empty object is none to the others.
	say(vmm, "\xff"); // ends a message that was begun
	answer_with(vmm, "return", (const uint8_t *)"{}", 2, id);
}

static bool is_greeting(const uint8_t *text, size_t bytes)
{
	json_t *value = json_loadb((const char *)text, bytes, 0, NULL);
	bool is = json_is_object(json_object_get(value, "QMP"));
	json_decref(value);
	return is;
}

static bool take_adapter(void *opaque, int fd)
{
	struct vmm *vmm = opaque;
	if (vmm->fd >= 0) // the device state's socket: the VMM takes what comes, or does not listen
		return fuzz_below(vmm->input, 4) != 3;
	vmm->fd = fd;
	uint8_t choice = fuzz_u8(vmm->input);
	size_t bytes;
	if (choice & 1) {
		const uint8_t *greeting = fuzz_line(vmm->input, &bytes);
		fuzz_peer_write(fd, greeting, bytes);
		if (!is_greeting(greeting, bytes))
			say(vmm, "\xff" GREETING); // what was begun ends; nobody waits for long
	} else {
		say(vmm, GREETING);
	}
	return choice != 0xff;
}

/* The adapter has sent a command, or a piece of state. */
static void hear_command(void *opaque, int own_fd)
{
	struct vmm *vmm = opaque;
	char request[REQUEST_MAX + 1];
	if (vmm->own_fd < 0)
		vmm->own_fd = own_fd;
	if (own_fd != vmm->own_fd)
		return;
	size_t bytes = fuzz_peer_read(vmm->fd, (uint8_t *)request, REQUEST_MAX);
	json_t *command = json_loadb(request, bytes, JSON_DISABLE_EOF_CHECK, NULL);
	fuzz_check(json_is_object(command) && json_is_string(json_object_get(command, "execute")));
	const char *uri = json_string_value(json_object_get(json_object_get(command, "arguments"), "uri"));
	if (uri && strcmp(json_string_value(json_object_get(command, "execute")), "migrate") == 0)
		send_state(vmm, uri + sizeof("unix:") - 1);
	if (++vmm->commands > COMMANDS_MAX)
		shutdown(vmm->fd, SHUT_RDWR);
	answer(vmm, json_integer_value(json_object_get(command, "id")));
	json_decref(command);
}

/* ---- what is asked ----------------------------------------------------------------------------- */

static void check_reason(int result, const struct hf_err *err)
{
	fuzz_check(result <= 0 && (result == 0) == (err->class == HF_ERR_NONE));
	fuzz_check(result == 0 || err->text[0]);
}

static void ask_vcpus(struct vmm *vmm, struct hf_qmp_vm *vm)
{
	uint32_t *ids = NULL, count = 0;
	struct hf_err err = HF_ERR_INIT;
	(void)vmm;
	int result = hf_qmp_vm_vcpus(vm, &ids, &count, &err);
	check_reason(result, &err);
	fuzz_check((result == 0) == (count > 0));
	for (uint32_t i = 0; i < count; i++)
		fuzz_check(ids[i] > 0 && ids[i] <= INT32_MAX);
	free(ids);
}

static void ask_blocks(struct vmm *vmm, struct hf_qmp_vm *vm)
{
	struct hf_qmp_vm_block *blocks = NULL;
	uint32_t count = 0;
	struct hf_err err = HF_ERR_INIT;
	(void)vmm;
	check_reason(hf_qmp_vm_blocks(vm, &blocks, &count, &err), &err);
	for (uint32_t i = 0; i < count; i++)
		fuzz_check(blocks[i].idstr && blocks[i].length_bytes > 0 &&
			   blocks[i].length_bytes <= INT64_MAX);
	hf_qmp_vm_blocks_free(blocks, count);
}

static void ask_status(struct vmm *vmm, struct hf_qmp_vm *vm)
{
	char status[16];
	struct hf_err err = HF_ERR_INIT;
	(void)vmm;
	if (hf_qmp_vm_status(vm, status, sizeof(status), &err) == 0)
		fuzz_check(strlen(status) < sizeof(status));
	else
		fuzz_check(err.text[0]);
}

static void ask_save(struct vmm *vmm, struct hf_qmp_vm *vm)
{
	void *data = NULL;
	size_t bytes = 0;
	struct hf_err err = HF_ERR_INIT;
	vmm->state_sent = false;
	int result = hf_qmp_vm_save(vm, &data, &bytes, &err);
	check_reason(result, &err);
	if (result == 0)
		fuzz_check(vmm->state_sent && bytes == vmm->state_bytes &&
			   memcmp(data, vmm->state, bytes) == 0);
	free(data);
}

static void ask_load(struct vmm *vmm, struct hf_qmp_vm *vm)
{
	struct hf_err err = HF_ERR_INIT;
	(void)vmm;
	check_reason(hf_qmp_vm_load(vm, "device state", 12, &err), &err);
}

static void ask_first(struct vmm *vmm, struct hf_qmp_vm *vm)
{
	(void)vmm;
	hf_qmp_vm_find_first(vm);
	for (uint32_t i = 0; i < vm->first_count; i++) {
		const struct hf_vm_range *range = &vm->first[i];
		fuzz_check(range->idstr[0] && strlen(range->idstr) <= HF_RAMBLOCK_IDSTR_MAX);
		fuzz_check(range->length_bytes > 0 &&
			   range->length_bytes - 1 <= UINT64_MAX - range->offset_bytes);
	}
}

static void on_end(void *engine, const struct hf_vm_result *result)
{
	struct vmm *vmm = engine;
	fuzz_check(result->result <= 0 && (result->result == 0) == !result->err);
	pthread_mutex_lock(&vmm->lock);
	vmm->ends++;
	pthread_cond_signal(&vmm->changed);
	pthread_mutex_unlock(&vmm->lock);
}

/* Stop and run are the worker's. */
static void operate(struct vmm *vmm, struct hf_qmp_vm *vm)
{
	struct hf_vm port = hf_qmp_vm_port(vm);
	enum hf_vm_op op = fuzz_below(vmm->input, 2) ? HF_VM_STOP : HF_VM_RUN;
	vmm->ends = 0;
	fuzz_check(hf_qmp_vm_start(vm, on_end, vmm, NULL) == 0);
	fuzz_check(port.ops->request(port.self, op, NULL, 0) == 0);
	pthread_mutex_lock(&vmm->lock);
	while (vmm->ends == 0)
		pthread_cond_wait(&vmm->changed, &vmm->lock);
	pthread_mutex_unlock(&vmm->lock);
	hf_qmp_vm_stop(vm);
	fuzz_check(vmm->ends == 1);
	fuzz_check(port.ops->request(port.self, op, NULL, 0) == -ESHUTDOWN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
	static void (*const asks[])(struct vmm *, struct hf_qmp_vm *) = {
	    ask_vcpus, ask_blocks, ask_status, ask_save, ask_load, operate, ask_first};
	struct fuzz_input input = {.at = data, .left = bytes};
	struct vmm vmm = {.input = &input,
			  .own_fd = -1,
			  .fd = -1,
			  .lock = PTHREAD_MUTEX_INITIALIZER,
			  .changed = PTHREAD_COND_INITIALIZER};
	struct hf_qmp_vm *vm = NULL;
	struct hf_err err = HF_ERR_INIT;
	int first_fd = fuzz_next_fd();
	fuzz_peers_begin(&vmm);
	fuzz_peers.on_connect = take_adapter;
	fuzz_peers.on_send = hear_command;
	void (*ask)(struct vmm *, struct hf_qmp_vm *) =
	    asks[fuzz_below(&input, sizeof(asks) / sizeof(asks[0]))];
	fuzz_peers.shortness = fuzz_u8(&input);
	int result = hf_qmp_vm_create(&vm, "/fuzz", &err);
	check_reason(result, &err);
	if (result == 0)
		ask(&vmm, vm);
	hf_qmp_vm_destroy(vm);
	fuzz_peers_end();
	fuzz_check(fuzz_next_fd() == first_fd);
	return 0;
}
