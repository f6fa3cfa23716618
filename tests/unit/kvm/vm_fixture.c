/* SPDX-License-Identifier: Apache-2.0 */
#include "vm_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

int setup(void **state)
{
	struct fixture *fixture = calloc(1, sizeof(*fixture));
	raw_directory_make(&fixture->directory);
	setenv("TMPDIR", fixture->directory.path, 1); // teardown sees what is left there
	pthread_mutex_init(&fixture->mutex, NULL);
	pthread_cond_init(&fixture->changed, NULL);
	*state = fixture;
	return 0;
}

void close_vm(struct fixture *fixture)
{
	hf_qmp_vm_destroy(fixture->vm);
	fixture->vm = NULL;
	fake_vm_stop(&fixture->machine);
	free(fixture->state);
	fixture->state = NULL;
	fixture->end_count = 0;
}

int teardown(void **state)
{
	struct fixture *fixture = *state;
	close_vm(fixture);
	unlink(fixture->directory.socket_path);
	raw_directory_remove(&fixture->directory);
	free(fixture);
	return 0;
}

/* The engine's end of the port. */
static void on_done(void *engine, const struct hf_vm_result *result)
{
	struct fixture *fixture = engine;
	pthread_mutex_lock(&fixture->mutex);
	struct end *end = &fixture->ends[fixture->end_count++];
	*end = (struct end){.op = result->op,
			    .result = result->result,
			    .ran_ns = result->ran_ns,
			    .first_count = result->first_count};
	if (result->err)
		end->err = *result->err;
	if (result->data) {
		free(fixture->state);
		fixture->state = malloc(result->length_bytes);
		memcpy(fixture->state, result->data, result->length_bytes);
		fixture->state_bytes = result->length_bytes;
	}
	pthread_cond_broadcast(&fixture->changed);
	pthread_mutex_unlock(&fixture->mutex);
}

void open_vm(struct fixture *fixture, struct fake_vm_script script)
{
	struct hf_err err = HF_ERR_INIT;
	script.socket_path = fixture->directory.socket_path;
	fake_vm_start(&fixture->machine, &script);
	int r = hf_qmp_vm_create(&fixture->vm, fixture->directory.socket_path, &err);
	if (r < 0)
		print_error("%s\n", err.text);
	assert_int_equal(r, 0);
	assert_int_equal(hf_qmp_vm_start(fixture->vm, on_done, fixture, &err), 0);
}

int request(struct fixture *fixture, enum hf_vm_op op)
{
	struct hf_vm port = hf_qmp_vm_port(fixture->vm);
	bool load = op == HF_VM_LOAD;
	return port.ops->request(port.self, op, load ? fixture->state : NULL,
				 load ? fixture->state_bytes : 0);
}

struct end wait_end(struct fixture *fixture, int number)
{
	pthread_mutex_lock(&fixture->mutex);
	while (fixture->end_count < number)
		pthread_cond_wait(&fixture->changed, &fixture->mutex);
	struct end end = fixture->ends[number - 1];
	pthread_mutex_unlock(&fixture->mutex);
	return end;
}

struct end run(struct fixture *fixture, enum hf_vm_op op)
{
	int number = fixture->end_count + 1; // nothing else is under way
	assert_int_equal(request(fixture, op), 0);
	struct end end = wait_end(fixture, number);
	assert_int_equal(end.op, op);
	if (end.result < 0)
		assert_int_equal(end.result, -end.err.errnum);
	return end;
}

void expect_ok(struct fixture *fixture, enum hf_vm_op op)
{
	struct end end = run(fixture, op);
	if (end.result < 0)
		print_error("%s\n", end.err.text);
	assert_int_equal(end.result, 0);
}

void expect_failure(struct fixture *fixture, enum hf_vm_op op, int error, const char *words)
{
	struct end end = run(fixture, op);
	if (end.result != -error || !strstr(end.err.text, words))
		print_error("got %d: %s\n", end.result, end.err.text);
	assert_int_equal(end.result, -error);
	assert_non_null(strstr(end.err.text, words));
}

void expect_status(struct fixture *fixture, const char *expected)
{
	char status[32];
	assert_int_equal(hf_qmp_vm_status(fixture->vm, status, sizeof(status), NULL), 0);
	assert_string_equal(status, expected);
}

struct fake_vm_script script_for(enum hf_vm_op op)
{
	return (struct fake_vm_script){.state_bytes = STATE_BYTES,
				       .slow_queries = 2,
				       .status = op == HF_VM_LOAD   ? "inmigrate"
						 : op == HF_VM_STOP ? "running"
								    : "paused"};
}
