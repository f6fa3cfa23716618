/* SPDX-License-Identifier: Apache-2.0 */
/* The VM adapter's questions: status, vCPU threads, memory backends; and `quit`. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/qmp_vm_internal.h"

#define ID_MAX_BYTES 255

pid_t hf_qmp_vm_pid(const struct hf_qmp_vm *vm)
{
	return hf_qmp_client_pid(vm->client);
}

int hf_qmp_vm_status(struct hf_qmp_vm *vm, char *status, size_t status_bytes, struct hf_err *err)
{
	bool running;
	if (hf_qmp_vm_is_fenced(vm)) { // it would not answer
		snprintf(status, status_bytes, "fenced");
		return 0;
	}
	return hf_qmp_vm_query_status(vm, HF_QMP_VM_COMMAND_MS, status, status_bytes, &running, err);
}

int hf_qmp_vm_quit(struct hf_qmp_vm *vm, struct hf_err *err)
{
	struct hf_err quit_err = HF_ERR_INIT;
	/* Never thawed: somebody else's `cont` may lie in its socket. */
	if (hf_qmp_vm_is_fenced(vm))
		return hf_vmm_kill(&vm->process, HF_VMM_KILL_LIMIT_MS, err);
	int r = hf_qmp_vm_command(vm, "quit", NULL, NULL, &quit_err);
	// A VMM may be gone before its answer is written.
	if (r == -ECONNRESET)
		return 0;
	if (r < 0 && err)
		*err = quit_err;
	return r;
}

void hf_qmp_vm_add_words(struct hf_qmp_vm *vm, struct hf_err *err)
{
	hf_lock(&vm->mutex);
	struct hf_err killed_for = vm->killed_for;
	hf_unlock(&vm->mutex);
	if (killed_for.class == HF_ERR_NONE)
		hf_vmm_words_add(&vm->words, err);
	else
		hf_err_prefix(err, "%s, and was killed", killed_for.text);
}

/* ---- the version ---- */

static bool is_tested(int64_t major, int64_t minor)
{
	return (major == 7 && minor == 2) || (major == 10 && minor == 0);
}

int hf_qmp_vm_version(struct hf_qmp_vm *vm, char *version, size_t version_bytes, bool *tested,
		      struct hf_err *err)
{
	struct hf_err ask_err = HF_ERR_INIT;
	json_t *result = NULL;
	*tested = true;
	snprintf(version, version_bytes, "%s", "");
	int r = hf_qmp_vm_command(vm, "query-version", NULL, &result, &ask_err);
	if (r == 0) {
		const json_t *qemu = json_object_get(result, "qemu");
		int64_t major = json_integer_value(json_object_get(qemu, "major"));
		int64_t minor = json_integer_value(json_object_get(qemu, "minor"));
		int64_t micro = json_integer_value(json_object_get(qemu, "micro"));
		snprintf(version, version_bytes, "QEMU %" PRId64 ".%" PRId64 ".%" PRId64, major, minor,
			 micro);
		*tested = is_tested(major, minor);
	}
	json_decref(result);
	if (r == -ENOSYS)
		return 0;
	if (r < 0 && err)
		*err = ask_err;
	return r;
}

/* ---- vCPUs ---- */

struct vcpu {
	int64_t index;
	int64_t thread_id;
};

static int compare_vcpus(const void *a, const void *b)
{
	int64_t x = ((const struct vcpu *)a)->index;
	int64_t y = ((const struct vcpu *)b)->index;
	return (x > y) - (x < y);
}

static bool read_vcpu(const json_t *entry, struct vcpu *vcpu)
{
	const json_t *index = json_object_get(entry, "cpu-index");
	const json_t *thread_id = json_object_get(entry, "thread-id");
	vcpu->index = json_integer_value(index);
	vcpu->thread_id = json_integer_value(thread_id);
	return json_is_integer(index) && vcpu->index >= 0 && vcpu->thread_id > 0 &&
	       vcpu->thread_id <= INT32_MAX;
}

/* Sorted by index, each once. */
static bool read_vcpus(const json_t *list, struct vcpu *vcpus)
{
	size_t count = json_array_size(list);
	for (size_t i = 0; i < count; i++) {
		if (!read_vcpu(json_array_get(list, i), &vcpus[i]))
			return false;
	}
	qsort(vcpus, count, sizeof(*vcpus), compare_vcpus);
	for (size_t i = 1; i < count; i++) {
		if (vcpus[i].index == vcpus[i - 1].index)
			return false;
	}
	return count > 0;
}

static int vcpus_of(struct hf_qmp_vm *vm, const json_t *list, uint32_t **thread_ids, uint32_t *count,
		    struct hf_err *err)
{
	size_t size = json_array_size(list);
	struct vcpu *vcpus = calloc(size + 1, sizeof(*vcpus));
	uint32_t *ids = calloc(size + 1, sizeof(*ids));
	int r = 0;
	if (!vcpus || !ids) {
		r = hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a list of vCPUs");
	} else if (!read_vcpus(list, vcpus)) {
		r = hf_qmp_vm_error(
		    vm, EPROTO, err,
		    "answered query-cpus-fast with no list of distinct cpu-index and thread-id");
	} else {
		for (size_t i = 0; i < size; i++)
			ids[i] = (uint32_t)vcpus[i].thread_id;
		*thread_ids = ids;
		*count = (uint32_t)size;
		ids = NULL;
	}
	free(vcpus);
	free(ids);
	return r;
}

int hf_qmp_vm_vcpus(struct hf_qmp_vm *vm, uint32_t **thread_ids, uint32_t *count, struct hf_err *err)
{
	json_t *list = NULL;
	int r = hf_qmp_vm_command(vm, "query-cpus-fast", NULL, &list, err);
	if (r == 0)
		r = vcpus_of(vm, list, thread_ids, count, err);
	json_decref(list);
	return r;
}

/* ---- memory ---- */

/* The file behind a backend; NULL for backends without the property (anonymous memory, memfd). */
static int query_mem_path(struct hf_qmp_vm *vm, const char *id, char **path, struct hf_err *err)
{
	char object[sizeof("/objects/") + ID_MAX_BYTES];
	struct hf_err get_err = HF_ERR_INIT;
	json_t *value = NULL;
	snprintf(object, sizeof(object), "/objects/%s", id);
	int r = hf_qmp_vm_command(
	    vm, "qom-get", json_pack("{s:s, s:s}", "path", object, "property", "mem-path"), &value, &get_err);
	if (r == -EREMOTEIO)
		return 0;
	if (r < 0) {
		if (err)
			*err = get_err;
		return r;
	}
	const char *text = json_string_value(value);
	if (!text)
		r = hf_qmp_vm_error(vm, EPROTO, err, "says that mem-path of memory backend %s is no string",
				    id);
	else if (*text && !(*path = strdup(text)))
		r = hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a path");
	json_decref(value);
	return r;
}

static int read_block(struct hf_qmp_vm *vm, const json_t *entry, struct hf_qmp_vm_block *block,
		      struct hf_err *err)
{
	const json_t *id = json_object_get(entry, "id");
	const json_t *size = json_object_get(entry, "size");
	const char *idstr = id ? json_string_value(id) : "";
	if (!idstr || strlen(idstr) > ID_MAX_BYTES || json_integer_value(size) <= 0)
		return hf_qmp_vm_error(vm, EPROTO, err,
				       "answered query-memdev with an entry without usable id and size");
	block->idstr = strdup(idstr);
	if (!block->idstr)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a list of memory backends");
	block->length_bytes = (uint64_t)json_integer_value(size);
	block->shared = json_is_true(json_object_get(entry, "share"));
	return *idstr ? query_mem_path(vm, idstr, &block->path, err) : 0;
}

static int read_blocks(struct hf_qmp_vm *vm, const json_t *list, struct hf_qmp_vm_block **blocks,
		       uint32_t *count, struct hf_err *err)
{
	if (!json_is_array(list))
		return hf_qmp_vm_error(vm, EPROTO, err,
				       "answered query-memdev with something else than a list");
	size_t size = json_array_size(list);
	struct hf_qmp_vm_block *made = calloc(size + 1, sizeof(*made));
	if (!made)
		return hf_err_set(err, HF_ERR_LOCAL, ENOMEM, "no memory for a list of memory backends");
	for (size_t i = 0; i < size; i++) {
		int r = read_block(vm, json_array_get(list, i), &made[i], err);
		if (r < 0) {
			hf_qmp_vm_blocks_free(made, (uint32_t)size);
			return r;
		}
	}
	*blocks = made;
	*count = (uint32_t)size;
	return 0;
}

int hf_qmp_vm_blocks(struct hf_qmp_vm *vm, struct hf_qmp_vm_block **blocks, uint32_t *count,
		     struct hf_err *err)
{
	json_t *list = NULL;
	int r = hf_qmp_vm_command(vm, "query-memdev", NULL, &list, err);
	if (r == 0)
		r = read_blocks(vm, list, blocks, count, err);
	json_decref(list);
	return r;
}

void hf_qmp_vm_blocks_free(struct hf_qmp_vm_block *blocks, uint32_t count)
{
	for (uint32_t i = 0; blocks && i < count; i++) {
		free(blocks[i].idstr);
		free(blocks[i].path);
	}
	free(blocks);
}
