/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vmm_rig.c - VMM processes for tests.
 *
 * Theory of operation. Everything that could be left behind hangs on a process that ends: mounts on this
 * process's own mount namespace, VMMs on --die-with-parent, reserved huge pages on a keeper. The keeper is
 * forked first, in a session of its own; it holds the read end of a pipe whose only write end is here, and
 * when that closes it lowers the pool again by what was added.
 */
#include "vmm_rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hugemem/hugepool.h"

#define VMMS_MAX     8
#define PAUSE_MS     5
#define OPTIONS_MAX  40
#define STATE_SOCKET RIG_FOLDER "/state"

static struct rig_vmm *running[VMMS_MAX];
static int keeper_pipe = -1;
static pid_t keeper;

/* ---- pages and places ------------------------------------------------------------------------- */

static int reserve_with_keeper(uint64_t page_size_bytes, uint64_t pages)
{
	struct hf_err err = HF_ERR_INIT;
	uint64_t added = 0;
	int ends[2];

	if (hf_hugepages_reserve(page_size_bytes, pages, &added, &err)) {
		print_message("no huge pages: %s\n", err.text);
		return -1;
	}
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	keeper = fork();
	if (keeper == 0) {
		char ignored;
		setsid();
		signal(SIGTERM, SIG_IGN);
		close(ends[1]);
		while (read(ends[0], &ignored, 1) < 0 && errno == EINTR)
			continue;
		_exit(hf_hugepages_give_back(page_size_bytes, added, NULL) ? 1 : 0);
	}
	close(ends[0]);
	keeper_pipe = ends[1];
	return keeper < 0 ? -1 : 0;
}

int rig_setup(uint64_t page_size_bytes, uint64_t pages)
{
	uint64_t least_bytes = page_size_bytes * pages;
	char options[64];
	/* With a least size the pages belong to this mount, whatever other users of the pool do. */
	snprintf(options, sizeof(options), "pagesize=%llu,min_size=%llu", (unsigned long long)page_size_bytes,
		 (unsigned long long)least_bytes);

	if (!getenv("HUGEFERRY_VMM")) {
		print_message("HUGEFERRY_VMM must name the program; meson test sets it\n");
		return -1;
	}
	if (reserve_with_keeper(page_size_bytes, pages))
		return -1;
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("none", "/run", "tmpfs", 0, NULL) < 0 || mkdir(RIG_FOLDER, 0700) < 0 ||
	    mkdir(RIG_HUGE_FOLDER, 0700) < 0 || mount("none", RIG_HUGE_FOLDER, "hugetlbfs", 0, options) < 0) {
		print_message("no place for the VMs' files: %s\n", strerror(errno));
		return -1;
	}
	return 0;
}

int rig_end_all(void **state)
{
	(void)state;
	for (int i = 0; i < VMMS_MAX; i++)
		if (running[i])
			rig_vmm_kill(running[i]);
	return 0;
}

int rig_teardown(void)
{
	int status = 0;

	rig_end_all(NULL);
	umount2(RIG_HUGE_FOLDER, MNT_DETACH);
	close(keeper_pipe);
	if (waitpid(keeper, &status, 0) != keeper || status) {
		print_message("the huge pages were not given back\n");
		return -1;
	}
	return 0;
}

/* ---- waiting ---------------------------------------------------------------------------------- */

static uint64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void rig_wait_until(bool (*holds)(void *opaque), void *opaque, const char *what)
{
	uint64_t deadline_ms = now_ms() + RIG_LIMIT_MS;
	while (!holds(opaque)) {
		if (now_ms() > deadline_ms)
			fail_msg("waited too long for: %s", what);
		poll(NULL, 0, PAUSE_MS);
	}
}

/* ---- processes -------------------------------------------------------------------------------- */

static void on_event(void *opaque, const char *name, const json_t *data, uint64_t at_us)
{
	(void)at_us;
	struct rig_vmm *vmm = opaque;
	uint32_t count = __atomic_load_n(&vmm->events_count, __ATOMIC_ACQUIRE);
	const char *status = json_string_value(json_object_get(data, "status"));

	if (count == RIG_EVENTS_MAX)
		return;
	snprintf(vmm->events[count], sizeof(vmm->events[count]), "%.11s%s%.11s", name, status ? " " : "",
		 status ? status : "");
	__atomic_store_n(&vmm->events_count, count + 1, __ATOMIC_RELEASE);
}

static bool connects(void *opaque)
{
	struct rig_vmm *vmm = opaque;
	int status;

	if (waitpid(vmm->pid, &status, WNOHANG) == vmm->pid) {
		vmm->pid = -1;
		fail_msg("%s ended at its start (wait status 0x%x)", vmm->name, status);
	}
	return !hf_qmp_client_connect(&vmm->client, vmm->qmp_path, on_event, vmm, NULL);
}

static bool has_kvm(void)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

const char *rig_accel(void)
{
	const char *wanted = getenv("HUGEFERRY_ACCEL");
	return wanted ? wanted : has_kvm() ? "kvm" : "user";
}

static void exec_vmm(const struct rig_vmm *vmm, const char *const *options)
{
	char memory[32], qmp[128];
	const char *program = getenv("HUGEFERRY_VMM");
	const char *arguments[OPTIONS_MAX] = {
	    "hugeferry-vmm", "--mem",	 memory,   "--ram-file", vmm->ram_path,
	    "--qmp",	     qmp,	 "--name", vmm->name,	 "--die-with-parent",
	    "--accel",	     rig_accel()};
	size_t count = 12;

	snprintf(memory, sizeof(memory), "%llu", (unsigned long long)vmm->memory_bytes);
	snprintf(qmp, sizeof(qmp), "unix:%s", vmm->qmp_path);
	for (; *options && count < OPTIONS_MAX - 1; options++)
		arguments[count++] = *options;
	if (program)
		execv(program, (char *const *)arguments);
	_exit(127);
}

static void map_memory(struct rig_vmm *vmm)
{
	int fd = open(vmm->ram_path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	void *memory =
	    mmap(NULL, vmm->memory_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	close(fd);
	assert_ptr_not_equal(memory, MAP_FAILED);
	vmm->memory = memory;
}

struct rig_vmm *rig_vmm_start(const char *name, uint64_t memory_bytes, const char *const *options)
{
	struct rig_vmm *vmm = calloc(1, sizeof(*vmm));
	int place = 0;

	assert_non_null(vmm);
	while (place < VMMS_MAX && running[place])
		place++;
	assert_true(place < VMMS_MAX);
	vmm->memory_bytes = memory_bytes;
	snprintf(vmm->name, sizeof(vmm->name), "%s", name);
	snprintf(vmm->qmp_path, sizeof(vmm->qmp_path), RIG_FOLDER "/%s.qmp", name);
	snprintf(vmm->attach_path, sizeof(vmm->attach_path), RIG_FOLDER "/%s.attach", name);
	snprintf(vmm->ram_path, sizeof(vmm->ram_path), RIG_HUGE_FOLDER "/%s", name);
	vmm->pid = fork();
	assert_true(vmm->pid >= 0);
	if (vmm->pid == 0)
		exec_vmm(vmm, options);
	running[place] = vmm;
	rig_wait_until(connects, vmm, "the VMM's QMP socket");
	map_memory(vmm);
	return vmm;
}

int rig_vmm_wait(struct rig_vmm *vmm)
{
	int status = 0;
	assert_int_equal(waitpid(vmm->pid, &status, 0), vmm->pid);
	vmm->pid = -1;
	return status;
}

void rig_vmm_forget(struct rig_vmm *vmm)
{
	hf_qmp_client_destroy(vmm->client);
	if (vmm->memory)
		munmap(vmm->memory, vmm->memory_bytes);
	for (int i = 0; i < VMMS_MAX; i++)
		if (running[i] == vmm)
			running[i] = NULL;
	free(vmm);
}

void rig_vmm_kill(struct rig_vmm *vmm)
{
	if (vmm->pid > 0) {
		kill(vmm->pid, SIGKILL);
		waitpid(vmm->pid, NULL, 0);
	}
	unlink(vmm->ram_path);
	unlink(vmm->qmp_path);
	unlink(vmm->attach_path);
	rig_vmm_forget(vmm);
}

void rig_vmm_quit(struct rig_vmm *vmm)
{
	rig_do(vmm, "quit");
	assert_int_equal(rig_vmm_wait(vmm), 0);
	assert_int_equal(access(vmm->ram_path, F_OK), -1);
	assert_int_equal(access(vmm->qmp_path, F_OK), -1);
	assert_int_equal(access(vmm->attach_path, F_OK), -1);
	rig_vmm_forget(vmm);
}

/* ---- QMP -------------------------------------------------------------------------------------- */

json_t *rig_execute(struct rig_vmm *vmm, const char *command, json_t *arguments)
{
	struct hf_err err = HF_ERR_INIT;
	json_t *reply = NULL;
	if (hf_qmp_client_execute(vmm->client, command, arguments, RIG_LIMIT_MS, &reply, &err))
		fail_msg("%s: %s", command, err.text);
	return reply;
}

void rig_do(struct rig_vmm *vmm, const char *command)
{
	json_decref(rig_execute(vmm, command, NULL));
}

void rig_refuse(struct rig_vmm *vmm, const char *command, json_t *arguments, const char *why)
{
	struct hf_err err = HF_ERR_INIT;
	assert_int_equal(hf_qmp_client_execute(vmm->client, command, arguments, RIG_LIMIT_MS, NULL, &err),
			 -EREMOTEIO);
	if (!strstr(err.text, why))
		fail_msg("%s: '%s' does not say '%s'", command, err.text, why);
}

void rig_assert_status(struct rig_vmm *vmm, const char *status)
{
	json_t *reply = rig_execute(vmm, "query-status", NULL);
	assert_string_equal(json_string_value(json_object_get(reply, "status")), status);
	assert_int_equal(json_is_true(json_object_get(reply, "running")), !strcmp(status, "running"));
	json_decref(reply);
}

struct awaited {
	struct rig_vmm *vmm;
	const char *name;
	uint32_t vcpus;
	uint64_t steps[HF_GUEST_VCPUS_MAX];
};

static bool migration_is(void *opaque)
{
	struct awaited *awaited = opaque;
	json_t *reply = rig_execute(awaited->vmm, "query-migrate", NULL);
	const char *status = json_string_value(json_object_get(reply, "status"));
	bool holds = status && !strcmp(status, awaited->name);
	bool failed = status && !strcmp(status, "failed") && strcmp(awaited->name, "failed");
	if (failed)
		print_message("%s\n", json_string_value(json_object_get(reply, "error-desc")));
	json_decref(reply);
	assert_false(failed);
	return holds;
}

void rig_await_migration(struct rig_vmm *vmm, const char *status)
{
	struct awaited awaited = {.vmm = vmm, .name = status};
	rig_wait_until(migration_is, &awaited, status);
}

static bool event_came(void *opaque)
{
	struct awaited *awaited = opaque;
	uint32_t count = __atomic_load_n(&awaited->vmm->events_count, __ATOMIC_ACQUIRE);
	for (uint32_t i = 0; i < count; i++)
		if (!strcmp(awaited->vmm->events[i], awaited->name))
			return true;
	return false;
}

void rig_await_event(struct rig_vmm *vmm, const char *name)
{
	struct awaited awaited = {.vmm = vmm, .name = name};
	rig_wait_until(event_came, &awaited, name);
}

/* ---- the guest -------------------------------------------------------------------------------- */

const struct hf_guest_status *rig_status(const struct rig_vmm *vmm, uint32_t vcpu)
{
	const struct hf_guest_header *header =
	    (const struct hf_guest_header *)(vmm->memory + HF_GUEST_HEADER_OFFSET);
	assert_int_equal(header->magic, HF_GUEST_MAGIC);
	return (const struct hf_guest_status *)(vmm->memory + header->status_offset) + vcpu;
}

static uint64_t steps_of(const struct rig_vmm *vmm, uint32_t vcpu)
{
	return hf_guest_count(__atomic_load_n(&rig_status(vmm, vcpu)->step, __ATOMIC_RELAXED));
}

static bool steps_done(void *opaque)
{
	struct awaited *awaited = opaque;
	for (uint32_t i = 0; i < awaited->vcpus; i++)
		if (steps_of(awaited->vmm, i) < awaited->steps[i])
			return false;
	return true;
}

void rig_await_steps(struct rig_vmm *vmm, uint32_t vcpus, uint64_t steps)
{
	struct awaited awaited = {.vmm = vmm, .vcpus = vcpus};
	for (uint32_t i = 0; i < vcpus; i++)
		awaited.steps[i] = steps_of(vmm, i) + steps;
	rig_wait_until(steps_done, &awaited, "steps of the guest");
}

struct hf_guest_report rig_verify(const struct rig_vmm *vmm)
{
	struct hf_guest_report report;
	struct hf_err err = HF_ERR_INIT;
	if (hf_guest_verify(vmm->memory, vmm->memory_bytes, &report, &err))
		fail_msg("%s", err.text);
	return report;
}

void rig_assert_right(const struct rig_vmm *vmm)
{
	struct hf_guest_report report = rig_verify(vmm);
	if (report.bytes_wrong || report.guest_errors)
		fail_msg("%s: %llu bytes wrong, the first at 0x%llx; %llu errors seen by the guest",
			 vmm->name, (unsigned long long)report.bytes_wrong,
			 (unsigned long long)report.first_wrong_offset,
			 (unsigned long long)report.guest_errors);
}

uint64_t rig_guest_errors(const struct rig_vmm *vmm, uint32_t vcpus)
{
	uint64_t errors = 0;
	for (uint32_t i = 0; i < vcpus; i++)
		errors += hf_guest_count(__atomic_load_n(&rig_status(vmm, i)->errors, __ATOMIC_RELAXED));
	return errors;
}

/* ---- device state ----------------------------------------------------------------------------- */

static int state_socket(struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX, .sun_path = STATE_SOCKET};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	return fd;
}

static json_t *state_uri(void)
{
	return json_pack("{s:s}", "uri", "unix:" STATE_SOCKET);
}

struct rig_state rig_save(struct rig_vmm *vmm)
{
	struct rig_state state = {malloc(16 * RIG_MIB), 0};
	struct sockaddr_un address;
	ssize_t got;
	int listener = state_socket(&address);

	assert_non_null(state.data);
	assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(listener, 1), 0);
	json_decref(rig_execute(vmm, "migrate", state_uri()));
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	while ((got = recv(fd, (char *)state.data + state.length, 16 * RIG_MIB - state.length, 0)) > 0)
		state.length += (size_t)got;
	assert_int_equal(got, 0);
	close(fd);
	close(listener);
	unlink(STATE_SOCKET);
	rig_await_migration(vmm, "completed");
	return state;
}

void rig_offer(struct rig_vmm *vmm, const struct rig_state *state)
{
	struct sockaddr_un address;
	int fd = state_socket(&address);

	json_decref(rig_execute(vmm, "migrate-incoming", state_uri()));
	assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	/* A VMM that refuses early may close before all is sent. */
	for (size_t sent = 0; sent < state->length;) {
		ssize_t more = send(fd, (char *)state->data + sent, state->length - sent, MSG_NOSIGNAL);
		if (more < 0)
			break;
		sent += (size_t)more;
	}
	close(fd);
}

void rig_load(struct rig_vmm *vmm, const struct rig_state *state)
{
	rig_offer(vmm, state);
	rig_await_migration(vmm, "completed");
}

void rig_copy_memory(struct rig_vmm *to, const struct rig_vmm *from)
{
	static const uint8_t zeros[4096];
	assert_int_equal(to->memory_bytes, from->memory_bytes);
	for (uint64_t offset = 0; offset < from->memory_bytes; offset += sizeof(zeros))
		if (memcmp(from->memory + offset, zeros, sizeof(zeros)))
			memcpy(to->memory + offset, from->memory + offset, sizeof(zeros));
}
